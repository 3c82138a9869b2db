"""Autocast, queried and switched off for the device of a tensor; torch's meta device (shapes alone) has none."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def autocasts(x: Tensor) -> bool:
    """Whether autocast is on where ``x`` lies."""
    return x.device.type != "meta" and torch.is_autocast_enabled(x.device.type)


def without_autocast(x: Tensor) -> AbstractContextManager[object]:
    """Return the context in which products with ``x`` are in its own dtype."""
    return nullcontext() if x.device.type == "meta" else torch.autocast(x.device.type, enabled=False)


def product_dtype(x: Tensor) -> torch.dtype:
    """Dtype of the products with ``x``: autocast's where it is on, its own elsewhere."""
    return torch.get_autocast_dtype(x.device.type) if autocasts(x) else x.dtype
