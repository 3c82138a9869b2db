"""CacheWriter: streams the slides of a cohort into a feature cache, in bounded memory, all or nothing."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from ..errors import MilbenchError, did_you_mean
from .files import staged
from .layout import (
    COLUMNS,
    COORD_DTYPES,
    DTYPES,
    HEADER_BYTES,
    INDEX,
    SCHEMA,
    TOML,
    checksum,
    file_checksum,
    seal,
    shard_header,
    shard_name,
    to_toml,
)

#: rows looked at in one go when values are checked: a slide of 10^5 patches needs no second copy, and caches are used
_CHUNK = 2048
_RESERVED = ("schema", "milbench", "dtype", "dim", "coord_dtype", "slides", "rows", "index_checksum", "checksum")


class CacheWriter:
    """Writes a feature cache; use it in a ``with`` block.

    Rows go straight to their shard in a hidden folder beside ``out``, which becomes ``out`` when the block ends well.
    After an exception or a kill nothing that opens as a cache exists at ``out``. One slide is held in memory at a time.

    Args:
        out: the folder to make; it must not exist.
        dtype: ``float16``, ``bfloat16`` or ``float32``.
        meta: kept in cache.toml: encoder, patch_size, magnification, units, source ...
        shard_bytes: a shard is closed before it would grow beyond this; a slide is never divided.

    Attributes:
        max_rounding_error: largest absolute difference between a value given and the value kept.
        max_abs: largest absolute value given.

    Raises:
        MilbenchError: ``out`` exists or cannot be written, or an unknown dtype.
    """

    def __init__(self, out: str | Path, dtype: str = "float16", meta: Mapping[str, Any] | None = None,
                 shard_bytes: int = 2 << 30) -> None:  # fmt: skip
        if dtype not in DTYPES:
            raise MilbenchError(f"a cache cannot hold {dtype!r}.{did_you_mean(dtype, DTYPES)}")
        clash = [key for key in meta or {} if key in _RESERVED]
        if clash:
            raise MilbenchError(
                f"{', '.join(clash)} of the metadata are keys milbench writes itself; choose other names."
            )
        self.out = Path(out)
        self.dtype = dtype
        self.meta = dict(meta or {})
        to_toml(self.meta)  # what cannot be kept is refused now, not after hours of reading
        self.shard_bytes = shard_bytes
        self.max_rounding_error = 0.0
        self.max_abs = 0.0
        self._index: dict[str, tuple[str, int, int, str, float]] = {}
        self._dim = 0
        self._coord_dtype: str | None = None
        self._shards = 0
        self._rows = self._bytes = 0  # of the shard that is open
        self._file: BinaryIO | None = None
        self._spill: BinaryIO | None = None
        self._folder: Path | None = None
        self._staged = staged(self.out)

    def __enter__(self) -> CacheWriter:
        self._folder = self._staged.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        try:
            if kind is None:
                self._finish()
        except BaseException as error:
            kind, value, tb = type(error), error, error.__traceback__
            raise
        finally:
            self._close_files()
            self._folder = None
            self._staged.__exit__(kind, value, tb)  # publishes the folder, or removes it

    def __len__(self) -> int:
        return len(self._index)

    @property
    def dim(self) -> int:
        """Width of the features; 0 before the first slide."""
        return self._dim

    @property
    def has_coords(self) -> bool:
        """Whether the slides so far have coordinates."""
        return self._coord_dtype is not None

    @property
    def rows(self) -> int:
        """Rows written so far."""
        return sum(entry[2] for entry in self._index.values())

    def add(self, slide_id: str, features: Tensor | np.ndarray, coords: Tensor | np.ndarray | None = None,
            coord_step: float | None = None) -> None:  # fmt: skip
        """Append a slide.

        Args:
            slide_id: its name, unique in the cache.
            features: ``(n, d)`` floating point, n at least 1, finite, all slides of one width.
            coords: ``(n, 2)`` positions (x, y), of every slide or of none; integers become int64, reals float32.
            coord_step: distance of neighbouring patches in the units of ``coords``, where known.

        Raises:
            MilbenchError: any of these does not hold; the writer can go on with other slides.
        """
        if self._folder is None:
            raise MilbenchError(
                "CacheWriter writes inside a with block only: with CacheWriter(out) as writer: writer.add(...)."
            )
        if not isinstance(slide_id, str) or not slide_id:
            raise MilbenchError(f"a slide id must be non-empty text, got {slide_id!r}; write str(id).")
        if slide_id in self._index:
            raise MilbenchError(f"slide {slide_id!r} is given twice; every slide may appear once in a cache.")
        x, rounding, largest = self._check_features(slide_id, features)
        xy, coord_dtype = self._check_coords(slide_id, coords, len(x))
        raw = [_bytes(part) for part in (x, xy) if part is not None]
        size = sum(part.nbytes for part in raw)
        if self._file is not None and self._bytes + size > self.shard_bytes:
            self._close_shard()
        if not self._index:
            self._dim, self._coord_dtype = x.shape[1], coord_dtype
        file, spill = self._open_shard()
        file.write(raw[0])
        if xy is not None:
            spill.write(raw[1])
        step = float("nan") if coord_step is None else float(coord_step)
        self._index[slide_id] = (shard_name(self._shards), self._rows, len(x), checksum(*raw), step)
        self._rows += len(x)
        self._bytes += size
        self.max_rounding_error = max(self.max_rounding_error, rounding)
        self.max_abs = max(self.max_abs, largest)

    def _check_features(self, slide: str, features: Tensor | np.ndarray) -> tuple[Tensor, float, float]:
        x = _tensor(slide, "features", features)
        if x.ndim != 2:
            raise MilbenchError(f"features of slide {slide!r} must have shape (rows, dim), got {tuple(x.shape)}.")
        if not x.is_floating_point():
            raise MilbenchError(
                f"features of slide {slide!r} must be floating point, got {x.dtype}; convert them first."
            )
        if x.shape[0] == 0 or x.shape[1] == 0:
            raise MilbenchError(f"slide {slide!r} is empty, shape {tuple(x.shape)}; leave it out.")
        if self._index and x.shape[1] != self._dim:
            raise MilbenchError(
                f"slide {slide!r} has {x.shape[1]}-d features but the slides before it have {self._dim}-d ones; "
                f"a cache holds the features of one encoder."
            )
        dtype = DTYPES[self.dtype][0]
        kept = x.to(dtype)
        rounding = largest = 0.0
        for start in range(0, len(x), _CHUNK):
            given = x[start : start + _CHUNK]
            low, high = (float(end) for end in torch.aminmax(given))  # NaN comes through: one pass tells all
            if not (math.isfinite(low) and math.isfinite(high)):
                row = start + int((~torch.isfinite(given).all(1)).nonzero()[0])
                raise MilbenchError(
                    f"row {row} of slide {slide!r} has a NaN or infinite feature; extract the slide again."
                )
            largest = max(largest, -low, high)
            if not torch.isfinite(torch.tensor(largest, dtype=torch.float64).to(dtype)):
                raise MilbenchError(
                    f"slide {slide!r} has a feature of size {largest:g}, too large for {self.dtype}; "
                    f"use bfloat16 or float32."
                )
            if given.dtype != dtype:
                wide = torch.promote_types(given.dtype, dtype)
                change = torch.aminmax(kept[start : start + _CHUNK].to(wide) - given.to(wide))
                rounding = max(rounding, -float(change.min), float(change.max))
        return kept, rounding, largest

    def _check_coords(self, slide: str, coords: Tensor | np.ndarray | None, n: int) -> tuple[Tensor | None, str | None]:
        if self._index and (coords is None) != (self._coord_dtype is None):
            this, before = ("no", "have them") if coords is None else ("its", "have none")
            raise MilbenchError(
                f"slide {slide!r} has {this} coordinates but the slides before it {before}; "
                f"give them for every slide or for none."
            )
        if coords is None:
            return None, None
        xy = _tensor(slide, "coordinates", coords)
        if tuple(xy.shape) != (n, 2):
            raise MilbenchError(f"coordinates of slide {slide!r} must have shape ({n}, 2), got {tuple(xy.shape)}.")
        if xy.is_complex() or xy.dtype == torch.bool:
            raise MilbenchError(f"coordinates of slide {slide!r} must be numbers, got {xy.dtype}.")
        name = "float32" if xy.is_floating_point() else "int64"
        if self._index and name != self._coord_dtype:
            raise MilbenchError(
                f"slide {slide!r} has {name} coordinates but the slides before it {self._coord_dtype} ones; "
                f"give all in the same units and type."
            )
        xy = xy.to(COORD_DTYPES[name][0])
        if not torch.isfinite(xy).all():
            raise MilbenchError(f"slide {slide!r} has a NaN or infinite coordinate; extract the slide again.")
        return xy, name

    def _open_shard(self) -> tuple[BinaryIO, BinaryIO]:
        assert self._folder is not None
        if self._file is None or self._spill is None:
            self._file = (self._folder / shard_name(self._shards)).open("xb")
            # A safetensors file has no holes: coordinates wait here until the number of rows before them is known.
            self._spill = (self._folder / "coords.spill").open("x+b")
            self._file.write(bytes(HEADER_BYTES))
        return self._file, self._spill

    def _close_shard(self) -> None:
        file, spill = self._open_shard()
        spill.seek(0)
        shutil.copyfileobj(spill, file, 1 << 20)
        file.seek(0)
        file.write(shard_header(self._rows, self._dim, self.dtype, self._coord_dtype))
        self._close_files()
        self._shards += 1
        self._rows = self._bytes = 0

    def _close_files(self) -> None:
        for file in (self._file, self._spill):
            if file is not None:
                file.close()
        if self._folder is not None:
            (self._folder / "coords.spill").unlink(missing_ok=True)
        self._file = self._spill = None

    def _finish(self) -> None:
        import pandas as pd

        assert self._folder is not None
        if not self._index:
            raise MilbenchError(f"no slide was given, so there is no cache to write at {self.out}.")
        self._close_shard()
        frame = pd.DataFrame([(slide, *entry) for slide, entry in self._index.items()], columns=list(COLUMNS))
        frame.to_parquet(self._folder / INDEX, index=False)
        head = {"schema": SCHEMA, "milbench": version("milbench"), "dtype": self.dtype, "dim": self._dim}
        head |= {"coord_dtype": self._coord_dtype, "slides": len(frame), "rows": int(frame["rows"].sum())}
        text = to_toml(head | self.meta | {"index_checksum": file_checksum(self._folder / INDEX)})
        (self._folder / TOML).write_bytes(seal(text).encode())  # last: without it the folder does not open


def _bytes(part: Tensor) -> memoryview:
    """Return the bytes of a tensor's rows; numpy has no bfloat16, hence by way of uint8."""
    return part.contiguous().view(torch.uint8).numpy().data.cast("B")


def _tensor(slide: str, what: str, value: Tensor | np.ndarray) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach().cpu()
    array = np.asarray(value)
    if array.dtype.kind not in "fiub":
        raise MilbenchError(f"{what} of slide {slide!r} must be numbers, got numpy dtype {array.dtype}.")
    if array.dtype.kind == "u":
        array = array.astype(np.int64)
    native = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
    return torch.from_numpy(native if native.flags.writeable else native.copy())
