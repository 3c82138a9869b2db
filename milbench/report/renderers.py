"""Renderers of reports, by name: the built-in ones, and those that installed packages add.

A renderer is a function of a `milbench.report.model.Report` that returns text, or anything that rich can print. A
package adds one as an entry point of the group ``milbench.renderers``; ``milbench leaderboard --format NAME`` shows it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from importlib import import_module
from typing import TYPE_CHECKING, TypeAlias

from ..errors import MilbenchError, did_you_mean
from ..plug_ins import blamed, load_plug_in, plug_ins
from .model import Report

if TYPE_CHECKING:
    from rich.console import RenderableType

    from ..evaluation.leaderboard import Leaderboard

#: Entry points of this group add renderers: functions, or `Renderer` records.
GROUP = "milbench.renderers"

#: What a renderer computes: text that is written as it is, or something that rich prints on a terminal.
Function: TypeAlias = "Callable[[Report], str | RenderableType]"


@dataclass(frozen=True)
class Renderer:
    """A renderer as the command line knows it.

    Attributes:
        name: as ``--format`` names it.
        function: see `Function`.
        explanations: whether it shows the sections that follow the results, too.
        figures: whether it shows figures and what only a full report has; both cost about as much time as the table.
    """

    name: str
    function: Function
    explanations: bool = True
    figures: bool = True

    def __call__(self, report: Report) -> str | RenderableType:
        """Render a report.

        Raises:
            MilbenchError: the function of another package fails.
        """
        with self.guard():
            return self.function(report if self.explanations else report.without_explanations())

    def guard(self) -> AbstractContextManager[None]:
        """Return a context for what executes code of the renderer, as printing what it returned does.

        An error of another package's renderer becomes a `MilbenchError` that names it; one of milbench's own is a
        fault of milbench and shows as it is.
        """
        return nullcontext() if _OWN.get(self.name) is self else blamed(f"renderer {self.name}")


def _built_in(module: str) -> Function:
    def function(report: Report) -> str | RenderableType:
        rendered: str | RenderableType = import_module(f"milbench.report.{module}").render(report)
        return rendered

    return function


#: milbench's own, each a module of this package with ``render``, imported on first use.
_OWN = {
    "console": Renderer("console", _built_in("console"), figures=False),
    "markdown": Renderer("markdown", _built_in("markdown"), explanations=False, figures=False),
}


def renderer_names() -> list[str]:
    """Return the names of all renderers, milbench's first."""
    return [*_OWN, *plug_ins(GROUP, _OWN)]


def find_renderer(name: str) -> Renderer:
    """Return a renderer by its name.

    Raises:
        MilbenchError: there is none of that name, two packages have one, or it cannot be imported.
    """
    if name in _OWN:
        return _OWN[name]
    points = plug_ins(GROUP, _OWN).get(name)
    if points is None:
        raise MilbenchError(
            f"no renderer is named {name!r}; install the package that adds it.{did_you_mean(name, renderer_names())}",
            code="plugin-unknown",
        )
    value = load_plug_in("renderer", name, points)
    if isinstance(value, Renderer):
        return replace(value, name=name)
    if not callable(value):
        raise MilbenchError(
            f"renderer {name} ({points[0].value}) is no function of a report; name a function in the entry point.",
            code="plugin-broken",
        )
    return Renderer(name, value)


def render(board: Leaderboard, name: str = "console") -> str | RenderableType:
    """Return a leaderboard as a renderer shows it.

    Raises:
        MilbenchError: there is no renderer of that name, or it fails.
    """
    from .build import build_report

    renderer = find_renderer(name)
    return renderer(build_report(board, figures=renderer.figures))
