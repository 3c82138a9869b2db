"""build_cache: turns the feature files of another tool into a feature cache and reports what became of every slide.

Slides are read ahead, by a thread or by several processes, and appended in the source's order by one writer, which
keeps a journal: the cache is the same whatever the number of workers, and a build that was killed goes on from where it
was. No more slides are in memory than are read ahead.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ...atomic_io.folders import resumable
from ...config import digest
from ...errors import MilbenchError
from .encoders import two_kinds
from .journal import Entry, Journal, stamp
from .layout import SCHEMA
from .read_ahead import NO_COORDS, ROWS_ENOUGH, InspectedSlide, Read, Reading, read_slides
from .supervised_reader import SourceReader
from .writer import CacheWriter

#: facts that must be the same for every slide of a cache; coord_step may differ and is kept with each slide
_COMMON = ("encoder", "patch_size", "magnification", "units")
#: slides whose features are compared with each other, at most; those of them that are read again after a kill
_COMPARED, _AGAIN = 512, 32
#: bytes of a source from which on starting further processes, each of which imports torch, is worth the while
_WORTH_WORKERS = 4 << 30


@dataclass(frozen=True)
class BuildReport:
    """The source of a build, the slides kept and those left out.

    Attributes:
        out: the cache.
        format: name of the source's format.
        description: one sentence about the source.
        slides, rows, dim, dtype: of the cache.
        coords: whether coordinates are kept.
        order: of rows, ``source`` or ``raster``.
        left_out: slide -> why it is not in the cache.
        max_rounding_error: largest absolute difference between a value read and the value kept.
        max_abs: largest absolute value read.
        resumed: slides that an earlier build, which did not come to its end, had read.
    """

    out: Path
    format: str
    description: str
    slides: int
    rows: int
    dim: int
    dtype: str
    coords: bool
    order: str
    left_out: dict[str, str]
    max_rounding_error: float
    max_abs: float
    resumed: int = 0

    def lines(self) -> list[str]:
        """Return the report as lines of text."""
        where = "with coordinates" if self.coords else "without coordinates"
        left = [f"left out {slide}: {why}" for slide, why in self.left_out.items()]
        again = [f"went on after {self.resumed} slides that were read before"] if self.resumed else []
        return [
            f"source: {self.description}",
            *again,
            f"kept {self.slides} slides, {self.rows} rows, dim {self.dim}, {self.dtype}, {where}, {self.order} order",
            f"largest rounding error {self.max_rounding_error:.3g} (largest value {self.max_abs:.3g})",
            *(left or ["left out nothing"]),
            f"wrote {self.out}",
        ]


def build_cache(source: str | Path, out: str | Path, format: str = "auto", dtype: str = "float16",
                order: Literal["source", "raster"] = "source", coords: bool = True,
                progress: Callable[[int, int, str], None] | None = None,
                workers: int | None = None, advice: str = NO_COORDS,
                two_encoders: bool = True) -> BuildReport:  # fmt: skip
    """Build a feature cache from the files of another tool.

    The source is never written to. After a kill, an interruption or an error the same call goes on after the last slide
    it had read, where the files it had read are still as they were.

    Args:
        source: folder or file, see ``milbench list formats``.
        out: the cache to make; must not exist.
        format: the format's name; ``auto`` recognises it.
        dtype: of the kept features: ``float16``, ``bfloat16`` or ``float32``.
        order: ``source`` keeps the order of rows; ``raster`` sorts them by y, then x (it matters to TransMIL).
        coords: False: coordinates are not kept, for cohorts where some slides lack them.
        progress: called with (slides done, slides in all, slide).
        workers: processes that read; None: one for each core where there is much to read, at most 8.
        advice: a sentence on how to leave coordinates out, for messages about them.
        two_encoders: False: features are refused that are of two kinds by their statistics, as those of two encoders
            of one width are; what was read is kept for a call that takes them.

    Raises:
        MilbenchError: unknown format, a damaged file, slides that disagree about their encoder, patch size or
            magnification, or values the cache cannot hold; the message names the file.
    """
    if order not in ("source", "raster"):
        raise MilbenchError(f"unknown order {order!r}; give source or raster.", code="cache-bad-request")
    if order == "raster" and not coords:
        raise MilbenchError(
            "raster order needs coordinates; keep them, or ask for source order.", code="cache-bad-request"
        )
    if workers is not None and workers < 1:
        raise MilbenchError(f"workers is {workers}; it must be 1 or more.", code="cache-bad-request")
    source, out = Path(source), Path(out)
    with SourceReader(source, format, coords=coords) as reader:
        return _build(
            reader, Reading(reader.format, source, dtype, order, coords, advice), out, progress, workers, two_encoders
        )


def _build(
    reader: SourceReader,
    how: Reading,
    out: Path,
    progress: Callable[[int, int, str], None] | None,
    workers: int | None,
    two_encoders: bool,
) -> BuildReport:
    source, dtype, order, coords = how.source, how.dtype, how.order, how.coords
    key = digest([SCHEMA, reader.format, str(source.absolute()), dtype, order, coords])[:8]
    place = resumable(out, key)
    meta = {"format": reader.format, "source": str(source.absolute()), "order": order}
    table = reader.table()
    with CacheWriter(out, dtype, meta, place=place) as writer, Journal(writer.folder) as journal:
        done = _whole(journal.entries(), reader, writer)
        facts = _Facts(coords)
        moments = _Moments(len(reader), two_encoders)
        for entry in done:
            facts.agree(entry.slide_id, entry.facts, entry.stamp[0][0] if entry.stamp else "")
        journal.start(done)
        left_out = {entry.slide_id: entry.why for entry in done if entry.placed is None}
        with closing(read_slides(reader, how, len(done), workers or _workers(reader))) as ahead:
            for number, read in enumerate(ahead, len(done)):
                facts.agree(read.slide_id, read.facts, str(read.path))
                moments.add(number, read)
                entry = _keep(writer, read, stamp(reader.files[number]), how.advice)
                if entry.placed is None:
                    left_out[entry.slide_id] = entry.why
                writer.flush()
                journal.add(entry)
                if progress is not None:
                    progress(number + 1, len(reader), entry.slide_id)
        if len(writer) == 0:
            raise MilbenchError(
                f"{source} holds no slide with patches ({len(left_out)} empty); there is nothing to keep.",
                code="cache-no-slides",
            )
        moments.refuse(source, reader, [i for i, entry in enumerate(done) if entry.placed is not None], how.advice)
        writer.meta |= facts.common
        writer.meta["left_out"] = sorted(left_out)
        if reader.feature_names:
            writer.meta["feature_names"] = list(reader.feature_names)
        writer.table = table
    return BuildReport(
        out=out,
        format=reader.format,
        description=reader.description,
        slides=len(writer),
        rows=writer.rows,
        dim=writer.dim,
        dtype=dtype,
        coords=writer.coord_dtype is not None,
        order=order,
        left_out=left_out,
        max_rounding_error=writer.max_rounding_error,
        max_abs=writer.max_abs,
        resumed=len(done),
    )


def _keep(writer: CacheWriter, read: Read, known: tuple[tuple[str, int, int], ...], advice: str) -> Entry:
    if read.prepared is None:
        return Entry(read.slide_id, known, None, read.why, {})
    try:
        return Entry(read.slide_id, known, writer.append(read.prepared), "", read.facts)
    except MilbenchError as error:
        hint = f" {advice}" if "coordinates" in str(error) else ""
        raise MilbenchError(f"{read.path}: {error}{hint}", code=error.code) from None


def _whole(entries: list[Entry], slides: SourceReader, writer: CacheWriter) -> list[Entry]:
    """Return the first of some entries, as many as are still true, and put the writer behind them."""
    true = 0
    while (
        true < min(len(entries), len(slides))
        and entries[true].slide_id == slides.ids[true]
        and entries[true].stamp == stamp(slides.files[true])
    ):
        true += 1
    there = writer.restore([entry.placed for entry in entries[:true] if entry.placed is not None])
    return entries[:true] if there else []


class _Moments:
    """Mean and spread of the features of some slides, evenly spaced, which tell whether one encoder made them all.

    Args:
        slides: how many there are.
        two_encoders: whether those of two encoders are taken, so that nothing needs to be known.
    """

    def __init__(self, slides: int, two_encoders: bool) -> None:
        every = {int(i) for i in np.linspace(0, slides - 1, min(slides, _COMPARED)).round()} if slides else set()
        self._numbers = set() if two_encoders else every
        self._known: dict[int, tuple[str, Any, Any]] = {}

    def add(self, number: int, read: Read | InspectedSlide) -> None:
        """Keep what is known of a slide."""
        if number in self._numbers and read.mean is not None:
            self._known[number] = read.slide_id, read.mean, read.spread

    def refuse(self, source: Path, reader: SourceReader, before: list[int], advice: str) -> None:
        """Refuse features of two kinds.

        Args:
            source: for the message.
            reader: the opened source.
            before: numbers of the slides that an earlier build read; some of them are read once more.
            advice: for `SourceReader.inspect`.

        Raises:
            MilbenchError: they are of two kinds.
        """
        again = sorted(self._numbers & set(before))
        for number in again[:: max(1, len(again) // _AGAIN)]:
            slide = reader.inspect(number, advice)
            if slide.rows >= ROWS_ENOUGH:
                self.add(number, slide)
        known = [self._known[number] for number in sorted(self._known)]
        kinds = two_kinds(*zip(*known, strict=True)) if known else None
        if kinds is not None and kinds.sure:
            kinds.refuse(source)


class _Facts:
    """Facts in the files of slides, which must agree for all slides."""

    def __init__(self, coords: bool) -> None:
        self.keys = [key for key in _COMMON if coords or key != "units"]
        self._first: dict[str, tuple[Any, str]] = {}

    @property
    def common(self) -> dict[str, Any]:
        """Return what they agree on."""
        return {key: value for key, (value, _) in self._first.items()}

    def agree(self, slide: str, facts: dict[str, Any], path: str) -> None:
        """Refuse a slide that says something else than those before it."""
        for key in self.keys:
            if key not in facts:
                continue
            value, first = self._first.setdefault(key, (facts[key], slide))
            if value != facts[key]:
                raise MilbenchError(
                    f"slides disagree about {key}: {first!r} has {value}, {slide!r} has {facts[key]} "
                    f"({path}); a cache holds one kind of features, so separate them.",
                    code="features-disagree",
                )


def _workers(slides: SourceReader) -> int:
    if not slides.independent or len(slides) < 2:
        return 1
    size = sum(path.stat().st_size for files in slides.files for path in files if path.is_file())
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(usable, 8) if size >= _WORTH_WORKERS else 1
