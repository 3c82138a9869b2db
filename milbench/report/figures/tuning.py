"""Figures of one tuning study: how its best value fell, and where in the search space its trials lie. No torch here.

Optuna's own figures are not used: a study holds the positions of a choice's options, which they would show, and they
print long names of options over each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.ticker import MaxNLocator

from ...config import Choice, Dimension, Float, Int
from ...runs.tuning.study import option_texts
from .layout import set_title, text_width, wrapped
from .style import grid_of_panels, plot_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from ...tasks import Monitor

_PANEL, _COLUMNS, _LABEL = 3.6, 3, 1.5  # inches; panels in a row; inches of an option's text
_BEST = "#b2182b"


@dataclass(frozen=True)
class Shown:
    """A trial that ended with a value.

    Attributes:
        number: from 0.
        value: of the monitored quantity.
        params: name of the dimension -> what was drawn; of a choice the position of the option.
    """

    number: int
    value: float
    params: Mapping[str, Any]


def history_figure(trials: Sequence[Shown], monitor: Monitor, title: str, ended: str) -> Figure:
    """Return the value of every trial and the best so far.

    Args:
        trials: in their order.
        monitor: the quantity that the study improves.
        title: of the study.
        ended: how its trials ended, in words.
    """
    with plot_style():
        figure, (ax,) = grid_of_panels(1, 1, 6.0, 3.2, False)
        at, values = [t.number for t in trials], np.array([t.value for t in trials])
        if trials:
            best = (np.maximum if monitor.higher_is_better else np.minimum).accumulate(values)
            ax.step(at, best, where="post", color=_BEST, label="best so far")
            ax.scatter(at, values, color="0.35", s=18, label="trial", zorder=3)
            ax.legend(frameon=False)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.set_xlabel(f"Trial ({ended})")
        ax.set_ylabel(monitor.axis)
        set_title(ax, title, 4.8)
    return figure


def slice_figure(trials: Sequence[Shown], space: Mapping[str, Dimension], monitor: Monitor, title: str) -> Figure:
    """Return a panel a dimension: its values against the monitored quantity; options of a choice by their names.

    Args:
        trials: in their order.
        space: name -> dimension.
        monitor: the quantity that the study improves.
        title: of the study.
    """
    with plot_style():
        labels = {name: _labels(d) for name, d in space.items() if isinstance(d, Choice)}
        lines = max((sum(text.count("\n") + 1 for text in texts) for texts in labels.values()), default=0)
        columns = max(1, min(_COLUMNS, len(space)))
        height = max(2.4, 0.9 + 0.22 * lines)
        figure, axes = grid_of_panels(max(1, len(space)), columns, _PANEL, height, False)
        best = (max if monitor.higher_is_better else min)(trials, key=lambda t: t.value, default=None)
        points = None
        for ax, (name, dimension) in zip(axes, space.items(), strict=False):
            drawn = [t for t in trials if name in t.params]
            at = [float(t.params[name]) for t in drawn]
            values, numbers = [t.value for t in drawn], [t.number for t in drawn]
            points = ax.scatter(values, at, c=numbers, cmap="viridis_r", s=22, zorder=3, vmin=0,
                                vmax=max(1, max((t.number for t in trials), default=1)))  # fmt: skip
            if best is not None and name in best.params:
                ax.scatter([best.value], [float(best.params[name])], s=90, facecolors="none", edgecolors=_BEST,
                           linewidths=1.4, zorder=4)  # fmt: skip
            _scale(ax, dimension, labels.get(name))
            ax.xaxis.set_major_locator(MaxNLocator(4))
            ax.set_xlabel(monitor.axis)
            ax.set_title(wrapped(name, _PANEL - 1, "large"), loc="left")
        if points is not None and len(trials) > 1:
            bar = figure.colorbar(points, ax=axes, label="Trial")
            bar.locator = MaxNLocator(5, integer=True)
            bar.update_ticks()
        figure.suptitle(wrapped(f"{title} (best trial circled)", _PANEL * columns - 0.4, "large"), fontsize="large")
    return figure


def _scale(ax: Axes, dimension: Dimension, labels: Sequence[str] | None) -> None:
    match dimension:
        case Choice():
            texts = list(labels or ())
            ax.set_yticks(range(len(texts)), texts)
            ax.set_ylim(len(texts) - 0.5, -0.5)  # the first option on top, as a suite lists them
        case Float(log=True) | Int(log=True):
            ax.set_yscale("log")
        case Int():
            ax.yaxis.set_major_locator(MaxNLocator(5, integer=True))


def _labels(choice: Choice) -> list[str]:
    # A dollar sign would begin a formula.
    return [wrapped(text, _LABEL, "medium").replace("$", r"\$") if text_width(text, "medium") > _LABEL
            else text.replace("$", r"\$") for text in option_texts(choice)]  # fmt: skip
