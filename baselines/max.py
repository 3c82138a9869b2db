"""Max pooling: the largest value of each feature over the bag, then a linear head."""

from __future__ import annotations

from torch import nn

from milbench.aggregator import Aggregator
from milbench.bags import BagOutput, Bags
from milbench.config import Card, Recipe
from milbench.nn import segment_max, segment_sum


class MaxPooling(Aggregator):
    """Y = W max_i(x_i) + b with the maximum taken feature by feature (embedding level).

    Attention is the share of the d features whose maximum an instance holds.

    Args:
        in_dim: width of the instance features.
        n_classes: number of classes; one logit a class.
    """

    card = Card(
        title="Max pooling",
        family="iid",
        citation="X. Wang, Y. Yan, P. Tang, X. Bai, W. Liu. Revisiting multiple instance neural networks. "
        "Pattern Recognition 2018.",
        url="https://arxiv.org/abs/1610.02501",
        licence="written here, MIT",
        deviations=("features are pooled as they are, without a trained embedding before the maximum",),
    )
    recipe = Recipe(optimizer="adam", lr=2e-4, weight_decay=1e-5, epochs=50, patience=10)
    stackable = True

    def __init__(self, in_dim: int, n_classes: int) -> None:
        super().__init__(in_dim, n_classes)
        self.head = nn.Linear(in_dim, n_classes)

    def pool(self, bags: Bags, attention: bool) -> BagOutput:
        """Take the maximum, then classify."""
        largest = segment_max(bags.x, bags)
        shares = None
        if attention:
            holds = (bags.x.detach() == largest.detach()[bags.index]).float()
            shares = (holds / segment_sum(holds, bags)[bags.index]).mean(dim=1, keepdim=True)
        return BagOutput(self.head(largest), shares, largest)

    def flop_terms(self, n: int) -> tuple[str, tuple[int, ...]]:
        """The head alone has products."""
        return "", ()

    def matrix_flops(self, n: int) -> int:
        """The head alone: pooling itself has no product."""
        return 2 * self.in_dim * self.n_classes
