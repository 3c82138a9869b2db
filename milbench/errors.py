"""Errors a user can cause, and the words that mend them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class MilbenchError(ValueError):
    """Something the user can mend: one sentence that names the file or value at fault and what to do about it.

    The command line prints the sentence and exits with code 1; it never shows a traceback for these.
    """


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """Return `` Did you mean 'x'?`` for the closest choice, the list of choices if none is close, or nothing."""
    known = sorted(choices)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if close:
        return f" Did you mean {close[0]!r}?"
    return f" Known: {', '.join(known)}." if known else ""


class Unsupported(MilbenchError):  # noqa: N818  (an outcome's name)
    """A method cannot do what a suite asks of it (needs coordinates, say); the run's outcome is ``unsupported``."""


class Diverged(RuntimeError):  # noqa: N818
    """Training went to NaN or infinity on finite features; the run's outcome is ``diverged``."""
