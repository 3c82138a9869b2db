"""Runs in fresh processes on this machine.

A fork server imports torch once; every run is forked from it, in milliseconds, with nothing of an earlier run in its
memory. A run that dies, hangs or is killed takes no other with it, and no run outlives the process that asked for it.
"""

from __future__ import annotations

import gc
import multiprocessing as mp
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any

#: What the fork server imports once. The compilers of torch are not used, but optimizers and the switch to
#: deterministic algorithms import them: seconds that every process would spend anew.
PRELOAD = [
    "milbench.worker", "torch._dynamo", "torch._inductor", "torch._meta_registrations", "pyarrow.parquet",
    "safetensors.torch",
]  # fmt: skip
METHOD = "forkserver" if "forkserver" in mp.get_all_start_methods() else "spawn"
#: What an iterator of tasks yields when its next task cannot be told before one that is running has ended.
WAIT = object()
GRACE_S = 1.0  # for a process to leave once its result is here, and for a signal to reach us too


@dataclass(frozen=True)
class Result:
    """How a run ended: the outcome, the reason when it is not ``ok``, and what the work returned."""

    outcome: str
    reason: str = ""
    value: Any = None


@dataclass(frozen=True)
class Progress:
    """One finished run or measurement, for whoever shows progress."""

    done: int
    total: int
    what: str
    outcome: str
    reason: str


@dataclass
class _Running:
    key: Any
    process: Any
    pipe: Connection
    deadline: float | None = field(default=None)


def warm_up() -> None:
    """Start the fork server now, so that it imports torch while the caller does, on another core."""
    if METHOD == "forkserver":
        from multiprocessing import forkserver, resource_tracker

        mp.get_context(METHOD).set_forkserver_preload(PRELOAD)
        resource_tracker.ensure_running()  # the server's start would begin with it, and it lets all signals through
        with _main_module_hidden(), _interrupts_held():
            forkserver.ensure_running()


def run_all(
    work: Callable[[Any], Result], tasks: Iterable[Any], jobs: int, timeout_s: float | None = None
) -> Generator[tuple[Any, Result]]:
    """Run ``work(task)`` for every ``(key, task)``, each in a fresh process, and yield ``(key, result)`` as they end.

    Args:
        work: an importable function that returns a Result.
        tasks: read one by one, as processes become free; `WAIT` where the next one depends on one that is running.
        jobs: processes side by side.
        timeout_s: wall seconds after which a process is killed; its outcome is ``timeout``.
    """
    context: Any = mp.get_context(METHOD)
    warm_up()
    pending = iter(tasks)
    running: list[_Running] = []
    exhausted = False
    try:
        while True:
            while not exhausted and len(running) < jobs:
                try:
                    item = next(pending)
                except StopIteration:
                    exhausted = True
                    break
                if item is WAIT:
                    break
                key, task = item
                running.append(_start(context, work, key, task, timeout_s))
            if not running:
                return
            for one in _ended(running):
                running.remove(one)
                yield one.key, _collect(one, timeout_s)
    finally:
        for one in running:
            _kill(one)


def _start(context: Any, work: Callable[[Any], Result], key: Any, task: Any, timeout_s: float | None) -> _Running:
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
    return _Running(key, process, ours, None if timeout_s is None else time.monotonic() + timeout_s)


def _child(work: Callable[[Any], Result], task: Any, pipe: Connection) -> None:
    # The terminal's Ctrl-C reaches the whole process group; the parent decides what becomes of its runs.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.freeze()  # what the fork server has imported stays: collections in this process need not look at it
    threading.Thread(target=_die_with_parent, args=(pipe,), daemon=True).start()
    result = work(task)
    with suppress(BrokenPipeError):
        try:
            pipe.send(result)
        except (pickle.PicklingError, AttributeError, TypeError) as error:  # nothing has been sent then
            pipe.send(Result("failed", f"the result cannot be sent to the parent process: {error}"))


def _die_with_parent(pipe: Connection) -> None:
    """Wait for the parent's end of the pipe to close: when the parent is killed, its runs end too."""
    wait([pipe])
    os._exit(1)


def _ended(running: list[_Running]) -> list[_Running]:
    deadlines = [one.deadline for one in running if one.deadline is not None]
    patience = max(0.0, min(deadlines) - time.monotonic()) if deadlines else None
    # The process as well as its pipe: a process of its own that a method started may hold the pipe open after it.
    ready = wait([end for one in running for end in (one.pipe, one.process.sentinel)], timeout=patience)
    now = time.monotonic()
    return [
        one
        for one in running
        if one.pipe in ready or one.process.sentinel in ready or (one.deadline is not None and now >= one.deadline)
    ]


def _collect(one: _Running, timeout_s: float | None) -> Result:
    result = None
    try:
        if one.pipe.poll():
            result = one.pipe.recv()
        elif one.process.is_alive():
            _kill(one)
            return Result("timeout", f"stopped after {timeout_s:g} s")
    except (EOFError, OSError):
        pass  # it ended before it could send a result, or in the middle of sending
    # With the result here, whatever the process still does on its way out must not hold up the others.
    one.process.join(GRACE_S)
    code = one.process.exitcode
    _kill(one)
    return result or _died(code)


def _died(code: int | None) -> Result:
    if code is None:
        return Result("failed", "the process closed its connection without a result")
    if code >= 0:
        return Result("failed", f"the process ended with exit code {code} and no result")
    # Who ends a whole group of processes (a scheduler, a closed terminal) may reach us a moment later. Such a run has
    # not ended by itself: it must be found missing, not failed, when the command is given again.
    time.sleep(GRACE_S)
    known = -code in set(signal.Signals)
    name = signal.Signals(-code).name if known else f"signal {-code}"
    if name == "SIGKILL":
        return Result("oom", "the process was ended by SIGKILL; the system does that when memory runs out")
    return Result("failed", f"the process was ended by {name}")


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

    multiprocessing does that so that functions of the script can be found; runs need none, and a script that calls
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
