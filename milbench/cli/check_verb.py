"""``milbench check``: does a method keep the contract?"""

from __future__ import annotations

import typer

from ._terminal import echo


def check_command(
    method: str = typer.Argument(
        metavar="METHOD", help="A name with parameters, or module:Class for a class of your own."
    ),
) -> None:
    """Check that an aggregator keeps the contract: one line a check, exit code 1 if one is broken.

    Example: milbench check my_pool:MyPool
    """
    from ..errors import MilbenchError
    from ..testing.report import run_checks

    report = run_checks(method)
    echo(str(report), lines=True)
    if report.broken:
        raise MilbenchError(
            f"{report.method} breaks {len(report.broken)} of {len(report.results)} checks.",
            code="method-breaks-contract",
        )
