"""svmlight: lines ``instance:bag:label feature:value ...``, as Andrews et al. distribute MUSK, Elephant, Fox and Tiger.

Andrews et al., Support Vector Machines for Multiple-Instance Learning, NIPS 2002. Features are numbered from 1, those
that are not written are 0, and there are as many as the largest number in the file; ``#`` begins a comment. Labels -1
and 1 are read as 0 and 1; a bag's label is the largest of its instances'.
"""

from __future__ import annotations

import io
import re
from contextlib import suppress
from pathlib import Path

import numpy as np

from ...errors import MilbenchError
from ..text_tables import read_text
from . import Slides
from ._numbers import first_line, number
from ._packed import PackedSlides, narrow, pack
from ._read import refuse_bomb

NAME = "svmlight"

_LINE = re.compile(r"[^\s:]+:[^\s:]+:[+-]?\d+(\.\d*)?(\s+\d+:\S+)+")
_FEATURES = re.compile(r"([0-9]{1,9}:[^\s:_]+(\s+|$))*")
_SUFFIXES = (".svm", ".svmlight", ".libsvm", ".data", ".dat", ".txt")


def detect(source: Path) -> str | None:
    """Recognise a text file by its first line."""
    if source.suffix.lower() not in _SUFFIXES or not _LINE.match(first_line(source)):
        return None
    return f"svmlight bags in {source}: lines of instance:bag:label feature:value"


def open_source(source: Path) -> Slides:
    """Open the bags, in the order of the file.

    Raises:
        MilbenchError: a line of another form, a feature numbered 0 or written twice, something that is no finite
            number, or a column that is the label.
    """
    bags: list[str] = []
    labels: list[float] = []
    rows: list[tuple[np.ndarray, np.ndarray]] = []
    text = read_text(source)
    for at, line in enumerate(io.StringIO(text, newline=None), 1):
        first, *rest = line.partition("#")[0].split(maxsplit=1) or [""]
        if not first:
            continue
        head = first.split(":")
        if len(head) != 3 or not all(head):
            raise MilbenchError(
                f"{source} line {at} begins with {first[:40]!r}, not with instance:bag:label; correct it.",
                code="table-bad-line",
            )
        bags.append(head[1])
        labels.append(number(head[2], source, at, "the label"))
        rows.append(_features(rest[0].rstrip() if rest else "", source, at))
    width = int(max((index.max() for index, _ in rows if len(index)), default=0))
    if width == 0:
        raise MilbenchError(f"{source} holds no instances with features; copy the file again.", code="table-empty")
    # A line of twenty letters may speak of the billionth feature.
    refuse_bomb(source, len(rows) * width * 8, len(text))
    features = np.zeros((len(rows), width))
    for row, (index, values) in zip(features, rows, strict=True):
        row[index - 1] = values
    return PackedSlides(pack(source, narrow(features), bags, np.array(labels)), source)


def _features(text: str, path: Path, line: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers and the values of the features that a line writes."""
    if _FEATURES.fullmatch(text):
        with suppress(ValueError):  # which feature it is, the slow way tells
            flat = np.array(list(map(float, text.replace(":", " ").split())))
            index, values = flat[::2].astype(np.int64), flat[1::2]
            if np.isfinite(values).all() and (index > 0).all() and len(np.unique(index)) == len(index):
                return index, values
    value_of: dict[int, float] = {}
    for token in text.split():
        name, mark, value = token.partition(":")
        if not mark or not re.fullmatch("[0-9]{1,9}", name):
            raise MilbenchError(
                f"{path} line {line} has {token[:40]!r}, not feature:value; correct it.", code="table-bad-line"
            )
        if int(name) == 0:
            raise MilbenchError(
                f"{path} line {line} has a feature 0; number the features from 1.", code="table-bad-line"
            )
        if int(name) in value_of:
            raise MilbenchError(f"{path} line {line} has feature {name} twice; keep one.", code="table-bad-line")
        value_of[int(name)] = number(value, path, line, f"feature {name}")
    return np.array(list(value_of), np.int64), np.array(list(value_of.values()))
