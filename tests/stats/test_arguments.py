"""Every public function of `milbench.stats` refuses what has no meaning, or gives NaN where its docstring says so."""

import inspect

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import rankdata
from support.refusal import refused

from milbench import stats
from milbench.errors import MilbenchError

RNG = np.random.default_rng(0)
Y = np.array([0, 1] * 10)
S = RNG.normal(size=20) + Y
T = S + RNG.normal(size=20)
P = np.stack([-S, S], axis=1)
W = RNG.integers(0, 3, size=(5, 20)).astype(float)
DRAWS, OTHER = RNG.normal(0.8, 0.05, 200), RNG.normal(0.7, 0.05, 200)
RUNS, TASKS = RNG.random((4, 6)), RNG.random((8, 4))
WINS = stats.pairwise_wins(TASKS)
PAIR = {"labels": Y, "a": S, "b": T}
CLASSES = stats.ClassAucs(np.array([0, 1]), np.array([0.8, 0.7]), np.array([0.5, 0.5]), np.stack([DRAWS, OTHER]))
CELLS = 0.6 + 0.3 * RNG.random((3, 4))
MEANS = [
    stats.mean_of(auc, stats.MacroInterval(auc - 0.1, auc + 0.1, False), replicates, stats.SeedError())
    for auc, replicates in ((0.8, DRAWS), (0.7, OTHER))
]

#: function -> (arguments that work, arguments in which NaN is refused, arguments in which NaN gives NaN)
CALLS = {
    "weighted_auc": ({"labels": Y, "scores": S, "weights": W[0]}, "labels scores weights", ""),
    "bootstrap_auc": ({"labels": Y, "scores": P, "weights": W}, "labels scores weights", ""),
    "class_aucs": ({"labels": Y, "scores": P, "weights": W}, "labels scores weights", ""),
    "placements": ({"labels": Y, "scores": S}, "labels scores", ""),
    "delong": ({"labels": Y, "scores": S}, "labels scores", ""),
    "auc_interval": ({"labels": Y, "scores": S, "level": 0.9}, "labels scores level", ""),
    "auc_difference": ({**PAIR, "level": 0.9}, "labels a b level", ""),
    "auc_permutation_test": (PAIR, "labels a b", ""),
    "detectable_difference": ({**PAIR, "power": 0.8, "level": 0.9}, "labels a b power level", ""),
    "estimate_interval": ({"areas": stats.delong(Y, S), "level": 0.9}, "level", ""),
    "certain_bound": ({"patients": (5, 5, 10), "level": 0.9}, "patients level", ""),
    "exact_bound": ({"auc": 0.9, "patients": (5, 5, 10), "level": 0.9}, "patients level", "auc"),
    "combined_interval": (
        {"auc": 0.8, "replicates": DRAWS, "labels": Y, "patients": np.arange(20), "level": 0.9}, "labels level", "auc",
    ),
    "cluster_weights": (
        {"patients": np.arange(20), "labels": Y, "resamples": 3, "rng": np.random.default_rng(0)},
        "labels resamples", "",
    ),
    "seed_weights": ({"seeds": 3, "resamples": 4, "rng": np.random.default_rng(0)}, "seeds", ""),
    "combine": ({"cells": RNG.random((2, 3, 5)), "seeds": np.ones((5, 3))}, "seeds", ""),
    "interval": ({"replicates": DRAWS, "level": 0.9}, "level", ""),
    "logit_interval": ({"estimate": 0.8, "replicates": DRAWS, "level": 0.9}, "level", "estimate"),
    "bca_interval": (
        {"estimate": 0.8, "replicates": DRAWS, "influence": S, "level": 0.9}, "influence level", "estimate",
    ),
    "bca_p_value": ({"estimate": 0.1, "replicates": DRAWS - OTHER, "influence": S}, "influence", "estimate"),
    "paired_difference": (
        {"a": 0.8, "a_replicates": DRAWS, "b": 0.7, "b_replicates": OTHER, "level": 0.9}, "level", "a b",
    ),
    "class_interval": (
        {"auc": 0.8, "replicates": DRAWS, "patients": (5, 5, 10), "level": 0.9}, "patients level", "auc",
    ),
    "mean_interval": ({"areas": CLASSES, "labels": Y, "patients": np.arange(20), "level": 0.9}, "labels level", ""),
    "perfect_bound": (
        {"counts": np.array([3, 4]), "weights": np.array([0.5, 0.5]), "patients": 7, "level": 0.9},
        "counts weights level", "",
    ),
    "seeds_of": ({"cells": CELLS}, "", ""),
    "seed_errors": ({"methods": [stats.seeds_of(CELLS), stats.seeds_of(CELLS**2)]}, "", ""),
    "mean_of": (
        {"estimate": 0.8, "interval": stats.MacroInterval(0.7, 0.9, False), "replicates": DRAWS,
         "error": stats.SeedError(), "level": 0.9}, "level", "estimate",
    ),
    "mean_difference": ({"a": MEANS[0], "b": MEANS[1], "level": 0.9}, "level", ""),
    "paired_seeds_difference": (
        {"a": MEANS[0], "b": MEANS[1], "seeds": stats.seeds_of(CELLS), "level": 0.9}, "level", "",
    ),
    "rank_intervals": ({"means": MEANS, "level": 0.9}, "level", ""),
    "corrected_t_test": (
        {"differences": S, "test_train_ratio": 0.25, "level": 0.9}, "differences test_train_ratio level", "",
    ),
    "holm": ({"p_values": np.array([0.1, 0.2])}, "", "p_values"),
    "sign_flip_test": ({"differences": S}, "differences", ""),
    "interquartile_mean": ({"scores": RUNS}, "scores", ""),
    "probability_of_improvement": ({"a": RUNS, "b": RUNS}, "a b", ""),
    "performance_profile": (
        {"scores": RUNS, "thresholds": np.array([0.1, 0.5]), "level": 0.9}, "scores thresholds level", "",
    ),
    "run_replicates": ({"statistic": stats.interquartile_mean, "scores": RUNS}, "scores", ""),
    "run_interval": ({"statistic": stats.interquartile_mean, "scores": RUNS, "level": 0.9}, "scores level", ""),
    "pairwise_wins": ({"scores": TASKS, "margin": 0.0}, "margin", ""),
    "bradley_terry": ({"wins": WINS.sum(axis=0), "prior": 1.0}, "wins prior", ""),
    "elo_ratings": ({"wins": WINS, "prior": 1.0, "level": 0.9}, "wins prior level", ""),
    "friedman": ({"scores": TASKS, "alpha": 0.05}, "scores alpha", ""),
    "critical_difference": ({"methods": 4, "tasks": 8, "alpha": 0.05}, "methods tasks alpha", ""),
    "planned_error": (
        {"positives": 20, "negatives": 30, "auc_a": 0.8, "auc_b": 0.7, "correlation": 0.5},
        "positives negatives auc_a auc_b correlation", "",
    ),
    "planned_half_width": (
        {"counts": [20, 30], "seeds": 3, "auc": 0.8, "spread": 0.2, "level": 0.9}, "counts seeds auc spread level", "",
    ),
    "planned_difference": (
        {"positives": 20, "negatives": 30, "auc": 0.8, "correlation": 0.5, "power": 0.8, "within_patient": 0.1},
        "positives auc correlation power within_patient", "",
    ),
    "planned_power": (
        {"positives": 20, "negatives": 30, "auc": 0.7, "difference": 0.1, "correlation": 0.5, "level": 0.9},
        "positives auc difference correlation level", "",
    ),
    "nanmean": ({"values": RUNS}, "", ""),
}  # fmt: skip
FUNCTIONS = [name for name in stats.__all__ if inspect.isfunction(getattr(stats, name))]


def call(name, arguments):
    given_ = dict(arguments)
    if name.startswith("run_"):
        return getattr(stats, name)(given_.pop("statistic"), given_.pop("scores"), **given_)
    return getattr(stats, name)(**given_)


def spoiled(value):
    """The same argument with one NaN in it."""
    if isinstance(value, list):
        return [spoiled(value[0]), *value[1:]]
    if np.ndim(value) == 0:
        return float("nan")
    out = np.array(value, dtype=float)
    out.flat[1] = np.nan
    return out


def numbers(actual):
    fields = vars(actual).values() if hasattr(actual, "__dict__") else [actual]
    left_out = (str, stats.SeedError)
    return np.concatenate([np.ravel(np.asarray(f, dtype=float)) for f in fields if not isinstance(f, left_out)])


def test_every_public_function_has_its_row():
    assert set(CALLS) == set(FUNCTIONS)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_nan_is_refused_or_gives_nan(name):
    arguments, refused, passed_on = CALLS[name]
    call(name, arguments)
    for argument in refused.split():
        with pytest.raises(MilbenchError):
            call(name, arguments | {argument: spoiled(arguments[argument])})
    for argument in passed_on.split():
        actual = call(name, arguments | {argument: spoiled(arguments[argument])})
        assert np.isnan(numbers(actual)).any(), argument


#: arguments that take a text, None or any object, and those of a fixed kind
ANYTHING = {"order"}
WRONG = {"text": "text", "ragged": [[0.1, 0.2], [0.3]], "object": object(), "mapping": {"a": 1}}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_is_no_argument_is_refused_in_one_sentence(name, wrong):
    """Text, rows of different lengths, any object: for every parameter, those with a default too."""
    arguments, _, _ = CALLS[name]
    parameters = inspect.signature(getattr(stats, name)).parameters
    for parameter in parameters.values():
        if parameter.name in ANYTHING:
            continue
        value = WRONG[wrong]
        with pytest.raises(MilbenchError) as raised:
            call(name, arguments | {parameter.name: value})
        assert "\n" not in str(raised.value), parameter.name


NUMBERS = {"seed": (-1, 2.5), "resamples": (0, -3, 2.5), "level": (0, 1, "0.9x", [0.9, 0.8]), "seeds": (0, -1, 2.5)}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_counts_seeds_and_levels_out_of_their_range_are_refused(name):
    arguments, _, _ = CALLS[name]
    for parameter in inspect.signature(getattr(stats, name)).parameters:
        if isinstance(arguments.get(parameter, 0), (int, float)):
            for value in NUMBERS.get(parameter, ()):
                with pytest.raises(MilbenchError):
                    call(name, arguments | {parameter: value})


#: arguments of which a shorter one is as good
ALONE = {
    "differences", "p_values", "thresholds", "methods", "means", "values", "influence", "folds", "wins", "cells",
}  # fmt: skip


@pytest.mark.parametrize("name", FUNCTIONS)
def test_arguments_of_different_lengths_are_refused(name):
    arguments, _, _ = CALLS[name]
    for parameter, value in arguments.items():
        shorter = value[:-1] if isinstance(value, (list, tuple, np.ndarray)) else None
        together = [other for other in arguments.values() if isinstance(other, (list, tuple, np.ndarray))]
        if parameter == "weights" and np.ndim(value) == 2:
            continue  # as many resamples as there are
        if shorter is None or parameter in ALONE or len(together) < 2:
            continue
        if name in (
            "bca_interval",
            "bca_p_value",
            "probability_of_improvement",
            "class_interval",
            "performance_profile",
            "combined_interval",
        ):
            continue  # replicates, influence values and runs are as many as they are
        with refused("stats-bad-input"):
            call(name, arguments | {parameter: shorter})


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("paired_difference", {"a": 0.8, "a_replicates": [0.1, 0.2], "b": 0.4, "b_replicates": [0.1, 0.2]}),
        ("mean_of", {"estimate": 0.9, "interval": stats.MacroInterval(0.2, 0.3, False)}),
        ("mean_of", {"estimate": 1.7}),
        ("class_interval", {"auc": 1.5}),
        ("combined_interval", {"auc": 1.5}),
        ("combined_interval", {"labels": Y - 1}),
        ("combined_interval", {"labels": Y + 0.5}),
        ("perfect_bound", {"counts": [5, 5], "weights": [3, 3], "patients": 10}),
        ("perfect_bound", {"counts": [5.9, 5]}),
        ("mean_interval", {"labels": np.where(Y == 1, 2, 0)}),
        ("mean_interval", {"folds": [[0, 1, 40]]}),
        ("planned_difference", {"slides_per_patient": np.inf}),
        ("performance_profile", {"thresholds": []}),
        ("combine", {"seeds": np.ones((4, 3))}),
        ("combine", {"cells": [0.1, 0.2]}),
        ("rank_intervals", {"means": [MEANS[0], stats.mean_of(0.7, stats.MacroInterval(0.6, 0.8, False), DRAWS[:50],
                                                              stats.SeedError())]}),
        ("rank_intervals", {"off": np.zeros((1, 1))}),
        ("rank_intervals", {"off": np.full((len(MEANS), len(MEANS)), -1.0)}),
        ("mean_difference", {"b": stats.mean_of(0.7, stats.MacroInterval(0.6, 0.8, False), DRAWS[:50],
                                                stats.SeedError())}),
        ("seed_weights", {"seeds": 3, "resamples": -1}),
        ("auc_permutation_test", {"b": T[:-1]}),
        ("detectable_difference", {"b": T[:-1]}),
        ("class_interval", {"patients": (5.5, 5, 11)}),
        ("class_interval", {"patients": (5, 5)}),
        ("exact_bound", {"auc": 1.2}),
    ],
)  # fmt: skip
def test_what_contradicts_itself_is_refused(name, changed):
    with pytest.raises(MilbenchError):
        call(name, CALLS[name][0] | changed)


def test_no_methods_have_no_errors_of_seeds():
    assert stats.seed_errors([]) == []


def test_what_is_not_known_is_not_a_number():
    nan = float("nan")
    unknown = stats.paired_difference(nan, [0.1, 0.2], 0.5, [0.1, 0.2])
    assert np.isnan([unknown.low, unknown.high, unknown.p]).all()
    perfect, constant = Y + 0.0, np.zeros(20)
    assert np.isnan(stats.detectable_difference(Y, perfect, constant))


@pytest.mark.parametrize("method", ["delong", "percentile", "bca"])
def test_nothing_that_varies_is_not_certainty(method):
    """Perfect order against a constant, two of each class: 1 of 8 swaps is as far."""
    difference = stats.auc_difference([0, 0, 1, 1], [0, 1, 2, 3], [0, 0, 0, 0], method=method)
    assert difference.p == 0.125
    assert difference.low <= 0 < difference.estimate == 0.5


def test_one_positive_patient_has_the_exact_interval_and_test():
    labels = np.r_[np.zeros(30), 1].astype(int)
    rng = np.random.default_rng(0)
    a, b = labels * 9 + rng.normal(size=(2, 31))
    b[-1] = 0.0
    for method in ("delong", "percentile", "bca"):
        difference = stats.auc_difference(labels, a, b, method=method)
        assert -1 <= difference.low <= difference.estimate <= difference.high <= 1
        assert 0 < difference.p <= 1
    one = stats.auc_interval(labels, b)
    assert one.low == pytest.approx(stats.exact_bound(one.estimate, (1, 30, 31)))
    assert one.low <= one.estimate <= one.high


WITH_LABELS = [name for name, (arguments, _, _) in CALLS.items() if "labels" in arguments]


@pytest.mark.parametrize("name", WITH_LABELS)
@pytest.mark.parametrize("labels", [Y + 1, np.where(Y > 0, 2, -3) + 0.5, Y.astype(float) + np.arange(20) % 3, Y[:-1]])
def test_labels_outside_the_classes_are_refused_or_mean_the_same(name, labels):
    """Two values of which one is above 0 are classes; 1 and 2, or three values of a binary score, are not."""
    arguments, _, _ = CALLS[name]
    if (
        name in ("cluster_weights", "combined_interval", "mean_interval")
        and len(labels) == len(Y)
        and (labels == labels // 1).all()
    ):
        return  # no score is read: any classes will do
    try:
        actual = call(name, arguments | {"labels": labels})
    except MilbenchError:
        return
    assert len(labels) == len(Y), name
    assert np.array_equal(labels > 0, Y > 0), name
    np.testing.assert_array_equal(numbers(actual), numbers(call(name, arguments)))


WITH_PATIENTS = ["delong", "auc_interval", "auc_difference", "auc_permutation_test", "detectable_difference"]


@pytest.mark.parametrize("missing", [float("nan"), None, ""])
@pytest.mark.parametrize("name", [*WITH_PATIENTS, "cluster_weights", "combined_interval"])
def test_slides_without_patient_are_patients_of_their_own(name, missing):
    arguments, _, _ = CALLS[name]
    known = np.repeat(np.arange(10), 2).astype(object)
    known[[3, 4, 9]] = missing
    own = np.repeat(np.arange(10), 2)
    own[[3, 4, 9]] = [20, 21, 22]

    def actual(patients):
        extra = {"rng": np.random.default_rng(1)} if "rng" in arguments else {}
        return call(name, arguments | {"patients": patients} | extra)

    a, b = actual(list(known)), actual(own)
    if name == "cluster_weights":
        assert a.shape == b.shape
        assert (a[:, 3] != a[:, 4]).any()
        return
    a, b = (vars(x) if hasattr(x, "__dict__") else {"": x} for x in (a, b))
    for key in a.keys() - {"influence", "owner", "method"}:  # patients stand in another order there
        np.testing.assert_allclose(a[key], b[key], atol=1e-12, err_msg=key)


@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 10_000), st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_a_difference_without_variance_has_the_exact_p_value(positives, negatives, seed, values):
    """Small cohorts of few score values, where placements often do not vary at all."""
    rng = np.random.default_rng(seed)
    y = np.repeat([1, 0], [positives, negatives])
    a, b = rng.integers(0, values, (2, len(y))).astype(float)
    areas = stats.delong(y, np.stack([a, b]))
    gap, error = areas.difference()
    p = areas.test()
    exact = stats.auc_permutation_test(y, a, b)
    assert np.isnan(p) or 0 < p <= 1
    if error == 0:
        assert p == (exact.p if abs(gap) > 1e-12 else 1.0)
    low, high = areas.contrast()
    if np.isfinite(low):
        assert -1 <= low <= gap + 1e-12
        assert gap - 1e-12 <= high <= 1
    if error == 0 and abs(gap) > 1e-12:  # four slides and fewer prove nothing
        assert (p < 0.05) or low <= 0 <= high


@given(st.integers(0, 10_000), st.integers(2, 12))
@settings(max_examples=40, deadline=None)
def test_perfect_order_against_anything_is_allowed_its_bound(seed, n):
    """The interval of a difference to a perfect AUC is never shorter than the bound of the perfect AUC alone."""
    rng = np.random.default_rng(seed)
    y = np.repeat([0, 1], n)
    other = rng.normal(size=2 * n)
    difference = stats.auc_difference(y, y + 0.0, other)
    auc = stats.weighted_auc(y, other)
    if np.array_equal(rankdata(other), rankdata(y)):
        return
    assert difference.low <= max(stats.certain_bound((n, n, 2 * n)) - auc, -1) + 1e-9
    assert difference.estimate == pytest.approx(1 - auc)
