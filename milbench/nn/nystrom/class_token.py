"""The first row alone of a Nystrom layer on one long bag: the input of the class token after the last layer.

With r = softmax(q_0 k_l') pinv(A) known from the landmarks, the row's weights over all rows are
w = r softmax(q_l k'), and its sum of values is (w x) W_v: no values of any other row, no sum of values for any
landmark. Keys are projected, scores are computed twice (for the softmax sums, then for the weights), and that is all
that is done for every row. The backward pass is as cheap: values get a gradient of rank one.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..autocast import without_autocast
from ..matrix_products import add_outer, linear, linear_into
from .chunks import (
    Norm,
    Plan,
    Rows,
    chunk_weights,
    lse_of_padding,
    rows_of_means,
    wide,
)  # fmt: skip
from .pinv import row_times_pinv, softmax_scores


class NystromClassToken(torch.autograd.Function):
    """``(T, dim)`` rows -> the mixture w x of normalised rows a head, ``(h, dim)``, the first rows as they are.

    Returns, besides the mixture: the first ``near`` rows normalised (the value convolution reads them), row 0 of h, and
    the weights w, ``(h, T)``, without gradient.
    """

    @staticmethod
    def forward(
        ctx: Any, h: Tensor, norm_weight: Tensor | None, norm_bias: Tensor | None, w_q: Tensor, w_k: Tensor,
        plan: Plan, iterations: int, near: int, spare: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
        """Mix; ``spare``, (T, dim) in `product_dtype`, is overwritten with the keys where it is given."""
        norm, needed = Norm(norm_weight, norm_bias), plan.grad and any(ctx.needs_input_grad)
        with without_autocast(h):
            scale = (h.shape[1] // plan.heads) ** -0.5
            rows = Rows(h, norm, plan)
            means = rows.means
            first = norm(h[:near], plan)
            q_0 = wide(plan.split(first[:1] @ (w_q * scale).T))
            q_land, k_land = (wide(plan.split(means @ w.T)).contiguous() for w in (w_q * scale, w_k))
            leaves = [t.detach().requires_grad_(needed) for t in (q_0, q_land, k_land)]
            with torch.set_grad_enabled(needed):
                row = _core(leaves[0], leaves[1], leaves[2], iterations)
            k, lses, offsets, total = _keys(rows, w_k, q_land, plan, spare)
            mixed, weights = _mix(rows, k, q_land, offsets, total, row.detach(), plan)
        if needed:
            chunk_share = torch.exp(lses - total)
            ctx.save_for_backward(h, norm_weight, norm_bias, w_q, w_k, k, chunk_share, weights, means)
            ctx.plan, ctx.core, ctx.near = plan, (*leaves, row), near
        ctx.mark_non_differentiable(weights)
        return mixed, first.clone() if norm.weight is None else first, h[:1].clone(), weights

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g_mixed: Tensor, g_first: Tensor, g_token: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients at h, the norm's two, W_q and W_k."""
        with without_autocast(g_mixed):
            return *_backward(ctx, g_mixed, g_first, g_token), None, None, None, None


def _core(q_0: Tensor, q_land: Tensor, k_land: Tensor, iterations: int) -> Tensor:
    """r, ``(h, m, 1)``: the first row's weight of every landmark."""
    row = row_times_pinv(softmax_scores(q_0, k_land)[None], softmax_scores(q_land, k_land)[None], iterations)
    return row[0].mT


def _keys(rows: Rows, w_k: Tensor, q_land: Tensor, plan: Plan, spare: Tensor | None
          ) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Return the keys, ``(T, dim)`` that `_of_chunk` reads, the log-sums and offsets of the chunks' weights,
    ``(chunks, h, m, 1)`` each, and the log-sum over all rows, ``(h, m, 1)``."""
    k = torch.empty_like(rows.h, dtype=plan.dtype) if spare is None else spare
    w, q = w_k.to(plan.dtype), q_land.to(plan.dtype)
    total, lses, offsets = lse_of_padding(q_land, plan), [], []
    for a, b in plan.chunks():
        x, here = rows(a, b), _of_chunk(k, a, b, plan)
        if _lies_in_columns(plan):
            torch.mm(w, x.T, out=here.view(w.shape[0], b - a))
        else:
            linear_into(k[a:b], x, w)
        _, offset, lse = chunk_weights(torch.bmm(q, here))
        offsets.append(offset)
        lses.append(lse)
        total = torch.logaddexp(total, lse)
    return k, torch.stack(lses), torch.stack(offsets), total


def _mix(rows: Rows, k: Tensor, q_land: Tensor, offsets: Tensor, total: Tensor, row: Tensor, plan: Plan
         ) -> tuple[Tensor, Tensor]:  # fmt: skip
    mixed = torch.zeros(plan.heads, k.shape[1], dtype=row.dtype, device=k.device)
    weights = torch.empty(plan.heads, plan.rows, dtype=row.dtype, device=k.device)
    q = q_land.to(plan.dtype)
    for (a, b), offset in zip(plan.chunks(), offsets, strict=True):
        shares, _, _ = chunk_weights(torch.bmm(q, _of_chunk(k, a, b, plan)), offset)
        w = _times((row * torch.exp(offset - total)).mT, shares)[:, 0]
        weights[:, a:b] = w
        mixed += _times(w, rows(a, b))
    return mixed, weights


def _times(a: Tensor, b: Tensor) -> Tensor:
    """a b, ``(.., i, j), (.., j, k) -> (.., i, k)``, ``a`` few rows in fp32 at least.

    Times a bfloat16 matrix ``a`` keeps 16 bits, as the sum of two bfloat16 numbers, and the product is rounded once;
    float16 lacks the range for two.
    """
    if b.dtype != torch.bfloat16:
        return a @ b.to(a.dtype)
    most = a.bfloat16()
    return (torch.cat([most, (a - most).bfloat16()], dim=-2) @ b).float().unflatten(-2, (2, -1)).sum(dim=-3)


def _lies_in_columns(plan: Plan) -> bool:
    """Half precision's batched products copy a transposed factor first; its keys lie as they are multiplied."""
    return plan.dtype in (torch.float16, torch.bfloat16)


def _of_chunk(k: Tensor, a: int, b: int, plan: Plan) -> Tensor:
    """Keys of rows a .. b, transposed: ``(T, dim) -> (h, d, b - a)``, a view."""
    if _lies_in_columns(plan):
        return k.view(-1)[a * k.shape[1] : b * k.shape[1]].view(plan.heads, -1, b - a)
    return plan.split(k[a:b]).mT


def _shares(k: Tensor, a: int, b: int, q: Tensor, plan: Plan) -> Tensor:
    """softmax(q_l k') over the rows of one chunk alone, ``(h, m, C)``: times the chunk's share it is the whole's."""
    return torch.softmax(wide(torch.bmm(q, _of_chunk(k, a, b, plan))), dim=-1)


def _backward(ctx: Any, g_mixed: Tensor, g_first: Tensor, g_token: Tensor) -> tuple[Tensor | None, ...]:
    h, norm_weight, norm_bias, w_q, w_k, k, chunk_share, weights, means = ctx.saved_tensors
    plan, norm, dtype = ctx.plan, Norm(norm_weight, norm_bias), ctx.plan.dtype
    q_0, q_land, k_land, row = ctx.core
    scale = (h.shape[1] // plan.heads) ** -0.5
    q_cast, r = q_land.detach().to(dtype), row.detach()

    d_weights = torch.empty_like(weights)
    d_row = torch.zeros_like(r)
    for (a, b), share in zip(plan.chunks(), chunk_share, strict=True):
        d_weights[:, a:b] = g_mixed @ wide(norm(h[a:b], plan)).T
        d_row += torch.bmm(_shares(k, a, b, q_cast, plan), d_weights[:, a:b, None]) * share
    d_q0, d_qland, d_kland = torch.autograd.grad(row, (q_0, q_land, k_land), d_row, retain_graph=True)

    d_qland = d_qland.clone()
    d_wq, d_wk = torch.zeros_like(w_q), torch.zeros_like(w_k)
    dx, w = torch.empty_like(h), w_k.to(dtype).T.contiguous()
    for (a, b), share in zip(plan.chunks(), chunk_share, strict=True):
        x = norm(h[a:b], plan)
        d_scores = (d_weights[:, None, a:b] - d_row).mul_(r * share).mul_(_shares(k, a, b, q_cast, plan)).to(dtype)
        dk = plan.merge(torch.bmm(d_scores.mT, q_cast))
        d_qland += torch.bmm(d_scores, _of_chunk(k, a, b, plan).mT)
        torch.mm(weights[:, a:b].T.to(h.dtype), g_mixed.to(h.dtype), out=dx[a:b])
        dx[a:b] += linear(dk, w)
        add_outer(d_wk, dk, x.to(dtype))

    flat = [plan.merge(t).to(h.dtype) for t in (d_q0, d_qland, d_kland)]
    first = norm(h[:1], plan)
    add_outer(d_wq, torch.cat([flat[0], flat[1]]) * scale, torch.cat([first, means]))
    add_outer(d_wk, flat[2], means)
    dx[:1] += flat[0] @ (w_q * scale)
    dx[: ctx.near] += g_first
    d_means = flat[1] @ (w_q * scale) + flat[2] @ w_k
    sums = None if norm.weight is None else (torch.zeros_like(norm.weight), torch.zeros_like(norm.weight))
    for a, b in plan.chunks():
        dx[a:b] = norm.backward(dx[a:b] + rows_of_means(d_means, a, b, plan), h[a:b], plan, sums)
    dx[:1] += g_token
    return dx, *(sums or (None, None)), d_wq, d_wk
