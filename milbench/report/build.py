"""From a leaderboard to its report: what is said and shown, in which order, whatever the format."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from ..errors import MilbenchError
from ..evaluation import ablation, cross_cohort, known_answers
from ..evaluation import published_figures as published
from ..formatting.text import count, listed
from ..stats import threshold
from ..tasks import CLASSIFICATION, task_named
from . import budget
from .model import Block, Code, Figure, Listing, Prose, Report, Section, Span, Strong, Table
from .tables import (
    COST,
    cells_of,
    cohorts_of,
    environment_spans,
    scores_columns,
    short_columns,
    short_metrics,
    units,
    verdict_columns,
    with_seeds,
)

if TYPE_CHECKING:
    from ..evaluation.leaderboard import Leaderboard

#: Sentences every report carries: what the numbers are, and what they are not.
_READING = """\
AUC is the area under the ROC curve on test bags (with more than two classes the mean of one class against the rest),
computed per fold and seed and averaged. The brackets hold the 95 % interval: {resamples} bootstrap resamples of test
{units}, drawn within each class, on the logit scale, which keeps the coverage near an AUC of 1 (for an AUC of exactly
1: an exact bound), and the variance over seeds, pooled over the methods of a cohort (`milbench.stats.seeds`), because
a few seeds of one method say little about it. All methods of a cohort see the same resamples, so the difference to the
best method is paired. The interval covers another draw of test {units} and, with two seeds or more, of seeds. It does
not cover another draw of training {units}, another source of the data (a hospital, for example), or another choice of
folds.

Methods are ranked by AUC. The interval after a rank holds the ranks that the data leave possible, for all methods
together with 95 % confidence; where it begins with 1, the data do not separate the method from the best. Equal scores
share a rank, marked `=`. A method has no rank if any of its runs did not end `ok`: its scores are over fewer runs, and
the column Runs gives the outcomes. Accuracy is followed by its standard deviation over the repetitions of the k-fold,
otherwise over seeds. Each difference to the best has its own 95 % interval, not corrected for the number of methods
compared."""

_COSTS = """\
Throughput and memory are measured in separate passes, one process at a time, all in one environment; methods of a
cohort that are measured in one command take turns. An empty cell was not measured there. Bags and patches per second
are those of up to 16 test bags and of up to six training steps, drawn from equal parts of all bags ordered by length.
Peak memory is the memory of the pass beyond the loaded libraries and features, in MiB (1,048,576 bytes); a method below
0.1 MiB is shown as <0.1, because the system assigns memory in pages."""

_NOT_MEASURED = "Throughput and memory were not measured."

_UNRANKED = "Not ranked, because not every run ended ok; scores are over fewer runs."

#: File of each figure that a report may have -> its caption.
FIGURES = {
    "effects.png": "Effects",
    "effects_vs_time.png": "Effect against training time",
    "auc.png": "AUC by method",
    "auc_vs_throughput.png": "AUC against inference throughput",
    "auc_vs_memory.png": "AUC against peak memory",
    "auc_vs_device_seconds.png": "AUC against device-seconds of training",
    "auc_vs_flops.png": "AUC against FLOPs of training",
    "auc_vs_run_memory.png": "AUC against peak memory of a run",
    "anytime_steps.png": "Validation AUC against steps",
    "anytime_flops.png": "Validation AUC against FLOPs",
    "anytime_device_seconds.png": "Validation AUC against device-seconds",
    "ranks.png": "Mean ranks over cohorts",
    "profiles.png": "Share of runs above an AUC",
}

#: Part of a figure's file name -> the column that AUC is drawn against.
_TRADEOFFS = {
    "throughput": "infer_patches_per_s",
    "memory": "infer_peak_memory_bytes",
    "device_seconds": "train_device_seconds",
    "flops": "train_flops",
    "run_memory": "run_peak_memory_bytes",
}


def build_report(
    board: Leaderboard, title: str = "", provenance: str | Prose = "", command: str = "", figures: bool = False
) -> Report:
    """Return the report of a leaderboard.

    Args:
        board: from `milbench.evaluation.leaderboard.evaluate`.
        title: heading of the report.
        provenance: where the numbers come from; a string is plain text.
        command: the command line that made it.
        figures: draw the figures, too.
    """
    return Report(
        title=title,
        provenance=provenance if isinstance(provenance, Prose) else Prose.of(provenance),
        command=command,
        results=tuple(_result(name, block) for name, block in cohorts_of(board.table)),
        notes=tuple(board.notes),
        figures=tuple(_figures(board)) if figures else (),
        sections=(
            *_comparisons(board), _reading(board), _protocols(board),
            Section("Environment", (
                Listing(tuple(_environments(board))),
                Prose.parse("All columns, with units in their names, are in `leaderboard.csv`."),
            )),
        ),
        legend=(
            f"AUC: mean over folds and seeds [95 % interval over {with_seeds(units(_units_of(board)), board.table)}]; "
            "rank by AUC, and the ranks that the data leave possible, for all methods together at 95 %: where they "
            "begin with 1, the data do not separate the method from the best. Below a line: not ranked, because "
            "not every run ended ok; scores are over fewer runs."
        ),
    )  # fmt: skip


def _result(name: str, block: pd.DataFrame) -> Section:
    """Return one table of runs: the verdict, the other scores, costs, and what trainings used."""
    words = Prose.of(budget.words(block))
    blocks: list[Block] = [words, _verdict(block)]
    ranked = block["rank"].notna()
    mixed = ranked.any() and not ranked.all()  # those without a rank may have higher scores, over fewer runs
    for caption, part in (("", block[ranked]), (_UNRANKED, block[~ranked])) if mixed else (("", block),):
        blocks.append(Table.of(cells_of(part, verdict_columns()), caption))
    further = (
        ("Other scores:", cells_of(block, scores_columns())),
        ("Cost:", cells_of(block, COST)),
        ("Training and its budget:", budget.cells(block)),
    )
    blocks += [Table.of(cells, caption) for caption, cells in further if len(cells.columns) > 1]
    narrow, short = cells_of(block, short_columns()), "To best [95 %]"
    # The outcomes of runs are there wherever one of them did not end ok.
    plain = (block["outcome"] == "ok").all() and block["cost_outcome"].isin(["", "ok"]).all()
    runs = ["Runs"] if plain and block["ordered_by"].nunique() == 1 else []
    scores = ["Sens./spec.", *(metric.short for metric in short_metrics())]
    dispensable = [short, "MiB", *runs, "Patches/s", *scores, "Pooling", "To best", "Ranks [95 %]"]
    summary = Table.of(
        narrow, name, ranked=tuple(map(bool, ranked)), droppable=tuple(h for h in dispensable if h in narrow),
        substitutes={short: "To best"} if short in narrow else {},
    )  # fmt: skip
    return Section(name, tuple(blocks), (summary, words))


def _verdict(block: pd.DataFrame) -> Prose:
    """Say which method leads, and which ones the data do not separate from it."""
    ranked = block[block["rank"].notna()]
    if not len(ranked) and (block["checkpoint"] == "oracle").all():
        return Prose.of("Selected on test, and therefore not ranked: the gain over the same trainings is shown below.")
    if not len(ranked):
        return Prose.of("No method finished all its runs, so none is ranked.")
    first = ranked.iloc[0]
    spans: list[Span] = [Code(str(first["method"])), f" has the highest AUC, {first['auc']:.3f}"]
    if len(ranked) > 1:
        others: list[list[Span]] = [[Code(str(name))] for name in ranked["method"][ranked["among_best"]][1:]]
        apart: list[Span] = ["the data separate every other method from it"]
        spans += ["; ", *([*_listed(others), " cannot be separated from it"] if others else apart)]
    spans.append(".")
    rest = block[block["rank"].isna()].itertuples(index=False)
    unranked: list[list[Span]] = [[Code(str(row.method)), f" ({row.outcome})"] for row in rest]
    if unranked:
        spans += [" Not ranked: ", *_listed(unranked), "."]
    return Prose.of(*spans)


def _listed(items: list[list[Span]]) -> list[Span]:
    """Return ``a``, ``a and b`` or ``a, b and c`` of items of several spans."""
    spans: list[Span] = []
    for i, item in enumerate(items):
        spans += [*(["" if i == 0 else " and " if i == len(items) - 1 else ", "]), *item]
    return [span for span in spans if span != ""]


def _figures(board: Leaderboard) -> Iterator[Figure]:
    """Yield the figures that have something to show."""
    from .figures.ablation import effect_cost_figure, effect_figure
    from .figures.anytime import anytime_figure
    from .figures.leaderboard import auc_figure, tradeoff_figure
    from .figures.ranks import critical_difference_figure, profile_figure

    df = board.table
    drawings: dict[str, Any] = {}
    if board.effects:  # an ablation is read by effects and what they cost; the other axes are in the tables
        effects = ablation.with_costs(board.effects, df)
        drawings["effects.png"] = effect_figure(effects)
        drawings["effects_vs_time.png"] = effect_cost_figure(effects)
    drawings["auc.png"] = auc_figure(df)
    if not board.effects:
        for axis, column in _TRADEOFFS.items():
            if not budget.is_budgeted(df, axis):
                drawings[f"auc_vs_{axis}.png"] = tradeoff_figure(df, column)
        for axis, curves in board.curves.items():
            drawings[f"anytime_{axis}.png"] = anytime_figure(curves)
    for one in board.cross_cohort[:1]:  # the report of a suite has one
        if one.friedman is not None:
            drawings["ranks.png"] = critical_difference_figure(one.friedman, cross_cohort.short(one.methods))
        drawings["profiles.png"] = profile_figure(cross_cohort.profiles(one), "AUC")
    for file, caption in FIGURES.items():
        if drawings.get(file) is not None:
            yield Figure(file, caption, drawings[file])


def _comparisons(board: Leaderboard) -> Iterator[Section]:
    if board.effects:
        blocks: list[Block] = [Prose.parse(ablation.WORDS)]
        for name, rows in ablation.with_costs(board.effects, board.table).groupby("cohort", sort=False):
            reference, auc = rows["reference"].iloc[0], rows["reference_auc"].iloc[0]
            blocks.append(Table.of(ablation.table_of(rows), f"{name}, reference {reference}, {auc:.3f}:"))
        yield Section("Effects", tuple(blocks))
    if board.published:
        tables = [
            Table.of(published.table_of(rows), str(name))
            for name, rows in pd.DataFrame(list(board.published)).groupby("cohort", sort=False)
        ]
        yield Section(
            published.HEADING,
            (Prose.parse(published.WORDS), *(_captioned(table, f"{table.caption}:") for table in tables)),
            tuple(
                _captioned(
                    table.with_columns([h for h in table.headings if h != "Source"]),
                    f"{table.caption}: {published.HEADING.lower()}",
                )
                for table in tables
            ),
        )
    if board.cross_cohort:
        blocks = [Prose.parse(cross_cohort.WORDS)]
        summary: list[Block] = []
        for one in board.cross_cohort:
            table = Table.of(one.table())
            blocks += [Prose.of(Strong(f"{one.name}."), f" {one.sentence()}"), table]
            summary += [_captioned(table, f"{one.name}: over cohorts, by mean rank"), Prose.of(one.sentence())]
        yield Section("Over cohorts", tuple(blocks), tuple(summary))
    for part in known_answers.sections(board.known_answers):
        captioned = [Table.of(table, caption) for caption, table in part.tables]
        yield Section(part.heading, (Prose.parse(part.words), *captioned))


def _captioned(table: Table, caption: str) -> Table:
    return Table(table.headings, table.rows, caption)


def _reading(board: Leaderboard) -> Section:
    words = _READING.format(resamples=f"{board.resamples:,}", units=units(_units_of(board)))
    columns = ["infer_patches_per_s", "train_bags_per_s", "infer_peak_memory_bytes"]
    measured = board.table[columns].notna().any().any()
    texts = [*words.split("\n\n"), _COSTS if measured else _NOT_MEASURED, budget.READING]
    return Section("How to read it", tuple(Prose.parse(text) for text in texts))


def _protocols(board: Leaderboard) -> Section:
    df = board.table
    blocks: list[Block] = []
    for name, suite in board.suites.items():
        shown = df[df["suite"] + "-v" + df["version"].astype(str) == name]
        methods = {method.partition("[")[0] for method in shown["method"]}
        words = _protocol(suite, methods, set(shown["data"]))
        blocks.append(Prose.of(Strong(f"{name}."), f" {words}"))
    cohorts = Listing(tuple(Prose.of(*_cohort_spans(cohort)) for cohort in board.cohorts))
    return Section("Suite and protocol", (*blocks, Prose.of("Cohorts:"), cohorts))


def _units_of(board: Leaderboard) -> set[str]:
    """Return what intervals are over: patients, slides, bags."""
    return {cohort["unit"] for cohort in board.cohorts}


def _cohort_spans(c: Mapping[str, Any]) -> Iterator[Span]:
    classes = ", ".join(f"{name}: {n}" for name, n in c["classes"].items())
    # Where every bag is a patient of its own, the number of patients adds nothing.
    patients = f" of {count(c['patients'], 'patient')}" if c["patients"] < c["bags"] else ""
    positive = f", positive class {c['positive']}" if c.get("positive") else ""
    yield (
        f"{c['suite']}-v{c['version']} / {c['data']}: {count(c['bags'], 'bag')}{patients} ({classes}){positive}, "
        f"{count(c['folds'], 'fold')}, {count(c['seeds'], 'seed')} per fold, intervals over {c['unit']}s, fingerprint "
    )
    yield Code(str(c["fingerprint"]))
    yield f". Run in spite of {listed(c['waived'])}, which the suite waives." if c["waived"] else "."


def _protocol(suite: Mapping[str, Any], methods: set[str], cohorts: set[str]) -> str:
    """Describe how runs were made; ``methods``, named without parameters, and ``cohorts`` are those of the table."""
    protocol = suite["protocol"]
    kept = "the last model" if protocol["checkpoint"] == "last" else f"the model with {_monitored(suite, cohorts)}"
    rule = f"{kept} is kept; training, selection and early stopping see no test label."
    if protocol["checkpoint"] == "oracle":
        rule = (
            "the model with the highest TEST AUC and the best threshold on test are taken, to show what that adds. "
            "Training and early stopping see no test label."
        )
    parts = [
        f"{suite['description'].rstrip('.')}." if suite["description"] else "",
        f"Every method is trained by the same loop, and {rule}",
        "Budgets are given with the tables.",
        _decision(suite),
        f"Threads per run: {suite['threads']}.",
    ]
    if suite["recipe"]:
        parts.append(f"For all methods, instead of their authors' recipes: {_settings(suite['recipe'])}.")
    recipes = {method: recipe for method, recipe in suite["recipes"].items() if method in methods}
    for method, recipe in recipes.items():
        parts.append(f"For {method} alone: {_settings(recipe)}.")
    special = [
        f"For {method} on {data['name']}: {_settings(recipe)}."
        for data in suite["data"]
        for method, recipe in data["recipes"].items()
        if method in methods
    ]
    parts += special
    if not suite["recipe"] and not recipes and not special:
        parts.append("Each method is trained by its authors' recipe (see milbench show METHOD).")
    else:
        parts.append("Every other setting is that of the recipe that milbench show METHOD prints.")
    return " ".join(part for part in parts if part)


def _monitored(suite: Mapping[str, Any], cohorts: set[str]) -> str:
    """Describe the value by which checkpoints are selected, in the words of the tasks of some of the suite's cohorts.

    Where a package of a task is not installed here, or a cohort is no longer in the suite, by the monitor's name.
    """
    monitor = suite["protocol"]["monitor"]
    tasks = dict.fromkeys(data.get("task", CLASSIFICATION) for data in suite["data"] if data["name"] in cohorts)
    try:
        words = dict.fromkeys(task_named(task).monitor(monitor).best for task in tasks)
    except MilbenchError:
        words = {}
    return listed(list(words)) if words else f"the best {monitor}"


def _decision(suite: Mapping[str, Any]) -> str:
    """Describe how classes are predicted, where that is not by the larger probability."""
    rule = suite.get("threshold", "half")
    if rule == "half":
        return ""
    return (
        "Accuracy, balanced accuracy, F1, sensitivity and specificity of two classes are at the threshold with the "
        f"highest {threshold.CHOSEN[rule]} on the validation bags of each run; the calibration error is of the more "
        "probable class."
    )


def _settings(recipe: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} = {json.dumps(value)}" for key, value in recipe.items())


def _environments(board: Leaderboard) -> Iterator[Prose]:
    cost = board.cost_environment
    same = cost.get("fingerprint")
    named = [("Runs and costs" if e.get("fingerprint") == same else "Runs", e) for e in board.environments]
    if cost and all(kind == "Runs" for kind, _ in named):
        named.append(("Costs", cost))
    for kind, environment in named:
        own = str((environment.get("software") or {}).get("commit") or "")
        costs = str((cost.get("software") or {}).get("commit") or "") if kind == "Runs and costs" else ""
        also = f" Costs by commit {costs}." if costs not in own else ""
        yield Prose.of(f"{kind}: ", *environment_spans(environment), f".{also}")
    if not named:
        yield Prose.of("Not recorded.")
