"""Splits of a cohort: files of the tools of the field, schemes that make folds, and sites."""
