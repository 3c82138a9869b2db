"""Packed bags: all instances of a small set in memory, as the classical sets of the field are distributed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...errors import MilbenchError
from ..fold import Fold
from . import Slides, SourceSlide, SourceTable
from ._label_columns import LabelColumns


@dataclass(frozen=True)
class Packed:
    """Bags in memory, checked.

    Attributes:
        features: (N, d) floating point.
        offsets: (B + 1) int64, rising from 0 to N.
        labels: B label values as text.
        names: B distinct names.
        folds: (R, B) int64 test-fold indices, or None.
        coords: (N, 2), or None.
    """

    features: np.ndarray
    offsets: np.ndarray
    labels: tuple[str, ...]
    names: tuple[str, ...]
    folds: np.ndarray | None = None
    coords: np.ndarray | None = None

    def published_folds(self) -> Iterator[Fold]:
        """Give a fold ``r{repetition}-f{fold}`` for every test index of every repetition; bags with -1 are in none."""
        for r, row in enumerate(() if self.folds is None else self.folds):
            for k in sorted({int(value) for value in row if value >= 0}):
                test = tuple(name for name, value in zip(self.names, row, strict=True) if value == k)
                train = tuple(name for name, value in zip(self.names, row, strict=True) if value >= 0 and value != k)
                yield Fold(f"r{r}-f{k}", train, (), test)


class PackedSlides(Slides):
    """The bags of packed arrays that are in memory."""

    def __init__(self, packed: Packed, path: Path) -> None:
        super().__init__(packed.names)
        self.packed, self.path = packed, path

    def load(self, i: int) -> SourceSlide:
        """Return a view of one bag's rows."""
        rows = slice(self.packed.offsets[i], self.packed.offsets[i + 1])
        coords = None if self.packed.coords is None else self.packed.coords[rows]
        meta = {"units": "pixels"} if coords is not None else {}
        return SourceSlide(self.ids[i], self.packed.features[rows], coords, meta, self.path)

    def files(self, i: int) -> tuple[Path, ...]:
        """Return the one file."""
        return (self.path,)

    def rows(self, i: int) -> int:
        """Return a bag's number of instances."""
        return int(self.packed.offsets[i + 1] - self.packed.offsets[i])

    def table(self) -> SourceTable:
        """Return the labels and the published folds, which have no validation part."""
        labels = dict(zip(self.ids, self.packed.labels, strict=True))
        return SourceTable(labels, None, tuple(self.packed.published_folds()))


def pack(path: Path, features: np.ndarray, bags: Sequence[str], labels: np.ndarray, what: str = "instance") -> Packed:
    """Gather instances by their bags, bags and the instances in each in the order of the source.

    A bag's label is the largest of its instances'. Labels -1 and 1 become 0 and 1, as other copies of the same sets
    have them.

    Args:
        path: of the source, for messages.
        features: (N, d) floating point.
        bags: the bag of each instance.
        labels: (N,) whole numbers, the label of each instance or of its bag.
        what: whose labels they are, ``instance`` or ``bag``.

    Raises:
        MilbenchError: a label is no whole number, or a column of the features gives it away.
    """
    labels = coded(labels, path)
    watch = LabelColumns(what)
    watch.see(features, labels)
    watch.refuse(path)
    number = {name: i for i, name in enumerate(dict.fromkeys(bags))}
    bag = np.array([number[name] for name in bags], np.int64)
    order = np.argsort(bag, kind="stable")
    offsets = np.searchsorted(bag[order], np.arange(len(number) + 1))
    largest = np.full(len(number), -np.inf)
    np.maximum.at(largest, bag, labels)
    return Packed(features[order], offsets, tuple(f"{label:.0f}" for label in largest), tuple(number))


def coded(labels: np.ndarray, path: Path) -> np.ndarray:
    """Return labels, and -1 and 1 as 0 and 1.

    Raises:
        MilbenchError: a label is no whole number.
    """
    odd = labels[~(np.isfinite(labels) & (labels == np.round(labels)))]
    if len(odd):
        raise MilbenchError(
            f"{path} has the label {odd[0]:g}; a label must be a whole number.", code="labels-no-classes"
        )
    return (labels + 1) / 2 if -1 in labels and np.isin(labels, (-1, 1)).all() else labels


def narrow(features: np.ndarray) -> np.ndarray:
    """Return numbers read from text as float32 where that keeps every one of them, as float64 otherwise."""
    with np.errstate(over="ignore"):
        small = features.astype(np.float32)
    return small if (small == features).all() else features
