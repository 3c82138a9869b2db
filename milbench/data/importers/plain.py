"""plain: a folder with one .npy, .npz, .safetensors, .h5 or Parquet file a slide, or one .pt of tensors by name.

- ``.npy``: the features, (N, D);
- ``.npz``, ``.safetensors``, ``.pt``, ``.h5``: ``features``, or the only one of the names that tools give to features
  (feats, embeddings, tile_embeds ...), or the only array that could be features; where there are positions,
  ``coords``; ``.safetensors`` and ``.pt`` keep bfloat16;
- ``.parquet``: features in a column of lists or in columns of numbers, positions in ``x`` and ``y`` or in a list
  ``coords``; see long_table for the names.

All files are of one kind; folders below are read too, where theirs are as well. A folder of bare tensors is CLAM's, as
are .h5 files with ``features`` that do not describe themselves.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch

from ...errors import MilbenchError
from ...formatting.text import count
from ..home import CACHE_FILE
from . import FileSlides, Slides, SourceSlide
from ._arrays import Array, bag, coords_key, coords_wanted, features_key
from ._arrow import refuse_unfinite
from ._listing import by_stem, ending, files_in, gather, not_read, several_folders
from ._marks import claimed
from ._parquet import ParquetTable, columns_of, parquet_rows, schema_of
from ._probe import folder_kind
from ._read import (
    h5_array,
    h5_coords,
    h5_features_key,
    npy_mapped,
    npz_arrays,
    npz_keys,
    open_h5,
    open_safetensors,
    pt_kind,
    torch_named,
)
from ._rows import h5_rows, npy_rows

NAME = "plain"

_KINDS = (".npy", ".npz", ".safetensors", ".pt", ".h5", ".parquet")
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_NUMBERS = (*_FLOATS, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def detect(source: Path) -> str | None:
    """Recognise a folder of files of one kind that bears no other tool's marks."""
    files = _files(source)
    if not files:
        return None
    first = min(files.values())
    kind = ending(first)
    named = ""
    if kind == ".parquet":
        whole = next((path for path in files.values() if path.is_file()), first)
        named = f": {columns_of(schema_of(whole), whole)}"
    also = not_read(source, files.values())
    return f"plain files in {source}: {count(len(files), f'{kind} file')}, one a slide{named}{also}"


def open_source(source: Path) -> Slides:
    """Open the slides, which are named by their files."""
    return FileSlides(_files(source), _load, rows=_rows)


def _load(slide: str, path: Path) -> SourceSlide:
    features, coords = _READERS[ending(path)](path)
    features, coords = bag(path, features, coords)
    return SourceSlide(slide, features, coords, {}, path)


def _npy(path: Path) -> tuple[Array, Array | None]:
    return npy_mapped(path, "f"), None


def _npz(path: Path) -> tuple[Array, Array | None]:
    keys = npz_keys(path)
    if "bag_offsets" in keys:
        raise MilbenchError(
            f"{path} holds packed bags, not one slide; give that file itself.", code="file-wrong-content"
        )
    features, coords = _pick(keys, path)
    arrays = npz_arrays(path, (features,), "f")
    return arrays[features], None if coords is None else npz_arrays(path, (coords,), "iufV")[coords]


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


def _h5(path: Path) -> tuple[Array, Array | None]:
    with open_h5(path) as file:
        key = h5_features_key(file, path)
        if key is None:  # positions of no patches
            return np.zeros(0, np.float32), None
        features = h5_array(file, key, path, "f")
        assert features is not None
        return features, h5_coords(file, path)


def _parquet(path: Path) -> tuple[Array, Array | None]:
    table = ParquetTable(path)
    if table.columns.slide is not None:
        raise MilbenchError(
            f"{path} has a column of slides, {table.columns.slide!r}, as a long table; keep it apart from files of one "
            f"slide.",
            code="file-wrong-content",
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


_READERS = {".npy": _npy, ".npz": _npz, ".pt": _pt, ".safetensors": _safetensors, ".h5": _h5, ".parquet": _parquet}


def _rows(path: Path) -> int | None:
    kind = ending(path)
    if kind == ".npy":
        return npy_rows(path)
    if kind == ".parquet":
        return parquet_rows(path)
    if kind == ".h5":
        return h5_rows(path, None)
    if kind == ".safetensors":
        with suppress(MilbenchError), open_safetensors(path) as file:
            shape = file.get_slice(_pick(file.keys(), path)[0]).get_shape()
            return int(shape[0]) if shape else None
    return None


def _pick(keys: Collection[str], path: Path) -> tuple[str, str | None]:
    """Return the names of the features and, where there are any and they are wanted, of the positions."""
    coords = coords_key(keys)
    return features_key(keys, keys, path), coords if coords_wanted() else None


def _of(tensor: torch.Tensor, key: str, path: Path, dtypes: Collection[torch.dtype]) -> torch.Tensor:
    if tensor.dtype not in dtypes:
        wanted = "floating point" if dtypes is _FLOATS else "numbers"
        raise MilbenchError(
            f"{path}: {key!r} must be {wanted}, got dtype {tensor.dtype}; convert it first.", code="features-bad-array"
        )
    return tensor


def _files(source: Path) -> dict[str, Path]:
    """Return the files of a folder by the names of slides; none where there are several kinds."""
    if not source.is_dir() or (source / CACHE_FILE).exists():
        return {}
    here = files_in(source, *_KINDS)
    if here:
        kinds = {ending(path) for path in here}
        if len(kinds) > 1 or not _are_plain(here):
            return {}
    elif not several_folders(source, _KINDS, _are_plain_alone):
        return {}
    return by_stem(gather(source, sorted(kinds) if here else _KINDS, _are_plain_alone))


def _are_plain_alone(files: Sequence[Path]) -> bool:
    return len({ending(path) for path in files}) == 1 and _are_plain(files)


def _are_plain(files: Sequence[Path]) -> bool:
    """Open some files, where the kind alone does not tell."""
    if claimed(files[0].parent) not in (None, NAME):
        return False
    kind = ending(files[0])
    if kind == ".h5":
        return folder_kind(files) == "named"
    if kind == ".pt":
        return pt_kind(files) == "dict"
    return kind != ".parquet" or _are_slides(files)


def _are_slides(files: Sequence[Path]) -> bool:
    """Whether Parquet files are one slide each: the first that can be read tells."""
    trouble: MilbenchError | None = None
    for path in files:
        try:
            columns = columns_of(schema_of(path), path)
        except MilbenchError as error:
            trouble = trouble or error
            continue
        return columns is not None and columns.slide is None
    assert trouble is not None
    raise trouble
