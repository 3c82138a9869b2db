"""The attention score of ABMIL, shared by ABMIL and CLAM."""

from __future__ import annotations

import torch
from torch import Tensor, nn


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
        self.v = nn.Linear(in_dim, hidden)
        self.u = nn.Linear(in_dim, hidden) if gated else None
        self.w = nn.Linear(hidden, heads)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Return unnormalised scores: ``(N, d) -> (N, h)``."""
        hidden = self.dropout(torch.tanh(self.v(x)))
        if self.u is not None:
            hidden = hidden * self.dropout(torch.sigmoid(self.u(x)))
        return self.w(hidden)
