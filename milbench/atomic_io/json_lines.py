"""A journal: JSON records, one a line, that are appended as work ends, so that it continues after a kill.

Every record carries its checksum. Reading ends at the first line that is incomplete or damaged; the work of that
line and of those after it is done again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from .checksums import KEY, record_checksum, with_checksum
from .publishing import open_appending, write_atomic


class JsonLines:
    """An append-only file of records; use as a context, which closes it.

    Args:
        path: the file; its folder is made where there is none.
        durable: force every record to the disk; else it is given to the operating system, which survives a kill.
    """

    def __init__(self, path: Path, durable: bool = False) -> None:
        self.path, self._durable = path, durable
        self._file: IO[bytes] | None = None

    def records(self) -> list[dict[str, Any]]:
        """Return the records that are whole, without their checksums; none where there is no file."""
        return self._read()[0]

    def resume(self) -> None:
        """Open the file behind its last whole record; what follows there is removed.

        Raises:
            OSError: it cannot be written.
        """
        whole = self._read()[1]
        self._open().truncate(whole)

    def replace(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Begin anew with some records; errors as of `resume`."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(self.path, b"".join(map(_line, records)))
        self._open()

    def append(self, record: Mapping[str, Any]) -> None:
        """Append a record, after `resume` or `replace`; errors as of `resume`."""
        assert self._file is not None
        self._file.write(_line(record))
        self._file.flush()
        if self._durable:
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file; it stays."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open(self) -> IO[bytes]:
        self.close()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open_appending(self.path)
        return self._file

    def _read(self) -> tuple[list[dict[str, Any]], int]:
        """Return the whole records, and how many bytes they take."""
        records: list[dict[str, Any]] = []
        end = 0
        for line in self.path.read_bytes().splitlines(keepends=True) if self.path.is_file() else ():
            try:
                record = json.loads(line)
                if not line.endswith(b"\n") or record.pop(KEY) != record_checksum(record):
                    break
            except (ValueError, TypeError, AttributeError, KeyError, RecursionError):
                break
            records.append(record)
            end += len(line)
        return records, end

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


def _line(record: Mapping[str, Any]) -> bytes:
    as_read = json.loads(json.dumps(record))  # keys are text there
    return json.dumps(with_checksum(as_read), separators=(",", ":")).encode() + b"\n"
