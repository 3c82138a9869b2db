"""Nystrom attention of bags of more rows than landmarks, many small bags at a time, padded.

The function is that of `milbench.nn.nystrom.streamed`, bag by bag; only its cost differs. A bag of a few
hundred rows is too small for streaming over chunks to pay, and launches are all its cost: here a batch of them is one
sequence of batched products with automatic differentiation. The zero rows that Nystrom attention puts in front of a bag
are one row here, whose score of 0 gets log(their number) added; landmarks are means of rows, so a matrix of ones that
are shared out among each landmark's rows makes them, for bags of different lengths in one product.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..autocast import without_autocast
from ..matrix_products import linear
from .pinv import pinv_times, row_times_pinv, softmax_scores
from .value_conv import REACH, band

#: numbers in the largest matrix of one bag, heads x rows x (landmarks, or rows in the value convolution's band), beyond
#: which streaming costs less than a place in a batch; and in those of one batch
BAG, BATCH = 1 << 19, 1 << 21


def room(rows: int, heads: int, landmarks: int) -> int:
    """How many bags of so many rows a batch should hold; 0 where they are better taken one by one."""
    numbers = heads * rows * max(landmarks, rows)
    return BATCH // numbers if numbers <= BAG else 0


class Rows:
    """Queries, keys and landmarks of B bags, each of more rows than landmarks.

    Args:
        x: ``(B, T, dim)``, normalised rows, bags padded at the end to T rows by anything finite.
        lengths: ``(B,)`` rows that are real, each above ``landmarks``.
        w_qkv: ``(3 dim, dim)``.
        heads: number h of heads, of width d.
        landmarks: number m.
    """

    def __init__(self, x: Tensor, lengths: Tensor, w_qkv: Tensor, heads: int, landmarks: int) -> None:
        self.heads, self.w_q, self.w_k, self.w_v = heads, *w_qkv.chunk(3)
        at = torch.arange(x.shape[1], device=x.device)
        self.valid = at < lengths[:, None]
        self.x = x.masked_fill(~self.valid[..., None], 0)
        each = -(-lengths // landmarks)  # rows of a landmark
        zeros = each * landmarks - lengths
        landmark = (at + zeros[:, None]) // each[:, None]
        wide = torch.promote_types(x.dtype, torch.float32)
        own = landmark[:, None] == torch.arange(landmarks, device=x.device)[:, None]
        share = (own & self.valid[:, None]).to(wide) / each[:, None, None]
        with without_autocast(x):
            means = share @ self.x.to(wide)  # (B, m, dim)
            of_landmarks = means @ torch.cat([self.w_q * self.scale, self.w_k]).to(wide).T
            self.q_land, self.k_land = (self.split(t) for t in of_landmarks.chunk(2, dim=-1))
            bias = torch.where(self.valid, 0.0, -torch.inf).to(wide)
            self.bias = torch.cat([zeros.to(wide).log()[:, None], bias], dim=1)[:, None, None]

    @property
    def scale(self) -> float:
        """Of the queries."""
        return float((self.w_q.shape[0] // self.heads) ** -0.5)

    def split(self, x: Tensor) -> Tensor:
        """(B, T, h d) -> (B, h, T, d)."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def project(self, weight: Tensor) -> Tensor:
        """Each head's projection of the rows, ``(B, h, T, d)``."""
        return self.split(linear(self.x.flatten(0, 1), weight).unflatten(0, self.x.shape[:2]))

    def pooled(self, k: Tensor) -> Tensor:
        """softmax(q_l k') over the zero rows and the real ones, of which the latter are returned: (B, h, m, T)."""
        scores = self.q_land @ k.to(self.q_land.dtype).mT
        return torch.softmax(F.pad(scores, (1, 0)) + self.bias, dim=-1)[..., 1:]

    def core(self) -> Tensor:
        """softmax(q_l k_l'), ``(B, h, m, m)``."""
        return softmax_scores(self.q_land, self.k_land)


def attend(rows: Rows, conv: Tensor | None, iterations: int) -> Tensor:
    """Attend within each bag; ``conv`` is (h, 33) or None.

    Returns:
        ``(B, T, dim)``, heads next to each other, before the output projection; rows beyond a bag's length hold no
        meaning.
    """
    q, k, v = (rows.project(w) for w in (rows.w_q, rows.w_k, rows.w_v))
    with without_autocast(rows.x):
        wide = rows.q_land.dtype
        spread = pinv_times(rows.core(), rows.pooled(k) @ v.to(wide), iterations)
        mixed = (softmax_scores(q.to(wide) * rows.scale, rows.k_land) @ spread).to(v.dtype)
    if conv is not None:
        mixed = mixed + band(conv, v.shape[2], v.shape[2]) @ v
    return mixed.transpose(1, 2).flatten(2)


def attend_first(rows: Rows, conv: Tensor | None, iterations: int) -> tuple[Tensor, Tensor]:
    """As `attend`, of each bag's first row alone.

    Returns:
        ``(B, dim)`` before the output projection, and the first row's weights over the rows, ``(B, T, h)``.
    """
    k = rows.project(rows.w_k)
    first = rows.x[:, : REACH + 1]
    with without_autocast(rows.x):
        wide = rows.q_land.dtype
        q = rows.split(first[:, :1].to(wide) @ rows.w_q.to(wide).T) * rows.scale
        row = row_times_pinv(softmax_scores(q, rows.k_land), rows.core(), iterations) @ rows.pooled(k)
        # The row's weights meet the rows before the projection: values of no other row are made.
        mixture = (row[:, :, 0] @ rows.x.to(wide)).transpose(0, 1)  # (h, B, dim)
        mixed = torch.bmm(mixture, rows.w_v.to(wide).unflatten(0, (rows.heads, -1)).mT).transpose(0, 1)
        if conv is not None:
            v = rows.split(first.to(wide) @ rows.w_v.to(wide).T)
            mixed = mixed + (band(conv.to(wide), 1, v.shape[2]) @ v)[:, :, 0]
    return mixed.flatten(1).to(rows.w_v.dtype), row[:, :, 0].transpose(1, 2)
