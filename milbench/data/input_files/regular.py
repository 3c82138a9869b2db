"""Regular files alone are opened: what a pipe, a socket, a device or a sparse file would do to a reader is refused."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

from ...errors import MilbenchError

#: A file of more bytes than this, and of this many times the bytes that are stored for it, was never written whole.
_SMALL, _SPARSE = 64 << 20, 100
#: what a path may be instead of a file
_KINDS = ((stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a named pipe"), (stat.S_ISSOCK, "a socket"),
          (stat.S_ISCHR, "a device"), (stat.S_ISBLK, "a device"))  # fmt: skip
#: names of files that operating systems, copying programs and editors leave behind, in small letters
_LEFT_BEHIND = frozenset({"thumbs.db", "desktop.ini", "__macosx", "lost+found", "$recycle.bin", "@eadir", "#recycle"})
_UNFINISHED = (".part", ".partial", ".tmp", ".crdownload", ".filepart", ".lock", "~")

#: called with every file that is about to be opened and its size in bytes; the process that reads features sets it
opening: Callable[[Path, int], None] | None = None


def regular_size(path: Path, advice: str = "give the right file") -> int:
    """Return the size of a regular file in bytes, before anything opens it.

    Args:
        path: the file; links are followed.
        advice: what to do about a file that is missing or something else.

    Raises:
        MilbenchError: nothing is there; it is a folder, pipe, socket or device, on which a reader may wait for ever;
            it may not be read; or it is sparse, nearly all of it holes that would be read as zeros.
    """
    try:
        status = path.stat()
    except ValueError:  # a null byte
        raise MilbenchError(f"{str(path)!r} is no name of a file; {advice}.", code="name-bad") from None
    except OSError as error:
        if isinstance(error, PermissionError):
            raise MilbenchError(_forbidden(path, error), code="file-unreadable") from None
        what = "a link that leads nowhere" if path.is_symlink() else "not there"
        raise MilbenchError(f"{path} is {what} ({error.strerror}); {advice}.", code="file-missing") from None
    if not stat.S_ISREG(status.st_mode):
        what = next((name for test, name in _KINDS if test(status.st_mode)), "something else")
        raise MilbenchError(
            f"{path} is {what if what == 'a folder' else f'not a file but {what}'}; {advice}.", code="path-wrong-kind"
        )
    if not _readable(path):
        raise MilbenchError(
            _forbidden(path, PermissionError(errno.EACCES, os.strerror(errno.EACCES))), code="file-unreadable"
        )
    stored = getattr(status, "st_blocks", None)
    if stored is not None and status.st_size > max(_SMALL, _SPARSE * 512 * stored):
        held = _data_bytes(path, status.st_size)
        if status.st_size > _SPARSE * held:
            raise MilbenchError(
                f"{path} declares {status.st_size:,} bytes, of which {held:,} were ever written; copy it again.",
                code="file-damaged",
            )
    if opening is not None:
        opening(path, status.st_size)
    return status.st_size


def unread(path: Path, damaged: str) -> MilbenchError:
    """Return the error of a file that a library could not read: of the operating system, or else of the damage.

    Libraries of file formats often raise one error for a file that may not be read, that is gone and that is damaged.

    Args:
        path: the file.
        damaged: the sentence for a file that the operating system opens.
    """
    try:
        os.close(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)))
    except OSError as error:
        if isinstance(error, PermissionError):
            return MilbenchError(_forbidden(path, error), code="file-unreadable")
        if error.errno == errno.EMFILE:
            return MilbenchError(
                f"{path} cannot be opened, as this process has too many open files; raise the limit (ulimit -n).",
                code="system-limit",
            )
        return MilbenchError(
            f"{path} cannot be opened ({error.strerror}); check the drive that it lies on.", code="file-unreadable"
        )
    return MilbenchError(damaged, code="file-damaged")


def passed_over(name: str) -> bool:
    """Whether a name in a folder is no data of the user.

    Hidden files (among them AppleDouble's ``._NAME``, which macOS leaves on network and exFAT drives), lock files, and
    parts of files that are being copied.
    """
    small = name.lower()
    return small.startswith((".", "~$")) or small in _LEFT_BEHIND or small.endswith(_UNFINISHED)


def _forbidden(path: Path, error: OSError) -> str:
    return f"{path} may not be read ({error.strerror}); ask its owner for the right to read it (chmod a+r)."


def _readable(path: Path) -> bool:
    if os.access in os.supports_effective_ids:
        return os.access(path, os.R_OK, effective_ids=True)
    return os.access(path, os.R_OK)


def _data_bytes(path: Path, size: int, most: int = 1000) -> int:
    """Return the bytes of a file that are no holes; all of them where the file system does not tell."""
    if not hasattr(os, "SEEK_DATA"):
        return size
    held = at = 0
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        return size
    try:
        for _ in range(most):
            start = os.lseek(handle, at, os.SEEK_DATA)
            at = os.lseek(handle, start, os.SEEK_HOLE)
            held += at - start
            if at >= size:
                return held
    except OSError as error:
        return held if error.errno == errno.ENXIO else size  # ENXIO: no data after this place
    finally:
        os.close(handle)
    return size
