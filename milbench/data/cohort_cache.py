"""The feature cache of a cohort that is not built in: given, or made from a tool's files on first use."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from ..atomic_io.checksums import file_checksum
from ..atomic_io.folders import AlreadyExists
from ..config import DataSpec, digest
from ..errors import MilbenchError
from .cache.build import build_cache
from .cache.layout import SCHEMA
from .cache.provenance import check_origin
from .cache.reader import FeatureCache
from .home import cache_home

#: Called with (slides done, slides in all, slide) while features are imported.
Progress = Callable[[int, int, str], None]


#: how a suite leaves coordinates out
_IN_SUITE = "Leave coordinates out with coords = false in the [[data]] of the suite."


def cache_of(spec: DataSpec, base: Path, progress: Progress | None = None) -> Path:
    """Return the cache of a cohort; import its features where they have not been yet.

    - ``cache``: a feature cache.
    - ``features``: files of another tool, imported once into ``cache``, or ``{name}.cache`` next to the suite.
    - ``cache = "FILE.npz"``: packed bags, imported once into the user's cache folder, fp32.

    Args:
        spec: the cohort.
        base: folder that relative paths start at; a ``.npz`` is searched for under ``MILBENCH_DATA`` too.
        progress: see `Progress`.

    Raises:
        MilbenchError: there is nothing, it cannot be imported, or a cache is there that holds something else.
    """
    if spec.features is not None:
        source = base / Path(spec.features).expanduser()
        out = base / Path(spec.cache or f"{spec.name}.cache").expanduser()
        if not out.exists():
            with suppress(AlreadyExists):  # made by another process meanwhile
                build_cache(source, out, spec.format, spec.dtype, spec.order, spec.coords, progress, advice=_IN_SUITE)
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


def _find_npz(path: str, base: Path) -> Path:
    tried = [base / Path(path).expanduser()]
    if not Path(path).is_absolute() and os.environ.get("MILBENCH_DATA"):
        tried.append(Path(os.environ["MILBENCH_DATA"]) / path)
    for candidate in tried:
        if candidate.is_file():
            return candidate
    candidates = " and ".join(str(candidate) for candidate in tried)
    raise MilbenchError(
        f"no file {candidates}; set MILBENCH_DATA to the folder that {path} is in.", code="file-missing"
    )
