"""Reductions over the bags of a packed batch: no padding to the longest bag, no Python loop over bags.

Every function takes rows ``(N, e)`` in bag order and the `Bags` that say where each bag begins. One bag alone takes
the dense reduction, which is the fastest there is. Sums and softmaxes are accumulated in fp32 at least, whatever the
dtype of the rows.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..bags import Bags
from .autocast import without_autocast

PART = 1024  # rows of one part of a long bag on CPU
LINE = 64  # bytes of a cache line


def _wide(values: Tensor) -> Tensor:
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def _is_long(values: Tensor) -> bool:
    """Whether one bag is reduced faster in parts: on CPU a plain reduction over rows does not reach the speed of
    memory, the kernels for many bags do (tests/perf)."""
    return (
        values.device.type == "cpu"
        and not values.requires_grad
        and len(values) >= 2 * PART
        and values.dtype in (torch.float32, torch.float64)
        and not torch.compiler.is_compiling()  # a compiled reduction is in parts already
    )


def _sum_of_bags(values: Tensor, starts: Tensor, weights: Tensor) -> Tensor:
    """Sum the weighted rows of each bag in one pass: ``(N, e), (N,) -> (B, e)``.

    A bag of embeddings is a bag of instances: the fused kernel gathers, weighs and adds, and needs no (N, e) product.
    """
    rows = torch.arange(len(values), device=values.device)
    return F.embedding_bag(rows, values, starts, mode="sum", per_sample_weights=weights)


def _weighted(weights: Tensor, values: Tensor, bags: Bags) -> Tensor:
    """Sum the rows of each bag with h sets of weights: ``(N, h), (N, e) -> (B, h, e)``, of one dtype."""
    cpu = values.device.type == "cpu"
    if len(bags) == 1 and (not cpu or weights.shape[1] > 2):
        return (weights.T @ values)[None]
    if not cpu:  # embedding_bag walks a bag row by row there
        start = values.new_zeros(len(bags), values.shape[1])
        columns = weights.unbind(dim=1)
        return torch.stack([start.index_add(0, bags.index, column[:, None] * values) for column in columns], dim=1)
    alone = [column.contiguous() for column in weights.unbind(dim=1)]
    if len(bags) == 1 and len(values) >= 2 * PART:  # one bag alone would be the work of one core
        parts = torch.arange(0, len(values), PART)
        return torch.stack([_sum_of_bags(values, parts, column).sum(dim=0) for column in alone])[None]
    return torch.stack([_sum_of_bags(values, bags.ptr[:-1], column) for column in alone], dim=1)


def _spread(weights: Tensor, vectors: Tensor, bags: Bags) -> Tensor:
    """Row i is the weighted sum of its bag's h vectors: ``(N, h), (B, h, e) -> (N, e)``.

    The vectors of its bag are a row's bag of embeddings: gathered, weighed and added in one pass over the result.
    """
    n, h = weights.shape
    if len(bags) == 1:
        return weights @ vectors[0]
    first = torch.arange(0, n * h, h, device=weights.device)
    return F.embedding_bag(
        _of_own_bag(bags, h), vectors.flatten(0, 1), first, mode="sum", per_sample_weights=weights.flatten()
    )


def _dots(values: Tensor, vectors: Tensor, bags: Bags) -> Tensor:
    """Each row times the h vectors of its bag: ``(N, e), (B, h, e) -> (N, h)``.

    The gradient of a weighted sum of embeddings at its weights is this product. Its kernel reads each row once, where
    gathered vectors would be as large as the rows, and on CPU it is faster than a matrix-vector product, too. How it
    rounds depends on where a row lies in a cache line: it takes rows that begin where lines do, so that a bag's place
    in a batch changes nothing.
    """
    (n, width), h = values.shape, vectors.shape[1]
    if len(bags) == 1 and (values.device.type != "cpu" or h > 1 or n < PART):
        return values @ vectors[0].T
    if values.device.type == "cpu" and width * values.element_size() % LINE:
        return torch.stack([(values * vectors[:, c][bags.index]).sum(dim=1) for c in range(h)], dim=1)
    rows = torch.arange(n, device=values.device)
    if h > 1:
        rows = rows.repeat_interleave(h)
    out: Tensor = torch.ops.aten._embedding_bag_per_sample_weights_backward(
        vectors.flatten(0, 1), values, rows, rows[:0], _of_own_bag(bags, h), 0
    )
    return out.view(n, h)


def _of_own_bag(bags: Bags, h: int) -> Tensor:
    """Rows of ``(B h, e)`` vectors that belong to each instance's bag, ``(N h,)``."""
    if h == 1:
        return bags.index
    return (bags.index[:, None] * h + torch.arange(h, device=bags.device)).flatten()


def segment_sum(values: Tensor, bags: Bags) -> Tensor:
    """Sum the rows of each bag: ``(N, e) -> (B, e)``."""
    if len(bags) == 1:
        wide = _wide(values[:0]).dtype
        if _is_long(values):
            part = torch.arange(len(values)) // PART
            sums = values.new_zeros(-(-len(values) // PART), values.shape[1]).index_add(0, part, values)
            return sums.sum(0, keepdim=True)
        return values.sum(dim=0, keepdim=True, dtype=wide)
    values = _wide(values)
    return values.new_zeros(len(bags), values.shape[1]).index_add(0, bags.index, values)


def segment_mean(values: Tensor, bags: Bags) -> Tensor:
    """Average the rows of each bag: ``(N, e) -> (B, e)``."""
    total = segment_sum(values, bags)
    return total / bags.ptr.diff().to(total.dtype)[:, None]


def segment_max(values: Tensor, bags: Bags) -> Tensor:
    """Take the largest value of each column in each bag: ``(N, e) -> (B, e)``; NaN wins; ties share the gradient."""
    if len(bags) == 1:
        if _is_long(values):
            part = (torch.arange(len(values)) // PART)[:, None].expand_as(values)
            start = values.new_full((-(-len(values) // PART), values.shape[1]), -torch.inf)
            values = start.scatter_reduce(0, part, values, "amax", include_self=False)
        return values.amax(dim=0, keepdim=True)
    start = values.new_full((len(bags), values.shape[1]), -torch.inf)
    return start.scatter_reduce(0, bags.index[:, None].expand_as(values), values, "amax", include_self=False)


def segment_argmax(values: Tensor, bags: Bags) -> Tensor:
    """Return the row (of all N) that holds each column's maximum in each bag, the first of equals: ``(B, e)`` int64."""
    values = values.detach()
    if len(bags) == 1:
        return values.argmax(dim=0, keepdim=True)
    is_max = (values == segment_max(values, bags)[bags.index]) | values.isnan()  # NaN wins, as it does in one bag alone
    rows = torch.arange(values.shape[0], device=values.device)[:, None].expand_as(values)
    candidates = torch.where(is_max, rows, values.shape[0])
    start = rows.new_full((len(bags), values.shape[1]), values.shape[0])
    return start.scatter_reduce(0, bags.index[:, None].expand_as(values), candidates, "amin")


def segment_softmax(scores: Tensor, bags: Bags) -> Tensor:
    """Softmax over the rows of each bag, column by column, in fp32: ``(N, h) -> (N, h)``."""
    scores = _wide(scores)
    if len(bags) == 1:
        return torch.softmax(scores, dim=0)
    # The shift cancels in the quotient: a constant for autograd.
    shifted = scores - segment_max(scores.detach(), bags)[bags.index]
    e = shifted.exp()
    return e / segment_sum(e, bags)[bags.index]


def weighted_sum(weights: Tensor, values: Tensor, bags: Bags) -> Tensor:
    """Sum the rows of each bag with h sets of weights, z = sum a_i h_i: ``(N, h), (N, e) -> (B, h, e)``, in fp32."""
    with without_autocast(values):
        out: Tensor = _WeightedSum.apply(weights, values, bags)
        return out


class _WeightedSum(torch.autograd.Function):
    """One pass over the values for each set of weights, whatever the number of bags; nothing of size (N, h, e).

    On CUDA several bags go set by set through a product of size (N, e).
    """

    @staticmethod
    def forward(ctx: Any, weights: Tensor, values: Tensor, bags: Bags) -> Tensor:
        """Return ``(B, h, e)``."""
        ctx.save_for_backward(weights, values)
        ctx.bags = bags
        values = _wide(values)
        return _weighted(weights.to(values.dtype), values, bags)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        """Return the gradients at weights and values, each where it is wanted."""
        weights, values = ctx.saved_tensors
        wide, bags = _wide(values), ctx.bags
        d_weights = d_values = None
        if ctx.needs_input_grad[0]:
            d_weights = _dots(wide, grad, bags).to(weights.dtype)
        if ctx.needs_input_grad[1]:
            d_values = _spread(weights.to(wide.dtype), grad, bags).to(values.dtype)
        return d_weights, d_values, None


def segment_dot(values: Tensor, vectors: Tensor, bags: Bags) -> Tensor:
    """Scalar products of the rows of each bag with its own h vectors: ``(N, e), (B, h, e) -> (N, h)``, in fp32."""
    with without_autocast(values):
        out: Tensor = _Dot.apply(values, vectors, bags)
        return out


class _Dot(torch.autograd.Function):
    """The weighted sum's adjoint: nothing of size (N, h, e) either way."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, vectors: Tensor, bags: Bags) -> Tensor:
        """Return ``(N, h)``."""
        ctx.save_for_backward(values, vectors)
        ctx.bags = bags
        values = _wide(values)
        return _dots(values, vectors.to(values.dtype).contiguous(), bags)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        """Return the gradients at values and vectors, each where it is wanted."""
        values, vectors = ctx.saved_tensors
        d_values = d_vectors = None
        if ctx.needs_input_grad[0]:
            d_values = _spread(grad, vectors.to(grad.dtype), ctx.bags).to(values.dtype)
        if ctx.needs_input_grad[1]:
            d_vectors = _weighted(grad, _wide(values), ctx.bags).to(vectors.dtype)
        return d_values, d_vectors, None


def segment_topk(scores: Tensor, k: int, bags: Bags) -> tuple[Tensor, Tensor]:
    """Find the k largest scores of each bag, the first of equals.

    Args:
        scores: ``(N,)``.
        k: how many; a bag of n < k instances gives n.
        bags: where the bags begin.

    Returns:
        ``(B, k)`` rows (of all N), largest first, and ``(B, k)`` booleans that are False where a bag has run out; those
        entries point to the bag's first row.
    """
    rank = torch.arange(k, device=scores.device)
    lengths = bags.ptr[1:] - bags.ptr[:-1]
    valid = rank[None] < lengths[:, None]
    scores = scores.detach()
    few = len(bags) == 1 and len(scores) > 4 * k
    if few and scores.device.type == "cpu" and not torch.compiler.is_compiling():  # how many tie is known to no graph
        return _largest(scores, k)[None], valid
    order = torch.argsort(scores, descending=True, stable=True)
    if len(bags) > 1:
        order = order[torch.argsort(bags.index[order], stable=True)]
    position = bags.ptr[:-1, None] + torch.where(valid, rank[None], 0)
    return order[position], valid


def _largest(scores: Tensor, k: int) -> Tensor:
    """Rows of the k largest of ``(N,)`` scores, largest first, the first of equals, NaN before all.

    Sorting them all costs more than finding the k-th, with which only few others tie.
    """
    least = scores.topk(k).values[-1]
    rows = ((scores >= least) | scores.isnan()).nonzero()[:, 0]
    return rows[torch.argsort(scores[rows], descending=True, stable=True)[:k]]
