"""Features that give an answer away: slides that are the same under two names, and columns that are the label.

All slides are read once, 64 evenly spaced rows of each. The sketch of a slide that is kept of them:

- the smallest, largest and mean value of every column: a column that is the label shows in them;
- eight of the rows, thrown into 32 dimensions by one random matrix, which keeps distances to within some per cent
  (Johnson and Lindenstrauss 1984): two extractions of one slide agree in every row, but for rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from numpy.typing import NDArray

from ...formatting.text import count, some
from ..cache.encoders import encoder_groups, kinds_are_classes
from ..cache.reader import FeatureCache
from .findings import Finding
from .loaded_cohort import Subject

#: rows of a slide that are read, and those of them that are compared with other slides
ROWS, COMPARED = 64, 8
_WIDTH = 32
#: Two slides are nearly the same when the mean squared distance of their rows is below this share of that of
#: unrelated rows. Rounding and another graphics card change far less; rows at one position of two slides are unrelated.
SIMILAR = 0.01
#: A column is almost the label when it alone puts 99 of 100 pairs of slides in order. Whole models get there at best,
#: so it deserves a check; but on an easy task a good encoder may have such a column, so that it is no error.
ALMOST = 0.99
#: ... and when among columns without any information the best would be so good once in a hundred cohorts at most.
FALSE_ALARM_RATE = 0.01
_BLOCK = 1024
#: rows of a slide below which its statistics say nothing of its encoder
_ROWS_ENOUGH = 5

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Sketch:
    """Statistics kept of n slides with d columns.

    Attributes:
        rows: (n,) numbers of rows.
        low, high, mean: (n, d) over the rows read.
        spread: (n, d) standard deviation over the rows read.
        two: (d,) whether every slide has at most two values in the column.
        thrown: n arrays (rows compared, 32).
    """

    rows: NDArray[np.int64]
    low: Array
    high: Array
    mean: Array
    spread: Array
    two: NDArray[np.bool_]
    thrown: list[Array]


def sketch(cache: FeatureCache, slides: Sequence[str]) -> Sketch:
    """Read the slides once."""
    n, d = len(slides), cache.dim
    low, high, mean, spread = (np.empty((n, d), dtype=np.float32) for _ in range(4))
    two = np.ones(d, dtype=bool)
    matrix = np.random.default_rng(0).standard_normal((d, _WIDTH)).astype(np.float32)
    rows, thrown = np.empty(n, dtype=np.int64), []
    for i, slide in enumerate(slides):
        x = cache[slide]
        rows[i] = len(x)
        if len(x) > ROWS:
            x = x[torch.from_numpy(_spaced(len(x), ROWS))]
        values = x.float().numpy()
        values.min(0, out=low[i])
        values.max(0, out=high[i])
        values.mean(0, out=mean[i])
        values.std(0, out=spread[i])
        if two.any():
            two &= ((values == low[i]) | (values == high[i])).all(0)
        thrown.append(values[_spaced(len(values), COMPARED)] @ matrix)
    return Sketch(rows, low, high, mean, spread, two, thrown)


def identical_findings(subject: Subject) -> list[Finding]:
    """List slides with the same features under different names: in two parts of a fold, or else where they are.

    The checksums of the cache tell, so nothing is read.
    """
    groups = _by_checksum(subject)
    findings, crossed = [], set()
    for fold in subject.folds:
        parts = {part: set(ids) for part, ids in fold.parts.items()} if groups else {}
        across = [there for group in groups if (there := _across(parts, group))]
        crossed |= {slide for group in across for slide in group}
        if across:
            who = f"{_grouped(across)} with identical features in two parts"
            findings.append(_listed("features-overlap", subject.name, who, across, "keep one of each", fold.name))
    rest = [group for group in groups if not crossed & set(group)]
    if rest:
        who = f"{_grouped(rest)} with identical features"
        findings.append(_listed("identical-features", subject.name, who, rest, "keep one of each"))
    return findings


def similar_findings(subject: Subject, of: Sketch) -> list[Finding]:
    """List slides whose features are nearly the same, row by row, and not identical.

    Slides with as many rows as each other are compared. A copy with its rows in another order is not detected, nor one
    that was divided into patches differently.
    """
    sums = subject.cache.checksums
    first = {sums[slide]: i for i, slide in reversed(list(enumerate(subject.slides)))}  # one of each identical
    some_rows = np.array(sorted(first.values()), dtype=np.int64)
    groups = [[subject.slides[i] for i in group] for group in _close(of, some_rows)]
    if not groups:
        return []
    who = f"{_grouped(groups)} with nearly identical features"
    return [_listed("similar-features", subject.name, who, groups, "keep one of each if they are one slide")]


def label_column_findings(subject: Subject, of: Sketch) -> list[Finding]:
    """List columns that are the label, for every instance or as the largest or smallest one of a slide, or almost."""
    y = np.array([subject.labels.strata[slide] for slide in subject.slides])
    exact = _exact(subject, of, y)
    known = _column_names(subject)
    findings = [
        Finding.of(
            "label-column",
            subject.name,
            f"column {known(j)} of the features is the label: {how}; remove it",
            [known(j).strip("'")],
        )
        for j, how in exact.items()
    ]
    almost = {j: auc for j, auc in _almost(of.mean, y).items() if j not in exact}
    if almost:
        best = max(almost, key=lambda j: almost[j])
        names = [known(j).strip("'") for j in sorted(almost)]
        who = f"{count(len(names), 'column')} of the features, averaged over a slide: {some(names)}"
        text = (
            f"almost the label is in {who} (AUC {almost[best]:.3f} of {known(best)}); make sure it was not made from it"
        )
        findings.append(Finding.of("almost-label-column", subject.name, text, names))
    return findings


def _column_names(subject: Subject) -> Callable[[int], str]:
    """Return what names a column: its name in the table the features are from, in quotes, else its number."""
    names = subject.cache.meta.get("feature_names")
    known = isinstance(names, list) and len(names) == subject.cache.dim
    return lambda j: repr(str(names[j])) if known and names is not None else str(j)


def encoder_findings(subject: Subject, of: Sketch) -> list[Finding]:
    """Say that features are of two kinds, as those of two encoders are; bags of few patches are not compared.

    Where the two kinds are two classes it is a warning: an easy task and one encoder a class both show this.
    Built-in bags are made of features of one kind, whatever their statistics.
    """
    enough = np.flatnonzero(of.rows >= _ROWS_ENOUGH)
    if subject.spec.dataset is not None or len(enough) * 2 < len(of.rows):
        return []
    groups = encoder_groups(of.mean[enough], of.spread[enough])
    if groups is None:
        return []
    slides = [subject.slides[i] for i in enough]
    y = np.array([subject.labels.strata[slide] for slide in slides])
    second = [slide for slide, other in zip(slides, groups.second, strict=True) if other]
    first = [slide for slide, other in zip(slides, groups.second, strict=True) if not other]
    classes = kinds_are_classes(y[~groups.second].tolist(), y[groups.second].tolist())
    text = (
        f"features are of two kinds, as of two encoders: {groups.how}, between {count(len(first), 'slide')} "
        f"({some(first, 3)}) and {count(len(second), 'slide')} ({some(second, 3)}); extract all with one encoder"
    )
    sure = not classes and len(second) * 10 >= len(slides)
    return [Finding.of("two-encoders" if sure else "two-kinds-of-features", subject.name, text, sorted(second))]


def _spaced(n: int, most: int) -> NDArray[np.int64]:
    return np.unique(np.linspace(0, n - 1, min(n, most)).round().astype(np.int64))


def _by_checksum(subject: Subject) -> list[list[str]]:
    groups: dict[str, list[str]] = {}
    sums = subject.cache.checksums
    for slide in sorted(subject.slides):
        groups.setdefault(sums[slide], []).append(slide)
    return [group for group in groups.values() if len(group) > 1]


def _across(parts: Mapping[str, set[str]], group: Sequence[str]) -> list[str]:
    """Return those of a group that are in a fold, where they are several and in more than one part of it."""
    there = [slide for slide in group if any(slide in ids for ids in parts.values())]
    taken = [part for part, ids in parts.items() if not ids.isdisjoint(there)]
    return there if len(there) > 1 and len(taken) > 1 else []


def _grouped(groups: Sequence[Sequence[str]]) -> str:
    return count(sum(map(len, groups)), "slide") + (f" in {len(groups)} groups" if len(groups) > 1 else "")


def _listed(
    code: str, cohort: str, who: str, groups: Sequence[Sequence[str]], advice: str, fold: str | None = None
) -> Finding:
    shown = "; ".join(some(list(group)) for group in groups[:3]) + (" ..." if len(groups) > 3 else "")
    return Finding.of(code, cohort, f"{who}: {shown}; {advice}", sorted(s for group in groups for s in group), fold)


def _close(of: Sketch, slides: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Return groups of slides that are nearly the same."""
    every = np.concatenate([of.thrown[i] for i in slides]).astype(np.float64)
    center = np.median(every, 0)  # medians: one slide far away from all others must not make these seem similar
    spread = float(np.median(((every - center) ** 2).sum(1)))
    if spread == 0:
        return []
    groups: list[NDArray[np.int64]] = []
    for rows in np.unique(of.rows[slides]):
        members = slides[of.rows[slides] == rows]
        points = np.stack([(of.thrown[i] - center).ravel() for i in members])
        limit = SIMILAR * 2 * spread * len(of.thrown[members[0]])  # unrelated rows are 2 spreads apart
        pairs = np.array(list(_pairs_within(points, limit)), dtype=np.int64).reshape(-1, 2)
        if len(pairs):
            from scipy.sparse import coo_matrix, csgraph

            graph = coo_matrix((np.ones(len(pairs)), pairs.T), shape=(len(members), len(members)))
            _, which = csgraph.connected_components(graph, directed=False)
            sizes = np.bincount(which)
            groups += [members[which == i] for i in np.flatnonzero(sizes > 1)]
    return groups


def _pairs_within(points: NDArray[np.float64], limit: float) -> Iterator[tuple[int, int]]:
    """Yield pairs i < j of points (n, w) whose squared distance is below a limit."""
    norms = (points**2).sum(1)
    for start in range(0, len(points), _BLOCK):
        block = slice(start, start + _BLOCK)
        distance = norms[block, None] + norms - 2 * points[block] @ points.T
        for i, j in zip(*np.nonzero(distance < limit), strict=True):
            if start + i < j:
                yield start + int(i), int(j)


def _exact(subject: Subject, of: Sketch, y: NDArray[np.int64]) -> dict[int, str]:
    """Return column -> how it tells the label, of the columns that are the label.

    Such a column has no more values than there are classes, and one value alone in some class: no instance of a
    negative bag is positive. Few columns are so, and none of an encoder's; these are read whole, as a positive
    instance may be rare.
    """
    classes = subject.labels.classes
    varied = of.low.min(0) < of.high.max(0)
    exact = {}
    columns = [int(j) for j in np.flatnonzero(of.two & varied) if _plausible(of, int(j), y, len(classes))]
    if not columns:
        return {}
    low, high = _whole(subject, of, columns)
    # Probability that one of as many columns without information would match: it is 1 / (ways to hand out the labels).
    ways = math.lgamma(len(y) + 1) - sum(math.lgamma(n + 1) for n in np.bincount(y))
    if math.log(len(columns)) - ways > math.log(FALSE_ALARM_RATE):
        return {}
    for k, j in enumerate(columns):
        for word, extreme in (("largest", high[:, k]), ("smallest", low[:, k])):
            values = [np.unique(extreme[y == c]) for c in range(len(classes))]
            if all(len(v) == 1 for v in values) and len({float(v[0]) for v in values}) == len(classes):
                values_text = ", ".join(f"{v[0]:g} for {name}" for v, name in zip(values, classes, strict=True))
                always = "every instance has" if (low[:, k] == high[:, k]).all() else f"the {word} value of a slide is"
                exact[j] = f"{always} {values_text}"
                break
    return exact


def _plausible(of: Sketch, j: int, y: NDArray[np.int64], classes: int) -> bool:
    low, high = of.low[:, j], of.high[:, j]
    if len(np.unique([low, high])) > classes:
        return False
    ends = np.stack([low, high], 1)
    return any(len(np.unique(ends[y == c])) == 1 for c in range(classes))


def _whole(subject: Subject, of: Sketch, columns: list[int]) -> tuple[Array, Array]:
    """Return (n, columns) smallest and largest values over all rows."""
    low, high = of.low[:, columns].copy(), of.high[:, columns].copy()
    for i in np.flatnonzero(of.rows > ROWS):
        values = subject.cache[subject.slides[i]][:, columns].float().numpy()
        low[i], high[i] = values.min(0), values.max(0)
    return low, high


def _almost(means: Array, y: NDArray[np.int64]) -> dict[int, float]:
    """Return column -> AUC of the columns (n, d) whose means almost are the label.

    The AUC is the mean over pairs of classes of the AUC between them, in either direction (Hand and Till 2001), so that
    a column of class numbers has 1, whatever their order; with two classes it is the usual one. The
    significance is that of Kruskal and Wallis' test, with Bonferroni's correction for the number of columns.
    """
    from scipy.special import chdtrc
    from scipy.stats import rankdata

    n, d = means.shape
    present = np.unique(y)
    if len(present) < 2:
        return {}
    aucs = []
    for a, b in combinations(present, 2):
        both = (y == a) | (y == b)
        ranks = rankdata(means[both], axis=0)
        is_b = y[both] == b
        na, nb = int((~is_b).sum()), int(is_b.sum())
        auc = (ranks[is_b].sum(0) - nb * (nb + 1) / 2) / (na * nb)
        aucs.append(np.maximum(auc, 1 - auc))
    auc = np.mean(aucs, 0)
    ranks = rankdata(means, axis=0)
    between = sum((y == c).sum() * (ranks[y == c].mean(0) - (n + 1) / 2) ** 2 for c in present)
    p = chdtrc(len(present) - 1, 12 / (n * (n + 1)) * between)
    return {int(j): float(auc[j]) for j in np.flatnonzero((auc >= ALMOST) & (p * d < FALSE_ALARM_RATE))}
