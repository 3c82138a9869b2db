"""Friedman's test and Nemenyi's critical difference, against Demsar's example and tables, and scikit-posthocs."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as sp
from support.refusal import refused

from milbench import stats

#: Ranks of C4.5, C4.5+m, C4.5+cf and C4.5+m+cf on 14 data sets (Demsar, JMLR 7, 2006, table 6).
DEMSAR = np.array([
    [4, 3, 2, 1], [1, 2, 3, 4], [4, 1, 2, 3], [4, 1, 3, 2], [4, 2, 3, 1], [1, 2.5, 4, 2.5], [3, 2, 4, 1],
    [2.5, 2.5, 4, 1], [4, 3, 2, 1], [2.5, 2.5, 2.5, 2.5], [4, 2.5, 1, 2.5], [3, 2, 4, 1], [4, 1, 2, 3], [3, 1, 4, 2],
])  # fmt: skip


def test_demsars_example():
    ranks = stats.friedman(-DEMSAR)
    assert ranks.ranks == pytest.approx([3.143, 2.000, 2.893, 1.964], abs=5e-4)
    assert ranks.critical_difference == pytest.approx(1.25, abs=0.005)
    # The paper's 9.28 and 3.69 take no account of ties; scipy's statistic, which is ours, divides by 1 - their share.
    plain = 12 * 14 / (4 * 5) * (ranks.ranks @ ranks.ranks - 4 * 25 / 4)
    ties = sum((c**3 - c).sum() for c in (np.unique(row, return_counts=True)[1] for row in DEMSAR))
    assert plain == pytest.approx(9.28, abs=0.01)
    assert ranks.statistic == pytest.approx(plain / (1 - ties / (14 * (4**3 - 4))), rel=1e-9)
    assert ranks.p == pytest.approx(sp.chi2.sf(ranks.statistic, 3))
    f = 13 * ranks.statistic / (14 * 3 - ranks.statistic)
    assert ranks.p_iman_davenport == pytest.approx(sp.f.sf(f, 3, 39))
    assert 13 * plain / (14 * 3 - plain) == pytest.approx(3.69, abs=0.005)
    # "the difference between the best and the worst is below the critical difference": one group of all.
    assert ranks.groups == ((3, 1, 2, 0),)


@pytest.mark.parametrize(
    ("alpha", "q"),
    [
        (0.05, [1.960, 2.343, 2.569, 2.728, 2.850, 2.949, 3.031, 3.102, 3.164]),
        (0.10, [1.645, 2.052, 2.291, 2.459, 2.589, 2.693, 2.780, 2.855, 2.920]),
    ],
)
def test_demsars_table_of_critical_values(alpha, q):
    """Table 5(a), 2 to 10 methods."""
    for k, value in zip(range(2, 11), q, strict=True):
        scale = np.sqrt(k * (k + 1) / (6 * 30))
        assert stats.critical_difference(k, 30, alpha) / scale == pytest.approx(value, abs=1.1e-3)


@given(st.integers(0, 10_000), st.integers(3, 12), st.integers(3, 9))
@settings(max_examples=40, deadline=None)
def test_groups_are_the_largest_sets_within_the_difference(seed, tasks, k):
    scores = np.random.default_rng(seed).integers(0, 4, (tasks, k)) + 2.0 * np.arange(k)
    ranks = stats.friedman(scores)
    for group in ranks.groups:
        r = np.sort(ranks.ranks[list(group)])
        assert len(group) > 1
        assert np.ptp(r) <= ranks.critical_difference
        outside = [x for i, x in enumerate(ranks.ranks) if i not in group]
        assert all(max(r[-1], x) - min(r[0], x) > ranks.critical_difference for x in outside)
    for i in range(k):
        for j in range(k):
            together = any(i in g and j in g for g in ranks.groups)
            near = abs(ranks.ranks[i] - ranks.ranks[j]) <= ranks.critical_difference
            assert together == near or i == j


def test_pairs_agree_with_the_difference_and_with_scikit_posthocs():
    rng = np.random.default_rng(1)
    scores = rng.normal(size=(12, 5)) + 0.4 * np.arange(5)
    ranks = stats.friedman(scores)
    distance = np.abs(ranks.ranks[:, None] - ranks.ranks)
    assert ((ranks.pairs < 0.05) == (distance > ranks.critical_difference)).all()
    assert (ranks.pairs == ranks.pairs.T).all()
    assert np.diag(ranks.pairs) == pytest.approx(np.ones(5))
    posthocs = pytest.importorskip("scikit_posthocs", reason="scikit-posthocs is not installed")
    theirs = posthocs.posthoc_nemenyi_friedman(-scores).to_numpy()
    assert ranks.pairs == pytest.approx(theirs, abs=1e-6)


def test_nothing_differs_where_all_are_tied():
    ranks = stats.friedman(np.full((5, 3), 0.5))
    assert (ranks.statistic, ranks.p, ranks.p_iman_davenport) == (0, 1, 1)
    assert ranks.groups == ((0, 1, 2),)
    assert (ranks.pairs == 1).all()


def test_a_clear_order_is_significant():
    ranks = stats.friedman(np.tile([0.3, 0.1, 0.2], (20, 1)))
    assert list(ranks.ranks) == [1, 3, 2]
    assert ranks.groups == ()
    assert ranks.p_iman_davenport == 0
    with refused("stats-too-few", "3"):
        stats.friedman([[0.1, 0.2], [0.3, 0.4]])
