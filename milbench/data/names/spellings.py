"""Spellings: how one name, label or missing value is written in several ways; needs nothing but the text."""

from __future__ import annotations

import json
import re
import shlex
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence

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
     "unlabelled slide", "discrepancy", "redacted", "pending", "data not available", "information not available",
     "#n/a n/a", "#nv", "#getting data", "1.#ind", "1.#inf", "\\n", "na character", "na integer", "na real",
     "na logical", "na complex", "(blank)", "(blanks)", "(leer)", "(empty)", "no information", "not stated",
     "not collected", "not applicable or not available", "missing data"]
)  # fmt: skip
#: errors of spreadsheets in any language: #VALUE!, #WERT!, #SPILL!, #NOM?, #¡REF!
_ERROR = re.compile(r"#\S*[!?]")
#: numbers that stand for a missing value where all other values are whole numbers from 0 or 1 on, or words
_CODES = ("-1", "-9", "-99", "-999", "-9999")
#: numbers that may stand for one, where all others are 0, 1, 2, ...
_PERHAPS_CODES = ("9", "99", "999", "9999")
#: words that make NR among them a class (no response), not a missing value
_RESPONSE = re.compile(r"r|cr|pr|pcr|mpr|sd|pd|.*respon.*")
#: (no, yes) as they are written, in lower case
BOOLEANS = (
    ("false", "true"), ("no", "yes"), ("0", "1"), ("f", "t"), ("n", "y"), ("nein", "ja"), ("falsch", "wahr"),
    ("faux", "vrai"), ("non", "oui"), ("n", "j"), ("falso", "verdadero"), ("falso", "vero"),
)  # fmt: skip
_BLANKS = re.compile(r"\s+")


def clean(text: str) -> str:
    """Return text as displayed: Unicode's composed form, no invisible characters, single plain blanks, none around."""
    if text.isascii() and "  " not in text and not any(c in text for c in "\t\r\n\v\f") and text == text.strip():
        return text
    composed = unicodedata.normalize("NFC", text)
    visible = "".join(c for c in composed if unicodedata.category(c) != "Cf")
    return _BLANKS.sub(" ", visible).strip()


def shell_quoted(text: str) -> str:
    """Return text in quotes as a shell reads it; what stands between them is not changed by the shell."""
    quoted = shlex.quote(text)
    return quoted if "'" in quoted else f"'{quoted}'"


def toml_quoted(text: str) -> str:
    """Return text in quotes as TOML reads it: as it stands, where it holds no quotation mark and no line break."""
    return f"'{text}'" if "'" not in text and text.isprintable() else json.dumps(text, ensure_ascii=False)


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
    words = clean(bare.replace("_", " ").replace("-", " "))
    return text in MISSING or bare in MISSING or words in MISSING or _ERROR.fullmatch(bare) is not None


def missing_codes(values: Iterable[str]) -> frozenset[str]:
    """Return the values that are codes of a missing one by the other values of the column.

    -1, -9, -99, ... where all others are 0, 1, 2, ... or 1, 2, ... or words; NR unless others tell of a response.
    """
    every = {value: whole_number(clean(value)) for value in set(values) if not is_missing(value)}
    codes = {value for value, text in every.items() if text in _CODES}
    others = {text for value, text in every.items() if value not in codes}
    numbers = all(re.fullmatch(r"\d+", text) for text in others) and bool({"0", "2"} & others) and "1" in others
    if not numbers and (len(others) < 2 or any(re.search(r"^[-+.,\d]+$", text) for text in others)):
        codes = set()
    reported = {value for value, text in every.items() if text.casefold() in ("nr", "n.r.", "n/r")}
    if any(_RESPONSE.fullmatch(text.casefold()) for value, text in every.items() if value not in reported):
        reported = set()
    return frozenset(codes | reported)


def minus_signs(values: Iterable[str]) -> frozenset[str]:
    """Return the values that are a minus sign where others are plus signs, +, ++ or (+): negative, and not missing."""
    bare = {value: clean(value).strip("() ") for value in set(values)}
    if not any(text and not text.strip("+") for text in bare.values()):
        return frozenset()
    return frozenset(value for value, text in bare.items() if text in ("-", "\u2212", "\u2013", "\u2014"))


def perhaps_codes(values: Iterable[str]) -> tuple[str, ...]:
    """Return 9, 99, 999 where all other values are 0, 1, 2, ... without a gap: they may stand for a missing value."""
    every = {whole_number(clean(value)) for value in values}
    others = every - {*_PERHAPS_CODES}
    if not others or not all(text.isascii() and text.isdigit() for text in others):
        return ()
    low, high = min(map(int, others)), max(map(int, others))
    whole = low in (0, 1) and high < 8 and high - low + 1 == len(others) > 1
    return tuple(sorted(every - others, key=int)) if whole else ()


def missing_names(names: Iterable[str]) -> frozenset[str]:
    """Return the names of patients or sites that are none: empty, words for a missing value, and -1, -9, -99, ...
    where all others are whole numbers from 0 on.
    """
    every = set(names)
    missing = {name for name in every if is_missing(name)}
    numbers = {name: whole_number(clean(name)) for name in every - missing}
    codes = {name for name, number in numbers.items() if number in _CODES}
    others = numbers.keys() - codes
    if others and all(re.fullmatch(r"\d+", numbers[name]) for name in others):
        missing |= codes
    return frozenset(missing)


def label_key(label: str) -> str:
    """Return what spellings of one class have in common: neither letter case, blanks nor invisible characters count."""
    text = whole_number(clean(label)).casefold()
    return without_zeros(text.replace(" ", ""))


def truth(cell: str) -> bool | None:
    """Return what a cell says that is yes or no, in one of the ways of `BOOLEANS`; None where it is neither."""
    text = whole_number(clean(cell)).casefold()
    return next((text == yes for no, yes in BOOLEANS if text in (no, yes)), None)


def key_of_labels(labels: Iterable[str]) -> Callable[[str], str]:
    """Return what spellings of one class have in common in a column: `label_key`, or where all say yes or no, which.

    Two letters for one thing, N and F, are two classes.
    """
    words = {whole_number(clean(label)).casefold() for label in labels if not is_missing(label)} - {"exclude"}
    sides = {word: truth(word) for word in words}
    letters = [side for word, side in sides.items() if len(word) == 1 and word.isalpha()]
    if not words or None in sides.values() or len(set(letters)) < len(letters):
        return label_key
    return lambda label: label_key(label) if truth(label) is None else str(truth(label))


def names_of_booleans(labels: Iterable[str]) -> dict[bool, str]:
    """Return which spelling names yes and which no, of one pair of `BOOLEANS`, so that yes comes last in any order."""
    times = Counter(labels)
    spelled: dict[str, list[str]] = {}
    for label in sorted(times, key=lambda v: (-times[v], v != clean(v), len(v), v)):
        spelled.setdefault(whole_number(clean(label)).casefold(), []).append(label)

    def weight(pair: tuple[str, str]) -> tuple[int, int]:
        return sum(word in spelled for word in pair), sum(times[v] for word in pair for v in spelled.get(word, []))

    pair = max(BOOLEANS, key=weight)
    partner = next(spelled[word][0] for word in pair if word in spelled)
    as_partner = str.upper if partner.isupper() and len(partner) > 1 else str.title if partner[0].isupper() else str
    return {yes: spelled[word][0] if word in spelled else as_partner(word)
            for yes, word in zip((False, True), pair, strict=True)}  # fmt: skip


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
    merged_groups: list[tuple[str, ...]] = []
    for name, group in groups.items():
        named = by_key.get(name, [])
        if len(named) > 1:  # which of them is meant is not known
            chosen |= {value: value for value in group}
            continue
        best = named[0] if named else min(group, key=lambda v: (-times[v], v != clean(v), len(v), v))
        chosen |= dict.fromkeys(group, best)
        others = sorted(value for value in group if value != best)
        if others:
            merged_groups.append((best, *others))
    return chosen, sorted(merged_groups)


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


def path_stem(path: str) -> str:
    """Return the name of a file without folders, Windows' ones too, and without its last ending."""
    name = re.split(r"[\\/]", path)[-1]
    return name.rpartition(".")[0] or name


def without_suffix(name: str, suffixes: Sequence[str]) -> str:
    """Return a name without the first of the suffixes that it ends in."""
    return name.removesuffix(next((suffix for suffix in suffixes if name.endswith(suffix)), ""))
