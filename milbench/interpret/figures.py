"""Figures of one bag: its pooling matrix, its instances' scores where they lie, and deletion and insertion curves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import matplotlib
import numpy as np
from matplotlib.colors import AsinhNorm, LinearSegmentedColormap, Normalize, PowerNorm
from scipy.spatial import cKDTree
from scipy.stats import rankdata

from ..report.figures.layout import set_title, set_xlabel, wrapped
from ..report.figures.style import grid_of_panels, plot_style

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.figure import Figure

    from .relevance import Curves

_COLOURS = "rocket_r"  # seaborn's: from light to dark, even in lightness
_MARK = "#0571b0"  # of positive instances
_EMPTY = "0.92"  # where there is no instance
_IN, _OUT = "#08306b", "#cb181d"
_DASHED: dict[str, Any] = {"lw": 1.1, "ls": (0, (4, 3)), "alpha": 0.7}
_LONGEST = 6.4  # side of a heatmap, inches
#: Share of the range of scores that its 99th percentile must reach for the linear scale to show more than one patch.
_SPREAD = 1 / 3

#: How scores become colours. ``linear``: from the smallest to the largest. ``asinh``: likewise, but compressed, linear
#: around 0 and logarithmic far from it. ``robust``: from the 1st to the 99th percentile, and what lies beyond has the
#: colour of the end. ``rank``: evenly by rank. ``auto``: ``linear``, or ``asinh`` where a few patches would leave the
#: rest without a difference. The figure names the scale and the largest score.
Scale = Literal["auto", "linear", "asinh", "robust", "rank"]


def matrix_figure(matrix: np.ndarray, method: str, off_diagonal: float, note: str = "") -> Figure:
    """Draw a pooling matrix: row i is read, column j is where it stems from.

    Args:
        matrix: ``(n, n)``, entries at least 0.
        method: its name, for the title.
        off_diagonal: share of the mass, for the title.
        note: a sentence below.
    """
    n = len(matrix)
    with plot_style():
        figure, (ax,) = grid_of_panels(1, 1, 5.4, 4.9, sharex=False)
        # A few entries may hold nearly everything: the square root keeps the others in sight.
        top = float(matrix.max())
        norm = PowerNorm(0.5, 0.0, top)
        image = ax.imshow(matrix, cmap=_COLOURS, norm=norm, interpolation="nearest", origin="upper")
        ax.grid(visible=False)
        set_title(ax, f"{method}: {100 * off_diagonal:.1f} % of the mass off the diagonal", 3.8)
        ax.set_xlabel(_wrapped("instance j: where it stems from", note))
        ax.set_ylabel("instance i: whose row is read")
        shown = np.unique(np.linspace(0, n - 1, min(n, 5)).round().astype(int))
        ax.set_xticks(shown, shown)
        ax.set_yticks(shown, shown)
        bar = figure.colorbar(image, ax=ax, fraction=0.046, pad=0.03)
        bar.set_label("share of the bag representation")
        ticks = (top * np.linspace(0, 1, 5) ** 2).tolist()
        bar.set_ticks(ticks, labels=[f"{t:.2g}" for t in ticks])
        figure.draw_without_rendering()
    return figure


def heatmap_figure(coords: np.ndarray, scores: np.ndarray, source: str, step: float | None = None,
                   labels: np.ndarray | None = None, title: str = "", scale: Scale = "auto") -> Figure:  # fmt: skip
    """Draw instance scores where the instances lie; y grows downwards, as in an image.

    Args:
        coords: ``(n, 2)``, x and y.
        scores: ``(n,)``.
        source: what they are, for the colour bar.
        step: distance of neighbouring patches in the units of the coordinates, where these lie on a grid: every patch
            is a square of an image then; None: every instance is a dot.
        labels: ``(n,)`` instance labels; those that are 1 get a ring.
        title: above it: slide, method, class, probability, label.
        scale: see `Scale`.
    """
    scores = np.asarray(scores, dtype=np.float64)
    largest = float(scores.max())
    norm, words = _norm(scores, scale)
    if scale == "rank":
        scores = rankdata(scores) / len(scores)
    extent = np.ptp(coords, axis=0) + (step or 0)
    across, down = np.maximum(extent / max(extent.max(), 1e-12), 0.35) * _LONGEST
    with plot_style():
        lines = wrapped(title, across, "large").count("\n")
        figure, (ax,) = grid_of_panels(1, 1, across + 1.5, down + 0.17 * lines, sharex=False)
        drawn = _dots(ax, coords, scores, norm) if step is None else _cells(ax, coords, scores, step, norm)
        if labels is not None and (np.asarray(labels) == 1).any():
            at = coords[np.asarray(labels) == 1] + (step or 0) / 2
            ax.scatter(at[:, 0], at[:, 1], s=_size(coords, step), facecolors="none", edgecolors=_MARK, linewidths=0.8,
                       label="labelled positive")  # fmt: skip
            ax.legend(loc="upper left", bbox_to_anchor=(0, -0.02), frameon=False, fontsize="small")
        ax.set_facecolor(_EMPTY)
        ax.set_aspect("equal")
        ax.invert_yaxis()
        ax.grid(visible=False)
        ax.set_xticks([])
        ax.set_yticks([])
        set_title(ax, title, across)
        label = "attention x n (1: an even share)" if source == "attention" else source
        extend = "both" if isinstance(norm, Normalize) and words.startswith("colours end") else "neither"
        bar = figure.colorbar(drawn, ax=ax, fraction=0.046, pad=0.03, extend=extend)
        ticks = np.unique(np.asarray(norm.inverse(np.linspace(0, 1, 5)), dtype=np.float64))
        bar.set_ticks(ticks.tolist(), labels=[f"{tick:.3g}" for tick in ticks])
        bar.minorticks_off()
        bar.set_label(wrapped(f"{label}; {words}, largest {largest:.3g}", 0.85 * down, "medium"))
        figure.draw_without_rendering()
    return figure


def curves_figure(curves: Sequence[tuple[str, Curves]], target: str) -> Figure:
    """Draw deletion and insertion curves, one panel a method; dashed, the same with instances in random order.

    Args:
        curves: method and curves.
        target: the class whose probability they show.
    """
    with plot_style():
        figure, axes = grid_of_panels(len(curves), min(3, len(curves)), 3.4, 2.9, sharex=True)
        for ax, (name, one) in zip(axes, curves, strict=True):
            share = (one.kept - 1) / (one.kept[-1] - 1)
            ax.plot(share, one.insertion, color=_IN, lw=1.6, label=f"insertion {one.insertion_auc:.3f}")
            ax.plot(1 - share, one.deletion, color=_OUT, lw=1.6, label=f"deletion {one.deletion_auc:.3f}")
            ax.plot(share, one.random, color=_IN, label=f"random order {one.random_auc:.3f}", **_DASHED)
            ax.plot(1 - share, one.random, color=_OUT, **_DASHED)
            set_title(ax, name, 2.6)
            ax.set_ylim(-0.03, 1.03)
            set_xlabel(ax, "share put in, or taken out", 2.6)
            ax.legend(frameon=False, fontsize="small")
        axes[0].set_ylabel(wrapped(f"probability of {target}", 2.2, "medium"))
        figure.draw_without_rendering()
    return figure


def _norm(scores: np.ndarray, scale: Scale) -> tuple[Normalize, str]:
    """Return how scores become colours, and the words that say so."""
    low, high = float(scores.min()), float(scores.max())
    if not high > low:
        return Normalize(low, low + 1), "all equal"
    if scale == "rank":
        return Normalize(0, 1), "colours by rank (1: the largest)"
    if scale == "robust":
        first, last = (float(v) for v in np.percentile(scores, (1, 99)))
        return Normalize(first, last if last > first else first + 1), "colours end at the 1st and 99th percentile"
    if scale == "linear" or (scale == "auto" and np.percentile(scores, 99) - low >= _SPREAD * (high - low)):
        return Normalize(low, high), "linear scale"
    middle = float(np.median(np.abs(scores)))
    # Not below a millionth of the range: the logarithm would otherwise give most of the scale to rounding.
    return AsinhNorm(max(middle, 1e-6 * (high - low)), low, high), "asinh scale"


def _colours() -> LinearSegmentedColormap:
    """Return seaborn's colours without the palest, which a white page or the ground of the panel swallows."""
    return LinearSegmentedColormap.from_list("rocket_dark", matplotlib.colormaps[_COLOURS](np.linspace(0.1, 1, 256)))


def _cells(ax: Axes, coords: np.ndarray, scores: np.ndarray, step: float, norm: Normalize) -> ScalarMappable:
    """One square a grid cell; the mean where several instances share one."""
    first = coords.min(axis=0)
    column, row = np.floor((coords - first) / step + 1e-6).astype(int).T
    shape = (row.max() + 1, column.max() + 1)
    total, count = np.zeros(shape), np.zeros(shape)
    np.add.at(total, (row, column), scores)
    np.add.at(count, (row, column), 1)
    image = np.ma.masked_array(total / np.maximum(count, 1), count == 0)
    (left, top), (down, across) = first, shape
    edges = (left, left + across * step, top, top + down * step)
    return ax.imshow(image, cmap=_colours(), norm=norm, interpolation="nearest", origin="lower", extent=edges)


def _dots(ax: Axes, coords: np.ndarray, scores: np.ndarray, norm: Normalize) -> ScalarMappable:
    order = np.argsort(scores, kind="stable")  # the highest are drawn last
    x, y = coords[order].T
    return ax.scatter(x, y, c=scores[order], s=_size(coords, None), cmap=_colours(), norm=norm, lw=0)


def _size(coords: np.ndarray, step: float | None) -> float:
    """Area of a dot in points squared, so that neighbours just touch."""
    if step is None:
        near = np.asarray(cKDTree(coords).query(coords, k=[min(2, len(coords))])[0])
        step = float(np.median(near))
    extent = max(float(np.ptp(coords, axis=0).max()), 1e-12)
    return float(np.clip((72 * _LONGEST * step / extent) ** 2, 2, 400))


def _wrapped(label: str, note: str, width: int = 62) -> str:
    import textwrap

    return "\n".join([label, *textwrap.wrap(note, width)])
