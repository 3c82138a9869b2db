"""A small campaign of kills; `python -m support.kill_campaign` in tests/ makes large ones."""

import random
import sys

import pytest

pytest.importorskip("optuna", reason="the campaign tunes")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="kills, small disks and limits of running processes")


@pytest.mark.slow(covered_by="runs/test_resume.py::test_kill_and_resume")
def test_a_suite_that_is_killed_ends_as_one_left_in_peace(tmp_path):
    from support.kill_campaign import KINDS, SUITE, campaign

    # Costs have a test of their own, see test_resume.py.
    small = "cost = false\n" + SUITE.replace("seeds = 2", "seeds = 1").replace("trials = 3", "trials = 2")
    made = campaign(tmp_path, len(KINDS), seed=0, suite=small, within_s=1.0)
    assert not made.problems
    assert sum(made.counts[kind] for kind in KINDS) == len(KINDS)
    assert made.counts["compared"] > 0


@pytest.mark.parametrize("change", [{"run a": ("failed", "SIGKILL")}, {"run a": None}, {"run b": ("ok", "")}])
def test_a_difference_is_reported(tmp_path, monkeypatch, change):
    from support.kill_campaign import Campaign

    made, due = Campaign(tmp_path, random.Random(0)), {"run a": ("ok", "")}
    monkeypatch.setattr(made, "state", lambda _: due)
    made.compare(tmp_path, due, 0)
    assert not made.problems
    actual = {key: value for key, value in {**due, **change}.items() if value is not None}
    monkeypatch.setattr(made, "state", lambda _: actual)
    made.compare(tmp_path, due, 0)
    assert len(made.problems) == 1
    monkeypatch.setattr(made, "state", lambda _: due)
    (tmp_path / ".left").touch()
    made.compare(tmp_path, due, 0)
    assert len(made.problems) == 2
