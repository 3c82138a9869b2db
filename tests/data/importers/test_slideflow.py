"""slideflow's bags, with the places of their tiles and the record of the extractor."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from support.features import Slide, digit_slides
from support.foreign import Bomb, read_source, same_bits, write_slideflow
from support.refusal import refused

from milbench import FeatureCache
from milbench.data.cache.build import build_cache
from milbench.data.importers import detect_format


@pytest.fixture(scope="module")
def slides() -> list[Slide]:
    return digit_slides(patients=4)


@pytest.mark.parametrize("below", ["", "pt_files"])
def test_features_and_places(tmp_path, slides, below):
    """A project keeps its bags in pt_files/, which is CLAM's name too."""
    folder = write_slideflow(tmp_path / "pt_files", slides)
    module, said = detect_format(tmp_path / below)
    bags = read_source(tmp_path / below)
    assert module.NAME == "slideflow"
    assert said == f"slideflow bags in {folder}: 8 .pt files (encoder CTransPathFeatures, patch_size 299)"
    assert sorted(bags) == sorted(slide.name for slide in slides)
    for slide in slides:
        assert same_bits(bags[slide.name].features, slide.x)
        assert same_bits(bags[slide.name].coords, slide.xy)
        assert bags[slide.name].meta == {
            "encoder": "CTransPathFeatures", "patch_size": 299, "units": "level-0 pixels"}  # fmt: skip


@pytest.mark.parametrize("dtype", ["float16", "float32", "bfloat16"])
def test_a_cache_of_them(tmp_path, slides, dtype):
    folder = write_slideflow(tmp_path / "bags", slides)
    for slide in slides:
        torch.save(torch.from_numpy(slide.x).to(getattr(torch, dtype)), folder / f"{slide.name}.pt")
    report = build_cache(folder, tmp_path / "cache", dtype=dtype)
    cache = FeatureCache.open(report.out)
    assert (report.format, report.slides, report.max_rounding_error) == ("slideflow", 8, 0)
    for slide in slides:
        assert torch.equal(cache[slide.name], torch.from_numpy(slide.x).to(getattr(torch, dtype)))
        assert torch.equal(cache.coords(slide.name), torch.from_numpy(slide.xy))


def test_a_tile_may_be_given_by_magnification(tmp_path, slides):
    folder = write_slideflow(tmp_path, slides[:1], tile_um="20x")
    assert read_source(folder)[slides[0].name].meta["magnification"] == 20.0


def test_places_alone_or_the_record_alone_are_enough(tmp_path, slides):
    folder = write_slideflow(tmp_path / "a", slides, config=False)
    assert read_source(folder)[slides[0].name].meta == {"units": "level-0 pixels"}
    folder = write_slideflow(tmp_path / "b", slides)
    for path in folder.glob("*.index.npz"):
        path.unlink()
    slide = read_source(folder)[slides[0].name]
    assert slide.coords is None
    assert "units" not in slide.meta


def test_places_that_are_not_packed(tmp_path, slides):
    """Releases that forbid zip files write {slide}.index.npy."""
    folder = write_slideflow(tmp_path, slides, config=False)
    for slide in slides:
        (folder / f"{slide.name}.index.npz").unlink()
        np.save(folder / f"{slide.name}.index.npy", slide.xy)
    bags = read_source(folder)
    assert all(same_bits(bags[slide.name].coords, slide.xy) for slide in slides)


def test_empty_bags_are_left_out_by_name(tmp_path, slides):
    folder = write_slideflow(tmp_path / "bags", slides[:1])
    for name, shape in {"blank": (0, 64), "bare": (0,)}.items():
        torch.save(torch.zeros(shape), folder / f"{name}.pt")
        np.savez(folder / f"{name}.index", np.zeros((0, 2), int))
    assert build_cache(folder, tmp_path / "cache").left_out == {
        "bare": "it has no patches, shape (0,)", "blank": "it has no patches, shape (0, 64)"}  # fmt: skip


def test_a_bag_without_places_is_named(tmp_path, slides):
    folder = write_slideflow(tmp_path / "bags", slides)
    (folder / f"{slides[-1].name}.index.npz").unlink()
    with refused("features-disagree", "--no-coords"):
        build_cache(folder, tmp_path / "cache")
    assert not build_cache(folder, tmp_path / "cache", coords=False).coords


@pytest.mark.parametrize(
    ("text", "refusal"),
    [
        ("{", ("config-invalid", "bags_config.json")),
        ("\x00", ("config-invalid", "bags_config.json")),
        ("[" * 100000, ("config-invalid", "bags_config.json")),
        ("[1]", ("config-invalid", "bags_config.json")),
    ],
)
def test_a_record_that_is_none(tmp_path, slides, text, refusal):
    folder = write_slideflow(tmp_path, slides[:1])
    (folder / "bags_config.json").write_text(text)
    with refused(*refusal):
        detect_format(folder)


@pytest.mark.parametrize(
    "said", [{}, {"extractor": "x", "tile_px": "299", "tile_um": None}, {"extractor": {"class": 1}, "tile_px": True}]
)
def test_what_the_record_does_not_say_is_left_out(tmp_path, slides, said):
    folder = write_slideflow(tmp_path, slides[:1])
    (folder / "bags_config.json").write_text(json.dumps(said))
    assert read_source(folder)[slides[0].name].meta == {"units": "level-0 pixels"}


X, XY = torch.ones(4, 3), np.zeros((4, 2), int)


@pytest.mark.parametrize(
    ("features", "places", "refusal"),
    [
        (X, {"arr_0": XY[:3]}, ("coords-bad", "z.pt", "4", "z.index.npz", "3")),
        (X, {"places": XY}, ("features-missing", "z.index.npz", "'arr_0'")),
        (X, {"arr_0": np.array([None, {}], object)}, ("file-unsafe", "'arr_0'", "z.index.npz")),
        (X, {"arr_0": XY.astype("U")}, ("features-bad-array", "'arr_0'", "z.index.npz", "numbers", "<U")),
        (X, b"PK\x03\x04", ("file-damaged", "z.index.npz")),
        (X, {"arr_0": np.zeros((4, 3), int)}, ("coords-bad", "z.pt", "'z'", "4", "2")),
        (X[0], {"arr_0": XY[:3]}, ("features-bad-array", "z.pt", "'z'", "3")),
        (X.long(), {"arr_0": XY}, ("features-bad-array", "z.pt", "'z'", "torch.int64")),
        ([X], {"arr_0": XY}, ("file-wrong-content", "z.pt", "list")),
        (X.numpy(), {"arr_0": XY}, ("file-unsafe", "z.pt")),
        (torch.ones(1, 3).expand(4, 3), {"arr_0": XY}, ("file-damaged", "z.pt", "(4, 3)")),
        (X.to_sparse(), {"arr_0": XY}, ("file-wrong-content", "z.pt")),
        (b"", {"arr_0": XY}, ("file-damaged", "z.pt")),
    ],
)
def test_files_that_are_not_what_they_should_be(tmp_path, slides, features, places, refusal):
    folder = write_slideflow(tmp_path / "bags", [])
    for name, x, xy in (("a", X, {"arr_0": XY}), ("z", features, places)):
        path, index = folder / f"{name}.pt", folder / f"{name}.index.npz"
        path.write_bytes(x) if isinstance(x, bytes) else torch.save(x, path)
        index.write_bytes(xy) if isinstance(xy, bytes) else np.savez(index, **xy)
    with refused(*refusal):
        build_cache(folder, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("suffix", ["pt", "index.npz"])
def test_hostile_pickles_run_nothing(tmp_path, slides, suffix):
    folder, mark = write_slideflow(tmp_path / "bags", slides[:1]), tmp_path / "it-ran"
    path = folder / f"{slides[0].name}.{suffix}"
    if suffix == "pt":
        torch.save(Bomb(mark), path)
    else:
        np.savez(path, np.array([Bomb(mark)], object))
    with refused("file-unsafe"):
        read_source(folder)
    assert not mark.exists()


def test_a_folder_without_marks_is_clams(tmp_path, slides):
    folder = write_slideflow(tmp_path, slides, config=False)
    for path in folder.glob("*.index.npz"):
        path.unlink()
    assert detect_format(folder)[0].NAME == "clam"
