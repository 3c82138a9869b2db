"""``milbench verify``: whether a results folder and its caches, or a cache, are as they were written."""

from __future__ import annotations

from pathlib import Path

import typer

from ._terminal import echo


def verify_command(
    path: Path = typer.Argument(
        Path("results/runs"), metavar="[RESULTS|CACHE]", help="Results root, the folder of one suite in it, or a cache."
    ),
) -> None:
    """Compare every stored file with its checksum and its record, and print a line a defect.

    Of results: runs, costs, cohorts, suites, tuning journals, and the feature caches that the suites name, where they
    are on this machine. Files that were stored before there were checksums are read, and held against their ids and
    folds.

    Example: milbench verify results/runs

    Exit code: 0 no defects, 1 there is nothing of that name, 2 defects.
    """
    from ..runs.store_check import check_path
    from ._terminal import counted

    with counted("verifying") as progress:
        report = check_path(path, progress)
    for line in report.defects:
        echo(line)
    for line in report.notes:
        echo(line)
    echo(report.sentence)
    if report.defects:
        raise typer.Exit(2)
