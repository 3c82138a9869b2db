"""Parts of TransMIL: order and square of the tokens, their readout, and the decomposition of its embedding."""

from __future__ import annotations

import math
from bisect import bisect_left
from itertools import accumulate
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from milbench.bags import Bags, offsets_on
from milbench.errors import Unsupported
from milbench.nn import NystromAttention
from milbench.nn.nystrom.chunks import CHUNK, wide

if TYPE_CHECKING:
    from .transmil import TransMIL, _Block


def raster_order(bags: Bags) -> Tensor:
    """Return ``(N,)`` int64: the rows of each bag by y, then x; rows at one place stay in storage order.

    Raises:
        Unsupported: the bags have no coordinates.
    """
    if bags.coords is None:
        raise Unsupported(
            "transmil[order=raster] sorts rows by their coordinates and these bags have none; import the cohort with "
            "coordinates or leave order=raster out."
        )
    x, y = bags.coords.unbind(dim=1)
    by = x.argsort(stable=True)
    by = by[y[by].argsort(stable=True)]
    return by if len(bags) == 1 else by[bags.index[by].argsort(stable=True)]


class SquareGrids:
    """Square grids of bags of several sizes in one padded batch: which row, token and cell correspond.

    A bag of n rows has side H = ceil(sqrt n) and H*H tokens, token t being row t, and beyond the end row t - n, or
    zero. The batch lays all grids into the top left corner of the largest one; the zeros around a smaller grid are
    what its zero padding would be.
    """

    def __init__(self, lengths: list[int], device: torch.device, zeros: bool) -> None:
        starts = [0, *accumulate(lengths)][:-1]
        self.lengths = n = offsets_on(torch.tensor(lengths), device)
        sides = [math.isqrt(length - 1) + 1 for length in lengths]
        side = offsets_on(torch.tensor(sides), device)
        self.cells = side * side
        self.same = len(set(sides)) == 1
        self.side = max(sides)
        self.zeros = zeros
        self.alone = len(lengths) == 1  # no index is needed then
        if self.alone:
            return
        t = torch.arange(self.side**2, device=device).expand(len(lengths), -1)
        self.valid = t < self.cells[:, None]
        patch = t < n[:, None]
        self.full = patch if zeros else self.valid
        row = torch.where(patch, t, t - n[:, None])
        # Padding is made of the bag's own first row: one of another bag would take that bag's NaN or overflow along.
        self.row = torch.where(self.valid, row, 0) + offsets_on(torch.tensor(starts), device)[:, None]
        across, down = t % side[:, None], t // side[:, None]
        self.cell = torch.where(self.valid, down * self.side + across, 0)
        x, y = t % self.side, t // self.side
        self.inside = (x < side[:, None]) & (y < side[:, None])
        self.token = torch.where(self.inside, y * side[:, None] + x, 0)

    def tokens(self, h: Tensor) -> Tensor:
        """(N, dim) rows -> (B, side^2, dim) tokens, zero where a token is no row's."""
        if self.alone:
            more = self.side**2 - len(h)
            return torch.cat([h, h.new_zeros(more, h.shape[1]) if self.zeros else h[:more]])[None] if more else h[None]
        return h[self.row] * self.full[..., None]

    def square(self, tokens: Tensor) -> Tensor:
        """(B, side^2, dim) tokens -> (B, side, side, dim) cells, zero outside a bag's grid."""
        if not self.same:
            tokens = tokens.gather(1, self.token[..., None].expand_as(tokens)) * self.inside[..., None]
        return tokens.unflatten(1, (self.side, self.side))

    def rows(self, grid: Tensor) -> Tensor:
        """(B, side, side, dim) cells -> (B, side^2, dim) tokens."""
        cells = grid.flatten(1, 2)
        return cells if self.same else cells.gather(1, self.cell[..., None].expand_as(cells))

    def mean(self, tokens: Tensor) -> Tensor:
        """(B, side^2, dim) tokens -> (B, dim), over the n patches of each bag, summed in fp32 at least."""
        patch = torch.arange(tokens.shape[1], device=tokens.device) < self.lengths[:, None]
        total = (wide(tokens) * patch[..., None]).sum(dim=1)
        return (total / self.lengths[:, None]).to(tokens.dtype)


#: Largest sides of the grids of each bucket, so that no bag is padded to much more than it needs.
BUCKET_SIDES = (4, 6, 8, 11, 16, 20, 25, 32, 40, 50, 64)


def bucket_by_grid_size(sides: list[int], attn: NystromAttention) -> list[list[int]]:
    """Group small bags into batches by the sides of their grids; large bags are in no batch.

    A bag of more tokens than landmarks that would be a batch of its own is left out as well: streaming it costs less.
    """
    groups: dict[tuple[bool, int], list[int]] = {}
    for i, side in enumerate(sides):
        if attn.room(rows := side * side + 1):
            groups.setdefault((rows > attn.landmarks, bisect_left(BUCKET_SIDES, side)), []).append(i)
    batches = []
    for (above, _), group in sorted(groups.items()):
        if above and len(group) == 1:
            continue
        room = attn.room(max(sides[i] for i in group) ** 2 + 1)
        batches += [group[at : at + room] for at in range(0, len(group), room)]
    return batches


def patch_attention(weights: Tensor, n: int) -> Tensor:
    """Fold weights of tokens, (H*H, heads) or (n, heads), onto the n patches; each head's positive part sums to 1."""
    folded = weights[:n] + F.pad(weights[n:], (0, 0, 0, 2 * n - len(weights)))
    positive = folded.clamp(min=0)
    total = positive.sum(dim=0, keepdim=True)
    return torch.where(total > 0, positive / total.clamp(min=torch.finfo(total.dtype).tiny), 1.0 / n)


def mean_normed(h: Tensor, norm: nn.LayerNorm) -> Tensor:
    """Average the normalised rows of one long bag in chunks: ``(n, dim) -> (1, dim)``, in fp32 at least."""
    total = h.new_zeros((), dtype=wide(h[:0]).dtype)
    for rows in h.split(CHUNK.get(h.device.type, 4096)):
        total = total + wide(norm(rows)).sum(dim=0, keepdim=True)
    return (total / len(h)).to(h.dtype)


@torch.no_grad()
def contributions(model: TransMIL, x: Tensor) -> tuple[Tensor, Tensor]:
    """Take the embedding of one bag apart, in eval mode; rows in the order of the tokens.

    With attention weights and the scales of the layer norms held at their values, everything between the embedded
    instances f_j = ReLU(W x_j + b) and the embedding is linear: residuals, values, output projections, value
    convolution, PPEG, centring. So the embedding is a sum of parts, one for every pair (i, j), "f_j, read at the row of
    instance i", and of what the class token's parameter and the biases bring (norm-based analysis of transformers:
    Kobayashi et al., EMNLP 2020 and 2021).

    Args:
        model: the method.
        x: ``(n, d)`` features.

    Returns:
        ``(n, n, dim)``: entry (i, j) is the contribution of f_j to the embedding where the class token reads the row of
        instance i, in whichever layer, or where the mean does, after the last; ``(n, dim)``: the f_j. A row that was
        appended to fill the square is its instance's own.
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
    if model.readout == "mean":
        return _normed(rows[:n], h[1 : 1 + n], model.norm) / n, f
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
