"""A comparison of two methods as lines of text."""

from __future__ import annotations

from typing import Any

import pandas as pd

from ..evaluation.comparison import NO_AUC, NOT_RANKED
from ..formatting.text import fixed, with_interval
from .tables import units, with_seeds


def comparison_lines(table: pd.DataFrame) -> list[str]:
    """Return a comparison of two methods (`milbench.evaluation.comparison.compare`) as lines of text."""
    lines = []
    row: Any
    for row in table.itertuples(index=False):
        where = f"{row.data} / {row.conditions}" if row.conditions else row.data
        head = f"{row.suite}-v{row.version} / {where}: {row.a} {fixed(row.auc_a)}, {row.b} {fixed(row.auc_b)}"
        head += f" (run in spite of {row.waived}, waived)" if row.waived else ""
        if row.told_apart is None:
            why = row.reason if row.reason in (NO_AUC, NOT_RANKED) else f"not every run ended ok ({row.reason})"
            lines.append(f"{head}; not compared, because {why}.")
            continue
        word = "separated" if row.told_apart else "not separated"
        difference = with_interval(row.difference, row.low, row.high, sign=True)
        lines.append(f"{head}; difference {difference}: {word}.{f' But {row.note}.' if row.note else ''}")
    over = with_seeds(units(set(table["unit"])), table)
    return [
        *lines,
        f"AUC, mean over folds and seeds; paired difference A - B with its 95 % bootstrap interval over test {over}. "
        "Training data and folds are taken as given; one pair is tested, nothing is corrected for others.",
    ]
