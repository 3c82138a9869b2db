"""Cohorts straight from another tool's files: imported once, with what the files say of labels and splits."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch
from support.features import digit_slides, write_clam, write_labels

from milbench.data.cache import CacheWriter, FeatureCache, verify
from milbench.data.cohort import load_cohort
from milbench.data.source_table import SourceTable, read_source_table
from milbench.data.splits import Fold
from milbench.errors import MilbenchError
from milbench.spec import DataSpec, SplitSpec


@pytest.fixture
def slides():
    return digit_slides(patients=8)


@pytest.fixture
def base(tmp_path, slides):
    """A folder with CLAM's features of 16 slides and their labels."""
    write_clam(tmp_path / "clam" / "features", slides, kinds=("h5_files",))
    write_labels(tmp_path / "labels.csv", slides)
    return tmp_path


def spec(**changes):
    fields = {"name": "mine", "features": "clam/features", "labels": "labels.csv", "split": SplitSpec(folds=2)}
    return DataSpec(**(fields | changes))


def test_features_are_imported_once(base, slides):
    seen = []
    cohort = load_cohort(spec(dtype="float32"), base, lambda *step: seen.append(step))
    assert cohort.cache_path == base / "mine.cache"
    assert [step[0] for step in seen] == list(range(1, 17))
    assert all(np.array_equal(cohort.cache()[slide.name].numpy(), slide.x) for slide in slides)
    assert load_cohort(spec(dtype="float32"), base, lambda *step: pytest.fail("read again")) == cohort


def test_a_cache_of_other_features_is_refused(base, slides):
    """The folder that a suite names need not be the one that its cache was made of."""
    load_cohort(spec(), base)
    others = [replace(slide, x=slide.x + 1) for slide in slides]
    write_clam(base / "other" / "features", others, kinds=("h5_files",))
    told = r"cohort mine: the cache .*mine.cache holds the features of .*clam/features, not those of .*other/features; "
    with pytest.raises(MilbenchError, match=told + "remove the cache"):
        load_cohort(spec(features="other/features"), base)
    with pytest.raises(MilbenchError, match=r"not those of .*; there is no .*/gone"):
        load_cohort(spec(features="gone"), base)
    for changes, said in (({"dtype": "float32"}, "dtype float16, and the suite asks for float32"),
                          ({"order": "raster"}, "order source, and the suite asks for raster")):  # fmt: skip
        with pytest.raises(MilbenchError, match=said):
            load_cohort(spec(**changes), base)


def test_a_cache_may_move_with_its_features_and_outlive_them(tmp_path, base, slides):
    first = load_cohort(spec(), base)
    moved = tmp_path.parent / f"{tmp_path.name}-moved"
    base.rename(moved)
    assert load_cohort(spec(), moved).fingerprint == first.fingerprint
    write_clam(base / "clam" / "features", slides, kinds=("h5_files",))  # newer, and the same
    assert load_cohort(spec(features=str(base / "clam/features")), moved).fingerprint == first.fingerprint
    shutil.rmtree(base)
    moved.rename(base)
    shutil.rmtree(base / "clam")
    assert load_cohort(spec(), base).fingerprint == first.fingerprint


def test_features_that_were_extracted_again_are_told(base, slides):
    load_cohort(spec(), base)
    (path,) = (base / "clam" / "features" / "h5_files").glob(f"{slides[5].name}.h5")
    times = path.stat().st_atime, (base / "mine.cache" / "cache.toml").stat().st_mtime + 60
    os.utime(path, times)
    load_cohort(spec(), base)  # touched, no more
    with h5py.File(path, "a") as file:
        file["features"][0, 0] += 1
    os.utime(path, times)
    with pytest.raises(MilbenchError, match=rf"holds other features of slide '{slides[5].name}' than .*{path.name}"):
        load_cohort(spec(), base)
    write_clam(base / "clam" / "features", [*slides, replace(slides[0], name="new")], kinds=("h5_files",))
    with pytest.raises(MilbenchError, match=r"holds 16 slides and lacks 'new' of .*features; remove the cache"):
        load_cohort(spec(), base)


def test_the_cache_may_be_named(base):
    assert load_cohort(spec(cache="caches/lung", order="raster"), base).cache_path == base / "caches" / "lung"
    assert FeatureCache.open(base / "caches" / "lung").meta["order"] == "raster"


def test_a_slide_without_patches_takes_no_part(base, slides):
    empty = slides[3].name
    with h5py.File(base / "clam" / "features" / "h5_files" / f"{empty}.h5", "w") as file:
        file["features"], file["coords"] = np.zeros((0, 64), np.float32), np.zeros((0, 2), np.int32)
    rows = [f"{slide.name},{('train', 'val', 'test')[i % 3]}" for i, slide in enumerate(slides)]
    (base / "fold0.csv").write_text("\n".join(["slide_id,split", *rows]) + "\n")
    cohort = load_cohort(spec(), base)
    assert empty not in cohort.slides
    assert len(cohort.slides) == 15
    assert cohort.cache().meta["left_out"] == [empty]
    assert all(empty not in part for fold in cohort.folds for part in fold.parts.values())
    (told,) = (finding for finding in cohort.findings if finding.code == "no-patches")
    assert told.ids == (empty,)
    assert told.sentence == f"cohort mine: 1 slide has no patches and takes no part: {empty!r}."


def written(folder, table):
    with CacheWriter(folder) as writer:
        for i in range(8):
            writer.add(f"s{i}", torch.full((2, 3), float(i)))
        writer.table = table
    return FeatureCache.open(folder)


FOLDS = (Fold("a", ("s0", "s1", "s2", "s3"), (), ("s4", "s5")), Fold("b", ("s0", "s1", "s2", "s3"), ("s6",), ("s7",)))
LABELS = {f"s{i}": "ab"[i % 2] for i in range(8)}


def test_what_a_source_brings_lies_in_the_cache(tmp_path):
    table = SourceTable(LABELS | {"gone": "a"}, {"s0": "p", "gone": "q"}, (Fold("f", ("s0", "gone"), (), ("s1",)),))
    cache = written(tmp_path / "c", table)
    assert cache.table == SourceTable(LABELS, {"s0": "p"}, (Fold("f", ("s0",), (), ("s1",)),))
    assert verify(tmp_path / "c") == []
    assert written(tmp_path / "bare", None).table is None


@pytest.mark.parametrize("how", ["flip", "remove", "extra"])
def test_a_changed_table_is_found(tmp_path, how):
    written(tmp_path / "c", None if how == "extra" else SourceTable(LABELS))
    file = tmp_path / "c" / "source.json"
    if how == "flip":
        raw = bytearray(file.read_bytes())
        raw[20] ^= 4
        file.write_bytes(bytes(raw))
    elif how == "remove":
        file.unlink()
    else:
        file.write_text("{}")
    words = {"flip": "was changed", "remove": "is missing", "extra": "does not belong"}[how]
    assert any("source.json" in line and words in line for line in verify(tmp_path / "c"))


@pytest.mark.parametrize("text", ["", "{", "[]", '{"labels": {}}', '{"labels": {}, "patients": {}, "folds": [{}]}'])
def test_a_damaged_table_is_told(tmp_path, text):
    (tmp_path / "source.json").write_text(text)
    with pytest.raises(MilbenchError, match=r"source\.json is damaged"):
        read_source_table(tmp_path / "source.json")


def test_labels_and_folds_that_the_source_brings(tmp_path):
    written(tmp_path / "c", SourceTable(LABELS, {"s0": "p", "s1": "p"}, FOLDS[1:]))
    own = DataSpec(name="d", cache="c")
    with pytest.raises(MilbenchError, match="its val part holds class a only"):
        load_cohort(own, tmp_path)
    written(tmp_path / "e", SourceTable(LABELS, {"s0": "p", "s1": "p"}, FOLDS[:1]))
    cohort = load_cohort(DataSpec(name="d", cache="e"), tmp_path)
    assert cohort.labels == {f"s{i}": i % 2 for i in range(8)}
    assert cohort.patients == {f"s{i}": f"s{i}" for i in range(8)} | {"s0": "p", "s1": "p"}
    assert cohort.folds == FOLDS[:1]
    written(tmp_path / "f", SourceTable(LABELS, None, FOLDS[:1]))  # every slide a patient: two a class
    carved = load_cohort(DataSpec(name="d", cache="f", split=SplitSpec(val_fraction=0.5)), tmp_path).folds[0]
    assert sorted((*carved.train, *carved.val)) == ["s0", "s1", "s2", "s3"]
    assert len(carved.val) == 2
    asked = load_cohort(DataSpec(name="d", cache="e", split=SplitSpec(folds=2)), tmp_path)
    assert [fold.name for fold in asked.folds] == ["r0-f0", "r0-f1"]


def test_labels_have_one_home(tmp_path):
    written(tmp_path / "c", SourceTable(LABELS))
    (tmp_path / "labels.csv").write_text("slide_id,patient_id,label\ns0,p,a\n")
    with pytest.raises(MilbenchError, match="brings its own labels; remove labels"):
        load_cohort(DataSpec(name="d", cache="c", labels="labels.csv"), tmp_path)
    written(tmp_path / "bare", None)
    with pytest.raises(MilbenchError, match=r"has no labels, and .*bare brings none: set labels"):
        load_cohort(DataSpec(name="d", cache="bare"), tmp_path)


def test_the_table_is_plain_json(tmp_path):
    written(tmp_path / "c", SourceTable(LABELS, None, FOLDS))
    assert json.loads((tmp_path / "c" / "source.json").read_text())["folds"][1] == {
        "name": "b", "train": ["s0", "s1", "s2", "s3"], "val": ["s6"], "test": ["s7"],
    }  # fmt: skip
