"""Patients that names of slides seem to tell: CAMELYON17's patient_000_node_0, an institution's H21-1234_A."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

#: a block, level or counter that follows a patient: 1, 02, A, B2, II, DX1, node_3, slide 2
_COUNTER = r"(?:[-_. ]+(?:[A-Za-z&]{2,8}[-_. ]*\d{1,2}|[A-Za-z]\d{0,2}|\d{1,2}[A-Za-z]?|[IVXivx]{1,4}|HE|H&E|he))"
#: rules that are tried in turn: what is known by its form, then by a word, then by what follows a number
_RULES = (
    r"^(TCGA-[A-Za-z0-9]{2}-[A-Za-z0-9]{4})(?![A-Za-z0-9])",
    r"^(C3[LN]-\d{5})(?!\d)",
    r"^(GTEX-[A-Za-z0-9]{4,5})(?![A-Za-z0-9])",
    r"(?i)^((?:patient|pat|pt|case|subject|subj|sub|donor|participant)[-_ ]?\d+)(?!\d)",
    rf"^(.*?\d{{2,}}){_COUNTER}+$",
    rf"^(.*\d){_COUNTER}$",
    r"^(.*\d)[A-Z]\d{0,2}$",
    r"(?i)^(.*[^\W_])[-_. ](?:dx|node|slide|block|section|sec|level|img|image)[-_. ]?\d{1,2}$",
)
#: limits on the slides of a patient, and on the share of slides that a rule must cover
_MOST_SLIDES, _MEAN_SLIDES, _SHARE = 40, 15, 0.9


@dataclass(frozen=True)
class Likely:
    """What names of slides seem to tell.

    Attributes:
        patients: slide -> patient, of the slides that the rule covers.
        rule: a regular expression with one group, as ``patient_rule`` takes it.
        whole: whether the rule covers all slides.
    """

    patients: dict[str, str]
    rule: str
    whole: bool

    @property
    def said(self) -> str:
        """A clause with an example and the counts."""
        several = [slide for slide, patient in self.patients.items() if _several(self.patients)[patient] > 1]
        patients = len(set(self.patients.values()))
        return (
            f"names such as {several[0]!r} may be several slides of one patient ({len(self.patients)} slides, "
            f"{patients} patients)"
        )

    def shared(self, sides: Iterable[tuple[Iterable[str], Iterable[str]]]) -> int:
        """Return the largest number of these patients on both sides, over (training, test) slides of folds."""
        most = 0
        for train, test in sides:
            both = {self.patients.get(s) for s in train} & {self.patients.get(s) for s in test}
            most = max(most, len(both - {None}))
        return most


def likely_patients(slides: Iterable[str]) -> Likely | None:
    """Return the patients that names of slides seem to tell, None where they tell none.

    A rule counts where it covers nearly all slides, leaves three patients or more, joins slides of two or more
    patients, and gives no patient more slides than one has. Names that are a word and a running number tell nothing.
    """
    names = list(dict.fromkeys(slides))
    for rule in _RULES:
        pattern = re.compile(rule)
        matches = {name: match[1] for name in names if (match := pattern.search(_base(name)))}
        if len(matches) < max(3, _SHARE * len(names)) or not _plausible(matches):
            continue
        if (plain := _plainer(matches)) is not None:
            return Likely(matches, plain, len(matches) == len(names))
        if all(pattern.search(name) is not None for name in matches):  # folders do not keep the rule from working
            return Likely(matches, rule, len(matches) == len(names))
        folder = rule.replace("^", "^(?:.*/)?", 1)
        return Likely(matches, folder, len(matches) == len(names))
    return None


def _plainer(patients: Mapping[str, str]) -> str | None:
    """Return a rule that is easily read and gives the same patients, None where there is none of these forms."""
    first = next(iter(patients.values()))
    word = re.match(r"[A-Za-z]+[-_ ]?(?=\d+$)", first)
    tried = [rf"^({re.escape(word[0])}\d+)"] if word is not None else []
    tried += [rf"^(.+){mark}[^{mark}]+$" for mark in ("_", "-")] + [r"^([^_]+)_", r"^([^-]+)-", r"^(\d+)"]
    for rule in tried:
        pattern = re.compile(rule)
        if all((match := pattern.search(name)) and match[1] == patient for name, patient in patients.items()):
            return rule
    return None


def _plausible(patients: Mapping[str, str]) -> bool:
    sizes = _several(patients)
    joined = sum(size > 1 for size in sizes.values())
    return (
        len(sizes) >= 3
        and joined >= 2
        and max(sizes.values()) <= _MOST_SLIDES
        and len(patients) / len(sizes) <= _MEAN_SLIDES
    )


def _several(patients: Mapping[str, str]) -> Counter[str]:
    return Counter(patients.values())


def _base(name: str) -> str:
    return name.rpartition("/")[2] or name
