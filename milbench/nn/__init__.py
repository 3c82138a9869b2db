"""Blocks shared by methods: reductions over ragged bags, attention scores, Nystrom attention, PPEG.

Importing this package imports torch; every block says which paper and equation it computes.
"""

from .attention import AttentionScore, tanh
from .autocast import product_dtype
from .matrix_products import Linear, activates, joint_linear, linear, linear_then
from .nystrom.attention import NystromAttention
from .ppeg import PPEG
from .segment import (
    segment_argmax,
    segment_dot,
    segment_max,
    segment_mean,
    segment_softmax,
    segment_sum,
    segment_topk,
    weighted_sum,
)
from .square_tokens import SquareTokens

__all__ = [
    "PPEG",
    "AttentionScore",
    "Linear",
    "NystromAttention",
    "SquareTokens",
    "activates",
    "joint_linear",
    "linear",
    "linear_then",
    "product_dtype",
    "segment_argmax",
    "segment_dot",
    "segment_max",
    "segment_mean",
    "segment_softmax",
    "segment_sum",
    "segment_topk",
    "tanh",
    "weighted_sum",
]
