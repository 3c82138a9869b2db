"""npz: one packed .npz file with features, bag_offsets, bag_label and bag_name (classical sets, small cohorts).

Keys: ``features`` float (N, d) in bag order; ``bag_offsets`` (B + 1); ``bag_label`` (B); where they exist ``bag_name``
(B), ``folds`` (R, B) the test-fold index of every bag in R published repetitions, ``instance_label`` (N, -1 unknown),
``inst_xy`` (N, 2) positions.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

from ...errors import MilbenchError
from ...formatting.text import some
from . import Slides
from ._label_columns import LabelColumns
from ._packed import Packed, PackedSlides
from ._read import npz_arrays

NAME = "npz"


def detect(source: Path) -> str | None:
    """Recognise a .npz file by its keys."""
    if source.suffix.lower() != ".npz" or not source.is_file():
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


def read_packed(path: Path) -> Packed:
    """Read and check a packed file.

    Raises:
        MilbenchError: the file is damaged, a key is missing, shapes do not fit, or a column gives the label away.
    """
    arrays = npz_arrays(path)
    missing = [key for key in ("features", "bag_offsets", "bag_label") if key not in arrays]
    if missing:
        raise MilbenchError(
            f"{path} lacks {', '.join(missing)}; it has {', '.join(arrays) or 'nothing'}.", code="features-missing"
        )
    features, offsets, labels = arrays["features"], arrays["bag_offsets"], arrays["bag_label"]
    if features.ndim != 2 or features.dtype.kind != "f":
        raise MilbenchError(
            f"features of {path} must be floating point of shape (rows, dim), got {features.dtype} {features.shape}.",
            code="features-bad-array",
        )
    good = offsets.ndim == 1 and offsets.dtype.kind in "iu" and len(offsets) > 1
    if not good or offsets[0] != 0 or offsets[-1] != len(features) or (np.diff(offsets.astype(np.int64)) < 0).any():
        raise MilbenchError(
            f"bag_offsets of {path} must rise from 0 to {len(features)}, the number of rows.", code="file-wrong-content"
        )
    bags = len(offsets) - 1
    names = arrays.get("bag_name", np.array([f"bag{i:04d}" for i in range(bags)]))
    for key, array in (("bag_label", labels), ("bag_name", names)):
        if array.shape != (bags,):
            raise MilbenchError(
                f"{key} of {path} must have one value for each of the {bags} bags, got shape {array.shape}.",
                code="file-wrong-content",
            )
    twice = [str(name) for name, times in Counter(names.tolist()).items() if times > 1]
    if twice:
        raise MilbenchError(
            f"bag_name of {path} has {some(twice)} twice; give every bag a name of its own.", code="slide-twice"
        )
    folds, coords = arrays.get("folds"), arrays.get("inst_xy")
    if folds is not None and (folds.ndim != 2 or folds.shape[1] != bags or folds.dtype.kind not in "iu"):
        raise MilbenchError(
            f"folds of {path} must be integers of shape (repetitions, {bags}), got {folds.shape}.",
            code="file-wrong-content",
        )
    if coords is not None and coords.shape != (len(features), 2):
        raise MilbenchError(
            f"inst_xy of {path} must have shape ({len(features)}, 2), got {coords.shape}.", code="coords-bad"
        )
    _refuse_label_columns(path, features, np.diff(offsets), labels, arrays.get("instance_label"))
    return Packed(
        features,
        offsets.astype(np.int64),
        tuple(str(value) for value in labels.tolist()),
        tuple(str(name) for name in names.tolist()),
        None if folds is None else folds.astype(np.int64),
        coords,
    )


def _refuse_label_columns(
    path: Path, features: np.ndarray, lengths: np.ndarray, labels: np.ndarray, instance_labels: np.ndarray | None
) -> None:
    answers = {"bag": np.repeat(labels, lengths), "instance": instance_labels}
    for what, answer in answers.items():
        if answer is not None and answer.shape == (len(features),) and answer.dtype.kind in "iufb":
            watch = LabelColumns(what)
            watch.see(features, answer.astype(float))
            watch.refuse(path)
