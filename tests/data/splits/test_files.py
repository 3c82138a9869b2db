"""Split files: every tool's form is read exactly, against an independent reading, and what is none is refused."""

from __future__ import annotations

import csv
import json

import numpy as np
import openpyxl
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.refusal import refused
from support.shared import SHARED

from milbench.data.audit.folds import Known, fold_findings, folds_findings
from milbench.data.fold import Fold
from milbench.data.splits.files import TaskConfig, read_fold, read_folds, read_task_config

SLIDES = {f"{p:02d}.{s} a": f"P{p:02d}" for p in range(12) for s in range(1 + p % 3)}
PARTS = ("train", "val", "test")


def _write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def _folds(k=3, seed=0):
    """Folds of `SLIDES` by patient, in an order of their own; some slides in no part."""
    rng = np.random.default_rng(seed)
    actual = []
    for _ in range(k):
        words = rng.permutation(["train"] * 6 + ["val"] * 2 + ["test"] * 3 + [""])
        part = dict(zip(sorted(set(SLIDES.values())), words, strict=True))
        order = rng.permutation(list(SLIDES))
        actual.append({name: [str(s) for s in order if part[SLIDES[s]] == name] for name in PARTS})
    return actual


def _ragged(fold, index=True, names="{}", value=str, labels=False):
    """The columns of a fold as pandas writes columns of unequal length."""
    columns = {}
    for part, ids in fold.items():
        columns[names.format(part)] = pd.Series([value(i) for i in ids], dtype=object)
        if labels:
            columns[f"{part}_label"] = pd.Series([float(len(i) % 2) for i in ids])
    return pd.DataFrame(columns).to_csv(index=index)


def _booleans(fold):
    order = list(SLIDES)
    return pd.DataFrame({part: [s in ids for s in order] for part, ids in fold.items()}, index=order).to_csv()


def _list(fold, names, sep=","):
    rows = [(slide, part) for part, ids in fold.items() for slide in ids]
    return pd.DataFrame(rows, columns=names).to_csv(index=False, sep=sep)


def _eva(fold):
    rows = [(f"{s}-{i}.pt", 1, part, s) for part, ids in fold.items() for s in ids for i in range(2)]
    return pd.DataFrame(rows, columns=["embeddings", "target", "split", "wsi_id"]).to_csv(index=False)


FORMS = {
    "TransMIL": ("fold{}.csv", lambda fold: _ragged(fold, labels=True)),
    "CLAM": ("splits_{}.csv", _ragged),
    "CLAM bool": ("splits_{}_bool.csv", _booleans),
    "MIL_BASELINE": (
        "Total_3-fold_x_{}fold.csv",
        lambda fold: _ragged(fold, False, "{}_slide_path", lambda s: f"/data/x.y/{s}.pt", labels=True),
    ),
    "torchmil": ("part{}.csv", lambda fold: _list(fold, ["bag_name", "split"])),
    "eva": ("manifest_{}.csv", _eva),
    "milbench": ("r0-f{}.csv", lambda fold: _list(fold, ["slide_id", "split"], ";")),
}


@pytest.mark.parametrize("form", FORMS)
def test_one_file_a_fold(form, tmp_path):
    folds, (name, text) = _folds(11), FORMS[form]
    for k, fold in enumerate(folds):
        _write(tmp_path / name.format(k), text(fold))
    if form == "CLAM bool":  # the order is that of the rows
        folds = [{part: [s for s in SLIDES if s in ids] for part, ids in fold.items()} for fold in folds]
    due = [Fold(name.format(k)[:-4], *(tuple(fold[part]) for part in PARTS)) for k, fold in enumerate(folds)]
    assert read_folds(str(tmp_path / name.format("{k}")), tmp_path) == due
    assert read_folds(tmp_path.name, tmp_path.parent) == due
    assert read_folds(name.format(10), tmp_path) == [due[10]]
    assert read_fold(tmp_path / name.format(3)) == due[3]


def test_a_folder_of_clams_has_its_folds_once(tmp_path):
    for k, fold in enumerate(_folds(2)):
        _write(tmp_path / f"splits_{k}.csv", _ragged(fold))
        _write(tmp_path / f"splits_{k}_bool.csv", _booleans(fold))
        _write(tmp_path / f"splits_{k}_descriptor.csv", ",train,val,test\nnormal,5,1,1\n")
    assert [fold.name for fold in read_folds(".", tmp_path)] == ["splits_0", "splits_1"]
    _write(tmp_path / "fold0.csv", _ragged(fold))
    with refused("split-ambiguous", "fold0.csv", "splits_0.csv"):
        read_folds(".", tmp_path)


def test_a_folder_of_torchmil_has_other_tables_too(tmp_path):
    (fold,) = _folds(1)
    _write(tmp_path / "splits.csv", _list(fold, ["bag_name", "split"]))
    _write(tmp_path / "labels.csv", "bag_name,label\n1,0\n")
    (tmp_path / "features").mkdir()
    assert read_folds(".", tmp_path) == [Fold("splits", *(tuple(fold[part]) for part in PARTS))]


def _patho_bench(folder, folds, column="slide_id", sample="slide_id"):
    owner = dict(SLIDES)
    rows = []
    for slide, patient in owner.items():
        parts = [next((part for part in PARTS if slide in fold[part]), "-1") for fold in folds]
        rows.append({"case_id": patient, "slide_id": slide, "er": 1} | {f"fold_{k}": p for k, p in enumerate(parts)})
    frame = pd.DataFrame(rows)
    if column == "case_id":
        frame = frame.drop(columns="slide_id").drop_duplicates("case_id").rename(columns={"case_id": sample})
    frame.to_csv(folder / "k=all.tsv", sep="\t", index=False)


def test_patho_bench(tmp_path):
    folds = _folds(11)
    _patho_bench(tmp_path, folds)
    due = [
        Fold(f"fold_{k}", *(tuple(s for s in SLIDES if s in fold[part]) for part in PARTS))
        for k, fold in enumerate(folds)
    ]
    assert read_folds("k=all.tsv", tmp_path) == due
    assert read_folds(".", tmp_path) == due
    with refused("split-ambiguous", "11"):
        read_fold(tmp_path / "k=all.tsv")


@pytest.mark.parametrize("sample", ["case_id", "person"])
def test_patho_bench_with_patients_alone(sample, tmp_path):
    folds = _folds(2)
    _patho_bench(tmp_path, folds, "case_id", sample)
    _write(tmp_path / "config.yaml", f"task_col: er\nsample_col: {sample}\nlabel_dict:\n  0: negative\n  1: positive\n"
                                     "metrics:\n- macro-ovr-auc\nextra_cols: []\n")  # fmt: skip
    assert read_task_config(tmp_path / "config.yaml") == TaskConfig(
        "er", sample, {"0": "negative", "1": "positive"}, ("macro-ovr-auc",)
    )
    for fold, read in zip(folds, read_folds("k=all.tsv", tmp_path, SLIDES), strict=True):
        assert {part: sorted(ids) for part, ids in read.parts.items()} == {p: sorted(ids) for p, ids in fold.items()}
    with refused("names-unmatched", "k=all.tsv", "1", "'P03'"):
        read_folds("k=all.tsv", tmp_path, {s: p for s, p in SLIDES.items() if p != "P03"})


def test_stamp(tmp_path):
    patients = sorted(set(SLIDES.values()))
    splits = [{"train_patients": patients[k::2][::-1], "test_patients": patients[1 - k :: 2]} for k in range(2)]
    _write(tmp_path / "splits.json", json.dumps({"splits": splits}, indent=4))
    folds = read_folds("splits.json", tmp_path, SLIDES)
    assert folds == read_folds(".", tmp_path, SLIDES)
    assert [fold.name for fold in folds] == ["split-0", "split-1"]
    for fold, split in zip(folds, splits, strict=True):
        assert fold.train == tuple(s for p in split["train_patients"] for s in SLIDES if SLIDES[s] == p)
        assert fold.test == tuple(s for p in split["test_patients"] for s in SLIDES if SLIDES[s] == p)
        assert fold.val == ()
    with refused("names-unmatched", "splits.json", "2", "'P00', 'P05'"):
        read_folds("splits.json", tmp_path, {s: p for s, p in SLIDES.items() if p not in ("P00", "P05")})
    with refused("names-unmatched", "12"):
        read_fold(tmp_path / "splits.json")


@settings(max_examples=40, deadline=None)
@given(
    parts=st.lists(st.sampled_from([*PARTS, ""]), min_size=1, max_size=30),
    ids=st.lists(
        st.text(st.characters(exclude_categories=["Cs", "Cc", "Zs", "Zl", "Zp"]), min_size=1, max_size=12)
        .filter(lambda t: t.lower() not in ("true", "false")),
        min_size=30, max_size=30, unique=True,
    ),
    form=st.sampled_from(["TransMIL", "CLAM", "torchmil", "milbench", "eva"]),
)  # fmt: skip
def test_any_ids_come_back(parts, ids, form, tmp_path_factory):
    fold = {part: [i for i, p in zip(ids, parts, strict=False) if p == part] for part in PARTS}
    path = tmp_path_factory.mktemp("s") / "fold0.csv"
    _write(path, FORMS[form][1](fold))
    assert read_fold(path) == Fold("fold0", *(tuple(fold[part]) for part in PARTS))


def test_words_for_parts(tmp_path):
    text = "slide_id,split\n1,Train\n2,valid\n3,TEST\n4,validation\n5,training\n6,-1\n7,\n"
    assert read_fold(_write(tmp_path / "a.csv", text)) == Fold("a", ("1", "5"), ("2", "4"), ("3",))
    assert read_fold(_write(tmp_path / "a.csv", "slide_id,split\n1,dev\n2,tune\n")).val == ("1", "2")
    with refused("split-unknown-part", "a.csv", "'internal'"):
        read_fold(_write(tmp_path / "a.csv", "slide_id,split\n1,internal\n"))
    with refused("split-unknown-part", "k=all.tsv", "'2'"):
        read_fold(_write(tmp_path / "k=all.tsv", "case_id\tslide_id\ty\tfold_0\n1\t1\t0\t2\n"))


def test_ids_as_tools_leave_them(tmp_path):
    known = {"7": "a", "12": "b", "0012": "c", "x.0": "d", "s": "e"}
    # pandas makes 7.0 of 7 in a column that is shorter than another one
    text = ",train,val,test\n0,7.0,x.0,s.svs\n1,0012,9.0,s.tif\n2,12.0,,\n"
    _write(tmp_path / "splits_0.csv", text)
    (fold,) = read_folds("splits_0.csv", tmp_path, known, (".svs", ".ndpi"))
    assert fold == Fold("splits_0", ("7", "0012", "12"), ("x.0", "9.0"), ("s", "s"))
    (fold,) = read_folds("splits_0.csv", tmp_path)
    assert fold.train == ("7.0", "0012", "12.0")


def test_templates_find_every_number(tmp_path):
    for k in (10, 0, 2):
        _write(tmp_path / f"fold{k}.csv", f",train,val,test\n0,a{k},b,c\n")
    _write(tmp_path / "fold_notes.csv", "nothing")
    folds = read_folds("fold{k}.csv", tmp_path)
    assert [fold.name for fold in folds] == ["fold0", "fold2", "fold10"]
    assert [fold.train for fold in folds] == [("a0",), ("a2",), ("a10",)]
    assert read_folds("fold2.csv", tmp_path) == [folds[1]]
    with refused("split-files-missing", ".csv"):
        read_folds("split{k}.csv", tmp_path)
    with refused("split-files-missing"):
        read_folds("{k}/split.csv", tmp_path)


@pytest.mark.parametrize(
    ("name", "text", "refusal"),
    [
        ("x.csv", "a,b\n1,2\n", ("table-missing-column", "'a', 'b'")),
        ("x.csv", "\n", ("table-empty", "x.csv")),
        ("x.csv", "train_slide_path,a\n1,2\n", ("table-missing-column",)),
        ("x.tsv", "name\tfold_0\n1\ttrain\n", ("table-missing-column", "fold_0", "slide_id", "case_id")),
        ("splits.json", "[]", ("config-invalid",)),
        ("splits.json", '{"splits": [{"train_patients": ["a"]}]}', ("config-invalid",)),
        ("splits.json", '{"splits": [{"train_patients": [1], "test_patients": []}]}', ("config-invalid",)),
        ("splits.json", '{"splits": {"train_patients": ["a"]}}', ("config-invalid",)),
        ("splits.json", '{"splits": [', ("config-invalid",)),
        ("splits.json", "[" * 100_000, ("config-invalid",)),
        ("splits.json", '{"splits": []}', ("split-empty-part",)),
        ("none", None, ("file-missing",)),
        ("", None, ("split-files-missing", ".csv", ".tsv", "splits.json")),
    ],
)
def test_files_that_are_no_split(name, text, refusal, tmp_path):
    if text is not None:
        _write(tmp_path / name, text)
    with refused(*refusal):
        read_folds(name, tmp_path, SLIDES)


@pytest.mark.parametrize(
    ("text", "refusal"),
    [
        ("a: [", ("config-invalid",)),
        ("sample_col: !!python/object/apply:os.system ['touch hurt']", ("config-invalid",)),
        ("a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]", ("config-invalid",)),
        ("[" * 2**19, ("config-invalid",)),
        ("x: " + "y" * 2**21, ("config-invalid",)),
        ("a: \x00", ("config-invalid",)),
    ],
)
def test_configurations_that_are_none(text, refusal, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _write(tmp_path / "config.yaml", text)
    _write(tmp_path / "k=all.tsv", "case_id\ty\tfold_0\n1\t1\ttrain\n")
    with refused(*refusal, "config.yaml"):
        read_folds("k=all.tsv", tmp_path, SLIDES)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.yaml", "k=all.tsv"]
    (tmp_path / "config.yaml").write_bytes(b"a: \xff")
    with refused("config-invalid"):
        read_task_config(tmp_path / "config.yaml")


def test_a_configuration_that_says_little(tmp_path):
    for text in ("", "- a\n", "task_col: [1]\nlabel_dict: 3\nmetrics: auc\n"):
        assert read_task_config(_write(tmp_path / "config.yaml", text)) == TaskConfig()


def test_transmil_published_fold(shared_root):
    file = shared_root / "data" / "splits" / "transmil" / "fold0.csv"
    fold = read_fold(file)
    assert [len(part) for part in fold.parts.values()] == [216, 54, 129]
    with file.open(newline="") as opened:
        raw = list(csv.DictReader(opened))
    assert {part: list(ids) for part, ids in fold.parts.items()} == {p: [r[p] for r in raw if r[p]] for p in PARTS}
    with (shared_root / "data" / "splits" / "camelyon16_labels.csv").open() as opened:
        labels = {row["slide_id"]: int(row["label"]) for row in csv.DictReader(opened)}
    assert set().union(*fold.parts.values()) == set(labels)
    assert fold_findings("camelyon16", fold, Known(labels, {slide: slide for slide in labels})) == []


def test_clam_published_splits(shared_root):
    folder = shared_root / "data" / "splits" / "clam"
    with (folder / "tumor_vs_normal_dummy_clean.csv").open() as file:
        rows = list(csv.DictReader(file))
    labels = {row["slide_id"]: int(row["label"] == "tumor_tissue") for row in rows}
    patients = {row["slide_id"]: row["case_id"] for row in rows}
    folds = read_folds(".", folder)
    assert folds == read_folds("splits_{k}.csv", folder)
    assert [fold.name for fold in folds] == ["splits_0", "splits_1"]
    for fold in folds:
        with (folder / f"{fold.name}.csv").open() as file:
            raw = list(csv.DictReader(file))
        for part, ids in fold.parts.items():
            assert list(ids) == [row[part] for row in raw if row[part]]
    assert [findings.code for findings in folds_findings("clam", folds, Known(labels, patients))] == ["unused-slide"]


@pytest.mark.skipif(SHARED is None, reason="no real data: set MILBENCH_SHARED to its folder")
def test_published_defects_are_kept_for_the_checks():
    """A reader that mended what it reads would hide it."""
    assert SHARED is not None
    for file in sorted((SHARED / "data" / "splits" / "defects").iterdir()):
        with file.open(newline="") as opened:
            raw = list(csv.DictReader(opened))
        assert {part: list(ids) for part, ids in read_fold(file).parts.items()} == {
            part: [row[part] for row in raw if row[part]] for part in PARTS
        }


def test_a_part_that_is_a_formula_without_a_stored_value_is_refused(tmp_path):
    """As an empty cell it would leave its slide out of every part."""
    book = openpyxl.Workbook()
    words = ["train", "test", "=B2", *["train", "test"] * 4]
    for row in [("slide_id", "split"), *zip(SLIDES, words, strict=False)]:
        book.active.append(row)
    book.save(tmp_path / "split.xlsx")
    patients = dict(SLIDES)
    for column in (None, "split"):
        with refused("table-formula"):
            read_folds("split.xlsx", tmp_path, patients, column=column)
    book.active["B4"] = "val"
    book.save(tmp_path / "split.xlsx")
    (fold,) = read_folds("split.xlsx", tmp_path, patients)
    assert sum(map(len, fold.parts.values())) == len(words)
