"""Figures of a leaderboard: AUC with intervals, and AUC against cost. They draw what the table says and compute no
score.

iid and correlated pooling differ by marker shape and by shade, so that a grey print tells them apart.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import matplotlib
import numpy as np
import seaborn as sns
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import EngFormatter, Formatter, LogLocator, NullFormatter, StrMethodFormatter
from matplotlib.transforms import Bbox

from ...evaluation.scores import MEMORY_FLOOR_BYTES
from ...formatting.text import rank_text
from ...stats.base import TIE
from .layout import legend_below, points, set_title, set_xlabel, widest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    import pandas as pd
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes

#: family -> (marker, fill, edge, name in the legend)
_STYLE = {
    "iid": ("o", "#9ecae1", "#2171b5", "iid pooling"),
    "correlated": ("D", "#08306b", "#08306b", "correlated pooling"),
    "": ("^", "#bdbdbd", "#525252", "other"),
}
_GREY = "#737373"
#: inches: width of a panel of AUCs beside names and ranks
_AXIS = 3.4
#: of the Pareto front: lighter than an interval, which may lie on it
_FRONT: dict[str, Any] = {"color": "#c7c7c7", "lw": 2.0}
_SMALL: dict[str, Any] = {"fontsize": "small", "color": _GREY}

#: cost column -> (axis label, factor to its unit, whether more is better, smallest value told apart from 0)
_COSTS = {
    "infer_patches_per_s": ("Inference throughput (patches/s)", 1.0, True, 0.0),
    "train_bags_per_s": ("Training throughput (bags/s)", 1.0, True, 0.0),
    "infer_peak_memory_bytes": ("Peak memory, inference (MiB)", 2.0**-20, False, MEMORY_FLOOR_BYTES),
    "train_device_seconds": ("Training (device-seconds)", 1.0, False, 0.0),
    "train_flops": ("Training (FLOPs)", 1.0, False, 0.0),
    "run_peak_memory_bytes": ("Peak memory of a run (MiB)", 2.0**-20, False, MEMORY_FLOOR_BYTES),
    "train_peak_memory_bytes": ("Peak memory, training (MiB)", 2.0**-20, False, MEMORY_FLOOR_BYTES),
}


def auc_figure(df: pd.DataFrame) -> Figure:
    """Draw AUC with its interval by method, one panel a cohort, the best on top; a dashed line marks chance.

    Methods without a rank are drawn hollow below a line, as their AUC is over fewer runs, and named with their outcome;
    those without a score are named only.

    Args:
        df: from `milbench.leaderboard`.

    Returns:
        a figure on an Agg canvas, not known to pyplot.
    """
    blocks = _blocks(df)
    rows_most = max(len(block) for _, block in blocks)
    columns = min(2, len(blocks))
    height = 0.29 * rows_most + 1.5
    with look():
        beside = [rank_text(row) if row.rank == row.rank else row.outcome for row in _rows(df)]
        room = widest(df["method"], "medium") + widest([*beside, "rank [95 %]"], "small") + 0.5
        figure, axes = grid_of_panels(len(blocks), columns, room + _AXIS, height, sharex=True)
        floor = 0.5
        for ax, (name, block) in zip(axes, blocks, strict=False):
            for i, row in enumerate(_rows(block)):
                at_edge: dict[str, Any] = {"transform": ax.get_yaxis_transform(), "va": "center", **_SMALL}
                if row.rank == row.rank:
                    ax.text(1.015, i, rank_text(row), **at_edge)
                else:
                    ax.text(1.015, i, row.outcome, style="italic", **at_edge)
                if row.auc != row.auc:
                    continue
                floor = min(floor, row.auc_low if row.auc_low == row.auc_low else row.auc)
                _, _, edge, _ = _style(row)
                ends = [row.auc_low, row.auc_high]
                ax.plot(ends, [i, i], color=edge, lw=1.6, solid_capstyle="butt", zorder=2, gid="interval")
                _point(ax, row.auc, i, row)
            ax.axvline(0.5, color=_GREY, lw=1, ls=(0, (4, 3)), zorder=1)
            if 0 < (ranked := int(block["rank"].notna().sum())) < len(block):
                ax.axhline(ranked - 0.5, color=_GREY, lw=0.8, zorder=1, gid="unranked")
            ax.set_yticks(range(len(block)), list(block["method"]))
            ax.annotate("rank [95 %]", (1.015, 1), xycoords="axes fraction", xytext=(0, 6), textcoords="offset points",
                        va="bottom", **_SMALL)  # fmt: skip
            # All panels have room for the longest, so that rows lie at the same height.
            ax.set_ylim(rows_most - 0.4, -0.6)
            set_title(ax, name, _AXIS)
            set_xlabel(ax, "Test AUC, 95 % interval", _AXIS)
            ax.tick_params(labelbottom=True)
            ax.grid(axis="y", visible=False)
        for ax in axes:
            ax.set_xlim(max(0.0, floor - 0.03), 1.02)
        chance = Line2D([], [], color=_GREY, lw=1, ls=(0, (4, 3)), label="chance")
        _finish(figure, df, [chance])
    return figure


def tradeoff_figure(df: pd.DataFrame, cost: str) -> Figure | None:
    """Draw AUC against a cost (logarithmic axis), one panel a cohort, every point named, the Pareto front as a line.

    Args:
        df: from `milbench.leaderboard`.
        cost: a column of throughput, memory or what a training used, see `_COSTS`.

    Returns:
        a figure; None where no ranked method has both an AUC and this cost. Methods without a rank are not drawn,
        because their AUC is over fewer runs. Memory too small to be told from none is drawn at the smallest value that
        can be, 0.1 MiB, and the axis says so.
    """
    label, factor, more_is_better, least = _COSTS[cost]
    if (df[cost] < least).any():
        label += f"; less than {least * factor:g} is drawn at {least * factor:g}"
    df = df.assign(**{cost: df[cost].clip(lower=least)})
    blocks = [
        (name, part)
        for name, block in _blocks(df)
        if len(part := block[block["rank"].notna() & (block[cost] > 0)])  # a logarithm needs more than 0
    ]
    if not blocks:
        return None
    columns = min(2, len(blocks))
    stairs: list[np.ndarray] = []
    with look():
        figure, axes = grid_of_panels(len(blocks), columns, 5.2 if columns > 1 else 6.4, 4.2, sharex=False)
        for ax, (name, block) in zip(axes, blocks, strict=False):
            x, y = block[cost].to_numpy(float) * factor, block["auc"].to_numpy(float)
            front = pareto(x if more_is_better else -x, y)
            ax.set_xscale("log")
            _limits(ax, x, block, EngFormatter(sep="") if factor == 1 else StrMethodFormatter("{x:,.10g}"))
            stairs.append(_stair(ax, x[front], y[front], more_is_better))
            ax.plot(*stairs[-1].T, **_FRONT, zorder=1, scalex=False, scaley=False)
            for xi, row in zip(x, _rows(block), strict=True):
                ends = [row.auc_low, row.auc_high]
                ax.plot([xi, xi], ends, color=_style(row)[2], lw=0.8, alpha=0.7, zorder=2, gid="interval")
                _point(ax, xi, row.auc, row)
            set_title(ax, name, 4.3)
            set_xlabel(ax, label, 4.3)
            if len(stairs) % columns == 1 or columns == 1:
                ax.set_ylabel("Test AUC, 95 % interval")
        line = Line2D([], [], **_FRONT, label="Pareto front")
        _finish(figure, df, [line])
        name_points(figure, [
            Named(ax, block[cost].to_numpy(float) * factor, block["auc"].to_numpy(float), list(block["method"]), stair,
                  block[["auc_low", "auc_high"]].to_numpy(float))
            for ax, (_, block), stair in zip(axes, blocks, stairs, strict=False)
        ])  # fmt: skip
    return figure


def pareto(gain: np.ndarray, score: np.ndarray) -> np.ndarray:
    """Return the indices of points that no other point beats in one coordinate without losing in the other.

    Args:
        gain, score: (n,), more is better in both; scores that differ by rounding alone are equal.
    """
    better = (gain[None] >= gain[:, None]) & (score[None] >= score[:, None] - TIE)
    strictly = (gain[None] > gain[:, None]) | (score[None] > score[:, None] + TIE)
    return np.flatnonzero(~(better & strictly).any(axis=1))


def _stair(ax: Axes, x: np.ndarray, y: np.ndarray, more_is_better: bool) -> np.ndarray:
    """Return the border (k, 2) of what a Pareto front beats, from edge to edge of the panel.

    Between two methods of the front one gets what the cheaper of them gives, not a mixture; hence steps.
    """
    order = np.argsort(-x if more_is_better else x)  # from cheap and poor to dear and good
    x, y = x[order], y[order]
    x = np.append(x, ax.get_xlim()[0 if more_is_better else 1])
    y = np.insert(y, 0, ax.get_ylim()[0])
    return np.column_stack([np.repeat(x, 2)[:-1], np.repeat(y, 2)[1:]])


def _blocks(df: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    many = df[["suite", "version"]].drop_duplicates().shape[0] > 1
    groups = df.groupby(["suite", "version", "data", "conditions"], sort=False)
    return [
        (f"{f'{suite}-v{version} / ' if many else ''}{data}{f' / {conditions}' if conditions else ''}", block)
        for (suite, version, data, conditions), block in groups
    ]


def _rows(block: pd.DataFrame) -> Iterator[Any]:
    return block.itertuples(index=False)


def grid_of_panels(panels: int, columns: int, width: float, height: float, sharex: bool) -> tuple[Figure, list[Axes]]:
    """Return a figure on an Agg canvas, not known to pyplot, and its panels; those left over are hidden."""
    rows = -(-panels // columns)
    figure = Figure(figsize=(width * columns, height * rows + 0.35), layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(rows, columns, squeeze=False, sharex=sharex).flat)
    for spare in axes[panels:]:
        spare.set_visible(False)
    return figure, axes[:panels]


def look() -> AbstractContextManager[None]:
    """Return the context in which figures of milbench are drawn."""
    # Drawn within a context and without pyplot: the caller's own figures keep their look and backend.
    thin: dict[str, Any] = {"grid.color": "0.9", "grid.linewidth": 0.8, "axes.edgecolor": "0.6", "axes.linewidth": 0.8}
    context = sns.plotting_context("notebook", font_scale=0.8)
    return matplotlib.rc_context(sns.axes_style("whitegrid") | context | thin)


def _limits(ax: Axes, x: np.ndarray, block: pd.DataFrame, ticks: Formatter) -> None:
    low, high = np.log10(x.min()), np.log10(x.max())
    margin = max(0.18 * (high - low), 0.12)
    ax.set_xlim(10 ** (low - margin), 10 ** (high + margin))
    # Less than two decades need ticks between the powers of ten.
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high - low < 2 else (1,)))
    ax.xaxis.set_major_formatter(ticks)
    ax.xaxis.set_minor_formatter(NullFormatter())
    bottom = np.nanmin(block[["auc", "auc_low"]].to_numpy())
    top = np.nanmax(block[["auc", "auc_high"]].to_numpy())
    pad = 0.06 * max(top - bottom, 0.02)
    ax.set_ylim(bottom - pad, top + pad)


def _style(row: Any) -> tuple[str, str, str, str]:
    return _STYLE.get(row.family, _STYLE[""])


def _point(ax: Axes, x: float, y: float, row: Any) -> None:
    marker, fill, edge, _ = _style(row)
    face = fill if row.rank == row.rank else "white"
    ax.plot(x, y, marker=marker, ms=6.5, mfc=face, mec=edge, mew=1.1, ls="", zorder=3)


def _finish(figure: Figure, df: pd.DataFrame, more: list[Line2D]) -> None:
    handles = [
        Line2D([], [], marker=marker, mfc=fill, mec=edge, ms=6.5, ls="", label=name)
        for family, (marker, fill, edge, name) in _STYLE.items()
        if (df["family"] == family).any()
    ]
    legend_below(figure, [*handles, *more])
    figure.canvas.draw()


@dataclass(frozen=True)
class Named:
    """The points of a panel that are to be named, in data coordinates.

    Attributes:
        ax: the panel.
        x, y: (n,) points.
        names: n texts.
        line: (k, 2) corners of a line that names avoid where they can.
        bars: (n, 2) lower and upper ends of vertical intervals at the first points, which names avoid.
    """

    ax: Axes
    x: np.ndarray
    y: np.ndarray
    names: list[str]
    line: np.ndarray | None = None
    bars: np.ndarray | None = None


def name_points(figure: Figure, panels: Sequence[Named]) -> None:
    """Name the points of a figure's panels: beside each, or where names have no room, by numbers with a list.

    The list stands to the right of the panels, and the figure grows by its width. The layout is final afterwards.
    """
    figure.canvas.draw()
    figure.set_layout_engine("none")
    placed = [_place(panel, panel.names) for panel in panels]
    if all(clear for _, _, clear in placed):
        return
    for _, artists, _ in placed:
        for artist in artists:
            artist.remove()
    names = list(dict.fromkeys(name for panel in panels for name in panel.names))
    numbers = {name: str(i) for i, name in enumerate(names, 1)}
    entries = [Line2D([], [], ls="", label=f"{number}  {name}") for name, number in numbers.items()]
    if len(names) > 12:
        figure.set_size_inches(1.15 * figure.get_figwidth(), 1.5 * figure.get_figheight())
    line_height = 1.35 * points("small") / 72
    columns = math.ceil(len(names) * line_height / (figure.get_figheight() - 0.3))
    width = widest((str(entry.get_label()) for entry in entries), "small") + 0.4
    figure.set_figwidth(figure.get_figwidth() + columns * width + 0.1)
    figure.set_layout_engine("constrained")
    figure.legend(handles=entries, loc="outside right upper", ncols=columns, frameon=False, fontsize="small",
                  handlelength=1, handletextpad=0, labelspacing=0.3, columnspacing=1)  # fmt: skip
    figure.canvas.draw()
    figure.set_layout_engine("none")
    for panel in panels:
        _place(panel, [numbers[name] for name in panel.names])


def place_labels(
    ax: Axes, x: np.ndarray, y: np.ndarray, names: list[str], line: np.ndarray | None = None
) -> list[Bbox]:
    """Write a name beside every point so that no two names overlap, nor a name a point, as far as the panel has room.

    A name prefers the right of its point at the same height; it is pushed up or down, or to the left, as far as it
    must, and then a thin line leads back to its point. The layout of the figure must be final.

    Args:
        ax: the panel.
        x, y: (n,) points, in data coordinates.
        names: n texts.
        line: (k, 2) corners of a line that names keep off where they can, in data coordinates.

    Returns:
        the boxes of the names, in pixels.
    """
    return _place(Named(ax, x, y, names, line), names)[0]


def _place(panel: Named, names: list[str]) -> tuple[list[Bbox], list[Artist], bool]:
    """Return the boxes of the names, what was drawn, and whether every name is clear of names, points and intervals."""
    ax, x, y = panel.ax, panel.x, panel.y
    canvas = ax.figure.canvas
    assert isinstance(canvas, FigureCanvasAgg)
    renderer = canvas.get_renderer()
    halo = [withStroke(linewidth=2.5, foreground="white")]
    texts = [ax.text(0, 0, name, fontsize="small", va="center", zorder=5, path_effects=halo) for name in names]
    size = [(b.width, b.height) for b in (t.get_window_extent(renderer) for t in texts)]
    pixels = ax.transData.transform(np.column_stack([x, y]))
    gap = 5 * ax.figure.dpi / 72
    marks = np.column_stack([pixels - gap, pixels + gap])
    frame = ax.get_window_extent(renderer)
    under = _along(ax.transData.transform(panel.line)) if panel.line is not None else np.empty((0, 2))
    bars = _bars(panel)
    placed = np.full((len(names), 4), np.nan)
    # Two sweeps more: a name that had to give way early may find room once the others have settled.
    for _ in range(3):
        for i in np.argsort(-pixels[:, 1], kind="stable"):
            options, effort = _options(pixels[i], size[i], 1.3 * gap)
            taken = np.delete(placed, i, axis=0)
            cost = _clash(options, taken, np.delete(marks, i, axis=0), frame, under, bars)
            placed[i] = options[np.argmin(effort + cost)]
    boxes = [Bbox.from_extents(*box) for box in placed]
    clear = all(
        _clash(placed[[i]], np.delete(placed, i, axis=0), np.delete(marks, i, axis=0), frame, under[:0], bars)[0] == 0
        for i in range(len(names))
    )
    artists: list[Artist] = list(texts)
    back = ax.transData.inverted()
    for text, box, point in zip(texts, boxes, pixels, strict=True):
        middle = (box.y0 + box.y1) / 2
        left, height = back.transform((box.x0, middle))
        text.set_position((float(left), float(height)))
        if abs(middle - point[1]) > 0.8 * box.height:
            end = box.x0 - 1 if box.x0 >= point[0] else box.x1 + 1
            ends = back.transform([point, (end, middle)])
            artists += ax.plot(ends[:, 0], ends[:, 1], color=_GREY, lw=0.6, zorder=1.5, scalex=False, scaley=False,
                               gid="leader")  # fmt: skip
    return boxes, artists, clear


def _bars(panel: Named) -> np.ndarray:
    """Return pixels (m, 2) along the vertical intervals of a panel."""
    if panel.bars is None:
        return np.empty((0, 2))
    x = panel.x[: len(panel.bars)]
    ends = np.stack([np.column_stack([x, panel.bars[:, i]]) for i in (0, 1)], axis=1)
    kept = ends[np.isfinite(ends).all(axis=(1, 2))]
    return np.concatenate([_along(panel.ax.transData.transform(pair)) for pair in kept] or [np.empty((0, 2))])


def _along(corners: np.ndarray) -> np.ndarray:
    """Return points two pixels apart along a line through corners (k, 2), both in pixels."""
    parts = [corners]
    for a, b in itertools.pairwise(corners):
        parts.append(np.linspace(a, b, int(np.abs(b - a).max() // 2) + 2))
    return np.concatenate(parts)


def _options(point: np.ndarray, size: tuple[float, float], gap: float) -> tuple[np.ndarray, np.ndarray]:
    """Return boxes (m, 4) that a name of a size may take beside a point, and by how much each is less liked (m,)."""
    width, height = size
    shift = np.arange(-24, 25) * height / 3
    # Far up or down, a name also steps aside, so that its line is not upright through other points.
    aside = np.minimum(np.abs(shift), 2 * height) * 0.5
    away = np.array([[0.0], [1.0], [2.5]]) * height  # between upright lines there may be room farther from the point
    left = np.stack([point[0] + gap + aside + away, point[0] - gap - width - aside - away]).ravel()
    bottom = np.tile(point[1] + shift - height / 2, 6)
    effort = np.abs(shift) / height + 1.5 * away / height
    boxes = np.column_stack([left, bottom, left + width, bottom + height])
    return boxes, np.stack([effort, effort + 0.4]).ravel()


def _clash(
    boxes: np.ndarray, others: np.ndarray, marks: np.ndarray, frame: Bbox, line: np.ndarray, bars: np.ndarray
) -> np.ndarray:
    """Return the cost (m,) of each of some boxes (m, 4): what it covers, and whether it leaves the panel; 0: nothing.

    Args:
        boxes: left, bottom, right, top.
        others, marks: (k, 4) boxes of names and of points; NaN where a name has no place yet.
        frame: of the panel.
        line, bars: (p, 2) points along lines.
    """
    cost = 100.0 * _overlaps(boxes, others) + 60.0 * _overlaps(boxes, marks)
    # A line that only grazes a name does not hide it.
    graze = 0.15 * (boxes[:, 3] - boxes[:, 1])
    inner = boxes + np.column_stack([0 * graze, graze, 0 * graze, -graze])
    for points_of_line, weight in ((line, 1.5), (bars, 20.0)):
        x, y = points_of_line.T
        inside = (x > inner[:, [0]]) & (x < inner[:, [2]]) & (y > inner[:, [1]]) & (y < inner[:, [3]])
        cost += weight * inside.any(axis=1)
    outside = (boxes[:, :2] < frame.min).any(axis=1) | (boxes[:, 2:] > frame.max).any(axis=1)
    return cost + 200.0 * outside


def _overlaps(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return how many of some boxes (k, 4) each of others (m, 4) overlaps: (m,)."""
    a, b = boxes[:, None], others[None]
    across = (a[..., 0] < b[..., 2]) & (b[..., 0] < a[..., 2])
    return np.asarray((across & (a[..., 1] < b[..., 3]) & (b[..., 1] < a[..., 3])).sum(axis=1))
