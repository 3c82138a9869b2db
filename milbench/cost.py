"""What a method costs on a cohort: time, memory and arithmetic, each measured in a fresh process of its own.

Accuracy runs go side by side and share the machine; these go alone. Time and memory never share a process: looking at
one disturbs the other. Time is measured several times, other methods in between (`milbench.cost_pass`), and `pooled`
says what the measurements say together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
TURNS = 3  # measurements of a method's time, other methods in between
STEPS = 6  # training steps that are timed over and over, evenly spaced in their number of rows
MIN_SECONDS, MAX_SECONDS = 0.15, 3.0  # of one measurement of inference, and of one of training


@dataclass(frozen=True)
class CostTask:
    """One measurement: ``time``, or the peak memory of inference or training.

    Attributes:
        turn: how many measurements of the method's time there were before. Only the first counts operations, and each
            begins at another training step, so that a method too slow to time all of them in its turn comes to all.
    """

    kind: Kind
    method: str
    recipe: Recipe
    cache_path: str
    n_classes: int
    train: tuple[tuple[str, int], ...]
    test: tuple[str, ...]
    threads: int
    device_type: str
    turn: int = 0


def measure(task: CostTask, cache: FeatureCache, device: torch.device) -> dict[str, Any]:
    """Measure one kind of cost; the keys are those of ``cost.json``, those of ``time`` after `pooled`."""
    torch.manual_seed(0)
    if task.kind == "time":
        return _time(task, cache, device)
    return {task.kind: _memory(task, cache, device)}


def pooled(turns: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return what several measurements of one method's time say together, with the keys of ``cost.json``.

    Bags and patches a second are those of all timed bags, or steps, one after the other, each at the median of its
    samples: methods are compared on the same work, also where a slow one was timed less often.

    Args:
        turns: what `measure` returned for ``time``, in the order it was measured.
    """
    infer, train = turns[0]["infer"], turns[0]["train"]
    passes = [seconds for turn in turns for seconds in turn["infer"]["seconds_samples"]]
    one_pass = float(np.median(passes))
    each: dict[int, list[float]] = {}
    for turn in turns:
        for at, seconds in zip(turn["train"]["step_samples"], turn["train"]["seconds_samples"], strict=True):
            each.setdefault(at, []).append(seconds)
    all_steps = sum(float(np.median(samples)) for samples in each.values())
    return {
        "turns": len(turns),
        "infer": {
            **infer,
            "seconds_samples": passes,
            "seconds_per_bag": one_pass / infer["bags"],
            "bags_per_s": infer["bags"] / one_pass,
            "patches_per_s": infer["patches"] / one_pass,
        },
        "train": {
            **train,
            "step_samples": [at for turn in turns for at in turn["train"]["step_samples"]],
            "seconds_samples": [seconds for turn in turns for seconds in turn["train"]["seconds_samples"]],
            "seconds_per_step": all_steps / len(each),
            "bags_per_s": train["bags_per_step"] * len(each) / all_steps,
            "patches_per_s": sum(train["step_patches"][at] for at in each) / all_steps,
        },
        **{key: value for key, value in turns[0].items() if key not in ("infer", "train", "environment")},
    }


def _time(task: CostTask, cache: FeatureCache, device: torch.device) -> dict[str, Any]:
    model = resolve(task.method).create(cache.dim, task.n_classes).to(device)
    test = _spread(BagSet(cache, task.test, device), SAMPLE)
    lengths = [bags.x.shape[0] for bags in test]

    def infer() -> None:
        with torch.inference_mode(), autocast(device.type, task.recipe):
            for bags in test:
                model.probabilities(model(bags))

    model.eval()
    passes = time_calls(infer, warmup=2, min_seconds=MIN_SECONDS, max_seconds=MAX_SECONDS, device=device)
    middle = test[len(test) // 2]
    counted = {"flops_per_bag_infer": count_flops(lambda: model(middle))} if task.turn == 0 else {}

    model.train()
    steps = _Steps(model, task, cache, device)
    timed = time_calls(
        steps, warmup=2, min_iterations=2 * STEPS, min_seconds=MIN_SECONDS, max_seconds=MAX_SECONDS, device=device
    )
    if task.turn == 0:
        one = torch.zeros(1, dtype=torch.int64, device=device)
        counted |= {
            "parameters": sum(p.numel() for p in model.parameters()),
            "flops_bag_length": middle.x.shape[0],
            "flops_per_bag_train": count_flops(lambda: model.loss(model(middle), one).backward()),
        }
    return {
        "infer": {"bags": len(test), "patches": sum(lengths), "seconds_samples": list(passes.seconds)},
        "train": {
            "bags_per_step": steps.bags,
            "step_patches": steps.patches,
            "step_samples": steps.taken[-len(timed) :],
            "seconds_samples": list(timed.seconds),
        },
        **counted,
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


class _Steps:
    """Optimizer steps on the same few groups of batches over and over; a call takes one step, on the next group.

    Attributes:
        bags: bags of a step.
        patches: rows of each of the steps.
        taken: which of the steps were taken, in order.
    """

    def __init__(self, model: Aggregator, task: CostTask, cache: FeatureCache, device: torch.device) -> None:
        bags = BagSet(cache, [s for s, _ in task.train], device)
        self._targets = torch.tensor([y for _, y in task.train], device=device)
        size, self._accumulate = min(task.recipe.batch_size, len(bags)), task.recipe.accumulate
        positions = np.random.default_rng(0).permutation(len(bags)).tolist()
        batches = [positions[i : i + size] for i in range(0, len(positions) - size + 1, size)]
        # Where an epoch has fewer batches than a step accumulates, a step goes through them again.
        count = max(1, len(batches) // self._accumulate)
        steps = [[batches[(i * self._accumulate + k) % len(batches)] for k in range(self._accumulate)]
                 for i in range(count)]  # fmt: skip
        patches = [sum(bags.lengths[i] for batch in step for i in batch) for step in steps]
        ranks = _ranks(patches, STEPS)
        steps, self.patches = [steps[rank] for rank in ranks], [patches[rank] for rank in ranks]
        self.bags = size * self._accumulate
        self.taken: list[int] = []
        self._count, self._next = len(steps), task.turn * len(steps) // TURNS
        self._stepper = Stepper(model, task.recipe, planned_steps=10**6)
        order = [batch for at in range(self._count) for batch in steps[(self._next + at) % self._count]]
        self._upcoming = _endless(bags, order)

    def __call__(self) -> None:
        """Take one step."""
        for _ in range(self._accumulate):
            at, batch = next(self._upcoming)
            self._stepper.backward(batch, labels_of(self._targets, at), self._accumulate)
        self._stepper.step()
        self.taken.append(self._next)
        self._next = (self._next + 1) % self._count


def _endless(bags: BagSet, batches: list[list[int]]) -> Iterator[tuple[list[int], Bags]]:
    while True:
        yield from zip(batches, bags.stream(batches), strict=True)


def _spread(bags: BagSet, count: int) -> Sequence[Bags]:
    """Return up to `count` single bags, shortest to longest, evenly spaced in rank."""
    return [bags.batch([at]) for at in _ranks(bags.lengths, count)]


def _ranks(lengths: Sequence[int], count: int) -> list[int]:
    """Return up to `count` positions, shortest to longest, evenly spaced in rank."""
    order = sorted(range(len(lengths)), key=lambda i: (lengths[i], i))
    ranks = np.unique(np.linspace(0, len(order) - 1, min(count, len(order))).round().astype(int))
    return [order[rank] for rank in ranks]
