"""What verbs share: tables at the width there is, the command as it was given, and folders that can be written."""

from __future__ import annotations

import os
import shlex
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import MilbenchError
from ..formatting.escaping import console

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from ..config import Suite
    from ..runs.live import Progress, Session


class Rule(StrEnum):
    """By what bags of two classes are called positive: the names of `milbench.config.ThresholdRule`."""

    half = "half"
    youden = "val-youden"
    f1 = "val-f1"


MINUTE = 60.0  # seconds between two lines on what runs where there is no terminal
QUIET = 2.0  # seconds that work may take without a word where there is no terminal


def registered(method: str) -> str:
    """Return a method by its registered name where it is given as ``module:Class`` of a registered class."""
    if ":" not in method.partition("[")[0]:
        return method
    from ..registry import resolve

    try:
        method_named = resolve(method)
    except MilbenchError:  # results may name what cannot be imported here
        return method
    return method_named.canonical if method_named.given else method


def print_report(rendered: str | RenderableType, guard: AbstractContextManager[None] | None = None) -> None:
    """Print what a renderer returned: text as it is, anything else as rich prints it.

    Args:
        rendered: by a renderer of `milbench.report.renderers`.
        guard: of that renderer, as rich executes code of what it returned; None: it is milbench's own.
    """
    if isinstance(rendered, str):
        echo_data(rendered if rendered.endswith("\n") else f"{rendered}\n")
    else:
        screen = _screen()
        with guard or nullcontext(), screen.capture() as captured:
            screen.print(rendered)
        sys.stdout.write(captured.get())
        sys.stdout.flush()


def warn_if_changed(given: object, suite: Suite, results: Path) -> None:
    """Say that a suite's file was edited since its results were made, which a verb about results shows as they are."""
    from ..evaluation.scores import changed_since

    if changed := changed_since(results, suite):
        echo(
            f"warning: {given} is not the suite that results of {suite.name} version {suite.version} in {results} were "
            f"made with ({', '.join(changed)} changed since); what is shown is of the suite as it was run.",
            err=True,
        )


def print_table(table: RenderableType) -> None:
    """Print what rich renders: as wide as the terminal, or 120 columns where there is none and COLUMNS does not say."""
    _screen().print(table)


def _screen() -> Console:
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() or os.environ.get("COLUMNS") else 120)


def echo(text: str = "", err: bool = False, lines: bool = False) -> None:
    """Print one line, whatever the names from files in it hold; the one place where verbs print.

    Args:
        text: the line.
        err: to stderr.
        lines: the text has several lines, made of parts in which no name can begin a new one.
    """
    print(console(text, lines=lines), file=sys.stderr if err else sys.stdout, flush=err)


def echo_data(text: str) -> None:
    """Print CSV, JSON or Markdown as it is, for another program; on a terminal made harmless."""
    sys.stdout.write(console(text, lines=True) if sys.stdout.isatty() else text)


class Shown:
    """Shows work: call it with what has ended; `watch` what is under way."""

    def __init__(self, show: Callable[[Progress], None]) -> None:
        self._show = show
        self.session: Session | None = None

    def __call__(self, step: Progress) -> None:
        self._show(step)

    def watch(self, session: Session) -> None:
        """Show from now on what a session is doing, between the runs that end too."""
        self.session = session


@contextmanager
def show_progress() -> Iterator[Shown]:
    """Give what shows work: a bar on a terminal; elsewhere a line a minute of what runs and how long it will take.

    There the first and the last run to end have lines of their own, and whatever did not end ok.
    """
    ended = threading.Event()
    if not sys.stdout.isatty():
        spoken = [-MINUTE]  # when the last line was printed

        def say(line: str) -> None:
            spoken[0] = time.monotonic()
            print(console(line), flush=True)

        def show(step: Progress) -> None:
            due = time.monotonic() - spoken[0] >= MINUTE
            if due or step.done == step.total or step.outcome not in ("ok", "pruned"):
                say(f"[{step.done}/{step.total}] {_ended(step)}{_left(shown.session)}")

        def lines() -> None:
            while not ended.wait(max(1.0, MINUTE - (time.monotonic() - max(spoken[0], began)))):
                if shown.session is not None and time.monotonic() - spoken[0] >= MINUTE:
                    with suppress(OSError):  # a reader that has gone is the main thread's to answer
                        say(str(shown.session.tick()))

        shown, began = Shown(show), time.monotonic()

        with _thread(lines, ended):
            yield shown
        return
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    with Bar(
        BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}", markup=False)
    ) as bar:
        task = bar.add_task("starting", total=None)
        shown = Shown(
            lambda step: bar.update(task, completed=step.done, total=step.total, description=console(_ended(step)))
        )

        def redraw() -> None:
            while not ended.wait(2.0):
                if shown.session is not None:
                    state = shown.session.tick()
                    with suppress(OSError):
                        bar.update(
                            task, completed=state.done, total=state.total or None, description=console(str(state))
                        )

        with _thread(redraw, ended):
            yield shown


@contextmanager
def _thread(target: Callable[[], None], ended: threading.Event) -> Iterator[None]:
    thread = threading.Thread(target=target, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(1.0)


@contextmanager
def counted(what: str) -> Iterator[Callable[[int, int, str], None]]:
    """Show progress: a bar on a terminal; elsewhere a line every tenth of the way, once it takes long. On stderr."""
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import Progress

    stderr = Console(stderr=True)
    if stderr.is_terminal:
        with Progress(console=stderr, transient=True) as bar:
            task = bar.add_task(what, visible=False)
            yield lambda done, total, slide: bar.update(
                task, completed=done, total=total, description=escape(console(f"{what} {slide}")), visible=True
            )
        return

    began, began_printing = time.monotonic(), False

    def line(done: int, total: int, slide: str) -> None:
        nonlocal began_printing
        tenth = done * 10 // total > (done - 1) * 10 // total
        if (began_printing and done == total) or (tenth and time.monotonic() - began > QUIET):
            began_printing = True
            print(console(f"{what} {done}/{total} {slide}"), file=sys.stderr, flush=True)

    yield line


def _left(session: Session | None) -> str:
    from ..runs.live import duration

    state = None if session is None else session.tick()
    left = None if state is None else state.seconds_left()
    return f"; {duration(left)} left" if left and state is not None and state.work_left > 0 else ""


def _ended(step: Progress) -> str:
    return f"{step.what}: {step.outcome}" + (f" ({step.reason})" if step.reason else "")


def command_line() -> str:
    """Return the command that is running, as one would paste it; folders of this machine are no part of it."""
    return console(shlex.join(["milbench", *(portable(word) for word in sys.argv[1:])]))


def portable(word: str | Path) -> str:
    """Return a path relative to the working folder, or its last part where it lies elsewhere; other words unchanged."""
    text = str(word)
    option, equals, value = text.partition("=")
    if option.startswith("--") and equals:
        return f"{option}={portable(value)}"
    path = Path(text)
    if not path.is_absolute():
        return text
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return path.name or text


def check_report(folder: Path, suite: str) -> None:
    """Refuse to replace a README.md that is not a report of this suite.

    Raises:
        MilbenchError: there is one; the sentence says how to write elsewhere.
    """
    from ..report.folder import foreign_readme

    check_folder(folder, "--report")
    if foreign_readme(folder, report_title(suite)):
        raise MilbenchError(
            f"{folder / 'README.md'} is not a report of suite {suite} and "
            "would be overwritten; give a --report folder.",
            code="already-exists",
        )


def report_title(suite: str) -> str:
    """Return the title of the report that ``run`` writes."""
    return f"Leaderboard of {suite}"


def check_folder(folder: Path, option: str) -> None:
    """Refuse a folder that could not be written when, after hours, it is needed.

    Raises:
        MilbenchError: it is a file, or lies below one or below a folder that one may not write in.
    """
    above = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not above.is_dir():
        needs = "" if above == folder.absolute() else f" and {folder} cannot be made below it"
        raise MilbenchError(f"{above} is a file{needs}; give another {option}.", code="path-wrong-kind")
    if not os.access(above, os.W_OK | os.X_OK):
        raise MilbenchError(
            f"{above} cannot be written; make it writable or give another {option}.", code="not-writable"
        )
