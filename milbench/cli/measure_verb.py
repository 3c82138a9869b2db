"""``milbench measure``: time and memory of methods as bags grow, compared with the rates of the machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ._terminal import echo

if TYPE_CHECKING:
    from ..runs.scaling.sweep import SweepPlan


def measure_command(
    method: list[str] = typer.Option(None, "-m", "--method", help="Methods to measure; default: all registered."),
    ladder: str = typer.Option("1k,4k,16k,64k", "--ladder", help="Bag lengths; k is a thousand, M a million."),
    dtype: str = typer.Option("fp32", "--dtype", help="fp32, tf32 (CUDA), bf16, fp16, or several: fp32,bf16."),
    mode: str = typer.Option("infer,train", "--mode", help="infer, train or both."),
    dim: int = typer.Option(1024, "--dim", help="Width of the features."),
    classes: int = typer.Option(2, "--classes", help="Number of classes."),
    against: str = typer.Option(None, "--against", help="A method to compare with, or 'authors': their own form."),
    rounds: int = typer.Option(3, "--rounds", help="Fresh processes that time a cell, methods in turns."),
    iterations: int = typer.Option(10, "--iterations", help="Timed calls of a cell, at least, over all rounds."),
    threads: int = typer.Option(None, "--threads", help="CPU threads; default: all cores."),
    device: str = typer.Option("auto", "--device", help="auto, cpu or cuda."),
    memory: str = typer.Option(
        None, "--memory", help="What a process may take, such as '8 GiB'; default: 90 % of what is available."
    ),
    out: Path = typer.Option(
        Path("results/perf"), "--out", help="Folder of the files; those of one name are replaced."
    ),
    name: str = typer.Option(None, "--name", help="Name of the files; default: device, torch and dtype."),
    compare: Path = typer.Option(
        None,
        "--compare",
        "--judge",
        help="Measure nothing; compare a file of pytest-benchmark with the committed references.",
    ),
    reference: Path = typer.Option(None, "--reference", help="With --compare: the folder of the references."),
) -> None:
    """Measure time and memory of methods against bag length, and how near they come to what this machine can do.

    Writes a table (.csv, .md), a figure (.png) and environment, rates and raw samples (.json).

    Interrupted or killed, the same command goes on after the last cell that had ended.

    Example: milbench measure -m transmil -m abmil --ladder 1k,4k,16k --mode infer

    Exit code: 0 all cells ok, 1 bad input (nothing has run), 2 some cells did not end ok, 3 regression (--compare).
    """
    if compare is not None:
        _compare(compare, reference)
    from ..errors import MilbenchError

    if reference is not None:
        raise MilbenchError("--reference goes with --compare; leave it out to measure.", code="option-conflict")
    from ..runs.launchers.local import warm_up

    warm_up()
    from ..config.units import parse_bytes
    from ..runs.scaling.sweep import parse_lengths, plan_sweep
    from ._terminal import check_folder

    cap = None if memory is None else parse_bytes(memory)
    # All of them before the first is run, which may take hours.
    plans = [
        plan_sweep(
            method, parse_lengths(ladder), modes=_words(mode), dtype=kind, in_dim=dim, n_classes=classes,
            against=against, rounds=rounds, iterations=iterations, threads=threads, device=device, memory_bytes=cap,
        )
        for kind in _words(dtype)
    ]  # fmt: skip
    if name is not None and (Path(name).name != name or name.startswith(".")):
        raise MilbenchError(
            f"--name {name} is no plain file name; give the folder with --out.", code="option-bad-value"
        )
    check_folder(out, "--out")
    bad = [line for plan in plans for line in _measure(plan, out, _stem(name, plan, len(plans)))]
    if bad:
        echo(f"{len(bad)} cells did not end ok:", err=True)
        for line in bad:
            echo(f"  {line}", err=True)
        raise typer.Exit(2)


def _measure(plan: SweepPlan, out: Path, stem: str | None) -> list[str]:
    """Carry out a plan, print its tables and write its files; return what did not end ok."""
    from ..report.scaling import busy_notes, to_rich, write_ladder
    from ..runs.scaling.sweep import file_stem, journal_of, run_sweep
    from ._terminal import command_line, print_table, show_progress

    journal = journal_of(plan, out)
    if journal.is_file() and journal.stat().st_size:
        echo(f"Going on with what {journal} holds of an interrupted run; delete it to begin anew.")
    with show_progress() as show:
        measurements = run_sweep(plan, show, journal, show.watch)
    paths = write_ladder(
        measurements.table, measurements.record(), out, stem or file_stem(measurements), command_line()
    )
    journal.unlink(missing_ok=True)
    for mode in plan.modes:
        print_table(to_rich(measurements.table, mode))
    for sentence in busy_notes(measurements.table, measurements.record()):
        echo(sentence)
    echo(f"Written: {', '.join(map(str, paths))}")
    rows = measurements.table[measurements.table["outcome"] != "ok"]
    return [f"{r.outcome}: {r.method} {r.mode} {r.dtype} n={r.n}: {r.reason}" for r in rows.itertuples()]


def _stem(name: str | None, plan: SweepPlan, plans: int) -> str | None:
    return name if name is None or plans == 1 else f"{name}-{plan.dtype}"


def _words(text: str) -> list[str]:
    return list(dict.fromkeys(word.strip() for word in text.split(",")))


def _compare(file: Path, reference: Path | None) -> None:
    from ..measure.perf_regression import compare_file

    report = compare_file(file) if reference is None else compare_file(file, reference)
    for line in report.lines:
        echo(line)
    raise typer.Exit(report.exit_code)
