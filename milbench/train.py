"""The only training loop: every method, every suite, every tuning trial is trained here.

A task holds the labels of training and validation slides and the bare ids of test slides: a test label cannot be read
here, since it is not here.
"""

from __future__ import annotations

import copy
import math
import random
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from . import metrics
from .aggregator import Aggregator, explain_nonfinite
from .bags import Bags
from .data.cache import FeatureCache
from .errors import Diverged, MilbenchError
from .feed import BagSet, Scaling
from .measure.timing import DeviceTimer
from .optim import build_optimizer, learning_rate
from .registry import resolve
from .spec import Recipe, RunSpec


@dataclass(frozen=True)
class Task:
    """One run as its process receives it: a spec, features by path, labels of training and validation, ids of test."""

    spec: RunSpec
    method: str
    cache_path: str
    n_classes: int
    train: tuple[tuple[str, int], ...]
    val: tuple[tuple[str, int], ...]
    test: tuple[str, ...]


@dataclass
class Trained:
    """What training leaves: the selected model, its history (one row an epoch), and what it took."""

    model: Aggregator
    history: list[dict[str, Any]]
    selected_epoch: int
    steps: int
    bags: int
    patches: int
    seconds: float
    device_seconds: float
    evaluation_seconds: float
    scaling: Scaling | None = None
    seeds: dict[str, int] = field(default_factory=dict)


def derive_seed(seed: int, purpose: str) -> int:
    """Return an independent 63-bit seed for one source of chance (``init``, ``order``, ``dropout``) of a run."""
    return int(np.random.SeedSequence([seed, *purpose.encode()]).generate_state(1, np.uint64)[0] >> 1)


def train(task: Task, cache: FeatureCache, device: torch.device) -> Trained:
    """Train a task's method and select the epoch its protocol asks for.

    Raises:
        Diverged: the training loss is NaN or infinite although the features are finite.
        MilbenchError: features of a training bag are NaN or infinite.
    """
    spec, recipe, protocol = task.spec, task.spec.recipe, task.spec.protocol
    if not task.val and (protocol.checkpoint == "best-val" or recipe.patience is not None):
        raise MilbenchError(
            f'fold {spec.fold} of {spec.data} has no validation slides: set checkpoint = "last" and no '
            "patience, or val_fraction."
        )
    seeds = {purpose: derive_seed(spec.seed, purpose) for purpose in ("init", "order", "dropout")}
    _seed(seeds["init"])
    model = resolve(task.method).create(cache.dim, task.n_classes).to(device)
    order = np.random.default_rng(seeds["order"])
    _seed(seeds["dropout"])

    scaling = Scaling.fit(cache, [s for s, _ in task.train]) if protocol.standardize else None
    limit = spec.budget.memory_bytes
    bags = BagSet(cache, [s for s, _ in task.train], device, scaling, limit)
    targets = torch.tensor([y for _, y in task.train], device=device)
    held = BagSet(cache, [s for s, _ in task.val], device, scaling, limit)
    held_labels = np.array([y for _, y in task.val])

    stepper = Stepper(
        model, recipe, math.ceil(math.ceil(len(bags) / recipe.batch_size) / recipe.accumulate) * recipe.epochs
    )
    timer = DeviceTimer(device)
    history: list[dict[str, Any]] = []
    best, best_epoch, best_state = math.inf, 0, None
    patches = evaluation = 0.0
    started = time.perf_counter()
    for epoch in range(1, recipe.epochs + 1):
        model.train()
        positions = order.permutation(len(bags))
        batches = [positions[i : i + recipe.batch_size] for i in range(0, len(positions), recipe.batch_size)]
        total = torch.zeros((), device=device)
        ready = bags.stream(batches)
        for i in range(0, len(batches), recipe.accumulate):
            group = batches[i : i + recipe.accumulate]
            for at in group:
                batch = next(ready)  # waiting for data is not the device's time
                with timer:
                    loss = stepper.backward(batch, labels_of(targets, at), len(group))
                    total.add_(loss, alpha=len(at))
            with timer:
                stepper.step()
        patches += sum(bags.lengths)
        row: dict[str, Any] = {"epoch": epoch, "train_loss": float(total) / len(bags), "lr": stepper.lr}
        if not math.isfinite(row["train_loss"]):
            for batch in bags.batches():
                explain_nonfinite(batch)
            raise Diverged(f"the training loss became {row['train_loss']} in epoch {epoch}")
        if len(held):
            began = time.perf_counter()
            row |= validation(held_labels, predict(model, held, recipe), task.n_classes)
            evaluation += time.perf_counter() - began
            value = row["val_loss"] if protocol.monitor == "val_loss" else -row["val_auc"]
            if value < best or best_state is None:  # an undefined value (NaN) never replaces a defined one
                best, best_epoch = value if not math.isnan(value) else math.inf, epoch
                best_state = copy.deepcopy(model.state_dict()) if protocol.checkpoint == "best-val" else {}
        row |= {"seconds": time.perf_counter() - started, "device_seconds": timer.seconds, "steps": stepper.steps}
        history.append(row)
        if recipe.patience is not None and epoch - best_epoch >= recipe.patience:
            break
    selected = len(history)
    if protocol.checkpoint == "best-val" and best_state:
        model.load_state_dict(best_state)
        selected = best_epoch
    seconds = time.perf_counter() - started
    return Trained(model, history, selected, stepper.steps, len(bags) * len(history), int(patches), seconds,
                   timer.seconds, evaluation, scaling, seeds)  # fmt: skip


def labels_of(targets: Tensor, at: np.ndarray) -> Tensor:
    """Return the labels of the bags at some positions; of one bag, a view."""
    if len(at) == 1:
        return targets[at[0] : at[0] + 1]
    return targets[torch.from_numpy(at).to(targets.device)]


class Stepper:
    """Forward, backward and step of one recipe: precision, accumulation, clipping, schedule."""

    def __init__(self, model: Aggregator, recipe: Recipe, planned_steps: int) -> None:
        self.model = model
        self.recipe = recipe
        self.planned = planned_steps
        self.steps = 0
        self.lr = recipe.lr
        self.optimizer = build_optimizer(model.parameters(), recipe)
        self.device_type = next(model.parameters()).device.type
        self._cast = autocast(self.device_type, recipe) if recipe.precision != "fp32" else nullcontext()
        self.scaler = torch.amp.GradScaler(self.device_type, enabled=recipe.precision == "fp16")
        self.optimizer.zero_grad()

    def backward(self, batch: Bags, targets: Tensor, group: int) -> Tensor:
        """Add the gradient of the batch's mean loss over `group` batches; return the loss, not synchronised."""
        with self._cast:
            out = self.model(batch)
        loss = self.model.loss(out, targets)
        part = loss / group if group > 1 else loss
        (self.scaler.scale(part) if self.scaler.is_enabled() else part).backward()
        return loss.detach()

    def step(self) -> None:
        """Apply the gathered gradients at the schedule's rate."""
        if (lr := learning_rate(self.recipe, self.steps / self.planned)) != self.lr:
            self.lr = lr
            for group in self.optimizer.param_groups:
                group["lr"] = lr
        if self.scaler.is_enabled():
            self.scaler.unscale_(self.optimizer)  # type: ignore[arg-type]  # reads param_groups alone
        if self.recipe.grad_clip is not None:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.grad_clip)
        if self.scaler.is_enabled():
            # After an overflow the scaler skips the optimizer's step, and Lookahead does not count it.
            self.scaler.step(self.optimizer)  # type: ignore[arg-type]
            self.scaler.update()
        else:
            self.optimizer.step()
        self.optimizer.zero_grad()
        self.steps += 1


def autocast(device_type: str, recipe: Recipe) -> torch.autocast:
    """Return the autocast context of a recipe; disabled for fp32."""
    dtype = torch.float16 if recipe.precision == "fp16" else torch.bfloat16
    return torch.autocast(device_type, dtype=dtype, enabled=recipe.precision != "fp32")


@torch.inference_mode()
def predict(model: Aggregator, bags: BagSet, recipe: Recipe) -> np.ndarray:
    """Return ``(B, n_classes)`` float64 probabilities of all bags, in eval mode; the mode is put back."""
    training = model.training
    model.eval()
    rows = []
    for batch in bags.batches():
        with autocast(batch.device.type, recipe):
            out = model(batch)
        probabilities = model.probabilities(out)
        if not torch.isfinite(probabilities).all():
            explain_nonfinite(batch)
            raise Diverged("the model predicts NaN for finite features")
        rows.append(probabilities.double().cpu())
    model.train(training)
    p = torch.cat(rows).numpy()
    return p / p.sum(axis=1, keepdims=True)


def validation(labels: np.ndarray, probabilities: np.ndarray, n_classes: int) -> dict[str, float]:
    """Return val_loss (log loss in nats, the same quantity for every method) and val_auc."""
    chosen = np.clip(probabilities[np.arange(len(labels)), labels], 1e-12, 1)
    return {"val_loss": float(-np.log(chosen).mean()), "val_auc": metrics.auc(labels, probabilities)}


def predictions_frame(ids: Sequence[str], split: str, probabilities: np.ndarray) -> pd.DataFrame:
    """Return one row a slide: slide_id, split, p0 .. p{C-1}. No label stands in it."""
    frame = pd.DataFrame(probabilities, columns=[f"p{c}" for c in range(probabilities.shape[1])])
    frame.insert(0, "slide_id", list(ids))
    frame.insert(1, "split", split)
    return frame


def _seed(seed: int) -> None:
    """Seed every generator a method can draw from without one of its own; torch's is the one it should use."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)
