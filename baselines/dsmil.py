"""DSMIL: a critical instance per class, and attention by similarity to it (Li et al. 2021)."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from milbench.aggregator import Aggregator, head_log_odds
from milbench.bags import BagOutput, Bags
from milbench.config import Card, Float, Recipe
from milbench.nn import (
    Linear,
    activates,
    joint_linear,
    linear_then,
    segment_argmax,
    segment_dot,
    segment_softmax,
    tanh,
    weighted_sum,
)

Q = 128  # width of the queries in the authors' code
CHUNK = 2048  # rows scored at once on CPU without gradient


class DSMIL(Aggregator):
    """Dual-stream MIL (Li, Li, Eliceiri, CVPR 2021, equations 2 to 6).

    Instance stream: c = W0 x_i, critical instance m = argmax_i c of each class. Bag stream: q = tanh(W2 relu(W1 x)),
    u = softmax_i(q_i . q_m / sqrt 128), b = sum_i u_i x_i, and a full-width convolution over the class vectors b gives
    the logits. The loss is half the binary cross-entropy of the bag stream and half that of the largest instance
    scores. Two classes have one output, as in the authors' published Camelyon16 aggregator; C > 2 have C independent
    sigmoids.

    Args:
        in_dim: width of the instance features.
        n_classes: number of classes.
    """

    card = Card(
        title="DSMIL",
        family="iid",
        citation="B. Li, Y. Li, K. W. Eliceiri. Dual-stream Multiple Instance Learning Network for Whole Slide Image "
        "Classification with Self-supervised Contrastive Learning. CVPR 2021.",
        url="https://arxiv.org/abs/2011.08939",
        licence="authors' code MIT; written here from the paper's equations, MIT",
        score="the bag stream, as the authors' whole-slide script scores; the paper averages both streams",
        deviations=(
            "with C > 2 classes the C sigmoids are divided by their sum so that probabilities add up to 1",
            "the threshold is never chosen on test labels, nor the epoch",
        ),
    )
    recipe = Recipe(optimizer="adam", lr=1e-4, weight_decay=1e-3, betas=(0.5, 0.9), epochs=50, schedule="cosine")
    search_space = {"weight_decay": Float(low=1e-5, high=1e-2, log=True)}
    attention_by_class = True
    stackable = True
    #: Since 2 products with the vector of the own bag are added up in another order, the likeness among
    #: them.
    revision = 2
    authors_names = {"b_classifier.": "", "i_classifier.fc.0.": "instance.", "i_classifier.fc.": "instance."}

    def __init__(self, in_dim: int, n_classes: int) -> None:
        super().__init__(in_dim, n_classes)
        outputs = 1 if n_classes == 2 else n_classes
        self.instance = Linear(in_dim, outputs)
        self.q = nn.Sequential(nn.Linear(in_dim, Q), nn.ReLU(), Linear(Q, Q), nn.Tanh())
        self.fcc = nn.Conv1d(outputs, outputs, kernel_size=in_dim)

    def pool(self, bags: Bags, attention: bool) -> BagOutput:
        """Find the critical instances, attend to what resembles them, and classify both streams."""
        q, scores = self._instances(bags.x)
        critical = segment_argmax(scores, bags)
        if len(q) > 1 and len(bags) == 1:
            at = [divmod(row, CHUNK) for row in critical[0].tolist()]
            q_m = torch.stack([q[part][row] for part, row in at])[None]  # (1, C, 128)
            likeness = torch.cat([segment_dot(part, q_m, Bags(part, [len(part)])) for part in q])
        else:
            every = torch.cat(q) if len(q) > 1 else q[0]
            likeness = segment_dot(every, every[critical], bags)
        u = segment_softmax(likeness * Q**-0.5, bags)
        b = weighted_sum(u, bags.x, bags)
        logits = self._classify(b.to(scores.dtype))
        return BagOutput(
            logits, u if attention else None, b.flatten(1), {"instance_logits": scores.gather(0, critical)}
        )

    def _classify(self, b: Tensor) -> Tensor:
        """Convolve the class vectors over their full width: ``(B, C, d) -> (B, C)``."""
        out: Tensor = self.fcc(b)[..., 0]
        return out

    def _instances(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        """Return queries, ``(N, 128)`` in parts, and scores ``(N, C)``; the features are read from memory once."""
        first, second = cast("nn.Linear", self.q[0]), cast("nn.Linear", self.q[2])
        if activates(x):
            # A chunk of rows is still in the cache when its scores are taken, and its hidden layer never leaves it.
            q, scores = [], []
            for rows in x.split(CHUNK):
                hidden = linear_then(rows, first.weight, first.bias, "relu")
                q.append(linear_then(hidden, second.weight, second.bias, "tanh"))
                scores.append(self.instance(rows))
            return q, torch.cat(scores)
        to_hidden, to_scores = joint_linear(x, (first, self.instance)).split([Q, self.instance.out_features], dim=1)
        return [tanh(second(F.relu(to_hidden)))], to_scores

    def loss(self, out: BagOutput, targets: Tensor) -> Tensor:
        """BCE(bag)/2 + BCE(largest instance)/2, in fp32; ``targets`` (B,) int64."""
        k = out.logits.shape[1]
        wanted = targets[:, None].float() if k == 1 else F.one_hot(targets, k).float()
        streams = (out.logits, out.aux["instance_logits"])
        return sum(
            (F.binary_cross_entropy_with_logits(s.float(), wanted) / 2 for s in streams), start=wanted.new_zeros(())
        )

    def probabilities(self, out: BagOutput) -> Tensor:
        """Sigmoids of the bag stream; with C > 2 classes divided by their sum. ``(B, n_classes)``."""
        if out.logits.shape[1] == 1:
            return super().probabilities(out)
        # log-sigmoid first: the sum of C sigmoids can underflow, a softmax of their logarithms cannot.
        return torch.softmax(F.logsigmoid(out.logits.float()), dim=1)

    def flop_terms(self, n: int) -> tuple[str, tuple[int, ...]]:
        """Every instance takes the same products."""
        return "", (n,)

    def log_odds(self, out: BagOutput) -> Tensor:
        """Of the probabilities: the sigmoid's, or with C > 2 classes the softmax's of log-sigmoids."""
        if out.logits.shape[1] == 1:
            return head_log_odds(out.logits)
        return head_log_odds(F.logsigmoid(out.logits.double()))

    def matrix_flops(self, n: int) -> int:
        """Instance scores, queries, likeness, the weighted sums, the convolution over the bag vectors."""
        k, d = self.instance.out_features, self.in_dim
        return 2 * n * (d * (Q + k) + Q * Q + Q * k + d * k) + 2 * k * k * d
