"""Score the attention of trained methods: ``python results/interpretability/make.py FOLDER [METHOD ...]``.

Every method is trained with its own recipe and one seed, on digits-bags and on planted-slides of some 200 patches
(their test bags are scored) and, where the shared data are present, on the 100 colon-cancer images in 5 stratified
folds (every image is scored once, by the model that did not see it). TransMIL is the small one of the suites of bags
like these. Positive bags alone, with attention to the positive class. Writes ``bags.csv``, ``summary.csv``, the curves
of one bag a cohort and a map of one slide and of one image.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import torch
from sklearn.model_selection import StratifiedKFold, train_test_split

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))  # results/README.md, "Programs"

from support.shared import SHARED

import milbench
from milbench.bags import Bags
from milbench.config import Budget, Protocol, RunSpec
from milbench.data.cache.reader import CacheWriter, FeatureCache
from milbench.data.datasets import prepare
from milbench.interpret.figures import curves_figure, heatmap_figure
from milbench.interpret.relevance import interpret, relevance, removal_curves
from milbench.registry import resolve
from milbench.training.loader import BagLoader
from milbench.training.loop import train
from milbench.training.task import TrainingTask

Labels = tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Fold:
    """One training of a cohort, and the known labels of its instances."""

    cohort: str
    cache: FeatureCache
    train: Labels
    val: Labels
    test: tuple[str, ...]  # positive slides
    truth: dict[str, np.ndarray]


PLANTED = {"train": 60, "val": 20, "test": 40, "patches": 200}


def generated(dataset: str, params: dict[str, int]) -> Iterator[Fold]:
    home = prepare(dataset, params)
    table = pd.read_csv(home / "labels.csv", dtype={"slide_id": str})
    of = {part: table[table["slide_id"].str.startswith(part)] for part in ("train", "val", "test")}
    pairs = {part: tuple(zip(rows["slide_id"], rows["label"], strict=True)) for part, rows in of.items()}
    instances = pd.read_parquet(home / "instances.parquet").sort_values(["slide_id", "row"])
    truth = {slide: part["label"].to_numpy() for slide, part in instances.groupby("slide_id")}
    positive = tuple(slide for slide, label in pairs["test"] if label == 1)
    yield Fold(dataset, FeatureCache.open(home / "features"), pairs["train"], pairs["val"], positive, truth)


def colon(folder: Path) -> Iterator[Fold]:
    assert SHARED is not None
    with np.load(SHARED / "data" / "histology" / "colon_cancer.npz", allow_pickle=False) as file:
        x, where, y, known = (file[name] for name in ("features", "inst_xy", "bag_label", "instance_label"))
        names, parts = file["bag_name"].tolist(), [slice(a, b) for a, b in pairwise(file["bag_offsets"])]
    with CacheWriter(folder, "float32") as writer:
        for name, part in zip(names, parts, strict=True):
            writer.add(name, x[part], where[part])
    cache, truth = FeatureCache.open(folder), {name: known[part] for name, part in zip(names, parts, strict=True)}
    pairs = np.array(names), y.astype(int)
    for others, test in StratifiedKFold(5, shuffle=True, random_state=0).split(*pairs):
        fit, val = train_test_split(others, test_size=0.2, stratify=y[others], random_state=0)
        taken = [tuple((names[i], int(y[i])) for i in some) for some in (fit, val)]
        yield Fold("colon-cancer", cache, *taken, tuple(names[i] for i in test if y[i] == 1), truth)


def fit(fold: Fold, method: str) -> tuple[milbench.Aggregator, list[tuple[str, Bags]]]:
    """Train a method on a fold; the model and the positive test bags as it sees them."""
    resolved = resolve(method)
    run = RunSpec(
        suite="interpretability", suite_version=1, data=fold.cohort, fingerprint=fold.cache.fingerprint,
        method=resolved.name, params=resolved.options, recipe=resolved.cls.recipe, protocol=Protocol(standardize=True),
        budget=Budget(), fold="f", seed=0, threads=torch.get_num_threads(), device_type="cpu",
    )  # fmt: skip
    task = TrainingTask(run, resolved.canonical, str(fold.cache.path), 2, fold.train, fold.val, fold.test)
    trained = train(task, fold.cache, torch.device("cpu"))
    held = BagLoader(fold.cache, fold.test, torch.device("cpu"), trained.scaling)
    return trained.model, [(slide, held.batch([i])) for i, slide in enumerate(fold.test)]


def scored(job: tuple[Path, Fold, str, bool]):  # type: ignore[no-untyped-def]
    """Train a method on a fold and score it: its bags, its AUC over all instances, and curves of the first bag."""
    folder, fold, method, draw = job
    model, slides = fit(fold, method)
    interpreted = interpret(model, slides, dict.fromkeys(fold.test, 1), fold.truth)
    print(fold.cohort, method, {k: round(v, 3) for k, v in interpreted.summary().items()}, flush=True)
    bags = interpreted.bags.assign(cohort=fold.cohort, method=method)
    return bags, interpreted.pooled_auc, _draw(folder, fold, method, model, *slides[0]) if draw else None


def main(folder: Path, methods: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    tables, curves, pooled = [], {}, {}
    with TemporaryDirectory() as scratch:
        made = [*generated("digits-bags", {}), *generated("planted-slides", PLANTED)]
        folds = [*made, *(colon(Path(scratch) / "colon") if SHARED is not None else ())]
        first = {fold.cohort: i for i, fold in reversed(list(enumerate(folds)))}
        jobs = [(folder, fold, m, first[fold.cohort] == i) for m in methods for i, fold in enumerate(folds)]
        # A process for each core, of one thread: bags of some hundred instances gain nothing from more.
        with ProcessPoolExecutor(os.cpu_count(), get_context("spawn"), torch.set_num_threads, (1,)) as pool:
            for (_, fold, method, _), (bags, auc, curve) in zip(jobs, pool.map(scored, jobs), strict=True):
                tables.append(bags)
                pooled.setdefault((fold.cohort, method), []).append(auc)
                if curve is not None:
                    curves[fold.cohort, method] = curve
    bags = pd.concat(tables, ignore_index=True)
    means = bags.groupby(["cohort", "method", "source"], sort=False).mean(numeric_only=True).drop(columns="target")
    means["pooled_instance_auc"] = [np.mean(pooled[cohort, method]) for cohort, method, _ in means.index]
    bags.to_csv(folder / "bags.csv", index=False, float_format="%.4f")
    means.reset_index().to_csv(folder / "summary.csv", index=False, float_format="%.3f")
    for cohort in dict.fromkeys(cohort for cohort, _ in curves):
        shown = [(method, one) for (of, method), one in curves.items() if of == cohort]
        figure = curves_figure(shown, "the positive class")
        figure.savefig(folder / f"curves-{cohort}.png", dpi=150, metadata={"Software": None})


def _draw(folder, fold, method, model, slide, bag):  # type: ignore[no-untyped-def]
    """Curves of a fold's first positive bag, and its map where it has coordinates."""
    values = relevance(model, bag, [1])
    if bag.coords is not None:
        places, scores = bag.coords.double().numpy(), values.scores.double().numpy()
        figure = heatmap_figure(places, scores, values.source, None, fold.truth[slide], f"{slide}, {method}")
        figure.savefig(
            folder / f"map-{fold.cohort}-{method.partition('[')[0]}.png", dpi=150, metadata={"Software": None}
        )
    return removal_curves(model, bag, values.scores, 1)


if __name__ == "__main__":
    small = "transmil[dim=64,heads=4,landmarks=64]"  # as in the suites of bags this small
    every = [small if name == "transmil" else name for name in milbench.list_aggregators()]
    main(Path(sys.argv[1]), sys.argv[2:] or every)
