"""Operations of a training step as budgets count them, against closed forms derived from the equations by hand.

A dense layer of n rows, a to b wide, is three products of 2 n a b: forward, the weights' gradient, the input's
gradient; the last is missing where the input is the features.
"""

import math

import numpy as np
import pytest
from support.odd_methods import HasCoarseSteps

from milbench.registry import list_aggregators
from milbench.training.budget_meter import FlopTable

IN = 192


def dense(n, a, b, of_features=False):
    return 2 * n * a * b * (2 if of_features else 3)


def summed(n, width, heads=1, of_features=False):
    """A weighted sum of rows for each head: forward, the weights' gradient, and the rows' gradient."""
    return 2 * n * width * heads * (2 if of_features else 3)


def abmil(n, gated=False, embed=None):
    width = embed or IN
    score = dense(n, width, 256 if gated else 128, of_features=embed is None) + dense(n, 128, 1)
    first = 0 if embed is None else dense(n, IN, embed, of_features=True)
    return first + score + summed(n, width, of_features=embed is None) + dense(1, width, 1)


def dsmil(n):
    likeness = 3 * 2 * n * 128  # of every instance to the critical one, both sides with a gradient
    stream = dense(n, IN, 129, of_features=True) + dense(n, 128, 128) + likeness
    return stream + summed(n, IN, of_features=True) + dense(1, IN, 1)


def clam(n, branches):
    attention = dense(n, 512, 512) + dense(n, 256, branches)
    ends = 2 * dense(16, 512, 2)  # each class's instance classifier on the 8 most and 8 least attended
    return dense(n, IN, 512, of_features=True) + attention + summed(n, 512, branches) + ends + dense(1, 512, 2)


def transmil(n, layers=2, ppeg="pyramid", dim=512, heads=8, m=256, steps=6):
    """The layers as streamed: the backward pass makes the softmax factors again instead of keeping them."""
    cells = (math.isqrt(n - 1) + 1) ** 2
    rows, land = cells + 1, m * dim
    square = 2 * rows * dim * dim
    factor = 2 * rows * m * dim  # scores against the landmarks, or a product of their softmax with d-wide rows
    band = 2 * rows * 64 * dim  # the value convolution as blocks of 32 x 64
    product = 2 * heads * m**3
    # Forward 2 products a step, backward 4; A Z_0 one and two; softmax(q_l k_l') and applying p(Y) the same.
    chain = 6 * (steps - 1) * product + 3 * product + 3 * 2 * m * land
    before = (4 + 8) * square + (4 + 10) * factor + 3 * band + chain + 3 * (3 * steps + 1) * 2 * m * land
    # Keys; scores twice forward and twice backward, two products with their gradient; the row's mixtures.
    last = 3 * square + 6 * factor + 2 * 2 * heads * m * rows + 3 * 2 * heads * rows * dim + chain
    means = layers * 2 * dense(m, dim, dim)
    size = {"none": 0, "3": 3, "5": 5, "7": 7, "pyramid": 7}[ppeg]
    position = 3 * 2 * size**2 * cells * dim
    token = dense(1, dim, 2) + dense(1, dim, dim) + dense(18, dim, dim)  # head, output, values of the first rows
    return dense(n, IN, dim, of_features=True) + (layers - 1) * before + last + means + position + token


@pytest.mark.parametrize(
    ("method", "due"),
    [
        ("mean", lambda n: dense(1, IN, 2, of_features=True)),
        ("max", lambda n: dense(1, IN, 2, of_features=True)),
        ("max_instance", lambda n: 2 * (n + 2) * IN),  # one instance has a gradient
        ("abmil", abmil),
        ("abmil[gated=true]", lambda n: abmil(n, gated=True)),
        ("abmil[embed_dim=64]", lambda n: abmil(n, embed=64)),
        ("dsmil", dsmil),
        ("clam_sb", lambda n: clam(n, 1)),
        ("clam_mb", lambda n: clam(n, 2)),
    ],
)
def test_pooling(method, due):
    counted = FlopTable(method, IN, 2)
    for n in (100, 5000):
        assert counted.of(n) == pytest.approx(due(n), rel=0.01)


@pytest.mark.parametrize("layers", [1, 2, 3, 4])
@pytest.mark.parametrize("ppeg", ["none", "3", "5", "7", "pyramid"])
def test_transmil(ppeg, layers):
    counted = FlopTable(f"transmil[ppeg={ppeg},layers={layers}]", IN, 2)
    for n in (3000, 9000):
        assert counted.of(n) == pytest.approx(transmil(n, layers, ppeg), rel=0.01)


SMALL = "dim=32,landmarks=16,heads=2,pinv_iterations=2"
EVERY = [
    *(name for name in list_aggregators() if name != "transmil"), "abmil[gated=true,embed_dim=16]",
    "clam_mb[k_sample=3,subtyping=true]", f"transmil[{SMALL}]", f"transmil[{SMALL},layers=3,ppeg=none,square=zeros]",
    f"transmil[{SMALL},layers=1,readout=mean,order=raster]", f"transmil[{SMALL},value_conv=false,ppeg=5]",
]  # fmt: skip


def counted_one_by_one(method, classes=2):
    every = FlopTable(method, 12, classes, coords=True)
    every._pieces = None
    return every


@pytest.mark.parametrize("method", EVERY)
def test_shapes_that_are_remembered_change_no_count(method):
    """Against every operation carried out on the meta device."""
    few, every = FlopTable(method, 12, 3, coords=True), counted_one_by_one(method, 3)
    every._shapes = None
    assert [few.of(n) for n in (3, 700)] == [every.of(n) for n in (3, 700)]


@pytest.mark.parametrize(("method", "classes"), [(m, c) for m in EVERY for c in (2, 3) if c == 2 or "trans" not in m])
def test_operations_from_a_few_counts_are_those_of_every_length(method, classes):
    """Squares, landmarks, blocks of the value convolution and chunks of rows: the same whole numbers on either side."""
    few, every = FlopTable(method, 12, classes, coords=True), counted_one_by_one(method, classes)
    edges = [1, 4, 5, 9, 15, 16, 17, 32, 33, 257, 1025, 4095, 4096, 4097]
    others = np.random.default_rng(len(method) + classes).integers(1, 9000, size=4).tolist()
    lengths = np.random.default_rng(classes).permutation([*edges, *others]).tolist()
    assert {n: few.of(n) for n in lengths} == {n: every.of(n) for n in lengths}
    assert few.counts <= 12


def test_a_cohort_of_a_thousand_lengths_takes_a_few_counts():
    lengths = np.random.default_rng(0).integers(2_000, 60_000, size=1000)
    for method, most in (("transmil", 5), ("clam_sb", 3), ("mean", 2)):
        few = FlopTable(method, 64, 2)
        assert all(isinstance(few.of(int(n)), int) for n in lengths)
        assert few.counts <= most


def test_another_process_goes_on_from_what_is_known():
    first, second = FlopTable("abmil", 12, 2), FlopTable("abmil", 12, 2)
    due = [first.of(n) for n in (5, 9, 100, 1234)]
    second.learn(first.known)
    assert [second.of(n) for n in (5, 9, 100, 1234)] == due
    assert second.of(777) == counted_one_by_one("abmil").of(777)
    assert second.counts == 0


@pytest.mark.parametrize("name", ["StatesFalseTerms", "HasCoarseSteps"])
def test_a_method_of_others_is_taken_by_its_word_only_after_a_check(name):
    method = f"support.odd_methods:{name}"
    few, every = FlopTable(method, 12, 2), counted_one_by_one(method)
    lengths = [150, 30, 1, 12, 9, 10, 250, 251, 400, 1001]
    assert [few.of(n) for n in lengths] == [every.of(n) for n in lengths]
    assert (few._pieces is None) == (name == "StatesFalseTerms")


def test_a_subclass_does_not_inherit_the_statement(monkeypatch):
    class Sub(HasCoarseSteps):
        def strange(self, bags):
            self.head(bags.x)

    few = FlopTable("support.odd_methods:HasCoarseSteps", 12, 2)
    monkeypatch.setattr("support.odd_methods.HasCoarseSteps", Sub)
    assert [few.of(n) for n in (100, 101, 102)] == [
        counted_one_by_one("support.odd_methods:HasCoarseSteps").of(n) for n in (100, 101, 102)
    ]
    assert few._pieces is None


def test_what_cannot_be_counted_says_why():
    missing = FlopTable("support.odd_methods:ReadsValues", 12, 2)
    assert missing.of(5) is None
    assert "meta" in missing.why.lower()
