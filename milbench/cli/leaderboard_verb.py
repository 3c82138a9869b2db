"""``milbench leaderboard``: the table."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

import typer

from ..escaping import to_csv
from ._terminal import Rule, echo, echo_data


class Format(StrEnum):
    """What to print."""

    table = "table"
    csv = "csv"
    markdown = "markdown"
    json = "json"


class FigureFormat(StrEnum):
    """What figures may be written as beside PNG."""

    svg = "svg"
    pdf = "pdf"


def leaderboard_command(
    results: Path = typer.Argument(
        Path("results/runs"), metavar="RESULTS", help="Results root, or the folder of one suite in it."
    ),
    suite: str | None = typer.Option(None, "--suite", help="Only this suite: name, or name-v1."),
    data: str | None = typer.Option(None, "--data", help="Only this cohort."),
    form: Format = typer.Option(Format.table, "--format", help="What to print; csv and json hold all columns."),
    out: Path | None = typer.Option(
        None, "--out", help="Also write a report here: README.md, leaderboard.csv, figures."
    ),
    figures: list[FigureFormat] = typer.Option(None, "--figures", help="With --out: figures as this, too; repeatable."),
    resamples: int = typer.Option(2000, "--resamples", min=1, help="Bootstrap resamples of the intervals."),
    target_auc: float | None = typer.Option(
        None, "--target-auc", min=0.5, max=1.0, help="Also tell the device-seconds to this validation AUC."
    ),
    price: float | None = typer.Option(
        None, "--price", help="Of a device-hour, in any currency: also tell what a training costs."
    ),
    across: bool = typer.Option(
        False, "--across", help="Also compare methods over the cohorts of a suite: ranks, IQM of AUC, Elo."
    ),
    threshold: Rule | None = typer.Option(
        None, "--threshold", help="Call bags of two classes positive by this rule instead of the suite's."
    ),
    every: bool = typer.Option(
        False, "--all", help="Show whatever was run, not only the methods, folds and seeds that were run last."
    ),
) -> None:
    """Show which method is better, by how much, how sure that is, and what it costs.

    Example: milbench leaderboard results/runs --suite quickstart --out results/quickstart
    """
    from .. import __version__
    from ..errors import MilbenchError
    from ..ranking import leaderboard, to_markdown, write_report
    from ..reporting import foreign_readme
    from ._terminal import check_folder, command_line, portable, print_leaderboard

    if out is not None:
        check_folder(out, "--out")
        if foreign_readme(out):
            raise MilbenchError(f"{out / 'README.md'} is no report and would be overwritten; give another --out.")
    df = leaderboard(results, suite, data, resamples, target_auc, price, across, every, details=out is not None,
                     threshold_rule=None if threshold is None else threshold.value)  # fmt: skip
    if across and not df.attrs["across"]:
        raise MilbenchError(
            f"{results} has no suite with three or more cohorts on which two or more methods were run to their end; "
            "leave out --across."
        )
    if form is Format.table:
        print_leaderboard(df)
    elif form is Format.markdown:
        echo_data(to_markdown(df) + "\n")
    elif form is Format.csv:
        echo_data(to_csv(df))
    else:
        echo_data(df.to_json(orient="records", indent=2) + "\n")
    if form in (Format.csv, Format.json):
        for note in df.attrs["notes"]:
            echo(f"note: {note}", err=True)
    if out is not None:
        which = ", ".join(df.attrs["suites"])
        source = f"milbench {__version__} from the predictions stored in `{portable(results)}`"
        provenance = f"Written by {source}:\n\n    {command_line()}"
        path = write_report(df, out, f"Leaderboard: {which}", provenance, [kind.value for kind in figures or ()])
        echo(f"report: {path}", err=True)
