"""Budgets in a report: the sentence, the table of what was used, and how to read it."""

from __future__ import annotations

from typing import Any

import pandas as pd

from ..formatting.text import ABSENT, si, with_interval

#: How the columns are to be read.
READING = """\
Budget used (%) is the largest share of the budget that any run used; a training stops at the first step that reaches
its budget, so it exceeds 100 by at most one step. Validation evaluations is the number of times a run was evaluated on
the validation set. Device-seconds and FLOPs are those of one training, mean over runs: forward, backward and optimizer,
without evaluation. Peak memory is the largest of any run, evaluation included: on CPU the growth of the resident set. A
memory cap limits another quantity, the growth of the address space, so the peak may exceed the cap that a run passed
under: only the peak includes memory that was reserved before the run and first used in it. run.json holds both, as
peak_memory and memory_cap. Trials counts every tuning trial of a study, whatever its outcome; the cost of tuning is
that of the trials that ended or were pruned (a failed one does not report it), mean over studies. Pareto-optimal in
names the costs for which no other ranked method of the table has a higher AUC at that cost or less: time
(device-seconds), FLOPs and memory; a dominated method is Pareto-optimal in none of them. For the cost that the budget
limits, all methods cost the same. For runs that were selected on test, evaluations are those of the test bags, and
accuracy is at the threshold that is best on them, as some published scripts report it; balanced accuracy and F1 use the
most probable class, as everywhere."""


def is_budgeted(df: pd.DataFrame, axis: str) -> bool:
    """Return whether all tables give every method the same on an axis: AUC against it then shows nothing."""
    return bool(df["budget"].str.startswith(f"{axis.replace('_', '-')}:").all())


def words(block: pd.DataFrame) -> str:
    """Return the sentence on one table's budget and tuning."""
    first = block.iloc[0]
    tuned = f"tuned on validation slides, {first['tuning']} for every method and fold"
    kept = {
        "last": "the last model is kept",
        "best-val": "the model best on validation is kept",
        "oracle": "the model best on TEST is taken, which no honest protocol can do",
    }[first["checkpoint"]]
    return f"Budget of every run: {first['budget']}; {tuned if first['tuning'] else 'not tuned'}; {kept}."


def cells(block: pd.DataFrame) -> pd.DataFrame:
    """Return the table of what was used, texts; columns that nothing fills are left out."""
    table = pd.DataFrame({
        "Method": block["method"],
        "Budget used (%)": [_share(v) for v in block["budget_used"]],
        "Validation evaluations": [si(v) for v in block["evaluations"]],
        "Steps": [si(v) for v in block["train_steps"]],
        "Device-seconds": [si(v) for v in block["train_device_seconds"]],
        "FLOPs": [si(v) for v in block["train_flops"]],
        "Peak memory (MiB)": [si(v / 2**20) for v in block["run_peak_memory_bytes"]],
        "Pareto-optimal in": [_front(row) for row in block.itertuples()],
        "Trials (ok)": [_trials(row) for row in block.itertuples()],
        "Tuning, device-seconds": [si(v) for v in block["tuning_device_seconds"]],
        "AUC before tuning": [f"{v:.3f}" if v == v else ABSENT for v in block["auc_untuned"]],
        "Seconds to target": ["missed" if v == float("inf") else si(v) for v in block["time_to_target_s"]],
        "Price": [si(v) for v in block["price"]],
        "AUC, last model": [f"{v:.3f}" if v == v else ABSENT for v in block["auc_last"]],
        "AUC, best on validation": [f"{v:.3f}" if v == v else ABSENT for v in block["auc_best_val"]],
        "Inflation [95 % interval]": [_inflation(row) for row in block.itertuples()],
    })  # fmt: skip
    return table[[name for name in table if name == "Method" or (table[name] != ABSENT).any()]]


def _share(value: float) -> str:
    return f"{100 * value:.1f}" if value == value else ABSENT


def _inflation(row: Any) -> str:
    return with_interval(row.inflation, row.inflation_low, row.inflation_high, sign=True)


def _trials(row: Any) -> str:
    return f"{row.trials} ({row.trials_ok:.3g})" if row.trials else ABSENT


def _front(row: Any) -> str:
    flags = {"time": row.front_device_seconds, "FLOPs": row.front_flops, "memory": row.front_memory}
    if all(flag is None or flag != flag for flag in flags.values()):
        return ABSENT
    return ", ".join(cost for cost, flag in flags.items() if flag is True) or "dominated"
