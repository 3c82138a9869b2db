"""The table of a sweep over bag lengths: one row a method, mode and length, from the raw samples. No torch here."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

#: Peak memory below this counts as none, and no growth is computed from it.
MEMORY_FLOOR_BYTES = 0.1 * 2**20

#: Share of the best multiply rate below which a row was measured on a busy machine.
BUSY_SHARE = 0.8

#: The content of each column, units in the names; the CSV has them in this order.
COLUMNS = {
    "method": "name with the parameters that differ from their defaults",
    "against": "the method it is compared with; empty where none was requested",
    "mode": "infer: evaluation mode, probabilities; train: one optimizer step, of one bag",
    "dtype": "fp32, tf32, bf16 or fp16 (autocast)",
    "device": "CPU or GPU model and the threads",
    "n": "instances of the bag",
    "in_dim": "width of the features",
    "outcome": "ok, oom, unsupported or failed",
    "reason": "why it did not end ok",
    "iterations": "timed calls, of all rounds",
    "seconds_median": "of a call, over all rounds",
    "seconds_low": "lower quartile",
    "seconds_high": "upper quartile",
    "bags_per_s": "1 / seconds_median",
    "patches_per_s": "n / seconds_median",
    "peak_memory_bytes": "at the worst moment, over a baseline of libraries, features and model",
    "reserved_bytes": "CUDA: the most torch's allocator held, baseline included",
    "process_bytes": "CUDA: what the driver counts for the process",
    "parameters": "numbers the method has",
    "flops": "operations of matrix products, convolutions and fused attention, counted as they were made",
    "flops_mandatory": "of products nothing avoids: the method's closed form, in training twice it; else flops",
    "bytes_mandatory": "features and parameters read once; train: gradients and parameters written once as well",
    "gemm_flops_per_s": "this machine's matrix multiply, timed between the method's own calls",
    "share_of_best": "gemm_flops_per_s over its highest in the table; below 0.8 the machine was busy with other work",
    "time_over_gemm": "seconds over those its operations take at gemm_flops_per_s; medians of the rounds",
    "ceiling_seconds": "the longer of flops_mandatory / measured multiply rate, bytes / read bandwidth",
    "bound_by": "which of the two: compute or memory",
    "fraction_of_ceiling": "ceiling_seconds / seconds_median; above 1 where a bag is read from the caches",
    "time_growth_exponent": "slope of log seconds_median against log n, of this method and mode",
    "memory_growth_exponent": "slope of log peak_memory_bytes against log n, where it is at least 0.1 MiB",
    "speedup_vs_against": "seconds_median of the method compared with / seconds_median",
    "memory_vs_against": "peak_memory_bytes / that of the method compared with",
}


@dataclass
class Cells:
    """The measurements of one row: raw seconds a round, and the figures of the memory pass.

    Attributes:
        rounds: seconds of the method's calls, round by round.
        gemm: seconds of the machine's own matrix multiply, interleaved with them.
        gemm_flops: operations of one such multiply, round by round.
        memory: ``peak_bytes``, ``flops`` and what else `milbench.runs.scaling.measurement.measure_cell` returns; empty
            where it did not end ok.
    """

    method: str
    mode: str
    n: int
    outcome: str = "ok"
    reason: str = ""
    rounds: list[tuple[float, ...]] = field(default_factory=list)
    gemm: list[tuple[float, ...]] = field(default_factory=list)
    gemm_flops: list[int] = field(default_factory=list)
    memory: Mapping[str, Any] = field(default_factory=dict)

    def samples(self) -> dict[str, Any]:
        """Return the raw samples as a JSON value."""
        return {"method": self.method, "mode": self.mode, "n": self.n, "seconds": self.rounds,
                "gemm_seconds": self.gemm, "gemm_flops": self.gemm_flops, "memory": dict(self.memory)}  # fmt: skip


def tidy(cells: Sequence[Cells], *, dtype: str, device: str, in_dim: int, flops_per_s: float, read_bytes_per_s: float,
         against: Mapping[str, str] | None = None) -> pd.DataFrame:  # fmt: skip
    """Return one row a method, mode and length, in the order of `cells`, with the columns of `COLUMNS`.

    Args:
        cells: of all rows; those that did not end ok are rows too, with their outcome and reason.
        dtype, device, in_dim: of the whole table.
        flops_per_s: measured matrix-multiply rate in this dtype.
        read_bytes_per_s: measured bandwidth of reading.
        against: method -> the method it is compared with, which has rows of its own.
    """
    pairs = against or {}
    rows = [
        {"method": c.method, "against": pairs.get(c.method, ""), "mode": c.mode, "dtype": dtype, "device": device,
         "n": c.n, "in_dim": in_dim, "outcome": c.outcome, "reason": c.reason}
        | (_figures(c, flops_per_s, read_bytes_per_s) if c.outcome == "ok" else {})
        for c in cells
    ]  # fmt: skip
    text = {"method", "against", "mode", "dtype", "device", "outcome", "reason", "bound_by"}
    df = pd.DataFrame(rows, columns=list(COLUMNS))
    df["bound_by"] = df["bound_by"].fillna("")
    for column in set(COLUMNS) - text:
        df[column] = pd.to_numeric(df[column])
    for _, block in df.groupby(["method", "mode"], sort=False):
        n = block["n"].to_numpy(float)
        df.loc[block.index, "time_growth_exponent"] = growth_exponent(n, block["seconds_median"].to_numpy(float))
        peak = block["peak_memory_bytes"].to_numpy(float)
        grown = np.where(peak >= MEMORY_FLOOR_BYTES, peak, np.nan)
        df.loc[block.index, "memory_growth_exponent"] = growth_exponent(n, grown)
    df["share_of_best"] = df["gemm_flops_per_s"] / df["gemm_flops_per_s"].max()
    other = {(r.method, r.mode, r.n): (r.seconds_median, r.peak_memory_bytes) for r in _rows(df)}
    of = [other.get((r.against, r.mode, r.n), (math.nan, math.nan)) for r in _rows(df)]
    df["speedup_vs_against"] = np.array([seconds for seconds, _ in of], float) / df["seconds_median"]
    # Next to nothing over next to nothing is no ratio.
    peaks = np.array([peak if peak >= MEMORY_FLOOR_BYTES else math.nan for _, peak in of], float)
    df["memory_vs_against"] = df["peak_memory_bytes"] / peaks
    return df


def growth_exponent(n: np.ndarray, y: np.ndarray) -> float:
    """Return the slope of log y against log n by least squares, y ~ n^slope; NaN with fewer than two lengths.

    Args:
        n: (k,) bag lengths.
        y: (k,) figures; those that are not positive or not finite are left out.
    """
    kept = np.isfinite(y) & (np.nan_to_num(y) > 0)
    x, z = np.log(n[kept]), np.log(y[kept])
    if len(set(x.tolist())) < 2:
        return math.nan
    return float(((x - x.mean()) * (z - z.mean())).sum() / ((x - x.mean()) ** 2).sum())


def _rows(df: pd.DataFrame) -> Iterator[Any]:
    return df.itertuples(index=False)


def _figures(cells: Cells, flops_per_s: float, read_bytes_per_s: float) -> dict[str, Any]:
    seconds, memory = list(itertools.chain(*cells.rounds)), cells.memory
    median = statistics.median(seconds)
    low, _, high = statistics.quantiles(seconds, n=4, method="inclusive") if len(seconds) > 1 else seconds * 3
    needed = memory["flops_mandatory"]
    rates = [one / statistics.median(turns) for one, turns in zip(cells.gemm_flops, cells.gemm, strict=True)]
    # Round by round: a slow round had slow multiplies too.
    over = [statistics.median(s) * rate / needed for s, rate in zip(cells.rounds, rates, strict=True)] if needed else []
    compute, reading = needed / flops_per_s, memory["bytes_mandatory"] / read_bytes_per_s
    ceiling = max(compute, reading)
    return {
        "iterations": len(seconds),
        "seconds_median": median,
        "seconds_low": low,
        "seconds_high": high,
        "bags_per_s": 1 / median,
        "patches_per_s": cells.n / median,
        "peak_memory_bytes": memory["peak_bytes"],
        "reserved_bytes": memory["reserved_bytes"],
        "process_bytes": memory["process_bytes"],
        "parameters": memory["parameters"],
        "flops": memory["flops"],
        "flops_mandatory": memory["flops_mandatory"],
        "bytes_mandatory": memory["bytes_mandatory"],
        "gemm_flops_per_s": statistics.median(rates),
        "time_over_gemm": statistics.median(over) if over else None,
        "ceiling_seconds": ceiling,
        "bound_by": "compute" if compute >= reading else "memory",
        "fraction_of_ceiling": ceiling / median,
    }


def short_name(method: str) -> str:
    """Return a method's name without the module it lives in: ``my_pkg.pool:MyPool[a=1]`` is ``MyPool[a=1]``."""
    name, bracket, parameters = method.partition("[")
    return name.rsplit(":", 1)[-1] + bracket + parameters
