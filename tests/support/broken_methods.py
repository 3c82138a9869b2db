"""A good minimal method, and a family of methods broken in one way each, with the check that is meant to catch them."""

# ruff: noqa: RUF012 - a method declares its recipe and search space in plain class attributes

import itertools
import os

import torch
import torch.nn.functional as F
from torch import nn

from milbench.aggregator import Aggregator, head_loss
from milbench.bags import BagOutput, Bags
from milbench.config import Card, Float, Recipe


class Good(Aggregator):
    """Attention pooling of a tanh layer, bag by bag: z = sum_i softmax_i(w' h_i) h_i."""

    card = Card(title="Good", family="iid", citation="Nobody. Nowhere, 2024.")
    recipe = Recipe()
    search_space = {"dropout": Float(low=0.0, high=0.5), "lr": Float(low=1e-5, high=1e-2, log=True)}

    def __init__(self, in_dim: int, n_classes: int, *, width: int = 8, dropout: float = 0.1) -> None:
        super().__init__(in_dim, n_classes)
        self.hidden = nn.Linear(in_dim, width)
        self.drop = nn.Dropout(dropout)
        self.score = nn.Linear(width, 1, bias=False)
        self.head = nn.Linear(width, n_classes)
        self.add_parts(width)

    def add_parts(self, width):
        pass

    def embed(self, x, bags):
        return self.drop(torch.tanh(self.hidden(x)))

    def weigh(self, h, bags):
        return torch.cat([torch.softmax(s, dim=0) for s in self.score(h).float().split(list(bags.lengths))])

    def represent(self, h, a, bags):
        return torch.stack([rows.sum(dim=0) for rows in (a * h).split(list(bags.lengths))])

    def show(self, a, bags):
        return a

    def classify(self, z, bags):
        return self.head(z)

    def pool(self, bags: Bags, attention: bool) -> BagOutput:
        h = self.embed(bags.x, bags)
        a = self.weigh(h, bags)
        z = self.represent(h, a, bags)
        return BagOutput(self.classify(z, bags), self.show(a, bags) if attention else None, z)


#: (class, name of the check that is meant to catch it)
BROKEN = []


def caught_by(check):
    def mark(cls):
        cls.__doc__ = cls.__doc__ or "One thing is wrong."
        BROKEN.append((cls, check))
        return cls

    return mark


@caught_by("logits_are_scores")
class ReturnsProbabilities(Good):
    def classify(self, z, bags):
        return self.head(z).softmax(dim=1)


@caught_by("card_and_recipe")
class NoCitation(Good):
    card = Card(title="x", family="iid", citation=" ")


@caught_by("card_and_recipe")
class RecipeIsADict(Good):
    recipe = {"lr": 1e-3}


@caught_by("card_and_recipe")
class SearchesTheUnknown(Good):
    search_space = {"depth": Float(low=0, high=1)}


class NoDocstring(Good):
    pass


BROKEN.append((NoDocstring, "card_and_recipe"))


@caught_by("after_step_trains_nothing")
class TrainsAfterTheStep(Good):
    def after_step(self, progress):
        self.head.weight.mul_(0.9)


@caught_by("after_step_trains_nothing")
class FreesItsTeacher(Good):
    def after_step(self, progress):
        self.head.requires_grad_(False)


@caught_by("parameters_have_types")
class UntypedParameter(Good):
    search_space = {}

    def __init__(self, in_dim, n_classes, width=8):
        super().__init__(in_dim, n_classes, width=width)


@caught_by("parameters_have_types")
class TakesAnything(Good):
    search_space = {}

    def __init__(self, in_dim: int, n_classes: int, **options: int):
        super().__init__(in_dim, n_classes)


@caught_by("output_shapes")
class OneLogitTooMany(Good):
    def classify(self, z, bags):
        return F.pad(self.head(z), (0, 1))


@caught_by("output_shapes")
class FlatAttention(Good):
    def show(self, a, bags):
        return a[:, 0]


@caught_by("output_shapes")
class NeedsCoordinatesAndDoesNotSaySo(Good):
    def classify(self, z, bags):
        return self.head(z) + 0 * bags.coords.sum()


@caught_by("probabilities_sum_to_one")
class SigmoidOfEach(Good):
    def probabilities(self, out):
        return torch.sigmoid(out.logits)


@caught_by("log_odds_agree")
class LogOddsOfAnotherTemperature(Good):
    def log_odds(self, out):
        return super().log_odds(out) / 3


@caught_by("attention_on_request")
class AttentionNotRequested(Good):
    def pool(self, bags, attention):
        return super().pool(bags, True)


@caught_by("attention_on_request")
class AttentionChangesLogits(Good):
    def pool(self, bags, attention):
        out = super().pool(bags, attention)
        return BagOutput(out.logits * 1.01, out.attention, out.embedding) if attention else out


@caught_by("everything_finite")
class RootOfZero(Good):
    """A distance of a thing to itself: the value is 0, the slope of its root is infinite."""

    def embed(self, x, bags):
        h = super().embed(x, bags)
        return h + (h - h.detach()).square().sum(dim=1, keepdim=True).sqrt()


@caught_by("one_instance")
class StandardDeviation(Good):
    def represent(self, h, a, bags):
        return torch.stack([rows.std(dim=0) for rows in (a * h).split(list(bags.lengths))])


@caught_by("gradient_reaches_all")
class UnusedParameter(Good):
    def add_parts(self, width):
        self.unused = nn.Parameter(torch.zeros(width))


@caught_by("gradient_reaches_all")
class ParameterTimesZero(Good):
    def add_parts(self, width):
        self.scale = nn.Parameter(torch.ones(width))

    def classify(self, z, bags):
        return self.head(z + 0 * self.scale)


@caught_by("batch_invariance")
class SoftmaxOverTheBatch(Good):
    def weigh(self, h, bags):
        return torch.softmax(self.score(h), dim=0)


@caught_by("batch_invariance")
class ScaledByTheLargestOfTheBatch(Good):
    """As the authors' pseudo-inverse: a maximum over the whole batch; detached, so that no gradient tells."""

    def embed(self, x, bags):
        h = super().embed(x, bags)
        return h / (1 + x.detach().abs().max())


@caught_by("batch_invariance_of_gradients")
class LearnsFromItsCompany(Good):
    """The values are right and the gradients are not: a straight-through term."""

    def classify(self, z, bags):
        mean = z.mean(dim=0, keepdim=True)
        return self.head(z + mean - mean.detach())


@caught_by("no_gradient_between_bags")
class BatchNorm(Good):
    """Harmless in eval mode; in training a bag's neighbours are in its statistics."""

    def add_parts(self, width):
        self.norm = nn.BatchNorm1d(width)

    def embed(self, x, bags):
        h = self.hidden(x)
        return torch.tanh(self.norm(h) if len(h) > 1 or not self.training else h)


@caught_by("batch_invariance_of_attention")
class AttentionOfTheBatch(Good):
    def show(self, a, bags):
        return a / len(bags)


@caught_by("permutation_as_declared")
class LaterRowsCountMore(Good):
    def weigh(self, h, bags):
        place = torch.cat([torch.linspace(0, 1, n, device=h.device) for n in bags.lengths])[:, None]
        s = self.score(h) + place
        return torch.cat([torch.softmax(own, dim=0) for own in s.split(list(bags.lengths))])


@caught_by("permutation_as_declared")
class SaysOrderMatters(Good):
    permutation_invariant = False


@caught_by("attention_normalised")
class RawScores(Good):
    def show(self, a, bags):
        return a.log()


@caught_by("attention_normalised")
class LargestIsOne(Good):
    def show(self, a, bags):
        return torch.cat([own / own.max() for own in a.split(list(bags.lengths))])


@caught_by("attention_in_row_order")
class SortedAttention(Good):
    def show(self, a, bags):
        return torch.cat([own.sort(dim=0, descending=True).values for own in a.split(list(bags.lengths))])


@caught_by("state_dict_round_trip")
class HiddenState(Good):
    def add_parts(self, width):
        self.shift = torch.randn(width)

    def classify(self, z, bags):
        return self.head(z + self.shift.to(z.device))


@caught_by("same_seed_same_model")
class OwnRandomnessAtTheStart(Good):
    def add_parts(self, width):
        values = [byte / 255 for byte in os.urandom(width)]
        self.shift = nn.Parameter(torch.tensor(values))

    def classify(self, z, bags):
        return self.head(z + self.shift)


@caught_by("eval_has_no_chance")
class DropoutInEval(Good):
    def embed(self, x, bags):
        return F.dropout(super().embed(x, bags), 0.5, training=True)


@caught_by("training_follows_the_seed")
class OwnRandomnessInTraining(Good):
    calls = itertools.count()

    def embed(self, x, bags):
        h = super().embed(x, bags)
        own = torch.Generator().manual_seed(next(self.calls))
        return h + torch.randn(h.shape, generator=own).to(h.device) if self.training else h


@caught_by("inference_mode_agrees")
class AnotherPathWithoutGradients(Good):
    def classify(self, z, bags):
        return self.head(z) if torch.is_grad_enabled() else self.head(z) + 0.01


@caught_by("input_untouched")
class ReluInPlace(Good):
    def embed(self, x, bags):
        return super().embed(x.detach().relu_() if not x.requires_grad else x, bags)


@caught_by("bf16_autocast")
class Cancels(Good):
    """100 + h - 100: five digits are left in fp32, none in bf16."""

    def embed(self, x, bags):
        return torch.tanh((self.hidden(x) + 100) - 100)


@caught_by("stacked_as_declared")
class StacksTheFirstScale(Good):
    stackable = True

    def add_parts(self, width):
        self.scale = nn.Parameter(torch.linspace(0.5, 2, width))

    def classify(self, z, bags):
        return self.head(z * (self.scale if self.scale.ndim == 1 else self.scale[0]))


@caught_by("bf16_autocast")
class LossInBf16(Good):
    def loss(self, out, targets):
        return head_loss(out.logits, targets).to(out.logits.dtype)


@caught_by("loss_is_a_scalar")
class LossPerBag(Good):
    def loss(self, out, targets):
        return F.cross_entropy(out.logits, targets, reduction="none")


@caught_by("loss_is_a_scalar")
class DetachedLoss(Good):
    def loss(self, out, targets):
        return head_loss(out.logits.detach(), targets)


@caught_by("loss_is_the_mean")
class SummedLoss(Good):
    def loss(self, out, targets):
        return F.cross_entropy(out.logits, targets, reduction="sum")


@caught_by("wrong_width_is_refused")
class AnyWidth(Good):
    def forward(self, bags, attention=False):
        return super().forward(bags.with_features(bags.x[:, : self.in_dim]), attention)


@caught_by("nan_is_refused")
class SwallowsNan(Good):
    def embed(self, x, bags):
        return super().embed(torch.nan_to_num(x), bags)


@caught_by("nan_is_refused")
class SwallowsNanInTheMiddle(Good):
    def weigh(self, h, bags):
        return torch.cat([torch.softmax(s, 0) for s in self.score(h.nan_to_num()).split(list(bags.lengths))])

    def represent(self, h, a, bags):
        return super().represent(h.nan_to_num(), a, bags)


@caught_by("output_shapes")
class Crashes(Good):
    def classify(self, z, bags):
        raise IndexError("index 7 is out of range")
