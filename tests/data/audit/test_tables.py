"""Labels that split files tell, in every form that tells them; tables that cannot be read; rules about patients."""

from __future__ import annotations

import csv
import re

import numpy as np
import pandas as pd
import pytest
from support.cohorts import PARTS, clean_cohort
from support.refusal import refused

from milbench.config import DataSpec, SplitSpec, Suite
from milbench.data.audit.patients import apply_rule
from milbench.data.cache.reader import CacheWriter
from milbench.data.cohort import load_cohort
from milbench.data.labels.table import Labels
from milbench.data.names.patient_rule import search_patients
from milbench.data.suite_audit import audit

#: how a split file may write the two classes
WORDS = {"names": {"normal": "normal", "tumour": "tumour"}, "reals": {"normal": "0.0", "tumour": "1.0"},
         "words": {"normal": "neg", "tumour": "pos"}}  # fmt: skip


@pytest.fixture(autouse=True)
def _own_memory(cache_home):
    """No findings of other tests."""


def _mil_baseline(folder, fold, message):
    columns = {}
    for part in PARTS:
        columns[f"{part}_slide_path"] = pd.Series([f"/data/pt/{name}.pt" for name in fold[part]])
        columns[f"{part}_label"] = pd.Series([message[name] for name in fold[part]])
    pd.DataFrame(columns).to_csv(folder / "Total_2-fold_s_1fold.csv", index=False)
    return "Total_2-fold_s_1fold.csv"


def _eva(folder, fold, message):
    rows = [(f"{name}-{i}.pt", message[name], part, name) for part in PARTS for name in fold[part] for i in range(2)]
    pd.DataFrame(rows, columns=["embeddings", "target", "split", "wsi_id"]).to_csv(folder / "manifest.csv", index=False)
    return "manifest.csv"


def _patho_bench(folder, fold, message):
    rows = [(name[:4], name, message[name], part) for part in PARTS for name in fold[part]]
    frame = pd.DataFrame(rows, columns=["case_id", "slide_id", "er_status", "fold_0"])
    frame.to_csv(folder / "k=all.tsv", sep="\t", index=False)
    return "k=all.tsv"


def _patho_bench_with_more_columns(folder, fold, message):
    """Only the configuration tells which column is the label."""
    _patho_bench(folder, fold, message)
    frame = pd.read_csv(folder / "k=all.tsv", sep="\t", dtype=str).assign(age="70", grade="2")
    frame.to_csv(folder / "k=all.tsv", sep="\t", index=False)
    (folder / "config.yaml").write_text("task_col: er_status\nsample_col: slide_id\n")
    return "k=all.tsv"


def _patho_bench_of_patients(folder, fold, message):
    _patho_bench(folder, fold, message)
    frame = pd.read_csv(folder / "k=all.tsv", sep="\t", dtype=str).drop(columns="slide_id").drop_duplicates("case_id")
    frame.to_csv(folder / "k=all.tsv", sep="\t", index=False)
    return "k=all.tsv"


FORMS = [_mil_baseline, _eva, _patho_bench, _patho_bench_with_more_columns, _patho_bench_of_patients]


@pytest.mark.parametrize("words", WORDS)
@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_labels_of_every_form_are_compared(form, words, tmp_path):
    planted = clean_cohort()
    fold, planted.folds = planted.folds[0], []
    suite = planted.write(tmp_path)
    spec = suite.data[0]
    message = {name: WORDS[words][slide.label] for name, slide in planted.slides.items()}
    wrong = sorted([fold["train"][0], fold["test"][-1]])
    for mislabelled in ([], wrong):
        if "patients" in form.__name__:  # the label is that of all slides of the patient
            mislabelled = sorted(name for name in message if name[:4] in {slide[:4] for slide in mislabelled})
        other = {"normal": "tumour", "tumour": "normal"}
        for name in mislabelled:
            message[name] = WORDS[words][other[planted.slides[name].label]]
        split = SplitSpec(files=form(tmp_path, fold, message))
        one = suite.model_copy(update={"data": (spec.model_copy(update={"split": split}),)})
        findings = [(finding.code, finding.ids) for finding in audit(one)]
        message[fold["val"][0]] = "nan"  # it has no finding
        assert findings == ([("label-mismatch", tuple(mislabelled))] if mislabelled else [])


def test_the_sentence_names_the_file_and_both_labels(tmp_path):
    planted = clean_cohort()
    slide = planted.of(0, "train", "normal")[0]
    planted.slides[slide].split_label = "tumour"
    (finding,) = audit(planted.write(tmp_path))
    assert f"1 slide with another label in the split files than in {tmp_path / 'labels.csv'}" in finding.message
    assert f"{slide!r} is 1 in fold0.csv and normal here; correct one of them" in finding.message


def test_names_of_classes_mean_what_they_say(tmp_path):
    """Numbers may stand for either class; names that are all the other way round are all wrong."""
    for names in (True, False):
        planted = clean_cohort()
        fold, planted.folds = planted.folds[0], []
        (tmp_path / str(names)).mkdir()
        suite = planted.write(tmp_path / str(names))
        swapped = {"normal": "tumour", "tumour": "normal"} if names else {"normal": "1", "tumour": "0"}
        message = {name: swapped[slide.label] for name, slide in planted.slides.items()}
        split = SplitSpec(files=_patho_bench(suite.base, fold, message))
        findings = audit(suite.model_copy(update={"data": (suite.data[0].model_copy(update={"split": split}),)}))
        assert [finding.ids for finding in findings] == ([tuple(sorted(message))] if names else [])


def test_rows_that_are_there_twice_in_the_slide_table_of_stamp(tmp_path):
    planted = clean_cohort()
    planted.folds = []
    spec = planted.write(tmp_path).data[0]
    patients = {slide.patient: slide.label for slide in planted.slides.values()}
    pd.DataFrame(patients.items(), columns=["PATIENT", "label"]).to_csv(tmp_path / "clini.csv", index=False)
    names = [*planted.slides, *list(planted.slides)[:2]]
    files = [f"{name}.h5" if i < len(planted.slides) else name for i, name in enumerate(names)]
    rows = [(planted.slides[name].patient, file) for name, file in zip(names, files, strict=True)]
    rows[-2:] = [(rows[4][0], file) for _, file in rows[-2:]]
    pd.DataFrame(rows, columns=["PATIENT", "FILENAME"]).to_csv(tmp_path / "slides.csv", index=False)
    fields = {
        "labels": "clini.csv",
        "slide_table": "slides.csv",
        "slide_column": "FILENAME",
        "patient_column": "PATIENT",
    }
    (finding,) = audit(Suite(name="s", methods=("mean",), data=(spec.model_copy(update=fields),), base=tmp_path))
    assert (finding.code, finding.ids) == ("duplicate-row", tuple(sorted(names[-2:])))


def test_everything_is_listed_and_a_run_names_the_number_of_findings(tmp_path):
    planted = clean_cohort()
    for k in (0, 1):
        planted.folds[k]["val"].append(planted.folds[k]["train"][0])
        planted.folds[k]["test"].append(planted.folds[k]["test"][0])
    planted.rows.remove(planted.rows[-1])
    suite = planted.write(tmp_path)
    assert sorted(finding.code for finding in audit(suite)) == [
        "duplicate-row", "duplicate-row", "features-without-label", "slide-overlap", "slide-overlap",
    ]  # fmt: skip
    with refused("features-without-label", "1", "4"):
        load_cohort(suite.data[0], tmp_path)


def test_what_cannot_be_read_is_a_finding_and_the_next_cohort_is_audited(tmp_path):
    planted = clean_cohort()
    planted.folds[0]["val"].append(planted.folds[0]["train"][0])
    suite = planted.write(tmp_path)
    good = suite.data[0]
    lost = good.model_copy(update={"name": "lost", "labels": "nowhere.csv"})
    few = good.model_copy(update={"name": "few", "split": SplitSpec(folds=40)})
    bad = suite.model_copy(update={"data": (lost, few, good)})
    findings = [(finding.cohort, finding.code, finding.severity) for finding in audit(bad)]
    assert findings == [("lost", "unreadable", "error"), ("few", "unreadable", "error"),
                     ("planted", "slide-overlap", "error")]  # fmt: skip
    assert "nowhere.csv does not exist" in audit(bad)[0].sentence
    with refused("folds-impossible", "40", "split.folds", "12"):
        load_cohort(few, tmp_path)


def _suite_of(labels, folder, files, patient):
    """A suite on real labels and splits, with features of noise."""
    rng = np.random.default_rng(0)
    with CacheWriter(folder / "c", "float32") as writer:
        for slide in labels:
            writer.add(slide, rng.normal(size=(int(rng.integers(5, 20)), 6)))
    rows = [(slide, patient.get(slide, slide), label) for slide, label in labels.items()]
    pd.DataFrame(rows, columns=["slide_id", "patient_id", "label"]).to_csv(folder / "l.csv", index=False)
    spec = DataSpec(name="real", cache="c", labels="l.csv", split=SplitSpec(files=str(files)))
    return Suite(name="s", methods=("mean",), data=(spec,), base=folder)


def test_published_clean_cohorts_have_no_error(shared_root, tmp_path):
    splits = shared_root / "data" / "splits"
    with (splits / "camelyon16_labels.csv").open(newline="") as file:
        labels = {row["slide_id"]: row["label"] for row in csv.DictReader(file)}
    (tmp_path / "c16").mkdir()
    suite = _suite_of(labels, tmp_path / "c16", splits / "transmil" / "fold0.csv", {})
    # CAMELYON16's names do tell: normal_001, tumor_001.
    assert [(finding.code, finding.severity) for finding in audit(suite)] == [("shortcut-name", "warning")]
    assert [len(part) for part in load_cohort(suite.data[0], suite.base).folds[0].parts.values()] == [216, 54, 129]

    with (splits / "clam" / "tumor_vs_normal_dummy_clean.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    (tmp_path / "clam").mkdir()
    labels, owners = ({row["slide_id"]: row[column] for row in rows} for column in ("label", "case_id"))
    suite = _suite_of(labels, tmp_path / "clam", splits / "clam" / "splits_{k}.csv", owners)
    used = set()
    for k in (0, 1):
        with (splits / "clam" / f"splits_{k}.csv").open(newline="") as file:
            used |= {row[part] for row in csv.DictReader(file) for part in PARTS}
    unused = tuple(sorted({row["slide_id"] for row in rows} - used))
    mixed = tuple(sorted({p for p in owners.values() if len({labels[s] for s in labels if owners[s] == p}) > 1}))
    assert [(finding.code, finding.ids) for finding in audit(suite)] == [
        ("unused-slide", unused),
        ("mixed-patient", mixed),
    ]


def test_a_label_changed_in_a_published_split(shared_root, tmp_path):
    splits = shared_root / "data" / "splits"
    with (splits / "camelyon16_labels.csv").open(newline="") as file:
        labels = {row["slide_id"]: row["label"] for row in csv.DictReader(file)}
    labels["tumor_009"], labels["test_001"] = "0", "0"
    suite = _suite_of(labels, tmp_path, splits / "transmil" / "fold0.csv", {})
    findings = {finding.code: finding.ids for finding in audit(suite)}
    assert findings.pop("label-mismatch") == ("test_001", "tumor_009")
    assert set(findings) == {"shortcut-name"}


def test_patients_by_a_rule():
    labels = Labels(
        ("a-1", "a-2", "b-1"), {"a-1": "a-1", "a-2": "a-2", "b-1": "P"}, {}, (), frozenset({"c-9"}), {"c-9": "c-9"}
    )
    ruled = apply_rule(labels, "^([a-z])-")
    assert ruled.patients == {"a-1": "a", "a-2": "a", "b-1": "P"}
    assert ruled.excluded_patients == {"c-9": "c"}
    with refused("patient-rule-bad", "1", "'a-2'"):
        apply_rule(labels, "^(.)-1")
    with refused("patient-rule-bad"):
        apply_rule(Labels(("x",), {"x": "P"}, {}, ()), "(.)")


@pytest.mark.parametrize("rule", ["^((?:a+)+)$", "^(a*)*$", r"(?:a|a?)+(b)"])
def test_a_rule_that_takes_for_ever_is_refused(monkeypatch, rule):
    monkeypatch.setattr("milbench.data.names.patient_rule.SECONDS", 0.4)
    name = "a" * 60 + "_0"
    with refused("patient-rule-bad", "patient_rule") as caught:
        apply_rule(Labels((name,), {name: name}, {}, ()), rule)
    assert "does not fit" not in str(caught.value)


def test_a_rule_finds_the_same_in_a_process_of_its_own():
    names = ("P01_a", "P02-é", "x", "P03_\udcff", "P_")
    rule = r"^(P\d+)[_-].*$"
    wanted = {name: match[1] for name in names if (match := re.search(rule, name))}
    assert search_patients(rule, names) == wanted == {"P01_a": "P01", "P02-é": "P02", "P03_\udcff": "P03"}
    assert search_patients(rule, ()) == {}


def test_a_rule_makes_folds_by_patient(tmp_path):
    planted = clean_cohort()
    planted.folds = []
    planted.data = {"patient_column": "slide_id", "patient_rule": "^(.*)-", "split": SplitSpec(folds=3)}
    suite = planted.write(tmp_path)
    assert [finding.code for finding in audit(suite)] == ["unused-column"]
    cohort = load_cohort(suite.data[0], tmp_path)
    assert cohort.patients == {name: slide.patient for name, slide in planted.slides.items()}
    for fold in cohort.folds:
        sides = [{planted.slides[name].patient for name in ids} for ids in fold.parts.values()]
        assert sum(map(len, sides)) == len(set().union(*sides))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"patient_rule": "("}, "is no regular expression"),
        ({"patient_rule": "abc"}, "has 0 groups; put one pair of parentheses around the patient"),
        ({"patient_rule": "(a)(b)"}, "has 2 groups"),
        ({"waive": ["patient-overlaps"]}, r"is no code of milbench audit\. Did you mean 'patient-overlap'\?"),
        ({"waive": ["empty-part"]}, r"'empty-part' \(a part of a fold without slides\) cannot be waived; correct it"),
    ],
)
def test_what_a_suite_may_not_say(fields, message):
    with pytest.raises(ValueError, match=message):
        DataSpec(name="d", cache="c", labels="l.csv", **fields)


def test_built_in_datasets_have_their_own_patients(cache_home):
    with refused("source-brings-own", "patient_rule"):
        load_cohort(DataSpec(name="d", dataset="arrangement", patient_rule="(.)"), cache_home)
