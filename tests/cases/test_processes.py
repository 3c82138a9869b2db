"""Processes that others end, machines that refuse, and suite files that would take all memory to read."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.refusal import assert_refused, refused
from support.small import suite, write_cohort

from milbench.config import Budget, Tuning
from milbench.config.suites import load_suite
from milbench.runs.execute import execute, tune
from milbench.runs.launchers import local
from milbench.runs.plan import make_plan

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="fork server and signals")


@pytest.fixture
def folder(tmp_path):
    write_cohort(tmp_path)
    return tmp_path


@pytest.fixture
def kill(monkeypatch):
    """Return a list: the numbers of process starts, from 0, that are followed by a SIGKILL of that process."""
    monkeypatch.setattr(local, "GRACE_S", 0.05)
    real, numbers, started = local._start, [], iter(range(10**6))

    def start(*args):
        one = real(*args)
        if next(started) in numbers:
            os.kill(one.process.pid, signal.SIGKILL)
        return one

    monkeypatch.setattr(local, "_start", start)
    return numbers


def test_worker_killed(folder, kill, tmp_path):
    """The run is repeated to the same bits and says so; three kills of one run are final, with the signal's name."""
    due = {r.spec.method: r for r in execute(make_plan(suite(folder, ("mean", "max")), tmp_path / "quiet"), jobs=1)}
    kill += [2, 3, 5, 6, 7]
    killed = {r.spec.method: r for r in execute(make_plan(suite(folder, ("mean", "max")), tmp_path / "killed"), jobs=1)}
    assert sorted(r.outcome for r in killed.values()) == ["failed", "ok"]
    for method, record in killed.items():
        if record.outcome == "ok":
            assert record.record["killed_attempts"] == ["SIGKILL", "SIGKILL"]
            assert "killed_attempts" not in due[method].record
            assert record.predictions().equals(due[method].predictions())
            assert record.spec.run_id == due[method].spec.run_id
        else:
            assert "SIGKILL in each of 3 attempts" in record.reason


def trials(plan):
    import optuna

    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(plan.storage))
    return {
        s.name: [
            (t.number, t.params, t.value, t.state, t.intermediate_values, t.user_attrs["outcome"],
             t.user_attrs["used"]["steps"])
            for t in optuna.load_study(study_name=s.name, storage=storage).trials
        ]
        for s in plan.searches
    }  # fmt: skip


@pytest.mark.parametrize("jobs", [1, 2])
def test_trial_killed(folder, kill, jobs):
    """A killed trial is repeated with its draw, and every later draw is that of an undisturbed study."""
    pytest.importorskip("optuna")
    given = suite(folder, ("mean", "abmil"), budget=Budget(trials=5, steps=6),
                  tuning=Tuning(startup_trials=2, pruner="median"))  # fmt: skip
    quiet, disturbed = make_plan(given, folder / "quiet"), make_plan(given, folder / "disturbed")
    tune(quiet, jobs=jobs)
    kill += [10, 13, 14, 17]
    tune(disturbed, jobs=jobs)
    assert trials(disturbed) == trials(quiet)


def test_trial_killed_after_it_reported(folder):
    """The repeated attempt is pruned at the same evaluation: what the first one reported does not end it earlier."""
    optuna = pytest.importorskip("optuna")
    from milbench.runs.tuning.search import distribution
    from milbench.runs.tuning.trial import Pruned, TrialTask, reporter

    given = suite(folder, ("mean",), budget=Budget(trials=3, steps=8),
                  tuning=Tuning(startup_trials=1, pruner="median"))  # fmt: skip
    plan = make_plan(given, folder / "runs")
    (search,) = plan.searches
    (folder / "runs").mkdir()
    where = str(folder / "runs" / "journal.log")
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(where))
    study = optuna.create_study(study_name=search.name, storage=storage, direction="minimize")
    fixed = {name: distribution(dimension) for name, dimension in search.space.items()}
    first = study.ask(fixed_distributions=fixed)
    for step, value in enumerate((1.0, 1.0, 0.5, 0.5), start=1):
        first.report(value, step)
    study.tell(first, 0.5)
    monitor, evaluations = search.task.spec.protocol.monitor, search.task.spec.protocol.evaluations

    def attempt(requested):
        report = reporter(TrialTask(search.task, search.tuning, where, search.name, requested._trial_id))
        for step in range(1, 5):
            try:
                report((step + 0.5) / evaluations, {monitor: 0.9, "epoch": step})
            except Pruned:
                return step
        return None

    undisturbed = study.ask(fixed_distributions=fixed)
    due = attempt(undisturbed)
    assert due == 3
    killed = study.ask(fixed_distributions=fixed)
    for step in range(1, 4):  # and killed before the pruner was consulted
        killed.report(0.9, step)
    assert attempt(killed) == due
    assert study.trials[1].intermediate_values == study.trials[2].intermediate_values


# --- what the system refuses, and TOML that takes a parser everything ------------------------------------------------


HOSTILE = {
    "deep brackets": "methods = " + "[" * 5000 + "]" * 5000,
    "deep tables": "[" + ".".join(["a"] * 4000) + "]\nx = 1",
    "many digits": "seeds = " + "9" * 6000,
    "dotted key": ".".join(["a"] * 50_000) + " = 1",
    "inline tables": "a = " + "{b=" * 3000 + "1" + "}" * 3000,
    "not closed": 'name = "x',
    "not UTF-8": b"name = '\xff\xfe'",
    "too large": "#" * (1 << 19),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_suite_is_refused_in_one_sentence(kind, tmp_path):
    file = tmp_path / "s.toml"
    content = HOSTILE[kind]
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    code = "config-invalid" if kind in ("not closed", "not UTF-8") else "file-too-large"
    with refused(code, "s.toml") as caught:
        load_suite(file)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def shell(line, folder, **more):
    """Run a line of shell in a folder, as a user would; return the exit code and everything that was said."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1", **more}
    home = str(Path(sys.executable).parent)
    done = subprocess.run(["bash", "-c", line], cwd=folder, capture_output=True, text=True, timeout=600,
                          env=environment | {"PATH": f"{home}:{environment['PATH']}"})  # fmt: skip
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("ulimit -n 14; milbench list suites", (0, 1)),
        ("ulimit -v 400000; milbench show mean", (0, 1)),
        ("HOME= milbench list suites", (0,)),
        ("TMPDIR=/nowhere milbench list suites", (0,)),
        ("milbench list suites | head -1", (0, 141)),
        ("milbench list suites >&-", (0, 1)),
        ("LC_ALL=C PYTHONUTF8=0 PYTHONCOERCECLOCALE=0 milbench audit Größe.toml", (1,)),
    ],
)
def test_what_the_system_refuses_is_no_traceback(line, code, tmp_path):
    exit_code, said = shell(line, tmp_path)
    assert "Traceback" not in said
    assert exit_code in code, said


#: Interrupts a program the moment it imports a module for the first time, from within the interpreter.
_INTERRUPTING = """
import os, sys, _signal as signal  # the module itself must still be to import
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job of a shell has it ignored
def interrupt(event, arguments, sent=[]):
    if event == "import" and arguments[0] == os.environ["INTERRUPT_AT"] and not sent:
        sent.append(True)
        os.kill(os.getpid(), signal.SIGINT)
sys.addaudithook(interrupt)
"""


@pytest.mark.parametrize(
    "module", ["signal", "threading", "typer", "milbench.cli._terminal", "milbench.config.suites", "milbench.registry",
               "numpy", "pandas"],
)  # fmt: skip
def test_ctrl_c_at_any_import_is_no_traceback(module, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(_INTERRUPTING)
    done = subprocess.run([Path(sys.executable).parent / "milbench", "run", "quickstart", "--dry-run"], cwd=tmp_path,
                          env=os.environ | {"PYTHONPATH": str(tmp_path), "INTERRUPT_AT": module}, timeout=600,
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 130, done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("delay", [0.0, 0.02, 0.05, 0.1, 0.2, 0.6, 1.5])
def test_ctrl_c_at_the_very_start_is_no_traceback(delay, tmp_path):
    """At random points of time; before milbench has begun, the interpreter answers, with an exit code of its own."""
    milbench = Path(sys.executable).parent / "milbench"
    # A background job of a shell without job control ignores the signal, and its children do.
    started = subprocess.Popen([milbench, "run", "quickstart", "--dry-run"], cwd=tmp_path, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, text=True,
                               preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))  # fmt: skip
    time.sleep(delay)
    started.send_signal(signal.SIGINT)
    said, _ = started.communicate(timeout=600)
    if started.returncode in (-signal.SIGINT, 1):
        assert "milbench: " not in said  # milbench had not begun to answer
    else:
        assert started.returncode in (0, 130), said
        assert "Traceback" not in said


@pytest.mark.parametrize("line", ["milbench list suites", "milbench --help", "milbench show transmil", "milbench env"])
def test_a_reader_that_has_gone_ends_a_command_quietly(line, tmp_path):
    """Whatever library notices it: 141, as shells say of a program that the broken pipe has ended."""
    exit_code, said = shell(f"{{ sleep 0.2; {line}; echo code $? >&2; }} | true", tmp_path)
    assert (exit_code, said) == (0, "code 141\n")


@pytest.mark.parametrize("files", [8, 14, 20])
def test_few_descriptors_are_one_sentence(files, tmp_path):
    """The fork server would end with a traceback of its own."""
    exit_code, said = shell(f"ulimit -n {files}; milbench run quickstart -m mean --results r --report none", tmp_path)
    assert exit_code == 1
    assert "ulimit -n" in said
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize("limit", [600_000, 1_000_000, 2_500_000])
def test_little_memory_is_one_sentence_that_blames_no_file(limit, tmp_path):
    """Libraries fail in many ways for want of memory; a file that could not be read for it is not damaged."""
    exit_code, said = shell(f"ulimit -v {limit}; milbench run quickstart -m mean --results r --report none", tmp_path)
    if exit_code == 0:
        pytest.skip("enough memory here")
    assert exit_code == 1
    assert "ulimit -v" in said
    assert "damaged" not in said
    assert "Traceback" not in said


def test_few_processes_are_a_sentence_and_no_interruption(tmp_path, monkeypatch, capsys):
    """A numerical library that gets no thread sends the process SIGINT, which would read as Ctrl-C."""
    resource = pytest.importorskip("resource")
    from milbench import cli

    def no_thread(_):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(resource, "getrlimit", lambda _: (6, 6))
    monkeypatch.setattr(cli.threading.Thread, "start", no_thread)
    monkeypatch.setattr(sys, "argv", ["milbench", "list", "suites"])
    monkeypatch.setattr(cli, "_short_of_memory", lambda: False)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    assert_refused(capsys.readouterr().err, "system-limit")


def test_a_full_disk_is_reported_with_the_file_that_was_written(tmp_path, monkeypatch):
    from milbench.atomic_io import publishing as atomic_io

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(atomic_io.os, "fsync", full)
    for write in (lambda file: atomic_io.write_atomic(file, "x"),
                  lambda file: atomic_io.write_together(file.parent, {file.name: b"x"})):  # fmt: skip
        with pytest.raises(OSError, match="space left") as caught:
            write(tmp_path / "table.csv")
        assert caught.value.filename == str(tmp_path / "table.csv")
    assert not list(tmp_path.iterdir())
