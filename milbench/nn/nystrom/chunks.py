"""Common parts of the two streamed Nystrom layers: rows in chunks that stay in the cache, their norm, their landmarks.

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

from ..autocast import product_dtype

#: rows of one chunk by device type
CHUNK = {"cpu": 1024, "cuda": 8192}

#: sums of exponentials that are safe from the ends of fp32's range, products with the values included
SMALLEST, LARGEST = 1e-20, 1e20


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
        grad: whether gradients are wanted (inside a Function's forward torch no longer says).
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
        each = -(-len(h) // landmarks)
        return cls(len(h), heads, landmarks, each, landmarks * each - len(h), product_dtype(h), eps,
                   CHUNK.get(h.device.type, 4096), torch.is_grad_enabled())  # fmt: skip

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


class Rows:
    """The normalised rows of a bag in the dtype of the products, and the landmarks' means of them.

    In half precision they are kept from the walk for the means on, in as much memory as fp32 would take for less;
    otherwise they are computed at every walk.

    Attributes:
        means: average of every landmark's rows, zero rows in front included, ``(m, dim)``, in the dtype of ``h``.
    """

    def __init__(self, h: Tensor, norm: Norm, plan: Plan) -> None:
        self.h, self.norm, self.plan = h, norm, plan
        self.kept = None if plan.dtype == h.dtype else torch.empty_like(h, dtype=plan.dtype)
        self.means = self._walk()

    def __call__(self, begin: int, end: int) -> Tensor:
        """Rows begin .. end."""
        return self.norm(self.h[begin:end], self.plan) if self.kept is None else self.kept[begin:end]

    def _walk(self) -> Tensor:
        plan, means = self.plan, self.h.new_zeros(self.plan.landmarks, self.h.shape[1])
        step = max(1, plan.chunk // plan.each)
        for first in range(0, plan.landmarks, step):
            last = min(plan.landmarks, first + step)
            begin, end = first * plan.each - plan.pad, last * plan.each - plan.pad
            if end <= 0:
                continue
            x = self.norm(self.h[max(0, begin) : end], plan)
            if self.kept is not None:
                self.kept[max(0, begin) : end] = x
            if begin < 0:
                x = F.pad(x, (0, 0, -begin, 0))
            torch.mean(x.view(last - first, plan.each, -1), dim=1, out=means[first:last])
        return means


def rows_of_means(grad: Tensor, begin: int, end: int, plan: Plan) -> Tensor:
    """Gradient at rows begin .. end of ``grad`` (m, dim) at the landmark means."""
    which = torch.arange(begin + plan.pad, end + plan.pad, device=grad.device) // plan.each
    return grad[which] / plan.each


def chunk_weights(scores: Tensor, again: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Softmax weights over a chunk of rows before the sum over all rows is known.

    Args:
        scores: ``(h, m, C)``, may be overwritten.
        again: the offset of an earlier call with the same scores, whose log-sum is not wanted any more.

    Returns:
        weights ``(h, m, C)``, offset and log-sum ``(h, m, 1)``, fp32 at least: with L the log-sum over all rows, the
        chunk's part of the softmax is weights * exp(offset - L).

    The fused softmax is several times faster than exponentials of one's own; the sum is read off where it is best
    known: at the largest score, whose share is 1 / sum exp(score - largest). Not so for bfloat16 on CPU, whose
    exponential is cheap, and which has the range of fp32: there the weights are exp(score), unless they run out of it.
    """
    if scores.dtype == torch.bfloat16 and scores.device.type == "cpu":
        if again is None:
            weights = torch.exp(scores)
            total = _sums(weights)
            if bool(((total > SMALLEST) & (total < LARGEST)).all()):
                return weights, torch.zeros_like(total), total.log_()
        elif not again.any():
            return scores.exp_(), again, again
    if again is not None:
        return torch.softmax(scores, dim=-1, out=scores), again, again
    wider = wide(scores)
    largest = wider.amax(dim=-1, keepdim=True)
    share = torch.softmax(wider, dim=-1, out=wider)  # in place: half as much of the cache
    lse = largest - share.amax(dim=-1, keepdim=True).log_()
    return share.to(scores.dtype), lse, lse


def _sums(weights: Tensor) -> Tensor:
    """Sum over the last dimension in fp32: ``(h, m, C) -> (h, m, 1)``.

    Sums of 128 are made in fp32 and rounded once, to the dtype of the weights, and those are summed in fp32: a sum
    requested in another dtype than its terms' costs many times as much on CPU.
    """
    whole = weights.shape[-1] // 128 * 128
    rest = weights[..., whole:].sum(dim=-1, keepdim=True).float()
    return rest.add_(weights[..., :whole].unflatten(-1, (-1, 128)).sum(dim=-1).float().sum(dim=-1, keepdim=True))


def wide(x: Tensor) -> Tensor:
    """Half precision to fp32; wider dtypes as they are."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def add_into(out: Tensor, x: Tensor, y: Tensor) -> None:
    """out = x + y, where out may be x itself: in place then, which is several times faster than naming it as `out`."""
    if out.data_ptr() == x.data_ptr():
        out.add_(y)
    else:
        torch.add(x, y, out=out)


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
