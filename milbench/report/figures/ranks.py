"""Figures of statistics over tasks: the critical-difference diagram, and performance profiles. They compute nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from .layout import legend_below, method_styles, text_width, widest
from .style import plot_style

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ...stats import Friedman, Profile

_DARK, _GREY = "0.15", "#737373"
#: inches: from the axis to the first bar, from bar to bar, from name to name
_HEAD, _BAR, _ROW = 0.22, 0.13, 0.24
#: inches: of the axis, and of a rank on it at least
_AXIS, _TICK = 3.2, 0.24


def critical_difference_figure(result: Friedman, names: Sequence[str]) -> Figure:
    """Draw mean ranks on a line, best at the left, with bars under methods that are not separated (Demsar 2006).

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
    with plot_style():
        texts = [f"{names[i]}  {float(result.ranks[i]):.2f}" for i in order]
        margins = [max(1.3, widest(side, "medium") + 0.3) for side in (texts[:half], texts[half:])]
        axis = max(_AXIS, _TICK * k)
        rule = (
            f"critical difference {result.critical_difference:.2f} ({result.tasks} tasks, Nemenyi, "
            f"{100 * result.alpha:g} %)"
        )
        margins[1] += max(0.0, text_width(rule, "medium") + 0.1 - axis - margins[1])
        width = sum(margins) + axis
        figure = Figure(figsize=(width, height + 0.95))
        FigureCanvasAgg(figure)
        # One unit of height is an inch: bars and names keep their distance however many there are.
        ax = figure.add_axes((margins[0] / width, 0.02, axis / width, (height + 0.35) / (height + 0.95)))
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
            inset = 0.1 * (k - 1) / axis  # a tenth of an inch
            edge = 1 - inset if left else k + inset
            rank = float(result.ranks[i])
            ax.plot([rank, rank, edge], [0, level, level], color=_GREY, lw=0.9, clip_on=False)
            text = texts[place] if left else f"{rank:.2f}  {names[i]}"
            ax.annotate(text, (edge, level), xytext=(-4 if left else 4, 0), textcoords="offset points", va="center",
                        ha="right" if left else "left", annotation_clip=False)  # fmt: skip
        for i, group in enumerate(result.groups):
            ends = [float(result.ranks[group[0]]) - 0.04, float(result.ranks[group[-1]]) + 0.04]
            ax.plot(ends, [_HEAD + _BAR * i] * 2, color=_DARK, lw=3.5, solid_capstyle="butt", clip_on=False)
        limit = result.critical_difference
        ax.plot([1, 1 + limit], [-0.47, -0.47], color=_DARK, lw=1.2, marker="|", ms=7, clip_on=False)
        ax.annotate(rule, (1, -0.47), xytext=(0, 6), textcoords="offset points", ha="left", annotation_clip=False)
        figure.draw_without_rendering()
    return figure


def profile_figure(profiles: Mapping[str, Profile], label: str = "Score") -> Figure:
    """Draw the share of runs above each score, one line a method, with its pointwise interval as a band.

    Args:
        profiles: by method, from `milbench.stats.performance_profile`.
        label: of the scores' axis.

    Returns:
        a figure on an Agg canvas, not known to pyplot. Lines differ by stroke, so that a grey print tells them apart.
    """
    with plot_style():
        figure = Figure(figsize=(6.4, 4.2), layout="constrained")
        FigureCanvasAgg(figure)
        ax = figure.subplots()
        styles = method_styles(list(profiles))
        for name, p in profiles.items():
            ax.plot(p.thresholds, p.share, label=name, **styles[name])
            ax.fill_between(p.thresholds, p.low, p.high, color=styles[name]["color"], alpha=0.15, lw=0)
        ax.set(xlabel=f"{label} τ", ylabel="Share of runs above τ, 95 % interval", ylim=(-0.02, 1.02))
        legend_below(figure, ax.get_legend_handles_labels()[0])
        figure.draw_without_rendering()
    return figure
