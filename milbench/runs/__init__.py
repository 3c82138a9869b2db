"""Runs of a suite: plan, execution in processes, store, and the rule of which runs are current."""
