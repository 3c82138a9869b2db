"""Matching of ids: which name of one file is which name of another, from exact to looser, never by a guess.

Label tables, slide tables, split files and features name the same slides in several ways. Every step below sets one
more difference aside, and matches only where one name on either side is left: a name that matches several is
refused, and they are listed.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from ...formatting.text import some
from .spellings import clean, patient_key, whole_number, without_endings, without_suffix, without_zeros

#: what a name may go on with after a point without being another name: not a bare number, which counts
#: sections, nor a second name
_TAIL = re.compile(r"(?!\d{1,3}$)[\w.-]+")


@dataclass(frozen=True)
class Matching:
    """Names of one file and which names of another they are.

    Attributes:
        names: name -> known name, of all that match.
        other: (name, known name), of those that are not the same text.
        several: name -> known or other names, of those that fit more than one and hence none.
        lost: names without any.
    """

    names: dict[str, str]
    other: tuple[tuple[str, str], ...] = ()
    several: dict[str, tuple[str, ...]] = field(default_factory=dict)
    lost: tuple[str, ...] = ()

    def get(self, name: str) -> str:
        """Return the known name of a name, or the name itself."""
        return self.names.get(name, name)

    def lines(self, where: str, there: str) -> list[str]:
        """Return a line for every kind of difference that was set aside, with an example.

        Args:
            where: the file of the names; ``there``: that of the known names.
        """
        kinds: dict[str, list[tuple[str, str]]] = {}
        for given, known in self.other:
            kinds.setdefault(difference(given, known), []).append((given, known))
        lines = []
        for kind, pairs in sorted(kinds.items(), key=lambda item: (-len(item[1]), item[0])):
            name, differ = ("name", "differs") if len(pairs) == 1 else ("names", "differ")
            example = " is ".join(shown_apart(*pairs[0]))
            lines.append(
                f"{len(pairs)} {name} of {where} matched to {there}, which {differ} in {kind} alone: {example}"
            )
        return lines

    def ambiguous(self) -> str:
        """Return ``'a' matches 'b' and 'c'`` of the first names that match several, "" where there is none."""
        if not self.several:
            return ""
        name, candidates = next(iter(self.several.items()))
        rest = len(self.several) - 1
        return f"{name!r} matches {' and '.join(map(repr, candidates[:3]))}" + (
            f", and {rest} more such" if rest else ""
        )


def match_ids(given: Iterable[str], known: Iterable[str]) -> Matching:
    """Match names of slides.

    A name that differs from one that matches as it stands in blanks or in the ending of a file alone is that name
    again. The steps: the same text; blanks, invisible characters and Unicode's form; endings of files, ``100.0`` for
    ``100``, backslashes and a leading ``./``; letter case; zeros in front of numbers; folders; what follows a point,
    such as TCGA's UUID. A name that matches two known ones in a step, or two names that match one, have no match in
    that step or a later one. Nor do names in two folders, P00/s0 and P01/s0, where folders tell names of one file
    apart.

    Args:
        given: names to match, with repetitions.
        known: names that they may be.
    """
    return _match(list(dict.fromkeys(given)), list(dict.fromkeys(known)), _SLIDE_STEPS, after_point=True)


def match_patients(given: Iterable[str], known: Iterable[str]) -> Matching:
    """Match names of patients: letter case, blanks, invisible characters, ``100.0`` and zeros in front do not count."""
    return _match(list(dict.fromkeys(given)), list(dict.fromkeys(known)), (clean, patient_key), after_point=False)


def endings_note(cells: Sequence[str], suffixes: Sequence[str], where: str, there: str = "the features") -> list[str]:
    """Return a sentence about endings that ids have and those of another file do not, without a point."""
    ending = [cell for cell in dict.fromkeys(cells) if without_suffix(cell, suffixes) != cell]
    if not ending:
        return []
    name, differ = ("name", "differs") if len(ending) == 1 else ("names", "differ")
    taken = [suffix for suffix in suffixes if any(cell.endswith(suffix) for cell in ending)]
    return [f"{len(ending)} {name} of {where} matched to {there}, which {differ} in file ending alone "
            f"({some(taken, 8)}): {ending[0]!r} is {without_suffix(ending[0], suffixes)!r}"]  # fmt: skip


def difference(given: str, known: str) -> str:
    """Return in what two spellings of a name differ: ``letter case``, ``file ending and folder``."""
    if _reduced(given) != _reduced(known):
        return "what follows a point"
    needed = dict.fromkeys(what for what, _ in _PARTS if _reduced(given, what) != _reduced(known, what))
    named = list(needed) or ["spelling"]
    return named[0] if len(named) == 1 else f"{', '.join(named[:-1])} and {named[-1]}"


def shown_apart(first: str, second: str) -> tuple[str, str]:
    """Return two names in quotes, escaped where they would be displayed the same."""
    show = ascii if clean(first) == clean(second) else repr
    return show(first), show(second)


def near_pairs(lost: Sequence[str], others: Sequence[str], most: int = 5) -> list[tuple[str, str]]:
    """Return pairs of names that resemble each other, of the first names that are lost; each with its nearest."""
    plain = {_reduced(name): name for name in others}
    pairs = []
    for name in lost[: 4 * most]:
        close = difflib.get_close_matches(_reduced(name), plain, n=1, cutoff=0.75)
        if close:
            pairs.append((name, plain[close[0]]))
        if len(pairs) == most:
            break
    return pairs


def _slashes(name: str) -> str:
    name = name.replace("\\", "/")
    while name.startswith("./"):
        name = name[2:]
    return name


def _base(name: str) -> str:
    return name.rstrip("/").rpartition("/")[2] or name


def _light(name: str) -> str:
    return whole_number(without_endings(_slashes(clean(name))))


def _cased(name: str) -> str:
    return _light(name).casefold()


def _zeros(name: str) -> str:
    head, slash, last = _cased(name).rpartition("/")
    return head + slash + without_zeros(last)


def _zeros_lost(given: str, known: str) -> bool:
    """Whether one of two names is the other without its zeros in front, as spreadsheets leave it: not 010 of 0010."""
    one, other = _base(_cased(given)), _base(_cased(known))
    return one == other or without_zeros(one) != without_zeros(other) or without_zeros(one) in (one, other)


_SLIDE_STEPS: tuple[Callable[[str], str], ...] = (
    clean,
    _light,
    _cased,
    _zeros,
    lambda name: _base(_light(name)),
    lambda name: _base(_cased(name)),
    lambda name: _base(_zeros(name)),
)
#: steps in which two names are one even where both stand in one file: S000 and S000.svs
_SAME = (clean, _light)
#: the differences by name, in the order in which they are applied
_PARTS: tuple[tuple[str, Callable[[str], str]], ...] = (
    ("blanks, invisible characters or Unicode form", clean),
    ("folder", _slashes),
    ("folder", _base),
    ("file ending", without_endings),
    ("the point and zero of a real number", whole_number),
    ("letter case", str.casefold),
    ("leading zeros", without_zeros),
)


def _reduced(name: str, leave: str = "") -> str:
    for what, change in _PARTS:
        name = name if what == leave else change(name)
    return name


def _match(
    given: Sequence[str], known: Sequence[str], steps: Sequence[Callable[[str], str]], after_point: bool
) -> Matching:
    there = set(known)
    names = {name: name for name in given if name in there}
    several: dict[str, tuple[str, ...]] = {}
    left = [name for name in given if name not in names]
    taken = set(names.values())
    folders = _Folders(given, known)
    for step in steps:
        if not left:
            break
        mine, theirs = _grouped(left, step), _grouped(known, step)
        for key, group in mine.items():
            candidates = theirs.get(key, [])
            if len(group) == len(candidates) == 1 and folders.apart(group[0], candidates[0]):
                continue
            if len(group) == len(candidates) == 1 and not _zeros_lost(group[0], candidates[0]):
                continue
            if step in _SAME and len(candidates) == 1 and names.get(candidates[0]) == candidates[0]:
                names.update(dict.fromkeys(group, candidates[0]))  # the same once more: whether they agree shows later
                continue
            _settle(group, candidates, names, several, taken)
        left = [name for name in left if name not in names and name not in several]
    if after_point and left:
        for form in (_cased, lambda name: _base(_cased(name))):
            _after_point(left, known, form, names, several, taken, folders)
            left = [name for name in left if name not in names and name not in several]
    other = tuple((name, names[name]) for name in given if names.get(name, name) != name)
    return Matching(names, other, several, tuple(left))


class _Folders:
    """Whether the folders of two names make them two names: where some of one file differ in nothing else."""

    def __init__(self, *files: Sequence[str]) -> None:
        self._files = files

    @cached_property
    def _tell(self) -> bool:
        cased = [set(map(_cased, names)) for names in self._files]
        return any(len(set(map(_base, names))) < len(names) for names in cased)

    def apart(self, given: str, known: str) -> bool:
        """Return whether both names have folders, of which neither is the end of the other, and folders tell."""
        one, other = ([part for part in _cased(name).split("/") if part] for name in (given, known))
        both = min(len(one), len(other))
        return both > 1 and one[-both:-1] != other[-both:-1] and self._tell


def _grouped(names: Iterable[str], key: Callable[[str], str]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(key(name), []).append(name)
    return groups


def _settle(
    group: Collection[str], candidates: Sequence[str], names: dict[str, str], several: dict[str, tuple[str, ...]],
    taken: set[str],
) -> None:  # fmt: skip
    """Match one name with one known name; record the names that match several."""
    if not candidates:
        return
    if len(group) == 1 and len(candidates) == 1 and candidates[0] not in taken:
        (name,) = group
        names[name] = candidates[0]
        taken.add(candidates[0])
        return
    for name in group:
        rivals = [other for other in group if other != name]
        rivals += [other for other, known in names.items() if known in candidates and other not in candidates]
        several[name] = tuple(dict.fromkeys([*candidates, *rivals]))


def _after_point(
    left: Sequence[str], known: Sequence[str], key: Callable[[str], str], names: dict[str, str],
    several: dict[str, tuple[str, ...]], taken: set[str], folders: _Folders,
) -> None:  # fmt: skip
    """Match names of which one goes on after a point where the other ends."""
    theirs = _grouped(known, key)
    heads: dict[str, list[str]] = {}
    for name in known:
        for head in _heads(key(name)):
            heads.setdefault(head, []).append(name)
    claims: dict[tuple[str, ...], list[str]] = {}
    for name in left:
        mine = key(name)
        matches = [*heads.get(mine, []), *(known for head in _heads(mine) for known in theirs.get(head, []))]
        if matches and not (len(set(matches)) == 1 and folders.apart(name, matches[0])):
            claims.setdefault(tuple(dict.fromkeys(matches)), []).append(name)
    for candidates, group in claims.items():
        _settle(group, candidates, names, several, taken)


def _heads(name: str) -> list[str]:
    """Return the parts of a name before each of its points, but for what counts sections and for folders."""
    return [
        name[:at] for at, mark in enumerate(name)
        if mark == "." and at and "/" not in name[at:] and _TAIL.fullmatch(name[at + 1 :])
    ]  # fmt: skip
