"""Schemes: folds made here, by patient, stratified, decided by the seed alone; and the record of how they were made."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...atomic_io.folders import write_atomic
from ...config import SplitSpec, digest
from ...errors import MilbenchError
from ...formatting.text import count
from ..fold import Fold
from ..labels.table import Labels
from .files import read_fold
from .sites import assign_sites, site_groups, sites_of

#: Raised when a scheme makes other folds than before of the same cohort, parameters and seed.
SPLIT_VERSION = 1
#: what belongs to each scheme's record
_PARAMETERS = {
    "k-fold": ("folds", "repeats", "val_fraction"), "monte-carlo": ("repeats", "test_fraction", "val_fraction"),
    "held-out": ("test_fraction", "val_fraction"), "site-preserved": ("folds", "site_column", "val_fraction"),
    "files": ("files", "val_fraction"), "published": ("val_fraction",),
}  # fmt: skip
_DRAWS = 1000

Strata = Mapping[tuple[int, ...], list[str]]


def make_folds(labels: Labels, spec: SplitSpec) -> list[Fold]:
    """Make the folds of ``spec.scheme``.

    Raises:
        MilbenchError: the cohort is too small for it; the sentence says in what.
    """
    ids, patients, values, classes = labels.slides, labels.patients, labels.strata, labels.classes
    if spec.scheme == "k-fold":
        return stratified_folds(ids, patients, values, spec, classes)
    if spec.scheme == "site-preserved":
        return site_preserved_folds(ids, patients, values, sites_of(labels), spec, classes)
    return monte_carlo_folds(ids, patients, values, spec, classes)


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
    slides = _slides_of(ids, patients)
    strata = _strata(slides, labels)
    for label, having in _patients_by_class(strata).items():
        if having < spec.folds:
            advice = f"set split.folds to {having} or less" if having > 1 else "add patients of this class"
            raise MilbenchError(
                f"class {_named(label, classes)} has {count(having, 'patient')}, too few for {spec.folds} folds; "
                f"{advice}, or give split.files.",
                code="folds-impossible",
            )
    folds = []
    for repeat in range(spec.repeats):
        dealt = _shuffled(strata, np.random.default_rng([spec.seed, repeat]))
        for k in range(spec.folds):
            test = set(dealt[k :: spec.folds])
            folds.append(_validated(f"r{repeat}-f{k}", slides, labels, test, spec, [repeat, k]))
    return folds


def monte_carlo_folds(ids: Sequence[str], patients: Mapping[str, str], labels: Mapping[str, int],
                      spec: SplitSpec, classes: Sequence[str] | None = None) -> list[Fold]:  # fmt: skip
    """Draw ``spec.repeats`` test parts independently of each other, or one for the scheme ``held-out``.

    Patients are shuffled within strata as in `stratified_folds`, and every n/m-th of them is tested, from a start drawn
    at random: m, the share ``spec.test_fraction`` of the n patients, is kept exactly; a stratum's share to within one
    patient; and every patient is equally likely to be tested. A draw whose test or training part lacks a class is drawn
    again. Validation is drawn as in `stratified_folds`.

    Args:
        ids, patients, labels, classes: see `stratified_folds`.
        spec: scheme, repeats, test_fraction, val_fraction, seed.

    Returns:
        Folds named ``mc{repeat}``, or the one named ``held-out``, their slides sorted.

    Raises:
        MilbenchError: a class has one patient, or so few that no draw has it on both sides.
    """
    slides = _slides_of(ids, patients)
    strata = _strata(slides, labels)
    having = _patients_by_class(strata)
    rarest = min(having, key=lambda label: having[label])
    few = f"class {_named(rarest, classes)} has {count(having[rarest], 'patient')}"
    if having[rarest] < 2:
        raise MilbenchError(
            f"{few}, and training and test need one each; add patients of this class.", code="folds-impossible"
        )
    n = len(slides)
    m = min(n - 1, max(1, int(spec.test_fraction * n + 0.5)))
    folds = []
    for repeat in range(1 if spec.scheme == "held-out" else spec.repeats):
        for draw in range(_DRAWS):
            rng = np.random.default_rng([spec.seed, repeat, draw, 2])
            order, start = _shuffled(strata, rng), int(rng.integers(n))
            test = {order[(i * n + start) // m] for i in range(m)}
            sides = (_strata({p: slides[p] for p in side}, labels) for side in (test, set(slides) - test))
            if all(len(_patients_by_class(side)) == len(having) for side in sides):
                break
        else:
            raise MilbenchError(
                f"{few}, and in {_DRAWS} draws of {count(m, 'test patient')} no test part had every class; "
                "raise split.test_fraction, or give split.files.",
                code="folds-impossible",
            )
        name = "held-out" if spec.scheme == "held-out" else f"mc{repeat}"
        folds.append(_validated(name, slides, labels, test, spec, [repeat]))
    return folds


def site_preserved_folds(ids: Sequence[str], patients: Mapping[str, str], labels: Mapping[str, int],
                         sites: Mapping[str, str], spec: SplitSpec,
                         classes: Sequence[str] | None = None) -> list[Fold]:  # fmt: skip
    """Make ``spec.folds`` folds that test every site's patients together.

    Slides of one site share staining and scanner, from which a model can tell the site and, where sites differ in their
    patients, the label: tested on sites it has seen, it appears better than it is (Howard et al., The impact of site-
    specific digital histology signatures on deep learning model accuracy and bias, Nature Communications 2021). Folds
    are balanced by `assign_sites`; validation is drawn from the training patients, of all their sites, as in
    `stratified_folds`.

    Args:
        ids, patients, labels, classes: see `stratified_folds`.
        sites: slide -> site; sites that share a patient are kept together.
        spec: folds, val_fraction, seed.

    Returns:
        Folds named ``r0-f{fold}``, their slides sorted.

    Raises:
        MilbenchError: there are fewer sites than folds, a class comes from one site, or the search yields no division
            in which every fold tests two classes or more and trains on every class.
    """
    slides = _slides_of(ids, patients)
    groups = site_groups(slides, sites)
    strata = _strata(slides, labels)
    if len(groups) < spec.folds:
        advice = f"set split.folds to {len(groups)} or less" if len(groups) > 1 else "use another split.scheme"
        raise MilbenchError(
            f"the patients come from {count(len(groups), 'site')}, too few for {spec.folds} folds; {advice}.",
            code="folds-impossible",
        )
    site_of = {patient: site for site, members in groups.items() for patient in members}
    for label in _patients_by_class(strata):
        homes = {site_of[patient] for key, members in strata.items() if label in key for patient in members}
        if len(homes) < 2:
            raise MilbenchError(
                f"class {_named(label, classes)} comes from site {min(homes)!r} alone, so that no fold can train on it "
                "and test it; use another split.scheme, or leave the class out.",
                code="folds-impossible",
            )
    tests = assign_sites(groups, strata, spec.folds, spec.seed)
    every = set(_patients_by_class(strata))
    tested = [set(_patients_by_class(_strata({p: slides[p] for p in test}, labels))) for test in tests]
    rest = [set(_patients_by_class(_strata({p: slides[p] for p in set(slides) - test}, labels))) for test in tests]
    if any(len(classes_present) < 2 for classes_present in tested) or any(
        classes_present != every for classes_present in rest
    ):
        raise MilbenchError(
            f"the search yields no division of {count(len(groups), 'site')} into {spec.folds} folds in which every "
            "fold tests two classes or more and trains on all; set split.folds to less, or use another split.scheme.",
            code="folds-impossible",
        )
    return [_validated(f"r0-f{k}", slides, labels, test, spec, [0, k]) for k, test in enumerate(tests)]


def carve_validation(fold: Fold, patients: Mapping[str, str], labels: Mapping[str, int], fraction: float,
                     seed: Sequence[int]) -> Fold:  # fmt: skip
    """Return a fold whose validation is drawn from its training patients, stratified as in `stratified_folds`."""
    slides = _slides_of(fold.train, patients)
    val = _carve(_strata(slides, labels), fraction, seed)
    made = _fold(fold.name, slides, set(slides) - val, val, set())
    return Fold(fold.name, made.train, made.val, fold.test)


@dataclass(frozen=True)
class SplitRecord:
    """How folds came to be, as kept with them in split.json.

    Attributes:
        scheme: of `SplitSpec`; ``files`` or ``published`` where they were not made here.
        version: `SPLIT_VERSION` of the milbench that made them.
        seed: of the partition, or of the validation parts carved out of folds that were given.
        parameters: the scheme's own.
        folds: name -> 16 hexadecimal digits of its parts; also of folds that were made and are not run.
    """

    scheme: str
    version: int
    seed: int
    parameters: dict[str, Any]
    folds: dict[str, str]


def record_split(spec: SplitSpec, folds: Sequence[Fold], published: bool = False) -> SplitRecord:
    """Describe folds.

    Args:
        spec: where they come from.
        folds: all of them.
        published: whether they came with the features, not from ``spec``.
    """
    scheme = "published" if published else "files" if spec.files is not None else spec.scheme
    parameters = {name: getattr(spec, name) for name in _PARAMETERS[scheme]}
    if scheme in ("files", "published") and "val_fraction" not in spec.model_fields_set:
        parameters["val_fraction"] = 0.0  # nothing is carved out of given folds unless the suite requests it
    return SplitRecord(scheme, SPLIT_VERSION, spec.seed, parameters, {fold.name: digest(fold.parts) for fold in folds})


def write_split_record(folder: Path, record: SplitRecord) -> None:
    """Write split.json next to the folds of `milbench.data.labels.table.write_labels`."""
    write_atomic(folder / "split.json", split_record_text(record))


def split_record_text(record: SplitRecord) -> str:
    """Return the text of split.json."""
    fields = asdict(record)
    return json.dumps(fields | {"digest": digest(fields)}, indent=2) + "\n"


def read_split_record(folder: str | Path) -> SplitRecord:
    """Read split.json, and check the folds next to it against it.

    Raises:
        MilbenchError: there is none, it is of a newer milbench or was changed, or a fold is not the one it describes.
    """
    path = Path(folder) / "split.json"
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        sealed = fields.pop("digest")
        record = SplitRecord(**fields)
        intact = digest(fields) == sealed
    except OSError as error:
        raise MilbenchError(
            f"{path} cannot be read: {error.strerror}; run the suite again.", code="file-unreadable"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise MilbenchError(f"{path} is no record of a split; run the suite again.", code="cohort-damaged") from None
    if record.version > SPLIT_VERSION:
        raise MilbenchError(
            f"{path} is of split version {record.version}, this milbench knows {SPLIT_VERSION}; upgrade.",
            code="schema-unknown",
        )
    if not intact:
        raise MilbenchError(f"{path} was changed after it was written; run the suite again.", code="cohort-damaged")
    for file in sorted((path.parent / "folds").glob("*.csv")):
        if record.folds.get(file.stem) != digest(read_fold(file).parts):
            raise MilbenchError(
                f"{file} is not the fold that {path} describes; run the suite again.", code="cohort-damaged"
            )
    return record


def _slides_of(ids: Sequence[str], patients: Mapping[str, str]) -> dict[str, list[str]]:
    slides: dict[str, list[str]] = {}
    for slide in sorted(ids):
        slides.setdefault(patients[slide], []).append(slide)
    return slides


def _strata(slides: Mapping[str, list[str]], labels: Mapping[str, int]) -> dict[tuple[int, ...], list[str]]:
    strata: dict[tuple[int, ...], list[str]] = {}
    for patient in sorted(slides):
        strata.setdefault(tuple(sorted({labels[slide] for slide in slides[patient]})), []).append(patient)
    return strata


def _patients_by_class(strata: Strata) -> dict[int, int]:
    having: dict[int, int] = {}
    for key, members in strata.items():
        for label in key:
            having[label] = having.get(label, 0) + len(members)
    return dict(sorted(having.items()))


def _named(label: int, classes: Sequence[str] | None) -> str:
    return str(label) if classes is None else repr(classes[label])


def _shuffled(strata: Strata, rng: np.random.Generator) -> list[str]:
    return [str(p) for key in sorted(strata) for p in rng.permutation(np.array(strata[key], dtype=object))]


def _validated(
    name: str, slides: Mapping[str, list[str]], labels: Mapping[str, int], test: set[str], spec: SplitSpec,
    where: Sequence[int],
) -> Fold:  # fmt: skip
    rest = {patient: slides[patient] for patient in slides if patient not in test}
    val = _carve(_strata(rest, labels), spec.val_fraction, [spec.seed, *where])
    return _fold(name, slides, set(rest) - val, val, test)


def _carve(strata: Strata, fraction: float, seed: Sequence[int]) -> set[str]:
    if fraction <= 0:
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
