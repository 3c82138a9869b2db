"""The mean of what is defined."""

from __future__ import annotations

import numpy as np

from .base import Array
from .checks import numbers


def nanmean(values: Array) -> Array:
    """Return the mean over the first axis without NaN, NaN where nothing is left, and no warning."""
    values = numbers(values, "values")
    defined = np.isfinite(values)
    number = defined.sum(axis=0)
    total = np.where(defined, values, 0.0).sum(axis=0)
    return np.divide(total, number, out=np.full(np.shape(total), np.nan), where=number > 0)
