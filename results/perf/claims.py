"""Measure the claims about speed and memory: ``python results/perf/claims.py [running | FOLDER]``.

Pairs run in turns, two warm calls before a timed one where a call is short; medians; all cores; d = 1024, fp32. Memory
and the bag of a million patches are measured in processes of their own. Takes about ten minutes on two cores, and must
have the machine to itself; ``running`` measures the import and the training loop alone. Writes
``claims-<device>-torch<version>.md`` and ``.json`` with every raw sample.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))  # results/README.md, "Programs"

from support.half import digits
from support.transmil import AuthorsTransMIL

import milbench
from milbench import stats
from milbench.atomic_io.folders import fsync
from milbench.config import Budget, Protocol, RunSpec
from milbench.data.cache.build import build_cache
from milbench.data.cache.reader import CacheWriter, FeatureCache
from milbench.measure.environment import environment
from milbench.measure.memory import PeakMemory, settle_heap
from milbench.nn import linear
from milbench.registry import resolve
from milbench.runs.scaling.sweep import device_slug
from milbench.training.loader import BagLoader
from milbench.training.loop import train
from milbench.training.optimizers import build_optimizer
from milbench.training.task import TrainingTask

DIM = 1024
LABEL = torch.ones(1, dtype=torch.long)
SAMPLES: dict[str, list[list[float]]] = {}
#: The optimizer's step is the same for both and left out.
DONE = {"infer": "infer", "train": "forward and backward"}


def turns(name: str, *works: Callable[[], Any], rounds: int = 11) -> list[float]:
    """Median seconds of each piece of work, in turns; a short one is called twice before the timed call."""
    kept: list[list[float]] = [[] for _ in works]
    first = []
    for work in works:
        work()
        began = time.perf_counter()
        work()
        first.append(time.perf_counter() - began)
    for _ in range(rounds):
        for work, samples, seconds in zip(works, kept, first, strict=True):
            for _ in range(2 if seconds < 0.2 else 0):  # the other one has emptied the caches
                work()
            began = time.perf_counter()
            work()
            samples.append(time.perf_counter() - began)
    SAMPLES[name] = kept
    return [statistics.median(samples) for samples in kept]


def pair() -> tuple[Any, Any]:
    torch.manual_seed(0)
    ours, theirs = milbench.create("transmil", in_dim=DIM), AuthorsTransMIL(DIM)
    ours.load_authors_state(theirs.state_dict())
    return ours, theirs


def works(mode: str, n: int) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """TransMIL's and the authors' inference, or forward and backward pass, on one bag."""
    ours, theirs = pair()
    x = torch.randn(n, DIM)
    bags = milbench.Bags.pack([x])
    if mode == "train":

        def train_ours() -> None:
            ours.zero_grad()
            ours.loss(ours(bags), LABEL).backward()

        def train_theirs() -> None:
            theirs.zero_grad()
            torch.nn.functional.cross_entropy(theirs(x), LABEL).backward()

        return train_ours, train_theirs
    ours.eval(), theirs.eval()
    return torch.inference_mode()(lambda: ours(bags)), torch.inference_mode()(lambda: theirs(x))


def product(rows: int, inner: int, columns: int) -> tuple[Callable[[], Any], int]:
    a, b, out = torch.randn(rows, inner), torch.randn(columns, inner), torch.empty(rows, columns)
    return torch.inference_mode()(lambda: torch.mm(a, b.T, out=out)), 2 * rows * inner * columns


def best_product(rows: int, inner: int, columns: int) -> Callable[[], Any]:
    """The same from oneDNN, as milbench's methods compute it."""
    a, b = torch.randn(rows, inner), torch.randn(columns, inner)
    return torch.inference_mode()(lambda: linear(a, b))


def against_products(spec: str, n: int) -> tuple[float, float, float]:
    """Time of inference over its mandatory operations at the rate of torch's matrix product (MKL), the same at the
    better rate of MKL and oneDNN, and the milliseconds."""
    torch.manual_seed(0)
    model = milbench.create(spec, in_dim=DIM).eval()
    bags = milbench.Bags.pack([torch.randn(n, DIM)])
    shapes = [(min(n, 10_000), DIM, 512), (2048, 2048, 2048)]
    amounts = [2 * m * k * c for m, k, c in shapes]
    plain, best = [product(*shape)[0] for shape in shapes], [best_product(*shape) for shape in shapes]
    seconds, *others = turns(f"{spec} {n} gemm", torch.inference_mode()(lambda: model(bags)), *plain, *best)
    rates = [amount / t for amount, t in zip(amounts * 2, others, strict=True)]
    due = model.matrix_flops(n)
    return seconds / (due / max(rates[:2])), seconds / (due / max(rates)), 1e3 * seconds


def read_fraction(spec: str, n: int) -> tuple[float, float]:
    """Bytes of features a second over the speed of reading them: the faster of a sum and a maximum over everything."""
    model = milbench.create(spec, in_dim=DIM).eval()
    x = torch.randn(n, DIM)
    bags = milbench.Bags.pack([x])
    with torch.inference_mode():
        seconds, add, largest = turns(spec, lambda: model(bags), lambda: x.sum(), lambda: x.max())
    return min(add, largest) / seconds, x.nbytes / seconds / 1e9


def batched() -> float:
    torch.manual_seed(0)
    model = milbench.create("abmil", in_dim=166)
    xs = [torch.randn(5 + i % 36, 166) for i in range(64)]
    y = torch.arange(64) % 2
    together, alone = milbench.Bags.pack(xs), [milbench.Bags.pack([x]) for x in xs]

    def one_by_one() -> None:
        for i, bags in enumerate(alone):
            model.loss(model(bags), y[i : i + 1]).backward()

    a, b = turns("abmil batched", lambda: model.loss(model(together), y).backward(), one_by_one)
    return b / a


def reading() -> tuple[float, float]:
    """Reading from the cache against TRIDENT's HDF5 (chunks of one row), and against a plain memory copy."""
    slides = {f"s{i}": np.random.default_rng(i).normal(size=(3000, DIM)).astype(np.float16) for i in range(24)}
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        with CacheWriter(Path(folder) / "cache", dtype="float16") as writer:
            for name, features in slides.items():
                writer.add(name, features)
                with h5py.File(Path(folder) / f"{name}.h5", "w") as file:
                    file.create_dataset("features", data=features, chunks=(1, DIM))
        cache = FeatureCache.open(Path(folder) / "cache")
        buffer, plain = torch.empty(3000, DIM, dtype=torch.float16), [torch.from_numpy(f) for f in slides.values()]

        def theirs() -> None:
            for name in slides:
                with h5py.File(Path(folder) / f"{name}.h5") as file:
                    buffer.copy_(torch.from_numpy(file["features"][:]))

        a, b, c = turns(
            "read",
            lambda: [buffer.copy_(cache[name]) for name in slides],
            theirs,
            lambda: [buffer.copy_(x) for x in plain],
        )
    torch.set_num_threads(THREADS)
    return b / a, c / a


def importing() -> float:
    """Importing contiguous float16 HDF5 files, one worker, over copying them, both until they are on the disk."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        source, cache, copy = (Path(folder) / name for name in ("features", "cache", "copy"))
        (source / "h5_files").mkdir(parents=True)
        for i in range(96):
            with h5py.File(source / "h5_files" / f"s{i}.h5", "w") as file:
                file["features"] = rng.normal(size=(3000, DIM)).astype(np.float16)
                file["coords"] = np.zeros((3000, 2), np.int32)
        os.sync()

        def ours() -> None:
            shutil.rmtree(cache, ignore_errors=True)
            build_cache(source, cache, format="clam", workers=1)

        def theirs() -> None:
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(source, copy)
            for path in copy.rglob("*"):
                fsync(path)

        a, b = turns("import", ours, theirs, rounds=7)
    return b / a


def cohort() -> None:
    """Print what importing 20 GB of sparse .npy files adds to the high-water mark of a process, in bytes."""
    with tempfile.TemporaryDirectory(dir=os.environ.get("MILBENCH_SCRATCH")) as folder:
        source = Path(folder) / "features"
        source.mkdir()
        for i in range(100):
            np.lib.format.open_memmap(source / f"s{i:03d}.npy", "w+", np.float16, (97_700, DIM)).flush()
        build_cache(_few(Path(folder)), Path(folder) / "warm")
        with PeakMemory() as peak:  # not ru_maxrss: a process begins with that of the one that started it
            report = build_cache(source, Path(folder) / "cache", workers=1)
        assert report.rows * DIM * 2 > 20e9
    print(peak.reading.peak_bytes)


def _few(folder: Path) -> Path:
    """Two small slides, whose import loads what every import needs."""
    (folder / "few").mkdir()
    for i in range(2):
        np.save(folder / "few" / f"s{i}.npy", np.ones((100, DIM), np.float16))
    return folder / "few"


def loop_overhead(spec: str) -> float:
    """An epoch of `milbench.training.loop.train` over the bare forward, backward and step of the same bags, n = 2000.

    What a training does once (features to the device, operations counted for each bag length) is in its first epoch,
    which is left out; after each of the others comes one of bare steps.
    """
    epochs, bags = (33, 64) if spec in ("mean", "max") else (9, 64 if spec != "transmil" else 16)
    with tempfile.TemporaryDirectory() as folder:
        with CacheWriter(Path(folder) / "cache", dtype="float16") as writer:
            for i in range(bags):
                writer.add(f"s{i}", np.random.default_rng(i).normal(size=(2000, DIM)).astype(np.float16))
        cache, method = FeatureCache.open(Path(folder) / "cache"), resolve(spec)
        fields = {"accumulate": 1, "batch_size": 1, "patience": None, "epochs": epochs}
        recipe = method.cls.recipe.model_copy(update=fields)
        run = RunSpec(
            suite="claims", suite_version=1, data="d", fingerprint="f", method=method.name, params=method.options,
            recipe=recipe, protocol=Protocol(checkpoint="last"), budget=Budget(), fold="f", seed=0, threads=THREADS,
            device_type="cpu",
        )  # fmt: skip
        slides = tuple((f"s{i}", i % 2) for i in range(bags))
        task = TrainingTask(run, method.canonical, str(Path(folder) / "cache"), 2, slides, (), ())
        model, device = method.create(DIM, 2), torch.device("cpu")
        optimizer, targets = build_optimizer(model.parameters(), recipe), torch.arange(bags) % 2
        held = BagLoader(cache, [slide for slide, _ in slides], device)
        order, marks, bare = np.random.default_rng(0), [0.0], []
        loop: list[float] = []

        def epoch_of_bare_steps(progress: float, row: dict[str, Any]) -> None:
            loop.append(time.perf_counter() - marks[-1])
            made = [(held.batch([i]), targets[i : i + 1]) for i in order.permutation(bags).tolist()]
            began = time.perf_counter()
            for batch, target in made:
                model.loss(model(batch), target).backward()
                optimizer.step()
                optimizer.zero_grad()
            marks.append(time.perf_counter())
            bare.append(marks[-1] - began)

        train(task, cache, device, epoch_of_bare_steps)
        del loop[0], bare[0]
        SAMPLES[f"loop {spec}"] = [loop, bare]
    return statistics.median(loop) / statistics.median(bare) - 1


def bf16() -> float:
    model = milbench.create("transmil", in_dim=DIM).eval()
    bags = milbench.Bags.pack([torch.randn(10_000, DIM)])

    def half() -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            model(bags)

    with torch.inference_mode():
        a, b = turns("bf16", half, lambda: model(bags))
    return b / a


def bf16_auc() -> tuple[float, float, float]:
    """TransMIL's test AUC on digits-bags, trained in fp32: bf16's minus fp32's, with DeLong's interval."""
    labels, scores = digits()
    difference = stats.auc_difference(labels, scores["bf16"], scores["fp32"])
    return difference.estimate, difference.low, difference.high


def alone(*words: str) -> float:
    run = subprocess.run([sys.executable, __file__, *words], capture_output=True, text=True, check=True)
    return float(run.stdout.split()[-1])


def memory(who: str, mode: str, n: int) -> None:
    """Print the peak of a call over what was resident before it, in bytes; a bag of 300 has been there before."""
    ours, theirs = works(mode, n)
    tiny = works(mode, 300)
    tiny[who == "theirs"]()
    with PeakMemory() as peak:
        (ours if who == "ours" else theirs)()
    print(peak.reading.peak_bytes)


def million() -> None:
    """Print the peak memory of a process that predicts a bag of 1,000,000 patches, libraries and features included."""
    with PeakMemory() as peak, torch.inference_mode():
        model = milbench.create("transmil", in_dim=DIM).eval()
        assert torch.isfinite(model(milbench.Bags.pack([torch.randn(1_000_000, DIM)])).logits).all()
    print(peak.reading.total_bytes)


def running() -> list[tuple[str, str, str]]:
    """The rows about import and the training loop."""
    rows: list[tuple[str, str, str]] = []
    say = _sayer(rows)
    say("importing contiguous files, one worker, over copying them", ">= 0.5", f"{importing():.2f}")
    say("importing 20 GB, 100,000 patches a slide, memory", "< 1 GiB", f"{alone('cohort') / 2**30:.2f} GiB")
    for spec in ("mean", "max", "abmil", "dsmil", "clam_sb", "transmil"):
        say(f"training loop over the bare step, {spec}, n = 2,000", "<= 5 %", f"{100 * loop_overhead(spec):+.1f} %")
    return rows


def _sayer(rows: list[tuple[str, str, str]]) -> Callable[[str, str, str], None]:
    def say(what: str, bar: str, values: str) -> None:
        rows.append((what, bar, values))
        print(f"{what} | {bar} | {values}", flush=True)

    return say


def measure() -> list[tuple[str, str, str]]:
    rows: list[tuple[str, str, str]] = []
    say = _sayer(rows)

    bars = {("infer", 10_000): 2.3, ("infer", 30_000): 3.3, ("train", 10_000): 2.3, ("train", 30_000): 2.8,
            ("infer", 10): 30, ("train", 10): 30, ("infer", 64): 10, ("train", 64): 10}  # fmt: skip
    for (mode, n), bar in bars.items():
        a, b = turns(f"{mode} {n}", *works(mode, n), rounds=7 if n > 1000 else 21)
        say(
            f"TransMIL, {DONE[mode]}, n = {n:,}, against the authors' form",
            f">= {bar}x",
            f"{b / a:.2f}x ({1e3 * a:.1f} ms)",
        )
    for mode, bar in (("infer", "1/4"), ("train", "1/3")):
        a, b = (alone("memory", who, mode, "30000") for who in ("ours", "theirs"))
        say(f"TransMIL, {DONE[mode]}, peak memory at n = 30,000", f"<= {bar}", f"1/{b / a:.1f} ({a / 2**20:.0f} MiB)")
    say("TransMIL, infer, n = 1,000,000, whole process", "< 16 GiB", f"{alone('million') / 2**30:.1f} GiB")
    for n in (10_000, 30_000):
        over, best, ms = against_products("transmil", n)
        say(f"TransMIL, infer, n = {n:,}, over its mandatory FLOPs", "<= 1.4",
            f"{over:.2f} at the rate of torch.mm, {best:.2f} at the best rate measured ({ms:.0f} ms)")  # fmt: skip
    for spec in ("abmil", "abmil[gated=true]", "dsmil", "clam_sb", "clam_mb"):
        over, best, ms = against_products(spec, 10_000)
        say(f"{spec}, infer, n = 10,000, over its mandatory FLOPs", "<= 1.25",
            f"{over:.2f} at the rate of torch.mm, {best:.2f} at the best rate measured ({ms:.1f} ms)")  # fmt: skip
    for spec in ("mean", "max"):
        fraction, speed = read_fraction(spec, 100_000)
        say(f"{spec}, infer, n = 100,000, of the read bandwidth", ">= 0.7", f"{fraction:.2f} ({speed:.0f} GB/s)")
    say("ABMIL, train, 64 bags of 5 to 40, d = 166, batched", ">= 8x", f"{batched():.1f}x")
    hdf5, copy = reading()
    say("reading from the cache against TRIDENT's HDF5, one thread", ">= 20x", f"{hdf5:.1f}x")
    say("reading from the cache, of a plain memory copy", ">= 0.7", f"{copy:.2f}")
    rows += running()
    say("TransMIL, infer, n = 10,000, bf16 autocast against fp32", ">= 1.8x", f"{bf16():.2f}x")
    gap, low, high = bf16_auc()
    say(
        "TransMIL on digits-bags, AUC in bf16 less that in fp32",
        "0 in its interval",
        f"{gap:+.4f} [{low:+.4f}, {high:+.4f}]",
    )
    return rows


def main(folder: Path, part: str = "") -> None:
    stem = f"claims{part and '-' + part}-{device_slug(environment(), 'cpu')}-torch{torch.__version__.partition('+')[0]}"
    folder.mkdir(parents=True, exist_ok=True)
    rows = running() if part else measure()
    lines = ["| What | At least | Measured |", "|---|---|---|", *(f"| {' | '.join(row)} |" for row in rows)]
    text = (
        f"# Claims, measured\n\nMade by `python results/perf/claims.py{part and ' ' + part}`, {THREADS} threads.\n\n"
        + "\n".join(lines)
    )
    (folder / f"{stem}.md").write_text(text + "\n")
    short = {name: [[float(f"{s:.4g}") for s in one] for one in kept] for name, kept in SAMPLES.items()}
    record = {"environment": environment(), "seconds": short}
    (folder / f"{stem}.json").write_text(json.dumps(record, indent=None, separators=(",", ":")) + "\n")


THREADS = torch.get_num_threads()

if __name__ == "__main__":
    match sys.argv[1:]:
        case ["memory", who, mode, n]:
            memory(who, mode, int(n))
        case ["million"]:
            million()
        case ["cohort"]:
            cohort()
        case ["running"]:
            settle_heap()
            main(Path("results/perf"), "running")
        case [*rest]:
            settle_heap()  # as in the processes of `milbench run` and `measure`
            main(Path(rest[0] if rest else "results/perf"))
