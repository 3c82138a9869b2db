"""Room for text in figures: measured widths, wrapped titles, legends that fit, and styles that tell many methods apart.

Every size is in inches, every font size in points.
"""

from __future__ import annotations

import itertools
import math
import textwrap
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import matplotlib
import seaborn as sns
from matplotlib.font_manager import FontProperties, font_scalings
from matplotlib.textpath import TextToPath

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Dash patterns of lines, which distinguish them in a grey print.
STROKES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1.5, 1.2)), (0, (5, 1.5, 1, 1.5)))
#: Markers, of which one may be given to every method.
MARKERS = "osD^vP<X>h"
#: Colours that stand out from a white ground: of seaborn's "dark" palette, without its second brown and grey.
_COLOURS = tuple(colour for i, colour in enumerate(sns.color_palette("dark")) if i not in (5, 7))
#: Width of the handle of a legend's entry in addition to its text, and the distance of two columns.
_HANDLE, _COLUMN_GAP = 0.55, 0.3
_PATHS = TextToPath()


def points(size: float | str) -> float:
    """Return a font size in points, as matplotlib's own settings have it for a word such as ``small``."""
    if isinstance(size, str):
        return float(matplotlib.rcParams["font.size"]) * float(font_scalings[size])
    return float(size)


@lru_cache(maxsize=4096)
def _width(text: str, size: float) -> float:
    width, _, _ = _PATHS.get_text_width_height_descent(text.replace("$", r"\$"), FontProperties(size=size), False)
    return float(width) / 72


def text_width(text: str, size: float | str) -> float:
    """Return the width of the longest line of a text."""
    return max((_width(line, points(size)) for line in text.split("\n")), default=0.0)


def widest(texts: Iterable[str], size: float | str) -> float:
    """Return the width of the widest of some texts; 0 where there is none."""
    return max((text_width(text, size) for text in texts), default=0.0)


def wrapped(text: str, width: float, size: float | str) -> str:
    """Return a text broken into lines of at most a width, at blanks where there are any, else within a word."""
    if text_width(text, size) <= width or not text:
        return text
    letter = text_width(text, size) / len(text)
    for letters in range(max(8, math.ceil(width / letter) + 2), 7, -1):
        broken = "\n".join(textwrap.wrap(text, letters))
        if text_width(broken, size) <= width:
            return broken
    return broken


def set_title(ax: Axes, text: str, width: float) -> None:
    """Set a panel's title at its left edge, in as many lines as it needs within a width."""
    ax.set_title(wrapped(text, width, matplotlib.rcParams["axes.titlesize"]), loc="left")


def set_xlabel(ax: Axes, text: str, width: float) -> None:
    """Set the label of the horizontal axis, in as many lines as it needs within a width."""
    ax.set_xlabel(wrapped(text, width, matplotlib.rcParams["axes.labelsize"]))


def legend_below(figure: Figure, handles: Sequence[Artist]) -> None:
    """Put a legend below the panels, in as many columns as fit, and let the figure grow by its height."""
    if not handles:
        return
    size = matplotlib.rcParams["legend.fontsize"]
    entry = widest((str(handle.get_label()) for handle in handles), size) + _HANDLE
    room = figure.get_figwidth() - 0.2
    columns = max(1, min(len(handles), int((room + _COLUMN_GAP) // (entry + _COLUMN_GAP))))
    if entry > room:
        figure.set_figwidth(entry + 0.2)
    rows = math.ceil(len(handles) / columns)
    figure.set_figheight(figure.get_figheight() + max(0, rows - 1) * 1.5 * points(size) / 72)
    figure.legend(handles=list(handles), loc="outside lower center", ncols=columns, frameon=False,
                  columnspacing=_COLUMN_GAP * 72 / points(size))  # fmt: skip


def method_styles(methods: Sequence[str], markers: bool = False) -> dict[str, dict[str, Any]]:
    """Return the style of every method's line: colour and stroke, and with `markers` a marker; no two are the same.

    Args:
        methods: in the order of the legend.
        markers: also give each a marker.
    """
    variants = itertools.cycle(itertools.product(STROKES, _COLOURS))
    styles = {}
    for i, (method, (stroke, colour)) in enumerate(zip(methods, variants, strict=False)):
        # The stroke also changes from one line to the next, so that neighbours differ in a grey print.
        turned = STROKES[(STROKES.index(stroke) + i) % len(STROKES)]
        styles[method] = {"color": colour, "ls": turned}
        if markers:
            styles[method]["marker"] = MARKERS[i % len(MARKERS)]
    return styles
