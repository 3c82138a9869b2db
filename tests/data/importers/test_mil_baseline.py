"""MIL_BASELINE's split files, which name the features, the labels and the folds."""

from __future__ import annotations

import csv
import os

import h5py
import numpy as np
import pytest
import torch
from support.features import Slide, digit_slides, write_csv
from support.foreign import CLASSES, Bomb, read_source, same_bits, source_table, write_mil_baseline
from support.refusal import refused

from milbench import FeatureCache
from milbench.data.cache.build import build_cache
from milbench.data.fold import Fold
from milbench.data.importers import detect_format

PARTS = ("train", "val", "test")


@pytest.fixture(scope="module")
def slides() -> list[Slide]:
    return digit_slides(patients=6)


@pytest.fixture
def folds(slides) -> list[dict[str, str]]:
    """Twelve folds: their files are not in order of their names."""
    return [{slide.name: PARTS[(i + k) % 3] for i, slide in enumerate(slides)} for k in range(12)]


def _parts(fold):
    return {part: tuple(name for name, where in fold.items() if where == part) for part in PARTS}


@pytest.mark.parametrize("absolute", [True, False])
def test_features_labels_and_folds(tmp_path, slides, folds, absolute):
    source = tmp_path / "splits"
    write_mil_baseline(source, slides, folds, str if absolute else lambda path: os.path.relpath(path, source))
    module, said = detect_format(source)
    bags, table = read_source(source), source_table(source)
    assert module.NAME == "mil_baseline"
    assert said.startswith(
        f"MIL_BASELINE splits in {source}: 12 folds ('Total_12-fold_digits_1fold.csv', 'Total_12-fold"
    )
    assert sorted(bags) == sorted(slide.name for slide in slides)
    for slide in slides:
        assert same_bits(bags[slide.name].features, slide.x)
        assert bags[slide.name].coords is None
    assert table.labels == {slide.name: str(CLASSES.index(slide.label)) for slide in slides}  # 1.0 is class 1
    names = [f"Total_12-fold_digits_{k}fold" for k in range(1, 13)]
    assert table.folds == tuple(Fold(name, **_parts(fold)) for name, fold in zip(names, folds, strict=True))


def test_one_file_is_one_fold(tmp_path, slides, folds):
    source = write_mil_baseline(tmp_path / "splits", slides, folds) / "Total_12-fold_digits_3fold.csv"
    assert detect_format(source)[0].NAME == "mil_baseline"
    assert source_table(source).folds == (Fold(source.stem, **_parts(folds[2])),)


def test_a_cache_of_them(tmp_path, slides, folds):
    source = write_mil_baseline(tmp_path / "splits", slides, folds[:1])
    report = build_cache(source, tmp_path / "cache", dtype="float32")
    cache = FeatureCache.open(report.out)
    assert (report.format, report.slides, report.max_rounding_error) == ("mil_baseline", 12, 0)
    assert all(torch.equal(cache[slide.name], torch.from_numpy(slide.x)) for slide in slides)


def test_csv_files_next_to_the_features_make_the_folder_theirs(tmp_path, slides, folds):
    source = write_mil_baseline(tmp_path / "splits", slides, folds[:1])
    for path in source.glob("*.csv"):
        path.rename(source / "pt" / path.name)
    assert detect_format(source / "pt")[0].NAME == "mil_baseline"


def test_ragged_columns_and_other_csv_files(tmp_path, slides):
    """The script without a test part packs each column and leaves the test columns empty; a data set csv is no fold."""
    source = write_mil_baseline(tmp_path / "splits", slides, [])
    where = {slide.name: str(source / "pt" / f"{slide.name}.pt") for slide in slides}
    header = ("train_slide_path", "train_label", "val_slide_path", "val_label", "test_slide_path", "test_label")
    first = (where[slides[0].name], 0, where[slides[1].name], 0.0, "", "")
    write_csv(source / "fold1.csv", [header, first, (where[slides[2].name], 1, "", "", "", "")])
    write_csv(source / "dataset.csv", [("slide_path", "label"), *((where[slide.name], 0) for slide in slides)])
    assert source_table(source).folds == (Fold("fold1", (slides[0].name, slides[2].name), (slides[1].name,), ()),)
    assert sorted(read_source(source)) == sorted(slide.name for slide in slides[:3])


def test_slides_to_predict_on_may_have_no_labels(tmp_path, slides):
    source = write_mil_baseline(tmp_path / "splits", slides, [])
    write_csv(source / "test.csv", [("test_slide_path",), (f"pt/{slides[0].name}.pt",)])
    assert source_table(source).labels is None
    write_csv(source / "test2.csv", [("test_slide_path", "test_slide_label"), (f"pt/{slides[1].name}.pt", 1)])
    assert source_table(source).labels == {slides[1].name: "1"}


def test_batches_of_one_and_h5_files(tmp_path, slides):
    source = write_mil_baseline(tmp_path / "splits", slides[:1], [])
    x, xy = slides[0].x, slides[0].xy
    torch.save(torch.from_numpy(x)[None], source / "pt" / "batch.pt")
    for name, features, coords in (("flat", x, xy), ("deep", x[None], xy[None])):
        with h5py.File(source / "pt" / f"{name}.h5", "w") as file:
            file["features"], file["coords"] = features, coords
            file["features"].attrs["encoder"] = "uni_v1"
            file["coords"].attrs["patch_size_level0"] = 512
    write_csv(source / "f.csv", [("train_slide_path",), ("pt/batch.pt",), ("pt/flat.h5",), ("pt/deep.h5",)])
    bags = read_source(source)
    assert all(same_bits(slide.features, x) for slide in bags.values())
    assert same_bits(bags["flat"].coords, xy)
    assert same_bits(bags["deep"].coords, xy)
    assert bags["deep"].meta == {"encoder": "uni_v1", "units": "level-0 pixels", "coord_step": 512.0}
    torch.save(torch.from_numpy(x)[None].repeat(2, 1, 1), source / "pt" / "batch.pt")
    with refused("features-bad-array", "batch.pt", "'batch'"):
        build_cache(source, tmp_path / "cache")


def test_empty_slides_are_left_out_by_name(tmp_path, slides):
    source = write_mil_baseline(tmp_path / "splits", slides[:1], [])
    torch.save(torch.zeros(0, 64), source / "pt" / "blank.pt")
    torch.save(torch.zeros(0), source / "pt" / "bare.pt")
    rows = [(f"pt/{name}.pt", 0) for name in ("blank", "bare", slides[0].name)]
    write_csv(source / "f.csv", [("train_slide_path", "train_label"), *rows])
    assert build_cache(source, tmp_path / "cache").left_out == {
        "bare": "it has no patches, shape (0,)", "blank": "it has no patches, shape (0, 64)"}  # fmt: skip


HEAD = "train_slide_path,train_label,test_slide_path,test_label\n"


@pytest.mark.parametrize(
    ("text", "refusal"),
    [
        (HEAD + "pt/lost.pt,0,,\n", ("file-missing", "pt/lost.pt", "f.csv")),
        (HEAD + "pt/a.pt,,,\n", ("labels-missing-value", "f.csv", "train", "'pt/a.pt'", "1")),
        (HEAD + "pt/a.pt,0,,1\n", ("table-empty-cell", "f.csv", "test", "1")),
        (HEAD + "pt/a.pt,0,pt/a.pt,1\n", ("labels-conflicting-rows", "'a'", "'0'", "f.csv", "'1'")),
        (HEAD + "../out.pt,0,,\n", ("path-outside", "f.csv", "'../out.pt'")),
        (HEAD + "pt/../../out.pt,0,,\n", ("path-outside",)),
        (HEAD + "pt/a.npy,0,,\n", ("file-unsupported", "f.csv", "'pt/a.npy'", ".pt", ".h5")),
        (HEAD + "pt/a.pt,0,,\nsub/a.pt,0,,\n", ("slide-twice", "pt/a.pt")),
        (HEAD + "pt,0,,\n", ("path-wrong-kind", "pt", "f.csv")),
        (HEAD + "pt/loop.pt,0,,\n", ("file-missing", "loop.pt")),
        (HEAD + "pt/a\0b.pt,0,,\n", ("table-not-utf8", "f.csv", "2")),
        (HEAD, ("table-empty", "train_slide_path", "train_label")),
        (HEAD + "a,b,c,d,e\n", ("table-bad-line", "f.csv", "2", "5", "4")),
    ],
)  # fmt: skip
def test_split_files_that_are_wrong(tmp_path, slides, text, refusal):
    source = write_mil_baseline(tmp_path / "splits", slides[:0], [])
    (source / "sub").mkdir()
    for path in (source / "pt" / "a.pt", source / "sub" / "a.pt", tmp_path / "out.pt"):
        torch.save(torch.ones(2, 3), path)
    np.save(source / "pt" / "a.npy", np.ones((2, 3)))
    (source / "pt" / "loop.pt").symlink_to("loop.pt")
    (source / "f.csv").write_text(text)
    with refused(*refusal):
        build_cache(source, tmp_path / "cache")


def test_labels_that_differ_between_folds_are_named(tmp_path, slides, folds):
    source = write_mil_baseline(tmp_path / "splits", slides, folds)
    path = source / "Total_12-fold_digits_7fold.csv"
    with path.open(newline="") as file:
        rows = list(csv.reader(file))
    place = next(i for i, cell in enumerate(rows[1]) if cell)
    rows[1][place + 1] = "7.0"
    write_csv(path, [tuple(row) for row in rows])
    with refused("labels-conflicting-rows", "'0'", "'7'"):
        read_source(source)


def test_hostile_pickles_run_nothing(tmp_path, slides, folds):
    source, mark = write_mil_baseline(tmp_path / "splits", slides, folds[:1]), tmp_path / "it-ran"
    torch.save(Bomb(mark), source / "pt" / f"{slides[0].name}.pt")
    with refused("file-unsafe", ".pt"):
        read_source(source)
    assert not mark.exists()
