"""A package outside the tree adds every kind of part, by its entry points alone, and the command line uses them all."""

import csv
import io
import json

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file
from support.outside_package import ENTRY_POINTS, install, milbench

SUITE = """
name = "outside"
methods = ["outside_teacher[decay=0.8]", "mean"]
device = "cpu"
cost = false
keep_models = "best"
[protocol]
checkpoint = "last"
[recipe]
epochs = 3
[[data]]
name = "blobs"
dataset = "outside-blobs"
params = { bags = 12 }
[[data]]
name = "spools"
features = "spools"
format = "auto"
dtype = "float32"
labels = "labels.csv"
split = { scheme = "held-out", test_fraction = 0.4 }
"""
DOSE = """
name = "doses"
methods = ["mean", "abmil", "outside_teacher"]
device = "cpu"
cost = false
[recipe]
epochs = 2
[[data]]
name = "d"
features = "spools"
dtype = "float32"
labels = "doses.csv"
task = "dose"
split = { scheme = "held-out", test_fraction = 0.4 }
"""


def _spools(folder):
    rng, rows, doses = np.random.default_rng(1), [], []
    (folder / "spools").mkdir()
    for i in range(30):
        x = rng.normal(size=(4, 3)) + 2 * (i % 2)
        text = "\n".join(" ".join(f"{value:.6f}" for value in row) for row in x)
        (folder / "spools" / f"s{i:02}.spool").write_text(f"spool 1\n{text}\n")
        rows.append((f"s{i:02}", f"p{i:02}", "ab"[i % 2]))
        doses.append((f"s{i:02}", f"p{i:02}", f"{x[:, 1].mean():.4f}"))
    for name, table in (("labels.csv", rows), ("doses.csv", doses)):
        pd.DataFrame(table, columns=["slide_id", "patient_id", "label"]).to_csv(folder / name, index=False)


@pytest.fixture(scope="module")
def outside(tmp_path_factory):
    """The package, features in its format, and the suite that was run."""
    folder = tmp_path_factory.mktemp("outside")
    site = install(folder)
    _spools(folder)
    (folder / "outside.toml").write_text(SUITE)
    (folder / "doses.toml").write_text(DOSE)
    done = milbench(folder, site, "run", "outside.toml", "--results", "results", "--launcher", "outside-serial")
    assert done.returncode == 0, done.stderr
    return folder, site


def _runs(folder, suite="outside-v1"):
    records = [json.loads(file.read_text()) for file in (folder / "results" / suite / "runs").glob("*/run.json")]
    return {(r["spec"]["method"], r["spec"]["data"]): r for r in records}


def test_the_parts_are_listed_by_their_names(outside):
    folder, site = outside
    for what, group in (("aggregators", "milbench.aggregators"), ("datasets", "milbench.datasets"),
                        ("formats", "milbench.formats")):  # fmt: skip
        listed = milbench(folder, site, "list", what).stdout
        assert all(name in listed for name in ENTRY_POINTS[group]), listed


def test_every_part_was_used_by_the_run(outside):
    folder, _ = outside
    runs = _runs(folder)
    assert {key: r["outcome"] for key, r in runs.items()} == {
        (method, data): "ok" for method in ("outside_teacher", "mean") for data in ("blobs", "spools")
    }
    (cache,) = folder.glob("spools*.cache")
    assert "outside-spool" in (cache / "cache.toml").read_text()


def test_the_teacher_followed_every_step_and_is_no_copy_of_the_head(outside):
    folder, _ = outside
    for (method, data), record in _runs(folder).items():
        if method != "outside_teacher":
            continue
        state = load_file(next((folder / "results/outside-v1/runs").glob(f"{record['run_id']}/model.safetensors")))
        steps = record["train"]["steps"]
        (followed,) = (value for name, value in state.items() if name.endswith("followed"))
        assert int(followed) == steps > 0, data
        (teacher,) = (value for name, value in state.items() if name.endswith("teacher.weight"))
        (head,) = (value for name, value in state.items() if name.endswith("head.weight"))
        assert not np.allclose(teacher, head, atol=1e-4)
        assert np.linalg.norm(teacher - head) < np.linalg.norm(head)


def test_the_leaderboard_has_the_metric_and_ranks_the_method(outside):
    folder, site = outside
    shown = milbench(folder, site, "leaderboard", "results", "--format", "csv", "--resamples", "50")
    assert shown.returncode == 0, shown.stderr
    rows = list(csv.DictReader(io.StringIO(shown.stdout)))
    assert {row["method"] for row in rows} == {"outside_teacher[decay=0.8]", "mean"}
    for row in rows:
        assert float(row["agreement"]) == pytest.approx(100 * float(row["accuracy"]))


def test_the_launcher_executed_every_run_to_the_predictions_of_the_local_one(outside):
    folder, site = outside
    log = [json.loads(line) for line in (folder / "launched.jsonl").read_text().splitlines()]
    assert [outcome for _, outcome in log] == ["ok"] * 4
    done = milbench(folder, site, "run", "outside.toml", "--results", "local", "-m", "outside_teacher[decay=0.8]")
    assert done.returncode == 0, done.stderr
    made = list((folder / "local" / "outside-v1" / "runs").iterdir())
    assert len(made) == 2
    for run in made:
        theirs = pd.read_parquet(folder / "results" / "outside-v1" / "runs" / run.name / "predictions.parquet")
        pd.testing.assert_frame_equal(pd.read_parquet(run / "predictions.parquet"), theirs, check_exact=True)


def test_the_renderer_shows_the_leaderboard(outside):
    folder, site = outside
    shown = milbench(folder, site, "leaderboard", "results", "--suite", "outside", "--format", "outside-outline",
                     "--resamples", "20")  # fmt: skip
    assert shown.returncode == 0, shown.stderr
    first, *rest = shown.stdout.splitlines()
    assert first == "OUTLINE"
    assert any("blobs" in line for line in rest), rest


def test_without_the_package_its_names_are_unknown(outside, tmp_path):
    folder, _ = outside
    done = milbench(folder, tmp_path, "run", "outside.toml", "--results", "elsewhere")
    assert done.returncode == 1
    assert "outside" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_task_of_the_package_is_run_by_the_command_line(outside):
    """Stored by its own columns; the method with a loss of its own, for classes, is unsupported, with the reason."""
    folder, site = outside
    done = milbench(folder, site, "run", "doses.toml", "--results", "results")
    assert done.returncode == 2, done.stderr
    runs = _runs(folder, "doses-v1")
    assert {method: r["outcome"] for (method, _), r in runs.items()} == {
        "mean": "ok", "abmil": "ok", "outside_teacher": "unsupported",
    }  # fmt: skip
    run = runs["mean", "d"]
    table = pd.read_parquet(folder / "results/doses-v1/runs" / run["run_id"] / "predictions.parquet")
    assert list(table.columns) == ["slide_id", "split", "dose"]
    checked = milbench(folder, site, "verify", "results/doses-v1")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    refused = milbench(folder, site, "leaderboard", "results/doses-v1")
    assert refused.returncode == 1
    assert "task dose" in refused.stderr
