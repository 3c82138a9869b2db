"""Budget: the resources a run may use, the same for every method."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from ..errors import MilbenchError
from .frozen import Frozen
from .units import NAMES, UNITS, parse_quantity, show_quantity

#: Budgets that set the length of a training; at most one of them is given.
TRACKS = ("steps", "flops", "device_seconds")


class Budget(Frozen):
    """The resources that a run may use, the same for every method. Absent means unlimited.

    Values may be written with units: ``device-seconds = "10 min"``, ``memory = "8 GiB"``, ``flops = "2e15 flop"``.

    Attributes:
        steps: optimizer steps of a training.
        flops: floating-point operations of a training, as `milbench.measure.flops` counts them for each bag it sees:
            forward, loss and backward; the same number on every machine.
        device_seconds: seconds the device works on a training: forward, backward, optimizer and, where the features are
            not there already, their way to it. On CPU the wall time of the same. Evaluation, checkpoints and
            compilation are timed apart and do not count. Runs side by side on one machine share its caches and memory.
        memory_bytes: cap on the memory of the run's process; exceeding it is outcome ``oom``. On CPU the cap is on the
            address space beyond what the loaded libraries take, on CUDA on torch's caching allocator.
        trials: tuning trials of every method, on every fold; those that fail or are pruned count.
        timeout_s: wall seconds after which a run is stopped, as a safety net; its outcome is then ``timeout``. No part
            of a run's identity: a run that ended otherwise is the same under another timeout.
        on_oom: the outcome of a run that does not fit into memory: ``fail``, or ``subsample``, which trains it again
        from the
            start on at most `max_instances` instances of every training bag, drawn anew at every step; it is evaluated
            on whole bags all the same, and its results are marked.
        max_instances: see `on_oom`.

    A training stops at the first step that reaches its steps, flops or device-seconds, and so uses at most one step
    more; ``used over allowed`` is recorded.
    """

    steps: int | None = Field(None, gt=0)
    flops: int | None = Field(None, gt=0)
    device_seconds: float | None = Field(None, gt=0)
    memory_bytes: int | None = Field(None, gt=0)
    trials: int | None = Field(None, gt=0)
    timeout_s: float | None = Field(None, gt=0)
    on_oom: Literal["fail", "subsample"] = "fail"
    max_instances: int | None = Field(None, gt=0)

    @model_validator(mode="before")
    @classmethod
    def _with_units(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        fields: dict[str, Any] = {}
        for name, given in value.items():
            field = NAMES.get(str(name), str(name))
            if field in fields:
                raise ValueError(f"{field} is given twice")
            try:
                fields[field] = parse_quantity(field, given) if field in UNITS and given is not None else given
            except MilbenchError as error:
                raise ValueError(f"{name}: {error}") from None
        return fields

    @model_validator(mode="after")
    def _one_track(self) -> Budget:
        given = [name for name in TRACKS if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"a training has one length, but {' and '.join(given)} are given; keep one of them")
        if (self.on_oom == "subsample") != (self.max_instances is not None):
            raise ValueError('on_oom = "subsample" and max_instances go together')
        return self

    @property
    def track(self) -> str | None:
        """Return which of `TRACKS` sets the length of a training; None where recipes do."""
        return next((name for name in TRACKS if getattr(self, name) is not None), None)

    def __str__(self) -> str:
        """Return the budget in words; a resource without limit is called unlimited."""
        track, limits = self.track, {"memory_bytes": "memory", "timeout_s": "timeout"}
        length = f"{track.replace('_', '-')}: {self._shown(track)}" if track else "length: each recipe's epochs"
        parts = [length]
        parts += [f"{word}: {self._shown(field)}" for field, word in limits.items()]
        if self.max_instances is not None:
            parts.append(f"what does not fit is trained on at most {self.max_instances:,} instances of a bag")
        return ", ".join(parts)

    def _shown(self, field: str) -> str:
        value = getattr(self, field)
        return "unlimited" if value is None else show_quantity(field, value)
