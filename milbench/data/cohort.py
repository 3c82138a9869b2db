"""Cohort: features, labels, patients and folds of one dataset, checked, with a fingerprint of its content."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..errors import MilbenchError, did_you_mean
from ..spec import DataSpec, SplitSpec, digest
from .build import build_cache
from .cache import FeatureCache
from .datasets import cache_home, prepare
from .files import AlreadyExists, staged
from .formats.npz import Packed, read_packed
from .labels import Labels, index_classes, match_features, read_classes, read_label_table, read_labels, write_labels
from .layout import SCHEMA, file_checksum
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


def load_cohort(spec: DataSpec, base: Path) -> Cohort:
    """Load a cohort and check it.

    Folds come from ``split.files``; else from the dataset itself (built-in, or published with a ``.npz``, where setting
    ``split.folds`` or ``split.repeats`` asks for one's own instead); else they are made by `stratified_folds`.
    Published folds have no validation part unless ``split.val_fraction`` is set.

    Args:
        spec: a built-in dataset (built once into the user's cache folder), a packed ``.npz`` (imported once into the
            same place), or a feature cache with a label CSV.
        base: folder that relative paths start at; a ``.npz`` is looked for under ``MILBENCH_DATA`` too.

    Raises:
        MilbenchError: anything about features, labels or folds that would break a run or flatter its result.
    """
    own_folds: Callable[[], list[Fold]] | None = None
    if spec.dataset is not None:
        labels, path, own_folds = _builtin(spec)
    elif spec.cache is not None and spec.cache.endswith(".npz"):
        labels, path, own_folds = _packed(spec, base)
    else:
        assert spec.cache is not None
        assert spec.labels is not None
        path, table = base / Path(spec.cache).expanduser(), base / Path(spec.labels).expanduser()
        labels = read_label_table(table, spec)
        match_features(labels, FeatureCache.open(path).ids, str(table), str(path))
    cache = FeatureCache.open(path)
    if own_folds is not None and spec.split.files is None:
        folds = own_folds()
    elif spec.split.files is not None:
        folds = read_folds(spec.split.files, base)
    else:
        folds = stratified_folds(labels.slides, labels.patients, labels.labels, spec.split, labels.classes)
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


def _builtin(spec: DataSpec) -> tuple[Labels, Path, Callable[[], list[Fold]]]:
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
    return Labels(slides, patients, labels, classes), home / "features", lambda: folds


def _packed(spec: DataSpec, base: Path) -> tuple[Labels, Path, Callable[[], list[Fold]] | None]:
    source = _find_npz(str(spec.cache), base)
    if spec.labels is not None:
        raise MilbenchError(f"{source} brings its own labels; remove labels from cohort {spec.name}.")
    home = cache_home() / "imported" / f"{source.stem}-{digest([file_checksum(source), SCHEMA])}"
    if not home.exists():
        with suppress(AlreadyExists), staged(home) as folder:
            build_cache(source, folder / "features", format="npz", dtype="float32")
    packed = read_packed(source)
    names = packed.names
    values = dict(zip(names, packed.labels, strict=True))
    labels, classes = index_classes(values, spec.classes, str(source))
    found = Labels(names, {name: name for name in names}, labels, classes)
    match_features(found, FeatureCache.open(home / "features").ids, str(source), str(home))
    # Asking for k folds is asking for one's own partition; everything else keeps the published one.
    if packed.folds is None or spec.split.model_fields_set & {"folds", "repeats"}:
        return found, home / "features", None
    return found, home / "features", lambda: _published(packed, found, spec.split)


def _published(packed: Packed, labels: Labels, split: SplitSpec) -> list[Fold]:
    folds = list(packed.published_folds())
    if "val_fraction" not in split.model_fields_set or split.val_fraction == 0:
        return folds
    seeds = ([split.seed, *(int(part[1:]) for part in fold.name.split("-"))] for fold in folds)  # r0-f3: [seed, 0, 3]
    return [
        carve_validation(fold, labels.patients, labels.labels, split.val_fraction, seed)
        for fold, seed in zip(folds, seeds, strict=True)
    ]


def _find_npz(path: str, base: Path) -> Path:
    tried = [base / Path(path).expanduser()]
    if not Path(path).is_absolute() and os.environ.get("MILBENCH_DATA"):
        tried.append(Path(os.environ["MILBENCH_DATA"]) / path)
    for candidate in tried:
        if candidate.is_file():
            return candidate
    looked = " and ".join(str(candidate) for candidate in tried)
    raise MilbenchError(f"no file {looked}; set MILBENCH_DATA to the folder that {path} is in.")
