"""What a method costs on a cohort: time, memory and arithmetic, each measured in a fresh process of its own.

Accuracy runs go side by side and share the machine; these go alone. Time and memory never share a process: looking at
one disturbs the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from .aggregator import Aggregator
from .bags import Bags
from .data.cache import FeatureCache
from .feed import BagSet
from .measure.flops import count_flops
from .measure.memory import PeakMemory
from .measure.timing import time_calls
from .registry import resolve
from .spec import Recipe
from .train import Stepper, autocast, labels_of

Kind = Literal["time", "infer_memory", "train_memory"]

SAMPLE = 16  # bags that inference is timed on, evenly spaced in length
MAX_SECONDS = 3.0


@dataclass(frozen=True)
class CostTask:
    """One measurement: ``time``, or the peak memory of inference or training."""

    kind: Kind
    method: str
    recipe: Recipe
    cache_path: str
    n_classes: int
    train: tuple[tuple[str, int], ...]
    test: tuple[str, ...]
    threads: int
    device_type: str


def measure(task: CostTask, cache: FeatureCache, device: torch.device) -> dict[str, Any]:
    """Measure one kind of cost; the keys are those of ``cost.json``."""
    torch.manual_seed(0)
    if task.kind == "time":
        return _time(task, cache, device)
    return {task.kind: _memory(task, cache, device)}


def _time(task: CostTask, cache: FeatureCache, device: torch.device) -> dict[str, Any]:
    model = resolve(task.method).create(cache.dim, task.n_classes).to(device)
    test = _spread(BagSet(cache, task.test, device), SAMPLE)
    lengths = [bags.x.shape[0] for bags in test]

    def infer() -> None:
        with torch.inference_mode(), autocast(device.type, task.recipe):
            for bags in test:
                model.probabilities(model(bags))

    model.eval()
    passes = time_calls(infer, warmup=2, max_seconds=MAX_SECONDS, device=device)
    middle = test[len(test) // 2]
    flops_infer = count_flops(lambda: model(middle))

    model.train()
    step, rows = _training_step(model, task, cache, device)
    timed = time_calls(step, warmup=2, max_seconds=MAX_SECONDS, device=device)
    bags_per_step = min(task.recipe.batch_size, len(task.train)) * task.recipe.accumulate
    one = torch.zeros(1, dtype=torch.int64, device=device)
    flops_train = count_flops(lambda: model.loss(model(middle), one).backward())

    return {
        "infer": {
            "bags": len(test),
            "patches": sum(lengths),
            "seconds_samples": list(passes.seconds),
            "seconds_per_bag_median": passes.median / len(test),
            "bags_per_s": len(test) / passes.median,
            "patches_per_s": sum(lengths) / passes.median,
        },
        "train": {
            "bags_per_step": bags_per_step,
            "seconds_samples": list(timed.seconds),
            "seconds_per_step_median": timed.median,
            "bags_per_s": bags_per_step / timed.median,
            "patches_per_s": rows / timed.median,
        },
        "parameters": sum(p.numel() for p in model.parameters()),
        "flops_bag_length": middle.x.shape[0],
        "flops_per_bag_infer": flops_infer,
        "flops_per_bag_train": flops_train,
    }


def _memory(task: CostTask, cache: FeatureCache, device: torch.device) -> dict[str, Any]:
    """Peak over a baseline that holds the libraries and the features, but not yet the model."""
    training = task.kind == "train_memory"
    ids = [s for s, _ in task.train] if training else list(task.test)
    bags = BagSet(cache, ids, device)
    longest = sorted(range(len(bags)), key=lambda i: -bags.lengths[i])[: task.recipe.batch_size if training else 1]
    batch = bags.batch(longest)
    labels = torch.tensor([task.train[i][1] for i in longest] if training else [0], device=device)

    def work(batch: Bags, labels: torch.Tensor) -> None:
        model = resolve(task.method).create(cache.dim, task.n_classes).to(device)
        if not training:
            with torch.inference_mode(), autocast(device.type, task.recipe):
                model.eval()
                model.probabilities(model(batch))
            return
        stepper = Stepper(model, task.recipe, planned_steps=2)
        for _ in range(2):  # the second step has the optimizer's state beside its gradients
            stepper.backward(batch, labels, 1)
            stepper.step()

    coords = None if batch.coords is None else batch.coords[:1]
    work(Bags(batch.x[:1], [1], coords), labels[:1])  # kernels and pools that the libraries make on first use
    with PeakMemory(device) as peak:
        work(batch, labels)
    return {**peak.reading.as_dict(), "bag_length": max(batch.lengths), "bags": len(batch)}


def _training_step(
    model: Aggregator, task: CostTask, cache: FeatureCache, device: torch.device
) -> tuple[Callable[[], None], float]:
    """Return a function that takes one optimizer step on the next batches, and the mean number of rows of a step."""
    bags = BagSet(cache, [s for s, _ in task.train], device)
    targets = torch.tensor([y for _, y in task.train], device=device)
    size, group = task.recipe.batch_size, task.recipe.accumulate
    positions = np.random.default_rng(0).permutation(len(bags)).tolist()
    batches = [positions[i : i + size] for i in range(0, max(1, len(positions) - size + 1), size)]
    stepper = Stepper(model, task.recipe, planned_steps=10**6)

    def endless() -> Iterator[tuple[list[int], Bags]]:
        while True:
            yield from zip(batches, bags.stream(batches), strict=True)

    upcoming = endless()

    def step() -> None:
        for _ in range(group):
            at, batch = next(upcoming)
            stepper.backward(batch, labels_of(targets, at), group)
        stepper.step()

    rows = float(np.mean([sum(bags.lengths[i] for i in at) for at in batches])) * group
    return step, rows


def _spread(bags: BagSet, count: int) -> Sequence[Bags]:
    """Return up to `count` single bags, shortest to longest, evenly spaced in rank."""
    order = sorted(range(len(bags)), key=lambda i: (bags.lengths[i], i))
    ranks = np.unique(np.linspace(0, len(order) - 1, min(count, len(order))).round().astype(int))
    return [bags.batch([order[r]]) for r in ranks]
