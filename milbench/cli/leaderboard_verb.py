"""``milbench leaderboard``: the table."""

from __future__ import annotations

from collections.abc import Collection
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ..formatting.escaping import to_csv
from ._terminal import Rule, echo, echo_data

if TYPE_CHECKING:
    from ..evaluation.leaderboard import Leaderboard

#: Where results are unless a command says otherwise.
_ROOT = Path("results/runs")


class FigureFormat(StrEnum):
    """Formats of figures in addition to PNG."""

    svg = "svg"
    pdf = "pdf"


def leaderboard_command(
    given: Path | None = typer.Argument(
        None,
        metavar="[RESULTS|SUITE]",
        help="Results root, or the folder of one suite in it, or a suite, as for run; default: results/runs.",
        show_default=False,
    ),
    root: Path | None = typer.Option(
        None, "--results", help="Results root, as for run; default: results/runs.", show_default=False
    ),
    suite: str | None = typer.Option(None, "--suite", help="Only this suite: name, or name-v1."),
    data: str | None = typer.Option(None, "--data", help="Only this cohort."),
    form: str = typer.Option(
        "table",
        "--format",
        metavar="NAME",
        help="What to print: table, markdown, csv or json (all columns), or the name of an installed renderer.",
    ),
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

    Where one of several suites is damaged, the others are shown, unless a report is to be written.

    Example: milbench leaderboard results/runs --suite quickstart --out results/quickstart

    Exit code: 0 everything is shown, 1 bad input, 2 a suite was left out as its results are damaged.
    """
    from .. import __version__
    from ..errors import MilbenchError
    from ..evaluation.leaderboard import evaluate
    from ..report.build import build_report
    from ..report.folder import foreign_readme, write_report
    from ..report.model import Code, Prose
    from ..report.renderers import find_renderer
    from ._terminal import check_folder, command_line, portable, print_report

    data_only = form in ("csv", "json")
    renderer = None if data_only else find_renderer("console" if form == "table" else form)
    results, suite = _which(given, root, suite)
    if out is not None:
        check_folder(out, "--out")
        if foreign_readme(out):
            raise MilbenchError(
                f"{out / 'README.md'} is no report and would be overwritten; give another --out.", code="already-exists"
            )
    details = out is not None or (renderer is not None and renderer.figures)

    def read(without: Collection[str] = ()) -> Leaderboard:
        return evaluate(results, suite, data, resamples, target_auc, price, across, every, details=details,
                        threshold_rule=None if threshold is None else threshold.value, without=without)  # fmt: skip

    damaged: dict[str, str] = {}
    try:
        board = read()
    except MilbenchError:
        damaged = _damaged(results) if suite is None and out is None else {}
        if not damaged:
            raise
        board = read(without=damaged)
    if across and not board.cross_cohort:
        raise MilbenchError(
            f"{results} has no suite with three or more cohorts on which two or more methods were run to their end; "
            "leave out --across.",
            code="results-missing",
        )
    title = f"Leaderboard: {', '.join(board.suites)}"
    source = (f"Written by milbench {__version__} from the predictions stored in ", Code(portable(results)), ":")
    if renderer is not None:
        report = build_report(board, title, Prose.of(*source), command_line(), figures=renderer.figures)
        print_report(renderer(report), renderer.guard())
    else:
        echo_data(to_csv(board.table) if form == "csv" else board.table.to_json(orient="records", indent=2) + "\n")
        for note in board.notes:
            echo(f"note: {note}", err=True)
    if out is not None:
        formats = [kind.value for kind in figures or ()]
        path = write_report(board, out, title, Prose.of(*source), formats, command_line())
        echo(f"report: {path}", err=True)
    for name, sentence in damaged.items():
        echo(f"milbench: {name} is left out: {sentence}", err=True)
    if damaged:
        raise typer.Exit(2)


def _which(given: Path | None, root: Path | None, suite: str | None) -> tuple[Path, str | None]:
    """Return the results root and the suite in it that the words of the command line mean."""
    from ..config.suites import list_suites, load_suite
    from ..errors import MilbenchError
    from ._terminal import warn_if_changed

    if given is None:
        return root or _ROOT, suite
    is_file = given.suffix == ".toml" and given.is_file()
    if is_file or (str(given) in list_suites() and not given.exists()):
        of = load_suite(given)
        name = f"{of.name}-v{of.version}"
        if suite not in (None, of.name, name):
            raise MilbenchError(
                f"{given} is suite {of.name}, and --suite names {suite!r}; leave out one of them.",
                code="option-conflict",
            )
        if is_file:
            warn_if_changed(given, of, root or _ROOT)
        return root or _ROOT, name
    if root is not None:
        raise MilbenchError(
            f"{given} and --results {root} both name results; leave out one of them.", code="option-conflict"
        )
    return given, suite


def _damaged(results: Path) -> dict[str, str]:
    """Return the folders of suites with defects; empty where all suites have some, which is an error elsewhere."""
    from ..errors import MilbenchError
    from ..runs.records import suite_folders
    from ..runs.store_check import damaged_suites

    try:
        damaged = damaged_suites(results)
        return damaged if len(damaged) < len(suite_folders(results)) else {}
    except MilbenchError:
        return {}
