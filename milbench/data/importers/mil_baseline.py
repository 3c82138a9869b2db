"""MIL_BASELINE: csv files, one a fold, with the columns {train,val,test}_slide_path and {train,val,test}_label.

Ling et al., Agent Aggregator with Mask Denoise Mechanism for Histopathology Whole Slide Image Analysis, ACM MM 2024.
A path leads to a .pt file with a tensor (N, D) or (1, N, D), or to an .h5 file of CLAM or TRIDENT. Paths may be
absolute; relative ones start at the csv's folder. A slide is named by its file, a fold by its csv.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ...errors import MilbenchError
from ...formatting.text import count, some
from ..fold import PARTS, Fold
from ..text_tables import read_table
from . import FileSlides, Slides, SourceSlide, SourceTable
from ._arrays import bag
from ._listing import ending
from ._marks import label_text, listed_file, split_files
from ._read import torch_tensor
from ._rows import h5_rows, torch_rows
from .trident import read_h5  # which reads CLAM's files too

NAME = "mil_baseline"


@dataclass
class _Listed:
    """What the csv files say together.

    Attributes:
        files: slide -> its feature file.
        labels: slide -> label, of those that have one.
        origin: slide -> the csv that gave the label, for messages.
        folds: one a csv.
    """

    files: dict[str, Path] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    origin: dict[str, Path] = field(default_factory=dict)
    folds: list[Fold] = field(default_factory=list)

    def add_file(self, slide: str, path: Path) -> None:
        if self.files.setdefault(slide, path) != path:
            raise MilbenchError(
                f"{self.files[slide]} and {path} are two files of one name, but names identify slides; rename one.",
                code="slide-twice",
            )

    def add_label(self, slide: str, label: str, table: Path) -> None:
        if self.labels.setdefault(slide, label) != label:
            raise MilbenchError(
                f"slide {slide!r} has the label {self.labels[slide]!r} in {self.origin[slide]} but {label!r} in "
                f"{table}; correct one of them.",
                code="labels-conflicting-rows",
            )
        self.origin.setdefault(slide, table)


def detect(source: Path) -> str | None:
    """Recognise csv files by their columns, in a folder or given as one file."""
    tables = [path.name for path in split_files(source)]
    return f"MIL_BASELINE splits in {source}: {count(len(tables), 'fold')} ({some(tables, 3)})" if tables else None


def open_source(source: Path) -> Slides:
    """Open the slides that any fold lists, with their labels and the folds as they stand."""
    listed = _Listed()
    for table in split_files(source):
        _read(table, listed)
    if not listed.files:
        raise MilbenchError(
            f"{source} lists no slide; give split files with the columns train_slide_path, train_label.",
            code="table-empty",
        )
    said = SourceTable(listed.labels or None, None, tuple(listed.folds))
    return FileSlides(listed.files, _load, table=lambda: said, rows=_rows)


def _read(table: Path, listed: _Listed) -> None:
    header, rows = read_table(table)
    parts: dict[str, tuple[str, ...]] = dict.fromkeys(PARTS, ())
    for part in PARTS:
        if f"{part}_slide_path" in header:
            parts[part] = tuple(_slides(table, header, rows, part, listed))
    listed.folds.append(Fold(table.stem, **parts))


def _slides(table: Path, header: list[str], rows: list[list[str]], part: str, listed: _Listed) -> Iterator[str]:
    """Give the slides of one part; cells between them are empty where parts of unequal length stand side by side."""
    where = header.index(f"{part}_slide_path")
    # Files to be predicted on may have no labels; MIL_BASELINE's test script calls their column test_slide_label.
    label = next((header.index(name) for name in (f"{part}_label", f"{part}_slide_label") if name in header), None)
    for number, row in enumerate(rows, 1):
        if not row[where]:
            if label is not None and row[label]:
                raise MilbenchError(
                    f"{table} has a {part} label but no slide in row {number}; correct that row.",
                    code="table-empty-cell",
                )
            continue
        path = listed_file(table, row[where], absolute=True)
        if ending(path) not in (".pt", ".h5"):
            raise MilbenchError(
                f"{table} lists {row[where]!r}; milbench reads .pt and .h5 files here.", code="file-unsupported"
            )
        listed.add_file(path.stem, path)
        if label is not None:
            if not row[label]:
                raise MilbenchError(
                    f"{table} has no {part} label for {row[where]!r} in row {number}; fill it in.",
                    code="labels-missing-value",
                )
            listed.add_label(path.stem, label_text(row[label]), table)
        yield path.stem


def _rows(path: Path) -> int | None:
    return torch_rows(path) if ending(path) == ".pt" else h5_rows(path, "features")


def _load(slide: str, path: Path) -> SourceSlide:
    if ending(path) == ".pt":
        return SourceSlide(slide, bag(path, torch_tensor(path), None)[0], None, {}, path)
    return read_h5(slide, path)
