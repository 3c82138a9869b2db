"""Tables that do not fit each other: labels and features, rows that are there twice, labels that files tell twice."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ...config import DataSpec
from ...errors import MilbenchError
from ...formatting.text import count, some
from ..fold import PARTS
from ..labels.copy import stale_because
from ..labels.table import guess_columns, repeated_slides, unmatched
from ..labels.values import plain_label
from ..names.spellings import is_missing, label_key, path_stem
from ..splits.files import known_ids, read_task_config, split_paths
from ..text_tables import read_table, unreadable
from .findings import Finding
from .loaded_cohort import Subject
from .patients import classes_of_patients, likely_text, mixed_patients, unnamed_patients

_CODES = {"label": "label-without-features", "features": "features-without-label"}


def missing_findings(subject: Subject) -> list[Finding]:
    """List slides with a label and no features, the reverse, and slides with a label whose features are no patches."""
    lacking = unmatched(subject.labels, subject.cache.ids, subject.where, str(subject.cache.path))
    findings = [Finding.of(_CODES[kind], subject.name, message, ids) for kind, (ids, message) in lacking.items()]
    if subject.empty:
        have = "has no patches and takes" if len(subject.empty) == 1 else "have no patches and take"
        message = f"{count(len(subject.empty), 'slide')} {have} no part: {some(list(subject.empty))}"
        findings.append(Finding.of("no-patches", subject.name, message, subject.empty))
    return findings


def stale_findings(subject: Subject) -> list[Finding]:
    """Hold a label table that ``milbench init`` made against its sources and the features."""
    if subject.spec.labels is None:
        return []
    path = subject.base / Path(subject.spec.labels).expanduser()
    stale, gone = stale_because(path, subject.cache.ids)
    advice = "run milbench init again with --force, or correct both"
    findings = [Finding.of("stale-labels", subject.name, f"{text}; {advice}") for text in stale]
    if gone:
        text = (
            f"{path} was made of {', '.join(gone)}, which cannot be read, so it is not known whether it is up to date"
        )
        findings.append(Finding.of("unchecked-labels", subject.name, text))
    return findings


def note_findings(subject: Subject) -> list[Finding]:
    """List what was set aside in reading labels and split files."""
    return [Finding.of(note.code, subject.name, note.text, note.ids) for note in subject.labels.notes]


def patient_findings(subject: Subject) -> list[Finding]:
    """List patients that names of slides seem to tell and the labels do not, and patients of several classes."""
    labels = subject.labels
    findings = []
    if text := mixed_patients(labels):
        findings.append(Finding.of("mixed-patient", subject.name, text, sorted(classes_of_patients(labels))))
    likely = unnamed_patients(labels)
    if likely is not None:
        own = any(labels.patients[slide] == slide for slide in likely.patients)
        joined = sorted(patient for patient, n in Counter(likely.patients.values()).items() if n > 1)
        findings.append(
            Finding.of("likely-patients", subject.name, likely_text(likely, subject.folds, not own), joined)
        )
    return findings


def row_findings(spec: DataSpec, base: Path) -> list[Finding]:
    """List slides in two rows of a label table that disagree; nothing where it cannot be read at all.

    `read_label_table` refuses such a table, so that there is no `Subject` to ask.
    """
    file = spec.labels if spec.slide_table is None else spec.slide_table
    if file is None:
        return []
    slides = None if spec.slide_table is None else base / Path(spec.slide_table).expanduser()
    try:
        twice = repeated_slides(base / Path(spec.labels or file).expanduser(), spec, slides)
    except MilbenchError:
        return []
    path = base / Path(file).expanduser()
    said = next(iter(twice.values()), "")
    who = f"{path} has {count(len(twice), 'slide')} in two rows that disagree: {some(sorted(twice))} ({said})"
    return [Finding.of("duplicate-row", spec.name, f"{who}; keep one row a slide", sorted(twice))] if twice else []


def label_findings(subject: Subject) -> list[Finding]:
    """List slides whose label in a split file is not the one they have.

    Split files need not write labels as the label table does: 1.0 for tumour, say. Where their values are not all among
    the names of the classes, a value stands for the class that most of its slides have.
    """
    split = subject.spec.split
    if split.files is None:
        return []
    entries = [
        (path.name, slide, plain_label(value))
        for path in split_paths(split.files, subject.base)
        for slide, value in _labels_in(path, subject)
        if slide in subject.labels.strata and not is_missing(value) and not unreadable(value)
    ]
    classes = subject.labels.classes
    meant = _meaning([(slide, value) for _, slide, value in entries], subject.labels.strata, classes)
    wrong: dict[str, str] = {}
    for file, slide, value in entries:
        if meant[value] != subject.labels.strata[slide]:
            wrong.setdefault(slide, f"{slide!r} is {value} in {file} and {classes[subject.labels.strata[slide]]} here")
    if not wrong:
        return []
    ids = sorted(wrong)
    first = f"{wrong[ids[0]]}{f', also {some(ids[1:])}' if len(ids) > 1 else ''}"
    who = f"{count(len(ids), 'slide')} with another label in the split files than in {subject.where}: {first}"
    return [Finding.of("label-mismatch", subject.name, f"{who}; correct one of them", ids)]


def _meaning(
    labels_in_file: Iterable[tuple[str, str]], labels: Mapping[str, int], classes: Sequence[str]
) -> dict[str, int]:
    """Return value -> class index."""
    votes: dict[str, Counter[int]] = {}
    for slide, value in labels_in_file:
        votes.setdefault(value, Counter())[labels[slide]] += 1
    by_key = {label_key(name): i for i, name in enumerate(classes)}
    if {label_key(value) for value in votes} <= set(by_key):
        return {value: classes.index(value) if value in classes else by_key[label_key(value)] for value in votes}
    return {value: counts.most_common(1)[0][0] for value, counts in votes.items()}


def _labels_in(path: Path, subject: Subject) -> list[tuple[str, str]]:
    """Return the (slide, label value) pairs of a split file; none where it tells no labels."""
    if path.suffix.lower() == ".json":
        return []
    header, rows = read_table(path)
    every = subject.labels.patients | subject.labels.excluded_patients
    pairs: list[tuple[str, str]] = []
    for part in PARTS:  # TransMIL: train, train_label; MIL_BASELINE: train_slide_path, train_label
        name = next((name for name in (part, f"{part}_slide_path") if name in header), None)
        if name is not None and f"{part}_label" in header:
            pairs += _pairs(header, rows, name, f"{part}_label")
    if not pairs:  # Patho-Bench, eva: a row a slide, or a row a patient
        columns = guess_columns(header)
        key, label = columns.slide or columns.patient, columns.label or _task_column(path, header)
        if key is None or label is None:
            return []
        pairs = _pairs(header, rows, key, label)
        if columns.slide is None:
            value_of = dict(pairs)
            return [(slide, value_of[patient]) for slide, patient in every.items() if patient in value_of]
    slide_of = known_ids([name for name, _ in pairs], every, subject.spec.slide_suffix)
    return [(slide_of[name], value) for name, value in pairs]


def _pairs(header: list[str], rows: list[list[str]], key: str, label: str) -> list[tuple[str, str]]:
    at, value = header.index(key), header.index(label)
    pairs = [(path_stem(row[at]) if key.endswith("_path") else row[at], row[value]) for row in rows]
    return [pair for pair in pairs if all(pair)]


def _task_column(path: Path, header: list[str]) -> str | None:
    """Return the label column that Patho-Bench's configuration names, where the columns alone do not tell."""
    config = path.with_name("config.yaml")
    if not any(re.fullmatch(r"fold_\d+", name) for name in header) or not config.is_file():
        return None
    column = read_task_config(config).task_col
    return column if column in header else None
