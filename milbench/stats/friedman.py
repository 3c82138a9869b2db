"""Friedman's test of methods over tasks, with Nemenyi's critical difference (Demsar, JMLR 7, 2006)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike

from ..errors import MilbenchError
from .base import Array, equalized
from .base import scipy_stats as stats
from .checks import numbers, positive_count, share_of


@dataclass(frozen=True)
class Friedman:
    """Mean ranks of k methods over N tasks, and whether they differ.

    Attributes:
        ranks: (k,) mean rank, 1 is best.
        statistic: Friedman's chi-square, corrected for ties, with its p-value; ``p_iman_davenport`` is of the F
            statistic made of it, which is less conservative.
        critical_difference: of two mean ranks, Nemenyi's: over all pairs together wrong with probability `alpha`.
        groups: largest sets of methods, by index from best to worst, no two of which differ by more than the critical
            difference; a method alone is in none.
        tasks: N.
        alpha: of the critical difference.
    """

    ranks: Array
    statistic: float
    p: float
    p_iman_davenport: float
    critical_difference: float
    groups: tuple[tuple[int, ...], ...]
    tasks: int
    alpha: float

    @property
    def pairs(self) -> Array:
        """Return (k, k) p-values of Nemenyi's test."""
        k = len(self.ranks)
        distance = np.abs(self.ranks[:, None] - self.ranks) / np.sqrt(k * (k + 1) / (6 * self.tasks))
        return np.minimum(stats.studentized_range.sf(distance * np.sqrt(2), k, np.inf), 1.0)


def friedman(scores: ArrayLike, alpha: float = 0.05) -> Friedman:
    """Return Friedman's test and Nemenyi's critical difference of scores over tasks.

    A method's mean rank depends on which others are in the table, so that two methods may be separated in one table
    and not in another (Benavoli et al., JMLR 17, 2016): for a pair alone take `sign_flip_test` over tasks, with `holm`
    where there are several pairs.

    Args:
        scores: (N, k), one row a task, higher is better; ties, to within 1e-12, share their
            mean rank.
        alpha: level of the critical difference.

    Raises:
        MilbenchError: fewer than 2 tasks or 3 methods, or scores that are not finite.
    """
    s = numbers(scores, "scores")
    if s.ndim != 2 or s.shape[0] < 2 or s.shape[1] < 3 or not np.isfinite(s).all():
        raise MilbenchError(
            f"Friedman's test needs finite scores of 2 or more tasks and 3 or more methods, not {s.shape}.",
            code="stats-too-few",
        )
    share_of(alpha, "alpha")
    tasks, k = s.shape
    s = equalized(s)
    ranks = stats.rankdata(-s, axis=1).mean(axis=0)
    if (s == s[:, :1]).all():  # all tied everywhere: scipy divides 0 by 0
        chi, p = 0.0, 1.0
    else:
        chi, p = (float(x) for x in stats.friedmanchisquare(*s.T))
    left = tasks * (k - 1) - chi
    f = (tasks - 1) * chi / left if left > 1e-9 else np.inf
    limit = critical_difference(k, tasks, alpha)
    return Friedman(
        ranks=ranks,
        statistic=chi,
        p=p,
        p_iman_davenport=float(stats.f.sf(f, k - 1, (k - 1) * (tasks - 1))),
        critical_difference=limit,
        groups=_groups(ranks, limit),
        tasks=tasks,
        alpha=alpha,
    )


def critical_difference(methods: int, tasks: int, alpha: float = 0.05) -> float:
    """Return Nemenyi's critical difference of mean ranks: q sqrt(k (k + 1) / (6 N)), sqrt(2) q a studentized range.

    Raises:
        MilbenchError: fewer than 2 methods, no task, or a level outside (0, 1).
    """
    methods, tasks = positive_count(methods, "methods"), positive_count(tasks, "tasks")
    if methods < 2:
        raise MilbenchError(
            f"a critical difference is of 2 or more methods over tasks, not of {methods} over {tasks}.",
            code="stats-too-few",
        )
    share_of(alpha, "alpha")
    return _nemenyi(methods, alpha) * float(np.sqrt(methods * (methods + 1) / (6 * tasks)))


@lru_cache(maxsize=256)
def _nemenyi(methods: int, alpha: float) -> float:
    return float(stats.studentized_range.ppf(1 - alpha, methods, np.inf) / np.sqrt(2))


def _groups(ranks: Array, limit: float) -> tuple[tuple[int, ...], ...]:
    order = [int(i) for i in np.argsort(ranks, kind="stable")]
    groups: list[tuple[int, ...]] = []
    last = 0
    for start in range(len(order)):
        end = start
        while end + 1 < len(order) and ranks[order[end + 1]] - ranks[order[start]] <= limit:
            end += 1
        # A run that ends where an earlier one did lies within it.
        if end > start and end > last:
            groups.append(tuple(order[start : end + 1]))
            last = end
    return tuple(groups)
