"""Importers of other tools' feature files: one module a format, found by its presence here.

A module defines ``NAME``; ``detect(source)``, one sentence of what was found or None; ``count(source)``, the number of
slides; ``read(source)``, an iterator of `SourceSlide`. A new format is one new file.
"""

from __future__ import annotations

import ast
import pkgutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
from torch import Tensor

from ...errors import MilbenchError, did_you_mean


@dataclass(frozen=True, slots=True)
class SourceSlide:
    """One slide as a foreign file holds it.

    Attributes:
        slide_id: text, leading zeros kept.
        features: ``(n, d)``; an empty slide may also be ``(0,)``.
        coords: ``(n, 2)`` positions (x, y), or None.
        meta: what the file says of itself: encoder, patch_size (pixels), magnification, units of coords, coord_step.
        path: the file, for messages.
    """

    slide_id: str
    features: np.ndarray | Tensor
    coords: np.ndarray | Tensor | None
    meta: dict[str, Any] = field(default_factory=dict)
    path: Path | None = None


class Format(Protocol):
    """What a module of this package defines."""

    NAME: str

    def detect(self, source: Path) -> str | None:
        """Say in one sentence what was found, or return None when the source is not of this format."""

    def count(self, source: Path) -> int:
        """Return the number of slides, empty ones included."""

    def read(self, source: Path) -> Iterator[SourceSlide]:
        """Read the slides one by one, in the order of their names, or in stored order where a file has one."""


@cache
def formats() -> dict[str, Format]:
    """Return the formats by name."""
    found: dict[str, Format] = {}
    for module in pkgutil.iter_modules(__path__):
        if not module.name.startswith("_"):
            loaded = cast("Format", import_module(f"{__name__}.{module.name}"))
            found[loaded.NAME] = loaded
    return found


def format_names() -> dict[str, str]:
    """Return ``{name: summary}`` of the formats, read from their docstrings without importing them."""
    found = {}
    for module in pkgutil.iter_modules(__path__):
        if not module.name.startswith("_"):
            text = Path(__path__[0], f"{module.name}.py").read_text(encoding="utf-8")
            found[module.name] = (ast.get_docstring(ast.parse(text)) or "").split("\n")[0]
    return found


def detect_format(source: str | Path, format: str = "auto") -> tuple[Format, str]:
    """Find the format of a folder or file.

    Args:
        source: a folder of features, or a packed file.
        format: a format's name; ``auto``: the only one that recognises the source.

    Returns:
        The format and its sentence about what was found.

    Raises:
        MilbenchError: the source does not exist, or no format or several recognise it.
    """
    source = Path(source)
    if not source.exists():
        raise MilbenchError(f"{source} does not exist; give the folder that holds the features.")
    known = formats()
    if format != "auto":
        if format not in known:
            raise MilbenchError(f"unknown format {format!r}.{did_you_mean(format, known)}")
        found = known[format].detect(source)
        if found is None:
            raise MilbenchError(f"{source} is not of the format {format}{_what_is_there(source)}.")
        return known[format], found
    fits = [(module, text) for module in known.values() if (text := module.detect(source)) is not None]
    if not fits:
        names = ", ".join(known)
        raise MilbenchError(f"{source} is of no format milbench reads ({names}){_what_is_there(source)}.")
    if len(fits) > 1:
        names = " or ".join(module.NAME for module, _ in fits)
        raise MilbenchError(f"{source} may be {names}; say which with --format.")
    return fits[0]


def _what_is_there(source: Path) -> str:
    if source.is_file():
        return ": it is a single file"
    names = sorted(p.name + ("/" if p.is_dir() else "") for p in source.iterdir())
    return f": it holds {', '.join(names[:4])}{' ...' if len(names) > 4 else ''}" if names else ": it is empty"
