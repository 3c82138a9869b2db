"""The columns of a table, the gaps, the possible folds, and how the summary reports them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.features import write_csv
from support.refusal import refused

from milbench.config import DataSpec
from milbench.data.fold import Fold
from milbench.data.labels.table import read_label_table
from milbench.data.onboarding.inspection import inspect
from milbench.data.onboarding.label_guess import Tables, read_label_rows
from milbench.data.onboarding.summary import histogram, lines, wrapped
from milbench.data.onboarding.survey import Survey
from milbench.data.source_labels import SourceTable

IDS = [f"{i:03d}" for i in range(12)]


def surveyed(ids=IDS, rows=None, table=None, left_out=()) -> Survey:
    rows = {slide: 5 + i for i, slide in enumerate(ids)} if rows is None else rows
    return Survey(Path("features"), "clam", "CLAM features", tuple(ids), rows, 1, 8, ("float32",), True, {},
                  table or SourceTable(), left_out)  # fmt: skip


def written(path: Path, header: str, *rows: str) -> Path:
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def read(path: Path, features=IDS, **columns):
    return read_label_rows(Tables(path, **columns), features)


# --- columns ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "row", "columns"),
    [
        ("case_id,slide_id,label", "p,000,1", ("slide_id", "case_id", "label")),  # CLAM
        ("PATIENT,FILENAME,isMSIH", "p,000,1", ("FILENAME", "PATIENT", "isMSIH")),  # STAMP, in one table
        ("case_id\tslide_id\ttask\tfold_0", "p\t000\t1\ttest", ("slide_id", "case_id", "task")),  # Patho-Bench
        ("embeddings,target,split,wsi_id,patient", "e,1,test,000,p", ("wsi_id", "patient", "target")),  # eva
        ("slide,id,patient,label", "7,000,p,1", ("id", "patient", "label")),  # slide is a running number
        ("name,patient,label", "000,p,1", ("name", "patient", "label")),  # no known name, but the features'
        ("slide_path,patient,label", r"C:\scans\000.svs,p,1", ("slide_path", "patient", "label")),
        ("label,slide_id,slide,patient", "1,000,000,p", ("slide_id", "patient", "label")),
    ],
)
def test_columns_are_recognised_by_name_and_content(header, row, columns, tmp_path):
    actual = read(written(tmp_path / "t.csv", header, row))
    assert (actual.slide, actual.patient, actual.label) == columns
    assert [(r.slide, r.patient, r.label) for r in actual.rows] == [("000", "p", "1")]


@pytest.mark.parametrize(
    ("header", "row", "refusal"),
    [
        ("slide_id,patient,a,b", "000,p,1,2", ("table-column-unclear", "--label-column")),
        (
            "slide_id,label",
            "000,1",
            ("table-column-unclear", "--patient-column", "'slide_id'"),
        ),
        (
            "patient,label",
            "p,1",
            ("table-column-unclear", "--slide-column"),
        ),
        ("what,label", "x,1", ("table-column-unclear", "--slide-column")),
        ("slide_id,patient,label,label", "000,p,1,1", ("table-duplicate-column", "'label'")),
        ("slide_id,patient,label", "", ("table-empty",)),
        (
            "slide_id,patient,label",
            "000,p,1\n000,p,2",
            ("labels-conflicting-rows", "1", "'000'"),
        ),
        ("slide_id,patient,label", "000,p,1\n,p,1", ("table-empty-cell", "2")),
    ],
)
def test_an_unrecognised_column_has_to_be_given(header, row, refusal, tmp_path):
    with refused(*refusal):
        read(written(tmp_path / "t.csv", header, row))


@pytest.mark.parametrize(
    ("ids", "features", "suffixes"),
    [
        (["a.svs", "b.svs"], ["a", "b"], (".svs",)),
        (["a.svs", "b.tiff", "c"], ["a", "b", "c"], (".tiff", ".svs")),
        (["a.ome.tiff", "b.1.svs"], ["a", "b.1"], (".ome.tiff", ".svs")),
        (["a", "a.2"], ["a"], ()),  # two slides, one of them without features
        (["a.svs", "b.svs"], ["a", "b", "a.svs"], ()),  # the ending belongs to a name
        (["a.svs", "a.tif"], ["a"], ()),  # which of the two is it?
    ],
)
def test_endings_of_ids(ids, features, suffixes, tmp_path):
    path = write_csv(tmp_path / "t.csv", [("slide_id", "patient", "label"), *((i, "p", "1") for i in ids)])
    actual = read(path, features)
    assert actual.suffixes == suffixes
    assert len({row.slide for row in actual.rows}) == len(ids)


def test_pair_of_tables(tmp_path):
    clinical = written(tmp_path / "c.csv", "PATIENT,MSI,AGE", "p0,yes,1", "p1,,2", "p3,no,3", "p4,exclude,3")
    table = written(tmp_path / "s.csv", "PATIENT,FILENAME", "p0,000.h5", "p0,001.h5", "p1,002.h5", "p2,003.h5")
    actual = read(clinical, slides=table, label="MSI")
    assert [tuple(row) for row in actual.rows] == [
        ("000", "p0", "yes", ""), ("001", "p0", "yes", ""), ("002", "p1", "", ""), ("003", "p2", "", ""),
    ]  # fmt: skip
    assert (actual.patients_without_slides, actual.suffixes, actual.readable) == (("p3",), (), True)
    other = written(tmp_path / "o.csv", "case,FILENAME", "p0,000.h5")
    assert not read(clinical, slides=other, label="MSI").readable  # the suite has one name for both columns
    twice = written(tmp_path / "twice.csv", "PATIENT,MSI", "p0,yes", "p0,no")
    with refused("labels-conflicting-rows", "twice.csv", "1", "'p0'"):
        read(twice, slides=table)


@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_what_is_read_here_is_what_a_run_reads(data, tmp_path_factory):
    """Any ids, endings and patients: where the rows are called readable, the strict reader finds the same."""
    tmp_path = tmp_path_factory.mktemp("t")
    name = st.text("ab.01", min_size=1, max_size=4).filter(lambda text: text.strip("."))
    ids = data.draw(st.lists(name, min_size=2, max_size=6, unique=True))
    ends = data.draw(st.lists(st.sampled_from(["", ".svs", ".tif"]), min_size=len(ids), max_size=len(ids)))
    own = data.draw(st.booleans())
    rows = [(f"{i}{end}", f"p{k % 2}", str(k % 2)) for k, (i, end) in enumerate(zip(ids, ends, strict=True))]
    path = write_csv(tmp_path / "t.csv", [("slide_id", "patient_id", "label"), *rows])
    if len({row[0] for row in rows}) < len(rows):
        return
    actual = read(path, ids, slide="slide_id", patient="slide_id" if own else "patient_id")
    spec = DataSpec(name="x", cache="x", slide_column=actual.slide, patient_column=actual.patient,
                    slide_suffix=actual.suffixes)  # fmt: skip
    strict = read_label_table(path, spec)
    assert strict.slides == tuple(row.slide for row in actual.rows)
    assert (strict.patients == {row.slide: row.patient for row in actual.rows}) == actual.readable


# --- mismatches and folds --------------------------------------------------------------------------------------------


def table_of(path: Path, ids=IDS, **odd: str) -> Tables:
    """Slides of two a patient, classes in turns; ``odd`` gives some slides another label."""
    rows = [(s, f"p{int(s) // 2}", odd.get(f"s{s}", "ab"[int(s) // 2 % 2])) for s in ids]
    return Tables(write_csv(path, [("slide_id", "patient_id", "label"), *rows]))


def test_gaps(tmp_path):
    actual = inspect(surveyed(IDS[1:]), table_of(tmp_path / "t.csv", IDS[:-1], s004="", s005="NaN", s006="exclude"))
    mismatches = actual.mismatches
    assert (mismatches.no_features, mismatches.not_in_table, mismatches.no_label) == (
        ("000",),
        ("011",),
        ("004", "005"),
    )
    assert actual.labels.slides == ("001", "002", "003", "007", "008", "009", "010")
    assert actual.labels.excluded == {"000", "004", "005", "006", "011"}
    assert not actual.labels_usable_as_is
    labels = {row.slide: row.label for row in actual.completed_rows()}
    assert set(labels) == set(IDS)
    assert {slide for slide, label in labels.items() if label == "exclude"} == actual.labels.excluded


def test_nothing_missing(tmp_path):
    actual = inspect(surveyed(), table_of(tmp_path / "t.csv"))
    assert actual.labels_usable_as_is
    assert actual.mismatches.lines() == []
    assert actual.sites == 0


def test_an_empty_slide_needs_a_label_all_the_same(tmp_path):
    """Tables are read before it is known which slides are empty."""
    rows = {slide: 0 if slide == "003" else 5 for slide in IDS}
    actual = inspect(surveyed(IDS, rows), table_of(tmp_path / "t.csv", s003=""))
    assert actual.mismatches.no_label == ("003",)
    assert not actual.labels_usable_as_is


@pytest.mark.parametrize(("clinical", "slides"), [("p9", None), (None, "p9")])
def test_a_patient_in_one_of_two_tables_keeps_them_from_being_read(clinical, slides, tmp_path):
    patients = {f"p{i}": "ab"[i % 2] for i in range(6)} | ({clinical: "a"} if clinical else {})
    owners = [(f"p{int(s) // 2}", s) for s in IDS] + ([(slides, "999")] if slides else [])
    tables = Tables(
        write_csv(tmp_path / "c.csv", [("PATIENT", "MSI"), *patients.items()]),
        write_csv(tmp_path / "s.csv", [("PATIENT", "FILENAME"), *owners]),
    )
    actual = inspect(surveyed(), tables)
    assert not actual.labels_usable_as_is
    assert actual.labels.slides == tuple(IDS)


def test_barcodes_tell_more_than_a_column_of_samples(tmp_path):
    """Two samples of a patient are one patient, on one side of a fold; no rule corrects that, so the error names it."""
    ids = [f"{i:03d}" for i in range(48)]
    rows = [(s, f"TCGA-AB-{int(s) // 4:04d}-0{int(s) // 2 % 2}A", "ab"[int(s) // 2 % 2]) for s in ids]
    tables = Tables(write_csv(tmp_path / "t.csv", [("slide_id", "patient_id", "label"), *rows]))
    with refused("folds-impossible"):
        inspect(surveyed(ids), tables)


def test_a_patient_that_is_not_named_is_refused(tmp_path):
    tables = table_of(tmp_path / "t.csv")
    tables.labels.write_text(tables.labels.read_text().replace("007,p3", "007,"))
    with refused("labels-missing-value", "patient_id", "1", "'007'", "'exclude'"):
        inspect(surveyed(), tables)


def test_one_class_names_the_column_it_was_read_from(tmp_path):
    tables = table_of(tmp_path / "t.csv", **{f"s{s}": "a" for s in IDS})
    with refused("classes-bad", "1", "'a'", "'label'", "--label-column"):
        inspect(surveyed(), tables)


def test_folds_that_come_along(tmp_path):
    fold = Fold("published", tuple(IDS[:6]), (), tuple(IDS[6:]))
    source = SourceTable(folds=(fold,))
    actual = inspect(surveyed(table=source), table_of(tmp_path / "t.csv"))
    assert actual.division.spec.model_fields_set == {"val_fraction"}
    assert actual.division.folds[0].test == tuple(IDS[6:])
    assert set(actual.division.folds[0].train + actual.division.folds[0].val) == set(IDS[:6])
    fields = (tmp_path / "t.csv").read_text().splitlines()
    parts = ["split", *(["train"] * 4 + ["val"] * 4 + ["test"] * 4)]
    written(tmp_path / "t.csv", *(f"{line},{part}" for line, part in zip(fields, parts, strict=True)))
    own = inspect(surveyed(table=source), Tables(tmp_path / "t.csv"))  # the table's come before the features'
    assert [len(ids) for ids in own.division.folds[0].parts.values()] == [4, 4, 4]
    assert own.division.spec.files == str(tmp_path / "t.csv")
    (tmp_path / "t.csv").write_text((tmp_path / "t.csv").read_text().replace("val", "internal"))
    made = inspect(surveyed(), Tables(tmp_path / "t.csv"))
    assert "says of splits cannot be read: " in made.division.said
    assert made.division.spec.files is None


def test_slides_known_to_nobody_but_a_source_are_refused():
    source = SourceTable({slide: "ab"[i % 2] for i, slide in enumerate(IDS[:-1])})
    with refused("names-unmatched", "'011'"):
        inspect(surveyed(table=source), None)


def test_a_source_that_names_no_patients(tmp_path):
    ids = [f"TCGA-0{i // 2}-AAAA-{i}" for i in range(10, 18)] + [f"TCGA-1{i // 2}-AAAA-{i}" for i in range(8)]
    source = SourceTable({slide: "ab"[i // 2 % 2] for i, slide in enumerate(ids)})
    actual = inspect(surveyed(ids, table=source), None)
    assert actual.patient_rule == "^(.{12})"
    assert Counter(actual.labels.patients.values()) == {slide[:12]: 2 for slide in ids}
    assert actual.sites == 8


# --- the summary -----------------------------------------------------------------------------------------------------


def test_lines(tmp_path):
    actual = inspect(surveyed(IDS, {slide: 100 * (i + 1) for i, slide in enumerate(IDS)}), table_of(tmp_path / "t.csv"))
    text = "\n".join(lines(actual))
    assert "12 slides, 8-d float32, coordinates\n" in text
    assert "labels, column 'label': 12 slides of 6 patients take part" in text
    assert "class 0  'a'      6 slides     3 patients  (50% of slides)" in text
    assert "patches a slide: 100 to 1,200, median 700, half of them 400 to 900" in text
    # 7,800 rows of 8 values of 4 or 2 bytes and two of 8
    assert "a cache of them: 375 kB as float32, 250 kB as float16" in text
    part = surveyed(IDS, dict.fromkeys(IDS[:3], 100))
    text = "\n".join(lines(inspect(part, table_of(tmp_path / "t.csv"))))
    assert "nine in ten 100 to 100 (of 3 slides that were inspected; others may have none)" in text
    assert "a cache of them: about 58 kB as float32" in text


def test_a_patient_of_two_classes_is_reported(tmp_path):
    actual = inspect(surveyed(), table_of(tmp_path / "t.csv", s001="b"))
    assert "  1 patient counted twice, having slides of several classes" in lines(actual)


@given(st.lists(st.integers(1, 200_000), min_size=1, max_size=50))
def test_histogram_counts_everything_once(values):
    drawn = histogram(np.array(values))
    actual = 0
    for line in drawn:
        *span, last = line.replace("#", "").split()
        low, high = int(span[0].replace(",", "")), int(span[-1].replace(",", ""))
        inside = sum(low <= value <= high for value in values)
        assert inside == int(last)
        assert (inside > 0) == ("#" in line)
        actual += inside
    assert actual == len(values)
    assert len(drawn) <= 8


def test_wrapped_lines_keep_their_indentation():
    assert wrapped("  " + "word " * 30, 40)[:2] == [
        "  word word word word word word word",
        "    word word word word word word word",
    ]
    assert wrapped("") == [""]
