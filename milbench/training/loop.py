"""The only training loop: every method, every suite, every tuning trial is trained here.

A task holds the labels of training and validation slides and the bare ids of test slides: a test label cannot be read
here, since it is not here.
"""

from __future__ import annotations

import math
import time
from contextlib import closing
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..aggregator import explain_nonfinite
from ..data.cache.reader import FeatureCache
from ..errors import Diverged, MilbenchError
from ..measure.timing import DeviceTimer
from ..registry import resolve
from .budget_meter import BudgetMeter, FlopTable, step_flops
from .loader import BagLoader, Standardizer
from .optimizers import Plateau, balanced_weights
from .selection import CheckpointSelector
from .step import OptimizerStep, labels_of, oom_context, subsample_bags
from .task import OnEvaluation, OnStep, TrainingResult, TrainingTask, derive_seed, model_for, seed_everything


def train(
    task: TrainingTask,
    cache: FeatureCache,
    device: torch.device,
    on_evaluation: OnEvaluation | None = None,
    on_step: OnStep | None = None,
) -> TrainingResult:
    """Train a task's method within its budget and select the evaluation its protocol asks for.

    Args:
        task: to train.
        cache: the features.
        device: where.
        on_evaluation: called with the share of the training that is done and the new row of the history; what it
            raises ends the training.
        on_step: called after every step.

    Raises:
        Diverged: the training loss is NaN or infinite although the features are finite.
        OutOfMemory: a bag did not fit.
        MilbenchError: features of a training bag are NaN or infinite.
    """
    spec, recipe, protocol = task.spec, task.spec.recipe, task.spec.protocol
    target_task = task.target_task
    target_task.refuse_recipe(recipe)
    fixed = spec.budget.track is not None  # length of the training
    patience = None if fixed else recipe.patience
    monitor = target_task.monitor(protocol.monitor)
    plateau = Plateau(recipe, monitor.higher_is_better) if recipe.schedule == "plateau" else None
    if not task.val and (protocol.checkpoint == "best-val" or patience is not None or plateau is not None):
        raise MilbenchError(
            f'fold {spec.fold} of {spec.data} has no validation slides: set checkpoint = "last", no patience and a '
            "schedule other than plateau, or val_fraction.",
            code="split-no-validation",
        )
    seeds = {purpose: derive_seed(spec.seed, purpose) for purpose in ("init", "order", "dropout", "subsample")}
    seed_everything(seeds["init"])
    model = model_for(resolve(task.method), target_task, cache.dim, task.n_classes).to(device)
    order, rng = (np.random.default_rng(seeds[purpose]) for purpose in ("order", "subsample"))
    seed_everything(seeds["dropout"])
    if model.has_own("reset"):
        seeds["method"] = derive_seed(spec.seed, "method")
        model.reset(torch.Generator(device).manual_seed(seeds["method"]))

    scaling = Standardizer.fit(cache, [s for s, _ in task.train]) if protocol.standardize else None
    limit = spec.budget.memory_bytes
    with oom_context(cache.lengths([s for s, _ in task.train]), "loading"):
        bags = BagLoader(cache, [s for s, _ in task.train], device, scaling, limit)
    labels = [y for _, y in task.train]
    target_task.check(labels, task.n_classes)
    targets = target_task.tensor(labels, device)
    most = min((n for n in (task.max_instances, recipe.max_instances) if n is not None), default=None)
    lengths = [n if most is None else min(n, most) for n in bags.lengths]

    model.targets_are_valid = True  # checked above, once; at every step it would make a CUDA stream wait
    # Of the fold's training bags, by their class.
    weights = balanced_weights(labels, task.n_classes) if target_task.has_classes else []
    drawn = np.array([weights[y] for y in labels]) / len(labels) if recipe.sampler == "balanced" else None
    stepper = OptimizerStep(
        model, recipe, math.ceil(math.ceil(len(bags) / recipe.batch_size) / recipe.accumulate) * recipe.epochs,
        class_weights=weights if recipe.class_weights == "balanced" else None, plateau=plateau,
    )  # fmt: skip
    timer = DeviceTimer(device)
    flops = flops_of(task, cache)
    meter = BudgetMeter(spec.budget, stepper.planned, timer, flops.of)
    selector = CheckpointSelector(task, cache, device, scaling)
    seen = patches = 0
    losses = _Losses(device)
    started = time.perf_counter()
    evaluates = 0  # of those that are due by the progress of a training of fixed length

    def evaluate(epoch: int) -> None:
        row: dict[str, Any] = {"epoch": epoch, "train_loss": losses.mean(), "lr": stepper.lr}
        if not math.isfinite(row["train_loss"]):
            for batch in bags.batches():
                explain_nonfinite(batch)
            raise Diverged(f"the training loss became {row['train_loss']} in epoch {epoch}")
        selector.evaluate(stepper.evaluated, row)
        if plateau is not None:
            plateau.evaluated(row[monitor.name], meter.progress)
        row |= {"seconds": time.perf_counter() - started, "device_seconds": timer.seconds, "steps": meter.steps}
        row |= {"flops": meter.flops}
        if on_evaluation is not None:
            on_evaluation(meter.progress, row)

    epoch = 0
    while not meter.spent and (fixed or epoch < recipe.epochs):
        epoch += 1
        model.train()
        if drawn is None:
            positions = order.permutation(len(bags)).tolist()
        else:
            positions = order.choice(len(bags), len(bags), p=drawn).tolist()
        batches = [positions[i : i + recipe.batch_size] for i in range(0, len(positions), recipe.batch_size)]
        # Precompute per epoch: the same lookups between steps dominate the step time of small methods.
        answers, rows = [labels_of(targets, at) for at in batches], [[lengths[j] for j in at] for at in batches]
        taken: list[int] = []
        # One context an epoch and one block of the timer a batch: with a small method each is a part of a step.
        with closing(bags.stream(batches, timer)) as ready, oom_context(taken, "training"):
            for i in range(0, len(batches), recipe.accumulate):
                group = batches[i : i + recipe.accumulate]
                taken[:] = rows[i] if len(group) == 1 else chain.from_iterable(rows[i : i + len(group)])
                for j, at in enumerate(group, start=i):
                    batch = next(ready)  # waiting for the disk is not the device's time
                    with timer:
                        if most is not None:
                            batch = subsample_bags(batch, most, rng)
                        loss = stepper.backward(batch, answers[j], len(group))
                        losses.add(loss, len(at))
                        if j + 1 == i + len(group):
                            stepper.step(meter.progress)
                meter.add(taken)
                if on_step is not None:
                    on_step(meter.progress, epoch)
                seen, patches = seen + len(taken), patches + sum(taken)
                if meter.spent:
                    break
                if fixed and (due := meter.passed(protocol.evaluations)) > evaluates:
                    evaluates = due
                    evaluate(epoch)
        if meter.spent or not fixed:
            evaluate(epoch)
        if patience is not None and len(selector.history) - selector.best_row >= patience:
            break
    model = stepper.evaluated
    selected = selector.select(model)
    model.targets_are_valid = False
    seconds = time.perf_counter() - started
    return TrainingResult(
        model, selector.history, selected, meter.steps, seen, patches, seconds, timer.seconds, selector.seconds,
        meter.record(), scaling, seeds, selector.trajectory,
    )  # fmt: skip


class _Losses:
    """The mean of losses over bags, fetched from the device when read: adding each up takes a part of a step."""

    def __init__(self, device: torch.device) -> None:
        self._at_once = device.type == "cpu"  # there is nothing to wait for, and a tensor kept would part the heap
        self._kept: list[Tensor] = []
        self._sizes: list[int] = []
        self._sum = 0.0
        self._bags = 0

    def add(self, loss: Tensor, bags: int) -> None:
        """Take the mean loss of some bags, not synchronised."""
        if self._at_once:
            self._sum += loss.item() * bags
            self._bags += bags
            return
        self._kept.append(loss)
        self._sizes.append(bags)
        if len(self._kept) >= 4096:
            self._fetch()

    def mean(self) -> float:
        """Return the mean since the last call."""
        self._fetch()
        mean, self._sum, self._bags = self._sum / self._bags, 0.0, 0
        return mean

    def _fetch(self) -> None:
        if self._kept:
            self._sum += float(np.dot(torch.stack(self._kept).double().cpu().numpy(), self._sizes))
            self._bags += sum(self._sizes)
            self._kept.clear()
            self._sizes.clear()


def flops_of(task: TrainingTask, cache: FeatureCache) -> FlopTable:
    """Return the counts of a task's method in this process, with what earlier runs had counted."""
    flops = step_flops(task.method, cache.dim, task.n_classes, _has_coords(cache), task.spec.budget.track == "flops")
    flops.learn(task.counted)
    return flops


def _has_coords(cache: FeatureCache) -> bool:
    """Whether the slides of a cache have coordinates."""
    return any(cache.coords(slide) is not None for slide in cache.slides["slide_id"][:1])
