"""npz: one packed .npz file with features, bag_offsets, bag_label and bag_name (classical sets, small cohorts).

Keys: ``features`` float (N, d) in bag order; ``bag_offsets`` (B + 1); ``bag_label`` (B); where they exist ``bag_name``
(B), ``folds`` (R, B) the test-fold index of every bag in R published repetitions, ``instance_label`` (N, -1 unknown),
``inst_xy`` (N, 2) positions.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...errors import MilbenchError
from ..splits import Fold
from . import Slides, SourceSlide, SourceTable

NAME = "npz"


@dataclass(frozen=True)
class Packed:
    """The arrays of a packed file, checked.

    Attributes:
        features: (N, d) floating point.
        offsets: (B + 1) int64, rising from 0 to N.
        labels: B label values as text.
        names: B distinct names.
        folds: (R, B) int64 test-fold indices, or None.
        coords: (N, 2), or None.
    """

    features: np.ndarray
    offsets: np.ndarray
    labels: tuple[str, ...]
    names: tuple[str, ...]
    folds: np.ndarray | None
    coords: np.ndarray | None

    def published_folds(self) -> Iterator[Fold]:
        """Give a fold ``r{repetition}-f{fold}`` for every test index of every repetition; bags with -1 are in none."""
        for r, row in enumerate(() if self.folds is None else self.folds):
            for k in sorted({int(value) for value in row if value >= 0}):
                test = tuple(name for name, value in zip(self.names, row, strict=True) if value == k)
                train = tuple(name for name, value in zip(self.names, row, strict=True) if value >= 0 and value != k)
                yield Fold(f"r{r}-f{k}", train, (), test)


def detect(source: Path) -> str | None:
    """Recognise a .npz file by its keys."""
    if source.suffix != ".npz" or not source.is_file():
        return None
    packed = read_packed(source)
    extra = [
        what for what, there in (("published folds", packed.folds), ("positions", packed.coords)) if there is not None
    ]
    also = f", with {' and '.join(extra)}" if extra else ""
    return f"packed bags in {source}: {len(packed.names)} bags of {len(packed.features)} instances{also}"


def open_source(source: Path) -> Slides:
    """Open the bags, in stored order."""
    return PackedSlides(read_packed(source), source)


class PackedSlides(Slides):
    """The bags of packed arrays that are in memory."""

    def __init__(self, packed: Packed, path: Path) -> None:
        super().__init__(packed.names)
        self.packed, self.path = packed, path

    def load(self, i: int) -> SourceSlide:
        """Return a view of one bag's rows."""
        rows = slice(self.packed.offsets[i], self.packed.offsets[i + 1])
        coords = None if self.packed.coords is None else self.packed.coords[rows]
        meta = {"units": "pixels"} if coords is not None else {}
        return SourceSlide(self.ids[i], self.packed.features[rows], coords, meta, self.path)

    def files(self, i: int) -> tuple[Path, ...]:
        """Return the one file."""
        return (self.path,)

    def table(self) -> SourceTable:
        """Return the labels and the published folds, which have no validation part."""
        labels = dict(zip(self.ids, self.packed.labels, strict=True))
        return SourceTable(labels, None, tuple(self.packed.published_folds()))


def read_packed(path: Path) -> Packed:
    """Read and check a packed file.

    Raises:
        MilbenchError: the file is damaged, a key is missing, shapes do not fit, or a column gives the label away.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
    except FileNotFoundError:
        raise MilbenchError(f"{path} does not exist.") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, AttributeError) as error:
        raise MilbenchError(
            f"{path} is no readable .npz of plain arrays ({error}); write it again with numpy.savez."
        ) from None
    missing = [key for key in ("features", "bag_offsets", "bag_label") if key not in arrays]
    if missing:
        raise MilbenchError(f"{path} lacks {', '.join(missing)}; it has {', '.join(arrays) or 'nothing'}.")
    features, offsets, labels = arrays["features"], arrays["bag_offsets"], arrays["bag_label"]
    if features.ndim != 2 or features.dtype.kind != "f":
        raise MilbenchError(
            f"features of {path} must be floating point of shape (rows, dim), got {features.dtype} {features.shape}."
        )
    good = offsets.ndim == 1 and offsets.dtype.kind in "iu" and len(offsets) > 1
    if not good or offsets[0] != 0 or offsets[-1] != len(features) or (np.diff(offsets.astype(np.int64)) < 0).any():
        raise MilbenchError(f"bag_offsets of {path} must rise from 0 to {len(features)}, the number of rows.")
    bags = len(offsets) - 1
    names = arrays.get("bag_name", np.array([f"bag{i:04d}" for i in range(bags)]))
    for key, array in (("bag_label", labels), ("bag_name", names)):
        if array.shape != (bags,):
            raise MilbenchError(
                f"{key} of {path} must have one value for each of the {bags} bags, got shape {array.shape}."
            )
    folds, coords = arrays.get("folds"), arrays.get("inst_xy")
    if folds is not None and (folds.ndim != 2 or folds.shape[1] != bags or folds.dtype.kind not in "iu"):
        raise MilbenchError(f"folds of {path} must be integers of shape (repetitions, {bags}), got {folds.shape}.")
    if coords is not None and coords.shape != (len(features), 2):
        raise MilbenchError(f"inst_xy of {path} must have shape ({len(features)}, 2), got {coords.shape}.")
    _refuse_labels_among_features(path, features, np.diff(offsets), labels, arrays.get("instance_label"))
    return Packed(
        features,
        offsets.astype(np.int64),
        tuple(str(value) for value in labels.tolist()),
        tuple(str(name) for name in names.tolist()),
        None if folds is None else folds.astype(np.int64),
        coords,
    )


def _refuse_labels_among_features(
    path: Path, features: np.ndarray, lengths: np.ndarray, labels: np.ndarray, instance_labels: np.ndarray | None
) -> None:
    """Refuse a column that is the label: some copies of MUSK1 carry the instance label as a 167th feature."""
    answers = []
    if labels.dtype.kind in "iufb":
        answers.append(("bag", np.repeat(labels.astype(float), lengths)))
    if (
        instance_labels is not None
        and instance_labels.shape == (len(features),)
        and instance_labels.dtype.kind in "iufb"
    ):
        answers.append(("instance", instance_labels.astype(float)))
    for what, answer in answers:
        if len(np.unique(answer)) < 2:
            continue
        for code in (answer, 2 * answer - 1):
            columns = np.flatnonzero((features == code[:, None]).all(0))
            if len(columns):
                raise MilbenchError(
                    f"column {columns[0]} of the {features.shape[1]} features in {path} is the {what} label itself "
                    f"(as in the 167-column copies of MUSK1); remove that column."
                )
