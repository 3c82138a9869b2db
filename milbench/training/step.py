"""One optimizer step: forward, loss, backward, clipping, schedule; shared by training, costs, estimates and scaling."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ..aggregator import Aggregator
from ..bags import BagOutput, Bags
from ..config import Recipe
from ..errors import MilbenchError, OutOfMemory
from ..formatting.text import count
from ..measure.memory import is_out_of_memory, requested_bytes
from ..nn.stacked import Stack
from .optimizers import Plateau, build_optimizer, learning_rate


def subsample_bags(bags: Bags, most: int, rng: np.random.Generator) -> Bags:
    """Return bags of at most `most` instances: of longer ones as many, drawn without replacement, in their order."""
    if max(bags.lengths) <= most:
        return bags
    kept, begin = [], 0
    for n in bags.lengths:
        kept.append(begin + (np.arange(n) if n <= most else np.sort(rng.choice(n, most, replace=False))))
        begin += n
    rows = torch.from_numpy(np.concatenate(kept)).to(bags.x.device)
    coords = None if bags.coords is None else bags.coords[rows]
    return Bags(bags.x[rows], [len(part) for part in kept], coords)


@contextmanager
def oom_context(lengths: Sequence[int], during: str) -> Iterator[None]:
    """Turn torch's errors on exhausted memory into `OutOfMemory`, with the longest of the bags in hand."""
    try:
        yield
    except Exception as error:
        if isinstance(error, OutOfMemory) or not is_out_of_memory(error):
            raise
        raise OutOfMemory(max(lengths, default=0), during, requested_bytes(error)) from error


def clip_groups(model: nn.Module, recipe: Recipe) -> list[list[nn.Parameter]]:
    """Return the parameters of a model in the groups whose gradients a recipe clips, each by its own norm."""
    groups: dict[str, list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        group = name.rpartition(".")[0].partition(".")[0] if recipe.clip_groups == "modules" else ""
        groups.setdefault(group, []).append(parameter)
    return list(groups.values())


def labels_of(targets: Tensor, at: Sequence[int]) -> Tensor:
    """Return the labels of the bags at some positions; of one bag, a view."""
    if len(at) == 1:
        return targets[at[0] : at[0] + 1]
    return targets[torch.tensor(at, device=targets.device)]


class OptimizerStep:
    """Forward, backward and step of one recipe: precision, accumulation, clipping, schedule, weights of classes.

    Args:
        model: to train; a stack takes neither weights nor smoothed labels.
        recipe: how.
        planned_steps: of the whole training.
        class_weights: factor of the loss of a bag of each class; None: 1.
        plateau: of the schedule of that name, given every evaluation; None: the rate stays that of the start.
    """

    def __init__(self, model: Aggregator | Stack, recipe: Recipe, planned_steps: int,
                 class_weights: Sequence[float] | None = None, plateau: Plateau | None = None) -> None:  # fmt: skip
        self.model = model
        self.recipe = recipe
        device = next(model.parameters()).device
        self.class_weights = None if class_weights is None else torch.tensor(class_weights, device=device)
        self.planned = planned_steps
        self.plateau = plateau
        self.steps = 0
        self.lr = recipe.lr
        self.optimizer = build_optimizer(model.groups() if isinstance(model, Stack) else model.parameters(), recipe)
        self.device_type = device.type
        self._cast = autocast(self.device_type, recipe) if recipe.precision != "fp32" else nullcontext()
        self.scaler = torch.amp.GradScaler(self.device_type) if recipe.precision == "fp16" else None
        self.optimizer.zero_grad()
        self._after = model if isinstance(model, Aggregator) and model.has_own("after_step") else None
        self._clipped = [] if recipe.grad_clip is None else clip_groups(model, recipe)
        decay = recipe.ema_decay
        self._average = None if decay is None else AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay))

    @property
    def evaluated(self) -> Aggregator:
        """The model that is evaluated and kept: the average of the recipe's ``ema_decay``, or the trained one."""
        model = self.model if self._average is None else self._average.module
        assert isinstance(model, Aggregator)
        return model

    def backward(self, batch: Bags, targets: Tensor, group: int) -> Tensor:
        """Add the gradient of the batch's mean loss over `group` batches; return the loss, not synchronised."""
        with self._cast:
            out = self.model(batch)
        if isinstance(self.model, Aggregator):
            check_output(self.model, out, batch)
        loss = self._loss(out, targets)
        part = loss / group if group > 1 else loss
        (part if self.scaler is None else self.scaler.scale(part)).backward()
        return loss.detach()

    def _loss(self, out: BagOutput, targets: Tensor) -> Tensor:
        """Return the mean loss of a batch under the recipe's class weights and label smoothing.

        A bag's weight multiplies the whole of its loss, so the loss of each bag is taken by itself: a loss of the batch
        is only known as the mean over its bags.
        """
        if self.class_weights is None:
            return self._smoothed(out, targets)
        each = [self._smoothed(out.bag(i), targets[i : i + 1]) for i in range(len(targets))]
        return (torch.stack(each) * self.class_weights[targets]).mean()

    def _smoothed(self, out: BagOutput, targets: Tensor) -> Tensor:
        loss: Tensor = self.model.loss(out, targets)
        share = self.recipe.label_smoothing
        if share == 0:
            return loss
        assert isinstance(self.model, Aggregator)
        classes = self.model.n_classes
        every = [self.model.loss(out, torch.full_like(targets, c)) for c in range(classes)]
        return (1 - share) * loss + share / classes * torch.stack(every).sum()

    def step(self, progress: float | None = None) -> None:
        """Apply the gathered gradients at the schedule's rate after a share of the training; None: by steps planned."""
        done = self.steps / self.planned if progress is None else progress
        lr = learning_rate(self.recipe, done)
        if self.plateau is not None:
            lr = min(lr, self.plateau.lr)
        if lr != self.lr:
            self.lr = lr
            for group in self.optimizer.param_groups:
                group["lr"] = lr
        if self.scaler is not None:
            self.scaler.unscale_(self.optimizer)  # type: ignore[arg-type]  # reads param_groups alone
        if self.recipe.grad_clip is not None:
            for parameters in self._clipped:
                torch.nn.utils.clip_grad_norm_(parameters, self.recipe.grad_clip)
        follows = self._after is not None or self._average is not None
        taken = True
        if self.scaler is None:
            self.optimizer.step()
        else:
            scale = self.scaler.get_scale() if follows else 0.0  # makes a CUDA stream wait
            # After an overflow the scaler skips the optimizer's step, and Lookahead does not count it.
            self.scaler.step(self.optimizer)  # type: ignore[arg-type]
            self.scaler.update()
            taken = not follows or self.scaler.get_scale() >= scale
        self.optimizer.zero_grad()
        self.steps += 1
        if follows and taken:
            self._follow(min(1.0, done))

    @torch.no_grad()
    def _follow(self, progress: float) -> None:
        """Do what follows a step that was taken: the method's own, then the average."""
        if self._after is not None:
            self._after.after_step(progress)
        if self._average is not None:
            self._average.update_parameters(self.model)


def autocast(device_type: str, recipe: Recipe) -> torch.autocast:
    """Return the autocast context of a recipe; disabled for fp32."""
    dtype = torch.float16 if recipe.precision == "fp16" else torch.bfloat16
    return torch.autocast(device_type, dtype=dtype, enabled=recipe.precision != "fp32")


def check_output(model: Aggregator, out: Any, batch: Bags) -> None:
    """Refuse an output of an external method on which the loss would fail in our code, or would not fail at all."""
    returned = out.logits.shape if isinstance(out, BagOutput) else None
    due = (len(batch), model.n_classes)
    if returned != due and (returned != (len(batch), 1) or model.n_classes != 2):
        description = type(out).__name__ if returned is None else f"logits of shape {tuple(returned)}"
        raise MilbenchError(
            f"{type(model).__name__} returned {description} for {count(len(batch), 'bag')} "
            f"and {model.n_classes} classes, "
            f"instead of a BagOutput with logits of shape {due}; milbench check lists what a method must return.",
            code="model-bad-output",
        )
