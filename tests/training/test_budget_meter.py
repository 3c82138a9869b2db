"""Budgets of a training: where it stops, what it counts, how schedules lie over it, and what little memory does."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.refusal import refused
from support.small import opened, suite, task, write_cohort, write_labels

import milbench
from milbench.bags import Bags
from milbench.config import Budget, Protocol, Recipe
from milbench.data.cache.reader import CacheWriter
from milbench.errors import OutOfMemory
from milbench.evaluation.leaderboard import evaluate
from milbench.measure.flops import count_flops
from milbench.measure.timing import DeviceTimer
from milbench.report.renderers import render
from milbench.runs.execute import run
from milbench.training import loop
from milbench.training.budget_meter import BudgetMeter, FlopTable
from milbench.training.loop import train
from milbench.training.optimizers import learning_rate
from milbench.training.step import OptimizerStep, subsample_bags

CPU = torch.device("cpu")
METHODS = [
    "mean", "max", "max_instance", "abmil", "abmil[gated=true]", "abmil[embed_dim=64]", "dsmil", "clam_sb", "clam_mb",
    "transmil[dim=64,landmarks=16]",
]  # fmt: skip


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cohort")
    return folder, write_cohort(folder)


def budgeted(cohort, method="mean", protocol=None, max_instances=None, recipe=None, **budget):
    given = task(*cohort, method, protocol=protocol, **(recipe or {}))
    spec = given.spec.model_copy(update={"budget": Budget(**budget)})
    return replace(given, spec=spec, max_instances=max_instances)


def trained(cohort, *args, **more):
    return train(budgeted(cohort, *args, **more), opened(cohort[0]), CPU)


@pytest.mark.parametrize("steps", [1, 7, 8, 9, 100])
def test_steps_are_exact_whatever_an_epoch_is(cohort, steps):
    """8 bags, one a step: budgets below, at and above an epoch; the recipe's epochs and patience are set aside."""
    actual = trained(cohort, recipe={"epochs": 2, "patience": 1}, steps=steps)
    assert (actual.steps, actual.bags) == (steps, steps)
    assert actual.budget == {"track": "steps", "allowed": steps, "used": steps, "overshoot": 0, "last_step": 1}
    assert actual.history[-1]["steps"] == steps


@pytest.mark.parametrize(("steps", "evaluations"), [(100, 10), (10, 10), (25, 10), (4, 4)])
def test_every_method_is_evaluated_as_often(cohort, steps, evaluations):
    """Evenly over the budget, whatever an epoch is, and never twice without a step between."""
    actual = trained(cohort, protocol=Protocol(evaluations=10), steps=steps)
    at = [row["steps"] for row in actual.history]
    assert len(at) == evaluations
    assert at == [int(np.ceil(steps * k / evaluations)) for k in range(1, evaluations + 1)]


@pytest.mark.parametrize("method", METHODS)
def test_flops_stop_within_a_step_and_predictions_repeat_to_the_bit(cohort, method):
    one = FlopTable(method, 4, 2, on_host=True)
    lengths = dict(opened(cohort[0]).slides.set_index("slide_id")["rows"])
    longest = max(one.of(int(n)) for n in lengths.values())
    allowed = 20 * longest + 1
    first, second = (trained(cohort, method, flops=allowed) for _ in range(2))
    used = first.budget["used"]
    assert allowed <= used < allowed + longest
    assert first.budget["overshoot"] == used - allowed < first.budget["last_step"]
    assert first.history[-1]["flops"] == used == second.budget["used"]
    for a, b in zip(first.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("method", METHODS)
def test_flops_from_shapes_are_those_of_the_work(method):
    """What is counted on the meta device, against what the same step counts on CPU with values; the same to 1 %.

    Small differences are the device's own: tiles of a convolution's weight gradient, for instance.
    """
    meter = FlopTable(method, 32, 2)
    for n in (1, 5, 400):
        model = milbench.create(method, in_dim=32).train()
        bags = Bags.pack([torch.randn(n, 32)])
        counted = count_flops(lambda m=model, b=bags: m.loss(m(b), torch.tensor([1])).backward())
        assert meter.devices == ["meta"]
        assert meter.of(n) == pytest.approx(counted, rel=0.01), n


def test_counting_does_not_touch_the_generators():
    torch.manual_seed(0)
    due = torch.rand(3)
    torch.manual_seed(0)
    FlopTable("transmil[dim=64,landmarks=16]", 4, 2).of(30)
    assert torch.equal(torch.rand(3), due)


def test_a_method_that_reads_values_is_counted_on_the_host():
    meter = FlopTable("support.odd_methods:ReadsValues", 4, 2, on_host=True)
    assert meter.of(5) == 2 * (2 * 4 * 2)  # a head of 4 x 2, forward and its weights' gradient
    assert meter.devices == ["cpu"]
    assert FlopTable("support.odd_methods:ReadsValues", 4, 2).of(5) is None


class Clock:
    """A clock that a test turns."""

    def __init__(self):
        self.ns = 0

    def __call__(self):
        self.ns += 1_000_000_000
        return self.ns


def test_device_seconds_stop_within_a_step_and_leave_evaluation_out(cohort, monkeypatch):
    """Every step takes one second of this clock."""
    monkeypatch.setattr(loop, "DeviceTimer", lambda device: DeviceTimer(device, Clock()))
    actual = trained(cohort, device_seconds=10.5)
    assert actual.steps == 11
    assert actual.budget == {
        "track": "device_seconds",
        "allowed": 10.5,
        "used": 11.0,
        "overshoot": 0.5,
        "last_step": 1.0,
    }
    assert actual.device_seconds == 11.0


@pytest.mark.parametrize("method", METHODS)
def test_device_seconds_of_the_real_clock(cohort, method):
    actual = trained(cohort, method, device_seconds=0.05)
    assert 0.05 <= actual.budget["used"] <= 0.05 + actual.budget["last_step"]
    assert actual.budget["overshoot"] <= actual.budget["last_step"]


def test_a_timer_that_lags_is_waited_for_where_the_limit_may_be_near():
    """On CUDA blocks end later than they are queued: played here by events that this test ends."""

    class Event:
        def __init__(self, at, over):
            self.at, self.over = at, over

        def query(self):
            return self.over

        def synchronize(self):
            self.over = True

        def elapsed_time(self, other):
            return other.at - self.at

    timer = DeviceTimer(CPU)
    timer._events = [(Event(0, True), Event(10, True)), (Event(10, False), Event(20, False))]
    assert timer.seconds_by(1.0) == pytest.approx(0.020)  # 10 ms known, as much again assumed
    assert len(timer._events) == 1
    timer._events = [(Event(10, False), Event(45, False))]
    assert timer.seconds_by(0.019) == pytest.approx(0.045)  # it may be reached: exact
    assert not timer._events


def test_a_method_without_operations_has_no_budget_in_them(cohort):
    with refused("budget-bad-value", "operations", "steps"):
        trained(cohort, "support.odd_methods:Weightless", flops=100)


def test_schedules_lie_over_the_budget(cohort):
    """A cosine of 10 steps ends at 0 after 10 steps, whatever the recipe's epochs would have made of it."""
    recipe = {"schedule": "cosine", "lr": 0.1, "epochs": 1000}
    actual = trained(cohort, protocol=Protocol(evaluations=10), recipe=recipe, steps=10)
    due = [0.1 * 0.5 * (1 + np.cos(np.pi * k / 10)) for k in range(10)]
    assert [row["lr"] for row in actual.history] == pytest.approx(due)


def test_warm_up_rises_to_the_rate_and_the_cosine_takes_the_rest():
    recipe = Recipe(lr=1.0, schedule="cosine", warmup=0.2)
    assert learning_rate(recipe, 0.0) == pytest.approx(0.01)
    assert learning_rate(recipe, 0.1) == pytest.approx(0.51)
    assert learning_rate(recipe, 0.2) == 1.0
    assert learning_rate(recipe, 0.6) == pytest.approx(0.5)
    assert learning_rate(recipe, 1.0) == pytest.approx(0.0, abs=1e-15)
    rates = [learning_rate(recipe, p) for p in np.linspace(0, 1, 101)]
    assert all(0 <= rate <= 1 for rate in rates)


def test_without_a_length_nothing_has_changed(cohort):
    actual = trained(cohort, recipe={"epochs": 3})
    assert (actual.steps, actual.budget) == (24, {"track": None})
    assert [row["epoch"] for row in actual.history] == [1, 2, 3]


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("method", METHODS)
def test_device_seconds_by_events(cohort, method):
    """Launching runs ahead of the device, and the training stops within a step of the budget all the same."""
    actual = train(budgeted(cohort, method, device_seconds=0.2), opened(cohort[0]), torch.device("cuda"))
    assert actual.budget["used"] >= 0.2
    assert actual.budget["overshoot"] <= max(actual.budget["last_step"], 0.2 / actual.steps * 3)
    assert actual.device_seconds == pytest.approx(actual.budget["used"])


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_operations_are_the_same_on_every_machine(cohort):
    """A budget in operations ends after the same steps on a CUDA device as on CPU."""
    allowed = 20 * FlopTable("abmil", 4, 2).of(7)
    here = trained(cohort, "abmil", flops=allowed)
    there = train(budgeted(cohort, "abmil", flops=allowed), opened(cohort[0]), torch.device("cuda"))
    assert (here.steps, here.budget) == (there.steps, there.budget)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_allocators_cap_is_a_result(tmp_path):
    given = big_suite(tmp_path, memory="300 MiB").model_copy(update={"device": "cuda"})
    records = {r.method: r for r in run(given, tmp_path / "runs")}
    assert {m: r.outcome for m, r in records.items()} == {"mean": "ok", "transmil": "oom"}
    assert records["transmil"].record["oom"]["asked_bytes"] > 0


# -- memory
# --------------------------------------------------------------------------------------------------------------------


def test_subsampling_keeps_order_and_short_bags():
    rng = np.random.default_rng(0)
    x = torch.arange(30.0)[:, None]
    bags = Bags(x, [3, 20, 7], torch.cat([x, x], dim=1))
    actual = subsample_bags(bags, 5, rng)
    assert list(actual.lengths) == [3, 5, 5]
    parts = [part[:, 0].tolist() for part in actual.x.split(actual.lengths)]
    assert parts[0] == [0, 1, 2]
    for part, (low, high) in zip(parts[1:], ((3, 23), (23, 30)), strict=True):
        assert part == sorted(set(part))
        assert low <= min(part)
        assert max(part) < high
    assert torch.equal(actual.coords[:, :1], actual.x)
    assert subsample_bags(bags, 20, rng) is bags


def test_every_instance_of_a_long_bag_has_its_turn():
    rng = np.random.default_rng(0)
    bags = Bags(torch.arange(20.0)[:, None], [20])
    drawn = np.concatenate([subsample_bags(bags, 5, rng).x[:, 0].numpy() for _ in range(400)])
    counts = np.bincount(drawn.astype(int), minlength=20)
    assert counts.sum() == 2000
    assert abs(counts - 100).max() < 50  # 5 standard deviations


def test_out_of_memory_names_the_bag_and_the_memory_requested(cohort, monkeypatch):
    message = "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to "
    message += "allocate 1048576 bytes. Error code 12 (Cannot allocate memory)"

    def fail(*_):
        raise RuntimeError(message)

    monkeypatch.setattr(OptimizerStep, "backward", fail)
    with pytest.raises(OutOfMemory, match=r"1\.0 MiB more in training") as error:
        trained(cohort)
    assert error.value.requested_bytes == 1048576
    assert 1 <= error.value.bag_length <= 7


def big_suite(folder, **budget):
    """Bags of 6,000 rows: TransMIL in training does not fit into 300 MiB with them, mean easily."""
    rng = np.random.default_rng(0)
    parts = {"train": [], "val": [], "test": []}
    with CacheWriter(folder / "cache", "float32") as writer:
        for part, i in itertools.product(parts, range(4)):
            writer.add(f"{part}{i}", rng.normal(size=(6000, 16)).astype(np.float32))
            parts[part].append((f"{part}{i}", i % 2))
    write_labels(folder, parts)
    rows = "".join(f"{slide},{part}\n" for part in parts for slide, _ in parts[part])
    (folder / "fold0.csv").write_text("slide_id,split\n" + rows)
    return suite(folder, ("mean", "transmil"), recipe={"epochs": 1}, budget=Budget(**budget))


def test_what_does_not_fit_is_a_result_and_takes_nothing_with_it(tmp_path):
    given = big_suite(tmp_path, memory="300 MiB")
    records = {r.method: r for r in run(given, tmp_path / "runs")}
    assert records["mean"].outcome == "ok"
    assert records["transmil"].outcome == "oom"
    assert "a bag of 6,000 instances" in records["transmil"].reason
    assert "300 MiB" in records["transmil"].reason
    assert records["transmil"].record["oom"]["bag_length"] == 6000


def test_the_fallback_trains_on_parts_and_tests_on_whole_bags(tmp_path):
    given = big_suite(tmp_path, memory="300 MiB", on_oom="subsample", max_instances=500)
    records = {r.method: r for r in run(given, tmp_path / "runs")}
    assert {m: (r.outcome, r.reason) for m, r in records.items()} == {"mean": ("ok", ""), "transmil": ("ok", "")}
    assert records["mean"].record["max_instances"] is None
    assert records["transmil"].record["max_instances"] == 500
    board = evaluate(tmp_path / "runs", resamples=10)
    assert "1/1; 1 trained on parts of bags" in render(board, "markdown")
    assert board.table.set_index("method")["runs_subsampled"].to_dict() == {"mean": 0, "transmil": 1}
    assert any("at most 500 instances" in note for note in board.notes)


def test_the_meter_says_what_was_used_over_what_was_allowed():
    meter = BudgetMeter(Budget(steps=4), 100, DeviceTimer(CPU), lambda n: None)
    for _ in range(3):
        meter.add([5])
    assert (meter.progress, meter.spent, meter.flops) == (0.75, False, None)
    meter.add([5])
    assert (meter.progress, meter.spent) == (1.0, True)
    assert BudgetMeter(Budget(), 4, DeviceTimer(CPU), lambda n: n).record() == {"track": None}
    json.dumps(meter.record())


def test_a_run_tells_what_it_used(cohort, tmp_path):
    given = suite(cohort[0], ("mean",), budget=Budget(steps=12))
    (record,) = run(given, tmp_path / "runs")
    assert record.record["budget_used"]["used"] == record.record["train"]["steps"] == 12
    assert record.record["train"]["flops"] == record.history()["flops"].iloc[-1] > 0
