"""Bags are ordered by log-odds: no saturation, whatever the scale of scores, the method and the order of classes."""

import io
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from scipy.special import expit
from sklearn.metrics import average_precision_score, roc_auc_score
from support.refusal import refused
from support.synthetic import fill, seal, suite

import milbench
from milbench import metrics, stats
from milbench.aggregator import Aggregator, head_log_odds, head_probabilities
from milbench.bags import BagOutput, Bags
from milbench.config import Card, Recipe
from milbench.data.cache.reader import FeatureCache
from milbench.evaluation.comparison import compare
from milbench.evaluation.leaderboard import evaluate, leaderboard, run_scores
from milbench.evaluation.runs_table import read_cohorts
from milbench.evaluation.scores import score
from milbench.report.comparison import comparison_lines
from milbench.report.renderers import render
from milbench.report.tables import cells_of, verdict_columns
from milbench.runs.store import Store


def reference(logits):
    """Log-odds of every class against the rest, by numpy in long double."""
    z = np.asarray(logits, dtype=np.longdouble)
    if z.shape[1] == 1:
        return np.concatenate([-z, z], axis=1)
    rest = [np.logaddexp.reduce(np.delete(z, c, axis=1), axis=1) for c in range(z.shape[1])]
    return z - np.stack(rest, axis=1)


@pytest.mark.parametrize("classes", [1, 2, 3, 7])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 40.0, 1e4])
def test_log_odds_are_those_of_the_equation(classes, scale):
    logits = scale * torch.randn(50, classes, generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(head_log_odds(logits).numpy(), reference(logits.numpy()).astype(float), rtol=1e-12)


@pytest.mark.parametrize("classes", [1, 2, 3, 5])
def test_log_odds_and_probabilities_agree_where_these_do_not_saturate(classes):
    logits = 3 * torch.randn(50, classes, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    p = torch.sigmoid(head_log_odds(logits))
    np.testing.assert_allclose(p.numpy(), head_probabilities(logits).double().numpy(), atol=2e-6)


@pytest.mark.parametrize("name", milbench.list_aggregators())
@pytest.mark.parametrize("classes", [2, 3])
def test_every_method_keeps_the_order_of_its_bags(name, classes):
    """However far logits lie out, no two bags tie, and the order is that of the same logits divided by the scale."""
    torch.manual_seed(0)
    model = milbench.create(name, in_dim=4, n_classes=classes).eval()
    width = model(Bags.pack([torch.randn(9, 4)])).logits.shape[1]
    logits = torch.randn(40, width, generator=torch.Generator().manual_seed(2)).double()
    near, far = (model.log_odds(BagOutput(scale * logits)).numpy() for scale in (1.0, 60.0))
    assert near.shape == far.shape == (40, classes)
    assert near.dtype == far.dtype == np.float64
    assert len(np.unique(far[:, 1])) == 40
    p = model.probabilities(BagOutput(logits)).double().numpy()
    for c in range(classes):
        assert roc_auc_score(near[:, c] > np.median(near[:, c]), p[:, c]) == 1.0, "both give the same order"
    if classes == 2:
        np.testing.assert_array_equal(np.argsort(near[:, 1]), np.argsort(far[:, 1]))
        np.testing.assert_array_equal(near[:, 0], -near[:, 1])


@given(st.data())
@settings(max_examples=50, deadline=None)
def test_auc_does_not_change_under_an_increasing_map_or_another_order_of_classes(data):
    n, classes = data.draw(st.integers(6, 30)), data.draw(st.integers(2, 4))
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    labels = np.concatenate([np.arange(classes), rng.integers(0, classes, n - classes)])
    s = rng.normal(size=(n, classes)) * 10.0 ** data.draw(st.integers(-3, 4))
    if classes == 2:
        s[:, 0] = -s[:, 1]
    p = np.full((n, classes), 1 / classes)
    auc = metrics.auc(labels, p, s)
    increasing = data.draw(st.sampled_from([np.cbrt, np.arcsinh, lambda v: 3 * v + 7, lambda v: v + v**3]))
    assert metrics.auc(labels, p, increasing(s)) == auc
    order = rng.permutation(classes)
    assert metrics.auc(np.argsort(order)[labels], p[:, order], s[:, order]) == pytest.approx(auc, abs=1e-12)
    if classes == 2:
        assert auc == pytest.approx(roc_auc_score(labels, s[:, 1]), abs=1e-12)
        expected = average_precision_score(labels, s[:, 1])
        assert metrics.average_precision(labels, p, s) == pytest.approx(expected, abs=1e-12)


def test_log_odds_that_order_nothing_are_refused():
    p = np.full((4, 2), 0.5)
    with refused("scores-not-finite"):
        metrics.auc([0, 1, 0, 1], p, [[0, np.nan]] * 4)
    with refused("stats-bad-input"):
        metrics.auc([0, 1, 0, 1], p, [[0.0, 1.0, 2.0]] * 4)


class OwnProbabilities(Aggregator):
    """Probabilities of its own and nothing said of log-odds."""

    card = Card(title="Own", family="iid", citation="none")
    recipe = Recipe(epochs=1)

    def __init__(self, in_dim: int, n_classes: int) -> None:
        super().__init__(in_dim, n_classes)
        self.head = torch.nn.Linear(in_dim, n_classes)

    def pool(self, bags, attention):
        return BagOutput(self.head(torch.stack([bags[i].x.mean(dim=0) for i in range(len(bags))])), None, None)

    def probabilities(self, out):
        return torch.softmax(out.logits.float() / 2, dim=1)


def test_a_method_with_probabilities_of_its_own_is_ordered_by_these():
    model = OwnProbabilities(4, 3)
    out = BagOutput(torch.tensor([[1.0, 2.0, 3.0], [-40.0, 0.0, 60.0], [0.0, 0.0, 1000.0]]))
    expected = reference(out.logits.double().numpy() / 2).astype(float)
    np.testing.assert_allclose(model.log_odds(out).numpy()[:1], expected[:1], rtol=1e-5)
    assert np.isfinite(model.log_odds(out).numpy()).all()


# --- stored runs -----------------------------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path):
    return fill(tmp_path, folds=("f0",), seeds=1)


def rewritten(store, change):
    for record in store.records():
        if record.outcome == "ok":
            table = change(record.predictions(), record)
            store.publish_run(record.spec.run_id, record.record, table, record.history(), overwrite=True)


def with_log_odds(scale):
    """Give every run log-odds in the order of its probabilities, as far out as a scale, and probabilities of these."""

    def change(table, _record):
        order = table.groupby("split")["p1"].rank(method="average") - len(table) / 4
        s = order * scale
        p = expit(s.to_numpy(np.float32)).astype(float)
        return table.assign(p0=1 - p, p1=p, s0=-s, s1=s)

    return change


def test_runs_with_equal_orders_have_equal_scores_however_far_out_they_lie(store, tmp_path):
    before = leaderboard(tmp_path, resamples=50).set_index(["data", "method"])["auc"]
    rewritten(store, with_log_odds(5.0))
    table = leaderboard(tmp_path, resamples=50).set_index(["data", "method"])["auc"]
    pd.testing.assert_series_equal(table.sort_index(), before.sort_index())
    assert set(run_scores(tmp_path)["ordered_by"]) == {"log-odds"}
    assert not any("probabilities" in note for note in evaluate(tmp_path, resamples=50).notes)


def test_runs_without_log_odds_are_read_and_marked(store, tmp_path):
    assert set(run_scores(tmp_path)["ordered_by"]) == {"probabilities"}
    assert any("scored from probabilities" in note for note in evaluate(tmp_path, resamples=50).notes)


@pytest.fixture
def mixed(tmp_path):
    """Three methods of one order, perfect and far out; the runs of one were made before log-odds were stored."""
    methods = ("mean", "max", "abmil")
    store = fill(tmp_path, suite(data=("easy",), reference="mean"), methods, folds=("f0",), seeds=1, costs=False)

    def change(table, record):
        at = np.arange(len(table))
        s = 15 + 4 * (at % 2) + at / 31  # the label of a made-up bag is its number modulo 2
        p = expit(s.astype(np.float32)).astype(float)
        table = table.assign(p0=1 - p, p1=p)
        return table if record.method == "abmil" else table.assign(s0=-s, s1=s)

    rewritten(store, change)
    return tmp_path


def test_runs_of_before_are_named_marked_and_renewed_by_a_command(mixed):
    """Three methods of one order, of which one ties by rounding: its name, its row, the command; and no verdict."""
    board = evaluate(mixed, resamples=50)
    rows = board.table.set_index("method")
    assert rows["ordered_by"].to_dict() == {"mean": "log-odds", "max": "log-odds", "abmil": "probabilities"}
    assert rows["auc"]["mean"] == rows["auc"]["max"] == 1 > rows["auc"]["abmil"]
    (note,) = [n for n in board.notes if "stored no log-odds" in n]
    assert "of abmil " in note
    assert "--overwrite all -m abmil" in note
    cells = cells_of(board.table, verdict_columns()).set_index("Method")["Runs"]
    assert "probabilities" in cells["abmil"]
    assert "probabilities" not in cells["mean"] + cells["max"]
    console = Console(width=60, file=io.StringIO())
    console.print(render(board, "console"))
    assert "Runs" in console.file.getvalue()  # the column stays where it says something
    effect = {row["method"]: row["note"] for row in board.effects}
    assert "probabilities" in effect["abmil"]
    assert "probabilities" not in effect["max"]


def test_a_checkpoint_chosen_by_rounded_probabilities_is_noted(tmp_path):
    """Where the monitor is val_auc, and only of runs that stored no log-odds: their ids are those of runs of today."""
    for monitor in ("val_loss", "val_auc"):
        for old in (True, False):
            root = tmp_path / f"{monitor}-{old}"
            made = suite(data=("easy",), protocol={"monitor": monitor})
            store = Store(root, made)
            fill(root, made, ("mean",), folds=("f0",), seeds=1, costs=False)
            for record in store.records():
                spec = record.spec.model_copy(update={"protocol": made.protocol})
                table = record.predictions() if old else with_log_odds(1.0)(record.predictions(), record)
                shutil.rmtree(record.path)
                store.publish_run(spec.run_id, record.record | {"spec": spec, "run_id": spec.run_id}, table, None)
            notes = evaluate(root, resamples=20).notes
            assert any("val_auc" in note and "mean" in note for note in notes) == (old and monitor == "val_auc")


def test_a_comparison_of_two_orders_tells_so_and_decides_nothing_that_ties_may_explain(mixed):
    (cohort,) = read_cohorts(mixed)
    scored = {s.method: s for s in score(cohort, 200)}
    assert stats.mean_difference(scored["mean"].mean, scored["abmil"].mean).low > 0  # by itself it would be separated
    actual = compare("mean", "abmil", mixed, resamples=200).iloc[0]
    assert not actual["told_apart"]
    assert actual["low"] <= 0 < actual["high"]
    assert actual["p"] > 0.05
    assert "--overwrite all -m abmil" in actual["note"]
    (line, _) = comparison_lines(compare("mean", "abmil", mixed, resamples=200))
    assert actual["note"] in line
    assert compare("mean", "max", mixed, resamples=50).iloc[0]["note"] == ""


def test_ranks_and_effects_of_two_orders_are_not_separated_by_ties(mixed):
    """All three have one order of all bags: what differs are the ties of the one whose log-odds were not stored."""
    board = evaluate(mixed, resamples=200)
    assert (board.table["rank_low"] == 1).all()
    assert (board.table["rank_high"] == 3).all()
    assert board.table["among_best"].all()
    assert (board.table["diff_low"] <= 0).all()
    assert (board.table["diff_high"] >= 0).all()
    (effect,) = [row for row in board.effects if row["method"] == "abmil"]
    assert effect["low"] <= 0 <= effect["high"]
    assert effect["p"] > 0.05


def test_a_cohort_whose_folds_test_one_class_has_a_table_whatever_orders_its_bags(mixed):
    (cohort,) = read_cohorts(mixed)
    file = cohort.folder / "cohorts" / "easy-f0" / "labels.csv"
    tested = set(run_scores(mixed)["bags"])
    table = pd.read_csv(file)
    shown = cohort.runs["mean"]["f0", 0].predictions().query("split == 'test'")["slide_id"]
    table.loc[table["slide_id"].isin(shown), "label"] = 1
    table.to_csv(file, index=False)
    seal(file.parent, "easy")
    board = leaderboard(mixed, resamples=20)
    assert tested == {len(shown)}
    assert board["auc"].isna().all()
    assert board["rank"].isna().all()


def test_a_difference_that_ties_cannot_account_for_separates(mixed, monkeypatch):
    monkeypatch.setattr("milbench.evaluation.scores.Scores.tied_by_rounding", 0.0)
    rows = leaderboard(mixed, resamples=200).set_index("method")
    assert rows["rank_low"].to_dict() == {"mean": 1, "max": 1, "abmil": 3}
    assert compare("mean", "abmil", mixed, resamples=200).iloc[0]["told_apart"]


def test_a_trained_run_stores_log_odds(tmp_path):
    from support.small import task, write_cohort

    from milbench.runs.run_tasks import RunTask
    from milbench.runs.worker import work

    parts = write_cohort(tmp_path)
    given = task(tmp_path, parts, "abmil", epochs=1)
    result = work(RunTask(given))
    assert result.outcome == "ok", result.reason
    table = result.value["predictions"]
    assert list(table) == ["slide_id", "split", "p0", "p1", "s0", "s1"]
    assert result.value["record"]["val_auc_ordered_by"] == "log-odds"
    np.testing.assert_allclose(1 / (1 + np.exp(-table["s1"])), table["p1"], atol=1e-6)
    assert FeatureCache.open(given.cache_path).dim > 0
