"""Optimizers by name, as recipes spell them."""

from __future__ import annotations

import inspect
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from ..config import Recipe


class _Plain(torch.optim.Optimizer):
    """An optimizer of torch by the same code without its decorators, for a training that is not compiled.

    They import torch's compiler, close to a second of every process, and with a small method they take a fifth of a
    step. An optimizer of this kind has no hooks and no place in a profile.
    """

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters, as in the constructor."""
        inspect.unwrap(torch.optim.Optimizer.add_param_group)(self, param_group)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients, whatever ``set_to_none`` says."""
        for group in self.param_groups:
            for p in group["params"]:
                p.grad = None


_Of = TypeVar("_Of", bound=torch.optim.Optimizer)


def _plain(of: type[_Of]) -> type[_Of]:
    take = inspect.unwrap(of.step)

    @torch.no_grad()
    def step(self: torch.optim.Optimizer) -> None:
        take(self)

    step.hooked = True  # type: ignore[attr-defined]  # else the constructor wraps it for hooks and profiles
    return cast(type[_Of], type(of.__name__, (_Plain, of), {"step": step}))


_Adam, _AdamW = _plain(torch.optim.Adam), _plain(torch.optim.AdamW)
_SGD, _RAdam = _plain(torch.optim.SGD), _plain(torch.optim.RAdam)


class Lookahead:
    """Lookahead (Zhang et al. 2019): every k steps move slow weights by alpha towards the fast ones and restart from
    there.

    Args:
        inner: the optimizer of the fast weights.
        k: fast steps between synchronisations.
        alpha: share of the way.
    """

    def __init__(self, inner: torch.optim.Optimizer, k: int = 6, alpha: float = 0.5) -> None:
        self.inner = inner
        self.k = k
        self.alpha = alpha
        self.steps = 0
        self.fast = [p for group in inner.param_groups for p in group["params"]]
        self.slow = [p.detach().clone() for p in self.fast]

    @property
    def param_groups(self) -> list[dict]:
        """The inner optimizer's parameter groups."""
        return self.inner.param_groups

    def zero_grad(self) -> None:
        """Forget the gradients."""
        self.inner.zero_grad(set_to_none=True)

    @torch.no_grad()
    def step(self) -> None:
        """Take one fast step, and synchronise after every k-th."""
        self.inner.step()
        self.steps += 1
        if self.steps % self.k == 0:
            torch._foreach_lerp_(self.slow, self.fast, self.alpha)
            torch._foreach_copy_(self.fast, self.slow)


Optimizer = torch.optim.Optimizer | Lookahead


def build_optimizer(
    parameters: Iterable[nn.Parameter] | Iterable[Tensor] | list[dict[str, Any]], recipe: Recipe
) -> Optimizer:
    """Build the optimizer a recipe names, of parameters or groups of them; `recipe.lr` is the rate at the start."""
    lr, decay, betas = recipe.lr, recipe.weight_decay, recipe.betas
    # Parameters that a method keeps out of training (a teacher) are neither decayed nor pulled back to Lookahead's slow
    # weights.
    params: list[Any] = [p for p in parameters if not isinstance(p, Tensor) or p.requires_grad]
    # One kernel for all parameters: at a bag a step the optimizer is a third of a small method's time.
    match recipe.optimizer:
        case "adam":
            return _Adam(params, lr=lr, weight_decay=decay, betas=betas, fused=True)
        case "adamw":
            return _AdamW(params, lr=lr, weight_decay=decay, betas=betas, fused=True)
        case "sgd":
            return _SGD(params, lr=lr, weight_decay=decay, momentum=recipe.momentum, fused=True)
        case "radam":
            return _RAdam(params, lr=lr, weight_decay=decay, betas=betas)
        case "lookahead-radam":
            return Lookahead(_RAdam(params, lr=lr, weight_decay=decay, betas=betas))


def learning_rate(recipe: Recipe, progress: float) -> float:
    """Return the rate after a share `progress` in [0, 1] of the training is done.

    Under a warm-up of share w it is lr (progress + w / 100) / w at first, so that no step is taken at rate 0, at most
    lr; the schedule then runs over what is left. Of ``plateau`` it is the rate before any `Plateau` has lowered it.
    ``one-cycle`` has a rise of its own, from lr / 25 over the warm-up, and a fall to lr / 250,000.
    """
    if recipe.schedule == "one-cycle":
        return _one_cycle(recipe, min(1.0, progress))
    if progress < recipe.warmup:
        return recipe.lr * min(1.0, progress / recipe.warmup + 0.01)
    if recipe.schedule in ("constant", "plateau"):
        return recipe.lr
    done = (min(1.0, progress) - recipe.warmup) / (1 - recipe.warmup)
    lowest = min(recipe.min_lr, recipe.lr)
    if recipe.schedule == "step":
        factor = 1.0 if done < 0.5 else 0.1 if done < 0.75 else 0.01
        return max(lowest, recipe.lr * factor)
    share = 0.5 * (1 + math.cos(math.pi * done)) if recipe.schedule == "cosine" else 1 - done
    return lowest + (recipe.lr - lowest) * share


def _one_cycle(recipe: Recipe, progress: float) -> float:
    rise = recipe.warmup or 0.3
    first, last = recipe.lr / 25, max(recipe.lr / 25e4, min(recipe.min_lr, recipe.lr))
    begin, end, done = (
        (first, recipe.lr, progress / rise) if progress < rise else (recipe.lr, last, (progress - rise) / (1 - rise))
    )
    return end + (begin - end) * 0.5 * (1 + math.cos(math.pi * done))


class Plateau:
    """The learning rate under ``schedule = "plateau"``: torch's ReduceLROnPlateau, apart from the optimizer.

    Args:
        recipe: its ``lr``, ``min_lr``, ``plateau_factor`` and ``plateau_patience``.
        higher_is_better: whether the monitored quantity is better when it is higher.
    """

    def __init__(self, recipe: Recipe, higher_is_better: bool) -> None:
        self._warmup = recipe.warmup
        # It changes the rate of an optimizer of torch's alone, which Lookahead is not.
        self._rate = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=recipe.lr)
        self._scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(
            self._rate, "max" if higher_is_better else "min", factor=recipe.plateau_factor,
            patience=recipe.plateau_patience, min_lr=min(recipe.min_lr, recipe.lr),
        )  # fmt: skip

    @property
    def lr(self) -> float:
        """Return the rate that the evaluations so far have left."""
        return float(self._rate.param_groups[0]["lr"])

    def evaluated(self, value: float, progress: float) -> None:
        """Take the monitored quantity of an evaluation after a share of the training.

        One during the warm-up does not count, nor one that is undefined (NaN).
        """
        if progress >= self._warmup and not math.isnan(value):
            self._scheduler.step(value)


def balanced_weights(labels: Sequence[int], n_classes: int) -> list[float]:
    """Return the weight N / (K n_c) of every class for N labels of K classes that occur; 0 for one that does not.

    The mean weight over the labels is 1.
    """
    counts = Counter(labels)
    return [len(labels) / (len(counts) * counts[c]) if counts[c] else 0.0 for c in range(n_classes)]
