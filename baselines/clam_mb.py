"""CLAM-MB: gated attention with an instance-level clustering loss, an attention branch a class (Lu et al. 2021)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from milbench.config import Card, Choice, Float, Recipe

from ._clam import CITATION, DEVIATIONS, WIDTH, CLAMBase


class CLAMMB(CLAMBase):
    """CLAM with one attention branch a class (Lu et al., Nature Biomedical Engineering 2021, Methods).

    h = ReLU(W x) (512), for every class a gated attention and a linear score of its own pooled vector.

    Args:
        in_dim: width of the instance features.
        n_classes: number of classes; one logit a class.
        size: attention width, ``small`` 256 or ``big`` 384.
        k_sample: instances at either end of the attention that the instance loss uses.
        subtyping: classes exclude each other, so the other classes' most attended instances are negatives.
        dropout: after the first layer and in the attention.
    """

    card = Card(title="CLAM-MB", family="iid", citation=CITATION, url="https://arxiv.org/abs/2004.09666",
                licence="authors' code GPL-3.0; written here from the paper, MIT", deviations=DEVIATIONS)  # fmt: skip
    recipe = Recipe(optimizer="adam", lr=2e-4, weight_decay=1e-5, epochs=200, patience=20)
    search_space = {"size": Choice(options=("small", "big")), "dropout": Float(low=0.0, high=0.5)}
    attention_by_class = True

    def __init__(
        self,
        in_dim: int,
        n_classes: int,
        *,
        size: Literal["small", "big"] = "small",
        k_sample: int = 8,
        subtyping: bool = False,
        dropout: float = 0.25,
    ) -> None:
        super().__init__(in_dim, n_classes, n_classes, size, k_sample, subtyping, dropout)
        self.classifiers = nn.ModuleList(nn.Linear(WIDTH, 1) for _ in range(n_classes))

    def bag_logits(self, z: Tensor) -> Tensor:
        """Score every class by its own bag vector: ``(B, C, 512) -> (B, C)``."""
        return torch.cat([score(z[:, c]) for c, score in enumerate(self.classifiers)], dim=1)

    def flop_terms(self, n: int) -> tuple[str, tuple[int, ...]]:
        """Every instance takes the same products."""
        return "", (n,)
