"""Numbers and lists as tables and sentences show them; an unknown value (NaN) is a dash."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

ABSENT = "–"


def fixed(value: float, digits: int = 3, sign: bool = False) -> str:
    """Return so many decimals, with a minus sign that is as wide as a plus."""
    form = f"+.{digits}f" if sign else f".{digits}f"
    return f"{value:{form}}".replace("-", "−") if value == value else ABSENT


def with_interval(value: float, low: float, high: float, sign: bool = False) -> str:
    """Return ``0.950 [0.910, 0.980]``."""
    if value != value:
        return ABSENT
    return f"{fixed(value, sign=sign)} [{fixed(low, sign=sign)}, {fixed(high, sign=sign)}]"


def si(value: float) -> str:
    """Return three significant digits with k, M, G, T, P: 12345 is 12.3k."""
    if value != value:
        return ABSENT
    for factor, unit in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= 0.9995 * factor:
            return f"{value / factor:.3g}{unit}"
    return f"{value:.3g}"


def rank_interval(row: Any) -> str:
    """Return ``1-4``, the interval of a leaderboard row's rank; a dash for none."""
    return ABSENT if row.rank != row.rank else f"{row.rank_low:.0f}-{row.rank_high:.0f}"


def plain_rank(row: Any) -> str:
    """Return ``2`` for a leaderboard row's rank, ``2=`` where equal scores share it; a dash for none."""
    return ABSENT if row.rank != row.rank else f"{row.rank:.0f}{'=' if row.tied else ''}"


def rank_text(row: Any) -> str:
    """Return ``2 [1-4]``, a leaderboard row's rank with its interval; ``2=`` where equal scores share it; a dash for
    none."""
    if row.rank != row.rank:
        return ABSENT
    rank = plain_rank(row)
    return rank if row.rank_low == row.rank_high else f"{rank} [{rank_interval(row)}]"


def count(number: int, noun: str) -> str:
    """Return ``1 fold`` or ``1,200 folds``."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def listed(names: Sequence[str]) -> str:
    """Return ``a``, ``a and b`` or ``a, b and c``."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def duration(seconds: float) -> str:
    """Return a time in words, to two digits or so."""
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 1.5 * length:
            return f"{seconds / length:.{1 if seconds < 10 * length else 0}f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 1 else "1 s"


def size(count: float) -> str:
    """Return a number of bytes in words."""
    for unit, length in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= length:
            return f"{count / length:.{1 if count < 100 * length else 0}f} {unit}"
    return f"{count / 1e3:.0f} kB" if count >= 1e3 else f"{count:.0f} B"


def some(names: list[str], most: int = 5) -> str:
    """Return ``'a', 'b', 'c', 'd', 'e' and 7 more``."""
    rest = len(names) - most
    return ", ".join(repr(name) for name in names[:most]) + (f" and {rest} more" if rest > 0 else "")
