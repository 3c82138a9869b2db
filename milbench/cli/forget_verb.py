"""``milbench forget``: remove stored runs."""

from __future__ import annotations

from pathlib import Path

import typer

from ._terminal import echo


def forget_command(
    results: Path = typer.Argument(
        Path("results/runs"), metavar="RESULTS", help="Results root, or the folder of one suite in it."
    ),
    suite: str | None = typer.Option(None, "--suite", help="Runs of this suite: name, or name-v1."),
    data: str | None = typer.Option(None, "--data", help="Runs on this cohort."),
    method: list[str] = typer.Option(None, "-m", "--method", help="Runs of these methods."),
    condition: str | None = typer.Option(
        None, "--condition", help="Runs of one table: the words of its heading, or the digits that this command lists."
    ),
    older: str | None = typer.Option(
        None, "--older", help="Runs finished before an age or date: '30 days', 2026-03-01."
    ),
    outcome: str | None = typer.Option(None, "--outcome", help="Runs that ended so: failed, timeout, oom ..."),
    superseded: bool = typer.Option(
        False, "--superseded", help="Runs that no table shows: of earlier labels, features, folds, code or recipes."
    ),
    yes: bool = typer.Option(False, "--yes", help="Remove them; without it they are listed and nothing is removed."),
) -> None:
    """List the runs that meet all the options, and with --yes remove them.

    Costs of a method without any run left on its cohort, and cohorts without any run left, go with them.

    Example: milbench forget results/runs --suite lung --condition 'budget: 900 s' --yes
    """
    from ..config import digest
    from ..errors import MilbenchError
    from ..evaluation.forget import Selection, at_work, remove, select, summary
    from ..runs.current_runs import conditions_of

    selection = Selection(suite, data, tuple(method or ()), condition, older, outcome, superseded)
    selected = select(results, selection)
    if not selected:
        echo(f"No run in {results} meets all of that; nothing is removed.")
    for doomed in selected:
        for run in doomed.runs:
            spec = run.spec
            echo(
                f"  {run.path.name}  {run.outcome:<8} {spec.data} {run.method} fold {spec.fold} seed {spec.seed}, "
                f"condition {digest(conditions_of(spec))[:6]}"
            )
        if yes and at_work(doomed.store):
            raise MilbenchError(
                f"milbench run is at work in {doomed.store.folder}; wait for its end, or stop it.", code="place-busy"
            )
        if yes:
            remove(doomed)
        echo(f"{summary(doomed)}{' removed.' if yes else '; nothing is removed without --yes.'}")
