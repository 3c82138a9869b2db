"""What two spellings of one method share, without importing the method: results may be of methods not installed."""

from __future__ import annotations


def spelling(method: str) -> tuple[str, ...]:
    """Return a key in which the order of parameters, blanks and capitals do not matter."""
    name, _, body = method.replace(" ", "").lower().partition("[")
    return name, *sorted(filter(None, body.removesuffix("]").split(",")))
