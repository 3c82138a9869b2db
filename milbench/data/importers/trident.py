"""TRIDENT: {job}/{mag}x_{size}px_{overlap}px_overlap/features_{encoder}/, one self-describing .h5 file a slide.

Zhang et al., Accelerating Data Processing and Benchmarking of AI Models for Pathology, 2025. Coordinates are (x, y) in
level-0 pixels and lie ``patch_size_level0`` apart, which differs from slide to slide with the scanner's magnification.
Folders below that of the features are read too; a slide is named by its file, whatever its folder.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import MilbenchError
from . import FileSlides, Slides, SourceSlide
from ._arrays import bag
from ._listing import by_stem, files_in, gather, not_read, several_folders
from ._marks import claimed
from ._probe import folder_kind
from ._read import finite, h5_array, h5_attributes, h5_coords, h5_features_key, h5_names, open_h5
from ._rows import h5_rows

NAME = "trident"


def detect(source: Path) -> str | None:
    """Recognise a features_{encoder} folder, its parent or the job folder."""
    folder = _folder(source)
    if folder is None:
        return None
    named = ", ".join(f"{key} {value}" for key, value in _from_path(folder).items())
    files = _files(folder)
    also = not_read(folder, files.values())
    return f"TRIDENT features in {folder}: {len(files)} .h5 files{f' ({named})' if named else ''}{also}"


def open_source(source: Path) -> Slides:
    """Open the slides of the one run that is there."""
    folder = _folder(source)
    if folder is None:
        raise MilbenchError(
            f"{source} holds no TRIDENT features; give the features_ENCODER folder.", code="format-mismatch"
        )
    return FileSlides(_files(folder), read_h5, rows=lambda path: h5_rows(path, "features"))


def read_h5(slide: str, path: Path) -> SourceSlide:
    """Read a file with ``features`` and, where there are any, ``coords``, and what their attributes say.

    Raises:
        MilbenchError: it is damaged, has no features, or coordinates of another number.
    """
    with open_h5(path) as file:
        key = h5_features_key(file, path)
        features = np.zeros(0, np.float32) if key is None else h5_array(file, key, path, "f")
        assert features is not None
        coords = h5_coords(file, path)
        meta = _from_path(path.parent) | _from_attributes(file, key, h5_names(file))
    if features.shape[:1] == (0,):
        return SourceSlide(slide, features, None, meta, path)
    x, xy = bag(path, features, coords)
    return SourceSlide(slide, x, xy, meta, path)


def _from_path(folder: Path) -> dict[str, Any]:
    meta: dict[str, Any] = {}
    if folder.name.startswith("features_"):
        meta["encoder"] = folder.name.removeprefix("features_")
    if match := re.match(r"(\d+(?:\.\d+)?)x_(\d+)px", folder.parent.name):
        meta["magnification"], meta["patch_size"] = float(match[1]), int(match[2])
    return meta


def _from_attributes(file: Any, features: str | None, names: Collection[str]) -> dict[str, Any]:
    meta: dict[str, Any] = {}
    attributes = {} if features is None else h5_attributes(file, features, ("encoder",))
    if "encoder" in attributes:
        meta["encoder"] = str(attributes["encoder"])
    if "coords" in names:
        attributes = h5_attributes(file, "coords", ("target_magnification", "patch_size", "patch_size_level0"))
        meta["units"] = "level-0 pixels"
        if (magnification := finite(attributes, "target_magnification")) is not None:
            meta["magnification"] = magnification
        if (size := finite(attributes, "patch_size")) is not None:
            meta["patch_size"] = int(size)
        if (step := finite(attributes, "patch_size_level0")) is not None:
            meta["coord_step"] = step
    return meta


def _folder(source: Path) -> Path | None:
    """Return the folder of one run, which may hold folders of slides in its turn."""
    if not source.is_dir():
        return None
    if _is_trident(source):
        return source
    below = {*source.glob("features_*"), *source.glob("*x_*px*/features_*")}
    runs = [folder for folder in sorted(below) if folder.is_dir() and (_is_trident(folder) or _holds_folders(folder))]
    if len(runs) > 1:
        names = ", ".join(str(folder.relative_to(source)) for folder in runs)
        raise MilbenchError(
            f"{source} holds features of {len(runs)} runs ({names}); give the one to read.", code="features-two-kinds"
        )
    if runs:
        return runs[0]
    return source if _holds_folders(source) else None


def _holds_folders(folder: Path) -> bool:
    """Whether a folder without .h5 files of its own has folders of slides, as batches."""
    if files_in(folder, ".h5") or claimed(folder) is not None:
        return False
    return several_folders(folder, (".h5",), lambda files: _is_trident(files[0].parent))


def _files(folder: Path) -> dict[str, Path]:
    return by_stem(gather(folder, (".h5",), lambda files: folder_kind(files) == "trident"))


def _is_trident(folder: Path) -> bool:
    files = files_in(folder, ".h5")
    return bool(files) and claimed(folder) is None and folder_kind(files) == "trident"
