"""From a plan to results: tune, run what is missing in fresh processes, and publish each run whole."""

from __future__ import annotations

import os
import tempfile
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
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
from ..training.stacked import StackTask
from ..training.task import TrainingTask
from . import current_runs as asked
from .claims import Claims
from .costs.benchmark import ROUNDS
from .costs.schedule import claim_of, costs_apart, measure_costs, pending_costs, still_open
from .launchers.local import LATER, REPEATS, WAIT, Outcome, Progress, run_all
from .live import Session
from .plan import Finished, Overwrite, Plan, PlannedRun, make_plan, to_task, together, usable_jobs
from .store import OUTCOMES, RunRecord, Store, read_run
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

    Raises:
        MilbenchError: something the user can mend; nothing has run then.
    """
    plan = make_plan(suite, results, methods=methods, seeds=seeds, timeout_s=timeout_s, budget=budget, storage=storage)
    return execute(plan, jobs=jobs, overwrite=overwrite, on_progress=on_progress)


def execute(
    plan: Plan,
    *,
    jobs: int | None = None,
    overwrite: Overwrite = "missing",
    on_progress: Callable[[Progress], None] | None = None,
    on_start: Callable[[Session], None] | None = None,
) -> list[RunRecord]:
    """Carry out a plan; see `run`.

    Args:
        on_start: called with what knows the state of the work, before any of it is done.
    """
    if jobs is not None and jobs < 1:
        raise MilbenchError(f"jobs is {jobs}; at least one run must go at a time.", code="option-bad-value")
    plan.todo(overwrite)  # refuses a wrong word before anything is written
    with Session(plan.store.folder) as session:
        if on_start is not None:
            on_start(session)
        return _execute(plan, jobs, overwrite, on_progress, session)


def _execute(
    plan: Plan, jobs: int | None, overwrite: Overwrite, on_progress: Callable[[Progress], None] | None, session: Session
) -> list[RunRecord]:
    store, todo = plan.store, plan.todo(overwrite)
    prepare(plan)
    when = asked.stamp(store)
    asked.mark_requested(store, _ids(plan.runs), when)
    asked.record_requests(store, _requests(plan, when))
    jobs = jobs or usable_jobs(plan.suite)
    costs = list(pending_costs(plan, overwrite)) if plan.suite.cost else []
    trials = sum(trials_left(plan).values())
    seeds = len({p.spec.seed for p in plan.runs})
    total, done = trials + len(todo) + len(plan.searches) * seeds + len(costs), 0

    def report(what: str, outcome: str, reason: str, last: bool = True) -> None:
        nonlocal done
        done += last
        session.progress(done, total)
        if on_progress is not None:
            on_progress(Progress(done, total, what, outcome, reason))

    session.progress(done, total)
    timeout = plan.suite.budget.timeout_s
    session.phase("tuning" if trials else "runs", float(trials))

    def trial_ended(trial: Trial) -> None:
        session.finish(_trial_key(trial.search, trial.number))
        report(f"{trial.search} trial {trial.number}", trial.outcome, trial.reason)

    def trial_begins(search: StudySpec, number: int) -> str:
        return session.start(_trial_key(search, number), f"{search} trial {number}", 1.0)

    tuned = _tune(plan, jobs, trial_ended, trial_begins)
    done = trials  # those that another process made are done too
    for planned, result in tuned.impossible:
        if planned.outcome is not None and overwrite in ("missing", "costs"):
            continue
        _publish(store, planned, result, when, overwrite)
        report(str(planned), result.outcome, result.reason)
    again = Plan(plan.suite, store, (), tuple(tuned.runs)).todo(overwrite)
    asked.mark_requested(store, _ids(tuned.runs) | _ids(p for p, _ in tuned.impossible), when)
    total -= len(plan.searches) * seeds - len(again) - len(tuned.impossible)
    session.phase("runs", sum(planned.work for planned in (*todo, *again)))
    with Claims(store.root, store.folder / ".claims") as claims:
        # Closed, not only left: after an error or Ctrl-C here the runs that still go on are ended.
        queue = _Queue([*todo, *again], plan.suite.stacked, store, claims, session)
        with closing(_carried_out(queue, jobs, timeout)) as results:
            for planned, own in results:
                if own is None:
                    report(str(planned), store.has(planned.spec.run_id) or "gone", "made by another process")
                    continue
                _publish(store, planned, own, when, overwrite)
                claims.release(planned.spec.run_id)
                report(str(planned), own.outcome, own.reason)
        # Cost is measured when nothing of ours is running.
        session.phase("costs", float(ROUNDS * len(costs)))
        if costs:
            claims.wait(claim_of(plan))
        missing = still_open(store, costs)
        done += len(costs) - len(missing)
        measured: set[str] = set()
        while missing:
            for told in measure_costs(store, missing, timeout):
                record, turn = told.cost.record, f"cost, turn {told.turn + 1} of {ROUNDS}"
                session.advance(1.0)
                report(f"{record['data']} {record['method_canonical']} {turn}", told.outcome, told.reason, told.last)
            measured |= {cost.cost_id for cost in missing}
            missing = costs_apart(plan, measured)  # each at most once: then all were measured now
            total += len(missing)
            session.phase("costs", float(ROUNDS * len(missing)))
    ids = _ids(plan.runs) | _ids(tuned.runs) | _ids(p for p, _ in tuned.impossible)
    return [record for record in store.records() if record.path.name in ids]


def _ids(runs: Iterable[PlannedRun]) -> set[str]:
    """Return the ids that the runs have, or that earlier versions stored them under."""
    return {run_id for planned in runs for run_id in (planned.spec.run_id, planned.stored) if run_id is not None}


def _requests(plan: Plan, when: str) -> list[asked.Request]:
    """Return what every table of the plan is to show; a tuned suite has a table before tuning and one after."""
    suite = plan.suite
    runs = {run_id: (p.method.canonical, p.spec) for p in plan.runs for run_id in sorted(_ids([p]))}
    requests = asked.requests_of(runs, when, plan.suite_methods, suite.seeds, plan.source)
    if requests and suite.cost:  # what is no table's own stands with the first of them
        requests[0] = replace(requests[0], costs=tuple(cost.cost_id for cost in pending_costs(plan, "all")))
    if plan.searches:
        search = plan.searches[0]
        tuned = {"tuning": search.tuned}
        after = {run_id: (method, spec.model_copy(update=tuned)) for run_id, (method, spec) in runs.items()}
        made = asked.requests_of(after, when, plan.suite_methods, suite.seeds, plan.source, ids_known=False)
        # With a table after tuning: one before it may be asked for anew without any studies.
        made[0] = replace(made[0], studies={s.name: s.trials for s in plan.searches}, storage=plan.storage)
        requests += made
    methods = {p.method.canonical: p.method for p in plan.runs}
    files = {name: method.sources(suite.base) for name, method in methods.items()}
    sources = {name: record for name, record in files.items() if record is not None}
    return [replace(request, sources=sources, of_suite=_of_suite(plan, request)) for request in requests]


def _of_suite(plan: Plan, request: asked.Request) -> bool:
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


def _trial_key(search: StudySpec, number: int) -> str:
    return f"{digest(search.name)}-{number}"


def tune(
    plan: Plan,
    *,
    jobs: int | None = None,
    on_trial: Callable[[Trial], None] | None = None,
    on_begin: Callable[[StudySpec, int], str] | None = None,
    on_start: Callable[[Session], None] | None = None,
) -> dict[str, StudyResult]:
    """Carry out what is missing of a plan's studies and nothing else; return what each found, by its name.

    Args:
        plan: of a suite that is tuned.
        jobs: trials side by side.
        on_trial: called after every trial.
        on_begin: called before every trial with study and number; returns where it writes how far it is, see
            `milbench.runs.live.reporter`.
        on_start: called with what knows the state of the work, before any of it is done; in place of ``on_begin``.
    """
    if on_start is not None:
        left = sum(trials_left(plan).values())
        with Session(plan.store.folder) as session:
            on_start(session)
            session.phase("tuning", float(left))
            done = 0

            def ended(trial: Trial) -> None:
                nonlocal done
                done += 1
                session.finish(_trial_key(trial.search, trial.number))
                session.progress(done, left)
                if on_trial is not None:
                    on_trial(trial)

            def begins(search: StudySpec, number: int) -> str:
                return session.start(_trial_key(search, number), f"{search} trial {number}", 1.0)

            session.progress(0, left)
            return tune(plan, jobs=jobs, on_trial=ended, on_begin=begins)
    if not plan.searches:
        raise MilbenchError(
            f"suite {plan.suite.name} is not tuned: give it trials in [budget], or --budget '20 trials'.",
            code="tuning-not-set",
        )
    prepare(plan)
    with _claims_of(plan.storage) as claims:
        return search_all(
            plan.searches, plan.storage, jobs=jobs or usable_jobs(plan.suite), timeout_s=plan.suite.budget.timeout_s,
            on_trial=on_trial, on_begin=on_begin, claims=claims,
        )  # fmt: skip


@dataclass(frozen=True)
class _Tuned:
    """Runs with what the studies found, and those of studies that found nothing."""

    runs: list[PlannedRun]
    impossible: list[tuple[PlannedRun, Outcome]]


def _tune(
    plan: Plan, jobs: int, on_trial: Callable[[Trial], None], on_begin: Callable[[StudySpec, int], str]
) -> _Tuned:
    if not plan.searches:
        return _Tuned([], [])
    return _of_studies(plan, tune(plan, jobs=jobs, on_trial=on_trial, on_begin=on_begin))


def _of_studies(plan: Plan, found: Mapping[str, StudyResult]) -> _Tuned:
    tuned, finished = _Tuned([], []), Finished(plan.store)
    of = {(s.task.spec.data, s.task.spec.fold, s.method.canonical): s for s in plan.searches}
    for planned in plan.runs:
        search = of[planned.spec.data, planned.spec.fold, planned.method.canonical]
        if search.name not in found:
            continue
        result = found[search.name]
        task = tuned_task(search, result, planned.task)
        run = PlannedRun(task, planned.method, tuned=result.record(), **finished.state(task.spec))
        if result.best is not None:
            tuned.runs.append(run)
            continue
        outcome = next((o for o, _ in result.outcomes.most_common() if o in OUTCOMES and o != "ok"), "failed")
        told = ", ".join(f"{n} {o}" for o, n in result.outcomes.most_common())
        tuned.impossible.append((run, Outcome(outcome, f"no tuning trial ended ok ({told}): {result.reason}")))
    return tuned


class _Queue:
    """The groups of runs that are to be made; each is handed out once this process has claimed its runs.

    Runs that another process has claimed are kept for later: it publishes them, or ends and leaves them to this one.
    """

    def __init__(
        self, todo: Sequence[PlannedRun], stacked: int, store: Store, claims: Claims, session: Session
    ) -> None:
        self._stacked, self._store, self._claims, self.session = stacked, store, claims, session
        # What was there under a run's id when the plan was made is to be replaced; anything else is not. What was
        # removed since is made.
        self._before = {
            run_id: None if planned.stored is None else store.version(run_id)
            for planned in todo
            for run_id in [planned.spec.run_id]
        }
        self._mine: deque[tuple[Sequence[PlannedRun], TrainingTask | StackTask]] = deque()
        self._others: deque[Sequence[PlannedRun]] = deque(together(todo, stacked))
        self.made: deque[PlannedRun] = deque()  # by another process

    def __bool__(self) -> bool:
        return bool(self._mine or self._others)

    def again(self, group: Sequence[PlannedRun], task: TrainingTask | StackTask | None = None) -> None:
        """Put back runs that this process has claimed, to be made in another way."""
        self._mine.append((group, task or to_task(group, self._stacked)))

    def next(self) -> tuple[Sequence[PlannedRun], TrainingTask | StackTask] | None:
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


def _carried_out(queue: _Queue, jobs: int, timeout_s: float | None) -> Generator[tuple[PlannedRun, Outcome | None]]:
    """Run what is to do; what does not fit into memory is run again where the budget has a fallback.

    Yields:
        a run and its result, None where another process has made it.
    """
    under_way = 0
    counts: dict[tuple[str, str, bool], dict[int, int | None]] = {}

    def tasks() -> Iterator[Any]:
        nonlocal under_way
        while queue or under_way:
            item = queue.next()
            if item is None:
                yield LATER if queue else WAIT
                continue
            under_way += 1
            yield item, _watched(item[0], _spared(item[1], counts), queue.session)

    def repeats(task: TrainingTask | StackTask) -> int:
        # Of several runs in one process each goes on by itself: their memory together may have been the reason.
        return 0 if isinstance(task, StackTask) and len(task.tasks) > 1 else REPEATS

    with closing(run_all(work, tasks(), jobs, timeout_s, repeats)) as results:
        for (group, task), result in results:
            under_way -= 1
            queue.session.finish(group[0].spec.run_id)
            each = result.value if isinstance(task, StackTask) and result.outcome == "ok" else [result] * len(group)
            each = [replace(own, lost=result.lost) for own in each] if result.lost else each
            for planned, own in zip(group, each, strict=True):
                if own.outcome == "ok":
                    counts.setdefault(_counted_as(planned.task), {}).update(own.value.pop("counted"))
            if len(group) > 1:
                # Others were in the process: who ended it, or what did not fit because of them, is told by runs alone.
                ended = result.outcome != "ok"
                for planned, own in zip(group, each, strict=True):
                    if ended or own.outcome == "oom":
                        queue.again([planned])
                    else:
                        yield planned, own
            elif isinstance(task, TrainingTask) and result.outcome == "oom" and (cut := smaller(task)) is not None:
                queue.again(group, cut)
            else:
                yield group[0], each[0]
            while queue.made:
                yield queue.made.popleft(), None
    while queue.made:
        yield queue.made.popleft(), None


def _watched(group: Sequence[PlannedRun], task: TrainingTask | StackTask, session: Session) -> TrainingTask | StackTask:
    """Note that a group of runs begins, and let a run that has its process to itself say how far it is."""
    first = group[0]
    what = str(first) + (f" and {len(group) - 1} more of it" if len(group) > 1 else "")
    in_turn = len(group) > 1 and not first.spec.stacked
    epochs = 0 if first.spec.budget.track or in_turn else first.spec.recipe.epochs
    live = session.start(first.spec.run_id, what, sum(planned.work for planned in group), epochs)
    if isinstance(task, TrainingTask):
        return replace(task, live=live)
    return StackTask(tuple(replace(one, live=live, live_part=(i, len(group))) for i, one in enumerate(task.tasks)))


def _counted_as(task: TrainingTask) -> tuple[str, str, bool]:
    """What operations of a step depend on, beside a bag's length and, of one suite's cohort, the number of classes."""
    return task.method, task.cache_path, task.spec.budget.track == "flops"


def _spared(task: TrainingTask | StackTask, counts: Mapping[Any, Mapping[int, int | None]]) -> TrainingTask | StackTask:
    """Give a task the operations that runs before it have counted: seconds of its own, for a method of many steps."""
    if isinstance(task, StackTask):
        return StackTask(tuple(one for t in task.tasks if isinstance(one := _spared(t, counts), TrainingTask)))
    return replace(task, counted=tuple(counts.get(_counted_as(task), {}).items()))


def _claims_of(storage: str) -> Claims:
    """Return the claims on the studies of a storage: beside a journal file, in this host's own folder for a database.

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
    # Asked to make everything anew, a run may predict otherwise than before: on another machine, or on CUDA.
    kept = planned.stored if overwrite != "all" and planned.outcome == "ok" else None
    if model is not None and kept is not None and store.has(kept) is not None:  # not removed meanwhile
        _refuse_other_predictions(store.runs / kept, value["predictions"])
    store.publish_run(
        planned.spec.run_id, record, value.get("predictions"), value.get("history"),
        overwrite=planned.stored is not None, trajectory=value.get("trajectory"), model=model,
    )  # fmt: skip
    if planned.stored not in (None, planned.spec.run_id):
        store.remove(store.runs / planned.stored)  # the same run, under an id of before
