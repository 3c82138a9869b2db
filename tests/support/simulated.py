"""Cohorts whose true AUC is known, for the coverage of intervals and the level of tests."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import norm


@dataclass(frozen=True)
class Cohort:
    """Labels (n,), scores (k, n) of k methods, and patients (n,) or None."""

    labels: np.ndarray
    scores: np.ndarray
    patients: np.ndarray | None = None


def separation(auc: float, spread: float = 1.0) -> float:
    """Distance of the means of N(d, spread) positives and N(0, 1) negatives of this AUC."""
    return float(norm.ppf(auc) * np.sqrt(1 + spread**2))


def labelled(n: int, share: float) -> np.ndarray:
    """Labels of a cohort with a fixed number of positives, these first."""
    return (np.arange(n) < round(n * share)).astype(int)


def normal(rng: np.random.Generator, labels: np.ndarray, auc: float, spread: float = 1.0) -> np.ndarray:
    """Normal scores; positives may have another spread."""
    noise = rng.normal(size=len(labels))
    return np.where(labels > 0, separation(auc, spread) + spread * noise, noise)


def wide(rng: np.random.Generator, labels: np.ndarray, auc: float) -> np.ndarray:
    """Positives with twice the spread: some are hard, most are easy."""
    return normal(rng, labels, auc, spread=2.0)


def exponential(rng: np.random.Generator, labels: np.ndarray, auc: float) -> np.ndarray:
    """Exponential scores, Hanley and McNeil's model: P(positive > negative) = r / (1 + r) of means r and 1."""
    return rng.exponential(size=len(labels)) * np.where(labels > 0, auc / (1 - auc), 1.0)


def missed(rng: np.random.Generator, labels: np.ndarray, auc: float) -> np.ndarray:
    """A share of positives that resemble negatives, as tumours too small to be seen do, and cost 9/10 of 1 - AUC."""
    share = 1.8 * (1 - auc)
    gap = separation((auc - share / 2) / (1 - share))
    seen = (labels > 0) & (rng.random(len(labels)) >= share)
    return rng.normal(size=len(labels)) + gap * seen


#: distributions of scores by name; the AUC is exact in each.
FAMILIES = {"normal": normal, "wide positives": wide, "exponential": exponential, "missed positives": missed}


def pair(rng: np.random.Generator, labels: np.ndarray, auc: float, correlation: float, gain: float = 0.0) -> np.ndarray:
    """Normal scores (2, n) of two methods correlated within each class; the first has `gain` more AUC."""
    n = len(labels)
    noise = np.sqrt(correlation) * rng.normal(size=n) + np.sqrt(1 - correlation) * rng.normal(size=(2, n))
    gaps = np.array([separation(auc + gain), separation(auc)])
    return noise + gaps[:, None] * labels


def unlike_pair(rng: np.random.Generator, labels: np.ndarray, auc: float, correlation: float) -> np.ndarray:
    """As `pair`, but the second method's positives have twice the spread: equal AUCs, methods not exchangeable."""
    n = len(labels)
    noise = np.sqrt(correlation) * rng.normal(size=n) + np.sqrt(1 - correlation) * rng.normal(size=(2, n))
    spread = np.stack([np.ones(n), np.where(labels > 0, 2.0, 1.0)])
    return spread * noise + np.array([[separation(auc)], [separation(auc, 2.0)]]) * labels


def clustered(
    rng: np.random.Generator, n: int, auc: float, mixed: bool, within: float = 0.5, correlation: float = 0.6
) -> Cohort:
    """Slides of patients with 1 to 5 each, scores of one patient's slides correlated; two methods.

    Labels are the patient's, or, `mixed`, each slide's own with 1 in 5 or 4 in 5 positive by patient. Drawn again until
    both classes have slides of three patients or more.
    """
    while True:
        owner = np.repeat(np.arange(n), rng.integers(1, 6, size=n))[:n]
        number = owner[-1] + 1
        if mixed:
            labels = (rng.random(n) < rng.choice([0.2, 0.8], size=number)[owner]).astype(int)
        else:
            labels = rng.permutation(np.arange(number) % 2)[owner]
        if min(len(np.unique(owner[labels == c])) for c in (0, 1)) >= 3:
            break

    def noise() -> np.ndarray:
        return np.sqrt(within) * rng.normal(size=number)[owner] + np.sqrt(1 - within) * rng.normal(size=n)

    shared = noise()
    scores = [np.sqrt(correlation) * shared + np.sqrt(1 - correlation) * noise() for _ in range(2)]
    return Cohort(labels, np.stack(scores) + separation(auc) * labels, owner)


def seeded(rng: np.random.Generator, labels: np.ndarray, auc: float, seeds: int, spread: float) -> np.ndarray:
    """Scores (seeds, n): seeds differ in separation by N(0, spread), and in two fifths of each slide's noise.

    The mean AUC over all seeds there could be is `auc`: E Phi((d + spread z) / sqrt 2) = Phi(d / sqrt(2 + spread^2)).
    """
    n = len(labels)
    gaps = norm.ppf(auc) * np.sqrt(2 + spread**2) + spread * rng.normal(size=(seeds, 1))
    return np.sqrt(0.6) * rng.normal(size=n) + np.sqrt(0.4) * rng.normal(size=(seeds, n)) + gaps * labels


def of_classes(rng: np.random.Generator, labels: np.ndarray, classes: int, auc: float) -> np.ndarray:
    """Scores (n, C), three tenths of their variance shared by the classes; every one-vs-rest AUC is ``auc``."""
    n = len(labels)
    scores = np.sqrt(0.3) * rng.normal(size=(n, 1)) + np.sqrt(0.7) * rng.normal(size=(n, classes))
    scores[np.arange(n), labels] += separation(auc)
    return scores


def seeds_of_classes(
    rng: np.random.Generator, labels: np.ndarray, classes: int, auc: float, methods: int, seeds: int, spread: float
) -> np.ndarray:
    """Scores (M, S, n, C) of methods on the same bags; every class's mean AUC over all seeds there could be is ``auc``.

    Of a bag's noise four tenths are shared by all methods, three by the seeds of a method, three are the run's; seeds
    differ in separation by N(0, spread), the same for all classes.
    """
    n = len(labels)
    noise = np.sqrt(0.4) * rng.normal(size=(n, classes)) + np.sqrt(0.3) * rng.normal(size=(methods, 1, n, classes))
    scores = noise + np.sqrt(0.3) * rng.normal(size=(methods, seeds, n, classes))
    gaps = norm.ppf(auc) * np.sqrt(2 + spread**2) + spread * rng.normal(size=(methods, seeds))
    scores[:, :, np.arange(n), labels] += gaps[:, :, None]
    return scores


def cohort(
    rng: np.random.Generator, labels: np.ndarray, aucs: np.ndarray, seeds: int, spreads: np.ndarray
) -> np.ndarray:
    """Scores (M, S, n) of methods on the same bags; each method's mean AUC over all seeds there could be is its own.

    Of a bag's noise four tenths are shared by all methods, three by the seeds of a method, three are the run's; seeds
    differ in separation by N(0, spread of the method), see `seeded`.
    """
    n, m = len(labels), len(aucs)
    spread = np.asarray(spreads)[:, None, None]
    gaps = norm.ppf(aucs)[:, None, None] * np.sqrt(2 + spread**2) + spread * rng.normal(size=(m, seeds, 1))
    noise = np.sqrt(0.4) * rng.normal(size=n) + np.sqrt(0.3) * rng.normal(size=(m, 1, n))
    return noise + np.sqrt(0.3) * rng.normal(size=(m, seeds, n)) + gaps * labels


def fold_differences(
    rng: np.random.Generator, n: int, folds: int, repeats: int, features: int = 5, gap: float = 0.6
) -> np.ndarray:
    """Differences in accuracy (repeats * folds,) of two nearest-mean classifiers, each on equally good features.

    A cross-validation as it is run: every fold trains on the others, and training sets overlap.
    """
    y = np.arange(n) % 2
    x = rng.normal(size=(2, n, features)) + gap * y[:, None] / np.sqrt(features / 5)
    out = []
    for _ in range(repeats):
        fold = np.empty(n, dtype=int)
        for c in (0, 1):
            fold[y == c] = rng.permutation(np.arange((y == c).sum()) % folds)
        for k in range(folds):
            test = fold == k
            means = [x[:, ~test & (y == c)].mean(axis=1, keepdims=True) for c in (0, 1)]
            away = [((x[:, test] - mean) ** 2).sum(axis=2) for mean in means]
            right = (away[1] < away[0]) == (y[test] == 1)
            out.append(right[0].mean() - right[1].mean())
    return np.array(out)
