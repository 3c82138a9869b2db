"""Spellings: how one name, label or missing value is written in several ways; needs nothing but the text."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Iterable

#: endings of slide images, feature files and archives, in lower case
SUFFIXES = (
    ".svs", ".ndpi", ".ndpis", ".tiff", ".tif", ".ome", ".qptiff", ".mrxs", ".scn", ".czi", ".vms", ".vmu", ".bif",
    ".svslide", ".dcm", ".isyntax", ".i2syntax", ".zvi", ".vsi", ".lif", ".sdpc", ".kfb", ".tmap", ".btf", ".jp2",
    ".png", ".jpg", ".jpeg", ".bmp", ".dng", ".h5", ".hdf5", ".hdf", ".h5ad", ".pt", ".pth", ".npy", ".npz", ".pkl",
    ".pickle", ".zarr", ".safetensors", ".parquet", ".feather", ".zip", ".gz", ".tar", ".xml",
)  # fmt: skip
#: how tools write that a value is missing, in lower case without brackets: GDC, cBioPortal, R, Excel, pandas, SQL
MISSING = frozenset(
    ["", "nan", "na", "n/a", "n.a.", "n.a", "na.", "<na>", "null", "none", "nil", "nat", "#n/a", "#na", "#n/a!",
     "#value!", "#null!", "#ref!", "#name?", "#div/0!", "#num!", "-nan", "1.#qnan", "-", "--", "---", "'-", "'--",
     "'---", "\u2013", "\u2014", "?", "??", "???", ".", "..", "...", "_", "*", "missing", "missing value", "unknown",
     "unk", "unkn", "unknwn", "not known", "not available", "not reported", "not evaluated", "not applicable",
     "not specified", "not determined", "not done", "not assessed", "not recorded", "not provided", "not given",
     "not tested", "not performed", "not allowed to collect", "unspecified", "undefined", "unavailable", "no data",
     "nd", "n.d.", "n/d", "nk", "n/k", "n.k.", "tbd", "no value", "no label", "unlabeled", "unlabelled",
     "unlabelled slide", "discrepancy", "redacted", "pending", "data not available", "information not available"]
)  # fmt: skip
#: numbers that stand for a missing value where all other values are whole numbers from 0 on
_CODES = ("-1", "-9", "-99", "-999", "-9999")
_BLANKS = re.compile(r"\s+")


def clean(text: str) -> str:
    """Return text as it looks: Unicode's composed form, no invisible characters, single plain blanks, none around."""
    if text.isascii() and "  " not in text and not any(c in text for c in "\t\r\n\v\f") and text == text.strip():
        return text
    composed = unicodedata.normalize("NFC", text)
    visible = "".join(c for c in composed if unicodedata.category(c) != "Cf")
    return _BLANKS.sub(" ", visible).strip()


def without_endings(name: str) -> str:
    """Return a name without the endings of files, whatever their letter case, as many as there are."""
    while True:
        head, dot, end = name.rpartition(".")
        if not dot or not head or f".{end.lower()}" not in SUFFIXES:
            return name
        name = head


def whole_number(name: str) -> str:
    """Write 100.0 as 100; other text stays."""
    return name.split(".")[0] if re.fullmatch(r"-?\d+\.0*", name) else name


def without_zeros(name: str) -> str:
    """Return a name of digits alone without the zeros in front; other names stay."""
    return (name.lstrip("0") or "0") if name.isascii() and name.isdigit() else name


def is_missing(label: str) -> bool:
    """Whether a cell is how tools write that a value is missing; brackets around the words count as nothing."""
    text = clean(label).casefold()
    bare = text.strip('[](){}<>"').strip()
    return text in MISSING or bare in MISSING


def missing_codes(values: Iterable[str]) -> frozenset[str]:
    """Return the values that are codes of a missing one: -1, -9, -99, ... where all others are 0, 1, 2, ..."""
    found = {whole_number(clean(value)): value for value in values if not is_missing(value)}
    others = [text for text in found if text not in _CODES]
    if not {"0", "1"} <= set(others) or not all(re.fullmatch(r"\d+", text) for text in others):
        return frozenset()
    spellings = {value for value in values if whole_number(clean(value)) in _CODES}
    return frozenset(spellings)


def label_key(label: str) -> str:
    """Return what spellings of one class have in common: neither letter case, blanks nor invisible characters count."""
    text = whole_number(clean(label)).casefold()
    return without_zeros(text.replace(" ", ""))


def patient_key(patient: str) -> str:
    """Return what spellings of one patient have in common: case, blanks, zeros in front, 100 and 100.0 do not count."""
    return without_zeros(whole_number(clean(patient).casefold()).replace(" ", ""))


def merged(
    values: Iterable[str], key: Callable[[str], str], preferred: Collection[str] = ()
) -> tuple[dict[str, str], list[tuple[str, ...]]]:
    """Bring spellings of one thing together.

    Args:
        values: as they stand, with repetitions.
        key: equal for spellings of one thing.
        preferred: spellings that are kept as they are, each a thing of its own.

    Returns:
        spelling -> the one that stands for all: of `preferred`, else the most frequent, else the plainest; and the
        groups of two spellings or more, the one that is kept first.
    """
    times = Counter(values)
    groups: dict[str, list[str]] = {}
    for value in times:
        if value not in preferred:
            groups.setdefault(key(value), []).append(value)
    chosen = {value: value for value in preferred}
    by_key: dict[str, list[str]] = {}
    for value in preferred:
        by_key.setdefault(key(value), []).append(value)
    found: list[tuple[str, ...]] = []
    for name, group in groups.items():
        named = by_key.get(name, [])
        if len(named) > 1:  # which of them is meant is not known
            chosen |= {value: value for value in group}
            continue
        best = named[0] if named else min(group, key=lambda v: (-times[v], v != clean(v), len(v), v))
        chosen |= dict.fromkeys(group, best)
        others = sorted(value for value in group if value != best)
        if others:
            found.append((best, *others))
    return chosen, sorted(found)


def said_of(groups: Iterable[tuple[str, ...]], most: int = 5) -> str:
    """Return ``'a' (also 'A', 'a '), 'b' (also 'B')`` of groups as `merged` returns them."""
    listed = list(groups)
    shown = []
    for best, *others in listed[:most]:
        show = ascii if any(clean(other) == clean(best) for other in others) else repr
        more = f" and {len(others) - most} more" if len(others) > most else ""
        shown.append(f"{show(best)} (also {', '.join(map(show, others[:most]))}{more})")
    rest = len(listed) - most
    return ", ".join(shown) + (f" and {rest} more" if rest > 0 else "")
