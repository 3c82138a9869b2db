"""Memory of attention export: ``python results/interpretability/attention_memory.py [N [METHOD ...]]``.

N is 100,000 by default. Prints a line a method: the high-water mark of the whole process, features and libraries
included, and what the export itself added at its worst moment. Every method is measured in a
process of its own, in fp32 with 1024-d features.
"""

from __future__ import annotations

import resource
import subprocess
import sys

import torch

import milbench
from milbench.interpret.relevance import relevance
from milbench.measure.environment import environment
from milbench.measure.memory import PeakMemory, settle_heap
from milbench.report.markdown import machine_text

DIM = 1024


def export(n: int, method: str) -> None:
    """Print the peak of an export over what was resident before it, and the process's high-water mark, in bytes."""
    settle_heap()
    torch.manual_seed(0)
    model = milbench.create(method, in_dim=DIM)
    relevance(model, milbench.Bags.pack([torch.randn(300, DIM)]))
    bags = milbench.Bags.pack([torch.randn(n, DIM)])
    with PeakMemory() as peak:
        values = relevance(model, bags)
    assert values.source == "attention"
    assert values.scores.shape == (n,)
    assert torch.isfinite(values.scores).all()
    assert abs(float(values.scores.double().mean()) - 1) < 1e-3
    mark = max(peak.reading.total_bytes, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
    print(peak.reading.peak_bytes, mark)


def measured(n: int, method: str) -> tuple[int, int]:
    """Peak of the export and mark of the process, in bytes, from a process of its own."""
    words = [sys.executable, __file__, "export", str(n), method]
    run = subprocess.run(words, capture_output=True, text=True, check=True)
    peak, mark = run.stdout.split()[-2:]
    return int(peak), int(mark)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["export", n, method]:
            export(int(n), method)
        case [*rest]:
            length = int(rest[0].replace(",", "")) if rest else 100_000
            print(f"One bag of {DIM}-d features, fp32. Export: the attention and a score of every instance.")
            print(f"Measured in {machine_text(environment())}.")
            for name in rest[1:] or milbench.list_aggregators():
                own, whole = measured(length, name)
                print(
                    f"{name:<14} n = {length:,}: export {own / 2**30:.2f} GiB, whole process {whole / 2**30:.2f} GiB",
                    flush=True,
                )
