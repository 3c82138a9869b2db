"""SourceTable: labels, patients and splits that a source of features brings along, and that its cache keeps."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..atomic_io.manifest import read_file
from ..atomic_io.publishing import child
from ..errors import MilbenchError
from .fold import PARTS, Fold


@dataclass(frozen=True)
class SourceTable:
    """What a source says of its slides apart from their features; what it does not say is None or empty.

    Attributes:
        labels: slide -> label value as text, where the source has one.
        patients: slide -> patient.
        folds: published splits.
    """

    labels: dict[str, str] | None = None
    patients: dict[str, str] | None = None
    folds: tuple[Fold, ...] = ()

    def without(self, slides: Collection[str]) -> SourceTable:
        """Return the table without some slides."""
        gone = set(slides)
        labels, patients = (
            None if given is None else {slide: value for slide, value in given.items() if slide not in gone}
            for given in (self.labels, self.patients)
        )
        return SourceTable(labels, patients, tuple(fold.without(gone) for fold in self.folds))

    def to_json(self) -> str:
        """Return it as text."""
        folds = [{"name": fold.name, **fold.parts} for fold in self.folds]
        return json.dumps({"labels": self.labels, "patients": self.patients, "folds": folds}, ensure_ascii=True) + "\n"


def read_source_table(path: Path) -> SourceTable:
    """Read what `SourceTable.to_json` wrote.

    Raises:
        MilbenchError: the file is missing or damaged, or names a fold as no file can be named.
    """
    return parse_source_table(read_file(path, _AGAIN), path)


def parse_source_table(content: bytes, path: Path) -> SourceTable:
    """Return the table in the bytes of a file; ``path`` names it in messages.

    Raises:
        MilbenchError: as `read_source_table`.
    """
    try:
        value: Any = json.loads(content)
        labels, patients = _texts(value["labels"]), _texts(value["patients"])
        folds = tuple(Fold(fold["name"], *(_names(fold[part]) for part in PARTS)) for fold in value["folds"])
    except MilbenchError:
        raise
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise MilbenchError(f"{path} is damaged ({type(error).__name__}); {_AGAIN}.", code="cache-damaged") from None
    for fold in folds:
        child(Path(), fold.name, ".csv", f"{path}: fold")  # it becomes the name of a file
    if len({fold.name for fold in folds}) < len(folds):
        raise MilbenchError(f"{path} holds two folds of one name; {_AGAIN}.", code="cache-damaged")
    return SourceTable(labels, patients, folds)


_AGAIN = "build the cache again from its source"


def _texts(value: Any) -> dict[str, str] | None:
    """Return slide -> text, or None, as it was written.

    Raises:
        TypeError: it is neither.
    """
    if value is None:
        return None
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise TypeError
    return value


def _names(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise TypeError
    return tuple(value)
