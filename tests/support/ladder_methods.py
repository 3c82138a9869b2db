"""Methods whose cost is known in closed form, for ``milbench measure``. Named as ``support.ladder_methods:X``."""

import torch
from torch import nn

from milbench.bags import BagOutput, Bags

from .odd_methods import Plain

LADDER = "support.ladder_methods:"
MIB = 1 << 20


class Linear(Plain):
    """One product a instance: 2 n d 4 operations, and 2 * 4 * classes of the head."""

    def __init__(self, in_dim: int, n_classes: int) -> None:
        super().__init__(in_dim, n_classes)
        self.embed = nn.Linear(in_dim, 4)
        self.head = nn.Linear(4, n_classes)

    def pool(self, bags: Bags, attention: bool) -> BagOutput:
        return BagOutput(self.head(torch.stack([self.embed(x).mean(dim=0) for x in bags.x.split(list(bags.lengths))])))


class Quadratic(Plain):
    """Every instance with every other: 2 n^2 d operations, and those of the head."""

    def pool(self, bags: Bags, attention: bool) -> BagOutput:
        bag_means = [(x @ x.T).mean() + x.mean(dim=0) for x in bags.x.split(list(bags.lengths))]
        return BagOutput(self.head(torch.stack(bag_means)))


class ClosedForm(Linear):
    """Says itself how many operations nobody avoids."""

    def matrix_flops(self, n: int) -> int | None:
        return 1000 * n + 7


class NoClosedForm(Linear):
    def matrix_flops(self, n: int) -> int | None:
        return None


class Takes(Plain):
    """Takes a MiB an instance for a moment."""

    def strange(self, bags: Bags) -> None:
        torch.ones(bags.x.shape[0] * MIB, dtype=torch.uint8)
