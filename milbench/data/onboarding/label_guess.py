"""Label tables as people have them, before any requirement is checked: which column is which, and what each slide has.

`milbench.data.labels.table` reads tables that must be whole. This module counts missing entries, so that they can be
shown.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from ...config import DataSpec
from ...errors import MilbenchError
from ...formatting.text import count, some
from ..audit.patients import guessed_patients
from ..labels.table import (
    Columns,
    guess_columns,
    refuse_several_slides,
    rows_of_patients,
    slide_name,
    unused_columns,
    unused_note,
)
from ..labels.values import is_excluded, plain_label
from ..names.columns import column_key, is_index, known_names, resolve_column
from ..names.id_matching import endings_note, match_ids, match_patients
from ..names.likely_patients import likely_patients
from ..names.spellings import (
    clean,
    is_missing,
    key_of_labels,
    label_key,
    patient_key,
    shell_quoted,
    without_endings,
    without_suffix,
)
from ..splits.files import is_split, read_task_config, split_column
from ..text_tables import Table, load_table, refuse_lost_digits, refuse_unreadable

#: more endings than this are not those of scanners
_MOST_ENDINGS = 8


@dataclass(frozen=True)
class Tables:
    """Where labels are; None: there is none, or it is to be recognised.

    Attributes:
        labels: one row a slide, or a patient where there is a `slides` table.
        slides: slides and their patients.
        slide, patient, label, site: columns.
        split: the column that says train, val or test.
        patient_rule: what finds the patient in the name of a slide, see `milbench.data.audit.patients.apply_rule`.
        keep: labels that are classes though they resemble missing values.
        exclude: labels whose slides take no part.
        patients_needed: refuse a table whose patients are not recognised; False: each slide is then one of its own.
    """

    labels: Path
    slides: Path | None = None
    slide: str | None = None
    patient: str | None = None
    label: str | None = None
    site: str | None = None
    split: str | None = None
    patient_rule: str | None = None
    keep: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    patients_needed: bool = True

    @property
    def files(self) -> list[Path]:
        """The files."""
        return [self.labels, *([] if self.slides is None else [self.slides])]


class Row(NamedTuple):
    """A slide of the tables; "" where a cell is empty."""

    slide: str
    patient: str
    label: str
    site: str


@dataclass(frozen=True)
class LabelRows:
    """The rows and columns of label tables.

    Attributes:
        rows: one a slide, in the order of the file; ids without `suffixes`, and where they match features as these have
            them.
        slide, patient, label: the columns.
        suffixes: endings that ids have and features do not.
        patients_without_slides: patients of the label table whom the table of slides does not name.
        readable: whether `milbench.data.labels.table.read_label_table` and `match_labels` read the same, given the
            columns and endings.
        published: whether the label table says which slides train and test.
        split: the column that says so, where it has no name that `read_split` knows by itself.
        several: id -> features or other ids that it may stand for; it is matched with none.
        notes: sentences about what was set aside, without a point.
    """

    rows: tuple[Row, ...]
    slide: str
    patient: str
    label: str
    suffixes: tuple[str, ...]
    patients_without_slides: tuple[str, ...] = ()
    readable: bool = True
    published: bool = False
    split: str | None = None
    several: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def read_label_rows(tables: Tables, features: Collection[str]) -> LabelRows:
    """Read label tables, and recognise what is not said of them.

    Args:
        tables: the files, and columns as far as they are named.
        features: slides that have features: they tell the column of ids and their endings.

    Raises:
        MilbenchError: a table cannot be read or seems to have no header, a column cannot be recognised, or two rows
            of a slide or patient disagree.
    """
    table = _read(tables.labels)
    header, rows = table.header, table.rows
    _refuse_headerless(tables.labels, header, features)
    guess = guess_columns(header)
    label = _label_column(tables, header, guess)
    sites = None if tables.site is None else _named(tables.labels, header, tables.site, "site")
    if tables.slides is not None:
        return _pair(tables, table, label, sites, features)
    slide = _slide_column(tables.labels, header, rows, tables.slide, guess, features, label, tables.patients_needed)
    if slide is None:
        return _of_patients(tables, table, label, sites, features)
    refuse_unreadable(tables.labels, (header, rows), [slide, label, *filter(None, [sites])])
    cells = [row[header.index(slide)] for row in rows]
    refuse_lost_digits(tables.labels, slide, cells)
    ids, suffixes = _ids(cells, slide, features)
    plain = ids
    matching = match_ids(ids, features)
    refuse_several_slides([*matching.lost, *matching.several], features, str(tables.labels))
    ids = [matching.get(name) for name in ids]
    whose = _patients_among(matching.lost, plain, features, set(matching.names.values()))
    own = [name for name, text in zip(ids, plain, strict=True) if text not in whose]
    patient = _patient_column(tables, header, tables.patient, guess, slide, own)
    refuse_unreadable(tables.labels, (header, rows), [patient])
    refuse_lost_digits(tables.labels, patient, [row[header.index(patient)] for row in rows])
    # A slide that is a patient of its own goes by its id, with nothing that was taken off.
    columns = [ids if patient == slide else [row[header.index(patient)] for row in rows]]
    columns += [[row[header.index(label)] for row in rows]]
    places = [row[header.index(sites)] for row in rows] if sites is not None else [""] * len(rows)
    parsed_rows = [Row(*cells) for cells in zip(ids, *columns, places, strict=True)]
    parsed_rows = [row for row, name in zip(parsed_rows, plain, strict=True) if name not in whose]
    _refuse_merged(tables.labels, parsed_rows, patient != slide)
    kept, again = _once(tables.labels, "slide", parsed_rows)
    split = _split_column(tables, header, rows)
    published = (
        split is not None
        or any(re.fullmatch(r"fold_\d+", name) for name in header)
        or ("split" in header and bool({"slide_id", "bag_name", "wsi_id"} & set(header)))
    )
    notes = [*table.notes, *again, *endings_note(cells, suffixes, tables.labels.name),
             *matching.lines(tables.labels.name, "the features")]  # fmt: skip
    if whose:
        names = list(dict.fromkeys(name for name in plain if name in whose))
        notes.append(f"{count(len(names), 'row')} of {tables.labels.name} named after patients, not slides, and not "
                     f"used: {some(names)}")  # fmt: skip
    used = [slide, patient, label, *filter(None, [sites, split])]
    taken = published or split is not None
    if idle := [*unused_columns(header, used, taken), *_index_and_sites(header, used)]:
        notes.append(unused_note(idle, tables.labels.name))
    readable = (patient != slide or cells == plain) and not whose
    named = split if split is not None and split_column(header, rows) != split else None
    return LabelRows(tuple(kept), slide, patient, label, suffixes, readable=readable, published=published,
                     split=named, several=matching.several, notes=tuple(notes))  # fmt: skip


def check_columns(tables: Tables) -> None:
    """Refuse columns that the tables do not have, all of them at once, before features are read.

    Raises:
        MilbenchError: a table cannot be read, or a column that is named is not there.
    """
    header = _read(tables.labels).header
    known = list(header) if tables.slides is None else [*header, *_read(tables.slides).header]
    named = {"slide": tables.slide, "patient": tables.patient, "label": tables.label, "site": tables.site}
    lost = {
        what: name for what, name in named.items()
        if name is not None and all(resolve_column(one, name) is None for one in (header, known))
    }  # fmt: skip
    if lost:
        where = str(tables.labels) if tables.slides is None else f"{tables.labels} or {tables.slides}"
        columns = "column" if len(lost) == 1 else "columns"
        raise MilbenchError(
            f"{where} has no {columns} {', '.join(map(repr, lost.values()))}, its columns are "
            f"{some(sorted(set(known)), 20)}; give another {', '.join(f'--{what}-column' for what in lost)}.",
            code="table-missing-column",
        )


def unknown(label: str) -> bool:
    """Whether a cell is how tools write that a label is not known."""
    return is_missing(label)


def _pair(tables: Tables, table: Table, label: str, sites: str | None, features: Collection[str]) -> LabelRows:
    """Give every slide of the table of slides what its patient has in the other one."""
    assert tables.slides is not None
    header, rows = table.header, table.rows
    second = _read(tables.slides)
    slide_header, slide_rows = second.header, second.rows
    guess = guess_columns(slide_header)
    slide = _slide_column(tables.slides, slide_header, slide_rows, tables.slide, guess, features)
    assert slide is not None
    mine = _patient_column(tables, header, tables.patient, guess_columns(header))
    theirs = guess.patient if tables.patient is None else resolve_column(slide_header, tables.patient) or guess.patient
    theirs = _patient_column(tables, slide_header, theirs, guess, path=tables.slides)
    refuse_unreadable(tables.labels, (header, rows), [mine, label, *filter(None, [sites])])
    refuse_unreadable(tables.slides, (slide_header, slide_rows), [slide, theirs])
    patients = [row[header.index(mine)] for row in rows]
    refuse_lost_digits(tables.labels, mine, patients)
    for name in (slide, theirs):
        refuse_lost_digits(tables.slides, name, [row[slide_header.index(name)] for row in slide_rows])
    columns = [[row[header.index(name)] for row in rows] for name in (label, sites) if name is not None]
    row_of, differ = rows_of_patients(patients, columns)
    if differ:
        raise MilbenchError(
            f"{tables.labels} has {count(len(differ), 'patient')} in two rows that disagree: {some(sorted(differ))}; "
            "keep one row a patient.",
            code="labels-conflicting-rows",
        )
    at, whose = slide_header.index(slide), slide_header.index(theirs)
    listed = [row for row in slide_rows if row[at]]
    matching = match_patients([row[whose] for row in slide_rows], row_of)
    owners = [row[whose] for row in listed]
    cells = [row[at] for row in listed]
    ids, suffixes = _ids(cells, slide, features, ".h5")
    ids_matched = match_ids(ids, features)
    refuse_several_slides([*ids_matched.lost, *ids_matched.several], features, str(tables.slides))

    def cell(patient: str, name: str | None) -> str:
        row = row_of.get(matching.get(patient))
        return rows[row][header.index(name)] if name is not None and row is not None else ""

    made = [
        Row(ids_matched.get(i), owner, cell(owner, label), cell(owner, sites))
        for i, owner in zip(ids, owners, strict=True)
    ]
    kept, again = _once(tables.slides, "slide", made)
    required = {
        patient for patient in patients if patient and not is_excluded(rows[row_of[patient]][header.index(label)])
    }
    there = {matching.get(owner) for owner in owners}
    patients_without_slides = tuple(sorted(required - there))
    if not matching.names and row_of:
        raise MilbenchError(
            f"{tables.labels} and {tables.slides} share no patient: {next(iter(row_of))!r} in the first, "
            f"{slide_rows[0][whose]!r} in the second; give another --patient-column, or tables of the same patients.",
            code="names-unmatched",
        )
    endings = endings_note(cells, suffixes, tables.slides.name)
    notes = [*table.notes, *second.notes, *again, *endings, *matching.lines(tables.slides.name, tables.labels.name),
             *ids_matched.lines(tables.slides.name, "the features")]  # fmt: skip
    if empty := len(slide_rows) - len(listed):
        bare = sorted({row[whose] for row in slide_rows if not row[at]})
        notes.append(f"{count(empty, 'row')} of {tables.slides.name} without a slide, of patients {some(bare)}")
    if idle := unused_columns(header, [mine, label, *filter(None, [sites])]):
        notes.append(unused_note(idle, tables.labels.name))
    readable = mine == theirs and len(listed) == len(slide_rows)
    return LabelRows(tuple(kept), slide, mine, label, suffixes, patients_without_slides, readable,
                     several=ids_matched.several, notes=tuple(notes))  # fmt: skip


def _of_patients(tables: Tables, table: Table, label: str, sites: str | None, features: Collection[str]) -> LabelRows:
    """Give the label of a patient to the slides whose names begin with the patient's, as TCGA's barcodes do."""
    header, rows = table.header, table.rows
    guess = guess_columns(header)
    patient = tables.patient if tables.patient is None else _named(tables.labels, header, tables.patient, "patient")
    patient = patient or guess.patient
    assert patient is not None
    refuse_unreadable(tables.labels, (header, rows), [patient, label, *filter(None, [sites])])
    patients = [row[header.index(patient)] for row in rows]
    refuse_lost_digits(tables.labels, patient, patients)
    columns = [[row[header.index(name)] for row in rows] for name in (label, sites) if name is not None]
    row_of, differ = rows_of_patients(patients, columns)
    if differ:
        raise MilbenchError(
            f"{tables.labels} has {count(len(differ), 'patient')} in two rows that disagree: {some(sorted(differ))}; "
            "keep one row a patient.",
            code="labels-conflicting-rows",
        )
    owner = _owners(row_of, features)

    def cell(name: str, column: str | None) -> str:
        return rows[row_of[name]][header.index(column)] if column is not None else ""

    guessed_rows = tuple(
        Row(slide, name, cell(name, label), cell(name, sites)) for slide, name in sorted(owner.items())
    )
    there = set(owner.values())
    patients_without_slides = tuple(
        sorted(p for p in row_of if p and p not in there and not is_excluded(cell(p, label)))
    )
    slide, name = next(iter(sorted(owner.items())))
    notes = [
        *table.notes,
        f"rows of {tables.labels.name} are patients: labels of {count(len(there), 'patient')} go to the "
        f"{count(len(owner), 'slide')} whose names begin with theirs, such as {slide!r} of {name!r}",
    ]
    return LabelRows(guessed_rows, patient, patient, label, (), patients_without_slides, False, notes=tuple(notes))


def _owners(patients: Collection[str], features: Collection[str]) -> dict[str, str]:
    """Return slide -> the patient whose name its own begins with, up to a mark; the longest such name."""
    by_key: dict[str, list[str]] = {}
    for patient in patients:
        if patient:
            by_key.setdefault(without_endings(clean(patient)).casefold(), []).append(patient)
    owners = {}
    for slide in features:
        name = clean(slide).replace("\\", "/").rpartition("/")[2].casefold()
        ends = [at for at in range(len(name), 0, -1) if at == len(name) or not name[at].isalnum()]
        owner = next((by_key[name[:at]] for at in ends if name[:at] in by_key), [])
        if len(owner) == 1:
            owners[slide] = owner[0]
    return owners


def _patients_among(
    lost: Sequence[str], names: Sequence[str], features: Collection[str], matched: Collection[str]
) -> set[str]:
    """Return the names that are patients of slides which have rows of their own: patient_000.zip (CAMELYON17)."""
    if not lost:
        return set()
    owner = _owners(lost, features)
    slides: dict[str, list[str]] = {}
    for slide, patient in owner.items():
        slides.setdefault(patient, []).append(slide)
    return {name for name, own in slides.items() if all(slide in matched for slide in own)} & set(names)


def _read(path: Path) -> Table:
    table = load_table(path)
    if not table.rows:
        raise MilbenchError(f"{path} has no rows below its header; give one row a slide.", code="table-empty")
    if twice := [name for name, times in Counter(table.header).items() if name and times > 1]:
        raise MilbenchError(f"{path} has two columns named {some(twice)}; keep one.", code="table-duplicate-column")
    return table


def _refuse_headerless(path: Path, header: Sequence[str], features: Collection[str]) -> None:
    """Refuse a table whose first line is data, as its cells are names of features."""
    if known_names(header) > 1:
        return
    names = match_ids([cell for cell in header if cell and not known_names([cell])], features).names
    if names:
        cell = next(iter(names))
        raise MilbenchError(
            f"{path} seems to have no header: its first line holds {cell!r}, which is a slide of the features; write a "
            "line that names the columns above it, such as slide_id,label.",
            code="table-no-header",
        )


def _refuse_merged(path: Path, rows: Sequence[Row], with_patients: bool) -> None:
    """Refuse a table in which every gap in a row is in label and patient: merged cells that were saved as text."""
    bare = [row.slide for row in rows if with_patients and not row.patient and not row.label]
    if len(bare) > 1 and 10 * len(bare) > len(rows):
        raise MilbenchError(
            f"{path} has neither patient nor label for {count(len(bare), 'slide')}: {some(bare)}; these seem to be "
            "merged cells of a spreadsheet, which hold in their first row alone once they are saved as text: fill them "
            "in, or give the .xlsx file.",
            code="table-empty-cell",
        )
    bare = [row.slide for row in rows if with_patients and row.patient and not row.label]
    below = [
        row.slide for above, row in itertools.pairwise(rows)
        if row.patient and row.patient == above.patient and not row.label
    ]  # fmt: skip
    if len(bare) > 1 and bare == below and 10 * len(bare) > len(rows):
        raise MilbenchError(
            f"{path} has no label for {count(len(bare), 'slide')}, each below a row of its patient: {some(bare)}; "
            "these seem to be merged cells of a spreadsheet, which hold in their first row alone once they are saved "
            "as text: fill them in, or give the .xlsx file.",
            code="table-empty-cell",
        )


def _named(path: Path, header: Sequence[str], name: str, what: str) -> str:
    resolved = resolve_column(header, name)
    if resolved is None:
        raise MilbenchError(
            f"{path} has no column {name!r}, its columns are {some(list(header), 20)}; give another --{what}-column.",
            code="table-missing-column",
        )
    return resolved


def _label_column(tables: Tables, header: list[str], guess: Columns) -> str:
    if tables.label is not None:
        return _named(tables.labels, header, tables.label, "label")
    config = tables.labels.with_name("config.yaml")
    if guess.label is None and any(re.fullmatch(r"fold_\d+", name) for name in header) and config.is_file():
        task = read_task_config(config).task_col  # Patho-Bench
        if task in header:
            return str(task)
    if guess.label is None:
        raise MilbenchError(
            f"{tables.labels} has columns {some(header, 20)}, and none of them is known to hold labels; name it with "
            "--label-column.",
            code="table-column-unclear",
        )
    return guess.label


def _split_column(tables: Tables, header: list[str], rows: list[list[str]]) -> str | None:
    """Return the column that says train, val or test: the one that is named, else one of a usual name.

    Raises:
        MilbenchError: the one that is named is not there, or says something else.
    """
    if tables.split is None or resolve_column(header, tables.split) is None:
        return split_column(header, rows)
    column = _named(tables.labels, header, tables.split, "split")
    cells = [row[header.index(column)] for row in rows]
    refuse_unreadable(tables.labels, (header, rows), [column])
    if not is_split(cells):
        raise MilbenchError(
            f"{tables.labels} has {some(sorted(set(cells)))} in column {column!r}; a split says train, val or test.",
            code="split-unknown-part",
        )
    return column


def _index_and_sites(header: Sequence[str], used: Sequence[str]) -> list[str]:
    """Return the columns of running numbers that have a name, and those of sites, which are not used."""
    sites = ("site", "site_id", "center", "centre", "hospital", "institution", "source_site", "data_provider")
    return [c for c in header if c and c not in used and (is_index(c) or column_key(c) in sites)]


def _slide_column(
    path: Path,
    header: list[str],
    rows: list[list[str]],
    requested: str | None,
    guess: Columns,
    features: Collection[str],
    label: str | None = None,
    two_tables: bool = True,
) -> str | None:
    """Return the column of slide ids: by its name, or the one that holds the most names of features.

    Args:
        label: the column of labels; None: the table is one of slides and patients alone.
        two_tables: whether the command takes a table of slides and their patients as well.

    Returns:
        None: no column holds any, and rows are patients with whose names those of features begin.
    """
    if requested is not None:
        return _named(path, header, requested, "slide")
    known = set(features)
    pair = label is None

    def hits(column: str) -> int:
        """Count 2 for a name of features, 1 for another spelling of one, which most cells of the column must be."""
        at = header.index(column)
        ids, _ = _ids([row[at] for row in rows if row[at]], column, known, ".h5" if pair else "")
        matching = match_ids(ids, known)
        loose = len(matching.other) + len(matching.several)
        exact = len(matching.names) - len(matching.other)
        return 2 * exact + loose if exact or 2 * loose >= len(set(ids)) else 0

    matched = {column: hits(column) for column in header if column != label}
    most = max(matched.values(), default=0)
    if guess.slide is not None and 2 * matched.get(guess.slide, 0) > most:
        return guess.slide
    best = [column for column, number in matched.items() if most and number == most]
    if best:
        return next((column for column in best if not is_index(column)), best[0])
    patient = guess.patient
    if not pair and patient is not None and _owners({row[header.index(patient)] for row in rows}, features):
        return None
    if guess.slide is not None:
        return guess.slide
    advice = "name the column of slides with --slide-column"
    if guess.patient is not None and not pair and two_tables:
        advice += ", or give the table of slides and their patients with --slide-table if its rows are patients"
    raise MilbenchError(
        f"{path} has columns {some(header, 20)}, and none of them holds names of features; {advice}.",
        code="table-column-unclear",
    )


def _patient_column(tables: Tables, header: list[str], requested: str | None, guess: Columns, slide: str | None = None,
                    ids: Sequence[str] = (), path: Path | None = None) -> str:  # fmt: skip
    """Return the column of patients; that of the slides where their names tell the patients."""
    path = tables.labels if path is None else path
    if requested is not None:
        return _named(path, header, requested, "patient")
    if tables.patient_rule is not None and slide is not None:
        return slide
    if guess.patient is not None and guess.patient != slide:
        return guess.patient
    if slide is not None and len(guessed_patients({name: name for name in ids})) == len(ids):
        return slide
    if slide is not None and not tables.patients_needed:
        return slide
    # Taking every slide for a patient of its own could put one patient on both sides of a split.
    alone = (
        f", or --patient-column {shell_quoted(slide)} if every slide is a patient of its own"
        if slide is not None
        else ""
    )
    if (likely := likely_patients(ids)) is not None:
        rule = (
            f"--patient-rule {shell_quoted(likely.rule)} if so"
            if likely.whole
            else "a column of patients is needed if so"
        )
        alone = f"; {likely.said}: {rule}"
    raise MilbenchError(
        f"{path} has columns {some(header, 20)}, and none of them is known to hold patients; name it with "
        f"--patient-column{alone}.",
        code="table-column-unclear",
    )


def _ids(
    cells: Sequence[str], column: str, features: Collection[str], ending: str = ""
) -> tuple[list[str], tuple[str, ...]]:
    """Return the slide ids of a column's cells, and the endings that were taken off."""
    spec = DataSpec(name="any", cache="any", slide_column=column)
    names = [slide_name(cell, spec) for cell in cells]
    suffixes = tuple(suffix for suffix in _suffixes(names, set(features)) if suffix != ending)
    spec = spec.model_copy(update={"slide_suffix": suffixes})
    return [slide_name(cell, spec).removesuffix(ending) for cell in cells], suffixes


def _suffixes(ids: Sequence[str], features: Collection[str]) -> tuple[str, ...]:
    """Return endings of files without which ids are names of features, the longest first."""
    suffixes: Counter[str] = Counter()
    for name in ids:
        heads = [name[:at] for at, mark in enumerate(name) if mark == "."] if name not in features else []
        if head := max((head for head in heads if head in features), key=len, default=""):
            suffixes[name[len(head) :]] += 1
    endings = tuple(sorted((e for e in suffixes if re.fullmatch(r"(\.[A-Za-z]\w*)+", e)), key=lambda e: (-len(e), e)))
    if len(endings) > _MOST_ENDINGS:  # they are UUIDs or the like, which `match_ids` sets aside
        return ()
    shortened = [without_suffix(name, endings) for name in ids]
    harmless = len(set(shortened)) == len(set(ids)) and all(c == name for c, name in zip(shortened, ids, strict=True)
                                                      if name in features)  # fmt: skip
    return endings if harmless else ()


def _once(path: Path, what: str, rows: Sequence[Row]) -> tuple[list[Row], list[str]]:
    """Return rows without repetitions, and a sentence about them: rows of one slide that agree are one.

    Raises:
        MilbenchError: some disagree, or a row names no slide.
    """
    names = [row.slide for row in rows]
    if "" in names:
        raise MilbenchError(
            f"{path} has a row without a {what} (row {names.index('') + 1}); fill it in.", code="table-empty-cell"
        )
    first: dict[str, Row] = {}
    differ: dict[str, str] = {}
    of_labels = key_of_labels([row.label for row in rows])
    for row in rows:
        there = first.setdefault(row.slide, row)
        for part, key in (("label", of_labels), ("patient", patient_key), ("site", label_key)):
            one, other = getattr(there, part), getattr(row, part)
            if key(plain_label(one)) != key(plain_label(other)) and not (part == "patient" and one == there.slide):
                differ.setdefault(there.slide, f"{part} {one!r} and {other!r}")
    if differ:
        raise MilbenchError(
            f"{path} has {count(len(differ), what)} in two rows that disagree: {some(sorted(differ))} "
            f"({next(iter(differ.values()))}); keep one row a {what}.",
            code="labels-conflicting-rows",
        )
    again = len(rows) - len(first)
    ends = "s" if again == 1 else ""
    said = f"{count(again, 'row')} of {path.name} that repeat{ends} another row of the same {what} count{ends} once"
    return list(first.values()), [said] if again else []


def table_of(rows: Sequence[Row], why: Mapping[str, str], site: str | None) -> list[tuple[str, ...]]:
    """Return a label table, header first, as text; a last column says why a slide is left out."""
    header = ("slide_id", "patient_id", "label", *([site] if site is not None else []), "left_out_because")
    return [header, *((row.slide, row.patient, row.label, *([row.site] if site is not None else []),
                       why.get(row.slide, "")) for row in rows)]  # fmt: skip
