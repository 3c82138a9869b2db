"""CacheWriter: streams the slides of a cohort into a feature cache, in bounded memory, all or nothing."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
from torch import Tensor

from ...atomic_io.checksums import file_checksum
from ...atomic_io.folders import staged
from ...errors import MilbenchError, did_you_mean
from ..home import CACHE_FILE
from ..source_labels import SourceTable
from .encode import Prepared, prepare
from .layout import (
    COLUMNS,
    COORD_DTYPES,
    DTYPES,
    HEADER_BYTES,
    INDEX,
    SCHEMA,
    TABLE,
    checksum,
    seal,
    shard_header,
    shard_name,
    to_toml,
)

_RESERVED = ("schema", "milbench", "dtype", "dim", "coord_dtype", "slides", "rows", "index_checksum",
             "table_checksum", "checksum")  # fmt: skip


#: Bytes after which what was written is sent to the disk while work goes on, so that the end waits for little.
WRITE_OUT = 64 << 20


@dataclass(frozen=True, slots=True)
class Placed:
    """Where a slide stands in a cache, and what its shard needs to know of it.

    Attributes:
        shard: number of its shard.
        first_row, rows: of the shard.
        dim, coord_dtype, checksum, coord_step, rounding_error, max_abs: as in `Prepared`.
    """

    slide_id: str
    shard: int
    first_row: int
    rows: int
    dim: int
    coord_dtype: str | None
    checksum: str
    coord_step: float
    rounding_error: float
    max_abs: float


class CacheWriter:
    """Writes a feature cache; use it in a ``with`` block.

    Rows go straight to their shard in a hidden folder next to ``out``, which becomes ``out`` when the block ends well.
    After an exception or a kill nothing that opens as a cache exists at ``out``. One slide is held in memory at a time.

    Args:
        out: the folder to make; it must not exist.
        dtype: ``float16``, ``bfloat16`` or ``float32``.
        meta: kept in cache.toml: encoder, patch_size, magnification, units, source ...
        shard_bytes: a shard is closed before it would grow beyond this; a slide is never divided.
        place: gives the hidden folder and publishes it; None: `staged`, which leaves nothing of what did not end well.

    Attributes:
        placed: the slides so far, in order.
        table: labels, patients and splits to keep with the features; slides that are not in the cache are left out.

    Raises:
        MilbenchError: ``out`` exists or cannot be written, or an unknown dtype.
    """

    def __init__(self, out: str | Path, dtype: str = "float16", meta: Mapping[str, Any] | None = None,
                 shard_bytes: int = 2 << 30, place: AbstractContextManager[Path] | None = None) -> None:  # fmt: skip
        if dtype not in DTYPES:
            raise MilbenchError(
                f"a cache cannot hold {dtype!r}.{did_you_mean(dtype, DTYPES)}", code="cache-bad-request"
            )
        clash = [key for key in meta or {} if key in _RESERVED]
        if clash:
            raise MilbenchError(
                f"{', '.join(clash)} of the metadata are keys milbench writes itself; choose other names.",
                code="cache-bad-request",
            )
        self.out = Path(out)
        self.dtype = dtype
        self.meta = dict(meta or {})
        to_toml(self.meta)  # what cannot be kept is refused now, not after hours of reading
        self.shard_bytes = shard_bytes
        self.placed: list[Placed] = []
        self.table: SourceTable | None = None
        self._known: set[str] = set()
        self._shard = 0
        self._rows = self._bytes = 0  # of the shard that is open
        self._file: BinaryIO | None = None
        self._spill: BinaryIO | None = None
        self._out = _WriteOut()
        self._folder: Path | None = None
        self._place = staged(self.out) if place is None else place

    def __enter__(self) -> CacheWriter:
        self._folder = self._place.__enter__()
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
            self._place.__exit__(kind, value, tb)  # publishes the folder, or does away with it

    @property
    def folder(self) -> Path:
        """The hidden folder, inside the ``with`` block."""
        self._inside()
        assert self._folder is not None
        return self._folder

    def __len__(self) -> int:
        return len(self.placed)

    @property
    def dim(self) -> int:
        """Width of the features; 0 before the first slide."""
        return self.placed[0].dim if self.placed else 0

    @property
    def coord_dtype(self) -> str | None:
        """Dtype of the positions of the slides so far; None where they have none."""
        return self.placed[0].coord_dtype if self.placed else None

    @property
    def rows(self) -> int:
        """Rows written so far."""
        return sum(slide.rows for slide in self.placed)

    @property
    def max_rounding_error(self) -> float:
        """Largest absolute difference between a value given and the value kept."""
        return max((slide.rounding_error for slide in self.placed), default=0.0)

    @property
    def max_abs(self) -> float:
        """Largest absolute value given."""
        return max((slide.max_abs for slide in self.placed), default=0.0)

    def add(self, slide_id: str, features: Tensor | np.ndarray, coords: Tensor | np.ndarray | None = None,
            coord_step: float | None = None) -> Placed:  # fmt: skip
        """Append a slide.

        Args:
            slide_id: its name, unique in the cache.
            features: ``(n, d)`` floating point, n at least 1, finite, all slides of one width.
            coords: ``(n, 2)`` positions (x, y), of every slide or of none; integers become int64, reals float32.
            coord_step: distance of neighbouring patches in the units of ``coords``, where known.

        Raises:
            MilbenchError: any of these does not hold; the writer can go on with other slides.
        """
        self._inside()
        return self.append(prepare(slide_id, features, coords, self.dtype, coord_step))

    def append(self, slide: Prepared) -> Placed:
        """Append a slide that `prepare` made for this dtype; it must agree with the slides before it.

        Raises:
            MilbenchError: it does not; the writer can go on with other slides.
        """
        self._inside()
        self._check(slide)
        if self._file is not None and self._bytes + slide.nbytes > self.shard_bytes:
            self._close_shard()
        file, spill = self._open_shard()
        file.write(slide.features.data)
        if slide.coords is not None:
            spill.write(slide.coords.data)
        self._out.wrote(file, slide.features.nbytes)
        placed = Placed(
            slide.slide_id, self._shard, self._rows, slide.rows, slide.dim, slide.coord_dtype, slide.checksum,
            slide.coord_step, slide.rounding_error, slide.max_abs,
        )  # fmt: skip
        self._count(placed, slide.nbytes)
        return placed

    def restore(self, placed: Sequence[Placed]) -> bool:
        """Take over slides that an earlier writer has put into this folder; what else it holds is thrown away.

        Returns:
            Whether they are there. If not, because the machine lost its power before they had reached the disk, the
            writer is empty, and so is the folder.
        """
        assert not self.placed
        for slide in placed:
            if slide.shard != self._shard:
                self._shard, self._rows, self._bytes = slide.shard, 0, 0
            self._count(slide, slide.rows * sum(_widths(slide, self.dtype)))
        # The shard that was open goes on after its last slide, the ones before it are whole and on the disk.
        self._remove_shards(self._shard + 1 if placed else 0)
        if not placed:
            return True
        width, pair = _widths(placed[-1], self.dtype)
        try:
            self._file = _continued(self.folder / shard_name(self._shard), HEADER_BYTES, self._rows * width)
            self._spill = _continued(self._spill_path(), 0, self._rows * pair)
            whole = all(self._holds(slide) for slide in placed if slide.shard == self._shard)
        except OSError:
            whole = False
        if not whole:
            self._close_files()
            self._remove_shards(0)
            self.placed.clear()
            self._known.clear()
            self._shard = self._rows = self._bytes = 0
        return whole

    def _holds(self, slide: Placed) -> bool:
        assert self._file is not None
        assert self._spill is not None
        parts = []
        for file, start, width in zip(
            (self._file, self._spill), (HEADER_BYTES, 0), _widths(slide, self.dtype), strict=True
        ):
            file.seek(start + slide.first_row * width)
            parts.append(file.read(slide.rows * width))
            file.seek(0, os.SEEK_END)
        return checksum(*parts) == slide.checksum

    def _remove_shards(self, first: int) -> None:
        for path in (*self.folder.glob("shard-*"), *self.folder.glob("coords-*")):
            if int(re.sub(r"\D", "", path.name)) >= first:
                path.unlink()

    def flush(self) -> None:
        """Hand what was written to the operating system: it outlives this process."""
        for file in (self._file, self._spill):
            if file is not None:
                file.flush()

    def _inside(self) -> None:
        if self._folder is None:
            raise MilbenchError(
                "CacheWriter writes inside a with block only: with CacheWriter(out) as writer: writer.add(...).",
                code="cache-bad-request",
            )

    def _check(self, slide: Prepared) -> None:
        name = slide.slide_id
        if name in self._known:
            raise MilbenchError(
                f"slide {name!r} is given twice; every slide may appear once in a cache.", code="slide-twice"
            )
        if not self.placed:
            return
        if slide.dim != self.dim:
            raise MilbenchError(
                f"slide {name!r} has {slide.dim}-d features but the slides before it have {self.dim}-d ones; "
                f"a cache holds the features of one encoder.",
                code="features-disagree",
            )
        if (slide.coord_dtype is None) != (self.coord_dtype is None):
            this, before = ("no", "have them") if slide.coord_dtype is None else ("its", "have none")
            raise MilbenchError(
                f"slide {name!r} has {this} coordinates but the slides before it {before}; "
                f"give them for every slide or for none.",
                code="features-disagree",
            )
        if slide.coord_dtype != self.coord_dtype:
            raise MilbenchError(
                f"slide {name!r} has {slide.coord_dtype} coordinates but the slides before it {self.coord_dtype} ones; "
                f"give all in the same units and type.",
                code="features-disagree",
            )

    def _count(self, placed: Placed, nbytes: int) -> None:
        self.placed.append(placed)
        self._known.add(placed.slide_id)
        self._rows += placed.rows
        self._bytes += nbytes

    def _spill_path(self) -> Path:
        return self.folder / f"coords-{self._shard:05d}.spill"

    def _open_shard(self) -> tuple[BinaryIO, BinaryIO]:
        assert self._folder is not None
        if self._file is None or self._spill is None:
            self._file = (self._folder / shard_name(self._shard)).open("xb")
            # A safetensors file has no holes: coordinates wait here until the number of rows before them is known.
            self._spill = self._spill_path().open("x+b")
            self._file.write(bytes(HEADER_BYTES))
        return self._file, self._spill

    def _close_shard(self) -> None:
        file, spill = self._open_shard()
        spill.seek(0)
        shutil.copyfileobj(spill, file, 1 << 20)
        file.seek(0)
        file.write(shard_header(self._rows, self.dim, self.dtype, self.coord_dtype))
        file.flush()
        self._out.wait()
        os.fsync(file.fileno())  # a shard that is closed is not checked again, whatever happens to the machine
        self._close_files()
        self._shard += 1
        self._rows = self._bytes = 0

    def _close_files(self) -> None:
        with suppress(OSError):  # whoever closes a good shard has waited before
            self._out.wait()
        for file in (self._file, self._spill):
            if file is not None:
                file.close()
        self._file = self._spill = None

    def _finish(self) -> None:
        import pandas as pd

        assert self._folder is not None
        if not self.placed:
            raise MilbenchError(
                f"no slide was given, so there is no cache to write at {self.out}.", code="cache-no-slides"
            )
        self._close_shard()
        for spill in self._folder.glob("coords-*.spill"):
            spill.unlink()
        rows = [(s.slide_id, shard_name(s.shard), s.first_row, s.rows, s.checksum, s.coord_step) for s in self.placed]
        frame = pd.DataFrame(rows, columns=list(COLUMNS))
        frame.to_parquet(self._folder / INDEX, index=False)
        head = {"schema": SCHEMA, "milbench": version("milbench"), "dtype": self.dtype, "dim": self.dim}
        head |= {"coord_dtype": self.coord_dtype, "slides": len(frame), "rows": int(frame["rows"].sum())}
        seals = {"index_checksum": file_checksum(self._folder / INDEX)}
        if self.table is not None:
            (self._folder / TABLE).write_text(self._kept(self.table).to_json(), encoding="utf-8")
            seals["table_checksum"] = file_checksum(self._folder / TABLE)
        text = to_toml(head | self.meta | seals)
        (self._folder / CACHE_FILE).write_bytes(seal(text).encode())  # last: without it the folder does not open

    def _kept(self, table: SourceTable) -> SourceTable:
        named = {slide for part in (table.labels, table.patients) for slide in part or ()}
        named |= {slide for fold in table.folds for part in fold.parts.values() for slide in part}
        return table.without(named - self._known)


class _WriteOut:
    """Sends a growing file to the disk in a thread, a part at a time, while it is written.

    What the disk refused is raised by the next call: the system tells it once, and then no more.
    """

    def __init__(self) -> None:
        self._thread: ThreadPoolExecutor | None = None
        self._sent: Future[None] | None = None
        self._waiting = 0

    def wrote(self, file: BinaryIO, nbytes: int) -> None:
        """Count bytes that were written; send them once they are many and the last part has arrived."""
        self._waiting += nbytes
        if self._waiting < WRITE_OUT or os.name == "nt" or (self._sent is not None and not self._sent.done()):
            return
        if self._sent is not None:
            self._sent.result()
        self._waiting = 0
        file.flush()
        self._thread = self._thread or ThreadPoolExecutor(1, thread_name_prefix="write-out")
        self._sent = self._thread.submit(os.fsync, file.fileno())

    def wait(self) -> None:
        """Return once nothing is under way: the file may be closed."""
        sent, self._sent, self._waiting = self._sent, None, 0
        if self._thread is not None:
            self._thread.shutdown()
            self._thread = None
        if sent is not None:
            sent.result()


def _widths(slide: Placed, dtype: str) -> tuple[int, int]:
    """Return the bytes of one row's features and of its position."""
    pair = 0 if slide.coord_dtype is None else 2 * COORD_DTYPES[slide.coord_dtype][0].itemsize
    return slide.dim * DTYPES[dtype][0].itemsize, pair


def _continued(path: Path, head: int, length: int) -> BinaryIO:
    """Open a file behind its head and the bytes after it that count, truncating the rest."""
    file = path.open("r+b")
    file.truncate(head + length)
    file.seek(0, os.SEEK_END)
    return file
