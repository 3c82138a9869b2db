"""What the performance tests share: the machine's record, the threads, and faults planted to see them caught."""

import os
from fnmatch import fnmatchcase

import pytest
from support import bench


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_machine_info(config, machine_info):
    """Add GPUs and versions, by which `milbench.measure.perf_regression` tells machine classes apart; no host name."""
    machine_info.pop("node", None)
    machine_info["milbench"] = bench.machine()


@pytest.fixture
def benchmark_threads():
    with bench.threads(bench.THREADS):
        yield


@pytest.fixture
def one_thread():
    with bench.threads(1):
        yield


@pytest.fixture
def full(request):
    """Whether samples are recorded; without ``--benchmark-json`` one round shows that a benchmark still runs."""
    return bool(request.config.getoption("benchmark_json"))


@pytest.fixture
def planted():
    """Ask ``planted("slow", "abmil-train-8000")``: whether MILBENCH_PLANT puts that fault into that benchmark.

    ``MILBENCH_PLANT=slow`` or ``memory``, by default in abmil at 8000; ``slow:transmil-infer-*`` says where.
    """
    kind, _, where = os.environ.get("MILBENCH_PLANT", "").partition(":")
    if kind not in ("", "slow", "memory"):
        pytest.fail(f"MILBENCH_PLANT={kind}: give slow or memory, with :PATTERN behind it if wanted")
    return lambda fault, name: fault == kind and fnmatchcase(name, where or "abmil-*-8000")
