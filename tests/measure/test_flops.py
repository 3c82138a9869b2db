"""Counted operations against closed forms, forward and backward."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from milbench import Bags
from milbench.measure.flops import count_flops
from milbench.nn import linear, segment_dot, weighted_sum


def both(forward):
    """Operations of the forward pass, and of the forward and backward pass together."""
    return count_flops(forward), count_flops(lambda: forward().sum().backward())


def test_linear():
    n, d, e = 30, 16, 8
    layer = nn.Linear(d, e)
    frozen, x = torch.randn(n, d), torch.randn(n, d, requires_grad=True)
    assert count_flops(lambda: layer(frozen)) == 2 * n * d * e
    assert both(lambda: layer(x)) == (2 * n * d * e, 3 * 2 * n * d * e)
    assert count_flops(lambda: layer(frozen).sum().backward()) == 2 * 2 * n * d * e, "no gradient at the features"


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_linear_without_gradients(context):
    layer, x = nn.Linear(16, 8), torch.randn(30, 16)
    with context():
        assert count_flops(lambda: layer(x)) == 2 * 30 * 16 * 8
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert count_flops(lambda: layer(x)) == 2 * 30 * 16 * 8


def test_products():
    a, b, c = torch.randn(3, 4, 5), torch.randn(3, 5, 6), torch.randn(3, 4, 6)
    assert count_flops(lambda: torch.bmm(a, b)) == 2 * 3 * 4 * 5 * 6
    assert count_flops(lambda: torch.baddbmm(c, a, b)) == 2 * 3 * 4 * 5 * 6
    assert count_flops(lambda: torch.addbmm(c[0], a, b)) == 2 * 3 * 4 * 5 * 6
    assert count_flops(lambda: torch.einsum("bij,bjk->bik", a, b)) == 2 * 3 * 4 * 5 * 6
    assert count_flops(lambda: torch.addmm(c[0], a[0], b[0])) == 2 * 4 * 5 * 6
    assert count_flops(lambda: c.baddbmm_(a, b)) == 2 * 3 * 4 * 5 * 6
    assert count_flops(lambda: c[0].addbmm_(a, b)) == 2 * 3 * 4 * 5 * 6
    assert count_flops(lambda: c[0].addmm_(a[0], b[0])) == 2 * 4 * 5 * 6
    assert count_flops(lambda: c[0, :, 0].addmv_(a[0], b[0, :, 0])) == 2 * 4 * 5


def test_vectors():
    a, v, w = torch.randn(7, 5), torch.randn(5), torch.randn(7)
    assert count_flops(lambda: a @ v) == 2 * 7 * 5
    assert count_flops(lambda: torch.addmv(w, a, v)) == 2 * 7 * 5
    assert count_flops(lambda: v @ v) == 2 * 5
    assert count_flops(lambda: torch.addr(a, w, v)) == 2 * 7 * 5


@pytest.mark.parametrize(("queries", "keys"), [(12, 20), (1, 300)])
def test_fused_attention_on_cpu(queries, keys):
    b, h, d = 2, 3, 8
    q = torch.randn(b, h, queries, d, requires_grad=True)
    k = torch.randn(b, h, keys, d, requires_grad=True)
    v = torch.randn(b, h, keys, d, requires_grad=True)
    product = 2 * b * h * queries * keys * d
    # Forward: scores and values. Backward: scores again, and four gradients.
    assert both(lambda: F.scaled_dot_product_attention(q, k, v)) == (2 * product, (2 + 5) * product)


@pytest.mark.parametrize("groups", [1, 2, 8])
@pytest.mark.parametrize("transposed", [False, True])
def test_grouped_convolution(groups, transposed):
    """By hand: every output cell (transposed: input cell) meets the kernel once a pair of channels of a group."""
    b, c, side, kernel = 2, 8, 9, 3
    kind = nn.ConvTranspose2d if transposed else nn.Conv2d
    layer = kind(c, c, kernel, padding=0 if transposed else 1, groups=groups)
    x = torch.randn(b, c, side, side, requires_grad=True)
    forward = 2 * b * side * side * kernel * kernel * c * (c // groups)
    assert both(lambda: layer(x)) == (forward, 3 * forward)
    frozen = x.detach()
    assert count_flops(lambda: layer(frozen).sum().backward()) == 2 * forward, "no gradient at the features"


def test_depthwise_column_is_that_of_transmil():
    """The 33 x 1 convolution of the values: 33 multiplications an output."""
    layer, x = nn.Conv2d(8, 8, (33, 1), padding=(16, 0), groups=8, bias=False), torch.randn(1, 8, 100, 64)
    assert count_flops(lambda: layer(x)) == 2 * 8 * 100 * 64 * 33


def test_fused_encoder_layer_hides_nothing():
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).eval()
    x = torch.randn(2, 10, 16)
    with torch.no_grad():
        counted = count_flops(lambda: layer(x))
    rows = 2 * 10
    projections = 2 * rows * 16 * (3 * 16 + 16)
    attention = 2 * 2 * 2 * 2 * 10 * 10 * 8
    assert counted == projections + attention + 2 * rows * 16 * 32 * 2
    assert torch.backends.mha.get_fastpath_enabled(), "the setting is restored"


def test_elementwise_work_counts_nothing():
    x = torch.randn(50, 4)
    assert count_flops(lambda: torch.softmax(torch.tanh(x) + 1, dim=0).sum()) == 0


def test_products_without_gradient_are_counted_as_those_with():
    x, w = torch.randn(300, 64), torch.randn(48, 64)
    with torch.no_grad():
        without = count_flops(lambda: linear(x, w))
    assert without == count_flops(lambda: linear(x, w)) == 2 * 300 * 64 * 48


@pytest.mark.parametrize("lengths", [[1000], [2000], [1500, 500], [7, 9]])
@pytest.mark.parametrize("h", [1, 2])
def test_weighted_sums_of_bags_and_products_with_their_vectors(lengths, h):
    """A multiplication and an addition for each number of each row and vector, forward, and for either gradient."""
    n, e, bags = sum(lengths), 16, Bags(torch.zeros(sum(lengths), 1), lengths)
    w, x = torch.randn(n, h, requires_grad=True), torch.randn(n, e, requires_grad=True)
    u = torch.randn(len(lengths), h, e, requires_grad=True)
    for forward in (lambda: weighted_sum(w, x, bags), lambda: segment_dot(x, u, bags)):
        assert both(forward) == (2 * n * h * e, 3 * 2 * n * h * e)
