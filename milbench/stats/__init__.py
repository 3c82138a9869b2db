"""Intervals, tests, ranks and planning: pure functions of arrays, deterministic given their generator or seed.

What the intervals over patients cover: another draw of test patients from the same population and, where there are
replicates over seeds, another draw of the random seeds. What they do not cover: another draw of training patients (the
models stay as trained), another hospital or scanner, and the choice of folds. With few seeds the spread over seeds is
poorly known and the intervals are long; with one it is not covered at all.

======================  ===============================================================================================
`areas`                 AUC and its placements, weighted and resampled
`resampling`            bootstrap weights over patients and seeds; percentile, BCa and logit intervals of replicates
`delong`                DeLong's covariance of AUCs, and Obuchowski's where a patient has several slides
`intervals`             one AUC, or the paired difference of two, with an interval by a stated method
`paired`                paired differences, shared ranks, Nadeau and Bengio's test, Holm's correction
`permutation`           sign flips, exact where they can be counted, and the permutation test of two AUCs
`runs`                  interquartile mean, probability of improvement and performance profiles over runs and tasks
`elo`, `friedman`       ranks over tasks: Bradley-Terry and Elo ratings; Friedman's test with Nemenyi's difference
`planning`              the smallest difference that so many slides can show
======================  ===============================================================================================

Coverage of every interval and level of every test, simulated, are tables of `results/statistics`; what the docstrings
say about either is read there.
"""

from .areas import Placements, bootstrap_auc, class_aucs, placements, weighted_auc
from .base import LEVEL, Array, Interval, nanmean
from .delong import AucEstimates, delong
from .elo import Ratings, bradley_terry, elo_ratings, pairwise_wins
from .friedman import Friedman, critical_difference, friedman
from .intervals import auc_difference, auc_interval, certain_bound, combined_interval, estimate_interval
from .paired import Difference, TTest, corrected_t_test, holm, paired_difference, tie_ranks
from .permutation import SignFlips, auc_permutation_test, sign_flip_test
from .planning import detectable_difference, planned_difference, planned_error, planned_power
from .resampling import (
    bca_interval,
    bca_p_value,
    cluster_weights,
    combine,
    interval,
    logit_interval,
    seed_weights,
)
from .runs import (
    Profile,
    interquartile_mean,
    performance_profile,
    probability_of_improvement,
    run_interval,
    run_replicates,
)

__all__ = [
    "LEVEL", "Array", "AucEstimates", "Difference", "Friedman", "Interval", "Placements", "Profile", "Ratings",
    "SignFlips", "TTest", "auc_difference", "auc_interval", "auc_permutation_test", "bca_interval", "bca_p_value",
    "bootstrap_auc", "bradley_terry", "certain_bound", "class_aucs", "cluster_weights", "combine", "combined_interval",
    "corrected_t_test", "critical_difference", "delong", "detectable_difference", "elo_ratings", "estimate_interval",
    "friedman", "holm", "interquartile_mean", "interval", "logit_interval", "nanmean", "paired_difference",
    "pairwise_wins",
    "performance_profile", "placements", "planned_difference", "planned_error", "planned_power",
    "probability_of_improvement", "run_interval", "run_replicates", "seed_weights", "sign_flip_test", "tie_ranks",
    "weighted_auc",
]  # fmt: skip
