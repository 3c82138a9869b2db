"""The load of the machine during a measurement: recorded with it, and reported where it matters."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Hashable, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar

from ..formatting.text import count, listed

_Key = TypeVar("_Key", bound=Hashable)

#: Cores that other work may keep busy before a figure is marked.
_OTHERS = 0.5
#: Seconds between the first and the last measurement of one cohort before they count as made at different times.
_APART_S = 6 * 3600.0


#: Share by which the yardsticks of two moments may differ before what was measured in them is not compared.
APART = 0.2
#: The rates of a yardstick, see `milbench.measure.yardstick`.
RATES = ("flops_per_s", "copy_bytes_per_s")


class Load:
    """Measures, from now on, how many of the machine's cores are busy, by any process."""

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


def rates(record: Mapping[str, Any]) -> dict[str, float]:
    """Return the machine's own rates during a measurement, medians over its moments; empty where none are recorded."""
    moments = [*record.get("moments", ()), *filter(None, [record.get("moment")])]
    yards = [moment["yardstick"] for moment in moments if moment.get("yardstick")]
    return {name: statistics.median(float(yard[name]) for yard in yards) for name in RATES} if yards else {}


def apart(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Return whether the yardsticks of two measurements differ by more than `APART`; False where one has none."""
    a, b = rates(one), rates(other)
    return any(min(a[name], b[name]) < (1 - APART) * max(a[name], b[name]) for name in RATES) if a and b else False


def shares_of_best(records: Mapping[_Key, Mapping[str, Any]]) -> dict[_Key, float]:
    """Return by record how fast the machine was meanwhile: its slower rate over the best of all; 1 is the best.

    Args:
        records: measurements of one environment; those without a yardstick are left out of the answer.
    """
    known = {key: values for key, record in records.items() if (values := rates(record))}
    best = {name: max(values[name] for values in known.values()) for name in RATES} if known else {}
    return {key: min(values[name] / best[name] for name in RATES) for key, values in known.items()}


def budget_notes(name: str, runs: Mapping[tuple[str, str, int], Mapping[str, Any]]) -> list[str]:
    """Return a sentence on runs under a budget in device-seconds that got less done, as the machine was busy.

    Args:
        name: of the cohort.
        runs: (method, fold, seed) -> record of an ``ok`` run.
    """
    of_machine: dict[str, dict[tuple[str, str, int], Mapping[str, Any]]] = {}
    for key, record in runs.items():
        if record.get("moment"):
            here = str((record.get("environment") or {}).get("fingerprint"))
            of_machine.setdefault(here, {})[key] = record
    shares = {key: share for records in of_machine.values() for key, share in shares_of_best(records).items()}
    slow = {key: share for key, share in shares.items() if share < 1 - APART}
    notes = []
    if slow:
        worst = min(slow, key=lambda key: slow[key])
        notes.append(
            f"{name}: the budget is in device-seconds, and during {count(len(slow), 'run')} of {len(shares)} "
            f"({listed(sorted({key[0] for key in slow}))}) the machine's own product or copy ran at less than "
            f"{1 - APART:.0%} of its best rate among these runs (down to {slow[worst]:.0%}"
            f"{_load_average([runs[worst]['moment']])}): they got fewer steps for their seconds."
        )
    if runs and not shares:
        notes.append(
            f"{name}: the budget is in device-seconds, and how busy the machine was is not known of these runs, which "
            "an earlier milbench made."
        )
    return notes


def _load_average(moments: Sequence[Mapping[str, Any]]) -> str:
    loads = [float(moment["load_1min"]) for moment in moments if moment.get("load_1min") is not None]
    return f", load average {max(loads):.1f}" if loads else ""


def cost_notes(records: Mapping[tuple[str, str], Mapping[str, Any]]) -> list[str]:
    """Return sentences on measurements of cost that others disturbed, that were made at different times or at
    different speeds of the machine, or of which that is not known.

    Args:
        records: (cohort, method) -> record, all of one environment.
    """
    notes = []
    moments = {key: record["moments"] for key, record in records.items() if record.get("moments")}
    busy = {
        key: max(values, key=lambda m: m["busy_cores"])
        for key, values in moments.items()
        if any(map(disturbed, values))
    }
    shares = shares_of_best(records)
    for cohort in dict.fromkeys(key[0] for key in records):
        unknown = sorted(name for of, name in records if of == cohort and (of, name) not in moments)
        if unknown:
            notes.append(
                f"{cohort}: how busy the machine was (load unknown) while the cost of {listed(unknown)} was measured "
                "was not recorded by the milbench that measured it."
            )
        if not any(key[0] == cohort for key in moments):
            continue
        slow = {name: share for (of, name), share in shares.items() if of == cohort and share < 1 - APART}
        if slow:
            least = min(slow.values())
            notes.append(
                f"{cohort}: while the cost of {listed(sorted(slow))} was measured, the machine's own product or copy "
                f"ran at less than {1 - APART:.0%} of its best rate in this table (down to {least:.0%}), so these "
                "timings do not compare with the others; milbench run measures them again together with the next cost "
                "that it measures of this cohort, and milbench run --overwrite costs measures all of them again."
                " It trains nothing that is done."
            )
        names = sorted(method for name, method in busy if name == cohort)
        if names:
            worst = max((busy[cohort, name] for name in names), key=lambda m: m["busy_cores"])
            notes.append(
                f"{cohort}: the machine was busy with other work while the cost of {listed(names)} was measured "
                f"({worst['busy_cores']:.1f} of {count(round(worst['cores']), 'core')} in use"
                f"{_load_average([worst])}), so these timings are "
                "too slow; run the suite again with --overwrite costs on a quiet machine, or take them as upper limits."
            )
        times = [datetime.fromisoformat(m["at"]) for key, values in moments.items() if key[0] == cohort for m in values]
        if (max(times) - min(times)).total_seconds() > _APART_S:
            notes.append(
                f"{cohort}: costs were measured between {min(times):%Y-%m-%d %H:%M} and {max(times):%Y-%m-%d %H:%M}, "
                "not side by side; changes of the machine's speed in between are part of their differences."
            )
    return notes


def _busy_seconds() -> float:
    import psutil

    times = psutil.cpu_times()
    return sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0)
