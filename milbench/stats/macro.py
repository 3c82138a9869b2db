"""The interval of a mean of one-vs-rest AUCs, from the intervals of the classes' own AUCs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, logit, ndtri

from ..errors import MilbenchError
from .base import LEVEL, Array
from .checks import numeric_labels, owners, share_of
from .delong import certain_bound, count_patients

#: Of a patient: disorder below which an AUC is treated as nearly perfect.
NEARLY = 0.2
#: Patients of a class below which their spread is completed by that of exponential scores of the same AUC.
RARE = 10


@dataclass(frozen=True)
class ClassAucs:
    """The one-vs-rest AUCs whose weighted mean is a macro AUC; one class with weight 1 is an AUC of two classes.

    Attributes:
        classes: (K,) class indices.
        auc: (K,) of each class.
        weights: (K,) of each in the mean; they sum to 1.
        replicates: (K, R) of each under the same resamples of patients.
    """

    classes: NDArray[np.int64]
    auc: Array
    weights: Array
    replicates: Array

    @property
    def mean(self) -> float:
        """Return the macro AUC."""
        return float(self.weights @ self.auc)


@dataclass(frozen=True)
class MacroInterval:
    """The interval of a macro AUC over patients.

    Attributes:
        low, high: ends; NaN where fewer than two replicates are defined.
        guarded: whether a class is so rare, or so nearly in perfect order, that its part of the interval is wider than
            its replicates are.
    """

    low: float
    high: float
    guarded: bool


def mean_interval(found: ClassAucs, labels: ArrayLike, patients: ArrayLike, level: float = LEVEL) -> MacroInterval:
    """Return the interval over patients of a mean of one-vs-rest AUCs.

    The replicates of the mean give its interval on the logit scale, as those of one AUC do. A class that is rare, or
    nearly in perfect order, has an error that they do not show; what its own interval, `class_interval`, reaches beyond
    its replicates is added as limits of independent parts are (MOVER: Zou and Donner, Stat. Med. 27, 2008):

        low = A - sqrt(d^2 + sum_c w_c^2 (d_c^2 - b_c^2)),

    d the reach of the mean's replicates, d_c that of the class's interval, b_c that of its replicates. A class of one
    bag among many so moves the mean by its weight at most. A mean of exactly 1 has the exact bound `perfect_bound`.

    Args:
        found: AUCs of the classes, with replicates.
        labels: (n,) class indices of all bags tested.
        patients: (n,) of each bag.
        level: coverage.

    Raises:
        MilbenchError: labels are no class indices, or patients of another number of bags.
    """
    share_of(level)
    y = numeric_labels(labels)
    if len(y) and (y.min() < 0 or (y % 1 != 0).any()):
        raise MilbenchError("labels must be class indices: whole numbers from 0.")
    owner = owners(patients, len(y))
    nan = MacroInterval(float("nan"), float("nan"), False)
    if not len(found.auc) or not np.isfinite(found.auc).all():
        return nan
    counts = [count_patients(owner, y == c) for c in found.classes]
    parts = [
        class_interval(float(auc), replicates, own, level)
        for auc, replicates, own in zip(found.auc, found.replicates, counts, strict=True)
    ]
    if any(np.isnan(part.low) for part in parts):
        return nan
    if len(parts) == 1:
        return parts[0]
    guarded = any(part.guarded for part in parts)
    mean = found.mean
    if (found.auc == 1).all() or (found.auc == 0).all():
        every = np.array([len(np.unique(owner[y == c])) for c in np.unique(y)])
        of_mean = dict(zip(found.classes.tolist(), found.weights.tolist(), strict=True))
        weights = np.array([of_mean.get(int(c), 0.0) for c in np.unique(y)])
        bound = perfect_bound(every, weights, int(owner.max()) + 1, level)
        return MacroInterval(bound, 1.0, True) if mean > 0.5 else MacroInterval(0.0, 1 - bound, True)
    replicates = found.weights @ np.where(np.isfinite(found.replicates), found.replicates, found.auc[:, None])
    low, high = _on_logit(mean, _half_width(replicates, level))
    down, up = (mean - low) ** 2, (high - mean) ** 2
    for weight, auc, own, part in zip(found.weights, found.auc, found.replicates, parts, strict=True):
        if part.guarded:
            drawn = _half_width(own[np.isfinite(own)], level)
            ends = _on_logit(auc, drawn) if 0 < auc < 1 else (auc, auc)
            down += weight**2 * max((auc - part.low) ** 2 - (auc - ends[0]) ** 2, 0.0)
            up += weight**2 * max((part.high - auc) ** 2 - (ends[1] - auc) ** 2, 0.0)
    return MacroInterval(max(0.0, mean - float(np.sqrt(down))), min(1.0, mean + float(np.sqrt(up))), guarded)


def class_interval(
    auc: float, replicates: ArrayLike, patients: tuple[int, int, int], level: float = LEVEL
) -> MacroInterval:
    """Return the interval of one AUC from its replicates, on the logit scale.

    The half-width is the quantile of the replicates' absolute deviations. Where less order is wrong than `NEARLY` of
    one patient could make so, the end toward one half goes over to that of perfect order, `certain_bound`: of so
    little disorder the replicates know as good as nothing.

    Of fewer than `RARE` patients of a class the resamples know too little, and of one nothing: their variance is then
    completed, with weight (RARE - n) / (RARE - 1), by Hanley and McNeil's (Radiology 143, 1982) of the same AUC.

    Args:
        auc: of the data as they are.
        replicates: (R,) of it; NaN left out.
        patients: with positive bags, with negative bags, of all.
        level: coverage.
    """
    values = np.asarray(replicates, dtype=np.float64)
    values = values[np.isfinite(values)]
    if len(values) < 2 or not np.isfinite(auc):
        return MacroInterval(float("nan"), float("nan"), False)
    bound = certain_bound(patients, level)
    if auc in (0.0, 1.0):
        return MacroInterval(bound, 1.0, True) if auc == 1 else MacroInterval(0.0, 1 - bound, True)
    half = _half_width(values, level)
    rarest = min(patients[:2])
    if rarest < RARE:
        own = float(values.var(ddof=1)) * rarest / max(rarest - 1, 1)
        weight = (RARE - max(rarest, 1)) / (RARE - 1)
        variance = (1 - weight) * own + weight * _exponential_variance(auc, patients[0], patients[1])
        half = max(half, float(ndtri((1 + level) / 2)) * float(np.sqrt(variance)))
    low, high = _on_logit(auc, half)
    share = max(0.0, 1 - min(auc, 1 - auc) * rarest / NEARLY)
    if auc > 0.5:
        low += share * (min(low, bound) - low)
    else:
        high += share * (max(high, 1 - bound) - high)
    return MacroInterval(low, high, share > 0 or rarest < RARE)


def perfect_bound(counts: ArrayLike, weights: ArrayLike, patients: int, level: float = LEVEL) -> float:
    """Return the lower end of the interval of a mean of one-vs-rest AUCs that are all 1: exact for any scores.

    Choose k_c positive patients of each class c and pair each with a patient of another class, every patient used once.
    All pairs are independent, and all are in order with probability prod_c A_c^k_c. Perfect order is rarer still, so
    AUCs with sum_c k_c log A_c below log((1 - level) / 2) are refuted. The bound is the least weighted mean of the
    others: A_c = min(1, t k_c / w_c), t such that the sum is reached. With two classes it is `certain_bound`.

    The pairs are dealt to the rarest classes first: k_c = min(n_c, k) with the largest k for which they can be formed.
    A class without weight has none.

    Args:
        counts: (C,) patients of each class.
        weights: (C,) of each class in the mean; they sum to 1.
        patients: of all classes.
        level: coverage, two-sided.

    Raises:
        MilbenchError: counts or weights that are negative, or of different lengths.
    """
    given, w = np.asarray(counts, dtype=np.float64), np.asarray(weights, dtype=np.float64)
    if not np.isfinite(given).all():
        raise MilbenchError(f"a bound needs counts of patients, not {given}.")
    n = given.astype(np.int64)
    goal = float(np.log((1 - share_of(level)) / 2))
    if n.ndim != 1 or n.shape != w.shape or not len(n) or (n < 0).any() or not (w >= 0).all() or patients < 0:
        raise MilbenchError(f"a bound needs patients and weights of the same classes, not {n} and {w}.")
    pairs = _pairs(n, np.where(w > 0, n, 0), patients)
    bounded = (w > 0) & (pairs > 0)  # an AUC without pairs may be 0
    k, w = pairs[bounded].astype(np.float64), w[bounded]
    if not len(k):
        return 0.0
    # Those at 1 are the ones with the largest k / w. Add classes from the other end until t k / w <= 1 for all of them.
    order = np.argsort(k / w, kind="stable")
    k, w = k[order], w[order]
    for m in range(1, len(k) + 1):
        t = np.exp((goal - float((k[:m] * np.log(k[:m] / w[:m])).sum())) / k[:m].sum())
        if m == len(k) or t * k[m] / w[m] >= 1:
            return float((t * k[:m]).sum() + w[m:].sum())
    raise AssertionError("the last class ends the loop")


def _pairs(n: NDArray[np.int64], wanted: NDArray[np.int64], patients: int) -> NDArray[np.int64]:
    """Return how many positive patients of each class are paired with one of another class, each used once.

    Args:
        n: (C,) patients of each class.
        wanted: (C,) of each that are to be paired, at most.
        patients: of all classes.
    """
    most = min(patients // 2, int(n.sum() - n.max()))
    level = int(wanted.max())
    while level and np.minimum(wanted, level).sum() > most:
        level -= 1
    pairs = np.minimum(wanted, level)
    for c in np.argsort(wanted, kind="stable"):  # what is left over goes one by one to the rarer classes
        if pairs.sum() < most and pairs[c] < wanted[c]:
            pairs[c] += 1
    return pairs


def _exponential_variance(auc: float, positives: int, negatives: int) -> float:
    first, second = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    square = auc**2
    total = auc * (1 - auc) + (positives - 1) * (first - square) + (negatives - 1) * (second - square)
    return max(total, 0.0) / max(positives * negatives, 1)


def _half_width(values: Array, level: float) -> float:
    return float(np.quantile(np.abs(values - np.median(values)), level)) if len(values) else 0.0


def _on_logit(share: float, half: float) -> tuple[float, float]:
    scaled = half / (share * (1 - share))
    return float(expit(logit(share) - scaled)), float(expit(logit(share) + scaled))
