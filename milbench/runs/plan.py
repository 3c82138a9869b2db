"""From a suite to its runs and studies: the spec of each, and which of them are done."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from pydantic import ValidationError

from ..config import MOST_FOLDS, Budget, Published, Recipe, RunSpec, Suite, digest
from ..config.suites import field_code, load_suite, meaning, other_level, with_budget
from ..data.cohort import Cohort, load_cohort
from ..data.cohort_cache import Progress
from ..errors import MilbenchError, did_you_mean
from ..formatting.text import count
from ..registry import Method, add_import_folder, resolve
from ..tasks import CLASSIFICATION, task_named
from ..training.stacked import may_share, stacks
from ..training.task import TrainingTask
from .current_runs import age
from .records import MODEL, RunRecord, read_suite
from .run_tasks import RunTask, SharedTask
from .store import Store
from .tuning.search import StudySpec
from .tuning.study import import_optuna

Overwrite = Literal["missing", "failed", "all", "missing-models", "costs"]

#: Runs that share a process without being stacked, at most: those that a kill loses.
IN_TURN = 8


@dataclass(frozen=True)
class PlannedRun:
    """One run of the plan: its task, its method, and how it ended if it is done."""

    task: TrainingTask
    method: Method  # as the suite names it, whatever a search has set
    outcome: str | None = None
    tuned: dict[str, Any] | None = None  # `milbench.runs.tuning.search.StudyResult.record`
    work: float = 0.0  # parameters times training bags times epochs: the largest first
    stored: str | None = None  # the id it is stored under, which may be one of before the timeout left the hash
    stopped_s: float | None = None  # the timeout that stopped the stored run, where the plan allows more: made again

    @property
    def spec(self) -> RunSpec:
        """The fields that determine the run's predictions."""
        return self.task.spec

    def __str__(self) -> str:
        tuned = " tuned" if self.spec.tuning is not None else ""
        return f"{self.spec.data} {self.method.canonical}{tuned} fold {self.spec.fold} seed {self.spec.seed}"


@dataclass(frozen=True)
class Plan:
    """All runs of a suite against a results folder.

    Attributes:
        runs: with every method's own recipe.
        searches: one study a method and fold, where the suite is tuned; runs with what they find come after them.
        storage: of the studies.
        source: the suite as it was given, a name or a path.
        suite_methods: the suite's own methods by their canonical names; the runs may be of others.
        notes: sentences on what the suite says twice.
        own_budget: of the suite as it stands, where the command line gave another.
    """

    suite: Suite
    store: Store
    cohorts: tuple[Cohort, ...]
    runs: tuple[PlannedRun, ...]
    searches: tuple[StudySpec, ...] = ()
    storage: str = ""
    source: str = ""
    suite_methods: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    own_budget: Budget | None = None

    def todo(self, overwrite: Overwrite = "missing") -> list[PlannedRun]:
        """Return the runs to do: those never done, also those that did not end ``ok`` or kept no model, or all.

        With ``costs`` those never done: it is the measurements of cost that are made again.
        """
        if overwrite not in get_args(Overwrite):
            raise MilbenchError(
                f"overwrite is {overwrite!r}; it must be one of {', '.join(get_args(Overwrite))}.",
                code="option-bad-value",
            )
        if overwrite == "missing-models":
            return [planned for planned in self.runs if planned.outcome is None or self._lacks_model(planned)]
        if overwrite == "all":
            return list(self.runs)
        if overwrite == "failed":
            return [planned for planned in self.runs if planned.outcome != "ok"]
        return [planned for planned in self.runs if planned.outcome is None]

    def _lacks_model(self, planned: PlannedRun) -> bool:
        if self.suite.keep_models == "none":
            raise MilbenchError(
                f'suite {self.suite.name} keeps no models; set keep_models = "best" in it.', code="models-not-kept"
            )
        return planned.outcome == "ok" and not (self.store.runs / str(planned.stored) / MODEL).is_file()


class Finished:
    """The stored runs of a suite, by their spec: a run that differs in nothing but its timeout is the same."""

    def __init__(self, store: Store) -> None:
        self._store = store

    @cached_property
    def _runs(self) -> dict[str, list[RunRecord]]:
        runs: dict[str, list[RunRecord]] = {}
        for record in self._store.records():
            for run_id in {record.spec.run_id, record.path.name}:
                runs.setdefault(run_id, []).append(record)
            if record.spec.budget.timeout_s is not None and not record.spec.stacked:
                # Earlier versions stacked no run that had a timeout; its suite may ask for stacked runs all the same.
                stacked = record.spec.model_copy(update={"stacked": True})
                runs.setdefault(stacked.run_id, []).append(record)
        return runs

    def state(self, spec: RunSpec, other_names: Sequence[str] = ()) -> dict[str, Any]:
        """Return the fields ``outcome``, ``stored`` and ``stopped_s`` of a planned run with this spec.

        Args:
            spec: the run.
            other_names: of its method, by which an earlier version may have stored it.
        """
        named = [spec, *(spec.model_copy(update={"method": name}) for name in other_names)]
        runs_stored = next((runs for one in named if (runs := self._runs.get(one.run_id))), [])
        if not runs_stored:
            return {}
        best = min(runs_stored, key=lambda record: (record.outcome != "ok", record.path.name != spec.run_id))
        if (stopped := best.stopped_s(spec.budget.timeout_s)) is not None:
            return {"stored": best.path.name, "stopped_s": stopped}
        return {"stored": best.path.name, "outcome": best.outcome}


def make_plan(
    suite: str | Path | Suite,
    results: str | Path = "results/runs",
    *,
    methods: Sequence[str] | None = None,
    seeds: int | None = None,
    timeout_s: float | None = None,
    budget: Mapping[str, float] | None = None,
    storage: str | None = None,
    progress: Progress | None = None,
) -> Plan:
    """Resolve a suite into runs and read which are done; check everything, write only caches that are missing.

    Args:
        suite: name, path or the suite itself.
        results: root of the results folder.
        methods, seeds, timeout_s, budget: instead of the suite's.
        storage: of tuning trials.
        progress: called while features are imported.

    Raises:
        MilbenchError: something the user can correct, among it a suite that was changed under the same version.
    """
    source = "" if isinstance(suite, Suite) else str(suite)
    suite = suite if isinstance(suite, Suite) else load_suite(suite)
    for name, value in (("seeds", seeds), ("timeout_s", timeout_s)):
        if value is not None and value <= 0:
            raise MilbenchError(f"{name} is {value}; it must be positive.", code="option-bad-value")
    if seeds is not None and seeds > MOST_FOLDS:
        raise MilbenchError(f"seeds is {seeds}; there are at most {MOST_FOLDS}.", code="option-bad-value")
    if timeout_s is not None:
        budget = dict(budget or {}) | {"timeout_s": timeout_s}
    own_budget = suite.budget
    if budget:
        suite = with_budget(suite, budget)
    if any(":" in text.partition("[")[0] for text in (*suite.methods, *(methods or ()))):
        add_import_folder(suite.base)
    # The report, which knows no method, finds a figure's row by the method's one spelling.
    suite = suite.model_copy(update={"published": tuple(_of_one_spelling(f, suite.name) for f in suite.published)})
    store = Store(Path(results), suite)
    resolved, notes = _methods(methods or suite.methods)
    for method in resolved:
        method.card  # noqa: B018 - checked now, not when a run is to be published
    if suite.tuning is not None:
        import_optuna()
    own, _ = _methods(suite.methods)
    known = {name for m in [*resolved, *own] for name in (m.name, *m.other_names)}
    for where, named in (("", suite.recipes), *((f" of cohort {d.name}", d.recipes) for d in suite.data)):
        if unused := set(named) - known:
            hint = did_you_mean(min(unused), known)
            raise MilbenchError(
                f"suite {suite.name}: [recipes.{min(unused)}]{where} names no method of the suite.{hint}",
                code="method-unknown",
            )
    if suite.reference is not None and not _is_one_of(suite.reference, own):
        hint = did_you_mean(suite.reference, suite.methods)
        raise MilbenchError(
            f"suite {suite.name}: reference {suite.reference!r} is none of its methods.{hint}", code="method-unknown"
        )
    if suite.reference is not None:  # the report finds it by its one name, as it does the published figures
        store.suite = suite = suite.model_copy(update={"reference": resolve(suite.reference).canonical})
    recipes = {(d.name, m.canonical): _recipe(suite, m, d.recipes) for d in suite.data for m in resolved}
    _refuse_changed(store)  # after the checks above: a typing error is not reported as a change of the suite
    device, finished = _device(suite), Finished(store)
    cohorts = tuple(load_cohort(data, suite.base, progress) for data in suite.data)
    runs: list[PlannedRun] = []
    searches: list[StudySpec] = []
    for cohort in cohorts:
        store.cohort(cohort.name, cohort.fingerprint)  # refuses a name that is no folder's, before anything is written
        sizes = {m.canonical: m.size(cohort.cache().dim, len(cohort.classes)) for m in resolved}
        passes = {m.canonical: recipes[cohort.name, m.canonical].epochs * sizes[m.canonical] for m in resolved}
        # The expensive ones first: the last of them then does not keep a core waiting for its end.
        for method in sorted(resolved, key=lambda m: -passes[m.canonical]):
            for fold in cohort.folds:
                tasks = [
                    _task(suite, cohort, fold, method, recipes[cohort.name, method.canonical], seed, device)
                    for seed in range(seeds or suite.seeds)
                ]
                work = float(passes[method.canonical] * len(fold.train))
                runs += [
                    PlannedRun(task, method, work=work, **finished.state(task.spec, method.other_names))
                    for task in tasks
                ]
                if suite.tuning is not None:
                    if not fold.val:
                        raise MilbenchError(
                            f"fold {fold.name} of {cohort.name} has no validation slides to tune on: set val_fraction "
                            "in the split, or leave out [tuning].",
                            code="split-no-validation",
                        )
                    assert suite.budget.trials is not None
                    searches.append(StudySpec(replace(tasks[0], test=()), method, suite.tuning, suite.budget.trials))
    return Plan(
        suite,
        store,
        cohorts,
        tuple(runs),
        tuple(searches),
        storage or str(store.tuning / "journal.log"),
        source,
        tuple(method.canonical for method in own),
        notes,
        own_budget,
    )


def refuse_damaged(plan: Plan, todo: Sequence[PlannedRun]) -> None:
    """Refuse finished runs whose files are not as they were written: no table could be made of them.

    Args:
        plan: all runs.
        todo: those of them that are made anew.

    Raises:
        MilbenchError: the first of them, with its fix, and how many more there are.
    """
    kept = {planned.stored for planned in plan.runs} - {planned.stored for planned in todo}
    damages = [
        sentence
        for record in plan.store.records()
        if record.path.name in kept and (sentence := record.damage()) is not None
    ]
    if damages:
        more = (
            f" {count(len(damages) - 1, 'more run')} of it damaged too: milbench verify names all."
            if damages[1:]
            else ""
        )
        raise MilbenchError(f"{damages[0]}{more}", code="store-damaged")


def unused(plan: Plan) -> list[str]:
    """Return a line on every kind of finished run that the plan makes anew, with the fields that differ."""
    stored = {
        (record.spec.data, record.method, record.spec.fold, record.spec.seed): record.spec
        for record in sorted(plan.store.records(), key=age)
        if record.outcome == "ok" and record.spec.tuning is None
    }
    lines: Counter[str] = Counter()
    for planned in plan.runs:
        spec, method = planned.spec, planned.method.canonical
        then = stored.get((spec.data, method, spec.fold, spec.seed))
        if planned.stopped_s is not None:
            lines[f"made again, as a timeout of {planned.stopped_s:g} s stopped it, and now more is allowed"] += 1
        elif planned.stored is None and then is not None:
            lines[f"of {method} not used: {_difference(then, spec)}"] += 1
    return [f"{count(number, 'finished run')} {why}." for why, number in lines.items()]


def _difference(then: RunSpec, now: RunSpec) -> str:
    """Return ``recipe.lr was 0.1 and is 0.2``, for all fields that differ."""
    parts = []
    named = {"fingerprint": "features, labels or folds differ", "code": "the method's code differs",
             "protocol_version": "an earlier version of the protocol"}  # fmt: skip
    before, after = then.model_dump(mode="json"), now.model_dump(mode="json")
    before["budget"]["timeout_s"] = after["budget"]["timeout_s"]
    for name, value in after.items():
        old = before[name]
        if old == value:
            continue
        if name in named:
            parts.append(named[name])
        elif isinstance(old, dict) and isinstance(value, dict):
            keys = [key for key in {**old, **value} if old.get(key) != value.get(key)]
            parts += [f"{name}.{key} was {old.get(key)!r} and is {value.get(key)!r}" for key in keys]
        else:
            parts.append(f"{name} was {old!r} and is {value!r}")
    return ", ".join(parts)


def together(todo: Sequence[PlannedRun], most: int) -> list[list[PlannedRun]]:
    """Part runs into those that one process carries out: of one cohort, method, its parameters, and recipe.

    At most `most` in a stack, and at most `IN_TURN` of those that follow each other, as results arrive all at once.
    What a budget limits needs a process by itself. The order stays that of each part's first run; but where parts are
    many runs and take minutes, the longest come first, so that none of them keeps a core waiting in the end.
    """
    groups: dict[Any, list[PlannedRun]] = {}
    for planned in todo:
        spec = planned.spec
        if most == 1 or not may_share(spec.budget):
            groups[spec.run_id] = [planned]
            continue
        # All but what may differ between them; a study may have set the parameters.
        group_key = digest(spec.model_dump(mode="json", exclude={"fold", "seed"}))
        groups.setdefault((planned.task.method, group_key, len(planned.task.train)), []).append(planned)
    sizes = {key: most if group[0].spec.stacked else min(most, IN_TURN) for key, group in groups.items()}
    parts = [group[i : i + sizes[key]] for key, group in groups.items() for i in range(0, len(group), sizes[key])]
    return parts if most == 1 else sorted(parts, key=lambda part: -sum(planned.work for planned in part))


def to_task(group: Sequence[PlannedRun], most: int) -> RunTask | SharedTask:
    """Return the one task that carries out a group of `together`."""
    # One that is left over of its group as well: its record must not depend on the number of others.
    spec = group[0].spec
    shared = most > 1 and (spec.stacked or may_share(spec.budget))
    return SharedTask(tuple(planned.task for planned in group)) if shared else RunTask(group[0].task)


def _refuse_changed(store: Store) -> None:
    """Refuse a suite that says something else than the one whose results are there under the same name and version."""
    if not any(store.runs.glob("[!.]*/run.json")):
        return
    try:
        before, now = meaning(read_suite(store.folder)), meaning(store.suite)
    except MilbenchError:  # missing or damaged: it is written again, and each run says what it was
        return
    changed = [field for field in now if now[field] != before[field]]
    if changed:
        raise MilbenchError(
            f"suite {store.suite.name} version {store.suite.version} is not the one that {store.folder} holds results "
            f"of ({', '.join(changed)} changed); raise its version or use another --results.",
            code="suite-changed",
        )


def _of_one_spelling(figure: Published, suite: str) -> Published:
    try:
        return figure.model_copy(update={"method": resolve(figure.method).canonical})
    except MilbenchError as error:
        raise MilbenchError(f"suite {suite}: in [[published]], {error}", code=error.code) from None


def _methods(texts: Sequence[str]) -> tuple[list[Method], tuple[str, ...]]:
    """Return the methods that some texts name, each once, and a sentence on every one that is named more than once."""
    resolved: dict[str, Method] = {}
    named: dict[str, list[str]] = {}
    for text in texts:
        method = resolve(text)
        resolved.setdefault(method.canonical, method)
        named.setdefault(method.canonical, []).append(text.strip())
    notes = tuple(
        f"{' and '.join(dict.fromkeys(own))} are one method, {name}; it is run once."
        if len(set(own)) > 1
        else f"{own[0]} is named {len(own)} times; it is run once."
        for name, own in named.items()
        if len(own) > 1
    )
    return list(resolved.values()), notes


def _is_one_of(text: str, methods: Sequence[Method]) -> bool:
    """Whether a text is a spelling of one of some methods."""
    try:
        return resolve(text).canonical in {method.canonical for method in methods}
    except MilbenchError:
        return False


def _recipe(suite: Suite, method: Method, on_cohort: Mapping[str, dict[str, Any]]) -> Recipe:
    own = method.cls.recipe.model_dump()
    named: dict[str, Any] = {}
    for recipes in (suite.recipes, on_cohort):
        for name in (*method.other_names, method.name):
            named |= recipes.get(name, {})
    try:
        return Recipe.model_validate(own | suite.recipe | named)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        table = f"recipes.{method.name}" if field.split(".")[0] in named else "recipe"
        hint = ""
        if first["type"] == "extra_forbidden":
            hint = other_level(field) or did_you_mean(field, Recipe.model_fields)
        raise MilbenchError(
            f"suite {suite.name}: {table}.{field}: {first['msg']}.{hint}", code=field_code(first["type"])
        ) from None


def _may_stack(method: Method) -> bool:
    """Whether trainings of a method may be stacked: it says so, and has no hook that concerns one model alone."""
    return method.cls.stackable and not any(map(method.cls.has_own, ("reset", "after_step")))


def _task(
    suite: Suite, cohort: Cohort, fold: Any, method: Method, recipe: Recipe, seed: int, device: str
) -> TrainingTask:
    if not fold.val:
        if suite.protocol.checkpoint == "best-val":
            raise MilbenchError(
                f"fold {fold.name} of {cohort.name} has no validation slides, but the suite selects on validation: "
                'set checkpoint = "last" in [protocol], or val_fraction in the split.',
                code="split-no-validation",
            )
        if recipe.schedule == "plateau":
            raise MilbenchError(
                f"fold {fold.name} of {cohort.name} has no validation slides, but the learning rate of {method.name} "
                'follows them: set another schedule than "plateau" in [recipe], or val_fraction in the split.',
                code="split-no-validation",
            )
        recipe = recipe.model_copy(update={"patience": None})  # nothing to wait for
    target_task = task_named(cohort.task)
    target_task.monitor(suite.protocol.monitor)
    target_task.refuse_recipe(recipe)
    spec = RunSpec(
        suite=suite.name,
        suite_version=suite.version,
        data=cohort.name,
        fingerprint=cohort.fingerprint,
        method=method.name,
        params=method.options,
        code=method.code,
        recipe=recipe,
        protocol=suite.protocol,
        budget=suite.budget.model_copy(update={"trials": None}),  # a matter of tuning
        fold=fold.name,
        seed=seed,
        threads=suite.threads,
        stacked=suite.stacked > 1 and target_task.has_classes and _may_stack(method) and stacks(recipe, suite.budget),
        device_type=device,
        task=cohort.task,
    )
    known = cohort.labels
    return TrainingTask(
        spec=spec,
        method=method.canonical,
        cache_path=str(cohort.cache_path),
        n_classes=target_task.n_outputs(cohort.classes),
        train=tuple((s, known[s]) for s in fold.train),
        val=tuple((s, known[s]) for s in fold.val),
        test=tuple(fold.test),
        model_classes=tuple(cohort.classes) if suite.keep_models == "best" and cohort.task == CLASSIFICATION else None,
    )


def _device(suite: Suite) -> str:
    available = torch.cuda.is_available()
    if suite.device == "cuda" and not available:
        raise MilbenchError(
            f'suite {suite.name} asks for CUDA, but torch sees no CUDA device here: set device = "auto".',
            code="device-missing",
        )
    return "cuda" if available and suite.device != "cpu" else "cpu"


def usable_jobs(suite: Suite) -> int:
    """Return how many runs may go side by side here at the suite's threads a run; one on CUDA."""
    if _device(suite) == "cuda":
        return 1
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, usable // suite.threads)
