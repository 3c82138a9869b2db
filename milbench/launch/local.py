"""Runs in fresh processes on this machine.

A fork server imports torch once; every run is forked from it, in milliseconds, with nothing of an earlier run in its
memory. A run that dies, hangs or is killed takes no other with it, and no run outlives the process that asked for it.
"""

from __future__ import annotations

import multiprocessing as mp
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any

METHOD = "forkserver" if "forkserver" in mp.get_all_start_methods() else "spawn"
GRACE_S = 5.0


@dataclass(frozen=True)
class Result:
    """How a run ended: the outcome, the reason when it is not ``ok``, and what the work returned."""

    outcome: str
    reason: str = ""
    value: Any = None


@dataclass
class _Running:
    key: Any
    process: Any
    pipe: Connection
    deadline: float | None = field(default=None)


def run_all(
    work: Callable[[Any], Result], tasks: Iterable[tuple[Any, Any]], jobs: int, timeout_s: float | None = None
) -> Iterator[tuple[Any, Result]]:
    """Run ``work(task)`` for every ``(key, task)``, each in a fresh process, and yield ``(key, result)`` as they end.

    Args:
        work: an importable function that returns a Result.
        tasks: read one by one, as processes become free.
        jobs: processes side by side.
        timeout_s: wall seconds after which a process is killed; its outcome is ``timeout``.
    """
    context: Any = mp.get_context(METHOD)
    if METHOD == "forkserver":
        context.set_forkserver_preload(["milbench.worker"])
    pending = iter(tasks)
    running: list[_Running] = []
    exhausted = False
    try:
        while True:
            while not exhausted and len(running) < jobs:
                try:
                    key, task = next(pending)
                except StopIteration:
                    exhausted = True
                    break
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
    with _main_module_hidden():
        process.start()
    theirs.close()
    return _Running(key, process, ours, None if timeout_s is None else time.monotonic() + timeout_s)


def _child(work: Callable[[Any], Result], task: Any, pipe: Connection) -> None:
    # The terminal's Ctrl-C reaches the whole process group; the parent decides what becomes of its runs.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_die_with_parent, args=(pipe,), daemon=True).start()
    result = work(task)
    with suppress(BrokenPipeError):
        pipe.send(result)


def _die_with_parent(pipe: Connection) -> None:
    """Wait for the parent's end of the pipe to close: when the parent is killed, its runs end too."""
    wait([pipe])
    os._exit(1)


def _ended(running: list[_Running]) -> list[_Running]:
    deadlines = [one.deadline for one in running if one.deadline is not None]
    patience = max(0.0, min(deadlines) - time.monotonic()) if deadlines else None
    ready = wait([one.pipe for one in running], timeout=patience)
    now = time.monotonic()
    return [one for one in running if one.pipe in ready or (one.deadline is not None and now >= one.deadline)]


def _collect(one: _Running, timeout_s: float | None) -> Result:
    try:
        if one.pipe.poll():
            result = one.pipe.recv()
            # The result is here: whatever the process still does on its way out must not hold up the others.
            one.process.join(GRACE_S)
            _kill(one)
            return result
    except (EOFError, OSError):
        one.process.join(GRACE_S)
        code = one.process.exitcode
        _kill(one)
        if code is not None and code < 0:
            name = signal.Signals(-code).name
            hint = "; the system kills with SIGKILL when memory runs out" if name == "SIGKILL" else ""
            return Result("oom" if name == "SIGKILL" else "failed", f"the process was ended by {name}{hint}")
        return Result("failed", f"the process ended with exit code {code} and no result")
    _kill(one)
    return Result("timeout", f"stopped after {timeout_s:g} s")


def _kill(one: _Running) -> None:
    if one.process.is_alive():
        one.process.kill()
        one.process.join()
    one.pipe.close()


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
