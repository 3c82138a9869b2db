"""``milbench measure``: the cost of methods as bags grow, each measurement in a fresh process.

At every length all methods are interleaved, a process each, for several rounds: whatever slows the machine slows all of
them equally. Memory is measured after, in processes of its own. A measurement that runs out of memory is a row that
says so.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

import pandas as pd
import torch

from ...atomic_io.json_lines import JsonLines
from ...config import digest
from ...errors import MilbenchError, did_you_mean
from ...measure.environment import environment, fingerprint, source_digest
from ...measure.load import Load
from ...measure.roofline import Dtype, check_dtype
from ...registry import registry, resolve
from ..launchers.base import Outcome
from ..launchers.local import run_all
from ..live import Phase, Progress, Session
from ..worker import work
from .measurement import CellKind, MachineTask, Mode, ScalingTask
from .table import Cells, tidy

MODES: tuple[Mode, ...] = get_args(Mode)
#: Share of the available memory that a measurement may take by default: the rest is left to other processes.
MEMORY_SHARE = 0.9
#: method -> its authors' form: in the tests' support code, since it is what milbench is compared with, not part of it.
AUTHORS = {"transmil": "tests.support.authors:AuthorsTransMIL"}


@dataclass(frozen=True)
class SweepPlan:
    """A checked sweep: the measurements, and how they are made.

    Attributes:
        methods: canonical specs, those compared with included.
        against: method -> the method it is compared with.
        lengths: instances of a bag, ascending.
        modes: ``infer``, ``train``.
        dtype: of the products.
        in_dim, n_classes: of features and head.
        rounds: fresh processes that time a cell.
        iterations: timed calls of a cell in all rounds together, at least.
        threads: CPU threads of a process.
        device_type: ``cpu`` or ``cuda``.
        memory_bytes: the most a process may take beyond its libraries; None: nine tenths of what is available.
        seed: of features and parameters.
    """

    methods: tuple[str, ...]
    against: dict[str, str]
    lengths: tuple[int, ...]
    modes: tuple[Mode, ...]
    dtype: Dtype
    in_dim: int
    n_classes: int
    rounds: int
    iterations: int
    threads: int
    device_type: str
    memory_bytes: int | None = None
    seed: int = 0

    def cells(self) -> Iterator[ScalingTask]:
        """Yield every measurement in the order it is made: methods interleaved within a length; memory after time."""
        each = -(-self.iterations // self.rounds)
        passes: list[tuple[CellKind, int]] = [("time", self.rounds), ("memory", 1)]
        for n in self.lengths:
            for mode in self.modes:
                for kind, times in passes:
                    for _ in range(times):
                        for method in self.methods:
                            yield ScalingTask(
                                method, mode, n, self.in_dim, self.n_classes, self.dtype, kind, each, self.threads,
                                self.device_type, self.memory_bytes, self.seed,
                            )  # fmt: skip


@dataclass
class ScalingSweep:
    """The results of a sweep over bag lengths.

    Attributes:
        plan: as it was carried out, the memory limit filled in.
        table: tidy, see `milbench.runs.scaling.table.COLUMNS`.
        environment: of the measuring processes.
        ceiling: of the machine, `milbench.measure.roofline.Ceiling` as a JSON value.
        samples: raw, one entry a row of the table.
        load: how busy the machine was since the command was given, `milbench.measure.load.Load.reading`.
    """

    plan: SweepPlan
    table: pd.DataFrame
    environment: dict[str, Any]
    ceiling: dict[str, Any]
    samples: list[dict[str, Any]] = field(default_factory=list)
    load: dict[str, float] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        """Return everything but the table as a JSON value."""
        return {"plan": asdict(self.plan), "environment": self.environment, "ceiling": self.ceiling,
                "samples": self.samples, "load": self.load}  # fmt: skip


def plan_sweep(
    methods: Sequence[str] | None = None,
    lengths: Sequence[int] = (1_000, 4_000, 16_000, 64_000),
    *,
    modes: Sequence[str] = MODES,
    dtype: str = "fp32",
    in_dim: int = 1024,
    n_classes: int = 2,
    against: str | None = None,
    rounds: int = 3,
    iterations: int = 10,
    threads: int | None = None,
    device: str = "auto",
    memory_bytes: int | None = None,
    seed: int = 0,
) -> SweepPlan:
    """Check what is to be measured, and write it out; nothing is run.

    Args:
        methods: names with parameters, or ``module:Class``; None: every registered method.
        against: a method all others are compared with, or ``authors``: each with its authors' form, where it has one.
        threads: None: all cores there are.
        device: ``auto``, ``cpu`` or ``cuda``.

    Other arguments are the fields of `SweepPlan`.

    Raises:
        MilbenchError: something in it cannot be.
    """
    for name, value in (("rounds", rounds), ("iterations", iterations), ("threads", threads), ("dim", in_dim),
                        ("memory", memory_bytes), *(("a bag length", n) for n in lengths)):  # fmt: skip
        if value is not None and value < 1:
            raise MilbenchError(f"{name} is {value}; it must be at least 1.", code="option-bad-value")
    if threads is not None and threads > _cores():
        raise MilbenchError(
            f"threads is {threads}, and this process may use {_cores()} cores; give at most as many.",
            code="option-bad-value",
        )
    if not lengths:
        raise MilbenchError(
            "the sweep has no bag lengths; give bag lengths such as 1k,4k,16k.", code="option-bad-value"
        )
    if unknown := [mode for mode in modes if mode not in MODES]:
        raise MilbenchError(f"unknown mode {unknown[0]!r}; give infer, train or infer,train.", code="option-bad-value")
    device_type = _device(device)
    resolved = [resolve(text) for text in (methods or registry().names())]
    names = list(dict.fromkeys(method.canonical for method in resolved))
    pairs = _pairs(names, against)
    names += [name for name in dict.fromkeys(pairs.values()) if name not in names]
    for name in names:
        resolve(name).size(in_dim, n_classes)  # what it refuses is known now
    return SweepPlan(
        tuple(names), pairs, tuple(sorted(set(lengths))), tuple(m for m in MODES if m in modes),
        check_dtype(dtype, device_type), in_dim, n_classes, rounds, iterations, threads or _cores(), device_type,
        memory_bytes, seed,
    )  # fmt: skip


def run_sweep(
    plan: SweepPlan,
    on_progress: Callable[[Progress], None] | None = None,
    journal: Path | None = None,
    on_start: Callable[[Session], None] | None = None,
) -> ScalingSweep:
    """Carry out a plan: the machine first, then cell by cell, each in a fresh process, one at a time.

    A method that did not end ok at a length is not tried again there, but at longer ones it is.

    Args:
        plan: from `plan_sweep`.
        on_progress: called after every cell.
        journal: file in which every cell is kept as it ends, see `journal_of`. Cells in it are not measured
            again; the caller removes it once the sweep's files are written.
        on_start: called with what knows the state of the work, before any of it is done.

    Raises:
        MilbenchError: the machine itself could not be measured.
    """
    cells, load = list(plan.cells()), Load()
    done = _Journal(journal)
    rows = {(c.n, c.mode, c.method): Cells(c.method, c.mode, c.n) for c in cells}

    session = Session(None)
    if on_start is not None:
        on_start(session)
    left = sum(_work(cell) for n, cell in enumerate(cells, start=2) if n not in done.results)
    with closing(done):
        phase = Phase(session, "measuring", len(cells) + 1, left, on_progress)
        machine = done.results.get(_MACHINE)
        if machine is None:
            machine = _measured(MachineTask(plan.dtype, plan.threads, plan.device_type))
            if machine.outcome != "ok":
                raise MilbenchError(
                    f"this machine's own rates in {plan.dtype} could not be measured: {machine.reason}.",
                    code="scaling-not-measured",
                )
            done.add(_MACHINE, machine)
        phase.ended(f"this machine, {plan.dtype}", machine.outcome, machine.reason)
        cap = plan.memory_bytes or int(MEMORY_SHARE * machine.value["available_bytes"])
        plan = replace(plan, memory_bytes=cap)
        for number, cell in enumerate(plan.cells(), start=2):
            row = rows[cell.n, cell.mode, cell.method]
            if number in done.results:
                _keep(row, cell, done.results[number])
                phase.passed()
                continue
            if row.outcome != "ok":  # a cell before it was too large, say
                session.advance(_work(cell))
                phase.passed()
                continue
            session.start(str(number), _named(cell), _work(cell))
            result = _measured(cell)
            done.add(number, result)
            _keep(row, cell, result)
            session.finish(str(number))
            phase.ended(_named(cell), result.outcome, result.reason)
    here, ceiling = machine.value["environment"], machine.value["ceiling"]
    kept = list(rows.values())
    table = tidy(
        kept, dtype=plan.dtype, device=device_slug(here, plan.device_type), in_dim=plan.in_dim,
        flops_per_s=ceiling["flops_per_s"], read_bytes_per_s=ceiling["read_bytes_per_s"], against=plan.against,
    )  # fmt: skip
    return ScalingSweep(plan, table, here, ceiling, [row.samples() for row in kept], load.reading())


def _measured(task: MachineTask | ScalingTask) -> Outcome:
    """Measure in a fresh process of this machine."""
    ((_, result),) = run_all(work, [(None, task)], 1)
    return result


def _named(cell: ScalingTask) -> str:
    return f"{cell.method} {cell.mode} n={cell.n} {cell.kind}"


def _work(cell: ScalingTask) -> float:
    """Return the size of a cell in units that all share: a process to start, and calls as long as the bag."""
    calls = (cell.iterations + 2 if cell.kind == "time" else 3) * (3 if cell.mode == "train" else 1)
    return 20_000.0 + calls * cell.n


def journal_of(plan: SweepPlan, folder: Path) -> Path:
    """Return where a plan's cells are kept until its files are written: one file a plan, machine and code."""
    here = environment()
    here["numerics"]["threads"] = plan.threads  # as the measuring processes see themselves
    code = {method: resolve(method).code for method in plan.methods}
    key = digest({"plan": asdict(plan), "environment": fingerprint(here), "software": here["software"], "code": code,
                  "source": source_digest()})  # fmt: skip
    return folder / f".measure-{key}.jsonl"


#: Number of the machine's own entry; the cells' begin at 2.
_MACHINE = 1


class _Journal:
    """The cells that have ended, a record each; in memory alone where there is no file."""

    def __init__(self, path: Path | None) -> None:
        self.results: dict[int, Outcome] = {}
        self._lines = None if path is None else JsonLines(path, durable=True)
        if self._lines is None:
            return
        for record in self._lines.records():
            with suppress(KeyError):  # of a milbench before: measured again
                self.results[record["number"]] = Outcome(record["outcome"], record["reason"], record["value"])
        self._lines.resume()

    def add(self, number: int, result: Outcome) -> None:
        self.results[number] = result
        if self._lines is not None:
            self._lines.append(
                {"number": number, "outcome": result.outcome, "reason": result.reason, "value": result.value}
            )

    def close(self) -> None:
        if self._lines is not None:
            self._lines.close()


def parse_lengths(text: str) -> tuple[int, ...]:
    """Return bag lengths from ``1k,4k,16k``: k is a thousand, M a million.

    Raises:
        MilbenchError: not of that form, or not positive.
    """
    out = []
    for word in text.split(","):
        match = re.fullmatch(r"\s*([0-9]+)([kKmM]?)\s*", word)
        if match is None or int(match[1]) < 1:
            raise MilbenchError(
                f"{word.strip()!r} is no bag length; give positive whole numbers such as 500, 16k or 1M.",
                code="option-bad-value",
            )
        out.append(int(match[1]) * {"": 1, "k": 1_000, "m": 1_000_000}[match[2].lower()])
    return tuple(out)


def file_stem(sweep: ScalingSweep) -> str:
    """Return the name of a sweep's files: device, torch, dtype."""
    version = sweep.environment["software"]["torch"].partition("+")[0]
    return f"{device_slug(sweep.environment, sweep.plan.device_type)}-torch{version}-{sweep.plan.dtype}"


def device_slug(environment: dict[str, Any], device_type: str) -> str:
    """Return a name for files: ``amd-epyc-26-2-1-2threads``, or the GPU's model."""
    if device_type == "cuda":
        return _slug(environment["gpus"][0]["name"])
    threads = environment["numerics"]["threads"]
    return f"{_slug(environment['cpu']['model'])}-{threads}thread{'s' if threads != 1 else ''}"


def _slug(text: str) -> str:
    noise = re.sub(r"\((R|TM)\)|\bCPU\b|@.*", "", text, flags=re.IGNORECASE)
    return re.sub(r"[^a-z0-9]+", "-", noise.lower()).strip("-")


def _keep(row: Cells, cell: ScalingTask, result: Outcome) -> None:
    if result.outcome != "ok":
        row.outcome, row.reason = result.outcome, f"{cell.kind}: {result.reason}"
    elif cell.kind == "time":
        row.rounds.append(result.value["seconds"])
        row.gemm.append(result.value["gemm_seconds"])
        row.gemm_flops.append(result.value["gemm_flops"])
    else:
        row.memory = result.value


def _pairs(names: Sequence[str], against: str | None) -> dict[str, str]:
    """Return method -> the method it is compared with."""
    if against is None:
        return {}
    if against != "authors":
        other = resolve(against).canonical
        pairs = {name: other for name in names if name != other}
        if not pairs:
            raise MilbenchError(
                f"--against {against}: there is no other method to compare with it; add one with -m.",
                code="option-bad-value",
            )
        return pairs
    pairs = {}
    for name in names:
        plain, bracket, parameters = name.partition("[")
        if plain in AUTHORS:
            pairs[name] = _authors(AUTHORS[plain] + bracket + parameters)
    if not pairs:
        raise MilbenchError(
            f"none of {', '.join(names)} has an authors' form to be compared with; --against authors knows "
            f"{', '.join(AUTHORS)}.",
            code="option-bad-value",
        )
    return pairs


def _authors(spec: str) -> str:
    try:
        return resolve(spec).canonical
    except MilbenchError as error:
        if isinstance(error.__cause__, ImportError):
            raise MilbenchError(
                "the authors' form is in milbench's tests: run the command in a checkout of milbench, with "
                f"nystrom-attention installed ({error.__cause__}).",
                code="option-bad-value",
            ) from error
        raise


def _device(wanted: str) -> str:
    known = ("auto", "cpu", "cuda")
    if wanted not in known:
        raise MilbenchError(f"unknown device {wanted!r}.{did_you_mean(wanted, known)}", code="option-bad-value")
    available = torch.cuda.is_available()
    if wanted == "cuda" and not available:
        raise MilbenchError(
            "torch sees no CUDA device here; give --device cpu, or leave it out.", code="device-missing"
        )
    return "cuda" if available and wanted != "cpu" else "cpu"


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
