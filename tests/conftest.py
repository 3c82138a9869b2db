"""What all tests share: one torch thread, and a cache of built-in datasets of their own."""

import gc
import os
from pathlib import Path

import pytest
from support.shared import SHARED

# Many small operations in parallel test processes: more than one thread each makes them wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory):
    if "MILBENCH_CACHE" not in os.environ:
        base = tmp_path_factory.getbasetemp()
        if "PYTEST_XDIST_WORKER" in os.environ:  # one cache for all workers
            base = base.parent
        os.environ["MILBENCH_CACHE"] = str(base / "milbench-cache")


@pytest.fixture(autouse=True, scope="module")
def _small_heap():
    """Keep what is imported out of garbage collections, as processes of runs do: each takes 0.2 s otherwise."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _reads_here(request, monkeypatch):
    """Read sources in this process, as Windows and macOS do, but for tests marked `forks`: a fork takes 50 ms."""
    if request.node.get_closest_marker("forks") is None:
        monkeypatch.setattr("milbench.data.cache.supervised_reader._can_fork", lambda: False)


@pytest.fixture(scope="session")
def shared_root() -> Path:
    """Folder of real data and authors' outputs, where there is one."""
    if SHARED is None:
        pytest.skip("real data and authors' outputs are missing: set MILBENCH_SHARED to their folder")
    return SHARED
