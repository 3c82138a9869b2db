"""Tuning: how hyperparameters are searched."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator

from .frozen import Frozen
from .recipe import Recipe
from .search_space import Choice, Float, Int


class Tuning(Frozen):
    """How hyperparameters are searched, the same way for every method; `Budget.trials` says how often.

    A study belongs to one method on one fold and sees that fold's training and validation slides alone: what is a test
    slide there is so in no trial, although another fold may train on it.

    Attributes:
        sampler: ``tpe`` or ``random``, Optuna's.
        pruner: ``none``, or Optuna's ``median``: a trial that is worse than the median of the others at the same share
            of its budget is stopped.
        startup_trials: trials drawn at random before ``tpe`` has something to learn from, and before ``median`` prunes.
        share: of the run's budget that a trial may use.
        seed: of the search and of every trial's training.
        space: dimensions searched for every method, besides each method's own; names are fields of Recipe.
    """

    sampler: Literal["tpe", "random"] = "tpe"
    pruner: Literal["none", "median"] = "none"
    startup_trials: int = Field(5, ge=1)
    share: float = Field(1.0, gt=0, le=1)
    seed: int = 0
    space: dict[str, Float | Int | Choice] = {
        "lr": Float(low=1e-5, high=1e-2, log=True),
        "weight_decay": Float(low=1e-6, high=1e-2, log=True),
    }

    @field_validator("space")
    @classmethod
    def _fields_of_recipe(cls, space: dict[str, Any]) -> dict[str, Any]:
        fields = {}
        for name, dimension in space.items():
            if name not in Recipe.model_fields:
                raise ValueError(f"space names {name!r}, which is no field of a recipe")
            kind = Recipe.model_fields[name].annotation
            # 0 to 1 may be whole numbers or real ones: the type of the field decides.
            if kind in (float, float | None) and isinstance(dimension, Int):
                dimension = Float(**dimension.model_dump())
            if kind in (int, int | None) and isinstance(dimension, Float) and dimension.whole:
                dimension = Int(low=int(dimension.low), high=int(dimension.high), log=dimension.log)
            if isinstance(dimension, Float) and kind not in (float, float | None):
                raise ValueError(f"space.{name} is a range of real numbers, but {name} of a recipe is none")
            for value in dimension.options if isinstance(dimension, Choice) else (dimension.low, dimension.high):
                try:
                    Recipe.model_validate({name: value})
                except ValidationError as error:
                    raise ValueError(f"space.{name}: {value!r}: {error.errors()[0]['msg']}") from None
            fields[name] = dimension
        return fields


class Tuned(Tuning):
    """That a run's recipe and parameters come from a search, and from which: part of the run's identity.

    Attributes:
        trials: of each study.
    """

    trials: int
