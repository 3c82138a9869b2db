"""The authors' forms as milbench methods, for ``milbench measure --against authors``; none of them is registered."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from milbench.aggregator import Aggregator
from milbench.bags import BagOutput, Bags
from milbench.registry import resolve
from milbench.spec import Card

from .transmil import AuthorsTransMIL as Plain

_ours = resolve("transmil").cls


class AuthorsTransMIL(Aggregator):
    """TransMIL as its authors compute it, bag by bag, with TransMIL's recipe."""

    card = Card(
        title="TransMIL (authors' form)",
        family="correlated",
        citation=_ours.card.citation,
        url=_ours.card.url,
        licence="nystrom-attention: MIT; the model around it written from the paper's equations, MIT",
        deviations=("with layers=1 PPEG is applied before the layer, as in milbench's",),
    )
    recipe = _ours.recipe
    permutation_invariant = False

    def __init__(
        self,
        in_dim: int,
        n_classes: int,
        *,
        ppeg: Literal["none", "3", "5", "7", "pyramid"] = "pyramid",
        layers: int = 2,
        heads: int = 8,
        landmarks: int = 256,
        pinv_iterations: int = 6,
        value_conv: bool = True,
        dim: int = 512,
        dropout: float = 0.1,
    ) -> None:
        super().__init__(in_dim, n_classes)
        with torch.device("meta"):  # for its shapes; in a list, so that it is no part of this model
            self.function = [
                _ours(
                    in_dim, n_classes, ppeg=ppeg, layers=layers, heads=heads, landmarks=landmarks,
                    pinv_iterations=pinv_iterations, value_conv=value_conv, dim=dim, dropout=dropout,
                )
            ]  # fmt: skip
        self.plain: nn.Module = Plain(
            in_dim, n_classes, ppeg=ppeg, layers=layers, heads=heads, landmarks=landmarks,
            pinv_iterations=pinv_iterations, value_conv=value_conv, dim=dim, dropout=dropout,
        )  # fmt: skip

    def matrix_flops(self, n: int) -> int | None:
        """As ours: the function is the same, and so is what it cannot do without."""
        return self.function[0].matrix_flops(n)

    def pool(self, bags: Bags, attention: bool) -> BagOutput:
        return BagOutput(torch.cat([self.plain(x) for x in bags.x.split(list(bags.lengths))]))
