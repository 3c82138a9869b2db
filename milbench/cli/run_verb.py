"""``milbench run``: make what is missing of a suite, then its leaderboard."""

from __future__ import annotations

import shlex
from collections import Counter
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ..formatting.text import count
from ._terminal import echo

if TYPE_CHECKING:
    from ..runs.plan import Plan


class Overwrite(StrEnum):
    """Which runs are done again."""

    missing = "missing"
    failed = "failed"
    all = "all"
    missing_models = "missing-models"
    costs = "costs"


def run_command(
    suite: str = typer.Argument(metavar="SUITE", help="A built-in suite or a TOML file."),
    method: list[str] = typer.Option(None, "-m", "--method", help="Run these methods instead of the suite's."),
    seeds: int = typer.Option(None, "--seeds", min=1, help="Run this many seeds instead of the suite's."),
    results: Path = typer.Option(Path("results/runs"), "--results", help="Results root; finished runs there are kept."),
    report: str = typer.Option(
        "",
        "--report",
        help="Folder of the report, or 'none'; default: next to the results root; none with -m, --seeds, --budget.",
    ),
    jobs: int = typer.Option(None, "--jobs", min=1, help="Runs side by side; default: what the cores allow."),
    overwrite: Overwrite = typer.Option(
        Overwrite.missing,
        "--overwrite",
        help="Which runs to do (again); costs: measure time and memory again, train nothing that is done.",
    ),
    budget: list[str] = typer.Option(
        None,
        "--budget",
        help="What every run may use, instead of the suite's: '5000 steps', '2e15 flop' or '10 min' (device-seconds); "
        "'8 GiB'; '20 trials' of tuning. Repeat it for several.",
    ),
    storage: str = typer.Option(
        None, "--storage", help="Tuning trials: a journal file or a storage URL of Optuna; default: with the results."
    ),
    timeout: float = typer.Option(None, "--timeout", min=0.001, help="Seconds a run may take; default: the suite's."),
    launcher: str = typer.Option(
        "local", "--launcher", help="What executes trials and runs: local, or a launcher of an installed package."
    ),
    dry_run: bool = typer.Option(False, "--dry-run", help="List the runs and stop."),
) -> None:
    """Run what is missing of a suite, print its leaderboard and write a report of it.

    The same command continues after an interruption. With -m, --seeds or --budget a report is written only where
    --report says.

    Example: milbench run quickstart

    Exit code: 0 all runs ok, 1 bad input (nothing has run), 2 some runs did not end ok.
    """
    from ..config.suites import load_suite
    from ..runs.launchers.base import find_launcher, warm_up

    load_suite(suite)  # what is wrong with the file is said before torch is imported, which takes seconds
    place = find_launcher(launcher)
    if not dry_run:
        warm_up(place)
    from ..config.units import parse_budget
    from ..runs.execute import costs_left, execute, trials_left
    from ..runs.plan import make_plan, refuse_damaged, unused, usable_jobs
    from ._terminal import check_folder, check_report, counted, show_progress

    limits = parse_budget(budget or ())
    with counted("reading") as progress:
        plan = make_plan(suite, results, methods=method, seeds=seeds, timeout_s=timeout, budget=limits, storage=storage,
                         progress=progress)  # fmt: skip
    todo = plan.todo(overwrite.value)
    refuse_damaged(plan, todo)
    for line in plan.notes:
        echo(f"note: {line}")
    for line in unused(plan) if overwrite.value in ("missing", "costs") else ():
        echo(line)
    if seeds is not None or dry_run:
        for line in _gain_of_seeds(plan, seeds or plan.suite.seeds):
            echo(line)
    if dry_run:
        _list(plan, len(todo), sum(trials_left(plan).values()), costs_left(plan, overwrite.value))
        return
    default_report = results.parent / plan.suite.name
    # A part of the suite, or another budget, must not take the place of the suite's report.
    partial = not report and (bool(method) or bool(budget) or seeds is not None)
    folder = None if report == "none" or partial else Path(report) if report else default_report
    check_folder(results, "--results")
    if folder is not None:
        check_report(folder, plan.suite.name)
    costs = costs_left(plan, overwrite.value)
    echo(
        f"{plan.suite.name}: {len(plan.runs)} runs, {len(plan.runs) - len(todo)} done already, {len(todo)} to do"
        + (f", and {count(costs, 'measurement')} of cost." if costs else ".")
    )
    for line in _audited(plan, suite):
        echo(line)
    echo(f"Budget of every run: {plan.suite.budget}.")
    if todo and not plan.searches and len(plan.runs) < usable_jobs(plan.suite):
        echo(
            f"{count(len(plan.runs), 'run')} of {count(plan.suite.threads, 'thread')} each leave cores idle here; a "
            "new suite (or version) with more threads would use them."
        )
    if plan.searches:
        trials = plan.suite.budget.trials or 0
        left = sum(trials_left(plan).values())
        echo(
            f"Tuning: {len(plan.searches)} studies of {trials} trials, {left} to do; then as many runs again with what "
            "they find."
        )
    with show_progress() as show:
        records = execute(plan, jobs=jobs, overwrite=overwrite.value, on_progress=show, on_start=show.watch,
                          launcher=place)  # fmt: skip
    _report(plan, folder)
    if partial:
        echo(
            "No report was written, as -m, --seeds or --budget may run something else than the suite; "
            f"--report {default_report} writes one."
        )
    bad = [record for record in records if record.outcome != "ok"]
    if bad:
        echo(f"{len(bad)} of {len(records)} runs did not end ok:", err=True)
        for record in bad:
            spec = record.spec
            echo(
                f"  {record.outcome}: {spec.data} {record.method} fold {spec.fold} seed {spec.seed}: {record.reason}",
                err=True,
            )
        raise typer.Exit(2)


def _list(plan: Plan, todo: int, trials: int, costs: int) -> None:
    echo(f"Budget of every run: {plan.suite.budget}.")
    for planned in plan.runs:
        echo(f"{planned.spec.run_id}  {planned.outcome or 'to do':<8} {planned}")
    tuned = f", {trials} tuning trials to do and then as many runs again" if plan.searches else ""
    measured = f", {count(costs, 'measurement')} of cost to make" if costs else ""
    echo(f"{len(plan.runs)} runs, {todo} to do{tuned}{measured}; nothing was run.")


def _gain_of_seeds(plan: Plan, seeds: int) -> list[str]:
    """Return a line for every cohort: what more seeds would buy, from its stored runs, else from its size."""
    from ..errors import MilbenchError
    from ..evaluation.more_seeds import planned_sentence, tested_counts
    from ..evaluation.notes import seeds_would_buy

    lines = []
    for cohort in plan.cohorts:
        if not cohort.ranked:
            continue
        try:
            line = seeds_would_buy(plan.store.folder, cohort.name, cohort.fingerprint, seeds)
        except MilbenchError:  # nothing was run yet; what is damaged is said where results are read for a table
            line = ""
        patients = cohort.patients if plan.suite.unit == "patient" else None
        counts = tested_counts((fold.test for fold in cohort.folds), cohort.labels, patients, len(cohort.classes))
        lines.append(line or planned_sentence(cohort.name, counts, seeds, plan.suite.unit))
    return [line for line in lines if line]


def _audited(plan: Plan, suite: str) -> list[str]:
    """Return a line for every cohort of which the audit has something to say."""
    lines = []
    for cohort in plan.cohorts:
        warnings = Counter(f.code for f in cohort.findings if f.severity == "warning" and not f.waived)
        waived = sorted({f.code for f in cohort.findings if f.waived})
        said = [f"warnings {', '.join(sorted(warnings))}"] if warnings else []
        said += [f"waived {', '.join(waived)}"] if waived else []
        if said:
            lines.append(f"Audit of {cohort.name}: {'; '.join(said)} (milbench audit {shlex.quote(suite)} tells more).")
        # What a run leaves out, it names itself.
        lines += [f"{f.sentence[:1].upper()}{f.sentence[1:]}" for f in cohort.findings if f.code == "no-patches"]
    return lines


def _report(plan: Plan, folder: Path | None) -> None:
    """Print the leaderboard, having written its report where there is a folder for it."""
    if not any(cohort.ranked for cohort in plan.cohorts):
        names = ", ".join(f"{cohort.name} (task {cohort.task})" for cohort in plan.cohorts)
        return echo(f"No table of AUC, which is of classification alone: {names}. Predictions are stored.")
    from ..evaluation.leaderboard import evaluate
    from ..report.folder import write_report
    from ..report.renderers import render
    from ._terminal import command_line, print_report, report_title

    board = evaluate(plan.store.folder, details=folder is not None)
    if folder is not None:
        write_report(board, folder, report_title(plan.suite.name), "Made by:", command=command_line())
    print_report(render(board, "console"))
    if folder is not None:
        echo(f"Report: {folder / 'README.md'}")
