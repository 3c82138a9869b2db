"""Codes of what an audit of a cohort finds: stable names, by which a suite may waive a finding."""

from __future__ import annotations

from typing import Literal, NamedTuple

Severity = Literal["error", "warning"]


class Code(NamedTuple):
    """The meaning of a code.

    Attributes:
        severity: an ``error`` keeps a suite from running, a ``warning`` does not.
        means: the finding, as a table states it of a result that was made in spite of it.
        waivable: whether a suite can run with it at all.
    """

    severity: Severity
    means: str
    waivable: bool = True


CODES = {
    # Leaks: the number would flatter.
    "slide-overlap": Code("error", "slides in two parts of a fold"),
    "val-in-train": Code("error", "validation slides that are training slides"),
    "val-equals-test": Code("error", "models selected on the test slides"),
    "patient-overlap": Code("error", "patients with slides in two parts of a fold"),
    "guessed-patient-overlap": Code("error", "patients, by their barcodes, with slides in two parts of a fold"),
    "features-overlap": Code("error", "slides with identical features in two parts of a fold"),
    "label-column": Code("error", "a feature that is the label"),
    "two-encoders": Code("error", "features of two encoders, by their statistics"),
    # Labels and folds that mean something else than they should.
    "label-mismatch": Code("error", "labels in split files that differ from the cohort's"),
    "one-class": Code("error", "a part of a fold that holds one class"),
    "untrained-class": Code("error", "a class that is tested but not trained"),
    "stale-labels": Code("error", "a label table that milbench init made of files that have changed since"),
    # Nothing could run, or not to its end.
    "unreadable": Code("error", "files that cannot be read", waivable=False),
    "no-fold": Code("error", "no fold", waivable=False),
    "fold-name": Code("error", "two folds of one name, or one whose name no file can have", waivable=False),
    "empty-part": Code("error", "a part of a fold without slides", waivable=False),
    "duplicate-row": Code("error", "slides in two rows of a table", waivable=False),
    "label-without-features": Code("error", "labels without features", waivable=False),
    "features-without-label": Code("error", "features without label", waivable=False),
    "split-without-label": Code("error", "slides of a fold without label", waivable=False),
    "split-without-features": Code("error", "slides of a fold without features", waivable=False),
    # May be right, and should be checked.
    "identical-features": Code("warning", "slides with identical features"),
    "similar-features": Code("warning", "slides with nearly identical features"),
    "no-patches": Code("warning", "slides without patches, which take no part"),
    "two-kinds-of-features": Code("warning", "features of two kinds, which are the classes or may be two encoders"),
    "unused-slide": Code("warning", "slides that no fold uses"),
    "other-spelling": Code("warning", "names that are written in several ways and were matched"),
    "table-form": Code("warning", "tables with titles, repeated rows or several sheets"),
    "unused-column": Code("warning", "columns of patients or splits that are not used"),
    "likely-patients": Code("warning", "names of slides that look like several slides of one patient"),
    "unchecked-labels": Code("warning", "a label table of milbench init whose sources are not there"),
    "rare-test-class": Code("warning", "a class that a fold tests on one bag or none"),
    "positive-class": Code("warning", "a positive class that may not be the one meant"),
    "mixed-patient": Code("warning", "patients with slides of several classes"),
    "almost-label-column": Code("warning", "a feature that almost is the label"),
    "shortcut-length": Code("warning", "the number of patches predicts the label"),
    "shortcut-name": Code("warning", "the beginning of a slide's name predicts its label"),
    "shortcut-number": Code("warning", "the number in a slide's name predicts its label"),
    "shortcut-site": Code("warning", "the site predicts the label"),
    "shortcut-scan": Code("warning", "the distance of patches, and so the scan, predicts the label"),
    "idle-waiver": Code("warning", "a waiver of a finding that the audit does not have", waivable=False),
}
