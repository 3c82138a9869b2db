"""What trainings used of their budgets, what that bought, and when: from the records of runs alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..errors import MilbenchError
from ..stats.base import TIE
from ..tasks import task_named

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..config import Budget
    from ..runs.records import RunRecord
    from .runs_table import RunGroup

#: The axes an anytime curve is drawn over.
AXES = ("steps", "flops", "device_seconds")

#: Columns that `spent` fills.
SPENT = (
    "evaluations", "train_steps", "train_flops", "train_device_seconds", "run_peak_memory_bytes", "budget_used",
    "budget_overshoot_steps", "runs_subsampled", "trials", "trials_ok", "tuning_device_seconds",
    "tuning_flops", "time_to_target_s",
)  # fmt: skip

#: cost column -> flag of the methods no other beats in AUC without costing more
FRONTS = {
    "train_device_seconds": "front_device_seconds",
    "train_flops": "front_flops",
    "run_peak_memory_bytes": "front_memory",
}


def spent(runs: Sequence[RunRecord], target_auc: float | None = None) -> dict[str, Any]:
    """Return what a method's ``ok`` runs used, columns `SPENT`.

    Means over runs of ``evaluations``, ``train_steps``, ``train_flops`` and ``train_device_seconds``; the largest
    ``run_peak_memory_bytes``; ``budget_used``: the largest share of the budget that a run used, NaN without one;
    ``budget_overshoot_steps``: the largest overshoot in units of the run's last step, at most 1; ``runs_subsampled``:
    how many were trained on parts of bags as whole ones exceeded the memory; ``trials`` of a study and, mean over
    studies, ``trials_ok`` and what all its trials used; ``time_to_target_s``: median over runs of the device-seconds to
    a validation AUC, infinite where it was missed, NaN where none was requested.
    """
    records = [run.record for run in runs if run.outcome == "ok"]
    trained = [r.get("train") or {} for r in records]
    used = [b for r in records if (b := r.get("budget_used") or {}).get("track")]
    studies = {
        (run.spec.fold, str(run.record["tuned"])): run.record["tuned"] for run in runs if run.record.get("tuned")
    }
    tuned = list(studies.values())
    return {
        "evaluations": _mean(t.get("evaluations") for t in trained),
        "train_steps": _mean(t.get("steps") for t in trained),
        "train_flops": _mean(t.get("flops") for t in trained),
        "train_device_seconds": _mean(t.get("device_seconds") for t in trained),
        "run_peak_memory_bytes": max(
            (float(p) for r in records if (p := r.get("peak_memory_bytes")) is not None), default=np.nan
        ),
        "budget_used": max((b["used"] / b["allowed"] for b in used), default=np.nan),
        "budget_overshoot_steps": max(
            (b["overshoot"] / b["last_step"] for b in used if b["last_step"]), default=np.nan
        ),
        "runs_subsampled": sum(r.get("max_instances") is not None for r in records),
        "trials": max((t["trials"] for t in tuned), default=0),
        "trials_ok": _mean(t["outcomes"].get("ok", 0) for t in tuned),
        "tuning_device_seconds": _mean(t["used"].get("device_seconds") for t in tuned),
        "tuning_flops": _mean(t["used"].get("flops") for t in tuned),
        "time_to_target_s": _time_to(target_auc, [run for run in runs if run.outcome == "ok"]),
    }


def missing_flops(runs: Sequence[RunRecord]) -> str:
    """Return why the operations of a method's trainings are not known; empty where they are, or no run says why."""
    trained = [run.record.get("train") or {} for run in runs if run.outcome == "ok"]
    return next((str(t["flops_missing"]) for t in trained if t.get("flops_missing")), "")


def mark_pareto_optimal(rows: list[dict[str, Any]], budget: Budget) -> None:
    """Set the flags of `FRONTS` in the rows of one table.

    None for methods without a rank, and on an axis where some ranked method's cost is not known. On the axis that the
    budget sets, what was used beyond it (a part of the last step) does not count.
    """
    for cost, flag in FRONTS.items():
        allowed = getattr(budget, cost.removeprefix("train_")) if cost == f"train_{budget.track}" else np.inf
        ranked = [row for row in rows if row["rank"] == row["rank"]]
        for row in rows:
            row[flag] = None
        if any(row[cost] != row[cost] for row in ranked):  # it might have been better for less
            continue
        points = [(row, min(row[cost], allowed), row["auc"]) for row in ranked]
        for row, price, auc in points:
            row[flag] = not any(
                p <= price and a >= auc - TIE and (p < price or a > auc + TIE)
                for other, p, a in points
                if other is not row
            )


def curves(cohorts: Sequence[RunGroup], axis: str = "device_seconds", points: int = 50) -> pd.DataFrame:
    """Return anytime curves: the validation AUC a method would have had, had it been stopped earlier.

    At every point it is the AUC of the evaluation that the protocol would have kept until then.

    Args:
        cohorts: tables of runs.
        axis: one of `AXES`.
        points: of each curve, evenly spaced on a logarithmic axis, from where all of the method's runs had been
            evaluated to the end of the one that ended first.

    Returns:
        one row a table, method and point: ``suite``, ``version``, ``data``, ``conditions``, ``method``, ``family``,
        ``axis``, ``x``, ``auc`` (mean over runs), ``low``, ``high`` (smallest and largest over runs), ``runs``.
    """
    if axis not in AXES:
        raise MilbenchError(
            f"{axis!r} is no axis of an anytime curve; choose one of {', '.join(AXES)}.", code="option-bad-value"
        )
    parts = []
    for cohort in cohorts:
        steps = {
            method: [s for run in runs.values() if run.outcome == "ok" and (s := _staircase(run, axis)) is not None]
            for method, runs in cohort.runs.items()
        }
        for method, stairs in steps.items():
            if not stairs:
                continue
            # Of all runs throughout: a mean over a few of them would jump where the others come in.
            first, last = max(x[0] for x, _ in stairs), min(x[-1] for x, _ in stairs)
            grid = np.geomspace(first, last, points) if first < last else np.array([last])
            grid[-1] = last  # exactly, whatever the logarithm makes of it
            values = np.array([_at(grid, *stair) for stair in stairs])
            seen = np.isfinite(values).sum(axis=0)
            keep = seen > 0
            some = values[:, keep]
            family = str(next(iter(cohort.runs[method].values())).record.get("family") or "")
            parts.append(pd.DataFrame({
                "suite": cohort.suite.name, "version": cohort.suite.version, "data": cohort.data,
                "conditions": cohort.label, "method": method, "family": family, "axis": axis, "x": grid[keep],
                "auc": np.nanmean(some, axis=0), "low": np.nanmin(some, axis=0), "high": np.nanmax(some, axis=0),
                "runs": seen[keep],
            }))  # fmt: skip
    columns = ["suite", "version", "data", "conditions", "method", "family", "axis", "x", "auc", "low", "high", "runs"]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)


def _staircase(run: RunRecord, axis: str) -> tuple[np.ndarray, np.ndarray] | None:
    """Return where a run was evaluated and the validation AUC of what it would have kept, (k,) each."""
    history = run.history()
    if history is None or "val_auc" not in history or axis not in history or history[axis].isna().any():
        return None
    x, auc = history[axis].to_numpy(float), history["val_auc"].to_numpy(float)
    if run.spec.protocol.checkpoint == "last":
        return x, auc
    monitor = task_named(run.spec.task).monitor(run.spec.protocol.monitor)
    best = monitor.to_minimise(history[monitor.name]).fillna(np.inf).to_numpy(float)
    kept = [int(np.argmin(best[: i + 1])) for i in range(len(best))]
    return x, auc[kept]


def _at(grid: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the value of a staircase at the points of a grid; NaN before its first step."""
    at = np.searchsorted(x, grid, side="right") - 1
    return np.where(at >= 0, y[np.maximum(at, 0)], np.nan)


def _time_to(target: float | None, runs: list[RunRecord]) -> float:
    if target is None or not runs:
        return float("nan")
    times = []
    for run in runs:
        stair = _staircase(run, "device_seconds")
        reached = np.flatnonzero(stair[1] >= target) if stair is not None else np.empty(0, dtype=int)
        times.append(float(stair[0][reached[0]]) if stair is not None and len(reached) else np.inf)
    return float(np.median(times))


def _mean(values: Any) -> float:
    known = [float(v) for v in values if v is not None]
    return float(np.mean(known)) if known else float("nan")


def price_of(device_seconds: float, per_hour: float) -> float:
    """Return what device-seconds cost at a price per device-hour, in the price's currency."""
    return device_seconds / 3600 * per_hour
