"""Intervals, paired tests and ranks: pure functions of arrays, deterministic given their generator or seed.

What the intervals cover: another draw of test patients from the same population, and another draw of the random seeds.
What they do not cover: another draw of training patients (the models stay as trained), another hospital or scanner,
and the choice of folds. With few seeds the spread over seeds is poorly known, and with one it is not covered at all.
An AUC of exactly 1 has an interval of no width, because no resample of separated bags mixes them: read it as "no error
among n".
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

if TYPE_CHECKING:
    from collections.abc import Sequence

Array = NDArray[np.float64]

#: Coverage of every interval, unless said otherwise.
LEVEL = 0.95


def weighted_auc(labels: ArrayLike, scores: ArrayLike, weights: ArrayLike | None = None) -> float:
    """Return the AUC of weighted bags, ties counted one half; see `bootstrap_auc`. NaN where a class has no weight."""
    n = len(np.asarray(labels))
    row = np.ones(n) if weights is None else np.asarray(weights, dtype=np.float64)
    return float(bootstrap_auc(labels, scores, row.reshape(1, n))[0])


def bootstrap_auc(labels: ArrayLike, scores: ArrayLike, weights: ArrayLike) -> Array:
    """Return the exact AUC under each row of weights.

    AUC_r = sum_ij w_ri w_rj (1[s_i > s_j] + 1[s_i = s_j] / 2) / (sum_i w_ri sum_j w_rj), over positives i and
    negatives j: the Mann-Whitney statistic. Negatives are sorted once; cumulative sums of their weights then answer
    every positive.

    Args:
        labels: (n,) class indices; for (n,) scores, anything above 0 is positive.
        scores: (n,) scores of the positive class, or (n, C) probabilities: C = 2 scores the second column, C > 2 gives
            the mean one-vs-rest AUC over the classes that occur.
        weights: (R, n) non-negative weights, e.g. from `cluster_weights`.

    Returns:
        (R,); NaN where positives or negatives have no weight.
    """
    y, s = np.asarray(labels), np.asarray(scores, dtype=np.float64)
    # Bags along the first axis: picking and adding rows then moves whole cache lines.
    w = np.ascontiguousarray(np.asarray(weights, dtype=np.float64).T)
    if s.ndim == 1:
        return _auc(y > 0, s, w)
    if s.shape[1] == 2:
        return _auc(y == 1, s[:, 1], w)
    present = np.unique(y)
    return nanmean(np.stack([_auc(y == c, s[:, c], w) for c in present]))


def _auc(positive: NDArray[np.bool_], scores: Array, w: Array) -> Array:
    negatives = np.flatnonzero(~positive)
    negatives = negatives[np.argsort(scores[negatives], kind="stable")]
    below = np.zeros((len(negatives) + 1, w.shape[1]))
    np.cumsum(w[negatives], axis=0, out=below[1:])
    sorted_scores, s = scores[negatives], scores[positive]
    # Strictly below, and below or equal: their mean counts a tie one half.
    low, high = np.searchsorted(sorted_scores, s, "left"), np.searchsorted(sorted_scores, s, "right")
    w_pos = w[positive]
    won = np.einsum("ir,ir->r", w_pos, below[low])
    won += won if np.array_equal(low, high) else np.einsum("ir,ir->r", w_pos, below[high])
    pairs = w_pos.sum(axis=0) * below[-1]
    return np.divide(won / 2, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)


def cluster_weights(patients: ArrayLike, labels: ArrayLike, resamples: int, rng: np.random.Generator) -> Array:
    """Return bootstrap weights that draw patients, with all their bags, with replacement within each patient label.

    A patient's label is the largest label of its bags. The number of patients of each label stays as it is, as it does
    in the design of a case-control cohort; a label with one patient has no spread.

    Args:
        patients: (n,) patient of each bag; each bag its own gives the usual bootstrap over bags.
        labels: (n,) class indices.
        resamples: R.
        rng: the source of chance; the same state gives the same weights.

    Returns:
        (R, n): how often each bag's patient was drawn.
    """
    _, patient = np.unique(np.asarray(patients), return_inverse=True)
    y = np.asarray(labels, dtype=np.int64)
    label = np.full(patient.max() + 1, y.min())
    np.maximum.at(label, patient, y)
    drawn = np.zeros((len(label), resamples))
    offsets = np.arange(resamples)
    for value in np.unique(label):
        members = np.flatnonzero(label == value)
        k = len(members)
        picks = rng.integers(k, size=(k, resamples)) * resamples + offsets
        drawn[members] = np.bincount(picks.ravel(), minlength=k * resamples).reshape(k, resamples)
    return drawn[patient].T


def seed_weights(seeds: int, resamples: int, rng: np.random.Generator) -> Array:
    """Return (R, S): how often each of S seeds is drawn, S draws with replacement a row."""
    return rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=resamples).astype(np.float64)


def combine(cells: Array, seeds: Array) -> Array:
    """Return each replicate's mean over folds and drawn seeds.

    Args:
        cells: (F, S, R) the metric of each fold and seed under each replicate's patients; NaN where it is missing or
            undefined.
        seeds: (R, S) from `seed_weights`.

    The bootstrap of S seeds has only (S - 1) / S of their variance, a third less at three seeds. The deviation of the
    drawn seeds from all of them, under the same patients, is therefore stretched by sqrt(S / (S - 1)); one seed has
    no spread.

    Returns:
        (R,); NaN where nothing drawn is defined.
    """
    count = cells.shape[1]
    even = _mean_of_cells(cells, np.ones_like(seeds))
    if count == 1:
        return even
    drawn = _mean_of_cells(cells, seeds)
    return even + np.sqrt(count / (count - 1)) * (drawn - even)


def _mean_of_cells(cells: Array, seeds: Array) -> Array:
    defined = np.isfinite(cells)
    weight = np.einsum("fsr,rs->r", defined.astype(np.float64), seeds)
    total = np.einsum("fsr,rs->r", np.where(defined, cells, 0.0), seeds)
    return np.divide(total, weight, out=np.full(len(weight), np.nan), where=weight > 0)


def interval(replicates: ArrayLike, level: float = LEVEL) -> tuple[float, float]:
    """Return the percentile interval of replicates (R,), NaN left out; (NaN, NaN) where none is left."""
    values = np.asarray(replicates, dtype=np.float64)
    values = values[np.isfinite(values)]
    if not len(values):
        return float("nan"), float("nan")
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


@dataclass(frozen=True)
class Difference:
    """A paired difference a - b: of the means, with its percentile interval and two-sided bootstrap p-value."""

    estimate: float
    low: float
    high: float
    p: float

    @property
    def tied(self) -> bool:
        """Return whether the interval contains 0, or is not known."""
        return not (self.low > 0 or self.high < 0)


def paired_difference(a: float, a_replicates: Array, b: float, b_replicates: Array, level: float = LEVEL) -> Difference:
    """Return the paired difference of two methods scored on the same bags.

    Args:
        a, b: the methods' means.
        a_replicates, b_replicates: (R,) their replicates under the SAME patient and seed weights; that makes them
            paired.
        level: coverage of the interval.

    Returns:
        the difference; p is twice the smaller share of replicates on one side of 0, (k + 1) / (R + 1), at most 1. It
        agrees with the
        interval: p < 1 - level where 0 is outside. Differences between many pairs are not corrected for their number.
    """
    d = np.asarray(a_replicates, dtype=np.float64) - np.asarray(b_replicates, dtype=np.float64)
    d = d[np.isfinite(d)]
    low, high = interval(d, level)
    # Sums of equal numbers in another order differ in the last bits; that is no difference.
    d = np.where(np.abs(d) < 1e-12, 0.0, d)
    low, high = (0.0 if abs(x) < 1e-12 else x for x in (low, high))
    side = min(int((d <= 0).sum()), int((d >= 0).sum()))
    p = min(1.0, 2 * (side + 1) / (len(d) + 1)) if len(d) else float("nan")
    return Difference(a - b, low, high, p)


def tie_ranks(scores: ArrayLike, replicates: Sequence[Array] | Array, level: float = LEVEL) -> Array:
    """Rank methods so that what cannot be told apart shares a rank.

    The best score leads a group. Every method left whose paired interval of the difference to the leader contains 0
    shares the leader's rank. Then the best of those left leads the next group; ranks are competition ranks (1, 1, 1,
    4). A method whose interval
    is wide can so share rank 1 with a lower score than one that is told apart from the leader: the data say no more.
    Being tied does
    not pass on: two methods of one group may differ from each other.

    Args:
        scores: (M,) higher is better; NaN: without a score.
        replicates: M arrays (R,), paired: the same patients and seeds in the same row.
        level: coverage of the paired intervals.

    Returns:
        (M,) ranks, NaN for methods without a score.
    """
    points = np.asarray(scores, dtype=np.float64)
    ranks = np.full(len(points), np.nan)
    left = [int(i) for i in np.argsort(-points, kind="stable") if np.isfinite(points[i])]
    rank = 1
    while left:
        first = left[0]
        group = [
            i
            for i in left
            if i == first or paired_difference(points[i], replicates[i], points[first], replicates[first], level).tied
        ]
        ranks[group] = rank
        rank += len(group)
        left = [i for i in left if i not in group]
    return ranks


@dataclass(frozen=True)
class TTest:
    """A t-test of paired differences: mean and interval, statistic, degrees of freedom, two-sided p-value."""

    mean: float
    low: float
    high: float
    t: float
    df: int
    p: float


def corrected_t_test(differences: ArrayLike, test_train_ratio: float, level: float = LEVEL) -> TTest:
    """Return Nadeau and Bengio's corrected resampled t-test (Machine Learning 52, 2003, section 4).

    t = mean(d) / sqrt((1/J + n_test/n_train) var(d)) with J - 1 degrees of freedom: the plain paired t-test over folds
    takes folds as independent although they share training patients, and finds differences that are not there. Unlike
    the bootstrap here it covers the draw of training patients.

    Args:
        differences: (J,) differences of a metric, one per fold; with repeated cross-validation J counts all
            repetitions.
        test_train_ratio: test bags per training bag, 1 / (k - 1) for k folds.
        level: coverage of the interval.

    Raises:
        ValueError: fewer than two differences, or a ratio that is not positive.
    """
    d = np.asarray(differences, dtype=np.float64)
    if d.ndim != 1 or len(d) < 2 or not test_train_ratio > 0:
        raise ValueError(f"needs 2 or more differences and a positive ratio, not {d.shape}, {test_train_ratio}")
    j, mean = len(d), float(d.mean())
    error = math.sqrt((1 / j + test_train_ratio) * float(d.var(ddof=1)))
    certain = 0.0 if mean == 0 else math.copysign(math.inf, mean)
    t = mean / error if error else certain
    half = float(stats.t.ppf((1 + level) / 2, j - 1)) * error
    return TTest(mean, mean - half, mean + half, t, j - 1, float(2 * stats.t.sf(abs(t), j - 1)))


def nanmean(values: Array) -> Array:
    """Return the mean over the first axis without NaN, NaN where nothing is left, and no warning."""
    defined = np.isfinite(values)
    number = defined.sum(axis=0)
    total = np.where(defined, values, 0.0).sum(axis=0)
    return np.divide(total, number, out=np.full(np.shape(total), np.nan), where=number > 0)
