"""Protocol: which model of a training is evaluated, and by which rule bags are called positive."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from .frozen import Frozen

#: Part of every run_id. Raised when training or evaluation change in a way that changes predictions for the same spec.
PROTOCOL_VERSION = 4


class Protocol(Frozen):
    """How a model is selected, declared before anything runs.

    Attributes:
        checkpoint: ``best-val`` keeps the evaluation that was best on validation, ``last`` the final one, ``oracle``
            the one that was best on TEST: what some published scripts do. It is there to show by how much that inflates
            a table, and is never ranked. No label reaches the training: predictions of every evaluation are stored, and
            the leaderboard, which alone reads test labels, picks.
        monitor: the validation quantity for selection and early stopping. ``val_loss`` is the plain log loss, at the
            class frequencies of the validation bags: a recipe with balanced `class_weights` or a balanced `sampler`
            aims at equal frequencies, and this loss may rise while the order of bags improves; ``val_auc`` does not
            depend on the frequencies. It orders bags by log-odds; runs of before these were stored ordered them by
            rounded probabilities (``val_auc_ordered_by`` in a run's record).
        evaluations: number of evaluations on the validation slides under a budget that sets the length of a training,
            evenly spaced over it, so that every method has as many models to choose from; a method that takes fewer
            steps is evaluated after each. Without such a budget methods are evaluated after every epoch.
        standardize: shift and scale every feature by its mean and standard deviation over the training instances of the
            fold, as the classical sets are used; whole-slide features are taken as they are.
    """

    checkpoint: Literal["last", "best-val", "oracle"] = "best-val"
    evaluations: int = Field(20, ge=1)
    monitor: str = Field("val_loss", pattern=r"^val_[a-z0-9_]+$")
    standardize: bool = False


#: How bags of two classes are called positive, see `milbench.stats.threshold`.
ThresholdRule = Literal["half", "val-youden", "val-f1"]
