"""Tables: the same text from every kind of file people keep tables in, and a sentence for every file that is none."""

from __future__ import annotations

import contextlib
import csv
import datetime
import gzip
import io
import zipfile

import openpyxl
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.refusal import refused

from milbench import MilbenchError
from milbench.data import text_tables as tables
from milbench.data.names.spellings import path_stem, without_suffix
from milbench.data.text_tables import read_table

HEADER = ["slide_id", "patient_id", "label"]
ROWS = [["0012", "p;1", "tumour, left"], ["TCGA-A2.1 a", 'he said "x"', "Ödem\nline two"], ["-7", "", "1.0"]]


def _csv(delimiter=",", rows=None):
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=delimiter).writerows(rows or [HEADER, *ROWS])
    return text.getvalue()


def _xlsx(path, sheets, formats=None):
    book = openpyxl.Workbook()
    book.remove(book.active)
    for name, rows in sheets.items():
        sheet = book.create_sheet(name)
        for row in rows:
            sheet.append(row)
    for cell, shown in (formats or {}).items():
        book.worksheets[0][cell].number_format = shown
    book.save(path)
    return path


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("packed", [False, True])
def test_text_tables(tmp_path, encoding, delimiter, packed):
    raw = _csv(delimiter).encode(encoding)
    path = tmp_path / ("t.csv.gz" if packed else "t.csv")
    path.write_bytes(gzip.compress(raw, mtime=0) if packed else raw)
    assert read_table(path) == (HEADER, ROWS)


def test_workbooks(tmp_path):
    path = _xlsx(tmp_path / "t.xlsx", {"first": [HEADER, *ROWS], "Blatt 2": [["a", None], [None, None], ["x", None]]})
    assert read_table(path) == (HEADER, ROWS)
    assert read_table(tmp_path / "t.xlsx#Blatt 2") == (["a"], [["x"]])
    with refused("table-sheet", "t.xlsx", "'First'", "'first'"):
        read_table(tmp_path / "t.xlsx#First")
    (tmp_path / "odd#name.csv").write_text("a\n1\n")
    assert read_table(tmp_path / "odd#name.csv") == (["a"], [["1"]])
    with refused("table-sheet", "odd#name.csv", "one"):
        read_table(tmp_path / "odd#name.csv#one")


def test_what_excel_makes_of_ids_and_labels(tmp_path):
    day = datetime.datetime(2024, 1, 31)
    values = [
        12.0,
        12,
        7,
        "0007",
        1.5,
        True,
        day,
        day.replace(hour=5),
        999_999_999_999_999,
        1_234_567_890_123_456,
        None,
    ]
    path = _xlsx(tmp_path / "t.xlsx", {"s": [["id"], *([v] for v in values), ["=1+1"]]}, {"A4": "0000"})
    assert [row[0] for row in read_table(path)[1]] == [
        "12", "12", "0007", "0007", "1.5", "TRUE", "2024-01-31", "2024-01-31 05:00:00", "999999999999999",
        "1.23456789012346E+15", tables.UNSTORED,
    ]  # fmt: skip


def test_parquet(tmp_path):
    frame = pd.DataFrame(HEADER_COLUMNS := {name: [row[i] for row in ROWS] for i, name in enumerate(HEADER)})
    frame.to_parquet(tmp_path / "t.parquet", index=False)
    assert read_table(tmp_path / "t.parquet") == (HEADER, ROWS)
    indexed = frame.set_index("slide_id")
    indexed["patient_id"] = indexed["patient_id"].astype("category")
    indexed.to_parquet(tmp_path / "t.pq")
    header, rows = read_table(tmp_path / "t.pq")
    assert {name: [row[header.index(name)] for row in rows] for name in header} == HEADER_COLUMNS
    table = pa.table({
        "i": pa.array([1, 2**60 + 1, None]), "f": [1.0, 2.5, float("nan")], "b": [True, None, False],
        "lists": [[1.0], [2.0], []], "bytes": [b"a", b"b", None], "day": [datetime.date(2024, 1, 31)] * 3,
    })  # fmt: skip
    pq.write_table(table, tmp_path / "t.parquet")
    assert read_table(tmp_path / "t.parquet") == (
        ["i", "f", "b", "bytes", "day"],
        [["1", "1", "TRUE", "a", "2024-01-31"], [str(2**60 + 1), "2.5", "", "b", "2024-01-31"],
         ["", "", "FALSE", "", "2024-01-31"]],
    )  # fmt: skip


_CELLS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=8).map(str.strip)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), columns=st.integers(2, 4), mark=st.sampled_from([",", ";", "\t"]))
def test_what_csv_writes_is_what_is_read(data, columns, mark, tmp_path_factory):
    row = st.lists(_CELLS, min_size=columns, max_size=columns).filter(any)
    header = [f"column {i}" for i in range(columns)]
    rows = data.draw(st.lists(row, max_size=6))
    path = tmp_path_factory.mktemp("t") / "t.csv"
    path.write_bytes(_csv(mark, [header, *rows]).encode())
    assert read_table(path) == (header, rows)


@settings(max_examples=25, deadline=None)
@given(
    rows=st.lists(
        st.lists(_CELLS.filter(lambda t: not t.startswith("=")), min_size=3, max_size=3).filter(any), max_size=5
    )
)
def test_what_excel_holds_is_what_is_read(rows, tmp_path_factory):
    path = _xlsx(tmp_path_factory.mktemp("t") / "t.xlsx", {"s": [HEADER, *([v or None for v in row] for row in rows)]})
    assert read_table(path) == (HEADER, rows)


def test_untidy_tables(tmp_path):
    for text, due in (
        ("\n , \na,b\n\n1\n2,3\n ,\n", (["a", "b"], [["1", ""], ["2", "3"]])),
        ("a,b\n1,2,,\n", (["a", "b"], [["1", "2"]])),
        ("a;b\n0,5;0,7\n0,25;1,5\n", (["a", "b"], [["0,5", "0,7"], ["0,25", "1,5"]])),
        ("a;b\n;,0\n1;,5\n2;,7\n", (["a", "b"], [["", ",0"], ["1", ",5"], ["2", ",7"]])),
        ("sep=;\na,x;b\n1;2\n", (["a,x", "b"], [["1", "2"]])),
        ('"a;b","c;d"\n1,2\n', (["a;b", "c;d"], [["1", "2"]])),
        ("a\r1\r2\r", (["a"], [["1"], ["2"]])),
        ("a,b\n1\x85x,2\n", (["a", "b"], [["1\x85x", "2"]])),
    ):
        (tmp_path / "t.csv").write_bytes(text.encode())
        assert read_table(tmp_path / "t.csv") == due


def _zip(members):
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return raw.getvalue()


def _with_sheet(path, xml):
    """A workbook whose sheet is this XML."""
    _xlsx(path, {"s": [["a"], ["1"]]})
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    path.write_bytes(_zip(members | {"xl/worksheets/sheet1.xml": xml}))


_SHEET = (
    '<worksheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"><sheetData>{}</sheetData></worksheet>'
)
_LAUGHS = "".join(f'<!ENTITY l{i} "{f"&l{i - 1};" * 10 if i else "ha" * 50}">' for i in range(10))

BAD = {
    "t.csv": [
        (b"", ("table-empty",)),
        (b"\xef\xbb\xbf\n \n", ("table-empty",)),
        (b"a,b\n1,2,3\n", ("table-bad-line", "2", "3")),
        (b'a,b\n1,"2\n3,4\n5,6\n', ("table-bad-line",)),
        (b'a,b\n1,"2"x\n', ("table-bad-line", "2")),
        ("a,b\nx,1\nStraße,2\n".encode("latin-1"), ("table-not-utf8", "3", "'Straße'")),
        (b"a,b\n\x00,1\n", ("table-not-utf8", "2")),
        ("a,b\n1,2\n".encode("utf-16-le"), ("table-not-utf8", "1")),
        (b"\xff\xfea\x00,\x00b", ("table-not-utf8",)),
        (b"\xff\xfe\x00\xd8\x00", ("table-not-utf8",)),
        (_zip({"x": "y"}), ("table-not-utf8", ".xlsx")),
        (b"PAR1" + bytes(9), ("table-not-utf8", ".parquet")),
        (gzip.compress(b"a", mtime=0), ("table-not-utf8", ".gz")),
        (b"\xd0\xcf\x11\xe0\xa1\xb1", ("table-not-utf8",)),
        (b"a,b\n1," + b"x" * 200_000 + b"\n", ("table-bad-line",)),
    ],
    "t.csv.gz": [
        (b"a,b\n1,2\n", ("table-damaged",)),
        (gzip.compress(b"a,b\n" * 1000, mtime=0)[:-20], ("table-damaged",)),
        (gzip.compress(b"a,b\n", mtime=0) + b"x", ("table-damaged",)),
    ],
    "t.xlsx": [
        (b"", ("table-damaged", ".xlsx")),
        (b"a,b\n1,2\n", ("table-damaged", ".xlsx")),
        (_zip({"x": "y"}), ("table-damaged", ".xlsx")),
    ],
    "t.parquet": [(b"", ("table-damaged",)), (b"PAR1PAR1", ("table-damaged",)), (b"a,b\n1,2\n", ("table-damaged",))],
    "t.xls": [(b"", ("file-unsupported", ".xlsx"))],
    "t.ods": [(b"", ("file-unsupported",))],
}  # fmt: skip


@pytest.mark.parametrize(("name", "raw", "refusal"), [(n, *case) for n, cases in BAD.items() for case in cases])
def test_files_that_are_no_table(name, raw, refusal, tmp_path):
    (tmp_path / name).write_bytes(raw)
    with refused(*refusal):
        read_table(tmp_path / name)


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz", "t.xlsx", "t.xlsx#s", "t.parquet"])
def test_files_that_are_not_there(name, tmp_path):
    with refused("file-missing"):
        read_table(tmp_path / name)
    (tmp_path / name).mkdir()
    with refused("file-unreadable"):
        read_table(tmp_path / name)
    with refused("file-unreadable"):
        read_table(tmp_path / "a\0b.csv")


@settings(max_examples=60, deadline=None)
@given(
    position=st.floats(0, 1),
    flip=st.integers(1, 255),
    kind=st.sampled_from(["xlsx", "parquet", "csv.gz"]),
    whole=st.booleans(),
)
def test_damaged_files_end_in_a_sentence(position, flip, kind, whole, tmp_path_factory):
    path = tmp_path_factory.mktemp("t") / f"t.{kind}"
    if kind == "xlsx":
        _xlsx(path, {"s": [HEADER, *ROWS]})
    elif kind == "parquet":
        pd.DataFrame(ROWS, columns=HEADER).to_parquet(path)
    else:
        path.write_bytes(gzip.compress(_csv().encode(), mtime=0))
    raw = bytearray(path.read_bytes())
    at = min(int(position * len(raw)), len(raw) - 1)
    if whole:
        raw[at] ^= flip
    else:
        del raw[at:]
    path.write_bytes(raw)
    with contextlib.suppress(MilbenchError):  # not where a flipped byte lies in what is not read
        header, rows = read_table(path)
        assert all(len(row) == len(header) for row in rows)


def test_bombs_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "_MOST_BYTES", 2**20)
    monkeypatch.setattr(tables, "_MOST_CELLS", 10_000)
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(b"a,b\n" + b"1,2\n" * 2**19, mtime=0))
    (tmp_path / "t.csv").write_bytes(b"a\n" + b"1\n" * 20_000)
    _xlsx(tmp_path / "large.xlsx", {"s": [["a"], ["1"]]})
    with zipfile.ZipFile(tmp_path / "large.xlsx", "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("xl/media/zeros.bin", bytes(2**22))
    pq.write_table(pa.table({"a": ["x" * 1000] * 20_000}), tmp_path / "long.parquet")
    pq.write_table(pa.table({"a": [str(i) * 300 for i in range(2000)]}), tmp_path / "wide.parquet", compression="zstd")
    # One cell far out: row 10^9, and many rows that end in the last column.
    _with_sheet(tmp_path / "far.xlsx", _SHEET.format('<row r="1000000000"><c r="A1000000000"><v>1</v></c></row>'))
    rows = "".join(f'<row r="{i}"><c r="XFD{i}"><v>1</v></c></row>' for i in range(1, 100))
    _with_sheet(tmp_path / "broad.xlsx", _SHEET.format(rows))
    for path in sorted(tmp_path.iterdir()):
        with refused("file-too-large"):
            read_table(path)


def test_entities_that_multiply_are_refused(tmp_path):
    text = f"<!DOCTYPE x [{_LAUGHS}]>" + _SHEET.format('<row r="1"><c r="A1" t="str"><v>&l9;</v></c></row>')
    _with_sheet(tmp_path / "t.xlsx", text)
    with refused("table-damaged", ".xlsx"):
        read_table(tmp_path / "t.xlsx")


def test_a_sheet_that_lies_about_its_size(tmp_path):
    text = _SHEET.format('<row r="1"><c r="A1" t="str"><v>a</v></c></row><row r="2"><c r="A2"><v>7</v></c></row>')
    _with_sheet(tmp_path / "t.xlsx", text.replace("<sheetData>", '<dimension ref="A1:XFD1048576"/><sheetData>'))
    assert read_table(tmp_path / "t.xlsx") == (["a"], [["7"]])


def test_names():
    assert [path_stem(p) for p in ("/a.b/TCGA-1.x.h5", r"C:\data\s 1.pt", "s", ".h5", "")] == [
        "TCGA-1.x", "s 1", "s", ".h5", "",
    ]  # fmt: skip
    assert [without_suffix(n, (".svs", ".tif")) for n in ("a.svs", "a.tif", "a.svs.tif", "a")] == [
        "a",
        "a",
        "a.svs",
        "a",
    ]


def _restored(path, cell, value, kind=""):
    """Store the value of a formula as Excel does."""
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    name = "xl/worksheets/sheet1.xml"
    text = parts[name].decode()
    at = text.index(f'<c r="{cell}"')
    end = text.index("</c>", at)
    stored = text[at:end].replace("<v />", f"<v>{value}</v>").replace(f'"{cell}"', f'"{cell}"{kind}')
    parts[name] = (text[:at] + stored + text[end:]).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for each, raw in parts.items():
            archive.writestr(each, raw)


def test_a_formula_without_a_stored_value_is_no_empty_cell(tmp_path):
    rows = [
        HEADER,
        ["S1", "P1", "=0+1"],
        ["S2", "P2", '=IF(A2="","",1)'],
        ["S3", "P3", "0", "=1+2"],
        [None] * 3 + ["=2"],
    ]
    path = _xlsx(tmp_path / "t.xlsx", {"s": rows})
    header, actual = read_table(path)
    assert [row[:2] for row in actual] == [["S1", "P1"], ["S2", "P2"], ["S3", "P3"]]
    tables.refuse_unreadable(path, (header, actual), HEADER[:2])  # a column that is not used does no harm
    with refused("table-formula"):
        tables.refuse_unreadable(path, (header, actual), HEADER)
    _restored(path, "C2", "1")
    _restored(path, "C3", "", ' t="str"')  # its value is the empty text
    header, actual = read_table(path)
    assert [row[2] for row in actual] == ["1", "", "0"]
    tables.refuse_unreadable(path, (header, actual), HEADER)


@pytest.mark.parametrize("cell", ["1.23457E+15", "1,2e+11", "1E+05", "1234567890123456800.0", "9007199254740993."])
def test_ids_that_have_lost_digits(cell):
    assert tables.has_lost_digits(cell)


@pytest.mark.parametrize("cell", ["100.0", "999999999999999.0", "1234567890123456789", "TCGA-1E+05", "12E+05", "1.5",
                                  "1234567890123456789.5", "1234567890123456789.svs", "", ".", "+"])  # fmt: skip
def test_ids_that_have_not(cell):
    assert not tables.has_lost_digits(cell)
