"""Whether a cache that is there already holds the features that a suite names.

A cache may outlive its source, and be moved with it or without. So what decides is the source's slides, where it can be
read: which they are, what it says of their labels, and the bytes of some of them, where a file is newer than the cache
or lies elsewhere. Checks that passed are recorded in the user's cache folder.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from ...config import DataSpec, digest
from ...errors import MilbenchError
from ...formatting.text import some
from ..home import CACHE_FILE, cache_home
from ..importers import has_format
from ..source_labels import SourceTable
from .read_ahead import Reading
from .reader import FeatureCache
from .supervised_reader import SourceReader

#: slides whose bytes are compared, at most
_COMPARED = 16
_VERSION = 1  # raised when other things are compared
_Stamps: TypeAlias = list[tuple[str, int, int]]


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
    advice = "name another cache, or remove this one so that it is made again"
    if spec.coords is False and cache.has_coords:
        raise MilbenchError(f"{holds} coordinates, and the suite asks for none; {advice}.", code="cache-mismatch")
    for key in ("dtype", "order"):
        requested, there = getattr(spec, key), cache.meta.get(key)
        if key in spec.model_fields_set and there is not None and there != requested:
            raise MilbenchError(
                f"{holds} {key} {there}, and the suite asks for {requested}; {advice}.", code="cache-mismatch"
            )
    if "source" not in cache.meta:
        raise MilbenchError(
            f"{holds} features of which it does not say where they are from; leave features out of the suite to run on "
            "the cache as it is.",
            code="cache-mismatch",
        )
    origin = Path(str(cache.meta["source"]))
    moved = os.path.realpath(origin) != os.path.realpath(source)
    of = [cache.fingerprint, cache.meta.get("table_checksum"), cache.meta.get("left_out", []), str(source.absolute())]
    whole = _remembered([*of, _stamps([source])]) if source.is_file() else None
    if whole is not None and whole.exists():  # opening one large file may take as long as reading it
        return
    reader = _opened(cache, source)
    if reader is None:
        parts = [part for part in Path(str(spec.features)).expanduser().parts if part != ".."]
        named = parts[-2:] if Path(str(spec.features)).expanduser().is_absolute() else parts
        if _something(source) or (moved and list(origin.parts[-len(named) :]) != named):
            raise MilbenchError(
                f"cohort {spec.name}: {source} cannot be read as the features that the cache {cache.path} was made of "
                f"({origin}); correct the path, or leave features out of the suite to run on the cache as it is.",
                code="cache-mismatch",
            )
        return
    with reader:
        stamps = [_stamps(files) for files in reader.files]
        known = whole or _remembered([*of, reader.ids, stamps])
        if known.exists():
            return
        if (difference := _difference(cache, source, reader, stamps, moved)) is not None:
            other = f"the features of {origin}, not those of {source}" if moved else difference
            raise MilbenchError(f"{holds} {other}; {advice}.", code="cache-mismatch")
    with suppress(OSError):  # a folder that cannot be written costs time, not the run
        known.parent.mkdir(parents=True, exist_ok=True)
        known.touch()


def _difference(
    cache: FeatureCache, source: Path, slides: SourceReader, stamps: list[_Stamps], moved: bool
) -> str | None:
    """Return what the cache holds that its source does not; None where it holds nothing else."""
    there, here = {*cache.ids, *cache.meta.get("left_out", ())}, set(slides.ids)
    if more := here - there:
        return f"other slides than {source}: it lacks {some(sorted(more))}"
    if more := there - here:
        return f"other slides than {source}: {some(sorted(more))} as well"
    if (slides.table() or SourceTable()) != (cache.table or SourceTable()):
        return f"other labels or splits than {source} brings along now"
    order = str(cache.meta.get("order", "source"))
    how = Reading(str(cache.meta["format"]), source, cache.meta["dtype"], order, cache.has_coords)
    for i in _suspects(stamps, (cache.path / CACHE_FILE).stat().st_mtime_ns, moved):
        read = slides.convert(i, how)
        if cache.checksums.get(read.slide_id) != (None if read.prepared is None else read.prepared.checksum):
            return f"other features of slide {read.slide_id!r} than {read.path or source}"
    return None


def _remembered(of: list[Any]) -> Path:
    """Return the file that exists once the check of a cache against the present state of its source has passed."""
    return cache_home() / "origins" / digest([_VERSION, *of])


def _something(source: Path) -> bool:
    """Whether there is anything: a folder where nothing is mounted, or that was emptied, holds nothing."""
    try:
        return source.is_file() or any(source.iterdir())
    except OSError:
        return False


def _opened(cache: FeatureCache, source: Path) -> SourceReader | None:
    """Return the source's slides; None where there are none to be read, any more or yet."""
    name = str(cache.meta.get("format"))
    if not has_format(name) or not source.exists():
        return None
    try:
        slides = SourceReader(source, name, detect=False, coords=cache.has_coords)
    except (MilbenchError, OSError):
        return None
    if len(slides):
        return slides
    slides.close()
    return None


def _stamps(files: Sequence[Path]) -> _Stamps:
    """Return name, size and last change of files; a copy that keeps its old time has a new one of change."""
    stamps = []
    for path in files:
        try:
            stat = path.stat()
        except OSError:
            continue
        stamps.append((str(path), stat.st_size, max(stat.st_mtime_ns, stat.st_ctime_ns)))
    return stamps


def _suspects(stamps: list[_Stamps], made: int, moved: bool) -> list[int]:
    """Return slides that may be others than when the cache was made: the newest, or of another folder some."""
    if moved:
        return sorted({int(i) for i in np.linspace(0, len(stamps) - 1, min(_COMPARED, len(stamps)))})
    last = [max((changed for _, _, changed in files), default=0) for files in stamps]
    newest = sorted(range(len(stamps)), key=lambda i: -last[i])[:_COMPARED]
    return [i for i in newest if last[i] > made]
