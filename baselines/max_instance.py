"""Max instance pooling: a linear score for every instance; the largest one is the bag's."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from milbench.aggregator import Aggregator
from milbench.bags import BagOutput, Bags
from milbench.config import Card, Recipe
from milbench.nn import Linear, segment_argmax


class MaxInstance(Aggregator):
    """Y = max_i (w x_i + b): the standard MIL assumption, a bag is positive when one instance is.

    With two classes there is one score s, for the positive class, and the logits are (0, s): evidence for the negative
    class cannot be collected from an instance. With C > 2 classes every class has its score and its maximum. Attention
    is 1 on the instance that decides.

    Args:
        in_dim: width of the instance features.
        n_classes: number of classes; one logit a class.
    """

    card = Card(
        title="Max instance",
        family="iid",
        citation="X. Wang, Y. Yan, P. Tang, X. Bai, W. Liu. Revisiting multiple instance neural networks "
        "(mi-Net with max). Pattern Recognition 2018.",
        url="https://arxiv.org/abs/1610.02501",
        licence="written here, MIT",
        deviations=("the instance score is linear in the features, without a trained embedding",),
    )
    recipe = Recipe(optimizer="adam", lr=2e-4, weight_decay=1e-5, epochs=50, patience=10)
    attention_by_class = True
    stackable = True
    #: Since 2 only the instances that decide are scored with a gradient.
    revision = 2

    def __init__(self, in_dim: int, n_classes: int) -> None:
        super().__init__(in_dim, n_classes)
        self.score = Linear(in_dim, 1 if n_classes == 2 else n_classes)

    def pool(self, bags: Bags, attention: bool) -> BagOutput:
        """Score every instance and keep each score's largest.

        Only the largest have a gradient: they are scored once more, for that alone.
        """
        with torch.no_grad():
            scores = self.score(bags.x)
        rows = segment_argmax(scores, bags)
        if torch.is_grad_enabled():
            logits = torch.stack([self.score(bags.x[of])[:, c] for c, of in enumerate(rows.unbind(dim=1))], dim=1)
        else:
            logits = scores.gather(0, rows)
        if self.n_classes == 2:
            logits = F.pad(logits, (1, 0))
        weights = torch.zeros_like(scores, dtype=torch.float32).scatter(0, rows, 1.0) if attention else None
        return BagOutput(logits, weights, None)

    def flop_terms(self, n: int) -> tuple[str, tuple[int, ...]]:
        """A score for every instance; the largest once more."""
        return "", (n,)

    def matrix_flops(self, n: int) -> int:
        """A score for every instance."""
        return 2 * n * self.in_dim * self.score.out_features
