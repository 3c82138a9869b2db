"""Planned errors and differences, against scipy's bivariate normal, Hanley and McNeil's formula and simulation."""

import numpy as np
import pytest
from scipy import stats as sp
from support import simulated
from support.refusal import refused

from milbench import stats


def covariance(a, b, r, m, n):
    """Of two Mann-Whitney statistics, from the probability that two pairs are both in order, by scipy."""
    h = sp.norm.ppf([a, b])

    def both(rho):
        return sp.multivariate_normal([0, 0], [[1, rho], [rho, 1]], allow_singular=True).cdf(h)

    return (both(r) - a * b + (m + n - 2) * (both(r / 2) - a * b)) / (m * n)


@pytest.mark.parametrize(("a", "b", "r"), [(0.6, 0.7, 0.0), (0.9, 0.93, 0.6), (0.98, 0.98, 0.9), (0.75, 0.7, 0.99)])
def test_planned_error_is_the_quadrants(a, b, r):
    m, n = 30, 70
    variance = covariance(a, a, 1, m, n) + covariance(b, b, 1, m, n) - 2 * covariance(a, b, r, m, n)
    assert stats.planned_error(m, n, a, b, r) == pytest.approx(np.sqrt(variance), rel=1e-4)


def test_one_method_with_itself_has_no_error():
    assert stats.planned_error(30, 70, 0.9, 0.9, 1.0) == pytest.approx(0, abs=1e-7)
    apart = stats.planned_error(30, 70, 0.9, 0.9, 0.0) ** 2 / 2
    # Hanley and McNeil (Radiology 143, 1982), eq. 2: exponential scores; the normal error is less, and not by much.
    q1, q2 = 0.9 / 1.1, 2 * 0.81 / 1.9
    theirs = (0.9 * 0.1 + 29 * (q1 - 0.81) + 69 * (q2 - 0.81)) / (30 * 70)
    assert 0.8 < np.sqrt(apart / theirs) < 1.0


def test_at_auc_half_the_error_is_the_rank_sums():
    """At AUC 1/2, with scores of one distribution, the variance is (m + n + 1) / 12mn whatever the distribution."""
    assert stats.planned_error(13, 29, 0.5, 0.5, 0.0) ** 2 / 2 == pytest.approx(43 / (12 * 13 * 29), rel=1e-9)


def test_the_planned_difference_is_seen_as_often_as_planned():
    labels, rng, n = simulated.labelled(200, 0.4), np.random.default_rng(0), 600
    d = stats.planned_difference(80, 120, 0.8, 0.7)
    seen, gaps, detectable = [], [], []
    for _ in range(n):
        a, b = simulated.pair(rng, labels, 0.8, 0.7, gain=d)
        areas = stats.delong(labels, np.stack([a, b]))
        seen.append(areas.test() < 0.05)
        gaps.append(areas.difference()[0])
        detectable.append(stats.detectable_difference(labels, a, b))
    assert np.mean(seen) == pytest.approx(0.8, abs=4 * np.sqrt(0.16 / n))
    assert np.mean(gaps) == pytest.approx(d, abs=0.005)
    assert np.std(gaps) == pytest.approx(stats.planned_error(80, 120, 0.8 + d, 0.8, 0.7), rel=0.12)
    # The scored slides give the error that was planned.
    assert np.mean(detectable) == pytest.approx(d, rel=0.05)
    assert stats.planned_power(80, 120, 0.8, d, 0.7) == pytest.approx(0.8, abs=1e-4)


def test_more_slides_more_likeness_and_fewer_patients():
    d = stats.planned_difference(60, 70, 0.9, 0.7)
    assert stats.planned_difference(240, 280, 0.9, 0.7) < 0.6 * d
    assert stats.planned_difference(60, 70, 0.9, 0.9) < d
    assert stats.planned_difference(60, 70, 0.9, 0.7, power=0.9) > d
    d = stats.planned_difference(60, 70, 0.8, 0.7)
    # Three slides of a patient correlated at .5: twice the variance.
    wide = stats.planned_difference(60, 70, 0.8, 0.7, slides_per_patient=3, within_patient=0.5)
    quantiles = sp.norm.ppf(0.975) + sp.norm.ppf(0.8)
    assert wide == pytest.approx(quantiles * np.sqrt(2) * stats.planned_error(60, 70, 0.8 + wide, 0.8, 0.7), rel=1e-4)
    assert stats.planned_difference(60, 70, 0.8, 0.7, slides_per_patient=3) == d
    assert np.isnan(stats.planned_difference(5, 5, 0.95, 0.5))  # not even a perfect method would differ significantly
    assert stats.planned_power(60, 70, 0.9, 0.0, 0.7) == pytest.approx(0.05)


def test_a_planned_half_width_is_the_spread_of_simulated_cohorts_and_seeds():
    rng = np.random.default_rng(6)
    shift, spread, seeds = np.sqrt(2) * sp.norm.ppf(0.8), 0.4 * 0.8 * 0.2, 3
    positives, negatives = rng.normal(shift, 1, (4000, 30, 1)), rng.normal(0, 1, (4000, 1, 50))
    aucs = (positives > negatives).mean(axis=(1, 2)) + rng.normal(0, spread, (4000, seeds)).mean(axis=1)
    actual = stats.planned_half_width((30, 50), seeds)
    assert actual == pytest.approx(1.96 * aucs.std(), rel=0.05)
    # The part of patients stays, that of seeds goes with their number.
    floor = stats.planned_half_width((30, 50), seeds, spread=0)
    for n in (1, 2, 8, 10**9):
        part = stats.planned_half_width((30, 50), n) ** 2 - floor**2
        assert part == pytest.approx((1.96 * spread) ** 2 / n, rel=1e-3, abs=1e-9)
    assert stats.planned_half_width((30, 50, 0), seeds) == actual
    assert np.isnan(stats.planned_half_width((30, 0), seeds))
    with refused("stats-out-of-range"):
        stats.planned_half_width((30, 50), 0)
    with refused("stats-out-of-range"):
        stats.planned_half_width((30, 50), 3, auc=1.0)


def test_arguments_out_of_range_are_named():
    with refused("stats-out-of-range"):
        stats.planned_difference(0, 10, 0.9, 0.5)
    with refused("stats-out-of-range", "power"):
        stats.planned_difference(10, 10, 0.9, 0.5, power=1.0)
