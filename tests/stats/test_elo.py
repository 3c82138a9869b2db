"""Bradley-Terry strengths and Elo ratings, against published abilities, closed forms and logistic regression."""

import numpy as np
import pytest
from scipy import stats as sp
from sklearn.linear_model import LogisticRegression
from support.refusal import refused

from milbench import stats

#: 1987 season of the American League's Eastern Division, wins of the row over the column: Milwaukee, Detroit, Toronto,
#: New York, Boston, Cleveland, Baltimore (Agresti, Categorical Data Analysis, 2nd ed. 2002, table 10.10).
BASEBALL = np.array([
    [0, 7, 9, 7, 7, 9, 11], [6, 0, 7, 5, 11, 9, 9], [4, 6, 0, 7, 7, 8, 12], [6, 8, 6, 0, 6, 7, 10],
    [6, 2, 6, 7, 0, 7, 12], [4, 4, 5, 6, 6, 0, 6], [2, 4, 1, 3, 1, 7, 0],
])  # fmt: skip
#: Abilities over Baltimore's as Turner and Firth print them (J. Stat. Software 48(9), 2012, section 2).
ABILITIES = [1.5814, 1.4364, 1.2945, 1.2476, 1.1077, 0.6839, 0.0]


def test_published_abilities():
    actual = stats.bradley_terry(BASEBALL, prior=1e-9)
    assert actual - actual[-1] == pytest.approx(ABILITIES, abs=5e-5)
    assert actual.sum() == pytest.approx(0, abs=1e-9)


def test_two_methods_in_closed_form():
    for won, lost in ((7, 3), (30, 1)):
        actual = stats.bradley_terry([[0, won], [lost, 0]], prior=1e-9)
        assert actual[0] - actual[1] == pytest.approx(np.log(won / lost), rel=1e-6)
        ratings = stats.elo_ratings(np.array([[[0, won], [lost, 0]]]), prior=1e-9, resamples=2)
        assert ratings.rating[0] - ratings.rating[1] == pytest.approx(400 * np.log10(won / lost), rel=1e-6)
        assert ratings.rating.mean() == pytest.approx(1000)


def test_the_prior_is_drawn_games_against_one_more_player():
    """scikit-learn on the games one by one: the phantom's strength is 0, ties are half a win and half a loss."""
    rng = np.random.default_rng(0)
    wins = rng.integers(0, 5, (5, 5)) / 2
    np.fill_diagonal(wins, 0)
    games = []
    for i, one in enumerate(np.eye(5)):
        games += [(other - one, 0, wins[i, j]) for j, other in enumerate(np.eye(5))]  # the other has lost
        games += [(one, 1, 0.75), (one, 0, 0.75)]
    x, won, weight = (np.array(part) for part in zip(*games, strict=True))
    fit = LogisticRegression(C=np.inf, fit_intercept=False, tol=1e-10, max_iter=1000)
    theirs = fit.fit(x, won, sample_weight=weight).coef_[0]
    assert stats.bradley_terry(wins, prior=1.5) == pytest.approx(theirs - theirs.mean(), abs=1e-5)


def test_many_at_once_are_each_alone():
    rng = np.random.default_rng(1)
    wins = rng.integers(0, 9, (4, 3, 6, 6)).astype(float)
    together = stats.bradley_terry(wins)
    assert together.shape == (4, 3, 6)
    assert together[2, 1] == pytest.approx(stats.bradley_terry(wins[2, 1]), abs=1e-9)


def test_a_method_that_wins_everything_stays_finite():
    wins = stats.pairwise_wins(np.tile([0.9, 0.5, 0.4], (50, 1)))
    actual = stats.elo_ratings(wins, resamples=100)
    assert np.isfinite([actual.rating, actual.low, actual.high]).all()
    assert actual.rating[0] > actual.rating[1] > actual.rating[2]


def test_wins_ties_and_missing_scores():
    wins = stats.pairwise_wins([[0.5, 0.5, 0.4], [0.9, np.nan, 0.91]], margin=0.02)
    assert wins[0] == pytest.approx(np.array([[0, 0.5, 1], [0.5, 0, 1], [0, 0, 0]]))
    assert wins[1] == pytest.approx(np.array([[0, 0, 0.5], [0, 0, 0], [0.5, 0, 0]]))


def test_scores_that_differ_by_rounding_are_tied():
    """Of 12 tasks on each of which the second is ahead of the first by one unit in the last place."""
    first = np.linspace(0.7, 0.9, 12)
    scores = np.column_stack([first, np.nextafter(first, 1), first - 0.01])
    wins = stats.pairwise_wins(scores)
    assert (wins[:, 0, 1] == 0.5).all()
    rating = stats.elo_ratings(wins, resamples=20).rating
    assert rating[0] == pytest.approx(rating[1])
    ranks = stats.friedman(scores)
    assert ranks.ranks == pytest.approx([1.5, 1.5, 3])
    assert ranks.pairs[0, 1] == pytest.approx(1)
    chi = sp.friedmanchisquare(first, first, first - 0.01)
    assert (ranks.statistic, ranks.p) == pytest.approx((chi.statistic, chi.pvalue))


def test_intervals_are_over_tasks_and_an_anchor_stands_still():
    rng = np.random.default_rng(2)
    wins = stats.pairwise_wins(rng.normal(size=(40, 4)) + np.array([1.0, 0.5, 0.0, 0.0]))
    few, many = stats.elo_ratings(wins), stats.elo_ratings(np.concatenate([wins] * 9))
    # Nine times the tasks, a third of the width.
    assert (many.high - many.low).mean() == pytest.approx((few.high - few.low).mean() / 3, rel=0.1)
    fixed = stats.elo_ratings(wins, anchor=(3, 1500.0))
    assert (fixed.rating[3], fixed.low[3], fixed.high[3]) == (1500, 1500, 1500)
    assert fixed.rating[0] - fixed.rating[1] == pytest.approx(few.rating[0] - few.rating[1])


def test_the_interval_of_two_methods_in_closed_form():
    """24 wins of 40: drawn tasks are binomial, the rating is monotone in them, and 40 tasks ask for Student's t."""
    wins = np.zeros((40, 2, 2))
    wins[:24, 0, 1] = wins[24:, 1, 0] = 1
    actual = stats.elo_ratings(wins, prior=1e-9, resamples=20_000)

    def rating(won):
        return 200 * np.log10(won / (40 - won))

    drawn = rating(sp.binom.ppf([0.025, 0.975], 40, 0.6)) - rating(24)
    expanded = sp.t.ppf(0.975, 39) / sp.norm.ppf(0.975) * np.sqrt(40 / 39)
    assert actual.rating[0] == pytest.approx(1000 + rating(24), abs=1e-3)
    assert [actual.low[0], actual.high[0]] == pytest.approx(1000 + rating(24) + expanded * drawn, abs=1e-3)


def test_what_is_no_table_of_wins_is_named():
    with refused("stats-bad-input"):
        stats.bradley_terry(BASEBALL, prior=0)
    with refused("stats-bad-input"):
        stats.elo_ratings(BASEBALL)
    with refused("stats-bad-input"):
        stats.pairwise_wins([0.1, 0.2])
