"""uci: clean1.data and clean2.data of UCI's Musk, one conformation a line: molecule, conformation, 166 features, class.

Dietterich et al., Solving the multiple instance problem with axis-parallel rectangles, Artificial Intelligence 1997. A
molecule is a bag, its conformations are the instances; the class is written ``1.`` or ``0.``. Other sets in the same
layout are read with any number of features.
"""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np

from ...errors import MilbenchError
from ...formatting.text import count
from ..text_tables import read_text
from . import Slides
from ._numbers import first_line, number
from ._packed import PackedSlides, narrow, pack

NAME = "uci"

#: features of both Musk sets
_MUSK = 166
_CLASS = re.compile(r"[01](\.0*)?")


def detect(source: Path) -> str | None:
    """Recognise a .data file by its first line: two names, numbers, and the class 0 or 1."""
    if source.suffix.lower() not in (".data", ".txt"):
        return None
    cells = [cell.strip() for cell in first_line(source).split(",")]
    names, features, label = cells[:2], cells[2:-1], cells[-1]
    if not features or not all(names) or not _CLASS.fullmatch(label) or not all(map(_is_number, features)):
        return None
    # Where both names are numbers too, nothing tells them from features.
    return None if all(map(_is_number, names)) else f"UCI bags in {source}: {len(features)} features an instance"


def open_source(source: Path) -> Slides:
    """Open the bags, in the order of the file.

    Raises:
        MilbenchError: a line has another number of cells, a cell is no number, Musk has other than 166 features, or a
            column is the label.
    """
    bags: list[str] = []
    labels: list[float] = []
    rows: list[list[float]] = []
    for at, line in enumerate(io.StringIO(read_text(source), newline=None), 1):
        if not line.strip():
            continue
        cells = [cell.strip() for cell in line.split(",")]
        if len(cells) < 4 or (rows and len(cells) != len(rows[0]) + 3):
            wanted = f"{len(rows[0]) + 3}, as those before it" if rows else "two names, numbers and a class"
            raise MilbenchError(
                f"{source} line {at} has {count(len(cells), 'cell')}, not {wanted}; copy the file again.",
                code="table-bad-line",
            )
        if not cells[0]:
            raise MilbenchError(f"{source} line {at} names no bag; copy the file again.", code="table-bad-line")
        if not _CLASS.fullmatch(cells[-1]):
            raise MilbenchError(
                f"{source} line {at} ends in {cells[-1]!r}, not in the class 0. or 1.; correct it.",
                code="table-bad-line",
            )
        bags.append(cells[0])
        labels.append(float(cells[-1]))
        rows.append([number(cell, source, at, f"feature {j}") for j, cell in enumerate(cells[2:-1], 1)])
    if not rows:
        raise MilbenchError(f"{source} holds no instances; copy the file again.", code="table-empty")
    packed = pack(source, narrow(np.array(rows)), bags, np.array(labels))
    if packed.features.shape[1] != _MUSK and all(name.startswith(("MUSK-", "NON-MUSK-")) for name in packed.names):
        raise MilbenchError(
            f"{source} has {packed.features.shape[1]} features, and Musk has {_MUSK}; get clean1.data or clean2.data "
            f"from the UCI repository.",
            code="features-wrong-width",
        )
    return PackedSlides(packed, source)


def _is_number(cell: str) -> bool:
    return re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", cell) is not None
