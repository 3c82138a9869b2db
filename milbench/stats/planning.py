"""Planning: the difference in AUC that so many slides can show, and the interval that so many seeds would give."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from ..errors import MilbenchError
from .base import LEVEL, scipy_stats
from .checks import number, numbers, pair_of_scores, positive_count, share_of
from .delong import delong
from .seeds import FIELD_SPREAD


def detectable_difference(
    labels: ArrayLike,
    a: ArrayLike,
    b: ArrayLike,
    patients: ArrayLike | None = None,
    power: float = 0.8,
    level: float = LEVEL,
) -> float:
    """Return the smallest true difference that slides like these show, from DeLong's error of this pair of methods.

    (z + z_power) times the error of the paired difference: were two methods so far apart, a test on as many slides
    would separate them with probability `power`. The observed difference does not enter; this is no test of it.

    Args:
        labels, a, b, patients: see `auc_difference`.
        power: probability to see it.
        level: 1 - level is the two-sided level of the test.

    Returns:
        the difference; NaN where these slides show no error of it: both methods order them equally, or no placement
        varies, or a class has slides of one patient only.
    """
    _, error = delong(labels, pair_of_scores(a, b), patients).difference()
    return _sum_of_quantiles(power, level) * error if error > 0 else float("nan")


def planned_difference(
    positives: int,
    negatives: int,
    auc: float,
    correlation: float,
    power: float = 0.8,
    level: float = LEVEL,
    slides_per_patient: float = 1.0,
    within_patient: float = 0.0,
) -> float:
    """Return the smallest d such that an AUC of auc + d is separated from auc on so many slides.

    "With these slides you can see differences of at least d": solves d = (z + z_power) `planned_error`. Simulated
    power of DeLong's test at that d is 77 to 87 % for a power of 80 %, most near an AUC of 1.

    Args:
        positives, negatives: slides.
        auc: of the lesser method.
        correlation: of the two methods' scores among slides of one class. Aggregators of the same features
            correlate by .6 to .9; two seeds of one method give an estimate.
        power: probability to see it.
        level: 1 - level is the two-sided level of the test.
        slides_per_patient, within_patient: mean slides of a patient, all of one class, and the correlation of their
            scores: the variance grows by 1 + (slides - 1) within_patient, roughly.

    Returns:
        d; NaN where not even an AUC of 1 would be separated.

    Raises:
        MilbenchError: an argument out of its range.
    """
    planned_error(positives, negatives, auc, auc, correlation)  # refuses what is out of range
    slides_per_patient, within_patient = number(slides_per_patient, "slides"), number(within_patient, "a correlation")
    if not 1 <= slides_per_patient < np.inf or not 0 <= within_patient <= 1:
        raise MilbenchError(
            f"a patient has 1 slide or more, correlated from 0 to 1, not {slides_per_patient} and {within_patient}.",
            code="stats-out-of-range",
        )
    design = 1 + (slides_per_patient - 1) * within_patient
    factor = _sum_of_quantiles(power, level) * float(np.sqrt(design))

    def short(d: float) -> float:
        return factor * planned_error(positives, negatives, auc, auc + d, correlation) - d

    from scipy.optimize import brentq  # takes long to import, and a table needs no planning

    top = 1 - auc - 1e-9
    if short(top) > 0:
        return float("nan")
    return float(brentq(short, 0.0, top, xtol=1e-7)) if short(0.0) > 0 else 0.0


def planned_power(
    positives: int, negatives: int, auc: float, difference: float, correlation: float, level: float = LEVEL
) -> float:
    """Return the probability that DeLong's paired test tells auc + difference from auc on so many slides."""
    share_of(level)
    auc, difference = number(auc, "an AUC"), number(difference, "a difference")
    if not np.isfinite(difference):
        raise MilbenchError(f"a difference in AUC is a number, not {difference}.", code="stats-out-of-range")
    error = planned_error(positives, negatives, auc, auc + difference, correlation)
    if not error:
        return float(difference != 0)
    z, shift = float(scipy_stats.norm.ppf((1 + level) / 2)), abs(difference) / error
    return float(scipy_stats.norm.cdf(shift - z) + scipy_stats.norm.cdf(-shift - z))


def planned_error(positives: int, negatives: int, auc_a: float, auc_b: float, correlation: float) -> float:
    """Return the standard error of AUC(a) - AUC(b) of two methods with normal scores, in closed form.

    Scores are normal with equal spread in both classes, those of the methods correlated within each class. Two pairs of
    a positive and a negative then order with the probability of a bivariate normal quadrant, whose correlation is
    r for the same pair and r / 2 where the pairs share one slide, r = 1 for a method with itself; so

        cov = (I(r) + (positives + negatives - 2) I(r / 2)) / (positives negatives),

    I(r) the quadrant less the product of the AUCs, an integral over the correlation (Plackett, Biometrika 41, 1954).
    DeLong's estimate is this on average. Hanley and McNeil's formula (Radiology 143, 1982) is of exponential scores,
    whose error is 6 % larger at an AUC of .9 and 30 % at .98.

    Raises:
        MilbenchError: no slides of a class, an AUC outside (0, 1), or a correlation outside [0, 1].
    """
    auc_a, auc_b, correlation = number(auc_a, "an AUC"), number(auc_b, "an AUC"), number(correlation, "a correlation")
    of_both = all(1 <= number(slides, "a number of slides") < np.inf for slides in (positives, negatives))
    if not of_both or not 0 < auc_a < 1 or not 0 < auc_b < 1 or not 0 <= correlation <= 1:
        raise MilbenchError(
            "planning needs slides of both classes, AUCs between 0 and 1 and a correlation from 0 to 1, not "
            f"{positives}, {negatives}, {auc_a}, {auc_b}, {correlation}.",
            code="stats-out-of-range",
        )

    def covariance(first: float, second: float, r: float) -> float:
        shared = _quadrant(first, second, r / 2)
        return (_quadrant(first, second, r) + (positives + negatives - 2) * shared) / (positives * negatives)

    own = covariance(auc_a, auc_a, 1.0) + covariance(auc_b, auc_b, 1.0)
    return float(np.sqrt(max(own - 2 * covariance(auc_a, auc_b, correlation), 0.0)))


def planned_half_width(
    counts: Sequence[int], seeds: int, auc: float = 0.8, spread: float = FIELD_SPREAD, level: float = LEVEL
) -> float:
    """Return the half-width of an interval over patients and seeds to expect of a cohort of which no run is known.

    z sqrt(e^2 + (spread auc (1 - auc))^2 / seeds), e the standard error over patients, see `planned_error`: it stays
    however many seeds there are. Of more than two classes e is the mean over the classes of that of one against the
    rest, which they have together at most.

    Args:
        counts: (C,) tested patients of each class.
        seeds: number of seeds.
        auc: of the method.
        spread: standard deviation over seeds, in log-odds of the AUC.
        level: coverage.

    Returns:
        The half-width in AUC; NaN where fewer than two classes have patients.

    Raises:
        MilbenchError: an argument out of its range.
    """
    seeds = positive_count(seeds, "seeds")
    auc, spread = number(auc, "an AUC"), number(spread, "a spread")
    patients = numbers(counts, "counts", ndim=1, finite=True)
    if not 0 < auc < 1 or not 0 <= spread < np.inf or (patients < 0).any():
        raise MilbenchError(
            f"an AUC lies between 0 and 1, a spread and counts are not negative, not {auc}, {spread} and {counts}.",
            code="stats-out-of-range",
        )
    z = float(scipy_stats.norm.ppf((1 + share_of(level)) / 2))
    present = [int(n) for n in patients if n > 0]
    if len(present) < 2:
        return float("nan")
    total = sum(present)
    # The difference of two methods whose scores have nothing in common has twice the variance of either.
    errors = [planned_error(n, total - n, auc, auc, 0.0) / np.sqrt(2) for n in present]
    error = float(np.mean(errors))
    return z * float(np.sqrt(error**2 + (spread * auc * (1 - auc)) ** 2 / seeds))


def _quadrant(first: float, second: float, r: float) -> float:
    """P(Z1 < h, Z2 < k) - P(Z1 < h) P(Z2 < k) of standard normals with correlation r, h and k the AUCs' quantiles."""
    from scipy.integrate import quad

    h, k = float(scipy_stats.norm.ppf(first)), float(scipy_stats.norm.ppf(second))

    def density(angle: float) -> float:
        # r = sin(angle) takes the root out of the density, which is finite up to r = 1 then.
        cosine = np.cos(angle) ** 2
        top = h * h + k * k - 2 * h * k * np.sin(angle)
        return float(np.exp(-top / (2 * cosine)) / (2 * np.pi)) if cosine > 1e-30 else 0.0

    return float(quad(density, 0.0, float(np.arcsin(r)), epsabs=1e-13)[0])


def _sum_of_quantiles(power: float, level: float) -> float:
    power, level = share_of(power, "power"), share_of(level)
    return float(scipy_stats.norm.ppf((1 + level) / 2) + scipy_stats.norm.ppf(power))
