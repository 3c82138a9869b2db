"""Figures of anytime curves: validation AUC against what had been spent by then, with the range over runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

from .layout import legend_below, method_styles, set_title
from .style import grid_of_panels, plot_style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LABELS = {
    "steps": "Optimizer steps",
    "flops": "Training FLOPs",
    "device_seconds": "Device-seconds of training",
}


def anytime_figure(curves: pd.DataFrame) -> Figure | None:
    """Draw one panel a table of runs: a line a method, its band from the worst to the best run.

    Args:
        curves: from `milbench.evaluation.resource_use.curves`, of one axis.

    Returns:
        a figure on an Agg canvas; None where there is nothing to draw.
    """
    if not len(curves):
        return None
    blocks = list(curves.groupby(["suite", "version", "data", "conditions"], sort=False))
    methods = list(dict.fromkeys(curves["method"]))
    columns = min(2, len(blocks))
    with plot_style():
        styles = method_styles(methods)
        figure, axes = grid_of_panels(len(blocks), columns, 5.2 if columns > 1 else 6.4, 3.6, sharex=False)
        for ax, ((_, _, data, conditions), block) in zip(axes, blocks, strict=True):
            for method, line in block.groupby("method", sort=False):
                style = styles[str(method)]
                ax.plot(line["x"], line["auc"], label=str(method), lw=1.6, **style)
                ax.fill_between(line["x"], line["low"], line["high"], color=style["color"], alpha=0.08, lw=0)
                for edge in ("low", "high"):
                    ax.plot(line["x"], line[edge], color=style["color"], alpha=0.35, lw=0.6)
            set_title(ax, f"{data}{f' / {conditions}' if conditions else ''}", 4.2)
            ax.set_xscale("log")
            if block["x"].min() < block["x"].max():
                ax.set_xlim(block["x"].min(), block["x"].max())
            # Ticks between the powers of ten overlap where there are many: methods differ in FLOPs by up to a million.
            decades = float(np.log10(block["x"].max() / block["x"].min()))
            ax.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if decades < 2 else (1.0,)))
            ax.xaxis.set_major_formatter(EngFormatter(sep=""))
            ax.xaxis.set_minor_formatter(NullFormatter())
            ax.set_ylim(max(0.0, min(0.5, float(np.nanmin(block["low"]))) - 0.02), 1.02)
            ax.set_xlabel(LABELS[str(block["axis"].iloc[0])])
        axes[0].set_ylabel("Validation AUC, mean and range of runs")
        handles = {name: handle for ax in axes for handle, name in zip(*ax.get_legend_handles_labels(), strict=True)}
        legend_below(figure, list(handles.values()))
        figure.draw_without_rendering()
    return figure
