"""Whether a file is as its writer left it: what a format records of sizes and checksums, which its library passes over.

A bag of other numbers than were written gives a wrong score without a word. Where a format records nothing (the values
of .npy, HDF5 without Fletcher32, safetensors) a flipped bit in the values is not detected; a changed length is.
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from contextlib import suppress
from mmap import ACCESS_READ, mmap
from pathlib import Path

from ...errors import MilbenchError
from .parquet_footer import chunks

_AGAIN = "copy or write it again"
_HDF5 = b"\x89HDF\r\n\x1a\n"
#: an address that HDF5 has not set: all bits
_UNDEFINED = 0xFF
#: flags of a superblock: open for writing, or for writing with readers; what it says of the end is then not final
_WRITING = 0b101
#: bytes of a local header of a zip archive before the name
_LOCAL = 30
_CHUNK = 1 << 20


def refuse_h5_length(path: Path, size: int) -> None:
    """Refuse an HDF5 file with fewer or more bytes than its superblock says.

    The library opens a file with bytes inserted or appended, and reads shifted numbers.

    Args:
        path: the file.
        size: its bytes.

    Raises:
        MilbenchError: the end of file that the superblock records is another one.
    """
    end = _h5_end(path, size)
    if end is not None and end != size:
        raise MilbenchError(
            f"{path} is damaged (it has {size:,} bytes, and the HDF5 file in it ends at {end:,}); extract or copy the "
            f"slide again.",
            code="file-damaged",
        )


def _h5_end(path: Path, size: int) -> int | None:
    """Return the end of file that a superblock records, from the begin of the file; None where it records none."""
    with path.open("rb") as file:
        start = 0
        while start < size:  # before it may lie a user block, of 512 bytes or a power of two times as many
            file.seek(start)
            block = file.read(128)
            if block.startswith(_HDF5):
                break
            start = max(512, 2 * start)
        else:
            return None
    with suppress(IndexError, ValueError, struct.error):
        version = block[8]
        if version in (0, 1):
            width, at = block[13], 24 + 4 * version
            skipped = 2  # addresses before it: base, free space
        elif version in (2, 3):
            if version == 3 and block[11] & _WRITING:
                return None
            width, at, skipped = block[9], 12, 2  # base, extension
        else:
            return None
        word = block[at + skipped * width : at + (skipped + 1) * width]
        if len(word) == width > 0 and set(word) != {_UNDEFINED}:
            return int.from_bytes(word, "little")
    return None


def refuse_damaged_members(path: Path, archive: zipfile.ZipFile) -> None:
    """Refuse a zip archive of stored or packed files whose checksums are not those of their bytes.

    torch reads the storages of a .pt archive and compares no checksum. One that was written without checksums
    (torch.serialization.set_crc32_options) has zeros in their place, and is taken as it is.

    Args:
        path: the archive.
        archive: the same, opened.

    Raises:
        MilbenchError: a member is damaged.
    """
    members = [entry for entry in archive.infolist() if entry.file_size]
    if not any(entry.CRC for entry in members):
        return
    with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as held:
        for entry in members:
            if entry.compress_type == zipfile.ZIP_STORED and entry.file_size == entry.compress_size:
                with archive.open(entry):  # compares the names in the directory and before the member
                    pass
                names = struct.unpack_from("<HH", held, entry.header_offset + _LOCAL - 4)
                begin = entry.header_offset + _LOCAL + sum(names)
                checksum = 0
                for at in range(begin, begin + entry.file_size, _CHUNK):
                    checksum = zlib.crc32(held[at : min(at + _CHUNK, begin + entry.file_size)], checksum)
                intact = checksum == entry.CRC
            else:
                intact = _unpacks(archive, entry)
            if not intact:
                raise MilbenchError(
                    f"{path} is damaged (the checksum of {entry.filename!r} in it differs); {_AGAIN}.",
                    code="file-damaged",
                )


def _unpacks(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bool:
    try:
        with archive.open(entry) as file:
            while file.read(_CHUNK):
                pass
    except zipfile.BadZipFile:
        return False
    return True


def refuse_parquet_gaps(path: Path, size: int) -> None:
    """Refuse a Parquet file with other bytes than its footer accounts for.

    Column chunks begin at byte 4 and follow each other; behind them may lie page indexes and Bloom filters. Bytes
    inserted between would shift the pages.

    Args:
        path: the file, whose footer pyarrow has read.
        size: its bytes.

    Raises:
        MilbenchError: the chunks end elsewhere than where the footer begins.
    """
    with path.open("rb") as raw:
        raw.seek(max(0, size - 8))
        footer = size - 8 - int.from_bytes(raw.read(4), "little")
        if footer < 4:
            return
        raw.seek(footer)
        columns = chunks(raw.read(size - 8 - footer))
    at = 4
    for chunk in columns or ():
        if chunk.begin != at:  # a writer that pads or sorts its pages otherwise
            return
        at += chunk.size
    if columns and at != footer and not any(chunk.more for chunk in columns):
        raise MilbenchError(
            f"{path} is damaged (its columns end at byte {at:,}, and its footer begins at {footer:,}); {_AGAIN}.",
            code="file-damaged",
        )
