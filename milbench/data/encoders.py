"""Whether the features of a cohort are of two encoders, told from their statistics.

An encoder gives every feature a usual value and a usual spread, which its slides share: they differ between slides by
less than the spread within a slide. Slides of another encoder of the same width have others in most features.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

#: Two groups are of two encoders where most features differ between them by this many spreads within a slide, or in
#: their spread by this factor, and the groups lie this many times farther apart than their members.
SHIFT, FACTOR, APART = 1.5, 2.0, 3.0
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
    found = _split(factor, np.log(FACTOR))
    if found is not None:
        ratio = float(np.exp(np.median(np.abs(_difference(factor, found)))))
        return Groups(found, f"the spread of most features differs by a factor of {ratio:.3g} or more")
    # Where spreads differ the median spread may be that of either kind, so means are compared after spreads.
    found = _split(shift, SHIFT)
    if found is None:
        return None
    size = float(np.median(np.abs(_difference(shift, found))))
    return Groups(found, f"most features differ by {size:.3g} standard deviations within a slide or more")


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
    cut = int(gaps.argmax()) + _SLIDES
    second = np.zeros(len(x), bool)
    second[order[cut:]] = True
    if second.sum() * 2 > len(x):
        second = ~second
    difference = _difference(x, second)
    if np.median(np.abs(difference)) < least:
        return None
    inside = max(float(np.median(np.abs(x[of] - np.median(x[of], 0)))) for of in (second, ~second))
    apart = float(np.median(np.abs(difference)))
    wide = max(float(along[cut - 1] - along[0]), float(along[-1] - along[cut]))
    gap = float(along[cut] - along[cut - 1])
    return second if apart > APART * inside and gap > wide / 2 else None
