"""``milbench predictions``: what every run predicted of every bag, as one table."""

from __future__ import annotations

from pathlib import Path

import typer


def predictions_command(
    suite: str = typer.Argument(None, metavar="[SUITE]", help="Only this suite: its name, or a TOML file."),
    out: Path = typer.Option(..., "--out", help="The table to write (.csv or .parquet)."),
    results: Path = typer.Option(Path("results/runs"), "--results", help="Results root, or the folder of one suite."),
    data: str = typer.Option(None, "--data", help="Only this cohort."),
    part: str = typer.Option("test", "--part", help="Bags of this part of the folds: test, val or all."),
) -> None:
    """Write the stored predictions of the runs that tables show: one row a run, bag and class.

    Example: milbench predictions quickstart --out predictions.csv
    """
    from ._prediction import write_predictions

    write_predictions(suite, out, results, data, part)
