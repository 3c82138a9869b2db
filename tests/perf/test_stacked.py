"""What stacking is worth: a step of many small models as one, against the same steps one by one."""

import copy

import pytest
import torch
from support.interleave import compare

import milbench
from milbench.config import Recipe
from milbench.nn.stacked import Stack
from milbench.training.step import OptimizerStep

pytestmark = pytest.mark.perf

MODELS = 32


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(
    ("spec", "at_least"), [("abmil[embed_dim=256-128-64,dropout=0.5]", 1.7), ("dsmil", 2.5), ("mean", 4)]
)
def test_a_step_of_a_stack_against_one_by_one(benchmark, spec, at_least):
    """Bags of 3 to 9 instances of 230 features, one a step, as Elephant's."""
    torch.manual_seed(0)
    models = [milbench.create(spec, 230, 2).train() for _ in range(MODELS)]
    recipe = Recipe(optimizer="sgd", lr=1e-3)
    alone = [OptimizerStep(model, recipe, 1000) for model in copy.deepcopy(models)]
    together = OptimizerStep(Stack(models, [torch.Generator() for _ in models]).train(), recipe, 1000)
    singles = [milbench.Bags.pack([torch.randn(3 + i % 7, 230)]) for i in range(MODELS)]
    bags = milbench.Bags.pack([bag.x for bag in singles])
    targets = torch.arange(MODELS) % 2

    def stacked():
        together.backward(bags, targets, 1)
        together.step(0.0)

    def one_by_one():
        for i, stepper in enumerate(alone):
            stepper.backward(singles[i], targets[i : i + 1], 1)
            stepper.step(0.0)

    assert compare(benchmark, stacked, one_by_one, rounds=9) >= at_least
