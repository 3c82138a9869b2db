"""Removal of stored runs: what a selection covers, and what else has no use once it is gone."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from ..atomic_io.publishing import inside
from ..config import digest
from ..config.method_key import spelling
from ..errors import MilbenchError, did_you_mean
from ..formatting.text import count
from ..runs.claims import STALE_S, Claims
from ..runs.current_runs import Request, conditions_of, read_requests
from ..runs.live import sessions
from ..runs.records import OUTCOMES, CostRecord, RunRecord, read_costs, read_suite, suite_folders
from ..runs.store import Store
from .runs_table import read_cohorts

_UNITS = {"min": 60, "h": 3600, "hour": 3600, "d": 86400, "day": 86400, "week": 7 * 86400}


@dataclass(frozen=True)
class Selection:
    """Which runs to remove; a run has to meet all of these. None, or empty: any.

    Attributes:
        suite: a suite, ``name`` or ``name-v1``.
        data: a cohort.
        methods: in any spelling.
        condition: of a table: the words in its heading, or the first digits of its conditions' digest.
        older: finished before this, a date (``2026-03-01``) or an age (``30 days``, ``12 h``).
        outcome: how the run ended.
        superseded: runs that no table shows any more: of other features, labels or folds, of another version of the
            protocol, by other code, or with another recipe than the runs in their place.
    """

    suite: str | None = None
    data: str | None = None
    methods: tuple[str, ...] = ()
    condition: str | None = None
    older: str | None = None
    outcome: str | None = None
    superseded: bool = False


@dataclass
class Doomed:
    """What is to be removed of one suite.

    Attributes:
        store: of the suite.
        runs: that were selected.
        costs: of methods that have no run left on their cohort.
        cohorts: folders of cohorts that have no run and no cost left.
        requests: files of tables of these cohorts.
    """

    store: Store
    runs: list[RunRecord] = field(default_factory=list)
    costs: list[CostRecord] = field(default_factory=list)
    cohorts: list[Path] = field(default_factory=list)
    requests: list[Path] = field(default_factory=list)

    @property
    def folders(self) -> list[Path]:
        """Return the folders to remove: runs first, so that an interruption leaves no run without its cohort."""
        return [*(run.path for run in self.runs), *(cost.path for cost in self.costs), *self.cohorts]


def select(root: Path, selection: Selection) -> list[Doomed]:
    """Return what a selection would remove, one entry a suite of which there is something; removes nothing.

    Args:
        root: results root, or the folder of one suite.
        selection: at least one of its fields is set.

    Raises:
        MilbenchError: the selection is empty or names something that is not there; a result is a link or is damaged.
    """
    if selection == Selection():
        raise MilbenchError(
            "say which runs: --suite, --data, -m, --condition, --older, --outcome or --superseded.",
            code="option-missing",
        )
    if selection.outcome is not None and selection.outcome not in OUTCOMES:
        hint = did_you_mean(selection.outcome, OUTCOMES)
        raise MilbenchError(
            f"--outcome is {selection.outcome!r}; it is one of {', '.join(OUTCOMES)}.{hint}", code="option-bad-value"
        )
    if selection.condition is not None and not selection.condition.strip():
        raise MilbenchError(
            "--condition is empty; give the words of a table's heading, or the first digits of it.",
            code="option-bad-value",
        )
    before = None if selection.older is None else _before(selection.older)
    selected, names, methods, conditions = [], set(), set(), dict[str, str]()
    for folder in suite_folders(root):
        suite = read_suite(folder)
        names |= {suite.name}
        if selection.suite not in (None, suite.name, f"{suite.name}-v{suite.version}"):
            continue
        store = Store(folder.parent, suite)
        records = store.records()
        methods |= {record.method for record in records}
        labels, shown = _tables(folder)
        conditions |= labels
        runs = []
        for record in records:
            key = digest(conditions_of(record.spec))
            wanted = (
                selection.data in (None, record.spec.data)
                and (not selection.methods or spelling(record.method) in set(map(spelling, selection.methods)))
                and (selection.condition is None or _is(selection.condition, key, labels))
                and (before is None or _finished(record) < before)
                and selection.outcome in (None, record.outcome)
                and not (selection.superseded and record.path in shown)
            )
            if wanted:
                runs.append(record)
        if runs:
            selected.append(_with_leftovers(store, records, runs))
    if not selected:
        _refuse(selection, root, names, methods, conditions)
    for doomed in selected:
        for path in [*doomed.folders, *doomed.requests]:
            inside(doomed.store.root, path)
    return selected


def at_work(store: Store) -> bool:
    """Whether a process of this machine or another is making runs of a suite."""
    if sessions(store.folder):
        return True
    with Claims(store.root, store.folder / ".claims") as claims:
        for file in claims.folder.glob("[!.]*.claim"):
            if claims.take(file.stem):  # its holder was killed
                claims.release(file.stem)
                continue
            with suppress(FileNotFoundError):
                # Those of another machine are touched while it is at work; clocks may differ a little.
                if time.time() - file.stat().st_mtime < 4 * STALE_S:
                    return True
    return False


def remove(doomed: Doomed) -> None:
    """Remove what was selected, each folder whole or not at all.

    Raises:
        MilbenchError: something is a link, or cannot be removed; what was removed before it stays removed.
    """
    for folder in doomed.folders:
        doomed.store.remove(folder)
    for file in doomed.requests:
        try:
            inside(doomed.store.root, file).unlink(missing_ok=True)
        except OSError as error:
            raise MilbenchError(
                f"cannot remove {file} ({error.strerror or error}); make it writable.", code="not-writable"
            ) from error


def _tables(folder: Path) -> tuple[dict[str, str], set[Path]]:
    """Return the label of every set of conditions by its digest, and the folders of all runs that tables can show."""
    try:
        cohorts = read_cohorts(folder, all_runs=True)
    except MilbenchError:  # no run at all
        return {}, set()
    labels = {digest(conditions_of(cohort.spec)): cohort.label for cohort in cohorts}
    return labels, {run.path for cohort in cohorts for runs in cohort.runs.values() for run in runs.values()}


def _is(condition: str, key: str, labels: dict[str, str]) -> bool:
    return (len(condition) >= 4 and key.startswith(condition.lower())) or labels.get(key) == condition.strip()


def _with_leftovers(store: Store, records: Sequence[RunRecord], runs: list[RunRecord]) -> Doomed:
    gone = {run.path for run in runs}
    left = [record for record in records if record.path not in gone]
    kept = {(run.spec.data, run.spec.fingerprint, run.method) for run in left}
    touched = {(run.spec.data, run.spec.fingerprint, run.method) for run in runs}
    costs = read_costs(store.folder)
    doomed = [c for c in costs if (key := (c.data, c.fingerprint, c.method)) in touched and key not in kept]
    used = {key[:2] for key in kept} | {(cost.data, cost.fingerprint) for cost in costs if cost not in doomed}
    empty = sorted({key[:2] for key in touched} - used)
    cohorts = [folder for data, fingerprint in empty if (folder := store.cohort(data, fingerprint)).exists()]
    requests = [
        store.folder / "requests" / f"{key}.json"
        for key, request in _requests(store)
        if (request.data, request.fingerprint) in empty
    ]
    return Doomed(store, runs, doomed, cohorts, requests)


def _requests(store: Store) -> Iterator[tuple[str, Request]]:
    try:
        yield from read_requests(store.folder).items()
    except MilbenchError:  # damaged: the next run writes it anew
        return


def _finished(record: RunRecord) -> datetime:
    try:
        when = datetime.fromisoformat(str(record.record.get("finished")))
    except ValueError:  # the record does not say: as new as can be, so that age alone never selects it
        return datetime.max.replace(tzinfo=UTC)
    return when if when.tzinfo is not None else when.replace(tzinfo=UTC)


def _before(text: str) -> datetime:
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(min|h|hour|d|day|week)s?\s*", text)
    try:
        if match:
            return datetime.now(UTC) - timedelta(seconds=float(match[1]) * _UNITS[match[2]])
        when = datetime.fromisoformat(text.strip())
    except (ValueError, OverflowError):
        raise MilbenchError(
            f"--older is {text!r}; it is an age such as '30 days' or a date such as 2026-03-01.",
            code="option-bad-value",
        ) from None
    return when if when.tzinfo is not None else when.astimezone()


def _refuse(selection: Selection, root: Path, names: set[str], methods: set[str], conditions: dict[str, str]) -> None:
    """Name the part of an empty selection that names nothing; say nothing where all of them do."""
    suite = selection.suite
    if suite is not None and not any(suite == name or suite.startswith(f"{name}-v") for name in names):
        raise MilbenchError(f"no suite {suite!r} in {root}.{did_you_mean(suite, names)}", code="results-unknown-name")
    for method in selection.methods:
        if spelling(method) not in set(map(spelling, methods)):
            raise MilbenchError(
                f"no run of {method!r} in {root}.{did_you_mean(method, methods)}", code="results-unknown-name"
            )
    if selection.condition is not None and not any(_is(selection.condition, key, conditions) for key in conditions):
        known = ", ".join(f"{key[:6]} ({label or 'the only table'})" for key, label in sorted(conditions.items()))
        raise MilbenchError(
            f"no table of condition {selection.condition!r} in {root}; there are: {known or 'none'}.",
            code="results-unknown-name",
        )


def summary(doomed: Doomed) -> str:
    """Return ``s-v1: 3 runs, 1 cost and 1 cohort``."""
    parts = [count(len(doomed.runs), "run")]
    if doomed.costs:
        parts.append(count(len(doomed.costs), "measurement") + " of cost")
    if doomed.cohorts:
        parts.append(count(len(doomed.cohorts), "cohort") + " with no run left")
    return f"{doomed.store.folder.name}: {', '.join(parts)}"
