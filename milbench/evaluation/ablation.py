"""Effects: every method of a suite against its reference, on the same test bags under the same resamples, with costs.

An ablation measures the effect of a part. Each row is the reference with one or more parts changed; its effect is the
paired difference in AUC to the reference, with an interval and a p-value corrected, by Holm's method, for the number of
changes that were tried on that cohort. The row also holds the ratios of training costs. This module needs no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from .. import stats
from ..config.method_key import split
from ..formatting.text import fixed, with_interval
from . import collapse
from .scores import difference

if TYPE_CHECKING:
    from .runs_table import RunGroup
    from .scores import Scores

#: columns of costs -> heading of their ratio to the reference; ``train_time`` is what a training bag takes
COSTS = {
    "train_time": "Training time",
    "train_flops": "Training FLOPs",
    "infer_patches_per_s": "Patches/s",
    "train_peak_memory_bytes": "Training memory",
    "parameters": "Parameters",
}

WORDS = """\
Each row compares a method with the suite's reference: the paired difference in AUC on the same test bags and seeds,
its 95 % interval, and a p-value corrected for all differences of that cohort (Holm). An interval that contains 0 does
not show that there is no effect: the column Detectable estimates the smallest true difference that such an interval,
which is not corrected, would have excluded 0 for in four cases of five. Costs are ratios to the reference; training
time is per bag, measured in a separate pass with the methods interleaved. The results hold for the recipe, sizes and
data above; the intervals cover another draw of test bags and of seeds, not of training bags. The column Note marks
methods most of whose runs, or of whose reference's runs, predict one class, tie their bags, or never had a validation
loss below that of predicting the class frequencies: a difference to such a method says little about the change. It also
marks pairs in which one method orders bags by log-odds and the other by rounded probabilities, in which bags tie: the
interval is longer by the largest effect that these ties can have; run the older of the two methods again before you
interpret their difference."""

#: half widths of a 95 % interval between no difference and one that it leaves out with probability 0.8
_REACH = 1 + 0.841621 / 1.959964


def effects(
    cohort: RunGroup, scored: Sequence[Scores], reference: str, losses: Mapping[str, tuple[int, int]]
) -> list[dict[str, Any]]:
    """Return one row a method of a cohort, the reference left out; nothing where the reference was not run to its end.

    Args:
        cohort: the runs.
        scored: of them, from `milbench.evaluation.scores.score`.
        reference: its canonical name.
        losses: from `milbench.evaluation.collapse.never_better`.

    Returns:
        by AUC, methods without an effect last: cohort, method, reference, ``changed`` (see `changed`), ``auc``,
        ``reference_auc``, ``effect``, ``low``, ``high``, ``p`` (Holm's, over the rows of the cohort), ``detectable``;
        NaN for a method one of whose runs is not ``ok``; ``note``: why most runs of the method, or of the reference,
        show nothing learnt (`milbench.evaluation.collapse.in_words`), and what orders the bags of the two where that
        differs.
    """
    by_method = {s.method: s for s in scored}
    base = by_method.get(reference)
    if base is None or not base.complete or cohort.oracle:
        return []
    rows: list[dict[str, Any]] = []
    for method, own in by_method.items():
        if method == reference:
            continue
        nan = float("nan")
        gap, reach = stats.Difference(nan, nan, nan, nan), nan
        if own.complete:
            gap = difference(own, base)
            reach = _REACH * (gap.high - gap.low) / 2 if gap.high > gap.low else nan  # 0: nothing was to be seen
        rows.append({
            "cohort": cohort.name, "data": cohort.data, "method": method, "reference": reference,
            "changed": changed(method, reference, _options(cohort, method)), "auc": own.auc, "reference_auc": base.auc,
            "effect": gap.estimate, "low": gap.low, "high": gap.high, "p": gap.p,
            "detectable": reach, "note": _note(own, base, losses),
        })  # fmt: skip
    tested = [row for row in rows if row["p"] == row["p"]]
    if tested:
        for row, p in zip(tested, stats.holm([row["p"] for row in tested]), strict=True):
            row["p"] = float(p)
    # By AUC; a method one of whose runs is not ok comes last, as its AUC is over fewer runs.
    return sorted(rows, key=lambda row: (row["effect"] != row["effect"], -round(row["auc"], 12), row["method"]))


def _note(own: Scores, base: Scores, losses: Mapping[str, tuple[int, int]]) -> str:
    of_base = collapse.in_words(base, losses)
    differ = len({*own.runs["ordered_by"], *base.runs["ordered_by"]}) > 1
    orders = f"ordered by {own.ordered_by}, the reference by {base.ordered_by}" if differ else ""
    return "; ".join(filter(None, (collapse.in_words(own, losses), of_base and f"reference: {of_base}", orders)))


def with_costs(rows: Sequence[Mapping[str, Any]], board: pd.DataFrame) -> pd.DataFrame:
    """Return effects with the ratios of costs to the reference's, from a leaderboard; NaN where one is not known."""
    table = pd.DataFrame(list(rows))
    names = board["suite"] + "-v" + board["version"].astype(str) + " / " + board["data"]
    names = names.where(board["conditions"] == "", names + " / " + board["conditions"])
    costs = board.assign(cohort=names, train_time=1 / board["train_bags_per_s"]).set_index(["cohort", "method"])
    for column in COSTS:
        own = costs[column].reindex(pd.MultiIndex.from_frame(table[["cohort", "method"]])).to_numpy(dtype=float)
        base = costs[column].reindex(pd.MultiIndex.from_frame(table[["cohort", "reference"]])).to_numpy(dtype=float)
        table[f"{column}_ratio"] = np.divide(own, base, out=np.full(len(own), np.nan), where=base > 0)
    return table.assign(note=table.pop("note"))  # last


def changed(method: str, reference: str, values: Mapping[str, Any] | None = None) -> str:
    """Return what a method has that its reference has not: ``ppeg=none`` of ``transmil[dim=64,ppeg=none]``.

    Args:
        method, reference: canonical names, which leave out defaults.
        values: every option of the method with its value, to tell a default that the reference has not.
    """
    name, options = _parts(method)
    base, standard = _parts(reference)
    if name != base:
        return method
    added = [option for option in options if option not in standard]
    keys = {option.partition("=")[0] for option in options}
    known = values or {}
    left_out = [key for option in standard if (key := option.partition("=")[0]) not in keys]
    dropped = [f"{key}={known[key]}" if key in known else f"{key} as usual" for key in left_out]
    return ", ".join([*added, *dropped]) or method


def _options(cohort: RunGroup, method: str) -> Mapping[str, Any]:
    return next(iter(cohort.runs[method].values())).spec.params


def _parts(method: str) -> tuple[str, list[str]]:
    name, pairs = split(method)
    return name, [f"{key}={value}" for key, value in pairs]


def table_of(rows: pd.DataFrame) -> pd.DataFrame:
    """Return one cohort's effects as a report shows them."""
    shown = {
        "Changed": list(rows["changed"]),
        "AUC": [fixed(x) for x in rows["auc"]],
        "Effect [95 %]": [
            with_interval(e, low, high, sign=True)
            for e, low, high in zip(rows["effect"], rows["low"], rows["high"], strict=True)
        ],
        "p (Holm)": [fixed(x) for x in rows["p"]],
        "Detectable": [fixed(x) for x in rows["detectable"]],
    }
    for column, heading in COSTS.items():
        ratios = rows[f"{column}_ratio"]
        if ratios.notna().any():
            shown[heading] = [fixed(x, 2) + ("x" if x == x else "") for x in ratios]
    if rows["note"].any():
        shown["Note"] = list(rows["note"])
    return pd.DataFrame(shown)
