"""Methods with hooks of their own, and some that misuse them. Named as ``support.hook_methods:X``."""

import copy
from typing import ClassVar

import torch
from torch import nn

from milbench.bags import BagOutput, Bags
from support.odd_methods import Plain


class Watched(Plain):
    """Writes down the state of its parameters after every step, and the share of the training that was done."""

    progress: ClassVar[list[float]] = []
    states: ClassVar[list[dict[str, torch.Tensor]]] = []
    lengths: ClassVar[list[tuple[bool, tuple[int, ...]]]] = []

    def strange(self, bags):
        self.lengths.append((self.training, tuple(bags.lengths)))

    def after_step(self, progress):
        assert not torch.is_grad_enabled()
        self.progress.append(progress)
        self.states.append({name: value.clone() for name, value in self.state_dict().items()})


class Teacher(Plain):
    """Keeps an average of its head that no optimizer may touch, and learns to agree with it."""

    def __init__(self, in_dim: int, n_classes: int) -> None:
        super().__init__(in_dim, n_classes)
        self.teacher = copy.deepcopy(self.head).requires_grad_(False)

    def loss(self, out, targets):
        return super().loss(out, targets) + 0.1 * (out.logits - out.aux["teacher"]).square().mean()

    def pool(self, bags, attention):
        out = super().pool(bags, attention)
        mean = torch.stack([x.mean(dim=0) for x in bags.x.split(list(bags.lengths))])
        out.aux["teacher"] = self.teacher(mean)
        return out

    def after_step(self, progress):
        for kept, new in zip(self.teacher.parameters(), self.head.parameters(), strict=True):
            kept.lerp_(new, 0.5)


class Stubborn(Teacher):
    """Changes a trained parameter."""

    def after_step(self, progress):
        self.head.weight.zero_()


class Draws(Plain):
    """Adds noise from a generator of its own."""

    def reset(self, generator):
        self.generator = generator

    def strange(self, bags):
        if self.training:
            with torch.no_grad():
                self.head.bias += 0.01 * torch.randn(2, generator=self.generator)


class StackableTeacher(Teacher):
    stackable = True


class Parts(Plain):
    """Two modules, one of them nested, and two parameters of its own; their gradients differ a thousandfold."""

    def __init__(self, in_dim: int, n_classes: int) -> None:
        super().__init__(in_dim, n_classes)
        self.encoder = nn.Sequential(nn.Linear(in_dim, 5), nn.Tanh(), nn.Linear(5, 3))
        self.head = nn.Linear(3, n_classes)
        self.shift = nn.Parameter(torch.zeros(3))
        self.factor = nn.Parameter(torch.ones(1))

    def pool(self, bags: Bags, attention: bool) -> BagOutput:
        rows = 0.01 * self.encoder(bags.x) * self.factor + 100 * self.shift
        return BagOutput(self.head(torch.stack([x.mean(dim=0) for x in rows.split(list(bags.lengths))])))
