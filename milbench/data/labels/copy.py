"""The label table that ``milbench init`` writes, and what it was made of.

A copy whose source has changed since is stale, and a suite that reads it trains on labels that were corrected.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Sequence
from pathlib import Path

from ...atomic_io.checksums import file_checksum
from ...errors import MilbenchError
from ...formatting.text import count, some
from ..text_tables import load_table, table_file
from .values import is_excluded

#: names of the columns that say what the copy was made of, in its first row, and why a slide is left out; and the
#: reason that features may undo
MADE_FROM, WHY, NO_FEATURES = "made_from", "left_out_because", "no features"


def made_from(copy: Path, sources: Sequence[Path]) -> str:
    """Return the cell that tells what a copy was made of: its sources, relative to it, and their checksums, as JSON."""
    files = [file for file in dict.fromkeys(map(table_file, sources)) if file.is_file()]
    here = os.path.realpath(copy.parent)
    return json.dumps({os.path.relpath(os.path.realpath(file), here): file_checksum(file) for file in files})


def left_out(path: Path, slide_column: str, label_column: str) -> dict[str, list[str]]:
    """Return the slides that a label table marks to be left out: reason -> names, as the table writes them.

    Args:
        path: the label table. The reason is empty where it has no column of reasons.
        slide_column, label_column: with the names, and with the mark.
    """
    try:
        table = load_table(path)
    except MilbenchError:  # which the reader of the labels says
        return {}
    excluded: dict[str, list[str]] = {}
    if {slide_column, label_column} <= set(table.header):
        slide, label = table.header.index(slide_column), table.header.index(label_column)
        why = table.header.index(WHY) if WHY in table.header else None
        for row in table.rows:
            if is_excluded(row[label]):
                excluded.setdefault("" if why is None else row[why], []).append(row[slide])
    return excluded


def stale_because(path: Path, features: Collection[str]) -> tuple[list[str], list[str]]:
    """Return why a label table is no longer what its sources say, and which sources are not there to compare with.

    Args:
        path: the label table; one that `milbench init` has not written has nothing to compare.
        features: slides that have features.
    """
    try:
        table = load_table(path)
    except MilbenchError:  # which the reader of the labels says
        return [], []
    if not {MADE_FROM, WHY} <= set(table.header):
        return [], []
    stale: list[str] = []
    gone: list[str] = []
    cells = [cell for row in table.rows if (cell := row[table.header.index(MADE_FROM)])]
    try:
        sources = {str(name): str(known) for cell in cells for name, known in json.loads(cell).items()}
    except (ValueError, AttributeError, RecursionError):
        return [f"the column {MADE_FROM} of {path}, which names its sources, is damaged"], []
    if not sources:
        return [f"the column {MADE_FROM} of {path} no longer names its sources"], []
    for name, known in sources.items():
        source = path.parent / name.replace("\0", "")
        try:
            changed = source.is_file() and file_checksum(source) != known
        except (OSError, ValueError):
            changed = False
        if not source.is_file():
            gone.append(name)
        if changed:
            stale.append(f"{name} has changed since milbench init made {path.name} of it")
    why, slide = table.header.index(WHY), 0
    back = sorted(row[slide] for row in table.rows if row[why] == NO_FEATURES and row[slide] in features)
    if back:
        have = "has" if len(back) == 1 else "have"
        slides = f"{count(len(back), 'slide')} for want of features that {have} features now"
        stale.append(f"{path.name} leaves out {slides}: {some(back)}")
    return stale, gone
