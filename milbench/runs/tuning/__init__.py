"""Tuning: studies, their trials, and the search over recipes and parameters."""
