"""The contract of an aggregator: one small check a clause. `milbench.testing` runs them and reports; import from there.

A check takes a `Case` and returns when the method keeps the clause, raises `CheckFailed` with what was measured when it
does not, or `Skip` with the reason when the clause does not apply. Comparisons are made in fp32 and, but where a clause
is about training, in eval mode.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..bags import BagOutput, Bags
from ..config import Card, Choice, Float, Int, Recipe
from ..errors import MilbenchError
from ..registry import allowed_values, parameters, unreadable
from .case import GRADIENT_TOLERANCE, SCALES, SMALL, Case, CheckFailed, Skip, finite, join, predict, refused, same
from .invariance import (
    attention_in_row_order,
    attention_normalised,
    batch_invariance,
    batch_invariance_of_attention,
    batch_invariance_of_gradients,
    no_gradient_between_bags,
    permutation_as_declared,
    stacked_as_declared,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

#: bf16 keeps 8 bits (0.4 % a rounding); a dozen roundings in a row that do not cancel stay below 5 %.
BF16_TOLERANCE = 5e-2
#: CPU and CUDA add in another order and use other exp and tanh; TF32 is off while they are compared.
CUDA_TOLERANCE = 1e-3


def card_and_recipe(case: Case) -> None:
    """The class says what it is: docstring, Card, Recipe, search space of known dimensions over known names."""
    cls = case.method.cls
    card, recipe = getattr(cls, "card", None), getattr(cls, "recipe", None)
    if not (cls.__doc__ or "").strip():
        raise CheckFailed("the class has no docstring; say what it computes, with shapes and the source.")
    if not isinstance(card, Card):
        raise CheckFailed(
            f"card is {type(card).__name__} instead of a milbench.Card; the leaderboard cites methods by it."
        )
    empty = [name for name in ("title", "family", "citation") if not getattr(card, name).strip()]
    if empty:
        raise CheckFailed(f"the card leaves {', '.join(empty)} empty; the leaderboard cites methods by it.")
    if not isinstance(recipe, Recipe):
        raise CheckFailed(
            f"recipe is {type(recipe).__name__} instead of a milbench.Recipe; nobody knows how to train it."
        )
    known = {*Recipe.model_fields, *parameters(cls)}
    for name, dimension in cls.search_space.items():
        if name not in known:
            raise CheckFailed(f"search_space names {name!r}, which is neither a field of Recipe nor a parameter.")
        if not isinstance(dimension, Float | Int | Choice):
            raise CheckFailed(f"search_space[{name!r}] is {type(dimension).__name__} instead of Float, Int or Choice.")
        if not (dimension.options if isinstance(dimension, Choice) else dimension.low < dimension.high):
            raise CheckFailed(f"search_space[{name!r}] is empty: {dimension!r}.")
        if name in Recipe.model_fields:
            continue
        for value in dimension.options if isinstance(dimension, Choice) else (dimension.low, dimension.high):
            if (problem := unreadable(case.method, name, value)) is not None:
                raise CheckFailed(f"search_space[{name!r}] has {value!r}, but {problem}.")


def parameters_have_types(case: Case) -> None:
    """Every parameter beyond in_dim and n_classes has a type and a default, so that it can be given by name as text."""
    signature = inspect.signature(case.method.cls.__init__)
    for name, (kind, default) in parameters(case.method.cls).items():
        if signature.parameters[name].kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD):
            raise CheckFailed(f"__init__ takes *{name}; name every parameter, or a typing error would pass unseen.")
        if default is inspect.Parameter.empty or kind is Any:
            raise CheckFailed(f"parameter {name!r} lacks a type or a default; name[{name}=...] cannot be read without.")
        for value in (default, *allowed_values(kind)):
            if (problem := unreadable(case.method, name, value)) is not None:
                raise CheckFailed(f"parameter {name!r}: {problem}.")


def output_shapes(case: Case) -> None:
    """logits (B, n_classes), or (B, 1) for two classes; attention (N, h) or None; embedding (B, e) or None."""
    model, bags = case.model(), join(case.bags())
    for given in (bags, Bags(bags.x, bags.lengths)):
        try:
            out = predict(model, given, attention=True)
        except MilbenchError:
            if given.coords is None:  # a method may need coordinates, if it says so
                return
            raise
        if not isinstance(out, BagOutput):
            raise CheckFailed(f"forward returns {type(out).__name__} instead of BagOutput.")
        widths = (1, 2) if case.n_classes == 2 else (case.n_classes,)
        if out.logits.ndim != 2 or len(out.logits) != len(bags) or out.logits.shape[1] not in widths:
            wanted = " or ".join(f"({len(bags)}, {k})" for k in widths)
            raise CheckFailed(
                f"logits have shape {tuple(out.logits.shape)} instead of {wanted} for {case.n_classes} classes."
            )
        for name, value, rows in (
            ("attention", out.attention, bags.x.shape[0]),
            ("embedding", out.embedding, len(bags)),
        ):
            if value is not None and (value.ndim != 2 or len(value) != rows):
                raise CheckFailed(f"{name} has shape {tuple(value.shape)} instead of ({rows}, any) or None.")


def probabilities_sum_to_one(case: Case) -> None:
    """Probabilities have shape (B, n_classes), lie in [0, 1], and every row sums to 1."""
    model, bags = case.model(), join(case.bags(scales=SCALES))
    p = model.probabilities(predict(model, bags))
    if tuple(p.shape) != (len(bags), case.n_classes):
        raise CheckFailed(f"probabilities have shape {tuple(p.shape)} instead of ({len(bags)}, {case.n_classes}).")
    if not bool(((p >= 0) & (p <= 1)).all()):
        raise CheckFailed(f"probabilities reach from {float(p.min()):.3g} to {float(p.max()):.3g}, outside [0, 1].")
    worst = float((p.sum(dim=1) - 1).abs().max())
    if not worst <= 1e-5:
        raise CheckFailed(f"rows of the probabilities miss 1 by {worst:.1e} (tolerance 1e-05).")


def logits_are_scores(case: Case) -> None:
    """Logits are scores of any size, not probabilities: the loss and `probabilities` take their softmax or sigmoid."""
    rows: list[tuple[Tensor, Tensor]] = []
    best = 0.0
    # Other parameters than those of the start as well, so that a head that begins at zero, or near it, is no finding.
    for seed, spread in enumerate((0.0, 0.0, 0.3, 1.0, 1.0, 3.0, 3.0, 10.0, 10.0, 10.0)):
        model, bags = case.model(seed=seed), join(case.bags(scales=SCALES, seed=seed))
        if spread:
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(spread * torch.randn_like(parameter))
        out = predict(model, bags)
        finite_rows = torch.isfinite(out.logits).all(dim=1)
        p = model.probabilities(out)[finite_rows]
        rows.append((out.logits[finite_rows], p))
        if len(p):
            best = max(best, float(p.max()))
        if seed >= 1 and best >= _SURE and _reaches(rows):
            return
    logits = torch.cat([own for own, _ in rows]).double()
    p = torch.cat([of_class for _, of_class in rows]).double()
    if len(p) == 0:
        raise Skip("no logit was finite for random parameters")
    sums = (logits.sum(dim=1) - 1).abs().max()
    if logits.shape[1] > 1 and bool((logits >= 0).all()) and float(sums) < 1e-4:
        if float((p - logits).abs().max()) < 1e-4:
            return  # the method has a loss and probabilities of its own for them
        raise CheckFailed(
            "in every row the logits are non-negative and sum to 1: they are probabilities, whose softmax stays within "
            f"[{float(p.min()):.2f}, {float(p.max()):.2f}]; return what the softmax is taken of."
        )
    if logits.shape[1] == 1 and bool(((logits >= 0) & (logits <= 1)).all()):
        raise CheckFailed(
            "every logit lies in [0, 1]: it is a probability, whose sigmoid stays within "
            f"[{float(p.min()):.2f}, {float(p.max()):.2f}]; return what the sigmoid is taken of."
        )
    if not _reaches(rows):
        side = "never below 0" if bool((logits >= 0).all()) else "never above 0"
        raise CheckFailed(f"the one logit is {side}, so that one of the two classes is never predicted.")
    raise CheckFailed(
        f"whatever the parameters and bags, no class has a probability above {best:.3f}; the logits stay in a range "
        "(by a sigmoid, tanh or clamp), and no bag can be classified with certainty."
    )


#: a probability that some random model gives to some bag unless its logits are bounded
_SURE = 0.99


def _reaches(rows: Sequence[tuple[Tensor, Tensor]]) -> bool:
    """Whether logits of one column take both signs; true of several columns, which are compared with each other."""
    logits = torch.cat([own for own, _ in rows])
    return logits.shape[1] > 1 or (bool((logits > 0).any()) and bool((logits < 0).any()))


def log_odds_agree(case: Case) -> None:
    """Log-odds have shape (B, n_classes), are finite float64, and those of the probabilities where these are rounded
    neither to 0 nor to 1; bags are ranked by them."""
    model, bags = case.model(), join(case.bags(scales=SCALES))
    out = predict(model, bags)
    p, s = model.probabilities(out).double(), model.log_odds(out)
    if tuple(s.shape) != (len(bags), case.n_classes) or s.dtype != torch.float64:
        wanted = f"({len(bags)}, {case.n_classes}) in float64"
        raise CheckFailed(f"log_odds have shape {tuple(s.shape)} in {str(s.dtype)[6:]} instead of {wanted}.")
    if not bool(torch.isfinite(s).all()):
        raise CheckFailed("log_odds are not finite.")
    worst = float((torch.sigmoid(s) - p / p.sum(dim=1, keepdim=True)).abs().max())
    if not worst <= 1e-4:
        raise CheckFailed(
            f"log_odds stand for probabilities that differ from those of the method by {worst:.1e} (tolerance 1e-04); "
            "a method that defines probabilities of its own defines log_odds to them, or none."
        )


def attention_on_request(case: Case) -> None:
    """Attention is None unless requested, and requesting it changes no logit."""
    model, bags = case.model(), join(case.bags())
    plain, with_attention = predict(model, bags), predict(model, bags, attention=True)
    if plain.attention is not None:
        raise CheckFailed("attention is returned though it was not requested; it costs memory on every forward pass.")
    same(with_attention.logits, plain.logits, "logits", "a request for attention must not change the prediction.")


def everything_finite(case: Case) -> None:
    """Outputs, loss and gradients of finite features are finite."""
    model, bags = case.model(train=True), join(case.bags(scales=SCALES))
    out = model(bags, attention=True)
    loss = model.loss(out, case.targets(len(bags)))
    loss.backward()
    finite(out.logits, "logits")
    finite(loss, "the loss")
    for name, value in (("attention", out.attention), ("embedding", out.embedding)):
        if value is not None:
            finite(value, name)
    for name, p in model.named_parameters():
        if p.grad is not None:
            finite(p.grad, f"the gradient of {name}")


def one_instance(case: Case) -> None:
    """A batch of one bag of one instance works, in training too."""
    bag = case.bags((1,))[0]
    finite(predict(case.model(), bag).logits, "logits of a bag of one instance")
    model = case.model(train=True)
    loss = model.loss(model(bag), case.targets(1))
    finite(loss, "the loss of a bag of one instance")
    loss.backward()
    for name, p in model.named_parameters():
        if p.grad is not None:
            finite(p.grad, f"the gradient of {name} for a bag of one instance")


def gradient_reaches_all(case: Case) -> None:
    """Every trainable parameter receives a gradient that is not zero in at least one of four random batches."""
    model = case.model(train=True)
    reached: dict[str, float | None] = {name: None for name, p in model.named_parameters() if p.requires_grad}
    for batch in range(4):
        model.zero_grad(set_to_none=True)
        bags = join(case.bags((5, 1, 33, 20, 12, 40), seed=10 + batch))
        model.loss(model(bags), case.targets(len(bags), shift=batch)).backward()
        for name, p in model.named_parameters():
            if p.grad is not None and name in reached:
                reached[name] = max(reached[name] or 0.0, float(p.grad.abs().max()))
    dead = [f"{name} ({'no gradient' if most is None else 'gradient 0'})" for name, most in reached.items() if not most]
    if dead:
        raise CheckFailed(f"{len(dead)} of {len(reached)} parameters never learn: {', '.join(dead)}.")


def state_dict_round_trip(case: Case) -> None:
    """Another instance that loads the state_dict predicts the same: nothing that matters lives outside it."""
    model, other, bags = case.model(train=True), case.model(seed=1), join(case.bags(SMALL))
    model(bags)  # buffers that training moves must travel too
    other.load_state_dict(model.state_dict())
    want = predict(model.eval(), bags).logits
    same(predict(other, bags).logits, want, "logits of a model that loaded the state_dict",
         "a checkpoint does not restore the method.", tolerance=1e-6)  # fmt: skip


def same_seed_same_model(case: Case) -> None:
    """The same torch seed gives the same initial parameters."""
    first, second = case.model().state_dict(), case.model().state_dict()
    other = [name for name in first if not torch.equal(first[name], second[name])]
    if other:
        raise CheckFailed(f"two models made from one torch seed differ in {', '.join(other)}; runs cannot be repeated.")


def eval_has_no_chance(case: Case) -> None:
    """In eval mode the prediction does not depend on the random state: no dropout, no sampling."""
    model, bags = case.model(), join(case.bags())
    torch.manual_seed(1)
    first = predict(model, bags).logits
    torch.manual_seed(2)
    same(predict(model, bags).logits, first, "logits of a second forward pass in eval mode",
         "something random (dropout?) is active in eval mode.", tolerance=1e-6)  # fmt: skip


def training_follows_the_seed(case: Case) -> None:
    """In train mode the same torch seed gives the same outputs and the same loss."""
    model, bags = case.model(train=True), join(case.bags(SMALL))
    seen = []
    for _ in range(2):
        torch.manual_seed(7)
        out = predict(model, bags)
        seen.append((out.logits, model.loss(out, case.targets(len(bags)))))
    for what, first, second in zip(("logits", "the loss"), *seen, strict=True):
        same(second, first, f"{what} in train mode from the same torch seed",
             "the method draws random numbers from another source than torch's generator, so no run can be repeated.",
             tolerance=1e-6)  # fmt: skip


def inference_mode_agrees(case: Case) -> None:
    """Logits are the same with gradients, without, and under torch.inference_mode."""
    model, bags = case.model(), join(case.bags())
    want = model(bags).logits.detach()
    same(
        predict(model, bags).logits, want, "logits under no_grad", "the path without gradients computes something else."
    )
    with torch.inference_mode():
        got = model(bags).logits.clone()
    same(got, want, "logits under inference_mode", "the path without gradients computes something else.")


def input_untouched(case: Case) -> None:
    """Forward and backward leave the features as they were: they may be a view into the cache."""
    model, bags = case.model(train=True), join(case.bags(SMALL))
    before = bags.x.clone()
    model.loss(model(bags, attention=True), case.targets(len(bags))).backward()
    if not torch.equal(bags.x, before):
        raise CheckFailed(f"{int((bags.x != before).any(dim=1).sum())} rows of the features were overwritten in place.")


def bf16_autocast(case: Case) -> None:
    """Under bf16 autocast everything stays finite, logits stay near those of fp32, and the loss is fp32."""
    model, bags = case.model(), join(case.bags())
    want, targets = predict(model, bags).logits, case.targets(len(bags))
    with torch.autocast(torch.device(case.device).type, dtype=torch.bfloat16):
        out = model(bags)
        loss = model.loss(out, targets)
    loss.backward()
    finite(out.logits, "logits under bf16 autocast")
    if loss.dtype != torch.float32:
        raise CheckFailed(
            f"the loss under bf16 autocast is {loss.dtype}; losses are fp32, or small improvements round away."
        )
    finite(loss, "the loss under bf16 autocast")
    for name, p in model.named_parameters():
        if p.grad is not None:
            finite(p.grad, f"the gradient of {name} under bf16 autocast")
    same(out.logits.detach(), want, "logits under bf16 autocast", "a sum or a division that needs fp32 runs in bf16.",
         tolerance=BF16_TOLERANCE)  # fmt: skip


def cuda_agrees(case: Case) -> None:
    """The model moved to CUDA predicts what it predicts on the CPU."""
    if not torch.cuda.is_available():
        raise Skip("this machine has no CUDA device")
    model, bags = case.model().cpu(), join(case.bags(scales=SCALES)).to("cpu")
    want = predict(model, bags, attention=True)
    tf32 = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        got = predict(model.cuda(), bags.to("cuda"), attention=True)
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = tf32
    for name in ("logits", "attention", "embedding"):
        here, there = getattr(want, name), getattr(got, name)
        if here is not None:
            same(there.cpu(), here, f"{name} on CUDA", "they differ from those on the CPU.", tolerance=CUDA_TOLERANCE)


def loss_is_a_scalar(case: Case) -> None:
    """The loss is one finite fp32 number that can be differentiated."""
    model, bags = case.model(train=True), join(case.bags(SMALL))
    loss = model.loss(model(bags), case.targets(len(bags)))
    if loss.ndim != 0:
        raise CheckFailed(f"the loss has shape {tuple(loss.shape)} instead of ().")
    if loss.dtype != torch.float32:
        raise CheckFailed(f"the loss is {loss.dtype} instead of fp32.")
    finite(loss, "the loss")
    if not loss.requires_grad:
        raise CheckFailed("the loss has no gradient; something on the way is detached.")
    loss.backward()


def loss_is_the_mean(case: Case) -> None:
    """The loss of a batch is the mean of the losses of its bags, in value and in gradient."""
    model, singles = case.model(), case.bags(SMALL)
    targets = case.targets(len(singles))
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    meaning = "the learning rate would mean something else at every batch size."

    def measure(bags: Bags, target: Tensor) -> tuple[Tensor, list[Tensor]]:
        loss = model.loss(model(bags), target)
        gradients = torch.autograd.grad(loss, [p for _, p in named], allow_unused=True)
        return loss.detach(), [
            torch.zeros_like(p) if g is None else g for g, (_, p) in zip(gradients, named, strict=True)
        ]

    together, slopes = measure(join(singles), targets)
    alone = [measure(bag, targets[i : i + 1]) for i, bag in enumerate(singles)]
    mean = torch.stack([loss for loss, _ in alone]).mean()
    same(together, mean, "the loss of a batch against the mean over its bags", meaning)
    size = 1e-2 * max((float(g.abs().max()) for g in slopes if g.numel()), default=0.0)
    for k, (name, _) in enumerate(named):
        mean = torch.stack([own[k] for _, own in alone]).mean(dim=0)
        same(slopes[k], mean, f"the gradient of the loss at {name} against the mean over bags", meaning,
             tolerance=GRADIENT_TOLERANCE, size=size)  # fmt: skip


def wrong_width_is_refused(case: Case) -> None:
    """Features of another width raise MilbenchError."""
    model = case.model()
    bags = Bags(torch.randn(4, case.in_dim + 1, device=case.device), [4])
    refused(lambda: predict(model, bags), f"{case.in_dim + 1}-d features for a model of {case.in_dim}-d ones")


def nan_is_refused(case: Case) -> None:
    """A NaN in the features raises MilbenchError on the CPU, wherever it is (on CUDA the training loop checks)."""
    model = case.model().cpu()
    for row, column in ((0, 0), (9, case.in_dim - 1), (-1, 0)):
        bags = join(case.bags(SMALL)).to("cpu")
        bags.x[row, column] = float("nan")
        refused(lambda b=bags: predict(model, b), "features with a NaN")  # type: ignore[misc]


def empty_bag_is_refused(case: Case) -> None:
    """A bag without instances raises MilbenchError."""
    model, one = case.model(), case.bags((3,))[0]
    refused(lambda: predict(model, Bags.pack([one.x, one.x[:0]])), "batches with an empty bag")


def after_step_trains_nothing(case: Case) -> None:
    """What follows an optimizer step changes no trainable parameter (if the method defines ``after_step``)."""
    if not case.method.cls.has_own("after_step"):
        raise Skip("the method defines no after_step")
    model = case.model(train=True)
    before = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    bags = join(case.bags(SMALL))
    model.loss(model(bags), case.targets(len(bags))).backward()
    with torch.no_grad():
        model.after_step(0.5)
    after = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if changed := sorted(before.keys() ^ after.keys()):
        raise CheckFailed(f"after_step makes {changed[0]} trainable, or no longer so; the optimizer was made before.")
    for name, value in before.items():
        if not torch.equal(value, after[name]):
            raise CheckFailed(f"after_step changes the parameter {name}, which the optimizer trains.")


CHECKS: tuple[Callable[[Case], None], ...] = (
    card_and_recipe,
    parameters_have_types,
    output_shapes,
    probabilities_sum_to_one,
    logits_are_scores,
    log_odds_agree,
    attention_on_request,
    everything_finite,
    one_instance,
    gradient_reaches_all,
    batch_invariance,
    batch_invariance_of_gradients,
    no_gradient_between_bags,
    batch_invariance_of_attention,
    stacked_as_declared,
    permutation_as_declared,
    attention_normalised,
    attention_in_row_order,
    state_dict_round_trip,
    same_seed_same_model,
    eval_has_no_chance,
    training_follows_the_seed,
    after_step_trains_nothing,
    inference_mode_agrees,
    input_untouched,
    bf16_autocast,
    cuda_agrees,
    loss_is_a_scalar,
    loss_is_the_mean,
    wrong_width_is_refused,
    nan_is_refused,
    empty_bag_is_refused,
)
