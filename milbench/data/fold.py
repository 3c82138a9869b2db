"""Folds: which slides train, validate and test."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

PARTS = ("train", "val", "test")


@dataclass(frozen=True)
class Fold:
    """A division of slides into training, validation and test; ``val`` may be empty.

    Attributes:
        name: its name in results: ``r0-f3`` of a k-fold, the file's stem of a published split.
        train, val, test: slide ids.
    """

    name: str
    train: tuple[str, ...]
    val: tuple[str, ...]
    test: tuple[str, ...]

    @property
    def parts(self) -> dict[str, tuple[str, ...]]:
        """The three parts by name."""
        return {"train": self.train, "val": self.val, "test": self.test}

    def without(self, slides: Collection[str]) -> Fold:
        """Return the fold without some slides."""
        return Fold(self.name, *(tuple(s for s in ids if s not in slides) for ids in self.parts.values()))
