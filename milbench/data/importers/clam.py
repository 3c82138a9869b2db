"""CLAM: a folder with h5_files/ (features, coords) or pt_files/ (bare tensors), one file a slide.

Lu et al., Data-efficient and weakly supervised computational pathology on whole-slide images, Nature Biomedical
Engineering 2021. Coordinates are (x, y) in level-0 pixels; for pt_files/ they come from ``patches/{slide}.h5``, or
from h5_files/ next to it. Folders below are read too, where their files are of the same kind; a slide is named by its
file, whatever its folder. Batches may have h5_files/ and pt_files/ of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...errors import MilbenchError
from . import FileSlides, Slides, SourceSlide
from ._arrays import Array, bag
from ._listing import LAYOUT, by_stem, ending, files_in, folders_in, gather, not_read, several_folders
from ._marks import claimed
from ._probe import folder_kind
from ._read import (
    finite,
    h5_array,
    h5_attributes,
    h5_coords,
    h5_features_key,
    h5_names,
    open_h5,
    pt_kind,
    torch_few_rows,
    torch_tensor,
)
from ._rows import h5_rows, torch_rows

NAME = "clam"

_TWINS_COMPARED = 8


def detect(source: Path) -> str | None:
    """Recognise the folder that contains h5_files/ or pt_files/, one of these itself, or folders of such files."""
    files, twins = _files(source)
    if not files:
        return None
    h5 = sum(ending(path) == ".h5" for path in files.values())
    patches = "" if h5 == len(files) or not (places := _patches(source)) else f", coordinates from {places[0].name}/"
    also = f"; the .pt files of {len(twins)} of them are there too" if twins else ""
    also += not_read(source, [*files.values(), *twins.values(), *_no_slides(source)])
    return f"CLAM features in {source}: {h5} .h5 and {len(files) - h5} .pt files{patches}{also}"


def open_source(source: Path) -> Slides:
    """Open the slides; one that is there as .h5 and as .pt is read from the .h5 file, if both hold the same numbers."""
    places = _patches(source)
    files, twins = _files(source)

    def load(slide: str, path: Path) -> SourceSlide:
        if ending(path) != ".h5":
            return _read_pt(slide, path, places)
        features = _read_h5(slide, path)
        if slide in twins and features.features.ndim == 2 and len(features.features):
            _refuse_other_numbers(path, features.features, twins[slide])
        return features

    def companions(slide: str, path: Path) -> list[Path]:
        return [] if ending(path) == ".h5" else [place / f"{slide}.h5" for place in places]

    return FileSlides(files, load, companions, rows=_rows)


def _read_h5(slide: str, path: Path) -> SourceSlide:
    with open_h5(path) as file:
        key = h5_features_key(file, path)
        if key is None:
            return SourceSlide(slide, np.zeros(0, np.float32), None, {}, path)
        features = h5_array(file, key, path, "f")
        assert features is not None
        said = h5_attributes(file, key, ("encoder", "extractor")) | h5_attributes(file, "/", ("encoder", "extractor"))
        coords = h5_coords(file, path)
    encoder = {"encoder": str(next(iter(said.values())))} if said else {}
    x, xy = bag(path, features, coords)
    return SourceSlide(slide, x, xy, encoder | _meta(xy), path)


def _read_pt(slide: str, path: Path, places: list[Path]) -> SourceSlide:
    features: Array = torch_tensor(path)
    coords: Array | None = None
    meta: dict[str, Any] = {}
    where = next((file for place in places if (file := place / f"{slide}.h5").is_file()), None)
    if where is not None:
        with open_h5(where) as file:
            coords = h5_coords(file, where)
            there = "coords" in h5_names(file)
            attributes = h5_attributes(file, "coords", ("patch_size", "downsample")) if there else {}
        meta = _meta(coords)
        if (size := finite(attributes, "patch_size")) is not None:
            meta["patch_size"] = round(size)
            # One patch covers patch_size pixels of its own level, each `downsample` pixels of level 0 wide.
            meta["coord_step"] = size * (finite(attributes, "downsample") or 1)
    features, coords = bag(path, features, coords, where)
    return SourceSlide(slide, features, coords, meta, path)


def _refuse_other_numbers(path: Path, features: Array, twin: Path) -> None:
    """Refuse a slide whose .pt file holds other numbers than its .h5 file: features of another encoder.

    Some rows are compared, in half precision, as either may have been stored so.
    """
    other, rows = torch_few_rows(twin, _TWINS_COMPARED)
    shape = tuple(features.shape)
    same = rows is not None and other == shape
    if rows is not None and same:
        at = np.unique(np.linspace(0, shape[0] - 1, min(shape[0], _TWINS_COMPARED)).round().astype(int))
        mine = np.asarray(features)[at].astype(np.float64)
        if not np.isfinite(mine).all():
            return  # which is refused with its row
        scale = max(float(np.abs(mine).max(initial=0.0)), 1e-30)
        same = bool(np.allclose(mine, rows.to(torch.float64).numpy(), rtol=1e-2, atol=2e-3 * scale))
    if not same:
        raise MilbenchError(
            f"{path} and {twin} are one slide with other numbers, so of two encoders or versions; give the folder of "
            f"one of them.",
            code="slide-twice",
        )


def _rows(path: Path) -> int | None:
    return h5_rows(path, "features") if ending(path) == ".h5" else torch_rows(path)


def _meta(coords: Array | None) -> dict[str, Any]:
    return {} if coords is None else {"units": "level-0 pixels"}


def _files(source: Path) -> tuple[dict[str, Path], dict[str, Path]]:
    """Return the files of the slides, and the .pt files of those that are read from an .h5 file."""
    if not source.is_dir() or any(claimed(folder) for folder in (source, source / "pt_files")):
        return {}, {}
    if _has_layout(source):
        homes = [source, *_batches(source)]
        h5 = [
            path
            for home in homes
            if (place := home / "h5_files").is_dir()
            for path in gather(place, (".h5",), _holds_h5)
        ]
        pt = [
            path
            for home in homes
            if (place := home / "pt_files").is_dir()
            for path in gather(place, (".pt",), _holds_pt)
        ]
        return _paired(h5, pt)
    here = files_in(source, ".h5", ".pt")
    if not here and not several_folders(source, (".h5", ".pt"), _of_clam, LAYOUT):
        return {}, {}
    # In a folder that is given itself, .pt files that do not load are refused as such, not as being of no format.
    if here and not (_holds_h5(here) or _holds_pt(here, ("Tensor", "list", None))):
        return {}, {}
    if len({ending(path) for path in files_in(source, ".npy", ".npz", ".safetensors", ".parquet")}):
        return {}, {}
    files = gather(source, (".h5", ".pt"), _of_clam)
    return _paired(
        [path for path in files if ending(path) == ".h5"], [path for path in files if ending(path) == ".pt"]
    )  # fmt: skip


def _has_layout(folder: Path) -> bool:
    return any((folder / name).is_dir() for name in LAYOUT)


def _batches(source: Path) -> list[Path]:
    """Return the folders in a folder that have CLAM's layout themselves."""
    return [folder for folder in folders_in(source) if folder.name not in LAYOUT and _has_layout(folder)]


def _of_clam(files: Sequence[Path]) -> bool:
    return claimed(files[0].parent) is None and (_holds_h5(files) or _holds_pt(files))


def _paired(h5: Sequence[Path], pt: Sequence[Path]) -> tuple[dict[str, Path], dict[str, Path]]:
    first, second = by_stem(h5), by_stem(pt)
    return second | first, {slide: path for slide, path in second.items() if slide in first}


def _holds_h5(files: Sequence[Path]) -> bool:
    """Tell CLAM's bare files from TRIDENT's, which describe themselves in attributes."""
    h5 = [path for path in files if ending(path) == ".h5"]
    return bool(h5) and folder_kind(h5) == "clam"


def _holds_pt(files: Sequence[Path], kinds: tuple[str | None, ...] = ("Tensor",)) -> bool:
    """Whether there are .pt files alone, of bare tensors: tensors by name are no tool's."""
    return all(ending(path) == ".pt" for path in files) and bool(files) and pt_kind(sorted(files)) in kinds


def _no_slides(source: Path) -> list[Path]:
    return [path for place in _patches(source) for path in files_in(place, ".h5")]


def _patches(source: Path) -> list[Path]:
    """Return the folders that may hold the coordinates of bare tensors, the likeliest first."""
    places = [source / "patches", source.parent / "patches"]
    if source.name == "pt_files":
        places = [source.parent / "h5_files", *places, source.parent.parent / "patches"]
    places += [batch / "patches" for batch in _batches(source)]
    return [place for place in places if place.is_dir()]
