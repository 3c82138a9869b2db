"""What happens inside a run's process: set it up, do the work, and turn whatever goes wrong into an outcome."""

from __future__ import annotations

import os
import traceback
from typing import Any, Protocol

import pandas as pd
import torch

from ..config.units import show_quantity
from ..data.cache.reader import FeatureCache
from ..errors import Diverged, MilbenchError, OutOfMemory, Unsupported
from ..measure.environment import environment
from ..measure.load import Load
from ..measure.memory import PeakMemory, is_out_of_memory
from ..measure.timing import Stopwatch
from ..measure.yardstick import yardstick
from ..training.loader import BagLoader
from ..training.loop import flops_of, train
from ..training.predict import predict, predictions_frame
from ..training.saved_model import model_bytes
from ..training.stacked import StackTask, train_stacked
from ..training.task import TrainingResult, TrainingTask
from . import live
from .launchers.local import Outcome
from .process import capped, set_up


class ProcessTask(Protocol):
    """Whatever a process of its own can do beside training a run."""

    def execute(self) -> Any:
        """Set this process up (`milbench.runs.process`), do the work and return its value; errors may pass."""


def work(task: TrainingTask | StackTask | ProcessTask) -> Outcome:
    """Do one task in this process; exceptions become outcomes with a reason. A stack's value is an Outcome for each."""
    try:
        if isinstance(task, StackTask):
            stacked = task.tasks[0].spec.stacked
            return Outcome("ok", "", _run_stack(task) if stacked else [_without_peak(work(one)) for one in task.tasks])
        return Outcome("ok", "", _run(task) if isinstance(task, TrainingTask) else task.execute())
    except Unsupported as error:
        return Outcome("unsupported", str(error))
    except Diverged as error:
        return Outcome("diverged", str(error))
    except OutOfMemory as error:
        told = {"bag_length": error.bag_length, "during": error.during, "asked_bytes": error.asked_bytes}
        said = "" if error.__cause__ is None else f": {_first_line(error.__cause__)}"
        return Outcome("oom", f"{error}{_cap(task)}{said}", {"record": {"oom": told}})
    except MilbenchError as error:
        return Outcome("failed", str(error))
    except Exception as error:  # a stranger's method may raise anything: the suite goes on and the table says what
        if is_out_of_memory(error):
            return Outcome("oom", _first_line(error))
        where = _where(error)
        record = {"traceback": traceback.format_exc()}
        return Outcome("failed", f"{type(error).__name__}: {_first_line(error)} ({where})", {"record": record})


def _run(task: TrainingTask) -> dict[str, Any]:
    device = set_up(task.spec.threads, task.spec.device_type)
    cache, load = FeatureCache.open(task.cache_path), Load()
    with capped(task.spec.budget.memory_bytes, device, cache) as against_cap, PeakMemory(device) as peak:
        reports = live.reporter(task.live, task.live_part), live.step_reporter(task.live, task.live_part)
        trained = train(task, cache, device, *reports)
        found = _predicted(task, trained, cache, device)
        if (cap := against_cap()) is not None:
            found["record"]["memory_cap"] = cap
    reading = {"peak_memory_bytes": peak.reading.peak_bytes, "peak_memory": peak.reading.as_dict()}
    found["record"] |= reading
    if task.spec.budget.track == "device_seconds":  # how far they go depends on what else the machine does
        moment = load.reading() | {"threads": task.spec.threads}
        found["record"]["moment"] = moment | {"yardstick": yardstick(device)}  # after the peak was read
    return found


def _run_stack(stack: StackTask) -> list[Outcome]:
    spec = stack.tasks[0].spec
    device, cache = set_up(spec.threads, spec.device_type), FeatureCache.open(stack.tasks[0].cache_path)
    results = []
    done = train_stacked(stack.tasks, cache, device, live.step_reporter(stack.tasks[0].live))
    for task, trained in zip(stack.tasks, done, strict=True):
        if isinstance(trained, Diverged):
            results.append(Outcome("diverged", str(trained)))
            continue
        try:
            found = _predicted(task, trained, cache, device)
        except Diverged as error:
            results.append(Outcome("diverged", str(error)))
            continue
        found["record"] |= {"stack": trained.stack}  # what memory one of them would have taken cannot be told
        results.append(Outcome("ok", "", found))
    return results


def _without_peak(result: Outcome) -> Outcome:
    """Forget the peak of a run that had a process before it: its memory may have been taken from there."""
    if result.outcome == "ok":
        for name in ("peak_memory_bytes", "peak_memory"):
            del result.value["record"][name]
        result.value["record"].pop("memory_cap", None)
    return result


def _predicted(
    task: TrainingTask, trained: TrainingResult, cache: FeatureCache, device: torch.device
) -> dict[str, Any]:
    """Predict the validation and test slides of a run, and say what it was and took."""
    watch, test = Stopwatch(), BagLoader(cache, task.test, device, trained.scaling, task.spec.budget.memory_bytes)
    with watch:  # predictions come back to the host, so the device has finished
        predictions = predict(trained.model, test, task.spec.recipe)
    frames = [predictions_frame(task.test, "test", predictions)]
    validated = None
    if task.val:
        val = BagLoader(cache, [s for s, _ in task.val], device, trained.scaling, task.spec.budget.memory_bytes)
        validated = predict(trained.model, val, task.spec.recipe)
        frames.insert(0, predictions_frame(val.ids, "val", validated))
    busy, patches = trained.device_seconds, sum(test.lengths)
    flops = flops_of(task, cache)
    record: dict[str, Any] = {
        "selected": {key: trained.history[trained.selected - 1][key] for key in ("epoch", "steps")},
        "seeds": trained.seeds,
        "budget_used": trained.budget,
        "max_instances": task.max_instances,
        "parameters": sum(p.numel() for p in trained.model.parameters()),
        "train": {
            "seconds": trained.seconds,
            "device_seconds": busy,
            "evaluation_seconds": trained.evaluation_seconds,
            "steps": trained.steps,
            "epochs": trained.history[-1]["epoch"],
            "flops": trained.history[-1]["flops"],
            "evaluations": len(trained.history),
            "bags_per_s": trained.bags / busy,
            "patches_per_s": trained.patches / busy,
        },
        "inference": {
            "seconds": watch.seconds,
            "device_seconds": watch.seconds,
            "bags_per_s": len(test) / watch.seconds,
            "patches_per_s": patches / watch.seconds,
        },
        "environment": environment(),
    }
    probabilities = trained.model.ordered_by_probabilities()
    if probabilities:
        record["ordered_by"] = "probabilities"
    if task.val:  # runs of before that stored no log-odds, and no such entry, had it of rounded probabilities
        record["val_auc_ordered_by"] = "probabilities" if probabilities else "log-odds"
    if trained.history[-1]["flops"] is None:
        record["train"]["flops_missing"] = flops.why or "an earlier run of the method could not count them"
    found = {
        "record": record,
        "counted": flops.known,
        "predictions": pd.concat(frames, ignore_index=True),
        "history": pd.DataFrame(trained.history),
    }
    if task.model_classes is not None:
        found["model"] = model_bytes(task, trained, cache, validated)
    if trained.trajectory:
        every = [predictions_frame(task.test, "test", p).drop(columns="split") for p in trained.trajectory]
        found["trajectory"] = pd.concat(every, keys=range(1, len(every) + 1), names=["evaluation"]).reset_index(level=0)
    return found


def _cap(task: Any) -> str:
    budget = task.spec.budget if isinstance(task, TrainingTask) else task
    cap = getattr(budget, "memory_bytes", None)
    return "" if cap is None else f" ({show_quantity('memory_bytes', cap)})"


def _where(error: Exception) -> str:
    """Return file:line of the innermost frame that is not torch's own: the line of the method, for most errors."""
    frames = traceback.extract_tb(error.__traceback__)
    home = os.path.dirname(torch.__file__)
    last = next((frame for frame in reversed(frames) if not frame.filename.startswith(home)), frames[-1])
    return f"{os.path.basename(last.filename)}:{last.lineno}"


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or "no message").splitlines()[0]
