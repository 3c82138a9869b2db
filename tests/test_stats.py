"""Intervals, paired tests and ranks, against closed forms, brute force and simulation."""

import math
import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm, t
from sklearn.metrics import roc_auc_score

from milbench import stats


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


def test_multi_class_auc_is_sklearns_macro_one_vs_rest():
    rng = np.random.default_rng(2)
    y, p = rng.integers(0, 4, 80), rng.dirichlet(np.ones(4), 80)
    assert stats.weighted_auc(y, p) == pytest.approx(roc_auc_score(y, p, multi_class="ovr", average="macro"))
    p2 = rng.dirichlet(np.ones(2), 80)
    assert stats.weighted_auc(y > 1, p2) == pytest.approx(roc_auc_score(y > 1, p2[:, 1]))


def test_two_thousand_resamples_of_a_thousand_bags_are_quick():
    rng = np.random.default_rng(3)
    y, s, w = rng.integers(0, 2, 1000), rng.normal(size=1000), rng.integers(0, 3, (2000, 1000))
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        stats.bootstrap_auc(y, s, w)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 1  # about 0.05 s on one quiet core; a loop over resamples takes 3 s


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


def test_interval_covers_the_true_auc():
    truth = norm.cdf(1 / np.sqrt(2))  # scores N(0, 1) against N(1, 1)
    rng, covered, n = np.random.default_rng(6), 0, 80
    y = np.arange(n) % 2
    for _ in range(200):
        s = rng.normal(size=n) + y
        low, high = stats.interval(stats.bootstrap_auc(y, s, stats.cluster_weights(np.arange(n), y, 300, rng)))
        covered += low <= truth <= high
    assert 180 <= covered <= 199  # 95 % nominal; the percentile interval of so few bags is a little short


def test_seed_weights_and_combination():
    w = stats.seed_weights(3, 1000, np.random.default_rng(7))
    assert (w.sum(axis=1) == 3).all()
    assert w.mean(axis=0) == pytest.approx(np.ones(3), abs=0.1)
    cells = np.arange(2 * 3 * 4, dtype=float).reshape(2, 3, 4)  # folds, seeds, replicates
    drawn = np.array([[1, 1, 1], [3, 0, 0], [0, 0, 3], [2, 1, 0]], dtype=float)
    even = cells.mean(axis=(0, 1))
    bootstrapped = np.array([cells[:, :, r].mean(axis=0) @ drawn[r] / 3 for r in range(4)])
    assert stats.combine(cells, drawn) == pytest.approx(even + math.sqrt(3 / 2) * (bootstrapped - even))
    assert stats.combine(cells[:, :1], drawn[:, :1]) == pytest.approx(cells[:, 0].mean(axis=0))  # one seed: no spread
    cells[0, 0, 1] = np.nan  # an undefined fold is left out
    even = np.nanmean(cells[:, :, 1])
    assert stats.combine(cells, drawn)[1] == pytest.approx(even + math.sqrt(3 / 2) * (cells[1, 0, 1] - even))
    cells[:, 0, 1] = np.nan
    assert np.isnan(stats.combine(cells, drawn)[1])


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_the_spread_over_seeds_is_not_underestimated(seeds):
    """The mean of S seeds has variance sigma^2 / S; the plain bootstrap of three seeds would show two thirds of it."""
    rng = np.random.default_rng(9)
    drawn = stats.seed_weights(seeds, 400, rng)
    shown = [stats.combine(np.repeat(rng.normal(size=(1, seeds, 1)), 400, axis=2), drawn).var() for _ in range(3000)]
    assert np.mean(shown) == pytest.approx(1 / seeds, rel=0.08)


def test_paired_test_keeps_its_level_under_the_null():
    rng, rejected, n, trials = np.random.default_rng(8), 0, 80, 200
    y = np.arange(n) % 2
    for _ in range(trials):
        shared = rng.normal(size=n) + y
        w = stats.cluster_weights(np.arange(n), y, 300, rng)
        a, b = (shared + 0.5 * rng.normal(size=n) for _ in range(2))
        aucs = [stats.weighted_auc(y, s) for s in (a, b)]
        d = stats.paired_difference(aucs[0], stats.bootstrap_auc(y, a, w), aucs[1], stats.bootstrap_auc(y, b, w))
        assert d.low <= d.estimate <= d.high or abs(d.estimate) < 0.02
        rejected += not d.tied
    assert rejected / trials <= 0.10


def test_paired_test_finds_what_is_there_and_pairs():
    rng, n = np.random.default_rng(9), 100
    y = np.arange(n) % 2
    hard = 2 * rng.normal(size=n)
    a, b = hard + 2 * y, hard + 1.2 * y + 0.1 * rng.normal(size=n)
    w = stats.cluster_weights(np.arange(n), y, 1000, rng)
    ra, rb = stats.bootstrap_auc(y, a, w), stats.bootstrap_auc(y, b, w)
    d = stats.paired_difference(stats.weighted_auc(y, a), ra, stats.weighted_auc(y, b), rb)
    assert d.estimate > 0
    assert not d.tied
    assert d.p < 0.05
    (low_a, high_a), (low_b, high_b) = stats.interval(ra), stats.interval(rb)
    assert low_a < high_b  # apart they overlap; paired they differ
    assert d.high - d.low < min(high_a - low_a, high_b - low_b)
    same = stats.paired_difference(0.8, ra, 0.8, ra)
    assert (same.estimate, same.low, same.high, same.p) == (0, 0, 0, 1)


def test_tie_ranks():
    rng = np.random.default_rng(10)
    noise = rng.normal(0, 0.01, 2000)

    def near(mean, own):
        return mean + noise + rng.normal(0, own, 2000)

    scores = [0.70, 0.90, 0.895, 0.89, np.nan, 0.60]
    replicates = [near(s, 0.01) if s == s else np.full(2000, np.nan) for s in scores]
    ranks = stats.tie_ranks(scores, replicates)
    assert list(ranks[:4]) == [4, 1, 1, 1]
    assert np.isnan(ranks[4])
    assert ranks[5] == 5
    # A wide interval keeps a lower score tied with the best, where a narrow one is told apart.
    ranks = stats.tie_ranks([0.9, 0.88, 0.87], [near(0.9, 0.001), near(0.88, 0.001), near(0.87, 0.1)])
    assert list(ranks) == [1, 3, 1]
    assert list(stats.tie_ranks([0.5, 0.5], [np.full(9, 0.5)] * 2)) == [1, 1]
    assert np.isnan(stats.tie_ranks([np.nan], [np.full(9, np.nan)])).all()


def test_corrected_t_test_by_hand():
    d = [0.02, 0.04, 0.00, 0.03, 0.01]
    out = stats.corrected_t_test(d, 1 / 4)
    # mean 0.02, variance 0.00025, error sqrt((1/5 + 1/4) 0.00025) = 0.0106066
    assert (out.mean, out.df) == (pytest.approx(0.02), 4)
    assert out.t == pytest.approx(0.02 / 0.010606602, rel=1e-6)
    assert out.p == pytest.approx(2 * t.sf(1.8856181, 4), rel=1e-6)
    assert out.low == pytest.approx(0.02 - 2.7764451 * 0.010606602, rel=1e-6)
    plain = 0.02 / np.sqrt(0.00025 / 5)
    assert out.t < plain
    assert stats.corrected_t_test([0, 0, 0], 0.5).p == 1
    assert stats.corrected_t_test([0.1, 0.1], 0.5).p == 0
    with pytest.raises(ValueError, match="2 or more"):
        stats.corrected_t_test([0.1], 0.25)


def test_published_folds_differ_less_than_a_plain_t_test_says(shared_root):
    file = shared_root / "data" / "published" / "hipt_cvpr2022_tcga_mil_folds.csv"
    table = pd.read_csv(file).query("run_group == 'results_cvpr2022_class' and train_frac == 1.0")
    tested = 0
    for _, task in table.groupby("task"):
        folds = task.pivot_table(index="fold", columns="method", values="test_auc")
        best = folds.mean().idxmax()
        for other in folds.columns.drop(best):
            d = (folds[best] - folds[other]).to_numpy()
            corrected = stats.corrected_t_test(d, 1 / 9)
            plain_p = 2 * t.sf(abs(d.mean() / np.sqrt(d.var(ddof=1) / len(d))), len(d) - 1)
            assert corrected.p >= plain_p
            assert corrected.low < d.mean() < corrected.high
            tested += 1
    assert tested >= 20


def test_published_predictions_by_patient(shared_root):
    file = shared_root / "data" / "published" / "clam_per_slide_predictions.csv"
    table = pd.read_csv(file)
    patients, y = table["slide_id"].str[:12].to_numpy(), table["Y"].to_numpy()
    w = stats.cluster_weights(patients, y, 500, np.random.default_rng(0))
    folds = sorted(set(table["fold"]))
    cells = np.stack([
        stats.bootstrap_auc(y[rows], table["p_1"].to_numpy()[rows], w[:, rows])
        for rows in ((table["fold"] == fold).to_numpy() for fold in folds)
    ])[:, None]  # fmt: skip
    low, high = stats.interval(stats.combine(cells, np.ones((500, 1))))
    mean = np.mean([roc_auc_score(g["Y"], g["p_1"]) for _, g in table.groupby("fold")])
    assert low < mean < high <= 1
    assert high - low < 0.2
