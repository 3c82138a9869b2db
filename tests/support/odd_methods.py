"""Methods that end in every way a run can end, and some that record inputs. Named as ``support.odd_methods:X``."""

import os
import signal
import threading
import time

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from milbench.aggregator import Aggregator
from milbench.bags import BagOutput, Bags
from milbench.config import Card, Recipe
from milbench.errors import Unsupported


class Plain(Aggregator):
    """Mean pooling, bag by bag."""

    card = Card(title="Plain", family="iid", citation="Nobody. Nowhere, 2024.")
    recipe = Recipe(optimizer="sgd", lr=0.1, momentum=0.0, weight_decay=0.0, epochs=2)

    def __init__(self, in_dim: int, n_classes: int) -> None:
        super().__init__(in_dim, n_classes)
        self.head = nn.Linear(in_dim, n_classes)

    def strange(self, bags: Bags) -> None:
        pass

    def pool(self, bags: Bags, attention: bool) -> BagOutput:
        self.strange(bags)
        return BagOutput(self.head(torch.stack([x.mean(dim=0) for x in bags.x.split(list(bags.lengths))])))


class Allocates(Plain):
    def strange(self, bags):
        torch.empty(2**60, dtype=torch.uint8)


class AllocatesInNumpy(Plain):
    def strange(self, bags):
        np.empty(2**60, dtype=np.uint8)


class RunsOutOfDeviceMemory(Plain):
    def strange(self, bags):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 80.00 GiB.\nMore lines.")


class Hungry(Plain):
    """Takes 128 MiB for a moment, once it trains."""

    def strange(self, bags):
        if self.training:
            torch.ones(1 << 25)


class Sleeps(Plain):
    def strange(self, bags):
        time.sleep(600)


class SupportsNothing(Plain):
    def __init__(self, in_dim: int, n_classes: int) -> None:
        super().__init__(in_dim, n_classes)
        raise Unsupported("it needs coordinates and the cohort has none")


class Lost(Plain):
    def strange(self, bags):
        raise KeyError("lost")  # the line the outcome names


class WrongShape(Plain):
    def strange(self, bags):
        F.linear(bags.x, torch.zeros(3, bags.dim + 1))


class Killed(Plain):
    def strange(self, bags):
        os.kill(os.getpid(), signal.SIGKILL)


class Faults(Plain):
    def strange(self, bags):
        os.kill(os.getpid(), signal.SIGSEGV)


class Leaves(Plain):
    def strange(self, bags):
        os._exit(3)


class Exits(Plain):
    def strange(self, bags):
        raise SystemExit("enough")


class NeverLeaves(Plain):
    """A thread of its own keeps the process from ending after the work is done."""

    def __init__(self, in_dim: int, n_classes: int) -> None:
        super().__init__(in_dim, n_classes)
        if next(self.parameters()).device.type != "meta":
            threading.Thread(target=time.sleep, args=(600,)).start()


class LooksAtValues(Plain):
    """Its constructor cannot be run on meta tensors."""

    def __init__(self, in_dim: int, n_classes: int) -> None:
        super().__init__(in_dim, n_classes)
        self.norm = float(self.head.weight.detach().norm())


class BigParameter(Plain):
    """64 MiB of parameters that take part in every prediction."""

    def __init__(self, in_dim: int, n_classes: int) -> None:
        super().__init__(in_dim, n_classes)
        self.big = nn.Parameter(torch.zeros(1 << 24))

    def pool(self, bags: Bags, attention: bool) -> BagOutput:
        return BagOutput(super().pool(bags, attention).logits + self.big.sum())


class NeedsCoords(Plain):
    def strange(self, bags):
        if bags.coords is None:
            raise Unsupported("it needs coordinates")


class ReadsValues(Plain):
    """Looks at a value on the way, which a tensor without values cannot give."""

    def strange(self, bags):
        assert float(bags.x.abs().sum()) >= 0


class StatesFalseTerms(Plain):
    """Says that its products are those of its head, but multiplies every instance from 10 on."""

    def flop_terms(self, n):
        return "", ()

    def strange(self, bags):
        if len(bags.x) >= 10:
            self.head(bags.x)


class HasCoarseSteps(Plain):
    """Multiplies as many rows as fill whole hundreds, in pieces of its own."""

    def flop_terms(self, n):
        return n % 2, (-(-n // 100),)

    def strange(self, bags):
        for _ in range(1 + len(bags.x) % 2):
            self.head(bags.x.new_zeros(-(-len(bags.x) // 100) * 100, bags.dim))


class Weightless(Plain):
    """One parameter, added: nothing is multiplied."""

    def __init__(self, in_dim: int, n_classes: int) -> None:
        super().__init__(in_dim, n_classes)
        self.head = torch.nn.ParameterList([torch.nn.Parameter(torch.zeros(n_classes))])

    def pool(self, bags: Bags, attention: bool) -> BagOutput:
        return BagOutput(self.head[0].expand(len(bags), -1))


class OneLogitTooMany(Plain):
    """Cross-entropy takes it, and no bag is ever of the last class."""

    def __init__(self, in_dim: int, n_classes: int) -> None:
        super().__init__(in_dim, n_classes + 1)
        self.n_classes = n_classes


class OneBagInEvaluation(Plain):
    """Trains as it should, and predicts one bag of a batch."""

    def pool(self, bags: Bags, attention: bool) -> BagOutput:
        out = super().pool(bags, attention)
        return out if self.training else BagOutput(out.logits[:1].expand(2, -1))


class Drops(Plain):
    """Features dropped in training: a method that draws random numbers."""

    def pool(self, bags: Bags, attention: bool) -> BagOutput:
        return super().pool(bags.with_features(F.dropout(bags.x, 0.5, self.training)), attention)


class OtherGenerators(Plain):
    """Draws from numpy's and Python's global generators instead of torch's."""

    def pool(self, bags: Bags, attention: bool) -> BagOutput:
        import random

        noise = (np.random.rand() + random.random()) * self.training
        return super().pool(bags.with_features(bags.x + noise), attention)


class Records(Plain):
    """Records its initial weights, the bags it is trained on and the random numbers it draws in training."""

    log: list = []  # noqa: RUF012

    def __init__(self, in_dim: int, n_classes: int) -> None:
        super().__init__(in_dim, n_classes)
        if self.head.weight.device.type != "meta":  # made to count its operations
            self.log.append(("init", self.head.weight.detach().clone()))

    def strange(self, bags):
        if self.training:
            firsts = [float(x[0, 0]) for x in bags.x.split(list(bags.lengths))]
            self.log.append(("order", firsts))
            self.log.append(("dropout", float(torch.rand(()))))


class KilledBySeed(Plain):
    """Ends its process in the training that was seeded with 1."""

    def strange(self, bags):
        from milbench.training.task import derive_seed

        if torch.initial_seed() == derive_seed(1, "dropout"):
            os.kill(os.getpid(), signal.SIGKILL)


class FailsThird(Plain):
    """Fails to get memory in the third training of a process."""

    seen: set = set()  # noqa: RUF012

    def strange(self, bags):
        if self.training:
            self.seen.add(id(self))
            type(self).alive = [*getattr(type(self), "alive", []), self]  # so that no other is given its place
            if len(self.seen) == 3:
                torch.empty(2**60, dtype=torch.uint8)
