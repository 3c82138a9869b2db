"""Gradients clipped by parts of a method, against torch's clipping of each part by itself."""

import copy

import pytest
import torch
from support.hook_methods import Parts, Teacher
from support.small import opened, task, write_cohort
from torch import nn

from milbench.bags import Bags
from milbench.config import Protocol, Recipe
from milbench.training.loop import train
from milbench.training.step import OptimizerStep

CPU = torch.device("cpu")
LAST = Protocol(checkpoint="last")
PARTS = "support.hook_methods:Parts"


def groups_of(model, how):
    """The groups, named one by one."""
    if how == "all":
        return [list(model.parameters())]
    return [list(model.encoder.parameters()), list(model.head.parameters()), [model.shift, model.factor]]


@pytest.mark.parametrize("how", ["all", "modules"])
@pytest.mark.parametrize("limit", [1e-3, 0.1, 1e6])
def test_a_step_is_torchs_clipping_of_each_group(how, limit):
    torch.manual_seed(0)
    model = Parts(4, 2)
    expected = copy.deepcopy(model)
    bags, targets = Bags.pack([torch.randn(3, 4), torch.randn(6, 4)]), torch.tensor([0, 1])
    step = OptimizerStep(model, Recipe(optimizer="sgd", lr=0.5, momentum=0.0, weight_decay=0.0, grad_clip=limit,
                                       clip_groups=how), 10)  # fmt: skip
    for _ in range(3):
        step.backward(bags, targets, 1)
        step.step()
        expected.zero_grad()
        nn.functional.cross_entropy(expected(bags).logits, targets).backward()
        for group in groups_of(expected, how):
            norm = torch.sqrt(sum(p.grad.square().sum() for p in group))
            clipped = nn.utils.clip_grad_norm_(group, limit)
            torch.testing.assert_close(clipped, norm)
        with torch.no_grad():
            for p in expected.parameters():
                p -= 0.5 * p.grad
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, expected.state_dict()[name], rtol=1e-6, atol=1e-7, msg=name)


def test_groups_differ_from_one_norm_where_one_part_has_the_large_gradient(tmp_path):
    parts = write_cohort(tmp_path)
    models = {}
    for how in ("all", "modules"):
        given = task(tmp_path, parts, PARTS, protocol=LAST, epochs=1, lr=1.0, grad_clip=1e-3, clip_groups=how)
        models[how] = train(given, opened(tmp_path), CPU).model
    start = train(task(tmp_path, parts, PARTS, protocol=LAST, epochs=1, lr=1e-30), opened(tmp_path), CPU).model
    moved = {how: (model.encoder[0].weight - start.encoder[0].weight).norm().item() for how, model in models.items()}
    assert moved["modules"] > 10 * moved["all"], "under one norm the encoder hardly moves"
    assert moved["modules"] <= 8 * 1e-3 * 1.001, "eight steps of at most the limit"


def test_what_is_not_trained_has_no_part_in_a_norm():
    torch.manual_seed(0)
    model = Teacher(4, 2)
    before = copy.deepcopy(model.state_dict())
    step = OptimizerStep(model, Recipe(optimizer="sgd", lr=1.0, momentum=0.0, weight_decay=0.0, grad_clip=1e-3,
                                       clip_groups="modules"), 10)  # fmt: skip
    step.backward(Bags.pack([torch.randn(3, 4)]), torch.tensor([1]), 1)
    step.step()
    state = model.state_dict()
    length = torch.sqrt(sum((state[name] - before[name]).square().sum() for name in ("head.weight", "head.bias")))
    assert length.item() == pytest.approx(1e-3, rel=1e-3)


def test_the_default_has_the_id_of_recipes_of_before():
    assert "clip_groups" not in Recipe(grad_clip=1.0).identity()
    assert Recipe(grad_clip=1.0, clip_groups="modules").identity()["clip_groups"] == "modules"
