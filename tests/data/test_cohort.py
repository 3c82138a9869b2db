"""Cohorts: from a cache and a label table, from packed files, from built-in datasets."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from support.refusal import refused

from milbench.config import DataSpec, SplitSpec
from milbench.data.cache.reader import CacheWriter
from milbench.data.cohort import load_cohort, write_cohort
from milbench.data.labels.table import read_labels
from milbench.data.splits.files import read_fold
from milbench.data.splits.schemes import read_split_record

IDS = [f"{i:03d}" for i in range(20)]


@pytest.fixture
def base(tmp_path):
    """A folder with a cache of 20 slides of 10 patients and its labels."""
    with CacheWriter(tmp_path / "c") as writer:
        for i, slide in enumerate(IDS):
            writer.add(slide, torch.full((2 + i % 3, 4), float(i)))
    _table(tmp_path, "slide_id,patient_id,label")
    return tmp_path


def _table(base, header, line="{slide},p{patient},{label}", ids=IDS, encoding="utf-8"):
    rows = [line.format(slide=s, patient=int(s) // 2, label=int(s) // 2 % 2) for s in ids]
    (base / "labels.csv").write_text("\n".join([header, *rows]) + "\n", encoding=encoding)


def _spec(**changes):
    split = changes.pop("split", SplitSpec(folds=2))
    return DataSpec(**({"name": "mine", "cache": "c", "labels": "labels.csv", "split": split} | changes))


def test_cache_and_labels(base):
    cohort = load_cohort(_spec(), base)
    assert cohort.slides == tuple(IDS)
    assert cohort.labels["003"] == 1
    assert cohort.patients["003"] == "p1"
    assert cohort.classes == ("0", "1")
    assert [fold.name for fold in cohort.folds] == ["r0-f0", "r0-f1"]
    assert cohort.cache()["003"][0, 0] == 3
    assert len(cohort.fingerprint) == 16
    assert cohort.fold("r0-f1") is cohort.folds[1]
    with refused("cohort-unknown-name", "'r0-f2'"):
        cohort.fold("r0-f2")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_any_csv_gives_the_same_cohort(base, encoding, mark):
    due = load_cohort(_spec(), base)
    _table(
        base,
        mark.join(["label", "slide", "case"]),
        mark.join(["{label}.0", "{slide}", "p{patient}"]),
        encoding=encoding,
    )
    assert load_cohort(_spec(slide_column="slide", patient_column="case"), base) == due


def test_the_fingerprint_covers_content_and_folds_but_not_use(base):
    first = load_cohort(_spec(), base)
    used = load_cohort(_spec(split=SplitSpec(folds=2, use=1)), base)
    assert len(used.folds) == 1
    assert used.fingerprint == first.fingerprint
    more = load_cohort(_spec(split=SplitSpec(folds=2, repeats=2)), base)
    assert more.fingerprint != first.fingerprint
    swapped = load_cohort(_spec(classes=("1", "0")), base)
    assert swapped.labels["003"] == 0
    _table(base, "slide_id,patient_id,label", "{slide},q{patient},{label}")
    other = load_cohort(_spec(), base)
    assert len({first.fingerprint, more.fingerprint, swapped.fingerprint, other.fingerprint}) == 4


@pytest.mark.parametrize(
    ("header", "line", "changes", "refusal"),
    [
        ("slide,patient_id,label", None, {}, ("table-missing-column", "'slide_id'", "'slide', 'patient_id', 'label'")),
        ("slide_id,patient_id,y", None, {}, ("table-missing-column", "'label'", "label_column")),
        ("slide_id,case_id,label", None, {}, ("table-missing-column", "'case_id'", "patient_column")),
        ("slide_id,x,label", None, {"patient_column": "who"}, ("table-missing-column", "'who'", "patient_column")),
        (None, "{slide},,{label}", {}, ("labels-missing-value", "patient_id", "20", "'000'", "'001'", "'002'")),
        (None, "{slide},p{patient},", {}, ("labels-missing-value", "label", "20")),
        (None, "000,p,{label}", {}, ("labels-conflicting-rows", "1", "'000'")),
        (None, None, {"classes": ("0", "2")}, ("labels-unknown-class", "'1'", "0", "2")),
        (None, None, {"classes": ("0", "1", "2")}, ("classes-bad", "'2'")),
        (None, None, {"classes": ("0", "1", "1.0")}, ("classes-bad",)),
        (None, "{slide},p{patient},5", {}, ("classes-bad", "1", "'5'")),
    ],
)  # fmt: skip
def test_labels_that_do_not_fit(base, header, line, changes, refusal):
    _table(base, header or "slide_id,patient_id,label", line or "{slide},p{patient},{label}")
    with refused(*refusal):
        load_cohort(_spec(**changes), base)


def test_a_table_without_patients_must_say_that_every_slide_is_its_own(base):
    """Silently, two slides of one patient could stand on both sides of a fold."""
    _table(base, "slide_id,label", "{slide},{label}")
    with refused("table-missing-column", "'patient_id'", "'slide_id'", "patient_column"):
        load_cohort(_spec(), base)
    cohort = load_cohort(_spec().model_copy(update={"patient_column": "slide_id"}), base)
    assert cohort.patients == {slide: slide for slide in IDS}


def test_nothing_is_dropped_silently(base):
    _table(base, "slide_id,patient_id,label", ids=IDS[:13])
    with refused("features-without-label", "'013'", "'017'", "2", "'exclude'"):
        load_cohort(_spec(), base)
    _table(base, "slide_id,patient_id,label", ids=[*IDS, "100", "101"])
    with refused("label-without-features", "2", "labels.csv", "'100'", "'101'"):
        load_cohort(_spec(), base)
    text = (
        (base / "labels.csv").read_text().replace("100,p50,0", "100,,exclude").replace("101,p50,0", "101,p50,exclude")
    )
    (base / "labels.csv").write_text(text.replace("019,p9,1", "019,p9,exclude").replace("100,,", "100,p50,"))
    assert load_cohort(_spec(), base).slides == tuple(IDS[:19])


def test_class_order():
    from milbench.tasks.classification import index_classes

    values = {"a": "10", "b": "9", "c": "9"}
    assert index_classes(values, None, "x")[1] == ("9", "10")
    assert index_classes(values | {"d": "x"}, None, "x")[1] == ("10", "9", "x")


def test_split_files(base):
    for k in (0, 1):
        rows = [f"{i},{IDS[i + 4]},{IDS[16 + i]},{IDS[i]}" for i in range(4)]
        (base / f"splits_{k}.csv").write_text("\n".join([",train,val,test", *rows]))
    cohort = load_cohort(_spec(split=SplitSpec(files="splits_{k}.csv")), base)
    assert [fold.name for fold in cohort.folds] == ["splits_0", "splits_1"]
    (base / "splits_1.csv").write_text(",train,val,test\n0,000,002,001\n1,003,,\n")
    with refused("patient-overlap", "splits_1", "'p1'", "3"):
        load_cohort(_spec(split=SplitSpec(files="splits_{k}.csv")), base)


def test_write_and_read_back(base, tmp_path):
    cohort = load_cohort(_spec(), base)
    write_cohort(cohort, tmp_path / "out")
    write_cohort(cohort, tmp_path / "out")
    table = read_labels(tmp_path / "out")
    assert table["slide_id"].tolist() == IDS
    assert dict(zip(table["slide_id"], table["label"], strict=True)) == cohort.labels
    assert dict(zip(table["slide_id"], table["patient_id"], strict=True)) == cohort.patients
    assert json.loads((tmp_path / "out" / "classes.json").read_text()) == ["0", "1"]
    assert [read_fold(p) for p in sorted((tmp_path / "out" / "folds").iterdir())] == list(cohort.folds)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "audit.json", "classes.json", "folds", "labels.csv", "manifest.json", "split.json",
    ]  # fmt: skip
    record = read_split_record(tmp_path / "out")
    assert record == cohort.split
    assert (record.scheme, record.seed) == ("k-fold", 0)
    assert record.parameters == {"folds": 2, "repeats": 1, "val_fraction": 0.2}


def _npz(path, folds):
    rng = np.random.default_rng(0)
    extra = (
        {"folds": np.stack([rng.permutation(np.repeat(np.arange(4), 5)) for _ in range(2)]).astype(np.int8)}
        if folds
        else {}
    )
    np.savez(path, features=rng.normal(size=(60, 3)).astype(np.float32), bag_offsets=np.arange(0, 61, 3),
             bag_label=np.arange(20) % 2, bag_name=np.array([f"b{i}" for i in range(20)]), **extra)  # fmt: skip
    return extra.get("folds")


def test_npz_brings_labels_and_published_folds(tmp_path, cache_home, monkeypatch):
    folds = _npz(tmp_path / "p.npz", True)
    cohort = load_cohort(DataSpec(name="p", cache="p.npz"), tmp_path)
    assert cohort.cache_path.is_relative_to(cache_home)
    assert cohort.cache().dtype == torch.float32
    assert [fold.name for fold in cohort.folds] == [f"r{r}-f{k}" for r in range(2) for k in range(4)]
    for r in range(2):
        for k in range(4):
            fold = cohort.fold(f"r{r}-f{k}")
            assert fold.val == ()
            assert set(fold.test) == {f"b{i}" for i in np.flatnonzero(folds[r] == k)}
            assert len(fold.train) == 15
    monkeypatch.setenv("MILBENCH_DATA", str(tmp_path))
    spec = DataSpec(name="p", cache="p.npz", split=SplitSpec(val_fraction=0.2, use=3))
    carved = load_cohort(spec, tmp_path / "elsewhere")
    assert len(carved.folds) == 3
    assert all(
        len(fold.val) == 3 and set(fold.val + fold.train) == set(cohort.fold(fold.name).train) for fold in carved.folds
    )
    own = load_cohort(DataSpec(name="p", cache="p.npz", split=SplitSpec(folds=5)), tmp_path)
    assert len(own.folds) == 5
    with refused("file-missing", "q.npz", "MILBENCH_DATA"):
        load_cohort(DataSpec(name="q", cache="q.npz"), tmp_path)
    with refused("source-brings-own"):
        load_cohort(DataSpec(name="q", cache="p.npz", labels="x.csv"), tmp_path)


def test_npz_without_folds_gets_made_ones(tmp_path, cache_home):
    _npz(tmp_path / "p.npz", False)
    cohort = load_cohort(DataSpec(name="p", cache="p.npz"), tmp_path)
    assert len(cohort.folds) == 5
    assert all(fold.val for fold in cohort.folds)


def test_classical_sets_load_with_their_published_folds(shared_root, cache_home):
    for name, bags in (("musk1", 92), ("fox", 200)):
        cohort = load_cohort(DataSpec(name=name, cache=f"classic/{name}.npz"), shared_root / "data")
        assert (len(cohort.slides), len(cohort.folds)) == (bags, 50)


SMALL = {"train": 8, "val": 6, "test": 8}


def test_builtin_dataset_is_built_once(cache_home):
    first = load_cohort(DataSpec(name="a", dataset="arrangement", params=SMALL), cache_home)
    stamp = first.cache_path.stat().st_mtime_ns
    assert load_cohort(DataSpec(name="a", dataset="arrangement", params=SMALL), cache_home) == first
    assert first.cache_path.stat().st_mtime_ns == stamp
    other = load_cohort(DataSpec(name="a", dataset="arrangement", params=SMALL | {"seed": 1}), cache_home)
    assert other.cache_path != first.cache_path
    assert other.fingerprint != first.fingerprint
    (first.cache_path / "shard-00000.safetensors").write_bytes(b"")
    with refused("dataset-damaged"):
        load_cohort(DataSpec(name="a", dataset="arrangement", params=SMALL), cache_home)


def test_concurrent_builds_agree(cache_home):
    spec = DataSpec(name="a", dataset="digits_bags", params=SMALL)
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: load_cohort(spec, cache_home), range(4)))
    assert all(cohort == made[0] for cohort in made)
    assert [p.name[:12] for p in (cache_home / "datasets").iterdir()] == ["digits-bags-"]


def test_dataset_mistakes(cache_home):
    for changes, refusal in (
        ({"dataset": "digit-bags"}, ("dataset-unknown", "'digit-bags'", "'digits-bags'")),
        ({"params": {"tragets": 3}}, ("dataset-bad-option", "digits-bags", "'tragets'", "'target'")),
        ({"params": {"target": 11}}, ("dataset-bad-option", "digits-bags", "target", "9")),
        ({"dataset": "arrangement", "params": {"signals": 8}}, ("dataset-bad-option", "64")),
        ({"split": SplitSpec(folds=3)}, ("source-brings-own", "split.folds")),
        ({"classes": ("a", "b")}, ("source-brings-own", "classes")),
    ):
        with refused(*refusal):
            load_cohort(DataSpec(**({"name": "x", "dataset": "digits-bags"} | changes)), cache_home)
