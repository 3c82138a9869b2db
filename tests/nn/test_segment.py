"""Reductions over bags against a loop over bags in numpy."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from milbench import Bags
from milbench.nn import (
    segment_argmax,
    segment_dot,
    segment_max,
    segment_mean,
    segment_softmax,
    segment_sum,
    segment_topk,
    tanh,
    weighted_sum,
)

LENGTHS = st.lists(st.integers(1, 9), min_size=1, max_size=6)


def draw(lengths, width, seed):
    # Few distinct values: ties happen.
    values = np.random.default_rng(seed).integers(-3, 4, size=(sum(lengths), width)).astype(np.float64)
    parts = np.split(values, np.cumsum(lengths)[:-1])
    x = torch.from_numpy(values)
    return x, parts, Bags(torch.zeros(len(x), 1), lengths)


@settings(max_examples=60, deadline=None)
@given(lengths=LENGTHS, width=st.integers(1, 4), seed=st.integers(0, 10**6))
def test_reductions(lengths, width, seed):
    x, parts, bags = draw(lengths, width, seed)
    np.testing.assert_allclose(segment_sum(x, bags), [p.sum(0) for p in parts])
    np.testing.assert_allclose(segment_mean(x, bags), [p.mean(0) for p in parts])
    np.testing.assert_allclose(segment_max(x, bags), [p.max(0) for p in parts])
    starts = np.cumsum([0, *lengths[:-1]])
    wanted = [p.argmax(0) + s for p, s in zip(parts, starts, strict=True)]
    np.testing.assert_array_equal(segment_argmax(x, bags), wanted)
    e = [np.exp(p) / np.exp(p).sum(0) for p in parts]
    np.testing.assert_allclose(segment_softmax(x, bags), np.concatenate(e))
    v = torch.from_numpy(np.random.default_rng(seed + 1).normal(size=(len(x), 3)))
    pieces = np.split(v.numpy(), np.cumsum(lengths)[:-1])
    np.testing.assert_allclose(
        weighted_sum(x, v, bags), [p.T @ q for p, q in zip(parts, pieces, strict=True)], atol=1e-12
    )
    u = torch.from_numpy(np.random.default_rng(seed + 2).normal(size=(len(bags), 2, 3)))
    products = [p @ w.T for p, w in zip(pieces, u.numpy(), strict=True)]
    np.testing.assert_allclose(segment_dot(v, u, bags), np.concatenate(products), atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(lengths=LENGTHS, k=st.integers(1, 6), seed=st.integers(0, 10**6))
def test_topk(lengths, k, seed):
    x, parts, bags = draw(lengths, 1, seed)
    rows, valid = segment_topk(x[:, 0], k, bags)
    start = 0
    for i, part in enumerate(parts):
        n = min(k, len(part))
        assert valid[i].tolist() == [True] * n + [False] * (k - n)
        assert (rows[i, :n] - start).tolist() == np.argsort(-part[:, 0], kind="stable")[:n].tolist()
        start += len(part)


@pytest.mark.parametrize("equal", [False, True])
def test_topk_of_one_long_bag(equal):
    """Where few are sorted: ties at the k-th place, NaN before all, as the sort of all does it."""
    x = torch.from_numpy(np.random.default_rng(0).integers(0, 1 if equal else 40, 2000).astype(np.float32))
    for spoiled in ([], [7, 1999], list(range(100, 120))):
        x[spoiled] = torch.nan
        for k in (1, 8, 300):
            rows, valid = segment_topk(x, k, Bags(torch.zeros(2000, 1), [2000]))
            wanted = np.lexsort((np.arange(2000), -np.nan_to_num(x.numpy(), nan=np.inf)))[:k]
            assert rows[0].tolist() == wanted.tolist()
            assert bool(valid.all())


@pytest.mark.parametrize("lengths", [[4], [1, 3, 2]])
def test_gradients(lengths):
    torch.manual_seed(0)
    bags = Bags(torch.zeros(sum(lengths), 1), lengths)
    x = torch.randn(sum(lengths), 2, dtype=torch.float64, requires_grad=True)
    w = torch.randn(sum(lengths), 2, dtype=torch.float64, requires_grad=True)
    for op in (segment_sum, segment_mean, segment_max, segment_softmax):
        assert torch.autograd.gradcheck(lambda t, op=op: op(t, bags), (x,))
    assert torch.autograd.gradcheck(lambda a, b: weighted_sum(a, b, bags), (w, x))


@pytest.mark.parametrize("lengths", [[3], [3, 2]])
def test_nan_and_huge_values_are_not_hidden(lengths):
    bags = Bags(torch.zeros(sum(lengths), 1), lengths)
    x = torch.zeros(sum(lengths), 1)
    x[1] = float("nan")
    assert segment_argmax(x, bags)[0, 0] == 1
    assert segment_max(x, bags)[0].isnan()
    assert segment_softmax(torch.full((sum(lengths), 1), 1e30), bags).isfinite().all()


def test_half_precision_sums_in_fp32():
    bags = Bags(torch.zeros(4096, 1), [4095, 1])
    total = segment_sum(torch.ones(4096, 1, dtype=torch.float16), bags)  # fp16 cannot count beyond 2048
    assert total.flatten().tolist() == [4095, 1]
    assert segment_softmax(torch.zeros(4096, 1, dtype=torch.bfloat16), bags).dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("lengths", [[20_000], [19_999, 1]])
def test_weighted_sums_of_long_bags_keep_their_weights(dtype, lengths):
    """Weights of 1/n are not representable in half precision: they would sum to 1.001, alone and not in company."""
    bags = Bags(torch.zeros(sum(lengths), 1), lengths)
    weights = segment_softmax(torch.zeros(sum(lengths), 1), bags)
    total = weighted_sum(weights, torch.ones(sum(lengths), 3, dtype=dtype), bags)
    torch.testing.assert_close(total, torch.ones_like(total), atol=3e-4, rtol=0)  # fp32, summed in a row


@pytest.mark.parametrize("n", [2047, 2048, 5000])
def test_one_long_bag_reduced_in_parts(n):
    x = torch.from_numpy(np.random.default_rng(0).normal(size=(n, 7)))
    bags = Bags(torch.zeros(n, 1), [n])
    np.testing.assert_allclose(segment_sum(x, bags)[0], x.numpy().sum(0))
    np.testing.assert_allclose(segment_mean(x, bags)[0], x.numpy().mean(0))
    np.testing.assert_array_equal(segment_max(x, bags)[0], x.numpy().max(0))
    for reduce in (segment_sum, segment_max):
        leaf = x.clone().requires_grad_()
        (grad,) = torch.autograd.grad(reduce(leaf, bags)[0, 3], leaf)
        assert float(grad.sum()) == (n if reduce is segment_sum else 1)
    spoiled = x.clone()
    spoiled[n - 1, 2] = torch.nan
    assert segment_max(spoiled, bags).isnan().tolist() == [[c == 2 for c in range(7)]]
    assert segment_sum(spoiled, bags).isnan().tolist() == [[c == 2 for c in range(7)]]


@pytest.mark.parametrize("lengths", [[5], [3, 1, 4]])
@pytest.mark.parametrize("heads", [1, 3])
def test_weighted_sum_gradients(lengths, heads):
    torch.manual_seed(0)
    n, bags = sum(lengths), Bags(torch.zeros(sum(lengths), 1), lengths)
    a, v = (torch.randn(n, w, dtype=torch.float64, requires_grad=True) for w in (heads, 2))
    assert torch.autograd.gradcheck(lambda a, v: weighted_sum(a, v, bags), (a, v))
    u = torch.randn(len(lengths), heads, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v, u: segment_dot(v, u, bags), (v, u))


@pytest.mark.parametrize("lengths", [[3000], [1500, 1400, 100]])
@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("width", [64, 65])
def test_products_of_long_bags_and_their_gradients(lengths, heads, width):
    """In fp32, against float64 and einsum: long bags, and rows that begin cache lines, have kernels of their own."""
    generator = torch.Generator().manual_seed(0)
    n, bags = sum(lengths), Bags(torch.zeros(sum(lengths), 1), lengths)
    a, v = (torch.randn(n, w, generator=generator).requires_grad_() for w in (heads, width))
    u = torch.randn(len(lengths), heads, width, generator=generator).requires_grad_()
    wide = [t.detach().double().requires_grad_() for t in (a, v, u)]
    own = torch.nn.functional.one_hot(torch.repeat_interleave(torch.tensor(lengths))).double()
    sums, dots = weighted_sum(a, v, bags), segment_dot(v, u, bags)
    exact_sums = torch.einsum("nb,nh,ne->bhe", own, *wide[:2])
    exact_dots = torch.einsum("nb,ne,bhe->nh", own, *wide[1:])
    torch.testing.assert_close(sums.double(), exact_sums, atol=1e-4, rtol=1e-5)  # of 3000 terms of size 1
    torch.testing.assert_close(dots.double(), exact_dots, atol=2e-5, rtol=1e-5)
    into = [torch.randn(t.shape, generator=generator) for t in (sums, dots)]
    actual = torch.autograd.grad((sums, dots), (a, v, u), into)
    wanted = torch.autograd.grad((exact_sums, exact_dots), wide, [t.double() for t in into])
    for one, exact in zip(actual, wanted, strict=True):
        torch.testing.assert_close(one.double(), exact, atol=1e-4, rtol=1e-5)


def test_tanh_by_a_sigmoid():
    x = torch.linspace(-12, 12, 100_001)
    exact = torch.tanh(x.double())
    for grad in (False, True):
        with torch.set_grad_enabled(grad):
            assert float((tanh(x).double() - exact).abs().max()) < 2e-7
    leaf = x.clone().requires_grad_()
    (grad,) = torch.autograd.grad(tanh(leaf).sum(), leaf)
    assert float((grad.double() - (1 - exact**2)).abs().max()) < 5e-7
    assert torch.equal(tanh(x.bfloat16()), torch.tanh(x.bfloat16()))
    assert torch.equal(tanh(x.double()), exact)
