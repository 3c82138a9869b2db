"""Folds: published files are read exactly, made ones are by patient and stratified, and leaks are refused."""

from __future__ import annotations

import csv

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from milbench import MilbenchError
from milbench.data.splits import (
    Fold,
    carve_validation,
    check_folds,
    fold_problems,
    read_fold,
    read_folds,
    stratified_folds,
)
from milbench.data.tables import read_table
from milbench.spec import SplitSpec


def _write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def test_transmil_form(tmp_path):
    text = ",train,train_label,val,val_label,test,test_label\n0,001,0,7,1.0,test_1,1.0\n1,002,1,,,test_2,0.0\n2,3,1\n"
    assert read_fold(_write(tmp_path / "fold0.csv", text)) == Fold(
        "fold0", ("001", "002", "3"), ("7",), ("test_1", "test_2")
    )


def test_clam_forms(tmp_path):
    assert read_fold(_write(tmp_path / "splits_0.csv", ",train,val,test\n0,01,2,3\n1,4,,\n")) == Fold(
        "splits_0", ("01", "4"), ("2",), ("3",)
    )
    text = ",train,val,test\n01,True,False,False\n2,False,True,False\n3,False,False,True\n4,True,False,False\n"
    assert read_fold(_write(tmp_path / "splits_0_bool.csv", text)) == Fold("splits_0_bool", ("01", "4"), ("2",), ("3",))


def test_milbench_form(tmp_path):
    text = "\ufeffslide_id;split\n 01 ;train\n2;test\n3;\n\n4;val\n"
    assert read_fold(_write(tmp_path / "mine.csv", text)) == Fold("mine", ("01",), ("4",), ("2",))
    with pytest.raises(MilbenchError, match=r"mine\.csv has splits 'dev'; they must be train, val or test"):
        read_fold(_write(tmp_path / "mine.csv", "slide_id,split\n1,dev\n"))


def test_files_that_are_no_split(tmp_path):
    with pytest.raises(MilbenchError, match=r"has columns 'a', 'b'; a split file has train, val, test"):
        read_fold(_write(tmp_path / "x.csv", "a,b\n1,2\n"))
    with pytest.raises(MilbenchError, match=r"none\.csv cannot be read: No such file"):
        read_fold(tmp_path / "none.csv")
    with pytest.raises(MilbenchError, match=r"x\.csv is empty"):
        read_fold(_write(tmp_path / "x.csv", "\n"))
    with pytest.raises(MilbenchError, match=r"x\.csv line 2 has 3 cells but the header 2"):
        read_table(_write(tmp_path / "x.csv", "a,b\n1,2,3\n"))
    (tmp_path / "x.csv").write_bytes("a,b\nä,1\n".encode("latin-1"))
    with pytest.raises(MilbenchError, match=r"x\.csv is not UTF-8 text"):
        read_table(tmp_path / "x.csv")


def test_templates_find_every_number(tmp_path):
    for k in (10, 0, 2):
        _write(tmp_path / f"fold{k}.csv", f",train,val,test\n0,a{k},b,c\n")
    _write(tmp_path / "fold_notes.csv", "nothing")
    folds = read_folds("fold{k}.csv", tmp_path)
    assert [fold.name for fold in folds] == ["fold0", "fold2", "fold10"]
    assert [fold.train for fold in folds] == [("a0",), ("a2",), ("a10",)]
    assert read_folds("fold2.csv", tmp_path) == [folds[1]]
    with pytest.raises(MilbenchError, match=r"no file fits .*split\{k\}\.csv"):
        read_folds("split{k}.csv", tmp_path)


def test_transmil_published_fold(shared_root):
    fold = read_fold(shared_root / "data" / "splits" / "transmil" / "fold0.csv")
    assert [len(part) for part in fold.parts.values()] == [216, 54, 129]
    assert (fold.train[0], fold.val[0], fold.test[0]) == ("normal_145", "normal_144", "test_001")
    with (shared_root / "data" / "splits" / "camelyon16_labels.csv").open() as file:
        labels = {row["slide_id"]: int(row["label"]) for row in csv.DictReader(file)}
    assert set().union(*fold.parts.values()) == set(labels)
    assert fold_problems(fold, labels, {slide: slide for slide in labels}) == []


def test_clam_published_splits(shared_root):
    folder = shared_root / "data" / "splits" / "clam"
    with (folder / "tumor_vs_normal_dummy_clean.csv").open() as file:
        rows = list(csv.DictReader(file))
    labels = {row["slide_id"]: int(row["label"] == "tumor_tissue") for row in rows}
    patients = {row["slide_id"]: row["case_id"] for row in rows}
    for k, fold in enumerate(read_folds("splits_{k}.csv", folder)):
        with (folder / f"splits_{k}.csv").open() as file:
            raw = list(csv.DictReader(file))
        for part, ids in fold.parts.items():
            assert list(ids) == [row[part] for row in raw if row[part]]
        check_folds([fold], labels, patients)


def _tcga_patient(slide):
    return slide[:12]


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("duplicated_row.csv", r"slides? twice in "),
        ("slide_in_train_and_val.csv", r"slides? both in train and in val: "),
        ("val_equals_train.csv", r"slides? both in train and in val: 'TCGA-05-4244"),
        ("patient_in_train_and_test_tcga_lung.csv", r"patients? with slides both in train and in "),
    ],
)
def test_published_defects_are_found(shared_root, file, message):
    fold = read_fold(shared_root / "data" / "splits" / "defects" / file)
    ids = [slide for part in fold.parts.values() for slide in part]
    labels = {slide: i % 2 for i, slide in enumerate(ids)}
    patients = {slide: _tcga_patient(slide) if slide.startswith("TCGA") else slide for slide in ids}
    with pytest.raises(MilbenchError, match=message):
        check_folds([fold], labels, patients)


LABELS = {"a": 0, "b": 1, "c": 0, "d": 1, "e": 0, "f": 1}
OWN = {slide: slide for slide in LABELS}
GOOD = Fold("k", ("a", "b"), ("c", "d"), ("e", "f"))


@pytest.mark.parametrize(
    ("fold", "changes", "message"),
    [
        (Fold("k", ("a", "b", "a"), (), ("e", "f")), {}, "1 slide twice in train: 'a'"),
        (Fold("k", ("a", "b"), ("b", "c"), ("e", "f")), {}, "1 slide both in train and in val: 'b'; keep each"),
        (GOOD, {"patients": OWN | {"a": "P", "e": "P"}}, "1 patient with slides both in train and in test: 'P'"),
        (GOOD, {"labels": {k: v for k, v in LABELS.items() if k != "f"}}, "1 slide of test without label: 'f'"),
        (GOOD, {"features": {"a", "b", "e", "f"}}, "2 slides of val without features: 'c', 'd'"),
        (Fold("k", ("a", "c"), (), ("e", "f")), {}, "its train part holds class 0 only"),
        (Fold("k", ("a", "b"), ("c",), ("e", "f")), {"classes": ["normal", "tumour"]}, "holds class normal only"),
        (Fold("k", ("a", "b"), (), ("e",)), {}, "its test part holds class 0 only"),
        (Fold("k", (), (), ("e", "f")), {}, "its train part is empty"),
        (Fold("k", ("a", "b"), (), ()), {}, "its test part is empty"),
        (GOOD, {"labels": LABELS | {"e": 2}}, "class 2 is tested but not in train"),
    ],
)  # fmt: skip
def test_bad_folds_are_refused(fold, changes, message):
    arguments = {"labels": LABELS, "patients": OWN} | changes
    with pytest.raises(MilbenchError, match=f"fold k: .*{message}"):
        check_folds([fold], **arguments)


def test_good_folds_pass():
    check_folds([GOOD, Fold("other", ("a", "b"), (), ("e", "f"))], LABELS, OWN, set(LABELS))
    with pytest.raises(MilbenchError, match="two folds are named 'k'"):
        check_folds([GOOD, GOOD], LABELS, OWN)
    with pytest.raises(MilbenchError, match="there is no fold"):
        check_folds([], LABELS, OWN)


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 4), min_size=24, max_size=40),
    folds=st.integers(2, 5),
    repeats=st.integers(1, 2),
    val=st.sampled_from([0.0, 0.2, 0.5]),
    seed=st.integers(0, 50),
    classes=st.integers(2, 3),
)
def test_made_folds_are_by_patient_stratified_and_decided_by_the_seed(sizes, folds, repeats, val, seed, classes):
    patients = {f"s{i}-{j}": f"p{i}" for i, n in enumerate(sizes) for j in range(n)}
    labels = {slide: int(patient[1:]) % classes for slide, patient in patients.items()}
    spec = SplitSpec(folds=folds, repeats=repeats, val_fraction=val, seed=seed)
    made = stratified_folds(list(patients), patients, labels, spec)
    assert [fold.name for fold in made] == [f"r{r}-f{k}" for r in range(repeats) for k in range(folds)]
    check_folds(made, labels, patients)
    for r in range(repeats):
        tested = [slide for fold in made[r * folds : (r + 1) * folds] for slide in fold.test]
        assert sorted(tested) == sorted(patients)
    number = [len({patients[s] for s in fold.test}) for fold in made]
    assert max(number) - min(number) <= 1
    for c in range(classes):
        having = [len({patients[s] for s in fold.test if labels[s] == c}) for fold in made]
        assert max(having) - min(having) <= 1
    for fold in made:
        assert sorted(fold.train + fold.val + fold.test) == sorted(patients)
        assert bool(fold.val) == (val > 0)
    again = stratified_folds(sorted(patients, reverse=True), patients, labels, spec)
    assert again == made


def test_other_seeds_and_repeats_make_other_folds():
    ids = [str(i) for i in range(60)]
    labels, own = {s: int(s) % 2 for s in ids}, {s: s for s in ids}
    first, second = (stratified_folds(ids, own, labels, SplitSpec(repeats=2, seed=seed)) for seed in (0, 1))
    assert first[0].test != second[0].test
    assert first[0].test != first[5].test
    with pytest.raises(
        MilbenchError, match=r"class 0 has 30 patients, too few for 40 folds; set split.folds to 30 or less"
    ):
        stratified_folds(ids, own, labels, SplitSpec(folds=40))


def test_validation_is_carved_out_of_training_by_patient():
    ids = [str(i) for i in range(40)]
    labels, patients = {s: int(s) // 2 % 2 for s in ids}, {s: str(int(s) // 2) for s in ids}
    fold = Fold("k", tuple(ids[:32]), (), tuple(ids[32:]))
    made = carve_validation(fold, patients, labels, 0.25, [0])
    assert made.test == fold.test
    assert sorted(made.train + made.val) == sorted(fold.train)
    assert len(made.val) == 8
    check_folds([made], labels, patients)
