"""Problems of folds: doubles, leaks, unknown ids, missing classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from ...atomic_io.publishing import name_problem
from ...formatting.text import count, some
from ..fold import Fold
from .findings import Finding

_PAIRS = (("train", "val"), ("train", "test"), ("val", "test"))


@dataclass(frozen=True)
class Known:
    """Labels, patients and features of the slides that folds name.

    Attributes:
        labels: slide -> class index.
        patients: slide -> patient.
        features: slides that have features; None: not checked.
        classes: names of the classes; None: their indices.
        guesses: slide -> patient by its barcode.
        already_reported: slides that another finding reports for want of features or label.
    """

    labels: Mapping[str, int]
    patients: Mapping[str, str]
    features: Collection[str] | None = None
    classes: Sequence[str] | None = None
    guesses: Mapping[str, str] = field(default_factory=dict)
    already_reported: Collection[str] = ()

    def named(self, label: int) -> str:
        """Return the name of a class."""
        return str(label if self.classes is None else self.classes[label])


def folds_findings(cohort: str, folds: Sequence[Fold], known: Known) -> list[Finding]:
    """List what is wrong with a cohort's folds, each by itself and all together."""
    if not folds:
        return [Finding.of("no-fold", cohort, "there is no fold; set split.folds or give split.files")]
    findings = []
    if twice := sorted(name for name, times in Counter(fold.name for fold in folds).items() if times > 1):
        findings.append(Finding.of("fold-name", cohort, f"two folds are named {some(twice)}; rename the files", twice))
    for name, problem in {fold.name: problem for fold in folds if (problem := name_problem(fold.name, ".csv"))}.items():
        text = f"a fold is named {name[:60]!r}, which cannot be the name of a file: it {problem}; rename it"
        findings.append(Finding.of("fold-name", cohort, text, [name]))
    for fold in folds:
        findings += fold_findings(cohort, fold, known)
    used = {slide for fold in folds for ids in fold.parts.values() for slide in ids}
    if idle := sorted(set(known.labels) - used - set(known.already_reported)):
        who = f"{count(len(idle), 'slide')} in no part of any fold: {some(idle)}"
        advice = "give them the label 'exclude' if that is meant"
        findings.append(Finding.of("unused-slide", cohort, f"{who}; {advice}", idle))
    return findings


def fold_findings(cohort: str, fold: Fold, known: Known) -> list[Finding]:
    """List what is wrong with one fold."""
    findings = [
        *_incomplete(fold, known),
        *(problem for pair in _PAIRS for problem in _shared(fold, *pair, known)),
        *_classes(fold, known),
    ]
    return [Finding.of(code, cohort, message, ids, fold.name) for code, message, ids in findings]


#: code, message, ids
_Problem = tuple[str, str, list[str]]


def _incomplete(fold: Fold, known: Known) -> list[_Problem]:
    findings: list[_Problem] = [
        ("empty-part", f"its {part} part is empty; give it slides", [])
        for part in ("train", "test")
        if not fold.parts[part]
    ]
    for part, ids in fold.parts.items():
        if twice := sorted(slide for slide, times in Counter(ids).items() if times > 1):
            who = f"{count(len(twice), 'slide')} twice in {part}: {some(twice)}"
            findings.append(("duplicate-row", f"{who}; remove the doubled rows", twice))
        for what, those in (("label", known.labels), ("features", known.features)):
            lacking = sorted(set(ids) - set(those) - set(known.already_reported)) if those is not None else []
            if lacking:
                who = f"{count(len(lacking), 'slide')} of {part} without {what}: {some(lacking)}"
                findings.append((f"split-without-{what}", f"{who}; add {what} or leave them out", lacking))
    return findings


def _shared(fold: Fold, first: str, second: str, known: Known) -> list[_Problem]:
    """List what two parts share: slides, else patients, else patients by their barcodes; each once."""
    a, b = fold.parts[first], fold.parts[second]
    findings: list[_Problem] = []
    slides = sorted(set(a) & set(b))
    if slides:
        who = f"{count(len(slides), 'slide')} both in {first} and in {second}: {some(slides)}"
        if second == "val" and set(b) <= set(a):
            advice = "validate on other patients than are trained on"
            findings.append(("val-in-train", f"val lies inside train, {who}; {advice}", slides))
        elif first == "val" and set(a) == set(b):
            advice = "a model must not be selected on the slides that test it"
            findings.append(("val-equals-test", f"val is the test part, {who}; {advice}", slides))
        else:
            findings.append(("slide-overlap", f"{who}; keep each in one part", slides))
    where = f"both in {first} and in {second}"
    patients = _owners(a, b, known.patients, slides)
    if patients:
        who = f"{count(len(patients), 'patient')} with slides {where}: {some(patients)}"
        findings.append(("patient-overlap", f"{who}; a patient belongs in one part", patients))
    same = [slide for slide in (*a, *b) if known.patients.get(slide) in patients]
    guessed = _owners(a, b, known.guesses, [*slides, *same])
    if guessed:
        who = f"{count(len(guessed), 'patient')}, by TCGA's barcodes, with slides {where}: {some(guessed)}"
        own = all(known.patients.get(slide) in (slide, None) for slide in (*a, *b))
        advice = f"name patients in patient_column{', or set patient_rule = ' + repr('^(.{12})') if own else ''}"
        findings.append(("guessed-patient-overlap", f"{who}; {advice}", guessed))
    return findings


def rare_class_findings(cohort: str, folds: Sequence[Fold], known: Known) -> list[Finding]:
    """List the folds that test one slide of a class, or none: their AUC means another thing than that of the others."""
    every = sorted(set(known.labels.values()))
    findings = []
    for fold in folds:
        tested = Counter(known.labels[slide] for slide in dict.fromkeys(fold.test) if slide in known.labels)
        if len(tested) < 2:  # a part of one class is an error by itself
            continue
        for number, words in ((0, "no slide"), (1, "one slide")):
            if rare := [label for label in every if tested[label] == number]:
                names = ", ".join(known.named(label) for label in rare)
                text = f"its test part holds {words} of class {names}, so its AUC means another thing than other folds'"
                ids = sorted({s for s in fold.test if known.labels.get(s) in rare})
                findings.append(Finding.of("rare-test-class", cohort, text, ids, fold=fold.name))
    return findings


def _owners(a: Sequence[str], b: Sequence[str], owner: Mapping[str, str], reported: Collection[str]) -> list[str]:
    """Return who has slides in both; without the owners of slides that are reported already."""
    both = {owner[s] for s in a if s in owner} & {owner[s] for s in b if s in owner}
    return sorted(both - {owner[slide] for slide in reported if slide in owner})


def _classes(fold: Fold, known: Known) -> list[_Problem]:
    findings: list[_Problem] = []
    present = {
        part: {known.labels[slide] for slide in ids if slide in known.labels} for part, ids in fold.parts.items()
    }
    for part, labels in present.items():
        if len(labels) == 1:
            only = known.named(next(iter(labels)))
            text = f"its {part} part holds class {only} only; every part needs two classes or more"
            findings.append(("one-class", text, sorted(set(fold.parts[part]))))
    unseen = present["test"] - present["train"]
    # A training part of one class, or of none, is reported above.
    if unseen and len(present["train"]) > 1:
        names = ", ".join(known.named(label) for label in sorted(unseen))
        text = f"class {names} is tested but not in train; move some of its slides there"
        findings.append(("untrained-class", text, sorted({s for s in fold.test if known.labels.get(s) in unseen})))
    return findings
