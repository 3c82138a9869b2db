"""How far a suite is, from what its runs have recorded: no features are read, no method is imported, no torch."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .asked import Request, age, conditions_of, once, read_requests
from .live import State, duration, sessions
from .spec import PROTOCOL_VERSION, Suite
from .spelling import spelling
from .store import RunRecord, Store, read_suite
from .studies import import_optuna, open_storage
from .suites import meaning, with_budget
from .wording import count

Key = tuple[str, str, str, int, bool]  # cohort, method, fold, seed, whether tuned


@dataclass(frozen=True)
class Standing:
    """How far a suite is.

    Attributes:
        suite, folder: which, and where its results are.
        asked: when it was run last, ISO 8601.
        runs: every run that the suite asks for, with its record where it is done.
        trials: tuning trials that are done, and all of them.
        storage: of the trials.
        costs: measurements of cost that are not whole.
        now: what the processes at work on it are doing.
    """

    suite: Suite
    folder: Path
    asked: str
    runs: dict[Key, RunRecord | None]
    trials: tuple[int, int]
    storage: str
    costs: int
    now: list[State]

    def lines(self) -> list[str]:
        """Return what ``milbench status`` prints."""
        counts = Counter("missing" if run is None else run.outcome for run in self.runs.values())
        lines = [
            f"{self.suite.name} version {self.suite.version}: {len(self.runs)} runs in {self.folder}, as run last on "
            f"{self.asked[:16].replace('T', ' ')} UTC"
        ]
        lines += [f"  {number:5d} {outcome}" for outcome, number in counts.most_common()]
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
        return lines

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
    """Return how far a suite is; None where its records do not tell, and it has to be planned to know.

    That is where it was never run, or where methods, folds or budget have changed since in a way that needs the
    methods' code or the cohort to understand.

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
    then = read_suite(store.folder)
    uses = [{data.name: data.split.use for data in of.data} for of in (then, suite)]
    if uses[0] != uses[1] or meaning(then) != meaning(suite):
        return None
    requests = list(read_requests(store.folder).values())
    records = sorted(store.records(), key=age)
    runs: dict[Key, RunRecord | None] = {}
    used: list[Request] = []
    for data in suite.data:
        for tuned in (False, True) if suite.tuning is not None else (False,):
            request = _request(requests, suite, data.name, tuned)
            if request is None:
                return None
            used.append(request)
            names = _names(methods, suite, then, request)
            if names is None:
                return None
            done = dict(_done(records, request))
            runs |= {
                (data.name, name, fold, seed, tuned): done.get((name, fold, seed))
                for name in names
                for fold in request.folds
                for seed in range(seeds or suite.seeds)
            }
    costs = {cost_id for request in used for cost_id in request.costs} if suite.cost else set()
    studies = {name: number for request in used for name, number in request.studies.items()}
    storage = next((request.storage for request in used if request.storage), "")
    return Standing(
        suite, store.folder, max(request.asked for request in used), runs, _trials(studies, storage), storage,
        sum(_open(store.cost(cost_id)) for cost_id in costs), sessions(store.folder),
    )  # fmt: skip


def _request(requests: Sequence[Request], suite: Suite, data: str, tuned: bool) -> Request | None:
    """Return the last request of a cohort's table under the suite's budget."""
    allowed = suite.budget.model_copy(update={"trials": None}).identity()
    del allowed["timeout_s"]
    of_table = [
        request
        for request in requests
        if request.data == data
        and request.conditions["budget"] == allowed
        and (request.conditions["tuning"] is not None) == tuned
        and (not tuned or request.conditions["tuning"]["trials"] == suite.budget.trials)
    ]
    return max(of_table, key=lambda request: request.asked, default=None)


def _names(methods: Sequence[str], suite: Suite, then: Suite, request: Request) -> list[str] | None:
    """Return the canonical names of methods; None where the request does not know one."""
    if not methods and suite.methods == then.methods:
        return list(request.suite_methods)
    known = {spelling(name): name for name in (*request.suite_methods, *request.methods)}
    found = [known.get(spelling(text)) for text in methods or suite.methods]
    return None if None in found else [name for name in dict.fromkeys(found) if name is not None]


def _done(records: Sequence[RunRecord], request: Request) -> Iterator[tuple[tuple[str, str, int], RunRecord]]:
    for record in once(records):
        spec = record.spec
        same = (spec.data, spec.fingerprint, spec.protocol_version) == (
            request.data, request.fingerprint, PROTOCOL_VERSION,
        )  # fmt: skip
        if not same or conditions_of(spec) != request.conditions:
            continue
        if spec.code == request.methods.get(record.method, spec.code) or request.covers(record):
            yield (request.method_of(record) or record.method, spec.fold, spec.seed), record


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
