"""Published figures that a suite names, compared with the results of its runs. This module needs no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from ..config.method_key import spelling
from ..formatting.text import ABSENT, fixed

if TYPE_CHECKING:
    from .runs_table import RunGroup

#: Of the section of a report.
HEADING = "Compared with published figures"

WORDS = """\
Published figures are context, not targets, and no setting was chosen by them. Ours is the mean over folds and seeds,
with the standard deviation of the repetitions' means (of the seeds' means, where folds are not repeated). Status gives
the provenance of the published figure: *read* in the source, or from *memory* and not checked; papers differ in what
their error describes. Within says whether ours lies within the published error."""

_DECIMALS = 3


def compare_with_published(cohort: RunGroup, block: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return one row for each published figure of a cohort whose method has been run to its end.

    Args:
        cohort: the runs.
        block: its rows of the leaderboard.

    Returns:
        cohort, method, metric, ``ours``, ``ours_sd`` (NaN where there is one repetition, or it is not known for the
        metric), ``published``, ``published_error``, ``difference`` (ours - published), ``within`` (None where the
        figure has no error), ``status``, ``source``.
    """
    rows = {spelling(row["method"]): row for row in block}
    compared = []
    for figure in cohort.suite.published:
        row = rows.get(spelling(figure.method))
        if figure.data != cohort.data or row is None or row["outcome"] != "ok" or cohort.oracle:
            continue
        ours, error = float(row[figure.metric]), figure.error
        compared.append({
            "cohort": cohort.name, "method": row["method"], "metric": figure.metric, "ours": ours,
            "ours_sd": float(row["accuracy_sd"]) if figure.metric == "accuracy" else math.nan,
            "published": figure.value, "published_error": math.nan if error is None else error,
            "difference": ours - figure.value,
            "within": None if error is None else abs(ours - figure.value) <= error,
            "status": figure.status, "source": figure.source,
        })  # fmt: skip
    return compared


def table_of(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of one cohort as a report shows them."""
    return pd.DataFrame({
        "Method": rows["method"], "Score": rows["metric"].str.replace("_", " "),
        "Ours ± sd": [_pair(x, sd) for x, sd in zip(rows["ours"], rows["ours_sd"], strict=True)],
        "Published": [_pair(x, e) for x, e in zip(rows["published"], rows["published_error"], strict=True)],
        "Difference": [fixed(x, _DECIMALS, sign=True) for x in rows["difference"]],
        "Within": [ABSENT if x is None else "yes" if x else "no" for x in rows["within"]],
        "Status": rows["status"], "Source": rows["source"],
    })  # fmt: skip


def _pair(value: float, error: float) -> str:
    return f"{value:.{_DECIMALS}f}" + (f" ± {error:.{_DECIMALS}f}" if error == error else "")
