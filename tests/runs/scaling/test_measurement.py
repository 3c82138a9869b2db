"""One cell against closed forms: operations, bytes, memory; no test reads the clock."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from support.ladder_methods import LADDER, MIB
from support.odd_methods import Plain
from support.refusal import refused
from support.small import ODD

from milbench.runs.scaling import measurement as cell
from milbench.runs.scaling.measurement import ScalingTask, measure_cell
from milbench.runs.scaling.table import growth_exponent

CPU = torch.device("cpu")
D, C = 6, 3


def task(method, mode="infer", n=32, kind="memory", dtype="fp32", **changes):
    plain = ScalingTask(method, mode, n, D, C, dtype, kind, iterations=4, threads=1, device_type="cpu")
    return replace(plain, **changes)


def measured(*args, **kwargs):
    return measure_cell(task(*args, **kwargs), CPU)


@pytest.mark.parametrize("n", [1, 50])
def test_operations_are_the_closed_forms(n):
    embed, head = 2 * n * D * 4, 2 * 4 * C
    actual = measured(LADDER + "Linear", n=n)
    assert actual["flops"] == actual["flops_mandatory"] == embed + head
    training = measured(LADDER + "Linear", "train", n=n)
    # Weights everywhere; the features need no gradient, what the head reads does.
    assert training["flops"] == 2 * embed + 3 * head
    assert training["flops_mandatory"] == training["flops"], "no closed form is stated: what was counted"
    assert measured(LADDER + "Quadratic", n=n)["flops"] == 2 * n * n * D + 2 * D * C


def test_a_methods_own_closed_form_is_what_is_mandatory():
    actual = measured(LADDER + "ClosedForm", n=50)
    assert actual["flops_mandatory"] == 50_007
    assert actual["flops"] == 2 * 50 * D * 4 + 2 * 4 * C
    # A training step has a product as large again for every product; what is computed twice is no due.
    assert measured(LADDER + "ClosedForm", "train", n=50)["flops_mandatory"] == 2 * 50_007
    none = measured(LADDER + "NoClosedForm", n=50)
    assert none["flops_mandatory"] == none["flops"]


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize(("mode", "passes"), [("infer", 1), ("train", 3)])
def test_bytes_are_the_closed_forms(dtype, mode, passes):
    actual = measured(ODD + "Plain", mode, n=40, dtype=dtype)
    parameters = D * C + C
    assert actual["parameters"] == parameters
    assert actual["bytes_mandatory"] == 40 * D * 4 + passes * 4 * parameters


@pytest.mark.parametrize(("method", "due"), [("Linear", 1.0), ("Quadratic", 2.0)])
def test_growth_of_operations(method, due):
    lengths = np.array([64, 128, 256, 512])
    counted = np.array([measured(LADDER + method, n=int(n))["flops"] for n in lengths], float)
    assert growth_exponent(lengths, counted) == pytest.approx(due, abs=0.05)


@pytest.mark.parametrize("mode", ["infer", "train"])
def test_what_a_method_takes_is_its_peak(mode):
    actual = measured(LADDER + "Takes", mode, n=100)
    assert actual["peak_bytes"] == pytest.approx(100 * MIB, abs=4 * MIB)


def test_the_model_is_baseline_and_its_gradient_is_not():
    infer, train = (measured(ODD + "BigParameter", mode)["peak_bytes"] for mode in ("infer", "train"))
    assert infer < 8 * MIB
    assert 60 * MIB < train < 3 * 64 * MIB


def test_the_features_are_baseline():
    assert measured(ODD + "Plain", n=1 << 20, in_dim=32)["peak_bytes"] < 16 * MIB  # 128 MiB of features


def test_samples_of_method_and_multiply():
    actual = measured(ODD + "Plain", kind="time", iterations=5)
    for name in ("seconds", "gemm_seconds"):
        assert len(actual[name]) >= 5
        assert min(actual[name]) > 0
    side = round((actual["gemm_flops"] / 2) ** (1 / 3))
    assert 2 * side**3 == actual["gemm_flops"]


class Sees(Plain):
    """Keeps what it was shown."""

    seen: list = []  # noqa: RUF012

    def strange(self, bags):
        self.seen.append((bags, self.training, torch.is_inference_mode_enabled(),
                          torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu")))  # fmt: skip


@pytest.fixture
def seen(monkeypatch):
    Sees.seen.clear()
    monkeypatch.setattr(cell, "resolve", lambda text: type("Resolved", (), {"create": staticmethod(Sees)}))
    return Sees.seen


@pytest.mark.parametrize(("dtype", "cast"), [("fp32", False), ("bf16", torch.bfloat16)])
def test_inference_is_evaluation_without_gradients(seen, dtype, cast):
    measured("any", kind="time", dtype=dtype, n=2000, in_dim=16)
    bags, training, inference, autocast = seen[-1]
    assert (training, inference, autocast) == (False, True, cast)
    # With autocast the method gets what is stored; without it, its parameters' precision, which is the same here.
    assert bags.x.dtype == torch.float32, "as trainings and evaluations have them, whatever autocast makes of it"
    assert float(bags.x.float().mean()) == pytest.approx(0, abs=0.03)
    assert float(bags.x.float().std()) == pytest.approx(1, abs=0.03)
    assert len(torch.unique(bags.coords, dim=0)) == 2000


def test_training_trains(seen, monkeypatch):
    steps = []
    true = cell.OptimizerStep.step
    monkeypatch.setattr(cell.OptimizerStep, "step", lambda self: steps.append(self) or true(self))
    measured("any", "train", kind="time", iterations=3)
    assert all(training and not inference for _, training, inference, _ in seen)
    assert len(steps) == len(seen) >= 3, "one bag a step"
    assert steps[0].recipe == Plain.recipe


@pytest.mark.parametrize("method", ["max", "max_instance"])
def test_steps_in_half_precision_are_measured_once_they_are_taken(method):
    """The loss is scaled by 2^16 at first, and steps whose gradients overflow are left out."""
    step = half_step(method, n=600, in_dim=256)

    def taken():
        return max((float(state["step"]) for state in step.stepper.optimizer.state.values()), default=0)

    step()
    assert taken() == 0, "else there is nothing to settle"
    step.settle()
    assert taken() == 1


def test_a_loss_that_no_scale_helps_is_refused():
    step = half_step("max", n=10, in_dim=4)
    true = step.stepper.backward

    def overflowing(*given):
        true(*given)
        for p in step.stepper.model.parameters():
            p.grad.fill_(torch.inf)

    step.stepper.backward = overflowing
    with refused("scaling-not-measured", "fp16"):
        step.settle()


def half_step(method, **sizes):
    half = task(method, "train", dtype="fp16", n_classes=2, **sizes)
    model, bag = cell._model(half, CPU), cell._bag(half, CPU)
    for p in model.parameters():
        torch.nn.init.zeros_(p)  # undecided: no class is so sure that its gradient vanishes
    return cell._work(half, model, bag.with_features(4 * bag.x))  # far beyond the range of fp16


def test_features_depend_on_the_seed_alone():
    one, again, other = (cell._bag(task("any", seed=s), CPU).x for s in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", ["fp32", "tf32", "bf16", "fp16"])
def test_cuda(dtype):
    device = torch.device("cuda")
    where = {"dtype": dtype, "device_type": "cuda", "n": 64}
    timed = measure_cell(task("transmil", "train", kind="time", **where), device)
    assert len(timed["seconds"]) >= 4
    actual = measure_cell(task(LADDER + "Linear", **where), device)
    assert actual["method"] == "cuda-allocator"
    assert actual["reserved_bytes"] >= actual["peak_bytes"] > 0
    assert actual["flops"] == 2 * 64 * D * 4 + 2 * 4 * C
    assert not torch.backends.cuda.matmul.allow_tf32
