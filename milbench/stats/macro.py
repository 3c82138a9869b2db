"""The interval of a mean of one-vs-rest AUCs, from the intervals of the classes' own AUCs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, logit, ndtri

from ..errors import MilbenchError
from .base import LEVEL, Array
from .checks import auc_of, class_indices, instance, numbers, owners, several, share_of, whole_numbers
from .delong import PatientPairs, certain_bound, not_below, patient_pairs

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
class ClassGuard:
    """What one class adds to the interval of a mean of AUCs beyond its replicates.

    Attributes:
        label: its index.
        below, above: squared reach that it adds at either end.
        auc: of the class.
        patients: those of the rarer side, fold by fold.
        replicates: (R,) of ``auc``.
    """

    label: int
    below: float
    above: float
    auc: float
    patients: int
    replicates: Array


@dataclass(frozen=True)
class MacroInterval:
    """The interval of a macro AUC over patients.

    Attributes:
        low, high: ends; NaN where fewer than two replicates are defined.
        guarded: whether a class is so rare, or so nearly in perfect order, that its part of the interval is wider than
            its replicates are.
        drawn: (low, high) of the replicates alone, within the interval; None: the same.
        guards: what each class adds to them, where that is known class by class.
    """

    low: float
    high: float
    guarded: bool
    drawn: tuple[float, float] | None = None
    guards: tuple[ClassGuard, ...] = ()

    @property
    def of_replicates(self) -> tuple[float, float]:
        """Return the ends that the replicates alone give."""
        return (self.low, self.high) if self.drawn is None else self.drawn


def mean_interval(
    areas: ClassAucs,
    labels: ArrayLike,
    patients: ArrayLike,
    level: float = LEVEL,
    folds: Sequence[ArrayLike] | None = None,
) -> MacroInterval:
    """Return the interval over patients of a mean of one-vs-rest AUCs.

    The replicates of the mean give its interval on the logit scale, as those of one AUC do. A class that is rare, or
    nearly in perfect order, has an error that they do not show; what its own interval, `class_interval`, reaches beyond
    its replicates is added as limits of independent parts are (MOVER: Zou and Donner, Stat. Med. 27, 2008):

        low = A - sqrt(d^2 + sum_c w_c^2 (d_c^2 - b_c^2)),

    d the reach of the mean's replicates, d_c that of the class's interval, b_c that of its replicates. A class of one
    bag among many so moves the mean by its weight at most. A mean of exactly 1 has the exact bound `perfect_bound`, and
    no interval of a mean near 1 reaches below the bound of its disorder.

    Args:
        areas: AUCs of the classes, with replicates.
        labels: (n,) class indices of all bags tested.
        patients: (n,) of each bag.
        level: coverage.
        folds: rows that each fold tests, where ``areas`` holds means over folds: patients of different folds are never
            compared. None: one fold of all bags.

    Raises:
        MilbenchError: labels are no class indices, patients of another number of bags, a class that no bag has, or rows
            that are none.
    """
    share_of(level)
    instance(areas, ClassAucs, "the AUCs of classes", "ClassAucs(classes, auc, weights, replicates)")
    y = class_indices(labels)
    owner = owners(patients, len(y))
    classes, aucs, weights, replicates = _of_classes(areas, y)
    rows = None if folds is None else [_rows(one, len(y)) for one in several(folds, "folds")]
    nan = MacroInterval(float("nan"), float("nan"), False)
    if not len(aucs) or not np.isfinite(aucs).all():
        return nan
    pairs = [patient_pairs(owner, y == c, rows) for c in classes]
    parts = [
        class_interval(float(auc), own, of_class, level)
        for auc, own, of_class in zip(aucs, replicates, pairs, strict=True)
    ]
    if any(np.isnan(part.low) for part in parts):
        return nan
    if len(parts) == 1:
        return parts[0]
    guarded = any(part.guarded for part in parts)
    mean = float(weights @ aucs)
    bound = _MeanBound(owner, y, rows, classes, weights, level)
    if (aucs == 1).all() or (aucs == 0).all():
        low = bound.low(0.0)
        if mean > 0.5:
            return MacroInterval(low, 1.0, True, (1.0, 1.0))
        return MacroInterval(0.0, 1 - low, True, (0.0, 0.0))
    low, high = on_logit(
        mean, half_width(weights @ np.where(np.isfinite(replicates), replicates, aucs[:, None]), level)
    )
    drawn, guards = (low, high), []
    for c, weight, auc, own, of_class, part in zip(classes, weights, aucs, replicates, pairs, parts, strict=True):
        if part.guarded:
            ends = part.of_replicates
            below, above = _squared_beyond(auc, part.low, ends[0]), _squared_beyond(auc, part.high, ends[1])
            guards.append(ClassGuard(int(c), weight**2 * below, weight**2 * above, float(auc), of_class.rarest, own))
    down = (mean - low) ** 2 + sum(one.below for one in guards)
    up = (high - mean) ** 2 + sum(one.above for one in guards)
    low, high = max(0.0, mean - float(np.sqrt(down))), min(1.0, mean + float(np.sqrt(up)))
    # Of patients: what could be all of the disorder. Near perfect order the end goes over to that of perfect order.
    toward_one = mean > 0.5
    wrong = sum(float(1 - auc if toward_one else auc) * one.rarest for auc, one in zip(aucs, pairs, strict=True))
    share = max(0.0, 1 - wrong / NEARLY)
    if share and toward_one:
        low += share * (min(low, bound.low(0.0)) - low)
    elif share:
        high += share * (max(high, 1 - bound.low(0.0)) - high)
    low, high = min(mean, max(low, bound.low(1 - mean))), max(mean, min(high, 1 - bound.low(mean)))
    drawn = max(drawn[0], low), min(drawn[1], high)
    total = _squared_beyond(mean, low, drawn[0]), _squared_beyond(mean, high, drawn[1])
    return MacroInterval(low, high, guarded, drawn, _sum_to(guards, *total))


def _sum_to(guards: list[ClassGuard], below: float, above: float) -> tuple[ClassGuard, ...]:
    """Return guards scaled so that they sum to what an interval of all classes holds."""
    sums = sum(one.below for one in guards), sum(one.above for one in guards)
    first, second = (goal / have if have else 0.0 for goal, have in zip((below, above), sums, strict=True))
    return tuple(replace(one, below=first * one.below, above=second * one.above) for one in guards)


def class_interval(
    auc: float, replicates: ArrayLike, patients: ArrayLike | PatientPairs, level: float = LEVEL
) -> MacroInterval:
    """Return the interval of one AUC from its replicates, on the logit scale.

    The half-width is the quantile of the replicates' absolute deviations. Where less order is wrong than `NEARLY` of
    one patient could make so, the end toward one half goes over to that of perfect order, `certain_bound`: of so
    little disorder the replicates know as good as nothing.

    Of fewer than `RARE` patients of a class the resamples know too little, and of one nothing: their variance is then
    completed, with weight (RARE - n) / (RARE - 1), by Hanley and McNeil's (Radiology 143, 1982) of the same AUC. On the
    logit scale that grows without limit toward 1, so no end lies farther out than `exact_bound` of the AUC.

    Args:
        auc: of the data as they are.
        replicates: (R,) of it; NaN left out.
        patients: with positive bags, with negative bags, of all; (F, 3) of a mean over folds.
        level: coverage.

    Raises:
        MilbenchError: an AUC outside [0, 1], replicates that are no list of numbers, or counts that are none.
    """
    share_of(level)
    auc = auc_of(auc)
    values = numbers(replicates, "replicates", ndim=1)
    pairs = PatientPairs.of_counts(patients)
    values = values[np.isfinite(values)]
    if len(values) < 2 or not np.isfinite(auc):
        return MacroInterval(float("nan"), float("nan"), False)
    bound = certain_bound(pairs, level)
    if auc in (0.0, 1.0):
        ends = (bound, 1.0) if auc == 1 else (0.0, 1 - bound)
        return MacroInterval(*ends, True, (auc, auc), _guard_of_one(auc, *ends, (auc, auc), pairs, values))
    half = plain = half_width(values, level)
    rarest = pairs.rarest
    if rarest < RARE:
        own = float(values.var(ddof=1)) * rarest / max(rarest - 1, 1)
        weight = (RARE - max(rarest, 1)) / (RARE - 1)
        variance = (1 - weight) * own + weight * _exponential_variance(auc, pairs)
        half = max(half, float(ndtri((1 + level) / 2)) * float(np.sqrt(variance)))
    low, high = on_logit(auc, half)
    share = max(0.0, 1 - min(auc, 1 - auc) * rarest / NEARLY)
    if auc > 0.5:
        low += share * (min(low, bound) - low)
    else:
        high += share * (max(high, 1 - bound) - high)
    low, high = not_below(low, auc, pairs, level), 1 - not_below(1 - high, 1 - auc, pairs, level)
    if not share and rarest >= RARE:
        return MacroInterval(low, high, False)
    ends = on_logit(auc, plain)
    ends = max(ends[0], low), min(ends[1], high)
    return MacroInterval(low, high, True, ends, _guard_of_one(auc, low, high, ends, pairs, values))


def _guard_of_one(
    auc: float, low: float, high: float, drawn: tuple[float, float], pairs: PatientPairs, replicates: Array
) -> tuple[ClassGuard]:
    below, above = _squared_beyond(auc, low, drawn[0]), _squared_beyond(auc, high, drawn[1])
    return (ClassGuard(1, below, above, auc, pairs.rarest, replicates),)


def _squared_beyond(estimate: float, end: float, drawn: float) -> float:
    """Return the square of what an end reaches beyond that of the replicates."""
    return max((estimate - end) ** 2 - (estimate - drawn) ** 2, 0.0)


def _of_classes(areas: ClassAucs, y: NDArray[np.int64]) -> tuple[NDArray[np.int64], Array, Array, Array]:
    classes = whole_numbers(areas.classes, "classes")
    aucs, weights = numbers(areas.auc, "the AUCs of classes", ndim=1), numbers(areas.weights, "weights", ndim=1)
    replicates = numbers(areas.replicates, "replicates", ndim=2)
    if classes.ndim != 1 or not len(classes) == len(aucs) == len(weights) == len(replicates):
        raise MilbenchError(
            f"classes, AUCs, weights and replicates are of the same classes, not of {classes.shape}, {aucs.shape}, "
            f"{weights.shape} and {replicates.shape}.",
            code="stats-bad-input",
        )
    if len(aucs) and (not (weights >= 0).all() or abs(weights.sum() - 1) > 1e-6):
        raise MilbenchError(
            f"the weights of classes in a mean are not negative and sum to 1, not {weights}.", code="stats-bad-input"
        )
    for auc in aucs:
        auc_of(auc, "the AUC of a class")
    if not np.isin(classes, y).all() and np.isfinite(aucs).all():
        raise MilbenchError(
            f"no bag is of class {classes[~np.isin(classes, y)][0]}, which has an AUC.", code="stats-too-few"
        )
    return classes, aucs, weights, replicates


def _rows(rows: ArrayLike, n: int) -> NDArray[np.int64]:
    at = whole_numbers(rows, "the rows of a fold")
    if at.ndim != 1 or (at >= n).any():
        raise MilbenchError(f"the rows of a fold are numbers from 0 to {n - 1} in a list.", code="stats-out-of-range")
    return at


class _MeanBound:
    """`perfect_bound` of the data at hand, and what is left of it for a mean that is not quite 1."""

    def __init__(
        self,
        owner: NDArray[np.int64],
        y: NDArray[np.int64],
        rows: Sequence[NDArray[np.int64]] | None,
        classes: NDArray[np.int64],
        weights: Array,
        level: float,
    ) -> None:
        every = np.unique(y)
        of_mean = dict(zip(classes.tolist(), weights.tolist(), strict=True))
        self.weights = np.array([of_mean.get(int(c), 0.0) for c in every])
        self.tail = (1 - level) / 2
        patients = int(owner.max()) + 1
        counted: np.ndarray = np.zeros(patients, dtype=bool)
        pairs, defined = [], np.zeros(len(every))
        self.single = True  # whether no patient has several bags in a fold
        for at in [np.arange(len(y))] if rows is None else rows:
            bags = np.stack([np.bincount(owner[at[y[at] == c]], minlength=patients) for c in every])
            present = bags.any(axis=1)
            if present.sum() < 2:
                continue
            defined += present
            self.single &= bool(bags.max() <= 1 and (bags > 0).sum(axis=0).max() <= 1)
            free = (bags > 0) & ~counted
            counted |= bags.any(axis=0)
            of_class = free.sum(axis=1)
            pairs.append(_pairs(of_class, np.where(self.weights > 0, of_class, 0), int(free.any(axis=0).sum())))
        self.pairs = np.array(pairs, dtype=np.int64).reshape(len(pairs), len(every))
        #: share of the mean that one fold's AUC of a class has; a class may be in no fold that has two
        self.of_fold = np.divide(self.weights, defined, out=np.zeros(len(every)), where=defined > 0)

    def low(self, disorder: float) -> float:
        """Return the least mean of the AUCs that data with so much disorder, 1 less the mean, do not refute.

        Where every pair weighs at least l in the mean, order is as good as seen with probability at most
        prod_c A_c^k_c / (1 - disorder / l), see `exact_bound`. Few pairs weigh more: several choices are tried.
        """
        if not len(self.pairs):
            return 0.0
        if disorder <= 0:
            return _least_mean(self.pairs.sum(axis=0), self.weights, float(np.log(self.tail)))
        if not self.single:
            return 0.0
        best = 0.0
        for least in disorder * np.array([1.1, 1.3, 1.6, 2, 3, 5, 10, 30, 100, 1e3, 1e4]):
            most = np.floor(self.of_fold / least + 1e-9).astype(np.int64)
            pairs = np.minimum(self.pairs, most).sum(axis=0)
            goal = float(np.log(self.tail * (1 - disorder / least)))
            best = max(best, _least_mean(pairs, self.weights, goal))
        return best


def perfect_bound(counts: ArrayLike, weights: ArrayLike, patients: ArrayLike, level: float = LEVEL) -> float:
    """Return the lower end of the interval of a mean of one-vs-rest AUCs that are all 1: exact for any scores.

    Choose k_c positive patients of each class c and pair each with a patient of another class, every patient used once.
    All pairs are independent, and all are in order with probability prod_c A_c^k_c. Perfect order is rarer still, so
    AUCs with sum_c k_c log A_c below log((1 - level) / 2) are refuted. The bound is the least weighted mean of the
    others: A_c = min(1, t k_c / w_c), t such that the sum is reached. With two classes it is `certain_bound`.

    The pairs are dealt to the rarest classes first: k_c = min(n_c, k) with the largest k for which they can be formed.
    A class without weight has none.

    Args:
        counts: (C,) patients of each class; (F, C) in each fold of a mean over folds, whose patients never meet.
        weights: (C,) of each class in the mean; they sum to 1.
        patients: of all classes; (F,) in each fold.
        level: coverage, two-sided.

    Raises:
        MilbenchError: counts that are not whole numbers from 0 on, weights that are negative or do not sum to 1, or
            different lengths.
    """
    n, w = np.atleast_2d(whole_numbers(counts, "patients of each class")), numbers(weights, "weights", ndim=1)
    every = np.atleast_1d(whole_numbers(patients, "the number of patients"))
    goal = float(np.log((1 - share_of(level)) / 2))
    if n.ndim != 2 or n.shape != (len(every), len(w)) or not len(w) or not (w >= 0).all() or abs(w.sum() - 1) > 1e-6:
        raise MilbenchError(
            f"a bound needs patients and weights, summing to 1, of the same classes, "
            f"not {n.tolist()} and {w.tolist()}.",
            code="stats-bad-input",
        )
    pairs = sum(_pairs(one, np.where(w > 0, one, 0), int(of_all)) for one, of_all in zip(n, every, strict=True))
    return _least_mean(np.asarray(pairs), w, goal)


def _least_mean(pairs: NDArray[np.int64], w: Array, goal: float) -> float:
    """Return the least weighted mean of AUCs with sum_c pairs_c log AUC_c at least goal."""
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


def _exponential_variance(auc: float, pairs: PatientPairs) -> float:
    """Return Hanley and McNeil's variance of a mean over folds, the mean of either class having the wider scores.

    It is the same for the opposite order and for the other class. With the wider scores always the positive ones, the
    intervals of one bag's AUC miss 4 to 9 % above at true AUCs of .6 to .85; so 0 to 3 %, and they are shorter.
    """
    both = (auc / (2 - auc) + 2 * auc**2 / (1 + auc)) / 2 - auc**2
    parts = [(auc * (1 - auc) + (p + n - 2) * both) / (p * n) for p, n, _ in pairs.folds]
    return max(sum(parts), 0.0) / max(len(parts), 1) ** 2


def half_width(values: Array, level: float) -> float:
    """Return the quantile of the absolute deviations of replicates (R,) from their median."""
    return float(np.quantile(np.abs(values - np.median(values)), level)) if len(values) else 0.0


def on_logit(share: float, half: float) -> tuple[float, float]:
    """Return the ends of share -+ half, taken on the logit scale."""
    scaled = half / (share * (1 - share))
    return float(expit(logit(share) - scaled)), float(expit(logit(share) + scaled))
