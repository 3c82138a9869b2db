"""The input and output of a training: the task of one run, and the result."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from ..aggregator import Aggregator
from ..config import RunSpec
from ..errors import Unsupported
from ..registry import Method
from ..tasks import Predictions, Target, Task, task_named
from .loader import Standardizer

#: Called with the share of a training that is done and the newest row of its history.
OnEvaluation = Callable[[float, dict[str, Any]], None]


#: Takes the share of a training that is done, and the epoch under way.
OnStep = Callable[[float, int], None]


@dataclass(frozen=True)
class TrainingTask:
    """One run as its process receives it: a spec, features by path, labels of training and validation, ids of test."""

    spec: RunSpec
    method: str
    cache_path: str
    n_classes: int
    train: tuple[tuple[str, Target], ...]
    val: tuple[tuple[str, Target], ...]
    test: tuple[str, ...]
    model_classes: tuple[str, ...] | None = None  # names of the classes, where the model is to be kept
    max_instances: int | None = None  # of a training bag, where the budget's fallback has come to that
    counted: tuple[tuple[int, int | None], ...] = ()  # `FlopTable.known` of an earlier run, to be spared the work
    live: str = ""  # the file that takes the share of the training that is done, see `milbench.runs.live`
    live_part: tuple[int, int] = (0, 1)  # its number among the runs that share the file, and how many they are

    @property
    def target_task(self) -> Task:
        """The kind of its labels, and so its loss, predictions and monitors."""
        return task_named(self.spec.task)


@dataclass
class TrainingResult:
    """The result of a training: the selected model, its history (one row an evaluation), and the resources used.

    Attributes:
        history: ``epoch``, ``train_loss`` (mean since the last row), ``lr``, the monitors of its
            task (``val_loss``, ``val_auc``), ``seconds``,
            and what had been used by then: ``steps``, ``device_seconds``, ``flops``.
        selected: number of the selected row, from 1.
        bags, patches: how many passed through training, those seen again counted again.
        budget: `milbench.training.budget_meter.BudgetMeter.record`.
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
    scaling: Standardizer | None = None
    seeds: dict[str, int] = field(default_factory=dict)
    trajectory: list[Predictions] = field(default_factory=list)
    stack: dict[str, float] | None = None


def derive_seed(seed: int, purpose: str) -> int:
    """Return an independent 63-bit seed for one source of randomness (``init``, ``order``, ``dropout``) of a run."""
    return int(np.random.SeedSequence([seed, *purpose.encode()]).generate_state(1, np.uint64)[0] >> 1)


def model_for(method: Method, target_task: Task, in_dim: int, n_classes: int) -> Aggregator:
    """Return a new model whose default loss and predictions are those of a task.

    Raises:
        Unsupported: the method has a loss of its own, which is defined for classes, and the task has none.
    """
    if not target_task.has_classes and method.cls.has_own("loss"):
        raise Unsupported(
            f"{method.name} has a loss of its own, for classes, and cannot be trained on the task {target_task.name}; "
            "leave the method out of the suite, or give it no loss."
        )
    model = method.create(in_dim, n_classes)
    if model.target_task is not target_task:
        model.target_task = target_task
    return model


def seed_everything(seed: int) -> None:
    """Seed every generator a method can draw from without one of its own; torch's is the one it should use."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)
