"""Importing contiguous files, one worker, against copying them: both until the bytes are on the disk."""

import os
import shutil

import numpy as np
import pytest
from support.interleave import compare

from milbench.atomic_io.folders import fsync
from milbench.data.cache.build import build_cache

h5py = pytest.importorskip("h5py", reason="h5py is not installed: pip install 'milbench[formats]'")
pytestmark = pytest.mark.perf


def test_import_against_copy(benchmark, tmp_path):
    """At the command line: `python results/perf/claims.py`.

    A quiet machine shows 0.5: files are read in a process of their own, which can be ended where a library does not
    come back. Read in the process itself, as before, it was 1.1.
    """
    rng = np.random.default_rng(0)
    source = tmp_path / "features"
    (source / "h5_files").mkdir(parents=True)
    for i in range(24):
        with h5py.File(source / "h5_files" / f"s{i}.h5", "w") as file:
            file["features"] = rng.normal(size=(3000, 1024)).astype(np.float16)
            file["coords"] = np.zeros((3000, 2), np.int32)

    def ours():
        shutil.rmtree(tmp_path / "cache", ignore_errors=True)
        build_cache(source, tmp_path / "cache", format="clam", dtype="float16", workers=1)

    def copy():
        shutil.rmtree(tmp_path / "copy", ignore_errors=True)
        shutil.copytree(source, tmp_path / "copy")
        for path in (tmp_path / "copy").rglob("*"):
            fsync(path)

    os.sync()
    assert compare(benchmark, ours, copy, rounds=5) >= 0.3
