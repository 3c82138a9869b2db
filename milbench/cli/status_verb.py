"""``milbench status``: what is done and what is missing."""

from __future__ import annotations

from pathlib import Path

import typer

from ._terminal import echo


def status_command(
    suite: str = typer.Argument(metavar="SUITE", help="A built-in suite or a TOML file."),
    results: Path = typer.Option(Path("results/runs"), "--results", help="Results root."),
    method: list[str] = typer.Option(None, "-m", "--method", help="These methods instead of the suite's."),
    seeds: int = typer.Option(None, "--seeds", min=1, help="This many seeds instead of the suite's."),
    budget: list[str] = typer.Option(None, "--budget", help="As it was given to run."),
    storage: str = typer.Option(None, "--storage", help="As it was given to run."),
) -> None:
    """Tell how many runs of a suite are done, how they ended, and why some did not end ok.

    Example: milbench status quickstart
    """
    from ..config.suites import load_suite
    from ..config.units import parse_budget
    from ..runs.status import standing

    limits = parse_budget(budget or ())
    known = standing(load_suite(suite), results, method or (), seeds, limits) if storage is None else None
    if known is not None:
        for line in known.lines():
            echo(line)
        return
    _planned(suite, results, method, seeds, limits, storage)


def _planned(
    suite: str,
    results: Path,
    methods: list[str] | None,
    seeds: int | None,
    budget: dict[str, float],
    storage: str | None,
) -> None:
    """Plan the suite anew, as it was never run so; that imports the methods and reads the cohorts."""
    from collections import Counter

    from ..formatting.text import count
    from ..runs.execute import costs_left, trials_left, tuned_runs
    from ..runs.live import sessions
    from ..runs.plan import make_plan

    plan = make_plan(suite, results, methods=methods, seeds=seeds, budget=budget, storage=storage)
    runs = [*plan.runs, *(tuned_runs(plan) if plan.searches else ())]
    counts = Counter(planned.outcome or "missing" for planned in runs)
    echo(f"{plan.suite.name} version {plan.suite.version}: {len(runs)} runs in {plan.store.folder}")
    for note in plan.notes:
        echo(f"  note: {note}")
    for outcome, number in counts.most_common():
        echo(f"  {number:5d} {outcome}")
    if plan.searches:
        left = trials_left(plan)
        done = sum(search.trials - left[search.name] for search in plan.searches)
        echo(f"  {done:5d} of {sum(s.trials for s in plan.searches)} tuning trials, in {plan.storage}")
    if costs := costs_left(plan, "missing"):
        echo(f"  {count(costs, 'measurement')} of cost not done")
    for state in sessions(plan.store.folder):
        echo(f"  running now (process {state.pid}): {state}")
    for planned in runs:
        if planned.outcome not in (None, "ok"):
            run_id = planned.stored or planned.spec.run_id
            echo(f"  {planned.outcome}: {planned} ({run_id}): {plan.store.reason(run_id)}")
