"""Files of features as they lie about: each test is a situation that somebody reported, and its relatives."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from support.features import write_csv
from support.mutate_files import FEATURES, TABLES, campaign
from support.refusal import refused
from typer.testing import CliRunner

from milbench.cli import app
from milbench.data.cache import supervised_reader as supervised
from milbench.data.cache.build import build_cache
from milbench.data.cache.encoders import encoder_groups
from milbench.data.cache.reader import FeatureCache
from milbench.data.importers import detect_format
from milbench.data.importers._arrays import as_positions
from milbench.data.importers._listing import by_number
from milbench.data.importers._read import torch_tensors
from milbench.data.input_files.regular import regular_size
from milbench.data.onboarding.survey import survey
from milbench.data.text_tables import read_table
from milbench.errors import MilbenchError


def bag(i: int, d: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """Return features (n, d) and a grid of positions (n, 2) of slide i."""
    rng = np.random.default_rng(i)
    n = int(rng.integers(12, 30))
    x = rng.normal(size=(n, d)).astype(np.float32)
    return x, np.stack([np.arange(n) % 5, np.arange(n) // 5], 1).astype(np.int64) * 256


def h5(path: Path, x: np.ndarray | None, xy: np.ndarray | None = None, key: str = "features", **attrs: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        if x is not None:
            file[key] = x
            file[key].attrs.update(attrs)
        if xy is not None:
            file["coords"] = xy
    return path


def pt(path: Path, value: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(value, path)
    return path


def cache_of(source: Path, **options: object) -> FeatureCache:
    out = source.parent / f"{source.name}.cache{len(options)}"
    return FeatureCache.open(build_cache(source, out, dtype="float32", **options).out)  # type: ignore[arg-type]


def holds(cache: FeatureCache, slides: dict[str, np.ndarray]) -> bool:
    return set(cache.ids) == set(slides) and all(np.array_equal(cache[s].numpy(), x) for s, x in slides.items())


NAMES = [f"S{i:03d}" for i in range(8)]
BAGS = {name: bag(i) for i, name in enumerate(NAMES)}
WHOLE = {name: x for name, (x, _) in BAGS.items()}


def test_two_encoders_in_h5_and_pt_files(tmp_path):
    """The same slides with other numbers; with the same numbers they are one."""
    for name, (x, xy) in BAGS.items():
        pt(tmp_path / "feats" / "pt_files" / f"{name}.pt", torch.from_numpy(x))
        h5(tmp_path / "feats" / "h5_files" / f"{name}.h5", x, xy)
        pt(tmp_path / "flat" / f"{name}.pt", torch.from_numpy(x))
        h5(tmp_path / "flat" / f"{name}.h5", x, xy)
    assert holds(cache_of(tmp_path / "feats"), WHOLE)
    assert holds(cache_of(tmp_path / "flat"), WHOLE)
    h5(tmp_path / "feats" / "h5_files" / "S003.h5", BAGS["S003"][0] * 50 + 7, BAGS["S003"][1])
    with refused("slide-twice", "S003.h5", "S003.pt"):
        survey(tmp_path / "feats")


def test_two_encoders_by_attribute_and_by_width(tmp_path):
    for i, (name, (x, xy)) in enumerate(BAGS.items()):
        h5(tmp_path / "attr" / f"{name}.h5", x, xy, encoder="uni" if i < 4 else "conch")
        pt(tmp_path / "wide" / f"{name}.pt", torch.from_numpy(x if i < 4 else np.hstack([x, x])))
    with refused("features-disagree", "encoder"):
        survey(tmp_path / "attr")
    with refused("features-disagree", "dim"):
        survey(tmp_path / "wide")


@pytest.mark.parametrize("d", [8, 64])
def test_two_encoders_of_one_width_by_their_statistics(d):
    rng = np.random.default_rng(0)
    mean, spread = rng.normal(size=d), rng.uniform(0.5, 2, size=d)

    def slides(mean, spread, n):
        x = mean + spread * rng.normal(size=(n, 40, d)) + 0.3 * spread * rng.normal(size=(n, 1, d))
        return x.mean(1), x.std(1)

    one = slides(mean, spread, 20)
    assert encoder_groups(*one) is None
    classes = slides(mean, spread, 20)
    classes[0][:10, : d // 4] += 3 * spread[: d // 4]  # a class moves some features, not most of them
    assert encoder_groups(*classes) is None
    for other in (slides(mean + 4 * spread, spread, 8), slides(mean, spread * 5, 8)):
        groups = encoder_groups(*(np.concatenate(pair) for pair in zip(one, other, strict=True)))
        assert groups is not None
        assert groups.second.tolist() == [False] * 20 + [True] * 8


def test_parts_are_read_by_their_numbers(tmp_path):
    rng = np.random.default_rng(0)
    frame = pd.concat(
        [pd.DataFrame(x, columns=[f"f{k}" for k in range(8)]).assign(slide_id=name) for name, x in WHOLE.items()]
    )
    frame = frame.iloc[rng.permutation(len(frame))]
    (tmp_path / "parts").mkdir()
    for k in range(12):
        frame.iloc[k * len(frame) // 12 : (k + 1) * len(frame) // 12].to_parquet(tmp_path / f"parts/part-{k}.parquet")
    columns = [f"f{k}" for k in range(8)]
    wanted = {name: frame[frame.slide_id == name][columns].to_numpy(np.float32) for name in NAMES}
    assert holds(cache_of(tmp_path / "parts"), wanted)
    assert sorted(["a10", "a9", "a"], key=by_number) == ["a", "a9", "a10"]


def test_clinical_columns_are_no_features(tmp_path):
    parts = []
    for i, (name, (x, xy)) in enumerate(BAGS.items()):
        part = pd.DataFrame(x, columns=[f"f{k}" for k in range(8)])
        parts.append(
            part.assign(slide_id=name, x=xy[:, 0], y=xy[:, 1], isup_grade=i % 2, biopsy_cores=40 + i, scanner=1.0)
        )
    pd.concat(parts, ignore_index=True).to_parquet(tmp_path / "long.parquet")
    surveyed = survey(tmp_path / "long.parquet")
    assert surveyed.dim == 8
    assert all(name in surveyed.description for name in ("isup_grade", "biopsy_cores", "scanner"))
    assert holds(cache := cache_of(tmp_path / "long.parquet"), WHOLE)
    assert cache.meta["feature_names"] == [f"f{k}" for k in range(8)]


def test_endings_in_any_case_and_folders_below(tmp_path):
    for i, (name, (x, xy)) in enumerate(BAGS.items()):
        h5(tmp_path / "case" / f"{name}.{('h5', 'H5', 'hdf5')[i % 3]}", x, xy)
        h5(tmp_path / "below" / ("" if i < 5 else "batch2") / f"{name}.h5", x, xy)
        h5(tmp_path / "batches" / f"batch{i % 2}" / f"{name}.h5", x, xy)
        pt(tmp_path / "pth" / f"{name}.{'pth' if i else 'PT'}", torch.from_numpy(x))
        h5(tmp_path / "job/20x_256px_0px_overlap/features_uni" / str(i % 2) / f"{name}.h5", x, xy, encoder="uni")
    for folder in ("case", "below", "batches", "pth", "job"):
        assert holds(cache_of(tmp_path / folder), WHOLE), folder
    h5(tmp_path / "below" / "batch3" / "S000.h5", *BAGS["S000"])
    with refused("slide-twice", "below/S000.h5", "batch3", "'S000'"):
        survey(tmp_path / "below")


def test_what_is_not_read_is_named(tmp_path):
    for name, (x, xy) in BAGS.items():
        h5(tmp_path / "feats" / f"{name}.h5", x, xy)
    h5(tmp_path / "feats" / "extra" / "T1.h5", bag(9)[0].mean(0))  # a vector of a slide
    assert "not read: 1 .h5 file in extra/ ('T1.h5')" in survey(tmp_path / "feats").description


def test_hidden_files_are_passed_over(tmp_path):
    for name, (x, xy) in BAGS.items():
        h5(tmp_path / "clam" / "h5_files" / f"{name}.h5", x, xy)
        h5(tmp_path / "stamp" / f"{name}.h5", x, xy, key="feats")
        pt(tmp_path / "pt" / f"{name}.pt", torch.from_numpy(x))
        (tmp_path / "npy").mkdir(exist_ok=True)
        np.save(tmp_path / "npy" / f"{name}.npy", x)
        for folder, end in (("clam/h5_files", "h5"), ("stamp", "h5"), ("pt", "pt"), ("npy", "npy")):
            for left in (f"._{name}.{end}", ".DS_Store", "Thumbs.db", f"{name}.{end}.part", f".~lock.{name}.{end}"):
                (tmp_path / folder / left).write_bytes(b"\x00\x05\x16\x07" + bytes(100))
    for folder in ("clam", "stamp", "pt", "npy"):
        assert holds(cache_of(tmp_path / folder), WHOLE), folder


def test_a_batch_of_one_is_a_bag(tmp_path):
    for name, (x, xy) in BAGS.items():
        h5(tmp_path / "h5" / f"{name}.h5", x[None], xy[None])
        h5(tmp_path / "stamp" / f"{name}.h5", x[:, None], xy[:, None], key="feats")
        pt(tmp_path / "mid" / f"{name}.pt", torch.from_numpy(x[:, None]))
        pt(
            tmp_path / "named" / f"{name}.pt",
            {"tile_embeds": torch.from_numpy(x[None]), "coords": torch.from_numpy(xy)},
        )
        (tmp_path / "npy").mkdir(exist_ok=True)
        np.save(tmp_path / "npy" / f"{name}.npy", x[None])
    for folder in ("h5", "stamp", "mid", "named", "npy"):
        cache = cache_of(tmp_path / folder)
        assert holds(cache, WHOLE), folder
        assert not cache.has_coords or torch.equal(cache.coords("S001"), torch.from_numpy(BAGS["S001"][1]))
    h5(tmp_path / "one" / "a.h5", np.ones((1, 1, 8), np.float32), np.ones((1, 1, 2)))
    assert survey(tmp_path / "one").rows == {"a": 1}
    pt(tmp_path / "two" / "a.pt", torch.ones(2, 3, 8))
    with refused("features-bad-array", "(2, 3, 8)"):
        survey(tmp_path / "two")


def test_locked_forbidden_missing_and_damaged_are_four_messages(tmp_path):
    for name, (x, xy) in BAGS.items():
        h5(tmp_path / "feats" / f"{name}.h5", x, xy)
    path = tmp_path / "feats" / "S000.h5"
    hold = "import h5py,sys; f = h5py.File(sys.argv[1], 'a'); print('held', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(path)], stdout=subprocess.PIPE, stdin=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with refused("file-locked", "S000.h5", "HDF5_USE_FILE_LOCKING"):
            survey(tmp_path / "feats")
        other.kill()
    assert len(survey(tmp_path / "feats").ids) == 8
    path.write_bytes(b"")
    with refused("file-damaged", "S000.h5"):
        survey(tmp_path / "feats")
    path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(50))
    with refused("file-damaged", "S000.h5"):
        survey(tmp_path / "feats")
    path.unlink()
    path.symlink_to(tmp_path / "nowhere")
    with refused("file-missing", "S000.h5"):
        survey(tmp_path / "feats")


def test_a_forbidden_file_is_not_damaged(tmp_path, monkeypatch):
    """Root may read everything, so the system's answer is replaced."""
    path = h5(tmp_path / "a.h5", *bag(0))
    path.chmod(0)
    if os.access(path, os.R_OK):
        monkeypatch.setattr("milbench.data.input_files.regular._readable", lambda _: False)
    with refused("file-unreadable", "a.h5"):
        survey(tmp_path)


@pytest.mark.parametrize("bad", ["empty slide", "no bytes", "noise"])
def test_one_file_does_not_decide_the_format(tmp_path, bad):
    folder = tmp_path / "job/20x_256px_0px_overlap/features_uni"
    for name, (x, xy) in BAGS.items():
        h5(folder / f"{name}.h5", x, xy, encoder="uni")
    first = folder / "S000.h5"
    if bad == "empty slide":
        h5(first, None, np.zeros((0, 2), int))
        surveyed = survey(tmp_path / "job")
        assert (surveyed.format, surveyed.empty) == ("trident", ("S000",))
        report = build_cache(tmp_path / "job", tmp_path / "cache")
        assert list(report.left_out) == ["S000"]
        return
    first.write_bytes(b"" if bad == "no bytes" else bytes(range(256)))
    assert detect_format(tmp_path / "job")[0].NAME == "trident"
    with refused("file-damaged", "S000.h5"):
        survey(tmp_path / "job")


def test_feats_without_unit(tmp_path):
    for name, (x, xy) in BAGS.items():
        h5(tmp_path / "feats" / f"{name}.h5", x, xy * 2, key="feats")
    surveyed = survey(tmp_path / "feats")
    assert "unknown unit" in surveyed.description
    assert "units" not in surveyed.facts
    cache = cache_of(tmp_path / "feats")
    assert torch.equal(cache.coords("S001"), torch.from_numpy(BAGS["S001"][1] * 2))
    h5(tmp_path / "feats" / "S001.h5", BAGS["S001"][0], np.full((3, 3), np.nan), key="feats")
    assert holds(cache_of(tmp_path / "feats", coords=False), WHOLE)  # which are not read, whatever they are


@pytest.mark.parametrize("end", ["h5", "npy"])
def test_a_folder_a_slide(tmp_path, end):
    for name, (x, xy) in BAGS.items():
        path = h5(tmp_path / "feats" / name / "features.h5", x, xy)
        if end == "npy":
            path.unlink()
            np.save(path.with_suffix(".npy"), x)
    assert holds(cache_of(tmp_path / "feats"), WHOLE)
    np.save(tmp_path / "feats" / "S001" / f"more.{end}", BAGS["S001"][0])
    if end == "npy":  # now a file names no slide, and its folder neither
        with refused("slide-twice") as caught:
            survey(tmp_path / "feats")
        assert "remove" not in str(caught.value)


@pytest.mark.parametrize("kind", ["bare", "named", "parameter", "list", "next to h5"])
def test_tensors_that_require_grad_are_values(tmp_path, kind):
    folder = tmp_path / "feats" / ("pt_files" if kind == "next to h5" else "")
    for name, (x, xy) in BAGS.items():
        values = torch.from_numpy(x).requires_grad_()
        named = {"feats": values, "coords": torch.from_numpy(xy)}
        kinds = {"named": named, "parameter": torch.nn.Parameter(torch.from_numpy(x)), "list": [values]}
        pt(folder / f"{name}.pt", kinds.get(kind, values))
        if kind == "next to h5":
            h5(tmp_path / "feats" / "h5_files" / f"{name}.h5", x, xy)
    if kind == "list":
        assert all(not one.requires_grad for one in torch_tensors(folder / f"{NAMES[0]}.pt"))
        return
    assert survey(tmp_path / "feats").ids == tuple(NAMES)
    assert holds(cache_of(tmp_path / "feats"), WHOLE)


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("kinds", [("h5",), ("pt",), ("h5", "pt")])
def test_batches_of_clams_layout(tmp_path, kinds, own):
    homes = [tmp_path / "feats" / ("." if own else "batch0"), tmp_path / "feats" / "batch1"]
    for i, (name, (x, xy)) in enumerate(BAGS.items()):
        if "h5" in kinds:
            h5(homes[i % 2] / "h5_files" / f"{name}.h5", x, xy)
        if "pt" in kinds:
            pt(homes[i % 2] / "pt_files" / f"{name}.pt", torch.from_numpy(x))
            h5(homes[i % 2] / "patches" / f"{name}.h5", None, xy)
    cache = cache_of(tmp_path / "feats")
    assert holds(cache, WHOLE)
    for name, (_, xy) in BAGS.items():
        assert torch.equal(cache.coords(name), torch.from_numpy(xy))


def test_tiatoolbox_pairs(tmp_path):
    (tmp_path / "feats").mkdir()
    for name, (x, xy) in BAGS.items():
        np.save(tmp_path / "feats" / f"{name}.features.0.npy", x)
        np.save(tmp_path / "feats" / f"{name}.position.npy", np.concatenate([xy, xy + 256], 1))
    cache = cache_of(tmp_path / "feats")
    assert holds(cache, WHOLE)
    assert torch.equal(cache.coords("S001"), torch.from_numpy(BAGS["S001"][1]))
    (tmp_path / "feats" / "S002.position.npy").rename(tmp_path / "position")
    with refused("coords-missing", "S002.position.npy"):
        survey(tmp_path / "feats")
    with refused("coords-missing", "S002.position.npy"):
        build_cache(tmp_path / "feats", tmp_path / "none.cache")
    assert holds(cache_of(tmp_path / "feats", coords=False), WHOLE)
    (tmp_path / "position").rename(tmp_path / "feats" / "S002.position.npy")
    np.save(tmp_path / "feats" / "S001.features.1.npy", BAGS["S001"][0])
    with refused("features-two-kinds"):
        survey(tmp_path / "feats")


@pytest.mark.parametrize("key", ["embeddings", "feat", "x", "my_model"])
def test_features_under_another_name(tmp_path, key):
    for name, (x, xy) in BAGS.items():
        h5(tmp_path / "feats" / f"{name}.h5", x, xy, key=key)
    assert holds(cache_of(tmp_path / "feats"), WHOLE)


@pytest.mark.parametrize(
    ("end", "refusal"),
    [("pkl", ("format-mismatch", "pickles")), ("zarr", ("format-mismatch",)), ("csv", ("format-mismatch",))],
)
def test_files_that_are_not_read_are_explained(tmp_path, end, refusal):
    for name, (x, _) in BAGS.items():
        path = tmp_path / f"{name}.{end}"
        if end == "zarr":
            path.mkdir()
        elif end == "csv":
            write_csv(path, [tuple(range(8)), *map(tuple, x.tolist())])
        else:
            path.write_bytes(b"\x80\x04.")
    with refused(*refusal):
        survey(tmp_path)


def _structured(xy: np.ndarray) -> np.ndarray:
    made = np.zeros(len(xy), [("x", "i4"), ("y", "i4")])
    made["x"], made["y"] = xy.T
    return made


@pytest.mark.parametrize(
    "form",
    [
        lambda xy: np.concatenate([xy, xy + 256], 1),
        lambda xy: np.concatenate([xy, np.full_like(xy, 256)], 1),
        lambda xy: xy.T,
        lambda xy: xy[None],
        _structured,
    ],
)
def test_positions_of_other_forms_are_read(tmp_path, form):
    for name, (x, xy) in BAGS.items():
        h5(tmp_path / "feats" / f"{name}.h5", x, form(xy))
    assert torch.equal(cache_of(tmp_path / "feats").coords("S001"), torch.from_numpy(BAGS["S001"][1]))


def test_positions_of_two_meanings_are_left_as_they_are():
    square = np.arange(4).reshape(2, 2)
    assert as_positions(square, 2) is square
    spans = np.array([[0, 9, 5, 30], [1, 3, 8, 9], [4, 7, 1, 2]])  # x0, x1, y0, y1: no corners
    assert as_positions(spans, 3).shape == (3, 4)


@pytest.mark.parametrize("bad", ["nan", "three"])
def test_defects_of_positions_are_reported_before_a_suite_is_written(tmp_path, bad):
    for name, (x, xy) in BAGS.items():
        made = xy.astype(float) if bad == "nan" else np.hstack([xy, xy[:, :1]])
        if bad == "nan":
            made[0, 0] = np.nan
        h5(tmp_path / "feats" / f"{name}.h5", x, made)
    with refused("coords-bad", "--no-coords"):
        survey(tmp_path / "feats")
    assert survey(tmp_path / "feats", coords=False).coords is None
    with refused("coords-bad"):
        build_cache(tmp_path / "feats", tmp_path / "c", advice="Set coords = false.")


@pytest.mark.parametrize("dtype", [">f4", ">f8", "<f2", ">i4", np.longdouble, np.complex64, "S3"])
def test_dtypes(tmp_path, dtype):
    (tmp_path / "npy").mkdir()
    for name, (x, _) in BAGS.items():
        np.save(tmp_path / "npy" / f"{name}.npy", x.astype(dtype))
    if np.dtype(dtype).kind == "f" and np.dtype(dtype).itemsize <= 8:
        wanted = {name: x.astype(dtype).astype(np.float32) for name, x in WHOLE.items()}
        assert holds(cache_of(tmp_path / "npy"), wanted)
        return
    with refused("features-bad-array"):
        survey(tmp_path / "npy")
    with refused("features-bad-array"):
        build_cache(tmp_path / "npy", tmp_path / "c")


@pytest.mark.forks
@pytest.mark.parametrize("what", ["pipe", "socket", "device"])
@pytest.mark.parametrize("end", ["csv", "npy", "pt", "h5", "parquet", "mat"])
def test_regular_files_alone_are_opened(tmp_path, what, end, monkeypatch):
    monkeypatch.chdir(tmp_path)  # as names of sockets are short
    path = tmp_path / f"a.{end}"
    if what == "pipe":
        os.mkfifo(path)
    elif what == "socket":
        socket.socket(socket.AF_UNIX).bind(path.name)
    else:
        path.symlink_to("/dev/zero")
    with refused("path-wrong-kind"):
        survey(path if end in ("csv", "mat") else tmp_path)
    with refused("path-wrong-kind"):
        read_table(path)


def test_a_sparse_file_is_not_read_as_zeros(tmp_path):
    path = tmp_path / "a.mat"
    with path.open("wb") as file:
        file.truncate(1 << 36)
    with refused("file-damaged", "68,719,476,736", "0"):
        regular_size(path)


@pytest.mark.forks
def test_a_file_without_end_is_named(tmp_path, monkeypatch):
    """A reader that runs without end stands for a library that does."""
    for name, (x, _) in BAGS.items():
        pt(tmp_path / f"{name}.pt", torch.from_numpy(x))

    def spin(slide, path, places):
        regular_size(path)
        while slide == "S005":
            pass
        return real(slide, path, places)

    from milbench.data.importers import clam

    real = clam._read_pt
    monkeypatch.setattr(clam, "_read_pt", spin)
    monkeypatch.setattr(supervised, "COMPUTING", 0.2)
    with refused("reader-ended", "S005.pt"):
        build_cache(tmp_path, tmp_path.parent / "endless")


@pytest.mark.forks
def test_a_file_that_ends_its_reader_is_named(tmp_path, monkeypatch):
    for name, (x, _) in BAGS.items():
        pt(tmp_path / f"{name}.pt", torch.from_numpy(x))
    from milbench.data.importers import clam

    def end(slide, path, places):
        regular_size(path)
        os.kill(os.getpid(), 11)

    monkeypatch.setattr(clam, "_read_pt", end)
    with refused("reader-ended", "SIGSEGV"):
        survey(tmp_path)


def test_mutated_inputs_neither_hang_nor_show_a_traceback():
    """A small campaign: two mutations of every format and table; see tests/support/mutate_files.py."""
    actual = campaign(2 * len(FEATURES | TABLES), seed=1)
    assert actual.bad == []
    assert sum(actual.counts.values()) == 2 * len(FEATURES | TABLES)
    assert actual.counts["refused"] > 0


def test_a_header_of_npy_that_is_no_python_is_refused(tmp_path):
    """Found by a campaign: numpy parses the header as Python, and an open bracket made its tokenizer raise."""
    np.save(tmp_path / "a.npy", np.ones((3, 2), np.float32))
    raw = (tmp_path / "a.npy").read_bytes()
    (tmp_path / "a.npy").write_bytes(raw.replace(b"}", b" ", 1))
    with refused("file-damaged", "a.npy"):
        survey(tmp_path)


def encoder(seed, d=64):
    """Return the usual values and spreads of the features of an encoder."""
    rng = np.random.default_rng(seed)
    return 0.8 * rng.normal(size=d), np.exp(0.3 * rng.normal(size=d))


def cohort_of(folder, groups, scale=1.0, offset=0.0):
    """Write slides of an encoder each group; those of the second are scaled and moved, as by another scanner."""
    rng = np.random.default_rng(1)
    rows = []
    for k, (mean, spread) in enumerate(groups):
        for i in range(10):
            name = f"S{k}{i:02d}"
            x = mean + spread * rng.normal(size=(40, len(mean))) + 0.3 * spread * rng.normal(size=(1, len(mean)))
            plain_file(folder / "f" / f"{name}.npy", x * (scale if k else 1) + (offset if k else 0))
            rows.append((name, name, ["neg", "pos"][i % 2]))
    write_csv(folder / "l.csv", [("slide_id", "patient_id", "label"), *rows])


def plain_file(path, x):
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, x.astype(np.float32))


def command(*words):
    result = CliRunner().invoke(app, [str(word) for word in words])
    said = str(result.exception) if isinstance(result.exception, MilbenchError) else result.output
    return (1 if isinstance(result.exception, MilbenchError) else result.exit_code), said


def test_half_a_cohort_of_another_encoder_stops_every_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cohort_of(tmp_path, [encoder(0), encoder(5)])
    build = ("cache", "build", "--from", "f", "--out", "c.cache")
    init = ("init", "--features", "f", "--labels", "l.csv", "--no-estimate", "--out", "a.toml")
    for words in (build, init):
        code, said = command(*words)
        assert code == 1, said
        assert "--allow-two-encoders" in said
        assert not (tmp_path / words[-1]).exists()
        code, said = command(*words, "--allow-two-encoders")
        assert code == 0, said
    code, said = command("audit", "a.toml")
    assert code == 0, said
    assert "waived" in said and "two-encoders" in said  # noqa: PT018
    text = (tmp_path / "a.toml").read_text()
    (tmp_path / "a.toml").write_text(text.replace('waive = ["two-encoders"]', ""))
    code, said = command("audit", "a.toml")
    assert code == 1
    assert "two-encoders" in said


def test_another_scanner_is_no_other_encoder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mean, spread = encoder(0)
    rng = np.random.default_rng(2)
    offset = np.where(rng.random(64) < 0.4, 2 * spread * rng.choice([-1, 1], size=64), 0)
    cohort_of(tmp_path, [(mean, spread)] * 2, 1.5, offset)
    code, said = command("cache", "build", "--from", "f", "--out", "c.cache")
    assert code == 0, said
    code, said = command("init", "--features", "f", "--labels", "l.csv", "--no-estimate", "--out", "a.toml")
    assert code == 0, said
    code, said = command("audit", "a.toml")
    assert "encoders" not in said


@pytest.mark.parametrize("seed", range(6))
def test_site_shifts_of_one_encoder_and_encoders_of_one_width(seed):
    rng = np.random.default_rng(seed)
    d = (64, 256)[seed % 2]
    mean, spread = encoder(seed, d)

    def slides(mean, spread, n, scale=1.0, offset=0.0):
        x = mean + spread * rng.normal(size=(n, 64, d)) + 0.3 * spread * rng.normal(size=(n, 1, d))
        return (x * scale + offset).mean(1), (x * scale).std(1)

    offset = np.where(rng.random(d) < 0.4, 2 * spread * rng.uniform(-1, 1, d), 0)
    gain = np.exp(0.2 * rng.normal(size=d))
    here = slides(mean, spread, 16)
    for there in ((1.5, 0.0), (1.5, offset), (1 / 1.5, offset), (1.0, offset), (gain, offset)):
        both = [np.concatenate(pair) for pair in zip(here, slides(mean, spread, 12, *there), strict=True)]
        assert encoder_groups(*both) is None, there
    other = [np.concatenate(pair) for pair in zip(here, slides(*encoder(seed + 100, d), 12), strict=True)]
    groups = encoder_groups(*other)
    assert groups is not None
    assert groups.second.sum() == 12
