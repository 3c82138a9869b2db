"""Which column of a table of patches is what, by its name and by its values."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ...formatting.text import count, some

#: what a column holds; ``list``: numbers, as many in every row
Kind = Literal["number", "list", "text", "other"]

#: names in small letters, the likeliest first
_SLIDES = ("slide_id", "slideid", "slide", "slide_name", "wsi_id", "wsi", "bag_id", "bagid", "bag", "bag_name",
           "image_id", "filename", "file_name")  # fmt: skip
_PATIENTS = ("patient_id", "patientid", "patient", "case_id", "caseid", "case", "case_submitter_id", "subject_id")
_LABELS = ("label", "slide_label", "bag_label", "target", "class", "y")
_PAIRS = (("x", "y"), ("coord_x", "coord_y"), ("coords_x", "coords_y"), ("x_coord", "y_coord"), ("xcoord", "ycoord"),
          ("pos_x", "pos_y"), ("tile_x", "tile_y"), ("patch_x", "patch_y"), ("loc_x", "loc_y"), ("x_pos", "y_pos"),
          ("x_start", "y_start"), ("x0", "y0"))  # fmt: skip
_COORD_LISTS = ("coords", "coord", "coordinates", "position", "positions", "xy")
_FEATURE_LISTS = ("features", "feature", "feats", "embedding", "embeddings", "vector")
#: numbers that count or describe patches, and labels of patches, which no model must see among its features
_NO_FEATURES = re.compile(
    r"|index|unnamed: ?\d+|level_\d+|__index_level_\d+__|row|row_id|split|fold|fold_?\d+"
    r"|age|sex|gender|(t|n|m|ajcc_?|who_?|tumou?r_?)?(stage|grade)|isup(_?grade)?|gleason(_?(score|grade|primary|secondary))?"
    r"|scanner|site|center|centre|hospital|batch|os|pfs|dfs|dss|(os|pfs|dfs|dss|survival)_?(time|days|months|event|status)"
    r"|censor(ed|ship)?|vital_?status|(patch|tile|instance|inst)(_?(id|idx|index|no|nr|number|name|label|size|level))?|level|mpp|magnification"
)


@dataclass(frozen=True)
class Columns:
    """Columns of a table of patches, one row a patch.

    Attributes:
        slide: ids of slides; None where the table is one slide.
        features: columns of numbers in the order of the table, or one column of lists.
        coords: columns (x, y), or one column of lists; empty where there are no positions.
        patient, label: of the slide; None where there is none.
        left_out: all others.
        apart: of them those that are numbers, and stand apart from the numbered run that the features are.
    """

    slide: str | None
    features: tuple[str, ...]
    coords: tuple[str, ...] = ()
    patient: str | None = None
    label: str | None = None
    left_out: tuple[str, ...] = ()
    apart: tuple[str, ...] = ()

    @property
    def texts(self) -> tuple[str, ...]:
        """The columns that say something of slides."""
        return tuple(name for name in (self.slide, self.patient, self.label) if name is not None)

    def __str__(self) -> str:
        first, last = self.features[0], self.features[-1]
        spread = repr(first) if len(self.features) == 1 else f"{first!r} to {last!r}"
        said = [f"slides in {self.slide!r}"] if self.slide is not None else []
        said.append(f"{count(len(self.features), 'feature column')} ({spread})")
        if self.coords:
            said.append(f"coordinates in {some(list(self.coords))}")
        said += [f"{what} in {name!r}" for what, name in (("patients", self.patient), ("labels", self.label)) if name]
        others = [name for name in self.left_out if name not in self.apart]
        clauses = [", ".join(said), *([f"left out {some(others)}"] if others else [])]
        if self.apart:
            clauses.append(
                f"no features, as they are no part of the numbered columns: {some(list(self.apart), 20)} (a column is "
                f"one where its name continues theirs)"
            )
        return "; ".join(clauses)


def recognise(kinds: Mapping[str, Kind]) -> Columns | None:
    """Tell the columns of a table of patches.

    Features are the column of lists, or else all columns of numbers that are nothing else by their names.

    Args:
        kinds: column -> what it holds, in the order of the table.

    Returns:
        None where nothing may be features.
    """
    lists = [name for name, kind in kinds.items() if kind == "list"]
    numbers = [name for name, kind in kinds.items() if kind == "number"]
    places = [name for name in lists if _small(name) in _COORD_LISTS]
    pairs = [pair for pair in (_pair(numbers, names) for names in _PAIRS) if pair]
    coords = tuple(places[:1]) or next(iter(pairs), ())
    known = {name for pair in pairs for name in pair} | set(places)
    rest = [name for name, kind in kinds.items() if kind != "list" and name not in known]
    slide, patient, label = (_first(rest, names) for names in (_SLIDES, _PATIENTS, _LABELS))
    known |= {name for name in (slide, patient, label) if name is not None}
    vectors = [name for name in lists if name not in known]
    chosen = _first(vectors, _FEATURE_LISTS) or (vectors[0] if len(vectors) == 1 else None)
    scalars = [name for name in numbers if name not in known and not _NO_FEATURES.fullmatch(_small(name))]
    runs = _runs(scalars) if chosen is None else scalars
    features = (chosen,) if chosen is not None else tuple(runs)
    if not features:
        return None
    used = {*features, *coords, slide, patient, label}
    apart = tuple(name for name in scalars if name not in runs)
    return Columns(slide, features, coords, patient, label, tuple(name for name in kinds if name not in used), apart)


def _runs(names: Sequence[str]) -> list[str]:
    """Return the columns whose names differ in a number alone, where most columns do, in the order of the table.

    What stands apart from them is the clinical columns of a slide, repeated for each of its patches: age, grade, site.
    """
    stems = {name: _numbered(name) for name in names}
    sizes = Counter(stem for stem in stems.values() if stem is not None)
    run = {stem for stem, size in sizes.items() if size >= 3}
    inside = [name for name in names if stems[name] in run]
    return inside if len(inside) * 2 > len(names) else list(names)


def _numbered(name: str) -> str | None:
    match = re.fullmatch(r"(.*?)(\d+)", _small(name))
    return None if match is None else match[1]


def _small(name: str) -> str:
    return name.strip().lower()


def _first(among: Sequence[str], names: Sequence[str]) -> str | None:
    return next((column for name in names for column in among if _small(column) == name), None)


def _pair(numbers: Sequence[str], names: tuple[str, str]) -> tuple[str, ...]:
    x, y = (_first(numbers, (name,)) for name in names)
    return (x, y) if x is not None and y is not None else ()
