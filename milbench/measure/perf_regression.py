"""Performance regressions: a run of the benchmarks against the committed reference, by asv's rule.

**The rule.** A quantity got worse when its median grew by more than a stated factor, by more than a stated floor, AND
a one-sided Mann-Whitney test on the raw samples says p < .002. The factor decides: samples of one
run share that run's luck (placement of memory, clock), so p alone overstates; p keeps a factor between two noisy
medians from counting.

**Same machine class.** Seconds got worse AND so did their ratio to every yardstick of the machine that ran between the
rounds (a matrix product and a copy; for start-up an empty interpreter). A noisy neighbour slows the seconds but not the
ratio; a lucky yardstick moves the ratio but not the seconds.

**Another machine class.** Seconds are not compared. Ratios are, by a wider factor: against the yardsticks of that run
(all must agree, for machines differ in how compute and bandwidth relate), and against the authors' form where it was
recorded. Bytes depend little on the machine and are compared in the same way.

A benchmark without a reference, or missing in the new run, fails: it was not compared.
"""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from ..errors import MilbenchError
from .benchmark_files import RECORD, REFERENCES, Benchmark, BenchmarkFile, choose, read, save

#: Level of the rank test, as in asv.
ALPHA = 0.002
#: Median over the reference's median that counts, for seconds and their ratios on machines of one class ...
TIME_FACTOR = 1.3
#: ... for ratios across machine classes ...
RATIO_FACTOR = 2.0
#: ... and for peak memory, on any machine.
MEMORY_FACTOR = 1.5
#: Differences of a round below these are noise of clock, interpreter and allocator, whatever the factor.
TIME_FLOOR_S = 20e-6
MEMORY_FLOOR_BYTES = 2**20
#: The yardstick that is no property of the machine: another implementation of the same function.
AUTHORS = "authors"

REGRESSION = 3
FAILURES = ("regression", "missing", "no reference", "too few samples")


@dataclass(frozen=True)
class Verdict:
    """How new samples compare with old ones.

    Attributes:
        old, new: medians.
        factor: new over old; infinite when only the old one is 0.
        p: one-sided Mann-Whitney p of "the new samples tend to be larger".
        regression: whether factor, floor and p all say so.
        decidable: False when so few samples cannot reach the level with any values.
    """

    old: float
    new: float
    factor: float
    p: float
    regression: bool
    decidable: bool


@dataclass(frozen=True)
class Row:
    """One compared quantity of one benchmark.

    Attributes:
        benchmark: its name.
        quantity: ``time`` (seconds a round), ``time / NAME`` (ratio to what ran between the rounds) or ``peak memory``
            (bytes).
        old, new, factor, p: as in `Verdict`; NaN where there was nothing to compare.
        verdict: ``ok``, ``better``, ``slow machine`` (seconds are worse, but so are the machine's yardsticks),
            ``not compared`` (seconds of another machine class), or one of `FAILURES`.
    """

    benchmark: str
    quantity: str
    old: float
    new: float
    factor: float
    p: float
    verdict: str

    def __str__(self) -> str:
        if math.isnan(self.factor):
            return f"{self.verdict}: {self.benchmark}, {self.quantity}"
        show = {"time": _seconds, "peak memory": _mebibytes}.get(self.quantity, "{:.3g}".format)
        return (
            f"{self.verdict}: {self.benchmark}, {self.quantity} {show(self.old)} -> {show(self.new)} "
            f"({self.factor:.2f}x, p {self.p:.1g})"
        )


@dataclass(frozen=True)
class Report:
    """The result of `compare_file`.

    Attributes:
        lines: for people; failures first.
        rows: everything that was compared.
        exit_code: 0, or 3 when something regressed or had no reference.
    """

    lines: list[str]
    rows: list[Row]
    exit_code: int


def compare_samples(new: ArrayLike, old: ArrayLike, factor: float = TIME_FACTOR, alpha: float = ALPHA,
                  floor: float = 0.0) -> Verdict:  # fmt: skip
    """Compare raw samples by the rule.

    Args:
        new, old: (n,) and (m,) samples, larger is worse.
        factor: ratio of medians above which a difference counts.
        alpha: level of the one-sided Mann-Whitney test; exact without ties, else the corrected normal approximation.
        floor: difference of medians above which it counts, in the samples' unit.
    """
    x, y = np.asarray(new, dtype=np.float64), np.asarray(old, dtype=np.float64)
    was, now = float(np.median(y)), float(np.median(x))
    grown = now / was if was > 0 else (math.inf if now > 0 else 1.0)
    pooled = np.concatenate([x, y])
    if (pooled == pooled[0]).all():
        p = 1.0
    else:
        method: Literal["exact", "asymptotic"] = "exact" if len(np.unique(pooled)) == len(pooled) else "asymptotic"
        p = float(stats.mannwhitneyu(x, y, alternative="greater", method=method).pvalue)
    worse = grown > factor and now - was > floor and p < alpha
    # Of all orders of n + m samples one is the most extreme: no test on ranks goes below its share.
    return Verdict(was, now, grown, p, worse, 1 / math.comb(len(x) + len(y), len(x)) < alpha)


def compare_file(new: str | Path, reference: str | Path = REFERENCES) -> Report:
    """Compare a run of the benchmarks with the committed references.

    Args:
        new: a file of ``--benchmark-json``.
        reference: folder of the references, one folder a machine class.

    Raises:
        MilbenchError: a file that cannot be read.
    """
    file = read(new)
    remake = f"python -m milbench.measure.perf_regression save {new}" + (
        f" {reference}" if Path(reference) != REFERENCES else ""
    )
    due = choose(file, reference)
    if due is None:
        return Report([f"no reference in {reference}: nothing was compared; make one with {remake}"], [], REGRESSION)
    same = due.machine_class == file.machine_class
    rows = [row for name in {**file.benchmarks, **due.benchmarks} for row in _compare(name, file, due, same)]
    lines = [f"machine class {file.machine_class}, reference {due.path}"]
    if not same:
        lines.append(
            f"that reference is of another machine class: seconds are not compared, only memory and ratios "
            f"(limit {RATIO_FACTOR}x); make one of this class with {remake}"
        )
    elif drift := _drift(file, due):
        lines.append(drift)
    failed = [row for row in rows if row.verdict in FAILURES]
    lines += [str(row) for row in rows if row.verdict == "slow machine"] + [str(row) for row in failed]
    kinds = Counter(row.verdict for row in rows)
    if kinds["missing"]:
        lines.append(f"what is missing was not measured; measure everything with {RECORD}")
    if kinds["no reference"]:
        lines.append(f"what has no reference needs one, once this run is what it should be: {remake}")
    if kinds["too few samples"]:
        lines.append(f"too few samples to reach p < {ALPHA}; measure again with {RECORD}")
    if kinds["slow machine"]:
        lines.append(f"where the machine was slow a slowdown can hide: measure again, on a quiet one, with {RECORD}")
    if kinds["better"]:
        lines.append(f"{kinds['better']} quantities are better by more than the limit; to hold that: {remake}")
    lines.append(f"{len(rows)} quantities of {len(file.benchmarks)} benchmarks, {len(failed)} failures")
    return Report(lines, rows, REGRESSION if failed else 0)


def save_reference(new: str | Path, reference: str | Path = REFERENCES) -> Path:
    """Make a run of the benchmarks the reference of its machine class, without host, user or paths; return its path.

    Raises:
        MilbenchError: the file cannot be read, has too few samples for a comparison, or cannot be written.
    """
    for benchmark in read(new).benchmarks.values():
        for samples in (benchmark.seconds, benchmark.peak_bytes):
            n = len(samples)
            if n and 1 / math.comb(2 * n, n) >= ALPHA:
                raise MilbenchError(
                    f"{new}: {benchmark.name} has {n} samples of a quantity, too few for p < {ALPHA}; "
                    f"write it with {RECORD}.",
                    code="benchmark-unusable",
                )
    return save(new, reference)


def _compare(name: str, file: BenchmarkFile, due: BenchmarkFile, same: bool) -> list[Row]:
    new, old = file.benchmarks.get(name), due.benchmarks.get(name)
    if new is None:
        return [_absent(name, "time", "missing")]
    if old is None:
        return [_absent(name, "time", "no reference")]
    rows = _time(new, old, same)
    for quantity in sorted(old.companions.keys() - new.companions.keys()):
        rows.append(_absent(name, f"time / {quantity}", "missing"))
    for quantity in sorted(new.companions.keys() - old.companions.keys()):
        rows.append(_absent(name, f"time / {quantity}", "no reference"))
    if len(new.peak_bytes) and len(old.peak_bytes):
        limits = (MEMORY_FACTOR, ALPHA, MEMORY_FLOOR_BYTES)
        verdict = compare_samples(new.peak_bytes, old.peak_bytes, *limits)
        better = compare_samples(old.peak_bytes, new.peak_bytes, *limits).regression
        rows.append(_row(name, "peak memory", verdict, _word(verdict, verdict.regression, better)))
    elif len(new.peak_bytes) or len(old.peak_bytes):
        rows.append(_absent(name, "peak memory", "missing" if len(old.peak_bytes) else "no reference"))
    return rows


def _time(new: Benchmark, old: Benchmark, same: bool) -> list[Row]:
    """Compare seconds and ratios of one benchmark together."""
    factor = TIME_FACTOR if same else RATIO_FACTOR
    ratios = {
        name: _both_ways(new.seconds / new.companions[name], old.seconds / old.companions[name], factor,
                         TIME_FLOOR_S / float(np.median(new.companions[name])))
        for name in sorted(new.companions.keys() & old.companions.keys())
    }  # fmt: skip
    machine = [both for name, both in ratios.items() if name != AUTHORS]
    seconds = _both_ways(new.seconds, old.seconds, factor, TIME_FLOOR_S)
    agreeing = [*machine, *([seconds] if same else [])]
    worse = bool(agreeing) and all(worse.regression for worse, _ in agreeing)
    better = bool(agreeing) and all(better.regression for _, better in agreeing)
    word_for_time = _word(seconds[0], worse, better)
    if same and word_for_time == "ok" and seconds[0].regression:
        word_for_time = "slow machine"
    rows = [_row(new.name, "time", seconds[0], word_for_time if same else "not compared")]
    for name, (verdict, reverse) in ratios.items():
        if name == AUTHORS:
            word = "not compared" if same else _word(verdict, verdict.regression, reverse.regression)
        else:
            # On a machine of the class the seconds carry the verdict; elsewhere the ratios do.
            word = "ok" if same else _word(verdict, worse, better)
        rows.append(_row(new.name, f"time / {name}", verdict, word))
    return rows


def _both_ways(new: ArrayLike, old: ArrayLike, factor: float, floor: float) -> tuple[Verdict, Verdict]:
    return compare_samples(new, old, factor, ALPHA, floor), compare_samples(old, new, factor, ALPHA, floor)


def _word(verdict: Verdict, worse: bool, better: bool) -> str:
    if not verdict.decidable:
        return "too few samples"
    return "regression" if worse else "better" if better else "ok"


def _row(name: str, quantity: str, verdict: Verdict, word: str) -> Row:
    return Row(name, quantity, verdict.old, verdict.new, verdict.factor, verdict.p, word)


def _absent(name: str, quantity: str, word: str) -> Row:
    return Row(name, quantity, math.nan, math.nan, math.nan, math.nan, word)


def _drift(file: BenchmarkFile, due: BenchmarkFile) -> str:
    """Say when the matrix product took much longer while the reference was made: a slowdown could hide behind that."""
    then, now = ([s for b in f.benchmarks.values() for s in b.companions.get("gemm", ())] for f in (due, file))
    if not then or not now or (slower := float(np.median(then) / np.median(now))) <= TIME_FACTOR:
        return ""
    return (
        f"the machine's matrix product took {slower:.2f}x as long when the reference was made: it was busy then, and "
        "seconds that grew by less pass unseen; record the reference again on a quiet machine"
    )


def _seconds(value: float) -> str:
    return f"{value:.3g} s" if value >= 1 else f"{value * 1e3:.3g} ms" if value >= 1e-3 else f"{value * 1e6:.3g} us"


def _mebibytes(value: float) -> str:
    return f"{value / 2**20:.4g} MiB"


def main(arguments: Sequence[str]) -> int:
    """Run ``compare FILE [FOLDER]`` or ``save FILE [FOLDER]``; exit code 0 ok, 1 usage or bad input, 3 regression.

    ``judge``, the former name of ``compare``, keeps working.
    """
    if len(arguments) not in (2, 3) or arguments[0] not in ("compare", "judge", "save"):
        sys.stderr.write(
            f"usage: python -m milbench.measure.perf_regression compare|save FILE [FOLDER, default {REFERENCES}]\n"
        )
        return 1
    verb, new, folder = (*arguments, str(REFERENCES))[:3]
    try:
        if verb == "save":
            print(save_reference(new, folder))
            return 0
        report = compare_file(new, folder)
    except MilbenchError as error:
        sys.stderr.write(f"milbench: {error} [{error.code}]\n")
        return 1
    print("\n".join(report.lines))
    return report.exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
