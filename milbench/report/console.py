"""A report for the terminal, at any width: the short form of every section."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..formatting.escaping import console as harmless
from .model import TEXT, Prose, Report, Section, Table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
    from rich.table import Table as RichTable


def render(report: Report) -> ConsoleReport:
    """Return a report for the terminal: the short form of its sections and the notes, whatever the width."""
    return ConsoleReport(report)


class ConsoleReport:
    """A report that rich can print: columns that a terminal has no room for are left out, and named.

    What a table does not declare as droppable is always there.
    """

    def __init__(self, report: Report) -> None:
        self.report = report

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield the tables and notes at the console's width."""
        from rich.text import Text

        for section in (*self.report.results, *self.report.sections):
            yield from _section(section, options.max_width)
        for note in self.report.notes:
            yield Text(harmless(f"note: {note}"), style="yellow")
        if self.report.legend:
            yield Text(harmless(self.report.legend), style="dim")


def _section(section: Section, room: int) -> Iterator[RenderableType]:
    from rich.text import Text

    if not section.summary:
        return
    lost: list[str] = []
    for block in section.summary:
        if isinstance(block, Table):
            shown, left_out = _narrowed(block, room)
            lost += left_out
            yield _rich_table(shown)
        else:
            for paragraph in (block,) if isinstance(block, Prose) else block.items:
                yield Text(harmless(paragraph.plain()), style="dim")
    if lost:
        yield Text(f"Too narrow for: {harmless(', '.join(lost))} (--format markdown has all of it).", style="dim")
    yield Text()


def _narrowed(table: Table, room: int) -> tuple[Table, list[str]]:
    """Return a table that has no more columns than there is room for, and the headings of those it lacks."""
    kept = [heading for heading in table.headings if heading not in table.substitutes.values()]
    lost = []
    for heading in table.droppable:
        if _width(table.with_columns(kept)) <= room:
            break
        if heading in kept:
            at = kept.index(heading)
            kept.remove(heading)
            if heading in table.substitutes:
                kept.insert(at, table.substitutes[heading])
            else:
                lost.append(heading)
    return table.with_columns(kept), lost


def _width(table: Table) -> int:
    """Return the characters a table takes, its margins included."""
    return 1 + sum(max(map(len, (h, *table.column(h)))) + 2 for h in table.headings)


def _rich_table(table: Table) -> RichTable:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table as RichTable
    from rich.text import Text

    title = Text(harmless(table.caption))
    shown = RichTable(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in table.headings:
        method = heading == "Method"
        shown.add_column(
            Text(harmless(heading)), justify="left" if heading in TEXT else "right", overflow="fold",
            no_wrap=not method, min_width=8 if method else None,
        )  # fmt: skip
    ranked = table.ranked or (True,) * len(table.rows)
    for i, row in enumerate(table.rows):
        if i and ranked[i - 1] and not ranked[i]:  # what follows may have higher scores, over fewer runs
            shown.add_row(*("─" * min(len(heading), 8) for heading in table.headings), style="dim")
        shown.add_row(*(Text(harmless(cell)) for cell in row), style="" if ranked[i] else "dim")
    return shown
