"""Nystrom self-attention as TransMIL uses it, in a form that never builds anything of size N x m or N x N.

The function is that of Xiong et al. (2021) in the MIT package ``nystrom-attention``: zero rows at the FRONT until the
length is a multiple of the m landmarks (unmasked: their keys take softmax mass and enter the landmark means),
landmarks that are means of consecutive rows, ``softmax(q k_l') pinv(softmax(q_l k_l')) softmax(q_l k') v`` with an
iterative pseudo-inverse, and a depthwise 33 x 1 convolution of the values along storage order added to the result.

What differs is the order of the arithmetic; each step is exact in real numbers:

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

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

CONV = 33  # length of the value convolution
BLOCK = 64  # rows of one block of it


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
            nn.Conv2d(heads, heads, (CONV, 1), padding=(CONV // 2, 0), groups=heads, bias=False) if value_conv else None
        )

    def forward(self, x: Tensor) -> Tensor:
        """Attend within one bag: ``(T, dim) -> (T, dim)``."""
        if x.shape[0] <= self.landmarks:
            return self.short(x[None], torch.tensor([x.shape[0]], device=x.device))[0]
        return self.long(x)

    # -- bags of more rows than landmarks, one at a time
    # -------------------------------------------------------------------

    def long(self, x: Tensor) -> Tensor:
        """Attend within one bag of T > landmarks rows: ``(T, dim) -> (T, dim)``."""
        q, k, v, q_land, k_land, pad = self._project(x)
        middle = _softmax_scores(q_land, k_land)
        scale = 1.0  # q was scaled with its weight
        pooled = F.scaled_dot_product_attention(q_land, k, v, scale=scale)
        spread = _pinv_times(middle, _start(middle), pooled.to(middle.dtype), self.pinv_iterations).to(v.dtype)
        out = F.scaled_dot_product_attention(q[:, :, pad:], k_land, spread, scale=scale)
        if self.res_conv is not None:
            out = out + self._convolve(v[0, :, pad:])
        return self.to_out(_merge(out)[0])

    def long_first(self, x: Tensor, weights: bool = False) -> tuple[Tensor, Tensor | None]:
        """Output of the first row alone of one bag of T > landmarks rows.

        Args:
            x: ``(T, dim)``.
            weights: also return the row's weights over the T rows, ``(T, heads)``, without any T x T matrix.

        Returns:
            ``(1, dim)`` and the weights or None. Weights sum to 1 together with those of the zero rows, and may be
            negative.
        """
        q, k, v, q_land, k_land, pad = self._project(x, first=True)
        middle = _softmax_scores(q_land, k_land)
        row = _row_times_pinv(_softmax_scores(q, k_land), middle, _start(middle), self.pinv_iterations)
        pooled = F.scaled_dot_product_attention(q_land, k, v, scale=1.0)
        out = row.to(pooled.dtype) @ pooled
        if self.res_conv is not None:
            near = v[:, :, pad : pad + CONV // 2 + 1]
            out = out + self._band(1, near.shape[2], CONV // 2).to(v.dtype) @ near
        found = None
        if weights:
            # One head at a time: m x T scores in flight, never heads x m x T.
            with torch.autocast(x.device.type, enabled=False):
                heads = [(row[0, h] @ _softmax_scores(q_land[0, h], k[0, h]))[0, pad:] for h in range(self.heads)]
            found = torch.stack(heads, dim=1)
        return self.to_out(_merge(out)[0]), found

    def _project(self, x: Tensor, first: bool = False) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, int]:
        """Return q (all rows, or the first), k, v, each (1, h, padded rows, d), landmark q and k, and the padding."""
        m, dim = self.landmarks, x.shape[1]
        pad = -x.shape[0] % m
        x = F.pad(x, (0, 0, pad, 0))
        scale = (dim // self.heads) ** -0.5
        w_q, w_k, w_v = self.to_qkv.weight.chunk(3)
        means = x.view(m, -1, dim).mean(dim=1, dtype=torch.promote_types(x.dtype, torch.float32)).to(x.dtype)
        q_land, k_land = (
            _split(F.linear(means, w_q * scale)[None], self.heads),
            _split(F.linear(means, w_k)[None], self.heads),
        )
        q = F.linear(x[pad : pad + 1] if first else x, w_q * scale)
        k, v = F.linear(x, torch.cat([w_k, w_v])).chunk(2, dim=1)
        return (*(_split(t[None], self.heads) for t in (q, k, v)), q_land, k_land, pad)  # type: ignore[return-value]

    # -- bags of at most as many rows as landmarks, many at a time
    # ----------------------------------------------------------

    def short(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Attend within each of B bags of at most `landmarks` rows.

        Args:
            x: ``(B, T, dim)``, bags padded at the end to T rows.
            lengths: ``(B,)`` rows that are real.

        Returns:
            ``(B, T, dim)``; rows beyond a bag's length hold no meaning.
        """
        q, k, v, valid = self._heads_of_short(x, lengths)
        a, start = self._quotient(q, k, valid, lengths)
        # All three factors of the attention are A here, and A pinv(A) is the iterate Y itself. The zero rows' values
        # are zero: their column is left out of A v.
        with torch.autocast(x.device.type, enabled=False):
            mixing = _iterate(a @ start, self.pinv_iterations)[:, :, 1:]
            mixed = (mixing @ (a[..., 1:] @ v.to(a.dtype))).to(v.dtype)
        if self.res_conv is not None:
            mixed = mixed + self._band(v.shape[2], v.shape[2]) @ v
        return self.to_out(_merge(mixed))

    def short_first(self, x: Tensor, lengths: Tensor, weights: bool = False) -> tuple[Tensor, Tensor | None]:
        """Output of the first row alone of each of B bags of at most `landmarks` rows.

        Args:
            x: ``(B, T, dim)``, bags padded at the end to T rows.
            lengths: ``(B,)`` rows that are real.
            weights: also return the first row's weights over the rows, ``(B, T, heads)``.

        Returns:
            ``(B, dim)`` and the weights or None.
        """
        q, k, v, valid = self._heads_of_short(x, lengths)
        a, start = self._quotient(q, k, valid, lengths)
        with torch.autocast(x.device.type, enabled=False):
            y = _iterate(a @ start, self.pinv_iterations - 1)
            row = y[:, :, 1:2]
            if self.pinv_iterations:
                row = (13 * row - (15 * row - (7 * row - row @ y) @ y) @ y) / 4
            row = row @ a[..., 1:]
            mixed = (row @ v.to(row.dtype)).to(v.dtype)
        if self.res_conv is not None:
            mixed = mixed + self._band(1, v.shape[2]) @ v
        found = row[:, :, 0].transpose(1, 2) if weights else None
        return self.to_out(_merge(mixed))[:, 0], found

    def _heads_of_short(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return q, k, v as (B, h, T, d), v zero beyond a bag's end, and which rows are real, (B, T)."""
        valid = torch.arange(x.shape[1], device=x.device) < lengths[:, None]
        q, k, v = (_split(t, self.heads) for t in self.to_qkv(x).chunk(3, dim=-1))
        return q, k, v * valid[:, None, :, None], valid

    def _quotient(self, q: Tensor, k: Tensor, valid: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Return softmax(q k') over the zero and the real rows in the quotient basis, and the pseudo-inverse's start.

        With P zero rows, u_i the weight row i gives one zero key and B the weights among real rows, the matrix is
        ``[[P/m, sqrt(P)/m 1'], [sqrt(P) u, B]]``: (B, h, T + 1, T + 1), zero where a bag has no row.
        """
        with torch.autocast(q.device.type, enabled=False):
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

    # -- the value convolution
    # ------------------------------------------------------------------------------------------------

    def _convolve(self, v: Tensor) -> Tensor:
        """Convolve the values along the rows, block by block of rows: ``(h, T, d) -> (h, T, d)``.

        A product of a banded matrix with overlapping windows instead of a depthwise convolution: oneDNN's kernel for
        the latter returns wrong weight gradients in fp32 for some lengths (torch 2.13, CPU; 48 % off for two non-zero
        rows at the end of 256), and is no faster. The zero rows before a bag are the convolution's own zero padding.
        """
        heads, rows, width = v.shape
        blocks = -(-rows // BLOCK)
        padded = F.pad(v, (0, 0, CONV // 2, blocks * BLOCK - rows + CONV // 2))
        windows = (
            padded.unfold(1, BLOCK + CONV - 1, BLOCK)
            .permute(0, 3, 1, 2)
            .reshape(heads, BLOCK + CONV - 1, blocks * width)
        )
        out = torch.bmm(self._band(BLOCK, BLOCK + CONV - 1, 0).to(v.dtype), windows)
        return out.view(heads, BLOCK, blocks, width).transpose(1, 2).reshape(heads, blocks * BLOCK, width)[:, :rows]

    def _band(self, rows: int, columns: int, center: int = CONV // 2) -> Tensor:
        """The convolution as a banded matrix, ``(h, rows, columns)``: entry (i, j) weighs value j for output i."""
        assert self.res_conv is not None
        weight = self.res_conv.weight[:, 0, :, 0]
        at = torch.arange(columns, device=weight.device) - torch.arange(rows, device=weight.device)[:, None] + center
        return weight[:, at.clamp(0, CONV - 1)] * ((at >= 0) & (at < CONV))


def _split(x: Tensor, heads: int) -> Tensor:
    """(B, T, h d) -> (B, h, T, d)."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def _merge(x: Tensor) -> Tensor:
    """(B, h, T, d) -> (B, T, h d)."""
    return x.transpose(1, 2).flatten(2)


def _softmax_scores(q: Tensor, k: Tensor) -> Tensor:
    """softmax(q k'), q scaled already, in fp32 at least: this is the matrix that is inverted."""
    wide = torch.promote_types(q.dtype, torch.float32)
    with torch.autocast(q.device.type, enabled=False):
        return torch.softmax(q.to(wide) @ k.to(wide).transpose(-1, -2), dim=-1)


def _start(a: Tensor) -> Tensor:
    """Z0 = A' / (largest column sum x largest row sum), the maxima over the heads of each bag; rows of A sum to 1."""
    return a.transpose(-1, -2) / a.sum(dim=-2).amax(dim=(-1, -2))[..., None, None, None]


class _Step(torch.autograd.Function):
    """Y -> Y (13 - 15 Y + 7 Y^2 - Y^3) / 4 with S = Y^2 as (13 Y - 15 S + S (7 Y - S)) / 4: two products, four
    backward.

    Written out because scaling and adding inside the products (`baddbmm`) saves more than half of the passes over
    memory that automatic differentiation makes, and small matrices are bound by those.
    """

    @staticmethod
    def forward(ctx: Any, y: Tensor) -> Tensor:
        square = torch.bmm(y, y)
        rest = torch.sub(7 * y, square)
        ctx.save_for_backward(y, square, rest)
        return torch.baddbmm(torch.sub(13 / 15 * y, square), square, rest, beta=15 / 4, alpha=1 / 4)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        y, square, rest = ctx.saved_tensors
        to_rest = torch.bmm(square.mT, grad)  # 4 x gradient of (7 Y - S)
        to_square = torch.baddbmm(torch.add(to_rest, grad, alpha=15), grad, rest.mT, beta=-1 / 4, alpha=1 / 4)
        direct = torch.add(to_rest, grad, alpha=13 / 7)
        out = torch.baddbmm(direct, to_square, y.mT, beta=7 / 4)
        return out.baddbmm_(y.mT, to_square)


def _iterate(y: Tensor, steps: int) -> Tensor:
    """Take `steps` steps of the pseudo-inverse iteration on Y = A Z, ``(B, h, m, m)``: Y becomes A pinv(A)."""
    shape = y.shape
    y = y.flatten(0, 1)
    for _ in range(steps):
        y = _Step.apply(y)
    return y.view(shape)


def _polynomials(a: Tensor, start: Tensor, iterations: int) -> list[Tensor]:
    """Return Y_0 .. Y_{iterations - 1}, Y_0 = A Z_0."""
    ys = [a @ start]
    for _ in range(iterations - 1):
        ys.append(_iterate(ys[-1], 1))
    return ys


def _pinv_times(a: Tensor, start: Tensor, b: Tensor, iterations: int) -> Tensor:
    """pinv(A) b = Z_0 p(Y_0) .. p(Y_k) b, in fp32 at least; ``b`` is (.., m, d)."""
    with torch.autocast(a.device.type, enabled=False):
        for y in reversed(_polynomials(a, start, iterations)) if iterations else ():
            b = (13 * b - y @ (15 * b - y @ (7 * b - y @ b))) / 4
        return start @ b


def _row_times_pinv(row: Tensor, a: Tensor, start: Tensor, iterations: int) -> Tensor:
    """row pinv(A) = row Z_0 p(Y_0) .. p(Y_k); ``row`` is (.., 1, m)."""
    with torch.autocast(a.device.type, enabled=False):
        row = row @ start
        for y in _polynomials(a, start, iterations) if iterations else ():
            row = (13 * row - (15 * row - (7 * row - row @ y) @ y) @ y) / 4
        return row
