"""Files that are longer, shorter or otherwise than their writer left them are refused; valid ones are read."""

from __future__ import annotations

import zipfile
from pathlib import Path

import h5py
import numpy as np
import openpyxl
import pandas as pd
import pyarrow as pa
import pytest
import torch
from pyarrow import parquet
from safetensors.numpy import save_file
from support.refusal import refused
from torch.serialization import set_crc32_options

from milbench.data.cache.build import build_cache
from milbench.data.cache.reader import FeatureCache
from milbench.data.onboarding.label_guess import Tables, read_label_rows
from milbench.data.onboarding.survey import survey
from milbench.data.splits.files import read_folds
from milbench.data.text_tables import load_table

X = np.random.default_rng(0).normal(size=(40, 8)).astype(np.float32)


def _npy(path: Path) -> None:
    np.save(path, X)


def _npz(path: Path) -> None:
    np.savez(path, features=X)


def _h5(path: Path, **options) -> None:
    with h5py.File(path, "w", **options) as file:
        file["features"] = X
        file["coords"] = np.arange(80).reshape(40, 2)


def _h5_swmr(path: Path) -> None:
    with h5py.File(path, "w", libver="latest") as file:
        rows = file.create_dataset("features", (0, 8), maxshape=(None, 8), chunks=(16, 8), dtype="f4")
        file["coords"] = np.arange(80).reshape(40, 2)
        file.swmr_mode = True
        rows.resize((40, 8))
        rows[:] = X


def _h5_appended(path: Path) -> None:
    _h5(path)
    with h5py.File(path, "a") as file:
        file["more"] = np.arange(1000)
        del file["more"]


def _pt(path: Path) -> None:
    torch.save({"features": torch.from_numpy(X)}, path)


def _pt_legacy(path: Path) -> None:
    torch.save(torch.from_numpy(X), path, _use_new_zipfile_serialization=False)


def _pt_without_checksums(path: Path) -> None:
    set_crc32_options(False)
    try:
        _pt(path)
    finally:
        set_crc32_options(True)


def _safetensors(path: Path) -> None:
    save_file({"features": X}, path)


def _parquet(path: Path, **options) -> None:
    columns = {f"f{i}": X[:, i] for i in range(8)}
    parquet.write_table(pa.table({"slide_id": ["s"] * 40, **columns}), path, **options)


WRITERS = {
    "npy": ("npy", _npy),
    "npz": ("npz", _npz),
    "h5": ("h5", _h5),
    "h5 of the latest form": ("h5", lambda path: _h5(path, libver="latest")),
    "h5 with a user block": ("h5", lambda path: _h5(path, userblock_size=1024)),
    "h5 by pages": ("h5", lambda path: _h5(path, fs_strategy="page")),
    "h5 written with readers": ("h5", _h5_swmr),
    "h5 written to twice": ("h5", _h5_appended),
    "pt": ("pt", _pt),
    "pt of the old form": ("pt", _pt_legacy),
    "pt without checksums": ("pt", _pt_without_checksums),
    "safetensors": ("safetensors", _safetensors),
    "parquet": ("parquet", _parquet),
    "parquet with indexes": ("parquet", lambda path: _parquet(path, write_page_index=True)),
    "parquet of pages 2": ("parquet", lambda path: _parquet(path, data_page_version="2.0", row_group_size=16)),
    "parquet with checksums": ("parquet", lambda path: _parquet(path, write_page_checksum=True)),
}


def build(folder: Path, kind: str, change=None) -> np.ndarray:
    """Write one file, change its bytes, build a cache of it and return what that holds."""
    ending, write = WRITERS[kind]
    source = folder / "features"
    source.mkdir()
    path = source / f"s.{ending}"
    write(path)
    if change is not None:
        path.write_bytes(change(path.read_bytes()))
    survey(path if ending == "parquet" else source)
    cache = build_cache(path if ending == "parquet" else source, folder / "out.cache", dtype="float32").out
    return FeatureCache.open(cache)["s"].numpy()


@pytest.mark.parametrize("kind", WRITERS)
def test_a_valid_file_is_read(kind, tmp_path):
    np.testing.assert_array_equal(build(tmp_path, kind), X)


@pytest.mark.parametrize("kind", [kind for kind in WRITERS if kind not in ("npz", "pt", "pt without checksums")])
def test_bytes_behind_the_end_are_refused(kind, tmp_path):
    with refused("table-damaged" if "parquet" in kind else "file-damaged", f"s.{WRITERS[kind][0]}"):
        build(tmp_path, kind, lambda raw: raw + b"\0" * 8)


@pytest.mark.parametrize("kind", [kind for kind in WRITERS if kind != "pt without checksums"])
def test_a_truncated_file_is_refused(kind, tmp_path):
    with refused("table-damaged" if "parquet" in kind else "file-damaged", f"s.{WRITERS[kind][0]}"):
        build(tmp_path, kind, lambda raw: raw[:-4])


@pytest.mark.parametrize(
    "kind", [kind for kind in WRITERS if kind not in ("parquet with indexes", "parquet of pages 2")]
)
def test_bytes_inserted_among_the_values_are_refused(kind, tmp_path):
    values = X[20].tobytes()[:12]

    def insert(raw: bytes) -> bytes:
        at = raw.find(values) if values in raw else len(raw) // 2
        return raw[:at] + b"\0\0\0\0" + raw[at:]

    with refused("file-damaged"):
        build(tmp_path, kind, insert)


@pytest.mark.parametrize("kind", ["npz", "pt", "parquet with checksums"])
def test_a_bit_of_a_value_is_missed_in_no_file_with_checksums(kind, tmp_path):
    def flip(raw: bytes) -> bytes:
        made = bytearray(raw)
        value = X[20, 3:5] if kind != "parquet with checksums" else X[20:22, 3]
        at = raw.find(value.tobytes())
        made[at if at >= 0 else len(raw) // 2] ^= 1
        return bytes(made)

    with refused("table-damaged" if "parquet" in kind else "file-damaged", f"s.{WRITERS[kind][0]}"):
        build(tmp_path, kind, flip)


def test_a_member_of_an_archive_with_more_bytes_than_its_array_is_refused(tmp_path):
    source = tmp_path / "features"
    source.mkdir()
    np.save(tmp_path / "x.npy", X)
    with zipfile.ZipFile(source / "s.npz", "w") as archive:
        archive.writestr("features.npy", (tmp_path / "x.npy").read_bytes() + b"\0\0\0\0")
    with refused("file-damaged", "s.npz"):
        build_cache(source, tmp_path / "out.cache")


# --- tables -----------------------------------------------------------------------------------------------------------

IDS = [f"s{i:02d}" for i in range(12)]
ROWS = [f"{name},p{i},{'tumour' if i % 2 else 'normal'}" for i, name in enumerate(IDS)]
LABELS = "slide_id,patient_id,label\n" + "\n".join(ROWS) + "\n"


def rows_of(folder: Path, content: str | bytes):
    path = folder / "labels.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_label_rows(Tables(path), IDS).rows


@pytest.mark.parametrize("left", ["s11", "s11,p11", "s11,p11,", "s11,p11,tumo", 's11,p11,"tumour'])
def test_a_table_that_ends_within_a_row_is_refused(left, tmp_path):
    whole = LABELS[: LABELS.index("s11")]
    with refused("table-bad-line" if '"' in left else "table-damaged", "labels.csv"):
        rows_of(tmp_path, whole + left)


@pytest.mark.parametrize(
    ("header", "cells", "last"),
    [
        ("slide_id,patient_id,label", ["p,a", "p,b"], "p,a"),  # without a line break at its end, and whole
        ("slide_id,patient_id,label", ["p,1", "p,10"], "p,100"),
        ("slide_id,patient_id,label", ["p,10", "p,100"], "p,1"),  # numbers with the same beginning
        ("slide_id,patient_id,label,note", ["p,a", "p,b"], "p,a"),  # rows that are all short
        ("slide_id,patient_id,label,note", ["p,a,", "p,b,x"], "p,a,"),
    ],
)
def test_a_whole_table_without_a_last_line_break_is_read(header, cells, last, tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text("\n".join([header, *(f"s{i},{cell}" for i, cell in enumerate(cells * 5)), f"s99,{last}"]))
    assert load_table(path).rows[-1][:3] == ["s99", *last.split(",")[:2]]


def test_a_line_break_says_that_the_last_row_is_whole(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text(LABELS.replace("s11,p11,tumour", "s11,p11,tum"))
    assert load_table(path).rows[-1] == ["s11", "p11", "tum"]


@pytest.mark.parametrize("mark", ["\x01", "\x0b", "\x0c", "\x1b[31m", "\x7f", "\x85", "\ufffd", "\u202e", "\u2066"])
@pytest.mark.parametrize("column", range(3))
def test_unreadable_characters_are_named_by_row_and_column(mark, column, tmp_path):
    cells = ["s05", "p5", "tumour"]
    damaged = [cell[0] + mark + cell[1:] if at == column else cell for at, cell in enumerate(cells)]
    with refused("text-unreadable") as caught:
        rows_of(tmp_path, LABELS.replace(",".join(cells), ",".join(damaged)))
    said = str(caught.value)
    assert "row 6" in said
    assert repr(("slide_id", "patient_id", "label")[column]) in said
    assert f"U+{ord(mark[0]):04X}" in said
    assert said.isprintable()


def test_unreadable_characters_in_columns_that_are_not_used_do_not_matter(tmp_path):
    lines = LABELS.splitlines()
    text = "\n".join([f"{lines[0]},comment", *(f"{line},seen\x0bagain" for line in lines[1:])]) + "\n"
    assert [row.slide for row in rows_of(tmp_path, text)] == IDS


def test_letters_of_another_encoding_are_named_by_their_line(tmp_path):
    with refused("table-not-utf8", "7"):
        rows_of(tmp_path, LABELS.replace("s05,p5", "s05,pé").encode("cp1252"))


@pytest.mark.parametrize("form", ["list", "columns", "parts"])
def test_unreadable_characters_in_a_split_file_are_refused(form, tmp_path):
    parts = ["train"] * 6 + ["val"] * 2 + ["test"] * 4
    names = [name if i != 7 else "s\x0707" for i, name in enumerate(IDS)]
    match form:
        case "list":
            path = tmp_path / "splits.csv"
            pd.DataFrame({"slide_id": names, "split": parts}).to_csv(path, index=False)
        case "columns":
            path = tmp_path / "fold0.csv"
            columns = {p: pd.Series([n for n, q in zip(names, parts, strict=True) if q == p]) for p in set(parts)}
            pd.DataFrame(columns).to_csv(path, index=False)
        case _:
            path = tmp_path
            for part in set(parts):
                here = [n for n, q in zip(names, parts, strict=True) if q == part]
                pd.DataFrame({"slide_id": here}).to_csv(tmp_path / f"{part}.csv", index=False)
    with refused("text-unreadable", "0007"):
        read_folds(str(path), tmp_path, {name: name for name in IDS})


def test_unreadable_names_of_slides_are_refused(tmp_path):
    source = tmp_path / "features"
    source.mkdir()
    for name in ("a", "b\x1b"):
        np.save(source / f"{name}.npy", X)
    with refused("name-bad", "U+001B"):
        build_cache(source, tmp_path / "out.cache")


def test_a_damaged_workbook_is_refused(tmp_path):
    path = tmp_path / "labels.xlsx"
    book = openpyxl.Workbook()
    for line in LABELS.splitlines():
        book.active.append(line.split(","))
    book.save(path)
    with zipfile.ZipFile(path) as archive:
        members = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    assert len(load_table(path).rows) == 12
    raw = path.read_bytes()
    name = next(word for word in (b"s05", b"tumour") if word in raw)
    path.write_bytes(raw.replace(name, name[:-1] + b"7", 1))
    with refused("file-damaged", "labels.xlsx"):
        load_table(path)
