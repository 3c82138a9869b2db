"""What a method takes and returns: checkpoints of authors' programs, labels outside the classes, tensors for bags."""

import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import milbench
from milbench.aggregator import Aggregator
from milbench.bags import BagOutput, Bags
from milbench.errors import MilbenchError

METHODS = milbench.list_aggregators()


def under_authors_names(model):
    """The state of a model under its authors' names, shifted so that loading it changes the model."""
    pairs = sorted(model.authors_names.items(), key=lambda pair: -len(pair[1]))
    out = {}
    for name, value in model.state_dict().items():
        theirs, ours = next(((t, o) for t, o in pairs if name.startswith(o)), ("", ""))
        out[theirs + name[len(ours) :]] = value + 1
    return out


def data_parallel(state):
    return {f"module.{name}": value for name, value in state.items()}


def lightning(state):
    beside = {"loss.weight": torch.ones(2), "train_metrics.total": torch.tensor(3)}
    return {"epoch": 3, "state_dict": {f"model.{name}": value for name, value in state.items()} | beside,
            "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(2)}}}]}  # fmt: skip


WRITTEN_BY = {
    "plain": (dict, False),
    "DataParallel": (data_parallel, True),
    "Lightning": (lightning, True),
    "torch.compile": (lambda s: {f"_orig_mod.{name}": value for name, value in s.items()}, True),
    "a training script": (lambda s: {"epoch": 1, "model_state_dict": s, "optimizer_state_dict": {"state": {}}}, True),
    "an attribute of some name": (lambda s: {f"net.aggregator.{name}": value for name, value in s.items()}, True),
    "parallel inside Lightning": (lambda s: lightning(data_parallel(s)), True),
    "a parallel layer": (lambda s: {re.sub(r"^([^.]+)\.", r"\1.module.", name): v for name, v in s.items()}, True),
    "a loss with buffers": (lambda s: s | {"instance_loss_fn.labels": torch.arange(2)}, True),
}


@pytest.mark.parametrize("writer", WRITTEN_BY)
@pytest.mark.parametrize("method", METHODS)
def test_checkpoints_load_as_the_authors_programs_write_them(method, writer):
    model = milbench.create(method, in_dim=16)
    wanted = {name: value + 1 for name, value in model.state_dict().items()}
    wrap, said = WRITTEN_BY[writer]
    notes = model.load_authors_state(wrap(under_authors_names(model)))
    assert bool(notes) == said
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, wanted[name])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("harm", ["missing", "unknown", "shape", "none of them", "prefix on some"])
def test_a_state_that_does_not_fit_is_refused_in_a_short_sentence_and_nothing_is_loaded(method, harm):
    model = milbench.create(method, in_dim=16)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = under_authors_names(model)
    first = next(iter(state))
    if harm == "missing":
        del state[first]
    elif harm == "unknown":
        state["extra.weight"] = torch.ones(2)
    elif harm == "shape":
        state[first] = torch.ones(3, 5, 7)
    elif harm == "prefix on some":
        state[f"model.{first}"] = state.pop(first)
        if len(state) == 1:
            pytest.skip("one parameter has no others")
    else:
        state = {f"x{i}": torch.ones(1) for i in range(400)}
    with pytest.raises(MilbenchError) as refusal:
        model.load_authors_state(state)
    text = str(refusal.value)
    assert len(text) <= 300
    if harm == "shape":
        assert first in text
        assert "3x5x7" in text
    if harm == "unknown":
        assert "extra.weight" in text
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


@pytest.mark.parametrize("state", [{}, {"epoch": 3}, [1], nn.Linear(2, 2)])
def test_what_holds_no_parameters_is_refused(state):
    with pytest.raises(MilbenchError):
        milbench.create("mean", in_dim=4).load_authors_state(state)


class OwnLoss(Aggregator):
    """A loss of its own that takes any number, as a binary cross-entropy does."""

    def __init__(self, in_dim: int, n_classes: int) -> None:
        super().__init__(in_dim, n_classes)
        self.head = nn.Linear(in_dim, n_classes)

    def pool(self, bags, attention):
        z = torch.stack([bags[i].x.mean(dim=0) for i in range(len(bags))])
        return BagOutput(self.head(z))

    def loss(self, out, targets):
        return super().loss(out, targets) + 0 * (out.logits[:, 0] * targets).mean()


def made(method, n_classes=2):
    torch.manual_seed(0)
    return OwnLoss(8, n_classes) if method == "own" else milbench.create(method, in_dim=8, n_classes=n_classes)


WRONG_TARGETS = [
    torch.tensor([2, 0]), torch.tensor([0, -1]), torch.tensor([-100, 1]), torch.tensor([0.0, 1.0]),
    torch.tensor([0, 1], dtype=torch.int32), torch.tensor([True, False]), torch.tensor([0]), torch.tensor([[0], [1]]),
    [0, 1], np.array([0, 1]),
]  # fmt: skip


@pytest.mark.parametrize("method", [*METHODS, "own"])
def test_a_loss_takes_class_indices_of_its_bags_and_nothing_else(method):
    model = made(method)
    bags = Bags.pack([torch.randn(5, 8), torch.randn(3, 8)])
    out = model(bags)
    assert torch.isfinite(model.loss(out, torch.tensor([0, 1])))
    for wrong in WRONG_TARGETS:
        with pytest.raises(MilbenchError):
            model.loss(out, wrong)
    with pytest.raises(MilbenchError):
        made(method, 3).loss(made(method, 3)(bags), torch.tensor([0, 3]))


@pytest.mark.parametrize("given", [
    torch.randn(5, 8), torch.randn(1, 5, 8), {"data": torch.ones(1, 5, 8)}, [torch.randn(5, 8)], np.ones((5, 8)), None,
])  # fmt: skip
@pytest.mark.parametrize("method", METHODS)
def test_a_model_given_something_else_than_bags_names_pack(method, given):
    with pytest.raises(MilbenchError, match=re.escape("Bags.pack")):
        milbench.create(method, in_dim=8)(given)


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", ">f4", "g"])
def test_arrays_are_packed_as_tensors_are(dtype):
    arrays = [np.arange(10.0).reshape(5, 2).astype(dtype), np.ones((2, 2), dtype)[::-1]]
    arrays[0].flags.writeable = False
    packed = Bags.pack(arrays, coords=[np.zeros((5, 2), int), torch.zeros(2, 2, dtype=torch.int64)])
    np.testing.assert_array_equal(packed.x.double().numpy(), np.concatenate(arrays).astype("f8"))
    assert packed.lengths == (5, 2)
    assert packed.coords is not None


@pytest.mark.parametrize("given", [
    torch.randn(5, 8), np.zeros((5, 8)), [[1.0, 2.0]], "bag", {"a": torch.randn(5, 8)}, 3, [np.array([["a"]])],
    [np.zeros((2, 2), complex)], [None],
])  # fmt: skip
def test_what_is_no_list_of_bags_is_refused(given):
    with pytest.raises(MilbenchError):
        Bags.pack(given)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 4), st.integers(-5, 8))
def test_targets_outside_the_classes_have_no_loss(n_classes, target):
    model = made("mean", n_classes)
    out = model(Bags.pack([torch.ones(2, 8)]))
    if 0 <= target < n_classes:
        assert torch.isfinite(model.loss(out, torch.tensor([target])))
    else:
        with pytest.raises(MilbenchError):
            model.loss(out, torch.tensor([target]))
