"""One measurement of a sweep over bag lengths: time or memory of one method at one length, alone in its process.

One bag of normal random features stays where it is, as it would in training from memory: on CPU it is in the caches
as far as they hold it, on CUDA the L2 cache is cleared before every call. A training step is one bag: forward, loss,
backward and the optimizer's step of the method's own recipe, whose batch size and accumulation are left out so that a
step means the same for every method.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch

from ...aggregator import Aggregator
from ...bags import Bags
from ...errors import MilbenchError
from ...measure.environment import environment, memory_limit
from ...measure.flops import count_flops
from ...measure.memory import PeakMemory
from ...measure.roofline import Dtype, available_bytes, measure_ceiling, probe, tf32
from ...measure.timing import time_turns
from ...registry import resolve
from ...training.step import OptimizerStep, autocast
from ..process import capped, set_up

Mode = Literal["infer", "train"]
CellKind = Literal["time", "memory"]

_CHUNK = 8192  # rows of features made at a time, so that they are never there twice
_SCALES = 40  # halvings of a scale, 2^16 at first
_WARM_ROWS = 300  # of a first call on the path that long bags take, for what libraries keep from then on


@dataclass(frozen=True)
class ScalingTask:
    """One measurement as its process receives it.

    Attributes:
        method: name and parameters.
        mode: ``infer`` (evaluation mode, no gradients, probabilities) or ``train`` (one optimizer step).
        n: instances of the bag.
        in_dim: width of the features.
        n_classes: classes of the head.
        dtype: ``fp32``; ``tf32``: fp32 multiplied in TF32; ``bf16``, ``fp16``: autocast, features in fp32 as trainings
            and evaluations have them.
        kind: ``time``, or ``memory``, which also counts operations and bytes.
        iterations: turns of timed calls; at least as many calls.
        threads: CPU threads.
        device_type: ``cpu`` or ``cuda``.
        memory_bytes: the most the process may take beyond its libraries, features and model included; None: no limit.
        seed: of features and parameters.
    """

    method: str
    mode: Mode
    n: int
    in_dim: int
    n_classes: int
    dtype: Dtype
    kind: CellKind
    iterations: int
    threads: int
    device_type: str
    memory_bytes: int | None = None
    seed: int = 0

    def execute(self) -> dict[str, Any]:
        """Measure in this process; see `measure_cell`."""
        device = set_up(self.threads, self.device_type)
        with capped(self.memory_bytes, device):
            return measure_cell(self, device)


@dataclass(frozen=True)
class MachineTask:
    """Measure the machine itself, in a process set up as those of the cells are."""

    dtype: Dtype
    threads: int
    device_type: str

    def execute(self) -> dict[str, Any]:
        """Measure in this process; see `measure_machine`."""
        return measure_machine(self, set_up(self.threads, self.device_type))


def measure_machine(task: MachineTask, device: torch.device) -> dict[str, Any]:
    """Return the environment, the ceiling, and the memory in bytes that is available before anything is measured."""
    free = available_bytes(device, memory_limit())
    return {
        "environment": environment(),
        "ceiling": measure_ceiling(device, task.dtype).as_dict(),
        "available_bytes": free,
    }


def measure_cell(task: ScalingTask, device: torch.device) -> dict[str, Any]:
    """Measure one cell in this process, which must be a fresh one set up by `milbench.runs.process.set_up`.

    Returns:
        for ``time``: ``seconds`` (one value a timed call), ``gemm_seconds`` (of this machine's own matrix multiply, in
        turns with the method) and ``gemm_flops`` (of one such multiply). For ``memory``: the fields of `MemoryReading`,
        ``parameters``, ``flops``, ``flops_mandatory`` and ``bytes_mandatory``.
    """
    torch.manual_seed(task.seed)
    with tf32(task.dtype == "tf32"):
        return _time(task, device) if task.kind == "time" else _memory(task, device)


def bytes_mandatory(mode: Mode, features: int, parameters: int) -> int:
    """Return the bytes no implementation avoids to move, from those of the features and of the parameters.

    Both are read once; in training the gradients of the parameters and the new parameters are written as well. What an
    optimizer keeps, and reading the features again for the backward pass, are not in it: it is a lower bound.
    """
    return features + parameters * (1 if mode == "infer" else 3)


def _time(task: ScalingTask, device: torch.device) -> dict[str, Any]:
    work = _work(task, _model(task, device), _bag(task, device))
    if isinstance(work, _Step):
        work.settle()
    gemm, operations = probe(device, task.dtype)
    before = _flush(device) if device.type == "cuda" else None
    timed, reference = time_turns([work, gemm], turns=task.iterations, device=device, before=before)
    return {"seconds": timed.seconds, "gemm_seconds": reference.seconds, "gemm_flops": operations}


def _memory(task: ScalingTask, device: torch.device) -> dict[str, Any]:
    """Peak over a baseline that holds the libraries, the features and the model."""
    bag = _bag(task, device)
    few = min(task.n, _WARM_ROWS)
    tiny = Bags(bag.x[:few], [few], None if bag.coords is None else bag.coords[:few])
    _work(task, _model(task, device), tiny)()  # kernels and pools that the libraries make on first use
    model = _model(task, device)
    with PeakMemory(device) as peak:
        work = _work(task, model, bag)
        if isinstance(work, _Step):
            work.settle()  # the next step has the optimizer's state besides its gradients
        work()
    parameters = list(model.parameters())
    held = sum(p.numel() * p.element_size() for p in parameters)
    counted = count_flops(work)
    return {
        **peak.reading.as_dict(),
        "parameters": sum(p.numel() for p in parameters),
        "flops": counted,
        "flops_mandatory": _flops_mandatory(task.mode, model, task.n, counted),
        "bytes_mandatory": bytes_mandatory(task.mode, bag.x.numel() * bag.x.element_size(), held),
    }


def _flops_mandatory(mode: Mode, model: Aggregator, n: int, counted: int) -> int:
    """Return the operations no implementation avoids: by the method's own closed form, or what it did.

    Training is taken for twice a forward pass: of every product a gradient at one factor is wanted, and takes a product
    as large. A gradient at both, and what is computed again to save memory, are not in it. Where few instances have a
    gradient (`max_instance`) even that is more than must be.
    """
    value = model.matrix_flops(n)
    return counted if value is None else int(value) * (1 if mode == "infer" else 2)


def _model(task: ScalingTask, device: torch.device) -> Aggregator:
    model = resolve(task.method).create(task.in_dim, task.n_classes).to(device)
    model.reset(torch.Generator(device).manual_seed(task.seed))
    return model.train(task.mode == "train")


def _bag(task: ScalingTask, device: torch.device) -> Bags:
    """One bag of standard normal features on a square grid of coordinates, row by row."""
    generator = torch.Generator().manual_seed(task.seed)
    x = torch.empty(task.n, task.in_dim, device=device)
    for rows in x.split(_CHUNK):
        rows.copy_(torch.randn(rows.shape, generator=generator))
    at, side = torch.arange(task.n), math.isqrt(task.n - 1) + 1
    return Bags(x, [task.n], torch.stack([at % side, at // side], dim=1).to(device))


def _work(task: ScalingTask, model: Aggregator, bag: Bags) -> Callable[[], Any]:
    """Return one inference, or one training step, of one bag."""
    precision = task.dtype if task.dtype in ("bf16", "fp16") else "fp32"
    recipe = model.recipe.model_copy(update={"precision": precision})
    if task.mode == "infer":

        def infer() -> None:
            with torch.inference_mode():
                with autocast(bag.device.type, recipe):
                    out = model(bag)
                model.probabilities(out)

        return infer

    return _Step(OptimizerStep(model, recipe, planned_steps=10**9), bag)  # so many that a schedule stands still


class _Step:
    """One training step on one bag."""

    def __init__(self, stepper: OptimizerStep, bag: Bags) -> None:
        self.stepper, self.bag = stepper, bag
        self.target = torch.zeros(1, dtype=torch.int64, device=bag.device)

    def __call__(self) -> None:
        self.stepper.backward(self.bag, self.target, 1)
        self.stepper.step()

    def settle(self) -> None:
        """Step until the optimizer has: in fp16 first steps are left out, until the loss is scaled by little enough.

        Raises:
            MilbenchError: it never has.
        """
        scaler = self.stepper.scaler
        for _ in range(_SCALES):
            before = 0.0 if scaler is None else scaler.get_scale()
            self()
            if scaler is None or scaler.get_scale() >= before:
                return
        raise MilbenchError(
            "in fp16 a gradient overflows however little the loss is scaled by.", code="scaling-not-measured"
        )


def _flush(device: torch.device) -> Callable[[], Any]:
    """Return what writes twice the L2 cache, so that nothing of the last call is left in it."""
    size = torch.cuda.get_device_properties(device).L2_cache_size
    return torch.empty(2 * size, dtype=torch.uint8, device=device).zero_
