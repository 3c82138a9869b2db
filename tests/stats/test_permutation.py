"""Sign flips and the permutation test of two AUCs, against scipy, every swap carried out, and the closed variance."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as sp
from support.refusal import refused

from milbench import stats


@given(st.lists(st.integers(-6, 6), min_size=2, max_size=9))
@settings(max_examples=50, deadline=None)
def test_exact_flips_are_scipys(values):
    d = np.array(values, dtype=float)  # whole numbers: scipy takes sums that differ by rounding as different
    actual = stats.sign_flip_test(d)
    theirs = sp.permutation_test((d,), np.sum, permutation_type="samples", n_resamples=np.inf)
    assert actual.exact
    assert actual.statistic == pytest.approx(d.mean(), abs=1e-12)
    # scipy doubles one tail; of a distribution that is symmetric around 0 that is both tails.
    assert actual.p == pytest.approx(min(1.0, theirs.pvalue), abs=1e-12)


def test_sampled_flips_agree_with_counted_ones():
    rng = np.random.default_rng(0)
    d = rng.normal(0.25, 1, 18)
    counted = stats.sign_flip_test(d)
    padded = np.concatenate([d, [1e-9, -1e-9, 1e-9]])  # too many to be counted, too small to matter
    sampled = stats.sign_flip_test(padded, resamples=40_000, seed=1)
    assert (counted.exact, sampled.exact) == (True, False)
    assert (counted.flips, sampled.flips) == (2**18, 40_000)
    assert sampled.p == pytest.approx(counted.p, abs=4 * np.sqrt(counted.p / 40_000))
    assert sampled == stats.sign_flip_test(padded, resamples=40_000, seed=1)


def test_edges():
    assert stats.sign_flip_test([0.0, 0.0]).p == 1.0
    assert stats.sign_flip_test([0.3]).p == 1.0
    assert stats.sign_flip_test([0.1] * 10).p == 2 / 2**10
    assert stats.sign_flip_test([0.1] * 400, resamples=99).p == 1 / 100
    with refused("stats-bad-input"):
        stats.sign_flip_test([0.1, np.nan])


def auc(y, s):
    return ((np.sign(s[y == 1][:, None] - s[y == 0]) + 1) / 2).mean()


def every_swap(y, a, b, groups):
    """Differences of AUCs after each set of patients has had its methods swapped."""
    names = np.unique(groups)
    for chosen in itertools.product([False, True], repeat=len(names)):
        swapped = np.isin(groups, names[list(chosen)])
        yield auc(y, np.where(swapped, b, a)) - auc(y, np.where(swapped, a, b))


@pytest.mark.parametrize("clustered", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_it_is_every_swap_carried_out(clustered, seed):
    rng = np.random.default_rng(seed)
    n = 24 if clustered else 9
    y = rng.permutation(np.arange(n) % 2)
    groups = np.arange(n) // 3 if clustered else np.arange(n)
    a = rng.integers(0, 7, n).astype(float)
    b = a + rng.integers(-2, 4, n)  # ties within a method and between them
    a, b = sp.rankdata(a), sp.rankdata(b)
    gaps = np.array(list(every_swap(y, a, b, groups)))
    actual = stats.auc_permutation_test(y, a, b, groups if clustered else None)
    assert actual.exact
    assert actual.statistic == pytest.approx(gaps[0], abs=1e-12)
    assert actual.p == pytest.approx((np.abs(gaps) >= abs(gaps[0]) - 1e-12).mean(), abs=1e-12)


def test_only_the_order_within_a_method_matters():
    rng = np.random.default_rng(2)
    y = np.arange(80) % 2
    a, b = rng.normal(size=80) + y, rng.normal(size=80) + 0.2 * y
    one, other = stats.auc_permutation_test(y, a, b), stats.auc_permutation_test(y, np.exp(a), 100 * b - 7)
    assert one == other
    assert one.p < 0.05
    assert stats.auc_permutation_test(y, b, a).statistic == pytest.approx(-one.statistic)
