"""The interval of a mean of one-vs-rest AUCs: a rare class moves it by its weight, and not below what is excluded."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import simulated
from support.refusal import refused

from milbench import stats


def aucs_and_labels(counts, scores=None, auc=0.85, resamples=99, seed=0):
    rng = np.random.default_rng(seed)
    labels, n = np.repeat(np.arange(len(counts)), counts), sum(counts)
    if scores is None:
        scores = simulated.of_classes(rng, labels, len(counts), auc)
    drawn = np.vstack([np.ones(n), stats.cluster_weights(np.arange(n), labels, resamples, rng)])
    classes, areas = stats.class_aucs(labels, scores, drawn)
    weights = np.full(len(classes), 1 / len(classes))
    return stats.ClassAucs(classes, areas[:, 0], weights, areas[:, 1:]), labels


def interval(*args, **kwargs):
    own, labels = aucs_and_labels(*args, **kwargs)
    return stats.mean_interval(own, labels, np.arange(len(labels))), own.mean


def perfect(counts):
    return np.eye(len(counts))[np.repeat(np.arange(len(counts)), counts)]


COUNTS = st.lists(st.integers(1, 40), min_size=3, max_size=10)


def test_perfect_order_with_one_bag_of_a_class_among_a_thousand():
    """It was 1.000 [0.025, 1.000]: the bound of the rarest class stood for the mean."""
    one, mean = interval([200] * 5 + [1], perfect([200] * 5 + [1]), resamples=9)
    assert mean == one.high == 1
    assert 0.8 < one.low <= 5 / 6 + 0.025


@given(COUNTS)
@settings(max_examples=25, deadline=None)
def test_perfect_order_excludes_what_the_rarest_class_cannot_bring_down(counts):
    """The other classes' share of the mean stays, less what their own patients leave open, the rarest 1 / C at most."""
    one, _ = interval(counts, perfect(counts), resamples=9)
    bound = stats.perfect_bound(counts, np.full(len(counts), 1 / len(counts)), sum(counts))
    assert one.low == pytest.approx(bound)
    assert one.high == 1
    assert one.low >= 0.025 ** (1 / max(1, min(sum(counts) - max(counts), sum(counts) // 2))) / len(counts) - 1e-9
    # One more patient of every class never says less.
    more = [n + 1 for n in counts]
    assert stats.perfect_bound(more, np.full(len(more), 1 / len(more)), sum(more)) >= bound - 1e-9


def test_two_classes_have_the_bound_of_one_auc():
    for n in (1, 3, 20):
        of_one = stats.certain_bound((n, n, 2 * n))
        assert stats.perfect_bound([n, n], [0.0, 1.0], 2 * n) == pytest.approx(of_one)


def test_the_bound_is_the_least_mean_that_the_pairs_do_not_refute():
    """Against a search over all AUCs with sum k_c log A_c = log .025, the pairs dealt by hand."""
    counts, pairs = [2, 3, 8], np.array([2, 2, 1])  # 5 pairs: all but the largest class has a partner in it
    first, second = np.meshgrid(np.linspace(0, 1, 400), np.linspace(0, 1, 400))
    shares = np.stack([first, second, 1 - first - second])[:, first + second <= 1]
    for weights in (np.full(3, 1 / 3), np.array([0.6, 0.3, 0.1])):
        least = (weights @ np.exp(np.log(0.025) * shares / pairs[:, None])).min()
        assert stats.perfect_bound(counts, weights, 13) == pytest.approx(least, abs=1e-3)


def test_a_class_outside_the_mean_is_paired_but_takes_no_pairs_from_the_others():
    apart = stats.perfect_bound([1, 4, 4], [0.0, 0.5, 0.5], 9)
    assert apart > stats.perfect_bound([4, 4], [0.5, 0.5], 8) - 1e-9


@given(COUNTS, st.integers(0, 1000), st.sampled_from([0.6, 0.85, 0.97]))
@settings(max_examples=40, deadline=None)
def test_the_interval_holds_the_mean_stays_inside_and_turns_around(counts, seed, auc):
    own, labels = aucs_and_labels(counts, auc=auc, seed=seed)
    one = stats.mean_interval(own, labels, np.arange(len(labels)))
    assert 0 <= one.low <= own.mean <= one.high <= 1


@given(st.integers(0, 1000), st.sampled_from([0.6, 0.85, 0.97]))
@settings(max_examples=20, deadline=None)
def test_turning_the_aucs_around_turns_the_interval(seed, auc):
    """Of classes that are not rare: the spread that completes a rare class's is of a skewed model."""
    own, labels = aucs_and_labels([12, 15, 30], auc=auc, seed=seed)
    one = stats.mean_interval(own, labels, np.arange(len(labels)))
    away = stats.ClassAucs(own.classes, 1 - own.auc, own.weights, 1 - own.replicates)
    turned = stats.mean_interval(away, labels, np.arange(len(labels)))
    assert (turned.low, turned.high) == pytest.approx((1 - one.high, 1 - one.low), abs=1e-9)


@given(st.integers(0, 200), st.sampled_from([[40, 40, 40, 1], [200] * 5 + [1], [30] * 9 + [3], [25, 25, 2]]))
@settings(max_examples=12, deadline=None)
def test_a_rare_class_moves_the_mean_by_its_weight_at_most(seed, counts):
    """From the interval of the mean of the other classes, whose AUCs the rare one does not touch."""
    own, labels = aucs_and_labels(counts, seed=seed, auc=0.9, resamples=299)
    owner, share = np.arange(len(labels)), 1 / len(counts)
    one = stats.mean_interval(own, labels, owner)
    others = stats.ClassAucs(
        own.classes[:-1], own.auc[:-1], np.full(len(counts) - 1, 1 / (len(counts) - 1)), own.replicates[:-1]
    )
    rest = stats.mean_interval(others, labels, owner)
    reach = (1 - share) * (others.mean - rest.low)
    assert own.mean - one.low <= np.hypot(reach, share * own.auc[-1]) + 0.02
    assert one.high - one.low <= (1 - share) * (rest.high - rest.low) + share + 0.02


def test_many_bags_of_every_class_leave_the_interval_of_the_replicates():
    own, labels = aucs_and_labels([60] * 4, auc=0.8, resamples=1999)
    one = stats.mean_interval(own, labels, np.arange(len(labels)))
    assert not one.guarded
    plain = stats.logit_interval(own.mean, own.weights @ own.replicates)
    assert (one.low, one.high) == pytest.approx(plain, abs=0.004)


def test_one_class_with_weight_one_is_an_auc_of_two_classes():
    rng = np.random.default_rng(3)
    labels = simulated.labelled(50, 0.5)
    drawn = np.vstack([np.ones(50), stats.cluster_weights(np.arange(50), labels, 200, rng)])
    areas = stats.bootstrap_auc(labels, simulated.normal(rng, labels, 0.8), drawn)
    own = stats.ClassAucs(np.array([1]), areas[:1], np.ones(1), areas[None, 1:])
    assert stats.mean_interval(own, labels, np.arange(50)) == stats.class_interval(areas[0], areas[1:], (25, 25, 50))


def test_more_patients_bring_the_ends_nearer_and_bags_of_one_patient_do_not():
    few, many = (interval(counts, auc=0.85, resamples=499)[0] for counts in ([10] * 3, [100] * 3))
    assert many.high - many.low < few.high - few.low
    own, labels = aucs_and_labels([20] * 3, perfect([20] * 3), resamples=9)
    alone = stats.mean_interval(own, labels, np.arange(60))
    shared = stats.mean_interval(own, labels, np.arange(60) // 2)
    assert shared.low < alone.low


def test_what_is_not_defined_has_no_interval_and_wrong_labels_are_refused():
    own, labels = aucs_and_labels([10, 10, 10])
    nan = stats.ClassAucs(own.classes, np.array([0.8, np.nan, 0.7]), own.weights, own.replicates)
    assert np.isnan(stats.mean_interval(nan, labels, np.arange(30)).low)
    few = stats.ClassAucs(own.classes, own.auc, own.weights, own.replicates[:, :1])
    assert np.isnan(stats.mean_interval(few, labels, np.arange(30)).low)
    for wrong in (labels - 1, labels + 0.5):
        with refused("stats-bad-labels"):
            stats.mean_interval(own, wrong, np.arange(30))
    with refused("scores-not-finite"):
        stats.perfect_bound([3, np.nan], [0.5, 0.5], 6)
    with refused("stats-bad-input"):
        stats.perfect_bound([3, 2, 1], [0.5, 0.5], 6)


def test_a_class_that_is_tested_in_folds_of_one_class_alone_is_no_division_by_zero():
    rng = np.random.default_rng(0)
    y = np.array([0, 1] * 8 + [2] * 4)
    replicates = 0.8 + 0.05 * rng.normal(size=(2, 50))
    areas = stats.ClassAucs(np.array([0, 1]), np.array([0.8, 0.8]), np.array([0.5, 0.5]), replicates)
    with np.errstate(all="raise"):
        ends = stats.mean_interval(areas, y, np.arange(20), folds=[np.arange(16), np.arange(16, 20)])
    assert ends.low < 0.8 < ends.high
