"""The authors' forms as milbench methods, for ``milbench measure --against authors``; none of them is registered."""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn

from milbench.aggregator import Aggregator
from milbench.bags import BagOutput, Bags
from milbench.config import Card
from milbench.errors import MilbenchError
from milbench.registry import resolve

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
        deviations=(
            "with layers=1 PPEG is applied before the layer, as in milbench's",
            "readout=mean, square=zeros and order=raster are milbench's",
        ),
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
        readout: Literal["class", "mean"] = "class",
        square: Literal["repeat", "zeros"] = "repeat",
        order: Literal["storage", "raster"] = "storage",
    ) -> None:
        super().__init__(in_dim, n_classes)
        self.order = order
        self.permutation_invariant = order == "raster"
        with torch.device("meta"):  # for its shapes; in a list, so that it is no part of this model
            self.function = [
                _ours(
                    in_dim, n_classes, ppeg=ppeg, layers=layers, heads=heads, landmarks=landmarks,
                    pinv_iterations=pinv_iterations, value_conv=value_conv, dim=dim, dropout=dropout,
                    readout=readout, square=square, order=order,
                )
            ]  # fmt: skip
        self.plain: nn.Module = Plain(
            in_dim, n_classes, ppeg=ppeg, layers=layers, heads=heads, landmarks=landmarks,
            pinv_iterations=pinv_iterations, value_conv=value_conv, dim=dim, dropout=dropout, readout=readout,
            square=square, order=order,
        )  # fmt: skip

    def matrix_flops(self, n: int) -> int | None:
        """As ours: the function is the same, and so are its mandatory operations."""
        return self.function[0].matrix_flops(n)

    def pool(self, bags: Bags, attention: bool) -> BagOutput:
        if self.order == "raster" and bags.coords is None:
            raise MilbenchError("order=raster sorts rows by their coordinates and these bags have none; leave it out.")
        places = [None] * len(bags) if bags.coords is None else bags.coords.split(list(bags.lengths))
        xs = bags.x.split(list(bags.lengths))
        return BagOutput(torch.cat([self.plain(x, at) for x, at in zip(xs, places, strict=True)]))
