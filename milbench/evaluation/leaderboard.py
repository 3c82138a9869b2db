"""The leaderboard: one row a method and cohort, computed from the predictions on disk on every call."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from .. import metrics, stats
from ..config import digest
from ..config.method_key import find_method
from ..errors import MilbenchError
from ..measure.load import cost_notes
from ..runs.current_runs import conditions_of
from ..runs.records import CostRecord, RunRecord
from ..stats import threshold
from . import collapse
from . import known_answers as verdicts
from .ablation import effects
from .comparison import COMPARISON, NO_AUC, _options, compare, describe_outcomes
from .cross_cohort import CrossCohortComparison, across
from .notes import _notes
from .published_figures import compare_with_published
from .resource_use import AXES, FRONTS, SPENT, curves, mark_pareto_optimal, price_of, spent
from .runs_table import RunGroup, ranked_alone, read_cohorts, repetition_of
from .scores import Scores, difference, rounded_off, run_scores, same_trainings, score

__all__ = [
    "COLUMNS", "COMPARISON", "NO_AUC", "Leaderboard", "compare", "evaluate", "leaderboard", "run_scores",
]  # fmt: skip


#: The columns of every leaderboard, in order; see `columns`.
COLUMNS = (
    "suite", "version", "data", "rank", "method", "title", "family", "auc", "auc_low", "auc_high", "diff_to_best",
    "diff_low", "diff_high", "tied", "rank_low", "rank_high", "among_best", "auc_low_patients", "auc_high_patients",
    "auc_pooled", "seed_sd", "balanced_accuracy", "accuracy", "accuracy_sd", "average_precision", "f1", "sensitivity",
    "specificity", "threshold_rule", "threshold_low", "threshold_high", "log_loss", "brier", "ece", "runs_ok", "runs",
    "outcome", "reason", "seeds", "folds", "infer_patches_per_s", "infer_bags_per_s", "train_bags_per_s",
    "infer_peak_memory_bytes", "train_peak_memory_bytes", "cost_outcome", "parameters", "flops_per_bag_infer",
    "flops_per_bag_train", "conditions", "budget", "tuning", "checkpoint", "waived", "ordered_by", "auc_untuned",
    *SPENT, *FRONTS.values(), "price", "auc_last", "auc_best_val", "inflation", "inflation_low", "inflation_high",
)  # fmt: skip


def columns() -> list[str]:
    """Return the columns of a leaderboard in order: `COLUMNS`, then the metrics that are not among them.

    Raises:
        MilbenchError: a metric has the name of a column that holds something else.
    """
    known = {metric.name for metric in metrics.OWN} & set(COLUMNS)
    more = [metric.name for metric in metrics.registered() if metric.name not in known]
    if clash := sorted(set(more) & set(COLUMNS)):
        raise MilbenchError(
            f"a metric cannot be named {clash[0]!r}, a column of every leaderboard; rename it.", code="name-taken"
        )
    return [*COLUMNS, *more]


@dataclass(frozen=True, eq=False)
class Leaderboard:
    """Everything that the stored runs of one or more suites show: the table, and the results that reports add to it.

    Attributes:
        table: one row a method, cohort and set of conditions; see `leaderboard`.
        notes: sentences a reader needs before believing the table.
        suites: ``name-v1`` -> the resolved suite, as plain values.
        cohorts: sizes, classes and fingerprint of each cohort and set of conditions.
        environments: records of the environments that runs were made in.
        cost_environment: record of the environment whose costs are shown; empty where none was measured.
        effects: rows of `milbench.evaluation.ablation.effects`, of suites that name a reference.
        published: rows of `milbench.evaluation.published_figures.compare_with_published`.
        cross_cohort: comparisons over the cohorts of a suite.
        known_answers: `milbench.evaluation.known_answers.known_answers`; empty without details.
        curves: axis -> rows of `milbench.evaluation.resource_use.curves`; empty without details.
        resamples: bootstrap replicates behind the intervals.
    """

    table: pd.DataFrame
    notes: tuple[str, ...] = ()
    suites: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    cohorts: tuple[Mapping[str, Any], ...] = ()
    environments: tuple[Mapping[str, Any], ...] = ()
    cost_environment: Mapping[str, Any] = field(default_factory=dict)
    effects: tuple[Mapping[str, Any], ...] = ()
    published: tuple[Mapping[str, Any], ...] = ()
    cross_cohort: tuple[CrossCohortComparison, ...] = ()
    known_answers: Mapping[str, list[dict[str, Any]]] = field(default_factory=dict)
    curves: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    resamples: int = 0


def leaderboard(
    results: str | Path = "results/runs",
    suite: str | None = None,
    data: str | None = None,
    resamples: int = 2000,
    target_auc: float | None = None,
    price_per_hour: float | None = None,
    over_cohorts: bool = False,
    all_runs: bool = False,
    threshold_rule: str | None = None,
    without: Collection[str] = (),
) -> pd.DataFrame:
    """Return the table of `evaluate`: the leaderboard of everything below a results root.

    Args:
        results: results root, or the folder of one suite in it.
        suite: only this suite, ``name`` or ``name-v1``.
        data: only this cohort.
        resamples: bootstrap replicates of the intervals.
        target_auc: fill ``time_to_target_s`` with the device-seconds to this validation AUC.
        price_per_hour: of a device, in any currency; fills ``price``, what one training costs.
        over_cohorts: also compare methods over the cohorts of every suite with three or more of them; without it of
            suites that say so (``across = true``).
        all_runs: show every stored run, not only those of the last request.
        threshold_rule: call bags of two classes positive by this rule (`milbench.stats.threshold`); None: by each
            suite's.
        without: names of suites' folders that are passed over, as their results are damaged for instance.

    Returns:
        one row a method, cohort and set of conditions, columns `columns`; sorted by rank, then AUC. In particular:

        - ``auc``: mean over folds and seeds of the test AUC; ``auc_low``, ``auc_high``: 95 % interval over
          patients (or bags, as the suite says) and seeds, on the logit scale, where it keeps its coverage near 1; see
          `milbench.stats.mean_interval` and `milbench.stats.mean_of`, and `milbench.stats` for what it covers.
        - ``diff_to_best``, ``diff_low``, ``diff_high``: paired difference to the best complete method; the difference
          itself is never above 0, its interval may be.
        - ``rank``: by `auc`, 1 is best; NaN for a method one of whose runs is not ``ok``: its scores are over fewer
          runs (``runs_ok`` of ``runs``), and ``outcome`` counts what happened to the others. ``tied``: another method
          has the same rank.
        - ``threshold_rule``, ``threshold_low``, ``threshold_high``: how classes are predicted, ``argmax`` with more
          than two, and the range over runs of the probability of the positive class from which a bag is called
          positive.
        - the other metrics: means over runs; ``accuracy_sd``: standard deviation over the repetitions of a repeated
          k-fold (folds named ``r0-f3``), else over seeds; NaN where there is one.
        - ``infer_*``, ``train_bags_per_s``, ``train_peak_memory_bytes``: of the cost pass, all measured in one
          environment.
        - ``conditions``: distinguish this table from the cohort's others, which have another budget, tuning, protocol,
          number of threads or device: methods are ranked within a table, never across. ``budget``, ``tuning``,
          ``checkpoint``: of this table, in words. ``waived``: codes of the waived findings of ``milbench audit`` on the
          cohort. ``ordered_by``: what orders the bags of its runs, ``log-odds``,
          ``probabilities`` (rounded, so that bags far out tie) or both; scores of two orders are no fair comparison,
          and differences and intervals of ranks allow for what such ties can amount to.
          ``auc_untuned``: of the same method before tuning, on the folds and seeds of its tuned runs, where such runs
          are all there under otherwise the same conditions.
        - of oracle runs, which have no rank: ``auc_last`` and ``auc_best_val`` of the same trainings under honest
          protocols (without validation slides the last model is the only honest choice), and ``inflation``, the paired
          difference of ``auc`` to the latter with its interval.
        - the columns of `milbench.evaluation.resource_use.spent`: what the runs used; ``front_*``: whether no other
          ranked method has a higher AUC at that cost or the same AUC at a lower one.

    Raises:
        MilbenchError: nothing to show, methods tested on different bags, or damaged results.
    """
    return evaluate(
        results, suite, data, resamples=resamples, target_auc=target_auc, price_per_hour=price_per_hour,
        over_cohorts=over_cohorts, all_runs=all_runs, details=False, threshold_rule=threshold_rule, without=without,
    ).table  # fmt: skip


def evaluate(
    results: str | Path = "results/runs",
    suite: str | None = None,
    data: str | None = None,
    resamples: int = 2000,
    target_auc: float | None = None,
    price_per_hour: float | None = None,
    over_cohorts: bool = False,
    all_runs: bool = False,
    details: bool = True,
    threshold_rule: str | None = None,
    without: Collection[str] = (),
) -> Leaderboard:
    """Score everything below a results root: the leaderboard with its notes and the further results of reports.

    Args:
        results: results root, or the folder of one suite in it.
        suite: only this suite, ``name`` or ``name-v1``.
        data: only this cohort.
        resamples: bootstrap replicates of the intervals.
        target_auc: fill ``time_to_target_s`` with the device-seconds to this validation AUC.
        price_per_hour: of a device, in any currency; fills ``price``, what one training costs.
        over_cohorts: also compare methods over the cohorts of every suite with three or more of them; without it of
            suites that say so (``across = true``).
        all_runs: show every stored run, not only those of the last request.
        details: also compute `Leaderboard.curves` and `Leaderboard.known_answers`, which take half of the time.
        threshold_rule: call bags of two classes positive by this rule (`milbench.stats.threshold`); None: by each
            suite's.
        without: names of suites' folders that are passed over, as their results are damaged for instance.

    Returns:
        the leaderboard; `leaderboard` describes the columns of its table.

    Raises:
        MilbenchError: nothing to show, methods tested on different bags, or damaged results.
    """
    if resamples < 1:
        raise MilbenchError(
            f"resamples is {resamples}; it must be at least 1, and 1000 or more for a fair interval.",
            code="option-bad-value",
        )
    if price_per_hour is not None and not price_per_hour > 0:
        raise MilbenchError(
            f"the price of a device-hour is {price_per_hour}; it must be positive.", code="option-bad-value"
        )
    cohorts, of_other_tasks = ranked_alone(read_cohorts(Path(results), suite, data, all_runs=all_runs, without=without))
    if threshold_rule is not None:
        rule = threshold.named(threshold_rule)
        cohorts = [replace(c, suite=c.suite.model_copy(update={"threshold": rule})) for c in cohorts]
    environment, costs, notes = _one_environment(cohorts)
    notes += of_other_tasks
    shown = {(c.key, method) for c in cohorts if c.spec.tuning is None for method in c.runs}
    notes += cost_notes({key: cost.record for key, cost in costs.items() if cost.outcome == "ok" and key in shown})
    rows: list[dict[str, Any]] = []
    untuned: dict[tuple[str, str], Scores] = {}  # tables that were not tuned come first
    nan = float("nan")
    suites: dict[str, dict[str, Any]] = {}
    summaries: list[dict[str, Any]] = []
    environments: list[dict[str, Any]] = []
    changes: list[dict[str, Any]] = []
    printed: list[dict[str, Any]] = []
    together: list[tuple[RunGroup, list[Scores]]] = []
    for cohort in cohorts:
        scored = score(cohort, resamples)
        of = {s.method: s for s in scored}
        losses = collapse.never_better(cohort)
        block = _block(cohort, scored)
        for row in block:
            # Costs are measured with the suite's recipe and parameters; a tuned run may have others.
            cost = None if cohort.spec.tuning is not None else costs.get((cohort.key, row["method"]))
            row.update(_cost_columns(cost, row["parameters"]))
            row.update(spent(list(cohort.runs[row["method"]].values()), target_auc))
            row.update(_condition_columns(cohort))
            key, mine = (_untuned_key(cohort), row["method"]), of[row["method"]]
            row["auc_untuned"] = _before_tuning(untuned[key], mine) if key in untuned else nan
            row["price"] = nan if price_per_hour is None else price_of(row["train_device_seconds"], price_per_hour)
            if cohort.spec.tuning is None:
                untuned[key] = mine
        mark_pareto_optimal(block, cohort.spec.budget)
        _mark_inflation(cohort, block, scored, resamples)
        rows += sorted(block, key=_place)
        if (reference := _reference(cohort)) is not None:
            changes += effects(cohort, scored, reference, losses)
        printed += compare_with_published(cohort, block)
        if over_cohorts or cohort.suite.across:
            together.append((cohort, scored))
        notes += cohort.notes + _notes(cohort, scored) + collapse.notes(cohort, scored, losses)
        suites[f"{cohort.suite.name}-v{cohort.suite.version}"] = cohort.suite.model_dump(mode="json")
        summaries.append(_describe(cohort))
        # A run that failed may have been recorded by the process that started it, whose environment is another.
        for record in (r for runs in cohort.runs.values() for r in runs.values() if r.outcome == "ok"):
            _add_environment(environments, record.record.get("environment"))
    if len(environments) > 1:
        n = len(environments)
        notes.append(f"The runs were made in {n} environments; scores are shown together, timings never are.")
    return Leaderboard(
        table=pd.DataFrame(rows, columns=columns()),
        notes=tuple(dict.fromkeys(notes)),
        suites=suites,
        cohorts=tuple(summaries),
        environments=tuple(environments),
        cost_environment=environment,
        effects=tuple(changes),
        published=tuple(printed),
        cross_cohort=tuple(across(together, resamples)),
        known_answers=verdicts.known_answers(cohorts, resamples) if details else {},
        curves={axis: curves(cohorts, axis) for axis in AXES} if details else {},
        resamples=resamples,
    )


def _add_environment(known: list[dict[str, Any]], seen: dict[str, Any] | None) -> None:
    """Add a run's environment to those there are; where it differs in its commit alone, the commit is added."""
    if not seen:
        return
    same = next((e for e in known if e.get("fingerprint") == seen.get("fingerprint")), None)
    commit = (seen.get("software") or {}).get("commit")
    if same is None:
        known.append(seen | {"software": dict(seen.get("software") or {})})
    elif commit and commit not in (commits := str(same["software"].get("commit") or "")).split(", "):
        same["software"]["commit"] = f"{commits}, {commit}".removeprefix(", ")


def _reference(cohort: RunGroup) -> str | None:
    given = cohort.suite.reference
    return None if given is None else find_method(given, _options([cohort]))


def _untuned_key(cohort: RunGroup) -> str:
    """Return what a tuned table shares with the untuned one it is compared with."""
    return f"{cohort.key} {digest(conditions_of(cohort.spec) | {'tuning': None})}"


def _before_tuning(untuned: Scores, tuned: Scores) -> float:
    """Return the AUC of untuned runs on the folds and seeds of the tuned ones; NaN where one of them was not run so.

    Other seeds would mix their luck into what tuning seems to change.
    """
    runs, cells = (
        {(str(fold), int(seed)): float(auc) for fold, seed, auc in s.runs[["fold", "seed", "auc"]].to_numpy()}
        for s in (untuned, tuned)
    )
    if cells.keys() == runs.keys():
        return untuned.auc
    if not cells or cells.keys() - runs.keys():
        return float("nan")
    return float(stats.nanmean(np.array([runs[cell] for cell in sorted(cells)])))


def _condition_columns(cohort: RunGroup) -> dict[str, Any]:
    spec = cohort.spec
    tuning = "" if spec.tuning is None else f"{spec.tuning.trials} trials, {spec.tuning.sampler}"
    return {
        "conditions": cohort.label, "budget": str(spec.budget), "tuning": tuning,
        "checkpoint": spec.protocol.checkpoint, "waived": ", ".join(cohort.waived()),
    }  # fmt: skip


def _block(cohort: RunGroup, scored: list[Scores]) -> list[dict[str, Any]]:
    nan = float("nan")
    # What was selected on test has no place in an order.
    points = np.array([s.auc if s.complete and not cohort.oracle else nan for s in scored])
    ranks = stats.rank_intervals(
        [s.mean if known else None for s, known in zip(scored, ~np.isnan(points), strict=True)],
        off=[[rounded_off(a, b) for b in scored] for a in scored],
    )
    shared = Counter(ranks.rank[np.isfinite(ranks.rank)])
    best = scored[int(np.nanargmax(points))] if np.isfinite(points).any() else None
    rows = []
    measured = [metric.name for metric in metrics.registered()]
    for i, s in enumerate(scored):
        rank = ranks.rank[i]
        diff = stats.Difference(nan, nan, nan, nan) if best is None or np.isnan(rank) else difference(s, best)
        means: dict[str, Any] = {name: float(s.runs[name].mean()) if len(s.runs) else nan for name in measured}
        rows.append({
            "suite": cohort.suite.name, "version": cohort.suite.version, "data": cohort.data,
            "rank": rank, "method": s.method, "title": s.title, "family": s.family,
            **means, "auc": s.auc, "auc_low": s.low, "auc_high": s.high,
            "diff_to_best": diff.estimate, "diff_low": diff.low, "diff_high": diff.high,
            "tied": shared.get(rank, 0) > 1, "rank_low": ranks.low[i], "rank_high": ranks.high[i],
            "among_best": bool(ranks.best[i]), "auc_low_patients": s.mean.patients[0],
            "auc_high_patients": s.mean.patients[1], "auc_pooled": s.pooled, "seed_sd": s.mean.error.spread or nan,
            "accuracy_sd": _spread(s.runs), **_threshold_columns(s),
            "runs_ok": s.outcomes["ok"], "runs": len(cohort.cells),
            "outcome": describe_outcomes(s.outcomes), "reason": s.reason,
            "seeds": len({seed for _, seed in cohort.cells}), "folds": len({fold for fold, _ in cohort.cells}),
            "parameters": s.parameters, "ordered_by": s.ordered_by,
        })  # fmt: skip
    return rows


def _threshold_columns(s: Scores) -> dict[str, Any]:
    rule = str(s.runs["threshold_rule"].iloc[0]) if len(s.runs) else ""
    return {
        "threshold_rule": rule, "threshold_low": float(s.runs["threshold"].min()),
        "threshold_high": float(s.runs["threshold"].max()),
    }  # fmt: skip


def _mark_inflation(cohort: RunGroup, block: list[dict[str, Any]], scored: list[Scores], resamples: int) -> None:
    """Add to oracle scores those of the same trainings under honest protocols, and the paired difference."""
    nan = float("nan")
    for row in block:
        row.update(dict.fromkeys(("auc_last", "auc_best_val", "inflation", "inflation_low", "inflation_high"), nan))
    if not cohort.oracle:
        return
    last = {s.method: s for s in score(cohort, resamples, "last")}
    honest = {s.method: s for s in score(cohort, resamples, "best-val")}
    for row, scored_method in zip(block, scored, strict=True):
        other = honest[row["method"]]
        monitored = _monitored(list(cohort.runs[row["method"]].values()))
        row.update(auc_last=last[row["method"]].auc, auc_best_val=other.auc if monitored else nan)
        if scored_method.complete:
            gain = same_trainings(scored_method, other)
            row.update(inflation=gain.estimate, inflation_low=gain.low, inflation_high=gain.high)


def _monitored(runs: list[RunRecord]) -> bool:
    """Return whether there were validation slides: without them nothing was best on them."""
    done = next((run for run in runs if run.outcome == "ok"), None)
    history = None if done is None else done.history()
    return done is not None and history is not None and done.spec.protocol.monitor in history


def _place(row: dict[str, Any]) -> tuple[float, float, str]:
    rank = row["rank"] if row["rank"] == row["rank"] else np.inf
    auc = -round(row["auc"], 12) if row["auc"] == row["auc"] else np.inf
    return rank, auc, row["method"]


def _spread(runs: pd.DataFrame) -> float:
    """Standard deviation of the accuracy over repetitions of the k-fold, or over seeds; NaN where there is one."""
    if not len(runs):
        return float("nan")
    repetition = [repetition_of(str(fold)) for fold in runs["fold"]]
    repeated = None not in repetition and len(set(repetition)) > 1
    group = np.unique(np.array(repetition if repeated else runs["seed"].tolist()), return_inverse=True)[1]
    means = np.bincount(group, weights=runs["accuracy"].to_numpy(dtype=np.float64)) / np.bincount(group)
    return float(means.std(ddof=1)) if len(means) > 1 else float("nan")


def _describe(cohort: RunGroup) -> dict[str, Any]:
    labels, classes = cohort.labels(), cohort.classes()
    counts = labels["label"].value_counts()
    return {
        "suite": cohort.suite.name,
        "version": cohort.suite.version,
        "data": cohort.data,
        "fingerprint": cohort.fingerprint,
        "bags": len(labels),
        "patients": int(labels["patient_id"].nunique()),
        "classes": {name: int(counts.get(i, 0)) for i, name in enumerate(classes)},
        "positive": classes[1] if len(classes) == 2 else None,
        "folds": len({fold for fold, _ in cohort.cells}),
        "seeds": len({seed for _, seed in cohort.cells}),
        "unit": cohort.suite.unit,
        "waived": list(cohort.waived()),
    }


def _one_environment(
    cohorts: list[RunGroup],
) -> tuple[dict[str, Any], dict[tuple[str, str], CostRecord], list[str]]:
    """Choose the environment most costs were measured in; return its record, and those costs by cohort and method."""
    every = [(c.key, cost) for c in cohorts for costs in c.costs.values() for cost in costs]
    if not every:
        return {}, {}, []
    notes = []
    newest = max(cost.version for _, cost in every)
    if others := sum(cost.version != newest for _, cost in every):
        notes.append(
            f"{others} of the measurements of cost were made in the way of an older milbench and are left out; run the "
            "suite again to have them made anew."
        )
        every = [(key, cost) for key, cost in every if cost.version == newest]
    if part := sum(cost.outcome == "ok" and cost.part for _, cost in every):
        notes.append(
            f"{part} of the measurements of cost have not taken all of their turns; run the suite again for the rest."
        )
    counts = Counter(cost.environment for _, cost in every if cost.outcome == "ok")
    chosen = min(counts, key=lambda e: (-counts[e], e), default="")
    if len(counts) > 1:
        left = sum(counts.values()) - counts[chosen]
        notes.append(
            f"Costs were measured in {len(counts)} environments; those of the most common one are shown and {left} "
            "measurements of others are left out, because timings of different machines are not comparable."
        )
    kept: dict[tuple[str, str], CostRecord] = {}
    shown: dict[str, Any] = {}
    for name, cost in sorted(every, key=lambda pair: (pair[1].outcome == "ok", _measured(pair[1]))):
        # What failed has no timing to mix in; it is shown where nothing was measured.
        if cost.environment == chosen or cost.outcome != "ok":
            kept[name, cost.method] = cost
        if cost.environment == chosen:
            shown = dict(cost.record.get("environment") or {})
    return shown, kept, notes


def _measured(cost: CostRecord) -> tuple[str, int]:
    return str(cost.record.get("finished") or ""), (cost.path / "cost.json").stat().st_mtime_ns


def _cost_columns(cost: CostRecord | None, parameters: float) -> dict[str, Any]:
    # Of a measurement that did not end ok only the outcome is shown: its figures may be of half the passes.
    record = cost.record if cost is not None and cost.outcome == "ok" else {}

    def value(*keys: str) -> float:
        entry: Any = record
        for key in keys:
            entry = entry.get(key) if isinstance(entry, dict) else None
        return float("nan") if entry is None else float(entry)

    return {
        "infer_patches_per_s": value("infer", "patches_per_s"),
        "infer_bags_per_s": value("infer", "bags_per_s"),
        "train_bags_per_s": value("train", "bags_per_s"),
        "infer_peak_memory_bytes": value("memory", "infer_peak_bytes"),
        "train_peak_memory_bytes": value("memory", "train_peak_bytes"),
        "cost_outcome": cost.outcome if cost is not None else "",
        "parameters": parameters if parameters == parameters else value("parameters"),
        "flops_per_bag_infer": value("flops_per_bag_infer"),
        "flops_per_bag_train": value("flops_per_bag_train"),
    }
