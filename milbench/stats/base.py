"""What the modules of statistics share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .lazy_module import OnFirstUse

Array = NDArray[np.float64]


scipy_stats = OnFirstUse("scipy.stats")


#: Coverage of every interval, unless said otherwise.
LEVEL = 0.95


#: Scores that differ by no more are equal: means over folds and seeds of equal AUCs differ in the last bits.
TIE = 1e-12


@dataclass(frozen=True)
class Interval:
    """An estimate with its interval and the method that made it, by name."""

    estimate: float
    low: float
    high: float
    method: str


def equalized(scores: Array) -> Array:
    """Return scores (..., k) in which those of the last axis within `TIE` of the next lower one are equal to it."""
    order = np.argsort(scores, axis=-1, kind="stable")
    ascending = np.take_along_axis(scores, order, axis=-1)
    starts = np.diff(ascending, axis=-1, prepend=-np.inf) > TIE
    first = np.maximum.accumulate(np.where(starts, np.arange(scores.shape[-1]), 0), axis=-1)
    levels = np.empty_like(ascending)
    np.put_along_axis(levels, order, np.take_along_axis(ascending, first, axis=-1), axis=-1)
    return levels
