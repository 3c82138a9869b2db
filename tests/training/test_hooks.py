"""Hooks of a method, averaged parameters, parts of bags and the one-cycle rate, against loops written out here."""

import copy

import numpy as np
import pytest
import torch
from support.hook_methods import Draws, Stubborn, Teacher, Watched
from support.small import opened, suite, task, write_cohort

from milbench.bags import Bags
from milbench.config import Budget, Protocol, Recipe
from milbench.registry import resolve
from milbench.runs.plan import make_plan
from milbench.testing import run_check
from milbench.testing.case import Case
from milbench.testing.checks import after_step_trains_nothing
from milbench.training.loop import train
from milbench.training.optimizers import learning_rate
from milbench.training.stacked import stacks
from milbench.training.step import OptimizerStep

CPU = torch.device("cpu")
LAST = Protocol(checkpoint="last")
HOOKS = "support.hook_methods:"


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cohort")
    return folder, write_cohort(folder)


@pytest.fixture(autouse=True)
def _nothing_written_down():
    for kept in (Watched.progress, Watched.states, Watched.lengths):
        kept.clear()


def trained(cohort, method, seed=0, **recipe):
    folder, parts = cohort
    given = task(folder, parts, HOOKS + method, seed, protocol=recipe.pop("protocol", LAST), **recipe)
    return train(given, opened(folder), CPU)


def test_after_step_follows_every_step_with_the_share_done(cohort):
    result = trained(cohort, "Watched", batch_size=2, accumulate=2, epochs=3)
    assert result.steps == 6
    assert Watched.progress == pytest.approx([k / 6 for k in range(6)])
    final = result.model.state_dict()
    assert all(torch.equal(Watched.states[-1][name], value) for name, value in final.items())


@pytest.mark.parametrize("checkpoint", ["last", "best-val"])
def test_the_average_is_that_of_the_states_after_each_step(cohort, checkpoint):
    decay = 0.8
    result = trained(cohort, "Watched", epochs=4, ema_decay=decay, protocol=Protocol(checkpoint=checkpoint))
    bags = 8
    averages, average = [], {name: value.double() for name, value in Watched.states[0].items()}
    for state in Watched.states[1:]:
        averages.append(average)
        average = {name: decay * average[name] + (1 - decay) * value.double() for name, value in state.items()}
    averages.append(average)
    expected = averages[bags * result.selected - 1]
    for name, value in result.model.state_dict().items():
        torch.testing.assert_close(value.double(), expected[name], rtol=1e-5, atol=1e-6)
    plain = trained(cohort, "Watched", epochs=4).model.state_dict()
    assert not torch.allclose(plain["head.weight"], result.model.state_dict()["head.weight"], atol=1e-4)


def test_a_step_that_a_scaler_leaves_out_is_followed_by_nothing():
    model = Watched(3, 2)
    model.loss = lambda out, targets: out.logits.sum() * scale
    step = OptimizerStep(model, Recipe(precision="fp16", ema_decay=0.5, optimizer="sgd", lr=0.1), 10)
    bags, targets = Bags.pack([torch.ones(2, 3)]), torch.tensor([0])
    before = copy.deepcopy(step.evaluated.state_dict())
    scale = torch.tensor(float("inf"))
    step.backward(bags, targets, 1)
    step.step()
    assert Watched.progress == []
    assert all(torch.equal(value, before[name]) for name, value in step.evaluated.state_dict().items())
    scale = torch.tensor(1e-3)
    step.backward(bags, targets, 1)
    step.step()
    assert len(Watched.progress) == 1


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "lookahead-radam"])
def test_no_optimizer_touches_a_teacher(cohort, optimizer, monkeypatch):
    """Not by decay, and not by going back to slow weights: with `after_step` switched off it stays as it began."""
    monkeypatch.setattr(Teacher, "after_step", lambda self, progress: None)
    torch.manual_seed(0)
    result = trained(cohort, "Teacher", optimizer=optimizer, weight_decay=0.5, epochs=4)
    begun = []
    monkeypatch.setattr(
        Teacher, "after_step", lambda self, progress: begun or begun.append(self.teacher.weight.clone())
    )
    trained(cohort, "Teacher", optimizer=optimizer, weight_decay=0.5, epochs=1)
    assert torch.equal(result.model.teacher.weight, begun[0])
    assert not torch.equal(result.model.teacher.weight, result.model.head.weight)


def test_a_method_has_a_source_of_chance_of_its_own(cohort):
    first, again, other = (trained(cohort, "Draws", seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.model.head.bias, again.model.head.bias)
    assert not torch.equal(first.model.head.bias, other.model.head.bias)
    assert first.seeds["method"] not in {value for name, value in first.seeds.items() if name != "method"}
    assert "method" not in trained(cohort, "Watched").seeds


def test_training_sees_parts_of_bags_and_evaluation_whole_ones(cohort):
    folder, parts = cohort
    most = 3
    given = dict(zip(opened(folder).ids, opened(folder).lengths(opened(folder).ids), strict=True))
    result = trained(cohort, "Watched", epochs=5, max_instances=most, protocol=Protocol())
    seen = [lengths for training, lengths in Watched.lengths if training]
    assert sorted(seen[:8]) == sorted((min(given[slide], most),) for slide, _ in parts["train"])
    assert result.patches == 5 * sum(min(given[slide], most) for slide, _ in parts["train"])
    evaluated = {lengths for training, lengths in Watched.lengths if not training}
    assert (sum(given[slide] for slide, _ in parts["val"]),) in {(sum(lengths),) for lengths in evaluated}
    whole = trained(cohort, "Watched", epochs=5, max_instances=100)
    assert torch.equal(whole.model.head.weight, trained(cohort, "Watched", epochs=5).model.head.weight)


@pytest.mark.parametrize("warmup", [0.0, 0.1])
def test_the_one_cycle_rate_is_torchs(warmup):
    steps, lr = 2000, 0.2
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=warmup or 0.3)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if len(rates) < steps:
            scheduler.step()
    recipe = Recipe(lr=lr, schedule="one-cycle", warmup=warmup)
    ours = [learning_rate(recipe, k / (steps - 1)) for k in range(steps)]
    np.testing.assert_allclose(ours, rates, atol=0.02 * lr)
    assert learning_rate(recipe, 1.0) == pytest.approx(lr / 25e4)
    assert learning_rate(recipe.model_copy(update={"min_lr": 0.01}), 1.0) == pytest.approx(0.01)


@pytest.mark.parametrize("field", [{"ema_decay": 0.9}, {"max_instances": 5}])
def test_such_recipes_are_not_stacked(field):
    assert stacks(Recipe(), Budget())
    assert not stacks(Recipe(**field), Budget())


def test_a_method_with_a_hook_is_not_stacked(cohort, tmp_path):
    methods = (HOOKS + "StackableTeacher", "mean")
    given = suite(cohort[0], methods, stacked=4, seeds=2, recipe={"epochs": 1, "patience": None})
    stacked = {planned.method.cls.__name__: planned.spec.stacked for planned in make_plan(given, tmp_path).runs}
    assert stacked == {"StackableTeacher": False, "MeanPooling": True}


@pytest.mark.parametrize(("cls", "status"), [(Teacher, "passed"), (Stubborn, "broken"), (Draws, "skipped")])
def test_the_contract_lets_a_hook_change_nothing_that_is_trained(cls, status):
    case = Case(resolve(f"{HOOKS}{cls.__name__}"), 6, 2)
    assert run_check(after_step_trains_nothing, case).status == status
