"""A leaderboard as text: Markdown, a table for the terminal, and a report folder of table, sentences and figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from .errors import MilbenchError

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Group

_ABSENT = "–"

#: Sentences every report carries: what the numbers are, and what they are not.
_READING = """\
AUC is the area under the ROC curve on test bags (with more than two classes the mean of one class against the rest),
computed per fold and seed and averaged. The interval in brackets is the 95 % percentile interval of {resamples}
bootstrap resamples of test {units}, drawn within each class, and of seeds. All methods of a cohort see the same
resamples, so the difference to the best method is paired. The interval covers another draw of test {units} and of
seeds. It does not cover another draw of training patients, another hospital, or the choice of folds, and with few
seeds it understates their spread.

Methods share a rank, marked `=`, when the interval of their paired difference to the best of the group contains 0: the
data do not tell them apart. A method one of whose runs did not end well has no rank; its scores are over fewer runs,
and the last column says what happened. Accuracy is followed by its standard deviation over the repetitions of the
k-fold, else over seeds. Differences are not corrected for the number of methods compared."""

_COSTS = """\
Throughput and memory come from passes of their own, one method at a time, all in one environment; an empty cell was
not measured there. Peak memory is what the pass takes beyond the loaded libraries and features, in MiB (1,048,576
bytes)."""


def to_markdown(df: pd.DataFrame) -> str:
    """Return a leaderboard as Markdown: one table a cohort, units in the headings, the notes below."""
    parts = []
    for name, block in _cohorts(df):
        parts += [f"### {name}", "", _sentence(block), "", _markdown_table(_cells(block, _FULL)), ""]
    if df.attrs.get("notes"):
        parts += [*(f"- {note}" for note in df.attrs["notes"]), ""]
    return "\n".join(parts)


def to_rich(df: pd.DataFrame) -> Group:
    """Return a leaderboard for the terminal: one table a cohort that fits in 120 columns, the notes below."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    parts: list[Any] = []
    for name, block in _cohorts(df):
        table = Table(title=name, title_justify="left", title_style="bold", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
        cells = _cells(block, _SHORT)
        for heading in cells:
            text = heading in ("Method", "Pooling", "Runs")
            table.add_column(
                str(heading), justify="left" if text else "right", overflow="fold", no_wrap=heading != "Method"
            )
        for row, rank in zip(cells.itertuples(index=False), block["rank"], strict=True):
            table.add_row(*(Text(str(cell)) for cell in row), style="" if rank == rank else "dim")
        parts += [table, Text()]
    parts += [Text(f"note: {note}", style="yellow") for note in df.attrs.get("notes", [])]
    parts.append(
        Text(
            "AUC: mean over folds and seeds [95 % interval over patients and seeds]; = marks a shared rank.",
            style="dim",
        )
    )
    return Group(*parts)


def write_report(df: pd.DataFrame, out_dir: str | Path, title: str, provenance: str) -> Path:
    """Write ``leaderboard.csv``, ``README.md`` and figures (PNG) into a folder.

    Args:
        df: from `milbench.leaderboard`.
        out_dir: the folder, created where absent; files of these names are replaced.
        title: heading of the report.
        provenance: where the numbers come from: the command line, at least.

    Returns:
        the path of ``README.md``.

    Raises:
        MilbenchError: the folder cannot be written.
    """
    from . import plots

    folder = Path(out_dir)
    figures = [
        ("auc.png", "AUC by method", plots.auc_figure(df)),
        ("auc_vs_throughput.png", "AUC against inference throughput", plots.tradeoff_figure(df, "infer_patches_per_s")),
        ("auc_vs_memory.png", "AUC against peak memory", plots.tradeoff_figure(df, "infer_peak_memory_bytes")),
    ]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        df.to_csv(folder / "leaderboard.csv", index=False, lineterminator="\n")
        drawn = []
        for file, what, figure in figures:
            if figure is None:
                (folder / file).unlink(missing_ok=True)
                continue
            figure.savefig(folder / file, dpi=150, metadata={"Software": None})
            drawn.append((file, what))
        readme = folder / "README.md"
        readme.write_text(_readme(df, title, provenance, drawn), encoding="utf-8")
    except OSError as error:
        raise MilbenchError(f"cannot write the report to {folder} ({error.strerror}); give another --out.") from error
    return readme


def _readme(df: pd.DataFrame, title: str, provenance: str, drawn: list[tuple[str, str]]) -> str:
    unit = {c["unit"] for c in df.attrs.get("cohorts", [])} or {"patient"}
    units = " or ".join(f"{u}s" for u in sorted(unit))
    reading = _READING.format(resamples=f"{df.attrs.get('resamples', 0):,}", units=units)
    parts = [f"# {title}", "", provenance, "", to_markdown(df)]
    parts += [line for file, what in drawn for line in (f"![{what}]({file})", "")]
    parts += ["## How to read it", "", reading, ""]
    measured = df[["infer_patches_per_s", "train_bags_per_s", "infer_peak_memory_bytes"]].notna().any().any()
    parts += [_COSTS if measured else "Throughput and memory were not measured.", "", "## Protocol", ""]
    for name, suite in df.attrs.get("suites", {}).items():
        parts += [f"**{name}.** {_protocol(suite)}", ""]
    parts += ["Cohorts:", ""]
    for c in df.attrs.get("cohorts", []):
        classes = ", ".join(f"{name}: {n}" for name, n in c["classes"].items())
        parts.append(
            f"- {c['suite']}-v{c['version']} / {c['data']}: {c['bags']} bags of {c['patients']} patients ({classes}), "
            f"{c['folds']} folds, {c['seeds']} seeds, fingerprint `{c['fingerprint']}`."
        )
    parts += ["", "## Environment", "", *_environments(df)]
    parts += ["", "All columns, units in their names, are in `leaderboard.csv`.", ""]
    return "\n".join(parts)


def _protocol(suite: dict[str, Any]) -> str:
    protocol, budget = suite["protocol"], suite["budget"]
    kept = "the last epoch" if protocol["checkpoint"] == "last" else f"the epoch best by {protocol['monitor']}"
    limits = []
    if budget["timeout_s"] is not None:
        limits.append(f"{budget['timeout_s']:g} s")
    if budget["memory_bytes"] is not None:
        limits.append(f"{budget['memory_bytes'] / 2**20:,.0f} MiB of memory")
    parts = [
        f"{suite['description'].rstrip('.')}." if suite["description"] else "",
        f"Every method is trained by the same loop and {kept} is kept; test labels are read by this table alone.",
        f"A run may use {' and '.join(limits)}." if limits else "Runs have no limit of time or memory.",
        f"Threads a run: {suite['threads']}.",
    ]
    if suite["recipe"]:
        parts.append(f"For all methods alike: {_settings(suite['recipe'])}.")
    for method, recipe in suite["recipes"].items():
        parts.append(f"For {method} alone: {_settings(recipe)}.")
    if not suite["recipe"] and not suite["recipes"]:
        parts.append("Each method uses its own recipe.")
    return " ".join(part for part in parts if part)


def _settings(recipe: dict[str, Any]) -> str:
    return ", ".join(f"{key} = {json.dumps(value)}" for key, value in recipe.items())


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
        out.append(f"- {what}: {_machine(environment)}.")
    return out or ["- Not recorded."]


def _machine(environment: dict[str, Any]) -> str:
    """Tell an environment record in one line; what it lacks is left out."""
    parts = [f"environment `{environment.get('fingerprint', '?')}`"]
    cpu, software = environment.get("cpu"), environment.get("software")
    if isinstance(cpu, dict):
        parts.append(f"{cpu.get('model')}, {cpu.get('cores')} cores, {cpu.get('instruction_set')}")
    parts += [str(gpu.get("name")) for gpu in environment.get("gpus") or ()]
    if isinstance(environment.get("numerics"), dict):
        parts.append(f"threads a process: {environment['numerics'].get('threads')}")
    if isinstance(software, dict):
        parts.append(", ".join(f"{key} {value}" for key, value in software.items() if value))
    return "; ".join(parts)


def _cohorts(df: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    groups = df.groupby(["suite", "version", "data"], sort=False)
    return [(f"{suite}-v{version} / {data}", block) for (suite, version, data), block in groups]


def _sentence(block: pd.DataFrame) -> str:
    """Say who leads and who cannot be told apart from it."""
    ranked = block[block["rank"].notna()]
    if not len(ranked):
        return "No method finished all its runs, so none is ranked."
    first = ranked.iloc[0]
    others = [f"`{name}`" for name in ranked["method"][ranked["rank"] == 1][1:]]
    apart = (
        f"{_listed(others)} cannot be told apart from it"
        if others
        else "every other ranked method is told apart from it"
    )
    told = f"; {apart}." if len(ranked) > 1 else "."
    unranked = [f"`{row.method}` ({row.outcome})" for row in block[block["rank"].isna()].itertuples(index=False)]
    left = f" Not ranked: {_listed(unranked)}." if unranked else ""
    return f"`{first['method']}` has the highest AUC, {first['auc']:.3f}{told}{left}"


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _cells(block: pd.DataFrame, columns: dict[str, Callable[[Any], str]]) -> pd.DataFrame:
    rows = [{heading: show(row) for heading, show in columns.items()} for row in block.itertuples()]
    table = pd.DataFrame(rows, columns=list(columns))
    # A column nobody filled tells nothing.
    keep = [h for h in table if h in ("Rank", "Method") or (table[h] != _ABSENT).any()]
    return table[keep]


def _markdown_table(table: pd.DataFrame) -> str:
    text = ("Method", "Pooling", "Runs")
    lines = [
        "| " + " | ".join(table.columns) + " |",
        "|" + "|".join(":---" if h in text else "---:" for h in table.columns) + "|",
    ]
    lines += [
        "| " + " | ".join(str(v).replace("|", "\\|") for v in row) + " |" for row in table.itertuples(index=False)
    ]
    return "\n".join(lines)


def rank_text(row: Any) -> str:
    """Return ``1`` for a rank, ``1=`` for a shared one, a dash for none."""
    return f"{row.rank:.0f}{'=' if row.tied else ''}" if row.rank == row.rank else _ABSENT


def _fixed(value: float, digits: int = 3, sign: bool = False) -> str:
    return (f"{value:+.{digits}f}" if sign else f"{value:.{digits}f}").replace("-", "−") if value == value else _ABSENT


def _with_interval(value: float, low: float, high: float, sign: bool = False) -> str:
    if value != value:
        return _ABSENT
    return f"{_fixed(value, sign=sign)} [{_fixed(low, sign=sign)}, {_fixed(high, sign=sign)}]"


def _difference(row: Any) -> str:
    if row.diff_to_best == 0 and row.diff_low == row.diff_high == 0:
        return "0" if row.rank == row.rank else _ABSENT
    return _with_interval(row.diff_to_best, row.diff_low, row.diff_high, sign=True)


def _accuracy(row: Any) -> str:
    spread = f" ± {_fixed(row.accuracy_sd)}" if row.accuracy_sd == row.accuracy_sd else ""
    return _fixed(row.accuracy) + spread


def _si(value: float) -> str:
    """Three significant digits with k, M, G, T: 12345 is 12.3k."""
    if value != value:
        return _ABSENT
    for factor, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= 0.9995 * factor:
            return f"{value / factor:.3g}{unit}"
    return f"{value:.3g}"


def _mib(value: float) -> str:
    if value != value:
        return _ABSENT
    return f"{value / 2**20:,.0f}" if value >= 10 * 2**20 else f"{value / 2**20:.2g}"


def _runs(row: Any) -> str:
    told = f"{row.runs_ok}/{row.runs}" if row.outcome == "ok" else f"{row.runs_ok}/{row.runs}: {row.outcome}"
    return told if row.cost_outcome in ("", "ok") else f"{told}; cost: {row.cost_outcome}"


_FULL: dict[str, Callable[[Any], str]] = {
    "Rank": rank_text,
    "Method": lambda r: r.method,
    "Pooling": lambda r: r.family or _ABSENT,
    "AUC [95 % interval]": lambda r: _with_interval(r.auc, r.auc_low, r.auc_high),
    "Difference to the best": _difference,
    "Accuracy ± sd": _accuracy,
    "Balanced accuracy": lambda r: _fixed(r.balanced_accuracy),
    "Average precision": lambda r: _fixed(r.average_precision),
    "F1": lambda r: _fixed(r.f1),
    "Log loss": lambda r: _fixed(r.log_loss),
    "Brier": lambda r: _fixed(r.brier),
    "ECE": lambda r: _fixed(r.ece),
    "Inference (patches/s)": lambda r: _si(r.infer_patches_per_s),
    "Training (bags/s)": lambda r: _si(r.train_bags_per_s),
    "Peak memory, inference (MiB)": lambda r: _mib(r.infer_peak_memory_bytes),
    "Peak memory, training (MiB)": lambda r: _mib(r.train_peak_memory_bytes),
    "Parameters": lambda r: _si(r.parameters),
    "FLOPs a bag, inference": lambda r: _si(r.flops_per_bag_infer),
    "Runs": _runs,
}

_SHORT: dict[str, Callable[[Any], str]] = {
    "Rank": rank_text,
    "Method": lambda r: r.method,
    "Pooling": lambda r: r.family.replace("correlated", "corr.") or _ABSENT,
    "AUC [95 %]": lambda r: _with_interval(r.auc, r.auc_low, r.auc_high),
    "To best": lambda r: (
        _fixed(r.diff_to_best, sign=True) if r.diff_to_best else ("0" if r.rank == r.rank else _ABSENT)
    ),
    "Bal. acc.": lambda r: _fixed(r.balanced_accuracy),
    "Patches/s": lambda r: _si(r.infer_patches_per_s),
    "MiB": lambda r: _mib(r.infer_peak_memory_bytes),
    "Runs": _runs,
}
