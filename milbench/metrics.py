"""Metrics: pure functions of labels and predictions, without weights, files or randomness.

Everywhere ``labels`` is (n,) of class indices 0 ... C-1 and ``probabilities`` is (n, C), rows summing to 1. The
predicted class is the most probable one, the lower index where two are equal. With two classes, class 1 is the
positive one. A metric that ranks bags takes ``log_odds`` as well, (n, C), of each class against the rest; without them
it ranks by the probabilities, in which bags tie where these are rounded to 1: from a log-odds of 16.6 on in fp32. A
metric that counts right and wrong answers takes ``predicted`` as well, (n,) classes by another rule than the most
probable one (`milbench.stats.threshold`).

A metric is one function here, ``def name(labels, probabilities) -> float``: public, in this file, with these two
arguments first and no other without a default; one that takes ``log_odds`` or ``predicted`` gets them. It is then a
column of the leaderboard and of `run_scores`, for stored runs too. A package of one's own names such a function, or a
`Metric`, as an entry point of the group ``milbench.metrics``; a program calls `register_metric`.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Protocol

import numpy as np
import pandas as pd

from .errors import MilbenchError
from .plug_ins import load_plug_in, plug_ins, warn_left_out
from .stats.lazy_module import OnFirstUse

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import ArrayLike, NDArray

#: Equal-width bins of `expected_calibration_error`, as in Guo et al. (ICML 2017).
ECE_BINS = 15

#: Entry points of this group add metrics: functions or `Metric` records.
GROUP = "milbench.metrics"

_SUM_TOLERANCE = 1e-3


#: scikit-learn's metrics, for functions that are added to this file.
sk = OnFirstUse("sklearn.metrics")


class Function(Protocol):
    """A metric's function of labels (n,), probabilities (n, C) and, where it takes them, ``log_odds`` (n, C)."""

    def __call__(self, labels: ArrayLike, probabilities: ArrayLike) -> float:
        """Return the metric; NaN where the labels do not define it."""


@dataclass(frozen=True)
class Metric:
    """A metric as tables, reports and `Protocol.monitor` know it: everything about it is in this record.

    Attributes:
        name: its column; a lower-case identifier.
        label: its heading in reports.
        higher_is_better: whether higher values are better.
        function: see `Function`.
        task: the type of task it scores.
        main: whether reports show it in the table that ranks the methods, not among the other scores.
        short: its heading where there is little room, as on a terminal; empty: it is not shown there.
    """

    name: str
    label: str
    higher_is_better: bool
    function: Callable[..., float]
    task: str = "classification"
    main: bool = False
    short: str = ""

    def value(self, labels: NDArray[np.int64], probabilities: NDArray[np.float64],
              log_odds: NDArray[np.float64] | None = None,
              predicted: NDArray[np.int64] | None = None) -> float:  # fmt: skip
        """Compute it of checked arguments.

        Raises:
            MilbenchError: the function fails or returns no number.
        """
        more = {"log_odds": log_odds, "predicted": predicted}
        given = {name: value for name, value in more.items() if value is not None and _takes(self.function, name)}
        try:
            return float(self.function(labels, probabilities, **given))
        except MilbenchError:
            raise
        except Exception as error:  # of a function that is not ours
            raise MilbenchError(
                f"metric {self.name} fails ({type(error).__name__}: {error}); correct it.", code="metric-malformed"
            ) from error


def registered(task: str = "classification") -> tuple[Metric, ...]:
    """Return every metric of a task: milbench's, other functions of this module, those of entry points and of
    `register_metric`.

    An entry point that cannot be imported, is no metric, or has a name that another has is left out with a warning on
    stderr; milbench's own names win.
    """
    every = (*_of_module(), *_of_packages(), *_REGISTERED.values())
    return tuple(metric for metric in every if metric.task == task)


def register_metric(metric: Metric | Callable[..., float]) -> None:
    """Add a metric for this process; one of the same name that was added before is replaced.

    Raises:
        MilbenchError: it is no `Metric` and no function of labels and probabilities, or milbench has one of that name.
    """
    record = _record(metric)
    if record.name in {known.name for known in (*_of_module(), *_of_packages())}:
        raise MilbenchError(f"a metric {record.name} exists already; give yours another name.", code="name-taken")
    _REGISTERED[record.name] = record


def all_metrics(
    labels: ArrayLike,
    probabilities: ArrayLike,
    log_odds: ArrayLike | None = None,
    predicted: ArrayLike | None = None,
) -> dict[str, float]:
    """Return every metric, by name.

    Args:
        labels: (n,) class indices.
        probabilities: (n, C).
        log_odds: (n, C), of each class against the rest, by which bags are ranked; None: the probabilities.
        predicted: (n,), the predicted classes; None: the most probable ones.

    Returns:
        ``auc``, ``balanced_accuracy``, ``accuracy``, ``average_precision``, ``f1``, ``sensitivity``, ``specificity``,
        ``log_loss``, ``brier``, ``ece``, and what `registered` holds beyond; NaN where the labels do not define one.

    Raises:
        MilbenchError: probabilities are not finite, not in [0, 1], do not sum to 1 in every row, or do not fit the
            labels; scores are not finite or of another shape; predicted classes are none.
    """
    y, p = check(labels, probabilities)
    s = None if log_odds is None else order_of(p, log_odds)
    predicted_classes = None if predicted is None else _predicted(p, predicted)
    return {metric.name: metric.value(y, p, s, predicted_classes) for metric in registered()}


def check(labels: ArrayLike, probabilities: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return labels (n,) and probabilities (n, C) as arrays; rows may be off 1 by rounding.

    Raises:
        MilbenchError: see `all_metrics`.
    """
    try:
        y, p = np.asarray(labels), np.asarray(probabilities, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise MilbenchError(
            f"metrics need labels (n,) and probabilities (n, C) of numbers ({error}).", code="stats-bad-input"
        ) from error
    if y.ndim != 1 or p.ndim != 2 or len(y) != len(p) or p.shape[1] < 2 or not len(y):
        raise MilbenchError(
            f"metrics need labels (n,) and probabilities (n, C >= 2), n > 0, not {y.shape}, {p.shape}.",
            code="stats-bad-input",
        )
    if not np.isfinite(p).all():
        bad = int((~np.isfinite(p).all(axis=1)).sum())
        raise MilbenchError(
            f"{bad} of {len(p)} rows of probabilities are not finite; such a run has diverged.",
            code="scores-not-finite",
        )
    if p.min() < -_SUM_TOLERANCE or np.abs(p.sum(axis=1) - 1).max() > _SUM_TOLERANCE:
        raise MilbenchError(
            "probabilities must lie in [0, 1] and sum to 1 in every row; give softmax, not logits.",
            code="stats-bad-input",
        )
    if y.dtype.kind not in "iu" or y.min() < 0 or y.max() >= p.shape[1]:
        raise MilbenchError(
            f"labels must be integers from 0 to {p.shape[1] - 1}, the columns of the probabilities.",
            code="stats-bad-input",
        )
    return y.astype(np.int64), p


def auc(labels: ArrayLike, probabilities: ArrayLike, log_odds: ArrayLike | None = None) -> float:
    """Area under the ROC curve; with more than two classes the mean one-vs-rest AUC of the classes that occur.

    NaN where fewer than two classes occur.
    """
    y, p = check(labels, probabilities)
    if (y == y[0]).all():
        return float("nan")
    return _over_classes(y, order_of(p, log_odds), _auc)


def average_precision(labels: ArrayLike, probabilities: ArrayLike, log_odds: ArrayLike | None = None) -> float:
    """Average precision of the positive class; with more than two classes the mean over the classes that occur.

    NaN where, with two classes, no bag is positive.
    """
    y, p = check(labels, probabilities)
    s = order_of(p, log_odds)
    if s.shape[1] == 2 and not y.any():
        return float("nan")
    return _over_classes(y, s, _average_precision)


def accuracy(labels: ArrayLike, probabilities: ArrayLike, predicted: ArrayLike | None = None) -> float:
    """Share of bags whose predicted class is right."""
    y, p = check(labels, probabilities)
    return float((_predicted(p, predicted) == y).mean())


def balanced_accuracy(labels: ArrayLike, probabilities: ArrayLike, predicted: ArrayLike | None = None) -> float:
    """Mean recall of the classes that occur in the labels."""
    y, p = check(labels, probabilities)
    bags = np.bincount(y, minlength=p.shape[1])
    hits = np.bincount(y[_predicted(p, predicted) == y], minlength=p.shape[1])
    return float(np.mean(hits[bags > 0] / bags[bags > 0]))


def sensitivity(labels: ArrayLike, probabilities: ArrayLike, predicted: ArrayLike | None = None) -> float:
    """Share of the positive bags that are predicted positive; with more than two classes the mean recall.

    NaN where, with two classes, no bag is positive.
    """
    y, p = check(labels, probabilities)
    if p.shape[1] > 2:
        return balanced_accuracy(y, p, predicted)
    predicted_classes = _predicted(p, predicted)
    return _ratio(int((predicted_classes[y == 1] == 1).sum()), int((y == 1).sum()))


def specificity(labels: ArrayLike, probabilities: ArrayLike, predicted: ArrayLike | None = None) -> float:
    """Share of the negative bags that are predicted negative.

    With more than two classes the mean, over the classes that occur, of the share of the other classes' bags that are
    not predicted to be of the class. NaN where no bag is negative, of any class.
    """
    y, p = check(labels, probabilities)
    predicted_classes = _predicted(p, predicted)
    if p.shape[1] == 2:
        return _ratio(int((predicted_classes[y == 0] == 0).sum()), int((y == 0).sum()))
    if (y == y[0]).all():
        return float("nan")
    return float(np.mean([(predicted_classes[y != c] != c).mean() for c in np.unique(y)]))


def f1(labels: ArrayLike, probabilities: ArrayLike, predicted: ArrayLike | None = None) -> float:
    """F1 of the positive class; with more than two classes the mean over those that occur in labels or predictions.

    NaN where, with two classes, no bag is positive nor predicted to be.
    """
    y, p = check(labels, probabilities)
    predicted_classes = _predicted(p, predicted)
    classes = p.shape[1]
    both = np.bincount(y, minlength=classes) + np.bincount(predicted_classes, minlength=classes)
    hits = np.bincount(y[predicted_classes == y], minlength=classes)
    if classes == 2:
        return _ratio(2 * hits[1], both[1])
    return float(np.mean(2 * hits[both > 0] / both[both > 0]))


def log_loss(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """Mean negative log-likelihood of the labels in nats; probabilities are kept 2.2e-16 away from 0."""
    y, p = check(labels, probabilities)
    # Only here must rows sum to 1 exactly. Elsewhere scaling would do harm: it breaks ties in the last bit.
    p = np.clip(p, 0, None)
    chosen = p[np.arange(len(y)), y] / p.sum(axis=1)
    smallest = np.finfo(np.float64).eps
    return float(-np.log(np.clip(chosen, smallest, 1 - smallest)).mean())


def brier(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """Brier score: the mean of (p1 - y)^2 with two classes, in [0, 1], of the squared distance with more, in [0, 2]."""
    y, p = check(labels, probabilities)
    if p.shape[1] == 2:
        return float(((p[:, 1] - y) ** 2).mean())
    return float(((p - np.eye(p.shape[1])[y]) ** 2).sum(axis=1).mean())


def expected_calibration_error(labels: ArrayLike, probabilities: ArrayLike, bins: int = ECE_BINS) -> float:
    """Expected calibration error of the predicted class (Guo et al., ICML 2017, eq. 3).

    Bags are put in `bins` equal-width bins of their confidence, the largest probability, each open below and closed
    above; the error is the mean over bags of |accuracy - mean confidence| of their bin. It is biased upwards when a
    bin holds few bags.
    """
    y, p = check(labels, probabilities)
    if not bins >= 1:
        raise MilbenchError(f"the calibration error needs at least 1 bin, not {bins}.", code="stats-bad-input")
    confidence, right = p.max(axis=1), p.argmax(axis=1) == y
    where = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gap = np.bincount(where, weights=right - confidence, minlength=bins)
    return float(np.abs(gap).sum() / len(y))


def per_class(
    labels: ArrayLike,
    probabilities: ArrayLike,
    names: Sequence[str] | None = None,
    log_odds: ArrayLike | None = None,
) -> pd.DataFrame:
    """Return one row a class, each against the rest.

    Returns:
        indexed by class name: ``bags``, ``recall`` (sensitivity), ``specificity``, ``precision``, ``f1``, ``auc``,
        ``average_precision``; NaN where the labels do not define one.

    Raises:
        MilbenchError: see `all_metrics`; not one name a class.
    """
    y, p = check(labels, probabilities)
    s = order_of(p, log_odds)
    if names is not None and len(names) != p.shape[1]:
        raise MilbenchError(f"{p.shape[1]} classes need as many names, not {len(names)}.", code="stats-bad-input")
    predicted_classes = p.argmax(axis=1)
    rows = []
    for c in range(p.shape[1]):
        is_c, as_c = y == c, predicted_classes == c
        hits = int((is_c & as_c).sum())
        both = is_c.any() and not is_c.all()
        rows.append({
            "bags": int(is_c.sum()),
            "recall": _ratio(hits, is_c.sum()),
            "specificity": _ratio((~is_c & ~as_c).sum(), (~is_c).sum()),
            "precision": _ratio(hits, as_c.sum()),
            "f1": _ratio(2 * hits, is_c.sum() + as_c.sum()),
            "auc": _auc(is_c, s[:, c]) if both else float("nan"),
            "average_precision": _average_precision(is_c, s[:, c]) if is_c.any() else float("nan"),
        })  # fmt: skip
    return pd.DataFrame(rows, index=pd.Index(names if names is not None else range(p.shape[1]), name="class"))


def accuracy_at_best_threshold(labels: ArrayLike, probabilities: ArrayLike, log_odds: ArrayLike | None = None) -> float:
    """Return the accuracy at the threshold on class 1 that makes it highest: one chosen on test, never to be ranked.

    With more than two classes it is the plain accuracy: the largest probability decides.
    """
    y, p = check(labels, probabilities)
    s = order_of(p, log_odds)
    if p.shape[1] != 2:
        return accuracy(y, p)
    order = np.argsort(-s[:, 1], kind="stable")
    score, positive = s[order, 1], y[order] == 1
    # The first k are called positive: right are the positives among them and the negatives behind them.
    right = np.concatenate([[0], np.cumsum(positive)]) + (~positive).sum() - np.concatenate([[0], np.cumsum(~positive)])
    allowed = np.concatenate([[True], score[1:] != score[:-1], [True]])  # a threshold lies between different scores
    return float(right[allowed].max() / len(y))


def tied_share(labels: ArrayLike, scores: ArrayLike) -> float:
    """Return the share of pairs of bags of different labels whose scores are equal: each counts one half in an AUC.

    Args:
        labels: (n,) class indices.
        scores: (n, C); with more than two classes the largest share of a class against the rest.

    Returns:
        0 to 1; NaN where one class occurs.

    Raises:
        MilbenchError: scores that are not finite, or labels that are no class indices.
    """
    y, s = np.asarray(labels), _finite(scores)
    if y.ndim != 1 or s.ndim != 2 or len(y) != len(s) or y.dtype.kind not in "iu" or not len(y):
        raise MilbenchError(
            f"tied scores need labels (n,) and scores (n, C), n > 0, not {y.shape}, {s.shape}.", code="stats-bad-input"
        )
    if y.min() < 0 or y.max() >= s.shape[1]:
        raise MilbenchError(
            f"labels must be integers from 0 to {s.shape[1] - 1}, the columns of the scores.", code="stats-bad-input"
        )
    shares = []
    for c in [1] if s.shape[1] == 2 else np.unique(y):
        of_class = y == c
        level = np.unique(s[:, c], return_inverse=True)[1]
        positive, negative = np.bincount(level[of_class]), np.bincount(level[~of_class])
        shorter = min(len(positive), len(negative))
        pairs = int(of_class.sum()) * int((~of_class).sum())
        shares.append(_ratio(int(positive[:shorter] @ negative[:shorter]), pairs))
    return max(shares)


def order_of(probabilities: NDArray[np.float64], log_odds: ArrayLike | None) -> NDArray[np.float64]:
    """Return what ranks bags, (n, C): log-odds where they are known, else the probabilities.

    Raises:
        MilbenchError: log-odds of another shape than the probabilities, or not finite.
    """
    if log_odds is None:
        return probabilities
    s = _finite(log_odds)
    if s.shape != probabilities.shape:
        raise MilbenchError(
            f"log-odds have shape {s.shape} and probabilities {probabilities.shape}; give as many.",
            code="stats-bad-input",
        )
    return s


def _predicted(probabilities: NDArray[np.float64], predicted: ArrayLike | None) -> NDArray[np.int64]:
    """Return the predicted class (n,) of every bag: the most probable one where no other is given."""
    if predicted is None:
        return np.asarray(probabilities.argmax(axis=1), dtype=np.int64)
    try:
        given = np.asarray(predicted)
    except (TypeError, ValueError) as error:
        raise MilbenchError(f"predicted classes must be numbers ({error}).", code="stats-bad-input") from error
    n, classes = probabilities.shape
    if given.shape != (n,) or given.dtype.kind not in "iu" or given.min() < 0 or given.max() >= classes:
        raise MilbenchError(
            f"predicted classes must be {n} integers from 0 to {classes - 1}, one a bag.", code="stats-bad-input"
        )
    return given.astype(np.int64)


def _finite(scores: ArrayLike) -> NDArray[np.float64]:
    try:
        s = np.asarray(scores, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise MilbenchError(f"scores must be numbers ({error}).", code="stats-bad-input") from error
    if not np.isfinite(s).all():
        raise MilbenchError(
            "scores are not finite; such a run has diverged and has no ranking metric.", code="scores-not-finite"
        )
    return s


def _over_classes(
    y: NDArray[np.int64], s: NDArray[np.float64], metric: Callable[[NDArray[np.bool_], NDArray[np.float64]], float]
) -> float:
    if s.shape[1] == 2:
        return metric(y == 1, s[:, 1])
    return float(np.mean([metric(y == c, s[:, c]) for c in np.unique(y)]))


def _counts(positive: NDArray[np.bool_], scores: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return how many negatives and positives score at least as high as each different score, the highest first."""
    order = np.argsort(scores)[::-1]
    score = scores[order]
    last = np.flatnonzero(np.append(score[1:] != score[:-1], True))
    hits = np.cumsum(positive[order], dtype=np.int64)[last]
    return (1 + last - hits).astype(np.int64), hits


def _auc(positive: NDArray[np.bool_], scores: NDArray[np.float64]) -> float:
    """Return U / (positives * negatives), U the Mann-Whitney statistic, counted in integers.

    Equal U then is the equal float, here and in `milbench.stats.bootstrap_auc`; a sum of trapezoids in floats depends
    on the order of the bags in its last bit.
    """
    negatives, positives = _counts(positive, scores)
    before = np.append(0, positives[:-1])
    twice_u = int(np.diff(negatives, prepend=0) @ (before + positives))
    return twice_u / (2 * int(negatives[-1]) * int(positives[-1]))


# Sums in the order in which scikit-learn does, so that scores of before are the same to the last digit.
def _average_precision(positive: NDArray[np.bool_], scores: NDArray[np.float64]) -> float:
    negatives, positives = _counts(positive, scores)
    precision = (positives / (negatives + positives))[::-1]
    recall = np.append((positives / positives[-1])[::-1], 0.0)
    return float(max(0.0, -np.sum(np.diff(recall) * precision)))


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else float("nan")


#: milbench's metrics, in the order of their columns.
OWN = (
    Metric("auc", "AUC", True, auc, main=True, short="AUC"),
    Metric("balanced_accuracy", "Balanced accuracy", True, balanced_accuracy, main=True, short="Bal. acc."),
    Metric("accuracy", "Accuracy", True, accuracy, main=True),
    Metric("average_precision", "Average precision", True, average_precision),
    Metric("f1", "F1", True, f1),
    Metric("sensitivity", "Sensitivity", True, sensitivity),
    Metric("specificity", "Specificity", True, specificity),
    Metric("log_loss", "Log loss (nats)", False, log_loss),
    Metric("brier", "Brier score", False, brier),
    Metric("ece", "Expected calibration error", False, expected_calibration_error),
)

#: Chosen on test: no metric of a run.
_NO_METRIC = (accuracy_at_best_threshold,)

_REGISTERED: dict[str, Metric] = {}


@cache
def _takes(function: Callable[..., float], argument: str) -> bool:
    return argument in inspect.signature(function).parameters


@cache
def _of_module() -> tuple[Metric, ...]:
    """Return milbench's own metrics, then the functions of this file that have the form of one."""
    known = [*_NO_METRIC, *(metric.function for metric in OWN)]
    public = [value for name, value in globals().items() if inspect.isfunction(value) and not name.startswith("_")]
    more = [f for f in public if f.__module__ == __name__ and f not in known and _is_metric(f)]
    return (*OWN, *(_record(f) for f in more))


def _is_metric(function: Callable[..., float]) -> bool:
    """Whether a function takes labels and probabilities, needs nothing else, and returns a float."""
    parameters = list(inspect.signature(function).parameters.values())
    needed = [p.name for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    returned = inspect.signature(function).return_annotation
    return needed == ["labels", "probabilities"] and returned in (float, "float")


def _record(metric: object) -> Metric:
    """Return the record of a metric that is one already or a function.

    Raises:
        MilbenchError: it is neither, or its name cannot be that of a column.
    """
    if not isinstance(metric, Metric):
        name = getattr(metric, "__name__", "")
        if not callable(metric):
            raise MilbenchError(
                f"{metric!r} is no metric; give a function of labels and probabilities, or a milbench.metrics.Metric.",
                code="metric-malformed",
            )
        metric = Metric(name, name.replace("_", " ").capitalize(), True, metric)
    texts = (metric.name, metric.label, metric.short or "")
    if not callable(metric.function) or not all(isinstance(text, str) for text in texts):
        raise MilbenchError(
            f"metric {metric.name!r} is no record of a name, a label, whether higher is better, and a function, in "
            "this order; correct it.",
            code="metric-malformed",
        )
    if not metric.name.isidentifier() or metric.name != metric.name.lower():
        raise MilbenchError(
            f"metric {metric.name!r} needs a name of lower-case letters, digits and '_': its column.",
            code="metric-malformed",
        )
    return metric


@cache
def _of_packages() -> tuple[Metric, ...]:
    """Return the metrics of packages; one that cannot be used is left out with a warning on stderr."""
    metrics: dict[str, Metric] = {}
    own = {known.name for known in _of_module()}
    for name, points in plug_ins(GROUP, own).items():
        try:
            value = load_plug_in("metric", name, points)
            if callable(value):
                value = Metric(name, name.replace("_", " ").capitalize(), True, value)
            metric = _record(value)
            if metric.name in own or metric.name in metrics:
                raise MilbenchError(
                    f"two metrics are named {metric.name} (one of them {points[0].value}); rename one.",
                    code="name-taken",
                )
        except MilbenchError as error:
            warn_left_out(error)
        else:
            metrics[metric.name] = metric
    return tuple(metrics.values())
