"""A task of another package, from a table of labels to scores, without a change to milbench."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import spearmanr
from support import grades
from support.dose import TASK
from support.refusal import refused
from support.small import opened, write_cohort

from milbench import plug_ins, tasks
from milbench.cli import run_verb
from milbench.config import DataSpec, Protocol, SplitSpec, Suite
from milbench.data.cohort import load_cohort
from milbench.data.cohort import write_cohort as write_stored_cohort
from milbench.errors import Unsupported
from milbench.evaluation.comparison import NOT_RANKED, compare
from milbench.evaluation.leaderboard import evaluate, leaderboard
from milbench.evaluation.scores import run_scores
from milbench.report.build import _monitored, build_report
from milbench.report.comparison import comparison_lines
from milbench.runs.plan import make_plan
from milbench.runs.records import read_runs
from milbench.runs.run_tasks import RunTask
from milbench.runs.worker import work
from milbench.training.loop import train

CPU = torch.device("cpu")


def point_of(name, value, loaded):
    """Return an entry point of a task."""
    return SimpleNamespace(name=name, value=value, load=lambda: loaded)


@pytest.fixture(autouse=True)
def _installed(monkeypatch):
    """As if packages that name the tasks in their entry points were installed."""
    points = [point_of("dose", "support.dose:TASK", TASK), point_of("grades", "support.grades:TASK", grades.TASK)]
    monkeypatch.setattr(plug_ins, "entry_points", lambda group: points if group == "milbench.tasks" else [])
    tasks._task_named.cache_clear()
    yield
    tasks._task_named.cache_clear()


@pytest.fixture
def doses(tmp_path):
    """A cohort whose bags' first feature, on average, is their dose."""
    write_cohort(tmp_path, train=24, val=8, test=8, shift=0.0)
    cache = opened(tmp_path)
    rows = [(s, f"p{i // 2}", round(float(cache[s][:, 0].mean()), 4)) for i, s in enumerate(cache.ids)]
    pd.DataFrame(rows, columns=["slide_id", "patient_id", "label"]).to_csv(tmp_path / "labels.csv", index=False)
    return tmp_path, {slide: dose for slide, _, dose in rows}


def spec(**changes):
    fields = {"name": "d", "cache": "cache", "labels": "labels.csv", "task": "dose", "split": SplitSpec(folds=4)}
    return DataSpec(**(fields | changes))


def planned(folder, methods=("mean",), **changes):
    recipe = {"optimizer": "sgd", "lr": 0.1, "momentum": 0.0, "epochs": 20, "patience": None} | changes.pop(
        "recipe", {}
    )
    made = Suite(name="small", methods=methods, data=(spec(),), cost=False, device="cpu", recipe=recipe, base=folder,
                 **changes)  # fmt: skip
    return make_plan(made, folder / "results")


def test_a_cohort_is_read_and_its_folds_balance_the_strata(doses):
    folder, dose = doses
    cohort = load_cohort(spec(), folder)
    assert cohort.labels == dose
    assert cohort.task == "dose"
    middle = np.median(list(dose.values()))
    for fold in cohort.folds:
        high = np.mean([dose[slide] > middle for slide in fold.test])
        assert 0.2 <= high <= 0.8, fold
    (folder / "labels.csv").write_text((folder / "labels.csv").read_text().replace("p0,", "p0,much"))
    with refused("dose-not-a-number", "labels.csv", "much"):
        load_cohort(spec(), folder)


def test_a_suite_plans_trains_stores_and_scores_it(doses):
    folder, dose = doses
    plan = planned(folder)
    run = plan.runs[0]
    assert run.task.spec.task == "dose"
    outcome = work(RunTask(run.task))
    assert outcome.outcome == "ok", outcome.reason
    plan.store.prepare()
    record = {"spec": run.task.spec, "outcome": "ok", **outcome.value["record"]}
    plan.store.publish_run(run.task.spec.run_id, record, outcome.value["predictions"], outcome.value["history"])
    (stored,) = read_runs(plan.store.root)
    assert stored.spec.run_id == run.task.spec.run_id
    table = stored.predictions()
    assert list(table.columns) == ["slide_id", "split", "dose"]
    assert set(stored.history()) >= {"val_loss", "val_rank_correlation"}
    truth = [dose[slide] for slide in table["slide_id"]]
    scores = TASK.scores(truth, stored.arrays("predictions.parquet"))
    assert scores["mean_absolute_error"] == pytest.approx(np.abs(np.array(truth) - table["dose"]).mean())
    guess = np.abs(np.array(truth) - np.mean(list(dose.values()))).mean()
    assert scores["mean_absolute_error"] < 0.5 * guess, "the training follows the loss of the task"


@pytest.mark.parametrize("method", ["mean", "abmil", "transmil[dim=16,heads=2,landmarks=8]"])
def test_methods_of_one_output_and_of_two_serve_it_as_they_are(doses, method):
    folder, _ = doses
    run = planned(folder, (method,), recipe={"optimizer": "adam", "lr": 0.003, "epochs": 2}).runs[0]
    trained = train(run.task, opened(folder), CPU)
    row = trained.history[trained.selected - 1]
    assert row["val_loss"] == min(r["val_loss"] for r in trained.history)
    with torch.no_grad():
        bags = opened(folder).bags([slide for slide, _ in run.task.val])
        logits = trained.model.eval()(bags).logits
    ours = (logits[:, 0] if logits.shape[1] == 1 else logits[:, 1] - logits[:, 0]).numpy()
    truth = np.array([y for _, y in run.task.val])
    assert row["val_loss"] == pytest.approx(np.mean((ours - truth) ** 2), rel=1e-4)
    assert row["val_rank_correlation"] == pytest.approx(spearmanr(ours, truth).statistic)


def test_selection_follows_the_direction_of_its_monitor(doses):
    folder, _ = doses
    plan = planned(folder, protocol=Protocol(monitor="val_rank_correlation"), recipe={"lr": 0.02, "epochs": 6})
    trained = train(plan.runs[0].task, opened(folder), CPU)
    values = [row["val_rank_correlation"] for row in trained.history]
    assert values[trained.selected - 1] == max(values) > min(values)


def test_what_needs_classes_is_refused(doses):
    folder, _ = doses
    for recipe in ({"class_weights": "balanced"}, {"sampler": "balanced"}, {"label_smoothing": 0.1}):
        with refused("suite-bad-value", "dose", *recipe):
            planned(folder, recipe=recipe)
    with refused("suite-bad-value", "dose", "'val_auc'", "val_rank_correlation"):
        planned(folder, protocol=Protocol(monitor="val_auc"))
    with refused("method-unsupported", "clam_sb", "dose", kind=Unsupported):
        train(planned(folder, ("clam_sb",)).runs[0].task, opened(folder), CPU)
    assert work(RunTask(planned(folder, ("clam_sb",)).runs[0].task)).outcome == "unsupported"


def test_the_store_takes_the_columns_of_the_task_that_a_run_names(doses):
    folder, _ = doses
    plan = planned(folder)
    plan.store.prepare()
    given = plan.runs[0].task.spec
    of_classes = pd.DataFrame({"slide_id": ["a"], "split": ["test"], "p0": [0.5], "p1": [0.5]})
    with pytest.raises(ValueError, match="dose"):
        plan.store.publish_run(given.run_id, {"spec": given, "outcome": "ok"}, of_classes)
    as_class = given.model_copy(update={"task": "classification"})
    assert as_class.run_id != given.run_id
    of_doses = pd.DataFrame({"slide_id": ["a"], "split": ["test"], "dose": [0.5]})
    with pytest.raises(ValueError, match="p0, p1"):
        plan.store.publish_run(as_class.run_id, {"spec": as_class, "outcome": "ok"}, of_doses)
    plan.store.publish_run(given.run_id, {"spec": given, "outcome": "ok"}, of_doses)
    plan.store.publish_run(as_class.run_id, {"spec": as_class, "outcome": "ok"}, of_classes)


def run_here(folder, *, methods=("mean", "max"), **cohorts):
    """Run a suite of cohorts by their tasks in this process, where the tasks are known; return its plan."""
    data = tuple(spec(name=name, labels=f"{name}.csv", task=task) for name, task in cohorts.items())
    recipe = {"optimizer": "sgd", "lr": 0.1, "epochs": 2, "patience": None}
    made = Suite(name="-".join(cohorts), methods=methods, data=data, cost=False, device="cpu", recipe=recipe,
                 base=folder)  # fmt: skip
    plan = make_plan(made, folder / "results")
    plan.store.prepare()
    for cohort in plan.cohorts:
        write_stored_cohort(cohort, plan.store.cohort(cohort.name, cohort.fingerprint))
    for run in plan.runs:
        value = work(RunTask(run.task)).value
        record = {"spec": run.task.spec, "outcome": "ok", "method": run.method.canonical, **value["record"]}
        plan.store.publish_run(run.task.spec.run_id, record, value["predictions"], value["history"])
    return plan


@pytest.fixture
def labelled(doses):
    """A cohort with labels of three kinds, named as the cohorts below."""
    folder, dose = doses
    table = pd.read_csv(folder / "labels.csv")
    table.to_csv(folder / "amount.csv", index=False)
    table = table.assign(label=(table["label"] > np.median(list(dose.values()))).astype(int))
    for name in ("kind", "grade"):
        table.to_csv(folder / f"{name}.csv", index=False)
    return folder


def test_cohorts_of_other_tasks_leave_the_tables_of_the_others_as_they_are(labelled, monkeypatch):
    results = labelled / "results"
    run_here(labelled, kind="classification")
    alone = leaderboard(results, resamples=20)
    run_here(labelled, amount="dose")
    board = evaluate(results, resamples=20, details=False)
    pd.testing.assert_frame_equal(board.table, alone)
    assert [note for note in board.notes if "amount-v1 / amount" in note and "dose" in note]
    assert set(run_scores(results)["data"]) == {"kind"}
    of_classes, of_doses = (row for _, row in compare("mean", "max", results, resamples=20).iterrows())
    assert of_classes["data"] == "kind"
    assert np.isfinite(of_classes["difference"])
    assert (of_doses["data"], of_doses["told_apart"], of_doses["reason"]) == ("amount", None, NOT_RANKED)
    assert any("amount" in line and NOT_RANKED in line for line in comparison_lines(compare("mean", "max", results)))
    for table in (evaluate, run_scores, lambda root: compare("mean", "max", root)):
        with refused("results-not-ranked", "amount-v1 / amount", "dose"):
            table(results / "amount-v1")


def test_a_run_ends_with_the_table_of_its_cohorts_of_classification(labelled, capsys):
    mixed = run_here(labelled, kind="classification", amount="dose")
    run_verb._report(mixed, None)
    shown = capsys.readouterr().out
    assert "kind" in shown
    assert "amount is left out" in " ".join(shown.split())
    run_verb._report(run_here(labelled, grade="grades"), None)
    shown = capsys.readouterr().out
    assert "No table of AUC" in shown
    assert "grade (task grades)" in shown


def test_a_report_of_classification_needs_no_package_of_another_cohorts_task(labelled, monkeypatch):
    plan = run_here(labelled, kind="classification", amount="dose")
    monkeypatch.setattr(plug_ins, "entry_points", lambda group: [])
    tasks._task_named.cache_clear()
    board = evaluate(plan.store.folder, resamples=20, details=False)
    assert "the smallest validation loss" in str(build_report(board))
    suite = board.suites["kind-amount-v1"]
    assert _monitored(suite, {"kind"}) == "the smallest validation loss"
    assert _monitored(suite, {"amount"}) == "the best val_loss"


def test_models_are_kept_of_classification_alone(tmp_path):
    write_cohort(tmp_path)
    for name, kept in (("classification", ("0", "1")), ("grades", None)):
        data = spec(name=name, task=name, split=SplitSpec(files=str(tmp_path / "fold{k}.csv")))
        made = Suite(name="s", methods=("mean",), data=(data,), cost=False, device="cpu", keep_models="best",
                     base=tmp_path)  # fmt: skip
        (run,) = make_plan(made, tmp_path / "results").runs
        assert run.task.model_classes == kept
        assert ("model" in work(RunTask(run.task)).value) == (kept is not None)


def test_a_task_without_a_name_and_two_tasks_of_one_name_are_refused_where_they_are_used(monkeypatch):
    class Nameless(type(TASK)):
        pass

    monkeypatch.delattr(type(TASK), "name")
    points = [
        point_of("nameless", "first:Nameless", Nameless),
        point_of("twice", "first:TASK", grades.TASK),
        point_of("twice", "second:TASK", grades.TASK),
        point_of("grades", "support.grades:TASK", grades.TASK),
        point_of("grades", "support.grades:TASK", grades.TASK),  # of one package in two places of the path
    ]
    monkeypatch.setattr(plug_ins, "entry_points", lambda group: points)
    with refused("plugin-broken", "nameless", "first:Nameless"):
        tasks.task_named("nameless")
    with refused("plugin-broken", "twice", "first:TASK", "second:TASK"):
        tasks.task_named("twice")
    assert tasks.task_named("grades") is grades.TASK
