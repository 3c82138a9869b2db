"""Numbers in text files, one by one."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

from ...errors import MilbenchError
from ..input_files.regular import regular_size


def number(cell: str, path: Path, line: int, what: str) -> float:
    """Return the number that a cell holds.

    Raises:
        MilbenchError: it holds none, or one that is not finite; names the file, the line and what it was to be.
    """
    try:
        value = math.nan if "_" in cell else float(cell)  # Python reads 1_000 as a number, and nobody writes it
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise MilbenchError(
            f"{path} line {line} has {cell[:40]!r} for {what}, which is no finite number; correct it.",
            code="table-not-a-number",
        )
    return value


def first_line(path: Path) -> str:
    """Return the first line that is neither blank nor a comment, or the beginning of a very long one.

    Empty where the path is no file or its beginning no text: what is wrong with a file is said when it is opened.
    """
    try:
        if not path.is_file():
            return ""
        regular_size(path)
        with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
            text = file.read(1 << 17).decode("utf-8-sig", errors="ignore")
    except (MilbenchError, OSError, EOFError, zlib.error):
        return ""
    lines = (line.strip() for line in text.splitlines())
    return next((line for line in lines if line and not line.startswith("#")), "")
