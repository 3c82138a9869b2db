"""A report as Markdown: the template ``templates/report.md.j2``, and what makes plain text harmless in it."""

from __future__ import annotations

from functools import cache
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from ..formatting.escaping import code, console, markdown
from .model import TEXT, Block, Code, Emphasis, Listing, Prose, Report, Span, Strong
from .tables import environment_spans

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jinja2 import Template

_TEMPLATES = Path(__file__).parent / "templates"


class _Markdown(str):
    """Text that is Markdown already; any other text is escaped where a template shows it."""


def render(report: Report) -> str:
    """Return a report as Markdown; figures are referred to by the names of their files."""
    return f"{_template('report.md.j2').render(report=report).rstrip()}\n"


@cache
def _template(name: str) -> Template:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES), undefined=StrictUndefined, finalize=_finalized, autoescape=False,
        keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters |= {"block": _block, "verbatim": _verbatim}
    return environment.get_template(name)


def _finalized(value: Any) -> Any:
    """Escape what a template shows; Jinja's own autoescaping is for HTML."""
    return value if isinstance(value, _Markdown) else _Markdown(markdown(value))


def _block(block: Block) -> _Markdown:
    """Return a paragraph, its lines as they are, a list, or a table with its caption above."""
    match block:
        case Prose(lines):
            return _Markdown("\n".join(map(_line, lines)))
        case Listing(items):
            return _Markdown("\n".join(f"- {_block(item)}" for item in items))
    table = markdown_table(pd.DataFrame(list(block.rows), columns=list(block.headings)))
    return _Markdown(f"{markdown(block.caption)}\n\n{table}" if block.caption else table)


def _line(spans: tuple[Span, ...]) -> str:
    # Neighbouring plain texts are escaped together: a link may begin in one and end in the next.
    parts = []
    for plain, group in groupby(spans, key=lambda span: isinstance(span, str)):
        every = list(group)
        parts += [markdown("".join(map(str, every)))] if plain else [_span(span) for span in every]
    return "".join(parts)


def _span(span: Span) -> str:
    match span:
        case Code(text):
            return code(text)
        case Strong(text):
            return f"**{markdown(text)}**"
        case Emphasis(text):
            return f"*{markdown(text)}*"
    return markdown(span)


def _verbatim(text: str) -> _Markdown:
    """Return a text for a code block or the target of a link: one line, as it is."""
    return _Markdown(console(" ".join(text.splitlines())))


def markdown_table(table: pd.DataFrame) -> str:
    """Return a table of plain texts in Markdown; numbers are aligned right, the columns of `TEXT` left."""
    lines = [
        "| " + " | ".join(map(markdown, table.columns)) + " |",
        "|" + "|".join(":---" if h in TEXT else "---:" for h in table.columns) + "|",
    ]
    lines += ["| " + " | ".join(map(markdown, row)) + " |" for row in table.itertuples(index=False)]
    return "\n".join(lines)


def machine_text(environment: Mapping[str, Any]) -> str:
    """Return an environment record as a line of Markdown; what it lacks is left out."""
    return _line(tuple(environment_spans(environment)))
