"""Label cells to classes: spellings of one class, missing values, numbers and lists of labels that are no classes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from ...errors import MilbenchError
from ...formatting.text import count, some
from ...tasks.classification import plain_label
from ..names.spellings import (
    clean,
    is_missing,
    key_of_labels,
    label_key,
    merged,
    minus_signs,
    missing_codes,
    names_of_booleans,
    perhaps_codes,
    said_of,
    shell_quoted,
    truth,
)

#: a row with this label leaves its slide out, knowingly
EXCLUDE = "exclude"
#: marks between the labels of a cell that holds several; those of the second kind stand in names of classes as well
_LISTS, _PERHAPS = ";|\n", ",/+&"
#: more different values than this are a quantity or names, not classes, where few slides share one
_MOST_CLASSES, _FEWEST_SLIDES = 10, 5


@dataclass(frozen=True)
class Values:
    """The label cells of a table, read.

    Attributes:
        classes: slide -> class name, of the slides whose cell holds one.
        missing: slide -> its cell, where that is how tools write a missing value.
        merged: spellings of one class, the one that is kept first.
        doubtful: classes that may stand for a missing value, 99 among 0 and 1.
    """

    classes: dict[str, str]
    missing: dict[str, str]
    merged: tuple[tuple[str, ...], ...] = ()
    doubtful: tuple[str, ...] = ()

    def notes(self, where: str) -> list[str]:
        """Return a sentence about spellings that count as one class, and one about doubtful classes, no points."""
        notes = []
        if self.merged:
            booleans = all(truth(name) is not None for group in self.merged for name in group)
            difference = "both say yes or both no" if booleans else "differ in letter case, blanks or invisible " \
                    "characters alone"  # fmt: skip
            notes.append(f"classes of {where} that {difference} are one: {said_of(self.merged)}")
        return notes + [
            f"{name!r} counts as a class of {where}; if it stands for a missing value, leave its slides out with "
            f"--exclude-class {shell_quoted(name)} of init, or with the label {EXCLUDE!r}"
            for name in self.doubtful
        ]


def is_excluded(cell: str) -> bool:
    """Whether a label leaves its slide out."""
    return clean(cell).casefold() == EXCLUDE


def read_values(
    cells: Mapping[str, str], column: str, where: str, classes: Sequence[str] | None, keep: Collection[str] = ()
) -> Values:
    """Read label cells.

    Args:
        cells: slide -> cell, of slides that are not excluded.
        column, where: of them, for messages.
        classes: the classes, where they are named; a cell that is spelled in another way stands for one of them.
        keep: classes that are named while the others are to be recognised; they may resemble missing values.

    Raises:
        MilbenchError: the values are a quantity or names, or cells hold several labels; unless classes are named.
    """
    plain = {slide: plain_label(cell) for slide, cell in cells.items()}
    named = tuple(plain_label(name) for name in (classes if classes is not None else keep))
    codes = missing_codes(plain.values()) if classes is None else frozenset()
    negative = minus_signs(plain.values())
    missing = {
        slide: cells[slide]
        for slide, value in plain.items()
        if value not in named and value not in negative and (is_missing(value) or value in codes)
    }
    kept = {slide: value for slide, value in plain.items() if slide not in missing}
    key = key_of_labels([*kept.values(), *named])
    chosen, groups = merged(kept.values(), key, named)
    if groups and key is not label_key and not named:
        names = names_of_booleans(kept.values())
        chosen = {value: names[truth(value) is True] for value in chosen}
        groups = [(name, *(v for v in sorted(chosen) if chosen[v] == name != v)) for name in sorted(names.values())]
        groups = [group for group in groups if len(group) > 1]
    if classes is None:
        class_of = {slide: chosen[value] for slide, value in kept.items() if value not in named}
        _refuse_lists(class_of, column, where)
        _refuse_quantity(class_of, column, where)
    doubtful = perhaps_codes(kept.values()) if classes is None else ()
    doubtful = tuple(name for name in doubtful if name not in named)
    return Values({slide: chosen[value] for slide, value in kept.items()}, missing, tuple(groups), doubtful)


def said_missing(missing: Mapping[str, str]) -> str:
    """Return how often each word for a missing value stands, ``'NA' (3), 'Unknown' (2)``; "" where cells are empty."""
    words = Counter(cell for cell in missing.values() if cell)
    return ", ".join(f"{word!r} ({number})" for word, number in sorted(words.items(), key=lambda e: (-e[1], e[0])))


def _refuse_lists(values: Mapping[str, str], column: str, where: str) -> None:
    """Refuse cells with several labels: 'MSI;BRAF' and 'BRAF;MSI' would be two classes."""
    times = Counter(values.values())
    keys = {label_key(value) for value in times}
    by_parts: dict[frozenset[str], list[str]] = {}
    split: dict[str, list[str]] = {}
    for value in times:
        if re.fullmatch(r"\d\s*\+\s*\d(\s*=\s*\d+)?", value):  # Gleason's sum of the first and the second pattern
            continue
        for marks in (_LISTS, _PERHAPS):
            parts = [label_key(part) for part in re.split(f"[{re.escape(marks)}]", value) if part.strip()]
            if len(parts) > 1:
                split[value] = parts
                by_parts.setdefault(frozenset(parts), []).append(value)
                break
    uses = Counter(part for parts in split.values() for part in set(parts))
    several = []
    for value, parts in split.items():
        inside = [part in keys for part in parts]
        sure = any(mark in value for mark in _LISTS)
        twice = len(by_parts[frozenset(parts)]) > 1
        if twice or all(inside) or (sure and (any(inside) or any(uses[part] > 1 for part in parts))):
            several.append(value)
    if several:
        slides = sum(times[value] for value in several)
        raise MilbenchError(
            f"column {column!r} of {where} holds several labels in a cell, {some(sorted(several), 4)} in "
            f"{count(slides, 'slide')}: several labels a slide are not supported, so give a column of one label, or "
            "name the combinations that are classes (classes in [[data]], --class of init).",
            code="labels-several-values",
        )


def _refuse_quantity(values: Mapping[str, str], column: str, where: str) -> None:
    """Refuse values that are a quantity, such as months of survival, or names, of which every slide has its own."""
    distinct = set(values.values())
    numbers = [number for value in distinct if (number := _number(value)) is not None]
    advice = (
        "bin it into classes in a column of its own (milbench compares classifiers; it has no regression or survival)"
    )
    said = f"column {column!r} of {where} has {count(len(distinct), 'value')} in {count(len(values), 'slide')}"
    if len(numbers) == len(distinct) and len(numbers) > 2:
        whole = all(number.is_integer() for number in numbers)
        low, high = min(numbers), max(numbers)
        counted = whole and low in (0, 1) and high - low + 1 == len(numbers)
        few = len(values) < _FEWEST_SLIDES * len(numbers)
        if len(numbers) > 5 if not whole else len(numbers) > _MOST_CLASSES and (few or not counted):
            raise MilbenchError(
                f"{said}, {low:g} to {high:g}: it is a number, not a class; {advice}, or name the classes (classes in "
                "[[data]], --class of init).",
                code="labels-no-classes",
            )
    elif len(distinct) > _MOST_CLASSES and 2 * len(distinct) > len(values):
        raise MilbenchError(
            f"{said}, such as {some(sorted(distinct), 3)}: these are names or free text, not classes; name another "
            "column, or name the classes (classes in [[data]], --class of init).",
            code="labels-no-classes",
        )


def _number(value: str) -> float | None:
    text = value.replace(",", ".") if re.fullmatch(r"[+-]?\d+,\d+", value) else value
    try:
        return float(text)
    except ValueError:
        return None
