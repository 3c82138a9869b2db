"""DataSpec and SplitSpec: a cohort of a suite, and where its folds come from."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from ..errors import did_you_mean
from .audit_codes import CODES
from .frozen import Frozen, added

#: folds, and seeds, of a suite at most: all are listed before one is run, and more take hours
MOST_FOLDS = 10_000


class SplitSpec(Frozen):
    """Where folds come from.

    Attributes:
        files: split files of any form that `milbench.data.splits.files.read_folds` knows: a file, a folder of them, or
            a path with ``{k}`` for the fold number (``splits/fold{k}.csv``); None: the dataset's own published folds
            where it has them, else folds made here, by patient and stratified, in the way that `scheme` says.
        column: the column of `files` that says train, val or test of every slide or patient; None: it is recognised.
        scheme: ``k-fold``, every slide tested once a repetition; ``monte-carlo``, `repeats` test parts drawn
            independently; ``held-out``, one of them; ``site-preserved``, a k-fold that keeps every site's patients in
            one fold (Howard et al. 2021).
        folds: number of folds of ``k-fold`` and ``site-preserved``.
        repeats: repetitions of the k-fold with other partitions, or draws of ``monte-carlo``.
        test_fraction: share of the patients that ``monte-carlo`` and ``held-out`` test on.
        site_column: column of the label table with the site of ``site-preserved``; None: TCGA's barcodes contain it.
        use: how many of the folds to run, the first ones; None: all.
        val_fraction: share of the training patients held out for validation; 0: no validation set.
        seed: of the partition.
    """

    files: str | None = None
    column: str | None = None
    scheme: Literal["k-fold", "monte-carlo", "held-out", "site-preserved"] = "k-fold"
    folds: int = Field(5, ge=2)
    repeats: int = Field(1, ge=1)
    test_fraction: float = Field(0.2, gt=0, lt=1)
    site_column: str | None = None
    use: int | None = Field(None, ge=1)
    val_fraction: float = Field(0.2, ge=0, lt=1)
    seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _fits_scheme(self) -> SplitSpec:
        """Refuse what would have no effect. By value: a suite read back from its record has every field set."""
        takes = {
            "k-fold": ("folds", "repeats"), "monte-carlo": ("repeats", "test_fraction"),
            "held-out": ("test_fraction",), "site-preserved": ("folds", "site_column"),
        }  # fmt: skip
        named = ("folds", "repeats", "test_fraction", "site_column")
        given = [name for name in named if getattr(self, name) != type(self).model_fields[name].default]
        if idle := [name for name in given if name not in takes[self.scheme]]:
            ways = [scheme for scheme, fields in takes.items() if idle[0] in fields]
            raise ValueError(f"{idle[0]} belongs to scheme {' or '.join(ways)}, not to {self.scheme}")
        made = self.repeats * (self.folds if "folds" in takes[self.scheme] else 1)
        if made > MOST_FOLDS:
            raise ValueError(f"{made} folds are more than milbench makes ({MOST_FOLDS}); lower repeats or folds")
        if self.files is not None and self.scheme != "k-fold":
            raise ValueError("folds come from files or from a scheme; give one of them")
        if self.column is not None and self.files is None:
            raise ValueError("column names a column of the split files; give files, or leave it out")
        return self


class DataSpec(Frozen):
    """One cohort of a suite: a built-in dataset by name, or a feature cache with its labels.

    Attributes:
        name: the cohort's name on the leaderboard.
        dataset: a built-in dataset.
        params: parameters of the built-in dataset.
        features: files of another tool, see ``milbench list formats``; they are imported on first use into `cache`.
        format, dtype, order, coords: how they are imported, as in ``milbench cache build``.
        cache: path of a feature cache, or a ``.npz`` of packed bags; relative paths start at the suite's folder. With
            `features` the cache to make, ``{name}.cache`` where none is named.
        labels: table with one row a slide; left out where the features bring their labels along.
        slide_column, patient_column, label_column: its columns. Folds are by patient; where every slide is a patient of
            its own, say patient_column = "slide_id".
        slide_table: table of slides and their patients (`slide_column`, `patient_column`) where `labels` has one row a
            patient, as STAMP keeps them.
        patient_rule: a regular expression with one group, searched for in the ids of slides that are patients of their
            own: the group is the patient, as in ``'^(.{12})'`` for TCGA's barcodes.
        slide_suffix: endings such as ``.svs`` to take off the slide ids of labels and split files.
        classes: label values in class order; None: the sorted values of the table (for two classes the second is the
            positive one).
        split: where folds come from.
        note: a caveat that every table of this cohort carries.
        recipes: fields of one method's recipe (by its name, without parameters) on this cohort, laid over the suite's.
        task: kind of the labels: ``classification``, or a task of another package (`milbench.tasks`).
        waive: codes of what ``milbench audit`` finds and the suite is to run in spite of; every table of this cohort
            lists them.
    """

    name: str
    dataset: str | None = None
    params: dict[str, Any] = {}
    features: str | None = None
    format: str = "auto"
    dtype: Literal["float16", "bfloat16", "float32"] = "float16"
    order: Literal["source", "raster"] = "source"
    coords: bool = True
    cache: str | None = None
    labels: str | None = None
    slide_column: str = "slide_id"
    patient_column: str = "patient_id"
    label_column: str = "label"
    slide_table: str | None = None
    patient_rule: str | None = None
    slide_suffix: tuple[str, ...] = ()
    classes: tuple[str, ...] | None = None
    split: SplitSpec = SplitSpec()
    note: str = ""
    recipes: dict[str, dict[str, Any]] = {}
    waive: tuple[str, ...] = ()
    task: str = added("classification", since="0.2.0")

    @field_validator("slide_suffix", mode="before")
    @classmethod
    def _one_or_several(cls, suffix: Any) -> Any:
        return (suffix,) if isinstance(suffix, str) else suffix

    @field_validator("patient_rule")
    @classmethod
    def _one_group(cls, rule: str | None) -> str | None:
        try:
            groups = 1 if rule is None else re.compile(rule).groups
        except re.error as error:
            raise ValueError(f"{rule!r} is no regular expression: {error}") from None
        if groups != 1:
            raise ValueError(f"{rule!r} has {groups} groups; put one pair of parentheses around the patient")
        return rule

    @field_validator("waive")
    @classmethod
    def _known_codes(cls, codes: tuple[str, ...]) -> tuple[str, ...]:
        waivable = [code for code, what in CODES.items() if what.waivable]
        for code in codes:
            if code not in CODES:
                raise ValueError(f"{code!r} is no code of milbench audit.{did_you_mean(code, waivable)}")
            if code not in waivable:
                raise ValueError(f"{code!r} ({CODES[code].means}) cannot be waived; correct it")
        return codes

    @model_validator(mode="after")
    def _one_source(self) -> DataSpec:
        if (self.dataset is None) == (self.cache is None and self.features is None):
            raise ValueError(
                "give either dataset (a built-in one), or features (a tool's files) or cache (a feature cache)"
            )
        for name in ("format", "dtype", "order", "coords") if self.features is None else ():
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} says how features are imported; give features, or leave it out")
        if self.slide_table is not None and self.labels is None:
            raise ValueError("slide_table maps slides to patients; give labels, the table of the patients")
        return self
