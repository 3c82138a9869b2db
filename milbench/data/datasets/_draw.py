"""What the synthetic datasets share: named random streams, labels, names, and the side table of instances."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd


def stream(seed: int, *names: str) -> np.random.Generator:
    """Return the generator of one random stream, named by part and purpose; another name is another stream.

    A number drawn more from one stream so leaves what the others give as it was.
    """
    return np.random.default_rng([seed, *"/".join(names).encode()])


def balanced(bags: int, rng: np.random.Generator) -> np.ndarray:
    """Return (B,) booleans in random order, half of them true (the smaller half of an odd number)."""
    return rng.permutation(np.arange(bags) % 2 == 1)


def bag_names(part: str, bags: int) -> tuple[str, ...]:
    """Return the ids of a part's bags: ``train-00000`` ..."""
    return tuple(f"{part}-{i:05d}" for i in range(bags))


def instance_rows(names: Sequence[str], lengths: np.ndarray) -> pd.DataFrame:
    """Return ``slide_id`` (a categorical: a name once, not once a row) and ``row`` of the instances of some bags."""
    lengths = np.asarray(lengths, dtype=np.int64)
    slide = pd.Categorical.from_codes(np.repeat(np.arange(len(names)), lengths), categories=pd.Index(names))
    row = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return pd.DataFrame({"slide_id": slide, "row": row})
