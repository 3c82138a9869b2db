"""Figures of anytime curves: validation AUC against what had been spent by then, with the range over runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.ticker import EngFormatter

from .plots import grid_of_panels, look

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
        curves: from `milbench.spending.curves`, of one axis.

    Returns:
        a figure on an Agg canvas; None where there is nothing to draw.
    """
    if not len(curves):
        return None
    blocks = list(curves.groupby(["suite", "version", "data", "conditions"], sort=False))
    methods = list(dict.fromkeys(curves["method"]))
    colours = dict(zip(methods, sns.color_palette("colorblind", len(methods)), strict=True))
    columns = min(2, len(blocks))
    with look():
        figure, axes = grid_of_panels(len(blocks), columns, 5.2 if columns > 1 else 6.4, 3.6, sharex=False)
        for ax, ((_, _, data, conditions), block) in zip(axes, blocks, strict=True):
            for method, line in block.groupby("method", sort=False):
                style: dict[str, Any] = {"color": colours[str(method)], "lw": 1.6}
                if (line["family"] == "correlated").all():
                    style["ls"] = (0, (5, 1.5))  # told apart in a grey print
                ax.plot(line["x"], line["auc"], label=str(method), **style)
                ax.fill_between(line["x"], line["low"], line["high"], color=style["color"], alpha=0.15, lw=0)
            ax.set_title(f"{data}{f' / {conditions}' if conditions else ''}", loc="left")
            ax.set_xscale("log")
            if block["x"].min() < block["x"].max():
                ax.set_xlim(block["x"].min(), block["x"].max())
            ax.xaxis.set_major_formatter(EngFormatter(sep=""))
            ax.set_ylim(max(0.0, min(0.5, float(np.nanmin(block["low"]))) - 0.02), 1.02)
            ax.set_xlabel(LABELS[str(block["axis"].iloc[0])])
        axes[0].set_ylabel("Validation AUC, mean and range of runs")
        found = {name: handle for ax in axes for handle, name in zip(*ax.get_legend_handles_labels(), strict=True)}
        figure.legend(list(found.values()), list(found), loc="outside lower center", ncols=4, frameon=False)
        figure.canvas.draw()
    return figure
