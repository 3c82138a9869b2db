"""The posterior that is stored with `shifted-mean` is Bayes' rule, counted out place by place."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from sklearn.metrics import roc_auc_score
from support.kept import Kept
from support.refusal import refused

from milbench.data.cache.reader import FeatureCache
from milbench.data.datasets import prepare, shifted_mean


def counted_out(x, params, every_subset):
    """Bayes' rule from the densities of whole bags: (n, d) -> posterior."""
    background = norm.pdf(x).prod()
    if every_subset:
        places = list(itertools.combinations(range(len(x)), params.run))
    else:
        places = [range(s, s + params.run) for s in range(len(x) - params.run + 1)]
    shifted = 0.0
    for place in places:
        mean = np.zeros_like(x)
        mean[list(place), : params.informative] = params.delta
        shifted += norm.pdf(x - mean).prod() / len(places)
    return shifted / (shifted + background)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 3), st.integers(1, 2), st.floats(-2, 2), st.lists(st.integers(3, 7), min_size=1, max_size=4),
    st.integers(0, 2**31),
)  # fmt: skip
def test_posteriors_by_brute_force(run, informative, delta, lengths, seed):
    params = shifted_mean.Params(run=run, informative=informative, delta=delta, dim=3, min_length=3, max_length=7)
    x = 1.5 * np.random.default_rng(seed).standard_normal((sum(lengths), 3)).astype(np.float32)
    ordered, unordered = shifted_mean.posteriors(params, x[:, :informative], np.array(lengths))
    bags = np.split(x.astype(np.float64), np.cumsum(lengths)[:-1])
    assert ordered == pytest.approx([counted_out(bag, params, every_subset=False) for bag in bags], rel=1e-9)
    assert unordered == pytest.approx([counted_out(bag, params, every_subset=True) for bag in bags], rel=1e-9)


def test_bags_are_drawn_as_the_paper_says():
    kept = Kept()
    params = shifted_mean.Params(dim=4, informative=2, train=2000, val=4, test=4)
    actual = shifted_mean.build(kept, params)
    lengths = np.array([len(kept[s]) for s in actual.fold.train])
    label = np.array([actual.labels[s] for s in actual.fold.train])
    assert set(lengths) == set(range(15, 46))
    assert label.sum() == 1000
    assert abs(roc_auc_score(label, lengths) - 0.5) < 0.04
    marks = actual.instances.set_index("slide_id")["label"]
    starts = []
    for slide, x, positive in zip(actual.fold.train, kept.values(), label, strict=False):
        rows = np.flatnonzero(marks[slide].to_numpy())
        assert len(rows) == (3 if positive else 0)
        if positive:
            assert (np.diff(rows) == 1).all()
            starts.append(rows[0] / (len(x) - 3))
    assert np.histogram(starts, 4, (0, 1))[0] == pytest.approx(250, abs=75)
    x, shifted = np.concatenate(list(kept.values())), actual.instances["label"].to_numpy() == 1
    assert x[shifted].mean(axis=0) == pytest.approx([1, 1, 0, 0], abs=0.08)
    assert x[~shifted].mean(axis=0) == pytest.approx([0, 0, 0, 0], abs=0.02)
    assert x[~shifted].std(axis=0) == pytest.approx(1, abs=0.02)


@pytest.fixture(scope="module")
def known():
    """Labels and posteriors of 6,000 bags."""
    kept = Kept()
    actual = shifted_mean.build(kept, shifted_mean.Params(dim=2, train=6000, val=4, test=4))
    table = actual.bags.set_index("slide_id").loc[list(actual.fold.train)]
    return np.array([actual.labels[s] for s in actual.fold.train]), table


@pytest.mark.parametrize("name", ["posterior", "posterior_iid"])
def test_posteriors_mean_what_they_say(known, name):
    """Among bags of one posterior that share is positive: no other function of the bag does so and ranks as well."""
    label, table = known
    for part in np.array_split(np.argsort(table[name].to_numpy()), 12):
        p = table[name].to_numpy()[part]
        error = math.sqrt((p * (1 - p)).sum()) / len(p)
        assert abs(label[part].mean() - p.mean()) < 3.5 * error


def test_order_is_worth_something(known):
    label, table = known
    ordered, unordered = (roc_auc_score(label, table[name]) for name in ("posterior", "posterior_iid"))
    assert 0.6 < unordered + 0.02 < ordered < 0.8


def test_posteriors_are_stored_with_the_features(cache_home):
    home = prepare("shifted-mean", {"dim": 5, "delta": 2.0, "train": 12, "val": 4, "test": 8})
    cache, table = FeatureCache.open(home / "features"), pd.read_csv(home / "bags.csv")
    params = shifted_mean.Params(dim=5, delta=2.0)
    assert table["slide_id"].tolist() == list(cache.ids)
    for slide, posterior in zip(table["slide_id"], table["posterior"], strict=True):
        x = cache[slide].double().numpy()
        assert posterior == pytest.approx(counted_out(x, params, every_subset=False), rel=1e-9)


def test_without_a_shift_nothing_is_known():
    kept = Kept()
    actual = shifted_mean.build(kept, shifted_mean.Params(dim=1, delta=0.0, train=40, val=4, test=4))
    assert actual.bags[["posterior", "posterior_iid"]].to_numpy() == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("params", "refusal"),
    [
        ({"run": 16}, ("dataset-bad-option",)),
        ({"min_length": 30, "max_length": 20}, ("dataset-bad-option",)),
        ({"dim": 2, "informative": 3}, ("dataset-bad-option", "3", "2")),
    ],
)
def test_what_does_not_hang_together_is_refused(params, refusal, cache_home):
    with refused(*refusal, "shifted-mean", "params"):
        prepare("shifted-mean", params)
