"""A task of another package: a number for every bag. It imports torch only where a tensor is needed."""

import numpy as np

from milbench.errors import Diverged, MilbenchError
from milbench.metrics import Metric
from milbench.tasks import Monitor, Predictions, Task, binary_logit


class Doses(Predictions):
    def __init__(self, values):
        self.values = values

    @property
    def columns(self):
        return {"dose": self.values}


def mean_absolute_error(labels, predicted):
    return float(np.mean(np.abs(np.asarray(labels) - predicted)))


class Dose(Task):
    """The dose of a bag, a finite number; folds balance bags above and below the median."""

    name = "dose"
    monitors = (
        Monitor("val_loss", "Validation squared error", "lower"),
        Monitor("val_rank_correlation", "Validation rank correlation", "higher"),
    )
    primary_metric = "mean_absolute_error"

    def read(self, cells, names, where):
        try:
            doses = {slide: float(cell) for slide, cell in cells.items()}
        except ValueError as error:
            raise MilbenchError(
                f"{where} has a dose that is no number ({error}); correct it.", code="dose-not-a-number"
            ) from None
        return doses, ("low", "high")

    def check(self, targets, n_outputs):
        if not np.isfinite(targets).all():
            raise MilbenchError("training doses are not finite; correct the labels.")

    def array(self, targets):
        return np.array(targets, dtype=np.float32)

    def strata(self, targets):
        middle = float(np.median(list(targets.values())))
        return {slide: int(dose > middle) for slide, dose in targets.items()}

    def prediction_columns(self, n_outputs):
        return ("dose",)

    def validation(self, targets, predictions):
        from scipy.stats import spearmanr

        return {"val_loss": float(np.mean((targets - predictions.values) ** 2)),
                "val_rank_correlation": float(spearmanr(targets, predictions.values).statistic)}  # fmt: skip

    def metrics(self):
        return (Metric("mean_absolute_error", "Mean absolute error", False, mean_absolute_error, task="dose"),)

    def scores(self, targets, columns):
        return {metric.name: metric.function(targets, columns["dose"]) for metric in self.metrics()}

    def check_tensor(self, targets, bags, n_outputs):
        if tuple(targets.shape) != (bags,) or not targets.is_floating_point():
            raise MilbenchError(f"doses must be {bags} floating-point numbers.")

    def loss(self, logits, targets):
        return (binary_logit(logits) - targets).square().mean()

    def outputs(self, model, out):
        return (binary_logit(out.logits),)

    def predictions(self, parts):
        values = np.concatenate([dose for (dose,) in parts])
        if values.ndim != 1:
            raise Diverged(f"doses have shape {values.shape}")
        return Doses(values)


TASK = Dose()
