"""Cohorts straight from another tool's files: imported once, with what the files say of labels and splits."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from support.features import digit_slides, write_clam, write_labels
from support.refusal import refused

from milbench.config import DataSpec, SplitSpec
from milbench.data.cache.reader import CacheWriter, FeatureCache, verify
from milbench.data.cohort import load_cohort
from milbench.data.fold import Fold
from milbench.data.source_labels import SourceTable, read_source_table


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
    for name, others in (
        ("all", [replace(slide, x=slide.x + 1) for slide in slides]),
        ("one", [replace(slide, x=slide.x + (i == 9)) for i, slide in enumerate(slides)]),
        ("fewer", slides[:-1]),
        ("more", [*slides, replace(slides[0], name="new")]),
    ):
        write_clam(base / name / "features", others, kinds=("h5_files",))
        with refused("cache-mismatch", "mine.cache", "clam/features", f"{name}/features"):
            load_cohort(spec(features=f"{name}/features"), base)


def test_a_cache_of_another_form_is_refused(base):
    load_cohort(spec(), base)
    for changes, refusal in (
        ({"dtype": "float32"}, ("cache-mismatch", "float16", "float32")),
        ({"order": "raster"}, ("cache-mismatch", "raster")),
        ({"coords": False}, ("cache-mismatch", "mine.cache")),
    ):
        with refused(*refusal):
            load_cohort(spec(**changes), base)
    (base / "mine.cache").rename(base / "other.cache")
    load_cohort(spec(order="raster", dtype="float32"), base)
    load_cohort(spec(), base)  # what the suite does not ask for may be as it is
    with CacheWriter(base / "by-hand") as writer:
        writer.add("s", torch.ones(2, 3))
    with refused("cache-mismatch"):
        load_cohort(spec(cache="by-hand"), base)


def test_a_cache_may_move_with_its_features_and_outlive_them(tmp_path, base, slides):
    first = load_cohort(spec(), base)
    moved = tmp_path.parent / f"{tmp_path.name}-moved"
    base.rename(moved)
    assert load_cohort(spec(), moved).fingerprint == first.fingerprint
    assert load_cohort(spec(features="./clam/../clam/features"), moved).fingerprint == first.fingerprint
    for gone in (
        lambda: shutil.rmtree(moved / "clam" / "features" / "h5_files"),
        lambda: shutil.rmtree(moved / "clam"),
    ):
        gone()  # an empty folder, as where nothing is mounted; then none
        assert load_cohort(spec(), moved).fingerprint == first.fingerprint
    for wrong in ("clem", "clem/features", str(moved / "clem" / "features")):  # another encoder's, say
        with refused("cache-mismatch", "mine"):
            load_cohort(spec(features=wrong), moved)
    (moved / "clam" / "features").mkdir(parents=True)
    (moved / "clam" / "features" / "notes.txt").write_text("not features")
    with refused("cache-mismatch"):
        load_cohort(spec(), moved)
    assert load_cohort(DataSpec(name="mine", cache="mine.cache", labels="labels.csv", split=SplitSpec(folds=2)), moved)
    shutil.rmtree(moved / "clam")
    moved.rename(base)
    assert load_cohort(spec(), base).fingerprint == first.fingerprint


def test_features_that_were_extracted_again_are_reported(base, slides, monkeypatch):
    load_cohort(spec(), base)
    files = [base / "clam" / "features" / "h5_files" / f"{slide.name}.h5" for slide in slides]
    for path in files:
        os.utime(path)
    load_cohort(spec(), base)  # touched, no more
    with monkeypatch.context() as patch:
        patch.setattr("milbench.data.cache.provenance.SourceReader.convert", lambda *_: pytest.fail("compared again"))
        load_cohort(spec(), base)
    old = files[5].stat().st_mtime_ns
    with h5py.File(files[5], "a") as file:
        file["features"][0, 0] += 1
    os.utime(files[5], ns=(old, old))  # as cp -p and rsync -a leave it
    with refused("cache-mismatch", slides[5].name, files[5].name):
        load_cohort(spec(), base)
    write_clam(base / "clam" / "features", slides, kinds=("h5_files",))
    load_cohort(spec(), base)
    files[5].rename(base / "away.h5")
    with refused("cache-mismatch", slides[5].name):
        load_cohort(spec(), base)
    (base / "away.h5").rename(files[5].with_name("new.h5"))
    with refused("cache-mismatch", "'new'"):
        load_cohort(spec(), base)


def test_labels_that_came_along_are_compared(tmp_path):
    frame = pd.DataFrame(
        {
            "slide_id": np.repeat([f"s{i}" for i in range(8)], 3),
            "label": np.repeat(list("abababab"), 3),
            "patient_id": np.repeat([f"p{i}" for i in range(8)], 3),
            "f0": np.arange(24.0),
            "f1": 1.0,
        }
    )
    frame.to_parquet(tmp_path / "long.parquet")
    own = DataSpec(name="own", features="long.parquet", split=SplitSpec(folds=2))
    first = load_cohort(own, tmp_path)
    frame["label"] = frame["label"].mask(frame["slide_id"] == "s0", "b").mask(frame["slide_id"] == "s1", "a")
    frame.to_parquet(tmp_path / "long.parquet")
    with refused("cache-mismatch", "long.parquet"):
        load_cohort(own, tmp_path)
    shutil.rmtree(tmp_path / "own.cache")
    assert load_cohort(own, tmp_path).labels != first.labels


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
    (message,) = (finding for finding in cohort.findings if finding.code == "no-patches")
    assert message.ids == (empty,)
    assert message.sentence == f"cohort mine: 1 slide has no patches and takes no part: {empty!r}."


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
def test_a_changed_table_is_detected(tmp_path, how):
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
def test_a_damaged_table_is_reported(tmp_path, text):
    (tmp_path / "source.json").write_text(text)
    with refused("cache-damaged", "source.json"):
        read_source_table(tmp_path / "source.json")


def test_labels_and_folds_that_the_source_brings(tmp_path):
    written(tmp_path / "c", SourceTable(LABELS, {"s0": "p", "s1": "p"}, FOLDS[1:]))
    own = DataSpec(name="d", cache="c")
    with refused("one-class"):
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
    requested = load_cohort(DataSpec(name="d", cache="e", split=SplitSpec(folds=2)), tmp_path)
    assert [fold.name for fold in requested.folds] == ["r0-f0", "r0-f1"]


def test_labels_have_one_home(tmp_path):
    written(tmp_path / "c", SourceTable(LABELS))
    (tmp_path / "labels.csv").write_text("slide_id,patient_id,label\ns0,p,a\n")
    with refused("source-brings-own"):
        load_cohort(DataSpec(name="d", cache="c", labels="labels.csv"), tmp_path)
    written(tmp_path / "bare", None)
    with refused("labels-missing"):
        load_cohort(DataSpec(name="d", cache="bare"), tmp_path)


def test_the_table_is_plain_json(tmp_path):
    written(tmp_path / "c", SourceTable(LABELS, None, FOLDS))
    assert json.loads((tmp_path / "c" / "source.json").read_text())["folds"][1] == {
        "name": "b", "train": ["s0", "s1", "s2", "s3"], "val": ["s6"], "test": ["s7"],
    }  # fmt: skip
