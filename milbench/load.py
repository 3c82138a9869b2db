"""How busy the machine was while something was measured: recorded with the measurement, and said where it matters."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from .wording import count, listed

#: Cores that other work may keep busy before a figure is marked.
_OTHERS = 0.5
#: Seconds between the first and the last measurement of one cohort before they count as made at different times.
_APART_S = 6 * 3600.0


class Load:
    """Measures, from now on, how many of the machine's cores are busy, whoever keeps them so."""

    def __init__(self) -> None:
        self._busy, self._began = _busy_seconds(), time.monotonic()

    def reading(self) -> dict[str, float]:
        """Return ``busy_cores``, the mean since the start, ``cores`` of the machine, and ``load_1min``."""
        elapsed = max(1e-9, time.monotonic() - self._began)
        load = os.getloadavg()[0] if hasattr(os, "getloadavg") else float("nan")
        reading = {"busy_cores": (_busy_seconds() - self._busy) / elapsed, "cores": float(os.cpu_count() or 1)}
        return reading | ({"load_1min": load} if load == load else {})


def disturbed(moment: Mapping[str, Any]) -> bool:
    """Return whether other work kept the cores busy that a measurement may have wanted.

    Args:
        moment: `Load.reading`, with the ``threads`` that the measurement itself used.
    """
    others = float(moment["busy_cores"]) - float(moment["threads"])
    return others > _OTHERS and float(moment["cores"]) - float(moment["busy_cores"]) < _OTHERS


def cost_notes(records: Mapping[tuple[str, str], Mapping[str, Any]]) -> list[str]:
    """Return sentences on measurements of cost that others disturbed, or that were made at different times.

    Args:
        records: (cohort, method) -> record; those of earlier versions say nothing of their moment and get no note.
    """
    notes = []
    moments = {key: record["moments"] for key, record in records.items() if record.get("moments")}
    busy = {
        key: max(found, key=lambda m: m["busy_cores"]) for key, found in moments.items() if any(map(disturbed, found))
    }
    for cohort in dict.fromkeys(key[0] for key in moments):
        names = sorted(method for name, method in busy if name == cohort)
        if names:
            worst = max((busy[cohort, name] for name in names), key=lambda m: m["busy_cores"])
            notes.append(
                f"{cohort}: the machine was busy with other work while the cost of {listed(names)} was measured "
                f"({worst['busy_cores']:.1f} of {count(round(worst['cores']), 'core')} in use), so these timings are "
                "too slow; run the suite again with --overwrite all on a quiet machine, or take them as upper limits."
            )
        times = [datetime.fromisoformat(m["at"]) for key, found in moments.items() if key[0] == cohort for m in found]
        if (max(times) - min(times)).total_seconds() > _APART_S:
            notes.append(
                f"{cohort}: costs were measured between {min(times):%Y-%m-%d %H:%M} and {max(times):%Y-%m-%d %H:%M}, "
                "not side by side; what slowed the machine in between is part of their differences."
            )
    return notes


def _busy_seconds() -> float:
    import psutil

    times = psutil.cpu_times()
    return sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0)
