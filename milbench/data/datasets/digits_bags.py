"""digits-bags: bags of handwritten digits, positive when one of them is a 9.

Ilse, Tomczak, Welling: Attention-based Deep Multiple Instance Learning, ICML 2018, section 4.2 (MNIST-bags), on the
1,797 8 x 8 digits of scikit-learn (Alpaydin and Kaynak, UCI Optical Recognition of Handwritten Digits, 1998) instead
of MNIST.

As the authors' code: a bag's length is a draw of N(mean_length, std_length) truncated to an integer, at least 1; their
parameter ``var_bag_length`` is used as the standard deviation, as here. Instances are drawn with replacement from the
images of the bag's part (training, validation or test). Differently: half of the bags of every part are positive, and
a bag's length is drawn before its label's instances, so that neither prevalence nor length gives the label away; given
its length and its label a bag has the authors' distribution. Images are divided among the parts before any bag is
drawn, so that no image is in two of them.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from pydantic import Field

from ...config import Frozen
from ..cache.writer import CacheWriter
from ..fold import Fold
from . import Built

VERSION = 1
#: share of every digit's images that goes to training, validation and test
_SHARES = {"train": 0.5, "val": 0.15, "test": 0.35}


class Params(Frozen):
    """Parameters.

    Attributes:
        target: the digit that makes a bag positive.
        mean_length, std_length: of the normal distribution of bag lengths, in images.
        train, val, test: numbers of bags.
        seed: of everything drawn.
    """

    target: int = Field(9, ge=0, le=9)
    mean_length: float = Field(10.0, ge=1)
    std_length: float = Field(2.0, ge=0)
    train: int = Field(300, ge=4)
    val: int = Field(100, ge=4)
    test: int = Field(400, ge=4)
    seed: int = Field(0, ge=0)


def build(writer: CacheWriter, params: Params) -> Built:
    """Draw the bags; features are the 64 pixels, scaled to [0, 1]."""
    from sklearn.datasets import load_digits

    pixels, digits = load_digits(return_X_y=True)
    pixels = (pixels / 16).astype(np.float32)
    rng = np.random.default_rng(params.seed)
    pools = divide_images(digits, rng)
    labels: dict[str, int] = {}
    parts: dict[str, tuple[str, ...]] = {}
    frames = []
    for part, pool in pools.items():
        bags = getattr(params, part)
        is_positive, lengths, images = draw_bags(bags, digits == params.target, pool, params, rng)
        names = [f"{part}-{i:05d}" for i in range(bags)]
        ends = np.cumsum(lengths)
        for name, label, end, length in zip(names, is_positive, ends, lengths, strict=True):
            labels[name] = int(label)
            writer.add(name, pixels[images[end - length : end]])
        parts[part] = tuple(names)
        rows = np.arange(ends[-1]) - np.repeat(ends - lengths, lengths)
        frames.append(pd.DataFrame({"slide_id": np.repeat(np.array(names, dtype=object), lengths), "row": rows,
                                    "label": (digits[images] == params.target).astype(np.int8),
                                    "image": images, "digit": digits[images]}))  # fmt: skip
    classes = (f"no {params.target}", f"some {params.target}")
    return Built(labels, classes, Fold("fold0", **parts), pd.concat(frames, ignore_index=True))


def divide_images(digits: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Divide image numbers among the parts, digit by digit, in the shares 0.5, 0.15 and 0.35."""
    pools: dict[str, list[np.ndarray]] = {part: [] for part in _SHARES}
    cuts = np.cumsum(list(_SHARES.values()))[:-1]
    for digit in range(10):
        images = rng.permutation(np.flatnonzero(digits == digit))
        pieces = np.split(images, np.round(cuts * len(images)).astype(int))
        for part, piece in zip(_SHARES, pieces, strict=True):
            pools[part].append(piece)
    return {part: np.concatenate(pieces) for part, pieces in pools.items()}


def draw_bags(bags: int, is_target: np.ndarray, pool: np.ndarray, params: Params,
              rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """Draw bags from a pool of images.

    Returns:
        Whether each bag is positive (B), the lengths (B), and the image numbers of all bags one after the other (N).
    """
    lengths = np.maximum(1, np.trunc(rng.normal(params.mean_length, params.std_length, bags))).astype(np.int64)
    is_positive = rng.permutation(np.arange(bags) % 2 == 1)
    bag = np.repeat(np.arange(bags), lengths)
    others = pool[~is_target[pool]]
    images = np.where(is_positive[bag], rng.choice(pool, len(bag)), rng.choice(others, len(bag)))
    while True:  # rejection: a positive bag without the target is drawn anew, at its length
        lacking = is_positive & (np.bincount(bag, weights=is_target[images], minlength=bags) == 0)
        if not lacking.any():
            return is_positive, lengths, images
        again = lacking[bag]
        images[again] = rng.choice(pool, int(again.sum()))
