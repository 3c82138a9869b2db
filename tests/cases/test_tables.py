"""Label tables and split files as they lie about: read rightly, or refused with the truth."""

import csv
import os
import unicodedata
from pathlib import Path

import numpy as np
import openpyxl
import pytest
from support.refusal import refused
from typer.testing import CliRunner

from milbench.cli import app
from milbench.config.suites import load_suite
from milbench.data.cohort import load_cohort
from milbench.errors import MilbenchError

N = 40


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MILBENCH_CACHE", str(tmp_path / "cache-home"))
    return tmp_path


def features(names, folder="f"):
    """Write features: four rows of four numbers a slide, plain files."""
    Path(folder).mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    for name in names:
        file = Path(folder) / f"{name}.npy"
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file, rng.normal(size=(4, 4)).astype(np.float32))


def table(path, header, rows, sep=","):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with Path(path).open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=sep).writerows([header, *rows])


def sheet(path, rows, title="Sheet"):
    book = openpyxl.Workbook()
    book.active.title = title
    for row in rows:
        book.active.append(row)
    book.save(path)


def labelled(rows, path="l.csv", header=("case_id", "slide_id", "label")):
    """Write the usual table of patient, slide and label."""
    table(path, list(header), rows)


def milbench(*words):
    """Run the command line; return the exit code and what it said."""
    result = CliRunner().invoke(app, [str(word) for word in words])
    if isinstance(result.exception, MilbenchError):
        return 1, str(result.exception)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def init(*more, labels="l.csv", out="a.toml", source="f"):
    return milbench("init", "--features", source, "--labels", labels, "--no-estimate", "--out", out, *more)


def cohort(suite="a.toml"):
    actual = load_suite(suite)
    return load_cohort(actual.data[0], actual.base)


def names(n=N):
    return [f"S{i:03d}" for i in range(n)]


def label(i):
    return ["neg", "pos"][i % 2]


def ok(said):
    code, text = said
    assert code == 0, text
    return text


def refusal_text(said):
    code, text = said
    assert code == 1, text
    return text


# --- which column, which row ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("yes", [("True", "False"), ("TRUE", "FALSE"), ("1", "0"), ("yes", "no"), ("1.0", "0.0")])
def test_a_table_of_booleans_is_read_by_the_column_of_its_slides(here, yes):
    ids = [int(v) for v in np.random.default_rng(1).permutation(N)]
    features(ids)
    table("l.csv", ["image_id", "label"], [[s, label(i)] for i, s in enumerate(ids)])
    parts = ["train"] * 24 + ["val"] * 6 + ["test"] * 10
    flags = [
        [k, s, *(yes[p != part] for part in ("train", "val", "test"))]
        for k, (s, p) in enumerate(zip(ids, parts, strict=True))
    ]
    table("split.csv", ["", "image_id", "train", "val", "test"], flags)
    ok(init("--patient-column", "image_id", "--splits", "split.csv"))
    (fold,) = cohort().folds
    assert set(fold.test) == {str(s) for s, p in zip(ids, parts, strict=True) if p == "test"}


@pytest.mark.parametrize("column", ["split", "Set", "official_split"])
def test_a_column_of_parts_next_to_any_name_of_slides_is_used_or_named(here, column):
    features(names())
    words = ["Training", "Training", "Validation", "Testing"]
    table("l.csv", ["case_id", "slide", "label", column],
          [[s, s, label(i), words[(i // 2) % 4]] for i, s in enumerate(names())])  # fmt: skip
    said = ok(init())
    tested = {s for i, s in enumerate(names()) if (i // 2) % 4 == 3}
    folds = cohort().folds
    assert (len(folds) == 1 and set(folds[0].test) == tested) or column in said


def test_a_column_of_parts_can_be_given_as_split_file(here):
    features([f"B_{i}" for i in range(60)])
    words = ["Training", "Training", "Training", "Validation", "Testing"]
    rows = [["WSI Filename", "Patient Id", "RoI number", "WSI label", "Set"]]
    rows += [[f"B_{i}", i // 2, i % 3, ["N", "ADH", "IC"][(i // 2) % 3], words[(i // 2) % 5]] for i in range(60)]
    sheet("b.xlsx", rows, "Information")
    given = ("--patient-column", "Patient Id", "--label-column", "WSI label", "--splits", "b.xlsx#Information")
    ok(init(*given, labels="b.xlsx#Information"))
    assert set(cohort().folds[0].test) == {f"B_{i}" for i in range(60) if (i // 2) % 5 == 4}


def test_a_table_without_a_header_is_named(here):
    features(names())
    rows = [[s, label(i), "x"] for i, s in enumerate(names())]
    table("l.csv", rows[0], rows[1:])
    assert "header" in refusal_text(init())
    assert "header" in refusal_text(init("--slide-column", "S000", "--label-column", "neg", "--patient-column", "S000"))


def test_comments_and_titles_above_a_header(here):
    features(names())
    rows = [["PATIENT_ID", "slide_id", "SUBTYPE"], *([s, s, label(i)] for i, s in enumerate(names()))]
    table("c.txt", ["#Patient", "Slide", "Subtype"], [["#STRING", "STRING", "STRING"], ["#1", "1", "1"], *rows], "\t")
    ok(init("--label-column", "SUBTYPE", labels="c.txt"))
    assert len(cohort().slides) == N
    sheet("t.xlsx", [["Supplementary Table 1"], [], ["case_id", "slide_id", "label"],
                     *([s, s, label(i)] for i, s in enumerate(names()))])  # fmt: skip
    assert "title" in ok(init(labels="t.xlsx", out="b.toml"))


def test_a_first_sheet_of_words_names_the_others(here):
    features(names())
    book = openpyxl.Workbook()
    book.active.title = "README"
    book.active.append(["Please cite us"])
    other = book.create_sheet("Cohort")
    for row in [["case_id", "slide_id", "label"], *([s, s, label(i)] for i, s in enumerate(names()))]:
        other.append(row)
    book.save("l.xlsx")
    assert "#Cohort" in refusal_text(init(labels="l.xlsx"))
    ok(init(labels="l.xlsx#Cohort"))


def test_a_line_break_in_a_header_counts_as_a_blank(here):
    features(names())
    sheet("l.xlsx", [["Slide\nname", "Patient\nID", "WSI\nlabel"], *([s, s, label(i)] for i, s in enumerate(names()))])
    ok(init("--label-column", "WSI label", "--patient-column", "Patient ID", labels="l.xlsx"))


def test_merged_cells_hold_for_all_their_rows(here):
    features(names(80))
    book = openpyxl.Workbook()
    page = book.active
    page.append(["patient", "slide", "label"])
    for i, s in enumerate(names(80)):
        page.append([f"P{i // 2}" if i % 2 == 0 else None, s, label(i // 2) if i % 2 == 0 else None])
        if i % 2:
            for column in (1, 3):
                page.merge_cells(start_row=i + 1, end_row=i + 2, start_column=column, end_column=column)
    book.save("l.xlsx")
    ok(init(labels="l.xlsx"))
    actual = cohort()
    assert len(actual.slides) == 80
    assert len(set(actual.patients.values())) == 40


def test_rows_that_repeat_and_agree_are_one(here):
    features(names())
    rows = [
        [s, s, label(i), t]
        for i, s in enumerate(names())
        for t in (["chemo", "radiation"] if i % 3 == 0 else ["chemo"])
    ]
    table("l.csv", ["case_id", "slide_id", "label", "treatment"], rows)
    ok(init())
    assert len(cohort().slides) == N
    table("bad.csv", ["case_id", "slide_id", "label", "treatment"], [*rows, ["S000", "S000", "pos", "chemo"]])
    assert "S000" in refusal_text(init(labels="bad.csv", out="b.toml"))


# --- values -----------------------------------------------------------------------------------------------------------


MISSING = ["'--", "Not Reported", "None", "#N/A", "Unknown", "[Not Available]", "-", "?", "missing", "NA", "nan",
           "<NA>", "n/a", "", "N/A", "NULL"]  # fmt: skip


@pytest.mark.parametrize("word", MISSING)
def test_words_for_a_missing_value_are_no_class(here, word):
    features(names())
    table(
        "l.csv", ["case_id", "slide_id", "label"], [[s, s, label(i) if i < 39 else word] for i, s in enumerate(names())]
    )
    said = ok(init("--allow-missing", "1"))
    assert "S039" in said
    assert set(cohort().classes) == {"neg", "pos"}


def test_classes_that_differ_in_case_or_blanks_are_one(here):
    features(names(80))
    values = ["LUAD", "Luad", "luad", "LUAD\u200b", "LUSC", "LU\u00a0SC", "LUSC ", "lusc"]
    labelled([[s, s, values[i % 8]] for i, s in enumerate(names(80))])
    said = ok(init())
    assert "letter case" in said
    assert len(cohort().classes) == 2
    assert any(finding.code == "other-spelling" for finding in cohort().findings)


def test_a_number_is_no_class(here):
    features(names())
    table("l.csv", ["case_id", "slide_id", "months"], [[s, s, round(3.37 * i + 0.2, 2)] for i, s in enumerate(names())])
    said = refusal_text(init("--label-column", "months"))
    assert "number" in said
    assert "more patients" not in said


def test_several_labels_in_a_cell_need_a_decision(here):
    features(names())
    values = ["MSI", "BRAF", "MSI;BRAF", "BRAF;MSI"]
    labelled([[s, s, values[i % 4]] for i, s in enumerate(names())])
    code, said = init()
    assert code == 1 or "MSI;BRAF" in said
    assert "several" in said


def test_a_class_of_one_patient_can_be_left_out(here):
    features(names(61))
    table(
        "l.csv",
        ["case_id", "slide_id", "label"],
        [[s, s, label(i) if i < 60 else "rare"] for i, s in enumerate(names(61))],
    )
    said = refusal_text(init())
    assert "--exclude-class" in said
    ok(init("--exclude-class", "rare"))
    assert set(cohort().classes) == {"neg", "pos"}


# --- ids --------------------------------------------------------------------------------------------------------------

SPELLINGS = {
    "letter case": lambda s: s.lower(),
    "suffix": lambda s: s + ".svs",
    "two suffixes": lambda s: s + ".ome.tiff",
    "folder": lambda s: f"/data/wsi/batch/{s}.svs",
    "backslashes": lambda s: f"batch\\{s}.h5",
    "dot folder": lambda s: f"./{s}",
    "blanks": lambda s: f" {s}\u00a0",
    "zero width": lambda s: s + "\u200b",
}


@pytest.mark.parametrize("kind", SPELLINGS)
def test_ids_that_differ_in_spelling_alone_are_matched_and_said(here, kind):
    features(names())
    labelled([[f"P{i}", SPELLINGS[kind](s) if i % 2 else s, label(i // 2)] for i, s in enumerate(names())])  # fmt: skip
    said = ok(init())
    assert len(cohort().slides) == N
    assert "matched" in said or kind in ("suffix", "two suffixes", "blanks")  # which the suite itself states


def test_zeros_that_a_spreadsheet_took(here):
    features([f"{9980 + i:05d}" for i in range(N)])
    labelled([[f"P{i}", str(9980 + i), label(i)] for i in range(N)])
    assert "zeros" in ok(init())
    assert len(cohort().slides) == N


def test_unicode_forms_are_one_name(here):
    plain = [f"Müller_{i:03d}_Größe" for i in range(N)]
    features([unicodedata.normalize("NFD", s) for s in plain])
    labelled([[s, s, label(i)] for i, s in enumerate(plain)])
    ok(init())
    assert len(cohort().slides) == N


def test_an_ambiguous_id_is_never_guessed(here):
    features([*names(), "Ab1", "aB1"])
    rows = [[f"P{i}", s, label(i)] for i, s in enumerate(names())]
    labelled([*rows, ["PA", "AB1", "pos"]])
    assert "Ab1" in refusal_text(init())
    assert "AB1" in ok(init("--allow-missing", "3"))
    assert sorted(cohort().slides) == names()


def test_what_follows_a_point_in_file_names(here):
    features([f"TCGA-A{i % 7}-{1000 + i}-01Z-00-DX1.{i:08x}-aaaa-bbbb-cccc-dddddddddddd" for i in range(N)])
    patients = [f"TCGA-A{i % 7}-{1000 + i}" for i in range(N)]
    labelled([[p, f"{p}-01Z-00-DX1", label(i)] for i, p in enumerate(patients)])
    ok(init())
    assert len(cohort().slides) == N


def test_a_loss_of_slides_stops_init_and_names_them(here):
    features(names())
    table(
        "l.csv",
        ["case_id", "slide_id", "label"],
        [[s, s if i < 30 else f"other{i}", label(i)] for i, s in enumerate(names())],
    )
    said = refusal_text(init())
    assert "--allow-missing" in said
    assert "S030" in said
    assert "other30" in said
    ok(init("--allow-missing", "25%"))
    assert len(cohort().slides) == 30


# --- patients ---------------------------------------------------------------------------------------------------------


def test_patients_as_whole_and_real_numbers_are_one(here):
    features(names())
    table("l.csv", ["patient_id", "slide_id", "label"],
          [[f"{100 + i // 2}{'.0' if i % 2 else ''}", s, label(i // 2)] for i, s in enumerate(names())])  # fmt: skip
    ok(init())
    assert len(set(cohort().patients.values())) == 20


@pytest.mark.parametrize(
    "pattern", ["patient_{p:03d}_node_{k}", "case{p:03d}_{k}", "H19-{p:04d}-A{k}", "P{p:03d}-DX{k}"]
)
def test_names_that_resemble_slides_of_one_patient_are_remarked_upon(here, pattern):
    slides = [pattern.format(p=p, k=k) for p in range(20) for k in (1, 2, 3)]
    features(slides)
    table("l.csv", ["slide_id", "label"], [[s, label(i // 3)] for i, s in enumerate(slides)])
    code, said = init("--patient-column", "slide_id")
    assert "20 patients" in said
    if code == 0:
        assert any(finding.code == "likely-patients" for finding in cohort().findings)


def test_patients_of_two_tables_and_slides_without_a_file(here):
    features(names())
    table("clini.csv", ["PATIENT", "isMSIH"], [[f"{100 + i}.0", ["MSIH", "nonMSIH"][i % 2]] for i in range(N)])
    table("slide.csv", ["PATIENT", "FILENAME"], [[str(100 + i), f"{s}.h5"] for i, s in enumerate(names())])
    words = ("init", "--features", "f", "--clinical", "clini.csv", "--label-column", "isMSIH", "--no-estimate")
    ok(milbench(*words, "--slide-table", "slide.csv", "--out", "a.toml"))
    assert len(cohort().slides) == N
    table(
        "gaps.csv",
        ["PATIENT", "FILENAME"],
        [[str(100 + i), f"{s}.h5" if i < 30 else ""] for i, s in enumerate(names())],
    )
    said = refusal_text(milbench(*words, "--slide-table", "gaps.csv", "--out", "b.toml"))
    assert "139" in said or "130" in said
    assert "S030" in said


def test_labels_of_patients_go_to_the_slides_named_after_them(here):
    slides = [f"TCGA-A{i % 7}-{1000 + i}-01Z-00-DX{k}" for i in range(N) for k in (1, 2)]
    features(slides)
    table("l.csv", ["case_id", "label"], [[f"TCGA-A{i % 7}-{1000 + i}", label(i)] for i in range(N)])
    ok(init())
    actual = cohort()
    assert len(actual.slides) == 2 * N
    assert len(set(actual.patients.values())) == N


# --- splits -----------------------------------------------------------------------------------------------------------


def parts():
    ids = names()
    return {"train": ids[:24], "val": ids[24:30], "test": ids[30:]}


def columns(parts):
    longest = max(map(len, parts.values()))
    padded = [[*v, *[""] * (longest - len(v))] for v in parts.values()]
    return [[k, *row] for k, row in enumerate(zip(*padded, strict=True))]


@pytest.mark.parametrize("written", ["patients", "suffix", "case", "folder"])
def test_split_files_name_patients_or_slides_in_other_spelling(here, written):
    features(names())
    labelled([[f"P{i // 2}", s, label(i // 2)] for i, s in enumerate(names())])
    spell = {"suffix": lambda s: f"{s}.svs", "case": str.lower, "folder": lambda s: f"x/{s}.h5",
             "patients": lambda s: f"P{int(s[1:]) // 2}"}[written]  # fmt: skip
    given = {part: list(dict.fromkeys(map(spell, ids))) for part, ids in parts().items()}
    table("sp/splits_0.csv", ["", "train", "val", "test"], columns(given))
    ok(init("--splits", "sp/splits_{k}.csv"))
    (fold,) = cohort().folds
    assert {part: sorted(ids) for part, ids in fold.parts.items()} == parts()


@pytest.mark.parametrize("ending", ["", "_0"])
def test_one_file_a_part_is_one_fold(here, ending):
    features(names())
    labelled([[s, s, label(i)] for i, s in enumerate(names())])
    for part, ids in parts().items():
        table(f"sp/{part}{ending}.csv", ["slide_id", "label"], [[s, label(int(s[1:]))] for s in ids])
    ok(init("--splits", "sp"))
    (fold,) = cohort().folds
    assert set(fold.test) == set(parts()["test"])


# --- the copy that init makes -----------------------------------------------------------------------------------------


def test_a_copy_of_labels_is_held_against_its_source(here):
    features(names(39))
    labelled([[s, s, label(i)] for i, s in enumerate(names())])
    ok(init("--allow-missing", "1"))
    assert len(cohort().slides) == 39
    labelled([[s, s, label(i + (i == 3))] for i, s in enumerate(names())])
    assert "stale-labels" in milbench("audit", "a.toml")[1]
    with refused("stale-labels", "l.csv"):
        cohort()
    os.remove("a.toml")
    ok(init("--allow-missing", "1", "--force"))
    assert cohort().classes[cohort().labels["S003"]] == "neg"
