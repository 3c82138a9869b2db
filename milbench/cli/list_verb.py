"""``milbench list``: what there is."""

from __future__ import annotations

from enum import StrEnum

import typer


class What(StrEnum):
    """What can be listed."""

    aggregators = "aggregators"
    datasets = "datasets"
    suites = "suites"
    formats = "formats"


def list_command(
    what: What = typer.Argument(What.aggregators, help="What to list."),
    pattern: str = typer.Argument("*", help="Shell pattern, such as '*mil*'."),
) -> None:
    """List aggregators, built-in datasets, suites or importable formats, one a line with its summary.

    Example: milbench list aggregators "*mil*"
    """
    from fnmatch import fnmatchcase

    rows = [(name, summary) for name, summary in _found(what) if fnmatchcase(name, pattern)]
    width = max((len(name) for name, _ in rows), default=0)
    for name, summary in rows:
        typer.echo(f"{name:<{width}}  {summary}".rstrip())


def _found(what: What) -> list[tuple[str, str]]:
    if what is What.aggregators:
        from ..registry import registry

        known = registry()
        return [(name, known[name].summary()) for name in known.names()]
    if what is What.suites:
        from ..suites import list_suites, load_suite

        return [(name, load_suite(name).description) for name in list_suites()]
    import ast
    import pkgutil
    from importlib.util import find_spec
    from pathlib import Path

    package = "milbench.data.datasets" if what is What.datasets else "milbench.data.formats"
    spec = find_spec(package)
    rows = []
    for module in pkgutil.iter_modules(spec.submodule_search_locations if spec else None):
        if module.name.startswith("_"):
            continue
        origin = find_spec(f"{package}.{module.name}")
        doc = ast.get_docstring(ast.parse(Path(origin.origin).read_text())) if origin and origin.origin else ""
        name = module.name.replace("_", "-") if what is What.datasets else module.name
        rows.append((name, (doc or "").split("\n")[0]))
    return rows
