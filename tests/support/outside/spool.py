"""outside-spool: one text file a slide, a line of numbers an instance, behind a first line that says so."""

from pathlib import Path

import numpy as np

from milbench.data.importers import FileSlides, Slides, SourceSlide

NAME = "outside-spool"
_MARK = "spool 1\n"


def detect(source: Path) -> str | None:
    """Recognise a folder of .spool files."""
    files = sorted(source.glob("*.spool")) if source.is_dir() else []
    return f"spools in {source}: {len(files)} files" if files else None


def open_source(source: Path) -> Slides:
    """Open the files, named by slide."""
    return FileSlides({file.stem: file for file in source.glob("*.spool")}, _load)


def _load(slide: str, file: Path) -> SourceSlide:
    text = file.read_text(encoding="utf-8").removeprefix(_MARK)
    return SourceSlide(slide, np.loadtxt(text.splitlines(), dtype=np.float32, ndmin=2), None, path=file)
