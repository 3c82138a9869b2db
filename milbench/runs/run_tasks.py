"""The work of a process: train one run, or several that share it, and predict validation and test slides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Self

import pandas as pd
import torch

from ..data.cache.reader import FeatureCache
from ..errors import Diverged
from ..measure.environment import environment
from ..measure.load import Load
from ..measure.memory import PeakMemory
from ..measure.timing import Stopwatch
from ..measure.yardstick import yardstick
from ..tasks.classification import ClassPredictions
from ..training.loader import BagLoader
from ..training.loop import flops_of, train
from ..training.predict import predict, predictions_frame
from ..training.saved_model import model_bytes
from ..training.stacked import train_stacked
from ..training.task import TrainingResult, TrainingTask
from . import live
from .launchers.base import REPEATS, Outcome
from .process import capped, set_up
from .worker import work


@dataclass(frozen=True)
class RunTask:
    """One run that has a process to itself."""

    training: TrainingTask

    #: How often it is repeated where something else ends its process.
    repeats = REPEATS

    @property
    def trainings(self) -> tuple[TrainingTask, ...]:
        """The training of the run, as of `SharedTask`."""
        return (self.training,)

    @property
    def memory_bytes(self) -> int | None:
        """The cap on the process."""
        return self.training.spec.budget.memory_bytes

    def mapped(self, change: Callable[[TrainingTask, int], TrainingTask]) -> Self:
        """Return the task with another training: ``change(training, position)``."""
        return replace(self, training=change(self.training, 0))

    def outcomes(self, result: Outcome) -> list[Outcome]:
        """Return how each run ended, given how the process ended."""
        return [result]

    def execute(self) -> dict[str, Any]:
        """Train and predict; return what `milbench.runs.store.Store.publish_run` takes."""
        task = self.training
        device = set_up(task.spec.threads, task.spec.device_type)
        cache, load = FeatureCache.open(task.cache_path), Load()
        with capped(self.memory_bytes, device, cache) as against_cap, PeakMemory(device) as peak:
            reports = live.reporter(task.live, task.live_part), live.step_reporter(task.live, task.live_part)
            trained = train(task, cache, device, *reports)
            value = _predicted(task, trained, cache, device)
            if (cap := against_cap()) is not None:
                value["record"]["memory_cap"] = cap
        value["record"] |= {"peak_memory_bytes": peak.reading.peak_bytes, "peak_memory": peak.reading.as_dict()}
        if task.spec.budget.track == "device_seconds":  # how far they go depends on what else the machine does
            moment = load.reading() | {"threads": task.spec.threads}
            value["record"]["moment"] = moment | {"yardstick": yardstick(device)}  # after the peak was read
        return value


@dataclass(frozen=True)
class SharedTask:
    """Runs of one method and recipe on one cohort that share a process: as one stacked model, or one after the other.

    Their specs say which; the value is an `Outcome` for each run.
    """

    trainings: tuple[TrainingTask, ...]

    @property
    def repeats(self) -> int:
        """How often it is repeated where something else ends its process: several runs are then made one by one."""
        # Their memory together may have been the reason.
        return 0 if len(self.trainings) > 1 else REPEATS

    def mapped(self, change: Callable[[TrainingTask, int], TrainingTask]) -> Self:
        """Return the task with other trainings: ``change(training, position)`` of each."""
        return replace(self, trainings=tuple(change(one, i) for i, one in enumerate(self.trainings)))

    def outcomes(self, result: Outcome) -> list[Outcome]:
        """Return how each run ended, given how the process ended."""
        return list(result.value) if result.outcome == "ok" else [result] * len(self.trainings)

    def execute(self) -> list[Outcome]:
        """Train and predict all of them; return the outcome of each."""
        if self.trainings[0].spec.stacked:
            return self._stacked()
        return [_without_peak(work(RunTask(one))) for one in self.trainings]

    def _stacked(self) -> list[Outcome]:
        first = self.trainings[0]
        device, cache = set_up(first.spec.threads, first.spec.device_type), FeatureCache.open(first.cache_path)
        results = []
        trained = train_stacked(self.trainings, cache, device, live.step_reporter(first.live))
        for task, own in zip(self.trainings, trained, strict=True):
            if isinstance(own, Diverged):
                results.append(Outcome("diverged", str(own)))
                continue
            try:
                value = _predicted(task, own, cache, device)
            except Diverged as error:
                results.append(Outcome("diverged", str(error)))
                continue
            value["record"] |= {"stack": own.stack}  # the memory that one of them would have taken is not known
            results.append(Outcome("ok", "", value))
        return results


def _without_peak(result: Outcome) -> Outcome:
    """Forget the peak of a run that had a process before it: its memory may have been taken from there."""
    if result.outcome == "ok":
        for name in ("peak_memory_bytes", "peak_memory"):
            del result.value["record"][name]
        result.value["record"].pop("memory_cap", None)
    return result


def _predicted(
    task: TrainingTask, trained: TrainingResult, cache: FeatureCache, device: torch.device
) -> dict[str, Any]:
    """Predict the validation and test slides of a run, and say what it was and took."""
    watch, test = Stopwatch(), BagLoader(cache, task.test, device, trained.scaling, task.spec.budget.memory_bytes)
    with watch:  # predictions come back to the host, so the device has finished
        predictions = predict(trained.model, test, task.spec.recipe)
    frames = [predictions_frame(task.test, "test", predictions)]
    validated = None
    if task.val:
        val = BagLoader(cache, [s for s, _ in task.val], device, trained.scaling, task.spec.budget.memory_bytes)
        validated = predict(trained.model, val, task.spec.recipe)
        frames.insert(0, predictions_frame(val.ids, "val", validated))
    busy, patches = trained.device_seconds, sum(test.lengths)
    flops = flops_of(task, cache)
    record: dict[str, Any] = {
        "selected": {key: trained.history[trained.selected - 1][key] for key in ("epoch", "steps")},
        "seeds": trained.seeds,
        "budget_used": trained.budget,
        "max_instances": task.max_instances,
        "parameters": sum(p.numel() for p in trained.model.parameters()),
        "train": {
            "seconds": trained.seconds,
            "device_seconds": busy,
            "evaluation_seconds": trained.evaluation_seconds,
            "steps": trained.steps,
            "epochs": trained.history[-1]["epoch"],
            "flops": trained.history[-1]["flops"],
            "evaluations": len(trained.history),
            "bags_per_s": trained.bags / busy,
            "patches_per_s": trained.patches / busy,
        },
        "inference": {
            "seconds": watch.seconds,
            "device_seconds": watch.seconds,
            "bags_per_s": len(test) / watch.seconds,
            "patches_per_s": patches / watch.seconds,
        },
        "environment": environment(),
    }
    has_classes, probabilities = task.target_task.has_classes, trained.model.ordered_by_probabilities()
    if has_classes and probabilities:
        record["ordered_by"] = "probabilities"
    if has_classes and task.val:  # runs of before log-odds have no such entry: theirs is of rounded probabilities
        record["val_auc_ordered_by"] = "probabilities" if probabilities else "log-odds"
    if trained.history[-1]["flops"] is None:
        record["train"]["flops_missing"] = flops.why or "an earlier run of the method could not count them"
    value = {
        "record": record,
        "counted": flops.known,
        "predictions": pd.concat(frames, ignore_index=True),
        "history": pd.DataFrame(trained.history),
    }
    if task.model_classes is not None:
        assert validated is None or isinstance(validated, ClassPredictions)  # `make_plan` keeps no others
        value["model"] = model_bytes(task, trained, cache, validated)
    if trained.trajectory:
        every = [predictions_frame(task.test, "test", p).drop(columns="split") for p in trained.trajectory]
        value["trajectory"] = pd.concat(every, keys=range(1, len(every) + 1), names=["evaluation"]).reset_index(level=0)
    return value
