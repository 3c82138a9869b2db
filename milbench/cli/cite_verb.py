"""``milbench cite``: whom to cite."""

from __future__ import annotations

import typer

from ._terminal import echo


def cite_command(
    methods: list[str] = typer.Argument(None, metavar="METHOD", help="Methods; none: milbench alone."),
) -> None:
    """Print what to cite for milbench and for methods.

    Example: milbench cite transmil abmil
    """
    from .. import __version__
    from ..registry import resolve

    cards = [resolve(method).card for method in methods or []]  # all of them, before anything is printed
    echo(f"The milbench authors. milbench: benchmarking multiple-instance-learning aggregators, version {__version__}.")
    for card in cards:
        echo(f"{card.citation} {card.url}".rstrip())
