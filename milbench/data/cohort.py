"""Cohort: features, labels, patients and folds of one dataset, checked, with a fingerprint of its content."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..atomic_io.manifest import read_listed, write_files, write_manifest
from ..atomic_io.publishing import child
from ..config import DataSpec, SplitSpec, digest
from ..errors import MilbenchError, did_you_mean
from ..tasks import CLASSIFICATION, Target, is_ranked, task_named
from .audit.checks import feature_findings, table_findings
from .audit.findings import Finding, refuse, settle
from .audit.loaded_cohort import Subject
from .audit.patients import apply_rule
from .cache.payload import check_payload
from .cache.reader import FeatureCache
from .cohort_cache import Progress, cache_of
from .datasets import BAGS, prepare
from .fold import Fold
from .labels.table import (
    Labels,
    Note,
    brought_labels,
    match_labels,
    read_classes,
    read_label_table,
    read_labels,
    write_labels,
)
from .source_labels import SourceTable
from .splits.files import read_fold, read_split
from .splits.schemes import SplitRecord, carve_validation, make_folds, record_split, split_record_text

#: What to do about a damaged dataset of milbench's own.
REBUILD = "remove the folder {} and it is built again"


@dataclass(frozen=True)
class Cohort:
    """A dataset that is ready to run.

    Attributes:
        name: its name on the leaderboard.
        cache_path: the feature cache.
        slides: the slides that take part.
        patients: slide -> patient.
        labels: slide -> class index, or what else is a target of `task`.
        classes: names of the classes, or of the strata of `task`, in the order of their indices.
        folds: the folds to run.
        fingerprint: 16 hexadecimal digits of features, labels, patients, classes and all folds, also those that
            ``split.use`` leaves out; and of the codes of the errors that are waived.
        split: how the folds came to be.
        findings: of the audit: warnings, and errors that are waived.
        known: the table of what is known of each bag, which some built-in datasets have; see `datasets.Built`.
        task: what the labels are, of `milbench.tasks`.
    """

    name: str
    cache_path: Path
    slides: tuple[str, ...]
    patients: dict[str, str]
    labels: dict[str, Target]
    classes: tuple[str, ...]
    folds: tuple[Fold, ...]
    fingerprint: str
    split: SplitRecord
    findings: tuple[Finding, ...] = ()
    known: Path | None = None
    task: str = CLASSIFICATION

    @property
    def ranked(self) -> bool:
        """Return whether tables of AUC are made of its runs."""
        return is_ranked(self.task)

    def cache(self) -> FeatureCache:
        """Open the feature cache."""
        return FeatureCache.open(self.cache_path)

    def fold(self, name: str) -> Fold:
        """Return a fold by its name.

        Raises:
            MilbenchError: there is none of that name.
        """
        for fold in self.folds:
            if fold.name == name:
                return fold
        raise MilbenchError(
            f"cohort {self.name} has no fold {name!r}.{did_you_mean(name, [f.name for f in self.folds])}",
            code="cohort-unknown-name",
        )


def load_cohort(spec: DataSpec, base: Path, progress: Progress | None = None) -> Cohort:
    """Load a cohort and check it.

    Folds come from ``split.files``; else from the dataset or the source itself (built-in, or published with it, where
    setting ``split.scheme``, ``split.folds`` or ``split.repeats`` asks for one's own instead); else they are made by
    `make_folds`. Folds from files and published ones have no validation part unless they bring one or
    ``split.val_fraction`` is set. Slides that the labels exclude, and those that the cache has left out since they have
    no patches, take no part, in given folds neither.

    Args:
        spec: a built-in dataset (built once into the user's cache folder), or features as in `cache_of` with their
            labels: a table, or what the source has brought along.
        base: folder that relative paths start at.
        progress: called while features are imported.

    Raises:
        MilbenchError: anything about features, labels or folds that would break a run or flatter its result.
    """
    subject = read_subject(spec, base, progress)
    all_findings = table_findings(subject)
    refuse(settle(all_findings, spec.name, spec.waive))  # before features are read, which takes longer
    findings = settle([*all_findings, *feature_findings(subject)], spec.name, spec.waive)
    refuse(findings)
    labels, folds = subject.labels, subject.folds
    for fold in folds:
        child(Path(), fold.name, ".csv", f"cohort {spec.name}: fold")  # refused now, not when results are written
    content = [subject.content, [[fold.name, fold.parts] for fold in folds]]
    # What was made in spite of a leak is another experiment than the same without it.
    waived = sorted({finding.code for finding in findings if finding.waived and finding.severity == "error"})
    known = subject.cache.path.absolute().with_name(BAGS)
    return Cohort(
        name=spec.name,
        cache_path=subject.cache.path.absolute(),
        slides=labels.slides,
        patients=labels.patients,
        labels=labels.labels,
        classes=labels.classes,
        folds=folds[: spec.split.use],
        fingerprint=digest([*content, waived] if waived else content),
        split=record_split(spec.split, folds, subject.published),
        findings=tuple(findings),
        known=known if spec.dataset is not None and known.exists() else None,
        task=labels.task,
    )


def read_subject(spec: DataSpec, base: Path, progress: Progress | None = None) -> Subject:
    """Read a cohort as `load_cohort` does, and check nothing that `milbench.data.audit` checks.

    Raises:
        MilbenchError: features or labels cannot be read. Folds that cannot be are the subject's `trouble`.
    """
    if spec.dataset is not None:
        return _builtin(spec, base)
    cache = FeatureCache.open(cache_of(spec, base, progress))
    check_payload(cache)
    table = cache.table or SourceTable()
    labels, where = _labels(spec, base, cache, table)
    left_out = [str(slide) for slide in cache.meta.get("left_out", ())]
    labels = match_labels(labels, [*cache.ids, *left_out], str(where), str(cache.path))
    empty = tuple(slide for slide in left_out if slide in labels.labels)
    labels = labels.without(frozenset(empty))
    if spec.patient_rule is not None:
        labels = apply_rule(labels, spec.patient_rule)
    folds: list[Fold] = []
    published, trouble, code = False, None, ""
    try:
        folds, published, notes = _folds(spec, base, labels, table)
        labels = replace(labels, notes=(*labels.notes, *notes))
    except MilbenchError as error:
        trouble, code = str(error), error.code
    return Subject(spec, base, cache, labels, tuple(folds), published, str(where), trouble, code, empty)


def write_cohort(cohort: Cohort, folder: str | Path) -> None:
    """Write labels.csv (slide_id, patient_id, label index), classes.json, folds/NAME.csv (slide_id, split), split.json,
    audit.json, the findings of the audit, and where it is known by construction what each bag is, bags.csv; at last
    manifest.json with their checksums.

    Raises:
        MilbenchError: a fold's name cannot be that of a file, or a link stands where a file has to be.
    """
    folder = Path(folder)
    labels = Labels(cohort.slides, cohort.patients, cohort.labels, cohort.classes, task=cohort.task)
    files = write_labels(folder, labels, cohort.folds)
    findings = [finding.record() for finding in cohort.findings]
    more = {"split.json": split_record_text(cohort.split)}
    if cohort.known is not None:
        more[BAGS] = read_listed(cohort.known.parent, BAGS, REBUILD.format(cohort.known.parent)).decode()
    more["audit.json"] = json.dumps(findings, indent=2, ensure_ascii=False) + "\n"
    files |= write_files(folder, more)
    facts = {"cohort": cohort.name, "fingerprint": cohort.fingerprint}
    write_manifest(folder, files, facts if cohort.task == CLASSIFICATION else facts | {"task": cohort.task})


def _builtin(spec: DataSpec, base: Path) -> Subject:
    assert spec.dataset is not None
    given = sorted(spec.split.model_fields_set - {"use"})
    if given:
        raise MilbenchError(
            f"dataset {spec.dataset} brings its own training, validation and test bags, which share no instance; "
            f"remove split.{given[0]}.",
            code="source-brings-own",
        )
    for key in ("labels", "classes", "patient_rule"):
        if getattr(spec, key) is not None:
            raise MilbenchError(
                f"dataset {spec.dataset} brings its own {key}; remove {key} from cohort {spec.name}.",
                code="source-brings-own",
            )
    home = prepare(spec.dataset, spec.params)
    try:
        cache = FeatureCache.open(home / "features")
        check_payload(cache)
        table, classes = read_labels(home, spec.task), read_classes(home)
        folds = []
        for path in sorted((home / "folds").glob("*.csv")):
            read_listed(home, f"folds/{path.name}", "build it again")
            folds.append(read_fold(path))
    except (MilbenchError, OSError, ValueError) as error:
        problem = str(error).rstrip(".")
        raise MilbenchError(
            f"{home} is damaged ({problem}); remove this folder and it is built again.", code="dataset-damaged"
        ) from None
    slides = tuple(table["slide_id"])
    patients = dict(zip(slides, table["patient_id"], strict=True))
    task = task_named(spec.task)
    targets = task.from_cells(*(table[column].tolist() for column in task.target_columns))
    labels = Labels(slides, patients, dict(zip(slides, targets, strict=True)), classes, task=spec.task)
    return Subject(spec, base, cache, labels, tuple(folds), True, str(home))


def _labels(spec: DataSpec, base: Path, cache: FeatureCache, table: SourceTable) -> tuple[Labels, Path]:
    """Return labels of features that are not built in, and where they are from."""
    source = Path(str(cache.meta.get("source", cache.path)))
    if spec.labels is not None:
        if table.labels is not None:
            raise MilbenchError(
                f"{source} brings its own labels; remove labels from cohort {spec.name}, or take the labels out of the "
                "features to use yours (in a long table: name their column otherwise).",
                code="source-brings-own",
            )
        where = base / Path(spec.labels).expanduser()
        if spec.slide_table is None and spec.slide_column in cache:
            raise MilbenchError(
                f"{where} seems to have no header: slide_column {spec.slide_column!r} is a slide of the features; "
                "write a line that names the columns above it.",
                code="table-no-header",
            )
        slides = None if spec.slide_table is None else base / Path(spec.slide_table).expanduser()
        return read_label_table(where, spec, slides), where
    if table.labels is None:
        raise MilbenchError(
            f"cohort {spec.name} has no labels, and {cache.path} brings none: set labels to the table with "
            "slide_id, patient_id and label.",
            code="labels-missing",
        )
    return brought_labels(table.labels, table.patients, spec.classes, str(source), spec.task), source


def _folds(
    spec: DataSpec, base: Path, labels: Labels, table: SourceTable
) -> tuple[list[Fold], bool, list[Note]]:  # fmt: skip
    """Return the folds, whether the features brought them along, and remarks about names in split files."""
    given: Sequence[Fold] = ()
    notes: list[Note] = []
    if spec.split.files is not None:
        every = labels.patients | labels.excluded_patients
        split = read_split(spec.split.files, base, every, spec.slide_suffix, spec.split.column)
        given, notes = split.folds, [Note("other-spelling", text) for text in split.notes]
    # Asking for k folds is asking for one's own partition; everything else keeps the published one.
    elif not spec.split.model_fields_set & {"scheme", "folds", "repeats"}:
        given = table.folds
    if not given:
        return make_folds(labels, spec.split), False, []
    given = [fold.without(labels.excluded) for fold in given]
    folds = [_validated(fold, i, labels, spec.split) for i, fold in enumerate(given)]
    return folds, spec.split.files is None, notes


def _validated(fold: Fold, number: int, labels: Labels, split: SplitSpec) -> Fold:
    """Return a given fold, with a validation part carved out of its training part where the suite requires it."""
    if fold.val or "val_fraction" not in split.model_fields_set or split.val_fraction == 0:
        return fold
    if any(slide not in labels.labels for slide in fold.train):
        return fold  # as it is, for the audit to say what is wrong with it
    repetition = re.fullmatch(r"r(\d+)-f(\d+)", fold.name)
    seed = [int(repetition[1]), int(repetition[2])] if repetition else [number]
    return carve_validation(fold, labels.patients, labels.strata, split.val_fraction, [split.seed, *seed])
