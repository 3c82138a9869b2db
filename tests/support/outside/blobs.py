"""outside-blobs: bags of one or two blobs, by somebody else."""

import numpy as np

from milbench.config import Frozen
from milbench.data.datasets import Built
from milbench.data.fold import Fold

VERSION = 1


class Params(Frozen):
    """Parameters."""

    bags: int = 10
    shift: float = 2.0


def build(writer, params):
    """Draw as many bags for training, validation and test."""
    rng, labels = np.random.default_rng(0), {}
    parts = {part: tuple(f"{part}{i}" for i in range(params.bags)) for part in ("train", "val", "test")}
    for name in (name for names in parts.values() for name in names):
        labels[name] = len(labels) % 2
        x = rng.normal(size=(5, 3)).astype(np.float32)
        x[:, 0] += params.shift * labels[name]
        writer.add(name, x)
    return Built(labels, ("one", "two"), Fold("fold0", **parts))
