"""Tables show the runs that were requested last: seeds, folds, methods and timeouts that change from run to run."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from support import small
from support import synthetic as made
from support.refusal import assert_refused, refused
from typer.testing import CliRunner

import milbench
from milbench import config as specs
from milbench.atomic_io.unfinished import HOST
from milbench.cli import app, main
from milbench.config import Budget, Suite, Tuning, digest
from milbench.data.cache.reader import CacheWriter
from milbench.data.onboarding.suite_template import threads_for
from milbench.errors import MilbenchError
from milbench.evaluation.comparison import compare
from milbench.evaluation.leaderboard import evaluate, leaderboard
from milbench.evaluation.runs_table import read_cohorts
from milbench.inference.prediction import kept_models
from milbench.measure.load import Load, apart, budget_notes, cost_notes
from milbench.runs import claims, current_runs
from milbench.runs.execute import _requests as requests_for
from milbench.runs.execute import costs_left, run, trials_left, tuned_runs
from milbench.runs.live import Item, Session, State, reporter, sessions
from milbench.runs.plan import Finished, make_plan, refuse_damaged
from milbench.runs.records import read_runs
from milbench.runs.status import standing

METHODS = ("mean", "abmil", "abmil[gated=true]")
FOLDS = ("f0", "f1", "f2")
SEEDS = 3


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    suite = made.suite(data=("easy",)).model_copy(update={"methods": METHODS[:2]})
    return made.fill(tmp_path_factory.mktemp("r"), suite, METHODS, n=30, folds=FOLDS, seeds=SEEDS, costs=False)


def request(store, when, methods, folds, seeds, timeout_s=None):
    budget = Budget(timeout_s=timeout_s)
    specs = [(m, made.run_spec(store.suite, "easy", m, f, s, budget=budget))
             for m in methods for f in FOLDS[:folds] for s in range(seeds)]  # fmt: skip
    actual = current_runs.requests_of(
        {s.run_id: (m, s) for m, s in specs}, when, store.suite.methods, 1, "made-up.toml"
    )
    current_runs.record_requests(store, actual)
    current_runs.mark_requested(store, {s.run_id for _, s in specs}, when)


REQUESTS = st.tuples(
    st.lists(st.sampled_from(METHODS), min_size=1, unique=True), st.integers(1, len(FOLDS)), st.integers(1, SEEDS),
    st.sampled_from([None, 60.0, 900.0]),
)  # fmt: skip


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(REQUESTS, min_size=1, max_size=4))
def test_a_table_shows_exactly_the_last_request(store, requests):
    for number, (methods, folds, seeds, timeout_s) in enumerate(requests):
        request(store, f"2027-01-01T00:00:0{number}+00:00", methods, folds, seeds, timeout_s)
    (board,) = read_cohorts(store.root)
    cells = {(fold, seed) for fold in FOLDS[:folds] for seed in range(seeds)}
    assert set(board.runs) == set(methods)
    assert all(set(runs) == cells for runs in board.runs.values())
    assert set(board.cells) == cells
    further = len(METHODS) * len(FOLDS) * SEEDS - len(methods) * len(cells)
    assert sum(f"{further} further run" in note and "--all" in note for note in board.notes) == (further > 0)
    (whole,) = read_cohorts(store.root, all_runs=True)
    assert {len(runs) for runs in whole.runs.values()} == {len(FOLDS) * SEEDS}
    assert len(whole.runs) == len(METHODS)


def test_leaderboard_and_compare_score_the_requested_runs_alone(store):
    request(store, "2028-01-01T00:00:00+00:00", ["mean"], 2, 1)
    table = leaderboard(store.root, resamples=20)
    assert table["method"].tolist() == ["mean"]
    labels = pd.read_csv(next(store.folder.glob("cohorts/*/labels.csv")), dtype={"slide_id": str}).set_index("slide_id")
    aucs = []
    for record in read_runs(store.root):
        if record.method == "mean" and record.spec.fold in FOLDS[:2] and record.spec.seed == 0:
            p = record.predictions().query("split == 'test'")
            aucs.append(roc_auc_score(labels.loc[p["slide_id"], "label"], p["p1"]))
    assert table["auc"].tolist() == pytest.approx([np.mean(aucs)])
    both = compare("mean", "ABMIL[gated = true]", store.root, resamples=20)  # named, so shown
    assert both[["seeds", "folds"]].to_numpy().tolist() == [[1, 2]]
    assert both["auc_a"].tolist() == pytest.approx([np.mean(aucs)])
    assert leaderboard(store.root, resamples=20, all_runs=True)["runs"].tolist() == [9, 9, 9]


def test_nothing_of_the_last_request_is_done(tmp_path):
    suite = made.suite(data=("easy",))
    store = made.fill(tmp_path, suite, ("mean",), n=20, folds=FOLDS, seeds=1, costs=False)
    request(store, "2028-01-01T00:00:00+00:00", ["abmil"], 1, 1)
    with refused("runs-not-done", "3", "--all"):
        read_cohorts(store.root)
    assert len(read_cohorts(store.root, all_runs=True)[0].runs["mean"]) == 3


def test_results_of_earlier_versions_are_shown_whole(tmp_path):
    store = made.fill(tmp_path, made.suite(data=("easy",)), ("mean", "abmil"), n=20, folds=FOLDS, seeds=2, costs=False)
    (board,) = read_cohorts(store.root)
    assert {m: len(runs) for m, runs in board.runs.items()} == {"mean": 6, "abmil": 6}
    assert not any("further" in note for note in board.notes)


def test_a_damaged_request_is_named(tmp_path):
    store = made.fill(tmp_path, made.suite(data=("easy",)), ("mean",), n=20, folds=FOLDS, seeds=1, costs=False)
    request(store, "2028-01-01T00:00:00+00:00", ["mean"], 3, 1)
    (file,) = store.folder.glob("requests/*.json")
    file.write_text(file.read_text().replace('"f1"', '"f9"'))
    with refused("store-damaged"):
        read_cohorts(store.root)
    request(store, "2028-01-01T00:00:01+00:00", ["mean"], 3, 1)
    assert len(read_cohorts(store.root)[0].cells) == 3


# --- the whole way, with models -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """A cohort of 24 small slides in the folder of its suite; the label shifts the features."""
    folder = tmp_path_factory.mktemp("cohort")
    write_cohort(folder, 24)
    return folder


def write_cohort(folder, n):
    shutil.rmtree(folder / "cache", ignore_errors=True)
    rng = np.random.default_rng(0)
    with CacheWriter(folder / "cache", "float32") as writer:
        for i in range(n):
            writer.add(f"s{i:02d}", (rng.normal(size=(4, 4)) + i % 2).astype(np.float32), None)
    rows = "".join(f"s{i:02d},s{i:02d},{i % 2}\n" for i in range(n))
    (folder / "labels.csv").write_text("slide_id,patient_id,label\n" + rows)


def suite_of(folder, methods=("mean",), seeds=1, **changes):
    split = {"folds": 2, "val_fraction": 0.25, **changes.pop("split", {})}
    data = {"name": "d", "cache": "cache", "labels": "labels.csv", "patient_column": "slide_id", "split": split}
    return Suite.model_validate({
        "name": "s", "methods": methods, "seeds": seeds, "data": [data], "cost": False, "device": "cpu",
        "recipe": {"epochs": 1, "patience": None}, "base": folder, **changes,
    })  # fmt: skip


def test_seeds_folds_and_methods_changed_back_and_forth(cohort, tmp_path):
    def shape():
        table = milbench.leaderboard(tmp_path, resamples=10)
        return {row.method: (row.seeds, row.folds) for row in table.itertuples()}

    run(suite_of(cohort), tmp_path)
    run(suite_of(cohort), tmp_path, seeds=2, methods=["mean", "max"])
    assert shape() == {"mean": (2, 2), "max": (2, 2)}
    run(suite_of(cohort), tmp_path)
    assert shape() == {"mean": (1, 2)}
    run(suite_of(cohort, split={"use": 1}), tmp_path)
    assert shape() == {"mean": (1, 1)}
    assert len(compare("max", "mean", tmp_path, resamples=10)) == 1
    assert len(read_runs(tmp_path)) == 8


def test_a_timeout_makes_no_finished_run_anew(cohort, tmp_path):
    suite = suite_of(cohort, seeds=2)
    run(suite, tmp_path)
    assert not make_plan(suite, tmp_path, timeout_s=900).todo()
    before = {r.path.name: (r.path / "run.json").read_bytes() for r in read_runs(tmp_path)}
    run(suite, tmp_path, timeout_s=900)
    assert {r.path.name: (r.path / "run.json").read_bytes() for r in read_runs(tmp_path)} == before
    assert len(milbench.leaderboard(tmp_path, resamples=10)) == 1


def as_before(record, store, timeout_s, outcome="ok"):
    """Publish a run as earlier versions did under a timeout, which was part of its id."""
    spec = record.spec.model_copy(update={"budget": Budget(timeout_s=timeout_s)})
    old = digest(spec.identity())
    content = record.record | {"spec": spec.identity(), "outcome": outcome, "run_id": old}
    store.publish_run(old, content, record.predictions() if outcome == "ok" else None)
    return old


def test_runs_stored_under_a_timeout_are_used(cohort, tmp_path):
    suite = suite_of(cohort, seeds=2)
    records = run(suite, tmp_path / "a")
    store = make_plan(suite, tmp_path / "b").store
    store.prepare()
    old = {as_before(record, store, 900.0) for record in records}
    for timeout_s in (None, 900.0, 60.0):
        plan = make_plan(suite, tmp_path / "b", timeout_s=timeout_s)
        assert not plan.todo()
        assert {planned.stored for planned in plan.runs} == old
    assert {r.path.name for r in run(suite, tmp_path / "b")} == old
    assert milbench.leaderboard(tmp_path / "b", resamples=10)["runs_ok"].tolist() == [4]
    again = run(suite, tmp_path / "b", overwrite="all")
    assert {r.path.name for r in read_runs(tmp_path / "b")} == {r.spec.run_id for r in again}
    assert not old & {r.path.name for r in again}


@pytest.mark.parametrize(("then", "now", "again"), [(5.0, 60.0, True), (5.0, None, True), (5.0, 5.0, False),
                                                    (60.0, 5.0, False)])  # fmt: skip
def test_what_a_shorter_timeout_stopped_is_made_again(cohort, tmp_path, then, now, again):
    suite = suite_of(cohort, split={"use": 1})
    (record,) = run(suite, tmp_path / "a")
    store = make_plan(suite, tmp_path / "b").store
    store.prepare()
    old = as_before(record, store, then, "timeout")
    (planned,) = make_plan(suite, tmp_path / "b", timeout_s=now).runs
    assert (planned.outcome is None, planned.stopped_s) == ((True, then) if again else (False, None))
    (actual,) = run(suite, tmp_path / "b", timeout_s=now)
    assert (actual.outcome, actual.path.name == old) == (("ok", False) if again else ("timeout", True))
    assert len(read_runs(tmp_path / "b")) == 1


def test_an_ok_run_is_shown_next_to_the_same_run_that_was_stopped(cohort, tmp_path):
    suite = suite_of(cohort, split={"use": 1})
    (record,) = run(suite, tmp_path)
    store = make_plan(suite, tmp_path).store
    as_before(record, store, 5.0, "timeout")
    as_before(record, store, 900.0)
    for all_runs in (False, True):
        board = evaluate(tmp_path, resamples=10, all_runs=all_runs)
        assert board.table[["runs", "runs_ok"]].to_numpy().tolist() == [[1, 1]]
        assert not any("left out" in note for note in board.notes)
    assert Finished(store).state(record.spec)["outcome"] == "ok"


def test_compare_after_the_cohort_grew(tmp_path):
    for n, method in ((24, "mean"), (28, "max")):
        write_cohort(tmp_path, n)
        (tmp_path / "s.toml").write_text(SUITE)
        run(tmp_path / "s.toml", tmp_path / "r", methods=[method])
    with refused("runs-not-done", "mean", "24", "28", "s.toml"):
        compare("mean", "max", tmp_path / "r")
    with refused("runs-not-done", "mean", "24", "28"):
        compare("max", "mean", tmp_path / "r")
    run(tmp_path / "s.toml", tmp_path / "r", methods=["mean"])
    assert len(compare("mean", "max", tmp_path / "r", resamples=10)) == 1


SUITE = """
name = "s"
methods = ["mean", "max"]
cost = false
device = "cpu"
[recipe]
epochs = 1
[[data]]
name = "d"
cache = "cache"
labels = "labels.csv"
patient_column = "slide_id"
split = { folds = 2, val_fraction = 0.25 }
"""


def test_no_run_is_still_to_be_made_when_two_spellings_name_one_method(tmp_path):
    write_cohort(tmp_path, 24)
    (tmp_path / "s.toml").write_text(SUITE.replace('"max"', '"abmil", "abmil[gated=false]"'))
    run(tmp_path / "s.toml", tmp_path / "r")
    board = evaluate(tmp_path / "r", resamples=10)
    assert sorted(board.table["method"]) == ["abmil", "mean"]
    assert not any("still to be made" in note for note in board.notes)
    (file,) = (tmp_path / "r").glob("*/requests/*.json")
    assert json.loads(file.read_text())["suite_methods"] == ["mean", "abmil"]


CLASS = "milbench.baselines.mean:MeanPooling"


def test_a_registered_method_named_as_a_class_is_the_same_method(tmp_path):
    write_cohort(tmp_path, 24)
    text = SUITE.replace("[recipe]", f"""reference = "{CLASS}"\n[recipes."{CLASS}"]\nlr = 1e-3\n[recipe]""")
    (tmp_path / "s.toml").write_text(text.replace('"max"', f'"max", "{CLASS}"'))
    plan = make_plan(tmp_path / "s.toml", tmp_path / "r")
    assert sorted({run.method.canonical for run in plan.runs}) == ["max", "mean"]
    assert {run.spec.recipe.lr for run in plan.runs if run.method.canonical == "mean"} == {1e-3}
    assert any(CLASS in note for note in plan.notes)
    run(tmp_path / "s.toml", tmp_path / "r")
    board = evaluate(tmp_path / "r", resamples=10)
    assert sorted(board.table["method"]) == ["max", "mean"]
    assert [row["method"] for row in board.effects] == ["max"]
    words = ["compare", CLASS, "max", "--results", str(tmp_path / "r"), "--resamples", "10"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output


def test_runs_stored_by_a_class_name_are_those_of_its_registered_method(tmp_path, monkeypatch):
    """Before, module:Class of a registered class was a method of its own: its runs are used, under the one name."""
    write_cohort(tmp_path, 24)
    suite = SUITE.replace("cost", 'keep_models = "best"\ncost')
    (tmp_path / "s.toml").write_text(suite.replace('"mean", "max"', f'"{CLASS}"'))
    with monkeypatch.context() as before:
        before.setattr("milbench.registry.Registry.name_of", lambda self, cls: None)
        stored = run(tmp_path / "s.toml", tmp_path / "r", jobs=1)
    assert {record.method for record in stored} == {CLASS}
    for name in (CLASS, "mean"):
        (tmp_path / "s.toml").write_text(suite.replace('"mean", "max"', f'"{name}"'))
        plan = make_plan(tmp_path / "s.toml", tmp_path / "r")
        assert [planned.outcome for planned in plan.runs] == ["ok", "ok"]
        run(tmp_path / "s.toml", tmp_path / "r")
        board = evaluate(tmp_path / "r", resamples=10)
        assert board.table[["method", "runs", "runs_ok"]].to_numpy().tolist() == [["mean", 2, 2]]
        assert not any("left out" in note or "still to be" in note for note in board.notes)
        assert len(kept_models(tmp_path / "r", "s", name)) == 2
    assert len(list((tmp_path / "r").glob("*/runs/*"))) == 2


def test_a_tuned_request_leaves_the_untuned_table_and_asks_for_no_other_method(cohort, tmp_path):
    """Each table is held against the last request for its own conditions, of whatever command line it came."""
    suite = suite_of(cohort, methods=("mean", "max"))

    def ask(when, **options):
        plan = make_plan(suite, tmp_path, **options)
        plan.store.prepare()
        current_runs.record_requests(plan.store, requests_for(plan, when))
        actual = {r.conditions["tuning"] is not None: r for r in current_runs.read_requests(plan.store.folder).values()}
        return actual, plan

    ask("2027-01-01T00:00:00+00:00")
    tables, plan = ask("2027-01-02T00:00:00+00:00", methods=["mean"], budget={"trials": 2})
    assert set(tables[False].methods) == {"mean", "max"}
    assert {method for method, _, _ in tables[False].wanted()} == {"mean", "max"}
    assert set(tables[True].methods) == {"mean"}
    assert {method for method, _, _ in tables[True].wanted()} == {"mean"}
    studies = {search.name: 2 for search in plan.searches}
    assert tables[True].studies == studies
    tables, _ = ask("2027-01-03T00:00:00+00:00")
    assert tables[False].requested_at > tables[True].requested_at  # requested by itself, so it is the last one
    assert tables[True].studies == studies
    tables, _ = ask("2027-01-04T00:00:00+00:00", methods=["mean"], seeds=2, budget={"trials": 2})
    assert (set(tables[False].methods), tables[False].seeds) == ({"mean"}, (0, 1))  # it contradicts the one before
    tables, _ = ask("2027-01-05T00:00:00+00:00", methods=["mean"])
    assert {method for method, _, _ in tables[False].wanted()} == {"mean", "max"}  # the suite's own table


def test_tables_of_one_command_are_both_those_requested_last(tmp_path):
    suite = made.suite(data=("easy",)).model_copy(update={"methods": ("mean",)})
    store = made.fill(tmp_path, suite, ("mean",), n=30, folds=FOLDS[:1], seeds=1, costs=False)
    steps = Budget(steps=7)
    spec = made.run_spec(suite, "easy", "mean", FOLDS[0], 0, budget=steps)
    old = next(record for record in read_runs(store.root))
    store.publish_run(spec.run_id, made.record(spec, "mean", "ok"), old.predictions())

    def last(whens):
        for when, budget in whens:
            one = made.run_spec(suite, "easy", "mean", FOLDS[0], 0, budget=budget)
            current_runs.record_requests(
                store, current_runs.requests_of({one.run_id: ("mean", one)}, when, ("mean",), 1, "")
            )
        (note,) = (n for t in read_cohorts(store.root) for n in t.notes if "2 tables" in n)
        labels = [table.label for table in read_cohorts(store.root)]
        return {label for label in labels if label in note.partition("2 tables")[2]}

    both = {table.label for table in read_cohorts(store.root)}
    assert len(both) == 2
    assert last([("2027-01-01T00:00:00+00:00", Budget()), ("2027-01-01T00:00:00+00:00", steps)]) == both
    assert len(last([("2027-01-02T00:00:00+00:00", Budget())])) == 1


def test_a_field_that_conditions_gain_later_changes_no_table(monkeypatch):
    """The conditions of a run are those that an earlier version hashed, as long as a later field has its default."""

    class Later(specs.Protocol):
        smoothing: float = specs.added(0.0, since="9")

    class LaterTuned(specs.Tuned):
        restarts: int = specs.added(0, since="9")

    class LaterBudget(specs.Budget):
        joules: float | None = specs.added(None, since="9")

    one = made.run_spec(made.suite(), "easy", "mean", "f0", 0)
    tuned = {"trials": 3, "seed": 1}
    same = one.model_copy(update={"protocol": Later(), "tuning": LaterTuned(**tuned), "budget": LaterBudget(steps=4)})
    before = one.model_copy(update={"tuning": specs.Tuned(**tuned), "budget": Budget(steps=4)})
    assert current_runs.conditions_of(same) == current_runs.conditions_of(before)
    for used in ({"protocol": Later(smoothing=0.1)}, {"budget": LaterBudget(steps=4, joules=1.0)},
                 {"tuning": LaterTuned(restarts=1, **tuned)}):  # fmt: skip
        assert current_runs.conditions_of(same.model_copy(update=used)) != current_runs.conditions_of(before)


# --- the command line ------------------------------------------------------------------------------------------------


@pytest.fixture
def cli(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["milbench", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return SimpleNamespace(code=ended.value.code, out=out, err=err)

    return call


def shown_runs(store):
    return {path.name for path in store.runs.iterdir()}


def test_forget_lists_first_and_removes_what_was_listed(tmp_path, cli):
    suite = made.suite(data=("easy", "hard"))
    store = made.fill(tmp_path / "r", suite, ("mean", "abmil"), n=20, folds=FOLDS, seeds=1,
                      fail=(("easy", "mean", "f0", 0, "failed"),))  # fmt: skip
    before = {path: path.read_bytes() for path in store.folder.rglob("*") if path.is_file()}
    said = cli("forget", "r", "--data", "easy", "-m", "MEAN")
    assert said.code == 0, said.err
    assert "3 runs" in said.out
    assert "1 measurement of cost" in said.out
    assert "without --yes" in said.out
    assert {path: path.read_bytes() for path in store.folder.rglob("*") if path.is_file()} == before
    listed = {line.split()[0] for line in said.out.splitlines() if line.startswith("  ")}
    everything = shown_runs(store)
    assert cli("forget", "r", "--data", "easy", "-m", "mean", "--yes").code == 0
    assert shown_runs(store) == everything - listed
    assert len(listed) == 3
    assert {r.method for r in read_runs(store.root) if r.spec.data == "easy"} == {"abmil"}
    assert len(list(store.costs.iterdir())) == 3
    assert len(list((store.folder / "cohorts").iterdir())) == 2
    assert cli("forget", "r", "--data", "easy", "--yes").code == 0
    assert [path.name for path in (store.folder / "cohorts").iterdir()] == ["hard-f0"]
    assert not list(store.root.rglob(".*"))
    assert leaderboard(store.root, resamples=10)["data"].unique().tolist() == ["hard"]


@pytest.mark.parametrize(("options", "left"), [
    (("--outcome", "failed"), 5), (("--older", "2026-06-01"), 0), (("--older", "2025-06-01"), 6),
    (("--older", "1 min"), 0),
    (("--suite", "made-up-v1"), 0), (("--suite", "made-up", "-m", "abmil"), 3), (("--superseded",), 6),
])  # fmt: skip
def test_forget_selects(tmp_path, cli, options, left):
    store = made.fill(tmp_path / "r", made.suite(data=("easy",)), ("mean", "abmil"), n=20, folds=FOLDS, seeds=1,
                      fail=(("easy", "mean", "f0", 0, "failed"),))  # fmt: skip
    assert cli("forget", "r", *options, "--yes").code == 0
    assert len(shown_runs(store)) == left


def test_forget_removes_a_condition_and_what_is_superseded(tmp_path, cli):
    store = made.fill(tmp_path / "r", made.suite(data=("easy",)), ("mean",), n=20, folds=FOLDS, seeds=1, costs=False)
    kept = shown_runs(store)
    for changes in ({"budget": Budget(steps=7)}, {"fingerprint": "old"}, {"code": "edited"}):
        spec = made.run_spec(store.suite, "easy", "mean", "f0", 0, **changes)
        store.publish_run(spec.run_id, made.record(spec, "mean", "failed", finished="2025-01-01T00:00:00"))
    assert cli("forget", "r", "--condition", digest(current_runs.conditions_of(made.run_spec(
        store.suite, "easy", "mean", "f0", 0, budget=Budget(steps=7))))[:6], "--yes").code == 0  # fmt: skip
    assert len(shown_runs(store)) == 5
    said = cli("forget", "r", "--superseded", "--yes")
    assert "2 runs" in said.out, said.err
    assert shown_runs(store) == kept


@pytest.mark.parametrize(("options", "refusal"), [
    ((), ("option-missing", "--suite", "--superseded")),
    (("--suite", "made-down"), ("results-unknown-name", "'made-down'")),
    (("-m", "maen"), ("results-unknown-name", "'maen'", "'mean'")),
    (("--condition", "1 h"), ("results-unknown-name", "'1 h'")),
    (("--condition", ""), ("option-bad-value", "--condition")),
    (("--condition", " "), ("option-bad-value", "--condition")),
    (("--older", "yesterday"), ("option-bad-value", "'yesterday'")),
    (("--outcome", "fine"), ("option-bad-value", "'fine'", "failed")),
])  # fmt: skip
def test_forget_refuses(tmp_path, cli, options, refusal):
    store = made.fill(tmp_path / "r", made.suite(data=("easy",)), ("mean",), n=20, folds=FOLDS, seeds=1, costs=False)
    said = cli("forget", "r", *options, "--yes")
    assert said.code == 1
    assert_refused(said.err, *refusal)
    assert len(shown_runs(store)) == 3


def test_forget_follows_no_link(tmp_path, cli):
    store = made.fill(tmp_path / "r", made.suite(data=("easy",)), ("mean",), n=20, folds=FOLDS, seeds=1, costs=False)
    outside = tmp_path / "outside"
    run_folder = next(store.runs.iterdir())
    run_folder.rename(outside)
    run_folder.symlink_to(outside)
    said = cli("forget", "r", "-m", "mean", "--yes")
    assert said.code == 1
    assert_refused(said.err, "path-outside")
    assert (outside / "run.json").exists()
    assert len(shown_runs(store)) == 3


def test_forget_removes_nothing_where_requests_are_a_link(tmp_path, cli):
    store = made.fill(tmp_path / "r", made.suite(data=("easy",)), ("mean",), n=20, folds=FOLDS, seeds=1, costs=False)
    request(store, "2028-01-01T00:00:00+00:00", ["mean"], 3, 1)
    outside = tmp_path / "outside"
    (store.folder / "requests").rename(outside)
    (store.folder / "requests").symlink_to(outside)
    said = cli("forget", "r", "-m", "mean", "--yes")
    assert said.code == 1
    assert_refused(said.err, "path-outside", "requests")
    assert len(shown_runs(store)) == 3
    assert len(list(outside.iterdir())) == 1


def test_forget_waits_for_a_run_at_work(tmp_path, cli):
    store = made.fill(tmp_path / "r", made.suite(data=("easy",)), ("mean",), n=20, folds=FOLDS, seeds=1, costs=False)
    with Session(store.folder):
        said = cli("forget", "r", "-m", "mean", "--yes")
    assert said.code == 1
    assert_refused(said.err, "place-busy")
    assert len(shown_runs(store)) == 3


@pytest.mark.parametrize(("age_s", "code"), [(0, 1), (3600, 0)])
def test_forget_waits_for_a_run_at_work_on_another_machine(tmp_path, cli, age_s, code):
    store = made.fill(tmp_path / "r", made.suite(data=("easy",)), ("mean",), n=20, folds=FOLDS, seeds=1, costs=False)
    claim = store.folder / ".claims" / "a.claim"
    claim.parent.mkdir()
    claim.write_text(json.dumps({"host": "elsewhere", "kernel": "another", "pid": 1, "since": 0}))
    os.utime(claim, (time.time() - age_s,) * 2)
    assert cli("forget", "r", "-m", "mean", "--yes").code == code
    assert len(shown_runs(store)) == (3 if code else 0)


def test_forget_after_a_run_that_was_killed(tmp_path, cli):
    store = made.fill(tmp_path / "r", made.suite(data=("easy",)), ("mean",), n=20, folds=FOLDS, seeds=1, costs=False)
    claim = store.folder / ".claims" / "a.claim"
    claim.parent.mkdir()
    claim.write_text(json.dumps({"host": HOST, "kernel": claims._kernel(), "pid": 2**22 - 1, "since": 0}))
    assert cli("forget", "r", "-m", "mean", "--yes").code == 0
    assert shown_runs(store) == set()


def test_status_and_dry_run_from_the_records(tmp_path, cli):
    write_cohort(tmp_path, 24)
    (tmp_path / "s.toml").write_text(SUITE)
    assert "4 missing" in cli("status", "s.toml", "--results", "r").out
    ran = cli("run", "s.toml", "--results", "r", "--report", "none", "-m", "mean")
    assert ran.code == 0, ran.err
    assert "AUC" in ran.out  # the table, though no report was written
    with patch("milbench.runs.plan.make_plan", side_effect=AssertionError("nothing is planned")):
        said = cli("status", "s.toml", "--results", "r")
        assert said.code == 0, said.err
        assert "2 ok" in said.out
        assert "2 missing" in said.out
        part = cli("status", "s.toml", "--results", "r", "-m", "Mean", "--seeds", "3")
        assert ("2 ok" in part.out, "4 missing" in part.out) == (True, True)
        with Session(tmp_path / "r" / "s-v1") as session:
            session.phase("runs", 4.0)
            session.progress(2, 4)
            share = session.start("a", "d max fold f0 seed 0", 2.0, epochs=50)
            reporter(share)(0.5, {"epoch": 25})
            session._write(force=True)
            now = cli("status", "s.toml", "--results", "r").out
        assert "epoch 25 of 50" in now
        assert "2 of 4 done" in now
    assert not (tmp_path / "r" / "s-v1" / ".live").exists()

    text = SUITE.replace("[recipe]", "[budget]\nsteps = 3\n[recipe]")
    (tmp_path / "s.toml").write_text(text)
    said = cli("run", "s.toml", "--results", "r", "--dry-run", "-m", "mean")
    assert "2 finished runs of mean not used: budget.steps was None and is 3" in said.out


def test_labels_edited_since_the_runs(tmp_path, cli):
    write_cohort(tmp_path, 24)
    (tmp_path / "s.toml").write_text(SUITE)
    assert cli("run", "s.toml", "--results", "r", "--report", "none").code == 0
    assert "4 ok" in cli("status", "s.toml", "--results", "r").out
    labels = pd.read_csv(tmp_path / "labels.csv")
    first = [int(labels.index[labels["label"] == label][0]) for label in sorted(labels["label"].unique())]
    labels.loc[first, "label"] = labels.loc[first[::-1], "label"].to_numpy()
    labels.to_csv(tmp_path / "labels.csv", index=False)
    said = cli("status", "s.toml", "--results", "r").out
    assert "4 missing" in said
    assert "ok" not in said

    assert cli("run", "s.toml", "--results", "r", "--report", "none", "-m", "mean").code == 0
    with refused("runs-not-done", "max") as error:
        kept_models(tmp_path / "r", "s", "max")
    assert "milbench run s.toml -m max" in str(error.value)


OWN = """from request_helper import scale
from milbench import Card
from milbench.baselines.mean import MeanPooling


class Own(MeanPooling):
    card = Card(title="Own", family="iid", citation="Nobody.")
    factor = scale()
"""


def test_status_tells_that_a_helper_was_edited(tmp_path, cli):
    write_cohort(tmp_path, 24)
    (tmp_path / "request_helper.py").write_text("def scale():\n    return 1.0\n")
    (tmp_path / "request_own.py").write_text(OWN)
    (tmp_path / "s.toml").write_text(SUITE.replace('"max"', '"request_own:Own"'))
    assert cli("run", "s.toml", "--results", "r", "--report", "none").code == 0

    def counts(*words):
        with patch("milbench.runs.plan.make_plan", side_effect=AssertionError("nothing is planned")):
            said = cli("status", "s.toml", "--results", "r", *words)
        assert said.code == 0, said.err
        return {word: int(n) for n, word in re.findall(r"^ +(\d+) (ok|missing)$", said.out, re.M)}, said.out

    assert counts()[0] == {"ok": 4}
    before = (tmp_path / "request_helper.py").read_bytes()
    (tmp_path / "request_helper.py").write_bytes(before + b"# edited\n")
    actual, text = counts()
    assert actual == {"ok": 2, "missing": 2}
    assert "request_own:Own" in text
    assert "2 to do" in cli("run", "s.toml", "--results", "r", "--dry-run").out  # what run itself says
    (tmp_path / "request_helper.py").write_bytes(before)
    assert counts()[0] == {"ok": 4}
    (tmp_path / "request_helper.py").unlink()  # the records do not tell any more: it has to be planned
    with patch("milbench.runs.plan.make_plan", side_effect=MilbenchError("planned")):
        assert cli("status", "s.toml", "--results", "r").code == 1


PLAIN = {"epochs": 1, "patience": None, "grad_clip": None}
BUDGET, SEARCH = Budget(steps=2, trials=1), Tuning(sampler="random")


def counts_of(suite, results):
    """Return how many runs, costs and trials are missing by ``milbench status`` and by a plan; None where it plans."""
    stated = standing(suite, results)
    if stated is None:
        return None
    plan = make_plan(suite, results)
    todo = len(plan.todo()) + sum(planned.outcome is None for planned in tuned_runs(plan))
    trials = sum(trials_left(plan).values())
    missing = sum(run is None for run in stated.runs.values())
    return (missing, stated.costs, stated.trials[1] - stated.trials[0]), (todo, costs_left(plan, "missing"), trials)


@pytest.mark.parametrize(
    ("first", "edit"),
    [
        ({}, {"stacked": 4}),
        ({"stacked": 4}, {"stacked": 1}),
        ({}, {"cost": True}),
        ({"budget": BUDGET, "tuning": SEARCH}, {"tuning": SEARCH.model_copy(update={"seed": 5})}),
        ({"budget": BUDGET, "tuning": SEARCH}, {"tuning": SEARCH.model_copy(update={"space": {}})}),
    ],
)  # fmt: skip
def test_status_counts_as_missing_what_run_makes_after_an_edit(tmp_path, first, edit):
    small.write_cohort(tmp_path)
    suite, results = small.suite(tmp_path, recipe=PLAIN, **first), tmp_path / "r"
    run(suite, results, jobs=1)
    before = counts_of(suite, results)
    assert before == ((0, 0, 0), (0, 0, 0))
    answer = counts_of(suite.model_copy(update=edit), results)
    assert answer is None or answer[0] == answer[1]


def test_status_counts_a_run_as_missing_that_a_shorter_timeout_stopped(tmp_path):
    small.write_cohort(tmp_path)
    suite, results = small.suite(tmp_path), tmp_path / "r"
    (record,) = run(suite, results, jobs=1)
    spec = record.spec.model_copy(update={"budget": Budget(timeout_s=5.0)})
    late = {"spec": spec.model_dump(mode="json"), "method_canonical": "mean", "outcome": "timeout", "reason": "late"}
    make_plan(suite, results).store.publish_run(record.path.name, late, overwrite=True)
    for timeout, missing in ((None, 1), (9.0, 1), (5.0, 0), (1.0, 0)):
        now = suite.model_copy(update={"budget": Budget(timeout_s=timeout)})
        assert counts_of(now, results) == ((missing, 0, 0), (missing, 0, 0))
        assert standing(now, results).stopped == missing


def test_status_counts_the_costs_of_methods_that_were_left_out_of_the_last_request(tmp_path):
    small.write_cohort(tmp_path)
    suite, results = small.suite(tmp_path, methods=("mean", "max"), cost=True), tmp_path / "r"
    run(suite, results, jobs=1, methods=["mean"])
    assert counts_of(suite, results) == ((1, 1, 0), (1, 1, 0))


def flip(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def test_a_damaged_run_is_reported_before_anything_runs(tmp_path, cli):
    write_cohort(tmp_path, 24)
    (tmp_path / "s.toml").write_text(SUITE)
    assert cli("run", "s.toml", "--results", "r", "--report", "none", "-m", "mean").code == 0
    one, other = sorted((tmp_path / "r" / "s-v1" / "runs").iterdir())
    flip(one / "predictions.parquet")
    said = cli("status", "s.toml", "--results", "r").out
    assert re.findall(r"^ +(\d+) (ok|missing|damaged)$", said, re.M) == [
        ("2", "missing"),
        ("1", "damaged"),
        ("1", "ok"),
    ]
    assert one.name in said
    assert other.name not in said
    ran = cli("run", "s.toml", "--results", "r", "--report", "none")
    assert (ran.code, "done already" in ran.out, one.name in ran.err) == (1, False, True)
    assert len(list(one.parent.iterdir())) == 2  # nothing has run
    (other / "history.csv").unlink()
    assert_refused(cli("run", "s.toml", "--results", "r", "--dry-run").err, "store-damaged", "1")
    plan = make_plan("s.toml", "r")
    refuse_damaged(plan, plan.todo("all"))  # what is made anew is no obstacle


def test_one_damaged_suite_does_not_hide_the_others(tmp_path, cli):
    for name in ("one", "two"):
        suite = made.suite(data=("easy",)).model_copy(update={"name": name})
        made.fill(tmp_path / "r", suite, ("mean", "max"), n=24, folds=FOLDS[:1], seeds=1, costs=False)
    whole = cli("leaderboard", "r", "--format", "csv", "--resamples", "10")
    assert whole.code == 0, whole.err
    assert {line.split(",")[0] for line in whole.out.splitlines()[1:]} == {"one", "two"}
    bad = next((tmp_path / "r" / "one-v1" / "runs").glob("*/predictions.parquet"))
    flip(bad)
    part = cli("leaderboard", "r", "--format", "csv", "--resamples", "10")
    assert part.code == 2
    assert part.out.splitlines() == [line for line in whole.out.splitlines() if not line.startswith("one,")]
    assert sum(str(bad.parent.name) in line for line in part.err.splitlines()) == 1
    assert cli("leaderboard", "r", "--suite", "one", "--resamples", "10").code == 1
    assert cli("leaderboard", "r", "--out", "report", "--resamples", "10").code == 1
    assert not (tmp_path / "report").exists()


def test_leaderboard_takes_a_suite(tmp_path, cli):
    (tmp_path / "s.toml").write_text(SUITE)
    for name in ("s", "t"):
        suite = made.suite(data=("easy",)).model_copy(update={"name": name})
        made.fill(tmp_path / "r", suite, ("mean", "max"), n=24, folds=FOLDS[:1], seeds=1, costs=False)
    options = ("--format", "csv", "--resamples", "10")
    named = cli("leaderboard", "r", "--suite", "s", *options)
    given = cli("leaderboard", "s.toml", "--results", "r", *options)
    assert (given.code, given.out) == (0, named.out)
    assert cli("leaderboard", "--results", "r", *options).out == cli("leaderboard", "r", *options).out
    assert cli("leaderboard", "s.toml", *options).code == 1  # nothing in results/runs
    assert cli("leaderboard", "s.toml", "--results", "r", "--suite", "t", *options).code == 1
    assert cli("leaderboard", "r", "--results", "r", *options).code == 1


def test_status_tells_a_last_request_of_other_seeds(tmp_path, cli):
    write_cohort(tmp_path, 24)
    (tmp_path / "s.toml").write_text(SUITE)
    assert cli("run", "s.toml", "--results", "r", "--report", "none", "--seeds", "2", "-m", "mean").code == 0
    first = cli("status", "s.toml", "--results", "r").out.splitlines()[0]
    assert re.findall(r"(\d+) runs", first) == ["4", "4"]  # two methods of one seed; one method of two
    first = cli("status", "s.toml", "--results", "r", "--seeds", "2", "-m", "mean").out.splitlines()[0]
    assert re.findall(r"(\d+) runs", first) == ["4"]


def test_status_of_runs_never_requested_shows_the_ones_at_work(tmp_path, cli):
    write_cohort(tmp_path, 24)
    (tmp_path / "s.toml").write_text(SUITE)
    with Session(tmp_path / "r" / "s-v1") as session:
        session.phase("tuning", 30.0)
        session.progress(11, 30)
        assert "11 of 30 done" in cli("status", "s.toml", "--results", "r", "--budget", "3 trials").out


def test_finished_runs_are_reported_at_once(tmp_path):
    with Session(tmp_path) as session:
        for done in range(3):
            session.progress(done, 3)
            assert [state.done for state in sessions(tmp_path)] == [done]


def test_a_dead_session_is_not_at_work_and_goes_with_the_next(tmp_path):
    dead = tmp_path / ".live" / f"4194304-{HOST}"
    dead.mkdir(parents=True)
    (dead / "session.json").write_text("{")
    assert sessions(tmp_path) == []
    with Session(tmp_path):
        assert not dead.exists()
        assert [state.pid for state in sessions(tmp_path)] == [os.getpid()]
    assert not (tmp_path / ".live").exists()


def test_time_left_follows_from_what_is_done():
    state = State(1, began=0.0, work_done=3.0, work_left=7.0, running=[Item("a", 0.0, work=2.0, share=0.5)])
    assert state.seconds_left(now=8.0) == pytest.approx((7.0 - 1.0) * 8.0 / (3.0 + 1.0))
    assert State(1, began=0.0, work_left=7.0).seconds_left(now=8.0) is None


@pytest.mark.parametrize("verb", ["run", "tune", "audit", "status"])
@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("methods = [", "config-invalid"),
        ('methods = ["mean"]\nseeds = "two"\n', "suite-missing-field"),
        ("sedes = 1\n", "suite-unknown-field"),
    ],
)
def test_a_suite_that_does_not_parse_is_refused_before_torch_is_imported(tmp_path, verb, text, code):
    (tmp_path / "s.toml").write_text(text)
    program = (
        "import sys; sys.argv = ['milbench', *sys.argv[1:]]\nfrom milbench.cli import main\n"
        "try: main()\nfinally: print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program, verb, "s.toml"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stdout.strip() == "False"
    assert_refused(done.stderr, code, "s.toml")
    assert "Traceback" not in done.stderr


def test_init_refuses_an_existing_suite_before_torch_is_imported(tmp_path):
    (tmp_path / "s.toml").write_text("")
    code = (
        "import sys; sys.argv = ['milbench', *sys.argv[1:]]\nfrom milbench.cli import main\n"
        "try: main()\nfinally: print('torch' in sys.modules)"
    )
    words = ["init", "--features", "nowhere", "--out", "s.toml"]
    done = subprocess.run([sys.executable, "-c", code, *words], cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (1, "False")
    assert_refused(done.stderr, "already-exists", "s.toml")


def moment(busy, at="2026-01-01T10:00:00+00:00", cores=2.0, threads=1):
    return {"busy_cores": busy, "cores": cores, "threads": threads, "at": at}


@pytest.mark.parametrize(("actual", "noted"), [
    (moment(1.0), False), (moment(1.9), True), (moment(2.0, threads=2), False), (moment(9.0, cores=64.0), False),
])  # fmt: skip
def test_costs_that_others_disturbed_are_marked(actual, noted):
    notes = cost_notes({("s-v1 / d", "mean"): {"moments": [moment(1.0), actual]}, ("s-v1 / d", "max"): {}})
    unknown = [(False, True)]  # measured by a milbench that recorded no moment
    assert [("mean" in note, "max" in note) for note in notes] == unknown + [(True, False)] * noted


def test_costs_of_different_hours_are_marked():
    records = {("s-v1 / d", name): {"moments": [moment(1.0, f"2026-01-0{day}T10:00:00+00:00")]}
               for name, day in (("mean", 1), ("max", 3))}  # fmt: skip
    (note,) = cost_notes(records)
    assert "2026-01-01 10:00" in note
    assert "2026-01-03 10:00" in note


def at_rate(product, copy=1.0, load=1.0):
    moments = [moment(1.0) | {"load_1min": load, "yardstick": {"flops_per_s": product * f, "copy_bytes_per_s": copy}}
               for f in (0.5, 1.0, 1.0)]  # fmt: skip
    return {"moments": moments}


@pytest.mark.parametrize(("other", "noted"), [
    (at_rate(1.0), []), (at_rate(0.85), []), (at_rate(0.75), ["b"]), (at_rate(1.3), ["a"]), (at_rate(1.0, 0.7), ["b"]),
])  # fmt: skip
def test_costs_of_moments_in_which_the_machine_had_other_rates_are_marked(other, noted):
    records = {("s-v1 / d", "a"): at_rate(1.0), ("s-v1 / d", "b"): other}
    notes = cost_notes(records)
    assert [re.findall(r"cost of (\w+)", note) for note in notes] == [noted] * bool(noted)
    assert apart(*records.values()) == bool(noted)
    assert not apart(at_rate(1.0), {})


def test_runs_under_device_seconds_on_a_slow_machine_are_marked():
    def ran(rate):
        return {"moment": at_rate(rate, load=3.5)["moments"][1], "environment": {"fingerprint": "e"}}

    runs = {("max", "f0", seed): ran(rate) for seed, rate in enumerate((1.0, 0.9, 0.6))}
    (note,) = budget_notes("s-v1 / d", runs)
    assert "60%" in note
    assert "3.5" in note
    runs["max", "f0", 2]["environment"] = {"fingerprint": "another"}  # machines are not compared
    assert budget_notes("s-v1 / d", runs) == []
    assert len(budget_notes("s-v1 / d", {("max", "f0", 0): {}})) == 1


def test_load_counts_the_cores_that_are_busy():
    readings = iter([10.0, 13.0])
    clock = iter([0.0, 2.0])
    with (
        patch("milbench.measure.load._busy_seconds", lambda: next(readings)),
        patch("time.monotonic", lambda: next(clock)),
    ):
        assert Load().reading()["busy_cores"] == pytest.approx(1.5)


@pytest.mark.parametrize(("runs", "cores", "threads"), [(1, 8, 8), (3, 8, 2), (8, 8, 1), (40, 8, 1), (0, 4, 4)])
def test_threads_leave_no_core_idle(runs, cores, threads):
    assert threads_for(runs, cores) == threads
