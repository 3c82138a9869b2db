"""The feature cache of a cohort that is not built in: given, or made from a tool's files on first use."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from ..errors import MilbenchError
from ..spec import DataSpec, digest
from .build import build_cache
from .cache import FeatureCache
from .datasets import cache_home
from .files import AlreadyExists
from .formats import Slides, detect_format
from .layout import SCHEMA, TOML, file_checksum
from .reading import Reading, convert
from .tables import some

#: Called with (slides done, slides in all, slide) while features are imported.
Progress = Callable[[int, int, str], None]


def cache_of(spec: DataSpec, base: Path, progress: Progress | None = None) -> Path:
    """Return the cache of a cohort; import its features where they have not been yet.

    - ``cache``: a feature cache.
    - ``features``: files of another tool, imported once into ``cache``, or ``{name}.cache`` beside the suite.
    - ``cache = "FILE.npz"``: packed bags, imported once into the user's cache folder, fp32.

    Args:
        spec: the cohort.
        base: folder that relative paths start at; a ``.npz`` is looked for under ``MILBENCH_DATA`` too.
        progress: see `Progress`.

    Raises:
        MilbenchError: there is nothing, it cannot be imported, or a cache is there that holds something else.
    """
    if spec.features is not None:
        source = base / Path(spec.features).expanduser()
        out = base / Path(spec.cache or f"{spec.name}.cache").expanduser()
        if not out.exists():
            with suppress(AlreadyExists):  # made by another process meanwhile
                build_cache(source, out, spec.format, spec.dtype, spec.order, spec.coords, progress)
                return out
        check_origin(FeatureCache.open(out), source, spec)
        return out
    assert spec.cache is not None
    if not spec.cache.endswith(".npz"):
        return base / Path(spec.cache).expanduser()
    packed = _find_npz(spec.cache, base)
    home = cache_home() / "imported" / f"{packed.stem}-{digest([file_checksum(packed), SCHEMA])}" / "features"
    if not home.exists():
        with suppress(AlreadyExists):
            build_cache(packed, home, "npz", "float32", progress=progress)
    return home


def check_origin(cache: FeatureCache, source: Path, spec: DataSpec) -> None:
    """Refuse a cache that holds something else than the features that the suite names.

    A cache may outlive its source, or have been moved with it: where the path is another, or a file is newer than the
    cache, a few slides are read and compared with what the cache says of them, bit for bit.

    Raises:
        MilbenchError: other features, slides that it lacks, or another dtype or order than the suite asks for.
    """
    holds = f"cohort {spec.name}: the cache {cache.path} holds"
    mend = "remove the cache, so that it is made again, or name another"
    for key in ("dtype", "order"):
        asked, there = getattr(spec, key), cache.meta.get(key)
        if key in spec.model_fields_set and there is not None and there != asked:
            raise MilbenchError(f"{holds} {key} {there}, and the suite asks for {asked}; {mend}.")
    origin = str(cache.meta.get("source", ""))
    moved = os.path.realpath(origin) != os.path.realpath(source)
    other = f"{holds} the features of {origin or 'an unknown source'}, not those of {source}; {mend}."
    if not source.exists():
        if moved:
            raise MilbenchError(f"{other.removesuffix('.')}; there is no {source}.")
        return
    module, _ = detect_format(source, spec.format)
    slides = module.open_source(source)
    left_out = set(cache.meta.get("left_out", ()))
    lacking = [slide for slide in slides.ids if slide not in cache and slide not in left_out]
    if lacking:
        if moved:
            raise MilbenchError(other)
        raise MilbenchError(f"{holds} {len(cache)} slides and lacks {some(lacking)} of {source}; {mend}.")
    how = Reading(module.NAME, source, cache.meta["dtype"], cache.meta.get("order", "source"), cache.has_coords)
    for i in _suspects(slides, (cache.path / TOML).stat().st_mtime, moved):
        read = convert(slides.load(i), how)
        known = cache.checksums.get(read.slide_id)
        if known != (None if read.prepared is None else read.prepared.checksum):
            changed = f"{holds} other features of slide {read.slide_id!r} than {read.path or source}; {mend}."
            raise MilbenchError(other if moved else changed)


def _suspects(slides: Slides, made: float, moved: bool) -> list[int]:
    """Return a few slides that may be others than when the cache was made."""
    if moved:
        return sorted({0, len(slides) // 2, len(slides) - 1})
    times = [max(path.stat().st_mtime for path in slides.files(i)) for i in range(len(slides))]
    newest = sorted(range(len(slides)), key=lambda i: -times[i])[:3]
    return [i for i in newest if times[i] > made]


def _find_npz(path: str, base: Path) -> Path:
    tried = [base / Path(path).expanduser()]
    if not Path(path).is_absolute() and os.environ.get("MILBENCH_DATA"):
        tried.append(Path(os.environ["MILBENCH_DATA"]) / path)
    for candidate in tried:
        if candidate.is_file():
            return candidate
    looked = " and ".join(str(candidate) for candidate in tried)
    raise MilbenchError(f"no file {looked}; set MILBENCH_DATA to the folder that {path} is in.")
