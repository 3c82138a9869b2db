"""The spread over random seeds, pooled over the methods of a cohort, and means, differences and ranks that hold it.

Model. The AUC of method m with seed s is A_m + b_ms + e_ms: b a deviation of the seed, independent between methods and
seeds, with variance v_m on the log-odds scale of the AUC, e what these patients add to it. The variance of a method's
seeds at hand estimates the sum of both; that of e is known from the resamples of patients, which hold every seed, and
is subtracted. Few seeds estimate v_m poorly: it is drawn towards the mean of the other methods (a moderated variance,
Smyth, Stat. Appl. Genet. Mol. Biol. 3, 2004), with more degrees of freedom the more similar the methods' spreads are,
at most `MOST_SHARED`, and where cohort and methods together have fewer than `LEAST` degrees of freedom, the rest comes
from `FIELD_SPREAD`. The error of a mean then has Satterthwaite's degrees of freedom of its parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import digamma, expit, logit, ndtr, ndtri, polygamma, stdtrit

from ..errors import MilbenchError
from .base import LEVEL, Array
from .checks import auc_of, generator, instance, number, numbers, positive_count, several, share_of
from .macro import ClassGuard, MacroInterval
from .paired import Difference, paired_difference

#: Standard deviation over seeds, in log-odds of the AUC, that is supposed of methods of which too few seeds are known:
#: .06 at an AUC of .8, .04 at .9.
FIELD_SPREAD = 0.4
#: Degrees of freedom of every variance over seeds, at least.
LEAST = 4.0
#: A variance below it is rounding: an AUC of a million pairs has steps of 1e-6.
ROUNDING = 1e-20
#: Degrees of freedom that the other methods of a cohort lend to one, at least where they have them, and at most.
LEAST_SHARED, MOST_SHARED = 2.0, 5.0


@dataclass(frozen=True)
class Seeds:
    """What is known of a method's seeds before methods are pooled.

    Attributes:
        auc: mean over folds and seeds.
        count: seeds with a run.
        variance: of a seed's mean AUC over folds, between the seeds at hand; NaN with one seed.
        within: the part of it that patients make: how much a seed's mean strays from that of all seeds under resamples.
        share: sum of the squares of each seed's part of the mean: 1 / count where every seed has every fold.
        compared: seeds that ``variance`` is of: those that share a fold with another; None: all.
    """

    auc: float
    count: int
    variance: float
    within: float
    share: float
    compared: int | None = None

    @property
    def degrees(self) -> int:
        """Return the degrees of freedom of ``variance``: 0 where it is not known."""
        seeds = self.count if self.compared is None else self.compared
        return max(seeds - 1, 0) if np.isfinite(self.variance) else 0

    @property
    def steady(self) -> bool:
        """Return whether every seed has the same scores: neither AUCs nor their replicates differ but by rounding."""
        return self.degrees > 0 and self.variance < ROUNDING and self.within < ROUNDING


@dataclass(frozen=True)
class SeedError:
    """The part of a mean's error that seeds make.

    Attributes:
        spread: standard deviation of one seed's AUC, without what patients add to it; 0 where nothing is known of
            seeds at all, because the cohort was run with one.
        added: variance that it adds to a mean over the seeds at hand.
        estimated: variance of that mean as estimated, patients' part included.
        degrees: of freedom of ``estimated``; infinite where there is none.
        seeds: number of seeds at hand.
    """

    spread: float = 0.0
    added: float = 0.0
    estimated: float = 0.0
    degrees: float = np.inf
    seeds: int = 1


@dataclass(frozen=True)
class Mean:
    """A mean over folds and seeds, with what is known of its error.

    Attributes:
        estimate: the mean.
        low, high: its interval over patients and seeds.
        patients: (low, high) over patients alone, the seeds as they are.
        replicates: (R,) over patients alone; row r of every method of a cohort holds the same patients.
        error: of seeds.
        guard: (below, above): squared reach of ``patients`` beyond that of its replicates, where a rare class or nearly
            perfect order requires it.
        guards: the same class by class, where that is known; they sum to it.
        drawn: (low, high) of the replicates alone; None: ``patients``.
        order: equal for two methods that order all bags of all runs equally, and for no others; empty: not known.
    """

    estimate: float
    low: float
    high: float
    patients: tuple[float, float]
    replicates: Array
    error: SeedError
    guard: tuple[float, float] = (0.0, 0.0)
    guards: tuple[ClassGuard, ...] = ()
    drawn: tuple[float, float] | None = None
    order: str = ""

    def stretch(self, level: float = LEVEL) -> float:
        """Return by how much seeds lengthen an interval over patients: 1 where nothing is known of them."""
        patients = _variance(self.replicates)
        if not self.error.estimated or not patients:
            return 1.0
        factor = _student(patients, [self.error], level) / float(ndtri((1 + level) / 2))
        return factor * float(np.sqrt(1 + self.error.added / patients))

    def half_width(self, seeds: int, level: float = LEVEL) -> float:
        """Return the expected half-width of the interval with so many seeds, from the variances at hand.

        With as many as there are it is half the length of the interval itself. Each seed more is a degree of freedom
        more. With one seed it is the error that the mean then has, although an interval of one seed alone cannot hold
        it. NaN where nothing is known of seeds or the interval is not defined.
        """
        positive_count(seeds, "seeds")
        share_of(level)
        known = self.error
        spread = _variance(self.replicates)
        if not known.estimated or not np.isfinite(spread) or not 0 < self.estimate < 1 or np.isnan(self.patients[0]):
            return float("nan")
        within = min(max(known.estimated - known.added, 0.0), spread)  # of the mean over the seeds at hand
        fewer = known.seeds / seeds
        patients = spread - within + within * fewer
        error = replace(
            known,
            added=known.added * fewer,
            estimated=known.estimated * fewer,
            degrees=max(LEAST, known.degrees + seeds - known.seeds),
            seeds=seeds,
        )
        scale = float(np.sqrt(patients / spread)) if spread else 1.0
        low, high = _over_seeds(
            self.estimate, self.patients, self.drawn or self.patients, patients, error, level, scale
        )
        return (high - low) / 2


def seeds_of(cells: ArrayLike, replicates: ArrayLike | None = None) -> Seeds:
    """Return what a method's runs tell of its seeds.

    Args:
        cells: (F, S) the AUC of each fold and seed; NaN where it is missing or undefined.
        replicates: (F, S, R) the same under resamples of patients; None: nothing is known of what patients add.

    Raises:
        MilbenchError: not of two dimensions, or replicates of other cells.
    """
    a = numbers(cells, "the AUCs of folds and seeds")
    drawn = None if replicates is None else numbers(replicates, "replicates")
    if a.ndim != 2 or (drawn is not None and (drawn.ndim != 3 or drawn.shape[:2] != a.shape)):
        raise MilbenchError(
            f"seeds need AUCs (folds, seeds) and replicates (folds, seeds, R), not {a.shape}.", code="stats-bad-input"
        )
    known = np.isfinite(a)
    if not known.any():
        return Seeds(float("nan"), 0, float("nan"), 0.0, float("nan"))
    of_seed = known.sum(axis=0) / known.sum()
    present = of_seed > 0
    share = float((of_seed[present] ** 2).sum())
    mean = float(a[known].mean())
    deviations = _seed_deviations(a[:, present])
    used = np.isfinite(deviations)
    compared = int(used.sum())
    if compared < 2:
        return Seeds(mean, int(present.sum()), float("nan"), 0.0, share, compared)
    variance = float(deviations[used].var(ddof=1))
    within = 0.0
    if drawn is not None and drawn.shape[2] > 1:
        away = _drawn_deviations(drawn[:, present])[used]
        away -= away.mean(axis=0)
        within = float(np.nanvar(away, axis=1, ddof=1).mean() * used.sum() / (used.sum() - 1))
    variance, within = (0.0 if part < ROUNDING else part for part in (variance, within))
    return Seeds(mean, int(present.sum()), variance, within if np.isfinite(within) else 0.0, share, compared)


def _seed_deviations(a: Array) -> Array:
    """Return (S,) each seed's deviation from the mean of its folds, folds of one seed left out; NaN where none is."""
    several = np.isfinite(a).sum(axis=1) > 1
    rows = a[several]
    if not len(rows):
        return np.full(a.shape[1], np.nan)
    away = rows - np.nanmean(rows, axis=1, keepdims=True)
    known = np.isfinite(away)
    count = known.sum(axis=0)
    total = np.where(known, away, 0.0).sum(axis=0)
    return np.divide(total, count, out=np.full(len(count), np.nan), where=count > 0)


def _drawn_deviations(drawn: Array) -> Array:
    """Return (S, R) what `_seed_deviations` gives of each replicate."""
    known = np.isfinite(drawn)
    several = known.sum(axis=1, keepdims=True) > 1
    known &= several
    filled = np.where(known, drawn, 0.0)
    count = known.sum(axis=1, keepdims=True)
    mean = np.divide(filled.sum(axis=1, keepdims=True), count, out=np.zeros(count.shape), where=count > 0)
    away = np.where(known, drawn - mean, 0.0)
    number = known.sum(axis=0)
    return np.divide(away.sum(axis=0), number, out=np.full(number.shape, np.nan), where=number > 0)


def seed_errors(methods: Sequence[Seeds]) -> list[SeedError]:
    """Return the error that seeds make, of each method of a cohort, their variances pooled; see the module.

    A method with one seed among methods with several has the variance of the others. Where no method has two seeds
    nothing is known of them, and every error is 0. A method that scores the same with every seed on every fold has no
    error of seeds.

    Args:
        methods: of every method, from `seeds_of`.
    """
    for m in several(methods, "methods"):
        instance(m, Seeds, "a method's seeds", "seeds_of")
    scale = np.array([_slope(m.auc) for m in methods])
    free = np.array([m.degrees for m in methods], dtype=np.float64)
    fixed = np.array([m.steady for m in methods], dtype=bool)
    usable = (free > 0) & (scale > 0) & ~fixed
    if not (free > 0).any():
        return [SeedError(seeds=m.count) for m in methods]
    ratio = np.array([m.variance / s**2 if u else 0.0 for m, s, u in zip(methods, scale, usable, strict=True)])
    within = np.array([m.within / s**2 if u else 0.0 for m, s, u in zip(methods, scale, usable, strict=True)])
    lent = _lent(ratio[usable], free[usable])
    typical = float(np.average(within[usable], weights=free[usable])) if usable.any() else 0.0
    out = []
    for i, m in enumerate(methods):
        if fixed[i] or not np.isfinite(m.auc) or not scale[i]:
            out.append(SeedError(seeds=m.count))
            continue
        others = usable.copy()
        others[i] = False
        own = free[i] if usable[i] else 0.0
        pool = float(free[others].sum())
        field = max(0.0, LEAST - pool - own)
        prior = float((free[others] * ratio[others]).sum()) + field * FIELD_SPREAD**2
        weight = min(lent, pool) + field
        degrees = weight + own
        mean = prior / (pool + field) if pool + field else 0.0
        variance = (weight * mean + own * ratio[i]) / degrees
        inside = within[i] if usable[i] else typical
        net = max(variance - inside, 0.0)
        out.append(
            SeedError(
                spread=float(np.sqrt(net)) * scale[i],
                added=net * scale[i] ** 2 * m.share,
                estimated=variance * scale[i] ** 2 * m.share,
                degrees=degrees,
                seeds=m.count,
            )
        )
    return out


def _lent(ratio: Array, free: Array) -> float:
    """Return the degrees of freedom that methods lend each other: Smyth's estimate, within its bounds.

    Two spreads are too few for the estimate and lend the least; one lends what it has to methods without their own.
    """
    known = ratio > 0
    z, d = np.log(ratio[known]), free[known] / 2
    if len(z) < 3:
        return LEAST_SHARED if len(z) == 2 else MOST_SHARED
    e = z - digamma(d) + np.log(d)
    excess = float(e.var(ddof=1) - polygamma(1, d).mean())
    if excess <= float(polygamma(1, MOST_SHARED / 2)):
        return MOST_SHARED
    if excess >= float(polygamma(1, LEAST_SHARED / 2)):
        return LEAST_SHARED
    from scipy.optimize import brentq  # takes long to import, and few tables come here

    return float(2 * brentq(lambda x: float(polygamma(1, x)) - excess, LEAST_SHARED / 2, MOST_SHARED / 2))


def _slope(auc: float) -> float:
    return auc * (1 - auc) if 0 < auc < 1 else 0.0


def mean_of(
    estimate: float,
    interval: MacroInterval,
    replicates: ArrayLike,
    error: SeedError,
    level: float = LEVEL,
    order: str = "",
) -> Mean:
    """Return a mean with its interval over patients and seeds, from the one over patients.

    What the replicates of patients give moves on the log-odds scale: h = f sqrt(h_patients^2 + h_seeds^2) with f the
    ratio of Student's quantile, at Satterthwaite's degrees of freedom, to the normal one. What a rare class or nearly
    perfect order adds to them is exact or of a known model, and no seed tells more or less of it: it is added as it is,
    as limits of independent parts are. With one seed the interval is that over patients.

    Args:
        estimate: the mean.
        interval: over patients, see `milbench.stats.mean_interval`.
        replicates: (R,) over patients alone.
        error: see `seed_errors`.
        level: coverage.
        order: see `Mean.order`.

    Raises:
        MilbenchError: a mean outside [0, 1] or outside its interval, or replicates that are no list of numbers.
    """
    share_of(level)
    estimate = auc_of(estimate, "a mean AUC")
    instance(interval, MacroInterval, "the interval over patients", "mean_interval")
    instance(error, SeedError, "the error of seeds", "seed_errors")
    drawn = numbers(replicates, "replicates", ndim=1)
    low, high = number(interval.low, "the interval"), number(interval.high, "the interval")
    if np.isfinite(estimate) and not np.isnan([low, high]).any() and not low - 1e-9 <= estimate <= high + 1e-9:
        raise MilbenchError(
            f"the mean {estimate:g} lies outside its interval, {low:g} to {high:g}.", code="stats-bad-input"
        )
    own = interval.of_replicates
    ends = _over_seeds(estimate, (low, high), own, _variance(drawn), error, level)
    guard = (0.0, 0.0)
    if interval.guarded and np.isfinite(low):
        guard = _beyond(estimate, low, own[0]), _beyond(estimate, high, own[1])
    return Mean(estimate, *ends, (low, high), drawn, error, guard, interval.guards, own, order)


def _over_seeds(
    estimate: float,
    ends: tuple[float, float],
    drawn: tuple[float, float],
    patients: float,
    error: SeedError,
    level: float,
    scale: float = 1.0,
) -> tuple[float, float]:
    """Return the ends of an interval over patients and seeds.

    Args:
        estimate: the mean.
        ends: over patients.
        drawn: of the replicates of patients alone.
        patients: the variance over patients.
        error: of seeds.
        level: coverage.
        scale: of the reach of the replicates, on the log-odds scale.
    """
    if not 0 < estimate < 1 or not error.estimated or not np.isfinite(ends).all():
        return ends
    z = float(ndtri((1 + level) / 2))
    factor = _student(patients, [error], level) / z
    seeds = z * float(np.sqrt(error.added)) / (estimate * (1 - estimate))
    centre, out = float(logit(estimate)), []
    for side, end, own in zip((-1, 1), ends, drawn, strict=True):
        away = scale * abs(centre - float(logit(np.clip(own, 1e-300, 1 - 1e-16))))
        moved = float(expit(centre + side * factor * float(np.hypot(away, seeds))))
        more = _beyond(estimate, end, own)
        out.append(estimate + side * float(np.hypot(estimate - moved, np.sqrt(more))) if more else moved)
    return max(0.0, out[0]), min(1.0, out[1])


def _beyond(estimate: float, end: float, drawn: float) -> float:
    """Return the square of what an end reaches beyond that of the replicates alone."""
    more = (estimate - end) ** 2 - (estimate - drawn) ** 2
    return max(more, 0.0) if np.isfinite(more) else 0.0


def mean_difference(a: Mean, b: Mean, level: float = LEVEL) -> Difference:
    """Return the paired difference a - b of two methods of a cohort, with interval and p-value.

    Over patients it is paired, by the same resamples; seeds of two methods are independent. With one seed it is
    `paired_difference`; with more the percentile interval is stretched about the estimate by the ratio of the standard
    errors and of Student's quantile to the normal one. What a rare class or perfect order hides from the replicates of
    the two methods is added as it is, a class's part as far as the two methods disagree on it.

    Methods that order all bags equally have a difference of exactly 0: those of one `Mean.order` and, where that is not
    known, those of equal replicates (but for two perfect orders, whose replicates cannot differ).

    Raises:
        MilbenchError: no means, or replicates under other resamples.
    """
    share_of(level)
    for one in (a, b):
        instance(one, Mean, "a method", "mean_of")
    plain = paired_difference(a.estimate, a.replicates, b.estimate, b.replicates, level)
    if np.isnan(plain.estimate) or np.isnan(plain.low):
        return plain
    if a is b or _same_order(a, b):
        return Difference(0.0, 0.0, 0.0, 1.0)
    errors = [e for e in (a.error, b.error) if e.estimated]
    below, above = _common_guard(a, b)
    if not errors and not below and not above:
        return plain
    z = float(ndtri((1 + level) / 2))
    patients = _variance(a.replicates - b.replicates)
    added = sum(e.added for e in errors)
    factor = _student(patients, errors, level) / z
    gap = plain.estimate
    ends = []
    for end, more in ((plain.low, below), (plain.high, above)):
        reach = abs(gap - end) * float(np.sqrt(1 + added / patients)) if patients > 1e-18 else z * float(np.sqrt(added))
        ends.append(float(np.hypot(factor * reach, np.sqrt(more))))
    low, high = max(-1.0, gap - ends[0]), min(1.0, gap + ends[1])
    toward = ends[0] if gap > 0 else ends[1]
    if gap == 0:
        return Difference(gap, low, high, 1.0)
    p = float(2 * ndtr(-z * abs(gap) / toward)) if toward else plain.p
    return Difference(gap, low, high, max(p, 2 / (len(a.replicates) + 1)))


def _same_order(a: Mean, b: Mean) -> bool:
    if a.order and b.order:
        return a.order == b.order
    return 0 < a.estimate < 1 and abs(a.estimate - b.estimate) < 1e-12 and _equal_replicates(a.replicates, b.replicates)


def _equal_replicates(first: Array, second: Array) -> bool:
    """Return whether two arrays of replicates are the same but for rounding, NaN in the same places."""
    return first.shape == second.shape and np.allclose(first, second, rtol=0, atol=1e-12, equal_nan=True)


def _common_guard(a: Mean, b: Mean) -> tuple[float, float]:
    """Return the squared reach (below, above) of a - b beyond its replicates.

    A class whose AUCs have the same replicates under both methods has none. Otherwise its part is that of independent
    methods times ((n - 1) v + 1) / n, v the variance of the class's difference over the sum of both variances and n the
    patients of its rarer side: one patient gives no estimate of how similar two methods are.
    """
    pairs = [(first, second) for first in a.guards for second in b.guards if first.label == second.label]
    if len(pairs) != len(a.guards) or len(pairs) != len(b.guards) or not pairs:
        return a.guard[0] + b.guard[1], a.guard[1] + b.guard[0]
    below = above = 0.0
    for first, second in pairs:
        if first.replicates.shape != second.replicates.shape:
            apart = 1.0
        elif 0 < first.auc < 1 and first.auc == second.auc and _equal_replicates(first.replicates, second.replicates):
            apart = 0.0
        else:
            both = _variance(first.replicates) + _variance(second.replicates)
            own = min(1.0, _variance(first.replicates - second.replicates) / both) if both > ROUNDING else 1.0
            n = max(first.patients, 1)
            apart = ((n - 1) * own + 1) / n
        below += apart * (first.below + second.above)
        above += apart * (first.above + second.below)
    return below, above


def paired_seeds_difference(a: Mean, b: Mean, seeds: Seeds, level: float = LEVEL) -> Difference:
    """Return the paired difference a - b where both hold the same trainings, so that seeds are paired as well.

    The variance over seeds is that of the differences themselves, on `Seeds.count` - 1 degrees of freedom and those of
    `LEAST` that are missing, which are lent by the spread over patients.

    Args:
        a, b: the means.
        seeds: of the differences, from `seeds_of`.
        level: coverage.
    """
    share_of(level)
    for one in (a, b):
        instance(one, Mean, "a method", "mean_of")
    instance(seeds, Seeds, "the seeds of differences", "seeds_of")
    plain = paired_difference(a.estimate, a.replicates, b.estimate, b.replicates, level)
    if not seeds.degrees or np.isnan(plain.low):
        return plain
    free = float(seeds.degrees)
    field = max(0.0, LEAST - free)
    patients = _variance(a.replicates - b.replicates)
    variance = (free * seeds.variance + field * patients / seeds.share) / (free + field) * seeds.share
    error = SeedError(float(np.sqrt(variance / seeds.share)), variance, variance, free + field, seeds.count)
    whole, none = replace(a, error=error), replace(b, error=SeedError())
    return mean_difference(whole, none, level)


@dataclass(frozen=True)
class Ranks:
    """Ranks of methods by score, with their simultaneous intervals.

    Attributes:
        rank: (M,) competition ranks by score, 1 is best; equal scores share one; NaN for methods without a score.
        low, high: (M,) ends of the interval of each rank; all of them hold together with the requested probability.
        best: (M,) whether a method is not separated from the best: ``low`` is 1.
    """

    rank: Array
    low: Array
    high: Array
    best: np.ndarray


def rank_intervals(
    means: Sequence[Mean | None], level: float = LEVEL, seed: int = 0, off: ArrayLike | None = None
) -> Ranks:
    """Return every method's rank by score and its simultaneous confidence interval.

    All pairs of methods are compared at once: a pair differs where its difference exceeds c standard errors, c the
    quantile of the largest studentised deviation of any pair over the paired resamples (a max-t bootstrap), seeds drawn
    from their own distribution. A rank lies between 1 + the number of methods that are better and M - the number that
    are worse (Mogstad, Romano, Shaikh and Wilhelm, Rev. Econ. Stud. 91, 2024).

    Args:
        means: of M methods of a cohort; None: without a rank.
        level: coverage of all intervals together.
        seed: of the draws of seeds.
        off: (M, M) by how much the difference of two methods may be off for a reason that no resample shows, see
            `Difference.off_by`; None: nowhere.

    Raises:
        MilbenchError: means under other resamples, or differences that are off by other than numbers from 0 on.
    """
    share_of(level)
    for one in several(means, "means"):
        if one is not None:
            instance(one, Mean, "a method", "mean_of")
    n = len(means)
    more = np.zeros((n, n)) if off is None else numbers(off, "what differences are off by", finite=True)
    if more.shape != (n, n) or (more < 0).any():
        raise MilbenchError(
            f"differences of {n} methods are off by ({n}, {n}) numbers from 0 on, not {more.shape}.",
            code="stats-bad-input",
        )
    rank, low, high = (np.full(n, np.nan) for _ in range(3))
    kept = [(i, m) for i, m in enumerate(means) if m is not None and np.isfinite(m.estimate)]
    # The draws of seeds go by score, so that another order of methods gives the same ranks.
    kept.sort(key=lambda one: (-one[1].estimate, one[1].low, one[1].high))
    points = np.array([m.estimate for _, m in kept])
    better = np.zeros((len(kept), len(kept)), dtype=bool)
    if len(kept) > 1:
        at = [i for i, _ in kept]
        better = _better([m for _, m in kept], level, generator(seed), more[np.ix_(at, at)])
    for place, (i, _) in enumerate(kept):
        rank[i] = 1 + int((points > points[place] + 1e-12).sum())
        low[i] = 1 + int(better[:, place].sum())
        high[i] = len(kept) - int(better[place].sum())
    return Ranks(rank, low, high, low == 1)


def _better(means: list[Mean], level: float, rng: np.random.Generator, off: Array) -> np.ndarray:
    """Return (M, M) whether method i is better than method j, simultaneously over all pairs."""
    m = len(means)
    z = float(ndtri((1 + level) / 2))
    if len({one.replicates.shape for one in means}) > 1:
        raise MilbenchError(
            "ranks need replicates of every method under the same resamples of patients.", code="stats-bad-input"
        )
    replicates = np.stack([one.replicates for one in means])
    size = replicates.shape[1]
    best: np.ndarray = np.zeros((m, m), dtype=bool)
    if size < 2:
        return best
    guards = np.array([max(one.guard) / z**2 for one in means])
    spread = np.sqrt(np.array([one.error.added for one in means]) + guards)
    noise = rng.normal(size=(m, size)) * spread[:, None]
    largest = np.zeros(size)
    pairs = [(i, j) for i in range(m) for j in range(i)]
    errors: dict[tuple[int, int], float] = {}
    for i, j in pairs:
        d = replicates[i] - replicates[j]
        d = d - np.nanmean(d) if np.isfinite(d).any() else np.zeros(size)
        d = np.where(np.isfinite(d), d, 0.0) + noise[i] - noise[j]
        errors[i, j] = float(d.std(ddof=1))
        if errors[i, j] > 1e-12:
            largest = np.maximum(largest, np.abs(d) / errors[i, j])
    critical = max(float(np.quantile(largest, level)), z)
    points = [one.estimate for one in means]
    for i, j in pairs:
        first, second = (i, j) if points[i] > points[j] else (j, i)
        gap = points[first] - points[second]
        patients = _variance(replicates[i] - replicates[j])
        pair = [e for e in (means[i].error, means[j].error) if e.estimated]
        factor = _student(patients, pair, level) / z
        total = factor**2 * (patients + sum(e.added for e in pair))
        total += (means[first].guard[0] + means[second].guard[1]) / z**2
        reach = critical * float(np.sqrt(total))
        best[first, second] = gap > 1e-12 and np.isfinite(reach) and gap - off[first, second] > reach > 0
    return best


def _student(patients: float, errors: Sequence[SeedError], level: float) -> float:
    """Return Student's quantile at Satterthwaite's degrees of freedom of a variance over patients and seeds."""
    spread = sum(e.estimated**2 / e.degrees for e in errors if np.isfinite(e.degrees))
    total = patients + sum(e.added for e in errors)
    if not spread or not total:
        return float(ndtri((1 + level) / 2))
    return float(stdtrit(max(total**2 / spread, 1.0), (1 + level) / 2))


def _variance(replicates: Array) -> float:
    values = replicates[np.isfinite(replicates)]
    return float(values.var(ddof=1)) if len(values) > 1 else 0.0
