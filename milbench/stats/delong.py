"""The covariance of AUCs on the same slides: DeLong's, and Obuchowski's where a patient has several slides."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtr, stdtrit

from ..errors import MilbenchError
from .areas import placements
from .base import LEVEL, Array, scipy_stats
from .checks import owners, share_of
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
    def errors(self) -> Array:
        """Return (k,) standard errors."""
        return np.sqrt(np.diag(self.covariance))

    def difference(self, first: int = 0, second: int = 1) -> tuple[float, float]:
        """Return the difference of two AUCs and its standard error."""
        c = self.covariance
        variance = c[first, first] + c[second, second] - 2 * c[first, second]
        # Two methods that order alike differ by rounding; that is no error.
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
        if not error:
            if abs(gap) < 1e-12:
                return 1.0
            return swapped_p(self.positive, self.ranks[[first, second]], self.owner)
        return float(2 * stdtr(self.student, -abs(gap) / error))

    def contrast(self, first: int = 0, second: int = 1, level: float = LEVEL) -> tuple[float, float]:
        """Return DeLong's interval of the difference of two AUCs.

        An AUC of 1 or 0 has no variance, and its part of the interval is `certain_bound` instead, combined with the
        error of the other AUC as MOVER combines limits (Zou and Donner, Stat. Med. 27, 2008); where both are 1 or 0 the
        interval is what their bounds leave. Two methods that order all slides alike have a difference of exactly 0.
        """
        gap, error = self.difference(first, second)
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


def delong(labels: ArrayLike, scores: ArrayLike, patients: ArrayLike | None = None) -> AucEstimates:
    """Return AUCs and their covariance (DeLong, DeLong and Clarke-Pearson, Biometrics 44, 1988).

    cov = cov of positives' placements / positives + cov of negatives' placements / negatives, in O(n log n).
    With `patients` placements are added up within a patient before, so that slides of one patient may be as
    alike as they like (Obuchowski, Biometrics 53, 1997); a patient may have slides of both classes. With one slide a
    patient the two are equal.

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
    found = placements(labels, scores)
    y, away = found.positive, found.values - found.auc[:, None]
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
    return AucEstimates(found.auc, covariance, degrees, positive + negative, counts, student, y, ranks, owner)


def count_patients(owner: np.ndarray, positive: np.ndarray) -> tuple[int, int, int]:
    """Return the number of patients with positive slides, with negative slides, and of all."""
    return len(np.unique(owner[positive])), len(np.unique(owner[~positive])), len(np.unique(owner))


def _per_patient(away: Array, owner: np.ndarray, number: int, part: np.ndarray) -> Array:
    """Return (k, patients): sums over the slides of one class, over how many such slides there are."""
    sums = [np.bincount(owner[part], weights=row[part], minlength=number) for row in away]
    return np.stack(sums) / part.sum()


def _unbias(count: int) -> float:
    return count / (count - 1) if count > 1 else float("nan")


def certain_bound(patients: tuple[int, int, int], level: float = LEVEL) -> float:
    """Return the lower end of the interval of an AUC of 1: exact, whatever the scores are distributed like.

    Pair k positive with k negative slides, each patient used once: the pairs are independent, and all are in order with
    probability AUC^k. Perfect order is rarer still, so an AUC below ((1 - level) / 2)^(1 / k) is refuted: Clopper and
    Pearson's bound of k successes in k trials. With several slides a patient it takes the number of a patient's slides
    to tell nothing of its scores.

    Args:
        patients: with positive slides, with negative slides, and all, as in `AucEstimates`.
        level: coverage, two-sided.
    """
    if min(patients) < 0:
        raise MilbenchError(f"numbers of patients cannot be negative: {patients}.")
    pairs = min(patients[0], patients[1], patients[2] // 2)
    if not pairs:
        return 0.0
    return float(((1 - share_of(level)) / 2) ** (1 / pairs))


def certain_ends(patients: tuple[int, int, int], auc: float, level: float = LEVEL) -> tuple[float, float]:
    """Return the interval of an AUC of exactly 1 or 0, see `certain_bound`."""
    bound = certain_bound(patients, level)
    return (bound, 1.0) if auc == 1 else (0.0, 1 - bound)
