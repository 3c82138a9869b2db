"""slideflow: a folder of {slide}.pt bags with {slide}.index.npz (places of the tiles) and bags_config.json.

Dolezal et al., Slideflow: deep learning for digital histopathology with real-time whole-slide visualization, BMC
Bioinformatics 2024. Places are the centres (x, y) of the tiles in level-0 pixels; how far apart they are on a slide
depends on its scanner and stands nowhere. A project's bags are in its folder pt_files/ unless it says otherwise.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import MilbenchError
from . import FileSlides, Slides, SourceSlide
from ._arrays import bag, coords_wanted
from ._listing import by_stem, files_in
from ._marks import slideflow_bags
from ._read import need_file, npy_array, npz_arrays, torch_tensor
from ._rows import torch_rows

NAME = "slideflow"


def detect(source: Path) -> str | None:
    """Recognise a folder of bags by the places or the configuration next to them, or the project that holds one."""
    folder = _folder(source)
    if folder is None:
        return None
    said = ", ".join(f"{key} {value}" for key, value in _config(folder).items())
    return f"slideflow bags in {folder}: {len(_bags(folder))} .pt files{f' ({said})' if said else ''}"


def open_source(source: Path) -> Slides:
    """Open the bags; one without a file of places has no coordinates."""
    folder = _folder(source)
    if folder is None:
        raise MilbenchError(
            f"{source} holds no slideflow bags; give the folder of the .pt files.", code="format-mismatch"
        )
    meta = _config(folder)

    def load(slide: str, path: Path) -> SourceSlide:
        where, places = _places(slide, folder) if coords_wanted() else (None, None)
        features, coords = bag(path, torch_tensor(path), places, where)
        units = {} if coords is None else {"units": "level-0 pixels"}
        return SourceSlide(slide, features, coords, meta | units, path)

    return FileSlides(_bags(folder), load, lambda slide, _: [_index(slide, folder, end) for end in ("npz", "npy")],
                      rows=torch_rows)  # fmt: skip


def _folder(source: Path) -> Path | None:
    for folder in (source, source / "pt_files"):
        if folder.is_dir() and slideflow_bags(folder) and _bags(folder):
            return folder
    return None


def _bags(folder: Path) -> dict[str, Path]:
    return by_stem(files_in(folder, ".pt"))


def _index(slide: str, folder: Path, end: str) -> Path:
    return folder / f"{slide}.index.{end}"


def _places(slide: str, folder: Path) -> tuple[Path | None, np.ndarray | None]:
    packed, plain = (_index(slide, folder, end) for end in ("npz", "npy"))
    if packed.exists() or packed.is_symlink():
        arrays = npz_arrays(packed, ("arr_0",), "iuf")
        if not arrays:
            raise MilbenchError(f"{packed} has no array 'arr_0'; export the bag again.", code="features-missing")
        return packed, arrays["arr_0"]
    if plain.exists() or plain.is_symlink():
        return plain, npy_array(plain, "iuf")
    return None, None


def _config(folder: Path) -> dict[str, Any]:
    """Return what bags_config.json says, as far as it has the form that slideflow writes."""
    path = folder / "bags_config.json"
    if not path.exists() and not path.is_symlink():
        return {}
    need_file(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise MilbenchError(
            f"{path} is no JSON ({error}); export the bags again, or remove it.", code="config-invalid"
        ) from None
    if not isinstance(content, dict):
        raise MilbenchError(
            f"{path} must hold a JSON object; export the bags again, or remove it.", code="config-invalid"
        )
    meta: dict[str, Any] = {}
    extractor, size, width = content.get("extractor"), content.get("tile_px"), content.get("tile_um")
    if isinstance(extractor, dict) and isinstance(extractor.get("class"), str):
        meta["encoder"] = extractor["class"].rsplit(".", 1)[-1]
    if type(size) is int:  # a truth value is an int too
        meta["patch_size"] = size
    # A tile is so many micrometres wide, or its magnification is given, as "20x".
    if isinstance(width, str) and (match := re.fullmatch(r"(\d+(?:\.\d+)?)x", width)):
        meta["magnification"] = float(match[1])
    return meta
