"""Estimates of a suite's time and memory on this machine, from a few seconds of steps on random features.

Every method trains and infers on single bags of growing length, as long as its share of the time allows, up to a
length that nine in ten slides do not exceed. Longer bags are extrapolated from the two longest that were measured: by a
line for iid methods; for correlated ones in proportion to the products that their closed form counts, or, where they
state none, by the power of the length that the two show. Times are of the work alone: reading a cohort that does not
fit into memory comes on top.
"""

from __future__ import annotations

import gc
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from ...aggregator import Aggregator
from ...bags import Bags
from ...errors import MilbenchError
from ...formatting.text import duration, size
from ...measure.memory import PeakMemory, is_out_of_memory
from ...measure.timing import time_calls
from ...registry import Method, resolve
from ...training.step import OptimizerStep

#: the first length that is measured, and the factor from one to the next
_FIRST, _FACTOR = 256, 4
#: calls that a length takes in all, in units of one training step: warm-up, timing, inference, memory
_CALLS = 10
_LONG = 0.9


@dataclass(frozen=True)
class Work:
    """The work that a suite requires of every method.

    Attributes:
        dim, classes: of the cohort.
        lengths: patches of the slides, as far as they are known.
        train, val, test: slides of a fold, on average.
        runs: folds times seeds.
    """

    dim: int
    classes: int
    lengths: np.ndarray
    train: float
    val: float
    test: float
    runs: int


@dataclass(frozen=True)
class Estimate:
    """The estimated time and memory of a method.

    Attributes:
        method: its canonical name.
        epochs: of its own recipe, which early stopping may end early.
        measured: the longest bag it was measured on.
        run_s: seconds of one training to its last epoch, validation and test included; NaN where nothing was measured.
        memory_bytes: peak of a training step on the longest slide, parameters and optimizer included, features not.
        why: the reason that nothing was measured.
    """

    method: str
    epochs: int
    measured: int
    run_s: float
    memory_bytes: float
    why: str = ""


@dataclass(frozen=True)
class _Point:
    """The cost of one bag of n patches: seconds of a training step and of inference, bytes at the peak of training."""

    n: int
    train_s: float
    infer_s: float
    bytes: float


def estimate(methods: Sequence[str], work: Work, seconds: float = 10.0, threads: int = 1) -> list[Estimate]:
    """Measure every method for its share of some seconds, and scale.

    Args:
        methods: names with parameters.
        work: that they are to do.
        seconds: that all of it may take, roughly: one step on the shortest bag is made in any case.
        threads: of the CPU, as the suite has them.

    Raises:
        MilbenchError: an unknown method or parameter.
    """
    resolved = [resolve(name) for name in methods]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    made: dict[str, Estimate] = {}
    # The cheap ones first: the rest of their shares goes to the others.
    order = sorted(resolved, key=lambda method: method.card.family != "iid")
    with _quiet(threads):
        began = time.monotonic()
        for i, method in enumerate(order):
            left = max(0.0, seconds - (time.monotonic() - began))
            made[method.canonical] = _estimate(method, work, left / (len(order) - i), device)
    return [made[method.canonical] for method in resolved]


def lines(estimates: Sequence[Estimate], work: Work, threads: int = 1) -> list[str]:
    """Return the estimates as a table in text, with how they were made."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{threads} CPU thread{'s'[: threads - 1]}"
    longest, typical = int(work.lengths[-1]), int(np.quantile(work.lengths, _LONG))
    head = ("method", "epochs", "one training", f"{work.runs} trainings", "memory")
    rows = [head, *(_row(one, work.runs) for one in estimates)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    table = [
        "  ".join([f"{row[0]:<{widths[0]}}", *(f"{cell:>{w}}" for cell, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]
    capped = min((one.measured for one in estimates if not one.why), default=0)
    how = f"measured here within seconds, next to what else runs, on random features, at least up to {capped:,} patches"
    if capped < longest:
        how += f" (nine in ten slides have {typical:,} or fewer), and scaled"
    whole = sum(one.run_s for one in estimates if not one.why) * work.runs
    return [
        f"estimated on {device}, to the last epoch of each method's recipe, which patience may end early; {how}",
        *(f"  {line}" for line in table),
        f"  all of them: {duration(whole)} of one device; on CPU a run takes {threads} of {_cores()} cores",
        f"  memory is that of a training step on the longest slide, {longest:,} patches, besides the features "
        f"({size(work.train * work.lengths.mean() * work.dim * 4)} for the training slides as float32)",
    ]


def _row(one: Estimate, runs: int) -> tuple[str, ...]:
    if one.why:
        return one.method, str(one.epochs), one.why, "", ""
    return (
        one.method,
        str(one.epochs),
        duration(one.run_s),
        duration(one.run_s * runs),
        size(max(one.memory_bytes, 1e6)),
    )


def _estimate(method: Method, work: Work, seconds: float, device: torch.device) -> Estimate:
    recipe = method.cls.recipe
    try:
        points = _measure(method, work, seconds, device)
    except MilbenchError as error:  # a method that cannot do this: its runs will say the same
        return Estimate(method.canonical, recipe.epochs, 0, math.nan, math.nan, str(error))
    except Exception as error:  # an external method may raise anything
        what = "out of memory" if is_out_of_memory(error) else f"{type(error).__name__}: {error}".split("\n")[0]
        return Estimate(method.canonical, recipe.epochs, 0, math.nan, math.nan, what)
    model = method.create(work.dim, work.classes)
    train, infer = (_scaled(method, model, points, kind) for kind in ("train_s", "infer_s"))
    step, evaluation = (float(np.mean([of(int(n)) for n in work.lengths])) for of in (train, infer))
    run = recipe.epochs * (work.train * step + work.val * evaluation) + (work.val + work.test) * evaluation
    peak = _line(points, "bytes")(int(work.lengths[-1]))
    return Estimate(method.canonical, recipe.epochs, points[-1].n, run, peak)


def _measure(method: Method, work: Work, seconds: float, device: torch.device) -> list[_Point]:
    """Measure at growing lengths until the target, or until the next length would take more time than there is."""
    target = int(np.quantile(work.lengths, _LONG, method="higher"))
    began = time.monotonic()
    points: list[_Point] = []
    for n in _bag_lengths(target):
        left = seconds - (time.monotonic() - began)
        if len(points) > 1 and points[-1].train_s * n / points[-1].n * _CALLS > left:
            break
        try:
            points.append(_point(method, work, n, max(left, 0.01) / 4, device))
        except Exception as error:
            if not points or not is_out_of_memory(error):
                raise
            break
    return points


def _bag_lengths(target: int) -> list[int]:
    """Return the lengths to measure, rising to the target, two at least unless it is 1."""
    if target <= _FIRST * _FACTOR:
        return sorted({max(1, target // 2), target})
    steps = [_FIRST * _FACTOR**k for k in range(int(math.log(target, _FACTOR)))]
    return [*(n for n in steps if n * 1.5 < target), target]  # a line through two that are close would be noise


def _point(method: Method, work: Work, n: int, seconds: float, device: torch.device) -> _Point:
    torch.manual_seed(0)
    bag = Bags(torch.randn(n, work.dim), [n], torch.stack([torch.arange(n), torch.zeros(n).long()], 1)).to(device)
    model, step = _training(method, work, bag)
    train_s = _seconds(step, seconds, device)
    model.eval()
    infer_s = _seconds(partial(_infer, model, bag), seconds, device)
    del model, step
    with PeakMemory(device) as peak:
        _, step = _training(method, work, bag)
        for _ in range(2):  # the second step has the optimizer's state besides its gradients
            step()
    return _Point(n, train_s, infer_s, float(peak.reading.peak_bytes))


def _training(method: Method, work: Work, bag: Bags) -> tuple[Aggregator, Callable[[], None]]:
    """Return a new model, and a function that takes one optimizer step of its own recipe on a bag."""
    model = method.create(work.dim, work.classes).to(bag.device).train()
    model.reset(torch.Generator(bag.device).manual_seed(0))
    stepper = OptimizerStep(model, method.cls.recipe, planned_steps=10**9)  # so many that a schedule stands still
    target = torch.zeros(1, dtype=torch.int64, device=bag.device)

    def step() -> None:
        stepper.backward(bag, target, 1)
        stepper.step()

    return model, step


def _seconds(call: Callable[[], None], seconds: float, device: torch.device) -> float:
    return time_calls(call, warmup=1, min_iterations=3, min_seconds=0.01, max_seconds=seconds, device=device).median


def _infer(model: Aggregator, bag: Bags) -> None:
    with torch.inference_mode():
        model.probabilities(model(bag))


def _line(points: Sequence[_Point], kind: str) -> Callable[[int], float]:
    """Return a quantity by the number of patches: between the points by straight lines, beyond by the last of them."""
    lengths, values = [p.n for p in points], [float(getattr(p, kind)) for p in points]
    if len(points) == 1:
        lengths, values = [0, *lengths], [0.0, *values]
    slope = max(0.0, (values[-1] - values[-2]) / (lengths[-1] - lengths[-2]))
    return lambda n: float(np.interp(n, lengths, values)) + slope * max(0, n - lengths[-1])


def _scaled(method: Method, model: Aggregator, points: Sequence[_Point], kind: str) -> Callable[[int], float]:
    """Return a time by the number of patches, see the module."""
    line, last = _line(points, kind), points[-1]
    if method.card.family == "iid" or len(points) < 2:
        return line
    before, longest = points[-2], float(getattr(last, kind))
    power = max(1.0, math.log(longest / getattr(before, kind)) / math.log(last.n / before.n))
    counted = model.matrix_flops(last.n)

    def time_of(n: int) -> float:
        if n <= last.n:
            return line(n)
        products = model.matrix_flops(n)
        return longest * (products / counted if products and counted else (n / last.n) ** power)

    return time_of


@contextmanager
def _quiet(threads: int) -> Iterator[None]:
    """Set the threads, and leave nothing to be imported or collected while it is measured."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    torch.optim.Adam([torch.zeros(1, requires_grad=True)])  # imports torch's compilers: seconds
    # Every measurement begins with a collection, which takes longer than a step for all objects of torch.
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
        torch.set_num_threads(before)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
