"""Small cohorts on disk, tasks on them, and suites over them: real caches, made in milliseconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from milbench.config import Budget, DataSpec, Protocol, Recipe, RunSpec, SplitSpec, Suite
from milbench.data.cache.reader import CacheWriter, FeatureCache
from milbench.training.task import TrainingTask

ODD = "support.odd_methods:"
PARTS = ("train", "val", "test")


def write_cohort(folder: Path, train: int = 8, val: int = 4, test: int = 6, dim: int = 4, shift: float = 1.0,
                 coords: bool = False, dtype: str = "float32") -> dict[str, list[tuple[str, int]]]:  # fmt: skip
    """Write cache/, labels.csv and fold0.csv; bags have 1 to 7 rows and their label is `shift` on the first feature.

    Returns:
        part -> (slide, label).
    """
    rng = np.random.default_rng(0)
    parts: dict[str, list[tuple[str, int]]] = {part: [] for part in PARTS}
    with CacheWriter(folder / "cache", dtype) as writer:
        for part, bags in zip(PARTS, (train, val, test), strict=True):
            for i in range(bags):
                n, label = int(rng.integers(1, 8)), i % 2
                x = rng.normal(size=(n, dim)).astype(np.float32)
                x[:, 0] += shift * label
                where = rng.integers(0, 50, size=(n, 2)) if coords else None
                writer.add(f"{part}{i}", x, where)
                parts[part].append((f"{part}{i}", label))
    write_labels(folder, parts)
    rows = [(slide, part) for part in PARTS for slide, _ in parts[part]]
    pd.DataFrame(rows, columns=["slide_id", "split"]).to_csv(folder / "fold0.csv", index=False)
    return parts


def write_labels(folder: Path, parts: dict[str, list[tuple[str, int]]]) -> None:
    rows = [(slide, slide, label) for part in PARTS for slide, label in parts[part]]
    pd.DataFrame(rows, columns=["slide_id", "patient_id", "label"]).to_csv(folder / "labels.csv", index=False)


def task(folder: Path, parts: dict[str, list[tuple[str, int]]], method: str = "mean", seed: int = 0,
         protocol: Protocol | None = None, **recipe: Any) -> TrainingTask:  # fmt: skip
    """Return the task of one run; the recipe is plain SGD unless ``recipe`` says otherwise."""
    fields = {"optimizer": "sgd", "lr": 0.1, "momentum": 0.0, "weight_decay": 0.0, "epochs": 3} | recipe
    spec = RunSpec(
        suite="small", suite_version=1, data="d", fingerprint="f", method=method, params={}, recipe=Recipe(**fields),
        protocol=protocol or Protocol(), budget=Budget(), fold="fold0", seed=seed, threads=1, device_type="cpu",
    )  # fmt: skip
    return TrainingTask(spec, method, str(folder / "cache"), 2, tuple(parts["train"]), tuple(parts["val"]),
                tuple(slide for slide, _ in parts["test"]))  # fmt: skip


def suite(folder: Path, methods: tuple[str, ...] = ("mean",), **changes: Any) -> Suite:
    """Return a suite over the cohort that `write_cohort` wrote."""
    data = DataSpec(name="d", cache="cache", labels="labels.csv", split=SplitSpec(files=str(folder / "fold{k}.csv")))
    fields: dict[str, Any] = {"name": "small", "cost": False, "device": "cpu", "recipe": {"epochs": 2, "patience": 2}}
    return Suite(methods=methods, data=(data,), base=folder, **(fields | changes))


def opened(folder: Path) -> FeatureCache:
    return FeatureCache.open(folder / "cache")
