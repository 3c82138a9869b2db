"""The command line: one file a verb, no logic. Heavy imports stay inside the verbs, so that ``--help`` is instant."""

from __future__ import annotations

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

#: verb -> (module below milbench.cli, what it defines: a function for a verb, a Typer app for a group of verbs)
VERBS = ("list", "show", "cache", "run", "status", "leaderboard", "check", "cite", "env")

for _verb in VERBS:
    _module = import_module(f"milbench.cli.{_verb}_verb")
    if hasattr(_module, "app"):
        app.add_typer(_module.app, name=_verb)
    else:
        app.command(_verb)(getattr(_module, f"{_verb}_command"))


def main() -> None:
    """Run the command line; a MilbenchError ends in one sentence on stderr and exit code 1."""
    from ..errors import MilbenchError

    try:
        app()
    except MilbenchError as error:
        sys.stderr.write(f"milbench: {error}\n")
        sys.exit(1)
    except KeyboardInterrupt:
        sys.stderr.write("milbench: interrupted; the same command continues where it stopped.\n")
        sys.exit(130)
