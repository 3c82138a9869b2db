"""Datasets and feature formats of other packages: modules that their entry points name."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import Any

from ..errors import MilbenchError


def plug_ins(group: str, own: set[str]) -> dict[str, EntryPoint]:
    """Return name -> entry point of a group, nothing imported.

    Args:
        group: ``milbench.datasets`` or ``milbench.formats``.
        own: names that milbench itself has; a package may not take one of them.

    Raises:
        MilbenchError: two packages, or one and milbench, have the same name.
    """
    points: dict[str, EntryPoint] = {}
    for point in sorted(entry_points(group=group), key=lambda point: (point.name, point.value)):
        if points.get(point.name, point).value != point.value or point.name in own:
            raise MilbenchError(
                f"two entries of {group} are named {point.name} (one of them {point.value}); rename one, or uninstall "
                "its package.",
                code="plugin-broken",
            )
        points[point.name] = point
    return points


def load_plug_in(group: str, point: EntryPoint, attributes: tuple[str, ...]) -> Any:
    """Import what an entry point names: a module, or an object, with the attributes that its group needs.

    Raises:
        MilbenchError: it cannot be imported, or lacks an attribute.
    """
    try:
        loaded = point.load()
    except Exception as error:  # of a package that is not ours
        raise MilbenchError(
            f"{point.name} of {group} ({point.value}) cannot be imported ({type(error).__name__}: {error}); repair or "
            "uninstall its package.",
            code="plugin-broken",
        ) from error
    lacking = [name for name in attributes if not hasattr(loaded, name)]
    if lacking:
        raise MilbenchError(
            f"{point.name} of {group} ({point.value}) has no {lacking[0]}; repair or uninstall its package.",
            code="plugin-broken",
        )
    return loaded


def summary(loaded: Any) -> str:
    """Return the first line of the docstring of a module or object; empty where it has none."""
    return (getattr(loaded, "__doc__", None) or "").strip().split("\n")[0]
