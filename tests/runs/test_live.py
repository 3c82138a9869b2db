"""Progress of work under way: its share done from the first steps on, and how often a line is printed."""

import itertools
import json
import time
from dataclasses import replace
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch
from support.launchers import played
from support.small import opened, suite, task, write_cohort

from milbench.cli import _terminal
from milbench.config import Budget, Tuning
from milbench.measure.environment import environment
from milbench.runs.execute import execute, tune
from milbench.runs.launchers.base import Outcome
from milbench.runs.live import Progress, Session, reporter, step_reporter
from milbench.runs.plan import make_plan
from milbench.runs.scaling.measurement import MachineTask
from milbench.runs.scaling.sweep import plan_sweep, run_sweep
from milbench.runs.tuning.trial import TrialTask, run_trial
from milbench.training.loop import train
from milbench.training.stacked import train_stacked


def shares(monkeypatch, work):
    """Return the shares done that a piece of work writes, with a clock that lets every step be written."""
    written, clock = [], itertools.count(0.0, 5.0)
    monkeypatch.setattr("milbench.runs.live._replace", lambda path, text: written.append(text))
    monkeypatch.setattr("milbench.runs.live.time", SimpleNamespace(monotonic=lambda: next(clock), time=time.time))
    work()
    return [(float(share), int(epoch)) for share, epoch in map(str.split, written)]


@pytest.mark.parametrize("kind", ["alone", "trial", "stacked", "second of two"])
def test_the_share_done_is_known_before_the_first_epoch_ends(tmp_path, monkeypatch, kind):
    parts = write_cohort(tmp_path)
    one = task(tmp_path, parts, epochs=4, batch_size=2)
    one = replace(one, live="share", live_part=(1, 2) if kind.startswith("second") else (0, 1))
    cache, cpu = opened(tmp_path), torch.device("cpu")
    part = one.live_part

    def work():
        if kind == "trial":
            trial = TrialTask(replace(one, test=()), Tuning(), None, "study", 0)
            run_trial(trial, cache, cpu, None, step_reporter(one.live))
        elif kind == "stacked":
            train_stacked([one, one], cache, cpu, step_reporter(one.live))
        else:
            train(one, cache, cpu, reporter(one.live, part), step_reporter(one.live, part))

    actual = shares(monkeypatch, work)
    first = [share for share, epoch in actual if epoch == 0]
    assert len(first) > 1
    assert first == sorted(first)
    steps = -(-len(parts["train"]) // 2)
    assert first[0] == pytest.approx((part[0] + 1 / (4 * steps)) / part[1], abs=1e-4)
    assert actual[-1][0] == pytest.approx(1.0)


class Watched(Session):
    """A session that keeps what was started in it."""

    begun: ClassVar[list[tuple[str, str]]] = []

    def start(self, key, what, work=0.0, epochs=0):
        path = super().start(key, what, work, epochs)
        self.begun.append((what, path))
        return path


@pytest.fixture
def begun(monkeypatch):
    Watched.begun = []
    monkeypatch.setattr("milbench.runs.execute.Session", Watched)
    monkeypatch.setattr("milbench.runs.scaling.sweep.Session", Watched)
    return Watched.begun


def test_trials_are_work_under_way(tmp_path, begun):
    write_cohort(tmp_path)

    def ends(task):
        assert task.task.live
        return Outcome("ok", "", {"score": 0.5, "used": {}})

    small = suite(tmp_path, budget=Budget(trials=2, steps=3), tuning=Tuning(sampler="random"))
    states = []
    tune(make_plan(small, tmp_path / "r"), on_start=states.append, launcher=played(ends))
    assert [what.rpartition(" ")[2] for what, _ in begun] == ["0", "1"]
    assert all(path for _, path in begun)
    (session,) = states
    assert (session.state().done, session.state().total) == (2, 2)
    assert session.state().work_left == 0


def test_cells_of_a_ladder_are_work_under_way(begun, monkeypatch):
    """The first cell does not fit, so that the second is not tried: no work is left."""

    def no_cell_fits(work, tasks, *_):
        for key, given in tasks:
            rates = {"flops_per_s": 1.0, "read_bytes_per_s": 1.0}
            machine = {"environment": environment(), "ceiling": rates, "available_bytes": 1}
            yield key, Outcome("ok", "", machine) if isinstance(given, MachineTask) else Outcome("oom", "of all")

    monkeypatch.setattr("milbench.runs.scaling.sweep.run_all", no_cell_fits)
    plan = plan_sweep(["mean"], [8], modes=["infer"], in_dim=4, rounds=1, iterations=1, threads=1, device="cpu")
    sessions = []
    run_sweep(plan, on_start=sessions.append)
    assert [what for what, _ in begun] == ["mean infer n=8 time"]
    state = sessions[0].state()
    assert (state.total, state.work_left) == (3, 0)
    assert not state.running


@pytest.mark.parametrize("stacked", [False, True])
def test_runs_of_one_process_say_together_how_far_they_are(tmp_path, begun, stacked):
    write_cohort(tmp_path)
    small = suite(tmp_path, ("mean",), seeds=2, stacked=2, recipe={"epochs": 2, "patience": None if stacked else 2})
    given = []

    def ends(task):
        given.append(task)
        return Outcome("ok", "", [Outcome("failed", "played")] * len(task.trainings))

    execute(make_plan(small, tmp_path / "r"), launcher=played(ends))
    lives = [(one.live, one.live_part) for task in given for one in task.trainings]
    assert len({live for live, _ in lives}) == len(begun) == len(given)
    assert all(live for live, _ in lives)


def test_without_a_terminal_a_line_a_minute_and_whatever_failed(capsys):
    with _terminal.show_progress() as show:
        for i in range(1, 7):
            show(Progress(i, 6, f"run {i}", "oom" if i == 4 else "ok", ""))
    said = [line.partition("]")[0] for line in capsys.readouterr().out.splitlines()]
    assert said == ["[1/6", "[4/6", "[6/6"]


def test_a_session_says_for_how_long_something_runs(tmp_path):
    with Session(tmp_path) as session:
        session.start("a", "d max fold f0 seed 0", 2.0)
        session._items["a"].began -= 300
        (item,) = session.state().running
        assert "5.0 min" in str(item)
        session._write(force=True)
        assert json.loads((session.folder / "session.json").read_text())["running"][0]["began"] < time.time() - 290
