"""Trained models as files: parameters and everything that a prediction needs, and nothing that is executed.

A model is one safetensors file. Its tensors are the parameters (``model.*``) and the standardisation of the features
(``scaling.mean``, ``scaling.deviation``); its metadata say in JSON how the model is built and what it was trained on.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from ..aggregator import Aggregator
from ..config import Recipe
from ..data.cache.reader import FeatureCache
from ..errors import MilbenchError
from ..registry import resolve
from ..stats import threshold
from ..stats.threshold import Threshold
from ..tasks.classification import ClassPredictions
from .loader import BagLoader, Standardizer
from .predict import predict
from .task import TrainingResult, TrainingTask

#: Version of the file's content; a reader refuses newer ones.
FORMAT = 1
#: Fields that must agree between the features a model was trained on and those it is given, besides their width.
SOURCE = ("encoder", "patch_size", "magnification")

_PARAMETERS, _MEAN, _DEVIATION = "model.", "scaling.mean", "scaling.deviation"


@dataclass(frozen=True)
class SavedModel:
    """A trained model, ready to predict.

    Attributes:
        model: in eval mode, on CPU.
        classes: names of the classes, in the order of their indices.
        scaling: of the features; None: they are taken as they are.
        facts: ``method``, ``in_dim``, ``n_classes``, ``classes``, ``run_id``, ``suite``, ``data``, ``fold``, ``seed``,
            ``code``, ``recipe``, ``dtype`` and ``order`` of the features, what is known of `SOURCE`, and, of two
            classes, ``thresholds``: `milbench.stats.threshold.record` of the run's validation bags; absent in older
            files.
        path: the file.
    """

    model: Aggregator
    classes: tuple[str, ...]
    scaling: Standardizer | None
    facts: dict[str, Any]
    path: Path

    @property
    def name(self) -> str:
        """Return the model's fold and seed."""
        return f"fold {self.facts['fold']} seed {self.facts['seed']}"

    def threshold(self, rule: str) -> Threshold:
        """Return the threshold on the log-odds of the positive class that a rule chose on the validation bags.

        Args:
            rule: ``half``, ``val-youden`` or ``val-f1``; with more than two classes ``half`` alone.

        Raises:
            MilbenchError: no such rule, more than two classes, or a file that carries no thresholds.
        """
        which = threshold.named(rule)
        if which == "half":
            return Threshold()
        if len(self.classes) != 2:
            raise MilbenchError(
                f"threshold {rule} is defined for two classes; {self.path} has {len(self.classes)}.",
                code="threshold-missing",
            )
        if "thresholds" not in self.facts:
            raise MilbenchError(
                f"{self.path} was written by a milbench without thresholds; predict with the results of its suite, "
                "which hold the validation predictions, or with threshold half.",
                code="threshold-missing",
            )
        return threshold.recorded(self.facts["thresholds"], which)

    def predict(
        self, cache: FeatureCache, slides: Sequence[str], device: torch.device | None = None
    ) -> ClassPredictions:
        """Predict slides of a cache, as the run that trained the model predicted its test slides.

        Raises:
            MilbenchError: features of another width, or an unknown slide.
        """
        where = device or torch.device("cpu")
        bags = BagLoader(cache, slides, where, self.scaling)
        predictions = predict(self.model.to(where), bags, Recipe.model_validate(self.facts["recipe"]))
        assert isinstance(predictions, ClassPredictions)  # models of other tasks are not kept
        return predictions


def model_bytes(
    task: TrainingTask, trained: TrainingResult, cache: FeatureCache, validation: ClassPredictions | None = None
) -> bytes:
    """Return a trained model as the content of a file; see `SavedModel.facts` for what it says of itself.

    Args:
        task, trained, cache: of the run.
        validation: predictions of ``task.val``; None where there are none.
    """
    tensors = {f"{_PARAMETERS}{name}": value for name, value in trained.model.state_dict().items()}
    if trained.scaling is not None:
        tensors |= {_MEAN: trained.scaling.mean, _DEVIATION: trained.scaling.deviation}
    spec = task.spec
    facts = {
        "format": FORMAT,
        "method": task.method,
        "in_dim": cache.dim,
        "n_classes": task.n_classes,
        "classes": list(task.model_classes or ()),
        "run_id": spec.run_id,
        **{name: getattr(spec, name) for name in ("suite", "suite_version", "data", "fold", "seed", "code")},
        "recipe": spec.recipe.model_dump(mode="json"),
        **{name: cache.meta.get(name) for name in ("dtype", "order", *SOURCE)},
    }
    if task.n_classes == 2:
        scores = np.empty(0) if validation is None else validation.log_odds[:, 1]
        facts["thresholds"] = threshold.record([y for _, y in task.val], scores)
    return save(
        {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()},
        metadata={"milbench": json.dumps(facts, default=str)},
    )


def load_model(path: str | Path, method: str | None = None) -> SavedModel:
    """Load a model that a run has kept.

    Args:
        path: the file, ``model.safetensors`` in the folder of a run.
        method: of a method that is not built in or installed, such as ``pool:MyPool``: its name. Nothing is imported
            because a file names it.

    Raises:
        MilbenchError: the file is missing, damaged or newer than this milbench, names a method that the caller has not
            named, or holds parameters of another form than the method's.
    """
    file = Path(path)
    fix = "copy it again, or train the run again"
    try:
        with safe_open(file, framework="pt") as opened:
            facts = _facts(json.loads((opened.metadata() or {})["milbench"]))
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except FileNotFoundError as error:
        raise MilbenchError(
            f"{file} is missing; train the run again with keep_models = 'best'.", code="models-not-kept"
        ) from error
    except (KeyError, TypeError, ValueError, OSError, RecursionError, SafetensorError) as error:
        raise MilbenchError(
            f"{file} is no model of a run or is damaged ({str(error)[:80]}); {fix}.", code="model-damaged"
        ) from error
    if facts["format"] > FORMAT:
        raise MilbenchError(
            f"{file} has format {facts['format']}, newer than this milbench reads ({FORMAT}).", code="schema-unknown"
        )
    named = facts["method"]
    if ":" in named.partition("[")[0] and (method is None or not _names(method, named)):
        raise MilbenchError(
            f"{file} is of method {named}, which would import a module that the file names; give method={named!r} if "
            "you know it.",
            code="file-unsafe",
        )
    model = resolve(named).create(facts["in_dim"], facts["n_classes"])
    state = {name.removeprefix(_PARAMETERS): v for name, v in tensors.items() if name.startswith(_PARAMETERS)}
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()[:160]
        raise MilbenchError(
            f"{file} holds other parameters than {named} has here ({reason}); {fix}.", code="model-damaged"
        ) from error
    scaling = Standardizer(tensors[_MEAN], tensors[_DEVIATION]) if {_MEAN, _DEVIATION} <= set(tensors) else None
    return SavedModel(model.eval(), tuple(facts["classes"]), scaling, facts, file)


def _names(method: str, named: str) -> bool:
    """Whether a caller's text names the method that a file names, by whichever of its names."""
    given = resolve(method)
    texts = [f"{name}{given.canonical.removeprefix(given.name)}" for name in (given.name, *given.other_names)]
    return named in texts


def _facts(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return the facts of a file, each of the type it must have.

    Raises:
        KeyError, TypeError, ValueError: one is missing or of another type.
    """
    facts = dict(value)
    for name, kind in (("format", int), ("method", str), ("in_dim", int), ("n_classes", int), ("classes", list),
                       ("fold", str), ("seed", int), ("recipe", dict)):  # fmt: skip
        if not isinstance(facts[name], kind) or isinstance(facts[name], bool):
            raise TypeError(f"{name} is {facts[name]!r:.40}")
    if not all(isinstance(name, str) for name in facts["classes"]) or len(facts["classes"]) != facts["n_classes"]:
        raise ValueError("classes are not as many names as n_classes says")
    Recipe.model_validate(facts["recipe"])
    for rule in threshold.CHOSEN if "thresholds" in facts else ():
        threshold.recorded(facts["thresholds"], rule)
    return facts


def check_features(saved: SavedModel, cache: FeatureCache, force: bool = False) -> list[str]:
    """Hold features against those that a model was trained on.

    Args:
        saved: the model.
        cache: the features to predict.
        force: go on where encoder, patch size or magnification differ.

    Returns:
        what differs and was forced, one sentence each.

    Raises:
        MilbenchError: features of another width, or, unless forced, of another encoder, patch size or magnification.
    """
    if cache.dim != saved.facts["in_dim"]:
        raise MilbenchError(
            f"{saved.path} was trained on {saved.facts['in_dim']}-d features and {cache.path} holds {cache.dim}-d "
            "ones; give features of the same encoder.",
            code="features-wrong-width",
        )
    forced = []
    for name in SOURCE:
        then, now = saved.facts.get(name), cache.meta.get(name)
        if then in (None, "") or now in (None, "") or _equal(then, now):
            continue
        words = f"{name.replace('_', ' ')} {now} here, {then} where {saved.path.parent.name} was trained"
        if not force:
            raise MilbenchError(
                f"{cache.path}: {words}; predictions would mean nothing. --force predicts all the same.",
                code="model-other-features",
            )
        forced.append(f"predicted in spite of {words}.")
    return forced


def _equal(a: Any, b: Any) -> bool:
    try:
        return math.isclose(float(a), float(b))
    except (TypeError, ValueError):
        return str(a) == str(b)
