"""Modules that are imported when they are first used: half of the time of a small table is imports."""

from __future__ import annotations

from importlib import import_module
from typing import Any


class OnFirstUse:
    """A module whose attributes import it.

    Args:
        name: of the module.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        """Return an attribute of the module."""
        return getattr(import_module(self._name), attribute)
