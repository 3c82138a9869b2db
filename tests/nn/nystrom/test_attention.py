"""Nystrom attention against the PyPI package `nystrom-attention`, on random shapes and values."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nystrom_attention import NystromAttention as Package

from milbench.nn import NystromAttention
from milbench.nn.nystrom.pinv import _Step


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 150),
    heads=st.sampled_from([1, 2, 4]),
    width=st.sampled_from([4, 8, 16]),
    landmarks=st.sampled_from([2, 8, 24, 64]),
    iterations=st.integers(1, 6),
    conv=st.booleans(),
    scale=st.sampled_from([0.1, 1.0, 4.0]),
    seed=st.integers(0, 2**31),
)
def test_equals_the_package(n, heads, width, landmarks, iterations, conv, scale, seed):
    torch.manual_seed(seed)
    dim = heads * width
    theirs = Package(
        dim=dim, dim_head=width, heads=heads, num_landmarks=landmarks, pinv_iterations=iterations, residual=conv
    )
    ours = NystromAttention(dim, heads, landmarks, iterations, conv)
    ours.load_state_dict(theirs.state_dict())
    ours, theirs = ours.double().eval(), theirs.double().eval()
    x = torch.randn(n, dim, dtype=torch.float64) * scale
    wanted = theirs(x[None])[0]
    torch.testing.assert_close(ours(x), wanted, atol=1e-8, rtol=1e-8)
    first = ours.short_first(x[None], torch.tensor([n]))[0] if n <= landmarks else ours.long_first(x)[0]
    torch.testing.assert_close(first[0], wanted[0], atol=1e-8, rtol=1e-8)


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 90), min_size=1, max_size=5),
    heads=st.sampled_from([1, 4]),
    landmarks=st.sampled_from([2, 8, 24]),
    iterations=st.integers(0, 6),
    conv=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_bags_padded_together_are_each_its_own(lengths, heads, landmarks, iterations, conv, seed):
    """Bags of 1 to 90 rows above the landmarks in one padded batch, gradients included."""
    torch.manual_seed(seed)
    layer = NystromAttention(32, heads, landmarks, iterations, conv).double().eval()
    lengths = [landmarks + n for n in lengths]
    x = torch.randn(len(lengths), max(lengths), 32, dtype=torch.float64, requires_grad=True)
    rows = torch.tensor(lengths)
    actual, (first, weights) = layer.batch(x, rows), layer.batch_first(x, rows)
    for i, n in enumerate(lengths):
        wanted, (wanted_first, _, wanted_weights) = layer.long(x[i, :n]), layer.long_first(x[i, :n])
        torch.testing.assert_close(actual[i, :n], wanted, atol=1e-10, rtol=1e-10)
        torch.testing.assert_close(first[i], wanted_first[0], atol=1e-10, rtol=1e-10)
        torch.testing.assert_close(weights[i, :n], wanted_weights, atol=1e-10, rtol=1e-10)
        assert not weights[i, n:].any()
        for got, other in ((actual[i, :n], wanted), (first[i], wanted_first[0])):
            ours, theirs = (torch.autograd.grad((t * t).sum(), x, retain_graph=True)[0] for t in (got, other))
            torch.testing.assert_close(ours, theirs, atol=1e-9, rtol=1e-9)


def test_step_is_the_published_iteration_and_its_gradient():
    y = (torch.randn(3, 9, 9, dtype=torch.float64) * 0.3).requires_grad_()
    eye = torch.eye(9, dtype=torch.float64)
    torch.testing.assert_close(_Step.apply(y), y @ (13 * eye - y @ (15 * eye - y @ (7 * eye - y))) / 4)
    assert torch.autograd.gradcheck(_Step.apply, (y,))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_padded_bags_in_half_precision_are_as_near_to_fp32_as_streamed_ones(dtype):
    torch.manual_seed(0)
    layer = NystromAttention(64, heads=4, landmarks=16).eval()
    lengths = [60, 150, 100]
    x = torch.randn(3, 150, 64)
    with torch.no_grad(), torch.autocast("cpu", dtype=dtype):
        padded, (first, _) = layer.batch(x, torch.tensor(lengths)), layer.batch_first(x, torch.tensor(lengths))
        streamed = [(layer.long(x[i, :n]), layer.long_first(x[i, :n])[0]) for i, n in enumerate(lengths)]
    for i, n in enumerate(lengths):
        exact = layer.double()(x[i, :n].double()).float()
        error, theirs = ((actual - exact).square().mean().sqrt() for actual in (padded[i, :n], streamed[i][0]))
        assert error <= 1.5 * theirs
        assert (first[i] - exact[0]).abs().max() <= 3 * (streamed[i][1][0] - exact[0]).abs().max() + 1e-3


@pytest.mark.parametrize("n", [12, 90])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_large_scores_survive_half_precision(n, dtype):
    """q k' of 10^5 is in the range of fp32 and bf16, not of fp16: scores are scaled first and computed in fp32."""
    torch.manual_seed(0)
    layer = NystromAttention(64, heads=2, landmarks=32).eval()
    with torch.no_grad():
        layer.to_qkv.weight[:128] *= 60
    x = torch.nn.functional.layer_norm(torch.randn(n, 64), (64,))
    q, k = layer.to_qkv(x)[:, :128].chunk(2, dim=1)
    assert float((q[:, :32] @ k[:, :32].T).detach().abs().max()) > 65504 / 8
    with torch.autocast("cpu", dtype=dtype):
        out = layer(x)
        actual = [layer.batch_first(x[None], torch.tensor([n])), *([] if n <= 32 else [layer.long_first(x)[::2]])]
        out = torch.cat([out, layer.batch(x[None], torch.tensor([n]))[0]])
    assert out.isfinite().all()
    for first, weights in actual:
        assert first.isfinite().all()
        assert weights.dtype == torch.float32
        assert weights.isfinite().all()
