"""``milbench list``: what there is."""

from __future__ import annotations

from enum import StrEnum

import typer

from ._terminal import echo


class What(StrEnum):
    """What can be listed."""

    aggregators = "aggregators"
    datasets = "datasets"
    suites = "suites"
    formats = "formats"


def list_command(
    what: What = typer.Argument(
        What.aggregators, metavar="WHAT", help="What to list: aggregators, datasets, suites or formats."
    ),
    pattern: str = typer.Argument("*", metavar="PATTERN", help="Shell pattern, such as '*mil*'."),
) -> None:
    """List aggregators, built-in datasets, suites or importable formats, one a line with its summary.

    Example: milbench list aggregators "*mil*"
    """
    from fnmatch import fnmatchcase

    rows = [(name, summary) for name, summary in _found(what) if fnmatchcase(name, pattern)]
    width = max((len(name) for name, _ in rows), default=0)
    for name, summary in rows:
        # A module's docstring begins with its name, which already stands in front.
        echo(f"{name:<{width}}  {summary.removeprefix(f'{name}: ')}".rstrip())


def _found(what: What) -> list[tuple[str, str]]:
    if what is What.aggregators:
        from ..registry import registry

        known = registry()
        return [(name, known[name].summary()) for name in known.names()]
    if what is What.suites:
        from ..config.suites import list_suites, load_suite

        return [(name, load_suite(name).description) for name in list_suites()]
    if what is What.datasets:
        from ..data.datasets import dataset_names

        return sorted(dataset_names().items())
    from ..data.importers import format_names

    return sorted(format_names().items())
