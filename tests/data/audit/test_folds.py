"""Folds: the audit reports doubles, leaks and missing classes, with the ids that sets give."""

from __future__ import annotations

import csv
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from milbench.data.audit.folds import Known, fold_findings, folds_findings
from milbench.data.audit.patients import guessed_patients
from milbench.data.fold import Fold
from milbench.data.splits.files import read_fold

PARTS = ("train", "val", "test")
PAIRS = (("train", "val"), ("train", "test"), ("val", "test"))
LABELS = {"a": 0, "b": 1, "c": 0, "d": 1, "e": 0, "f": 1}
OWN = {slide: slide for slide in LABELS}
GOOD = Fold("k", ("a", "b"), ("c", "d"), ("e", "f"))


def findings_of(fold, labels=LABELS, patients=OWN, **more):
    """Return the findings of a fold: code, ids and message."""
    findings = fold_findings("c", fold, Known(labels, patients, **more))
    assert all((finding.cohort, finding.fold, finding.severity) == ("c", fold.name, "error") for finding in findings)
    return [(finding.code, finding.ids, finding.message) for finding in findings]


@pytest.mark.parametrize(
    ("fold", "changes", "code", "ids", "message"),
    [
        (Fold("k", ("a", "b", "a"), (), ("e", "f")), {}, "duplicate-row", ("a",), "1 slide twice in train: 'a'"),
        (Fold("k", ("a", "b"), ("b", "c"), ("e", "f")), {}, "slide-overlap", ("b",),
         "1 slide both in train and in val: 'b'; keep each in one part"),
        (Fold("k", ("a", "b", "c"), ("b", "a"), ("e", "f")), {}, "val-in-train", ("a", "b"), "val lies inside train"),
        (Fold("k", ("a", "b"), ("f", "e"), ("e", "f")), {}, "val-equals-test", ("e", "f"), "val is the test part"),
        (Fold("k", ("a", "b"), ("e", "f", "c"), ("e", "f")), {}, "slide-overlap", ("e", "f"), "2 slides both in val"),
        (GOOD, {"patients": OWN | {"a": "P", "e": "P"}}, "patient-overlap", ("P",),
         "1 patient with slides both in train and in test: 'P'; a patient belongs in one part"),
        (GOOD, {"guesses": {"c": "T", "e": "T", "f": "U"}}, "guessed-patient-overlap", ("T",),
         "1 patient, by TCGA's barcodes, with slides both in val and in test: 'T'; name patients in patient_column"),
        (GOOD, {"labels": {k: v for k, v in LABELS.items() if k != "d"}}, "split-without-label", ("d",),
         "1 slide of val without label: 'd'; add label or leave them out"),
        (GOOD, {"features": {"a", "b", "e", "f"}}, "split-without-features", ("c", "d"), "2 slides of val without"),
        (Fold("k", ("a", "c"), (), ("e", "f")), {}, "one-class", ("a", "c"), "its train part holds class 0 only"),
        (Fold("k", ("a", "b"), ("c",), ("e", "f")), {"classes": ["normal", "tumour"]}, "one-class", ("c",),
         "its val part holds class normal only; every part needs two classes or more"),
        (Fold("k", (), (), ("e", "f")), {}, "empty-part", (), "its train part is empty"),
        (Fold("k", ("a", "b"), (), ()), {}, "empty-part", (), "its test part is empty"),
        (GOOD, {"labels": LABELS | {"e": 2}}, "untrained-class", ("e",), "class 2 is tested but not in train; move"),
    ],
)  # fmt: skip
def test_each_defect_is_reported_with_its_ids(fold, changes, code, ids, message):
    actual = findings_of(fold, **changes)
    assert [(c, i) for c, i, _ in actual if c == code] == [(code, ids)]
    assert message in next(m for c, _, m in actual if c == code)
    # Without the label of one of its two slides a part has one class, and that is said too.
    assert len(actual) == 1 + (code == "split-without-label")


def test_a_good_fold_has_nothing():
    assert findings_of(GOOD, features=set(LABELS), guesses={"a": "A", "b": "B"}) == []
    assert folds_findings("c", [GOOD, Fold("other", ("a", "b"), (), ("e", "f"))], Known(LABELS, OWN)) == []


def test_what_is_wrong_with_all_folds_together():
    (twice,) = folds_findings("c", [GOOD, GOOD], Known(LABELS, OWN))
    assert (twice.code, twice.fold, twice.ids) == ("fold-name", None, ("k",))
    for name in (" ", "", "a/b", ".hidden", "con", "x" * 300):
        (bad,) = folds_findings("c", [replace(GOOD, name=name)], Known(LABELS, OWN))
        assert (bad.code, bad.stops, bad.ids) == ("fold-name", True, (name,))
    (none,) = folds_findings("c", [], Known(LABELS, OWN))
    assert (none.code, none.ids) == ("no-fold", ())
    (idle,) = folds_findings("c", [Fold("k", ("a", "b"), (), ("e", "f"))], Known(LABELS, OWN))
    assert (idle.code, idle.severity, idle.fold, idle.ids) == ("unused-slide", "warning", None, ("c", "d"))


def test_a_leak_is_reported_once():
    """The patient of a slide that is on both sides is no further news, nor a barcode of a patient who is."""
    patients = OWN | {"a": "P", "e": "P"}
    guesses = {slide: f"T{patient}" for slide, patient in patients.items()}
    both = Fold("k", ("a", "b"), (), ("a", "e", "f"))
    assert [(code, ids) for code, ids, _ in findings_of(both, patients=patients, guesses=guesses)] == [
        ("slide-overlap", ("a",))
    ]
    assert [(code, ids) for code, ids, _ in findings_of(GOOD, patients=patients, guesses=guesses)] == [
        ("patient-overlap", ("P",))
    ]


slides = st.lists(st.sampled_from([f"{p}{s}" for p in "abcdef" for s in "012"]), max_size=8)


@settings(max_examples=200, deadline=None)
@given(st.fixed_dictionaries(dict.fromkeys(PARTS, slides)))
def test_leaks_are_those_that_sets_find(parts):
    """Slides and patients on both sides, and doubled rows, against a reading by sets alone."""
    labels = {f"{p}{s}": int(s) % 2 for p in "abcdef" for s in "012"}
    actual = findings_of(
        Fold("k", *(tuple(parts[part]) for part in PARTS)), labels, {slide: slide[0] for slide in labels}
    )
    got: dict[str, list[str]] = {}
    for code, ids, _ in actual:
        kind = "slides" if code in ("slide-overlap", "val-in-train", "val-equals-test") else code
        got.setdefault(kind, []).extend(ids)
    due: dict[str, list[str]] = {"slides": [], "patient-overlap": [], "duplicate-row": []}
    for part in PARTS:
        due["duplicate-row"] += sorted({slide for slide in parts[part] if parts[part].count(slide) > 1})
    for a, b in PAIRS:
        shared = set(parts[a]) & set(parts[b])
        due["slides"] += sorted(shared)
        owners = {slide[0] for slide in parts[a]} & {slide[0] for slide in parts[b]}
        due["patient-overlap"] += sorted(owners - {slide[0] for slide in shared})
    assert {kind: got.get(kind, []) for kind in due} == due


def test_a_rule_is_proposed_where_it_would_help():
    """For slides that are patients of their own; a column that holds samples is to be corrected."""
    name = OWN | {"a": "TCGA-55-7910-01A", "e": "TCGA-55-7910-01B"}
    ((_, ids, message),) = findings_of(GOOD, patients=name, guesses=guessed_patients(name))
    assert ids == ("TCGA-55-7910",)
    assert message.endswith("name patients in patient_column")
    own = {slide: slide for slide in name.values()}
    fold = Fold("k", *(tuple(name[slide] for slide in part) for part in GOOD.parts.values()))
    labels = {name[slide]: label for slide, label in LABELS.items()}
    ((_, ids, message),) = findings_of(fold, labels, own, guesses=guessed_patients(own))
    assert ids == ("TCGA-55-7910",)
    assert message.endswith("name patients in patient_column, or set patient_rule = '^(.{12})'")


def test_barcodes():
    barcode = "TCGA-55-7910-01Z-00-DX1.041e15d5-4852-49f6-85d9-74b510497651"
    names = {"a": barcode, "b": "TCGA-55-7910", "c": "tcga-55-7910-01A"}
    names |= {"d": "TCGA-55-79101", "e": "x-TCGA-55-7910", "f": "7"}
    assert guessed_patients(names) == dict.fromkeys("abc", "TCGA-55-7910")


def _columns(file):
    with file.open(newline="") as opened:
        rows = list(csv.DictReader(opened))
    return {part: [row[part] for row in rows if row[part]] for part in PARTS}


def _own_classes(parts):
    """Labels with which every part has both classes."""
    return {slide: i % 2 for ids in parts.values() for i, slide in enumerate(ids)}


@pytest.mark.parametrize(
    ("file", "code"),
    [
        ("duplicated_row.csv", "duplicate-row"),
        ("slide_in_train_and_val.csv", "slide-overlap"),
        ("val_equals_train.csv", "val-in-train"),
        ("patient_in_train_and_test_tcga_lung.csv", "guessed-patient-overlap"),
    ],
)
def test_published_defects_are_reported_and_named(shared_root, file, code):
    path = shared_root / "data" / "splits" / "defects" / file
    parts = _columns(path)
    labels = _own_classes(parts)
    own = {slide: slide for slide in labels}
    folds = findings_of(read_fold(path), labels, own, guesses=guessed_patients(own))
    due = []
    for part in PARTS:
        due += [(slide,) for slide in sorted(set(parts[part])) if parts[part].count(slide) > 1]
    for a, b in PAIRS:
        shared = sorted(set(parts[a]) & set(parts[b]))
        sides = [{slide[:12] for slide in parts[part] if slide.startswith("TCGA")} for part in (a, b)]
        names = sides[0] & sides[1]
        due += [tuple(shared)] if shared else []
        due += [tuple(sorted(names))] if names and not shared else []
    assert due
    # One published file tests a single slide.
    single = [("one-class", tuple(parts["test"]))] if len(parts["test"]) == 1 else []
    assert [(c, ids) for c, ids, _ in folds] == [*((code, ids) for ids in due), *single]


def test_published_clean_splits_have_nothing(shared_root):
    """TransMIL's CAMELYON16 fold, CLAM's task 1."""
    splits = shared_root / "data" / "splits"
    with (splits / "camelyon16_labels.csv").open(newline="") as file:
        labels = {row["slide_id"]: int(row["label"]) for row in csv.DictReader(file)}
    assert findings_of(read_fold(splits / "transmil" / "fold0.csv"), labels, {slide: slide for slide in labels}) == []
    with (splits / "clam" / "tumor_vs_normal_dummy_clean.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    labels = {row["slide_id"]: int(row["label"] == "tumor_tissue") for row in rows}
    for k in (0, 1):
        fold = read_fold(splits / "clam" / f"splits_{k}.csv")
        assert findings_of(fold, labels, {row["slide_id"]: row["case_id"] for row in rows}, features=set(labels)) == []
