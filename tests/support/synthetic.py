"""A store filled with made-up results, through the public writer: no model, no training."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from milbench.atomic_io.manifest import write_manifest
from milbench.config import Budget, DataSpec, Protocol, Recipe, RunSpec, Suite
from milbench.runs.store import Store

if TYPE_CHECKING:
    from pathlib import Path

#: method -> (title, family, separation of the classes, patches/s, bytes of peak memory)
METHODS = {
    "max": ("Max pooling", "iid", 1.2, 9.1e6, 210e6),
    "mean": ("Mean pooling", "iid", 0.9, 9.6e6, 205e6),
    "max_instance": ("Max instance", "iid", 1.25, 8.0e6, 215e6),
    "abmil": ("ABMIL", "iid", 2.2, 6.3e6, 260e6),
    "abmil[gated=true]": ("Gated ABMIL", "iid", 2.25, 5.8e6, 280e6),
    "dsmil": ("DSMIL", "iid", 2.1, 4.2e6, 400e6),
    "clam_sb": ("CLAM-SB", "iid", 2.3, 5.2e6, 330e6),
    "transmil": ("TransMIL", "correlated", 2.7, 5.1e5, 1900e6),
    "transmil[layers=1,ppeg=none]": ("TransMIL", "correlated", 2.5, 9.4e5, 1100e6),
}
ENVIRONMENT = {"fingerprint": "e0", "cpu": "made up", "torch": "0"}


def suite(name: str = "made-up", data: tuple[str, ...] = ("easy", "hard"), **changes: Any) -> Suite:
    specs = tuple(DataSpec(name=d, dataset="none") for d in data)
    return Suite(name=name, methods=tuple(METHODS), data=specs, **changes)


def run_spec(of: Suite, data: str, method: str, fold: str, seed: int, **changes: Any) -> RunSpec:
    base = RunSpec(
        suite=of.name, suite_version=of.version, data=data, fingerprint="f0", method=method.split("[")[0],
        params={"of": method}, recipe=Recipe(), protocol=Protocol(), budget=Budget(), fold=fold, seed=seed, threads=1,
        device_type="cpu",
    )  # fmt: skip
    return base.model_copy(update=changes)


def record(spec: RunSpec, method: str, outcome: str = "ok", **more: Any) -> dict[str, Any]:
    title, family, *_ = METHODS.get(method, (method, "iid"))
    return {
        "spec": spec, "method_canonical": method, "family": family, "title": title, "outcome": outcome,
        "reason": "" if outcome == "ok" else f"made up to be {outcome}", "parameters": 12_345,
        "environment": ENVIRONMENT, "finished": "2026-01-01T00:00:00", **more,
    }  # fmt: skip


def cost_record(of: Suite, data: str, method: str, environment: str = "e0", factor: float = 1.0) -> dict[str, Any]:
    *_, speed, memory = METHODS[method]
    return {
        "suite": of.name, "data": data, "fingerprint": "f0", "method_canonical": method, "outcome": "ok",
        "infer": {"patches_per_s": speed * factor, "bags_per_s": speed * factor / 1000},
        "train": {"bags_per_s": speed * factor / 3000},
        "memory": {"infer_peak_bytes": memory, "train_peak_bytes": 2 * memory},
        "parameters": 12_345, "flops_per_bag_infer": 1e9, "flops_per_bag_train": 3e9,
        "environment": {**ENVIRONMENT, "fingerprint": environment},
    }  # fmt: skip


def _part(fold: str, folds: tuple[str, ...], n: int, classes: int) -> np.ndarray:
    """Which bags a fold tests: its turn of a partition; repetitions (r0-f1) have partitions of their own."""
    repetition, _, turn = fold.rpartition("f")
    k = sum(name.startswith(repetition + "f") for name in folds)
    shuffled = np.random.default_rng(len(repetition) and int(repetition[1:-1])).permutation(n // classes)
    return np.isin(np.arange(n) // classes, shuffled[int(turn) :: k])


def seal(cohort: Path, data: str) -> None:
    """Write the manifest of a cohort's folder, of the files that are there."""
    files = [path for path in cohort.rglob("*") if path.is_file() and path.name != "manifest.json"]
    contents = {path.relative_to(cohort).as_posix(): path.read_bytes() for path in files}
    write_manifest(cohort, contents, {"cohort": data, "fingerprint": "f0"})


def fill(
    root: Path,
    of: Suite | None = None,
    methods: tuple[str, ...] = tuple(METHODS),
    n: int = 120,
    folds: tuple[str, ...] = ("f0", "f1", "f2"),
    seeds: int = 2,
    classes: int = 2,
    costs: bool = True,
    fail: tuple[tuple[str, str, str, int, str], ...] = (),
) -> Store:
    """Write a whole store; `fail` lists (data, method, fold, seed, outcome)."""
    of = of or suite()
    store = Store(root, of)
    store.prepare()
    failing = {f[:4]: f[4] for f in fail}
    for c, data in enumerate(d.name for d in of.data):
        rng = np.random.default_rng(c)
        labels = np.arange(n) % classes
        table = pd.DataFrame({"slide_id": [f"s{i:03d}" for i in range(n)]})
        table["patient_id"] = [f"p{i // (2 * classes)}-{i % classes}" for i in range(n)]
        table["label"] = labels
        cohort = store.cohort(data, "f0")
        (cohort / "folds").mkdir(parents=True)
        table.to_csv(cohort / "labels.csv", index=False)
        (cohort / "classes.json").write_text(json.dumps([f"class {i}" for i in range(classes)]))
        noise = rng.normal(size=n)  # hard bags are hard for every method
        for method in methods:
            own = np.random.default_rng([c, len(method), sum(map(ord, method))])
            for fold in folds:
                for seed in range(seeds):
                    spec = run_spec(of, data, method, fold, seed)
                    outcome = failing.get((data, method, fold, seed), "ok")
                    if outcome == "missing":
                        continue
                    logits = 0.6 * METHODS[method][2] / (c + 1) * np.eye(classes)[labels]
                    logits += 0.6 * noise[:, None] * np.arange(classes) + 0.35 * own.normal(size=(n, classes))
                    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
                    pred = pd.DataFrame({"slide_id": table["slide_id"]})
                    pred["split"] = np.where(_part(fold, folds, n, classes), "test", "val")
                    for k in range(classes):
                        pred[f"p{k}"] = p[:, k]
                    done = outcome == "ok"
                    history = pd.DataFrame({"epoch": [1, 2], "val_loss": [0.7, 0.6]})
                    store.publish_run(
                        spec.run_id, record(spec, method, outcome), pred if done else None, history if done else None
                    )
            if costs:
                store.publish_cost(f"{data}{method.replace('[', '-').replace(']', '')}", cost_record(of, data, method))
        seal(cohort, data)
    return store
