"""shifted-mean: positive bags have a short run of instances with a mean shifted a little; the Bayes posterior is known.

E. Harvey, D. J. Loevlie, M. C. Hughes: Synthetic Data Reveals Generalization Gaps in Correlated Multiple Instance
Learning, ML4H 2025 (arXiv 2510.25759). Instances are N(0, 1) in ``dim`` features, n of them, U{min_length ...
max_length} in both classes. In a positive bag the first ``informative`` (K) features of ``run`` (R) contiguous
instances, starting at any of the n - R + 1 places with equal probability, have mean ``delta``. As in the paper R = 3,
K = 1, delta = 1, 15 to 45 instances, 768 features. Differently: exactly half of the bags of every part are positive.

With the evidence of an instance l_i = sum_{k <= K} (delta x_ik - delta^2 / 2), the log odds of a positive bag are

    log 1/(n - R + 1) sum_s exp(l_s + ... + l_{s+R-1}),

and for whoever does not see the order of instances, log 1/C(n, R) sum_{|S| = R} exp(sum_{i in S} l_i). Both
posteriors are kept for every bag: no method can have a higher AUC than the first on average over draws of test bags,
and no permutation-invariant one than the second.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pandas as pd
from pydantic import Field, model_validator
from scipy.special import expit, logsumexp

from ...config import Frozen
from ..cache.writer import CacheWriter
from ..fold import Fold
from . import Built
from ._draw import bag_names, balanced, instance_rows, stream
from ._likelihood import log_subset_mean, shift_evidence

VERSION = 1
#: bags drawn at once: 24 MB of the widest
_CHUNK = 256


class Params(Frozen):
    """Parameters.

    Attributes:
        run: R, contiguous instances that are shifted.
        informative: K, their features that are, the first ones.
        delta: the shift, in standard deviations.
        dim: width of the features.
        min_length, max_length: of a bag, in instances.
        train, val, test: numbers of bags.
        seed: of everything drawn.
    """

    run: int = Field(3, ge=1)
    informative: int = Field(1, ge=1)
    delta: float = 1.0
    dim: int = Field(768, ge=1)
    min_length: int = Field(15, ge=1)
    max_length: int = Field(45, ge=1)
    train: int = Field(1_000, ge=4)
    val: int = Field(200, ge=4)
    test: int = Field(1_000, ge=4)
    seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _run_is_possible(self) -> Params:
        if not self.run <= self.min_length <= self.max_length:
            raise ValueError("run, min_length and max_length must rise: the shortest bag has to hold a run")
        if self.informative > self.dim:
            raise ValueError(f"informative is {self.informative}, but instances have {self.dim} features")
        return self


def build(writer: CacheWriter, params: Params) -> Built:
    """Draw labels, lengths, places and features, each from its own stream of the seed and the part."""
    labels: dict[str, int] = {}
    parts: dict[str, tuple[str, ...]] = {}
    known, every = [], []
    for part in ("train", "val", "test"):
        names = parts[part] = bag_names(part, getattr(params, part))
        positive = balanced(len(names), stream(params.seed, part, "labels"))
        labels.update(zip(names, positive.astype(int).tolist(), strict=True))
        lengths = stream(params.seed, part, "lengths").integers(
            params.min_length, params.max_length + 1, size=len(names)
        )
        shifted = draw_runs(params, positive, lengths, stream(params.seed, part, "places"))
        rng = stream(params.seed, part, "features")
        ends = np.concatenate([[0], np.cumsum(lengths)])
        for first in range(0, len(names), _CHUNK):
            chunk = slice(first, first + _CHUNK)
            bounds = ends[first : first + _CHUNK + 1]
            x = rng.standard_normal((bounds[-1] - bounds[0], params.dim), dtype=np.float32)
            x[shifted[bounds[0] : bounds[-1]], : params.informative] += np.float32(params.delta)
            for name, (begin, end) in zip(names[chunk], pairwise(bounds - bounds[0]), strict=True):
                writer.add(name, x[begin:end])
            posterior, unordered = posteriors(params, x[:, : params.informative], lengths[chunk])
            known.append(pd.DataFrame({"slide_id": names[chunk], "posterior": posterior, "posterior_iid": unordered}))
        every.append((names, lengths, shifted))
    ids, counts, marks = zip(*every, strict=True)
    instances = instance_rows([name for part in ids for name in part], np.concatenate(counts))
    instances["label"] = np.concatenate(marks).astype(np.int8)
    fold = Fold("fold0", **parts)
    return Built(labels, ("plain", "shifted"), fold, instances, bags=pd.concat(known, ignore_index=True))


def draw_runs(params: Params, positive: np.ndarray, lengths: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw which instances are shifted: (N,) booleans over all bags, a run in every positive one."""
    start = rng.integers(lengths - params.run + 1)
    begin = (np.cumsum(lengths) - lengths + start)[positive]
    shifted = np.zeros(lengths.sum(), dtype=bool)
    shifted[begin[:, None] + np.arange(params.run)] = True
    return shifted


def posteriors(params: Params, informative: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the posterior probability of the positive class, with and without the order of instances.

    Args:
        params: of the dataset.
        informative: (N, K) the informative features, bag after bag.
        lengths: (B,) instances of each bag.

    Returns:
        two arrays (B,), see the module's formulas; the classes are equally likely beforehand.
    """
    evidence = np.full((len(lengths), lengths.max()), -np.inf)
    evidence[np.arange(lengths.max()) < lengths[:, None]] = shift_evidence(informative, params.delta).sum(axis=1)
    places = evidence.shape[1] - params.run + 1
    # A run that would reach beyond its bag meets an instance that is not there, and so has no weight.
    runs = sum(evidence[:, i : i + places] for i in range(params.run))
    ordered = logsumexp(runs, axis=1) - np.log(lengths - params.run + 1)
    return expit(ordered), expit(log_subset_mean(evidence, params.run, lengths))
