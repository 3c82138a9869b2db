"""What is measured for regressions: every built-in method, the cache, the importer and start-up.

These tests record and assert nothing about the clock. ``--benchmark-json=FILE`` makes them measure in full, and
``python -m milbench.measure.perf_regression compare FILE`` compares the file with the committed reference (``tox -e
regression``).
"""

import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from support import bench
from support.features import Slide, write_clam

import milbench
from milbench.atomic_io.folders import fsync
from milbench.data.cache.build import build_cache
from milbench.data.cache.reader import CacheWriter, FeatureCache
from milbench.registry import registry

pytestmark = [pytest.mark.perf, pytest.mark.usefixtures("benchmark_threads"), pytest.mark.benchmark(disable_gc=True)]

#: An installed third-party method has no reference here.
METHODS = [n for n in milbench.list_aggregators() if registry()[n].module.startswith("milbench.baselines.")]
#: Length of the bag -> calls a round: short work is repeated, so that a round is longer than the clock's noise.
LENGTHS = {64: 10, 1000: 2, 8000: 1}
#: A few passes over the features and no more: repeated more often, except where the features outgrow the caches.
LIGHT = ("max", "max_instance", "mean")
#: The authors' form is slow: it is timed where that is quick.
AUTHORS_AT = (64, 1000)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("mode", ["infer", "train"])
@pytest.mark.parametrize("name", METHODS)
def test_method(benchmark, full, planted, name, mode, length):
    case, calls = f"{name}-{mode}-{length}", LENGTHS[length] * (20 if name in LIGHT and length < 8000 else 1)
    benchmark.extra_info["calls_a_round"] = calls
    # TransMIL has a path of its own for bags of fewer rows than landmarks.
    if length == max(LENGTHS) or (name == "transmil" and length == min(LENGTHS)):
        readings = bench.READINGS if full else 1
        benchmark.extra_info["peak_bytes"] = bench.peak_bytes(
            "support.bench:method", name, mode, length, readings=readings, plant=planted("memory", case)
        )
    work = bench.method(name, mode, length, calls)
    if planted("slow", case):
        work = half_as_much_again(work, bench.method(name, mode, length // 2, calls))
    yardsticks = {"gemm": bench.gemm(bench.DEVICE), "copy": bench.copy(bench.DEVICE)}
    if name == "transmil" and length in AUTHORS_AT:
        yardsticks["authors"] = bench.authors(mode, length)
    bench.record(benchmark, work, yardsticks, full)


def half_as_much_again(work, half):
    def slow():
        work()
        half()

    return slow


@pytest.fixture
def slides():
    rng = np.random.default_rng(0)
    xy = np.stack(np.divmod(np.arange(1500), 40), 1) * 256
    return [Slide(f"s{i}", f"p{i}", "normal", rng.normal(size=(1500, 1024)).astype(np.float32), xy) for i in range(4)]


def test_cache_read(benchmark, full, tmp_path, slides):
    with CacheWriter(tmp_path / "cache", dtype="float16") as writer:
        for slide in slides:
            writer.add(slide.name, slide.x)
    cache = FeatureCache.open(tmp_path / "cache")
    plain = [cache[slide.name].clone() for slide in slides]
    buffer, passes = torch.empty_like(plain[0]), range(20)

    def read():
        for _ in passes:
            for slide in slides:
                buffer.copy_(cache[slide.name])

    def copy():
        for _ in passes:
            for features in plain:
                buffer.copy_(features)

    bench.record(benchmark, read, {"copy": copy, "gemm": bench.gemm()}, full)


def test_importer(benchmark, full, tmp_path, slides):
    """CLAM's files into a cache, against a plain copy of the same files; both end with their bytes on the disk."""
    source = write_clam(tmp_path / "clam", slides, ("h5_files",))
    cache, copied = tmp_path / "cache", tmp_path / "copied"

    def build():
        build_cache(source, cache, format="clam")

    def copy():
        shutil.rmtree(cache, ignore_errors=True)  # what the round before left, outside its time
        shutil.rmtree(copied, ignore_errors=True)
        shutil.copytree(source, copied)
        for path in copied.rglob("*.h5"):
            fsync(path)

    bench.record(benchmark, build, {"copy": copy, "gemm": bench.gemm()}, full)


def python(code, *arguments):
    return lambda: subprocess.run([sys.executable, "-c", code, *arguments], check=True, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize(
    "work",
    [
        pytest.param(python("from milbench.cli import main; main()", "--help"), id="help"),
        pytest.param(python("import milbench"), id="import"),
    ],
)
def test_start_up(benchmark, full, work):
    """Against an interpreter that does nothing."""
    bench.record(benchmark, work, {"python": python("pass")}, full)
