"""Geometry of a drawn figure: texts that overlap, texts that leave the figure, texts on marks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.text import Text
from matplotlib.transforms import Bbox

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.figure import Figure

#: Pixels that two boxes of texts may share: a box has room above capitals and below descenders.
TOLERANCE = 1.5


def defects(figure: Figure) -> list[str]:
    """Return one line for every text that overlaps another text, leaves the figure, or lies on a mark of its panel."""
    figure.canvas.draw()
    frame = Bbox.from_extents(0, 0, figure.bbox.width, figure.bbox.height)
    texts = [(text, text.get_window_extent()) for text in _texts(figure)]
    out = []
    for text, box in texts:
        if box.x0 < frame.x0 - 1 or box.y0 < frame.y0 - 1 or box.x1 > frame.x1 + 1 or box.y1 > frame.y1 + 1:
            out.append(f"{text.get_text()!r} leaves the figure: {_rounded(box)} of {_rounded(frame)}")
    for i, (text, box) in enumerate(texts):
        for other, second in texts[:i]:
            if _shared(box, second) > TOLERANCE:
                out.append(f"{text.get_text()!r} overlaps {other.get_text()!r}")
    for axes in figure.axes:
        marks = _marks(axes)
        for text, box in texts:
            if text.axes is not axes or not isinstance(text, Text) or text not in axes.texts:
                continue
            inner = Bbox.from_extents(box.x0 + 1, box.y0 + 0.2 * box.height, box.x1 - 1, box.y1 - 0.2 * box.height)
            if len(marks) and bool(((marks > inner.min) & (marks < inner.max)).all(axis=1).any()):
                out.append(f"{text.get_text()!r} lies on a mark")
    return out


def _texts(figure: Figure) -> list[Text]:
    texts: list[Text] = []
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        if text.get_text().strip() and text.get_visible() and _is_shown(text, figure):
            texts.append(text)
    return texts


def _is_shown(text: Text, figure: Figure) -> bool:
    """Return whether a text is drawn: tick labels outside the limits of their axis, and hidden ones, are not."""
    for axes in figure.axes:
        if not axes.get_visible():
            if text.axes is axes or text in axes.findobj(Text):
                return False
            continue
        for axis in (axes.xaxis, axes.yaxis):
            labels = {id(label) for tick in _ticks(axis) for label in (tick.label1, tick.label2)}
            if id(text) in labels:
                return id(text) in {id(label) for label in _drawn_labels(axis)}
    return True


def _ticks(axis: Axis) -> list:
    return [*axis.majorTicks, *axis.minorTicks]


def _drawn_labels(axis: Axis) -> list[Text]:
    drawn = axis._update_ticks()
    return [label for tick in drawn for label in (tick.label1, tick.label2) if label.get_visible()]


def _marks(axes: Axes) -> np.ndarray:
    """Return pixels on markers and on intervals (lines of two points that are not reference lines) of a panel."""
    parts: list[np.ndarray] = [np.empty((0, 2))]
    for line in axes.lines:
        if not _in_data(line, axes) or line.get_gid() == "leader":
            continue
        points = line.get_transform().transform(np.column_stack([line.get_xdata(), line.get_ydata()]).astype(float))
        points = points[np.isfinite(points).all(axis=1)]
        if line.get_marker() not in (None, "None", ""):
            parts.append(points)
        elif len(points) == 2 and line.get_gid() == "interval":
            parts.append(np.linspace(points[0], points[1], 50))
    return np.concatenate(parts)


def _in_data(artist: Artist, axes: Axes) -> bool:
    return artist.get_transform().contains_branch(axes.transData)


def _shared(a: Bbox, b: Bbox) -> float:
    """Return the smaller side of what two boxes share, in pixels; 0 where they share nothing."""
    width, height = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
    return float(max(0.0, min(width, height)))


def _rounded(box: Bbox) -> str:
    return f"({box.x0:.0f}, {box.y0:.0f}, {box.x1:.0f}, {box.y1:.0f})"
