"""Every mistake a user can make: exit code 1, one sentence that names the mend, and nothing half written."""

from __future__ import annotations

import os
import pickle
import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from support.features import digit_slides, write_clam, write_csv, write_labels, write_trident

from milbench.data.cache.build import build_cache
from milbench.data.cache.layout import SCHEMA

TOML = """\
methods = ["mean"]
cost = false

[recipe]
epochs = 1

[[data]]
name = "digits"
cache = "cohort.cache"
labels = "labels.csv"

[data.split]
folds = 2
"""


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> Path:
    """A folder in which nothing is wrong: clam/, trident/, cohort.cache, labels.csv, my.toml."""
    folder = tmp_path_factory.mktemp("good")
    slides = digit_slides(patients=12, slides=1)
    write_clam(folder / "clam", slides)
    write_trident(folder / "trident", slides)
    build_cache(folder / "clam", folder / "cohort.cache")
    write_labels(folder / "labels.csv", slides)
    (folder / "my.toml").write_text(TOML)
    return folder


@pytest.fixture
def here(good, tmp_path, monkeypatch) -> Path:
    """A copy of it, to be spoiled."""
    folder = tmp_path / "here"
    shutil.copytree(good, folder)
    monkeypatch.setenv("MILBENCH_CACHE", str(folder / "home"))
    monkeypatch.delenv("MILBENCH_DATA", raising=False)
    return folder


def everything(folder: Path) -> dict[str, bytes | None]:
    """Every path below a folder, hidden ones too, with the content of files.

    What an import that failed had read is not among them: it waits for the file that failed to be mended.
    """
    actual = {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}
    waits = re.compile(r"home\b|\.[^/]+\.partial\b")
    return {name: content for name, content in actual.items() if not waits.match(name)}


def refused(cli, here: Path, monkeypatch, words: str | list[str], pattern: str) -> str:
    """Run a command that must end in one sentence; return it."""
    monkeypatch.chdir(here)
    before = everything(here)
    said = cli(*(words.split() if isinstance(words, str) else words))
    assert said.code == 1, said
    # Without progress, where slides were read before the bad one.
    lines = [line for line in said.err.splitlines() if not line.startswith("reading ")]
    assert len(lines) == 1, said.err
    assert lines[0].startswith("milbench: ")
    assert lines[0].endswith((".", "?")), lines[0]
    assert "Traceback" not in said.err
    assert re.search(pattern, lines[0]), lines[0]
    assert said.out == ""
    after = everything(here)
    assert sorted(after) == sorted(before)
    assert after == before
    home = here / "home"
    assert not home.exists() or all(path.name.endswith(".partial") for path in home.rglob(".*"))
    return lines[0]


def labels(here: Path) -> list[list[str]]:
    return [line.split(",") for line in (here / "labels.csv").read_text().splitlines()]


def put(here: Path, rows: list[list[str]]) -> None:
    write_csv(here / "labels.csv", [tuple(row) for row in rows])


def change(here: Path, old: str, new: str) -> None:
    text = (here / "my.toml").read_text()
    assert old in text
    (here / "my.toml").write_text(text.replace(old, new))


def column(here: Path, number: int, change_cell: Callable[[int, str], str]) -> None:
    rows = labels(here)
    put(here, [rows[0], *([*r[:number], change_cell(i, r[number]), *r[number + 1 :]] for i, r in enumerate(rows[1:]))])


def folds(here: Path, train: slice, test: slice, val: slice = slice(8, 10)) -> None:
    """Write fold0.csv over the rows of labels.csv, and point the suite at it."""
    names = [row[0] for row in labels(here)[1:]]
    parts = [("train", train), ("val", val), ("test", test)]
    rows = [(name, part) for part, which in parts for name in names[which]]
    write_csv(here / "fold0.csv", [("slide_id", "split"), *rows])
    change(here, "folds = 2", 'files = "fold{k}.csv"')


# --- labels and folds ------------------------------------------------------------------------------------------------


def missing_labels(here):
    (here / "labels.csv").unlink()


def labels_are_a_folder(here):
    (here / "labels.csv").unlink()
    (here / "labels.csv").mkdir()


def labels_empty(here):
    (here / "labels.csv").write_text("")


def labels_header_alone(here):
    put(here, labels(here)[:1])


def labels_binary(here):
    (here / "labels.csv").write_bytes(b"PK\x03\x04\xff\xfe\x00")


def labels_with_null_bytes(here):
    (here / "labels.csv").write_text("slide_id,patient_id,label\na\x00b,p,1\n")


def no_label_column(here):
    put(here, [["slide_id", "patient_id", "diagnosis"], *labels(here)[1:]])


def label_column_twice(here):
    put(here, [[*row, row[2]] for row in labels(here)])


def no_slide_column(here):
    put(here, [["slide", "patient_id", "label"], *labels(here)[1:]])


def other_patient_column(here):
    put(here, [["slide_id", "case_id", "label"], *labels(here)[1:]])


def slide_twice(here):
    again = list(labels(here)[1])
    again[2] = next(row[2] for row in labels(here)[1:] if row[2] != again[2])
    put(here, [*labels(here), again])


def slide_without_features(here):
    put(here, [*labels(here), ["ghost", "p", "normal"]])


def features_without_label(here):
    put(here, labels(here)[:-1])


def one_label_empty(here):
    column(here, 2, lambda i, v: "" if i == 3 else v)


def one_patient_empty(here):
    column(here, 1, lambda i, v: "" if i == 3 else v)


def one_label_nan(here):
    column(here, 2, lambda i, v: "nan" if i == 3 else v)


def one_class(here):
    column(here, 2, lambda i, v: "normal")


def too_few_of_a_class(here):
    column(here, 2, lambda i, v: "tumour" if i == 1 else "normal")


def class_nobody_has(here):
    change(here, 'labels = "labels.csv"', 'labels = "labels.csv"\nclasses = ["normal", "tumour", "unsure"]')


def label_that_is_no_class(here):
    change(here, 'labels = "labels.csv"', 'labels = "labels.csv"\nclasses = ["normal", "tumor"]')


def row_too_long(here):
    put(here, [*labels(here), ["a", "b", "normal", "surplus"]])


def one_class_test_part(here):
    rows = labels(here)
    put(here, [rows[0], *sorted(rows[1:], key=lambda row: row[2])])
    folds(here, slice(4, 12), slice(0, 2), slice(0, 0))


def slide_on_both_sides(here):
    folds(here, slice(0, 8), slice(6, 12), slice(0, 0))


def patient_on_both_sides(here):
    column(here, 1, lambda i, v: "000" if i == 11 else v)
    folds(here, slice(0, 8), slice(10, 12))


def fold_names_a_stranger(here):
    folds(here, slice(0, 8), slice(10, 12))
    with (here / "fold0.csv").open("a") as file:
        file.write("nobody,test\n")


def no_fold_file(here):
    change(here, "folds = 2", 'files = "fold{k}.csv"')


def fold_without_columns(here):
    no_fold_file(here)
    (here / "fold0.csv").write_text("a,b\n1,2\n")


def no_validation(here):
    change(here, "folds = 2", "folds = 2\nval_fraction = 0.0")


def impossible_folds(here):
    change(here, "folds = 2", "folds = 1")


LABELS = [
    (missing_labels, r"labels.csv cannot be read: No such file"),
    (labels_are_a_folder, r"labels.csv cannot be read"),
    (labels_empty, r"labels.csv is empty; its first line must name the columns"),
    (labels_header_alone, r"labels.csv has no rows"),
    (labels_binary, r"labels.csv is not UTF-8 text"),
    (labels_with_null_bytes, r"labels.csv .*"),
    (no_label_column, r"no column 'label', its columns are 'slide_id', 'patient_id', 'diagnosis'; set label_column"),
    (label_column_twice, r"has 2 columns named 'label'"),
    (no_slide_column, r"no column 'slide_id'.*set slide_column"),
    (other_patient_column, r"set patient_column = 'case_id'"),
    (slide_twice, r"1 slide in two rows that disagree: .*keep one row a slide"),
    (slide_without_features, r"1 slide of .*labels.csv without features in .*cohort.cache: 'ghost'"),
    (features_without_label, r"1 slide of .*cohort.cache without label in .*labels.csv"),
    (one_label_empty, r"no label for 1 slide"),
    (one_patient_empty, r"no patient_id for 1 slide"),
    (one_label_nan, r"'nan'.* is no label"),
    (one_class, r"has 1 class \('normal'\); a comparison needs two or more"),
    (too_few_of_a_class, r"class 'tumour' has 1 patient, too few for 2 folds"),
    (class_nobody_has, r"no slide of class 'unsure'"),
    (label_that_is_no_class, r"label 'tumour', which is none of the classes\. Did you mean 'tumor'\?"),
    (row_too_long, r"line 14 has 4 cells but the header 3"),
    (one_class_test_part, r"fold fold0: its test part holds class normal only"),
    (slide_on_both_sides, r"2 slides both in train and in test"),
    (patient_on_both_sides, r"1 patient with slides both in train and in test: '000'"),
    (fold_names_a_stranger, r"1 slide of test without label: 'nobody'"),
    (no_fold_file, r"no file matches .*fold\{k\}.csv"),
    (fold_without_columns, r"fold0.csv has columns 'a', 'b'"),
    (no_validation, r"no validation slides.*set checkpoint"),
    (impossible_folds, r"split\.folds"),
]


@pytest.mark.parametrize(("spoil", "pattern"), LABELS, ids=lambda v: getattr(v, "__name__", ""))
def test_labels_and_folds(spoil, pattern, here, cli, monkeypatch):
    spoil(here)
    refused(cli, here, monkeypatch, "run my.toml", pattern)


# --- the suite -------------------------------------------------------------------------------------------------------

SUITES = {
    "unknown field": ('methods = ["mean"]', 'methods = ["mean"]\nseed = 3', r"seed: .*Did you mean 'seeds'"),
    "no method": ('methods = ["mean"]', "methods = []", r"methods: .*at least one method"),
    "methods missing": ('methods = ["mean"]\n', "", r"methods: Field required"),
    "method unknown": ('["mean"]', '["meen"]', r"unknown aggregator 'meen'\. Did you mean 'mean'"),
    "parameter unknown": ('["mean"]', '["abmil[gate=true]"]', r"abmil has no parameter 'gate'\. Did you mean 'gated'"),
    "parameter value": ('["mean"]', '["abmil[gated=perhaps]"]', r"abmil\[gated=perhaps\]: "),
    "method malformed": ('["mean"]', '["abmil[gated"]', r"is not of the form name"),
    "not TOML": ('methods = ["mean"]', 'methods = ["mean"', r"my.toml is not valid TOML"),
    "recipe field": ("epochs = 1", "epoch = 1", r"epoch: "),
    "recipe value": ("epochs = 1", 'epochs = "many"', r"epochs: "),
    "recipe of nobody": ("epochs = 1", "epochs = 1\n[recipes.abmil]\nlr = 0.1", r"\[recipes.abmil\] names no method"),
    "two sources": ('cache = "cohort.cache"', 'cache = "cohort.cache"\ndataset = "arrangement"', r"either dataset"),
    "no source": ('cache = "cohort.cache"\n', "", r"either dataset"),
    "no labels": ('labels = "labels.csv"\n', "", r"has no labels, and .* brings none: set labels"),
    "dataset unknown": (
        'cache = "cohort.cache"\nlabels = "labels.csv"\n\n[data.split]\nfolds = 2\n', 'dataset = "digit-bags"\n',
        r"unknown dataset 'digit-bags'\. Did you mean 'digits-bags'",
    ),
    "dataset parameter": (
        'cache = "cohort.cache"\nlabels = "labels.csv"\n\n[data.split]\nfolds = 2\n',
        'dataset = "digits-bags"\nparams = { targets = 3 }\n',
        r"no parameter 'targets'\. Did you mean 'target'",
    ),
    "cache elsewhere": ("cohort.cache", "nowhere.cache", r"nowhere.cache does not exist; make one with milbench cache"),
    "cache is a file": ("cohort.cache", "labels.csv", r"labels.csv"),
    "npz missing": (
        'cache = "cohort.cache"\nlabels = "labels.csv"', 'cache = "x.npz"', r"no file .*x.npz; set MILBENCH_DATA",
    ),
    "cohort name": ('name = "digits"', 'name = "../digits"', r"'\.\./digits' must be usable as a folder"),
    "suite name": ('methods = ["mean"]', 'name = "a/b"\nmethods = ["mean"]', r"'a/b' must be usable as a folder"),
    "protocol": ("[recipe]", '[protocol]\ncheckpoint = "best-test"\n\n[recipe]', r"protocol.checkpoint: "),
    "split field": ("folds = 2", "fold = 2", r"split\.fold: "),
}  # fmt: skip


@pytest.mark.parametrize("case", SUITES)
def test_suites(case, here, cli, monkeypatch):
    old, new, pattern = SUITES[case]
    change(here, old, new)
    refused(cli, here, monkeypatch, "run my.toml", pattern)


@pytest.mark.parametrize(
    ("words", "pattern"),
    [
        ("run nowhere.toml", r"suite file nowhere.toml does not exist"),
        ("run quickstrat", r"unknown suite 'quickstrat'\. Did you mean 'quickstart'"),
        ("run my.toml -m meen", r"Did you mean 'mean'"),
        ("run my.toml -m abmil[gated=true", r"not of the form"),
        ("run musk1", r"no file .*musk1.npz; set MILBENCH_DATA"),
        ("status nowhere.toml", r"does not exist"),
        ("show meen", r"Did you mean 'mean'"),
        ("cite meen", r"Did you mean 'mean'"),
        ("check meen", r"Did you mean 'mean'"),
        ("check nowhere.pool:MyPool", r"there is no module 'nowhere'"),
        ("leaderboard nowhere", r"no results folder nowhere; run a suite first"),
        ("leaderboard labels.csv", r"no results folder labels.csv"),
        ("leaderboard cohort.cache", r"holds no finished runs"),
        ("compare mean max --results nowhere", r"no results folder nowhere"),
        ("cache info nowhere", r"nowhere does not exist; make one"),
        ("cache info clam", r"clam is no feature cache"),
        ("cache verify labels.csv", r"labels.csv is a file"),
        ("cache build --from nowhere --out c", r"nowhere does not exist"),
        ("cache build --from labels.csv --out c", r"no format milbench reads .*: it is a single file"),
        ("cache build --from cohort.cache --out c", r"no format milbench reads"),
        ("cache build --from clam --out cohort.cache", r"cohort.cache exists already"),
        ("cache build --from clam --out labels.csv/c", r"labels.csv"),
        ("cache build --from clam --out c --format clan", r"unknown format 'clan'\. Did you mean 'clam'"),
        ("cache build --from clam --out c --format trident", r"not of the format trident"),
        ("cache build --from clam --out c --dtype float61", r"Did you mean 'float16'"),
        ("cache build --from clam --out c --order zigzag", r"give source or raster"),
        ("cache build --from clam --out c --order raster --no-coords", r"raster order needs coordinates"),
    ],
)
def test_words(words, pattern, here, cli, monkeypatch):
    refused(cli, here, monkeypatch, words, pattern)


@pytest.mark.parametrize(
    ("words", "pattern"),
    [
        ("rum", r"No such command 'rum'"),
        ("run", r"Missing argument 'SUITE'"),
        ("run my.toml --seeds 0", r"Invalid value for '--seeds'"),
        ("run my.toml --overwrite some", r"'some' is not one of"),
        ("run my.toml --fast", r"No such option: --fast"),
        ("list methods", r"'methods' is not one of"),
        ("leaderboard --format html", r"'html' is not one of"),
        ("compare mean", r"Missing argument 'B'"),
        ("cache", r"Usage: milbench cache"),
    ],
)
def test_usage_is_exit_code_1_too(words, pattern, here, cli, monkeypatch):
    """2 means that runs did not end ok, and nothing else; the message is typer's own."""
    monkeypatch.chdir(here)
    before = everything(here)
    said = cli(*words.split())
    assert said.code == 1
    assert said.out == ""
    assert re.search(pattern, said.err), said.err
    assert "Usage: milbench" in said.err
    assert everything(here) == before


# --- features --------------------------------------------------------------------------------------------------------


def first(folder: Path) -> Path:
    return sorted(folder.iterdir())[3]


def rewrite(path: Path, **arrays: np.ndarray) -> None:
    with h5py.File(path, "w") as file:
        for key, value in arrays.items():
            file.create_dataset(key, data=value)


def nan_row(here):
    with h5py.File(first(here / "clam" / "h5_files"), "a") as file:
        file["features"][2, 5] = np.nan


def infinite_row(here):
    with h5py.File(first(here / "clam" / "h5_files"), "a") as file:
        file["features"][2, 5] = np.inf


def other_width(here):
    rewrite(first(here / "clam" / "h5_files"), features=np.ones((4, 65), np.float32), coords=np.ones((4, 2), np.int32))


def one_dimension(here):
    rewrite(first(here / "clam" / "h5_files"), features=np.ones(64, np.float32), coords=np.ones((1, 2), np.int32))


def no_features_key(here):
    rewrite(first(here / "clam" / "h5_files"), counts=np.ones((4, 64), np.int32))


def text_features(here):
    rewrite(first(here / "clam" / "h5_files"), features=np.array([[b"a"] * 64]))


def too_large_for_half(here):
    with h5py.File(first(here / "clam" / "h5_files"), "a") as file:
        file["features"][0, 0] = 1e6


def coordinates_missing(here):
    rewrite(first(here / "clam" / "h5_files"), features=np.ones((4, 64), np.float32))


def coordinates_short(here):
    rewrite(first(here / "clam" / "h5_files"), features=np.ones((4, 64), np.float32), coords=np.ones((3, 2), np.int32))


def cut_h5(here):
    path = first(here / "clam" / "h5_files")
    path.write_bytes(path.read_bytes()[:-700])


def empty_h5(here):
    first(here / "clam" / "h5_files").write_bytes(b"")


def garbage_h5(here):
    path = first(here / "clam" / "h5_files")
    raw = bytearray(path.read_bytes())
    raw[:600] = b"\x89HDF" + os.urandom(596)
    path.write_bytes(raw)


def a_folder_named_h5(here):
    path = first(here / "clam" / "h5_files")
    path.unlink()
    path.mkdir()


def nothing_in_it(here):
    for path in (here / "clam" / "h5_files").iterdir():
        path.unlink()
    shutil.rmtree(here / "clam" / "pt_files")


FEATURES = [
    (nan_row, r"h5: row 2 of slide .* NaN or infinite"),
    (infinite_row, r"h5: row 2 of slide .* NaN or infinite"),
    (other_width, r"65-d features but the slides before it have 64-d ones"),
    (one_dimension, r"must have shape \(rows, dim\), got \(64,\)"),
    (no_features_key, r"holds 'counts'; name the features 'features'"),
    (text_features, r"must be floating point"),
    (too_large_for_half, r"too large for float16; use bfloat16 or float32"),
    (coordinates_missing, r"has no coordinates but the slides before it have them.*--no-coords"),
    (coordinates_short, r"has 4 rows but 3 coordinates"),
    (cut_h5, r"is damaged"),
    (empty_h5, r"is empty, it has no bytes"),
    (garbage_h5, r"is damaged"),
    (a_folder_named_h5, r"is a folder"),
    (nothing_in_it, r"no format milbench reads"),
]


@pytest.mark.parametrize(("spoil", "pattern"), FEATURES, ids=lambda v: getattr(v, "__name__", ""))
def test_features(spoil, pattern, here, cli, monkeypatch):
    spoil(here)
    shutil.rmtree(here / "clam" / "pt_files", ignore_errors=True)  # which hold the slides as they were
    refused(cli, here, monkeypatch, "cache build --from clam --out c", pattern)


def test_slides_of_two_encoders(here, cli, monkeypatch):
    folder = here / "trident" / "20x_256px_0px_overlap" / "features_uni_v1"
    with h5py.File(first(folder), "a") as file:
        file["features"].attrs["encoder"] = "resnet50"
    refused(cli, here, monkeypatch, "cache build --from trident --out c", r"slides disagree about encoder: .*resnet50")


def test_two_runs_of_trident(here, cli, monkeypatch):
    folder = here / "trident" / "20x_256px_0px_overlap"
    shutil.copytree(folder / "features_uni_v1", folder / "features_resnet50")
    refused(cli, here, monkeypatch, "cache build --from trident --out c", r"features of 2 runs .*give the one to read")


class Payload:
    """What an unpickler would run."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self):
        return Path.touch, (self.witness,)


@pytest.mark.parametrize("kind", ["torch.save", "bare pickle", "npz"])
def test_hostile_pickles_are_never_run(kind, here, cli, monkeypatch, tmp_path):
    witness, path = tmp_path / "it was run", first(here / "clam" / "pt_files")
    shutil.rmtree(here / "clam" / "h5_files")
    words = "cache build --from clam --out c"
    if kind == "torch.save":
        torch.save(Payload(witness), path)
    elif kind == "bare pickle":
        path.write_bytes(pickle.dumps(Payload(witness)))
    else:
        bags = {"features": np.array([[Payload(witness)]], dtype=object), "bag_offsets": np.array([0, 1])}
        np.savez(here / "x.npz", bag_label=np.array([0]), **bags)
        words = "cache build --from x.npz --out c"
    refused(cli, here, monkeypatch, words, r"holds (other )?Python objects|plain arrays")
    assert not witness.exists()
    if kind != "npz":  # the same file does run when it is unpickled the careless way
        if kind == "bare pickle":
            pickle.loads(path.read_bytes())
        else:
            torch.load(path, weights_only=False)
        assert witness.exists()


def test_other_things_in_pt_files(here, cli, monkeypatch):
    shutil.rmtree(here / "clam" / "h5_files")
    path = first(here / "clam" / "pt_files")
    for value in ({"features": torch.ones(3, 64)}, [1, 2], torch.ones(3, 64).to_sparse()):
        torch.save(value, path)
        refused(cli, here, monkeypatch, "cache build --from clam --out c", r"holds a (dict|list|sparse tensor)")
    torch.save(torch.ones(3, 64, dtype=torch.int64), path)
    refused(cli, here, monkeypatch, "cache build --from clam --out c", r"must be floating point")
    path.write_bytes(path.read_bytes()[:-100])
    refused(cli, here, monkeypatch, "cache build --from clam --out c", r"does not load as a plain tensor")


# --- caches ----------------------------------------------------------------------------------------------------------


def cut_shard(here):
    path = here / "cohort.cache" / "shard-00000.safetensors"
    path.write_bytes(path.read_bytes()[:-64])


def no_shard(here):
    (here / "cohort.cache" / "shard-00000.safetensors").unlink()


def no_index(here):
    (here / "cohort.cache" / "index.parquet").unlink()


def cut_index(here):
    path = here / "cohort.cache" / "index.parquet"
    path.write_bytes(path.read_bytes()[:100])


def no_toml(here):
    (here / "cohort.cache" / "cache.toml").unlink()


def bad_toml(here):
    (here / "cohort.cache" / "cache.toml").write_text("dim = [")


def newer_schema(here):
    path = here / "cohort.cache" / "cache.toml"
    path.write_text(path.read_text().replace(f"schema = {SCHEMA}", "schema = 99"))


CACHES = [
    (cut_shard, r"has \d+ bytes instead of \d+; copy the cache again"),
    (no_shard, r"shard-00000.safetensors is missing"),
    (no_index, r"index.parquet is missing"),
    (cut_index, r"index.parquet was changed or damaged"),
    (no_toml, r"is no feature cache"),
    (bad_toml, r"cache.toml is damaged"),
    (newer_schema, r"schema version 99"),
]


@pytest.mark.parametrize("words", ["run my.toml", "status my.toml", "cache info cohort.cache"])
@pytest.mark.parametrize(("spoil", "pattern"), CACHES, ids=lambda v: getattr(v, "__name__", ""))
def test_caches(spoil, pattern, words, here, cli, monkeypatch):
    spoil(here)
    refused(cli, here, monkeypatch, words, pattern)


@pytest.mark.parametrize("spoil", [cut_shard, no_shard, no_index, cut_index, bad_toml, newer_schema])
def test_verify_finds_it_too(spoil, here, cli, monkeypatch):
    """Verify lists what is hurt on stdout, and ends in one sentence on stderr."""
    spoil(here)
    monkeypatch.chdir(here)
    said = cli("cache", "verify", "cohort.cache")
    assert said.code == 1
    assert "Traceback" not in said.err
    message = [line for line in said.err.splitlines() if not line.startswith("verifying ")]
    assert len(message) == 1


# --- packed files ----------------------------------------------------------------------------------------------------


def packed(here: Path, **changes: object) -> None:
    arrays = {"features": np.random.default_rng(0).normal(size=(24, 4)), "bag_offsets": np.arange(0, 25, 2),
              "bag_label": np.arange(12) % 2, "bag_name": np.array([f"b{i}" for i in range(12)])} | changes  # fmt: skip
    np.savez(here / "x.npz", **{key: value for key, value in arrays.items() if value is not None})
    change(here, 'cache = "cohort.cache"\nlabels = "labels.csv"', 'cache = "x.npz"')


@pytest.mark.parametrize(
    ("changes", "pattern"),
    [
        ({"bag_label": None}, r"lacks bag_label"),
        ({"bag_offsets": np.array([0, 30])}, r"bag_offsets .* must rise from 0 to 24"),
        ({"bag_label": np.zeros(5)}, r"one value for each of the 12 bags"),
        ({"bag_label": np.zeros(12)}, r"a comparison needs two or more"),
        ({"bag_name": np.array(["b"] * 12)}, r"given twice|has 'b' twice"),
        ({"folds": np.zeros((2, 3), int)}, r"folds of .* must be integers of shape"),
        ({"folds": np.zeros((1, 12), int)}, r"its train part is empty"),
        ({"features": np.full((24, 4), np.nan)}, r"NaN or infinite"),
        ({"features": np.repeat(np.arange(12) % 2, 2)[:, None].astype(float)}, r"is the bag label itself"),
    ],
)  # fmt: skip
def test_packed_files(changes, pattern, here, cli, monkeypatch):
    packed(here, **changes)
    if "folds" in changes:  # the published ones, not one's own
        change(here, "folds = 2", "val_fraction = 0.0")
    refused(cli, here, monkeypatch, "run my.toml", pattern)


def test_packed_file_that_is_none(here, cli, monkeypatch):
    packed(here)
    (here / "x.npz").write_bytes(b"not a zip file")
    refused(cli, here, monkeypatch, "run my.toml", r"no readable .npz")
    with zipfile.ZipFile(here / "x.npz", "w") as file:
        file.writestr("features.npy", b"\x93NUMPY")
    refused(cli, here, monkeypatch, "run my.toml", r"no readable .npz")


# --- places to write to ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "pattern"),
    [
        ("run my.toml --results labels.csv", r"labels.csv is a file.*give another --results"),
        ("run my.toml --results labels.csv/below", r"labels.csv is a file.*give another --results"),
        ("run my.toml --results r --report labels.csv", r"labels.csv is a file.*give another --report"),
        ("run my.toml --results r --report labels.csv/a/b", r"labels.csv is a file.*give another --report"),
    ],
)
def test_results_that_cannot_be_written(words, pattern, here, cli, monkeypatch):
    refused(cli, here, monkeypatch, words, pattern)


@pytest.mark.parametrize("words", ["run my.toml --results locked/r", "cache build --from clam --out locked/c"])
def test_a_folder_that_is_read_only(words, here, cli, monkeypatch):
    (here / "locked").mkdir()
    (here / "locked").chmod(0o500)
    if os.access(here / "locked", os.W_OK):
        pytest.skip("this user (root, likely) may write everywhere")
    try:
        refused(cli, here, monkeypatch, words, r"locked.*(writ)")
    finally:
        (here / "locked").chmod(0o700)


def test_an_operating_system_error_is_a_sentence_too(here, cli, monkeypatch):
    import milbench.runs.plan

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", "/some/file")

    monkeypatch.setattr(milbench.runs.plan, "make_plan", refuse)
    refused(cli, here, monkeypatch, "status my.toml", r"^milbench: /some/file: Permission denied; check")


def test_results_of_another_suite_of_the_same_name(here, cli, monkeypatch):
    monkeypatch.chdir(here)
    assert cli("run", "my.toml", "--results", "r").code == 0
    change(here, "epochs = 1", "epochs = 2")
    refused(cli, here, monkeypatch, "run my.toml --results r", r"recipe changed\); raise its version or use another")


def test_hurt_results(here, cli, monkeypatch):
    monkeypatch.chdir(here)
    assert cli("run", "my.toml", "--results", "r").code == 0
    (run, _) = sorted((here / "r" / "my-v1" / "runs").iterdir())
    kept = (run / "predictions.parquet").read_bytes()
    (run / "predictions.parquet").write_bytes(kept[:50])
    refused(cli, here, monkeypatch, "leaderboard r", r"predictions.parquet was changed or damaged")
    (run / "predictions.parquet").write_bytes(kept)
    refused(cli, here, monkeypatch, "leaderboard r --suite mi", r"no suite 'mi' in r")
    refused(cli, here, monkeypatch, "leaderboard r --data digts", r"no cohort 'digts' in r\. Did you mean 'digits'")
    refused(cli, here, monkeypatch, "leaderboard r --out labels.csv", r"labels.csv is a file")
    refused(cli, here, monkeypatch, "compare mean max --results r", r"no run of 'max' in r")
    refused(cli, here, monkeypatch, "compare mean mean --results r", r"compared with itself")
    (run / "run.json").write_text("{")
    refused(cli, here, monkeypatch, "leaderboard r", r"run.json cannot be read")
