"""The attention score of ABMIL, shared by ABMIL and CLAM."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .matrix_products import Linear, activates, joint_linear, linear_then

CHUNK = 2048  # rows scored at once on CPU without gradient


class AttentionScore(nn.Module):
    """Score instances: w' tanh(V x), or gated w' (tanh(V x) * sigm(U x)) (Ilse et al. 2018, equations 8 and 9).

    Args:
        in_dim: width of the instances.
        hidden: width L of the attention space.
        heads: number h of scores an instance.
        gated: use the gating branch U.
        dropout: on both branches, as CLAM does.
    """

    def __init__(self, in_dim: int, hidden: int, heads: int = 1, gated: bool = False, dropout: float = 0.0) -> None:
        super().__init__()
        self.v = Linear(in_dim, hidden)
        self.u = Linear(in_dim, hidden) if gated else None
        self.w = Linear(hidden, heads)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Return unnormalised scores: ``(N, d) -> (N, h)``."""
        if x.device.type == "cpu" and not torch.is_grad_enabled() and len(x) > 2 * CHUNK:
            # The hidden layer of a chunk stays in the cache and in the heap; the whole one would go through memory.
            return torch.cat([self._score(rows) for rows in x.split(CHUNK)])
        return self._score(x)

    def _score(self, x: Tensor) -> Tensor:
        if self.u is None:
            h = linear_then(x, self.v.weight, self.v.bias, "tanh") if activates(x) else tanh(self.v(x))
            return self.w(self.dropout(h))
        to_tanh, to_gate = joint_linear(x, (self.v, self.u)).chunk(2, dim=-1)
        return self.w(self.dropout(tanh(to_tanh)) * self.dropout(torch.sigmoid(to_gate)))


def tanh(x: Tensor) -> Tensor:
    """tanh x, in fp32 on CPU as 2 sigm(2x) - 1: faster there, and within 2e-7 of it.

    That is absolute, which is what a score or a likeness needs; half precision would lose digits around 0.
    """
    if x.dtype == torch.float32 and x.device.type == "cpu":
        if torch.is_grad_enabled():
            return torch.sigmoid(2 * x) * 2 - 1
        return (2 * x).sigmoid_().mul_(2).sub_(1)
    return torch.tanh(x)
