"""Methods that learnt nothing: scores that tie, one class for every bag, a loss no better than a constant's. No torch.

None of these is an error, and an AUC of 0.5 alone does not show them, so the tables report them in a note.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from .. import metrics
from ..formatting.text import count

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd

    from ..config import Recipe
    from ..runs.records import RunRecord
    from .runs_table import RunGroup
    from .scores import Scores

#: Columns that `of_predictions` adds to the scores of a run.
COLUMNS = ("tied_pairs", "classes_predicted")

#: Share of pairs of different labels with equal scores from which a run is noted.
TIED = 0.1

#: A loss counts as no better than a constant's down to this share below it: rounding and the first steps' noise.
_MARGIN = 1e-3


def of_predictions(labels: np.ndarray, scores: np.ndarray, predicted: np.ndarray) -> dict[str, float | int]:
    """Return what the predictions of a run say of its having learnt anything.

    Args:
        labels: (n,) class indices.
        scores: (n, C), what orders the bags.
        predicted: (n,), the predicted classes.

    Returns:
        ``tied_pairs``: see `milbench.metrics.tied_share`; ``classes_predicted``: how many classes are predicted for any
        bag.
    """
    return {
        "tied_pairs": metrics.tied_share(labels, scores),
        "classes_predicted": len(np.unique(predicted)),
    }


def constant_losses(cohort: RunGroup) -> dict[str, float]:
    """Return by fold the validation loss, in nats, of predicting the class frequencies of the training bags for all.

    Folds without validation slides, or that the store does not hold, are left out.
    """
    return {fold: _log_loss(frequencies[val]) for fold, (frequencies, val) in _frequencies(cohort).items()}


def _frequencies(cohort: RunGroup) -> dict[str, tuple[np.ndarray, pd.Series]]:
    """Return by fold the class frequencies (C,) of its training bags, and the labels of its validation bags."""
    labels = cohort.labels()["label"]
    frequencies = {}
    for fold in dict.fromkeys(fold for fold, _ in cohort.cells):
        parts = cohort.parts(fold)
        if parts is None:
            continue
        train, val = (labels.reindex(parts.index[parts == part]).dropna().astype(int) for part in ("train", "val"))
        if len(train) and len(val):
            frequencies[fold] = np.bincount(train, minlength=int(labels.max()) + 1) / len(train), val
    return frequencies


def _log_loss(chosen: np.ndarray) -> float:
    return float(-np.log(np.clip(chosen, 1e-12, 1)).mean())


def never_better(cohort: RunGroup) -> dict[str, tuple[int, int]]:
    """Return by method how many runs never had a validation loss below a constant's, and of how many it is known.

    The constant is that of `constant_losses`. Runs without a validation loss are not counted. A training with balanced
    class weights or a balanced sampler aims at probabilities under equal class frequencies, whose plain loss is above a
    constant's however much was learnt: of such a run the model that was kept is taken, and its probabilities are
    brought back to the frequencies of the training bags.
    """
    known = _frequencies(cohort)
    losses = {fold: _log_loss(frequencies[val]) for fold, (frequencies, val) in known.items()}
    methods = {}
    for method, runs in cohort.runs.items():
        best = []
        for (fold, _), record in runs.items():
            smallest = None
            if record.outcome == "ok" and fold in losses:
                shift = balance(record.spec.recipe)
                smallest = _under_frequencies(record, *known[fold], shift) if shift else record.smallest("val_loss")
            if smallest is not None:
                best.append(smallest >= losses[fold] * (1 - _MARGIN))
        if best:
            methods[method] = (sum(best), len(best))
    return methods


def balance(recipe: Recipe) -> int:
    """Return how many times a recipe divides the weight of a class by its frequency in training: 0, 1 or 2."""
    return (recipe.class_weights == "balanced") + (recipe.sampler == "balanced")


def _under_frequencies(record: RunRecord, frequencies: np.ndarray, labels: pd.Series, shift: int) -> float | None:
    """Return the validation loss of a run's stored predictions, brought from balanced classes to class frequencies.

    Where training weighs class c by w_c, the best predictions are in proportion to w_c P(c | bag): divided by w_c, that
    is times the frequency, as often as it was balanced, and normalised they are P(c | bag) again.
    """
    columns = record.arrays("predictions.parquet")
    val = columns["split"] == "val"
    known = labels.reindex([str(slide) for slide in columns["slide_id"][val]])
    if not len(known) or known.isna().any():
        return None
    p = np.column_stack([columns[f"p{c}"][val] for c in range(len(frequencies))]) * frequencies**shift
    total = p.sum(axis=1)
    chosen = p[np.arange(len(p)), known.to_numpy(dtype=np.int64)]
    return _log_loss(np.divide(chosen, total, out=np.zeros(len(p)), where=total > 0))


def notes(cohort: RunGroup, scored: Sequence[Scores], losses: Mapping[str, tuple[int, int]]) -> list[str]:
    """Return a sentence a method whose runs tie, predict one class, or never left the loss of a constant.

    Args:
        cohort: the runs.
        scored: of them.
        losses: from `never_better`.
    """
    notes = []
    for own in scored:
        runs = len(own.runs)
        said = []
        if 2 * (constant := _constant(own)) > runs:
            said.append(
                f"predicts one class for every test bag in {_of(constant, runs)}, so its accuracy, balanced accuracy "
                "and F1 there are those of a constant"
            )
        if many := _tied(own):
            said.append(
                f"gives equal scores to up to {100 * own.runs['tied_pairs'].max():.0f} % of the pairs of bags of "
                f"different classes in {_of(many, runs)}, and each such pair counts one half in the AUC"
            )
        never, known = losses.get(own.method, (0, 0))
        if 2 * never > known:
            said.append(
                f"never had a validation loss below that of predicting the class frequencies in {_of(never, known)}"
            )
        if said:
            notes.append(f"{cohort.name}: {own.method} {'; it '.join(said)}.")
    return notes


def in_words(own: Scores, losses: Mapping[str, tuple[int, int]]) -> str:
    """Return in a few words what of `notes` holds of most runs of a method; empty where nothing does."""
    runs = len(own.runs)
    never, known = losses.get(own.method, (0, 0))
    words = {
        "one class": 2 * _constant(own) > runs,
        "tied scores": 2 * _tied(own) > runs,
        "loss of a constant": 2 * never > known,
    }
    return ", ".join(word for word, holds in words.items() if holds)


def _constant(own: Scores) -> int:
    return int((own.runs["classes_predicted"] == 1).sum())


def _tied(own: Scores) -> int:
    return int((own.runs["tied_pairs"] >= TIED).sum())


def _of(part: int, runs: int) -> str:
    if part == runs:
        return "its run" if runs == 1 else f"all of its {runs} runs"
    return f"{part} of its {count(runs, 'run')}"
