"""The regression benchmarks: the work they time, its references, and peak memory in a fresh process.

`milbench.measure.perf_regression` compares their records. Factories are named as ``module:function`` so that a fresh
process can import them; the functions that they return are called repeatedly and do the same each time.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import Any

import torch

import milbench
from milbench.measure.environment import environment, fingerprint
from milbench.measure.memory import PeakMemory
from milbench.runs.launchers.base import Outcome
from milbench.runs.launchers.local import run_all

Work = Callable[[], Any]

#: Threads of every benchmark. Two would wait for each other whenever a neighbour takes a core, and on virtual machines
#: the bandwidth of two depends on where the host puts them (measured: 2.9 or 5.4 ms for one copy, minutes apart, while
#: one thread stayed within 8 %). A change that leaves a second core idle does not show here; the ratios of tests/perf,
#: which use all cores, are there for that.
THREADS = 1
ROUNDS, WARMUP_ROUNDS = 12, 2
#: Readings of peak memory: with 10 against 10 one stray reading leaves p < .002, with 8 it would not.
READINGS = 10
DIM = 1024
CPU = torch.device("cpu")
#: Of the methods: the GPU where there is one, by whose name the reference goes then.
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def machine() -> dict[str, Any]:
    """The environment record, with the threads of the benchmarks instead of this moment's."""
    record = environment()
    record["numerics"]["threads"] = THREADS
    return record | {"fingerprint": fingerprint(record)}


def gemm(device: torch.device = CPU) -> Work:
    """One fp32 matrix product of milliseconds: what compute-bound work is compared with."""
    size = 768 if device == CPU else 8192
    a, b, out = (torch.randn(size, size, device=device) for _ in range(3))
    return _awaited(lambda: torch.mm(a, b, out=out), device)


def copy(device: torch.device = CPU) -> Work:
    """One copy in memory, larger than caches: what bandwidth-bound work is compared with."""
    source = torch.ones((128 if device == CPU else 4096) << 18, device=device)
    out = torch.empty_like(source)
    return _awaited(lambda: out.copy_(source), device)


def _awaited(work: Work, device: torch.device) -> Work:
    """The work and the end of what it has a device do."""
    if device == CPU:
        return work

    def whole() -> None:
        work()
        torch.cuda.synchronize()

    return whole


def method(name: str, mode: str, length: int, calls: int = 1) -> Work:
    """Inference (``infer``), or forward, loss and backward (``train``), of one bag, `calls` times in a row."""
    torch.manual_seed(0)
    return _calls(milbench.create(name, in_dim=DIM, n_classes=2), mode, length, calls)


def authors(mode: str, length: int) -> Work:
    """TransMIL in its authors' form, once: the same work as `method` does `calls` times."""
    from support.transmil import AuthorsTransMIL

    class Wrapped(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = AuthorsTransMIL(DIM)

        def forward(self, bags: milbench.Bags) -> torch.Tensor:
            return self.model(bags.x)

        def loss(self, logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.cross_entropy(logits, target)

    return _calls(Wrapped(), mode, length, 1)


def _calls(model: Any, mode: str, length: int, calls: int) -> Work:
    bags = milbench.Bags.pack([torch.randn(length, DIM)]).to(DEVICE)
    target = torch.ones(1, dtype=torch.int64, device=DEVICE)
    model.to(DEVICE).train(mode == "train")

    def infer() -> None:
        with torch.inference_mode():
            for _ in range(calls):
                model(bags)

    def train() -> None:
        for _ in range(calls):
            model.loss(model(bags), target).backward()
            model.zero_grad()  # gradients belong to the peak of the call, not to the baseline of the next

    return _awaited({"infer": infer, "train": train}[mode], DEVICE)


def record(
    benchmark: Any, work: Work, references: dict[str, Work], full: bool, clock: Callable[[], float] = time.perf_counter
) -> None:
    """Time `work`, and before every round each reference, into ``extra_info["NAME_seconds"]``, one sample a round."""
    rounds, warmup = (ROUNDS, WARMUP_ROUNDS) if full else (1, 0)
    samples: dict[str, list[float]] = {name: [] for name in references}

    def setup() -> None:
        for name, other in references.items():
            start = clock()
            other()
            samples[name].append(clock() - start)

    benchmark.pedantic(work, setup=setup, rounds=rounds, warmup_rounds=warmup)
    for name, seconds in samples.items():
        benchmark.extra_info[f"{name}_seconds"] = seconds[-rounds:]


def peak_bytes(factory: str, *arguments: Any, readings: int = READINGS, plant: bool = False) -> list[int]:
    """Peak memory of what a factory makes, in a process of its own, after one call that is not read.

    Args:
        factory: ``module:function``.
        arguments: the factory's.
        readings: calls that are read.
        plant: hold as much again during every call (to show that it is noticed).
    """
    task = (factory, arguments, readings, plant)
    ((_, result),) = run_all(read_peaks, [(None, task)], jobs=1, timeout_s=900)
    if result.outcome != "ok":
        raise RuntimeError(f"peak memory of {factory}{arguments}: {result.outcome}, {result.reason}")
    return result.value


def read_peaks(task: tuple[str, tuple[Any, ...], int, bool]) -> Outcome:
    """`peak_bytes` in the fresh process."""
    factory, arguments, readings, plant = task
    torch.set_num_threads(THREADS)
    _give_back_large_blocks()
    module, name = factory.split(":")
    work = getattr(import_module(module), name)(*arguments)
    work()
    if plant:
        work = holding_as_much_again(work)
    return Outcome("ok", "", [_peak(work) for _ in range(readings)])


def _give_back_large_blocks() -> None:
    """Pin glibc's threshold: by moving it as it goes, it keeps a freed block at one call and not at the next."""
    with suppress(OSError, AttributeError, TypeError):  # not glibc
        ctypes.CDLL(None).mallopt(-3, 128 << 10)  # M_MMAP_THRESHOLD, at its initial value


def holding_as_much_again(work: Work) -> Work:
    """The same work, with an idle block as large as its own peak allocated meanwhile: twice the memory."""
    size = _peak(work)

    def twice() -> None:
        block = torch.ones(size, dtype=torch.uint8, device=DEVICE)
        work()
        del block

    return twice


def _peak(work: Work) -> int:
    with PeakMemory(DEVICE) as peak:
        work()
    return peak.reading.peak_bytes
