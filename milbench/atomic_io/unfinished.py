"""Folders that are replaced whole, and the clean-up after processes that were killed.

``.tmp-PID-HOST-NUMBER-NAME`` becomes NAME by one rename; ``.old-PID-HOST-NUMBER-NAME`` is what NAME was before. Their
names say which process made them, so that another one of the same host can tell whether it still runs.

By its number, where `milbench.atomic_io.folders` goes by a lock: several hosts publish into one store, and on a file
system that keeps locks to the host (Lustre with ``localflock``, NFS with ``local_lock``) the folder of a living writer
elsewhere would seem free, while on one without locks nothing would ever be cleared. What is named for another host
stays. Nor can a lock follow ``.old-``: that is a published folder, which nobody holds.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
from collections.abc import Callable
from itertools import count
from pathlib import Path

from .publishing import clock_ahead, fsync

HOST = re.sub(r"\W", "_", socket.gethostname()) or "host"
_UNFINISHED = re.compile(r"\.(tmp|old)-(\d+)-(\w+)-(\d+)-(.+)")
_serial = count()


def unfinished(final: Path, kind: str = "tmp") -> Path:
    """Return a new hidden path next to a file or folder, for its successor (``tmp``) or its former content (``old``).

    `clear_unfinished` removes it once this process has ended.
    """
    return final.parent / f".{kind}-{os.getpid()}-{HOST}-{next(_serial)}-{final.name}"


def publish_folder(final: Path, witness: str, fill: Callable[[Path], None], overwrite: bool) -> None:
    """Make a folder under a hidden name and give it its name by one rename: all of it or nothing.

    Args:
        final: its name.
        witness: a file that every whole folder of the kind has; one without it does not stand in the way.
        fill: writes the files into the folder that it is given.
        overwrite: replace what is there; without it what is there stays and the new folder is dropped.

    Raises:
        OSError: the disk refused; the former folder is restored.
    """
    temporary, old = unfinished(final), unfinished(final, "old")
    try:
        temporary.mkdir(parents=True)
        fill(temporary)
        for file in temporary.iterdir():
            fsync(file)
        fsync(temporary)
        # A folder without its record is an incomplete write and may be replaced.
        if final.exists() and (overwrite or not (final / witness).exists()):
            final.rename(old)
        try:
            temporary.rename(final)
        except OSError:
            if not final.exists():
                raise
            # Published meanwhile, or kept on purpose: the folder that was finished first stays.
        fsync(final.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if final.exists():
            shutil.rmtree(old, ignore_errors=True)
        elif old.exists():
            old.rename(final)


def clear_unfinished(parent: Path) -> None:
    """Remove what processes of this host that have ended left in a folder.

    A replaced folder whose replacement never arrived is put back.
    """
    for left in sorted(parent.glob(".*")) if parent.is_dir() else ():
        match = _UNFINISHED.fullmatch(left.name)
        if match is None or match[3] != HOST or writer_lives(int(match[2]), left):
            continue
        if match[1] == "old" and not (parent / match[5]).exists():
            left.rename(parent / match[5])
        elif left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def replaced_meanwhile(folder: Path) -> bool:
    """Whether a missing folder is being replaced: its former content has its hidden name."""
    return any(folder.parent.glob(f".old-*-{folder.name}"))


def writer_lives(pid: int, path: Path) -> bool:
    """Whether the process of this host that made a file or folder still runs."""
    import psutil

    try:
        # Process ids come round again (in containers at once): a process younger than the folder did not make it.
        return bool(psutil.Process(pid).create_time() <= path.stat().st_mtime - clock_ahead(path.parent) + 1)
    except (psutil.NoSuchProcess, FileNotFoundError, ValueError):
        return False
    except (psutil.Error, OSError):  # not to be seen: it may
        return True
