"""The command line: one file a verb, no logic. Heavy imports stay inside the verbs, so that ``--help`` is instant."""

from __future__ import annotations

# Ctrl-C is answered from here on. `_signal` is the part of `signal` that is compiled into the interpreter: the module
# itself spends a millisecond on enumerations, in which an interrupt would still end in a traceback.
import _signal  # type: ignore[import-not-found]
import os
import sys

_INTERRUPTED = 130
_interrupts = [0]  # how many have come: some libraries turn the exception into another, which then names a false cause


def _at_once(*_: object) -> None:
    """Answer Ctrl-C while the command line is imported: nothing has begun, and there is nothing to put in order."""
    try:
        os.write(2, b"milbench: interrupted; nothing has begun.\n")
    finally:
        os._exit(_INTERRUPTED)


def _raised(*_: object) -> None:
    _interrupts[0] += 1
    raise KeyboardInterrupt


def _is_program() -> bool:
    """Whether this process is the command line itself, and not a program that imports it."""
    return os.path.basename(sys.argv[0] if sys.argv else "") in ("milbench", "milbench.exe", "-m", "-c", "__main__.py")


if _is_program() and _signal.getsignal(_signal.SIGINT) is _signal.default_int_handler:
    _signal.signal(_signal.SIGINT, _at_once)

import contextlib  # noqa: E402
import errno  # noqa: E402
import signal  # noqa: E402
import threading  # noqa: E402
from importlib import import_module  # noqa: E402

import typer  # noqa: E402

app = typer.Typer(
    name="milbench",
    help="The referee of multiple-instance learning: compare aggregators for whole-slide images under matched budgets.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(wanted: bool) -> None:
    if wanted:
        from .. import __version__

        typer.echo(f"milbench {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    """The referee of multiple-instance learning: compare aggregators for whole-slide images under matched budgets."""


#: verb -> (module below milbench.cli, what it defines: a function for a verb, a Typer app for a group of verbs)
VERBS = (
    "list", "show", "init", "cache", "audit", "run", "tune", "status", "leaderboard", "compare", "predictions",
    "predict", "export", "verify", "forget", "measure", "check", "cite", "env",
)  # fmt: skip

for _verb in VERBS:
    _module = import_module(f"milbench.cli.{_verb}_verb")
    if hasattr(_module, "app"):
        app.add_typer(_module.app, name=_verb)
    else:
        app.command(_verb)(getattr(_module, f"{_verb}_command"))


#: Exception that typer raises for a wrong option or argument. Recent versions carry their own copy of click, so the
#: class is looked up by name among the ancestors of a class that typer exports.
_UsageError: type[Exception] = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")


def main() -> None:
    """Run the command line: exit code 0 ok, 1 usage or bad input, 2 some runs did not end ok, 130 interrupted.

    An error that the user can fix ends in one sentence on stderr; a traceback is a defect of milbench. Where the reader
    of stdout has gone (``| head``) the command ends silently with 141, as a program ended by SIGPIPE does.
    """
    _in_utf8()
    _streams()
    _interrupts[0] = 0
    try:
        if signal.getsignal(signal.SIGINT) in (_at_once, signal.default_int_handler):
            with contextlib.suppress(ValueError):  # not the main thread
                signal.signal(signal.SIGINT, _raised)
        code = _carry_out()
        try:
            sys.stdout.flush()
        except OSError as error:
            code = _refused(error)
        if signal.getsignal(signal.SIGINT) is _raised:
            # Only the interpreter's shutdown remains; a traceback from it would not help the user.
            signal.signal(signal.SIGINT, signal.SIG_IGN if _is_program() else signal.default_int_handler)
    except KeyboardInterrupt:  # between two of these lines, or while an error is said
        code = _interrupted()
    if code == 1 and _short_of_memory():  # the interpreter's end would fail too, with tracebacks
        with contextlib.suppress(Exception):
            sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _interrupted() -> int:
    """Say that the command was interrupted; return the exit code."""
    if signal.getsignal(signal.SIGINT) is _raised:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    _fail("interrupted; what was finished is kept, and the same command, given again, goes on from there.")
    return _INTERRUPTED


def _carry_out() -> int:
    """Carry out the command; return the exit code."""
    from ..errors import MilbenchError

    try:
        if (here := os.getcwd()) not in sys.path:
            sys.path.insert(0, here)  # files in the working directory are importable, as with python -m
        _refuse_few_threads()
        # Not standalone: typer would end with 2 for a wrong option, which here means that runs did not end ok.
        code = app(prog_name="milbench", standalone_mode=False)
        code = code if isinstance(code, int) else 0
    except MilbenchError as error:
        # A file that there was no memory to read is not damaged, whatever its reader took it for.
        code = _fail(_MORE_MEMORY, "system-limit") if _lacks_memory(error) else _fail(str(error), error.code)
    except _UsageError as error:
        error.show()  # type: ignore[attr-defined]
        code = 1
    except OSError as error:
        code = _INTERRUPTED if _interrupts[0] else _refused(error)
    except SystemExit as error:
        # Typer and rich answer a reader of stdout that has gone, each in its own way, with 1.
        if not isinstance(error.__context__, BrokenPipeError):
            raise
        code = _refused(error.__context__)
    except (KeyboardInterrupt, typer.Abort):
        code = _INTERRUPTED
    except Exception as error:
        refused = _of_the_system(error) or ((_MORE_MEMORY, "system-limit") if _short_of_memory() else None)
        if _interrupts[0]:  # on its way through a library it has become something else
            code = _INTERRUPTED
        elif refused is None:
            raise
        else:
            code = _fail(*refused)
    return _interrupted() if code == _INTERRUPTED else code


def _of_the_system(error: BaseException) -> tuple[str, str] | None:
    """Return the sentence and the code of an error by which the system refuses something; None for other errors.

    Libraries notice it anywhere and pass it on in forms of their own: a module that cannot be mapped, a thread that
    cannot be started.
    """
    seen: BaseException | None = error
    for _ in range(16):
        if seen is None:
            return None
        said = str(seen)
        if isinstance(seen, OSError) and seen.errno in (23, 24):
            return _DESCRIPTORS, "system-limit"
        if isinstance(seen, MemoryError) or any(words in said for words in _MEMORY):
            return _MORE_MEMORY, "system-limit"
        if "Too many open files" in said:
            return _DESCRIPTORS, "system-limit"
        if isinstance(seen, RecursionError):
            return (
                "a file is nested deeper than any of its kind; check the files that were given, or make them again.",
                "file-too-large",
            )
        if isinstance(seen, UnicodeError):
            return (
                f"a name or text has letters that the locale cannot write ({said.splitlines()[0]}); set LC_ALL=C.UTF-8 "
                "or PYTHONUTF8=1.",
                "system-locale",
            )
        if isinstance(seen, OSError) and seen.errno is not None:
            named = f"{seen.filename}: " if seen.filename is not None else ""
            code = "disk-full" if seen.errno in (errno.ENOSPC, errno.EDQUOT) else "system-refused"
            return f"{named}{seen.strerror or seen}; check the path, its permissions and the free space.", code
        seen = seen.__cause__ or seen.__context__
    return None


def _lacks_memory(error: BaseException) -> bool:
    """Whether an error came of a lack of memory."""
    seen: BaseException | None = error
    for _ in range(16):
        if seen is None or isinstance(seen, MemoryError):
            return seen is not None
        seen = seen.__cause__ or seen.__context__
    return False


def _short_of_memory() -> bool:
    """Whether a limit leaves this process little memory: libraries then fail in ways that do not say so."""
    try:
        import resource

        allowed, _ = resource.getrlimit(resource.RLIMIT_AS)
        with open("/proc/self/statm", "rb") as file:
            used = int(file.read().split()[0]) * resource.getpagesize()
    except Exception:  # another system, or no memory for this either
        return False
    return allowed != resource.RLIM_INFINITY and allowed - used < 512 << 20


def _refuse_few_threads() -> None:
    """Refuse a limit of processes that numerical libraries would meet on import: one of them answers with SIGINT.

    Raises:
        MilbenchError: the system starts no more threads.
    """
    try:
        import resource
    except ImportError:  # Windows
        return
    allowed, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    if allowed == resource.RLIM_INFINITY or allowed > 4096:
        return
    ended, threads = threading.Event(), []
    try:
        for _ in range((os.cpu_count() or 1) + 8):  # theirs, the fork server, its watcher and a run
            threads.append(threading.Thread(target=ended.wait, daemon=True))
            threads[-1].start()
    except RuntimeError:
        from ..errors import MilbenchError

        raise MilbenchError(
            f"this user may have {allowed} processes and threads, and "
            "too few of them are left; allow more (ulimit -u).",
            code="system-limit",
        ) from None
    finally:
        ended.set()


_MORE_MEMORY = (
    "the system gives this process no more memory or threads; allow more (ulimit -v, ulimit -u), close other programs, "
    "or use fewer --jobs."
)
_DESCRIPTORS = "the system lets this process open no more files; allow more (ulimit -n 256)."
_MEMORY = (
    "failed to map segment", "Cannot allocate memory", "cannot allocate memory", "can't start new thread",
    "std::bad_alloc", "DefaultCPUAllocator", "Resource temporarily unavailable",
)  # fmt: skip


def _refused(error: OSError) -> int:
    """Say what the system refused; return the exit code."""
    if isinstance(error, BrokenPipeError):
        # Whatever is written from now on, by the interpreter's own end as well, goes nowhere.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 141
    if error.errno == 28 and error.filename is None and not _writable(sys.stdout):
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return _fail(
            "stdout cannot be written (No space left on device); free some, or write it elsewhere.", "disk-full"
        )
    said = f"{error}; check the path, its permissions and the free space."
    return _fail(*(_of_the_system(error) or (said, "system-refused")))


def _writable(stream: object) -> bool:
    try:
        stream.flush()  # type: ignore[attr-defined]
    except OSError:
        return False
    return True


def _in_utf8() -> None:
    """Start again in UTF-8 where the locale is ASCII: names of files are then read and written as they are."""
    if sys.getfilesystemencoding() != "ascii" or not _is_program() or sys.argv[0] == "-c":
        return
    with contextlib.suppress(OSError):
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])


def _streams() -> None:
    """Give every stream something to write to, and letters that it cannot write an escape instead of an error."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by who started the command
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif hasattr(stream, "reconfigure") and getattr(stream, "errors", "") == "strict":
            stream.reconfigure(errors="backslashreplace")


def _fail(sentence: str, code: str | None = None) -> int:
    """Write one line, whatever the message quotes from files; return the exit code of bad input.

    The line ends with the code of the error in brackets, by which the documentation lists it.
    """
    text = sentence if code is None else f"{sentence} [{code}]"
    line = "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))
    with contextlib.suppress(OSError):
        sys.stderr.write(f"milbench: {line}\n")
        sys.stderr.flush()
    return 1
