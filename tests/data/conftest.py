"""Fixtures of the data layer's tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from milbench.data.cache.reader import CacheWriter
from milbench.data.source_labels import SourceTable


@pytest.fixture
def cache_home(tmp_path, monkeypatch) -> Path:
    """A cache folder of the test's own."""
    monkeypatch.setenv("MILBENCH_CACHE", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def small_cache(tmp_path) -> Path:
    """Ten slides 's0'..'s9' of 3..12 rows, dim 5, float16, int64 coordinates, several shards; labels come along."""
    rng = np.random.default_rng(0)
    with CacheWriter(tmp_path / "small", meta={"encoder": "noise"}, shard_bytes=600) as writer:
        for i in range(10):
            writer.add(f"s{i}", rng.normal(size=(3 + i, 5)), rng.integers(0, 1000, size=(3 + i, 2)))
        writer.table = SourceTable({f"s{i}": "ab"[i % 2] for i in range(10)})
    return tmp_path / "small"
