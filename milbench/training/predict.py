"""Predictions of a model on bags, as arrays, as validation metrics, and as a table."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch

from .. import metrics
from ..aggregator import Aggregator, explain_nonfinite
from ..config import Recipe
from ..errors import Diverged
from .loader import BagLoader
from .step import autocast, check_output, oom_context
from .task import Predictions


@torch.inference_mode()
def predict(model: Aggregator, bags: BagLoader, recipe: Recipe) -> Predictions:
    """Return the predictions of all bags, in eval mode; the mode is put back."""
    training = model.training
    model.eval()
    rows, odds = [], []
    with oom_context(bags.lengths, "evaluation"):
        for batch in bags.batches():
            with autocast(batch.device.type, recipe):
                out = model(batch)
            check_output(model, out, batch)
            probabilities = model.probabilities(out)
            if not torch.isfinite(probabilities).all():
                explain_nonfinite(batch)
                raise Diverged("the model predicts NaN for finite features")
            rows.append(probabilities.double().cpu())
            odds.append(model.log_odds(out).double().cpu())
    model.train(training)
    p, s = torch.cat(rows).numpy(), torch.cat(odds).numpy()
    if s.shape != p.shape or np.isnan(s).any():  # of a method that defines its own
        raise Diverged(f"the model's log-odds are NaN, or not of shape {p.shape}, where its probabilities are finite")
    return Predictions(p / p.sum(axis=1, keepdims=True), np.nan_to_num(s))


def validation(labels: np.ndarray, predictions: Predictions, n_classes: int) -> dict[str, float]:
    """Return val_loss (log loss in nats, the same quantity for every method) and val_auc."""
    p = predictions.probabilities
    chosen = np.clip(p[np.arange(len(labels)), labels], 1e-12, 1)
    return {"val_loss": float(-np.log(chosen).mean()), "val_auc": metrics.auc(labels, p, predictions.log_odds)}


def predictions_frame(ids: Sequence[str], split: str, predictions: Predictions) -> pd.DataFrame:
    """Return one row a slide: slide_id, split, p0 .. p{C-1}, and log-odds s0 .. s{C-1}. No label stands in it."""
    classes = range(predictions.probabilities.shape[1])
    frame = pd.DataFrame(
        np.concatenate([predictions.probabilities, predictions.log_odds], axis=1),
        columns=[f"{kind}{c}" for kind in "ps" for c in classes],
    )
    frame.insert(0, "slide_id", list(ids))
    frame.insert(1, "split", split)
    return frame
