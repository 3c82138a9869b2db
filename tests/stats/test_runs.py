"""Aggregates over runs and tasks, against scipy, counting, and what the bootstrap must not do."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import stats as sp
from support.refusal import refused

from milbench import stats


@given(arrays(float, array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.integers(0, 9)))
@settings(max_examples=60, deadline=None)
def test_interquartile_mean_is_scipys_over_all_runs(scores):
    assert stats.interquartile_mean(scores) == pytest.approx(sp.trim_mean(scores, 0.25, axis=None))
    many = np.stack([scores, scores + 1])
    assert stats.interquartile_mean(many) == pytest.approx(stats.interquartile_mean(scores) + np.array([0.0, 1.0]))


def test_interquartile_mean_of_agarwal_et_al():
    # 4 runs of 2 tasks: of 1 ... 8 the middle half is 3 ... 6. The outlier changes nothing.
    scores = np.array([[1, 2], [3, 4], [5, 6], [7, 800]])
    assert stats.interquartile_mean(scores) == 4.5


def test_probability_of_improvement_is_mann_whitneys_averaged_over_tasks():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 5, (4, 6)).astype(float), rng.integers(0, 5, (7, 6)).astype(float)
    u = [sp.mannwhitneyu(a[:, k], b[:, k]).statistic / 28 for k in range(6)]  # as in rliable
    assert stats.probability_of_improvement(a, b) == pytest.approx(np.mean(u))
    assert stats.probability_of_improvement(b, a) == pytest.approx(1 - np.mean(u))


def test_profiles_fall_from_one_and_enclose_the_mean():
    scores = np.random.default_rng(1).random((5, 8))
    tau = np.linspace(-0.01, 1.01, 2001)
    p = stats.performance_profile(scores, tau, resamples=200)
    assert (np.diff(p.share) <= 0).all()
    assert (p.share[0], p.share[-1]) == (1.0, 0.0)
    assert np.trapezoid(p.share, tau) - 0.01 == pytest.approx(scores.mean(), abs=1e-3)
    assert (p.low <= p.share).all()
    assert (p.share <= p.high).all()
    # More than a threshold, not as much.
    assert stats.performance_profile([[0.5, 0.7]], [0.5], resamples=10).share == 0.5


def test_runs_are_drawn_within_their_task():
    """Tasks far apart: a draw over tasks would move the mean by far more than one over runs."""
    rng = np.random.default_rng(2)
    scores = np.arange(6) * 10.0 + rng.normal(size=(4, 6))

    def mean(s):
        return s.mean(axis=(-2, -1))

    over_runs = stats.run_replicates(mean, scores, resamples=4000)
    over_tasks = stats.run_replicates(mean, scores, resamples=4000, draw="tasks")
    # The mean of 24 runs, each task's variance known from 4 of them; the mean of 6 task means.
    assert over_runs.std() == pytest.approx(np.sqrt(scores.var(axis=0, ddof=1).mean() / 24), rel=0.05)
    assert over_tasks.std() == pytest.approx(scores.mean(axis=0).std(ddof=1) / np.sqrt(6), rel=0.05)
    # Six tasks: as much longer as Student's t with 5 degrees of freedom.
    few = stats.run_interval(mean, scores, resamples=4000, draw="tasks")
    plain = np.diff(np.quantile(over_tasks, [0.025, 0.975]))[0]
    assert few.high - few.low == pytest.approx(plain * sp.t.ppf(0.975, 5) / sp.norm.ppf(0.975), rel=1e-9)
    interval = stats.run_interval(mean, scores)
    assert interval.estimate == pytest.approx(scores.mean())
    assert interval.low < interval.estimate < interval.high
    assert interval == stats.run_interval(mean, scores)
    assert interval != stats.run_interval(mean, scores, seed=1)


def test_drawn_tasks_are_the_same_for_both_methods():
    rng = np.random.default_rng(3)
    a = rng.normal(size=(3, 12))
    gain = stats.run_replicates(lambda x, y: (x - y).mean(axis=(-2, -1)), a + 1, a, draw="tasks")
    assert gain == pytest.approx(np.ones(2000))


def test_what_cannot_be_drawn_is_named():
    one = stats.run_interval(stats.interquartile_mean, [[0.1, 0.5, 0.9]])
    assert one.low == one.estimate == one.high == 0.5  # one run has no spread
    with refused("stats-bad-input"):
        stats.run_interval(stats.interquartile_mean, [[0.1, np.nan]])
    with refused("stats-bad-input", "[2, 3]"):
        stats.run_interval(stats.probability_of_improvement, np.zeros((2, 3)), np.zeros((2, 2)))
