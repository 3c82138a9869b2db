"""The store publishes whole runs or none, whatever happens in between."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
from support import synthetic as made
from support.refusal import refused

import milbench.runs.records
import milbench.runs.store
from milbench.atomic_io.unfinished import HOST
from milbench.runs.live import Session, sessions
from milbench.runs.records import SCHEMA, read_costs, read_runs, read_suite
from milbench.runs.store import Store

PREDICTIONS = pd.DataFrame({"slide_id": ["a", "b"], "split": ["val", "test"], "p0": [0.1, 1 / 3], "p1": [0.9, 2 / 3]})
HISTORY = pd.DataFrame({"epoch": [1, 2], "val_loss": [0.5, 0.4]})


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "runs", made.suite())
    store.prepare()
    return store


def publish(store, seed=0, method="abmil", **more):
    spec = made.run_spec(store.suite, "easy", method, "f0", seed)
    overwrite = more.pop("overwrite", False)
    store.publish_run(spec.run_id, made.record(spec, method, **more), PREDICTIONS, HISTORY, overwrite=overwrite)
    return spec.run_id


def test_what_is_published_is_read_back(store):
    run_id = publish(store, train={"seconds": np.float32(1.5), "steps": np.int64(3)}, loss=float("nan"))
    assert store.has(run_id) == "ok"
    (run,) = read_runs(store.root)
    assert run.spec == made.run_spec(store.suite, "easy", "abmil", "f0", 0)
    assert run.spec.run_id == run_id == run.path.name
    assert (run.outcome, run.reason, run.method) == ("ok", "", "abmil")
    pd.testing.assert_frame_equal(run.predictions(), PREDICTIONS, check_dtype=False)
    assert run.predictions()["p0"].dtype == "float64"
    pd.testing.assert_frame_equal(run.history(), HISTORY)
    assert run.record["train"] == {"seconds": 1.5, "steps": 3}
    assert run.record["loss"] is None  # JSON has no word for it
    assert run.record["schema"] == SCHEMA
    assert store.records() == [run] == read_runs(store.folder)


def test_the_suite_is_read_back(store):
    assert read_suite(store.folder) == store.suite
    assert store.folder.name == "made-up-v1"
    stored = json.loads((store.folder / "suite.json").read_text())
    assert {k: v for k, v in stored.items() if k != "checksum"} == store.suite.model_dump(mode="json")


def test_a_failure_is_a_run(store):
    spec = made.run_spec(store.suite, "easy", "transmil", "f0", 0)
    store.publish_run(spec.run_id, made.record(spec, "transmil", "oom"))
    (run,) = read_runs(store.root)
    assert (run.outcome, run.reason) == ("oom", "made up to be oom")
    assert run.history() is None
    with refused("file-missing", run.path / "predictions.parquet"):
        run.predictions()


def test_costs(store):
    store.publish_cost("c1", made.cost_record(store.suite, "easy", "abmil"))
    assert store.cost("c1")["outcome"] == "ok"
    assert store.cost("c2") is None
    (cost,) = read_costs(store.root)
    assert (cost.data, cost.method, cost.outcome, cost.environment) == ("easy", "abmil", "ok", "e0")


def test_the_first_stays_unless_overwrite_is_set(store):
    run_id = publish(store, note="first")
    publish(store, note="second")
    assert read_runs(store.root)[0].record["note"] == "first"
    publish(store, note="third", overwrite=True)
    assert read_runs(store.root)[0].record["note"] == "third"
    assert [p.name for p in store.runs.iterdir()] == [run_id]


def test_runs_and_costs_that_are_removed_while_others_are_read_are_passed_over(store, monkeypatch):
    kept, gone = sorted([publish(store, seed=0), publish(store, seed=1)])
    cost = {"data": "easy", "fingerprint": "f", "method_canonical": "mean", "outcome": "ok"}
    store.publish_cost("a", cost)
    store.publish_cost("b", cost)
    for reader, parent, name, read in (
        ("read_run", store.runs, gone, read_runs), ("read_cost", store.costs, "b", read_costs),
    ):  # fmt: skip
        own = getattr(milbench.runs.records, reader)

        def and_remove(folder, own=own, path=parent / name):
            if path.exists():
                store.remove(path)
            return own(folder)

        monkeypatch.setattr(f"milbench.runs.records.{reader}", and_remove)
        assert [record.path.name for record in read(store.root)] == [{"b": "a"}.get(name, kept)]
    store.remove(store.runs / gone)  # as two commands at a time do


@pytest.mark.parametrize("replaced", [True, False])
@pytest.mark.parametrize("when", ["load_record", "_write"])
def test_a_mark_is_not_put_on_a_run_that_takes_the_place_of_the_marked_one(store, monkeypatch, when, replaced):
    run_id = publish(store, note="first")
    own = getattr(milbench.runs.store, when)

    def meanwhile(*args):
        monkeypatch.setattr(f"milbench.runs.store.{when}", own)
        result = own(*args)
        if replaced:
            spec = made.run_spec(store.suite, "easy", "abmil", "f0", 0)
            record = made.record(spec, "abmil", note="second")
            store.publish_run(run_id, record, PREDICTIONS.assign(p0=0.2, p1=0.8), HISTORY, overwrite=True)
        else:
            store.remove(store.runs / run_id)
        return result

    monkeypatch.setattr(f"milbench.runs.store.{when}", meanwhile)
    store.mark(run_id, "2030-01-01T00:00:00+00:00")
    runs = store.records()
    assert [run.record["note"] for run in runs] == ["second"] * replaced
    assert all(run.damage() is None for run in runs)
    assert [path.name for path in store.runs.iterdir()] == [run_id] * replaced


def test_a_folder_without_its_record_is_replaced(store):
    spec = made.run_spec(store.suite, "easy", "abmil", "f0", 0)
    (store.runs / spec.run_id).mkdir()
    (store.runs / spec.run_id / "history.csv").write_text("half")
    assert store.has(spec.run_id) is None
    publish(store)
    assert store.has(spec.run_id) == "ok"


def child(store, body):
    """Start `body` in a process of its own, with `store`, `publish` and `kill` at hand."""
    code = f"""
import importlib.util, os, signal, sys
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
spec = importlib.util.spec_from_file_location("test_store", {str(Path(__file__))!r})
t = importlib.util.module_from_spec(spec)
spec.loader.exec_module(t)
store, publish = t.Store(Path({str(store.root)!r}), t.made.suite()), t.publish
def kill():
    os.kill(os.getpid(), signal.SIGKILL)
{body}
"""
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)


def test_killed_before_the_rename_nothing_is_there(store):
    body = "Path.rename = lambda self, to: kill()\npublish(store)"
    assert child(store, body).wait() == -signal.SIGKILL
    assert read_runs(store.root) == []
    (left,) = store.runs.iterdir()
    assert left.name.startswith(".tmp-")
    store.prepare()
    assert list(store.runs.iterdir()) == []
    publish(store)  # the same command again continues
    assert len(read_runs(store.root)) == 1


def test_killed_between_the_renames_of_overwrite_the_old_run_comes_back(store):
    run_id = publish(store, note="old")
    body = """
real = Path.rename
Path.rename = lambda self, to: real(self, to) if to.name.startswith(".old-") else kill()
publish(store, note="new", overwrite=True)
"""
    assert child(store, body).wait() == -signal.SIGKILL
    assert store.has(run_id) is None
    store.prepare()
    assert read_runs(store.root)[0].record["note"] == "old"
    assert [p.name for p in store.runs.iterdir()] == [run_id]


def test_killed_at_any_time_every_run_is_whole(store):
    body = "for seed in range(10**6): publish(store, seed % 50, overwrite=True), print(flush=True)"
    with child(store, body) as process:
        for _ in range(60):  # some are there for the second time
            process.stdout.readline()
        time.sleep(random.uniform(0, 0.1))
        process.kill()
    store.prepare()
    actual = read_runs(store.root)
    assert actual
    for run in actual:
        assert len(run.predictions()) == len(run.history()) == 2
    assert not [p for p in store.runs.iterdir() if p.name.startswith(".")]


def test_only_what_the_dead_left_is_cleared(store):
    run_id = publish(store)
    own = store.runs / f".tmp-{os.getpid()}-{HOST}-0-aaaa"
    other_host = store.runs / ".tmp-1-somewhere_else-0-bbbb"
    dead = store.runs / f".tmp-4194305-{HOST}-0-cccc"  # beyond the largest process id
    strange = store.runs / ".hidden"
    # A process id that came round again: the folder is older than the process that has it now.
    reused = store.runs / f".tmp-{os.getpid()}-{HOST}-1-dddd"
    stale_old = store.runs / f".old-4194305-{HOST}-0-{run_id}"
    for folder in (own, other_host, dead, strange, reused, stale_old):
        folder.mkdir()
    os.utime(reused, (1, 1))
    store.clean()
    assert {p.name for p in store.runs.iterdir()} == {own.name, other_host.name, strange.name, run_id}


@pytest.mark.parametrize("skew_s", [0, 60])
def test_what_the_living_write_stays_where_the_file_server_has_another_clock(store, monkeypatch, skew_s):
    """A server behind by a minute: this machine's clock and processes are a minute ahead of the times of files."""
    own_clock, own_start = time.time, psutil.Process.create_time
    monkeypatch.setattr(time, "time", lambda: own_clock() + skew_s)
    monkeypatch.setattr(psutil.Process, "create_time", lambda process: own_start(process) + skew_s)
    half = store.runs / f".tmp-{os.getpid()}-{HOST}-7-abc"
    half.mkdir()
    with Session(store.folder) as session:
        Store(store.root, store.suite).prepare()
        assert half.exists()
        with Session(store.folder):
            pass  # another command, which clears away what the dead left
        session.folder.mkdir(parents=True, exist_ok=True)
        assert [state.pid for state in sessions(store.folder)] == [os.getpid()]
    later = own_clock() + 3600  # a process that is younger than the folder
    monkeypatch.setattr(psutil.Process, "create_time", lambda process: later + skew_s)
    Store(store.root, store.suite).prepare()
    assert not half.exists()


def test_a_failing_write_leaves_the_old_run_and_says_so(store, monkeypatch):
    run_id = publish(store, note="old")

    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pd.DataFrame, "to_parquet", full)
    with refused("not-writable", store.runs / run_id, "No space left on device"):
        publish(store, note="new", overwrite=True)
    assert read_runs(store.root)[0].record["note"] == "old"
    assert [p.name for p in store.runs.iterdir()] == [run_id]


def test_newer_schema_and_damage_are_named(store):
    run_id = publish(store)
    file = store.runs / run_id / "run.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps(content | {"schema": SCHEMA + 1}))
    with refused("schema-unknown", file, SCHEMA + 1):
        read_runs(store.root)
    with refused("schema-unknown", file, SCHEMA + 1):
        store.has(run_id)
    file.write_text(json.dumps(content)[:50])
    with refused("file-unreadable", file):
        read_runs(store.root)
    content = {k: v for k, v in content.items() if k not in ("files", "checksum")}  # a record of before
    file.write_text(json.dumps({k: v for k, v in content.items() if k != "spec"}))
    with refused("store-damaged", file, "'spec'"):
        read_runs(store.root)
    file.write_text(json.dumps(content | {"spec": content["spec"] | {"seed": "x"}}))
    with refused("store-damaged", file, "seed"):
        read_runs(store.root)
    file.write_text("[]")
    with refused("store-damaged", file, "schema"):
        read_runs(store.root)


def test_unusable_roots(tmp_path):
    file = tmp_path / "file"
    file.write_text("")
    with refused("path-wrong-kind", file, "--results"):
        Store(file, made.suite()).prepare()
    with refused("results-missing", tmp_path / "nothing", "milbench run quickstart"):
        read_runs(tmp_path / "nothing")
    with refused("name-bad", "'../up'"):
        Store(tmp_path, made.suite(name="../up"))
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    if os.access(closed, os.W_OK):
        pytest.skip("this user may write anywhere")
    with refused("not-writable", closed):
        Store(closed, made.suite()).prepare()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p.rename(columns={"p1": "p2"}), "p0, p1"),
        (lambda p: p.assign(split="train"), "val or test"),
        (lambda p: p.assign(slide_id="a", split="test"), "twice"),
    ],
)
def test_malformed_predictions_are_refused(store, change, message):
    spec = made.run_spec(store.suite, "easy", "abmil", "f0", 0)
    with pytest.raises(ValueError, match=message):
        store.publish_run(spec.run_id, made.record(spec, "abmil"), change(PREDICTIONS))
    assert list(store.runs.iterdir()) == []


def test_outcome_and_predictions_must_agree(store):
    spec = made.run_spec(store.suite, "easy", "abmil", "f0", 0)
    for outcome, predictions in (("ok", None), ("oom", PREDICTIONS), ("fine", PREDICTIONS)):
        with pytest.raises(ValueError, match="outcome"):
            store.publish_run(spec.run_id, made.record(spec, "abmil", outcome), predictions)


def test_importing_the_store_does_not_import_torch():
    code = "import sys, milbench.runs.store; sys.exit(any(m in sys.modules for m in ('torch', 'pandas')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
