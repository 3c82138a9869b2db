"""Suite: a versioned set of runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from ..errors import did_you_mean
from .budget import Budget
from .data_spec import MOST_FOLDS, DataSpec
from .frozen import Frozen
from .protocol import Protocol, ThresholdRule
from .tuning import Tuning


class Published(Frozen):
    """A figure from the literature, printed next to ours; never a target.

    Attributes:
        data: the cohort it is of.
        method: with its parameters; the suite has one of that name, or with others.
        metric: which of ours it is compared with.
        value, error: as printed, ``value ± error``; what the error is of differs between papers.
        status: ``read`` in the source, or from ``memory`` and not checked.
        source: where it was printed.
    """

    data: str
    method: str
    metric: Literal["accuracy", "auc", "balanced_accuracy"] = "accuracy"
    value: float
    error: float | None = None
    status: Literal["read", "memory"]
    source: str


class Suite(Frozen):
    """A versioned set of runs: cohorts x methods x folds x seeds, under one protocol and one budget.

    Attributes:
        name: of the suite, and of its folders of results and of its report.
        version: raised when the runs of the suite change meaning; results of versions stand in separate folders.
        description: one sentence, printed by ``milbench list suites`` and in the report.
        methods: names of aggregators with their options, such as ``transmil[ppeg=none]``, or ``module:Class``.
        data: the cohorts, one ``[[data]]`` table each.
        seeds: how many seeds every method is trained with on every fold: 0 to seeds - 1.
        protocol: which model of a training is evaluated.
        budget: resources that every run may use.
        device: ``auto`` is CUDA where torch has a device, else the CPU.
        recipe: fields that replace those of every method's own recipe, the same for all methods.
        recipes: fields for one method (by its name, without parameters), laid over `recipe`; printed with the table.
        threads: CPU threads of one run. Sums change their order with it, so it is part of the spec, unlike the number
            of runs that go on side by side.
        stacked: how many runs of a method that differ in fold and seed alone may share a process: trained as one
            stacked model where the method and the recipe allow it (`milbench.training.stacked`), else one after the
            other. For many small runs; their peak memory is not recorded. 1: a process for each.
        cost: measure inference and training cost of every method in runs of their own.
        unit: of the interval's resampling, ``patient`` (the default; a slide without patient is its own) or ``bag``.
        tuning: how hyperparameters are searched; None: `budget.trials` is None too, and nothing is.
        reference: the method that the others are a change of, in an ablation: the report then shows their effects.
        across: the report also compares methods over all cohorts, of which there are three or more.
        published: figures from the literature that the report prints next to ours.
        keep_models: ``best`` keeps the selected model of every run as a file, which ``milbench predict`` applies to
            other slides; no part of a run's identity.
        threshold: how bags of two classes are called positive: ``half``, the more probable class; ``val-youden`` or
            ``val-f1``, at the threshold with the highest Youden's J or F1 on the validation bags of each run. It
            decides accuracy, balanced accuracy, F1, sensitivity and specificity, and no training: stored runs are
            scored by it (`milbench.stats.threshold`). No part of a run's identity.
    """

    name: str
    version: int = 1
    description: str = ""
    methods: tuple[str, ...]
    reference: str | None = None
    data: tuple[DataSpec, ...]
    seeds: int = Field(1, ge=1, le=MOST_FOLDS)
    protocol: Protocol = Protocol()
    budget: Budget = Budget()
    tuning: Tuning | None = None
    recipe: dict[str, Any] = {}
    recipes: dict[str, dict[str, Any]] = {}
    threads: int = Field(1, ge=1)
    stacked: int = Field(1, ge=1)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    cost: bool = True
    unit: Literal["patient", "bag"] = "patient"
    across: bool = False
    published: tuple[Published, ...] = ()
    keep_models: Literal["best", "none"] = "none"
    threshold: ThresholdRule = "half"
    #: folder relative paths of the suite start at; not part of its identity.
    base: Path = Field(Path(), exclude=True)

    @model_validator(mode="before")
    @classmethod
    def _trials_are_tuning(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.get("tuning") is None:
            budget = value.get("budget")
            trials = budget.get("trials") if isinstance(budget, dict) else getattr(budget, "trials", None)
            if trials is not None:
                return value | {"tuning": {}}
        return value

    @model_validator(mode="after")
    def _tuning_has_trials(self) -> Suite:
        if self.tuning is not None and self.budget.trials is None:
            raise ValueError("[tuning] needs trials in [budget]: how many every method gets")
        if self.tuning is not None and self.protocol.checkpoint == "oracle":
            raise ValueError('tuning and checkpoint = "oracle" do not go together: an oracle is not to be optimised')
        return self

    @model_validator(mode="after")
    def _published_are_run(self) -> Suite:
        # A method by its name: one with other parameters may be run besides those of the suite.
        known = {m.partition("[")[0]: m for m in self.methods}
        for figure in self.published:
            for what, name, names in (
                ("cohort", figure.data, [d.name for d in self.data]),
                ("method", figure.method.partition("[")[0], list(known)),
            ):
                if name not in names:
                    hint = did_you_mean(name, names)
                    raise ValueError(f"published names {what} {name!r}, which the suite lacks.{hint}")
        return self

    @field_validator("methods")
    @classmethod
    def _some_methods(cls, methods: tuple[str, ...]) -> tuple[str, ...]:
        if not methods:
            raise ValueError("a suite needs at least one method")
        return methods

    @field_validator("data")
    @classmethod
    def _distinct_cohorts(cls, data: tuple[DataSpec, ...]) -> tuple[DataSpec, ...]:
        names = [d.name for d in data]
        if not names or len(set(names)) < len(names):
            raise ValueError("a suite needs at least one [[data]] table, each with a name of its own")
        return data
