"""Patients that only the names of slides tell: by TCGA's barcodes, or by a rule that the suite gives."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from ...errors import MilbenchError
from ..labels import Labels
from ..tables import count, some

#: TCGA-55-7910-01Z-00-DX1.UUID: the first twelve characters are the patient, what follows a sample, a portion, a slide
_BARCODE = re.compile(r"TCGA-[A-Z0-9]{2}-[A-Z0-9]{4}(?![A-Z0-9])", re.IGNORECASE)


def guessed_patients(patients: Mapping[str, str]) -> dict[str, str]:
    """Return slide -> the patient in the barcode that stands as its patient, where one does.

    Where a table has no patients and every slide stands for its own, the barcode is the slide's; where its column of
    patients holds samples, theirs.

    Args:
        patients: slide -> patient.
    """
    found = {slide: _BARCODE.match(patient) for slide, patient in patients.items()}
    return {slide: match[0].upper() for slide, match in found.items() if match}


def apply_rule(labels: Labels, rule: str) -> Labels:
    """Return labels in which slides that are patients of their own belong to the patient in their name.

    Args:
        labels: as read.
        rule: a regular expression with one group, searched for in the slide's name; the group is the patient.

    Raises:
        MilbenchError: it does not fit some of these slides, or there are none.
    """
    pattern = re.compile(rule)
    every = labels.patients | labels.excluded_patients
    own = [slide for slide, patient in every.items() if patient == slide]
    if not own:
        raise MilbenchError(f"patient_rule {rule!r} has no use, as the labels name every slide's patient; remove it.")
    found = {slide: match[1] for slide in own if (match := pattern.search(slide)) and match[1]}
    if lost := sorted(set(own) - set(found)):
        raise MilbenchError(
            f"patient_rule {rule!r} does not fit {count(len(lost), 'slide')}: {some(lost)}; correct it, or name the "
            "patients in patient_column."
        )
    return replace(
        labels,
        patients={slide: found.get(slide, patient) for slide, patient in labels.patients.items()},
        excluded_patients={slide: found.get(slide, patient) for slide, patient in labels.excluded_patients.items()},
    )
