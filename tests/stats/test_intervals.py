"""Intervals of one AUC and of a difference: what each method is, where it ends, and what it refuses."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as sp
from scipy.special import expit, logit
from support.refusal import refused

from milbench import stats

CLOSED, RESAMPLED = ["logit", "guarded", "wald"], ["percentile", "bca", "bootstrap-logit"]


@pytest.fixture(scope="module")
def cohort():
    rng = np.random.default_rng(5)
    y = np.arange(90) % 2
    hard = rng.normal(size=90)
    return y, hard + 1.5 * y, hard + 1.2 * y + 0.4 * rng.normal(size=90)


def test_logit_and_wald_by_hand(cohort):
    y, s, _ = cohort
    areas = stats.delong(y, s)
    auc, error = areas.auc[0], areas.errors[0]
    half = sp.t.ppf(0.975, areas.degrees[0]) * error / (auc * (1 - auc))
    one = stats.auc_interval(y, s)
    assert (one.estimate, one.method) == (auc, "logit")
    assert (one.low, one.high) == pytest.approx((expit(logit(auc) - half), expit(logit(auc) + half)), rel=1e-9)
    wald = stats.auc_interval(y, s, method="wald")
    assert (wald.low, wald.high) == pytest.approx((auc - 1.959963985 * error, auc + 1.959963985 * error), rel=1e-8)
    narrow = stats.auc_interval(y, s, level=0.8)
    assert one.low < narrow.low < auc < narrow.high < one.high


def test_the_guard_is_a_tenth_of_a_patient_on_the_wrong_side(cohort):
    """Its lower end against DeLong's formulas on a sample that weighs ten times as much, with one such patient more."""
    y, s, _ = cohort
    placed = stats.placements(y, s)
    error, kept = 0.0, 1.0
    for part in (y == 1, y == 0):
        v = placed.values[0, part]
        weights = np.append(np.ones(len(v)), 0.1)
        mean = np.average(np.append(v, 0.0), weights=weights)
        kept *= mean / v.mean()
        # The own spread stays as DeLong has it; the added one contributes its distance from the mean.
        total = weights.sum()
        error += v.var(ddof=1) / len(v) + 0.1 * len(v) * v.mean() ** 2 / (total**2 * (total - 1))
    auc = placed.auc[0] * kept
    quantile = sp.t.ppf(0.975, stats.delong(y, s).degrees[0])
    guarded = stats.auc_interval(y, s, method="guarded")
    assert guarded.low == pytest.approx(expit(logit(auc) - quantile * np.sqrt(error) / (auc * (1 - auc))), rel=1e-9)
    plain = stats.auc_interval(y, s)
    assert guarded.low < plain.low
    assert guarded.high == plain.high


@given(st.integers(0, 10_000), st.sampled_from(CLOSED + RESAMPLED))
@settings(max_examples=60, deadline=None)
def test_turning_the_scores_around_turns_the_interval(seed, method):
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.arange(24) % 2)
    s = rng.integers(0, 8, 24) + 2.0 * y
    kept = {"method": method, "resamples": 100}
    one, other = stats.auc_interval(y, s, **kept), stats.auc_interval(y, -s, **kept)
    assert (other.low, other.high) == pytest.approx((1 - one.high, 1 - one.low), abs=2e-3 if method == "bca" else 1e-9)
    assert one.low <= one.estimate <= one.high or method == "bca"
    if method != "wald":
        assert 0 <= one.low <= one.high <= 1


def test_a_perfect_auc_has_clopper_and_pearsons_bound():
    y, s = np.repeat([0, 1], [40, 25]), np.arange(65.0)
    exact = sp.binomtest(25, 25).proportion_ci(method="exact")
    for method in ("logit", "guarded", "bootstrap-logit"):
        one = stats.auc_interval(y, s, method=method)
        assert (one.estimate, one.high) == (1.0, 1.0)
        assert one.low == pytest.approx(exact.low, rel=1e-12)
        worst = stats.auc_interval(y, -s, method=method)
        assert (worst.low, worst.high) == pytest.approx((0.0, 1 - exact.low), rel=1e-12)
    assert stats.certain_bound((25, 40, 65), level=0.9) == pytest.approx(0.05 ** (1 / 25))
    # Of 12 patients with slides of both classes no more than 6 pairs are disjoint.
    assert stats.certain_bound((12, 12, 12)) == pytest.approx(sp.binomtest(6, 6).proportion_ci(method="exact").low)
    assert stats.certain_bound((1, 1, 1)) == 0.0


def test_the_bound_holds_in_its_worst_case():
    """A positive is above every negative or below all: then perfect order has probability AUC^positives."""
    positives, auc = 12, stats.certain_bound((12, 30, 42))
    rng = np.random.default_rng(0)
    perfect = (rng.random((40_000, positives)) < auc).all(axis=1).mean()
    assert perfect == pytest.approx(0.025, abs=4 * np.sqrt(0.025 / 40_000))


def test_several_slides_a_patient_widen_every_interval():
    rng = np.random.default_rng(6)
    owner = np.repeat(np.arange(30), 5)
    y = owner % 2
    s = np.repeat(rng.normal(size=30), 5) + 0.2 * rng.normal(size=150) + 1.2 * y
    for method in CLOSED + RESAMPLED:
        alone, of_patients = (stats.auc_interval(y, s, who, method, resamples=400) for who in (None, owner))
        assert of_patients.high - of_patients.low > 1.4 * (alone.high - alone.low)


def test_more_than_two_classes_have_bootstrap_intervals():
    rng = np.random.default_rng(7)
    y = np.arange(90) % 3
    p = rng.dirichlet(np.ones(3), 90) + 0.5 * np.eye(3)[y]
    p /= p.sum(axis=1, keepdims=True)
    for method in ("percentile", "bootstrap-logit"):
        one = stats.auc_interval(y, p, method=method, resamples=300)
        assert one.estimate == pytest.approx(stats.weighted_auc(y, p))
        assert one.low < one.estimate < one.high
    with refused("option-bad-value", "logit", "3"):
        stats.auc_interval(y, p)
    certain = stats.auc_interval(y, np.eye(3)[y], method="bootstrap-logit", resamples=50)
    # 15 pairs a class use all 90 patients once: (A_0 A_1 A_2)^15 = .025 bounds the mean of three equal areas.
    assert (certain.low, certain.high) == pytest.approx((0.025 ** (1 / 45), 1.0))
    two = stats.auc_interval(y > 0, p[:, :2])
    assert two == stats.auc_interval(y > 0, p[:, 1])


def test_unknown_methods_are_named(cohort):
    with refused("option-bad-value", "'guarded'"):
        stats.auc_interval(*cohort[:2], method="garded")
    with refused("option-bad-value", "'delong'"):
        stats.auc_difference(*cohort, method="DeLong")


def test_differences_agree_between_methods(cohort):
    difference = {m: stats.auc_difference(*cohort, method=m) for m in ("delong", "percentile", "bca")}
    for d in difference.values():
        assert d.estimate == pytest.approx(difference["delong"].estimate, abs=1e-12)
        assert d.low < d.estimate < d.high
        assert (d.low, d.high) == pytest.approx((difference["delong"].low, difference["delong"].high), abs=0.02)
        assert d.p == pytest.approx(difference["delong"].p, abs=0.06)
        assert (d.p < 0.05) == (not d.tied)
    y, a, b = cohort
    turned = stats.auc_difference(y, b, a)
    assert (turned.low, turned.high) == pytest.approx(
        (-difference["delong"].high, -difference["delong"].low), abs=1e-12
    )


def test_two_perfect_methods_are_not_known_to_be_equal():
    y = np.repeat([0, 1], 20)
    a, b = np.arange(40.0), np.concatenate([np.arange(20.0)[::-1], 20 + np.arange(20.0)[::-1]])
    d = stats.auc_difference(y, a, b)
    bound = 1 - sp.binomtest(20, 20).proportion_ci(method="exact").low
    assert (d.estimate, d.p) == (0.0, 1.0)
    assert (d.low, d.high) == pytest.approx((-bound, bound))
    far = stats.auc_difference(y, a, -b)
    assert (far.low, far.high) == pytest.approx((1 - 2 * bound, 1.0))
    itself = stats.auc_difference(y, a, a)
    assert (itself.low, itself.high) == (0.0, 0.0)


def test_near_perfect_order_the_interval_goes_over_to_the_exact_bound():
    """One pair out of order tells little more than none: the interval must not be many times shorter for it."""
    y, owner = np.arange(200) % 2, np.arange(200)
    bound = stats.certain_bound((100, 100, 200))
    z = np.random.default_rng(3).normal(size=4000)
    ends = []
    for wrong in (1e-6, 0.05, 0.1, 0.15, 0.19, 0.21, 1.0):
        auc = 1 - wrong / 100
        low, high = stats.combined_interval(auc, auc + 0.1 * (1 - auc) * z, y, owner)
        turned = stats.combined_interval(1 - auc, 1 - auc + 0.1 * (1 - auc) * z, y, owner)
        assert turned == pytest.approx((1 - high, 1 - low), abs=1e-3)
        plain = stats.logit_interval(auc, auc + 0.1 * (1 - auc) * z)
        assert low <= plain[0] + 1e-4
        assert high == pytest.approx(plain[1], abs=1e-4)
        ends.append((low, plain[0]))
    assert ends[0][0] == pytest.approx(bound, abs=1e-4)
    assert [low == pytest.approx(plain, abs=1e-4) for low, plain in ends[-2:]] == [True, True]
    steps = np.abs(np.diff([low for low, _ in ends]))
    assert steps.max() < 0.02, "no cliff"
    assert stats.combined_interval(1.0, np.ones(50), y, owner) == (bound, 1.0)
