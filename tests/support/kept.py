"""A writer that keeps a dataset's bags in memory: the bags that a dataset adds, without files."""

from __future__ import annotations

from typing import Any

import numpy as np


class Kept(dict[str, np.ndarray]):
    """Bags by name, in the order of writing; with their coordinates and coordinate steps."""

    def __init__(self) -> None:
        super().__init__()
        self.coords: dict[str, np.ndarray] = {}
        self.steps: dict[str, float | None] = {}
        self.meta: dict[str, Any] = {}

    def add(self, name: str, x: np.ndarray, coords: np.ndarray | None = None, coord_step: float | None = None) -> None:
        assert x.dtype == np.float32
        self[name] = x.copy()
        if coords is not None:
            self.coords[name] = coords.copy()
        self.steps[name] = coord_step
