"""Small tables people keep in CSV files: read as text, so that ids keep their leading zeros."""

from __future__ import annotations

import csv
from pathlib import Path

from ..errors import MilbenchError


def read_table(path: Path) -> tuple[list[str], list[list[str]]]:
    """Read a CSV as text.

    UTF-8 with or without byte-order mark; comma, semicolon or tab, whichever the header holds most of; blank lines are
    skipped; cells are stripped; short rows are filled up with empty cells.

    Returns:
        The header and the rows, each as long as the header.

    Raises:
        MilbenchError: no such file, not UTF-8, no header, or a row longer than the header.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise MilbenchError(f"{path} is not UTF-8 text; save it as CSV UTF-8.") from None
    except OSError as error:
        raise MilbenchError(f"{path} cannot be read: {error.strerror}.") from None
    lines = text.splitlines()
    head = next((line for line in lines if line.strip()), "")
    if not head:
        raise MilbenchError(f"{path} is empty; its first line must name the columns.")
    delimiter = max(",;\t", key=head.count)
    header: list[str] | None = None
    rows: list[list[str]] = []
    reader = csv.reader(lines, delimiter=delimiter)
    try:
        table = [(reader.line_num, cells) for cells in reader]
    except csv.Error as error:
        raise MilbenchError(f"{path} line {reader.line_num} is no CSV: {error}.") from None
    for line, cells in table:
        stripped = [cell.strip() for cell in cells]
        if not any(stripped):
            continue
        if header is None:
            header = stripped
        elif len(stripped) > len(header):
            raise MilbenchError(f"{path} line {line} has {len(stripped)} cells but the header {len(header)}.")
        else:
            rows.append(stripped + [""] * (len(header) - len(stripped)))
    return header or [], rows


def count(number: int, noun: str) -> str:
    """Return ``1 slide`` or ``2 slides``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def some(names: list[str], most: int = 5) -> str:
    """Return ``'a', 'b', 'c', 'd', 'e' and 7 more``."""
    rest = len(names) - most
    return ", ".join(repr(name) for name in names[:most]) + (f" and {rest} more" if rest > 0 else "")
