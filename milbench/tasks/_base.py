"""Task: the kind of a bag's target, and how its predictions are made, stored, monitored and scored."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from ..errors import MilbenchError, did_you_mean

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import torch
    from numpy.typing import NDArray
    from torch import Tensor

    from ..bags import BagOutput
    from ..metrics import Metric

#: The label of one bag: a class index, or whatever else a task defines, such as a time and an event.
Target = Any


@dataclass(frozen=True)
class Monitor:
    """A quantity of the validation bags that selection, early stopping and tuning may follow.

    Attributes:
        name: its column in a history: ``val_loss``.
        label: its name in reports and on axes: ``Validation loss``.
        direction: which values are better.
        unit: of its values, for axes; empty where it has none.
    """

    name: str
    label: str
    direction: Literal["higher", "lower"]
    unit: str = ""

    @property
    def higher_is_better(self) -> bool:
        """Return whether higher values are better."""
        return self.direction == "higher"

    @property
    def best(self) -> str:
        """Return the best value in words, ``the highest validation AUC``."""
        label = self.label[:1].lower() + self.label[1:]
        return f"the {'highest' if self.higher_is_better else 'smallest'} {label}"

    @property
    def axis(self) -> str:
        """Return the label of an axis, ``Validation loss (nats)``."""
        return f"{self.label} ({self.unit})" if self.unit else self.label

    def to_minimise(self, values: Any) -> Any:
        """Return a number, array or column of values with its sign changed where higher is better."""
        return -values if self.higher_is_better else values


class Predictions(ABC):
    """The predictions of a model for B bags, by their stored columns."""

    @property
    @abstractmethod
    def columns(self) -> dict[str, NDArray[Any]]:
        """Return column -> ``(B,)`` float64, in the order of `Task.prediction_columns`."""


class Task(ABC):
    """The definition of a target, for everything else in milbench.

    A module of `milbench.tasks` defines one as ``TASK``; a package of one's own names one, or its class, as an entry
    point of the group ``milbench.tasks``. Modules that read tables import tasks, so torch is imported by the methods
    that take or return tensors, when they are called.

    A model of any task is made by ``create(in_dim, n_classes)``. The number that a task passes there is `n_outputs`; a
    task of one number a bag passes 2 and takes `milbench.tasks.binary_logit` of what comes back, so that methods with
    one output and with two serve it as they are.
    """

    #: in suites (``task`` of a ``[[data]]`` table) and specs of runs
    name: ClassVar[str]
    #: monitors that selection may follow, the default of `milbench.config.Protocol.monitor` among it
    monitors: ClassVar[tuple[Monitor, ...]]
    #: name of the metric that orders methods
    primary_metric: ClassVar[str]
    #: value of `primary_metric` for predictions that know nothing of the bags; None: there is none
    no_skill: ClassVar[float | None] = None
    #: columns of labels.csv that hold a target, each with its dtype
    target_columns: ClassVar[dict[str, str]] = {"label": "float64"}
    #: Whether targets are class indices: balanced weights, balanced sampling, smoothed labels, stacked trainings
    #: and methods with a loss of their own need them. Kept models and the leaderboard are of classification alone.
    has_classes: ClassVar[bool] = False

    # -- labels

    @abstractmethod
    def read(
        self, cells: Mapping[str, str], names: Sequence[str] | None, where: str
    ) -> tuple[dict[str, Target], tuple[str, ...]]:
        """Turn the label cells of a table into targets.

        Args:
            cells: slide -> cell.
            names: ``classes`` of the cohort; None: not stated.
            where: the file, for messages.

        Returns:
            slide -> target; and names of the classes, of a task without them names of its strata.

        Raises:
            MilbenchError: a cell is no label of this task.
        """

    @abstractmethod
    def check(self, targets: Sequence[Target], n_outputs: int) -> None:
        """Raise MilbenchError where one of the targets of a training is none of this task."""

    @abstractmethod
    def array(self, targets: Sequence[Target]) -> NDArray[Any]:
        """Return checked targets as an array, ``(n,)`` or ``(n, columns)``."""

    def cells(self, target: Target) -> tuple[Any, ...]:
        """Return what stands in `target_columns` for a target."""
        return (target,)

    def from_cells(self, *columns: Sequence[Any]) -> list[Target]:
        """Return targets of the columns that hold them, the inverse of `cells`."""
        return list(columns[0])

    @abstractmethod
    def strata(self, targets: Mapping[str, Target]) -> Mapping[str, int]:
        """Return slide -> stratum, the place of its name in what `read` returns.

        Folds hold every stratum in the proportion of the cohort, and the audit compares strata as it does classes.
        """

    def n_outputs(self, names: Sequence[str]) -> int:
        """Return ``n_classes`` of the models for a cohort with these names of classes."""
        return 2

    # -- predictions

    @abstractmethod
    def prediction_columns(self, n_outputs: int) -> tuple[str, ...]:
        """Return the columns of predictions.parquet after ``slide_id`` and ``split``."""

    def stored_columns(self, names: Sequence[str]) -> tuple[str, ...]:
        """Return the prediction columns among those of a table, in their order.

        Raises:
            ValueError: these are not the columns of this task; the message says which are due.
        """
        due = self.prediction_columns(2)
        if tuple(names) != due:
            raise ValueError(f"predictions need slide_id, split, {', '.join(due)}, not {list(names)}")
        return due

    @abstractmethod
    def validation(self, targets: NDArray[Any], predictions: Predictions) -> dict[str, float]:
        """Return the value of every monitor on the validation bags; NaN where the bags do not define one."""

    # -- scores

    @abstractmethod
    def metrics(self) -> tuple[Metric, ...]:
        """Return the metrics that stored predictions of this task are scored by."""

    @abstractmethod
    def scores(self, targets: Sequence[Target], columns: Mapping[str, NDArray[Any]]) -> dict[str, float]:
        """Return every metric of stored predictions.

        Args:
            targets: of n bags.
            columns: the stored columns of predictions, ``(n,)`` each.
        """

    def monitor(self, name: str) -> Monitor:
        """Return a monitor by its name.

        Raises:
            MilbenchError: the task has none of that name.
        """
        for monitor in self.monitors:
            if monitor.name == name:
                return monitor
        known = [monitor.name for monitor in self.monitors]
        raise MilbenchError(
            f"task {self.name} has no monitor {name!r}.{did_you_mean(name, known)} Set monitor in [protocol] to "
            f"{' or '.join(known)}.",
            code="suite-bad-value",
        )

    # -- training: these take or return tensors

    def tensor(self, targets: Sequence[Target], device: torch.device | None = None) -> Tensor:
        """Return checked targets as the tensor that `loss` takes, rows as in `array`."""
        # By name: a table of results imports this module, and no torch.
        tensor: Tensor = import_module("torch").from_numpy(self.array(targets)).to(device)
        return tensor

    @abstractmethod
    def check_tensor(self, targets: Tensor, bags: int, n_outputs: int) -> None:
        """Raise MilbenchError unless a tensor holds one target of this task for each of some bags."""

    @abstractmethod
    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss of a batch, a scalar in fp32, of ``(B, k)`` logits and checked targets.

        It is the loss of every method that defines none of its own.
        """

    @abstractmethod
    def outputs(self, model: Any, out: BagOutput) -> tuple[Tensor, ...]:
        """Return what is predicted for the bags of one output of a model, ``(B, ...)`` each.

        The first is refused where it is not finite.
        """

    @abstractmethod
    def predictions(self, parts: Sequence[tuple[NDArray[Any], ...]]) -> Predictions:
        """Join the outputs of batches, as float64 arrays.

        Raises:
            Diverged: they are not of the form due, though the first is finite.
        """

    def refuse_recipe(self, recipe: Any) -> None:
        """Raise MilbenchError where a recipe has a field that needs classes and the task has none."""
        if self.has_classes:
            return
        needs = {
            "class_weights": recipe.class_weights != "none",
            "sampler": recipe.sampler == "balanced",
            "label_smoothing": recipe.label_smoothing != 0,
        }
        for field, used in needs.items():
            if used:
                raise MilbenchError(
                    f"task {self.name} has no classes; leave {field} out of [recipe].", code="suite-bad-value"
                )

    def __repr__(self) -> str:
        return f"<task {self.name}>"
