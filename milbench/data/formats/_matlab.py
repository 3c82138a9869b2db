"""Reading .mat files of version 5 (MATLAB's -v6 and -v7): their structure is checked before scipy reads their values.

A variable may be packed (zlib), and holds elements of elements: cells and structures may be nested. What they declare
is checked against the bytes that are there, and how deep they go, as a reader that believes them asks for any memory or
runs out of stack. Layout: MathWorks, MAT-File Format.
"""

from __future__ import annotations

import struct
import warnings
import zlib
from math import prod
from pathlib import Path
from typing import Any

from ...errors import MilbenchError
from ._read import need_file, refuse_bomb

_HEADER = 128
_MATRIX, _COMPRESSED = 14, 15
_CELL, _STRUCT, _OBJECT, _SPARSE = 1, 2, 3, 5
#: classes of arrays that are made of code or of what only MATLAB can rebuild: function handles, opaque objects
_FOREIGN = (16, 17)
_DEEPEST = 16
_AGAIN = "save it again in MATLAB with save(..., '-v7')"


def mat_variables(path: Path) -> dict[str, Any]:
    """Read the variables of a .mat file, structures as record arrays, cells as object arrays.

    Raises:
        MilbenchError: it is of another version, damaged, would unfold to far more than it holds, or holds objects that
            only MATLAB can rebuild.
    """
    from scipy.io import loadmat

    size = need_file(path)
    try:
        raw = memoryview(path.read_bytes())
        if bytes(raw[:8]) == b"\x89HDF\r\n\x1a\n" or b"MATLAB 7.3" in bytes(raw[:_HEADER]):
            raise MilbenchError(f"{path} is of MATLAB's version 7.3, which is HDF5; {_AGAIN}.")
        mark = bytes(raw[126:128])
        if mark not in (b"IM", b"MI"):
            raise MilbenchError(f"{path} is no .mat file of version 5; {_AGAIN}.")
        _check(raw, "<" if mark == b"IM" else ">", path, size)
        with warnings.catch_warnings():  # about what it leaves out or reads twice
            warnings.simplefilter("error")
            found: dict[str, Any] = loadmat(path, mat_dtype=True, appendmat=False)
    except MilbenchError:
        raise
    except Exception as error:  # of the system, of zlib, of scipy, by what is wrong with the file
        reason = str(error).strip().split("\n")[0][:120] or type(error).__name__
        raise MilbenchError(f"{path} is damaged ({reason}); {_AGAIN}.") from None
    return {name: value for name, value in found.items() if not name.startswith("__")}


def dense(value: Any, path: Path) -> Any:
    """Return a sparse matrix as an array, and anything else as it is.

    Raises:
        MilbenchError: its indices lead out of it, or it is far larger than the file.
    """
    if not hasattr(value, "toarray"):
        return value
    refuse_bomb(path, int(value.shape[0]) * int(value.shape[1]) * 8, path.stat().st_size)
    try:
        value.check_format(full_check=True)  # an index that leads out of the matrix would be written to all the same
    except ValueError as error:
        raise MilbenchError(f"{path} is damaged ({error}); {_AGAIN}.") from None
    return value.toarray()


def _check(raw: memoryview, order: str, path: Path, size: int) -> None:
    unfolded, at = 0, _HEADER
    while at < len(raw):
        kind, body, at = _element(raw, at, order)
        if kind == _COMPRESSED:
            unpacker = zlib.decompressobj()
            whole = unpacker.decompress(body, 1 << 26)
            while unpacker.unconsumed_tail:
                refuse_bomb(path, unfolded + len(whole), size)
                whole += unpacker.decompress(unpacker.unconsumed_tail, 1 << 26)
            unfolded += len(whole)
            refuse_bomb(path, unfolded, size)
            kind, body, _ = _element(memoryview(whole), 0, order)
        if kind != _MATRIX:
            raise ValueError(f"a variable of type {kind}")
        _check_array(body, order, path, 0)


def _element(raw: memoryview, at: int, order: str) -> tuple[int, memoryview, int]:
    """Return the type and the bytes of an element, and where the next one begins."""
    kind, size = struct.unpack_from(f"{order}II", raw, at)
    if kind >> 16:  # up to four bytes stand in the tag itself
        size, kind = kind >> 16, kind & 0xFFFF
        if size > 4:
            raise ValueError(f"a small element of {size} bytes")
        return kind, raw[at + 4 : at + 4 + size], at + 8
    if at + 8 + size > len(raw):
        raise ValueError(f"an element of {size:,} bytes where {len(raw) - at - 8:,} are left")
    padded = size if kind == _COMPRESSED else -(-size // 8) * 8
    return kind, raw[at + 8 : at + 8 + size], at + 8 + padded


def _check_array(body: memoryview, order: str, path: Path, depth: int) -> None:
    """Check an array and those in it: flags, dimensions, name, then by its class."""
    if not body:  # MATLAB writes an empty cell as nothing
        return
    if depth > _DEEPEST:
        raise MilbenchError(f"{path} nests cells deeper than {_DEEPEST} levels, as bags do not; {_AGAIN}.")
    _, flags, at = _element(body, 0, order)
    found = struct.unpack_from(f"{order}I", flags)[0] & 0xFF
    if found in _FOREIGN:
        raise MilbenchError(
            f"{path} holds objects of a class or functions, which only MATLAB can rebuild; save their fields as a "
            f"plain structure."
        )
    _, sizes, at = _element(body, at, order)
    shape = struct.unpack(f"{order}{len(sizes) // 4}i", sizes[: len(sizes) // 4 * 4])
    if found != _SPARSE and (min(shape, default=0) < 0 or prod(shape) > len(body)):
        raise ValueError(f"an array of shape {shape} in {len(body):,} bytes")
    if found not in (_CELL, _STRUCT, _OBJECT):
        return
    _, _, at = _element(body, at, order)  # its name
    if found == _OBJECT:
        _, _, at = _element(body, at, order)  # its class
    if found in (_STRUCT, _OBJECT):
        _, _, at = _element(body, at, order)  # length of the field names
        _, _, at = _element(body, at, order)  # the field names
    while at < len(body):
        _, inner, at = _element(body, at, order)
        _check_array(inner, order, path, depth + 1)
