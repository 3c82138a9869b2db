"""From a suite to results: plan every run, see what is missing, run each in a fresh process, publish it whole."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from pydantic import ValidationError

from . import __version__
from .cost import CostTask, Kind
from .data.cohort import Cohort, load_cohort, write_cohort
from .errors import MilbenchError, did_you_mean
from .launch.local import Progress, Result, run_all
from .measure.environment import environment, fingerprint
from .registry import Method, resolve
from .spec import PROTOCOL_VERSION, Recipe, RunSpec, Suite, digest
from .store import RunRecord, Store, read_runs, read_suite
from .suites import load_suite
from .train import Task
from .worker import work

Overwrite = Literal["missing", "failed", "all"]


@dataclass(frozen=True)
class Planned:
    """One run of the plan: its task, its method, and how it ended if it is done."""

    task: Task
    method: Method
    outcome: str | None = None

    @property
    def spec(self) -> RunSpec:
        """What decides the run's predictions."""
        return self.task.spec

    def __str__(self) -> str:
        return f"{self.spec.data} {self.method.canonical} fold {self.spec.fold} seed {self.spec.seed}"


@dataclass(frozen=True)
class Plan:
    """All runs of a suite against a results folder."""

    suite: Suite
    store: Store
    cohorts: tuple[Cohort, ...]
    runs: tuple[Planned, ...]

    def todo(self, overwrite: Overwrite = "missing") -> list[Planned]:
        """Return the runs to do: those never done, those that did not end ``ok``, or all."""
        if overwrite not in get_args(Overwrite):
            raise MilbenchError(f"overwrite is {overwrite!r}; it must be one of {', '.join(get_args(Overwrite))}.")
        wanted = {"missing": lambda o: o is None, "failed": lambda o: o != "ok", "all": lambda o: True}[overwrite]
        return [planned for planned in self.runs if wanted(planned.outcome)]


def run(
    suite: str | Path | Suite,
    results: str | Path = "results/runs",
    *,
    methods: Sequence[str] | None = None,
    seeds: int | None = None,
    jobs: int | None = None,
    overwrite: Overwrite = "missing",
    timeout_s: float | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> list[RunRecord]:
    """Run what is missing of a suite and return the records of all its runs.

    Args:
        suite: a built-in suite's name, the path of a TOML file, or a Suite.
        results: the results root; finished runs there are kept and not run again.
        methods: run these methods instead of the suite's.
        seeds: run seeds 0 .. seeds - 1 instead of the suite's number.
        jobs: runs side by side; None: as many as the usable cores allow at the suite's threads a run, one on CUDA.
        overwrite: also run again those that ended otherwise than ``ok`` (``failed``), or everything (``all``).
        timeout_s: wall seconds a run may take; replaces the suite's.
        on_progress: called after every run.

    Raises:
        MilbenchError: something the user can mend; nothing has run then.
    """
    plan = make_plan(suite, results, methods=methods, seeds=seeds, timeout_s=timeout_s)
    return execute(plan, jobs=jobs, overwrite=overwrite, on_progress=on_progress)


def make_plan(
    suite: str | Path | Suite,
    results: str | Path = "results/runs",
    *,
    methods: Sequence[str] | None = None,
    seeds: int | None = None,
    timeout_s: float | None = None,
) -> Plan:
    """Resolve a suite into runs and look up which are done; checks everything, writes only built-in datasets.

    Raises:
        MilbenchError: something the user can mend, among it a suite that was changed under the same version.
    """
    suite = suite if isinstance(suite, Suite) else load_suite(suite)
    for name, value in (("seeds", seeds), ("timeout_s", timeout_s)):
        if value is not None and value <= 0:
            raise MilbenchError(f"{name} is {value}; it must be positive.")
    if timeout_s is not None:
        suite = suite.model_copy(update={"budget": suite.budget.model_copy(update={"timeout_s": timeout_s})})
    store = Store(Path(results), suite)
    _refuse_changed(store)
    resolved = _methods(methods or suite.methods)
    unused = set(suite.recipes) - {m.name for m in [*resolved, *_methods(suite.methods)]}
    if unused:
        hint = did_you_mean(min(unused), {m.name for m in resolved})
        raise MilbenchError(f"suite {suite.name}: [recipes.{min(unused)}] names no method of the suite.{hint}")
    recipes = {m.canonical: _recipe(suite, m) for m in resolved}
    device = _device(suite)
    cohorts = tuple(load_cohort(data, suite.base) for data in suite.data)
    runs: list[Planned] = []
    for cohort in cohorts:
        store.cohort(cohort.name, cohort.fingerprint)  # refuses a name that is no folder's, before anything is written
        sizes = {m.canonical: m.size(cohort.cache().dim, len(cohort.classes)) for m in resolved}
        # The expensive ones first: the last of them then does not keep a core waiting for its end.
        for method in sorted(resolved, key=lambda m: -sizes[m.canonical]):
            for fold in cohort.folds:
                for seed in range(seeds or suite.seeds):
                    task = _task(suite, cohort, fold, method, recipes[method.canonical], seed, device)
                    runs.append(Planned(task, method, store.has(task.spec.run_id)))
    return Plan(suite, store, cohorts, tuple(runs))


def execute(
    plan: Plan,
    *,
    jobs: int | None = None,
    overwrite: Overwrite = "missing",
    on_progress: Callable[[Progress], None] | None = None,
) -> list[RunRecord]:
    """Carry out a plan; see `run`."""
    if jobs is not None and jobs < 1:
        raise MilbenchError(f"jobs is {jobs}; at least one run must go at a time.")
    store, todo = plan.store, plan.todo(overwrite)
    store.prepare()
    for cohort in plan.cohorts:
        write_cohort(cohort, store.cohort(cohort.name, cohort.fingerprint))
    jobs = jobs or _jobs(plan.suite)
    costs = list(_cost_tasks(plan, overwrite)) if plan.suite.cost else []
    total, done = len(todo) + len(costs), 0

    def report(what: str, outcome: str, reason: str) -> None:
        nonlocal done
        done += 1
        if on_progress is not None:
            on_progress(Progress(done, total, what, outcome, reason))

    timeout = plan.suite.budget.timeout_s
    # Closed, not only left: after an error or Ctrl-C here the runs that still go on are ended.
    with closing(run_all(work, ((p, p.task) for p in todo), jobs, timeout)) as results:
        for planned, result in results:
            _publish(store, planned, result, replace_old=planned.outcome is not None)
            report(str(planned), result.outcome, result.reason)
    # Cost is measured one process at a time, when nothing of ours is running.
    for cost in costs:
        outcome, reason = _measure_cost(store, cost, timeout)
        report(f"{cost.record['data']} {cost.record['method_canonical']} cost", outcome, reason)
    ids = {planned.spec.run_id for planned in plan.runs}
    return [record for record in read_runs(store.root) if record.spec.run_id in ids]


def _publish(store: Store, planned: Planned, result: Result, replace_old: bool) -> None:
    card = planned.method.cls.card
    value: dict[str, Any] = result.value or {}
    record = {
        "spec": planned.spec.model_dump(mode="json"),
        "method_canonical": planned.method.canonical,
        "title": card.title,
        "family": card.family,
        "outcome": result.outcome,
        "reason": result.reason,
        "milbench_version": __version__,
        "finished": _now(),
        **value.get("record", {}),
    }
    record.setdefault("environment", _here())
    store.publish_run(
        planned.spec.run_id, record, value.get("predictions"), value.get("history"), overwrite=replace_old
    )


@dataclass(frozen=True)
class _Cost:
    cost_id: str
    record: dict[str, Any]
    task: CostTask
    exists: bool


def _cost_tasks(plan: Plan, overwrite: Overwrite) -> Iterator[_Cost]:
    """One measurement a cohort and method, on the first fold, in this environment."""
    # As the measuring process will see itself, however many threads this one has.
    here = environment()
    here["numerics"]["threads"] = plan.suite.threads
    seen: set[str] = set()
    for planned in plan.runs:
        spec, task = planned.spec, planned.task
        record = {
            "suite": spec.suite,
            "suite_version": spec.suite_version,
            "data": spec.data,
            "fingerprint": spec.fingerprint,
            "method_canonical": planned.method.canonical,
            "params": spec.params,
            "code": spec.code,
            "recipe": spec.recipe.model_dump(mode="json"),
            "threads": spec.threads,
            "device_type": spec.device_type,
        }
        cost_id = digest(record | {"environment": fingerprint(here), "protocol_version": PROTOCOL_VERSION})
        if cost_id in seen:
            continue
        seen.add(cost_id)
        outcome = plan.store.has_cost(cost_id)
        if outcome is None or overwrite == "all" or (overwrite == "failed" and outcome != "ok"):
            cost = CostTask("time", task.method, spec.recipe, task.cache_path, task.n_classes, task.train, task.test,
                            spec.threads, spec.device_type)  # fmt: skip
            yield _Cost(cost_id, record, cost, outcome is not None)


def _measure_cost(store: Store, cost: _Cost, timeout_s: float | None) -> tuple[str, str]:
    record = dict(cost.record)
    outcome, reason = "ok", ""
    # A process's own peak does not depend on its neighbours: the two memory passes go side by side, time goes alone.
    rounds: tuple[tuple[Kind, ...], ...] = (("infer_memory", "train_memory"), ("time",))
    for kinds in rounds:
        jobs = 1 if cost.task.device_type == "cuda" else len(kinds)
        results = dict(run_all(work, [(kind, replace(cost.task, kind=kind)) for kind in kinds], jobs, timeout_s))
        for kind in kinds:
            result = results[kind]
            if result.outcome == "ok":
                record |= result.value
            elif outcome == "ok":
                outcome, reason = result.outcome, f"{kind}: {result.reason}"
                record |= (result.value or {}).get("record", {})
        if outcome != "ok":
            break
    if outcome == "ok":
        record["memory"] = {
            "infer_peak_bytes": record["infer_memory"]["peak_bytes"],
            "train_peak_bytes": record["train_memory"]["peak_bytes"],
        }
    record.setdefault("environment", _here())
    record["finished"] = _now()
    store.publish_cost(cost.cost_id, record | {"outcome": outcome, "reason": reason}, overwrite=cost.exists)
    return outcome, reason


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _here() -> dict[str, Any]:
    """The machine, for a run whose process left no record of its own; without what says that timings are comparable."""
    return {key: value for key, value in environment().items() if key != "fingerprint"}


def _refuse_changed(store: Store) -> None:
    """Refuse a suite that says something else than the one whose results are there under the same name and version."""
    if not any(store.runs.glob("[!.]*/run.json")):
        return
    try:
        before, now = _meaning(read_suite(store.folder)), _meaning(store.suite)
    except MilbenchError:  # missing or damaged: it is written again, and each run says what it was
        return
    changed = [field for field in now if now[field] != before[field]]
    if changed:
        raise MilbenchError(
            f"suite {store.suite.name} version {store.suite.version} is not the one that {store.folder} holds results "
            f"of ({', '.join(changed)} changed); raise its version or use another --results."
        )


def _meaning(suite: Suite) -> dict[str, Any]:
    """Return what decides what a run of the suite means: all but how many there are, how long they may take, and words.

    A run that was stopped for its time says so itself, and its budget is part of its id.
    """
    fields = suite.model_dump(mode="json", exclude={"methods", "seeds", "description", "cost"})
    fields["budget"].pop("timeout_s")
    for data in fields["data"]:
        data["split"].pop("use")
        data.pop("note")
    return fields


def _methods(texts: Sequence[str]) -> list[Method]:
    found: dict[str, Method] = {}
    for text in texts:
        method = resolve(text)
        found.setdefault(method.canonical, method)
    return list(found.values())


def _recipe(suite: Suite, method: Method) -> Recipe:
    own = method.cls.recipe.model_dump()
    try:
        return Recipe.model_validate(own | suite.recipe | suite.recipes.get(method.name, {}))
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"]))
        table = f"recipes.{method.name}" if field.split(".")[0] in suite.recipes.get(method.name, {}) else "recipe"
        hint = did_you_mean(field, Recipe.model_fields) if first["type"] == "extra_forbidden" else ""
        raise MilbenchError(f"suite {suite.name}: {table}.{field}: {first['msg']}.{hint}") from None


def _task(suite: Suite, cohort: Cohort, fold: Any, method: Method, recipe: Recipe, seed: int, device: str) -> Task:
    if not fold.val:
        if suite.protocol.checkpoint == "best-val":
            raise MilbenchError(
                f"fold {fold.name} of {cohort.name} has no validation slides, but the suite selects on validation: "
                'set checkpoint = "last" in [protocol], or val_fraction in the split.'
            )
        recipe = recipe.model_copy(update={"patience": None})  # nothing to wait for
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
        budget=suite.budget,
        fold=fold.name,
        seed=seed,
        threads=suite.threads,
        device_type=device,
    )
    known = cohort.labels
    return Task(
        spec=spec,
        method=method.canonical,
        cache_path=str(cohort.cache_path),
        n_classes=len(cohort.classes),
        train=tuple((s, known[s]) for s in fold.train),
        val=tuple((s, known[s]) for s in fold.val),
        test=tuple(fold.test),
    )


def _device(suite: Suite) -> str:
    available = torch.cuda.is_available()
    if suite.device == "cuda" and not available:
        raise MilbenchError(
            f'suite {suite.name} asks for CUDA, but torch sees no CUDA device here: set device = "auto".'
        )
    return "cuda" if available and suite.device != "cpu" else "cpu"


def _jobs(suite: Suite) -> int:
    if _device(suite) == "cuda":
        return 1
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, usable // suite.threads)
