"""Optimizers against the same steps written out by hand."""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch

from milbench.config import Recipe
from milbench.training.optimizers import Lookahead, build_optimizer, learning_rate

INNER = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD, "radam": torch.optim.RAdam}


def gradients(steps, size=5):
    return np.random.default_rng(0).normal(size=(steps, size))


def follow(optimizer, weight, grads):
    path = []
    for grad in grads:
        optimizer.zero_grad()
        weight.grad = torch.tensor(grad)
        optimizer.step()
        path.append(weight.detach().numpy().copy())
    return np.array(path)


def test_lookahead_over_sgd_follows_the_paper():
    """Zhang et al. 2019, algorithm 1, in numpy: phi <- phi + alpha (theta_k - phi), theta restarts from phi."""
    grads, lr, k, alpha = gradients(20), 0.1, 6, 0.5
    fast = slow = np.arange(5.0)
    due = []
    for step, grad in enumerate(grads, start=1):
        fast = fast - lr * grad
        if step % k == 0:
            slow = slow + alpha * (fast - slow)
            fast = slow
        due.append(fast)
    weight = torch.nn.Parameter(torch.arange(5.0, dtype=torch.float64))
    path = follow(Lookahead(torch.optim.SGD([weight], lr=lr), k, alpha), weight, grads)
    np.testing.assert_allclose(path, due, atol=1e-12)
    assert not np.allclose(path[5], path[4] - lr * grads[5])  # the sixth step did synchronise


def test_lookahead_over_radam_keeps_its_moments():
    """The recipe's optimizer against RAdam's own steps with the interpolation done between them, 20 steps."""
    grads = gradients(20)
    recipe = Recipe(optimizer="lookahead-radam", lr=0.01, weight_decay=0.1, betas=(0.8, 0.9))
    weight = torch.nn.Parameter(torch.arange(5.0, dtype=torch.float64))
    path = follow(build_optimizer([weight], recipe), weight, grads)

    plain = torch.nn.Parameter(torch.arange(5.0, dtype=torch.float64))
    inner = torch.optim.RAdam([plain], lr=0.01, weight_decay=0.1, betas=(0.8, 0.9))
    slow, due = plain.detach().clone(), []
    for step, grad in enumerate(grads, start=1):
        follow(inner, plain, [grad])
        if step % 6 == 0:
            slow = 0.5 * slow + 0.5 * plain.detach()
            plain.data.copy_(slow)
        due.append(plain.detach().numpy().copy())
    np.testing.assert_allclose(path, due, atol=1e-12)


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd", "radam", "lookahead-radam"])
def test_every_field_of_a_recipe_reaches_its_optimizer(name):
    recipe = Recipe(optimizer=name, lr=0.03, weight_decay=0.02, betas=(0.7, 0.8), momentum=0.6)
    built = build_optimizer([torch.nn.Parameter(torch.zeros(2))], recipe)
    if name == "lookahead-radam":
        assert isinstance(built, Lookahead)
        assert (built.k, built.alpha) == (6, 0.5)
        built = built.inner
    assert INNER[name.removeprefix("lookahead-")] in type(built).__mro__[:3]
    (group,) = built.param_groups
    assert (group["lr"], group["weight_decay"]) == (0.03, 0.02)
    if name == "sgd":
        assert group["momentum"] == 0.6
    else:
        assert group["betas"] == (0.7, 0.8)


def test_weight_decay_is_decoupled_for_adamw_alone():
    """Without a gradient AdamW shrinks by lr * decay; Adam makes a full step of the penalty, lr in size."""
    moved = {}
    for name in ("adam", "adamw"):
        weight = torch.nn.Parameter(torch.tensor([2.0], dtype=torch.float64))
        optimizer = build_optimizer([weight], Recipe(optimizer=name, lr=0.1, weight_decay=0.01))
        follow(optimizer, weight, [np.zeros(1)])
        moved[name] = 2.0 - weight.item()
    assert moved["adamw"] == pytest.approx(2.0 * 0.1 * 0.01, rel=1e-9)
    assert moved["adam"] == pytest.approx(0.1, rel=1e-4)


def test_schedules():
    cosine, constant = Recipe(lr=0.2, schedule="cosine"), Recipe(lr=0.2)
    rates = [learning_rate(cosine, p) for p in (0, 1 / 3, 0.5, 2 / 3, 1, 1.5)]
    assert rates == pytest.approx([0.2, 0.15, 0.1, 0.05, 0, 0], abs=1e-15)
    assert learning_rate(cosine, 0.25) == pytest.approx(0.1 * (1 + math.sqrt(0.5)))
    assert [learning_rate(constant, p) for p in (0, 0.5, 1)] == [0.2] * 3


@pytest.mark.parametrize("name", ["adam", "adamw", "sgd", "radam"])
def test_steps_are_those_of_torch_to_the_bit(name):
    recipe = Recipe(optimizer=name, lr=1e-2, weight_decay=1e-2)
    torch.manual_seed(0)
    start, every = torch.randn(7, 5), torch.randn(9, 7, 5)
    ours, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    plain = build_optimizer([ours], recipe)
    options = {"momentum": recipe.momentum} if name == "sgd" else {"betas": recipe.betas}
    fused = {} if name == "radam" else {"fused": True}
    torchs = INNER[name]([theirs], lr=1e-2, weight_decay=1e-2, **options, **fused)
    for gradient in every:
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        for optimizer in (plain, torchs):
            optimizer.step()
            optimizer.zero_grad()
        assert torch.equal(ours, theirs)
    assert ours.grad is None


def test_an_optimizer_does_not_import_the_compiler():
    code = (
        "import sys, torch; from milbench.config import Recipe\n"
        "from milbench.training.optimizers import build_optimizer\n"
        "p = torch.nn.Parameter(torch.ones(2)); o = build_optimizer([p], Recipe(optimizer='adam'))\n"
        "p.sum().backward(); o.step(); o.zero_grad(); sys.exit('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
