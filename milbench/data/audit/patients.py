"""Patients that only the names of slides tell: by TCGA's barcodes, or by a rule that the suite gives."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from ...errors import MilbenchError
from ...formatting.text import count, some
from ..fold import Fold
from ..labels.table import Labels
from ..names.likely_patients import Likely, likely_patients
from ..names.patient_rule import search_patients
from ..names.spellings import shell_quoted, toml_quoted

#: TCGA-55-7910-01Z-00-DX1.UUID: the first twelve characters are the patient, what follows a sample, a portion, a slide
_BARCODE = re.compile(r"TCGA-[A-Z0-9]{2}-[A-Z0-9]{4}(?![A-Z0-9])", re.IGNORECASE)


def guessed_patients(patients: Mapping[str, str]) -> dict[str, str]:
    """Return slide -> the patient in the barcode that stands as its patient, where one does.

    Where a table has no patients and every slide stands for its own, the barcode is the slide's; where its column of
    patients holds samples, theirs.

    Args:
        patients: slide -> patient.
    """
    matches = {slide: _BARCODE.match(patient) for slide, patient in patients.items()}
    return {slide: match[0].upper() for slide, match in matches.items() if match}


def classes_of_patients(labels: Labels) -> dict[str, list[str]]:
    """Return patient -> its classes, of the patients with slides of several."""
    classes: dict[str, set[int]] = {}
    for slide in labels.slides:
        classes.setdefault(labels.patients[slide], set()).add(labels.strata[slide])
    return {p: [labels.classes[c] for c in sorted(mine)] for p, mine in classes.items() if len(mine) > 1}


def mixed_patients(labels: Labels) -> str:
    """Return a sentence about patients with slides of several classes, without a point; "": there are none."""
    mixed = classes_of_patients(labels)
    if not mixed:
        return ""
    shown = [f"{patient!r} ({', '.join(map(repr, classes))})" for patient, classes in sorted(mixed.items())[:5]]
    more = f" and {len(mixed) - 5} more" if len(mixed) > 5 else ""
    have = "has" if len(mixed) == 1 else "have"
    return f"{count(len(mixed), 'patient')} {have} slides of several classes: {', '.join(shown)}{more}"


def unnamed_patients(labels: Labels) -> Likely | None:
    """Return the patients that names of slides seem to tell, where slides are patients of their own.

    They are where a patient has that one slide, whatever it is called: a column of running numbers or of names of files
    tells no more than the slides do.
    """
    every = labels.patients | labels.excluded_patients
    times = Counter(every.values())
    own = [slide for slide in labels.slides if times[labels.patients[slide]] == 1]
    if 2 * len(own) < len(labels.slides) or guessed_patients({slide: labels.patients[slide] for slide in own}):
        return None
    return likely_patients(own)


def likely_text(likely: Likely, folds: Sequence[Fold], named: bool = False) -> str:
    """Return what names of slides seem to tell, and how many patients lie on both sides of a fold, without a point.

    Args:
        named: whether the labels have a column of patients, which gives every slide one of its own.
    """
    shared = likely.shared(((*fold.train, *fold.val), fold.test) for fold in folds)
    sides = f", and up to {shared} of these patients lie in training and in test of a fold" if shared else ""
    rule = f"patient_rule = {toml_quoted(likely.rule)}" if likely.whole else "a column of patients"
    if likely.whole and named:
        rule += f" (--patient-rule {shell_quoted(likely.rule)} of init) with the column of slides as patient_column"
    return f"{likely.said}, but every slide counts as a patient of its own{sides}; give {rule}, unless they are not"


def check_rule(rule: str | None) -> None:
    """Refuse a rule that is no regular expression with one group.

    Raises:
        MilbenchError: it is none.
    """
    try:
        groups = 1 if rule is None else re.compile(rule).groups
    except re.error as error:
        raise MilbenchError(
            f"patient rule {rule!r} is no regular expression: {error}.", code="patient-rule-bad"
        ) from None
    if groups != 1:
        raise MilbenchError(
            f"patient rule {rule!r} has {groups} groups; put one pair of parentheses around the patient.",
            code="patient-rule-bad",
        )


def apply_rule(labels: Labels, rule: str) -> Labels:
    """Return labels in which slides that are patients of their own belong to the patient in their name.

    Args:
        labels: as read.
        rule: a regular expression with one group, searched for in the slide's name; the group is the patient.

    Raises:
        MilbenchError: it does not fit some of these slides that take part, or there are none.
    """
    every = labels.patients | labels.excluded_patients
    own = [slide for slide, patient in every.items() if patient == slide]
    if not own:
        raise MilbenchError(
            f"patient_rule {rule!r} has no use, as the labels name every slide's patient; remove it.",
            code="patient-rule-bad",
        )
    matches = search_patients(rule, own)
    if lost := sorted((set(own) & labels.patients.keys()) - set(matches)):
        raise MilbenchError(
            f"patient_rule {toml_quoted(rule)} does not fit {count(len(lost), 'slide')}: {some(lost)}; correct it, "
            "or name the patients in patient_column.",
            code="patient-rule-bad",
        )
    return replace(
        labels,
        patients={slide: matches.get(slide, patient) for slide, patient in labels.patients.items()},
        excluded_patients={slide: matches.get(slide, patient) for slide, patient in labels.excluded_patients.items()},
    )
