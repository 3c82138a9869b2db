"""The cost pass against closed forms, and against itself where only an order is known."""

import json
from dataclasses import replace
from itertools import cycle, islice, product

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from support.small import ODD, opened, task, write_cohort

from milbench.config import Recipe
from milbench.runs.costs.benchmark import COUNTED, ROUNDS, STEPS, CostTask, measure, pooled, unpooled
from milbench.training.step import OptimizerStep

CPU = torch.device("cpu")
SGD = Recipe(optimizer="sgd", batch_size=3, accumulate=2)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cohort")
    return folder, write_cohort(folder, coords=True)


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr("milbench.runs.costs.benchmark.MAX_SECONDS", 0.05)
    monkeypatch.setattr("milbench.runs.costs.benchmark.MIN_SECONDS", 0.005)
    rates = {"flops_per_s": 1.0, "copy_bytes_per_s": 1.0}  # which test_roofline.py tests
    monkeypatch.setattr("milbench.runs.costs.benchmark.yardstick", lambda device: rates)


def measured(cohort, method, kind="time", recipe=SGD, turn=0):
    folder, parts = cohort
    given = task(folder, parts, method)
    what = CostTask(kind, method, recipe, given.cache_path, 2, given.train, given.test, 1, "cpu", turn)
    return measure(what, opened(folder), CPU)


def cost(cohort, method, recipe=SGD):
    return pooled([measured(cohort, method, recipe=recipe, turn=turn) for turn in range(2)])


def lengths(cohort, part):
    folder, parts = cohort
    return [len(opened(folder)[slide]) for slide, _ in parts[part]]


def test_time_has_the_documented_keys_and_consistent_values(cohort):
    actual = cost(cohort, "abmil")
    rows = sum(lengths(cohort, "test"))
    infer, training = actual["infer"], actual["train"]
    assert (infer["bags"], infer["patches"]) == (6, rows)
    assert infer["bags_per_s"] == pytest.approx(1 / infer["seconds_per_bag"])
    assert infer["patches_per_s"] == pytest.approx(infer["bags_per_s"] * rows / 6)
    assert training["bags_per_step"] == 6
    assert training["bags_per_s"] == pytest.approx(6 / training["seconds_per_step"])
    assert training["patches_per_s"] == pytest.approx(
        np.mean(training["step_patches"]) / training["seconds_per_step"], rel=1e-12
    )
    assert len(actual["turns"]) == 2
    samples = [turn["infer_seconds_samples"] for turn in actual["turns"]]
    assert min(map(min, samples)) > 0
    assert min(map(min, samples)) <= infer["seconds_per_bag"] * 6 <= max(map(max, samples))
    assert actual["parameters"] == 4 * 128 + 128 + 128 + 1 + 4 + 1


ONE_BY_ONE = SGD.model_copy(update={"batch_size": 1, "accumulate": 1})


def test_a_timed_step_is_the_one_it_says(cohort, monkeypatch):
    seen = []

    class Spy(OptimizerStep):
        def backward(self, batch, targets, group):
            seen.append(sum(batch.lengths))
            return super().backward(batch, targets, group)

    monkeypatch.setattr("milbench.runs.costs.benchmark.OptimizerStep", Spy)
    for turn, recipe in product(range(ROUNDS), (ONE_BY_ONE, SGD)):
        seen.clear()
        actual = measured(cohort, "mean", recipe=recipe, turn=turn)["train"]
        taken, steps = actual["step_samples"], len(actual["step_patches"])
        assert sorted(taken[:steps]) == list(range(steps))
        # How often the time allows for all of them depends on the machine; their order stays.
        assert taken == list(islice(cycle(taken[:steps]), len(taken)))
        batches = np.array(seen).reshape(-1, recipe.accumulate).sum(axis=1)
        # The first ones warm up, each step once; those of counting operations are no steps.
        assert batches[steps:].tolist() == [actual["step_patches"][at] for at in taken]
        assert sorted(batches[:steps]) == sorted(actual["step_patches"])


def test_steps_are_the_middles_of_equal_parts_of_an_epoch(cohort):
    """8 training bags, one a step, in 6 parts of their ranks."""
    actual = measured(cohort, "mean", recipe=ONE_BY_ONE)["train"]
    ranked = sorted(lengths(cohort, "train"))
    assert STEPS == 6
    assert actual["step_patches"] == [ranked[at] for at in (0, 2, 3, 4, 6, 7)]


def test_all_turns_together_time_every_step_of_the_slowest_method(cohort, monkeypatch):
    monkeypatch.setattr("milbench.runs.costs.benchmark.MAX_SECONDS", 1e-9)
    monkeypatch.setattr("milbench.runs.costs.benchmark._WARM_SECONDS", 1e-9)
    turns = [measured(cohort, "mean", recipe=ONE_BY_ONE, turn=turn) for turn in range(ROUNDS)]
    assert [turn["train"]["step_samples"] for turn in turns] == [[0, 3], [1, 4], [2, 5]]
    actual = pooled(turns)["train"]
    assert actual["patches_per_s"] == pytest.approx(np.mean(actual["step_patches"]) / actual["seconds_per_step"])


def test_only_the_first_turn_counts_operations(cohort):
    first, second = (measured(cohort, "mean", turn=turn) for turn in (0, 1))
    assert set(first) - set(second) == {"parameters", "flops_bag_length", "flops_per_bag_infer", "flops_per_bag_train"}


def turn_of(passes, steps, seconds):
    return {
        "infer": {"bags": 2, "patches": 8, "seconds_samples": passes},
        "train": {"bags_per_step": 4, "step_patches": [10, 30], "step_samples": steps, "seconds_samples": seconds},
        **dict.fromkeys(COUNTED, 7),
    }


def test_turns_are_pooled_by_the_median_of_each_step():
    """Steps of 10 and 30 rows take 1 and 3 s, a pass 1 s; one turn of many samples was three times as slow."""
    turns = [
        turn_of([1.0, 9.0, 1.0], [0, 1, 0, 1, 0], [1.0, 3.0, 8.0, 3.0, 1.0]),
        turn_of([3.0] * 50, [1, 0] * 40, [9.0, 3.0] * 40),
        turn_of([1.0], [0, 1], [1.0, 3.0]),
    ]
    actual = pooled(turns)
    assert actual["infer"]["bags_per_s"] == 2
    assert actual["infer"]["patches_per_s"] == 8
    assert actual["train"]["seconds_per_step"] == 2
    assert actual["train"]["bags_per_s"] == 2
    assert actual["train"]["patches_per_s"] == 10
    assert unpooled(json.loads(json.dumps(actual))) == turns
    # What was never timed is not in the patches either.
    few = pooled([turn_of([1.0], [1], [3.0])])["train"]
    assert few["patches_per_s"] == 10
    assert few["bags_per_s"] == pytest.approx(4 / 3)


def test_flops_are_the_closed_forms(cohort):
    """Products only: 2 multiply-adds each, on the bag of middle length; d = 4 features, 128 hidden."""
    n, d, hidden = sorted(lengths(cohort, "test"))[3], 4, 128
    mean = cost(cohort, "mean")
    assert mean["flops_bag_length"] == n
    assert mean["flops_per_bag_infer"] == 2 * d * 2
    assert mean["flops_per_bag_train"] == 2 * (2 * d * 2)  # the features need no gradient: forward and weights
    abmil = cost(cohort, "abmil")
    projection, score, pooling, head = 2 * n * d * hidden, 2 * n * hidden, 2 * n * d, 2 * d
    assert abmil["flops_per_bag_infer"] == projection + score + pooling + head
    # Backward: weights everywhere, inputs of score and head too, and of pooling the weights' side alone.
    assert abmil["flops_per_bag_train"] == 2 * projection + 3 * score + 2 * pooling + 3 * head


@pytest.mark.parametrize("kind", ["time", "train_memory"])
def test_a_measured_step_is_that_of_a_recipe_with_weights(cohort, kind, monkeypatch):
    """Bags are weighted one by one, by the counts of the training bags: every loss is of one bag."""
    folder, parts = cohort
    cohort = folder, parts | {"train": [row for row in parts["train"] if row[1] == 0][:3] + parts["train"][-4:]}
    sizes, weights = [], []
    loss = OptimizerStep._smoothed

    def spied(self, out, targets):
        sizes.append(len(targets))
        weights.append(self.class_weights)
        return loss(self, out, targets)

    monkeypatch.setattr(OptimizerStep, "_smoothed", spied)
    measured(cohort, "mean", kind, SGD.model_copy(update={"class_weights": "balanced"}))
    labels = np.array([y for _, y in cohort[1]["train"]])
    expected = compute_class_weight("balanced", classes=np.array([0, 1]), y=labels)
    assert set(sizes) == {1}
    assert len(weights) > 2
    assert all(w is not None and w.tolist() == pytest.approx(expected) for w in weights)


@pytest.mark.parametrize("kind", ["infer_memory", "train_memory"])
def test_memory_tells_a_big_parameter_from_none(cohort, kind):
    (small,), (big,) = (measured(cohort, name, kind).values() for name in ("mean", ODD + "BigParameter"))
    copies = 1 if kind == "infer_memory" else 2  # the gradient; without momentum SGD keeps nothing
    assert big["peak_bytes"] - small["peak_bytes"] > copies * (60 << 20)
    assert big["peak_bytes"] < 6 * (64 << 20)
    longest = sorted(lengths(cohort, "test" if kind == "infer_memory" else "train"))[-1]
    assert big["bag_length"] == longest
    assert big["bags"] == (1 if kind == "infer_memory" else 3)


def test_memory_of_an_optimizer_with_state_is_larger(cohort):
    adam = SGD.model_copy(update={"optimizer": "adam"})
    plain = measured(cohort, ODD + "BigParameter", "train_memory", SGD.model_copy(update={"momentum": 0.0}))
    moments = measured(cohort, ODD + "BigParameter", "train_memory", adam)
    assert moments["train_memory"]["peak_bytes"] > plain["train_memory"]["peak_bytes"] + (120 << 20)


@pytest.mark.parametrize("kind", ["time", "infer_memory", "train_memory"])
def test_a_method_that_needs_coordinates_gets_them(cohort, kind):
    assert measured(cohort, ODD + "NeedsCoords", kind)


def test_one_training_bag_and_a_batch_larger_than_the_cohort(cohort):
    folder, parts = cohort
    recipe = replace_size(SGD, 64)
    assert cost((folder, parts), "mean", recipe=recipe)["train"]["bags_per_step"] == 8 * 2
    given = task(folder, parts)
    one = CostTask("time", "mean", recipe, given.cache_path, 2, given.train[:1], given.test[:1], 1, "cpu")
    assert measure(one, opened(folder), CPU)["infer"]["bags"] == 1
    assert measure(replace(one, kind="train_memory"), opened(folder), CPU)["train_memory"]["bags"] == 1


def replace_size(recipe, size):
    return recipe.model_copy(update={"batch_size": size})
