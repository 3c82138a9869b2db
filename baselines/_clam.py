"""Common parts of CLAM-SB and CLAM-MB: the network up to the bag vectors, and the instance loss (Lu et al. 2021)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from milbench.aggregator import Aggregator, head_loss
from milbench.bags import BagOutput, Bags
from milbench.errors import MilbenchError
from milbench.nn import AttentionScore, Linear, segment_softmax, segment_topk, weighted_sum

WIDTH = 512
SIZES = {"small": 256, "big": 384}
BAG_WEIGHT = 0.7  # of the bag loss; the instance loss has the rest

CITATION = (
    "M. Y. Lu, D. F. K. Williamson, T. Y. Chen, R. J. Chen, M. Barbieri, F. Mahmood. Data-efficient and weakly "
    "supervised computational pathology on whole-slide images. Nature Biomedical Engineering 2021."
)
DEVIATIONS = (
    "a bag of n < k_sample patches uses all n at either end of the instance loss; the authors' code fails there",
    "early stopping may begin at once; the authors' waits for a minimum number of epochs",
    "the instance loss is cross-entropy; the authors offer the smooth SVM loss as another option",
    "every bag is seen once an epoch; the command that the authors recommend draws bags by class (--weighted_sample), "
    'which is sampler = "balanced" of a recipe here',
)


class CLAMBase(Aggregator):
    """Features -> h = ReLU(W x) -> gated attention -> one or C bag vectors -> logits, and the instance loss."""

    #: Since 2 products with the vector of the own bag are added up in another order, in the backward pass.
    revision = 2
    authors_names = {
        "attention_net.0.": "embed.0.",
        "attention_net.3.attention_a.0.": "score.v.",
        "attention_net.3.attention_b.0.": "score.u.",
        "attention_net.3.attention_c.": "score.w.",
    }

    def __init__(self, in_dim: int, n_classes: int, branches: int, size: str, k_sample: int, subtyping: bool,
                 dropout: float) -> None:  # fmt: skip
        super().__init__(in_dim, n_classes)
        if k_sample < 1:
            raise MilbenchError(f"k_sample must be at least 1, got {k_sample}.", code="method-bad-option")
        self.k_sample = k_sample
        self.subtyping = subtyping
        self.embed = nn.Sequential(Linear(in_dim, WIDTH), nn.ReLU(inplace=True), nn.Dropout(dropout))
        self.score = AttentionScore(WIDTH, SIZES[size], heads=branches, gated=True, dropout=dropout)
        self.instance_classifiers = nn.ModuleList(nn.Linear(WIDTH, 2) for _ in range(n_classes))

    def bag_logits(self, z: Tensor) -> Tensor:
        """Classify bag vectors ``(B, branches, 512)``: ``(B, C)``."""
        raise TypeError("CLAM's two forms say how bag vectors are classified")

    def pool(self, bags: Bags, attention: bool) -> BagOutput:
        """Pool with every branch; keep the logits of the instances that the instance loss needs, and no others."""
        h = self.embed(bags.x)
        scores = self.score(h)
        a = segment_softmax(scores, bags)
        z = weighted_sum(a, h, bags)
        ends = [self._ends(scores[:, branch], bags) for branch in range(scores.shape[1])]
        instances = torch.stack(
            [classifier(h[ends[c % len(ends)][0]]) for c, classifier in enumerate(self.instance_classifiers)], dim=1
        )
        # Which of the 2k places a bag fills depends on its length alone, so it is the same for every branch.
        aux = {"instance_logits": instances, "instance_valid": ends[0][1]}
        return BagOutput(self.bag_logits(z.to(h.dtype)), a if attention else None, z.flatten(1), aux)

    def _ends(self, scores: Tensor, bags: Bags) -> tuple[Tensor, Tensor]:
        """Rows of the k most and the k least attended instances of each bag, ``(B, 2k)``, and which of them exist."""
        most, valid = segment_topk(scores, self.k_sample, bags)
        least, _ = segment_topk(-scores, self.k_sample, bags)
        return torch.cat([most, least], dim=1), torch.cat([valid, valid], dim=1)

    def loss(self, out: BagOutput, targets: Tensor) -> Tensor:
        """0.7 x cross-entropy of the bag + 0.3 x instance loss, in fp32.

        The slide's class: its k most attended instances are positive, its k least attended negative, through that
        class's classifier. With `subtyping` the k most attended of every other class are negative, and the sum is
        divided by C.
        """
        logits, valid = out.aux["instance_logits"].float(), out.aux["instance_valid"]  # (B, C, 2k, 2), (B, 2k)
        places = torch.arange(2 * self.k_sample, device=logits.device)
        most = places < self.k_sample
        own = F.one_hot(targets, self.n_classes).bool()  # (B, C)
        wanted = (own[:, :, None] & most).long()
        each = F.cross_entropy(logits.movedim(-1, 1), wanted, reduction="none")  # (B, C, 2k)
        counted = valid[:, None] & (own[:, :, None] | (most if self.subtyping else torch.zeros_like(most)))
        a_class = (each * counted).sum(dim=2) / counted.sum(dim=2).clamp(min=1)
        instance = a_class.sum(dim=1) / (self.n_classes if self.subtyping else 1)
        return BAG_WEIGHT * head_loss(out.logits, targets) + (1 - BAG_WEIGHT) * instance.mean()

    def matrix_flops(self, n: int) -> int:
        """Embedding, the attention's two branches and its scores, the weighted sums, and the 2k instances' logits."""
        hidden, branches = self.score.v.out_features, self.score.w.out_features
        instances = 2 * min(n, self.k_sample) * len(self.instance_classifiers) * 2 * WIDTH
        each = self.in_dim * WIDTH + 2 * WIDTH * hidden + hidden * branches + WIDTH * branches
        return 2 * n * each + 2 * instances + 2 * WIDTH * self.n_classes
