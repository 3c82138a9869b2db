"""From a plan to results: tune, run what is missing in fresh processes, and publish each run whole."""

from __future__ import annotations

import os
import tempfile
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from .. import __version__
from ..config import Suite, digest
from ..data.cohort import write_cohort
from ..errors import MilbenchError
from ..measure.environment import now, this_machine
from ..training.task import TrainingTask
from . import current_runs
from .claims import Claims
from .costs.benchmark import ROUNDS
from .costs.schedule import Cost, claim_of, costs_apart, measure_costs, pending_costs, still_open
from .launchers.base import CLAIM_S, Launcher, Outcome, find_launcher, start
from .launchers.local import LocalLauncher
from .live import Phase, Progress, Session
from .plan import Finished, Overwrite, Plan, PlannedRun, make_plan, to_task, together, usable_jobs
from .records import OUTCOMES, RunRecord, read_run
from .run_tasks import RunTask, SharedTask
from .store import Store
from .tuning.search import StudyResult, StudySpec, Trial, progress, search_all, smaller, tuned_task
from .worker import work


def run(
    suite: str | Path | Suite,
    results: str | Path = "results/runs",
    *,
    methods: Sequence[str] | None = None,
    seeds: int | None = None,
    jobs: int | None = None,
    overwrite: Overwrite = "missing",
    timeout_s: float | None = None,
    budget: Mapping[str, float] | None = None,
    storage: str | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    launcher: str = "local",
) -> list[RunRecord]:
    """Run what is missing of a suite and return the records of all its runs.

    Several processes may run one suite into one results folder at the same time: they share the runs, trials and
    measurements, and each returns when all of them are done.

    Args:
        suite: a built-in suite's name, the path of a TOML file, or a Suite.
        results: the results root; finished runs there are kept and not run again.
        methods: run these methods instead of the suite's.
        seeds: run seeds 0 .. seeds - 1 instead of the suite's number.
        jobs: runs side by side; None: as many as the usable cores allow at the suite's threads a run, one on CUDA.
        overwrite: also run again those that ended otherwise than ``ok`` (``failed``) or everything (``all``); ``costs``
            makes the measurements of cost again and no run that is done.
        timeout_s: wall seconds a run may take; replaces the suite's.
        budget: fields of `milbench.config.Budget` that replace the suite's.
        storage: where tuning trials are kept: the path of a journal file or a storage URL of Optuna; None: in the
            suite's results folder.
        on_progress: called after every run and every trial.
        launcher: the name of what executes trials and runs, see `milbench.runs.launchers.base`.

    Raises:
        MilbenchError: something the user can correct; nothing has run then.
    """
    place = find_launcher(launcher)
    plan = make_plan(suite, results, methods=methods, seeds=seeds, timeout_s=timeout_s, budget=budget, storage=storage)
    return execute(plan, jobs=jobs, overwrite=overwrite, on_progress=on_progress, launcher=place)


def execute(
    plan: Plan,
    *,
    jobs: int | None = None,
    overwrite: Overwrite = "missing",
    on_progress: Callable[[Progress], None] | None = None,
    on_start: Callable[[Session], None] | None = None,
    launcher: type[Launcher] = LocalLauncher,
) -> list[RunRecord]:
    """Carry out a plan; see `run`.

    Args:
        on_start: called with what knows the state of the work, before any of it is done.
        launcher: executes trials and runs; costs are measured in processes of this machine.
    """
    if jobs is not None and jobs < 1:
        raise MilbenchError(f"jobs is {jobs}; at least one run must go at a time.", code="option-bad-value")
    todo = plan.todo(overwrite)  # refuses a wrong word before anything is written
    costs = list(pending_costs(plan, overwrite)) if plan.suite.cost else []
    store, jobs = plan.store, jobs or usable_jobs(plan.suite)
    with Session(store.folder) as session:
        if on_start is not None:
            on_start(session)
        prepare(plan)
        when = current_runs.stamp(store)
        current_runs.mark_requested(store, _ids(plan.runs), when)
        current_runs.record_requests(store, _requests(plan, when))

        tuned = _Tuned([], [])
        if plan.searches:
            tuned = _of_studies(plan, _tune(plan, jobs, session, on_progress, launcher))
        after = [*tuned.runs, *(planned for planned, _ in tuned.impossible)]
        again = Plan(plan.suite, store, (), tuple(tuned.runs)).todo(overwrite)
        impossible = [(p, result) for p, result in tuned.impossible if p.outcome is None or overwrite not in _KEEPING]
        current_runs.mark_requested(store, _ids(after), when)

        with Claims(store.root, store.folder / ".claims") as claims:
            runs = _Runs(plan, jobs, overwrite, when, claims, session, on_progress, launcher)
            # One queue: no place idles before the tuned runs begin, and what another process has made since is kept.
            runs.make("runs", [*todo, *again], impossible)
            # Cost is measured when nothing of ours is running.
            _measure_costs(plan, costs, claims, session, on_progress)
    ids = _ids(plan.runs) | _ids(after)
    return [record for record in store.records() if record.path.name in ids]


#: Runs that are made again where nothing is stored: not one whose study has no best trial.
_KEEPING = ("missing", "costs")


def _measure_costs(
    plan: Plan,
    costs: Sequence[Cost],
    claims: Claims,
    session: Session,
    on_progress: Callable[[Progress], None] | None,
) -> None:
    """Measure what no other process has measured meanwhile, and again what was measured at another speed."""
    if not costs:
        return
    claims.wait(claim_of(plan))
    missing, measured = still_open(plan.store, costs), set[str]()
    while missing:
        phase = Phase(session, "costs", len(missing), float(ROUNDS * len(missing)), on_progress)
        for step in measure_costs(plan.store, missing, plan.suite.budget.timeout_s):
            record, turn = step.cost.record, f"cost, turn {step.turn + 1} of {ROUNDS}"
            session.advance(1.0)
            phase.ended(f"{record['data']} {record['method_canonical']} {turn}", step.outcome, step.reason, step.last)
        measured |= {cost.cost_id for cost in missing}
        missing = costs_apart(plan, measured)  # each at most once: then all were measured now


def _ids(runs: Iterable[PlannedRun]) -> set[str]:
    """Return the ids that the runs have, or that earlier versions stored them under."""
    return {run_id for planned in runs for run_id in (planned.spec.run_id, planned.stored) if run_id is not None}


def _requests(plan: Plan, when: str) -> list[current_runs.Request]:
    """Return what every table of the plan is to show; a tuned suite has a table before tuning and one after."""
    suite = plan.suite
    runs = {run_id: (p.method.canonical, p.spec) for p in plan.runs for run_id in sorted(_ids([p]))}
    requests = current_runs.requests_of(runs, when, plan.suite_methods, suite.seeds, plan.source)
    if requests and suite.cost:  # what is no table's own stands with the first of them
        requests[0] = replace(requests[0], costs=tuple(cost.cost_id for cost in pending_costs(plan, "all")))
    if plan.searches:
        search = plan.searches[0]
        tuned = {"tuning": search.tuned}
        after = {run_id: (method, spec.model_copy(update=tuned)) for run_id, (method, spec) in runs.items()}
        made = current_runs.requests_of(after, when, plan.suite_methods, suite.seeds, plan.source, ids_known=False)
        # With a table after tuning: one before it may be requested again without any studies.
        made[0] = replace(made[0], studies={s.name: s.trials for s in plan.searches}, storage=plan.storage)
        requests += made
    methods = {p.method.canonical: p.method for p in plan.runs}
    files = {name: method.sources(suite.base) for name, method in methods.items()}
    sources = {name: record for name, record in files.items() if record is not None}
    return [replace(request, sources=sources, of_suite=_of_suite(plan, request)) for request in requests]


def _of_suite(plan: Plan, request: current_runs.Request) -> bool:
    """Return whether a table is one of the suite as it stands, without the budget of the command line."""
    own = plan.own_budget or plan.suite.budget
    tuned = request.conditions["tuning"] is not None
    lengths = [budget.model_copy(update={"trials": None, "timeout_s": None}) for budget in (own, plan.suite.budget)]
    return lengths[0] == lengths[1] and (not tuned or own.trials == plan.suite.budget.trials)


def prepare(plan: Plan) -> None:
    """Make the suite's results folder, with its cohorts' labels and folds."""
    plan.store.prepare()
    for cohort in plan.cohorts:
        write_cohort(cohort, plan.store.cohort(cohort.name, cohort.fingerprint))


def costs_left(plan: Plan, overwrite: Overwrite) -> int:
    """Return how many measurements of cost are still to be made."""
    return sum(1 for _ in pending_costs(plan, overwrite)) if plan.suite.cost else 0


def trials_left(plan: Plan) -> dict[str, int]:
    """Return how many trials of each study are still to be made, by the study's name."""
    done = progress(plan.searches, plan.storage)
    return {search.name: max(0, search.trials - done[search.name]) for search in plan.searches}


def tuned_runs(plan: Plan) -> list[PlannedRun]:
    """Return the runs of the studies whose trials have all been made, without making any."""
    left = trials_left(plan)
    done = [search for search in plan.searches if not left[search.name]]
    tuned = _of_studies(plan, search_all(done, plan.storage, jobs=1)) if done else _Tuned([], [])
    return [*tuned.runs, *(planned for planned, _ in tuned.impossible)]


def tune(
    plan: Plan,
    *,
    jobs: int | None = None,
    on_trial: Callable[[Trial], None] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    on_start: Callable[[Session], None] | None = None,
    launcher: type[Launcher] = LocalLauncher,
) -> dict[str, StudyResult]:
    """Carry out what is missing of a plan's studies and nothing else; return the result of each, by its name.

    Args:
        plan: of a suite that is tuned.
        jobs: trials side by side.
        on_trial: called after every trial.
        on_progress: called after every trial with how many are done.
        on_start: called with what knows the state of the work, before any of it is done.
        launcher: executes the trials.
    """
    with Session(plan.store.folder) as session:
        if on_start is not None:
            on_start(session)
        return _tune(plan, jobs or usable_jobs(plan.suite), session, on_progress, launcher, on_trial)


def _tune(
    plan: Plan,
    jobs: int,
    session: Session,
    on_progress: Callable[[Progress], None] | None,
    launcher: type[Launcher],
    on_trial: Callable[[Trial], None] | None = None,
) -> dict[str, StudyResult]:
    if not plan.searches:
        raise MilbenchError(
            f"suite {plan.suite.name} is not tuned: give it trials in [budget], or --budget '20 trials'.",
            code="tuning-not-set",
        )
    left = sum(trials_left(plan).values())
    phase = Phase(session, "tuning", left, float(left), on_progress)

    def key(search: StudySpec, number: int) -> str:
        return f"{digest(search.name)}-{number}"

    def ended(trial: Trial) -> None:
        session.finish(key(trial.search, trial.number))
        phase.ended(f"{trial.search} trial {trial.number}", trial.outcome, trial.reason)
        if on_trial is not None:
            on_trial(trial)

    def begins(search: StudySpec, number: int) -> str:
        return session.start(key(search, number), f"{search} trial {number}", 1.0)

    prepare(plan)
    with _claims_of(plan.storage) as claims:
        return search_all(
            plan.searches, plan.storage, jobs=jobs, timeout_s=plan.suite.budget.timeout_s, on_trial=ended,
            on_begin=begins, claims=claims, launcher=launcher,
        )  # fmt: skip


@dataclass(frozen=True)
class _Tuned:
    """Runs with the best recipes of the studies, and those of studies without one."""

    runs: list[PlannedRun]
    impossible: list[tuple[PlannedRun, Outcome]]


def _of_studies(plan: Plan, study_result: Mapping[str, StudyResult]) -> _Tuned:
    tuned, finished = _Tuned([], []), Finished(plan.store)
    of = {(s.task.spec.data, s.task.spec.fold, s.method.canonical): s for s in plan.searches}
    for planned in plan.runs:
        search = of[planned.spec.data, planned.spec.fold, planned.method.canonical]
        if search.name not in study_result:
            continue
        result = study_result[search.name]
        task = tuned_task(search, result, planned.task)
        run = PlannedRun(task, planned.method, tuned=result.record(), **finished.state(task.spec))
        if result.best is not None:
            tuned.runs.append(run)
            continue
        outcome = next((o for o, _ in result.outcomes.most_common() if o in OUTCOMES and o != "ok"), "failed")
        counts = ", ".join(f"{n} {o}" for o, n in result.outcomes.most_common())
        tuned.impossible.append((run, Outcome(outcome, f"no tuning trial ended ok ({counts}): {result.reason}")))
    return tuned


class _Queue:
    """The groups of runs that are to be made; each is handed out once this process has claimed its runs.

    Runs that another process has claimed are kept for later: it publishes them, or ends and leaves them to this one.
    """

    def __init__(
        self, todo: Sequence[PlannedRun], stacked: int, store: Store, claims: Claims, session: Session
    ) -> None:
        self._stacked, self._store, self._claims, self.session = stacked, store, claims, session
        # A run is replaced only where it is the one that was stored under its id when the plan was made. A run that
        # was removed since is made.
        self._before = {
            run_id: None if planned.stored is None else store.version(run_id)
            for planned in todo
            for run_id in [planned.spec.run_id]
        }
        self._mine: deque[tuple[Sequence[PlannedRun], RunTask | SharedTask]] = deque()
        self._others: deque[Sequence[PlannedRun]] = deque(together(todo, stacked))
        self.made: deque[PlannedRun] = deque()  # by another process

    def __bool__(self) -> bool:
        return bool(self._mine or self._others)

    def again(self, group: Sequence[PlannedRun], task: RunTask | SharedTask | None = None) -> None:
        """Put back runs that this process has claimed, to be made in another way."""
        self._mine.append((group, task or to_task(group, self._stacked)))

    def next(self) -> tuple[Sequence[PlannedRun], RunTask | SharedTask] | None:
        """Return the next group and its task; None where there is none, or all belong to other processes."""
        for _ in range(len(self._others)):
            group, foreign = [], []
            for planned in self._others.popleft():
                run_id = planned.spec.run_id
                if not self._claims.take(run_id):
                    foreign.append(planned)
                elif self._store.version(run_id) not in (None, self._before[run_id]):
                    self._claims.release(run_id)
                    self.made.append(planned)
                    self.session.advance(planned.work)
                else:
                    group.append(planned)
            if foreign:
                self._others.append(foreign)
            if group:
                return group, to_task(group, self._stacked)
        return self._mine.popleft() if self._mine else None


class _Runs:
    """Makes runs and publishes each; a run that needs too much memory is made again where the budget has a fallback.

    Args:
        plan: of the runs.
        jobs: processes at the same time.
        overwrite: which runs are made again.
        when: the suite was requested, see `milbench.runs.current_runs.stamp`.
        claims: of the suite's runs.
        session: of the work.
        on_progress: called after every run.
        launcher: executes them.
    """

    def __init__(
        self,
        plan: Plan,
        jobs: int,
        overwrite: Overwrite,
        when: str,
        claims: Claims,
        session: Session,
        on_progress: Callable[[Progress], None] | None,
        launcher: type[Launcher],
    ) -> None:
        self._plan, self._jobs, self._overwrite, self._when = plan, jobs, overwrite, when
        self._claims, self._session, self._on_progress, self._launcher = claims, session, on_progress, launcher
        self._counts: _Counts = {}

    def make(
        self, name: str, todo: Sequence[PlannedRun], impossible: Sequence[tuple[PlannedRun, Outcome]] = ()
    ) -> None:
        """Make runs, as one phase of the work.

        Args:
            name: of the phase.
            todo: the runs.
            impossible: runs that cannot be made, with the outcome that is published of them.
        """
        if not todo and not impossible:
            return
        work = sum(planned.work for planned in todo)
        phase = Phase(self._session, name, len(todo) + len(impossible), work, self._on_progress)
        store = self._plan.store
        for planned, outcome in impossible:
            _publish(store, planned, outcome, self._when, self._overwrite)
            phase.ended(str(planned), outcome.outcome, outcome.reason)
        queue = _Queue(todo, self._plan.suite.stacked, store, self._claims, self._session)
        with closing(self._ended(queue)) as results:  # so that an error here ends what is still under way
            for planned, own in results:
                if own is None:
                    phase.ended(str(planned), store.has(planned.spec.run_id) or "gone", "made by another process")
                    continue
                _publish(store, planned, own, self._when, self._overwrite)
                self._claims.release(planned.spec.run_id)
                phase.ended(str(planned), own.outcome, own.reason)

    def _ended(self, queue: _Queue) -> Generator[tuple[PlannedRun, Outcome | None]]:
        """Execute what is queued; yield a run and its outcome, None where another process has made it."""
        under_way: dict[Future[Outcome], tuple[Sequence[PlannedRun], RunTask | SharedTask]] = {}
        with start(self._launcher, work, self._jobs, self._plan.suite.budget.timeout_s) as launcher:
            while queue or under_way:
                while launcher.free and (item := queue.next()) is not None:
                    group, task = item
                    due = _watched(group, _spared(task, self._counts), self._session)
                    under_way[launcher.submit(due, due.repeats)] = group, task
                while queue.made:
                    yield queue.made.popleft(), None
                if not under_way:
                    if queue:  # all that is left is claimed by other processes
                        time.sleep(CLAIM_S)
                    continue
                ended = launcher.wait(CLAIM_S if queue and launcher.free else None)
                if ended is not None:
                    yield from self._outcomes(queue, *under_way.pop(ended), ended.result())

    def _outcomes(
        self, queue: _Queue, group: Sequence[PlannedRun], task: RunTask | SharedTask, result: Outcome
    ) -> Iterator[tuple[PlannedRun, Outcome]]:
        """Yield the runs of a process that have ended with it; the others are put back into the queue."""
        self._session.finish(group[0].spec.run_id)
        for planned, own in zip(group, task.outcomes(result), strict=True):
            if result.lost:
                own = replace(own, lost=result.lost)
            if own.outcome == "ok":
                self._counts.setdefault(_counted_as(planned.task), {}).update(own.value.pop("counted"))
            if len(group) > 1 and (result.outcome != "ok" or own.outcome == "oom"):
                # Several shared the process: a run by itself shows which of them ended it, or needs too much memory.
                queue.again([planned])
            elif own.outcome == "oom" and (in_parts := smaller(task.trainings[0])) is not None:
                queue.again(group, RunTask(in_parts))
            else:
                yield planned, own


def _watched(group: Sequence[PlannedRun], task: RunTask | SharedTask, session: Session) -> RunTask | SharedTask:
    """Note that a group of runs begins, and let its trainings write how far they are."""
    first = group[0]
    what = str(first) + (f" and {len(group) - 1} more of it" if len(group) > 1 else "")
    in_turn = len(group) > 1 and not first.spec.stacked
    epochs = 0 if first.spec.budget.track or in_turn else first.spec.recipe.epochs
    live = session.start(first.spec.run_id, what, sum(planned.work for planned in group), epochs)
    return task.mapped(lambda training, i: replace(training, live=live, live_part=(i, len(group))))


def _counted_as(task: TrainingTask) -> tuple[str, str, bool]:
    """Fields that a step's operations depend on, apart from a bag's length and, of a cohort, the number of classes."""
    return task.method, task.cache_path, task.spec.budget.track == "flops"


#: Of what `_counted_as` returns: bag length -> operations of a step, None where they cannot be counted.
_Counts = dict[tuple[str, str, bool], dict[int, int | None]]


def _spared(task: RunTask | SharedTask, counts: _Counts) -> RunTask | SharedTask:
    """Give a task the operations that runs before it have counted: seconds of its own, for a method of many steps."""

    def spared(training: TrainingTask, _: int) -> TrainingTask:
        return replace(training, counted=tuple(counts.get(_counted_as(training), {}).items()))

    return task.mapped(spared)


def _claims_of(storage: str) -> Claims:
    """Return the claims on the studies of a storage: next to a journal file, in this host's own folder for a database.

    A database that several hosts share is shared by the processes of each of them alone.
    """
    if "://" not in storage:
        folder = Path(f"{storage}.claims")
        return Claims(folder.parent, folder)
    temporary = Path(tempfile.gettempdir())
    user = os.getuid() if hasattr(os, "getuid") else 0
    return Claims(temporary, temporary / f"milbench-{user}-{digest(storage)}.claims")


def _refuse_other_predictions(folder: Path, predictions: pd.DataFrame) -> None:
    """Refuse to put a model into a run that it does not belong to: trained again, it must predict the same bits.

    Raises:
        MilbenchError: it does not; the run stays as it is.
    """
    before = read_run(folder).predictions()
    columns = [name for name in before.columns if not name.startswith("s") or name in ("slide_id", "split")]
    if not before[columns].equals(predictions[columns].astype(before[columns].dtypes)):
        raise MilbenchError(
            f"{folder}: the run, trained again to keep its model, predicts otherwise (another machine, or another "
            "version of torch); nothing was replaced. --overwrite all trains every run again.",
            code="run-not-reproduced",
        )


def _publish(store: Store, planned: PlannedRun, result: Outcome, when: str, overwrite: Overwrite) -> None:
    card = planned.method.card
    value: dict[str, Any] = result.value or {}
    record = {
        "spec": planned.spec.model_dump(mode="json"),
        "method_canonical": planned.method.canonical,
        "title": card.title,
        "family": card.family,
        "outcome": result.outcome,
        "reason": result.reason,
        "tuned": planned.tuned,
        "milbench_version": __version__,
        "asked": when,
        "finished": now(),
        **value.get("record", {}),
    }
    if result.lost:
        record["killed_attempts"] = list(result.lost)  # by signals of others; the run was repeated from its start
    record.setdefault("environment", this_machine())
    model = value.get("model")
    # With everything made anew, a run may predict otherwise than before: on another machine, or on CUDA.
    kept = planned.stored if overwrite != "all" and planned.outcome == "ok" else None
    if model is not None and kept is not None and store.has(kept) is not None:  # not removed meanwhile
        _refuse_other_predictions(store.runs / kept, value["predictions"])
    store.publish_run(
        planned.spec.run_id, record, value.get("predictions"), value.get("history"),
        overwrite=planned.stored is not None, trajectory=value.get("trajectory"), model=model,
    )  # fmt: skip
    if planned.stored not in (None, planned.spec.run_id):
        store.remove(store.runs / planned.stored)  # the same run, under an id of before
