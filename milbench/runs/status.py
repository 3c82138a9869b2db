"""How far a suite is, from what its runs have recorded: no features are read, no method is imported, no torch."""

from __future__ import annotations

import re
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from ..config import PROTOCOL_VERSION, DataSpec, Suite, Tuned
from ..config.method_key import spelling
from ..config.method_sources import code_of_record
from ..config.suites import meaning, with_budget
from ..formatting.text import count
from .current_runs import Request, age, conditions_of, once, read_requests
from .live import State, duration, sessions
from .records import RunRecord, read_costs, read_suite
from .store import Store
from .tuning.study import import_optuna, open_storage

#: Content of runs that is compared with its checksums, at most; `milbench verify` compares all.
_MOST_BYTES = 64 * 2**20

Key = tuple[str, str, str, int, bool]  # cohort, method, fold, seed, whether tuned


@dataclass(frozen=True)
class Standing:
    """How far a suite is.

    Attributes:
        suite, folder: which, and where its results are.
        requested_at: when it was run last, ISO 8601.
        runs: every run that the suite asks for, with its record where it is done.
        trials: tuning trials that are done, and all of them.
        storage: of the trials.
        costs: measurements of cost that are not whole.
        now: what the processes at work on it are doing.
        edited: method -> how many of its finished runs are of another form of its code, and so are missing.
        last: how many runs the last request of these tables had, where those are others than `runs`.
        damaged: runs a file of which is missing or not as it was written, with the sentence on it.
        stopped: how many runs a timeout has stopped that is longer now, and so are missing.
    """

    suite: Suite
    folder: Path
    requested_at: str
    runs: dict[Key, RunRecord | None]
    trials: tuple[int, int]
    storage: str
    costs: int
    now: list[State]
    edited: Mapping[str, int] = field(default_factory=dict)
    last: int | None = None
    damaged: Mapping[Key, str] = field(default_factory=dict)
    stopped: int = 0

    def lines(self) -> list[str]:
        """Return what ``milbench status`` prints."""
        counts = Counter(
            "damaged" if key in self.damaged else "missing" if run is None else run.outcome
            for key, run in self.runs.items()
        )
        on = f"run last on {self.requested_at[:16].replace('T', ' ')} UTC"
        lines = [
            f"{self.suite.name} version {self.suite.version}: {len(self.runs)} runs in {self.folder}"
            + (f", as {on}" if self.last is None else f"; {on} with other methods or seeds, {count(self.last, 'run')}")
        ]
        lines += [f"  {number:5d} {outcome}" for outcome, number in counts.most_common()]
        lines += [
            f"  {count(number, 'finished run')} of {method} not used: the method's code differs; milbench run makes "
            f"{'it' if number == 1 else 'them'} again"
            for method, number in self.edited.items()
        ]
        if self.stopped:
            lines.append(
                f"  {count(self.stopped, 'run')} stopped by a shorter timeout than the suite's now; milbench run makes "
                f"{'it' if self.stopped == 1 else 'them'} again"
            )
        if self.trials[1]:
            lines.append(f"  {self.trials[0]:5d} of {self.trials[1]} tuning trials, in {self.storage}")
        if self.costs:
            lines.append(f"  {count(self.costs, 'measurement')} of cost not done")
        lines += [f"  running now (process {state.pid}): {state}" for state in self.now]
        if not self.now and counts["missing"] and (left := self._seconds_left()) is not None:
            lines.append(f"  not running; the missing runs take {duration(left)}, one after the other, if they take as "
                         "long as those that are done")  # fmt: skip
        for (data, method, fold, seed, tuned), run in self.runs.items():
            if run is not None and run.outcome != "ok":
                what = f"{data} {method}{' tuned' if tuned else ''} fold {fold} seed {seed}"
                lines.append(f"  {run.outcome}: {what} ({run.path.name}): {run.reason}")
        return [*lines, *(f"  damaged: {sentence}" for sentence in self.damaged.values())]

    def _seconds_left(self) -> float | None:
        """Return the training time of the runs that are missing: by method, from the runs of it that are done."""
        seconds: dict[str, list[float]] = {}
        for run in self.runs.values():
            taken = None if run is None else (run.record.get("train") or {}).get("seconds")
            if run is not None and isinstance(taken, int | float):
                seconds.setdefault(run.method, []).append(float(taken))
        if not seconds:
            return None
        typical = {method: statistics.median(values) for method, values in seconds.items()}
        other = statistics.median(typical.values())
        return sum(typical.get(key[1], other) for key, run in self.runs.items() if run is None)


def standing(
    suite: Suite,
    results: Path,
    methods: Sequence[str] = (),
    seeds: int | None = None,
    budget: Mapping[str, float] | None = None,
) -> Standing | None:
    """Return how far a suite is; None where its records do not say, and it has to be planned to know.

    That is where it was never run, where labels or split files were written since, or where methods, folds, budget,
    tuning or stacking have changed since, or the measurement of cost was added, in a way that needs the methods' code
    or the cohort to understand.

    Args:
        suite: as it stands.
        results: the results root.
        methods, seeds, budget: instead of the suite's.
    """
    if budget:
        suite = with_budget(suite, budget)
    store = Store(results, suite)
    if not (store.folder / "suite.json").exists():
        return None
    for _ in range(3):  # the processes at work must be those of the moment at which the runs were read
        before = sessions(store.folder)
        state = _standing(suite, store, methods, seeds)
        if state is None or [(s.pid, s.done) for s in before] == [(s.pid, s.done) for s in state.now]:
            break
    return state


def _standing(suite: Suite, store: Store, methods: Sequence[str], seeds: int | None) -> Standing | None:
    then = read_suite(store.folder)
    uses = [{data.name: data.split.use for data in of.data} for of in (then, suite)]
    if uses[0] != uses[1] or meaning(then) != meaning(suite) or (then.stacked > 1) != (suite.stacked > 1):
        return None
    requests = list(read_requests(store.folder).values())
    records = sorted(store.records(), key=age)
    runs: dict[Key, RunRecord | None] = {}
    used: list[Request] = []
    edited: Counter[str] = Counter()
    for data in suite.data:
        for tuned in (False, True) if suite.tuning is not None else (False,):
            request = _request(requests, suite, data.name, tuned)
            if request is None or _written_since(data, suite.base, request.requested_at):
                return None
            used.append(request)
            names = _names(methods, suite, then, request)
            if names is None:
                return None
            codes = _codes(request, suite.base)
            if codes is None:
                return None
            done = dict(_done(records, request, codes))
            runs |= {
                (data.name, name, fold, seed, tuned): done.get((name, fold, seed))
                for name in names
                for fold in request.folds
                for seed in range(seeds or suite.seeds)
            }
            if codes != request.methods:
                before = dict(_done(records, request, request.methods))
                edited.update(
                    method
                    for (cohort, method, fold, seed, was_tuned), run in runs.items()
                    if run is None and (cohort, was_tuned) == (data.name, tuned) and (method, fold, seed) in before
                )
    newest = max(request.requested_at for request in used)
    last = {
        (request.data, name, fold, seed, request.conditions["tuning"] is not None)
        for request in used
        if request.requested_at == newest
        for name in request.methods
        for fold in request.folds
        for seed in request.seeds
    }
    tables = {(key[0], key[4]) for key in last}
    same = last == {key for key in runs if (key[0], key[4]) in tables}
    stopped = [
        key for key, run in runs.items() if run is not None and run.stopped_s(suite.budget.timeout_s) is not None
    ]
    runs |= dict.fromkeys(stopped)
    costs = {cost_id for request in used for cost_id in request.costs} if suite.cost else set()
    if suite.cost and not costs:  # the suite measured none when it was run last
        return None
    studies = {name: number for request in used for name, number in request.studies.items()}
    storage = next((request.storage for request in used if request.storage), "")
    return Standing(
        suite, store.folder, newest, runs, _trials(studies, storage), storage,
        sum(_open(store.cost(cost_id)) for cost_id in costs) + (_unmeasured(runs, used, store) if suite.cost else 0),
        sessions(store.folder), edited, None if same else len(last), _damaged(runs), len(stopped),
    )  # fmt: skip


def _unmeasured(runs: Mapping[Key, RunRecord | None], requests: Sequence[Request], store: Store) -> int:
    """Return how many methods of a cohort no request has named, so that it has no cost of them, nor has the store."""
    requested = {(request.data, method) for request in requests for method in request.methods}
    there = {(cost.data, cost.method) for cost in read_costs(store.folder)}
    return len({key[:2] for key in runs} - requested - there)


def _damaged(runs: Mapping[Key, RunRecord | None]) -> dict[Key, str]:
    share = _MOST_BYTES // max(1, len(runs))
    damages = {key: run.damage(share) for key, run in runs.items() if run is not None}
    return {key: sentence for key, sentence in damages.items() if sentence is not None}


def _written_since(data: DataSpec, base: Path, requested: str) -> bool:
    """Return whether labels, or split files, were written since: only the cohort then says which runs use them."""
    names = [name.partition("#")[0] for name in (data.labels, data.slide_table) if name]
    files = [base / name for name in names]
    if data.split.files is not None and not Path(data.split.files).is_absolute():
        files += base.glob(data.split.files.replace("{k}", "*"))
    then = datetime.fromisoformat(requested).timestamp()
    return any(file.is_file() and file.stat().st_mtime > then for file in files)


def _codes(request: Request, base: Path) -> dict[str, str] | None:
    """Return the present code of every method; None where the request does not name its files."""
    codes = dict(request.methods)
    for name, then in request.methods.items():
        if not re.fullmatch("[0-9a-f]{16}", then):  # milbench's own, whose code is their revision
            continue
        now = code_of_record(request.sources.get(name, {}), base)
        if now is None:
            return None
        codes[name] = now
    return codes


def _request(requests: Sequence[Request], suite: Suite, data: str, tuned: bool) -> Request | None:
    """Return the last request of a cohort's table under the suite's budget."""
    allowed = suite.budget.model_copy(update={"trials": None}).identity()
    del allowed["timeout_s"]
    tuning = None
    if tuned and suite.tuning is not None and suite.budget.trials is not None:
        tuning = Tuned(**suite.tuning.model_dump(), trials=suite.budget.trials).identity()
    of_table = [
        request
        for request in requests
        if request.data == data and request.conditions["budget"] == allowed and request.conditions["tuning"] == tuning
    ]
    return max(of_table, key=lambda request: request.requested_at, default=None)


def _names(methods: Sequence[str], suite: Suite, then: Suite, request: Request) -> list[str] | None:
    """Return the canonical names of methods; None where the request does not know one."""
    if not methods and suite.methods == then.methods:
        return list(request.suite_methods)
    known = {spelling(name): name for name in (*request.suite_methods, *request.methods)}
    resolved = [known.get(spelling(text)) for text in methods or suite.methods]
    return None if None in resolved else [name for name in dict.fromkeys(resolved) if name is not None]


def _done(
    records: Sequence[RunRecord], request: Request, codes: Mapping[str, str]
) -> Iterator[tuple[tuple[str, str, int], RunRecord]]:
    """Yield the runs of a table that are done, with method, fold and seed.

    Args:
        records: of the suite.
        request: of the table.
        codes: method -> its code, by which alone runs of it count.
    """
    for record in once(records):
        spec = record.spec
        same = (spec.data, spec.fingerprint, spec.protocol_version) == (
            request.data, request.fingerprint, PROTOCOL_VERSION,
        )  # fmt: skip
        if not same or conditions_of(spec) != request.conditions:
            continue
        method = request.method_of(record) or record.method
        covered = request.covers(record) and codes.get(method) == request.methods.get(method)
        if spec.code == codes.get(method, spec.code) or covered:
            yield (method, spec.fold, spec.seed), record


def _trials(studies: Mapping[str, int], storage: str) -> tuple[int, int]:
    """Return how many trials of some studies have ended, and how many there are to be."""
    if not studies or ("://" not in storage and not Path(storage).exists()):
        return 0, sum(studies.values())
    optuna, kept = import_optuna(), open_storage(storage)
    known, done = set(optuna.get_all_study_names(kept)), 0
    for name, number in studies.items():
        if name in known:
            trials = optuna.load_study(study_name=name, storage=kept).trials
            done += min(number, sum(t.state.is_finished() and "outcome" in t.user_attrs for t in trials))
    return done, sum(studies.values())


def _open(cost: dict[str, Any] | None) -> bool:
    return cost is None or bool(cost.get("unfinished"))
