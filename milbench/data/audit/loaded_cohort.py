"""Subject: a cohort as it was read, before anything is checked."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ...config import DataSpec, digest
from ..cache.reader import FeatureCache
from ..fold import Fold
from ..labels.table import Labels
from .patients import guessed_patients


@dataclass(frozen=True)
class Subject:
    """A cohort as it was read, before anything is checked.

    Attributes:
        spec: what the suite says of it.
        base: folder that relative paths start at.
        cache: its features.
        labels: its labels; slides may lack features.
        folds: all folds; slides may lack features or label.
        published: whether the folds came with the dataset or the features.
        where: the table that the labels are from, for messages.
        trouble: why there are no folds.
        trouble_code: the code of that error; "" where there are folds.
        empty: slides with a label but no patches, which take no part and are not among the labels.
    """

    spec: DataSpec
    base: Path
    cache: FeatureCache
    labels: Labels
    folds: tuple[Fold, ...]
    published: bool
    where: str
    trouble: str | None = None
    trouble_code: str = ""
    empty: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The cohort's name."""
        return self.spec.name

    @cached_property
    def slides(self) -> tuple[str, ...]:
        """The slides that have both a label and features, in the order of the labels."""
        return tuple(slide for slide in self.labels.slides if slide in self.cache)

    @cached_property
    def content(self) -> str:
        """16 hexadecimal digits of the features, labels, patients and classes."""
        sums, labels = self.cache.checksums, self.labels
        used = {slide: sums[slide] for slide in self.slides}
        return digest([self.cache.dim, self.cache.meta["dtype"], used, labels.labels, labels.patients, labels.classes])

    @cached_property
    def guesses(self) -> dict[str, str]:
        """Slide -> the patient that its patient's name, if it is a barcode, belongs to."""
        return guessed_patients(self.labels.patients)

    def owner(self, slide: str) -> str:
        """Return the patient of a slide; where a barcode tells more than the labels, the barcode's."""
        return self.guesses.get(slide, self.labels.patients[slide])
