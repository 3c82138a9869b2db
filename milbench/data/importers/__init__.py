"""Importers of other tools' feature files: one module a format, registered by its presence here.

A module defines ``NAME``; ``detect(source)``, one sentence about the source or None; ``open_source(source)``, the
`Slides` that are there. A new format is one new file here, or such a module of another package, named by an entry
point of the group ``milbench.formats``.
"""

from __future__ import annotations

import ast
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
from torch import Tensor

from ...errors import MilbenchError, did_you_mean
from ...plug_ins import blamed, load_plug_in, plug_ins, summary, warn_left_out
from ..input_files.regular import regular_size
from ..source_labels import SourceTable

__all__ = [
    "FileSlides", "Format", "Slides", "SourceSlide", "SourceTable", "detect_format", "format_named", "format_names",
    "formats", "has_format", "own_formats",
]  # fmt: skip


#: Entry points of this group add formats, under their names.
GROUP = "milbench.formats"


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


class Slides(ABC):
    """The slides of an opened source, in a fixed order: of their names, or stored order where a file has one.

    Opening finds out which slides there are and reads no features.

    Attributes:
        ids: slide ids, empty slides included.
        independent: whether any process may open the source anew and load any one slide at the cost of that slide.
        feature_names: of the columns of the features, where they have names; else none.
    """

    independent: bool = False
    feature_names: tuple[str, ...] = ()

    def __init__(self, ids: Sequence[str]) -> None:
        self.ids = tuple(ids)

    def __len__(self) -> int:
        return len(self.ids)

    @abstractmethod
    def load(self, i: int) -> SourceSlide:
        """Read one slide whole.

        Raises:
            MilbenchError: it cannot be read; the message names the file.
        """

    @abstractmethod
    def files(self, i: int) -> tuple[Path, ...]:
        """Return the files a slide is read from: as long as their size and time stay, so does the slide."""

    def read(self, first: int = 0) -> Iterator[SourceSlide]:
        """Read the slides one after the other, from the given one on."""
        for i in range(first, len(self)):
            yield self.load(i)

    def rows(self, i: int) -> int | None:
        """Return a slide's number of patches where that is known without reading its features; else None."""
        return None

    def table(self) -> SourceTable | None:
        """Return labels, patients and splits that the source itself brings; None where it has none."""
        return None


class FileSlides(Slides):
    """One file a slide, in the order of the slides' names.

    Args:
        files: slide -> the file its features are in.
        load: reads one of them.
        companions: further files of a slide, coordinates for instance; those that do not exist are skipped.
        table: see `Slides.table`.
        rows: tells the number of patches from a file's header.
    """

    independent = True

    def __init__(
        self,
        files: Mapping[str, Path],
        load: Callable[[str, Path], SourceSlide],
        companions: Callable[[str, Path], Sequence[Path]] | None = None,
        table: Callable[[], SourceTable | None] | None = None,
        rows: Callable[[Path], int | None] | None = None,
    ) -> None:
        super().__init__(sorted(files))
        self._files, self._load, self._companions, self._table, self._rows = files, load, companions, table, rows

    def load(self, i: int) -> SourceSlide:
        """Read one slide whole."""
        return self._load(self.ids[i], self._files[self.ids[i]])

    def files(self, i: int) -> tuple[Path, ...]:
        """Return the slide's file and its companions."""
        slide = self.ids[i]
        more = () if self._companions is None else self._companions(slide, self._files[slide])
        return (self._files[slide], *(path for path in more if path.is_file()))

    def rows(self, i: int) -> int | None:
        """Return what the header of the slide's file says."""
        return None if self._rows is None else self._rows(self._files[self.ids[i]])

    def table(self) -> SourceTable | None:
        """Return what the source says of its slides apart from their features."""
        return None if self._table is None else self._table()


class Format(Protocol):
    """Interface of a module of this package."""

    NAME: str

    def detect(self, source: Path) -> str | None:
        """Describe the source in one sentence, or return None when the source is not of this format."""

    def open_source(self, source: Path) -> Slides:
        """Open a source that `detect` has recognised.

        Raises:
            MilbenchError: it is not of this format, or damaged.
        """


def _own() -> list[str]:
    return [module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_")]


def _of_packages() -> dict[str, tuple[EntryPoint, ...]]:
    return plug_ins(GROUP, _own())


@cache
def own_formats() -> dict[str, Format]:
    """Return milbench's own formats by name."""
    return {name: cast("Format", import_module(f"{__name__}.{name}")) for name in _own()}


@cache
def formats() -> dict[str, Format]:
    """Return the formats by name; one of a package that cannot be used is left out with a warning on stderr."""
    by_name = dict(own_formats())
    for name in _of_packages():
        try:
            by_name[name] = format_named(name)
        except MilbenchError as error:
            warn_left_out(error)
    return by_name


def has_format(name: str) -> bool:
    """Whether milbench or a package has a format of this name; nothing is imported."""
    return name in _own() or name in _of_packages()


def format_named(name: str) -> Format:
    """Return a format by its name; no other one of a package is imported.

    Raises:
        MilbenchError: there is none, or it is that of a package and cannot be used.
    """
    if name in _own():
        return own_formats()[name]
    of_packages = _of_packages()
    if name not in of_packages:
        known = [*_own(), *of_packages]
        raise MilbenchError(f"unknown format {name!r}.{did_you_mean(name, known)}", code="format-unknown")
    loaded = load_plug_in("format", name, of_packages[name], ("NAME", "detect", "open_source"))
    if name != loaded.NAME:
        raise MilbenchError(
            f"format {name} ({of_packages[name][0].value}) has NAME {loaded.NAME!r}, and its entry point another; "
            "repair or uninstall its package.",
            code="plugin-broken",
        )
    return cast("Format", loaded)


def format_names() -> dict[str, str]:
    """Return ``{name: summary}`` of the formats, read from their docstrings; milbench's own are not imported.

    The summary of a package's format that cannot be used says why.
    """
    names = {}
    for name in _own():
        text = Path(__path__[0], f"{name}.py").read_text(encoding="utf-8")
        names[name] = (ast.get_docstring(ast.parse(text)) or "").split("\n")[0]
    for name in _of_packages():
        try:
            names[name] = summary(format_named(name))
        except MilbenchError as error:
            names[name] = f"cannot be used: {error}"
    return names


def _detected(name: str, module: Format, source: Path) -> str | None:
    """Return what a format says of a source.

    Raises:
        MilbenchError: as the format does, or the format of a package fails.
    """
    if name in _own():
        return module.detect(source)
    with blamed(f"format {name} ({getattr(module, '__name__', type(module).__name__)})", f"cannot examine {source}"):
        return module.detect(source)


def _matches(source: Path) -> Iterator[tuple[Format, str]]:
    """Yield the formats that recognise a source; one of a package that fails is left out with a warning."""
    for name, module in formats().items():
        try:
            reason = _detected(name, module, source)
        except MilbenchError as error:
            if error.code != "plugin-broken":  # a format that recognises the source and refuses it
                raise
            warn_left_out(error)
            continue
        if reason is not None:
            yield module, reason


def detect_format(source: str | Path, format: str = "auto") -> tuple[Format, str]:
    """Find the format of a folder or file.

    Args:
        source: a folder of features, or a packed file.
        format: a format's name; ``auto``: the only one that recognises the source.

    Returns:
        The format and its sentence about the source.

    Raises:
        MilbenchError: the source does not exist, or no format or several recognise it.
    """
    source = Path(source)
    if not source.exists():
        raise MilbenchError(f"{source} does not exist; give the folder that holds the features.", code="file-missing")
    if not source.is_dir():
        regular_size(source, "give the folder or file that holds the features")
    if format != "auto":
        named = format_named(format)
        reason = _detected(format, named, source)
        if reason is None:
            raise MilbenchError(
                f"{source} is not of the format {format}{_what_is_there(source)}.", code="format-mismatch"
            )
        return named, reason
    matches = list(_matches(source))
    if not matches:
        names = ", ".join(formats())
        raise MilbenchError(
            f"{source} is of no format milbench reads ({names}){_what_is_there(source)}.", code="format-mismatch"
        )
    if len(matches) > 1:
        names = " or ".join(module.NAME for module, _ in matches)
        raise MilbenchError(f"{source} may be {names}; say which with --format.", code="format-ambiguous")
    return matches[0]


def _what_is_there(source: Path) -> str:
    from ._listing import what_is_there

    return ": it is a single file" if source.is_file() else what_is_there(source)
