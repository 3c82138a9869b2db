"""The built-in task: its stored columns, refusals, strata and monitors."""

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss, roc_auc_score
from support.refusal import refused
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

import milbench
from milbench.bags import Bags
from milbench.config import DataSpec, RunSpec
from milbench.errors import Diverged
from milbench.registry import resolve
from milbench.tasks import CLASSIFICATION, binary_logit, task_named, task_names
from milbench.tasks.classification import ClassPredictions

TASK = task_named(CLASSIFICATION)


def test_it_is_the_task_of_cohorts_and_runs_that_name_none():
    assert DataSpec.model_fields["task"].default == RunSpec.model_fields["task"].default == TASK.name == CLASSIFICATION
    assert task_names()[0] == CLASSIFICATION
    assert type(milbench.create("mean", in_dim=2)).target_task is TASK


def test_an_unknown_task_is_refused_with_the_known_ones():
    with refused("plugin-unknown", "'classfication'", "'classification'"):
        task_named("classfication")


def test_validation_is_log_loss_and_auc():
    rng = np.random.default_rng(0)
    y, p = np.arange(40) % 2, rng.uniform(0.01, 0.99, 40)
    both = np.column_stack([1 - p, p])
    actual = TASK.validation(y, ClassPredictions(both, np.log(both / (1 - both))))
    assert set(actual) == {monitor.name for monitor in TASK.monitors}
    assert actual["val_loss"] == pytest.approx(log_loss(y, p))
    assert actual["val_auc"] == pytest.approx(roc_auc_score(y, p))


@pytest.mark.parametrize("classes", [2, 3])
def test_stored_columns_are_those_of_its_predictions(classes):
    p = np.full((5, classes), 1 / classes)
    names = list(ClassPredictions(p, p).columns)
    assert tuple(names) == TASK.prediction_columns(classes) == TASK.stored_columns(names)
    assert TASK.stored_columns(names[:classes]) == TASK.prediction_columns(classes)[:classes]
    for wrong in (names[1:], names[:-1], names[::-1], [*names, "label"], []):
        with pytest.raises(ValueError, match="need slide_id, split, p0"):
            TASK.stored_columns(wrong)


def test_predictions_join_batches_and_refuse_log_odds_of_another_shape():
    p, s = np.array([[0.2, 0.8]]), np.array([[-1.0, 1.0]])
    joined = TASK.predictions([(p, s), (2 * p, s)])
    np.testing.assert_allclose(joined.probabilities, [[0.2, 0.8]] * 2)
    with pytest.raises(Diverged):
        TASK.predictions([(p, s[:, :1])])
    with pytest.raises(Diverged):
        TASK.predictions([(p, s * np.nan)])


@pytest.mark.parametrize("outputs", [1, 2, 3])
def test_the_default_loss_of_a_method_is_the_tasks(outputs):
    logits, y = torch.randn(6, outputs), torch.arange(6) % max(2, outputs)
    expected = binary_cross_entropy_with_logits(logits[:, 0], y.float()) if outputs == 1 else cross_entropy(logits, y)
    torch.testing.assert_close(TASK.loss(logits, y), expected)
    model = milbench.create("mean", in_dim=2, n_classes=max(2, outputs))
    torch.testing.assert_close(model.loss(milbench.BagOutput(logits), y), expected)


def test_one_number_of_a_head_is_what_a_sigmoid_takes():
    two = torch.randn(5, 2)
    torch.testing.assert_close(binary_logit(two).sigmoid(), two.softmax(dim=1)[:, 1])
    torch.testing.assert_close(binary_logit(two[:, :1]), two[:, 0])


def test_scores_are_those_of_the_metrics():
    y = np.arange(12) % 3
    p = np.random.default_rng(1).dirichlet(np.ones(3), 12)
    columns = ClassPredictions(p, np.log(p / (1 - p))).columns
    assert TASK.scores(y, columns) == milbench.metrics.all_metrics(y, p, np.log(p / (1 - p)))
    assert TASK.primary_metric in {metric.name for metric in TASK.metrics()}
    assert milbench.metrics.auc([0, 1, 0, 1], np.full((4, 2), 0.5)) == TASK.no_skill


def test_a_monitor_says_what_is_better():
    loss, auc = TASK.monitors
    assert (loss.best, auc.best) == ("the smallest validation loss", "the highest validation AUC")
    assert (loss.axis, auc.axis) == ("Validation loss (nats)", "Validation AUC")
    assert (loss.to_minimise(2.0), auc.to_minimise(2.0)) == (2.0, -2.0)
    with refused("suite-bad-value", "'val_accuracy'", "val_loss or val_auc"):
        TASK.monitor("val_accuracy")


def test_a_method_may_keep_a_task_of_its_own_and_not_the_name_of_the_targets_task():
    class Named(resolve("mean").cls):
        def __init__(self, in_dim, n_classes, **attributes):
            super().__init__(in_dim, n_classes)
            self.task = "subtyping"
            for name, value in attributes.items():
                setattr(self, name, value)

    targets = torch.tensor([0, 1])
    model = Named(2, 2)
    out = model(Bags.pack([torch.ones(3, 2), torch.zeros(1, 2)]))
    assert model.loss(out, targets).item() == pytest.approx(cross_entropy(out.logits, targets).item())
    assert model.task == "subtyping"
    for value in ("subtyping", torch.nn.Linear(2, 2)):
        with refused("method-malformed", "Named", "target_task", type(value).__name__):
            Named(2, 2, target_task=value)

    class OfTheClass(resolve("mean").cls):
        target_task = "subtyping"

    with refused("method-malformed", "OfTheClass", "target_task"):
        OfTheClass(2, 2)
