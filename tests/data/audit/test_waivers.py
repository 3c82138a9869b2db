"""Waivers: one by one, by code; what was made under one is not what would be made without."""

from __future__ import annotations

import json

import pytest
from support.cohorts import clean_cohort
from support.refusal import refused

from milbench.config import DataSpec, digest
from milbench.config.audit_codes import CODES
from milbench.data.cohort import load_cohort, read_subject, write_cohort


@pytest.fixture(autouse=True)
def _own_memory(cache_home):
    """No findings of other tests."""


def waiving(spec, *codes):
    return spec.model_copy(update={"waive": codes})


def plain_fingerprint(spec, folder):
    """The fingerprint of content and folds alone."""
    subject = read_subject(spec, folder)
    return digest([subject.content, [[fold.name, fold.parts] for fold in subject.folds]])


def test_the_fingerprint_knows_what_was_waived(tmp_path):
    planted = clean_cohort()
    planted.folds[0]["val"].append(planted.folds[0]["train"][0])
    spec = planted.write(tmp_path).data[0]
    with refused("slide-overlap"):
        load_cohort(waiving(spec, "patient-overlap", "val-in-train"), tmp_path)
    cohort = load_cohort(waiving(spec, "slide-overlap"), tmp_path)
    assert cohort.fingerprint != plain_fingerprint(spec, tmp_path)
    assert [(finding.code, finding.waived) for finding in cohort.findings] == [("slide-overlap", True)]


def test_a_waiver_of_nothing_or_of_a_warning_changes_no_fingerprint(tmp_path):
    planted = clean_cohort()
    for i, slide in enumerate(planted.slides.values()):
        slide.x = slide.x[: (10 if slide.label == "tumour" else 15) + i % 4]
    spec = planted.write(tmp_path).data[0]
    due = plain_fingerprint(spec, tmp_path)
    for codes in ((), ("patient-overlap",), ("shortcut-length",)):
        assert load_cohort(waiving(spec, *codes), tmp_path).fingerprint == due
    findings = load_cohort(waiving(spec, "shortcut-length", "patient-overlap"), tmp_path).findings
    assert [(finding.code, finding.severity, finding.waived) for finding in findings] == [
        ("shortcut-length", "warning", True),
        ("idle-waiver", "warning", False),
    ]


def test_every_finding_is_kept_with_the_labels(tmp_path):
    planted = clean_cohort()
    slides = planted.folds[0]["train"][:9]
    planted.folds[0]["val"] += slides
    cohort = load_cohort(waiving(planted.write(tmp_path).data[0], "slide-overlap"), tmp_path)
    write_cohort(cohort, tmp_path / "out")
    (kept,) = json.loads((tmp_path / "out" / "audit.json").read_text())
    assert kept["ids"] == sorted(slides)
    assert (kept["code"], kept["fold"], kept["waived"]) == ("slide-overlap", "fold0", True)


@pytest.mark.parametrize("code", CODES)
def test_every_code_is_waived_or_refused(code):
    spec = {"name": "d", "cache": "c", "labels": "l.csv", "waive": [code]}
    if CODES[code].waivable:
        assert DataSpec(**spec).waive == (code,)
    else:
        with pytest.raises(ValueError, match=f"'{code}' .* cannot be waived; correct it"):
            DataSpec(**spec)
