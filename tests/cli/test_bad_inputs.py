"""Every mistake a user can make: exit code 1, one sentence that names the correction, and nothing half written."""

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
from support.refusal import assert_refused

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

    The slides that a failed import had read are not among them: they wait until the file that failed is corrected.
    """
    actual = {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}
    waits = re.compile(r"home\b|\.[^/]+\.partial\b")
    return {name: content for name, content in actual.items() if not waits.match(name)}


def refused_command(cli, here: Path, monkeypatch, words: str | list[str], code: str, *names: str) -> None:
    """Run a command that must end in one sentence with this code, which names the names."""
    monkeypatch.chdir(here)
    before = everything(here)
    said = cli(*(words.split() if isinstance(words, str) else words))
    assert said.code == 1, said
    # Without progress, where slides were read before the bad one.
    lines = [line for line in said.err.splitlines() if not line.startswith("reading ")]
    assert len(lines) == 1, said.err
    assert re.search(r"[.?] \[[a-z0-9-]+\]$", lines[0]), lines[0]
    assert "Traceback" not in said.err
    assert_refused(lines[0], code, *names)
    assert said.out == ""
    after = everything(here)
    assert sorted(after) == sorted(before)
    assert after == before
    home = here / "home"
    assert not home.exists() or all(path.name.endswith(".partial") for path in home.rglob(".*"))


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


def fold_names_an_unknown_slide(here):
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
    (missing_labels, ("file-missing", "labels.csv")),
    (labels_are_a_folder, ("file-unreadable", "labels.csv")),
    (labels_empty, ("table-empty", "labels.csv")),
    (labels_header_alone, ("table-empty", "labels.csv")),
    (labels_binary, ("table-not-utf8", "labels.csv", ".xlsx")),
    (labels_with_null_bytes, ("table-not-utf8", "labels.csv line 2")),
    (
        no_label_column,
        ("table-missing-column", "labels.csv", "'label'", "'slide_id', 'patient_id', 'diagnosis'", "label_column"),
    ),
    (label_column_twice, ("table-duplicate-column", "labels.csv", "2", "'label'")),
    (no_slide_column, ("table-missing-column", "'slide_id'", "slide_column")),
    (other_patient_column, ("table-missing-column", "patient_column = 'case_id'")),
    (slide_twice, ("labels-conflicting-rows", "labels.csv", "1", "'normal'", "'tumour'")),
    (slide_without_features, ("label-without-features", "1", "labels.csv", "cohort.cache", "'ghost'")),
    (features_without_label, ("features-without-label", "1", "cohort.cache", "labels.csv")),
    (one_label_empty, ("labels-missing-value", "label", "1")),
    (one_patient_empty, ("labels-missing-value", "patient_id", "1")),
    (one_label_nan, ("labels-missing-value", "'nan'")),
    (one_class, ("classes-bad", "1", "'normal'")),
    (too_few_of_a_class, ("folds-impossible", "'tumour'", "1", "2")),
    (class_nobody_has, ("classes-bad", "labels.csv", "'unsure'")),
    (label_that_is_no_class, ("labels-unknown-class", "'tumour'", "'tumor'")),
    (row_too_long, ("table-bad-line", "labels.csv line 14", "4", "3")),
    (one_class_test_part, ("one-class", "fold0", "test", "normal")),
    (slide_on_both_sides, ("slide-overlap", "2", "train", "test")),
    (patient_on_both_sides, ("patient-overlap", "1", "train", "test", "'000'")),
    (fold_names_an_unknown_slide, ("split-without-label", "1", "test", "'nobody'")),
    (no_fold_file, ("split-files-missing", "fold{k}.csv")),
    (fold_without_columns, ("table-missing-column", "fold0.csv", "'a', 'b'")),
    (no_validation, ("split-no-validation", "digits", "checkpoint")),
    (impossible_folds, ("suite-bad-value", "split.folds")),
]


@pytest.mark.parametrize(("spoil", "refusal"), LABELS, ids=lambda v: getattr(v, "__name__", ""))
def test_labels_and_folds(spoil, refusal, here, cli, monkeypatch):
    spoil(here)
    refused_command(cli, here, monkeypatch, "run my.toml", *refusal)


# --- the suite -------------------------------------------------------------------------------------------------------

SUITES = {
    "unknown field": (
        'methods = ["mean"]', 'methods = ["mean"]\nseed = 3', ("suite-unknown-field", "my.toml", "seed", "'seeds'"),
    ),
    "no method": ('methods = ["mean"]', "methods = []", ("suite-bad-value", "my.toml", "methods")),
    "methods missing": ('methods = ["mean"]\n', "", ("suite-missing-field", "my.toml", "methods")),
    "method unknown": ('["mean"]', '["meen"]', ("method-unknown", "'meen'", "'mean'")),
    "parameter unknown": ('["mean"]', '["abmil[gate=true]"]', ("method-unknown-option", "abmil", "'gate'", "'gated'")),
    "parameter value": ('["mean"]', '["abmil[gated=perhaps]"]', ("method-bad-option", "abmil[gated=perhaps]")),
    "method malformed": ('["mean"]', '["abmil[gated"]', ("method-bad-option", "'abmil[gated'")),
    "not TOML": ('methods = ["mean"]', 'methods = ["mean"', ("config-invalid", "my.toml")),
    "recipe field": ("epochs = 1", "epoch = 1", ("suite-unknown-field", "recipe.epoch:", "'epochs'")),
    "recipe value": ("epochs = 1", 'epochs = "many"', ("suite-bad-value", "recipe.epochs")),
    "recipe of nobody": ("epochs = 1", "epochs = 1\n[recipes.abmil]\nlr = 0.1", ("method-unknown", "[recipes.abmil]")),
    "two sources": (
        'cache = "cohort.cache"', 'cache = "cohort.cache"\ndataset = "arrangement"',
        ("suite-bad-value", "my.toml", "data.0", "dataset", "cache"),
    ),
    "no source": ('cache = "cohort.cache"\n', "", ("suite-bad-value", "my.toml", "data.0", "dataset", "cache")),
    "no labels": ('labels = "labels.csv"\n', "", ("labels-missing", "digits", "cohort.cache", "labels")),
    "dataset unknown": (
        'cache = "cohort.cache"\nlabels = "labels.csv"\n\n[data.split]\nfolds = 2\n', 'dataset = "digit-bags"\n',
        ("dataset-unknown", "'digit-bags'", "'digits-bags'"),
    ),
    "dataset parameter": (
        'cache = "cohort.cache"\nlabels = "labels.csv"\n\n[data.split]\nfolds = 2\n',
        'dataset = "digits-bags"\nparams = { targets = 3 }\n',
        ("dataset-bad-option", "digits-bags", "'targets'", "'target'"),
    ),
    "cache elsewhere": ("cohort.cache", "nowhere.cache", ("cache-missing", "nowhere.cache", "milbench cache build")),
    "cache is a file": ("cohort.cache", "labels.csv", ("cache-missing", "labels.csv")),
    "npz missing": (
        'cache = "cohort.cache"\nlabels = "labels.csv"', 'cache = "x.npz"', ("file-missing", "x.npz", "MILBENCH_DATA"),
    ),
    "cohort name": ('name = "digits"', 'name = "../digits"', ("name-bad", "'../digits'")),
    "suite name": ('methods = ["mean"]', 'name = "a/b"\nmethods = ["mean"]', ("name-bad", "'a/b'")),
    "protocol": (
        "[recipe]", '[protocol]\ncheckpoint = "best-test"\n\n[recipe]', ("suite-bad-value", "protocol.checkpoint"),
    ),
    "split field": ("folds = 2", "fold = 2", ("suite-unknown-field", "split.fold:", "'folds'")),
}  # fmt: skip


@pytest.mark.parametrize("case", SUITES)
def test_suites(case, here, cli, monkeypatch):
    old, new, refusal = SUITES[case]
    change(here, old, new)
    refused_command(cli, here, monkeypatch, "run my.toml", *refusal)


@pytest.mark.parametrize(
    ("words", "refusal"),
    [
        ("run nowhere.toml", ("suite-unknown", "nowhere.toml")),
        ("run quickstrat", ("suite-unknown", "'quickstrat'", "'quickstart'")),
        ("run my.toml -m meen", ("method-unknown", "'meen'", "'mean'")),
        ("run my.toml -m abmil[gated=true", ("method-bad-option", "'abmil[gated=true'")),
        ("run musk1", ("file-missing", "musk1.npz", "MILBENCH_DATA")),
        ("status nowhere.toml", ("suite-unknown", "nowhere.toml")),
        ("show meen", ("method-unknown", "'meen'", "'mean'")),
        ("cite meen", ("method-unknown", "'meen'", "'mean'")),
        ("check meen", ("method-unknown", "'meen'", "'mean'")),
        ("check nowhere.pool:MyPool", ("method-not-importable", "'nowhere'")),
        ("leaderboard nowhere", ("results-missing", "nowhere", "milbench run")),
        ("leaderboard --format html", ("plugin-unknown", "'html'", "markdown")),
        ("leaderboard labels.csv", ("results-missing", "labels.csv")),
        ("leaderboard cohort.cache", ("results-missing", "cohort.cache")),
        ("compare mean max --results nowhere", ("results-missing", "nowhere")),
        ("cache info nowhere", ("cache-missing", "nowhere", "milbench cache build")),
        ("cache info clam", ("cache-missing", "clam", "cache.toml")),
        ("cache verify labels.csv", ("cache-missing", "labels.csv")),
        ("cache build --from nowhere --out c", ("file-missing", "nowhere")),
        ("cache build --from labels.csv --out c", ("format-mismatch", "labels.csv")),
        ("cache build --from cohort.cache --out c", ("format-mismatch", "cohort.cache", "index.parquet")),
        ("cache build --from clam --out cohort.cache", ("already-exists", "cohort.cache")),
        ("cache build --from clam --out labels.csv/c", ("not-writable", "labels.csv")),
        ("cache build --from clam --out c --format clan", ("format-unknown", "'clan'", "'clam'")),
        ("cache build --from clam --out c --format trident", ("format-mismatch", "clam", "trident")),
        ("cache build --from clam --out c --dtype float61", ("cache-bad-request", "'float61'", "'float16'")),
        ("cache build --from clam --out c --order zigzag", ("cache-bad-request", "'zigzag'", "source", "raster")),
        ("cache build --from clam --out c --order raster --no-coords", ("cache-bad-request", "raster")),
    ],
)
def test_words(words, refusal, here, cli, monkeypatch):
    refused_command(cli, here, monkeypatch, words, *refusal)


@pytest.mark.parametrize(
    ("words", "pattern"),
    [
        ("rum", r"No such command 'rum'"),
        ("run", r"Missing argument 'SUITE'"),
        ("run my.toml --seeds 0", r"Invalid value for '--seeds'"),
        ("run my.toml --overwrite some", r"'some' is not one of"),
        ("run my.toml --fast", r"No such option: --fast"),
        ("list methods", r"'methods' is not one of"),
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


def truncated_h5(here):
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
    (nan_row, ("features-not-finite", ".h5", "row 2")),
    (infinite_row, ("features-not-finite", ".h5", "row 2")),
    (other_width, ("features-disagree", ".h5", "65-d", "64-d")),
    (one_dimension, ("features-bad-array", ".h5", "(rows, dim)", "(64,)")),
    (no_features_key, ("features-missing", ".h5", "'counts'", "'features'")),
    (text_features, ("features-bad-array", ".h5", "'features'", "|S1")),
    (too_large_for_half, ("features-not-finite", ".h5", "float16", "bfloat16", "float32")),
    (coordinates_missing, ("features-disagree", ".h5", "--no-coords")),
    (coordinates_short, ("coords-bad", ".h5", "4", "3")),
    (truncated_h5, ("file-damaged", ".h5")),
    (empty_h5, ("file-damaged", ".h5")),
    (garbage_h5, ("file-damaged", ".h5")),
    (a_folder_named_h5, ("path-wrong-kind", ".h5")),
    (nothing_in_it, ("format-mismatch", "clam")),
]


@pytest.mark.parametrize(("spoil", "refusal"), FEATURES, ids=lambda v: getattr(v, "__name__", ""))
def test_features(spoil, refusal, here, cli, monkeypatch):
    spoil(here)
    shutil.rmtree(here / "clam" / "pt_files", ignore_errors=True)  # which hold the slides as they were
    refused_command(cli, here, monkeypatch, "cache build --from clam --out c", *refusal)


def test_slides_of_two_encoders(here, cli, monkeypatch):
    folder = here / "trident" / "20x_256px_0px_overlap" / "features_uni_v1"
    with h5py.File(first(folder), "a") as file:
        file["features"].attrs["encoder"] = "resnet50"
    refused_command(
        cli,
        here,
        monkeypatch,
        "cache build --from trident --out c",
        "features-disagree",
        "encoder",
        "uni_v1",
        "resnet50",
    )


def test_two_runs_of_trident(here, cli, monkeypatch):
    folder = here / "trident" / "20x_256px_0px_overlap"
    shutil.copytree(folder / "features_uni_v1", folder / "features_resnet50")
    refused_command(
        cli,
        here,
        monkeypatch,
        "cache build --from trident --out c",
        "features-two-kinds",
        "trident",
        "2",
        "features_resnet50",
        "features_uni_v1",
    )


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
    refused_command(cli, here, monkeypatch, words, "file-unsafe")
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
        refused_command(cli, here, monkeypatch, "cache build --from clam --out c", "file-wrong-content", ".pt")
    torch.save(torch.ones(3, 64, dtype=torch.int64), path)
    refused_command(cli, here, monkeypatch, "cache build --from clam --out c", "features-bad-array", ".pt")
    path.write_bytes(path.read_bytes()[:-100])
    refused_command(cli, here, monkeypatch, "cache build --from clam --out c", "file-damaged", ".pt")


# --- caches ----------------------------------------------------------------------------------------------------------


def truncated_shard(here):
    path = here / "cohort.cache" / "shard-00000.safetensors"
    path.write_bytes(path.read_bytes()[:-64])


def no_shard(here):
    (here / "cohort.cache" / "shard-00000.safetensors").unlink()


def no_index(here):
    (here / "cohort.cache" / "index.parquet").unlink()


def truncated_index(here):
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
    (truncated_shard, ("cache-damaged", "shard-00000.safetensors", "12256", "12320")),
    (no_shard, ("cache-damaged", "shard-00000.safetensors")),
    (no_index, ("cache-damaged", "index.parquet")),
    (truncated_index, ("cache-damaged", "index.parquet")),
    (no_toml, ("cache-missing", "cohort.cache", "cache.toml")),
    (bad_toml, ("cache-damaged", "cache.toml")),
    (newer_schema, ("schema-unknown", "cache.toml", "99")),
]


@pytest.mark.parametrize("words", ["run my.toml", "status my.toml", "cache info cohort.cache"])
@pytest.mark.parametrize(("spoil", "refusal"), CACHES, ids=lambda v: getattr(v, "__name__", ""))
def test_caches(spoil, refusal, words, here, cli, monkeypatch):
    spoil(here)
    refused_command(cli, here, monkeypatch, words, *refusal)


@pytest.mark.parametrize("spoil", [truncated_shard, no_shard, no_index, truncated_index, bad_toml, newer_schema])
def test_verify_reports_it_too(spoil, here, cli, monkeypatch):
    """Verify lists damaged files on stdout, and ends in one sentence on stderr."""
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
    ("changes", "refusal"),
    [
        ({"bag_label": None}, ("features-missing", "x.npz", "bag_label")),
        ({"bag_offsets": np.array([0, 30])}, ("file-wrong-content", "x.npz", "bag_offsets", "24")),
        ({"bag_label": np.zeros(5)}, ("file-wrong-content", "x.npz", "bag_label", "12", "(5,)")),
        ({"bag_label": np.zeros(12)}, ("classes-bad", "x.npz", "1")),
        ({"bag_name": np.array(["b"] * 12)}, ("slide-twice", "x.npz", "bag_name", "'b'")),
        ({"folds": np.zeros((2, 3), int)}, ("file-wrong-content", "x.npz", "folds", "(2, 3)")),
        ({"folds": np.zeros((1, 12), int)}, ("empty-part", "r0-f0", "train")),
        ({"features": np.full((24, 4), np.nan)}, ("features-not-finite", "x.npz", "row 0")),
        (
            {"features": np.repeat(np.arange(12) % 2, 2)[:, None].astype(float)},
            ("features-hold-label", "x.npz", "column 0"),
        ),
    ],
)  # fmt: skip
def test_packed_files(changes, refusal, here, cli, monkeypatch):
    packed(here, **changes)
    if "folds" in changes:  # the published ones, not one's own
        change(here, "folds = 2", "val_fraction = 0.0")
    refused_command(cli, here, monkeypatch, "run my.toml", *refusal)


def test_packed_file_that_is_none(here, cli, monkeypatch):
    packed(here)
    (here / "x.npz").write_bytes(b"not a zip file")
    refused_command(cli, here, monkeypatch, "run my.toml", "file-damaged", "x.npz")
    with zipfile.ZipFile(here / "x.npz", "w") as file:
        file.writestr("features.npy", b"\x93NUMPY")
    refused_command(cli, here, monkeypatch, "run my.toml", "file-damaged", "x.npz")


# --- places to write to ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "refusal"),
    [
        ("run my.toml --results labels.csv", ("path-wrong-kind", "labels.csv", "--results")),
        ("run my.toml --results labels.csv/below", ("path-wrong-kind", "labels.csv", "--results")),
        ("run my.toml --results r --report labels.csv", ("path-wrong-kind", "labels.csv", "--report")),
        ("run my.toml --results r --report labels.csv/a/b", ("path-wrong-kind", "labels.csv", "--report")),
    ],
)
def test_results_that_cannot_be_written(words, refusal, here, cli, monkeypatch):
    refused_command(cli, here, monkeypatch, words, *refusal)


@pytest.mark.parametrize("words", ["run my.toml --results locked/r", "cache build --from clam --out locked/c"])
def test_a_folder_that_is_read_only(words, here, cli, monkeypatch):
    (here / "locked").mkdir()
    (here / "locked").chmod(0o500)
    if os.access(here / "locked", os.W_OK):
        pytest.skip("this user (root, likely) may write everywhere")
    try:
        refused_command(cli, here, monkeypatch, words, "not-writable", "locked")
    finally:
        (here / "locked").chmod(0o700)


def test_an_operating_system_error_is_a_sentence_too(here, cli, monkeypatch):
    import milbench.runs.plan

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", "/some/file")

    monkeypatch.setattr(milbench.runs.plan, "make_plan", refuse)
    refused_command(cli, here, monkeypatch, "status my.toml", "system-refused", "/some/file")


def test_results_of_another_suite_of_the_same_name(here, cli, monkeypatch):
    monkeypatch.chdir(here)
    assert cli("run", "my.toml", "--results", "r").code == 0
    change(here, "epochs = 1", "epochs = 2")
    refused_command(
        cli, here, monkeypatch, "run my.toml --results r", "suite-changed", "my", "recipe", "r/my-v1", "--results"
    )


def test_hurt_results(here, cli, monkeypatch):
    monkeypatch.chdir(here)
    assert cli("run", "my.toml", "--results", "r").code == 0
    (run, _) = sorted((here / "r" / "my-v1" / "runs").iterdir())
    kept = (run / "predictions.parquet").read_bytes()
    (run / "predictions.parquet").write_bytes(kept[:50])
    refused_command(cli, here, monkeypatch, "leaderboard r", "file-changed", "predictions.parquet")
    (run / "predictions.parquet").write_bytes(kept)
    refused_command(cli, here, monkeypatch, "leaderboard r --suite mi", "results-unknown-name", "'mi'", "my")
    refused_command(cli, here, monkeypatch, "leaderboard r --data digts", "results-unknown-name", "'digts'", "'digits'")
    refused_command(cli, here, monkeypatch, "leaderboard r --out labels.csv", "path-wrong-kind", "labels.csv", "--out")
    refused_command(cli, here, monkeypatch, "compare mean max --results r", "results-unknown-name", "'max'", "mean")
    refused_command(cli, here, monkeypatch, "compare mean mean --results r", "option-conflict", "mean")
    (run / "run.json").write_text("{")
    refused_command(cli, here, monkeypatch, "leaderboard r", "file-unreadable", "run.json")
