"""Methods over several cohorts of one suite: mean ranks, one score of all, ratings, and how often one beats another.

Each number answers another question, and with few cohorts all of them are uncertain; the report says so. This module
needs no torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from .. import stats
from ..config import digest
from ..formatting.text import fixed, listed, with_interval
from ..runs.current_runs import conditions_of
from ..stats.base import equalized
from .runs_table import repetitions
from .scores import rounded_off

if TYPE_CHECKING:
    from .runs_table import RunGroup
    from .scores import Scores

#: Of cohorts, from which on methods are shown over them; Friedman's chi-square is rough even then.
FEWEST = 3

WORDS = """\
This table compares the methods whose runs ended `ok` on all cohorts. Rows are sorted by mean rank alone, so an IQM or a
rating may be higher in a lower row. Mean rank: rank of the AUC within a cohort (1 is best, ties share a rank), averaged
over cohorts; it depends on which other methods are in the table. Friedman's test is of the hypothesis that all methods
have the same mean rank; Nemenyi's critical difference names the pairs whose mean ranks differ, and may name none where
Friedman's test rejects. IQM: the interquartile mean of AUC over all runs of all cohorts together (a run is one seed,
and one repetition of a repeated k-fold, mean over its folds); a cohort where every method is low may have no part in
it. P(beats ...): the probability that a run of the method scores higher than a run of the method with the best mean
rank, which these same runs chose, on a cohort drawn at random; 0.5 means that neither is better. The intervals of both
cover another draw of runs on the same bags (stratified bootstrap, expanded for the small number of runs). They do not
cover other bags, treat runs of two methods as independent, are not corrected for the number of methods, and have no
width where every run of one method is above every run of the other, which is not certainty. Elo: from wins and ties
between methods within cohorts (Bradley and Terry; mean 1000, 400 points a factor of ten in the odds); its interval
covers another draw of cohorts, and in simulation contains the true value 93 to 95 % of the time with ten or more
cohorts, and 90 % with five. The cohorts of a benchmark are few and not a random sample: read the tables by cohort
first."""

#: Permutations of ranks within cohorts behind Friedman's p: with few cohorts its distributions are rough.
_PERMUTATIONS = 9999


@dataclass(frozen=True)
class CrossCohortComparison:
    """The cohorts of one suite under the same conditions, and the methods that were run to their end on all of them.

    Attributes:
        name: ``suite-v1``, with the conditions where there are several.
        cohorts, methods: N and k of them; methods by mean rank, best first.
        left_out: methods that were not run to their end on every cohort.
        runs: method -> (S, N) AUC of runs; S is 1 where cohorts have different numbers of runs.
        friedman: test of the mean AUCs over cohorts, methods in the order of `methods`; None with two methods.
        p: of it, by permutations of ranks within cohorts; NaN with two methods.
        rounded: methods of which bags tie in rounded probabilities on some cohort where others are ordered by log-odds.
        rows: one a method: method, mean_rank, iqm, iqm_low, iqm_high, elo, elo_low, elo_high, beats, beats_low,
            beats_high (NaN for the first; intervals over runs are NaN where S is 1).
    """

    name: str
    cohorts: tuple[str, ...]
    methods: tuple[str, ...]
    left_out: tuple[str, ...]
    runs: dict[str, stats.Array]
    friedman: stats.Friedman | None
    p: float
    rows: tuple[dict[str, Any], ...]
    rounded: tuple[str, ...] = ()

    def sentence(self) -> str:
        """Say whether mean ranks separate methods, and which."""
        left = f" Left out, as not all their runs ended well: {listed(self.left_out)}." if self.left_out else ""
        head = f"{len(self.cohorts)} cohorts ({listed(self.cohorts)}), {len(self.methods)} methods."
        if len(next(iter(self.runs.values()))) == 1:
            head += " One run a method and cohort, or different numbers of them: nothing is known of another draw."
        if self.rounded:
            left += (
                f" Bags of {listed(self.rounded)} tie in rounded probabilities where those of others are ordered by "
                "log-odds, so ranks of these separate no methods until they are run again."
            )
        if self.friedman is None:
            return f"{head}{left}"
        f = self.friedman
        test = (
            f"Friedman's test that all methods have the same mean rank: p {_p(self.p)} (ranks permuted within cohorts)."
            f" Mean ranks that differ by less than {f.critical_difference:.2f} are not separated (Nemenyi, "
            f"{100 * f.alpha:g} % over all pairs)"
        )
        pairs = f.pairs
        apart = [
            f"{self.methods[i]} from {self.methods[j]}"
            for i in range(len(pairs))
            for j in range(i + 1, len(pairs))
            if pairs[i, j] < f.alpha and not {self.methods[i], self.methods[j]} & {*self.rounded}
        ]
        detail = f", which separates {listed(apart)}" if apart else ", which separates none of these methods"
        return f"{head}{left} {test}{detail}."

    def table(self) -> pd.DataFrame:
        """Return the rows as a report shows them."""
        return pd.DataFrame({
            "Method": list(self.methods),
            "Mean rank": [fixed(r["mean_rank"], 2) for r in self.rows],
            "IQM of AUC [95 %]": [with_interval(r["iqm"], r["iqm_low"], r["iqm_high"]) for r in self.rows],
            "Elo [95 %]": [_elo(r) for r in self.rows],
            f"P(beats {short(self.methods)[0]}) [95 %]": [
                with_interval(r["beats"], r["beats_low"], r["beats_high"]) for r in self.rows
            ],
        })  # fmt: skip


def across(scored: Sequence[tuple[RunGroup, Sequence[Scores]]], resamples: int = 2000) -> list[CrossCohortComparison]:
    """Return what can be said over the cohorts of each suite and set of conditions that has `FEWEST` of them.

    Args:
        scored: cohorts with their scores, `milbench.evaluation.scores.score`; those that chose on test are passed over.
        resamples: bootstrap replicates.
    """
    groups: dict[tuple[str, str], list[tuple[RunGroup, Sequence[Scores]]]] = {}
    for cohort, scores in scored:
        if not cohort.oracle:
            suite = f"{cohort.suite.name}-v{cohort.suite.version}"
            conditions = digest(conditions_of(cohort.spec))
            groups.setdefault((suite, conditions), []).append((cohort, scores))
    comparisons = [_over(group, resamples) for group in groups.values() if len(group) >= FEWEST]
    return [one for one in comparisons if one is not None]


def _over(group: Sequence[tuple[RunGroup, Sequence[Scores]]], resamples: int) -> CrossCohortComparison | None:
    per_cohort = [{s.method: s for s in scores} for _, scores in group]
    every = sorted(set().union(*per_cohort))
    methods = [m for m in every if all(m in of and of[m].complete and of[m].auc == of[m].auc for of in per_cohort)]
    if len(methods) < 2:
        return None
    auc = equalized(np.array([[of[m].auc for m in methods] for of in per_cohort]))
    ranks = pd.DataFrame(-auc).rank(axis=1).mean().to_numpy()
    order = sorted(range(len(methods)), key=lambda i: (ranks[i], methods[i]))
    methods, auc, ranks = [methods[i] for i in order], auc[:, order], ranks[order]
    runs = _equalized({m: _runs([of[m] for of in per_cohort]) for m in methods})
    elo = stats.elo_ratings(stats.pairwise_wins(auc), resamples=resamples)
    rows = []
    single = len(runs[methods[0]]) == 1
    for i, method in enumerate(methods):
        iqm = stats.run_interval(stats.interquartile_mean, runs[method], resamples=resamples)
        beats = stats.Interval(np.nan, np.nan, np.nan, "")
        if i:
            beats = stats.run_interval(
                stats.probability_of_improvement, runs[method], runs[methods[0]], resamples=resamples
            )
        ends = np.clip([iqm.low, iqm.high, beats.low, beats.high], 0, 1)  # spread draws may leave the range
        ends = np.full(4, np.nan) if single else ends
        rows.append({
            "method": method, "mean_rank": float(ranks[i]), "iqm": iqm.estimate, "iqm_low": float(ends[0]),
            "iqm_high": float(ends[1]), "elo": float(elo.rating[i]), "elo_low": float(elo.low[i]),
            "elo_high": float(elo.high[i]), "beats": beats.estimate, "beats_low": float(ends[2]),
            "beats_high": float(ends[3]),
        })  # fmt: skip
    test = stats.friedman(auc) if len(methods) > 2 else None
    first = group[0][0]
    name = f"{first.suite.name}-v{first.suite.version}"
    return CrossCohortComparison(
        name=f"{name} / {first.label}" if first.label else name,
        cohorts=tuple(cohort.data for cohort, _ in group),
        methods=tuple(methods),
        left_out=tuple(m for m in every if m not in methods),
        runs=runs,
        friedman=test,
        p=np.nan if test is None else _permuted(auc),
        rows=tuple(rows),
        rounded=tuple(m for m in methods if any(_is_rounded(of[m], of.values()) for of in per_cohort)),
    )


def _is_rounded(own: Scores, every: Iterable[Scores]) -> bool:
    """Whether bags of a method tie in rounded probabilities and those of others are ordered by something else."""
    return own.tied_by_rounding > 0 and any(rounded_off(own, other) > 0 for other in every)


def _permuted(auc: stats.Array) -> float:
    """Return Friedman's p, of (N, k): how often ranks shuffled within cohorts differ as much in their means."""
    ranks = pd.DataFrame(-auc).rank(axis=1).to_numpy()
    rng = np.random.default_rng(0)
    spread = np.array([
        rng.permuted(ranks, axis=1).mean(axis=0).var() for _ in range(_PERMUTATIONS)
    ])  # fmt: skip
    return float((1 + (spread >= ranks.mean(axis=0).var() - 1e-12).sum()) / (1 + _PERMUTATIONS))


def _runs(scores: Sequence[Scores]) -> stats.Array:
    """Return (S, N): of each cohort the mean AUC, over folds, of every seed and repetition."""
    columns = []
    for one in scores:
        repetition = repetitions(one.runs["fold"]).fillna("")
        columns.append(one.runs["auc"].groupby([repetition, one.runs["seed"]]).mean().to_numpy())
    if len({len(column) for column in columns}) > 1 or any(np.isnan(column).any() for column in columns):
        columns = [np.array([one.auc]) for one in scores]
    return np.stack(columns, axis=1)


def _equalized(runs: dict[str, stats.Array]) -> dict[str, stats.Array]:
    """Return method -> (S, N) runs in which AUCs of one cohort that differ by rounding alone are equal."""
    ends = np.cumsum([len(own) for own in runs.values()])[:-1]
    every = equalized(np.concatenate(list(runs.values())).T).T
    return dict(zip(runs, np.split(every, ends), strict=True))


def profiles(scores: CrossCohortComparison, resamples: int = 2000) -> dict[str, stats.Profile]:
    """Return short name -> performance profile: the share of runs above each AUC, from 0.5 to 1."""
    lowest = min(float(runs.min()) for runs in scores.runs.values())
    thresholds = np.linspace(min(0.5, np.floor(20 * lowest) / 20), 1.0, 101)
    return {
        name: stats.performance_profile(scores.runs[method], thresholds, resamples=resamples)
        for name, method in zip(short(scores.methods), scores.methods, strict=True)
    }


def short(methods: Sequence[str]) -> list[str]:
    """Return names for figures: without parameters, where that names one method alone."""
    names = [method.partition("[")[0] for method in methods]
    return [name if names.count(name) == 1 else method for name, method in zip(names, methods, strict=True)]


def _elo(row: dict[str, Any]) -> str:
    value, low, high = (fixed(row[key], 0) for key in ("elo", "elo_low", "elo_high"))
    return f"{value} [{low}, {high}]"


def _p(value: float) -> str:
    return "below 0.001" if value < 0.001 else fixed(value)
