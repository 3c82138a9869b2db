"""Tables of patches in text, read forward by blocks, in memory that does not grow with the file."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import re
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from ...errors import MilbenchError
from ...formatting.text import count, some
from ._arrow import Cursor, fill
from ._columns import Columns, Kind, recognise
from ._read import need_file

if TYPE_CHECKING:
    import pyarrow as pa

#: bytes that are read to tell columns from each other; that are parsed at a time; of a window
_HEAD, _BLOCK, _WINDOW = 1 << 20, 8 << 20, 64 << 20
_NUMBER = re.compile(r"[+-]?(\d+[.,]?\d*|[.,]\d+)([eE][+-]?\d+)?|[+-]?(nan|inf(inity)?)", re.IGNORECASE)


@dataclass(frozen=True)
class Dialect:
    """How a text is a table.

    Attributes:
        encoding: ``utf8``, or ``utf-16`` where the text begins with its mark.
        delimiter: comma, semicolon or tab.
        decimal: the decimal point, which is a comma in tables of some countries.
        skip: lines before the first row.
        kinds: column -> what it holds, by the first rows; in the order of the header.
    """

    encoding: str
    delimiter: str
    decimal: str
    skip: int
    kinds: Mapping[str, Kind]

    def __str__(self) -> str:
        marks = {",": [], ";": ["semicolons"], "\t": ["tabs"]}[self.delimiter]
        return " and ".join([*marks, *(["decimal commas"] if self.decimal == "," else [])])


class CsvTable:
    """One file of patches, the rows of each slide together. Attributes and methods are those of `ParquetTable`.

    Raises:
        MilbenchError: the file is damaged or no such text, has no columns of features, or has two of one name.
    """

    contiguous = True

    def __init__(self, path: Path) -> None:
        self.path = path
        self.dialect = dialect_of(path)
        columns = recognise(self.dialect.kinds)
        if columns is None:
            raise MilbenchError(
                f"{path} has no columns of features, only {some(list(self.dialect.kinds))}.", code="features-missing"
            )
        self.columns: Columns = columns
        self.width = len(columns.features)
        self.dtype = np.dtype(np.float64)  # as many digits as are written; what a cache keeps of them, it reports
        self.rows = 0
        # Of reals, once the first pass has seen any.
        self.coord_dtype: np.dtype | None = np.dtype(np.int64) if columns.coords else None
        self._cursor: Cursor | None = None

    def texts(self) -> Iterator[list[Any]]:
        """Give the columns of slides, patients and labels, those that there are, in pieces and in the order of rows."""
        self.rows = 0
        kinds: dict[str, Kind] = {name: "text" for name in self.columns.texts}  # noqa: C420  (typed as kinds)
        kinds |= dict.fromkeys(self.columns.coords, "number")
        with self._reading():
            for batch in self._batches(kinds):
                self.rows += len(batch)
                for name in self.columns.coords:
                    xy = batch.column(name).to_numpy(zero_copy_only=False)
                    if not (xy == np.round(xy)).all():
                        self.coord_dtype = np.dtype(np.float64)
                yield [batch.column(name) for name in self.columns.texts]

    def window(self, row: int) -> tuple[int, np.ndarray, np.ndarray | None]:
        """Read the rows from a given one on, going back to the beginning of the file where they have been passed.

        `texts` has counted the rows and determined the kind of the positions before.
        """
        start, stop = row, min(row + max(1, _WINDOW // (8 * self.width)), self.rows)
        x = np.empty((stop - start, self.width), self.dtype)
        xy = None if self.coord_dtype is None else np.empty((stop - start, 2), self.coord_dtype)
        if self._cursor is None or self._cursor.first > start:
            names = (*self.columns.features, *self.columns.coords)
            self._cursor = Cursor(self._batches(dict.fromkeys(names, "number")))
        with self._reading():
            for first, batch in self._cursor.take(start, stop):
                rows = slice(first - start, first - start + len(batch))
                fill(x[rows], batch, self.columns.features, self.path, first)
                if xy is not None:
                    fill(xy[rows], batch, self.columns.coords, self.path, first)
        return start, x, xy

    def _batches(self, kinds: Mapping[str, Kind], bad_row: Any = None) -> Iterator[pa.RecordBatch]:
        """Give some columns; with ``bad_row``, all cells as bytes, and rows of another length are given to it."""
        import pyarrow as pa
        from pyarrow import csv as arrow

        types = {"text": pa.string(), "number": pa.float64(), "other": pa.binary()}
        options = {
            "read_options": arrow.ReadOptions(
                use_threads=bad_row is None, block_size=_BLOCK, skip_rows=self.dialect.skip,
                column_names=list(self.dialect.kinds), encoding=self.dialect.encoding,
            ),
            "parse_options": arrow.ParseOptions(
                delimiter=self.dialect.delimiter, newlines_in_values=True, invalid_row_handler=bad_row
            ),
            "convert_options": arrow.ConvertOptions(
                column_types={name: types[kind] for name, kind in kinds.items()}, include_columns=list(kinds),
                null_values=[""], decimal_point=self.dialect.decimal,
            ),
        }  # fmt: skip
        packed = "gzip" if self.path.suffix.lower() == ".gz" else None
        with pa.input_stream(str(self.path), compression=packed) as stream:
            yield from arrow.open_csv(stream, **options)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            yield
        except MilbenchError:
            raise
        except Exception as error:  # Arrow, system and Unicode errors, by what is wrong with the file
            self._cursor = None
            self._explain(error)

    def _explain(self, error: Exception) -> NoReturn:
        """Find the row and column that Arrow could not read: it names neither in a way to build on.

        Raises:
            MilbenchError: always.
        """
        bad: list[tuple[int, int]] = []

        def note(row: Any) -> str:
            bad.append((row.number - self.dialect.skip, row.actual_columns))
            return "error"

        used = {*self.columns.features, *self.columns.coords}
        kinds: dict[str, Kind] = dict.fromkeys(self.dialect.kinds, "other")
        try:
            first = 0
            for batch in self._batches(kinds, note):
                for name in (*self.columns.texts, *self.columns.coords, *self.columns.features):
                    bad_text = _bad_cell(batch.column(name), name in used, self.dialect.decimal)
                    if bad_text is not None:
                        at, cell = bad_text
                        self._refuse_cell(name, first + at + 1, cell, name in used)
                first += len(batch)
        except MilbenchError:
            raise
        except Exception as again:
            error = again
        if bad:
            row, cells = bad[0]
            raise MilbenchError(
                f"{self.path} has {count(cells, 'cell')} in row {row} but {len(self.dialect.kinds)} columns; check for "
                f"a delimiter or a quotation mark too many in it.",
                code="table-bad-line",
            ) from None
        raise MilbenchError(
            f"{self.path} is damaged or no table ({_reason(error)}); write it again.", code="table-damaged"
        ) from None

    def _refuse_cell(self, name: str, row: int, cell: bytes, number: bool) -> NoReturn:
        shown = cell.decode("utf-8", errors="replace")[:40]
        if number:
            raise MilbenchError(
                f"{self.path} has {shown!r} in column {name!r} of row {row}, which is no number; correct it, or remove "
                f"the column.",
                code="table-not-a-number",
            )
        raise MilbenchError(
            f"{self.path} is not UTF-8 text in column {name!r} of row {row} ({cell.decode('cp1252', 'replace')[:40]!r} "
            f"if it is Windows-1252); save it as UTF-8.",
            code="table-not-utf8",
        )


def dialect_of(path: Path) -> Dialect:
    """Tell how a text is a table from its first MiB.

    Raises:
        MilbenchError: it cannot be read, is no such text, has no header or no row, or two columns of one name.
    """
    raw, whole = _head(path)
    wide = raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        # Incremental: the last letter may be incomplete.
        text = codecs.getincrementaldecoder("utf-16" if wide else "utf-8-sig")().decode(raw, final=whole)
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise MilbenchError(
            f"{path} is not UTF-8 text (line {line}); save it as UTF-8 (Excel: CSV UTF-8).", code="table-not-utf8"
        ) from None
    if "\0" in text:
        raise MilbenchError(
            f"{path} holds null bytes, so it is no text; save it as UTF-8 (Excel: CSV UTF-8).", code="table-not-utf8"
        )
    said = re.match(r"sep=([,;\t])\r?\n", text)  # Excel's own first line
    lines = io.StringIO(text, newline=None).read().split("\n")
    skip = 1 if said else 0
    while skip < len(lines) and not lines[skip].strip(" ,;\t"):
        skip += 1
    if skip == len(lines):
        raise MilbenchError(f"{path} is empty; its first line must name the columns.", code="table-empty")
    delimiter = said[1] if said else max(",;\t", key=lines[skip].count)
    try:
        rows = list(csv.reader(io.StringIO("\n".join(lines[skip:])), delimiter=delimiter))
    except csv.Error as error:
        raise MilbenchError(f"{path} is no table ({error}); write it again.", code="table-damaged") from None
    header = [cell.strip() for cell in rows[0]]
    if twice := [name for name, times in Counter(header).items() if times > 1]:
        raise MilbenchError(f"{path} has two columns named {some(twice)}; keep one.", code="table-duplicate-column")
    # The last row may be incomplete; rows of another length are reported when they are read.
    rows = [row for row in rows[1 : None if whole else -1] if len(row) == len(header) and any(row)]
    if not rows:
        raise MilbenchError(
            f"{path} has no rows below its header that are as long; give one row a patch.", code="table-empty"
        )
    columns = dict(zip(header, zip(*rows, strict=True), strict=True))
    comma = delimiter != "," and _decimal_comma(columns)
    # A column of words alone is text; a word among numbers is reported when it is read, with its row.
    kinds: dict[str, Kind] = {name: "number" if any(map(_is_number, cells)) else "text"
                              for name, cells in columns.items()}  # fmt: skip
    return Dialect("utf-16" if wide else "utf8", delimiter, "," if comma else ".", skip + 1, kinds)


def _head(path: Path) -> tuple[bytes, bool]:
    """Return the first bytes of a file, and whether they are all."""
    need_file(path)
    try:
        with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
            raw = file.read(_HEAD)
            return raw, not file.read(1)
    except (OSError, EOFError, zlib.error) as error:
        raise MilbenchError(f"{path} is damaged ({_reason(error)}); copy it again.", code="table-damaged") from None


def _is_number(cell: str) -> bool:
    return _NUMBER.fullmatch(cell.strip()) is not None


def _decimal_comma(columns: Mapping[str, tuple[str, ...]]) -> bool:
    numbers = [cell for cells in columns.values() for cell in cells if _is_number(cell)]
    return any("," in cell for cell in numbers) and not any("." in cell for cell in numbers)


def _bad_cell(column: pa.Array, number: bool, decimal: str) -> tuple[int, bytes] | None:
    """Return the first cell that is not the text or number it should be, with its place."""
    import pyarrow as pa
    import pyarrow.compute as pc

    def reads(cells: pa.Array) -> bool:
        try:
            words = pc.utf8_trim_whitespace(cells.cast(pa.string()))
            if number and decimal == ",":
                words = pc.replace_substring(pc.replace_substring(words, ".", "?"), ",", ".")
            if number:
                words.cast(pa.float64())
        except pa.ArrowInvalid:
            return False
        return True

    if reads(column):
        return None
    low, high = 0, len(column)  # the first bad cell is in [low, high)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if reads(column.slice(low, middle - low)) else (low, middle)
    return low, column[low].as_py() or b""


def _reason(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:120] or type(error).__name__
