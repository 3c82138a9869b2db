"""Time methods plain and with ``torch.compile``, interleaved: ``python results/perf/compiled.py [FOLDER]``.

One bag of 10,000 patches and one of 64, d = 1024, fp32, inference and forward with backward; all cores; a few minutes,
most of them compiling. Writes ``compiled-<device>-torch<version>.md``. Where a compiled method differs from the plain
one by more than rounding the table says so.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch

import milbench
from milbench.measure.environment import environment
from milbench.measure.memory import settle_heap
from milbench.measure.timing import time_turns
from milbench.runs.scaling.sweep import device_slug

DIM, LABEL = 1024, torch.ones(1, dtype=torch.long)


def compared(name: str, mode: str, n: int) -> tuple[str, float, float, float]:
    """Return method, milliseconds as it is and compiled, and the largest difference of a logit."""
    torch.manual_seed(0)
    model = milbench.create(name, in_dim=DIM).eval()
    fast, bags = torch.compile(model, dynamic=False), milbench.Bags.pack([torch.randn(n, DIM)])

    def of(module):  # type: ignore[no-untyped-def]
        def infer() -> None:
            with torch.inference_mode():
                module(bags)

        def train() -> None:
            model.zero_grad()
            model.loss(module(bags), LABEL).backward()

        return infer if mode == "infer" else train

    with torch.inference_mode():
        away = float((model(bags).logits - fast(bags).logits).abs().max())
    plain, compiled = time_turns([of(model), of(fast)], turns=9)
    return name, 1e3 * plain.median, 1e3 * compiled.median, away


def main(folder: Path) -> None:
    stem = f"compiled-{device_slug(environment(), 'cpu')}-torch{torch.__version__.partition('+')[0]}"
    head = ("Method", "Mode", "n", "As it is (ms)", "Compiled (ms)", "Gain", "Largest difference of a logit")
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    began = time.perf_counter()
    for name in milbench.list_aggregators():
        for mode in ("infer", "train"):
            for n in (64, 10_000):
                torch.compiler.reset()
                try:
                    _, plain, fast, away = compared(name, mode, n)
                    line = f"{plain:.2f} | {fast:.2f} | {plain / fast:.2f}x | {away:.1e}"
                except Exception as error:
                    line = f"– | – | not compiled: {type(error).__name__} | –"
                lines.append(f"| {name} | {mode} | {n:,} | {line} |")
                print(lines[-1], flush=True)
    text = (
        f"# torch.compile, measured\n\nMade by `python results/perf/compiled.py`, {torch.get_num_threads()} threads, "
        f"{(time.perf_counter() - began) / 60:.0f} min.\n\n"
    )
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{stem}.md").write_text(text + "\n".join(lines) + "\n")


if __name__ == "__main__":
    settle_heap()
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "results/perf"))
