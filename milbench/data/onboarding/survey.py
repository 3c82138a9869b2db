"""Survey: the content of a source of features, from the headers of its files and a sample of slides that are loaded."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import MilbenchError
from ...formatting.text import count, some
from ..cache.encoders import TwoKinds, two_kinds
from ..cache.layout import DTYPES
from ..cache.read_ahead import NO_COORDS, InspectedSlide
from ..cache.reader import FeatureCache
from ..cache.supervised_reader import SourceReader
from ..home import CACHE_FILE
from ..importers import SourceTable

#: slides that are loaded at most, and seconds after which, one being there, no further one is
SAMPLE, SECONDS = 32, 5.0
#: slides whose headers are read at a time
_AT_A_TIME = 16
#: facts that are one for all slides of a cache
_COMMON = ("encoder", "patch_size", "magnification", "units")
#: called with (slides inspected, slides in all, slide)
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Survey:
    """The content of a source of features.

    Attributes:
        source: the folder or file.
        format: name of its format; None: it is a feature cache already.
        description: one sentence about it.
        ids: all slides, empty ones included.
        rows: slide -> patches, of those whose file tells it or that were loaded.
        loaded: how many slides were loaded whole.
        dim: width of the features.
        dtypes: of the loaded slides, as their files have them.
        coords: whether slides have coordinates; None: some of them do.
        facts: encoder, patch_size, magnification, units, as far as files say them.
        table: labels, patients and splits that come along.
        left_out: slides that a cache has left out, since they are empty.
        notes: warnings about the features.
        kinds: of the loaded slides where their features are of two kinds, as of two encoders.
    """

    source: Path
    format: str | None
    description: str
    ids: tuple[str, ...]
    rows: dict[str, int]
    loaded: int
    dim: int
    dtypes: tuple[str, ...]
    coords: bool | None
    facts: dict[str, Any]
    table: SourceTable
    left_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    kinds: TwoKinds | None = None

    @property
    def empty(self) -> tuple[str, ...]:
        """Slides without patches, which take no part."""
        return (*self.left_out, *(slide for slide in self.ids if self.rows.get(slide) == 0))

    @property
    def full(self) -> tuple[str, ...]:
        """Slides that are not known to be empty."""
        return tuple(slide for slide in self.ids if self.rows.get(slide) != 0)

    @property
    def lengths(self) -> np.ndarray:
        """Patches of every slide that has some and of which it is known, rising."""
        return np.sort(np.array([n for n in self.rows.values() if n > 0], dtype=np.int64))

    @property
    def complete(self) -> bool:
        """Whether the patches of every slide are known."""
        return len(self.rows) == len(self.ids)

    @property
    def dtype(self) -> str:
        """The cache's dtype that keeps the features bit for bit; float32 where there is none."""
        return self.dtypes[0] if len(self.dtypes) == 1 and self.dtypes[0] in DTYPES else "float32"

    @property
    def exact(self) -> bool:
        """Whether `dtype` keeps every bit of them."""
        return set(self.dtypes) <= set(DTYPES)


def survey(
    source: Path, format: str = "auto", progress: Progress | None = None, coords: bool = True, advice: str = NO_COORDS
) -> Survey:
    """Survey a source of features, or a feature cache, without reading it whole.

    Headers tell how many patches a slide has, where files have such. Up to `SAMPLE` slides, evenly spaced, are loaded
    to learn the rest.

    Args:
        source: see ``milbench list formats``.
        format: the format's name; ``auto`` recognises it.
        progress: see `Progress`.
        coords: False: coordinates are not read, and `Survey.coords` is None, as where some slides lack them.
        advice: a sentence on how to leave coordinates out, for messages about them.

    Raises:
        MilbenchError: no format recognises the source, a slide that was inspected is damaged or is not like the others,
            or none has patches.
    """
    if (source / CACHE_FILE).is_file():
        return _of_cache(FeatureCache.open(source))
    with SourceReader(source, format, coords=coords) as slides:
        return _of_source(source, slides, progress, coords, advice)


def _of_source(
    source: Path, slides: SourceReader, progress: Progress | None, coords: bool, advice: str
) -> Survey:  # fmt: skip
    for slide in slides.ids:
        if not slide.isprintable() and any("\ud800" <= c <= "\udfff" for c in slide):  # how Python keeps other bytes
            raise MilbenchError(
                f"the name of slide {slide!r} in {source} is not UTF-8; rename its file.", code="name-bad"
            )
    rows: dict[str, int] = {}
    for first in range(0, len(slides), _AT_A_TIME):
        numbers = range(first, min(first + _AT_A_TIME, len(slides)))
        for i, n in zip(numbers, slides.rows(numbers), strict=True):
            if n is not None:
                rows[slides.ids[i]] = n
            if progress is not None:
                progress(i + 1, len(slides), slides.ids[i])
    seen = _load_some(slides, rows, advice)
    if not seen.dims:
        raise MilbenchError(
            f"{source} holds no slide with patches; there is nothing to learn from.", code="cache-no-slides"
        )
    dim = seen.one("dim", seen.dims)
    facts = {key: seen.one(key, values) for key, values in seen.facts.items()}
    kinds = _two_kinds(seen)
    return Survey(
        source=source,
        format=slides.format,
        description=slides.description,
        ids=slides.ids,
        rows=rows,
        loaded=seen.loaded,
        dim=dim,
        dtypes=tuple(seen.dtypes),
        coords=next(iter(seen.coords)) if coords and len(seen.coords) == 1 else None,
        facts=facts,
        table=slides.table() or SourceTable(),
        notes=() if kinds is None else (f"{kinds} of {len(seen.inspected)} that were loaded",),
        kinds=kinds,
    )


def _two_kinds(seen: _Seen) -> TwoKinds | None:
    """Tell whether the features of the slides loaded fall into two groups, as those of two encoders do."""
    known = [slide for slide in seen.inspected if slide.rows >= 5 and slide.mean is not None]
    return two_kinds(
        [slide.slide_id for slide in known], [slide.mean for slide in known], [slide.spread for slide in known]
    )


@dataclass
class _Seen:
    """Properties of the loaded slides: value -> the first slide that has it."""

    loaded: int = 0
    inspected: list[InspectedSlide] = field(default_factory=list)
    dims: dict[int, str] = field(default_factory=dict)
    dtypes: dict[str, str] = field(default_factory=dict)
    coords: dict[bool, str] = field(default_factory=dict)
    facts: dict[str, dict[Any, str]] = field(default_factory=dict)

    def add(self, slide: InspectedSlide) -> None:
        self.inspected.append(slide)
        self.dims.setdefault(slide.width, slide.slide_id)
        self.dtypes.setdefault(slide.dtype, slide.slide_id)
        self.coords.setdefault(slide.coords, slide.slide_id)
        for key in _COMMON:
            if key in slide.meta:
                self.facts.setdefault(key, {}).setdefault(slide.meta[key], slide.slide_id)

    @staticmethod
    def one(key: str, values: dict[Any, str]) -> Any:
        """Return the only value.

        Raises:
            MilbenchError: there are several, which no cache can hold.
        """
        if len(values) > 1:
            named = " but ".join(f"{slide!r} has {value}" for value, slide in list(values.items())[:2])
            raise MilbenchError(
                f"slides disagree about {key}: {named}; a cache holds one kind of features, so separate them.",
                code="features-disagree",
            )
        return next(iter(values))


def _load_some(slides: SourceReader, rows: dict[str, int], advice: str) -> _Seen:
    """Load a sample, the shortest first where that is known; add to `rows` what they tell.

    Slides whose header does not tell what those of most others do are loaded first, as something is wrong with them.
    """
    seen, began = _Seen(), time.monotonic()
    odd = [i for i, slide in enumerate(slides.ids) if slide not in rows] if 2 * len(rows) > len(slides) else []
    for i in [*odd[:SAMPLE], *(i for i in _order(slides.ids, rows) if i not in odd[:SAMPLE])]:
        # Loading goes on only where all inspected slides are empty: without one slide nothing is known.
        if seen.dims and (seen.loaded >= SAMPLE or time.monotonic() - began > SECONDS):
            break
        slide = slides.inspect(i, advice)
        seen.loaded += 1
        rows[slide.slide_id] = slide.rows
        if slide.rows > 0:
            seen.add(slide)
    return seen


def _order(ids: Sequence[str], rows: dict[str, int]) -> list[int]:
    """Return the positions of an evenly spaced sample, and then of all others; those known to be empty are none."""
    full = [i for i, slide in enumerate(ids) if rows.get(slide) != 0]
    chosen = sorted({int(at) for at in np.linspace(0, len(full) - 1, min(SAMPLE, len(full)))}) if full else []
    sample = sorted((full[at] for at in chosen), key=lambda i: (rows.get(ids[i], 0), i))
    others = set(full) - set(sample)
    return [*sample, *(i for i in full if i in others)]


def _of_cache(cache: FeatureCache) -> Survey:
    rows = dict(zip(cache.ids, (int(n) for n in cache.slides["rows"]), strict=True))
    left = tuple(str(slide) for slide in cache.meta.get("left_out", ()))
    were = "was" if len(left) == 1 else "were"
    without = f"; {count(len(left), 'empty slide')} {were} left out ({some(list(left))})" if left else ""
    return Survey(
        source=cache.path,
        format=None,
        description=f"feature cache {cache.path}: {len(cache)} slides{without}",
        ids=cache.ids,
        rows=rows,
        loaded=0,
        dim=cache.dim,
        dtypes=(str(cache.meta["dtype"]),),
        coords=cache.has_coords,
        facts={key: cache.meta[key] for key in _COMMON if key in cache.meta},
        table=cache.table or SourceTable(),
        left_out=left,
    )
