"""Frozen values, and the identity of a run."""

import json
import subprocess
import sys

import pytest
from pydantic import ValidationError

from milbench.config import (
    Budget,
    Card,
    Choice,
    DataSpec,
    Protocol,
    Recipe,
    RunSpec,
    SplitSpec,
    Suite,
    Tuned,
    digest,
)

RUN = RunSpec(
    suite="quickstart", suite_version=1, data="digits", fingerprint="00ff", method="transmil",
    params={"ppeg": "none", "layers": 1}, recipe=Recipe(), protocol=Protocol(), budget=Budget(), fold="0", seed=0,
    threads=1, device_type="cpu",
)  # fmt: skip

SUITE = Suite(name="s", methods=("mean",), data=(DataSpec(name="d", dataset="digits"),))


def test_values_do_not_change():
    with pytest.raises(ValidationError):
        RUN.seed = 1
    with pytest.raises(ValidationError):
        Recipe().lr = 1.0


@pytest.mark.parametrize("kind", [Recipe, Budget, Protocol, SplitSpec])
def test_unknown_fields_are_refused(kind):
    with pytest.raises(ValidationError, match="learning_rate"):
        kind(learning_rate=1.0)


@pytest.mark.parametrize("wrong", [
    {"lr": 0}, {"lr": -1}, {"weight_decay": -1}, {"momentum": 1.0}, {"epochs": 0}, {"batch_size": 0}, {"accumulate": 0},
    {"patience": 0}, {"grad_clip": 0}, {"optimizer": "newton"}, {"schedule": "triangle"}, {"precision": "fp8"},
])  # fmt: skip
def test_recipes_that_cannot_train_are_refused(wrong):
    with pytest.raises(ValidationError):
        Recipe(**wrong)


def test_run_id_is_the_same_for_the_same_run():
    assert len(RUN.run_id) == 16
    int(RUN.run_id, 16)
    again = RunSpec.model_validate_json(RUN.model_dump_json())
    assert again.run_id == RUN.run_id
    reordered = dict(reversed(RUN.model_dump().items()))
    reordered["params"] = {"layers": 1, "ppeg": "none"}
    assert RunSpec(**reordered).run_id == RUN.run_id


def test_run_id_is_the_same_in_another_process():
    load = f"RunSpec.model_validate_json({RUN.model_dump_json()!r})"
    code = f"from milbench.config import RunSpec; print({load}.run_id)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == RUN.run_id


#: Another value for every field of a run. A field that is added must be added here, or the next test fails.
OTHER = {
    "suite": "other", "suite_version": 2, "data": "other", "fingerprint": "00fe", "method": "mean", "params": {},
    "code": "00ff",
    "recipe": Recipe(lr=2e-4), "protocol": Protocol(checkpoint="last"), "budget": Budget(steps=60), "fold": "1",
    "tuning": Tuned(trials=5),
    "seed": 1, "threads": 2, "stacked": True, "device_type": "cuda", "protocol_version": 999, "task": "survival",
}  # fmt: skip


def test_every_field_of_a_run_is_part_of_its_id():
    assert set(OTHER) == set(RunSpec.model_fields)
    ids = {RUN.model_copy(update={name: value}).run_id for name, value in OTHER.items()}
    assert len(ids | {RUN.run_id}) == len(OTHER) + 1


def test_a_timeout_is_no_part_of_a_runs_id_and_its_old_id_is_known():
    run = RUN.model_copy(update={"budget": Budget(timeout_s=60)})
    assert run.run_id == RUN.run_id
    before = digest(run.identity())  # as versions before this rule computed it
    assert before != run.run_id
    assert run.stored_ids == (run.run_id, before)
    assert RUN.stored_ids == (RUN.run_id,)


@pytest.mark.parametrize("kind", [Recipe, Budget, Protocol])
def test_every_field_below_is_part_of_it_too(kind):
    """Nothing of a recipe, a budget or a protocol is left out of the canonical form."""
    assert set(kind().model_dump(mode="json")) == set(kind.model_fields)


def test_digest_is_of_the_value_not_of_its_spelling():
    assert digest({"a": 1, "b": [1, 2]}) == digest({"b": [1, 2], "a": 1}) == "8baa73198470c7bb"
    assert digest({"a": 1, "b": [2, 1]}) != digest({"a": 1, "b": [1, 2]})
    assert digest("ä") == digest(json.loads(json.dumps("ä")))
    with pytest.raises(ValueError, match="JSON"):
        digest(float("nan"))


def test_suites_need_methods_and_cohorts_with_names_of_their_own():
    with pytest.raises(ValidationError, match="at least one method"):
        Suite(name="s", methods=(), data=SUITE.data)
    with pytest.raises(ValidationError, match=r"\[\[data\]\]"):
        Suite(name="s", methods=("mean",), data=())
    with pytest.raises(ValidationError, match="name of its own"):
        Suite(name="s", methods=("mean",), data=SUITE.data * 2)


def test_a_cohort_has_one_source():
    with pytest.raises(ValidationError, match="either dataset"):
        DataSpec(name="d")
    with pytest.raises(ValidationError, match="either dataset"):
        DataSpec(name="d", dataset="digits", cache="here", labels="l.csv")
    with pytest.raises(ValidationError, match="either dataset"):
        DataSpec(name="d", dataset="digits", features="clam")
    with pytest.raises(ValidationError, match="dtype says how features are imported"):
        DataSpec(name="d", cache="here", dtype="float32")
    again = DataSpec(name="d", features="clam", dtype="float32", labels="l.csv")
    assert DataSpec.model_validate(again.model_dump()) == again
    assert DataSpec(name="d", cache="bags.npz").labels is None


def test_where_a_suite_lies_is_not_part_of_what_it_is(tmp_path):
    assert SUITE.model_copy(update={"base": tmp_path}).model_dump(mode="json") == SUITE.model_dump(mode="json")
    assert "base" not in SUITE.model_dump()


def test_cards_file_a_method_under_a_known_family():
    assert Card(title="t", family="iid", citation="c").deviations == ()
    with pytest.raises(ValidationError):
        Card(title="t", family="fancy", citation="c")


def test_choices_keep_their_order_and_types():
    assert Choice(options=(None, 1, "x")).options == (None, 1, "x")


def test_specs_import_no_torch():
    run = subprocess.run([sys.executable, "-c", "import sys, milbench.config; print('torch' in sys.modules)"],
                         capture_output=True, text=True, check=True)  # fmt: skip
    assert run.stdout.strip() == "False"


@pytest.mark.parametrize("split", [
    {"repeats": 100_000_000}, {"repeats": 5000, "folds": 5}, {"folds": 10**9},
    {"scheme": "monte-carlo", "repeats": 100_000_000}, {"scheme": "site-preserved", "folds": 10**9},
])  # fmt: skip
def test_more_folds_than_anyone_waits_for_are_refused(split):
    with pytest.raises(ValidationError, match="folds"):
        SplitSpec(**split)
    assert SplitSpec(repeats=100, folds=10).repeats == 100
    assert SplitSpec(scheme="monte-carlo", repeats=10_000).repeats == 10_000
