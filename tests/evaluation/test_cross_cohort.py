"""Methods over cohorts: against the leaderboard, scipy, and sums written out."""

import itertools
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats
from support import synthetic as made

from milbench.evaluation.cross_cohort import CrossCohortComparison, _permuted, across, profiles, short
from milbench.evaluation.leaderboard import evaluate, run_scores
from milbench.evaluation.runs_table import read_cohorts
from milbench.evaluation.scores import score
from milbench.report.folder import write_report
from milbench.stats import friedman

DATA = ("a", "b", "c", "d")
METHODS = ("transmil", "abmil", "abmil[gated=true]", "mean", "max")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("results")
    made.fill(root, made.suite(data=DATA, across=True), METHODS, folds=("r0-f0", "r0-f1", "r1-f0", "r1-f1"),
              costs=False, fail=(("c", "max", "r0-f1", 1, "oom"),))  # fmt: skip
    return root


@pytest.fixture(scope="module")
def board(root):
    return evaluate(root, resamples=400)


@pytest.fixture(scope="module")
def comparison(board) -> CrossCohortComparison:
    (one,) = board.cross_cohort
    return one


@pytest.fixture(scope="module")
def runs(root):
    """Method -> (repetitions and seeds, cohorts): mean AUC over folds, by pandas."""
    table = run_scores(root)
    table["repetition"] = table["fold"].str[:2]
    mean = table.groupby(["method", "data", "repetition", "seed"])["auc"].mean()
    return {m: mean[m].unstack("data")[list(DATA)].to_numpy() for m in METHODS if m != "max"}


def test_who_takes_part(comparison):
    assert comparison.cohorts == DATA
    assert comparison.left_out == ("max",)
    assert set(comparison.methods) == set(METHODS) - {"max"}
    assert "Left out, as not all their runs ended well: max." in comparison.sentence()


def test_ranks_are_those_of_the_leaderboard(comparison, board):
    auc = board.table[board.table["method"] != "max"].pivot_table(index="data", columns="method", values="auc")
    ranks = pd.Series(scipy_stats.rankdata(-auc.to_numpy(), axis=1).mean(axis=0), auc.columns)
    assert [row["mean_rank"] for row in comparison.rows] == pytest.approx(sorted(ranks))
    assert {row["method"]: row["mean_rank"] for row in comparison.rows} == pytest.approx(ranks.to_dict())
    chi, p = scipy_stats.friedmanchisquare(*auc.to_numpy().T)
    assert (comparison.friedman.statistic, comparison.friedman.p) == pytest.approx((chi, p))
    assert comparison.friedman.ranks == pytest.approx([row["mean_rank"] for row in comparison.rows])


def test_one_score_of_all_runs(comparison, runs):
    for row in comparison.rows:
        assert comparison.runs[row["method"]] == pytest.approx(runs[row["method"]])
        assert row["iqm"] == pytest.approx(scipy_stats.trim_mean(runs[row["method"]].ravel(), 0.25))
        assert row["iqm_low"] <= row["iqm"] <= row["iqm_high"]


def test_who_beats_the_first(comparison, runs):
    best = runs[comparison.methods[0]]
    assert np.isnan([comparison.rows[0][key] for key in ("beats", "beats_low", "beats_high")]).all()
    for row in comparison.rows[1:]:
        pairs = [
            (x > y) + 0.5 * (x == y)
            for task in range(len(DATA))
            for x, y in itertools.product(runs[row["method"]][:, task], best[:, task])
        ]
        assert row["beats"] == pytest.approx(np.mean(pairs))
        assert 0 <= row["beats_low"] <= row["beats"] <= row["beats_high"] <= 1


def test_ratings_are_of_wins_within_cohorts(comparison, board):
    """A method that wins everywhere: its rating by the model's own condition, expected wins are those there were."""
    auc = board.table.pivot_table(index="data", columns="method", values="auc")[list(comparison.methods)].to_numpy()
    rating = np.array([row["elo"] for row in comparison.rows])
    assert rating.mean() == pytest.approx(1000)
    strength = (rating - 1000) * np.log(10) / 400
    gap = auc[:, :, None] - auc[:, None, :]
    won = ((gap > 0) + 0.5 * (gap == 0)).sum(axis=0)
    expected = len(DATA) / (1 + np.exp(strength[None] - strength[:, None]))
    for i in range(len(rating)):
        others = np.arange(len(rating)) != i
        # One drawn game against the mean, the prior, on either side.
        assert won[i, others].sum() + 0.5 == pytest.approx(
            expected[i, others].sum() + 1 / (1 + np.exp(-(strength[i] + _shift(strength, won)))), abs=1e-6
        )


def _shift(strength, won):
    """The model's strengths are centred after the prior has pulled them: find by how much they were off."""
    from scipy.optimize import brentq

    games = won + won.T

    def off(shift):
        p = 1 / (1 + np.exp(strength[None] - strength[:, None]))
        np.fill_diagonal(p, 0)
        wins = won.copy()
        np.fill_diagonal(wins, 0)
        return float((wins.sum(axis=1) + 0.5 - (games * p).sum(axis=1) - 1 / (1 + np.exp(-(strength + shift)))).sum())

    return brentq(off, -20, 20)


@pytest.mark.parametrize(("tasks", "methods"), [(3, 3), (4, 3), (3, 4)])
def test_p_is_that_of_all_permutations(tasks, methods):
    """Cohorts that agree wholly: as rare as one order in k! for each but the first; and one with ties, counted out."""
    agreed = np.tile(np.arange(methods, dtype=float), (tasks, 1))
    exact = 1 / np.prod(np.arange(1, methods + 1)) ** (tasks - 1)
    assert _permuted(agreed) == pytest.approx(exact, abs=4 * np.sqrt(exact / 9999) + 1e-4)
    mixed = np.array([[0.1, 0.1, 0.3], [0.3, 0.2, 0.1], [0.1, 0.2, 0.3]])
    ranks = scipy_stats.rankdata(-mixed, axis=1)
    spread = [
        np.mean(rows, axis=0).var() for rows in itertools.product(*(list(itertools.permutations(r)) for r in ranks))
    ]
    exact = np.mean(np.array(spread) >= ranks.mean(axis=0).var() - 1e-12)
    assert _permuted(mixed) == pytest.approx(exact, abs=4 * np.sqrt(exact * (1 - exact) / 9999) + 1e-4)


def test_the_sentence_names_the_methods_that_differ(comparison):
    """Of methods at ranks 1, 2 and 3 on every one of 20 cohorts (critical difference 0.74), and of made-up ones."""
    assert comparison.sentence().endswith(" transmil from mean.")
    equal = replace(comparison, friedman=friedman([[0.1, 0.2, 0.3, 0.4], [0.4, 0.3, 0.2, 0.1]]))
    assert "none of these" in equal.sentence().rpartition("over all pairs)")[2]
    names = ("one", "two", "three")
    scores = np.tile([0.9, 0.8, 0.7], (20, 1))
    clear = replace(comparison, methods=names, friedman=friedman(scores), p=0.0001)
    assert clear.sentence().endswith(" one from two, one from three and two from three.")
    assert (
        "p below 0.001 (ranks permuted within cohorts). Mean ranks that differ by less than 0.74 " in clear.sentence()
    )
    half = np.vstack([scores[:8], [[0.8, 0.9, 0.7]] * 8])
    assert replace(clear, friedman=friedman(half)).sentence().endswith(" one from three and two from three.")


def test_one_run_has_no_spread(tmp_path):
    made.fill(tmp_path / "r", made.suite(data=DATA, across=True), METHODS, seeds=1, costs=False)
    (one,) = evaluate(tmp_path / "r", resamples=50).cross_cohort
    assert "nothing is known of another draw" in one.sentence()
    for row in one.rows:
        assert np.isnan([row["iqm_low"], row["iqm_high"], row["beats_low"], row["beats_high"]]).all()
        assert row["elo_low"] < row["elo"] < row["elo_high"]
    assert "nan" not in one.table().to_string()


def test_only_on_request(root, tmp_path):
    assert len(evaluate(root, data="a", resamples=10).cross_cohort) == 0  # one cohort
    made.fill(tmp_path / "r", made.suite(data=DATA), METHODS, costs=False)
    assert evaluate(tmp_path / "r", resamples=10).cross_cohort == ()
    (one,) = evaluate(tmp_path / "r", resamples=10, over_cohorts=True).cross_cohort
    assert one.left_out == ()
    assert one.runs["max"].shape == (2, 4)


def test_the_report(board, tmp_path):
    text = write_report(board, tmp_path, "T", "P").read_text()
    section = text[text.index("## Over cohorts") : text.index("## How to read it")]
    (one,) = board.cross_cohort
    for row in one.rows:
        assert f"| {row['method']} | {row['mean_rank']:.2f} | {row['iqm']:.3f} [" in section
    assert one.sentence() in section
    table = pd.read_csv(tmp_path / "across.csv")
    assert list(table["method"]) == list(one.methods)
    assert table["elo"].to_numpy() == pytest.approx([row["elo"] for row in one.rows])
    assert {"ranks.png", "profiles.png"} <= {path.name for path in tmp_path.iterdir()}
    write_report(replace(board, cross_cohort=()), tmp_path, "T", "P")
    assert not {"ranks.png", "profiles.png", "across.csv"} & {path.name for path in tmp_path.iterdir()}


def test_profiles_are_shares_of_runs(comparison, runs):
    drawn = profiles(comparison, resamples=50)
    assert set(drawn) == {"transmil", "abmil", "abmil[gated=true]", "mean"}
    for name, profile in drawn.items():
        for at in (0, 40, 80):
            assert profile.share[at] == pytest.approx((runs[name] > profile.thresholds[at]).mean())


def test_scores_that_differ_by_rounding_share_ranks_ratings_and_wins(root):
    """A method and its twin, each of whose AUCs is one unit in the last place higher."""
    scored = []
    for cohort in read_cohorts(root):
        own = next(s for s in score(cohort, 2) if s.method == "mean")
        higher = own.runs.assign(auc=np.nextafter(own.runs["auc"].to_numpy(), 1))
        scored.append((cohort, [own, replace(own, method="twin", auc=float(np.nextafter(own.auc, 1)), runs=higher)]))
    (one,) = across(scored, 50)
    first, second = one.rows
    assert first["mean_rank"] == second["mean_rank"] == 1.5
    assert first["elo"] == pytest.approx(second["elo"])
    # Of S runs against themselves: one half with every tie counted one half.
    assert second["beats"] == 0.5


def test_short_names():
    assert short(["transmil[dim=64]", "abmil", "abmil[gated=true]"]) == ["transmil", "abmil", "abmil[gated=true]"]


def test_a_method_whose_bags_tie_by_rounding_is_separated_from_no_other(root):
    cohorts = read_cohorts(root)
    scored = [(cohort, score(cohort, 50)) for cohort in cohorts]
    assert across(scored, 50)[0].rounded == ()

    def older(own, method, ties):
        runs = own.runs.assign(ordered_by="probabilities", tied_pairs=ties)
        return replace(own, runs=runs if own.method == method else own.runs.assign(ordered_by="log-odds"))

    for ties, rounded in ((0.2, ("mean",)), (0.0, ())):
        (one,) = across([(cohort, [older(s, "mean", ties) for s in of]) for cohort, of in scored], 50)
        assert one.rounded == rounded
    k = len(METHODS) - 1
    test = friedman(np.tile(np.arange(k, 0, -1.0), (40, 1)))
    apart = replace(one, friedman=test, methods=("mean", "abmil", "transmil", "max"))
    assert "mean from max" in apart.sentence()
    assert "mean from" not in replace(apart, rounded=("mean",)).sentence()
