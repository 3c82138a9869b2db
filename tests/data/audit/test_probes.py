"""Shortcuts: what a probe must warn of, and what it must not."""

from __future__ import annotations

import re

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from support.cohorts import Planted, Slide, clean_cohort

from milbench.data.suite_audit import audit


@pytest.fixture(autouse=True)
def _own_memory(cache_home):
    """No findings of other tests."""


def codes(planted, folder):
    return [finding.code for finding in audit(planted.write(folder))]


def test_a_site_of_one_patient_tells_nothing_of_others(tmp_path):
    """Cross-validated by slide, the first slide of a patient would give away the second."""
    planted = clean_cohort()
    for slide in planted.slides.values():
        slide.more["site"] = f"S{slide.patient}"
    assert codes(planted, tmp_path) == []


def test_the_site_of_patients_is_that_of_the_split_scheme(tmp_path):
    planted = clean_cohort()
    for i, slide in enumerate(planted.slides.values()):
        slide.more = {"lab": f"{slide.label}{i // 2 % 3}", "site": "one"}
    planted.folds, planted.data = [], {"split": {"scheme": "site-preserved", "folds": 3, "site_column": "lab"}}
    assert codes(planted, tmp_path) == ["shortcut-site"]


def test_a_site_column_with_gaps_stops_nothing(tmp_path):
    planted = clean_cohort()
    for i, slide in enumerate(planted.slides.values()):
        slide.more["site"] = slide.label if i else ""
    assert codes(planted, tmp_path) == []


@pytest.mark.parametrize(("per_class", "due"), [(9, []), (10, ["shortcut-length"])])
def test_few_patients_have_no_findings(per_class, due, tmp_path):
    planted = clean_cohort(per_class=per_class)
    for i, slide in enumerate(planted.slides.values()):
        slide.x = slide.x[: (10 if slide.label == "tumour" else 15) + i % 4]
    assert codes(planted, tmp_path) == due


def _patients(slides_of, label_of, rng):
    """A cohort of patients with numbers of slides and labels of their own, without folds of its own."""
    slides, names = {}, iter(rng.permutation(90_000) + 10_000)
    for patient, number in slides_of.items():
        for _ in range(number):
            x = rng.normal(size=(int(rng.integers(20, 60)), 4)).astype(np.float32)
            slides[f"0{next(names)}"] = Slide(patient, label_of[patient], x)
    return Planted(slides, list(slides), [], data={"split": {"folds": 2}})


def test_a_patient_is_not_recognised_by_another_of_his_slides(tmp_path):
    """Sites of two patients with labels drawn by lot: slides of the same patients would tell half of them."""
    rng = np.random.default_rng(3)
    patients = [f"p{i}" for i in range(60)]
    labels = dict(zip(patients, rng.permutation(["normal", "tumour"] * 30), strict=True))
    planted = _patients(dict.fromkeys(patients, 6), labels, rng)
    for slide in planted.slides.values():
        slide.more["site"] = f"S{int(slide.patient[1:]) // 2}"
    assert codes(planted, tmp_path) == []


def test_slides_of_one_patient_are_one_observation(tmp_path):
    """480 slides would be sure of their AUC of some .7; 24 patients, whose slides are all of a length, are not."""
    rng = np.random.default_rng(2)
    labels = {f"{label}{i}": label for label in ("normal", "tumour") for i in range(12)}
    length = {patient: 60 + 10 * rng.normal() + 8 * (labels[patient] == "tumour") for patient in labels}
    planted = _patients(dict.fromkeys(labels, 20), labels, rng)
    for slide in planted.slides.values():
        n = int(length[slide.patient] + rng.normal())
        slide.x = rng.normal(size=(n, 4)).astype(np.float32)
    y = [slide.label == "tumour" for slide in planted.slides.values()]
    assert 0.65 < roc_auc_score(y, [len(slide.x) for slide in planted.slides.values()]) < 0.8
    assert codes(planted, tmp_path) == []


def test_certain_but_weak_is_no_warning(tmp_path):
    """AUC .55 of 1,600 slides differs significantly from .5, and is not above the margin."""
    planted = clean_cohort(per_class=400, dim=1, rows=(1, 2))
    rng = np.random.default_rng(0)
    for slide in planted.slides.values():
        slide.x = np.float32(rng.normal(size=(int(60 + 10 * rng.normal() + 1.4 * (slide.label == "tumour")), 1)))
    y = [slide.label == "tumour" for slide in planted.slides.values()]
    assert 0.53 < roc_auc_score(y, [len(slide.x) for slide in planted.slides.values()]) < 0.57
    planted.folds = []
    assert codes(planted, tmp_path) == []


def test_the_auc_and_its_interval(tmp_path):
    """A strong probe's figure is near that of the fact itself, and the interval as wide as patients allow."""
    planted = clean_cohort(per_class=100, dim=1, rows=(1, 2))
    rng = np.random.default_rng(0)
    for slide in planted.slides.values():
        slide.x = np.float32(rng.normal(size=(int(60 + 8 * rng.normal() + 10 * (slide.label == "tumour")), 1)))
    y = [slide.label == "tumour" for slide in planted.slides.values()]
    direct = roc_auc_score(y, [len(slide.x) for slide in planted.slides.values()])
    planted.folds = []
    (finding,) = audit(planted.write(tmp_path))
    auc, low, high = map(float, re.search(r"AUC ([\d.]+) \[([\d.]+), ([\d.]+)\]", finding.message).groups())
    assert auc == pytest.approx(direct, abs=0.03)
    assert low < auc < high
    assert 0.05 < high - low < 0.2  # 99 %: some five standard errors, each about .02


def test_one_of_three_classes(tmp_path):
    planted = clean_cohort(classes=("a", "b", "c"))
    for i, slide in enumerate(planted.slides.values()):
        slide.x = slide.x[: (10 if slide.label == "b" else 15) + i % 4]
    assert codes(planted, tmp_path) == ["shortcut-length"]
