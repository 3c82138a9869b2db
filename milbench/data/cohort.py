"""Cohort: features, labels, patients and folds of one dataset, checked, with a fingerprint of its content."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from ..errors import MilbenchError, did_you_mean
from ..spec import DataSpec, SplitSpec, digest
from .cache import FeatureCache
from .datasets import prepare
from .imported import Progress, cache_of
from .labels import Labels, index_classes, match_features, read_classes, read_label_table, read_labels, write_labels
from .source_table import SourceTable
from .splits import Fold, carve_validation, check_folds, read_fold, read_folds, stratified_folds


@dataclass(frozen=True)
class Cohort:
    """A dataset that is ready to run.

    Attributes:
        name: its name on the leaderboard.
        cache_path: the feature cache.
        slides: the slides that take part.
        patients: slide -> patient.
        labels: slide -> class index.
        classes: class names in the order of their indices.
        folds: the folds to run.
        fingerprint: 16 hexadecimal digits of features, labels, patients, classes and all folds, also those that
            ``split.use`` leaves out.
    """

    name: str
    cache_path: Path
    slides: tuple[str, ...]
    patients: dict[str, str]
    labels: dict[str, int]
    classes: tuple[str, ...]
    folds: tuple[Fold, ...]
    fingerprint: str

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
            f"cohort {self.name} has no fold {name!r}.{did_you_mean(name, [f.name for f in self.folds])}"
        )


def load_cohort(spec: DataSpec, base: Path, progress: Progress | None = None) -> Cohort:
    """Load a cohort and check it.

    Folds come from ``split.files``; else from the dataset or the source itself (built-in, or published with it, where
    setting ``split.folds`` or ``split.repeats`` asks for one's own instead); else they are made by `stratified_folds`.
    Published folds have no validation part unless they bring one or ``split.val_fraction`` is set. Slides that the
    cache has left out, since they have no patches, take no part.

    Args:
        spec: a built-in dataset (built once into the user's cache folder), or features as in `cache_of` with their
            labels: a table, or what the source has brought along.
        base: folder that relative paths start at.
        progress: called while features are imported.

    Raises:
        MilbenchError: anything about features, labels or folds that would break a run or flatter its result.
    """
    if spec.dataset is not None:
        labels, path, folds = _builtin(spec)
        cache = FeatureCache.open(path)
    else:
        path = cache_of(spec, base, progress)
        cache = FeatureCache.open(path)
        labels, folds = _described(spec, base, cache)
    try:
        check_folds(folds, labels.labels, labels.patients, cache, labels.classes)
    except MilbenchError as error:
        raise MilbenchError(f"cohort {spec.name}, {error}") from None
    checksums = cache.checksums
    used = {slide: checksums[slide] for slide in labels.slides}
    content = digest([cache.dim, cache.meta["dtype"], used, labels.labels, labels.patients, labels.classes])
    fingerprint = digest([content, [[fold.name, fold.parts] for fold in folds]])
    return Cohort(spec.name, path.absolute(), labels.slides, labels.patients, labels.labels, labels.classes,
                  tuple(folds[: spec.split.use]), fingerprint)  # fmt: skip


def write_cohort(cohort: Cohort, folder: str | Path) -> None:
    """Write labels.csv (slide_id, patient_id, label index), classes.json and folds/NAME.csv (slide_id, split)."""
    labels = Labels(cohort.slides, cohort.patients, cohort.labels, cohort.classes)
    write_labels(Path(folder), labels, cohort.folds)


def _builtin(spec: DataSpec) -> tuple[Labels, Path, list[Fold]]:
    assert spec.dataset is not None
    asked = sorted(spec.split.model_fields_set - {"use"})
    if asked:
        raise MilbenchError(
            f"dataset {spec.dataset} brings its own training, validation and test bags, which share no instance; "
            f"remove split.{asked[0]}."
        )
    for key in ("labels", "classes"):
        if getattr(spec, key) is not None:
            raise MilbenchError(f"dataset {spec.dataset} brings its own {key}; remove {key} from cohort {spec.name}.")
    home = prepare(spec.dataset, spec.params)
    try:
        FeatureCache.open(home / "features")
        table, classes = read_labels(home), read_classes(home)
        folds = [read_fold(path) for path in sorted((home / "folds").glob("*.csv"))]
    except (MilbenchError, OSError, ValueError) as error:
        raise MilbenchError(f"{home} is damaged ({error}); remove this folder and it is built again.") from None
    slides = tuple(table["slide_id"])
    patients = dict(zip(slides, table["patient_id"], strict=True))
    labels = dict(zip(slides, table["label"].tolist(), strict=True))
    return Labels(slides, patients, labels, classes), home / "features", folds


def _described(spec: DataSpec, base: Path, cache: FeatureCache) -> tuple[Labels, list[Fold]]:
    """Return labels and folds of features that are not built in."""
    table = cache.table or SourceTable()
    if spec.labels is not None:
        if table.labels is not None:
            source = cache.meta.get("source", cache.path)
            raise MilbenchError(f"{source} brings its own labels; remove labels from cohort {spec.name}.")
        where = base / Path(spec.labels).expanduser()
        labels = read_label_table(where, spec)
    elif table.labels is not None:
        where = Path(str(cache.meta.get("source", cache.path)))
        labels = _brought(table, spec, where)
    else:
        raise MilbenchError(
            f"cohort {spec.name} has no labels, and {cache.path} brings none: set labels to the table with "
            "slide_id, patient_id and label."
        )
    empty = frozenset(cache.meta.get("left_out", ()))
    labels = labels.without(empty)
    match_features(labels, cache.ids, str(where), str(cache.path))
    if spec.split.files is not None:
        folds = read_folds(spec.split.files, base)
    # Asking for k folds is asking for one's own partition; everything else keeps the published one.
    elif table.folds and not spec.split.model_fields_set & {"scheme", "folds", "repeats"}:
        folds = [_validated(fold, i, labels, spec.split) for i, fold in enumerate(table.folds)]
    else:
        folds = stratified_folds(labels.slides, labels.patients, labels.labels, spec.split, labels.classes)
    return labels, [fold.without(empty) for fold in folds]


def _brought(table: SourceTable, spec: DataSpec, where: Path) -> Labels:
    """Return the labels that a source brought along; a slide whose patient it does not name is a patient of its own."""
    values = dict(table.labels or {})
    labels, classes = index_classes(values, spec.classes, str(where))
    owners = table.patients or {}
    return Labels(tuple(values), {slide: owners.get(slide, slide) for slide in values}, labels, classes)


def _validated(fold: Fold, number: int, labels: Labels, split: SplitSpec) -> Fold:
    """Return a published fold, with a validation part carved out of its training part where that is asked for."""
    if fold.val or "val_fraction" not in split.model_fields_set or split.val_fraction == 0:
        return fold
    repetition = re.fullmatch(r"r(\d+)-f(\d+)", fold.name)
    seed = [int(repetition[1]), int(repetition[2])] if repetition else [number]
    return carve_validation(fold, labels.patients, labels.labels, split.val_fraction, [split.seed, *seed])
