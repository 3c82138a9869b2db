"""Suite, RunSpec, Recipe, Budget, Card: frozen values that say what is run. No torch here, and no work.

`RunSpec.run_id` is the hash of a run's canonical form: two runs with one id are the same experiment, wherever they
were made.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from .codes import CODES
from .errors import MilbenchError, did_you_mean
from .quantities import NAMES, UNITS, parse_quantity, show_quantity

#: Part of every run_id. Raised when training or evaluation change in a way that changes predictions for the same spec.
PROTOCOL_VERSION = 4


class Frozen(BaseModel):
    """An immutable value that refuses unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def identity(self) -> dict[str, Any]:
        """Return the JSON value that ids are hashed of: all fields but those added later that have their default.

        A field of `added` counts only where it is used, at any depth, so that what was stored before it existed keeps
        its id.
        """
        fields = self.model_dump(mode="json")
        for name, info in type(self).model_fields.items():
            value = getattr(self, name)
            extra = info.json_schema_extra
            if isinstance(extra, dict) and "since" in extra and value == info.get_default(call_default_factory=True):
                del fields[name]
            elif isinstance(value, Frozen):
                fields[name] = value.identity()
        return fields


def added(default: Any, since: str, **constraints: Any) -> Any:
    """Declare a field of a hashed value that earlier versions did not have.

    Args:
        default: what every value had before the field existed; with it, the field is not hashed (`Frozen.identity`).
        since: the version of milbench that first had the field.
        constraints: of pydantic's ``Field``.
    """
    return Field(default, json_schema_extra={"since": since}, **constraints)


class Float(Frozen):
    """A real-valued dimension of a search space, searched on a log scale when `log`."""

    low: float = Field(allow_inf_nan=False)
    high: float = Field(allow_inf_nan=False)
    log: bool = False

    @model_validator(mode="after")
    def _range(self) -> Float:
        return _checked(self)

    @property
    def whole(self) -> bool:
        """Return whether both ends are whole numbers."""
        return self.low.is_integer() and self.high.is_integer()


class Int(Frozen):
    """An integer dimension of a search space, both ends included."""

    low: int
    high: int
    log: bool = False

    @model_validator(mode="after")
    def _range(self) -> Int:
        return _checked(self)


class Choice(Frozen):
    """A categorical dimension of a search space."""

    options: tuple[Any, ...] = Field(min_length=1)


_Range = TypeVar("_Range", Float, Int)


def _checked(dimension: _Range) -> _Range:
    if dimension.low > dimension.high:
        raise ValueError(f"low is {dimension.low} and high is {dimension.high}; low must not be above high")
    if dimension.log and dimension.low <= 0:
        raise ValueError(f"low is {dimension.low}, which has no logarithm; it must be positive, or log false")
    return dimension


Dimension = Float | Int | Choice


class Card(Frozen):
    """What a reader must know of a method before believing its row; shown by ``milbench show``.

    Attributes:
        title: the name the literature uses.
        family: ``iid`` when instances are pooled independently of each other, ``correlated`` when they attend to each
            other.
        citation: authors, title, venue, year.
        url: where the paper is.
        licence: under what the authors' own code stands, and how ours was written.
        score: which quantity is scored, where a method has several.
        deviations: differences from the authors' code, one sentence each.
        bibtex: a BibTeX entry; "": made of `citation` where that has the form ``A. Author, B. Author. Title. Venue
            Year.``, else an entry that quotes it.
    """

    title: str
    family: Literal["iid", "correlated"]
    citation: str
    url: str = ""
    licence: str = ""
    score: str = ""
    deviations: tuple[str, ...] = ()
    bibtex: str = ""


class Recipe(Frozen):
    """How a method is trained. Every method is trained by one loop, from one of these.

    Attributes:
        optimizer: ``adam``, ``adamw``, ``sgd``, ``radam`` or ``lookahead-radam`` (Lookahead, k = 6, alpha = 0.5).
        lr: learning rate at the start of the schedule.
        weight_decay: L2 penalty, decoupled for ``adamw``.
        betas: Adam-type moment decay rates.
        momentum: of ``sgd``.
        schedule: what the learning rate does over the whole training, which is the budget, where that sets a length,
            else the steps of all epochs: ``constant``; ``cosine`` or ``linear``, from `lr` to `min_lr`; ``step``, a
            tenth of `lr` after half of the training and a hundredth after three quarters, at least `min_lr`;
            ``plateau``, `plateau_factor` times the rate whenever the monitored validation quantity (`Protocol.monitor`)
            has not improved for more than `plateau_patience` evaluations after the warm-up, at least `min_lr`, as
            torch's ``ReduceLROnPlateau`` with its other defaults. It needs validation slides.
        min_lr: lowest learning rate of every schedule but ``constant``, at most `lr`.
        warmup: share of the training over which the rate rises linearly to `lr` before the schedule begins.
        epochs: passes over the training bags, at most; a budget that sets a length takes their place.
        batch_size: bags in one forward pass; 1 in most of the literature.
        accumulate: forward passes whose gradients are averaged into one step.
        patience: epochs without improvement of the monitored validation quantity before training stops; None: never.
            Not used under a budget that sets a length: every method then uses the whole of it.
        grad_clip: largest gradient norm; None: no limit.
        precision: ``fp32``, or autocast in ``bf16`` or ``fp16``; losses and softmax sums stay in fp32.
        class_weights: ``none``, or ``balanced``: the whole loss of a bag of class c (auxiliary terms of the method
            included) is multiplied by N / (K n_c), where n_c of the fold's N training bags are of class c and K classes
            occur. The mean weight over the training bags is 1, at every batch size.
        sampler: ``shuffle``, every training bag once an epoch; or ``balanced``, as many bags an epoch, drawn with
            replacement, every class with the same probability (CLAM's ``--weighted_sample``).
        plateau_factor: of ``plateau``: what the rate is multiplied by.
        plateau_patience: of ``plateau``: evaluations without improvement that change nothing.
        label_smoothing: share e of the label that is spread evenly over all C classes: a bag's loss is (1 - e) times
            that of its label plus e / C times the sum of the losses of every label. Of a cross-entropy that is torch's
            ``label_smoothing``; a method's auxiliary terms are averaged in the same way.
    """

    optimizer: Literal["adam", "adamw", "sgd", "radam", "lookahead-radam"] = "adamw"
    lr: float = Field(1e-4, gt=0)
    weight_decay: float = Field(1e-5, ge=0)
    betas: tuple[float, float] = (0.9, 0.999)
    momentum: float = Field(0.9, ge=0, lt=1)
    schedule: Literal["constant", "cosine", "linear", "step", "plateau"] = "constant"
    warmup: float = Field(0.0, ge=0, lt=1)
    epochs: int = Field(50, ge=1)
    batch_size: int = Field(1, ge=1)
    accumulate: int = Field(1, ge=1)
    patience: int | None = Field(None, ge=1)
    grad_clip: float | None = Field(None, gt=0)
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    min_lr: float = added(0.0, since="0.2.0", ge=0)
    class_weights: Literal["none", "balanced"] = added("none", since="0.2.0")
    sampler: Literal["shuffle", "balanced"] = added("shuffle", since="0.2.0")
    label_smoothing: float = added(0.0, since="0.2.0", ge=0, lt=1)
    plateau_factor: float = added(0.1, since="0.2.0", gt=0, lt=1)
    plateau_patience: int = added(10, since="0.2.0", ge=0)


#: Budgets that set the length of a training; at most one of them is given.
TRACKS = ("steps", "flops", "device_seconds")


class Budget(Frozen):
    """What a run may use, the same for every method. Absent means unlimited.

    Values may be written with units: ``device-seconds = "10 min"``, ``memory = "8 GiB"``, ``flops = "2e15 flop"``.

    Attributes:
        steps: optimizer steps of a training.
        flops: floating-point operations of a training, as `milbench.measure.flops` counts them for each bag it sees:
            forward, loss and backward; the same number on every machine.
        device_seconds: seconds the device works on a training: forward, backward, optimizer and, where the features are
            not there already, their way to it. On CPU the wall time of the same. Evaluation, checkpoints and
            compilation are timed apart and do not count. Runs side by side on one machine share its caches and memory.
        memory_bytes: cap on the memory of the run's process; exceeding it is outcome ``oom``. On CPU the cap is on the
            address space beyond what the loaded libraries take, on CUDA on torch's caching allocator.
        trials: tuning trials of every method, on every fold; those that fail or are pruned count.
        timeout_s: wall seconds after which a run is stopped, as a safety net; its outcome is then ``timeout``. No part
            of a run's identity: a run that ended otherwise is the same under another timeout.
        on_oom: what becomes of a run that does not fit: ``fail``, or ``subsample``, which trains it again from the
            start on at most `max_instances` instances of every training bag, drawn anew at every step; it is evaluated
            on whole bags all the same, and its results are marked.
        max_instances: see `on_oom`.

    A training stops at the first step that reaches its steps, flops or device-seconds, and so uses at most one step
    more; ``used over allowed`` is recorded.
    """

    steps: int | None = Field(None, gt=0)
    flops: int | None = Field(None, gt=0)
    device_seconds: float | None = Field(None, gt=0)
    memory_bytes: int | None = Field(None, gt=0)
    trials: int | None = Field(None, gt=0)
    timeout_s: float | None = Field(None, gt=0)
    on_oom: Literal["fail", "subsample"] = "fail"
    max_instances: int | None = Field(None, gt=0)

    @model_validator(mode="before")
    @classmethod
    def _with_units(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        fields: dict[str, Any] = {}
        for name, given in value.items():
            field = NAMES.get(str(name), str(name))
            if field in fields:
                raise ValueError(f"{field} is given twice")
            try:
                fields[field] = parse_quantity(field, given) if field in UNITS and given is not None else given
            except MilbenchError as error:
                raise ValueError(f"{name}: {error}") from None
        return fields

    @model_validator(mode="after")
    def _one_track(self) -> Budget:
        given = [name for name in TRACKS if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"a training has one length, but {' and '.join(given)} are given; keep one of them")
        if (self.on_oom == "subsample") != (self.max_instances is not None):
            raise ValueError('on_oom = "subsample" and max_instances go together')
        return self

    @property
    def track(self) -> str | None:
        """Return which of `TRACKS` sets the length of a training; None where recipes do."""
        return next((name for name in TRACKS if getattr(self, name) is not None), None)

    def __str__(self) -> str:
        """Return the budget in words; what is not limited is said to be unlimited."""
        track, limits = self.track, {"memory_bytes": "memory", "timeout_s": "timeout"}
        length = f"{track.replace('_', '-')}: {self._shown(track)}" if track else "length: each recipe's epochs"
        parts = [length]
        parts += [f"{word}: {self._shown(field)}" for field, word in limits.items()]
        if self.max_instances is not None:
            parts.append(f"what does not fit is trained on at most {self.max_instances:,} instances of a bag")
        return ", ".join(parts)

    def _shown(self, field: str) -> str:
        value = getattr(self, field)
        return "unlimited" if value is None else show_quantity(field, value)


class Tuning(Frozen):
    """How hyperparameters are searched, the same way for every method; `Budget.trials` says how often.

    A study belongs to one method on one fold and sees that fold's training and validation slides alone: what is a test
    slide there is so in no trial, although another fold may train on it.

    Attributes:
        sampler: ``tpe`` or ``random``, Optuna's.
        pruner: ``none``, or Optuna's ``median``: a trial that is worse than the median of the others at the same share
            of its budget is stopped.
        startup_trials: trials drawn at random before ``tpe`` has something to learn from, and before ``median`` prunes.
        share: of the run's budget that a trial may use.
        seed: of the search and of every trial's training.
        space: dimensions searched for every method alike, beside each method's own; names are fields of Recipe.
    """

    sampler: Literal["tpe", "random"] = "tpe"
    pruner: Literal["none", "median"] = "none"
    startup_trials: int = Field(5, ge=1)
    share: float = Field(1.0, gt=0, le=1)
    seed: int = 0
    space: dict[str, Float | Int | Choice] = {
        "lr": Float(low=1e-5, high=1e-2, log=True),
        "weight_decay": Float(low=1e-6, high=1e-2, log=True),
    }

    @field_validator("space")
    @classmethod
    def _fields_of_recipe(cls, space: dict[str, Any]) -> dict[str, Any]:
        found = {}
        for name, dimension in space.items():
            if name not in Recipe.model_fields:
                raise ValueError(f"space names {name!r}, which is no field of a recipe")
            kind = Recipe.model_fields[name].annotation
            # 0 to 1 may be whole numbers or real ones: the field tells.
            if kind in (float, float | None) and isinstance(dimension, Int):
                dimension = Float(**dimension.model_dump())
            if kind in (int, int | None) and isinstance(dimension, Float) and dimension.whole:
                dimension = Int(low=int(dimension.low), high=int(dimension.high), log=dimension.log)
            if isinstance(dimension, Float) and kind not in (float, float | None):
                raise ValueError(f"space.{name} is a range of real numbers, but {name} of a recipe is none")
            for value in dimension.options if isinstance(dimension, Choice) else (dimension.low, dimension.high):
                try:
                    Recipe.model_validate({name: value})
                except ValidationError as error:
                    raise ValueError(f"space.{name}: {value!r}: {error.errors()[0]['msg']}") from None
            found[name] = dimension
        return found


class Tuned(Tuning):
    """That a run's recipe and parameters come from a search, and from which: part of the run's identity.

    Attributes:
        trials: of each study.
    """

    trials: int


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
        evaluations: looks at the validation slides under a budget that sets the length of a training, evenly spaced
            over it, so that every method has as many models to choose from; one that takes fewer steps than that is
            looked at after each. Without such a budget they are looked at after every epoch.
        standardize: shift and scale every feature by its mean and standard deviation over the training instances of the
            fold, as the classical sets are used; whole-slide features are taken as they are.
    """

    checkpoint: Literal["last", "best-val", "oracle"] = "best-val"
    evaluations: int = Field(20, ge=1)
    monitor: Literal["val_loss", "val_auc"] = "val_loss"
    standardize: bool = False


#: folds, and seeds, of a suite at most: all are listed before one is run, and more take hours
MOST_FOLDS = 10_000


class SplitSpec(Frozen):
    """Where folds come from.

    Attributes:
        files: split files of any form that `milbench.data.split_files.read_folds` knows: a file, a folder of them, or a
            path with ``{k}`` for the fold number (``splits/fold{k}.csv``); None: the dataset's own published folds
            where it has them, else folds made here, by patient and stratified, in the way that `scheme` says.
        column: the column of `files` that says train, val or test of every slide or patient; None: it is recognised.
        scheme: ``k-fold``, every slide tested once a repetition; ``monte-carlo``, `repeats` test parts drawn
            independently; ``held-out``, one of them; ``site-preserved``, a k-fold that keeps every site's patients in
            one fold (Howard et al. 2021).
        folds: number of folds of ``k-fold`` and ``site-preserved``.
        repeats: repetitions of the k-fold with other partitions, or draws of ``monte-carlo``.
        test_fraction: share of the patients that ``monte-carlo`` and ``held-out`` test on.
        site_column: column of the label table with the site of ``site-preserved``; None: TCGA's barcodes tell it.
        use: how many of the folds to run, the first ones; None: all.
        val_fraction: share of the training patients held out for validation; 0: no validation set.
        seed: of the partition.
    """

    files: str | None = None
    column: str | None = None
    scheme: Literal["k-fold", "monte-carlo", "held-out", "site-preserved"] = "k-fold"
    folds: int = Field(5, ge=2)
    repeats: int = Field(1, ge=1)
    test_fraction: float = Field(0.2, gt=0, lt=1)
    site_column: str | None = None
    use: int | None = Field(None, ge=1)
    val_fraction: float = Field(0.2, ge=0, lt=1)
    seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _fits_scheme(self) -> SplitSpec:
        """Refuse what would have no effect. By value: a suite read back from its record has every field set."""
        takes = {
            "k-fold": ("folds", "repeats"), "monte-carlo": ("repeats", "test_fraction"),
            "held-out": ("test_fraction",), "site-preserved": ("folds", "site_column"),
        }  # fmt: skip
        named = ("folds", "repeats", "test_fraction", "site_column")
        asked = [name for name in named if getattr(self, name) != type(self).model_fields[name].default]
        if idle := [name for name in asked if name not in takes[self.scheme]]:
            ways = [scheme for scheme, fields in takes.items() if idle[0] in fields]
            raise ValueError(f"{idle[0]} belongs to scheme {' or '.join(ways)}, not to {self.scheme}")
        made = self.repeats * (self.folds if "folds" in takes[self.scheme] else 1)
        if made > MOST_FOLDS:
            raise ValueError(f"{made} folds are more than milbench makes ({MOST_FOLDS}); lower repeats or folds")
        if self.files is not None and self.scheme != "k-fold":
            raise ValueError("folds come from files or from a scheme; give one of them")
        if self.column is not None and self.files is None:
            raise ValueError("column names a column of the split files; give files, or leave it out")
        return self


class DataSpec(Frozen):
    """One cohort of a suite: a built-in dataset by name, or a feature cache with its labels.

    Attributes:
        name: the cohort's name on the leaderboard.
        dataset: a built-in dataset; `params` are its parameters.
        features: files of another tool, see ``milbench list formats``; they are imported on first use into `cache`.
        format, dtype, order, coords: how they are imported, as in ``milbench cache build``.
        cache: path of a feature cache, or a ``.npz`` of packed bags; relative paths start at the suite's folder. With
            `features` the cache to make, ``{name}.cache`` where none is named.
        labels: table with one row a slide; left out where the features bring their labels along.
        slide_column, patient_column, label_column: its columns. Folds are by patient; where every slide is a patient of
            its own, say patient_column = "slide_id".
        slide_table: table of slides and their patients (`slide_column`, `patient_column`) where `labels` has one row a
            patient, as STAMP keeps them.
        patient_rule: a regular expression with one group, searched for in the ids of slides that are patients of their
            own: the group is the patient, as in ``'^(.{12})'`` for TCGA's barcodes.
        slide_suffix: endings such as ``.svs`` to take off the slide ids of labels and split files.
        classes: label values in class order; None: the sorted values found (for two classes the second is the positive
            one).
        split: where folds come from.
        note: a caveat that every table of this cohort carries.
        recipes: fields of one method's recipe (by its name, without parameters) on this cohort, laid over the suite's.
        waive: codes of what ``milbench audit`` finds and the suite is to run in spite of; every table of this cohort
            tells of them.
    """

    name: str
    dataset: str | None = None
    params: dict[str, Any] = {}
    features: str | None = None
    format: str = "auto"
    dtype: Literal["float16", "bfloat16", "float32"] = "float16"
    order: Literal["source", "raster"] = "source"
    coords: bool = True
    cache: str | None = None
    labels: str | None = None
    slide_column: str = "slide_id"
    patient_column: str = "patient_id"
    label_column: str = "label"
    slide_table: str | None = None
    patient_rule: str | None = None
    slide_suffix: tuple[str, ...] = ()
    classes: tuple[str, ...] | None = None
    split: SplitSpec = SplitSpec()
    note: str = ""
    recipes: dict[str, dict[str, Any]] = {}
    waive: tuple[str, ...] = ()

    @field_validator("slide_suffix", mode="before")
    @classmethod
    def _one_or_several(cls, suffix: Any) -> Any:
        return (suffix,) if isinstance(suffix, str) else suffix

    @field_validator("patient_rule")
    @classmethod
    def _one_group(cls, rule: str | None) -> str | None:
        try:
            groups = 1 if rule is None else re.compile(rule).groups
        except re.error as error:
            raise ValueError(f"{rule!r} is no regular expression: {error}") from None
        if groups != 1:
            raise ValueError(f"{rule!r} has {groups} groups; put one pair of parentheses around the patient")
        return rule

    @field_validator("waive")
    @classmethod
    def _known_codes(cls, codes: tuple[str, ...]) -> tuple[str, ...]:
        waivable = [code for code, what in CODES.items() if what.waivable]
        for code in codes:
            if code not in CODES:
                raise ValueError(f"{code!r} is no code of milbench audit.{did_you_mean(code, waivable)}")
            if code not in waivable:
                raise ValueError(f"{code!r} ({CODES[code].means}) cannot be waived; mend it")
        return codes

    @model_validator(mode="after")
    def _one_source(self) -> DataSpec:
        if (self.dataset is None) == (self.cache is None and self.features is None):
            raise ValueError(
                "give either dataset (a built-in one), or features (a tool's files) or cache (a feature cache)"
            )
        for name in ("format", "dtype", "order", "coords") if self.features is None else ():
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name} tells how features are imported; give features, or leave it out")
        if self.slide_table is not None and self.labels is None:
            raise ValueError("slide_table tells whose slides they are; give labels, the table of the patients")
        return self


class Published(Frozen):
    """A figure from the literature, to stand beside ours; never a target.

    Attributes:
        data: the cohort it is of.
        method: with its parameters; the suite has one of that name, or with others.
        metric: which of ours it is beside.
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


#: How bags of two classes are called positive, see `milbench.threshold`.
ThresholdRule = Literal["half", "val-youden", "val-f1"]


class Suite(Frozen):
    """A versioned set of runs: cohorts x methods x folds x seeds, under one protocol and one budget.

    Attributes:
        recipe: fields that replace those of every method's own recipe, for all methods alike.
        recipes: fields for one method (by its name, without parameters), laid over `recipe`; printed with the table.
        threads: CPU threads of one run. Sums change their order with it, so it is part of the spec, unlike the number
            of runs that go on side by side.
        stacked: how many runs of a method that differ in fold and seed alone may share a process: trained as one
            stacked model where the method and the recipe allow it (`milbench.train_stacked`), else one after the other.
            For many small runs; no peak of memory is told of them. 1: a process for each.
        cost: measure inference and training cost of every method in runs of their own.
        unit: what the interval resamples, ``patient`` (the default; a slide without patient is its own) or ``bag``.
        tuning: how hyperparameters are searched; None: `budget.trials` is None too, and nothing is.
        reference: the method that the others are a change of, in an ablation: the report then tells their effects.
        across: the report also tells of methods over all cohorts, of which there are three or more.
        published: figures from the literature that the report puts beside ours.
        keep_models: ``best`` keeps the selected model of every run as a file, which ``milbench predict`` applies to
            other slides; no part of a run's identity.
        threshold: how bags of two classes are called positive: ``half``, the more probable class; ``val-youden`` or
            ``val-f1``, at the threshold with the highest Youden's J or F1 on the validation bags of each run. It
            decides accuracy, balanced accuracy, F1, sensitivity and specificity, and no training: stored runs are
            scored by it (`milbench.threshold`). No part of a run's identity.
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


class RunSpec(Frozen):
    """One run: everything that decides its predictions, and nothing else. Hardware is recorded, not hashed.

    ``params`` holds every parameter of the method, defaults included, and ``code`` identifies the source of a method
    that is not milbench's own, and the revision of one that is. The one trace of the machine is ``device_type``: the
    sums of a CPU and of a CUDA device differ.
    """

    suite: str
    suite_version: int
    data: str
    fingerprint: str
    method: str
    params: dict[str, Any]
    code: str = ""
    recipe: Recipe
    protocol: Protocol
    budget: Budget
    tuning: Tuned | None = None
    fold: str
    seed: int
    threads: int
    stacked: bool = added(False, since="0.1.0")
    device_type: Literal["cpu", "cuda"]
    protocol_version: int = PROTOCOL_VERSION

    @property
    def run_id(self) -> str:
        """Return 16 hexadecimal digits of the SHA-256 of the canonical JSON of this spec, its timeout left out.

        A timeout is a safety net: a run that ended ``ok`` has the same predictions under any.
        """
        return self._id(None)

    @property
    def stored_ids(self) -> tuple[str, ...]:
        """Return the ids that a run of this spec may be stored under: `run_id` first.

        Earlier versions hashed the timeout: a run that had one may be stored under either id.
        """
        return tuple(dict.fromkeys((self._id(None), self._id(self.budget.timeout_s))))

    def _id(self, timeout_s: float | None) -> str:
        fields = self.identity()
        return digest(fields | {"budget": fields["budget"] | {"timeout_s": timeout_s}})


def digest(value: Any) -> str:
    """Return 16 hexadecimal digits that identify a JSON value, whatever the order of its keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
