"""planted-slides: slides as a cohort has them, with tissue, foci, patients and sites, and the truth of every patch.

Made for milbench (no paper). It has the shape of a whole-slide cohort without being one: its features come from no
encoder and no tissue, so it tells whether a method, an attention map or a pipeline finds what was put there, at sizes
up to 100,000 patches a slide and beyond, and nothing about medicine.

- A slide is a canvas of patches, ``tissue`` of it covered, in pieces; its number of patches is log-normal around
  ``patches``. Rows are stored row-major, with coordinates in level-0 pixels.
- Tissue has ``types``, each with features of its own, in regions of about ``smoothness`` patches: smoothed noise, one
  field a type, the largest wins.
- A tumour lies in foci of ``focus`` patches, the nearest around a centre, and takes ``share`` of the tissue. Its
  patches have the features of the tissue they lie in, moved by ``shift`` in a direction of the tumour's own.
- A patient has 1 to ``max_slides`` slides of one class, and features moved by ``patient_shift``; each belongs to one of
  ``sites``, which moves and stretches every feature (``site_shift``, ``site_scale``), as stains and scanners do.
- ``task`` says what the classes are. ``presence``: tumour or none. ``proportion``: all slides hold tumour, in the
  negative class a third of ``share``. ``co-occurrence``: all slides hold ``share`` of tumour, in the positive class
  half of it of each of two tumours, in the negative class all of one of them: neither tumour alone tells the class.
- ``label_noise`` of the slides of training and validation have the other label. Test labels are the truth.

Slides are made and written one by one, each from streams of its own name, so that memory holds one slide's features at
a time, and a few bytes of truth for every patch of the cohort.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from pydantic import Field
from scipy.ndimage import gaussian_filter
from scipy.spatial import KDTree

from ...config import Frozen
from ..cache.writer import CacheWriter
from ..fold import Fold
from . import Built
from ._draw import balanced, instance_rows, stream

VERSION = 2
#: Side of a patch in level-0 pixels.
PATCH = 256
#: Share of the tumour that a negative slide has under task ``proportion``.
_LESS = 1 / 3
_CLASSES = {
    "presence": ("no tumour", "tumour"), "proportion": ("little tumour", "much tumour"),
    "co-occurrence": ("one tumour", "both tumours"),
}  # fmt: skip
#: Rows whose means are added at once: the sum needs no second copy of a slide.
_CHUNK = 4096


class Params(Frozen):
    """Parameters.

    Attributes:
        task: what tells the classes apart.
        patches: median number of patches of a slide.
        spread: standard deviation of the logarithm of that number.
        dim: width of the features; noise of every patch has standard deviation 1 in each.
        tissue: share of the canvas that is covered.
        types: kinds of tissue.
        smoothness: standard deviation of the filter that makes their regions, in patches.
        focus: patches of a tumour focus (the last one of a slide may be smaller).
        share: of the tissue that is tumour.
        shift: distance of a tumour patch from its tissue's mean, in standard deviations of the noise.
        max_slides: most slides of a patient.
        sites: number of sites.
        site_shift, site_scale: standard deviations of a site's offset and of the logarithm of its factor, a feature.
        patient_shift: standard deviation of a patient's offset, a feature.
        label_noise: share of wrong labels in training and validation.
        train, val, test: numbers of patients.
        seed: of everything drawn.
    """

    task: Literal["presence", "proportion", "co-occurrence"] = "presence"
    patches: int = Field(400, ge=16)
    spread: float = Field(0.3, ge=0, le=2)
    dim: int = Field(32, ge=2)
    tissue: float = Field(0.4, gt=0, le=1)
    types: int = Field(5, ge=1)
    smoothness: float = Field(4.0, gt=0)
    focus: int = Field(12, ge=1)
    share: float = Field(0.08, gt=0, le=1)
    shift: float = Field(4.0, ge=0)
    max_slides: int = Field(3, ge=1)
    sites: int = Field(3, ge=1)
    site_shift: float = Field(0.3, ge=0)
    site_scale: float = Field(0.1, ge=0)
    patient_shift: float = Field(0.1, ge=0)
    label_noise: float = Field(0.0, ge=0, lt=0.5)
    train: int = Field(120, ge=4)
    val: int = Field(40, ge=4)
    test: int = Field(120, ge=4)
    seed: int = Field(0, ge=0)


class Slide(NamedTuple):
    """One slide and its truth, rows in storage order.

    Attributes:
        x: (n, dim) float32 features.
        cells: (n, 2) column and row on the canvas.
        tissue: (n,) kind of tissue.
        focus: (n,) number of the focus, from 1; 0 where there is no tumour.
        tumour: (n,) which tumour, 1 or 2; 0 where there is none.
    """

    x: np.ndarray
    cells: np.ndarray
    tissue: np.ndarray
    focus: np.ndarray
    tumour: np.ndarray


def build(writer: CacheWriter, params: Params) -> Built:
    """Make the slides one by one and write each before the next is made."""
    writer.meta.update(encoder="none, planted", patch_size=PATCH, units="level-0 pixels")
    parts: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    labels, patients, bags, truth = {}, {}, [], []
    for name, patient, part, site, positive in cohort(params):
        slide = make_slide(params, name, patient, site, positive)
        writer.add(name, slide.x, slide.cells * PATCH, coord_step=PATCH)
        wrong = part != "test" and stream(params.seed, name, "label").random() < params.label_noise
        labels[name], patients[name] = int(positive != wrong), patient
        parts[part].append(name)
        bags.append((name, site, int(positive), int((slide.tumour > 0).sum()), int(slide.focus.max())))
        truth.append(slide._replace(x=np.empty(0), cells=np.empty(0)))
    instances = instance_rows(list(labels), np.array([len(slide.tumour) for slide in truth]))
    for column in ("tumour", "focus", "tissue"):
        instances[column] = np.concatenate([getattr(slide, column) for slide in truth])
    instances.insert(2, "label", (instances["tumour"] > 0).astype(np.int8))
    known = pd.DataFrame(bags, columns=["slide_id", "site", "truth", "tumour_patches", "foci"])
    fold = Fold("fold0", *(tuple(ids) for ids in parts.values()))
    return Built(labels, _CLASSES[params.task], fold, instances, known, patients)


def cohort(params: Params) -> Iterator[tuple[str, str, str, int, bool]]:
    """Yield slide, patient, part, site and class of every slide."""
    for part in ("train", "val", "test"):
        count = getattr(params, part)
        positive = balanced(count, stream(params.seed, part, "classes"))
        sites = stream(params.seed, part, "sites").integers(params.sites, size=count)
        slides = stream(params.seed, part, "slides").integers(1, params.max_slides + 1, size=count)
        for i in range(count):
            patient = f"{part}-{i:04d}"
            for j in range(slides[i]):
                yield f"{patient}-{j}", patient, part, int(sites[i]), bool(positive[i])


def make_slide(params: Params, name: str, patient: str, site: int, positive: bool) -> Slide:
    """Make one slide, from streams that bear its name, its patient's and its site's."""

    def generator(purpose: str) -> np.random.Generator:
        return stream(params.seed, name, purpose)

    size = generator("size").lognormal(math.log(params.patches), params.spread)
    cells, side = draw_tissue(max(16, round(size)), params.tissue, generator("tissue"))
    tissue = draw_types(cells, side, params, generator("types"))
    focus, tumour = draw_tumours(cells, params, positive, generator("tumour"))
    x = generator("noise").standard_normal((len(cells), params.dim), dtype=np.float32)
    means, factor = _means(params, patient, site)
    x *= factor
    code = tissue.astype(np.intp) * 3 + tumour
    for start in range(0, len(x), _CHUNK):
        x[start : start + _CHUNK] += means[code[start : start + _CHUNK]]
    return Slide(x, cells, tissue, focus, tumour)


def draw_tissue(n: int, share: float, rng: np.random.Generator) -> tuple[np.ndarray, int]:
    """Draw the cells that are tissue: the n highest of a smooth field that falls off towards the canvas's edge.

    Returns:
        (n, 2) column and row, in row-major order, and the side of the canvas.
    """
    side = math.ceil(math.sqrt(n / share))
    field = gaussian_filter(rng.standard_normal((side, side)), sigma=side / 8, mode="nearest")
    away = np.abs(np.linspace(-1, 1, side)) ** 4  # 0 in the middle, 1 at the edge
    field = field / field.std() - 2 * np.maximum(away, away[:, None])
    taken = np.sort(np.argpartition(field.ravel(), -n)[-n:])
    row, column = np.divmod(taken, side)
    return np.stack([column, row], axis=1), side


def draw_types(cells: np.ndarray, side: int, params: Params, rng: np.random.Generator) -> np.ndarray:
    """Draw the kind of tissue of every cell: (n,) int8, smooth over the canvas."""
    highest = np.full(len(cells), -np.inf)
    kind = np.zeros(len(cells), dtype=np.int8)
    for i in range(params.types):  # one field at a time
        noise = rng.standard_normal((side, side), dtype=np.float32)
        field = gaussian_filter(noise, params.smoothness, mode="nearest")[cells[:, 1], cells[:, 0]]
        kind[field > highest] = i
        np.maximum(highest, field, out=highest)
    return kind


def draw_tumours(
    cells: np.ndarray, params: Params, positive: bool, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draw the foci of a slide.

    Returns:
        (n,) int32 numbers of foci, from 1, and (n,) int8 the tumour, 1 or 2; both 0 where there is none.
    """
    # However small a slide: more tumour is more, and two tumours are two.
    less = max(1, round(params.share * _LESS * len(cells)))
    full = max(1 if params.task == "presence" else less + 1, round(params.share * len(cells)))
    amounts = [full, 0]
    if params.task == "presence" and not positive:
        amounts = [0, 0]
    elif params.task == "proportion" and not positive:
        amounts = [less, 0]
    elif params.task == "co-occurrence":
        half = max(1, full // 2)
        # Which of the two a negative slide has is a coin: neither says anything.
        amounts = [full - half, half] if positive else [full, 0][:: int(rng.choice([1, -1]))]
    focus, tumour = np.zeros(len(cells), dtype=np.int32), np.zeros(len(cells), dtype=np.int8)
    for which, amount in enumerate(amounts, start=1):
        plant(cells, focus, amount, params.focus, rng)
        tumour[(focus > 0) & (tumour == 0)] = which
    return focus, tumour


def plant(cells: np.ndarray, focus: np.ndarray, amount: int, size: int, rng: np.random.Generator) -> None:
    """Add foci of `size` nearest cells around random centres to `focus`, until `amount` free cells have been taken."""
    if amount == 0:
        return
    tree, left, number = KDTree(cells), amount, int(focus.max())
    for centre in rng.permutation(len(cells)):
        if focus[centre]:
            continue
        near = np.atleast_1d(tree.query(cells[centre], k=min(size, len(cells)))[1])
        free = near[focus[near] == 0][:left]
        number += 1
        focus[free] = number
        left -= len(free)
        if left == 0:
            return


def _means(params: Params, patient: str, site: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the means of tissue x (none, tumour 1, tumour 2) as (types * 3, dim), and the site's factors (dim,)."""
    tissue = stream(params.seed, "types").standard_normal((params.types, 1, params.dim))
    directions = np.linalg.qr(stream(params.seed, "tumours").standard_normal((params.dim, 2)))[0].T
    moved = np.concatenate([np.zeros((1, params.dim)), params.shift * directions])
    offset = params.patient_shift * stream(params.seed, patient, "patient").standard_normal(params.dim)
    of_site = stream(params.seed, "site", str(site))
    factor = np.exp(params.site_scale * of_site.standard_normal(params.dim))
    added = params.site_shift * of_site.standard_normal(params.dim)
    means = (tissue + moved + offset).reshape(-1, params.dim) * factor + added
    return means.astype(np.float32), factor.astype(np.float32)
