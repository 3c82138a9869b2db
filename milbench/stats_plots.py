"""Figures of statistics over tasks: the critical-difference diagram, and performance profiles. They compute nothing."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import seaborn as sns
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from .plots import look

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from .stats import Friedman, Profile

_DARK, _GREY = "0.15", "#737373"
_STROKES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1.5, 1.2)), (0, (5, 1.5, 1, 1.5)))
#: inches: from the axis to the first bar, from bar to bar, from name to name
_HEAD, _BAR, _ROW = 0.22, 0.13, 0.24
#: inches: of the axis, and of a letter of a name
_AXIS, _LETTER = 3.2, 0.09


def critical_difference_figure(result: Friedman, names: Sequence[str]) -> Figure:
    """Draw mean ranks on a line, best at the left, with bars under methods that are not told apart (Demsar 2006).

    Args:
        result: from `milbench.stats.friedman`.
        names: of its k methods, in its order.

    Returns:
        a figure on an Agg canvas, not known to pyplot. Names stand outside the axis, the better half at the left.
    """
    k = len(result.ranks)
    order = sorted(range(k), key=lambda i: (result.ranks[i], i))
    half = (k + 1) // 2
    below = _HEAD + _BAR * len(result.groups)
    height = below + _ROW * (half + 1)
    beside = [max(1.3, _LETTER * (max(len(names[i]) for i in side) + 7)) for side in (order[:half], order[half:])]
    width = sum(beside) + _AXIS
    with look():
        figure = Figure(figsize=(width, height + 0.95))
        FigureCanvasAgg(figure)
        # One unit of height is an inch: bars and names keep their distance however many there are.
        ax = figure.add_axes((beside[0] / width, 0.02, _AXIS / width, (height + 0.35) / (height + 0.95)))
        ax.set(xlim=(1, k), ylim=(height, -0.35))
        ax.xaxis.tick_top()
        ax.set_xticks(range(1, k + 1))
        ax.tick_params(axis="x", length=4, color=_DARK, direction="out", top=True)
        ax.set_yticks([])
        ax.grid(visible=False)
        for side in ("left", "right", "bottom"):
            ax.spines[side].set_visible(False)
        ax.spines["top"].set(position=("data", 0), color=_DARK, linewidth=1.2)
        for place, i in enumerate(order):
            left = place < half
            level = below + _ROW * ((place if left else k - 1 - place) + 0.7)
            edge = 1 - 0.03 * (k - 1) if left else k + 0.03 * (k - 1)
            rank = float(result.ranks[i])
            ax.plot([rank, rank, edge], [0, level, level], color=_GREY, lw=0.9, clip_on=False)
            text = f"{names[i]}  {rank:.2f}" if left else f"{rank:.2f}  {names[i]}"
            ax.annotate(text, (edge, level), xytext=(-4 if left else 4, 0), textcoords="offset points", va="center",
                        ha="right" if left else "left", annotation_clip=False)  # fmt: skip
        for i, group in enumerate(result.groups):
            ends = [float(result.ranks[group[0]]) - 0.04, float(result.ranks[group[-1]]) + 0.04]
            ax.plot(ends, [_HEAD + _BAR * i] * 2, color=_DARK, lw=3.5, solid_capstyle="butt", clip_on=False)
        limit = result.critical_difference
        ax.plot([1, 1 + limit], [-0.47, -0.47], color=_DARK, lw=1.2, marker="|", ms=7, clip_on=False)
        ax.annotate(
            f"critical difference {limit:.2f} ({result.tasks} tasks, Nemenyi, {100 * result.alpha:g} %)",
            (1, -0.47), xytext=(0, 6), textcoords="offset points", ha="left", annotation_clip=False,
        )  # fmt: skip
        figure.canvas.draw()
    return figure


def profile_figure(profiles: Mapping[str, Profile], label: str = "Score") -> Figure:
    """Draw the share of runs above each score, one line a method, with its pointwise interval as a band.

    Args:
        profiles: by method, from `milbench.stats.performance_profile`.
        label: of the scores' axis.

    Returns:
        a figure on an Agg canvas, not known to pyplot. Lines differ by stroke, so that a grey print tells them apart.
    """
    with look():
        figure = Figure(figsize=(6.4, 4.2), layout="constrained")
        FigureCanvasAgg(figure)
        ax = figure.subplots()
        colours = sns.color_palette("dark", len(profiles))
        for (name, p), colour, stroke in zip(profiles.items(), colours, itertools.cycle(_STROKES), strict=False):
            ax.plot(p.thresholds, p.share, color=colour, ls=stroke, label=name)
            ax.fill_between(p.thresholds, p.low, p.high, color=colour, alpha=0.15, lw=0)
        ax.set(xlabel=f"{label} τ", ylabel="Share of runs above τ, 95 % interval", ylim=(-0.02, 1.02))
        fit = int(figure.get_figwidth() / (_LETTER * (max(map(len, profiles)) + 7)))
        figure.legend(loc="outside lower center", ncols=min(4, max(1, fit)), frameon=False)
        figure.canvas.draw()
    return figure
