"""Label tables as people have them, before anything is asked of them: which column is which, and what each slide has.

`milbench.data.labels` reads tables that must be whole. Here gaps are found and counted, so that they can be shown.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ..errors import MilbenchError
from ..spec import DataSpec
from .audit.patients import guessed_patients
from .labels import EXCLUDE, NOT_A_LABEL, Columns, guess_columns, slide_name
from .split_files import read_task_config
from .tables import count, read_table, some, without_suffix


@dataclass(frozen=True)
class Tables:
    """Where labels are; None: there is none, or it is to be recognised.

    Attributes:
        labels: one row a slide, or a patient where there is a `slides` table.
        slides: slides and their patients.
        slide, patient, label, site: columns.
    """

    labels: Path
    slides: Path | None = None
    slide: str | None = None
    patient: str | None = None
    label: str | None = None
    site: str | None = None


class Row(NamedTuple):
    """A slide of the tables; "" where a cell is empty."""

    slide: str
    patient: str
    label: str
    site: str


@dataclass(frozen=True)
class LabelRows:
    """What label tables hold.

    Attributes:
        rows: one a slide, in the order of the file; ids without `suffixes`.
        slide, patient, label: the columns.
        suffixes: endings that ids have and features do not.
        lonely: patients of the label table whom the table of slides does not name.
        readable: whether `milbench.data.labels.read_label_table` reads the same, told the columns and endings.
        published: whether the label table says which slides train and test.
    """

    rows: tuple[Row, ...]
    slide: str
    patient: str
    label: str
    suffixes: tuple[str, ...]
    lonely: tuple[str, ...] = ()
    readable: bool = True
    published: bool = False


def read_label_rows(tables: Tables, features: Collection[str]) -> LabelRows:
    """Read label tables, and recognise what is not said of them.

    Args:
        tables: the files, and columns as far as they are named.
        features: slides that have features: they tell the column of ids and their endings.

    Raises:
        MilbenchError: a table cannot be read, a column cannot be told, or a slide or patient has two rows.
    """
    header, rows = _read(tables.labels)
    guess = guess_columns(header)
    label = _label_column(tables, header, guess)
    published = any(re.fullmatch(r"fold_\d+", name) for name in header) or (
        "split" in header and bool({"slide_id", "bag_name", "wsi_id"} & set(header))
    )
    sites = None if tables.site is None else _named(tables.labels, header, tables.site, "site")
    if tables.slides is not None:
        return _pair(tables, header, rows, label, sites, features)
    slide = _slide_column(tables.labels, header, rows, tables.slide, guess, features, pair=False)
    cells = [row[header.index(slide)] for row in rows]
    ids, suffixes = _ids(cells, slide, features)
    patient = _patient_column(tables.labels, header, tables.patient, guess, slide, ids)
    # A slide that is a patient of its own goes by its id, with nothing that was taken off.
    told = [ids if patient == slide else [row[header.index(patient)] for row in rows]]
    told += [[row[header.index(label)] for row in rows]]
    places = [row[header.index(sites)] for row in rows] if sites is not None else [""] * len(rows)
    found = tuple(Row(*cells) for cells in zip(ids, *told, places, strict=True))
    _refuse_twice(tables.labels, "slide", ids)
    readable = patient != slide or cells == ids
    return LabelRows(found, slide, patient, label, suffixes, readable=readable, published=published)


def check_columns(tables: Tables) -> None:
    """Refuse columns that the tables do not have, all of them at once, before features are looked at.

    Raises:
        MilbenchError: a table cannot be read, or a column that is named is not there.
    """
    header, _ = _read(tables.labels)
    known = set(header) if tables.slides is None else {*header, *_read(tables.slides)[0]}
    named = {"slide": tables.slide, "patient": tables.patient, "label": tables.label, "site": tables.site}
    lost = {what: name for what, name in named.items() if name is not None and name not in known}
    if lost:
        where = str(tables.labels) if tables.slides is None else f"{tables.labels} or {tables.slides}"
        columns = "column" if len(lost) == 1 else "columns"
        raise MilbenchError(
            f"{where} has no {columns} {', '.join(map(repr, lost.values()))}, its columns are "
            f"{some(sorted(known), 20)}; give another {', '.join(f'--{what}-column' for what in lost)}."
        )


def unknown(label: str) -> bool:
    """Whether a cell is how tools write that a label is not known."""
    return label == "" or label.lower() in NOT_A_LABEL


def _pair(tables: Tables, header: list[str], rows: list[list[str]], label: str, sites: str | None,
          features: Collection[str]) -> LabelRows:  # fmt: skip
    """Give every slide of the table of slides what its patient has in the other one."""
    assert tables.slides is not None
    slide_header, slide_rows = _read(tables.slides)
    guess = guess_columns(slide_header)
    slide = _slide_column(tables.slides, slide_header, slide_rows, tables.slide, guess, features, pair=True)
    mine = _patient_column(tables.labels, header, tables.patient, guess_columns(header))
    theirs = tables.patient if tables.patient in slide_header else guess.patient
    theirs = _patient_column(tables.slides, slide_header, theirs, guess)
    patients = [row[header.index(mine)] for row in rows]
    _refuse_twice(tables.labels, "patient", patients)
    row_of = dict(zip(patients, rows, strict=True))
    owners = [row[slide_header.index(theirs)] for row in slide_rows]
    ids, suffixes = _ids([row[slide_header.index(slide)] for row in slide_rows], slide, features, ".h5")
    _refuse_twice(tables.slides, "slide", ids)

    def cell(patient: str, name: str | None) -> str:
        return row_of[patient][header.index(name)] if name is not None and patient in row_of else ""

    found = [Row(i, owner, cell(owner, label), cell(owner, sites)) for i, owner in zip(ids, owners, strict=True)]
    asked = {patient for patient in patients if cell(patient, label) != EXCLUDE}
    lonely = tuple(sorted(asked - set(owners)))
    return LabelRows(tuple(found), slide, mine, label, suffixes, lonely, readable=mine == theirs)


def _read(path: Path) -> tuple[list[str], list[list[str]]]:
    header, rows = read_table(path)
    if not rows:
        raise MilbenchError(f"{path} has no rows below its header; give one row a slide.")
    if twice := [name for name, times in Counter(header).items() if name and times > 1]:
        raise MilbenchError(f"{path} has two columns named {some(twice)}; keep one.")
    return header, rows


def _named(path: Path, header: Sequence[str], name: str, what: str) -> str:
    if name not in header:
        raise MilbenchError(
            f"{path} has no column {name!r}, its columns are {some(list(header), 20)}; give another --{what}-column."
        )
    return name


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
            "--label-column."
        )
    return guess.label


def _slide_column(path: Path, header: list[str], rows: list[list[str]], asked: str | None, guess: Columns,
                  features: Collection[str], pair: bool) -> str:  # fmt: skip
    """Return the column of slide ids: by its name, or the one that holds the most names of features."""
    if asked is not None:
        return _named(path, header, asked, "slide")
    known = set(features)

    def hits(column: str) -> int:
        at = header.index(column)
        ids, _ = _ids([row[at] for row in rows], column, known, ".h5" if pair else "")
        return len(known.intersection(ids))

    if guess.slide is not None and hits(guess.slide):
        return guess.slide
    best = max(header, key=hits)
    found = best if hits(best) else guess.slide
    if found is None:
        mend = "name the column of slides with --slide-column"
        if guess.patient is not None and not pair:
            mend += ", or give the table of slides and their patients with --slide-table if its rows are patients"
        raise MilbenchError(f"{path} has columns {some(header, 20)}, and none of them holds names of features; {mend}.")
    return found


def _patient_column(path: Path, header: list[str], asked: str | None, guess: Columns, slide: str | None = None,
                    ids: Sequence[str] = ()) -> str:  # fmt: skip
    """Return the column of patients; that of the slides where their names tell the patients."""
    if asked is not None:
        return _named(path, header, asked, "patient")
    if guess.patient is not None and guess.patient != slide:
        return guess.patient
    if slide is not None and len(guessed_patients({name: name for name in ids})) == len(ids):
        return slide
    # Taking every slide for a patient of its own could put one patient on both sides of a split.
    alone = f", or --patient-column {slide!r} if every slide is a patient of its own" if slide is not None else ""
    raise MilbenchError(
        f"{path} has columns {some(header, 20)}, and none of them is known to hold patients; name it with "
        f"--patient-column{alone}."
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
    found: Counter[str] = Counter()
    for name in ids:
        heads = [name[:at] for at, mark in enumerate(name) if mark == "."] if name not in features else []
        if head := max((head for head in heads if head in features), key=len, default=""):
            found[name[len(head) :]] += 1
    endings = tuple(sorted((e for e in found if re.fullmatch(r"(\.[A-Za-z]\w*)+", e)), key=lambda e: (-len(e), e)))
    cut = [without_suffix(name, endings) for name in ids]
    harmless = len(set(cut)) == len(set(ids)) and all(c == name for c, name in zip(cut, ids, strict=True)
                                                      if name in features)  # fmt: skip
    return endings if harmless else ()


def _refuse_twice(path: Path, what: str, names: Sequence[str]) -> None:
    if "" in names:
        raise MilbenchError(f"{path} has a row without a {what} (row {list(names).index('') + 1}); fill it in.")
    if twice := sorted(name for name, times in Counter(names).items() if times > 1):
        raise MilbenchError(f"{path} has {count(len(twice), what)} in two rows: {some(twice)}; keep one row a {what}.")


def table_of(rows: Sequence[Row], why: Mapping[str, str], site: str | None) -> list[tuple[str, ...]]:
    """Return a label table, header first, as text; a last column says why a slide is left out."""
    header = ("slide_id", "patient_id", "label", *([site] if site is not None else []), "left_out_because")
    return [header, *((row.slide, row.patient, row.label, *([row.site] if site is not None else []),
                       why.get(row.slide, "")) for row in rows)]  # fmt: skip
