"""A mean pooling that learns to agree with an average of its own past."""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from milbench import Aggregator, BagOutput, Bags, Card, Recipe
from milbench.aggregator import head_loss


class Teacher(Aggregator):
    """Mean pooling; its teacher follows each step with a decay."""

    card = Card(title="Mean with a teacher", family="iid", citation="Somebody else. Elsewhere, 2026.")
    recipe = Recipe(optimizer="sgd", lr=0.1, momentum=0.0, weight_decay=0.0, epochs=3)

    def __init__(self, in_dim: int, n_classes: int, decay: float = 0.5) -> None:
        super().__init__(in_dim, n_classes)
        self.decay = decay
        self.head = nn.Linear(in_dim, n_classes)
        self.teacher = copy.deepcopy(self.head).requires_grad_(False)
        self.register_buffer("followed", torch.zeros((), dtype=torch.int64))

    def pool(self, bags: Bags, attention: bool) -> BagOutput:
        """Pool the bags; the teacher's logits go along in training."""
        mean = torch.stack([x.mean(dim=0) for x in bags.x.split(list(bags.lengths))])
        out = BagOutput(self.head(mean))
        out.aux["teacher"] = self.teacher(mean)
        return out

    def loss(self, out: BagOutput, targets: Tensor) -> Tensor:
        """Cross-entropy, and the distance to the teacher."""
        return head_loss(out.logits, targets) + 0.1 * F.mse_loss(out.logits, out.aux["teacher"])

    def after_step(self, progress: float) -> None:
        """Move the teacher."""
        self.followed += 1
        for kept, new in zip(self.teacher.parameters(), self.head.parameters(), strict=True):
            kept.lerp_(new, 1 - self.decay)
