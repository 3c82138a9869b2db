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
    from collections import Counter

    from ..plan import make_plan
    from ..quantities import parse_budget
    from ..runner import costs_left, trials_left, tuned_runs
    from ..wording import count

    plan = make_plan(suite, results, methods=method, seeds=seeds, budget=parse_budget(budget or ()), storage=storage)
    runs = [*plan.runs, *(tuned_runs(plan) if plan.searches else ())]
    counts = Counter(planned.outcome or "missing" for planned in runs)
    echo(f"{plan.suite.name} version {plan.suite.version}: {len(runs)} runs in {plan.store.folder}")
    for outcome, number in counts.most_common():
        echo(f"  {number:5d} {outcome}")
    if plan.searches:
        left = trials_left(plan)
        done = sum(search.trials - left[search.name] for search in plan.searches)
        echo(f"  {done:5d} of {sum(s.trials for s in plan.searches)} tuning trials, in {plan.storage}")
    if costs := costs_left(plan, "missing"):
        echo(f"  {count(costs, 'measurement')} of cost not done")
    for planned in runs:
        if planned.outcome not in (None, "ok"):
            run_id = planned.spec.run_id
            echo(f"  {planned.outcome}: {planned} ({run_id}): {plan.store.reason(run_id)}")
