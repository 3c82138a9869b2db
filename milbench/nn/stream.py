"""What the two streamed Nystrom layers share: rows in chunks that stay in the cache, their norm, and their landmarks.

A layer on a bag of T tokens walks over them in chunks and holds a few (T, dim) buffers, never a (T, m) one. The chunk
is chosen so that the scores of a chunk against all landmarks stay in the processor's last cache (CPU) or fill the
device (CUDA): buffers of that size are also taken from the heap again and again instead of from the kernel, which on
CPU would cost more than the products themselves.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

#: rows of one chunk by device type
CHUNK = {"cpu": 1024, "cuda": 8192}


@dataclass(frozen=True)
class Plan:
    """Sizes of one bag in one layer.

    Attributes:
        rows: T, the bag's tokens.
        heads: h.
        landmarks: m.
        each: padded rows a landmark averages, ceil(T / m).
        pad: zero rows in front, m * each - T.
        dtype: of the products with rows (the autocast dtype where there is one).
        eps: of the layer norm.
        chunk: rows of one chunk.
        grad: whether gradients are wanted (inside a Function's forward it can no longer be asked).
    """

    rows: int
    heads: int
    landmarks: int
    each: int
    pad: int
    dtype: torch.dtype
    eps: float
    chunk: int
    grad: bool

    @classmethod
    def of(cls, h: Tensor, heads: int, landmarks: int, eps: float) -> Plan:
        """Plan for ``(T, dim)`` tokens under the autocast state of now."""
        kind = h.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else h.dtype
        each = -(-len(h) // landmarks)
        return cls(len(h), heads, landmarks, each, landmarks * each - len(h), dtype, eps, CHUNK.get(kind, 4096),
                   torch.is_grad_enabled())  # fmt: skip

    def chunks(self) -> Iterator[tuple[int, int]]:
        """Yield (begin, end) of every chunk of rows."""
        for begin in range(0, self.rows, self.chunk):
            yield begin, min(self.rows, begin + self.chunk)

    def split(self, x: Tensor) -> Tensor:
        """(n, h d) -> (h, n, d), a view."""
        return x.unflatten(-1, (self.heads, -1)).transpose(0, 1)

    def merge(self, x: Tensor) -> Tensor:
        """(h, n, d) -> (n, h d)."""
        return x.transpose(0, 1).flatten(1)


@dataclass(frozen=True)
class Norm:
    """A layer norm's ``(dim,)`` weight and bias, or the identity when they are None."""

    weight: Tensor | None
    bias: Tensor | None

    def __call__(self, h: Tensor, plan: Plan) -> Tensor:
        """Normalise rows, in their own dtype."""
        if self.weight is None:
            return h
        return F.layer_norm(h, h.shape[1:], self.weight, self.bias, plan.eps)

    def backward(self, grad: Tensor, h: Tensor, plan: Plan, sums: tuple[Tensor, Tensor] | None) -> Tensor:
        """Return the gradient at rows ``h`` of ``grad`` at their norm, and add those of weight and bias to `sums`."""
        if self.weight is None or sums is None:
            return grad
        _, mean, inverse = torch.native_layer_norm(h, h.shape[1:], self.weight, self.bias, plan.eps)
        out, weight, bias = torch.ops.aten.native_layer_norm_backward(
            grad, h, h.shape[1:], mean, inverse, self.weight, self.bias, [True, True, True]
        )
        sums[0].add_(weight)
        sums[1].add_(bias)
        return out


def borrowed(spare: Tensor, plan: Plan) -> Tensor:
    """The memory of a ``(T, dim)`` buffer as one of the products' dtype."""
    if spare.dtype == plan.dtype:
        return spare
    return spare.view(-1).view(plan.dtype)[: spare.numel()].view(spare.shape)


def landmark_means(h: Tensor, norm: Norm, plan: Plan) -> Tensor:
    """Average the normalised rows of every landmark, zero rows in front included: ``(T, dim) -> (m, dim)``."""
    means = h.new_zeros(plan.landmarks, h.shape[1])
    step = max(1, plan.chunk // plan.each)
    for first in range(0, plan.landmarks, step):
        last = min(plan.landmarks, first + step)
        begin, end = first * plan.each - plan.pad, last * plan.each - plan.pad
        if end <= 0:
            continue
        x = norm(h[max(0, begin) : end], plan)
        if begin < 0:
            x = F.pad(x, (0, 0, -begin, 0))
        torch.mean(x.view(last - first, plan.each, -1), dim=1, out=means[first:last])
    return means


def rows_of_means(grad: Tensor, begin: int, end: int, plan: Plan) -> Tensor:
    """Gradient at rows begin .. end of ``grad`` (m, dim) at the landmark means."""
    which = torch.arange(begin + plan.pad, end + plan.pad, device=grad.device) // plan.each
    return grad[which] / plan.each


def chunk_softmax(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Softmax over a chunk of rows alone, and the log of its sum: ``(h, m, C) -> (h, m, C), (h, m, 1)``.

    The fused softmax is several times faster than exponentials of one's own; the sum is read off where it is best
    known: at the largest score, whose share is 1 / sum exp(score - largest).
    """
    share = torch.softmax(scores, dim=-1)
    return share, scores.amax(dim=-1, keepdim=True) - share.amax(dim=-1, keepdim=True).log_()


def wide(x: Tensor) -> Tensor:
    """Half precision to fp32; wider dtypes as they are."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def lse_of_padding(q: Tensor, plan: Plan) -> Tensor:
    """Log of the softmax's sum before the first row: the zero rows in front have scores 0, ``(h, m, 1)``."""
    zeros = math.log(plan.pad) if plan.pad else -torch.inf
    return torch.full((plan.heads, plan.landmarks, 1), zeros, dtype=q.dtype, device=q.device)


class Dropout:
    """Which elements of ``(rows, dim)`` are kept, drawn once; the same map takes values forward and gradients back.

    16 bits decide an element, so p is met to 8e-6: four elements a draw of the generator, which on CPU is what
    dropout's time goes to.

    Attributes:
        keep: booleans, or None when p is 0.
        factor: by which what is kept grows, so that the mean stays.
    """

    def __init__(self, keep: Tensor | None, factor: float) -> None:
        self.keep = keep
        self.factor = factor

    @classmethod
    def draw(cls, rows: int, dim: int, p: float, device: torch.device) -> Dropout:
        """Draw from the device's generator."""
        dropped = round(p * 65536)
        if dropped == 0:
            return cls(None, 1.0)
        draws = torch.empty(-(-rows * dim // 4), dtype=torch.int64, device=device).random_(-(2**63), None)
        keep = draws.view(torch.int16)[: rows * dim].view(rows, dim) >= dropped - 32768
        return cls(keep, 65536 / (65536 - dropped) if dropped < 65536 else 0.0)

    def __call__(self, y: Tensor, begin: int, end: int) -> Tensor:
        """Drop elements of rows begin .. end."""
        return y if self.keep is None else y * self.keep[begin:end] * self.factor
