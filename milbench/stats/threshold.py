"""Decision thresholds of two classes, chosen on the validation bags of one run. No torch here.

A method orders bags by a score; which of them it calls positive is another question, and at 10 % prevalence the answer
"those with a probability of at least 0.5" is often "none". A threshold that is chosen on validation gives balanced
accuracy, F1, sensitivity and specificity a meaning. It changes no training and no order, so that it can be applied to
stored runs. Test bags have no part in it: nothing here is given one.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
from scipy.special import expit

from ..config import ThresholdRule
from ..errors import MilbenchError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import ArrayLike, NDArray

#: Rules that choose a threshold on validation -> what they make highest there.
CHOSEN: dict[ThresholdRule, str] = {
    "val-youden": "sensitivity + specificity - 1 (Youden's J)",
    "val-f1": "F1 of the positive class",
}


@dataclass(frozen=True)
class Threshold:
    """Above what a bag is called positive.

    Attributes:
        value: the lowest score of a bag that is called positive, log-odds of the positive class, or its probability
            where a run stored nothing else; None: the more probable class is predicted, as everywhere without a rule.
        reason: why a rule chose nothing; empty where it did, or where there is no rule.
    """

    value: float | None = None
    reason: str = ""

    def predicted(self, probabilities: NDArray[np.float64], scores: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return the predicted class (n,) of bags.

        Args:
            probabilities: (n, C).
            scores: (n, C), of the kind that `value` is of; two classes where there is a value.
        """
        if self.value is None:
            return np.asarray(probabilities.argmax(axis=1), dtype=np.int64)
        return np.asarray(scores[:, 1] >= self.value, dtype=np.int64)


def named(rule: str) -> ThresholdRule:
    """Return a rule by its name.

    Raises:
        MilbenchError: there is no such rule.
    """
    known: tuple[ThresholdRule, ...] = get_args(ThresholdRule)
    for name in known:
        if rule == name:
            return name
    raise MilbenchError(f"there is no threshold {rule!r}; give one of {', '.join(known)}.", code="option-bad-value")


def choose(rule: ThresholdRule, labels: ArrayLike, scores: ArrayLike) -> Threshold:
    """Return the threshold that a rule chooses on some validation bags.

    Candidates are the scores themselves, as of ``sklearn.metrics.roc_curve``; of several that are equally good the
    highest, which calls the fewest bags positive. Nothing is chosen, and the more probable class stays the predicted
    one, where there is no choice to be made: without bags, with bags of one class, or where no threshold is better than
    predicting one class for all (J is nowhere above 0).

    Args:
        rule: ``half`` chooses nothing.
        labels: (n,) of 0 and 1, of validation bags.
        scores: (n,), of class 1; equal scores are never parted.

    Raises:
        MilbenchError: scores that are not finite, or labels of other classes.
    """
    if rule == "half":
        return Threshold()
    y, s = np.asarray(labels, dtype=np.int64), np.asarray(scores, dtype=np.float64)
    if y.ndim != 1 or y.shape != s.shape or not set(np.unique(y).tolist()) <= {0, 1}:
        raise MilbenchError(
            f"a threshold needs labels (n,) of 0 and 1 and scores (n,), not {y.shape} and {s.shape}.",
            code="stats-bad-input",
        )
    if not np.isfinite(s).all():
        raise MilbenchError(
            "scores of validation bags are not finite; such a run has diverged and has no threshold.",
            code="scores-not-finite",
        )
    if not len(y):
        return Threshold(reason="no validation bags")
    positives = int(y.sum())
    negatives = len(y) - positives
    if not positives or not negatives:
        return Threshold(reason="validation bags of one class")
    order = np.argsort(-s, kind="stable")
    score = s[order]
    last = np.flatnonzero(np.append(score[1:] != score[:-1], True))  # of bags with equal scores
    hits = np.cumsum(y[order])[last]
    alarms = last + 1 - hits
    if rule == "val-youden":
        gain = hits * negatives - alarms * positives  # J in whole numbers, in which equal is equal
        if gain.max() <= 0:
            return Threshold(reason="no threshold with J above 0 on validation")
    else:
        gain = 2 * hits / (hits + alarms + positives)
    return Threshold(float(score[last[int(gain.argmax())]]))


def record(labels: ArrayLike, scores: ArrayLike) -> dict[str, dict[str, Any]]:
    """Return what every rule chooses on some validation bags, by its name, as a kept model carries it; see `choose`."""
    return {rule: asdict(choose(rule, labels, scores)) for rule in CHOSEN}


def recorded(thresholds: Mapping[str, Mapping[str, Any]], rule: ThresholdRule) -> Threshold:
    """Return the threshold of a rule from `record`.

    Raises:
        KeyError, TypeError, ValueError: it is not there, or is no threshold.
    """
    if rule == "half":
        return Threshold()
    value, reason = thresholds[rule]["value"], thresholds[rule]["reason"]
    if not isinstance(reason, str) or not (value is None or math.isfinite(value)):
        raise ValueError(f"threshold {rule} is {value!r}")
    return Threshold(None if value is None else float(value), reason)


def mean(thresholds: Sequence[Threshold]) -> Threshold:
    """Return the threshold of the mean of several models' log-odds: the mean of theirs, 0 where one has none."""
    if all(threshold.value is None for threshold in thresholds):
        return thresholds[0]
    return Threshold(float(np.mean([threshold.value or 0.0 for threshold in thresholds])))


def as_probability(value: float | None, log_odds: bool = True) -> float:
    """Return a threshold as a probability of the positive class; 0.5 where there is none."""
    if value is None:
        return 0.5
    return float(expit(value)) if log_odds else value
