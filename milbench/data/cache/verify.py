"""Verification of a feature cache: every byte is compared with a checksum or with what must stand there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from xxhash import xxh3_128

from ...atomic_io.checksums import file_checksum
from ...errors import MilbenchError
from ..home import CACHE_FILE
from .layout import (
    COORD_DTYPES,
    DTYPES,
    HEADER_BYTES,
    INDEX,
    TABLE,
    index_problem,
    is_sealed,
    read_toml,
    shard_bytes,
    shard_header,
)

if TYPE_CHECKING:
    import pandas as pd

_PIECE = 1 << 22


def verify(path: str | Path, progress: Callable[[int, int, str], None] | None = None) -> list[str]:
    """Check a cache and name what is damaged.

    Args:
        path: the cache's folder.
        progress: called with (slides done, slides in all, slide) while it reads.

    Returns:
        One sentence for each damaged slide, shard or file; nothing when the cache is as it was written. A changed
        cache.toml or index ends the check, for the rest cannot be checked without them.

    Raises:
        MilbenchError: there is no cache at all.
    """
    import pandas as pd

    folder = Path(path)
    toml, index_file = folder / CACHE_FILE, folder / INDEX
    if not toml.is_file():
        read_toml(folder)
    if not is_sealed(toml.read_bytes()):
        return [f"{CACHE_FILE} was changed after the cache was built; the rest was not checked."]
    try:
        meta = read_toml(folder)
    except MilbenchError as error:
        return [str(error)]
    if not index_file.is_file():
        return [f"{INDEX} is missing; the rest was not checked."]
    if file_checksum(index_file) != meta["index_checksum"]:
        return [f"{INDEX} was changed after the cache was built; the rest was not checked."]
    try:
        index = pd.read_parquet(index_file)
    except Exception as error:  # pyarrow raises many kinds for damaged files
        return [f"{INDEX} is damaged ({type(error).__name__}); the rest was not checked."]
    if problem := index_problem(index, meta):
        return [f"{INDEX} disagrees with {CACHE_FILE}: {problem}; the rest was not checked."]
    known = {CACHE_FILE, INDEX, *index["shard"]}
    if "table_checksum" in meta:
        known.add(TABLE)
    problems = [f"{p.name} does not belong to the cache." for p in sorted(folder.iterdir()) if p.name not in known]
    problems += _check_table(folder, meta)
    return problems + damaged_slides(folder, index, meta, progress)


def damaged_slides(
    folder: Path, index: pd.DataFrame, meta: dict[str, Any], progress: Callable[[int, int, str], None] | None = None
) -> list[str]:
    """Compare the shards of a cache with its index; see `verify`."""
    problems = []
    done = 0
    for shard, slides in index.groupby("shard", sort=False):
        shard_path = folder / str(shard)
        if not shard_path.is_file():
            problems.append(f"{shard} is missing, with {_names(list(slides['slide_id']))}.")
            done += len(slides)
            continue
        with shard_path.open("rb") as file:
            problems += _check_frame(file, str(shard), slides, meta)
            for slide, first, rows, due in zip(
                slides["slide_id"], slides["first_row"], slides["rows"], slides["checksum"], strict=True
            ):
                if _slide_checksum(file, int(first), int(rows), int(slides["rows"].sum()), meta) != due:
                    problems.append(
                        f"slide {slide!r}: its features or coordinates in {shard} differ from its checksum."
                    )
                done += 1
                if progress is not None:
                    progress(done, len(index), str(slide))
    return problems


def _check_table(folder: Path, meta: dict[str, Any]) -> list[str]:
    if "table_checksum" not in meta:
        return []
    if not (folder / TABLE).is_file():
        return [f"{TABLE} is missing, with the labels and splits of the source."]
    if file_checksum(folder / TABLE) != meta["table_checksum"]:
        return [f"{TABLE} was changed after the cache was built: its labels and splits cannot be trusted."]
    return []


def _check_frame(file: BinaryIO, shard: str, slides: Any, meta: dict[str, Any]) -> list[str]:
    """Check what of a shard belongs to no slide: its header and its length."""
    shape = int(slides["rows"].sum()), meta["dim"], meta["dtype"], meta.get("coord_dtype")
    problems = []
    if file.read(HEADER_BYTES) != shard_header(*shape):
        problems.append(f"{shard}: its header was changed, {_names(list(slides['slide_id']))} cannot be trusted.")
    size, due = file.seek(0, 2), shard_bytes(*shape)
    if size != due:
        problems.append(f"{shard} has {size} bytes instead of {due}.")
    return problems


def _slide_checksum(file: BinaryIO, first: int, rows: int, shard_rows: int, meta: dict[str, Any]) -> str:
    width = meta["dim"] * DTYPES[meta["dtype"]][0].itemsize
    spans = [(HEADER_BYTES + first * width, rows * width)]
    if meta.get("coord_dtype") is not None:
        pair = 2 * COORD_DTYPES[meta["coord_dtype"]][0].itemsize
        spans.append((HEADER_BYTES + shard_rows * width + first * pair, rows * pair))
    hashed = xxh3_128()
    for start, length in spans:
        file.seek(start)
        while length > 0 and (piece := file.read(min(length, _PIECE))):
            hashed.update(piece)
            length -= len(piece)
    return hashed.hexdigest()


def _names(slides: list[str]) -> str:
    listed = ", ".join(slides[:5])
    return f"slides {listed}" + (f" and {len(slides) - 5} more" if len(slides) > 5 else "")
