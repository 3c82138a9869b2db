"""Journal: what a build has come to, slide by slide, so that the next one goes on from there after a kill."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from ...atomic_io.checksums import record_checksum, with_checksum
from ...atomic_io.folders import write_atomic
from ...atomic_io.publishing import open_appending
from .writer import Placed

NAME = "journal.jsonl"


@dataclass(frozen=True, slots=True)
class Entry:
    """What became of one slide of a source.

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
    found = []
    for path in files:
        try:
            stat = path.stat()
        except OSError:
            continue  # whoever reads it says so
        found.append((str(path.absolute()), stat.st_size, stat.st_mtime_ns))
    return tuple(found)


class Journal:
    """An append-only file of entries, one line each; use it in a ``with`` block.

    Args:
        folder: where it lies.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME
        self._file: IO[bytes] | None = None

    def entries(self) -> list[Entry]:
        """Return the whole lines that are there; the last one may have been cut short by a kill."""
        found: list[Entry] = []
        if not self.path.is_file():
            return found
        for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                fields = json.loads(line)
                if fields.pop("checksum") != record_checksum(fields):
                    break  # damaged; what follows is read from its source again
                placed = fields["placed"]
                known = tuple((str(name), int(size), int(when)) for name, size, when in fields["stamp"])
                found.append(
                    Entry(fields["slide_id"], known, placed and Placed(**placed), fields["why"], fields["facts"])
                )
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
                break
        return found

    def start(self, entries: Sequence[Entry]) -> None:
        """Begin anew with some entries."""
        write_atomic(self.path, "".join(map(_line, entries)))
        self._file = open_appending(self.path)

    def add(self, entry: Entry) -> None:
        """Append an entry; what it speaks of must have been handed to the operating system before."""
        assert self._file is not None
        self._file.write(_line(entry).encode())
        self._file.flush()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        if self._file is not None:
            self._file.close()
        if kind is None:
            os.unlink(self.path)


def _line(entry: Entry) -> str:
    return json.dumps(with_checksum(asdict(entry))) + "\n"
