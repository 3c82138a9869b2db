"""arrangement: both classes hold the same instances, only where they lie differs.

Made for milbench (no paper): a test of correlated against iid pooling. A bag is a square grid of cells, each with a
standard normal instance, ``signals`` of which have ``shift`` added to their first feature. In class ``block`` these
lie in one square block at a random place, in class ``scattered`` in cells drawn at random without replacement (which
form a block with a probability of 36 / C(64, 9) = 1.3e-9 on the default grid; such a bag keeps its label). A bag's
instances are drawn before its label is looked at, so the multiset of instances has exactly one distribution: every
permutation-invariant pooling has a Bayes AUC of 0.5. Rows are stored row-major, with coordinates (column, row), as
patches of a slide are.
"""

from __future__ import annotations

import math

import numpy as np
from pydantic import Field, model_validator

from ...spec import Frozen
from ..splits import Fold
from ..writer import CacheWriter
from . import Built

VERSION = 1


class Params(Frozen):
    """Parameters.

    Attributes:
        grid: cells a side; a bag has grid * grid instances.
        dim: width of the features.
        signals: number of shifted instances, a square number whose root fits the grid.
        shift: added to the first feature of a signal, in standard deviations.
        train, val, test: numbers of bags.
        seed: of everything drawn.
    """

    grid: int = Field(8, ge=2)
    dim: int = Field(16, ge=1)
    signals: int = Field(9, ge=1)
    shift: float = 3.0
    train: int = Field(400, ge=4)
    val: int = Field(100, ge=4)
    test: int = Field(400, ge=4)
    seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _square_block(self) -> Params:
        side = math.isqrt(self.signals)
        if side * side != self.signals or side >= self.grid:
            raise ValueError(f"signals must be a square number below {self.grid**2}, such as 4 or 9, to lie in a block")
        return self


def build(writer: CacheWriter, params: Params) -> Built:
    """Draw instances, labels and places, each from its own stream of the seed."""
    labels: dict[str, int] = {}
    parts: dict[str, tuple[str, ...]] = {}
    row, column = np.divmod(np.arange(params.grid**2), params.grid)
    coords = np.stack([column, row], axis=1)
    for number, part in enumerate(("train", "val", "test")):
        bags = getattr(params, part)
        is_block = np.random.default_rng([params.seed, number, 0]).permutation(np.arange(bags) % 2 == 1)
        instances = draw_instances(params, bags, np.random.default_rng([params.seed, number, 1]))
        cells = draw_cells(params, is_block, np.random.default_rng([params.seed, number, 2]))
        stored = np.empty_like(instances)
        np.put_along_axis(stored, cells[:, :, None], instances, axis=1)
        names = tuple(f"{part}-{i:05d}" for i in range(bags))
        for name, label, x in zip(names, is_block, stored, strict=True):
            labels[name] = int(label)
            writer.add(name, x, coords, coord_step=1)
        parts[part] = names
    return Built(labels, ("scattered", "block"), Fold("fold0", **parts))


def draw_instances(params: Params, bags: int, rng: np.random.Generator) -> np.ndarray:
    """Draw the instances of bags of either class: (B, grid * grid, dim) float32, the signals first."""
    x = rng.standard_normal((bags, params.grid**2, params.dim), dtype=np.float32)
    x[:, : params.signals, 0] += params.shift
    return x


def draw_cells(params: Params, is_block: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw where instances lie: (B, grid * grid), the cell of each instance, every row a permutation."""
    side = math.isqrt(params.signals)
    row, column = np.divmod(np.arange(params.grid**2), params.grid)
    top, left = rng.integers(params.grid - side + 1, size=(2, len(is_block), 1))
    in_block = (row >= top) & (row < top + side) & (column >= left) & (column < left + side)
    order = rng.random((len(is_block), params.grid**2))
    # Sorting random numbers is a random permutation; a block's cells come first, where the signals are.
    return np.argsort(np.where(is_block[:, None] & in_block, order - 1, order), axis=1)
