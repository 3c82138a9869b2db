"""Where the columns of a Parquet file lie, read from its footer.

The footer is Thrift's compact protocol (parquet.thrift of the Parquet format). pyarrow tells the same of a column, but
ends the process where statistics in a damaged footer contradict each other: its accessor passes no C++ exception on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

_DEEPEST = 32
_TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = range(1, 13)


@dataclass(frozen=True)
class Chunk:
    """One column of one row group.

    Attributes:
        begin: first byte of its pages in the file.
        size: of its pages, in bytes.
        more: whether a page index or a Bloom filter of it lies elsewhere in the file.
    """

    begin: int
    size: int
    more: bool


def chunks(footer: bytes) -> list[Chunk] | None:
    """Return the columns of all row groups, in the order of the footer; None where the footer does not tell.

    Args:
        footer: the bytes between the last page and the length of the footer.
    """
    try:
        groups = _Reader(footer).struct(0)[4]
        return [_chunk(column) for group in groups for column in group[1]]
    except (IndexError, KeyError, TypeError, ValueError):
        return None


def _chunk(column: dict[int, Any]) -> Chunk:
    meta = column[3]
    first, dictionary = int(meta[9]), int(meta.get(11, 0))
    more = any(field in column for field in (4, 6)) or 14 in meta
    return Chunk(min(first, dictionary) if dictionary > 0 else first, int(meta[7]), more)


class _Reader:
    """Values of Thrift's compact protocol: structs as field -> value, numbers, bytes, lists."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def struct(self, depth: int) -> dict[int, Any]:
        """Return the fields of the struct that begins here."""
        if depth > _DEEPEST:
            raise ValueError("structs in structs without end")
        fields: dict[int, Any] = {}
        field = 0
        while (head := self._byte()) != 0:
            step, kind = head >> 4, head & 15
            field = field + step if step else self._signed()
            fields[field] = kind == _TRUE if kind in (_TRUE, _FALSE) else self._value(kind, depth)
        return fields

    def _value(self, kind: int, depth: int) -> Any:
        if kind in (_TRUE, _FALSE):  # in a list
            return self._byte() == _TRUE
        if kind == _BYTE:
            return self._byte()
        if kind in (_I16, _I32, _I64):
            return self._signed()
        if kind == _DOUBLE:
            return self._bytes(8)
        if kind == _BINARY:
            return self._bytes(self._unsigned())
        if kind in (_LIST, _SET):
            head = self._byte()
            size = self._unsigned() if head >> 4 == 15 else head >> 4
            self._check_remaining(size)
            return [self._value(head & 15, depth + 1) for _ in range(size)]
        if kind == _MAP:
            size = self._unsigned()
            kinds = self._byte() if size else 0
            self._check_remaining(size)
            return [(self._value(kinds >> 4, depth + 1), self._value(kinds & 15, depth + 1)) for _ in range(size)]
        if kind == _STRUCT:
            return self.struct(depth + 1)
        raise ValueError(f"no type {kind}")

    def _byte(self) -> int:
        self._at += 1
        return self._data[self._at - 1]

    def _bytes(self, count: int) -> bytes:
        self._check_remaining(count)
        self._at += count
        return self._data[self._at - count : self._at]

    def _check_remaining(self, count: int) -> None:
        if count > len(self._data) - self._at:
            raise ValueError("more than there is")

    def _unsigned(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7
            if shift > 63:
                raise ValueError("a number of more than 64 bits")

    def _signed(self) -> int:
        value = self._unsigned()
        return (value >> 1) ^ -(value & 1)
