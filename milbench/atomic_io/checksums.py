"""Checksums of stored files and records.

A checksum finds accidents (a flipped bit, two files exchanged, half a copy), not forgers: it is stored with its data.
A record (a JSON object) carries its own checksum in the key `KEY`, over its canonical JSON without that key, so that
layout and the order of keys do not count.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xxhash import xxh3_128

from ..errors import MilbenchError

#: Key of a record's checksum of itself.
KEY = "checksum"
#: Key of a record's checksums of the files that were published with it: file name -> checksum.
FILES = "files"


def checksum(*parts: Any) -> str:
    """Return 32 hexadecimal digits: the XXH3-128 of the bytes of the parts, one after the other."""
    hashed = xxh3_128()
    for part in parts:
        hashed.update(part)
    return hashed.hexdigest()


def file_checksum(path: Path) -> str:
    """Return the checksum of a file's bytes, read in pieces."""
    hashed = xxh3_128()
    with path.open("rb") as file:
        while piece := file.read(1 << 22):
            hashed.update(piece)
    return hashed.hexdigest()


def record_checksum(record: Mapping[str, Any]) -> str:
    """Return the checksum of a record's canonical JSON, its own checksum left out."""
    content = {key: value for key, value in record.items() if key != KEY}
    return checksum(json.dumps(content, sort_keys=True, separators=(",", ":")).encode())


def with_checksum(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record with its checksum, which replaces an earlier one."""
    content = {key: value for key, value in record.items() if key != KEY}
    return content | {KEY: record_checksum(content)}


def check_record(record: Mapping[str, Any], what: object, fix: str) -> None:
    """Compare a record with its checksum; a record that was written before there were checksums has none, and passes.

    Args:
        record: as read.
        what: the file, for the message.
        fix: what to do about a damaged one.

    Raises:
        MilbenchError: the record is not the one that was written.
    """
    if KEY in record:
        try:
            intact = record[KEY] == record_checksum(record)
        except (ValueError, RecursionError):
            intact = False
    else:
        intact = FILES not in record  # both keys came with the checksums
    if not intact:
        raise MilbenchError(
            f"{what} was changed or damaged after it was written (its checksum differs); {fix}.", code="file-changed"
        )
