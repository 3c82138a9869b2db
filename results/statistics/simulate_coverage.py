"""How often intervals cover and tests reject: ``python results/statistics/simulate_coverage.py [FOLDER]``.

Writes one CSV for each table and a README that shows them to ``results/statistics``. ``--tables macro seeds`` makes
these tables only and keeps the others of the folder; ``--quick`` uses few simulations. Each table is a function of
`Sizes`, so that the tests of the project run the same code with fewer simulations.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats as sp

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))  # results/README.md, "Programs"
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from support import simulated

from milbench import stats
from results.statistics.coverage_report import read, write

SLIDES, AUCS = (50, 130, 500), (0.6, 0.9, 0.98)
LEVEL, ALPHA = 0.95, 0.05

Row = dict[str, Any]
CLOSED = ("logit", "guarded", "wald")


@dataclass(frozen=True)
class Sizes:
    """Numbers of simulations of closed forms and of resampled statistics, and of resamples; which cohorts."""

    closed: int = 8_000
    resampled: int = 2_000
    resamples: int = 999
    slides: tuple[int, ...] = SLIDES
    aucs: tuple[float, ...] = AUCS

    @property
    def cells(self) -> list[tuple[int, float]]:
        return [(n, auc) for n in self.slides for auc in self.aucs]


class Count:
    """Counts of simulations by method: where an interval lies, how wide it is, or whether a test rejects."""

    def __init__(self, **where: Any) -> None:
        self.where, self.seen = where, {}  # type: ignore[var-annotated]

    def interval(self, method: str, low: float, high: float, truth: float) -> None:
        self.seen.setdefault(method, []).append((high < truth, low > truth, high - low))

    def all_hold(self, method: str, low: bool, high: bool, width: float) -> None:
        """Count a set of intervals of which any end may be wrong: the lower or, where that holds, the upper."""
        self.seen.setdefault(method, []).append((high and not low, low, width))

    def test(self, method: str, rejected: bool) -> None:
        self.seen.setdefault(method, []).append((rejected,))

    def rows(self) -> Iterator[Row]:
        for method, kept in self.seen.items():
            means, n = np.mean(kept, axis=0, dtype=float), len(kept)
            share = 1 - means[0] - means[1] if len(means) == 3 else means[0]
            out = {**self.where, "method": method, "coverage" if len(means) == 3 else "rejected": share}
            out["error"] = np.sqrt(max(share * (1 - share), 0.5 / n) / n)
            if len(means) == 3:
                out.update(below=means[0], above=means[1], width=means[2])
            yield {**out, "simulations": n}


def weights_of(
    owner: np.ndarray, labels: np.ndarray, sizes: Sizes, rng: np.random.Generator, every: int = 100
) -> Iterator[np.ndarray]:
    """Bootstrap weights for each simulation of a cohort; drawn anew now and then, as drawing is slower than use."""
    for i in range(sizes.resampled):
        if i % every == 0:
            weights = stats.cluster_weights(owner, labels, sizes.resamples, rng)
        yield weights


def intervals(sizes: Sizes) -> Iterator[Row]:
    """The interval of one AUC, normal scores, half of the slides positive."""
    for n, auc in sizes.cells:
        rng, labels = np.random.default_rng([1, n, int(1000 * auc)]), simulated.labelled(n, 0.5)
        count = Count(slides=n, auc=auc)
        for _ in range(sizes.closed):
            _closed(count, stats.delong(labels, simulated.normal(rng, labels, auc)), auc)
        for weights in weights_of(np.arange(n), labels, sizes, rng):
            scores = simulated.normal(rng, labels, auc)
            replicates, areas = stats.bootstrap_auc(labels, scores, weights), stats.delong(labels, scores)
            count.interval("percentile", *stats.interval(replicates), auc)
            count.interval("bca", *stats.bca_interval(float(areas.auc[0]), replicates, areas.influence[0]), auc)
            count.interval("bootstrap-logit", *_bootstrap_logit(areas, replicates), auc)
        yield from count.rows()


def shapes(sizes: Sizes) -> Iterator[Row]:
    """The interval of one AUC where scores are not normal or three in ten slides are positive."""
    for family, draw in simulated.FAMILIES.items():
        for n, auc in sizes.cells:
            rng, labels = np.random.default_rng([2, n, int(1000 * auc), len(family)]), simulated.labelled(n, 0.3)
            count = Count(scores=family, slides=n, auc=auc)
            for _ in range(sizes.closed // 4):
                _closed(count, stats.delong(labels, draw(rng, labels, auc)), auc)
            yield from count.rows()


def _closed(count: Count, values: stats.AucEstimates, auc: float, methods: tuple[str, ...] = CLOSED) -> None:
    for method in methods:
        one = stats.estimate_interval(values, 0, method)
        count.interval(method, one.low, one.high, auc)


def _bootstrap_logit(values: stats.AucEstimates, replicates: np.ndarray) -> tuple[float, float]:
    point = float(values.auc[0])
    return stats.logit_interval(point, replicates) if point < 1 else (stats.certain_bound(values.patients), 1.0)


def patients(sizes: Sizes) -> Iterator[Row]:
    """The interval of one AUC where patients have 1 to 5 slides, three on average, correlated at .5."""
    for mixed in (False, True):
        for n, auc in sizes.cells:
            rng = np.random.default_rng([3, n, int(1000 * auc), mixed])
            count = Count(labels="slide" if mixed else "patient", slides=n, auc=auc)
            for i in range(sizes.closed // 5):
                c = simulated.clustered(rng, n, auc, mixed)
                scores = c.scores[0]
                areas = stats.delong(c.labels, scores, c.patients)
                _closed(count, areas, auc, CLOSED[:2])
                alone = stats.auc_interval(c.labels, scores)
                count.interval("logit, slides as their own", alone.low, alone.high, auc)
                if i % 2 == 0:
                    weights = stats.cluster_weights(c.patients, c.labels, sizes.resamples // 2, rng)
                    replicates = stats.bootstrap_auc(c.labels, scores, weights)
                    count.interval("percentile", *stats.interval(replicates), auc)
                    count.interval("bootstrap-logit", *_bootstrap_logit(areas, replicates), auc)
            yield from count.rows()


def leaderboards(sizes: Sizes) -> Iterator[Row]:
    """The leaderboard's mean over seeds, which differ little or much, or over five folds."""
    designs = (
        (1, 0.0, 1),
        (2, 0.15, 1),
        (3, 0.15, 1),
        (5, 0.15, 1),
        (2, 1.0, 1),
        (3, 1.0, 1),
        (5, 1.0, 1),
        (1, 0.0, 5),
    )
    for seeds, spread, folds in designs:
        for n, auc in sizes.cells:
            if n // folds < 20 or (seeds > 1 and n == 500):
                continue
            rng, labels = np.random.default_rng([4, n, int(1000 * auc), seeds]), simulated.labelled(n, 0.5)
            fold = np.arange(n) % folds
            count = Count(seeds=seeds, spread=spread, folds=folds, slides=n, auc=auc)
            small = replace(sizes, resampled=sizes.resampled // 2, resamples=sizes.resamples // 2)
            for weights in weights_of(np.arange(n), labels, small, rng):
                drawn = stats.seed_weights(seeds, small.resamples, rng)
                scores = simulated.seeded(rng, labels, auc, seeds, spread)
                parts = [fold == k for k in range(folds)]
                cells = np.stack([
                    [stats.bootstrap_auc(labels[p], s[p], weights[:, p]) for s in scores] for p in parts
                ])  # fmt: skip
                point = float(np.mean([[stats.weighted_auc(labels[p], s[p]) for s in scores] for p in parts]))
                replicates = stats.combine(cells, drawn)
                count.interval("percentile", *np.clip(stats.interval(replicates), 0, 1), auc)
                count.interval("logit", *stats.combined_interval(point, replicates, labels, np.arange(n)), auc)
            yield from count.rows()


def seed_levels(sizes: Sizes) -> Iterator[Row]:
    """Paired tests of two methods with the same mean AUC over seeds, which differ little or much."""
    small = replace(sizes, resamples=min(sizes.resamples, 499))
    for seeds in (2, 3, 5, 10):
        for spread in (0.0, 0.15, 1.0):
            n = 130
            labels, count = simulated.labelled(n, 0.5), Count(seeds=seeds, spread=spread, slides=n, auc=0.8)
            rng = np.random.default_rng([12, seeds, int(100 * spread)])
            for weights in weights_of(np.arange(n), labels, small, rng):
                both = [simulated.seeded(rng, labels, 0.8, seeds, spread) for _ in range(2)]
                cells = [np.stack([stats.bootstrap_auc(labels, s, weights) for s in own])[None] for own in both]
                points = [float(np.mean([stats.weighted_auc(labels, s) for s in own])) for own in both]
                drawn = {
                    "Student": stats.seed_weights(seeds, small.resamples, rng),
                    "with replacement": rng.multinomial(seeds, np.full(seeds, 1 / seeds), small.resamples),
                }
                for name, own in drawn.items():
                    a, b = (stats.combine(c, own) for c in cells)
                    count.test(name, stats.paired_difference(points[0], a, points[1], b).p <= ALPHA)
                count.test("slides alone", stats.paired_difference(points[0], *_even(cells, points)).p <= ALPHA)
            yield from count.rows()


def _even(cells: list[np.ndarray], points: list[float]) -> tuple[np.ndarray, float, np.ndarray]:
    a, b = (c.mean(axis=(0, 1)) for c in cells)
    return a, points[1], b


def levels(sizes: Sizes) -> Iterator[Row]:
    """Paired tests of two methods with the same AUC: how often they reject at 5 %."""
    small = replace(sizes, resamples=min(sizes.resamples, 599))
    designs = [
        ("exchangeable, r = .6", simulated.pair, 0.5, 0.6, sizes.slides),
        ("exchangeable, r = .9", simulated.pair, 0.5, 0.9, (130,)),
        ("one with wide positives, three in ten positive", simulated.unlike_pair, 0.3, 0.6, (130,)),
    ]
    for number, (design, make, share, r, cohorts) in enumerate(designs):
        for n, auc in sizes.cells:
            if n not in cohorts:
                continue
            rng, labels = np.random.default_rng([5, number, n, int(1000 * auc)]), simulated.labelled(n, share)
            count = Count(methods=design, slides=n, auc=auc)
            for weights in weights_of(np.arange(n), labels, small, rng):
                _test_pair(count, simulated.Cohort(labels, make(rng, labels, auc, r)), weights, rng)
            yield from count.rows()


def patient_levels(sizes: Sizes) -> Iterator[Row]:
    """Paired tests where patients have several slides, correlated at .5."""
    for mixed in (False, True):
        for n, auc in sizes.cells:
            if n > 130:
                continue
            rng = np.random.default_rng([6, n, int(1000 * auc), mixed])
            count = Count(labels="slide" if mixed else "patient", slides=n, auc=auc)
            for _ in range(3 * sizes.resampled // 4):
                c = simulated.clustered(rng, n, auc, mixed)
                weights = stats.cluster_weights(c.patients, c.labels, sizes.resamples // 2, rng)
                _test_pair(count, c, weights, rng)
                count.test("delong, slides as their own", stats.delong(c.labels, c.scores).test() <= ALPHA)
            yield from count.rows()


def _test_pair(count: Count, c: simulated.Cohort, weights: np.ndarray, rng: np.random.Generator) -> None:
    a, b = c.scores
    areas = stats.delong(c.labels, c.scores, c.patients)
    count.test("delong", areas.test() <= ALPHA)
    seed = int(rng.integers(2**31))
    flips = stats.auc_permutation_test(c.labels, a, b, c.patients, resamples=len(weights), seed=seed)
    count.test("permutation", flips.p <= ALPHA)
    of = [stats.bootstrap_auc(c.labels, s, weights) for s in (a, b)]
    gap, influence = float(areas.auc[0] - areas.auc[1]), areas.influence[0] - areas.influence[1]
    count.test("percentile", not stats.paired_difference(float(areas.auc[0]), of[0], float(areas.auc[1]), of[1]).tied)
    count.test("bca", stats.bca_p_value(gap, of[0] - of[1], influence) <= ALPHA)


def folds(sizes: Sizes) -> Iterator[Row]:
    """Tests of two classifiers over folds: equally good features, and differences correlated as the correction says."""
    designs = [(k, repeats, n) for n in (50, 200) for k, repeats in ((5, 1), (10, 1), (5, 5))]
    for k, repeats, n in designs:
        rng = np.random.default_rng([7, k, repeats, n])
        count = Count(design=f"nearest means, {n} bags", folds=k, repeats=repeats)
        for _ in range(sizes.resampled // (2 if repeats > 1 else 1)):
            _test_folds(count, simulated.fold_differences(rng, n, k, repeats), 1 / (k - 1))
        yield from count.rows()
    for k in (5, 10):
        rng, count = np.random.default_rng([8, k]), Count(design="equally correlated, 1 / k", folds=k, repeats=1)
        for _ in range(sizes.closed):
            shared = rng.normal() * np.sqrt(1 / k) + rng.normal(size=k) * np.sqrt(1 - 1 / k)
            _test_folds(count, shared, 1 / (k - 1))
        yield from count.rows()


def _test_folds(count: Count, d: np.ndarray, ratio: float) -> None:
    count.test("Nadeau-Bengio", stats.corrected_t_test(d, ratio).p <= ALPHA)
    spread = d.std(ddof=1)
    plain = 2 * sp.t.sf(abs(d.mean()) / (spread / np.sqrt(len(d))), len(d) - 1) if spread else float(d.mean() == 0)
    count.test("plain t", plain <= ALPHA)


def runs(sizes: Sizes) -> Iterator[Row]:
    """Aggregates over runs and tasks: scores of a task are a mean of its own and normal runs around it."""
    tasks = np.linspace(0.3, 0.9, 10)
    rng = np.random.default_rng(9)
    large = tasks + 0.1 * rng.normal(size=(20_000, 10))
    truth = {"IQM": float(stats.interquartile_mean(large)), "P(improvement)": float(sp.norm.cdf(0.3 / np.sqrt(2)))}
    for n in (3, 5, 10):
        count = {name: Count(statistic=name, drawn="runs", n=n) for name in truth}
        for i in range(sizes.resampled):
            a, b = (tasks + 0.1 * rng.normal(size=(n, 10)) for _ in range(2))
            kept = {"resamples": sizes.resamples // 2, "seed": i}
            for name, point, replicates in (
                ("IQM", stats.interquartile_mean(a), stats.run_replicates(stats.interquartile_mean, a, **kept)),
                ("P(improvement)", stats.probability_of_improvement(a + 0.03, b),
                 stats.run_replicates(stats.probability_of_improvement, a + 0.03, b, **kept)),
            ):  # fmt: skip
                plain = point + (replicates - point) * np.sqrt((n - 1) / n)
                count[name].interval("stretched", *stats.interval(replicates), truth[name])
                count[name].interval("as rliable", *stats.interval(plain), truth[name])
        for one in count.values():
            yield from one.rows()
    for n in (10, 20, 50):
        drawn, rating = (
            Count(statistic="IQM", drawn="tasks", n=n),
            Count(statistic="Elo of 5 methods", drawn="tasks", n=n),
        )
        strengths = np.linspace(-0.8, 0.8, 5)
        elo = 1000 + stats.elo.ELO_SCALE / np.log(10) * strengths
        for i in range(sizes.resampled // 2):
            scores = 0.6 + 0.15 * rng.normal(size=n) + 0.1 * rng.normal(size=(5, n))
            interval = stats.run_interval(
                stats.interquartile_mean, scores, resamples=sizes.resamples // 2, seed=i, draw="tasks"
            )
            drawn.interval("expanded", interval.low, interval.high, 0.6)
            wins = stats.pairwise_wins(strengths + rng.gumbel(size=(n, 5)))  # so that i beats j as the model says
            interval = stats.elo_ratings(wins, resamples=sizes.resamples // 5, seed=i)
            for low, high, true in zip(interval.low, interval.high, elo, strict=True):
                rating.interval("expanded", low, high, true)
        yield from drawn.rows()
        yield from rating.rows()


def ranks(sizes: Sizes) -> Iterator[Row]:
    """Tests over tasks where no method is better: any rejection is an error of the whole table."""
    for tasks, methods in ((8, 4), (12, 4), (12, 9), (30, 9)):
        rng, count = np.random.default_rng([10, tasks, methods]), Count(tasks=tasks, methods=methods)
        for _ in range(sizes.resampled):
            scores = rng.normal(size=(tasks, 1)) + rng.normal(size=(tasks, methods))
            friedman = stats.friedman(scores)
            count.test("Friedman", friedman.p <= ALPHA)
            count.test("Iman-Davenport", friedman.p_iman_davenport <= ALPHA)
            count.test("Nemenyi, any pair", np.ptp(friedman.ranks) > friedman.critical_difference)
            if methods == 4:
                pairs = [scores[:, i] - scores[:, j] for i in range(methods) for j in range(i)]
                p = np.array([stats.sign_flip_test(d, resamples=sizes.resamples).p for d in pairs])
                count.test("sign flips, Holm, any pair", stats.holm(p).min() <= ALPHA)
                count.test("sign flips, any pair", p.min() <= ALPHA)
        yield from count.rows()


def power(sizes: Sizes) -> Iterator[Row]:
    """The difference planned for a power of 80 %, and how often it is seen."""
    for n, auc in ((n, auc) for n in sizes.slides for auc in (0.6, 0.8, 0.9)):
        for r in (0.5, 0.8):
            labels = simulated.labelled(n, 0.5)
            d = stats.planned_difference(n // 2, n - n // 2, auc, r)
            if d != d:
                continue
            rng, count = np.random.default_rng([11, n, int(100 * auc), int(10 * r)]), Count()
            gaps = []
            for _ in range(sizes.resampled // 2):
                a, b = simulated.pair(rng, labels, auc, r, gain=d)
                areas = stats.delong(labels, np.stack([a, b]))
                gaps.append(areas.difference()[0])
                count.test("delong", areas.test() <= ALPHA)
                flips = stats.auc_permutation_test(labels, a, b, resamples=sizes.resamples // 2)
                count.test("permutation", flips.p <= ALPHA)
            planned = stats.planned_error(n // 2, n - n // 2, auc + d, auc, r)
            for row in count.rows():
                yield {
                    "slides": n, "auc": auc, "correlation": r, "difference": d, "error_planned": planned,
                    "error_simulated": float(np.std(gaps)), **row,
                }  # fmt: skip


#: bags of each class
MACRO_COUNTS: dict[str, list[int]] = {
    "40 x 3": [40] * 3,
    "20 x 10": [20] * 10,
    "60, 20, 8, 2": [60, 20, 8, 2],
    "40 x 3 + 2": [40, 40, 40, 2],
    "40 x 2 + 1": [40, 40, 1],
    "30 x 9 + 3": [30] * 9 + [3],
    "200 x 5 + 1": [200] * 5 + [1],
}
MACRO_AUCS = (0.7, 0.85, 0.95)


def macro(sizes: Sizes) -> Iterator[Row]:
    """The mean of one-vs-rest AUCs of 3 to 10 classes, the same AUC for every class, classes rare or not."""
    for name, counts in MACRO_COUNTS.items():
        classes = len(counts)
        labels, equal = np.repeat(np.arange(classes), counts), np.full(classes, 1 / classes)
        owner = np.arange(len(labels))
        perfect = stats.perfect_bound(counts, equal, len(labels))
        for auc in MACRO_AUCS:
            rng = np.random.default_rng([13, len(labels), classes, int(1000 * auc)])
            count, least = Count(counts=name, classes=classes, auc=auc), 1.0
            small = replace(sizes, resampled=sizes.resampled // 2, resamples=sizes.resamples // 3)
            for drawn in weights_of(owner, labels, small, rng):
                scores = simulated.of_classes(rng, labels, classes, auc)
                present, areas = stats.class_aucs(labels, scores, np.vstack([np.ones(len(labels)), drawn]))
                class_aucs = stats.ClassAucs(present, areas[:, 0], equal, areas[:, 1:])
                one = stats.mean_interval(class_aucs, labels, owner)
                least = min(least, one.low)
                count.interval("mean_interval", one.low, one.high, auc)
                count.interval("logit", *stats.logit_interval(class_aucs.mean, equal @ class_aucs.replicates), auc)
            count.where |= {"least_low": least, "perfect_low": perfect}
            yield from count.rows()


#: bags of each class, one of them rare
RARE_COUNTS = {name: MACRO_COUNTS[name] for name in ("60, 20, 8, 2", "40 x 2 + 1")} | {"30 x 5 + 1": [30] * 5 + [1]}


def macro_seeds(sizes: Sizes) -> Iterator[Row]:
    """The mean of one-vs-rest AUCs over seeds where a class is rare; two methods, and their paired difference."""
    small = replace(sizes, resampled=max(sizes.resampled // 10, 10), resamples=sizes.resamples // 5)
    for name, counts in RARE_COUNTS.items():
        labels, owner = np.repeat(np.arange(len(counts)), counts), np.arange(sum(counts))
        for n_seeds, auc in ((n, auc) for n in (2, 3, 5) for auc in (0.85, 0.95)):
            rng = np.random.default_rng([16, len(labels), n_seeds, int(1000 * auc)])
            count, widths = Count(counts=name, classes=len(counts), seeds=n_seeds, auc=auc), []
            for drawn in weights_of(owner, labels, small, rng):
                weights = np.vstack([np.ones(len(labels)), drawn])
                scores = simulated.seeds_of_classes(rng, labels, len(counts), auc, 2, n_seeds, 0.3)
                areas = np.array([[stats.class_aucs(labels, run, weights)[1] for run in own] for own in scores])
                means, ones = (class_means(labels, areas[:, :some]) for some in (n_seeds, 1))
                for mean in means:
                    count.interval("mean", mean.low, mean.high, auc)
                    count.interval("patients alone", *mean.patients, auc)
                gap = stats.mean_difference(*means)
                count.interval("difference", gap.low, gap.high, 0.0)
                length = [np.mean([m.high - m.low for m in some]) for some in (means, ones)]
                widths.append((length[0], np.mean([m.patients[1] - m.patients[0] for m in means]), length[1]))
            of_all, of_patients, of_one = np.mean(widths, axis=0)
            count.where |= {"to_patients": of_all / of_patients, "to_one_seed": of_all / of_one}
            yield from count.rows()


def class_means(labels: np.ndarray, areas: np.ndarray) -> list[stats.Mean]:
    """Return the means of methods from AUCs (M, S, K, 1 + R), as a leaderboard makes them."""
    runs = areas.mean(axis=2)
    errors = stats.seed_errors([stats.seeds_of(own[None, :, 0], own[None, :, 1:]) for own in runs])
    classes, out = np.unique(labels), []
    equal = np.full(len(classes), 1 / len(classes))
    for own, error in zip(areas.mean(axis=1), errors, strict=True):
        class_aucs = stats.ClassAucs(classes, own[:, 0], equal, own[:, 1:])
        over = stats.mean_interval(class_aucs, labels, np.arange(len(labels)))
        out.append(stats.mean_of(class_aucs.mean, over, equal @ class_aucs.replicates, error))
    return out


#: spread of the seeds' separation -> of each of M methods
SPREADS = {
    "little": lambda methods: np.full(methods, 0.15),
    "much": lambda methods: np.full(methods, 0.5),
    "unequal": lambda methods: np.where(np.arange(methods) < methods // 2, 0.15, 0.6),
}


def seeds(sizes: Sizes) -> Iterator[Row]:
    """Means over seeds and their paired differences with the variance of seeds pooled over the methods of a cohort."""
    small = replace(sizes, resampled=sizes.resampled // 2, resamples=sizes.resamples // 3)
    designs = [
        (methods, n_seeds, spread, failed)
        for methods in (2, 6)
        for n_seeds in (2, 3, 5)
        for spread, failed in (("little", False), ("much", False), ("unequal", False), ("much", True))
    ]
    for number, (methods, n_seeds, spread, failed) in enumerate(designs):
        n = 130
        for auc in (0.8, 0.95) if methods > 2 else (0.8,):
            rng, labels = np.random.default_rng([14, number, n, int(1000 * auc)]), simulated.labelled(n, 0.5)
            spreads = SPREADS[spread](methods)
            kept = np.ones((methods, n_seeds), dtype=bool)
            kept[0, 1:] = not failed
            where = {"methods": methods, "seeds": n_seeds, "spread": spread, "failed": n_seeds - 1 if failed else 0}
            count, widths = Count(**where, auc=auc), []
            for weights in weights_of(np.arange(n), labels, small, rng):
                means = cohort_means(rng, labels, weights, np.full(methods, auc), spreads, kept)
                one = cohort_means(rng, labels, weights, np.array([auc]), spreads[-1:], kept[:1, :1])[0]
                for i, mean in enumerate(means):
                    name = "failed method" if failed and i == 0 else "mean"
                    if spread == "unequal":
                        name += ", steady" if spreads[i] < 0.5 else ", unsteady"
                    count.interval(name, mean.low, mean.high, auc)
                    count.interval("patients alone", *mean.patients, auc)
                gap = stats.mean_difference(means[0], means[-1])
                count.interval("difference", gap.low, gap.high, 0.0)
                last = means[-1]
                widths.append((last.high - last.low, last.patients[1] - last.patients[0], one.high - one.low))
            of_all, of_patients, of_one = np.mean(widths, axis=0)
            count.where |= {"to_patients": of_all / of_patients, "to_one_seed": of_all / of_one}
            yield from count.rows()


def cohort_means(
    rng: np.random.Generator,
    labels: np.ndarray,
    weights: np.ndarray,
    aucs: np.ndarray,
    spreads: np.ndarray,
    kept: np.ndarray,
) -> list[stats.Mean]:
    """Return the means of simulated methods (M,), as a leaderboard makes them; ``kept`` (M, S): runs that ended."""
    scores = simulated.cohort(rng, labels, aucs, kept.shape[1], spreads)
    areas = areas_under(labels, scores, np.vstack([np.ones(len(labels)), weights]))
    areas[~kept] = np.nan
    errors = stats.seed_errors([stats.seeds_of(own[None, :, 0], own[None, :, 1:]) for own in areas])
    owner, out = np.arange(len(labels)), []
    for own, error in zip(np.nanmean(areas, axis=1), errors, strict=True):
        class_aucs = stats.ClassAucs(np.array([1]), own[:1], np.ones(1), own[None, 1:])
        out.append(stats.mean_of(float(own[0]), stats.mean_interval(class_aucs, labels, owner), own[1:], error))
    return out


def areas_under(labels: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return (M, S, R) AUCs of untied scores (M, S, n) under weights (R, n); exact, as `bootstrap_auc`, and faster."""
    positive = labels > 0
    wins = (scores[..., positive, None] > scores[..., None, ~positive]).astype(np.float32)  # counts below 2^24
    w = weights.astype(np.float32).T
    won = np.einsum("msir,ir->msr", wins @ w[~positive], w[positive])
    pairs = weights[:, positive].sum(axis=1) * weights[:, ~positive].sum(axis=1)
    return won.astype(np.float64) / pairs


def rank_intervals(sizes: Sizes) -> Iterator[Row]:
    """Simultaneous intervals of ranks: how often all of a table hold every rank that the true AUCs allow."""
    small = replace(sizes, resampled=sizes.resampled // 2, resamples=sizes.resamples // 3)
    ladders = {"equal": 0.0, "steps of .01": 0.01, "steps of .05": 0.05}
    designs = [(m, s, ladder) for m in (2, 6, 12) for s in (1, 3) for ladder in ladders]
    for number, (methods, n_seeds, ladder) in enumerate(designs):
        step = ladders[ladder]
        if methods == 12 and step > 0.01:
            continue
        n, rng = 130, np.random.default_rng([15, number])
        labels, kept = simulated.labelled(n, 0.5), np.ones((methods, n_seeds), dtype=bool)
        aucs = 0.85 - step * np.arange(methods)
        first = np.array([1 + (aucs > own).sum() for own in aucs])
        last = np.array([(aucs >= own).sum() for own in aucs])
        count = Count(methods=methods, seeds=n_seeds, aucs=ladder)
        for weights in weights_of(np.arange(n), labels, small, rng):
            means = cohort_means(rng, labels, weights, aucs, np.full(methods, 0.3 * (n_seeds > 1)), kept)
            ranked = stats.rank_intervals(means)
            ends = {"simultaneous": (ranked.low, ranked.high)}
            if methods < 12:
                ends["pair by pair"] = _pair_by_pair(means)
            for name, (low, high) in ends.items():
                count.all_hold(name, bool((low > first).any()), bool((high < last).any()), np.mean(high - low) + 1)
        yield from count.rows()


def _pair_by_pair(means: list[stats.Mean]) -> tuple[np.ndarray, np.ndarray]:
    """Return the ends of ranks by paired differences at 5 % each, which takes no account of their number."""
    m = len(means)
    better = np.zeros((m, m), dtype=bool)
    for i in range(m):
        for j in range(i):
            gap = stats.mean_difference(means[i], means[j])
            better[i, j], better[j, i] = gap.low > 0, gap.high < 0
    return 1 + better.sum(axis=0), m - better.sum(axis=1)


#: name of the table -> its function
TABLES = {
    "intervals": intervals, "macro": macro, "macro_seeds": macro_seeds, "shapes": shapes, "patients": patients,
    "leaderboards": leaderboards, "seeds": seeds, "seed_levels": seed_levels, "rank_intervals": rank_intervals,
    "levels": levels, "patient_levels": patient_levels, "folds": folds, "runs": runs, "ranks": ranks, "power": power,
}  # fmt: skip
QUICK = Sizes(closed=200, resampled=40, resamples=199)


def table(name: str, sizes: Sizes) -> pd.DataFrame:
    return pd.DataFrame(TABLES[name](sizes))


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description="Simulate coverage and level; write tables and their README.")
    parser.add_argument("folder", nargs="?", type=Path, default=Path("results/statistics"))
    parser.add_argument("--tables", nargs="+", choices=list(TABLES), default=list(TABLES), metavar="TABLE")
    parser.add_argument("--quick", action="store_true", help="few simulations, to try the command")
    parsed = parser.parse_args(arguments)
    sizes = QUICK if parsed.quick else Sizes()
    tables_read, minutes = read(parsed.folder, [name for name in TABLES if name not in parsed.tables])
    for name in (name for name in TABLES if name in parsed.tables):
        began = time.process_time()
        tables_read[name] = table(name, sizes)
        minutes[name] = (time.process_time() - began) / 60
    write({name: tables_read[name] for name in TABLES if name in tables_read}, sizes, minutes, parsed.folder)


if __name__ == "__main__":
    main(sys.argv[1:])
