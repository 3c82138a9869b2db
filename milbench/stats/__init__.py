"""Intervals, tests, ranks and planning: pure functions of arrays, deterministic given their generator or seed.

What the intervals over patients cover: another draw of test patients from the same population and, where there are
replicates over seeds, another draw of the random seeds. What they do not cover: another draw of training patients (the
models stay as trained), another hospital or scanner, and the choice of folds. The spread over few seeds is poorly known
of one method; that of the methods of a cohort together is known better (`seeds`). With one seed it is not covered.

======================  ===============================================================================================
`areas`                 AUC and its placements, weighted and resampled
`resampling`            bootstrap weights over patients and seeds; percentile, BCa and logit intervals of replicates
`delong`                DeLong's covariance of AUCs, and Obuchowski's where a patient has several slides
`intervals`             one AUC, or the paired difference of two, with an interval by a stated method
`macro`                 the mean of one-vs-rest AUCs from the intervals of its classes, rare ones included
`seeds`                 the spread over seeds, pooled over methods: means, paired differences and ranks that hold it
`paired`                paired differences of replicates, Nadeau and Bengio's test, Holm's correction
`permutation`           sign flips, exact where they can be counted, and the permutation test of two AUCs
`runs`                  interquartile mean, probability of improvement and performance profiles over runs and tasks
`elo`, `friedman`       ranks over tasks: Bradley-Terry and Elo ratings; Friedman's test with Nemenyi's difference
`planning`              the smallest difference that so many slides can show
======================  ===============================================================================================

Coverage of every interval and level of every test, simulated, are tables of `results/statistics`; what the docstrings
say about either is read there.
"""

from .areas import BagWeights, Placements, bootstrap_auc, class_aucs, placements, weighted_auc
from .base import LEVEL, Array, Interval
from .delong import AucEstimates, PatientPairs, certain_bound, delong, exact_bound
from .elo import Ratings, bradley_terry, elo_ratings, pairwise_wins
from .friedman import Friedman, critical_difference, friedman
from .intervals import auc_difference, auc_interval, combined_interval, estimate_interval
from .macro import ClassAucs, ClassGuard, MacroInterval, class_interval, mean_interval, perfect_bound
from .nan_mean import nanmean
from .paired import Difference, TTest, corrected_t_test, holm, paired_difference
from .permutation import SignFlips, auc_permutation_test, sign_flip_test
from .planning import detectable_difference, planned_difference, planned_error, planned_half_width, planned_power
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
from .seeds import (
    Mean,
    Ranks,
    SeedError,
    Seeds,
    mean_difference,
    mean_of,
    paired_seeds_difference,
    rank_intervals,
    seed_errors,
    seeds_of,
)

__all__ = [
    "LEVEL",
    "Array",
    "AucEstimates",
    "BagWeights",
    "ClassAucs",
    "ClassGuard",
    "Difference",
    "Friedman",
    "Interval",
    "MacroInterval",
    "Mean",
    "PatientPairs",
    "Placements",
    "Profile",
    "Ranks",
    "Ratings",
    "SeedError",
    "Seeds",
    "SignFlips",
    "TTest",
    "auc_difference",
    "auc_interval",
    "auc_permutation_test",
    "bca_interval",
    "bca_p_value",
    "bootstrap_auc",
    "bradley_terry",
    "certain_bound",
    "class_aucs",
    "class_interval",
    "cluster_weights",
    "combine",
    "combined_interval",
    "corrected_t_test",
    "critical_difference",
    "delong",
    "detectable_difference",
    "elo_ratings",
    "estimate_interval",
    "exact_bound",
    "friedman",
    "holm",
    "interquartile_mean",
    "interval",
    "logit_interval",
    "mean_difference",
    "mean_interval",
    "mean_of",
    "nanmean",
    "paired_difference",
    "paired_seeds_difference",
    "pairwise_wins",
    "perfect_bound",
    "performance_profile",
    "placements",
    "planned_difference",
    "planned_error",
    "planned_half_width",
    "planned_power",
    "probability_of_improvement",
    "rank_intervals",
    "run_interval",
    "run_replicates",
    "seed_errors",
    "seed_weights",
    "seeds_of",
    "sign_flip_test",
    "weighted_auc",
]  # fmt: skip
