"""torchmil: features/, labels/ and where there are any coords/, one .npy or .h5 file a bag in each, and splits.csv.

Castro-Macías et al., torchmil: A PyTorch-based library for deep Multiple Instance Learning, 2025. features/ may hold
one folder features_{encoder}/ for each encoder, and the whole may lie in a folder patches_{size}/ next to splits.csv
(``bag_name,split``): positions are then ``size`` apart. Arrays in .h5 files are named like their folder. Labels of
instances (patch_labels/, inst_labels/) are not read.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import MilbenchError
from ...formatting.text import count, some
from ..splits.files import read_fold
from . import FileSlides, Slides, SourceSlide, SourceTable
from ._arrays import bag, coords_wanted
from ._listing import ending
from ._marks import bag_arrays, is_torchmil_base, torchmil_base
from ._read import h5_array, h5_coords, npy_array, open_h5
from ._rows import h5_rows, npy_rows

NAME = "torchmil"


@dataclass(frozen=True)
class _Place:
    """Where things are.

    Attributes:
        base: the folder of features/ and labels/.
        features: the folder of the feature files.
    """

    base: Path
    features: Path

    @property
    def meta(self) -> dict[str, Any]:
        """Encoder and patch size, as far as folders are named by them."""
        meta: dict[str, Any] = {}
        if self.features.name.startswith("features_"):
            meta["encoder"] = self.features.name.removeprefix("features_")
        if match := re.fullmatch(r"patches_(\d+)", self.base.name):
            meta["patch_size"] = int(match[1])
        return meta

    @property
    def splits(self) -> Path | None:
        """The file of the splits, next to features/ or to patches_{size}/."""
        folders = [self.base, self.base.parent] if self.base.name.startswith("patches_") else [self.base]
        return next((path for folder in folders if (path := folder / "splits.csv").is_file()), None)


def detect(source: Path) -> str | None:
    """Recognise features/ with labels/ next to it, given as their folder, the one above, or the features themselves."""
    place = _place(source)
    if place is None:
        return None
    extra = {"coords": _files(place.base / "coords"), "splits.csv": place.splits}
    also = " and ".join(name for name, there in extra.items() if there)
    return f"torchmil bags in {place.features}: {count(len(_files(place.features)), 'file')}{also and f', with {also}'}"


def open_source(source: Path) -> Slides:
    """Open the bags; one without a file in coords/ has no coordinates."""
    place = _place(source)
    if place is None:
        raise MilbenchError(
            f"{source} holds no bags of torchmil; give the folder of features/ and labels/.", code="format-mismatch"
        )
    meta, coords = place.meta, _files(place.base / "coords")

    def load(slide: str, path: Path) -> SourceSlide:
        features = _array(path, "features", "f")
        where = coords.get(slide) if coords_wanted() else None
        places = _array(where, "coords", "iufV") if where is not None else _own_coords(path)
        x, xy = bag(path, features, places, where)
        step = {"coord_step": float(meta["patch_size"])} if xy is not None and "patch_size" in meta else {}
        return SourceSlide(slide, x, xy, meta | step, path)

    def companions(slide: str, _: Path) -> list[Path]:
        return [coords[slide]] if slide in coords else []

    return FileSlides(_files(place.features), load, companions, lambda: _table(place), _rows)


def _rows(path: Path) -> int | None:
    return npy_rows(path) if ending(path) == ".npy" else h5_rows(path, "features")


def _array(path: Path, key: str, kinds: str) -> np.ndarray:
    if ending(path) == ".npy":
        return npy_array(path, kinds)
    with open_h5(path) as file:
        array = h5_array(file, key, path, kinds)
        if array is None:
            raise MilbenchError(
                f"{path} has no dataset {key!r} (it has {', '.join(file) or 'none'}).", code="features-missing"
            )
        return array


def _own_coords(path: Path) -> np.ndarray | None:
    """Read positions that an .h5 file of features holds itself."""
    if ending(path) == ".npy":
        return None
    with open_h5(path) as file:
        return h5_coords(file, path)


def _table(place: _Place) -> SourceTable:
    labels = {bag: _label(path) for bag, path in sorted(_files(place.base / "labels").items())}
    folds = () if place.splits is None else (read_fold(place.splits),)
    return SourceTable(labels or None, None, folds)


def _label(path: Path) -> str:
    """Read the label of a bag: one number, in an array of any shape; 1.0 is class 1."""
    values = _array(path, "labels", "biuf")
    if values.size != 1 or not np.isfinite(values).all():
        raise MilbenchError(
            f"{path} must hold one label, got an array of shape {values.shape}; give one class a bag.",
            code="labels-no-classes",
        )
    value = float(values.reshape(-1)[0])
    return str(int(value)) if value.is_integer() else str(value)


def _place(source: Path) -> _Place | None:
    """Find features and labels.

    Raises:
        MilbenchError: there are several patch sizes or encoders to choose from.
    """
    if not source.is_dir():
        return None
    source = source.absolute()  # as "." has no name
    if (base := torchmil_base(source)) is not None:
        return _Place(base, source) if _files(source) else _encoder(base) if source.name == "features" else None
    bases = [folder for folder in (source, *sorted(source.glob("patches_*"))) if is_torchmil_base(folder)]
    if len(bases) > 1:
        names = some([folder.name for folder in bases])
        raise MilbenchError(
            f"{source} holds bags of {len(bases)} patch sizes ({names}); give the folder of one.",
            code="features-two-kinds",
        )
    return _encoder(bases[0]) if bases else None


def _encoder(base: Path) -> _Place | None:
    folders = [base / "features", *sorted((base / "features").glob("features_*"))]
    encoders = [folder for folder in folders if folder.is_dir() and _files(folder)]
    if len(encoders) > 1:
        names = some([folder.name for folder in encoders])
        raise MilbenchError(
            f"{base} holds features of {len(encoders)} encoders ({names}); give the folder of one.",
            code="features-two-kinds",
        )
    return _Place(base, encoders[0]) if encoders else None


def _files(folder: Path) -> dict[str, Path]:
    """Return the files of a folder by the names of their bags.

    Raises:
        MilbenchError: two files of one bag.
    """
    files: dict[str, Path] = {}
    for path in bag_arrays(folder):
        if path.stem in files:
            raise MilbenchError(
                f"{files[path.stem]} and {path} are two files of one bag; remove one.", code="slide-twice"
            )
        files[path.stem] = path
    return files
