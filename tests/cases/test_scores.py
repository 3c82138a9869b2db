"""Scores that order bags wrongly: what ranks a bag keeps the order in which the method puts bags, at any scale."""

import itertools
import json
import types
from importlib.metadata import EntryPoint
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import (
    average_precision_score,
    f1_score,
    log_loss,
    matthews_corrcoef,
    recall_score,
    roc_auc_score,
)
from support import synthetic as made
from support.refusal import refused

import milbench
from milbench import metrics, plug_ins
from milbench.aggregator import Aggregator, head_log_odds, head_probabilities
from milbench.bags import BagOutput, Bags
from milbench.config import DataSpec, Recipe, Suite
from milbench.evaluation import collapse, notes
from milbench.evaluation.leaderboard import evaluate, leaderboard, run_scores
from milbench.report.folder import write_report
from milbench.report.renderers import render
from milbench.runs.records import read_runs

FEW = settings(max_examples=40, deadline=None)


def exact_auc(y, s):
    """Mann-Whitney's statistic by counting pairs, ties one half; with more classes the mean over one-vs-rest."""
    if s.shape[1] > 2:
        return float(np.mean([exact_auc((y == c).astype(int), s[:, [c, c]]) for c in np.unique(y)]))
    pairs = list(itertools.product(s[y == 1, 1], s[y != 1, 1]))
    return sum((a > b) + 0.5 * (a == b) for a, b in pairs) / len(pairs)


@st.composite
def logits(draw, classes=(2, 5)):
    """Labels with every class, and logits of them at a scale of 1 to 10,000."""
    c = draw(st.integers(*classes))
    n = draw(st.integers(2 * c, 25))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scale = draw(st.sampled_from([1.0, 30.0, 1e2, 1e3, 1e4]))
    return np.arange(n) % c, torch.tensor(rng.normal(size=(n, c)) * scale, dtype=torch.float32)


@given(logits(classes=(2, 2)), st.sampled_from(["one output", "two outputs"]))
@FEW
def test_two_classes_are_ordered_as_their_logits_at_any_scale(case, head):
    y, z = case
    margin = (z[:, 1] if head == "one output" else z[:, 1].double() - z[:, 0].double()).double().numpy()
    given_head = z[:, 1:] if head == "one output" else z
    s, p = head_log_odds(given_head).numpy(), head_probabilities(given_head).double().numpy()
    expected = exact_auc(y, np.column_stack([-margin, margin]))
    assert metrics.auc(y, p, s) == pytest.approx(expected, abs=1e-12)
    assert metrics.auc(1 - y, p[:, ::-1], s[:, ::-1]) == pytest.approx(expected, abs=1e-12)


@given(logits(classes=(3, 5)), st.randoms(use_true_random=False))
@FEW
def test_the_order_of_classes_does_not_matter(case, random):
    y, z = case
    order = list(range(z.shape[1]))
    random.shuffle(order)
    inverse = np.argsort(order)
    p, q = (head_probabilities(x).double().numpy() for x in (z, z[:, order]))
    s, t = (head_log_odds(x).numpy() for x in (z, z[:, order]))
    np.testing.assert_allclose(t, s[:, order], rtol=1e-12, atol=1e-12)
    assert metrics.auc(y, p, s) == pytest.approx(metrics.auc(inverse[y], q, t), abs=1e-9)


@given(logits(), st.sampled_from([np.arctan, np.cbrt, lambda s: 3 * s - 7, lambda s: np.sign(s) * np.log1p(np.abs(s))]))
@FEW
def test_an_increasing_map_of_the_scores_changes_no_ranking_metric(case, increasing):
    y, z = case
    s, p = head_log_odds(z).numpy(), head_probabilities(z).double().numpy()
    # Levels instead of values: a map in float64 may merge neighbours.
    levels = np.stack([np.unique(column, return_inverse=True)[1] for column in s.T], axis=1).astype(float)
    for metric in (metrics.auc, metrics.average_precision, metrics.accuracy_at_best_threshold):
        assert metric(y, p, increasing(levels)) == metric(y, p, s)
    assert metrics.tied_share(y, increasing(levels)) == metrics.tied_share(y, s)


@given(logits(classes=(3, 5)))
@FEW
def test_log_odds_are_the_exact_ones_and_rank_as_probabilities_that_do_not_saturate(case):
    _, z = case
    mpmath = pytest.importorskip("mpmath")
    s = head_log_odds(z).numpy()
    with mpmath.workdps(50):
        for row, odds in zip(z.tolist(), s.tolist(), strict=True):
            powers = [mpmath.e ** mpmath.mpf(x) for x in row]
            for c, value in enumerate(odds):
                exact = mpmath.log(powers[c]) - mpmath.log(sum(p for j, p in enumerate(powers) if j != c))
                assert value == pytest.approx(float(exact), rel=1e-12, abs=1e-12)
    small = z / z.abs().max()  # within 1 of 0: nothing saturates
    p = torch.softmax(small.double(), dim=1).numpy()
    odds = head_log_odds(small).numpy()
    np.testing.assert_allclose(odds, np.log(p / (1 - p)), rtol=1e-9, atol=1e-9)
    for c in range(z.shape[1]):
        np.testing.assert_array_equal(np.argsort(odds[:, c]), np.argsort(p[:, c]))


def outputs(name, classes, scale):
    """Return a registered method, its output for some bags with logits scaled up, and a label for every bag."""
    torch.manual_seed(0)
    model = milbench.create(name, in_dim=16, n_classes=classes).eval()
    bags = Bags.pack([torch.randn(3 + i % 4, 16) for i in range(6 * classes)])
    with torch.no_grad():
        out = model(bags)
        rank = out.logits - out.logits.mean(dim=0)
        out.logits = rank / rank.abs().max() * scale
    return model, out, np.arange(6 * classes) % classes


@pytest.mark.parametrize("classes", [2, 3, 4])
@pytest.mark.parametrize("name", milbench.list_aggregators())
def test_every_method_has_one_ranking_at_every_scale(name, classes):
    """With two classes the order is that of the head's margin; with more it agrees with unsaturated probabilities."""
    model, out, y = outputs(name, classes, 1.0)
    p, s = model.probabilities(out).double().numpy(), model.log_odds(out).numpy()
    assert s.dtype == np.float64
    assert s.shape == p.shape
    np.testing.assert_allclose(1 / (1 + np.exp(-s)), p, atol=2e-7)
    assert metrics.auc(y, p / p.sum(axis=1, keepdims=True), s) == pytest.approx(exact_auc(y, s), abs=1e-12)
    assert not model.ordered_by_probabilities()
    if classes == 2:
        expected = exact_auc(y, s)
        for scale in (1e2, 1e3, 1e4):
            _, large, _ = outputs(name, classes, scale)
            assert exact_auc(y, model.log_odds(large).numpy()) == pytest.approx(expected)
    for scale in (1e2, 1e4):
        odds = model.log_odds(outputs(name, classes, scale)[1])
        assert torch.isfinite(odds).all()


def test_four_methods_that_order_all_bags_the_same_have_one_auc():
    """Log-odds of 1, 10, 20 and 40 times the same score: fp32 probabilities tie at the upper end from 17 on."""
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1], 100)
    z = rng.normal(size=200) + 1.2 * y + 1.5
    actual, by_probability = [], []
    for factor in (1, 10, 20, 40):
        head = torch.tensor(factor * z)[:, None].float()
        p = head_probabilities(head).double().numpy()
        actual.append(metrics.auc(y, p, head_log_odds(head).numpy()))
        by_probability.append(metrics.auc(y, p))
    assert actual == [pytest.approx(roc_auc_score(y, z), abs=1e-12)] * 4
    assert by_probability[-1] < actual[-1] - 0.1


class Softened(Aggregator):
    """Overrides probabilities alone, at a temperature that keeps the order."""

    def pool(self, bags, attention):
        return BagOutput(torch.zeros(len(bags), self.n_classes), None, None)

    def probabilities(self, out):
        return torch.softmax(out.logits.float() / 2, dim=1)


class Back(Softened):
    """States its own log-odds again."""

    def log_odds(self, out):
        return head_log_odds(out.logits / 2)


class Again(Back):
    """Overrides the probabilities of a method that states both."""

    def probabilities(self, out):
        return torch.softmax(-out.logits.float(), dim=1)


def test_a_method_that_overrides_probabilities_alone_is_ranked_by_them():
    out = BagOutput(torch.tensor([[0.0, 1.0, 2.0], [3.0, 0.0, -1.0], [500.0, 0.0, 1.0]]), None, None)
    expected = {Softened: out.logits / 2, Back: out.logits / 2, Again: -out.logits}
    for cls, same_as in expected.items():
        odds = cls(4, 3).log_odds(out)
        assert torch.isfinite(odds).all()
        torch.testing.assert_close(odds[:2], head_log_odds(same_as)[:2], atol=1e-5, rtol=1e-5)
    assert [cls.ordered_by_probabilities() for cls in (Softened, Back, Again, Aggregator)] == [True, False, True, False]


# --- a metric is one function ----------------------------------------------------------------------------------------


@pytest.fixture
def no_more_metrics(monkeypatch):
    """Leave the metrics of this process as they were."""
    monkeypatch.setattr(metrics, "_REGISTERED", {})
    for cached in (metrics._of_module, metrics._of_packages):
        cached.cache_clear()
    yield
    for cached in (metrics._of_module, metrics._of_packages):
        cached.cache_clear()


def matthews(labels, probabilities) -> float:
    """Matthews correlation of the predicted class."""
    y, p = metrics.check(labels, probabilities)
    return float(matthews_corrcoef(y, p.argmax(axis=1)))


def expected_matthews(root):
    """Compute it from the stored files alone."""
    labels = pd.read_csv(next(root.glob("*/cohorts/*/labels.csv"))).set_index("slide_id")["label"]
    actual = {}
    for run in read_runs(root):
        test = run.predictions().query("split == 'test'")
        value = matthews_corrcoef(labels[test["slide_id"]], test["p1"] > test["p0"])
        actual.setdefault(run.method, []).append(value)
    return {method: np.mean(values) for method, values in actual.items()}


def stored(root):
    made.fill(root, made.suite(data=("easy",)), ("mean", "max"), n=40, folds=("f0", "f1"), seeds=1)
    return root


def shown(root):
    return leaderboard(root, resamples=5).set_index("method")["matthews"].to_dict()


def test_a_function_added_to_the_module_is_a_metric_of_stored_runs(tmp_path, monkeypatch, no_more_metrics):
    function = types.FunctionType(matthews.__code__, vars(metrics), "matthews")
    function.__annotations__ = {"labels": "ArrayLike", "probabilities": "ArrayLike", "return": "float"}
    monkeypatch.setattr(metrics, "matthews_corrcoef", matthews_corrcoef, raising=False)
    monkeypatch.setattr(metrics, "metrics", metrics, raising=False)
    monkeypatch.setattr(metrics, "matthews", function, raising=False)
    stored(tmp_path)
    assert shown(tmp_path) == pytest.approx(expected_matthews(tmp_path))
    assert "matthews" in run_scores(tmp_path)
    assert "| Matthews |" in render(evaluate(tmp_path, resamples=5), "markdown")


def test_a_metric_can_be_registered_and_comes_last(tmp_path, no_more_metrics):
    before = list(leaderboard(stored(tmp_path), resamples=5))
    metrics.register_metric(matthews)
    assert list(leaderboard(tmp_path, resamples=5)) == [*before, "matthews"]
    assert shown(tmp_path) == pytest.approx(expected_matthews(tmp_path))
    with refused("name-taken", "auc"):
        metrics.register_metric(metrics.Metric("auc", "Mine", True, matthews))
    metrics.register_metric(metrics.Metric("rank", "Mine", True, matthews))
    with refused("name-taken", "rank"):
        leaderboard(tmp_path, resamples=5)


def test_a_package_adds_a_metric_by_an_entry_point(tmp_path, monkeypatch, no_more_metrics, capsys):
    (tmp_path / "their_metrics.py").write_text(
        "def share(labels, probabilities):\n    return (probabilities[:, 1] > 0.5).mean()\n"
        "def ranked(labels, probabilities, log_odds=None):\n    return float(log_odds is not None)\n"
        "def fails(labels, probabilities):\n    raise ValueError('no')\n"
        "number = 3\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    given_points = []
    monkeypatch.setattr(plug_ins, "entry_points", lambda group: [p for p in given_points if p.group == group])

    def point(name, attribute):
        given_points[:] = [EntryPoint(name, f"their_metrics:{attribute}", metrics.GROUP)]
        metrics._of_packages.cache_clear()

    y, p = np.array([0, 1, 1]), np.array([[0.8, 0.2], [0.4, 0.6], [0.7, 0.3]])
    point("positives", "share")
    assert metrics.all_metrics(y, p)["positives"] == pytest.approx(1 / 3)
    point("ranked", "ranked")
    assert [metrics.all_metrics(y, p, s)["ranked"] for s in (None, p)] == [0, 1]
    point("fails", "fails")
    with refused("metric-malformed", "fails"):
        metrics.all_metrics(y, p)
    given_points.clear()
    metrics._of_packages.cache_clear()
    own = metrics.all_metrics(y, p)
    point("auc", "share")
    assert metrics.all_metrics(y, p) == own
    assert capsys.readouterr().err == ""
    for name, attribute, words in (
        ("number", "number", "is no metric"), ("gone", "gone", "AttributeError"),
        ("Bad Name", "share", "lower-case letters"),
    ):  # fmt: skip
        point(name, attribute)
        assert metrics.all_metrics(y, p) == own
        warning = capsys.readouterr().err
        assert warning.startswith("warning: left out: ")
        assert words in warning
    point("twice", "share")
    given_points.append(EntryPoint("twice", "their_metrics:ranked", metrics.GROUP))
    assert metrics.all_metrics(y, p) == own
    assert "two metrics are named twice" in capsys.readouterr().err


def test_what_is_no_metric_of_a_run_is_none():
    names = [metric.name for metric in metrics.registered()]
    assert names[:10] == [
        "auc", "balanced_accuracy", "accuracy", "average_precision", "f1", "sensitivity", "specificity", "log_loss",
        "brier", "ece",
    ]  # fmt: skip
    assert not {"accuracy_at_best_threshold", "expected_calibration_error", "check", "tied_share"} & set(names)


# --- the arguments of every public function --------------------------------------------------------------------------

BY_PROBABILITIES = [*(metric.function for metric in metrics.OWN), metrics.per_class, metrics.all_metrics,
                    metrics.accuracy_at_best_threshold, metrics.check]  # fmt: skip


@pytest.mark.parametrize("function", BY_PROBABILITIES, ids=lambda f: f.__name__)
@pytest.mark.parametrize(
    ("labels", "probabilities"),
    [
        ([0, 1], [[0.5, np.nan], [0.5, 0.5]]),
        ([0, 1], [[0.5, np.inf], [0.5, 0.5]]),
        ([0, 2], [[0.5, 0.5], [0.5, 0.5]]),
        ([0, -1], [[0.5, 0.5], [0.5, 0.5]]),
        ([0.0, np.nan], [[0.5, 0.5], [0.5, 0.5]]),
        (["a", "b"], [[0.5, 0.5], [0.5, 0.5]]),
        ([0, 1], [["a", "b"], ["c", "d"]]),
        ([0, 1, 1], [[0.5, 0.5], [0.5, 0.5]]),
        ([0, 1], [0.5, 0.5]),
    ],
)
def test_wrong_arguments_are_refused(function, labels, probabilities):
    with pytest.raises(milbench.MilbenchError):
        function(labels, probabilities)


@pytest.mark.parametrize(
    "function",
    [
        metrics.auc,
        metrics.average_precision,
        metrics.per_class,
        metrics.all_metrics,
        metrics.accuracy_at_best_threshold,
    ],
    ids=lambda f: f.__name__,
)
@pytest.mark.parametrize("odds", [[[0, np.nan], [0, 1]], [[0, np.inf], [0, 1]], [[0.0], [1.0]], [["a", "b"]] * 2])
def test_wrong_log_odds_are_refused(function, odds):
    with pytest.raises(milbench.MilbenchError):
        function([0, 1], [[0.5, 0.5], [0.5, 0.5]], log_odds=odds)


@given(logits(), st.sampled_from([None, 1]))
@FEW
def test_metrics_are_scikit_learns_to_the_last_digit(case, decimals):
    y, z = case
    p = torch.softmax(z.double(), dim=1).numpy()
    s = head_log_odds(z).numpy()
    s = s if decimals is None else s.round(decimals - 2)  # with ties
    classes = [1] if p.shape[1] == 2 else np.unique(y)
    # Of the AUC to the last but one: it is the float next to a fraction, which a sum of trapezoids may miss.
    assert metrics.auc(y, p, s) == pytest.approx(np.mean([roc_auc_score(y == c, s[:, c]) for c in classes]), rel=4e-16)
    assert metrics.average_precision(y, p, s) == np.mean([average_precision_score(y == c, s[:, c]) for c in classes])
    actual = p.argmax(axis=1)
    assert metrics.balanced_accuracy(y, p) == recall_score(y, actual, average="macro")
    average = "binary" if p.shape[1] == 2 else "macro"
    assert metrics.f1(y, p) == f1_score(y, actual, average=average, zero_division=np.nan)
    expected = log_loss(y, p / p.sum(axis=1, keepdims=True), labels=np.arange(p.shape[1]))
    assert metrics.log_loss(y, p) == pytest.approx(expected, rel=1e-15)


# --- methods that learnt nothing -------------------------------------------------------------------------------------


def rewritten(store, method, change):
    """Publish the runs of one method again with other predictions."""
    for run in store.records():
        if run.method == method:
            store.publish_run(run.spec.run_id, run.record, change(run.predictions()), run.history(), overwrite=True)


def constant(table):
    return table.assign(p0=0.9, p1=0.1, s0=2.2, s1=-2.2)


def one_class(table):
    """Every bag is of class 0, but the order is kept."""
    p = table["p1"] * 0.4
    return table.assign(p0=1 - p, p1=p, s0=-np.log(p / (1 - p)), s1=np.log(p / (1 - p)))


@pytest.mark.parametrize(
    ("change", "words"), [(constant, ["one class", "equal scores"]), (one_class, ["one class"]), (None, [])]
)
def test_a_collapsed_method_has_a_note(tmp_path, change, words):
    suite = made.suite(data=("easy",), reference="max")
    store = made.fill(tmp_path, suite, ("mean", "max"), n=40, folds=("f0", "f1"), seeds=1)
    if change is not None:
        rewritten(store, "mean", change)
    board = evaluate(tmp_path, resamples=5)
    said = " ".join(note for note in board.notes if ": mean " in note)
    assert [word for word in ("one class", "equal scores") if word in said] == words
    assert not [note for note in board.notes if ": max " in note]
    effect = board.effects[0]
    assert bool(effect["note"]) == bool(words)
    runs = run_scores(tmp_path).set_index("method")
    assert (runs.loc[["mean"], "classes_predicted"] == (1 if words else 2)).all()
    assert (runs.loc[["mean"], "tied_pairs"] == (1.0 if change is constant else 0.0)).all()


def test_tied_pairs_are_those_that_count_one_half():
    rng = np.random.default_rng(0)
    y, s = rng.integers(0, 2, 40), rng.integers(0, 4, 40).astype(float)
    pairs = list(itertools.product(s[y == 1], s[y == 0]))
    expected = np.mean([a == b for a, b in pairs])
    assert metrics.tied_share(y, np.column_stack([-s, s])) == pytest.approx(expected)
    assert np.isnan(metrics.tied_share([1, 1], np.zeros((2, 2))))


@pytest.mark.parametrize("learns", [False, True])
def test_a_method_that_never_left_the_loss_of_a_constant_has_a_note(tmp_path, learns):
    """A learning rate of next to nothing, against one that separates two shifted means at once."""
    lr = 0.05 if learns else 1e-9
    params = {"dim": 8, "train": 30, "val": 20, "test": 20, "delta": 3.0, "informative": 4}
    suite = Suite(
        name="s", methods=("mean", "abmil"), reference="mean", cost=False, recipe={"epochs": 15, "lr": lr},
        data=(DataSpec(name="d", dataset="shifted-mean", params=params),),
    )  # fmt: skip
    milbench.run(suite, results=tmp_path)
    board = evaluate(tmp_path, resamples=5)
    said = [note for note in board.notes if "validation loss" in note]
    assert len(said) == (0 if learns else 2)
    note = board.effects[0]["note"]
    assert ("loss of a constant" in note) != learns
    text = write_report(board, tmp_path / "report", "T", "P").read_text()
    assert ("loss of a constant" in text) != learns


@pytest.mark.parametrize("weights", ["none", "balanced"])
@pytest.mark.parametrize("sampler", ["shuffle", "balanced"])
@pytest.mark.parametrize("learnt", [True, False])
def test_a_balanced_training_is_held_to_the_frequencies_it_aims_at(weights, sampler, learnt):
    """The best posterior of two shifted normals under the weights of the training, and a constant, at 10 % positive."""
    rng = np.random.default_rng(0)
    names = [f"s{i}" for i in range(4000)]
    y = (np.arange(4000) % 10 == 0).astype(int)
    x = rng.normal(size=4000) + 1.5 * y
    log_odds = 1.5 * x - 1.5**2 / 2 if learnt else np.zeros(4000)  # of the classes' densities
    power = [weights, sampler].count("balanced")
    log_odds = log_odds + np.log(0.1 / 0.9) * (1 - power)
    p = 1 / (1 + np.exp(-log_odds))
    part = np.where(np.arange(4000) < 2000, "train", "val")
    columns = {"slide_id": np.array(names), "split": part, "p0": 1 - p, "p1": p}
    plain = float(-np.log(np.where(y == 1, p, 1 - p))[part == "val"].mean())
    record = SimpleNamespace(
        outcome="ok", spec=SimpleNamespace(recipe=Recipe(class_weights=weights, sampler=sampler)),
        arrays=lambda _: columns, smallest=lambda _: plain,
    )  # fmt: skip
    cohort = SimpleNamespace(
        labels=lambda: pd.DataFrame({"label": y}, index=names), cells=[("f", 0)],
        parts=lambda _: pd.Series(part, index=names), runs={"m": {("f", 0): record}},
    )  # fmt: skip
    assert (plain > 0.999 * collapse.constant_losses(cohort)["f"]) == (power > 0 or not learnt)
    assert collapse.never_better(cohort) == {"m": (0 if learnt else 1, 1)}


# --- stored runs are read in one way, whatever reads them ------------------------------------------------------------


def test_columns_and_data_frames_hold_the_same(tmp_path):
    store = made.fill(tmp_path, made.suite(data=("easy",)), ("mean",), n=24, folds=("f0",), seeds=1, classes=3)
    (run,) = store.records()
    frame, columns = run.predictions(), run.arrays("predictions.parquet")
    assert list(columns) == list(frame)
    for name, values in columns.items():
        np.testing.assert_array_equal(values, frame[name].to_numpy())
    assert run.smallest("val_loss") == run.history()["val_loss"].min()
    assert run.smallest("val_auc") is None


@pytest.mark.parametrize(
    ("change", "refusal"),
    [
        (lambda t: t.drop(columns="split"), ("store-damaged", "split")),
        (lambda t: t.drop(columns="slide_id"), ("store-damaged", "slide_id")),
        (lambda t: t.assign(s0=0.0), ("store-damaged",)),
        (lambda t: t.assign(s0=np.nan, s1=0.0), ("scores-not-finite",)),
        (lambda t: t.assign(slide_id="unknown"), ("store-damaged",)),
        (lambda t: pd.concat([t, t]), ("store-damaged",)),
        (lambda t: t.drop(columns="p1"), ("store-damaged", "2")),
    ],
)
def test_damaged_predictions_are_refused_in_a_sentence(tmp_path, change, refusal):
    store = made.fill(tmp_path, made.suite(data=("easy",)), ("mean",), n=24, folds=("f0",), seeds=1)
    (run,) = store.records()
    change(run.predictions()).to_parquet(run.path / "predictions.parquet", index=False)
    content = json.loads((run.path / "run.json").read_text())
    for key in ("files", "checksum"):  # as a store of before, in which nothing else finds the damage
        content.pop(key, None)
    (run.path / "run.json").write_text(json.dumps(content))
    with refused(*refusal):
        leaderboard(tmp_path, resamples=5)


def test_a_table_without_details_has_the_same_figures(tmp_path):
    stored(tmp_path)
    full, short = (evaluate(tmp_path, resamples=20, details=details) for details in (True, False))
    pd.testing.assert_frame_equal(full.table, short.table)
    assert full.notes == short.notes


@pytest.mark.parametrize(("positives", "bags"), [(3, 7), (4, 7), (3, 6), (1, 5), (5, 5), (1, 1)])
def test_the_average_precision_of_no_order_is_that_of_all_orders(positives, bags):
    labels = [1] * positives + [0] * (bags - positives)
    orders = set(itertools.permutations(labels))
    due = np.mean([average_precision_score(order, np.arange(bags)) for order in orders])
    assert notes._chance_precision(positives, bags) == pytest.approx(due, abs=1e-12)
