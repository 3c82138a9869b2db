"""Whether the positive class, the last of the sorted names, is the one that is meant."""

from __future__ import annotations

import re
from collections import Counter

from ..labels.table import Labels
from .findings import Finding
from .loaded_cohort import Subject

#: Names of classes that are the negative ones: wild types, stable genomes, benign tissue, controls.
_NEGATIVE = re.compile(
    r"(?i)(wt|wild[ _-]?type|mss|non[ _-]?.*|no|none|neg(ative)?|normal|benign|control|healthy|stable|absent|false|low"
    r"|0)"
)

#: Share of the slides from which on the positive class is remarked upon.
MAJORITY = 0.55


def hint(labels: Labels) -> str | None:
    """Return a sentence where the positive class of two may not be the one that is meant; None where it may well be."""
    if len(labels.classes) != 2:
        return None
    negative, positive = labels.classes
    counts = Counter(labels.strata[slide] for slide in labels.slides)
    share = counts[1] / max(1, sum(counts.values()))
    named = _NEGATIVE.fullmatch(positive.strip()) and not _NEGATIVE.fullmatch(negative.strip())
    if not named and share <= MAJORITY:
        return None
    why = "its name says that it is the negative one" if named else f"{share:.0%} of the slides are of it"
    return (
        f"the positive class is {positive!r}, the last of the sorted names, and {why}; average precision and F1 are of "
        f"it: set classes = [{positive!r}, {negative!r}] if {negative!r} is meant"
    )


def positive_findings(subject: Subject) -> list[Finding]:
    """Say where the positive class may not be the one that is meant and the suite does not name the classes."""
    if subject.spec.classes is not None or subject.spec.dataset is not None:
        return []
    text = hint(subject.labels)
    return [] if text is None else [Finding.of("positive-class", subject.name, text)]
