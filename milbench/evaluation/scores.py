"""Where test labels meet predictions: the only module that reads the labels of a cohort for scoring.

Nothing here trains, selects or tunes; nothing that does imports this module. Bags with split ``test`` are scored, no
others.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from .. import metrics, stats
from ..config.suites import meaning
from ..errors import MilbenchError
from ..formatting.text import count
from ..runs.records import RunRecord, read_suite, suite_folders
from ..stats import threshold
from ..tasks import CLASSIFICATION, task_named
from . import collapse

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from ..config import Suite, ThresholdRule
from .runs_table import Cell, Kept, RunGroup, ranked_alone, read_cohorts, repetition_of

#: Seed of the bootstrap: the same results give the same table.
SEED = 0


#: Peak memory is read in pages the system gave a process; below this it orders nothing.
MEMORY_FLOOR_BYTES = 0.1 * 2**20


#: What orders the bags of a run: log-odds; probabilities of runs that were made before log-odds were stored, and of
#: methods that define probabilities of their own alone.
LOG_ODDS, PROBABILITIES = "log-odds", "probabilities"


#: The most probable class is predicted, by no threshold: of more than two classes, and of what was chosen on test.
ARGMAX = "argmax"


#: Of a method without a score.
_UNKNOWN = stats.MacroInterval(float("nan"), float("nan"), False)


#: Probabilities (n, C) of bags, and their log-odds (n, C) where they are stored.
Predicted = tuple[np.ndarray, np.ndarray | None]


@dataclass(frozen=True)
class Scores:
    """A method's scores on a cohort.

    Attributes:
        runs: one row an ``ok`` run: fold, seed, bags, the columns of `metrics.all_metrics`, and
            ``ordered_by``: `LOG_ODDS` or `PROBABILITIES`, ``threshold_rule`` (what classes were predicted by: a rule of
            `milbench.stats.threshold`, or `ARGMAX`), ``threshold`` (the lowest probability of the positive class that
            is called positive; NaN with `ARGMAX`), ``threshold_reason`` (why the rule chose nothing and 0.5 stands),
            and `milbench.evaluation.collapse.of_predictions`.
        auc: mean AUC over folds and seeds; NaN where no run is ``ok`` or none is defined.
        low, high: its 95 % interval, over patients and seeds.
        mean: `auc` with what is known of its error, for paired differences and ranks.
        pooled: the mean over seeds of one AUC of the bags of all folds together; NaN where there is one fold.
        test_counts: fold -> test bags of each class.
        outcomes: how often each outcome, and ``missing``, occurs among the cells.
        reason: of the first run that is not ``ok``.
    """

    method: str
    title: str
    family: str
    runs: pd.DataFrame
    auc: float
    low: float
    high: float
    mean: stats.Mean
    pooled: float
    test_counts: dict[str, tuple[int, ...]]
    outcomes: Counter[str]
    reason: str
    parameters: float

    @property
    def complete(self) -> bool:
        """Return whether every run of the cohort is ``ok``."""
        return set(self.outcomes) == {"ok"}

    @property
    def ordered_by(self) -> str:
        """Return what orders the bags of its runs: `LOG_ODDS`, `PROBABILITIES`, or both, joined by ``and``."""
        return " and ".join(sorted(set(self.runs["ordered_by"])))

    @property
    def tied_by_rounding(self) -> float:
        """Return by how much at most its AUC is off because bags tie in rounded probabilities: half of those pairs."""
        rounded = self.runs["ordered_by"] == PROBABILITIES
        defined = self.runs["tied_pairs"].where(rounded, 0.0)[self.runs["auc"].notna()]
        return float(defined.mean()) / 2 if len(defined) else 0.0

    @property
    def replicates(self) -> stats.Array:
        """Return (R,) of `auc` over patients, seeds as they are; row r of every method holds the same patients."""
        return self.mean.replicates


@dataclass(frozen=True)
class Resampled:
    """Scores of runs under the resamples of patients, before seeds are pooled over methods.

    Attributes:
        cells: (F, S) AUC of each fold and seed; NaN where there is none.
        replicates: (R,) of their mean over patients, seeds as they are.
        classes: of each class, with its replicates.
        seeds: what the runs say of another draw of seeds.
        order: equal for scores that order all bags of all runs equally.
    """

    cells: stats.Array
    replicates: stats.Array
    classes: stats.ClassAucs
    seeds: stats.Seeds
    order: str


@dataclass(frozen=True)
class ScoredBags:
    """The predictions of one part of a cohort, and one draw of its bags for everything that is scored on them.

    That one draw pairs the scores. Bags that no run predicts are not drawn.

    Attributes:
        y: (n,) labels of all bags of the cohort.
        rows: (m,) of the bags that are scored, ascending.
        units: (m,) of each, what is drawn: its patient, or the bag itself.
        rows_of: fold -> the rows it scores.
        predicted: of every ``ok`` run.
        weights: fold -> (1 + R) weights of its bags, the first ones 1: the data as they are.
        folds, seeds: of the cohort.
        resamples: R.
    """

    y: np.ndarray
    rows: np.ndarray
    units: np.ndarray
    rows_of: dict[str, np.ndarray]
    predicted: dict[tuple[str, Cell], Predicted]
    weights: dict[str, stats.BagWeights]
    folds: list[str]
    seeds: list[int]
    resamples: int

    @classmethod
    def read(
        cls, cohort: RunGroup, resamples: int, split: Literal["val", "test"] = "test", kept: Kept | None = None
    ) -> ScoredBags:
        """Read the predictions of all ``ok`` runs and draw their bags.

        Args:
            cohort: the runs.
            resamples: replicates; the same draws for the same bags.
            split: which stored predictions; those of test bags are compared with what the folds test.
            kept: of an oracle cohort, see `score`.

        Raises:
            MilbenchError: methods predict different bags, or a file is missing or damaged.
        """
        labels, classes = cohort.labels(), len(cohort.classes())
        y, patients = labels["label"].to_numpy(), labels["patient_id"].to_numpy()
        rows_of, predicted = _predicted_bags(cohort, labels, classes, split, kept)
        if split == "test":
            _check_folds(cohort, labels, rows_of)
        rng = np.random.default_rng(SEED)
        rows = np.unique(np.concatenate([*rows_of.values(), np.empty(0, dtype=np.intp)]))
        weights: dict[str, stats.BagWeights] = {}
        units = patients[rows] if cohort.suite.unit == "patient" else rows
        if len(rows):
            drawn = stats.cluster_weights(units, y[rows], resamples, rng)
            drawn = np.vstack([np.ones(len(rows)), drawn])
            weights = {
                fold: stats.BagWeights.of(drawn[:, np.searchsorted(rows, own)], len(own))
                for fold, own in rows_of.items()
            }
        folds, seeds = (sorted(set(part)) for part in zip(*cohort.cells, strict=True))
        return cls(y, rows, units, rows_of, predicted, weights, folds, seeds, resamples)

    def resampled(self, scores: Mapping[Cell, np.ndarray]) -> Resampled:
        """Score what orders the bags, (n,) for class 1 or (n, C), of each fold and seed."""
        cells = np.full((len(self.folds), len(self.seeds), 1 + self.resamples), np.nan)
        areas = []
        order = hashlib.blake2b(digest_size=16)
        for (fold, seed), by in sorted(scores.items(), key=lambda item: item[0]):
            areas.append(stats.class_aucs(self.y[self.rows_of[fold]], by, self.weights[fold]))
            order.update(f"{fold}\0{seed}\0".encode() + _ranks(by))
            cells[self.folds.index(fold), self.seeds.index(seed)] = stats.nanmean(areas[-1][1])
        return Resampled(
            cells=cells[:, :, 0],
            replicates=stats.combine(cells[:, :, 1:], np.ones((self.resamples, len(self.seeds)))),
            classes=_by_class(areas, self.resamples),
            seeds=stats.seeds_of(cells[:, :, 0], cells[:, :, 1:]),
            order=order.hexdigest() if areas else "",
        )

    def mean(self, resampled: Resampled, auc: float, folds: Sequence[str], error: stats.SeedError) -> stats.Mean:
        """Return a mean AUC with its interval over patients and seeds.

        Args:
            resampled: AUCs of the runs and their replicates.
            auc: their mean over folds and seeds.
            folds: folds of the mean; without any, the interval over patients is NaN.
            error: of the seeds, pooled over methods.
        """
        interval = _UNKNOWN
        if len(folds):
            at = [np.searchsorted(self.rows, self.rows_of[fold]) for fold in folds]
            interval = stats.mean_interval(resampled.classes, self.y[self.rows], self.units, folds=at)
        return stats.mean_of(auc, interval, resampled.replicates, error, order=resampled.order)


def score(cohort: RunGroup, resamples: int, kept: Kept | None = None) -> list[Scores]:
    """Score every method of a cohort on the same test bags, with paired bootstrap replicates.

    Args:
        cohort: the runs.
        resamples: replicates; the same draws for the same cohort, whatever `kept` is.
        kept: of an oracle cohort: which evaluation of every run counts, ``oracle`` (the default), or what another
            protocol would have kept of the same trainings.

    Raises:
        MilbenchError: the cohort is of another task than classification, methods were tested on different bags, or a
            file is missing or damaged.
    """
    ranked_alone([cohort])
    labels, classes = cohort.labels(), len(cohort.classes())
    kept = kept or ("oracle" if cohort.oracle else None)
    rule: ThresholdRule | None = cohort.suite.threshold if classes == 2 and kept is None else None
    bags = ScoredBags.read(cohort, resamples, kept=kept)
    names = [metric.name for metric in metrics.registered()]
    columns = ["fold", "seed", "bags", *names, "ordered_by", *_THRESHOLD, *collapse.COLUMNS]
    tables, resampled = {}, {}
    for method, runs in cohort.runs.items():
        table = []
        order: dict[Cell, np.ndarray] = {}
        for (fold, seed), record in sorted(runs.items()):
            if record.outcome != "ok":
                continue
            truth, (p, s) = bags.y[bags.rows_of[fold]], bags.predicted[method, (fold, seed)]
            decided = threshold.Threshold() if rule is None else threshold_of(cohort, record, rule, labels)
            classes_of = decided.predicted(p, metrics.order_of(p, s))
            try:
                values: dict[str, Any] = metrics.all_metrics(truth, p, s, classes_of)
            except MilbenchError as error:
                raise MilbenchError(f"{record.path / 'predictions.parquet'}: {error}", code=error.code) from error
            if kept == "oracle":
                values["accuracy"] = metrics.accuracy_at_best_threshold(truth, p, s)
            by = order[fold, seed] = metrics.order_of(p, s)
            values["ordered_by"] = PROBABILITIES if s is None else str(record.record.get("ordered_by") or LOG_ODDS)
            values |= {
                "threshold_rule": rule or ARGMAX,
                "threshold": threshold.as_probability(decided.value, s is not None) if rule else float("nan"),
                "threshold_reason": decided.reason,
            }
            values |= collapse.of_predictions(truth, by, classes_of)
            table.append({"fold": fold, "seed": seed, "bags": len(truth), **values})
        tables[method] = pd.DataFrame(table, columns=columns)
        resampled[method] = bags.resampled(order)
    errors = stats.seed_errors([one.seeds for one in resampled.values()])
    counts = {fold: tuple(np.bincount(bags.y[rows], minlength=classes).tolist()) for fold, rows in bags.rows_of.items()}
    return [
        _scores(cohort, method, tables[method], bags, one, error, counts)
        for (method, one), error in zip(resampled.items(), errors, strict=True)
    ]


#: Columns of the scores of a run that say how its classes were predicted.
_THRESHOLD = ("threshold_rule", "threshold", "threshold_reason")


def threshold_of(
    cohort: RunGroup, record: RunRecord, rule: ThresholdRule, labels: pd.DataFrame | None = None
) -> threshold.Threshold:
    """Return the threshold that a rule chooses for a run of two classes, on its own validation bags alone.

    Args:
        cohort: of the run.
        record: the run; it ended ``ok``.
        rule: which.
        labels: those of the cohort, where they have been read.

    Raises:
        MilbenchError: the run's predictions are damaged, or are of other validation bags than its fold's.
    """
    if rule == "half":
        return threshold.Threshold()
    labels = cohort.labels() if labels is None else labels
    file, columns = record.path / "predictions.parquet", record.arrays("predictions.parquet")
    table = _selected(file, columns, "split", "val")
    fold, held = record.spec.fold, set(map(str, table["slide_id"]))
    parts = cohort.parts(fold)
    if parts is not None and held != set(parts.index[parts == "val"]):
        raise MilbenchError(
            f"{file} holds predictions of {count(len(held), 'validation bag')} that are not those of fold {fold}; "
            "delete its folder and run the suite again.",
            code="run-other-cohort",
        )
    if not held:
        return threshold.choose(rule, [], [])
    row_of = {str(slide): row for row, slide in enumerate(labels.index)}
    rows, (p, s) = _rows_of(file, table, row_of, 2)
    try:
        return threshold.choose(rule, labels["label"].to_numpy()[rows], metrics.order_of(p, s)[:, 1])
    except MilbenchError as error:
        raise MilbenchError(f"{file}: {error}", code=error.code) from error


def _ranks(scores: np.ndarray) -> bytes:
    """Return the ranks of scores (n, C) as bytes: equal for two tables that order the bags equally in all classes."""
    columns = scores[:, 1:] if scores.ndim == 2 and scores.shape[1] == 2 else scores.reshape(len(scores), -1)
    return b"".join(np.unique(one, return_inverse=True)[1].astype("<i8").tobytes() for one in columns.T)


def _by_class(areas: list[tuple[np.ndarray, stats.Array]], resamples: int) -> stats.ClassAucs:
    """Return the AUC of each class, as its runs enter the mean over runs of the mean over the classes that occur.

    Args:
        areas: of each run, classes (K,) and their AUCs (K, 1 + R), the first of the data as they are.
    """
    defined = [(classes, areas_of) for classes, areas_of in areas if np.isfinite(areas_of[:, 0]).all()]
    every = np.unique(np.concatenate([classes for classes, _ in defined])) if defined else np.empty(0, dtype=np.int64)
    total, weight = np.zeros((2, len(every), 1 + resamples))
    for classes, areas_of in defined:
        at, known = np.searchsorted(every, classes), np.isfinite(areas_of)
        total[at] += np.where(known, areas_of, 0.0) / len(classes)
        weight[at] += known / len(classes)
    mean = np.divide(total, weight, out=np.full_like(total, np.nan), where=weight > 0)
    return stats.ClassAucs(every, mean[:, 0], weight[:, 0] / max(len(defined), 1), mean[:, 1:])


def _pooled(
    method: str,
    runs: dict[Cell, RunRecord],
    rows_of: dict[str, np.ndarray],
    predicted: dict[tuple[str, Cell], Predicted],
    y: np.ndarray,
) -> float:
    """Return the mean over seeds of one AUC of all folds together, each repetition of a k-fold by itself.

    Scores of different folds' models are put in one order as they are (log-odds: what a class has over the rest).
    """
    parts: dict[tuple[int, str], list[Cell]] = {}
    for fold, seed in sorted(runs):
        if runs[fold, seed].outcome == "ok":
            parts.setdefault((seed, repetition_of(fold) or ""), []).append((fold, seed))
    results = []
    for cells in parts.values():
        if len(cells) > 1:
            truth = np.concatenate([y[rows_of[fold]] for fold, _ in cells])
            every = [predicted[method, cell] for cell in cells]
            known = all(s is not None for _, s in every)
            pooled = np.concatenate([metrics.order_of(p, s if known else None) for p, s in every])
            results.append(stats.weighted_auc(truth, pooled))
    return float(np.mean(results)) if results else float("nan")


def rounded_off(a: Scores, b: Scores) -> float:
    """Return by how much the difference of two methods may be off as rounding ties bags of one more than of the other.

    0 where bags of both are ordered by the same quantity, and where none tie in rounded probabilities.
    """
    orders = {order for s in (a, b) for order in s.runs["ordered_by"]}
    return a.tied_by_rounding + b.tied_by_rounding if len(orders) > 1 else 0.0


def difference(a: Scores, b: Scores) -> stats.Difference:
    """Return the paired difference in AUC of two methods of a cohort, as long as `rounded_off` asks for."""
    return stats.mean_difference(a.mean, b.mean).off_by(rounded_off(a, b))


def same_trainings(a: Scores, b: Scores) -> stats.Difference:
    """Return the paired difference of two evaluations of the same trainings, whose seeds are paired as well.

    Raises:
        MilbenchError: the two hold different runs.
    """
    runs = a.runs[["fold", "seed", "auc"]].merge(b.runs[["fold", "seed", "auc"]], on=["fold", "seed"])
    if len(runs) != len(a.runs) or len(runs) != len(b.runs):
        raise MilbenchError(
            f"two evaluations of {a.method} hold different runs; run the suite again.", code="run-other-cohort"
        )
    gap = (runs["auc_x"] - runs["auc_y"]).to_numpy(dtype=np.float64)
    cells = runs.assign(gap=gap).pivot(index="fold", columns="seed", values="gap").to_numpy(dtype=np.float64)
    return stats.paired_seeds_difference(a.mean, b.mean, stats.seeds_of(cells))


def _check_folds(cohort: RunGroup, labels: pd.DataFrame, rows_of: dict[str, np.ndarray]) -> None:
    """Refuse predictions of other bags than those that their fold tests."""
    for fold, rows in rows_of.items():
        tested = cohort.tested(fold)
        if tested is not None and tested != (predicted := set(labels.index[rows])):
            cell, runs = next((cell, r) for r in cohort.runs.values() for cell in r if cell[0] == fold)
            raise MilbenchError(
                f"{runs[cell].path} holds predictions of {count(len(predicted), 'bag')} for fold {fold}, "
                f"{len(predicted - tested)} of which the fold does not test ({len(tested)} it does); delete the folder "
                "and run the suite again.",
                code="run-other-cohort",
            )


def _predicted_bags(
    cohort: RunGroup, labels: pd.DataFrame, classes: int, split: str, kept: Kept | None
) -> tuple[dict[str, np.ndarray], dict[tuple[str, Cell], Predicted]]:
    """Return the rows of `labels` that each fold scores, and what every ok run predicts of them."""
    first: dict[str, tuple[np.ndarray, RunRecord]] = {}
    predicted = {}
    row_of = {str(slide): row for row, slide in enumerate(labels.index)}
    done = "tested" if split == "test" else "validated"
    for method, runs in cohort.runs.items():
        for cell, record in runs.items():
            if record.outcome != "ok":
                continue
            rows, predicted[method, cell] = _aligned(record, labels, row_of, classes, split, kept)
            known, other = first.setdefault(cell[0], (rows, record))
            if not np.array_equal(known, rows):
                raise MilbenchError(
                    f"{cohort.name}: in fold {cell[0]} {method} was {done} on {len(rows)} bags ({record.path}), "
                    f"{other.method} on {len(known)} others ({other.path}); run again with --overwrite all.",
                    code="run-other-cohort",
                )
    return {fold: rows for fold, (rows, _) in first.items()}, predicted


def _scores(
    cohort: RunGroup,
    method: str,
    table: pd.DataFrame,
    bags: ScoredBags,
    resampled: Resampled,
    error: stats.SeedError,
    counts: dict[str, tuple[int, ...]],
) -> Scores:
    runs = cohort.runs[method]
    some = next(iter(runs.values())).record
    bad = [runs[cell] for cell in cohort.cells if cell in runs and runs[cell].outcome != "ok"]
    parameters = [r.record["parameters"] for r in runs.values() if r.record.get("parameters") is not None]
    auc = float(table["auc"].mean()) if len(table) else float("nan")
    mean = bags.mean(resampled, auc, table["fold"].unique().tolist(), error)
    return Scores(
        method=method,
        title=str(some.get("title") or method),
        family=str(some.get("family") or ""),
        runs=table,
        auc=auc,
        low=mean.low,
        high=mean.high,
        mean=mean,
        pooled=_pooled(method, runs, bags.rows_of, bags.predicted, bags.y),
        test_counts=counts,
        outcomes=Counter(runs[cell].outcome if cell in runs else "missing" for cell in cohort.cells),
        reason=bad[0].reason if bad else "",
        parameters=float(parameters[0]) if parameters else float("nan"),
    )


def changed_since(root: Path, suite: Suite) -> list[str]:
    """Return the fields in which a suite means something else than the one of its name and version that was run.

    Args:
        root: results root, or the folder of the suite.
        suite: as its file is now.
    """
    name = f"{suite.name}-v{suite.version}"
    for folder in suite_folders(root):
        try:
            then = read_suite(folder)
        except MilbenchError:  # damaged: whoever shows its runs says so
            continue
        if f"{then.name}-v{then.version}" == name:
            before, now = meaning(then), meaning(suite)
            return [field for field in now if now[field] != before[field]]
    return []


def _aligned(
    record: RunRecord, labels: pd.DataFrame, row_of: Mapping[str, int], classes: int, split: str, kept: Kept | None
) -> tuple[np.ndarray, Predicted]:
    """Return the rows of `labels` of the bags of a part, ascending, and what a run predicts of them."""
    if kept is not None:
        return _of_trajectory(record, labels, row_of, classes, kept)
    file, columns = record.path / "predictions.parquet", record.arrays("predictions.parquet")
    return _rows_of(file, _selected(file, columns, "split", split), row_of, classes, split)


def _of_trajectory(
    record: RunRecord, labels: pd.DataFrame, row_of: Mapping[str, int], classes: int, kept: Kept
) -> tuple[np.ndarray, Predicted]:
    """Return one evaluation: the last, the one best on validation, or, as no honest protocol can, the one whose test
    AUC is the highest."""
    file, columns = record.path / "trajectory.parquet", record.arrays("trajectory.parquet")
    evaluations = np.unique(columns.get("evaluation", np.empty(0)))
    row_sets = [
        _rows_of(file, _selected(file, columns, "evaluation", each), row_of, classes) for each in evaluations
    ] or [_rows_of(file, {}, row_of, classes)]
    history, monitor = record.history(), record.spec.protocol.monitor
    if kept == "best-val" and history is None:
        raise MilbenchError(
            f"{record.path / 'history.csv'} is missing; delete its folder and run the suite again.",
            code="store-damaged",
        )
    unseen = history is not None and monitor not in history  # there were no validation slides
    if kept == "last" or (kept == "best-val" and unseen):
        return row_sets[-1]
    if kept == "best-val" and history is not None:
        value = task_named(record.spec.task).monitor(monitor).to_minimise(history[monitor])
        return row_sets[int(np.argmin(value.fillna(np.inf)))]
    y = labels["label"].to_numpy()
    aucs = [metrics.auc(y[rows], p, s) for rows, (p, s) in row_sets]
    return row_sets[int(np.nanargmax(aucs)) if np.isfinite(aucs).any() else -1]


def _selected(file: Path, columns: Mapping[str, np.ndarray], name: str, value: Any) -> dict[str, np.ndarray]:
    """Return the rows of a table in which one column has a value."""
    if name not in columns or "slide_id" not in columns:
        raise MilbenchError(
            f"{file} lacks slide_id or {name}; delete its folder and run the suite again.", code="store-damaged"
        )
    chosen = columns[name] == value
    return {column: values[chosen] for column, values in columns.items()}


def _rows_of(
    file: Path, table: Mapping[str, np.ndarray], row_of: Mapping[str, int], classes: int, split: str = "test"
) -> tuple[np.ndarray, Predicted]:
    every = task_named(CLASSIFICATION).prediction_columns(classes)
    columns, scores = list(every[:classes]), list(every[classes:])
    if not len(table.get("slide_id", ())) or not set(columns) <= set(table) or f"p{classes}" in table:
        raise MilbenchError(
            f"{file} holds no {split} bags with {classes} classes; delete its folder and run again.",
            code="store-damaged",
        )
    if "s0" in table and not set(scores) <= set(table):
        raise MilbenchError(
            f"{file} lacks the log-odds of some classes; delete its folder and run the suite again.",
            code="store-damaged",
        )
    rows = np.array([row_of.get(str(slide), -1) for slide in table["slide_id"]], dtype=np.intp)
    order = np.argsort(rows)
    rows = rows[order]
    if rows[0] < 0 or (rows[1:] == rows[:-1]).any():
        problem = "bags that its cohort's labels.csv has not" if rows[0] < 0 else "a bag twice"
        raise MilbenchError(f"{file} holds {problem}; delete its folder and run the suite again.", code="store-damaged")

    def matrix(names: list[str]) -> np.ndarray:
        return np.column_stack([table[name][order] for name in names]).astype(np.float64)

    return rows, (matrix(columns), matrix(scores) if "s0" in table else None)


def run_scores(root: Path, suite: str | None = None, data: str | None = None) -> pd.DataFrame:
    """Return one row an ``ok`` run: suite, version, data, method, conditions, tuned, checkpoint, fold, seed, bags, and
    every metric; no intervals. Cohorts of other tasks than classification are left out."""
    parts: Iterable[pd.DataFrame] = _run_scores(ranked_alone(read_cohorts(root, suite, data))[0])
    return pd.concat(parts, ignore_index=True)


def _run_scores(cohorts: list[RunGroup]) -> Iterator[pd.DataFrame]:
    for cohort in cohorts:
        for scored in score(cohort, resamples=1):
            head = {
                "suite": cohort.suite.name,
                "version": cohort.suite.version,
                "data": cohort.data,
                "method": scored.method,
                "conditions": cohort.label,
                "tuned": cohort.spec.tuning is not None,
                "checkpoint": cohort.spec.protocol.checkpoint,
            }
            yield pd.DataFrame(head, index=scored.runs.index).join(scored.runs)
