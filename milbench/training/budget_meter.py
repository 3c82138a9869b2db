"""Meter: the part of its budget that a training has used, its progress, and when it must stop."""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable, Iterable, Sequence
from fractions import Fraction
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..bags import Bags
from ..config import Budget
from ..errors import MilbenchError
from ..measure.flops import Shapes, count_flops
from ..measure.timing import DeviceTimer
from ..registry import resolve

if TYPE_CHECKING:
    from ..aggregator import Aggregator


class BudgetMeter:
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
        self.track = budget.track  # once: every step reads it
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
                    raise MilbenchError(
                        "a step of this method has no operations that count; give a budget in steps.",
                        code="budget-bad-value",
                    )
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


#: Lengths up to which a count is made where another would do: longer ones take more operations, chunk by chunk.
_CHEAP = 4096


class FlopTable:
    """Floating-point operations of forward, loss and backward of one bag, by its length.

    They are counted on torch's meta device: from shapes alone, without computing anything, and so the same on every
    machine, whatever it then trains on. The optimizer's elementwise work counts nothing, nor does it matter whether
    bags are batched or in which precision.

    Where a method states its `Aggregator.flop_terms`, as many lengths are counted as its terms have independent values,
    and one more to check what follows from them; the operations of all other lengths follow from those, in whole
    numbers. Otherwise, and where the check fails, every length is counted once.

    Args:
        method: its name with parameters.
        in_dim: width of the features.
        n_classes: number of classes.
        coords: whether bags have coordinates.
        on_host: count a method that the meta device cannot carry (it reads a value, say) on the host, on bags of zeros.

    Attributes:
        counts: how many lengths were counted here.
        why: in words why operations cannot be counted; empty where they can.
    """

    def __init__(self, method: str, in_dim: int, n_classes: int, coords: bool = False, on_host: bool = False) -> None:
        self.method, self.in_dim, self.n_classes, self.coords = method, in_dim, n_classes, coords
        self.devices = ["meta", "cpu"] if on_host else ["meta"]
        self.counts = 0
        self.why = ""
        self._known: dict[int, int | None] = {}
        self._model: Aggregator | None = None
        self._shapes: Shapes | None = Shapes()
        self._learnt: list[int] = []  # lengths from other processes whose pieces are not known yet
        self._pieces: dict[Hashable, _Piece] | None = {}  # None: not stated, or not true

    @property
    def known(self) -> tuple[tuple[int, int | None], ...]:
        """The operations that are known: (length, operations)."""
        return tuple(self._known.items())

    def learn(self, known: Iterable[tuple[int, int | None]]) -> None:
        """Take over the operations that another process has counted of the same method."""
        for n, flops in known:
            if n not in self._known:
                self._known[n] = flops
                self._learnt.append(n)

    def of(self, n: int) -> int | None:
        """Return the operations of one training step of a bag of n instances; None where they cannot be counted."""
        if n not in self._known:
            # Counting must not move the generators that the training draws from.
            others = random.getstate(), np.random.get_state()
            with torch.random.fork_rng(devices=[]), torch.inference_mode(False), torch.enable_grad():
                self._known[n] = self._from_pieces(n) if self._pieces is not None else self._count(n)
            random.setstate(others[0])
            np.random.set_state(others[1])
        return self._known[n]

    def _from_pieces(self, n: int) -> int | None:
        if (stated := self._terms(n)) is None:
            self._pieces = None
            return self._count(n)
        assert self._pieces is not None
        while self._learnt:
            if not self._take(length := self._learnt.pop(), self._known[length]):
                return self._count(n)
        piece, row = self._pieces.setdefault(stated[0], _Piece()), stated[1]
        # Short bags of the same piece first, as they take the fewest operations to count.
        for length in range(1, min(n, _CHEAP)):
            if piece.value(row) is not None:
                break
            other = self._terms(length)
            if other is not None and other[0] == stated[0] and piece.value(other[1]) is None:
                flops = self._known[length] = self._count(length)
                if not self._take(length, flops):
                    return self._count(n)
        flops = piece.value(row)
        if flops is None:
            flops = self._count(n)
            return flops if self._take(n, flops) else self._count(n)
        if not piece.checked:
            at = n if n <= _CHEAP else self._to_check(stated[0], piece, n)
            if not self._take(at, self._count(at)):
                return self._count(n)
        return flops

    def _to_check(self, key: Hashable, piece: _Piece, n: int) -> int:
        """Return the longest bag of a piece that is cheap to count and follows from those counted; else n itself."""
        for length in range(_CHEAP, _CHEAP // 2, -1):
            other = self._terms(length)
            if other is not None and other[0] == key and length not in self._known and piece.value(other[1]):
                return length
        return n

    def _take(self, n: int, flops: int | None) -> bool:
        """Add a count to its piece; return whether the pieces are still to be relied on."""
        stated = self._terms(n)
        if self._pieces is None or stated is None or flops is None:
            self._pieces = None
        elif not self._pieces.setdefault(stated[0], _Piece()).add(stated[1], flops):
            # Nothing that followed from the statement is kept; operations that were counted here are counted again.
            self._pieces = None
            self._known.clear()
        return self._pieces is not None

    def _terms(self, n: int) -> tuple[Hashable, tuple[int, ...]] | None:
        """Return a method's piece and terms of a length, where the class itself states them."""
        try:
            model = self._made(self.devices[0]) if self.devices else None
            if model is None or "flop_terms" not in type(model).__dict__:
                return None
            stated = model.flop_terms(n)
            return None if stated is None else (stated[0], (1, *map(int, stated[1])))
        except Exception:  # whatever a method of others does; counting says what is wrong with it
            return None

    def _count(self, n: int) -> int | None:
        self.counts += 1
        while self.devices:
            try:
                return self._counted_on(self.devices[0], n)
            except Exception as error:  # whatever a method of others does with values that are not there
                if self.devices == ["cpu"]:
                    raise
                self.why = f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0]}"
                self._model = None
                del self.devices[0]
        return None

    def _made(self, device: str) -> Aggregator:
        if self._model is None:
            with torch.device(device):
                self._model = resolve(self.method).create(self.in_dim, self.n_classes).to(device).train()
                self._model.reset(torch.Generator("cpu" if device == "meta" else device).manual_seed(0))
        return self._model

    def _counted_on(self, device: str, n: int) -> int:
        model = self._made(device)
        with torch.device(device):
            bags = Bags(torch.zeros(n, self.in_dim), [n], torch.zeros(n, 2) if self.coords else None)
            targets = torch.zeros(1, dtype=torch.int64)
            shapes = self._shapes if device == "meta" else None
            return count_flops(lambda: model.loss(model(bags), targets).backward(), shapes)


class _Piece:
    """Operations that are an affine function of some terms, inferred from known counts.

    Attributes:
        checked: whether a count has agreed with what followed from others.
    """

    def __init__(self) -> None:
        self.checked = False
        self._rows: list[tuple[int, list[Fraction], Fraction]] = []  # echelon form: leading column, terms, operations

    def value(self, row: Sequence[int]) -> int | None:
        """Return the operations that follow for some terms; None where they do not follow."""
        rest, value = self._reduced(row)
        return int(value) if not any(rest) and value.denominator == 1 else None

    def add(self, row: Sequence[int], flops: int) -> bool:
        """Take in a count; return whether it agrees with what follows from the others."""
        rest, value = self._reduced(row)
        leading = next((column for column, each in enumerate(rest) if each), None)
        if leading is None:
            self.checked = True
            return value == flops
        scale = rest[leading]
        self._rows.append((leading, [each / scale for each in rest], (flops - value) / scale))
        return True

    def _reduced(self, row: Sequence[int]) -> tuple[list[Fraction], Fraction]:
        """Return what is left of a row without the known ones, and the operations of the part that was taken away."""
        rest, value = [Fraction(each) for each in row], Fraction(0)
        for leading, known, flops in self._rows:
            if factor := rest[leading]:
                rest = [a - factor * b for a, b in zip(rest, known, strict=True)]
                value += factor * flops
        return rest, value


@lru_cache(maxsize=8)
def step_flops(method: str, in_dim: int, n_classes: int, coords: bool = False, on_host: bool = False) -> FlopTable:
    """Return the counts of a method; the same object for a process's later runs, which then need not count again."""
    return FlopTable(method, in_dim, n_classes, coords, on_host)
