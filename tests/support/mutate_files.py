"""Mutated inputs: how often a damaged file makes milbench hang, show a traceback, or read other numbers.

Valid small inputs of every format, and tables of labels and splits, are changed by one of: flipped bits, a truncation,
an insertion, two pieces exchanged. Each is read as ``milbench init`` and ``milbench cache build`` read it.

    python -m support.mutate_files --inputs 2000 --seed 0        (in tests/)
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import torch
from safetensors.numpy import save_file

from milbench.data.cache import supervised_reader as supervised
from milbench.data.cache.build import build_cache
from milbench.data.cache.reader import FeatureCache
from milbench.data.onboarding.label_guess import Tables, read_label_rows
from milbench.data.onboarding.survey import survey
from milbench.data.splits.files import read_folds
from milbench.errors import MilbenchError

from .features import digit_slides, write_clam, write_csv, write_trident
from .foreign import write_eva, write_mil_baseline, write_slideflow, write_stamp, write_torchmil

#: seconds of computing that a file may take here, and of the clock that a whole input may
COMPUTING, WHOLE = 10.0, 120
SLIDES = digit_slides(patients=3)
PARTS = dict(zip((slide.name for slide in SLIDES), ("train", "train", "val", "val", "test", "test"), strict=True))


def _h5(folder: Path) -> Path:
    folder.mkdir()
    for slide in SLIDES:
        with h5py.File(folder / f"{slide.name}.h5", "w") as file:
            file["embeddings"], file["coords"] = slide.x, slide.xy
    return folder


def _each(end: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        folder.mkdir()
        for slide in SLIDES:
            path = folder / f"{slide.name}.{end}"
            match end:
                case "npy":
                    np.save(path, slide.x)
                case "npz":
                    np.savez(path, features=slide.x, coords=slide.xy)
                case "pt":
                    torch.save({"features": torch.from_numpy(slide.x), "coords": torch.from_numpy(slide.xy)}, path)
                case _:
                    save_file({"features": slide.x, "coords": slide.xy}, path)
        return folder

    return write


def _long(end: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        folder.mkdir()
        parts = [pd.DataFrame(s.x, columns=[f"f{i}" for i in range(64)]).assign(slide_id=s.name) for s in SLIDES]
        frame = pd.concat(parts, ignore_index=True)
        path = folder / f"long.{end}"
        frame.to_parquet(path) if end == "parquet" else frame.to_csv(path, index=False)
        return path

    return write


def _tiatoolbox(folder: Path) -> Path:
    folder.mkdir()
    for slide in SLIDES:
        np.save(folder / f"{slide.name}.features.0.npy", slide.x)
        np.save(folder / f"{slide.name}.position.npy", np.hstack([slide.xy, slide.xy + 256]))
    return folder


def _labels(folder: Path) -> Path:
    folder.mkdir()
    rows = [(s.name, s.patient, s.label) for s in SLIDES]
    return write_csv(folder / "labels.csv", [("slide_id", "patient_id", "label"), *rows])


def _labels_as(end: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        frame = pd.read_csv(_labels(folder), dtype=str)
        path = folder / f"labels.{end}"
        frame.to_excel(path, index=False) if end == "xlsx" else frame.to_parquet(path)
        (folder / "labels.csv").unlink()
        return path

    return write


def _splits(folder: Path) -> Path:
    folder.mkdir()
    return write_csv(folder / "splits.csv", [("slide_id", "split"), *PARTS.items()])


def _stamp_splits(folder: Path) -> Path:
    folder.mkdir()
    path = folder / "splits.json"
    path.write_text(json.dumps({"splits": [{"train_patients": ["000", "001"], "test_patients": ["002"]}]}))
    return path


FEATURES: dict[str, Callable[[Path], Path]] = {
    "clam h5": lambda folder: write_clam(folder / "features", SLIDES, ("h5_files",)),
    "clam pt": lambda folder: write_clam(folder / "features", SLIDES, ("pt_files",)),
    "trident": lambda folder: write_trident(folder / "job", SLIDES),
    "stamp": lambda folder: write_stamp(folder / "out", SLIDES),
    "torchmil": lambda folder: write_torchmil(folder / "bags", SLIDES, split=PARTS),
    "torchmil h5": lambda folder: write_torchmil(folder / "bags", SLIDES, ".h5", split=PARTS),
    "slideflow": lambda folder: write_slideflow(folder / "bags", SLIDES),
    "mil_baseline": lambda folder: write_mil_baseline(folder / "folds", SLIDES, [PARTS]),
    "eva": lambda folder: write_eva(folder / "eva", SLIDES, PARTS),
    "plain h5": _h5,
    **{f"plain {end}": _each(end) for end in ("npy", "npz", "pt", "safetensors")},
    **{f"long {end}": _long(end) for end in ("parquet", "csv")},
    "tiatoolbox": _tiatoolbox,
}
TABLES: dict[str, Callable[[Path], Path]] = {
    "labels csv": _labels, "labels xlsx": _labels_as("xlsx"), "labels parquet": _labels_as("parquet"),
    "splits csv": _splits, "splits json": _stamp_splits,
}  # fmt: skip


def flip(raw: bytes, rng: np.random.Generator) -> bytes:
    """Flip one to eight bits, most of the time in the first kilobytes, where structures lie."""
    made = bytearray(raw)
    for _ in range(int(rng.integers(1, 9))):
        most = len(made) if rng.random() < 0.3 else min(len(made), 4096)
        made[int(rng.integers(most))] ^= 1 << int(rng.integers(8))
    return bytes(made)


def truncate(raw: bytes, rng: np.random.Generator) -> bytes:
    """Leave a beginning."""
    return raw[: int(rng.integers(len(raw)))]


def insert(raw: bytes, rng: np.random.Generator) -> bytes:
    """Insert up to 64 random bytes."""
    at = int(rng.integers(len(raw)))
    return raw[:at] + rng.bytes(int(rng.integers(1, 65))) + raw[at:]


def swap(raw: bytes, rng: np.random.Generator) -> bytes:
    """Exchange two pieces of up to 64 bytes."""
    size = min(int(rng.integers(1, 65)), len(raw) // 2)
    a, b = sorted(int(i) for i in rng.integers(len(raw) - size + 1, size=2))
    if b - a < size:
        return flip(raw, rng)
    return raw[:a] + raw[b : b + size] + raw[a + size : b] + raw[a : a + size] + raw[b + size :]


MUTATIONS = (flip, truncate, insert, swap)


@dataclass
class Outcome:
    """Counts of outcomes, and the inputs of those that should not be: (kind, mutation, number, what happened)."""

    counts: Counter[str] = field(default_factory=Counter)
    bad: list[tuple[str, str, int, str]] = field(default_factory=list)


def campaign(inputs: int, seed: int = 0, computing: float = COMPUTING) -> Outcome:
    """Read mutated inputs, the formats in turn.

    Args:
        inputs: how many.
        seed: of the mutations.
        computing: seconds of computing that a file may take before its reader is ended.
    """
    outcome = Outcome()
    before = supervised.COMPUTING
    supervised.COMPUTING = computing
    kinds = [*FEATURES, *TABLES]
    try:
        with tempfile.TemporaryDirectory() as folder:
            for number in range(inputs):
                kind = kinds[number % len(kinds)]
                _one(outcome, Path(folder), kind, number, np.random.default_rng([seed, number]))
    finally:
        supervised.COMPUTING = before
    return outcome


def _one(outcome: Outcome, folder: Path, kind: str, number: int, rng: np.random.Generator) -> None:
    valid = folder / "valid" / kind.replace(" ", "-")
    if not valid.exists():
        valid.parent.mkdir(exist_ok=True)
        (FEATURES | TABLES)[kind](valid)
    place = folder / "mutated"
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(valid, place)
    # MIL_BASELINE's tables name their files by absolute paths.
    for table in place.rglob("*.csv"):
        table.write_text(table.read_text().replace(str(valid), str(place)))
    files = sorted(path for path in place.rglob("*") if path.is_file())
    path = files[int(rng.integers(len(files)))]
    mutate = MUTATIONS[int(rng.integers(len(MUTATIONS)))]
    path.write_bytes(mutate(path.read_bytes(), rng))
    category, message = _read(kind, place, folder, path, valid)
    outcome.counts[category] += 1
    if category in ("hang", "traceback"):
        outcome.bad.append((kind, mutate.__name__, number, message))


#: formats whose writers make the folder below the one they are given
_BELOW = {"clam h5": "features", "clam pt": "features", "trident": "job", "stamp": "out", "torchmil": "bags",
          "torchmil h5": "bags", "slideflow": "bags", "mil_baseline": "folds", "eva": "eva"}  # fmt: skip


def _read(kind: str, place: Path, folder: Path, path: Path, valid: Path) -> tuple[str, str]:
    """Return what came of an input: refused, ended (its reader), hang, traceback, same or changed content."""

    def late(*_: object) -> None:
        raise TimeoutError(f"{WHOLE} s")

    old = signal.signal(signal.SIGALRM, late)
    signal.alarm(WHOLE)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            good = _content(kind, valid, folder)
            return ("same" if _content(kind, place, folder) == good else "changed"), ""
    except MilbenchError as error:
        text = str(error)
        if "was not read to its end" in text:
            return "ended in time", text
        return "refused" if "ended the process" not in text else "reader crashed, named", text
    except TimeoutError as error:
        return "hang", str(error)
    except Exception as error:
        return "traceback", f"{path.name}: {type(error).__name__}: {str(error)[:300]}"
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, old)


_known: dict[Path, object] = {}


def _content(kind: str, place: Path, folder: Path) -> object:
    if place.parts[-2] == "valid" and place in _known:
        return _known[place]
    content = _content_of(kind, place, folder)
    if place.parts[-2] == "valid":
        _known[place] = content
    return content


def _content_of(kind: str, place: Path, folder: Path) -> object:
    if kind in TABLES:
        (path,) = place.glob(f"*.{kind.split()[1]}")
        if kind.startswith("labels"):
            return read_label_rows(Tables(path), [slide.name for slide in SLIDES]).rows
        return [(fold.name, fold.parts) for fold in read_folds(str(path), place, {s.name: s.patient for s in SLIDES})]
    source = place / f"long.{kind.split()[1]}" if kind.startswith("long") else place / _BELOW.get(kind, "")
    survey(source)
    out = folder / "out.cache"
    shutil.rmtree(out, ignore_errors=True)
    for left in folder.glob(".out.cache*"):
        shutil.rmtree(left, ignore_errors=True)
    cache = FeatureCache.open(build_cache(source, out, dtype="float32").out)
    labels = cache.table
    return cache.fingerprint, None if labels is None else labels.to_json()


def main() -> None:
    """Run a campaign and print its counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    began = time.monotonic()
    outcome = campaign(options.inputs, options.seed)
    print(f"{options.inputs} inputs in {time.monotonic() - began:.0f} s: {dict(outcome.counts)}")
    for kind, mutation, number, message in outcome.bad:
        print(f"  {kind}, {mutation}, input {number}: {message}")


if __name__ == "__main__":
    main()
