"""Checks of the contract about what may not change a prediction: company in the batch, declared row order."""

from __future__ import annotations

import torch
from torch import Tensor

from ..bags import Bags
from ..nn.stacked import Stack
from .case import (
    EQUAL,
    GRADIENT_TOLERANCE,
    RAGGED,
    SCALES,
    SMALL,
    TOLERANCE,
    Case,
    CheckFailed,
    Skip,
    attend,
    join,
    permuted,
    predict,
    same,
)

#: Row order matters to a method when logits move by clearly more than what rounding does (about 1e-6).
MOVES = 1e-5


def batch_invariance(case: Case) -> None:
    """The logits of a bag are the same alone and in any company: ragged, of other scales, of equal lengths."""
    model = case.model()
    for lengths, scales in ((RAGGED, SCALES), (RAGGED[::-1], SCALES), (EQUAL, SCALES), ((1, 1), SCALES)):
        singles = case.bags(lengths, scales)
        together = predict(model, join(singles)).logits
        size = 1e-2 * float(together.abs().max())  # a logit near zero is the difference of larger numbers
        for i, bag in enumerate(singles):
            alone = predict(model, bag).logits[0]
            same(together[i], alone, f"logits of the bag of {lengths[i]} among bags of {list(lengths)}",
                 "its prediction depends on which bags share its batch.", size=size)  # fmt: skip


def batch_invariance_of_gradients(case: Case) -> None:
    """Gradients at the features and the parameters are those of the bags taken one by one."""
    model, singles = case.model(), case.bags((5, 1, 33, 12), SCALES)
    weights = torch.randn(predict(model, join(singles)).logits.shape, generator=torch.Generator().manual_seed(3))
    weights = weights.to(case.device)
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]

    def gradients(bags: Bags, weight: Tensor) -> list[Tensor]:
        x = bags.x.clone().requires_grad_()
        total = (model(Bags(x, bags.lengths, bags.coords)).logits * weight).sum()
        inputs = [x, *(p for _, p in named)]
        gradients = torch.autograd.grad(total, inputs, allow_unused=True)
        return [torch.zeros_like(v) if g is None else g for v, g in zip(inputs, gradients, strict=True)]

    together = gradients(join(singles), weights)
    alone = [gradients(bag, weights[i : i + 1]) for i, bag in enumerate(singles)]
    start = 0
    for bag, own in zip(singles, alone, strict=True):
        n = bag.lengths[0]
        same(together[0][start : start + n], own[0], f"the gradient at the features of the bag of {n}",
             "a bag learns from the company it is in.", tolerance=GRADIENT_TOLERANCE)  # fmt: skip
        start += n
    # A parameter whose gradient is zero in real arithmetic (a bias before a softmax) holds the rounding of others.
    size = 1e-2 * max((float(g.abs().max()) for g in together[1:] if g.numel()), default=0.0)
    for k, (name, _) in enumerate(named, start=1):
        total = torch.stack([own[k] for own in alone]).sum(dim=0)
        same(together[k], total, f"the gradient of {name}", "it is not the sum over the bags.",
             tolerance=GRADIENT_TOLERANCE, size=size)  # fmt: skip


def no_gradient_between_bags(case: Case) -> None:
    """The logits of a bag have gradient zero at the features of every other bag, in train mode as in eval mode."""
    for train in (False, True):
        model, bags = case.model(train=train), join(case.bags(SMALL))
        x = bags.x.clone().requires_grad_()
        logits = model(Bags(x, bags.lengths, bags.coords)).logits
        for i in range(len(bags)):
            (grad,) = torch.autograd.grad(logits[i].sum(), x, retain_graph=True, allow_unused=True)
            if grad is None:
                raise CheckFailed("logits do not depend on the features.")
            inside = bags.index == i
            own, others = float(grad[inside].abs().max()), float(grad[~inside].abs().max())
            if not others <= 1e-6 * own:
                raise CheckFailed(
                    f"in {'train' if train else 'eval'} mode a bag's logits have gradient {others:.1e} at the features "
                    f"of another bag ({own:.1e} at its own; tolerance 1e-06 of that); something is shared in the batch."
                )


def batch_invariance_of_attention(case: Case) -> None:
    """The attention of a bag is the same alone and in company."""
    model, singles = case.model(), case.bags(RAGGED, SCALES)
    together = attend(model, join(singles))
    for own, bag in zip(together.split(list(RAGGED)), singles, strict=True):
        same(
            own, attend(model, bag), f"attention of the bag of {len(own)}", "it depends on which bags share the batch."
        )


def stacked_as_declared(case: Case) -> None:
    """In a stack each model has the loss's gradient that it has alone, and its own random numbers (if stackable)."""
    if not case.method.cls.stackable:
        raise Skip("the method is not declared stackable")
    models = [case.model(seed) for seed in range(3)]
    singles, targets = case.bags((5, 1, 33, 12, 2, 7), SCALES), case.targets(6)
    alone = []
    for i, model in enumerate(models):
        bags, own = join(singles[2 * i : 2 * i + 2]), targets[2 * i : 2 * i + 2]
        gradients = torch.autograd.grad(model.loss(model(bags), own), list(model.parameters()), allow_unused=True)
        alone.append(
            [torch.zeros_like(p) if g is None else g for p, g in zip(model.parameters(), gradients, strict=True)]
        )
    stack = Stack(models, [torch.Generator(case.device) for _ in models]).eval()
    stack.loss(stack(join(singles)), targets).backward()
    size = 1e-2 * max(float(g.abs().max()) for own in alone for g in own if g.numel())
    for k, (name, _) in enumerate(models[0].named_parameters()):
        together = stack.joint.get_parameter(name).grad
        want = torch.stack([own[k] for own in alone])
        same(torch.zeros_like(want) if together is None else together, want, f"the gradient of {name} in a stack",
             "the method is declared stackable and is not.", tolerance=GRADIENT_TOLERANCE, size=size)  # fmt: skip
    logits = []
    for seed in range(2):
        torch.manual_seed(seed)
        generators = [torch.Generator(case.device).manual_seed(i) for i in range(3)]
        models = [case.model(seed) for seed in range(3)]
        torch.manual_seed(seed)
        logits.append(Stack(models, generators).train()(join(singles)).logits.detach())
    same(logits[1], logits[0], "logits of a stack in train mode under another seed of torch",
         "the only random part of a stackable method is nn.Dropout, whose draws are each model's own.")  # fmt: skip


def permutation_as_declared(case: Case) -> None:
    """Row order changes no logit where permutation_invariant says so, and some logit where it says not."""
    model, most = case.model(), 0.0
    random = torch.Generator().manual_seed(5)
    declared = model.permutation_invariant
    for bag in case.bags((300, 33, 12)):
        logits = predict(model, bag).logits
        for _ in range(2):
            order = torch.randperm(bag.lengths[0], generator=random).to(case.device)
            moved = predict(model, permuted(bag, order)).logits
            most = max(most, float((moved - logits).abs().max()) / float(logits.abs().max()))
            if declared:
                same(moved, logits, "logits after shuffling the rows",
                     "the method is declared permutation_invariant and is not.")  # fmt: skip
    if not declared and not most > MOVES:
        raise CheckFailed(
            f"shuffling the rows moves no logit by more than {most:.1e} of its size (at least {MOVES:.0e} expected); "
            "declare permutation_invariant = True, or the comparison files the method under the wrong kind."
        )


def attention_normalised(case: Case) -> None:
    """Attention is not negative, and each of its columns sums to 1 in each bag."""
    bags = join(case.bags(scales=SCALES))
    attention = attend(case.model(), bags)
    if not float(attention.min()) >= 0:
        raise CheckFailed(f"attention is negative, {float(attention.min()):.3g} at the least.")
    for n, own in zip(bags.lengths, attention.split(list(bags.lengths)), strict=True):
        worst = float((own.sum(dim=0) - 1).abs().max())
        if not worst <= TOLERANCE:
            raise CheckFailed(
                f"attention over a bag of {n} misses the sum 1 by {worst:.1e} (tolerance {TOLERANCE:.0e})."
            )


def attention_in_row_order(case: Case) -> None:
    """Attention follows its instance when the rows of a bag are shuffled (methods declared permutation invariant)."""
    model, bag = case.model(), case.bags((33,))[0]
    attention = attend(model, bag)
    if not model.permutation_invariant:
        raise Skip("row order matters to the method, so shuffling tells nothing")
    order = torch.randperm(33, generator=torch.Generator().manual_seed(6)).to(case.device)
    same(attend(model, permuted(bag, order)), attention[order], "attention after shuffling the rows",
         "heatmaps would show it at the wrong patches.")  # fmt: skip
