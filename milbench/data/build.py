"""build_cache: turns the feature files of another tool into a feature cache and reports what became of every slide."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ..errors import MilbenchError
from .formats import SourceSlide, detect_format
from .writer import CacheWriter

#: facts that must be the same for every slide of a cache; coord_step may differ and is kept with each slide
_COMMON = ("encoder", "patch_size", "magnification", "units")


@dataclass(frozen=True)
class BuildReport:
    """What a build found, kept and left out.

    Attributes:
        out: the cache.
        format: name of the source's format.
        found: one sentence about the source.
        slides, rows, dim, dtype: of the cache.
        coords: whether coordinates are kept.
        order: of rows, ``source`` or ``raster``.
        left_out: slide -> why it is not in the cache.
        max_rounding_error: largest absolute difference between a value read and the value kept.
        max_abs: largest absolute value read.
    """

    out: Path
    format: str
    found: str
    slides: int
    rows: int
    dim: int
    dtype: str
    coords: bool
    order: str
    left_out: dict[str, str]
    max_rounding_error: float
    max_abs: float

    def lines(self) -> list[str]:
        """Return the report as lines of text."""
        where = "with coordinates" if self.coords else "without coordinates"
        left = [f"left out {slide}: {why}" for slide, why in self.left_out.items()]
        return [
            f"found {self.found}",
            f"kept {self.slides} slides, {self.rows} rows, dim {self.dim}, {self.dtype}, {where}, {self.order} order",
            f"largest rounding error {self.max_rounding_error:.3g} (largest value {self.max_abs:.3g})",
            *(left or ["left out nothing"]),
            f"wrote {self.out}",
        ]


def build_cache(source: str | Path, out: str | Path, format: str = "auto", dtype: str = "float16",
                order: Literal["source", "raster"] = "source", coords: bool = True,
                progress: Callable[[int, int, str], None] | None = None) -> BuildReport:  # fmt: skip
    """Build a feature cache from the files of another tool.

    Args:
        source: folder or file, see ``milbench list formats``.
        out: the cache to make; must not exist.
        format: the format's name; ``auto`` recognises it.
        dtype: of the kept features: ``float16``, ``bfloat16`` or ``float32``.
        order: ``source`` keeps the order of rows; ``raster`` sorts them by y, then x (it matters to TransMIL).
        coords: False: coordinates are not kept, for cohorts where some slides lack them.
        progress: called with (slides done, slides in all, slide).

    Raises:
        MilbenchError: unknown format, a damaged file, slides that disagree about their encoder, patch size or
            magnification, or values the cache cannot hold; the message names the file.
    """
    if order not in ("source", "raster"):
        raise MilbenchError(f"unknown order {order!r}; give source or raster.")
    if order == "raster" and not coords:
        raise MilbenchError("raster order needs coordinates; keep them, or ask for source order.")
    source, out = Path(source), Path(out)
    module, found = detect_format(source, format)
    total = module.count(source)
    left_out: dict[str, str] = {}
    facts: dict[str, tuple[Any, str]] = {}
    writer = CacheWriter(out, dtype, {"format": module.NAME, "source": str(source.absolute()), "order": order})
    with writer:
        for done, slide in enumerate(module.read(source), 1):
            if slide.features.shape[:1] == (0,):
                left_out[slide.slide_id] = f"it has no patches, shape {tuple(slide.features.shape)}"
            else:
                _agree(facts, slide, coords)
                _add(writer, slide, coords, order)
            if progress is not None:
                progress(done, total, slide.slide_id)
        if len(writer) == 0:
            raise MilbenchError(
                f"{source} holds no slide with patches ({len(left_out)} empty); there is nothing to keep."
            )
        writer.meta |= {key: value for key, (value, _) in facts.items()}
        writer.meta["left_out"] = sorted(left_out)
    return BuildReport(
        out=out,
        format=module.NAME,
        found=found,
        slides=len(writer),
        rows=writer.rows,
        dim=writer.dim,
        dtype=dtype,
        coords=writer.has_coords,
        order=order,
        left_out=left_out,
        max_rounding_error=writer.max_rounding_error,
        max_abs=writer.max_abs,
    )


def _add(writer: CacheWriter, slide: SourceSlide, coords: bool, order: str) -> None:
    features, xy = slide.features, slide.coords if coords else None
    if order == "raster":
        if xy is None:
            raise MilbenchError(f"slide {slide.slide_id!r} has no coordinates ({slide.path}); ask for source order.")
        if tuple(xy.shape) == (len(features), 2):
            features, xy = _raster(features, xy)
    try:
        writer.add(slide.slide_id, features, xy, slide.meta.get("coord_step") if coords else None)
    except MilbenchError as error:
        hint = " Leave coordinates out with --no-coords." if "coordinates" in str(error) and coords else ""
        raise MilbenchError(f"{slide.path}: {error}{hint}") from None


def _raster(features: np.ndarray | Tensor, xy: np.ndarray | Tensor) -> tuple[np.ndarray | Tensor, np.ndarray | Tensor]:
    places = np.asarray(xy)
    by = np.lexsort((places[:, 0], places[:, 1]))
    return (features[torch.from_numpy(by)] if isinstance(features, Tensor) else features[by]), places[by]


def _agree(facts: dict[str, tuple[Any, str]], slide: SourceSlide, coords: bool) -> None:
    for key in _COMMON:
        if key not in slide.meta or (key == "units" and not coords):
            continue
        value, first = facts.setdefault(key, (slide.meta[key], slide.slide_id))
        if value != slide.meta[key]:
            raise MilbenchError(
                f"slides disagree about {key}: {first!r} has {value}, {slide.slide_id!r} has {slide.meta[key]} "
                f"({slide.path}); a cache holds one kind of features, so separate them."
            )
