"""Likelihood ratios of the datasets whose Bayes posterior is known: averages over all places a pattern can lie.

Instances are independent given where the pattern lies. Over a bag of pure background, whose density cancels, the
likelihood of a bag with the pattern on the cells S is therefore prod_{c in S} exp(l_c), with l_c the log density ratio
of a signal against background at the instance of cell c, and without knowledge of S it is the mean over all S.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import gammaln, logsumexp


def shift_evidence(x: np.ndarray, shift: float | np.ndarray) -> np.ndarray:
    """Return log N(x; shift, 1) / N(x; 0, 1) in float64, the evidence of one feature for a signal."""
    return np.asarray(x, dtype=np.float64) * shift - np.square(shift) / 2


def log_mean_exp(values: np.ndarray) -> np.ndarray:
    """Return the logarithm of the mean of exp(values) over the last axis: (..., P) -> (...)."""
    return logsumexp(values, axis=-1) - np.log(values.shape[-1])


def log_subset_mean(evidence: np.ndarray, size: int, lengths: np.ndarray | None = None) -> np.ndarray:
    """Return the log likelihood ratio when any `size` instances of a bag are signals, all subsets equally likely.

    The sum over subsets is the elementary symmetric polynomial of the density ratios, by its recursion over instances.

    Args:
        evidence: (B, n), -inf where a shorter bag has no instance.
        size: signals in a bag.
        lengths: (B,) instances of each bag; None: n.

    Returns:
        (B,); it does not depend on the order of instances, so it is all that a permutation-invariant method can use.
    """
    bags, n = evidence.shape
    total = np.full((bags, size + 1), -np.inf)  # column k: log of the sum over subsets of k of the instances so far
    total[:, 0] = 0
    for column in evidence.T:
        total[:, 1:] = np.logaddexp(total[:, 1:], total[:, :-1] + column[:, None])
    count = np.full(bags, n) if lengths is None else np.asarray(lengths)
    subsets = gammaln(count + 1) - gammaln(size + 1) - gammaln(count - size + 1)
    return total[:, size] - subsets


def log_chain_mean(evidence: np.ndarray, size: int, starts: int, steps: Sequence[int]) -> np.ndarray:
    """Return the log likelihood ratio of a chain of signals: a first place, then steps from each to the next.

    Args:
        evidence: (B, n) in storage order.
        size: signals of the chain.
        starts: the first signal lies on one of the first `starts` rows, all equally likely; no chain may leave the bag.
        steps: positive step lengths, all equally likely.

    Returns:
        (B,), the sum over all chains, by the forward recursion over signals.
    """
    ends = np.full(evidence.shape, -np.inf)  # column p: log of the mean over chains so far, of those that end at p
    ends[:, :starts] = evidence[:, :starts] - np.log(starts)
    for _ in range(size - 1):
        reached = np.full(evidence.shape, -np.inf)
        for step in steps:
            np.logaddexp(reached[:, step:], ends[:, :-step], out=reached[:, step:])
        ends = reached + evidence - np.log(len(steps))
    return logsumexp(ends, axis=1)
