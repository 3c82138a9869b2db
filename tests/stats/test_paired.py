"""Paired differences, shared ranks, the corrected t-test and Holm's correction, by hand and by simulation."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as sp
from scipy.stats import t
from support.refusal import refused

from milbench import stats


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
    for n in (2, 3, 7):  # the mean of three equal numbers is off by a last bit
        same = stats.corrected_t_test([0.1] * n, 0.25)
        assert same.p == stats.sign_flip_test([0.1] * n).p
        assert np.isnan([same.low, same.high]).all()
    with refused("stats-too-few", "2"):
        stats.corrected_t_test([0.1], 0.25)


def test_five_folds_can_differ_by_the_corrected_test_alone():
    d = [0.05, 0.06, 0.04, 0.05, 0.055]
    assert stats.sign_flip_test(d).p == 1 / 16
    assert stats.corrected_t_test(d, 1 / 4).p < 0.01


def test_holm_by_hand():
    # Three tests at .05: .01 <= .05 / 3 is rejected, .03 > .05 / 2 is not, and so nothing after it.
    assert stats.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert stats.holm([0.5, 0.6]) == pytest.approx([1.0, 1.0])
    assert stats.holm([np.nan, 0.02, 0.01]) == pytest.approx([np.nan, 0.02, 0.02], nan_ok=True)
    assert stats.holm([]).shape == (0,)
    with refused("stats-out-of-range", "0", "1"):
        stats.holm([0.1, 1.2])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.sampled_from([0.01, 0.05, 0.2]))
@settings(max_examples=100, deadline=None)
def test_holm_rejects_what_its_steps_reject(p, alpha):
    """The procedure as Holm states it: from the smallest, until the first that exceeds alpha over the tests left."""
    order = sorted(range(len(p)), key=lambda i: p[i])
    rejected = set()
    for step, i in enumerate(order):
        if p[i] > alpha / (len(p) - step):
            break
        rejected.add(i)
    adjusted = stats.holm(p)
    # p alpha-fold of a count: equal up to rounding where a value lies on the edge itself.
    sure = np.abs(adjusted - alpha) > 1e-9
    assert {i for i in np.flatnonzero(sure) if adjusted[i] <= alpha} == {i for i in rejected if sure[i]}
    assert (adjusted >= np.asarray(p)).all()


@given(st.floats(-0.5, 0.5), st.floats(0, 0.3), st.floats(0, 0.3), st.floats(0, 0.4))
def test_a_difference_that_may_be_off_has_an_interval_and_a_p_value_that_agree(gap, down, up, most):
    reach = down if gap > 0 else up
    p = float(2 * sp.norm.sf(1.959964 * abs(gap) / reach)) if reach else 1.0
    own = stats.Difference(gap, max(-1.0, gap - down), min(1.0, gap + up), min(p, 1.0))
    actual = own.off_by(most)
    assert actual.low <= own.low <= own.high <= actual.high
    assert actual.p >= own.p
    assert own.off_by(0) == own
    far = abs(gap) - most
    if reach and abs(far - reach) > 1e-3:
        assert (actual.p < 0.05) == (not actual.tied) == (far > reach)
    with refused("stats-out-of-range"):
        own.off_by(-0.1)
