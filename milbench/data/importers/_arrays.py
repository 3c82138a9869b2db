"""The arrays of one slide: which of a file's arrays are features and positions, and the shapes they may have.

A batch of one, ``(1, N, D)`` or ``(N, 1, D)``, is a bag of N rows; positions may be corners of patches, a record of x
and y, or lie on their side, as long as that has one meaning.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch

from ...errors import MilbenchError
from ...formatting.text import some

Array: TypeAlias = np.ndarray | torch.Tensor

#: names that tools give to features and to positions, the likeliest first
FEATURES = ("features", "feats", "feature", "feat", "embeddings", "embedding", "tile_embeds", "tile_embeddings",
            "patch_embeddings", "patch_features", "x")  # fmt: skip
COORDS = ("coords", "coordinates", "coord", "positions", "position", "xy", "locations")

#: whether coordinates are read at all; what is wrong with them does not matter where they are left out
_wanted: ContextVar[bool] = ContextVar("coords_wanted", default=True)


@contextmanager
def coords_are(wanted: bool) -> Iterator[None]:
    """Read coordinates inside the block, or leave them in their files."""
    token = _wanted.set(wanted)
    try:
        yield
    finally:
        _wanted.reset(token)


def coords_wanted() -> bool:
    """Whether coordinates are read; see `coords_are`."""
    return _wanted.get()


def features_key(keys: Collection[str], arrays: Collection[str], path: Path) -> str:
    """Return the name of the features: the only known name, ``features`` or ``feats`` among several, the only array.

    Args:
        keys: names in the file, that of the positions among them.
        arrays: those of them that could be features: floating point numbers in rows.
        path: for messages.

    Raises:
        MilbenchError: there are none, or several that could be meant.
    """
    places = coords_key(keys)
    rest = [key for key in keys if key != places]
    known = [key for name in FEATURES for key in rest if key.lower() == name]
    if len(known) == 1 or (known and known[0].lower() in FEATURES[:2]):
        return known[0]
    candidates = known or [key for key in arrays if key != places]
    if len(candidates) == 1:
        return candidates[0]
    raise MilbenchError(
        f"{path} holds {some(list(keys)) or 'nothing'}; name the features 'features', (rows, width).",
        code="features-missing",
    )


def coords_key(keys: Collection[str]) -> str | None:
    """Return the name of the positions; None where there is none."""
    return next((key for name in COORDS for key in keys if key.lower() == name), None)


def bag(path: Path, features: Array, coords: Array | None, where: Path | None = None) -> tuple[Array, Array | None]:
    """Return the rows (N, D) of one slide and their positions (N, 2) where their shapes have one meaning.

    What is of another shape is returned as it is: whoever keeps it refuses it.

    Args:
        path: of the features.
        features: (N, D); a batch of one, (1, N, D) or (N, 1, D).
        coords: None; or as `as_positions` reads them.
        where: the file of the coordinates, if another.

    Raises:
        MilbenchError: the coordinates are not one for each row.
    """
    if features.ndim == 3:
        features = features[0] if features.shape[0] == 1 else features[:, 0] if features.shape[1] == 1 else features
    if coords is None or not coords_wanted():
        return features, None
    rows = int(features.shape[0]) if features.ndim else 0
    coords = as_positions(coords, rows)
    _same_rows(path, features, coords, where)
    return features, coords


def as_positions(coords: Array, rows: int) -> Array:
    """Return positions as (rows, 2), of these forms; anything else as it is.

    - records with the fields x and y;
    - a batch of one: (1, rows, 2), (rows, 1, 2);
    - one position (2,) of one row, and positions on their side, (2, rows), which is not (rows, 2);
    - corners or rectangles (rows, 4), x and y first: the last two columns lie as far from the first two in nearly all
      rows, or are one width and height.
    """
    if isinstance(coords, np.ndarray) and coords.dtype.names is not None:
        coords = _record(coords)
    if coords.ndim == 3:
        coords = coords[0] if coords.shape[0] == 1 else coords[:, 0] if coords.shape[1] == 1 else coords
    shape = tuple(coords.shape)
    if shape == (2,) and rows == 1:
        return coords.reshape(1, 2)
    if shape == (2, rows) and rows != 2:
        return coords.T
    if shape == (rows, 4) and rows and _rectangles(np.asarray(coords)):
        return coords[:, :2]
    return coords


def _record(coords: np.ndarray) -> np.ndarray:
    names = {str(name).lower(): name for name in coords.dtype.names or ()}
    pair = next((pair for pair in (("x", "y"), ("coord_x", "coord_y")) if set(pair) <= set(names)), None)
    if pair is None or any(coords.dtype[names[name]].kind not in "iuf" for name in pair):
        return coords
    return np.stack([coords[names[name]] for name in pair], -1)


def _rectangles(coords: np.ndarray) -> bool:
    if coords.dtype.kind not in "iuf":
        return False
    first, last = coords[:, :2].astype(np.float64), coords[:, 2:].astype(np.float64)
    if not np.isfinite(coords.astype(np.float64)).all():
        return False
    if (last > 0).all() and (last == last[0]).all() and len(np.unique(first, axis=0)) > 1:
        return True  # x, y, width, height
    size = last - first
    usual = np.median(size, 0)
    return bool((size > 0).all() and (np.abs(size - usual) <= 0.01 * usual).all(1).mean() >= 0.9)


def _same_rows(path: Path, features: Array, coords: Array, where: Path | None) -> None:
    if features.ndim == 2 and features.shape[:1] != coords.shape[:1]:
        rows, places = (len(array) if array.ndim else "no" for array in (features, coords))
        there = "" if where is None else f"{where} has "
        side = "; the features lie on their side, so store them as (rows, width)"
        again = side if features.shape[1:] == coords.shape[:1] else "; extract the slide again"
        raise MilbenchError(f"{path} has {rows} rows but {there}{places} coordinates{again}.", code="coords-bad")


def shape_problem(features: Any) -> str | None:
    """Say what is wrong with the shape of features that are no (rows, dim), as an advice; None for (rows, dim)."""
    shape = tuple(features.shape)
    if len(shape) == 2:
        return None
    if len(shape) == 1:
        return "that is one vector, not a bag of patches; give features of patches"
    return "no axis but one may have more than one bag; store one array (rows, dim) a slide"
