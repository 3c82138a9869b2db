"""Renderers of reports, by name: the built-in ones, and those that installed packages add.

A renderer is a function of a `milbench.report.model.Report` that returns text, or anything that rich can print. A
package adds one as an entry point of the group ``milbench.renderers``; ``milbench leaderboard --format NAME`` shows it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, TypeAlias

from ..errors import MilbenchError, did_you_mean
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
        try:
            return self.function(report if self.explanations else report.without_explanations())
        except MilbenchError:
            raise
        except Exception as error:  # of a package that is not ours
            raise MilbenchError(
                f"renderer {self.name} fails ({type(error).__name__}: {error}); correct it.", code="plugin-broken"
            ) from error


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
    return [*_OWN, *sorted({point.name for point in entry_points(group=GROUP)} - set(_OWN))]


def find_renderer(name: str) -> Renderer:
    """Return a renderer by its name.

    Raises:
        MilbenchError: there is none of that name, two packages have one, or it cannot be imported.
    """
    points = [point for point in entry_points(group=GROUP) if point.name == name]
    if name in _OWN:
        points = [point for point in points if point.value.partition(":")[0].partition(".")[0] != "milbench"]
        if not points:
            return _OWN[name]
    if not points:
        raise MilbenchError(
            f"no renderer is named {name!r}; install the package that adds it.{did_you_mean(name, renderer_names())}",
            code="plugin-unknown",
        )
    if name in _OWN or len(points) > 1:
        raise MilbenchError(
            f"two renderers are named {name} (one of them {points[0].value}); uninstall one of their packages.",
            code="name-taken",
        )
    try:
        value = points[0].load()
    except Exception as error:  # of a package that is not ours
        raise MilbenchError(
            f"renderer {name} ({points[0].value}) cannot be imported ({type(error).__name__}: {error}); repair or "
            "uninstall its package.",
            code="plugin-broken",
        ) from error
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
