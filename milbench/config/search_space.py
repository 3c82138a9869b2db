"""Dimensions of a search space: real, integer and categorical."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import Field, model_validator

from .frozen import Frozen


class Float(Frozen):
    """A real-valued dimension of a search space, searched on a log scale when `log`."""

    low: float = Field(allow_inf_nan=False)
    high: float = Field(allow_inf_nan=False)
    log: bool = False

    @model_validator(mode="after")
    def _range(self) -> Float:
        return _checked(self)

    @property
    def whole(self) -> bool:
        """Return whether both ends are whole numbers."""
        return self.low.is_integer() and self.high.is_integer()


class Int(Frozen):
    """An integer dimension of a search space, both ends included."""

    low: int
    high: int
    log: bool = False

    @model_validator(mode="after")
    def _range(self) -> Int:
        return _checked(self)


class Choice(Frozen):
    """A categorical dimension of a search space."""

    options: tuple[Any, ...] = Field(min_length=1)


_Range = TypeVar("_Range", Float, Int)


def _checked(dimension: _Range) -> _Range:
    if dimension.low > dimension.high:
        raise ValueError(f"low is {dimension.low} and high is {dimension.high}; low must not be above high")
    if dimension.log and dimension.low <= 0:
        raise ValueError(f"low is {dimension.low}, which has no logarithm; it must be positive, or log false")
    return dimension


Dimension = Float | Int | Choice
