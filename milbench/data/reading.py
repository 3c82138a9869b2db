"""read_slides: the slides of a source, checked and converted, read ahead by a thread or by processes, in order."""

from __future__ import annotations

import multiprocessing
from collections.abc import Generator, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import MilbenchError
from .formats import Slides, SourceSlide, formats
from .prepare import Prepared, prepare


@dataclass(frozen=True)
class Reading:
    """How slides are read: what a process needs to read one by itself.

    Attributes:
        format: name of the source's format.
        source: the source.
        dtype, order, coords: as in `milbench.data.build.build_cache`.
    """

    format: str
    source: Path
    dtype: str
    order: str
    coords: bool


@dataclass(frozen=True, slots=True)
class Read:
    """One slide of a source, ready for a cache.

    Attributes:
        slide_id: its name.
        prepared: its bytes; None where it is left out.
        why: the reason it is left out.
        facts: what its file says of itself.
        path: the file, for messages.
    """

    slide_id: str
    prepared: Prepared | None
    why: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    path: Path | None = None


def read_slides(slides: Slides, how: Reading, first: int = 0, workers: int = 1) -> Generator[Read]:
    """Give every slide from the first wanted one on, in order, one more being read than there are workers.

    What goes wrong with a slide is raised in its turn. Closing the generator early ends the workers.

    Args:
        slides: the opened source.
        how: how it is read.
        first: number of the first slide wanted.
        workers: 1: a thread of this process; more: as many processes, where slides can be read one by one.

    Raises:
        MilbenchError: a slide cannot be read, or a worker was killed.
    """
    if workers > 1 and slides.independent:
        # Spawned, as forking a process whose libraries run threads of their own is not safe.
        context = multiprocessing.get_context("spawn")
        pool: Executor = ProcessPoolExecutor(workers, mp_context=context, initializer=_open, initargs=(how,))
        yield from _ahead(pool, range(first, len(slides)), _read_here, workers + 1)
    else:
        # One slide after the other, as a source that is one file is read from its beginning to its end.
        source = slides.read(first)
        pool = ThreadPoolExecutor(1, thread_name_prefix="reader")
        yield from _ahead(pool, range(first, len(slides)), lambda i: convert(next(source), how), 2)


def _ahead(pool: Executor, items: range, work: Any, depth: int) -> Iterator[Read]:
    try:
        waiting: list[Future[Read]] = [pool.submit(work, i) for i in items[:depth]]
        for i in items[depth:]:
            yield waiting.pop(0).result()
            waiting.append(pool.submit(work, i))
        while waiting:
            yield waiting.pop(0).result()
    except BrokenProcessPool:
        raise MilbenchError(
            "a process that reads slides was killed, most likely for want of memory; run the same command again with "
            "fewer --workers, it goes on where this one stopped."
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


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
            raise MilbenchError(f"slide {slide.slide_id!r} has no coordinates ({slide.path}); ask for source order.")
        if tuple(xy.shape) == (len(features), 2):
            features, xy = _raster(features, xy)
    step = slide.meta.get("coord_step") if how.coords else None
    try:
        made = prepare(slide.slide_id, features, xy, how.dtype, step)
    except MilbenchError as error:
        hint = " Leave coordinates out with --no-coords." if "coordinates" in str(error) and how.coords else ""
        raise MilbenchError(f"{slide.path}: {error}{hint}") from None
    return Read(slide.slide_id, made, "", slide.meta, slide.path)


def _raster(features: np.ndarray | Tensor, xy: np.ndarray | Tensor) -> tuple[np.ndarray | Tensor, np.ndarray | Tensor]:
    places = np.asarray(xy)
    by = np.lexsort((places[:, 0], places[:, 1]))
    return (features[torch.from_numpy(by)] if isinstance(features, Tensor) else features[by]), places[by]


#: of a worker process: the source it has opened, and how it reads
_opened: tuple[Slides, Reading] | None = None


def _open(how: Reading) -> None:
    global _opened
    torch.set_num_threads(1)  # the workers share the cores
    _opened = formats()[how.format].open_source(how.source), how


def _read_here(i: int) -> Read:
    assert _opened is not None
    slides, how = _opened
    return convert(slides.load(i), how)
