"""Labels: whatever a tool calls its columns, one row a slide or a patient, and nothing lost on the way."""

from __future__ import annotations

import csv
import json

import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.refusal import refused

from milbench.config import DataSpec, SplitSpec
from milbench.data.cache.reader import CacheWriter
from milbench.data.cohort import load_cohort
from milbench.data.labels.table import Columns, Labels, guess_columns, match_features, read_label_table

IDS = [f"{i:03d}" for i in range(24)]
#: two slides a patient
OWNER = {slide: f"P{i // 2:02d}" for i, slide in enumerate(IDS)}
VALUE = {patient: ("wild", "mutant")[int(patient[1:]) % 2] for patient in OWNER.values()}


def _spec(**changes):
    split = changes.pop("split", SplitSpec(folds=2))
    return DataSpec(**({"name": "mine", "cache": "c", "labels": "labels.csv", "split": split} | changes))


def _write(path, rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    return path


@pytest.mark.parametrize(
    ("header", "due"),
    [
        ("case_id,slide_id,label", ("slide_id", "case_id", "label")),  # CLAM
        ("wsi,mpp", ("wsi", None, None)),  # TRIDENT
        ("case_id,slide_id,er,fold_0,fold_1", ("slide_id", "case_id", "er")),  # Patho-Bench
        ("case_id,slide_id,OS_event,OS_days,fold_0", ("slide_id", "case_id", None)),
        ("PATIENT,isMSIH", (None, "PATIENT", "isMSIH")),  # STAMP, clinical table
        ("PATIENT,FILENAME", ("FILENAME", "PATIENT", None)),  # STAMP, slide table
        (",bag_name,split", ("bag_name", None, None)),  # torchmil
        ("embeddings,target,split,wsi_id", ("wsi_id", None, "target")),  # eva
        ("slide_path,label", ("slide_path", None, "label")),  # MIL_BASELINE
        ("patient,slide,tumour_grade,site", ("slide", "patient", "tumour_grade")),  # slideflow
        ("slide_id,patient_id,label", ("slide_id", "patient_id", "label")),
        ("Slide_ID,Case_ID,Label", ("Slide_ID", "Case_ID", "Label")),
        ("a,b", (None, None, None)),
        ("", (None, None, None)),
    ],
)
def test_columns_of_the_fields_tools(header, due):
    assert guess_columns(header.split(",")) == Columns(*due)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(["slide_id", "PATIENT", "label", "x", "fold_3", "", "split", "wsi"]), max_size=6))
def test_a_guess_names_columns_that_are_there_and_none_twice(header):
    named = [name for name in guess_columns(header) if name is not None]
    assert set(named) <= set(header)
    assert len(set(named)) == len(named)


def test_clams_table(tmp_path):
    rows = [(OWNER[s], s, VALUE[OWNER[s]]) for s in IDS]
    path = _write(tmp_path / "dataset.csv", [("case_id", "slide_id", "label"), *rows])
    labels = read_label_table(path, _spec(patient_column="case_id"))
    assert labels.slides == tuple(IDS)
    assert labels.patients == OWNER
    assert labels.classes == ("mutant", "wild")
    assert labels.labels == {s: int(VALUE[OWNER[s]] == "wild") for s in IDS}


def test_clams_published_table(shared_root):
    path = shared_root / "data" / "splits" / "clam" / "tumor_vs_normal_dummy_clean.csv"
    labels = read_label_table(path, _spec(patient_column="case_id"))
    with path.open(newline="") as file:
        raw = list(csv.DictReader(file))
    assert labels.patients == {row["slide_id"]: row["case_id"] for row in raw}
    assert {s: labels.classes[c] for s, c in labels.labels.items()} == {row["slide_id"]: row["label"] for row in raw}


def test_tables_of_any_kind_give_the_same_labels(tmp_path):
    """0 and 1 as Excel and pandas keep them, ids with zeros in front."""
    frame = pd.DataFrame(
        {"slide_id": IDS, "patient_id": OWNER.values(), "label": [float(int(s) // 2 % 2) for s in IDS]}
    )
    frame.to_csv(tmp_path / "l.csv", index=False)
    frame.to_csv(tmp_path / "l.tsv.gz", index=False, sep="\t")
    frame.to_csv(tmp_path / "l.txt", index=False, sep=";", encoding="utf-16")
    frame.to_excel(tmp_path / "l.xlsx", sheet_name="cohort", index=False)
    frame.to_parquet(tmp_path / "l.parquet")
    actual = [read_label_table(path, _spec()) for path in sorted(tmp_path.iterdir())]
    assert len(actual) == 5
    assert all(labels == actual[0] for labels in actual)
    assert actual[0].classes == ("0", "1")
    assert actual[0].patients == OWNER


def test_patho_benchs_table_is_a_table_of_labels(tmp_path):
    rows = [(OWNER[s], s, int(VALUE[OWNER[s]] == "mutant"), "train") for s in IDS]
    path = _write(tmp_path / "k=all.tsv", [("case_id", "slide_id", "er", "fold_0"), *rows])
    labels = read_label_table(path, _spec(patient_column="case_id", label_column="er"))
    assert labels.labels == {s: int(VALUE[OWNER[s]] == "mutant") for s in IDS}


@pytest.mark.parametrize(
    ("cell", "changes"),
    [
        ("{}.svs", {"slide_suffix": ".svs"}),
        ("{}.svs", {"slide_suffix": [".ndpi", ".svs"]}),
        ("/data/x.y/{}.pt", {"slide_column": "slide_path"}),
        ("D:\\data\\{}.h5", {"slide_column": "slide_path"}),
        ("d/{}.x.h5", {"slide_column": "slide_path", "slide_suffix": ".x"}),
    ],
)
def test_ids_that_are_file_names(cell, changes, tmp_path):
    rows = [(cell.format(s), OWNER[s], VALUE[OWNER[s]]) for s in IDS]
    path = _write(tmp_path / "l.csv", [(changes.get("slide_column", "slide_id"), "patient_id", "label"), *rows])
    assert read_label_table(path, _spec(**changes)).patients == OWNER


def test_endings_are_offered_where_they_keep_ids_apart():
    ids = ("a.b.svs", "c.svs", "d")
    labels = Labels(ids, dict.fromkeys(ids, "p"), {}, ())
    with refused("names-unmatched", "2", "'a.b.svs'", "'c.svs'", "slide_suffix", "'.svs'"):  # fmt: skip
        match_features(labels, ["a.b", "c", "d"], "L", "C")
    with refused("names-unmatched", "slide_suffix", "'.ndpi'", "'.svs'"):
        match_features(Labels(("a.svs", "b.ndpi"), {}, {}, ()), ["a", "b"], "L", "C")
    with refused("names-unmatched", "'x.svs'", "'exclude'"):
        match_features(Labels(("x.svs",), {}, {}, ()), ["y"], "L", "C")


# --- STAMP's two tables ----------------------------------------------------------------------------------------------

STAMP = {"slide_column": "FILENAME", "patient_column": "PATIENT", "label_column": "KRAS", "slide_table": "slides.csv"}


def _stamp(folder, clinical=None, slides=None):
    _write(
        folder / "labels.csv",
        [("PATIENT", "KRAS", "lab"), *(clinical or [(p, v, f"lab {p[-1]}") for p, v in VALUE.items()])],
    )
    _write(folder / "slides.csv", [("FILENAME", "PATIENT"), *(slides or [(f"{s}.h5", p) for s, p in OWNER.items()])])
    return folder / "labels.csv", folder / "slides.csv"


def test_stamps_tables(tmp_path):
    path, slides = _stamp(tmp_path)
    spec = _spec(**STAMP, split=SplitSpec(scheme="site-preserved", folds=2, site_column="lab"))
    labels = read_label_table(path, spec, slides)
    assert labels.patients == OWNER
    assert labels.labels == {s: int(VALUE[p] == "wild") for s, p in OWNER.items()}
    assert labels.sites == {s: f"lab {p[-1]}" for s, p in OWNER.items()}


CLINICAL = list(VALUE.items())


@pytest.mark.parametrize(
    ("clinical", "slides", "refusal"),
    [
        (CLINICAL[1:], None, ("names-unmatched", "1", "slides.csv", "labels.csv", "'P00'")),
        ([*CLINICAL, ("P99", "wild")], None, ("names-unmatched", "1", "labels.csv", "slides.csv", "'P99'")),
        ([*CLINICAL, ("P03", "wild")], None, ("labels-conflicting-rows", "labels.csv", "1", "'P03'")),
        (
            None,
            [*((f"{s}.h5", p) for s, p in OWNER.items()), ("003.h5", "P07")],
            ("labels-conflicting-rows", "slides.csv", "1"),
        ),
        (
            None,
            [*((s, p) for s, p in OWNER.items()), ("", "P07")],
            ("table-empty-cell", "slides.csv", "FILENAME", "25"),
        ),
        ([*CLINICAL[:-1], ("P11", "")], None, ("labels-missing-value", "labels.csv", "KRAS", "'022', '023'")),
        ([*CLINICAL[:-1], ("P11", "NA")], None, ("labels-missing-value", "labels.csv", "'NA'", "2", "KRAS")),
    ],
)
def test_stamps_tables_that_do_not_fit(clinical, slides, refusal, tmp_path):
    path, table = _stamp(tmp_path, clinical, slides)
    with refused(*refusal):
        read_label_table(path, _spec(**STAMP), table)


def test_columns_that_are_not_there(tmp_path):
    path, slides = _stamp(tmp_path)
    for changes, refusal in (
        (STAMP | {"slide_column": "name"}, ("table-missing-column", "slides.csv", "'name'", "slide_column")),
        (STAMP | {"label_column": "x"}, ("table-missing-column", "labels.csv", "'x'", "label_column")),
        (STAMP | {"patient_column": "x"}, ("table-missing-column", "labels.csv", "'x'", "patient_column")),
    ):
        with refused(*refusal):
            read_label_table(path, _spec(**changes), slides)
    with refused("table-missing-column", "'slide_id'", "slide_table"):
        read_label_table(path, _spec(label_column="KRAS", patient_column="PATIENT"))
    plain = _write(tmp_path / "l.csv", [("slide_id", "patient_id", "label"), ("1", "p", "a")])
    split = SplitSpec(scheme="site-preserved", site_column="lab")
    with refused("table-missing-column", "'lab'", "split.site_column"):
        read_label_table(plain, _spec(split=split))
    with pytest.raises(ValueError, match="slide_table maps slides to patients; give labels"):
        DataSpec(name="x", cache="c", slide_table="s.csv")


def test_a_site_that_init_left_out_is_reported_with_the_option_that_keeps_it(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text("slide_id,patient_id,label,made_from\ns1,p,a,x\ns2,q,b,\n")
    with refused("table-missing-column", "lab", "--site-column") as raised:
        read_label_table(path, _spec(split=SplitSpec(scheme="site-preserved", site_column="lab")))
    assert str(path) in str(raised.value)


def test_excluded_slides_need_neither_patient_nor_site(tmp_path):
    rows = [("1", "p", "a", "x"), ("2", "q", "b", "y"), ("3", "", "exclude", ""), ("4", "r", "exclude", "z")]
    path = _write(tmp_path / "l.csv", [("slide_id", "patient_id", "label", "lab"), *rows])
    labels = read_label_table(path, _spec(split=SplitSpec(scheme="site-preserved", site_column="lab")))
    assert (labels.slides, labels.excluded) == (("1", "2"), {"3", "4"})
    assert labels.excluded_patients == {"3": "", "4": "r"}
    assert labels.sites == {"1": "x", "2": "y"}
    fewer = labels.without(["2", "ghost"])
    assert (fewer.slides, fewer.excluded, fewer.sites) == (("1",), {"2", "3", "4"}, {"1": "x"})
    assert fewer.excluded_patients == {"2": "q", "3": "", "4": "r"}


# --- from tables and split files to a cohort -------------------------------------------------------------------------


@pytest.fixture
def base(tmp_path):
    """A folder with a cache of the 24 slides."""
    with CacheWriter(tmp_path / "c") as writer:
        for i, slide in enumerate(IDS):
            writer.add(slide, torch.full((2 + i % 3, 4), float(i)))
    return tmp_path


def test_a_cohort_of_stamp(base):
    """Clinical table, slide table, splits.json; one patient is left out, knowingly, and the split still names them."""
    _stamp(base, [(p, "exclude" if p == "P05" else v, "lab") for p, v in VALUE.items()])
    patients = sorted(VALUE)
    splits = [
        {"train_patients": patients[2 * k :: 3] + patients[1::3], "test_patients": patients[2 - 2 * k :: 3]}
        for k in (0, 1)
    ]
    (base / "splits.json").write_text(json.dumps({"splits": splits}))
    cohort = load_cohort(_spec(**STAMP, split=SplitSpec(files="splits.json")), base)
    assert cohort.slides == tuple(s for s in IDS if OWNER[s] != "P05")
    for fold, split in zip(cohort.folds, splits, strict=True):
        for part in ("train", "test"):
            due = {s for s, p in OWNER.items() if p in split[f"{part}_patients"] and p != "P05"}
            assert set(fold.parts[part]) == due
        assert fold.val == ()
    assert cohort.split.scheme == "files"
    requested = load_cohort(_spec(**STAMP, split=SplitSpec(files="splits.json", val_fraction=0.25)), base)
    for fold, plain in zip(requested.folds, cohort.folds, strict=True):
        assert fold.test == plain.test
        assert fold.val
        assert sorted(fold.train + fold.val) == sorted(plain.train)
        assert not {OWNER[s] for s in fold.train} & {OWNER[s] for s in fold.val}
    splits[0]["train_patients"].append("P77")
    (base / "splits.json").write_text(json.dumps({"splits": splits}))
    with refused("names-unmatched", "splits.json", "1", "'P77'"):
        load_cohort(_spec(**STAMP, split=SplitSpec(files="splits.json")), base)


def test_an_unknown_slide_in_a_split_file_is_named_also_where_validation_is_carved(base):
    _write(base / "labels.csv", [("slide_id", "patient_id", "label"), *((s, p, VALUE[p]) for s, p in OWNER.items())])
    rows = [(s, "test" if int(s) < 8 else "train") for s in IDS]
    _write(base / "s.csv", [("slide_id", "split"), *rows, ("ghost", "train")])
    with refused("split-without-label", "1", "'ghost'"):
        load_cohort(_spec(split=SplitSpec(files="s.csv", val_fraction=0.2)), base)


def test_endings_come_off_labels_and_split_files(base):
    rows = [(f"{s}.svs", p, VALUE[p]) for s, p in OWNER.items()]
    _write(base / "labels.csv", [("slide_id", "patient_id", "label"), *rows])
    _write(base / "s.csv", [("slide_id", "split"), *((f"{s}.svs", "test" if int(s) < 8 else "train") for s in IDS)])
    plain = load_cohort(_spec(split=SplitSpec(files="s.csv")), base)
    cohort = load_cohort(_spec(split=SplitSpec(files="s.csv"), slide_suffix=".svs"), base)
    assert cohort.folds[0].test == plain.folds[0].test == tuple(IDS[:8])
    assert plain.fingerprint == cohort.fingerprint
    # Of the label table and of the split file, whether the suite names the ending or the matching sets it aside.
    for actual in (plain, cohort):
        assert [finding.code for finding in actual.findings] == ["other-spelling"] * 2


def test_endings_that_come_off_a_table_of_slides_are_noted(tmp_path):
    table = [("PATIENT", "label"), ("a", "1"), ("b", "0")]
    notes = []
    for ending in (".svs.h5", ".h5", ""):
        slides = [("FILENAME", "PATIENT"), (f"s1{ending}", "a"), (f"s2{ending}", "b")]
        paths = (_write(tmp_path / "clini.csv", table), _write(tmp_path / "slides.csv", slides))
        names = {"slide_column": "FILENAME", "patient_column": "PATIENT", "slide_suffix": (".svs.h5",)}
        labels = read_label_table(paths[0], _spec(slide_table="slides.csv", **names), paths[1])
        assert labels.slides == ("s1", "s2")
        notes.append([note.code for note in labels.notes])
    assert notes == [["other-spelling"], [], []], "STAMP's FILENAME ends in .h5"


@pytest.mark.parametrize("scheme", ["monte-carlo", "held-out", "site-preserved"])
def test_schemes_of_a_cohort(scheme, base):
    rows = [(s, p, VALUE[p], f"lab {int(p[1:]) // 2}") for s, p in OWNER.items()]
    _write(base / "labels.csv", [("slide_id", "patient_id", "label", "lab"), *rows])
    extra = (
        {"repeats": 3} if scheme == "monte-carlo" else {"folds": 3, "site_column": "lab"} if "site" in scheme else {}
    )
    cohort = load_cohort(_spec(split=SplitSpec(scheme=scheme, **extra)), base)
    assert len(cohort.folds) == (1 if scheme == "held-out" else 3)
    assert cohort.split.scheme == scheme
    if scheme == "site-preserved":
        labs = [{int(OWNER[s][1:]) // 2 for s in fold.test} for fold in cohort.folds]
        assert sorted(lab for tested in labs for lab in tested) == list(range(6))
