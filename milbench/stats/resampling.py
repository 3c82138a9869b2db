"""Bootstrap weights over patients and seeds, and intervals of the replicates they give."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit, logit, ndtr, ndtri, stdtrit

from ..errors import MilbenchError
from .base import LEVEL, Array
from .checks import class_labels, generator, number, numbers, numeric_labels, owners, positive_count, share_of


def cluster_weights(patients: ArrayLike, labels: ArrayLike, resamples: int, rng: np.random.Generator) -> Array:
    """Return bootstrap weights that draw patients, with all their bags, with replacement within each patient label.

    A patient's label is the largest label of its bags. The number of patients of each label stays as it is, as it does
    in the design of a case-control cohort; a label with one patient has no spread.

    Args:
        patients: (n,) patient of each bag; each bag its own gives the usual bootstrap over bags. A bag without patient
            (NaN, None, empty) is a patient of its own.
        labels: (n,) class indices.
        resamples: R.
        rng: the random generator; the same state gives the same weights.

    Returns:
        (R, n): how often each bag's patient was drawn.

    Raises:
        MilbenchError: labels that are no class indices, or patients of another number of bags.
    """
    y = class_labels(labels, int(np.max(numeric_labels(labels))) + 1)
    patient = owners(patients, len(y))
    resamples, rng = positive_count(resamples), generator(rng)
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
    """Return (R, S) weights of seeds whose mean over S values strays from the plain mean by a Student draw.

    Row r gives sum(w x) / S = mean(x) + t_r sd(x) / sqrt(S) for any values x of the seeds, t_r of Student's t with S -
    1 degrees of freedom: the fiducial distribution of a mean of normal values. Drawing seeds with replacement instead
    has too little spread and too short tails: with 2, 3 and 5 seeds that matter more than the slides, a paired test at
    5 % rejects 32, 20 and 13 % under the null, this one 2.5 to 3.5 %. Where seeds matter little it is careful: with as
    few it rejects 1 to 3 %, for it cannot know.

    Returns:
        rows of mean 1, some weights below 0; all 1 for one seed, which has no spread.
    """
    resamples, rng = positive_count(resamples), generator(rng)
    if (seeds := positive_count(seeds, "seeds")) == 1:
        return np.ones((resamples, 1))
    free = seeds - 1
    normal = rng.normal(size=(resamples, seeds))
    normal -= normal.mean(axis=1, keepdims=True)
    scale = np.sqrt(seeds / free) / np.sqrt(rng.chisquare(free, size=(resamples, 1)) / free)
    return 1 + scale * normal


def combine(cells: Array, seeds: Array) -> Array:
    """Return each replicate's mean over folds and seeds, strayed by its weights of the seeds.

    Args:
        cells: (F, S, R) the metric of each fold and seed under each replicate's patients; NaN where it is missing or
            undefined.
        seeds: (R, S) from `seed_weights`; methods that share them are paired by seed.

    A seed's own deviation is that of its mean over patients' draws, so that the spread over patients, which is in every
    replicate already, is not counted again.

    Returns:
        (R,); NaN where nothing is defined. With few seeds some lie far outside the metric's range.
    """
    cells, seeds = numbers(cells, "cells"), numbers(seeds, "weights of seeds")
    if cells.ndim != 3 or seeds.ndim != 2 or seeds.shape != cells.shape[:0:-1] or not np.isfinite(seeds).all():
        raise MilbenchError(
            f"cells (F, S, R) need finite weights (R, S) of their seeds, not {cells.shape}, {seeds.shape}.",
            code="stats-bad-input",
        )
    defined = np.isfinite(cells)
    even = _mean(cells, defined, (0, 1))
    of_cell = _mean(cells, defined, 2)
    known = np.isfinite(of_cell)
    own = of_cell - _mean(of_cell, known, 1)[:, None]
    deviation = np.nan_to_num(_mean(own, known, 0))
    return even + (seeds - 1) @ (deviation - deviation.mean()) / cells.shape[1]


def _mean(values: Array, defined: Array, axis: int | tuple[int, ...]) -> Array:
    count = defined.sum(axis=axis)
    total = np.where(defined, values, 0.0).sum(axis=axis)
    return np.divide(total, count, out=np.full(np.shape(total), np.nan), where=count > 0)


def interval(replicates: ArrayLike, level: float = LEVEL) -> tuple[float, float]:
    """Return the percentile interval of replicates (R,), NaN left out; (NaN, NaN) where none is left.

    Of an AUC it is too short on the side of 0.5: see `milbench.stats.auc_interval`.
    """
    values = _finite(replicates)
    share_of(level)
    if not len(values):
        return float("nan"), float("nan")
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def logit_interval(estimate: float, replicates: ArrayLike, level: float = LEVEL) -> tuple[float, float]:
    """Return the interval of a share (an AUC, an accuracy) from its replicates' standard deviation, on the logit scale.

    estimate -> logit(estimate) -+ z sd(replicates) / (estimate (1 - estimate)) -> back: the bootstrap's form of DeLong
    on the logit scale. It stays inside (0, 1) and is longer on the side of 0.5, where the percentile interval of
    an AUC near 1 is too short. It serves any mean over folds and seeds that `combine` gives.

    Args:
        estimate: of the data as they are.
        replicates: (R,); NaN left out.
        level: coverage.

    Returns:
        low and high; (NaN, NaN) where fewer than two replicates are left; the estimate twice where it is 0 or 1, which
        the replicates know nothing beyond: see `certain_bound`.
    """
    values, estimate = _finite(replicates), number(estimate, "an estimate")
    share_of(level)
    if len(values) < 2 or not np.isfinite(estimate):
        return float("nan"), float("nan")
    if not 0 <= estimate <= 1:
        raise MilbenchError(
            f"an interval on the logit scale is of a share from 0 to 1, not of {estimate}.", code="stats-out-of-range"
        )
    if not 0 < estimate < 1:
        return float(estimate), float(estimate)
    half = ndtri((1 + level) / 2) * values.std(ddof=1) / (estimate * (1 - estimate))
    low, high = expit(logit(estimate) + np.array([-half, half]))
    return float(low), float(high)


def bca_interval(
    estimate: float, replicates: ArrayLike, influence: ArrayLike, level: float = LEVEL
) -> tuple[float, float]:
    """Return the bias-corrected and accelerated interval (Efron, JASA 82, 1987).

    Args:
        estimate: of the data as they are.
        replicates: (R,); NaN left out; ties with the estimate count one half in the bias correction.
        influence: (units,) of the estimate: how far it moves for an added share of each unit (patient); its skewness is
            the acceleration, sum(l^3) / (6 sum(l^2)^1.5). Of an AUC: `AucEstimates.influence`.
        level: coverage.

    Returns:
        low and high; (NaN, NaN) where no replicate is left.
    """
    values, estimate = np.sort(_finite(replicates)), number(estimate, "an estimate")
    share_of(level)
    if not len(values) or not np.isfinite(estimate):
        return float("nan"), float("nan")
    z0, a = _bias(values, estimate), _acceleration(influence)
    z = z0 + ndtri([(1 - level) / 2, (1 + level) / 2])
    low, high = np.quantile(values, ndtr(z0 + z / (1 - a * z)))
    return float(low), float(high)


def bca_p_value(estimate: float, replicates: ArrayLike, influence: ArrayLike, null: float = 0.0) -> float:
    """Return the two-sided p-value of `null` that agrees with `bca_interval`: 1 - level where null is an end of it."""
    values, estimate = np.sort(_finite(replicates)), number(estimate, "an estimate")
    if not len(values) or not np.isfinite(estimate):
        return float("nan")
    z0, a = _bias(values, estimate), _acceleration(influence)
    w = float(ndtri(_share_below(values, number(null, "the null")))) - z0
    z = w / (1 + a * w) - z0
    return float(min(1.0, 2 * ndtr(-abs(z))))


def student_factor(count: int, level: float = LEVEL) -> float:
    """Return how much longer an interval of `count` draws is by Student's t than by the normal; 1 for one draw.

    With `sqrt(n / (n - 1))` for the variance this makes a percentile interval Hesterberg's expanded one (Am. Stat. 69,
    2015, section 5.1).
    """
    if count < 2:
        return 1.0
    return float(stdtrit(count - 1, (1 + level) / 2) / ndtri((1 + level) / 2))


def _finite(replicates: ArrayLike) -> Array:
    values = numbers(replicates, "replicates", ndim=1)
    return values[np.isfinite(values)]


def _share_below(values: Array, point: float) -> float:
    """Share of sorted values below a point, ties one half, kept half a replicate away from 0 and 1."""
    # Sums of equal numbers in another order differ in the last bits; that is a tie.
    low, high = np.searchsorted(values, [point - 1e-12, point + 1e-12])
    return float(np.clip((low + high) / 2, 0.5, len(values) - 0.5) / len(values))


def _bias(values: Array, estimate: float) -> float:
    return float(ndtri(_share_below(values, estimate)))


def _acceleration(influence: ArrayLike) -> float:
    parts = numbers(influence, "influence values")
    if not np.isfinite(parts).all():
        raise MilbenchError("influence values must be finite.", code="scores-not-finite")
    square = float((parts**2).sum())
    return float((parts**3).sum()) / (6 * square**1.5) if square else 0.0
