"""The variance over seeds, pooled over the methods of a cohort, and the means, differences and ranks that hold it."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as sp
from support import simulated

from milbench import stats
from milbench.stats.seeds import FIELD_SPREAD, LEAST, Mean, SeedError
from results.statistics.simulate_coverage import areas_under, cohort_means

LABELS = simulated.labelled(60, 0.5)


def weights(rng, resamples=300):
    return stats.cluster_weights(np.arange(len(LABELS)), LABELS, resamples, rng)


def cohort(seed=0, methods=4, seeds=3, spread=0.3, kept=None, auc=0.8, step=0.03):
    rng = np.random.default_rng(seed)
    kept = np.ones((methods, seeds), dtype=bool) if kept is None else kept
    aucs = auc - step * np.arange(methods)
    return cohort_means(rng, LABELS, weights(rng), aucs, np.full(methods, spread), kept)


def test_the_areas_of_the_simulations_are_those_of_the_product():
    rng = np.random.default_rng(1)
    scores, drawn = rng.normal(size=(2, 3, len(LABELS))), weights(rng, 20)
    by_hand = [[stats.bootstrap_auc(LABELS, one, drawn) for one in method] for method in scores]
    np.testing.assert_allclose(areas_under(LABELS, scores, drawn), by_hand, rtol=1e-12)


def test_seeds_of_one_fold_are_a_sample_variance_and_the_part_of_patients_that_of_their_deviations():
    rng = np.random.default_rng(2)
    cells, drawn = rng.random((1, 4)), rng.random((1, 4, 50))
    actual = stats.seeds_of(cells, drawn)
    assert (actual.count, actual.share) == (4, 0.25)
    assert actual.auc == pytest.approx(cells.mean())
    assert actual.variance == pytest.approx(cells[0].var(ddof=1))
    away = drawn[0] - drawn[0].mean(axis=0)
    assert actual.within == pytest.approx(away.var(axis=1, ddof=1).mean() * 4 / 3)


def test_a_fold_that_is_hard_for_every_seed_adds_nothing_to_the_variance_of_seeds():
    seeds = np.array([0.70, 0.74, 0.81])
    even = stats.seeds_of(np.stack([seeds, seeds]))
    shifted = stats.seeds_of(np.stack([seeds, seeds - 0.2]))
    assert shifted.variance == pytest.approx(even.variance) == pytest.approx(seeds.var(ddof=1))


def test_pooling_by_hand():
    """Two methods of equal AUC with three seeds: 2 degrees of freedom each, and all of the other's are lent."""
    a, b = (stats.Seeds(0.8, 3, variance, 0.0, 1 / 3) for variance in (0.0004, 0.0036))
    of_a, of_b = stats.seed_errors([a, b])
    pooled = (2 * 0.0004 + 2 * 0.0036) / 4
    assert of_a.degrees == of_b.degrees == 4
    assert of_a.spread**2 == pytest.approx(pooled)
    assert of_a.added == of_b.added == pytest.approx(pooled / 3)


def test_two_methods_with_many_seeds_keep_more_of_their_own_spread():
    """Whether two spreads are equal cannot be estimated: of the other's 4 degrees of freedom 2 count."""
    a, b = (stats.Seeds(0.8, 5, variance, 0.0, 1 / 5) for variance in (0.0004, 0.0036))
    of_a, of_b = stats.seed_errors([a, b])
    assert of_a.degrees == of_b.degrees == 6
    assert of_a.spread**2 == pytest.approx((4 * 0.0004 + 2 * 0.0036) / 6)
    assert of_b.spread**2 == pytest.approx((4 * 0.0036 + 2 * 0.0004) / 6)


def test_what_a_cohort_lacks_of_degrees_of_freedom_comes_from_the_field():
    """One method, two seeds: 1 degree of freedom of its own, 3 of the spread that is supposed."""
    (actual,) = stats.seed_errors([stats.Seeds(0.8, 2, 0.0009, 0.0, 0.5)])
    slope = 0.8 * 0.2
    assert actual.degrees == LEAST == 4
    assert actual.spread**2 == pytest.approx((0.0009 + 3 * (FIELD_SPREAD * slope) ** 2) / 4)


def test_what_patients_make_of_the_variance_is_not_counted_twice():
    inside = 0.0002
    plain, without = (stats.seed_errors([stats.Seeds(0.8, 5, 0.0009, part, 0.2)] * 3)[0] for part in (0.0, inside))
    assert plain.spread**2 - without.spread**2 == pytest.approx(inside)
    assert plain.estimated == pytest.approx(without.estimated)


def test_one_seed_says_nothing_of_seeds_and_several_that_agree_say_there_is_no_spread():
    alone = stats.seed_errors([stats.seeds_of([[0.8]]), stats.seeds_of([[0.7]])])
    assert [e.added for e in alone] == [0, 0]
    steady, other = stats.seed_errors([stats.seeds_of([[0.8, 0.8, 0.8]]), stats.seeds_of([[0.7, 0.75, 0.72]])])
    assert steady.added == 0 < other.added


def test_a_method_whose_other_seeds_failed_has_the_spread_of_the_cohort():
    cells = np.array([[0.80, np.nan, np.nan]]), np.array([[0.78, 0.82, 0.80]]), np.array([[0.79, 0.83, 0.78]])
    failed, *others = stats.seed_errors([stats.seeds_of(own) for own in cells])
    assert failed.seeds == 1
    pooled = np.average([own.var(ddof=1) for own in (cells[1][0], cells[2][0])])
    assert failed.spread == pytest.approx(np.sqrt(pooled), rel=0.02)
    assert failed.added == pytest.approx(failed.spread**2)  # of one seed, not of a mean of three
    assert failed.added > 2 * max(e.added for e in others)
    kept = np.ones((4, 3), dtype=bool)
    kept[0, 1:] = False
    whole, short = cohort(kept=None)[0], cohort(kept=kept)[0]
    assert np.isfinite([short.low, short.high]).all()
    assert short.high - short.low > whole.high - whole.low


def test_with_one_seed_it_is_the_interval_over_patients_and_the_paired_difference():
    means = cohort(seeds=1)
    for mean in means:
        assert (mean.low, mean.high) == mean.patients
        assert mean.stretch() == 1
    for a, b in pairwise(means):
        plain = stats.paired_difference(a.estimate, a.replicates, b.estimate, b.replicates)
        assert stats.mean_difference(a, b) == plain


def test_the_interval_over_seeds_by_hand():
    """Both ends on the log-odds scale, Student's quantile at Satterthwaite's degrees of freedom."""
    replicates = 0.8 + 0.03 * sp.norm.ppf((np.arange(999) + 0.5) / 999)
    error = SeedError(spread=0.04, added=0.0004, estimated=0.0005, degrees=4.0, seeds=4)
    mean = stats.mean_of(0.8, stats.MacroInterval(0.73, 0.86, False), replicates, error)
    total = replicates.var(ddof=1) + 0.0004
    quantile = sp.t.ppf(0.975, total**2 / (0.0005**2 / 4))
    seeds = np.sqrt(0.0004) / (0.8 * 0.2)
    z = sp.norm.ppf(0.975)
    for end, actual, sign in ((0.73, mean.low, -1), (0.86, mean.high, 1)):
        centre = np.log(0.8 / 0.2)
        patients = abs(np.log(end / (1 - end)) - centre) / z
        at = centre + sign * quantile * np.hypot(patients, seeds)
        assert actual == pytest.approx(1 / (1 + np.exp(-at)), abs=1e-9)


@given(st.integers(0, 500), st.integers(2, 5), st.integers(1, 6))
@settings(max_examples=25, deadline=None)
def test_few_seeds_are_never_useless(seed, seeds, methods):
    """Student's t with one or two degrees of freedom gave 0.844 [0.001, 1.000]. The spread here is .03 of an AUC."""
    for mean in cohort(seed, methods, seeds, spread=0.15):
        width, patients = mean.high - mean.low, mean.patients[1] - mean.patients[0]
        assert patients * (1 - 1e-9) <= width < 2.5 * patients
        assert 0 < mean.low <= mean.estimate <= mean.high < 1


@given(st.integers(0, 500), st.integers(1, 3))
@settings(max_examples=20, deadline=None)
def test_differences_turn_around_agree_with_p_and_are_none_to_oneself(seed, seeds):
    a, b, *_ = cohort(seed, 3, seeds, step=0.08)
    one, other = stats.mean_difference(a, b), stats.mean_difference(b, a)
    assert (other.estimate, other.low, other.high) == pytest.approx((-one.estimate, -one.high, -one.low), abs=1e-12)
    assert other.p == pytest.approx(one.p, abs=1e-12)
    assert one.low <= one.estimate <= one.high
    if seeds > 1:
        assert (one.p < 0.05) == (not one.tied)
    same = stats.mean_difference(a, a)
    assert (same.estimate, same.low, same.high) == (0, 0, 0)


def test_more_seeds_are_said_to_shorten_the_interval_no_further_than_patients_alone():
    for mean in cohort(seeds=3):
        widths = [mean.half_width(n) for n in (1, 3, 5, 20, 10_000)]
        assert widths == sorted(widths, reverse=True)
        assert widths[-1] <= (mean.patients[1] - mean.patients[0]) / 2 + 1e-9
    assert np.isnan(cohort(seeds=1)[0].half_width(3))


# ranks


def ends(ranks):
    return np.stack([ranks.rank, ranks.low, ranks.high])


@given(st.integers(0, 500), st.integers(1, 7), st.integers(1, 3))
@settings(max_examples=25, deadline=None)
def test_ranks_follow_scores_and_lie_in_their_intervals(seed, methods, seeds):
    means = cohort(seed, methods, seeds, step=0.04)
    actual = stats.rank_intervals(means)
    points = np.array([m.estimate for m in means])
    np.testing.assert_array_equal(actual.rank, sp.rankdata(-points, method="min"))
    assert (actual.low <= actual.rank).all()
    assert (actual.rank <= actual.high).all()
    assert actual.best[points.argmax()]
    assert (actual.low >= 1).all()
    assert (actual.high <= methods).all()


@given(st.permutations(range(5)), st.integers(1, 3))
@settings(max_examples=15, deadline=None)
def test_another_order_of_methods_orders_the_results_and_changes_nothing_else(order, seeds):
    """Where a pair is barely significant, the draws of the seeds of another order may decide it: one place more."""
    order = list(order)
    means = cohort(3, 5, seeds, spread=0.1, auc=0.95, step=0.11)
    actual, turned = (ends(stats.rank_intervals(some)) for some in (means, [means[i] for i in order]))
    np.testing.assert_array_equal(turned[0], actual[0, order])
    np.testing.assert_allclose(turned, actual[:, order], atol=1)
    cells = np.random.default_rng(4).uniform(0.7, 0.9, (5, 1, 3))
    errors, other = (stats.seed_errors([stats.seeds_of(c) for c in some]) for some in (cells, cells[order]))
    np.testing.assert_allclose([e.added for e in other], [errors[i].added for i in order], rtol=1e-9)


def test_equal_scores_share_a_rank_and_methods_far_apart_do_not():
    one, far = cohort(methods=2, seeds=1, auc=0.95, step=0.45)
    actual = stats.rank_intervals([far, one, one, None])
    np.testing.assert_array_equal(actual.rank, [3, 1, 1, np.nan])
    np.testing.assert_array_equal(actual.low[:3], [3, 1, 1])
    np.testing.assert_array_equal(actual.high[:3], [3, 2, 2])
    assert actual.best.tolist() == [False, True, True, False]


def test_a_difference_that_may_be_off_gives_ranks_only_beyond_that():
    means = cohort(5, methods=3, seeds=1, auc=0.95, step=0.15)
    known = stats.rank_intervals(means)
    gap = means[0].estimate - means[2].estimate
    for off, low in ((0.0, known.low[2]), (gap, 1 + (known.low[2] == 3))):
        matrix = np.zeros((3, 3))
        matrix[0, 2] = matrix[2, 0] = off
        actual = stats.rank_intervals(means, off=matrix)
        assert actual.low[2] == low
        np.testing.assert_array_equal(actual.rank, known.rank)
        assert (actual.low <= known.low).all()
        assert (actual.high >= known.high).all()


def test_a_pair_apart_alone_may_not_be_among_many():
    """The quantile of the largest of many differences is larger, and so are the intervals of ranks."""
    rng = np.random.default_rng(6)
    draws = rng.normal(size=(12, 2000))

    def mean(at, shift):
        return Mean(0.8 + shift, 0.0, 1.0, (0.0, 1.0), 0.8 + 0.03 * draws[at], SeedError())

    pair = [mean(0, 0.0), mean(1, 0.1)]
    assert stats.rank_intervals(pair).low.tolist() == [2, 1]
    among = stats.rank_intervals([*pair, *(mean(i, 0.05) for i in range(2, 12))])
    assert among.low[:2].tolist() == [1, 1]
