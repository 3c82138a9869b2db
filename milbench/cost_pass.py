"""The costs of a suite's methods, one measurement a cohort and method, made when its runs are done.

The methods of a cohort take turns, several each: whatever slows the machine for a while slows all of them alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any

from .cost import TURNS, CostTask, Kind, pooled
from .launch.local import Result, run_all
from .measure.environment import environment, fingerprint, now, this_machine
from .plan import Overwrite, Plan
from .spec import PROTOCOL_VERSION, digest
from .store import Store
from .worker import work


@dataclass(frozen=True)
class Cost:
    """One measurement to be made: its id, what identifies it, and whether the store has one by that id."""

    cost_id: str
    record: dict[str, Any]
    task: CostTask
    exists: bool


def costs_of(plan: Plan, overwrite: Overwrite) -> Iterator[Cost]:
    """Yield the measurements still to be made: one a cohort and method, on the first fold, in this environment."""
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
            yield Cost(cost_id, record, cost, outcome is not None)


def measure_costs(store: Store, costs: Sequence[Cost], timeout_s: float | None) -> Iterator[tuple[Cost, str, str]]:
    """Measure and publish; yield each measurement with its outcome and reason as it is published.

    Args:
        store: where to.
        costs: from `costs_of`.
        timeout_s: wall seconds that one process may take.
    """

    def cohort(cost: Cost) -> tuple[str, str]:
        return cost.record["data"], cost.record["fingerprint"]

    for _, group in groupby(sorted(costs, key=cohort), key=cohort):
        measured = [_Measured(cost) for cost in group]
        for one in measured:
            one.memory(timeout_s)
            if one.outcome != "ok":
                yield one.published(store)
        for turn in range(TURNS):
            for one in measured:
                if one.outcome == "ok":
                    one.time(turn, timeout_s)
                    if one.outcome != "ok":
                        yield one.published(store)
        for one in measured:
            if one.outcome == "ok":
                yield one.published(store)


@dataclass
class _Measured:
    """What the processes of one measurement have said so far; after the first that did not end ok, its outcome."""

    cost: Cost
    outcome: str = "ok"
    reason: str = ""
    record: dict[str, Any] = field(default_factory=dict)
    turns: list[dict[str, Any]] = field(default_factory=list)

    def memory(self, timeout_s: float | None) -> None:
        kinds: tuple[Kind, Kind] = ("infer_memory", "train_memory")
        # A process's own peak does not depend on its neighbours: the two go side by side.
        jobs = 1 if self.cost.task.device_type == "cuda" else len(kinds)
        tasks = [(kind, replace(self.cost.task, kind=kind)) for kind in kinds]
        results = dict(run_all(work, tasks, jobs, timeout_s))
        for kind in kinds:
            self.record |= self._value(kind, results[kind])

    def time(self, turn: int, timeout_s: float | None) -> None:
        ((_, result),) = run_all(work, [(None, replace(self.cost.task, turn=turn))], 1, timeout_s)
        self.turns.append(self._value("time", result))

    def published(self, store: Store) -> tuple[Cost, str, str]:
        record = self.cost.record | self.record
        if self.outcome == "ok":
            record |= pooled(self.turns)
            record["memory"] = {
                "infer_peak_bytes": record["infer_memory"]["peak_bytes"],
                "train_peak_bytes": record["train_memory"]["peak_bytes"],
            }
        record.setdefault("environment", this_machine())
        record |= {"finished": now(), "outcome": self.outcome, "reason": self.reason}
        store.publish_cost(self.cost.cost_id, record, overwrite=self.cost.exists)
        return self.cost, self.outcome, self.reason

    def _value(self, kind: Kind, result: Result) -> dict[str, Any]:
        if result.outcome == "ok":
            value: dict[str, Any] = result.value
            return value
        if self.outcome != "ok":
            return {}
        self.outcome, self.reason = result.outcome, f"{kind}: {result.reason}"
        return dict((result.value or {}).get("record", {}))
