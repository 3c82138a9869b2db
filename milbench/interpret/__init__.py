"""Explanations of a kept model: relevance of instances, removal curves, pooling matrix, figures."""
