"""Stacked trainings against the loop that trains one, and against each other in other company."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support import grades
from support.refusal import refused
from support.small import ODD, opened, suite, task, write_cohort

import milbench
from milbench.bags import Bags
from milbench.config import Budget, Protocol, Recipe
from milbench.errors import Diverged
from milbench.evaluation.leaderboard import leaderboard
from milbench.nn.stacked import Stack
from milbench.registry import resolve
from milbench.runs.execute import run
from milbench.runs.plan import IN_TURN, make_plan, to_task, together
from milbench.runs.run_tasks import SharedTask
from milbench.tasks import task_named
from milbench.training.loader import BagLoader
from milbench.training.loop import train
from milbench.training.predict import predict
from milbench.training.stacked import stacks, train_stacked

CPU = torch.device("cpu")
LAST = Protocol(checkpoint="last", standardize=True)
#: Sums of the same terms in another order, through a few dozen steps of a smooth loss.
TOLERANCE = 2e-5
SPELLINGS = [
    "mean", "max", "max_instance", "abmil[embed_dim=12-6]", "abmil[gated=true]", "dsmil",
]  # fmt: skip


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cohort")
    return folder, write_cohort(folder, train=9, coords=True)


def predictions(cohort, trained, given):
    folder, parts = cohort
    bags = BagLoader(opened(folder), [slide for slide, _ in parts["test"]], CPU, trained.scaling)
    return predict(trained.model, bags, given.spec.recipe).probabilities


def tasks(cohort, method, seeds, protocol=LAST, rotate=False, **recipe):
    """Return a task for each seed; with `rotate`, each on a training set of its own."""
    folder, parts = cohort
    made = []
    for seed in seeds:
        own = dict(parts)
        if rotate:
            every = parts["train"] + parts["val"]
            own["train"] = (every[seed:] + every[:seed])[: len(parts["train"])]
        made.append(task(folder, own, method, seed, protocol, **recipe))
    return made


def test_every_method_declared_stackable_is_tested_here():
    """The contract checks their gradients as well, at every number of classes."""
    declared = {name for name in milbench.list_aggregators() if resolve(name).cls.stackable}
    assert declared == {spec.partition("[")[0] for spec in SPELLINGS}


@pytest.mark.parametrize("method", SPELLINGS)
@pytest.mark.parametrize(
    "recipe",
    [
        {"momentum": 0.9, "weight_decay": 0.01, "lr": 0.05},
        {"optimizer": "adam", "lr": 0.01, "batch_size": 4, "schedule": "cosine", "warmup": 0.2},
        {"optimizer": "lookahead-radam", "lr": 0.01, "batch_size": 2, "accumulate": 2, "epochs": 6},
    ],
    ids=["sgd", "adam", "lookahead"],
)
def test_each_model_is_the_one_trained_alone(cohort, method, recipe):
    given = tasks(cohort, method, range(5), rotate=True, **recipe)
    cache = opened(cohort[0])
    for own, trained in zip(given, train_stacked(given, cache, CPU), strict=True):
        alone = train(own, cache, CPU)
        assert trained.seeds == alone.seeds
        assert (trained.steps, trained.bags, trained.patches) == (alone.steps, alone.bags, alone.patches)
        assert [row["lr"] for row in trained.history] == [row["lr"] for row in alone.history]
        assert [row["flops"] for row in trained.history] == [row["flops"] for row in alone.history]
        np.testing.assert_allclose(
            predictions(cohort, trained, own), predictions(cohort, alone, own), atol=TOLERANCE, rtol=0
        )


def test_a_stack_trains_by_the_loss_of_its_cohorts_task(cohort, monkeypatch):
    installed = {"grades": grades.TASK}
    monkeypatch.setattr(milbench.training.task, "task_named", lambda name: installed.get(name) or task_named(name))

    def of(name, given):
        return [dataclasses.replace(t, spec=t.spec.model_copy(update={"task": name})) for t in given]

    plain = tasks(cohort, "abmil", range(3), lr=0.2, epochs=8)
    given, cache = of("grades", plain), opened(cohort[0])
    for own, trained, by_entropy in zip(
        given, train_stacked(given, cache, CPU), train_stacked(plain, cache, CPU), strict=True
    ):
        stacked, alone = predictions(cohort, trained, own), predictions(cohort, train(own, cache, CPU), own)
        np.testing.assert_allclose(stacked, alone, atol=TOLERANCE, rtol=0)
        assert np.abs(stacked - predictions(cohort, by_entropy, own)).max() > 100 * TOLERANCE
    with pytest.raises(ValueError, match="kind of target"):
        train_stacked([given[0], plain[1]], cache, CPU)


@pytest.mark.parametrize("monitor", ["val_loss", "val_auc"])
def test_each_selects_its_own_best_evaluation(tmp_path, monitor):
    cohort = tmp_path, write_cohort(tmp_path, val=9, shift=0.0)  # nothing to learn: any evaluation may be the best
    given = tasks(cohort, "abmil", range(4), Protocol(monitor=monitor), epochs=8, lr=0.2)
    cache = opened(cohort[0])
    chosen = []
    for own, trained in zip(given, train_stacked(given, cache, CPU), strict=True):
        alone = train(own, cache, CPU)
        chosen.append(trained.selected)
        assert trained.selected == alone.selected
        np.testing.assert_allclose(
            [row["val_loss"] for row in trained.history], [row["val_loss"] for row in alone.history], atol=TOLERANCE
        )
        np.testing.assert_allclose(
            predictions(cohort, trained, own), predictions(cohort, alone, own), atol=TOLERANCE, rtol=0
        )
    assert len(set(chosen)) > 1, "all select the same, which tests little"


def test_the_oracle_protocol_keeps_every_evaluation(cohort):
    given = tasks(cohort, "mean", range(3), Protocol(checkpoint="oracle"), epochs=4)
    for own, trained in zip(given, train_stacked(given, opened(cohort[0]), CPU), strict=True):
        alone = train(own, opened(cohort[0]), CPU)
        for kept, expected in zip(trained.trajectory, alone.trajectory, strict=True):
            np.testing.assert_allclose(kept.probabilities, expected.probabilities, atol=TOLERANCE, rtol=0)
            np.testing.assert_allclose(kept.log_odds, expected.log_odds, atol=1e-4, rtol=0)


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize(
    "method", ["abmil[dropout=0.5,embed_dim=40-20]", "abmil[gated=true]", "dsmil", "max", "max_instance"]
)
def test_company_changes_nothing_to_the_bit(tmp_path, method, batch_size):
    """What a resumed suite trains again must be what it would have been: 1, 3, 4 and 7 models, any places.

    Features as wide as MUSK's: parameters then begin at places in memory that differ in their alignment.
    """
    cohort = tmp_path, write_cohort(tmp_path, train=9, dim=166)
    given = tasks(cohort, method, range(7), rotate=True, batch_size=batch_size, momentum=0.9, epochs=5, lr=0.02)
    cache = opened(cohort[0])

    def outcomes(which):
        trained = train_stacked([given[i] for i in which], cache, CPU)
        return {i: (predictions(cohort, t, given[i]), t.history) for i, t in zip(which, trained, strict=True)}

    every = outcomes(range(7))
    for which in ([2], [6, 2, 0], [5, 4, 2, 1]):
        for i, (p, history) in outcomes(which).items():
            assert np.array_equal(p, every[i][0]), (which, i)
            assert str(history) == str(every[i][1])  # as text, since NaN is not itself


def test_seeds_differ_in_dropout_alone_too(cohort):
    """Same start and order, other dropout: the generators are each model's own."""
    models = [resolve("abmil[dropout=0.5,embed_dim=64]").create(4, 2) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    stack = Stack(models, [torch.Generator().manual_seed(i) for i in range(2)]).train()
    x = torch.ones(3, 4)
    first, second = stack(Bags.pack([x, x])).embedding
    assert not torch.equal(first, second)
    stack.eval()
    first, second = stack(Bags.pack([x, x])).embedding
    assert torch.equal(first, second)


@pytest.mark.parametrize("p", [0.25, 0.5, 1.0])
def test_dropout_keeps_the_share_and_the_mean(p):
    model = resolve(f"abmil[dropout={p},embed_dim=1000]").create(4, 2)
    torch.nn.init.constant_(model.embed[0].bias, 3.0)
    torch.nn.init.zeros_(model.embed[0].weight)
    stack = Stack([model, model], [torch.Generator().manual_seed(i) for i in range(2)]).train()
    (z, _) = stack(Bags.pack([torch.ones(1, 4)] * 2)).embedding
    kept = z != 0
    # 1000 draws: five standard deviations of a binomial share.
    assert abs(float(kept.float().mean()) - (1 - p)) <= 5 * (p * (1 - p) / 1000) ** 0.5
    torch.testing.assert_close(z[kept], torch.full_like(z[kept], 3 / (1 - p) if p < 1 else 0.0))


def test_a_model_that_diverges_is_reported_and_the_others_go_on(cohort):
    given = tasks(cohort, "mean", range(4), epochs=2)
    cache = opened(cohort[0])
    poisoned = dataclasses.replace(given[1], spec=given[1].spec.model_copy(update={"seed": 9}))
    with pytest.raises(ValueError, match="one method"):
        train_stacked([given[0], dataclasses.replace(given[1], method="max")], cache, CPU)

    class Poison(resolve("mean").cls):
        """Mean pooling that starts from infinity where its seed says so."""

        def __init__(self, in_dim, n_classes):
            super().__init__(in_dim, n_classes)
            if torch.initial_seed() == bad:
                torch.nn.init.constant_(self.head.weight, torch.inf)

    bad = milbench.training.task.derive_seed(9, "init")
    import support.odd_methods as home

    home.Poison = Poison
    Poison.__module__, Poison.__qualname__ = home.__name__, "Poison"
    mixed = [dataclasses.replace(t, method=ODD + "Poison") for t in (given[0], poisoned, given[2])]
    first, second, third = train_stacked(mixed, cache, CPU)
    assert isinstance(second, Diverged)
    assert "infinite in epoch 1" in str(second)
    plain = train_stacked([given[0], given[2]], cache, CPU)
    for own, trained, other in zip((given[0], given[2]), (first, third), plain, strict=True):
        assert np.array_equal(predictions(cohort, trained, own), predictions(cohort, other, own))


def test_what_is_not_stackable_is_refused():
    model = resolve("transmil[dim=16,heads=2]").create(4, 2)
    with refused("method-unsupported", "TransMIL", "stacked = 1"):
        Stack([model, model], [torch.Generator()] * 2)


@pytest.mark.parametrize("change", [
    {"recipe": {"patience": 3}}, {"recipe": {"grad_clip": 1.0}}, {"recipe": {"precision": "bf16"}},
    {"budget": {"steps": 10}}, {"budget": {"memory_bytes": 1 << 30}},
    {"budget": {"on_oom": "subsample", "max_instances": 9}},
])  # fmt: skip
def test_what_looks_across_models_is_not_stacked(change):
    assert stacks(Recipe(), Budget())
    assert not stacks(Recipe(**change.get("recipe", {})), Budget(**change.get("budget", {})))


def assert_same(one, other):
    def tables(records):
        return {(r.method, r.spec.seed): r.predictions() for r in records}

    one, other = tables(one), tables(other)
    assert one.keys() == other.keys()
    for key, frame in one.items():
        assert frame.equals(other[key]), key


@pytest.fixture(scope="module")
def made(cohort, tmp_path_factory):
    """A suite with one method that is stacked and one that shares a process; and the results."""
    small = suite(cohort[0], ("mean", "clam_sb"), seeds=5, stacked=4, recipe={"epochs": 2, "patience": None})
    results = tmp_path_factory.mktemp("results")
    return small, results, run(small, results, jobs=2)


def test_a_timeout_changes_no_stacked_run(made, tmp_path):
    small, results, records = made
    assert not make_plan(small, results, timeout_s=600).todo()
    assert_same(run(small, tmp_path, methods=["mean"], seeds=2, timeout_s=600, jobs=2),
                [r for r in records if r.method == "mean" and r.spec.seed < 2])  # fmt: skip


def test_a_suite_runs_in_stacks_and_in_shared_processes(cohort, made, tmp_path):
    small, _, records = made
    assert len(records) == 10
    assert all(r.outcome == "ok" for r in records)
    sizes = sorted(r.record["stack"]["models"] for r in records if r.method == "mean")
    assert sizes == [2, 4, 4, 4, 4], "a single model is stacked with a copy"
    assert all(r.spec.stacked == (r.method == "mean") for r in records)
    assert all("peak_memory_bytes" not in r.record for r in records)
    alone = run(small.model_copy(update={"stacked": 1}), tmp_path, jobs=2)
    ids = [{r.spec.run_id for r in some if r.method == "clam_sb"} for some in (records, alone)]
    assert ids[0] == ids[1], "a run that was not stacked is the run it always was"
    assert_same([r for r in records if r.method == "clam_sb"], [r for r in alone if r.method == "clam_sb"])
    assert not {r.spec.run_id for r in records if r.method == "mean"} & {r.spec.run_id for r in alone}


def test_a_run_made_again_is_the_same_to_the_bit(made, tmp_path):
    import shutil

    small, results, records = made
    again = tmp_path / "again"
    shutil.copytree(results, again)
    lost = next(r for r in records if r.method == "mean")
    shutil.rmtree(again / lost.path.relative_to(results))
    actual = run(small, again, jobs=2)
    assert_same(records, actual)
    assert next(r for r in actual if r.spec.run_id == lost.spec.run_id).record["stack"]["models"] == 2


def test_what_the_whole_stack_took_is_nobodys_own(made):
    """Device-seconds of a stack share no axis with those of methods that were not stacked."""
    _, results, records = made
    for record in records:
        alone = record.method == "clam_sb"
        assert (record.record["train"]["device_seconds"] is not None) == alone
        assert record.history()["train_loss"].notna().all() == alone
        assert record.history()["device_seconds"].notna().all() == alone
        assert record.record["train"]["steps"] == record.history()["steps"].iloc[-1] > 0
    table = leaderboard(results, resamples=50).set_index("method")
    assert np.isnan(table.loc["mean", "train_device_seconds"])
    assert table.loc["mean", "front_device_seconds"] is None
    assert table.loc["clam_sb", "train_device_seconds"] > 0


def test_a_run_that_ends_its_process_takes_no_other_with_it(cohort, tmp_path):
    """Three runs share a process that one of them ends: each is then run by itself."""
    small = suite(cohort[0], (ODD + "KilledBySeed",), seeds=3, stacked=4, recipe={"epochs": 1, "patience": None})
    assert [r.outcome for r in sorted(run(small, tmp_path, jobs=1), key=lambda r: r.spec.seed)] == [
        "ok", "failed", "ok",
    ]  # fmt: skip


def test_what_does_not_fit_beside_others_is_tried_alone(cohort, tmp_path):
    """The third run of a process fails to get memory there, and gets it by itself."""
    small = suite(cohort[0], (ODD + "FailsThird",), seeds=4, stacked=4, recipe={"epochs": 1, "patience": None})
    assert [r.outcome for r in run(small, tmp_path, jobs=1)] == ["ok"] * 4


def test_runs_go_together_by_method_recipe_and_cohort(cohort):
    small = suite(cohort[0], ("mean", "clam_sb"), seeds=12, stacked=10, recipe={"epochs": 1, "patience": None})
    groups = together(make_plan(small, cohort[0] / "none").runs, 10)
    assert sorted((g[0].method.name, len(g)) for g in groups) == [
        ("clam_sb", 4), ("clam_sb", IN_TURN), ("mean", 2), ("mean", 10),
    ]  # fmt: skip
    assert all(len({p.method.name for p in group}) == 1 for group in groups)
    for budget in (Budget(timeout_s=60), Budget(on_oom="subsample", max_instances=5)):
        limited = small.model_copy(update={"budget": budget})
        alone = together(make_plan(limited, cohort[0] / "none").runs, 10)
        assert {len(group) for group in alone} == {1}
        stacked = {isinstance(to_task(group, 10), SharedTask) for group in alone if group[0].spec.stacked}
        # A timeout is no part of a run: it is trained as a stack of one, with a process to itself.
        assert stacked == ({True} if budget.timeout_s else set())
        assert not any(isinstance(to_task(g, 10), SharedTask) for g in alone if not g[0].spec.stacked)
    assert {len(group) for group in together(make_plan(small, cohort[0] / "none").runs, 1)} == {1}


def test_what_a_study_has_set_keeps_runs_apart(cohort):
    """Runs of one method of the suite that were tuned to different parameters are different methods."""
    small = suite(cohort[0], ("abmil",), seeds=4, stacked=10, recipe={"epochs": 1, "patience": None})
    runs = list(make_plan(small, cohort[0] / "none").runs)
    for i in (1, 3):
        spec = runs[i].spec.model_copy(update={"params": {**runs[i].spec.params, "gated": True}})
        tuned = dataclasses.replace(runs[i].task, spec=spec, method="abmil[gated=true]")
        runs[i] = dataclasses.replace(runs[i], task=tuned)
    groups = together(runs, 10)
    assert [[p.task.method for p in g] for g in groups] == [["abmil"] * 2, ["abmil[gated=true]"] * 2]


@pytest.mark.parametrize("lengths", [(1, 1, 1, 1), (3, 1, 40, 2), (200, 5, 11, 13)])
def test_products_of_a_stack_are_those_of_its_layers(lengths):
    """Few rows go through numpy, many through torch, one column through a sum: float64 tells all of them."""
    torch.manual_seed(0)
    for widths in ("300", "1"):
        models = [resolve(f"abmil[embed_dim={widths}]").create(230, 2) for _ in range(4)]
        x = [torch.randn(n, 230) for n in lengths]
        wanted = []
        for model, rows in zip(models, x, strict=True):
            layer = model.embed[0]
            wanted.append(rows.double() @ layer.weight.detach().double().T + layer.bias.detach().double())
        stack = Stack(models, [torch.Generator()] * 4)
        seen = []
        stack.joint.embed[0].register_forward_hook(lambda *a, seen=seen: seen.append(a[2].detach().clone()))
        stack(Bags.pack(x))
        torch.testing.assert_close(seen[0].double(), torch.cat(wanted), atol=2e-5, rtol=1e-5)


def test_of_stacks_the_longest_come_first_and_without_stacks_nothing_is_moved():
    def planned(method, work, seed):
        spec = SimpleNamespace(run_id=f"{method}{seed}", budget=Budget(), stacked=True,
                               model_dump=lambda mode, exclude: {"method": method})  # fmt: skip
        return SimpleNamespace(spec=spec, work=work, task=SimpleNamespace(method=method, train=((0, 1),)))

    todo = [planned(method, work, seed) for method, work in (("a", 1.0), ("b", 9.0), ("c", 2.0)) for seed in range(3)]
    names = [[p.spec.run_id for p in part] for part in together(todo, 2)]
    assert names == [["b0", "b1"], ["b2"], ["c0", "c1"], ["a0", "a1"], ["c2"], ["a2"]]
    assert [p.spec.run_id for (p,) in together(todo, 1)] == [p.spec.run_id for p in todo]
