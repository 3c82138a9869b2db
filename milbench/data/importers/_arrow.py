"""Arrow's columns as arrays: numbers of features and positions, ids as text. A missing value is reported by its row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import MilbenchError
from ...formatting.text import count
from ._columns import Columns, Kind

if TYPE_CHECKING:
    import pyarrow as pa


def kind_of(kind: pa.DataType) -> Kind:
    """Return what a column of a type holds."""
    import pyarrow as pa

    types = pa.types
    if types.is_dictionary(kind):
        kind = kind.value_type
    if types.is_floating(kind) or types.is_integer(kind):
        return "number"
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        return "list" if kind_of(kind.value_type) == "number" else "other"
    return "text" if types.is_string(kind) or types.is_large_string(kind) else "other"


def dtype_of(types: Sequence[pa.DataType]) -> np.dtype:
    """Return the floating point dtype that holds the numbers of some columns."""
    dtypes = []
    for one in types:
        plain = one.value_type if kind_of(one) == "list" else one
        dtype = np.dtype(plain.to_pandas_dtype())
        dtypes.append(dtype if dtype.kind == "f" else np.dtype("f4" if dtype.itemsize <= 2 else "f8"))
    return np.result_type(*dtypes)


def coord_dtype(types: Sequence[pa.DataType]) -> np.dtype:
    """Return the dtype of positions: int64, or float64 where there are reals."""
    plain = [one.value_type if kind_of(one) == "list" else one for one in types]
    return np.dtype("f8" if any(np.dtype(one.to_pandas_dtype()).kind == "f" for one in plain) else "i8")


def fill(out: np.ndarray, batch: pa.RecordBatch, names: Sequence[str], path: Path, row: int) -> None:
    """Copy columns of numbers into the columns of an array; or one column of lists.

    Args:
        out: (rows of the batch, width).
        batch: holds the columns.
        names: of the columns.
        path: for messages.
        row: number of the batch's first row, from 0.

    Raises:
        MilbenchError: a number is missing, or a list is not as long as the array is wide.
    """
    for name in names:
        if batch.column(name).null_count:
            raise missing(path, name, row + _first_null(batch.column(name)))
    if kind_of(batch.column(names[0]).type) == "list":
        out[:] = _flat(batch.column(names[0]), names[0], out.shape[1], path, row)
        return
    # Columns are gathered in a table of their own, whose rows lie some bytes further apart than a power of two: in one
    # of 1024 columns the rows would drive each other out of the processor's cache.
    near = np.empty((len(batch), len(names) + 8), out.dtype)[:, : len(names)]
    for j, name in enumerate(names):
        near[:, j] = batch.column(name).to_numpy(zero_copy_only=False)
    out[:] = near


def _flat(column: Any, name: str, width: int, path: Path, row: int) -> np.ndarray:
    import pyarrow as pa

    if not pa.types.is_fixed_size_list(column.type):
        lengths = column.value_lengths().to_numpy()
        if (lengths != width).any():
            at = int(np.argmax(lengths != width))
            held = count(int(lengths[at]), "number")
            raise MilbenchError(
                f"{path} has {held} in column {name!r} of row {row + at + 1}, and {width} in row 1; write it again.",
                code="features-bad-array",
            )
    values = column.flatten()
    if values.null_count:
        raise missing(path, name, row + _first_null(values) // width)
    return np.asarray(values.to_numpy(zero_copy_only=False)).reshape(-1, width)


def missing(path: Path, column: str, row: int) -> MilbenchError:
    """Return the error about a cell without a number; rows are counted from 0 here and from 1 in messages."""
    return MilbenchError(
        f"{path} has no number in column {column!r} of row {row + 1}; fill it in or remove the row.",
        code="table-empty-cell",
    )


def refuse_unfinite(x: np.ndarray, columns: Columns, path: Path, row: int) -> None:
    """Refuse features that are NaN or infinite.

    Args:
        x: (rows, width).
        columns: their names.
        path: for messages.
        row: number of the first row, from 0.

    Raises:
        MilbenchError: names the first such row and its column.
    """
    finite = np.isfinite(x)
    if not finite.all():
        at, j = np.argwhere(~finite)[0]
        name = columns.features[j] if len(columns.features) > 1 else columns.features[0]
        raise MilbenchError(
            f"{path} has {x[at, j]:g} in column {name!r} of row {row + at + 1}; fill it in or remove the row.",
            code="features-not-finite",
        )


def texts(column: Any, name: str, path: Path) -> tuple[np.ndarray, list[str]]:
    """Return ids or labels as the words that occur and, of every row, the number of its word.

    Whole numbers become their digits, also where they are kept as reals; blanks around text go; what is missing is "".

    Raises:
        MilbenchError: the column holds anything but text, truth values and whole numbers.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    try:
        if pa.types.is_floating(column.type):
            column = pc.if_else(pc.is_nan(column), None, column).cast(pa.int64())
        if pa.types.is_boolean(column.type):
            column = pc.utf8_upper(column.cast(pa.string()))
        if kind_of(column.type) not in ("number", "text") and not pa.types.is_binary(column.type):
            raise TypeError
        words = pc.utf8_trim_whitespace(column.cast(pa.large_string())).fill_null("").dictionary_encode()
        return words.indices.to_numpy().astype(np.int64), words.dictionary.to_pylist()
    except (pa.ArrowInvalid, TypeError, UnicodeDecodeError):
        raise MilbenchError(
            f"{path} has column {name!r} of {column.type}; make it text (UTF-8).", code="features-bad-array"
        ) from None


def _first_null(column: Any) -> int:
    import pyarrow.compute as pc

    return int(np.argmax(pc.is_null(column).to_numpy(zero_copy_only=False)))


class Cursor:
    """Reads batches of rows forward, and gives any rows that are not behind it.

    Args:
        batches: in order, of any length.
        first: number of the first row they hold.
    """

    def __init__(self, batches: Iterator[pa.RecordBatch], first: int = 0) -> None:
        self._batches, self.first = batches, first
        self._batch: pa.RecordBatch | None = None

    def take(self, start: int, stop: int) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Give the rows from ``start`` to ``stop`` in pieces, each with the number of its first row.

        Raises:
            EOFError: there are not as many.
        """
        while start < stop:
            if self._batch is None or self.first + len(self._batch) <= start:
                self.first += 0 if self._batch is None else len(self._batch)
                self._batch = next(self._batches, None)
                if self._batch is None:
                    raise EOFError(f"it ends after {self.first} rows")
                continue
            here = start - self.first
            piece = self._batch.slice(here, min(stop - start, len(self._batch) - here))
            yield start, piece
            start += len(piece)
