"""Aggregates over runs and tasks (Agarwal et al., NeurIPS 2021, and their library rliable), with intervals.

Scores are (S, T): S runs (seeds) of T tasks, higher is better, on a scale the tasks share. Statistics take any number
of leading axes, (..., S, T), and return (...): replicates are computed in one go.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from ..errors import MilbenchError
from .base import LEVEL, Array, Interval, scipy_stats
from .checks import generator, numbers, positive_count, share_of
from .resampling import interval, student_factor

Drawn = Literal["runs", "tasks"]


def interquartile_mean(scores: ArrayLike) -> Array:
    """Return the mean of the middle half of all runs of all tasks together: scipy's `trim_mean` at .25, as in rliable.

    Args:
        scores: (..., S, T).
    """
    s = _finite_runs(scores)
    return np.asarray(scipy_stats.trim_mean(s.reshape(*s.shape[:-2], -1), 0.25, axis=-1))


def probability_of_improvement(a: ArrayLike, b: ArrayLike) -> Array:
    """Return the probability that a run of a is better than one of b on a task drawn at random, ties one half.

    Args:
        a: (..., S_a, T); b: (..., S_b, T).
    """
    x, y = _finite_runs(a)[..., :, None, :], _finite_runs(b)[..., None, :, :]
    return np.asarray(((x > y) + 0.5 * (x == y)).mean(axis=(-3, -2, -1)))


@dataclass(frozen=True)
class Profile:
    """A performance profile: ``share`` (K,) of runs above each of ``thresholds`` (K,), with a pointwise interval."""

    thresholds: Array
    share: Array
    low: Array
    high: Array


def performance_profile(
    scores: ArrayLike,
    thresholds: ArrayLike,
    level: float = LEVEL,
    resamples: int = 2000,
    seed: int = 0,
    draw: Drawn = "runs",
) -> Profile:
    """Return the share of runs that score above each threshold, averaged over tasks: rliable's score distribution.

    The area under it, for scores from 0 to 1, is the mean; where profiles cross, no single number orders the methods.

    Args:
        scores: (S, T).
        thresholds: (K,), ascending.
        level: of the interval, at each threshold alone.
        resamples, seed, draw: see `run_replicates`.
    """
    tau = numbers(thresholds, "thresholds")
    share_of(level)
    if tau.ndim != 1 or not len(tau) or not np.isfinite(tau).all():
        raise MilbenchError(
            f"thresholds must be finite numbers (K,), not an array {tau.shape}.", code="stats-bad-input"
        )

    def above(s: Array) -> Array:
        return np.stack([(s > one).mean(axis=(-2, -1)) for one in tau], axis=-1)

    share, replicates = (
        above(_checked(scores)),
        run_replicates(above, scores, resamples=resamples, seed=seed, draw=draw),
    )
    if draw == "tasks":
        replicates = share + student_factor(np.shape(scores)[1], level) * (replicates - share)
    low, high = np.clip(np.quantile(replicates, [(1 - level) / 2, (1 + level) / 2], axis=0), 0, 1)
    return Profile(tau, share, low, high)


def run_interval(
    statistic: Callable[..., Array],
    *scores: ArrayLike,
    level: float = LEVEL,
    resamples: int = 2000,
    seed: int = 0,
    draw: Drawn = "runs",
) -> Interval:
    """Return a statistic of runs and tasks with the percentile interval of its `run_replicates`.

    Over tasks, which are few, it is as much longer as Student's t asks (`student_factor`). It may leave the range of
    the statistic. Simulated, intervals of the interquartile mean over runs cover 94 to 95 % at 3, 5 and 10 runs of 10
    tasks, where rliable's cover 87, 91 and 93 %, and over tasks 95 to 96 % at 10, 20 and 50 tasks.

    Args:
        statistic, scores: see `run_replicates`.
        level: coverage.
        resamples, seed, draw: see `run_replicates`.
    """
    share_of(level)
    replicates = run_replicates(statistic, *scores, resamples=resamples, seed=seed, draw=draw)
    estimate = float(statistic(*(_checked(s) for s in scores)))
    if draw == "tasks":
        replicates = estimate + student_factor(np.shape(scores[0])[1], level) * (replicates - estimate)
    return Interval(estimate, *interval(replicates, level), f"stratified bootstrap over {draw}")


def run_replicates(
    statistic: Callable[..., Array],
    *scores: ArrayLike,
    resamples: int = 2000,
    seed: int = 0,
    draw: Drawn = "runs",
) -> Array:
    """Return stratified bootstrap replicates of a statistic of one or more methods.

    Args:
        statistic: of (..., S, T) arrays, one a method.
        scores: (S, T) a method, the same T tasks; S may differ between methods.
        resamples: R.
        seed: the same gives the same replicates.
        draw: ``runs``: S runs with replacement within every task, methods and tasks apart: what another set of seeds
            on these tasks would give. ``tasks``: T tasks with replacement, the same for all methods, with all their
            runs: what another draw of tasks would give; the runs' own spread is in it already.

    Draws of n have only (n - 1) / n of the variance, a third less with three seeds, which rliable leaves so. The
    deviation from the estimate is therefore stretched by sqrt(n / (n - 1)), n the fewest runs of a method, or the tasks
    drawn. One run, or one task, has no spread.

    Returns:
        (R, ...) of what the statistic returns.

    Raises:
        MilbenchError: scores are not (S, T), not finite, or of different tasks.
    """
    resamples = positive_count(resamples)
    if not callable(statistic):
        raise MilbenchError(
            f"a statistic is a function of scores (..., runs, tasks), not {statistic!r}.", code="stats-bad-input"
        )
    if draw not in get_args(Drawn) or not scores:
        raise MilbenchError(
            f"runs or tasks of one or more methods are drawn, not {draw!r} of {len(scores)}.", code="stats-out-of-range"
        )
    arrays = [_checked(s) for s in scores]
    tasks = arrays[0].shape[1]
    if any(s.shape[1] != tasks for s in arrays):
        raise MilbenchError(
            f"methods have runs of {sorted({s.shape[1] for s in arrays})} tasks; give the same tasks.",
            code="stats-bad-input",
        )
    rng = generator(seed)
    if draw == "tasks":
        picks = rng.integers(tasks, size=(resamples, tasks))
        drawn = [np.moveaxis(s[:, picks], 0, 1) for s in arrays]
        count = tasks
    else:
        drawn = [s[rng.integers(len(s), size=(resamples, *s.shape)), np.arange(tasks)] for s in arrays]
        count = min(len(s) for s in arrays)
    estimate, replicates = np.asarray(statistic(*arrays)), np.asarray(statistic(*drawn))
    stretch = np.sqrt(count / (count - 1)) if count > 1 else 1.0
    return np.asarray(estimate + stretch * (replicates - estimate))


def _checked(scores: ArrayLike) -> Array:
    s = numbers(scores, "scores")
    if s.ndim != 2 or not s.size or not np.isfinite(s).all():
        raise MilbenchError(
            f"scores must be finite and (runs, tasks), not an array {s.shape}; leave out tasks that lack runs.",
            code="stats-bad-input",
        )
    return s


def _finite_runs(scores: ArrayLike) -> Array:
    s = numbers(scores, "scores")
    if s.ndim < 2 or not s.size or not np.isfinite(s).all():
        raise MilbenchError(
            f"scores must be finite and (..., runs, tasks), not an array {s.shape}.", code="stats-bad-input"
        )
    return s
