"""The runs of a cohort that one table is made of: read from the store, current, and matched."""

from __future__ import annotations

import io
import json
import re
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pandas as pd

from ..atomic_io.checksums import FILES
from ..atomic_io.manifest import no_manifest, read_listed, read_manifest
from ..atomic_io.publishing import child
from ..config import Tuned, digest
from ..errors import MilbenchError, did_you_mean
from ..formatting.text import count
from ..runs.current_runs import (
    CONDITIONS,
    SUPERSEDED,
    Request,
    cohort_runs,
    conditions_of,
    current_runs,
    read_requests,
    table_key,
)
from ..runs.records import CostRecord, RunRecord, read_costs, read_runs, read_suite, suite_folders
from ..runs.store import Store
from ..tasks import is_ranked, task_named

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from ..config import RunSpec, Suite


_OTHER = {
    "fingerprint": "other features, labels or folds", "protocol_version": "another version of the protocol",
}  # fmt: skip


#: What to do about a damaged file of a stored cohort.
_AGAIN = "run the suite again to write it"


Cell = tuple[str, int]


Kept = Literal["last", "best-val", "oracle"]


@dataclass(frozen=True)
class RunGroup:
    """The runs of one cohort that belong in one table: same bags, same protocol, same budget.

    Attributes:
        folder: the suite's results folder.
        spec: of one of the runs: what all of them have in common is `CONDITIONS`.
        label: distinguishes this table from others of the same cohort; empty where there is one.
        cells: every (fold, seed) that any method was run on.
        runs: method -> (fold, seed) -> the latest run.
        costs: method -> its cost measurements.
        notes: sentences for the reader about what was left out.
        request: the last request for this table; None for results of earlier versions.
        present: (method, fold, seed) of every run under these conditions, shown or not.
        absent: method -> why none of its runs is here, though there are some of the cohort; with ``{other}`` for the
            method that it is compared with.
    """

    folder: Path
    suite: Suite
    data: str
    fingerprint: str
    spec: RunSpec
    label: str
    cells: tuple[Cell, ...]
    runs: dict[str, dict[Cell, RunRecord]]
    costs: dict[str, list[CostRecord]]
    notes: list[str] = field(default_factory=list)
    request: Request | None = None
    present: frozenset[tuple[str, str, int]] = frozenset()
    absent: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Return ``suite-v1 / data``, with the label where there is one, for messages."""
        return f"{self.key} / {self.label}" if self.label else self.key

    @property
    def key(self) -> str:
        """Return ``suite-v1 / data``: what the cohort's tables share."""
        return f"{self.suite.name}-v{self.suite.version} / {self.data}"

    @property
    def oracle(self) -> bool:
        """Return whether the runs were selected on test, and so are never ranked."""
        return self.spec.protocol.checkpoint == "oracle"

    @property
    def ranked(self) -> bool:
        """Return whether tables of AUC are made of its runs."""
        return is_ranked(self.spec.task)

    def labels(self) -> pd.DataFrame:
        """Read the labels, once: indexed by ``slide_id`` (text), columns ``patient_id`` (text) and ``label`` (int),
        or the columns of another task (`milbench.tasks.Task.target_columns`).

        Not to be written to.
        """
        return self._labels

    @cached_property
    def _labels(self) -> pd.DataFrame:
        file = self._cohort / "labels.csv"
        try:
            content = io.BytesIO(self.listed(file.name))
            table = pd.read_csv(content, dtype={"slide_id": str, "patient_id": str}, keep_default_na=False)
            columns = task_named(self.spec.task).target_columns
            table = table.astype(columns).set_index("slide_id")[["patient_id", *columns]]
        except MilbenchError:
            raise
        except (KeyError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise MilbenchError(
                f"{file} is no table of slide_id, patient_id, label ({reason}); run again.", code="cohort-damaged"
            ) from error
        if table.index.has_duplicates:
            raise MilbenchError(
                f"{file} has slide {table.index[table.index.duplicated()][0]!r} twice; run again.",
                code="cohort-damaged",
            )
        # A slide without patient is its own.
        return table.assign(patient_id=table["patient_id"].where(table["patient_id"] != "", table.index))

    def classes(self) -> list[str]:
        """Read the names of the classes, in class order."""
        file = self._cohort / "classes.json"
        try:
            return [str(name) for name in json.loads(self.listed(file.name))]
        except MilbenchError:
            raise
        except (TypeError, ValueError, RecursionError) as error:
            raise MilbenchError(
                f"{file} is missing or damaged; run the suite again to write it.", code="cohort-damaged"
            ) from error

    def waived(self) -> dict[str, str]:
        """Read the waived findings of ``milbench audit``: code -> the first such finding."""
        if not any(data.waive for data in self.suite.data if data.name == self.data):
            return {}
        file = self._cohort / "audit.json"
        findings: dict[str, list[str]] = {}
        try:
            for finding in json.loads(self.listed(file.name)):
                if finding["waived"]:
                    where = "" if finding["fold"] is None else f"fold {finding['fold']}: "
                    findings.setdefault(str(finding["code"]), []).append(f"{where}{finding['message']}")
        except MilbenchError:
            raise
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise MilbenchError(
                f"{file} is missing or damaged; run the suite again to write it.", code="cohort-damaged"
            ) from error
        return {
            code: texts[0] + (f" And {len(texts) - 1} more." if texts[1:] else "") for code, texts in findings.items()
        }

    def lacking(self) -> int:
        """Return how many of the runs that the suite asks for here, methods x folds x seeds, are not there at all.

        Those of its last request count too. Where none was recorded, methods are counted by their names without
        parameters, whose spelling the suite is free in.
        """
        if self.request is not None:
            return len(self.request.wanted() - self.present)
        folds = len(list((self._cohort / "folds").glob("*.csv")))
        use = next((data.split.use for data in self.suite.data if data.name == self.data), None)
        cells = self.suite.seeds * (folds if use is None else min(folds, use))
        gaps = sum(max(0, cells - sum(s < self.suite.seeds for _, s in runs)) for runs in self.runs.values())
        named = [Counter(m.partition("[")[0].strip() for m in methods) for methods in (self.suite.methods, self.runs)]
        return gaps + cells * (named[0] - named[1]).total()

    def parts(self, fold: str) -> pd.Series[str] | None:
        """Read the part, train, val or test, of every slide of a fold; None where the store does not hold the fold.

        Raises:
            MilbenchError: the fold is damaged.
        """
        name = child(Path("folds"), fold, ".csv", "fold").as_posix()
        if not (self._cohort / name).exists():
            return None
        try:
            table = pd.read_csv(io.BytesIO(self.listed(name)), dtype=str, keep_default_na=False)
            return table.set_index("slide_id")["split"]
        except MilbenchError:
            raise
        except (KeyError, ValueError) as error:
            raise MilbenchError(
                f"{self._cohort / name} is no table of slide_id and split; {_AGAIN}.", code="cohort-damaged"
            ) from error

    def tested(self, fold: str) -> set[str] | None:
        """Return the slides that a fold tests; None where the store does not hold the fold.

        Raises:
            MilbenchError: the fold is damaged.
        """
        parts = self.parts(fold)
        return None if parts is None else set(parts.index[parts == "test"])

    def listed(self, name: str) -> bytes:
        """Return the content of a file of the cohort, compared with its checksum where there is one."""
        content = read_listed(self._cohort, name, _AGAIN)
        manifest = read_manifest(self._cohort, _AGAIN)
        if manifest is None and any(FILES in run.record for runs in self.runs.values() for run in runs.values()):
            raise MilbenchError(
                no_manifest(self._cohort, _AGAIN), code="cohort-damaged"
            )  # both came with the same version
        if manifest is not None and manifest.get("fingerprint") != self.fingerprint:
            raise MilbenchError(
                f"{self._cohort} holds the labels and folds of fingerprint {manifest.get('fingerprint')}; {_AGAIN}.",
                code="cohort-damaged",
            )
        return content

    @property
    def _cohort(self) -> Path:
        return Store(self.folder.parent, self.suite).cohort(self.data, self.fingerprint)


def read_cohorts(
    root: Path,
    suite: str | None = None,
    data: str | None = None,
    methods: Collection[str] = (),
    all_runs: bool = False,
    without: Collection[str] = (),
) -> list[RunGroup]:
    """Read the runs below a results root, cohort by cohort: those of the last request of each suite.

    Args:
        root: results root, or the folder of one suite.
        suite: only this suite, ``name`` or ``name-v1``.
        data: only this cohort.
        methods: read these too, on the folds and seeds of the last request, where it leaves them out.
        all_runs: read every stored run, not only those of the last request.
        without: names of suites' folders that are passed over.

    Raises:
        MilbenchError: nothing is there, or nothing of that name.
    """
    groups: list[RunGroup] = []
    suites: set[str] = set()
    names: set[str] = set()
    left_out: list[str] = []
    for folder in suite_folders(root):
        if folder.name in without:
            continue
        spec = read_suite(folder)
        suites |= {spec.name}
        if suite is not None and suite not in (spec.name, f"{spec.name}-v{spec.version}"):
            continue
        by_data: dict[str, list[RunRecord]] = {}
        for record in read_runs(folder):
            by_data.setdefault(record.spec.data, []).append(record)
        names |= set(by_data)
        order = [d.name for d in spec.data]
        wanted = sorted(by_data if data is None else {data} & set(by_data))
        wanted.sort(key=lambda name: order.index(name) if name in order else len(order))
        requests = {} if all_runs else read_requests(folder)
        for name in wanted:
            tables, notes = _tables(folder, spec, name, by_data[name], requests, methods)
            groups += tables
            left_out += notes if not tables else []
    if groups:
        return groups
    if suite is not None and suites and not any(suite.startswith(s) for s in suites):
        raise MilbenchError(f"no suite {suite!r} in {root}.{did_you_mean(suite, suites)}", code="results-unknown-name")
    if data is not None and names:
        raise MilbenchError(f"no cohort {data!r} in {root}.{did_you_mean(data, names)}", code="results-unknown-name")
    if left_out:
        reason = left_out[-1].removesuffix("; --all shows them too.").removesuffix(".")
        raise MilbenchError(
            f"no run of the last request is done; {reason}; --all shows all stored runs.", code="runs-not-done"
        )
    raise MilbenchError(
        f"{root} holds no finished runs{f' of {suite}' if suite else ''}; run: milbench run quickstart.",
        code="results-missing",
    )


def ranked_alone(cohorts: Sequence[RunGroup]) -> tuple[list[RunGroup], list[str]]:
    """Return the cohorts of which tables of AUC are made, and a note on each of the others.

    Raises:
        MilbenchError: there are cohorts, and none is of classification.
    """
    ranked = [cohort for cohort in cohorts if cohort.ranked]
    others = dict.fromkeys((cohort.key, cohort.spec.task) for cohort in cohorts if not cohort.ranked)
    if others and not ranked:
        key, task = next(iter(others))
        raise MilbenchError(
            f"{key} is of the task {task}, and tables of AUC are of classification alone; score its predictions by "
            "milbench.tasks.",
            code="results-not-ranked",
        )
    return ranked, [
        f"{key} is left out: it is of the task {task}, and tables of AUC are of classification alone."
        for key, task in others
    ]


def _tables(
    folder: Path,
    suite: Suite,
    data: str,
    records: list[RunRecord],
    requests: dict[str, Request],
    methods: Collection[str],
) -> tuple[list[RunGroup], list[str]]:
    """Part a cohort's runs into tables of equal conditions; superseded runs are left out, and a note says so.

    Returns:
        the tables that have runs to show, and all notes.
    """
    where = f"{suite.name}-v{suite.version} / {data}"
    last = max((r for r in requests.values() if r.data == data), key=lambda r: r.requested_at, default=None)
    cohort = cohort_runs(records, last)
    latest, groups = cohort.latest, cohort.tables
    superseded = {record.method: record.spec for record in cohort.superseded}  # of each method, the last one
    differences = Counter(
        " and ".join(_OTHER[name] for name in SUPERSEDED if getattr(record.spec, name) != getattr(latest, name))
        for record in cohort.superseded
    )
    notes = [
        f"{where}: left out {count(n, 'run')} made with {what} than those of the last request."
        for what, n in sorted(differences.items())
    ]
    if last is not None and not cohort.requested:
        notes.append(
            f"{where}: the suite was last run on other features, labels or folds than these, and none of those runs is "
            "done."
        )
    specs = [group[-1].spec for group in groups.values()]
    differ = [name for name in CONDITIONS if len({digest(conditions_of(spec)[name]) for spec in specs}) > 1]
    costs: dict[str, list[CostRecord]] = {}
    for cost in read_costs(folder):
        if cost.data == data and cost.fingerprint == latest.fingerprint:
            costs.setdefault(cost.method, []).append(cost)
    every = [
        _table(folder, suite, data, group, label, costs, requests.get(_key(group[-1].spec)), methods)
        for group, label in zip(groups.values(), _labels(specs, differ), strict=True)
    ]
    tables = [table for table in every if table.runs]
    if len(tables) > 1:
        when = ["" if table.request is None else table.request.requested_at for table in tables]
        newest = [table.label for table, time in zip(tables, when, strict=True) if time == max(when) != ""]
        which = f" {' and '.join(newest)} {'was' if len(newest) == 1 else 'were'} requested last." if newest else ""
        notes.append(
            f"{where}: runs differ in {', '.join(differ)}; they stand in {len(tables)} tables and are not ranked "
            f"against each other.{which}"
        )
    tables.sort(key=lambda table: (table.oracle, table.spec.tuning is not None))
    for table in tables:
        absent = {method: old for method, old in superseded.items() if method not in table.runs}
        table.absent.update({method: _superseded(folder, suite, old, latest) for method, old in absent.items()})
    notes += [note for table in every if not table.runs for note in table.notes]
    if tables:
        tables[0].notes[:0] = notes
    return tables, notes


def _key(spec: RunSpec) -> str:
    return table_key(spec.data, spec.fingerprint, conditions_of(spec))


def _superseded(folder: Path, suite: Suite, old: RunSpec, latest: RunSpec) -> str:
    """Return how superseded runs differ from those shown: ``on other slides than {other} (60 and 66)``."""
    if old.fingerprint == latest.fingerprint:
        return "under another version of the protocol than {other}"
    store, slides = Store(folder.parent, suite), []
    for spec in (old, latest):
        try:
            text = (store.cohort(spec.data, spec.fingerprint) / "labels.csv").read_text(encoding="utf-8")
        except (OSError, ValueError):
            return "with other features, labels or folds than {other}"
        slides.append(len(text.splitlines()) - 1)
    if slides[0] == slides[1]:
        return f"with other features, labels or folds than {{other}}, both of {slides[0]:,} slides"
    return f"on other slides than {{other}} ({slides[0]:,} and {slides[1]:,})"


def _labels(specs: list[RunSpec], differ: list[str]) -> list[str]:
    """Return what tells tables apart, in words; where words would not, with some digits of the conditions' digest."""
    tunings = [spec.tuning.model_dump(mode="json") for spec in specs if spec.tuning is not None]
    varied = [name for name in Tuned.model_fields if len({digest(tuning[name]) for tuning in tunings}) > 1]

    def tuned(spec: RunSpec) -> str:
        if spec.tuning is None:
            return "not tuned"
        more = [f"{name} {getattr(spec.tuning, name)}" for name in varied if name not in ("trials", "space")]
        return ", ".join([f"tuned, {spec.tuning.trials} trials", *more])

    labels = []
    for spec in specs:
        words = {
            "budget": str(spec.budget),
            "tuning": tuned(spec),
            "protocol": f"checkpoint {spec.protocol.checkpoint}, monitor {spec.protocol.monitor}",
            "threads": f"{spec.threads} threads",
            "device_type": spec.device_type,
        }
        labels.append("; ".join(words[name] for name in differ))
    return [
        f"{label} ({digest(conditions_of(spec))[:6]})" if labels.count(label) > 1 else label
        for label, spec in zip(labels, specs, strict=True)
    ]


def repetitions(folds: pd.Series[str]) -> pd.Series[str]:
    """Return `repetition_of` of each fold; NaN where folds are not so named."""
    return pd.Series([repetition_of(str(fold)) for fold in folds], index=folds.index, dtype="str")


def repetition_of(fold: str) -> str | None:
    """Return which repetition of a k-fold a fold is of, ``3`` of ``r3-f0``; None where it is not so named."""
    match = re.search(r"r(\d+)-f\d+", fold)
    return None if match is None else match[1]


def _table(
    folder: Path,
    suite: Suite,
    data: str,
    records: list[RunRecord],
    label: str,
    costs: dict[str, list[CostRecord]],
    request: Request | None,
    methods: Collection[str],
) -> RunGroup:
    spec = records[-1].spec
    current = current_runs(records, request, methods)
    code = {method: next(iter(runs.values())).spec.code for method, runs in current.shown.items()}
    costs = {method: [c for c in measured if c.code == code.get(method, c.code)] for method, measured in costs.items()}
    cells = tuple(sorted(current.cells))
    shown = dict(sorted(current.shown.items()))
    table = RunGroup(folder, suite, data, spec.fingerprint, spec, label, cells, shown, costs, request=request,
                       present=frozenset(current.present))  # fmt: skip
    table.notes.extend(current.notes(table.name, request))
    return table
