"""STAMP: {out}/{extractor}[-hash]/, one .h5 file of tile features a slide, laid out like the folder of the slides.

El Nahhas et al., From whole-slide image to biomarker prediction: end-to-end weakly supervised deep learning in
computational pathology, Nature Protocols 2025. ``feats`` float16 (N, F) and ``coords`` float32 (N, 2) in micrometres.
A slide is named as in STAMP's slide table: its file relative to the feature folder, without ``.h5``, so slides in
folders below keep these in their names. STAMP 1 wrote no units: its coordinates are pixels of 256/224 micrometres, and
lie 224 apart. Marugoto and HistoBistro write no units either: theirs are not known.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import MilbenchError
from . import FileSlides, Slides, SourceSlide
from ._arrays import Array, bag, coords_wanted
from ._listing import not_read
from ._marks import claimed, is_torchmil_base
from ._probe import folder_kind, h5_kind
from ._read import files_below, finite, h5_array, h5_attributes, h5_coords, h5_names, open_h5
from ._rows import h5_rows

NAME = "stamp"

_ATTRIBUTES = ("extractor", "encoder", "feat_type", "unit", "tile_size_um", "tile_size", "tile_size_px")
#: STAMP 1: its unit, and the tile's edge in it
_OLD_UNIT, _OLD_STEP = "pixels of 256/224 micrometres", 224


def detect(source: Path) -> str | None:
    """Recognise the folder of an extractor, or one above it that holds no other features."""
    directory = _folder(source)
    if directory is None:
        return None
    folder, said = directory
    files = list(files_below(folder, ".h5"))
    encoder = said.get("extractor", "unknown")
    also = not_read(folder, files)
    return f"STAMP features in {folder}: {len(files)} .h5 files (extractor {encoder}, {_units(said, files[0])}){also}"


def open_source(source: Path) -> Slides:
    """Open the slides of the one extractor that is there."""
    directory = _folder(source)
    if directory is None:
        raise MilbenchError(
            f"{source} holds no STAMP features; give the folder of the extractor.", code="format-mismatch"
        )
    folder, _ = directory
    files = {path.relative_to(folder).with_suffix("").as_posix(): path for path in files_below(folder, ".h5")}
    return FileSlides(files, _load, rows=lambda path: h5_rows(path, "feats"))


def _load(slide: str, path: Path) -> SourceSlide:
    with open_h5(path) as file:
        said = h5_attributes(file, "/", _ATTRIBUTES)
        _need_tiles(said, path)
        features = h5_array(file, "feats", path, "f")
        if features is None:
            raise MilbenchError(
                f"{path} has no dataset 'feats' (it has {', '.join(file) or 'none'}).", code="features-missing"
            )
        coords, there = h5_coords(file, path), "coords" in h5_names(file)
        augmented = h5_array(file, "augmented", path, "b")
    if augmented is not None and augmented.any():
        raise MilbenchError(
            f"{path} holds {np.count_nonzero(augmented)} augmented copies among its {len(augmented)} rows, which would "
            f"count patches twice; extract the slide without augmentation.",
            code="features-not-tiles",
        )
    x, xy = bag(path, features, coords)
    meta = {"encoder": str(said["extractor"])} if "extractor" in said else {}
    return SourceSlide(slide, x, xy, meta | _grid(said, xy, there), path)


def _grid(said: dict[str, Any], coords: Array | None, there: bool) -> dict[str, Any]:
    """Return units, patch size and step; features without coordinates have no units.

    Args:
        said: attributes of the file.
        coords: the positions; None where there are none or none are wanted.
        there: whether the file has positions.
    """
    size = finite(said, "tile_size_px")
    meta: dict[str, Any] = {} if size is None else {"patch_size": round(size)}
    if not there:
        return meta
    if _is_um(said):
        step = finite(said, "tile_size_um", "tile_size")
        return meta | {"units": "micrometres"} | ({} if step is None else {"coord_step": step})
    if "unit" in said:
        return meta | {"units": str(said["unit"])}
    step = None if coords is None else _smallest_step(np.asarray(coords))
    if coords is None or (step is not None and not abs(step - _OLD_STEP) < 0.5):
        return meta
    return {"patch_size": _OLD_STEP} | meta | {"units": _OLD_UNIT, "coord_step": float(_OLD_STEP)}


def _units(said: dict[str, Any], first: Path) -> str:
    """Return a word about the units of the coordinates, for which one slide is read where no attribute tells."""
    if _is_um(said):
        return "coordinates in micrometres"
    if not coords_wanted():
        return "coordinates not read"
    if "unit" in said:
        return f"coordinates taken to be in {said['unit']}"
    with suppress(MilbenchError):
        features = _load(first.stem, first)
        if features.coords is not None and "units" not in features.meta:
            return "coordinates of unknown unit"
    return f"coordinates taken to be in {_OLD_UNIT}"


def _is_um(said: dict[str, Any]) -> bool:
    return said.get("unit", "um") == "um" and ("unit" in said or "tile_size_um" in said)


def _smallest_step(coords: np.ndarray) -> float | None:
    """Return the smallest distance of two columns or two rows of tiles; None where there is one of each."""
    if coords.ndim != 2 or coords.dtype.kind not in "iuf":
        return None
    steps = [np.diff(np.unique(axis)) for axis in coords.T]
    return min((float(step.min()) for step in steps if step.size), default=None)


def _need_tiles(said: dict[str, Any], path: Path) -> None:
    kind = said.get("feat_type", "slide or patient" if "encoder" in said else "tile")
    if kind != "tile":
        encoder = f" by {said['encoder']}" if "encoder" in said else ""
        raise MilbenchError(
            f"{path} holds one vector of a {kind}{encoder}, not a bag of tiles; give the folder of tile features.",
            code="features-not-tiles",
        )


def _folder(source: Path) -> tuple[Path, dict[str, Any]] | None:
    """Return the folder that slides are named from, and what one of its files says of itself.

    The first of the files that hold features speaks for all of them.
    """
    if not source.is_dir() or (source / "h5_files").is_dir():  # CLAM's, whatever its files hold
        return None
    if claimed(source) is not None or is_torchmil_base(source):
        return None
    files = list(files_below(source, ".h5", strict=False))
    if not files or folder_kind(files) != "stamp":
        return None
    first = next(path for path in files if _is_stamp(path))
    with open_h5(first) as file:
        said = h5_attributes(file, "/", _ATTRIBUTES)
    _need_tiles(said, first)
    name = str(said.get("extractor", ""))
    between = [folder for folder in first.parents if source in folder.parents and name]
    folder = next((one for one in between if one.name == name or one.name.startswith(f"{name}-")), source)
    another = next((path for path in files_below(source, ".h5") if folder not in path.parents), None)
    if another is not None:
        raise MilbenchError(
            f"{source} holds features of {name} in {folder} and others, as {another}; give one folder.",
            code="features-two-kinds",
        )
    return folder, said


def _is_stamp(path: Path) -> bool:
    with suppress(MilbenchError):
        return h5_kind(path) == "stamp"
    return False
