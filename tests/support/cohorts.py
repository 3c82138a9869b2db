"""A cohort in which nothing is wrong, to be spoiled: features, labels and splits of a folder of a test's own."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from milbench.config import DataSpec, SplitSpec, Suite
from milbench.data.cache.reader import CacheWriter

PARTS = ("train", "val", "test")


@dataclass
class Slide:
    """One slide of a cohort; ``split_label`` is its label in the split files, None: the same."""

    patient: str
    label: str
    x: np.ndarray
    step: float = 256.0
    split_label: str | None = None
    more: dict[str, str] = field(default_factory=dict)


@dataclass
class Planted:
    """A cohort, and what its suite says of it.

    Attributes:
        slides: by id; ``rows``: ids in the order of labels.csv; ``lost``: ids without features.
        folds: split files in TransMIL's form, fold0.csv, ...
        data: further fields of the [[data]] table.
    """

    slides: dict[str, Slide]
    rows: list[str]
    folds: list[dict[str, list[str]]]
    lost: set[str] = field(default_factory=set)
    data: dict[str, Any] = field(default_factory=dict)

    def rename(self, old: str, new: str) -> None:
        """Give a slide another id everywhere."""
        self.slides = {new if name == old else name: slide for name, slide in self.slides.items()}
        self.rows = [new if name == old else name for name in self.rows]
        for fold in self.folds:
            for part in PARTS:
                fold[part] = [new if name == old else name for name in fold[part]]

    def of(self, fold: int, part: str, label: str = "") -> list[str]:
        """Slides of a part, of one class or of all."""
        return [name for name in self.folds[fold][part] if self.slides[name].label.startswith(label)]

    def write(self, folder: Path) -> Suite:
        """Write cache, labels.csv and splits, and return the suite."""
        with CacheWriter(folder / "cohort.cache", "float32") as writer:
            for name, slide in self.slides.items():
                if name not in self.lost:
                    xy = np.stack([np.arange(len(slide.x)), np.zeros(len(slide.x), dtype=int)], 1) * int(slide.step)
                    writer.add(name, slide.x, xy, slide.step)
        more = sorted({column for slide in self.slides.values() for column in slide.more})
        rows = [(name, self.slides[name]) for name in self.rows]
        table = [(name, s.patient, s.label, *(s.more.get(column, "") for column in more)) for name, s in rows]
        _csv(folder / "labels.csv", [("slide_id", "patient_id", "label", *more), *table])
        (folder / "splits").mkdir()
        for k, fold in enumerate(self.folds):
            _csv(folder / "splits" / f"fold{k}.csv", list(self._transmil(fold)))
        fields = {"name": "planted", "cache": "cohort.cache", "labels": "labels.csv"}
        fields |= {"split": SplitSpec(files="splits/fold{k}.csv")} if self.folds else {}
        return Suite(name="s", methods=("mean",), data=(DataSpec(**(fields | self.data)),), base=folder)

    def _transmil(self, fold: dict[str, list[str]]) -> Iterator[tuple[object, ...]]:
        yield "", *(name for part in PARTS for name in (part, f"{part}_label"))
        classes = sorted({slide.label for slide in self.slides.values()})
        for i in range(max(map(len, fold.values()))):
            cells: list[str] = []
            for part in PARTS:
                name = fold[part][i] if i < len(fold[part]) else ""
                index = 0
                if slide := self.slides.get(name):
                    index = classes.index(slide.label if slide.split_label is None else slide.split_label)
                cells += [name, f"{index:.1f}" if name else ""]
            yield i, *cells


def clean_cohort(seed: int = 0, per_class: int = 12, classes: tuple[str, ...] = ("normal", "tumour"), dim: int = 8,
                 rows: tuple[int, int] = (20, 90)) -> Planted:  # fmt: skip
    """Two slides a patient, features of noise, two folds by patient; names, lengths and features tell nothing."""
    rng = np.random.default_rng(seed)
    numbers = iter(rng.permutation(900)[: per_class * len(classes)] + 100)
    slides: dict[str, Slide] = {}
    members: dict[str, list[str]] = {}
    for label in classes:
        for _ in range(per_class):
            patient = f"0{next(numbers)}"
            members.setdefault(label, []).append(patient)
            for s in range(2):
                x = rng.normal(size=(int(rng.integers(*rows)), dim)).astype(np.float32)
                slides[f"{patient}-{s}"] = Slide(patient, label, x)
    folds = []
    for _ in range(2):
        where = {}
        for patients in members.values():
            shuffled = [patients[i] for i in rng.permutation(per_class)]
            half, third = per_class // 2, per_class // 3
            where |= dict.fromkeys(shuffled, "val") | dict.fromkeys(shuffled[:half], "train")
            where |= dict.fromkeys(shuffled[-third:], "test")
        folds.append({part: [s for s in slides if where[slides[s].patient] == part] for part in PARTS})
    return Planted(slides, list(slides), folds)


def _csv(path: Path, rows: list[tuple[object, ...]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)
