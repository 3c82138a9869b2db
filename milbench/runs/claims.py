"""Which process does what, where several carry out the same work: a claim a run, trial or pass of measurements.

A claim is a file, locked by the process that holds it. The system gives a lock back when its process ends, however it
ends, so that on one machine a claim never outlives its holder. Between machines locks need not be seen: the file names
the machine, process and time, and its holder touches it every `BEAT_S` seconds. A claim of another machine counts until
it has been seen unchanged for `STALE_S` seconds by this process's own clock.

A claim says who works, not what is done: having taken one, check whether the work was finished meanwhile. On a file
system without locks two processes that begin at the same moment may do the same work; the result that is published
first stays.
"""

from __future__ import annotations

import errno
import json
import os
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ..atomic_io.publishing import child, make_folder, open_appending
from ..atomic_io.unfinished import HOST
from ..errors import MilbenchError

try:
    import fcntl
    import resource
except ImportError:  # Windows: every claim is granted
    fcntl = None  # type: ignore[assignment]

#: Seconds between two signs of life of a holder, and those without any after which another machine's claim is free.
BEAT_S, STALE_S = 15.0, 90.0
#: Seconds between two attempts to take a claim that is waited for.
WAIT_S = 0.3
_SUFFIX = ".claim"
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}


def _kernel() -> str:
    """Return what identifies the running system: processes under one kernel see each other's locks."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    return HOST


@dataclass
class _Seen:
    mtime_ns: int
    since: float


class Claims:
    """The claims of this process in one folder; use as a context, which gives back what is still held.

    Args:
        root: below which no symbolic link is followed.
        folder: of the claims; made when the first one is taken, and removed by the last process to leave.
    """

    def __init__(self, root: Path, folder: Path) -> None:
        self._root, self.folder = root, folder
        self._held: dict[str, IO[bytes] | None] = {}
        self._seen: dict[str, _Seen] = {}
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._kernel = _kernel()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Claims:
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        with suppress(OSError, MilbenchError):
            for key in list(self._held):
                self.release(key)
            for left in self.folder.glob(f"[!.]*{_SUFFIX}"):  # of processes that were killed
                if self.take(left.name.removesuffix(_SUFFIX)):
                    self.release(left.name.removesuffix(_SUFFIX))
            self.folder.rmdir()  # others may hold claims in it

    def take(self, key: str) -> bool:
        """Take a claim; return whether this process holds it now: not while it holds as many as it may open files for.

        Args:
            key: of the work, usable as the name of a file.

        Raises:
            MilbenchError: the folder cannot be written to.
        """
        if key in self._held:
            return True
        if fcntl is None:
            self._held[key] = None
            return True
        if not _may_open(len(self._held)):
            return False
        path = child(self.folder, key, _SUFFIX, "claim")
        try:
            file = self._locked(path, key)
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                raise
            raise MilbenchError(
                f"cannot write {path} ({error.strerror or error}), which says that this process is at work; free "
                "space on the disk or repair it, then give the same command again.",
                code="not-writable",
            ) from error
        if file is None:
            return False
        with self._lock:
            self._held[key] = file
        self._seen.pop(key, None)
        if self._thread is None:
            self._thread = threading.Thread(target=self._beat, daemon=True)
            self._thread.start()
        return True

    def wait(self, key: str) -> None:
        """Take a claim once no other process holds it."""
        while not self.take(key):
            time.sleep(WAIT_S)

    def release(self, key: str) -> None:
        """Give a claim back, if this process holds it."""
        with self._lock:
            file = self._held.pop(key, None)
        if file is not None:
            with suppress(OSError):
                # Another machine may have taken it over from this one, which was suspended.
                if self._is_own(file):
                    child(self.folder, key, _SUFFIX, "claim").unlink(missing_ok=True)
            file.close()

    def _is_own(self, file: IO[bytes]) -> bool:
        owner = _owner(file)
        return owner is None or owner == (self._kernel, os.getpid())

    def _locked(self, path: Path, key: str) -> IO[bytes] | None:
        """Open and lock a claim's file, and write who holds it; None where another process does."""
        while True:
            make_folder(self._root, self.folder)
            try:
                file = open_appending(path)
            except FileNotFoundError:  # the folder was removed by a process that left
                continue
            held = False
            try:
                locked = _lock(file)
                if locked is False:
                    return None
                if not _is_at(file, path):  # its holder has given it back between the two calls
                    continue
                if self._is_alive(file, key, locked is True):
                    return None
                held = self._write(file, path)
                return file
            finally:
                if not held:
                    file.close()

    def _write(self, file: IO[bytes], path: Path) -> bool:
        owner = {"host": HOST, "kernel": self._kernel, "pid": os.getpid(), "since": time.time()}
        try:
            os.ftruncate(file.fileno(), 0)
            os.write(file.fileno(), json.dumps(owner).encode())
        except OSError:
            with suppress(OSError):
                path.unlink(missing_ok=True)
            raise
        return True

    def _is_alive(self, file: IO[bytes], key: str, locked: bool) -> bool:
        """Whether the holder that a claim's file names is at work, although its lock does not say so."""
        owner = _owner(file)
        if owner is None:
            return False
        kernel, pid = owner
        if kernel == self._kernel and (locked or pid == os.getpid() or not _runs(pid)):
            return False
        # Without locks the id may be that of another process by now, which gives no signs of life here.
        now, mtime = time.monotonic(), os.fstat(file.fileno()).st_mtime_ns
        seen = self._seen.get(key)
        if seen is None or seen.mtime_ns != mtime:
            self._seen[key] = _Seen(mtime, now)
            return True
        return now - seen.since < STALE_S

    def _beat(self) -> None:
        while not self._ended.wait(BEAT_S):
            with self._lock:
                for file in self._held.values():
                    if file is not None:
                        with suppress(OSError):
                            os.utime(file.fileno())


def _owner(file: IO[bytes]) -> tuple[Any, int] | None:
    """Return kernel and process that a claim's file names; None where it names none, as a new one."""
    try:
        owner: dict[str, Any] = json.loads(os.pread(file.fileno(), 4096, 0))
        return owner["kernel"], int(owner["pid"])
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


def _may_open(held: int) -> bool:
    """Whether a process that holds so many claims may open another and leave as many files for its runs again.

    The process's limit of open files is raised where the system lets it.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if not held or soft == resource.RLIM_INFINITY or 2 * held < soft:
        return True
    more = 2 * soft if hard == resource.RLIM_INFINITY else min(2 * soft, hard)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (more, hard))
    except (ValueError, OSError):
        return False
    return more > soft


def _lock(file: IO[bytes]) -> bool | None:
    """Lock a file without waiting; False where another process has, None where the file system knows no locks."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return None
    return True


def _is_at(file: IO[bytes], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.lstat(path))
    except FileNotFoundError:
        return False


def _runs(pid: int) -> bool:
    import psutil

    return psutil.pid_exists(pid)
