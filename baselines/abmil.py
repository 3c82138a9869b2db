"""ABMIL: attention-based pooling, plain or gated (Ilse et al. 2018)."""

from __future__ import annotations

from itertools import pairwise

from torch import nn

from milbench.aggregator import Aggregator
from milbench.bags import BagOutput, Bags
from milbench.config import Card, Choice, Float, Recipe
from milbench.errors import MilbenchError
from milbench.nn import AttentionScore, Linear, segment_softmax, weighted_sum

L = 128  # width of the attention space in the authors' code


class ABMIL(Aggregator):
    """z = sum_i a_i h_i with a = softmax(w' tanh(V h_i)), gated: w' (tanh(V h_i) * sigm(U h_i)) (equations 7 to 9).

    Two classes have one sigmoid output and binary cross-entropy, as the authors; more have a softmax.

    Args:
        in_dim: width of the instance features.
        n_classes: number of classes.
        embed_dim: width of a ReLU layer before the attention, or widths of several, ``256-128-64``, as the authors use
            on the classical sets; None: attention straight on the features, as in their head.
        gated: the gated attention of equation 9.
        dropout: after every embedding layer.
    """

    card = Card(
        title="ABMIL",
        family="iid",
        citation="M. Ilse, J. M. Tomczak, M. Welling. Attention-based Deep Multiple Instance Learning. ICML 2018.",
        url="https://arxiv.org/abs/1802.04712",
        licence="authors' code MIT; written here from the paper's equations, MIT",
        deviations=(
            "the likelihood is computed from the logit instead of clamping the probability to [1e-5, 1 - 1e-5]: the "
            "same value and gradient inside that range, no vanishing gradient outside",
        ),
    )
    recipe = Recipe(optimizer="adam", lr=5e-4, weight_decay=1e-4, epochs=100, patience=10)
    search_space = {
        "embed_dim": Choice(options=(None, 128, 512)),
        "gated": Choice(options=(False, True)),
        "dropout": Float(low=0.0, high=0.5),
    }
    stackable = True
    #: Since 2 products with the vector of the own bag are added up in another order, in the backward pass.
    revision = 2
    authors_names = {
        "attention.0.": "score.v.",
        "attention.2.": "score.w.",
        "attention_V.0.": "score.v.",
        "attention_U.0.": "score.u.",
        "attention_w.": "score.w.",
        "classifier.0.": "head.",
    }

    def __init__(
        self,
        in_dim: int,
        n_classes: int,
        *,
        embed_dim: int | str | None = None,
        gated: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(in_dim, n_classes)
        widths = [in_dim, *_widths(embed_dim)]
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [Linear(before, after), nn.ReLU(inplace=True), nn.Dropout(dropout)]
        self.embed = nn.Sequential(*layers)
        self.score = AttentionScore(widths[-1], L, gated=gated)
        self.head = nn.Linear(widths[-1], 1 if n_classes == 2 else n_classes)

    def pool(self, bags: Bags, attention: bool) -> BagOutput:
        """Weigh the instances by their attention and classify the sum."""
        h = self.embed(bags.x)
        a = segment_softmax(self.score(h), bags)
        z = weighted_sum(a, h, bags)[:, 0]
        return BagOutput(self.head(z.to(self.head.weight.dtype)), a if attention else None, z)

    def flop_terms(self, n: int) -> tuple[str, tuple[int, ...]]:
        """Every instance takes the same products."""
        return "", (n,)

    def matrix_flops(self, n: int) -> int:
        """Embedding, the attention's one or two branches and its score, the weighted sum, the head."""
        widths = [layer.in_features for layer in self.embed if isinstance(layer, nn.Linear)] + [self.head.in_features]
        embedding = sum(a * b for a, b in pairwise(widths))
        branches = 1 if self.score.u is None else 2
        return 2 * n * (embedding + widths[-1] * (L * branches + 1) + L) + 2 * widths[-1] * self.head.out_features


def _widths(embed_dim: int | str | None) -> list[int]:
    parts = [] if embed_dim is None else str(embed_dim).split("-")
    if not all(part.isdigit() and int(part) > 0 for part in parts):
        raise MilbenchError(
            f"abmil[embed_dim={embed_dim}]: a width such as 512, widths such as 256-128-64, or none.",
            code="method-bad-option",
        )
    return [int(part) for part in parts]
