"""The tables of a leaderboard: its blocks, and their columns as text."""

from __future__ import annotations

from math import isnan, nan
from typing import TYPE_CHECKING, Any, TypeAlias

import pandas as pd

from .. import metrics
from ..evaluation.leaderboard import COLUMNS
from ..evaluation.scores import LOG_ODDS, MEMORY_FLOOR_BYTES
from ..formatting.text import ABSENT, fixed, plain_rank, rank_interval, rank_text, si, with_interval
from .model import Code, Span

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    from ..metrics import Metric


def cohorts_of(df: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Return a leaderboard's blocks, one a suite, cohort and set of conditions, each with its heading."""
    groups = df.groupby(["suite", "version", "data", "conditions"], sort=False)
    return [
        (f"{suite}-v{version} / {data}{f' / {conditions}' if conditions else ''}", block)
        for (suite, version, data, conditions), block in groups
    ]


def cells_of(block: pd.DataFrame, columns: dict[str, Callable[[Any], str]]) -> pd.DataFrame:
    """Return one block as text; a column that nobody filled is left out."""
    block = block.assign(order=_other_orders(block))
    rows = [{heading: show(row) for heading, show in columns.items()} for row in block.itertuples()]
    table = pd.DataFrame(rows, columns=list(columns))
    keep = [h for h in table if h in ("Rank", "Method") or (table[h] != ABSENT).any()]
    return table[keep]


def _other_orders(block: pd.DataFrame) -> list[str]:
    """Return of each row what orders its bags, where that is not log-odds as in other rows; else an empty text."""
    orders = [str(order) for order in block.get("ordered_by", pd.Series("", block.index)).fillna("")]
    mixed = len(set(filter(None, orders))) > 1
    return [order if mixed and order != LOG_ODDS else "" for order in orders]


def _difference(row: Any) -> str:
    if row.diff_to_best == 0 and row.diff_low == row.diff_high == 0:
        return "0" if row.rank == row.rank else ABSENT
    return with_interval(row.diff_to_best, row.diff_low, row.diff_high, sign=True)


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
    text = f"{row.runs_ok}/{row.runs}" if row.outcome == "ok" else f"{row.runs_ok}/{row.runs}: {row.outcome}"
    if row.runs_subsampled:
        text += f"; {row.runs_subsampled} trained on parts of bags"
    if row.order:
        text += f"; ordered by {row.order}"
    return text if row.cost_outcome in ("", "ok") else f"{text}; cost: {row.cost_outcome}"


_Columns: TypeAlias = "dict[str, Callable[[Any], str]]"

#: The metric that methods are ranked by; it has columns of its own, with intervals.
_RANKED_BY = "auc"


def _of_metrics(chosen: Callable[[Metric], bool], taken: Collection[str]) -> _Columns:
    """Return the columns of the metrics that are chosen, with their standard deviation where one is known.

    Args:
        chosen: whether the table shows a metric.
        taken: headings of the table's other columns.
    """

    def shown(name: str) -> Callable[[Any], str]:
        def text(row: Any) -> str:
            spread = getattr(row, f"{name}_sd") if f"{name}_sd" in COLUMNS else nan
            return fixed(getattr(row, name)) + ("" if isnan(spread) else f" ± {fixed(spread)}")

        return text

    wanted = [metric for metric in metrics.registered() if metric.name != _RANKED_BY and chosen(metric)]
    headings = [f"{one.label} ± sd" if f"{one.name}_sd" in COLUMNS else one.label for one in wanted]
    return _headed(((heading, one.name, shown(one.name)) for heading, one in zip(headings, wanted, strict=True)), taken)


def _headed(columns: Iterable[tuple[str, str, Callable[[Any], str]]], taken: Collection[str]) -> _Columns:
    """Return columns of (heading, name of the metric, text); a heading in use gets the name added."""
    headed: _Columns = {}
    for heading, name, text in columns:
        headed[f"{heading} ({name})" if heading in taken or heading in headed else heading] = text
    return headed


def verdict_columns() -> _Columns:
    """Return the columns of the table that ranks the methods."""
    first: _Columns = {
        "Rank": rank_text,
        "Method": lambda r: r.method,
        "Pooling": lambda r: r.family or ABSENT,
        "AUC [95 % interval]": lambda r: with_interval(r.auc, r.auc_low, r.auc_high),
        "Difference to the best [95 % interval]": _difference,
    }
    last: _Columns = {"Runs": _runs}
    return first | _of_metrics(lambda metric: metric.main, {*first, *last}) | last


def scores_columns() -> _Columns:
    """Return the columns of the other metrics, those of other packages included."""
    return {"Method": lambda r: r.method} | _of_metrics(lambda metric: not metric.main, {"Method"})


COST: _Columns = {
    "Method": lambda r: r.method,
    "Inference (patches/s)": lambda r: si(r.infer_patches_per_s),
    "Training (bags/s)": lambda r: si(r.train_bags_per_s),
    "Peak memory, inference (MiB)": lambda r: _mib(r.infer_peak_memory_bytes),
    "Peak memory, training (MiB)": lambda r: _mib(r.train_peak_memory_bytes),
    "Parameters": lambda r: si(r.parameters),
    "FLOPs a bag, inference": lambda r: si(r.flops_per_bag_infer),
}


def short_metrics() -> list[Metric]:
    """Return the metrics that the short table shows in addition to the one that methods are ranked by."""
    return [metric for metric in metrics.registered() if metric.short and metric.name != _RANKED_BY]


def short_columns() -> _Columns:
    """Return the columns of the short table, as a terminal shows it."""

    def shown(name: str) -> Callable[[Any], str]:
        return lambda row: fixed(getattr(row, name))

    first: _Columns = {
        "Rank": plain_rank,
        "Ranks [95 %]": rank_interval,
        "Method": lambda r: r.method,
        "Pooling": lambda r: r.family.replace("correlated", "corr.") or ABSENT,
        "AUC [95 %]": lambda r: with_interval(r.auc, r.auc_low, r.auc_high),
        "To best [95 %]": _difference,
        "To best": lambda r: (
            fixed(r.diff_to_best, sign=True) if r.diff_to_best else ("0" if r.rank == r.rank else ABSENT)
        ),
    }
    last: _Columns = {
        "Sens./spec.": _sensitivity_and_specificity,
        "Patches/s": lambda r: si(r.infer_patches_per_s),
        "MiB": lambda r: _mib(r.infer_peak_memory_bytes),
        "Runs": _runs,
    }
    middle = _headed(((one.short, one.name, shown(one.name)) for one in short_metrics()), {*first, *last})
    return first | middle | last


def environment_spans(environment: Mapping[str, Any]) -> list[Span]:
    """Return an environment record in words; what it lacks is left out."""
    parts: list[str] = []
    cpu, software = environment.get("cpu"), environment.get("software")
    if isinstance(cpu, dict):
        parts.append(f"{cpu.get('model')}, {cpu.get('cores')} cores, {cpu.get('instruction_set')}")
    parts += [str(gpu.get("name")) for gpu in environment.get("gpus") or ()]
    if isinstance(environment.get("numerics"), dict):
        parts.append(f"threads a process: {environment['numerics'].get('threads')}")
    if isinstance(software, dict):
        parts.append(", ".join(f"{key} {value}" for key, value in software.items() if value))
    return ["environment ", Code(str(environment.get("fingerprint", "?"))), "".join(f"; {part}" for part in parts)]


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
