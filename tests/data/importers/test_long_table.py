"""Long tables, one row a patch: written with pandas, pyarrow and csv as people keep them, in any order of rows."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pyarrow import parquet
from support.features import Slide, digit_slides
from support.foreign import read_source, same_bits, source_table
from support.refusal import refused

from milbench import FeatureCache
from milbench.data.cache.build import build_cache
from milbench.data.importers import _csv_table, _parquet, detect_format, formats
from milbench.data.onboarding.survey import survey

SLIDES = digit_slides(patients=5)
F = [f"f{j}" for j in range(64)]


def frame(slides: Sequence[Slide] = SLIDES) -> pd.DataFrame:
    """One row a patch: slide_id, patient_id, label, x, y and the features."""
    parts = []
    for slide in slides:
        part = pd.DataFrame({"slide_id": slide.name, "patient_id": slide.patient, "label": slide.label},
                            index=range(len(slide.x)))  # fmt: skip
        part[["x", "y"]] = slide.xy
        parts.append(pd.concat([part, pd.DataFrame(slide.x, columns=F)], axis=1))
    return pd.concat(parts, ignore_index=True)


def as_lists(table: pd.DataFrame, fixed: bool) -> pa.Table:
    """The same with one column of features and one of coordinates."""
    x, xy = table[F].to_numpy(np.float32), table[["x", "y"]].to_numpy()
    if fixed:
        lists = [pa.FixedSizeListArray.from_arrays(part.reshape(-1), part.shape[1]) for part in (x, xy)]
    else:
        lists = [pa.array(part.tolist(), pa.list_(pa.from_numpy_dtype(part.dtype))) for part in (x, xy)]
    return pa.table({"slide_id": table["slide_id"], "embedding": lists[0], "coords": lists[1]})


def check(source: Path, slides: Sequence[Slide] = SLIDES, dtype: str = "float32", coords: bool = True) -> None:
    """The source holds these slides in this order, bit for bit."""
    bags = read_source(source)
    assert list(bags) == [slide.name for slide in slides]
    for slide in slides:
        assert same_bits(bags[slide.name].features, slide.x.astype(dtype))
        if coords:
            assert same_bits(bags[slide.name].coords, slide.xy)
        else:
            assert bags[slide.name].coords is None


def test_parquet(tmp_path):
    path = tmp_path / "patches.parquet"
    frame().to_parquet(path)
    check(path)
    module, said = detect_format(path)
    assert module.NAME == "long_table"
    assert said == (
        f"long table {path}: slides in 'slide_id', 64 feature columns ('f0' to 'f63'), coordinates in 'x', 'y', "
        f"patients in 'patient_id', labels in 'label'"
    )
    table = source_table(path)
    assert table.labels == {slide.name: slide.label for slide in SLIDES}
    assert table.patients == {slide.name: slide.patient for slide in SLIDES}
    assert table.folds == ()


def test_a_cache_of_one(tmp_path):
    frame().to_parquet(tmp_path / "patches.parquet")
    report = build_cache(tmp_path / "patches.parquet", tmp_path / "cache", dtype="float32")
    cache = FeatureCache.open(report.out)
    assert (report.format, report.slides, report.max_rounding_error) == ("long_table", len(SLIDES), 0)
    for slide in SLIDES:
        assert torch.equal(cache[slide.name], torch.from_numpy(slide.x))
        assert torch.equal(cache.coords(slide.name), torch.from_numpy(slide.xy).long())
    assert cache.table is not None
    assert cache.table.labels == {slide.name: slide.label for slide in SLIDES}


def test_a_survey_of_one(tmp_path):
    frame().to_parquet(tmp_path / "patches.parquet")
    surveyed = survey(tmp_path / "patches.parquet")
    assert surveyed.rows == {slide.name: len(slide.x) for slide in SLIDES}
    assert (surveyed.dim, surveyed.dtype, surveyed.coords) == (64, "float32", True)


def as_csv(table: pd.DataFrame, how: str) -> bytes:
    match how:
        case "semicolons and decimal commas":
            return table.to_csv(index=False, sep=";", decimal=",").encode()
        case "tabs":
            return table.to_csv(index=False, sep="\t").encode()
        case "byte-order mark":
            return table.to_csv(index=False).encode("utf-8-sig")
        case "UTF-16":
            return table.to_csv(index=False, sep="\t").encode("utf-16")
        case "Windows' line ends":
            return table.to_csv(index=False, lineterminator="\r\n").encode()
        case "Excel's sep":
            return b"sep=;\r\n" + table.to_csv(index=False, sep=";").encode()
        case "quoted":
            return table.to_csv(index=False, quoting=csv.QUOTE_ALL).encode()
        case "index":
            return table.to_csv().encode()
        case "blank lines":
            return b"\n\n" + table.to_csv(index=False).replace("\n", "\n\n").encode()
        case "no last line end":
            return table.to_csv(index=False).rstrip().encode()
        case _:
            return table.to_csv(index=False).encode()


HOW = ["plain", "semicolons and decimal commas", "tabs", "byte-order mark", "UTF-16", "Windows' line ends", "quoted",
       "Excel's sep", "index", "blank lines", "no last line end"]  # fmt: skip


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("end", [".csv", ".csv.gz"])
def test_csv(tmp_path, how, end):
    raw = as_csv(frame(), how)
    path = tmp_path / f"patches{end}"
    path.write_bytes(gzip.compress(raw, 1) if end == ".csv.gz" else raw)
    check(path, dtype="float64")
    assert source_table(path).labels == {slide.name: slide.label for slide in SLIDES}
    said = detect_format(path)[1]
    if how == "semicolons and decimal commas":
        assert f"{path} (semicolons and decimal commas): slides in" in said
    if how == "index":
        assert said.endswith("left out ''")


def test_csv_and_parquet_make_the_same_cache(tmp_path):
    table = frame()
    table[F] = np.random.default_rng(0).normal(size=(len(table), 64)).astype(np.float32)
    table.to_parquet(tmp_path / "a.parquet")
    table.to_csv(tmp_path / "a.csv", index=False)
    one, two = (FeatureCache.open(build_cache(tmp_path / f"a.{end}", tmp_path / end, dtype="float32").out)
                for end in ("parquet", "csv"))  # fmt: skip
    assert one.ids == two.ids
    assert all(torch.equal(one[slide], two[slide]) for slide in one.ids)


@pytest.mark.parametrize("fixed", [True, False])
def test_columns_of_lists(tmp_path, fixed):
    path = tmp_path / "patches.parquet"
    parquet.write_table(as_lists(frame(), fixed), path)
    check(path)
    assert "1 feature column ('embedding'), coordinates in 'coords'" in detect_format(path)[1]


def test_parts_in_a_folder_and_a_slide_across_them(tmp_path):
    table = frame()
    for i, at in enumerate(np.array_split(np.arange(len(table)), 4)):
        table.iloc[at].to_parquet(tmp_path / f"part-{i:05d}.parquet")
    (tmp_path / "_SUCCESS").touch()
    check(tmp_path)
    assert f"long table {tmp_path}, 4 parts: slides in 'slide_id'" in detect_format(tmp_path)[1]
    assert source_table(tmp_path).patients == {slide.name: slide.patient for slide in SLIDES}
    slides = formats()["long_table"].open_source(tmp_path)
    of = [tuple(path.name for path in slides.files(i)) for i in range(len(slides))]
    assert max(map(len, of)) == 2
    assert sorted({name for names in of for name in names}) == [f"part-{i:05d}.parquet" for i in range(4)]


def scattered(seed: int = 3) -> tuple[pd.DataFrame, list[Slide]]:
    """The rows in any order, and the slides as they first appear, each in the order of its rows."""
    table = frame().sample(frac=1, random_state=seed).reset_index(drop=True)
    known = {slide.name: slide for slide in SLIDES}
    actual = []
    for name in dict.fromkeys(table["slide_id"]):
        rows = table[table["slide_id"] == name]
        x, xy = rows[F].to_numpy(np.float32), rows[["x", "y"]].to_numpy()
        actual.append(Slide(name, known[name].patient, known[name].label, x, xy))
    return table, actual


@pytest.mark.parametrize("lists", [True, False])
def test_rows_of_a_slide_may_lie_anywhere_in_parquet(tmp_path, lists):
    table, slides = scattered()
    made = as_lists(table, True) if lists else pa.Table.from_pandas(table, preserve_index=False)
    parquet.write_table(made, tmp_path / "a.parquet", row_group_size=7)
    check(tmp_path / "a.parquet", slides)


@pytest.mark.parametrize(("window", "batch", "abreast"), [(64 * 4 * 5, 3, 128), (64 * 4 * 11, 4, 10), (64 * 4, 1, 30)])
@pytest.mark.parametrize("order", ["sorted", "scattered"])
def test_windows_and_stripes_of_any_size(tmp_path, monkeypatch, window, batch, abreast, order):
    for name, value in {"_WINDOW": window, "_BATCH": batch, "_ABREAST": abreast}.items():
        monkeypatch.setattr(_parquet, name, value)
    table, slides = scattered() if order == "scattered" else (frame(), SLIDES)
    parquet.write_table(pa.Table.from_pandas(table, preserve_index=False), tmp_path / "a.parquet", row_group_size=29)
    check(tmp_path / "a.parquet", slides)


def test_every_window_of_a_sorted_table_is_read_once(tmp_path, monkeypatch):
    monkeypatch.setattr(_parquet, "_WINDOW", 64 * 4 * 10)
    monkeypatch.setattr(_csv_table, "_WINDOW", 64 * 8 * 10)
    table = frame()
    parquet.write_table(pa.Table.from_pandas(table), tmp_path / "a.parquet", row_group_size=25)
    table.to_csv(tmp_path / "a.csv", index=False)
    for path, kind in ((tmp_path / "a.parquet", _parquet.ParquetTable), (tmp_path / "a.csv", _csv_table.CsvTable)):
        starts: list[int] = []
        window = kind.window

        def noted(self, row, window=window, starts=starts):
            starts.append(row)
            return window(self, row)

        monkeypatch.setattr(kind, "window", noted)
        check(path, dtype="float32" if path.suffix == ".parquet" else "float64")
        assert starts == sorted(set(starts))
        assert len(starts) <= len(table) / 10 + 3  # no window is longer than requested, and none is read twice


def test_slides_are_loaded_in_any_order(tmp_path, monkeypatch):
    monkeypatch.setattr(_csv_table, "_BLOCK", 2000)
    frame().to_parquet(tmp_path / "a.parquet")
    frame().to_csv(tmp_path / "a.csv", index=False)
    for end in ("parquet", "csv"):
        slides = formats()["long_table"].open_source(tmp_path / f"a.{end}")
        for i in np.random.default_rng(0).permutation(np.tile(np.arange(len(SLIDES)), 2)):
            assert np.array_equal(slides.load(i).features, SLIDES[i].x)
            assert slides.rows(i) == len(SLIDES[i].x)
        assert [slide.slide_id for slide in slides.read(7)] == [slide.name for slide in SLIDES[7:]]


def test_csv_of_scattered_slides_says_what_to_do(tmp_path):
    table = frame()
    first = table["slide_id"] == SLIDES[0].name
    n = int(first.sum())
    pd.concat([table[first][1:], table[~first], table[first][:1]]).to_csv(tmp_path / "a.csv", index=False)
    with refused("table-scattered-rows", "a.csv", "1", n - 1, len(table)):
        read_source(tmp_path / "a.csv")


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_dtypes_are_kept(tmp_path, dtype):
    table = frame()
    table[F] = (table[F] / 3).astype(dtype)
    parquet.write_table(pa.Table.from_pandas(table), tmp_path / "a.parquet")
    bags = read_source(tmp_path / "a.parquet")
    x = table[table["slide_id"] == SLIDES[2].name][F].to_numpy()
    assert same_bits(bags[SLIDES[2].name].features, x.astype(dtype))


@pytest.mark.parametrize(
    ("types", "dtype"), [(("int8", "uint16"), "float32"), (("int64", "int8"), "float64"),
                         (("float16", "float32"), "float32"), (("float32", "int32"), "float64")]
)  # fmt: skip
def test_numbers_of_several_types_are_kept_exactly(tmp_path, types, dtype):
    values = np.arange(6).reshape(3, 2) * 20
    columns = {f"f{j}": values[:, j].astype(one) for j, one in enumerate(types)}
    parquet.write_table(pa.table({"slide": ["a", "a", "b"], **columns}), tmp_path / "a.parquet")
    assert same_bits(read_source(tmp_path / "a.parquet")["a"].features, values[:2].astype(dtype))


@pytest.mark.parametrize(
    ("ids", "wanted"),
    [
        (pa.array(["007", "007", " 7 "]), ["007", "7"]),
        (pa.array([7, 7, 12]), ["7", "12"]),
        (pa.array([7.0, 7.0, 12.0]), ["7", "12"]),
        (pa.array(["a", "a", "b"]).dictionary_encode(), ["a", "b"]),
        (pa.array([b"a", b"a", "ä".encode()]), ["a", "ä"]),
    ],
)
def test_ids_are_text(tmp_path, ids, wanted):
    parquet.write_table(pa.table({"bag_id": ids, "f0": [0.0, 1.0, 2.0]}), tmp_path / "a.parquet")
    assert list(read_source(tmp_path / "a.parquet")) == wanted
    if pa.types.is_string(ids.type):
        pd.DataFrame({"bag_id": ids.to_pylist(), "f0": [0.0, 1.0, 2.0]}).to_csv(tmp_path / "a.csv", index=False)
        assert list(read_source(tmp_path / "a.csv")) == wanted


def test_labels_of_numbers_and_slides_without(tmp_path):
    table = pd.DataFrame({"slide": ["a", "a", "b", "c"], "label": [1.0, 1.0, 0.0, None], "f0": np.arange(4.0)})
    table.to_parquet(tmp_path / "a.parquet")
    table.to_csv(tmp_path / "a.csv", index=False)
    for end in ("parquet", "csv"):
        assert source_table(tmp_path / f"a.{end}").labels == {"a": "1", "b": "0"}
        assert source_table(tmp_path / f"a.{end}").patients is None


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        (["Slide_ID", "Coord_X", "coord_y", "A", "B"], "slides in 'Slide_ID', 2 feature columns ('A' to 'B'), "
                                                       "coordinates in 'Coord_X', 'coord_y'"),
        (["bag", "y", "f0", "f1"], "slides in 'bag', 2 feature columns ('f0' to 'f1'), labels in 'y'"),
        (["wsi_id", "x", "y", "target", "case_id", "f0"], "slides in 'wsi_id', 1 feature column ('f0'), coordinates in "
                                                          "'x', 'y', patients in 'case_id', labels in 'target'"),
        (["Unnamed: 0", "__index_level_0__", "slide", "tile_id", "fold", "patch_label", "f0"],
         "slides in 'slide', 1 feature column ('f0'); left out 'Unnamed: 0', '__index_level_0__', 'tile_id', "
         "'fold', 'patch_label'"),
        (["slide", "x", "y", "coord_x", "coord_y", "f0"], "1 feature column ('f0'), coordinates in 'x', 'y'; left out "
                                                          "'coord_x', 'coord_y'"),
    ],
)  # fmt: skip
def test_what_is_taken_for_what_is_said(tmp_path, columns, said):
    table = pd.DataFrame(np.arange(3 * len(columns)).reshape(3, -1), columns=columns)
    table.to_parquet(tmp_path / "a.parquet", index=False)
    table.to_csv(tmp_path / "a.csv", index=False)
    for end in ("parquet", "csv"):
        assert detect_format(tmp_path / f"a.{end}")[1].endswith(said)


def test_columns_of_words_are_left_out_and_named(tmp_path):
    table = frame().assign(scanner="Aperio", when=pd.Timestamp("2024-01-31"), ok=True)
    table.to_parquet(tmp_path / "a.parquet")
    assert detect_format(tmp_path / "a.parquet")[1].endswith("; left out 'scanner', 'when', 'ok'")
    table.to_csv(tmp_path / "a.csv", index=False)
    assert detect_format(tmp_path / "a.csv")[1].endswith("; left out 'scanner', 'when', 'ok'")
    check(tmp_path / "a.parquet")


@pytest.mark.parametrize("end", ["parquet", "csv"])
@pytest.mark.parametrize("code", [lambda y: y, lambda y: 2 * y - 1])
def test_a_column_that_is_the_label_is_refused(tmp_path, end, code):
    table = frame()
    table["label"] = (table["label"] == "tumour").astype(int)
    table["f64"] = code(table["label"]).astype(float)
    path = tmp_path / f"a.{end}"
    table.to_parquet(path) if end == "parquet" else table.to_csv(path, index=False)
    with refused("features-hold-label", "'f64'", "65"):
        build_cache(path, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()
    table.loc[3, "f64"] = 0.5
    table.to_parquet(path) if end == "parquet" else table.to_csv(path, index=False)
    assert build_cache(path, tmp_path / "cache").dim == 65


def _cells(path: Path, rows: str, header: str = "slide_id,x,y,f0,f1") -> Path:
    path.write_text(f"{header}\n{rows}", encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("rows", "refusal"),
    [
        ("a,1,1,0.5,0.5\na,1,2,0.5,oops\n", ("table-not-a-number", "'oops'", "'f1'", "2")),
        ("a,1,1,0.5,0.5\na,1,2,,0.5\n", ("table-empty-cell", "'f0'", "2")),
        ("a,1,1,0.5,0.5\nb,1,2,nan,0.5\n", ("features-not-finite", "nan", "'f0'", "2")),
        ("a,1,1,0.5,0.5\nb,1,2,-inf,0.5\n", ("features-not-finite", "-inf", "'f0'", "2")),
        ("a,1,1,0.5,0.5\nb,1,2,NA,0.5\n", ("table-not-a-number", "'NA'", "'f0'", "2")),
        ("a,1,1,0.5,0.5\nb,1,,0.5,0.5\n", ("table-empty-cell", "'y'", "2")),
        ("a,1,1,0.5,0.5\nb,1,nan,0.5,0.5\n", ("coords-bad", "'b'")),
        ("a,1,1,0.5,0.5\n,1,1,0.5,0.5\n", ("table-empty-cell", "slide_id", "2")),
        ("a,1,1,0.5,0.5\n  ,1,1,0.5,0.5\n", ("table-empty-cell", "slide_id", "2")),
        ("a,1,1,0.5,0.5\nb,1,1,0.5\n", ("table-bad-line", "4", "2", "5")),
        ("a,1,1,0.5,0.5\nb,1,1,0.5,0.5,0.5\n", ("table-bad-line", "6", "2", "5")),
        ('a,1,1,0.5,0.5\n"b,1,1,0.5,0.5\n', ("table-bad-line", "1", "2", "5")),
        ("a,1,1,0.5,0.5\nb,1,1,1_000,0.5\n", ("table-not-a-number", "'1_000'", "'f0'", "2")),
        ("a,1,1,0.5,0.5\nb,1,1,\x01,0.5\n", ("table-not-a-number", "'\\x01'", "'f0'", "2")),
        ("a,1,1,0.5,1e39\n", ("features-not-finite", "'a'", "1e", "39", "float32")),
        ("", ("table-empty",)),
    ],
)
def test_cells_that_are_not_what_they_should_be(tmp_path, rows, refusal):
    path = _cells(tmp_path / "a.csv", rows)
    with refused(*refusal, "a.csv"):
        build_cache(path, tmp_path / "cache", dtype="float32")
    assert not (tmp_path / "cache").exists()


def test_a_bad_cell_far_down_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(_csv_table, "_BLOCK", 1000)
    monkeypatch.setattr(_csv_table, "_HEAD", 1000)
    lines = [f"s{i // 10:03d},{i},0,0.25,0.5" for i in range(1000)]
    lines[876] = "s087,876,0,0.25,0.5 mm"
    with refused("table-not-a-number", "'0.5 mm'", "'f1'", "877"):
        read_source(_cells(tmp_path / "a.csv", "\n".join(lines)))
    lines[876] = "s087,876,0,0.25"
    with refused("table-bad-line", "4", "877", "5"):
        read_source(_cells(tmp_path / "a.csv", "\n".join(lines)))


@pytest.mark.parametrize(
    ("raw", "refusal"),
    [
        (b"", ("table-empty",)),
        (b"\n\n ;;\n", ("table-empty",)),
        ("slide,größe,f1\na,1,2\n".encode("latin-1"), ("table-not-utf8", "1")),
        ("slide,f0\nä,1\n".encode("latin-1"), ("table-not-utf8", "2")),
        (b"slide,f0\na,\0\n", ("table-not-utf8",)),
        (b"slide,f0,f0\na,1,2\n", ("table-duplicate-column", "'f0'")),
        (b"slide,f0\n", ("table-empty",)),
        (b'slide,f0\n"a,1\n', ("table-empty",)),
        (b"slide,f0\na\n", ("table-empty",)),
    ],
)
def test_texts_that_are_no_tables(tmp_path, raw, refusal):
    (tmp_path / "a.csv").write_bytes(raw)
    with refused(*refusal, "a.csv"):
        detect_format(tmp_path / "a.csv")


def test_other_letters_than_utf_8_far_down_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(_csv_table, "_HEAD", 100)
    rows = [f"s{i:02d},{i}.5" for i in range(50)] + ["Größe,1.5"]
    (tmp_path / "a.csv").write_bytes(("slide,f0\n" + "\n".join(rows)).encode("latin-1"))
    with refused("table-not-utf8", "'slide'", "51", "'Größe'"):
        read_source(tmp_path / "a.csv")


@pytest.mark.parametrize("keep", [0, 5, 100, -8, -1])
@pytest.mark.parametrize("end", ["parquet", "csv.gz"])
def test_truncated_files(tmp_path, end, keep):
    path = tmp_path / f"a.{end}"
    frame().to_parquet(path) if end == "parquet" else frame().to_csv(path, index=False)
    path.write_bytes(path.read_bytes()[:keep])
    with refused("table-empty" if (end, keep) == ("csv.gz", 0) else "table-damaged", f"a.{end}"):
        build_cache(path, tmp_path / "cache")


def _write(path: Path, **columns: object) -> Path:
    parquet.write_table(pa.table(columns), path)
    return path


@pytest.mark.parametrize(
    ("columns", "refusal"),
    [
        ({"slide": ["a", "b"], "f0": [1.0, None]}, ("table-empty-cell", "'f0'", "2")),
        ({"slide": ["a", "b"], "f0": [1.0, np.nan]}, ("features-not-finite", "nan", "'f0'", "2")),
        ({"slide": ["a", "b"], "f0": [1, None]}, ("table-empty-cell", "'f0'", "2")),
        ({"slide": ["a", None], "f0": [1.0, 2.0]}, ("table-empty-cell", "slide", "2")),
        ({"slide": [1.5, 2.0], "f0": [1.0, 2.0]}, ("features-bad-array", "'slide'", "double")),
        ({"slide": [["a"], ["b"]], "f0": [1.0, 2.0]}, ("features-bad-array", "'slide'")),
        ({"slide": pa.array([1, 2], pa.timestamp("ms")), "f0": [1.0, 2.0]}, ("features-bad-array", "'slide'")),
        ({"slide": pa.array([b"\xff", b"a"]), "f0": [1.0, 2.0]}, ("features-bad-array", "'slide'", "binary")),
        ({"slide": ["a", "b"], "features": [[1.0, 2.0], [1.0]]}, ("features-bad-array", "1", "2")),
        ({"slide": ["a", "b"], "features": [[1.0], None]}, ("table-empty-cell", "'features'", "2")),
        ({"slide": ["a", "b"], "features": [[1.0, 1.0], [1.0, None]]}, ("table-empty-cell", "'features'", "2")),
        ({"slide": ["a", "b"], "features": [[1.0, 1.0], [1.0, np.inf]]}, ("features-not-finite", "inf", "'features'")),
        ({"slide": ["a", "b"], "feats": [[1.0], [2.0]], "coords": [[1, 2], [1]]}, ("features-bad-array", "1")),
        ({"slide": ["a", "b"], "features": [["x"], ["y"]]}, ("format-mismatch",)),
        ({"slide": ["a", "b"], "f0": ["1.0", "x"]}, ("format-mismatch",)),
        ({"slide": pa.array([], pa.string()), "f0": pa.array([], pa.float32())}, ("table-empty",)),
        ({"slide": ["a", "a"], "label": [0, 1], "f0": [1.0, 2.0]}, ("labels-conflicting-rows", "'a'", "label", "'1'")),
        ({"slide": ["a", "a"], "patient": ["p", "q"], "f0": [1.0, 2.0]}, ("labels-conflicting-rows", "'a'", "patient")),
        ({"slide": pa.array([1.0, 1e300]), "f0": [1.0, 2.0]}, ("features-bad-array", "'slide'", "double")),
    ],
)  # fmt: skip
def test_parquet_that_is_not_what_it_should_be(tmp_path, columns: Mapping[str, object], refusal):
    path = _write(tmp_path / "a.parquet", **columns)
    with refused(*refusal, "a.parquet"):
        build_cache(path, tmp_path / "cache", dtype="float32")
    assert not (tmp_path / "cache").exists()


def test_parquet_with_two_columns_of_one_name(tmp_path):
    made = pa.Table.from_arrays([pa.array(["a"]), pa.array([1.0]), pa.array([2.0])], names=["slide", "f0", "f0"])
    parquet.write_table(made, tmp_path / "a.parquet")
    with refused("table-duplicate-column", "a.parquet", "'f0'"):
        detect_format(tmp_path / "a.parquet")


def test_a_table_that_unfolds_to_far_more_than_it_holds(tmp_path):
    rows = 2_000_000
    columns = {f"f{j}": pa.array(np.zeros(rows, np.float32)) for j in range(20)}
    path = _write(tmp_path / "a.parquet", slide=pa.array(["a"] * rows).dictionary_encode(), **columns)
    with refused("file-too-large", "a.parquet", "160,000,000"):
        read_source(path)


def test_parts_that_differ_are_refused(tmp_path):
    _write(tmp_path / "1.parquet", slide=["a"], f0=[1.0], f1=[1.0])
    for wrong in ({"f0": [1.0]}, {"f1": [1.0], "f0": [1.0]}, {"f0": ["x"], "f1": [1.0]}):
        _write(tmp_path / "2.parquet", slide=["b"], **wrong)
        with refused("features-disagree", "2.parquet", "1.parquet"):
            read_source(tmp_path)
    _write(tmp_path / "2.parquet", slide=["b"], f0=[1.0], f1=[2.0], note=["left out"])
    assert read_source(tmp_path)["b"].features.tolist() == [[1.0, 2.0]]


def test_what_is_no_long_table_is_not_claimed(tmp_path):
    pd.DataFrame({"slide_id": ["a"], "label": ["x"]}).to_csv(tmp_path / "labels.csv", index=False)
    pd.DataFrame({"embeddings": ["a.pt"], "target": [1], "split": ["train"], "wsi_id": ["a"], "n": [1]}).to_csv(
        tmp_path / "manifest.csv", index=False
    )
    pd.DataFrame({"train_slide_path": ["a.pt"], "train_label": [1], "slide": ["a"], "f": [1]}).to_csv(
        tmp_path / "fold.csv", index=False
    )
    pd.DataFrame({"f0": [1.0]}).to_parquet(tmp_path / "one.parquet")
    for name in ("labels.csv", "manifest.csv", "fold.csv", "one.parquet"):
        assert formats()["long_table"].detect(tmp_path / name) is None
    frame().to_parquet(tmp_path / "whole.parquet")
    cache = build_cache(tmp_path / "whole.parquet", tmp_path / "cache").out
    assert {name for name, module in formats().items() if module.detect(cache) is not None} == set()


#: any text that a cell keeps as it is: blanks around it would go
NAMES = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Zl", "Zp")), min_size=1, max_size=8
).filter(lambda name: name == name.strip())


@st.composite
def bags(draw, dtype):
    largest = float(np.finfo(dtype).max)
    elements = {"min_value": -largest, "max_value": largest}
    x = hnp.arrays(dtype, st.tuples(st.integers(1, 4), st.just(3)), elements=elements)
    named = draw(st.dictionaries(NAMES, x, min_size=1, max_size=4))
    label, place = st.sampled_from(["normal", "tumour", "0", "01"]), st.integers(0, 2**30)
    return [
        Slide(name, draw(NAMES), draw(label), x, draw(hnp.arrays(np.int64, (len(x), 2), elements=place)))
        for name, x in named.items()
    ]


def _long(slides: Sequence[Slide]) -> dict[str, list]:
    n = [len(slide.x) for slide in slides]
    said = {key: [getattr(slide, field) for slide, k in zip(slides, n, strict=True) for _ in range(k)]
            for key, field in {"slide_id": "name", "case_id": "patient", "label": "label"}.items()}  # fmt: skip
    x, xy = np.concatenate([slide.x for slide in slides]), np.concatenate([slide.xy for slide in slides])
    return said | {"x": xy[:, 0], "y": xy[:, 1], "a.1": x[:, 0], "a": x[:, 1], "ü ,;": x[:, 2]}


def _agrees(path: Path, slides: Sequence[Slide], dtype: str) -> None:
    check(path, slides, dtype)
    table = source_table(path)
    assert table.patients == {slide.name: slide.patient for slide in slides}
    assert table.labels == {slide.name: slide.label for slide in slides}


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_any_bags_come_through_parquet(tmp_path_factory, dtype):
    @settings(max_examples=25, deadline=None)
    @given(bags(dtype), st.integers(1, 5))
    def go(slides, group):
        path = tmp_path_factory.mktemp("any") / "a.parquet"
        parquet.write_table(pa.table(_long(slides)), path, row_group_size=group)
        _agrees(path, slides, dtype)

    go()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_any_bags_come_through_csv(tmp_path_factory, dtype):
    @settings(max_examples=25, deadline=None)
    @given(bags(dtype), st.sampled_from(",;\t"), st.booleans(), st.booleans())
    def go(slides, delimiter, packed, mark):
        columns = _long(slides)
        text = io.StringIO(newline="")
        writer = csv.writer(text, delimiter=delimiter)
        writer.writerow(columns)
        writer.writerows(zip(*(list(column) for column in columns.values()), strict=True))
        raw = text.getvalue().encode("utf-8-sig" if mark else "utf-8")
        path = tmp_path_factory.mktemp("any") / ("a.csv.gz" if packed else "a.csv")
        path.write_bytes(gzip.compress(raw, 1) if packed else raw)
        read = read_source(path)
        assert all(np.array_equal(read[slide.name].features.astype(dtype), slide.x) for slide in slides)
        _agrees(path, [Slide(s.name, s.patient, s.label, read[s.name].features, s.xy) for s in slides], "float64")

    go()


@pytest.mark.parametrize("column", ["slide_id", "patient_id"])
def test_slides_of_which_a_spreadsheet_has_lost_digits_are_not_joined(tmp_path, column):
    table = frame()
    names = {name: f"{12345678901234500 + i:.5E}" for i, name in enumerate(table[column].unique())}
    table["label"] = "a"
    table[column] = table[column].map(names)
    table.to_csv(tmp_path / "patches.csv", index=False)
    with refused("table-lost-digits"):
        read_source(tmp_path / "patches.csv")
