"""What the base class does for every method."""

import ast
from functools import wraps
from pathlib import Path

import pytest
import torch
from support.refusal import refused

import milbench
from milbench.aggregator import Aggregator, head_loss


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", milbench.list_aggregators())
def test_features_of_half_precision_are_read_as_they_are(name, dtype):
    """Caches hold half precision; a model in fp32 computes in fp32 what it would for the same values in fp32."""
    torch.manual_seed(0)
    model = milbench.create(name, in_dim=8).eval()
    bags = milbench.Bags.pack([torch.randn(n, 8).to(dtype) for n in (3, 9)])
    out = model(bags)
    assert out.logits.dtype == torch.float32
    torch.testing.assert_close(out.logits, model(bags.to(dtype=torch.float32)).logits, atol=0, rtol=0)


@pytest.mark.parametrize("wrong", [torch.tensor([2]), torch.tensor([-1]), torch.tensor([0, 1]), torch.tensor([0.5]), 1])
@pytest.mark.parametrize("outputs", [1, 2])
def test_the_loss_of_a_head_refuses_what_is_no_class(outputs, wrong):
    """A binary cross-entropy takes any number, and falls without end for a class of 2."""
    with refused("targets-bad"):
        head_loss(torch.full((1, outputs), 3.0), wrong)
    logits = torch.tensor([[3.0], [-1.0]])
    expected = torch.nn.functional.cross_entropy(torch.cat([torch.zeros(2, 1), logits], dim=1), torch.tensor([1, 0]))
    torch.testing.assert_close(head_loss(logits, torch.tensor([1, 0])), expected)


class LossMixin:
    """A loss for several methods, no method itself."""

    def loss(self, out, targets):
        return (out.logits[:, 1] * targets).mean()


def test_a_loss_from_outside_the_bases_checks_its_targets():
    mean = type(milbench.create("mean", in_dim=2))
    mixed = type("Mixed", (LossMixin, mean), {})
    below = type("Below", (mixed,), {})
    copied = type("Copied", (mean,), {"loss": wraps(mean.loss)(LossMixin.loss)})  # with the attributes of a checked one
    for cls in (mixed, below, copied):
        model = cls(2, 2)
        out = model(milbench.Bags.pack([torch.ones(3, 2)]))
        assert model.loss(out, torch.tensor([1])) == out.logits[0, 1]
        with refused("targets-bad"):
            model.loss(out, torch.tensor([2]))
    assert below.loss is mixed.loss  # once


def test_what_milbench_reads_of_a_method_by_name_is_declared_in_the_base():
    """A hook that a module reads by getattr and that the base does not declare is one that nobody can know of."""
    declared = set(dir(Aggregator)) | set(Aggregator.__annotations__)
    home = Path(milbench.__file__).parent
    undeclared = []
    for file in home.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            by_name = isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("getattr", "hasattr")
            if not by_name or not isinstance(node.args[1], ast.Constant):
                continue
            if {getattr(part, "id", "") for part in ast.walk(node.args[0])} & {"model", "method", "aggregator"}:
                undeclared += [f"{file.name}: {node.args[1].value}"] * (node.args[1].value not in declared)
    assert undeclared == []


HOOKS = ("after_step", "reset", "contributions", "attention_by_class", "matrix_flops", "flop_terms", "loss",
         "probabilities")  # fmt: skip


@pytest.mark.parametrize("hook", HOOKS)
def test_a_class_has_a_hook_of_its_own_where_it_or_a_base_defines_it(hook):
    mean = type(milbench.create("mean", in_dim=2))
    value = True if hook == "attention_by_class" else lambda self, *given: None
    own = type("Own", (mean,), {hook: value})
    assert own.has_own(hook)
    assert type("Below", (own,), {}).has_own(hook)
    assert not Aggregator.has_own(hook)
    assert getattr(Aggregator, hook) is not None


def test_defaults_of_the_hooks_do_nothing():
    class Least(Aggregator):
        def pool(self, bags, attention):
            return milbench.BagOutput(torch.zeros(len(bags), 2))

    model, bags = Least(3, 2), milbench.Bags.pack([torch.ones(2, 3)])
    assert not any(Least.has_own(hook) for hook in HOOKS)
    model.after_step(0.5)
    model.reset(torch.Generator())
    assert model.contributions(bags) is None
    assert model.matrix_flops(2) is None
    assert model.flop_terms(2) is None
    assert model.attention_by_class is False
