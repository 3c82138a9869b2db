"""Packing, moving and refusing bags."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.refusal import refused

from milbench import BagOutput, Bags

lengths = st.lists(st.integers(1, 9), min_size=1, max_size=6)


def make(sizes, dim=3, coords=False):
    xs = [torch.randn(n, dim) for n in sizes]
    return xs, Bags.pack(xs, [torch.randint(0, 99, (n, 2)) for n in sizes] if coords else None)


@settings(max_examples=25, deadline=None)
@given(lengths)
def test_packing_loses_nothing(sizes):
    xs, bags = make(sizes)
    assert len(bags) == len(sizes)
    assert bags.lengths == tuple(sizes)
    assert bags.ptr.tolist() == [sum(sizes[:i]) for i in range(len(sizes) + 1)]
    assert bags.index.tolist() == [i for i, n in enumerate(sizes) for _ in range(n)]
    for i, x in enumerate(xs):
        assert torch.equal(bags[i].x, x)
        assert torch.equal(bags.x[bags.ptr[i] : bags.ptr[i + 1]], x)


@settings(max_examples=25, deadline=None)
@given(lengths, st.data())
def test_one_bag_of_a_batch(sizes, data):
    xs, bags = make(sizes, coords=True)
    i = data.draw(st.integers(-len(sizes), len(sizes) - 1))
    one = bags[i]
    assert len(one) == 1
    assert torch.equal(one.x, xs[i])
    start = int(bags.ptr[i % len(sizes)])
    assert torch.equal(one.coords, bags.coords[start : start + len(xs[i])])


def test_batches_end():
    _, bags = make([2, 3])
    assert len(list(bags)) == 2
    with pytest.raises(IndexError):
        bags[2]
    with pytest.raises(IndexError):
        bags[-3]


def test_types_and_shapes():
    _, bags = make([2, 1], dim=5, coords=True)
    assert bags.ptr.dtype == torch.int64
    assert bags.index.dtype == torch.int64
    assert bags.dim == 5
    assert bags.x.shape == (3, 5)
    assert bags.coords.shape == (3, 2)
    assert bags.device == torch.device("cpu")
    assert repr(bags) == "Bags(2 bags, 3 rows, dim 5, torch.float32, cpu)"
    assert Bags.pack([torch.randn(2, 5)]).coords is None


def test_one_bag_is_not_copied():
    x = torch.randn(4, 3)
    assert Bags.pack([x]).x is x
    assert Bags.pack([x])[0].x.data_ptr() == x.data_ptr()


def test_moving_to_where_it_is_costs_nothing():
    _, bags = make([2, 3], coords=True)
    assert bags.to("cpu") is bags
    assert bags.to(dtype=torch.float32) is bags


def test_another_dtype_leaves_coordinates_alone():
    _, bags = make([2, 3], coords=True)
    half = bags.to(dtype=torch.float16)
    assert half.x.dtype == torch.float16
    assert half.coords.dtype == torch.int64
    assert half.lengths == bags.lengths


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_everything_moves_together():
    _, bags = make([2, 3], coords=True)
    there = bags.to("cuda")
    assert {t.device.type for t in (there.x, there.ptr, there.coords, there.index)} == {"cuda"}
    assert there.index.tolist() == bags.index.tolist()


def test_other_features_over_the_same_bags():
    _, bags = make([2, 3], coords=True)
    index = bags.index
    hidden = bags.with_features(torch.zeros(5, 7))
    assert hidden.dim == 7
    assert hidden.coords is bags.coords
    assert hidden.ptr is bags.ptr
    assert hidden.index is index
    assert bags.dim == 3


@pytest.mark.parametrize(("xs", "refusal"), [
    ([], ("bag-shape",)),
    ([torch.randn(3)], ("bag-shape", "0")),
    ([torch.randn(2, 3), torch.randn(2, 4)], ("bag-shape", "1", "4", "3", "0")),
    ([torch.randn(2, 3), torch.randn(0, 3)], ("bag-shape", "1")),
    ([torch.ones(2, 3, dtype=torch.int64)], ("bag-shape", "torch.int64", ".float")),
])  # fmt: skip
def test_what_cannot_be_packed_is_named(xs, refusal):
    with refused(*refusal):
        Bags.pack(xs)


@pytest.mark.parametrize("coords", [
    [torch.zeros(2, 2)],
    [torch.zeros(2, 2), torch.zeros(2, 2)],
    [torch.zeros(2, 3), torch.zeros(3, 3)],
])  # fmt: skip
def test_coordinates_that_do_not_fit(coords):
    with refused("bag-shape"):
        Bags.pack([torch.randn(2, 3), torch.randn(3, 3)], coords)


@pytest.mark.parametrize(("sizes", "refusal"), [([2, 2], ("bag-shape", "4")), ([5, 0], ("bag-shape", "1")),
                                              ([6, -1], ("bag-shape", "1")), ([], ("bag-shape",))])  # fmt: skip
def test_lengths_that_contradict_the_rows(sizes, refusal):
    with refused(*refusal):
        Bags(torch.randn(5, 3), sizes)


def test_output_has_empty_defaults():
    out = BagOutput(torch.zeros(2, 1))
    assert out.attention is None
    assert out.embedding is None
    assert out.aux == {}
    assert BagOutput(torch.zeros(1, 1)).aux is not out.aux
