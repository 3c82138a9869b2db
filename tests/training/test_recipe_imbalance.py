"""Recipes for rare classes (weights, sampling, smoothing) and schedules against plain torch; what is hashed of them."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.utils.class_weight import compute_class_weight
from support.refusal import refused
from support.small import opened, task, write_cohort

import milbench
from milbench.bags import BagOutput, Bags
from milbench.config import Budget, Frozen, Recipe, RunSpec, added
from milbench.training.loop import train
from milbench.training.optimizers import Plateau, balanced_weights, learning_rate
from milbench.training.stacked import stacks
from milbench.training.step import OptimizerStep
from milbench.training.task import derive_seed

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def rare(tmp_path_factory):
    """8 training bags of which 2 are positive; validation is balanced, so that its counts would give other weights."""
    folder = tmp_path_factory.mktemp("rare")
    parts = write_cohort(folder, train=14)
    negative = [row for row in parts["train"] if row[1] == 0][:6]
    positive = [row for row in parts["train"] if row[1] == 1][:2]
    return folder, parts | {"train": negative + positive}


def plain_loop(cohort, seed, epochs, lr, size, weights, smoothing, draw=None):
    """A linear layer on bag means by SGD without momentum, written with torch alone."""
    folder, parts = cohort
    cache = opened(folder)
    x = torch.stack([cache[s].mean(dim=0) for s, _ in parts["train"]])
    y = torch.tensor([label for _, label in parts["train"]])
    torch.manual_seed(derive_seed(seed, "init"))
    layer = torch.nn.Linear(x.shape[1], 2)
    order = np.random.default_rng(derive_seed(seed, "order"))
    for _ in range(epochs):
        at = order.permutation(len(y)) if draw is None else order.choice(len(y), len(y), p=draw)
        for i in range(0, len(at), size):
            batch = torch.from_numpy(at[i : i + size])
            each = F.cross_entropy(layer(x[batch]), y[batch], reduction="none", label_smoothing=smoothing)
            loss = (each * weights[y[batch]]).sum() / len(batch)
            grads = torch.autograd.grad(loss, list(layer.parameters()))
            for p, g in zip(layer.parameters(), grads, strict=True):
                p.data -= lr * g
    return layer


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize(("weighted", "smoothing", "sampled"),
                         [(True, 0.0, False), (False, 0.2, False), (True, 0.1, False), (False, 0.0, True)])  # fmt: skip
def test_training_is_the_plain_loop_with_the_folds_own_counts(rare, size, weighted, smoothing, sampled):
    folder, parts = rare
    labels = np.array([y for _, y in parts["train"]])
    of_class = compute_class_weight("balanced", classes=np.array([0, 1]), y=labels)
    assert of_class[1] == pytest.approx(2.0)
    weights = torch.tensor(of_class if weighted else [1.0, 1.0], dtype=torch.float32)
    draw = of_class[labels] / of_class[labels].sum() if sampled else None
    want = plain_loop(rare, 5, 4, 0.3, size, weights, smoothing, draw)
    given = task(folder, parts, "mean", seed=5, epochs=4, lr=0.3, batch_size=size, optimizer="sgd", momentum=0,
                 weight_decay=0, class_weights="balanced" if weighted else "none", label_smoothing=smoothing,
                 sampler="balanced" if sampled else "shuffle")  # fmt: skip
    protocol = given.spec.protocol.model_copy(update={"checkpoint": "last"})
    got = train(task(folder, parts, "mean", seed=5, protocol=protocol, **given.spec.recipe.model_dump()),
                opened(folder), CPU)  # fmt: skip
    ours = dict(got.model.named_parameters())
    torch.testing.assert_close(ours["head.weight"].detach(), want.weight.detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours["head.bias"].detach(), want.bias.detach(), rtol=1e-5, atol=1e-6)


def gradients(model):
    return [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in model.parameters()]


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("method", milbench.list_aggregators())
def test_a_weight_multiplies_the_whole_loss_of_its_bag(method, n_classes):
    """Every method's own loss, auxiliary terms included: the gradient of a batch is that of its bags one by one."""
    torch.manual_seed(0)
    model = milbench.create(method, in_dim=8, n_classes=n_classes).eval()
    xs = [torch.randn(n, 8) for n in (5, 1, 9)]
    y = torch.tensor([0, 1, n_classes - 1])
    weights = [0.5, 3.0, 2.0][:n_classes]
    loss = sum(weights[t] * model.loss(model(Bags.pack([x])), y[i : i + 1])
               for i, (x, t) in enumerate(zip(xs, y.tolist(), strict=True))) / 3  # fmt: skip
    model.zero_grad(set_to_none=True)
    loss.backward()
    want = gradients(model)
    model.zero_grad(set_to_none=True)
    got = OptimizerStep(model, Recipe(class_weights="balanced"), 10, weights).backward(Bags.pack(xs), y, 1)
    torch.testing.assert_close(got, loss.detach(), rtol=1e-5, atol=1e-6)
    for ours, theirs in zip(gradients(model), want, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("method", ["max", "mean", "transmil"])
def test_smoothing_of_a_cross_entropy_is_torchs(method):
    torch.manual_seed(0)
    model = milbench.create(method, in_dim=8, n_classes=3).eval()
    bags, y = Bags.pack([torch.randn(4, 8), torch.randn(6, 8)]), torch.tensor([2, 0])
    got = OptimizerStep(model, Recipe(label_smoothing=0.3), 10).backward(bags, y, 1)
    torch.testing.assert_close(got, F.cross_entropy(model(bags).logits, y, label_smoothing=0.3).detach())


def test_smoothing_of_one_sigmoid_is_a_soft_target():
    model = milbench.create("abmil", in_dim=8).eval()
    bags, y = Bags.pack([torch.randn(4, 8), torch.randn(6, 8)]), torch.tensor([1, 0])
    got = OptimizerStep(model, Recipe(label_smoothing=0.2), 10).backward(bags, y, 1)
    soft = torch.tensor([0.9, 0.1])
    torch.testing.assert_close(got, F.binary_cross_entropy_with_logits(model(bags).logits[:, 0], soft).detach())


@pytest.mark.parametrize("labels", [[0, 0, 0, 1], [2, 2, 0, 2], [1, 1], [0, 1, 2, 2, 2, 1]])
def test_the_mean_weight_over_the_training_bags_is_one(labels):
    weights = balanced_weights(labels, 3)
    assert np.mean([weights[y] for y in labels]) == pytest.approx(1)
    sums = [weights[c] * labels.count(c) for c in set(labels)]
    assert np.ptp(sums) == pytest.approx(0)  # every class that occurs has the same part of the loss


def test_a_balanced_sampler_draws_classes_with_the_same_probability(rare, monkeypatch):
    folder, parts = rare
    drawn = []
    backward = OptimizerStep.backward
    monkeypatch.setattr(OptimizerStep, "backward", lambda self, batch, y, group: drawn.extend(y.tolist())
                        or backward(self, batch, y, group))  # fmt: skip
    train(task(folder, parts, "mean", epochs=60, sampler="balanced"), opened(folder), CPU)
    assert len(drawn) == 60 * 8
    assert abs(np.mean(drawn) - 0.5) < 4 * 0.5 / np.sqrt(len(drawn))


def test_an_aux_without_a_row_a_bag_cannot_be_weighted_in_a_batch():
    out = BagOutput(torch.zeros(2, 2), aux={"scores": torch.zeros(7, 1)})
    with refused("bag-shape", "aux['scores']", "(7, 1)", "batch_size = 1"):
        out.bag(0)


@pytest.mark.parametrize("field", [{"class_weights": "balanced"}, {"sampler": "balanced"}, {"label_smoothing": 0.1},
                                   {"schedule": "plateau"}])  # fmt: skip
def test_stacked_training_leaves_such_recipes_to_runs_of_their_own(field):
    assert stacks(Recipe(), Budget())
    assert not stacks(Recipe(**field), Budget())


@pytest.mark.parametrize(("schedule", "torchs"), [
    ("cosine", lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 40, eta_min=0.1)),
    ("linear", lambda o: torch.optim.lr_scheduler.LinearLR(o, 1.0, 0.1, 40)),
    ("step", lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [20, 30], 0.1)),
])  # fmt: skip
def test_schedules_are_torchs(schedule, torchs):
    floor = 0.0 if schedule == "step" else 0.1
    recipe = Recipe(lr=1.0, schedule=schedule, min_lr=floor)
    sgd = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = torchs(sgd)
    for step in range(40):
        assert learning_rate(recipe, step / 40) == pytest.approx(sgd.param_groups[0]["lr"], rel=1e-6)
        sgd.step()
        scheduler.step()


def test_a_floor_is_never_passed_and_never_above_the_rate():
    for schedule in ("cosine", "linear", "step"):
        rates = [learning_rate(Recipe(lr=1e-3, schedule=schedule, min_lr=4e-4), k / 50) for k in range(51)]
        assert min(rates) == pytest.approx(4e-4)
        assert learning_rate(Recipe(lr=1e-3, schedule=schedule, min_lr=1.0), 0.9) == pytest.approx(1e-3)


@pytest.mark.parametrize("monitor", ["val_loss", "val_auc"])
@pytest.mark.parametrize(("budget", "warmup"), [({}, 0.0), ({}, 0.3), ({"steps": 96}, 0.0)])
@pytest.mark.parametrize("optimizer", ["sgd", "lookahead-radam"])
def test_a_plateau_is_torchs_on_the_history_of_the_training(rare, monitor, budget, warmup, optimizer):
    """The rate of every evaluation is what torch's scheduler, given the evaluations before it, leaves."""
    folder, parts = rare
    given = {"schedule": "plateau", "lr": 0.5, "plateau_factor": 0.3, "plateau_patience": 1, "min_lr": 0.01,
             "epochs": 20, "warmup": warmup, "optimizer": optimizer, "momentum": 0.0}  # fmt: skip
    protocol = task(folder, parts).spec.protocol.model_copy(update={"monitor": monitor})
    plateau_task = task(folder, parts, "mean", protocol=protocol, **given)
    plateau_task = replace(plateau_task, spec=plateau_task.spec.model_copy(update={"budget": Budget(**budget)}))
    history = train(plateau_task, opened(folder), CPU).history
    sgd = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    torchs = torch.optim.lr_scheduler.ReduceLROnPlateau(
        sgd, "min" if monitor == "val_loss" else "max", factor=0.3, patience=1, min_lr=0.01
    )
    warm = [row for row in history if row["steps"] / history[-1]["steps"] >= warmup]
    for row, after in pairwise(warm):
        torchs.step(row[monitor])
        assert after["lr"] == pytest.approx(sgd.param_groups[0]["lr"])
    assert history[-1]["lr"] < 0.5 * 0.3**2  # it was lowered several times
    assert min(row["lr"] for row in warm) >= 0.01


def test_a_plateau_passes_over_what_is_undefined_and_over_the_warm_up():
    plateau = Plateau(Recipe(lr=1.0, warmup=0.5, plateau_patience=0), higher_is_better=True)
    for progress, value, lr in ((0.1, 0.9, 1), (0.4, 0.2, 1), (0.5, 0.5, 1), (0.6, np.nan, 1), (0.7, 0.4, 0.1)):
        plateau.evaluated(value, progress)
        assert plateau.lr == pytest.approx(lr)


def test_a_plateau_without_validation_slides_is_refused(rare):
    folder, parts = rare
    protocol = task(folder, parts).spec.protocol.model_copy(update={"checkpoint": "last"})
    with refused("split-no-validation", "fold0 of d", "plateau"):
        train(task(folder, parts | {"val": []}, "mean", protocol=protocol, schedule="plateau"), opened(folder), CPU)


NEW_FIELDS = {"min_lr": 1e-5, "class_weights": "balanced", "sampler": "balanced", "label_smoothing": 0.1,
              "plateau_factor": 0.5, "plateau_patience": 3}  # fmt: skip


@pytest.mark.parametrize("field", NEW_FIELDS)
def test_a_field_added_later_is_hashed_where_it_is_used_and_only_there(field, rare):
    folder, parts = rare
    spec = task(folder, parts).spec
    stored = spec.model_dump(mode="json")
    for name in NEW_FIELDS:  # as a version without these fields wrote it
        del stored["recipe"][name]
    del stored["stacked"]
    assert RunSpec.model_validate(stored).run_id == spec.run_id
    assert not set(NEW_FIELDS) & set(spec.recipe.identity())
    changed = spec.model_copy(update={"recipe": spec.recipe.model_copy(update={field: NEW_FIELDS[field]})})
    assert changed.run_id != spec.run_id
    assert set(changed.recipe.identity()) - set(spec.recipe.identity()) == {field}


def test_identity_leaves_out_at_any_depth_what_has_its_default():
    class Inner(Frozen):
        old: int = 1
        new: int = added(2, since="9")

    class Outer(Frozen):
        inner: Inner = Inner()
        extra: Inner = added(Inner(), since="9")

    assert Outer().identity() == {"inner": {"old": 1}}
    assert Outer(inner=Inner(new=3)).identity() == {"inner": {"old": 1, "new": 3}}
    assert Outer(extra=Inner(old=4)).identity() == {"inner": {"old": 1}, "extra": {"old": 4}}
