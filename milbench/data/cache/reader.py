"""FeatureCache: the patch features of a cohort, read by memory map and shared by every method and process."""

from __future__ import annotations

import difflib
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ...atomic_io.checksums import checksum
from ...atomic_io.manifest import read_file
from ...bags import Bags
from ...config import digest
from ...errors import MilbenchError, did_you_mean
from ..home import CACHE_FILE
from ..source_labels import SourceTable, parse_source_table
from .layout import COORD_DTYPES, DTYPES, INDEX, TABLE, index_problem, read_toml, shard_bytes
from .verify import verify
from .writer import CacheWriter

__all__ = ["CacheWriter", "FeatureCache", "verify"]


#: What to do about a file that is not as it was written.
_COPY_AGAIN = "copy the cache again or build it from its source"


class FeatureCache:
    """An open feature cache. Opening reads cache.toml and the index, and checks their checksums.

    Features are mapped, not read, until they are used.

    A process that receives a cache by pickle opens it anew from its path, so that the pages are shared, not copied.

    Attributes:
        path: the folder.
        meta: what cache.toml says: encoder, patch_size, magnification, units, source, order, versions ...
        slides: pandas frame, one row a slide in the order of writing: slide_id, shard, first_row, rows, checksum,
            coord_step.
        ids: the slide ids in that order.
        dim: width d of the features.
        dtype: torch dtype of the features.
        has_coords: whether the slides have coordinates.
    """

    def __init__(self, path: str | Path) -> None:
        """Open a folder; `FeatureCache.open` reads better."""
        self.path = Path(path)
        self.meta: dict[str, Any] = read_toml(self.path)
        self.slides = _read_index(self.path, self.meta)
        self.ids: tuple[str, ...] = tuple(self.slides["slide_id"])
        self.dim: int = self.meta["dim"]
        self.dtype: torch.dtype = DTYPES[self.meta["dtype"]][0]
        self.has_coords: bool = "coord_dtype" in self.meta
        shards, first, rows = (self.slides[name] for name in ("shard", "first_row", "rows"))
        places = zip(shards, first.tolist(), rows.tolist(), strict=True)
        self._where: dict[str, tuple[str, int, int]] = dict(zip(self.ids, places, strict=True))
        self._open: dict[str, tuple[Tensor, Tensor | None]] = {}
        ends = (first + rows).groupby(shards, sort=False).max()
        self._shard_rows = {str(name): int(end) for name, end in ends.items()}
        for name, n in self._shard_rows.items():
            self._check_size(name, n)

    @classmethod
    def open(cls, path: str | Path) -> FeatureCache:
        """Open the cache in a folder.

        Raises:
            MilbenchError: no cache there, a damaged index, a missing or truncated shard, or another schema version.
        """
        return cls(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return FeatureCache, (self.path.absolute(),)

    def __len__(self) -> int:
        return len(self.ids)

    def __contains__(self, slide: object) -> bool:
        return slide in self._where

    def __iter__(self) -> Iterator[str]:
        return iter(self.ids)

    def __repr__(self) -> str:
        rows, dtype = self.meta["rows"], self.meta["dtype"]
        return f"FeatureCache({str(self.path)!r}: {len(self)} slides, {rows} rows, dim {self.dim}, {dtype})"

    def __getitem__(self, slide: str) -> Tensor:
        """Return the ``(n, d)`` features of a slide: a view of the mapped file, in the cache's dtype.

        The map is private: writing into the tensor changes this process's copy of the page, never the file. Do not.

        Raises:
            MilbenchError: an unknown slide.
        """
        shard, first, rows = self._find(slide)
        return self._shard(shard)[0][first : first + rows]

    def lengths(self, ids: Sequence[str]) -> list[int]:
        """Return the numbers of rows of some slides of this cache; nothing else is read."""
        return [int(n) for n in self.slides.set_index("slide_id").loc[list(ids), "rows"]]

    def coords(self, slide: str) -> Tensor | None:
        """Return the ``(n, 2)`` positions (x, y) of a slide's rows, int64 or float32; None where the cache has none."""
        shard, first, rows = self._find(slide)
        coords = self._shard(shard)[1]
        return None if coords is None else coords[first : first + rows]

    def bags(self, ids: Sequence[str], dtype: torch.dtype | None = None) -> Bags:
        """Pack slides into one batch, with their coordinates where the cache has them.

        Args:
            ids: slides, at least one.
            dtype: of the features; None: as stored. One slide in the stored dtype is not copied.

        Raises:
            MilbenchError: no slide, or an unknown one.
        """
        if isinstance(ids, str):
            raise MilbenchError(f"bags takes a list of slide ids; write cache.bags([{ids!r}]).", code="bag-shape")
        if len(ids) == 0:
            raise MilbenchError("a batch needs at least one slide, got none.", code="bag-shape")
        xs = [self[slide] for slide in ids]
        lengths = [len(x) for x in xs]
        if len(xs) == 1:
            x = xs[0].to(dtype or self.dtype)
        else:
            # Copy and conversion in one pass: a list of converted slides would hold everything twice.
            x = torch.empty(sum(lengths), self.dim, dtype=dtype or self.dtype)
            for part, given in zip(x.split(lengths), xs, strict=True):
                part.copy_(given)
        where = [c for slide in ids if (c := self.coords(slide)) is not None]
        return Bags(x, lengths, (where[0] if len(where) == 1 else torch.cat(where)) if where else None)

    @property
    def checksums(self) -> dict[str, str]:
        """Checksum of every slide's features and coordinates, as they were when the cache was built."""
        return dict(zip(self.ids, self.slides["checksum"], strict=True))

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that identify the content: width, dtype and every slide's checksum."""
        return digest([self.dim, self.meta["dtype"], self.checksums])

    @property
    def table(self) -> SourceTable | None:
        """Labels, patients and splits that the source brought along; None where it brought none."""
        if "table_checksum" not in self.meta:
            return None
        path = self.path / TABLE
        content = read_file(path, _COPY_AGAIN)
        if checksum(content) != self.meta["table_checksum"]:
            raise MilbenchError(
                f"{path} was changed or damaged after the cache was built; {_COPY_AGAIN}.", code="cache-damaged"
            )
        return parse_source_table(content, path)

    def _find(self, slide: str) -> tuple[str, int, int]:
        row = self._where.get(slide)
        if row is None:
            near = difflib.get_close_matches(str(slide), self.ids, n=1)
            hint = did_you_mean(str(slide), near) if near else f" It holds {len(self)} slides, such as {self.ids[0]!r}."
            raise MilbenchError(f"no slide {slide!r} in the cache {self.path}.{hint}", code="cohort-unknown-name")
        return row

    def _check_size(self, name: str, rows: int) -> None:
        path = self.path / name
        if not path.is_file():
            raise MilbenchError(
                f"{path} is missing; copy the cache again or build it from its source.", code="cache-damaged"
            )
        due = shard_bytes(rows, self.dim, self.meta["dtype"], self.meta.get("coord_dtype"))
        if (size := path.stat().st_size) != due:
            raise MilbenchError(
                f"{path} has {size} bytes instead of {due}; copy the cache again or build it from its source.",
                code="cache-damaged",
            )

    def _shard(self, name: str) -> tuple[Tensor, Tensor | None]:
        if name not in self._open:
            path, coords = self.path / name, None
            try:
                file = safe_open(path, framework="pt")
                features = file.get_tensor("features")
                if self.has_coords:
                    coords = file.get_tensor("coords")
            except (SafetensorError, OSError) as error:
                raise MilbenchError(
                    f"{path} is damaged ({error}); see milbench cache verify {self.path}.", code="cache-damaged"
                ) from None
            n, coord_dtype = self._shard_rows[name], self.meta.get("coord_dtype")
            matches = features.dtype == self.dtype and tuple(features.shape) == (n, self.dim)
            if coords is not None and coord_dtype is not None:
                matches = matches and coords.dtype == COORD_DTYPES[coord_dtype][0] and tuple(coords.shape) == (n, 2)
                if coords.data_ptr() % coords.element_size():  # behind an odd number of two-byte features
                    coords = coords.clone()
            if not matches:
                raise MilbenchError(
                    f"{path} does not hold what the index says; see milbench cache verify {self.path}.",
                    code="cache-damaged",
                )
            self._open[name] = features, coords
        return self._open[name]


def _read_index(folder: Path, meta: dict[str, Any]) -> pd.DataFrame:
    path = folder / INDEX
    if not path.is_file():
        raise MilbenchError(
            f"{path} is missing; copy the cache again or build it from its source.", code="cache-damaged"
        )
    content = read_file(path, _COPY_AGAIN)
    if checksum(content) != meta["index_checksum"]:
        raise MilbenchError(
            f"{path} was changed or damaged after the cache was built; {_COPY_AGAIN}.", code="cache-damaged"
        )
    try:
        index = pd.read_parquet(io.BytesIO(content))
    except Exception as error:  # pyarrow raises many kinds for damaged files
        raise MilbenchError(
            f"{path} is damaged ({type(error).__name__}); build the cache again from its source.", code="cache-damaged"
        ) from None
    if problem := index_problem(index, meta):
        raise MilbenchError(
            f"{path} does not fit {CACHE_FILE} ({problem}); build the cache again from its source.",
            code="cache-damaged",
        )
    return index
