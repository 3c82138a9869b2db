"""What a method takes and returns: checkpoints of authors' programs, labels outside the classes, tensors for bags."""

import re
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.refusal import refused
from support.small import suite as small_suite
from support.small import write_cohort
from torch import nn

import milbench
from milbench.aggregator import Aggregator
from milbench.bags import BagOutput, Bags
from milbench.config import Card
from milbench.registry import Method, resolve
from milbench.report.bibtex import entry
from milbench.runs.plan import make_plan
from milbench.testing import run_check
from milbench.testing.case import Case
from milbench.testing.checks import logits_are_scores

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
    others = {"loss.weight": torch.ones(2), "train_metrics.total": torch.tensor(3)}
    return {"epoch": 3, "state_dict": {f"model.{name}": value for name, value in state.items()} | others,
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
    with refused("authors-state-mismatch") as refusal:
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
    with refused("authors-state-mismatch"):
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
        with refused("targets-bad"):
            model.loss(out, wrong)
    with refused("targets-bad"):
        made(method, 3).loss(made(method, 3)(bags), torch.tensor([0, 3]))


@pytest.mark.parametrize("given", [
    torch.randn(5, 8), torch.randn(1, 5, 8), {"data": torch.ones(1, 5, 8)}, [torch.randn(5, 8)], np.ones((5, 8)), None,
])  # fmt: skip
@pytest.mark.parametrize("method", METHODS)
def test_a_model_given_something_else_than_bags_names_pack(method, given):
    with refused("bag-shape", "Bags.pack"):
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
    with refused("bag-shape"):
        Bags.pack(given)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 4), st.integers(-5, 8))
def test_targets_outside_the_classes_have_no_loss(n_classes, target):
    model = made("mean", n_classes)
    out = model(Bags.pack([torch.ones(2, 8)]))
    if 0 <= target < n_classes:
        assert torch.isfinite(model.loss(out, torch.tensor([target])))
    else:
        with refused("targets-bad"):
            model.loss(out, torch.tensor([target]))


HEADS = {
    "softmax": lambda z: z.softmax(dim=1),
    "sigmoids": torch.sigmoid,
    "tanh": torch.tanh,
    "clamp": lambda z: z.clamp(-1, 1),
    "one sigmoid": lambda z: torch.sigmoid(z[:, :1]),
    "one log-sigmoid": lambda z: nn.functional.logsigmoid(z[:, :1]),
    "one rectified": lambda z: torch.relu(z[:, :1]),
}
RIGHT_HEADS = {"logits": lambda z: z, "log-softmax": lambda z: z.log_softmax(dim=1), "one logit": lambda z: z[:, :1],
               "clamped far out": lambda z: z.clamp(-50, 50)}  # fmt: skip


@pytest.mark.parametrize("head", [*HEADS, *RIGHT_HEADS])
def test_check_catches_probabilities_returned_as_logits(head):
    class Ported(Aggregator):
        """Mean pooling whose head ends as a ported one may."""

        def __init__(self, in_dim: int, n_classes: int) -> None:
            super().__init__(in_dim, n_classes)
            self.head = nn.Linear(in_dim, n_classes)

        def pool(self, bags, attention):
            z = torch.stack([bags[i].x.mean(dim=0) for i in range(len(bags))])
            return BagOutput((HEADS | RIGHT_HEADS)[head](self.head(z)))

    verdict = run_check(logits_are_scores, Case(Method("ported", Ported, {}), 16, 2))
    assert verdict.status == ("broken" if head in HEADS else "passed"), verdict.detail


def test_a_head_that_starts_at_zero_is_no_probability():
    class Zero(OwnLoss):
        """A head of zeros."""

        def __init__(self, in_dim: int, n_classes: int) -> None:
            super().__init__(in_dim, n_classes)
            self.head = nn.Linear(in_dim, 1 if n_classes == 2 else n_classes)
            nn.init.zeros_(self.head.weight)
            nn.init.zeros_(self.head.bias)

    assert run_check(logits_are_scores, Case(Method("zero", Zero, {}), 16, 2)).status == "passed"


def test_two_spellings_of_a_method_are_one_with_a_sentence(tmp_path):
    parts = write_cohort(tmp_path)
    assert parts
    given = small_suite(tmp_path, ("mean", "abmil", "abmil[gated=false]"), reference="abmil[gated=false]")
    plan = make_plan(given, tmp_path / "r")
    assert sorted(run.method.canonical for run in plan.runs) == ["abmil", "mean"]
    assert any("abmil[gated=false]" in note for note in plan.notes)


POOL = '''
from torch import nn
from milbench import Aggregator, BagOutput, Card
class MyPool(Aggregator):
    """{word}."""
    card = Card(title="MyPool", family="iid", citation="x")
    def __init__(self, in_dim: int, n_classes: int) -> None:
        super().__init__(in_dim, n_classes)
        self.head = nn.Linear(in_dim, n_classes)
    def pool(self, bags, attention):
        return BagOutput(self.head(bags.x[: len(bags)]))
'''


def test_a_method_is_loaded_from_the_folder_of_its_suite_whichever_suite_was_read_before(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", sys.path.copy())
    codes = {}
    for word in ("first", "second", "again"):
        folder = tmp_path / word
        folder.mkdir()
        write_cohort(folder)
        (folder / "own_pool_of_a_suite.py").write_text(POOL.format(word="first" if word == "again" else word))
        plan = make_plan(small_suite(folder, ("own_pool_of_a_suite:MyPool",)), folder / "r")
        assert plan.runs[0].method.cls.__doc__.startswith("first" if word == "again" else word)
        codes[word] = plan.runs[0].spec.run_id
    assert codes["first"] == codes["again"] != codes["second"]  # the folder's place is no part of it


def test_a_method_that_is_nowhere_is_refused_with_the_folders(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", sys.path.copy())
    write_cohort(tmp_path)
    with refused("method-not-importable", str(tmp_path.resolve())):
        make_plan(small_suite(tmp_path, ("no_such_pool_anywhere:MyPool",)), tmp_path / "r")


def parsed(text):
    """Read BibTeX entries: (kind, key, fields), by counting braces."""
    entries, at = [], 0
    while (at := text.find("@", at)) >= 0:
        kind, _, rest = text[at + 1 :].partition("{")
        depth, end = 1, 0
        while depth:
            depth += {"{": 1, "}": -1}.get(rest[end], 0)
            end += 1
        key, _, body = rest[: end - 1].partition(",")
        fields = dict(re.findall(r"^\s*(\w+) = \{(.*)\},?$", body, re.MULTILINE))
        entries.append((kind, key.strip(), fields))
        at += len(kind) + 1 + end
    return entries


@pytest.mark.parametrize("method", METHODS)
def test_every_built_in_method_has_a_bibtex_entry(method):
    card = resolve(method).card
    [(kind, key, fields)] = parsed(entry(card, method))
    assert kind in ("article", "inproceedings")
    assert key == method
    assert {"author", "title", "year", "url"} <= set(fields)
    assert ("journal" in fields) == (kind == "article")
    assert fields["year"] in card.citation
    assert fields["author"].replace(" and ", ", ") == card.citation.partition(f". {fields['title'].strip('{}')}")[0]


def test_a_citation_of_another_form_is_quoted_whole():
    card = Card(title="M & M", family="iid", citation="Me {2026}. 100 %")
    [(kind, key, fields)] = parsed(entry(card, "my_pkg.pool:M"))
    assert (kind, key) == ("misc", "my_pkg.pool:M")
    assert fields["note"] == r"Me 2026. 100 \%"
