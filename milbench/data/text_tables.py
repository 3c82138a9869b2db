"""Tables people keep with their slides: CSV, Excel, Parquet. Read as text, so that ids keep their leading zeros."""

from __future__ import annotations

import codecs
import csv
import datetime
import gzip
import io
import itertools
import re
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import MilbenchError, did_you_mean
from ..formatting.text import count, some
from .input_files.intact import refuse_damaged_members, refuse_parquet_gaps
from .input_files.regular import regular_size
from .names.columns import known_names, plain_header

#: No table of labels or splits comes near these; what does is a bomb, or not the file that was meant.
_MOST_BYTES = 2**28
_MOST_CELLS = 2 * 10**7
_EXCEL_ROWS = 2**20
#: Excel keeps 15 digits of a number. What a longer id was, its cell no longer knows.
_EXCEL_EXACT = 10**15
_WORKBOOKS = (".xlsx", ".xlsm")
#: first bytes of files that get the name of a text table by mistake -> what they are
_NO_TEXT = {
    b"PK\x03\x04": "a zip archive, perhaps an Excel workbook; name it .xlsx",
    b"PAR1": "Parquet; name it .parquet",
    b"\x1f\x8b": "gzip; name it .gz",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook; save it as .xlsx or as CSV UTF-8",
}

#: control characters but for line breaks and tabs, which cells of spreadsheets hold; what a decoder puts in the place
#: of bytes that it does not know; marks that turn the direction of writing; `UNSTORED`
_UNREADABLE = re.compile("[\\x00-\\x08\\x0b\\x0c\\x0e-\\x1f\\x7f-\\x9f\\ufffd\\u202a-\\u202e\\u2066-\\u2069\\ufdd0]")

#: stands for a cell whose formula has no stored value: a code point that Unicode keeps free of characters for ever
UNSTORED = "\ufdd0"
#: a cell of a sheet with a formula and without a value; an empty text (``t="str"``) is a value
_BARE_FORMULA = re.compile(
    rb"<(?:\w+:)?c\b(?P<of>[^>]*)>\s*<(?:\w+:)?f\b(?:[^>]*/>|[^>]*>[^<]*</(?:\w+:)?f>)\s*"
    rb"(?P<value><(?:\w+:)?v\b[^>]*(?:/>|>\s*</(?:\w+:)?v>)\s*)?</(?:\w+:)?c>"
)

#: 1.23457E+15
_SHORTENED = re.compile(r"\d([.,]\d+)?E\+\d{2,}", re.IGNORECASE)

#: rows in which the header is searched for, below titles and comments
_TOP = 30

Rows = Iterable[tuple[int, list[str]]]


@dataclass(frozen=True)
class Table:
    """A table as text.

    Attributes:
        header: names of the columns, without line breaks and invisible characters.
        rows: each as long as the header.
        notes: sentences about what was not taken as it stands: a title, the sheet of several; without a point.
        comments: lines above the header that begin with ``#``.
    """

    header: list[str]
    rows: list[list[str]]
    notes: tuple[str, ...] = ()
    comments: tuple[str, ...] = ()


def read_table(path: Path) -> tuple[list[str], list[list[str]]]:
    """Return the header and the rows of `load_table`."""
    table = load_table(path)
    return table.header, table.rows


def load_table(path: Path) -> Table:
    """Read a table as text, by the ending of its name.

    - ``.xlsx``, ``.xlsm``: the first sheet, or the one that ``path#sheet`` names; values alone, no formula is computed.
      Whole numbers below 10^15 become their digits (12.0: ``12``), with the zeros in front that a format such as
      ``0000`` shows; longer ones, whose last digits Excel does not keep, ``1.23456789012346E+15``; dates become
      ``2024-01-31``, other numbers what Python writes. A formula whose value the file does not store, as programs that
      compute nothing write it, is `UNSTORED`, which `refuse_unreadable` refuses where the cell is used.
    - ``.parquet``, ``.pq``: columns of lists and records are left out; whole numbers become their digits.
    - everything else is text: UTF-8 with or without byte-order mark, or UTF-16 with one (Excel's "Unicode text");
      comma, semicolon or tab, whichever cuts the header into most cells; quoted cells; ``.gz`` is unpacked. Text in
      another encoding is refused: the bytes do not identify it, and a wrong guess changes ids.

    In all of them blank lines are skipped, cells are stripped, short rows are filled up with empty cells. Lines that
    begin with ``#`` above the header are comments (cBioPortal), unless the last of them is the header itself; a line of
    one cell above wider ones is a title; a row that repeats the header is left out. Cells that Excel has merged hold
    for all rows that they cover.

    Raises:
        MilbenchError: no such file or sheet, a damaged file, other text than that, no header, a row longer than the
            header, or a table larger than one of labels can be.
    """
    file, sheet = _sheet_of(path)
    _refuse_no_file(file)
    ending = file.suffix.lower()
    if ending in (".xls", ".ods"):
        raise MilbenchError(
            f"{file} is a spreadsheet that milbench does not read; save it as .xlsx or as CSV UTF-8.",
            code="file-unsupported",
        )
    if sheet is not None and ending not in _WORKBOOKS:
        raise MilbenchError(f"{file} has no sheets; remove #{sheet} from its path.", code="table-sheet")
    if ending in _WORKBOOKS:
        sheets: list[str] = []
        table = _shaped(_workbook(file, sheet, sheets), file)
        return table if sheet is not None or len(sheets) < 2 else _first_of(table, file, sheets)
    if ending in (".parquet", ".pq"):
        return _shaped(_parquet(file), file)
    text = read_text(file)
    return _shaped(_separated(text, file), file, ended=text.endswith(("\n", "\r")))


def table_file(path: Path) -> Path:
    """Return the file of a table, without the sheet that its path may name."""
    return _sheet_of(path)[0]


def read_text(path: Path) -> str:
    """Read a text file as `read_table` does: UTF-8, or UTF-16 with its mark; ``.gz`` is unpacked.

    Raises:
        MilbenchError: it cannot be read, is no such text, or is larger than tables are.
    """
    _refuse_no_file(path)
    packed = path.suffix.lower() == ".gz"
    try:
        with gzip.open(path) if packed else path.open("rb") as file:
            raw = file.read(_MOST_BYTES + 1)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise MilbenchError(f"{path} is damaged ({error}); copy it again.", code="table-damaged") from None
    except (OSError, ValueError) as error:  # ValueError: a path with a null byte
        raise _unread(path, error) from None
    if len(raw) > _MOST_BYTES:
        raise MilbenchError(_too_large(path, f"{_MOST_BYTES // 2**20} MiB"), code="file-too-large")
    if what := next((what for magic, what in _NO_TEXT.items() if raw.startswith(magic)), None):
        raise MilbenchError(f"{path} is not UTF-8 text but {what}.", code="table-not-utf8")
    wide = raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = raw.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise MilbenchError(
            f"{path} is not UTF-8 text{_at(raw, error.start)}; save it as UTF-8 (Excel: CSV UTF-8).",
            code="table-not-utf8",
        ) from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise MilbenchError(
            f"{path} line {line} holds a null byte, so it is no text; save it as UTF-8 (Excel: CSV UTF-8).",
            code="table-not-utf8",
        )
    return text


def _refuse_no_file(path: Path) -> None:
    """Refuse pipes, sockets and devices; what is missing, or a folder, is refused where it is opened."""
    try:
        odd = path.exists() and not path.is_dir()
    except (OSError, ValueError):
        return
    if odd:
        regular_size(path)


def refuse_unreadable(path: Path, table: tuple[Sequence[str], Sequence[Sequence[str]]], columns: Iterable[str]) -> None:
    """Refuse ids, labels and words of splits with characters that are shown as nothing, or as something else.

    They come from a damaged file or a wrong encoding, and make two names of one. Formulas without a stored value are
    refused, too.

    Args:
        path: for messages.
        table: header and rows.
        columns: of the header; a name that it does not have is passed over.

    Raises:
        MilbenchError: names the row, counted below the header, and the column.
    """
    header, rows = table
    for column in dict.fromkeys(columns):
        at = header.index(column) if column in header else None
        if at is None:
            continue
        if bare := sum(UNSTORED in row[at] for row in rows) + (UNSTORED in column):
            raise MilbenchError(
                unstored(path, bare, "" if UNSTORED in column else f" of column {column!r}"), code="table-formula"
            )
        if (problem := unreadable(column)) is not None:
            raise MilbenchError(
                f"{path} has {problem} in the name of column {column!r}; correct it.", code="text-unreadable"
            )
        for number, row in enumerate(rows, 1):
            if (problem := unreadable(row[at])) is not None:
                raise MilbenchError(
                    f"{path} has {problem} in row {number} of column {column!r} ({row[at][:60]!r}); correct it, or "
                    f"copy the file again.",
                    code="text-unreadable",
                )


def refuse_lost_digits(where: Path, column: str, cells: Iterable[str]) -> None:
    """Refuse ids that a spreadsheet has written as 1.23457E+15: the digits left out tell one from another.

    Or that went through a real number, as those of pandas in a column with an empty cell: 1234567890123456800.0.

    Raises:
        MilbenchError: there is one.
    """
    if lost := [cell for cell in dict.fromkeys(cells) if has_lost_digits(cell)]:
        raise MilbenchError(
            f"{where} has {some(lost, 3)} in column {column!r}: Excel, or a real number, has lost digits of these "
            "ids, as it keeps 15; write them as text in the spreadsheet, from where they came.",
            code="table-lost-digits",
        )


def has_lost_digits(cell: str) -> bool:
    """Whether an id is a number as spreadsheets shorten it, or a real number that is too large for all its digits."""
    if "+" in cell:
        return _SHORTENED.fullmatch(cell.strip()) is not None
    whole, point, rest = cell.strip().partition(".")
    real = point == "." and len(whole) > 15 and whole.isdecimal() and not rest.strip("0")
    return real and int(whole) >= 2**53


def unstored(path: Path, number: int, where: str = "") -> str:
    """Return a sentence about cells of a table that are `UNSTORED`, and how to save them."""
    are = "is a formula" if number == 1 else "are formulas"
    return (
        f"{count(number, 'cell')}{where} in {path} {are} without a stored value, and milbench computes none: open the "
        "workbook in Excel or LibreOffice and save it there, which stores the values, or save the sheet as CSV UTF-8."
    )


def unreadable(text: str) -> str | None:
    """Say which character of a name is shown as nothing or as something else; None where all of them are readable."""
    match = None if text.isascii() and text.isprintable() else _UNREADABLE.search(text)
    if match is None:
        return None
    if match[0] == UNSTORED:
        return "a formula without a stored value"
    what = "a letter that was lost to another encoding" if match[0] == "\ufffd" else "a control character"
    return f"{what} (U+{ord(match[0]):04X})"


def _shaped(rows: Rows, path: Path, ended: bool = True) -> Table:
    numbered = iter(rows)
    top = [(line, [cell.strip() for cell in row]) for line, row in itertools.islice(numbered, _TOP)]
    top = [(line, cells) for line, cells in top if any(cells)]
    while not top and (more := list(itertools.islice(numbered, _TOP))):
        top = [(line, stripped) for line, row in more if any(stripped := [cell.strip() for cell in row])]
    if not top:
        raise MilbenchError(f"{path} is empty; its first line must name the columns.", code="table-empty")
    at, comments, titles = _header_at([cells for _, cells in top])
    header = [plain_header(cell) for cell in top[at][1]]
    if UNSTORED in header and not known_names(header):
        raise MilbenchError(unstored(path, header.count(UNSTORED), " of the header"), code="table-formula")
    if any(n < at for n in comments) or at in comments:
        header[0] = header[0].removeprefix("#").strip() or header[0]
    lines = ", ".join(str(top[n][0]) for n in titles)
    notes = [f"line {lines} of {path.name} is read as a title, line {top[at][0]} as the header"] if titles else []
    kept: list[list[str]] = []
    again = 0
    short = [0, 0]  # rows with fewer cells than the header: of the last one, of all
    for line, row in itertools.chain(top[at + 1 :], numbered):
        cells = [cell.strip() for cell in row]
        if not any(cells):
            continue
        while len(cells) > len(header) and cells[-1] in ("", UNSTORED):  # spreadsheets leave separators behind
            cells.pop()
        if not any(cells):
            continue
        if len(cells) > len(header):
            raise MilbenchError(
                f"{path} line {line} has {len(cells)} cells but the header {len(header)}.", code="table-bad-line"
            )
        lacking = len(cells) < len(header)
        short = [int(lacking), short[1] + lacking]
        cells += [""] * (len(header) - len(cells))
        if len(header) > 1 and [plain_header(cell) for cell in cells] == header:
            again += 1
            continue
        kept.append(cells)
        if len(kept) * len(header) > _MOST_CELLS:
            raise MilbenchError(_too_large(path, f"{_MOST_CELLS:,} cells"), code="file-too-large")
    if not ended and kept and (short == [1, 1] or _is_beginning([row[-1] for row in kept])):
        raise MilbenchError(
            f"{path} seems to be truncated: its last line, {','.join(kept[-1])[:60]!r}, ends without a line break and "
            f"before its last cell is complete; copy the file again, or end the line with a line break if it is whole.",
            code="table-damaged",
        )
    if again:
        notes.append(f"{count(again, 'row')} of {path.name} repeat{'s' if again == 1 else ''} the header and "
                     f"{'is' if again == 1 else 'are'} left out")  # fmt: skip
    said = tuple(" ".join(filter(None, top[n][1])) for n in comments if n != at)
    return Table(header, kept, tuple(notes), said)


def _is_beginning(column: Sequence[str]) -> bool:
    """Whether the last cell is the beginning of a word that stands in several others, and stands nowhere itself.

    Numbers tell nothing: 1 is the beginning of 10. An empty cell is the beginning of all.
    """
    *others, last = column
    if last in others or len(others) < 2 or any(c.isdecimal() for c in last):
        return False
    words = Counter(others)
    return not last or any(times > 1 and word.startswith(last) for word, times in words.items())


def _header_at(top: Sequence[Sequence[str]]) -> tuple[int, list[int], list[int]]:
    """Return the position of the header among the first rows, those of comments and those of titles above it."""
    filled = [sum(map(bool, cells)) for cells in top]
    comments: list[int] = []
    at = 0
    while at < len(top) and next(cell for cell in top[at] if cell).startswith("#"):
        comments.append(at)
        at += 1
    if comments:
        last = comments[-1]
        names = known_names(top[last])
        below = known_names(top[at]) if at < len(top) else 0
        alone = len(comments) == 1 and filled[last] > 1 and below == 0
        if at == len(top) or names > below or alone:  # ``#slide_id,label``: the header itself
            return last, comments, []
    titles: list[int] = []
    while at + 1 < len(top):
        if _is_title(top, filled, at):
            titles.append(at)
        elif titles and _is_comment(top[at]) and known_names(top[at]) < 2:
            comments.append(at)
        else:
            break
        at += 1
    return at, comments, titles


def _is_title(top: Sequence[Sequence[str]], filled: Sequence[int], at: int) -> bool:
    if known_names(top[at]):
        return False
    wider = sum(number > filled[at] for number in filled[at + 1 : at + 11])
    if filled[at] == 1 and top[at][0] and wider >= 2:
        return True
    # A title with commas in it: what comes next is plainly the header.
    after = next((n for n in range(at + 1, len(top)) if not _is_comment(top[n]) or known_names(top[n]) > 1), len(top))
    return after + 1 < len(top) and known_names(top[after]) >= 2


def _is_comment(cells: Sequence[str]) -> bool:
    return next(cell for cell in cells if cell).startswith("#")


def _first_of(table: Table, path: Path, sheets: Sequence[str]) -> Table:
    """Say that a workbook has other sheets than the first, which was read.

    Raises:
        MilbenchError: the first holds no table.
    """
    others = f"{path}#{sheets[1]}"
    if not table.rows or len(table.header) == 1:
        raise MilbenchError(
            f"the first sheet of {path}, {sheets[0]!r}, holds no table; its other sheets are "
            f"{some(list(sheets[1:]), 10)}: name one as in {others}.",
            code="table-sheet",
        )
    if not known_names(table.header):
        for name in sheets[1:10]:
            try:
                other = _shaped(_workbook(path, name, []), path)
            except MilbenchError:
                continue
            if known_names(other.header) > 1 and other.rows:
                raise MilbenchError(
                    f"the first sheet of {path}, {sheets[0]!r}, has columns {some(table.header)}, and sheet {name!r} "
                    f"those of labels or splits, {some(other.header)}: name the sheet that is meant as in "
                    f"{path}#{name}, or {path}#{sheets[0]}.",
                    code="table-sheet",
                )
    note = f"the first sheet of {path.name}, {sheets[0]!r}, is read; {path.name}#{sheets[1]} would name another"
    return Table(table.header, table.rows, (*table.notes, note), table.comments)


def _too_large(path: Path, limit: str) -> str:
    return f"{path} holds more than {limit}, which no table of labels or splits does; give the right file."


def _at(raw: bytes, place: int) -> str:
    """Show where text stops being UTF-8, as it would read in the encoding that Windows uses in its stead."""
    line = raw.count(b"\n", 0, place) + 1
    before, after = re.split(rb"[,;\t\r\n\"]", raw[:place])[-1], re.split(rb"[,;\t\r\n\"]", raw[place:])[0]
    return f" (line {line}: {(before + after).decode('cp1252', errors='replace')[:40]!r} if it is Windows-1252)"


def _separated(text: str, path: Path) -> Iterator[tuple[int, list[str]]]:
    if said := re.match(r"sep=(.)\r?\n", text):  # Excel's own first line; a blank one keeps the lines' numbers
        delimiter, text = said[1], "\n" + text[said.end() :]
    else:
        delimiter = max(",;\t", key=lambda mark: _fit(text, mark))
    # Strict: otherwise a quotation mark that is never closed swallows the rest of the file.
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        for cells in reader:
            yield reader.line_num, cells
    except csv.Error as error:
        raise MilbenchError(
            f"{path} line {reader.line_num} is no CSV: {error}; check for a quotation mark that is not closed.",
            code="table-bad-line",
        ) from None


def _fit(text: str, delimiter: str) -> tuple[bool, bool, int]:
    """Return how well a separator suits: the header has known names, stands in no title's stead, and its cells.

    The second keeps decimal commas below ``score;weight`` from making a title of that line.
    """
    rows: list[list[str]] = []
    try:
        for cells in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter):
            if any(stripped := [cell.strip() for cell in cells]):
                rows.append(stripped)
            if len(rows) == _TOP:
                break
    except csv.Error:
        pass
    if not rows:
        return False, False, 0
    at, _, titles = _header_at(rows)
    width = len(rows[at])
    return known_names(rows[at]) > 0, width > 1 and not titles, width


def _sheet_of(path: Path) -> tuple[Path, str | None]:
    file, mark, sheet = path.name.rpartition("#")
    return (path, None) if not mark or not file or path.exists() else (path.with_name(file), sheet)


def _workbook(path: Path, sheet: str | None, sheets: list[str]) -> Iterator[tuple[int, list[str]]]:
    try:
        import openpyxl
    except ImportError:
        raise MilbenchError(
            f'{path} needs openpyxl; install it with pip install "milbench[formats]", or save it as CSV UTF-8.',
            code="package-missing",
        ) from None
    try:
        # A member of a zip archive never unpacks to more than the archive says.
        with zipfile.ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
            if size > _MOST_BYTES:
                raise MilbenchError(_too_large(path, f"{_MOST_BYTES // 2**20} MiB"), code="file-too-large")
            refuse_damaged_members(path, archive)
        with warnings.catch_warnings():  # about drop-down lists and the like, which are no values
            warnings.simplefilter("ignore")
            book = openpyxl.load_workbook(path, read_only=True, data_only=True, keep_links=False)
            try:
                sheets += [one.title for one in book.worksheets]
                yield from _sheet(book, path, sheet)
            finally:
                book.close()
    except MilbenchError:
        raise
    except OSError as error:
        raise _unread(path, error) from None
    except Exception as error:  # zip, XML, key and value errors, by what is wrong with the file
        raise MilbenchError(
            f"{path} is damaged or no .xlsx workbook ({_reason(error)}); save it again.", code="table-damaged"
        ) from None


def _sheet(book: Any, path: Path, name: str | None) -> Iterator[tuple[int, list[str]]]:
    sheets = {sheet.title: sheet for sheet in book.worksheets}
    if name is not None and name not in sheets:
        raise MilbenchError(f"{path} has no sheet {name!r}.{did_you_mean(name, sheets)}", code="table-sheet")
    if not sheets:
        raise MilbenchError(f"{path} has no sheet with cells; give one.", code="table-sheet")
    sheet = sheets[name] if name is not None else next(iter(sheets.values()))
    sheet.reset_dimensions()  # what the file says of its size may be wrong, even on purpose
    cells = 0
    with sheet._get_source() as source:
        text = source.read(_MOST_BYTES)
    # Column -> last row and text of the merged cell that covers it.
    merged, bare, held = _merged(text), _bare_formulas(text), dict[int, tuple[int, str]]()
    del text
    for line, row in enumerate(sheet.iter_rows(), 1):
        cells += len(row)
        if line > _EXCEL_ROWS or cells > _MOST_CELLS:
            raise MilbenchError(
                _too_large(path, f"{_EXCEL_ROWS:,} rows or {_MOST_CELLS:,} cells"), code="file-too-large"
            )
        texts = [_excel_text(cell.value, cell.number_format if cell.value is not None else "") for cell in row]
        for column in bare.get(line, ()):
            texts += [""] * (column + 1 - len(texts))
            texts[column] = texts[column] or UNSTORED
        for column, (last, covering) in held.items():
            if line <= last and any(texts):
                texts += [""] * (column + 1 - len(texts))
                texts[column] = texts[column] or covering
        for column, last in merged.get(line, ()):
            held[column] = last, texts[column] if column < len(texts) else ""
        yield line, texts


def _bare_formulas(text: bytes) -> Mapping[int, Sequence[int]]:
    """Return row -> columns from 0 of the cells of a sheet whose formula has no stored value; openpyxl gives nothing.

    Args:
        text: of the sheet, XML.
    """
    from openpyxl.utils.cell import column_index_from_string, coordinate_from_string

    formulas: dict[int, list[int]] = {}
    for cell in _BARE_FORMULA.finditer(text) if b"f>" in text or b"<f" in text else ():
        place = re.search(rb"\br=\"([A-Z]+[0-9]+)\"", cell["of"])
        if place is None or (cell["value"] is not None and re.search(rb"\bt=\"str\"", cell["of"])):
            continue
        column, row = coordinate_from_string(place[1].decode("ascii"))
        formulas.setdefault(row, []).append(column_index_from_string(column) - 1)
    return formulas


def _merged(text: bytes) -> Mapping[int, Sequence[tuple[int, int]]]:
    """Return first row -> (column from 0, last row) of the merged cells of a sheet that cover several rows.

    openpyxl tells of them only when it keeps the whole workbook in memory. Of cells merged over several columns, which
    titles are, the first column alone counts.

    Args:
        text: of the sheet, XML.
    """
    from openpyxl.utils import range_boundaries

    merged: dict[int, list[tuple[int, int]]] = {}
    for reference in re.findall(rb"<(?:\w+:)?mergeCell\b[^>]*\bref=\"([A-Z]+[0-9]+:[A-Z]+[0-9]+)\"", text):
        column, first, _, last = range_boundaries(reference.decode("ascii"))
        if last > first:
            merged.setdefault(first, []).append((column - 1, last))
    return merged


def _excel_text(value: Any, shown: str) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return _plain_text(value)
    if abs(value) >= _EXCEL_EXACT:
        return f"{value:.14E}"
    text = _plain_text(float(value))
    return text.zfill(len(shown)) if re.fullmatch("00+", shown) and text.isdigit() else text


def _parquet(path: Path) -> Iterator[tuple[int, list[str]]]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with path.open("rb") as source:
            schema = parquet.read_schema(source)
            flat = [field for field in schema if not pa.types.is_nested(field.type)]
            words = [field.name for field in flat if not pa.types.is_primitive(field.type)]
            # Words that repeat are kept once: a column of one long word a million times is small on disk.
            file = parquet.ParquetFile(source, read_dictionary=words, page_checksum_verification=True)
            refuse_parquet_gaps(path, path.stat().st_size)
            size = sum(file.metadata.row_group(i).total_byte_size for i in range(file.metadata.num_row_groups))
            if size > _MOST_BYTES or file.metadata.num_rows * len(flat) > _MOST_CELLS:
                raise MilbenchError(
                    _too_large(path, f"{_MOST_BYTES // 2**20} MiB or {_MOST_CELLS:,} cells"), code="file-too-large"
                )
            table = file.read(columns=[field.name for field in flat])
        columns = [_column(table.column(i)) for i in range(table.num_columns)]
    except MilbenchError:
        raise
    except OSError as error:
        if error.strerror is None:  # pyarrow's word for damaged pages
            raise MilbenchError(
                f"{path} is damaged ({_reason(error)}); write it again.", code="table-damaged"
            ) from None
        raise _unread(path, error) from None
    except Exception as error:  # Arrow, Unicode and value errors, by what is wrong with the file
        raise MilbenchError(
            f"{path} is damaged or no Parquet ({_reason(error)}); write it again.", code="table-damaged"
        ) from None
    yield 1, list(table.column_names)
    yield from enumerate((list(row) for row in zip(*columns, strict=True)), 2)


def _column(column: Any) -> list[str]:
    cells: list[str] = []
    for chunk in column.chunks:
        if hasattr(chunk, "dictionary"):
            words = [_plain_text(value) for value in chunk.dictionary.to_pylist()]
            cells += ["" if i is None else words[i] for i in chunk.indices.to_pylist()]
        else:
            cells += [_plain_text(value) for value in chunk.to_pylist()]
    return cells


def _plain_text(value: Any) -> str:
    """Write a value; a whole real number as its digits, as labels and ids often come as reals."""
    if value is None or value != value:
        return ""
    if isinstance(value, bool):
        return str(value).upper()
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return str(int(value))
    if isinstance(value, datetime.datetime) and value.time() == datetime.time():
        return value.date().isoformat()
    return value.decode() if isinstance(value, bytes) else str(value)


def _reason(error: Exception) -> str:
    return str(error).strip().split("\n")[0][:120] or type(error).__name__


def _unread(path: Path, error: OSError | ValueError) -> MilbenchError:
    """Return the error of a table that the system does not open: it is absent, or its permissions forbid it."""
    if isinstance(error, FileNotFoundError):
        return MilbenchError(f"{path} does not exist; correct its path, or write the table.", code="file-missing")
    reason = getattr(error, "strerror", None) or error
    return MilbenchError(f"{path} cannot be read: {reason}; correct its path or permissions.", code="file-unreadable")
