"""Tasks: kinds of targets. One module a task, or an entry point of the group ``milbench.tasks``.

A module defines ``TASK``, a `Task`: how targets are read and checked, what folds balance, which columns predictions
have, the default loss, what may be monitored, the metrics. No module here imports torch before a tensor is needed.
"""

from __future__ import annotations

import pkgutil
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING

from ..errors import MilbenchError, did_you_mean
from ..plug_ins import blamed, load_plug_in, plug_ins
from ._base import Monitor, Predictions, Target, Task

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "CLASSIFICATION",
    "Monitor",
    "Predictions",
    "Target",
    "Task",
    "binary_logit",
    "is_ranked",
    "task_named",
    "task_names",
]

#: Entry points of this group add tasks: a `Task`, or its class.
GROUP = "milbench.tasks"

#: the task of cohorts and runs that name none
CLASSIFICATION = "classification"


@cache
def _modules() -> tuple[str, ...]:
    return tuple(sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_")))


def is_ranked(name: str) -> bool:
    """Return whether cohorts of the task of this name stand in tables of AUC; the task need not be installed."""
    return name == CLASSIFICATION


def task_names() -> tuple[str, ...]:
    """Return the names of the tasks: milbench's own, then those of other packages; no task is imported."""
    return (*_modules(), *plug_ins(GROUP, _modules()))


def task_named(name: str) -> Task:
    """Return a task by its name.

    Raises:
        MilbenchError: there is none of that name, two packages have one, or it cannot be imported or is something
            else.
    """
    return _task_named(name)


@cache
def _task_named(name: str) -> Task:
    if name in _modules():
        task = import_module(f"{__name__}.{name}").TASK
        assert isinstance(task, Task)
        return task
    points = plug_ins(GROUP).get(name)
    if points is None:
        raise MilbenchError(
            f"unknown task {name!r}.{did_you_mean(name, task_names())} Correct task in [[data]].", code="plugin-unknown"
        )
    task = load_plug_in("task", name, points)
    if isinstance(task, type):
        with blamed(f"task {name} ({points[0].value})", "cannot be made"):
            task = task()
    if not isinstance(task, Task) or getattr(task, "name", None) != name:
        raise MilbenchError(
            f"task {name}: {points[0].value} is no milbench.tasks.Task of that name; correct it.", code="plugin-broken"
        )
    return task


def binary_logit(logits: Tensor) -> Tensor:
    """Return ``(B,)`` in fp32, the one number of a head of one or two outputs: z, or z_1 - z_0."""
    logits = logits.float()
    return logits[:, 0] if logits.shape[1] == 1 else logits[:, 1] - logits[:, 0]
