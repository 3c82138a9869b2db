"""Whether a cache that is there already holds the features that a suite names.

A cache may outlive its source, and be moved with it or without. So what decides is the source's slides, where it can be
read: which they are, what it says of their labels, and the bytes of some of them, where a file is newer than the cache
or lies elsewhere. What has been found in order is remembered in the user's cache folder.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import numpy as np

from ..errors import MilbenchError
from ..spec import DataSpec, digest
from .cache import FeatureCache
from .datasets import cache_home
from .formats import Slides, formats
from .layout import TOML
from .reading import Reading, convert
from .source_table import SourceTable
from .tables import some

#: slides whose bytes are compared, at most
_COMPARED = 16
_VERSION = 1  # raised when other things are compared


def check_origin(cache: FeatureCache, source: Path, spec: DataSpec) -> None:
    """Refuse a cache that holds something else than the features that the suite names.

    Args:
        cache: the cache.
        source: the features, which need not be there any more.
        spec: the cohort.

    Raises:
        MilbenchError: other features or labels, more slides or fewer, or another dtype or order than the suite asks
            for.
    """
    holds = f"cohort {spec.name}: the cache {cache.path} holds"
    mend = "name another cache, or remove this one so that it is made again"
    if spec.coords is False and cache.has_coords:
        raise MilbenchError(f"{holds} coordinates, and the suite asks for none; {mend}.")
    for key in ("dtype", "order"):
        asked, there = getattr(spec, key), cache.meta.get(key)
        if key in spec.model_fields_set and there is not None and there != asked:
            raise MilbenchError(f"{holds} {key} {there}, and the suite asks for {asked}; {mend}.")
    if "source" not in cache.meta:
        raise MilbenchError(
            f"{holds} features of which it does not say where they are from; leave features out of the suite to run on "
            "the cache as it is."
        )
    origin = Path(str(cache.meta["source"]))
    moved = os.path.realpath(origin) != os.path.realpath(source)
    slides = _opened(cache, source)
    if slides is None:
        if moved and origin.name != source.name:
            raise MilbenchError(
                f"{holds} the features of {origin}, not those of {source}, which cannot be read; correct the path, or "
                "leave features out of the suite to run on the cache as it is."
            )
        return
    times = [_times(slides, i) for i in range(len(slides))]
    key = digest([_VERSION, cache.fingerprint, cache.meta.get("left_out", []), str(source.absolute()), slides.ids,
                  times])  # fmt: skip
    known = cache_home() / "origins" / key
    if known.exists():
        return
    whose = f"{holds} the features of {origin}, not those of {source}" if moved else ""
    there = {*cache.ids, *cache.meta.get("left_out", ())}
    for more, word in ((set(slides.ids) - there, "lacks"), (there - set(slides.ids), "has besides them")):
        if more:
            raise MilbenchError(
                f"{whose or f'{holds} other slides than {source}'}: it {word} {some(sorted(more))}; {mend}."
            )
    if (slides.table() or SourceTable()) != (cache.table or SourceTable()):
        raise MilbenchError(f"{whose or f'{holds} other labels or splits than {source} brings along now'}; {mend}.")
    order = str(cache.meta.get("order", "source"))
    how = Reading(str(cache.meta["format"]), source, cache.meta["dtype"], order, cache.has_coords)
    for i in _suspects(times, (cache.path / TOML).stat().st_mtime_ns, moved):
        read = convert(slides.load(i), how)
        if cache.checksums.get(read.slide_id) != (None if read.prepared is None else read.prepared.checksum):
            what = f"{holds} other features of slide {read.slide_id!r} than {read.path or source}"
            raise MilbenchError(f"{whose or what}; {mend}.")
    with suppress(OSError):  # a folder that cannot be written costs time, not the run
        known.parent.mkdir(parents=True, exist_ok=True)
        known.touch()


def _opened(cache: FeatureCache, source: Path) -> Slides | None:
    """Return the source's slides; None where there are none to be read, any more or yet."""
    module = formats().get(str(cache.meta.get("format")))
    if module is None or not source.exists():
        return None
    try:
        slides = module.open_source(source)
        return slides if len(slides) else None
    except (MilbenchError, OSError):
        return None


def _times(slides: Slides, i: int) -> list[tuple[str, int, int]]:
    """Return name, size and last change of a slide's files; a copy that keeps its old time has a new one of change."""
    found = []
    for path in slides.files(i):
        try:
            stat = path.stat()
        except OSError:
            continue
        found.append((str(path), stat.st_size, max(stat.st_mtime_ns, stat.st_ctime_ns)))
    return found


def _suspects(times: list[list[tuple[str, int, int]]], made: int, moved: bool) -> list[int]:
    """Return slides that may be others than when the cache was made: the newest, or of another folder some."""
    last = [max((changed for _, _, changed in files), default=0) for files in times]
    if moved:
        return sorted({int(i) for i in np.linspace(0, len(times) - 1, min(_COMPARED, len(times)))})
    newest = sorted(range(len(times)), key=lambda i: -last[i])[:_COMPARED]
    return [i for i in newest if last[i] > made]
