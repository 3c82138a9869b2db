"""Every way a third-party method can end, through the whole of a suite's run, and the record of a run."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from support import odd_methods
from support.small import ODD, opened, suite, task, write_cohort

from milbench.config import Budget
from milbench.errors import MilbenchError
from milbench.measure.memory import is_out_of_memory
from milbench.runs.execute import execute
from milbench.runs.launchers.local import run_all
from milbench.runs.plan import make_plan
from milbench.runs.run_tasks import RunTask
from milbench.runs.worker import work
from milbench.training.loader import BagLoader
from milbench.training.loop import train
from milbench.training.predict import predict

#: method -> (outcome, words of the reason)
ENDS = {
    "Plain": ("ok", ""),
    "Allocates": ("oom", "can't allocate memory"),
    "AllocatesInNumpy": ("oom", "Unable to allocate"),
    "RunsOutOfDeviceMemory": ("oom", "CUDA out of memory. Tried to allocate 80.00 GiB."),
    "Killed": ("failed", "ended by SIGKILL in each of 3 attempts"),
    "Sleeps": ("timeout", "stopped after 3 s"),
    "SupportsNothing": ("unsupported", "it needs coordinates and the cohort has none"),
    "Lost": ("failed", "KeyError: 'lost' (odd_methods.py:"),
    "WrongShape": ("failed", "(odd_methods.py:"),
    "OneLogitTooMany": ("failed", "OneLogitTooMany returned logits of shape (1, 3) for 1 bag and 2 classes, instead"),
    "OneBagInEvaluation": ("failed", "OneBagInEvaluation returned logits of shape (2, 2) for 4 bags and 2 classes"),
    "Faults": ("failed", "SIGSEGV"),
    "Leaves": ("failed", "exit code 3"),
    "Exits": ("failed", "exit code"),
    "NeverLeaves": ("ok", ""),
    "LooksAtValues": ("ok", ""),
    "NeedsCoords": ("unsupported", "it needs coordinates"),
    "Diverges": ("diverged", ""),
}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cohort")
    return folder, write_cohort(folder)


@pytest.fixture(scope="module")
def ended(cohort, tmp_path_factory):
    folder, _ = cohort
    names = [ODD + ("Plain" if name == "Diverges" else name) for name in ENDS if name != "Plain"]
    # One suite for all, but for the one that differs by its rate.
    wild = suite(folder, (ODD + "Plain",), name="wild", recipe={"lr": 1e38, "momentum": 0.9, "epochs": 9})
    tame = suite(folder, (ODD + "Plain", *(n for n in names if n != ODD + "Plain")), budget={"timeout_s": 3.0})
    results = tmp_path_factory.mktemp("results")
    seen = []
    records = execute(make_plan(tame, results), jobs=4, on_progress=seen.append)
    actual = {record.spec.method.removeprefix(ODD): record for record in records}
    actual["Diverges"] = execute(make_plan(wild, results))[0]
    assert [step.done for step in seen] == list(range(1, len(ENDS)))
    assert {(step.total, step.outcome) for step in seen} == {(len(ENDS) - 1, o) for o, _ in ENDS.values()} - {
        (len(ENDS) - 1, "diverged")
    }
    return actual


@pytest.mark.parametrize("name", ENDS)
def test_the_outcome_and_its_reason(ended, name):
    record, (outcome, words) = ended[name], ENDS[name]
    assert record.outcome == outcome
    assert words in record.reason
    assert "\n" not in record.reason
    assert (record.reason == "") == (outcome == "ok")
    assert (record.path / "predictions.parquet").exists() == (outcome == "ok")
    assert record.record["environment"]["cpu"]["model"]


def test_a_failure_names_the_methods_line_and_keeps_the_traceback(ended):
    source = Path(odd_methods.__file__).read_text().splitlines()
    for name, words in {"Lost": 'KeyError("lost")', "WrongShape": "F.linear("}.items():
        line = int(ended[name].reason.rsplit(":", 1)[1].rstrip(")"))
        assert words in source[line - 1]
        assert "Traceback (most recent call last)" in ended[name].record["traceback"]


def test_nothing_is_left_running(ended):
    assert not [p for p in psutil.Process().children(recursive=True) if p.ppid() != psutil.Process().pid]


def test_a_run_predicts_what_the_loop_predicts_here(cohort, ended):
    folder, parts = cohort
    given = task(folder, parts, ODD + "Plain", epochs=2, patience=2)
    trained = train(given, opened(folder), torch.device("cpu"))
    table = ended["Plain"].predictions()
    assert list(table["split"]) == ["val"] * 4 + ["test"] * 6
    assert list(table["slide_id"]) == [slide for part in ("val", "test") for slide, _ in parts[part]]
    due = [predict(trained.model, BagLoader(opened(folder), [s for s, _ in parts[part]], torch.device("cpu")),
                   given.spec.recipe).probabilities for part in ("val", "test")]  # fmt: skip
    np.testing.assert_array_equal(table[["p0", "p1"]].to_numpy(), np.concatenate(due))
    assert list(ended["Plain"].history()["epoch"]) == [1, 2]


def test_a_run_records_its_cost(cohort, ended):
    """Seconds and device-seconds of training and inference, rates of both, peak memory, parameters, environment."""
    folder, parts = cohort
    record = ended["Plain"].record
    rows = {part: sum(len(opened(folder)[s]) for s, _ in parts[part]) for part in ("train", "test")}
    training, inference = record["train"], record["inference"]
    assert training["seconds"] >= training["device_seconds"] > 0
    assert training["seconds"] >= training["evaluation_seconds"] > 0
    assert (training["steps"], training["epochs"]) == (16, 2)
    assert training["bags_per_s"] == pytest.approx(16 / training["device_seconds"])
    assert training["patches_per_s"] == pytest.approx(2 * rows["train"] / training["device_seconds"])
    assert inference["seconds"] > 0
    assert inference["bags_per_s"] == pytest.approx(6 / inference["seconds"])
    assert inference["patches_per_s"] == pytest.approx(rows["test"] / inference["seconds"])
    assert record["parameters"] == 4 * 2 + 2
    assert record["peak_memory_bytes"] == record["peak_memory"]["peak_bytes"] > 0
    assert record["peak_memory"]["baseline_bytes"] > 50 << 20
    assert set(record["seeds"]) == {"init", "order", "dropout", "subsample"}
    assert record["environment"]["fingerprint"]
    assert record["environment"]["numerics"]["threads"] == 1
    assert record["selected"] in ({"epoch": 1, "steps": 8}, {"epoch": 2, "steps": 16})


@pytest.mark.skipif(sys.platform != "linux", reason="the cap is the kernel's limit of address space")
def test_the_memory_cap_is_a_cap_and_changes_no_prediction(cohort):
    folder, parts = cohort

    def end(method, cap):
        given = task(folder, parts, ODD + method)
        given = replace(given, spec=given.spec.model_copy(update={"budget": cap}))
        ((_, result),) = run_all(work, [(0, RunTask(given))], 1)
        return result

    cap = Budget(memory_bytes=64 << 20)
    free, hungry, capped = end("Hungry", Budget()), end("Hungry", cap), end("Plain", cap)
    assert free.outcome == "ok"
    assert hungry.outcome == "oom"
    assert "allocate" in hungry.reason
    assert capped.outcome == "ok"
    # Two measures under two names: what the cap counts never exceeds it; the peak of the resident set may.
    memory_cap = capped.value["record"]["memory_cap"]
    assert (memory_cap["bytes"], memory_cap["measure"]) == (64 << 20, "address-space")
    assert memory_cap["peak_bytes"] is None or 0 < memory_cap["peak_bytes"] <= 64 << 20
    assert "memory_cap" not in free.value["record"]
    np.testing.assert_array_equal(
        capped.value["predictions"][["p0", "p1"]], end("Plain", Budget()).value["predictions"][["p0", "p1"]]
    )


@pytest.mark.parametrize(
    ("error", "due"),
    [
        (MemoryError(), True),
        (RuntimeError("std::bad_alloc"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:118] . DefaultCPUAllocator: not enough memory"), True),
        (RuntimeError("could not create a primitive"), True),
        (RuntimeError("could not create a primitive descriptor for a convolution forward propagation"), False),
        (OSError(12, "Cannot allocate memory"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory of what was said"), False),
    ],
)
def test_what_counts_as_out_of_memory(error, due):
    assert is_out_of_memory(error) is due


def test_a_missing_cache_is_a_sentence(cohort, tmp_path):
    given = task(tmp_path / "nowhere", cohort[1])
    ((_, result),) = run_all(work, [(0, RunTask(given))], 1)
    assert result.outcome == "failed"
    assert str(tmp_path / "nowhere") in result.reason
    with pytest.raises(MilbenchError):
        opened(tmp_path / "nowhere")
