"""How a feature cache lies on disk: shard headers, the sealed cache.toml, the columns of the index.

::

    CACHE/
      shard-00000.safetensors   features (rows, d) and, where known, coords (rows, 2), slide after slide
      shard-00001.safetensors   ...
      index.parquet             one row a slide: slide_id, shard, first_row, rows, checksum, coord_step
      source.json               labels, patients and splits, where the source brings them
      cache.toml                what the features are; checksum of the index; last line: checksum of the lines before it

A shard's header is a function of its shape and dtype and has a fixed length, so that rows can be streamed to their
final place before their number is known, and so that a changed header is detected without storing a checksum for it.
"""

from __future__ import annotations

import json
import math
import re
import struct
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ...atomic_io.checksums import checksum
from ...atomic_io.manifest import first_line
from ...atomic_io.publishing import read_regular
from ...errors import MilbenchError
from ..home import CACHE_FILE

if TYPE_CHECKING:
    import pandas as pd

SCHEMA = 2
INDEX, TABLE = "index.parquet", "source.json"
COLUMNS = ("slide_id", "shard", "first_row", "rows", "checksum", "coord_step")
#: name of a feature dtype -> torch's, safetensors' name of it
DTYPES = {"float16": (torch.float16, "F16"), "bfloat16": (torch.bfloat16, "BF16"), "float32": (torch.float32, "F32")}
#: of coordinates; integers become int64, reals float32
COORD_DTYPES = {"int64": (torch.int64, "I64"), "float32": (torch.float32, "F32")}
#: keys of cache.toml that hold text -> what stands for one that is missing
_TEXTS = {"index_checksum": None, "table_checksum": "", "source": "", "format": "", "order": ""}
#: room for the header with the largest numbers; a multiple of 64, so that the features are aligned in memory
HEADER_BYTES = 512


def shard_name(number: int) -> str:
    """Return the file name of a shard."""
    return f"shard-{number:05d}.safetensors"


def shard_header(rows: int, dim: int, dtype: str, coord_dtype: str | None) -> bytes:
    """Return the 512 bytes a shard of this shape starts with (a safetensors header, padded with blanks)."""
    torch_dtype, name = DTYPES[dtype]
    end = rows * dim * torch_dtype.itemsize
    tensors = {"features": {"dtype": name, "shape": [rows, dim], "data_offsets": [0, end]}}
    if coord_dtype is not None:
        coord_torch, coord_name = COORD_DTYPES[coord_dtype]
        offsets = [end, end + rows * 2 * coord_torch.itemsize]
        tensors["coords"] = {"dtype": coord_name, "shape": [rows, 2], "data_offsets": offsets}
    text = json.dumps(tensors, separators=(",", ":")).encode()
    return struct.pack("<Q", HEADER_BYTES - 8) + text.ljust(HEADER_BYTES - 8)


def shard_bytes(rows: int, dim: int, dtype: str, coord_dtype: str | None) -> int:
    """Return the size of the file of a shard of this shape."""
    coords = 0 if coord_dtype is None else 2 * COORD_DTYPES[coord_dtype][0].itemsize
    return HEADER_BYTES + rows * (dim * DTYPES[dtype][0].itemsize + coords)


def to_toml(values: Mapping[str, Any]) -> str:
    """Write a flat table: text, integers, reals, booleans, and lists of these; None is left out.

    Raises:
        MilbenchError: a value of another type.
    """
    lines = []
    for key, value in values.items():
        if value is not None:
            name = key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else _toml_value(key, key)
            lines.append(f"{name} = {_toml_value(value, key)}\n")
    return "".join(lines)


def seal(text: str) -> str:
    """Append the line that holds the checksum of everything before it."""
    return f'{text}checksum = "{checksum(text.encode())}"\n'


def is_sealed(raw: bytes) -> bool:
    """Tell whether the bytes of a cache.toml are those that were written."""
    body, mark, _ = raw.rpartition(b'checksum = "')
    return bool(mark) and seal(body.decode("utf-8", errors="replace")).encode() == raw


def read_toml(folder: Path) -> dict[str, Any]:
    """Read a cache's cache.toml.

    Raises:
        MilbenchError: the folder is no cache, or the file is damaged or from another schema version.
    """
    path = folder / CACHE_FILE
    if not path.is_file():
        what = "is no feature cache (it has no cache.toml)" if folder.is_dir() else "does not exist"
        if folder.is_file():
            raise MilbenchError(
                f"{folder} is a file, and a feature cache is a folder; give the folder.", code="cache-missing"
            )
        raise MilbenchError(
            f"{folder} {what}; make one with milbench cache build --from DIR --out {folder}.", code="cache-missing"
        )
    try:
        raw = read_regular(path)
        meta = tomllib.loads(raw.decode("utf-8"))
    except OSError as error:
        raise MilbenchError(
            f"{path} cannot be read: {error.strerror}; correct its permissions.", code="file-unreadable"
        ) from None
    except MilbenchError:
        raise
    except (ValueError, RecursionError) as error:  # TOML, UTF-8, integers of thousands of digits
        raise MilbenchError(
            f"{path} is damaged ({first_line(error)}); build the cache again from its source.", code="cache-damaged"
        ) from None
    if meta.get("schema") != SCHEMA:
        raise MilbenchError(
            f"{path} has schema version {meta.get('schema')!r}, this milbench reads {SCHEMA}; build the cache again or "
            f"use the milbench that wrote it ({meta.get('milbench', 'unknown')}).",
            code="schema-unknown",
        )
    if not is_sealed(raw):
        raise MilbenchError(
            f"{path} was changed or damaged after the cache was built (its last line is the checksum of the others); "
            "copy it again, or build the cache again from its source.",
            code="cache-damaged",
        )
    wrong = [key for key in ("dim", "slides", "rows") if type(meta.get(key)) is not int or meta[key] < 1]
    wrong += [key for key, default in _TEXTS.items() if not isinstance(meta.get(key, default), str)]
    left_out = meta.get("left_out", [])
    if not isinstance(left_out, list) or not all(isinstance(name, str) for name in left_out):
        wrong.append("left_out")
    if not isinstance(meta.get("dtype"), str) or meta["dtype"] not in DTYPES:
        wrong.append("dtype")
    if meta.get("coord_dtype") not in (None, *COORD_DTYPES):
        wrong.append("coord_dtype")
    if wrong:
        raise MilbenchError(
            f"{path} has no valid {', '.join(wrong)}; build the cache again from its source.", code="cache-damaged"
        )
    return meta


def index_problem(index: pd.DataFrame, meta: dict[str, Any]) -> str | None:
    """Say what is wrong with an index, or None: columns, counts, slides that do not tile their shards."""
    if list(index.columns) != list(COLUMNS):
        return f"columns {', '.join(map(str, index.columns))}"
    if index["first_row"].dtype != "int64" or index["rows"].dtype != "int64":
        return "row numbers that are no integers"
    if len(index) != meta["slides"] or index["rows"].sum() != meta["rows"]:
        return f"{len(index)} slides with {index['rows'].sum()} rows instead of {meta['slides']} with {meta['rows']}"
    if len(index) == 0 or index["slide_id"].duplicated().any():
        return "no slide, or one that appears twice"
    if not index["shard"].str.fullmatch(r"shard-\d{5,}\.safetensors").all():
        return "a shard that is no plain file of the cache"
    due = index.groupby("shard", sort=False)["rows"].cumsum() - index["rows"]
    if (index["rows"] < 1).any() or (due != index["first_row"]).any():
        return "slides that do not follow each other in their shard"
    return None


def _toml_value(value: Any, key: str) -> str:
    if hasattr(value, "item") and not isinstance(value, torch.Tensor):  # a numpy scalar
        value = value.item()
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        # JSON's strings are TOML's, but for DEL; escaping more would make surrogate pairs, which TOML refuses.
        clean = value.encode("utf-8", errors="replace").decode()
        return json.dumps(clean, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return repr(value) if math.isfinite(value) else str(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(_toml_value(item, key) for item in value)}]"
    raise MilbenchError(
        f"{key} = {value!r} cannot be kept in cache.toml; give text, numbers, booleans or lists of these.",
        code="cache-bad-request",
    )
