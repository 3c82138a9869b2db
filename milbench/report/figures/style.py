"""What all figures share: fonts, grid of panels, and the style of their axes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib
import seaborn as sns
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from matplotlib.axes import Axes


GREY = "#737373"
#: family -> (marker, fill, edge, name in the legend)
STYLE = {
    "iid": ("o", "#9ecae1", "#2171b5", "iid pooling"),
    "correlated": ("D", "#08306b", "#08306b", "correlated pooling"),
    "": ("^", "#bdbdbd", "#525252", "other"),
}


def grid_of_panels(panels: int, columns: int, width: float, height: float, sharex: bool) -> tuple[Figure, list[Axes]]:
    """Return a figure on an Agg canvas, not known to pyplot, and its panels; those left over are hidden."""
    rows = -(-panels // columns)
    figure = Figure(figsize=(width * columns, height * rows + 0.35), layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(rows, columns, squeeze=False, sharex=sharex).flat)
    for spare in axes[panels:]:
        spare.set_visible(False)
    return figure, axes[:panels]


def plot_style() -> AbstractContextManager[None]:
    """Return the context in which figures of milbench are drawn."""
    # Drawn within a context and without pyplot: the caller's own figures keep their style and backend.
    thin: dict[str, Any] = {"grid.color": "0.9", "grid.linewidth": 0.8, "axes.edgecolor": "0.6", "axes.linewidth": 0.8}
    context = sns.plotting_context("notebook", font_scale=0.8)
    return matplotlib.rc_context(sns.axes_style("whitegrid") | context | thin)
