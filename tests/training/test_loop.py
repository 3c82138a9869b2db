"""The training loop against loops written out here, and what it must never do."""

import dataclasses
import json
import math
import struct

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.odd_methods import Records
from support.refusal import refused
from support.small import ODD, opened, task, write_cohort

from milbench.config import Protocol
from milbench.data.cache.reader import CacheWriter
from milbench.errors import Diverged
from milbench.tasks.classification import Classification
from milbench.training import loader as feed
from milbench.training import loop
from milbench.training.budget_meter import step_flops
from milbench.training.loader import BagLoader, Standardizer
from milbench.training.loop import _Losses, flops_of, train
from milbench.training.predict import predict
from milbench.training.task import derive_seed

CPU = torch.device("cpu")
LAST = Protocol(checkpoint="last")
CLOCKS = ("seconds", "device_seconds")


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cohort")
    return folder, write_cohort(folder)


def run(cohort, method="mean", part="test", **more):
    folder, parts = cohort
    given = task(folder, parts, method, **more)
    trained = train(given, opened(folder), CPU)
    bags = BagLoader(opened(folder), [slide for slide, _ in parts[part]], CPU)
    return trained, predict(trained.model, bags, given.spec.recipe).probabilities


def without_clocks(history):
    return [{key: value for key, value in row.items() if key not in CLOCKS} for row in history]


def reference(cohort, seed, epochs, lr, momentum, decay, size):
    """Train a linear layer on bag means: SGD by hand, nothing of milbench but its seeds.

    Returns:
        validation loss and test probabilities after every epoch.
    """
    folder, parts = cohort
    cache = opened(folder)
    means = {part: torch.stack([cache[s].mean(dim=0) for s, _ in rows]) for part, rows in parts.items()}
    labels = {part: torch.tensor([y for _, y in rows]) for part, rows in parts.items()}
    torch.manual_seed(derive_seed(seed, "init"))
    layer = torch.nn.Linear(means["train"].shape[1], 2)
    velocity = [torch.zeros_like(p) for p in layer.parameters()]
    order = np.random.default_rng(derive_seed(seed, "order"))
    losses, predictions = [], []
    for _ in range(epochs):
        at = order.permutation(len(labels["train"]))
        for i in range(0, len(at), size):
            batch = torch.from_numpy(at[i : i + size])
            loss = F.cross_entropy(layer(means["train"][batch]), labels["train"][batch])
            for p, v, g in zip(
                layer.parameters(), velocity, torch.autograd.grad(loss, layer.parameters()), strict=True
            ):
                v.mul_(momentum).add_(g + decay * p.detach())
                p.data -= lr * v
        with torch.no_grad():
            losses.append(F.cross_entropy(layer(means["val"]), labels["val"]).item())
            predictions.append(layer(means["test"]).softmax(dim=1).numpy())
    return losses, predictions


@pytest.mark.parametrize("checkpoint", ["best-val", "last"])
def test_it_is_plain_sgd_and_selects_as_declared(cohort, checkpoint):
    """Same weights, same order, 12 epochs: predictions of the right epoch agree with the loop above to 1e-6."""
    protocol = Protocol(checkpoint=checkpoint)
    trained, p = run(
        cohort, seed=7, protocol=protocol, epochs=12, lr=0.9, momentum=0.8, weight_decay=0.01, batch_size=3
    )
    losses, predictions = reference(cohort, 7, 12, 0.9, 0.8, 0.01, 3)
    best = int(np.argmin(losses))
    assert 0 < best < 11, "the case must tell the best epoch from the first and the last"
    np.testing.assert_allclose([row["val_loss"] for row in trained.history], losses, atol=1e-6)
    due = best if checkpoint == "best-val" else 11
    assert trained.selected == due + 1
    np.testing.assert_allclose(p, predictions[due], atol=1e-6)
    assert np.abs(predictions[best] - predictions[11]).max() > 1e-3
    assert trained.steps == 12 * 3
    assert trained.bags == 12 * 8


def test_the_same_task_twice_is_the_same_to_the_bit(cohort):
    settings = {"seed": 3, "batch_size": 2, "optimizer": "lookahead-radam"}
    (first, p), (second, q) = (run(cohort, ODD + "Drops", **settings) for _ in range(2))
    np.testing.assert_array_equal(p, q)
    assert without_clocks(first.history) == without_clocks(second.history)
    assert {"epoch", "train_loss", "val_loss", "val_auc", "lr", "steps"} <= set(first.history[0])
    other, r = run(cohort, ODD + "Drops", **settings | {"seed": 4})
    assert (p != r).all()
    assert other.seeds != first.seeds


def test_a_method_that_draws_from_other_generators_is_repeatable_too(cohort):
    np.testing.assert_array_equal(run(cohort, ODD + "OtherGenerators")[1], run(cohort, ODD + "OtherGenerators")[1])


@pytest.mark.parametrize("source", ["init", "order", "dropout"])
def test_every_source_of_chance_has_a_seed_of_its_own(cohort, source, monkeypatch):
    def record():
        Records.log.clear()
        run(cohort, ODD + "Records")
        return {kind: [v.tolist() if kind == "init" else v for k, v in Records.log if k == kind] for kind in seen}

    seen = ("init", "order", "dropout")
    before = record()
    assert len(before["order"]) == 3 * 8
    monkeypatch.setattr(loop, "derive_seed", lambda seed, purpose: derive_seed(seed + (purpose == source), purpose))
    after = record()
    assert {kind for kind in seen if before[kind] != after[kind]} == {source}


def test_seeds_do_not_coincide():
    seeds = {derive_seed(seed, purpose) for seed in range(200) for purpose in ("init", "order", "dropout")}
    assert len(seeds) == 600
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derive_seed(0, "init") == 1122411983230619194, "a change here changes every result: raise PROTOCOL_VERSION"


@pytest.mark.parametrize("bags", [8, 6])
def test_accumulated_batches_are_one_batch(cohort, bags):
    """Two batches of 2 make the step of one batch of 4; with 6 bags the last group is one batch, not half of one."""
    folder, parts = cohort
    fewer = folder, parts | {"train": parts["train"][:bags]}
    small, p = run(fewer, batch_size=2, accumulate=2, protocol=LAST)
    large, q = run(fewer, batch_size=4, protocol=LAST)
    assert small.steps == large.steps == 3 * 2
    np.testing.assert_allclose(p, q, atol=1e-6)
    assert np.abs(p - run(fewer, batch_size=2, protocol=LAST)[1]).max() > 1e-3


def test_gradients_are_clipped(cohort):
    """With a limit of 1e-3 no step of rate 1 is longer than that."""
    trained, _ = run(cohort, protocol=LAST, epochs=1, lr=1.0, grad_clip=1e-3)
    torch.manual_seed(derive_seed(0, "init"))
    start = torch.nn.Linear(4, 2)
    length = math.sqrt(sum((a - b).square().sum().item() for a, b in
                           zip(start.parameters(), trained.model.parameters(), strict=True)))  # fmt: skip
    assert 0 < length <= 8 * 1e-3 * 1.001


def test_the_cosine_runs_over_all_steps(cohort):
    trained, _ = run(cohort, epochs=2, batch_size=3, accumulate=2, schedule="cosine", lr=0.4)
    # 3 batches an epoch in groups of 2: 2 steps an epoch, 4 in all; the rate of an epoch is that of its last step.
    assert [row["lr"] for row in trained.history] == pytest.approx(
        [0.2 * (1 + math.cos(math.pi * i / 4)) for i in (1, 3)]
    )


NAN = math.nan


@pytest.mark.parametrize(
    ("values", "patience", "epochs", "selected"),
    [
        ([1.0, 0.9, 0.95, 0.9, 0.99, 0.1], 3, 5, 2),  # equal is no improvement
        ([1.0, 0.9, 0.95, 0.8, 0.85, 0.86, 0.1], 2, 6, 4),
        ([1.0, 2.0, 0.5], 1, 2, 1),
        ([5.0, 4.0, 3.0, 2.0], 1, 4, 4),
        ([NAN, NAN, 0.7, NAN, 0.8, NAN], 3, 6, 3),  # a defined value replaces an undefined one, never the reverse
        ([NAN] * 6, 2, 3, 1),
        ([3.0, 2.0, 1.0, 2.0, 2.0], None, 5, 3),
    ],
)
@pytest.mark.parametrize("monitor", ["val_loss", "val_auc"])
def test_patience_counts_epochs_without_improvement(cohort, monkeypatch, values, patience, epochs, selected, monitor):
    script = iter(values)

    def scripted(task, targets, predictions):
        value = next(script)
        return {"val_loss": value, "val_auc": NAN} if monitor == "val_loss" else {"val_loss": NAN, "val_auc": -value}

    monkeypatch.setattr(Classification, "validation", scripted)
    trained, p = run(cohort, epochs=len(values), patience=patience, protocol=Protocol(monitor=monitor))
    assert (len(trained.history), trained.selected) == (epochs, selected)
    monkeypatch.undo()
    _, due = run(cohort, epochs=selected, protocol=LAST)
    np.testing.assert_array_equal(p, due)


def test_one_class_in_validation_leaves_auc_undefined_and_training_alive(cohort):
    folder, parts = cohort
    one = folder, parts | {"val": parts["val"][::2]}
    trained, p = run(one, protocol=Protocol(monitor="val_auc"))
    assert all(math.isnan(row["val_auc"]) for row in trained.history)
    assert trained.selected == 1
    assert np.isfinite(p).all()


@pytest.mark.parametrize("settings", [{}, {"protocol": LAST, "patience": 2}])
def test_selection_without_validation_is_refused(cohort, settings):
    folder, parts = cohort
    with refused("split-no-validation", "fold0 of d"):
        run((folder, parts | {"val": []}), **settings)
    trained, _ = run((folder, parts | {"val": []}), protocol=LAST)
    assert trained.selected == 3
    assert "val_loss" not in trained.history[0]


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("coords", [False, True])
def test_resident_and_mapped_bags_are_the_same(tmp_path, monkeypatch, dtype, coords):
    parts = write_cohort(tmp_path, dtype=dtype, coords=coords)
    ids = [slide for slide, _ in parts["train"]]
    resident = BagLoader(opened(tmp_path), ids, CPU)
    monkeypatch.setattr(feed, "_free_bytes", lambda device, limit: 0)
    mapped = BagLoader(opened(tmp_path), ids, CPU)
    assert resident._resident is not None
    assert mapped._resident is None
    for at in ([3], [5, 0, 2], np.array([7, 1])):
        a, b = resident.batch(at), mapped.batch(at)
        raw = torch.cat([opened(tmp_path)[ids[i]] for i in at]).float()
        assert a.lengths == b.lengths == tuple(len(opened(tmp_path)[ids[i]]) for i in at)
        assert a.x.dtype == b.x.dtype == torch.float32
        assert torch.equal(a.x, raw)
        assert torch.equal(b.x, raw)
        assert (a.coords is not None) == (b.coords is not None) == coords
        if coords:
            assert torch.equal(a.coords, torch.cat([opened(tmp_path).coords(ids[i]) for i in at]))
            assert torch.equal(a.coords, b.coords)


def test_batches_of_evaluation_are_bounded_and_complete(cohort, monkeypatch):
    folder, parts = cohort
    bags = BagLoader(opened(folder), [slide for slide, _ in parts["train"]], CPU)
    monkeypatch.setattr(feed, "EVAL_ROWS", 9)
    monkeypatch.setattr(feed, "EVAL_BAGS", 3)
    batches = list(bags.batches())
    assert torch.equal(torch.cat([b.x for b in batches]), bags.batch(range(8)).x)
    assert len(batches) > 2
    assert all(len(b) <= 3 and (len(b) == 1 or b.x.shape[0] <= 9) for b in batches)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("optimizer", ["adamw", "lookahead-radam"])
def test_mixed_precision_trains(cohort, precision, optimizer):
    trained, p = run(cohort, "abmil", precision=precision, optimizer=optimizer, lr=0.01, epochs=8, accumulate=2,
                     grad_clip=1.0)  # fmt: skip
    assert all(math.isfinite(row["train_loss"]) for row in trained.history)
    assert trained.history[-1]["train_loss"] < trained.history[0]["train_loss"]
    assert {q.dtype for q in trained.model.parameters()} == {torch.float32}
    _, exact = run(cohort, "abmil", optimizer=optimizer, lr=0.01, epochs=8, accumulate=2, grad_clip=1.0)
    assert 0 < np.abs(p - exact).max() < 0.05


def test_a_huge_rate_diverges(cohort):
    with pytest.raises(Diverged, match=r"became (nan|inf) in epoch|predicts NaN"):
        run(cohort, lr=1e38, momentum=0.9)


def test_damaged_features_are_named_and_not_blamed_on_the_method(tmp_path):
    parts = write_cohort(tmp_path)
    (shard,) = (tmp_path / "cache").glob("*.safetensors")
    raw = bytearray(shard.read_bytes())
    header = struct.unpack("<Q", raw[:8])[0]
    begin = json.loads(raw[8 : 8 + header])["features"]["data_offsets"][0]
    raw[8 + header + begin : 8 + header + begin + 4] = struct.pack("<f", math.nan)
    shard.write_bytes(raw)
    with refused("features-not-finite", "1 rows", "bag 0"):
        run((tmp_path, parts))


def test_an_easy_problem_is_solved(tmp_path):
    parts = write_cohort(tmp_path, train=20, val=10, test=20, shift=6.0)
    for method in ("mean", "abmil"):
        trained, p = run((tmp_path, parts), method, optimizer="adam", lr=0.05, epochs=20)
        labels = np.array([y for _, y in parts["test"]])
        assert (p.argmax(axis=1) == labels).all()
        assert trained.history[-1]["train_loss"] < 0.1
        assert trained.history[-1]["val_auc"] == 1.0


def test_standardised_features_are_those_of_the_training_instances(cohort, tmp_path):
    """The same as a cache that was standardised beforehand with the training bags' numbers, and nobody else's."""
    folder, parts = cohort
    cache = opened(folder)
    rows = np.concatenate([cache[slide].numpy() for slide, _ in parts["train"]]).astype(np.float64)
    mean, deviation = rows.mean(axis=0), rows.std(axis=0)
    with CacheWriter(tmp_path / "cache", "float32") as writer:
        for slide in cache.ids:
            writer.add(slide, ((cache[slide].numpy() - mean) / deviation).astype(np.float32))
    given = task(folder, parts, protocol=Protocol(standardize=True))
    trained = train(given, cache, CPU)
    beforehand = train(task(tmp_path, parts), opened(tmp_path), CPU)
    for row, wanted in zip(trained.history, beforehand.history, strict=True):
        assert row["train_loss"] == pytest.approx(wanted["train_loss"], rel=1e-5)
        assert row["val_loss"] == pytest.approx(wanted["val_loss"], rel=1e-5)
    test = [slide for slide, _ in parts["test"]]
    ours = predict(trained.model, BagLoader(cache, test, CPU, trained.scaling), given.spec.recipe).probabilities
    theirs = predict(beforehand.model, BagLoader(opened(tmp_path), test, CPU), given.spec.recipe).probabilities
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def test_a_constant_feature_is_centred_and_not_divided_by_zero(tmp_path):
    with CacheWriter(tmp_path / "cache", "float32") as writer:
        writer.add("a", np.full((3, 2), 7.0, dtype=np.float32))
    scaling = Standardizer.fit(opened(tmp_path), ["a"])
    assert scaling.mean.tolist() == [7, 7]
    assert scaling.deviation.tolist() == [1, 1]


def test_operations_that_an_earlier_run_counted_are_taken_over(cohort):
    """A run is given what runs of its method before it have counted, and counts the rest itself.

    The method states no terms, so that nothing else follows from the false number that tells the two apart.
    """
    folder, parts = cohort
    own, cache = task(folder, parts, ODD + "Plain", epochs=2, batch_size=8), opened(folder)
    lengths = [len(cache[slide]) for slide, _ in parts["train"]]
    step_flops.cache_clear()
    plain = train(own, cache, CPU).history[-1]["flops"]
    first = lengths[0]
    of_first = dict(flops_of(own, cache).known)[first]
    step_flops.cache_clear()
    try:
        given = train(dataclasses.replace(own, counted=((first, of_first + 7),)), cache, CPU).history[-1]["flops"]
    finally:
        step_flops.cache_clear()
    assert given == plain + 2 * 7 * lengths.count(first)


def test_counting_moves_no_generator():
    """Not even those that a method should not draw from."""
    import random

    step_flops.cache_clear()
    torch.manual_seed(3), np.random.seed(3), random.seed(3)
    plain = float(torch.rand(())), float(np.random.rand()), random.random()
    torch.manual_seed(3), np.random.seed(3), random.seed(3)
    assert step_flops(ODD + "OtherGenerators", 4, 2).of(5) is not None
    assert (float(torch.rand(())), float(np.random.rand()), random.random()) == plain


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_training_loss_is_the_mean_over_bags_however_many_there_were(device):
    """The losses lie on CPU either way: what differs is whether each is read at once or many of them later."""
    losses = _Losses(torch.device(device))
    rng = np.random.default_rng(0)
    values, sizes = rng.normal(size=9000).astype(np.float32), rng.integers(1, 5, size=9000)
    for value, size in zip(values, sizes, strict=True):
        losses.add(torch.tensor(value), int(size))
    assert losses.mean() == pytest.approx(np.average(values.astype(float), weights=sizes), abs=1e-12)
    losses.add(torch.tensor(2.0), 3)
    assert losses.mean() == 2.0
