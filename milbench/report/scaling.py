"""A ladder as people read it: a table for the terminal and for Markdown, and the files of ``milbench measure``."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from .. import __version__
from ..atomic_io.publishing import child, figure_bytes, write_together
from ..errors import MilbenchError
from ..formatting.escaping import code, console, markdown, to_csv
from ..formatting.text import ABSENT
from ..measure.load import disturbed
from ..runs.scaling.table import BUSY_SHARE, MEMORY_FLOOR_BYTES, short_name
from .figures.scaling import ladder_figure
from .markdown import machine_text, markdown_table

if TYPE_CHECKING:
    from rich.table import Table

#: of the JSON next to a table; raised when its keys change meaning.
SCHEMA_VERSION = 2
_MODES = {"infer": "Inference", "train": "Training step"}

_READING = """\
- One bag a call, each cell in fresh processes; the methods take turns at every length, for several rounds. Times are
  medians of all timed calls, with their quartiles in brackets. {warm}
- A training step is one bag: forward, loss, backward and the step of the method's own optimizer, without gradient
  accumulation.
- Peak memory is measured in a process of its own, over a baseline of libraries, features and model. A process may take
  {cap} beyond its libraries; what does not fit is `oom`.
- Of ceiling: the time that the operations would take at the measured multiply rate, or the bytes at the measured read
  bandwidth, whichever is longer, over the time it took. The operations are those no forward pass avoids
  (the method's own closed form; where it has none, those it did), in training twice as many. The bytes are features and
  parameters once, in training gradients and new parameters as well. It can exceed 1 where a small bag is read from the
  caches, not from memory, or where small matrices multiply faster than large ones (fp16 on a CPU without it).
- Over GEMM: time over what those operations take at the rate of this machine's matrix multiply, timed between the
  method's own calls; left out where reading the features, not multiplying, is the bound.
- Growth: the exponents of time and of peak memory over the lengths of a method; 1 is linear, 2 quadratic.

All columns, units in their names, are in `{stem}.csv`; environment, rates and raw samples in `{stem}.json`."""


def cells(block: pd.DataFrame, brief: bool = False) -> pd.DataFrame:
    """Return the rows of one mode as texts; a column nobody filled is left out.

    With ``brief``, for the terminal, the spread of a time is half the interquartile range, in percent, instead of its
    quartiles, and the operations are left out.
    """
    columns: dict[str, Callable[[Any], str]] = {
        "Instances": lambda r: f"{r.n:,}",
        "Method": lambda r: short_name(r.method),
        "Time": lambda r: _time(r, brief) if r.outcome == "ok" else r.outcome,
        "Patches/s": lambda r: _short(r.patches_per_s) if brief else _number(r.patches_per_s),
        "Peak memory": lambda r: _bytes(r.peak_memory_bytes),
        "GFLOP": lambda r: _number(r.flops / 1e9),
        "Of ceiling": lambda r: _share(r),
        "Over GEMM": lambda r: _number(r.time_over_gemm) if r.bound_by == "compute" else ABSENT,
        "Growth": lambda r: _growth(r),
        "Faster": lambda r: _times(r.speedup_vs_against),
        "Memory": lambda r: _times(r.memory_vs_against),
    }
    if brief:
        del columns["GFLOP"]
    rows = [{heading: show(row) for heading, show in columns.items()} for row in _rows(block)]
    table = pd.DataFrame(rows, columns=list(columns))
    return table[[h for h in table if h in ("Instances", "Method", "Time") or (table[h] != ABSENT).any()]]


def to_rich(df: pd.DataFrame, mode: str) -> Table:
    """Return one mode of a ladder as a table for the terminal."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    block = df[df["mode"] == mode]
    texts = cells(block, brief=True)
    title = Text(console(f"{_MODES[mode]}, {block['dtype'].iloc[0]}, {block['device'].iloc[0]}"))
    table = Table(title=title, title_justify="left",
                  title_style="bold", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))  # fmt: skip
    for heading in texts:
        text = heading == "Method"
        table.add_column(
            str(heading),
            justify="left" if text else "right",
            overflow="fold",
            no_wrap=not text,
            min_width=8 if text else None,
        )
    following = [*block["n"].iloc[1:], None]
    for row, n, after in zip(texts.itertuples(index=False), block["n"], following, strict=True):
        table.add_row(*(Text(console(cell)) for cell in row), end_section=after is not None and after != n)
    return table


def to_markdown(df: pd.DataFrame) -> str:
    """Return a ladder in Markdown, one table a mode, with the reasons of what did not end ok."""
    parts = []
    for mode in dict.fromkeys(df["mode"]):
        parts += [f"## {_MODES[mode]}", "", markdown_table(cells(df[df["mode"] == mode])), ""]
    pairs = {str(r.method): r.against for r in _rows(df) if r.against}
    if pairs:
        listed = ", ".join(f"{code(method)} with {code(other)}" for method, other in pairs.items())
        explanation = "Faster is the other's time over the method's, Memory the method's peak over the other's."
        parts += [f"Compared: {listed}. {explanation}", ""]
    bad = df[df["outcome"] != "ok"]
    if len(bad):
        parts += ["Did not end ok:", ""]
        parts += [
            f"- {code(r.method)}, {r.mode}, {r.n:,} instances: {r.outcome}, {markdown(r.reason)}" for r in _rows(bad)
        ]
        parts += [""]
    return "\n".join(parts)


def write_ladder(df: pd.DataFrame, record: Mapping[str, Any], folder: Path, stem: str, command: str) -> list[Path]:
    """Write ``stem.csv``, ``.json``, ``.md`` and ``.png`` into a folder; files of these names are replaced.

    Args:
        df: from `milbench.runs.scaling.table.tidy`.
        record: `milbench.runs.scaling.sweep.ScalingSweep.record`.
        folder: created where absent.
        stem: name of the files.
        command: the command that made them.

    Returns:
        the files; without the figure where no cell ended ok.

    Raises:
        MilbenchError: the folder cannot be written.
    """
    paths = [child(folder, stem, f".{kind}", "measurement") for kind in ("csv", "json", "md", "png")]
    table, facts, text, picture = paths
    figure = ladder_figure(df)
    try:
        said = {"schema": SCHEMA_VERSION, "milbench": __version__, "command": command, **record}
        files = {table.name: to_csv(df).encode(), facts.name: _json(said).encode()}
        if figure is not None:
            files[picture.name] = figure_bytes(figure)
        files[text.name] = _markdown(df, record, stem, command, figure is not None).encode()
        write_together(folder, files, stale=[picture.name])
    except OSError as error:
        raise MilbenchError(
            f"cannot write {folder / stem}.* ({error.strerror}); give another --out.", code="not-writable"
        ) from error
    return paths if figure is not None else paths[:-1]


def busy_notes(df: pd.DataFrame, record: Mapping[str, Any]) -> list[str]:
    """Return sentences on rows that were measured while the machine did other work.

    Args:
        df: from `milbench.runs.scaling.table.tidy`.
        record: `milbench.runs.scaling.sweep.ScalingSweep.record`; older records without ``load`` give no note about it.
    """
    notes = []
    slow = df[df["share_of_best"] < BUSY_SHARE]
    if len(slow):
        rows = ", ".join(f"{short_name(r.method)} {r.mode} n={r.n:,} ({r.share_of_best:.0%})" for r in _rows(slow[:5]))
        more = f" and {len(slow) - 5} more" if len(slow) > 5 else ""
        notes.append(
            f"Busy machine: during {rows}{more} its own matrix multiply ran at less than {BUSY_SHARE:.0%} of its best "
            "rate in this table; these times are too long."
        )
    load = record.get("load")
    if load and disturbed(load | {"threads": record["plan"]["threads"]}):
        average = f", load average {load['load_1min']:.1f}" if "load_1min" in load else ""
        notes.append(
            f"Busy machine: {load['busy_cores']:.1f} of {load['cores']:.0f} cores were in use while "
            f"{record['plan']['threads']} were measured{average}; take the times as upper limits."
        )
    return notes


def _markdown(df: pd.DataFrame, record: Mapping[str, Any], stem: str, command: str, drawn: bool) -> str:
    plan, ceiling = record["plan"], record["ceiling"]
    warm = (
        "The device's L2 cache is cleared before every call; time is the device's, between two events."
        if ceiling["device"] == "cuda"
        else "Every call uses the same bag, as in training from memory, so the caches may hold it or parts of it."
    )
    shape = " x ".join(map(str, ceiling["gemm_shape"]))
    rates = (
        f"This machine, measured in {ceiling['dtype']}: {ceiling['flops_per_s'] / 1e9:,.0f} GFLOP/s (the best product "
        f"was {shape}), reads {ceiling['read_bytes_per_s'] / 1e9:,.1f} GB/s, copies "
        f"{ceiling['copy_bytes_per_s'] / 1e9:,.1f} GB/s (read and written together); threads: {ceiling['threads']}."
    )
    sizes = f"{plan['in_dim']}-d features, {plan['n_classes']} classes, {plan['dtype']}."
    cap = _bytes(plan["memory_bytes"])
    parts = [f"# Time and memory by bag length: {stem}", "", f"Made by:\n\n    {command}", "", sizes, "", rates, ""]
    parts += [f"![Time and memory against bag length]({stem}.png)", ""] if drawn else []
    parts += [f"{sentence}\n" for sentence in busy_notes(df, record)]
    parts += [to_markdown(df), "## How to read it", "", _READING.format(warm=warm, cap=cap, stem=stem), ""]
    return "\n".join([*parts, "## Environment", "", f"- {machine_text(record['environment'])}.", ""])


def _json(value: Any) -> str:
    """Spell a JSON value; a list of plain values takes one line."""
    text = json.dumps(value, indent=1, allow_nan=False)
    return re.sub(r"\[\s+([^\[\]{}]*?)\s+\]", lambda match: f"[{' '.join(match[1].split())}]", text) + "\n"


def _rows(block: pd.DataFrame) -> Iterator[Any]:
    return block.itertuples(index=False)


def _there(value: float) -> bool:
    return bool(pd.notna(value))


def _time(row: Any, brief: bool) -> str:
    unit, factor = next(((u, f) for u, f in (("s", 1.0), ("ms", 1e3)) if row.seconds_median * f >= 1), ("µs", 1e6))
    median, low, high = (_number(s * factor) for s in (row.seconds_median, row.seconds_low, row.seconds_high))
    if brief:
        return f"{median} {unit} ±{50 * (row.seconds_high - row.seconds_low) / row.seconds_median:.0f} %"
    return f"{median} {unit} [{low}, {high}]"


def _share(row: Any) -> str:
    if not row.bound_by:
        return ABSENT
    share = row.fraction_of_ceiling
    return f"{'< 0.01' if share < 0.01 else f'{share:.2f}'} {row.bound_by}"


def _growth(row: Any) -> str:
    exponents = (row.time_growth_exponent, row.memory_growth_exponent)
    if not any(map(_there, exponents)):
        return ABSENT
    # The sum with 0 makes a rounded -0.0 positive.
    return ", ".join(f"{round(value, 2) + 0.0:.2f}" if _there(value) else ABSENT for value in exponents)


def _times(value: float) -> str:
    return f"{_number(value)}x" if _there(value) else ABSENT


def _number(value: float) -> str:
    """Spell a number with three digits that count."""
    if not _there(value):
        return ABSENT
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:#.3g}".rstrip(".") if abs(value) >= 1e-3 else f"{value:.1e}"


def _short(value: float) -> str:
    """Spell a rate with three digits and the unit's thousands: ``2.61M``."""
    if not _there(value):
        return ABSENT
    factor, letter = next(((f, s) for f, s in ((1e9, "G"), (1e6, "M"), (1e3, "k")) if value >= f), (1.0, ""))
    return _number(value / factor) + letter


def _bytes(value: float) -> str:
    if not _there(value):
        return ABSENT
    if value < MEMORY_FLOOR_BYTES:
        return "< 0.1 MiB"
    return f"{value / 2**30:,.2f} GiB" if value >= 2**30 else f"{value / 2**20:,.1f} MiB"
