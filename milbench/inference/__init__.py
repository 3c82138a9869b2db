"""Kept models on other slides: predictions, and their scores where the labels are known."""
