"""Folds: which slides train, validate and test. Readers of published split files, k-fold by patient, and checks."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path

import numpy as np

from ..errors import MilbenchError
from ..spec import SplitSpec
from .tables import count, read_table, some

PARTS = ("train", "val", "test")


@dataclass(frozen=True)
class Fold:
    """A division of slides into training, validation and test; ``val`` may be empty.

    Attributes:
        name: its name in results: ``r0-f3`` of a k-fold, the file's stem of a published split.
        train, val, test: slide ids.
    """

    name: str
    train: tuple[str, ...]
    val: tuple[str, ...]
    test: tuple[str, ...]

    @property
    def parts(self) -> dict[str, tuple[str, ...]]:
        """The three parts by name."""
        return {"train": self.train, "val": self.val, "test": self.test}

    def without(self, slides: Collection[str]) -> Fold:
        """Return the fold without some slides."""
        return Fold(self.name, *(tuple(s for s in ids if s not in slides) for ids in self.parts.values()))


def read_fold(path: str | Path) -> Fold:
    """Read a split file, of whichever of these forms its header shows; ids are text, their order is kept.

    - TransMIL ``fold{k}.csv`` and CLAM ``splits_{k}.csv``: columns train, val, test, ragged (TransMIL adds labels,
      which are not read: labels have one home).
    - CLAM ``splits_{k}_bool.csv``: the slide id, then the columns train, val, test with True or False.
    - milbench: columns slide_id and split (train, val or test; empty: in no part).

    Raises:
        MilbenchError: the file cannot be read or has none of these forms.
    """
    path = Path(path)
    header, rows = read_table(path)
    if {"slide_id", "split"} <= set(header):
        slide, split = header.index("slide_id"), header.index("split")
        unknown = sorted({row[split] for row in rows} - {*PARTS, ""})
        if unknown:
            raise MilbenchError(f"{path} has splits {some(unknown)}; they must be train, val or test.")
        parts = [tuple(row[slide] for row in rows if row[split] == part) for part in PARTS]
        return Fold(path.stem, *parts)
    if not {"train", "test"} <= set(header):
        raise MilbenchError(
            f"{path} has columns {some(header)}; a split file has train, val, test (one id a cell) or slide_id, split."
        )
    columns = {part: [row[header.index(part)] for row in rows] if part in header else [] for part in PARTS}
    values = {value.lower() for column in columns.values() for value in column}
    if values and values <= {"true", "false"}:
        # A table of booleans, the slide in its first column.
        chosen = {part: [value.lower() == "true" for value in column] for part, column in columns.items()}
        ids = [row[0] for row in rows]
        return Fold(path.stem, *(tuple(compress(ids, chosen[part])) for part in PARTS))
    return Fold(path.stem, *(tuple(value for value in columns[part] if value) for part in PARTS))


def read_folds(files: str, base: Path) -> list[Fold]:
    """Read all folds a template names.

    Args:
        files: a path, with ``{k}`` for the fold number where there are several: all that exist, in order.
        base: where relative paths start.

    Raises:
        MilbenchError: no such file.
    """
    template = base / Path(files).expanduser()
    if "{k}" not in files:
        return [read_fold(template)]
    if "{k}" not in template.name:
        raise MilbenchError(f"{files!r} must have {{k}} in the file's name, such as splits/fold{{k}}.csv.")
    before, _, after = template.name.partition("{k}")
    pattern = re.compile(re.escape(before) + r"(\d+)" + re.escape(after))
    present = template.parent.iterdir() if template.parent.is_dir() else ()
    found = sorted((int(m[1]), p) for p in present if (m := pattern.fullmatch(p.name)))
    if not found:
        raise MilbenchError(f"no file fits {template}; {{k}} stands for the fold number, as in fold0.csv.")
    return [read_fold(path) for _, path in found]


def stratified_folds(ids: Sequence[str], patients: Mapping[str, str], labels: Mapping[str, int],
                     spec: SplitSpec, classes: Sequence[str] | None = None) -> list[Fold]:  # fmt: skip
    """Make ``spec.repeats`` x ``spec.folds`` folds, by patient, stratified, decided by ``spec.seed`` alone.

    Patients are grouped into strata by the set of their slides' labels. Each repetition shuffles every stratum and
    deals the patients out like cards, stratum after stratum without starting over, so that the folds' numbers of
    patients differ by at most one, in all and in every stratum. Fold i tests on hand i; of the remaining patients of
    every stratum a share of ``spec.val_fraction`` (at least one, never all) is drawn for validation. The order of
    ``ids`` does not matter.

    Args:
        ids: slides.
        patients: slide -> patient.
        labels: slide -> class index.
        spec: folds, repeats, val_fraction, seed.
        classes: names of the classes, for messages.

    Returns:
        Folds named ``r{repeat}-f{fold}``, their slides sorted.

    Raises:
        MilbenchError: a class has fewer patients than there are folds.
    """
    slides: dict[str, list[str]] = {}
    for slide in sorted(ids):
        slides.setdefault(patients[slide], []).append(slide)
    strata = _strata(slides, labels)
    for label in sorted({labels[slide] for slide in ids}):
        having = sum(len(members) for stratum, members in strata.items() if label in stratum)
        if having < spec.folds:
            named = label if classes is None else repr(classes[label])
            mend = f"set split.folds to {having} or less" if having > 1 else "add patients of this class"
            raise MilbenchError(
                f"class {named} has {count(having, 'patient')}, too few for {spec.folds} folds; "
                f"{mend}, or give split.files."
            )
    folds = []
    for repeat in range(spec.repeats):
        rng = np.random.default_rng([spec.seed, repeat])
        dealt = [str(p) for key in sorted(strata) for p in rng.permutation(np.array(strata[key], dtype=object))]
        for k in range(spec.folds):
            test = set(dealt[k :: spec.folds])
            rest = sorted(set(slides) - test)
            val = _carve(rest, _strata({p: slides[p] for p in rest}, labels), spec.val_fraction, [spec.seed, repeat, k])
            folds.append(_fold(f"r{repeat}-f{k}", slides, set(rest) - val, val, test))
    return folds


def carve_validation(fold: Fold, patients: Mapping[str, str], labels: Mapping[str, int], fraction: float,
                     seed: Sequence[int]) -> Fold:  # fmt: skip
    """Return a fold whose validation is drawn from its training patients, stratified as in `stratified_folds`."""
    slides: dict[str, list[str]] = {}
    for slide in sorted(fold.train):
        slides.setdefault(patients[slide], []).append(slide)
    val = _carve(sorted(slides), _strata(slides, labels), fraction, seed)
    made = _fold(fold.name, slides, set(slides) - val, val, set())
    return Fold(fold.name, made.train, made.val, fold.test)


def check_folds(folds: Sequence[Fold], labels: Mapping[str, int], patients: Mapping[str, str],
                features: Collection[str] | None = None, classes: Sequence[str] | None = None) -> None:  # fmt: skip
    """Refuse folds that would flatter a number or fail in the middle of a run.

    Args:
        folds: at least one, with distinct names.
        labels: slide -> class index.
        patients: slide -> patient.
        features: slides that have features; None: not checked.
        classes: names of the classes, for messages.

    Raises:
        MilbenchError: no fold, two of one name, or the first problem of the first fold that has one, see
            `fold_problems`.
    """
    if not folds:
        raise MilbenchError("there is no fold; set split.folds or give split.files.")
    names = [fold.name for fold in folds]
    if len(set(names)) < len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise MilbenchError(f"two folds are named {some(twice)}; rename the files.")
    for fold in folds:
        problems = fold_problems(fold, labels, patients, features, classes)
        if problems:
            more = f" (and {count(len(problems) - 1, 'more problem')} of this fold)" if len(problems) > 1 else ""
            raise MilbenchError(f"fold {fold.name}: {problems[0]}{more}.")


def fold_problems(
    fold: Fold,
    labels: Mapping[str, int],
    patients: Mapping[str, str],
    features: Collection[str] | None = None,
    classes: Sequence[str] | None = None,
) -> list[str]:
    """List what is wrong with a fold, one clause each: doubles, leaks, unknown ids, missing classes."""
    found = [f"its {part} part is empty" for part in ("train", "test") if not fold.parts[part]]
    for part, ids in fold.parts.items():
        twice = sorted({slide for slide in ids if ids.count(slide) > 1}) if len(set(ids)) < len(ids) else []
        if twice:
            found.append(f"{count(len(twice), 'slide')} twice in {part}: {some(twice)}; remove the doubled rows")
        for what, known in (("label", labels), ("features", features)):
            lacking = sorted(set(ids) - set(known)) if known is not None else []
            if lacking:
                who = f"{count(len(lacking), 'slide')} of {part} without {what}: {some(lacking)}"
                found.append(f"{who}; add {what} or leave them out")
    for first, second in (("train", "val"), ("train", "test"), ("val", "test")):
        a, b = fold.parts[first], fold.parts[second]
        shared = sorted(set(a) & set(b))
        if shared:
            found.append(
                f"{count(len(shared), 'slide')} both in {first} and in {second}: {some(shared)}; keep each in one part"
            )
        both = sorted({patients[s] for s in a if s in patients} & {patients[s] for s in b if s in patients})
        both = [patient for patient in both if patient not in {patients.get(slide) for slide in shared}]
        if both:
            found.append(
                f"{count(len(both), 'patient')} with slides both in {first} and in {second}: {some(both)}; "
                f"a patient belongs in one part"
            )
    for part, ids in fold.parts.items():
        present = {labels[slide] for slide in ids if slide in labels}
        if len(present) == 1:
            only = next(iter(present))
            named = classes[only] if classes is not None else only
            found.append(f"its {part} part holds class {named} only; every part needs two classes or more")
    unseen = {labels[s] for s in fold.test if s in labels} - {labels[s] for s in fold.train if s in labels}
    if unseen and fold.train:
        named_all = ", ".join(str(classes[c] if classes is not None else c) for c in sorted(unseen))
        found.append(f"class {named_all} is tested but not in train; move some of its slides there")
    return found


def _strata(slides: Mapping[str, list[str]], labels: Mapping[str, int]) -> dict[tuple[int, ...], list[str]]:
    strata: dict[tuple[int, ...], list[str]] = {}
    for patient in sorted(slides):
        strata.setdefault(tuple(sorted({labels[slide] for slide in slides[patient]})), []).append(patient)
    return strata


def _carve(
    rest: list[str], strata: Mapping[tuple[int, ...], list[str]], fraction: float, seed: Sequence[int]
) -> set[str]:
    if fraction <= 0 or not rest:
        return set()
    rng = np.random.default_rng([*seed, 1])
    val: set[str] = set()
    for key in sorted(strata):
        members = strata[key]
        number = min(len(members) - 1, max(1, int(fraction * len(members) + 0.5)))
        val |= {str(p) for p in rng.permutation(np.array(members, dtype=object))[:number]}
    return val


def _fold(name: str, slides: Mapping[str, list[str]], train: set[str], val: set[str], test: set[str]) -> Fold:
    parts = (tuple(sorted(slide for patient in part for slide in slides[patient])) for part in (train, val, test))
    return Fold(name, *parts)
