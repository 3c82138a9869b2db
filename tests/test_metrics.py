"""Metrics against scikit-learn and closed forms."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk
from support.refusal import refused

from milbench import metrics


@st.composite
def predictions(draw):
    c, n = draw(st.integers(2, 4)), draw(st.integers(2, 30))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    p = rng.dirichlet(np.ones(c), n).round(draw(st.sampled_from([1, 8])))
    p = np.maximum(p, 1e-3)
    return rng.integers(0, c, n), p / p.sum(axis=1, keepdims=True)


@given(predictions())
@settings(max_examples=80, deadline=None)
def test_against_sklearn(given_predictions):
    y, p = given_predictions
    c, classes = p.shape[1], p.argmax(axis=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours = metrics.all_metrics(y, p)
    assert ours["accuracy"] == pytest.approx(sk.accuracy_score(y, classes))
    recalls = [(classes[y == k] == k).mean() for k in np.unique(y)]
    assert ours["balanced_accuracy"] == pytest.approx(np.mean(recalls))
    assert ours["log_loss"] == pytest.approx(-np.log(p[np.arange(len(y)), y]).mean())
    assert 0 <= ours["ece"] <= 1
    if c == 2:
        assert ours["brier"] == pytest.approx(sk.brier_score_loss(y, p[:, 1]))
        if y.any() or classes.any():
            assert ours["f1"] == pytest.approx(sk.f1_score(y, classes, zero_division=0))
        else:
            assert np.isnan(ours["f1"])
    if len(np.unique(y)) == c:
        kw = {} if c == 2 else {"multi_class": "ovr", "average": "macro"}
        assert ours["auc"] == pytest.approx(sk.roc_auc_score(y, p[:, 1] if c == 2 else p, **kw))
        target = (y[:, None] == np.arange(c)).astype(int)
        expected = sk.average_precision_score(y, p[:, 1]) if c == 2 else sk.average_precision_score(target, p)
        assert ours["average_precision"] == pytest.approx(expected)


def test_closed_forms():
    y = np.array([0, 1, 1, 0])
    perfect = np.eye(2)[y]
    values = metrics.all_metrics(y, perfect)
    assert {k: round(v, 12) for k, v in values.items()} == {
        "auc": 1, "balanced_accuracy": 1, "accuracy": 1, "average_precision": 1, "f1": 1,
        "sensitivity": 1, "specificity": 1,
        "log_loss": 0, "brier": 0, "ece": 0,
    }  # fmt: skip
    even = np.full((4, 2), 0.5)
    values = metrics.all_metrics(y, even)
    assert values["auc"] == 0.5
    assert values["brier"] == 0.25
    assert values["log_loss"] == pytest.approx(np.log(2))
    assert values["ece"] == 0  # half are right, as said
    uniform = np.full((3, 3), 1 / 3)
    assert metrics.brier([0, 1, 2], uniform) == pytest.approx(2 / 3)


def test_calibration_error_by_hand():
    # Two bins: confidence 0.9 with 3 of 4 right, confidence 0.6 with 0 of 1 right.
    p1 = np.array([0.9, 0.9, 0.9, 0.9, 0.6])
    y = np.array([1, 1, 1, 0, 0])
    p = np.column_stack([1 - p1, p1])
    assert metrics.expected_calibration_error(y, p) == pytest.approx((4 * 0.15 + 1 * 0.6) / 5)
    # 0.6 = 9/15 closes the bin (8/15, 9/15]: with 5 bins it is the third's end.
    assert metrics.expected_calibration_error(y, p, bins=1) == pytest.approx(abs(0.6 - p1.mean()))


def test_one_class_gives_nan_and_no_warning():
    p = np.array([[0.3, 0.7], [0.6, 0.4]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        negative, positive = metrics.all_metrics([0, 0], p), metrics.all_metrics([1, 1], p)
        table = metrics.per_class([1, 1], p)
    assert np.isnan(negative["auc"])
    assert np.isnan(positive["auc"])
    assert np.isnan(negative["average_precision"])
    assert negative["accuracy"] == positive["accuracy"] == 0.5
    assert np.isnan(table.loc[0, "recall"])


def test_absent_class_is_left_out():
    p = np.array([[0.5, 0.3, 0.2], [0.1, 0.7, 0.2], [0.6, 0.2, 0.2]])
    y = np.array([0, 1, 1])
    expected = np.mean([sk.roc_auc_score(y == c, p[:, c]) for c in (0, 1)])
    assert metrics.auc(y, p) == pytest.approx(expected)


def test_per_class():
    y = np.array([0, 0, 1, 1, 2, 2])
    p = np.eye(3)[[0, 1, 1, 1, 2, 0]]
    table = metrics.per_class(y, p, ["a", "b", "c"])
    assert list(table.index) == ["a", "b", "c"]
    precision, recall, f1, bags = sk.precision_recall_fscore_support(y, p.argmax(axis=1))
    for name, values in {"precision": precision, "recall": recall, "f1": f1, "bags": bags}.items():
        assert table[name].to_numpy() == pytest.approx(values)
    assert table["specificity"].to_numpy() == pytest.approx([3 / 4, 3 / 4, 1])


@pytest.mark.parametrize(
    ("labels", "probabilities", "refusal"),
    [
        ([0, 1], [[0.5, np.nan], [0.5, 0.5]], ("scores-not-finite", "1", "2")),
        ([0, 1], [[3.0, -2.0], [0.5, 0.5]], ("stats-bad-input", "1")),
        ([0, 1], [[0.7, 0.7], [0.5, 0.5]], ("stats-bad-input", "1")),
        ([0, 2], [[0.5, 0.5], [0.5, 0.5]], ("stats-bad-input", "1", "0")),
        ([0.0, 1.0], [[0.5, 0.5], [0.5, 0.5]], ("stats-bad-input",)),
        ([0], [[0.5, 0.5], [0.5, 0.5]], ("stats-bad-input",)),
        ([], np.empty((0, 2)), ("stats-bad-input",)),
    ],
)
def test_errors_say_what_is_wrong(labels, probabilities, refusal):
    with refused(*refusal):
        metrics.all_metrics(np.array(labels), np.array(probabilities))
    with refused(*refusal):
        metrics.auc(np.array(labels), np.array(probabilities))


def test_rounding_of_float32_is_not_an_error():
    p = np.array([[0.3, 0.7], [0.6, 0.4]], dtype=np.float32) * np.float32(1 + 1e-6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        metrics.all_metrics([0, 1], p)


@pytest.mark.parametrize("record", [metrics.Metric("x", len, "X", "higher"), metrics.Metric("x", "X", True, 3)])
def test_a_record_in_another_order_is_refused(record):
    with refused("metric-malformed", "'x'"):
        metrics.register_metric(record)
