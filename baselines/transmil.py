"""TransMIL: correlated pooling by Nystrom self-attention and a convolutional position encoding (Shao et al. 2021)."""

from __future__ import annotations

import math
from itertools import accumulate, pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from milbench.aggregator import Aggregator
from milbench.bags import BagOutput, Bags
from milbench.errors import MilbenchError
from milbench.nn import PPEG, Linear, NystromAttention, SquareTokens, product_dtype
from milbench.spec import Card, Choice, Float, Recipe

from ._transmil_parts import contributions


class TransMIL(Aggregator):
    """TransMIL (Shao et al., NeurIPS 2021, figure 3), parameters and function of the authors' code.

    Embed: h = ReLU(W x). Square: with H = ceil(sqrt n) the first H*H - n rows are appended again. Prepend a class
    token. Then ``layers`` times h <- h + Nystrom(LayerNorm h), with PPEG on the H x H grid after the first, and a
    linear head on the normalised class token. Rows are taken in storage order; coordinates are never used.

    Args:
        in_dim: width of the instance features.
        n_classes: number of classes; the head has one logit a class.
        ppeg: kernels of the position encoding; ``pyramid`` is the authors' 7 + 5 + 3.
        layers: Nystrom layers. With one layer PPEG stands BEFORE it: after it only the class token is read, which
            bypasses PPEG.
        heads: attention heads.
        landmarks: Nystrom landmarks.
        pinv_iterations: iterations of the pseudo-inverse.
        value_conv: the 33 x 1 depthwise convolution of the values along storage order.
        dim: width of the tokens.
        dropout: on every attention layer's output.
    """

    card = Card(
        title="TransMIL",
        family="correlated",
        citation="Z. Shao, H. Bian, Y. Chen, Y. Wang, J. Zhang, X. Ji, Y. Zhang. TransMIL: Transformer based "
        "Correlated Multiple Instance Learning for Whole Slide Image Classification. NeurIPS 2021.",
        url="https://arxiv.org/abs/2106.00908",
        licence="authors' code GPL-3.0; written here from the paper's equations, MIT",
        deviations=(
            "the pseudo-inverse's normalising maximum is taken per bag instead of over the batch: the same at batch "
            "size 1, and without it a bag's prediction depends on its companions",
            "with layers=1 PPEG is applied before the layer (after it, it could not reach the class token)",
            "attention is the class token's row in the last layer over the patches: negative Nystrom weights set to 0, "
            "repeated rows added to their patch, normalised per bag and head; the authors export none",
            "dropout on long bags decides an element by 16 bits: its probability is met to 8e-6",
            "RAdam is PyTorch's, Lookahead wraps it with k = 6 and alpha = 0.5",
        ),
    )
    recipe = Recipe(optimizer="lookahead-radam", lr=2e-4, weight_decay=1e-5, epochs=200, accumulate=2, patience=10)
    search_space = {  # noqa: RUF012
        "layers": Choice(options=(1, 2, 3)),
        "dropout": Float(low=0.0, high=0.5),
        "ppeg": Choice(options=("none", "3", "7", "pyramid")),
    }
    permutation_invariant = False
    authors_names = {"_fc1.": "embed.", "_fc2.": "head.", "pos_layer.": "ppeg.", "layer": "blocks."}  # noqa: RUF012

    def __init__(
        self,
        in_dim: int,
        n_classes: int,
        *,
        ppeg: Literal["none", "3", "5", "7", "pyramid"] = "pyramid",
        layers: int = 2,
        heads: int = 8,
        landmarks: int = 256,
        pinv_iterations: int = 6,
        value_conv: bool = True,
        dim: int = 512,
        dropout: float = 0.1,
    ) -> None:
        super().__init__(in_dim, n_classes)
        for name, value in {"layers": layers, "heads": heads, "landmarks": landmarks, "dim": dim}.items():
            if value < 1:
                raise MilbenchError(f"transmil[{name}={value}]: must be at least 1.")
        if pinv_iterations < 0:
            raise MilbenchError(f"transmil[pinv_iterations={pinv_iterations}]: must be at least 0.")
        if dim % heads:
            raise MilbenchError(f"transmil[dim={dim},heads={heads}]: dim must be a multiple of heads.")
        self.embed = nn.Sequential(Linear(in_dim, dim), nn.ReLU(inplace=True))
        self.cls_token = nn.Parameter(torch.randn(1, 1, dim))
        self.blocks = nn.ModuleDict(
            {str(i + 1): _Block(dim, heads, landmarks, pinv_iterations, value_conv, dropout) for i in range(layers)}
        )
        self.ppeg = None if ppeg == "none" else PPEG(dim, ppeg)
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, n_classes)
        self.landmarks = landmarks

    def matrix_flops(self, n: int) -> int | None:
        """What is left of a long bag's products after the identities that `milbench.nn` names; None for short bags.

        With T tokens, m landmarks, h heads, k pseudo-inverse steps: a layer before the last has q, k, v, output
        projection (4 T dim^2), four factors of T m dim, the value convolution and the core; the last layer has keys and
        one factor for all rows, and the weighted sum of rows for each head.
        """
        cells = (math.isqrt(n - 1) + 1) ** 2
        if cells < self.landmarks:
            return None
        attn, tokens, m, dim = self._layers()[0].attn, cells + 1, self.landmarks, self.head.in_features
        conv = 0 if attn.res_conv is None else 33
        start = attn.heads * m * m * (m + dim // attn.heads)  # A Z_0, and softmax(q_l k_l')
        steps = attn.pinv_iterations
        # The first polynomial needs no step before it; a row passes through the last two without their being formed.
        formed, of_row = (max(0, steps - less) * 2 * attn.heads * m**3 for less in (1, 3))
        before = tokens * dim * (4 * dim + 4 * m + conv) + start + formed + dim * m * m * (3 * steps + 1)
        rows = sum(3 * 4 ** max(0, step - max(0, steps - 3)) for step in range(steps)) + 1
        last = tokens * dim * (dim + m + attn.heads) + start + of_row + attn.heads * m * m * rows
        grid = 0 if self.ppeg is None else self.ppeg.size**2 * cells * dim
        landmarks = len(self._layers()) * 2 * m * dim * dim
        return 2 * (n * self.in_dim * dim + (len(self._layers()) - 1) * before + last + grid + landmarks)

    def contributions(self, bags: Bags) -> tuple[Tensor, Tensor]:
        """Take the embedding of one small bag apart into what each instance brings through each row.

        See `milbench.pooling_matrix`: ``(n, n, dim)`` and the embedded instances, ``(n, dim)``.
        """
        return contributions(self, bags.x)

    def _layers(self) -> list[_Block]:
        return [block for block in self.blocks.values() if isinstance(block, _Block)]

    def pool(self, bags: Bags, attention: bool) -> BagOutput:
        """Pool bags of fewer than `landmarks` tokens together, padded; longer ones, with work enough, one by one."""
        sides = [math.isqrt(n - 1) + 1 for n in bags.lengths]
        starts = [0, *accumulate(bags.lengths)]
        short = [i for i, side in enumerate(sides) if side * side < self.landmarks]
        tokens: dict[int, Tensor] = {}
        weights: dict[int, Tensor] = {}
        for group in _alike(short, sides):
            rows = bags.x if len(group) == len(bags) else torch.cat([bags.x[starts[i] : starts[i + 1]] for i in group])
            found, row = self._short(self.embed(rows), [bags.lengths[i] for i in group], attention)
            for at, i in enumerate(group):
                tokens[i] = found[at : at + 1]
                if row is not None:
                    weights[i] = row[at, 1 : 1 + sides[i] ** 2]
        for i in set(range(len(bags))) - set(short):
            tokens[i], row = self._long(bags.x[starts[i] : starts[i + 1]], sides[i])
            weights[i] = row[1:]
        embedding = self.norm(torch.cat([tokens[i] for i in range(len(bags))]))
        shares = None
        if attention:
            shares = torch.cat([_shares(weights[i], n) for i, n in enumerate(bags.lengths)])
        return BagOutput(self.head(embedding), shares, embedding)

    def _long(self, x: Tensor, side: int) -> tuple[Tensor, Tensor]:
        embed = self.embed[0]
        h = SquareTokens.apply(x, embed.weight, embed.bias, self.cls_token[0, 0], side)
        *before, last = self._layers()
        # Training keeps what every step has made; inference writes over the tokens, with one buffer beside them.
        keeps = torch.is_grad_enabled() or any(block.attn.drops for block in before)
        spare = None if keeps else torch.empty_like(h, dtype=product_dtype(h))
        if not before:
            h = self._encode_long(h, side, keeps)
        for i, block in enumerate(before):
            if spare is None:
                h = block.attn.long(h, block.norm, residual=True)
            else:
                block.attn.long_in_place(h, spare, block.norm)
            if i == 0:
                h = self._encode_long(h, side, keeps)
        out, token, weights = last.attn.long_first(h, last.norm, spare)
        return token + out, weights

    def _short(self, h: Tensor, lengths: list[int], attention: bool) -> tuple[Tensor, Tensor | None]:
        grids = _Grids(lengths, h.device)
        tokens = grids.tokens(h)
        h = torch.cat([self.cls_token.to(h.dtype).expand(len(lengths), -1, -1), tokens], dim=1)
        rows = grids.cells + 1
        *before, last = self._layers()
        if not before:
            h = self._encode_short(h, grids)
        for i, block in enumerate(before):
            h = h + block.attn.short(block.norm(h), rows)
            if i == 0:
                h = self._encode_short(h, grids)
        out, weights = last.attn.short_first(last.norm(h), rows, attention)
        return h[:, 0] + out, weights

    def _encode_long(self, h: Tensor, side: int, keeps: bool) -> Tensor:
        if self.ppeg is None:
            return h
        if keeps:
            return self.ppeg.tokens(h, side)
        self.ppeg.tokens_in_place(h, side)
        return h

    def _encode_short(self, h: Tensor, grids: _Grids) -> Tensor:
        if self.ppeg is None:
            return h
        return torch.cat([h[:, :1], grids.rows(self.ppeg(grids.square(h[:, 1:]))).to(h.dtype)], dim=1)


class _Block(nn.Module):
    """LayerNorm and Nystrom attention, the residual added by the caller; there is no MLP in TransMIL."""

    def __init__(self, dim: int, heads: int, landmarks: int, iterations: int, value_conv: bool, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.attn = NystromAttention(dim, heads, landmarks, iterations, value_conv, dropout)


class _Grids:
    """Square grids of bags of several sizes in one padded batch: which row, token and cell correspond.

    A bag of n rows has side H = ceil(sqrt n) and H*H tokens, token t being row t, or t - n beyond the end. The batch
    lays all grids into the top left corner of the largest one; the zeros around a smaller grid are what its zero
    padding would be.
    """

    def __init__(self, lengths: list[int], device: torch.device) -> None:
        starts = [0, *accumulate(lengths)][:-1]
        n = torch.tensor(lengths, device=device)
        sides = [math.isqrt(length - 1) + 1 for length in lengths]
        side = torch.tensor(sides, device=device)
        self.cells = side * side
        self.same = len(set(sides)) == 1
        self.side = max(sides)
        t = torch.arange(self.side**2, device=device).expand(len(lengths), -1)
        self.valid = t < self.cells[:, None]
        row = torch.where(t < n[:, None], t, t - n[:, None])
        self.row = torch.where(self.valid, row + torch.tensor(starts, device=device)[:, None], 0)
        across, down = t % side[:, None], t // side[:, None]
        self.cell = torch.where(self.valid, down * self.side + across, 0)
        x, y = t % self.side, t // self.side
        self.inside = (x < side[:, None]) & (y < side[:, None])
        self.token = torch.where(self.inside, y * side[:, None] + x, 0)

    def tokens(self, h: Tensor) -> Tensor:
        """(N, dim) rows -> (B, side^2, dim) tokens, zero beyond a bag's end."""
        return h[self.row] * self.valid[..., None]

    def square(self, tokens: Tensor) -> Tensor:
        """(B, side^2, dim) tokens -> (B, side, side, dim) cells, zero outside a bag's grid."""
        if not self.same:
            tokens = tokens.gather(1, self.token[..., None].expand_as(tokens)) * self.inside[..., None]
        return tokens.unflatten(1, (self.side, self.side))

    def rows(self, grid: Tensor) -> Tensor:
        """(B, side, side, dim) cells -> (B, side^2, dim) tokens."""
        cells = grid.flatten(1, 2)
        return cells if self.same else cells.gather(1, self.cell[..., None].expand_as(cells))


def _alike(bags: list[int], sides: list[int]) -> list[list[int]]:
    """Part short bags into batches by their grid's side, so that none is padded to much more than it needs."""
    edges = (4, 6, 8, 11, 1 << 30)
    groups = [[i for i in bags if low < sides[i] <= high] for low, high in pairwise((0, *edges))]
    return [group for group in groups if group]


def _shares(weights: Tensor, n: int) -> Tensor:
    """Fold the (H*H, heads) weights of tokens onto the n patches; make each head's positive part sum to 1."""
    folded = weights[:n] + F.pad(weights[n:], (0, 0, 0, 2 * n - len(weights)))
    positive = folded.clamp(min=0)
    total = positive.sum(dim=0, keepdim=True)
    return torch.where(total > 0, positive / total.clamp(min=torch.finfo(total.dtype).tiny), 1.0 / n)
