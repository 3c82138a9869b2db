"""Runs in fresh processes on this machine.

A fork server imports torch once; every run is forked from it, in milliseconds, with nothing of an earlier run in its
memory. A run that dies, hangs or is killed takes no other with it, and no run outlives the process that started it.

A run whose process ends by a signal that was not sent from here (the system's out-of-memory killer, an operator, a
fault of the hardware) is carried out again from its start, at most `REPEATS` times; so is a run whose fork server was
killed, with a new fork server.
"""

from __future__ import annotations

import errno
import gc
import multiprocessing as mp
import os
import pickle
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import islice
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

from ...errors import MilbenchError
from ...formatting.text import count
from .base import REPEATS, Launcher, Outcome, Work

Key = TypeVar("Key")

#: Modules that the fork server imports once. The compiler of torch is not used, but the counting of operations imports
#: it: a second that every process would spend anew.
PRELOAD = [
    "milbench.runs.launchers.local", "milbench.runs.run_tasks", "milbench.runs.costs.benchmark",
    "milbench.runs.scaling.measurement", "milbench.runs.tuning.trial", "torch._dynamo",
    "torch._meta_registrations", "pyarrow.parquet", "safetensors.torch",
]  # fmt: skip
METHOD = "forkserver" if "forkserver" in mp.get_all_start_methods() else "spawn"
GRACE_S = 1.0  # for a process to leave once its result is here, and for a signal to reach us too
#: Exit code that multiprocessing reports for a process whose fork server has ended before it.
_ORPHANED = 255


@dataclass(frozen=True)
class _Submitted:
    task: Any
    repeats: int
    future: Future[Outcome]


@dataclass
class _Running:
    submitted: _Submitted
    process: Any
    pipe: Connection
    server: int | None  # process id of the fork server
    deadline: float | None = None
    lost: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Lost:
    """The end of a process by a signal that was not sent from here."""

    signal: str


def warm_up() -> None:
    """Start the fork server now, so that it imports torch while the caller does, on another core.

    Raises:
        MilbenchError: this process, and so the server, may open too few files.
    """
    _check_limits(1)
    if METHOD == "forkserver":
        from multiprocessing import forkserver, resource_tracker

        mp.get_context(METHOD).set_forkserver_preload(PRELOAD)
        resource_tracker.ensure_running()  # the server's start would begin with it, and it lets all signals through
        with _main_module_hidden(), _interrupts_held():
            forkserver.ensure_running()


def _check_limits(jobs: int) -> None:
    """Refuse to start processes where the fork server would run into a limit, and end with a traceback of it.

    Raises:
        MilbenchError: too few descriptors, or too little memory to import torch.
    """
    try:
        import resource
    except ImportError:  # Windows
        return
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = _DESCRIPTORS + _DESCRIPTORS_A_RUN * jobs
    if allowed != resource.RLIM_INFINITY and allowed < needed:
        raise MilbenchError(
            f"this process may open {allowed} files, and {count(jobs, 'run')} at a time may need {needed}; allow more "
            "(ulimit -n 256)" + (", or use fewer --jobs." if jobs > 1 else "."),
            code="system-limit",
        )
    memory, _ = resource.getrlimit(resource.RLIMIT_AS)
    if memory != resource.RLIM_INFINITY and memory < _ADDRESS_BYTES:
        raise MilbenchError(
            f"this process may take {memory >> 20:,} MiB of memory, and torch alone "
            "needs more; allow more (ulimit -v).",
            code="system-limit",
        )


#: Address space without which torch is not imported (2.5 GiB fail, 4 GiB are enough for a small suite on CPU).
_ADDRESS_BYTES = 3 << 29
#: Descriptors that a fork server holds by itself, with those of a start under way, and for every run it has forked.
_DESCRIPTORS, _DESCRIPTORS_A_RUN = 18, 3


class LocalLauncher(Launcher):
    """Executes tasks in fresh processes on this machine; see `milbench.runs.launchers.base.Launcher`.

    Raises:
        MilbenchError: the system starts no process (too many open files, no memory); `submit` and `wait` raise it too.
    """

    def __init__(self, work: Work, jobs: int, timeout_s: float | None = None) -> None:
        super().__init__(work, jobs, timeout_s)
        _check_limits(jobs)
        self._context: Any = mp.get_context(METHOD)
        self._waiting: deque[_Submitted] = deque()
        self._running: list[_Running] = []
        self._ended: deque[Future[Outcome]] = deque()

    @classmethod
    def warm_up(cls) -> None:
        """Start the fork server; see `warm_up`."""
        warm_up()

    @property
    def under_way(self) -> int:
        """How many tasks were submitted that `wait` has not returned."""
        return len(self._waiting) + len(self._running) + len(self._ended)

    def submit(self, task: Any, repeats: int = REPEATS) -> Future[Outcome]:
        """Start a process for a task, or keep the task until one of the others has ended."""
        one = _Submitted(task, repeats, Future())
        self._waiting.append(one)
        self._start_waiting()
        return one.future

    def wait(self, timeout_s: float | None = None) -> Future[Outcome] | None:
        """Return a task that has ended; None where no task is under way, or where none has ended in time."""
        end = None if timeout_s is None else time.monotonic() + timeout_s
        while not self._ended and self._running:
            for one in _ended(self._running, None if end is None else max(0.0, end - time.monotonic())):
                self._running.remove(one)
                self._end(one)
            self._start_waiting()
            if end is not None and time.monotonic() >= end:
                break
        return self._ended.popleft() if self._ended else None

    def close(self) -> None:
        """Kill every process."""
        self._waiting.clear()
        while self._running:
            _kill(self._running.pop())

    def _start_waiting(self) -> None:
        while self._waiting and len(self._running) < self.jobs:
            self._start(self._waiting.popleft())

    def _start(self, one: _Submitted, lost: tuple[str, ...] = ()) -> None:
        self._running.append(_start(self._context, self.work, one, self.timeout_s, lost))

    def _end(self, one: _Running) -> None:
        """Keep the outcome of a process that has ended, or start its task again."""
        ended = _collect(one, self.timeout_s)
        if isinstance(ended, _Lost):
            lost = (*one.lost, ended.signal)
            if len(lost) <= one.submitted.repeats:
                self._start(one.submitted, lost)
                return
            ended = Outcome("failed", _killed(lost), lost=lost)
        elif one.lost:
            ended = replace(ended, lost=one.lost)
        one.submitted.future.set_result(ended)
        self._ended.append(one.submitted.future)


def run_all(
    work: Work, tasks: Iterable[tuple[Key, Any]], jobs: int, timeout_s: float | None = None
) -> Generator[tuple[Key, Outcome]]:
    """Execute independent tasks in fresh processes on this machine and yield ``(key, outcome)`` as they end.

    Args:
        work: see `milbench.runs.launchers.base.Launcher`.
        tasks: ``(key, task)``, read one by one as processes become free.
        jobs: processes at the same time.
        timeout_s: wall seconds after which a process is killed; its outcome is ``timeout``.

    Raises:
        MilbenchError: the system starts no process (too many open files, no memory).
    """
    keys: dict[Future[Outcome], Key] = {}
    remaining = iter(tasks)
    with LocalLauncher(work, jobs, timeout_s) as launcher:
        for key, task in islice(remaining, jobs):
            keys[launcher.submit(task)] = key
        for ended in launcher.as_completed():
            for key, task in islice(remaining, launcher.free):
                keys[launcher.submit(task)] = key
            yield keys.pop(ended), ended.result()


def _start(context: Any, work: Work, one: _Submitted, timeout_s: float | None, lost: tuple[str, ...] = ()) -> _Running:
    for attempt in range(REPEATS + 1):
        try:
            warm_up()  # a new fork server, where the last one has ended
            process, ours = _forked(context, work, one.task)
            break
        # The fork server was killed between two runs, or in the middle of a start: the next start makes a new one.
        except (EOFError, ConnectionError):
            if attempt == REPEATS:
                raise MilbenchError(
                    f"the process that starts the runs was ended {attempt + 1} times by something other than milbench; "
                    "free memory or find out what ends it, then give the same command again.",
                    code="reader-ended",
                ) from None
            _await_end(_server())
        except OSError as error:
            if error.errno not in _NO_MORE:
                raise
            raise MilbenchError(
                f"the system starts no process for a run ({error.strerror}); {_NO_MORE[error.errno]}, then give the "
                "same command again.",
                code="system-limit",
            ) from None
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    return _Running(one, process, ours, _server(), deadline, lost)


#: The fix where the system refuses another process.
_NO_MORE = {
    errno.EMFILE: "allow more open files (ulimit -n 256)",
    errno.ENFILE: "close programs that hold files open",
    errno.EAGAIN: "allow more processes (ulimit -u)",
    errno.ENOMEM: "free memory or allow more of it (ulimit -v)",
}


def _forked(context: Any, work: Work, task: Any) -> tuple[Any, Connection]:
    ours, theirs = context.Pipe()
    process = context.Process(target=_child, args=(work, task, theirs), daemon=True)
    try:
        with _main_module_hidden():
            process.start()
    except BaseException:
        ours.close()  # a process that did start ends itself
        raise
    finally:
        theirs.close()
    return process, ours


def _server() -> int | None:
    """Return the process id of the fork server; None where there is none."""
    if METHOD != "forkserver":
        return None
    from multiprocessing import forkserver

    return getattr(forkserver._forkserver, "_forkserver_pid", None)


def _await_end(server: int | None) -> None:
    """Wait until a fork server that answers no more has ended: large processes take a while, on a busy machine longer.

    Before its end can be seen, another start would turn to it again.
    """
    end = time.monotonic() + 10 * GRACE_S
    while server is not None and time.monotonic() < end:
        try:
            if os.waitid(os.P_PID, server, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
                return
        except ChildProcessError:
            return
        time.sleep(0.02)


def _ended_with_server(one: _Running, code: int | None) -> bool:
    """Return whether a run's process was lost because its fork server has ended, not by an exit code of its own."""
    if code != _ORPHANED or one.server is None:
        return False
    if _server() != one.server:  # a later start has noticed the end and has made another
        return True
    try:
        return os.waitid(os.P_PID, one.server, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return True


def _child(work: Work, task: Any, pipe: Connection) -> None:
    # The terminal's Ctrl-C reaches the whole process group; the parent decides what becomes of its runs.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.freeze()  # what the fork server has imported stays: collections in this process need not traverse it
    threading.Thread(target=_die_with_parent, args=(pipe,), daemon=True).start()
    result = work(task)
    with suppress(BrokenPipeError):
        try:
            pipe.send(result)
        except (pickle.PicklingError, AttributeError, TypeError) as error:  # nothing has been sent then
            pipe.send(Outcome("failed", f"the result cannot be sent to the parent process: {error}"))


def _die_with_parent(pipe: Connection) -> None:
    """Wait for the parent's end of the pipe to close: when the parent is killed, its runs end too."""
    wait([pipe])
    os._exit(1)


def _ended(running: list[_Running], within_s: float | None = None) -> list[_Running]:
    """Wait until a run has ended or exceeded its time, for some seconds at most, and return those that have."""
    deadlines = [one.deadline for one in running if one.deadline is not None]
    patience = max(0.0, min(deadlines) - time.monotonic()) if deadlines else None
    if within_s is not None:
        patience = within_s if patience is None else min(patience, within_s)
    # The process as well as its pipe: a process of its own that a method started may hold the pipe open after it.
    ready = wait([end for one in running for end in (one.pipe, one.process.sentinel)], timeout=patience)
    now = time.monotonic()
    return [
        one
        for one in running
        if one.pipe in ready or one.process.sentinel in ready or (one.deadline is not None and now >= one.deadline)
    ]


def _collect(one: _Running, timeout_s: float | None) -> Outcome | _Lost:
    result = None
    try:
        if one.pipe.poll():
            result = one.pipe.recv()
        elif one.process.is_alive():
            _kill(one)
            return Outcome("timeout", f"stopped after {timeout_s:g} s")
    except (EOFError, OSError):
        pass  # it ended before it could send a result, or in the middle of sending
    # With the result here, whatever the process still does on its way out must not hold up the others.
    one.process.join(GRACE_S)
    code, pid = one.process.exitcode, one.process.pid
    _kill(one)
    if result is not None:
        return result
    if code == _ORPHANED:
        time.sleep(min(GRACE_S, 0.2))  # the fork server closes its pipes before its end can be seen
        if _ended_with_server(one, code):
            _end_orphan(pid)
            time.sleep(GRACE_S)  # who ends a whole group may reach us a moment later
            return _Lost("the end of its fork server")
    return _died(code)


def _died(code: int | None) -> Outcome | _Lost:
    if code is None:
        return Outcome("failed", "the process closed its connection without a result")
    if code >= 0:
        return Outcome("failed", f"the process ended with exit code {code} and no result")
    # Who ends a whole group of processes (a scheduler, a closed terminal) may reach us a moment later. Such a run has
    # not ended by itself: it must count as missing, not failed, when the command is given again.
    time.sleep(GRACE_S)
    known = -code in set(signal.Signals)
    return _Lost(signal.Signals(-code).name if known else f"signal {-code}")


def _killed(lost: tuple[str, ...]) -> str:
    """Return the reason of a run all of whose attempts were ended by signals."""
    names = list(dict.fromkeys(lost))
    memory = "; the system sends SIGKILL when memory runs out" if "SIGKILL" in names else ""
    attempts = f" in each of {len(lost)} attempts" if len(lost) > 1 else ""
    return f"the process was ended by {' and '.join(names)}{attempts}{memory}"


def _end_orphan(pid: int | None) -> None:
    """End a run that its fork server has left behind, which a thread of its own does unless something blocks it."""
    import psutil

    try:
        orphan = psutil.Process(pid)
        # An id comes round again: only what is still a process of a fork server, and no one else's child.
        if "multiprocessing" in " ".join(orphan.cmdline()) and orphan.ppid() != os.getpid():
            orphan.wait(GRACE_S)
    except psutil.TimeoutExpired:
        with suppress(psutil.Error):
            orphan.kill()
    except (psutil.Error, ValueError):
        pass


def _kill(one: _Running) -> None:
    if one.process.is_alive():
        one.process.kill()
        one.process.join()
    one.process.close()
    one.pipe.close()


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Keep Ctrl-C for us until this is over, and for good from what is started meanwhile.

    The fork server ignores it once its imports are done; before, it would die of it with a traceback of its own.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)


@contextmanager
def _main_module_hidden() -> Iterator[None]:
    """Keep a fresh process from importing the caller's script again.

    multiprocessing does that so that functions of the script can be unpickled; runs need none, and a script that calls
    ``milbench.run`` without a ``__main__`` guard would run itself again in every process.
    """
    main = sys.modules["__main__"]
    kept = {name: getattr(main, name) for name in ("__file__", "__spec__") if hasattr(main, name)}
    try:
        if "__file__" in kept:
            del main.__file__
        main.__spec__ = None
        yield
    finally:
        for name, value in kept.items():
            setattr(main, name, value)
