"""One tuning trial in its process: a training that is scored on validation slides and may be stopped early."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from ...config import Protocol, Tuning
from ...data.cache.reader import FeatureCache
from ...errors import MilbenchError
from ...training.loop import train
from ...training.task import OnEvaluation, OnStep, TrainingResult, TrainingTask
from .. import live
from ..process import capped, set_up


class Pruned(Exception):  # noqa: N818
    """The study's pruner has stopped the trial."""


@dataclass(frozen=True)
class TrialTask:
    """A trial as its process receives it.

    Attributes:
        task: the training; it holds no test slide.
        tuning: how the study is made.
        storage: of the study, for the pruner; None where nothing is pruned.
        study: the study's name.
        trial_id: Optuna's, in the storage.
    """

    task: TrainingTask
    tuning: Tuning
    storage: str | None
    study: str
    trial_id: int

    @property
    def memory_bytes(self) -> int | None:
        """The cap on the process, as of a run."""
        return self.task.spec.budget.memory_bytes

    def execute(self) -> dict[str, Any]:
        """Train and score in this process; see `run_trial`."""
        spec = self.task.spec
        device, cache = set_up(spec.threads, spec.device_type), FeatureCache.open(self.task.cache_path)
        report = reporter(self)
        with capped(self.memory_bytes, device, cache):
            return run_trial(self, cache, device, report, live.step_reporter(self.task.live))


def run_trial(
    trial: TrialTask,
    cache: FeatureCache,
    device: torch.device,
    report: OnEvaluation | None,
    on_step: OnStep | None = None,
) -> dict[str, Any]:
    """Train and score.

    Args:
        trial: its values.
        cache: the features.
        device: where.
        report: from `reporter`.
        on_step: called after every step.

    Returns:
        ``score`` (the monitored validation quantity of the selected evaluation; absent when ``pruned``), ``pruned``,
        and ``used``: ``steps``, ``flops``, ``device_seconds``, ``seconds``.
    """
    if trial.task.test:
        raise MilbenchError("a trial was given test slides.", code="tuning-test-slides")
    rows: list[dict[str, Any]] = []

    def on_evaluation(progress: float, row: dict[str, Any]) -> None:
        rows.append(row)
        if report is not None:
            report(progress, row)

    try:
        trained = train(trial.task, cache, device, on_evaluation, on_step)
    except Pruned:
        return {"pruned": True, "used": _used(rows[-1])}
    return {"score": score(trained, trial.task.spec.protocol), "used": _used(rows[-1])}


def score(trained: TrainingResult, protocol: Protocol) -> float:
    """Return the monitored validation quantity of the selected evaluation."""
    return float(trained.history[trained.selected - 1][protocol.monitor])


def _used(row: dict[str, Any]) -> dict[str, Any]:
    return {key: row[key] for key in ("steps", "flops", "device_seconds", "seconds")}


def reporter(trial: TrialTask) -> OnEvaluation | None:
    """Return the callback that reports each evaluation to the pruner, by the share of the budget used, or None.

    To be made before memory is capped: Optuna's memory is not the method's.
    """
    if trial.storage is None:
        return None
    import optuna

    from .study import open_storage, pruner

    study = optuna.load_study(
        study_name=trial.study, storage=open_storage(trial.storage), pruner=pruner(trial.tuning)
    )  # fmt: skip
    live_trial = optuna.trial.Trial(study, trial.trial_id)
    protocol, fixed = trial.task.spec.protocol, trial.task.spec.budget.track is not None
    monitor = protocol.monitor
    # An attempt that was killed may have reported already. The pruner compares the last report of all: until this
    # attempt has come as far, it would decide on values that lie ahead.
    before = study._storage.get_trial(trial.trial_id).intermediate_values
    furthest = max(before, default=-1)

    def report(progress: float, row: dict[str, Any]) -> None:
        # By share of the budget where there is one, for a large bag may have passed two evaluations in one step.
        step = int(progress * protocol.evaluations) if fixed else int(row["epoch"])
        if step not in before:
            live_trial.report(float(row[monitor]), step=step)
        if step >= furthest and live_trial.should_prune():
            raise Pruned

    return report
