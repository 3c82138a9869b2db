"""Nystrom self-attention: the layer, its streamed, class-token and padded forms, and its pseudo-inverse."""
