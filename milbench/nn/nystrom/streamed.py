"""One Nystrom layer on one long bag, h -> h + dropout(Nystrom(LayerNorm h) W_o + b), streamed over chunks of rows.

Forward: (1) means of the landmarks; (2) keys and values, and softmax(q_l k') v with a running softmax in which the
zero rows in front are a number; the small core pinv(A) (..); (3) queries, softmax(q k_l') (..), the value convolution
and the output projection. The backward pass is written out in the same three passes, the softmax factors computed
again, so that a layer keeps h, q, k, v and the merged heads: five (T, dim) buffers and no graph of the chunks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..autocast import without_autocast
from ..matrix_products import add_outer, columns, head_mix, head_weights, linear, linear_into
from .chunks import (
    Dropout,
    Norm,
    Plan,
    Rows,
    add_into,
    chunk_weights,
    lse_of_padding,
    rows_of_means,
    wide,
)  # fmt: skip
from .pinv import pinv_times, softmax_scores
from .value_conv import BLOCK, WINDOW, add_convolved, band, weight_gradient


class NystromLayer(torch.autograd.Function):
    """``(T, dim) -> (T, dim)``; see the module. `once_differentiable`."""

    @staticmethod
    def forward(
        ctx: Any, h: Tensor, norm_weight: Tensor | None, norm_bias: Tensor | None, w_qkv: Tensor, w_out: Tensor,
        b_out: Tensor, conv: Tensor | None, plan: Plan, iterations: int, dropout: float, residual: bool,
    ) -> Tensor:  # fmt: skip
        """Take conv as ``(heads, 33)`` or None; residual adds h to the result."""
        norm, needed = Norm(norm_weight, norm_bias), plan.grad and any(ctx.needs_input_grad)
        with without_autocast(h):
            drop = Dropout.draw(h.shape[0], h.shape[1], dropout, h.device)
            kept = _Kept.empty(h, plan, drop) if needed else None
            v, out = torch.empty_like(h, dtype=plan.dtype) if kept is None else kept.v, torch.empty_like(h)
            _forward(h, norm, w_qkv, w_out, b_out, conv, plan, iterations, residual, drop, kept, v, out)
        if kept is not None:
            # Large buffers go through save_for_backward, which lets go of them as soon as they have been used.
            ctx.save_for_backward(h, norm_weight, norm_bias, w_qkv, w_out, conv, *kept.buffers())
            ctx.plan, ctx.residual, ctx.core, ctx.factor = plan, residual, kept.core, drop.factor
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Return the gradients at h, the norm's two, W_qkv, W_o, b and the convolution."""
        h, norm_weight, norm_bias, w_qkv, w_out, conv, q, k, v, merged, keep, means, chunk_share = ctx.saved_tensors
        kept = _Kept(q, k, v, merged, keep, means, chunk_share, ctx.factor, ctx.core)
        with without_autocast(h):
            grads = _backward(grad, h, Norm(norm_weight, norm_bias), w_qkv, w_out, conv, ctx.plan, kept,
                              ctx.residual)  # fmt: skip
        return *grads, None, None, None, None


@torch.no_grad()
def layer_in_place(h: Tensor, spare: Tensor, norm: Norm, w_qkv: Tensor, w_out: Tensor, b_out: Tensor,
                   conv: Tensor | None, plan: Plan, iterations: int) -> None:  # fmt: skip
    """Replace h by h + layer(h), without gradient and dropout; ``spare``, (T, dim) in `product_dtype`, is overwritten.

    Large buffers that come fresh from the kernel cost more to touch on CPU than a pass of the layer: inference on a
    long bag gets by with two.
    """
    with without_autocast(h):
        _forward(
            h,
            norm,
            w_qkv,
            w_out,
            b_out,
            conv,
            plan,
            iterations,
            True,
            Dropout(None, 1.0),
            None,
            spare,
            h,
        )


@dataclass
class _Kept:
    """Values that the backward pass needs besides the inputs."""

    q: Tensor  # (T, dim) each, in the dtype of the products
    k: Tensor
    v: Tensor
    merged: Tensor
    keep: Tensor | None  # (T, dim) of dropout
    means: Tensor  # (m, dim) of the landmarks
    chunk_share: Tensor  # (chunks, h, m, 1) of every chunk in the softmax over rows
    factor: float  # of what dropout keeps
    core: tuple[Tensor, ...] = ()  # leaves q_l, k_l, pooled of the core's graph, and its result

    @classmethod
    def empty(cls, h: Tensor, plan: Plan, drop: Dropout) -> _Kept:
        """Make room for one bag."""
        q, k, v, merged = (torch.empty_like(h, dtype=plan.dtype) for _ in range(4))
        return cls(q, k, v, merged, drop.keep, h[:0], h[:0], drop.factor)

    def buffers(self) -> tuple[Tensor | None, ...]:
        """Return the tensors, in the order of the fields."""
        return self.q, self.k, self.v, self.merged, self.keep, self.means, self.chunk_share


def _forward(h: Tensor, norm: Norm, w_qkv: Tensor, w_out: Tensor, b_out: Tensor, conv: Tensor | None, plan: Plan,
             iterations: int, residual: bool, drop: Dropout, kept: _Kept | None, v: Tensor, out: Tensor
             ) -> None:  # fmt: skip
    """Compute the layer into ``out``, which may be ``h`` when nothing is kept; ``v`` (T, dim) holds the values."""
    dim, dtype = h.shape[1], plan.dtype
    w_q, w_k, w_v = w_qkv.chunk(3)
    w_q = w_q * (dim // plan.heads) ** -0.5
    rows = Rows(h, norm, plan)
    q_land, k_land = (wide(plan.split(rows.means @ w.T)).contiguous() for w in (w_q, w_k))

    w_k, w_v, q_cast = w_k.to(dtype), w_v.to(dtype), q_land.to(dtype)
    lse, lses = lse_of_padding(q_land, plan), []
    pooled = torch.zeros_like(q_land)
    for a, b in plan.chunks():
        x = rows(a, b)
        k = columns(x, w_k)
        linear_into(v[a:b], x, w_v)
        if kept is not None:
            kept.k[a:b] = k.T
        weights, offset, chunk_lse = chunk_weights(torch.bmm(q_cast, k.unflatten(0, (plan.heads, -1))))
        before, lse = lse, torch.logaddexp(lse, chunk_lse)
        lses.append(chunk_lse)
        part = torch.bmm(weights, plan.split(v[a:b]))
        pooled = pooled.mul_(torch.exp(before - lse)).add_(part * torch.exp(offset - lse))

    if kept is None:
        spread = _core(q_land, k_land, pooled, iterations)
    else:
        kept.means, kept.chunk_share = rows.means, torch.exp(torch.stack(lses) - lse)
        leaves = tuple(t.detach().requires_grad_() for t in (q_land, k_land, pooled))
        with torch.enable_grad():
            spread = _core(leaves[0], leaves[1], leaves[2], iterations)
        kept.core = (*leaves, spread)

    w_q, k_land, spread, w_o = (t.to(dtype) for t in (w_q, k_land, spread.detach(), w_out))
    blocks = None if conv is None else band(conv, BLOCK, WINDOW, 0).to(dtype)
    for a, b in plan.chunks():
        q = linear(rows(a, b), w_q)
        mixed = head_mix(head_weights(q, k_land), spread)
        if blocks is not None:
            add_convolved(mixed, blocks, v, a, b)
        merged = plan.merge(mixed)
        y = wide(linear(merged, w_o, b_out)) if w_o.dtype == b_out.dtype else wide(linear(merged, w_o)).add_(b_out)
        if kept is not None:
            kept.q[a:b], kept.merged[a:b] = q, merged
        y = drop(y, a, b)
        if residual:
            add_into(out[a:b], h[a:b], y)
        else:
            out[a:b].copy_(y)


def _core(q_land: Tensor, k_land: Tensor, pooled: Tensor, iterations: int) -> Tensor:
    return pinv_times(softmax_scores(q_land, k_land)[None], pooled[None], iterations)[0]


def _backward(grad: Tensor, h: Tensor, norm: Norm, w_qkv: Tensor, w_out: Tensor, conv: Tensor | None, plan: Plan,
              kept: _Kept, residual: bool) -> tuple[Tensor | None, ...]:  # fmt: skip
    dim, dtype, heads = h.shape[1], plan.dtype, plan.heads
    scale = (dim // heads) ** -0.5
    w_q, w_k, _ = w_qkv.chunk(3)
    q_land, k_land, pooled, spread = kept.core
    drop = Dropout(kept.keep, kept.factor)
    d_qkv, d_out, d_bias = torch.zeros_like(w_qkv), torch.zeros_like(w_out), torch.zeros_like(w_out[0])
    d_wq, d_wk, d_wkv = d_qkv[:dim], d_qkv[dim : 2 * dim], d_qkv[dim:]
    d_spread, d_kland = torch.zeros_like(pooled), torch.zeros_like(pooled)
    dx, d_merged = torch.empty_like(h), torch.empty_like(h, dtype=dtype)

    back_q, back_out = ((w_q * scale).T.to(dtype).contiguous(), w_out.T.to(dtype).contiguous())
    k_cast, spread_cast = k_land.detach().to(dtype), spread.detach().to(dtype)
    for a, b in plan.chunks():
        gy = drop(grad[a:b], a, b)
        d_bias += gy.sum(dim=0)
        gy = gy.to(dtype)
        add_outer(d_out, gy, kept.merged[a:b])
        d_merged[a:b] = linear(gy, back_out)
        gm, q = plan.split(d_merged[a:b]), plan.split(kept.q[a:b])
        weights = torch.softmax(wide(torch.bmm(q, k_cast.mT)), dim=-1)
        d_spread += torch.bmm(weights.to(dtype).mT, gm)
        d_weights = wide(torch.bmm(gm, spread_cast.mT))
        d_scores = torch._softmax_backward_data(d_weights, weights, -1, weights.dtype).to(dtype)
        d_kland += torch.bmm(d_scores.mT, q)
        dq = plan.merge(torch.bmm(d_scores, k_cast))
        dx[a:b] = linear(dq, back_q)
        add_outer(d_wq, dq, norm(h[a:b], plan).to(dtype))
    d_wq *= scale

    d_qland, d_kland2, d_pooled = torch.autograd.grad(spread, (q_land, k_land, pooled), d_spread, retain_graph=True)
    d_qland, d_kland = d_qland.clone(), d_kland + d_kland2
    q_cast, g_cast = q_land.detach().to(dtype), d_pooled.to(dtype)
    back_kv = w_qkv[dim:].T.to(dtype).contiguous()
    delta = (d_pooled * pooled.detach()).sum(dim=-1, keepdim=True)
    if conv is not None:
        d_conv, back = torch.zeros_like(conv), band(conv.flip(1), BLOCK, WINDOW, 0).to(dtype)
    for (a, b), chunk_share in zip(plan.chunks(), kept.chunk_share, strict=True):
        k, v = plan.split(kept.k[a:b]), plan.split(kept.v[a:b])
        share = torch.softmax(wide(torch.bmm(q_cast, k.mT)), dim=-1)  # of the chunk alone
        dv = torch.bmm(share.to(dtype).mT, (d_pooled * chunk_share).to(dtype))
        if conv is not None:
            add_convolved(dv, back, d_merged, a, b)
            d_conv += weight_gradient(kept.v, d_merged, heads, a, b)
        d_scores = wide(torch.bmm(g_cast, v.mT)).sub_(delta).mul_(chunk_share).mul_(share).to(dtype)
        dk = plan.merge(torch.bmm(d_scores.mT, q_cast))
        d_qland += torch.bmm(d_scores, k)
        dkv = torch.cat([dk, plan.merge(dv)], dim=1)
        dx[a:b] += linear(dkv, back_kv)
        add_outer(d_wkv, dkv, norm(h[a:b], plan).to(dtype))

    d_q, d_k = (plan.merge(t).to(h.dtype) for t in (d_qland, d_kland))
    add_outer(d_wq, d_q * scale, kept.means)
    add_outer(d_wk, d_k, kept.means)
    d_means = d_q @ (w_q * scale) + d_k @ w_k
    sums = None if norm.weight is None else (torch.zeros_like(norm.weight), torch.zeros_like(norm.weight))
    for a, b in plan.chunks():
        part = norm.backward(dx[a:b] + rows_of_means(d_means, a, b, plan), h[a:b], plan, sums)
        dx[a:b] = part + grad[a:b] if residual else part
    return dx, *(sums or (None, None)), d_qkv, d_out, d_bias, None if conv is None else d_conv
