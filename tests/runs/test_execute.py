"""Plans, what is run again and what is not, and what is refused before anything runs."""

import io
import json
import pickle
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from support.refusal import refused
from support.small import ODD, suite, write_cohort, write_labels

import milbench
from milbench.config import Budget, DataSpec, Protocol, SplitSpec
from milbench.errors import MilbenchError
from milbench.evaluation.leaderboard import evaluate
from milbench.measure.environment import environment, now
from milbench.runs import execute as runner
from milbench.runs.costs.benchmark import COUNTED
from milbench.runs.costs.schedule import measure_costs, pending_costs
from milbench.runs.execute import execute, run
from milbench.runs.launchers.base import Outcome
from milbench.runs.plan import make_plan
from milbench.runs.records import read_costs, read_runs

PLAIN = ODD + "Plain"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cohort")
    write_cohort(folder)
    return folder


@pytest.fixture(scope="module")
def done(folder, tmp_path_factory):
    """A finished suite: two methods, two seeds, one of them failing."""
    results = tmp_path_factory.mktemp("results")
    small = suite(folder, ("mean", ODD + "Lost"), seeds=2)
    return small, results, run(small, results, jobs=2)


def files(results):
    return {p: (p.stat().st_ino, p.stat().st_mtime_ns) for p in results.rglob("*.*") if "runs" in p.parts[-3:]}


def predictions(records):
    return {
        (r.spec.data, r.method, r.spec.fold, r.spec.seed): r.predictions()[["slide_id", "split", "p0", "p1"]]
        for r in records
    }


def assert_same(one, other):
    assert one.keys() == other.keys()
    for key in one:
        assert one[key].equals(other[key]), key


def test_a_plan_is_cohorts_times_methods_times_folds_times_seeds(folder):
    data = DataSpec(name="own", cache="cache", labels="labels.csv", split=SplitSpec(folds=2, val_fraction=0.3))
    two = suite(folder, ("mean", "abmil", "max"), seeds=2)
    two = two.model_copy(update={"data": (*two.data, data)})
    plan = make_plan(two, folder / "none")
    assert len(plan.runs) == 3 * 2 * (1 + 2)
    assert len({planned.spec.run_id for planned in plan.runs}) == len(plan.runs)
    assert len(plan.todo()) == len(plan.runs)
    assert not (folder / "none").exists()
    assert [str(p) for p in plan.runs[:2]] == [
        "d abmil fold fold0 seed 0",
        "d abmil fold fold0 seed 1",
    ]  # largest first
    assert len(make_plan(two, folder / "none", methods=["max"], seeds=5).runs) == 5 * 3


def test_one_method_spelled_in_several_ways_is_run_once(folder):
    spellings = ("abmil", "abmil[]", " abmil [gated=false]", "abmil[dropout=0,embed_dim=none]", "abmil[gated=true]",
                 "abmil[ dropout=0.0, gated=True ]")  # fmt: skip
    plan = make_plan(suite(folder, spellings), folder / "none")
    assert [p.method.canonical for p in plan.runs] == ["abmil[gated=true]", "abmil"]


def test_run_twice_does_nothing(done):
    small, results, records = done
    assert sorted((r.method, r.spec.seed, r.outcome) for r in records) == [
        ("mean", 0, "ok"), ("mean", 1, "ok"), (ODD + "Lost", 0, "failed"), (ODD + "Lost", 1, "failed"),
    ]  # fmt: skip
    before, steps = files(results), []
    assert len(before) == 2 * 3 + 2  # record, predictions and history, or a record alone
    again = run(small, results, on_progress=steps.append)
    assert steps == []
    assert files(results) == before
    assert {r.path for r in again} == {r.path for r in records}
    assert [r.path.name for r in records] == [r.spec.run_id for r in records]


def test_overwrite(done):
    small, results, records = done
    plan = make_plan(small, results)
    count = {how: len(plan.todo(how)) for how in ("missing", "failed", "all")}
    assert count == {"missing": 0, "failed": 2, "all": 4}
    before = {r.path: (r.path / "run.json").stat().st_ino for r in records}
    run(small, results, overwrite="failed")
    after = {r.path: (r.path / "run.json").stat().st_ino for r in records}
    assert {r.outcome for r in records if before[r.path] != after[r.path]} == {"failed"}
    assert {r.outcome for r in records if before[r.path] == after[r.path]} == {"ok"}
    kept = predictions(r for r in records if r.outcome == "ok")
    run(small, results, methods=["mean"], overwrite="all")
    assert_same(kept, predictions(r for r in read_runs(results) if r.outcome == "ok"))
    assert not list(results.rglob(".*"))
    with refused("option-bad-value", "overwrite", "'some'", "missing, failed, all"):
        plan.todo("some")


def test_neither_order_nor_company_changes_a_prediction(folder, tmp_path):
    methods = ("mean", ODD + "Drops", "abmil")
    alone = run(suite(folder, methods, seeds=2), tmp_path / "a", jobs=1)
    together = run(suite(folder, methods[::-1], seeds=2), tmp_path / "b", jobs=3)
    assert_same(predictions(alone), predictions(together))
    assert len({json.dumps(p.p0.tolist()) for p in predictions(alone).values()}) == 6


def pickled(task):
    """Return a task's bytes without what differs between equal tasks: shared strings, and the order of a set."""
    out = io.BytesIO()
    pickler = pickle.Pickler(out)
    pickler.fast = True  # of equal strings it does not matter which are one object
    pickler.dump((replace(task, spec=None), task.spec.model_dump_json()))
    return out.getvalue()


def test_test_labels_reach_neither_a_task_nor_a_prediction(tmp_path):
    """Flip every test label: the tasks are the same bytes but for the fingerprint, the predictions the same bits."""
    parts = write_cohort(tmp_path)
    small = suite(tmp_path, ("mean", "abmil"))
    honest = make_plan(small, tmp_path / "honest")
    unchanged = predictions(execute(honest))
    write_labels(tmp_path, parts | {"test": [(slide, 1 - label) for slide, label in parts["test"]]})
    poisoned = make_plan(small, tmp_path / "poisoned")
    assert poisoned.cohorts[0].labels != honest.cohorts[0].labels
    for before, after in zip(honest.runs, poisoned.runs, strict=True):
        assert before.spec.fingerprint != after.spec.fingerprint
        same = replace(after.task, spec=after.spec.model_copy(update={"fingerprint": before.spec.fingerprint}))
        assert pickled(same) == pickled(before.task)
        known = {slide for slide, _ in (*before.task.train, *before.task.val)}
        assert known.isdisjoint(before.task.test)
        assert all(isinstance(slide, str) for slide in before.task.test)
    assert_same(unchanged, predictions(execute(poisoned)))
    for cost in pending_costs(honest, "missing"):
        assert all(isinstance(slide, str) for slide in cost.task.test)


def test_tables_show_the_runs_of_the_last_request(tmp_path):
    """Labels are changed, run, and changed back: no run is left to do, and the table is the first one again."""
    parts = write_cohort(tmp_path)
    small, results = suite(tmp_path, ("mean", "abmil"), seeds=2), tmp_path / "r"

    def table():
        run(small, results)
        return milbench.leaderboard(results, resamples=20)

    first = table()
    flipped = {part: [(slide, 1 - label if i < 2 else label) for i, (slide, label) in enumerate(of)]
               for part, of in parts.items()}  # fmt: skip
    write_labels(tmp_path, flipped)
    second = table()
    assert not second["auc"].equals(first["auc"])
    write_labels(tmp_path, parts)
    assert not make_plan(small, results).todo()
    third = table()
    pd.testing.assert_frame_equal(third, first)
    (note,) = (note for note in evaluate(results, resamples=20).notes if "left out" in note)
    reason = "other features, labels or folds than those of the last request"
    assert note == f"small-v1 / d: left out 4 runs made with {reason}."
    before = files(results)
    run(small, results)
    assert files(results) == before  # they are of the last request already: nothing is written
    write_labels(tmp_path, flipped)
    pd.testing.assert_frame_equal(table(), second)
    assert not list(results.rglob(".*"))


def test_code_changed_and_changed_back(tmp_path):
    """The table is of the code as it is, not of the code that was run last."""
    write_cohort(tmp_path)
    small, results = suite(tmp_path, ("mean",)), tmp_path / "r"
    run(small, results)
    first = milbench.leaderboard(results, resamples=20)
    (record,) = read_runs(results)
    spec = record.spec.model_copy(update={"code": "edited"})
    edited = record.record | {"spec": spec.model_dump(mode="json"), "run_id": spec.run_id, "finished": now()}
    make_plan(small, results).store.publish_run(
        spec.run_id, edited, record.predictions().assign(p0=0.5, p1=0.5, s0=0.0, s1=0.0)
    )
    assert milbench.leaderboard(results, resamples=20)["auc"].tolist() == first["auc"].tolist()  # never requested
    for file in results.glob("*/requests/*.json"):  # as earlier versions left results
        file.unlink()
    assert milbench.leaderboard(results, resamples=20)["auc"].tolist() == [0.5]
    run(small, results)
    pd.testing.assert_frame_equal(milbench.leaderboard(results, resamples=20), first)


def test_recipes_are_laid_one_over_the_other(folder):
    small = suite(folder, ("mean", "abmil", "abmil[gated=true]"), recipe={"lr": 0.5, "patience": 3},
                  recipes={"abmil": {"lr": 0.25}})  # fmt: skip
    actual = {p.method.canonical: p.spec.recipe for p in make_plan(small, folder / "none").runs}
    assert {name: recipe.lr for name, recipe in actual.items()} == {
        "mean": 0.5,
        "abmil": 0.25,
        "abmil[gated=true]": 0.25,
    }
    assert {recipe.patience for recipe in actual.values()} == {3}
    own = milbench.create("abmil", 4).recipe
    assert actual["abmil"].optimizer == own.optimizer
    assert actual["abmil"].weight_decay == own.weight_decay
    only = make_plan(small, folder / "none", methods=["mean"])  # a table for a method that is not run now is no mistake
    assert [p.method.name for p in only.runs] == ["mean"]


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        (
            {"recipes": {"abmli": {"lr": 1.0}}},
            ("method-unknown", "[recipes.abmli]", "'abmil'"),
        ),
        ({"recipes": {"abmil": {"learning_rate": 1.0}}}, ("suite-unknown-field", "recipes.abmil.learning_rate", "lr")),
        ({"recipe": {"keep_models": "best"}}, ("suite-unknown-field", "recipe.keep_models", "[table]")),
        ({"recipe": {"epoch": 3}}, ("suite-unknown-field", "recipe.epoch", "'epochs'")),
        ({"recipe": {"lr": -1}}, ("suite-bad-value", "recipe.lr", "0")),
        ({"methods": ("meen",)}, ("method-unknown", "'meen'", "'mean'")),
        ({"methods": ("support.odd_methods:Missing",)}, ("method-malformed", "support.odd_methods", "'Missing'")),
        ({"methods": ("no_such_module:X",)}, ("method-not-importable", "'no_such_module'")),
        ({"methods": ("transmil[dim=10,heads=3]",)}, ("method-bad-option", "transmil[dim=10,heads=3]", "dim")),
        ({"name": "a/b"}, ("name-bad", "'a/b'")),
    ],
)
def test_a_bad_suite_is_refused_before_anything_is_written(folder, tmp_path, changes, refusal):
    with refused(*refusal):
        run(suite(folder, **({"methods": ("mean", "abmil")} | changes)), tmp_path / "results")
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("settings", "refusal"),
    [
        ({"seeds": 0}, ("option-bad-value", "seeds", "0")),
        ({"timeout_s": -1.0}, ("option-bad-value", "timeout_s", "-1.0")),
        ({"jobs": 0}, ("option-bad-value", "jobs", "0")),
        ({"jobs": -1}, ("option-bad-value", "jobs", "-1")),
        ({"overwrite": "everything"}, ("option-bad-value", "overwrite", "'everything'")),
    ],
)
def test_bad_settings_are_refused(folder, tmp_path, settings, refusal):
    with refused(*refusal):
        run(suite(folder), tmp_path / "results", **settings)
    assert not (tmp_path / "results").exists()


def test_a_cohort_name_that_is_no_folder(folder, tmp_path):
    bad = suite(folder)
    bad = bad.model_copy(update={"data": (bad.data[0].model_copy(update={"name": "my cohort"}),)})
    with refused("name-bad", "cohort", "'my cohort'"):
        run(bad, tmp_path / "results")
    assert not (tmp_path / "results").exists()


def test_a_fold_without_validation(tmp_path):
    write_cohort(tmp_path, val=0)
    with refused("split-no-validation", "fold0 of d", 'checkpoint = "last"'):
        make_plan(suite(tmp_path), tmp_path / "results")
    last = suite(tmp_path, protocol=Protocol(checkpoint="last"))
    (planned,) = make_plan(last, tmp_path / "results").runs
    assert planned.spec.recipe.patience is None
    (record,) = run(last, tmp_path / "results")
    assert set(record.predictions()["split"]) == {"test"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_cuda_without_cuda(folder):
    with refused("device-missing", "suite small", 'device = "auto"'):
        make_plan(suite(folder, device="cuda"), folder / "none")
    (planned,) = make_plan(suite(folder, device="auto"), folder / "none").runs
    assert planned.spec.device_type == "cpu"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"recipe": {"epochs": 3, "patience": 2}}, "recipe"),
        ({"recipes": {"mean": {"lr": 0.5}}}, "recipes"),
        ({"protocol": Protocol(checkpoint="last")}, "protocol"),
        ({"threads": 2}, "threads"),
        ({"unit": "bag"}, "unit"),
    ],
)
def test_a_suite_changed_under_its_version_is_refused(done, changes, field):
    small, results, _ = done
    changed = small.model_copy(update=changes)
    before = files(results)
    with refused("suite-changed", "suite small version 1", results / "small-v1", f"({field} changed)", "--results"):
        run(changed, results)
    assert files(results) == before
    stored = json.loads((results / "small-v1" / "suite.json").read_text())
    assert {key: value for key, value in stored.items() if key != "checksum"} == small.model_dump(mode="json")
    assert len(make_plan(changed.model_copy(update={"version": 2}), results).todo()) == 4


def test_a_slip_is_no_change_of_the_suite(done):
    small, results, _ = done
    for changes, refusal in (
        ({"recipe": {"epoch": 3}}, ("suite-unknown-field", "recipe.epoch")),
        ({"recipes": {"meen": {"lr": 1.0}}}, ("method-unknown", "[recipes.meen]")),
    ):
        with refused(*refusal) as caught:
            run(small.model_copy(update=changes), results)
        assert "raise its version" not in str(caught.value)


def test_what_does_not_change_the_meaning_of_a_run_may_be_changed(done):
    small, results, _ = done
    more = small.model_copy(update={"methods": (*small.methods, "max"), "seeds": 3, "description": "Of two methods.",
                                    "cost": True})  # fmt: skip
    assert len(make_plan(more, results).todo()) == 9 - 4
    data = small.data[0].model_copy(update={"split": small.data[0].split.model_copy(update={"use": 1})})
    assert not make_plan(small.model_copy(update={"data": (data,)}), results).todo()
    assert not make_plan(small, results, timeout_s=60).todo()
    assert len(make_plan(small.model_copy(update={"budget": Budget(memory_bytes=1 << 30)}), results).todo()) == 4


def test_a_suite_without_results_may_be_changed(folder, tmp_path):
    small = suite(folder)
    plan = make_plan(small, tmp_path)
    plan.store.prepare()
    assert (plan.store.folder / "suite.json").exists()
    assert make_plan(small.model_copy(update={"threads": 2}), tmp_path).todo()


def test_the_cost_pass(folder, tmp_path, monkeypatch):
    costly = suite(folder, ("mean", ODD + "Lost", ODD + "BigParameter"), cost=True, seeds=2)
    steps = []
    run(costly, tmp_path, on_progress=steps.append)
    assert len(steps) == 6 + 3 + 1 + 3
    assert [(step.done, step.total) for step in steps[:6]] == [(i, 6) for i in range(1, 7)]
    assert {step.total for step in steps[6:]} == {3}
    assert steps[-1].done == 3
    costs = {record.method: record for record in read_costs(tmp_path)}
    mean, lost, big = costs["mean"].record, costs[ODD + "Lost"].record, costs[ODD + "BigParameter"].record
    assert lost["outcome"] == "failed"
    assert lost["reason"].startswith("infer_memory: KeyError: 'lost' (odd_methods.py:")
    assert "Traceback" in lost["traceback"]
    assert "memory" not in lost
    assert mean["outcome"] == "ok"
    for kind in ("infer", "train"):
        assert big["memory"][f"{kind}_peak_bytes"] > mean["memory"][f"{kind}_peak_bytes"] + (60 << 20)
        assert mean[kind]["bags_per_s"] > 0
        assert mean[kind]["patches_per_s"] > 0
    assert (mean["flops_per_bag_infer"], mean["parameters"]) == (16, 10)
    here = environment()["fingerprint"] if torch.get_num_threads() == 1 else costs["mean"].environment
    assert costs["mean"].environment == here
    # Measured once: not again, and not because this process has other threads than the one that measured.
    monkeypatch.setattr("milbench.runs.costs.schedule.environment", lambda: _with_threads(environment(), 7))
    again = []
    run(costly, tmp_path, on_progress=again.append)
    assert again == []
    run(costly, tmp_path, overwrite="failed", methods=[ODD + "Lost"], on_progress=again.append)
    assert [step.outcome for step in again] == ["failed"] * 3
    again.clear()
    trained = {record.path: (record.path / "run.json").read_bytes() for record in read_runs(tmp_path)}
    run(costly, tmp_path, overwrite="costs", methods=["mean"], on_progress=again.append)
    assert [step.outcome for step in again] == ["ok"] * 3
    measured = {record.method: record.record for record in read_costs(tmp_path)}
    assert measured["mean"]["finished"] > mean["finished"]
    assert measured[ODD + "BigParameter"] == big
    assert {record.path: (record.path / "run.json").read_bytes() for record in read_runs(tmp_path)} == trained


@pytest.fixture
def requested(monkeypatch):
    """The work that the cost pass gives to processes; of max the second round of time runs out of memory."""
    calls = []

    def fake(work, tasks, jobs, timeout_s):
        for key, task in tasks:
            calls.append((task.kind, task.method, task.turn))
            fails = task.kind == "time" and task.method == "max" and task.turn == 1
            yield key, Outcome("oom", "of all", {"record": {"oom": 1}}) if fails else Outcome("ok", "", _made_up(task))

    monkeypatch.setattr("milbench.runs.costs.schedule.run_all", fake)
    return calls


@pytest.fixture
def three(folder, tmp_path):
    plan = make_plan(suite(folder, ("mean", "max", "abmil"), cost=True), tmp_path)
    plan.store.prepare()
    return plan


def timed(requested):
    return [(method, turn) for kind, method, turn in requested if kind == "time"]


def test_methods_take_turns_and_what_fails_takes_no_more(three, tmp_path, requested):
    steps = [(t.cost.task.method, t.turn, t.outcome, t.reason, t.last)
            for t in measure_costs(three.store, list(pending_costs(three, "missing")), 9)]  # fmt: skip
    order = [method for method, _ in timed(requested)[:3]]
    assert sorted(order) == ["abmil", "max", "mean"]
    there, back = [(m, 0) for m in order], [(m, 1) for m in reversed(order)]
    assert timed(requested) == [*there, *back, *((m, 2) for m in order if m != "max")]
    assert steps == [
        (m, t, *(("oom", "time: of all", True) if (m, t) == ("max", 1) else ("ok", "", t == 2)))
        for m, t in timed(requested)
    ]
    kept = {cost.method: cost.record for cost in read_costs(tmp_path)}
    assert [turn["infer_seconds_samples"] for turn in kept["mean"]["turns"]] == [[1.0], [2.0], [3.0]]
    assert kept["mean"]["infer"]["seconds_per_bag"] == 2
    assert (kept["max"]["outcome"], kept["max"]["oom"]) == ("oom", 1)
    assert not list(pending_costs(three, "missing"))
    assert [cost.task.method for cost in pending_costs(three, "failed")] == ["max"]
    assert len(list(pending_costs(three, "all"))) == 3
    assert not list(pending_costs(three, "missing-models"))
    requested.clear()
    list(measure_costs(three.store, list(pending_costs(three, "costs")), 9))
    assert timed(requested) == [*there, *back, *((m, 2) for m in order if m != "max")]
    assert three.todo("costs") == three.todo("missing")


def test_costs_of_another_speed_of_the_machine_are_made_again_beside_new_ones(folder, tmp_path, monkeypatch):
    rate, measured = [1.0], []

    def fake(work, tasks, jobs, timeout_s):
        for key, task in tasks:
            measured.extend([task.method] * (task.kind == "time"))
            yard = {"yardstick": {"flops_per_s": rate[0], "copy_bytes_per_s": 1.0}}
            yield key, Outcome("ok", "", _made_up(task) | (yard if task.kind == "time" else {}))

    monkeypatch.setattr("milbench.runs.costs.schedule.run_all", fake)
    costly = suite(folder, ("mean", "max", "abmil"), cost=True)

    def measured_by(*methods):
        measured.clear()
        run(costly, tmp_path, methods=methods)
        return {method: measured.count(method) for method in measured}

    assert measured_by("mean") == {"mean": 3}
    rate[0] = 0.9
    assert measured_by("mean", "max") == {"max": 3}
    rate[0] = 0.5
    ids = {cost.path.name for cost in read_costs(tmp_path)}
    assert measured_by("mean", "max", "abmil") == {"abmil": 3, "mean": 3, "max": 3}
    assert ids < {cost.path.name for cost in read_costs(tmp_path)}
    assert {m["yardstick"]["flops_per_s"] for c in read_costs(tmp_path) for m in c.record["moments"]} == {0.5}
    rate[0] = 1.0
    assert measured_by("mean", "max", "abmil") == {}


def test_notes_on_costs_are_of_the_methods_that_the_table_shows(folder, tmp_path, monkeypatch):
    def fake(work, tasks, jobs, timeout_s):
        for key, task in tasks:
            yield key, Outcome("ok", "", _made_up(task))

    monkeypatch.setattr("milbench.runs.costs.schedule.run_all", fake)
    monkeypatch.setattr(
        "milbench.measure.load.Load.reading", lambda self: {"busy_cores": 2.0, "cores": 2.0, "load_1min": 3.0}
    )
    costly = suite(folder, ("mean", "max"), cost=True)
    for methods in (("max",), ("mean",)):
        run(costly, tmp_path, methods=methods)

    def named(**given):
        notes = [note for note in evaluate(tmp_path, resamples=20, **given).notes if "busy" in note]
        return {method for method in ("mean", "max") for note in notes if re.search(rf"\b{method}\b", note)}

    assert named() == {"mean"}
    assert named(all_runs=True) == {"mean", "max"}


def test_an_interrupted_cost_pass_goes_on_with_its_next_turn(three, tmp_path, requested):
    first = measure_costs(three.store, list(pending_costs(three, "missing")), 9)
    order = [next(first).cost.task.method for _ in range(3)]
    first.close()
    assert [(len(cost.record["turns"]), cost.part) for cost in read_costs(tmp_path)] == [(1, True)] * 3
    requested.clear()
    list(measure_costs(three.store, list(pending_costs(three, "missing")), 9))
    assert not [kind for kind, _, _ in requested if kind != "time"]
    done = {cost.method: cost.record for cost in read_costs(tmp_path)}
    assert [turn["infer_seconds_samples"] for turn in done["abmil"]["turns"]] == [[1.0], [2.0], [3.0]]
    assert not [cost.method for cost in read_costs(tmp_path) if cost.part]
    assert done["abmil"]["memory"] == {"infer_peak_bytes": 1, "train_peak_bytes": 1}
    # Measured anew where that is requested.
    requested.clear()
    list(measure_costs(three.store, list(pending_costs(three, "all")), 9))
    assert timed(requested)[:3] == [(method, 0) for method in order]


def _made_up(task):
    """Return what a process of the cost pass says."""
    if task.kind != "time":
        return {task.kind: {"peak_bytes": 1}}
    infer = {"bags": 1, "patches": 1, "seconds_samples": [1.0 + task.turn]}
    train = {"bags_per_step": 1, "step_patches": [1], "step_samples": [0], "seconds_samples": [0.5]}
    counted = {} if task.turn else dict.fromkeys(COUNTED, 1)
    return {"infer": infer, "train": train, "environment": environment(), **counted}


def _with_threads(record, threads):
    return record | {"numerics": record["numerics"] | {"threads": threads}}


def test_an_error_in_between_ends_the_runs_and_keeps_what_was_done(folder, tmp_path, monkeypatch):
    plan = make_plan(suite(folder, ("mean", ODD + "Sleeps")), tmp_path)
    publish = runner._publish

    def full(*args, **more):
        publish(*args, **more)
        raise MilbenchError("the disk is full")

    monkeypatch.setattr(runner, "_publish", full)
    try:
        execute(plan, jobs=2)
    except MilbenchError:
        import psutil

        me = psutil.Process()
        assert not [p for p in me.children(recursive=True) if p.ppid() != me.pid]  # at once, in the handler already
    else:
        raise AssertionError
    assert [r.method for r in read_runs(tmp_path)] == ["mean"]


def test_public_run_takes_a_file(folder, tmp_path):
    (folder / "mine.toml").write_text(
        'methods = ["mean"]\ncost = false\n[recipe]\nepochs = 1\n[[data]]\nname = "d"\ncache = "cache"\n'
        'labels = "labels.csv"\n[data.split]\nfiles = "fold{k}.csv"\n'
    )
    (record,) = milbench.run(folder / "mine.toml", tmp_path / "results", jobs=1)
    assert (record.outcome, record.spec.suite) == ("ok", "mine")
    assert np.isfinite(record.predictions()["p0"]).all()
