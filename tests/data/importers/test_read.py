"""Readers of foreign files: what a file says of its size is not believed, and nothing in it is run or loaded."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.foreign import Bomb
from support.refusal import refused

from milbench import MilbenchError
from milbench.data.importers._read import (
    files_below,
    h5_array,
    npy_array,
    npz_arrays,
    open_h5,
    torch_tensor,
    torch_tensors,
)

X = np.arange(12, dtype=np.float32).reshape(4, 3)


def _h5(path: Path) -> np.ndarray | None:
    with open_h5(path) as file:
        return h5_array(file, "x", path, "f")


READERS = {".npy": npy_array, ".npz": npz_arrays, ".pt": torch_tensors, ".h5": _h5}


def _write(path: Path) -> Path:
    match path.suffix:
        case ".npy":
            np.save(path, X)
        case ".npz":
            np.savez_compressed(path, x=X, y=X.astype(int))
        case ".pt":
            torch.save(torch.from_numpy(X), path)
        case ".h5":
            with h5py.File(path, "w") as file:
                file["x"] = X
    return path


def _npy_of(shape: object, descr: str = "<f4", version: tuple[int, int] = (1, 0)) -> bytes:
    """Make a header of one's own, with twelve values behind it."""
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    length = len(text).to_bytes(2 if version == (1, 0) else 4, "little")
    return b"\x93NUMPY" + bytes(version) + length + text + X.tobytes()


@pytest.mark.parametrize(
    "array", [X, X.astype(np.float16), X[:0], X.T, np.asfortranarray(X), np.float64(1.5), X[:, 0] > 3]
)
def test_plain_arrays(tmp_path, array):
    np.save(tmp_path / "a.npy", array)
    np.savez_compressed(tmp_path / "b.npz", one=array, two=np.array(["t"]))
    for actual in (npy_array(tmp_path / "a.npy"), npz_arrays(tmp_path / "b.npz")["one"]):
        assert actual.dtype == array.dtype
        np.testing.assert_array_equal(actual, array)
    assert list(npz_arrays(tmp_path / "b.npz", ("two", "three"))) == ["two"]


@pytest.mark.parametrize(
    ("raw", "refusal"),
    [
        (_npy_of((10**12, 3)), ("file-damaged", "(1000000000000, 3)", "float32", "48")),
        (_npy_of((5, 3)), ("file-damaged", "(5, 3)", "float32", "48")),
        (_npy_of((-4, -3)), ("file-damaged",)),
        (_npy_of((2**62, 2**62)), ("file-damaged",)),
        (_npy_of((12,), "|O"), ("file-unsafe",)),
        (_npy_of((12,), "<U1"), ("features-bad-array", "numbers", "<U1")),
        (_npy_of((4, 3), version=(3, 0)), ("file-damaged", "3", "0", ".npy")),
        (_npy_of("__import__('os')"), ("file-damaged", ".npy")),
        (_npy_of("(" * 500), ("file-damaged", ".npy")),
        (_npy_of((4, 3))[:-1], ("file-damaged",)),
        (b"\x93NUMPY\x01\x00\xff\xff", ("file-damaged", ".npy")),
        (b"PK\x03\x04", ("file-damaged", ".npy")),
    ],
)
def test_npy_headers_are_not_believed(tmp_path, raw, refusal):
    (tmp_path / "a.npy").write_bytes(raw)
    with refused(*refusal, "a.npy"):
        npy_array(tmp_path / "a.npy")
    with zipfile.ZipFile(tmp_path / "b.npz", "w") as archive:
        archive.writestr("x.npy", raw)
    with refused(refusal[0], "b.npz"):
        npz_arrays(tmp_path / "b.npz", kinds="biuf")


def test_headers_of_the_second_version(tmp_path):
    (tmp_path / "a.npy").write_bytes(_npy_of((4, 3), version=(2, 0)))
    np.testing.assert_array_equal(npy_array(tmp_path / "a.npy"), X)


def _bomb(path: Path, name: str, size: int = 100 << 20) -> Path:
    """A zip archive of little more than nothing that unfolds to 100 MiB of zeros."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open(name, "w") as file:
        for _ in range(size >> 20):
            file.write(bytes(1 << 20))
    assert path.stat().st_size < 1 << 20
    return path


def test_zip_bombs(tmp_path):
    with refused("file-too-large", "a.npz", "104,857,600"):
        npz_arrays(_bomb(tmp_path / "a.npz", "x.npy"))
    with refused("file-too-large", "a.pt", "104,857,600"):
        torch_tensor(_bomb(tmp_path / "a.pt", "a/data/0"))


def test_an_array_that_is_not_requested_is_not_unfolded(tmp_path):
    path = _bomb(tmp_path / "a.npz", "bomb.npy")
    with zipfile.ZipFile(path, "a") as archive:
        raw = io.BytesIO()
        np.save(raw, X)
        archive.writestr("x.npy", raw.getvalue())
    np.testing.assert_array_equal(npz_arrays(path, ("x",))["x"], X)


def test_what_packs_well_but_is_small_is_read(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros((4096, 1024), np.float32))
    assert npz_arrays(tmp_path / "a.npz")["x"].shape == (4096, 1024)


def test_tensors_that_store_less_than_they_declare(tmp_path):
    path = tmp_path / "a.pt"
    torch.save(torch.zeros(1).expand(10**9, 1000), path)
    with refused("file-damaged", "a.pt", "(1000000000, 1000)"):
        torch_tensor(path)
    torch.save(torch.from_numpy(X), path)
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    program = next(name for name in entries if name.endswith("data.pkl"))
    #: twelve values become 32,512: those behind the file's own would be whatever lies in memory
    entries[program] = entries[program].replace(b"K\x0ct", b"M\x00\x7ft").replace(b"K\x04K\x03", b"M\x00\x10K\x03")
    with zipfile.ZipFile(path, "w") as archive:
        for name, raw in entries.items():
            archive.writestr(name, raw)
    with refused("file-damaged", "a.pt"):
        torch_tensor(path)


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.quantize_per_tensor(torch.ones(2, 3), 0.1, 0, torch.qint8),
        lambda: torch.empty(2, 3, device="meta"),
        lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
        lambda: torch.eye(3).to_sparse_csr(),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_tensors_without_plain_values(tmp_path, make):
    torch.save(make(), tmp_path / "a.pt")
    with refused("file-wrong-content", "a.pt"):
        torch_tensor(tmp_path / "a.pt")


@pytest.mark.parametrize("legacy", [False, True])
def test_nothing_in_a_tensor_file_is_run(tmp_path, legacy):
    mark = tmp_path / "it-ran"
    for value in (Bomb(mark), [torch.ones(2), Bomb(mark)], {"features": torch.ones(2), "x": Bomb(mark)}):
        torch.save(value, tmp_path / "a.pt", _use_new_zipfile_serialization=not legacy)
        for read in (torch_tensor, torch_tensors):
            with refused("file-unsafe", "a.pt"):
                read(tmp_path / "a.pt")
    assert not mark.exists()


@pytest.mark.parametrize("filters", [{"compression": "gzip"}, {"compression": "lzf"}, {"compression": "szip"},
                                     {"shuffle": True}, {"fletcher32": True}])  # fmt: skip
def test_filters_that_are_part_of_h5py(tmp_path, filters):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        try:
            file.create_dataset("x", data=X, chunks=(2, 3), **filters)
        except ValueError as error:
            pytest.skip(str(error))  # szip is not in every build
    np.testing.assert_array_equal(_h5(tmp_path / "a.h5"), X)


def _with_filter(path: Path, code: int) -> None:
    space = h5py.h5s.create_simple(X.shape)
    plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plan.set_chunk(X.shape)
    plan.set_filter(code, h5py.h5z.FLAG_OPTIONAL)
    with h5py.File(path, "w") as file:
        made = h5py.h5d.create(file.id, b"x", h5py.h5t.NATIVE_FLOAT, space, dcpl=plan)
        made.write(h5py.h5s.ALL, h5py.h5s.ALL, X)


@pytest.mark.parametrize("code", [32001, 32015, 40000])  # blosc, zstd, nobody's
def test_filters_that_would_load_a_plug_in(tmp_path, code, monkeypatch):
    monkeypatch.setenv("HDF5_PLUGIN_PATH", str(tmp_path))
    _with_filter(tmp_path / "a.h5", code)
    with refused("file-unsupported", "a.h5", "'x'", "HDF5", code):
        _h5(tmp_path / "a.h5")


def test_h5_bombs_and_rows_that_were_never_written(tmp_path):
    with h5py.File(tmp_path / "bomb.h5", "w") as file:
        data = file.create_dataset("x", (40_000_000, 3), "f4", chunks=(1_000_000, 3), compression="gzip")
        for start in range(0, 40_000_000, 1_000_000):
            data.id.write_direct_chunk((start, 0), ZEROS)
    with refused("file-too-large", "bomb.h5", "480,000,000"):
        _h5(tmp_path / "bomb.h5")
    with h5py.File(tmp_path / "half.h5", "w") as file:
        data = file.create_dataset("x", (9, 3), "f4", chunks=(2, 3), compression="gzip")
        data[:6] = 1
    with refused("file-damaged", "half.h5", "'x'"):
        _h5(tmp_path / "half.h5")


def _zeros() -> bytes:
    import zlib

    return zlib.compress(bytes(12_000_000))


ZEROS = _zeros()


@pytest.mark.parametrize("suffix", READERS)
@pytest.mark.parametrize("what", ["missing", "folder", "pipe", "nowhere", "loop"])
def test_paths_that_lead_to_no_file(tmp_path, suffix, what):
    path = tmp_path / f"a{suffix}"
    match what:
        case "folder":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)  # opening it would wait for a writer for ever
        case "nowhere" | "loop":
            path.symlink_to(tmp_path / "nowhere" if what == "nowhere" else path)
    with refused("path-wrong-kind" if what in ("folder", "pipe") else "file-missing", f"a{suffix}"):
        READERS[suffix](path)


@pytest.mark.parametrize("suffix", READERS)
def test_a_file_truncated_anywhere_is_refused_in_a_sentence(tmp_path, suffix):
    path = _write(tmp_path / f"a{suffix}")
    raw = path.read_bytes()
    for end in range(0, len(raw), max(1, len(raw) // 60)):
        path.write_bytes(raw[:end])
        with refused("file-damaged", suffix):
            READERS[suffix](path)


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".pt"])
def test_flipped_bytes_give_numbers_or_a_sentence(tmp_path, suffix):
    path = _write(tmp_path / f"a{suffix}")
    raw = path.read_bytes()

    @settings(max_examples=80, deadline=None)
    @given(st.lists(st.tuples(st.integers(0, len(raw) - 1), st.integers(1, 255)), min_size=1, max_size=4))
    def check(flips):
        made = bytearray(raw)
        for place, bits in flips:
            made[place] ^= bits
        path.write_bytes(made)
        try:
            READERS[suffix](path)
        except MilbenchError as error:
            assert path.name in str(error)  # noqa: PT017  (either may happen)

    check()


def test_a_flipped_byte_in_a_packed_array_is_noticed(tmp_path):
    """Archives carry checksums: they are compared although all values were read before their end."""
    path = tmp_path / "a.npz"
    np.savez(path, x=X)
    raw = bytearray(path.read_bytes())
    raw[raw.index(X[1].tobytes())] ^= 1
    path.write_bytes(raw)
    with refused("file-damaged", "a.npz"):
        npz_arrays(path)


def test_files_below_come_in_order_and_each_once(tmp_path):
    for name in ("b.h5", "a/2.h5", "a/1.h5", "a/x.txt", "c/d/e.h5", ".hidden/z.h5", "a/._1.h5", "a/3.H5"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    actual = [path.relative_to(tmp_path).as_posix() for path in files_below(tmp_path, ".h5")]
    assert actual == ["b.h5", "a/1.h5", "a/2.h5", "a/3.H5", "c/d/e.h5"]


@pytest.mark.parametrize(("link", "code"), [("a/back", "path-loop"), ("a/self", "file-unreadable")])
def test_links_that_lead_back(tmp_path, link, code):
    (tmp_path / "a").mkdir()
    (tmp_path / link).symlink_to(tmp_path if link == "a/back" else tmp_path / link)
    with refused(code, link):
        list(files_below(tmp_path, ".h5"))
    assert list(files_below(tmp_path, ".h5", strict=False)) == []
