"""The unit tests of Raff and Holt are drawn by their rules, and hide what they are meant to hide."""

import itertools

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score
from support.kept import Kept
from support.refusal import refused

from milbench.data.datasets import prepare, raff_holt

FEW = {"train": 600, "val": 400, "test": 600}
ONE_OF = {(1, 0), (0, 1)}
MANY_OF = {copies for n in range(35, 40) for copies in ((n, 0), (0, n))}
#: problem, label and whether by the rules of test -> the numbers of background and poison that occur, and those of the
#: two kinds of the concept together, as their notebook has them
RULES = {
    ("single-concept", 0, False): (range(1, 10), {1}, {(0, 0)}),
    ("single-concept", 1, False): (range(1, 5), {0}, {(a, n - a) for n in (1, 2, 3) for a in range(n + 1)}),
    ("single-concept", 0, True): (range(1, 10), {0}, {(0, 0)}),
    ("single-concept", 1, True): (range(1, 5), {1}, {(a, n - a) for n in (1, 2, 3) for a in range(n + 1)}),
    ("multi-concept", 0, False): (range(1, 5), {1}, ONE_OF),
    ("multi-concept", 1, False): (range(1, 5), {0, 1}, set(itertools.product(range(1, 5), repeat=2))),
    ("multi-concept", 0, True): (range(1, 5), {0}, ONE_OF),
    ("multi-concept", 1, True): (range(1, 5), {1}, set(itertools.product(range(1, 5), repeat=2))),
    ("false-frequency", 0, False): (range(1, 10), {0}, ONE_OF),
    ("false-frequency", 1, False): (range(1, 10), {0}, {(1, 1)}),
    ("false-frequency", 0, True): (range(1, 10), {0}, MANY_OF),
    ("false-frequency", 1, True): (range(1, 10), {0}, {(1, 1)}),
}  # fmt: skip
PROBLEMS = tuple(raff_holt.LAWS)


def built(problem, **params):
    kept = Kept()
    actual = raff_holt.build(kept, raff_holt.Params(problem=problem, **(FEW | params)))
    return kept, actual


def counts_of(actual):
    """Columns: the kinds; one row a bag."""
    table = actual.instances.assign(one=1).pivot_table(
        index="slide_id", columns="kind", values="one", aggfunc="sum", fill_value=0, observed=False
    )
    return table.loc[list(actual.labels)]


@pytest.mark.parametrize("problem", PROBLEMS)
def test_bags_hold_what_the_rules_say_and_all_of_it_occurs(problem):
    _, actual = built(problem)
    counts = counts_of(actual)
    first, second = list(raff_holt.LAWS[problem])[2:]
    for part, ids in actual.fold.parts.items():
        assert sum(actual.labels[s] for s in ids) == len(ids) // 2
        for label in (0, 1):
            background, poison, concept = RULES[problem, label, part == "test"]
            of = counts.loc[[s for s in ids if actual.labels[s] == label]]
            assert set(of["background"]) == set(background)
            assert set(of["poison"]) == poison
            assert set(zip(of[first], of[second], strict=True)) == concept
            assert of["background"].value_counts(normalize=True).to_numpy() == pytest.approx(
                1 / len(background), abs=0.08
            )


def test_shares_that_the_rules_leave_to_chance():
    _, actual = built("multi-concept", train=4000, val=4, test=4)
    counts = counts_of(actual)
    positive = np.array([actual.labels[s] for s in counts.index]) == 1
    assert counts["poison"][positive].mean() == pytest.approx(0.1, abs=0.02)
    assert counts["A"][~positive].mean() == pytest.approx(0.5, abs=0.04)
    _, actual = built("single-concept", train=4000, val=4, test=4)
    counts = counts_of(actual)
    assert counts["wide"].sum() / (counts["wide"] + counts["near"]).sum() == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("problem", PROBLEMS)
def test_features_follow_their_kind(problem):
    kept, actual = built(problem)
    x, table = np.concatenate(list(kept.values())), actual.instances
    assert x.shape == (len(table), 16)
    assert table["slide_id"].astype(str).tolist() == [s for s in kept for _ in range(len(kept[s]))]
    for kind, (mean, deviation) in raff_holt.LAWS[problem].items():
        mine = x[(table["kind"] == kind).to_numpy()]
        if len(mine):
            assert stats.kstest(mine.ravel(), stats.norm(mean, deviation).cdf).pvalue > 1e-3
    assert ((table["label"] == 1) == ~table["kind"].isin(["background", "poison"])).all()


@pytest.mark.parametrize("problem", PROBLEMS)
def test_place_in_the_bag_tells_nothing(problem):
    kept, actual = built(problem)
    lengths = np.repeat([len(x) for x in kept.values()], [len(x) for x in kept.values()])
    place = (actual.instances["row"].to_numpy() + 0.5) / lengths
    for kind, at in actual.instances.groupby("kind", observed=True).indices.items():
        error = np.sqrt(1 / 12 / len(at))
        assert abs(place[at].mean() - 0.5) < 4 * error, kind


def test_absence_of_poison_tells_in_training_and_misleads_in_test():
    for problem, train in (("single-concept", 1.0), ("multi-concept", 0.95)):
        kept, actual = built(problem)
        clean = {s: float(x.mean(axis=1).min() > -9) for s, x in kept.items()}
        auc = {
            part: roc_auc_score([actual.labels[s] for s in ids], [clean[s] for s in ids])
            for part, ids in actual.fold.parts.items()
        }
        assert auc["train"] == pytest.approx(train, abs=0.02)
        assert auc["val"] == pytest.approx(train, abs=0.02)
        assert auc["test"] == 0


def size_auc(actual, part):
    ids = actual.fold.parts[part]
    sizes = counts_of(actual).sum(axis=1)
    return roc_auc_score([actual.labels[s] for s in ids], sizes[list(ids)])


def test_size_gives_the_label_away_unless_bags_are_padded():
    single, multi, frequency = (built(problem)[1] for problem in PROBLEMS)
    assert size_auc(single, "train") < 0.4
    assert size_auc(single, "test") > 0.55
    assert min(size_auc(multi, "train"), size_auc(multi, "test")) > 0.8
    assert size_auc(frequency, "train") > 0.54
    assert size_auc(frequency, "test") == 0
    for problem, plain in zip(PROBLEMS, (single, multi, frequency), strict=True):
        padded = built(problem, pad=48)[1]
        assert {size_auc(padded, part) for part in ("train", "val", "test")} == {0.5}
        assert (counts_of(padded).sum(axis=1) == 48).all()
        # Background alone is added.
        kinds = list(raff_holt.LAWS[problem])[1:]
        assert (counts_of(padded)[kinds] == counts_of(plain)[kinds]).all(axis=None)


@pytest.mark.parametrize(("problem", "pad"), [("single-concept", 9), ("multi-concept", 12), ("false-frequency", 45)])
def test_a_pad_that_leaves_a_part_of_the_shortcut_is_refused(problem, pad, cache_home):
    with refused("dataset-bad-option", "raff-holt", "params", raff_holt.LONGEST[problem], "instances"):
        prepare("raff-holt", {"problem": problem, "pad": pad})


def test_the_defaults_are_the_authors_sizes():
    params = raff_holt.Params()
    assert (params.train, params.test, params.dim) == (10_000, 1_000, 16)
