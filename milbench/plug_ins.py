"""Additions of other packages, named by their entry points: one rule for every kind.

milbench's own names win: an entry of a package that has one of them is not used. An entry is loaded only when its name
is used, or where every addition of a kind takes part, as all formats do in the detection of a format and all metrics in
a leaderboard. An addition that is broken, or whose name two packages have, is refused when its name is used; where all
take part it is left out with a warning, so that it harms nothing else.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from .errors import MilbenchError
from .formatting.escaping import console


def plug_ins(
    group: str, own: Collection[str] = (), spelled: Callable[[str], str] = str
) -> dict[str, tuple[EntryPoint, ...]]:
    """Return name -> the different entries of a group under it, sorted; nothing is imported.

    Args:
        group: of entry points, ``milbench.datasets`` for instance.
        own: names that milbench itself has; entries of these names are left out.
        spelled: gives the name under which an entry is used.
    """
    named: dict[str, dict[str, EntryPoint]] = {}
    for point in sorted(entry_points(group=group), key=lambda point: (point.name, point.value)):
        if spelled(point.name) not in own:
            named.setdefault(spelled(point.name), {}).setdefault(point.value, point)
    return {name: tuple(points.values()) for name, points in sorted(named.items())}


def load_plug_in(kind: str, name: str, points: tuple[EntryPoint, ...], attributes: tuple[str, ...] = ()) -> Any:
    """Import what the entry of a name names: a module, or an object, with the attributes that its kind needs.

    Args:
        kind: what it is, in one word: ``dataset``.
        name: under which it is used.
        points: the entries of that name, of `plug_ins`.
        attributes: that it must have.

    Raises:
        MilbenchError: two packages have the name, or it cannot be imported or lacks an attribute.
    """
    if len(points) > 1:
        raise MilbenchError(
            f"two {kind}s are named {name} ({' and '.join(point.value for point in points)}); uninstall one.",
            code="plugin-broken",
        )
    with blamed(f"{kind} {name} ({points[0].value})", "cannot be imported", refusals=False):
        loaded = points[0].load()
    for attribute in attributes:
        if not hasattr(loaded, attribute):
            raise MilbenchError(
                f"{kind} {name} ({points[0].value}) has no {attribute}; repair or uninstall its package.",
                code="plugin-broken",
            )
    return loaded


@contextmanager
def blamed(what: str, fault: str = "fails", refusals: bool = True) -> Iterator[None]:
    """Execute code of a package: whatever goes wrong is a refusal that names it, never a traceback.

    Args:
        what: kind, name and entry of the addition.
        fault: what an error means.
        refusals: a `MilbenchError` of the code is passed on as it is.

    Raises:
        MilbenchError: the code raises something.
    """
    try:
        yield
    except Exception as error:  # of a package that is not ours
        if refusals and isinstance(error, MilbenchError):
            raise
        raise MilbenchError(
            f"{what} {fault} ({type(error).__name__}: {error}); repair or uninstall its package.", code="plugin-broken"
        ) from error


def warn_left_out(error: MilbenchError) -> None:
    """Say on stderr that an addition is left out, and why."""
    if sys.stderr is not None:  # closed by who started the command
        sys.stderr.write(console(f"warning: left out: {error}") + "\n")
        sys.stderr.flush()


def summary(loaded: Any) -> str:
    """Return the first line of the docstring of a module or object; empty where it has none."""
    return (getattr(loaded, "__doc__", None) or "").strip().split("\n")[0]
