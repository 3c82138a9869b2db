"""Kill the command at bad moments and give it again: finished runs stay, the others come, nothing else is left."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import psutil
import pytest

from milbench.cli import main
from milbench.runs.costs.benchmark import ROUNDS
from milbench.runs.execute import run
from milbench.runs.records import read_costs, read_runs

SUITE = """
methods = ["mean", "abmil"]
seeds = 3
device = "cpu"
[recipe]
epochs = 15
batch_size = 2
patience = 15
[[data]]
name = "digits"
dataset = "digits-bags"
params = { train = 60, val = 10, test = 20 }
"""
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="kill -9")


@pytest.fixture
def toml(tmp_path):
    (tmp_path / "s.toml").write_text(SUITE)
    return tmp_path / "s.toml"


def command(toml, results):
    return [sys.executable, "-c", "from milbench.cli import main; main()", "run", str(toml), "--results", str(results),
            "--report", "none"]  # fmt: skip


def published(results):
    """What is there for good: runs, and costs that have taken all of their turns."""
    return {p.parent.name: (p.stat().st_ino, p.stat().st_mtime_ns) for p in results.glob("*/[rc]*s/[!.]*/*.json")
            if p.name == "run.json" or (p.name == "cost.json" and len(json.loads(p.read_text())["turns"]) == ROUNDS)
            }  # fmt: skip


def alive(process):
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def start_and_kill(toml, results, when, rng):
    """Start the command, kill -9 its main process some milliseconds after `when` new results are there.

    Returns:
        the processes below it, which must end too.
    """
    before = len(published(results))
    process = subprocess.Popen(command(toml, results), stdout=subprocess.DEVNULL)
    end = time.monotonic() + 600
    while process.poll() is None and time.monotonic() < end:
        begun = (results / "s-v1" / "suite.json").exists() and len(psutil.Process(process.pid).children()) > 1
        if begun and len(published(results)) >= before + when:
            break
        time.sleep(0.005)
    time.sleep(rng.uniform(0, 0.15))
    family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    return family


def test_kill_and_resume(toml, tmp_path):
    rng = random.Random(os.urandom(8))  # other moments every time
    results = tmp_path / "killed"
    kept, orphans = {}, []
    for when in (0, 2):
        orphans += start_and_kill(toml, results, when, rng)
        now = published(results)
        assert len(now) < 6 + 2, "killed too late to test anything"
        assert len(now) >= len(kept) + (when > 0)
        assert kept.items() <= now.items()
        kept = now
    assert len(kept) >= 2
    with open(tmp_path / "out", "w") as out:
        last = subprocess.run(command(toml, results), stdout=out, stderr=out, timeout=600)
    output = (tmp_path / "out").read_text()
    assert last.returncode == 0, output
    done = len([name for name in kept if list(results.glob(f"*/runs/{name}"))])
    assert f"s: 6 runs, {done} done already, {6 - done} to do" in output
    assert not [p for p in orphans if alive(p)], "processes outlive the one that started them"
    assert kept.items() <= published(results).items()
    assert len(published(results)) == 6 + 2
    assert not list(results.rglob(".*")), "what the killed processes had begun to write is still there"

    straight = {r.spec.run_id: r for r in run(toml, tmp_path / "straight")}
    killed = {r.spec.run_id: r for r in read_runs(results)}
    assert straight.keys() == killed.keys()
    for run_id, record in straight.items():
        assert record.outcome == killed[run_id].outcome == "ok"
        assert record.predictions().equals(killed[run_id].predictions())
        clocks = ["seconds", "device_seconds"]
        assert record.history().drop(columns=clocks).equals(killed[run_id].history().drop(columns=clocks))
    assert {cost.outcome for cost in read_costs(results)} == {"ok"}


@pytest.mark.parametrize("place", ["a file", "below a file", "read only"])
def test_results_that_cannot_be_written(toml, tmp_path, monkeypatch, capsys, place):
    if place == "read only":
        results = tmp_path / "closed" / "results"
        results.parent.mkdir(mode=0o500)
        if os.access(results.parent, os.W_OK):  # root may write anywhere but in the kernel's own files
            results = os.path.join("/proc", "milbench-results")
    else:
        (tmp_path / "file").write_text("mine")
        results = tmp_path / "file" / ("" if place == "a file" else "results")
    monkeypatch.setattr(sys, "argv", ["milbench", *command(toml, results)[3:]])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    err = capsys.readouterr().err
    assert err.startswith("milbench: ")
    assert err.count("\n") == 1
    assert "give another --results" in err
    if place != "read only":
        assert (tmp_path / "file").read_text() == "mine"
