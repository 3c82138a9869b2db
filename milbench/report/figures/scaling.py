"""The figure of a ladder: time and memory against bag length, one column of panels a mode. It computes no figure.

Methods differ by marker and by stroke, and every line is named at its end, so that a grey print tells them apart.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter, StrMethodFormatter
from scipy.optimize import isotonic_regression

from ...runs.scaling.table import MEMORY_FLOOR_BYTES, short_name
from .layout import method_styles, points, widest
from .style import plot_style

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.ticker import Formatter

_TITLES = {"infer": "Inference", "train": "Training step"}
_MIB = 2.0**20
_GAP = 0.45  # inches between the longest bag and the names
_LONGEST_NOTE = " (diverged at 100k)"
#: column -> (axis label, factor to its unit, ticks, smallest value distinguished from 0)
_PANELS: dict[str, tuple[str, float, Formatter, float]] = {
    "seconds_median": ("Time of one bag, median and quartiles", 1.0, EngFormatter(unit="s"), 0.0),
    "peak_memory_bytes": (
        "Peak memory of one bag (MiB)",
        1 / _MIB,
        StrMethodFormatter("{x:,.10g}"),
        MEMORY_FLOOR_BYTES,
    ),
}


def ladder_figure(df: pd.DataFrame) -> Figure | None:
    """Draw time (top) and peak memory (bottom) against bag length, both logarithmic, one column a mode.

    Cells that did not end ok are not drawn; the name of their method says from which length on, and how they ended.
    Memory below 0.1 MiB, the resolution of the measurement, is drawn at 0.1 MiB, and the axis says so.

    Args:
        df: from `milbench.runs.scaling.table.tidy`.

    Returns:
        a figure on an Agg canvas, not known to pyplot; None where no cell ended ok.
    """
    good = df[df["outcome"] == "ok"]
    if not len(good):
        return None
    modes = [mode for mode in _TITLES if (df["mode"] == mode).any()]
    methods = list(dict.fromkeys(df["method"]))
    with plot_style():
        style = method_styles(methods, markers=True)
        note = _LONGEST_NOTE if (df["outcome"] != "ok").any() else ""
        names = widest((short_name(str(method)) + note for method in methods), "small")
        # Names stand one above the other at the right of every panel.
        height = max(3.4, 1.1 * len(methods) * 1.45 * points("small") / 72)
        figure = Figure(figsize=((max(5.8, 4.2 + names) * len(modes)), 2 * height + 1.6), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(len(_PANELS), len(modes), squeeze=False, sharey="row")
        for row, column in zip(axes, _PANELS, strict=True):
            for ax, mode in zip(row, modes, strict=True):
                _panel(ax, df[df["mode"] == mode], column, style)
                ax.set_title(_TITLES[mode], loc="left")
            row[0].set_ylabel(_label(df, column))
            bottom, top = row[0].get_ylim()
            if top < 200 * bottom:  # few powers of ten, or none
                row[0].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
        # Only after the layout is final are lengths in pixels known.
        for row, column in zip(axes, _PANELS, strict=True):
            for ax, mode in zip(row, modes, strict=True):
                _name_lines(ax, df[df["mode"] == mode], column)
    return figure


def _panel(ax: Axes, block: pd.DataFrame, column: str, style: dict[str, dict[str, Any]]) -> None:
    _, factor, ticks, least = _PANELS[column]
    ax.set(xscale="log", yscale="log", xlabel="Instances of the bag")
    lengths = sorted(block["n"].unique())
    ax.yaxis.set_major_formatter(ticks)
    ax.xaxis.set_minor_formatter(NullFormatter())
    ax.yaxis.set_minor_formatter(NullFormatter())
    for method, rows in block[block["outcome"] == "ok"].groupby("method", sort=False):
        x, y = rows["n"].to_numpy(float), rows[column].clip(lower=least).to_numpy(float) * factor
        ax.plot(x, y, ms=6, lw=1.4, mec="white", mew=0.6, zorder=3, **style[str(method)])
        if column == "seconds_median":
            ax.vlines(
                x, rows["seconds_low"], rows["seconds_high"], color=style[str(method)]["color"], lw=2.2, alpha=0.5
            )
    # After the lines: ticks alone would be an axis of no width where there is one length.
    ax.set_xticks(_apart(lengths))
    ax.xaxis.set_major_formatter(EngFormatter(sep=""))


def _apart(lengths: list[int]) -> list[int]:
    """Return the lengths whose ticks have room next to each other, the first and the last among them."""
    least = 0.07 * np.log(lengths[-1] / lengths[0])
    kept = lengths[:1]
    for n in lengths[1:]:
        if np.log(n / kept[-1]) >= least:
            kept.append(n)
    return kept if kept[-1] == lengths[-1] or len(kept) < 2 else [*kept[:-1], lengths[-1]]


def _name_lines(ax: Axes, block: pd.DataFrame, column: str) -> None:
    _, factor, _, least = _PANELS[column]
    ends, names = [], []
    for method, rows in block.groupby("method", sort=False):
        good, bad = rows[rows["outcome"] == "ok"], rows[rows["outcome"] != "ok"]
        name = short_name(str(method))
        if not len(good):
            ends.append((np.nan, np.nan))
            names.append(f"{name}: {bad['outcome'].iloc[0]}")
            continue
        last = good.sort_values("n").iloc[-1]
        late = bad[bad["n"] > last["n"]].sort_values("n")
        if len(late):
            name += f" ({late['outcome'].iloc[0]} at {EngFormatter(sep='')(late['n'].iloc[0])})"
        ends.append((float(last["n"]), max(float(last[column]), least) * factor))
        names.append(name)
    _make_room(ax, sorted(block["n"].unique()), names)
    if ends:
        _column(ax, np.array(ends), names)


def _make_room(ax: Axes, lengths: list[int], names: list[str]) -> None:
    """Set the x axis so that the names fit between the longest bag and the right edge."""
    frame = ax.get_window_extent()
    longest = max([_extent(ax, name)[0] for name in names], default=0.0)
    share = min(0.75, (longest + _GAP * ax.figure.dpi) / frame.width)
    low, high = np.log10(lengths[0]), np.log10(lengths[-1])
    if low == high:
        low, high = low - 0.1, high
    left = low - 0.05 * (high - low)
    ax.set_xlim(10**left, 10 ** (left + (high - left) / (1 - share)))


def _column(ax: Axes, ends: np.ndarray, names: list[str]) -> None:
    """Write every name at the right edge, as high as the end (k, 2) of its line as far as names leave room.

    A thin line leads from each end to its name. Names of methods without a line (NaN) stand at the bottom.
    """
    frame, pixels = ax.get_window_extent(), ax.transData.transform(ends)
    without = np.isnan(pixels).any(axis=1)
    pixels[without] = (frame.x0, frame.y0)
    width, height = np.max([_extent(ax, name) for name in names], axis=0)
    order = np.argsort(pixels[:, 1], kind="stable")
    # Heights at least one line apart and as near to the wanted ones as can be: a monotone fit of what is left of them.
    steps = 1.05 * height * np.arange(len(order))
    free = np.clip(pixels[order, 1] - steps, frame.y0 + height, max(frame.y1 - height - steps[-1], frame.y0 + height))
    heights = isotonic_regression(free).x + steps
    x = frame.x1 - width - 4
    back, halo = ax.transData.inverted(), [withStroke(linewidth=2.5, foreground="white")]
    for i, y in zip(order, heights, strict=True):
        left, middle = back.transform((x, y))
        text = ax.text(float(left), float(middle), names[i], fontsize="small", va="center", zorder=5, path_effects=halo)
        if without[i]:
            text.set_fontstyle("italic")
            continue
        bend = (max(pixels[i, 0], x - 0.6 * _GAP * ax.figure.dpi), pixels[i, 1])
        path = back.transform([pixels[i], bend, (x - 3, y)])
        ax.plot(*path.T, color="0.6", lw=0.6, zorder=1.5, scalex=False, scaley=False, gid="leader")


def _extent(ax: Axes, name: str) -> tuple[float, float]:
    """Return width and height of a name in pixels."""
    text = ax.text(0, 0, name, fontsize="small")
    box = text.get_window_extent()
    text.remove()
    return box.width, box.height


def _label(df: pd.DataFrame, column: str) -> str:
    label, factor, _, least = _PANELS[column]
    if (df[column] < least).any():
        label += f"\nless than {least * factor:g} is drawn at {least * factor:g}"
    return label
