"""Labels of a cohort: the tables a user has, and the plain files milbench keeps with its runs."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from ...atomic_io.manifest import first_line, read_listed, write_files
from ...atomic_io.publishing import child
from ...config import DataSpec
from ...errors import MilbenchError
from ...formatting.text import count, some
from ...tasks import CLASSIFICATION, Target, task_named
from ..fold import PARTS, Fold
from ..names.columns import (
    FOLD_NAMES,
    LABEL_NAMES,
    PATIENT_NAMES,
    SITE_NAMES,
    SLIDE_NAMES,
    SPLIT_NAMES,
    column_key,
    first_of,
    resolve_column,
)
from ..names.id_matching import Matching, endings_note, match_ids, match_patients, near_pairs, shown_apart
from ..names.likely_patients import likely_patients
from ..names.spellings import (
    key_of_labels,
    label_key,
    merged,
    missing_names,
    path_stem,
    patient_key,
    said_of,
    toml_quoted,
    without_endings,
    without_suffix,
)
from ..text_tables import load_table, read_table, refuse_lost_digits, refuse_unreadable
from .values import EXCLUDE, Values, is_excluded, read_values, said_missing

#: columns that are none of the three, by `column_key`
_OTHER_NAMES = re.compile(
    r"|fold|fold_\d+|embeddings|origin|mpp|dataset|unnamed:_\d+|index|"
    + "|".join([*SPLIT_NAMES, *SITE_NAMES, *FOLD_NAMES])
)


class Note(NamedTuple):
    """A remark about a table that is no error.

    Attributes:
        code: of `milbench.config.audit_codes.CODES`.
        text: a sentence without its point.
        ids: the slides, patients or columns concerned.
    """

    code: str
    text: str
    ids: tuple[str, ...] = ()


@dataclass(frozen=True)
class Labels:
    """Labels as read: slides in the order of the file.

    Attributes:
        slides: the slides that take part.
        patients: slide -> patient.
        labels: slide -> class index, or what else is a target of `task`.
        classes: names of the classes, or of the strata of `task`, in the order of their indices.
        excluded: slides whose label is ``exclude``.
        excluded_patients: slide -> patient of those, for split files that name patients.
        sites: slide -> site, where ``split.site_column`` names one.
        notes: what was set aside in reading them: other spellings, titles, columns that are not used.
        task: of `milbench.tasks`.
    """

    slides: tuple[str, ...]
    patients: dict[str, str]
    labels: dict[str, Target]
    classes: tuple[str, ...]
    excluded: frozenset[str] = frozenset()
    excluded_patients: dict[str, str] = field(default_factory=dict)
    sites: dict[str, str] = field(default_factory=dict)
    notes: tuple[Note, ...] = field(default=(), compare=False)
    task: str = CLASSIFICATION

    @property
    def strata(self) -> Mapping[str, int]:
        """Return slide -> class index; of a task without classes the index of its stratum in `classes`."""
        return task_named(self.task).strata(self.labels)

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

    slide, patient, label = (first_of(header, names) for names in (SLIDE_NAMES, PATIENT_NAMES, LABEL_NAMES))
    if label is None:
        rest = [c for c in header if c not in (slide, patient) and not _OTHER_NAMES.fullmatch(column_key(c))]
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
    where = path if slide_table is None else slide_table
    if "" in rows.slides:
        raise MilbenchError(
            f"{where} has a row without {spec.slide_column} (row {rows.slides.index('') + 1}); fill it in.",
            code="table-empty-cell",
        )
    rows = _once(rows, where)
    slides = rows.slides
    excluded = frozenset(slide for slide, value in zip(slides, rows.values, strict=True) if is_excluded(value))
    columns = {spec.label_column: rows.values, rows.patient_column: rows.patients}
    if spec.split.site_column is not None:
        columns[spec.split.site_column] = rows.sites
    for column, cells in columns.items():
        pairs = [(slide, value) for slide, value in zip(slides, cells, strict=True) if slide not in excluded]
        lacking = (
            {""} if column in (spec.label_column, spec.slide_column) else missing_names(v for s, v in pairs if v != s)
        )
        if empty := [slide for slide, value in pairs if value in lacking]:
            words = said_missing({slide: value for slide, value in pairs if value in lacking})
            raise MilbenchError(
                f"{path} has no {column} for {count(len(empty), 'slide')}: {some(empty)}"
                f"{f' (written as {words})' if words else ''}; "
                f"fill it in, or give them the label "
                f"{EXCLUDE!r} to leave them out.",
                code="labels-missing-value",
            )
    cells_of = {s: value for s, value in zip(slides, rows.values, strict=True) if s not in excluded}
    values = _read_cells(cells_of, spec.label_column, str(path), spec.classes, spec.task)
    if unsaid := list(values.missing):
        raise MilbenchError(
            f"{path} has {said_missing(values.missing)} in {spec.label_column} for {count(len(unsaid), 'slide')}: "
            f"{some(unsaid)}, which is no label; give them one, or the label {EXCLUDE!r} to leave them out, or name it "
            "in classes.",
            code="labels-missing-value",
        )
    labels, classes = task_named(spec.task).read(values.classes, spec.classes, str(path))
    owner, joined = merge_patients(dict(zip(slides, rows.patients, strict=True)))
    site_of = {s: v for s, v in zip(slides, rows.sites, strict=True) if s in cells_of} if rows.sites else {}
    site, merged_sites = merge_sites(site_of)
    notes = [*rows.notes, *(Note("other-spelling", text) for text in values.notes(str(path)))]
    notes += [Note("other-spelling", text) for text in patient_notes(joined, str(path))]
    notes += [Note("other-spelling", text) for text in patient_notes(merged_sites, str(path), "site")]
    return Labels(
        slides=tuple(cells_of),
        patients={slide: owner[slide] for slide in cells_of},
        labels=labels,
        classes=classes,
        excluded=excluded,
        excluded_patients={slide: owner[slide] for slide in excluded},
        sites=site,
        notes=tuple(notes),
        task=spec.task,
    )


def _read_cells(cells: Mapping[str, str], column: str, where: str, classes: Sequence[str] | None, task: str) -> Values:
    """Return label cells by `read_values`; of a task without classes as they are, for the task to read."""
    if task_named(task).has_classes:
        return read_values(cells, column, where, classes)
    return Values(dict(cells), {})


def merge_patients(owner: Mapping[str, str]) -> tuple[dict[str, str], list[tuple[str, ...]]]:
    """Return slide -> patient with one name for every patient, and the spellings that are one; see `patient_key`.

    A slide that is a patient of its own keeps its name.
    """
    named = {slide: patient for slide, patient in owner.items() if patient and patient != slide}
    chosen, groups = merged(named.values(), patient_key)
    return {slide: chosen[patient] if slide in named else patient for slide, patient in owner.items()}, groups


def merge_sites(sites: Mapping[str, str]) -> tuple[dict[str, str], list[tuple[str, ...]]]:
    """Return slide -> site with one name for every site, and the spellings that are one; see `label_key`."""
    chosen, groups = merged(sites.values(), label_key)
    return {slide: chosen[site] for slide, site in sites.items()}, groups


def patient_notes(groups: Sequence[tuple[str, ...]], where: str, what: str = "patient") -> list[str]:
    """Return a sentence about patients, or sites, that are written in several ways, without a point."""
    if not groups:
        return []
    return [f"{count(len(groups), what)} of {where} written in several ways, each taken as one {what}: "
            f"{said_of(groups, 3)}"]  # fmt: skip


def brought_labels(
    cells: Mapping[str, str], patients: Mapping[str, str] | None, classes: Sequence[str] | None, where: str,
    task: str = CLASSIFICATION,
) -> Labels:  # fmt: skip
    """Return the labels that features bring along; a slide whose patient is not named is one of its own.

    Raises:
        MilbenchError: a label is missing, or they are no classes.
    """
    values = _read_cells(cells, "label", where, classes, task)
    if values.missing:
        raise MilbenchError(
            f"{where} brings {said_missing(values.missing) or 'no label'} as the label of "
            f"{count(len(values.missing), 'slide')}: {some(list(values.missing))}; name it in classes, or give the "
            "labels in a table of your own.",
            code="labels-missing-value",
        )
    labels, names = task_named(task).read(values.classes, classes, where)
    named = patients or {}
    none = missing_names(patient for slide, patient in named.items() if patient != slide)
    patient_of = {slide: slide if named.get(slide, slide) in none else named.get(slide, slide) for slide in cells}
    bare = [slide for slide in cells if named.get(slide, slide) != patient_of[slide]]
    owner, joined = merge_patients(patient_of)
    said = [*values.notes(where), *patient_notes(joined, where)]
    if bare:
        said.append(f"{where} names no patient of {count(len(bare), 'slide')}, each taken as one of its own: "
                    f"{some(bare)}")  # fmt: skip
    notes = tuple(Note("other-spelling", text) for text in said)
    return Labels(tuple(cells), owner, labels, names, notes=notes, task=task)


def match_labels(labels: Labels, features: Collection[str], where: str, cache: str) -> Labels:
    """Return labels under the names that the features have; see `milbench.data.names.id_matching`.

    Names that are the same text are matched first and stay what they are.

    Raises:
        MilbenchError: a cell names several slides.
    """
    every = [*labels.slides, *sorted(labels.excluded)]
    if set(every) <= set(features):
        return labels
    matching = match_ids(every, features)
    refuse_several_slides([*matching.lost, *matching.several], features, where)
    if not matching.other:
        return labels
    new = matching.get
    labels = _without_repetitions(labels, matching, where)

    def owners(given: Mapping[str, str]) -> dict[str, str]:
        return {new(slide): new(slide) if patient == slide else patient for slide, patient in given.items()}

    notes = [Note("other-spelling", text) for text in matching.lines(where, cache)]
    return replace(
        labels,
        slides=tuple(map(new, labels.slides)),
        patients=owners(labels.patients),
        labels={new(slide): value for slide, value in labels.labels.items()},
        excluded=frozenset(map(new, labels.excluded)),
        excluded_patients=owners(labels.excluded_patients),
        sites={new(slide): site for slide, site in labels.sites.items()},
        notes=(*labels.notes, *notes),
    )


def _without_repetitions(labels: Labels, matching: Matching, where: str) -> Labels:
    """Return labels with one name of every slide, where several agree.

    Raises:
        MilbenchError: two names of a slide disagree.
    """
    every = [*labels.slides, *sorted(labels.excluded)]
    owner = labels.patients | labels.excluded_patients
    owner = {slide: matching.get(slide) if patient == slide else patient for slide, patient in owner.items()}
    first: dict[str, str] = {}
    again: dict[str, str] = {}
    for slide in every:
        there = first.setdefault(matching.get(slide), slide)
        if there != slide:
            again[slide] = there
    differ = [
        (there, slide) for slide, there in again.items()
        if labels.labels.get(slide) != labels.labels.get(there) or owner.get(slide) != owner.get(there)
        or labels.sites.get(slide) != labels.sites.get(there)
    ]  # fmt: skip
    if differ:
        raise MilbenchError(
            f"{where} has {count(len(differ), 'slide')} in two rows that disagree in label, patient or site: "
            f"{' and '.join(map(repr, differ[0]))} are one; keep one row a slide.",
            code="labels-conflicting-rows",
        )
    if not again:
        return labels

    return replace(
        labels,
        slides=tuple(slide for slide in labels.slides if slide not in again),
        patients={s: patient for s, patient in labels.patients.items() if s not in again},
        labels={s: label for s, label in labels.labels.items() if s not in again},
        excluded=labels.excluded - again.keys(),
        excluded_patients={s: patient for s, patient in labels.excluded_patients.items() if s not in again},
        sites={s: site for s, site in labels.sites.items() if s not in again},
    )


def refuse_several_slides(lost: Sequence[str], features: Collection[str], where: str) -> None:
    """Refuse cells that name several slides with features, ``a.svs;b.svs``.

    Raises:
        MilbenchError: there is one.
    """
    listed = {name: parts for name in lost if len(parts := _parts_of_cell(name)) > 1}
    if not listed:
        return
    known = match_ids([part for parts in listed.values() for part in parts], features)
    several = [
        name
        for name, parts in listed.items()
        if sum(part in known.names or part in known.several for part in parts)
        > (0 if all(without_endings(part) != part for part in parts) else 1)
    ]
    if several:
        raise MilbenchError(
            f"{where} names several slides in a cell, {several[0]!r}"
            f"{f' and {len(several) - 1} more' if len(several) > 1 else ''}; give every slide a row of its own.",
            code="labels-several-values",
        )


def _parts_of_cell(name: str) -> list[str]:
    marks = r"[;|\n]" if re.search(r"[;|\n]", name) else r"," if "," in name else r"\s+"
    return [part.strip().strip("'\"[]()").strip() for part in re.split(marks, name) if part.strip()]


def _once(rows: _Rows, where: Path) -> _Rows:
    """Return rows without repetitions: those of one slide that agree in patient, label and site are one.

    Raises:
        MilbenchError: some disagree.
    """
    first, differ = _repeated(rows)
    if differ:
        raise MilbenchError(
            f"{where} has {count(len(differ), 'slide')} in two rows that disagree: {some(sorted(differ))} "
            f"({next(iter(differ.values()))}); keep one row a slide.",
            code="labels-conflicting-rows",
        )
    kept = list(first.values())
    if len(kept) == len(rows.slides):
        return rows
    again = len(rows.slides) - len(kept)
    note = Note("table-form", f"{count(again, 'row')} of {where} repeat{'s' if again == 1 else ''} what another row "
                f"says of the same slide and count{'s' if again == 1 else ''} once")  # fmt: skip
    slides, patients, values, sites = (
        [column[i] for i in kept] if column else [] for column in (rows.slides, rows.patients, rows.values, rows.sites)
    )
    return _Rows(slides, patients, values, sites, rows.patient_column, (*rows.notes, note))


def _repeated(rows: _Rows) -> tuple[dict[str, int], dict[str, str]]:
    """Return slide -> its first row, and slide -> how its rows disagree."""
    first: dict[str, int] = {}
    differ: dict[str, str] = {}
    for i, slide in enumerate(rows.slides):
        at = first.setdefault(slide, i)
        if at != i and (said := _disagreement(rows, at, i)):
            differ.setdefault(rows.slides[at], said)
    return first, differ


def repeated_slides(path: Path, spec: DataSpec, slide_table: Path | None = None) -> dict[str, str]:
    """Return slide -> how two rows of it in a label table disagree.

    Raises:
        MilbenchError: see `read_label_table`.
    """
    return _repeated(_slide_rows(path, spec) if slide_table is None else _patient_rows(path, slide_table, spec))[1]


def _disagreement(rows: _Rows, one: int, other: int) -> str:
    for what, column, key in (
        ("label", rows.values, rows.key),
        ("patient", rows.patients, patient_key),
        ("site", rows.sites, label_key),
    ):
        if column and key(column[one]) != key(column[other]):
            return f"{what} {column[one]!r} and {column[other]!r}"
    return ""


def match_features(labels: Labels, features: Collection[str], where: str, cache: str) -> None:
    """Refuse labels without features and features without label: nothing is dropped silently.

    Raises:
        MilbenchError: names up to five slides of either kind.
    """
    for _, message in unmatched(labels, features, where, cache).values():
        raise MilbenchError(f"{message}.", code="names-unmatched")


def unmatched(labels: Labels, features: Collection[str], where: str, cache: str) -> dict[str, tuple[list[str], str]]:
    """Return ``label`` -> the slides that have but a label, and ``features`` -> those that have but features.

    Args:
        labels: as read from ``where``.
        features: the slides of ``cache``.
        where, cache: the table and the features, for messages.

    Returns:
        Of the kinds that there are, the slides, sorted, and what is wrong with them, without a point.
    """
    hints = {}
    if lost := sorted(set(labels.slides) - set(features)):
        who = f"{count(len(lost), 'slide')} of {where} without features in {cache}: {some(lost)}"
        advice = _suffix_hint(lost, features) or f"add their features, or give them the label {EXCLUDE!r}"
        hints["label"] = lost, f"{who}{_resemblance(lost, labels, features)}; {advice}"
    if bare := sorted(set(features) - set(labels.slides) - labels.excluded):
        who = f"{count(len(bare), 'slide')} of {cache} without label in {where}: {some(bare)}"
        hints["features"] = bare, f"{who}; add rows for them, with the label {EXCLUDE!r} for those to leave out"
    return hints


def _resemblance(lost: Sequence[str], labels: Labels, features: Collection[str]) -> str:
    """Say which names of features resemble those that lack features, "" where none does."""
    matching = match_ids([*labels.slides, *labels.excluded], features)
    if candidates := matching.ambiguous():
        return f" ({candidates})"
    free = sorted(set(features) - set(matching.names.values()))
    pairs = near_pairs(lost, free, 3)
    return f" (perhaps {', '.join(' is '.join(shown_apart(*pair)) for pair in pairs)})" if pairs else ""


def write_labels(folder: Path, labels: Labels, folds: Sequence[Fold]) -> dict[str, bytes]:
    """Write labels.csv (slide_id, patient_id, label index), classes.json and folds/NAME.csv (slide_id, split).

    Targets that are no class indices stand in the columns of their task (`milbench.tasks.Task.target_columns`).

    Returns:
        Name relative to the folder -> content of every file, for `milbench.atomic_io.manifest.write_manifest`.

    Raises:
        MilbenchError: a fold's name cannot be that of a file.
    """
    task = task_named(labels.task)
    rows = [(slide, labels.patients[slide], *task.cells(labels.labels[slide])) for slide in labels.slides]
    table = pd.DataFrame(rows, columns=["slide_id", "patient_id", *task.target_columns])
    files = {
        "labels.csv": table.to_csv(index=False, lineterminator="\n"),
        "classes.json": json.dumps(list(labels.classes), ensure_ascii=False) + "\n",
    }
    for fold in folds:
        parts = pd.DataFrame([(s, part) for part in PARTS for s in fold.parts[part]], columns=["slide_id", "split"])
        name = child(Path("folds"), fold.name, ".csv", "fold").as_posix()
        if name in files:
            raise MilbenchError(
                f"two folds are named {fold.name!r}; give every fold a name of its own.", code="name-taken"
            )
        files[name] = parts.to_csv(index=False, lineterminator="\n")
    return write_files(folder, files)


def read_labels(folder: str | Path, task: str = CLASSIFICATION) -> pd.DataFrame:
    """Read the labels.csv that `write_labels` wrote: slide_id and patient_id as text, label as class index.

    Args:
        folder: of the cohort.
        task: what its targets are; of another task than classification they stand in the columns of that task.

    Raises:
        MilbenchError: there is none, it was changed after it was written, or it has other columns.
    """
    path = Path(folder) / "labels.csv"
    read_listed(Path(folder), path.name, "write it again")
    header, rows = read_table(path)
    dtypes = task_named(task).target_columns
    if header != ["slide_id", "patient_id", *dtypes]:
        raise MilbenchError(
            f"{path} has columns {some(header)} instead of slide_id, patient_id, {', '.join(dtypes)}; write it again.",
            code="cohort-damaged",
        )
    table = pd.DataFrame(rows, columns=header, dtype="str")
    try:
        return table.astype(dtypes)
    except ValueError:
        kind = "class indices" if task == CLASSIFICATION else f"targets of task {task}"
        raise MilbenchError(f"{path} has labels that are no {kind}; write it again.", code="cohort-damaged") from None


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
        raise MilbenchError(
            f"{path} is damaged ({first_line(error)}); write it again.", code="cohort-damaged"
        ) from None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise MilbenchError(f"{path} is no list of class names; write it again.", code="cohort-damaged")
    return tuple(names)


@dataclass(frozen=True)
class _Rows:
    """Columns of a label table, one entry a slide; ``sites`` is empty where none are requested."""

    slides: list[str]
    patients: list[str]
    values: list[str]
    sites: list[str]
    patient_column: str
    notes: tuple[Note, ...] = ()

    @cached_property
    def key(self) -> Callable[[str], str]:
        """What spellings of one class have in common."""
        return key_of_labels(self.values)


def _slide_rows(path: Path, spec: DataSpec) -> _Rows:
    table = load_table(path)
    header, rows = table.header, table.rows
    hint = ""
    if "slide_column" not in spec.model_fields_set and (guessed := guess_columns(header)).patient and not guessed.slide:
        hint = ", or give slide_table if its rows are patients"
    cells = _cells(path, header, rows, {"slide_column": spec.slide_column, "label_column": spec.label_column}, hint)
    refuse_lost_digits(path, spec.slide_column, cells["slide_column"])
    slides = [slide_name(cell, spec) for cell in cells["slide_column"]]
    owners = {"patient_column": _patient_column(path, header, spec, slides)}
    owners |= {} if spec.split.site_column is None else {"split.site_column": spec.split.site_column}
    cells |= _cells(path, header, rows, owners)
    refuse_lost_digits(path, owners["patient_column"], cells["patient_column"])
    sites = cells.get("split.site_column", [])
    used = [spec.slide_column, spec.label_column, owners["patient_column"], *filter(None, [spec.split.site_column])]
    idle = unused_columns(header, used, taken_as_split=spec.split.files is not None)
    notes = [Note("table-form", text) for text in table.notes]
    ended = endings_note(cells["slide_column"], spec.slide_suffix, str(path))
    notes += [Note("other-spelling", text) for text in ended]
    notes += [Note("unused-column", unused_note(idle, str(path)), tuple(idle))] if idle else []
    return _Rows(slides, cells["patient_column"], cells["label_column"], sites, owners["patient_column"], tuple(notes))


def unused_columns(header: Sequence[str], used: Sequence[str], taken_as_split: bool = False) -> list[str]:
    """Return the columns of patients and splits that a label table has and that are not used."""
    mine = {resolve_column(header, name) for name in used}
    names = [*PATIENT_NAMES, *([] if taken_as_split else [*SPLIT_NAMES, *FOLD_NAMES])]
    return [
        column for column in header
        if column not in mine
        and (column_key(column) in names or (not taken_as_split and re.fullmatch(r"fold_\d+", column_key(column))))
    ]  # fmt: skip


def unused_note(columns: Sequence[str], where: str) -> str:
    """Return a sentence about columns that are not used, without a point."""
    return f"{where} has {'a column' if len(columns) == 1 else 'columns'} {some(list(columns), 8)}, which " \
           f"{'is' if len(columns) == 1 else 'are'} not used"  # fmt: skip


def _patient_rows(path: Path, slide_table: Path, spec: DataSpec) -> _Rows:
    """Read a table of patients and one of their slides, and give every slide what its patient has."""
    table = load_table(path)
    names = {"patient_column": spec.patient_column, "label_column": spec.label_column}
    names |= {} if spec.split.site_column is None else {"split.site_column": spec.split.site_column}
    cells = _cells(path, table.header, table.rows, names)
    refuse_lost_digits(path, spec.patient_column, cells["patient_column"])
    second = load_table(slide_table)
    names = {"patient_column": spec.patient_column, "slide_column": spec.slide_column}
    listed = _cells(slide_table, second.header, second.rows, names)
    for key, column in names.items():
        refuse_lost_digits(slide_table, column, listed[key])
    columns = [cells["label_column"], cells.get("split.site_column", [])]
    row_of, differ = rows_of_patients(cells["patient_column"], columns)
    if differ:
        raise MilbenchError(
            f"{path} has {count(len(differ), 'patient')} in two rows that disagree: {some(sorted(differ))}; with "
            "slide_table, keep one row a patient.",
            code="labels-conflicting-rows",
        )
    matching = match_patients(listed["patient_column"], row_of)
    bare = sorted(set(listed["patient_column"]) - set(matching.names))
    if bare:
        none = "" if matching.names else _no_patient_shared(listed["patient_column"], row_of)
        raise MilbenchError(
            f"{count(len(bare), 'patient')} of {slide_table} without a row in {path}: {some(bare)}{none}; add rows for "
            f"them, with the label {EXCLUDE!r} for those to leave out.",
            code="names-unmatched",
        )
    there = set(matching.names.values())
    lost = sorted(p for p, i in row_of.items() if p not in there and not is_excluded(cells["label_column"][i]))
    if lost:
        raise MilbenchError(
            f"{count(len(lost), 'patient')} of {path} without slides in {slide_table}: {some(lost)}; add their slides, "
            f"or give them the label {EXCLUDE!r}.",
            code="names-unmatched",
        )
    at = [row_of[matching.get(patient)] for patient in listed["patient_column"]]
    slides = [slide_name(cell, spec).removesuffix(".h5") for cell in listed["slide_column"]]
    values = [cells["label_column"][i] for i in at]
    sites = [cells["split.site_column"][i] for i in at] if spec.split.site_column is not None else []
    notes = tuple(Note("table-form", text) for text in (*table.notes, *second.notes))
    said = endings_note(listed["slide_column"], spec.slide_suffix, str(slide_table))  # .h5 is part of STAMP's FILENAME
    said += matching.lines(str(slide_table), str(path))
    notes += tuple(Note("other-spelling", text) for text in said)
    return _Rows(slides, listed["patient_column"], values, sites, spec.patient_column, notes)


def rows_of_patients(patients: Sequence[str], columns: Sequence[Sequence[str]]) -> tuple[dict[str, int], list[str]]:
    """Return patient -> its row, and the patients of which two rows disagree in one of the columns."""
    first: dict[str, int] = {}
    differ = []
    keyed = [list(map(key_of_labels(column), column)) for column in columns]
    for i, patient in enumerate(patients):
        at = first.setdefault(patient, i)
        if at != i and any(column and column[at] != column[i] for column in keyed):
            differ.append(patient)
    return first, list(dict.fromkeys(differ))


def _no_patient_shared(mine: Sequence[str], theirs: Collection[str]) -> str:
    other = next(iter(theirs), None)
    return "" if other is None else f" (the two tables share no patient: {mine[0]!r} here, {other!r} there)"


def _cells(
    path: Path, header: list[str], rows: list[list[str]], names: Mapping[str, str], hint: str = ""
) -> dict[str, list[str]]:
    """Return the columns a spec names, by the spec's field."""
    columns = {}
    for key, name in names.items():
        column = resolve_column(header, name)
        if column is None and key == "split.site_column" and "made_from" in header:
            raise MilbenchError(
                f"{path} has no column {name!r}, as init wrote it without; give the same init command with "
                f"--site-column {name} --force, which keeps that column, and make your changes of the suite again.",
                code="table-missing-column",
            )
        if column is None:
            raise MilbenchError(
                f"{path} has no column {name!r}, its columns are {some(header, 20)}; set {key} to one of them{hint}.",
                code="table-missing-column",
            )
        if header.count(column) > 1:
            raise MilbenchError(
                f"{path} has {header.count(column)} columns named {column!r}; keep one.", code="table-duplicate-column"
            )
        columns[key] = column
    if not rows:
        raise MilbenchError(f"{path} has no rows below its header; give one row a slide.", code="table-empty")
    refuse_unreadable(path, (header, rows), columns.values())
    return {key: [row[header.index(column)] for row in rows] for key, column in columns.items()}


def slide_name(cell: str, spec: DataSpec) -> str:
    """Return the slide id of a cell of the slide column: of a path its stem, without the endings to strip."""
    return without_suffix(path_stem(cell) if spec.slide_column.endswith("_path") else cell, spec.slide_suffix)


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


def _patient_column(path: Path, header: list[str], spec: DataSpec, slides: Sequence[str]) -> str:
    if resolve_column(header, spec.patient_column) is not None:
        return spec.patient_column
    if "patient_column" in spec.model_fields_set:
        raise MilbenchError(
            f"{path} has no column {spec.patient_column!r}, its columns are {some(header, 20)}; "
            f"set patient_column to one of them.",
            code="table-missing-column",
        )
    likely = likely_patients(slides)
    alone = f"{toml_quoted(spec.slide_column)} if every slide is a patient of its own"
    if likely is not None:
        alone = f"{toml_quoted(spec.slide_column)} with patient_rule = {toml_quoted(likely.rule)}, as {likely.said}"
    alias = next((name for name in header if column_key(name) in PATIENT_NAMES and name != spec.slide_column), None)
    if alias is not None:
        # Taking every slide for a patient of its own here could put one patient on both sides of a split.
        raise MilbenchError(
            f"{path} has no column {spec.patient_column!r} but has {alias!r}; set patient_column = "
            f"{toml_quoted(alias)}, or to {alone}.",
            code="table-missing-column",
        )
    raise MilbenchError(
        f"{path} has no column {spec.patient_column!r}, its columns are {some(header, 20)}; add it, as folds are by "
        f"patient, or set patient_column = {alone}.",
        code="table-missing-column",
    )
