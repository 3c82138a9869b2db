"""Labels of a cohort: the tables a user has, and the plain files milbench keeps beside its runs."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from ..atomic_io import child
from ..errors import MilbenchError, did_you_mean
from ..manifest import first_line, read_listed, write_files
from ..spec import DataSpec
from .splits import PARTS, Fold
from .tables import count, path_stem, read_table, some, without_suffix

#: a row with this label leaves its slide out, knowingly
EXCLUDE = "exclude"
#: how tools write a label that is not known; as a class of its own it would pass unnoticed
NOT_A_LABEL = ("nan", "na", "n/a", "<na>", "null")
#: Tools' names of the columns, in lower case, the likeliest first: CLAM, TRIDENT, Patho-Bench, STAMP, torchmil, eva,
#: MIL_BASELINE, slideflow, GDC. A patient column unused would mean that slides of one patient count as strangers.
_SLIDE_NAMES = ("slide_id", "slideid", "slide", "slide_name", "wsi_id", "wsi", "bag_name", "bag_id", "bag", "filename",
                "slide_path", "image_id")  # fmt: skip
_PATIENT_NAMES = ("patient", "patient_id", "patientid", "case", "case_id", "caseid", "case_submitter_id", "subject_id")
_LABEL_NAMES = ("label", "slide_label", "bag_label", "target", "class", "y")
#: columns that are none of the three, in lower case
_OTHER_NAMES = re.compile(r"|split|fold|fold_\d+|official_split|site|embeddings|origin|mpp|dataset|unnamed: \d+|index")


@dataclass(frozen=True)
class Labels:
    """Labels as read: slides in the order of the file.

    Attributes:
        slides: the slides that take part.
        patients: slide -> patient.
        labels: slide -> class index.
        classes: class names, in the order of their indices.
        excluded: slides whose label is ``exclude``.
        excluded_patients: slide -> patient of those, for split files that name patients.
        sites: slide -> site, where ``split.site_column`` names one.
    """

    slides: tuple[str, ...]
    patients: dict[str, str]
    labels: dict[str, int]
    classes: tuple[str, ...]
    excluded: frozenset[str] = frozenset()
    excluded_patients: dict[str, str] = field(default_factory=dict)
    sites: dict[str, str] = field(default_factory=dict)

    def without(self, slides: Collection[str]) -> Labels:
        """Return the labels with some more slides excluded."""
        gone = self.excluded | (set(slides) & set(self.slides))
        kept = tuple(slide for slide in self.slides if slide not in gone)
        patients, labels = {s: self.patients[s] for s in kept}, {s: self.labels[s] for s in kept}
        left = self.excluded_patients | {s: p for s, p in self.patients.items() if s in gone}
        sites = {s: site for s, site in self.sites.items() if s not in gone}
        return replace(
            self, slides=kept, patients=patients, labels=labels, excluded=gone, excluded_patients=left, sites=sites
        )


class Columns(NamedTuple):
    """Names of the columns of a label table; None where none is recognised."""

    slide: str | None
    patient: str | None
    label: str | None


def guess_columns(header: Sequence[str]) -> Columns:
    """Recognise the columns of other tools' tables, whatever their letters' case.

    The label is the column of a usual name, or else the only one that is neither slide nor patient nor a split: STAMP
    and Patho-Bench name it by the task.
    """

    def first(names: Sequence[str]) -> str | None:
        return next((column for name in names for column in header if column.lower() == name), None)

    slide, patient, label = first(_SLIDE_NAMES), first(_PATIENT_NAMES), first(_LABEL_NAMES)
    if label is None:
        rest = [c for c in header if c not in (slide, patient) and not _OTHER_NAMES.fullmatch(c.lower())]
        label = rest[0] if len(rest) == 1 else None
    return Columns(slide, patient, label)


def read_label_table(path: Path, spec: DataSpec, slide_table: Path | None = None) -> Labels:
    """Read a label table by the column names and classes of ``spec``.

    Slide ids lose the endings in ``spec.slide_suffix``; a column that is named ``..._path`` (MIL_BASELINE) holds paths,
    whose stems are the ids.

    Args:
        path: one row a slide; with ``slide_table``, one row a patient.
        spec: names of the columns; classes; ``split.site_column``.
        slide_table: slides and their patients, in columns of the same names. Its slide ids lose the ``.h5`` that
            STAMP's FILENAME has.

    Raises:
        MilbenchError: a column is missing, a slide appears twice, a cell is empty, a patient has a row in one table
            alone, or classes do not fit.
    """
    rows = _slide_rows(path, spec) if slide_table is None else _patient_rows(path, slide_table, spec)
    slides, where = rows.slides, path if slide_table is None else slide_table
    if "" in slides:
        raise MilbenchError(f"{where} has a row without {spec.slide_column} (row {slides.index('') + 1}); fill it in.")
    if twice := _twice(slides):
        raise MilbenchError(
            f"{where} has {count(len(twice), 'slide')} in two rows: {some(twice)}; keep one row a slide."
        )
    excluded = frozenset(slide for slide, value in zip(slides, rows.values, strict=True) if value == EXCLUDE)
    columns = {spec.label_column: rows.values, rows.patient_column: rows.patients}
    if spec.split.site_column is not None:
        columns[spec.split.site_column] = rows.sites
    for column, cells in columns.items():
        pairs = zip(slides, cells, strict=True)
        if empty := [slide for slide, value in pairs if value == "" and slide not in excluded]:
            raise MilbenchError(
                f"{path} has no {column} for {count(len(empty), 'slide')}: {some(empty)}; "
                f"fill it in, or give them the label "
                f"{EXCLUDE!r} to leave them out."
            )
    kept = {s: plain_label(value) for s, value in zip(slides, rows.values, strict=True) if s not in excluded}
    if spec.classes is None and (unsaid := [slide for slide, value in kept.items() if value.lower() in NOT_A_LABEL]):
        raise MilbenchError(
            f"{path} has {kept[unsaid[0]]!r} in {spec.label_column} for {count(len(unsaid), 'slide')}: {some(unsaid)}, "
            f"which is no label; give them one, or the label {EXCLUDE!r} to leave them out, or name it in classes."
        )
    labels, classes = index_classes(kept, spec.classes, str(path))
    owner = dict(zip(slides, rows.patients, strict=True))
    site = dict(zip(slides, rows.sites, strict=True)) if rows.sites else {}
    return Labels(
        slides=tuple(kept),
        patients={slide: owner[slide] for slide in kept},
        labels=labels,
        classes=classes,
        excluded=excluded,
        excluded_patients={slide: owner[slide] for slide in excluded},
        sites={slide: site[slide] for slide in kept if slide in site},
    )


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
    names = tuple(found) if classes is None else tuple(plain_label(name) for name in classes)
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
    for _, message in unmatched(labels, features, where, cache).values():
        raise MilbenchError(f"{message}.")


def unmatched(labels: Labels, features: Collection[str], where: str, cache: str) -> dict[str, tuple[list[str], str]]:
    """Return ``label`` -> the slides that have but a label, and ``features`` -> those that have but features.

    Args:
        labels: as read from ``where``.
        features: the slides of ``cache``.
        where, cache: the table and the features, for messages.

    Returns:
        Of the kinds that there are, the slides, sorted, and what is wrong with them, without a point.
    """
    found = {}
    if lost := sorted(set(labels.slides) - set(features)):
        who = f"{count(len(lost), 'slide')} of {where} without features in {cache}: {some(lost)}"
        mend = _suffix_hint(lost, features) or f"add their features, or give them the label {EXCLUDE!r}"
        found["label"] = lost, f"{who}; {mend}"
    if bare := sorted(set(features) - set(labels.slides) - labels.excluded):
        who = f"{count(len(bare), 'slide')} of {cache} without label in {where}: {some(bare)}"
        found["features"] = bare, f"{who}; add rows for them, with the label {EXCLUDE!r} for those to leave out"
    return found


def write_labels(folder: Path, labels: Labels, folds: Sequence[Fold]) -> dict[str, bytes]:
    """Write labels.csv (slide_id, patient_id, label index), classes.json and folds/NAME.csv (slide_id, split).

    Returns:
        Name relative to the folder -> content of every file, for `milbench.manifest.write_manifest`.

    Raises:
        MilbenchError: a fold's name cannot be that of a file.
    """
    rows = [(slide, labels.patients[slide], labels.labels[slide]) for slide in labels.slides]
    table = pd.DataFrame(rows, columns=["slide_id", "patient_id", "label"])
    files = {
        "labels.csv": table.to_csv(index=False, lineterminator="\n"),
        "classes.json": json.dumps(list(labels.classes), ensure_ascii=False) + "\n",
    }
    for fold in folds:
        parts = pd.DataFrame([(s, part) for part in PARTS for s in fold.parts[part]], columns=["slide_id", "split"])
        name = child(Path("folds"), fold.name, ".csv", "fold").as_posix()
        if name in files:
            raise MilbenchError(f"two folds are named {fold.name!r}; give every fold a name of its own.")
        files[name] = parts.to_csv(index=False, lineterminator="\n")
    return write_files(folder, files)


def read_labels(folder: str | Path) -> pd.DataFrame:
    """Read the labels.csv that `write_labels` wrote: slide_id and patient_id as text, label as class index.

    Raises:
        MilbenchError: there is none, it was changed after it was written, or it has other columns.
    """
    path = Path(folder) / "labels.csv"
    read_listed(Path(folder), path.name, "write it again")
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
    """Read the classes.json that `write_labels` wrote.

    Raises:
        MilbenchError: there is none, it was changed after it was written, or it is no list of names.
    """
    path = Path(folder) / "classes.json"
    try:
        names = json.loads(read_listed(path.parent, path.name, "write it again"))
    except MilbenchError:
        raise
    except (ValueError, RecursionError) as error:
        raise MilbenchError(f"{path} is damaged ({first_line(error)}); write it again.") from None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise MilbenchError(f"{path} is no list of class names; write it again.")
    return tuple(names)


@dataclass(frozen=True)
class _Rows:
    """Columns of a label table, one entry a slide; ``sites`` is empty where none are asked for."""

    slides: list[str]
    patients: list[str]
    values: list[str]
    sites: list[str]
    patient_column: str


def _slide_rows(path: Path, spec: DataSpec) -> _Rows:
    header, rows = read_table(path)
    hint = ""
    if "slide_column" not in spec.model_fields_set and (found := guess_columns(header)).patient and not found.slide:
        hint = ", or give slide_table if its rows are patients"
    cells = _cells(path, header, rows, {"slide_column": spec.slide_column, "label_column": spec.label_column}, hint)
    owners = {"patient_column": _patient_column(path, header, spec)}
    owners |= {} if spec.split.site_column is None else {"split.site_column": spec.split.site_column}
    cells |= _cells(path, header, rows, owners)
    slides = [slide_name(cell, spec) for cell in cells["slide_column"]]
    sites = cells.get("split.site_column", [])
    return _Rows(slides, cells["patient_column"], cells["label_column"], sites, owners["patient_column"])


def _patient_rows(path: Path, slide_table: Path, spec: DataSpec) -> _Rows:
    """Read a table of patients and one of their slides, and give every slide what its patient has."""
    header, rows = read_table(path)
    names = {"patient_column": spec.patient_column, "label_column": spec.label_column}
    names |= {} if spec.split.site_column is None else {"split.site_column": spec.split.site_column}
    told = _cells(path, header, rows, names)
    header, rows = read_table(slide_table)
    names = {"patient_column": spec.patient_column, "slide_column": spec.slide_column}
    listed = _cells(slide_table, header, rows, names)
    if twice := _twice(told["patient_column"]):
        raise MilbenchError(
            f"{path} has {count(len(twice), 'patient')} in two rows: {some(twice)}; with slide_table, keep one row a "
            "patient."
        )
    row_of = {patient: i for i, patient in enumerate(told["patient_column"])}
    bare = sorted(set(listed["patient_column"]) - set(row_of))
    if bare:
        raise MilbenchError(
            f"{count(len(bare), 'patient')} of {slide_table} without a row in {path}: {some(bare)}; add rows for them, "
            f"with the label {EXCLUDE!r} for those to leave out."
        )
    there = set(listed["patient_column"])
    lost = sorted(p for p, i in row_of.items() if p not in there and told["label_column"][i] != EXCLUDE)
    if lost:
        raise MilbenchError(
            f"{count(len(lost), 'patient')} of {path} without slides in {slide_table}: {some(lost)}; add their slides, "
            f"or give them the label {EXCLUDE!r}."
        )
    at = [row_of[patient] for patient in listed["patient_column"]]
    slides = [slide_name(cell, spec).removesuffix(".h5") for cell in listed["slide_column"]]
    values = [told["label_column"][i] for i in at]
    sites = [told["split.site_column"][i] for i in at] if spec.split.site_column is not None else []
    return _Rows(slides, listed["patient_column"], values, sites, spec.patient_column)


def _cells(
    path: Path, header: list[str], rows: list[list[str]], names: Mapping[str, str], hint: str = ""
) -> dict[str, list[str]]:
    """Return the columns a spec names, by the spec's field."""
    for key, name in names.items():
        if name not in header:
            raise MilbenchError(
                f"{path} has no column {name!r}, its columns are {some(header, 20)}; set {key} to one of them{hint}."
            )
    for name in names.values():
        if header.count(name) > 1:
            raise MilbenchError(f"{path} has {header.count(name)} columns named {name!r}; keep one.")
    if not rows:
        raise MilbenchError(f"{path} has no rows below its header; give one row a slide.")
    return {key: [row[header.index(name)] for row in rows] for key, name in names.items()}


def slide_name(cell: str, spec: DataSpec) -> str:
    """Return the slide id of a cell of the slide column: of a path its stem, without the endings to strip."""
    return without_suffix(path_stem(cell) if spec.slide_column.endswith("_path") else cell, spec.slide_suffix)


def _twice(names: Sequence[str]) -> list[str]:
    return sorted(name for name, times in Counter(names).items() if times > 1)


def _suffix_hint(lost: Sequence[str], features: Collection[str]) -> str:
    """Say that ids would fit without the ending of a file's name, where some would."""
    known = set(features)
    endings = sorted(
        {"." + end for head, dot, end in (slide.rpartition(".") for slide in lost) if dot and head in known}
    )
    if not endings:
        return ""
    value = repr(endings[0]) if len(endings) == 1 else repr(endings)
    return f"ids end in {', '.join(endings)} and those of the features do not: strip them with slide_suffix = {value}"


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


def plain_label(value: str) -> str:
    """Write 1.0 as 1: tools that pass labels through floating point must not make new classes."""
    return value.split(".")[0] if re.fullmatch(r"-?\d+\.0*", value) else value


def _number_or_text(value: str) -> tuple[int, float | str]:
    try:
        return 0, float(value)
    except ValueError:
        return 1, value
