"""TransMIL: correlated pooling by Nystrom self-attention and a convolutional position encoding (Shao et al. 2021)."""

from __future__ import annotations

import math
from itertools import accumulate
from typing import Literal

import torch
from torch import Tensor, nn

from milbench.aggregator import Aggregator
from milbench.bags import BagOutput, Bags
from milbench.config import Card, Choice, Float, Recipe
from milbench.errors import MilbenchError
from milbench.nn import PPEG, Linear, NystromAttention, SquareTokens, product_dtype
from milbench.nn.nystrom.value_conv import BLOCK

from ._transmil_parts import SquareGrids, bucket_by_grid_size, contributions, mean_normed, patch_attention, raster_order


class TransMIL(Aggregator):
    """TransMIL (Shao et al., NeurIPS 2021, figure 3), parameters and function of the authors' code.

    Embed: h = ReLU(W x). Square: with H = ceil(sqrt n) the first H*H - n rows are appended again. Prepend a class
    token. Then ``layers`` times h <- h + Nystrom(LayerNorm h), with PPEG on the H x H grid after the first, and a
    linear head on the normalised class token. Rows are taken in storage order, unless ``order`` says otherwise;
    nothing else reads coordinates: the grid is the square of consecutive rows, not the slide's.

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
        readout: input of the head: the ``class`` token, or the ``mean`` over the n patches' normalised tokens (those
            that fill the square left out). The class token takes part in attention either way; the last layer is then
            computed for all tokens, and attention is the readout's own, 1/n for every patch and head.
        square: padding of the square: ``repeat`` the first rows, or ``zeros``, vectors that take part in attention
            and PPEG like any token.
        order: of the rows of a bag: as they are in ``storage``, or ``raster``, by y, then x (rows at one place as
            stored), which needs bags with coordinates. Attention is returned in storage order all the same.
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
            "repeated rows added to their patch, normalised per bag and head; the authors export none; with "
            "readout=mean it is the readout's uniform weights",
            "readout=mean, square=zeros and order=raster are not the authors': they are here for ablations",
            "dropout on long bags decides an element by 16 bits: its probability is met to 8e-6",
            "RAdam is PyTorch's, Lookahead wraps it with k = 6 and alpha = 0.5",
        ),
    )
    recipe = Recipe(optimizer="lookahead-radam", lr=2e-4, weight_decay=1e-5, epochs=200, accumulate=2, patience=10)
    search_space = {
        "layers": Choice(options=(1, 2, 3)),
        "dropout": Float(low=0.0, high=0.5),
        "ppeg": Choice(options=("none", "3", "7", "pyramid")),
    }
    permutation_invariant = False
    #: Since 2 bags of somewhat more tokens than landmarks go through in padded batches, since 3 only in company. With
    #: the default number of landmarks none do: those that have more tokens are large.
    revision = 3
    authors_names = {"_fc1.": "embed.", "_fc2.": "head.", "pos_layer.": "ppeg.", "layer": "blocks."}

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
        readout: Literal["class", "mean"] = "class",
        square: Literal["repeat", "zeros"] = "repeat",
        order: Literal["storage", "raster"] = "storage",
    ) -> None:
        super().__init__(in_dim, n_classes)
        for name, value in {"layers": layers, "heads": heads, "landmarks": landmarks, "dim": dim}.items():
            if value < 1:
                raise MilbenchError(f"transmil[{name}={value}]: must be at least 1.", code="method-bad-option")
        if pinv_iterations < 0:
            raise MilbenchError(
                f"transmil[pinv_iterations={pinv_iterations}]: must be at least 0.", code="method-bad-option"
            )
        if dim % heads:
            raise MilbenchError(
                f"transmil[dim={dim},heads={heads}]: dim must be a multiple of heads.", code="method-bad-option"
            )
        self.embed = nn.Sequential(Linear(in_dim, dim), nn.ReLU(inplace=True))
        self.cls_token = nn.Parameter(torch.randn(1, 1, dim))
        self.blocks = nn.ModuleDict(
            {str(i + 1): _Block(dim, heads, landmarks, pinv_iterations, value_conv, dropout) for i in range(layers)}
        )
        self.ppeg = None if ppeg == "none" else PPEG(dim, ppeg)
        self.norm = nn.LayerNorm(dim)
        self.head = nn.Linear(dim, n_classes)
        self.landmarks = landmarks
        self.readout, self.square, self.order = readout, square, order
        self.permutation_invariant = order == "raster"  # rows that come with their coordinates

    def matrix_flops(self, n: int) -> int | None:
        """Rest of a bag's products after the identities that `milbench.nn` names, if tokens exceed landmarks.

        None for fewer tokens. It leaves out the additions of padding and of the value convolution's band in small bags.

        With T tokens, m landmarks, h heads, k pseudo-inverse steps: a layer before the last has q, k, v, output
        projection (4 T dim^2), four factors of T m dim, the value convolution and the core; the last layer has keys and
        one factor for all rows, and the weighted sum of rows for each head, unless it is read for all rows.
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
        if self.readout == "mean":
            last = before
        grid = 0 if self.ppeg is None else self.ppeg.size**2 * cells * dim
        landmarks = len(self._layers()) * 2 * m * dim * dim
        return 2 * (n * self.in_dim * dim + (len(self._layers()) - 1) * before + last + grid + landmarks)

    def flop_terms(self, n: int) -> tuple[str, tuple[int, ...]]:
        """Rows, tokens, and the rows beyond whole blocks of the value convolution; up to m tokens, their powers."""
        tokens = (math.isqrt(n - 1) + 1) ** 2 + 1
        if tokens <= self.landmarks:
            return "short", (n, tokens, tokens**2, tokens**3)
        rest = tokens % BLOCK
        return "long", (n, tokens, rest * (BLOCK - rest))

    def contributions(self, bags: Bags) -> tuple[Tensor, Tensor] | None:
        """Decompose the embedding of one small bag into the contribution of each instance through each row.

        See `milbench.interpret.pooling_matrix`: ``(n, n, dim)`` and the embedded instances, ``(n, dim)``. None where
        zeros fill the square: what is read at such a token is read at no instance's row.
        """
        if self.square == "zeros" and math.isqrt(len(bags.x)) ** 2 != len(bags.x):
            return None
        if self.order == "storage":
            return contributions(self, bags.x)
        order = raster_order(bags)
        back = order.argsort()
        parts, own = contributions(self, bags.x[order])
        return parts[back][:, back], own[back]

    def pool(self, bags: Bags, attention: bool) -> BagOutput:
        """Pool the rows in the order of the parameter `order`."""
        if self.order == "storage":
            return self._pool(bags, attention)
        order = raster_order(bags)
        out = self._pool(bags.with_features(bags.x[order]), attention)
        if out.attention is not None:
            out.attention = out.attention[order.argsort()]
        return out

    def _pool(self, bags: Bags, attention: bool) -> BagOutput:
        """Pool small bags together, padded; large ones, with work enough, one by one."""
        sides = [math.isqrt(n - 1) + 1 for n in bags.lengths]
        starts = [0, *accumulate(bags.lengths)]
        # Tokens whose weight belongs to a patch: a repeated row to its patch, a zero row to none.
        owned = bags.lengths if self.square == "zeros" else [side * side for side in sides]
        tokens: dict[int, Tensor] = {}
        weights: dict[int, Tensor] = {}
        attn = self._layers()[0].attn
        for group in bucket_by_grid_size(sides, attn):
            rows = bags.x if len(group) == len(bags) else torch.cat([bags.x[starts[i] : starts[i + 1]] for i in group])
            pooled, row = self._batched(self.embed(rows), [bags.lengths[i] for i in group])
            for at, i in enumerate(group):
                tokens[i] = pooled[at : at + 1]
                if row is not None:
                    weights[i] = row[at, 1 : 1 + owned[i]]
        for i in [i for i in range(len(bags)) if i not in tokens]:
            tokens[i], row = self._long(bags.x[starts[i] : starts[i + 1]], sides[i])
            if row is not None:
                weights[i] = row[1 : 1 + owned[i]]
        embedding = torch.cat([tokens[i] for i in range(len(bags))])
        if self.readout == "class":  # a mean is of tokens that are normalised already
            embedding = self.norm(embedding)
        given = None
        if attention and self.readout == "class":
            given = torch.cat([patch_attention(weights[i], n) for i, n in enumerate(bags.lengths)])
        elif attention:
            given = torch.cat([embedding.new_full((n, attn.heads), 1 / n) for n in bags.lengths])
        return BagOutput(self.head(embedding), given, embedding)

    def _layers(self) -> list[_Block]:
        return [block for block in self.blocks.values() if isinstance(block, _Block)]

    def _whole(self) -> list[_Block]:
        """Layers of which every token is read: all but the last, whose class token alone the head reads."""
        return self._layers() if self.readout == "mean" else self._layers()[:-1]

    def _long(self, x: Tensor, side: int) -> tuple[Tensor, Tensor | None]:
        """Return the bag's class token or mean, ``(1, dim)``, and the class token's weights, ``(T, heads)``."""
        embed = self.embed[0]
        h = SquareTokens.apply(x, embed.weight, embed.bias, self.cls_token[0, 0], side, self.square == "zeros")
        whole, last = self._whole(), self._layers()[-1]
        # Training keeps the tokens of every step; inference overwrites them in place, with one more buffer.
        keeps = torch.is_grad_enabled() or any(block.attn.drops for block in whole)
        spare = None if keeps else torch.empty_like(h, dtype=product_dtype(h))
        if len(self.blocks) == 1:
            h = self._encode_long(h, side, keeps)
        for i, block in enumerate(whole):
            if spare is None:
                h = block.attn.long(h, block.norm, residual=True)
            else:
                block.attn.long_in_place(h, spare, block.norm)
            if i == 0 and len(self.blocks) > 1:
                h = self._encode_long(h, side, keeps)
        if self.readout == "mean":
            return mean_normed(h[1 : 1 + len(x)], self.norm), None
        out, token, weights = last.attn.long_first(h, last.norm, spare)
        return token + out, weights

    def _batched(self, h: Tensor, lengths: list[int]) -> tuple[Tensor, Tensor | None]:
        """As `_long`, of B bags of embedded rows: ``(B, dim)`` and ``(B, T, heads)``."""
        h = h.to(self.cls_token.dtype)  # autocast makes products; the residual stream stays exact
        grids = SquareGrids(lengths, h.device, self.square == "zeros")
        tokens = grids.tokens(h)
        h = torch.cat([self.cls_token.expand(len(lengths), -1, -1), tokens], dim=1)
        rows = grids.cells + 1
        whole, last = self._whole(), self._layers()[-1]
        if len(self.blocks) == 1:
            h = self._encode_batch(h, grids)
        for i, block in enumerate(whole):
            h = h + block.attn.batch(block.norm(h), rows)
            if i == 0 and len(self.blocks) > 1:
                h = self._encode_batch(h, grids)
        if self.readout == "mean":
            return grids.mean(self.norm(h[:, 1:])), None
        out, weights = last.attn.batch_first(last.norm(h), rows)
        return h[:, 0] + out, weights

    def _encode_long(self, h: Tensor, side: int, keeps: bool) -> Tensor:
        if self.ppeg is None:
            return h
        if keeps:
            return self.ppeg.tokens(h, side)
        self.ppeg.tokens_in_place(h, side)
        return h

    def _encode_batch(self, h: Tensor, grids: SquareGrids) -> Tensor:
        if self.ppeg is None:
            return h
        return torch.cat([h[:, :1], grids.rows(self.ppeg(grids.square(h[:, 1:]))).to(h.dtype)], dim=1)


class _Block(nn.Module):
    """LayerNorm and Nystrom attention, the residual added by the caller; there is no MLP in TransMIL."""

    def __init__(self, dim: int, heads: int, landmarks: int, iterations: int, value_conv: bool, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.attn = NystromAttention(dim, heads, landmarks, iterations, value_conv, dropout)
