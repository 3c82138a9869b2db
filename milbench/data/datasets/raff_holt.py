"""raff-holt: three unit tests that tell whether a method learns from what is in a bag or from what is not.

E. Raff, J. Holt: Reproducibility in Multiple Instance Learning: A Case For Algorithmic Unit Tests, NeurIPS 2023. Bags
are drawn by the rules of their notebook. N(m, s) has standard deviation s in every one of ``dim`` features, U{a..b} is
a whole number of instances, background is N(0, 1) and poison N(-10, 0.1).

``single-concept``: instances of the concept are N(0, 3) or N(1, 1), by a coin each.

- training: negative 1 poison, U{1..9} background; positive U{1..3} of the concept, U{1..4} background
- test: negative U{1..9} background; positive 1 poison, U{1..3} of the concept, U{1..4} background

``multi-concept``: A is N(2, 0.1), B is N(3, 0.1); every bag has U{1..4} background.

- training: negative 1 poison, one A or one B; positive U{1..4} A, U{1..4} B, and 1 poison with probability 0.1
- test: negative one A or one B; positive 1 poison, U{1..4} A, U{1..4} B

``false-frequency``: A is N(-2, 0.1), B is N(2, 0.1); every bag has U{1..9} background.

- training: negative one A or one B; positive one A and one B
- test: negative U{35..39} A or as many B; positive one A and one B

A bag is positive for what it holds: the concept, or A and B together. In training a poison tells the negatives, in the
third problem the few instances of a concept do; in test the poison stands in the positives, and negatives have many. A
method that can count evidence for a bag's being positive only, as the standard assumption has it, is not moved; one
that has learnt "no poison, hence positive" ranks the test bags the wrong way round. `milbench.evaluation.known_answers`
tells *passes*, *unsolved* and *violates*.

The validation part is drawn by the rules of training: what a method reaches there is its AUC under the distribution it
was trained on, on bags it was not trained on, and needs no further pass over its training bags. Suites that read it
keep the last model, so that it is used for nothing else.

The size of a bag gives labels away in all three. Single concept: 2 to 10 instances in negatives against 2 to 7 in
positives in training, and in test, the other way round, 1 to 9 against 3 to 8: size misleads as poison does. Multi
concept: 3 to 6 against 3 to 13 in training, 2 to 5 against 4 to 13 in test: size alone nearly passes. False frequency:
2 to 10 against 3 to 11 in training, but 36 to 48 against 3 to 11 in test: who has learnt "longer, hence positive" is
misled. ``pad`` fills all bags with background up to one size. In the first problem that takes the shortcut away, and
makes the concept rarer; in the second it takes away the way to pass by counting instances; in the third it leaves the
frequency of A and B alone to mislead, as one in ``pad`` against 35 to 39. A ``pad`` below the longest bag of a problem
(10, 13 and 48) would leave a part of the shortcut and is refused.

Differently from the authors: rows are shuffled within a bag (a method that reads storage order would learn the order
in which bags are put together), and exactly half of the bags of every part are positive. The defaults are their 10,000
and 1,000 bags.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import pandas as pd
from pydantic import Field, model_validator

from ...config import Frozen
from ..cache.writer import CacheWriter
from ..fold import Fold
from . import Built
from ._draw import bag_names, balanced, instance_rows, stream

VERSION = 1

#: Kinds of instances in the columns of a table of counts: mean and standard deviation of every feature.
LAWS: dict[str, dict[str, tuple[float, float]]] = {
    "single-concept": {"background": (0, 1), "poison": (-10, 0.1), "wide": (0, 3), "near": (1, 1)},
    "multi-concept": {"background": (0, 1), "poison": (-10, 0.1), "A": (2, 0.1), "B": (3, 0.1)},
    "false-frequency": {"background": (0, 1), "poison": (-10, 0.1), "A": (-2, 0.1), "B": (2, 0.1)},
}
#: The longest bag of each problem.
LONGEST = {"single-concept": 10, "multi-concept": 13, "false-frequency": 48}


class Params(Frozen):
    """Parameters.

    Attributes:
        problem: which of the three.
        pad: fill bags with background to this many instances; 0: leave them as they are.
        dim: width of the features.
        train, val, test: numbers of bags; ``val`` is drawn by the rules of training.
        seed: of everything drawn.
    """

    problem: Literal["single-concept", "multi-concept", "false-frequency"] = "single-concept"
    pad: int = Field(0, ge=0)
    dim: int = Field(16, ge=1)
    train: int = Field(10_000, ge=4)
    val: int = Field(1_000, ge=4)
    test: int = Field(1_000, ge=4)
    seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _pads_all(self) -> Params:
        longest = LONGEST[self.problem]
        if 0 < self.pad < longest:
            raise ValueError(f"bags of {self.problem} have up to {longest} instances; pad to {longest} or more, or 0")
        return self


def build(writer: CacheWriter, params: Params) -> Built:
    """Draw labels, counts, features and the order of rows, each from its own stream of the seed and the part."""
    labels: dict[str, int] = {}
    parts: dict[str, tuple[str, ...]] = {}
    lengths, kinds = [], []
    for part in ("train", "val", "test"):
        names = parts[part] = bag_names(part, getattr(params, part))
        positive = balanced(len(names), stream(params.seed, part, "labels"))
        labels.update(zip(names, positive.astype(int).tolist(), strict=True))
        counts = draw_counts(params, positive, part == "test", stream(params.seed, part, "counts"))
        kind, x = draw_instances(params, counts, part)
        lengths.append(counts.sum(axis=1))
        kinds.append(kind)
        for name, rows in zip(names, np.split(x, np.cumsum(lengths[-1])[:-1]), strict=True):
            writer.add(name, rows)
    instances = instance_rows(list(labels), np.concatenate(lengths))
    kind = np.concatenate(kinds)
    instances["label"] = (kind >= 2).astype(np.int8)  # of a concept, whatever the bag's label
    instances["kind"] = pd.Categorical.from_codes(kind, categories=pd.Index(LAWS[params.problem]))
    return Built(labels, ("negative", "positive"), Fold("fold0", **parts), instances)


def draw_counts(params: Params, positive: np.ndarray, is_test: bool, rng: np.random.Generator) -> np.ndarray:
    """Draw how many instances of each kind the bags hold.

    Args:
        params: of the dataset.
        positive: (B,) labels.
        is_test: by the rules of test instead of training.
        rng: the random generator.

    Returns:
        (B, 4) whole numbers, columns as in `LAWS`.
    """
    bags = len(positive)
    counts = np.zeros((bags, 4), dtype=np.int64)
    background, poison, first, second = counts.T

    def upto(high: int, low: int = 1) -> np.ndarray:
        return rng.integers(low, high + 1, bags)

    coin = rng.random(bags) < 0.5
    if params.problem == "single-concept":
        concept = np.where(positive, upto(3), 0)
        first[:] = rng.binomial(concept, 0.5)
        second[:] = concept - first
        background[:] = np.where(positive, upto(4), upto(9))
        poison[:] = positive == is_test
    elif params.problem == "multi-concept":
        first[:] = np.where(positive, upto(4), coin)
        second[:] = np.where(positive, upto(4), ~coin)
        background[:] = upto(4)
        poison[:] = positive if is_test else ~positive | (rng.random(bags) < 0.1)
    else:
        copies = upto(39, 35) if is_test else 1
        first[:] = np.where(positive, 1, copies * coin)
        second[:] = np.where(positive, 1, copies * ~coin)
        background[:] = upto(9)
    background += np.maximum(0, params.pad - counts.sum(axis=1))
    return counts


def draw_instances(params: Params, counts: np.ndarray, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Draw the instances of bags with given counts, shuffled within their bag.

    Returns:
        the kinds (N,), numbers of columns of `counts`, and the features (N, dim) float32, bag after bag.
    """
    bags, kinds = counts.shape
    kind = np.repeat(np.tile(np.arange(kinds), bags), counts.ravel())
    bag = np.repeat(np.arange(bags), counts.sum(axis=1))
    # The bag is the first key: rows change places within it alone.
    kind = kind[np.lexsort((stream(params.seed, part, "order").random(len(kind)), bag))]
    mean, deviation = np.array(list(LAWS[params.problem].values()), dtype=np.float32).T
    x = stream(params.seed, part, "features").standard_normal((len(kind), params.dim), dtype=np.float32)
    x *= deviation[kind, None]
    x += mean[kind, None]
    return kind, x
