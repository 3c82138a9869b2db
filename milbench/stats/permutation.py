"""Tests by sign flips: exact where all can be counted, sampled where not."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ..errors import MilbenchError
from .areas import placements
from .base import Array, scipy_stats
from .checks import generator, numbers, owners, pair_of_scores, positive_count

#: Up to so many differences that are not 0 every flip is counted: 2^19 sums, 4 MB.
COUNTED = 20


@dataclass(frozen=True)
class SignFlips:
    """A sign-flip test: the observed statistic, its two-sided p-value, and over how many flips.

    Attributes:
        exact: whether all flips were counted; otherwise p is (k + 1) / (flips + 1) of sampled ones.
    """

    statistic: float
    p: float
    exact: bool
    flips: int


def sign_flip_test(differences: ArrayLike, resamples: int = 10_000, seed: int = 0) -> SignFlips:
    """Return the paired permutation test of differences, one a fold, task or patient: their mean against all flips.

    Under the null each difference is as likely to have the other sign. The test is exact then: it rejects at most as
    often as its level, and where few differences are there, less often: n of them reach no p below 2^(1 - n). Over the
    folds of a cross-validation differences are not independent; `corrected_t_test` is for those.

    Args:
        differences: (n,)
        resamples: flips sampled where more than `COUNTED` differences are not 0.
        seed: of the samples.

    Raises:
        MilbenchError: no differences, or not finite ones.
    """
    d = numbers(differences, "differences")
    if d.ndim != 1 or not len(d) or not np.isfinite(d).all():
        raise MilbenchError(
            f"a paired permutation test needs finite differences (n,), not an array {d.shape}.", code="stats-bad-input"
        )
    resamples, rng = positive_count(resamples), generator(seed)
    total, parts = float(d.sum()), d[d != 0]
    # Sums of equal numbers in another order differ in the last bits; they count as equal.
    threshold = abs(total) - 1e-9 * float(np.abs(parts).sum())
    if len(parts) <= COUNTED:
        sums = np.zeros(1)
        for k, part in enumerate(parts):
            # The opposite of every flip has the opposite sum, so that the first sign may stay.
            sums = sums + part if k == 0 else np.concatenate([sums + part, sums - part])
        return SignFlips(total / len(d), float((np.abs(sums) >= threshold).mean()), True, 2 ** len(parts))
    reached = sum(
        int((np.abs(_flips(rng, rows, len(parts)) @ parts) >= threshold).sum()) for rows in _chunks(resamples)
    )
    return SignFlips(total / len(d), (reached + 1) / (resamples + 1), False, resamples)


def auc_permutation_test(
    labels: ArrayLike,
    a: ArrayLike,
    b: ArrayLike,
    patients: ArrayLike | None = None,
    resamples: int = 10_000,
    seed: int = 0,
) -> SignFlips:
    """Return the permutation test of AUC(a) = AUC(b) that swaps the methods patient by patient (Bandos et al. 2005).

    Scores are replaced by their ranks among the method's own, which makes methods of different scale exchangeable. The
    difference of AUCs after any swaps is a sum of one term a patient, with the sign of its swap (Bandos, Rockette and
    Gur, Stat. Med. 24, 2005, for one slide a patient): a sign-flip test.

    Under the null that the methods are exchangeable it keeps its level at any size: simulated 3.5 to 6.3 % at nominal
    5 %, with several slides a patient too, and 1 to 2 % at 50 slides and AUC .98, where few pairs are out of order.
    Methods of equal AUC whose ranks are distributed otherwise (one misses few slides by far, the other many by a
    little) are not exchangeable: there it rejects 8 % at 39 positives and AUC .98, and `AucEstimates.test` 4 %.

    Args:
        labels: (n,); anything above 0 is positive.
        a, b: (n,) scores of two methods on the same slides.
        patients: (n,) of each slide, swapped as a whole; None: each slide is its own, as is one without patient.
        resamples: flips sampled where more than `COUNTED` patients matter.
        seed: of the samples.

    Returns:
        ``statistic`` is AUC(a) - AUC(b).

    Raises:
        MilbenchError: see `placements`.
    """
    s = pair_of_scores(a, b)
    components = placements(labels, s)
    tested = _swapped(
        components.positive,
        scipy_stats.rankdata(s, axis=1),
        owners(patients, len(components.positive)),
        resamples,
        seed,
    )
    return SignFlips(float(components.auc[0] - components.auc[1]), tested.p, tested.exact, tested.flips)


def swapped_p(positive: np.ndarray, ranks: Array, owner: np.ndarray) -> float:
    """Return the p-value of `auc_permutation_test` from what `milbench.stats.delong` keeps.

    Args:
        positive: (n,) of bool.
        ranks: (2, n) of the two methods.
        owner: (n,) patient numbers from 0 on.
    """
    return _swapped(positive, ranks, owner, 10_000, 0).p


def _swapped(positive: np.ndarray, ranks: Array, owner: np.ndarray, resamples: int, seed: int) -> SignFlips:
    parts = np.bincount(owner, weights=swap_terms(positive, ranks)).astype(np.float64)
    return sign_flip_test(parts, resamples, seed)


def swap_terms(positive: np.ndarray, ranks: Array) -> Array:
    """Return (n,) terms whose sum with signs e_i is the difference of AUCs once slides with e_i = -1 are swapped.

    In pairs of a positive and a negative, so that they are multiples of a quarter and add up without rounding.
    With psi(x, y) = 1[x > y] + 1[x = y] / 2, a pair of a positive i and a negative j adds e_i (psi(a_i, a_j) -
    psi(b_i, b_j)) where both or none are swapped, e_i (psi(a_i, b_j) - psi(b_i, a_j)) where one is. Both cases are
    (e_i + e_j) / 2 of the first plus (e_i - e_j) / 2 of the second difference: linear in the signs. A positive's term
    is half its placement under a, less that under b, among the negatives of both methods together.

    Args:
        positive: (n,) of bool.
        ranks: (2, n) of methods a and b.
    """
    terms: Array = np.empty(ranks.shape[1])
    for of, among in ((positive, ~positive), (~positive, positive)):
        pool = np.sort(ranks[:, among], axis=None)
        low, high = np.searchsorted(pool, ranks[:, of], "left"), np.searchsorted(pool, ranks[:, of], "right")
        below = (low + high) / 2
        terms[of] = (below[0] - below[1]) / 2
    terms[~positive] *= -1
    return terms


def _flips(rng: np.random.Generator, rows: int, columns: int) -> Array:
    return np.where(rng.integers(0, 2, size=(rows, columns), dtype=np.int8), 1.0, -1.0)


def _chunks(total: int, size: int = 1000) -> list[int]:
    return [min(size, total - start) for start in range(0, total, size)]
