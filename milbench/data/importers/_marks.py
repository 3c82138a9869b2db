"""Marks by which a folder of bare feature files is one tool's and not another's, and the csv files that list features.

CLAM's pt_files/, slideflow's bags, eva's embeddings and plain files differ only in the files next to them.
"""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterator
from pathlib import Path

from ...errors import MilbenchError
from ..fold import PARTS
from ._listing import by_number, ending, files_in
from ._read import need_file

#: what eva's manifests and MIL_BASELINE's split files have in their headers
EVA_COLUMNS = frozenset({"embeddings", "target", "split"})
MIL_BASELINE_COLUMNS = frozenset(f"{part}_slide_path" for part in PARTS)


def claimed(folder: Path) -> str | None:
    """Name the format whose marks a folder bears next to its feature files; None: it may be of any that needs none."""
    if slideflow_bags(folder):
        return "slideflow"
    if eva_manifest(folder) is not None:
        return "eva"
    if next(split_files(folder), None) is not None:
        return "mil_baseline"
    if torchmil_base(folder) is not None and next(bag_arrays(folder), None) is not None:
        return "torchmil"
    return "tiatoolbox" if tiatoolbox_pairs(folder) else None


def slideflow_bags(folder: Path) -> bool:
    """Whether a folder holds slideflow's record of the extractor, or the places of the tiles of a bag."""
    places = (path for path in files_in(folder, ".npz", ".npy") if path.stem.endswith(".index"))
    return (folder / "bags_config.json").is_file() or next(places, None) is not None


def tiatoolbox_pairs(folder: Path) -> dict[str, list[Path]]:
    """Return TIAToolbox's files by slide: ``S.features.0.npy``, one a head of the model, with ``S.position.npy``.

    Where one slide has its positions, features without them are of this kind, too.
    """
    pairs: dict[str, list[Path]] = {}
    paired = False
    there = {path.stem: path for path in files_in(folder, ".npy")}
    for stem, path in there.items():
        match = re.fullmatch(r"(.+)\.features(\.\d+)?", stem)
        if match is not None:
            pairs.setdefault(match[1], []).append(path)
            paired = paired or f"{match[1]}.position" in there
    return pairs if paired else {}


def eva_manifest(source: Path) -> Path | None:
    """Return the manifest that a source is or holds, by its columns."""
    path = source / "manifest.csv" if source.is_dir() else source
    return path if ending(path) == ".csv" and set(columns(path)) >= EVA_COLUMNS else None


def split_files(source: Path) -> Iterator[Path]:
    """Give MIL_BASELINE's split files that a source is or holds, by their columns; in natural order of their names."""
    files = files_in(source, ".csv") if source.is_dir() else [source] if ending(source) == ".csv" else []
    for path in sorted(files, key=lambda path: by_number(path.name)):
        if MIL_BASELINE_COLUMNS & set(columns(path)):
            yield path


def bag_arrays(folder: Path) -> Iterator[Path]:
    """Give the files of a folder that torchmil would read."""
    yield from files_in(folder, ".npy")
    yield from files_in(folder, ".h5")


def is_torchmil_base(folder: Path) -> bool:
    """Whether a folder holds features/ and labels/, the latter with one array a bag."""
    return (folder / "features").is_dir() and next(bag_arrays(folder / "labels"), None) is not None


def torchmil_base(features: Path) -> Path | None:
    """Return the folder that a torchmil folder features/, or features/features_ENCODER/, belongs to."""
    features = features.absolute()  # as "." has no name
    own = features.parent if features.name.startswith("features_") else features
    return own.parent if own.name == "features" and is_torchmil_base(own.parent) else None


def columns(path: Path) -> list[str]:
    """Return the column names of a csv from its first line alone; none where it is no readable text."""
    if not path.is_file():
        return []
    try:
        with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
            line = file.readline(1 << 16)
        return [cell.strip() for cell in next(csv.reader([line], delimiter=max(",;\t", key=line.count)), [])]
    except (OSError, csv.Error):
        return []


def listed_file(table: Path, name: str, absolute: bool) -> Path:
    """Find a feature file that a csv names.

    Args:
        table: the csv; relative names start at its folder.
        name: the cell.
        absolute: whether the tool writes absolute names too.

    Raises:
        MilbenchError: the name leads out of the csv's folder, or to no file.
    """
    outside = os.path.normpath(name).split(os.sep)[0] == os.pardir
    if outside or (os.path.isabs(name) and not absolute):
        raise MilbenchError(
            f"{table} lists {name!r}, which lies outside {table.parent}; move the file there.", code="path-outside"
        )
    path = Path(os.path.normpath(table.parent / name))
    need_file(path, f"{table} lists it, so add it or take its rows out")
    return path


def label_text(value: str) -> str:
    """Write 1.0 as 1: tools that keep labels in a column with empty cells turn them into reals."""
    return value.split(".")[0] if re.fullmatch(r"-?\d+\.0*", value) else value
