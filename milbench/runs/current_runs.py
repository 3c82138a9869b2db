"""The runs that tables show: those that a suite requested last, not those that were finished last.

Every ``milbench run`` records its request, the methods, folds and seeds that it is to make, one file a table (a cohort
under one set of conditions). A table shows the runs of its last request; results of earlier versions, which recorded
none, are shown whole.

Labels, a recipe or the code of a method may be changed, run, and changed back: then runs that are long done are
requested again. Every run records when its suite was requested; an existing run gets a new time only where another run
has been added since that would be shown instead.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from ..atomic_io.checksums import KEY, check_record
from ..atomic_io.publishing import read_regular
from ..config import digest
from ..config.method_key import find_method
from ..errors import MilbenchError
from ..formatting.text import count

if TYPE_CHECKING:
    from pathlib import Path

    from ..config import RunSpec
    from .records import RunRecord
    from .store import Store

    Cell = tuple[str, int]

#: Fields of a run that must agree between all runs of one table: those that differ stand in tables of their own.
CONDITIONS = ("budget", "tuning", "protocol", "threads", "device_type")
#: Fields in which older runs are superseded by those requested last.
SUPERSEDED = ("fingerprint", "protocol_version")
#: Attributes of a `Request` -> their keys in its file, where the two differ.
_KEYS = {"requested_at": "asked"}


@dataclass(frozen=True)
class Request:
    """The runs that a ``milbench run`` was to make for one table, with the options of its command line.

    Attributes:
        data, fingerprint, conditions: the table; conditions as `conditions_of` returns them.
        requested_at: when, ISO 8601.
        methods: canonical name -> digest of its code.
        folds, seeds: of every method.
        runs: id -> method of every run, where they are known beforehand; those of a tuned table depend on its studies.
        suite_methods, suite_seeds: those of the suite itself, without the options of the command line.
        source: the suite as it was given, a name or a path.
        costs: ids of the measurements of cost that belong to the same run.
        studies: name -> trials of its tuning studies, which are kept in `storage`.
        sources: name -> `milbench.config.method_sources.Sources.record` of methods that are not milbench's own.
        of_suite: whether the suite itself has this table; not where ``--budget`` gave it other conditions: then nobody
            has requested the suite's other methods and seeds under them.
    """

    data: str
    fingerprint: str
    conditions: dict[str, Any]
    requested_at: str
    methods: dict[str, str]
    folds: tuple[str, ...]
    seeds: tuple[int, ...]
    runs: dict[str, str] = field(default_factory=dict)
    suite_methods: tuple[str, ...] = ()
    suite_seeds: int = 1
    source: str = ""
    costs: tuple[str, ...] = ()
    studies: dict[str, int] = field(default_factory=dict)
    storage: str = ""
    sources: dict[str, dict[str, Any]] = field(default_factory=dict)
    of_suite: bool = True

    @property
    def key(self) -> str:
        """Return what identifies the table."""
        return table_key(self.data, self.fingerprint, self.conditions)

    def covers(self, record: RunRecord) -> bool:
        """Return whether a run is one of those requested."""
        return self.method_of(record) is not None

    def method_of(self, record: RunRecord) -> str | None:
        """Return the method, as the request names it, that a run was requested of; None where it was not."""
        if self.runs:
            return self.runs.get(record.path.name) or self.runs.get(record.spec.run_id)
        requested = self.methods.get(record.method) == record.spec.code and self.has_cell(record.spec)
        return record.method if requested else None

    def has_cell(self, spec: RunSpec) -> bool:
        """Return whether a run's fold and seed are among those requested."""
        return spec.fold in self.folds and spec.seed in self.seeds

    def wanted(self) -> set[tuple[str, str, int]]:
        """Return (method, fold, seed) of every run requested, and of every run of the suite itself in this table."""
        of_suite = ((self.suite_methods, range(self.suite_seeds)),) if self.of_suite else ()
        return {
            (method, fold, seed)
            for methods, seeds in ((self.methods, self.seeds), *of_suite)
            for method in methods
            for fold in self.folds
            for seed in seeds
        }

    def merged_with(self, known: Request) -> Request:
        """Return this request merged with the one known of the same table, where they do not contradict each other.

        For what goes along with the request of another table: runs before tuning, which a command makes for the runs
        after it, remove nothing that was requested of the table before.
        """
        both = set(known.methods) & set(self.methods)
        compatible = (
            known.folds == self.folds
            and all(known.methods[method] == self.methods[method] for method in both)
            and all(run_id in known.runs for run_id, method in self.runs.items() if method in both)
            and set(self.seeds) <= set(known.seeds)
            and (self.seeds == known.seeds or both == set(self.methods))
        )
        if not compatible:
            return self
        return replace(
            self,
            methods=known.methods | self.methods,
            seeds=known.seeds,
            runs=known.runs | self.runs,
            sources=known.sources | self.sources,
            costs=tuple(dict.fromkeys((*known.costs, *self.costs))),
        )


def requests_of(
    specs: Mapping[str, tuple[str, RunSpec]],
    requested_at: str,
    suite_methods: Collection[str],
    suite_seeds: int,
    source: str,
    ids_known: bool = True,
) -> list[Request]:
    """Return the requests, one a table, that some runs are made for.

    Args:
        specs: id -> (method, spec) of every run.
        requested_at, suite_methods, suite_seeds, source: see `Request`.
        ids_known: whether the ids are those of the runs to come.
    """
    tables: dict[str, dict[str, tuple[str, RunSpec]]] = {}
    for run_id, (method, spec) in specs.items():
        key = table_key(spec.data, spec.fingerprint, conditions_of(spec))
        tables.setdefault(key, {})[run_id] = (method, spec)
    requests = []
    for table in tables.values():
        every = list(table.values())
        requests.append(
            Request(
                data=every[0][1].data,
                fingerprint=every[0][1].fingerprint,
                conditions=conditions_of(every[0][1]),
                requested_at=requested_at,
                methods={method: spec.code for method, spec in every},
                folds=tuple(dict.fromkeys(spec.fold for _, spec in every)),
                seeds=tuple(sorted({spec.seed for _, spec in every})),
                runs={run_id: method for run_id, (method, _) in table.items()} if ids_known else {},
                suite_methods=tuple(suite_methods),
                suite_seeds=suite_seeds,
                source=source,
            )
        )
    return requests


def record_requests(store: Store, requests: Sequence[Request]) -> None:
    """Write what is requested last of some tables; nothing where these are the last requests already."""
    try:
        known = read_requests(store.folder)
    except MilbenchError:  # damaged: written anew
        known = {}
    if any(request.conditions["tuning"] is not None for request in requests):
        requests = [
            r.merged_with(known[r.key]) if r.conditions["tuning"] is None and r.key in known else r for r in requests
        ]
    same = all(r.key in known and replace(known[r.key], requested_at=r.requested_at) == r for r in requests)
    latest = min((known[r.key].requested_at for r in requests), default="") if same else ""
    others = [other for key, other in known.items() if key not in {r.key for r in requests}]
    if same and all(other.requested_at < latest for other in others):
        return
    for request in requests:
        content = {_KEYS.get(name, name): value for name, value in asdict(request).items()}
        store.publish_request(request.key, {"schema": 1, **content})


def read_requests(folder: Path) -> dict[str, Request]:
    """Read the last request of every table of a suite, by `table_key`.

    Raises:
        MilbenchError: a file is damaged.
    """
    requests = {}
    fix = "delete it and run the suite again, which writes it anew"
    for file in sorted((folder / "requests").glob("[!.]*.json")):
        try:
            content = json.loads(read_regular(file))
            check_record(content, file, fix)
            fields: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in content.items()}
            if fields.pop("schema") != 1 or not fields.pop(KEY):
                raise ValueError
            fields |= {name: fields.pop(key) for name, key in _KEYS.items()}
            request = Request(**fields)
        except (OSError, ValueError, TypeError, AttributeError, KeyError, RecursionError):
            raise MilbenchError(
                f"{file} is damaged or was written by a newer milbench; {fix}.", code="store-damaged"
            ) from None
        requests[request.key] = request
    return requests


def conditions_of(spec: RunSpec) -> dict[str, Any]:
    """Return what runs must have in common to stand in one table; a timeout, a safety net, is not part of it."""
    every = spec.identity()
    budget = {name: value for name, value in every["budget"].items() if name != "timeout_s"}
    return {name: every[name] for name in CONDITIONS} | {"budget": budget}


def table_key(data: str, fingerprint: str, conditions: Mapping[str, Any]) -> str:
    """Return 16 hexadecimal digits that identify a cohort's table."""
    return digest([data, fingerprint, dict(conditions)])


@dataclass(frozen=True)
class CohortRuns:
    """The runs of one cohort, parted into tables.

    Attributes:
        latest: spec of the run that was requested last: all tables have its features, labels, folds and protocol.
        requested: whether a run on the features, labels and folds of the last request is among them.
        tables: digest of `conditions_of` -> the runs of the table, the oldest first.
        superseded: runs that differ from `latest` in one of `SUPERSEDED`, the oldest first.
    """

    latest: RunSpec
    requested: bool
    tables: dict[str, list[RunRecord]]
    superseded: list[RunRecord]


def cohort_runs(records: Collection[RunRecord], last: Request | None = None) -> CohortRuns:
    """Part the runs of one cohort, of which there is at least one, into tables of equal conditions.

    Args:
        records: its runs.
        last: the request of the cohort that came last; None: its newest run says what was requested last.
    """
    requested = [record for record in records if last is not None and record.spec.fingerprint == last.fingerprint]
    latest = max(requested or records, key=age).spec
    tables: dict[str, list[RunRecord]] = {}
    superseded = []
    for record in sorted(records, key=age):
        if any(getattr(record.spec, name) != getattr(latest, name) for name in SUPERSEDED):
            superseded.append(record)
        else:
            tables.setdefault(digest(conditions_of(record.spec)), []).append(record)
    return CohortRuns(latest, bool(requested), tables, superseded)


@dataclass
class Selection:
    """The runs of one table that are shown, and those that are not, by the reason.

    Attributes:
        shown: method -> (fold, seed) -> run.
        cells: every (fold, seed) to be shown.
        present: (method, fold, seed) of every run there is, shown or further.
        edited: of a method -> how many runs by other code.
        replaced: of a method -> how many runs on cells that others are shown of.
        further: runs that the last request has not.
    """

    shown: dict[str, dict[tuple[str, int], RunRecord]] = field(default_factory=dict)
    cells: set[tuple[str, int]] = field(default_factory=set)
    present: set[tuple[str, str, int]] = field(default_factory=set)
    edited: Counter[str] = field(default_factory=Counter)
    replaced: Counter[str] = field(default_factory=Counter)
    further: list[RunRecord] = field(default_factory=list)

    def notes(self, name: str, request: Request | None) -> list[str]:
        """Return a sentence on every kind of run that is left out."""
        notes = [
            f"{name}: left out {count(n, 'run')} of {method} by another form of its code than the one requested last."
            for method, n in sorted(self.edited.items())
        ]
        notes += [
            f"{name}: left out {count(n, 'run')} of {method} on the same folds and seeds with another recipe, or not "
            "stacked as these, than those requested last."
            for method, n in sorted(self.replaced.items())
            if n
        ]
        if self.further and request is not None:
            notes.append(f"{name}: left out {further_runs(self.further, request)}; --all shows them too.")
        return notes


def current_runs(records: Sequence[RunRecord], request: Request | None, methods: Collection[str] = ()) -> Selection:
    """Choose the runs that a table shows: the one rule for every table, comparison, figure and report.

    Args:
        records: the runs of one table, in the order of `age`.
        request: its last one; None: whatever was run is shown.
        methods: shown on the requested folds and seeds although the request may not name them.
    """
    options = {record.method: record.spec.params for record in records}
    current, named_by = Selection(), {find_method(method, options) for method in methods}
    code = {record.method: record.spec.code for record in records}  # the latest run's, as the oldest come first
    if request is not None:
        code |= request.methods
    for record in once(records):
        spec, method = record.spec, record.method
        cell = spec.fold, spec.seed
        requested = request is None or request.has_cell(spec)
        named = request is not None and method not in request.methods and method in named_by and requested
        of_request = None if request is None else request.method_of(record)
        if of_request is not None:
            method = of_request  # the run may be stored by another name of the same class
        elif request is None or named:
            if spec.code != code[method]:
                current.edited[method] += 1
                current.cells.add(cell)
                continue
        else:
            if not requested or method not in request.methods:
                current.further.append(record)
                current.present.add((method, *cell))
            elif spec.code != code[method]:
                current.edited[method] += 1
                current.cells.add(cell)  # a run that an edit of the code left out is missing
            else:
                current.replaced[method] += 1
            continue
        current.present.add((method, *cell))
        cells = current.shown.setdefault(method, {})
        current.replaced[method] += cell in cells
        cells[cell] = record
        current.cells.add(cell)
    return current


def once(records: Iterable[RunRecord]) -> list[RunRecord]:
    """Return each run once, in the order given: of several under different timeouts one that ended ``ok``, or the last.

    Earlier versions took them for different runs.
    """
    best: dict[str, RunRecord] = {}
    for record in records:
        run_id = record.spec.run_id  # hashed at each call
        other = best.get(run_id)
        if other is None or record.outcome == "ok" or other.outcome != "ok":
            best.pop(run_id, None)
            best[run_id] = record
    return list(best.values())


def further_runs(records: Sequence[RunRecord], request: Request) -> str:
    """Return ``3 further runs, which were not requested last (method max, seed 1)``."""
    groups: dict[str, set[Any]] = {
        "method": {record.method for record in records} - set(request.methods),
        "fold": {record.spec.fold for record in records} - set(request.folds),
        "seed": {record.spec.seed for record in records} - set(request.seeds),
    }
    parts = []
    for noun, values in groups.items():
        names = [str(value) for value in sorted(values)]
        if names:
            more = f" and {len(names) - 5} more" if len(names) > 5 else ""
            parts.append(f"{noun}{'s' if len(names) > 1 else ''} {', '.join(names[:5])}{more}")
    return f"{count(len(records), 'further run')}, not requested last ({'; '.join(parts)})"


def age(record: RunRecord) -> tuple[datetime, str]:
    """Return the sort key of a run: the time of its last request; among equals, its name."""
    try:
        when = datetime.fromisoformat(str(record.record.get("asked") or record.record.get("finished")))
    except ValueError:  # it does not say
        when = datetime.min
    return when if when.tzinfo is not None else when.replace(tzinfo=UTC), record.path.name


def stamp(store: Store) -> str:
    """Return the time to mark runs with that are requested now: later than all existing marks, by whatever clock."""
    marks = (age(record)[0] + timedelta(milliseconds=1) for record in store.records())
    return max((datetime.now(UTC), *marks)).astimezone(UTC).isoformat(timespec="milliseconds")


def mark_requested(store: Store, run_ids: Collection[str], when: str) -> None:
    """Mark existing runs that a suite requests, where tables would show others in their stead.

    Args:
        store: of the suite.
        run_ids: of the requested runs; those that do not exist yet are skipped.
        when: from `stamp`.

    Raises:
        MilbenchError: a run's file cannot be written, or is damaged.
    """
    cohorts: dict[str, list[RunRecord]] = {}
    for record in store.records():
        cohorts.setdefault(record.spec.data, []).append(record)
    for records in cohorts.values():
        shown = {
            run.spec.run_id
            for table in cohort_runs(records).tables.values()
            for runs in current_runs(table, None).shown.values()
            for run in runs.values()
        }
        for record in sorted(records, key=age):
            if record.path.name in run_ids and record.spec.run_id not in shown:
                store.mark(record.path.name, when)
