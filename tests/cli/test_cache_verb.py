"""milbench cache: what a user sees."""

from __future__ import annotations

import numpy as np
import pytest
from typer.testing import CliRunner

from milbench import FeatureCache, MilbenchError
from milbench.cli.cache_verb import app


@pytest.fixture
def packed(tmp_path):
    np.savez(tmp_path / "p.npz", features=np.ones((6, 4), np.float32) / 3, bag_offsets=np.array([0, 2, 6]),
             bag_label=np.array([0, 1]), bag_name=np.array(["a", "b"]))  # fmt: skip
    return tmp_path / "p.npz"


def test_short_work_is_quiet_and_long_work_tells(packed, tmp_path, monkeypatch):
    run = CliRunner()
    assert run.invoke(app, ["build", "--from", str(packed), "--out", str(tmp_path / "a")]).stderr == ""
    monkeypatch.setattr("milbench.cli._terminal.QUIET", 0.0)
    assert "reading 2/2 b" in run.invoke(app, ["build", "--from", str(packed), "--out", str(tmp_path / "b")]).stderr


def test_build_info_verify(packed, tmp_path):
    run = CliRunner()
    out = tmp_path / "c"
    built = run.invoke(app, ["build", "--from", str(packed), "--out", str(out)])
    assert built.exit_code == 0, built.output
    assert "kept 2 slides, 6 rows, dim 4, float16, without coordinates, source order" in built.stdout
    assert "largest rounding error" in built.stdout
    assert FeatureCache.open(out).ids == ("a", "b")
    info = run.invoke(app, ["info", str(out)])
    assert info.exit_code == 0
    assert "rows a slide  2 to 4, median 3" in info.stdout
    good = run.invoke(app, ["verify", str(out)])
    assert good.exit_code == 0
    assert "is as it was written: 2 slides" in good.stdout
    shard = out / "shard-00000.safetensors"
    raw = bytearray(shard.read_bytes())
    raw[-1] ^= 1
    shard.write_bytes(raw)
    hurt = run.invoke(app, ["verify", str(out)])
    assert hurt.exit_code == 1
    assert "slide 'b': its features or coordinates" in hurt.stdout


def test_mistakes_are_milbench_errors(packed, tmp_path):
    wrong = CliRunner().invoke(app, ["build", "--from", str(packed), "--out", str(tmp_path / "c"), "--order", "zigzag"])
    assert isinstance(wrong.exception, MilbenchError)
    assert "give source or raster" in str(wrong.exception)


@pytest.mark.parametrize("verb", ["build", "verify", "info"])
def test_every_verb_shows_an_example(verb):
    shown = CliRunner().invoke(app, [verb, "--help"])
    assert shown.exit_code == 0
    assert "Example: milbench cache" in shown.output
