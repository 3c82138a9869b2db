"""What the tables of a leaderboard hold: its blocks, their columns as text, and Markdown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import pandas as pd

from .. import metrics
from ..evaluation.scores import LOG_ODDS, MEMORY_FLOOR_BYTES
from ..formatting.escaping import code, markdown
from ..formatting.text import ABSENT, fixed, plain_rank, rank_interval, rank_text, si, with_interval

if TYPE_CHECKING:
    from collections.abc import Callable

#: Headings of columns that hold words.
TEXT = ("Method", "Pooling", "Runs")


def cohorts_of(df: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Return a leaderboard's blocks, one a suite, cohort and set of conditions, each with its heading."""
    groups = df.groupby(["suite", "version", "data", "conditions"], sort=False)
    return [
        (f"{suite}-v{version} / {data}{f' / {conditions}' if conditions else ''}", block)
        for (suite, version, data, conditions), block in groups
    ]


def published_of(df: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Return the rows beside published figures, by cohort."""
    rows = pd.DataFrame(df.attrs.get("published") or [], columns=None)
    return [(str(name), block) for name, block in rows.groupby("cohort", sort=False)] if len(rows) else []


def cells_of(block: pd.DataFrame, columns: dict[str, Callable[[Any], str]]) -> pd.DataFrame:
    """Return one block as text; a column that nobody filled is left out."""
    block = block.assign(order=_other_orders(block))
    rows = [{heading: show(row) for heading, show in columns.items()} for row in block.itertuples()]
    table = pd.DataFrame(rows, columns=list(columns))
    keep = [h for h in table if h in ("Rank", "Method") or (table[h] != ABSENT).any()]
    return table[keep]


def markdown_table(table: pd.DataFrame) -> str:
    """Return a table of plain texts in Markdown; numbers stand right, the columns of `TEXT` left."""
    lines = [
        "| " + " | ".join(map(markdown, table.columns)) + " |",
        "|" + "|".join(":---" if h in TEXT else "---:" for h in table.columns) + "|",
    ]
    lines += ["| " + " | ".join(map(markdown, row)) + " |" for row in table.itertuples(index=False)]
    return "\n".join(lines)


def _other_orders(block: pd.DataFrame) -> list[str]:
    """Return of each row what orders its bags, where that is not log-odds as in other rows; else an empty text."""
    orders = [str(order) for order in block.get("ordered_by", pd.Series("", block.index)).fillna("")]
    mixed = len(set(filter(None, orders))) > 1
    return [order if mixed and order != LOG_ODDS else "" for order in orders]


def _difference(row: Any) -> str:
    if row.diff_to_best == 0 and row.diff_low == row.diff_high == 0:
        return "0" if row.rank == row.rank else ABSENT
    return with_interval(row.diff_to_best, row.diff_low, row.diff_high, sign=True)


def _accuracy(row: Any) -> str:
    spread = f" ± {fixed(row.accuracy_sd)}" if row.accuracy_sd == row.accuracy_sd else ""
    return fixed(row.accuracy) + spread


def _sensitivity_and_specificity(row: Any) -> str:
    """Return both where a threshold was chosen for them; at half they stand among the other scores."""
    return f"{fixed(row.sensitivity)}/{fixed(row.specificity)}" if row.threshold_rule.startswith("val-") else ABSENT


def _mib(value: float) -> str:
    if value != value:
        return ABSENT
    if value < MEMORY_FLOOR_BYTES:
        return "<0.1"
    return f"{value / 2**20:,.0f}" if value >= 10 * 2**20 else f"{value / 2**20:.1f}"


def _runs(row: Any) -> str:
    told = f"{row.runs_ok}/{row.runs}" if row.outcome == "ok" else f"{row.runs_ok}/{row.runs}: {row.outcome}"
    if row.runs_subsampled:
        told += f"; {row.runs_subsampled} trained on parts of bags"
    if row.order:
        told += f"; ordered by {row.order}"
    return told if row.cost_outcome in ("", "ok") else f"{told}; cost: {row.cost_outcome}"


_Columns: TypeAlias = "dict[str, Callable[[Any], str]]"

VERDICT: _Columns = {
    "Rank": rank_text,
    "Method": lambda r: r.method,
    "Pooling": lambda r: r.family or ABSENT,
    "AUC [95 % interval]": lambda r: with_interval(r.auc, r.auc_low, r.auc_high),
    "Difference to the best [95 % interval]": _difference,
    "Balanced accuracy": lambda r: fixed(r.balanced_accuracy),
    "Accuracy ± sd": _accuracy,
    "Runs": _runs,
}

#: Metrics that `VERDICT` shows.
_SHOWN = ("auc", "balanced_accuracy", "accuracy")


def scores_columns() -> _Columns:
    """Return the columns of the other metrics, those of other packages included."""

    def shown(name: str) -> Callable[[Any], str]:
        return lambda row: fixed(getattr(row, name))

    others = [metric for metric in metrics.registered() if metric.name not in _SHOWN]
    return {"Method": lambda r: r.method} | {metric.label: shown(metric.name) for metric in others}


COST: _Columns = {
    "Method": lambda r: r.method,
    "Inference (patches/s)": lambda r: si(r.infer_patches_per_s),
    "Training (bags/s)": lambda r: si(r.train_bags_per_s),
    "Peak memory, inference (MiB)": lambda r: _mib(r.infer_peak_memory_bytes),
    "Peak memory, training (MiB)": lambda r: _mib(r.train_peak_memory_bytes),
    "Parameters": lambda r: si(r.parameters),
    "FLOPs a bag, inference": lambda r: si(r.flops_per_bag_infer),
}

SHORT: _Columns = {
    "Rank": plain_rank,
    "Ranks [95 %]": rank_interval,
    "Method": lambda r: r.method,
    "Pooling": lambda r: r.family.replace("correlated", "corr.") or ABSENT,
    "AUC [95 %]": lambda r: with_interval(r.auc, r.auc_low, r.auc_high),
    "To best [95 %]": _difference,
    "To best": lambda r: fixed(r.diff_to_best, sign=True) if r.diff_to_best else ("0" if r.rank == r.rank else ABSENT),
    "Bal. acc.": lambda r: fixed(r.balanced_accuracy),
    "Sens./spec.": lambda r: _sensitivity_and_specificity(r),
    "Patches/s": lambda r: si(r.infer_patches_per_s),
    "MiB": lambda r: _mib(r.infer_peak_memory_bytes),
    "Runs": _runs,
}


def machine_text(environment: dict[str, Any]) -> str:
    """Return an environment record as a line of Markdown; what it lacks is left out."""
    parts = [f"environment {code(environment.get('fingerprint', '?'))}"]
    cpu, software = environment.get("cpu"), environment.get("software")
    if isinstance(cpu, dict):
        parts.append(markdown(f"{cpu.get('model')}, {cpu.get('cores')} cores, {cpu.get('instruction_set')}"))
    parts += [markdown(gpu.get("name")) for gpu in environment.get("gpus") or ()]
    if isinstance(environment.get("numerics"), dict):
        parts.append(f"threads a process: {markdown(environment['numerics'].get('threads'))}")
    if isinstance(software, dict):
        parts.append(markdown(", ".join(f"{key} {value}" for key, value in software.items() if value)))
    return "; ".join(parts)


def units_of(df: pd.DataFrame) -> set[str]:
    """Return what intervals are over: patients, slides, bags."""
    return {cohort["unit"] for cohort in df.attrs.get("cohorts", [])}


def units(names: set[str]) -> str:
    """Return ``patients`` or ``bags or patients``."""
    return " or ".join(f"{name}s" for name in sorted(names or {"patient"}))


def with_seeds(over: str, table: pd.DataFrame) -> str:
    """Return what intervals are over, seeds included where a table of rows with a column ``seeds`` has several.

    Args:
        over: see `units`.
        table: a leaderboard or a comparison.
    """
    several = table["seeds"] > 1
    if several.all():
        return f"{over} and seeds"
    return (
        f"{over} and, where there are two or more, seeds" if several.any() else f"{over}, with one seed not over seeds"
    )
