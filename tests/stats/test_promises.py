"""Properties of intervals for all counts: no end at values that the data exclude, not wider with two seeds than one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as sp

from milbench import stats

POSITIVES, NEGATIVES = (1, 2, 3, 4, 6, 8, 9, 10, 12), (30, 100, 300, 1000)


def stepped(positives, negatives, steps):
    """Labels and scores in perfect order but for one positive, which lies below so many negatives."""
    labels = np.repeat([0, 1], [negatives, positives])
    scores = 10.0 * labels + 0.1 * np.arange(len(labels)) / len(labels)
    if steps:
        scores[-1] = np.sort(scores[:negatives])[negatives - steps] - 1e-9
    return labels, scores


def drawn(labels, scores, resamples=199, seed=0):
    """The AUCs of each class of scores (n,) or (n, C), with their replicates, as a leaderboard makes them."""
    rng = np.random.default_rng(seed)
    weights = stats.cluster_weights(np.arange(len(labels)), labels, resamples, rng)
    classes, areas = stats.class_aucs(labels, scores, np.vstack([np.ones(len(labels)), weights]))
    share = np.full(len(classes), 1 / len(classes))
    return stats.ClassAucs(classes, areas[:, 0], share, areas[:, 1:])


def interval(labels, scores, **kwargs):
    own = drawn(labels, scores)
    return own.mean, stats.mean_interval(own, labels, np.arange(len(labels)), **kwargs)


@pytest.mark.parametrize("positives", POSITIVES)
@pytest.mark.parametrize("negatives", NEGATIVES)
def test_one_step_off_perfect_order_is_nearly_as_sure_as_perfect_order(positives, negatives):
    """It was 0.9989 [0.0000, 1] for 3 of 303, where perfect order is [0.292, 1]."""
    (_, whole), *others = (interval(*stepped(positives, negatives, steps)) for steps in (0, 1, 2, 5))
    assert whole.low == pytest.approx(0.025 ** (1 / positives))
    for steps, (auc, one) in zip((1, 2, 5), others, strict=True):
        assert one.low <= auc <= one.high
        # By Markov's inequality on the disorder of all pairings: A^k >= .025 (1 - k d).
        least = (0.025 * (1 - steps / negatives)) ** (1 / positives)
        assert one.low >= least - 1e-9
        guarded = stats.auc_interval(*stepped(positives, negatives, steps), method="guarded")
        assert min(least, guarded.estimate) - 1e-9 <= guarded.low <= auc <= guarded.high


@given(st.integers(1, 12), st.integers(1, 60), st.integers(0, 1000), st.sampled_from([0.0, 1.0, 2.5, 5.0]))
@settings(max_examples=40, deadline=None)
def test_intervals_hold_the_estimate_and_turn_around(positives, negatives, seed, gain):
    """The opposite order, and the other class called positive, have the same interval turned around."""
    rng = np.random.default_rng(seed)
    labels = np.repeat([0, 1], [negatives, positives])
    scores = np.round(rng.normal(size=len(labels)) + gain * labels, 1)
    own = drawn(labels, scores)
    counts = (positives, negatives, positives + negatives)
    auc, replicates = float(own.auc[0]), own.replicates[0]
    one = stats.class_interval(auc, replicates, counts)
    away = stats.class_interval(1 - auc, 1 - replicates, counts)
    swapped = stats.class_interval(auc, replicates, (negatives, positives, positives + negatives))
    assert 0 <= one.low <= auc + 1e-12
    assert auc - 1e-12 <= one.high <= 1
    assert (away.low, away.high) == pytest.approx((1 - one.high, 1 - one.low), abs=1e-7)
    assert (swapped.low, swapped.high) == pytest.approx((one.low, one.high), abs=1e-12)
    assert one.low >= stats.exact_bound(auc, counts) - 1e-7
    assert one.high <= 1 - stats.exact_bound(1 - auc, counts) + 1e-7


@pytest.mark.parametrize(("positives", "negatives", "auc"), [(3, 40, 0.6), (5, 20, 0.4), (8, 8, 0.75), (2, 30, 0.3)])
def test_the_exact_bound_holds_where_it_is_nearest_to_failing(positives, negatives, auc):
    """A positive lies above all negatives or below all: the AUC is a binomial share, Clopper and Pearson's interval
    of which no valid bound may exceed at perfect order, and it may miss 2.5 % at most."""
    shares = np.arange(positives + 1) / positives
    lows = np.array([stats.exact_bound(share, (positives, negatives, positives + negatives)) for share in shares])
    missed = sp.binom.pmf(np.arange(positives + 1), positives, auc)[lows > auc].sum()
    assert missed <= 0.025 + 1e-12
    for k, low in enumerate(lows):
        assert low <= sp.binomtest(k, positives).proportion_ci(0.95, "exact").low + 1e-9


@given(st.integers(1, 40), st.integers(1, 40))
@settings(max_examples=20, deadline=None)
def test_the_exact_bound_falls_without_a_step_from_that_of_perfect_order(positives, negatives):
    counts = (positives, negatives, positives + negatives)
    aucs = 1 - np.concatenate([[0], np.geomspace(1e-9, 1, 30)])
    lows = np.array([stats.exact_bound(auc, counts) for auc in aucs])
    assert lows[0] == pytest.approx(stats.certain_bound(counts))
    assert lows[1] == pytest.approx(lows[0], rel=1e-6)
    assert (np.diff(lows) <= 1e-9).all()
    assert (lows <= aucs).all()
    assert lows[-1] == 0


@pytest.mark.parametrize(
    "counts", [(100, 100, 3), (100, 3, 3), (50, 2, 2, 2, 2), (100, 3, 3, 3), (30, 30, 1), (200, 200, 200, 200, 200, 1)]
)
def test_a_mean_of_classes_one_step_off_is_nearly_as_sure_as_one_in_perfect_order(counts):
    labels, classes = np.repeat(np.arange(len(counts)), counts), len(counts)
    scores = np.eye(classes)[labels] * 10 + 0.1 * np.random.default_rng(0).random((len(labels), classes))
    _, whole = interval(labels, scores)
    for c, n in enumerate(counts):
        if n < 10:
            scores[np.flatnonzero(labels == c)[-1], c] = scores[labels != c, c].max() - 1e-9
    mean, one = interval(labels, scores)
    assert whole.low - 0.01 <= one.low <= whole.low + 0.06
    assert one.low <= mean <= one.high


# folds


def test_patients_of_different_folds_are_no_pair():
    """9 positives and 1 negative, 1 positive and 9 negatives: two pairs, not ten. One usable fold: one pair, not 22."""
    labels = np.r_[np.ones(9), 0, np.zeros(9), 1].astype(int)
    folds = [np.arange(10), np.arange(10, 20)]
    scores = labels + 0.0
    mean, one = interval(labels, scores, folds=folds)
    assert (mean, one.low) == (1, pytest.approx(0.025**0.5))
    mean, one = interval(labels, scores)
    assert one.low == pytest.approx(0.025**0.1)
    labels = np.r_[np.zeros(6), 1, np.ones(20), np.zeros(24)].astype(int)
    folds = [np.arange(7), np.arange(7, 27), np.arange(27, 51)]
    _, one = interval(labels, labels + 0.0, folds=folds)
    assert one.low == pytest.approx(0.025)


def test_repetitions_of_folds_say_no_more_than_one():
    labels = np.tile([0, 1], 20)
    folds = [np.arange(20), np.arange(20, 40)]
    again = [np.arange(10, 30), np.r_[0:10, 30:40]]
    one, twice = (interval(labels, labels + 0.0, folds=f)[1] for f in (folds, folds + again))
    assert one.low == twice.low == pytest.approx(0.025 ** (1 / 20))


@pytest.mark.parametrize("sizes", [((1, 6), (10, 0), (0, 12)), ((9, 1), (1, 9)), ((2, 8), (3, 7))])
def test_a_random_method_over_uneven_folds_is_covered(sizes):
    labels = np.concatenate([np.repeat([1, 0], size) for size in sizes])
    fold = np.repeat(np.arange(len(sizes)), [sum(size) for size in sizes])
    folds = [np.flatnonzero(fold == f) for f in range(len(sizes))]
    rng = np.random.default_rng(0)
    weights = np.vstack([np.ones(len(labels)), stats.cluster_weights(np.arange(len(labels)), labels, 99, rng)])
    missed = 0
    for _ in range(100):
        scores = rng.normal(size=len(labels))
        areas = [stats.bootstrap_auc(labels[f], scores[f], weights[:, f]) for f in folds if len(set(labels[f])) == 2]
        both = stats.nanmean(np.stack(areas))
        own = stats.ClassAucs(np.array([1]), both[:1], np.ones(1), both[None, 1:])
        one = stats.mean_interval(own, labels, np.arange(len(labels)), folds=folds)
        missed += not one.low <= 0.5 <= one.high
    assert missed <= 0.09 * 100


# seeds


def cohort(labels, scores, order=True):
    """`Mean` of each method of scores (M, S, n, C), as a leaderboard makes them."""
    draws = [[drawn(labels, one) for one in method] for method in scores]
    errors = stats.seed_errors([
        stats.seeds_of(
            [[one.mean for one in method]], np.stack([[one.weights @ one.replicates for one in method]])
        )
        for method in draws
    ])  # fmt: skip
    out = []
    for method, error, own in zip(draws, errors, scores, strict=True):
        first = method[0]
        mean = stats.ClassAucs(
            first.classes,
            np.mean([one.auc for one in method], axis=0),
            first.weights,
            np.mean([one.replicates for one in method], axis=0),
        )
        over = stats.mean_interval(mean, labels, np.arange(len(labels)))
        key = str(sp.rankdata(own, axis=1).tolist()) if order else ""
        out.append(stats.mean_of(mean.mean, over, mean.weights @ mean.replicates, error, order=key))
    return out


def of_classes(rng, counts, noise):
    labels = np.repeat(np.arange(len(counts)), counts)
    return labels, np.eye(len(counts))[labels] + noise * rng.normal(size=(len(labels), len(counts)))


@given(
    st.integers(0, 1000), st.integers(2, 5), st.sampled_from([(40, 40, 1), (60, 20, 8, 2), (30, 30, 30, 3)]),
    st.sampled_from([0.2, 0.4, 0.7]),
)  # fmt: skip
@settings(max_examples=10, deadline=None)
def test_seeds_that_agree_say_no_less_than_one(seed, seeds, counts, noise):
    """200 x 5 + 1: one seed [0.837, 0.9999], two seeds [0.154, 0.9999].

    Two seeds that nearly agree still have the spread that is supposed of a field drawn in, which `error` holds.
    """
    rng = np.random.default_rng(seed)
    labels, scores = of_classes(rng, counts, noise)
    near = scores + 1e-4 * rng.normal(size=(seeds, *scores.shape))  # almost the same seed after seed
    (one,), (several,), (same,) = (
        cohort(labels, s[None]) for s in (scores[None], near, np.repeat(scores[None], seeds, axis=0))
    )
    assert (same.low, same.high) == pytest.approx((one.low, one.high), abs=1e-9)
    reach = 1.96 * np.sqrt(several.error.added)
    assert several.high - several.low < 1.25 * np.hypot(one.high - one.low, 2 * reach) + 0.03
    assert several.low <= several.estimate <= several.high
    assert several.estimate - several.low < 1.25 * np.hypot(one.estimate - one.low, reach) + 0.03


def test_seeds_do_not_stretch_what_a_rare_class_adds():
    rng = np.random.default_rng(1)
    labels, _ = of_classes(rng, (60, 60, 60, 1), 0)
    scores = np.stack([of_classes(rng, (60, 60, 60, 1), 0.25)[1] for _ in range(3)])
    (several,) = cohort(labels, scores[None])
    width, patients = several.high - several.low, several.patients[1] - several.patients[0]
    assert several.error.degrees == 4  # Student's factor is 1.42
    assert patients <= width < 1.1 * patients


@given(st.integers(0, 300), st.integers(1, 3), st.sampled_from([(50, 4), (40, 40, 2), (12, 1)]), st.booleans())
@settings(max_examples=15, deadline=None)
def test_equal_orders_differ_by_exactly_nothing(seed, seeds, counts, known):
    rng = np.random.default_rng(seed)
    scores = np.stack([of_classes(rng, counts, 0.6)[1] for _ in range(seeds)])
    labels = np.repeat(np.arange(len(counts)), counts)
    a, b = cohort(labels, np.stack([scores, 3 * scores + 1]), order=known)
    difference = stats.mean_difference(a, b)
    if known or 0 < a.estimate < 1:
        assert (difference.estimate, difference.low, difference.high, difference.p) == (0, 0, 0, 1)
    assert difference.low <= 0 <= difference.high


def test_two_perfect_orders_that_differ_are_not_the_same():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], [30, 4])
    scores = labels[:, None] * np.array([-5.0, 5.0]) + rng.random((2, 1, 34, 2))
    a, b = cohort(labels, scores)
    difference = stats.mean_difference(a, b)
    assert difference.estimate == 0
    assert difference.low < -0.3 < 0.3 < difference.high


def test_what_two_methods_disagree_on_is_guarded():
    """Between none for equal replicates and that of independent methods; a difference holds its estimate."""
    rng = np.random.default_rng(3)
    labels, scores = of_classes(rng, (60, 40, 5), 0.6)
    near = scores + 0.05 * rng.normal(size=scores.shape)
    apart = of_classes(rng, (60, 40, 5), 0.6)[1]
    a, b, c = cohort(labels, np.stack([scores, near, apart])[:, None])
    little, much = stats.mean_difference(a, b), stats.mean_difference(a, c)
    assert little.low <= little.estimate <= little.high
    assert 0 < little.high - little.low < 0.75 * (much.high - much.low)


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_the_expected_half_width_of_the_seeds_at_hand_is_that_of_the_interval(seeds):
    rng = np.random.default_rng(seeds)
    labels = np.repeat([0, 1], 60)
    gains = 1.2 + 0.5 * rng.normal(size=(2, seeds, 1))
    x = labels * gains + rng.normal(size=(2, seeds, 120))
    for mean in cohort(labels, np.stack([-x, x], axis=-1)):
        assert mean.half_width(seeds) == pytest.approx((mean.high - mean.low) / 2, rel=1e-6)
        assert mean.half_width(4 * seeds) < mean.half_width(seeds)


@given(st.integers(0, 500), st.integers(2, 8), st.integers(1, 6))
@settings(max_examples=40, deadline=None)
def test_scores_that_are_the_same_with_every_seed_have_no_error_of_seeds(seed, seeds, folds):
    """The mean of three equal numbers is off by a last bit, which is no spread."""
    rng = np.random.default_rng(seed)
    cells = np.repeat(rng.random((folds, 1)), seeds, axis=1)
    steady = stats.seeds_of(cells, np.repeat(rng.random((folds, 1, 20)), seeds, axis=1))
    other = stats.seeds_of(rng.random((folds, seeds)), rng.random((folds, seeds, 20)))
    of_steady, of_other = stats.seed_errors([steady, other])
    assert (of_steady.added, of_steady.estimated) == (0, 0)
    assert of_other == stats.seed_errors([other])[0]


def test_seeds_that_share_no_fold_with_another_are_no_degree_of_freedom():
    nan = np.nan
    actual = stats.seeds_of([[0.7, 0.8, nan], [nan, nan, 0.6]])
    assert (actual.count, actual.compared, actual.degrees) == (3, 2, 1)
    two = stats.seeds_of([[0.7, 0.8]])
    assert actual.variance == pytest.approx(two.variance)
    assert stats.seed_errors([actual] * 3)[0].degrees == stats.seed_errors([two] * 3)[0].degrees
