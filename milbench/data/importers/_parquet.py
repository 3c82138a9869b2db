"""Tables of patches in Parquet, read by windows of rows, in memory that does not grow with the file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import MilbenchError
from ...formatting.text import some
from ..input_files.intact import refuse_parquet_gaps
from ._arrow import Cursor, coord_dtype, dtype_of, fill, kind_of
from ._columns import Columns, recognise
from ._read import need_file, refuse_bomb

if TYPE_CHECKING:
    import pyarrow as pa

#: bytes of a window, and rows that are decoded at a time
_WINDOW, _BATCH = 192 << 20, 4096
#: Columns that are read side by side: a dictionary and a page of each, about 2 MiB in files of usual writers, are in
#: memory meanwhile.
_ABREAST = 32


class ParquetTable:
    """One file of patches.

    A window is the rows of one row group that fit into 192 MiB. Tables of many columns are read 32 columns at a time,
    which goes through a row group once for each of its windows; all others are read straight through.

    Attributes:
        path: the file.
        columns: what its columns are.
        rows: of the file.
        width: of the features.
        dtype: of the features.
        coord_dtype: of the positions; None where there are none.
        contiguous: False: the rows of a slide may lie anywhere.

    Raises:
        MilbenchError: the file is damaged or no Parquet, holds no columns of features, has two columns of one name, or
            would unfold to far more than it holds.
    """

    contiguous = False

    def __init__(self, path: Path) -> None:
        from pyarrow import parquet

        self.path = path
        size = need_file(path)
        with reading(path):
            # Not whole row groups ahead, which may be gigabytes.
            self._file = parquet.ParquetFile(
                str(path), buffer_size=1 << 16, pre_buffer=False, page_checksum_verification=True
            )
            refuse_parquet_gaps(path, size)
            schema, metadata = self._file.schema_arrow, self._file.metadata
            columns = columns_of(schema, path)
            if columns is None:
                raise MilbenchError(
                    f"{path} has no columns of features, only {some(schema.names)}.", code="features-missing"
                )
            self.columns: Columns = columns
            self.rows = int(metadata.num_rows)
            types = [schema.field(name).type for name in columns.features]
            self.dtype = dtype_of(types)
            self.width = self._width(types)
            places = [schema.field(name).type for name in columns.coords]
            self.coord_dtype = coord_dtype(places) if places else None
            lengths = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
            if min(self.width, self.rows, *lengths, 0) < 0 or sum(lengths) != self.rows:
                raise ValueError(f"{self.rows} rows of {self.width} features")
        refuse_bomb(path, self.rows * self.width * self.dtype.itemsize, size)
        self._starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        self._window_rows = max(1, _WINDOW // max(1, self.width * self.dtype.itemsize))
        names = columns.features
        self._stripes = [names[j : j + _ABREAST] for j in range(0, len(names), _ABREAST)]
        self._cursor: tuple[int, Cursor] | None = None

    def _width(self, types: Sequence[pa.DataType]) -> int:
        import pyarrow as pa

        if kind_of(types[0]) != "list":
            return len(types)
        if pa.types.is_fixed_size_list(types[0]):
            return int(types[0].list_size)
        first = next(self._file.iter_batches(1, columns=list(self.columns.features)), None)
        lengths = [] if first is None else first.column(0).value_lengths().to_pylist()
        return int(lengths[0] or 0) if lengths else 0

    def texts(self) -> Iterator[list[Any]]:
        """Give the columns of slides, patients and labels, those that there are, in pieces and in the order of rows."""
        with reading(self.path):
            for batch in self._file.iter_batches(1 << 16, columns=list(self.columns.texts)):
                yield [batch.column(name) for name in self.columns.texts]

    def window(self, row: int) -> tuple[int, np.ndarray, np.ndarray | None]:
        """Read the rows around one.

        Returns:
            Number of the first row, from 0; features (rows, width); positions (rows, 2) or None.

        Raises:
            MilbenchError: the file is damaged, or a number is missing.
        """
        group = int(np.searchsorted(self._starts, row, "right")) - 1
        begin, end = int(self._starts[group]), int(self._starts[group + 1])
        start = begin + (row - begin) // self._window_rows * self._window_rows
        stop = min(start + self._window_rows, end)
        x = np.empty((stop - start, self.width), self.dtype)
        xy = None if self.coord_dtype is None else np.empty((stop - start, 2), self.coord_dtype)
        with reading(self.path):
            for s, names in enumerate(self._stripes):
                coords = self.columns.coords if s == 0 else ()
                at = s * _ABREAST
                part = x[:, at : at + len(names)] if len(self._stripes) > 1 else x
                for first, batch in self._forward(group, [*names, *coords], start).take(start, stop):
                    rows = slice(first - start, first - start + len(batch))
                    fill(part[rows], batch, names, self.path, first)
                    if coords and xy is not None:
                        fill(xy[rows], batch, coords, self.path, first)
        return start, x, xy

    def _forward(self, group: int, names: list[str], row: int) -> Cursor:
        """Return a cursor at or before a row; only that of a table read straight through is worth keeping."""
        alone = len(self._stripes) == 1
        if alone and self._cursor is not None and self._cursor[0] == group and self._cursor[1].first <= row:
            return self._cursor[1]
        batches = self._file.iter_batches(_BATCH, row_groups=[group], columns=names)
        cursor = Cursor(batches, int(self._starts[group]))
        self._cursor = (group, cursor) if alone else None
        return cursor


def columns_of(schema: pa.Schema, path: Path) -> Columns | None:
    """Tell the columns of a file; None where nothing may be features.

    Raises:
        MilbenchError: two columns have one name.
    """
    with reading(path):  # names may be no text
        twice = [name for name, times in Counter(schema.names).items() if times > 1]
        if twice:
            raise MilbenchError(f"{path} has two columns named {some(twice)}; keep one.", code="table-duplicate-column")
        return recognise({field.name: kind_of(field.type) for field in schema})


def schema_of(path: Path) -> pa.Schema:
    """Read the names and types of a file's columns.

    Raises:
        MilbenchError: it is damaged or no Parquet.
    """
    from pyarrow import parquet

    need_file(path)
    with reading(path):
        return parquet.read_schema(str(path))


def parquet_rows(path: Path) -> int | None:
    """Return the rows of a file; None where it is damaged."""
    from pyarrow import parquet

    try:
        need_file(path)
        with reading(path):
            return int(parquet.read_metadata(str(path)).num_rows)
    except MilbenchError:
        return None


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn what Arrow raises for damaged bytes into a sentence."""
    try:
        yield
    except MilbenchError:
        raise
    except Exception as error:  # Arrow, system, Unicode and value errors, by what is wrong with the file
        reason = str(error).strip().split("\n")[0][:120] or type(error).__name__
        raise MilbenchError(
            f"{path} is damaged or no Parquet ({reason}); write it again.", code="table-damaged"
        ) from None
