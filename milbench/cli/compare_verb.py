"""``milbench compare``: two methods, cohort by cohort."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

import typer

from ..formatting.escaping import to_csv
from ._terminal import echo, echo_data, registered


class Format(StrEnum):
    """What to print."""

    text = "text"
    csv = "csv"
    json = "json"


def compare_command(
    a: str = typer.Argument(metavar="A", help="A method of the results, with its parameters."),
    b: str = typer.Argument(metavar="B", help="The method it is compared with."),
    results: Path = typer.Option(Path("results/runs"), "--results", help="Results root, or the folder of one suite."),
    suite: str | None = typer.Option(None, "--suite", help="Only this suite: name, or name-v1."),
    data: str | None = typer.Option(None, "--data", help="Only this cohort."),
    form: Format = typer.Option(Format.text, "--format", help="What to print."),
    resamples: int = typer.Option(2000, "--resamples", min=1, help="Bootstrap resamples of the intervals."),
    every: bool = typer.Option(False, "--all", help="On all folds and seeds that were run, not only those run last."),
) -> None:
    """Compare two methods on the same test bags: the paired difference of their AUC with its 95 % interval.

    Example: milbench compare transmil abmil --results results/runs
    """
    from ..evaluation.comparison import compare
    from ..report.comparison import comparison_lines

    table = compare(registered(a), registered(b), results, suite, data, resamples, every)
    if form is Format.csv:
        echo_data(to_csv(table))
    elif form is Format.json:
        echo_data(table.to_json(orient="records", indent=2) + "\n")
    else:
        for line in comparison_lines(table):
            echo(line)
