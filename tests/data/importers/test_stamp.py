"""STAMP's features, of every version that laid them out differently."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
import torch
from support.features import Slide, digit_slides
from support.foreign import read_source, same_bits, write_stamp, write_stamp_slide_level
from support.refusal import refused

from milbench import FeatureCache
from milbench.data.cache.build import build_cache
from milbench.data.importers import detect_format


@pytest.fixture(scope="module")
def slides() -> list[Slide]:
    return digit_slides(patients=4)


@pytest.mark.parametrize(("code_hash", "below"), [(None, ""), ("1a2b3c4d", ""), ("1a2b3c4d", "ctranspath-1a2b3c4d")])
def test_features_in_half_precision_and_micrometres(tmp_path, slides, code_hash, below):
    folder = write_stamp(tmp_path, slides, code_hash=code_hash)
    module, said = detect_format(tmp_path / below)
    bags = read_source(tmp_path / below)
    assert module.NAME == "stamp"
    assert said == (f"STAMP features in {folder}: 8 .h5 files (extractor ctranspath, coordinates in micrometres)")
    assert sorted(bags) == sorted(slide.name for slide in slides)
    for slide in slides:
        assert same_bits(bags[slide.name].features, slide.x.astype(np.float16))
        assert same_bits(bags[slide.name].coords, (slide.xy / 2).astype(np.float32))
        assert bags[slide.name].meta == {
            "encoder": "ctranspath", "units": "micrometres", "patch_size": 224, "coord_step": 256.0}  # fmt: skip


def test_a_cache_of_them(tmp_path, slides):
    write_stamp(tmp_path / "out", slides)
    report = build_cache(tmp_path / "out", tmp_path / "cache")
    cache = FeatureCache.open(report.out)
    assert (report.format, report.slides, report.max_rounding_error) == ("stamp", 8, 0)
    assert {key: cache.meta[key] for key in ("encoder", "units", "patch_size")} == {
        "encoder": "ctranspath", "units": "micrometres", "patch_size": 224}  # fmt: skip
    assert set(cache.slides["coord_step"]) == {256.0}
    for slide in slides:
        assert torch.equal(cache[slide.name], torch.from_numpy(slide.x.astype(np.float16)))
        assert torch.equal(cache.coords(slide.name), torch.from_numpy((slide.xy / 2).astype(np.float32)))


def test_version_2_0_calls_the_tile_size_otherwise(tmp_path, slides):
    write_stamp(tmp_path, slides, version="2.0")
    meta = next(iter(read_source(tmp_path).values())).meta
    assert meta == {"encoder": "ctranspath", "units": "micrometres", "coord_step": 256.0}


def test_version_1_knew_no_units_and_what_is_assumed_is_said(tmp_path, slides):
    folder = write_stamp(tmp_path, slides, extractor="STAMP-extract-001_xiyuewang-ctranspath-7c998680", version="1")
    bags = read_source(folder)
    assert "coordinates taken to be in pixels of 256/224 micrometres)" in detect_format(folder)[1]
    for slide in slides:
        assert same_bits(bags[slide.name].coords, slide.xy // 512 * 224)
    meta = bags[slides[0].name].meta
    assert (meta["units"], meta["patch_size"], meta["coord_step"]) == ("pixels of 256/224 micrometres", 224, 224.0)


def test_coordinates_without_unit_are_of_version_1_or_unknown(tmp_path):
    folder = tmp_path / "features"
    folder.mkdir()
    for name, coords in {
        "one": [[7, 7]],
        "odd": [[0, 0], [256, 0]],
        "row": [[0, 5], [224, 5]],
        "void": [[0, np.nan], [1, 0]],
    }.items():
        with h5py.File(folder / f"{name}.h5", "w") as file:
            file["feats"], file["coords"] = np.ones((len(coords), 3), np.float16), np.array(coords)
    slides = detect_format(folder)[0].open_source(folder)
    assert [slides.load(i).meta["units"] for i in (1, 2)] == ["pixels of 256/224 micrometres"] * 2
    assert not {"units", "coord_step"} & {*slides.load(0).meta, *slides.load(3).meta}


def test_another_unit_is_kept_as_it_is_said(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["feats"], file["coords"] = np.ones((2, 3), np.float16), np.zeros((2, 2), np.float32)
        file.attrs.update(extractor="kronos2", unit="px", tile_size_px=256, feat_type="tile")
    assert read_source(tmp_path)["a"].meta == {"encoder": "kronos2", "units": "px", "patch_size": 256}
    assert "coordinates taken to be in px" in detect_format(tmp_path)[1]


def test_attributes_that_are_no_numbers_are_left_out(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["feats"], file["coords"] = np.ones((2, 3), np.float16), np.zeros((2, 2), np.float32)
        file.attrs.update(extractor=7, unit="um", tile_size_um=np.inf, tile_size_px="224 px")
    assert read_source(tmp_path)["a"].meta == {"encoder": "7", "units": "micrometres"}


def test_slides_are_named_as_in_the_slide_table(tmp_path, slides):
    """FILENAME is relative to the feature folder: one name in two folders is two slides."""
    first, second = slides[:2]
    named = [
        Slide("site 1/001.a", "p", first.label, first.x, first.xy),
        Slide("site 2/001.a", "q", second.label, second.x, second.xy),
        Slide("0007", "r", first.label, first.x, first.xy),
    ]
    folder = write_stamp(tmp_path / "out", named)
    for source in (tmp_path / "out", folder):
        bags = read_source(source)
        assert sorted(bags) == ["0007", "site 1/001.a", "site 2/001.a"]
        assert same_bits(bags["site 2/001.a"].features, second.x.astype(np.float16))
    cache = FeatureCache.open(build_cache(folder, tmp_path / "cache").out)
    assert torch.equal(cache["site 1/001.a"], torch.from_numpy(first.x.astype(np.float16)))


def test_two_extractors_ask_which(tmp_path, slides):
    write_stamp(tmp_path, slides, "uni2")
    folder = write_stamp(tmp_path, slides, "conch", code_hash="00ff")
    with refused("features-two-kinds", "conch-00ff", "uni2"):
        detect_format(tmp_path)
    assert read_source(folder)[slides[0].name].meta["encoder"] == "conch"


def test_slide_level_features_are_refused_with_the_reason(tmp_path, slides):
    folder = write_stamp_slide_level(tmp_path / "titan-slide", slides)
    with refused("features-not-tiles", ".h5", "titan"):
        detect_format(folder)
    mixed = write_stamp(tmp_path / "out", slides[:1])
    write_stamp_slide_level(mixed, [Slide("zz", "p", "normal", slides[0].x, slides[0].xy)])
    with refused("features-not-tiles", "zz.h5", "titan"):
        read_source(mixed)


def test_augmented_copies_are_refused(tmp_path, slides):
    folder = write_stamp(tmp_path, slides[:1], version="1.0.3")
    with h5py.File(folder / f"{slides[0].name}.h5", "r+") as file:
        file["augmented"][-2:] = True
    with refused("features-not-tiles", "2"):
        read_source(folder)


def test_empty_slides_are_left_out_by_name(tmp_path, slides):
    folder = write_stamp(tmp_path / "out", slides[:1])
    for name, shape in {"blank": (0, 64), "bare": (0,)}.items():
        with h5py.File(folder / f"{name}.h5", "w") as file:
            file["feats"], file["coords"] = np.zeros(shape, np.float16), np.zeros((0, 2), np.float32)
            file.attrs.update(extractor="ctranspath", unit="um", tile_size_um=256.0, tile_size_px=224)
    report = build_cache(tmp_path / "out", tmp_path / "cache")
    assert report.left_out == {
        "bare": "it has no patches, shape (0,)", "blank": "it has no patches, shape (0, 64)"}  # fmt: skip
    assert report.slides == 1


FEATS, COORDS = np.ones((4, 3), np.float16), np.zeros((4, 2), np.float32)


@pytest.mark.parametrize(
    ("arrays", "refusal"),
    [
        ({"features": FEATS}, ("features-missing", "z.h5", "features", "'feats'")),
        ({}, ("features-missing", "z.h5", "none", "'feats'")),
        ({"feats": FEATS, "coords": COORDS[:3]}, ("coords-bad", "z.h5", "4", "3")),
        ({"feats": FEATS, "coords": np.float32(1)}, ("coords-bad", "z.h5", "4", "no")),
        ({"feats": FEATS.astype(int), "coords": COORDS}, ("features-bad-array", "'feats'", "int64")),
        ({"feats": FEATS, "coords": ["a", "b", "c", "d"]}, ("features-bad-array", "'coords'", "numbers", "object")),
        ({"feats": FEATS[0], "coords": COORDS[:3]}, ("features-bad-array", "z.h5", "'z'")),
        ({"feats": np.stack([FEATS, FEATS]), "coords": COORDS[:2]}, ("features-bad-array", "z.h5", "'z'")),
        ({"feats": FEATS, "coords": np.zeros((4, 3))}, ("coords-bad", "z.h5", "'z'", "4", "2")),
        ({"feats": FEATS * np.nan, "coords": COORDS}, ("features-not-finite", "z.h5", "0", "'z'")),
        ({"feats": FEATS[:, :2], "coords": COORDS}, ("features-disagree", "'z'", "2", "3")),
    ],
)
def test_files_that_are_not_what_they_should_be(tmp_path, arrays, refusal):
    for name, content in {"a": {"feats": FEATS, "coords": COORDS}, "z": arrays}.items():
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            file.attrs.update(extractor="uni", unit="um", tile_size_um=256.0)
            for key, array in content.items():
                file[key] = array
    with refused(*refusal):
        build_cache(tmp_path, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_links_between_folders(tmp_path, slides):
    """One to another disk is followed; one that leads back ends the search."""
    write_stamp(tmp_path / "disk", slides[:2])
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "ctranspath").symlink_to(tmp_path / "disk" / "ctranspath")
    assert len(read_source(tmp_path / "out")) == 2
    (tmp_path / "disk" / "ctranspath" / "again").symlink_to(tmp_path / "out")
    with refused("path-loop", "again"):
        detect_format(tmp_path / "out")
    (tmp_path / "disk" / "ctranspath" / "again").unlink()
    (tmp_path / "disk" / "ctranspath" / "zz.h5").symlink_to("zz.h5")
    with refused("file-missing", "zz.h5"):
        read_source(tmp_path / "out")
