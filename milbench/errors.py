"""Errors a user can cause, their codes, and the words that correct them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import ClassVar


class MilbenchError(ValueError):
    """Something the user can correct: one sentence that names the file or value at fault and what to do about it.

    The command line prints the sentence with its code in brackets and exits with code 1; it never shows a traceback
    for these.

    Args:
        message: the sentence.
        code: kind of the error, a key of `milbench.error_codes.CODES`, or of `milbench.config.audit_codes.CODES` where
            an audit refuses a cohort. A package outside milbench may use codes of its own.

    Attributes:
        code: as given; ``default_code`` of the class where none was. It stays with the error through pickling, and
            an error that repeats the message of another keeps the other's code.
    """

    default_code: ClassVar[str] = "other"

    def __init__(self, message: object = "", *, code: str | None = None) -> None:
        super().__init__(message)
        self.code = self.default_code if code is None else code


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """Return `` Did you mean 'x'?`` for the closest choice, the list of choices if none is close, or nothing."""
    known = sorted(choices)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if close:
        return f" Did you mean {close[0]!r}?"
    return f" Known: {', '.join(known)}." if known else ""


class Unsupported(MilbenchError):  # noqa: N818  (an outcome's name)
    """A method cannot do what a suite asks of it (needs coordinates, say); the run's outcome is ``unsupported``."""

    default_code = "method-unsupported"


class OutOfMemory(RuntimeError):  # noqa: N818
    """A bag did not fit into the memory a run may take; the run's outcome is ``oom``.

    Attributes:
        bag_length: instances of the longest bag in hand.
        during: ``loading``, ``training`` or ``evaluation``.
        requested_bytes: of the allocation that failed, beyond what was held already; None where the allocator does not
            say.
    """

    def __init__(self, bag_length: int, during: str, requested_bytes: int | None) -> None:
        super().__init__(bag_length, during, requested_bytes)
        self.bag_length, self.during, self.requested_bytes = bag_length, during, requested_bytes

    def __str__(self) -> str:
        amount = "more memory" if self.requested_bytes is None else f"{self.requested_bytes / 2**20:,.1f} MiB more"
        return f"a bag of {self.bag_length:,} instances requested {amount} in {self.during} than the run may take"


class Diverged(RuntimeError):  # noqa: N818
    """Training went to NaN or infinity on finite features; the run's outcome is ``diverged``."""
