"""Metrics: pure functions of labels and predicted probabilities, without weights, files or chance.

Everywhere ``labels`` is (n,) of class indices 0 ... C-1 and ``probabilities`` is (n, C), rows summing to 1. The
predicted class is the most probable one, the lower index where two are equal. With two classes, class 1 is the
positive one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from sklearn import metrics as sk

from .errors import MilbenchError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import ArrayLike, NDArray

#: Equal-width bins of `expected_calibration_error`, as in Guo et al. (ICML 2017).
ECE_BINS = 15

_SUM_TOLERANCE = 1e-3


def all_metrics(labels: ArrayLike, probabilities: ArrayLike, log_odds: ArrayLike | None = None) -> dict[str, float]:
    """Return every metric of this module, by name.

    Args:
        labels, probabilities: see above.
        log_odds: (n, C), of every class against the rest, which order the bags for ``auc`` and ``average_precision``;
            None: the probabilities do, in which bags tie from a log-odds of 16.6 on where they were computed in fp32.

    Returns:
        ``auc``, ``balanced_accuracy``, ``accuracy``, ``average_precision``, ``f1``, ``log_loss``, ``brier``, ``ece``;
        NaN where the labels do not define one.

    Raises:
        MilbenchError: probabilities are not finite, not in [0, 1], do not sum to 1 in every row, or do not fit the
            labels.
    """
    y, p = check(labels, probabilities)
    return {
        "auc": auc(y, p, log_odds),
        "balanced_accuracy": balanced_accuracy(y, p),
        "accuracy": accuracy(y, p),
        "average_precision": average_precision(y, p, log_odds),
        "f1": f1(y, p),
        "log_loss": log_loss(y, p),
        "brier": brier(y, p),
        "ece": expected_calibration_error(y, p),
    }


def check(labels: ArrayLike, probabilities: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return labels (n,) and probabilities (n, C) as arrays; rows may be off 1 by rounding.

    Raises:
        MilbenchError: see `all_metrics`.
    """
    y, p = np.asarray(labels), np.asarray(probabilities, dtype=np.float64)
    if y.ndim != 1 or p.ndim != 2 or len(y) != len(p) or p.shape[1] < 2 or not len(y):
        raise MilbenchError(f"metrics need labels (n,) and probabilities (n, C >= 2), n > 0, not {y.shape}, {p.shape}.")
    if not np.isfinite(p).all():
        bad = int((~np.isfinite(p).all(axis=1)).sum())
        raise MilbenchError(f"{bad} of {len(p)} rows of probabilities are not finite; such a run has diverged.")
    if (p < -_SUM_TOLERANCE).any() or (np.abs(p.sum(axis=1) - 1) > _SUM_TOLERANCE).any():
        raise MilbenchError("probabilities must lie in [0, 1] and sum to 1 in every row; give softmax, not logits.")
    if not np.issubdtype(y.dtype, np.integer) or y.min() < 0 or y.max() >= p.shape[1]:
        raise MilbenchError(f"labels must be integers from 0 to {p.shape[1] - 1}, the columns of the probabilities.")
    return y.astype(np.int64), p


def order_of(probabilities: NDArray[np.float64], log_odds: ArrayLike | None) -> NDArray[np.float64]:
    """Return what orders bags, (n, C): log-odds where they are known, else the probabilities.

    Raises:
        MilbenchError: log-odds of another shape than the probabilities, or not finite.
    """
    if log_odds is None:
        return probabilities
    s = np.asarray(log_odds, dtype=np.float64)
    if s.shape != probabilities.shape:
        raise MilbenchError(f"log-odds have shape {s.shape} and probabilities {probabilities.shape}; give as many.")
    if not np.isfinite(s).all():
        bad = int((~np.isfinite(s).all(axis=1)).sum())
        raise MilbenchError(f"{bad} of {len(s)} rows of log-odds are not finite; such a run has diverged.")
    return s


def auc(labels: ArrayLike, probabilities: ArrayLike, log_odds: ArrayLike | None = None) -> float:
    """Area under the ROC curve; with more than two classes the mean one-vs-rest AUC of the classes that occur.

    NaN where fewer than two classes occur. For `log_odds` see `all_metrics`.
    """
    y, p = check(labels, probabilities)
    if len(np.unique(y)) < 2:
        return float("nan")
    return _over_classes(y, order_of(p, log_odds), sk.roc_auc_score)


def average_precision(labels: ArrayLike, probabilities: ArrayLike, log_odds: ArrayLike | None = None) -> float:
    """Average precision of the positive class; with more than two classes the mean over the classes that occur.

    NaN where, with two classes, no bag is positive. For `log_odds` see `all_metrics`.
    """
    y, p = check(labels, probabilities)
    if p.shape[1] == 2 and not y.any():
        return float("nan")
    return _over_classes(y, order_of(p, log_odds), sk.average_precision_score)


def accuracy(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """Share of bags whose predicted class is right."""
    y, p = check(labels, probabilities)
    return float((p.argmax(axis=1) == y).mean())


def balanced_accuracy(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """Mean recall of the classes that occur in the labels."""
    y, p = check(labels, probabilities)
    return float(sk.recall_score(y, p.argmax(axis=1), labels=np.unique(y), average="macro", zero_division=0))


def f1(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """F1 of the positive class; with more than two classes the mean over those that occur in labels or predictions.

    NaN where, with two classes, no bag is positive nor predicted to be.
    """
    y, p = check(labels, probabilities)
    if p.shape[1] == 2:
        return float(sk.f1_score(y, p.argmax(axis=1), zero_division=np.nan))
    return float(sk.f1_score(y, p.argmax(axis=1), average="macro", zero_division=0))


def log_loss(labels: ArrayLike, probabilities: ArrayLike) -> float:
    """Mean negative log-likelihood of the labels in nats; probabilities are kept 2.2e-16 away from 0."""
    y, p = check(labels, probabilities)
    # Only here must rows sum to 1 exactly. Elsewhere scaling would do harm: it breaks ties in the last bit.
    p = np.clip(p, 0, None)
    return float(sk.log_loss(y, p / p.sum(axis=1, keepdims=True), labels=np.arange(p.shape[1])))


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
    confidence, right = p.max(axis=1), p.argmax(axis=1) == y
    where = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gap = np.bincount(where, weights=right - confidence, minlength=bins)
    return float(np.abs(gap).sum() / len(y))


def per_class(labels: ArrayLike, probabilities: ArrayLike, names: Sequence[str] | None = None) -> pd.DataFrame:
    """Return one row a class, each against the rest.

    Returns:
        indexed by class name: ``bags``, ``recall`` (sensitivity), ``specificity``, ``precision``, ``f1``, ``auc``,
        ``average_precision``; NaN where the labels do not define one.
    """
    y, p = check(labels, probabilities)
    found = p.argmax(axis=1)
    rows = []
    for c in range(p.shape[1]):
        is_c, as_c = y == c, found == c
        hits = int((is_c & as_c).sum())
        both = is_c.any() and not is_c.all()
        rows.append({
            "bags": int(is_c.sum()),
            "recall": _ratio(hits, is_c.sum()),
            "specificity": _ratio((~is_c & ~as_c).sum(), (~is_c).sum()),
            "precision": _ratio(hits, as_c.sum()),
            "f1": _ratio(2 * hits, is_c.sum() + as_c.sum()),
            "auc": float(sk.roc_auc_score(is_c, p[:, c])) if both else float("nan"),
            "average_precision": float(sk.average_precision_score(is_c, p[:, c])) if is_c.any() else float("nan"),
        })  # fmt: skip
    return pd.DataFrame(rows, index=pd.Index(names if names is not None else range(p.shape[1]), name="class"))


def accuracy_at_best_threshold(
    labels: NDArray[np.int64], probabilities: NDArray[np.float64], log_odds: NDArray[np.float64] | None = None
) -> float:
    """Return the accuracy at the threshold on p1 that makes it highest: one chosen on test, never to be ranked.

    With more than two classes it is the plain accuracy: the largest probability decides. For `log_odds` see
    `all_metrics`.
    """
    if probabilities.shape[1] != 2:
        return float((probabilities.argmax(axis=1) == labels).mean())
    scores = order_of(probabilities, log_odds)[:, 1]
    order = np.argsort(-scores, kind="stable")
    score, positive = scores[order], labels[order] == 1
    # The first k are called positive: right are the positives among them and the negatives behind them.
    right = np.concatenate([[0], np.cumsum(positive)]) + (~positive).sum() - np.concatenate([[0], np.cumsum(~positive)])
    allowed = np.concatenate([[True], score[1:] != score[:-1], [True]])  # a threshold lies between different scores
    return float(right[allowed].max() / len(labels))


def _over_classes(y: NDArray[np.int64], p: NDArray[np.float64], metric: Callable[..., float]) -> float:
    if p.shape[1] == 2:
        return float(metric(y, p[:, 1]))
    return float(np.mean([metric(y == c, p[:, c]) for c in np.unique(y)]))


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else float("nan")
