"""The iterative pseudo-inverse of Nystrom attention, applied and never formed (Xiong et al. 2021, equation 11).

Z <- Z/4 (13I - AZ(15I - AZ(7I - AZ))) from Z_0 = A' / (largest column sum x largest row sum). With Y = A Z_0 it
becomes Y <- Y p(Y), p(Y) = (13 - 15Y + 7Y^2 - Y^3)/4: two m^3 products a step instead of four, and pinv(A) b is
Z_0 p(Y_0) .. p(Y_k) b, where every p(Y) meets an (m, d) matrix or one row and is never multiplied out. Everything here
is computed in fp32 at least, whatever the autocast dtype.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..autocast import without_autocast

#: last iterates that a single row passes through without their being formed, four times as many products of a row with
#: each; not where every product is a launch
UNFORMED = {"cpu": 2}


def softmax_scores(q: Tensor, k: Tensor) -> Tensor:
    """softmax(q k'), q scaled already, in fp32 at least: this is the matrix that is inverted."""
    wide = torch.promote_types(q.dtype, torch.float32)
    with without_autocast(q):
        return torch.softmax(q.to(wide) @ k.to(wide).transpose(-1, -2), dim=-1)


def start(a: Tensor) -> Tensor:
    """Z_0 = A' / (largest column sum x largest row sum) of ``(.., h, m, m)``, the maxima over the heads of each bag.

    Rows of A sum to 1. The package takes the maximum over the whole batch, which makes a bag depend on its companions.
    """
    return a.transpose(-1, -2) / a.sum(dim=-2).amax(dim=(-1, -2))[..., None, None, None]


def _advance(y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One step: the next Y, S = Y^2, and S - 7 Y."""
    square = torch.bmm(y, y)
    minus_rest = torch.sub(square, y, alpha=7)
    minus = torch.sub(square, y, alpha=13 / 15)
    return minus.baddbmm_(square, minus_rest, beta=-15 / 4, alpha=-1 / 4), square, minus_rest


class _Step(torch.autograd.Function):
    """Y -> Y (13 - 15 Y + 7 Y^2 - Y^3) / 4 with S = Y^2 as (13 Y - 15 S + S (7 Y - S)) / 4: two products, four
    backward.

    Written out because scaling and adding inside the products (`baddbmm`) saves more than half of the passes over
    memory that automatic differentiation makes, and small matrices are bound by those.
    """

    @staticmethod
    def forward(ctx: Any, y: Tensor) -> Tensor:
        """Take ``(B, m, m)``."""
        out, square, minus_rest = _advance(y)
        ctx.save_for_backward(y, square, minus_rest)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        """Return the gradient at Y."""
        y, square, minus_rest = ctx.saved_tensors
        to_rest = torch.bmm(square.mT, grad)  # 4 x gradient of (7 Y - S)
        to_square = torch.baddbmm(torch.add(to_rest, grad, alpha=15), grad, minus_rest.mT, beta=-1 / 4, alpha=-1 / 4)
        direct = torch.add(to_rest, grad, alpha=13 / 7)
        out = torch.baddbmm(direct, to_square, y.mT, beta=7 / 4)
        return out.baddbmm_(y.mT, to_square)


def iterate(y: Tensor, steps: int) -> Tensor:
    """Take `steps` steps of the iteration on Y = A Z, ``(B, h, m, m)``: Y becomes A pinv(A)."""
    shape = y.shape
    y = y.flatten(0, 1)
    for _ in range(steps):
        y = _Step.apply(y) if y.requires_grad and torch.is_grad_enabled() else _advance(y)[0]
    return y.view(shape)


def _polynomials(a: Tensor, z: Tensor, iterations: int) -> list[Tensor]:
    """Return Y_0 .. Y_{iterations - 1}, Y_0 = A Z_0."""
    ys = [a @ z]
    for _ in range(iterations - 1):
        ys.append(iterate(ys[-1], 1))
    return ys


def _applied(y: Tensor, b: Tensor) -> Tensor:
    """p(Y) b, ``(B, h, m, m), (B, h, m, d)``, scaled and added inside the products."""
    shape, y, b = b.shape, y.flatten(0, 1), b.flatten(0, 1)
    part = torch.baddbmm(b, y, b, beta=7, alpha=-1)
    part = torch.baddbmm(b, y, part, beta=15, alpha=-1)
    return torch.baddbmm(b, y, part, beta=13 / 4, alpha=-1 / 4).view(shape)


def pinv_times(a: Tensor, b: Tensor, iterations: int) -> Tensor:
    """pinv(A) b; ``a`` is (B, h, m, m), ``b`` (B, h, m, d)."""
    with without_autocast(a):
        z = start(a)
        for y in reversed(_polynomials(a, z, iterations)) if iterations else ():
            b = _applied(y, b)
        return z @ b


def row_times_pinv(row: Tensor, a: Tensor, iterations: int) -> Tensor:
    """row pinv(A); ``row`` is (B, h, 1, m), ``a`` (B, h, m, m)."""
    with without_autocast(a):
        z = start(a)
        row = row @ z
        if iterations:
            ys = _polynomials(a, z, max(1, iterations - UNFORMED.get(a.device.type, 0)))
            for step in range(iterations):
                row = _row_times_p(row, ys, step)
        return row


def _row_times_p(row: Tensor, ys: list[Tensor], step: int) -> Tensor:
    """row p(Y_step)."""
    part = 7 * row - _row_times(row, ys, step)
    part = 15 * row - _row_times(part, ys, step)
    return (13 * row - _row_times(part, ys, step)) / 4


def _row_times(row: Tensor, ys: list[Tensor], step: int) -> Tensor:
    """row Y_step, where the last Y may not have been formed: Y_step = Y_(step-1) p(Y_(step-1))."""
    if step < len(ys):
        return row @ ys[step]
    return _row_times_p(_row_times(row, ys, step - 1), ys, step - 1)
