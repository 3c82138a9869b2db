"""plain: a folder with one .npy, .npz, .safetensors or Parquet file a slide, or one .pt that holds tensors by name.

- ``.npy``: the features, (N, D);
- ``.npz``, ``.safetensors``, ``.pt``: ``features`` (or ``feats``, or the only other name there is) and, where there are
  positions, ``coords``; ``.safetensors`` and ``.pt`` keep bfloat16;
- ``.parquet``: features in a column of lists or in columns of numbers, positions in ``x`` and ``y`` or in a list
  ``coords``; see long_table for the names.

All files are of one kind. Folders below are not searched. A folder of bare tensors is CLAM's.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch

from ...errors import MilbenchError
from ..layout import TOML
from ..tables import count, some
from . import FileSlides, Slides, SourceSlide
from ._arrow import refuse_unfinite
from ._marks import claimed
from ._parquet import ParquetTable, columns_of, parquet_rows, schema_of
from ._read import (
    Array,
    holds_names,
    npy_mapped,
    npz_arrays,
    npz_keys,
    open_safetensors,
    same_rows,
    torch_named,
)
from ._rows import npy_rows

NAME = "plain"

_KINDS = (".npy", ".npz", ".safetensors", ".pt", ".parquet")
_FEATURES = ("features", "feats", "feature", "embeddings", "embedding")
_COORDS = ("coords", "coordinates")
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_NUMBERS = (*_FLOATS, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def detect(source: Path) -> str | None:
    """Recognise a folder of files of one kind that bears no other tool's marks."""
    files = _files(source)
    if not files:
        return None
    first = min(files.values())
    if not first.is_file() or not _is_plain(first):
        return None
    told = f": {columns_of(schema_of(first), first)}" if first.suffix == ".parquet" else ""
    return f"plain files in {source}: {count(len(files), f'{first.suffix} file')}, one a slide{told}"


def open_source(source: Path) -> Slides:
    """Open the slides, which are named by their files."""
    return FileSlides(_files(source), _load, rows=_rows)


def _load(slide: str, path: Path) -> SourceSlide:
    features, coords = _READERS[path.suffix](path)
    same_rows(path, features, coords)
    return SourceSlide(slide, features, coords, {}, path)


def _npy(path: Path) -> tuple[Array, Array | None]:
    return npy_mapped(path, "f"), None


def _npz(path: Path) -> tuple[Array, Array | None]:
    keys = npz_keys(path)
    if "bag_offsets" in keys:
        raise MilbenchError(f"{path} holds packed bags, not one slide; give that file itself.")
    features, coords = _pick(keys, path)
    found = npz_arrays(path, (features,), "f")
    return found[features], None if coords is None else npz_arrays(path, (coords,), "iuf")[coords]


def _pt(path: Path) -> tuple[Array, Array | None]:
    tensors = torch_named(path)
    features, coords = _pick(tensors, path)
    places = None if coords is None else _of(tensors[coords], coords, path, _NUMBERS)
    return _of(tensors[features], features, path, _FLOATS), places


def _safetensors(path: Path) -> tuple[Array, Array | None]:
    with open_safetensors(path) as file:
        features, coords = _pick(file.keys(), path)
        places = None if coords is None else _of(file.get_tensor(coords), coords, path, _NUMBERS)
        return _of(file.get_tensor(features), features, path, _FLOATS), places


def _parquet(path: Path) -> tuple[Array, Array | None]:
    table = ParquetTable(path)
    if table.columns.slide is not None:
        raise MilbenchError(
            f"{path} has a column of slides, {table.columns.slide!r}, as a long table; keep it apart from files of one "
            f"slide."
        )
    x = np.empty((table.rows, table.width), table.dtype)
    xy = None if table.coord_dtype is None else np.empty((table.rows, 2), table.coord_dtype)
    done = 0
    while done < table.rows:
        _, features, places = table.window(done)
        refuse_unfinite(features, table.columns, path, done)
        stop = done + len(features)
        x[done:stop] = features
        if xy is not None:
            xy[done:stop] = places
        done = stop
    return x, xy


_READERS = {".npy": _npy, ".npz": _npz, ".pt": _pt, ".safetensors": _safetensors, ".parquet": _parquet}


def _rows(path: Path) -> int | None:
    if path.suffix == ".npy":
        return npy_rows(path)
    if path.suffix == ".parquet":
        return parquet_rows(path)
    if path.suffix == ".safetensors":
        with suppress(MilbenchError), open_safetensors(path) as file:
            shape = file.get_slice(_pick(file.keys(), path)[0]).get_shape()
            return int(shape[0]) if shape else None
    return None


def _pick(keys: Collection[str], path: Path) -> tuple[str, str | None]:
    """Return the names of the features and, where there are any, of the positions."""
    coords = next((key for key in _COORDS if key in keys), None)
    others = [key for key in keys if key != coords]
    features = next((key for key in _FEATURES if key in keys), others[0] if len(others) == 1 else None)
    if features is None:
        raise MilbenchError(f"{path} holds {some(list(keys)) or 'nothing'}; name the features 'features'.")
    return features, coords


def _of(tensor: torch.Tensor, key: str, path: Path, dtypes: Collection[torch.dtype]) -> torch.Tensor:
    if tensor.dtype not in dtypes:
        wanted = "floating point" if dtypes is _FLOATS else "numbers"
        raise MilbenchError(f"{path}: {key!r} must be {wanted}, got dtype {tensor.dtype}; convert it first.")
    return tensor


def _files(source: Path) -> dict[str, Path]:
    """Return the files of a folder by the names of slides; none where there are several kinds."""
    if not source.is_dir() or (source / TOML).exists() or claimed(source) not in (None, NAME):
        return {}
    paths = [path for path in source.glob("*") if path.suffix in (*_KINDS, ".h5")]
    kinds = {path.suffix for path in paths}
    return {path.stem: path for path in paths} if len(kinds) == 1 and ".h5" not in kinds else {}


def _is_plain(path: Path) -> bool:
    """Look at one file, where the kind alone does not tell."""
    if path.suffix == ".parquet":
        found = columns_of(schema_of(path), path)
        return found is not None and found.slide is None
    return path.suffix != ".pt" or holds_names(path)
