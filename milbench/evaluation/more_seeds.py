"""The expected interval with more seeds, from stored runs or from the size of a cohort.

More seeds shorten the part of an interval that is due to seeds; the part due to patients stays. This module needs no
torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from .. import stats
from ..formatting.text import count

#: AUC for which an interval is predicted where the cohort has no runs.
PLANNED_AUC = 0.8

#: A number of seeds whose error over seeds is negligible.
_ENDLESS = 10**9


def expected(means: Iterable[stats.Mean], seeds: Iterable[int]) -> dict[int, float]:
    """Return by number of seeds the expected half-width of an interval, mean over methods, from their runs.

    Args:
        means: of the methods whose runs all ended ``ok``.
        seeds: numbers of seeds; those of which nothing is known are left out of the answer.
    """
    every = list(means)
    widths = {n: [mean.half_width(n) for mean in every] for n in seeds}
    return {n: float(np.nanmean(values)) for n, values in widths.items() if np.isfinite(values).any()}


def doubled(seeds: int) -> tuple[int, int, int]:
    """Return so many seeds, twice and four times as many."""
    return seeds, 2 * seeds, 4 * seeds


def tested_counts(
    tested: Iterable[Sequence[str]],
    labels: Mapping[str, int],
    patients: Mapping[str, str] | None,
    classes: int,
) -> list[int]:
    """Return how many patients of each class some folds test; a patient's class is the largest of its slides.

    Args:
        tested: slides that each fold tests.
        labels: slide -> class index; slides without one are not counted.
        patients: slide -> patient; None: each slide its own.
        classes: number of classes.
    """
    of: dict[str, int] = {}
    for slide in {slide for fold in tested for slide in fold if slide in labels}:
        owner = (patients or {}).get(slide) or slide
        of[owner] = max(of.get(owner, 0), labels[slide])
    counts: list[int] = np.bincount(np.array([*of.values()], dtype=np.int64), minlength=classes).tolist()
    return counts


def known_sentence(name: str, means: Sequence[stats.Mean], stored: int, seeds: int) -> str:
    """Return a sentence on the interval with more seeds, from runs with several seeds; empty where it is undefined.

    Args:
        name: of the cohort.
        means: of the methods whose runs all ended ``ok``.
        stored: seeds that were run.
        seeds: the requested number.
    """
    by_seeds = expected(means, (*doubled(seeds), _ENDLESS))
    if len(by_seeds) < 4 or not by_seeds[seeds]:
        return ""
    floor = by_seeds.pop(_ENDLESS)
    return _sentence(name, by_seeds, floor, f"mean over methods, from the {count(stored, 'seed')} that were run")


def planned_sentence(name: str, counts: Sequence[int], seeds: int, unit: str = "patient") -> str:
    """Return a sentence on the interval with more seeds, from the size of a cohort; empty without two classes.

    Args:
        name: of the cohort; empty: the sentence is about the only one.
        counts: from `tested_counts`.
        seeds: the requested number.
        unit: what is counted.
    """
    half_widths = {n: stats.planned_half_width(counts, n, PLANNED_AUC) for n in (*doubled(seeds), _ENDLESS)}
    if not np.isfinite(half_widths[seeds]):
        return ""
    floor = half_widths.pop(_ENDLESS)
    tested = count(sum(counts), f"tested {unit}")
    return _sentence(
        name, half_widths, floor, f"at an AUC of {PLANNED_AUC}, from {tested} and the usual spread over seeds"
    )


def _sentence(name: str, widths: Mapping[int, float], floor: float, source: str) -> str:
    gain = ", ".join(f"± {half:.3f} with {count(n, 'seed')}" for n, half in widths.items())
    head = f"{name}: expected" if name else "expected"
    return (
        f"{head} half-width of an interval of the AUC ({source}): {gain}; by the same estimate "
        f"± {floor:.3f} would remain with any number of seeds, which is the part of patients."
    )
