"""``milbench tune``: the hyperparameter searches of a suite, and nothing else."""

from __future__ import annotations

from pathlib import Path

import typer

from ._terminal import echo


def tune_command(
    suite: str = typer.Argument(metavar="SUITE", help="A built-in suite or a TOML file."),
    method: list[str] = typer.Option(None, "-m", "--method", help="Tune these methods instead of the suite's."),
    budget: list[str] = typer.Option(
        None, "--budget", help="Instead of the suite's, as for run: '20 trials', '5000 steps', '10 min', '8 GiB'."
    ),
    results: Path = typer.Option(Path("results/runs"), "--results", help="Results root; finished trials are kept."),
    storage: str = typer.Option(
        None, "--storage", help="A journal file or a storage URL of Optuna; default: with the results."
    ),
    timeout: float = typer.Option(None, "--timeout", min=0.001, help="Seconds a trial may take; default: the suite's."),
    jobs: int = typer.Option(None, "--jobs", min=1, help="Trials side by side, of different studies."),
    launcher: str = typer.Option(
        "local", "--launcher", help="What executes trials: local, or a launcher of an installed package."
    ),
    plots: Path = typer.Option(None, "--plots", help="Write two figures of every study into this folder."),
) -> None:
    """Search the hyperparameters of every method with the same number of trials, on validation slides alone.

    The same command continues after an interruption; milbench run does the same and then makes the final runs.

    Example: milbench tune quickstart --budget '10 trials' --budget '200 steps' -m abmil -m transmil

    Exit code: 0 every study has a best trial, 1 bad input (nothing has run), 2 some study has none.
    """
    from ..config.suites import load_suite
    from ..runs.launchers.base import find_launcher, warm_up

    load_suite(suite)  # what is wrong with the file is said before torch is imported, which takes seconds
    place = find_launcher(launcher)
    warm_up(place)
    from ..config.units import parse_budget
    from ..report.tuning import write_study_figures
    from ..runs.execute import trials_left, tune
    from ..runs.plan import make_plan
    from ._terminal import check_folder, counted, show_progress

    for folder, option in ((results, "--results"), (plots, "--plots")):
        if folder is not None:
            check_folder(folder, option)
    limits = parse_budget(budget or ())
    with counted("reading") as progress:
        plan = make_plan(suite, results, methods=method, timeout_s=timeout, budget=limits, storage=storage,
                         progress=progress)  # fmt: skip
    total = sum(trials_left(plan).values())
    echo(f"{plan.suite.name}: {len(plan.searches)} studies, {total} trials to do. Budget: {plan.suite.budget}.")
    with show_progress() as show:
        results_of = tune(plan, jobs=jobs, on_progress=show, on_start=show.watch, launcher=place)
    missing = 0
    for search in plan.searches:
        best = results_of[search.name]
        counts = ", ".join(f"{n} {outcome}" for outcome, n in best.outcomes.most_common())
        if best.best is None:
            missing += 1
            echo(f"{search}: no trial ended ok ({counts}): {best.reason}", err=True)
            continue
        values = ", ".join(f"{k} = {v:.4g}" if isinstance(v, float) else f"{k} = {v}" for k, v in best.best.items())
        monitor = search.task.spec.protocol.monitor
        echo(f"{search}: trial {best.number} of {counts}: {monitor} {best.value:.4f} with {values}")
    if plots is not None:
        for path in write_study_figures(plan.searches, plan.storage, plots):
            echo(f"Figure: {path}")
    if missing:
        raise typer.Exit(2)
