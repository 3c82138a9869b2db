"""Products from oneDNN against float64, at the lengths where another path begins and around a chunk's end."""

import pytest
import torch
import torch.nn.functional as F

from milbench.nn.product import Linear, add_outer, linear

ROWS = [255, 256, 257, 1023, 1024, 1025, 3000]


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
    found = torch.autograd.grad((y * weights).sum(), (x, w, b))
    expected = torch.autograd.grad((wanted * weights.double()).sum(), (x, w, b))
    for got, due in zip(found, expected, strict=True):
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
