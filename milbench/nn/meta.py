"""Modules on torch's meta device, which has shapes and no values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


class WithoutDraws(TorchFunctionMode):
    """Makes `torch.randn` return uninitialised memory, for modules whose values nobody reads.

    On the meta device torch shapes the result of this function by code that imports sympy, half a second of processor
    time, for no value at all.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[Any],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Call a function of torch."""
        kwargs = dict(kwargs or {})
        if func is torch.randn:
            kwargs.pop("generator", None)
            func = torch.empty
        return func(*args, **kwargs)
