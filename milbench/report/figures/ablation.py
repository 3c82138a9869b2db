"""Figures of an ablation: effects with their intervals, and effect against cost. They draw what the table says."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.ticker import NullFormatter, StrMethodFormatter

from ...evaluation.ablation import COSTS
from .labels import Named, name_points
from .layout import set_title, set_xlabel, widest
from .style import grid_of_panels, plot_style

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

_GREY, _DARK, _LIGHT = "#737373", "#08306b", "#9ecae1"
_AXIS = 3.1  # inches: width of a panel without its names


def effect_figure(table: pd.DataFrame) -> Figure:
    """Draw the effect of every change with its interval, one panel a cohort; the line at 0 is the reference.

    Effects whose interval leaves out 0 are filled, the others hollow.

    Args:
        table: from `milbench.evaluation.ablation.with_costs`.
    """
    blocks = list(table.groupby("cohort", sort=False))
    most = max(len(block) for _, block in blocks)
    columns = min(3, len(blocks))
    with plot_style():
        names_width = widest(table["changed"].astype(str), "medium")
        figure, axes = grid_of_panels(len(blocks), columns, _AXIS + 0.4 + names_width, 0.27 * most + 1.4, sharex=False)
        for ax, (_, block) in zip(axes, blocks, strict=True):
            row: Any
            for i, row in enumerate(block.itertuples(index=False)):
                if row.effect != row.effect:
                    continue
                ends = [row.low, row.high]
                ax.plot(ends, [i, i], color=_DARK, lw=1.5, solid_capstyle="butt", zorder=2, gid="interval")
                seen = row.low > 0 or row.high < 0
                ax.plot([row.effect], [i], "D", mfc=_DARK if seen else "white", mec=_DARK, ms=5, zorder=3)
            ax.axvline(0, color=_GREY, lw=1, ls=(0, (4, 3)), zorder=1)
            names = list(block["changed"])
            ax.set_yticks(range(len(block)), names)
            ax.set_ylim(most - 0.4, -0.6)
            set_title(ax, f"{block['data'].iloc[0]} (reference {block['reference_auc'].iloc[0]:.3f})", _AXIS)
            set_xlabel(ax, "Difference in test AUC to the reference, 95 % interval", _AXIS)
            ax.grid(axis="y", visible=False)
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
    return figure


def effect_cost_figure(table: pd.DataFrame, cost: str = "train_time") -> Figure | None:
    """Draw effect against the ratio of a cost to the reference's (logarithmic), every point named.

    Args:
        table: from `milbench.evaluation.ablation.with_costs`.
        cost: a key of `milbench.evaluation.ablation.COSTS`.

    Returns:
        a figure; None where no change has both.
    """
    column = f"{cost}_ratio"
    part = table[table["effect"].notna() & table[column].notna()]
    if not len(part):
        return None
    blocks = list(part.groupby("cohort", sort=False))
    columns = min(3, len(blocks))
    with plot_style():
        figure, axes = grid_of_panels(len(blocks), columns, 4.6, 3.6, sharex=False)
        for ax, (_, block) in zip(axes, blocks, strict=True):
            x, y = block[column].to_numpy(float), block["effect"].to_numpy(float)
            ax.set_xscale("log")
            low, high = min(x.min(), 1.0), max(x.max(), 1.0)
            margin = max((high / low) ** 0.3, 1.15)
            ax.set_xlim(low / margin, high * margin)
            ax.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            ax.xaxis.set_minor_formatter(NullFormatter())
            ax.set_xticks([t for t in (0.1, 0.2, 0.5, 0.7, 1, 1.5, 2, 3, 5, 10) if low / margin < t < high * margin])
            row: Any
            for xi, row in zip(x, block.itertuples(index=False), strict=True):
                ax.plot([xi, xi], [row.low, row.high], color=_LIGHT, lw=1.2, zorder=2, gid="interval")
            ax.plot(x, y, "D", mfc=_DARK, mec=_DARK, ms=5, ls="", zorder=3)
            ax.plot([1], [0], "o", mfc="white", mec=_GREY, ms=6, zorder=3)
            ax.axhline(0, color=_GREY, lw=1, ls=(0, (4, 3)), zorder=1)
            set_title(ax, block["data"].iloc[0], 3.6)
            set_xlabel(ax, f"{COSTS[cost]}, ratio to the reference", 3.6)
            ax.set_ylabel("Difference in test AUC")
        name_points(figure, [
            Named(
                ax,
                np.append(block[column].to_numpy(float), 1.0),
                np.append(block["effect"].to_numpy(float), 0.0),
                [*block["changed"], "reference"],
                bars=block[["low", "high"]].to_numpy(float),
            )
            for ax, (_, block) in zip(axes, blocks, strict=True)
        ])  # fmt: skip
    return figure
