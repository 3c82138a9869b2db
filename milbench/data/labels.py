"""Labels of a cohort: the CSV a user writes, and the plain files milbench keeps beside its runs."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from ..errors import MilbenchError, did_you_mean
from ..spec import DataSpec
from .files import write_atomic
from .splits import PARTS, Fold
from .tables import count, read_table, some

#: a row with this label leaves its slide out, knowingly
EXCLUDE = "exclude"
#: how tools write a label that is not known; as a class of its own it would pass unnoticed
_NOT_A_LABEL = ("nan", "na", "n/a", "<na>", "null")
#: other tools' names of the patient column; one of these unused means slides of one patient would count as strangers
_PATIENT_NAMES = ("patient", "patient_id", "patientid", "case", "case_id", "caseid", "case_submitter_id", "subject_id")


@dataclass(frozen=True)
class Labels:
    """Labels as read: slides in the order of the file.

    Attributes:
        slides: the slides that take part.
        patients: slide -> patient.
        labels: slide -> class index.
        classes: class names, in the order of their indices.
        excluded: slides whose label is ``exclude``.
    """

    slides: tuple[str, ...]
    patients: dict[str, str]
    labels: dict[str, int]
    classes: tuple[str, ...]
    excluded: frozenset[str] = frozenset()


def read_label_table(path: Path, spec: DataSpec) -> Labels:
    """Read a label CSV by the column names and classes of ``spec``.

    Raises:
        MilbenchError: a column is missing, a slide appears twice, a cell is empty, or classes do not fit.
    """
    header, rows = read_table(path)
    for key, name in (("slide_column", spec.slide_column), ("label_column", spec.label_column)):
        if name not in header:
            raise MilbenchError(
                f"{path} has no column {name!r}, its columns are {some(header, 20)}; set {key} to one of them."
            )
    patient_column = _patient_column(path, header, spec)
    for name in {spec.slide_column, spec.label_column, patient_column or spec.slide_column}:
        if header.count(name) > 1:
            raise MilbenchError(f"{path} has {header.count(name)} columns named {name!r}; keep one.")
    if not rows:
        raise MilbenchError(f"{path} has no rows below its header; give one row a slide.")
    cells = {name: [row[header.index(name)] for row in rows] for name in (spec.slide_column, spec.label_column)}
    slides, values = cells[spec.slide_column], cells[spec.label_column]
    patients = slides if patient_column is None else [row[header.index(patient_column)] for row in rows]
    if "" in slides:
        raise MilbenchError(f"{path} has a row without {spec.slide_column} (row {slides.index('') + 1}); fill it in.")
    twice = sorted({slide for slide in slides if slides.count(slide) > 1}) if len(set(slides)) < len(slides) else []
    if twice:
        raise MilbenchError(
            f"{path} has {count(len(twice), 'slide')} in two rows: {some(twice)}; keep one row a slide."
        )
    for column, column_cells in ((spec.label_column, values), (patient_column, patients)):
        empty = [slide for slide, value in zip(slides, column_cells, strict=True) if value == ""]
        if empty:
            raise MilbenchError(
                f"{path} has no {column} for {count(len(empty), 'slide')}: {some(empty)}; "
                f"fill it in, or give them the label "
                f"{EXCLUDE!r} to leave them out."
            )
    excluded = frozenset(slide for slide, value in zip(slides, values, strict=True) if value == EXCLUDE)
    kept = {slide: _plain(value) for slide, value in zip(slides, values, strict=True) if slide not in excluded}
    if spec.classes is None and (unsaid := [slide for slide, value in kept.items() if value.lower() in _NOT_A_LABEL]):
        raise MilbenchError(
            f"{path} has {kept[unsaid[0]]!r} in {spec.label_column} for {count(len(unsaid), 'slide')}: {some(unsaid)}, "
            f"which is no label; give them one, or the label {EXCLUDE!r} to leave them out, or name it in classes."
        )
    labels, classes = index_classes(kept, spec.classes, str(path))
    owner = dict(zip(slides, patients, strict=True))
    return Labels(tuple(kept), {slide: owner[slide] for slide in kept}, labels, classes, excluded)


def index_classes(
    values: Mapping[str, str], classes: Sequence[str] | None, where: str
) -> tuple[dict[str, int], tuple[str, ...]]:
    """Turn label values into class indices.

    Args:
        values: slide -> label value.
        classes: the values in class order; None: the values found, sorted, as numbers where all are numbers.
        where: the file, for messages.

    Raises:
        MilbenchError: a value that is no class, a class without slides, or fewer than two classes.
    """
    found = sorted(set(values.values()), key=_number_or_text)
    if classes is None and not all(isinstance(_number_or_text(value)[1], float) for value in found):
        found = sorted(found)
    names = tuple(found) if classes is None else tuple(_plain(name) for name in classes)
    if len(set(names)) < len(names):
        raise MilbenchError(f"classes {some(list(names))} name one class twice; name every class once.")
    strangers = [value for value in found if value not in names]
    if strangers:
        raise MilbenchError(
            f"{where} has the label {strangers[0]!r}, which is none of the classes.{did_you_mean(strangers[0], names)}"
        )
    idle = [name for name in names if name not in found]
    if idle:
        raise MilbenchError(f"{where} has no slide of class {some(idle)}; correct the list of classes.")
    if len(names) < 2:
        raise MilbenchError(
            f"{where} has {len(names)} class ({some(list(names)) or 'none'}); a comparison needs two or more."
        )
    return {slide: names.index(value) for slide, value in values.items()}, names


def match_features(labels: Labels, features: Collection[str], where: str, cache: str) -> None:
    """Refuse labels without features and features without label: nothing is dropped silently.

    Raises:
        MilbenchError: names up to five slides of either kind.
    """
    lost = sorted(set(labels.slides) - set(features))
    if lost:
        raise MilbenchError(
            f"{count(len(lost), 'slide')} of {where} without features in {cache}: {some(lost)}; "
            f"add their features, or give them the label {EXCLUDE!r}."
        )
    bare = sorted(set(features) - set(labels.slides) - labels.excluded)
    if bare:
        raise MilbenchError(
            f"{count(len(bare), 'slide')} of {cache} without label in {where}: {some(bare)}; "
            f"add rows for them, with the label "
            f"{EXCLUDE!r} for those to leave out."
        )


def write_labels(folder: Path, labels: Labels, folds: Sequence[Fold]) -> None:
    """Write labels.csv (slide_id, patient_id, label index), classes.json and folds/NAME.csv (slide_id, split)."""
    (folder / "folds").mkdir(parents=True, exist_ok=True)
    rows = [(slide, labels.patients[slide], labels.labels[slide]) for slide in labels.slides]
    table = pd.DataFrame(rows, columns=["slide_id", "patient_id", "label"])
    write_atomic(folder / "labels.csv", table.to_csv(index=False, lineterminator="\n"))
    write_atomic(folder / "classes.json", json.dumps(list(labels.classes), ensure_ascii=False) + "\n")
    for fold in folds:
        parts = pd.DataFrame([(s, part) for part in PARTS for s in fold.parts[part]], columns=["slide_id", "split"])
        write_atomic(folder / "folds" / f"{fold.name}.csv", parts.to_csv(index=False, lineterminator="\n"))


def read_labels(folder: str | Path) -> pd.DataFrame:
    """Read the labels.csv that `write_labels` wrote: slide_id and patient_id as text, label as class index.

    Raises:
        MilbenchError: there is none, or it has other columns.
    """
    path = Path(folder) / "labels.csv"
    header, rows = read_table(path)
    if header != ["slide_id", "patient_id", "label"]:
        raise MilbenchError(
            f"{path} has columns {some(header)} instead of slide_id, patient_id, label; write it again."
        )
    table = pd.DataFrame(rows, columns=header, dtype="str")
    try:
        return table.astype({"label": "int64"})
    except ValueError:
        raise MilbenchError(f"{path} has labels that are no class indices; write it again.") from None


def read_classes(folder: str | Path) -> tuple[str, ...]:
    """Read the classes.json that `write_labels` wrote."""
    return tuple(json.loads((Path(folder) / "classes.json").read_text(encoding="utf-8")))


def _patient_column(path: Path, header: list[str], spec: DataSpec) -> str:
    if spec.patient_column in header:
        return spec.patient_column
    if "patient_column" in spec.model_fields_set:
        raise MilbenchError(
            f"{path} has no column {spec.patient_column!r}, its columns are {some(header, 20)}; "
            f"set patient_column to one of them."
        )
    alias = next((name for name in header if name.lower() in _PATIENT_NAMES and name != spec.slide_column), None)
    if alias is not None:
        # Taking every slide for a patient of its own here could put one patient on both sides of a split.
        raise MilbenchError(
            f"{path} has no column {spec.patient_column!r} but has {alias!r}; set patient_column = {alias!r}, or to "
            f"{spec.slide_column!r} if every slide is a patient of its own."
        )
    raise MilbenchError(
        f"{path} has no column {spec.patient_column!r}, its columns are {some(header, 20)}; add it, as folds are by "
        f"patient, or set patient_column = {spec.slide_column!r} if every slide is a patient of its own."
    )


def _plain(value: str) -> str:
    """Write 1.0 as 1: tools that pass labels through floating point must not make new classes."""
    return value.split(".")[0] if re.fullmatch(r"-?\d+\.0*", value) else value


def _number_or_text(value: str) -> tuple[int, float | str]:
    try:
        return 0, float(value)
    except ValueError:
        return 1, value
