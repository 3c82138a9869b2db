"""The classical protocol against a loop of plain PyTorch that shares no line with it."""

import pytest
from support.plain_abmil import cross_validate
from support.shared import SHARED, needs_shared

from milbench.config import DataSpec
from milbench.config.suites import load_suite
from milbench.evaluation.leaderboard import leaderboard
from milbench.runs.execute import run

ABMIL = "abmil[embed_dim=256-128-64,dropout=0.5]"
# Of the protocol's 100 epochs at 5e-4: the test is of the protocol, not of the accuracy. A faster rate makes up for few
# epochs, and what differs in steps, momentum or decay shows most while the loss still falls.
EPOCHS, LR = 4, 2e-3


@pytest.mark.slow(covered_by="training/test_stacked.py::test_each_model_is_the_one_trained_alone")
@needs_shared
def test_abmil_on_musk1_agrees_with_a_plain_loop(tmp_path):
    """Other starts, orders and dropout: the means over 5 x 10 folds agree within the spread of the repetitions."""
    file = SHARED / "data/classic/musk1.npz"
    given = load_suite("classical")
    data = DataSpec(name="MUSK1", cache=str(file))
    small = given.model_copy(update={
        "methods": (ABMIL,), "data": (data,), "published": (), "device": "cpu",
        "recipes": {"abmil": given.recipes["abmil"] | {"epochs": EPOCHS, "lr": LR}},
    })  # fmt: skip
    records = run(small, tmp_path)
    assert len(records) == 50
    assert all(r.outcome == "ok" and r.spec.stacked for r in records)
    (row,) = leaderboard(tmp_path, resamples=50).itertuples()
    plain = cross_validate(file, EPOCHS, lr=LR)
    spread = max(row.accuracy_sd, float(plain.mean(axis=1).std(ddof=1)))
    assert abs(row.accuracy - plain.mean()) <= spread
    assert row.accuracy > 0.7, "both may agree on having learnt nothing"


@pytest.mark.parametrize(("data", "lr", "decay"), [
    ("MUSK1", 5e-4, 0.005), ("MUSK2", 5e-4, 0.03), ("FOX", 5e-4, 0.005), ("TIGER", 1e-4, 0.01),
    ("ELEPHANT", 1e-4, 0.005),
])  # fmt: skip
def test_the_authors_recipe_of_each_set(data, lr, decay):
    given = load_suite("classical")
    (spec,) = [d for d in given.data if d.name == data]
    recipe = given.recipes["abmil"] | spec.recipes.get("abmil", {})
    assert (recipe["lr"], recipe["weight_decay"]) == (lr, decay)
    assert (recipe["optimizer"], recipe["momentum"], recipe["epochs"], given.recipe["batch_size"]) == (
        "sgd",
        0.9,
        100,
        1,
    )


@pytest.mark.parametrize(
    ("suite", "oracle_suite"), [("classical", "classical-oracle"), ("colon-cancer", "colon-oracle")]
)
def test_the_oracle_keeps_the_same_trainings(suite, oracle_suite):
    """Only what is kept of a training differs, so that the difference is what choosing on test adds."""
    honest, oracle = load_suite(suite), load_suite(oracle_suite)
    assert oracle.protocol.checkpoint == "oracle"
    assert oracle.protocol.model_copy(update={"checkpoint": "last"}) == honest.protocol
    assert oracle.data == honest.data
    assert set(oracle.methods) <= set(honest.methods)
    assert oracle.recipe == honest.recipe
    assert oracle.recipes == {name: honest.recipes[name] for name in oracle.recipes}
