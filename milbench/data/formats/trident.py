"""TRIDENT: {job}/{mag}x_{size}px_{overlap}px_overlap/features_{encoder}/, one self-describing .h5 file a slide.

Zhang et al., Accelerating Data Processing and Benchmarking of AI Models for Pathology, 2025. Coordinates are (x, y) in
level-0 pixels and lie ``patch_size_level0`` apart, which differs from slide to slide with the scanner's magnification.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ...errors import MilbenchError
from . import FileSlides, Slides, SourceSlide
from ._marks import claimed
from ._read import finite, h5_array, h5_attributes, h5_dataset, open_h5, same_rows
from ._rows import h5_rows

NAME = "trident"


def detect(source: Path) -> str | None:
    """Recognise a features_{encoder} folder, its parent or the job folder."""
    folder = _folder(source)
    if folder is None:
        return None
    named = ", ".join(f"{key} {value}" for key, value in _from_path(folder).items())
    return f"TRIDENT features in {folder}: {len(list(folder.glob('*.h5')))} .h5 files{f' ({named})' if named else ''}"


def open_source(source: Path) -> Slides:
    """Open the slides of the one run that is there."""
    folder = _folder(source)
    if folder is None:
        raise MilbenchError(f"{source} holds no TRIDENT features; give the features_ENCODER folder.")
    return FileSlides(
        {path.stem: path for path in folder.glob("*.h5")}, read_h5, rows=lambda path: h5_rows(path, "features")
    )


def read_h5(slide: str, path: Path) -> SourceSlide:
    """Read a file with ``features`` and, where there are any, ``coords``, and what their attributes say.

    Raises:
        MilbenchError: it is damaged, has no features, or coordinates of another number.
    """
    with open_h5(path) as file:
        features = h5_array(file, "features", path, "f")
        if features is None:
            raise MilbenchError(f"{path} has no dataset 'features' (it has {', '.join(file) or 'none'}).")
        coords = h5_array(file, "coords", path, "iuf")
        meta = _from_path(path.parent) | _from_attributes(file, coords is not None)
    if features.shape[:1] != (0,):
        same_rows(path, features, coords)
    return SourceSlide(slide, features, coords, meta, path)


def _from_path(folder: Path) -> dict[str, Any]:
    meta: dict[str, Any] = {}
    if folder.name.startswith("features_"):
        meta["encoder"] = folder.name.removeprefix("features_")
    if match := re.match(r"(\d+(?:\.\d+)?)x_(\d+)px", folder.parent.name):
        meta["magnification"], meta["patch_size"] = float(match[1]), int(match[2])
    return meta


def _from_attributes(file: Any, has_coords: bool) -> dict[str, Any]:
    meta: dict[str, Any] = {}
    if "encoder" in (found := h5_attributes(file, "features", ("encoder",))):
        meta["encoder"] = str(found["encoder"])
    if has_coords:
        found = h5_attributes(file, "coords", ("target_magnification", "patch_size", "patch_size_level0"))
        meta["units"] = "level-0 pixels"
        if (magnification := finite(found, "target_magnification")) is not None:
            meta["magnification"] = magnification
        if (size := finite(found, "patch_size")) is not None:
            meta["patch_size"] = int(size)
        if (step := finite(found, "patch_size_level0")) is not None:
            meta["coord_step"] = step
    return meta


def _folder(source: Path) -> Path | None:
    if not source.is_dir():
        return None
    if _is_trident(source):
        return source
    below = sorted({*source.glob("features_*"), *source.glob("*x_*px*/features_*")})
    found = [folder for folder in below if folder.is_dir() and _is_trident(folder)]
    if len(found) > 1:
        names = ", ".join(str(folder.relative_to(source)) for folder in found)
        raise MilbenchError(f"{source} holds features of {len(found)} runs ({names}); give the one to read.")
    return found[0] if found else None


def _is_trident(folder: Path) -> bool:
    first = min(folder.glob("*.h5"), default=None)
    if first is None or claimed(folder) is not None:
        return False
    with open_h5(first) as file:
        features, coords = h5_dataset(file, "features", first, "f"), h5_dataset(file, "coords", first, "iuf")
        if features is None:
            return False
        return "encoder" in features.attrs or (coords is not None and "patch_size_level0" in coords.attrs)
