"""``milbench measure`` from the command line to its files, on the smallest ladder there is."""

from __future__ import annotations

import getpass
import json
import re
import socket
import sys
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from support.ladder_methods import LADDER
from support.refusal import assert_refused
from support.small import ODD

from milbench.runs.scaling.table import COLUMNS

SMALL = ("--ladder", "8,16", "--dim", "8", "--threads", "1", "--rounds", "2", "--device", "cpu")


def test_a_ladder_from_end_to_end(cli, tmp_path):
    said = cli("measure", "-m", "mean", "-m", LADDER + "Quadratic", "--against", LADDER + "Quadratic", *SMALL,
               "--out", tmp_path / "perf")  # fmt: skip
    assert said.code == 0, said.err
    assert said.err == ""
    files = {path.suffix: path for path in (tmp_path / "perf").iterdir()}
    assert set(files) == {".csv", ".json", ".md", ".png"}
    assert len({path.stem for path in files.values()}) == 1
    assert files[".csv"].stem.endswith("-fp32")
    df = pd.read_csv(files[".csv"])
    assert list(df) == list(COLUMNS)
    assert list(zip(df["n"], df["mode"], df["method"], strict=True)) == [
        (n, mode, method) for n in (8, 16) for mode in ("infer", "train") for method in ("mean", LADDER + "Quadratic")
    ]
    assert (df["outcome"] == "ok").all()
    assert (df["iterations"] >= 10).all()
    squares = df[df["method"] != "mean"]
    infer = squares[squares["mode"] == "infer"]
    assert list(infer["flops"]) == [2 * n * n * 8 + 2 * 8 * 2 for n in infer["n"]]
    both = df[(df["n"] == 8) & (df["mode"] == "train")].set_index("method")["seconds_median"]
    mean = df[(df["n"] == 8) & (df["mode"] == "train") & (df["method"] == "mean")].iloc[0]
    assert mean["speedup_vs_against"] == pytest.approx(both[LADDER + "Quadratic"] / both["mean"])
    assert "[1/25] this machine, fp32: ok" in said.out
    assert "[25/25]" in said.out
    assert "Inference, fp32" in said.out
    assert "Training step, fp32" in said.out
    record = json.loads(files[".json"].read_text())
    assert record["command"].startswith("milbench measure -m mean")
    assert record["plan"]["lengths"] == [8, 16]
    for kind in (".json", ".md", ".csv"):
        text = files[kind].read_text()
        for private in (str(tmp_path), str(Path.cwd()), str(Path.home()) + "/", socket.gethostname(), sys.prefix):
            assert private not in text
        assert getpass.getuser() not in record["command"]


def test_what_did_not_fit_is_a_row_and_exit_code_2(cli, tmp_path):
    said = cli("measure", "-m", LADDER + "Takes", "-m", ODD + "Plain", "--ladder", "8,600", "--dim", "4", "--mode",
               "infer", "--threads", "1", "--rounds", "1", "--device", "cpu", "--memory", "256 MiB",
               "--out", "perf", "--name", "mine")  # fmt: skip
    assert said.code == 2
    assert "1 cells did not end ok:" in said.err
    assert f"oom: {LADDER}Takes infer fp32 n=600: time: " in said.err
    df = pd.read_csv(tmp_path / "perf" / "mine.csv")
    assert dict(zip(zip(df["method"].str[-5:], df["n"], strict=True), df["outcome"], strict=True)) == {
        ("Takes", 8): "ok", ("Plain", 8): "ok", ("Takes", 600): "oom", ("Plain", 600): "ok",
    }  # fmt: skip
    assert "oom" in (tmp_path / "perf" / "mine.md").read_text()


@pytest.mark.parametrize(
    ("words", "refusal"),
    [
        ("-m transmill", ("method-unknown", "'transmill'", "'transmil'")),
        ("--ladder 4q", ("option-bad-value", "'4q'")),
        ("--ladder 0", ("option-bad-value", "'0'")),
        ("--ladder=-4", ("option-bad-value", "'-4'")),
        ("--ladder 1k,,2k", ("option-bad-value", "''")),
        ("--dtype fp64", ("option-bad-value", "'fp64'", "fp32")),
        ("--dtype tf32 --device cpu", ("option-bad-value", "tf32", "CUDA")),
        ("--mode test", ("option-bad-value", "'test'", "infer,train")),
        ("--device gpu", ("option-bad-value", "'gpu'")),
        ("--memory lots", ("budget-bad-value", "'lots'")),
        ("--rounds 0", ("option-bad-value", "rounds", "0")),
        ("--iterations 0", ("option-bad-value", "iterations", "0")),
        ("--threads -1", ("option-bad-value", "threads", "-1")),
        ("--dim 0", ("option-bad-value", "dim", "0")),
        ("--classes 1", ("method-bad-option", "n_classes", "1")),
        ("--name a/b", ("option-bad-value", "--name a/b", "--out")),
        ("--out taken", ("path-wrong-kind", "taken", "--out")),
        ("--out taken/below", ("path-wrong-kind", "taken/below", "--out")),
        ("--reference here", ("option-conflict", "--reference", "--compare")),
        ("--compare nowhere.json", ("file-missing", "nowhere.json")),
        ("-m mean --against authors", ("option-bad-value", "mean", "--against authors", "transmil")),
        ("--against nobody", ("method-unknown", "'nobody'", "transmil")),
    ],
)
def test_bad_input_is_one_sentence_and_nothing_runs(cli, tmp_path, words, refusal):
    (tmp_path / "taken").write_text("")
    said = cli("measure", *words.split())
    assert said.code == 1
    assert len(said.err.splitlines()) == 1
    assert_refused(said.err, *refusal)
    assert re.search(r"[.?] \[[a-z0-9-]+\]$", said.err.strip())
    assert said.out == ""
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_the_authors_form_outside_a_checkout_is_a_sentence(cli, monkeypatch):
    checkout = Path(__file__).parents[2]
    monkeypatch.setattr(sys, "path", [p for p in sys.path if Path(p or ".").resolve() != checkout])
    for name in [name for name in sys.modules if name == "tests" or name.startswith("tests.")]:
        monkeypatch.delitem(sys.modules, name)
    said = cli("measure", "-m", "transmil", "--against", "authors")
    assert said.code == 1
    assert_refused(said.err, "option-bad-value", "nystrom-attention")
    assert len(said.err.splitlines()) == 1


@pytest.mark.parametrize("code", [0, 3])
def test_comparing_prints_lines_and_ends_with_the_reports_code(cli, monkeypatch, code):
    requested = []
    report = SimpleNamespace(lines=["one", "two"], exit_code=code)
    monkeypatch.setattr(
        "milbench.measure.perf_regression.compare_file", lambda *paths: requested.append(paths) or report
    )
    said = cli("measure", "--compare", "new.json", "--reference", "old")
    assert (said.code, said.out, said.err) == (code, "one\ntwo\n", "")
    assert cli("measure", "--judge", "new.json").code == code, "the former name"
    assert requested == [(Path("new.json"), Path("old")), (Path("new.json"),)]


def test_several_dtypes_are_checked_before_the_first_is_run(cli):
    said = cli("measure", "-m", "mean", "--dtype", "fp32,bf17", *SMALL)
    assert said.code == 1
    assert_refused(said.err, "option-bad-value", "'bf17'")
    assert said.out == ""


@pytest.mark.cuda
def test_cuda_columns(cli, tmp_path):
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    said = cli("measure", "-m", "abmil", "-m", "transmil", "--ladder", "64,4k", "--dim", "64", "--device", "cuda",
               "--dtype", "tf32,bf16", "--out", "perf", "--name", "gpu")  # fmt: skip
    assert said.code == 0, said.err
    for dtype in ("tf32", "bf16"):
        df = pd.read_csv(tmp_path / "perf" / f"gpu-{dtype}.csv")
        assert (df["outcome"] == "ok").all()
        assert (df["reserved_bytes"] >= df["peak_memory_bytes"]).all()
        assert (df["iterations"] >= 10).all()
        assert df["device"].str.contains("nvidia").all()
