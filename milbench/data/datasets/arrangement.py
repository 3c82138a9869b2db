"""arrangement: both classes hold the same instances, only where they lie differs; or, by a dial, what they are does.

Made for milbench (no paper): a test of correlated against iid pooling. A bag is a square grid of cells, each with a
standard normal instance, ``signals`` of which have ``shift`` added to their first feature. Rows are stored row-major,
with coordinates (column, row), as patches of a slide are. ``form`` says what tells the two layouts apart:

- ``storage``: in a ``block`` the signals lie in one square block at a random place, ``scattered`` in cells drawn at
  random without replacement (which form a block with a probability of 36 / C(64, 9) = 1.3e-9 on the default grid; such
  a bag keeps its label). Rows of a block are neighbours in storage order too, so whoever reads along it sees runs: of
  TransMIL the value convolution, the landmarks where they are means of several rows, and PPEG.
- ``planar``: in a ``column`` the signals lie below each other, one in each of as many grid rows; a ``jagged`` line
  steps 4 to 7 cells to the left or right as well (past the edge it goes on in a neighbouring row). The first signal's
  place and the mean step have the same distribution in both. Between two signals lie at least 32 other rows of storage,
  so that any 33 consecutive rows hold one signal at most in either layout: TransMIL's value convolution along storage
  order, 33 rows wide, and landmarks of at most 33 rows see the same in both. That holds for one layer: what a first
  layer has spread over 33 rows a second could put together, and tell the gaps between signals apart. A kernel over the
  grid sees neighbours above and below in one only: a jagged step is wider than the reach (3 cells) of PPEG's widest
  kernel.
- ``coordinates``: as ``storage``, with the rows of every bag shuffled. Only the coordinates tell, and a method that
  does not read them (TransMIL does not) has nothing more than a permutation-invariant one.

With ``composition`` = 0 the layout is the label. A bag's instances are drawn before its label is read, so the
multiset of instances has exactly one distribution: every permutation-invariant pooling has a Bayes AUC of 0.5. The dial
moves the signal from the layout into the instances: at ``composition`` = c the layout agrees with the label with
probability 1 - c/2, and the second feature of all signals is shifted too, up or down by ``shift``; whether it is up
agrees with the label with probability (1 + c)/2. Both coins are independent given the label. At c = 1 the layout says
nothing and every pooling can solve it. With signals that cannot be missed, a permutation-invariant method has a Bayes
AUC of (1 + c)/2 and one that sees only the layout 1 - c/2.

For the finite ``shift`` the likelihood of a bag under each layout is known: the mean over all blocks, over all subsets
of cells, or over all lines, computed exactly. From it come both posteriors kept for every bag, of whoever sees all of
it and of whoever does not see the order of its instances; the AUC of those of the test bags is their Bayes AUC.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import pandas as pd
from numpy.lib.stride_tricks import sliding_window_view
from pydantic import Field, model_validator
from scipy.special import expit, logsumexp

from ...config import Frozen
from ..cache.writer import CacheWriter
from ..fold import Fold
from . import Built
from ._draw import stream
from ._likelihood import log_chain_mean, log_mean_exp, log_subset_mean, shift_evidence

VERSION = 1
#: Columns that a jagged line steps aside, wider than the reach of a 7 x 7 kernel.
_ASIDE = (4, 5, 6, 7)
#: Rows of storage that TransMIL's value convolution sees at once.
_TAPS = 33
#: Names of the classes, what does not hang together first.
_CLASSES = {
    "storage": ("scattered", "block"), "planar": ("jagged", "column"), "coordinates": ("scattered", "block"),
}  # fmt: skip


class Params(Frozen):
    """Parameters.

    Attributes:
        grid: cells a side; a bag has grid * grid instances.
        dim: width of the features.
        signals: number of shifted instances; for a block a square number whose root is at most the grid.
        shift: added to the first feature of a signal, in standard deviations.
        form: what tells the layouts apart, see above; ``planar`` needs a grid of 40 or more.
        composition: share of the signal that is in the instances, the rest being in the layout.
        train, val, test: numbers of bags.
        seed: of everything drawn.
    """

    grid: int = Field(8, ge=2)
    dim: int = Field(16, ge=1)
    signals: int = Field(9, ge=1)
    shift: float = 3.0
    form: Literal["storage", "planar", "coordinates"] = "storage"
    composition: float = Field(0.0, ge=0, le=1)
    train: int = Field(400, ge=4)
    val: int = Field(100, ge=4)
    test: int = Field(400, ge=4)
    seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _layout_is_possible(self) -> Params:
        if self.composition > 0 and self.dim < 2:
            raise ValueError("composition shifts the second feature of the signals; dim must be 2 or more")
        if self.form == "planar":
            if self.grid < _TAPS + max(_ASIDE):
                raise ValueError(
                    f"a planar grid must be {_TAPS + max(_ASIDE)} cells wide or more, so that signals of two grid rows "
                    f"are never within {_TAPS} rows of storage"
                )
            if self.signals < 2 or self.starts < 1:
                raise ValueError(f"signals must be 2 or more and their line fit the grid, which {self.signals} do not")
            return self
        side = math.isqrt(self.signals)
        if side * side != self.signals or side >= self.grid:
            raise ValueError(f"signals must be a square number below {self.grid**2}, such as 4 or 9, to lie in a block")
        return self

    @property
    def jagged(self) -> tuple[int, ...]:
        """Steps of a jagged line, in rows of storage."""
        return tuple(self.grid + sign * aside for sign in (-1, 1) for aside in _ASIDE)

    @property
    def starts(self) -> int:
        """Rows of storage a line of the planar form can begin at, whichever line it is."""
        return self.grid**2 - (self.signals - 1) * (self.grid + max(_ASIDE))


def build(writer: CacheWriter, params: Params) -> Built:
    """Draw instances, labels and places, each from its own stream of the seed."""
    labels: dict[str, int] = {}
    parts: dict[str, tuple[str, ...]] = {}
    known = []
    row, column = np.divmod(np.arange(params.grid**2), params.grid)
    coords = np.stack([column, row], axis=1)
    for number, part in enumerate(("train", "val", "test")):
        bags = getattr(params, part)
        label = np.random.default_rng([params.seed, number, 0]).permutation(np.arange(bags) % 2 == 1)
        instances = draw_instances(params, bags, np.random.default_rng([params.seed, number, 1]))
        agrees = stream(params.seed, part, "layout").random(bags) < 1 - params.composition / 2
        if params.composition > 0:
            up = label == (stream(params.seed, part, "composition").random(bags) < (1 + params.composition) / 2)
            instances[:, : params.signals, 1] += np.where(up, params.shift, -params.shift)[:, None]
        cells = draw_cells(params, label == agrees, np.random.default_rng([params.seed, number, 2]))
        stored = np.empty_like(instances)
        np.put_along_axis(stored, cells[:, :, None], instances, axis=1)
        names = tuple(f"{part}-{i:05d}" for i in range(bags))
        posterior, unordered = posteriors(params, stored)
        known.append(pd.DataFrame({"slide_id": names, "posterior": posterior, "posterior_iid": unordered}))
        order = stream(params.seed, part, "rows")
        for name, is_one, x in zip(names, label, stored, strict=True):
            labels[name] = int(is_one)
            rows = order.permutation(len(x)) if params.form == "coordinates" else slice(None)
            writer.add(name, x[rows], coords[rows], coord_step=1)
        parts[part] = names
    return Built(labels, _CLASSES[params.form], Fold("fold0", **parts), bags=pd.concat(known, ignore_index=True))


def draw_instances(params: Params, bags: int, rng: np.random.Generator) -> np.ndarray:
    """Draw the instances of bags of either class: (B, grid * grid, dim) float32, the signals first."""
    x = rng.standard_normal((bags, params.grid**2, params.dim), dtype=np.float32)
    x[:, : params.signals, 0] += params.shift
    return x


def draw_cells(params: Params, together: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw where instances lie: (B, grid * grid), the cell of each instance, every row a permutation.

    Args:
        params: of the dataset.
        together: (B,) whether the layout is the block or the column.
        rng: the random generator.
    """
    if params.form == "planar":
        first = rng.integers(params.starts, size=(len(together), 1))
        steps = rng.choice(params.jagged, size=(len(together), params.signals - 1))
        steps[together] = params.grid
        places = np.cumsum(np.concatenate([first, steps], axis=1), axis=1)
        taken = np.zeros((len(together), params.grid**2), dtype=bool)
        np.put_along_axis(taken, places, True, axis=1)
    else:
        side = math.isqrt(params.signals)
        row, column = np.divmod(np.arange(params.grid**2), params.grid)
        top, left = rng.integers(params.grid - side + 1, size=(2, len(together), 1))
        taken = (row >= top) & (row < top + side) & (column >= left) & (column < left + side) & together[:, None]
    order = rng.random((len(together), params.grid**2))
    # Sorting random numbers is a random permutation; the cells taken come first, where the signals are.
    return np.argsort(np.where(taken, order - 1, order), axis=1)


def posteriors(params: Params, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the posterior probability of class 1, with and without the order of instances.

    Args:
        params: of the dataset.
        x: (B, grid * grid, dim) features in the order of the cells.

    Returns:
        two arrays (B,); the classes are equally likely beforehand.
    """
    p, q = (1 + params.composition) / 2, 1 - params.composition / 2
    first = shift_evidence(x[:, :, 0], params.shift)
    turns, chances = ([0.0], [1.0]) if params.composition == 0 else ([params.shift, -params.shift], [p, 1 - p])
    ordered, unordered = [], []
    for turn in turns:
        evidence = first if turn == 0 else first + shift_evidence(x[:, :, 1], turn)
        unordered.append(log_subset_mean(evidence, params.signals))
        if params.form == "planar":
            ordered += [
                log_chain_mean(evidence, params.signals, params.starts, steps)
                for steps in ((params.grid,), params.jagged)
            ]
        else:
            ordered += [log_mean_exp(_block_sums(params, evidence)), unordered[-1]]
    return _posterior(ordered, np.outer(chances, [q, 1 - q]).ravel()), _posterior(unordered, np.array(chances))


def _block_sums(params: Params, evidence: np.ndarray) -> np.ndarray:
    """Return the summed evidence of every block: (B, grid * grid) -> (B, places)."""
    side = math.isqrt(params.signals)
    grid = evidence.reshape(-1, params.grid, params.grid)
    return sliding_window_view(grid, (side, side), axis=(1, 2)).sum(axis=(-2, -1)).reshape(len(evidence), -1)


def _posterior(logs: list[np.ndarray], chances: np.ndarray) -> np.ndarray:
    """Return the posterior of class 1 from log likelihoods (B,) and their probabilities in class 1.

    Both coins agree with the label in class 1 as often as they disagree with it in class 0, which therefore has the
    same probabilities in reverse order.
    """
    values = np.stack(logs)
    ones, zeros = (logsumexp(values, axis=0, b=weights[:, None]) for weights in (chances, chances[::-1]))
    return expit(ones - zeros)
