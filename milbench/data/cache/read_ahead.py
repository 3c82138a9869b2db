"""read_slides: the slides of a source, checked and converted, read ahead by one process or by several, in order."""

from __future__ import annotations

import queue
from collections.abc import Generator, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ...errors import MilbenchError
from ..importers import SourceSlide
from ..importers._arrays import shape_problem
from .encode import Prepared, check_coords, check_dtype, prepare

if TYPE_CHECKING:
    from .supervised_reader import SourceReader

#: what helps against coordinates that cannot be kept, where the command has the option
NO_COORDS = "Leave coordinates out with --no-coords."
#: rows of a slide from which its moments are taken
_SAMPLED = 64
#: rows of a slide below which its moments say nothing of its encoder
ROWS_ENOUGH = 5


@dataclass(frozen=True)
class Reading:
    """How slides are read: what a process needs to read one by itself.

    Attributes:
        format: name of the source's format.
        source: the source.
        dtype, order, coords, advice: as in `milbench.data.cache.build.build_cache`.
    """

    format: str
    source: Path
    dtype: str
    order: str
    coords: bool
    advice: str = NO_COORDS


@dataclass(frozen=True, slots=True)
class Read:
    """One slide of a source, ready for a cache.

    Attributes:
        slide_id: its name.
        prepared: its bytes; None where it is left out.
        why: the reason it is left out.
        facts: what its file says of itself.
        path: the file, for messages.
        mean, spread: (width) of its features, over 64 of its rows; None where those are few.
    """

    slide_id: str
    prepared: Prepared | None
    why: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    path: Path | None = None
    mean: np.ndarray | None = None
    spread: np.ndarray | None = None


@dataclass(frozen=True, slots=True)
class InspectedSlide:
    """Shape, dtype and statistics of one slide that was loaded whole.

    Attributes:
        slide_id: its name.
        rows, width: of its features; a slide without patches has no width.
        dtype: of its features, as torch names it.
        coords: whether it has coordinates.
        meta: what its file says of itself.
        mean, spread: (width) of its features, over 64 of its rows; None without patches.
    """

    slide_id: str
    rows: int
    width: int
    dtype: str
    coords: bool
    meta: dict[str, Any]
    mean: np.ndarray | None = None
    spread: np.ndarray | None = None


def read_slides(reader: SourceReader, how: Reading, first: int = 0, workers: int = 1) -> Generator[Read]:
    """Give every slide from the first wanted one on, in order, one more being read than there are workers.

    What goes wrong with a slide is raised in its turn. Closing the generator early ends the workers.

    Args:
        reader: the opened source.
        how: how it is read.
        first: number of the first slide wanted.
        workers: processes that read, where slides can be read one by one.

    Raises:
        MilbenchError: a slide cannot be read, or a worker was killed.
    """
    free: queue.SimpleQueue[SourceReader] = queue.SimpleQueue()
    more = [reader.another() for _ in range(workers - 1)] if reader.independent else []
    for one in (reader, *more):
        free.put(one)

    def work(i: int) -> Read:
        mine = free.get()
        try:
            return mine.convert(i, how)
        finally:
            free.put(mine)

    number = 1 + len(more)
    pool = ThreadPoolExecutor(number, thread_name_prefix="reader")
    try:
        yield from _ahead(pool, range(first, len(reader)), work, number + 1)
    finally:
        for one in (reader, *more):  # before their threads are waited for, which may wait for a slide
            one.close()
        pool.shutdown(wait=True, cancel_futures=True)


def _ahead(pool: Executor, items: range, work: Any, depth: int) -> Iterator[Read]:
    waiting: list[Future[Read]] = [pool.submit(work, i) for i in items[:depth]]
    for i in items[depth:]:
        yield waiting.pop(0).result()
        waiting.append(pool.submit(work, i))
    while waiting:
        yield waiting.pop(0).result()


def inspect_slide(slide: SourceSlide, advice: str = NO_COORDS) -> InspectedSlide:
    """Check what a cache needs of a slide, but for its values, and return what it is like.

    Raises:
        MilbenchError: features of another shape or dtype, or coordinates that cannot be kept; it names the file.
    """
    features = slide.features
    rows = int(features.shape[0]) if features.ndim else 1
    dtype = str(features.dtype).removeprefix("torch.")
    if rows == 0:
        return InspectedSlide(slide.slide_id, 0, 0, dtype, slide.coords is not None, slide.meta)
    if (problem := shape_problem(features)) is not None:
        raise MilbenchError(
            f"{slide.path}: features of slide {slide.slide_id!r} must have shape (rows, dim), got "
            f"{tuple(features.shape)}; {problem}.",
            code="features-bad-array",
        )
    if "float" not in dtype:
        raise MilbenchError(
            f"{slide.path}: features of slide {slide.slide_id!r} must be floating point, got {dtype}; convert them.",
            code="features-bad-array",
        )
    try:
        check_dtype(slide.slide_id, features)
        if slide.coords is not None:
            check_coords(slide.slide_id, slide.coords, rows)
    except MilbenchError as error:
        raise MilbenchError(f"{slide.path}: {error}{_hint(error, advice)}", code=error.code) from None
    mean, spread = _moments(features)
    return InspectedSlide(
        slide.slide_id, rows, int(features.shape[1]), dtype, slide.coords is not None, slide.meta, mean, spread
    )


def _moments(features: np.ndarray | Tensor) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Return mean and standard deviation (width) of features (rows, width), over some rows; None: they say nothing."""
    rows = len(features)
    at = np.unique(np.linspace(0, rows - 1, min(rows, _SAMPLED)).round().astype(np.int64))
    some = features[torch.from_numpy(at)] if isinstance(features, Tensor) else np.asarray(features[at])
    values = some.double().numpy() if isinstance(some, Tensor) else some.astype(np.float64)
    return (values.mean(0), values.std(0)) if np.isfinite(values).all() else (None, None)


def _hint(error: Exception, advice: str) -> str:
    return f" {advice}" if "coordinate" in str(error) else ""


def convert(slide: SourceSlide, how: Reading) -> Read:
    """Check one slide and turn it into what a cache keeps.

    Raises:
        MilbenchError: it cannot be kept; the message names the file.
    """
    if slide.features.shape[:1] == (0,):
        why = f"it has no patches, shape {tuple(slide.features.shape)}"
        return Read(slide.slide_id, None, why, {}, slide.path)
    features, xy = slide.features, slide.coords if how.coords else None
    if how.order == "raster":
        if xy is None:
            raise MilbenchError(
                f"slide {slide.slide_id!r} has no coordinates ({slide.path}); ask for source order.",
                code="coords-missing",
            )
        if tuple(xy.shape) == (len(features), 2):
            features, xy = _raster(features, xy)
    step = slide.meta.get("coord_step") if how.coords else None
    try:
        made = prepare(slide.slide_id, features, xy, how.dtype, step)
    except MilbenchError as error:
        raise MilbenchError(f"{slide.path}: {error}{_hint(error, how.advice)}", code=error.code) from None
    mean, spread = _moments(features) if len(features) >= ROWS_ENOUGH else (None, None)
    return Read(slide.slide_id, made, "", slide.meta, slide.path, mean, spread)


def _raster(features: np.ndarray | Tensor, xy: np.ndarray | Tensor) -> tuple[np.ndarray | Tensor, np.ndarray | Tensor]:
    places = np.asarray(xy)
    by = np.lexsort((places[:, 0], places[:, 1]))
    return (features[torch.from_numpy(by)] if isinstance(features, Tensor) else features[by]), places[by]
