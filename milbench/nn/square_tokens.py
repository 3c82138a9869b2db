"""TransMIL's tokens of one long bag: a class token, ReLU(W x + b) of every row, and the padding of the square."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .autocast import product_dtype, without_autocast
from .matrix_products import add_outer, linear, linear_then
from .nystrom.chunks import CHUNK, wide


class SquareTokens(torch.autograd.Function):
    """``(n, d)`` features -> ``(1 + side^2, dim)`` tokens, written where they belong, chunk by chunk of rows.

    What is missing to the square are the first rows again, or zeros.

    Under autocast the products are in its dtype and the tokens in the parameters': the residual stream stays exact.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, token: Tensor, side: int, zeros: bool = False
    ) -> Tensor:
        """Take (n, d) rows, the layer's (dim, d) weight and (dim,) bias, and the (dim,) class token."""
        kind, dtype = x.device.type, product_dtype(x)
        n, step = len(x), CHUNK.get(kind, 4096)
        with without_autocast(x):
            h = torch.empty(1 + side * side, len(weight), dtype=weight.dtype, device=x.device)
            h[0] = token
            w = weight.to(dtype)
            for a in range(0, n, step):
                b = min(n, a + step)
                rows = h[1 + a : 1 + b]
                if w.dtype == bias.dtype:
                    rows.copy_(linear_then(x[a:b].to(dtype), w, bias, "relu"))
                else:
                    torch.add(bias, wide(linear(x[a:b].to(dtype), w)), out=rows)
                    rows.relu_()
            h[1 + n :] = 0 if zeros else h[1 : 1 + side * side - n]
        if any(ctx.needs_input_grad):
            ctx.save_for_backward(x, weight, h)
            ctx.dtype, ctx.step, ctx.zeros = dtype, step, zeros
        return h

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients at x (where wanted), weight, bias and token."""
        x, weight, h = ctx.saved_tensors
        n, dtype = len(x), ctx.dtype
        again = 0 if ctx.zeros else len(h) - 1 - n  # rows that stand a second time
        d_weight, d_bias = torch.zeros_like(weight), torch.zeros_like(weight[:, 0])
        dx = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        with without_autocast(x):
            w = weight.to(dtype)
            for a in range(0, n, ctx.step):
                b = min(n, a + ctx.step)
                g = grad[1 + a : 1 + b] * (h[1 + a : 1 + b] > 0)
                if a < again:
                    twice = min(b, again)
                    g[: twice - a] += grad[1 + n + a : 1 + n + twice] * (h[1 + a : 1 + twice] > 0)
                d_bias += g.sum(dim=0)
                g = g.to(dtype)
                add_outer(d_weight, g, x[a:b].to(dtype))
                if dx is not None:
                    dx[a:b] = g @ w
        return dx, d_weight, d_bias, grad[0].clone(), None, None
