"""CLAM: a folder with h5_files/ (features, coords) or pt_files/ (bare tensors), one file a slide.

Lu et al., Data-efficient and weakly supervised computational pathology on whole-slide images, Nature Biomedical
Engineering 2021. Coordinates are (x, y) in level-0 pixels; for pt_files/ they come from ``patches/{slide}.h5``, or
from h5_files/ beside it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ...errors import MilbenchError
from . import FileSlides, Slides, SourceSlide
from ._marks import claimed
from ._read import finite, h5_array, h5_attributes, h5_dataset, holds_names, open_h5, same_rows, torch_tensor
from ._rows import h5_rows, torch_rows

NAME = "clam"


def detect(source: Path) -> str | None:
    """Recognise the folder that contains h5_files/ or pt_files/, or one of these itself."""
    files = _files(source)
    if not files:
        return None
    h5 = sum(path.suffix == ".h5" for path in files.values())
    patches = "" if h5 == len(files) or not (places := _patches(source)) else f", coordinates from {places[0].name}/"
    return f"CLAM features in {source}: {h5} .h5 and {len(files) - h5} .pt files{patches}"


def open_source(source: Path) -> Slides:
    """Open the slides; one that is in both folders is read from h5_files/."""
    places = _patches(source)

    def load(slide: str, path: Path) -> SourceSlide:
        return _read_h5(slide, path) if path.suffix == ".h5" else _read_pt(slide, path, places)

    def beside(slide: str, path: Path) -> list[Path]:
        return [] if path.suffix == ".h5" else [place / f"{slide}.h5" for place in places]

    return FileSlides(_files(source), load, beside, rows=_rows)


def _read_h5(slide: str, path: Path) -> SourceSlide:
    with open_h5(path) as file:
        features = h5_array(file, "features", path, "f")
        if features is None:
            raise MilbenchError(f"{path} has no dataset 'features' (it has {', '.join(file) or 'none'}).")
        coords = h5_array(file, "coords", path, "iuf")
    same_rows(path, features, coords)
    return SourceSlide(slide, features, coords, _meta(coords), path)


def _read_pt(slide: str, path: Path, places: list[Path]) -> SourceSlide:
    features = torch_tensor(path)
    coords, meta = None, {}
    where = next((file for place in places if (file := place / f"{slide}.h5").is_file()), None)
    if where is not None:
        with open_h5(where) as file:
            coords = h5_array(file, "coords", where, "iuf")
            found = {} if coords is None else h5_attributes(file, "coords", ("patch_size", "downsample"))
        meta = _meta(coords)
        if (size := finite(found, "patch_size")) is not None:
            meta["patch_size"] = round(size)
            # One patch covers patch_size pixels of its own level, each `downsample` pixels of level 0 wide.
            meta["coord_step"] = size * (finite(found, "downsample") or 1)
        same_rows(path, features, coords, where)
    return SourceSlide(slide, features, coords, meta, path)


def _rows(path: Path) -> int | None:
    return h5_rows(path, "features") if path.suffix == ".h5" else torch_rows(path)


def _meta(coords: np.ndarray | None) -> dict[str, Any]:
    return {} if coords is None else {"units": "level-0 pixels"}


def _files(source: Path) -> dict[str, Path]:
    if not source.is_dir() or any(claimed(folder) for folder in (source, source / "pt_files")):
        return {}
    found: dict[str, Path] = {}
    if (source / "h5_files").is_dir() or (source / "pt_files").is_dir():
        found |= {path.stem: path for path in (source / "pt_files").glob("*.pt")}
        found |= {path.stem: path for path in (source / "h5_files").glob("*.h5")}
        return found
    pt = {path.stem: path for path in source.glob("*.pt")}
    h5 = {path.stem: path for path in source.glob("*.h5")}
    if pt and not h5:
        return {} if holds_names(min(pt.values())) else pt  # tensors by name are no tool's
    return {} if pt or not _is_clam(h5) else h5


def _is_clam(files: dict[str, Path]) -> bool:
    """Tell CLAM's bare files from TRIDENT's, which describe themselves in attributes."""
    if not files:
        return False
    path = min(files.values())
    with open_h5(path) as file:
        features, coords = h5_dataset(file, "features", path, "f"), h5_dataset(file, "coords", path, "iuf")
        described = features is not None and "encoder" in features.attrs
        return (
            features is not None and not described and not (coords is not None and "patch_size_level0" in coords.attrs)
        )


def _patches(source: Path) -> list[Path]:
    """Return the folders that may hold the coordinates of bare tensors, the likeliest first."""
    places = [source / "patches", source.parent / "patches"]
    if source.name == "pt_files":
        places = [source.parent / "h5_files", *places, source.parent.parent / "patches"]
    return [place for place in places if place.is_dir()]
