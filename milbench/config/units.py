"""Quantities that people write and read: ``10 min``, ``8 GiB``, ``2e15 flop``, ``5000 steps``, ``20 trials``."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Any

from ..errors import MilbenchError

#: 5000, 5_000, 5,000 or 1.5e3: a comma stands between thousands and nowhere else.
_NUMBER = r"\s*((?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9][0-9_]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?)\s*([A-Za-z]*)\s*"

_SECONDS = {"s": 1, "sec": 1, "second": 1, "seconds": 1, "min": 60, "minute": 60, "minutes": 60,
            "h": 3600, "hour": 3600, "hours": 3600, "d": 86400, "day": 86400, "days": 86400}  # fmt: skip
_BYTES = {"b": 1} | {
    f"{letter}{end}": base**power
    for power, letter in enumerate("kmgt", start=1)
    for end, base in (("", 1024), ("ib", 1024), ("b", 1000))
}
_FLOPS = {f"{prefix}{word}": 1000**power for power, prefix in enumerate(("", "k", "m", "g", "t", "p", "e"))
          for word in ("flop", "flops")}  # fmt: skip
_STEPS = {"step": 1, "steps": 1}
_TRIALS = {"trial": 1, "trials": 1}

#: Field of a budget -> its units, and words that show how it is written.
UNITS: dict[str, tuple[dict[str, int], str]] = {
    "steps": (_STEPS, "number of steps such as '5000 steps'"),
    "flops": (_FLOPS, "amount of computing such as '2e15 flop' or '2 Pflop'"),
    "device_seconds": (_SECONDS, "time such as '90 s', '10 min' or '2 h'"),
    "memory_bytes": (_BYTES, "amount of memory such as '8 GiB' or '512 MiB'"),
    "trials": (_TRIALS, "number of trials such as '20 trials'"),
    "timeout_s": (_SECONDS, "time such as '90 s', '10 min' or '2 h'"),
}
#: Other spellings of the fields.
NAMES = {"device-seconds": "device_seconds", "memory": "memory_bytes", "timeout": "timeout_s"}
_WHOLE = ("steps", "flops", "memory_bytes", "trials")


def parse_quantity(field: str, text: Any) -> float:
    """Return the value of a budget's field, in steps, operations, seconds, bytes or trials.

    Args:
        field: one of `UNITS`.
        text: a number, or a number with a unit.

    Raises:
        MilbenchError: not of that form, or not positive.
    """
    units, description = UNITS[field]
    if isinstance(text, bool) or not isinstance(text, str | int | float):
        raise MilbenchError(f"{text!r} is no {description}.", code="budget-bad-value")
    match = re.fullmatch(_NUMBER, text) if isinstance(text, str) else None
    if isinstance(text, str):
        unit = units.get(match[2].lower(), 1 if match[2] == "" else 0) if match else 0
        value = float(re.sub("[_,]", "", match[1])) * unit if match else 0.0
    else:
        value = float(text)
    broken = field in ("steps", "trials") and value != int(value) if math.isfinite(value) else True
    if broken or value <= 0 or (field in _WHOLE and value < 1):
        raise MilbenchError(f"{text!r} is no {description}.", code="budget-bad-value")
    return int(value) if field in _WHOLE else value


def parse_bytes(text: str) -> int:
    """Return the bytes of ``8 GiB``, ``512MiB`` or a plain number.

    Raises:
        MilbenchError: not of that form, or not positive.
    """
    return int(parse_quantity("memory_bytes", text))


def parse_budget(texts: Iterable[str]) -> dict[str, float]:
    """Return the fields of a budget from words such as ``10 min``, ``memory=8 GiB`` or ``timeout=1 h``.

    The unit selects the field: a time without a name is device-seconds.

    Raises:
        MilbenchError: a word of neither form, or a field given twice.
    """
    parsed: dict[str, float] = {}
    for text in texts:
        name, equals, rest = text.partition("=")
        field = NAMES.get(name.strip(), name.strip()) if equals else _field_of(text)
        if field not in UNITS:
            what = "names no field of a budget" if equals else "has no unit that tells what is meant"
            raise MilbenchError(
                f"--budget {text!r} {what}; write '5000 steps', '2e15 flop', '10 min' (device-seconds), '8 GiB', "
                "'20 trials' or 'timeout=1 h'.",
                code="budget-bad-value",
            )
        if field in parsed:
            raise MilbenchError(f"--budget gives {field} twice; give it once.", code="budget-bad-value")
        parsed[field] = parse_quantity(field, rest if equals else text)
    return parsed


def _field_of(text: str) -> str:
    match = re.fullmatch(_NUMBER, text)
    unit = match[2].lower() if match else ""
    # 10 m could be minutes as well as mebibytes: without a name, memory needs its B.
    named = {field: units for field, (units, _) in UNITS.items() if field != "memory_bytes" or unit.endswith("b")}
    return next((field for field, units in named.items() if unit in units), "") if unit else ""


def show_quantity(field: str, value: float) -> str:
    """Return a quantity in words: ``10 min``, ``8 GiB``, ``2 Pflop``, ``5,000 steps``."""
    match field:
        case "device_seconds" | "timeout_s":
            size, unit = next(((s, u) for u, s in (("h", 3600), ("min", 60)) if value % s == 0), (1, "s"))
            return f"{value / size:,.10g} {unit}"
        case "memory_bytes":
            size, unit = next(((s, u) for u, s in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10))
                               if value >= s), (1, "B"))  # fmt: skip
            return f"{value / size:,.4g} {unit}"
        case "flops":
            size, unit = next(((10**p, u) for p, u in ((15, "P"), (12, "T"), (9, "G"), (6, "M"))
                               if value >= 10**p), (1, ""))  # fmt: skip
            return f"{value / size:,.4g} {unit}flop"
        case _:
            word = field if value != 1 else field.removesuffix("s")
            return f"{value:,.0f} {word}"
