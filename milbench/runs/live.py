"""The current activity of a ``milbench run``, for its progress bar and for ``milbench status`` in another terminal.

Each process that carries out a suite has a folder ``.live/PID-HOST`` in the suite's results: ``session.json`` says what
runs, and every training writes its progress next to it. The folder goes with the process; one that a killed process
left is recognised by its process id and removed by the next run. Nothing here decides a result, so a disk that refuses
these files stops nothing.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..atomic_io.publishing import read_regular
from ..atomic_io.unfinished import HOST, writer_lives

#: Seconds between two writes of the session's file, at least.
_EVERY_S = 1.0


@dataclass(frozen=True)
class Progress:
    """One finished run, trial or measurement, for a progress display.

    Attributes:
        done, total: of the phase that is under way.
        what: its description.
        outcome, reason: how it has ended.
    """

    done: int
    total: int
    what: str
    outcome: str
    reason: str


@dataclass
class Item:
    """A run under way.

    Attributes:
        what: the run, in words.
        began: seconds since the epoch.
        work: its size in units that all runs share.
        epochs: planned; 0 where a budget sets the length.
        share: of its training that is done, 0 to 1.
        epoch: the last one that was evaluated.
    """

    what: str
    began: float
    work: float = 0.0
    epochs: int = 0
    share: float = 0.0
    epoch: int = 0

    def __str__(self) -> str:
        parts = [f"epoch {self.epoch} of {self.epochs}"] if self.epoch and self.epochs else []
        parts += [f"{self.share:.0%}"] if self.share and not parts else []
        if (taken := time.time() - self.began) >= 1:
            parts.append(f"for {duration(taken)}")
        return f"{self.what} ({', '.join(parts)})" if parts else self.what


@dataclass
class State:
    """The activity of a session: the phase, how far it is, and the running tasks.

    Attributes:
        pid: the process.
        began: of the phase, seconds since the epoch.
        phase: ``tuning``, ``runs`` or ``costs``.
        done, total: runs, trials or measurements of the phase.
        work_done, work_left: of the phase, in the units of `Item.work`; runs under way are part of the latter.
        running: descriptions of the running tasks.
    """

    pid: int
    began: float
    phase: str = "starting"
    done: int = 0
    total: int = 0
    work_done: float = 0.0
    work_left: float = 0.0
    running: list[Item] = field(default_factory=list)

    def seconds_left(self, now: float | None = None) -> float | None:
        """Return how long the phase will take if the rest goes as what is done; None while nothing is."""
        now = time.time() if now is None else now
        under_way = sum(item.work * item.share for item in self.running)
        done, elapsed = self.work_done + under_way, now - self.began
        if done <= 0 or elapsed <= 0:
            return None
        return max(0.0, self.work_left - under_way) * elapsed / done

    def __str__(self) -> str:
        parts = [f"{self.phase}, {self.done} of {self.total} done"]
        if self.running:
            shown = ", ".join(map(str, self.running[:4]))
            parts.append(shown + (f" and {len(self.running) - 4} more" if len(self.running) > 4 else ""))
        if (left := self.seconds_left()) is not None and self.work_left:
            parts.append(f"{duration(left)} left" + (" at most" if any(i.epochs for i in self.running) else ""))
        return "; ".join(parts)


class Session:
    """The state of this process's work on a suite; use as a context.

    Args:
        suite_folder: in whose folder the state is written; None: it is kept for this process alone.
    """

    def __init__(self, suite_folder: Path | None) -> None:
        self._kept = suite_folder is None
        self.folder = (suite_folder or Path()) / ".live" / f"{os.getpid()}-{HOST}"
        self._state = State(os.getpid(), time.time())
        self._items: dict[str, Item] = {}
        self._lock = threading.Lock()
        self._written = 0.0

    def __enter__(self) -> Session:
        if self._kept:
            return self
        for left in _sessions(self.folder.parent):
            if not writer_lives(_pid(left), left):
                shutil.rmtree(left, ignore_errors=True)
        with suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True)
        self._write(force=True)
        return self

    def __exit__(self, *_: object) -> None:
        if self._kept:
            return
        shutil.rmtree(self.folder, ignore_errors=True)
        with suppress(OSError):
            self.folder.parent.rmdir()  # others may be at work

    def phase(self, name: str, work: float = 0.0) -> None:
        """Begin a phase of so much work."""
        with self._lock:
            self._state.phase, self._state.began = name, time.time()
            self._state.work_done, self._state.work_left = 0.0, work
            self._items.clear()
        self._write(force=True)

    def progress(self, done: int, total: int) -> None:
        """Note how much of the phase is done."""
        self._state.done, self._state.total = done, total
        self._write(force=True)  # ``milbench status`` counts the runs themselves, too

    def advance(self, work: float) -> None:
        """Note work as done that was not started with `start`."""
        with self._lock:
            self._state.work_done += work
            self._state.work_left -= work
        self._write()

    def start(self, key: str, what: str, work: float = 0.0, epochs: int = 0) -> str:
        """Note that something runs; return the path at which its process writes its share done, see `reporter`."""
        with self._lock:
            self._items[key] = Item(what, time.time(), work, epochs)
        self._write()
        return "" if self._kept else str(self.folder / f"{key}.share")

    def finish(self, key: str) -> None:
        """Note that it has ended; its work counts as done."""
        with self._lock:
            item = self._items.pop(key, None)
            if item is not None:
                self._state.work_done += item.work
                self._state.work_left -= item.work
        with suppress(OSError):
            (self.folder / f"{key}.share").unlink(missing_ok=True)
        self._write()

    def state(self) -> State:
        """Return what is known now, with the shares that the trainings have written."""
        with self._lock:
            for key, item in self._items.items():
                with suppress(OSError, ValueError, IndexError):
                    share, epoch = (self.folder / f"{key}.share").read_text("ascii").split()[:2]
                    item.share, item.epoch = min(1.0, float(share)), int(epoch)
            return State(**{**vars(self._state), "running": [Item(**vars(item)) for item in self._items.values()]})

    def _write(self, force: bool = False) -> None:
        now = time.monotonic()
        if self._kept or (not force and now - self._written < _EVERY_S):
            return
        self._written = now
        with suppress(OSError):
            _replace(self.folder / "session.json", json.dumps(asdict(self.state())))

    def tick(self) -> State:
        """Write the state, where the last time is long enough ago, and return it."""
        self._write()
        return self.state()


class Phase:
    """The progress of one phase, counted from 0: in the session, and for a progress display.

    Args:
        session: of the work.
        name: ``tuning``, ``runs``, ``costs`` ...
        total: how many runs, trials or measurements it has.
        work: their size, see `Item.work`.
        on_progress: called after each of them.
    """

    def __init__(
        self, session: Session, name: str, total: int, work: float, on_progress: Callable[[Progress], None] | None
    ) -> None:
        self._session, self._total, self._done, self._on_progress = session, total, 0, on_progress
        session.phase(name, work)
        session.progress(0, total)

    def passed(self) -> None:
        """Count something that is not made: it was made before, or is of no use any more."""
        self._done += 1

    def ended(self, what: str, outcome: str, reason: str, last: bool = True) -> None:
        """Note that something has ended; a turn of a measurement that is not its last one does not count."""
        self._done += last
        self._session.progress(self._done, self._total)
        if self._on_progress is not None:
            self._on_progress(Progress(self._done, self._total, what, outcome, reason))


def reporter(path: str, part: tuple[int, int] = (0, 1)) -> Callable[[float, dict[str, Any]], None] | None:
    """Return what a training calls after every evaluation, with its share done and the row of its history.

    Args:
        path: from `Session.start`; empty: nobody wants to know.
        part: number of the training among those that share the path, one after the other, and how many they are.
    """
    if not path:
        return None

    def report(share: float, row: dict[str, Any]) -> None:
        with suppress(OSError):
            _replace(Path(path), f"{(part[0] + share) / part[1]:.4f} {row['epoch']}")

    return report


def step_reporter(path: str, part: tuple[int, int] = (0, 1)) -> Callable[[float, int], None] | None:
    """Return what a training calls after every step, with its share done and the epoch under way.

    Written at most once in `_EVERY_S`, so that the time left is known long before a first epoch has ended.

    Args:
        path, part: see `reporter`.
    """
    report, clock = reporter(path, part), time.monotonic
    if report is None:
        return None
    due = clock() + _EVERY_S

    def on_step(share: float, epoch: int) -> None:
        nonlocal due
        if clock() >= due:
            report(share, {"epoch": epoch - 1})
            due = clock() + _EVERY_S

    return on_step


def sessions(suite_folder: Path) -> list[State]:
    """Return what the processes that are at work on a suite on this machine are doing."""
    sessions = []
    for folder in _sessions(suite_folder / ".live"):
        if not writer_lives(_pid(folder), folder):
            continue
        try:
            content = json.loads(read_regular(folder / "session.json"))
            sessions.append(State(**{**content, "running": [Item(**item) for item in content["running"]]}))
        except Exception:  # being written or removed just now: it is at work all the same
            sessions.append(State(_pid(folder), time.time()))
    return sessions


def _sessions(live: Path) -> list[Path]:
    with suppress(OSError):
        return sorted(p for p in live.iterdir() if p.name.endswith(f"-{HOST}") and p.is_dir() and not p.is_symlink())
    return []


def _pid(folder: Path) -> int:
    head = folder.name.partition("-")[0]
    return int(head) if head.isdecimal() else 0


def _replace(file: Path, text: str) -> None:
    # Not forced to the disk: who reads it reads it within seconds, and a lost one costs nothing.
    temporary = file.with_name(f".{file.name}.{os.getpid()}.{threading.get_ident()}")
    temporary.write_text(text, "utf-8")
    temporary.replace(file)


def duration(seconds: float) -> str:
    """Return a time in words, to two digits or so."""
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 1.5 * length:
            return f"about {seconds / length:.{1 if seconds < 10 * length else 0}f} {unit}"
    return f"about {max(1, round(seconds))} s"
