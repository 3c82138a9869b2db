"""``milbench export``: one folder to hand over, with a method's models and how they were made."""

from __future__ import annotations

from pathlib import Path

import typer


def export_command(
    suite: str = typer.Argument(
        metavar="SUITE", help="A suite whose runs kept their models: its name, or a TOML file."
    ),
    method: str = typer.Option(..., "-m", "--method", help="Whose models: a method of the suite."),
    out: Path = typer.Option(..., "--out", help="The folder to write; it must not exist."),
    results: Path = typer.Option(Path("results/runs"), "--results", help="Results root, or the folder of one suite."),
    data: str = typer.Option(None, "--data", help="The cohort the models were trained on, where there are several."),
    conditions: str = typer.Option(None, "--conditions", help="The table of the runs, where the cohort has several."),
) -> None:
    """Write the models of a method, its card, the suite, the audit and a loader of five lines into one folder.

    Example: milbench export lung.toml -m transmil --out lung-transmil
    """
    from ._prediction import export_to

    export_to(suite, method, out, results, data, conditions)
