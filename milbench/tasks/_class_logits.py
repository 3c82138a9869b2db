"""Logits of a softmax or a sigmoid: losses, probabilities and log-odds of class indices."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import MilbenchError


def check_targets(targets: Tensor, bags: int, n_classes: int) -> None:
    """Raise MilbenchError unless targets are ``(bags,)`` int64 class indices in 0 .. n_classes - 1.

    Their values are fetched from the device, so a CUDA stream waits; they are not checked while a graph is captured
    or compiled.
    """
    if not isinstance(targets, Tensor) or targets.dtype != torch.int64 or tuple(targets.shape) != (bags,):
        given = (
            f"{targets.dtype} of shape {tuple(targets.shape)}"
            if isinstance(targets, Tensor)
            else type(targets).__name__
        )
        raise MilbenchError(
            f"targets must be int64 class indices of shape ({bags},), one a bag, got {given}.", code="targets-bad"
        )
    if targets.is_meta or bags == 0 or torch.compiler.is_compiling():
        return
    if targets.is_cuda and torch.cuda.is_current_stream_capturing():
        return
    low, high = (int(v) for v in torch.aminmax(targets))
    if low < 0 or high >= n_classes:
        wrong = low if low < 0 else high
        raise MilbenchError(
            f"targets hold class {wrong}, but with {n_classes} classes they are 0 to {n_classes - 1}.",
            code="targets-bad",
        )


def head_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy, or binary cross-entropy for a one-output head; mean over bags, in fp32.

    Args:
        logits: ``(B, k)``; of one output two classes.
        targets: ``(B,)`` int64 class indices. A cross-entropy refuses others, a binary one would take any number.

    Raises:
        MilbenchError: targets of another shape or type, or outside the classes.
    """
    # On CUDA a cross-entropy refuses wrong classes by itself, and the stream does not wait.
    if logits.shape[1] == 1 or not isinstance(targets, Tensor) or not targets.is_cuda:
        check_targets(targets, len(logits), max(2, logits.shape[1]))
    return loss_of_classes(logits, targets)


def loss_of_classes(logits: Tensor, targets: Tensor) -> Tensor:
    """Return `head_loss` of targets that are checked."""
    logits = logits.float()
    if logits.shape[1] == 1:
        return F.binary_cross_entropy_with_logits(logits[:, 0], targets.to(logits.dtype))
    return F.cross_entropy(logits, targets)


def head_log_odds(logits: Tensor) -> Tensor:
    """Return ``(B, C)`` log-odds of every class against the rest, in float64, of the logits of a softmax or sigmoid.

    Of logits l it is l_c - log sum_{j != c} exp(l_j); of one logit z, (-z, z). Infinite ones become the largest
    number there is.
    """
    z = logits.double()
    if z.shape[1] == 1:
        odds = torch.cat([-z, z], dim=1)
    elif z.shape[1] == 2:
        odds = z - z.flip(1)
    else:
        own = torch.eye(z.shape[1], dtype=torch.bool, device=z.device)
        odds = z - z[:, None].masked_fill(own, -torch.inf).logsumexp(dim=2)
    return torch.nan_to_num(odds, nan=torch.nan)


def head_probabilities(logits: Tensor) -> Tensor:
    """Softmax, or (1 - p, p) with p a sigmoid for a one-output head; in fp32."""
    logits = logits.float()
    if logits.shape[1] == 1:
        p = torch.sigmoid(logits)
        return torch.cat([1 - p, p], dim=1)
    return torch.softmax(logits, dim=1)
