"""The cost of a method on a cohort: time, memory and arithmetic, each measured in a fresh process of its own.

Accuracy runs go side by side and share the machine; these go alone. Time and memory never share a process: measuring
one disturbs the other. Time is measured several times, other methods in between (`milbench.runs.costs.schedule`), and
`pooled` says what the measurements say together.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from ...aggregator import Aggregator
from ...bags import Bags
from ...config import Recipe
from ...data.cache.reader import FeatureCache
from ...measure.environment import environment
from ...measure.flops import count_flops
from ...measure.memory import PeakMemory
from ...measure.timing import time_calls
from ...measure.yardstick import yardstick
from ...registry import resolve
from ...tasks import CLASSIFICATION, Target, Task, task_named
from ...training.loader import BagLoader
from ...training.optimizers import balanced_weights
from ...training.step import OptimizerStep, autocast, labels_of, subsample_bags
from ...training.task import model_for
from ..process import set_up

Kind = Literal["time", "infer_memory", "train_memory"]

SAMPLE = 16  # bags that inference is timed on
#: How costs are measured; measurements made in another way are not mixed in. 2: interleaved, on the same steps.
COST_VERSION = 2
ROUNDS = 3  # measurements of a method's time, other methods in between
STEPS = 6  # training steps that are timed over and over; each is timed once a round, where there is time
PASSES = 5  # over the bags of inference, at least, in a round
MIN_SECONDS, MAX_SECONDS = 0.1, 3.0  # of one measurement of inference, and of one of training
_WARM_SECONDS = 1.0
#: Quantities counted in the first round alone.
COUNTED = ("parameters", "flops_bag_length", "flops_per_bag_infer", "flops_per_bag_train")


@dataclass(frozen=True)
class CostTask:
    """One measurement: ``time``, or the peak memory of inference or training.

    Attributes:
        turn: how many measurements of the method's time there were before. Only the first counts operations. Each times
            some of the training steps in any case, and all of them together, however slow the method.
        yardstick: whether the machine's own rates are measured after the time.
    """

    kind: Kind
    method: str
    recipe: Recipe
    cache_path: str
    n_classes: int
    train: tuple[tuple[str, Target], ...]
    test: tuple[str, ...]
    threads: int
    device_type: str
    turn: int = 0
    task: str = CLASSIFICATION
    yardstick: bool = True

    @property
    def target_task(self) -> Task:
        """The kind of its labels, and so its loss."""
        return task_named(self.task)

    def execute(self) -> dict[str, Any]:
        """Measure in this process; see `measure`. With the environment."""
        device = set_up(self.threads, self.device_type)
        return measure(self, FeatureCache.open(self.cache_path), device) | {"environment": environment()}


def measure(task: CostTask, cache: FeatureCache, device: torch.device) -> dict[str, Any]:
    """Measure one kind of cost; the keys are those of ``cost.json``, those of ``time`` after `pooled`.

    With ``time`` comes ``yardstick``: the machine's own rates after it, where the task wants them, see
    `milbench.measure.yardstick`.
    """
    torch.manual_seed(0)
    if task.kind == "time":
        return _time(task, cache, device) | ({"yardstick": yardstick(device)} if task.yardstick else {})
    return {task.kind: _memory(task, cache, device)}


def pooled(turns: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return what several measurements of one method's time say together, with the keys of ``cost.json``.

    A turn counts once, by the median of its samples, however many it had time for. Bags and patches a second are those
    of all timed bags, or steps, one after the other: every method is rated on the same work.

    Args:
        turns: returned by `measure` for ``time``, in the order it was measured.
    """
    infer, train = turns[0]["infer"], turns[0]["train"]
    one_pass = float(np.median([np.median(turn["infer"]["seconds_samples"]) for turn in turns]))
    each: dict[int, list[float]] = {}
    for turn in turns:
        samples: dict[int, list[float]] = {}
        for at, seconds in zip(turn["train"]["step_samples"], turn["train"]["seconds_samples"], strict=True):
            samples.setdefault(at, []).append(seconds)
        for at, values in samples.items():
            each.setdefault(at, []).append(float(np.median(values)))
    all_steps = sum(float(np.median(medians)) for medians in each.values())
    return {
        **{key: turns[0][key] for key in COUNTED},
        "infer": {
            "bags": infer["bags"],
            "patches": infer["patches"],
            "seconds_per_bag": one_pass / infer["bags"],
            "bags_per_s": infer["bags"] / one_pass,
            "patches_per_s": infer["patches"] / one_pass,
        },
        "train": {
            "bags_per_step": train["bags_per_step"],
            "step_patches": train["step_patches"],
            "seconds_per_step": all_steps / len(each),
            "bags_per_s": train["bags_per_step"] * len(each) / all_steps,
            "patches_per_s": sum(train["step_patches"][at] for at in each) / all_steps,
        },
        "turns": [
            {
                "infer_seconds_samples": turn["infer"]["seconds_samples"],
                "step_samples": turn["train"]["step_samples"],
                "step_seconds_samples": turn["train"]["seconds_samples"],
            }
            for turn in turns
        ],
    }


def unpooled(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the turns of a record that `pooled` made, for more of them to be added."""
    counted = {key: record[key] for key in COUNTED}
    infer = {key: record["infer"][key] for key in ("bags", "patches")}
    train = {key: record["train"][key] for key in ("bags_per_step", "step_patches")}
    return [
        counted
        | {
            "infer": infer | {"seconds_samples": turn["infer_seconds_samples"]},
            "train": train | {"step_samples": turn["step_samples"], "seconds_samples": turn["step_seconds_samples"]},
        }
        for turn in record["turns"]
    ]


def _time(task: CostTask, cache: FeatureCache, device: torch.device) -> dict[str, Any]:
    model = model_for(resolve(task.method), task.target_task, cache.dim, task.n_classes).to(device)
    test = _sample(task, cache, device)
    lengths = [bags.x.shape[0] for bags in test]

    def infer() -> None:
        with torch.inference_mode(), autocast(device.type, task.recipe):
            for bags in test:
                model.probabilities(model(bags))

    model.eval()
    passes = time_calls(
        infer, warmup=2, min_iterations=PASSES, min_seconds=MIN_SECONDS, max_seconds=MAX_SECONDS, device=device
    )
    middle = test[len(test) // 2]
    counted = {"flops_per_bag_infer": count_flops(lambda: model(middle))} if task.turn == 0 else {}

    model.train()
    steps = _Steps(model, task, cache, device)
    steps.warm_up()
    timed = time_calls(
        steps, warmup=0, min_iterations=len(steps), min_seconds=MIN_SECONDS, max_seconds=MAX_SECONDS,
        at_least=steps.own, device=device,
    )  # fmt: skip
    if task.turn == 0:
        one = torch.zeros(1, dtype=torch.int64, device=device)
        counted |= {
            "parameters": sum(p.numel() for p in model.parameters()),
            "flops_bag_length": middle.x.shape[0],
            "flops_per_bag_train": count_flops(lambda: model.loss(model(middle), one).backward()),
        }
    return {
        "infer": {"bags": len(test), "patches": sum(lengths), "seconds_samples": list(passes.seconds)},
        "train": {
            "bags_per_step": steps.bags,
            "step_patches": steps.patches,
            "step_samples": steps.taken,
            "seconds_samples": list(timed.seconds),
        },
        **counted,
    }


def _memory(task: CostTask, cache: FeatureCache, device: torch.device) -> dict[str, Any]:
    """Peak over a baseline that holds the libraries and the features, but not yet the model."""
    training = task.kind == "train_memory"
    ids = [s for s, _ in task.train] if training else list(task.test)
    bags = BagLoader(cache, ids, device)
    longest = sorted(range(len(bags)), key=lambda i: -bags.lengths[i])[: task.recipe.batch_size if training else 1]
    batch = bags.batch(longest)
    if training and task.recipe.max_instances is not None:
        batch = subsample_bags(batch, task.recipe.max_instances, np.random.default_rng(0))
    targets = [task.train[i][1] for i in longest]
    labels = task.target_task.tensor(targets, device) if training else torch.zeros(1, device=device)

    def work(batch: Bags, labels: torch.Tensor) -> None:
        model = model_for(resolve(task.method), task.target_task, cache.dim, task.n_classes).to(device)
        if not training:
            with torch.inference_mode(), autocast(device.type, task.recipe):
                model.eval()
                model.probabilities(model(batch))
            return
        model.reset(torch.Generator(device).manual_seed(0))
        stepper = OptimizerStep(model, task.recipe, planned_steps=2, class_weights=_class_weights(task))
        for _ in range(2):  # the second step has the optimizer's state besides its gradients
            stepper.backward(batch, labels, 1)
            stepper.step()

    coords = None if batch.coords is None else batch.coords[:1]
    work(Bags(batch.x[:1], [1], coords), labels[:1])  # kernels and pools that the libraries make on first use
    with PeakMemory(device) as peak:
        work(batch, labels)
    return {**peak.reading.as_dict(), "bag_length": max(batch.lengths), "bags": len(batch)}


class _Steps:
    """Optimizer steps on the same few groups of batches over and over; a call takes one step, on the next group.

    Attributes:
        bags: bags of a step.
        patches: rows of each of the steps.
        own: how many steps no other turn is sure to time; they come first.
        taken: which of the steps the calls took, in order.
    """

    def __init__(self, model: Aggregator, task: CostTask, cache: FeatureCache, device: torch.device) -> None:
        ids, lengths = [s for s, _ in task.train], cache.lengths([s for s, _ in task.train])
        size, self._accumulate = min(task.recipe.batch_size, len(ids)), task.recipe.accumulate
        positions = np.random.default_rng(0).permutation(len(ids)).tolist()
        batches = [positions[i : i + size] for i in range(0, len(positions) - size + 1, size)]
        # Where an epoch has fewer batches than a step accumulates, a step goes through them again.
        count = max(1, len(batches) // self._accumulate)
        steps = [[batches[(i * self._accumulate + k) % len(batches)] for k in range(self._accumulate)]
                 for i in range(count)]  # fmt: skip
        self._most, self._rng = task.recipe.max_instances, np.random.default_rng(0)
        if self._most is not None:
            lengths = [min(n, self._most) for n in lengths]
        patches = [sum(lengths[i] for batch in step for i in batch) for step in steps]
        ranks = _ranks(patches, STEPS)
        self.patches = [patches[rank] for rank in ranks]
        self.bags = size * self._accumulate
        self.taken: list[int] = []
        used = sorted({i for rank in ranks for batch in steps[rank] for i in batch})
        at = {i: place for place, i in enumerate(used)}
        self._steps = [[[at[i] for i in batch] for batch in steps[rank]] for rank in ranks]
        self._bags = BagLoader(cache, [ids[i] for i in used], device, as_if=ids)
        self._targets = task.target_task.tensor([task.train[i][1] for i in used], device)
        model.reset(torch.Generator(device).manual_seed(0))
        self._stepper = OptimizerStep(model, task.recipe, planned_steps=10**6, class_weights=_class_weights(task))
        mine = [i for i in range(len(ranks)) if i % ROUNDS == task.turn % ROUNDS]
        self.own = max(1, len(mine))
        self._order = mine + [i for i in range(len(ranks)) if i not in mine]
        self._upcoming = self._endless()

    def __len__(self) -> int:
        return len(self._steps)

    def __call__(self) -> None:
        """Take one step."""
        at = self._order[len(self.taken) % len(self._order)]
        for batch in self._steps[at]:
            self._backward(batch, next(self._upcoming))
        self._stepper.step()
        self.taken.append(at)

    def warm_up(self) -> None:
        """Take each step once, one at least, until they have taken a second; not counted as calls."""
        begin = time.perf_counter()
        for at in self._order:
            for batch in self._steps[at]:
                self._backward(batch, self._bags.batch(batch))
            self._stepper.step()
            if self._bags.device.type == "cuda":
                torch.cuda.synchronize(self._bags.device)
            if time.perf_counter() - begin >= _WARM_SECONDS:
                break

    def _backward(self, batch: list[int], bags: Bags) -> None:
        if self._most is not None:
            bags = subsample_bags(bags, self._most, self._rng)
        self._stepper.backward(bags, labels_of(self._targets, batch), self._accumulate)

    def _endless(self) -> Iterator[Bags]:
        # Many rounds in one stream: a stream that reads ahead begins with nothing read.
        batches = [batch for at in self._order for batch in self._steps[at]] * 50
        while True:
            yield from self._bags.stream(batches)


def _class_weights(task: CostTask) -> list[float] | None:
    """Return the weights that a training on the task's training bags gives to classes; None: none."""
    balanced = task.recipe.class_weights == "balanced"
    return balanced_weights([label for _, label in task.train], task.n_classes) if balanced else None


def _sample(task: CostTask, cache: FeatureCache, device: torch.device) -> list[Bags]:
    """Return up to `SAMPLE` single test bags, shortest to longest, from as many equal parts of their ranks."""
    ids = [task.test[at] for at in _ranks(cache.lengths(task.test), SAMPLE)]
    bags = BagLoader(cache, ids, device, as_if=task.test)
    return [bags.batch([at]) for at in range(len(ids))]


def _ranks(lengths: Sequence[int], count: int) -> list[int]:
    """Return up to `count` positions, shortest to longest: the middle of each of as many equal parts of the ranks."""
    order = sorted(range(len(lengths)), key=lambda i: (lengths[i], i))
    count = min(count, len(order))
    return [order[int((i + 0.5) * len(order) / count)] for i in range(count)]
