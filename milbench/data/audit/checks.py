"""Checks: everything that an audit examines in one cohort."""

from __future__ import annotations

from ...config import digest
from .features import encoder_findings, identical_findings, label_column_findings, similar_findings, sketch
from .findings import Finding
from .folds import Known, folds_findings, rare_class_findings
from .loaded_cohort import Subject
from .positive import positive_findings
from .probes import facts_of, probe_findings
from .result_cache import remembered
from .tables import label_findings, missing_findings, note_findings, patient_findings, stale_findings

#: raised when the checks of features change
_CHECKS = 2


def table_findings(subject: Subject) -> list[Finding]:
    """Check ids, labels, folds and checksums: all that needs no features."""
    missing = missing_findings(subject)
    findings = [*missing, *stale_findings(subject), *note_findings(subject)]
    if subject.trouble is not None:
        return [*findings, Finding.of_error(subject.name, subject.trouble, subject.trouble_code)]
    labels = subject.labels
    known = Known(
        labels=labels.strata,
        patients=labels.patients,
        features=frozenset(subject.cache.ids),
        classes=labels.classes,
        guesses=subject.guesses,
        already_reported=frozenset(slide for finding in missing for slide in finding.ids),
    )
    return [
        *findings,
        *folds_findings(subject.name, subject.folds, known),
        *rare_class_findings(subject.name, subject.folds, known),
        *label_findings(subject),
        *patient_findings(subject),
        *positive_findings(subject),
        *identical_findings(subject),
    ]


def feature_findings(subject: Subject) -> list[Finding]:
    """Check the features and run the probes; once a cohort, see `remembered`."""
    if not subject.slides:
        return []
    facts = facts_of(subject)
    owners = {slide: subject.owner(slide) for slide in subject.slides}
    steps = [None if step != step else step for step in facts.steps.tolist()]
    key = [subject.content, owners, facts.rows.tolist(), steps, facts.sites, _CHECKS]

    def compute() -> list[Finding]:
        seen = sketch(subject.cache, subject.slides)
        return [
            *label_column_findings(subject, seen),
            *encoder_findings(subject, seen),
            *similar_findings(subject, seen),
            *probe_findings(subject, facts),
        ]

    return remembered(subject.name, [digest(key)], compute)
