"""TransMIL's class token taken apart: what every instance brings into it, and through which row.

With attention weights and the scales of the layer norms held at their values, everything between the embedded
instances f_j = ReLU(W x_j + b) and the class token is linear: residuals, values, output projections, value convolution,
PPEG, centring. So the class token is a sum of parts, one for every pair (i, j), "f_j, read at the row of instance i",
and of what the class token's parameter and the biases bring (norm-based analysis of transformers: Kobayashi et al.,
EMNLP 2020 and 2021).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from .transmil import TransMIL, _Block


@torch.no_grad()
def contributions(model: TransMIL, x: Tensor) -> tuple[Tensor, Tensor]:
    """Take the embedding of one bag apart, in eval mode.

    Args:
        model: the method.
        x: ``(n, d)`` features.

    Returns:
        ``(n, n, dim)``: entry (i, j) is what f_j brings into the embedding where the class token reads the row of
        instance i, in whichever layer; ``(n, dim)``: the f_j. A row that was appended to fill the square is its
        instance's own.
    """
    f = model.embed(x)
    n, side = len(x), math.isqrt(len(x) - 1) + 1
    slot = torch.arange(side * side, device=x.device)
    slot = torch.where(slot < n, slot, slot - n)  # which instance a token is a copy of
    h = torch.cat([model.cls_token[0], f[slot]])
    rows = f.new_zeros(len(slot), n, f.shape[1])  # [t, j]: the part of token t that stems from instance j
    rows[torch.arange(len(slot)), slot] = f[slot]
    read = f.new_zeros(n, n, f.shape[1])  # [i, j]: the part of the class token that was read at row i
    blocks = model._layers()
    for i, block in enumerate(blocks):
        if i == (0 if len(blocks) == 1 else 1):
            h, rows = _encode(model, h, rows, side)
        rows, read = _attend(block, h, rows, read, slot)
        h = h + block.attn(block.norm(h))
    return _normed(read, h[:1], model.norm), f


def _encode(model: TransMIL, h: Tensor, rows: Tensor, side: int) -> tuple[Tensor, Tensor]:
    if model.ppeg is None:
        return h, rows
    kernel, _ = model.ppeg.kernel()
    grids = rows.permute(1, 2, 0).unflatten(2, (side, side))
    grids = F.conv2d(grids, kernel, padding=kernel.shape[-1] // 2, groups=len(kernel))
    return model.ppeg.tokens(h, side), grids.flatten(2).permute(2, 0, 1)


def _attend(block: _Block, h: Tensor, rows: Tensor, read: Tensor, slot: Tensor) -> tuple[Tensor, Tensor]:
    """One layer with its residual: the parts of the tokens and of the class token after it."""
    attn = block.attn
    weights = attn.matrix(block.norm(h))
    w_v, w_o = attn.to_qkv.weight.chunk(3)[2], attn.to_out.get_parameter("0.weight")

    def values(parts: Tensor, at: Tensor) -> Tensor:
        return (_normed(parts, at, block.norm) @ w_v.T).unflatten(-1, (attn.heads, -1))

    of_rows, of_read = values(rows, h[1:]), values(read, h[:1])  # (tokens, n, heads, d), (n, n, heads, d)
    mixed = torch.einsum("hts,snhd->tnhd", weights[:, 1:, 1:], of_rows)
    mixed += torch.einsum("ht,nhd->tnhd", weights[:, 1:, 0], of_read.sum(dim=0))
    seen = torch.einsum("h,inhd->inhd", weights[:, 0, 0], of_read)
    seen.index_add_(0, slot, torch.einsum("ht,tnhd->tnhd", weights[:, 0, 1:], of_rows))
    return rows + mixed.flatten(2) @ w_o.T, read + seen.flatten(2) @ w_o.T


def _normed(parts: Tensor, at: Tensor, norm: nn.LayerNorm) -> Tensor:
    """Parts ``(t, n, dim)`` of the rows ``at``, (t, dim), through a layer norm whose scale stays."""
    scale = (at.var(dim=-1, unbiased=False) + norm.eps).rsqrt()[:, None, None]
    return (parts - parts.mean(dim=-1, keepdim=True)) * scale * norm.weight
