"""Which rows of a table of patches are whose, from the columns of slides, patients and labels alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ...errors import MilbenchError
from ..text_tables import refuse_lost_digits
from ._arrow import texts
from ._columns import Columns


class PatchTable(Protocol):
    """A file of patches, as far as its rows are distinguished."""

    path: Path
    columns: Columns
    contiguous: bool

    def texts(self) -> Iterator[list[Any]]:
        """Give the columns of slides, patients and labels in pieces."""


@dataclass(frozen=True)
class PatchIndex:
    """Rows by slide.

    Attributes:
        slides: ids, in the order in which they first appear.
        runs: (R, 3) int64: number of the table, first row, and the row after the last; those of a slide in order.
        first_run: (slides + 1) int64: the runs of slide i are ``runs[first_run[i]:first_run[i + 1]]``.
        patients, labels: slide -> text, of those that have one.
    """

    slides: tuple[str, ...]
    runs: np.ndarray
    first_run: np.ndarray
    patients: dict[str, str]
    labels: dict[str, str]

    def of(self, slide: int) -> np.ndarray:
        """Return the runs of a slide, (n, 3)."""
        return self.runs[self.first_run[slide] : self.first_run[slide + 1]]

    def rows(self, slide: int) -> int:
        """Return its number of patches."""
        runs = self.of(slide)
        return int((runs[:, 2] - runs[:, 1]).sum())


class _Said:
    """What rows say of their slides in one column, on which they must agree."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.known: dict[int, str] = {}

    def add(self, slides: np.ndarray, names: list[str], column: Any, name: str, path: Path, row: int) -> None:
        codes, words = texts(column, name, path)
        if self.what == "patient":
            refuse_lost_digits(path, name, words)
        pairs = slides * (len(words) + 1) + codes
        for pair in np.unique(pairs).tolist():
            slide, code = divmod(pair, len(words) + 1)
            if self.known.setdefault(slide, words[code]) != words[code]:
                at = row + int(np.argmax(pairs == pair)) + 1
                own = "; labels of patches are left out where their column is named patch_label"
                raise MilbenchError(
                    f"{path} gives slide {names[slide]!r} the {self.what} {words[code]!r} in row {at}, and "
                    f"{self.known[slide]!r} before; a slide has one{own if self.what == 'label' else ''}.",
                    code="labels-conflicting-rows",
                )

    def of(self, names: list[str]) -> dict[str, str]:
        return {names[slide]: word for slide, word in sorted(self.known.items()) if word}


def index_patches(tables: Iterable[PatchTable]) -> PatchIndex:
    """Read the columns of slides, patients and labels of all tables.

    Raises:
        MilbenchError: a row has no slide, a spreadsheet has lost digits of slides or patients, rows of a slide disagree
            about its patient or label, or lie apart in a table that is read forward.
    """
    number: dict[str, int] = {}
    names: list[str] = []
    said = {"patient": _Said("patient"), "label": _Said("label")}
    slides, runs = [], []
    for t, table in enumerate(tables):
        row = 0
        for slide_column, *others in table.texts():
            codes = _slides(slide_column, table, row, number, names)
            starts = np.flatnonzero(np.diff(codes, prepend=-1))
            stops = np.append(starts[1:], len(codes))
            slides.append(codes[starts])
            runs.append(np.stack([np.full(len(starts), t), starts + row, stops + row], 1))
            named = [(what, name) for what, name in (("patient", table.columns.patient), ("label", table.columns.label))
                    if name is not None]  # fmt: skip
            for (what, name), column in zip(named, others, strict=True):
                said[what].add(codes, names, column, name, table.path, row)
            row += len(codes)
        if table.contiguous and slides:
            _refuse_scattered(np.concatenate(slides), np.concatenate(runs), names, table.path)
    return _index(names, slides, runs, said)


def _slides(column: Any, table: PatchTable, row: int, number: dict[str, int], names: list[str]) -> np.ndarray:
    """Return the number of every row's slide, and give new slides one."""
    assert table.columns.slide is not None
    codes, words = texts(column, table.columns.slide, table.path)
    missing = [i for i, word in enumerate(words) if not word]
    if missing and (codes == missing[0]).any():
        at = row + int(np.argmax(codes == missing[0])) + 1
        raise MilbenchError(
            f"{table.path} has no {table.columns.slide} in row {at}; fill it in or remove the row.",
            code="table-empty-cell",
        )
    refuse_lost_digits(table.path, table.columns.slide, words)  # several slides would be joined to one
    for word in words:
        if word not in number:
            number[word] = len(names)
            names.append(word)
    return np.array([number[word] for word in words], np.int64)[codes] if len(codes) else codes


def _index(names: list[str], slides: list[np.ndarray], runs: list[np.ndarray], said: dict[str, _Said]) -> PatchIndex:
    slide = np.concatenate([np.zeros(0, np.int64), *slides])
    run = np.concatenate([np.zeros((0, 3), np.int64), *runs])
    slide, run = _joined(slide, run)
    order = np.argsort(slide, kind="stable")
    first = np.searchsorted(slide[order], np.arange(len(names) + 1))
    return PatchIndex(tuple(names), run[order], first, said["patient"].of(names), said["label"].of(names))


def _joined(slide: np.ndarray, run: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Join the runs that were divided where a piece of the columns ended."""
    if len(slide) == 0:
        return slide, run
    goes_on = (slide[1:] == slide[:-1]) & (run[1:, 0] == run[:-1, 0]) & (run[1:, 1] == run[:-1, 2])
    starts = np.append(0, np.flatnonzero(~goes_on) + 1)
    ends = np.append(starts[1:], len(slide)) - 1
    return slide[starts], np.stack([run[starts, 0], run[starts, 1], run[ends, 2]], 1)


def _refuse_scattered(slide: np.ndarray, run: np.ndarray, names: list[str], path: Path) -> None:
    slide, run = _joined(slide, run)
    begins = np.append(True, slide[1:] != slide[:-1])  # a slide may go on at the begin of the next part
    slide, run = slide[begins], run[begins]
    _, first = np.unique(slide, return_index=True)
    again = np.setdiff1d(np.arange(len(slide)), first)
    if len(again):
        at = int(again[0])
        name = names[int(slide[at])]
        before = run[int(np.argmax(slide == slide[at]))]
        raise MilbenchError(
            f"{path} has rows of slide {name!r} in two places, rows {before[1] + 1} to {before[2]} and from row "
            f"{run[at, 1] + 1} on; sort it by slide, or convert it to Parquet.",
            code="table-scattered-rows",
        )
