"""milbench: benchmarks of multiple-instance-learning aggregators.

Public names are loaded on first use, so that ``import milbench`` costs milliseconds and does not import torch.
"""

from __future__ import annotations

from importlib import import_module

TYPE_CHECKING = False  # as a type checker knows it: the command line answers Ctrl-C milliseconds earlier without typing

__version__ = "0.1.0"

_HOME = {
    "Bags": "milbench.bags",
    "BagOutput": "milbench.bags",
    "Aggregator": "milbench.aggregator",
    "Card": "milbench.config",
    "Recipe": "milbench.config",
    "Suite": "milbench.config",
    "RunSpec": "milbench.config",
    "Budget": "milbench.config",
    "create": "milbench.registry",
    "list_aggregators": "milbench.registry",
    "FeatureCache": "milbench.data.cache.reader",
    "run": "milbench.runs.execute",
    "leaderboard": "milbench.evaluation.leaderboard",
    "MilbenchError": "milbench.errors",
}
_MODULES = ("nn", "testing", "stats", "metrics")

__all__ = [*_HOME, *_MODULES]

if TYPE_CHECKING:
    from typing import Any

    from . import metrics, nn, stats
    from .aggregator import Aggregator
    from .bags import BagOutput, Bags
    from .config import Budget, Card, Recipe, RunSpec, Suite
    from .data.cache.reader import FeatureCache
    from .errors import MilbenchError
    from .evaluation.leaderboard import leaderboard
    from .registry import create, list_aggregators
    from .runs.execute import run
    from .testing import report as testing


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(import_module(_HOME[name]), name)
    elif name in _MODULES:
        value = import_module(f"milbench.{name}")
    else:
        raise AttributeError(f"module 'milbench' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
