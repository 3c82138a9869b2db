"""What the checks of the contract stand on: a `Case` that makes models and bags, verdicts, comparisons that raise."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..bags import BagOutput, Bags
from ..errors import MilbenchError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ..aggregator import Aggregator
    from ..registry import Method

#: Relative to the size of what is compared: sums of some hundred fp32 terms in another order differ by about 1e-6,
#: while a leak between bags shows in the second digit.
TOLERANCE = 1e-4
#: Steep functions (a root near 0) make more of the same rounding in their gradients.
GRADIENT_TOLERANCE = 1e-3

#: One instance, fewer and more rows than TransMIL has landmarks, and features a hundred times apart in scale.
RAGGED = (5, 1, 33, 300, 12)
SCALES = (1.0, 10.0, 0.1, 1.0, 3.0)
SMALL = (7, 1, 20, 4)
EQUAL = (16, 16, 16)


class CheckFailed(Exception):  # noqa: N818 - a verdict of a check, caught by the runner; no user sees it raised
    """The method breaks the clause; the message says what was measured and what it means."""


class Skip(Exception):  # noqa: N818
    """The clause does not apply; the message is the reason."""


@dataclass(frozen=True)
class Case:
    """One method at one number of classes; makes the same models and data for the same seed."""

    method: Method
    in_dim: int
    n_classes: int
    seed: int = 0
    device: str = "cpu"

    def model(self, seed: int = 0, train: bool = False) -> Aggregator:
        """Build a fresh module from a seed of its own, in eval mode unless ``train``."""
        torch.manual_seed(self.seed * 1000 + seed)
        model = self.method.create(self.in_dim, self.n_classes).to(self.device).train(train)
        model.reset(torch.Generator(self.device).manual_seed(self.seed * 1000 + seed))
        return model

    def bags(self, lengths: Sequence[int] = RAGGED, scales: Sequence[float] | None = None, seed: int = 0) -> list[Bags]:
        """Make one-bag batches of normal features on a raster of patches 256 pixels apart."""
        random = torch.Generator().manual_seed(self.seed * 1000 + seed + 1)
        made = []
        for i, n in enumerate(lengths):
            x = torch.randn(n, self.in_dim, generator=random) * (1.0 if scales is None else scales[i % len(scales)])
            rows = torch.arange(n)
            side = math.ceil(math.sqrt(n))
            coords = 256.0 * torch.stack([rows % side, rows // side], dim=1)
            made.append(Bags(x, [n], coords).to(self.device))
        return made

    def targets(self, count: int, shift: int = 0) -> Tensor:
        """Return ``(count,)`` class indices that go round the classes."""
        return (torch.arange(count, device=self.device) + shift) % self.n_classes


def join(bags: Sequence[Bags], x: Tensor | None = None) -> Bags:
    """Put one-bag batches into one batch, over features ``x`` if given."""
    rows = torch.cat([b.x for b in bags]) if x is None else x
    lengths = [n for b in bags for n in b.lengths]
    coords = [b.coords for b in bags if b.coords is not None]
    return Bags(rows, lengths, torch.cat(coords) if len(coords) == len(bags) else None)


def permuted(bag: Bags, order: Tensor) -> Bags:
    """Return one bag with its rows, and their coordinates, in another order."""
    return Bags(bag.x[order], bag.lengths, None if bag.coords is None else bag.coords[order])


def predict(model: Aggregator, bags: Bags, attention: bool = False) -> BagOutput:
    """Run a forward pass without gradients."""
    with torch.no_grad():
        out: BagOutput = model(bags, attention=attention)
    return out


def attend(model: Aggregator, bags: Bags) -> Tensor:
    """Return the attention, or skip the check when the method has none."""
    attention = predict(model, bags, attention=True).attention
    if attention is None:
        raise Skip("the method returns no attention")
    return attention


def same(got: Tensor, want: Tensor, what: str, meaning: str, tolerance: float = TOLERANCE, size: float = 0.0) -> None:
    """Raise Broken when ``got`` is further from ``want`` than the tolerance times its size, or a given larger size."""
    if got.shape != want.shape:
        raise CheckFailed(f"{what}: shape {tuple(got.shape)} instead of {tuple(want.shape)}; {meaning}")
    if want.numel() == 0:
        return
    scale = max(float(want.abs().max()), size, torch.finfo(torch.float32).tiny)
    error = float((got.double() - want.double()).abs().max()) / scale
    if not error <= tolerance:  # written so that NaN is broken
        raise CheckFailed(f"{what} differs by {error:.1e} of its size (tolerance {tolerance:.0e}); {meaning}")


def finite(value: Tensor, what: str) -> None:
    """Raise Broken when a tensor holds NaN or infinite values."""
    bad = int((~torch.isfinite(value)).sum())
    if bad:
        raise CheckFailed(f"{what}: {bad} of {value.numel()} values are NaN or infinite for finite features.")


def refused(call: Callable[[], Any], what: str) -> None:
    """Raise Broken unless the call raises MilbenchError."""
    try:
        call()
    except MilbenchError:
        return
    except Exception as error:
        raise CheckFailed(
            f"{what} end in {type(error).__name__} instead of a MilbenchError that names the fix."
        ) from error
    raise CheckFailed(
        f"{what} are accepted without an error; raise MilbenchError, as Aggregator.forward does if left alone."
    )
