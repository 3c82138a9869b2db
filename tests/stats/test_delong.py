"""DeLong's and Obuchowski's covariances, against published figures, the definition, another package and simulation."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as sp
from support import simulated
from support.refusal import refused

from milbench import stats

#: Albumin, total protein, K-G score and outcome of the 43 patients without missing values of DeLong, DeLong and
#: Clarke-Pearson (Biometrics 44, 1988), as printed in the SAS/STAT User's Guide, PROC LOGISTIC, "Comparing Receiver
#: Operating Characteristic Curves", which also prints the figures below.
PATIENTS = """
    3.0 5.8 10 0  3.2 6.3 5 1  3.9 6.8 3 1  2.8 4.8 6 0  3.2 5.8 3 1  0.9 4.0 5 0  2.5 5.7 8 0  1.6 5.6 5 1  3.8 5.7 5 1
    3.7 6.7 6 1  3.2 5.4 4 1  3.8 6.6 6 1  4.1 6.6 5 1  3.6 5.7 5 1  4.3 7.0 4 1  3.6 6.7 4 0  2.3 4.4 6 1  4.2 7.6 4 0
    4.0 6.6 6 0  3.5 5.8 6 1  3.8 6.8 7 1  3.0 4.7 8 0  4.5 7.4 5 1  3.7 7.4 5 1  3.1 6.6 6 1  4.1 8.2 6 1  4.3 7.0 5 1
    4.3 6.5 4 1  3.2 5.1 5 1  2.6 4.7 6 1  3.3 6.8 6 0  1.7 4.0 7 0  3.7 6.1 5 1  3.3 6.3 7 1  4.2 7.7 6 1  3.5 6.2 5 1
    2.9 5.7 9 0  2.1 4.8 7 1  2.8 6.2 8 0  4.0 7.0 7 1  3.3 5.7 6 1  3.7 6.9 5 1  3.6 6.6 5 1
"""


def test_the_published_example():
    albumin, protein, kg, outcome = np.array(PATIENTS.split(), dtype=float).reshape(-1, 4).T
    areas = stats.delong(outcome, np.stack([albumin, 10 - kg, protein]))
    assert areas.auc == pytest.approx([0.7366, 0.7258, 0.6478], abs=5e-5)
    assert areas.errors == pytest.approx([0.0927, 0.1028, 0.1000], abs=5e-5)
    for pair, gap, error, ends, chi_square, p in (
        ((0, 1), 0.0108, 0.0953, (-0.1761, 0.1976), 0.0127, 0.9102),
        ((2, 1), -0.0780, 0.1046, (-0.2830, 0.1271), 0.5554, 0.4561),
    ):
        assert areas.difference(*pair) == pytest.approx((gap, error), abs=5e-5)
        assert areas.contrast(*pair) == pytest.approx(ends, abs=5e-5)
        assert (areas.difference(*pair)[0] / areas.difference(*pair)[1]) ** 2 == pytest.approx(chi_square, abs=5e-5)
        assert areas.test(*pair) == pytest.approx(p, abs=5e-5)


def structural(y, s):
    """DeLong's components by their definition: psi of every pair, averaged over rows and over columns."""
    psi = np.sign(s[:, y][:, :, None] - s[:, ~y][:, None, :]) / 2 + 0.5
    return psi.mean(axis=2), psi.mean(axis=1), psi.mean(axis=(1, 2))


def brute_clustered(y, s, owner):
    """Obuchowski's covariance, written with sums over patients as in the paper (section 3.1)."""
    v10, v01, auc = structural(y, s)
    m, n, ids = y.sum(), (~y).sum(), np.unique(owner)
    of_positive, of_negative = owner[y], owner[~y]
    away10 = np.stack([(v10[:, of_positive == i] - auc[:, None]).sum(axis=1) for i in ids], axis=1)
    away01 = np.stack([(v01[:, of_negative == i] - auc[:, None]).sum(axis=1) for i in ids], axis=1)
    i10, i01, i = len(np.unique(of_positive)), len(np.unique(of_negative)), len(ids)
    s10 = i10 / ((i10 - 1) * m) * away10 @ away10.T
    s01 = i01 / ((i01 - 1) * n) * away01 @ away01.T
    s11 = i / (i - 1) * away10 @ away01.T
    return s10 / m + s01 / n + (s11 + s11.T) / (m * n)


@given(st.integers(0, 10_000), st.integers(4, 30), st.integers(1, 12))
@settings(max_examples=60, deadline=None)
def test_both_are_their_definitions_with_ties(seed, n, patients):
    rng = np.random.default_rng(seed)
    y, owner = rng.random(n) < 0.5, rng.integers(0, patients, n)
    y[:2], y[2:4] = True, False
    owner[:4] = [100, 101, 102, 103]  # two patients in each class
    s = rng.integers(0, 5, (3, n)).astype(float)
    v10, v01, auc = structural(y, s)
    areas = stats.delong(y, s)
    assert areas.auc == pytest.approx(auc, abs=1e-12)
    assert areas.covariance == pytest.approx(np.cov(v10) / y.sum() + np.cov(v01) / (~y).sum(), abs=1e-12)
    of_patients = stats.delong(y, s, owner)
    expected = brute_clustered(y, s, owner)
    np.fill_diagonal(expected, np.maximum(np.diag(expected), 0))
    assert of_patients.covariance == pytest.approx(expected, abs=1e-12)
    assert of_patients.influence.sum(axis=1) == pytest.approx(np.zeros(3), abs=1e-12)


def test_error_and_degrees_of_freedom_are_brunner_and_munzels():
    rng = np.random.default_rng(1)
    x, y = rng.normal(0.8, 2, 19), rng.normal(0, 1, 33)
    labels = np.repeat([1, 0], [19, 33])
    areas = stats.delong(labels, np.concatenate([x, y]))
    theirs = sp.brunnermunzel(y, x, distribution="t")
    statistic = (areas.auc[0] - 0.5) / areas.errors[0]
    assert statistic == pytest.approx(theirs.statistic, rel=1e-10)
    assert 2 * sp.t.sf(abs(statistic), areas.degrees[0]) == pytest.approx(theirs.pvalue, rel=1e-8)


def test_one_slide_a_patient_is_delong():
    rng = np.random.default_rng(2)
    labels, scores = rng.integers(0, 2, 60), rng.normal(size=(2, 60))
    ids = np.array([f"p{i:02}" for i in rng.permutation(60)])
    alone, of_patients = stats.delong(labels, scores), stats.delong(labels, scores, ids)
    assert of_patients.covariance == pytest.approx(alone.covariance, rel=1e-12)
    assert of_patients.degrees == pytest.approx(alone.degrees, rel=1e-12)
    assert of_patients.patients == alone.patients
    assert (alone.student, of_patients.student) == (np.inf, 58)


@pytest.mark.parametrize("mixed", [False, True])
def test_the_error_is_that_of_many_cohorts(mixed):
    """The mean estimated variance against that over cohorts; slides taken as independent show far too little."""
    rng = np.random.default_rng(3)
    aucs, ours, naive = [], [], []
    for _ in range(800):
        c = simulated.clustered(rng, 200, 0.85, mixed, within=0.7)
        areas = stats.delong(c.labels, c.scores[0], c.patients)
        aucs.append(areas.auc[0])
        ours.append(areas.covariance[0, 0])
        naive.append(stats.delong(c.labels, c.scores[0]).covariance[0, 0])
    assert np.mean(ours) == pytest.approx(np.var(aucs), rel=0.15)  # three errors of a variance of 800
    assert np.mean(naive) < 0.75 * np.var(aucs)


def test_what_has_no_error_is_not_certain_of_a_difference():
    y = np.repeat([0, 1], 5)
    same = stats.delong(y, np.stack([np.arange(10.0), np.exp(np.arange(10.0))]))
    assert same.difference() == (0.0, 0.0)
    assert same.test() == 1.0
    assert (same.errors == 0).all()
    apart = stats.delong(y, np.stack([np.arange(10.0), -np.arange(10.0)]))
    assert apart.test() == 2 / 2**10  # no swap of slides other than all or none reaches it


def test_one_patient_in_a_class_has_no_known_error():
    areas = stats.delong([0, 1, 1, 0], [0.1, 0.9, 0.3, 0.4], ["a", "b", "b", "c"])
    assert areas.auc[0] == 0.75
    assert np.isnan(areas.errors).all()
    with refused("stats-bad-input", "4", "3"):
        stats.delong([0, 1, 1, 0], [0.1, 0.9, 0.3, 0.4], ["a", "b", "c"])
