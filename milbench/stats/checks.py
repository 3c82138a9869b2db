"""Checks of arguments that the public functions of `milbench.stats` share.

A value that is not a number has no place in an order, and a label outside the classes has no meaning: both are refused
before anything is computed from them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from ..errors import MilbenchError
from .base import Array


def finite_scores(scores: ArrayLike) -> Array:
    """Return scores as float64.

    Raises:
        MilbenchError: not numbers, or not finite.
    """
    try:
        s = np.asarray(scores, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise MilbenchError(f"scores must be numbers ({error}).") from error
    if not np.isfinite(s).all():
        raise MilbenchError("scores are not finite; such a run has diverged and has no AUC.")
    return s


def numeric_labels(labels: ArrayLike) -> Array:
    """Return labels (n,) as float64.

    Raises:
        MilbenchError: not one-dimensional, empty, not numbers, or not finite.
    """
    try:
        y = np.asarray(labels, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise MilbenchError(f"labels must be numbers, class indices from 0 on ({error}).") from error
    if y.ndim != 1 or not len(y) or not np.isfinite(y).all():
        raise MilbenchError(f"labels must be finite class indices (n,), n > 0, not an array {y.shape}.")
    return y


def binary_labels(labels: ArrayLike) -> NDArray[np.bool_]:
    """Return which labels (n,) are positive: those above 0.

    Raises:
        MilbenchError: see `numeric_labels`; more than two different labels, or two of which none or both are positive
            (1 and 2, say), so that it is not known which class is the positive one.
    """
    y = numeric_labels(labels)
    values = np.unique(y)
    positive = y > 0
    if len(values) > 2 or (len(values) == 2 and positive.all() == positive.any()):
        shown = ", ".join(f"{value:g}" for value in values[:5])
        raise MilbenchError(f"labels of two classes must be 0 and 1, not {shown}; give probabilities (n, C) for more.")
    return positive


def class_labels(labels: ArrayLike, classes: int) -> NDArray[np.int64]:
    """Return labels (n,) as integers from 0 to ``classes`` - 1.

    Raises:
        MilbenchError: see `numeric_labels`; a label that is no class index.
    """
    y = numeric_labels(labels)
    if (y != np.floor(y)).any() or y.min() < 0 or y.max() >= classes:
        raise MilbenchError(
            f"labels must be integers from 0 to {classes - 1}, the columns of the scores, not from {y.min():g} to "
            f"{y.max():g}."
        )
    return y.astype(np.int64)


def owners(patients: ArrayLike | None, n: int) -> NDArray[np.int64]:
    """Return (n,) patient numbers from 0 on; a slide without patient (None, NaN, empty text) is a patient of its own.

    Args:
        patients: (n,) of any type; None: each slide is its own patient.
        n: slides.

    Raises:
        MilbenchError: patients of another length.
    """
    if patients is None:
        return np.arange(n, dtype=np.int64)
    values: Any = patients if isinstance(patients, np.ndarray) else np.array(_listed(patients), dtype=object)
    if values.shape != (n,):
        raise MilbenchError(f"{n} slides have {values.size} patients; each slide needs one.")
    missing = np.asarray(pd.isna(values)) | np.array([isinstance(v, str) and not v for v in values], dtype=bool)
    codes = pd.factorize(values)[0].astype(np.int64)
    known = codes.max(initial=-1) + 1
    codes[missing] = known + np.arange(int(missing.sum()))
    return np.unique(codes, return_inverse=True)[1].astype(np.int64)


def _listed(patients: Any) -> list[Any]:
    return list(patients)


def non_negative_weights(weights: ArrayLike, n: int) -> Array:
    """Return weights (R, n) as float64.

    Raises:
        MilbenchError: another shape, negative or not finite.
    """
    w = np.asarray(weights, dtype=np.float64)
    # NaN is the least and the largest of what holds it, and fails both comparisons.
    if w.ndim != 2 or w.shape[1] != n or (w.size and not (w.min() >= 0 and w.max() < np.inf)):
        raise MilbenchError(f"weights must be (R, {n}), finite and not negative, not an array {w.shape}.")
    return w


def share_of(level: float, name: str = "level") -> float:
    """Return a probability between 0 and 1, both excluded.

    Raises:
        MilbenchError: it is not.
    """
    if not 0 < level < 1:
        raise MilbenchError(f"{name} is {level}; it must lie between 0 and 1.")
    return float(level)


def positive_count(number: int, name: str = "resamples") -> int:
    """Return a number that is at least 1.

    Raises:
        MilbenchError: it is not.
    """
    if not number >= 1:
        raise MilbenchError(f"{name} is {number}; it must be at least 1.")
    return int(number)
