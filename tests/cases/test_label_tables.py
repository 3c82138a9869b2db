"""Tables as people have them: columns by content, spellings, missing values, patients, splits, stale copies."""

from __future__ import annotations

import json
import re
import sys
import tomllib
import unicodedata
from pathlib import Path

import h5py
import numpy as np
import openpyxl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.features import write_csv
from support.refusal import assert_refused, refused

import milbench.cli
from milbench.config.suites import load_suite
from milbench.data.cohort import load_cohort
from milbench.data.labels.values import read_values
from milbench.data.names.id_matching import match_ids, match_patients
from milbench.data.names.likely_patients import likely_patients
from milbench.data.names.spellings import is_missing, label_key, merged, missing_codes
from milbench.data.splits.files import read_folds, read_split, unnamed_slides
from milbench.data.suite_audit import audit
from milbench.data.text_tables import load_table, read_table

IDS = [f"S{i:03d}" for i in range(24)]


def features(folder: Path, names=IDS, kind="h5_files") -> None:
    """CLAM's files of a few rows each."""
    (folder / "feats" / kind).mkdir(parents=True, exist_ok=True)
    for i, name in enumerate(names):
        with h5py.File(folder / "feats" / kind / f"{name}.h5", "w") as file:
            file["features"] = np.random.default_rng(i).normal(size=(3 + i % 3, 4)).astype(np.float32)
            file["coords"] = np.arange(2 * (3 + i % 3)).reshape(-1, 2)


def table(path: Path, header, rows) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_csv(path, [tuple(header), *map(tuple, rows)])


@pytest.fixture
def init(tmp_path, monkeypatch, capsys):
    """Run init in the folder of the test; give its exit code, what it printed, and its error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())

    def call(*words: object, labels="labels.csv", out="a.toml"):
        given = ["init", "--features", "feats", "--labels", labels, "--out", out, "--no-estimate", *words]
        monkeypatch.setattr(sys, "argv", ["milbench", *map(str, given)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            milbench.cli.main()
        said = capsys.readouterr()
        return ended.value.code, said.out, said.err

    return call


def cohort(folder: Path, name="a.toml"):
    suite = load_suite(folder / name)
    return load_cohort(suite.data[0], suite.base)


def codes(folder: Path, name="a.toml") -> list[str]:
    return [finding.code for finding in audit(load_suite(folder / name)) if not finding.code.startswith("almost")]


def two(i: int) -> str:
    return ("neg", "pos")[i % 2]


# --- matching of ids -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "known"),
    [
        ("s000.SVS", "S000"),
        ("/data/wsi/b0/S000.svs", "S000"),
        (r"batch0\S000.h5", "batch0/S000"),
        ("./batch0/S000.h5", "batch0/S000"),
        ("S000.h5", "batch0/S000"),
        ("S000", "S000.svs"),
        ("a.ome.tiff.h5", "A"),
        ("100.0", "100"),
        ("9980", "09980"),
        ("0042", "42"),
        ("S000\u200b", "S000"),
        ("S 000\u00a0", "S 000"),
        (unicodedata.normalize("NFD", "Müller"), unicodedata.normalize("NFC", "Müller")),
        ("TCGA-A0-1000-01Z-00-DX1", "TCGA-A0-1000-01Z-00-DX1.0a1b2c3d-aaaa-bbbb-cccc-dddddddddddd"),
        ("TCGA-A0-1000-01Z-00-DX1.0A1B2C3D-AAAA-BBBB-CCCC-DDDDDDDDDDDD.svs", "tcga-a0-1000-01z-00-dx1"),
    ],
)
def test_one_name_in_two_spellings(given, known):
    matching = match_ids([given, "other"], [known, "unrelated"])
    assert matching.names == {given: known}
    assert matching.lost == ("other",)
    (line,) = matching.lines("labels", "features")
    assert line.startswith("1 name of labels")


@pytest.mark.parametrize(
    ("given", "known"),
    [
        (["a.svs", "a.tif"], ["a"]),
        (["S1"], ["x/S1", "y/S1"]),
        (["1"], ["01", "001"]),
        (["A"], ["a", "a.svs"]),
        (["a", "A"], ["a"]),
    ],
)
def test_a_name_of_several_slides_is_not_guessed(given, known):
    matching = match_ids(given, known)
    assert all(matching.names[name] == name for name in matching.names)
    assert matching.several
    assert matching.ambiguous()


@pytest.mark.parametrize(("given", "known"), [("010", "0010"), ("a.2", "a"), ("S1", "S10"), ("S001", "S1")])
def test_other_names_stay_other_names(given, known):
    assert match_ids([given], [known]).names == {}


@pytest.mark.parametrize(
    ("given", "known", "names"),
    [
        # Folders tell slides of one file apart, in one of the files or in the other.
        (["P00/s0", "P01/s1"], ["P01/s0", "P01/s1", "P02/s1"], {"P01/s1": "P01/s1"}),
        (["P00/s0", "P02/s0", "P02/s1.A"], ["P01/s0", "P01/s1"], {}),
        # They do not, or there is none.
        (["/wsi/2020/s0.svs", "/wsi/2021/s1.svs"], ["b0/s0", "b1/s1"],
         {"/wsi/2020/s0.svs": "b0/s0", "/wsi/2021/s1.svs": "b1/s1"}),
        (["s2"], ["P00/s0", "P01/s0", "P01/s2"], {"s2": "P01/s2"}),
    ],
)  # fmt: skip
def test_slides_of_two_folders_are_two_where_folders_tell_slides_apart(given, known, names):
    assert match_ids(given, known).names == names


@pytest.mark.parametrize("form", ["list", "columns", "parts"])
def test_a_slide_that_is_not_there_is_no_other_slide_of_another_part(form, tmp_path):
    """The labels lack P00/s0, which one part names, and have P01/s0, which the other does."""
    part = {"P01/s0": "train", "P00/s0": "test", "P02/s1": "train", "P03/s1": "test"}
    of = {word: [s for s in part if part[s] == word] for word in ("train", "test")}
    if form == "list":
        table(tmp_path / "s.csv", ["slide_id", "split"], part.items())
    elif form == "columns":
        table(tmp_path / "s.csv", ["train", "test"], zip(of["train"], of["test"], strict=True))
    for word, names in of.items() if form == "parts" else ():
        table(tmp_path / "s" / f"{word}.csv", ["slide_id"], [(s,) for s in names])
    known = {s: s[:3] for s in part if s != "P00/s0"}
    (fold,) = read_folds("s" if form == "parts" else "s.csv", tmp_path, known)
    assert fold.parts == {"train": tuple(of["train"]), "val": (), "test": tuple(of["test"])}
    (fold,) = read_folds("s" if form == "parts" else "s.csv", tmp_path, {"A/s0": "A", "B/s1": "B"})
    assert not set(fold.train + fold.test) & {"A/s0", "B/s1"}


@given(st.lists(st.text("aB0.1/ -", min_size=1, max_size=6), max_size=8, unique=True),
       st.lists(st.text("Ab0.1/ -", min_size=1, max_size=6), max_size=8, unique=True))  # fmt: skip
def test_matching_is_one_to_one_and_exact_first(given, known):
    matching = match_ids(given, known)
    assert all(matching.names[name] == name for name in given if name in known)
    once = {name: known for name, known in matching.names.items() if known not in given or name == known}
    assert len(set(once.values())) == len(once)
    again = {name: known for name, known in matching.names.items() if name not in once}
    assert all(match_ids([name], [known]).names == {name: known} for name, known in again.items())
    assert set(given) == {*matching.names, *matching.several, *matching.lost}
    assert match_ids(reversed(given), reversed(known)).names == matching.names


def test_letter_case_uuid_folder_and_zeros_in_a_cohort(tmp_path, init):
    names = [f"TCGA-A{i % 7}-{1000 + i}-01Z-00-DX1.{i:08X}-AAAA" for i in range(24)]
    features(tmp_path, names)
    spelled = [(n.lower(), n.partition(".")[0], f"/wsi/{n}.svs", n)[i % 4] for i, n in enumerate(names)]
    table(tmp_path / "labels.csv", ["case_id", "slide_id", "label"],
          [(n[:12], s, two(i // 4)) for i, (n, s) in enumerate(zip(names, spelled, strict=True))])  # fmt: skip
    code, out, err = init()
    assert code == 0, err
    assert "in letter case alone" in out
    assert set(cohort(tmp_path).slides) == set(names)
    assert "other-spelling" in codes(tmp_path)


def test_a_cohort_of_exact_names_keeps_its_fingerprint(tmp_path, init):
    features(tmp_path)
    rows = [(f"P{i}", s, two(i)) for i, s in enumerate(IDS)]
    table(tmp_path / "labels.csv", ["case_id", "slide_id", "label"], rows)
    assert init()[0] == 0
    exact = cohort(tmp_path)
    assert exact.findings == () or {f.code for f in exact.findings} <= {"almost-label-column"}
    table(tmp_path / "labels.csv", ["case_id", "slide_id", "label"], [(p, f"{s}.SVS", y) for p, s, y in rows])
    assert cohort(tmp_path).fingerprint == exact.fingerprint


# --- nothing is lost in passing --------------------------------------------------------------------------------------


def test_names_that_nearly_match_stop_init_and_are_shown(tmp_path, init):
    features(tmp_path)
    wrong = [f"S-{s[1:]}" if i < 3 else s for i, s in enumerate(IDS)]
    table(tmp_path / "labels.csv", ["case_id", "slide_id", "label"],
          [(f"P{i}", s, two(i)) for i, s in enumerate(wrong)])  # fmt: skip
    code, _, err = init()
    assert code == 1
    assert_refused(err, "names-unmatched", "'S-000'", "'S000'")
    assert_refused(err, "names-unmatched", "3", "--allow-missing")
    assert init("--allow-missing", 2)[0] == 1
    assert init("--allow-missing", 3)[0] == 0


def test_a_class_or_part_is_not_lost_to_its_last_slide(tmp_path, init):
    features(tmp_path, IDS[1:])
    rows = [(f"P{i}", s, "rare" if i == 0 else two(i)) for i, s in enumerate(IDS)]
    table(tmp_path / "labels.csv", ["case_id", "slide_id", "label"], rows)
    code, _, err = init()
    assert code == 1
    assert_refused(err, "names-unmatched", "'rare'")
    table(
        tmp_path / "labels.csv", ["case_id", "slide_id", "label"], [(p, s, two(i)) for i, (p, s, _) in enumerate(rows)]
    )
    table(tmp_path / "s.csv", ["slide_id", "split"], [(s if i < 20 else f"x{i}", "train" if i < 20 else "test")
                                                      for i, s in enumerate(IDS)])  # fmt: skip
    code, _, err = init("--splits", "s.csv")
    assert code == 1
    assert_refused(err, "names-unmatched")


@pytest.mark.parametrize("form", ["stamp", "table"])
def test_patients_that_a_split_does_not_name_are_counted(form, tmp_path, init):
    features(tmp_path)
    rows = [(f"P{i // 2}", s, two(i // 2)) for i, s in enumerate(IDS)]
    table(tmp_path / "labels.csv", ["case_id", "slide_id", "label"], rows)
    patients = list(dict.fromkeys(patient for patient, _, _ in rows))[:9]
    parts = {"train": patients[:5], "test": patients[5:]}
    if form == "stamp":
        split = {f"{part}_patients": names for part, names in parts.items()}
        (tmp_path / "splits.json").write_text(json.dumps({"splits": [split]}))
    else:
        of_parts = [(patient, part) for part, names in parts.items() for patient in names]
        table(tmp_path / "splits.csv", ["case_id", "split"], of_parts)
    file = "splits.json" if form == "stamp" else "splits.csv"
    assert init("--splits", file)[0] == 1
    assert init("--splits", file, "--allow-missing", 5)[0] == 1
    assert init("--splits", file, "--allow-missing", 6)[0] == 0


@pytest.mark.parametrize("column", ["label", "train_label", "fold", "fold_0"])
def test_numbers_next_to_ids_name_no_slides(column, tmp_path):
    """Slides 0 and 1 are named by no cell of a column of labels or folds."""
    slides = {str(i): f"P{i}" for i in range(12)}
    named = list(slides)[2:]
    table(tmp_path / "s.csv", ["slide_id", "split", column], [(s, "train", int(s) % 2) for s in named])
    assert unnamed_slides(str(tmp_path / "s.csv"), ["0", "1"], slides, ()) == ["0", "1"]


# --- classes and missing values --------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["'--", "Not Reported", "[Not Available]", "[Unknown]", "NA", "#N/A", "nan", "NaN",
                                  "None", "<NA>", "-", "?", "missing", "unknown", "n/a", "NULL", "", "--"])  # fmt: skip
def test_words_for_a_missing_value(word):
    assert is_missing(word)


@pytest.mark.parametrize("word", ["negative", "no", "0", "other", "normal", "Stage I", "-1", "NOS", "+"])
def test_words_that_are_labels(word):
    assert not is_missing(word)


def test_codes_of_missing_values_occur_with_zero_and_one():
    assert missing_codes(["0", "1", "-1.0"]) == {"-1.0"}
    assert missing_codes(["-1", "1"]) == set()
    assert missing_codes(["0", "1", "2"]) == set()


@pytest.mark.parametrize("signs", [("-", "+"), ("(-)", "(+)"), ("\u2212", "+", "++"), ("-", "+", "+++")])
def test_a_minus_with_a_plus_is_a_class_and_no_missing_value(signs):
    values = read_values({f"s{i}": signs[i % len(signs)] for i in range(12)}, "label", "T", None)
    assert set(values.classes.values()) == set(signs)
    assert not values.missing
    read = read_values({"a": signs[0], "b": "T1", "c": "T2"}, "label", "T", None)
    assert set(read.missing) == ({"a"} if signs[0] != "\u2212" else set())


def test_missing_values_are_left_out_and_named(tmp_path, init):
    features(tmp_path)
    words = ["'--", "Not Reported", "Unknown", "None"]
    rows = [(f"P{i}", s, words[i] if i < 4 else two(i)) for i, s in enumerate(IDS)]
    table(tmp_path / "labels.csv", ["case_id", "slide_id", "label"], rows)
    code, out, err = init()
    assert code == 0, err
    assert all(repr(word) in out for word in words)
    assert cohort(tmp_path).classes == ("neg", "pos")


def test_a_word_for_a_missing_value_is_a_class_where_it_is_named(tmp_path, init):
    features(tmp_path)
    rows = [(f"P{i}", s, ("None", "IDC", "ILC")[i % 3]) for i, s in enumerate(IDS)]
    table(tmp_path / "labels.csv", ["case_id", "slide_id", "label"], rows)
    assert init()[0] == 0
    assert cohort(tmp_path).classes == ("IDC", "ILC")
    assert init("--class", "None", out="b.toml")[0] == 0
    assert cohort(tmp_path, "b.toml").classes == ("IDC", "ILC", "None")


def test_spellings_of_a_class_are_one(tmp_path, init):
    features(tmp_path)
    words = ["LUAD", "LUSC", "luad", "LUSC ", "Luad", "LUAD\u200b", "LU\u00a0SC", "LUSC\u00a0"]
    rows = [(f"P{i}", s, words[i % 8]) for i, s in enumerate(IDS)]
    table(tmp_path / "labels.csv", ["case_id", "slide_id", "label"], rows)
    code, out, err = init()
    assert code == 0, err
    assert "are one: 'LUAD'" in out
    made = cohort(tmp_path)
    assert made.classes == ("LUAD", "LUSC")
    assert [made.classes[made.labels[s]] for s in IDS[:8]] == [
        "LUAD", "LUSC", "LUAD", "LUSC", "LUAD", "LUAD", "LUSC", "LUSC"
    ]  # fmt: skip
    assert "other-spelling" in codes(tmp_path)


def test_named_classes_are_kept_apart():
    assert merged(["a", "A"], label_key, ("a", "A")) == ({"a": "a", "A": "A"}, [])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([f"{3.37 * i + 0.2:.2f}" for i in range(24)], "24 values in 24 slides.*it is a number, not a class"),
        ([str(41 + 3 * i) for i in range(24)], "it is a number, not a class"),
        ([["MSI", "BRAF", "MSI;BRAF", "BRAF;MSI"][i % 4] for i in range(24)], "several labels in a cell"),
        ([["a|b", "b|a"][i % 2] for i in range(24)], "several labels in a cell"),
        ([f"free text {'xyz'[i % 3]} {i}" for i in range(24)], "names or free text, not classes"),
    ],
)
def test_cells_that_are_no_classes(values, message, tmp_path, init):
    features(tmp_path)
    table(tmp_path / "labels.csv", ["case_id", "slide_id", "label"],
          [(f"P{i}", s, v) for i, (s, v) in enumerate(zip(IDS, values, strict=True))])  # fmt: skip
    code, _, err = init()
    assert code == 1
    assert re.search(message, err)


def test_numbers_and_names_with_commas_that_are_classes(tmp_path, init):
    features(tmp_path)
    words = ["Glioblastoma, IDH-wildtype", "Glioblastoma, IDH-mutant", "Meningioma"]
    for k, values in enumerate((words, ["0", "1", "2"])):
        table(tmp_path / "labels.csv", ["case_id", "slide_id", "label"],
              [(f"P{i}", s, values[i % 3]) for i, s in enumerate(IDS)])  # fmt: skip
        code, _, err = init(out=f"t{k}.toml")
        assert code == 0, err


def test_a_rare_class_can_be_left_out(tmp_path, init):
    features(tmp_path)
    rows = [(f"P{i}", s, "rare" if i == 0 else two(i)) for i, s in enumerate(IDS)]
    table(tmp_path / "labels.csv", ["case_id", "slide_id", "label"], rows)
    code, _, err = init()
    assert code == 1
    assert_refused(err, "folds-impossible", "--exclude-class", "'rare'")
    assert init("--exclude-class", "rare")[0] == 0
    assert cohort(tmp_path).classes == ("neg", "pos")
    assert init("--exclude-class", "rarr", out="b.toml")[0] == 1


# --- form of tables --------------------------------------------------------------------------------------------------


def test_comments_titles_and_line_breaks(tmp_path):
    rows = "".join(f"TCGA-{i},LumA,{i}\n" for i in range(3))
    for text, header in (
        ("#Patient,Sub,Age\n#Who,What,How\n#STRING,STRING,NUMBER\n#1,1,1\nPATIENT_ID,SUBTYPE,AGE\n", "PATIENT_ID"),
        ("#slide_id,label,x\n", "slide_id"),
        ("Supplementary Table 1\n\nslide_id,label,x\n", "slide_id"),
        ("Our cohort, please cite\ncase_id,slide_id,label\n", "case_id"),
        ('"Slide\nname",label,x\n', "Slide name"),
        (",label,x\n", ""),
    ):
        (tmp_path / "t.csv").write_text(text + rows)
        actual, cells = read_table(tmp_path / "t.csv")
        assert actual[0] == header
        assert [row[0] for row in cells] == ["TCGA-0", "TCGA-1", "TCGA-2"]


def test_sheets_and_merged_cells(tmp_path, init):
    features(tmp_path)
    book = openpyxl.Workbook()
    book.active.title = "README"
    book.active.append(["please cite"])
    sheet = book.create_sheet("Cohort")
    sheet.append(["patient", "slide", "WSI\nlabel"])
    for i, s in enumerate(IDS):
        sheet.append([f"P{i // 2}" if i % 2 == 0 else None, s, two(i // 2) if i % 2 == 0 else None])
        if i % 2:
            for column in (1, 3):
                sheet.merge_cells(start_row=i + 1, end_row=i + 2, start_column=column, end_column=column)
    book.save(tmp_path / "l.xlsx")
    code, _, err = init(labels="l.xlsx")
    assert code == 1
    assert_refused(err, "table-sheet", "l.xlsx#Cohort")
    code, _, err = init("--label-column", "WSI label", labels="l.xlsx#Cohort")
    assert code == 0, err
    made = cohort(tmp_path)
    assert made.patients == {s: f"P{i // 2}" for i, s in enumerate(IDS)}
    cells = load_table(tmp_path / "l.xlsx#Cohort").rows
    table(tmp_path / "l.csv", ["patient", "slide", "label"],
          [("" if i % 2 else row[0], row[1], "" if i % 2 else row[2]) for i, row in enumerate(cells)])  # fmt: skip
    code, _, err = init(labels="l.csv", out="c.toml")
    assert code == 1
    assert_refused(err, "table-empty-cell")


def test_a_table_without_header_is_refused(tmp_path, init):
    features(tmp_path)
    table(tmp_path / "labels.csv", (IDS[0], "Tumor"), [(s, two(i)) for i, s in enumerate(IDS[1:])])
    for words in ((), ("--slide-column", IDS[0], "--label-column", "Tumor", "--patient-column", IDS[0])):
        code, _, err = init(*words)
        assert code == 1
        assert_refused(err, "table-no-header", IDS[0])


def test_repeated_rows_that_agree_are_one(tmp_path, init):
    features(tmp_path)
    rows = [(f"P{i}", s, two(i), t) for i, s in enumerate(IDS) for t in ("chemo", "radiation")[: 1 + (i % 3 == 0)]]
    table(tmp_path / "labels.csv", ["case_id", "slide_id", "label", "treatment"], rows)
    code, out, err = init()
    assert (code, "8 rows of labels.csv" in out) == (0, True), err
    assert len(cohort(tmp_path).slides) == 24
    table(tmp_path / "labels.csv", ["case_id", "slide_id", "label", "treatment"], [*rows, ("P0", IDS[0], "pos", "x")])
    code, _, err = init(out="b.toml")
    assert code == 1
    assert_refused(err, "labels-conflicting-rows", repr(IDS[0]))


def test_two_slides_in_a_cell(tmp_path, init):
    features(tmp_path)
    rows = [("P0", f"{IDS[0]}.svs;{IDS[1]}.svs", "neg"), *((f"P{i}", s, two(i)) for i, s in enumerate(IDS) if i > 1)]
    table(tmp_path / "labels.csv", ["case_id", "slide_id", "label"], rows)
    code, _, err = init()
    assert code == 1
    assert_refused(err, "labels-several-values")


# --- patients --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "patient"),
    [
        ("patient_{p:03d}_node_{k}", "patient_{p:03d}"),
        ("H21-{p:04d}_{b}", "H21-{p:04d}"),
        ("{p:05d}-{k}", "{p:05d}"),
        ("P{p:02d}_DX{k}", "P{p:02d}"),
        ("case{p}_block{b}_level{k}", "case{p}"),
        ("{p:04d}{b}", "{p:04d}"),
        ("C3L-{p:05d}-2{k}", "C3L-{p:05d}"),
    ],
)
def test_names_that_tell_patients(name, patient):
    due = {
        name.format(p=p, k=k, b="AB"[k - 1]): patient.format(p=p, k=k, b="AB"[k - 1])
        for p in range(11, 31) for k in (1, 2)
    }  # fmt: skip
    actual = likely_patients(due)
    assert actual is not None
    assert actual.patients == due
    assert actual.whole
    assert {slide: re.search(actual.rule, slide)[1] for slide in due} == due


@pytest.mark.parametrize("name", ["S{i:03d}", "test_{i:03d}", "BRACS_{i}", "slide {i}", "H-2021-{i:04d}", "{i}"])
def test_names_that_tell_no_patients(name):
    assert likely_patients([name.format(i=700 + i) for i in range(60)]) is None


def test_camelyon17_needs_a_patient_rule_and_is_warned_of(tmp_path, init):
    names = [f"patient_{p:03d}_node_{n}" for p in range(6) for n in range(4)]
    features(tmp_path, names)
    rows = [(f"patient_{p:03d}.zip", "pN0") for p in range(6)]
    rows += [(f"{s}.tif", "macro" if i % 3 else "negative") for i, s in enumerate(names)]
    table(tmp_path / "labels.csv", ["patient", "stage"], rows)
    code, _, err = init()
    assert (code, "every slide is a patient" in err) == (1, False)
    assert_refused(err, "table-column-unclear", "24", "6")
    rule = err.split("--patient-rule '")[1].split("'")[0].replace("\\\\", "\\")
    assert init("--patient-rule", rule, "--label-column", "stage")[0] == 0
    made = cohort(tmp_path)
    assert made.patients == {s: s[:11] for s in names}
    code, out, _ = init("--patient-column", "patient", "--label-column", "stage", out="b.toml")
    own = cohort(tmp_path, "b.toml")
    shared = max(len({s[:11] for s in (*f.train, *f.val)} & {s[:11] for s in f.test}) for f in own.folds)
    assert (code, f"up to {shared} of these patients" in out) == (0, True)
    assert "likely-patients" in codes(tmp_path, "b.toml")


def test_spellings_of_a_patient_are_one_and_two_labels_are_named(tmp_path, init):
    features(tmp_path)
    rows = [(f"{100 + i // 2}" + (".0" if i % 2 else ""), s, two(i // 2)) for i, s in enumerate(IDS)]
    rows[0] = (*rows[0][:2], "pos")
    table(tmp_path / "labels.csv", ["patient_id", "slide_id", "label"], rows)
    code, out, err = init()
    assert code == 0, err
    assert len(set(cohort(tmp_path).patients.values())) == 12
    assert "'100' ('neg', 'pos')" in out
    assert {"other-spelling", "mixed-patient"} <= set(codes(tmp_path))


def test_two_tables_whose_patients_are_spelled_differently(tmp_path, init):
    features(tmp_path)
    table(tmp_path / "c.csv", ["PATIENT", "MSI"], [(f"{100 + i}.0", two(i)) for i in range(24)])
    table(tmp_path / "s.csv", ["PATIENT", "FILENAME"], [(str(100 + i), f"{s}.h5") for i, s in enumerate(IDS)])
    code, _, err = init("--slide-table", "s.csv", labels="c.csv")
    assert code == 0, err
    assert len(cohort(tmp_path).slides) == 24
    table(tmp_path / "s.csv", ["PATIENT", "FILENAME"], [(f"q{i}", f"{s}.h5") for i, s in enumerate(IDS)])
    code, _, err = init("--slide-table", "s.csv", labels="c.csv", out="b.toml")
    assert code == 1
    assert_refused(err, "names-unmatched")
    assert match_patients(["p1 ", "002"], ["P1", "2"]).names == {"p1 ": "P1", "002": "2"}


def test_patients_without_a_slide_are_named(tmp_path, init):
    features(tmp_path, IDS[:20])
    table(tmp_path / "c.csv", ["PATIENT", "MSI"], [(f"P{i}", two(i)) for i in range(24)])
    table(tmp_path / "s.csv", ["PATIENT", "FILENAME"],
          [(f"P{i}", f"{s}.h5" if i < 20 else "") for i, s in enumerate(IDS)])  # fmt: skip
    code, _, err = init("--slide-table", "s.csv", labels="c.csv")
    assert code == 1
    assert_refused(err, "names-unmatched", "'P20', 'P21', 'P22', 'P23'")
    assert init("--slide-table", "s.csv", "--allow-missing", 4, labels="c.csv")[0] == 0
    assert len(cohort(tmp_path).slides) == 20


def test_labels_of_patients_go_to_the_slides_that_begin_with_their_names(tmp_path, init):
    names = [f"TCGA-A{p % 7}-{1000 + p}-01Z-00-DX{k}.AAAA" for p in range(12) for k in (1, 2)]
    features(tmp_path, names)
    table(tmp_path / "labels.csv", ["case_id", "label"], [(f"TCGA-A{p % 7}-{1000 + p}", two(p)) for p in range(12)])
    code, out, err = init()
    assert (code, "rows of labels.csv are patients" in out) == (0, True), err
    made = cohort(tmp_path)
    assert made.patients == {s: s[:12] for s in names}
    assert {s: made.classes[c] for s, c in made.labels.items()} == {s: two(int(s[8:12])) for s in names}


# --- splits ----------------------------------------------------------------------------------------------------------

PARTS = ["train"] * 14 + ["val"] * 4 + ["test"] * 6


@pytest.mark.parametrize("words", [("True", "False"), ("1", "0"), ("yes", "no"), ("TRUE", "")])
def test_ids_of_a_table_of_booleans_are_not_the_index(words, tmp_path):
    order = [int(i) for i in np.random.default_rng(1).permutation(24)]
    rows = [
        (k, s, *(words[p != part] for part in ("train", "val", "test")))
        for k, (s, p) in enumerate(zip(order, PARTS, strict=True))
    ]
    known = {str(i): str(i) for i in range(24)}
    for index, column in (("", "image_id"), ("Unnamed: 0", "name"), ("index", "slide")):
        table(tmp_path / "s.csv", [index, column, "train", "val", "test"], rows)
        (fold,) = read_folds("s.csv", tmp_path, known)
        assert [set(ids) for ids in fold.parts.values()] == [
            {str(s) for s, p in zip(order, PARTS, strict=True) if p == part} for part in ("train", "val", "test")
        ]
    table(tmp_path / "s.csv", ["one", "other", "train", "val", "test"], rows)
    with refused("table-column-unclear"):
        read_folds("s.csv", tmp_path, known)


@pytest.mark.parametrize(
    ("column", "words"),
    [
        ("split", ("train", "val", "test")), ("Set", ("Training", "Validation", "Testing")),
        ("official_split", ("TRAIN", "dev", "Test")), ("my column", ("train", "tune", "held-out")),
    ],
)  # fmt: skip
def test_a_column_of_the_label_table_is_the_split(column, words, tmp_path, init):
    features(tmp_path)
    said = dict(zip(("train", "val", "test"), words, strict=True))
    table(tmp_path / "labels.csv", ["case_id", "WSI Filename", "label", column],
          [(f"P{i}", s, two(i), said[p]) for i, (s, p) in enumerate(zip(IDS, PARTS, strict=True))])  # fmt: skip
    extra = ("--split-column", column, "--label-column", "label") if column.startswith("my") else ()
    code, out, err = init(*extra)
    assert (code, "1 published fold of labels.csv" in out) == (0, True), err
    (fold,) = cohort(tmp_path).folds
    assert [len(ids) for ids in fold.parts.values()] == [14, 4, 6]
    assert set(fold.test) == set(IDS[18:])


def test_columns_that_are_not_used_are_named(tmp_path, init):
    features(tmp_path)
    table(tmp_path / "labels.csv", ["case_id", "slide_id", "label", "fold", "site", "Unnamed: 4"],
          [(f"P{i}", s, two(i), i % 5, "x", i) for i, s in enumerate(IDS)])  # fmt: skip
    code, out, _ = init()
    (line,) = [line for line in out.splitlines() if "not used" in line]
    assert (code, all(repr(name) in line for name in ("fold", "site", "Unnamed: 4"))) == (0, True)
    assert "unused-column" in codes(tmp_path)


@pytest.mark.parametrize("form", ["patients", "suffix", "folder", "case"])
def test_split_files_that_name_patients_or_other_spellings(form, tmp_path):
    known = {s: f"P{i // 2}" for i, s in enumerate(IDS)}
    spelled = {"suffix": "{}.svs", "folder": "/wsi/{}.tiff", "case": "{}"}.get(form, "{}")
    columns = {
        part: [spelled.format(s.lower() if form == "case" else s) for s, p in zip(IDS, PARTS, strict=True) if p == part]
        for part in ("train", "val", "test")
    }
    if form == "patients":
        columns = {p: list(dict.fromkeys(known[s] for s in ids)) for p, ids in columns.items()}
    longest = max(map(len, columns.values()))
    cells = [[*ids, *[""] * (longest - len(ids))] for ids in columns.values()]
    table(tmp_path / "splits_0.csv", ["", *columns], [(i, *row) for i, row in enumerate(zip(*cells, strict=True))])
    split = read_split("splits_{k}.csv", tmp_path, known)
    assert [list(ids) for ids in split.folds[0].parts.values()] == [IDS[:14], IDS[14:18], IDS[18:]]
    assert len(split.notes) == (form != "patients")


@pytest.mark.parametrize("name", ["gp/{}_0.csv", "pn/{}.csv", "k/k=0/{}.csv", "x/fold3-{}.csv", "l/{}.txt"])
def test_one_file_a_part(name, tmp_path):
    known = {s: s for s in IDS}
    for part in ("train", "val", "test"):
        ids = [s for s, p in zip(IDS, PARTS, strict=True) if p == part]
        path = tmp_path / name.format(part)
        path.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith("txt"):
            path.write_text("\n".join(ids) + "\n")
        else:
            table(path, ["data_provider", "slide_id", "label"], [("k", s, 0) for s in ids])
    folder = name.split("/")[0]
    (fold,) = read_folds(folder, tmp_path, known)
    assert [list(ids) for ids in fold.parts.values()] == [IDS[:14], IDS[14:18], IDS[18:]]


# --- the copy of the labels ------------------------------------------------------------------------------------------


def test_a_copy_of_labels_is_held_against_its_source(tmp_path, init):
    features(tmp_path, IDS[:-1])
    rows = [(f"P{i}", s, two(i)) for i, s in enumerate(IDS)]
    table(tmp_path / "labels.csv", ["case_id", "slide_id", "label"], rows)
    assert init()[0] == 0
    data = tomllib.loads((tmp_path / "a.toml").read_text())["data"][0]
    assert data["labels"] == "a.labels.csv"
    assert not {"stale-labels", "unchecked-labels"} & set(codes(tmp_path))
    rows[0] = (*rows[0][:2], "pos")
    table(tmp_path / "labels.csv", ["case_id", "slide_id", "label"], rows)
    assert "stale-labels" in codes(tmp_path)
    with refused("stale-labels", "a.labels.csv"):
        cohort(tmp_path)
    (tmp_path / "labels.csv").unlink()
    assert "unchecked-labels" in codes(tmp_path)


def test_features_that_came_later_are_noticed(tmp_path, init):
    features(tmp_path, IDS[:-1])
    table(tmp_path / "labels.csv", ["case_id", "slide_id", "label"], [(f"P{i}", s, two(i)) for i, s in enumerate(IDS)])
    assert init()[0] == 0
    features(tmp_path)
    with refused("stale-labels", "1", IDS[-1]):
        cohort(tmp_path)


def test_a_split_file_whose_name_is_no_name_cannot_be_run(tmp_path, init):
    features(tmp_path)
    table(tmp_path / "labels.csv", ["slide_id", "patient_id", "label"],
          [(s, f"P{i}", two(i)) for i, s in enumerate(IDS)])  # fmt: skip
    table(tmp_path / " .csv", ["slide_id", "split"], [(s, ("train", "test")[i // 2 % 2]) for i, s in enumerate(IDS)])
    code, _, _ = init("--splits", " .csv", "--strict")
    assert code != 0
    init("--splits", " .csv")
    assert "fold-name" in codes(tmp_path)
