"""The costs of a suite's methods, one measurement a cohort and method, made when its runs are done.

The methods of a cohort are interleaved over several rounds: whatever slows the machine for a while slows them equally.
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any

from ...config import PROTOCOL_VERSION, digest
from ...measure.environment import environment, fingerprint, now, this_machine
from ...measure.load import Load, apart
from ..launchers.base import Outcome
from ..launchers.local import run_all
from ..plan import Overwrite, Plan
from ..store import Store
from ..worker import work
from .benchmark import COST_VERSION, ROUNDS, CostTask, Kind, pooled, unpooled


@dataclass(frozen=True)
class Cost:
    """One measurement to be made, or to be completed.

    Attributes:
        cost_id: names it in the store.
        record: its identity.
        task: of its first process.
        kept: the stored measurement of that id, or None.
        anew: begin again although it is stored.
    """

    cost_id: str
    record: dict[str, Any]
    task: CostTask
    kept: dict[str, Any] | None
    anew: bool = False


def pending_costs(plan: Plan, overwrite: Overwrite) -> Iterator[Cost]:
    """Yield the measurements still to be made: one a cohort and method, on the first fold, in this environment."""
    here = _environment(plan)
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
            "cost_version": COST_VERSION,
        }
        hashed = record | {"recipe": spec.recipe.identity()}
        if spec.recipe.class_weights != "none":  # measurements of before took steps without the weights
            hashed |= {"weighted_steps": True}
        cost_id = digest(hashed | {"environment": fingerprint(here), "protocol_version": PROTOCOL_VERSION})
        if cost_id in seen:
            continue
        seen.add(cost_id)
        kept = plan.store.cost(cost_id)
        if kept is not None:
            failed, whole = kept["outcome"] != "ok", len(kept.get("turns", ())) >= ROUNDS
            if (overwrite in ("missing", "missing-models") and (failed or whole)) or (
                overwrite == "failed" and whole and not failed
            ):
                continue
        cost = CostTask("time", task.method, spec.recipe, task.cache_path, task.n_classes, task.train, task.test,
                        spec.threads, spec.device_type, task=spec.task)  # fmt: skip
        yield Cost(cost_id, record, cost, kept, anew=overwrite in ("all", "costs"))


def claim_of(plan: Plan) -> str:
    """Return the name of the claim to measure a plan's costs in this environment: one process makes all of them."""
    # Not one a measurement: two that go at the same time disturb each other.
    return f"costs-{fingerprint(_environment(plan))}"


def _environment(plan: Plan) -> dict[str, Any]:
    """Return the environment as a measuring process will see it, however many threads this one has."""
    here = environment()
    here["numerics"]["threads"] = plan.suite.threads
    return here


def still_open(store: Store, costs: Sequence[Cost]) -> list[Cost]:
    """Return the measurements that no other process has made since they were planned, with what the store has now."""
    left = []
    for cost in costs:
        kept = store.cost(cost.cost_id)
        if kept == cost.kept:
            left.append(cost)
        elif kept is not None and kept["outcome"] == "ok" and len(kept.get("turns", ())) < ROUNDS:
            left.append(replace(cost, kept=kept, anew=False))  # begun by a process that was killed
    return left


def costs_apart(plan: Plan, measured: Collection[str]) -> list[Cost]:
    """Return measurements to be made again, since the machine was another one when they were made: faster or slower.

    They are those of cohorts of which others have just been measured, of an earlier moment in which the machine's
    yardsticks differ from those of the others by more than `milbench.measure.load.APART`.

    Args:
        plan: after its costs were measured.
        measured: ids of those that were measured now.
    """

    def cohort(cost: Cost) -> tuple[str, str]:
        return cost.record["data"], cost.record["fingerprint"]

    again: list[Cost] = []
    for _, group in groupby(sorted(pending_costs(plan, "all"), key=cohort), key=cohort):
        done = {cost.cost_id: cost for cost in group if cost.kept is not None and cost.kept["outcome"] == "ok"}
        now_made = [cost.kept for name, cost in done.items() if name in measured and cost.kept]
        for cost_id, cost in done.items():
            pairs = ((cost.kept, other) for other in now_made)
            if cost_id not in measured and any(one and apart(one, other) for one, other in pairs):
                again.append(cost)
    return again


@dataclass(frozen=True)
class CostProgress:
    """How one turn of a measurement ended, and whether it was the last."""

    cost: Cost
    turn: int
    outcome: str
    reason: str
    last: bool


def measure_costs(store: Store, costs: Sequence[Cost], timeout_s: float | None) -> Iterator[CostProgress]:
    """Measure, and publish after every turn what is known by then; who is interrupted loses the turn under way.

    Args:
        store: where to.
        costs: from `pending_costs`.
        timeout_s: wall seconds that one process may take.
    """

    def cohort(cost: Cost) -> tuple[str, str]:
        return cost.record["data"], cost.record["fingerprint"]

    for _, group in groupby(sorted(costs, key=cohort), key=cohort):
        measured, yardstick = [_CostMeasurement.of(cost) for cost in group], _LatestYardstick()
        for turn in range(ROUNDS):
            # Alternate the order each round, so that drift affects all methods equally.
            for one in measured if turn % 2 == 0 else reversed(measured):
                if one.outcome == "ok" and len(one.turns) == turn:
                    one.take_turn(timeout_s, yardstick)
                    one.publish(store)
                    yield CostProgress(
                        one.cost, turn, one.outcome, one.reason, one.outcome != "ok" or turn == ROUNDS - 1
                    )


#: Seconds for which the rates of a machine are taken for its rates now. They take as long to measure as a small method.
YARDSTICK_S = 2.0


@dataclass
class _LatestYardstick:
    """The machine's own rates, and when a measurement that took them had ended."""

    rates: dict[str, float] | None = None
    at: float = -math.inf

    def now(self) -> dict[str, float] | None:
        """Return the rates where they are of now."""
        return self.rates if time.monotonic() - self.at <= YARDSTICK_S else None

    def take(self, rates: dict[str, float]) -> None:
        """Keep rates that have just been measured."""
        self.rates, self.at = rates, time.monotonic()


@dataclass
class _CostMeasurement:
    """The results of the processes of one measurement so far; after the first that did not end ok, its outcome."""

    cost: Cost
    outcome: str = "ok"
    reason: str = ""
    record: dict[str, Any] = field(default_factory=dict)
    turns: list[dict[str, Any]] = field(default_factory=list)
    exists: bool = False

    @classmethod
    def of(cls, cost: Cost) -> _CostMeasurement:
        kept = cost.kept
        if kept is None or cost.anew or kept["outcome"] != "ok":
            return cls(cost, exists=kept is not None)
        return cls(cost, record=kept, turns=unpooled(kept), exists=True)

    def take_turn(self, timeout_s: float | None, yardstick: _LatestYardstick) -> None:
        if not self.turns:
            self._memory(timeout_s)
        if self.outcome == "ok":
            rates = yardstick.now()
            task = replace(self.cost.task, turn=len(self.turns), yardstick=rates is None)
            load = Load()
            ((_, result),) = run_all(work, [(None, task)], 1, timeout_s)
            moment: dict[str, Any] = load.reading() | {"at": now(), "threads": task.threads}
            if (value := self._value("time", result)) is not None:
                self.record.setdefault("environment", value.pop("environment"))
                if (taken := value.pop("yardstick", None)) is not None:
                    yardstick.take(rates := taken)
                if rates is not None:
                    moment["yardstick"] = rates
                self.turns.append(value)
                self.record["moments"] = [*self.record.get("moments", ()), moment]

    def publish(self, store: Store) -> None:
        record = self.record | self.cost.record
        if self.outcome == "ok":
            record |= pooled(self.turns)
            record["memory"] = {
                "infer_peak_bytes": record["infer_memory"]["peak_bytes"],
                "train_peak_bytes": record["train_memory"]["peak_bytes"],
            }
        record.setdefault("environment", this_machine())
        record["unfinished"] = self.outcome == "ok" and len(self.turns) < ROUNDS
        record |= {"finished": now(), "outcome": self.outcome, "reason": self.reason}
        store.publish_cost(self.cost.cost_id, record, overwrite=self.exists)
        self.exists = True

    def _memory(self, timeout_s: float | None) -> None:
        kinds: tuple[Kind, Kind] = ("infer_memory", "train_memory")
        # A process's own peak does not depend on its neighbours: the two go side by side.
        jobs = 1 if self.cost.task.device_type == "cuda" else len(kinds)
        tasks = [(kind, replace(self.cost.task, kind=kind)) for kind in kinds]
        results = dict(run_all(work, tasks, jobs, timeout_s))
        for kind in kinds:
            self.record |= self._value(kind, results[kind]) or {}

    def _value(self, kind: Kind, result: Outcome) -> dict[str, Any] | None:
        if result.outcome == "ok":
            return dict(result.value)
        if self.outcome == "ok":
            self.outcome, self.reason = result.outcome, f"{kind}: {result.reason}"
            self.record |= (result.value or {}).get("record", {})
        return None
