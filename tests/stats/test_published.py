"""The statistics on real material: per-fold AUCs of nine methods, and per-slide predictions of CLAM."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import t
from sklearn.metrics import roc_auc_score

from milbench import stats


@pytest.fixture(scope="module")
def folds(shared_root):
    """Test AUCs on all of the training data: (task, fold) x method, NaN where a method was not run."""
    table = pd.read_csv(shared_root / "data" / "published" / "hipt_cvpr2022_tcga_mil_folds.csv")
    table = table.query("run_group == 'results_cvpr2022_class' and train_frac == 1.0")
    return table.pivot_table(index=["task", "fold"], columns="method", values="test_auc")


@pytest.fixture(scope="module")
def slides(shared_root):
    table = pd.read_csv(shared_root / "data" / "published" / "clam_per_slide_predictions.csv")
    return table.assign(patient=table["slide_id"].str[:12])


def test_published_folds_differ_less_than_a_plain_t_test_says(folds):
    tested = 0
    for _, task in folds.groupby("task"):
        task = task.dropna(axis=1)
        best = task.mean().idxmax()
        for other in task.columns.drop(best):
            d = (task[best] - task[other]).to_numpy()
            corrected = stats.corrected_t_test(d, 1 / 9)
            plain_p = 2 * t.sf(abs(d.mean() / np.sqrt(d.var(ddof=1) / len(d))), len(d) - 1)
            assert corrected.p >= plain_p
            assert corrected.low < d.mean() < corrected.high
            assert stats.sign_flip_test(d).exact
            tested += 1
    assert tested >= 20


def test_nine_published_methods_over_three_tasks(folds):
    scores = folds.dropna(axis=1)
    by_task = scores.groupby("task").mean()
    ranks = stats.friedman(by_task.to_numpy())
    assert ranks.ranks.sum() == pytest.approx(sum(range(1, by_task.shape[1] + 1)))
    # Three tasks cannot tell many methods apart, whatever they score: the largest distance there can be is too small.
    assert stats.critical_difference(9, 3) > 6
    ratings = stats.elo_ratings(stats.pairwise_wins(scores.to_numpy()))
    order = np.argsort(-ratings.rating)
    assert (ratings.low <= ratings.rating).all()
    assert (ratings.rating <= ratings.high).all()
    assert order[0] in np.argsort(ranks.ranks)[:3]  # two summaries of one table
    runs = {m: scores[m].unstack("task").to_numpy() for m in scores}
    best, worst = scores.columns[order[0]], scores.columns[order[-1]]
    improved = stats.run_interval(stats.probability_of_improvement, runs[best], runs[worst])
    assert improved.low > 0.5
    middle = stats.run_interval(stats.interquartile_mean, runs[best])
    assert middle.low < middle.estimate < middle.high
    assert abs(middle.estimate - runs[best].mean()) < 0.05


def test_published_predictions_by_patient(slides):
    patients, y = slides["patient"].to_numpy(), slides["Y"].to_numpy()
    w = stats.cluster_weights(patients, y, 500, np.random.default_rng(0))
    folds = sorted(set(slides["fold"]))
    cells = np.stack([
        stats.bootstrap_auc(y[rows], slides["p_1"].to_numpy()[rows], w[:, rows])
        for rows in ((slides["fold"] == fold).to_numpy() for fold in folds)
    ])[:, None]  # fmt: skip
    replicates = stats.combine(cells, np.ones((500, 1)))
    low, high = stats.interval(replicates)
    mean = np.mean([roc_auc_score(g["Y"], g["p_1"]) for _, g in slides.groupby("fold")])
    assert low < mean < high <= 1
    assert high - low < 0.2
    careful = stats.logit_interval(mean, replicates)
    assert careful[0] < low
    assert careful[1] < 1


def test_slides_of_one_patient_are_fewer_than_they_seem(slides):
    one = slides[slides["fold"] == slides["fold"].iloc[0]]
    y, s = one["Y"].to_numpy(), one["p_1"].to_numpy()
    alone, of_patients = stats.delong(y, s), stats.delong(y, s, one["patient"].to_numpy())
    assert of_patients.auc == pytest.approx([roc_auc_score(y, s)])
    assert of_patients.patients[2] == one["patient"].nunique() < len(one) == alone.patients[2]
    for method in ("logit", "guarded", "percentile", "bca", "bootstrap-logit"):
        interval = stats.auc_interval(y, s, one["patient"].to_numpy(), method)
        assert 0 <= interval.low <= interval.high <= 1
