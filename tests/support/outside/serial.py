"""A launcher that executes tasks one after the other, each in a process of its own, and keeps a log of them."""

import json
from collections import deque
from concurrent.futures import Future
from pathlib import Path

from milbench.runs.launchers.base import REPEATS, Launcher
from milbench.runs.launchers.local import LocalLauncher


class SerialLauncher(Launcher):
    """One place, whatever ``--jobs`` says; ``launched.jsonl`` in the working folder names what it executed."""

    def __init__(self, work, jobs, timeout_s=None):
        super().__init__(work, 1, timeout_s)
        self._place = LocalLauncher(work, 1, timeout_s)
        self._waiting = deque()

    @property
    def under_way(self):
        """How many tasks `wait` has not returned."""
        return len(self._waiting)

    def submit(self, task, repeats=REPEATS):
        """Keep a task until `wait`."""
        future: Future = Future()
        self._waiting.append((task, repeats, future))
        return future

    def wait(self, timeout_s=None):
        """Execute the oldest task."""
        if not self._waiting:
            return None
        task, repeats, future = self._waiting.popleft()
        self._place.submit(task, repeats)
        outcome = self._place.wait().result()
        with Path("launched.jsonl").open("a") as log:
            log.write(json.dumps([type(task).__name__, outcome.outcome]) + "\n")
        future.set_result(outcome)
        return future

    def close(self):
        """End the running tasks."""
        self._waiting.clear()
        self._place.close()
