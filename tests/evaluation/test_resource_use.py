"""Resources that runs use: fronts against brute force, curves against staircases written out, conditions kept apart."""

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, roc_auc_score
from support.refusal import refused
from support.small import suite, write_cohort
from typer.testing import CliRunner

from milbench.cli import app
from milbench.config import Budget, Protocol, RunSpec
from milbench.evaluation.comparison import compare
from milbench.evaluation.leaderboard import evaluate, leaderboard
from milbench.evaluation.resource_use import AXES, curves, mark_pareto_optimal, price_of, spent
from milbench.evaluation.runs_table import read_cohorts
from milbench.metrics import accuracy_at_best_threshold
from milbench.report.figures.anytime import anytime_figure
from milbench.report.folder import write_report
from milbench.report.renderers import render
from milbench.runs.execute import execute
from milbench.runs.plan import make_plan
from milbench.runs.records import RunRecord, read_runs


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Two budgets of two methods, three seeds, in one results folder."""
    folder = tmp_path_factory.mktemp("runs")
    write_cohort(folder, shift=0.7)
    for steps in (12, 24):
        given = suite(folder, ("mean", "abmil"), seeds=3, budget=Budget(steps=steps), protocol=Protocol(evaluations=4))
        execute(make_plan(given, folder / "runs"))
    return folder / "runs"


def test_other_budgets_stand_in_other_tables(root):
    board = evaluate(root, resamples=50)
    rest = "memory: unlimited, timeout: unlimited"
    assert sorted(board.table["budget"].unique()) == [f"steps: {n} steps, {rest}" for n in (12, 24)]
    assert board.table.groupby("conditions").size().tolist() == [2, 2]
    for _, block in board.table.groupby("conditions"):
        assert block["rank"].min() == 1
    assert any("differ in budget" in note for note in board.notes)
    text = render(board, "markdown")
    assert "Budget of every run: steps: 12 steps, memory: unlimited, timeout: unlimited; not tuned" in text


def test_a_comparison_stays_within_one_budget(root, tmp_path):
    table = compare("abmil", "mean", root, resamples=50)
    assert len(table) == 2
    assert table["conditions"].nunique() == 2
    write_cohort(tmp_path)
    for method, steps in (("mean", 3), ("abmil", 4)):
        execute(make_plan(suite(tmp_path, (method,), budget=Budget(steps=steps)), tmp_path / "runs"))
    with refused("compare-unlike-runs", "mean", "abmil", "budget"):
        compare("mean", "abmil", tmp_path / "runs")


def test_resources_used_are_columns_of_the_leaderboard(root):
    table = leaderboard(root, resamples=50, price_per_hour=3.0, target_auc=0.5).set_index(["budget", "method"])
    runs = read_runs(root)
    for (budget, method), row in table.iterrows():
        mine = [r for r in runs if r.method == method and str(r.spec.budget) == budget]
        assert len(mine) == 3
        assert row["train_steps"] == mine[0].spec.budget.steps
        assert row["budget_used"] == 1.0
        assert row["budget_overshoot_steps"] == 0
        assert row["train_flops"] == pytest.approx(np.mean([r.record["train"]["flops"] for r in mine]))
        assert row["price"] == pytest.approx(row["train_device_seconds"] / 3600 * 3.0)
        assert row["time_to_target_s"] > 0
    with refused("option-bad-value", "price", 0):
        leaderboard(root, resamples=5, price_per_hour=0)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4), st.booleans()), max_size=8))
def test_fronts_against_their_definition(points):
    rows = [
        {"auc": a / 4, "train_flops": float(c), "train_device_seconds": math.nan, "run_peak_memory_bytes": 1.0,
         "rank": 1.0 if ranked else math.nan}
        for a, c, ranked in points
    ]  # fmt: skip
    mark_pareto_optimal(rows, Budget())
    for row in rows:
        assert row["front_device_seconds"] is None
        if row["rank"] != row["rank"]:
            assert row["front_flops"] is None
            continue
        beaten = False
        for other in rows:
            if other["rank"] == other["rank"]:
                no_worse = other["auc"] >= row["auc"] and other["train_flops"] <= row["train_flops"]
                better = other["auc"] > row["auc"] or other["train_flops"] < row["train_flops"]
                beaten |= no_worse and better
        assert row["front_flops"] is not beaten


def test_an_auc_that_is_higher_by_rounding_buys_no_place_on_a_front():
    rows = [
        {"auc": auc, "train_flops": cost, "train_device_seconds": 1.0, "run_peak_memory_bytes": 1.0, "rank": 1.0}
        for auc, cost in ((0.7, 1.0), (math.nextafter(0.7, 1), 2.0))
    ]
    mark_pareto_optimal(rows, Budget())
    assert [row["front_flops"] for row in rows] == [True, False]
    assert [row["front_memory"] for row in rows] == [True, True]


def test_no_front_where_the_cost_of_a_ranked_method_is_not_known():
    rows = [
        {"auc": 0.9, "train_flops": 1.0, "train_device_seconds": math.nan, "run_peak_memory_bytes": 1.0, "rank": 1.0},
        {"auc": 0.8, "train_flops": 2.0, "train_device_seconds": 3.0, "run_peak_memory_bytes": 1.0, "rank": 2.0},
    ]
    mark_pareto_optimal(rows, Budget())
    assert [row["front_device_seconds"] for row in rows] == [None, None]
    assert [row["front_flops"] for row in rows] == [True, False]


def record(tmp_path: Path, seed: int, x: list[float], loss: list[float], auc: list[float], checkpoint="best-val"):
    spec = RunSpec.model_construct(protocol=Protocol(checkpoint=checkpoint), budget=Budget(), fold="f", seed=seed)
    path = tmp_path / str(seed)
    path.mkdir()
    pd.DataFrame({"device_seconds": x, "steps": x, "flops": x, "val_loss": loss, "val_auc": auc}).to_csv(
        path / "history.csv", index=False
    )
    return RunRecord(spec, "ok", "", {"method_canonical": "m", "family": "iid"}, path)


def test_a_curve_shows_what_would_have_been_kept(tmp_path):
    runs = {
        ("f", 0): record(tmp_path, 0, [1, 2, 3, 4], [0.7, 0.5, 0.6, 0.4], [0.6, 0.7, 0.95, 0.8]),
        ("f", 1): record(tmp_path, 1, [2, 4], [0.7, 0.8], [0.5, 0.9]),
    }

    table = SimpleNamespace(suite=SimpleNamespace(name="s", version=1), data="d", label="", runs={"m": runs})
    actual = curves([table], "device_seconds", points=4)
    # From 2, where both runs have been evaluated, to 4, where both have ended.
    assert actual["x"].tolist() == pytest.approx([2, 2 * 2 ** (1 / 3), 2 * 2 ** (2 / 3), 4])
    # Loss rises in the third evaluation of the first run and in the second of the other: the earlier model is kept.
    assert actual["auc"].tolist() == pytest.approx([0.6, 0.6, 0.6, 0.65])
    assert actual["low"].tolist() == [0.5, 0.5, 0.5, 0.5]
    assert actual["high"].tolist() == [0.7, 0.7, 0.7, 0.8]
    assert actual["runs"].tolist() == [2, 2, 2, 2]
    assert spent(list(runs.values()), target_auc=0.7)["time_to_target_s"] == math.inf  # one of two missed
    assert spent([runs["f", 0]], target_auc=0.7)["time_to_target_s"] == 2
    assert math.isnan(spent([runs["f", 0]])["time_to_target_s"])
    last = record(tmp_path, 2, [1, 2], [0.1, 0.9], [0.9, 0.3], checkpoint="last")
    table.runs = {"m": {("f", 2): last}}
    assert curves([table], "steps", points=2)["auc"].tolist() == [0.9, 0.3]
    with refused("option-bad-value", "'hours'", "steps, flops, device_seconds"):
        curves([table], "hours")


def test_no_method_is_off_the_front_for_a_part_of_a_step():
    budget = Budget(device_seconds=10)
    rows = [
        {
            "auc": auc,
            "train_flops": math.nan,
            "train_device_seconds": used,
            "run_peak_memory_bytes": math.nan,
            "rank": 1,
        }
        for auc, used in ((0.9, 10.02), (0.6, 10.01))
    ]
    mark_pareto_optimal(rows, budget)
    assert [row["front_device_seconds"] for row in rows] == [True, False]


def test_curves_and_figures_of_real_runs(root, tmp_path):
    cohorts = read_cohorts(root)
    for axis in AXES:
        actual = curves(cohorts, axis)
        assert set(actual["method"]) == {"mean", "abmil"}
        assert (actual["low"] <= actual["auc"] + 1e-12).all()
        assert (actual["auc"] <= actual["high"] + 1e-12).all()
        assert anytime_figure(actual) is not None
    assert anytime_figure(curves([], "steps")) is None
    readme = write_report(evaluate(root, resamples=20), tmp_path / "report", "t", "p").read_text()
    for name in (
        "anytime_device_seconds.png",
        "auc_vs_device_seconds.png",
        "auc_vs_flops.png",
        "auc_vs_run_memory.png",
    ):
        assert name in readme
        assert (tmp_path / "report" / name).stat().st_size > 5000
    assert "Training and its budget:" in readme
    assert "| Budget used (%) |" in readme
    assert "| 100.0 |" in readme


def test_prices():
    assert price_of(1800, 4.0) == 2.0


# -- the oracle
# --------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def oracle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("oracle")
    write_cohort(folder, test=20, shift=0.3)
    given = suite(folder, ("mean", "abmil"), seeds=3, budget=Budget(steps=40),
                  protocol=Protocol(checkpoint="oracle", evaluations=10))  # fmt: skip
    execute(make_plan(given, folder / "runs"))
    return folder / "runs"


def test_an_oracle_is_scored_by_its_best_evaluation_and_never_ranked(oracle):
    board = evaluate(oracle, resamples=50)
    assert board.table["rank"].isna().all()
    assert (board.table["inflation"] >= 0).all()
    assert (board.table["auc"] >= board.table["auc_last"]).all()
    assert any("inflated" in note for note in board.notes)
    labels = pd.read_csv(next(oracle.glob("*/cohorts/*/labels.csv"))).set_index("slide_id")["label"]
    for method, row in board.table.set_index("method").iterrows():
        best, last, honest = [], [], []
        for run in (r for r in read_runs(oracle) if r.method == method):
            parts = [p for _, p in run.trajectory().groupby("evaluation")]
            assert len(parts) == 10
            aucs = [roc_auc_score(labels[p["slide_id"]], p["p1"]) for p in parts]
            best.append(max(aucs))
            last.append(aucs[-1])
            honest.append(aucs[int(run.history()["val_loss"].argmin())])
        assert row["auc"] == pytest.approx(np.mean(best))
        assert row["auc_last"] == pytest.approx(np.mean(last))
        assert row["auc_best_val"] == pytest.approx(np.mean(honest))
        assert row["inflation"] == pytest.approx(np.mean(best) - np.mean(honest))
        assert row["inflation_low"] <= row["inflation"] <= row["inflation_high"]


def test_an_oracle_run_holds_no_label_and_keeps_what_an_honest_run_would(oracle):
    for run in read_runs(oracle):
        assert set(run.trajectory()) == {"evaluation", "slide_id", "p0", "p1", "s0", "s1"}
        kept = int(run.history()["val_loss"].argmin()) + 1
        every = run.trajectory()
        same = every[every["evaluation"] == kept].set_index("slide_id")["p1"]
        test = run.predictions().query("split == 'test'").set_index("slide_id")["p1"]
        pd.testing.assert_series_equal(test, same[test.index])


def test_oracles_are_not_compared(oracle):
    with refused("compare-unlike-runs", "mean", "abmil", "oracle"):
        compare("mean", "abmil", oracle)
    text = render(evaluate(oracle, resamples=10), "markdown")
    assert "Selected on test, and therefore not ranked" in text
    assert "No method finished" not in text


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 5)), min_size=1, max_size=12))
def test_accuracy_at_the_best_threshold_against_all_thresholds(rows):
    y = np.array([label for label, _ in rows])
    p = np.array([score / 5 for _, score in rows])
    due = max(accuracy_score(y, (p >= t).astype(int)) for t in [*p, 2.0])
    assert accuracy_at_best_threshold(y, np.column_stack([1 - p, p])) == pytest.approx(due)


# -- the command line
# --------------------------------------------------------------------------------------------------------------------


def test_budgets_on_the_command_line(tmp_path):
    write_cohort(tmp_path)
    toml = tmp_path / "s.toml"
    toml.write_text(
        'methods = ["mean"]\ncost = false\ndevice = "cpu"\n[budget]\nsteps = "5 steps"\nmemory = "1 GiB"\n'
        '[[data]]\nname = "d"\ncache = "cache"\nlabels = "labels.csv"\n'
        f'[data.split]\nfiles = "{tmp_path}/fold{{k}}.csv"\n'
    )
    cli, results = CliRunner(), str(tmp_path / "runs")
    requested = ["run", str(toml), "--results", results, "--budget", "7 steps", "--budget", "2 trials"]
    out = cli.invoke(app, requested)
    assert out.exit_code == 0, out.output
    assert "Budget of every run: steps: 7 steps, memory: 1 GiB, timeout: unlimited." in out.output
    assert "1 studies of 2 trials" in out.output
    assert {r.spec.budget.steps for r in read_runs(tmp_path / "runs")} == {7}
    again = cli.invoke(app, [*requested, "--dry-run"])
    assert "1 runs, 0 to do, 0 tuning trials to do" in again.output
    tune = ["tune", str(toml), "--results", results, "--budget", "3 trials", "--plots", str(tmp_path / "p")]
    tuned = cli.invoke(app, tune)
    assert tuned.exit_code == 0, tuned.output
    assert "trial" in tuned.output
    assert len(list((tmp_path / "p").glob("*.png"))) == 2
    status = cli.invoke(app, ["status", str(toml), "--results", results])
    assert status.exit_code == 0
    price = cli.invoke(app, ["leaderboard", results, "--price", "2.5", "--target-auc", "0.6", "--format", "csv"])
    assert price.exit_code == 0, price.output
    assert "time_to_target_s" in price.output


def test_operations_that_are_missing_say_why(tmp_path):
    write_cohort(tmp_path)
    execute(make_plan(suite(tmp_path, ("support.odd_methods:ReadsValues", "mean")), tmp_path / "runs"))
    board = evaluate(tmp_path / "runs", resamples=20)
    (note,) = [note for note in board.notes if "could not be counted" in note]
    assert "ReadsValues" in note
    assert "meta" in note.lower()
