"""Damaged files: every format returns the right data or one clear sentence, and reports every slide that it drops.

A flipped bit among a file's numbers makes other numbers, which no reader can detect; a reader must report all else with
a `MilbenchError`: any other exception fails these tests, as it would be a traceback for the user.
"""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import save_file
from support.features import Slide, digit_slides, write_clam, write_trident
from support.foreign import write_eva, write_mil_baseline, write_slideflow, write_stamp, write_torchmil

from milbench.data.cache.build import build_cache
from milbench.data.cache.reader import FeatureCache, verify
from milbench.errors import MilbenchError

SLIDES = digit_slides(patients=3)
PARTS = dict(zip((slide.name for slide in SLIDES), ("train", "train", "val", "val", "test", "test"), strict=True))

Writer = Callable[[Path, list[Slide]], Path]
WRITERS: dict[str, Writer] = {
    "clam h5": lambda folder, slides: write_clam(folder / "features", slides, ("h5_files",)),
    "clam pt": lambda folder, slides: write_clam(folder / "features", slides, ("pt_files",)),
    "trident": lambda folder, slides: write_trident(folder / "job", slides),
    "stamp": lambda folder, slides: write_stamp(folder / "out", slides),
    "torchmil npy": lambda folder, slides: write_torchmil(folder / "bags", slides, split=PARTS),
    "torchmil h5": lambda folder, slides: write_torchmil(folder / "bags", slides, ".h5", split=PARTS),
    "slideflow": lambda folder, slides: write_slideflow(folder / "bags", slides),
    "mil_baseline": lambda folder, slides: write_mil_baseline(folder / "folds", slides, [PARTS]),
    "eva": lambda folder, slides: write_eva(folder / "eva", slides, PARTS, files=2),
    "plain npy": lambda folder, slides: _plain(folder, slides, "npy"),
    "plain npz": lambda folder, slides: _plain(folder, slides, "npz"),
    "plain safetensors": lambda folder, slides: _plain(folder, slides, "safetensors"),
    "plain parquet": lambda folder, slides: _plain(folder, slides, "parquet"),
    "long parquet": lambda folder, slides: _long(folder, slides, "parquet"),
    "long csv": lambda folder, slides: _long(folder, slides, "csv"),
    "npz": lambda folder, slides: _packed(folder, slides),
    "svmlight": lambda folder, slides: _svmlight(folder, slides),
}
#: Text without a count of its lines: lines lost at the end of a file leave no trace.
UNCOUNTED = ("long csv", "svmlight")


def _plain(folder: Path, slides: list[Slide], kind: str) -> Path:
    (folder / "plain").mkdir()
    for slide in slides:
        path = folder / "plain" / f"{slide.name}.{kind}"
        match kind:
            case "npy":
                np.save(path, slide.x)
            case "npz":
                np.savez(path, features=slide.x, coords=slide.xy)
            case "safetensors":
                save_file({"features": slide.x, "coords": slide.xy}, path)
            case "parquet":
                _frame([slide]).drop(columns="slide_id").to_parquet(path)
    return folder / "plain"


def _long(folder: Path, slides: list[Slide], kind: str) -> Path:
    (folder / "long").mkdir()
    path = folder / "long" / f"patches.{kind}"
    frame = _frame(slides)
    frame.to_parquet(path) if kind == "parquet" else frame.to_csv(path, index=False)
    return path


def _frame(slides: list[Slide]) -> pd.DataFrame:
    parts = []
    for slide in slides:
        part = pd.DataFrame(slide.x, columns=[f"f{i}" for i in range(slide.x.shape[1])])
        part.insert(0, "y", slide.xy[:, 1])
        part.insert(0, "x", slide.xy[:, 0])
        part.insert(0, "slide_id", slide.name)
        parts.append(part)
    return pd.concat(parts, ignore_index=True)


def _packed(folder: Path, slides: list[Slide]) -> Path:
    (folder / "packed").mkdir()
    path = folder / "packed" / "bags.npz"
    np.savez(
        path, features=np.concatenate([s.x for s in slides]), bag_offsets=np.cumsum([0, *(len(s.x) for s in slides)]),
        bag_label=np.array([int(s.label == "tumour") for s in slides]), bag_name=np.array([s.name for s in slides]),
    )  # fmt: skip
    return path


def _svmlight(folder: Path, slides: list[Slide]) -> Path:
    (folder / "svm").mkdir()
    path, row = folder / "svm" / "bags.svm", 0
    lines = []
    for bag, slide in enumerate(slides):
        for x in slide.x:
            cells = " ".join(f"{i + 1}:{float(value)!r}" for i, value in enumerate(x) if value)
            lines.append(f"{row}:{bag}:{1 if slide.label == 'tumour' else -1} {cells}")
            row += 1
    path.write_text("\n".join(lines) + "\n")
    return path


class Hostile:
    """Unpickling this would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def _flip(raw: bytes, rng: np.random.Generator, bits: int) -> bytes:
    made = bytearray(raw)
    for place in rng.integers(len(made), size=bits):
        made[place] ^= 1 << int(rng.integers(8))
    return bytes(made)


#: Damage of a file: its bytes and a generator -> other bytes.
HARM: dict[str, Callable[[bytes, np.random.Generator], bytes]] = {
    "empty": lambda raw, rng: b"",
    "one byte": lambda raw, rng: raw[:1],
    "a quarter": lambda raw, rng: raw[: len(raw) // 4],
    "half": lambda raw, rng: raw[: len(raw) // 2],
    "all but the end": lambda raw, rng: raw[:-9],
    "beginning lost": lambda raw, rng: raw[9:],
    "zeros": lambda raw, rng: bytes(len(raw)),
    "noise": lambda raw, rng: rng.bytes(len(raw)),
    "noise behind the head": lambda raw, rng: raw[:64] + rng.bytes(max(0, len(raw) - 64)),
    "noise at the end": lambda raw, rng: raw[: -len(raw) // 3] + rng.bytes(len(raw) // 3),
    "hole": lambda raw, rng: raw[: len(raw) // 3] + bytes(len(raw) // 3) + raw[2 * (len(raw) // 3) :],
    "a flipped bit": lambda raw, rng: _flip(raw, rng, 1),
    "ten flipped bits": lambda raw, rng: _flip(raw, rng, 10),
    "a hundred flipped bits": lambda raw, rng: _flip(raw, rng, 100),
    "bits flipped in the head": lambda raw, rng: _flip(raw[:200], rng, 4) + raw[200:],
    "bits flipped at the end": lambda raw, rng: raw[:-200] + _flip(raw[-200:], rng, 4),
    "twice": lambda raw, rng: raw + raw,
    "text": lambda raw, rng: "Bitte später nochmal öffnen;\n0,5".encode("latin-1"),
    "a web page": lambda raw, rng: b"<!DOCTYPE html><html><body>404</body></html>",
    "line ends": lambda raw, rng: raw.replace(b"\n", b"\r\n"),
    "upper case": lambda raw, rng: raw.upper(),
}
CASES = [(kind, harm) for kind in WRITERS for harm in HARM]


@pytest.fixture(scope="session")
def intact(tmp_path_factory) -> dict[str, Path]:
    """One whole source of every kind."""
    return {kind: write(tmp_path_factory.mktemp("intact"), SLIDES) for kind, write in WRITERS.items()}


def _copied(source: Path, folder: Path) -> Path:
    """Copy a source with the folder it lies in, as some of its files may lie next to it."""
    shutil.copytree(source.parent, folder / "copy")
    return folder / "copy" / source.name


def _files(source: Path) -> list[Path]:
    return [source] if source.is_file() else sorted(path for path in source.rglob("*") if path.is_file())


def test_there_are_enough_of_them():
    assert len(CASES) >= 300


@pytest.mark.forks
@pytest.mark.parametrize("kind", WRITERS)
def test_what_is_whole_is_read_whole(kind, intact, tmp_path):
    report = build_cache(intact[kind], tmp_path / "cache", dtype="float32")
    assert report.slides == len(SLIDES)
    cache = FeatureCache.open(report.out)
    exact = 1e-3 if kind == "stamp" else 0  # half precision
    for i, slide in enumerate(SLIDES):
        name = slide.name if slide.name in cache else cache.ids[i]  # svmlight numbers its bags
        assert np.abs(cache[name].numpy() - slide.x[:, : cache.dim]).max() <= exact


@pytest.mark.parametrize(("kind", "harm"), CASES)
def test_harm_to_one_file(kind, harm, intact, tmp_path):
    rng = np.random.default_rng([list(WRITERS).index(kind), list(HARM).index(harm)])
    source = _copied(intact[kind], tmp_path)
    files = _files(source)
    hurt = files[int(rng.integers(len(files)))]
    hurt.write_bytes(HARM[harm](hurt.read_bytes(), rng))
    _refused_or_whole(source, tmp_path / "cache", lost=kind in UNCOUNTED)


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("what", ["hostile pickle", "folder", "gone", "loop", "unreadable name", "another slide's"])
def test_what_stands_in_a_files_place(kind, what, intact, tmp_path):
    import pickle

    source = _copied(intact[kind], tmp_path)
    files = _files(source)
    hurt = files[len(files) // 2]
    made = tmp_path / "made"
    raw = hurt.read_bytes()
    hurt.unlink()
    match what:
        case "hostile pickle":
            hurt.write_bytes(pickle.dumps(Hostile(made)))
        case "folder":
            hurt.mkdir()
        case "loop":
            hurt.symlink_to(hurt)
        case "unreadable name":
            os.rename(hurt.parent, hurt.parent.with_name("\udcff\udcfe")) if hurt.parent != source else None
        case "another slide's":
            hurt.write_bytes(files[0].read_bytes() if files[0] != hurt else raw)
    _refused_or_whole(source, tmp_path / "cache", lost=what in ("gone", "unreadable name") or kind in UNCOUNTED)
    assert not made.exists()


def _refused_or_whole(source: Path, out: Path, lost: bool = False) -> None:
    """Build: it must end with a sentence, or with a cache that is sound and accounts for every slide."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a library that only warns hides a defect from the user
        warnings.simplefilter("ignore", ResourceWarning)
        message = ""
        try:
            report = build_cache(source, out, dtype="float32")
        except MilbenchError as error:
            message = str(error)
    if message:
        assert len(message) < 1000
        assert message.endswith((".", "?"))
        assert not out.exists()
        return
    assert verify(out) == []
    cache = FeatureCache.open(out)
    if not lost:
        assert len(cache.ids) + len(report.left_out) == len(SLIDES)
    assert all(np.isfinite(cache[slide].numpy()).all() for slide in cache.ids)
