"""Predictions held against labels: which slides a label table names, which of them a model knows, and the scores."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from .. import metrics, stats
from ..data.labels.table import merge_patients
from ..data.labels.values import is_excluded, plain_label, read_values
from ..data.names.id_matching import match_ids, match_patients
from ..data.names.spellings import missing_names
from ..data.onboarding.label_guess import Tables, read_label_rows
from ..errors import MilbenchError, did_you_mean
from ..evaluation.scores import SEED
from ..formatting.text import count, some, with_interval
from .prediction import ENSEMBLE

#: Of the bootstrap over patients.
RESAMPLES = 2000

#: The column that says whether a slide took part in making a model; of the ensemble: any of its models.
SEEN = "seen_in_training"


@dataclass(frozen=True)
class SlideLabels:
    """Labels of predicted slides.

    Attributes:
        labels: slide -> class index, of the slides that have a label.
        patients: slide -> patient, of the slides whose patient is named, whether they have a label or not.
        notes: sentences about what was set aside in reading them, without a point.
    """

    labels: dict[str, int]
    patients: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def read_slide_labels(tables: Tables, slides: Collection[str], classes: Sequence[str]) -> SlideLabels:
    """Read the labels of slides, matched by name as ``milbench init`` matches them.

    Args:
        tables: the label table, and its columns as far as they are named.
        slides: ids of the slides that were predicted.
        classes: names of the classes of the models, in their order.

    Raises:
        MilbenchError: a table or column cannot be read, no label is of any of the slides, or one is no class.
    """
    rows = read_label_rows(tables, slides)
    labelled = [row for row in rows.rows if row.label and not is_excluded(row.label)]
    there = set(slides)
    mine = [row for row in labelled if row.slide in there]
    where = str(tables.labels)
    if not labelled:
        raise MilbenchError(
            f"{where} has no label in column {rows.label!r}; give another --label-column.", code="labels-missing-value"
        )
    if not mine:
        first = min(there, default="")
        raise MilbenchError(
            f"{where} has no label of any slide of the features: {labelled[0].slide!r} in column {rows.slide!r}, "
            f"{first!r} in the features; give another --slide-column, or the table of these slides.",
            code="names-unmatched",
        )
    values = read_values({row.slide: row.label for row in mine}, rows.label, where, classes)
    names = [plain_label(name) for name in classes]
    if unknown := sorted(set(values.classes.values()) - set(names)):
        raise MilbenchError(
            f"{where} has {unknown[0]!r} in column {rows.label!r}, which is none of the classes of the models; "
            f"correct it, or give another --label-column.{did_you_mean(unknown[0], names)}",
            code="labels-unknown-class",
        )
    named = {row.slide: row.patient for row in rows.rows if row.slide in there}
    named = {slide: patient for slide, patient in named.items() if rows.patient != rows.slide and patient != slide}
    none = missing_names(named.values())
    owner, _ = merge_patients({slide: patient for slide, patient in named.items() if patient not in none})
    notes = [*rows.notes, *values.notes(where)]
    if rows.several:
        name, candidates = next(iter(rows.several.items()))
        notes.append(f"{count(len(rows.several), 'name')} of {where} matched to none, as each matches several: "
                     f"{name!r} matches {' and '.join(map(repr, candidates[:3]))}")  # fmt: skip
    labels = {slide: names.index(value) for slide, value in values.classes.items()}
    return SlideLabels(labels, owner, tuple(notes))


def seen_slides(
    slides: Collection[str],
    owner: Mapping[str, str],
    trained: Sequence[frozenset[str] | None],
    patients: Mapping[str, str],
) -> list[frozenset[str]]:
    """Return the slides that each model knows: by the slide's name, or as slides of a patient it knows.

    A name that may stand for several slides counts as all of them.

    Args:
        slides: those that were predicted.
        owner: slide -> patient, of those whose patient is named.
        trained: the slides each model was trained or selected on, see `milbench.inference.prediction.trained_on`.
        patients: slide -> patient of the cohort of training; a patient who is named as the slide is not known.

    Returns:
        one set a model; empty where `trained` is None.
    """
    slide_of = match_ids(slides, patients)
    own = {slide: patient for slide, patient in patients.items() if patient != slide}
    patient_of = match_patients(owner.values(), own.values())
    seen = []
    for known in trained:
        at = known or frozenset()
        whose = {own[slide] for slide in at if slide in own}
        seen.append(frozenset(
            slide for slide in slides
            if _stands_for(slide_of.names, slide_of.several, slide, at)
            or _stands_for(patient_of.names, patient_of.several, owner.get(slide), whose)
        ))  # fmt: skip
    return seen


def _stands_for(
    names: Mapping[str, str], several: Mapping[str, tuple[str, ...]], name: str | None, known: Collection[str]
) -> bool:
    return name is not None and (names.get(name) in known or any(one in known for one in several.get(name, ())))


def with_seen(table: pd.DataFrame, seen: Mapping[str, frozenset[str]]) -> pd.DataFrame:
    """Return a table of predictions with the column `SEEN` after ``member``.

    Args:
        table: of `milbench.inference.prediction.predict_slides`.
        seen: member -> slides that it was trained or selected on; the ensemble knows those of every member.
    """
    every = frozenset().union(*seen.values())
    known = [
        slide in (every if member == ENSEMBLE else seen.get(member, frozenset()))
        for slide, member in zip(table["slide_id"], table["member"], strict=True)
    ]
    table = table.copy()
    table.insert(2, SEEN, known)
    return table


def with_labels(
    table: pd.DataFrame, labels: SlideLabels, seen: Mapping[str, frozenset[str]], classes: Sequence[str]
) -> pd.DataFrame:
    """Return a table of predictions with the columns ``label`` ("" for none) and `SEEN` after ``member``.

    Args:
        table: of `milbench.inference.prediction.predict_slides`.
        labels: of its slides.
        seen: member -> slides that it knows.
        classes: names of the classes.
    """
    table = with_seen(table, seen)
    names = table["slide_id"].map(lambda slide: classes[labels.labels[slide]] if slide in labels.labels else "")
    table.insert(2, "label", names)
    return table


def score_lines(table: pd.DataFrame, labels: SlideLabels, classes: Sequence[str]) -> list[str]:
    """Return sentences about how well labelled slides are predicted; what a model knows does not count for it.

    Args:
        table: of `with_labels`.
        labels: of its slides.
        classes: names of the classes.
    """
    labelled = table[table["label"] != ""]
    together = labelled[labelled["member"] == ENSEMBLE]
    lines = []
    if lacking := sorted(set(table["slide_id"]) - set(together["slide_id"])):
        lines.append(f"{count(len(lacking), 'slide')} without a label: {some(lacking)}.")
    unseen = together[~together[SEEN]]
    known, every = len(together) - len(unseen), len(together)
    if known:
        whose = {labels.patients[slide] for slide in together["slide_id"][together[SEEN]] if slide in labels.patients}
        of_patients = f", of {count(len(whose), 'patient')}," if whose else ""
        rest = f", the ensemble on the {every - known} that no model saw" if every > known else ""
        lines.append(
            f"{known} of {count(every, 'labelled slide')}{of_patients} took part in training or validation of a model, "
            f"by the name of the slide or of its patient: each model is scored without those that it saw{rest}; "
            "--new-slides if they are other slides of the same name."
        )
    lines.append(_of_ensemble(unseen, labels, classes, known))
    lines.append(_of_single_models(labelled, labels, classes))
    if len(unseen):
        lines.append(_of_classes(unseen, classes))
    return lines


def _of_ensemble(rows: pd.DataFrame, labels: SlideLabels, classes: Sequence[str], known: int) -> str:
    if rows.empty:
        return "No AUC of the ensemble: every labelled slide took part in training or validation of one of its models."
    left = " that no model saw" if known else ""
    label_values = sorted(set(rows["label"]))
    if len(label_values) < 2:
        labelled = count(len(rows), "labelled slide")
        return f"No AUC of the ensemble: {labelled}{left}, of one class alone, {label_values[0]!r}."
    auc = _scored(rows, labels, classes)
    owner = [labels.patients.get(slide, "") for slide in rows["slide_id"]]
    number = len(set(filter(None, owner))) + owner.count("")
    over = count(len(rows), "slide") + (f" of {count(number, 'patient')}" if any(owner) else "")
    return f"AUC of the ensemble {with_interval(*auc)} over {over}{left} (95 % interval)."


def _scored(rows: pd.DataFrame, labels: SlideLabels, classes: Sequence[str]) -> tuple[float, float, float]:
    """Return the AUC of a member's rows with its 95 % interval over patients, as a leaderboard has it."""
    y, odds = np.array(_index(rows["label"], classes)), _columns(rows, "log_odds", classes)
    owner = [labels.patients.get(slide, "") for slide in rows["slide_id"]]  # "": a patient of its own
    drawn = stats.cluster_weights(owner, y, RESAMPLES, np.random.default_rng(SEED))
    every, replicates = stats.class_aucs(y, odds, np.vstack([np.ones(len(y)), drawn]))
    parts = stats.ClassAucs(every, replicates[:, 0], np.full(len(every), 1 / len(every)), replicates[:, 1:])
    ends = stats.mean_interval(parts, y, owner)
    return metrics.auc(y, _columns(rows, "p", classes), odds), ends.low, ends.high


def _of_single_models(labelled: pd.DataFrame, labels: SlideLabels, classes: Sequence[str]) -> str:
    rows = labelled[(labelled["member"] != ENSEMBLE) & ~labelled[SEEN]]
    scored = [
        (*_scored(mine, labels, classes), len(mine))
        for _, mine in rows.groupby("member", sort=False)
        if mine["label"].nunique() > 1
    ]
    models = labelled["member"].nunique() - 1
    if not scored:
        return f"No AUC of {count(models, 'single model')}: none has slides of two classes that it did not see."
    aucs, lows, highs, sizes = zip(*scored, strict=True)
    alone = "" if len(aucs) == models else "; the others have no slides of two classes that they did not see"
    if len(aucs) == 1:
        few = "the single model" if models == 1 else f"1 of {count(models, 'single model')}"
        return f"AUC of {few} {with_interval(*scored[0][:3])} over {count(sizes[0], 'slide')} (95 % interval){alone}."
    few = f"{len(aucs)} of {count(models, 'single model')}" if len(aucs) < models else "single models"
    slides = f"{min(sizes)}" if min(sizes) == max(sizes) else f"{min(sizes)} to {max(sizes)}"
    return (
        f"AUC of {few} {min(aucs):.3f} to {max(aucs):.3f}, each over {slides} slides; 95 % intervals reach from "
        f"{min(lows):.3f} to {max(highs):.3f}{alone}."
    )


def _of_classes(rows: pd.DataFrame, classes: Sequence[str]) -> str:
    truth, predicted = (_index(rows[column], classes) for column in ("label", "predicted"))
    probabilities = _columns(rows, "p", classes)
    measures: dict[str, Callable[..., float]] = {
        "balanced accuracy": metrics.balanced_accuracy, "sensitivity": metrics.sensitivity,
        "specificity": metrics.specificity, "F1": metrics.f1,
    }  # fmt: skip
    values = {word: measure(truth, probabilities, predicted) for word, measure in measures.items()}
    said = ", ".join(f"{word} {value:.3f}" for word, value in values.items() if not math.isnan(value))
    rule, value = rows.iloc[0]["threshold_rule"], rows.iloc[0]["threshold"]
    how = "the most probable one" if rule == "argmax" else f"{rule}, from a probability of {value:.3g} on"
    of = f"; {classes[1]} is the positive class" if len(classes) == 2 else ""
    return f"Classes predicted by the ensemble ({how}): {said}{of}."


def _index(names: pd.Series[str], classes: Sequence[str]) -> list[int]:
    return [list(classes).index(name) for name in names]


def _columns(rows: pd.DataFrame, kind: str, classes: Sequence[str]) -> np.ndarray:
    return rows[[f"{kind}_{name}" for name in classes]].to_numpy()
