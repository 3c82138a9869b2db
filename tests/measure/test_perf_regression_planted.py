"""Real measured work end to end: pytest-benchmark records it, a fault is planted, and the comparison reports it.

Times of the benchmark and of its yardstick are processor times of one thread, since other tests may use the machine
meanwhile. A process that shares a core's caches can still slow one recording against the other, so a fault may be
recorded up to three times before it counts as missed.
"""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from milbench.measure.perf_regression import compare_file, save_reference

TESTS = Path(__file__).parents[1]
NAME = "test_work.py::test_product"

CONFTEST = """
from support import bench

def pytest_benchmark_update_machine_info(config, machine_info):
    machine_info["milbench"] = bench.machine()
"""
#: The same product two times, or three with the slowdown planted; 16 MiB held meanwhile, or 32.
WORK = """
import os, time
import numpy as np
import pytest
from support import bench
from milbench.measure.memory import PeakMemory

PLANT = os.environ.get("PLANT")

@pytest.mark.benchmark(timer=time.process_time, disable_gc=True)
def test_product(benchmark):
    a = np.random.default_rng(0).normal(size=(448, 448))

    def product():
        a @ a

    def work():
        block = np.ones((32 if PLANT == "memory" else 16) << 17)
        for _ in range(3 if PLANT == "slow" else 2):
            a @ a
        del block

    work()
    readings = benchmark.extra_info["peak_bytes"] = []
    for _ in range(bench.READINGS):
        with PeakMemory() as peak:
            work()
        readings.append(peak.reading.peak_bytes)
    bench.record(benchmark, lambda: [a @ a for _ in range(3 if PLANT == "slow" else 2)], {"gemm": product}, True,
                 clock=time.process_time)
"""


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("planted")
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "test_work.py").write_text(textwrap.dedent(WORK))
    (folder / "pytest.ini").write_text(f"[pytest]\npythonpath = {TESTS.as_posix()}\n")
    # Inside a pytest-xdist worker pytest-benchmark would measure nothing.
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "COV_"))}
    environment |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    count = iter(range(1000))

    def record(plant=""):
        out = folder / f"{next(count)}{plant}.json"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--benchmark-json={out}"]
        run = subprocess.run(
            command, cwd=folder, env=environment | {"PLANT": plant}, capture_output=True, text=True, timeout=300
        )
        assert run.returncode == 0, run.stdout + run.stderr
        return out

    return record


@pytest.fixture(scope="module")
def references(recorded, tmp_path_factory):
    folder = tmp_path_factory.mktemp("references")
    save_reference(recorded(), folder)
    return folder


def failures(report):
    return {(row.benchmark, row.quantity) for row in report.rows if row.verdict == "regression"}


@pytest.mark.slow(covered_by="measure/test_perf_regression.py::test_unchanged_benchmarks_raise_no_alarm")
def test_unchanged_work_raises_no_alarm(recorded, references):
    for _ in range(2):
        report = compare_file(recorded(), references)
        assert report.exit_code == 0, report.lines


@pytest.mark.parametrize(("plant", "quantity"), [("slow", "time"), ("memory", "peak memory")])
def test_a_planted_fault_is_caught(recorded, references, plant, quantity, tmp_path):
    seen = []
    for attempt in range(3):
        if attempt:
            save_reference(recorded(), folder := tmp_path / str(attempt))
        report = compare_file(recorded(plant), folder if attempt else references)
        seen += report.lines
        if report.exit_code == 3:
            assert failures(report) == {(NAME, quantity)}
            return
    pytest.fail("\n".join(seen))
