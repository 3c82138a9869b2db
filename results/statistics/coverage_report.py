"""The tables of simulate_coverage.py as CSV files and a README: a column a method, shares outside their band marked."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import scipy

if TYPE_CHECKING:
    from results.statistics.simulate_coverage import Sizes

#: Shares within which a 95 % interval should cover, and a test at 5 % reject.
COVERAGE_BAND, LEVEL_BAND = (0.935, 0.965), (0.035, 0.065)
#: table -> (title, how to read it)
_TEXTS = {
    "intervals": (
        "One AUC, normal scores, half of the slides positive",
        """
        `logit` is the default of `milbench.stats.auc_interval`. At 50 slides and .98 it covers more than 95 %, and
        must: 6 % of all samples are in perfect order there, and an interval whose upper tail is 2.5 % covers 97.5 % if
        it has .98 for those, 91 % if not. `guarded` covers at least 95 % and is longer. The Wald interval, as
        DeLong's is mostly printed, and the percentile interval of the bootstrap lie too high near 1 (`above`, in the
        CSV).
        """,
    ),
    "shapes": (
        "One AUC, other scores, three in ten slides positive",
        """
        Near 1 with few positives no interval made of the sample alone is safe: where a share of the positives resembles
        negatives, a sample of 39 positives often shows none of those. `guarded` supposes a tenth of a patient of each
        class on the wrong side.
        """,
    ),
    "patients": (
        "One AUC, patients with 1 to 5 slides, three on average, scores within a patient correlated at .5",
        """
        50, 130 and 500 slides are about 17, 43 and 167 patients. `labels` tells whether all slides of a patient have
        its label or each its own. `logit` and `guarded` rest on Obuchowski's error; `percentile` and `bootstrap-logit`
        draw patients.
        """,
    ),
    "leaderboards": (
        "The leaderboard's mean over seeds or folds",
        """
        `percentile` is the percentile interval of the replicates of `combine`, `logit` is `combined_interval` of the
        same, with the weights of `seed_weights`: each method by itself, as leaderboards did before the table `seeds`.
        Seeds differ in the separation of their scores, with the standard deviation `spread`: .15 is little compared
        with the slides, 1 much more than they. Few seeds that differ little make the interval longer than it need be:
        it cannot know, and what a seed does to single slides is counted among the slides and again among the seeds.
        """,
    ),
    "seeds": (
        "Means over seeds and their differences, the variance of seeds pooled over the methods of a cohort",
        """
        Leaderboards use `seed_errors`, `mean_of` and `mean_difference`; 130 slides. The separation of scores differs
        between seeds with a standard deviation of .15 (little), .5 (much), or .15 in one half of the methods and .6 in
        the other (unequal): in the AUC, around .8, .03, .10 and .11. With `failed` runs, the first method has one seed
        left. `patients alone` takes the seeds at hand for all there are. `difference` is of the first and last method.
        `to_patients` and `to_one_seed` are the mean width of the last method's interval over that of its interval over
        patients alone, and over that of a cohort with one seed. Six methods whose seeds differ equally cover 93.3 to
        95.6 % at .8 and 92.1 to 94.7 % at .95: what is missing there is nearly all on one side (`above`), as AUCs of
        seeds that differ much are skewed near 1 and three of them do not show it. Two methods with two seeds have two
        degrees of freedom between them and two more of the spread that is supposed, so that they cover 98.8 % where
        seeds differ less than that and 91 % where they differ more. Unequal spreads are drawn towards each other: the
        steady half covers 97.7 to 99.8 %, the unsteady half, four times as spread, 84 to 92 %, the more the more seeds
        there are. No rule for two seeds can tell the two halves, and each by itself would have Student's t with one
        degree of freedom. A method with one seed left among those with several has their spread and 90.7 to 96.3 %; its
        difference to one of them 88.5 to 97.1 %, with the skewness of a single seed. `patients alone` covers 56 to 93
        %.
        """,
    ),
    "rank_intervals": (
        "Simultaneous intervals of ranks: share of tables in which all of them hold",
        """
        `rank_intervals` of methods with equal true AUCs, .85, each of which has every rank, or with AUCs that fall in
        steps from .85; 130 slides; with three seeds their separation has a standard deviation of .3. `pair by pair`
        compares by `mean_difference` at 5 % each. `width` in the CSV is the mean number of ranks in an interval. With
        equal AUCs, where every difference reported is wrong, all hold in 94.2 to 96.9 % of tables; pair by pair, six
        methods hold in 58 to 65 %. With unequal AUCs more hold, 98.3 % and above, and must: fewer wrong orders
        are possible, and the bound is for any AUCs.
        """,
    ),
    "macro": (
        "The mean of one-vs-rest AUCs, classes rare or not",
        """
        `mean_interval` is what leaderboards use, `logit` the same replicates of the mean without its guard for rare
        classes and perfect order. Normal scores, the true AUC the same for every class, bags drawn within classes.
        `least_low` is the lowest lower end in all simulations of the row, `perfect_low` the lower end that
        `perfect_bound` gives where every AUC is 1. Without a class of fewer than ten bags both cover 93.2 to 96.1 %;
        the lowest, ten classes of 20 bags, lie 0.3 points below the band with an error of 0.8: the bootstrap of 20 bags
        knows 19 twentieths of their variance. With such a class `mean_interval` covers 95.8 to 100 % and `logit` 17 to
        93 %: resamples of one bag have no spread. The excess over the band is on one side. A true mean below the
        interval is hardly ever missed (`above`, 0 to 1.1 %), above it 0 to 3.6 % (`below`): a few bags in good order
        cannot exclude a low AUC of their class, whatever its scores are, and a shorter lower end has to suppose their
        shape.
        """,
    ),
    "macro_seeds": (
        "The mean of one-vs-rest AUCs over 2, 3 and 5 seeds, a class rare",
        """
        Leaderboards use `seed_errors`, `mean_interval`, `mean_of` and `mean_difference`. The two methods have equal
        AUCs, and their seeds differ in separation with a standard deviation of .3. `patients alone` takes the seeds at
        hand for all there are, `difference` is of the two methods. `to_patients` and `to_one_seed` are the mean width
        of the interval over that of its interval over patients alone, and over that of one seed. The part that a rare
        class adds is exact or of a known model and is not stretched by the few degrees of freedom of seeds: a second
        seed makes no interval much longer than that of one. Means cover 98.5 to 99.8 %, more than 95 % for the reason
        that `macro` gives, and differences 99.5 to 100 %; `patients alone` covers 86 to 98 %.
        """,
    ),
    "seed_levels": (
        "Paired tests over seeds under the null: share rejected at 5 %",
        """
        Two methods with the same mean AUC, .8, over all seeds there could be; spread as above. `Student` takes each
        method by itself, as leaderboards did before the table `seeds`; `with replacement` draws the seeds as the slides
        are drawn, and `slides alone` takes the seeds at hand for all there are.
        """,
    ),
    "levels": (
        "Paired tests under the null: share rejected at 5 %",
        """
        Two methods of equal true AUC on the same slides, normal scores with correlation r within each class. Near 1 few
        pairs are out of order and DeLong's test rejects less than it may. In the last block one method's positives have
        twice the spread: equal AUCs, but swapping the methods changes something, and the tests that resample reject
        too often at .98.
        """,
    ),
    "patient_levels": (
        "Paired tests under the null, several slides a patient: share rejected at 5 %",
        """
        Patients as above. DeLong's test is Obuchowski's here, with Student's t at patients - 2 degrees of freedom; the
        permutation test swaps patients, the bootstrap draws them. The last column takes slides as independent.
        """,
    ),
    "folds": (
        "Tests over the folds of a cross-validation, under the null: share rejected at 5 %",
        """
        Two nearest-mean classifiers on features equally good, k folds, repeated or not; and differences with the
        correlation 1 / k that Nadeau and Bengio's correction supposes, under which it is exact.
        """,
    ),
    "runs": (
        "Aggregates over runs and tasks",
        """
        `n` counts the runs of each of 10 tasks, or the tasks. `stretched` and `expanded` are what milbench gives, `as
        rliable` the plain bootstrap. Tasks have means from .3 to .9 where runs are drawn, and normal ones with a
        standard deviation of .15 where tasks are; runs scatter by .1.
        """,
    ),
    "ranks": (
        "Tests over tasks where no method is better: share of tables with any rejection at 5 %",
        """
        With few tasks sign flips have few values: Holm's correction of six tests over 8 tasks asks for p < .0083 first,
        and 1 / 128 is the smallest there is.
        """,
    ),
    "power": (
        "The difference planned for a power of 80 %: share seen",
        """
        `difference` is from `planned_difference`, `error_planned` from `planned_error`; `error_simulated` is the
        standard deviation of the differences seen.
        """,
    ),
}


#: Minutes of one core of the tables in a folder; a row "others" stands for those made before it was written.
MINUTES = "minutes.csv"


def read(folder: Path, names: list[str]) -> tuple[dict[str, pd.DataFrame], dict[str, float]]:
    """Return those of the tables that the folder has, and the minutes that each took."""
    tables = {name: pd.read_csv(folder / f"{name}.csv") for name in names if (folder / f"{name}.csv").is_file()}
    minutes: dict[str, float] = {}
    if tables and (folder / MINUTES).is_file():
        minutes = dict(pd.read_csv(folder / MINUTES).itertuples(index=False, name=None))
    return tables, minutes


def write(tables: dict[str, pd.DataFrame], sizes: Sizes, minutes: dict[str, float], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    low, high = (f"{100 * x:g}" for x in COVERAGE_BAND)
    least, most = (f"{100 * x:g}" for x in LEVEL_BAND)
    errors = pd.concat([t["error"] for t in tables.values()])
    head = f"""
        Made by `python results/statistics/simulate_coverage.py`: {sizes.closed:,} simulations of what has a closed
        form, {sizes.resampled:,} of what is resampled, with up to {sizes.resamples} resamples, and fewer where the
        CSV says so; {sum(minutes.values()):.0f} min of one core, of each table in `{MINUTES}`. numpy {np.__version__},
        scipy {scipy.__version__}, Python {platform.python_version()}.
        """
    marks = f"""
        Nominal 95 % intervals should cover {low} to {high} %, tests at 5 % reject {least} to {most} % where nothing is
        there. A share below its band is marked −, one above it +: an interval's − and a test's + flatter, the others
        are careful. The standard error of each share is in the CSV: {100 * errors.median():.1f} percentage points in
        the median, {100 * errors.max():.1f} at most.
        """
    pd.Series(minutes, name="minutes").rename_axis("table").round(2).to_csv(folder / MINUTES)
    parts = ["# Coverage of intervals and level of tests", _flow(head), _flow(marks)]
    for name, table in tables.items():
        table.round(5).to_csv(folder / f"{name}.csv", index=False)
        title, text = _TEXTS[name]
        parts += [f"## {title}", f"`{name}.csv`. {_flow(text)}", _pivot(name, table)]
    (folder / "README.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _flow(text: str) -> str:
    return " ".join(text.split())


def _pivot(name: str, values: pd.DataFrame) -> str:
    """A row a setting, a column a method."""
    value = "coverage" if "coverage" in values else "rejected"
    band = COVERAGE_BAND if value == "coverage" else LEVEL_BAND if name != "power" else (0.0, 1.0)
    numbers = [c for c in (value, "error", "below", "above", "width", "simulations") if c in values]
    keys = [c for c in values if c not in (*numbers, "method")]
    methods = list(dict.fromkeys(values["method"]))
    rows = []
    for key, block in values.groupby(keys, sort=False):
        by = dict(zip(block["method"], block[value], strict=True))
        rows.append([*(_short(k) for k in key), *(_marked(by[m], band) if m in by else "" for m in methods)])
    head = [*keys, *methods]
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ["---"] * len(head), *rows])


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _marked(share: float, band: tuple[float, float]) -> str:
    mark = " −" if share < band[0] else " +" if share > band[1] else ""
    return f"{share:.3f}{mark}"
