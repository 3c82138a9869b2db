"""Whether the features of a cohort are of two encoders, by their statistics.

An encoder gives every feature a usual value and a usual spread, which its slides share: they differ between slides by
less than the spread within a slide. Slides of another encoder of the same width have others in most features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import MilbenchError
from ...formatting.text import count, some

#: what to do about them, with the option of the commands
GO_ON = "extract all with one encoder, or go on with --allow-two-encoders if one made them all"
#: Two groups are of two encoders where most features differ between them by this many spreads within a slide, or in
#: their spread by this factor, and the groups lie this many times farther apart than their members.
SHIFT, FACTOR, APART = 1.5, 2.0, 3.0
#: Less is enough where also the pattern over features differs: which of them are large, and which vary. A scanner or a
#: site moves or scales features of one encoder and leaves the pattern. Of 300 simulated pairs of sites (a scale of 1.5,
#: gains of 20 %, offsets of up to two spreads in 40 % of 64 to 512 features) none was taken for two encoders, of 60
#: pairs of encoders 42 were: those whose usual values differ by half a spread or more.
LEAST_SHIFT, LEAST_FACTOR, SHARED, PATTERN = 0.25, 1.1, 0.5, 64
#: share of slides from which on two kinds are two classes
_CLASS = 0.9
#: fewer slides in a group, or fewer features, say nothing
_SLIDES, _FEATURES = 3, 4


@dataclass(frozen=True)
class Groups:
    """Slides of two kinds.

    Attributes:
        second: (n,) whether a slide is of the second, smaller group.
        how: in which way they differ.
    """

    second: NDArray[np.bool_]
    how: str


@dataclass(frozen=True)
class TwoKinds:
    """Slides whose features are of two kinds.

    Attributes:
        how: in which way they differ.
        first, second: the slides, of the larger and of the smaller group.
    """

    how: str
    first: tuple[str, ...]
    second: tuple[str, ...]

    @property
    def sure(self) -> bool:
        """Whether the smaller group is a tenth or more: fewer may be slides that are odd for another reason."""
        return len(self.second) * 10 >= len(self.first) + len(self.second)

    def __str__(self) -> str:
        return (
            f"features of two kinds, as of two encoders: {self.how}, between {count(len(self.first), 'slide')} "
            f"({some(list(self.first), 3)}) and {count(len(self.second), 'slide')} ({some(list(self.second), 3)})"
        )

    def refuse(self, source: object) -> None:
        """Refuse them.

        Raises:
            MilbenchError: always.
        """
        raise MilbenchError(f"{source} holds {self}; {GO_ON}.", code="features-two-kinds")


def two_kinds(slides: Sequence[str], mean: Sequence[Any], spread: Sequence[Any]) -> TwoKinds | None:
    """Name the slides of `encoder_groups`; see there for the statistics."""
    if len({len(one) for one in mean}) != 1:
        return None
    groups = encoder_groups(np.stack(mean), np.stack(spread))
    if groups is None:
        return None
    parts = [tuple(slide for slide, of in zip(slides, groups.second, strict=True) if of == part) for part in (0, 1)]
    return TwoKinds(groups.how, *parts)


def kinds_are_classes(first: Sequence[int], second: Sequence[int]) -> bool:
    """Whether the labels of two groups of slides are two classes nearly throughout, as in an easy task."""
    second_kind = np.array([False] * len(first) + [True] * len(second))
    labels = np.array([*first, *second])
    shares = [float(((labels == label) == second_kind).mean()) for label in set(labels.tolist())]
    return any(share >= _CLASS or share <= 1 - _CLASS for share in shares)


def encoder_groups(mean: NDArray[np.floating], spread: NDArray[np.floating]) -> Groups | None:
    """Divide slides into two groups where their features are of two kinds.

    Args:
        mean: (n, d) mean of every feature over the patches of a slide.
        spread: (n, d) standard deviation of the same.

    Returns:
        None where they are of one kind, or too few.
    """
    n, d = mean.shape
    if n < 2 * _SLIDES or d < _FEATURES:
        return None
    usual = np.median(spread, 0)
    varied = usual > 0  # a feature that is constant in most slides has no spread to measure by
    if varied.sum() < max(_FEATURES, d / 2):
        return None
    usual = usual[varied]
    shift = np.clip(mean[:, varied] / usual, -1e6, 1e6)
    factor = np.log(np.maximum(spread[:, varied] / usual, 1e-6))
    pattern = np.log(np.maximum(spread[:, varied], 1e-12))
    # Where spreads differ the median spread may be that of either kind, so means are compared after spreads.
    edges = _split(factor, np.log(LEAST_FACTOR))
    if edges is not None:
        ratio = float(np.exp(np.median(np.abs(_difference(factor, edges)))))
        if ratio >= FACTOR or not _one_pattern(shift, pattern, edges):
            return Groups(edges, f"the spread of most features differs by a factor of {ratio:.3g} or more")
    edges = _split(shift, LEAST_SHIFT)
    if edges is None:
        return None
    size = _shift_relative_to_scale(shift, edges)
    if size >= SHIFT or (size >= LEAST_SHIFT and not _one_pattern(shift, pattern, edges)):
        return Groups(edges, f"most features differ by {size:.3g} standard deviations within a slide or more")
    return None


def _shift_relative_to_scale(shift: NDArray[np.floating], second: NDArray[np.bool_]) -> float:
    """Return by how much most features differ between the groups, once one group is scaled to the other."""
    one, other = np.median(shift[~second], 0), np.median(shift[second], 0)
    scale = float(np.clip(one @ other / max(float(one @ one), 1e-12), 1 / FACTOR, FACTOR))
    return float(np.median(np.abs(other - scale * one)))


def _one_pattern(shift: NDArray[np.floating], pattern: NDArray[np.floating], second: NDArray[np.bool_]) -> bool:
    """Whether the same features are large in both groups, or vary, as they do in slides of one encoder."""
    if shift.shape[1] < PATTERN:
        return True
    for values in (shift, pattern):
        one, other = np.median(values[~second], 0), np.median(values[second], 0)
        if min(one.std(), other.std()) > 0 and np.corrcoef(one, other)[0, 1] > SHARED:
            return True
    return False


def _difference(x: NDArray[np.floating], second: NDArray[np.bool_]) -> NDArray[np.floating]:
    return np.asarray(np.median(x[second], 0) - np.median(x[~second], 0))


def _split(x: NDArray[np.floating], least: float) -> NDArray[np.bool_] | None:
    """Return the two groups (n, d) along the direction of the largest variance, if most columns tell them apart."""
    centred = x - np.median(x, 0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    along = np.sort(centred @ axes[0])
    order = np.argsort(centred @ axes[0], kind="stable")
    gaps = np.diff(along)[_SLIDES - 1 : len(along) - _SLIDES]
    if not len(gaps):
        return None
    boundary = int(gaps.argmax()) + _SLIDES
    second = np.zeros(len(x), bool)
    second[order[boundary:]] = True
    if second.sum() * 2 > len(x):
        second = ~second
    difference = _difference(x, second)
    if np.median(np.abs(difference)) < least:
        return None
    inside = max(float(np.median(np.abs(x[of] - np.median(x[of], 0)))) for of in (second, ~second))
    apart = float(np.median(np.abs(difference)))
    wide = max(float(along[boundary - 1] - along[0]), float(along[-1] - along[boundary]))
    gap = float(along[boundary] - along[boundary - 1])
    return second if apart > APART * inside and gap > wide / 2 else None
