"""Which model of a training is kept: evaluations on validation bags, and the checkpoint rule."""

from __future__ import annotations

import copy
import math
import time
from typing import Any

import torch

from ..aggregator import Aggregator
from ..data.cache.reader import FeatureCache
from ..tasks import Predictions
from .loader import BagLoader, Standardizer
from .predict import predict
from .task import TrainingTask


class CheckpointSelector:
    """Evaluates on the validation set, records the history and keeps the best checkpoint; under the oracle protocol it
    also predicts the test slides, whose labels it does not have."""

    def __init__(
        self, task: TrainingTask, cache: FeatureCache, device: torch.device, scaling: Standardizer | None
    ) -> None:
        limit = task.spec.budget.memory_bytes
        self.recipe, self.protocol, self.target_task = task.spec.recipe, task.spec.protocol, task.target_task
        self.monitor = self.target_task.monitor(self.protocol.monitor)
        self.held = BagLoader(cache, [s for s, _ in task.val], device, scaling, limit)
        self.targets = self.target_task.array([y for _, y in task.val])
        oracle = self.protocol.checkpoint == "oracle"
        self.test = BagLoader(cache, task.test, device, scaling, limit) if oracle else None
        self.history: list[dict[str, Any]] = []
        self.trajectory: list[Predictions] = []
        self.seconds = 0.0
        self.best_row = 0
        self._best = math.inf
        self._state: dict[str, Any] | None = None

    @property
    def evaluates(self) -> bool:
        """Whether it predicts anything; else it only records the history."""
        return len(self.held) > 0 or self.test is not None

    def evaluate(self, model: Aggregator, row: dict[str, Any]) -> None:
        """Add the monitors of the task to a row and the row to the history; keep the model where it is the best."""
        began = time.perf_counter()
        self.history.append(row)
        if len(self.held):
            row |= self.target_task.validation(self.targets, predict(model, self.held, self.recipe))
            value = self.monitor.to_minimise(row[self.monitor.name])
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
