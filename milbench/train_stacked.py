"""Trainings that differ in fold and seed alone, carried out together as one stacked model (`milbench.nn.stacked`).

Each of them has its own bags in its own order, its own dropout, its own standardisation: what `milbench.train` would
have given it. A stack does the same arithmetic with other kernels, so that results agree to rounding and not to the
bit; that a run was stacked is therefore part of its identity. Who else was in the stack changes nothing, to the bit.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from .bags import Bags
from .budget import StepFlops
from .data.cache import FeatureCache
from .errors import Diverged
from .feed import BagSet, Scaling
from .measure.timing import DeviceTimer
from .nn.stacked import Stack
from .registry import resolve
from .spec import Budget, Recipe
from .train import Judge, Stepper, Task, Trained, derive_seed, fits, has_coords, seed_everything


@dataclass(frozen=True)
class StackTask:
    """Runs of one method and recipe on one cohort for one process; if their specs say stacked, to be trained as one."""

    tasks: tuple[Task, ...]


def stacks(recipe: Recipe, budget: Budget) -> bool:
    """Whether runs of this kind can be stacked: all of them take the same steps, and nothing looks across a model.

    Not those that stop early or whose length, time or memory a budget limits, nor clipped gradients or autocast.
    """
    alike = recipe.patience is None and recipe.grad_clip is None and recipe.precision == "fp32"
    return alike and budget.track is None and budget.memory_bytes is None and budget.timeout_s is None


def train_stacked(tasks: Sequence[Task], cache: FeatureCache, device: torch.device) -> list[Trained | Diverged]:
    """Train tasks together; the same for each as `milbench.train.train`, to rounding.

    In a history ``train_loss`` is the mean over the stack. Seconds are divided equally.

    Args:
        tasks: with the same method, recipe, protocol and number of training bags; `stacks` is true of them.
        cache: the features.
        device: where.

    Returns:
        for each task what its training left, or that it diverged.

    Raises:
        OutOfMemory: the stack did not fit.
    """
    first, size = tasks[0], len(tasks)
    recipe, protocol = first.spec.recipe, first.spec.protocol
    seeds = [
        {purpose: derive_seed(t.spec.seed, purpose) for purpose in ("init", "order", "dropout", "subsample")}
        for t in tasks
    ]
    models = []
    for own in seeds:
        seed_everything(own["init"])
        models.append(resolve(first.method).create(cache.dim, first.n_classes).to(device))
    orders = [np.random.default_rng(own["order"]) for own in seeds]
    chances = [torch.Generator(device).manual_seed(own["dropout"]) for own in seeds]

    ids = [[s for s, _ in t.train] for t in tasks]
    scalings = [Scaling.fit(cache, own) if protocol.standardize else None for own in ids]
    with fits([len(cache[s]) for s in ids[0]], "loading"):
        sets = [BagSet(cache, own, device, scaling) for own, scaling in zip(ids, scalings, strict=True)]
    targets = torch.tensor([[y for _, y in t.train] for t in tasks], device=device)
    stack = Stack(models, chances).train()
    bags = len(ids[0])
    stepper = Stepper(stack, recipe, math.ceil(math.ceil(bags / recipe.batch_size) / recipe.accumulate) * recipe.epochs)
    timer = DeviceTimer(device)
    judges = [Judge(t, cache, device, scaling) for t, scaling in zip(tasks, scalings, strict=True)]
    flops = StepFlops(first.method, cache.dim, first.n_classes, has_coords(cache))
    counted = [[flops.of(n) for n in own.lengths] for own in sets]
    an_epoch = [None if None in of_bags else sum(n or 0 for n in of_bags) for of_bags in counted]
    ended = [0] * size  # epoch in which a model's parameters were no longer finite
    started = time.perf_counter()
    steps = 0
    # The few rows of a bag are multiplied by numpy, which knows nothing of torch's threads.
    with threadpool_limits(torch.get_num_threads(), user_api="blas"), np.errstate(all="ignore"):
        for epoch in range(1, recipe.epochs + 1):
            positions = np.stack([order.permutation(bags) for order in orders])
            total = torch.zeros((), device=device)
            with fits([max(own.lengths) for own in sets], "training"):
                for start in range(0, bags, recipe.batch_size * recipe.accumulate):
                    stop = min(bags, start + recipe.batch_size * recipe.accumulate)
                    group = range(start, stop, recipe.batch_size)
                    with timer:
                        for at in group:
                            each = positions[:, at : min(at + recipe.batch_size, stop)]
                            wanted = targets.gather(1, torch.from_numpy(each).to(device)).flatten()
                            stepper.backward(_packed(sets, each), wanted, len(group))
                            total += stack.mean * each.shape[1]
                        stepper.step(steps / stepper.planned)
                    steps += 1
            row = {
                "epoch": epoch, "train_loss": float(total) / bags, "lr": stepper.lr, "steps": steps,
                "seconds": (time.perf_counter() - started) / size, "device_seconds": timer.seconds / size,
            }  # fmt: skip
            for i, (model, judge, own_flops) in enumerate(zip(models, judges, an_epoch, strict=True)):
                if not ended[i] and not _finite(model):
                    ended[i] = epoch
                if not ended[i]:
                    judge.look(model, row | {"flops": None if own_flops is None else own_flops * epoch})
    seconds, busy = (time.perf_counter() - started) / size, timer.seconds / size
    found: list[Trained | Diverged] = []
    for i, (model, judge, of_bags) in enumerate(zip(models, judges, sets, strict=True)):
        if ended[i]:
            found.append(Diverged(f"parameters became NaN or infinite in epoch {ended[i]}"))
            continue
        seen, patches = recipe.epochs * bags, recipe.epochs * sum(of_bags.lengths)
        found.append(Trained(model, judge.history, judge.select(model), steps, seen, patches, seconds, busy,
                             judge.seconds, {"track": None}, scalings[i], seeds[i], judge.trajectory))  # fmt: skip
    return found


def _packed(sets: Sequence[BagSet], positions: np.ndarray) -> Bags:
    """Pack the bags at each model's own positions, ``(M, b)``, in the order of the models."""
    parts = [own.batch(at) for own, at in zip(sets, positions.tolist(), strict=True)]
    where = [part.coords for part in parts if part.coords is not None]
    lengths = [n for part in parts for n in part.lengths]
    return Bags(torch.cat([part.x for part in parts]), lengths, torch.cat(where) if where else None)


def _finite(model: torch.nn.Module) -> bool:
    return all(bool(torch.isfinite(p.sum())) for p in model.parameters())
