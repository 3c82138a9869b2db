"""eva: manifest.csv (embeddings, target, split, wsi_id) and the .pt files it lists, those of a slide stacked in order.

Gatopoulos et al., eva: Evaluation framework for pathology foundation models, MIDL 2024. A .pt file holds a list of
vectors, one a patch, or a tensor of one or of many; a slide may have several. eva keeps no coordinates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ...errors import MilbenchError
from ..fold import PARTS, Fold
from ..text_tables import read_table, refuse_lost_digits
from . import FileSlides, Slides, SourceSlide, SourceTable
from ._marks import eva_manifest, label_text, listed_file
from ._read import torch_tensors

NAME = "eva"


@dataclass
class _Wsi:
    """What the rows of one slide say: its files in order, and the one target and split they must agree about."""

    files: list[Path] = field(default_factory=list)
    said: dict[str, str] = field(default_factory=dict)


def detect(source: Path) -> str | None:
    """Recognise a manifest by its columns, or the folder that holds it as manifest.csv."""
    path = eva_manifest(source)
    return None if path is None else f"eva embeddings listed in {path}"


def open_source(source: Path) -> Slides:
    """Open the slides of the manifest, which also gives their labels and one fold."""
    path = eva_manifest(source)
    if path is None:
        raise MilbenchError(
            f"{source} holds no manifest of eva; give the folder of manifest.csv.", code="format-mismatch"
        )
    slides = _read_manifest(path)

    def load(slide: str, _: Path) -> SourceSlide:
        return SourceSlide(slide, _stack(slides[slide].files), None, {}, slides[slide].files[0])

    def table() -> SourceTable:
        labels = {slide: label_text(wsi.said["target"]) for slide, wsi in slides.items() if wsi.said["target"]}
        parts = [tuple(slide for slide, wsi in slides.items() if wsi.said["split"] == part) for part in PARTS]
        return SourceTable(labels or None, None, (Fold(path.stem, *parts),) if any(parts) else ())

    first = {slide: wsi.files[0] for slide, wsi in slides.items()}
    return FileSlides(first, load, lambda slide, _: slides[slide].files[1:], table)


def _read_manifest(path: Path) -> dict[str, _Wsi]:
    """Read the slides in the order of the manifest, each with its files.

    Raises:
        MilbenchError: no column wsi_id, an empty cell, a file missing or listed twice, or rows of a slide that differ.
    """
    header, rows = read_table(path)
    if "wsi_id" not in header:
        raise MilbenchError(
            f"{path} has no column 'wsi_id', so it lists single images; write it again with eva's metadata key wsi_id.",
            code="table-missing-column",
        )
    at = {name: header.index(name) for name in ("embeddings", "target", "split", "wsi_id")}
    refuse_lost_digits(path, "wsi_id", [row[at["wsi_id"]] for row in rows])  # several slides would be joined to one
    slides: dict[str, _Wsi] = {}
    seen: set[Path] = set()
    for number, row in enumerate(rows, 1):
        cells = {name: row[column] for name, column in at.items()}
        for name in ("embeddings", "wsi_id"):
            if not cells[name]:
                raise MilbenchError(f"{path} has no {name} in row {number}; fill it in.", code="table-empty-cell")
        if cells["split"] not in (*PARTS, ""):
            raise MilbenchError(
                f"{path} has the split {cells['split']!r} in row {number}; it must be train, val or test.",
                code="split-unknown-part",
            )
        slide = cells["wsi_id"]
        wsi = slides.setdefault(slide, _Wsi(said=cells))
        for name in ("target", "split"):
            if wsi.said[name] != cells[name]:
                raise MilbenchError(
                    f"{path} gives slide {slide!r} the {name} {wsi.said[name]!r} and, in row {number}, "
                    f"{cells[name]!r}; a slide has one.",
                    code="labels-conflicting-rows",
                )
        file = listed_file(path, cells["embeddings"], absolute=False)
        if file in seen:
            raise MilbenchError(
                f"{path} lists {cells['embeddings']!r} twice, the second time in row {number}; keep one.",
                code="slide-twice",
            )
        seen.add(file)
        wsi.files.append(file)
    if not slides:
        raise MilbenchError(f"{path} lists no embeddings; give the manifest that eva wrote.", code="table-empty")
    return slides


def _stack(files: Sequence[Path]) -> Tensor:
    """Stack the vectors of a slide's files into (n, d)."""
    rows: list[Tensor] = []
    for path in files:
        for one in torch_tensors(path):
            if one.ndim not in (1, 2):
                raise MilbenchError(
                    f"{path} holds an embedding of shape {tuple(one.shape)}; it must be one vector a patch.",
                    code="features-bad-array",
                )
            if one.shape == (0,):  # a slide without patches
                continue
            row = torch.atleast_2d(one.detach())
            if rows and row.shape[1] != rows[0].shape[1]:
                raise MilbenchError(
                    f"{path} has {row.shape[1]}-d embeddings but the slide's others are {rows[0].shape[1]}-d; "
                    f"embed the slide again.",
                    code="features-disagree",
                )
            rows.append(row)
    return torch.cat(rows) if rows else torch.zeros(0)
