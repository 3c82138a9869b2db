"""Names from files made harmless where they are shown: one function each for console, Markdown, HTML and CSV.

A name (of a slide, patient, class, fold, suite, method, encoder; a reason or a message) comes from somebody's file. On
a terminal it may hold escape sequences, in a report headings or HTML, in a spreadsheet formulas.
"""

from __future__ import annotations

import html
import re
import unicodedata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

#: Categories of characters that a terminal acts on or that change how others are shown: control, bidirectional and
#: other format characters, surrogates, line and paragraph separators.
_ACTIVE = ("Cc", "Cf", "Cs", "Zl", "Zp")
#: Joiners that scripts and emoji need; they act on their neighbours alone.
_JOINERS = "\u200c\u200d"
#: Begin of a cell that spreadsheets take for a formula, behind any number of the quotes that `csv_cell` puts before it.
_FORMULA = re.compile(r"'*[=+\-@\t\r\n]")
#: A cell that `csv_cell` has quoted.
_QUOTED = re.compile(r"'+[=+\-@\t\r\n]")
#: Characters that Markdown or HTML interpret within a line. Underscores within words and brackets without a target do
#: nothing, and the names of methods are full of them.
_MARKUP = re.compile(r"[\\`*<>|$]|~~|&(?=#|\w+;)|\](?=[(\[:])|!(?=\[)|(?<!\w)_|_(?!\w)")
#: Begin of a line that makes it a heading, a rule, or the line before it a heading.
_LINE_START = re.compile(r"^\s*(?=#{1,6}(\s|$)|(-{3,}|={2,}|_{3,})\s*$)")


def console(text: object, lines: bool = False) -> str:
    """Return a text for a terminal: characters that act (escape sequences, bidirectional marks) are shown as escapes.

    Args:
        text: anything.
        lines: keep line breaks and tabs, for a text of several lines that was made of parts already harmless.
    """
    value = str(text)
    if value.isprintable():
        return value
    return "".join(_visible(c) if _acts(c) and not (lines and c in "\n\t") else c for c in value)


def markdown(text: object) -> str:
    """Return a text for one line or cell of Markdown, shown as it is: no markup, no HTML, no line break."""
    value = console(" ".join(str(text).split("\n")))
    return _LINE_START.sub("\\\\", _MARKUP.sub(_escaped, value))


def code(text: object) -> str:
    """Return a text as a code span of Markdown; one with a backtick or a tag, which might end it, as `markdown`."""
    value = console(" ".join(str(text).split("\n")))
    return markdown(text) if re.search("[`<]", value) or not value.strip() else f"`{value}`"


def html_text(text: object) -> str:
    """Return a text for HTML, between tags or in a quoted attribute."""
    return html.escape(console(text, lines=True))


def csv_cell(value: Any) -> Any:
    """Return a value for a cell of CSV: a text that a spreadsheet would take for a formula gets a quote (') before it.

    Numbers stay as they are. `from_csv_cell` takes the quote away again, so that every text survives both.
    """
    return f"'{value}" if isinstance(value, str) and _FORMULA.match(value) else value


def from_csv_cell(value: Any) -> Any:
    """Return the value that `csv_cell` was given."""
    return value[1:] if isinstance(value, str) and _QUOTED.match(value) else value


def to_csv(table: pd.DataFrame) -> str:
    """Return a table as CSV without index, its texts and headings through `csv_cell`."""
    safe = table.rename(columns=csv_cell)
    for at, kind in enumerate(table.dtypes):
        if kind == object or str(kind) in ("str", "string", "category"):  # noqa: E721  (pandas' dtypes)
            safe.isetitem(at, table.iloc[:, at].astype(object).map(csv_cell).to_numpy())
    return safe.to_csv(index=False, lineterminator="\n")


def read_csv(path: Any, **options: Any) -> pd.DataFrame:
    """Read a table that `to_csv` wrote, with the options of `pandas.read_csv`."""
    import pandas as pd

    table = pd.read_csv(path, **options).rename(columns=from_csv_cell)
    for at, kind in enumerate(table.dtypes):
        if kind == object or str(kind) in ("str", "string"):  # noqa: E721
            table.isetitem(at, table.iloc[:, at].map(from_csv_cell).to_numpy())
    return table


def _escaped(match: re.Match[str]) -> str:
    return html.escape(match[0]) if match[0] in "<>&" else "".join(f"\\{c}" for c in match[0])


def _acts(c: str) -> bool:
    return unicodedata.category(c) in _ACTIVE and c not in _JOINERS


def _visible(c: str) -> str:
    return ascii(c)[1:-1] if c != "\\" else c
