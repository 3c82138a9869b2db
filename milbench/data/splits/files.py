"""Split files of the field's tools: read as they are, recognised by what is in them."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import compress
from pathlib import Path
from typing import Any

from ...errors import MilbenchError
from ...formatting.text import count, some
from ..fold import PARTS, Fold
from ..input_files.regular import regular_size
from ..names.columns import (
    FOLD_NAMES,
    LABEL_NAMES,
    PART_OF,
    PATIENT_NAMES,
    SLIDE_NAMES,
    SPLIT_NAMES,
    column_key,
    first_of,
    is_index,
    part_key,
    resolve_column,
)
from ..names.id_matching import Matching, endings_note, match_ids, match_patients
from ..names.spellings import is_missing, path_stem, truth, without_suffix
from ..text_tables import (
    UNSTORED,
    has_lost_digits,
    read_table,
    read_text,
    refuse_lost_digits,
    refuse_unreadable,
    unreadable,
    unstored,
)

#: names of columns of a part, where a table has one column a part
_COLUMNS = ("train", "training", "val", "valid", "validation", "tune", "dev", "test", "testing")
_MARKS = ("x", "\u2713", "\u2714")
#: files of one part each: train.csv, val_0.csv, fold3-test.tsv
_PART_FILE = re.compile(
    r"(?P<before>.*?)(?<![A-Za-z])(?P<part>train|training|val|valid|validation|tune|dev|test|testing)(?![A-Za-z])"
    r"(?P<after>.*)\.(?:csv|tsv|txt|xlsx|parquet)",
    re.IGNORECASE,
)
#: columns that name neither slides nor patients, by `column_key`: their 0 and 1 are no ids
_OTHER = re.compile("|".join([*LABEL_NAMES, *SPLIT_NAMES, *FOLD_NAMES, r"fold_\d+", r".*_label"]))
#: (column of ids, column of parts) of tables with one row a slide; eva has one row a file and several files a slide
_LISTS = {"milbench": ("slide_id", "split"), "torchmil": ("bag_name", "split"), "eva": ("wsi_id", "split")}
#: names of split files that a folder is searched for: tool -> pattern; a group is the number of the fold
_NAMED = {
    "TransMIL": r"fold(\d+)\.csv", "CLAM": r"splits_(\d+)\.csv", "CLAM's booleans": r"splits_(\d+)_bool\.csv",
    "Patho-Bench": r"k=(all)\.tsv", "STAMP": r"(splits)\.json", "torchmil": r"(splits)\.csv",
}  # fmt: skip
_FORMS = (
    "columns train, val, test (one id a cell: TransMIL, CLAM), slide_id, split (milbench), bag_name, split (torchmil), "
    "wsi_id, split (eva), train_slide_path (MIL_BASELINE) or fold_0 (Patho-Bench), or a column of slides or patients "
    "and one of the words train, val, test, which --split-column (split.column) names"
)
_MOST_CONFIG = 2**20
_MOST_NESTED = 10


@dataclass(frozen=True)
class SplitSource:
    """Where one or several folds are read from.

    Attributes:
        name: of the fold, where the file holds one.
        files: the file; or part -> its file, where every part has one of its own (GigaPath, PANTHER).
    """

    name: str
    files: Path | Mapping[str, Path]

    @property
    def paths(self) -> list[Path]:
        """All its files."""
        return [self.files] if isinstance(self.files, Path) else list(self.files.values())


@dataclass(frozen=True)
class Split:
    """Folds of split files, under the names that the labels have.

    Attributes:
        folds: all of them.
        notes: sentences about names that were matched in spite of another spelling, without a point.
    """

    folds: tuple[Fold, ...]
    notes: tuple[str, ...] = ()


@dataclass
class _Known:
    """What labels say of slides, for the columns and cells of split files."""

    patients: Mapping[str, str]
    suffixes: Sequence[str] = ()
    slides_of: dict[str, list[str]] = field(default_factory=dict)
    other: list[tuple[str, str]] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        for slide, patient in self.patients.items():
            self.slides_of.setdefault(patient, []).append(slide)

    def hits(self, cells: Iterable[str]) -> tuple[int, int]:
        """Return how well cells fit slides, and patients: 2 for the same text, 1 for another spelling."""
        names = list(dict.fromkeys(without_suffix(cell, self.suffixes) for cell in cells if cell))
        mine = match_ids(names, self.patients)
        theirs = match_patients(names, self.slides_of)
        return tuple(2 * len(m.names) - len(m.other) for m in (mine, theirs))  # type: ignore[return-value]

    def refuse_undecided(self, path: Path, cells: Iterable[str]) -> None:
        """Refuse cells that are slides as much as they are patients, unless that is the same or they are all slides.

        Raises:
            MilbenchError: they are patients with other slides.
        """
        names = list(dict.fromkeys(cell for cell in cells if cell))
        slides, patients = self.hits(names)
        if not slides or slides != patients:
            return
        kept = list(self.other), list(self.ended)
        (slides_named,) = self.slides(names)
        named, theirs = set(slides_named), set(self.of_patients(names))
        self.other, self.ended = kept
        if named == theirs or named >= set(self.patients):
            return
        raise MilbenchError(
            f"{path} names {some(names, 3)}, which are slides as well as patients of the labels: it is not plain which "
            "are meant; give a table with a column slide_id or patient_id, and one split.",
            code="split-ambiguous",
        )

    def slides(self, *parts: Sequence[str]) -> list[tuple[str, ...]]:
        """Return names of slides, part by part, as the labels have them; what they do not have stays.

        All parts are matched together: what names a slide in one part is no other slide in the next.
        """
        every = [name for part in parts for name in part]
        plain = {name: without_suffix(name, self.suffixes) for name in every}
        matching = match_ids(plain.values(), self.patients)
        self.other += matching.other
        self.ended += [name for name, bare in plain.items() if name != bare in matching.names]
        return [tuple(matching.get(plain[name]) for name in part) for part in parts]

    def of_patients(self, names: Sequence[str]) -> tuple[str, ...]:
        """Return the slides of patients, in the order of the labels; an unknown patient stays as it is."""
        matching = match_patients(names, self.slides_of)
        self.other += matching.other
        return tuple(slide for name in names for slide in self.slides_of.get(matching.get(name), [name]))


def read_folds(
    files: str, base: Path, patients: Mapping[str, str] | None = None, suffixes: Sequence[str] = (),
    column: str | None = None,
) -> list[Fold]:  # fmt: skip
    """Return the folds of `read_split`."""
    return list(read_split(files, base, patients, suffixes, column).folds)


def read_split(
    files: str, base: Path, patients: Mapping[str, str] | None = None, suffixes: Sequence[str] = (),
    column: str | None = None,
) -> Split:  # fmt: skip
    """Read all folds of split files; ids are text, their order is kept, doubles too.

    - TransMIL ``fold{k}.csv`` and CLAM ``splits_{k}.csv``: columns train, val, test, ragged (TransMIL adds labels,
      which are not read: labels have one home).
    - CLAM ``splits_{k}_bool.csv``: columns train, val, test of True and False, 1 and 0, yes and no, and one that holds
      the slides: by its name, else the one column whose cells are slides of the labels.
    - MIL_BASELINE: columns train_slide_path, val_slide_path, test_slide_path, ragged; the stems of the paths are ids.
    - milbench, torchmil, eva: columns slide_id, bag_name or wsi_id, and split; any other table with a column of slides
      or patients and one of the words train, val, test (Training, Validation, Testing, tune, dev), which `column` names
      or which is called split, set, official_split or the like.
    - Patho-Bench ``k=all.tsv``: a row a slide, columns fold_0, fold_1, ...: one file, K folds. Where slide_id is not
      among the columns, rows are patients, in the column that sample_col of the ``config.yaml`` next to it names.
    - STAMP ``splits.json``: lists of patients, in folds ``split-0``, ``split-1``, ...; no validation part.
    - GigaPath, PANTHER: a folder with a file a part, ``train_0.csv``, ``val_0.csv``, ``test_0.csv``, or of folders with
      ``train.csv``, ``val.csv``, ``test.csv``.

    Cells that are no slides of the labels but patients of theirs (MCAT, HIPT) stand for the slides of these.

    Args:
        files: a file; a folder, whose split files are read in order of their numbers; or a path with ``{k}`` for the
            fold number: all that exist, in order.
        base: where relative paths start.
        patients: slide -> patient, of all slides that have labels: patients in a file become their slides, and slides
            that are written in another way (`milbench.data.names.id_matching`) become these.
        suffixes: endings to take off the ids.
        column: the column of the words train, val, test.

    Returns:
        Folds named by the file, or by the fold where one file holds several. Nothing is checked but that the file can
        be read: see `milbench.data.audit`.

    Raises:
        MilbenchError: no such file; none of these forms; a word for a part that no tool uses; a table in which several
            columns may hold the ids; patients of STAMP or Patho-Bench without slides.
    """
    sources = split_sources(files, base)
    known = None if patients is None else _Known(patients, suffixes)
    folds = [fold for source in sources for fold in _read_source(source, known, column)]
    if not folds:
        raise MilbenchError(
            f"{sources[0].paths[0]} holds no fold; give a file that does, or leave split.files out.",
            code="split-empty-part",
        )
    if known is None and suffixes:
        folds = [
            Fold(fold.name, *(tuple(without_suffix(i, suffixes) for i in ids) for ids in fold.parts.values()))
            for fold in folds
        ]
    notes: list[str] = []
    if known is not None:
        notes = endings_note(known.ended, suffixes, files, "the labels")
        notes += Matching({}, tuple(dict.fromkeys(known.other))).lines(files, "the labels")
    return Split(tuple(folds), tuple(notes))


def read_fold(path: str | Path) -> Fold:
    """Read a split file that holds one fold, in any form of `read_split` that names slides.

    Raises:
        MilbenchError: the file cannot be read, has none of these forms, or holds several folds.
    """
    folds = _read(Path(path), None, None)
    if len(folds) != 1:
        raise MilbenchError(
            f"{path} holds {len(folds)} folds, and one is wanted; read it with read_folds.", code="split-ambiguous"
        )
    return folds[0]


@dataclass(frozen=True)
class TaskConfig:
    """What Patho-Bench's ``config.yaml`` says of a task; None or empty where it does not say.

    Attributes:
        task_col: the label column of the ``k=all.tsv`` next to it.
        sample_col: whether samples are slides (``slide_id``) or patients (``case_id``).
        label_dict: label value -> what it means.
        metrics: names of the metrics that the task is scored by.
    """

    task_col: str | None = None
    sample_col: str | None = None
    label_dict: Mapping[str, str] | None = None
    metrics: tuple[str, ...] = ()


def read_task_config(path: Path) -> TaskConfig:
    """Read Patho-Bench's ``config.yaml``.

    Raises:
        MilbenchError: PyYAML is not installed, or the file cannot be read or is no such configuration.
    """
    try:
        import yaml
    except ImportError:
        raise MilbenchError(
            f'{path} needs PyYAML; install it with pip install "milbench[formats]".', code="package-missing"
        ) from None
    regular_size(path)
    try:
        with path.open("rb") as file:
            raw = file.read(_MOST_CONFIG + 1)
        text = raw.decode("utf-8-sig")
        if len(raw) > _MOST_CONFIG or _is_unsafe(yaml.parse(text)):
            raise MilbenchError(
                f"{path} is no configuration of a task: it is too large, too deep, or holds aliases.",
                code="config-invalid",
            )
        value = yaml.safe_load(text)
    except OSError as error:
        raise MilbenchError(f"{path} cannot be read: {error.strerror}.", code="file-unreadable") from None
    except MilbenchError:
        raise
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:160]
        raise MilbenchError(
            f"{path} is not valid YAML ({reason}); correct or remove it.", code="config-invalid"
        ) from None
    content = value if isinstance(value, dict) else {}
    labels, metrics = content.get("label_dict"), content.get("metrics")
    return TaskConfig(
        task_col=_word(content.get("task_col")),
        sample_col=_word(content.get("sample_col")),
        label_dict={str(key): str(label) for key, label in labels.items()} if isinstance(labels, dict) else None,
        metrics=tuple(map(str, metrics)) if isinstance(metrics, list) else (),
    )


def _is_unsafe(events: Iterable[Any]) -> bool:
    """Find what a few lines of YAML can fill memory and hours with: aliases, and lists in lists without end."""
    depth = 0
    for event in events:
        kind = type(event).__name__
        depth += kind in ("SequenceStartEvent", "MappingStartEvent")
        depth -= kind in ("SequenceEndEvent", "MappingEndEvent")
        if kind == "AliasEvent" or depth > _MOST_NESTED:
            return True
    return False


def _word(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def split_paths(files: str, base: Path) -> list[Path]:
    """Return the split files that ``split.files`` stands for, in the order of their folds; see `read_split`."""
    return [path for source in split_sources(files, base) for path in source.paths]


def split_sources(files: str, base: Path) -> list[SplitSource]:
    """Return what ``split.files`` stands for, in the order of the folds; see `read_split`.

    Raises:
        MilbenchError: nothing is there.
    """
    template = base / Path(files).expanduser()
    if "{k}" in template.name:
        before, _, after = template.name.partition("{k}")
        numbered = _numbered(template.parent, re.escape(before) + r"(\d+)" + re.escape(after))
        if numbered:
            return [SplitSource(path.stem, path) for path in numbered]
        folders = _numbered(template.parent, re.escape(before) + r"(\d+)" + re.escape(after), folders=True)
        sources = [SplitSource(folder.name, parts[0].files) for folder in folders if (parts := _of_parts(folder))]
        if not sources:
            raise MilbenchError(
                f"no file matches {template}; {{k}} stands for the fold number, as in fold0.csv.",
                code="split-files-missing",
            )
        return sources
    if "{k}" in files:
        raise MilbenchError(
            f"{files!r} must have {{k}} in the file's name, such as splits/fold{{k}}.csv.", code="split-files-missing"
        )
    return _of_folder(template) if template.is_dir() else [SplitSource(template.stem, template)]


def _of_folder(folder: Path) -> list[SplitSource]:
    """Return the split files of a folder: those of the one tool whose names are there, else all tables, in order."""
    kinds = {tool: paths for tool, pattern in _NAMED.items() if (paths := _numbered(folder, pattern))}
    if "CLAM" in kinds:
        kinds.pop("CLAM's booleans", None)  # the same folds once more
    if len(kinds) > 1:
        names = " and ".join(f"{paths[0].name} ({tool})" for tool, paths in kinds.items())
        raise MilbenchError(
            f"{folder} holds {names}; name the file in split.files, with {{k}} for the fold number.",
            code="split-ambiguous",
        )
    if kinds:
        return [SplitSource(path.stem, path) for path in next(iter(kinds.values()))]
    if parts := _of_parts(folder):
        return parts
    if tables := _numbered(folder, r"(.+)\.(?:csv|tsv)"):
        return [SplitSource(path.stem, path) for path in tables]
    folders = _numbered(folder, r"(.+)", folders=True)
    if inside := [SplitSource(one.name, parts[0].files) for one in folders if len(parts := _of_parts(one)) == 1]:
        return inside
    raise MilbenchError(
        f"{folder} holds no split files (.csv, .tsv, splits.json); give the folder or file of them.",
        code="split-files-missing",
    )


def _of_parts(folder: Path) -> list[SplitSource]:
    """Return the folds of a folder whose parts have a file each; none where there is not a train and a test file."""
    groups: dict[tuple[str, str], dict[str, Path]] = {}
    for path in _numbered(folder, r"(.+)"):
        match = _PART_FILE.fullmatch(path.name)
        part = PART_OF[match["part"].lower()] if match is not None else None
        if match is None or part is None:
            continue
        group = groups.setdefault((match["before"], match["after"]), {})
        if part in group:
            raise MilbenchError(
                f"{folder} holds two files of one part, {group[part].name} and {path.name}; move one of them away.",
                code="split-ambiguous",
            )
        group[part] = path
    parts = []
    for (before, after), group in groups.items():
        if not {"train", "test"} <= set(group):
            continue
        words = re.sub(r"[^\w=.-]+", "-", f"{before}{after}").strip("_-. ")
        name = f"fold{words}" if words.isdecimal() else words or "split"
        parts.append(SplitSource(name, {part: group[part] for part in PARTS if part in group}))
    return sorted(parts, key=lambda source: _natural(source.name))


def _natural(name: str) -> list[tuple[int, str]]:
    pieces = re.findall(r"\d+|\D+", name)
    return [(int(piece), "") if piece.isdecimal() else (-1, piece) for piece in pieces]


def _numbered(folder: Path, pattern: str, folders: bool = False) -> list[Path]:
    """Return the files whose names fit, by the numbers in the group of the pattern: fold10 after fold2."""
    there = [path for path in folder.iterdir() if not path.name.startswith(".")] if folder.is_dir() else []
    present = [path for path in there if (path.is_dir() if folders else path.is_file())]
    numbered = [(m[1], path) for path in present if (m := re.fullmatch(pattern, path.name))]
    return [path for _, path in sorted(numbered, key=lambda item: (_natural(item[0]), item[1].name))]


def _read_source(source: SplitSource, known: _Known | None, column: str | None) -> list[Fold]:
    if isinstance(source.files, Path):
        folds = _read(source.files, known, column)
    else:
        folds = [_fold_of_parts(source.name, source.files, known)]
    bad = next((name for fold in folds for ids in fold.parts.values() for name in ids if unreadable(name)), None)
    if bad is not None:
        _refuse_id(source.paths, bad)
    labelled = {} if known is None else known.patients
    _refuse_lost_digits(source.paths, {i for fold in folds for ids in fold.parts.values() for i in ids} - set(labelled))
    return folds


def _refuse_lost_digits(paths: Sequence[Path], names: Collection[str]) -> None:
    """Refuse names of slides or patients whose digits a spreadsheet has lost, by their place in the files."""
    lost = {name for name in names if has_lost_digits(name)}
    for path in paths if lost else ():
        if path.suffix.lower() != ".json":
            header, rows = read_table(path)
            for at, column in enumerate(header):
                refuse_lost_digits(path, column, [row[at] for row in rows if row[at] in lost])
        refuse_lost_digits(path, "train, val, test", sorted(lost))


def _refuse_id(paths: Sequence[Path], name: str) -> None:
    """Refuse a name that is not readable, by its place in the files."""
    for path in paths:
        if path.suffix.lower() != ".json":
            header, rows = read_table(path)
            columns = [c for at, c in enumerate(header) if name == c or any(name in row[at] for row in rows)]
            refuse_unreadable(path, (header, rows), columns)
    raise MilbenchError(
        f"{paths[0]} has {unreadable(name)} in the name {name!r}; correct it, or copy the file again.",
        code="text-unreadable",
    )


def _fold_of_parts(name: str, files: Mapping[str, Path], known: _Known | None) -> Fold:
    """Return the fold of which every part has a file."""
    listed = {part: _ids_of_part(path, known) for part, path in files.items()}
    parts = {part: ids for part, (ids, _) in listed.items()}
    if known is not None:
        of_slides = [part for part, (_, of_patients) in listed.items() if not of_patients]
        named = known.slides(*(parts[part] for part in of_slides))
        theirs = {part: known.of_patients(ids) for part, ids in parts.items() if part not in of_slides}
        parts = theirs | dict(zip(of_slides, named, strict=True))
    return Fold(name, *(parts.get(part, ()) for part in PARTS))


def _ids_of_part(path: Path, known: _Known | None) -> tuple[tuple[str, ...], bool]:
    """Return what a file of one part lists, and whether these are patients."""
    header, rows = read_table(path)
    if len(header) == 1 and known is not None and any(known.hits([header[0]])):  # a list without a header
        cells, of_patients = [header[0], *(row[0] for row in rows)], False
        known.refuse_undecided(path, cells)
        slides, patients = known.hits(cells)
        of_patients = patients > slides
    else:
        name, of_patients = _id_column(path, header, rows, known, ())
        cells = [row[header.index(name)] for row in rows]
    return tuple(dict.fromkeys(cell for cell in cells if cell)), of_patients


def _read(path: Path, known: _Known | None, column: str | None) -> list[Fold]:
    if path.suffix.lower() == ".json":
        return _stamp(path, known)
    header, rows = read_table(path)
    if column is not None:
        named = resolve_column(header, column)
        if named is None:
            raise MilbenchError(
                f"{path} has no column {column!r}, its columns are {some(header, 20)}; give another split column.",
                code="table-missing-column",
            )
        return [_of_column(path, header, rows, named, known)]
    if any(re.fullmatch(r"fold_\d+", name) for name in header):
        return _patho_bench(path, header, rows, known)
    for tool, (key, split) in _LISTS.items():
        if {key, split} <= set(header):
            pairs = [(row[header.index(key)], row[header.index(split)]) for row in rows]
            # A label table may have a row a treatment.
            pairs = list(dict.fromkeys(pairs)) if tool == "eva" or len(header) > 3 else pairs
            return [_settled(_listed(path.stem, pairs, path), known, False, path)]
    paths = {"train_slide_path", "test_slide_path"} <= set(header)
    named_parts = _part_columns(header)
    if not paths and not {"train", "test"} <= set(named_parts):
        if (words := split_column(header, rows)) is not None:
            return [_of_column(path, header, rows, words, known)]
        refuse_unreadable(path, (header, rows), header)
        raise MilbenchError(
            f"{path} has columns {some(header)}; a split file has {_FORMS}.{_one_part(path)}",
            code="table-missing-column",
        )
    columns: dict[str, list[str]] = {}
    for part in PARTS:
        of_part = f"{part}_slide_path" if paths else named_parts.get(part)
        cells = [row[header.index(of_part)] for row in rows] if of_part in header else []
        columns[part] = [path_stem(cell) for cell in cells] if paths else cells
    if not paths and _boolean(columns):
        skip = {*named_parts.values(), *(f"{name}_label" for name in named_parts.values())}
        key, of_patients = _id_column(path, header, rows, known, skip)
        chosen = {part: list(map(_says_yes, column)) for part, column in columns.items()}
        ids = [row[header.index(key)] for row in rows]
        fold = Fold(path.stem, *(tuple(compress(ids, chosen[part])) for part in PARTS))
        return [_settled(fold, known, of_patients, path)]
    fold = Fold(path.stem, *(tuple(value for value in columns[part] if value) for part in PARTS))
    of_patients = False
    if known is not None:
        known.refuse_undecided(path, (value for ids in fold.parts.values() for value in ids))
        slides, theirs = known.hits(value for ids in fold.parts.values() for value in ids)
        of_patients = theirs > slides
    return [_settled(fold, known, of_patients, path)]


def split_column(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str | None:
    """Return the column that says of every row whether it trains, validates or tests; None where there is none."""
    for name in SPLIT_NAMES:
        for at, column in enumerate(header):
            if column_key(column) == name and is_split([row[at] for row in rows]):
                return column
    return None


def is_split(cells: Iterable[str]) -> bool:
    """Whether cells are words for parts of a split, two parts at least."""
    words = set(map(part_key, cells)) - {UNSTORED}  # which the reader of the split refuses
    parts = {PART_OF[word] for word in words if word in PART_OF}
    return len(parts - {None}) > 1 and all(word in PART_OF or is_missing(word) for word in words)


def _part_columns(header: Sequence[str]) -> dict[str, str]:
    """Return part -> its column, of a table that has a column a part."""
    columns = {part: part for part in PARTS if part in header}
    for column in header:
        if (key := column_key(column)) in _COLUMNS and (part := PART_OF[key]) is not None:
            columns.setdefault(part, column)
    return columns


def _boolean(columns: Mapping[str, Sequence[str]]) -> bool:
    """Whether columns of parts say yes or no; 0 and 1 do where one stands twice in a column, which no id does."""
    cells = [value for column in columns.values() for value in column]
    values = {value for value in cells if not is_missing(value)}
    if not values or not all(value.lower() in _MARKS or truth(value) is not None for value in values):
        return False
    if values <= {"0", "1", "0.0", "1.0"}:
        twice = any(times > 1 for column in columns.values() for v, times in Counter(column).items() if v in values)
        return twice or (len(cells) > 3 and "" not in cells)
    return any(map(_says_yes, values))


def _says_yes(cell: str) -> bool:
    return cell.lower() in _MARKS or truth(cell) is True


def _id_column(
    path: Path, header: Sequence[str], rows: Sequence[Sequence[str]], known: _Known | None, skip: Collection[str]
) -> tuple[str, bool]:
    """Return the column of ids, and whether they are patients: by its name, and by what the labels know of its cells.

    Raises:
        MilbenchError: it is not plain which one it is.
    """
    columns = [name for name in header if name not in skip]
    named = first_of(columns, SLIDE_NAMES)
    patient = first_of(columns, PATIENT_NAMES)
    if known is None:
        chosen = named or patient or (columns[0] if len(columns) == 1 else None)
        if chosen is None:
            raise MilbenchError(
                f"{path} has columns {some(list(header), 20)}, and it is not plain which one holds the "
                "slides; name it slide_id.",
                code="table-column-unclear",
            )
        return chosen, named is None and chosen == patient
    hits = {name: known.hits(row[header.index(name)] for row in rows) for name in columns}
    if named is not None and hits[named][0] and 2 * hits[named][0] >= max(slides for slides, _ in hits.values()):
        return named, False
    if patient is not None and hits[patient][1] and named is None and hits[patient][1] >= hits[patient][0]:
        others = [name for name in columns if name != patient and not is_index(name)]
        if not any(hits[name][0] > hits[patient][0] for name in others):
            return patient, True
    for which in (0, 1):
        most = max((chosen[which] for chosen in hits.values()), default=0)
        best = [name for name in columns if most and hits[name][which] == most]
        best = [name for name in best if not is_index(name)] or best
        contents = {tuple(row[header.index(name)] for row in rows) for name in best}
        if len(contents) > 1:
            raise MilbenchError(
                f"{path} has slides or patients of the labels in columns {some(best)}, and it is not plain which one "
                "is meant; name it slide_id, or remove the other.",
                code="table-column-unclear",
            )
        if best:
            known.refuse_undecided(path, (row[header.index(best[0])] for row in rows))
            return best[0], which == 1
    if (chosen := named or patient or (columns[0] if len(columns) == 1 else None)) is not None:
        return chosen, chosen == patient and named is None
    raise MilbenchError(
        f"{path} has columns {some(list(header), 20)}, and none of them holds slides or patients of the "
        "labels; give the split of this cohort.",
        code="table-column-unclear",
    )


def _of_column(
    path: Path, header: Sequence[str], rows: Sequence[Sequence[str]], split: str, known: _Known | None
) -> Fold:
    """Return the fold of a table with one column of ids and one of words for parts."""
    name, of_patients = _id_column(path, header, rows, known, (split,))
    pairs = dict.fromkeys((row[header.index(name)], row[header.index(split)]) for row in rows)
    return _settled(_listed(path.stem, [pair for pair in pairs if pair[0]], path), known, of_patients, path)


def _settled(fold: Fold, known: _Known | None, of_patients: bool, path: Path, strict: bool = False) -> Fold:
    """Return a fold under the names that the labels have."""
    if known is None:
        return fold
    if of_patients:
        named = [patient for ids in fold.parts.values() for patient in ids]
        if strict and (lost := sorted(set(named) - set(match_patients(named, known.slides_of).names))):
            raise MilbenchError(
                f"{path} names {count(len(lost), 'patient')} without slides among the labels: {some(lost)}; add their "
                f"slides to the labels, with the label 'exclude' for those to leave out.",
                code="names-unmatched",
            )
        return Fold(fold.name, *(known.of_patients(ids) for ids in fold.parts.values()))
    return Fold(fold.name, *known.slides(*fold.parts.values()))


def _one_part(path: Path) -> str:
    """Say that a file is one of several, each with a part of the fold."""
    match = _PART_FILE.fullmatch(path.name)
    if match is None or not _of_parts(path.parent):
        return ""
    return f" {path.name} seems to be one part of a fold whose parts have a file each: give the folder {path.parent}."


def _listed(name: str, pairs: Iterable[tuple[str, str]], path: Path) -> Fold:
    """Return the fold of (id, part) pairs; an id without a part is in none."""
    parts: dict[str, list[str]] = {part: [] for part in PARTS}
    pairs, unknown = list(pairs), set()
    for slide, word in pairs:
        key = part_key(word)
        if key not in PART_OF and not is_missing(word):
            unknown.add(word)
        elif (part := PART_OF.get(key)) is not None:
            parts[part].append(slide)
    if UNSTORED in unknown:
        raise MilbenchError(
            unstored(path, sum(word == UNSTORED for _, word in pairs), " of its split"), code="table-formula"
        )
    if unknown:
        raise MilbenchError(
            f"{path} has splits {some(sorted(unknown))}; they must be train, val or test.", code="split-unknown-part"
        )
    return Fold(name, *(tuple(parts[part]) for part in PARTS))


def _patho_bench(path: Path, header: list[str], rows: list[list[str]], known: _Known | None) -> list[Fold]:
    key: str | None = "slide_id"
    if key not in header:
        # Tasks of patients list their slides too, a row each; a table of patients alone needs the labels.
        config = path.with_name("config.yaml")
        sample = read_task_config(config).sample_col if config.is_file() else None
        key = next((name for name in (sample, "case_id") if name in header), None)
        if key is None and known is not None and (slide := first_of(header, SLIDE_NAMES)) is not None:
            key = slide
    if key is None:
        raise MilbenchError(
            f"{path} has columns {some(header)}; add slide_id (or case_id) next to {header[-1]}.",
            code="table-missing-column",
        )
    names = sorted((n for n in header if re.fullmatch(r"fold_\d+", n)), key=lambda n: int(n.removeprefix("fold_")))
    ids = [row[header.index(key)] for row in rows]
    folds = [_listed(n, zip(ids, (row[header.index(n)] for row in rows), strict=True), path) for n in names]
    if key == "slide_id" or column_key(key) in SLIDE_NAMES:
        return [_settled(fold, known, False, path) for fold in folds]
    return [_settled(fold, known or _Known({}), True, path, strict=True) for fold in folds]


def _stamp(path: Path, known: _Known | None) -> list[Fold]:
    named = _stamp_parts(path)
    folds = [Fold(f"split-{i}", named[2 * i], (), named[2 * i + 1]) for i in range(len(named) // 2)]
    return [_settled(fold, known or _Known({}), True, path, strict=True) for fold in folds]


def _stamp_parts(path: Path) -> list[tuple[str, ...]]:
    """Return the patients that train and those that test, of one split after the other."""
    text = read_text(path)
    try:
        splits = json.loads(text)["splits"]
        return [tuple(map(_patient, split[f"{part}_patients"])) for split in splits for part in ("train", "test")]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise MilbenchError(
            f'{path} is no split file of STAMP: it must be {{"splits": [{{"train_patients": [...], '
            f'"test_patients": [...]}}]}}.',
            code="config-invalid",
        ) from None


def _patient(name: Any) -> str:
    if not isinstance(name, str):
        raise TypeError(name)
    return name


def unnamed_slides(
    files: str, slides: Iterable[str], patients: Mapping[str, str], suffixes: Sequence[str]
) -> list[str]:
    """Return the slides that no cell of split files names, by themselves or by their patient, in any part or none.

    Args:
        files: see `read_split`; relative paths start at the working folder.
        slides: of the labels.
        patients: slide -> patient.
        suffixes: endings to take off the ids.
    """
    cells: set[str] = set()
    for path in split_paths(files, Path()):
        if path.suffix.lower() == ".json":
            cells.update(*_stamp_parts(path))
            continue
        header, rows = read_table(path)
        columns = [
            at for at, name in enumerate(header) if not is_index(name) and not _OTHER.fullmatch(column_key(name))
        ]
        cells |= {row[at] for row in rows for at in columns} | {path_stem(row[at]) for row in rows for at in columns}
        cells |= set(header)
    there = set(known_ids(cells, patients, suffixes).values())
    owners = set(match_patients(cells, set(patients.values())).names.values())
    return [slide for slide in slides if slide not in there and patients[slide] not in owners]


def known_ids(names: Iterable[str], patients: Mapping[str, str], suffixes: Sequence[str]) -> dict[str, str]:
    """Return name -> the slide that a cell of a split file names; see `read_split`."""
    plain = {name: without_suffix(name, suffixes) for name in names}
    matching = match_ids(plain.values(), patients)
    return {name: matching.get(matched) for name, matched in plain.items()}
