"""A leaderboard as a report: Markdown, and a folder of tables, sentences and figures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from ..atomic_io.publishing import figure_bytes, was_interrupted, write_together
from ..errors import MilbenchError
from ..evaluation import ablation as effects
from ..evaluation import cross_cohort as across
from ..evaluation import known_answers as verdicts
from ..evaluation import published_figures as published
from ..evaluation.comparison import NO_AUC
from ..formatting.escaping import code, markdown, to_csv
from ..formatting.text import count, fixed, listed, with_interval
from ..stats import threshold
from ..tasks import CLASSIFICATION, task_named
from . import budget as report_budget
from .tables import (
    COST,
    VERDICT,
    cells_of,
    cohorts_of,
    machine_text,
    markdown_table,
    published_of,
    scores_columns,
    units,
    units_of,
    with_seeds,
)

#: Sentences every report carries: what the numbers are, and what they are not.
_READING = """\
AUC is the area under the ROC curve on test bags (with more than two classes the mean of one class against the rest),
computed per fold and seed and averaged. The interval in brackets is the 95 % interval of {resamples} bootstrap
resamples of test {units}, drawn within each class, on the logit scale, where it keeps its coverage near 1 (of an AUC of
1 itself: an exact bound), and of seeds, whose variance is pooled over the methods of a cohort (`milbench.stats.seeds`),
because a few seeds of one method say little of it. All methods of a cohort see the same resamples, so the difference to
the best method is paired. The interval covers another draw of test {units} and, with two seeds or more, of seeds. It
does not cover another draw of training {units}, another source of the data (a hospital, say), or the choice of folds.

Methods are ranked by AUC. The interval behind a rank holds the ranks that the data leave possible, of all methods
together with 95 % confidence; where it begins with 1, the method cannot be separated from the best. Equal scores share
a rank, marked `=`. A method one of whose runs did not end well has no rank; its scores are over fewer runs, and the
column Runs says what happened. Accuracy is followed by its standard deviation over the repetitions of the k-fold, else
over seeds. Differences to the best are each at 95 %, not corrected for the number of methods compared."""

_COSTS = """\
Throughput and memory come from passes of their own, one process at a time, all in one environment; methods of a cohort
that are measured in one go take turns. An empty cell was not measured there. Bags and patches a second are those of up
to 16 test bags, and of up to six training steps, taken from as many equal parts of all of them by length, one after the
other. Peak memory is what the pass takes beyond the loaded libraries and features, in MiB (1,048,576 bytes); a method
below 0.1 MiB is shown as <0.1, because memory is handed out in pages."""


def to_markdown(df: pd.DataFrame) -> str:
    """Return a leaderboard as Markdown: three tables a cohort (verdict, other scores, cost), the notes below."""
    parts = []
    for name, block in cohorts_of(df):
        parts += [f"### {markdown(name)}", "", markdown(report_budget.words(block)), "", _sentence(block), ""]
        for heading, part in _by_rank(block):
            parts += [*([heading, ""] if heading else []), markdown_table(cells_of(part, VERDICT)), ""]
        for title, columns in (("Other scores", scores_columns()), ("Cost", COST)):
            cells = cells_of(block, columns)
            if len(cells.columns) > 1:
                parts += [f"{title}:", "", markdown_table(cells), ""]
        used = report_budget.cells(block)
        if len(used.columns) > 1:
            parts += ["Training and its budget:", "", markdown_table(used), ""]
    if df.attrs.get("notes"):
        parts += [*(f"- {markdown(note)}" for note in df.attrs["notes"]), ""]
    return "\n".join(parts)


def _by_rank(block: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """Return the rows with a rank, then those without, whose scores are over fewer runs and may be above."""
    ranked = block["rank"].notna()
    if ranked.all() or not ranked.any():
        return [("", block)]
    return [("", block[ranked]), ("Not ranked, as not every run ended ok: scores over fewer runs.", block[~ranked])]


#: Formats that figures are written in beside PNG, where they are asked for.
FIGURE_FORMATS = ("svg", "pdf")

#: Every figure that a report may have.
_FIGURES = {
    "auc.png", "effects.png", "effects_vs_time.png", "auc_vs_throughput.png", "auc_vs_memory.png",
    "auc_vs_device_seconds.png", "auc_vs_flops.png", "auc_vs_run_memory.png", "anytime_steps.png", "anytime_flops.png",
    "anytime_device_seconds.png", "ranks.png", "profiles.png",
}  # fmt: skip


def write_report(df: pd.DataFrame, out_dir: str | Path, title: str, provenance: str, also: Sequence[str] = ()) -> Path:
    """Write ``leaderboard.csv``, ``README.md`` and figures (PNG) into a folder.

    Args:
        df: from `milbench.leaderboard`.
        out_dir: the folder, created where absent; files of these names are replaced.
        title: heading of the report.
        provenance: where the numbers come from: the command line, at least.
        also: formats of `FIGURE_FORMATS` that every figure is written in, too.

    Returns:
        the path of ``README.md``.

    Raises:
        MilbenchError: the folder cannot be written.
    """
    from .figures import ablation as effects_plot
    from .figures import leaderboard as plots
    from .figures import ranks as stats_plots
    from .figures.anytime import anytime_figure

    folder = Path(out_dir)
    changes = effects.with_costs(df.attrs["effects"], df) if df.attrs.get("effects") else None
    figures: list[tuple[str, str, Any]] = [("auc.png", "AUC by method", plots.auc_figure(df))]
    if changes is not None:  # an ablation asks for effects and what they cost; the other axes stand in the tables
        figures[:0] = [
            ("effects.png", "Effects", effects_plot.effect_figure(changes)),
            ("effects_vs_time.png", "Effect against training time", effects_plot.effect_cost_figure(changes)),
        ]
    else:
        figures += [
            (f"auc_vs_{name}.png", f"AUC against {what}",
             None if report_budget.is_budgeted(df, name) else plots.tradeoff_figure(df, column))
            for name, what, column in (
                ("throughput", "inference throughput", "infer_patches_per_s"),
                ("memory", "peak memory", "infer_peak_memory_bytes"),
                ("device_seconds", "device-seconds of training", "train_device_seconds"),
                ("flops", "FLOPs of training", "train_flops"),
                ("run_memory", "peak memory of a run", "run_peak_memory_bytes"),
            )
        ]  # fmt: skip
        figures += [
            (f"anytime_{axis}.png", f"Validation AUC against {what}",
             anytime_figure(pd.DataFrame(df.attrs.get("curves", {}).get(axis, []))))
            for axis, what in (("steps", "steps"), ("flops", "FLOPs"), ("device_seconds", "device-seconds"))
        ]  # fmt: skip
    for one in df.attrs.get("across", [])[:1]:  # of a suite's report, which has one
        ranks = one.friedman and stats_plots.critical_difference_figure(one.friedman, across.short(one.methods))
        figures += [
            ("ranks.png", "Mean ranks over cohorts", ranks),
            ("profiles.png", "Share of runs above an AUC", stats_plots.profile_figure(across.profiles(one), "AUC")),
        ]
    drawn = [(file, what) for file, what, figure in figures if figure is not None]
    files = {"leaderboard.csv": to_csv(df).encode()}
    if changes is not None:
        files["effects.csv"] = to_csv(changes).encode()
    if df.attrs.get("across"):
        frames = [pd.DataFrame(one.rows).assign(suite=one.name) for one in df.attrs["across"]]
        files["across.csv"] = to_csv(pd.concat(frames)).encode()
    suffixes = (".png", *(f".{kind}" for kind in also))
    files |= {
        Path(file).with_suffix(suffix).name: figure_bytes(figure, suffix)
        for file, _, figure in figures
        if figure is not None
        for suffix in suffixes
    }
    files["README.md"] = _readme(df, title, provenance, drawn).encode()  # last: it names the others
    try:
        every = [Path(file).with_suffix(f".{kind}").name for file in _FIGURES for kind in ("png", *FIGURE_FORMATS)]
        write_together(folder, files, stale=[*every, "across.csv"])
    except OSError as error:
        raise MilbenchError(
            f"cannot write the report to {folder} ({error.strerror}); give another --out.", code="not-writable"
        ) from error
    return folder / "README.md"


#: How the first line of every report begins.
_HEADING = "# Leaderboard"


def foreign_readme(folder: Path, title: str | None = None) -> bool:
    """Whether a folder holds a README.md that is not a report of milbench's, or not the one of a title.

    A report that was interrupted, or whose README.md lost its content with the machine's power, is one of milbench's.
    """
    readme = folder / "README.md"
    if not readme.is_file() or was_interrupted(folder):
        return False
    with readme.open("rb") as file:
        first = file.readline(4096)
    if not first.strip(b"\0 \r\n\t") and readme.stat().st_size <= 4096:
        return readme.read_bytes().strip(b"\0 \r\n\t") != b""
    wanted = _HEADING if title is None else f"# {markdown(title)}\n"
    # A first line that was cut short belongs to nobody else.
    torn = not first.endswith(b"\n") and len(first) > 2 and wanted.encode().startswith(first)
    return not (first.startswith(wanted.encode()) or torn)


def _readme(df: pd.DataFrame, title: str, provenance: str, drawn: list[tuple[str, str]]) -> str:
    cohorts = df.attrs.get("cohorts", [])
    reading = _READING.format(resamples=f"{df.attrs.get('resamples', 0):,}", units=units(units_of(df)))
    parts = [f"# {markdown(title)}", "", provenance, "", to_markdown(df)]
    parts += [line for file, what in drawn for line in (f"![{what}]({file})", "")]
    if df.attrs.get("effects"):
        parts += ["## Effects", "", effects.WORDS, ""]
        for name, rows in effects.with_costs(df.attrs["effects"], df).groupby("cohort", sort=False):
            reference, auc = markdown(rows["reference"].iloc[0]), rows["reference_auc"].iloc[0]
            parts += [f"{markdown(name)}, reference {reference}, {auc:.3f}:", ""]
            parts += [markdown_table(effects.table_of(rows)), ""]
    if df.attrs.get("published"):
        parts += ["## Beside published figures", "", published.WORDS, ""]
        for name, rows in published_of(df):
            parts += [f"{markdown(name)}:", "", markdown_table(published.table_of(rows)), ""]
    if df.attrs.get("across"):
        parts += ["## Over cohorts", "", across.WORDS, ""]
        for one in df.attrs["across"]:
            parts += [f"**{markdown(one.name)}.** {markdown(one.sentence())}", "", markdown_table(one.table()), ""]
    for section in verdicts.sections(df.attrs.get("known")):
        parts += [f"## {section.heading}", "", section.words, ""]
        parts += [
            line for caption, table in section.tables for line in (markdown(caption), "", markdown_table(table), "")
        ]
    parts += ["## How to read it", "", reading, ""]
    measured = df[["infer_patches_per_s", "train_bags_per_s", "infer_peak_memory_bytes"]].notna().any().any()
    parts += [_COSTS if measured else "Throughput and memory were not measured.", "", report_budget.READING, ""]
    parts += ["## Suite and protocol", ""]
    for name, suite in df.attrs.get("suites", {}).items():
        shown = df["method"][df["suite"] + "-v" + df["version"].astype(str) == name]
        parts += [f"**{markdown(name)}.** {_protocol(suite, {method.partition('[')[0] for method in shown})}", ""]
    parts += ["Cohorts:", "", *(f"- {_cohort_sentence(c)}" for c in cohorts)]
    parts += ["", "## Environment", "", *_environments(df)]
    parts += ["", "All columns, units in their names, are in `leaderboard.csv`.", ""]
    return "\n".join(parts)


def _cohort_sentence(c: dict[str, Any]) -> str:
    classes = ", ".join(f"{markdown(name)}: {n}" for name, n in c["classes"].items())
    # Where every bag is a patient of its own, patients are no further news.
    patients = f" of {count(c['patients'], 'patient')}" if c["patients"] < c["bags"] else ""
    positive = f", positive class {markdown(c['positive'])}" if c.get("positive") else ""
    waived = f" Run in spite of {markdown(listed(c['waived']))}, which the suite waives." if c["waived"] else ""
    return (
        f"{markdown(c['suite'])}-v{c['version']} / {markdown(c['data'])}: "
        f"{count(c['bags'], 'bag')}{patients} ({classes}){positive}, "
        f"{count(c['folds'], 'fold')}, {count(c['seeds'], 'seed')} a fold, intervals over {c['unit']}s, "
        f"fingerprint {code(c['fingerprint'])}.{waived}"
    )


def _protocol(suite: dict[str, Any], methods: set[str]) -> str:
    """Tell how runs were made; ``methods`` are the names, without parameters, that the table shows."""
    protocol = suite["protocol"]
    tasks = dict.fromkeys(data.get("task", CLASSIFICATION) for data in suite["data"])
    best = listed(list(dict.fromkeys(task_named(task).monitor(protocol["monitor"]).best for task in tasks)))
    kept = "the last model" if protocol["checkpoint"] == "last" else f"the model with {best}"
    rule = f"{kept} is kept; training, selection and early stopping see no test label."
    if protocol["checkpoint"] == "oracle":
        rule = (
            "the model with the highest TEST AUC and the best threshold on test are taken, to show what that adds. "
            "Training and early stopping see no test label."
        )
    parts = [
        f"{markdown(suite['description'].rstrip('.'))}." if suite["description"] else "",
        f"Every method is trained by the same loop, and {rule}",
        "Budgets stand with the tables.",
        _decision(suite),
        f"Threads a run: {suite['threads']}.",
    ]
    if suite["recipe"]:
        parts.append(f"For all methods alike, instead of their authors' recipes: {_settings(suite['recipe'])}.")
    recipes = {method: recipe for method, recipe in suite["recipes"].items() if method in methods}
    for method, recipe in recipes.items():
        parts.append(f"For {markdown(method)} alone: {_settings(recipe)}.")
    special = [
        f"For {markdown(method)} on {markdown(data['name'])}: {_settings(recipe)}."
        for data in suite["data"]
        for method, recipe in data["recipes"].items()
        if method in methods
    ]
    parts += special
    if not suite["recipe"] and not recipes and not special:
        parts.append("Each method is trained by its authors' recipe (see milbench show METHOD).")
    else:
        parts.append("What is not named here is as in the recipe that milbench show METHOD prints.")
    return " ".join(part for part in parts if part)


def _decision(suite: dict[str, Any]) -> str:
    """Tell how classes are predicted, where that is not by the larger probability."""
    rule = suite.get("threshold", "half")
    if rule == "half":
        return ""
    return (
        "Accuracy, balanced accuracy, F1, sensitivity and specificity of two classes are at the threshold with the "
        f"highest {threshold.CHOSEN[rule]} on the validation bags of each run; the calibration error is of the more "
        "probable class."
    )


def _settings(recipe: dict[str, Any]) -> str:
    return ", ".join(markdown(f"{key} = {json.dumps(value)}") for key, value in recipe.items())


def _environments(df: pd.DataFrame) -> list[str]:
    out = []
    cost = df.attrs.get("cost_environment") or {}
    same = cost.get("fingerprint")
    named = [
        ("Runs and costs" if e.get("fingerprint") == same else "Runs", e) for e in df.attrs.get("environments", [])
    ]
    if cost and all(what == "Runs" for what, _ in named):
        named.append(("Costs", cost))
    for what, environment in named:
        own = str((environment.get("software") or {}).get("commit") or "")
        costs = str((cost.get("software") or {}).get("commit") or "") if what == "Runs and costs" else ""
        also = f" Costs by commit {markdown(costs)}." if costs not in own else ""
        out.append(f"- {what}: {machine_text(environment)}.{also}")
    return out or ["- Not recorded."]


def _sentence(block: pd.DataFrame) -> str:
    """Say who leads and who cannot be told apart from it."""
    ranked = block[block["rank"].notna()]
    if not len(ranked) and (block["checkpoint"] == "oracle").all():
        return "Chosen on test, and so not ranked: what it adds to the same trainings stands below."
    if not len(ranked):
        return "No method finished all its runs, so none is ranked."
    first = ranked.iloc[0]
    others = [code(name) for name in ranked["method"][ranked["among_best"]][1:]]
    apart = f"{listed(others)} cannot be separated from it" if others else "the data separate every other from it"
    told = f"; {apart}." if len(ranked) > 1 else "."
    rest = block[block["rank"].isna()].itertuples(index=False)
    unranked = [f"{code(row.method)} ({markdown(row.outcome)})" for row in rest]
    left = f" Not ranked: {listed(unranked)}." if unranked else ""
    return f"{code(first['method'])} has the highest AUC, {first['auc']:.3f}{told}{left}"


def comparison_lines(table: pd.DataFrame) -> list[str]:
    """Return a comparison of two methods (`milbench.evaluation.comparison.compare`) as lines of text."""
    lines = []
    row: Any
    for row in table.itertuples(index=False):
        where = f"{row.data} / {row.conditions}" if row.conditions else row.data
        head = f"{row.suite}-v{row.version} / {where}: {row.a} {fixed(row.auc_a)}, {row.b} {fixed(row.auc_b)}"
        head += f" (run in spite of {row.waived}, waived)" if row.waived else ""
        if row.told_apart is None:
            why = row.reason if row.reason == NO_AUC else f"not every run ended ok ({row.reason})"
            lines.append(f"{head}; not compared, because {why}.")
            continue
        word = "told apart" if row.told_apart else "not told apart"
        difference = with_interval(row.difference, row.low, row.high, sign=True)
        lines.append(f"{head}; difference {difference}: {word}.{f' But {row.note}.' if row.note else ''}")
    over = with_seeds(units(set(table["unit"])), table)
    return [
        *lines,
        f"AUC, mean over folds and seeds; paired difference A - B with its 95 % bootstrap interval over test {over}. "
        "Training data and folds are taken as given; one pair is tested, nothing is corrected for others.",
    ]
