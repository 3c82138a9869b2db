"""Checks of arguments that the public functions of `milbench.stats` share.

A value that is not a number has no place in an order, and a label outside the classes has no meaning: both are refused
before anything is computed from them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from ..errors import MilbenchError, did_you_mean
from .base import Array

T = TypeVar("T")


def numbers(values: Any, name: str, ndim: int | None = None, length: int | None = None, finite: bool = False) -> Array:
    """Return an argument as float64: what every public function of `milbench.stats` reads its arrays with.

    Args:
        values: as given.
        name: of the argument, in the message.
        ndim: axes that it must have; None: any.
        length: of its first axis; None: any.
        finite: whether NaN and infinity are refused.

    Raises:
        MilbenchError: no numbers, rows of different lengths, or one of these requirements is not met.
    """
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise MilbenchError(
            f"{name} must be numbers in rows of one length ({reason}).", code="stats-bad-input"
        ) from error
    if ndim is not None and array.ndim != ndim:
        raise MilbenchError(f"{name} must have {ndim} axes, not {array.ndim} ({array.shape}).", code="stats-bad-input")
    if length is not None and (not array.ndim or len(array) != length):
        raise MilbenchError(f"{name} must be {length}, not an array {array.shape}.", code="stats-bad-input")
    if finite and not np.isfinite(array).all():
        raise MilbenchError(f"{name} must be finite.", code="scores-not-finite")
    return array


def number(value: Any, name: str) -> float:
    """Return one number.

    Raises:
        MilbenchError: it is none.
    """
    return float(numbers(value, name, ndim=0))


def whole_numbers(values: Any, name: str) -> NDArray[np.int64]:
    """Return whole numbers from 0 on.

    Raises:
        MilbenchError: others.
    """
    array = numbers(values, name, finite=True)
    if (array < 0).any() or (array != np.floor(array)).any() or (array > 2**53).any():
        raise MilbenchError(f"{name} must be whole numbers from 0 on, not {values}.", code="stats-out-of-range")
    return array.astype(np.int64)


def auc_of(value: Any, name: str = "an AUC") -> float:
    """Return a number from 0 to 1, or NaN. Rounding beyond the ends is taken off.

    Raises:
        MilbenchError: another.
    """
    area = number(value, name)
    if area < -1e-9 or area > 1 + 1e-9:
        raise MilbenchError(f"{name} lies between 0 and 1, not at {area:g}.", code="stats-out-of-range")
    return min(max(area, 0.0), 1.0) if np.isfinite(area) else area


def instance(value: Any, kind: type[T], name: str, makers: str) -> T:
    """Return a value of `milbench.stats` that another of its functions made.

    Raises:
        MilbenchError: another kind of value.
    """
    if not isinstance(value, kind):
        raise MilbenchError(
            f"{name} must be a {kind.__name__}, which {makers} returns, not a {type(value).__name__}.",
            code="stats-bad-input",
        )
    return value


def generator(seed: Any) -> np.random.Generator:
    """Return the random generator of a seed, or a generator as it is.

    Raises:
        MilbenchError: neither.
    """
    try:
        return np.random.default_rng(seed)
    except (TypeError, ValueError) as error:
        raise MilbenchError(f"a seed is a whole number from 0 on, not {seed!r}.", code="stats-out-of-range") from error


def one_of(value: Any, known: tuple[str, ...], name: str) -> str:
    """Return a name that is known.

    Raises:
        MilbenchError: another.
    """
    if not isinstance(value, str) or value not in known:
        raise MilbenchError(
            f"no {name} {value!r}; there are {', '.join(known)}.{did_you_mean(str(value), known)}",
            code="option-bad-value",
        )
    return value


def several(values: Any, name: str) -> Any:
    """Return a sequence as it is.

    Raises:
        MilbenchError: a text, or no sequence.
    """
    if isinstance(values, (str, bytes)) or not isinstance(values, Sequence):
        raise MilbenchError(f"{name} must be a list, not a {type(values).__name__}.", code="stats-bad-input")
    return values


def finite_scores(scores: ArrayLike) -> Array:
    """Return scores as float64.

    Raises:
        MilbenchError: not numbers, or not finite.
    """
    s = numbers(scores, "scores")
    if not np.isfinite(s).all():
        raise MilbenchError("scores are not finite; such a run has diverged and has no AUC.", code="scores-not-finite")
    return s


def pair_of_scores(a: Any, b: Any) -> Array:
    """Return scores (2, n) of two methods on the same slides.

    Raises:
        MilbenchError: not numbers, not finite, or of different slides.
    """
    first, second = finite_scores(a), finite_scores(b)
    if first.shape != second.shape or first.ndim != 1:
        raise MilbenchError(
            f"a difference is of two methods' scores (n,) of one length, not {first.shape}, {second.shape}.",
            code="stats-bad-input",
        )
    return np.stack([first, second])


def numeric_labels(labels: ArrayLike) -> Array:
    """Return labels (n,) as float64.

    Raises:
        MilbenchError: not one-dimensional, empty, not numbers, or not finite.
    """
    y = numbers(labels, "labels")
    if y.ndim != 1 or not len(y) or not np.isfinite(y).all():
        raise MilbenchError(
            f"labels must be finite class indices (n,), n > 0, not an array {y.shape}.", code="stats-bad-labels"
        )
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
        raise MilbenchError(
            f"labels of two classes must be 0 and 1, not {shown}; give probabilities (n, C) for more.",
            code="stats-bad-labels",
        )
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
            f"{y.max():g}.",
            code="stats-bad-labels",
        )
    return y.astype(np.int64)


def class_indices(labels: ArrayLike) -> NDArray[np.int64]:
    """Return labels (n,) as class indices, of however many classes.

    Raises:
        MilbenchError: see `numeric_labels`; a label that is no whole number from 0 on.
    """
    y = numeric_labels(labels)
    if y.min() < 0 or (y != np.floor(y)).any():
        raise MilbenchError("labels must be class indices: whole numbers from 0.", code="stats-bad-labels")
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
    listed: Any = patients if isinstance(patients, np.ndarray) else _listed(patients)
    try:
        values = np.array(listed, dtype=object) if isinstance(listed, list) else listed
    except ValueError as error:
        raise MilbenchError(
            f"patients must be a list of one for each slide ({error}).", code="stats-bad-input"
        ) from error
    if values.shape != (n,):
        raise MilbenchError(f"{n} slides have {values.size} patients; each slide needs one.", code="stats-bad-input")
    missing = np.asarray(pd.isna(values)) | np.array([isinstance(v, str) and not v for v in values], dtype=bool)
    codes = pd.factorize(values)[0].astype(np.int64)
    known = codes.max(initial=-1) + 1
    codes[missing] = known + np.arange(int(missing.sum()))
    return np.unique(codes, return_inverse=True)[1].astype(np.int64)


def _listed(patients: Any) -> list[Any]:
    if isinstance(patients, (str, bytes)) or not hasattr(patients, "__iter__"):
        raise MilbenchError(f"patients must be a list of one for each slide, not {patients!r}.", code="stats-bad-input")
    return list(patients)


def non_negative_weights(weights: ArrayLike, n: int) -> Array:
    """Return weights (R, n) as float64.

    Raises:
        MilbenchError: another shape, negative or not finite.
    """
    w = numbers(weights, "weights")
    # NaN is the least and the largest of what holds it, and fails both comparisons.
    if w.ndim != 2 or w.shape[1] != n or (w.size and not (w.min() >= 0 and w.max() < np.inf)):
        raise MilbenchError(
            f"weights must be (R, {n}), finite and not negative, not an array {w.shape}.", code="stats-bad-input"
        )
    return w


def share_of(level: Any, name: str = "level") -> float:
    """Return a probability between 0 and 1, both excluded.

    Raises:
        MilbenchError: it is not.
    """
    share = number(level, name)
    if not 0 < share < 1:
        raise MilbenchError(f"{name} is {level}; it must lie between 0 and 1.", code="stats-out-of-range")
    return share


def positive_count(value: Any, name: str = "resamples") -> int:
    """Return a whole number that is at least 1.

    Raises:
        MilbenchError: it is not.
    """
    count = numbers(value, name, ndim=0)
    if not 1 <= count <= 2**53 or count != np.floor(count):
        raise MilbenchError(f"{name} is {value}; it must be a whole number, at least 1.", code="stats-out-of-range")
    return int(count)
