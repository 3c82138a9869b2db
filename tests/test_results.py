"""The committed tables say what the predictions behind them say, computed here by scikit-learn alone."""

import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import balanced_accuracy_score, log_loss, roc_auc_score

from milbench.config.suites import load_suite
from milbench.runs.records import read_suite
from results.archive_runs import archive

RESULTS = Path(__file__).resolve().parents[1] / "results"
ARCHIVES = sorted(RESULTS.glob("*/runs.tar.xz"))


def unpacked(packed, folder):
    with tarfile.open(packed) as tar:
        safely = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
        tar.extractall(folder, **safely)
    (suite,) = folder.iterdir()
    return suite


def test_archives_are_there():
    kept = {file.parent.name for file in ARCHIVES}
    assert kept >= {"arrangement-dial", "ablation-depth", "ablation-order", "ablation-ppeg"}


@pytest.mark.parametrize("packed", ARCHIVES, ids=lambda file: file.parent.name)
def test_an_archive_is_of_the_suite_as_it_is(packed, tmp_path):
    suite = unpacked(packed, tmp_path)
    then, now = read_suite(suite), load_suite(packed.parent.name)  # what has been added since has its default
    assert then.model_dump() == now.model_dump()
    runs = [json.loads(file.read_text("utf-8")) for file in suite.glob("runs/*/run.json")]
    assert len(runs) == len(now.methods) * now.seeds * len(now.data), "one fold a cohort"
    assert {run["spec"]["seed"] for run in runs} == set(range(now.seeds))


@pytest.mark.parametrize("packed", ARCHIVES, ids=lambda file: file.parent.name)
def test_a_committed_table_is_that_of_its_predictions(packed, tmp_path):
    suite = unpacked(packed, tmp_path)
    scores = {}
    for file in sorted(suite.glob("runs/*/run.json")):
        record = json.loads(file.read_text("utf-8"))
        if record["outcome"] != "ok":
            continue
        spec = record["spec"]
        (labels,) = suite.glob(f"cohorts/{spec['data']}-{spec['fingerprint']}/labels.csv")
        known = pd.read_csv(labels, dtype=str).set_index("slide_id")["label"].astype(int)
        predicted = pd.read_parquet(file.with_name("predictions.parquet")).query("split == 'test'")
        y, p = known.loc[predicted["slide_id"]].to_numpy(), predicted[["p0", "p1"]].to_numpy()
        scores.setdefault((spec["data"], record["method_canonical"]), []).append(
            (roc_auc_score(y, p[:, 1]), balanced_accuracy_score(y, p[:, 1] >= 0.5), log_loss(y, p))
        )
    table = pd.read_csv(packed.parent / "leaderboard.csv").set_index(["data", "method"])
    assert set(table.index[table["runs_ok"] > 0]) == set(scores)
    for row, own in scores.items():
        stated = table.loc[row]
        assert len(own) == stated["runs_ok"], row
        assert stated["folds"] == 1, "with more folds a test slide's predictions are pooled; this test knows one fold"
        actual = np.mean(own, axis=0)
        assert stated[["auc", "balanced_accuracy", "log_loss"]].to_numpy(float) == pytest.approx(actual, abs=1e-9), row


def test_an_archive_is_the_same_bytes_and_leaves_out_what_is_unfinished(tmp_path):
    for at, stamp in (("a", 1), ("b", 10**9)):
        folder = tmp_path / at / "mine-v1"
        for name in ("runs/r/run.json", "costs/c/cost.json", "tuning/journal.log", "runs/.tmp-1-host-0-r/run.json"):
            file = folder / name
            file.parent.mkdir(parents=True)
            file.write_text("{}")
        (folder / "suite.json").write_text('{"data": [{"name": "mine", "dataset": "arrangement"}]}')
        os.utime(folder / "suite.json", (stamp, stamp))
    first, second = (archive(tmp_path / at / "mine-v1", tmp_path / f"out-{at}") for at in "ab")
    assert first.read_bytes() == second.read_bytes()
    with tarfile.open(first) as tar:
        assert tar.getnames() == ["mine-v1/costs/c/cost.json", "mine-v1/runs/r/run.json", "mine-v1/suite.json"]


def test_labels_of_others_are_not_passed_on(tmp_path):
    (tmp_path / "suite.json").write_text('{"data": [{"name": "theirs", "dataset": null, "cache": "musk1.npz"}]}')
    with pytest.raises(SystemExit, match="theirs"):
        archive(tmp_path, tmp_path / "out")
