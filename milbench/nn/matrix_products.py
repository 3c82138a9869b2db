"""Matrix products of many rows, by the library that is fastest at them.

On CPU torch multiplies fp32 matrices with MKL, whose kernels use the processor's widest registers on one maker's
processors only; oneDNN, which torch uses for convolutions, uses them on every one. A linear layer is a 1 x 1
convolution of an image of one column, so it can be had from either, and is the same sum of the same terms; ``milbench
measure`` times both and keeps the samples. A product for each head is a convolution of as many groups, whose result
lies row by row, heads next to each other: nothing has to be merged. Where no gradient is wanted, oneDNN's own product
(what `torch.compile` emits on CPU) spares the detour of the convolution, and takes bias and activation with it. Which
one is taken depends on shapes and dtype alone, never on a clock, so that results stay the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .autocast import autocasts
from .stacked import StackedLinear

ROWS = 256  # of a convolution: fewer do not pay for laying out the weights anew at every call
FEW_ROWS = 8  # of oneDNN's own product
WIDTH = 32

#: oneDNN's product without gradient; None where this torch has none.
_product = getattr(torch.ops.mkldnn, "_linear_pointwise", None) if torch.backends.mkldnn.is_available() else None


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x W' + b: ``(n, k), (m, k) -> (n, m)``, as `torch.nn.functional.linear`, gradients included."""
    bare = _product is not None and not torch.is_grad_enabled()
    # Without gradient a score, a single column, pays as well.
    if weight.dtype != x.dtype or not _pays(x, WIDTH if bare and len(x) >= ROWS else weight.shape[0], FEW_ROWS):
        return F.linear(x, weight, bias)
    if bare:
        return _multiplied(x, weight, bias)
    if len(x) >= ROWS:
        y = F.conv2d(_column(x), weight[:, :, None, None], bias)
        return y.permute(0, 2, 3, 1).reshape(len(x), len(weight))
    if _product is None:
        return F.linear(x, weight, bias)
    out: Tensor = _FewRows.apply(x, weight, bias)
    return out


def joint_linear(x: Tensor, layers: Sequence[nn.Linear | StackedLinear]) -> Tensor:
    """Several linear layers in one product, ``(n, k) -> (n, m_1 + m_2 + ...)``: the rows are read once.

    Args:
        x: ``(n, k)``.
        layers: `torch.nn.Linear` with bias, or what takes their place in a stack (`milbench.nn.stacked`).
    """
    # From the last axis, as the layers of a stack have another one in front.
    weight = torch.cat([layer.weight for layer in layers], dim=-2)
    bias = torch.cat([cast(Tensor, layer.bias) for layer in layers], dim=-1)
    first = layers[0]
    return first.batch.linear(x, weight, bias) if isinstance(first, StackedLinear) else linear(x, weight, bias)


def _multiplied(x: Tensor, weight: Tensor, bias: Tensor | None, activation: str = "none") -> Tensor:
    out: Tensor = _product(x, weight, bias, activation, [], "")  # type: ignore[misc]  # the callers request it
    return out


class _FewRows(torch.autograd.Function):
    """x W' + b of rows too few for a convolution."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Take ``(n, k), (m, k), (m,)``."""
        ctx.save_for_backward(x, weight)
        ctx.biased = bias is not None
        return _multiplied(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients at x (where it is wanted), W and b; they can be differentiated again."""
        x, weight = ctx.saved_tensors
        dx = None
        if ctx.needs_input_grad[0]:
            dx = grad @ weight if torch.is_grad_enabled() else _multiplied(grad.contiguous(), weight.T, None)
        return dx, grad.T @ x, grad.sum(dim=0) if ctx.biased else None


def activates(x: Tensor) -> bool:
    """Whether a product of these rows is better made with its activation, by `linear_then`."""
    return not torch.is_grad_enabled() and x.dtype == torch.float32 and x.device.type == "cpu" and not autocasts(x)


def linear_then(x: Tensor, weight: Tensor, bias: Tensor, activation: Literal["relu", "tanh"]) -> Tensor:
    """f(x W' + b), ``(n, k), (m, k) -> (n, m)``, without gradient."""
    if _product is not None and weight.dtype == x.dtype and _pays(x, weight.shape[0], FEW_ROWS):
        return _multiplied(x, weight, bias, activation)
    return getattr(linear(x, weight, bias), f"{activation}_")()


def head_weights(x: Tensor, weight: Tensor) -> Tensor:
    """softmax of each head's x W', ``(n, h k), (h, m, k) -> (h, n, m)``, without gradient; softmax over the last.

    It lies as it is cheapest to make, which is what `head_mix` takes.
    """
    heads, m, _ = weight.shape
    if weight.dtype == x.dtype and _pays(x, m * heads):
        scores = _grouped(x, weight).view(len(x), heads, m)
        return torch.softmax(scores, dim=-1, out=scores).transpose(0, 1)
    # Half precision in and out: the kernel computes and sums in fp32.
    return torch.softmax(torch.bmm(x.unflatten(1, (heads, -1)).transpose(0, 1), weight.mT), dim=-1)


def head_mix(weights: Tensor, values: Tensor) -> Tensor:
    """Each head's product of `head_weights` with values, ``(h, n, m), (h, m, d) -> (h, n, d)``, without gradient.

    From rows that are contiguous it is a view of the merged heads, ``(n, h d)``.
    """
    rows = weights.transpose(0, 1)
    if not rows.is_contiguous() or len(weights) == 1:
        return torch.bmm(weights, values)
    return _grouped(rows.flatten(1), values.mT).unflatten(1, (len(weights), -1)).transpose(0, 1)


def _grouped(x: Tensor, weight: Tensor) -> Tensor:
    """``(n, h k), (h, m, k) -> (n, h m)``."""
    heads, m, k = weight.shape
    y = F.conv2d(_column(x), weight.reshape(heads * m, k, 1, 1), groups=heads)
    return y.permute(0, 2, 3, 1).reshape(len(x), heads * m)


def linear_into(out: Tensor, x: Tensor, weight: Tensor) -> None:
    """out = x W', ``(n, k), (m, k) -> (n, m)``, without gradient."""
    if _pays(x, weight.shape[0]):
        out.copy_(linear(x, weight))
    else:
        torch.mm(x, weight.T, out=out)


def columns(x: Tensor, weight: Tensor) -> Tensor:
    """W x', ``(n, k), (m, k) -> (m, n)``, without gradient; laid out as it is cheapest to make.

    In half precision it lies as its shape says: the library copies a transposed factor of a batched product first.
    """
    return linear(x, weight).T if _pays(x, weight.shape[0]) else torch.mm(weight, x.T)


def add_outer(total: Tensor, a: Tensor, b: Tensor) -> None:
    """total += a' b, ``(n, m), (n, k) -> (m, k)``: a weight's gradient from a chunk of rows, no gradient of its own."""
    if _pays(b, a.shape[1]) and a.is_contiguous():
        weight = total[:, :, None, None]  # for its shape alone
        _, out, _ = torch.ops.aten.convolution_backward(
            _column(a), _column(b), weight, None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1, [False, True, False]
        )
        total.add_(out[:, :, 0, 0])
    elif a.dtype == total.dtype:
        torch.addmm(total, a.T, b, out=total)
    else:
        total.add_(a.T @ b)


class Linear(nn.Linear):
    """`torch.nn.Linear` for the many rows of a bag."""

    def forward(self, x: Tensor) -> Tensor:
        """``(n, k) -> (n, m)``."""
        return linear(x, self.weight, self.bias)


def _pays(x: Tensor, out: int, rows: int = ROWS) -> bool:
    if torch.compiler.is_compiling():  # it chooses its products itself, and knows no operator made for its own use
        return False
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and x.ndim == 2
        and len(x) >= rows
        and min(x.shape[1], out) >= WIDTH
        and x.is_contiguous()
        and torch.backends.mkldnn.is_available()
        and not autocasts(x)
    )


def _column(x: Tensor) -> Tensor:
    """(n, k) as an image of n rows, one column and k channels, channels last as it lies in memory."""
    return x.view(1, len(x), 1, x.shape[1]).permute(0, 3, 1, 2)
