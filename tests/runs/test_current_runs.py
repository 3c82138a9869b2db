"""Tables show the runs of the last request: labels, code and recipes that are changed, run, and changed back."""

import os
from datetime import UTC, datetime, timedelta

import pandas as pd
import pytest
from support import synthetic as made
from support.refusal import refused

from milbench.evaluation.runs_table import read_cohorts
from milbench.runs import current_runs

PREDICTIONS = pd.DataFrame({"slide_id": ["a", "b"], "split": ["val", "test"], "p0": [0.1, 1 / 3], "p1": [0.9, 2 / 3]})


@pytest.fixture
def store(tmp_path):
    store = made.Store(tmp_path / "runs", made.suite(data=("easy",)))
    store.prepare()
    return store


def publish(store, when, seed=0, method="abmil", outcome="ok", **changes):
    spec = made.run_spec(store.suite, "easy", method, "f0", seed).model_copy(update=changes)
    record = made.record(spec, method, outcome) | {"asked": when}
    store.publish_run(spec.run_id, record, PREDICTIONS if outcome == "ok" else None)
    return spec.run_id


def shown(store):
    """The ids of the runs that the tables show."""
    return {
        run.spec.run_id for table in read_cohorts(store.root) for runs in table.runs.values() for run in runs.values()
    }


def marks(store):
    return {record.spec.run_id: current_runs.age(record)[0] for record in store.records()}


NEW = "2026-03-01T00:00:00.000+00:00"
CHANGES = {"labels": {"fingerprint": "other"}, "protocol": {"protocol_version": 99}, "code": {"code": "edited"}}


@pytest.mark.parametrize("changes", [*CHANGES.values(), {"recipe": None}], ids=[*CHANGES, "recipe"])
@pytest.mark.parametrize("later", ["2026-02-01T00:00:00.000+00:00", "2026-01-01T00:00:00.000+00:00"])
def test_runs_that_are_requested_again_are_shown(store, changes, later):
    if "recipe" in changes:
        spec = made.run_spec(store.suite, "easy", "abmil", "f0", 0)
        changes = {"recipe": spec.recipe.model_copy(update={"lr": 0.5})}
    first = [publish(store, "2026-01-01T00:00:00.000+00:00", seed) for seed in range(4)]
    other = [publish(store, later, seed, **changes) for seed in range(4)]
    current_runs.mark_requested(store, first, NEW)
    assert shown(store) == set(first)
    current_runs.mark_requested(store, other, "2026-04-01T00:00:00.000+00:00")
    assert shown(store) == set(other)
    before = marks(store)
    current_runs.mark_requested(store, other, "2026-05-01T00:00:00.000+00:00")
    assert marks(store) == before  # they are shown already
    assert not list(store.root.rglob(".*"))


@pytest.mark.parametrize("changes", CHANGES.values(), ids=CHANGES)
def test_a_part_that_came_since_is_left_out(store, changes):
    """The edited code was stopped after its second seed: the first seed's run has no rival at its own place."""
    first = publish(store, "2026-01-01T00:00:00.000+00:00", 0)
    publish(store, "2026-02-01T00:00:00.000+00:00", 1, **changes)
    current_runs.mark_requested(store, [first], NEW)
    assert shown(store) == {first}


def test_company_is_left_alone(store):
    """Other methods, and more seeds than are requested, stay where they were, and stay shown."""
    ours = publish(store, "2026-01-01T00:00:00.000+00:00", 0)
    company = [publish(store, "2026-02-01T00:00:00.000+00:00", 1), publish(store, NEW, 0, "mean")]
    before = marks(store)
    current_runs.mark_requested(store, [ours], "2026-05-01T00:00:00.000+00:00")
    assert marks(store) == before
    assert shown(store) == {ours, *company}


def test_a_stamp_is_later_than_every_mark(store):
    assert abs(datetime.fromisoformat(current_runs.stamp(store)) - datetime.now(UTC)) < timedelta(minutes=1)
    for ahead in ("2199-01-01T00:00:00+00:00", "2199-01-01T00:00:00.999+00:00", "2199-01-02T00:00:00"):
        publish(store, ahead, len(store.records()))
        assert current_runs.stamp(store)[:10] == ahead[:10]
    assert current_runs.stamp(store) == "2199-01-02T00:00:00.001+00:00"
    for ahead in ("2199-01-03T00:00:00Z", "2199-01-03T01:00:00.5+01:00"):
        publish(store, ahead, len(store.records()))
    assert current_runs.stamp(store) == "2199-01-03T00:00:00.501+00:00"
    publish(store, "yesterday", len(store.records()))
    assert current_runs.stamp(store) == "2199-01-03T00:00:00.501+00:00"


def test_a_run_that_ends_late_does_not_replace_one_that_was_requested_since(store):
    slow = made.run_spec(store.suite, "easy", "abmil", "f0", 0).model_copy(update={"fingerprint": "other"})
    since = publish(store, "2026-02-01T00:00:00.000+00:00", 0)
    record = made.record(slow, "abmil") | {"asked": "2026-01-01T00:00:00.000+00:00", "finished": NEW}
    store.publish_run(slow.run_id, record, PREDICTIONS)
    assert shown(store) == {since}


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_store_that_cannot_be_written(store):
    first = publish(store, "2026-01-01T00:00:00.000+00:00")
    publish(store, NEW, fingerprint="other")
    (store.runs / first).chmod(0o500)
    with refused("not-writable", store.runs / first / "run.json"):
        current_runs.mark_requested(store, [first], NEW)


def test_a_disk_that_refuses(store, monkeypatch):
    first = publish(store, "2026-01-01T00:00:00.000+00:00")
    publish(store, NEW, fingerprint="other")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("milbench.runs.store._write", full)
    with refused("not-writable", store.runs / first / "run.json", "No space left on device"):
        current_runs.mark_requested(store, [first], NEW)
    assert not list(store.root.rglob(".*"))
