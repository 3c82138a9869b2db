"""Journal: what a build has come to, slide by slide, so that the next one goes on from there after a kill."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from ...atomic_io.json_lines import JsonLines
from .writer import Placed

NAME = "journal.jsonl"


@dataclass(frozen=True, slots=True)
class Entry:
    """The outcome of one slide of a source.

    Attributes:
        slide_id: its name.
        stamp: name, size in bytes and time of change in nanoseconds of every file it was read from.
        placed: where it stands; None where it was left out.
        why: the reason it was left out.
        facts: what its file says of itself.
    """

    slide_id: str
    stamp: tuple[tuple[str, int, int], ...]
    placed: Placed | None
    why: str = ""
    facts: dict[str, Any] = field(default_factory=dict)


def stamp(files: Sequence[Path]) -> tuple[tuple[str, int, int], ...]:
    """Return what tells whether files are those that were read: absolute name, size, time of change."""
    stamps = []
    for path in files:
        try:
            stat = path.stat()
        except OSError:
            continue  # whoever reads it says so
        stamps.append((str(path.absolute()), stat.st_size, stat.st_mtime_ns))
    return tuple(stamps)


class Journal:
    """An append-only file of entries, one line each; use it in a ``with`` block, whose good end removes it.

    Args:
        folder: where it lies.
    """

    def __init__(self, folder: Path) -> None:
        self._lines = JsonLines(folder / NAME)

    def entries(self) -> list[Entry]:
        """Return the whole entries that are there; what follows a damaged one is read from its source again."""
        entries: list[Entry] = []
        for fields in self._lines.records():
            try:
                placed = fields["placed"]
                known = tuple((str(name), int(size), int(when)) for name, size, when in fields["stamp"])
                entries.append(
                    Entry(fields["slide_id"], known, placed and Placed(**placed), fields["why"], fields["facts"])
                )
            except (ValueError, KeyError, TypeError, AttributeError):
                break
        return entries

    def start(self, entries: Sequence[Entry]) -> None:
        """Begin anew with some entries."""
        self._lines.replace(map(asdict, entries))

    def add(self, entry: Entry) -> None:
        """Append an entry; what it speaks of must have been handed to the operating system before."""
        self._lines.append(asdict(entry))

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self._lines.close()
        if kind is None:
            os.unlink(self._lines.path)
