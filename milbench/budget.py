"""Meter: what a training has used of its budget, how far along it is, and when it must stop."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from .bags import Bags
from .errors import MilbenchError
from .measure.flops import count_flops
from .measure.timing import DeviceTimer
from .registry import resolve
from .spec import Budget

if TYPE_CHECKING:
    from .aggregator import Aggregator


class Meter:
    """Counts steps, operations and device-seconds of one training.

    Args:
        budget: its `track`, if any, sets the length.
        planned_steps: of a training whose length the recipe sets.
        timer: of the training's work on the device.
        flops: operations of a training step of one bag by its length; None where they cannot be counted.
    """

    def __init__(
        self, budget: Budget, planned_steps: int, timer: DeviceTimer, flops: Callable[[int], int | None]
    ) -> None:
        self.track = budget.track  # once: it is asked for at every step
        self.timer = timer
        self.steps = 0
        self.flops: int | None = 0
        self._flops = flops
        self._allowed = float(planned_steps if self.track is None else getattr(budget, self.track))
        self._used = self._last = 0.0

    def add(self, lengths: Sequence[int]) -> None:
        """Count an optimizer step on bags of some lengths."""
        self.steps += 1
        if self.flops is not None:
            for n in lengths:
                if (more := self._flops(n)) is None:
                    self.flops = None
                    break
                self.flops += more
        before = self._used
        match self.track:
            case "flops":
                self._used = float(self.flops or 0)
                if self._used == before:
                    raise MilbenchError("a step of this method has no operations that count; give a budget in steps.")
            case "device_seconds":
                self._used = self.timer.seconds_by(self._allowed)
            case _:
                self._used = float(self.steps)
        self._last = self._used - before

    @property
    def progress(self) -> float:
        """Share of the training that is done, in [0, 1]."""
        return min(1.0, self._used / self._allowed)

    def passed(self, parts: int) -> int:
        """Return how many of so many equal parts of the training are done."""
        return int(self._used * parts // self._allowed)  # whole numbers stay exact

    @property
    def spent(self) -> bool:
        """Whether the budget is used up; never, where the recipe sets the length."""
        return self.track is not None and self._used >= self._allowed

    def record(self) -> dict[str, Any]:
        """Return what was used: ``track``, ``allowed``, ``used``, ``overshoot`` and ``last_step``, in its unit.

        The overshoot is at most the last step: the one before it had not reached the budget.
        """
        if self.track is None:
            return {"track": None}
        used = self.timer.seconds if self.track == "device_seconds" else self._used
        return {
            "track": self.track,
            "allowed": self._allowed,
            "used": used,
            "overshoot": max(0.0, used - self._allowed),
            "last_step": self._last,
        }


class StepFlops:
    """Floating-point operations of forward, loss and backward of one bag, by its length.

    They are counted once for each length, on torch's meta device: from shapes alone, without computing anything, and so
    the same on every machine, whatever it then trains on. The optimizer's elementwise work counts nothing, nor does it
    matter whether bags are batched or in which precision.

    Args:
        method: its name with parameters.
        in_dim: width of the features.
        n_classes: number of classes.
        coords: whether bags have coordinates.
        on_host: count a method that the meta device cannot carry (it reads a value, say) on the host, on bags of zeros.
    """

    def __init__(self, method: str, in_dim: int, n_classes: int, coords: bool = False, on_host: bool = False) -> None:
        self.method, self.in_dim, self.n_classes, self.coords = method, in_dim, n_classes, coords
        self.devices = ["meta", "cpu"] if on_host else ["meta"]
        self._known: dict[int, int | None] = {}
        self._model: Aggregator | None = None

    @property
    def known(self) -> tuple[tuple[int, int | None], ...]:
        """What has been counted: (length, operations)."""
        return tuple(self._known.items())

    def learn(self, known: Iterable[tuple[int, int | None]]) -> None:
        """Take over what another process has counted of the same method."""
        self._known.update(known)

    def of(self, n: int) -> int | None:
        """Return the operations of one training step of a bag of n instances; None where they cannot be counted."""
        if n not in self._known:
            # Counting must not move the generators that the training draws from.
            others = random.getstate(), np.random.get_state()
            with torch.random.fork_rng(devices=[]), torch.inference_mode(False), torch.enable_grad():
                self._known[n] = self._count(n)
            random.setstate(others[0])
            np.random.set_state(others[1])
        return self._known[n]

    def _count(self, n: int) -> int | None:
        while self.devices:
            try:
                return self._counted_on(self.devices[0], n)
            except Exception:  # whatever a stranger's method does with values that are not there
                if self.devices == ["cpu"]:
                    raise
                self._model = None
                del self.devices[0]
        return None

    def _counted_on(self, device: str, n: int) -> int:
        with torch.device(device):
            if self._model is None:
                self._model = resolve(self.method).create(self.in_dim, self.n_classes).to(device).train()
            model = self._model
            bags = Bags(torch.zeros(n, self.in_dim), [n], torch.zeros(n, 2) if self.coords else None)
            targets = torch.zeros(1, dtype=torch.int64)
        return count_flops(lambda: model.loss(model(bags), targets).backward())


@lru_cache(maxsize=8)
def step_flops(method: str, in_dim: int, n_classes: int, coords: bool = False, on_host: bool = False) -> StepFlops:
    """Return the counts of a method; the same object for a process's later runs, which then need not count again."""
    return StepFlops(method, in_dim, n_classes, coords, on_host)
