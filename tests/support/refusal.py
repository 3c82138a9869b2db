"""Assertions on refusals: the code, and the files, fields and values that the message names, whatever the wording."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from milbench.errors import MilbenchError


@contextmanager
def refused(code: str, *names: object, kind: type[MilbenchError] = MilbenchError) -> Iterator[pytest.ExceptionInfo]:
    """Expect a `MilbenchError` with a code, whose message contains the names.

    Args:
        code: the code of the error.
        *names: files, fields, options and values that the message contains; each as ``str``.
        kind: the class of the error.

    Yields:
        The exception, for a test that needs more of it.

    Raises:
        AssertionError: the code is another, or the message lacks a name.
    """
    with pytest.raises(kind) as caught:
        yield caught
    assert_refusal(caught.value.code, str(caught.value), code, names)


def assert_refused(line: str, code: str, *names: object) -> None:
    """Expect stderr to hold one line of an error, with its code in brackets and the names.

    Raises:
        AssertionError: the last line of stderr has another code or none, or lacks a name.
    """
    said = line.rstrip("\n").splitlines()[-1] if line.strip() else ""
    sentence, bracket, rest = said.rpartition(" [")
    assert said.startswith("milbench: "), f"no error in {line!r}"
    assert bracket, f"no code at the end of {said!r}"
    assert rest.endswith("]"), f"no code at the end of {said!r}"
    assert_refusal(rest[:-1], sentence, code, names)


def assert_refusal(given: str, message: str, code: str, names: tuple[object, ...]) -> None:
    """Expect a code, and a message that contains every name."""
    assert given == code, f"the code is {given}, not {code}: {message}"
    lacking = [str(name) for name in names if str(name) not in message]
    assert not lacking, f"{lacking} not in: {message}"
