"""Products from oneDNN against float64, at the lengths where another path begins and around a chunk's end."""

import shutil

import pytest
import torch
import torch.nn.functional as F

import milbench
from milbench.nn.matrix_products import Linear, add_outer, head_mix, head_weights, linear, linear_then

ROWS = [1, 7, 8, 9, 255, 256, 257, 1023, 1024, 1025, 3000]


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize(("inner", "out"), [(32, 32), (33, 129), (512, 512), (1024, 33), (31, 64), (64, 31)])
def test_linear_and_its_gradients(rows, inner, out):
    torch.manual_seed(0)
    x, w, b = (torch.randn(*s).requires_grad_() for s in ((rows, inner), (out, inner), (out,)))
    y = linear(x, w, b)
    wanted = F.linear(x.double(), w.double(), b.double())
    scale = inner**0.5
    torch.testing.assert_close(y.double(), wanted, atol=4e-6 * scale, rtol=1e-5)
    weights = torch.randn(rows, out)
    actual = torch.autograd.grad((y * weights).sum(), (x, w, b))
    expected = torch.autograd.grad((wanted * weights.double()).sum(), (x, w, b))
    for got, due in zip(actual, expected, strict=True):
        torch.testing.assert_close(got, due, atol=3e-6 * (rows + out) ** 0.5 * 4, rtol=1e-5)
    total = torch.ones(out, inner)
    add_outer(total, weights, x.detach())
    torch.testing.assert_close(total.double(), 1 + weights.double().T @ x.detach().double(), atol=1e-3, rtol=1e-5)


def test_rows_at_the_end_count_as_much_as_those_at_the_start():
    """The library's depthwise weight gradient is wrong for zeros before the values; this one must not be."""
    a, b = torch.zeros(1024, 64), torch.zeros(1024, 64)
    a[-2:], b[-2:] = torch.randn(2, 64), torch.randn(2, 64)
    total = torch.zeros(64, 64)
    add_outer(total, a, b)
    torch.testing.assert_close(total, a.T @ b)


@pytest.mark.parametrize("strided", ["rows", "columns"])
def test_views_and_other_dtypes_take_the_plain_path(strided):
    x = torch.randn(1200, 128)
    view = x[::2, :64] if strided == "rows" else x[:600, ::2]
    w = torch.randn(64, 64)
    torch.testing.assert_close(linear(view, w), view @ w.T, atol=1e-4, rtol=1e-5)
    assert linear(x.double()[:, :64], w.double()).dtype == torch.float64
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert linear(x[:, :64].contiguous(), w).dtype == torch.bfloat16


def test_the_module_is_torchs():
    torch.manual_seed(0)
    ours = Linear(64, 48)
    plain = torch.nn.Linear(64, 48)
    plain.load_state_dict(ours.state_dict())
    x = torch.randn(500, 64)
    torch.testing.assert_close(ours(x), plain(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize(("inner", "out"), [(32, 32), (33, 129), (512, 512), (512, 1), (31, 64)])
@torch.no_grad()
def test_without_gradient_the_products_are_the_same(rows, inner, out):
    torch.manual_seed(0)
    x, w, b = torch.randn(rows, inner), torch.randn(out, inner) / inner**0.5, torch.randn(out)
    wanted = F.linear(x.double(), w.double(), b.double())
    torch.testing.assert_close(linear(x, w, b).double(), wanted, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(linear_then(x, w, b, "relu").double(), wanted.relu(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(linear_then(x, w, b, "tanh").double(), wanted.tanh(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("rows", [1, 255, 256, 1024, 1031])
@pytest.mark.parametrize("heads", [1, 2, 8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_products_of_heads(rows, heads, dtype):
    torch.manual_seed(0)
    x, keys, values = torch.randn(rows, heads * 32), torch.randn(heads, 64, 32) / 6, torch.randn(heads, 64, 32)
    by_head = x.double().unflatten(1, (heads, -1)).transpose(0, 1)
    wanted = torch.softmax(by_head @ keys.double().mT, dim=-1)
    weights = head_weights(x.to(dtype), keys.to(dtype))
    near = {"atol": 2e-6, "rtol": 1e-5} if dtype == torch.float32 else {"atol": 2e-2, "rtol": 5e-2}
    torch.testing.assert_close(weights.double(), wanted, **near)
    mixed = head_mix(weights, values.to(dtype))
    near = {"atol": 2e-6, "rtol": 1e-5} if dtype == torch.float32 else {"atol": 5e-2, "rtol": 5e-2}
    torch.testing.assert_close(mixed.double(), wanted @ values.double(), **near)


@pytest.mark.parametrize("rows", [12, 300])
def test_gradients_can_be_differentiated_again(rows):
    torch.manual_seed(0)
    start = [torch.randn(*s) for s in ((rows, 40), (33, 40), (33,))]

    def penalty(product, dtype):
        x, w, b = (t.to(dtype).requires_grad_() for t in start)
        (dx,) = torch.autograd.grad(product(x, w, b).tanh().sum(), x, create_graph=True)
        return torch.autograd.grad(dx.square().sum(), w)[0].double()

    torch.testing.assert_close(penalty(linear, torch.float32), penalty(F.linear, torch.float64), atol=2e-3, rtol=1e-4)


@pytest.mark.slow(covered_by="nn/test_matrix_products.py::test_linear_and_its_gradients")
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.parametrize(("name", "n"), [("abmil", 300), ("mean", 5000), ("max", 5000)])
def test_a_compiled_method_is_the_method(name, n):
    """The compiler knows no oneDNN operator that it has not put there itself, and what it makes of a reduction in parts
    reaches out of bounds: under it both are left to it."""
    torch.manual_seed(0)
    model = milbench.create(name, in_dim=64).eval()
    bags = milbench.Bags.pack([torch.randn(n, 64)])
    with torch.inference_mode():
        torch.testing.assert_close(torch.compile(model)(bags).logits, model(bags).logits, atol=1e-6, rtol=1e-5)
