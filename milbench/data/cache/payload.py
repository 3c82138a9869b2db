"""Whether the features of a cache are those that were written: checked when a suite is read, at most once a day."""

from __future__ import annotations

import time
from contextlib import suppress

from ...config import digest
from ...errors import MilbenchError
from ..home import cache_home
from .reader import FeatureCache
from .verify import damaged_slides

#: Bytes of features up to which they are always checked (some milliseconds), and up to which once a day (a second or
#: two a GB from a local disk). Larger caches are checked by ``milbench cache verify`` alone.
ALWAYS, DAILY = 4 << 20, 4 << 30
DAY = 24 * 3600.0


def check_payload(cache: FeatureCache) -> None:
    """Compare all features of a cache with their checksums, unless that was done today or the cache is large.

    What was checked is noted in the user's cache folder, by path, size and times of the files.

    Raises:
        MilbenchError: features differ from their checksums.
    """
    files = [cache.path / str(name) for name in dict.fromkeys(cache.slides["shard"])]
    stats = [file.stat() for file in files]
    size = sum(stat.st_size for stat in stats)
    if size > DAILY:
        return
    stamps = [[s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino] for s in stats]
    stamp = cache_home() / "checked" / digest([str(cache.path.absolute()), cache.fingerprint, stamps])
    if size > ALWAYS:
        with suppress(OSError):
            if time.time() - stamp.stat().st_mtime < DAY:
                return
    if damaged := damaged_slides(cache.path, cache.slides, cache.meta):
        more = f" and {len(damaged) - 1} more" if len(damaged) > 1 else ""
        raise MilbenchError(
            f"{damaged[0].rstrip('.')}{more}: the cache {cache.path} was damaged after it was built (milbench cache "
            "verify lists all); copy it again or build it from its source.",
            code="cache-damaged",
        )
    if size > ALWAYS:
        with suppress(OSError):  # a folder that cannot be written costs time, not the run
            stamp.parent.mkdir(parents=True, exist_ok=True)
            stamp.touch()
