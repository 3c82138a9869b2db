"""A launcher of a package outside the tree executes the runs of a suite, to the same predictions."""

import json

import numpy as np
import pandas as pd
from support.outside_package import ENTRY_POINTS, install, milbench

SUITE = """
name = "launched"
methods = ["outside_teacher"]
device = "cpu"
cost = false
seeds = 2
[recipe]
epochs = 2
[[data]]
name = "blobs"
dataset = "outside-blobs"
"""


def test_the_command_line_launches_runs_by_the_packages_launcher(tmp_path):
    site = install(tmp_path, ENTRY_POINTS | {"milbench.launchers": {"outside-serial": "outside.serial:SerialLauncher"}})
    (tmp_path / "launched.toml").write_text(SUITE)
    tables = {}
    for launcher in ("outside-serial", "local"):
        done = milbench(tmp_path, site, "run", "launched.toml", "--results", launcher, "--launcher", launcher)
        assert done.returncode == 0, done.stderr
        folders = sorted((tmp_path / launcher / "launched-v1" / "runs").iterdir())
        tables[launcher] = {folder.name: pd.read_parquet(folder / "predictions.parquet") for folder in folders}
    log = [json.loads(line) for line in (tmp_path / "launched.jsonl").read_text().splitlines()]
    assert [outcome for _, outcome in log] == ["ok", "ok"]
    assert set(tables["local"]) == set(tables["outside-serial"])
    for run, table in tables["local"].items():
        np.testing.assert_array_equal(table["p1"], tables["outside-serial"][run]["p1"])
