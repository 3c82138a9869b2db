"""STAMP: {out}/{extractor}[-hash]/, one .h5 file of tile features a slide, laid out like the folder of the slides.

El Nahhas et al., From whole-slide image to biomarker prediction: end-to-end weakly supervised deep learning in
computational pathology, Nature Protocols 2025. ``feats`` float16 (N, F) and ``coords`` float32 (N, 2) in micrometres.
A slide is named as in STAMP's slide table: its file relative to the feature folder, without ``.h5``, so slides in
folders below keep these in their names. STAMP 1 wrote no units: its coordinates are pixels of 256/224 micrometres.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ...errors import MilbenchError
from . import FileSlides, Slides, SourceSlide
from ._read import files_below, finite, h5_array, h5_attributes, h5_dataset, open_h5, same_rows
from ._rows import h5_rows

NAME = "stamp"

_ATTRIBUTES = ("extractor", "encoder", "feat_type", "unit", "tile_size_um", "tile_size", "tile_size_px")
#: STAMP 1: its unit, and the tile's edge in it
_OLD_UNIT, _OLD_STEP = "pixels of 256/224 micrometres", 224


def detect(source: Path) -> str | None:
    """Recognise the folder of an extractor, or one above it that holds no other features."""
    found = _folder(source)
    if found is None:
        return None
    folder, said = found
    number = sum(1 for _ in files_below(folder, ".h5"))
    units = "in micrometres" if _is_um(said) else f"taken to be in {said.get('unit', _OLD_UNIT)}"
    encoder = said.get("extractor", "unknown")
    return f"STAMP features in {folder}: {number} .h5 files (extractor {encoder}, coordinates {units})"


def open_source(source: Path) -> Slides:
    """Open the slides of the one extractor that is there."""
    found = _folder(source)
    if found is None:
        raise MilbenchError(f"{source} holds no STAMP features; give the folder of the extractor.")
    folder, _ = found
    files = {path.relative_to(folder).with_suffix("").as_posix(): path for path in files_below(folder, ".h5")}
    return FileSlides(files, _load, rows=lambda path: h5_rows(path, "feats"))


def _load(slide: str, path: Path) -> SourceSlide:
    with open_h5(path) as file:
        said = h5_attributes(file, "/", _ATTRIBUTES)
        _need_tiles(said, path)
        features = h5_array(file, "feats", path, "f")
        if features is None:
            raise MilbenchError(f"{path} has no dataset 'feats' (it has {', '.join(file) or 'none'}).")
        coords = h5_array(file, "coords", path, "iuf")
        augmented = h5_array(file, "augmented", path, "b")
    if augmented is not None and augmented.any():
        raise MilbenchError(
            f"{path} holds {np.count_nonzero(augmented)} augmented copies among its {len(augmented)} rows, which would "
            f"count patches twice; extract the slide without augmentation."
        )
    same_rows(path, features, coords)
    meta = {"encoder": str(said["extractor"])} if "extractor" in said else {}
    return SourceSlide(slide, features, coords, meta | _grid(said, coords, path), path)


def _grid(said: dict[str, Any], coords: np.ndarray | None, path: Path) -> dict[str, Any]:
    """Return units, patch size and step; features without coordinates have no units."""
    size = finite(said, "tile_size_px")
    meta: dict[str, Any] = {} if size is None else {"patch_size": round(size)}
    if coords is None:
        return meta
    if _is_um(said):
        step = finite(said, "tile_size_um", "tile_size")
        return meta | {"units": "micrometres"} | ({} if step is None else {"coord_step": step})
    if "unit" in said:
        return meta | {"units": str(said["unit"])}
    step = _smallest_step(coords)
    if step is not None and not abs(step - _OLD_STEP) < 0.5:
        raise MilbenchError(
            f"{path} does not say the unit of its coordinates, and they lie {step:g} apart, not {_OLD_STEP} as STAMP 1 "
            f"laid its tiles; extract the slide again."
        )
    return {"patch_size": _OLD_STEP} | meta | {"units": _OLD_UNIT, "coord_step": float(_OLD_STEP)}


def _is_um(said: dict[str, Any]) -> bool:
    return said.get("unit", "um") == "um" and ("unit" in said or "tile_size_um" in said)


def _smallest_step(coords: np.ndarray) -> float | None:
    """Return the smallest distance of two columns or two rows of tiles; None where there is one of each."""
    steps = [np.diff(np.unique(axis)) for axis in coords.T] if coords.ndim == 2 else []
    return min((float(step.min()) for step in steps if step.size), default=None)


def _need_tiles(said: dict[str, Any], path: Path) -> None:
    kind = said.get("feat_type", "slide or patient" if "encoder" in said else "tile")
    if kind != "tile":
        encoder = f" by {said['encoder']}" if "encoder" in said else ""
        raise MilbenchError(
            f"{path} holds one vector of a {kind}{encoder}, not a bag of tiles; give the folder of tile features."
        )


def _folder(source: Path) -> tuple[Path, dict[str, Any]] | None:
    """Return the folder that slides are named from, and what its first file says of itself."""
    if not source.is_dir() or (source / "h5_files").is_dir():  # CLAM's, whatever its files hold
        return None
    first = next(files_below(source, ".h5", strict=False), None)
    if first is None:
        return None
    with open_h5(first) as file:
        if h5_dataset(file, "feats", first, "f") is None:
            return None
        said = h5_attributes(file, "/", _ATTRIBUTES)
    _need_tiles(said, first)
    name = str(said.get("extractor", ""))
    between = [folder for folder in first.parents if source in folder.parents and name]
    folder = next((one for one in between if one.name == name or one.name.startswith(f"{name}-")), source)
    beside = next((path for path in files_below(source, ".h5") if folder not in path.parents), None)
    if beside is not None:
        raise MilbenchError(f"{source} holds features of {name} in {folder} and others, as {beside}; give one folder.")
    return folder, said
