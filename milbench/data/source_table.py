"""SourceTable: labels, patients and splits that a source of features brings along, and that its cache keeps."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import MilbenchError
from .splits import PARTS, Fold


@dataclass(frozen=True)
class SourceTable:
    """What a source says of its slides beside their features; what it does not say is None or empty.

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
        MilbenchError: the file is damaged.
    """
    try:
        value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        folds = tuple(Fold(fold["name"], *(tuple(fold[part]) for part in PARTS)) for fold in value["folds"])
        return SourceTable(value["labels"], value["patients"], folds)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MilbenchError(
            f"{path} is damaged ({type(error).__name__}); build the cache again from its source."
        ) from None
