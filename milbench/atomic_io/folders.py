"""Publishing files: whatever appears under its final name is complete and on the disk."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import MilbenchError
from .publishing import fsync, sweep, write_atomic

try:
    import fcntl
except ImportError:  # Windows: abandoned folders are then left for the user to remove
    fcntl = None  # type: ignore[assignment]


__all__ = ["AlreadyExists", "fsync", "resumable", "staged", "write_atomic"]


class AlreadyExists(MilbenchError):  # noqa: N818  (reads as what happened)
    """The place a folder was to be published at is taken."""

    default_code = "already-exists"


@contextmanager
def staged(out: Path) -> Iterator[Path]:
    """Give a fresh folder next to ``out`` that becomes ``out``, by one rename, when the block succeeds.

    After an exception nothing is left. After a kill a hidden ``.NAME.*.partial`` is left, which the next writer of the
    same ``out`` removes: a running writer holds a lock on its folder, one that was killed cannot.

    Raises:
        AlreadyExists: ``out`` exists, at the start or at the end.
        MilbenchError: the disk is full, or the parent folder cannot be written.
    """
    out = Path(os.path.abspath(out))
    if os.path.lexists(out):
        raise AlreadyExists(f"{out} exists already; remove it or choose another place.")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        sweep(out, remove_folder=True)
        folder, lock = _claim(out)
    except OSError as error:
        raise MilbenchError(
            f"cannot write in {out.parent}: {error.strerror}; choose a folder you may write in.", code="not-writable"
        ) from error
    try:
        with _explained(out):
            yield folder
            _publish(folder, out)
    finally:
        if lock is not None:
            os.close(lock)
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def resumable(out: Path, key: str) -> Iterator[Path]:
    """Give a folder next to ``out`` that becomes ``out`` when the block succeeds and is kept otherwise.

    A later call with the same key continues in it. Work under another key on the same ``out`` throws
    it away, unless it is under way.

    Args:
        out: the folder to make.
        key: identifies the work, in letters and digits.

    Raises:
        AlreadyExists: ``out`` exists, at the start or at the end.
        MilbenchError: another process is at this work, the disk is full, or the parent folder cannot be written.
    """
    out = Path(os.path.abspath(out))
    if os.path.lexists(out):
        raise AlreadyExists(f"{out} exists already; remove it or choose another place.")
    folder = out.with_name(f".{out.name}.{key}.partial")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        lock = _hold(folder, out)
        sweep(out, remove_folder=True)
    except OSError as error:
        raise MilbenchError(
            f"cannot write in {out.parent}: {error.strerror}; choose a folder you may write in.", code="not-writable"
        ) from error
    try:
        with _explained(out):
            yield folder
            _publish(folder, out)
    finally:
        if not any(folder.iterdir() if folder.is_dir() else ()):
            shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _publish(folder: Path, out: Path) -> None:
    for path in [*folder.rglob("*"), folder]:
        fsync(path)
    if os.path.lexists(out):
        raise AlreadyExists(f"{out} was written by another process meanwhile; this one's work was thrown away.")
    os.rename(folder, out)
    fsync(out.parent)


@contextmanager
def _explained(out: Path) -> Iterator[None]:
    """Say in words what may happen while a folder is written and published."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            raise AlreadyExists(
                f"{out} was written by another process meanwhile; this one's work was thrown away."
            ) from error
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise MilbenchError(
                f"the disk of {out} is full; free some space and run the same command again.", code="disk-full"
            ) from error
        raise


def _claim(out: Path) -> tuple[Path, int | None]:
    token = f".{out.name}.{secrets.token_hex(6)}"
    fresh = out.with_name(f"{token}.new")
    fresh.mkdir()
    lock = None
    if fcntl is not None:
        lock = os.open(fresh, os.O_RDONLY)
        with suppress(OSError):  # a file system without locks
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    # Named .partial only once it is locked, so that nobody can take it for an abandoned one.
    return fresh.rename(out.with_name(f"{token}.partial")), lock


def _hold(folder: Path, out: Path) -> int | None:
    """Make a folder where there is none and lock it; the lock ends with the process, however it ends."""
    if fcntl is None:
        folder.mkdir(exist_ok=True)
        return None
    while True:
        folder.mkdir(exist_ok=True)
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            raise MilbenchError(
                f"another process is writing {out}; wait for it, or choose another place.", code="place-busy"
            ) from None
        except OSError:  # a file system without locks
            return handle
        with suppress(OSError):  # swept away between the two calls
            if os.stat(folder).st_ino == os.fstat(handle).st_ino:
                return handle
        os.close(handle)
