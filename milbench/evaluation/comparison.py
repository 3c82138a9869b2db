"""Two methods against each other: the paired difference, its interval and its tests."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from .. import stats
from ..config.method_key import find_method
from ..errors import MilbenchError, did_you_mean
from ..formatting.text import listed
from ..runs.current_runs import CONDITIONS, conditions_of
from ..runs.records import OUTCOMES
from .scores import (
    PROBABILITIES,
    RunGroup,
    Scores,
    difference,
    ranked_alone,
    read_cohorts,
    score,
)

#: Why two methods are not compared where every run ended ok.
NO_AUC = "the AUC is defined on no fold"

#: Why two methods are not compared on a cohort of another task.
NOT_RANKED = "the cohort is of another task than classification, and the AUC is of classification alone"


#: The columns of a comparison of two methods.
COMPARISON = (
    "suite", "version", "data", "unit", "a", "b", "auc_a", "auc_b", "difference", "low", "high", "p", "told_apart",
    "seeds", "folds", "reason", "conditions", "waived", "note",
)  # fmt: skip


def compare(
    a: str,
    b: str,
    results: str | Path = "results/runs",
    suite: str | None = None,
    data: str | None = None,
    resamples: int = 2000,
    all_runs: bool = False,
) -> pd.DataFrame:
    """Return the paired difference in AUC of two methods, one row a cohort on which both were run.

    Args:
        a, b: methods, as the leaderboard names them or in another spelling of the same parameters.
        results: results root, or the folder of one suite in it.
        suite: only this suite, ``name`` or ``name-v1``.
        data: only this cohort.
        resamples: bootstrap replicates; the same as the leaderboard's, so that both give the same interval.
        all_runs: compare on whatever was run, not only on the folds and seeds of the last request.

    Returns:
        columns `COMPARISON`: ``difference`` is a - b with its 95 % interval ``low``, ``high`` and bootstrap ``p``;
        ``told_apart`` is whether 0 lies outside the interval. Where a run of either did not end ``ok`` the two were not
        scored on the same runs, and where no fold tests two classes or the task is another there is no AUC: the
        difference is NaN, ``told_apart`` None, and ``reason`` says why. Where bags of one method are ordered by
        log-odds and of the other by rounded probabilities, ``note`` says so, and the interval is longer by what the
        pairs of bags that tie in the probabilities can amount to (`milbench.evaluation.scores.rounded_off`).

    Raises:
        MilbenchError: a method no cohort was run with, cohorts of other tasks than classification alone, one method
            given twice, or damaged results.
    """
    if resamples < 1:
        raise MilbenchError(
            f"resamples is {resamples}; it must be at least 1, and 1000 or more for a fair interval.",
            code="option-bad-value",
        )
    cohorts = read_cohorts(Path(results), suite, data, methods=(a, b), all_runs=all_runs)
    for one, other in ((a, b), (b, a)):
        _refuse_absent(one, other, cohorts)
    known = _options(cohorts)
    a, b = _known_method(a, known, results), _known_method(b, known, results)
    if a == b:
        raise MilbenchError(f"{a} is compared with itself; give two methods.", code="option-conflict")
    rows: list[dict[str, Any]] = []
    others: list[RunGroup] = []  # of other tasks than classification
    oracles = False
    for cohort in cohorts:
        if cohort.oracle and a in cohort.runs and b in cohort.runs:
            oracles = True
        elif a in cohort.runs and b in cohort.runs and not cohort.ranked:
            others.append(cohort)
        elif a in cohort.runs and b in cohort.runs:
            by_method = {s.method: s for s in score(cohort, resamples)}
            rows.append(_compared(cohort, by_method[a], by_method[b]))
    if not rows and oracles:
        raise MilbenchError(
            f"{a} and {b} were run under the oracle protocol alone, which chooses on test; such runs are not compared.",
            code="compare-unlike-runs",
        )
    if not rows:
        ranked_alone(others)
    if not rows and (differ := _apart(cohorts, a, b)):
        raise MilbenchError(
            f"{a} and {b} were never run under the same conditions ({', '.join(differ)} differ), and a comparison "
            "across them would not be matched; run both in one suite.",
            code="compare-unlike-runs",
        )
    if not rows:
        raise MilbenchError(
            f"no cohort in {results} was run with both {a} and {b}; run a suite with -m {a} -m {b}.",
            code="results-missing",
        )
    rows += [_left_out(cohort, a, b) for cohort in others]
    return pd.DataFrame(rows, columns=list(COMPARISON))


def _refuse_absent(method: str, other: str, cohorts: list[RunGroup]) -> None:
    """Refuse a method whose runs are all of an earlier state of the cohorts, and name the command that renews them."""
    if find_method(method, _options(cohorts)) is not None:
        return
    for cohort in cohorts:
        for name, why in cohort.absent.items():
            if find_method(method, [name]) is not None:
                source = (cohort.request.source if cohort.request else "") or "SUITE"
                raise MilbenchError(
                    f"{cohort.data}: {name} was run {why.replace('{other}', other)}; run {name} again: "
                    f"milbench run {shlex.quote(source)} -m {shlex.quote(name)}.",
                    code="runs-not-done",
                )


def _known_method(text: str, known: Mapping[str, Mapping[str, Any]], results: str | Path) -> str:
    """Return the method as the results name it, in whatever spelling of the same parameters it is given."""
    matches = find_method(text, known)
    if matches is None:
        named = text.partition("[")[0].strip().lower()
        same = [method for method in known if method.partition("[")[0] == named]
        hint = f" There are runs of {', '.join(map(repr, same))}." if same else did_you_mean(text, known)
        raise MilbenchError(f"no run of {text!r} in {results}.{hint}", code="results-unknown-name")
    return matches


def _options(cohorts: Sequence[RunGroup]) -> dict[str, dict[str, Any]]:
    """Return every method of some cohorts, in order, with all its options as a run of it records them."""
    every = {
        method: next(iter(runs.values())).spec.params
        for cohort in cohorts for method, runs in cohort.runs.items() if runs
    }  # fmt: skip
    return dict(sorted(every.items()))


def _compared(cohort: RunGroup, a: Scores, b: Scores) -> dict[str, Any]:
    bad = [f"{s.method}: {describe_outcomes(s.outcomes)}" for s in (a, b) if not s.complete]
    nan = float("nan")
    result = stats.Difference(nan, nan, nan, nan) if bad else difference(a, b)
    known = not bad and np.isfinite(result.low)
    unequal = _orders_differ(a, b)
    return {
        "suite": cohort.suite.name, "version": cohort.suite.version, "data": cohort.data, "unit": cohort.suite.unit,
        "a": a.method, "b": b.method, "auc_a": a.auc, "auc_b": b.auc, "difference": result.estimate, "low": result.low,
        "high": result.high, "p": result.p, "told_apart": not result.tied if known else None,
        "seeds": len({seed for _, seed in cohort.cells}), "folds": len({fold for fold, _ in cohort.cells}),
        "reason": "; ".join(bad) or ("" if known else NO_AUC), "conditions": cohort.label,
        "waived": ", ".join(cohort.waived()), "note": _of_orders(cohort, a, b) if unequal else "",
    }  # fmt: skip


def _left_out(cohort: RunGroup, a: str, b: str) -> dict[str, Any]:
    nan = float("nan")
    numbers = dict.fromkeys(("auc_a", "auc_b", "difference", "low", "high", "p"), nan)
    folds, seeds = (len(set(part)) for part in zip(*cohort.cells, strict=True))
    return {
        "suite": cohort.suite.name, "version": cohort.suite.version, "data": cohort.data, "unit": cohort.suite.unit,
        "a": a, "b": b, **numbers, "told_apart": None, "seeds": seeds, "folds": folds, "reason": NOT_RANKED,
        "conditions": cohort.label, "waived": ", ".join(cohort.waived()), "note": "",
    }  # fmt: skip


def _orders_differ(a: Scores, b: Scores) -> bool:
    """Return whether the runs of two methods are ordered by different quantities."""
    return len({order for s in (a, b) for order in s.runs["ordered_by"]}) > 1


def _of_orders(cohort: RunGroup, a: Scores, b: Scores) -> str:
    """Say which of two methods is ordered by rounded probabilities, what that can amount to, and what renews it."""
    by = {s.method: s for s in (a, b) if PROBABILITIES in s.ordered_by}
    ties = listed([f"{name} (by up to {s.tied_by_rounding:.3f}, in bags that tie)" for name, s in by.items()])
    again = [name for name in by if not _defines_probabilities(cohort, name)]
    advice = f"; run it again: {_run_again(cohort, again)}" if again else ""
    return f"the AUC may be off for want of log-odds of {ties}{advice}"


def _defines_probabilities(cohort: RunGroup, method: str) -> bool:
    """Return whether a method defines probabilities alone, so that new runs of it have no log-odds either."""
    return any("ordered_by" in record.record for record in cohort.runs[method].values())


def _run_again(cohort: RunGroup, methods: Sequence[str]) -> str:
    """Return the command that makes all runs of some methods again."""
    source = (cohort.request.source if cohort.request else "") or "SUITE"
    named = "".join(f" -m {shlex.quote(method)}" for method in methods)
    return f"milbench run {shlex.quote(source)} --overwrite all{named}"


def _apart(cohorts: list[RunGroup], a: str, b: str) -> list[str]:
    """Return the conditions in which runs of two methods on one cohort differ."""
    differ = set()
    for one in cohorts:
        for other in cohorts:
            if a in one.runs and b in other.runs and one.key == other.key:
                own, others = conditions_of(one.spec), conditions_of(other.spec)
                differ |= {name for name in CONDITIONS if own[name] != others[name]}
    return sorted(differ)


def describe_outcomes(outcomes: Counter[str]) -> str:
    """Return how many runs did not end ``ok``, by outcome, as in ``2 oom, 1 missing``; ``ok`` where all did."""
    bad = [f"{outcomes[name]} {name}" for name in (*OUTCOMES[1:], "missing") if outcomes[name]]
    return ", ".join(bad) or "ok"
