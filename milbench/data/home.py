"""Where milbench keeps what it builds for itself, and the file that marks a folder as a feature cache."""

from __future__ import annotations

import os
from pathlib import Path

#: Written last into every feature cache: a folder that holds it is one.
CACHE_FILE = "cache.toml"


def cache_home() -> Path:
    """Return the folder of what milbench builds for itself: ``MILBENCH_CACHE``, else ``~/.cache/milbench``."""
    return Path(os.environ.get("MILBENCH_CACHE") or Path.home() / ".cache" / "milbench").expanduser().absolute()
