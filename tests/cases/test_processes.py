"""Processes that others end, machines that refuse, and suite files that would take all memory to read."""

import os
import signal
import sys

import pytest
from support.small import suite, write_cohort

from milbench.launch import local
from milbench.plan import make_plan
from milbench.runner import execute, tune
from milbench.spec import Budget, Tuning

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
    from milbench.trial import Pruned, TrialTask, reporter
    from milbench.tune import distribution

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

    def attempt(asked):
        report = reporter(TrialTask(search.task, search.tuning, where, search.name, asked._trial_id))
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
    for step in range(1, 4):  # and killed before the pruner was asked
        killed.report(0.9, step)
    assert attempt(killed) == due
    assert study.trials[1].intermediate_values == study.trials[2].intermediate_values
