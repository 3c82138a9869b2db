"""Time of a piece of work: raw seconds of single calls (`time_calls`), of several works interleaved (`time_turns`), and
sums over a training (`DeviceTimer`).
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from types import TracebackType

_Clock = Callable[[], int]
#: Event pairs a DeviceTimer keeps before it adds up those that are over.
_PENDING = 256
#: Seconds of warm-up after which `time_turns` warms a work up no further, and calls of one work in one turn, at most.
_WARM_S = 5.0
_CALLS_A_TURN = 25


@dataclass(frozen=True)
class Samples:
    """Raw seconds of the timed calls, in the order they were made; everything else is computed from them.

    Attributes:
        seconds: one value a call.
        complete: False when ``max_seconds`` ended the measurement before ``min_iterations`` calls.
    """

    seconds: tuple[float, ...]
    complete: bool = True

    @property
    def median(self) -> float:
        """Median in seconds."""
        return statistics.median(self.seconds)

    @property
    def quartiles(self) -> tuple[float, float]:
        """Lower and upper quartile in seconds."""
        if len(self.seconds) < 2:
            return self.seconds[0], self.seconds[0]
        low, _, high = statistics.quantiles(self.seconds, n=4, method="inclusive")
        return low, high

    @property
    def iqr(self) -> float:
        """Interquartile range in seconds."""
        low, high = self.quartiles
        return high - low

    def __len__(self) -> int:
        return len(self.seconds)


def time_calls(
    work: Callable[[], Any],
    *,
    warmup: int = 3,
    min_iterations: int = 10,
    min_seconds: float = 0.2,
    max_seconds: float = 30.0,
    at_least: int = 1,
    device: str | torch.device = "cpu",
    clock: _Clock = time.perf_counter_ns,
) -> Samples:
    """Time single calls until there are enough of them and they took long enough.

    On CUDA the device is synchronised before and after every call, so that a sample is what a caller waits for:
    launches and the work itself. Garbage is collected before, not during.

    Args:
        work: the call to time.
        warmup: calls before the timed ones.
        min_iterations: timed calls, at least.
        min_seconds: sum of the timed calls, at least.
        max_seconds: when warm-up and timed calls together have taken so long no further call starts.
        at_least: calls that are timed in any case.
        device: where the work runs.
        clock: nanoseconds; replaced in tests.

    Raises:
        ValueError: a limit that lets no call happen.
    """
    if warmup < 0 or min_seconds < 0 or min(min_iterations, at_least) < 1 or max_seconds <= 0:
        raise ValueError(
            "warmup and min_seconds must not be negative; min_iterations, at_least and max_seconds must be positive"
        )
    synchronize = _synchronizer(device)
    samples: list[int] = []
    with _no_garbage_collection():
        synchronize()
        begin = clock()

        def spent() -> float:
            return (clock() - begin) / 1e9

        for _ in range(warmup):
            work()
            synchronize()
            if spent() >= max_seconds:
                break
        while True:
            start = clock()
            work()
            synchronize()
            samples.append(clock() - start)
            enough = len(samples) >= min_iterations and sum(samples) / 1e9 >= min_seconds
            if enough or (len(samples) >= at_least and spent() >= max_seconds):
                break
    return Samples(tuple(ns / 1e9 for ns in samples), complete=len(samples) >= min_iterations)


def time_turns(
    works: Sequence[Callable[[], Any]],
    *,
    turns: int,
    warmup: int = 2,
    turn_seconds: float = 0.02,
    device: str | torch.device = "cpu",
    before: Callable[[], Any] | None = None,
    clock: _Clock = time.perf_counter_ns,
) -> list[Samples]:
    """Time several pieces of work interleaved, so that whatever slows the machine slows all of them equally.

    In its turn a work is called until its timed calls took ``turn_seconds`` together, once at least. A work whose call
    is shorter than that is called once untimed before: the others have had the caches since its last turn. On CUDA a
    sample is the device's time between two events around the call, and the call has ended before the next one starts.

    Args:
        works: the calls to time.
        turns: turns of each work.
        warmup: calls of each work before the first turn; fewer where they take more than five seconds.
        turn_seconds: as above; at most 25 calls are made in a turn.
        device: where the works run.
        before: called, untimed, before every timed call on CUDA; to clear a cache, for instance.
        clock: nanoseconds; replaced in tests.

    Returns:
        one `Samples` a work, in order.

    Raises:
        ValueError: there is nothing to time.
    """
    if not works or turns < 1 or warmup < 0:
        raise ValueError("there must be works and turns, and warmup must not be negative")
    seconds = _call_timer(torch.device(device), before, clock)
    samples: list[list[float]] = [[] for _ in works]
    last = [0.0] * len(works)
    with _no_garbage_collection():
        for i, work in enumerate(works):
            spent = 0.0
            for _ in range(warmup):
                last[i] = seconds(work)
                spent += last[i]
                if spent >= _WARM_S:
                    break
        for _ in range(turns):
            for i, work in enumerate(works):
                if last[i] < turn_seconds:
                    seconds(work)
                spent = 0.0
                for _ in range(_CALLS_A_TURN):
                    last[i] = seconds(work)
                    samples[i].append(last[i])
                    spent += last[i]
                    if spent >= turn_seconds:
                        break
    return [Samples(tuple(kept)) for kept in samples]


class Stopwatch:
    """Add up wall seconds of the blocks it wraps: ``with watch: ...`` as often as wanted, then ``watch.seconds``."""

    def __init__(self, clock: _Clock = time.perf_counter_ns) -> None:
        self._clock = clock
        self._total = 0
        self._start: int | None = None

    def __enter__(self) -> Stopwatch:
        if self._start is not None:
            raise RuntimeError("the stopwatch is running already")
        self._start = self._clock()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._start is not None
        self._total += self._clock() - self._start
        self._start = None

    @property
    def seconds(self) -> float:
        """Seconds of the blocks that have ended."""
        return self._total / 1e9


class DeviceTimer:
    """Add up the seconds a device works on the blocks it wraps, without stalling it.

    On CUDA the blocks are marked by events on the current stream and read later: launching runs ahead as it would
    untimed, and waiting for data is not counted. On CPU the device's time is the wall time of the blocks.
    """

    def __init__(self, device: str | torch.device = "cpu", clock: _Clock = time.perf_counter_ns) -> None:
        self.device = torch.device(device)
        self._clock = clock
        self._on_cuda = self.device.type == "cuda"
        self._nanoseconds = 0
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        self._milliseconds = self._longest = 0.0
        self._over = 0  # blocks whose milliseconds are known
        self._begin: Any = None  # an event on CUDA, nanoseconds on CPU

    def __enter__(self) -> DeviceTimer:
        if self._begin is not None:
            raise RuntimeError("the timer is running already")
        self._begin = self._mark() if self._on_cuda else self._clock()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        begin, self._begin = self._begin, None
        if not self._on_cuda:
            self._nanoseconds += self._clock() - begin
            return
        self._events.append((begin, self._mark()))
        if len(self._events) >= _PENDING:
            self._add_up(wait=False)

    @contextmanager
    def concurrent(self) -> Iterator[None]:
        """Add up a block on the current CUDA stream, which may run concurrently with another block."""
        begin = self._mark()
        yield
        self._events.append((begin, self._mark()))

    @property
    def seconds(self) -> float:
        """Seconds of the blocks that have ended; waits for the device."""
        self._add_up(wait=True)
        return self._nanoseconds / 1e9 + self._milliseconds / 1e3

    def seconds_by(self, limit: float) -> float:
        """Return the seconds so far, waiting for the device only where they may have come to `limit`.

        On CUDA blocks that are still under way count as long as the mean of those that are over. They are waited for,
        and the result is exact, where they would reach the limit if each of them, and two more, took twice as long as
        the longest so far.
        """
        self._add_up(wait=False)
        known, pending = self._nanoseconds / 1e9 + self._milliseconds / 1e3, len(self._events)
        if not pending:
            return known
        if not self._over or known + (pending + 2) * 2 * self._longest / 1e3 >= limit:
            return self.seconds
        return known + pending * self._milliseconds / self._over / 1e3

    def _mark(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.device))
        return event

    def _add_up(self, wait: bool) -> None:
        pending = []
        for begin, end in self._events:
            if wait:
                end.synchronize()
            if wait or end.query():
                took = begin.elapsed_time(end)
                self._milliseconds += took
                self._longest = max(self._longest, took)
                self._over += 1
            else:
                pending.append((begin, end))
        self._events = pending


def _call_timer(
    device: torch.device, before: Callable[[], Any] | None, clock: _Clock
) -> Callable[[Callable[[], Any]], float]:
    """Return a function that calls a work and returns its seconds."""

    def on_cpu(work: Callable[[], Any]) -> float:
        start = clock()
        work()
        return (clock() - start) / 1e9

    def on_cuda(work: Callable[[], Any]) -> float:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        stream = torch.cuda.current_stream(device)
        if before is not None:
            before()
        begin.record(stream)
        work()
        end.record(stream)
        end.synchronize()
        return float(begin.elapsed_time(end)) / 1e3

    return on_cuda if device.type == "cuda" else on_cpu


def _synchronizer(device: str | torch.device) -> Callable[[], None]:
    where = torch.device(device)
    if where.type == "cuda":
        return lambda: torch.cuda.synchronize(where)
    return lambda: None


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
