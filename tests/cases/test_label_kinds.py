"""Other inputs of the kinds in test_label_tables: spellings, missing values, patients, sites, split files, sheets."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from support.features import write_csv

import milbench.cli
from milbench.data.audit.suite import audit
from milbench.data.cohort import Cohort, load_cohort
from milbench.data.labels import brought_labels
from milbench.errors import MilbenchError
from milbench.suites import load_suite

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
    assert (code, column in err, "10 slides" in err, word in err) == (1, True, True, True)
    scheme = 'scheme = "site-preserved", site_column = "site"' if column == "site" else "folds = 5"
    (tmp_path / "b.toml").write_text(
        f'name = "b"\nversion = "1"\nmethods = ["mean"]\n[[data]]\nname = "b"\nfeatures = "feats"\n'
        f'labels = "labels.csv"\nsplit = {{ {scheme} }}\n'
    )
    with pytest.raises(MilbenchError, match=f"no {column} for 10 slides"):
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
def test_codes_beside_classes(classes, tmp_path, init):
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
        assert f"--exclude-class {code}" in out
        assert init("--exclude-class", code)[0] == 0
        assert set(cohort(tmp_path).classes) == set(classes)


def test_features_that_bring_a_missing_patient():
    cells = {s: two(i) for i, s in enumerate(IDS)}
    found = brought_labels(cells, {s: "NA" if i < 10 else f"P{i // 2}" for i, s in enumerate(IDS)}, None, "x")
    assert len(set(found.patients.values())) == 10 + 15
    assert any("10 slides" in note.text for note in found.notes)


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
