"""Reductions over the bags of a packed batch: no padding to the longest bag, no Python loop over bags.

Every function takes rows ``(N, e)`` in bag order and the `Bags` that say where each bag begins. One bag alone takes
the dense reduction, which is the fastest there is. Sums and softmaxes are accumulated in fp32 at least, whatever the
dtype of the rows.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..bags import Bags


def _wide(values: Tensor) -> Tensor:
    return values.float() if values.dtype in (torch.float16, torch.bfloat16) else values


def segment_sum(values: Tensor, bags: Bags) -> Tensor:
    """Sum the rows of each bag: ``(N, e) -> (B, e)``."""
    if len(bags) == 1:
        return values.sum(dim=0, keepdim=True, dtype=_wide(values[:0]).dtype)
    values = _wide(values)
    return values.new_zeros(len(bags), values.shape[1]).index_add(0, bags.index, values)


def segment_mean(values: Tensor, bags: Bags) -> Tensor:
    """Average the rows of each bag: ``(N, e) -> (B, e)``."""
    total = segment_sum(values, bags)
    return total / torch.tensor(bags.lengths, dtype=total.dtype, device=total.device)[:, None]


def segment_max(values: Tensor, bags: Bags) -> Tensor:
    """Take the largest value of each column in each bag: ``(N, e) -> (B, e)``; NaN wins; ties share the gradient."""
    if len(bags) == 1:
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
    """Sum the rows of each bag with h sets of weights, z = sum a_i h_i: ``(N, h), (N, e) -> (B, h, e)``."""
    values = _wide(values)
    weights = weights.to(values.dtype)
    with torch.autocast(values.device.type, enabled=False):
        if len(bags) == 1:
            return (weights.T @ values)[None]
        products = [segment_sum(column[:, None] * values, bags) for column in weights.unbind(dim=1)]
        return torch.stack(products, dim=1)


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
    order = torch.argsort(scores.detach(), descending=True, stable=True)
    if len(bags) > 1:
        order = order[torch.argsort(bags.index[order], stable=True)]
    position = bags.ptr[:-1, None] + torch.where(valid, rank[None], 0)
    return order[position], valid
