"""A report as a value: prose, tables and figures in sections, without any markup.

Renderers turn a `Report` into text (`milbench.report.renderers`). Everything in it is plain: a name from a file stands
in it as it is, and the renderer makes it harmless for its format.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import pandas as pd

#: Headings of columns that hold words; the other columns hold numbers.
TEXT = ("Method", "Pooling", "Runs")

_SPAN = re.compile(r"`(?P<code>[^`]+)`|\*\*(?P<strong>[^*]+)\*\*|\*(?P<emphasis>[^*\s][^*]*)\*")


@dataclass(frozen=True)
class Code:
    """A word that is shown as code: a method, a fingerprint, a path."""

    text: str


@dataclass(frozen=True)
class Strong:
    """Words with strong emphasis."""

    text: str


@dataclass(frozen=True)
class Emphasis:
    """Words with emphasis."""

    text: str


Span: TypeAlias = "str | Code | Strong | Emphasis"


@dataclass(frozen=True)
class Prose:
    """A paragraph.

    Attributes:
        lines: of spans; a renderer may join lines, as a line break within a paragraph has no meaning.
    """

    lines: tuple[tuple[Span, ...], ...]

    @classmethod
    def of(cls, *spans: Span) -> Prose:
        """Return a paragraph of one line; strings are plain text, whatever they hold."""
        return cls((spans,))

    @classmethod
    def parse(cls, text: str) -> Prose:
        """Return the paragraph of a text of milbench's own with ```code```, ``*emphasis*`` and ``**strong**``.

        Text from files or command lines does not belong here: `of` takes it as it is.
        """
        return cls(tuple(_spans(line) for line in text.splitlines()))

    def plain(self) -> str:
        """Return the words alone, as one line."""
        return " ".join("".join(s if isinstance(s, str) else s.text for s in line) for line in self.lines)


@dataclass(frozen=True)
class Listing:
    """A list of points."""

    items: tuple[Prose, ...]


@dataclass(frozen=True)
class Table:
    """A table of plain texts.

    Attributes:
        headings: of the columns; those in `TEXT` hold words.
        rows: one text a heading.
        caption: shown above; may be empty.
        ranked: of each row, whether it has a rank; empty: the table has none.
        droppable: headings of columns that a narrow place leaves out, the first one first.
        substitutes: heading -> heading of a narrower column that is shown only where the first was left out.
    """

    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""
    ranked: tuple[bool, ...] = ()
    droppable: tuple[str, ...] = ()
    substitutes: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, cells: pd.DataFrame, caption: str = "", **more: Any) -> Table:
        """Return the table of a frame of texts."""
        rows = tuple(tuple(map(str, row)) for row in cells.itertuples(index=False, name=None))
        return cls(tuple(map(str, cells.columns)), rows, caption, **more)

    def column(self, heading: str) -> tuple[str, ...]:
        """Return the texts of a column."""
        at = self.headings.index(heading)
        return tuple(row[at] for row in self.rows)

    def with_columns(self, headings: Sequence[str]) -> Table:
        """Return the table with these columns alone, in this order."""
        at = [self.headings.index(heading) for heading in headings]
        return replace(self, headings=tuple(headings), rows=tuple(tuple(row[i] for i in at) for row in self.rows))


Block: TypeAlias = "Prose | Listing | Table"


@dataclass(frozen=True)
class Section:
    """A part of a report.

    Attributes:
        heading: its title.
        blocks: its content.
        summary: what a short form of the report, such as a terminal's, shows of it; empty: nothing.
    """

    heading: str
    blocks: tuple[Block, ...]
    summary: tuple[Block, ...] = ()


@dataclass(frozen=True, eq=False)
class Figure:
    """A figure of a report.

    Attributes:
        file: its name as PNG.
        caption: a few words.
        drawing: a figure of matplotlib.
    """

    file: str
    caption: str
    drawing: Any

    def encoded(self, suffix: str = ".png") -> bytes:
        """Return the content of its file in the format of a suffix: ``.png``, ``.svg`` or ``.pdf``."""
        from ..atomic_io.publishing import figure_bytes

        return figure_bytes(self.drawing, suffix)

    def name(self, suffix: str = ".png") -> str:
        """Return the name of its file in the format of a suffix."""
        return Path(self.file).with_suffix(suffix).name


@dataclass(frozen=True, eq=False)
class Report:
    """A leaderboard as it is shown, made by `milbench.report.build.build_report`.

    Attributes:
        title: the heading; empty in a short form.
        provenance: where the numbers come from.
        command: the command line that made it; may be empty.
        results: one section a cohort and set of conditions.
        notes: sentences a reader needs before believing the results.
        figures: those that had something to show.
        sections: comparisons beyond one cohort, how to read the numbers, protocol, environment.
        legend: one sentence on the numbers of the short form.
    """

    title: str = ""
    provenance: Prose = Prose(())
    command: str = ""
    results: tuple[Section, ...] = ()
    notes: tuple[str, ...] = ()
    figures: tuple[Figure, ...] = ()
    sections: tuple[Section, ...] = ()
    legend: str = ""

    def without_explanations(self) -> Report:
        """Return the results and their notes alone."""
        return replace(self, title="", provenance=Prose(()), command="", figures=(), sections=())


def _spans(line: str) -> tuple[Span, ...]:
    kinds: dict[str, type[Code | Strong | Emphasis]] = {"code": Code, "strong": Strong, "emphasis": Emphasis}
    spans: list[Span] = []
    end = 0
    for match in _SPAN.finditer(line):
        spans += [line[end : match.start()], kinds[str(match.lastgroup)](match[str(match.lastgroup)])]
        end = match.end()
    return tuple(span for span in (*spans, line[end:]) if span != "")
