"""Split files of the field's tools: read as they are, recognised by what is in them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import Any

from ..errors import MilbenchError
from .splits import PARTS, Fold
from .tables import count, path_stem, read_table, read_text, some, without_suffix

#: words for a part, in lower case; what no tool calls a part is refused, as a fold has no place to keep it
_PART_OF = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test",
    "testing": "test", "": None, "-1": None,
}  # fmt: skip
#: (column of ids, column of parts) of tables with one row a slide; eva has one row a file and several files a slide
_LISTS = {"milbench": ("slide_id", "split"), "torchmil": ("bag_name", "split"), "eva": ("wsi_id", "split")}
#: names of split files that a folder is searched for: tool -> pattern; a group is the number of the fold
_NAMED = {
    "TransMIL": r"fold(\d+)\.csv", "CLAM": r"splits_(\d+)\.csv", "CLAM's booleans": r"splits_(\d+)_bool\.csv",
    "Patho-Bench": r"k=(all)\.tsv", "STAMP": r"(splits)\.json", "torchmil": r"(splits)\.csv",
}  # fmt: skip
_FORMS = (
    "columns train, val, test (one id a cell: TransMIL, CLAM), slide_id, split (milbench), bag_name, split (torchmil), "
    "wsi_id, split (eva), train_slide_path (MIL_BASELINE) or fold_0 (Patho-Bench)"
)
_MOST_CONFIG = 2**20
_MOST_NESTED = 10


def read_folds(
    files: str, base: Path, patients: Mapping[str, str] | None = None, suffixes: Sequence[str] = ()
) -> list[Fold]:
    """Read all folds of split files; ids are text, their order is kept, doubles too.

    - TransMIL ``fold{k}.csv`` and CLAM ``splits_{k}.csv``: columns train, val, test, ragged (TransMIL adds labels,
      which are not read: labels have one home).
    - CLAM ``splits_{k}_bool.csv``: the slide id, then the columns train, val, test with True or False.
    - MIL_BASELINE: columns train_slide_path, val_slide_path, test_slide_path, ragged; the stems of the paths are ids.
    - milbench, torchmil, eva: columns slide_id, bag_name or wsi_id, and split.
    - Patho-Bench ``k=all.tsv``: a row a slide, columns fold_0, fold_1, ...: one file, K folds. Where slide_id is not
      among the columns, rows are patients, in the column that sample_col of the ``config.yaml`` beside it names.
    - STAMP ``splits.json``: lists of patients, in folds ``split-0``, ``split-1``, ...; no validation part.

    Args:
        files: a file; a folder, whose split files are read in order of their numbers; or a path with ``{k}`` for the
            fold number: all that exist, in order.
        base: where relative paths start.
        patients: slide -> patient, of all slides that have labels: patients in a file become their slides.
        suffixes: endings to take off the ids. An id that no slide has is also tried without the ``.0`` that pandas
            puts behind whole numbers in ragged columns.

    Returns:
        Folds named by the file, or by the fold where one file holds several. Nothing is checked but that the file can
        be read: see `milbench.data.audit`.

    Raises:
        MilbenchError: no such file; none of these forms; a word for a part that no tool uses; patients without slides.
    """
    paths = split_paths(files, base)
    folds = [fold for path in paths for fold in _read(path, patients)]
    if not folds:
        raise MilbenchError(f"{paths[0]} holds no fold; give a file that does, or leave split.files out.")
    return [
        Fold(fold.name, *(tuple(known_id(i, patients, suffixes) for i in ids) for ids in fold.parts.values()))
        for fold in folds
    ]


def read_fold(path: str | Path) -> Fold:
    """Read a split file that holds one fold, in any form of `read_folds` that names slides.

    Raises:
        MilbenchError: the file cannot be read, has none of these forms, or holds several folds.
    """
    folds = _read(Path(path), None)
    if len(folds) != 1:
        raise MilbenchError(f"{path} holds {len(folds)} folds, and one is wanted; read it with read_folds.")
    return folds[0]


@dataclass(frozen=True)
class TaskConfig:
    """What Patho-Bench's ``config.yaml`` says of a task; None or empty where it does not say.

    Attributes:
        task_col: the label column of the ``k=all.tsv`` beside it.
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
        raise MilbenchError(f'{path} needs PyYAML; install it with pip install "milbench[formats]".') from None
    try:
        with path.open("rb") as file:
            raw = file.read(_MOST_CONFIG + 1)
        text = raw.decode("utf-8-sig")
        if len(raw) > _MOST_CONFIG or _hurts(yaml.parse(text)):
            raise MilbenchError(f"{path} is no configuration of a task: it is too large, too deep, or holds aliases.")
        value = yaml.safe_load(text)
    except OSError as error:
        raise MilbenchError(f"{path} cannot be read: {error.strerror}.") from None
    except MilbenchError:
        raise
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:160]
        raise MilbenchError(f"{path} is not valid YAML ({reason}); correct or remove it.") from None
    found = value if isinstance(value, dict) else {}
    labels, metrics = found.get("label_dict"), found.get("metrics")
    return TaskConfig(
        task_col=_word(found.get("task_col")),
        sample_col=_word(found.get("sample_col")),
        label_dict={str(key): str(label) for key, label in labels.items()} if isinstance(labels, dict) else None,
        metrics=tuple(map(str, metrics)) if isinstance(metrics, list) else (),
    )


def _hurts(events: Iterable[Any]) -> bool:
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
    """Return the split files that ``split.files`` stands for, in the order of their folds; see `read_folds`."""
    template = base / Path(files).expanduser()
    if "{k}" in template.name:
        before, _, after = template.name.partition("{k}")
        found = _numbered(template.parent, re.escape(before) + r"(\d+)" + re.escape(after))
        if not found:
            raise MilbenchError(f"no file fits {template}; {{k}} stands for the fold number, as in fold0.csv.")
        return found
    if "{k}" in files:
        raise MilbenchError(f"{files!r} must have {{k}} in the file's name, such as splits/fold{{k}}.csv.")
    return _of_folder(template) if template.is_dir() else [template]


def _of_folder(folder: Path) -> list[Path]:
    """Return the split files of a folder: those of the one tool whose names are there, else all tables, in order."""
    kinds = {tool: paths for tool, pattern in _NAMED.items() if (paths := _numbered(folder, pattern))}
    if "CLAM" in kinds:
        kinds.pop("CLAM's booleans", None)  # the same folds once more
    if len(kinds) > 1:
        names = " and ".join(f"{paths[0].name} ({tool})" for tool, paths in kinds.items())
        raise MilbenchError(f"{folder} holds {names}; name the file in split.files, with {{k}} for the fold number.")
    if kinds:
        return next(iter(kinds.values()))
    tables = _numbered(folder, r"(.+)\.(?:csv|tsv)")
    if not tables:
        raise MilbenchError(
            f"{folder} holds no split files (.csv, .tsv, splits.json); give the folder or file of them."
        )
    return tables


def _numbered(folder: Path, pattern: str) -> list[Path]:
    """Return the files whose names fit, by the numbers in the group of the pattern: fold10 after fold2."""
    present = [path for path in folder.iterdir() if path.is_file()] if folder.is_dir() else []
    found = [(m[1], path) for path in present if (m := re.fullmatch(pattern, path.name))]

    def key(item: tuple[str, Path]) -> tuple[list[tuple[int, str]], str]:
        pieces = re.findall(r"\d+|\D+", item[0])
        return [(int(piece), "") if piece.isdecimal() else (-1, piece) for piece in pieces], item[1].name

    return [path for _, path in sorted(found, key=key)]


def _read(path: Path, patients: Mapping[str, str] | None) -> list[Fold]:
    if path.suffix.lower() == ".json":
        return _stamp(path, patients)
    header, rows = read_table(path)
    if any(re.fullmatch(r"fold_\d+", name) for name in header):
        return _patho_bench(path, header, rows, patients)
    for tool, (key, split) in _LISTS.items():
        if {key, split} <= set(header):
            pairs = [(row[header.index(key)], row[header.index(split)]) for row in rows]
            return [_listed(path.stem, dict.fromkeys(pairs) if tool == "eva" else pairs, path)]
    paths = {"train_slide_path", "test_slide_path"} <= set(header)
    if not paths and not {"train", "test"} <= set(header):
        raise MilbenchError(f"{path} has columns {some(header)}; a split file has {_FORMS}.")
    columns = {}
    for part in PARTS:
        name = f"{part}_slide_path" if paths else part
        cells = [row[header.index(name)] for row in rows] if name in header else []
        columns[part] = [path_stem(cell) for cell in cells] if paths else cells
    values = {value.lower() for column in columns.values() for value in column}
    if values and values <= {"true", "false"}:
        # A table of booleans, the slide in its first column.
        chosen = {part: [value.lower() == "true" for value in column] for part, column in columns.items()}
        ids = [row[0] for row in rows]
        return [Fold(path.stem, *(tuple(compress(ids, chosen[part])) for part in PARTS))]
    return [Fold(path.stem, *(tuple(value for value in columns[part] if value) for part in PARTS))]


def _listed(name: str, pairs: Iterable[tuple[str, str]], path: Path) -> Fold:
    """Return the fold of (id, part) pairs; an id without a part is in none."""
    parts: dict[str, list[str]] = {part: [] for part in PARTS}
    unknown = set()
    for slide, word in pairs:
        if word.lower() not in _PART_OF:
            unknown.add(word)
        elif (part := _PART_OF[word.lower()]) is not None:
            parts[part].append(slide)
    if unknown:
        raise MilbenchError(f"{path} has splits {some(sorted(unknown))}; they must be train, val or test.")
    return Fold(name, *(tuple(parts[part]) for part in PARTS))


def _patho_bench(
    path: Path, header: list[str], rows: list[list[str]], patients: Mapping[str, str] | None
) -> list[Fold]:
    key: str | None = "slide_id"
    if key not in header:
        # Tasks of patients list their slides too, a row each; a table of patients alone needs the labels.
        beside = path.with_name("config.yaml")
        sample = read_task_config(beside).sample_col if beside.is_file() else None
        key = next((name for name in (sample, "case_id") if name in header), None)
    if key is None:
        raise MilbenchError(f"{path} has columns {some(header)}; add slide_id (or case_id) beside {header[-1]}.")
    names = sorted((n for n in header if re.fullmatch(r"fold_\d+", n)), key=lambda n: int(n.removeprefix("fold_")))
    ids = [row[header.index(key)] for row in rows]
    folds = [_listed(n, zip(ids, (row[header.index(n)] for row in rows), strict=True), path) for n in names]
    return folds if key == "slide_id" else [_of_patients(fold, patients, path) for fold in folds]


def _stamp(path: Path, patients: Mapping[str, str] | None) -> list[Fold]:
    text = read_text(path)
    try:
        splits = json.loads(text)["splits"]
        named = [tuple(map(_patient, split[f"{part}_patients"])) for split in splits for part in ("train", "test")]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise MilbenchError(
            f'{path} is no split file of STAMP: it must be {{"splits": [{{"train_patients": [...], '
            f'"test_patients": [...]}}]}}.'
        ) from None
    folds = [Fold(f"split-{i}", named[2 * i], (), named[2 * i + 1]) for i in range(len(named) // 2)]
    return [_of_patients(fold, patients, path) for fold in folds]


def _patient(name: Any) -> str:
    if not isinstance(name, str):
        raise TypeError(name)
    return name


def _of_patients(fold: Fold, patients: Mapping[str, str] | None, path: Path) -> Fold:
    """Replace patients by their slides, in the order of the labels."""
    slides: dict[str, list[str]] = {}
    for slide, patient in (patients or {}).items():
        slides.setdefault(patient, []).append(slide)
    lost = sorted({patient for ids in fold.parts.values() for patient in ids if patient not in slides})
    if lost:
        raise MilbenchError(
            f"{path} names {count(len(lost), 'patient')} without slides among the labels: {some(lost)}; add their "
            f"slides to the labels, with the label 'exclude' for those to leave out."
        )
    return Fold(fold.name, *(tuple(s for patient in ids for s in slides[patient]) for ids in fold.parts.values()))


def known_id(name: str, patients: Mapping[str, str] | None, suffixes: Sequence[str]) -> str:
    """Return the slide that a cell of a split file names; see `read_folds`."""
    name = without_suffix(name, suffixes)
    whole = name.removesuffix(".0")
    return whole if patients is not None and name not in patients and whole in patients else name
