"""The dial of `arrangement`: known posteriors, layouts that only their form gives away, the data of old unchanged."""

import hashlib
import itertools
import math

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import roc_auc_score
from support.kept import Kept
from support.refusal import refused

from milbench.data.datasets import arrangement, prepare

#: SHA-256 of names, labels, features and coordinates of 6, 4 and 6 bags by the defaults, before there was a dial.
BEFORE = "794944de2798bb181c2572bc98b8db4286d58c9bfb357eebc1760f65f50105eb"


def built(**params):
    kept = Kept()
    return kept, arrangement.build(kept, arrangement.Params(**({"train": 4, "val": 4, "test": 4} | params)))


def test_without_the_dial_the_data_are_what_they_were():
    kept, actual = built(train=6, val=4, test=6)
    seen = hashlib.sha256()
    for name, x in kept.items():
        seen.update(name.encode() + str(actual.labels[name]).encode())
        seen.update(x.tobytes() + kept.coords[name].astype("<i8").tobytes())
    assert seen.hexdigest() == BEFORE
    assert actual.bags["posterior_iid"].eq(0.5).all()


def places_of(params):
    """Every place the signals can take, of the layout that hangs together and of the other: lists of cells."""
    n, k = params.grid**2, params.signals
    if params.form == "planar":
        lines = {}
        for name, steps in (("together", (params.grid,)), ("apart", params.jagged)):
            lines[name] = [
                list(itertools.accumulate((start, *path)))
                for start in range(params.starts)
                for path in itertools.product(steps, repeat=k - 1)
            ]
        return lines["together"], lines["apart"]
    side = math.isqrt(k)
    corners = itertools.product(range(params.grid - side + 1), repeat=2)
    blocks = [[(top + i) * params.grid + left + j for i in range(side) for j in range(side)] for top, left in corners]
    return blocks, list(itertools.combinations(range(n), k))


def counted_out(x, params, ordered):
    """Bayes' rule by enumeration of coins, layouts and places: (n, dim) -> posterior."""
    p, q = (1 + params.composition) / 2, 1 - params.composition / 2
    likelihood = np.zeros(2)
    together, apart = (np.array(places) for places in places_of(params))
    if not ordered:  # every subset is equally likely, whatever the layout
        together = apart = np.array(list(itertools.combinations(range(len(x)), params.signals)))
    for label, up, is_together in itertools.product((0, 1), repeat=3):
        probability = (q if is_together == label else 1 - q) * (p if up == label else 1 - p)
        mean = np.zeros(x.shape[1])
        mean[0] = params.shift
        if params.composition > 0:
            mean[1] = params.shift if up else -params.shift
        ratio = (norm.pdf(x - mean) / norm.pdf(x)).prod(axis=1)  # of a signal against background, cell by cell
        likelihood[label] += probability * ratio[together if is_together else apart].prod(axis=1).mean()
    return likelihood[1] / likelihood.sum()


@pytest.mark.parametrize("composition", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("form", ["storage", "planar"])
def test_posteriors_by_brute_force(form, composition):
    size = {"grid": 3, "signals": 4} if form == "storage" else {"grid": 9, "signals": 2}
    # A planar grid of 9 is too small to hide anything, which Params refuses, but small enough to count out.
    params = arrangement.Params.model_construct(
        **arrangement.Params().model_dump() | size | {"form": form, "composition": composition, "shift": 0.9}
    )
    rng = np.random.default_rng(3)
    x = rng.standard_normal((6, params.grid**2, 2)).astype(np.float32)
    for i, label in enumerate([True, False] * 3):
        cells = arrangement.draw_cells(params, np.array([label]), rng)[0, : params.signals]
        x[i, cells] += 0.9
    ordered, unordered = arrangement.posteriors(params, x)
    bags = x.astype(np.float64)
    assert ordered == pytest.approx([counted_out(bag, params, ordered=True) for bag in bags], rel=1e-9)
    assert unordered == pytest.approx([counted_out(bag, params, ordered=False) for bag in bags], rel=1e-9)
    assert len({round(v, 6) for v in ordered}) == 6


def coins_auc(*agreements):
    """AUC of independent coins, each of which agrees with the label with its probability, combined by Bayes' rule."""
    ones = zeros = np.ones(1)
    for p in agreements:
        ones, zeros = np.outer(ones, [p, 1 - p]).ravel(), np.outer(zeros, [1 - p, p]).ravel()
    odds = np.log(ones + 1e-300) - np.log(zeros + 1e-300)
    order = (odds[:, None] > odds + 1e-9) + 0.5 * (np.abs(odds[:, None] - odds) < 1e-9)
    return float(ones @ order @ zeros)


@pytest.mark.parametrize("composition", [0.0, 0.25, 0.5, 0.75, 1.0])
def test_bayes_auc_of_signals_that_cannot_be_missed_is_that_of_the_two_coins(composition):
    _, actual = built(composition=composition, shift=8.0, grid=6, dim=2, test=3000)
    known = actual.bags.set_index("slide_id").loc[list(actual.fold.test)]
    label = [actual.labels[s] for s in actual.fold.test]
    p, q = (1 + composition) / 2, 1 - composition / 2
    assert roc_auc_score(label, known["posterior"]) == pytest.approx(coins_auc(p, q), abs=0.02)
    assert roc_auc_score(label, known["posterior_iid"]) == pytest.approx(p, abs=0.02)
    assert coins_auc(p) == pytest.approx(p)


def test_posteriors_mean_what_they_say():
    _, actual = built(composition=0.4, shift=1.2, grid=5, signals=4, dim=2, test=4000)
    known = actual.bags.set_index("slide_id").loc[list(actual.fold.test)]
    label = np.array([actual.labels[s] for s in actual.fold.test])
    for name in ("posterior", "posterior_iid"):
        for part in np.array_split(np.argsort(known[name].to_numpy()), 8):
            p = known[name].to_numpy()[part]
            assert abs(label[part].mean() - p.mean()) < 3.5 * math.sqrt((p * (1 - p)).sum()) / len(p)


def lines(together, bags=400):
    """Cells (B, 9) of planar layouts in storage order."""
    params = arrangement.Params(form="planar", grid=40)
    cells = arrangement.draw_cells(params, np.full(bags, together), np.random.default_rng(1))
    assert (np.sort(cells, axis=1) == np.arange(1600)).all()
    return np.sort(cells[:, :9], axis=1)


def test_no_window_over_storage_tells_planar_layouts_apart():
    for together in (True, False):
        assert np.diff(lines(together), axis=1).min() >= 33
    # Where the line begins, and where its signals lie, follows one distribution.
    column, jagged = lines(True), lines(False)
    error = 40 / math.sqrt(400)
    assert column.mean() == pytest.approx(jagged.mean(), abs=4 * 1600 / math.sqrt(12 * 400))
    assert np.diff(jagged, axis=1).mean() == pytest.approx(40, abs=error)


def test_planar_layouts_differ_within_the_reach_of_a_kernel_over_the_grid():
    rows, columns = np.divmod(lines(True), 40)
    assert (np.ptp(columns, axis=1) == 0).all()
    assert (np.diff(rows, axis=1) == 1).all()
    steps = np.diff(lines(False), axis=1) - 40
    assert set(np.abs(steps).ravel()) == {4, 5, 6, 7}
    assert np.sign(steps).mean() == pytest.approx(0, abs=0.06)


def test_planar_bags_hold_the_same_instances_in_both_classes():
    kept, actual = built(form="planar", grid=40, dim=1, train=4, val=4, test=40)
    label = np.array([actual.labels[s] for s in actual.fold.test])
    last = np.stack([np.sort(kept[s][:, 0]) for s in actual.fold.test])
    assert actual.classes == ("jagged", "column")
    drawn = arrangement.draw_instances(
        arrangement.Params(form="planar", grid=40, dim=1), 40, np.random.default_rng([0, 2, 1])
    )
    assert (last == np.sort(drawn[:, :, 0], axis=1)).all()
    assert label.sum() == 20


def test_coordinates_form_is_the_storage_form_with_rows_shuffled():
    plain, before = built(dim=2)
    shuffled, after = built(dim=2, form="coordinates")
    assert after.labels == before.labels
    assert after.bags.equals(before.bags)
    for name, x in shuffled.items():
        back = np.lexsort(shuffled.coords[name].T)  # by row, then column
        assert (x[back] == plain[name]).all()
        assert (shuffled.coords[name][back] == plain.coords[name]).all()
        assert not (x == plain[name]).all()


def test_the_dial_moves_the_signal_from_the_layout_into_the_instances():
    kept, actual = built(composition=0.5, grid=5, signals=4, dim=2, shift=10.0, test=2000)
    label = np.array([actual.labels[s] for s in actual.fold.test])
    bags = np.stack([kept[s] for s in actual.fold.test]).reshape(-1, 5, 5, 2)
    signal = bags[..., 0] > 5
    assert (signal.sum(axis=(1, 2)) == 4).all()
    block = (np.ptp(np.argwhere(signal)[:, 1].reshape(-1, 4), axis=1) == 1) & (
        np.ptp(np.argwhere(signal)[:, 2].reshape(-1, 4), axis=1) == 1
    )
    up = np.where(signal, bags[..., 1], 0).sum(axis=(1, 2)) > 0
    assert (block == (label == 1)).mean() == pytest.approx(0.75, abs=0.03)
    assert (up == (label == 1)).mean() == pytest.approx(0.75, abs=0.03)
    agree = (block == (label == 1)) == (up == (label == 1))
    assert agree.mean() == pytest.approx(0.75**2 + 0.25**2, abs=0.04)  # independent given the label


@pytest.mark.parametrize(
    ("params", "refusal"),
    [
        ({"form": "planar", "grid": 39}, ("dataset-bad-option", "40")),
        ({"form": "planar", "grid": 40, "signals": 36}, ("dataset-bad-option", "36")),
        ({"form": "planar", "grid": 40, "signals": 1}, ("dataset-bad-option", "2")),
        ({"signals": 5}, ("dataset-bad-option", "64")),
        ({"composition": 0.1, "dim": 1}, ("dataset-bad-option", "2")),
        ({"composition": 1.1}, ("dataset-bad-option", "1")),
    ],
)
def test_what_does_not_hang_together_is_refused(params, refusal, cache_home):
    with refused(*refusal, "arrangement"):
        prepare("arrangement", params)
