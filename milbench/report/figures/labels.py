"""Names of points in a figure, placed so that none covers another, a point or an error bar."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.transforms import Bbox

from .layout import points, widest

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
from .style import GREY


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
    """Name the points of a figure's panels: next to each, or where names have no room, by numbers with a list.

    The list stands to the right of the panels, and the figure grows by its width. The layout is final afterwards.
    """
    figure.draw_without_rendering()
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
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for panel in panels:
        _place(panel, [numbers[name] for name in panel.names])


def place_labels(
    ax: Axes, x: np.ndarray, y: np.ndarray, names: list[str], line: np.ndarray | None = None
) -> list[Bbox]:
    """Write a name next to every point so that no two names overlap, nor a name a point, as far as the panel has room.

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
            artists += ax.plot(ends[:, 0], ends[:, 1], color=GREY, lw=0.6, zorder=1.5, scalex=False, scaley=False,
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
    """Return boxes (m, 4) that a name of a size may take next to a point, and the penalty of each (m,)."""
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
