"""Matrix products of many rows, by the library that is fastest at them.

On CPU torch multiplies fp32 matrices with MKL, whose kernels use the processor's widest registers on one maker's
processors only; oneDNN, which torch uses for convolutions, uses them on every one. A linear layer is a 1 x 1
convolution of an image of one column, so it can be had from either, and is the same sum of the same terms; ``milbench
measure`` times both and keeps the samples. Which one is taken depends on shapes and dtype
alone, never on a clock, so that results stay the same.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ROWS = 256  # fewer do not pay for laying out the weights anew at every call
WIDTH = 32


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x W' + b: ``(n, k), (m, k) -> (n, m)``, as `torch.nn.functional.linear`, gradients included."""
    if not _pays(x, weight.shape[0]) or weight.dtype != x.dtype:
        return F.linear(x, weight, bias)
    y = F.conv2d(_column(x), weight[:, :, None, None], bias)
    return y.permute(0, 2, 3, 1).reshape(len(x), len(weight))


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


def _pays(x: Tensor, out: int) -> bool:
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and x.ndim == 2
        and len(x) >= ROWS
        and min(x.shape[1], out) >= WIDTH
        and x.is_contiguous()
        and torch.backends.mkldnn.is_available()
        and not torch.is_autocast_enabled("cpu")
    )


def _column(x: Tensor) -> Tensor:
    """(n, k) as an image of n rows, one column and k channels, channels last as it lies in memory."""
    return x.view(1, len(x), 1, x.shape[1]).permute(0, 3, 1, 2)
