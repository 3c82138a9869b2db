"""Nystrom self-attention as TransMIL uses it, in a form that never builds anything of size N x m or N x N.

The function is that of Xiong et al. (2021) in the MIT package ``nystrom-attention``: zero rows at the FRONT until the
length is a multiple of the m landmarks (unmasked: their keys take softmax mass and enter the landmark means),
landmarks that are means of consecutive rows, ``softmax(q k_l') pinv(softmax(q_l k_l')) softmax(q_l k') v`` with an
iterative pseudo-inverse, and a depthwise 33 x 1 convolution of the values along storage order added to the result.

Only the order of the arithmetic differs; each step is exact in real numbers:

* association from the right: ``softmax . (pinv . (softmax . v))``; both tall softmax factors are ordinary attentions,
  streamed by `scaled_dot_product_attention`;
* landmarks are linear: the mean of ``x W`` is the mean of ``x``, times ``W``;
* with Y = A Z0 the iteration Z <- Z p(Y), p(Y) = (13 - 15Y + 7Y^2 - Y^3)/4, becomes Y <- Y p(Y), two m^3 products a
  step instead of four; every p(Y) is applied to an (m, d) matrix, or to one row, and never multiplied out;
* a bag of T <= m rows has landmarks of one row each and P = m - T interchangeable zero rows. Everything commutes with
  permuting them, so the computation lives in the quotient with basis (zero rows)/sqrt(P) and the T real rows: matrices
  of T + 1 instead of m. All three softmax factors are then one matrix A, and A pinv(A) is the iterate Y itself;
* where only the first row is read (the class token after the last layer) only its query, its output and half of one
  window of the convolution are computed.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..autocast import without_autocast
from ..matrix_products import linear
from . import padded as medium
from .chunks import Norm, Plan
from .class_token import NystromClassToken
from .pinv import iterate, pinv_times, softmax_scores
from .streamed import NystromLayer, layer_in_place
from .value_conv import LENGTH, REACH, band

#: Numbers in one matrix, bags x heads x rows x rows, of a padded batch of bags of at most as many rows as landmarks:
#: 128 MB, whatever the number of bags.
SHORT = 1 << 25


class NystromAttention(nn.Module):
    """Multi-head Nystrom attention over bags that attend within themselves alone.

    The pseudo-inverse starts from ``A' / (largest column sum)``; the package takes that maximum over the whole batch,
    which makes a bag's output depend on its companions. Here it is taken per bag, over its heads: the same at batch
    size 1.

    Args:
        dim: width of the tokens.
        heads: number of heads; ``dim`` must be a multiple.
        landmarks: number m of landmarks.
        pinv_iterations: steps of the pseudo-inverse iteration.
        value_conv: add the depthwise 33 x 1 convolution of the values.
        dropout: on the output.
    """

    def __init__(self, dim: int, heads: int = 8, landmarks: int = 256, pinv_iterations: int = 6,
                 value_conv: bool = True, dropout: float = 0.1) -> None:  # fmt: skip
        super().__init__()
        self.heads = heads
        self.landmarks = landmarks
        self.pinv_iterations = pinv_iterations
        self.to_qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.to_out = nn.Sequential(nn.Linear(dim, dim), nn.Dropout(dropout))
        self.res_conv = (
            nn.Conv2d(heads, heads, (LENGTH, 1), padding=(REACH, 0), groups=heads, bias=False) if value_conv else None
        )

    def forward(self, x: Tensor) -> Tensor:
        """Attend within one bag: ``(T, dim) -> (T, dim)``."""
        if x.shape[0] <= self.landmarks:
            return self.short(x[None], torch.tensor([x.shape[0]], device=x.device))[0]
        return self.long(x)

    @torch.no_grad()
    def matrix(self, x: Tensor) -> Tensor:
        """Weights by which the values of one bag are summed, the value convolution's included.

        The factors written out as published, to inspect a small bag: it is the one place where something of size
        T x T is made, and no forward pass comes here.

        Args:
            x: ``(T, dim)``.

        Returns:
            ``(heads, T, T)``: `forward` is the values of all rows times this, projected.
        """
        each = -(-len(x) // self.landmarks)
        pad = self.landmarks * each - len(x)
        q, k = (F.pad(_split(t[None], self.heads), (0, 0, pad, 0)) for t in self.to_qkv(x).chunk(3, dim=-1)[:2])
        q = q * q.shape[-1] ** -0.5
        q_land, k_land = (t.unflatten(2, (self.landmarks, each)).mean(dim=3) for t in (q, k))
        # The zero rows' keys take their share of the softmax; their values are zero, so that share goes nowhere.
        pooled = softmax_scores(q_land, k)[..., pad:]
        spread = pinv_times(softmax_scores(q_land, k_land), pooled, self.pinv_iterations)
        weights = (softmax_scores(q[:, :, pad:], k_land) @ spread)[0]
        conv = self._conv()
        return weights if conv is None else weights + band(conv, len(x), len(x))

    # -- bags of more rows than landmarks, one at a time
    # -------------------------------------------------------------------

    def long(self, x: Tensor, norm: nn.LayerNorm | None = None, residual: bool = False) -> Tensor:
        """Attend within one bag of T > landmarks rows: ``(T, dim) -> (T, dim)``, streamed over chunks of rows.

        Args:
            x: the rows.
            norm: applied to the rows first, without a buffer of its own.
            residual: add ``x`` to the result.
        """
        weight, bias, eps = (None, None, 0.0) if norm is None else (norm.weight, norm.bias, norm.eps)
        out: Tensor = NystromLayer.apply(
            x, weight, bias, self.to_qkv.weight, self.to_out[0].weight, self.to_out[0].bias, self._conv(),
            Plan.of(x, self.heads, self.landmarks, eps), self.pinv_iterations, self._dropout(), residual,
        )  # fmt: skip
        return out

    def long_in_place(self, x: Tensor, spare: Tensor, norm: nn.LayerNorm) -> None:
        """Add the layer's output to x, ``(T, dim)``, in eval mode and without gradient.

        ``spare``, (T, dim) in the products' dtype, is overwritten.
        """
        plan, project = Plan.of(x, self.heads, self.landmarks, norm.eps), self.to_out[0]
        assert isinstance(project, nn.Linear)
        layer_in_place(
            x, spare, Norm(norm.weight, norm.bias), self.to_qkv.weight, project.weight, project.bias, self._conv(),
            plan, self.pinv_iterations,
        )  # fmt: skip

    def long_first(
        self, x: Tensor, norm: nn.LayerNorm | None = None, spare: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Output of the first row alone of one bag of T > landmarks rows.

        Args:
            x: ``(T, dim)``.
            norm: applied to the rows first.
            spare: ``(T, dim)`` in the products' dtype, overwritten; only without gradient.

        Returns:
            ``(1, dim)`` output, ``(1, dim)`` the first row of ``x`` itself, and the first row's weights over the T
            rows, ``(T, heads)``, computed without any T x T matrix. Weights sum to 1 together with those of the zero
            rows, and may be negative; no gradient passes through them.
        """
        weight, bias, eps = (None, None, 0.0) if norm is None else (norm.weight, norm.bias, norm.eps)
        w_q, w_k, w_v = self.to_qkv.weight.chunk(3)
        plan = Plan.of(x, self.heads, self.landmarks, eps)
        near = min(len(x), REACH + 1)
        mixed, first, token, weights = NystromClassToken.apply(
            x, weight, bias, w_q, w_k, plan, self.pinv_iterations, near, spare
        )
        with without_autocast(x):
            out = torch.bmm(mixed[:, None], w_v.to(mixed.dtype).unflatten(0, (self.heads, -1)).mT)
            if (conv := self._conv()) is not None:
                v = plan.split(first @ w_v.T)
                out = out + band(conv, 1, near) @ v
            return self.to_out(plan.merge(out).to(w_v.dtype)), token, weights.T

    def _conv(self) -> Tensor | None:
        return None if self.res_conv is None else self.res_conv.weight[:, 0, :, 0]

    def _dropout(self) -> float:
        dropout = self.to_out[1]
        assert isinstance(dropout, nn.Dropout)
        return dropout.p if dropout.training else 0.0

    @property
    def drops(self) -> bool:
        """Whether dropout acts now."""
        return self._dropout() > 0

    # -- small bags, many at a time: of at most as many rows as landmarks, or of more
    # --------------------------------------------------------------------------------

    def room(self, rows: int) -> int:
        """How many bags of so many rows one padded batch should hold; none are better taken one by one, by `long`."""
        if rows > self.landmarks:
            return medium.room(rows, self.heads, self.landmarks)
        return max(1, SHORT // (self.heads * rows * rows))

    def batch(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Attend within each of B bags, either all of at most `landmarks` rows or all of more.

        Args:
            x: ``(B, T, dim)``, bags padded at the end to T rows.
            lengths: ``(B,)`` rows that are real.

        Returns:
            ``(B, T, dim)``; rows beyond a bag's length hold no meaning.
        """
        if x.shape[1] <= self.landmarks:
            return self.short(x, lengths)
        rows = medium.Rows(x, lengths, self.to_qkv.weight, self.heads, self.landmarks)
        out: Tensor = self.to_out(medium.attend(rows, self._conv(), self.pinv_iterations))
        return out

    def batch_first(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Output of the first row alone of each of the bags that `batch` takes.

        Returns:
            ``(B, dim)`` and the first row's weights over the rows, ``(B, T, heads)``.
        """
        if x.shape[1] <= self.landmarks:
            return self.short_first(x, lengths)
        rows = medium.Rows(x, lengths, self.to_qkv.weight, self.heads, self.landmarks)
        mixed, weights = medium.attend_first(rows, self._conv(), self.pinv_iterations)
        return self.to_out(mixed), weights

    def short(self, x: Tensor, lengths: Tensor) -> Tensor:
        """As `batch`, each bag of at most `landmarks` rows."""
        q, k, v, valid = self._heads_of_short(x, lengths)
        a, start = self._quotient(q, k, valid, lengths)
        # All three factors of the attention are A here, and A pinv(A) is the iterate Y itself. The zero rows' values
        # are zero: their column is left out of A v.
        with without_autocast(x):
            mixing = iterate(a @ start, self.pinv_iterations)[:, :, 1:]
            mixed = (mixing @ (a[..., 1:] @ v.to(a.dtype))).to(v.dtype)
        if (conv := self._conv()) is not None:
            mixed = mixed + band(conv, v.shape[2], v.shape[2]) @ v
        return self.to_out(_merge(mixed))

    def short_first(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """As `batch_first`, each bag of at most `landmarks` rows."""
        q, k, v, valid = self._heads_of_short(x, lengths)
        a, start = self._quotient(q, k, valid, lengths)
        with without_autocast(x):
            y = iterate(a @ start, self.pinv_iterations - 1)
            row = y[:, :, 1:2]
            if self.pinv_iterations:
                row = (13 * row - (15 * row - (7 * row - row @ y) @ y) @ y) / 4
            row = row @ a[..., 1:]
            mixed = (row @ v.to(row.dtype)).to(v.dtype)
        if (conv := self._conv()) is not None:
            mixed = mixed + band(conv, 1, v.shape[2]) @ v
        return self.to_out(_merge(mixed))[:, 0], row[:, :, 0].transpose(1, 2)

    def _heads_of_short(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Return q, k, v as (B, h, T, d), v zero beyond a bag's end, and which rows are real, (B, T).

        None instead of the last for a single bag, all of whose rows are real.
        """
        qkv = linear(x.flatten(0, 1), self.to_qkv.weight).view(*x.shape[:2], -1)
        q, k, v = (_split(t, self.heads) for t in qkv.chunk(3, dim=-1))
        if len(lengths) == 1:
            return q, k, v, None
        valid = torch.arange(x.shape[1], device=x.device) < lengths[:, None]
        return q, k, v * valid[:, None, :, None], valid

    def _quotient(self, q: Tensor, k: Tensor, valid: Tensor | None, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return softmax(q k') over the zero and the real rows in the quotient basis, and the pseudo-inverse's start.

        With P zero rows, u_i the weight row i gives one zero key and B the weights among real rows, the matrix is
        ``[[P/m, sqrt(P)/m 1'], [sqrt(P) u, B]]``: (B, h, T + 1, T + 1), zero where a bag has no row.
        """
        if valid is None:
            return self._quotient_of_one(q, k)
        with without_autocast(q):
            zeros = (self.landmarks - lengths).to(torch.promote_types(q.dtype, torch.float32))[:, None, None, None]
            scores = (q.to(zeros.dtype) * q.shape[-1] ** -0.5) @ k.to(zeros.dtype).transpose(-1, -2)
            scores = scores.masked_fill(~valid[:, None, None], -torch.inf)
            full = torch.softmax(torch.cat([zeros.log().expand(*scores.shape[:3], 1), scores], dim=-1), dim=-1)
            full = full * valid[:, None, :, None]
            to_zero, among = full[..., :1], full[..., 1:]  # P u, B
            each = torch.where(zeros > 0, to_zero / zeros.clamp(min=1), 0)  # u
            top = torch.cat([zeros, zeros.sqrt() * valid[:, None, None]], dim=-1) / self.landmarks
            top = top.expand(-1, q.shape[1], -1, -1)
            a = torch.cat([top, torch.cat([each * zeros.sqrt(), among], dim=-1)], dim=-2)
            # Column sums of the full matrix: of one zero key's column, and of the real ones. Row sums of a softmax are
            # 1.
            columns = (
                torch.cat([(zeros[..., 0] > 0) * each.sum(dim=-2), among.sum(dim=-2)], dim=-1)
                + zeros[..., 0] / self.landmarks
            )
            real = torch.cat([zeros[:, 0, 0] > 0, valid], dim=-1)[:, None]
            largest = columns.masked_fill(~real, 0).amax(dim=(1, 2))[:, None, None, None]
            return a, a.transpose(-1, -2) / largest

    def _quotient_of_one(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """`_quotient` of one bag, all of whose rows are real: fewer launches, which are what a small bag costs."""
        zeros = self.landmarks - q.shape[2]
        with without_autocast(q):
            wider = torch.promote_types(q.dtype, torch.float32)
            scores = (q.to(wider) * q.shape[-1] ** -0.5) @ k.to(wider).mT
            if not zeros:
                a = F.pad(torch.softmax(scores, dim=-1), (1, 0, 1, 0))
                return a, a.mT / a.sum(dim=-2).amax()
            root, rows = math.sqrt(zeros), scores.new_ones(len(scores[0, 0]))
            real = torch.softmax(F.pad(scores, (1, 0), value=math.log(zeros)), dim=-1)
            real = real * F.pad(rows, (1, 0), value=1 / root)
            top = F.pad(rows * root, (1, 0), value=zeros) / self.landmarks
            a = torch.cat([top.expand(*real.shape[:2], 1, -1), real], dim=-2)
            # The column sums of the full matrix: of one zero row's column, which stands sqrt(P) times here, and of the
            # real ones, to whom each zero row gives 1/m.
            columns = real.sum(dim=-2) * F.pad(rows, (1, 0), value=1 / root)
            largest = columns.amax() + zeros / self.landmarks
            return a, a.mT / largest


def _split(x: Tensor, heads: int) -> Tensor:
    """(B, T, h d) -> (B, h, T, d)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def _merge(x: Tensor) -> Tensor:
    """(B, h, T, d) -> (B, T, h d)."""
    return x.transpose(1, 2).flatten(2)
