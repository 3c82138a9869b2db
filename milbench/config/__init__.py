"""Frozen values that decide what is run: suite, cohort, recipe, budget, protocol, tuning, and the spec of a run.

`RunSpec.run_id` is the hash of the canonical form of a run: two runs with one id are the same experiment, wherever they
were made. No torch here, and no work.
"""

from .budget import TRACKS, Budget
from .card import Card
from .data_spec import MOST_FOLDS, DataSpec, SplitSpec
from .frozen import Frozen, added, digest
from .protocol import PROTOCOL_VERSION, Protocol, ThresholdRule
from .recipe import Recipe
from .run_spec import RunSpec
from .search_space import Choice, Dimension, Float, Int
from .suite import Published, Suite
from .tuning import Tuned, Tuning

__all__ = [
    "MOST_FOLDS",
    "PROTOCOL_VERSION",
    "TRACKS",
    "Budget",
    "Card",
    "Choice",
    "DataSpec",
    "Dimension",
    "Float",
    "Frozen",
    "Int",
    "Protocol",
    "Published",
    "Recipe",
    "RunSpec",
    "SplitSpec",
    "Suite",
    "ThresholdRule",
    "Tuned",
    "Tuning",
    "added",
    "digest",
]
