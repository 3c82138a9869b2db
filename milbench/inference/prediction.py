"""Predictions of new slides by the models of a finished suite, and the stored predictions of its runs as one table."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ..atomic_io.checksums import FILES, checksum
from ..atomic_io.publishing import read_regular
from ..errors import MilbenchError, did_you_mean
from ..evaluation.runs_table import RunGroup, read_cohorts
from ..evaluation.scores import ARGMAX, threshold_of
from ..registry import resolve
from ..runs.records import MODEL, RunRecord
from ..stats import threshold
from ..stats.threshold import Threshold
from ..training.saved_model import SavedModel, load_model

if TYPE_CHECKING:
    from ..data.cache.reader import FeatureCache

ENSEMBLE = "ensemble"


def kept_models(
    results: str | Path, suite: str, method: str, data: str | None = None, conditions: str | None = None
) -> list[SavedModel]:
    """Load the models of a method's runs, every fold and seed, in their order; see `kept_models_of_cohort`."""
    return kept_models_of_cohort(results, suite, method, data, conditions)[0]


def kept_models_of_cohort(
    results: str | Path, suite: str, method: str, data: str | None = None, conditions: str | None = None
) -> tuple[list[SavedModel], RunGroup]:
    """Load the models of a method's runs, every fold and seed, in their order, and the runs that they are of.

    Their facts hold ``threshold`` as well, the rule of the suite, and ``thresholds`` also where the file is older.

    Args:
        results: results root, or the folder of one suite.
        suite: ``name`` or ``name-v1``.
        method: as the suite names it.
        data: the cohort they were trained on; None: the only one.
        conditions: of which of the cohort's tables, as the leaderboard names it; None: the only one.

    Raises:
        MilbenchError: no such runs, several cohorts or tables, or a run that kept no model.
    """
    name = resolve(method).canonical
    every = read_cohorts(Path(results), suite, data)
    tables = [table for table in every if name in table.runs]
    if not tables:
        for table in every:
            if name in table.absent:
                why = table.absent[name].replace("{other}", "those of the last request")
                source = (table.request.source if table.request else "") or "SUITE"
                raise MilbenchError(
                    f"{table.data}: {name} was run {why}; run {name} again: "
                    f"milbench run {shlex.quote(source)} -m {shlex.quote(name)}.",
                    code="runs-not-done",
                )
        known = sorted({m for table in every for m in table.runs})
        raise MilbenchError(f"no run of {name} in {results}.{did_you_mean(name, known)}", code="results-unknown-name")
    records = [record for table in tables for record in table.runs[name].values()]
    if not any((record.path / MODEL).is_file() for record in records):
        raise MilbenchError(
            _none_kept(name, records), code="models-not-kept"
        )  # whichever cohort or table would be chosen
    cohorts = sorted({table.data for table in tables})
    if len(cohorts) > 1:
        raise MilbenchError(f"{name} was run on {', '.join(cohorts)}; choose one with --data.", code="models-ambiguous")
    if conditions is not None:
        tables = [table for table in tables if table.label == conditions]
    if len(tables) != 1:
        labels = "; ".join(repr(t.label) for t in read_cohorts(Path(results), suite, data) if name in t.runs)
        raise MilbenchError(
            f"runs of {name} stand in several tables; choose one with --conditions: {labels}.", code="models-ambiguous"
        )
    runs = [record for _, record in sorted(tables[0].runs[name].items()) if record.outcome == "ok"]
    without = [record for record in runs if not (record.path / MODEL).is_file()]
    if not runs or without:
        raise MilbenchError(_none_kept(name, list(tables[0].runs[name].values())), code="models-not-kept")
    for record in runs:
        _check(record)
    models = [load_model(record.path / MODEL, method) for record in runs]
    two = len(models[0].classes) == 2
    for model, record in zip(models, runs, strict=True):
        model.facts["threshold"] = tables[0].suite.threshold if two else "half"
        if two and "thresholds" not in model.facts:
            model.facts["thresholds"] = {
                rule: asdict(threshold_of(tables[0], record, rule)) for rule in threshold.CHOSEN
            }
    return models, tables[0]


def trained_on(models: Sequence[SavedModel], cohort: RunGroup) -> list[frozenset[str] | None]:
    """Return the slides that each model was trained or selected on: train and val of its fold, and test of an oracle.

    Args:
        models, cohort: of `kept_models_of_cohort`.

    Returns:
        one set a model; None where the store does not hold its fold.

    Raises:
        MilbenchError: a fold is damaged.
    """
    untouched = () if cohort.oracle else ("test",)
    members: list[frozenset[str] | None] = []
    for model in models:
        parts = cohort.parts(model.facts["fold"])
        members.append(None if parts is None else frozenset(map(str, parts.index[~parts.isin(untouched)])))
    return members


def _none_kept(name: str, records: Sequence[RunRecord]) -> str:
    runs = [record for record in records if record.outcome == "ok"]
    without = sum(not (record.path / MODEL).is_file() for record in runs)
    return (
        f"{without or 'all'} of {len(runs) or 'no'} runs of {name} that ended ok kept no model; set "
        'keep_models = "best" in the suite, above its first [table], and run it with --overwrite missing-models, which '
        "trains them again to the same bits."
    )


def _check(record: RunRecord) -> None:
    """Hold the file of a model against the checksum in its run's record."""
    file = record.path / MODEL
    listed = (record.record.get(FILES) or {}).get(MODEL)
    if listed is not None and checksum(read_regular(file)) != listed:
        raise MilbenchError(
            f"{file} is not the file that the run published; delete its folder and run the suite again.",
            code="file-changed",
        )


def predict_slides(
    models: Sequence[SavedModel], cache: FeatureCache, slides: Sequence[str], rule: str | None = None
) -> pd.DataFrame:
    """Predict slides by every model and by all of them together.

    The ensemble's log-probabilities are the mean of the members', normalised; of two classes its log-odds are the mean
    of theirs, and so is its threshold.

    Args:
        models: of one method and with the same classes.
        cache: the features.
        slides: ids.
        rule: by which classes are predicted, see `SavedModel.threshold`; None: that of the suite, as `kept_models`
            says it, else ``half``.

    Returns:
        one row a slide and member: ``slide_id``, ``member`` (``ensemble`` first, then ``fold ... seed ...``),
        ``predicted`` (the predicted class), ``p_CLASS`` and ``log_odds_CLASS`` of every class, ``threshold_rule`` and
        ``threshold``, the lowest probability of the positive class that is predicted positive; of more than two classes
        the most probable is predicted: ``argmax`` and NaN.

    Raises:
        MilbenchError: models of different classes, or features of another width.
    """
    classes = models[0].classes
    if any(model.classes != classes for model in models):
        raise MilbenchError(
            "the models have different classes; predict with those of one cohort.", code="models-ambiguous"
        )
    rule = rule or str(models[0].facts.get("threshold", "half"))
    decided = [model.threshold(rule) for model in models]
    odds = [model.predict(cache, slides).log_odds for model in models]
    log_p = -np.logaddexp(0, -np.stack(odds))  # (models, slides, classes)
    mean = log_p.mean(axis=0)
    together = mean - np.logaddexp.reduce(mean, axis=1, keepdims=True)
    members = zip(
        [ENSEMBLE, *(m.name for m in models)], [together, *log_p], [_log_odds(together), *odds],
        [threshold.mean(decided), *decided], strict=True,
    )  # fmt: skip
    frames = [_frame(slides, *member, classes, rule) for member in members]
    return pd.concat(frames, ignore_index=True)


def _log_odds(log_p: np.ndarray) -> np.ndarray:
    rest = [np.logaddexp.reduce(np.delete(log_p, c, axis=1), axis=1) for c in range(log_p.shape[1])]
    return np.asarray(log_p - np.stack(rest, axis=1))


def _frame(
    slides: Sequence[str],
    member: str,
    log_p: np.ndarray,
    odds: np.ndarray,
    decided: Threshold,
    classes: Sequence[str],
    rule: str,
) -> pd.DataFrame:
    head: dict[str, Any] = {"slide_id": list(slides), "member": member}
    head["predicted"] = [classes[i] for i in decided.predicted(log_p, odds)]
    values = {f"p_{name}": np.exp(log_p[:, c]) for c, name in enumerate(classes)}
    values |= {f"log_odds_{name}": odds[:, c] for c, name in enumerate(classes)}
    two = len(classes) == 2
    said = {"threshold_rule": rule if two else ARGMAX,
            "threshold": threshold.as_probability(decided.value) if two else np.nan}  # fmt: skip
    return pd.DataFrame(head | values | said)


def stored_predictions(
    results: str | Path = "results/runs", suite: str | None = None, data: str | None = None, part: str | None = None
) -> pd.DataFrame:
    """Return the stored predictions of every ``ok`` run that a table shows, one row a bag and class.

    Args:
        results: results root, or the folder of one suite.
        suite: only this suite, ``name`` or ``name-v1``.
        data: only this cohort.
        part: ``val`` or ``test``; None: both.

    Returns:
        ``suite``, ``version``, ``data``, ``conditions``, ``method``, ``fold``, ``seed``, ``part``, ``slide_id``,
        ``patient_id``, ``label`` (name of the true class), ``class``, ``probability``, ``log_odds`` (NaN for runs that
        stored none).

    Raises:
        MilbenchError: nothing is there, or a file is missing or damaged.
    """
    parts = [
        _long(cohort, method, record, part)
        for cohort in read_cohorts(Path(results), suite, data)
        for method, runs in cohort.runs.items()
        for _, record in sorted(runs.items())
        if record.outcome == "ok"
    ]
    return pd.concat(parts, ignore_index=True)


def _long(cohort: RunGroup, method: str, record: RunRecord, part: str | None) -> pd.DataFrame:
    classes, labels, table = cohort.classes(), cohort.labels(), record.predictions()
    table = table if part is None else table[table["split"] == part]
    known = labels.reindex(table["slide_id"].astype(str))
    if known["label"].isna().any():
        raise MilbenchError(
            f"{record.path} holds bags that its cohort's labels.csv has not; run the suite again.",
            code="run-other-cohort",
        )
    head: dict[str, Any] = {
        "suite": cohort.suite.name, "version": cohort.suite.version, "data": cohort.data, "conditions": cohort.label,
        "method": method, "fold": record.spec.fold, "seed": record.spec.seed, "part": table["split"].to_numpy(),
        "slide_id": table["slide_id"].to_numpy(), "patient_id": known["patient_id"].to_numpy(),
        "label": [classes[int(label)] for label in known["label"]],
    }  # fmt: skip
    nan = np.full(len(table), np.nan)
    frames = [
        pd.DataFrame(head | {"class": name, "probability": table[f"p{c}"].to_numpy(),
                             "log_odds": table[f"s{c}"].to_numpy() if f"s{c}" in table else nan})
        for c, name in enumerate(classes)
    ]  # fmt: skip
    return pd.concat(frames).sort_index(kind="stable")
