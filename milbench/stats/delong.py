"""The covariance of AUCs on the same slides: DeLong's, and Obuchowski's where a patient has several slides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import bdtr, stdtr, stdtrit

from ..errors import MilbenchError
from .areas import placements
from .base import LEVEL, Array, scipy_stats
from .checks import auc_of, owners, share_of, whole_numbers
from .permutation import swapped_p


@dataclass(frozen=True)
class AucEstimates:
    """AUCs of k methods on the same slides, with what is known of their errors.

    Attributes:
        auc: (k,)
        covariance: (k, k) of them; NaN where a class has slides of one patient only.
        degrees: (k,) Satterthwaite's degrees of freedom of each variance, as in Brunner and Munzel's test; infinite
            where the variance is 0.
        influence: (k, patients): how each patient's slides move each AUC; rows sum to 0.
        patients: patients with positive slides, patients with negative slides, all patients.
        student: degrees of freedom of differences: infinite for slides of their own, as DeLong's test is known, and
            patients - 2 where patients were given, without which it rejects 8 % at nominal 5 % with 17 patients.
        positive: (n,) of bool.
        ranks: (k, n) midranks of each method's scores.
        owner: (n,) number of each slide's patient.

    With positive or negative slides of one patient only, DeLong's error is not known: intervals are then those of
    `exact_bound`, and tests those of `auc_permutation_test`.
    """

    auc: Array
    covariance: Array
    degrees: Array
    influence: Array
    patients: tuple[int, int, int]
    student: float
    positive: np.ndarray
    ranks: Array
    owner: np.ndarray

    @property
    def pairs(self) -> PatientPairs:
        """Return the pairs of patients that the AUCs rest on."""
        return patient_pairs(self.owner, self.positive)

    @property
    def errors(self) -> Array:
        """Return (k,) standard errors."""
        return np.sqrt(np.diag(self.covariance))

    def difference(self, first: int = 0, second: int = 1) -> tuple[float, float]:
        """Return the difference of two AUCs and its standard error."""
        c = self.covariance
        variance = c[first, first] + c[second, second] - 2 * c[first, second]
        # A variance this small between two methods that order slides equally is rounding error.
        error = float(np.sqrt(variance)) if variance > 1e-18 or np.isnan(variance) else 0.0
        return float(self.auc[first] - self.auc[second]), error

    def test(self, first: int = 0, second: int = 1) -> float:
        """Return the two-sided p-value of DeLong's paired test that two AUCs are equal.

        Under the null it rejects less often than its nominal 5 % where few pairs are out of order (at AUC .98 0.1 % of
        50 slides, 1 to 4 % of 130), and 3 to 6 % elsewhere; the two methods need not be exchangeable.

        Where the difference has no variance although the AUCs differ (perfect order against a constant, say), there is
        no such test, and the p-value is that of `milbench.stats.auc_permutation_test`.
        """
        gap, error = self.difference(first, second)
        if not error > 0:
            if abs(gap) < 1e-12:
                return 1.0
            return swapped_p(self.positive, self.ranks[[first, second]], self.owner)
        return float(2 * stdtr(self.student, -abs(gap) / error))

    def contrast(self, first: int = 0, second: int = 1, level: float = LEVEL) -> tuple[float, float]:
        """Return DeLong's interval of the difference of two AUCs.

        An AUC of 1 or 0 has no variance, and its part of the interval is `certain_bound` instead, combined with the
        error of the other AUC as MOVER combines limits (Zou and Donner, Stat. Med. 27, 2008); where both are 1 or 0 the
        interval is what their bounds leave. Two methods that order all slides equally have a difference of exactly 0.
        """
        gap, error = self.difference(first, second)
        if np.isnan(error):
            return self._exact_contrast(first, second, level)
        half = float(stdtrit(self.student, (1 + share_of(level)) / 2)) * error
        certain = np.isin(self.auc[[first, second]], (0.0, 1.0))
        if not certain.any() or np.array_equal(self.ranks[first], self.ranks[second]):
            low, high = np.clip([gap - half, gap + half], -1, 1).tolist()
            return low, high
        a, b = float(self.auc[first]), float(self.auc[second])
        (low_a, high_a), (low_b, high_b) = (
            certain_ends(self.patients, auc, level) if known else (auc, auc)
            for auc, known in zip((a, b), certain, strict=True)
        )
        if certain.all():
            return low_a - high_b, high_a - low_b
        down, up = a - low_a + high_b - b, high_a - a + b - low_b
        low, high = np.clip([gap - np.hypot(down, half), gap + np.hypot(up, half)], -1, 1).tolist()
        return low, high

    def _exact_contrast(self, first: int, second: int, level: float) -> tuple[float, float]:
        """Return what the exact bounds of two AUCs leave of their difference."""
        gap = self.difference(first, second)[0]
        if np.array_equal(self.ranks[first], self.ranks[second]):
            return gap, gap
        pairs, a, b = self.pairs, float(self.auc[first]), float(self.auc[second])
        (low_a, high_a), (low_b, high_b) = (
            (exact_bound(auc, pairs, level), 1 - exact_bound(1 - auc, pairs, level)) for auc in (a, b)
        )
        low, high = gap - np.hypot(a - low_a, high_b - b), gap + np.hypot(high_a - a, b - low_b)
        return max(-1.0, float(low)), min(1.0, float(high))


def delong(labels: ArrayLike, scores: ArrayLike, patients: ArrayLike | None = None) -> AucEstimates:
    """Return AUCs and their covariance (DeLong, DeLong and Clarke-Pearson, Biometrics 44, 1988).

    cov = cov of positives' placements / positives + cov of negatives' placements / negatives, in O(n log n).
    With `patients` placements are added up within a patient before, so that slides of one patient may be
    correlated to any degree (Obuchowski, Biometrics 53, 1997); a patient may have slides of both classes. With one
    slide a patient the two are equal.

    At an AUC of exactly 0 or 1 all placements are equal and the covariance is 0, which is not certainty; the intervals
    of `milbench.stats.auc_interval` put a bound there.

    For models tested on the same slides, one model each. Predictions pooled over the folds of a cross-validation come
    from different models with scores of their own scale; average the folds instead.

    Args:
        labels: (n,); anything above 0 is positive.
        scores: (n,) or (k, n), k methods on the same slides.
        patients: (n,) of each slide; None: each slide is its own, as is a slide whose patient is NaN, None or empty.

    Raises:
        MilbenchError: see `placements`, or `patients` has another length.
    """
    components = placements(labels, scores)
    y, away = components.positive, components.values - components.auc[:, None]
    student = np.inf
    owner = owners(patients, len(y))
    if patients is not None:
        student = float(max(owner.max() - 1, 1))
    number = int(owner.max()) + 1
    positive, negative = (_per_patient(away, owner, number, part) for part in (y, ~y))
    counts = count_patients(owner, y)
    # Obuchowski's small-sample factors: of the patients with positive slides, with negative ones, and of all.
    parts = [
        _unbias(counts[0]) * positive @ positive.T,
        _unbias(counts[1]) * negative @ negative.T,
        _unbias(counts[2]) * (positive @ negative.T + negative @ positive.T),
    ]
    covariance = parts[0] + parts[1] + parts[2]
    # The shared part of patients with slides of both classes can outweigh the rest by rounding, no more.
    np.fill_diagonal(covariance, np.maximum(np.diag(covariance), 0.0))
    of_class = np.diag(parts[0]), np.diag(parts[1])
    spread = of_class[0] ** 2 / max(counts[0] - 1, 1) + of_class[1] ** 2 / max(counts[1] - 1, 1)
    variance = np.diag(covariance)
    degrees = np.divide(variance**2, spread, out=np.full(len(variance), np.inf), where=spread > 0)
    ranks = scipy_stats.rankdata(np.atleast_2d(np.asarray(scores, dtype=np.float64)), axis=1)
    return AucEstimates(components.auc, covariance, degrees, positive + negative, counts, student, y, ranks, owner)


def count_patients(owner: np.ndarray, positive: np.ndarray) -> tuple[int, int, int]:
    """Return the number of patients with positive slides, with negative slides, and of all."""
    return len(np.unique(owner[positive])), len(np.unique(owner[~positive])), len(np.unique(owner))


def _per_patient(away: Array, owner: np.ndarray, number: int, part: np.ndarray) -> Array:
    """Return (k, patients): sums over the slides of one class, over how many such slides there are."""
    sums = [np.bincount(owner[part], weights=row[part], minlength=number) for row in away]
    return np.stack(sums) / part.sum()


def _unbias(count: int) -> float:
    return count / (count - 1) if count > 1 else float("nan")


@dataclass(frozen=True)
class PatientPairs:
    """Pairs of a positive and a negative patient that an AUC, or a mean over folds of AUCs, rests on.

    Patients of different folds never meet: each fold pairs its own, and a patient whom several folds test is counted in
    the first of them.

    Attributes:
        folds: (positive, negative, all) patients of each fold that has both classes.
        disjoint: pairs that can be formed within folds, each patient used once.
        even: so many disjoint pairs of which none weighs more than another: 1 over the largest share of the mean that
            one patient has.
        least: smallest share of the mean that one of the ``disjoint`` pairs has.
    """

    folds: tuple[tuple[int, int, int], ...]
    disjoint: int
    even: int
    least: float

    @property
    def rarest(self) -> int:
        """Return the patients of the class that is rarer, fold by fold."""
        return sum(min(one[:2]) for one in self.folds)

    @classmethod
    def of_counts(cls, patients: ArrayLike | PatientPairs) -> PatientPairs:
        """Return the pairs of (positive, negative, all) patients with a bag each, of one fold (3,) or several (F, 3).

        Raises:
            MilbenchError: not whole numbers from 0 on, or more patients of a class than there are.
        """
        if isinstance(patients, PatientPairs):
            return patients
        counts = np.atleast_2d(whole_numbers(patients, "numbers of patients"))
        if counts.ndim != 2 or counts.shape[1] != 3 or (counts[:, :2] > counts[:, 2:]).any():
            raise MilbenchError(
                f"an interval needs the patients with positive bags, with negative bags, and of all, not {patients}.",
                code="stats-too-few",
            )
        folds = tuple((int(p), int(n), int(every)) for p, n, every in counts if p and n)
        pairs = [min(p, n, every // 2) for p, n, every in folds]
        smallest = len(pairs) * min(pairs, default=0)
        least = 1 / (len(pairs) * max(pairs)) if any(pairs) else 1.0
        return cls(folds, sum(pairs), min(sum(pairs), smallest), least)


def patient_pairs(owner: np.ndarray, positive: np.ndarray, folds: Sequence[np.ndarray] | None = None) -> PatientPairs:
    """Return the pairs of patients of an AUC, or of a mean over folds of AUCs.

    Args:
        owner: (n,) patient numbers from 0 on.
        positive: (n,) of bool.
        folds: rows that each fold tests; None: one fold of all. Folds with bags of one class have no AUC.
    """
    every = [np.arange(len(owner))] if folds is None else folds
    usable = [rows for rows in every if positive[rows].any() and not positive[rows].all()]
    number = int(owner.max(initial=0)) + 1
    counted: np.ndarray = np.zeros(number, dtype=bool)
    share = np.zeros((2, number))
    counts: list[tuple[int, int, int]] = []
    disjoint, least = 0, 1.0
    for rows in usable:
        slides = np.stack(
            [np.bincount(owner[rows[positive[rows] == part]], minlength=number) for part in (True, False)]
        )
        of_class = slides / slides.sum(axis=1, keepdims=True) / len(usable)
        share += of_class
        free = (slides > 0) & ~counted
        counted |= (slides > 0).any(axis=0)
        of_both = free.sum(axis=1)
        if of_both.all():
            counts.append((int(of_both[0]), int(of_both[1]), int(free.any(axis=0).sum())))
            disjoint += (pairs := min(int(of_both.min()), counts[-1][2] // 2))
            rarer = int(of_both.argmin())
            if pairs:
                least = min(least, float(of_class[rarer, free[rarer]].min()))
    largest = float(share.sum(axis=0).max(initial=0.0))
    # A patient of both classes may be needed on either side; two thirds of the pairs are then disjoint (Shannon 1949).
    shared = 2 / 3 if (share > 0).all(axis=0).any() else 1.0
    even = int(shared / largest + 1e-9) if largest else 0
    return PatientPairs(tuple(counts), disjoint, min(even, disjoint), least)


def certain_bound(patients: ArrayLike | PatientPairs, level: float = LEVEL) -> float:
    """Return the lower end of the interval of an AUC of 1: exact, whatever the scores are distributed like.

    Pair k positive with k negative slides, each patient used once: the pairs are independent, and all are in order with
    probability AUC^k. Perfect order is rarer still, so an AUC below ((1 - level) / 2)^(1 / k) is refuted: Clopper and
    Pearson's bound of k successes in k trials. With several slides a patient it takes the number of a patient's slides
    to tell nothing of its scores.

    Args:
        patients: with positive slides, with negative slides, and all, as in `AucEstimates`; (F, 3) for a mean over
            folds, whose patients are paired within the fold.
        level: coverage, two-sided.
    """
    return exact_bound(1.0, patients, level)


def exact_bound(auc: float, patients: ArrayLike | PatientPairs, level: float = LEVEL) -> float:
    """Return the lower end of an interval of an AUC that no distribution of scores breaks: `certain_bound` at 1.

    The AUC of a sample is a mean over all ways to form k disjoint pairs of a positive and a negative of the share of
    pairs in order. So for every convex f its mean is at most that of f(X / k), X binomial with the true AUC A
    (Hoeffding, JASA 58, 1963, section 5), and with hinges for f

        P(AUC >= 1 - d) <= min_j E max(j - Y, 0) / (j - k d),  Y ~ binomial(k, 1 - A),  k d < j <= k.

    AUCs for which that is below (1 - level) / 2 are refuted. At d = 0 it is A^k. It falls as d grows, without a step.

    Args:
        auc: of the sample.
        patients: see `certain_bound`.
        level: coverage, two-sided.

    Raises:
        MilbenchError: an AUC outside [0, 1], or counts that are none.
    """
    pairs, tail = PatientPairs.of_counts(patients), (1 - share_of(level)) / 2
    disorder = 1 - auc_of(auc)
    if np.isnan(disorder):
        return float("nan")
    if not pairs.disjoint:
        return 0.0
    # Of all pairs with the hinge at the lightest one: exact at 1, where the others are those of pairs of equal weight.
    left = 1 - disorder / pairs.least
    low = (tail * left) ** (1 / pairs.disjoint) if left > 0 else 0.0
    if pairs.even and 0 < disorder < 1:
        from scipy.optimize import brentq  # takes long to import, and few tables come here

        wrong = brentq(lambda share: _tail_bound(share, disorder, pairs.even) - tail, disorder, 1.0, xtol=1e-10)
        low = max(low, 1 - float(wrong))
    return float(min(low, auc))


def not_below(low: float, auc: float, pairs: PatientPairs, level: float = LEVEL) -> float:
    """Return a lower end, raised to `exact_bound` where it lies below."""
    tail = (1 - level) / 2
    above = 0 < low < auc < 1 and pairs.even and low >= tail ** (1 / pairs.disjoint) * (auc > 1 - pairs.least)
    if above and _tail_bound(1 - low, 1 - auc, pairs.even) >= tail:  # one evaluation tells that it is not
        return low
    return max(low, exact_bound(auc, pairs, level))


def _tail_bound(wrong: float, disorder: float, pairs: int) -> float:
    """Return a bound of the probability of so little disorder where a pair is out of order with probability wrong."""
    first = int(pairs * disorder + 1e-12) + 1
    last = min(pairs, first + 10 + int(3 * np.sqrt(first)))
    hinges = np.cumsum(bdtr(np.arange(last, dtype=np.float64), pairs, wrong))[first - 1 :]
    return float((hinges / (np.arange(first, last + 1) - pairs * disorder)).min())


def certain_ends(patients: ArrayLike | PatientPairs, auc: float, level: float = LEVEL) -> tuple[float, float]:
    """Return the interval of an AUC of exactly 1 or 0, see `certain_bound`."""
    bound = certain_bound(patients, level)
    return (bound, 1.0) if auc == 1 else (0.0, 1 - bound)
