"""Audit: what in a cohort's labels, folds and features would flatter a number, or break a run.

- `findings`: what a finding is, waivers, and the refusal to go on.
- `subject`: a cohort as it was read, before anything is checked.
- `folds`: doubles, leaks and missing classes of a fold.
- `tables`: tables that do not fit each other: ids and labels.
- `patients`: patients that only the names of slides tell.
- `features`: slides that are the same under two names, features that are the label.
- `probes`: what predicts the label without the tissue.
- `checks`: all of it, for one cohort; `suite`: for all cohorts of a suite.
"""
