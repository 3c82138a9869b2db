"""Figures of a leaderboard: AUC with intervals, and AUC against cost. They draw what the table says and compute no
score.

iid and correlated pooling differ by marker shape and by shade, so that a grey print tells them apart.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, Formatter, LogLocator, NullFormatter, StrMethodFormatter

from ...evaluation.scores import MEMORY_FLOOR_BYTES
from ...formatting.text import rank_text
from ...stats.base import TIE
from ...tasks import CLASSIFICATION, task_named
from .layout import legend_below, set_title, set_xlabel, widest

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas as pd
    from matplotlib.axes import Axes
from .labels import Named, name_points
from .style import GREY, STYLE, grid_of_panels, plot_style

#: inches: width of a panel of AUCs without names and ranks
_AXIS = 3.4


#: of the Pareto front: lighter than an interval, which may lie on it
_FRONT: dict[str, Any] = {"color": "#c7c7c7", "lw": 2.0}


_SMALL: dict[str, Any] = {"fontsize": "small", "color": GREY}


#: cost column -> (axis label, factor to its unit, whether more is better, smallest value distinguished from 0)
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
    """Draw AUC with its interval by method, one panel a cohort, the best on top; a dashed line marks an AUC of 0.5.

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
    with plot_style():
        right = [rank_text(row) if row.rank == row.rank else row.outcome for row in _rows(df)]
        room = widest(df["method"], "medium") + widest([*right, "rank [95 %]"], "small") + 0.5
        figure, axes = grid_of_panels(len(blocks), columns, room + _AXIS, height, sharex=True)
        floor = no_skill = task_named(CLASSIFICATION).no_skill or 0.0
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
            ax.axvline(no_skill, color=GREY, lw=1, ls=(0, (4, 3)), zorder=1)
            if 0 < (ranked := int(block["rank"].notna().sum())) < len(block):
                ax.axhline(ranked - 0.5, color=GREY, lw=0.8, zorder=1, gid="unranked")
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
        no_skill_line = Line2D([], [], color=GREY, lw=1, ls=(0, (4, 3)), label="chance")
        _finish(figure, df, [no_skill_line])
        figure.draw_without_rendering()  # ticks are made when they are first drawn, in the style of this context
    return figure


def tradeoff_figure(df: pd.DataFrame, cost: str) -> Figure | None:
    """Draw AUC against a cost (logarithmic axis), one panel a cohort, every point named, the Pareto front as a line.

    Args:
        df: from `milbench.leaderboard`.
        cost: a column of throughput, memory or what a training used, see `_COSTS`.

    Returns:
        a figure; None where no ranked method has both an AUC and this cost. Methods without a rank are not drawn,
        because their AUC is over fewer runs. Memory below 0.1 MiB, the resolution of the measurement, is drawn at 0.1
        MiB, and the axis says so.
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
    with plot_style():
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
    return STYLE.get(row.family, STYLE[""])


def _point(ax: Axes, x: float, y: float, row: Any) -> None:
    marker, fill, edge, _ = _style(row)
    face = fill if row.rank == row.rank else "white"
    ax.plot(x, y, marker=marker, ms=6.5, mfc=face, mec=edge, mew=1.1, ls="", zorder=3)


def _finish(figure: Figure, df: pd.DataFrame, more: list[Line2D]) -> None:
    handles = [
        Line2D([], [], marker=marker, mfc=fill, mec=edge, ms=6.5, ls="", label=name)
        for family, (marker, fill, edge, name) in STYLE.items()
        if (df["family"] == family).any()
    ]
    legend_below(figure, [*handles, *more])
