"""Feature caches: layout on disk, reader, writer, and how one is built from the files of another tool.

The names below are loaded on first use: reading the layout of a cache needs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .build import build_cache
    from .reader import FeatureCache
    from .writer import CacheWriter

__all__ = ["CacheWriter", "FeatureCache", "build_cache"]

_HOME = {"CacheWriter": "writer", "FeatureCache": "reader", "build_cache": "build"}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
