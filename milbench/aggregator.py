"""Aggregator: the base class of every method. It validates inputs once, so that a method is only its mathematics."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping
from functools import wraps
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .bags import BagOutput, Bags
from .config import Card, Dimension, Recipe
from .errors import MilbenchError
from .nn.authors_state import load_authors_state
from .nn.autocast import autocasts
from .tasks import CLASSIFICATION, Task, task_named
from .tasks._class_logits import check_targets, head_log_odds, head_loss, head_probabilities

__all__ = [
    "Aggregator", "check_targets", "explain_nonfinite", "head_log_odds", "head_loss", "head_probabilities",
]  # fmt: skip

_Loss = Callable[["Aggregator", BagOutput, Tensor], Tensor]

#: Stands for a probability that underflowed: below every positive fp32 number, with a finite logarithm in float64.
_SMALLEST = 5e-324


def _with_checked_targets(loss: _Loss) -> _Loss:
    """Return a loss that refuses wrong targets before it is computed."""

    @wraps(loss)
    def checked(self: Aggregator, out: BagOutput, targets: Tensor) -> Tensor:
        if not self.targets_are_valid:
            self.target_task.check_tensor(targets, len(out.logits), self.n_classes)
        return loss(self, out, targets)

    checked.checks_targets = checked  # type: ignore[attr-defined]  # itself: `wraps` copies attributes to others
    return checked


class Aggregator(nn.Module, ABC):
    """A map from a bag of instance features to a prediction.

    A method subclasses this, fills in the class attributes and writes `pool`. It sees features, coordinates and, in its
    loss, the bag label; never an optimizer, a budget, a fold, a slide id or a device.

    Args:
        in_dim: width d of the instance features.
        n_classes: number of classes, at least 2.
    """

    card: ClassVar[Card]
    recipe: ClassVar[Recipe] = Recipe()
    search_space: ClassVar[dict[str, Dimension]] = {}
    #: stated by the class; where a parameter decides (an option that sorts the rows), by the model it made.
    permutation_invariant: bool = True
    #: Whether the columns of `BagOutput.attention` are those of the classes, in their order: a weight an instance each.
    #: Instances are then shown and removed by the weights of their bag's class, else by the mean over columns
    #: (`milbench.interpret`). It counts only where attention has n_classes columns.
    attention_by_class: bool = False
    #: Whether `pool` and `loss` are right as well for the parameters of several models on a leading axis, each with its
    #: own bags (`milbench.nn.stacked`): products of rows by linear layers or `milbench.nn.joint_linear` alone, axes of
    #: parameters counted from the last, no buffers, no randomness in training but ``nn.Dropout``, a loss that is a mean
    #: over the bags of logits and of every `aux`.
    stackable: ClassVar[bool] = False
    #: of a built-in method's arithmetic; raised when the same parameters would give other predictions or gradients, if
    #: only by rounding: a suite that is run again makes its runs again, and no other method's. An external
    #: method is identified by its source.
    revision: ClassVar[int] = 1
    #: prefix of a parameter's name in the authors' code -> prefix here; longest match wins.
    authors_names: ClassVar[dict[str, str]] = {}
    #: the task of the targets, set by the training loop where they are no class indices; the default `loss` is the
    #: task's.
    target_task: Task = task_named(CLASSIFICATION)
    #: set by the training loop, which checks all labels beforehand: `loss` then does not check them at every step.
    targets_are_valid: bool = False

    def __init_subclass__(cls, **options: Any) -> None:
        """Let every loss that a subclass defines check its targets; keep `log_odds` in step with `probabilities`."""
        super().__init_subclass__(**options)
        # Also one inherited from a class other than the bases, which is no Aggregator and so was not seen here.
        if getattr(cls.loss, "checks_targets", None) is not cls.loss:
            cls.loss = _with_checked_targets(cls.loss)  # type: ignore[method-assign]
        nearest = next(vars(base) for base in cls.__mro__ if {"log_odds", "probabilities"} & vars(base).keys())
        if "log_odds" not in nearest:
            cls.log_odds = _log_odds_of_probabilities  # type: ignore[method-assign]

    def __init__(self, in_dim: int, n_classes: int) -> None:
        super().__init__()
        self._refuse_own_target_task(type(self).target_task)
        if in_dim < 1:
            raise MilbenchError(f"in_dim must be at least 1, got {in_dim}.", code="method-bad-option")
        if n_classes < 2:
            raise MilbenchError(
                f"n_classes must be at least 2 (a binary problem has 2), got {n_classes}.", code="method-bad-option"
            )
        self.in_dim = in_dim
        self.n_classes = n_classes

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute; refuse one that would hide the task of the targets."""
        if name == "target_task":
            self._refuse_own_target_task(value)
        super().__setattr__(name, value)

    @classmethod
    def _refuse_own_target_task(cls, value: Any) -> None:
        if not isinstance(value, Task):
            raise MilbenchError(
                f"{cls.__name__} uses the name target_task for a {type(value).__name__}, but milbench keeps the task "
                "of the targets there; rename the attribute in the method.",
                code="method-malformed",
            )

    @abstractmethod
    def pool(self, bags: Bags, attention: bool) -> BagOutput:
        """Compute the output of validated bags; ``attention`` says whether the weights are wanted."""

    def forward(self, bags: Bags, attention: bool = False) -> BagOutput:
        """Predict for a batch of bags.

        Args:
            bags: B bags whose features have width `in_dim`, in any floating dtype.
            attention: also return the ``(N, h)`` attention weights, for methods that have them.

        Raises:
            MilbenchError: something else than Bags, features of another width, or (on CPU) NaN or infinite features
                that reach the logits.
        """
        if not isinstance(bags, Bags):
            raise MilbenchError(
                f"{type(self).__name__} takes Bags, not a {type(bags).__name__}; make them with Bags.pack([x]), x the "
                "(n, d) features of one bag.",
                code="bag-shape",
            )
        if bags.dim != self.in_dim:
            raise MilbenchError(
                f"{type(self).__name__} was made for {self.in_dim}-d features but the bags hold {bags.dim}-d ones.",
                code="features-wrong-width",
            )
        if not autocasts(bags.x):
            # A cache may hold half precision; without autocast the model computes in the precision of its parameters.
            bags = bags.to(dtype=next((p.dtype for p in self.parameters()), bags.x.dtype))
        out = self.pool(bags, attention)
        if not isinstance(out, BagOutput):
            raise MilbenchError(
                f"{type(self).__name__}.pool returns {type(out).__name__} instead of a BagOutput.",
                code="model-bad-output",
            )
        # A bad feature makes a bad logit. Checking B x k logits is free; checking N x d features would cost as
        # much as mean pooling itself, so they are read only to explain a bad logit. On CUDA even that would stall the
        # stream: there the training loop and the evaluation check values that they fetch anyway, and call
        # `explain_nonfinite`.
        if bags.x.device.type == "cpu" and not torch.isfinite(out.logits).all():
            explain_nonfinite(bags)
        return out

    @_with_checked_targets
    def loss(self, out: BagOutput, targets: Tensor) -> Tensor:
        """Return the mean training loss of a batch, a scalar in fp32.

        Cross-entropy over k = n_classes logits; binary cross-entropy where the head has one output for two classes. In
        a cohort of another task, the loss of that task (`milbench.tasks.Task.loss`); a method with a loss of its own
        is trained on classes alone.

        Args:
            out: returned by `forward` for B bags.
            targets: ``(B,)`` int64 class indices.

        Raises:
            MilbenchError: targets of another shape or type, or outside 0 .. n_classes - 1; also of a loss that a
                subclass defines.
        """
        return self.target_task.loss(out.logits, targets)  # checked already

    def probabilities(self, out: BagOutput) -> Tensor:
        """Return ``(B, n_classes)`` class probabilities in fp32; every row sums to 1."""
        return head_probabilities(out.logits)

    def log_odds(self, out: BagOutput) -> Tensor:
        """Return ``(B, n_classes)`` log-odds of every class against the rest, float64, by which bags are ordered.

        A probability is 1.0 from a log-odds of 16.6 on in fp32, and bags beyond tie; log-odds keep their order. A
        method with `probabilities` of its own defines these too, or its bags are ordered by what its probabilities
        keep.
        """
        return head_log_odds(out.logits)

    @classmethod
    def ordered_by_probabilities(cls) -> bool:
        """Whether the class defines `probabilities` alone, so that `log_odds` are computed from these."""
        return cls.log_odds is _log_odds_of_probabilities

    def reset(self, generator: torch.Generator) -> None:
        """Take the method's own random generator, before training begins.

        A method that draws in training beyond ``nn.Dropout`` (masks, patches, noise) keeps the generator and draws from
        it alone; its seed is derived from the seed of the run and recorded with it. The default keeps nothing.

        Args:
            generator: on the model's device.
        """

    def after_step(self, progress: float) -> None:
        """Change state that is not trained, after each optimizer step that was taken: a teacher, a queue, a schedule.

        It is not called where an fp16 scaler left the step out. It runs without gradients and changes no trainable
        parameter; a teacher's parameters have ``requires_grad = False`` (`torch.optim.swa_utils.AveragedModel` keeps
        one). A method that has it is never stacked. The default does nothing.

        Args:
            progress: share of the training that was done when the step began, in [0, 1].
        """

    def contributions(self, bags: Bags) -> tuple[Tensor, Tensor] | None:
        """Decompose the representation of one small bag: the contribution of every instance through every row.

        `milbench.interpret.pooling_matrix` draws its matrix from the norms of these parts where a method defines them,
        and estimates one elsewhere. It is called in eval mode, in float64, without gradients.

        Args:
            bags: one bag of n instances.

        Returns:
            ``(n, n, e)``, entry (i, j) the contribution of instance j to the bag's representation through row i; and
            ``(n, e')``, the embedded instances, whose norms the parts are divided by. None: not for this model, or not
            for this bag. The default is None.
        """
        return None

    @classmethod
    def has_own(cls, hook: str) -> bool:
        """Return whether the class gives a method or attribute of `Aggregator` a meaning of its own.

        Args:
            hook: its name: ``after_step``, ``reset``, ``contributions``, ``attention_by_class``, ``matrix_flops``,
                ``flop_terms``, ``loss`` or ``probabilities``.
        """
        return getattr(cls, hook) is not getattr(Aggregator, hook)

    def matrix_flops(self, n: int) -> int | None:
        """Operations of the matrix products that no forward pass over a bag of n instances avoids; None: not stated.

        A closed form, a multiplication and an addition each as one. ``milbench measure`` holds a method's time against
        it; where it is not stated, against the operations that were counted.
        """
        return None

    def flop_terms(self, n: int) -> tuple[Hashable, tuple[int, ...]] | None:
        """State what the counted operations of a training step of one bag of n instances depend on.

        Counting a step takes tenths of a second for a method of many operations, and a cohort has as many lengths as
        slides. Where this is stated, a few lengths are counted and the others computed from them, exactly.

        Returns:
            a piece and some integers, its terms: over all bags of one piece the operations are an affine function of
            the terms, whose coefficients depend on the model alone. A method that does the same to every instance
            returns ``("", (n,))``. None: not stated, every length is counted. It holds for the class that defines it
            and for no subclass, which may do something else.
        """
        return None

    def load_authors_state(self, state: Mapping[str, Any]) -> tuple[str, ...]:
        """Load parameters named as in the authors' code, from whatever their programs save them in.

        Taken off: a table around the parameters (``state_dict``, ``model_state_dict``, ``model`` ...) with its other
        entries (epoch, optimizer), and what a wrapper puts before a name (``module.`` of DataParallel, ``model.``
        of Lightning, ``_orig_mod.`` of torch.compile, or any one prefix of every name). Left out: buffers of a loss
        (CLAM's ``instance_loss_fn.labels``), which are no part of the model.

        Args:
            state: returned by ``torch.load``: a state_dict or a checkpoint that holds one.

        Returns:
            what was taken off or left out, one clause each; empty where the names were those of the authors.

        Raises:
            MilbenchError: a name that is unknown or missing, or a tensor of another shape; nothing is loaded then.
        """
        return load_authors_state(self, state)


def explain_nonfinite(bags: Bags) -> None:
    """Raise MilbenchError naming the first bag whose features are NaN or infinite; return when all are finite."""
    bad = ~torch.isfinite(bags.x).all(dim=1)
    if bad.any():
        row = int(bad.nonzero()[0])
        bag = int(bags.index[row])
        raise MilbenchError(
            f"features hold NaN or infinite values ({int(bad.sum())} rows, the first in bag {bag} of the batch); "
            "drop those rows or extract the features again.",
            code="features-not-finite",
        )


def _log_odds_of_probabilities(self: Aggregator, out: BagOutput) -> Tensor:
    """Return the float64 log-odds of a method's probabilities; see `Aggregator.log_odds`."""
    return head_log_odds(self.probabilities(out).double().clamp_min(_SMALLEST).log())
