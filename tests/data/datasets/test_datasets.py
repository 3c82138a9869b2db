"""Built-in datasets keep what their docstrings promise."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_digits

from milbench.data.cache.reader import FeatureCache
from milbench.data.datasets import arrangement, dataset_names, digits_bags, load_dataset, prepare
from milbench.data.labels.table import read_labels
from milbench.data.splits.files import read_fold


def test_every_dataset_is_listed_with_a_sentence():
    assert set(dataset_names()) == {"digits-bags", "arrangement", "raff-holt", "shifted-mean", "planted-slides"}
    for name, summary in dataset_names().items():
        assert summary.startswith(f"{name}: ")
        assert load_dataset(name).VERSION >= 1


@pytest.fixture
def digits(cache_home):
    return prepare("digits-bags", {})


def test_digits_bags(digits):
    cache, table = FeatureCache.open(digits / "features"), read_labels(digits)
    fold, instances = read_fold(digits / "folds" / "fold0.csv"), pd.read_parquet(digits / "instances.parquet")
    labels = dict(zip(table["slide_id"], table["label"], strict=True))
    assert [len(part) for part in fold.parts.values()] == [300, 100, 400]
    assert cache.dim == 64
    # No image is in two parts.
    part_of = {slide: part for part, ids in fold.parts.items() for slide in ids}
    parts = instances.groupby("image")["slide_id"].agg(lambda ids: len({part_of[i] for i in ids}))
    assert parts.max() == 1
    # A bag is positive exactly when one of its instances is; half of every part is.
    assert instances.groupby("slide_id")["label"].max().to_dict() == labels
    assert all(2 * sum(labels[s] for s in ids) == len(ids) for ids in fold.parts.values())
    assert ((instances["digit"] == 9) == (instances["label"] == 1)).all()
    # Features are the images the side table names, in its order.
    pixels = (load_digits().data / 16).astype(np.float32)
    stored = cache.bags(list(labels)).x.numpy()
    assert (stored == pixels[instances["image"].to_numpy()]).all()
    assert stored.min() == 0
    assert stored.max() == 1
    # N(10, 2) truncated to an integer: mean 9.5, standard deviation a little above 2; the same law in both classes.
    lengths = cache.slides.set_index("slide_id")["rows"]
    assert lengths.mean() == pytest.approx(9.5, abs=0.3)
    assert lengths.std() == pytest.approx(2.02, abs=0.2)
    by_class = [lengths[[s for s, y in labels.items() if y == c]].mean() for c in (0, 1)]
    assert by_class[0] == pytest.approx(by_class[1], abs=0.5)


def test_digits_bags_follow_their_parameters(cache_home):
    home = prepare(
        "digits-bags", {"target": 3, "mean_length": 2, "std_length": 5, "train": 30, "val": 4, "test": 4, "seed": 7}
    )
    instances, table = pd.read_parquet(home / "instances.parquet"), read_labels(home)
    positive = set(table["slide_id"][table["label"] == 1])
    assert {s for s, d in zip(instances["slide_id"], instances["digit"], strict=True) if d == 3} == positive
    assert FeatureCache.open(home / "features").slides["rows"].min() == 1


def test_the_seed_decides_everything(cache_home, tmp_path, monkeypatch):
    for name in dataset_names():
        small = {"train": 6, "val": 4, "test": 6}
        first = FeatureCache.open(prepare(name, small) / "features").fingerprint
        other = FeatureCache.open(prepare(name, small | {"seed": 1}) / "features").fingerprint
        monkeypatch.setenv("MILBENCH_CACHE", str(tmp_path / "again"))
        assert FeatureCache.open(prepare(name, small) / "features").fingerprint == first != other
        monkeypatch.setenv("MILBENCH_CACHE", str(cache_home))


def test_digit_images_are_divided_by_digit():
    target = load_digits().target
    pools = digits_bags.divide_images(target, np.random.default_rng(0))
    everything = np.concatenate(list(pools.values()))
    assert sorted(everything) == list(range(1797))
    for part, share in (("train", 0.5), ("val", 0.15), ("test", 0.35)):
        counts = np.bincount(target[pools[part]]) / np.bincount(target)
        assert counts == pytest.approx(np.full(10, share), abs=0.01)


def test_arrangement_puts_the_same_instances_in_other_places():
    """The instances are drawn before the label is used: a label decides over the order of rows only."""

    class Kept(dict):
        def add(self, name, x, coords, coord_step):
            self[name] = x
            assert (coords[:, 1] * 8 + coords[:, 0] == np.arange(64)).all()

    params = arrangement.Params(train=6, val=4, test=6)
    kept = Kept()
    built = arrangement.build(kept, params)
    for number, (part, ids) in enumerate(built.fold.parts.items()):
        drawn = arrangement.draw_instances(params, len(ids), np.random.default_rng([params.seed, number, 1]))
        for name, x in zip(ids, drawn, strict=True):
            order, order_drawn = np.lexsort(kept[name].T), np.lexsort(x.T)
            assert (kept[name][order] == x[order_drawn]).all(), part
    assert sum(built.labels[s] for s in built.fold.test) == 3


def test_arrangement_places():
    params = arrangement.Params()
    is_block = np.arange(400) % 2 == 1
    cells = arrangement.draw_cells(params, is_block, np.random.default_rng(0))
    assert (np.sort(cells, axis=1) == np.arange(64)).all()
    rows, columns = np.divmod(cells[:, :9], 8)
    spread = (np.ptp(rows, axis=1) == 2) & (np.ptp(columns, axis=1) == 2)
    assert spread[is_block].all()
    assert not spread[~is_block].any()
    # Every place of a block occurs, and scattered signals visit all cells equally often.
    corners = {(int(r), int(c)) for r, c in zip(rows[is_block].min(1), columns[is_block].min(1), strict=True)}
    assert len(corners) == 36
    visits = np.bincount(cells[~is_block, :9].ravel(), minlength=64)
    assert visits.min() > 10


def test_arrangement_signals_are_shifted():
    params = arrangement.Params(shift=3)
    x = arrangement.draw_instances(params, 500, np.random.default_rng(0))
    assert x.shape == (500, 64, 16)
    assert x[:, :9, 0].mean() == pytest.approx(3, abs=0.05)
    assert x[:, 9:, 0].mean() == pytest.approx(0, abs=0.05)
    assert x[:, :, 1:].std() == pytest.approx(1, abs=0.01)
