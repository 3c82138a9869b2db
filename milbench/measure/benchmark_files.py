"""Benchmark files of pytest-benchmark, read strictly, and the committed references made of it.

A reference lies in ``FOLDER/<machine class>/benchmarks.json``. It keeps raw samples (statistics need them), the
environment and the commit, one benchmark a line; host and user names, paths and branch names stay behind.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..atomic_io.publishing import child, make_folder, write_atomic
from ..errors import MilbenchError

Array = NDArray[np.float64]

#: Where references are committed, from the root of the checkout.
REFERENCES = Path("results/benchmarks")
FILE_NAME = "benchmarks.json"
SCHEMA = 1
#: Significant digits that a reference keeps of a sample: far below any noise, and the file stays small.
DIGITS = 4
RECORD = "python -m pytest tests/perf/test_regression.py --benchmark-json=FILE"
_COMPANION = "_seconds"


@dataclass(frozen=True)
class Benchmark:
    """Raw samples of one benchmark.

    Attributes:
        name: file and test, without the folders: ``test_regression.py::test_method[abmil-infer-64]``.
        seconds: of each round.
        companions: name -> seconds of what ran between the rounds (``extra_info["NAME_seconds"]``), one sample a round.
        peak_bytes: readings of the peak memory, in a process of its own; empty where it was not read.
    """

    name: str
    seconds: Array
    companions: dict[str, Array]
    peak_bytes: Array


@dataclass(frozen=True)
class BenchmarkFile:
    """One run of the benchmarks: where it lies, on what machine it was made, and what it measured.

    Attributes:
        path: the file.
        environment: returned by `milbench.measure.environment.environment`.
        benchmarks: name -> samples, in the order of the file.
        raw: the whole JSON value.
    """

    path: Path
    environment: dict[str, Any]
    benchmarks: dict[str, Benchmark]
    raw: dict[str, Any]

    @property
    def machine_class(self) -> str:
        """Name of the class of machines whose seconds may be compared; see `machine_class`."""
        return machine_class(self.environment)


def machine_class(environment: dict[str, Any]) -> str:
    """Return a folder's name for machines whose seconds may be compared.

    CPU model, usable cores, instruction set, torch's major and minor version, and the GPUs or ``cpu``.

    Raises:
        KeyError: an environment record that lacks one of them.
    """
    cpu, gpus = environment["cpu"], [gpu["name"] for gpu in environment["gpus"]]
    torch = re.match(r"\d+\.\d+", environment["software"]["torch"])
    device = (f"{len(gpus)}x-" if len(gpus) > 1 else "") + gpus[0] if gpus else "cpu"
    parts = [cpu["model"], f"{cpu['cores']}-cores", cpu["instruction_set"],
             f"torch-{torch[0] if torch else environment['software']['torch']}", device]  # fmt: skip
    return "_".join(re.sub(r"[^a-z0-9.]+", "-", re.sub(r"\((r|tm)\)", "", part.lower())).strip("-") for part in parts)


def read(path: str | Path) -> BenchmarkFile:
    """Read a file of ``--benchmark-json``, or a reference.

    Raises:
        MilbenchError: no such file, no JSON, no record of the machine, no benchmark, or no raw samples of one.
    """
    path = Path(path)
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MilbenchError(f"{path} does not exist; write it with {RECORD}.", code="file-missing") from None
    except (OSError, ValueError) as error:
        raise MilbenchError(
            f"{path} cannot be read as JSON ({error}); write it again with {RECORD}.", code="benchmark-unusable"
        ) from None
    try:
        environment = raw["machine_info"]["milbench"]
        machine_class(environment)
    except (KeyError, TypeError, IndexError, AttributeError):
        raise MilbenchError(
            f"{path} does not say what machine it was made on (machine_info.milbench); write it with {RECORD}.",
            code="benchmark-unusable",
        ) from None
    if (schema := raw.get("schema", SCHEMA)) != SCHEMA:
        raise MilbenchError(
            f"{path} has schema {schema}, this milbench reads {SCHEMA}; record the reference again.",
            code="benchmark-unusable",
        )
    rows = raw.get("benchmarks")
    if not isinstance(rows, list) or not rows:
        raise MilbenchError(f"{path} holds no benchmark; write it with {RECORD}.", code="benchmark-unusable")
    benchmarks: dict[str, Benchmark] = {}
    for row in rows:
        benchmark = _benchmark(path, row)
        if benchmark.name in benchmarks:
            raise MilbenchError(
                f"{path} holds {benchmark.name} twice; write it again with {RECORD}.", code="benchmark-unusable"
            )
        benchmarks[benchmark.name] = benchmark
    return BenchmarkFile(path, environment, benchmarks, raw)


def save(new: str | Path, folder: str | Path = REFERENCES) -> Path:
    """Make a run of the benchmarks the reference of its machine class; the reference before it is replaced.

    Args:
        new: a file of ``--benchmark-json``.
        folder: of the references.

    Returns:
        The reference's path.

    Raises:
        MilbenchError: `new` cannot be read, or the folder cannot be written.
    """
    file = read(new)
    commit = file.raw.get("commit_info") or {}
    head = {
        "schema": SCHEMA,
        "machine_class": file.machine_class,
        "machine_info": {"milbench": file.environment},
        "commit_info": {key: commit.get(key) for key in ("id", "dirty")},
        "datetime": file.raw.get("datetime"),
        "version": file.raw.get("version"),
    }
    lines = [f"  {json.dumps(key)}: {json.dumps(value)}," for key, value in head.items()]
    rows = ",\n".join(f"    {json.dumps(_row(b), separators=(',', ':'))}" for b in file.benchmarks.values())
    text = "\n".join(["{", *lines, '  "benchmarks": [', rows, "  ]", "}", ""])
    out = child(Path(folder), file.machine_class, what="class of machines") / FILE_NAME
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        make_folder(Path(folder), out.parent)
        write_atomic(out, text)
    except OSError as error:
        raise MilbenchError(
            f"cannot write {out}: {error.strerror}; choose a folder you may write in.", code="not-writable"
        ) from error
    return out


def choose(new: BenchmarkFile, folder: str | Path) -> BenchmarkFile | None:
    """Return the reference for a run: its own machine class's, else the most similar class's, else None."""
    own = Path(folder) / new.machine_class / FILE_NAME
    if own.is_file():
        return read(own)
    others = [read(path) for path in sorted(Path(folder).glob(f"*/{FILE_NAME}"))]
    mine = new.machine_class.split("_")

    def similarity(other: BenchmarkFile) -> int:
        return sum(a == b for a, b in zip(mine, other.machine_class.split("_"), strict=False))

    return max(others, key=similarity, default=None)


def _benchmark(path: Path, row: Any) -> Benchmark:
    try:
        file, _, test = str(row["fullname"]).partition("::")
        name = f"{PurePosixPath(file).name}::{test}"
    except (KeyError, TypeError):
        raise MilbenchError(
            f"{path} holds a benchmark without a fullname; write it again with {RECORD}.", code="benchmark-unusable"
        ) from None
    try:
        seconds, extra = row["stats"]["data"], row.get("extra_info") or {}
        companions = {k.removesuffix(_COMPANION): _samples(v) for k, v in extra.items() if k.endswith(_COMPANION)}
        benchmark = Benchmark(name, _samples(seconds), companions, _samples(extra.get("peak_bytes", []), zero=True))
    except (KeyError, TypeError, ValueError, AttributeError):
        raise MilbenchError(
            f"{path}: {name} lacks raw samples, or they are no times; write it with {RECORD}.",
            code="benchmark-unusable",
        ) from None
    short = [other for other, samples in companions.items() if len(samples) != len(benchmark.seconds)]
    if short or not len(benchmark.seconds):
        what = f"{short[0]}{_COMPANION}" if short else "stats.data"
        raise MilbenchError(
            f"{path}: {name} does not have one sample a round in {what}; write it with {RECORD}.",
            code="benchmark-unusable",
        )
    return benchmark


def _samples(values: Any, zero: bool = False) -> Array:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not np.isfinite(array).all() or (array < 0).any() or (not zero and (array == 0).any()):
        raise ValueError
    return array


def _row(benchmark: Benchmark) -> dict[str, Any]:
    extra: dict[str, list[float]] = {f"{k}{_COMPANION}": _rounded(v) for k, v in benchmark.companions.items()}
    if len(benchmark.peak_bytes):
        extra["peak_bytes"] = [int(v) for v in _rounded(benchmark.peak_bytes)]
    return {"fullname": benchmark.name, "stats": {"data": _rounded(benchmark.seconds)}, "extra_info": extra}


def _rounded(samples: Array) -> list[float]:
    def one(value: float) -> float:
        return round(value, DIGITS - 1 - math.floor(math.log10(value))) if value else 0.0

    return [one(value) for value in samples.tolist()]
