"""Real data and authors' outputs: in MILBENCH_SHARED, else in ``shared`` next to the checkout."""

import os
from pathlib import Path

import pytest

_FOLDER = Path(os.environ.get("MILBENCH_SHARED") or Path(__file__).resolve().parents[3] / "shared")

SHARED = _FOLDER if (_FOLDER / "data").is_dir() else None
needs_shared = pytest.mark.skipif(
    SHARED is None, reason="there are no real data and authors' outputs: set MILBENCH_SHARED to their folder"
)
