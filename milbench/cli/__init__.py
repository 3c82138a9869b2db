"""The command line: one file a verb, no logic. Heavy imports stay inside the verbs, so that ``--help`` is instant."""

from __future__ import annotations

import os
import sys
from importlib import import_module

import typer

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


#: What typer raises for a wrong option or argument. Recent versions carry their own copy of click, so it is asked for
#: by name among the ancestors of a class that typer exports.
_UsageError: type[Exception] = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")
_INTERRUPTED = 130


def main() -> None:
    """Run the command line: exit code 0 ok, 1 usage or bad input, 2 some runs did not end ok, 130 interrupted.

    What a user can mend ends in one sentence on stderr; a traceback is a mistake of milbench's own.
    """
    from ..errors import MilbenchError

    try:
        if (here := os.getcwd()) not in sys.path:
            sys.path.insert(0, here)  # a file beside the user is importable, as with python -m
        # Not standalone: typer would end with 2 for a wrong option, which here means that runs did not end ok.
        code = app(prog_name="milbench", standalone_mode=False)
    except MilbenchError as error:
        code = _fail(str(error))
    except _UsageError as error:
        error.show()  # type: ignore[attr-defined]
        code = 1
    except OSError as error:
        named = f"{error.filename}: " if error.filename is not None else ""
        code = _fail(f"{named}{error.strerror or error}; check the path, its permissions and the free space.")
    except (KeyboardInterrupt, typer.Abort):
        code = _INTERRUPTED
    if code == _INTERRUPTED:
        _fail("interrupted; what was finished is kept, and the same command, given again, goes on from there.")
    sys.exit(code if isinstance(code, int) else 0)


def _fail(sentence: str) -> int:
    """Write one line, whatever the message quotes from files; return the exit code of bad input."""
    line = "".join(c if c.isprintable() else "?" for c in " ".join(sentence.split()))
    sys.stderr.write(f"milbench: {line}\n")
    return 1
