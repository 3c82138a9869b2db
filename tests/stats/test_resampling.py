"""Bootstrap weights and the intervals of replicates, against scipy, closed forms and simulation."""

import math

import numpy as np
import pytest
from scipy import stats as sp
from scipy.special import expit, logit

from milbench import stats


def test_cluster_weights_draw_whole_patients_and_keep_the_classes():
    rng = np.random.default_rng(4)
    patients = np.array([f"p{i // 3}" for i in range(60)])
    labels = (np.arange(60) // 3) % 2
    labels[::3] = 0  # a positive patient has a negative bag too
    w = stats.cluster_weights(patients, labels, 500, rng)
    assert w.shape == (500, 60)
    by_patient = w.reshape(500, 20, 3)
    assert (by_patient == by_patient[:, :, :1]).all()
    positive = np.arange(20) % 2 == 1
    assert (by_patient[:, positive, 0].sum(axis=1) == 10).all()
    assert (by_patient[:, ~positive, 0].sum(axis=1) == 10).all()
    assert w.mean(axis=0) == pytest.approx(np.ones(60), abs=0.2)
    again = stats.cluster_weights(patients, labels, 500, np.random.default_rng(4))
    assert (w == again).all()


def test_interval_over_clusters_is_wider_than_over_bags():
    # Ten bags a patient that are nearly one another's copies: 20 observations, not 200.
    rng = np.random.default_rng(5)
    y = np.repeat(np.arange(20) % 2, 10)
    s = np.repeat(rng.normal(size=20), 10) + y + 0.01 * rng.normal(size=200)
    patients = np.repeat(np.arange(20), 10)
    low, high = stats.interval(stats.bootstrap_auc(y, s, stats.cluster_weights(patients, y, 1000, rng)))
    low_b, high_b = stats.interval(stats.bootstrap_auc(y, s, stats.cluster_weights(np.arange(200), y, 1000, rng)))
    assert high - low > 2 * (high_b - low_b)


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_seed_weights_stray_as_student_says(seeds):
    w = stats.seed_weights(seeds, 4000, np.random.default_rng(7))
    assert w.sum(axis=1) == pytest.approx(np.full(4000, seeds))
    x = np.random.default_rng(8).normal(size=seeds) ** 3
    t = (w @ x / seeds - x.mean()) / (x.std(ddof=1) / math.sqrt(seeds))
    assert sp.kstest(t, sp.t(seeds - 1).cdf).pvalue > 0.01
    assert (stats.seed_weights(1, 5, np.random.default_rng(7)) == 1).all()


def test_combination_of_folds_and_seeds():
    cells = np.arange(2 * 3 * 4, dtype=float).reshape(2, 3, 4)  # folds, seeds, replicates
    w = np.array([[1, 1, 1], [3, 0, 0], [0.5, -0.5, 3], [2, 1, 0]])
    even, own = cells.mean(axis=(0, 1)), np.array([-4.0, 0.0, 4.0])  # seeds lie 4 apart, in every fold and replicate
    assert stats.combine(cells, w) == pytest.approx(even + (w - 1) @ own / 3)
    assert stats.combine(cells[:, :1], w[:, :1] * 0 + 1) == pytest.approx(cells[:, 0].mean(axis=0))
    cells[0, 0, 1] = np.nan  # undefined under one replicate: the seed's own deviation is that of the others
    cells[0] += 100  # folds may differ
    assert stats.combine(cells, w)[1] == pytest.approx(np.nanmean(cells[:, :, 1]) + (w[1] - 1) @ own / 3, abs=0.5)
    cells[:, :, 1] = np.nan
    assert np.isnan(stats.combine(cells, w)[1])


@pytest.mark.parametrize("seeds", [2, 3, 8])
def test_with_no_spread_over_bags_the_paired_test_over_seeds_is_the_t_test(seeds):
    rng = np.random.default_rng(9)
    a, b = rng.normal(0.8, 0.02, seeds), rng.normal(0.75, 0.02, seeds)
    w = stats.seed_weights(seeds, 40_000, rng)
    over_seeds = [stats.combine(np.repeat(x[None, :, None], 40_000, axis=2), w) for x in (a, b)]
    difference = stats.paired_difference(a.mean(), over_seeds[0], b.mean(), over_seeds[1])
    known = sp.ttest_rel(a, b)
    low, high = known.confidence_interval(0.95)
    assert difference.p == pytest.approx(known.pvalue, abs=0.01, rel=0.1)
    assert [difference.low, difference.high] == pytest.approx([low, high], abs=0.1 * (high - low))


@pytest.fixture(scope="module")
def two_samples():
    """Scores of 30 positives and 40 negatives, their AUC, and scipy's bootstrap of it with its BCa interval."""
    rng = np.random.default_rng(11)
    x, y = rng.normal(1.6, 1, 30), rng.normal(0, 1, 40)

    def auc(x, y, axis=-1):
        return (x[..., :, None] > y[..., None, :]).mean(axis=(-2, -1))

    theirs = sp.bootstrap((x, y), auc, n_resamples=1500, method="BCa", vectorized=True, batch=500, rng=rng)
    labels = np.repeat([1, 0], [30, 40])
    return labels, np.concatenate([x, y]), float(auc(x, y)), theirs


def test_bca_is_scipys(two_samples):
    labels, scores, auc, theirs = two_samples
    areas = stats.delong(labels, scores)
    ours = stats.bca_interval(auc, theirs.bootstrap_distribution, areas.influence[0])
    assert ours == pytest.approx(tuple(theirs.confidence_interval), abs=1e-12)
    percentile = stats.interval(theirs.bootstrap_distribution)
    assert ours[0] < percentile[0]  # which is what the correction is for
    assert ours[1] < percentile[1]


def test_the_bootstrap_over_patients_is_scipys_over_samples(two_samples):
    labels, scores, _, theirs = two_samples
    weights = stats.cluster_weights(np.arange(70), labels, 4000, np.random.default_rng(0))
    ours, distribution = stats.bootstrap_auc(labels, scores, weights), theirs.bootstrap_distribution
    assert ours.std() == pytest.approx(distribution.std(), rel=0.06)
    assert ours.mean() == pytest.approx(distribution.mean(), abs=0.005)


@pytest.mark.parametrize("end", [0, 1])
def test_the_p_value_of_an_end_of_the_bca_interval_is_its_complement(two_samples, end):
    labels, scores, auc, theirs = two_samples
    influence = stats.delong(labels, scores).influence[0]
    for level in (0.8, 0.95):
        null = stats.bca_interval(auc, theirs.bootstrap_distribution, influence, level)[end]
        p = stats.bca_p_value(auc, theirs.bootstrap_distribution, influence, null)
        assert p == pytest.approx(1 - level, abs=0.01)
    assert stats.bca_p_value(auc, theirs.bootstrap_distribution, influence, auc) > 0.5


def test_logit_interval_by_hand():
    replicates = np.array([0.8, 0.9, 0.85, 0.95, np.nan])
    half = 1.959963985 * np.std([0.8, 0.9, 0.85, 0.95], ddof=1) / (0.88 * 0.12)
    expected = expit(logit(0.88) - half), expit(logit(0.88) + half)
    assert stats.logit_interval(0.88, replicates) == pytest.approx(expected, rel=1e-8)
    low, high = stats.logit_interval(0.88, replicates)
    assert 0.88 - low > high - 0.88  # longer towards 1/2
    assert stats.logit_interval(1.0, np.ones(9)) == (1.0, 1.0)
    assert np.isnan(stats.logit_interval(0.5, [np.nan, 0.5])).all()
    assert np.isnan(stats.interval([np.nan])).all()
    assert np.isnan(stats.bca_interval(0.5, [np.nan], [1.0])).all()


def test_equal_replicates_have_no_width():
    assert stats.bca_interval(0.7, np.full(50, 0.7), np.zeros(9)) == (0.7, 0.7)
    assert stats.bca_p_value(0.0, np.zeros(50), np.zeros(9)) == 1.0
