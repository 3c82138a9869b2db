"""Peak memory: 200 MiB that are allocated and freed inside the block must be seen, and little else."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from milbench.measure import memory
from milbench.measure.memory import PeakMemory

MIB = 1 << 20
SIZE = 200 * MIB


def allocate():
    """Touch and free 200 MiB."""
    block = torch.ones(SIZE, dtype=torch.uint8)
    assert int(block[-1]) == 1


@pytest.fixture(params=["hwm", "sampled"])
def method(request, monkeypatch, tmp_path):
    if request.param == "sampled":
        monkeypatch.setattr(memory, "_CLEAR_REFS", tmp_path / "no" / "clear_refs")
    elif not memory.reset_peak():
        pytest.skip("this kernel does not let the high-water mark be reset")
    return request.param


def test_sees_what_came_and_went(method):
    with PeakMemory() as peak:
        if method == "hwm":
            allocate()
        else:  # the sampler reads memory every millisecond, when it is scheduled
            block = np.ones(SIZE, dtype=np.uint8)
            memory.threading.Event().wait(0.2)
            del block
    assert peak.reading.method == method
    assert peak.reading.peak_bytes + MIB >= SIZE  # the kernel counts resident pages in batches
    assert peak.reading.peak_bytes < 2 * SIZE
    assert peak.reading.total_bytes == peak.reading.baseline_bytes + peak.reading.peak_bytes
    assert peak.reading.as_dict()["method"] == method


def test_an_earlier_peak_is_forgotten(method):
    allocate()
    with PeakMemory() as peak:
        pass
    assert peak.reading.peak_bytes < SIZE / 4


def test_what_was_there_before_is_the_baseline(method):
    kept = torch.ones(SIZE, dtype=torch.uint8)
    with PeakMemory() as peak:
        pass
    assert peak.reading.baseline_bytes >= kept.numel()
    assert peak.reading.peak_bytes < SIZE / 4


_FAULTS = """
import ctypes, resource, sys
import torch
from milbench.measure.memory import settle_heap

if sys.argv[1] == "settled" and not settle_heap():
    sys.exit(77)
if sys.argv[1] == "as it starts":
    for threshold in (-1, -3):
        ctypes.CDLL(None).mallopt(threshold, 128 << 10)


def work():
    held = [torch.empty(mib << 20, dtype=torch.uint8).fill_(1) for mib in (10, 10, 10)]
    assert len(held) == 3


for _ in range(20):  # until the heap holds the small blocks between the large ones
    work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_a_settled_heap_touches_no_new_pages():
    """30 MiB, five times; with glibc's first thresholds they come from the kernel each time."""

    def faults(how):
        run = subprocess.run([sys.executable, "-c", _FAULTS, how], capture_output=True, text=True)
        if run.returncode == 77:
            pytest.skip("this C library has no heap to settle")
        assert run.returncode == 0, run.stderr
        return int(run.stdout)

    assert faults("settled") < 0.2 * faults("as it starts")


def test_reading_survives_an_error():
    with pytest.raises(KeyError), PeakMemory() as peak:
        raise KeyError
    assert peak.reading.peak_bytes >= 0


def test_heap_freed_before_does_not_hide_growth():
    """glibc keeps small freed blocks; unless they are given back, later work fills them without moving the mark."""
    small = [bytearray(100_000) for _ in range(1000)]
    del small
    with PeakMemory() as peak:
        small = [bytearray(100_000) for _ in range(1000)]
        del small
    assert peak.reading.peak_bytes > 80 * MIB


def test_functions_agree():
    exact = memory.reset_peak()
    allocate()
    assert memory.peak_bytes() >= memory.resident_bytes()
    if exact:
        assert memory.peak_bytes() >= SIZE


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda():
    kept = torch.ones(SIZE, dtype=torch.uint8, device="cuda")
    with PeakMemory("cuda") as peak:
        torch.ones(SIZE, dtype=torch.uint8, device="cuda")
    assert peak.reading.method == "cuda-allocator"
    assert peak.reading.peak_bytes == pytest.approx(SIZE, rel=0.1)
    assert peak.reading.baseline_bytes >= kept.numel()
    assert peak.reading.reserved_bytes >= 2 * SIZE
