"""BagLoader: features on their way from the cache to the device, once where they fit, else read ahead of the work."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from ..bags import Bags
from ..data.cache.reader import FeatureCache
from ..measure.environment import memory_limit
from ..measure.timing import DeviceTimer

_Sent = TypeVar("_Sent")

EVAL_ROWS = 8192  # rows of one evaluation batch, unless a single bag is longer
EVAL_BAGS = 64
RESIDENT_SHARE = 0.25  # of the free memory of the host that a cohort's features may take
RESIDENT_SHARE_CUDA = 0.5  # of a CUDA device's: nobody else is on it
AHEAD = 2  # batches that are read while the device works


@dataclass(frozen=True)
class Standardizer:
    """Mean and standard deviation of every feature over some slides' instances, ``(d,)`` each; a constant one has 1."""

    mean: Tensor
    deviation: Tensor

    @classmethod
    def fit(cls, cache: FeatureCache, ids: Sequence[str]) -> Standardizer:
        """Measure the instances of `ids`, in two passes and float64."""
        rows = sum(len(cache[slide]) for slide in ids)
        mean = sum((cache[slide].double().sum(dim=0) for slide in ids), start=torch.zeros(cache.dim).double()) / rows
        squares = (((cache[slide].double() - mean) ** 2).sum(dim=0) for slide in ids)
        deviation = (sum(squares, start=torch.zeros(cache.dim).double()) / rows).sqrt()
        return cls(mean.float(), torch.where(deviation > 0, deviation, 1.0).float())


class BagLoader:
    """Bags of some slides of a cache, ready to be batched on a device.

    Features stay where the cache has mapped them until they are read. Where all of them fit into a share of the
    free memory they are brought to the device once: to the host's as fp32, to a CUDA device's in the stored dtype,
    which becomes fp32 there, batch by batch, exactly. Where they do not fit, `stream` reads ahead of the device.
    """

    def __init__(
        self, cache: FeatureCache, ids: Sequence[str], device: torch.device, scaling: Standardizer | None = None,
        limit_bytes: int | None = None, as_if: Sequence[str] | None = None,
    ) -> None:  # fmt: skip
        """Open some slides.

        Args:
            cache: where they are.
            ids: which.
            device: where batches go.
            scaling: standardises them; or None.
            limit_bytes: the memory this run may have, where it is less than what is free.
            as_if: slides whose size decides whether features are brought to the device, instead of these.
        """
        self.cache = cache
        self.ids = list(ids)
        self.device = device
        self.scaling = scaling
        self.lengths = cache.lengths(self.ids)
        self._starts = np.concatenate([[0], np.cumsum(self.lengths)]).tolist()
        self._single: dict[int, Bags] = {}
        self._resident: Bags | None = None
        width = self._resident_dtype.itemsize
        total = self._starts[-1] if as_if is None else sum(cache.lengths(as_if))
        if self.ids and total * cache.dim * width <= _share(device) * _free_bytes(device, limit_bytes):
            self._resident = self._bring_all()

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def resident(self) -> bool:
        """Whether all features are on the device."""
        return self._resident is not None

    def batch(self, which: Sequence[int] | np.ndarray) -> Bags:
        """Return the bags at the given positions, packed, fp32, on the device."""
        if self._resident is None:
            return self._scaled(self.cache.bags([self.ids[i] for i in which], dtype=torch.float32)).to(self.device)
        if len(which) == 1:
            return self._one(int(which[0]))
        parts = [self._one(int(i)) for i in which]
        coords = [part.coords for part in parts if part.coords is not None]
        return Bags.pack([part.x for part in parts], coords or None)

    def stream(
        self, batches: Sequence[Sequence[int] | np.ndarray], timer: DeviceTimer | None = None
    ) -> Generator[Bags]:
        """Yield `batch` of every element, in order; from a cache that does not fit, read while the device works.

        A thread copies the mapped rows into pinned memory, a stream of its own takes them to the device in the stored
        dtype, and there they become fp32: the same bags as `batch`, bit for bit. The timer, if any, adds up the seconds
        of that way, which on CPU is reading the mapped rows as fp32; waiting for the disk before it does not count.
        """
        if self._resident is not None:
            if self._resident.x.dtype == torch.float32 and all(len(at) == 1 for at in batches):
                # All of them first, as they are views: read one by one, between steps, each costs many times more.
                yield from [self._one(int(at[0])) for at in batches]
            else:
                yield from (self.batch(at) for at in batches)
            return
        if self.device.type != "cuda":
            for at in batches:
                with timer or nullcontext():
                    bags = self.batch(at)
                yield bags
            return
        lane = _TransferStream(self.device, timer)
        for bags, arrived in ahead(batches, self._stage, lane.send, AHEAD):
            arrived()
            yield self._scaled(bags)

    def batches(self) -> Iterator[Bags]:
        """Yield all bags in order, in batches of bounded rows: the same batches every time."""
        spans = []
        start = 0
        while start < len(self):
            stop, rows = start, 0
            while (
                stop < len(self)
                and stop - start < EVAL_BAGS
                and (stop == start or rows + self.lengths[stop] <= EVAL_ROWS)
            ):
                rows += self.lengths[stop]
                stop += 1
            spans.append(range(start, stop))
            start = stop
        yield from self.stream(spans)

    @property
    def _resident_dtype(self) -> torch.dtype:
        return self.cache.dtype if self.device.type == "cuda" and self.scaling is None else torch.float32

    def _bring_all(self) -> Bags:
        """Bring every slide to the device, one after the other: the host never holds a second copy of the cohort."""
        x = torch.empty(self._starts[-1], self.cache.dim, dtype=self._resident_dtype, device=self.device)
        for slide, part in zip(self.ids, x.split(self.lengths), strict=True):
            part.copy_(self.cache[slide])
            if self.scaling is not None:
                part.sub_(self.scaling.mean.to(x.device)).div_(self.scaling.deviation.to(x.device))
        where = [c for slide in self.ids if (c := self.cache.coords(slide)) is not None]
        coords = torch.cat(where).to(self.device) if where else None
        return Bags(x, self.lengths, coords)

    def _one(self, i: int) -> Bags:
        """Return one resident bag; kept, since with a small method making it anew would be a tenth of a step."""
        assert self._resident is not None
        bags = self._single.get(i)
        if bags is None:
            rows = slice(self._starts[i], self._starts[i + 1])
            where = self._resident.coords
            with torch.inference_mode(False):  # training uses them too, whoever reads it first
                bags = Bags(self._resident.x[rows], self.lengths[i : i + 1], None if where is None else where[rows])
            self._single[i] = bags
        # On a CUDA device the stored dtype stays: only the batch in hand is widened.
        return bags if bags.x.dtype == torch.float32 else bags.to(dtype=torch.float32)

    def _scaled(self, bags: Bags) -> Bags:
        if self.scaling is None:
            return bags
        mean, deviation = (t.to(bags.device) for t in (self.scaling.mean, self.scaling.deviation))
        return bags.with_features((bags.x - mean) / deviation)

    def _stage(self, which: Sequence[int] | np.ndarray) -> Bags:
        """Copy the bags at some positions from the map into pinned memory, in the stored dtype."""
        lengths = [self.lengths[i] for i in which]
        x = torch.empty(sum(lengths), self.cache.dim, dtype=self.cache.dtype, pin_memory=self.device.type == "cuda")
        for i, part in zip(which, x.split(lengths), strict=True):
            part.copy_(self.cache[self.ids[i]])
        where = [c for i in which if (c := self.cache.coords(self.ids[i])) is not None]
        return Bags(x, lengths, torch.cat(where) if where else None)


def ahead(
    items: Sequence[Sequence[int] | np.ndarray], stage: Callable[[Sequence[int] | np.ndarray], Bags],
    send: Callable[[Bags], _Sent], depth: int,
) -> Iterator[_Sent]:  # fmt: skip
    """Yield ``send(stage(item))`` in order, `stage` running up to `depth` items ahead in a thread, `send` one ahead.

    What `stage` raises is raised here, at the item it belongs to. Closing the iterator early ends the thread.
    """
    pool = ThreadPoolExecutor(1, thread_name_prefix="feed")
    try:
        staged = [pool.submit(stage, item) for item in items[:depth]]
        sent: list[_Sent] = []
        for i in range(len(items)):
            if not sent:
                sent.append(send(staged.pop(0).result()))
            if i + depth < len(items):
                staged.append(pool.submit(stage, items[i + depth]))
            # On its way before this item's work is queued; its error is raised in its turn.
            if staged and staged[0].done() and staged[0].exception() is None:
                sent.append(send(staged.pop(0).result()))
            yield sent.pop(0)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


class _TransferStream:
    """A CUDA stream that copies bags to the device concurrently with the work."""

    def __init__(self, device: torch.device, timer: DeviceTimer | None) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device)
        self.timer = timer

    def send(self, bags: Bags) -> tuple[Bags, Callable[[], None]]:
        """Start the copy; return the bags on the device, fp32, and a function that makes the work wait for it.

        To be called when the bags' turn comes: the work on those before them must not wait for this copy. The host
        never waits.
        """
        here = torch.cuda.current_stream(self.device)
        with torch.cuda.stream(self.stream), self.timer.concurrent() if self.timer else nullcontext():
            moved = bags.to(self.device, non_blocking=True).to(dtype=torch.float32)
            there = self.stream.record_event()
        for tensor in (moved.x, moved.ptr, moved.coords):
            if tensor is not None:
                # Its memory belongs to the lane: it must not be given out again before the work here is done with it.
                tensor.record_stream(here)
        return moved, lambda: here.wait_event(there)


def _share(device: torch.device) -> float:
    return RESIDENT_SHARE_CUDA if device.type == "cuda" else RESIDENT_SHARE


def _free_bytes(device: torch.device, limit_bytes: int | None) -> int:
    """Return the memory this run may count on; on CPU its share, as other runs may go side by side on other cores."""
    most = float("inf") if limit_bytes is None else limit_bytes
    if device.type == "cuda":
        return int(min(most, torch.cuda.mem_get_info(device)[0]))
    import psutil

    free = psutil.virtual_memory().available
    limit = memory_limit()
    runs = max(1, (os.cpu_count() or 1) // torch.get_num_threads())
    return int(min(most, min(free, limit or free) / runs))
