"""Paired differences from replicates and from folds, and many tests at once."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtr, ndtri

from ..errors import MilbenchError
from .base import LEVEL, Array
from .base import scipy_stats as stats
from .checks import number, numbers, share_of
from .resampling import interval


@dataclass(frozen=True)
class Difference:
    """A paired difference a - b: of the means, with its interval and two-sided p-value."""

    estimate: float
    low: float
    high: float
    p: float

    @property
    def tied(self) -> bool:
        """Return whether the interval contains 0, or is not known."""
        return not (self.low > 0 or self.high < 0)

    def off_by(self, most: float, level: float = LEVEL) -> Difference:
        """Return the difference where either mean may be off for a reason that no resample shows.

        The interval is longer by that much at both ends, no longer than from -1 to 1, and the p-value is that of the
        nearest difference to 0 that it leaves; it agrees with the interval.

        Args:
            most: by how much the difference may be off; 0 changes nothing.
            level: coverage of the interval.

        Raises:
            MilbenchError: a number below 0.
        """
        share_of(level)
        if not number(most, "what a difference is off by") >= 0:
            raise MilbenchError(f"a difference is off by a number from 0 on, not by {most}.", code="stats-out-of-range")
        if most == 0 or np.isnan(self.low):
            return self
        low, high = max(-1.0, self.low - most), min(1.0, self.high + most)
        left = abs(self.estimate) - most
        reach = self.estimate - self.low if self.estimate > 0 else self.high - self.estimate
        p = 1.0 if left <= 0 else self.p
        if left > 0 and reach > 0:
            p = max(p, float(2 * ndtr(-ndtri((1 + level) / 2) * left / reach)))
        return Difference(self.estimate, low, high, p)


def paired_difference(a: float, a_replicates: Array, b: float, b_replicates: Array, level: float = LEVEL) -> Difference:
    """Return the paired difference in AUC (or another share) of two methods scored on the same bags.

    Args:
        a, b: the methods' means.
        a_replicates, b_replicates: (R,) their replicates under the SAME patient and seed weights; that makes them
            paired.
        level: coverage of the interval.

    Raises:
        MilbenchError: replicates that are not of these means: another difference, the same under every resample.

    Returns:
        the difference with its percentile interval, no longer than from -1 to 1; p is twice the smaller share of
        replicates on one side of 0, (k + 1) / (R + 1), at most 1. It agrees with the interval: p < 1 - level where 0 is
        outside. It holds the difference. Differences between many pairs are not corrected for
        their number: see `holm`.
    """
    a, b = number(a, "a mean"), number(b, "a mean")
    of_a, of_b = numbers(a_replicates, "replicates"), numbers(b_replicates, "replicates")
    share_of(level)
    if of_a.shape != of_b.shape or of_a.ndim != 1:
        raise MilbenchError(
            f"paired replicates are two arrays (R,) of one length, not {of_a.shape} and {of_b.shape}.",
            code="stats-bad-input",
        )
    gap, d = 0.0 if abs(a - b) < 1e-12 else a - b, of_a - of_b
    d = d[np.isfinite(d)]
    if not len(d) or not np.isfinite(gap):
        return Difference(gap, float("nan"), float("nan"), float("nan"))
    if len(d) > 1 and np.ptp(d) < 1e-12 and abs(gap - d[0]) > 1e-9:
        raise MilbenchError(
            f"the difference of the means is {gap:g}, but {d[0]:g} under every resample; give their own.",
            code="stats-bad-input",
        )
    low, high = np.clip(interval(d, level), -1, 1).tolist()  # few seeds have longer tails than an AUC
    # Sums of equal numbers in another order differ in the last bits; that is no difference.
    d = np.where(np.abs(d) < 1e-12, 0.0, d)
    low, high = (0.0 if abs(x) < 1e-12 else x for x in (low, high))
    side = min(int((d <= 0).sum()), int((d >= 0).sum()))
    p = min(1.0, 2 * (side + 1) / (len(d) + 1))
    return Difference(gap, min(low, gap), max(high, gap), p)


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
    the bootstrap here it covers the draw of training patients. Under the null it rejects 5 % where differences are
    correlated by 1 / k, as it supposes (the plain test 14 %), and 1 to 3 % in simulated cross-validations of a stable
    classifier (the plain test 5 to 7 %, and 42 % over five repetitions). Over five folds it can reach p < .05, which
    Wilcoxon's test cannot: its smallest p is 1/16.

    Where all differences are the same number, and not 0, their variance is not known: there is no interval (NaN), and
    the p-value is that of `sign_flip_test`, 2^(1 - J).

    Args:
        differences: (J,) differences of a metric, one per fold; with repeated cross-validation J counts all
            repetitions.
        test_train_ratio: test bags per training bag, 1 / (k - 1) for k folds.
        level: coverage of the interval.

    Raises:
        MilbenchError: fewer than two differences, or a ratio that is not positive.
    """
    d, test_train_ratio = numbers(differences, "differences"), number(test_train_ratio, "test_train_ratio")
    share_of(level)
    if d.ndim != 1 or len(d) < 2 or not np.isfinite(d).all() or not 0 < test_train_ratio < math.inf:
        raise MilbenchError(
            f"the corrected t-test needs 2 or more finite differences and a positive ratio, not {d.shape} and "
            f"{test_train_ratio}.",
            code="stats-too-few",
        )
    j, mean = len(d), float(d.mean())
    if np.ptp(d) <= 1e-12 * np.abs(d).max():  # the mean of equal numbers may differ from them in the last bits
        if not d[0]:
            return TTest(0.0, 0.0, 0.0, 0.0, j - 1, 1.0)
        return TTest(mean, math.nan, math.nan, math.copysign(math.inf, mean), j - 1, 2.0 ** (1 - j))
    error = math.sqrt((1 / j + test_train_ratio) * float(d.var(ddof=1)))
    t = mean / error
    half = float(stats.t.ppf((1 + level) / 2, j - 1)) * error
    return TTest(mean, mean - half, mean + half, t, j - 1, float(2 * stats.t.sf(abs(t), j - 1)))


def holm(p_values: ArrayLike) -> Array:
    """Return p-values adjusted for their number (Holm, Scand. J. Statist. 6, 1979): valid however the tests depend.

    The smallest of m is multiplied by m, the next by m - 1, ...; none falls below one before it, none exceeds 1. NaN
    stays NaN and does not count.

    Args:
        p_values: (m,)

    Raises:
        MilbenchError: a value outside [0, 1].
    """
    p = numbers(p_values, "p-values")
    known = ~np.isnan(p)
    if p.ndim != 1 or (p[known] < 0).any() or (p[known] > 1).any():
        raise MilbenchError("p-values must be a list of numbers from 0 to 1.", code="stats-out-of-range")
    order = np.argsort(p[known], kind="stable")
    steps = np.maximum.accumulate(p[known][order] * np.arange(known.sum(), 0, -1))
    adjusted = np.full(len(p), np.nan)
    adjusted[np.flatnonzero(known)[order]] = np.minimum(steps, 1.0)
    return adjusted
