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
#: types of elements: what flags, shapes and names are stored as; arrays; and all that numbers and letters may be
_BYTES, _INTS, _FLAGS, _MATRIX, _COMPRESSED = 1, 5, 6, 14, 15
_VALUES = (1, 2, 3, 4, 5, 6, 7, 9, 12, 13, 16, 17, 18)
#: classes of arrays
_CELL, _STRUCT, _OBJECT, _CHAR, _SPARSE = 1, 2, 3, 4, 5
_NUMBERS = range(6, 16)
#: those made of code or of what only MATLAB can rebuild: functions, opaque objects
_FOREIGN = (16, 17)
_COMPLEX = 1 << 11
_DEEPEST, _MOST_DIMS = 16, 32
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
        mark = bytes(raw[124:128])
        if bytes(raw[:8]) == b"\x89HDF\r\n\x1a\n" or mark in (b"\0\2IM", b"\2\0MI"):
            raise MilbenchError(f"{path} is of MATLAB's version 7.3, which is HDF5; {_AGAIN}.", code="file-unsupported")
        if mark not in (b"\0\1IM", b"\1\0MI"):
            raise MilbenchError(f"{path} is no .mat file of version 5; {_AGAIN}.", code="file-unsupported")
        names = _check(raw, "<" if mark.endswith(b"IM") else ">", path, size)
        with warnings.catch_warnings():  # about what it leaves out or reads twice
            warnings.simplefilter("error")
            variables: dict[str, Any] = loadmat(path, appendmat=False, variable_names=names)
    except MilbenchError:
        raise
    except Exception as error:  # of the system, of zlib, of scipy, by what is wrong with the file
        reason = str(error).strip().split("\n")[0][:120] or type(error).__name__
        raise MilbenchError(f"{path} is damaged ({reason}); {_AGAIN}.", code="file-damaged") from None
    return {name: value for name, value in variables.items() if not name.startswith("__")}


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
        raise MilbenchError(f"{path} is damaged ({error}); {_AGAIN}.", code="file-damaged") from None
    return value.toarray()


def _check(raw: memoryview, order: str, path: Path, size: int) -> list[str]:
    """Check all variables and return the names of those that are no objects."""
    names: list[str] = []
    unfolded, at = 0, _HEADER
    foreign = False
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
        name, known = _check_array(body, order, path, 0)
        foreign |= not known
        if known and name:  # one without a name is what MATLAB keeps of its objects
            names.append(name)
    if foreign and not names:
        raise MilbenchError(_only_matlab(path), code="file-unsupported")
    return names


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


def _check_array(body: memoryview, order: str, path: Path, depth: int) -> tuple[str, bool]:
    """Check an array and those in it: as many elements as its class and shape call for, each of a suitable type.

    Returns:
        Its name, and whether it is made of numbers, letters and arrays alone: False for objects, at the top.
    """
    if not body:  # MATLAB writes an empty cell as nothing
        return "", True
    if depth > _DEEPEST:
        raise MilbenchError(
            f"{path} nests cells deeper than {_DEEPEST} levels, as bags do not; {_AGAIN}.", code="file-unsupported"
        )
    flags, at = _expect(body, 0, order, _FLAGS)
    word = struct.unpack_from(f"{order}I", flags)[0]
    code = word & 0xFF
    if code in _FOREIGN:
        if depth == 0:
            return "", False
        raise MilbenchError(_only_matlab(path), code="file-unsupported")
    sizes, at = _expect(body, at, order, _INTS)
    shape = struct.unpack(f"{order}{len(sizes) // 4}i", sizes)
    if not 2 <= len(shape) <= _MOST_DIMS or min(shape) < 0 or (code != _SPARSE and prod(shape) > len(body)):
        raise ValueError(f"an array of shape {shape[:4]} in {len(body):,} bytes")
    name, at = _expect(body, at, order, _BYTES)
    numbers = 1 + bool(word & _COMPLEX)
    kinds: tuple[int, ...] = (_MATRIX,)
    if code in (_CHAR, _SPARSE, *_NUMBERS):
        wanted, kinds = {_CHAR: 1, _SPARSE: 2 + numbers}.get(code, numbers), _VALUES
    elif code in (_CELL, _STRUCT, _OBJECT):
        fields = 1
        if code == _OBJECT:
            _, at = _expect(body, at, order, _BYTES)  # its class
        if code != _CELL:
            length, at = _expect(body, at, order, _INTS)
            names, at = _expect(body, at, order, _BYTES)
            fields = len(names) // struct.unpack(f"{order}i", length)[0]
        wanted = prod(shape) * fields
    else:
        raise ValueError(f"an array of class {code}")
    parts = 0
    while at < len(body):
        kind, inner, at = _element(body, at, order)
        if kind not in kinds:
            raise ValueError(f"an element of type {kind} in an array of class {code}")
        if kind == _MATRIX:
            _check_array(inner, order, path, depth + 1)
        parts += 1
    if parts != wanted and not (parts == 0 == prod(shape)):
        raise ValueError(f"an array of {parts} parts, not {wanted}")
    return bytes(name).decode("latin-1"), True


def _only_matlab(path: Path) -> str:
    return (
        f"{path} holds objects of a class or functions, which only MATLAB can rebuild; save their fields as a plain "
        f"structure."
    )


def _expect(body: memoryview, at: int, order: str, kind: int) -> tuple[memoryview, int]:
    code, inner, after = _element(body, at, order)
    if code != kind:
        raise ValueError(f"an element of type {code}, not {kind}")
    return inner, after
