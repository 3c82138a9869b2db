"""Tables show the runs that were asked for last: seeds, folds, methods and timeouts that change from run to run."""

import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

import milbench
from milbench import asked
from milbench.data.cache import CacheWriter
from milbench.errors import MilbenchError
from milbench.plan import Finished, make_plan
from milbench.ranking import compare, leaderboard
from milbench.runner import run
from milbench.scoring import read_cohorts
from milbench.spec import Budget, Suite, digest
from milbench.store import read_runs

_spec = importlib.util.spec_from_file_location("synthetic", Path(__file__).parents[1] / "synthetic.py")
made = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(made)

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
    found = asked.requests_of({s.run_id: (m, s) for m, s in specs}, when, store.suite.methods, 1, "made-up.toml")
    asked.record_requests(store, found)
    asked.renew(store, {s.run_id for _, s in specs}, when)


REQUESTS = st.tuples(
    st.lists(st.sampled_from(METHODS), min_size=1, unique=True), st.integers(1, len(FOLDS)), st.integers(1, SEEDS),
    st.sampled_from([None, 60.0, 900.0]),
)  # fmt: skip


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(REQUESTS, min_size=1, max_size=4))
def test_a_table_shows_exactly_the_last_request(store, requests):
    for number, (methods, folds, seeds, timeout_s) in enumerate(requests):
        request(store, f"2027-01-01T00:00:0{number}+00:00", methods, folds, seeds, timeout_s)
    (table,) = read_cohorts(store.root)
    cells = {(fold, seed) for fold in FOLDS[:folds] for seed in range(seeds)}
    assert set(table.runs) == set(methods)
    assert all(set(runs) == cells for runs in table.runs.values())
    assert set(table.cells) == cells
    further = len(METHODS) * len(FOLDS) * SEEDS - len(methods) * len(cells)
    assert sum(f"{further} further run" in note and "--all" in note for note in table.notes) == (further > 0)
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
    with pytest.raises(MilbenchError, match=r"3 further runs.*mean.*--all"):
        read_cohorts(store.root)
    assert len(read_cohorts(store.root, all_runs=True)[0].runs["mean"]) == 3


def test_results_of_earlier_versions_are_shown_whole(tmp_path):
    store = made.fill(tmp_path, made.suite(data=("easy",)), ("mean", "abmil"), n=20, folds=FOLDS, seeds=2, costs=False)
    (table,) = read_cohorts(store.root)
    assert {m: len(runs) for m, runs in table.runs.items()} == {"mean": 6, "abmil": 6}
    assert not any("further" in note for note in table.notes)


def test_a_damaged_request_is_named(tmp_path):
    store = made.fill(tmp_path, made.suite(data=("easy",)), ("mean",), n=20, folds=FOLDS, seeds=1, costs=False)
    request(store, "2028-01-01T00:00:00+00:00", ["mean"], 3, 1)
    (file,) = store.folder.glob("requests/*.json")
    file.write_text(file.read_text().replace('"f1"', '"f9"'))
    with pytest.raises(MilbenchError, match=r"requests.*damaged.*run the suite again"):
        read_cohorts(store.root)
    request(store, "2028-01-01T00:00:01+00:00", ["mean"], 3, 1)
    assert len(read_cohorts(store.root)[0].cells) == 3


# --- the whole way, with models -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    """A cohort of 24 small slides beside its suite; the label shifts the features."""
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


def test_runs_stored_under_a_timeout_are_found(cohort, tmp_path):
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
    (found,) = run(suite, tmp_path / "b", timeout_s=now)
    assert (found.outcome, found.path.name == old) == (("ok", False) if again else ("timeout", True))
    assert len(read_runs(tmp_path / "b")) == 1


def test_an_ok_run_is_shown_beside_the_same_run_that_was_stopped(cohort, tmp_path):
    suite = suite_of(cohort, split={"use": 1})
    (record,) = run(suite, tmp_path)
    store = make_plan(suite, tmp_path).store
    as_before(record, store, 5.0, "timeout")
    as_before(record, store, 900.0)
    for all_runs in (False, True):
        table = milbench.leaderboard(tmp_path, resamples=10, all_runs=all_runs)
        assert table[["runs", "runs_ok"]].to_numpy().tolist() == [[1, 1]]
        assert not any("left out" in note for note in table.attrs["notes"])
    assert Finished(store).state(record.spec)["outcome"] == "ok"


def test_compare_after_the_cohort_grew(tmp_path):
    for n, method in ((24, "mean"), (28, "max")):
        write_cohort(tmp_path, n)
        (tmp_path / "s.toml").write_text(SUITE)
        run(tmp_path / "s.toml", tmp_path / "r", methods=[method])
    with pytest.raises(
        MilbenchError, match=r"mean was run on other slides than max \(24 and 28\).*milbench run .*s\.toml -m mean"
    ):
        compare("mean", "max", tmp_path / "r")
    with pytest.raises(MilbenchError, match=r"mean was run on other slides than max \(24 and 28\)"):
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
    table = milbench.leaderboard(tmp_path / "r", resamples=10)
    assert sorted(table["method"]) == ["abmil", "mean"]
    assert not any("still to be made" in note for note in table.attrs["notes"])
    (file,) = (tmp_path / "r").glob("*/requests/*.json")
    assert json.loads(file.read_text())["suite_methods"] == ["mean", "abmil"]
