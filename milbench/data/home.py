"""Where milbench keeps what it builds for itself, and the file that marks a folder as a feature cache."""

from __future__ import annotations

import os
from pathlib import Path

#: Written last into every feature cache: a folder that holds it is one.
CACHE_FILE = "cache.toml"


def cache_home() -> Path:
    """Return the folder of what milbench builds for itself: ``MILBENCH_CACHE``, else the system's place for caches.

    On Linux that is ``~/.cache/milbench``, or ``milbench`` in ``XDG_CACHE_HOME`` where that is set.
    """
    named = os.environ.get("MILBENCH_CACHE")
    if not named:
        import platformdirs

        named = platformdirs.user_cache_dir("milbench", appauthor=False)
    return Path(named).expanduser().absolute()
