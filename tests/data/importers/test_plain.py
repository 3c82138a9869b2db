"""Plain files, one a slide, as numpy, torch, safetensors and pandas write them."""

from __future__ import annotations

import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pyarrow import parquet
from safetensors.numpy import save_file as save_numpy
from safetensors.torch import save_file as save_torch
from support.features import Slide, digit_slides
from support.foreign import Bomb, read_source, same_bits, write_slideflow, write_torchmil
from support.refusal import refused

from milbench import FeatureCache, MilbenchError
from milbench.data.cache.build import build_cache
from milbench.data.importers import detect_format, formats
from milbench.data.input_files.regular import passed_over
from milbench.data.onboarding.survey import survey

SLIDES = digit_slides(patients=3)


def _npy(path: Path, slide: Slide) -> None:
    np.save(path, slide.x)


def _npz(path: Path, slide: Slide) -> None:
    np.savez(path, features=slide.x, coords=slide.xy)


def _npz_packed(path: Path, slide: Slide) -> None:
    np.savez_compressed(path, feats=slide.x, coords=slide.xy, other=np.array(["text"]))


def _npz_only(path: Path, slide: Slide) -> None:
    np.savez(path, slide.x)  # arr_0


def _pt(path: Path, slide: Slide) -> None:
    with path.open("wb") as file:  # of some names, "\\.pt" for one, torch's own writer makes none
        torch.save(
            {"feats": torch.from_numpy(slide.x), "coords": torch.from_numpy(slide.xy), "slide": slide.name}, file
        )


def _safetensors(path: Path, slide: Slide) -> None:
    save_numpy({"features": slide.x, "coords": np.ascontiguousarray(slide.xy)}, path)


def _parquet(path: Path, slide: Slide) -> None:
    table = pd.DataFrame(slide.x, columns=[f"f{j}" for j in range(slide.x.shape[1])])
    table.insert(0, "x", slide.xy[:, 0])
    table.insert(1, "y", slide.xy[:, 1])
    table.to_parquet(path)


def _parquet_lists(path: Path, slide: Slide) -> None:
    lists = pa.FixedSizeListArray.from_arrays(np.ascontiguousarray(slide.x).reshape(-1), slide.x.shape[1])
    parquet.write_table(pa.table({"features": lists}), path, row_group_size=3)


#: kind -> the file's ending, what writes it, whether it has coordinates
KINDS: dict[str, tuple[str, Callable[[Path, Slide], None], bool]] = {
    "npy": (".npy", _npy, False),
    "npz": (".npz", _npz, True),
    "npz packed": (".npz", _npz_packed, True),
    "npz only": (".npz", _npz_only, False),
    "pt": (".pt", _pt, True),
    "safetensors": (".safetensors", _safetensors, True),
    "parquet": (".parquet", _parquet, True),
    "parquet lists": (".parquet", _parquet_lists, False),
}


def write(folder: Path, slides: Sequence[Slide], kind: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    end, writer, _ = KINDS[kind]
    for slide in slides:
        writer(folder / f"{slide.name}{end}", slide)
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_one_file_a_slide(tmp_path, kind):
    folder = write(tmp_path / "features", SLIDES, kind)
    bags = read_source(folder)
    end, _, coords = KINDS[kind]
    said = detect_format(folder)[1]
    assert said.startswith(f"plain files in {folder}: 6 {end} files, one a slide")
    assert list(bags) == sorted(slide.name for slide in SLIDES)
    for slide in SLIDES:
        assert same_bits(bags[slide.name].features, slide.x)
        assert same_bits(bags[slide.name].coords, slide.xy) if coords else bags[slide.name].coords is None
    if kind == "parquet":
        assert said.endswith("64 feature columns ('f0' to 'f63'), coordinates in 'x', 'y'")


@pytest.mark.parametrize("kind", KINDS)
def test_one_format_alone_claims_them(tmp_path, kind):
    folder = write(tmp_path / "features", SLIDES[:2], kind)
    (folder / "labels.csv").write_text("slide_id,label\n")
    assert {name for name, module in formats().items() if module.detect(folder) is not None} == {"plain"}
    assert {name for name, module in formats().items() if module.detect(tmp_path) is not None} == set()


@pytest.mark.parametrize("kind", KINDS)
def test_a_cache_of_them(tmp_path, kind):
    folder = write(tmp_path / "features", SLIDES, kind)
    cache = FeatureCache.open(build_cache(folder, tmp_path / "cache", dtype="float32", workers=1).out)
    for slide in SLIDES:
        assert torch.equal(cache[slide.name], torch.from_numpy(slide.x))
        if KINDS[kind][2]:
            assert torch.equal(cache.coords(slide.name), torch.from_numpy(slide.xy).long())


@pytest.mark.parametrize("kind", ["npy", "parquet", "safetensors"])
def test_headers_tell_how_long_slides_are(tmp_path, kind):
    folder = write(tmp_path / "features", SLIDES, kind)
    slides = formats()["plain"].open_source(folder)
    assert [slides.rows(i) for i in range(len(slides))] == [len(slides.load(i).features) for i in range(len(slides))]
    assert survey(folder).complete


def test_folders_of_other_tools_are_not_claimed(tmp_path):
    plain = formats()["plain"]
    torchmil = write_torchmil(tmp_path / "torchmil", SLIDES)
    slideflow = write_slideflow(tmp_path / "slideflow", SLIDES)
    cache = build_cache(write(tmp_path / "npy", SLIDES, "npy"), tmp_path / "cache").out
    for folder in (
        torchmil,
        torchmil / "features",
        slideflow,
        cache,
        tmp_path,
        tmp_path / "npy" / f"{SLIDES[0].name}.npy",
    ):
        assert plain.detect(folder) is None
    bare = tmp_path / "bare"
    bare.mkdir()
    torch.save(torch.ones(2, 3), bare / "a.pt")
    assert plain.detect(bare) is None  # CLAM's
    mixed = write(write(tmp_path / "mixed", SLIDES, "npy"), SLIDES[:1], "npz")
    assert plain.detect(mixed) is None
    long = tmp_path / "long"
    long.mkdir()
    pd.DataFrame({"slide_id": ["a"], "f0": [1.0]}).to_parquet(long / "a.parquet")
    assert plain.detect(long) is None


@pytest.mark.parametrize("array", [SLIDES[0].x.T, np.asfortranarray(SLIDES[0].x), SLIDES[0].x.astype(">f4")])
def test_arrays_of_other_orders(tmp_path, array):
    np.save(tmp_path / "a.npy", array)
    cache = FeatureCache.open(build_cache(tmp_path, tmp_path / "cache", dtype="float32").out)
    assert np.array_equal(cache["a"].numpy(), array)


def test_the_source_is_never_written_to(tmp_path):
    np.save(tmp_path / "a.npy", SLIDES[0].x)
    raw = (tmp_path / "a.npy").read_bytes()
    features = read_source(tmp_path)["a"].features
    features[:] = 7
    del features
    assert (tmp_path / "a.npy").read_bytes() == raw


@pytest.mark.parametrize("end", [".pt", ".safetensors"])
def test_bfloat16_stays(tmp_path, end):
    x = torch.from_numpy(SLIDES[0].x).bfloat16() * 1.7
    save = save_torch if end == ".safetensors" else torch.save
    save({"features": x}, tmp_path / f"a{end}")
    bags = read_source(tmp_path)["a"].features
    assert bags.dtype == torch.bfloat16
    assert torch.equal(bags, x)
    cache = FeatureCache.open(build_cache(tmp_path, tmp_path / "cache", dtype="bfloat16").out)
    assert torch.equal(cache["a"], x)


#: path and surrogates apart, anything may be a slide's name
NAMES = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cc", "Cs"), exclude_characters="/"), max_size=12
).filter(lambda name: name != "" and not passed_over(f"{name}.npy"))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_any_bag_comes_through_bit_for_bit(tmp_path_factory, kind, dtype):
    columns = kind.startswith("parquet")  # which refuses NaN, and of which an empty one has no width

    @settings(max_examples=12, deadline=None)
    @given(st.data())
    def check(data):
        largest = float(np.finfo(dtype).max)
        elements = {"min_value": -largest, "max_value": largest} if columns else {"allow_nan": True}
        x = hnp.arrays(dtype, st.tuples(st.integers(columns, 4), st.just(3)), elements=elements)
        named = data.draw(st.dictionaries(NAMES, x, min_size=1, max_size=3))
        xy = data.draw(hnp.arrays(np.int64, (4, 2), elements=st.integers(0, 2**40)))
        slides = [Slide(name, name, "", x, xy[: len(x)]) for name, x in named.items()]
        bags = read_source(write(tmp_path_factory.mktemp("any"), slides, kind))
        assert sorted(bags) == sorted(named)
        for slide in slides:
            assert same_bits(bags[slide.name].features, slide.x)
            if KINDS[kind][2]:
                assert same_bits(bags[slide.name].coords, slide.xy)

    check()


X, XY = np.ones((4, 3), np.float32), np.zeros((4, 2), np.int64)


def _of(end: str, arrays: dict[str, np.ndarray], path: Path) -> None:
    match end:
        case ".npz":
            np.savez(path, **arrays)
        case ".pt":
            torch.save({key: torch.from_numpy(array) for key, array in arrays.items()}, path)
        case ".safetensors":
            save_numpy(arrays, path)


@pytest.mark.parametrize("end", [".npz", ".pt", ".safetensors"])
@pytest.mark.parametrize(
    ("arrays", "refusal"),
    [
        ({"a": X, "b": X}, ("features-missing", "'a', 'b'", "'features'")),
        ({"coords": XY}, ("features-missing", "'coords'")),
        ({"features": X, "coords": XY[:3]}, ("coords-bad", "4", "3")),
        ({"features": X, "coords": np.zeros((4, 3))}, ("coords-bad", "'z'", "(4, 2)")),
        ({"features": X.astype(int)}, ("features-bad-array", "int64")),
        ({"features": X, "coords": XY.astype(bool)}, ("features-bad-array", "bool")),
        ({"features": X[0]}, ("features-bad-array", "'z'", "(3,)")),
        ({"features": np.stack([X, X])}, ("features-bad-array", "'z'", "(2, 4, 3)")),
        ({"features": X * np.nan}, ("features-not-finite", "'z'", "0")),
        ({"features": X[:, :2].copy()}, ("features-disagree", "'z'", "2-d", "3-d")),
        ({"features": X.astype(np.complex64)}, ("features-bad-array", "complex64")),
    ],
)
def test_files_that_are_not_what_they_should_be(tmp_path, end, arrays, refusal):
    _of(end, {"features": X}, tmp_path / f"a{end}")
    _of(end, arrays, tmp_path / f"z{end}")
    with refused(*refusal) as caught:
        build_cache(tmp_path, tmp_path / "cache")
    assert f"z{end}" in str(caught.value) or refusal[0] == "features-disagree"
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("end", [".npz", ".pt", ".safetensors", ".npy", ".parquet"])
def test_slides_without_patches_are_left_out_by_name(tmp_path, end):
    kind = end[1:]
    write(tmp_path / "in", [Slide("a", "", "", X, XY)], kind)
    write(tmp_path / "in", [Slide("blank", "", "", X[:0], XY[:0])], kind)
    report = build_cache(tmp_path / "in", tmp_path / "cache")
    assert report.left_out == {"blank": "it has no patches, shape (0, 3)"}
    assert report.slides == 1


@pytest.mark.parametrize(
    ("columns", "refusal"),
    [
        ({"f0": [1.0, None]}, ("table-empty-cell", "'f0'", "2")),
        ({"f0": [1.0, np.inf]}, ("features-not-finite", "inf", "'f0'", "2")),
        ({"f0": ["1", "2"]}, ("features-missing", "'f0'")),
        ({"slide_id": ["a", "a"], "f0": [1.0, 2.0]}, ("file-wrong-content", "'slide_id'")),
        ({"f0": [1.0, 2.0], "x": [1, 2], "y": [1, None]}, ("table-empty-cell", "'y'", "2")),
        ({"f0": [1.0], "f1": [1.0], "x": [1.0], "y": [np.inf]}, ("coords-bad", "'z'")),
    ],
)
def test_parquet_that_is_not_what_it_should_be(tmp_path, columns, refusal):
    pd.DataFrame({"f0": [1.0], "f1": [1.0], "x": [1.0], "y": [1.0]}).to_parquet(tmp_path / "a.parquet")
    pd.DataFrame(columns).to_parquet(tmp_path / "z.parquet")
    with refused(*refusal, "z.parquet"):
        build_cache(tmp_path, tmp_path / "cache")


def test_packed_bags_are_no_slide(tmp_path):
    np.savez(tmp_path / "a.npz", features=X, bag_offsets=np.array([0, 4]), bag_label=np.array([1]))
    with refused("file-wrong-content", "a.npz"):
        read_source(tmp_path)


def test_pickles_are_not_run(tmp_path):
    mark = tmp_path / "it-ran"
    evil = np.array([Bomb(mark)], dtype=object)
    torch.save({"features": torch.ones(2, 3)}, tmp_path / "a.pt")
    for i, value in enumerate([{"features": Bomb(mark)}, {"features": torch.ones(2), "x": Bomb(mark)}, evil]):
        torch.save(value, tmp_path / "z.pt")
        with refused("file-unsafe", "z.pt"):
            read_source(tmp_path)
        (tmp_path / "z.pt").write_bytes(pickle.dumps(value))
        with refused("file-unsafe", "z.pt"):
            read_source(tmp_path)
        (tmp_path / "np").mkdir(exist_ok=True)
        np.save(tmp_path / "np" / f"{i}.npy", np.array([value], dtype=object), allow_pickle=True)
        with refused("file-unsafe", ".npy"):
            read_source(tmp_path / "np")
    np.savez(tmp_path / "b.npz", features=evil)
    (tmp_path / "z.pt").unlink()
    (tmp_path / "a.pt").unlink()
    with refused("file-unsafe", "'features'", "b.npz"):
        read_source(tmp_path)
    assert not mark.exists()


def test_a_state_dict_is_no_slide(tmp_path):
    torch.save(torch.nn.Linear(3, 2).state_dict(), tmp_path / "model.pt")
    with refused("features-missing", "model.pt", "'weight', 'bias'", "'features'"):
        read_source(tmp_path)
    torch.save({"epoch": 3}, tmp_path / "model.pt")
    with refused("file-wrong-content", "model.pt", "dict"):
        read_source(tmp_path)


def test_safetensors_headers_are_not_believed(tmp_path):
    def written(shape: list[int], end: int) -> bytes:
        header = json.dumps({"features": {"dtype": "F32", "shape": shape, "data_offsets": [0, end]}}).encode()
        return struct.pack("<Q", len(header)) + header + X.tobytes()

    for raw in (written([10**9, 10**6], 48), written([5, 3], 60), written([4, 3], 10**12), struct.pack("<Q", 2**62),
                written([4, 3], 48)[:-1], b"", b"PK"):  # fmt: skip
        (tmp_path / "a.safetensors").write_bytes(raw)
        with refused("file-damaged", "a.safetensors"):
            read_source(tmp_path)
    (tmp_path / "a.safetensors").write_bytes(written([4, 3], 48))
    assert np.array_equal(read_source(tmp_path)["a"].features, X)


def test_types_that_caches_cannot_hold_are_refused(tmp_path):
    for end, save in ((".pt", torch.save), (".safetensors", save_torch)):
        folder = tmp_path / end[1:]
        folder.mkdir()
        save({"features": torch.ones(4, 3).to(torch.float8_e4m3fn)}, folder / f"a{end}")
        with refused("features-bad-array", "'features'", "torch.float8_e4m3fn"):
            read_source(folder)


def test_an_archive_that_unfolds_to_far_more_than_it_holds(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("features.npy", bytes(100 << 20))
    with refused("file-too-large", "a.npz", "104,857,600"):
        read_source(tmp_path)


def _harmed(raw: bytes, how: str, rng: np.random.Generator) -> bytes:
    match how:
        case "empty":
            return b""
        case "half":
            return raw[: len(raw) // 2]
        case "shortened":
            return raw[: -int(rng.integers(1, 40))]
        case "noise":
            return rng.bytes(len(raw))
        case "zeros":
            return bytes(len(raw))
        case _:
            made = bytearray(raw)
            for place in rng.integers(len(raw) if how == "flipped" else 200, size=int(rng.integers(1, 6))):
                made[place] ^= 1 << int(rng.integers(8))
            return bytes(made)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["empty", "half", "shortened", "noise", "zeros", "flipped", "flipped head"])
def test_harmed_files_give_numbers_or_a_sentence(tmp_path, kind, how):
    folder = write(tmp_path / "in", SLIDES[:1], kind)
    path = next(folder.iterdir())
    raw = path.read_bytes()
    rng = np.random.default_rng([list(KINDS).index(kind), len(how)])
    message = 0
    for _ in range(8):
        path.write_bytes(_harmed(raw, how, rng))
        try:
            read_source(folder)
        except MilbenchError as error:
            message += 1
            assert path.name in str(error)  # noqa: PT017  (either may happen)
    assert how.startswith("flipped") or message == 8


@pytest.mark.parametrize("end", [".npy", ".npz", ".safetensors", ".parquet"])
def test_a_path_that_is_no_file_is_refused(tmp_path, end):
    write(tmp_path, [Slide("a", "", "", X, XY)], end[1:])
    (tmp_path / f"b{end}").symlink_to(tmp_path / f"b{end}")
    with refused("file-missing", end):
        read_source(tmp_path)
    (tmp_path / f"b{end}").unlink()
    os.mkfifo(tmp_path / f"b{end}")
    with refused("path-wrong-kind", end):
        read_source(tmp_path)
