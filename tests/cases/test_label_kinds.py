"""Other inputs of the kinds in test_label_tables: spellings, missing values, patients, sites, split files, sheets."""

from __future__ import annotations

import json
import re
import shlex
import sys
import tomllib
from pathlib import Path

import numpy as np
import openpyxl
import pytest
from support.features import write_csv
from support.refusal import assert_refused, refused

import milbench.cli
from milbench.config import DataSpec
from milbench.config.suites import load_suite
from milbench.data.cohort import Cohort, load_cohort
from milbench.data.labels.table import brought_labels, read_label_table
from milbench.data.splits.files import read_folds
from milbench.data.suite_audit import audit
from milbench.data.text_tables import read_table
from milbench.errors import MilbenchError

IDS = [f"S{i:03d}" for i in range(40)]


def features(folder: Path, names=IDS) -> None:
    """One .npy file a slide."""
    for i, name in enumerate(names):
        path = folder / "feats" / f"{name}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, np.random.default_rng(i).normal(size=(3 + i % 3, 4)).astype(np.float32))


def two(i: int) -> str:
    return ("neg", "pos")[i % 2]


def table(path: Path, columns: dict[str, list[object]]) -> None:
    write_csv(path, [tuple(columns), *zip(*columns.values(), strict=True)])


def labels(folder: Path, slides=IDS, **columns) -> None:
    """Write labels.csv: slide_id, patient_id and label, unless columns say otherwise; None leaves a column out."""
    named = {
        "slide_id": list(slides), "patient_id": [f"P{i}" for i in range(len(slides))],
        "label": [two(i) for i in range(len(slides))], **columns,
    }  # fmt: skip
    table(folder / "labels.csv", {name: cells for name, cells in named.items() if cells is not None})


@pytest.fixture
def init(tmp_path, monkeypatch, capsys):
    """Run init in the folder of the test; give its exit code, what it printed, and its error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())

    def call(*words: object, labels="labels.csv", out="a.toml"):
        given = ["init", "--features", "feats", "--labels", labels, "--out", out, "--no-estimate", "--force", *words]
        monkeypatch.setattr(sys, "argv", ["milbench", *map(str, given)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            milbench.cli.main()
        said = capsys.readouterr()
        return ended.value.code, said.out, said.err

    return call


def cohort(folder: Path, name="a.toml") -> Cohort:
    suite = load_suite(folder / name)
    return load_cohort(suite.data[0], suite.base)


def findings(folder: Path, name="a.toml"):
    return audit(load_suite(folder / name))


# --- patients and sites ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["NA", "Unknown", "not_reported", "-1"])
@pytest.mark.parametrize("column", ["patient_id", "site"])
def test_a_missing_patient_or_site_is_not_one(column, word, tmp_path, init):
    features(tmp_path)
    cells = [word if i % 4 == 0 else str(i) if word == "-1" else f"P{i}" for i in range(40)]
    labels(tmp_path, **{"site": [f"{i % 5}" for i in range(40)], column: cells})
    code, _, err = init(*(["--site-column", "site"] if column == "site" else []))
    assert code == 1
    assert_refused(err, "labels-missing-value", column, "10", word)
    scheme = 'scheme = "site-preserved", site_column = "site"' if column == "site" else "folds = 5"
    (tmp_path / "b.toml").write_text(
        f'name = "b"\nversion = "1"\nmethods = ["mean"]\n[[data]]\nname = "b"\nfeatures = "feats"\n'
        f'labels = "labels.csv"\nsplit = {{ {scheme} }}\n'
    )
    with refused("labels-missing-value", column, "10"):
        cohort(tmp_path, "b.toml")


def test_spellings_of_a_site_are_one(tmp_path, init):
    features(tmp_path)
    words = ["Charite", "charite", "UKE", "UKE ", "LMU", "LMU\u200b", "TUM", "TuM", "1", "1.0", "02", "2"]
    sites = [words[i % 12] for i in range(40)]
    labels(tmp_path, site=sites)
    code, out, err = init("--site-column", "site")
    assert code == 0, err
    assert "one site" in out
    key = dict(zip(words, [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5], strict=True))
    where = dict(zip(IDS, (key[site] for site in sites), strict=True))
    for fold in cohort(tmp_path).folds:
        assert not {where[s] for s in (*fold.train, *fold.val)} & {where[s] for s in fold.test}
    assert "other-spelling" in [finding.code for finding in findings(tmp_path)]


# --- missing values --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["#N/A N/A", "-1.#IND", "1.#IND", r"\N", "NA_character_", "not_reported",
                                  "Not-Reported", "not_available", "not-available", "#NV", "#WERT!", "(blank)",
                                  "#SPILL!", "#CALC!", "#GETTING_DATA", "NR", "-9"])  # fmt: skip
def test_words_for_a_missing_label(word, tmp_path, init):
    features(tmp_path)
    labels(tmp_path, label=[word if i in (0, 7) else two(i) for i in range(40)])
    code, out, err = init()
    assert code == 0, err
    assert repr(word) in out
    assert cohort(tmp_path).classes == ("neg", "pos")


@pytest.mark.parametrize("words", [("NR", "R"), ("NR", "CR", "PR"), ("NR", "responder"), ("-1", "1"), ("blank", "ink"),
                                   ("x-ray", "no-ray")])  # fmt: skip
def test_labels_that_resemble_missing_values(words, tmp_path, init):
    features(tmp_path)
    labels(tmp_path, label=[words[i % len(words)] for i in range(40)])
    code, _, err = init()
    assert code == 0, err
    assert set(cohort(tmp_path).classes) == set(words)


@pytest.mark.parametrize("classes", [("1", "2", "3", "4"), ("0", "1", "2"), ("True", "False")])
def test_codes_among_classes(classes, tmp_path, init):
    features(tmp_path)
    cells = ["-1" if i % 10 == 9 else classes[i % len(classes)] for i in range(40)]
    labels(tmp_path, label=cells)
    assert init()[0] == 0
    assert set(cohort(tmp_path).classes) == set(classes)
    if classes[0] == "True":
        return
    for code in ("9", "99"):
        labels(tmp_path, label=[code if cell == "-1" else cell for cell in cells])
        ended, out, err = init()
        assert ended == 0, err
        assert f"--exclude-class '{code}'" in out
        assert init("--exclude-class", code)[0] == 0
        assert set(cohort(tmp_path).classes) == set(classes)


def test_features_that_bring_a_missing_patient():
    cells = {s: two(i) for i, s in enumerate(IDS)}
    actual = brought_labels(cells, {s: "NA" if i < 10 else f"P{i // 2}" for i, s in enumerate(IDS)}, None, "x")
    assert len(set(actual.patients.values())) == 10 + 15
    assert any("10 slides" in note.text for note in actual.notes)


# --- classes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("yes", "no", "classes"),
    [
        (["True", "True", "TRUE", "1", "1.0"], ["False", "0"], ("False", "True")),
        (["True", "yes"], ["False", "no"], ("False", "True")),
        (["WAHR", "ja"], ["FALSCH", "0"], ("FALSCH", "WAHR")),
        (["1", "1", "yes"], ["False"], ("False", "True")),
        (["Y", "yes"], ["N", "N"], ("N", "Y")),
    ],
)
def test_yes_and_no_written_in_two_ways(yes, no, classes, tmp_path, init):
    features(tmp_path)
    cells = [yes[i // 2 % len(yes)] if i % 2 else no[i // 2 % len(no)] for i in range(40)]
    labels(tmp_path, [*IDS, IDS[1]], label=[*cells, yes[-1]], patient_id=[*(f"P{i}" for i in range(40)), "P1"])
    code, out, err = init()
    assert (code, "are one" in out) == (0, True), err
    made = cohort(tmp_path)
    assert made.classes == classes
    assert [made.labels[s] for s in IDS] == [i % 2 for i in range(40)]
    assert "other-spelling" in [finding.code for finding in findings(tmp_path)]


@pytest.mark.parametrize("words", [("T", "N"), ("0", "1"), ("N", "F", "T"), ("1", "2"), ("yes", "no", "maybe")])
def test_words_that_are_no_second_spelling_of_yes_or_no(words, tmp_path, init):
    features(tmp_path)
    labels(tmp_path, label=[words[i % len(words)] for i in range(40)])
    code, out, err = init()
    assert (code, "are one" in out) == (0, False), err
    assert set(cohort(tmp_path).classes) == set(words)


# --- patients that names of slides tell ------------------------------------------------------------------------------

NODES = [f"patient_{p:03d}_node_{n}" for p in range(12) for n in range(4)]


def test_the_patient_rule_that_is_advised_works_as_it_is_printed(tmp_path, init):
    features(tmp_path, NODES)
    labels(tmp_path, NODES, patient_id=None)
    code, _, err = init()
    assert code == 1
    (words,) = re.findall(r"--patient-rule '[^']*'", err)
    assert init(*shlex.split(words))[0] == 0
    assert cohort(tmp_path).patients == {s: s[:11] for s in NODES}
    suite = (tmp_path / "a.toml").read_text()
    lines = [line for line in suite.splitlines() if not line.startswith("patient")]
    (tmp_path / "b.toml").write_text("\n".join(lines))
    with refused("table-missing-column") as error:
        cohort(tmp_path, "b.toml")
    (line,) = re.findall(r"patient_rule = '[^']*'", str(error.value))
    assert tomllib.loads(line) == {"patient_rule": shlex.split(words)[1]}


@pytest.mark.parametrize("patients", ["numbers", "files", "barcodes"])
def test_a_column_of_one_patient_a_slide_does_not_hide_likely_patients(patients, tmp_path, init):
    names = NODES
    if patients == "barcodes":
        names = [f"TCGA-A1-{1000 + p}-01Z-00-DX{n}" for p in range(12) for n in range(4)]
    features(tmp_path, names)
    column = [f"{s}.tif" for s in names] if patients == "files" else [str(i) for i in range(len(names))]
    labels(tmp_path, names, patient_id=column)
    code, out, err = init()
    assert (code, "48 slides, 12 patients" in out) == (0, True), err
    assert "likely-patients" in [finding.code for finding in findings(tmp_path)]
    (words,) = re.findall(r"--patient-rule '[^']*'", out)
    assert init(*shlex.split(words))[0] == 0
    assert len(set(cohort(tmp_path).patients.values())) == 12


def test_a_rule_need_not_fit_a_slide_that_takes_no_part(tmp_path, init):
    features(tmp_path, NODES)
    labels(tmp_path, [*NODES, "zzz.svs"], patient_id=None)
    code, _, err = init("--patient-rule", r"^(patient_\d+)")
    assert code == 0, err
    assert cohort(tmp_path).patients == {s: s[:11] for s in NODES}


def test_all_rare_classes_are_named(tmp_path, init):
    features(tmp_path)
    labels(tmp_path, label=["rare one" if i == 3 else "9" if i == 5 else two(i) for i in range(40)])
    code, _, err = init()
    assert code == 1
    words = re.findall(r"--exclude-class '[^']*'", err)
    assert sorted(words) == ["--exclude-class '9'", "--exclude-class 'rare one'"]
    assert init(*shlex.split(" ".join(words)))[0] == 0
    assert cohort(tmp_path).classes == ("neg", "pos")


# --- two names of one slide ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("other", ["{}.svs", "{}.SVS", "{}\u200b"])
def test_two_names_of_one_slide_are_compared(other, tmp_path, init):
    features(tmp_path)
    slides = [*IDS, *(other.format(s) for s in IDS)]
    patients = [f"P{i % 40}" for i in range(80)]
    labels(tmp_path, slides, patient_id=patients)
    code, out, err = init()
    assert (code, "40 rows of labels.csv" in out) == (0, True), err
    assert cohort(tmp_path).labels == {s: i % 2 for i, s in enumerate(IDS)}
    suite = tmp_path / "b.toml"
    suite.write_text(
        'name = "b"\nversion = "1"\nmethods = ["mean"]\n[[data]]\nname = "b"\nfeatures = "feats"\n'
        'labels = "labels.csv"\nsplit = { folds = 5 }\n'
    )
    assert cohort(tmp_path, "b.toml").labels == {s: i % 2 for i, s in enumerate(IDS)}
    labels(
        tmp_path, [*IDS, other.format(IDS[0])], patient_id=[*patients[:40], "P0"], label=[*map(two, range(40)), "pos"]
    )
    code, _, err = init(out="c.toml")
    assert code == 1
    assert_refused(err, "labels-conflicting-rows", IDS[0])
    with refused("labels-conflicting-rows"):
        cohort(tmp_path, "b.toml")


# --- split files -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [("1", ""), ("True", "nan"), ("ja", "nein"), ("WAHR", "FALSCH"), ("x", ""),
                                   ("yes", "NA"), ("1", "0")])  # fmt: skip
def test_split_files_that_say_yes_and_no_in_other_words(words, tmp_path, init):
    features(tmp_path)
    labels(tmp_path)
    parts = ["train"] * 24 + ["val"] * 8 + ["test"] * 8
    table(tmp_path / "s.csv", {"slide_id": IDS, **{name: [words[p != name] for p in parts]
                                                   for name in ("train", "val", "test")}})  # fmt: skip
    code, _, err = init("--splits", "s.csv")
    assert code == 0, err
    (fold,) = cohort(tmp_path).folds
    assert [list(ids) for ids in fold.parts.values()] == [IDS[:24], IDS[24:32], IDS[32:]]


def test_a_part_is_never_empty(tmp_path, init):
    features(tmp_path)
    labels(tmp_path)
    table(tmp_path / "s.csv", {"slide_id": [*IDS[:20], *(f"x{i}" for i in range(20))],
                               "split": ["test"] * 20 + ["train"] * 20})  # fmt: skip
    code, _, err = init("--splits", "s.csv", "--allow-missing", 20)
    assert (code, (tmp_path / "a.toml").exists()) == (1, False)
    assert_refused(err, "split-empty-part", "train")


@pytest.mark.parametrize("form", ["parts", "list"])
def test_cells_that_name_slides_and_patients_at_once(form, tmp_path, init):
    slides = [str(i) for i in range(40)]
    features(tmp_path, slides)
    labels(tmp_path, slides, patient_id=[str(i // 2) for i in range(40)], label=[two(i // 2) for i in range(40)])
    parts = ["train"] * 12 + ["val"] * 4 + ["test"] * 4
    if form == "list":
        columns = {"id": slides[:20], "split": parts}
    else:
        columns = {"train": slides[:12], "val": slides[12:16] + [""] * 8, "test": slides[16:20] + [""] * 8}
    table(tmp_path / "s.csv", columns)
    code, _, err = init("--splits", "s.csv")
    assert code == 1
    assert_refused(err, "split-ambiguous", "s.csv")
    table(tmp_path / "s.csv", {"patient_id": slides[:20], "split": parts})
    code, _, err = init("--splits", "s.csv")
    assert code == 0, err
    (fold,) = cohort(tmp_path).folds
    assert [list(ids) for ids in fold.parts.values()] == [slides[:24], slides[24:32], slides[32:]]


def test_slides_that_split_files_do_not_name_are_a_loss(tmp_path, init):
    features(tmp_path)
    labels(tmp_path)
    parts = ["train"] * 12 + ["val"] * 4 + ["test"] * 4
    table(tmp_path / "s.csv", {"slide_id": IDS[:20], "split": parts})
    code, _, err = init("--splits", "s.csv")
    assert code == 1
    assert_refused(err, "names-unmatched", "20", IDS[20])
    assert init("--splits", "s.csv", "--allow-missing", 20)[0] == 0
    table(tmp_path / "s.csv", {"slide_id": IDS, "split": [*parts, *["unused"] * 20]})
    assert init("--splits", "s.csv")[0] == 0


# --- form of tables --------------------------------------------------------------------------------------------------


def test_merged_labels_of_patients_that_were_saved_as_text(tmp_path, init):
    features(tmp_path)
    patients = [f"P{i // 2}" for i in range(40)]
    labels(tmp_path, patient_id=patients, label=["" if i % 2 else two(i // 2) for i in range(40)])
    code, _, err = init()
    assert code == 1
    assert_refused(err, "table-empty-cell", "labels.csv", "20")
    labels(tmp_path, patient_id=patients, label=["" if i in (0, 5) else two(i // 2) for i in range(40)])
    assert init()[0] == 0


def test_endings_that_are_taken_off_are_said(tmp_path, init):
    features(tmp_path)
    labels(tmp_path, [f"{s}{('.svs', '.NDPI', '.SVS.gz', '')[i % 4]}" for i, s in enumerate(IDS)])
    code, out, err = init()
    assert code == 0, err
    (line,) = [line for line in out.splitlines() if "file ending" in line]
    assert all(word in line for word in ("30 names", "'S000.svs'", ".NDPI", ".SVS.gz"))


def test_a_first_sheet_of_two_columns_names_the_sheet_of_labels(tmp_path, init):
    features(tmp_path)
    book = openpyxl.Workbook()
    book.active.title = "README"
    for row in (("what", "who"), ("cohort", "me"), ("date", "2021")):
        book.active.append(row)
    sheet = book.create_sheet("Cohort")
    sheet.append(("slide_id", "patient_id", "label"))
    for i, s in enumerate(IDS):
        sheet.append((s, f"P{i}", two(i)))
    book.save(tmp_path / "l.xlsx")
    code, _, err = init(labels="l.xlsx")
    assert code == 1
    assert_refused(err, "table-sheet", "l.xlsx", "Cohort")
    assert init(labels="l.xlsx#Cohort")[0] == 0


@pytest.mark.parametrize("between", ["", "\n", "\n# a comment\n", "# one\n# two\n\n"])
def test_a_title_as_wide_as_the_header(between, tmp_path):
    rows = "".join(f"{s},P{i},{two(i)}\n" for i, s in enumerate(IDS))
    (tmp_path / "t.csv").write_text(f"Cohort of 2021, exported, by me\n{between}slide_id,patient_id,label\n{rows}")
    header, cells = read_table(tmp_path / "t.csv")
    assert header == ["slide_id", "patient_id", "label"]
    assert [row[0] for row in cells] == IDS


def test_sums_of_gleason_are_classes(tmp_path, init):
    features(tmp_path)
    labels(tmp_path, label=[("3+3", "3+4", "4+3", "4 + 4")[i % 4] for i in range(40)])
    code, _, err = init()
    assert code == 0, err
    assert len(cohort(tmp_path).classes) == 4


@pytest.mark.parametrize("cell", ["S000.svs, S999.svs", "/a b/S000.svs /a b/S001.svs", "S000.svs;S999.svs"])
def test_a_cell_of_two_slides_of_which_one_has_a_row_or_no_features(cell, tmp_path, init):
    features(tmp_path)
    labels(tmp_path, [cell, *IDS[1:]])
    code, _, err = init()
    assert code == 1
    assert_refused(err, "labels-several-values")


@pytest.mark.parametrize("column", ["slide_id", "patient_id"])
def test_ids_of_which_excel_has_lost_digits(column, tmp_path, init):
    features(tmp_path)
    book = openpyxl.Workbook()
    book.active.append(("slide_id", "patient_id", "label"))
    for i, s in enumerate(IDS):
        number = 1234567890123450000 + i
        row = {"slide_id": s, "patient_id": f"P{i}", "label": two(i)} | ({column: number} if i < 20 else {})
        book.active.append(tuple(row.values()))
    book.save(tmp_path / "l.xlsx")
    code, _, err = init(labels="l.xlsx")
    assert code == 1
    assert_refused(err, "table-lost-digits", column)
    cells = ["1.23457E+18" if i < 20 else s for i, s in enumerate(IDS)]
    labels(tmp_path, **{column: cells})
    code, _, err = init()
    assert code == 1
    assert_refused(err, "table-lost-digits", column)


LOST = "1.23457E+18"


@pytest.mark.parametrize("place", ["patient of the labels", "patient of the slides", "slide"])
def test_ids_of_two_tables_of_which_excel_has_lost_digits(place, tmp_path, init):
    """Two patients of one such name would be one, and all but one of two such slides not there."""
    features(tmp_path)

    def written(where: str, i: int, name: str) -> str:
        return LOST if where == place and i in (0, 2) else name

    clinical = [(written("patient of the labels", i, f"P{i}"), two(i)) for i in range(len(IDS))]
    write_csv(tmp_path / "labels.csv", [("patient", "label"), *clinical])
    slides = [(written("slide", i, s), written("patient of the slides", i, f"P{i}")) for i, s in enumerate(IDS)]
    write_csv(tmp_path / "slides.csv", [("slide_id", "patient"), *slides])
    code, _, _ = init("--slide-table", "slides.csv", "--allow-missing", 10)
    assert code == 1
    spec = DataSpec(name="d", cache="c", labels="labels.csv", patient_column="patient", slide_table="slides.csv")
    with refused("table-lost-digits"):
        read_label_table(tmp_path / "labels.csv", spec, tmp_path / "slides.csv")


@pytest.mark.parametrize("form", ["list", "columns", "parts", "stamp"])
def test_ids_of_split_files_of_which_excel_has_lost_digits(form, tmp_path):
    part = {s: ("train", "test")[i // 2 % 2] for i, s in enumerate([LOST, *IDS[1:]])}
    of = {word: [s for s in part if part[s] == word] for word in ("train", "test")}
    where = tmp_path / "s.csv"
    if form == "list":
        write_csv(where, [("slide_id", "split"), *part.items()])
    elif form == "columns":
        write_csv(where, [("train", "test"), *zip(of["train"], of["test"], strict=True)])
    elif form == "parts":
        where = tmp_path / "parts"
        where.mkdir()
        for word, names in of.items():
            write_csv(where / f"{word}.csv", [("slide_id",), *((s,) for s in names)])
    else:
        where = tmp_path / "splits.json"
        where.write_text(json.dumps({"splits": [{f"{word}_patients": names for word, names in of.items()}]}))
    for known in (None, dict.fromkeys(IDS, "P") if form != "stamp" else {s: s for s in IDS}):
        with pytest.raises(MilbenchError):
            read_folds(str(where), tmp_path, known)
