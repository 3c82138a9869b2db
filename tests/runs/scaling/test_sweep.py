"""The ladder as a whole: its order, its processes, and what becomes of cells that do not fit."""

import itertools
from pathlib import Path

import pytest
import torch
from support.authors import AuthorsTransMIL
from support.ladder_methods import LADDER, MIB
from support.refusal import refused
from support.small import ODD

import milbench
from milbench.runs.scaling.sweep import device_slug, file_stem, journal_of, parse_lengths, plan_sweep, run_sweep

TAKES, PLAIN, LOST = LADDER + "Takes", ODD + "Plain", ODD + "Lost"
CAP = 256 * MIB


@pytest.fixture(scope="module")
def climbed():
    """Two rounds; Takes runs at 8 and 32, and runs out of memory at 600 and at 700; Lost never works."""
    plan = plan_sweep([TAKES, PLAIN, LOST], (600, 8, 32, 700), modes=["infer"], in_dim=8, rounds=2, iterations=9,
                       threads=1, device="cpu", memory_bytes=CAP, against=PLAIN)  # fmt: skip
    steps = []
    return run_sweep(plan, steps.append), steps


def cell(climbed, method, n):
    df = climbed[0].table
    return df[(df["method"] == method) & (df["n"] == n)].iloc[0]


def test_every_cell_is_a_row_and_says_how_it_ended(climbed):
    df = climbed[0].table
    assert list(zip(df["n"], df["method"], strict=True)) == list(
        itertools.product((8, 32, 600, 700), (TAKES, PLAIN, LOST))
    )
    assert {(r.method, r.n): r.outcome for r in df.itertuples()} == {
        (TAKES, 8): "ok", (TAKES, 32): "ok", (TAKES, 600): "oom", (TAKES, 700): "oom",
        **{(PLAIN, n): "ok" for n in (8, 32, 600, 700)}, **{(LOST, n): "failed" for n in (8, 32, 600, 700)},
    }  # fmt: skip
    assert "allocate" in cell(climbed, TAKES, 600)["reason"]
    assert "KeyError: 'lost' (odd_methods.py:" in cell(climbed, LOST, 8)["reason"]
    assert cell(climbed, PLAIN, 8)["reason"] == ""


def test_methods_take_turns_and_what_failed_is_not_tried_again(climbed):
    _, steps = climbed
    done = [step.what.split() for step in steps[1:]]
    order = {n: [(what[0], what[-1]) for what in done if what[2] == f"n={n}"] for n in (8, 32, 600, 700)}
    both = [(TAKES, "time"), (PLAIN, "time")]
    oom_context = [*both, (LOST, "time"), *both, (TAKES, "memory"), (PLAIN, "memory")]
    fails = [*both, (LOST, "time"), (PLAIN, "time"), (PLAIN, "memory")]
    assert order == {8: oom_context, 32: oom_context, 600: fails, 700: fails}
    assert [what[2] for what in done] == sorted((what[2] for what in done), key=lambda n: int(n[2:]))
    assert steps[0].what == "this machine, fp32"
    assert {step.total for step in steps} == {1 + 4 * 3 * 3}
    assert [step.done for step in steps] == sorted({step.done for step in steps})


def test_samples_are_raw_enough_and_of_every_round(climbed):
    ladder, _ = climbed
    actual = {(s["method"], s["n"]): s for s in ladder.samples}
    assert len(actual) == 12
    ok = actual[PLAIN, 32]
    assert [len(seconds) >= 5 for seconds in ok["seconds"]] == [True, True], "nine in two rounds: five each"
    assert [len(seconds) >= 5 for seconds in ok["gemm_seconds"]] == [True, True]
    assert cell(climbed, PLAIN, 32)["iterations"] == sum(map(len, ok["seconds"])) >= 9
    assert actual[LOST, 8]["seconds"] == []


def test_memory_is_what_was_taken_and_grows_as_it_does(climbed):
    for n in (8, 32):
        assert cell(climbed, TAKES, n)["peak_memory_bytes"] == pytest.approx(n * MIB, abs=2 * MIB)
        assert cell(climbed, PLAIN, n)["peak_memory_bytes"] < MIB
    assert cell(climbed, TAKES, 8)["memory_growth_exponent"] == pytest.approx(1.0, abs=0.15)
    grows = cell(climbed, PLAIN, 8)["memory_growth_exponent"]
    assert torch.isnan(torch.tensor(grows)) or grows == 0  # no page was taken, or the same few at both lengths


def test_the_machine_is_recorded_as_the_processes_saw_it(climbed):
    ladder, _ = climbed
    assert ladder.environment["numerics"]["threads"] == ladder.ceiling["threads"] == 1
    assert ladder.ceiling["dtype"] == "fp32"
    assert ladder.plan.memory_bytes == CAP
    df = ladder.table
    ok = df[df["outcome"] == "ok"]
    due = (ok["flops_mandatory"] / ladder.ceiling["flops_per_s"]).combine(
        ok["bytes_mandatory"] / ladder.ceiling["read_bytes_per_s"], max
    )
    torch.testing.assert_close(torch.tensor(due.to_numpy()), torch.tensor(ok["ceiling_seconds"].to_numpy()))
    assert set(df["against"]) == {PLAIN, ""}
    assert set(df["device"]) == {device_slug(ladder.environment, "cpu")}
    assert file_stem(ladder).endswith(f"-1thread-torch{torch.__version__.partition('+')[0]}-fp32")


class KilledError(Exception):
    """As if the process had been killed here."""


def test_an_interrupted_ladder_goes_on_after_the_last_cell_that_ended(tmp_path):
    plan = plan_sweep([TAKES, PLAIN], (8, 600), modes=["infer"], in_dim=8, rounds=2, iterations=4, threads=1,
                       device="cpu", memory_bytes=CAP)  # fmt: skip
    journal, seen = journal_of(plan, tmp_path / "perf"), []

    def stop(step):
        seen.append(step.what)
        if len(seen) == 9:  # the machine, six cells of 8, and of 600 the first, which runs out of memory, and another
            raise KilledError

    with pytest.raises(KilledError):
        run_sweep(plan, stop, journal)
    with journal.open("ab") as file:
        file.write(b'[10,"ok","",{"sec')  # a line that a kill left incomplete
    again = []
    actual = run_sweep(plan, again.append, journal)
    assert len(journal.read_text().splitlines()) == 1 + 6 + 4  # what ran out of memory has no second round
    measured = [step.what for step in again[1:]]
    assert measured == [f"{PLAIN} infer n=600 time", f"{PLAIN} infer n=600 memory"]
    assert again[0].what == "this machine, fp32"
    outcomes = actual.table.set_index(["method", "n"])["outcome"].to_dict()
    assert outcomes == {(TAKES, 8): "ok", (PLAIN, 8): "ok", (TAKES, 600): "oom", (PLAIN, 600): "ok"}
    assert [len(s["seconds"]) for s in actual.samples] == [2, 2, 0, 2]
    # A third time nothing is left, and what was kept gives the same table.
    third = []
    assert run_sweep(plan, third.append, journal).table.equals(actual.table)
    assert len(third) == 1
    other = plan_sweep([TAKES], (8,), modes=["infer"], in_dim=8, rounds=1, threads=1, device="cpu")
    assert journal_of(other, tmp_path / "perf") != journal


def test_default_methods_are_all_registered_ones():
    assert list(plan_sweep(device="cpu").methods) == milbench.list_aggregators()


def test_a_plan_spells_methods_and_lengths_once():
    plan = plan_sweep(["transmil[layers=2]", "transmil", "mean"], (9, 3, 9), modes=["train", "infer"], device="cpu")
    assert plan.methods == ("transmil", "mean")
    assert plan.lengths == (3, 9)
    assert plan.modes == ("infer", "train")
    kinds = [(c.n, c.mode, c.kind, c.method) for c in plan.cells()]
    assert kinds[:8] == [(3, "infer", "time", "transmil"), (3, "infer", "time", "mean")] * 3 + [
        (3, "infer", "memory", "transmil"), (3, "infer", "memory", "mean")
    ]  # fmt: skip
    assert len(kinds) == 2 * 2 * 4 * 2
    assert {c.iterations for c in plan.cells()} == {4}


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        ({"methods": ["transmill"]}, ("method-unknown", "'transmill'", "'transmil'")),
        ({"methods": ["transmil[heads=7]"]}, ("method-bad-option", "transmil[dim=512,heads=7]", "dim")),
        ({"methods": ["transmil[dropout=2]"]}, ("method-bad-option", "transmil[dropout=2.0]")),
        ({"lengths": ()}, ("option-bad-value", "16k")),
        ({"lengths": (4, 0)}, ("option-bad-value", "bag length", "0")),
        ({"lengths": (-4,)}, ("option-bad-value", "bag length", "-4")),
        ({"modes": ["infer", "test"]}, ("option-bad-value", "mode", "'test'", "infer,train")),
        ({"modes": [""]}, ("option-bad-value", "mode", "''", "infer,train")),
        ({"dtype": "fp64"}, ("option-bad-value", "dtype", "'fp64'", "bf16")),
        ({"dtype": "tf32"}, ("option-bad-value", "dtype", "tf32", "bf16")),
        ({"device": "gpu"}, ("option-bad-value", "device", "'gpu'", "'cpu'")),
        ({"rounds": 0}, ("option-bad-value", "rounds", "0")),
        ({"iterations": 0}, ("option-bad-value", "iterations", "0")),
        ({"threads": 0}, ("option-bad-value", "threads", "0")),
        ({"threads": 100_000}, ("option-bad-value", "threads", "100000")),
        ({"against": "mean"}, ("option-bad-value", "--against mean", "-m")),
        ({"in_dim": 0}, ("option-bad-value", "dim", "0")),
        ({"n_classes": 1}, ("method-bad-option", "n_classes", "2", "1")),
        ({"memory_bytes": 0}, ("option-bad-value", "memory", "0")),
        ({"against": "nobody"}, ("method-unknown", "'nobody'")),
        ({"methods": ["mean"], "against": "authors"}, ("option-bad-value", "mean", "--against authors", "transmil")),
    ],
)
def test_what_cannot_be_measured_is_one_sentence(changes, refusal):
    with refused(*refusal) as error:
        plan_sweep(**{"methods": ["mean"], "device": "cpu"} | changes)
    assert str(error.value).endswith((".", "?"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_no_cuda_no_plan():
    with refused("device-missing", "--device cpu"):
        plan_sweep(device="cuda")


@pytest.mark.parametrize(
    ("text", "due"),
    [("1k,4k,16k", (1000, 4000, 16000)), ("8", (8,)), (" 2M , 5K", (2_000_000, 5000)), ("10,10", (10, 10))],
)
def test_lengths(text, due):
    assert parse_lengths(text) == due


@pytest.mark.parametrize("text", ["4q", "0", "-4", "", "1k,,2k", "1.5k", "k", "4 k k", "١"])
def test_lengths_that_are_none(text):
    with refused("option-bad-value", "16k"):
        parse_lengths(text)


@pytest.mark.parametrize(
    ("model", "threads", "slug"),
    [
        ("AMD EPYC (26-2-1)", 2, "amd-epyc-26-2-1-2threads"),
        ("Intel(R) Xeon(R) Platinum 8370C CPU @ 2.80GHz (6-106-6)", 1, "intel-xeon-platinum-8370c-1thread"),
    ],
)
def test_slugs(model, threads, slug):
    assert device_slug({"cpu": {"model": model}, "numerics": {"threads": threads}}, "cpu") == slug
    assert device_slug({"gpus": [{"name": "NVIDIA H100 80GB HBM3"}]}, "cuda") == "nvidia-h100-80gb-hbm3"


# --- the authors' form -----------------------------------------------------------------------------------------------


def test_the_authors_form_of_each_spelling(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[3])
    plan = plan_sweep(["mean", "transmil[layers=1]", "transmil"], device="cpu", against="authors")
    theirs = "tests.support.authors:AuthorsTransMIL"
    assert plan.against == {"transmil[layers=1]": f"{theirs}[layers=1]", "transmil": theirs}
    assert plan.methods == ("mean", "transmil[layers=1]", "transmil", f"{theirs}[layers=1]", theirs)


def test_the_authors_form_computes_the_same():
    theirs = AuthorsTransMIL(6, 2, dim=32, heads=4, landmarks=8).eval()
    ours = milbench.create("transmil[dim=32,heads=4,landmarks=8]", 6, 2).eval()
    ours.load_authors_state(theirs.plain.state_dict())
    assert theirs.recipe == ours.recipe
    for n in (5, 40):
        bags = milbench.Bags.pack([torch.randn(n, 6)])
        torch.testing.assert_close(theirs(bags).logits, ours(bags).logits, atol=1e-5, rtol=0)
