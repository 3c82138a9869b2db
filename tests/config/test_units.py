"""Quantities as people write them: every unit, and every way of getting them wrong."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.refusal import refused

from milbench.config import Budget
from milbench.config.units import UNITS, parse_budget, parse_bytes, parse_quantity, show_quantity


@pytest.mark.parametrize(
    ("text", "due"),
    [
        ("8 GiB", 8 << 30),
        ("512MiB", 512 << 20),
        ("1.5 gib", 3 << 29),
        ("2 GB", 2 * 10**9),
        ("4096", 4096),
        ("8G", 8 << 30),
    ],
)
def test_bytes(text, due):
    assert parse_bytes(text) == due


@pytest.mark.parametrize("text", ["", "GiB", "8 gibbons", "0 GiB", "-1 GiB", "1e400 GiB", "8 min"])
def test_bytes_that_are_none(text):
    with refused("budget-bad-value"):
        parse_bytes(text)


def test_the_unit_tells_what_is_meant():
    assert parse_budget(["10 min", "8 GiB", "20 trials", "timeout=1 h"]) == {
        "device_seconds": 600, "memory_bytes": 8 << 30, "trials": 20, "timeout_s": 3600,
    }  # fmt: skip
    assert parse_budget(["2e15 flop"]) == {"flops": 2 * 10**15} == parse_budget(["2 Pflop"])
    assert parse_budget(["5,000 steps"]) == {"steps": 5000} == parse_budget(["steps=5000"])
    assert parse_budget(["device-seconds=90"]) == {"device_seconds": 90} == parse_budget(["1.5 min"])


@pytest.mark.parametrize(
    ("texts", "refusal"),
    [
        (["10"], ("budget-bad-value",)),
        (["10 m"], ("budget-bad-value",)),
        (["1,5 s"], ("budget-bad-value",)),
        (["2.7 steps"], ("budget-bad-value",)),
        (["10 parsec"], ("budget-bad-value",)),
        (["patience=3"], ("budget-bad-value",)),
        (["10 min", "20 min"], ("budget-bad-value", "device_seconds")),
        (["steps=many"], ("budget-bad-value",)),
        (["0 steps"], ("budget-bad-value",)),
        (["0.5 trials"], ("budget-bad-value",)),
    ],
)
def test_budgets_that_are_none(texts, refusal):
    with refused(*refusal):
        parse_budget(texts)


@given(st.sampled_from(sorted(UNITS)), st.integers(1, 10**6))
def test_what_is_shown_can_be_read_again(field, number):
    shown = show_quantity(field, number)
    assert parse_quantity(field, shown) == pytest.approx(number, rel=1e-3)


def test_a_budget_reads_units_and_other_spellings():
    budget = Budget.model_validate({"device-seconds": "10 min", "memory": "8 GiB", "timeout": "1 h", "trials": 20})
    assert (budget.device_seconds, budget.memory_bytes, budget.timeout_s, budget.trials) == (600, 8 << 30, 3600, 20)
    assert budget.track == "device_seconds"
    assert str(budget) == "device-seconds: 10 min, memory: 8 GiB, timeout: 1 h"
    assert str(Budget()) == "length: each recipe's epochs, memory: unlimited, timeout: unlimited"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"steps": 5, "flops": "2e9 flop"}, "one length"),
        ({"memory": "8 GiB", "memory_bytes": 5}, "given twice"),
        ({"memory": "lots"}, "no amount of memory"),
        ({"steps": True}, "no number of steps"),
        ({"on_oom": "subsample"}, "go together"),
        ({"max_instances": 5}, "go together"),
    ],
)
def test_a_budget_that_contradicts_itself(fields, message):
    with pytest.raises(ValueError, match=message):
        Budget.model_validate(fields)
