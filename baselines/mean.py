"""Mean pooling: the average of the features, then a linear head. The baseline every method must beat."""

from __future__ import annotations

import torch
from torch import nn

from milbench.aggregator import Aggregator
from milbench.bags import BagOutput, Bags
from milbench.config import Card, Recipe
from milbench.nn import segment_mean


class MeanPooling(Aggregator):
    """Y = W mean_i(x_i) + b: one pass over the features, since the linear head commutes with the mean.

    Attention is 1/n for every instance of a bag of n.

    Args:
        in_dim: width of the instance features.
        n_classes: number of classes; one logit a class.
    """

    card = Card(
        title="Mean pooling",
        family="iid",
        citation="X. Wang, Y. Yan, P. Tang, X. Bai, W. Liu. Revisiting multiple instance neural networks. "
        "Pattern Recognition 2018.",
        url="https://arxiv.org/abs/1610.02501",
        licence="written here, MIT",
        deviations=("features are pooled as they are, without a trained embedding before the mean",),
    )
    recipe = Recipe(optimizer="adam", lr=2e-4, weight_decay=1e-5, epochs=50, patience=10)
    stackable = True

    def __init__(self, in_dim: int, n_classes: int) -> None:
        super().__init__(in_dim, n_classes)
        self.head = nn.Linear(in_dim, n_classes)

    def pool(self, bags: Bags, attention: bool) -> BagOutput:
        """Average, then classify."""
        mean = segment_mean(bags.x, bags)
        shares = None
        if attention:
            lengths = (bags.ptr[1:] - bags.ptr[:-1]).to(torch.float32)
            shares = (1 / lengths)[bags.index][:, None]
        return BagOutput(self.head(mean.to(self.head.weight.dtype)), shares, mean)

    def flop_terms(self, n: int) -> tuple[str, tuple[int, ...]]:
        """The head alone has products."""
        return "", ()

    def matrix_flops(self, n: int) -> int:
        """The head alone: pooling itself has no product."""
        return 2 * self.in_dim * self.n_classes
