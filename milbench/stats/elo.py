"""Bradley-Terry strengths and Elo ratings of methods from their wins over tasks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ..errors import MilbenchError
from .base import LEVEL, TIE, Array
from .checks import generator, number, numbers, positive_count, share_of
from .resampling import student_factor

#: Elo points of a factor of ten in the odds of winning.
ELO_SCALE = 400.0


@dataclass(frozen=True)
class Ratings:
    """Elo ratings (M,) with their intervals (M,) over tasks."""

    rating: Array
    low: Array
    high: Array


def pairwise_wins(scores: ArrayLike, margin: float = 0.0) -> Array:
    """Return (T, M, M): 1 where method i beats method j on a task, 1/2 where they tie, 0 elsewhere and for i = j.

    Args:
        scores: (T, M), higher is better. A NaN takes part in no comparison: impute, and say so, if a missing result
            shall count as lost.
        margin: differences up to it, and to `TIE` beyond it for rounding, are ties.
    """
    s, margin = numbers(scores, "scores"), number(margin, "margin")
    if s.ndim != 2 or np.isinf(s).any() or not margin >= 0:
        raise MilbenchError(
            f"wins are counted from scores (tasks, methods), finite or NaN, and a margin from 0 on, not "
            f"from an array {s.shape} and {margin}.",
            code="stats-bad-input",
        )
    gap = s[:, :, None] - s[:, None, :]
    wins = np.where(np.isnan(gap), 0.0, (gap > margin + TIE) + 0.5 * (np.abs(gap) <= margin + TIE))
    wins[:, np.arange(s.shape[1]), np.arange(s.shape[1])] = 0.0
    return wins


def bradley_terry(wins: ArrayLike, prior: float = 1.0) -> Array:
    """Return log strengths: i beats j with probability 1 / (1 + exp(b_j - b_i)).

    Bradley and Terry's model (Biometrika 39, 1952): maximum of the likelihood by Newton's method, with `prior` drawn
    comparisons of every method against one of strength 0. The prior keeps a method that won or lost everything finite,
    and draws strengths together a little; with a prior near 0 they are those of maximum likelihood.

    Args:
        wins: (..., M, M), how often i beat j, ties as halves.
        prior: above 0.

    Returns:
        (..., M), mean 0.

    Raises:
        MilbenchError: wins are not square, negative or not finite, or the prior is not positive.
    """
    w, prior = numbers(wins, "wins"), number(prior, "prior")
    if w.ndim < 2 or w.shape[-1] != w.shape[-2] or not np.isfinite(w).all() or (w < 0).any() or not prior > 0:
        raise MilbenchError(
            f"strengths need wins (..., M, M), none negative, and a positive prior, not {w.shape}, {prior}.",
            code="stats-bad-input",
        )
    games = w + np.swapaxes(w, -1, -2)
    won = w.sum(axis=-1) + prior / 2
    strength = np.zeros(won.shape)
    eye = np.eye(w.shape[-1])
    for _ in range(100):
        p = 1 / (1 + np.exp(strength[..., None, :] - strength[..., :, None]))
        p_prior = 1 / (1 + np.exp(-strength))
        slope = won - (games * p).sum(axis=-1) - prior * p_prior
        bend = games * p * (1 - p)
        diagonal = bend.sum(axis=-1) + prior * p_prior * (1 - p_prior)
        step = np.linalg.solve(diagonal[..., None] * eye - bend, slope[..., None])[..., 0]
        # Far from the maximum a full step overshoots, and the curvature there is nearly 0.
        strength = strength + np.clip(step, -2.0, 2.0)
        if np.abs(step).max() < 1e-10:
            break
    return np.asarray(strength - strength.mean(axis=-1, keepdims=True))


def elo_ratings(
    wins: ArrayLike,
    prior: float = 1.0,
    mean: float = 1000.0,
    anchor: tuple[int, float] | None = None,
    level: float = LEVEL,
    resamples: int = 2000,
    seed: int = 0,
) -> Ratings:
    """Return Elo ratings, 400 points a factor of ten in the odds, with intervals over tasks.

    The intervals are percentiles of a bootstrap over tasks, expanded for the few tasks there are (`student_factor`).
    Simulated with five methods, they cover 93, 94 and 95 % at 10, 20 and 50 tasks, and 90 % at 5.

    A rating is relative to the methods it met: it moves when one joins, and does not give the size of a difference in
    score. Show the scores with it.

    Args:
        wins: (T, M, M) of each task, from `pairwise_wins`.
        prior: see `bradley_terry`.
        mean: the mean rating, where there is no anchor.
        anchor: a method's index and its fixed rating instead; it then has no interval.
        level: coverage.
        resamples: of tasks, with replacement.
        seed: of the resamples.
    """
    w, mean = numbers(wins, "wins"), number(mean, "mean")
    share_of(level)
    resamples = positive_count(resamples)
    if w.ndim != 3 or not len(w):
        raise MilbenchError(
            f"ratings need the wins of every task, (T, M, M), not an array {w.shape}.", code="stats-bad-input"
        )
    if anchor is not None and not _is_anchor(anchor, w.shape[-1]):
        raise MilbenchError(
            f"the anchor {anchor} is not the index of one of {w.shape[-1]} methods and its rating.",
            code="stats-out-of-range",
        )
    tasks = len(w)
    drawn = generator(seed).multinomial(tasks, np.full(tasks, 1 / tasks), size=resamples)
    counts = np.concatenate([np.ones((1, tasks)), drawn])
    strengths = bradley_terry(np.einsum("rt,tij->rij", counts, w), prior)
    elo = ELO_SCALE / np.log(10) * strengths + mean
    if anchor is not None:
        elo = elo - elo[:, anchor[0], None] + anchor[1]
    low, high = np.quantile(elo[1:] - elo[0], [(1 - level) / 2, (1 + level) / 2], axis=0)
    expanded = student_factor(tasks, level) * (np.sqrt(tasks / (tasks - 1)) if tasks > 1 else 1.0)
    return Ratings(elo[0], elo[0] + expanded * low, elo[0] + expanded * high)


def _is_anchor(anchor: Any, methods: int) -> bool:
    if not isinstance(anchor, (tuple, list)) or len(anchor) != 2:
        return False
    index, rating = anchor
    known = isinstance(index, (int, np.integer)) and 0 <= index < methods
    return bool(known and np.isfinite(number(rating, "the rating")))
