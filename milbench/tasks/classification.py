"""Classification: a target is the index of a class; predictions are probabilities and log-odds of the classes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from ..errors import Diverged, MilbenchError, did_you_mean
from ..formatting.text import some
from ._base import Monitor, Predictions, Task

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from ..bags import BagOutput
    from ..metrics import Metric


@cache
def _on_logits() -> Any:
    # By name: tables of results import this module, and no torch.
    return import_module("milbench.tasks._class_logits")


@cache
def _metrics() -> Any:
    # On first use: a run is stored without metrics, whose imports take half as long as pandas.
    return import_module("milbench.metrics")


@dataclass(frozen=True)
class ClassPredictions(Predictions):
    """The predictions of a model for the classes of B bags.

    Attributes:
        probabilities: ``(B, n_classes)`` float64, rows sum to 1.
        log_odds: ``(B, n_classes)`` float64, of every class against the rest; bags are ordered by these.
    """

    probabilities: NDArray[Any]
    log_odds: NDArray[Any]

    @property
    def columns(self) -> dict[str, NDArray[Any]]:
        """Return p0 .. p{C-1} and log-odds s0 .. s{C-1}, ``(B,)`` each."""
        both = {"p": self.probabilities, "s": self.log_odds}
        return {f"{kind}{c}": values[:, c] for kind, values in both.items() for c in range(values.shape[1])}


class Classification(Task):
    """Class indices 0 .. C - 1; with two classes, class 1 is the positive one."""

    name = "classification"
    monitors = (
        Monitor("val_loss", "Validation loss", "lower", "nats"),
        Monitor("val_auc", "Validation AUC", "higher"),
    )
    primary_metric = "auc"
    no_skill = 0.5
    target_columns: ClassVar[dict[str, str]] = {"label": "int64"}
    has_classes = True

    def read(
        self, cells: Mapping[str, str], names: Sequence[str] | None, where: str
    ) -> tuple[dict[str, int], tuple[str, ...]]:
        """Turn label values into class indices; see `index_classes`."""
        return index_classes(cells, names, where)

    def check(self, targets: Sequence[int], n_outputs: int) -> None:
        """Raise MilbenchError where a training label is none of the classes 0 .. n_outputs - 1."""
        wrong = sorted({y for y in targets if not 0 <= y < n_outputs})
        if wrong:
            raise MilbenchError(
                f"training labels hold {', '.join(map(str, wrong[:5]))}, but with {n_outputs} classes they are "
                f"0 to {n_outputs - 1}; correct the labels.",
                code="targets-bad",
            )

    def array(self, targets: Sequence[int]) -> NDArray[Any]:
        """Return ``(n,)`` int64."""
        return np.array(targets, dtype=np.int64)

    def strata(self, targets: Mapping[str, int]) -> Mapping[str, int]:
        """Return the classes."""
        return targets

    def n_outputs(self, names: Sequence[str]) -> int:
        """Return the number of classes."""
        return len(names)

    def prediction_columns(self, n_outputs: int) -> tuple[str, ...]:
        """Return p0 .. p{C-1}, then log-odds s0 .. s{C-1}, which runs of before these were stored lack."""
        return tuple(f"{kind}{c}" for kind in "ps" for c in range(n_outputs))

    def stored_columns(self, names: Sequence[str]) -> tuple[str, ...]:
        """Return the prediction columns of a table; log-odds may be absent."""
        classes = sum(re.fullmatch(r"p\d+", str(name)) is not None for name in names)
        due = self.prediction_columns(classes)
        if not any(name in names for name in due[classes:]):
            due = due[:classes]
        if classes < 2 or tuple(names) != due:
            raise ValueError(f"predictions need slide_id, split, p0, p1 ... and, if any, s0, s1 ..., not {list(names)}")
        return due

    def validation(self, targets: NDArray[Any], predictions: Predictions) -> dict[str, float]:
        """Return val_loss (log loss in nats, the same quantity for every method) and val_auc."""
        assert isinstance(predictions, ClassPredictions)
        p = predictions.probabilities
        chosen = np.clip(p[np.arange(len(targets)), targets], 1e-12, 1)
        auc = _metrics().auc(targets, p, predictions.log_odds)
        return {"val_loss": float(-np.log(chosen).mean()), "val_auc": auc}

    def metrics(self) -> tuple[Metric, ...]:
        """Return milbench's metrics and the registered ones."""
        return tuple(_metrics().registered())

    def scores(self, targets: Sequence[int], columns: Mapping[str, NDArray[Any]]) -> dict[str, float]:
        """Return every metric, of the most probable classes."""
        names = [name for name in columns if re.fullmatch(r"[ps]\d+", name)]
        stored = self.stored_columns(names)
        p, s = (
            np.column_stack([columns[name] for name in stored if name[0] == kind])
            if any(name[0] == kind for name in stored) else None
            for kind in "ps"
        )  # fmt: skip
        return dict(_metrics().all_metrics(self.array(targets), p, s))

    # -- torch, imported by `_on_logits`

    def check_tensor(self, targets: Tensor, bags: int, n_outputs: int) -> None:
        """Raise MilbenchError unless targets are ``(bags,)`` int64 class indices."""
        _on_logits().check_targets(targets, bags, n_outputs)

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy, or binary cross-entropy for a one-output head."""
        loss: Tensor = _on_logits().loss_of_classes(logits, targets)
        return loss

    def outputs(self, model: Any, out: BagOutput) -> tuple[Tensor, ...]:
        """Return the model's probabilities and log-odds."""
        return model.probabilities(out), model.log_odds(out)

    def predictions(self, parts: Sequence[tuple[NDArray[Any], ...]]) -> ClassPredictions:
        """Join probabilities and log-odds; rows of probabilities sum to 1 in float64."""
        p, s = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        if s.shape != p.shape or np.isnan(s).any():  # of a method that defines its own
            raise Diverged(
                f"the model's log-odds are NaN, or not of shape {p.shape}, where its probabilities are finite"
            )
        return ClassPredictions(p / p.sum(axis=1, keepdims=True), np.nan_to_num(s))


def plain_label(value: str) -> str:
    """Write 1.0 as 1: tools that pass labels through floating point must not make new classes."""
    return value.split(".")[0] if re.fullmatch(r"-?\d+\.0*", value) else value


def index_classes(
    values: Mapping[str, str], classes: Sequence[str] | None, where: str
) -> tuple[dict[str, int], tuple[str, ...]]:
    """Turn label values into class indices.

    Args:
        values: slide -> label value.
        classes: the values in class order; None: the values present, sorted, as numbers where all are numbers.
        where: the file, for messages.

    Raises:
        MilbenchError: a value that is no class, a class without slides, or fewer than two classes.
    """
    present = sorted(set(values.values()), key=_number_or_text)
    if classes is None and not all(isinstance(_number_or_text(value)[1], float) for value in present):
        present = sorted(present)
    names = tuple(present) if classes is None else tuple(plain_label(name) for name in classes)
    if len(set(names)) < len(names):
        raise MilbenchError(
            f"classes {some(list(names))} name one class twice; name every class once.", code="classes-bad"
        )
    unknown = [value for value in present if value not in names]
    if unknown:
        raise MilbenchError(
            f"{where} has the label {unknown[0]!r}, which is none of the classes.{did_you_mean(unknown[0], names)}",
            code="labels-unknown-class",
        )
    idle = [name for name in names if name not in present]
    if idle:
        raise MilbenchError(
            f"{where} has no slide of class {some(idle)}; correct the list of classes.", code="classes-bad"
        )
    if len(names) < 2:
        raise MilbenchError(
            f"{where} has {len(names)} class ({some(list(names)) or 'none'}); a comparison needs two or more.",
            code="classes-bad",
        )
    return {slide: names.index(value) for slide, value in values.items()}, names


def _number_or_text(value: str) -> tuple[int, float | str]:
    try:
        return 0, float(value)
    except ValueError:
        return 1, value


TASK = Classification()
