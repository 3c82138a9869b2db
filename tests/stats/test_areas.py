"""The AUC under weights, and placements, against their definitions and scikit-learn."""

import time
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from support.refusal import refused

from milbench import metrics, stats


def brute_auc(y, s, w):
    """The definition: every positive against every negative."""
    won = pairs = 0.0
    for i in np.flatnonzero(y):
        for j in np.flatnonzero(~y):
            won += w[i] * w[j] * (1.0 if s[i] > s[j] else 0.5 if s[i] == s[j] else 0.0)
            pairs += w[i] * w[j]
    return won / pairs if pairs else np.nan


@st.composite
def weighted_bags(draw):
    n = draw(st.integers(2, 25))
    y = np.array(draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    s = np.array(draw(st.lists(st.integers(0, 6), min_size=n, max_size=n)), dtype=float)  # few values: many ties
    w = np.array(draw(st.lists(st.integers(0, 3), min_size=n, max_size=n)), dtype=float)
    return y, s, w


@given(weighted_bags())
@settings(max_examples=150, deadline=None)
def test_weighted_auc_is_the_pair_count_and_sklearns(bags):
    y, s, w = bags
    ours = stats.weighted_auc(y, s, w)
    assert ours == pytest.approx(brute_auc(y, s, w), abs=1e-12, nan_ok=True)
    if w[y].sum() and w[~y].sum():
        assert ours == pytest.approx(roc_auc_score(y, s, sample_weight=w), abs=1e-12)
    else:
        assert np.isnan(ours)


def test_weights_count_bags_as_often_as_they_are_drawn():
    rng = np.random.default_rng(1)
    y, s = rng.integers(0, 2, 30), rng.integers(0, 9, 30).astype(float)
    weights = rng.integers(0, 4, (20, 30))
    rows = stats.bootstrap_auc(y, s, weights)
    for w, auc in zip(weights, rows, strict=True):
        drawn = np.repeat(np.arange(30), w)
        assert auc == pytest.approx(roc_auc_score(y[drawn], s[drawn]), abs=1e-12)


def test_many_rows_of_weights_give_what_each_row_gives_alone():
    """Few and many rows go different ways; counts, which are what resamples are made of, to the last bit."""
    rng = np.random.default_rng(5)
    for distinct in (4, 40, 10_000):  # all tied in blocks, some tied, none
        y, s = rng.integers(0, 2, 40), rng.integers(0, distinct, 40).astype(float)
        weights = rng.integers(0, 4, (300, 40)).astype(float)
        many = stats.bootstrap_auc(y, s, weights)
        np.testing.assert_array_equal(many, [stats.weighted_auc(y, s, w) for w in weights])
        assert many[0] == pytest.approx(brute_auc(y.astype(bool), s, weights[0]), abs=1e-12)
    real = rng.uniform(size=(300, 40))
    expected = [brute_auc(y.astype(bool), s, w) for w in real[:5]]
    np.testing.assert_allclose(stats.bootstrap_auc(y, s, real)[:5], expected, atol=1e-12)
    assert np.isnan(stats.bootstrap_auc(y, s, weights * (y == 1))).all()  # one class has no weight
    with refused("stats-bad-input"):
        stats.bootstrap_auc(y, s, np.where(np.arange(40) == 3, np.nan, weights))
    with refused("stats-bad-input"):
        stats.bootstrap_auc(y, s, np.where(np.arange(40) == 3, np.inf, weights))


def test_multi_class_auc_is_sklearns_macro_one_vs_rest():
    rng = np.random.default_rng(2)
    y, p = rng.integers(0, 4, 80), rng.dirichlet(np.ones(4), 80)
    assert stats.weighted_auc(y, p) == pytest.approx(roc_auc_score(y, p, multi_class="ovr", average="macro"))
    p2 = rng.dirichlet(np.ones(2), 80)
    assert stats.weighted_auc(y > 1, p2) == pytest.approx(roc_auc_score(y > 1, p2[:, 1]))


def test_resampling_costs_what_a_few_dozen_sorts_cost():
    """2,000 resamples of 1,000 bags against scikit-learn on 100 of them, side by side, a twentieth of the work."""
    rng = np.random.default_rng(3)
    y, s, w = rng.integers(0, 2, 1000), rng.normal(size=1000), rng.integers(0, 3, (2000, 1000))
    ours, theirs = [], []
    for _ in range(3):
        start = time.perf_counter()
        stats.bootstrap_auc(y, s, w)
        ours.append(time.perf_counter() - start)
        start = time.perf_counter()
        for row in w[:100]:
            roc_auc_score(y, s, sample_weight=row)
        theirs.append(time.perf_counter() - start)
    assert min(ours) < 2 * min(theirs)


@given(weighted_bags())
@settings(max_examples=100, deadline=None)
def test_placements_are_shares_of_the_other_class(bags):
    y, s, _ = bags
    if y.all() or not y.any():
        with refused("stats-too-few"):
            stats.placements(y, s)
        return
    actual = stats.placements(y, np.stack([s, -s]))
    beats = np.sign(s[:, None] - s[None, :]) / 2 + 0.5  # [i, j]: i above j, ties one half
    assert actual.values[0, y] == pytest.approx(beats[np.ix_(y, ~y)].mean(axis=1), abs=1e-12)
    assert actual.values[0, ~y] == pytest.approx(beats[np.ix_(y, ~y)].mean(axis=0), abs=1e-12)
    auc = roc_auc_score(y, s)
    assert actual.auc == pytest.approx([auc, 1 - auc], abs=1e-12)


@given(weighted_bags())
@settings(max_examples=150, deadline=None)
def test_equal_mann_whitney_statistics_are_equal_floats_everywhere(bags):
    """The float next to the fraction 2U / 2PN, in every way an AUC is computed."""
    y, s, w = bags
    if y.all() or not y.any():
        return
    twice = sum(int(np.sign(a - b)) + 1 for a in s[y] for b in s[~y])
    exact = float(Fraction(twice, 2 * int(y.sum()) * int((~y).sum())))
    scores = np.column_stack([-s, s])
    assert metrics.auc(y.astype(int), np.full((len(y), 2), 0.5), scores) == exact
    assert stats.weighted_auc(y, s) == exact
    assert stats.placements(y, s).auc[0] == exact
    assert stats.bootstrap_auc(y.astype(int), scores, np.vstack([np.ones(len(y)), w]))[0] == exact


@pytest.mark.parametrize(("positives", "negatives"), [(12, 17), (33, 49)])
def test_the_order_of_bags_of_one_statistic_leaves_no_trace(positives, negatives):
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1], [negatives, positives])
    areas = {}
    for _ in range(500):
        s = rng.normal(size=len(y)) + y
        u = int((s[y == 1][:, None] > s[y == 0]).sum())
        both = metrics.auc(y, np.full((len(y), 2), 0.5), np.column_stack([-s, s])), stats.placements(y, s).auc[0]
        areas.setdefault(u, set()).update(both)
    assert len(areas) > 50
    assert all(len(values) == 1 for values in areas.values())


def test_what_has_no_placements_is_named():
    with refused("scores-not-finite"):
        stats.placements([0, 1], [0.1, np.nan])
    with refused("stats-bad-input", "2", "(3,)"):
        stats.placements([0, 1], [0.1, 0.2, 0.3])


def test_weights_that_were_checked_once_serve_many_scores():
    rng = np.random.default_rng(3)
    labels, weights = rng.integers(0, 3, 40), rng.multinomial(40, [1 / 40] * 40, size=300).astype(float)
    prepared = stats.BagWeights.of(weights, 40)
    for scores in rng.normal(size=(3, 40, 3)):
        for one, other in zip(
            stats.class_aucs(labels, scores, weights), stats.class_aucs(labels, scores, prepared), strict=True
        ):
            np.testing.assert_array_equal(one, other)
    with refused("stats-bad-input"):
        stats.class_aucs(labels[:39], scores[:39], prepared)
    with refused("stats-bad-input"):
        stats.BagWeights.of(-weights, 40)
