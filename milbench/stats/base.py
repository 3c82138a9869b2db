"""What the modules of statistics share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..on_first_use import OnFirstUse

Array = NDArray[np.float64]

scipy_stats = OnFirstUse("scipy.stats")

#: Coverage of every interval, unless said otherwise.
LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """An estimate with its interval and the method that made it, by name."""

    estimate: float
    low: float
    high: float
    method: str


def nanmean(values: Array) -> Array:
    """Return the mean over the first axis without NaN, NaN where nothing is left, and no warning."""
    defined = np.isfinite(values)
    number = defined.sum(axis=0)
    total = np.where(defined, values, 0.0).sum(axis=0)
    return np.divide(total, number, out=np.full(np.shape(total), np.nan), where=number > 0)
