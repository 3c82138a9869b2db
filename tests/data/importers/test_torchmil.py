"""torchmil's bags: one array a file, labels and splits in folders next to them."""

from __future__ import annotations

import shutil

import h5py
import numpy as np
import pytest
import torch
from support.features import Slide, digit_slides, write_csv
from support.foreign import CLASSES, Bomb, read_source, same_bits, source_table, write_torchmil
from support.refusal import refused

from milbench import FeatureCache
from milbench.data.cache.build import build_cache
from milbench.data.fold import Fold
from milbench.data.importers import detect_format


@pytest.fixture(scope="module")
def slides() -> list[Slide]:
    return digit_slides(patients=4)


@pytest.fixture
def split(slides) -> dict[str, str]:
    return {slide.name: ("train", "val", "test")[i % 3] for i, slide in enumerate(slides)}


@pytest.mark.parametrize("end", [".npy", ".h5"])
def test_features_coordinates_labels_and_the_fold(tmp_path, slides, split, end):
    base = write_torchmil(tmp_path / "bags", slides, end, split=split)
    module, said = detect_format(base)
    bags, table = read_source(base), source_table(base)
    assert module.NAME == "torchmil"
    assert said == f"torchmil bags in {base / 'features'}: 8 files, with coords and splits.csv"
    assert sorted(bags) == sorted(split)
    for slide in slides:
        assert same_bits(bags[slide.name].features, slide.x)
        assert same_bits(bags[slide.name].coords, slide.xy)
        assert bags[slide.name].meta == {}
    assert table.labels == {slide.name: str(CLASSES.index(slide.label)) for slide in slides}
    assert table.patients is None
    parts = {part: tuple(name for name, where in split.items() if where == part) for part in ("train", "val", "test")}
    assert table.folds == (Fold("splits", **parts),)


def test_a_cache_of_them(tmp_path, slides):
    base = write_torchmil(tmp_path / "bags", slides)
    report = build_cache(base, tmp_path / "cache", dtype="float32")
    cache = FeatureCache.open(report.out)
    assert (report.format, report.slides, report.max_rounding_error) == ("torchmil", 8, 0)
    for slide in slides:
        assert torch.equal(cache[slide.name], torch.from_numpy(slide.x))
        assert torch.equal(cache.coords(slide.name), torch.from_numpy(slide.xy))


def test_the_layout_of_its_data_sets(tmp_path, slides, split, monkeypatch):
    """patches_512/features/features_UNI/, with splits.csv above: folders say encoder and patch size."""
    base = write_torchmil(tmp_path / "patches_512", slides, encoder="UNI")
    write_csv(tmp_path / "splits.csv", [("bag_name", "split"), *split.items()])
    for source in (tmp_path, base, base / "features", base / "features" / "features_UNI"):
        assert read_source(source)[slides[0].name].meta == {"encoder": "UNI", "patch_size": 512, "coord_step": 512.0}
        assert len(source_table(source).folds) == 1
    monkeypatch.chdir(base / "features" / "features_UNI")
    assert detect_format(".")[0].NAME == "torchmil"
    write_torchmil(base, slides, encoder="resnet50")
    with refused("features-two-kinds", "2", "'features_UNI', 'features_resnet50'"):
        detect_format(tmp_path)
    assert read_source(base / "features" / "features_resnet50")[slides[0].name].meta["encoder"] == "resnet50"
    shutil.copytree(base, tmp_path / "patches_256")
    with refused("features-two-kinds", "'patches_256', 'patches_512'"):
        detect_format(tmp_path)


def test_coordinates_inside_the_feature_file(tmp_path, slides):
    base = write_torchmil(tmp_path, slides, ".h5")
    shutil.rmtree(base / "coords")
    for slide in slides:
        with h5py.File(base / "features" / f"{slide.name}.h5", "r+") as file:
            file["coords"] = slide.xy
    assert same_bits(read_source(base)[slides[3].name].coords, slides[3].xy)


def test_a_bag_without_coordinates_is_named(tmp_path, slides):
    base = write_torchmil(tmp_path / "bags", slides)
    (base / "coords" / f"{slides[-1].name}.npy").unlink()
    assert read_source(base)[slides[-1].name].coords is None
    with refused("features-disagree", "--no-coords"):
        build_cache(base, tmp_path / "cache")


def test_empty_bags_are_left_out_by_name(tmp_path, slides):
    base = write_torchmil(tmp_path / "bags", slides[:1])
    for name, shape in {"blank": (0, 64), "bare": (0,)}.items():
        for where, array in {"features": np.zeros(shape, np.float32), "coords": np.zeros((0, 2), int)}.items():
            np.save(base / where / f"{name}.npy", array)
    assert build_cache(base, tmp_path / "cache").left_out == {
        "bare": "it has no patches, shape (0,)", "blank": "it has no patches, shape (0, 64)"}  # fmt: skip


@pytest.mark.parametrize(
    ("value", "label"),
    [(np.array([1.0], np.float32), "1"), (np.array(2), "2"), (np.array([[True]]), "1"), (np.array(0.5), "0.5")],
)
def test_labels_of_every_kind_of_number(tmp_path, slides, value, label):
    base = write_torchmil(tmp_path, slides[:2])
    np.save(base / "labels" / f"{slides[0].name}.npy", value)
    assert source_table(base).labels[slides[0].name] == label


def test_labels_of_bags_that_are_not_there_are_not_hidden(tmp_path, slides):
    base = write_torchmil(tmp_path, slides[:2])
    np.save(base / "labels" / "lost.npy", np.array([1]))
    (base / "labels" / f"{slides[0].name}.npy").unlink()
    assert set(source_table(base).labels) == {"lost", slides[1].name}


@pytest.mark.parametrize(
    ("value", "refusal"),
    [
        (np.array([0, 1]), ("labels-no-classes", "(2,)")),
        (np.array([np.nan]), ("labels-no-classes",)),
        (np.zeros(0), ("labels-no-classes", "(0,)")),
        (np.array(["tumour"]), ("features-bad-array", "tumour1.npy", "numbers", "<U6")),
        (np.array([{}]), ("file-unsafe", "tumour1.npy")),
    ],
)
def test_labels_that_are_no_class(tmp_path, slides, value, refusal):
    base = write_torchmil(tmp_path, slides[:1])
    np.save(base / "labels" / "tumour1.npy", value)
    with refused(*refusal):
        source_table(base)


@pytest.mark.parametrize(
    ("text", "refusal"),
    [
        ("name,split\na,train\n", ("table-missing-column", "splits.csv", "'name', 'split'")),
        ("bag_name,split\na,learn\n", ("split-unknown-part", "splits.csv", "'learn'")),
        ("", ("table-empty", "splits.csv")),
    ],
)
def test_splits_that_are_none(tmp_path, slides, text, refusal):
    base = write_torchmil(tmp_path, slides[:1])
    (base / "splits.csv").write_text(text)
    with refused(*refusal):
        source_table(base)


def test_bags_in_no_part_and_unknown_ones_stay_as_the_file_says(tmp_path, slides):
    base = write_torchmil(tmp_path, slides[:2])
    (base / "splits.csv").write_text(f"bag_name,split\n{slides[0].name},test\n{slides[1].name},\nlost,train\n")
    assert source_table(base).folds == (Fold("splits", ("lost",), (), (slides[0].name,)),)


X, XY = np.ones((4, 3), np.float32), np.zeros((4, 2), int)


@pytest.mark.parametrize(
    ("features", "coords", "refusal"),
    [
        (X, XY[:3], ("coords-bad", "features/z.npy", "4", "3")),
        (X.astype(int), XY, ("features-bad-array", "features/z.npy", "int64")),
        (X.astype("U"), XY, ("features-bad-array", "features/z.npy", "<U")),
        (X, XY.astype("U"), ("features-bad-array", "coords/z.npy", "numbers", "<U")),
        (X.astype(object), XY, ("file-unsafe", "features/z.npy")),
        (X[0], XY[:3], ("features-bad-array", "z.npy", "'z'", "3")),
        (np.stack([X, X]), XY[:2], ("features-bad-array", "z.npy", "'z'", "2", "4", "3")),
        (X, np.zeros((4, 3), int), ("coords-bad", "'z'", "4", "2", "3")),
        (X * np.inf, XY, ("features-not-finite", "z.npy", "0", "'z'")),
        (b"\x93NUMPY", XY, ("file-damaged", "features/z.npy")),
        (b"", XY, ("file-damaged", "features/z.npy")),
        (b"rubbish rubbish", XY, ("file-damaged", "features/z.npy")),
    ],
)  # fmt: skip
def test_files_that_are_not_what_they_should_be(tmp_path, slides, features, coords, refusal):
    base = write_torchmil(tmp_path / "bags", slides[:0])
    for where in ("features", "coords", "labels"):
        (base / where).mkdir(parents=True)
    for name, x, xy in (("a", X, XY), ("z", features, coords)):
        np.save(base / "labels" / f"{name}.npy", np.array([1]))
        np.save(base / "coords" / f"{name}.npy", xy)
        path = base / "features" / f"{name}.npy"
        path.write_bytes(x) if isinstance(x, bytes) else np.save(path, x)
    with refused(*refusal):
        build_cache(base, tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_pickled_arrays_run_nothing(tmp_path, slides):
    base, mark = write_torchmil(tmp_path / "bags", slides[:1]), tmp_path / "it-ran"
    np.save(base / "features" / "evil.npy", np.array([Bomb(mark)], dtype=object), allow_pickle=True)
    with refused("file-unsafe", "evil.npy"):
        read_source(base)
    assert not mark.exists()


def test_two_files_of_one_bag_are_refused(tmp_path, slides):
    base = write_torchmil(tmp_path, slides[:1])
    write_torchmil(tmp_path, slides[:1], ".h5")
    with refused("slide-twice"):
        detect_format(base)


def test_an_h5_file_without_its_array(tmp_path, slides):
    base = write_torchmil(tmp_path, slides[:1], ".h5")
    with h5py.File(base / "features" / "b.h5", "w") as file:
        file["feats"] = X
    with refused("features-missing", "b.h5", "'features'", "feats"):
        read_source(base)


def test_a_link_that_leads_nowhere(tmp_path, slides):
    base = write_torchmil(tmp_path, slides[:1])
    (base / "features" / "loop.npy").symlink_to("loop.npy")
    with refused("file-missing", "loop.npy"):
        read_source(base)


def test_a_folder_that_only_resembles_it_is_not_claimed(tmp_path, slides):
    """features/ of tensors, or next to labels/ without an array, are other tools'."""
    base = write_torchmil(tmp_path / "a", slides)
    for path in (base / "labels").iterdir():
        path.unlink()
    (base / "labels" / "labels.csv").write_text("slide_id,label\n")
    with refused("format-mismatch"):
        detect_format(base)
    other = write_torchmil(tmp_path / "b", slides[:1])
    (other / "features" / f"{slides[0].name}.npy").unlink()
    torch.save(torch.ones(2, 3), other / "features" / "a.pt")
    with refused("format-mismatch", "torchmil"):
        detect_format(other, "torchmil")
