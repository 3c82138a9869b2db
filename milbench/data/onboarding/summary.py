"""The result of an inspection, in lines of text: for the terminal, and for the head of the suite that is written."""

from __future__ import annotations

import textwrap
from collections import Counter
from itertools import pairwise

import numpy as np

from ...formatting.text import count, size, some
from ..cache.layout import shard_bytes
from .inspection import Inspection
from .survey import Survey

#: width of the histogram's longest bar, and its number of bars
_BAR, _BARS = 40, 8


def lines(inspection: Inspection) -> list[str]:
    """Return the summary, from the features to the folds."""
    surveyed = inspection.survey
    mismatches = inspection.mismatches.lines() or ["every slide with features has a label, and the reverse"]
    return [
        f"source: {surveyed.description}",
        _features(surveyed),
        *(f"warning: {note}" for note in surveyed.notes),
        *_empty(surveyed),
        *_classes(inspection),
        *(f"note: {line}" for line in inspection.notes),
        *(f"left out: {line}" for line in mismatches if inspection.mismatches.lines()),
        *(mismatches if not inspection.mismatches.lines() else []),
        *_lengths(surveyed),
        _disk(surveyed),
        f"folds: {inspection.division.said}",
        *(
            [f"these folds cannot be run as they are: {inspection.division.problem}"]
            if inspection.division.problem
            else []
        ),
    ]


def wrapped(line: str, width: int = 110) -> list[str]:
    """Return a line in parts that are no longer than a width where words allow it; its indentation goes on."""
    indent = " " * (len(line) - len(line.lstrip()) + 2)
    return textwrap.wrap(line, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False) or [""]


def total_rows(inspection: Survey) -> int:
    """Return the patches of all slides; where some were not inspected, as many as the others have on average."""
    known = int(inspection.lengths.sum())
    return known if inspection.complete else round(known * len(inspection.ids) / len(inspection.rows))


def _features(surveyed: Survey) -> str:
    said = {"encoder": "encoder {}", "patch_size": "patches of {} pixels", "magnification": "at {:g}x"}
    facts = [text.format(surveyed.facts[key]) for key, text in said.items() if key in surveyed.facts]
    units = f" in {surveyed.facts['units']}" if "units" in surveyed.facts else ""
    coords = {True: f"coordinates{units}", False: "no coordinates", None: "coordinates of some slides only"}[
        surveyed.coords
    ]
    dtypes = " and ".join(surveyed.dtypes)
    return ", ".join([f"{count(len(surveyed.ids), 'slide')}, {surveyed.dim}-d {dtypes}", *facts, coords])


def _empty(surveyed: Survey) -> list[str]:
    empty = list(surveyed.empty)
    return [f"left out: {count(len(empty), 'slide')} without patches: {some(empty)}"] if empty else []


def _classes(inspection: Inspection) -> list[str]:
    labels = inspection.labels
    slides = Counter(labels.labels[slide] for slide in labels.slides)
    patients = Counter(
        label for _, label in {(labels.patients[slide], labels.labels[slide]) for slide in labels.slides}
    )
    several = len({labels.patients[slide] for slide in labels.slides})
    column = f", column {inspection.rows.label!r}" if inspection.rows is not None else ", brought along"
    width = max(len(repr(name)) for name in labels.classes)
    mixed = sum(patients.values()) - several
    return [
        f"labels{column}: {count(len(labels.slides), 'slide')} of {count(several, 'patient')} take part",
        *(
            f"  class {i}  {name!r:<{width}}  {count(slides[i], 'slide'):>12}  {count(patients[i], 'patient'):>13}"
            + (f"  ({slides[i] / len(labels.slides):.0%} of slides)")
            for i, name in enumerate(labels.classes)
        ),
        *([f"  {count(mixed, 'patient')} counted twice, having slides of several classes"] if mixed else []),
    ]


def _lengths(surveyed: Survey) -> list[str]:
    n = surveyed.lengths
    low, quarter, median, three, high = (
        int(np.quantile(n, q, method="nearest")) for q in (0.05, 0.25, 0.5, 0.75, 0.95)
    )
    whose = "" if surveyed.complete else f" (of {len(surveyed.rows)} slides that were inspected; others may have none)"
    return [
        f"patches a slide: {n[0]:,} to {n[-1]:,}, median {median:,}, half of them {quarter:,} to {three:,}, "
        f"nine in ten {low:,} to {high:,}{whose}",
        *(f"  {line}" for line in histogram(n)),
    ]


def histogram(values: np.ndarray) -> list[str]:
    """Draw positive integers as a histogram in text; where they span more than a factor of 20, in logarithmic steps."""
    low, high = int(values.min()), int(values.max()) + 1
    bars = min(_BARS, high - low)
    spaced = np.geomspace(low, high, bars + 1) if high > 20 * low else np.linspace(low, high, bars + 1)
    edges = np.unique(spaced.round().astype(np.int64))
    counts, _ = np.histogram(values, edges)
    named = [f"{a:,} to {b - 1:,}" if b - 1 > a else f"{a:,}" for a, b in pairwise(edges.tolist())]
    width = max(map(len, named))
    longest = max(int(counts.max()), 1)
    return [
        f"{name:>{width}}  {'#' * -(-int(number) * _BAR // longest)} {number}"
        for name, number in zip(named, counts, strict=True)
    ]


def _disk(surveyed: Survey) -> str:
    rows = total_rows(surveyed)
    coords = None if not surveyed.coords else "float32" if surveyed.facts.get("units") == "micrometres" else "int64"
    sizes = {name: size(shard_bytes(rows, surveyed.dim, name, coords)) for name in ("float16", "float32")}
    about = "" if surveyed.complete else "about "
    return f"a cache of them: {about}{sizes['float32']} as float32, {about}{sizes['float16']} as float16"
