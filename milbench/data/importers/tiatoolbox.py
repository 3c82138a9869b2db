"""tiatoolbox: a folder of pairs {slide}.features.0.npy (N, D) and {slide}.position.npy (N, 4), corners of patches.

Pocock et al., TIAToolbox as an end-to-end library for advanced tissue image analytics, Communications Medicine 2022.
Positions are (left, top, right, bottom) at the resolution of the patches; left and top are kept, their unit is not
known. A model with several heads writes a file of features for each, of which one must be chosen.
"""

from __future__ import annotations

from pathlib import Path

from ...errors import MilbenchError
from ...formatting.text import count
from . import FileSlides, Slides, SourceSlide
from ._arrays import bag, coords_wanted
from ._listing import not_read
from ._marks import tiatoolbox_pairs
from ._read import npy_array
from ._rows import npy_rows

NAME = "tiatoolbox"


def detect(source: Path) -> str | None:
    """Recognise a folder by its pairs of features and positions."""
    pairs = tiatoolbox_pairs(source) if source.is_dir() else {}
    if not pairs:
        return None
    used = [path for paths in pairs.values() for path in paths] + [_position(paths[0]) for paths in pairs.values()]
    return f"TIAToolbox features in {source}: {count(len(pairs), 'slide')}{not_read(source, used)}"


def open_source(source: Path) -> Slides:
    """Open the slides.

    Raises:
        MilbenchError: there are none, or several files of features for one.
    """
    pairs = tiatoolbox_pairs(source)
    if not pairs:
        raise MilbenchError(
            f"{source} holds no pairs NAME.features.0.npy and NAME.position.npy; give their folder.",
            code="format-mismatch",
        )
    for slide, paths in pairs.items():
        if len(paths) > 1:
            named = " and ".join(path.name for path in paths[:2])
            raise MilbenchError(
                f"{source} holds {named} of slide {slide!r}, two heads of a model; keep one of them.",
                code="features-two-kinds",
            )

    def load(slide: str, path: Path) -> SourceSlide:
        where = _position(path)
        if coords_wanted() and not where.exists():
            raise MilbenchError(
                f"{path} has no {where.name} next to it; add it, or leave coordinates out with --no-coords (in a "
                "suite: coords = false).",
                code="coords-missing",
            )
        coords = npy_array(where, "iuf") if coords_wanted() else None
        x, xy = bag(path, npy_array(path, "f"), coords, where)
        return SourceSlide(slide, x, xy, {}, path)

    files = {slide: paths[0] for slide, paths in pairs.items()}
    return FileSlides(files, load, lambda _, path: [_position(path)], rows=npy_rows)


def _position(path: Path) -> Path:
    """Return the file of positions that belongs to one of features, whatever the case of its ending; there or not."""
    name = path.stem.rpartition(".features")[0]
    ends = (path.suffix, ".npy", ".NPY")
    places = [path.with_name(f"{name}.position{end}") for end in ends]
    return next((place for place in places if place.exists()), places[0])
