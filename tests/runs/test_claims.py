"""Claims: one holder at a time, free again when it dies, and two commands on one folder that share their work."""

import json
import os
import re
import subprocess
import sys
import time

import pytest
from support.refusal import refused

from milbench.errors import MilbenchError
from milbench.runs import claims
from milbench.runs.claims import Claims
from milbench.runs.execute import execute, run
from milbench.runs.plan import make_plan
from milbench.runs.records import read_costs, read_runs

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="locks of files")

HOLDER = """
import sys, time
from pathlib import Path
from milbench.runs.claims import Claims
claims = Claims(Path({root!r}), Path({root!r}) / "claims")
print(claims.take("a"), flush=True)
time.sleep(60)
"""


def holder(root):
    """Return a process that has taken claim ``a``."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER.format(root=str(root))], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "True\n"
    return process


def mine(root):
    return Claims(root, root / "claims")


def test_a_claim_has_one_holder_and_goes_with_it(tmp_path):
    with mine(tmp_path) as first, mine(tmp_path) as second:
        assert first.take("a")
        assert first.take("a")
        assert second.take("b")
        assert not second.take("a")
        first.release("a")
        assert second.take("a")
        assert not first.take("a")
    assert not (tmp_path / "claims").exists()


def test_the_claim_of_a_killed_process_is_free_at_once(tmp_path):
    process = holder(tmp_path)
    with mine(tmp_path) as own:
        assert not own.take("a")
        process.kill()
        process.wait()
        assert own.take("a")


def test_what_killed_processes_left_is_removed_and_what_living_ones_hold_is_not(tmp_path):
    dead = holder(tmp_path)
    dead.kill()
    dead.wait()
    with mine(tmp_path) as living:
        living.take("b")
        with mine(tmp_path):
            pass
        assert [file.name for file in (tmp_path / "claims").iterdir()] == ["b.claim"]


@pytest.mark.parametrize("beats", [True, False])
def test_another_machine_counts_while_it_gives_signs_of_life(tmp_path, monkeypatch, beats):
    """Its lock cannot be seen here: only that its file is touched."""
    (tmp_path / "claims").mkdir()
    file = tmp_path / "claims" / "a.claim"
    file.write_text(json.dumps({"host": "elsewhere", "kernel": "another", "pid": 1, "since": 0}))
    with mine(tmp_path) as own:
        assert not own.take("a")
        if beats:
            os.utime(file, (1, 1))
        with monkeypatch.context() as patch:
            patch.setattr(claims, "STALE_S", 0)  # any time without a sign is long enough
            assert own.take("a") is not beats
    assert file.exists() is beats


@pytest.mark.parametrize("beats", [True, False])
def test_without_locks_the_id_of_a_process_alone_holds_nothing(tmp_path, monkeypatch, beats):
    """The holder was killed, and another process of this machine has its id now."""
    monkeypatch.setattr(claims, "_lock", lambda file: None)
    (tmp_path / "claims").mkdir()
    file = tmp_path / "claims" / "a.claim"
    file.write_text(json.dumps({"host": "here", "kernel": claims._kernel(), "pid": os.getppid(), "since": 0}))
    with mine(tmp_path) as own:
        assert not own.take("a")
        if beats:
            os.utime(file, (1, 1))
        with monkeypatch.context() as patch:
            patch.setattr(claims, "STALE_S", 0)
            assert own.take("a") is not beats


def test_a_claim_that_another_machine_has_taken_over_is_not_removed(tmp_path):
    with mine(tmp_path) as own:
        own.take("a")
        file = tmp_path / "claims" / "a.claim"
        file.write_text(json.dumps({"host": "elsewhere", "kernel": "another", "pid": 1, "since": 0}))
        own.release("a")
        assert file.exists()


MANY = """
import resource
from pathlib import Path
from milbench.runs.claims import Claims
resource.setrlimit(resource.RLIMIT_NOFILE, (64, {hard}))
with Claims(Path({root!r}), Path({root!r}) / "claims") as claims:
    print(sum(claims.take(str(i)) for i in range(300)))
    with open("/dev/null"):
        claims.release("0")
        print(claims.take("300"))
"""


@pytest.mark.parametrize("hard", [64, 1024])
def test_claims_leave_room_for_other_files(tmp_path, hard):
    code = MANY.format(root=str(tmp_path), hard=hard)
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    taken, further = ended.stdout.split()
    assert (int(taken) == 300) is (hard > 600)
    assert int(taken) > 8
    assert further == "True"


def test_a_holder_gives_signs_of_life(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "BEAT_S", 0.01)
    with mine(tmp_path) as own:
        own.take("a")
        file = tmp_path / "claims" / "a.claim"
        os.utime(file, (0, 0))
        end = time.monotonic() + 60
        while file.stat().st_mtime == 0 and time.monotonic() < end:
            time.sleep(0.01)
        assert file.stat().st_mtime > 0


@pytest.mark.parametrize("content", ["", "{", "[]", '{"kernel": 1}', '{"kernel": "x", "pid": []}', "\0" * 9000])
def test_a_damaged_claim_is_free(tmp_path, content):
    (tmp_path / "claims").mkdir()
    (tmp_path / "claims" / "a.claim").write_text(content)
    with mine(tmp_path) as own:
        assert own.take("a")


def test_links_and_names_do_not_lead_out_of_the_folder(tmp_path):
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "mine").write_text("mine")
    root = tmp_path / "root"
    (root / "claims").mkdir(parents=True)
    (root / "claims" / "a.claim").symlink_to(tmp_path / "else" / "mine")
    with mine(root) as own:
        for key in ("a", "../else/mine", ""):
            with pytest.raises(MilbenchError):
                own.take(key)
    (root / "claims" / "a.claim").unlink(missing_ok=True)
    if (root / "claims").exists():
        (root / "claims").rmdir()
    (root / "claims").symlink_to(tmp_path / "else")
    with mine(root) as own, refused("path-outside", root / "claims"):
        own.take("a")
    assert (tmp_path / "else" / "mine").read_text() == "mine"
    assert [file.name for file in (tmp_path / "else").iterdir()] == ["mine"]


SUITE = """
methods = ["mean", "max"]
seeds = 2
device = "cpu"
[recipe]
epochs = 3
batch_size = 4
[tuning]
startup_trials = 1
pruner = "median"
[budget]
trials = 3
steps = 12
[[data]]
name = "digits"
dataset = "digits-bags"
params = { train = 24, val = 8, test = 12 }
"""


def trials(plan):
    import optuna

    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(plan.storage))
    return {
        s.name: [
            (t.number, t.params, t.value, t.state, t.intermediate_values, t.user_attrs["outcome"])
            for t in optuna.load_study(study_name=s.name, storage=storage).trials
        ]
        for s in plan.searches
    }


RUN_AND_TABLE = """
import sys
from milbench.cli import main
from milbench.runs.execute import run

run(*sys.argv[1:], jobs=1, on_progress=lambda step: print("step", step.what, step.outcome, step.reason, flush=True))
sys.argv = ["milbench", "leaderboard", sys.argv[2]]
main()
"""


def test_two_commands_share_a_suite_and_end_with_the_same_table(tmp_path):
    """Runs, trials and costs are made once, as one process makes them, and both print the one table."""
    pytest.importorskip("optuna")
    toml, shared = tmp_path / "s.toml", tmp_path / "shared"
    toml.write_text(SUITE)
    line = [sys.executable, "-c", RUN_AND_TABLE, str(toml), str(shared)]
    both = [subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=tmp_path)
            for _ in range(2)]  # fmt: skip
    alone = {r.spec.run_id: r for r in run(toml, tmp_path / "alone")}
    said = [process.communicate(timeout=600)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    tables = [[row for row in text.splitlines() if not row.startswith("step ")][-12:] for text in said]
    assert tables[0] == tables[1]
    steps = re.findall(r"^step (.*)$", "\n".join(said), re.M)
    done = [step for step in steps if "another process" not in step]
    assert len(done) == len(set(done)) == 2 * 3 + 2 * 2 * 2 + 2 * 3  # trials; runs, untuned and tuned; turns of costs
    together = {r.spec.run_id: r for r in read_runs(shared)}
    assert together.keys() == alone.keys()
    assert {r.outcome for r in together.values()} == {"ok"}
    assert all(together[key].predictions().equals(alone[key].predictions()) for key in alone)
    assert [(len(cost.record["turns"]), cost.outcome) for cost in read_costs(shared)] == [(3, "ok")] * 2
    assert trials(make_plan(toml, shared)) == trials(make_plan(toml, tmp_path / "alone"))
    assert not list(shared.rglob(".*"))
    assert not list(shared.rglob("*.claim*"))


def test_runs_that_were_published_since_the_plan_are_not_made_again(tmp_path):
    from support.small import suite, write_cohort

    write_cohort(tmp_path)
    small = suite(tmp_path, ("mean", "max"))
    plan = make_plan(small, tmp_path / "runs")
    execute(make_plan(small, tmp_path / "runs"))
    before = {file: file.read_bytes() for file in (tmp_path / "runs").rglob("predictions.parquet")}
    stamps = {file: file.stat().st_mtime_ns for file in before}
    steps = []
    execute(plan, on_progress=steps.append)
    assert {step.reason for step in steps if "cost" not in step.what} == {"made by another process"}
    assert {file: file.stat().st_mtime_ns for file in before} == stamps


@pytest.mark.parametrize("overwrite", ["all", "missing-models"])
def test_runs_that_are_removed_while_others_are_made_are_made(tmp_path, overwrite):
    from support.small import suite, write_cohort

    write_cohort(tmp_path)
    run(suite(tmp_path, ("mean", "max")), tmp_path / "runs")
    plan = make_plan(suite(tmp_path, ("mean", "max"), keep_models="best"), tmp_path / "runs")

    def remove_the_other(step):
        for planned in plan.runs:
            if str(planned) != step.what and step.done == 1:
                plan.store.remove(plan.store.runs / planned.stored)

    records = execute(plan, jobs=1, overwrite=overwrite, on_progress=remove_the_other)
    assert [record.outcome for record in records] == ["ok", "ok"]


def test_a_run_whose_claimant_dies_is_taken_over(tmp_path):
    """While another process holds a run it is waited for; once that process is killed the run is made here."""
    from support.small import suite, write_cohort

    write_cohort(tmp_path)
    plan = make_plan(suite(tmp_path, ("mean", "max")), tmp_path / "runs")
    held = plan.runs[0].spec.run_id
    plan.store.prepare()
    text = HOLDER.format(root=str(plan.store.folder)).replace('"claims"', '".claims"').replace('"a"', repr(held))
    process = subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "True\n"
    ended = []

    def on_progress(step):
        ended.append(step.what)
        process.kill()  # after the other run

    records = execute(plan, jobs=1, on_progress=on_progress)
    process.wait()
    assert ended == [str(plan.runs[1]), str(plan.runs[0])]
    assert [r.outcome for r in records] == ["ok", "ok"]


@pytest.mark.parametrize("overwrite", ["missing", "failed", "all"])
def test_what_another_process_publishes_meanwhile_is_not_made_again(tmp_path, overwrite):
    from support.small import suite, write_cohort

    write_cohort(tmp_path)
    given = suite(tmp_path, ("mean", "max"))
    if overwrite == "all":
        execute(make_plan(given, tmp_path / "runs"))
    plan, other = make_plan(given, tmp_path / "runs"), make_plan(given, tmp_path / "runs")
    made = []

    def on_progress(step):
        if not made:  # after the first of this process's runs, all of them by another
            made.extend(execute(other, jobs=1, overwrite=overwrite))
        ended.append(step)

    ended = []
    execute(plan, jobs=1, overwrite=overwrite, on_progress=on_progress)
    files = {r.path.name: r.record["finished"] for r in read_runs(tmp_path / "runs")}
    assert files == {r.path.name: r.record["finished"] for r in made}
    assert ["another process" in step.reason for step in ended] == [False, True]
