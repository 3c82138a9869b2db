"""Reading bags from the cache against reading them from TRIDENT's HDF5 files, warm, one thread."""

import numpy as np
import pytest
import torch
from support.interleave import compare

from milbench.data.cache.reader import CacheWriter, FeatureCache

h5py = pytest.importorskip("h5py", reason="h5py is not installed: pip install 'milbench[formats]'")
pytestmark = pytest.mark.perf


def test_cache_against_trident_hdf5(benchmark, tmp_path):
    rng = np.random.default_rng(0)
    slides = {f"s{i}": rng.normal(size=(1500, 1024)).astype(np.float16) for i in range(12)}
    with CacheWriter(tmp_path / "cache", dtype="float16") as writer:
        for name, features in slides.items():
            writer.add(name, features)
            with h5py.File(tmp_path / f"{name}.h5", "w") as file:
                file.create_dataset("features", data=features, chunks=(1, 1024), maxshape=(None, 1024))
    cache = FeatureCache.open(tmp_path / "cache")
    buffer = torch.empty(1500, 1024, dtype=torch.float16)

    def ours():
        for name in slides:
            buffer.copy_(cache[name])

    def theirs():
        for name in slides:
            with h5py.File(tmp_path / f"{name}.h5") as file:
                buffer.copy_(torch.from_numpy(file["features"][:]))

    assert compare(benchmark, ours, theirs, rounds=5) >= 10
