"""Trainings that differ in fold and seed alone, carried out together as one stacked model (`milbench.nn.stacked`).

Each of them has its own start, bags, order, dropout and standardisation. A stack does the arithmetic of
`milbench.training.loop` with other kernels, so that results agree to rounding and not to the bit, and it draws dropout
from another generator; that a run was stacked is therefore part of its identity. On CPU, who else was in the stack
changes nothing, to the bit.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from ..aggregator import Aggregator
from ..bags import Bags
from ..config import Budget, Recipe
from ..data.cache.reader import FeatureCache
from ..errors import Diverged
from ..measure.timing import DeviceTimer
from ..nn.stacked import Stack
from ..registry import resolve
from .loader import BagLoader, Standardizer
from .loop import flops_of
from .selection import CheckpointSelector
from .step import OptimizerStep, oom_context
from .task import OnStep, TrainingResult, TrainingTask, derive_seed, model_for, seed_everything


def stacks(recipe: Recipe, budget: Budget) -> bool:
    """Whether runs of this kind can be stacked: all of them take the same steps, and no operation mixes models.

    Not those that stop early or that a budget limits, nor clipped gradients or autocast, nor a recipe that weights
    classes, draws bags by class or smooths labels, all of which are defined for the loss and bags of one model, nor one
    whose learning rate follows the validation of one model (``plateau``), that trains on parts of bags or averages
    parameters.
    """
    plain = recipe.class_weights == "none" and recipe.sampler == "shuffle" and recipe.label_smoothing == 0
    plain = plain and recipe.schedule != "plateau" and recipe.max_instances is None and recipe.ema_decay is None
    plain_recipe = plain and recipe.patience is None and recipe.grad_clip is None and recipe.precision == "fp32"
    # A timeout limits a process, not what it computes: with one, a run has its process and stack to itself.
    return plain_recipe and budget.track is None and may_share(budget.model_copy(update={"timeout_s": None}))


def may_share(budget: Budget) -> bool:
    """Whether runs may share a process: not under limits of time or memory, nor where large bags are subsampled."""
    return budget.memory_bytes is None and budget.timeout_s is None and budget.on_oom == "fail"


def train_stacked(
    tasks: Sequence[TrainingTask], cache: FeatureCache, device: torch.device, on_step: OnStep | None = None
) -> list[TrainingResult | Diverged]:
    """Train tasks together; without dropout the same for each as `milbench.training.loop.train`, to rounding.

    What only the whole stack has, the seconds and the training loss, is NaN in results and histories.

    Args:
        tasks: with the same method, kind of target, recipe, protocol and number of training bags; `stacks` is true of
            them.
        cache: the features.
        device: where.
        on_step: called after every step.

    Returns:
        for each task what its training left, or that it diverged.

    Raises:
        OutOfMemory: the stack did not fit.
        ValueError: the tasks are not of one method, kind of target and recipe, or cannot be stacked.
    """
    of_all = {(t.method, t.spec.task, t.spec.recipe.model_dump_json(), t.n_classes, len(t.train)) for t in tasks}
    if len(of_all) > 1:
        raise ValueError("a stack is of one method, kind of target, recipe and number of classes and training bags")
    if not stacks(tasks[0].spec.recipe, tasks[0].spec.budget) or not tasks[0].target_task.has_classes:
        raise ValueError("trainings by such a recipe or budget cannot be stacked")
    if len(tasks) == 1:  # one bag alone would take the paths of one bag, which round in another way
        return train_stacked([tasks[0], tasks[0]], cache, device, on_step)[:1]
    first, size, nan = tasks[0], len(tasks), float("nan")
    recipe, protocol = first.spec.recipe, first.spec.protocol
    seeds = [
        {purpose: derive_seed(t.spec.seed, purpose) for purpose in ("init", "order", "dropout", "subsample")}
        for t in tasks
    ]
    models = []
    for own in seeds:
        seed_everything(own["init"])
        models.append(model_for(resolve(first.method), first.target_task, cache.dim, first.n_classes).to(device))
    orders = [np.random.default_rng(own["order"]) for own in seeds]
    chances = [torch.Generator(device).manual_seed(own["dropout"]) for own in seeds]

    ids = [[s for s, _ in t.train] for t in tasks]
    scalings = [Standardizer.fit(cache, own) if protocol.standardize else None for own in ids]
    with oom_context([len(cache[s]) for s in ids[0]], "loading"):
        sets = [BagLoader(cache, own, device, scaling) for own, scaling in zip(ids, scalings, strict=True)]
    for task in tasks:
        task.target_task.check([y for _, y in task.train], first.n_classes)
    targets = torch.stack([t.target_task.tensor([y for _, y in t.train], device) for t in tasks])
    stack = Stack(models, chances).train()
    stack.joint.targets_are_valid = True  # checked above, once
    bags = len(ids[0])
    stepper = OptimizerStep(
        stack, recipe, math.ceil(math.ceil(bags / recipe.batch_size) / recipe.accumulate) * recipe.epochs
    )
    timer = DeviceTimer(device)
    selectors = [CheckpointSelector(t, cache, device, scaling) for t, scaling in zip(tasks, scalings, strict=True)]
    flops = flops_of(first, cache)
    counted = [[flops.of(n) for n in own.lengths] for own in sets]
    an_epoch = [None if None in of_bags else sum(n or 0 for n in of_bags) for of_bags in counted]
    ended = [""] * size  # in what a model diverged
    steps = 0
    # The few rows of a bag are multiplied by numpy, which knows nothing of torch's threads.
    with threadpool_limits(torch.get_num_threads(), user_api="blas"), np.errstate(all="ignore"):
        for epoch in range(1, recipe.epochs + 1):
            positions = np.stack([order.permutation(bags) for order in orders])
            with oom_context([max(own.lengths) for own in sets], "training"):
                for start in range(0, bags, recipe.batch_size * recipe.accumulate):
                    stop = min(bags, start + recipe.batch_size * recipe.accumulate)
                    group = range(start, stop, recipe.batch_size)
                    with timer:
                        for at in group:
                            each = positions[:, at : min(at + recipe.batch_size, stop)]
                            wanted = targets.gather(1, torch.from_numpy(each).to(device)).flatten()
                            stepper.backward(_packed(sets, each), wanted, len(group))
                        stepper.step(steps / stepper.planned)
                    steps += 1
                    if on_step is not None:
                        on_step(steps / stepper.planned, epoch)
            row = {"epoch": epoch, "train_loss": nan, "lr": stepper.lr, "seconds": nan, "device_seconds": nan,
                   "steps": steps}  # fmt: skip
            for i, (model, selector, own_flops) in enumerate(zip(models, selectors, an_epoch, strict=True)):
                try:
                    if not ended[i]:
                        _check_finite(model)
                        seen_by = _own(model) if selector.evaluates else model
                        selector.evaluate(seen_by, row | {"flops": None if own_flops is None else own_flops * epoch})
                except Diverged as error:
                    ended[i] = f"{error} in epoch {epoch}"
            if all(ended):
                break
    results: list[TrainingResult | Diverged] = []
    for i, (model, selector, of_bags) in enumerate(zip(models, selectors, sets, strict=True)):
        if ended[i]:
            results.append(Diverged(ended[i]))
            continue
        seen, patches = recipe.epochs * bags, recipe.epochs * sum(of_bags.lengths)
        model = _own(model)
        results.append(TrainingResult(model, selector.history, selector.select(model), steps, seen, patches, nan, nan,
                             selector.seconds, {"track": None}, scalings[i], seeds[i], selector.trajectory,
                             {"models": size, "device_seconds": timer.seconds}))  # fmt: skip
    return results


def _packed(sets: Sequence[BagLoader], positions: np.ndarray) -> Bags:
    """Pack the bags at each model's own positions, ``(M, b)``, in the order of the models."""
    parts = [own.batch(at) for own, at in zip(sets, positions.tolist(), strict=True)]
    where = [part.coords for part in parts if part.coords is not None]
    lengths = [n for part in parts for n in part.lengths]
    return Bags(torch.cat([part.x for part in parts]), lengths, torch.cat(where) if where else None)


def _own(model: Aggregator) -> Aggregator:
    """Return a model with memory of its own: kernels may round by where in memory a parameter begins."""
    return copy.deepcopy(model)


def _check_finite(model: Aggregator) -> None:
    if not all(bool(torch.isfinite(p.sum())) for p in model.parameters()):
        raise Diverged("parameters became NaN or infinite")
