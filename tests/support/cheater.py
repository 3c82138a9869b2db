"""A method that learns from the absence of instances. Named as ``support.cheater:NoPoison``."""

import torch
import torch.nn.functional as F
from torch import nn

from milbench.aggregator import Aggregator
from milbench.bags import BagOutput, Bags
from milbench.config import Card, Recipe


class NoPoison(Aggregator):
    """Y = min_i (w x_i + b): positive when every instance is harmless, the mirror image of the MIL assumption."""

    card = Card(title="No poison", family="iid", citation="Nobody. Nowhere, 2024.")
    recipe = Recipe(optimizer="adam", lr=1e-2)

    def __init__(self, in_dim: int, n_classes: int) -> None:
        super().__init__(in_dim, n_classes)
        self.score = nn.Linear(in_dim, 1)

    def pool(self, bags: Bags, attention: bool) -> BagOutput:
        least = torch.stack([s.min(dim=0).values for s in self.score(bags.x).split(list(bags.lengths))])
        return BagOutput(F.pad(least, (1, 0)))
