"""``milbench cite``: whom to cite."""

from __future__ import annotations

import typer

from ._terminal import echo


def cite_command(
    methods: list[str] = typer.Argument(None, metavar="METHOD", help="Methods; none: milbench alone."),
    bibtex: bool = typer.Option(False, "--bibtex", help="Print BibTeX entries."),
) -> None:
    """Print what to cite for milbench and for methods.

    Example: milbench cite transmil abmil --bibtex
    """
    from .. import __version__
    from ..registry import resolve
    from ..report.bibtex import entry, software

    cited = {named.name: named.card for named in map(resolve, methods or [])}  # all, before anything is printed
    if bibtex:
        once = {(card.citation, card.bibtex): name for name, card in reversed(cited.items())}  # one entry a paper
        entries = [software(__version__), *(entry(cited[name], name) for name in cited if name in once.values())]
        for line in "\n\n".join(entries).splitlines():
            echo(line)
        return
    echo(f"The milbench authors. milbench: benchmarking multiple-instance-learning aggregators, version {__version__}.")
    for card in (resolve(method).card for method in methods or []):
        echo(f"{card.citation} {card.url}".rstrip())
