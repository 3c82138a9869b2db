"""The only training loop: every method, every suite, every tuning trial is trained here.

A task holds the labels of training and validation slides and the bare ids of test slides: a test label cannot be read
here, since it is not here.
"""

from __future__ import annotations

import copy
import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from . import metrics
from .aggregator import Aggregator, explain_nonfinite
from .bags import BagOutput, Bags
from .budget import Meter, StepFlops, step_flops
from .data.cache import FeatureCache
from .errors import Diverged, MilbenchError, OutOfMemory
from .feed import BagSet, Scaling
from .measure.memory import bytes_asked_for, is_out_of_memory
from .measure.timing import DeviceTimer
from .nn.stacked import Stack
from .optim import Plateau, balanced_weights, build_optimizer, learning_rate
from .registry import resolve
from .spec import Recipe, RunSpec
from .wording import count

#: Called with the share of a training that is done and the newest row of its history.
OnEvaluation = Callable[[float, dict[str, Any]], None]
#: Takes the share of a training that is done, and the epoch under way.
OnStep = Callable[[float, int], None]


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
    model_classes: tuple[str, ...] | None = None  # names of the classes, where the model is to be kept
    max_instances: int | None = None  # of a training bag, where the budget's fallback has come to that
    counted: tuple[tuple[int, int | None], ...] = ()  # `StepFlops.known` of an earlier run, to be spared the work
    live: str = ""  # the file that takes the share of the training that is done, see `milbench.live`
    live_part: tuple[int, int] = (0, 1)  # its number among the runs that share the file, and how many they are


@dataclass(frozen=True)
class Predictions:
    """What a model says of B bags.

    Attributes:
        probabilities: ``(B, n_classes)`` float64, rows sum to 1.
        log_odds: ``(B, n_classes)`` float64, of every class against the rest; bags are ordered by these.
    """

    probabilities: np.ndarray
    log_odds: np.ndarray


@dataclass
class Trained:
    """What training leaves: the selected model, its history (one row an evaluation), and what it took.

    Attributes:
        history: ``epoch``, ``train_loss`` (mean since the last row), ``lr``, ``val_loss``, ``val_auc``, ``seconds``,
            and what had been used by then: ``steps``, ``device_seconds``, ``flops``.
        selected: number of the selected row, from 1.
        bags, patches: how many passed through training, those seen again counted again.
        budget: `milbench.budget.Meter.record`.
        trajectory: under the oracle protocol the predictions of the test bags at every evaluation.
        stack: of a stacked training how many models it had and the device-seconds of all; its own are not known.
    """

    model: Aggregator
    history: list[dict[str, Any]]
    selected: int
    steps: int
    bags: int
    patches: int
    seconds: float
    device_seconds: float
    evaluation_seconds: float
    budget: dict[str, Any] = field(default_factory=dict)
    scaling: Scaling | None = None
    seeds: dict[str, int] = field(default_factory=dict)
    trajectory: list[Predictions] = field(default_factory=list)
    stack: dict[str, float] | None = None


def derive_seed(seed: int, purpose: str) -> int:
    """Return an independent 63-bit seed for one source of chance (``init``, ``order``, ``dropout``) of a run."""
    return int(np.random.SeedSequence([seed, *purpose.encode()]).generate_state(1, np.uint64)[0] >> 1)


def train(
    task: Task,
    cache: FeatureCache,
    device: torch.device,
    on_evaluation: OnEvaluation | None = None,
    on_step: OnStep | None = None,
) -> Trained:
    """Train a task's method within its budget and select the evaluation its protocol asks for.

    Args:
        task: what to train.
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
    fixed = spec.budget.track is not None  # length of the training
    patience = None if fixed else recipe.patience
    plateau = Plateau(recipe, protocol.monitor == "val_auc") if recipe.schedule == "plateau" else None
    if not task.val and (protocol.checkpoint == "best-val" or patience is not None or plateau is not None):
        raise MilbenchError(
            f'fold {spec.fold} of {spec.data} has no validation slides: set checkpoint = "last", no patience and a '
            "schedule other than plateau, or val_fraction."
        )
    seeds = {purpose: derive_seed(spec.seed, purpose) for purpose in ("init", "order", "dropout", "subsample")}
    seed_everything(seeds["init"])
    model = resolve(task.method).create(cache.dim, task.n_classes).to(device)
    order, chance = (np.random.default_rng(seeds[purpose]) for purpose in ("order", "subsample"))
    seed_everything(seeds["dropout"])

    scaling = Scaling.fit(cache, [s for s, _ in task.train]) if protocol.standardize else None
    limit = spec.budget.memory_bytes
    with fits(cache.lengths([s for s, _ in task.train]), "loading"):
        bags = BagSet(cache, [s for s, _ in task.train], device, scaling, limit)
    targets = torch.tensor([y for _, y in task.train], device=device)
    lengths = [n if task.max_instances is None else min(n, task.max_instances) for n in bags.lengths]

    labels = [y for _, y in task.train]
    check_labels(labels, task.n_classes)
    model.targets_are_valid = True  # checked above, once; at every step it would make a CUDA stream wait
    weights = balanced_weights(labels, task.n_classes)  # of the fold's training bags, by their class
    drawn = np.array([weights[y] for y in labels]) / len(labels) if recipe.sampler == "balanced" else None
    stepper = Stepper(
        model, recipe, math.ceil(math.ceil(len(bags) / recipe.batch_size) / recipe.accumulate) * recipe.epochs,
        class_weights=weights if recipe.class_weights == "balanced" else None, plateau=plateau,
    )  # fmt: skip
    timer = DeviceTimer(device)
    flops = flops_of(task, cache)
    meter = Meter(spec.budget, stepper.planned, timer, flops.of)
    judge = Judge(task, cache, device, scaling)
    seen = patches = 0
    losses = _Losses(device)
    started = time.perf_counter()
    looks = 0  # of those that are due by the progress of a training of fixed length

    def evaluate(epoch: int) -> None:
        row: dict[str, Any] = {"epoch": epoch, "train_loss": losses.mean(), "lr": stepper.lr}
        if not math.isfinite(row["train_loss"]):
            for batch in bags.batches():
                explain_nonfinite(batch)
            raise Diverged(f"the training loss became {row['train_loss']} in epoch {epoch}")
        judge.look(model, row)
        if plateau is not None:
            plateau.evaluated(row[protocol.monitor], meter.progress)
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
        # Looked up beforehand: between the steps of a small method, whose data fill the caches, each costs far more.
        answers, rows = [labels_of(targets, at) for at in batches], [[lengths[j] for j in at] for at in batches]
        taken: list[int] = []
        # One context an epoch and one block of the timer a batch: beside a small method each is a part of a step.
        with closing(bags.stream(batches, timer)) as ready, fits(taken, "training"):
            for i in range(0, len(batches), recipe.accumulate):
                group = batches[i : i + recipe.accumulate]
                taken[:] = rows[i] if len(group) == 1 else chain.from_iterable(rows[i : i + len(group)])
                for j, at in enumerate(group, start=i):
                    batch = next(ready)  # waiting for the disk is not the device's time
                    with timer:
                        if task.max_instances is not None:
                            batch = cut(batch, task.max_instances, chance)
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
                if fixed and (due := meter.passed(protocol.evaluations)) > looks:
                    looks = due
                    evaluate(epoch)
        if meter.spent or not fixed:
            evaluate(epoch)
        if patience is not None and len(judge.history) - judge.best_row >= patience:
            break
    selected = judge.select(model)
    model.targets_are_valid = False
    seconds = time.perf_counter() - started
    return Trained(model, judge.history, selected, meter.steps, seen, patches, seconds, timer.seconds, judge.seconds,
                   meter.record(), scaling, seeds, judge.trajectory)  # fmt: skip


class _Losses:
    """The mean of losses over bags, fetched from the device when asked for: to add each up takes a part of a step."""

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


def flops_of(task: Task, cache: FeatureCache) -> StepFlops:
    """Return the counts of a task's method in this process, with what earlier runs had counted."""
    flops = step_flops(task.method, cache.dim, task.n_classes, _has_coords(cache), task.spec.budget.track == "flops")
    flops.learn(task.counted)
    return flops


def _has_coords(cache: FeatureCache) -> bool:
    """Whether the slides of a cache have coordinates."""
    return any(cache.coords(slide) is not None for slide in cache.slides["slide_id"][:1])


class Judge:
    """Looks at validation slides, keeps the history, and remembers the best model; under the oracle protocol it also
    predicts the test slides, whose labels it does not have."""

    def __init__(self, task: Task, cache: FeatureCache, device: torch.device, scaling: Scaling | None) -> None:
        limit = task.spec.budget.memory_bytes
        self.recipe, self.protocol, self.n_classes = task.spec.recipe, task.spec.protocol, task.n_classes
        self.held = BagSet(cache, [s for s, _ in task.val], device, scaling, limit)
        self.labels = np.array([y for _, y in task.val])
        oracle = self.protocol.checkpoint == "oracle"
        self.test = BagSet(cache, task.test, device, scaling, limit) if oracle else None
        self.history: list[dict[str, Any]] = []
        self.trajectory: list[Predictions] = []
        self.seconds = 0.0
        self.best_row = 0
        self._best = math.inf
        self._state: dict[str, Any] | None = None

    @property
    def looks(self) -> bool:
        """Whether it predicts anything; else it only writes down."""
        return len(self.held) > 0 or self.test is not None

    def look(self, model: Aggregator, row: dict[str, Any]) -> None:
        """Add validation loss and AUC to a row and the row to the history; keep the model where it is the best."""
        began = time.perf_counter()
        self.history.append(row)
        if len(self.held):
            row |= validation(self.labels, predict(model, self.held, self.recipe), self.n_classes)
            value = row["val_loss"] if self.protocol.monitor == "val_loss" else -row["val_auc"]
            if value < self._best or self._state is None:  # an undefined value (NaN) never replaces a defined one
                self._best, self.best_row = value if not math.isnan(value) else math.inf, len(self.history)
                self._state = copy.deepcopy(model.state_dict()) if self.protocol.checkpoint != "last" else {}
        if self.test is not None:
            self.trajectory.append(predict(model, self.test, self.recipe))
        self.seconds += time.perf_counter() - began

    def select(self, model: Aggregator) -> int:
        """Put the selected model's parameters back; return the number of its row."""
        if self.protocol.checkpoint == "last" or not self._state:
            return len(self.history)
        model.load_state_dict(self._state)
        return self.best_row


def cut(bags: Bags, most: int, chance: np.random.Generator) -> Bags:
    """Return bags of at most `most` instances: of longer ones as many, drawn without replacement, in their order."""
    if max(bags.lengths) <= most:
        return bags
    kept, begin = [], 0
    for n in bags.lengths:
        kept.append(begin + (np.arange(n) if n <= most else np.sort(chance.choice(n, most, replace=False))))
        begin += n
    rows = torch.from_numpy(np.concatenate(kept)).to(bags.x.device)
    coords = None if bags.coords is None else bags.coords[rows]
    return Bags(bags.x[rows], [len(part) for part in kept], coords)


@contextmanager
def fits(lengths: Sequence[int], during: str) -> Iterator[None]:
    """Turn whatever torch raises when memory runs out into `OutOfMemory`, with the longest of the bags in hand."""
    try:
        yield
    except Exception as error:
        if isinstance(error, OutOfMemory) or not is_out_of_memory(error):
            raise
        raise OutOfMemory(max(lengths, default=0), during, bytes_asked_for(error)) from error


def check_labels(labels: Sequence[int], n_classes: int) -> None:
    """Raise MilbenchError where a training label is none of the classes 0 .. n_classes - 1."""
    wrong = sorted({y for y in labels if not 0 <= y < n_classes})
    if wrong:
        raise MilbenchError(
            f"training labels hold {', '.join(map(str, wrong[:5]))}, but with {n_classes} classes they are "
            f"0 to {n_classes - 1}; correct the labels."
        )


def labels_of(targets: Tensor, at: Sequence[int]) -> Tensor:
    """Return the labels of the bags at some positions; of one bag, a view."""
    if len(at) == 1:
        return targets[at[0] : at[0] + 1]
    return targets[torch.tensor(at, device=targets.device)]


class Stepper:
    """Forward, backward and step of one recipe: precision, accumulation, clipping, schedule, weights of classes.

    Args:
        model: what is trained; a stack takes neither weights nor smoothed labels.
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

    def backward(self, batch: Bags, targets: Tensor, group: int) -> Tensor:
        """Add the gradient of the batch's mean loss over `group` batches; return the loss, not synchronised."""
        with self._cast:
            out = self.model(batch)
        if isinstance(self.model, Aggregator):
            _fitting(self.model, out, batch)
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
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.grad_clip)
        if self.scaler is None:
            self.optimizer.step()
        else:
            # After an overflow the scaler skips the optimizer's step, and Lookahead does not count it.
            self.scaler.step(self.optimizer)  # type: ignore[arg-type]
            self.scaler.update()
        self.optimizer.zero_grad()
        self.steps += 1


def autocast(device_type: str, recipe: Recipe) -> torch.autocast:
    """Return the autocast context of a recipe; disabled for fp32."""
    dtype = torch.float16 if recipe.precision == "fp16" else torch.bfloat16
    return torch.autocast(device_type, dtype=dtype, enabled=recipe.precision != "fp32")


@torch.inference_mode()
def predict(model: Aggregator, bags: BagSet, recipe: Recipe) -> Predictions:
    """Return the predictions of all bags, in eval mode; the mode is put back."""
    training = model.training
    model.eval()
    rows, odds = [], []
    with fits(bags.lengths, "evaluation"):
        for batch in bags.batches():
            with autocast(batch.device.type, recipe):
                out = model(batch)
            _fitting(model, out, batch)
            probabilities = model.probabilities(out)
            if not torch.isfinite(probabilities).all():
                explain_nonfinite(batch)
                raise Diverged("the model predicts NaN for finite features")
            rows.append(probabilities.double().cpu())
            odds.append(model.log_odds(out).double().cpu())
    model.train(training)
    p, s = torch.cat(rows).numpy(), torch.cat(odds).numpy()
    if s.shape != p.shape or np.isnan(s).any():  # of a method that defines its own
        raise Diverged(f"the model's log-odds are NaN, or not of shape {p.shape}, where its probabilities are finite")
    return Predictions(p / p.sum(axis=1, keepdims=True), np.nan_to_num(s))


def _fitting(model: Aggregator, out: Any, batch: Bags) -> None:
    """Refuse what a stranger's method returns where a loss would fail in our code, or would not fail at all."""
    returned = out.logits.shape if isinstance(out, BagOutput) else None
    due = (len(batch), model.n_classes)
    if returned != due and (returned != (len(batch), 1) or model.n_classes != 2):
        told = type(out).__name__ if returned is None else f"logits of shape {tuple(returned)}"
        raise MilbenchError(
            f"{type(model).__name__} returned {told} for {count(len(batch), 'bag')} and {model.n_classes} classes, "
            f"instead of a BagOutput with logits of shape {due}; milbench check tells what is asked of a method."
        )


def validation(labels: np.ndarray, predictions: Predictions, n_classes: int) -> dict[str, float]:
    """Return val_loss (log loss in nats, the same quantity for every method) and val_auc."""
    p = predictions.probabilities
    chosen = np.clip(p[np.arange(len(labels)), labels], 1e-12, 1)
    return {"val_loss": float(-np.log(chosen).mean()), "val_auc": metrics.auc(labels, p, predictions.log_odds)}


def predictions_frame(ids: Sequence[str], split: str, predictions: Predictions) -> pd.DataFrame:
    """Return one row a slide: slide_id, split, p0 .. p{C-1}, and log-odds s0 .. s{C-1}. No label stands in it."""
    classes = range(predictions.probabilities.shape[1])
    frame = pd.DataFrame(
        np.concatenate([predictions.probabilities, predictions.log_odds], axis=1),
        columns=[f"{kind}{c}" for kind in "ps" for c in classes],
    )
    frame.insert(0, "slide_id", list(ids))
    frame.insert(1, "split", split)
    return frame


def seed_everything(seed: int) -> None:
    """Seed every generator a method can draw from without one of its own; torch's is the one it should use."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)
