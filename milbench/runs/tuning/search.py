"""Hyperparameter search under matched budgets: Optuna proposes, milbench's one training loop runs the trials.

A study belongs to one method on one fold of one cohort. A trial is a training in a fresh process, like a run, with the
labels of that fold's training and validation slides and without its test slides, of which it does not even know the
names. Trials of one study follow one another, so that a search depends on its seed alone; studies go side by side.
Every trial whose parameters were drawn counts, however it ended. One that was killed under way is taken up again, with
its parameters, when the command is given again.
"""

from __future__ import annotations

import hashlib
import math
import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from ...config import Budget, Choice, Dimension, Recipe, Tuned, Tuning, digest
from ...errors import MilbenchError
from ...registry import Method, unreadable
from ...training.stacked import stacks
from ...training.task import TrainingTask
from ..claims import Claims
from ..launchers.base import CLAIM_S, Launcher, Outcome, start
from ..launchers.local import LocalLauncher
from ..worker import work
from .study import distribution, ended_ok, has_ended, import_optuna, open_storage, pruner, sampler
from .trial import TrialTask

if TYPE_CHECKING:
    import optuna


@dataclass(frozen=True)
class StudySpec:
    """One study to be made: a method on a fold.

    Attributes:
        task: of a training with the suite's recipe; it holds no test slide.
        method: as the suite names it.
        tuning: how it is searched.
        trials: how often.
    """

    task: TrainingTask
    method: Method
    tuning: Tuning
    trials: int

    @property
    def space(self) -> dict[str, Dimension]:
        """Return every dimension that is searched: those shared by all methods, then the method's own.

        A method's own range of a shared dimension does not count: the rule is one for all. Parameters that the suite
        has set to other than their defaults (``transmil[layers=1]``) are not searched.
        """
        own = self.method.cls.search_space
        searched = {name for name in own if name not in self.tuning.space and name not in self.method.params}
        return dict(self.tuning.space) | {name: own[name] for name in own if name in searched}

    @property
    def name(self) -> str:
        """Return the study's name: readable, and different for everything that decides what a trial finds."""
        spec = self.task.spec
        of_spec = spec.identity()
        for name in ("seed", "stacked"):
            of_spec.pop(name, None)
        of_spec["budget"].pop("timeout_s")
        identity = of_spec | {
            "tuning": self.tuning.identity(),
            "space": {name: [type(d).__name__, d.identity()] for name, d in self.space.items()},
        }
        return f"{spec.data}/{self.method.canonical}/{spec.fold}/{digest(identity)}"

    @property
    def tuned(self) -> Tuned:
        """Return what runs with the study's result say of it."""
        return Tuned(**self.tuning.model_dump(), trials=self.trials)

    def check(self) -> None:
        """Make sure that every value that may be drawn reaches its trial, so that no trial fails for its name.

        Raises:
            MilbenchError: an option that a method's name does not give back, or that the method does not take.
        """
        for name, dimension in self.space.items():
            if name in Recipe.model_fields:
                continue
            ends = dimension.options if isinstance(dimension, Choice) else (dimension.low, dimension.high)
            for value in ends:
                if (problem := unreadable(self.method, name, value)) is not None:
                    raise MilbenchError(
                        f"the search space of {self.method.name} cannot be searched: {problem}.",
                        code="tuning-bad-space",
                    )

    @property
    def file_name(self) -> str:
        """Return a name for the study's figures; one that had to be shortened ends in digits of the study's own."""
        plain = re.sub(r"[^A-Za-z0-9=.-]+", "_", str(self)).lstrip(".") or "study"
        return plain if len(plain) <= 150 else f"{plain[:130]}-{digest(self.name)}"

    def __str__(self) -> str:
        return f"{self.task.spec.data} {self.method.canonical} fold {self.task.spec.fold}"


@dataclass(frozen=True)
class Trial:
    """How one trial ended, for a progress display."""

    search: StudySpec
    number: int
    outcome: str
    reason: str


@dataclass(frozen=True)
class StudyResult:
    """The result of a study.

    Attributes:
        best: parameters of the best trial; None where none ended ``ok``.
        value: its validation loss (nats), AUC or what else the protocol's monitor says.
        number: which trial it was, from 0.
        outcomes: how the trials ended: ``ok``, ``pruned``, or an outcome of a run.
        reason: of the last one that did not end ``ok``.
        used: summed over all trials: ``steps``, ``flops``, ``device_seconds``, ``seconds``.
    """

    best: dict[str, Any] | None
    value: float
    number: int
    outcomes: Counter[str] = field(default_factory=Counter)
    reason: str = ""
    used: dict[str, float] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        """Return what a tuned run records of its study."""
        return {
            "trial": self.number, "value": self.value, "params": self.best, "outcomes": dict(self.outcomes),
            "trials": self.outcomes.total(), "used": self.used,
        }  # fmt: skip


def search_all(
    searches: Sequence[StudySpec],
    storage: str,
    *,
    jobs: int,
    timeout_s: float | None = None,
    on_trial: Callable[[Trial], None] | None = None,
    on_begin: Callable[[StudySpec, int], str] | None = None,
    claims: Claims | None = None,
    launcher: type[Launcher] = LocalLauncher,
) -> dict[str, StudyResult]:
    """Carry out the missing trials of some studies and return the result of each, by its name.

    A study is claimed while one of its trials is made: several processes may search the same studies, with the draws
    of one. A trial that is under way without a claim was interrupted.

    Args:
        searches: the studies.
        storage: where trials are kept: the path of a journal file, or any storage URL of Optuna.
        jobs: trials side by side, of different studies.
        timeout_s: wall seconds a trial may take.
        on_trial: called after every trial of this process.
        on_begin: called before every trial with study and number; returns where it writes how far it is.
        claims: of the storage; None: no other process uses it.
        launcher: executes the trials.

    Raises:
        MilbenchError: Optuna is not installed, or the storage cannot be opened.
    """
    for search in searches:
        search.check()
    opened = [_Study(search, open_storage(storage), storage) for search in searches]
    under_way: dict[Future[Outcome], tuple[_Study, optuna.trial.Trial, TrialTask]] = {}
    with start(launcher, work, jobs, timeout_s) as place:
        while _left(opened) or under_way:
            while place.free and (study := _claimed(opened, claims)) is not None:
                trial, task = study.begin(on_begin)
                under_way[place.submit(task)] = study, trial, task
            others = place.free > 0 and any(not study.busy for study in _left(opened))  # claimed by other processes
            if not under_way:
                time.sleep(CLAIM_S)
                continue
            if (ended := place.wait(CLAIM_S if others else None)) is None:
                continue
            study, trial, task = under_way.pop(ended)
            study.busy, result = False, ended.result()
            if result.outcome == "oom" and (in_parts := smaller(task.task)) is not None:
                # Without the pruner, which would compare it with what the attempt before has reported.
                study.again = trial, replace(task, task=in_parts, storage=None)
                continue
            outcome, reason = study.tell(trial, result)
            if claims is not None:
                claims.release(study.key)
            if on_trial is not None:
                on_trial(Trial(study.search, trial.number, outcome, reason))
    return {study.search.name: study.result() for study in opened}


def progress(searches: Sequence[StudySpec], storage: str) -> dict[str, int]:
    """Return how many trials of each study have ended, by its name; creates nothing."""
    if not searches or ("://" not in storage and not Path(storage).exists()):
        return {search.name: 0 for search in searches}
    optuna = import_optuna()
    kept = open_storage(storage)
    known = set(optuna.get_all_study_names(kept))
    return {
        search.name: sum(has_ended(t) for t in optuna.load_study(study_name=search.name, storage=kept).trials)
        if search.name in known
        else 0
        for search in searches
    }


def tuned_task(search: StudySpec, study: StudyResult, task: TrainingTask) -> TrainingTask:
    """Return a task like `task` with the best recipe and parameters of a study."""
    return _with(search, task, study.best or {}, search.tuned)


def _with(search: StudySpec, task: TrainingTask, values: dict[str, Any], tuned: Tuned | None = None) -> TrainingTask:
    of_recipe = {name: value for name, value in values.items() if name in Recipe.model_fields}
    of_method = {name: value for name, value in values.items() if name not in of_recipe}
    try:
        recipe = Recipe.model_validate(task.spec.recipe.model_dump() | of_recipe)
    except ValidationError as error:
        raise MilbenchError(
            f"{search}: a recipe with {of_recipe} is none: {error.errors()[0]['msg']}.", code="tuning-bad-space"
        ) from None
    method = search.method.changed(of_method)
    # A search may set what no stacked training does: clipped gradients, say, or a schedule that follows validation.
    stacked = task.spec.stacked and stacks(recipe, task.spec.budget)
    changed = {"recipe": recipe, "params": method.options, "tuning": tuned, "stacked": stacked}
    spec = task.spec.model_copy(update=changed)
    return replace(task, spec=spec, method=method.canonical)


def smaller(task: TrainingTask) -> TrainingTask | None:
    """Return the task that takes the place of one that did not fit, where its budget has a fallback not yet used."""
    budget = task.spec.budget
    if budget.on_oom != "subsample" or task.max_instances is not None:
        return None
    return replace(task, max_instances=budget.max_instances)


def _shared(budget: Budget, recipe: Recipe, share: float) -> tuple[Budget, Recipe]:
    """Return the budget and recipe of a trial that may use a share of a run's."""
    track = budget.track
    if track is None:
        return budget, recipe.model_copy(update={"epochs": max(1, math.ceil(recipe.epochs * share))})
    allowed = getattr(budget, track) * share
    part = allowed if track == "device_seconds" else max(1, round(allowed))
    return budget.model_copy(update={track: part}), recipe


class _Study:
    """An Optuna study, and which of its trials count."""

    def __init__(self, search: StudySpec, storage: optuna.storages.BaseStorage, where: str) -> None:
        from_optuna = import_optuna()
        self.search, self.where = search, where
        self.monitor = search.task.target_task.monitor(search.task.spec.protocol.monitor)
        self.study = from_optuna.create_study(
            study_name=search.name, storage=storage,
            direction="maximize" if self.monitor.higher_is_better else "minimize",
            sampler=from_optuna.samplers.RandomSampler(seed=0), pruner=pruner(search.tuning), load_if_exists=True,
        )  # fmt: skip
        self.busy = False
        self.again: tuple[optuna.trial.Trial, TrialTask] | None = None  # in less memory, see `Budget.on_oom`

    @property
    def key(self) -> str:
        """Return what a claim to make a trial of the study is named."""
        return digest(self.search.name)

    @property
    def left(self) -> int:
        """Return how many trials are still to be made."""
        return max(0, self.search.trials - sum(map(has_ended, self.study.get_trials(deepcopy=False))))

    def ask(self) -> tuple[optuna.trial.Trial, TrialTask]:
        """Return a trial to be made, one that was interrupted or a new one, and what its process is to do."""
        optuna = import_optuna()
        counted = 0
        for frozen in self.study.get_trials(deepcopy=False):
            complete = set(frozen.params) == set(self.search.space)
            if frozen.state == optuna.trial.TrialState.RUNNING and complete:
                return self._with_task(optuna.trial.Trial(self.study, frozen._trial_id))
            if frozen.state == optuna.trial.TrialState.RUNNING:
                # Killed between its first parameter and its last: it was never begun, and is none of the trials.
                self.study.tell(frozen.number, state=optuna.trial.TrialState.FAIL)
            counted += complete
        # A sampler of its own for every trial, so that an interruption does not change what is drawn.
        self.study.sampler = sampler(self.search.tuning, derived(self.search, counted))
        fixed = {name: distribution(dimension) for name, dimension in self.search.space.items()}
        return self._with_task(self.study.ask(fixed_distributions=fixed))

    def begin(self, on_begin: Callable[[StudySpec, int], str] | None) -> tuple[optuna.trial.Trial, TrialTask]:
        """Return the next trial and its task: one that is to be made again on parts of bags, or that of `ask`."""
        self.busy = True
        trial, task = self.again or self.ask()
        self.again = None
        if on_begin is not None:
            task = replace(task, task=replace(task.task, live=on_begin(self.search, trial.number)))
        return trial, task

    def _with_task(self, trial: optuna.trial.Trial) -> tuple[optuna.trial.Trial, TrialTask]:
        search = self.search
        task = _with(search, search.task, {k: _value(search.space[k], v) for k, v in trial.params.items()})
        budget, recipe = _shared(task.spec.budget, task.spec.recipe, search.tuning.share)
        spec = task.spec.model_copy(update={"budget": budget, "recipe": recipe, "seed": search.tuning.seed})
        pruned = self.where if search.tuning.pruner != "none" else None
        return trial, TrialTask(replace(task, spec=spec), search.tuning, pruned, search.name, trial._trial_id)

    def tell(self, trial: optuna.trial.Trial, result: Outcome) -> tuple[str, str]:
        """Record how a trial ended; return its outcome and reason.

        A trial that another machine, whose claims are not seen here, has ended meanwhile stays as that one recorded it.
        """
        optuna = import_optuna()
        state = optuna.trial.TrialState
        value: dict[str, Any] = result.value or {}
        outcome = "pruned" if value.get("pruned") else result.outcome
        score = float(value.get("score", math.nan))
        reason = result.reason
        if outcome == "ok" and math.isnan(score):
            outcome, reason = (
                "failed",
                f"its {self.search.task.spec.protocol.monitor} is undefined on the validation slides",
            )
        ended = {"ok": state.COMPLETE, "pruned": state.PRUNED}.get(outcome, state.FAIL)
        try:
            for key, what in {"outcome": outcome, "reason": reason, "used": value.get("used", {})}.items():
                trial.set_user_attr(key, what)
            self.study.tell(trial, score if outcome == "ok" else None, state=ended, skip_if_finished=True)
        except optuna.exceptions.UpdateFinishedTrialError:
            recorded = self.study._storage.get_trial(trial._trial_id).user_attrs
            return str(recorded.get("outcome", outcome)), str(recorded.get("reason", reason))
        return outcome, reason

    def result(self) -> StudyResult:
        """Return what the trials that have ended show: the first ones, as many as every method gets."""
        trials = [t for t in self.study.get_trials(deepcopy=False) if has_ended(t)][: self.search.trials]
        outcomes = Counter(str(t.user_attrs.get("outcome", "failed")) for t in trials)
        bad = [
            str(t.user_attrs.get("reason", "")) for t in trials if t.user_attrs.get("outcome") not in ("ok", "pruned")
        ]
        used: Counter[str] = Counter()
        for trial in trials:
            used.update({key: float(v) for key, v in trial.user_attrs.get("used", {}).items() if v is not None})
        done = [t for t in trials if ended_ok(t)]
        if not done:
            return StudyResult(None, math.nan, -1, outcomes, bad[-1] if bad else "", dict(used))
        best = min(done, key=lambda t: (self.monitor.to_minimise(t.value), t.number))
        space = self.search.space
        values = {name: _value(space[name], v) for name, v in best.params.items()}
        # Its place among the trials that count, which one that was never begun does not shift.
        return StudyResult(values, float(best.value), trials.index(best), outcomes, bad[-1] if bad else "", dict(used))


def _left(studies: Sequence[_Study]) -> list[_Study]:
    """Return the studies of which trials are still to be made or under way."""
    return [study for study in studies if study.left]


def _claimed(studies: Sequence[_Study], claims: Claims | None) -> _Study | None:
    """Return a study with a trial to make and none under way, which this process has claimed; None where none is free.

    The one of which most trials are left comes first, so that all of them advance together.
    """
    left = {study.search.name: study.left for study in studies}
    ready = [study for study in studies if not study.busy and left[study.search.name]]
    for study in sorted(ready, key=lambda study: -left[study.search.name]):
        if claims is None:
            return study
        if not claims.take(study.key):
            continue
        if study.left:
            return study
        claims.release(study.key)  # another process made the last one meanwhile
    return None


def derived(search: StudySpec, index: int) -> int:
    """Return the seed of the sampler of a study's trial."""
    text = f"{search.tuning.seed}/{search.name}/{index}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")


def _value(dimension: Dimension, drawn: Any) -> Any:
    return dimension.options[int(drawn)] if isinstance(dimension, Choice) else drawn
