"""Predictions of a model on bags, as arrays and as a table."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import torch

from ..aggregator import Aggregator, explain_nonfinite
from ..config import Recipe
from ..errors import Diverged
from ..tasks import Predictions
from .loader import BagLoader
from .step import autocast, check_output, oom_context


@torch.inference_mode()
def predict(model: Aggregator, bags: BagLoader, recipe: Recipe) -> Predictions:
    """Return the predictions of all bags, in eval mode; the mode is put back."""
    training = model.training
    model.eval()
    task, parts = model.target_task, []
    with oom_context(bags.lengths, "evaluation"):
        for batch in bags.batches():
            with autocast(batch.device.type, recipe):
                out = model(batch)
            check_output(model, out, batch)
            tensors = task.outputs(model, out)
            if not torch.isfinite(tensors[0]).all():
                explain_nonfinite(batch)
                raise Diverged("the model predicts NaN for finite features")
            parts.append(tuple(tensor.double().cpu().numpy() for tensor in tensors))
    model.train(training)
    return task.predictions(parts)


def predictions_frame(ids: Sequence[str], split: str, predictions: Predictions) -> pd.DataFrame:
    """Return one row a slide: slide_id, split, and the columns of its task: of classes p0 .. p{C-1}, and log-odds s0 ..
    s{C-1}. No label stands in it."""
    frame = pd.DataFrame(predictions.columns)
    frame.insert(0, "slide_id", list(ids))
    frame.insert(1, "split", split)
    return frame
