"""prepare: checks one slide's arrays and turns them into the bytes a cache keeps; needs no other slide and no cache."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...errors import MilbenchError
from .layout import COORD_DTYPES, DTYPES, checksum

#: rows checked at a time: a slide of 10^5 patches needs no second copy, and caches are used
_CHUNK = 2048


@dataclass(frozen=True, slots=True)
class Prepared:
    """One slide as it will stand in a cache.

    Attributes:
        slide_id: its name.
        features: the bytes of its ``(rows, dim)`` features in the cache's dtype.
        coords: the bytes of its ``(rows, 2)`` positions in ``coord_dtype``; None where it has none.
        rows, dim: of the features.
        coord_dtype: ``int64`` or ``float32``; None without positions.
        coord_step: distance of neighbouring patches in the units of the positions; NaN where unknown.
        checksum: of features and coords.
        rounding_error: largest absolute difference between a value given and the value kept.
        max_abs: largest absolute value given.
    """

    slide_id: str
    features: np.ndarray
    coords: np.ndarray | None
    rows: int
    dim: int
    coord_dtype: str | None
    coord_step: float
    checksum: str
    rounding_error: float
    max_abs: float

    @property
    def nbytes(self) -> int:
        """Bytes it takes in a shard."""
        return self.features.nbytes + (0 if self.coords is None else self.coords.nbytes)


def prepare(
    slide_id: str,
    features: Tensor | np.ndarray,
    coords: Tensor | np.ndarray | None,
    dtype: str,
    coord_step: float | None = None,
) -> Prepared:
    """Check one slide and convert it.

    Args:
        slide_id: its name, not empty.
        features: ``(n, d)`` floating point, n and d at least 1, finite.
        coords: ``(n, 2)`` positions (x, y), finite; integers become int64, reals float32.
        dtype: that the cache keeps: ``float16``, ``bfloat16`` or ``float32``.
        coord_step: distance of neighbouring patches in the units of ``coords``, where known.

    Raises:
        MilbenchError: any of these does not hold, or a value is too large for the dtype.
    """
    if not isinstance(slide_id, str) or not slide_id:
        raise MilbenchError(f"a slide id must be non-empty text, got {slide_id!r}; write str(id).", code="name-bad")
    kept, rounding, largest = _features(slide_id, features, dtype)
    xy, coord_dtype = _coords(slide_id, coords, len(kept))
    parts = [_bytes(part) for part in (kept, xy) if part is not None]
    return Prepared(
        slide_id=slide_id,
        features=parts[0],
        coords=parts[1] if xy is not None else None,
        rows=kept.shape[0],
        dim=kept.shape[1],
        coord_dtype=coord_dtype,
        coord_step=float("nan") if coord_step is None else float(coord_step),
        checksum=checksum(*parts),
        rounding_error=rounding,
        max_abs=largest,
    )


def check_dtype(slide: str, features: Tensor | np.ndarray) -> None:
    """Refuse features of a dtype that no tensor has: long double, among others.

    Raises:
        MilbenchError: it says which.
    """
    if not isinstance(features, Tensor) and features.dtype.itemsize > 8:
        raise MilbenchError(
            f"features of slide {slide!r} are {features.dtype}, which cannot be kept; convert them to float32.",
            code="features-bad-array",
        )


def check_coords(slide: str, coords: Tensor | np.ndarray, rows: int) -> None:
    """Refuse positions that a cache cannot hold.

    Raises:
        MilbenchError: they are of another shape than (rows, 2), no numbers, or not finite.
    """
    _coords(slide, coords, rows)


def _features(slide: str, features: Tensor | np.ndarray, name: str) -> tuple[Tensor, float, float]:
    x = _tensor(slide, "features", features)
    if x.ndim != 2:
        raise MilbenchError(
            f"features of slide {slide!r} must have shape (rows, dim), got {tuple(x.shape)}.", code="features-bad-array"
        )
    if not x.is_floating_point():
        raise MilbenchError(
            f"features of slide {slide!r} must be floating point, got {x.dtype}; convert them first.",
            code="features-bad-array",
        )
    if x.itemsize < 2 or x.layout != torch.strided:  # torch can neither compare 8-bit floats nor view sparse rows
        got = x.dtype if x.itemsize < 2 else x.layout
        raise MilbenchError(
            f"features of slide {slide!r} are {got}, which cannot be kept; save them as dense float16 or float32.",
            code="features-bad-array",
        )
    if x.shape[0] == 0 or x.shape[1] == 0:
        raise MilbenchError(
            f"slide {slide!r} is empty, shape {tuple(x.shape)}; leave it out.", code="features-bad-array"
        )
    dtype = DTYPES[name][0]
    kept = x.to(dtype)
    rounding = largest = 0.0
    for start in range(0, len(x), _CHUNK):
        given = x[start : start + _CHUNK]
        low, high = (float(end) for end in torch.aminmax(given))  # NaN comes through: one pass tells all
        if not (math.isfinite(low) and math.isfinite(high)):
            row = start + int((~torch.isfinite(given).all(1)).nonzero()[0])
            raise MilbenchError(
                f"row {row} of slide {slide!r} has a NaN or infinite feature; extract the slide again.",
                code="features-not-finite",
            )
        largest = max(largest, -low, high)
        if not torch.isfinite(torch.tensor(largest, dtype=torch.float64).to(dtype)):
            raise MilbenchError(
                f"slide {slide!r} has a feature of size {largest:g}, too large for {name}; use bfloat16 or float32.",
                code="features-not-finite",
            )
        if given.dtype != dtype:
            wide = torch.promote_types(given.dtype, dtype)
            change = torch.aminmax(kept[start : start + _CHUNK].to(wide) - given.to(wide))
            rounding = max(rounding, -float(change.min), float(change.max))
    return kept, rounding, largest


def _coords(slide: str, coords: Tensor | np.ndarray | None, n: int) -> tuple[Tensor | None, str | None]:
    if coords is None:
        return None, None
    xy = _tensor(slide, "coordinates", coords)
    if tuple(xy.shape) != (n, 2):
        raise MilbenchError(
            f"coordinates of slide {slide!r} must have shape ({n}, 2), got {tuple(xy.shape)}.", code="coords-bad"
        )
    if xy.is_complex() or xy.dtype == torch.bool:
        raise MilbenchError(f"coordinates of slide {slide!r} must be numbers, got {xy.dtype}.", code="coords-bad")
    name = "float32" if xy.is_floating_point() else "int64"
    xy = xy.to(COORD_DTYPES[name][0])
    if not torch.isfinite(xy).all():
        raise MilbenchError(
            f"slide {slide!r} has a NaN or infinite coordinate; extract the slide again.", code="coords-bad"
        )
    return xy, name


def _bytes(part: Tensor) -> np.ndarray:
    """Return the bytes of a tensor's rows; numpy has no bfloat16, hence by way of uint8."""
    return part.contiguous().view(torch.uint8).numpy().reshape(-1)


def _tensor(slide: str, what: str, value: Tensor | np.ndarray) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach().cpu()
    array = np.asarray(value)
    if array.dtype.kind not in "fiub":
        raise MilbenchError(
            f"{what} of slide {slide!r} must be numbers, got numpy dtype {array.dtype}.", code="features-bad-array"
        )
    if array.dtype.itemsize > 8:
        raise MilbenchError(
            f"{what} of slide {slide!r} are {array.dtype}, which cannot be kept; convert to float32.",
            code="features-bad-array",
        )
    if array.dtype.kind == "u":
        array = array.astype(np.int64)
    native = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
    return torch.from_numpy(native if native.flags.writeable else native.copy())
