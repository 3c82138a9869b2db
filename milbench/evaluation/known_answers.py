"""Verdicts on the cohorts whose correct answer is known, from stored predictions. This module needs no torch.

Unit tests (``raff-holt``): does a method learn from instances that are present, or from their absence? The validation
part, which is drawn as the training part is, gives its AUC under the training distribution; the test part, in which the
misleading sign is reversed, gives the other. Each AUC has an interval over bags and seeds.

- *violates*: the interval of the first lies above 0.5 and that of the second below it.
- *passes*: both intervals lie above `BARS`, the best AUC without the problem's concept.
- *unsolved*: neither; a method may be unable to express the concept, or not have learnt it.

Known posteriors (``bags.csv`` next to a cohort's labels): Bayes' rule gives the probability of class 1 of every bag,
given all of it, and given its instances without their order. Methods and posteriors are scored on the same test bags
under the same resamples, so that their differences are paired.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from .. import metrics, stats
from ..errors import MilbenchError
from ..formatting.text import ABSENT, with_interval
from ..runs.store import Store
from .runs_table import Cell, RunGroup
from .scores import Resampled, ScoredBags

#: The name of the dataset with the unit tests.
UNIT_TESTS = "raff-holt"
#: File of the known posterior of each bag, in a cohort's folder.
BAGS = "bags.csv"
#: Both intervals of a unit test must lie above these. Single concept: halfway between 0.5 and 1; a linear
#: instance score detects one of the concept's two forms and stops at 0.85. The others need A and B
#: together; a method that uses one of them alone reaches 0.9375 where copies can be counted (B is in half of the
#: negatives, once, and 1 to 4 times in the positives: 1/2 + 1/2 (3/4 + 1/8)), and 0.75 where they cannot (1/2 + 1/4).
BARS = {"single-concept": 0.75, "multi-concept": 0.9375, "false-frequency": 0.75}

_UNKNOWN = (float("nan"), float("nan"), float("nan"))

Verdict = Literal["passes", "unsolved", "violates", "incomplete"]

_UNIT_WORDS = """\
In these three problems of Raff and Holt (NeurIPS 2023) the absence of an instance separates the classes in training and
misleads in test. Train is the AUC on held-out bags drawn as in training, test the AUC on bags where that sign is
reversed, with 95 % intervals over bags and seeds. *violates*: the interval of train lies above 0.5 and that of test
below it: the method has learnt from an absence, which the standard assumption of multiple-instance learning excludes.
*passes*: both intervals lie above the best AUC without the concept ({bars}). *unsolved*: neither."""

_BAYES_WORDS = """\
The posterior of every bag is known, and with it the highest AUC that a method can reach. Share of the way is
(AUC - 0.5) / (Bayes AUC - 0.5) on the same test bags, with the 95 % interval of paired resamples; differences are
paired too. Bayes AUC is that of the known posterior; order-blind Bayes AUC that of the posterior without the order of
instances, which a permutation-invariant method exceeds only through sampling error. A method whose difference to it
lies above 0 uses the positions of instances."""


@dataclass(frozen=True)
class Estimate:
    """A mean AUC with its interval.

    Attributes:
        auc: mean over folds and seeds; NaN where no run is ``ok``.
        low, high: 95 % interval on the logit scale, over bags (or patients, as the suite says) and seeds; of an AUC of
            exactly 0 or 1 the exact bound, over bags alone.
        replicates: (R,), paired with those of everything else scored on the same part of the cohort.
        mean: the same with its error over seeds; None: no run is ``ok``.
    """

    auc: float
    low: float
    high: float
    replicates: stats.Array
    mean: stats.Mean | None = None


def known_answers(cohorts: Iterable[RunGroup], resamples: int = 2000) -> dict[str, list[dict[str, Any]]]:
    """Return the verdicts on every cohort whose correct answer is known.

    Args:
        cohorts: from `milbench.evaluation.runs_table.read_cohorts`.
        resamples: bootstrap replicates; the draws are those of the leaderboard.

    Returns:
        ``unit_tests`` and ``bayes``: rows of `unit_tests` and `against_bayes`, plain values.

    Raises:
        MilbenchError: predictions or ``bags.csv`` are damaged, or methods were scored on different bags.
    """
    rows: dict[str, list[dict[str, Any]]] = {"unit_tests": [], "bayes": []}
    for cohort in cohorts:
        rows["unit_tests"] += unit_tests(cohort, resamples)
        rows["bayes"] += against_bayes(cohort, resamples)
    return rows


def unit_tests(cohort: RunGroup, resamples: int = 2000) -> list[dict[str, Any]]:
    """Return one row a method of a unit test's cohort, none for another cohort.

    Returns:
        cohort, problem, pad, method, family, ``train_auc``, ``train_low``, ``train_high``, ``test_auc``, ``test_low``,
        ``test_high`` and ``verdict``; *incomplete* where not every run ended ``ok``.
    """
    spec = next((data for data in cohort.suite.data if data.name == cohort.data), None)
    if spec is None or (spec.dataset or "").replace("_", "-") != UNIT_TESTS or cohort.oracle:
        return []
    problem = str(spec.params.get("problem", "single-concept"))
    train, test = (estimates(cohort, split, resamples) for split in ("val", "test"))
    rows = []
    for method in cohort.runs:
        row: dict[str, Any] = {"cohort": cohort.name, "problem": problem, "pad": int(spec.params.get("pad", 0)),
                               "method": method, "family": _family(cohort, method)}  # fmt: skip
        for name, of in (("train", train[method]), ("test", test[method])):
            row |= {f"{name}_auc": of.auc, f"{name}_low": of.low, f"{name}_high": of.high}
        verdict = verdict_of(train[method], test[method], BARS[problem]) if _complete(cohort, method) else "incomplete"
        rows.append(row | {"verdict": verdict})
    return rows


def verdict_of(train: Estimate, test: Estimate, bar: float) -> Verdict:
    """Return the verdict of a unit test from the AUC as in training and the AUC with the sign reversed."""
    if train.low > 0.5 and test.high < 0.5:
        return "violates"
    return "passes" if min(train.low, test.low) > bar else "unsolved"


def against_bayes(cohort: RunGroup, resamples: int = 2000) -> list[dict[str, Any]]:
    """Return one row a method of a cohort whose posterior is known, none for another cohort.

    Returns:
        cohort, method, family and, each with ``_low`` and ``_high``: ``auc``; ``bayes``, the AUC of the posterior;
        ``share``, (AUC - 0.5) / (Bayes AUC - 0.5), NaN where the interval of Bayes contains 0.5; ``to_bayes``, the
        difference to it; ``iid``, the AUC of the order-blind posterior, and ``to_iid``; NaN where there is none.
        ``complete``: whether every run ended ``ok``.
    """
    known = _known(cohort)
    if known is None or cohort.oracle or len(cohort.classes()) != 2:
        return []
    every = estimates(cohort, "test", resamples, known)
    bayes = every["posterior"]
    rows = []
    for method in cohort.runs:
        own = every[method]
        row: dict[str, Any] = {"cohort": cohort.name, "method": method, "family": _family(cohort, method)}
        row |= _columns("auc", own.auc, own.low, own.high) | _columns("bayes", bayes.auc, bayes.low, bayes.high)
        row |= _columns("share", *share_of_the_way(own, bayes)) | _columns("to_bayes", *_difference(own, bayes))
        blind = every.get("posterior_iid")
        row |= _columns("iid", *((blind.auc, blind.low, blind.high) if blind else _UNKNOWN))
        row |= _columns("to_iid", *(_difference(own, blind) if blind else _UNKNOWN))
        rows.append(row | {"complete": _complete(cohort, method)})
    return rows


def share_of_the_way(own: Estimate, bayes: Estimate) -> tuple[float, float, float]:
    """Return (AUC - 0.5) / (Bayes AUC - 0.5) with the 95 % percentile interval of its paired replicates.

    NaN where the interval of the Bayes AUC contains 0.5.
    """
    if not bayes.low > 0.5:
        return _UNKNOWN
    ratios = (own.replicates - 0.5) / (bayes.replicates - 0.5)
    share = (own.auc - 0.5) / (bayes.auc - 0.5)
    low, high = stats.interval(ratios)
    stretch = 1.0 if own.mean is None else own.mean.stretch()
    return share, share + stretch * (low - share), share + stretch * (high - share)


def estimates(
    cohort: RunGroup, split: Literal["val", "test"], resamples: int, known: pd.DataFrame | None = None
) -> dict[str, Estimate]:
    """Score every method on one part of the cohort, and every column of ``known`` on the same bags.

    Args:
        cohort: the runs; two classes.
        split: which stored predictions.
        resamples: R; the draws are those of the leaderboard, for the same bags.
        known: scores in columns, one row a bag in the order of the cohort's labels.

    Returns:
        by method, and by column of ``known``.
    """
    bags = ScoredBags.read(cohort, resamples, split)
    scores: dict[str, dict[Cell, np.ndarray]] = {method: {} for method in cohort.runs}
    for (method, cell), (p, s) in bags.predicted.items():
        scores[method][cell] = metrics.order_of(p, s)
    for column, values in () if known is None else known.items():
        every = values.to_numpy()
        scores[str(column)] = {cell: every[bags.rows_of[cell[0]]] for cell in cohort.cells if cell[0] in bags.rows_of}
    drawn = {name: bags.resampled(cells) for name, cells in scores.items()}
    # Known posteriors have no seeds and take no part in the methods' error over seeds.
    trained = [name for name in drawn if name in cohort.runs]
    errors = dict(zip(trained, stats.seed_errors([drawn[name].seeds for name in trained]), strict=True))
    return {name: _estimate(bags, one, errors.get(name, stats.SeedError())) for name, one in drawn.items()}


def _estimate(bags: ScoredBags, resampled: Resampled, error: stats.SeedError) -> Estimate:
    defined = np.isfinite(resampled.cells)
    if not defined.any():
        return Estimate(*_UNKNOWN, np.full(bags.resamples, np.nan))
    auc = float(np.nanmean(resampled.cells))
    folds = [fold for fold, row in zip(bags.folds, defined, strict=True) if row.any()]
    mean = bags.mean(resampled, auc, folds, error)
    return Estimate(auc, mean.low, mean.high, resampled.replicates, mean)


@dataclass(frozen=True)
class Section:
    """A part of a report: heading, introduction, and tables of texts with a caption each."""

    heading: str
    words: str
    tables: list[tuple[str, pd.DataFrame]]


def sections(known: Mapping[str, Sequence[Mapping[str, Any]]] | None) -> list[Section]:
    """Return the sections of a report on `known_answers`; none without rows."""
    parts = []
    tests = pd.DataFrame(list((known or {}).get("unit_tests", [])))
    if len(tests):
        bars = ", ".join(f"{name.replace('-', ' ')}: {bar:g}" for name, bar in BARS.items())
        tables = [("Verdicts:", _matrix(tests)), *((f"{name}:", _unit_table(rows)) for name, rows in _blocks(tests))]
        parts.append(Section("Unit tests", _UNIT_WORDS.format(bars=bars), tables))
    bayes = pd.DataFrame(list((known or {}).get("bayes", [])))
    if len(bayes):
        tables = [(_reached(name, rows.iloc[0]), _bayes_table(rows)) for name, rows in _blocks(bayes)]
        parts.append(Section("Against Bayes", _BAYES_WORDS, tables))
    return parts


def _matrix(tests: pd.DataFrame) -> pd.DataFrame:
    short = tests.assign(cohort=tests["cohort"].str.split(" / ", n=1).str[-1])
    matrix = short.pivot(index=["method", "family"], columns="cohort", values="verdict")
    order = short.drop_duplicates(["method", "family"])
    matrix = matrix.loc[list(zip(order["method"], order["family"], strict=True)), short["cohort"].unique().tolist()]
    return matrix.fillna(ABSENT).reset_index().rename(columns={"method": "Method", "family": "Pooling"})


def _unit_table(rows: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({
        "Method": rows["method"],
        "Pooling": rows["family"],
        "Train AUC [95 %]": _texts(rows, "train"),
        "Test AUC [95 %]": _texts(rows, "test"),
        "Verdict": rows["verdict"],
    })  # fmt: skip


def _bayes_table(rows: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({
        "Method": rows["method"],
        "Pooling": rows["family"],
        "AUC [95 %]": _texts(rows, "auc"),
        "Share of the way [95 %]": _texts(rows, "share"),
        "Difference to Bayes [95 %]": _texts(rows, "to_bayes", signed=True),
        "Difference to order-blind Bayes [95 %]": _texts(rows, "to_iid", signed=True),
    })  # fmt: skip


def _reached(name: str, row: pd.Series) -> str:
    sentence = f"{name}: Bayes AUC {with_interval(row['bayes'], row['bayes_low'], row['bayes_high'])}"
    if row["iid"] == row["iid"]:
        sentence += f", order-blind Bayes AUC {with_interval(row['iid'], row['iid_low'], row['iid_high'])}"
    return f"{sentence}."


def _known(cohort: RunGroup) -> pd.DataFrame | None:
    """Read the posteriors of all bags, in the order of the cohort's labels; None where none are known."""
    file = Store(cohort.folder.parent, cohort.suite).cohort(cohort.data, cohort.fingerprint) / BAGS
    if not file.exists():
        return None
    try:
        content = io.BytesIO(cohort.listed(BAGS))
        table = pd.read_csv(content, dtype={"slide_id": str}, keep_default_na=False)
        names = [name for name in ("posterior", "posterior_iid") if name in table]
        if "posterior" not in names:
            return None
        known = table.set_index("slide_id")[names].astype("float64").reindex(cohort.labels().index)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise MilbenchError(
            f"{file} cannot be read ({reason}); run the suite again to write it.", code="cohort-damaged"
        ) from error
    if not known.apply(lambda column: column.between(0, 1)).all(axis=None):
        raise MilbenchError(
            f"{file} lacks the posterior of some bags of labels.csv; run the suite again to write it.",
            code="cohort-damaged",
        )
    return known


def _difference(own: Estimate, other: Estimate) -> tuple[float, float, float]:
    if own.mean is None or other.mean is None:
        difference = stats.paired_difference(own.auc, own.replicates, other.auc, other.replicates)
    elif np.array_equal(own.replicates, other.replicates):
        return 0.0, 0.0, 0.0
    else:
        difference = stats.mean_difference(own.mean, other.mean)
    return difference.estimate, difference.low, difference.high


def _columns(name: str, value: float, low: float, high: float) -> dict[str, float]:
    return {name: value, f"{name}_low": low, f"{name}_high": high}


def _complete(cohort: RunGroup, method: str) -> bool:
    runs = cohort.runs[method]
    return all(cell in runs and runs[cell].outcome == "ok" for cell in cohort.cells)


def _family(cohort: RunGroup, method: str) -> str:
    return str(next(iter(cohort.runs[method].values())).record.get("family") or "")


def _blocks(rows: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    return ((str(name), block) for name, block in rows.groupby("cohort", sort=False))


def _texts(rows: pd.DataFrame, name: str, signed: bool = False) -> list[str]:
    auc = "_auc" if name in ("train", "test") else ""
    columns = (rows[f"{name}{auc}"], rows[f"{name}_low"], rows[f"{name}_high"])
    return [with_interval(*ends, signed) for ends in zip(*columns, strict=True)]
