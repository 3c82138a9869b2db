"""eva's manifests and the embeddings they list."""

from __future__ import annotations

import pytest
import torch
from support.features import Slide, digit_slides, write_csv
from support.foreign import CLASSES, Bomb, read_source, same_bits, source_table, write_eva
from support.refusal import refused

from milbench import FeatureCache
from milbench.data.cache.build import build_cache
from milbench.data.fold import Fold
from milbench.data.importers import detect_format

PARTS = ("train", "val", "test")


@pytest.fixture(scope="module")
def slides() -> list[Slide]:
    return digit_slides(patients=4)


@pytest.fixture
def split(slides) -> dict[str, str]:
    return {slide.name: PARTS[i % 3] for i, slide in enumerate(slides)}


@pytest.mark.parametrize("kind", ["list", "tensor"])
@pytest.mark.parametrize("files", [1, 3])
@pytest.mark.parametrize("below", ["", "manifest.csv"])
def test_embeddings_targets_and_the_split(tmp_path, slides, split, files, kind, below):
    source = write_eva(tmp_path / "eva", slides, split, files, kind) / below
    module, said = detect_format(source)
    bags, table = read_source(source), source_table(source)
    assert (module.NAME, said) == ("eva", f"eva embeddings listed in {tmp_path / 'eva' / 'manifest.csv'}")
    assert sorted(bags) == sorted(split)
    for slide in slides:
        assert same_bits(bags[slide.name].features, slide.x)
        assert bags[slide.name].coords is None
    assert table.labels == {slide.name: str(CLASSES.index(slide.label)) for slide in slides}
    parts = {part: tuple(name for name, where in split.items() if where == part) for part in PARTS}
    assert table.folds == (Fold("manifest", **parts),)


def test_a_cache_of_them_in_half_precision(tmp_path, slides, split):
    source = write_eva(tmp_path / "eva", slides, split, files=2)
    for path in source.rglob("*.pt"):
        torch.save([row.half() for row in torch.load(path, weights_only=True)], path)
    report = build_cache(source, tmp_path / "cache", dtype="float16")
    cache = FeatureCache.open(report.out)
    assert (report.format, report.slides, report.max_rounding_error) == ("eva", 8, 0)
    assert all(torch.equal(cache[slide.name], torch.from_numpy(slide.x).half()) for slide in slides)


def test_every_file_of_a_slide_is_watched(tmp_path, slides, split):
    """A build that goes on after a kill reads a slide again when any of its files has changed."""
    source = write_eva(tmp_path / "eva", slides[:1], split, files=3)
    opened = detect_format(source)[0].open_source(source)
    assert [path.name for path in opened.files(0)] == ["0.pt", "1.pt", "2.pt"]


def test_a_manifest_by_another_name(tmp_path, slides, split):
    source = write_eva(tmp_path / "eva", slides, split)
    (source / "manifest.csv").rename(source / "embeddings.csv")
    assert detect_format(source / "embeddings.csv")[0].NAME == "eva"
    assert source_table(source / "embeddings.csv").folds[0].name == "embeddings"


def test_embeddings_next_to_the_manifest_are_not_clams(tmp_path):
    torch.save([torch.ones(3)], tmp_path / "a.pt")
    write_csv(tmp_path / "manifest.csv", [("embeddings", "target", "split", "wsi_id"), ("a.pt", 1, "test", "007")])
    assert detect_format(tmp_path)[0].NAME == "eva"
    assert list(read_source(tmp_path)) == ["007"]


def test_rows_without_split_or_target(tmp_path):
    torch.save([torch.ones(3)], tmp_path / "a.pt")
    write_csv(tmp_path / "manifest.csv", [("embeddings", "target", "split", "wsi_id"), ("a.pt", "", "", "a")])
    table = source_table(tmp_path)
    assert (table.labels, table.folds) == (None, ())


def test_single_vectors_and_rows_of_one(tmp_path):
    for name, value in {
        "flat": torch.ones(3),
        "row": torch.full((1, 3), 2.0),
        "rows": [torch.full((1, 3), 3.0)],
    }.items():
        torch.save(value, tmp_path / f"{name}.pt")
    rows = [(f"{name}.pt", 0, "train", "s") for name in ("row", "flat", "rows")]
    write_csv(tmp_path / "manifest.csv", [("embeddings", "target", "split", "wsi_id"), *rows])
    assert read_source(tmp_path)["s"].features.tolist() == [[2.0] * 3, [1.0] * 3, [3.0] * 3]


@pytest.mark.parametrize("value", [[], torch.zeros(0), torch.zeros(0, 3), [torch.zeros(0)]])
def test_empty_slides_are_left_out_by_name(tmp_path, value):
    folder = tmp_path / "eva"
    folder.mkdir()
    torch.save(value, folder / "blank.pt")
    torch.save([torch.ones(3)], folder / "a.pt")
    rows = [("blank.pt", 0, "train", "blank"), ("a.pt", 0, "train", "a")]
    write_csv(folder / "manifest.csv", [("embeddings", "target", "split", "wsi_id"), *rows])
    report = build_cache(folder, tmp_path / "cache")
    assert (list(report.left_out), report.slides) == (["blank"], 1)


HEAD = "embeddings,target,split,wsi_id\n"


@pytest.mark.parametrize(
    ("text", "refusal"),
    [
        ("embeddings,target,split\na.pt,0,train\n", ("table-missing-column", "manifest.csv", "'wsi_id'")),
        (HEAD, ("table-empty", "manifest.csv")),
        (HEAD + "lost.pt,0,train,s\n", ("file-missing", "lost.pt", "manifest.csv")),
        (HEAD + "../out.pt,0,train,s\n", ("path-outside", "manifest.csv", "'../out.pt'")),
        (HEAD + "/etc/passwd,0,train,s\n", ("path-outside", "manifest.csv", "'/etc/passwd'")),
        (HEAD + ",0,train,s\n", ("table-empty-cell", "manifest.csv", "embeddings", "1")),
        (HEAD + "a.pt,0,train,\n", ("table-empty-cell", "manifest.csv", "wsi_id", "1")),
        (HEAD + "a.pt,0,learn,s\n", ("split-unknown-part", "manifest.csv", "'learn'", "1")),
        (HEAD + "a.pt,0,train,s\nb.pt,1,train,s\n", ("labels-conflicting-rows", "'s'", "target", "'0'", "2", "'1'")),
        (HEAD + "a.pt,0,train,s\nb.pt,0,test,s\n", ("labels-conflicting-rows", "'s'", "split", "'train'", "2")),
        (HEAD + "a.pt,0,train,s\n./a.pt,0,train,s\n", ("slide-twice", "'./a.pt'", "2")),
        (HEAD + "a.pt,0,train,s\nwide.pt,0,train,s\n", ("features-disagree", "wide.pt", "5", "3")),
        (HEAD + "deep.pt,0,train,s\n", ("features-bad-array", "deep.pt", "(1, 1, 3)")),
        (HEAD + "text.pt,0,train,s\n", ("file-wrong-content", "text.pt", "str")),
        (HEAD + "dict.pt,0,train,s\n", ("file-wrong-content", "dict.pt")),
        (HEAD + "short.pt,0,train,s\n", ("file-damaged", "short.pt")),
        (HEAD + "nan.pt,0,train,s\n", ("features-not-finite", "nan.pt", "0", "'s'")),
        (HEAD + "many.pt,0,train,s\n", ("file-too-large", "many.pt", "409,600,000")),
    ],
)  # fmt: skip
def test_manifests_and_embeddings_that_are_wrong(tmp_path, text, refusal):
    folder = tmp_path / "eva"
    folder.mkdir()
    values = {"a": [torch.ones(3)], "b": [torch.ones(3)], "wide": [torch.ones(5)], "deep": [torch.ones(1, 1, 3)],
              "text": ["x"], "dict": {"x": torch.ones(3)}, "short": [torch.ones(3)],
              "nan": [torch.full((3,), torch.nan)],
              "many": [torch.ones(1024)] * 100_000}  # fmt: skip
    for name, value in values.items():
        torch.save(value, folder / f"{name}.pt")
    torch.save(torch.ones(2, 3), tmp_path / "out.pt")
    (folder / "short.pt").write_bytes((folder / "short.pt").read_bytes()[:-40])
    (folder / "manifest.csv").write_text(text)
    with refused(*refusal):
        build_cache(folder, tmp_path / "cache")


def test_hostile_pickles_run_nothing(tmp_path, slides, split):
    source, mark = write_eva(tmp_path / "eva", slides, split), tmp_path / "it-ran"
    torch.save([torch.ones(64), Bomb(mark)], next(source.rglob("*.pt")))
    with refused("file-unsafe", ".pt"):
        read_source(source)
    assert not mark.exists()


def test_slides_of_which_a_spreadsheet_has_lost_digits_are_not_joined(tmp_path):
    rows = [(f"{name}.pt", 1, "test", "1.23457E+15") for name in "ab"]
    for name in "ab":
        torch.save([torch.ones(3)], tmp_path / f"{name}.pt")
    write_csv(tmp_path / "manifest.csv", [("embeddings", "target", "split", "wsi_id"), *rows])
    with refused("table-lost-digits"):
        read_source(tmp_path)
