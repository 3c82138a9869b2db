"""Flip single bits in every kind of stored file; none may be silent: ``python tests/support/flip_bits.py 1000``.

A store with tuned runs, an oracle's trajectory, costs and a cohort, its feature cache and its built-in dataset are
made once, small. For each flip one file is changed, the command that reads it runs, and the file is put back. A flip is

- *detected*: the command ends with an error that names the file;
- *harmless*: the command prints, to the last digit, the output for the whole store (a bit that nothing reads: blanks
  between JSON values, the letter case of an exponent), or does again the part whose record is lost;
- *silent*: it prints another output. There must be none.

Prints one row a kind of file; exit code 1 where a flip was silent.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from milbench.config import Budget, DataSpec, Protocol, Suite, Tuning
from milbench.data.cache.payload import check_payload
from milbench.data.cache.reader import CacheWriter, FeatureCache
from milbench.data.cohort import load_cohort
from milbench.data.fold import Fold
from milbench.data.source_labels import SourceTable
from milbench.errors import MilbenchError
from milbench.evaluation.leaderboard import evaluate
from milbench.runs.execute import run
from milbench.runs.plan import make_plan
from milbench.runs.records import read_costs, read_suite
from milbench.runs.store_check import check_path
from milbench.runs.tuning.study import open_storage


@dataclass
class Target:
    """Files of one kind and what reads them: a function that returns text, the same text for the same content."""

    kind: str
    files: list[Path]
    read: Callable[[], str]


def make_cache(folder: Path) -> Path:
    """Write a cache of twelve slides, with labels, patients and two folds in its source.json."""
    rng = np.random.default_rng(0)
    slides = [f"s{i:02d}" for i in range(12)]
    labels = {slide: ("no", "yes")[i % 2] for i, slide in enumerate(slides)}
    folds = tuple(
        Fold(f"fold{k}", *(tuple(s for i, s in enumerate(slides) if (i // 2 + k) % 3 == part) for part in range(3)))
        for k in range(2)
    )
    with CacheWriter(
        folder / "flip.cache", "float32", {"encoder": "random", "format": "made", "order": "source"}
    ) as out:
        for i, slide in enumerate(slides):
            x = rng.normal(size=(3 + i % 4, 4)).astype(np.float32)
            x[:, 0] += 2.0 * (i % 2)
            out.add(slide, x, rng.integers(0, 99, size=(len(x), 2)))
        out.table = SourceTable(labels, {slide: f"p{slide}" for slide in slides}, folds)
    return folder / "flip.cache"


def make_suite(folder: Path, name: str, **changes: Any) -> Suite:
    """Return a small suite over the cache."""
    data = DataSpec(name="d", cache="flip.cache")
    fields: dict[str, Any] = {"methods": ("mean", "max"), "seeds": 1, "cost": False, "device": "cpu", "base": folder,
                              "recipe": {"epochs": 2, "patience": 2}, "keep_models": "best"}  # fmt: skip
    return Suite(name=name, data=(data,), **(fields | changes))


def make_store(folder: Path) -> Path:
    """Make everything that is flipped; return the results root."""
    make_cache(folder)
    results = folder / "results"
    run(make_suite(folder, "plain"), results, jobs=1)
    run(make_suite(folder, "oracle", methods=("mean",), protocol=Protocol(checkpoint="oracle")), results, jobs=1)
    tuned = {"budget": Budget(steps=4, trials=2), "tuning": Tuning(sampler="random", startup_trials=1)}
    run(make_suite(folder, "tuned", methods=("mean",), **tuned), results, jobs=1)
    plain = make_plan(make_suite(folder, "plain"), results)
    record = {"suite": "plain", "data": "d", "fingerprint": plain.cohorts[0].fingerprint, "method_canonical": "mean",
              "outcome": "ok", "cost_version": 1, "infer": {"patches_per_s": 1234.5, "bags_per_s": 12.5},
              "train": {"bags_per_s": 7.25}, "memory": {"infer_peak_bytes": 123456789, "train_peak_bytes": 234567890},
              "parameters": 10, "environment": {"fingerprint": "e0"}}  # fmt: skip
    plain.store.publish_cost("c0", record)
    return results


def targets(folder: Path, results: Path) -> list[Target]:
    """Return every kind of file with what reads it."""
    plain, oracle, tuned = (results / f"{name}-v1" for name in ("plain", "oracle", "tuned"))
    (cohort,) = (plain / "cohorts").iterdir()
    suite = make_suite(folder, "plain")
    cache = folder / "flip.cache"

    def table(of: Path) -> Callable[[], str]:
        def read() -> str:
            board = evaluate(of, resamples=20)
            more = {item.name: str(getattr(board, item.name)) for item in fields(board) if item.name != "table"}
            return board.table.to_csv() + str(more)

        return read

    def cohort_text() -> str:
        loaded = load_cohort(suite.data[0], folder)
        return str((loaded.fingerprint, loaded.labels, loaded.patients, loaded.classes, loaded.folds))

    def journal() -> str:
        import optuna

        storage = open_storage(str(tuned / "tuning" / "journal.log"))
        studies = optuna.study.get_all_study_summaries(storage)
        trials = [storage.get_all_trials(study._study_id) for study in studies]
        return str([[(t.number, t.state, t.values, t.params, t.user_attrs) for t in of] for of in trials])

    def audited() -> str:
        return str(check_path(plain).defects)

    def cached() -> str:
        opened = FeatureCache.open(cache)
        table = opened.table
        return str((opened.meta, opened.slides.to_csv(), table and table.to_json()))

    def payload() -> str:
        opened = FeatureCache.open(cache)
        check_payload(opened)
        return str([opened[slide].sum().item() for slide in opened])

    run_files = sorted((plain / "runs").glob("*/*")) + sorted((tuned / "runs").glob("*/*"))
    trajectories = sorted((oracle / "runs").glob("*/trajectory.parquet"))
    both = table(results)
    return [
        Target("labels", [cohort / "labels.csv"], table(plain)),
        Target("classes", [cohort / "classes.json"], table(plain)),
        Target("folds", sorted((cohort / "folds").iterdir()), table(plain)),
        Target("split", [cohort / "split.json"], audited),
        Target("audit", [cohort / "audit.json"], audited),
        Target("manifest", [cohort / "manifest.json"], table(plain)),
        Target("predictions", [f for f in run_files if f.name == "predictions.parquet"], both),
        Target("history", [f for f in run_files if f.name == "history.csv"], both),
        Target("trajectory", trajectories, table(oracle)),
        Target("run", [f for f in run_files if f.name == "run.json"], both),
        Target("cost", [plain / "costs" / "c0" / "cost.json"], lambda: str([c.record for c in read_costs(plain)])),
        Target("suite", [plain / "suite.json"], lambda: read_suite(plain).model_dump_json()),
        Target("journal", [tuned / "tuning" / "journal.log"], journal),
        Target("cache.toml", [cache / "cache.toml"], cached),
        Target("index", [cache / "index.parquet"], cached),
        Target("source", [cache / "source.json"], cached),
        Target("shard", sorted(cache.glob("shard-*")), payload),
        Target("cohort of a run", [cache / "source.json", cache / "index.parquet"], cohort_text),
    ]


@contextmanager
def flipped(file: Path, bit: int) -> Iterator[None]:
    """Flip one bit of a file; put it back, times included."""
    before, stat = file.read_bytes(), file.stat()
    changed = bytearray(before)
    changed[bit // 8] ^= 1 << bit % 8
    file.write_bytes(changed)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    try:
        yield
    finally:
        file.write_bytes(before)
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def campaign(folder: Path, flips: int, seed: int = 0) -> pd.DataFrame:
    """Flip bits; return one row a kind of file: flips, detected, harmless, silent, and the first silent one."""
    targets_ = targets(folder, make_store(folder))
    rng = np.random.default_rng(seed)
    rows = []
    for at, target in enumerate(targets_):
        number = flips // len(targets_) + (at < flips % len(targets_))
        if not target.files:
            raise AssertionError(f"no file of kind {target.kind}")
        whole = target.read()
        counts: Counter[str] = Counter()
        first = ""
        for _ in range(number):
            file = target.files[int(rng.integers(len(target.files)))]
            bit = int(rng.integers(8 * file.stat().st_size))
            with flipped(file, bit):
                outcome = _outcome(target, file, whole)
            counts[outcome] += 1
            if outcome not in ("detected", "harmless") and not first:
                first = f"{file.relative_to(folder)} bit {bit}: {outcome}"
        silent = number - counts["detected"] - counts["harmless"]
        rows.append({"file": target.kind, "flips": number, "detected": counts["detected"],
                     "harmless": counts["harmless"], "silent": silent, "first silent": first})  # fmt: skip
        assert target.read() == whole
    return pd.DataFrame(rows)


def _outcome(target: Target, file: Path, whole: str) -> str:
    try:
        said = target.read()
    except MilbenchError as error:
        named = file.name in str(error) or file.parent.name in str(error)
        return "detected" if named else f"an error that does not name the file: {error}"
    except Exception as error:
        return f"a traceback: {type(error).__name__}: {error}"
    if said == whole:
        return "harmless"
    if str(file.name) in said and "[" in said[:1] and target.kind in ("split", "audit"):
        return "detected"  # of `milbench verify`, which lists defects
    return "another answer"


def main() -> int:
    """Run the campaign of as many flips as the command line says."""
    flips = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    folder = Path(tempfile.mkdtemp(prefix="flip-"))
    os.environ.setdefault("MILBENCH_CACHE", str(folder / "home"))
    try:
        table = campaign(folder, flips)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(table.to_string(index=False))
    total = table[["flips", "detected", "harmless", "silent"]].sum()
    print(", ".join(f"{name} {value}" for name, value in total.items()))
    return int(total["silent"] > 0)


if __name__ == "__main__":
    sys.exit(main())
