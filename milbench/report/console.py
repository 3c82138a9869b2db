"""A leaderboard for the terminal, at any width."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from ..evaluation import published_figures as published
from ..formatting.escaping import console as harmless
from . import budget as report_budget
from .tables import SHORT, TEXT, cells_of, cohorts_of, published_of, units, units_of, with_seeds

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.table import Table


def to_rich(df: pd.DataFrame) -> ConsoleLeaderboard:
    """Return a leaderboard for the terminal: one table a cohort, the notes below, whatever the width."""
    return ConsoleLeaderboard(df)


class ConsoleLeaderboard:
    """A leaderboard that rich can print: columns that do not fit the width are left out, and named.

    Rank, method and AUC are always there, and how runs ended where one did not end ``ok``.
    """

    def __init__(self, df: pd.DataFrame) -> None:
        self.df = df

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the tables and notes at the console's width."""
        from rich.text import Text

        for name, block in cohorts_of(self.df):
            cells = cells_of(block, SHORT)
            lost = []
            kept = [heading for heading in cells if heading != "To best"]  # its interval's stand-in
            for heading in _dispensable(block):
                if _width(cells[kept]) <= options.max_width:
                    break
                if heading in kept:
                    kept.remove(heading)
                    if heading == "To best [95 %]":
                        kept.insert(kept.index("AUC [95 %]") + 1, "To best")
                    else:
                        lost.append(heading)
            yield _rich_table(name, block, cells[kept])
            yield Text(harmless(report_budget.words(block)), style="dim")
            if lost:
                names = ", ".join("difference to the best" if h == "To best" else h for h in lost)
                yield Text(f"Too narrow for: {names} (--format markdown has all of it).", style="dim")
            yield Text()
        for name, rows in published_of(self.df):
            cells = published.table_of(rows).drop(columns="Source")
            yield _rich_table(f"{name}: beside published figures", rows.assign(rank=0.0), cells)
        for one in self.df.attrs.get("across", []):
            yield _rich_table(
                f"{one.name}: over cohorts, by mean rank", pd.DataFrame(one.rows).assign(rank=0.0), one.table()
            )
            yield Text(harmless(one.sentence()), style="dim")
            yield Text()
        for note in self.df.attrs.get("notes", []):
            yield Text(harmless(f"note: {note}"), style="yellow")
        yield Text(
            f"AUC: mean over folds and seeds [95 % interval over {with_seeds(units(units_of(self.df)), self.df)}]; "
            "rank by AUC, and the ranks that the data leave possible, all methods together at 95 %: where they "
            "begin with 1, the data do not separate the method from the best. Below a line: not ranked, as "
            "not every run ended ok; scores over fewer runs.",
            style="dim",
        )


def _dispensable(block: pd.DataFrame) -> list[str]:
    """Return the columns that may go, the first to go first."""
    plain = (block["outcome"] == "ok").all() and block["cost_outcome"].isin(["", "ok"]).all()
    runs = ["Runs"] if plain and block["ordered_by"].nunique() == 1 else []
    scores = ["Sens./spec.", "Bal. acc."]
    return ["To best [95 %]", "MiB", *runs, "Patches/s", *scores, "Pooling", "To best", "Ranks [95 %]"]


def _width(cells: pd.DataFrame) -> int:
    """Return the characters a table takes, its margins included."""
    return 1 + sum(max(map(len, [str(h), *cells[h].astype(str)])) + 2 for h in cells)


def _rich_table(name: str, block: pd.DataFrame, cells: pd.DataFrame) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    title = Text(harmless(name))
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in cells:
        method = heading == "Method"
        label = Text(harmless(heading))
        table.add_column(
            label, justify="left" if heading in TEXT else "right", overflow="fold", no_wrap=not method,
            min_width=8 if method else None,
        )  # fmt: skip
    ranked = [rank == rank for rank in block["rank"]]
    for i, (row, rank) in enumerate(zip(cells.itertuples(index=False), block["rank"], strict=True)):
        if i and ranked[i - 1] and not ranked[i]:  # what follows may have higher scores, over fewer runs
            table.add_row(*("─" * min(len(str(heading)), 8) for heading in cells), style="dim")
        table.add_row(*(Text(harmless(cell)) for cell in row), style="" if rank == rank else "dim")
    return table
