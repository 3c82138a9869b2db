"""Where tasks are executed: the interface of a launcher, and the launchers that there are, by name.

A launcher executes ``work(task)`` for every task that is submitted to it and returns the outcomes in the order in which
they end. The caller decides what comes next: a task that depends on another is submitted once that one has ended.

milbench's own are the modules of this folder: `milbench.runs.launchers.local` defines the launcher ``local``. A package
adds a launcher with one class and one entry point of the group ``milbench.launchers``::

    [project.entry-points."milbench.launchers"]
    serial = "their_package.serial:SerialLauncher"

``milbench run --launcher serial`` then uses it. `Launcher` says what the class must do.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib import import_module
from inspect import isabstract, isclass
from pathlib import Path
from pkgutil import iter_modules
from types import TracebackType
from typing import Any, Self, cast

from ...errors import MilbenchError, did_you_mean
from ...plug_ins import blamed, load_plug_in, plug_ins

GROUP = "milbench.launchers"
#: How often a task is repeated whose process was ended by a signal from elsewhere.
REPEATS = 2
#: Seconds between two attempts to take work that another process has claimed.
CLAIM_S = 0.3


@dataclass(frozen=True)
class Outcome:
    """How a run ended: the outcome, the reason when it is not ``ok``, and the return value of the work.

    Attributes:
        lost: signals that ended earlier attempts, by name, in their order.
    """

    outcome: str
    reason: str = ""
    value: Any = None
    lost: tuple[str, ...] = ()


#: Executes a task and returns its outcome, whatever happens; importable by name, so that another process finds it.
Work = Callable[[Any], Outcome]


class Launcher(ABC):
    """Executes tasks; use as a context: on leaving, also by an error or Ctrl-C, unfinished tasks are terminated.

    Tasks and outcomes can be pickled. The files that a task names lie on a file system that both sides see.

    Args:
        work: executes a task and returns its outcome; it raises nothing.
        jobs: tasks that are executed at the same time, at most.
        timeout_s: wall seconds after which a task is ended, with the outcome ``timeout``; None: no limit.

    Raises:
        MilbenchError: the launcher cannot be used here.
    """

    def __init__(self, work: Work, jobs: int, timeout_s: float | None = None) -> None:
        self.work, self.jobs, self.timeout_s = work, jobs, timeout_s

    @classmethod  # noqa: B027  (most have nothing to do here)
    def warm_up(cls) -> None:
        """Begin early what takes long before the first task; the command line calls this before it imports torch."""

    @abstractmethod
    def submit(self, task: Any, repeats: int = REPEATS) -> Future[Outcome]:
        """Take a task, to be executed as soon as one of the `jobs` places is free.

        Args:
            task: given to ``work``.
            repeats: how often the task is executed again where something other than the task ended its process; then
                its outcome is ``failed``. `Outcome.lost` names what ended the earlier attempts.

        Returns:
            the future that `wait` returns once the task has ended.
        """

    @abstractmethod
    def wait(self, timeout_s: float | None = None) -> Future[Outcome] | None:
        """Return a task that has ended, each one once and in the order of their ends.

        Args:
            timeout_s: seconds to wait at most; None: until one has ended.

        Returns:
            its future, which holds the outcome; None where no task is under way, or where none has ended in time.
        """

    @property
    @abstractmethod
    def under_way(self) -> int:
        """How many tasks were submitted that `wait` has not returned."""

    @abstractmethod
    def close(self) -> None:
        """End every task that is under way; nothing of it is left when this returns."""

    @property
    def free(self) -> int:
        """How many more tasks would be executed at once."""
        return max(0, self.jobs - self.under_way)

    def as_completed(self) -> Iterator[Future[Outcome]]:
        """Yield tasks in the order of their ends until none is under way; more may be submitted meanwhile."""
        while (ended := self.wait()) is not None:
            yield ended

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


def _built_in() -> list[str]:
    """Return the names of milbench's own launchers: the other modules of this folder."""
    return [module.name for module in iter_modules([str(Path(__file__).parent)]) if module.name != "base"]


def launcher_names() -> list[str]:
    """Return the names of all launchers, sorted; nothing is imported."""
    return sorted({*_built_in(), *plug_ins(GROUP)})


def find_launcher(name: str) -> type[Launcher]:
    """Return the launcher of a name: a built-in one, or that of an installed package.

    Raises:
        MilbenchError: there is none of that name, two packages have one, it cannot be imported, or it is no launcher
            or lacks a method of one.
    """
    if name in _built_in():
        module = import_module(f"{__package__}.{name}")
        (launcher,) = (own for own in vars(module).values() if _is_launcher(own) and own.__module__ == module.__name__)
        return cast(type[Launcher], launcher)
    points = plug_ins(GROUP).get(name)
    if points is None:
        raise MilbenchError(f"unknown launcher {name!r}.{did_you_mean(name, launcher_names())}", code="plugin-unknown")
    loaded, value = load_plug_in("launcher", name, points), points[0].value
    if not _is_launcher(loaded):
        raise MilbenchError(
            f"launcher {name} ({value}) is no subclass of milbench.runs.launchers.base.Launcher; repair its package.",
            code="plugin-broken",
        )
    if isabstract(loaded):
        raise MilbenchError(
            f"launcher {name} ({value}) does not define {', '.join(sorted(loaded.__abstractmethods__))}; repair or "
            "uninstall its package.",
            code="plugin-broken",
        )
    return cast(type[Launcher], loaded)


def warm_up(launcher: type[Launcher]) -> None:
    """Call `Launcher.warm_up`.

    Raises:
        MilbenchError: that of another package fails.
    """
    with _guard(launcher):
        launcher.warm_up()


def start(launcher: type[Launcher], work: Work, jobs: int, timeout_s: float | None) -> Launcher:
    """Return a launcher made of its class; see `Launcher` for the arguments.

    Raises:
        MilbenchError: it cannot be used here, or that of another package fails.
    """
    with _guard(launcher):
        return launcher(work, jobs, timeout_s)


def _guard(launcher: type[Launcher]) -> AbstractContextManager[None]:
    """Return a context for code of a launcher: the faults of milbench's own show as they are."""
    if launcher.__module__.startswith(f"{__package__}."):
        return nullcontext()
    return blamed(f"launcher {launcher.__module__}:{launcher.__qualname__}", "cannot be started")


def _is_launcher(value: object) -> bool:
    return isclass(value) and issubclass(value, Launcher)
