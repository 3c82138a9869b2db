"""Datasets that are made on first use, into the user's cache folder: one module each.

A module defines ``VERSION``, raised when the same parameters would give other data; ``Params``, a frozen pydantic
model with defaults; ``build(writer, params)``, which adds the bags to a `CacheWriter` and returns `Built`. Its
docstring is the citation. A new dataset is one new file here, or such a module of another package, named by an entry
point of the group ``milbench.datasets``.
"""

from __future__ import annotations

import ast
import pkgutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, Protocol, cast

import pandas as pd
from pydantic import ValidationError

from ...atomic_io.folders import AlreadyExists, staged
from ...atomic_io.manifest import write_files, write_manifest
from ...config import Frozen, digest
from ...errors import MilbenchError, did_you_mean
from ...plug_ins import load_plug_in, plug_ins, summary
from ...tasks import CLASSIFICATION, Target
from ..cache.layout import SCHEMA
from ..cache.writer import CacheWriter
from ..fold import Fold
from ..home import cache_home
from ..labels.table import Labels, write_labels

#: Entry points of this group add datasets; underscores in their names are read as dashes.
GROUP = "milbench.datasets"

#: the table of what is known of each bag, next to a dataset's features and to the results of a suite
BAGS = "bags.csv"


@dataclass(frozen=True)
class Built:
    """What a dataset returns once its bags are in the writer.

    Attributes:
        labels: slide -> class index, or what else is a target of `task`.
        classes: names of the classes, or of the strata of `task`.
        fold: training, validation and test, given by construction.
        instances: one row an instance with its slide_id, row and label, where instance labels exist.
        bags: one row a bag with its slide_id and what is known of it by construction. Columns ``posterior`` and
            ``posterior_iid`` are the probability of class 1 that Bayes' rule gives to whoever sees all of the bag, and
            to whoever does not see the order of its instances; `milbench.evaluation.known_answers` holds methods
            against them.
        patients: slide -> patient; None: every bag is a patient of its own.
        task: what the labels are, of `milbench.tasks`; a suite's ``[[data]]`` table names the same.
    """

    labels: dict[str, Target]
    classes: tuple[str, ...]
    fold: Fold
    instances: pd.DataFrame | None = None
    bags: pd.DataFrame | None = None
    patients: dict[str, str] | None = None
    task: str = CLASSIFICATION


class Dataset(Protocol):
    """Interface of a module of this package."""

    VERSION: int
    Params: type[Frozen]

    def build(self, writer: CacheWriter, params: Any) -> Built:
        """Add every bag to the writer and return labels and fold."""


@cache
def dataset_names() -> dict[str, str]:
    """Return ``{name: summary}`` of the datasets, read from their docstrings; milbench's own are not imported.

    The summary of a package's dataset that cannot be used says why.
    """
    names = {}
    for name, module in _own().items():
        text = Path(__path__[0], f"{module}.py").read_text(encoding="utf-8")
        names[name] = (ast.get_docstring(ast.parse(text)) or "").split("\n")[0]
    for name in _of_packages():
        try:
            names[name] = summary(_of_package(name))
        except MilbenchError as error:
            names[name] = f"cannot be used: {error}"
    return names


def _spelled(name: str) -> str:
    return name.replace("_", "-")


def _own() -> dict[str, str]:
    """Return name -> module of milbench's own datasets."""
    modules = [module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_")]
    return {_spelled(module): module for module in modules}


def _of_packages() -> dict[str, tuple[EntryPoint, ...]]:
    return plug_ins(GROUP, _own(), _spelled)


def _of_package(name: str) -> Dataset:
    return cast("Dataset", load_plug_in("dataset", name, _of_packages()[name], ("VERSION", "Params", "build")))


def load_dataset(name: str) -> Dataset:
    """Import a dataset's module by its name (``digits-bags``).

    Raises:
        MilbenchError: there is no such dataset, or it is that of a package and cannot be used.
    """
    plain, own = _spelled(name), _own()
    if plain in own:
        return cast("Dataset", import_module(f"{__name__}.{own[plain]}"))
    of_packages = _of_packages()
    if plain not in of_packages:
        known = [*own, *of_packages]
        raise MilbenchError(f"unknown dataset {name!r}.{did_you_mean(name, known)}", code="dataset-unknown")
    return _of_package(plain)


def prepare(name: str, params: Mapping[str, Any]) -> Path:
    """Build a dataset unless it is there, and return its folder.

    The folder, named by dataset and parameters, holds features/ (a cache), labels.csv, classes.json, folds/ and, where
    a dataset gives them, instances.parquet and bags.csv. Processes that build it at once each build it; the first
    to end publishes.

    Raises:
        MilbenchError: an unknown dataset or parameter.
    """
    dataset = load_dataset(name)
    plain = _spelled(name)
    try:
        values = dataset.Params(**params)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            hint = did_you_mean(key, dataset.Params.model_fields)
            raise MilbenchError(f"dataset {plain} has no parameter {key!r}.{hint}", code="dataset-bad-option") from None
        raise MilbenchError(f"dataset {plain}, {key or 'params'}: {first['msg']}.", code="dataset-bad-option") from None
    identity = digest([plain, dataset.VERSION, SCHEMA, values.model_dump(mode="json")])
    home = cache_home() / "datasets" / f"{plain}-{identity}"
    if not home.exists():
        with suppress(AlreadyExists), staged(home) as folder:
            meta = {"dataset": plain, "dataset_version": dataset.VERSION, "source": f"milbench {plain}"}
            with CacheWriter(folder / "features", "float32", meta) as writer:
                built = dataset.build(writer, values)
            slides = tuple(built.labels)
            patients = built.patients or {s: s for s in slides}
            labels = Labels(slides, patients, built.labels, built.classes, task=built.task)
            files = write_labels(folder, labels, [built.fold])
            if built.instances is not None:
                built.instances.to_parquet(folder / "instances.parquet", index=False)
                files["instances.parquet"] = (folder / "instances.parquet").read_bytes()
            if built.bags is not None:
                files |= write_files(folder, {BAGS: built.bags.to_csv(index=False, lineterminator="\n")})
            write_manifest(folder, files, {"dataset": plain})
    return home
