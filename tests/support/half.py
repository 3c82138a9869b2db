"""A TransMIL trained on digits-bags in fp32; it predicts its test bags in fp32 and in another precision."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from milbench.config import DataSpec
from milbench.config.suites import load_suite
from milbench.data.cache.reader import FeatureCache
from milbench.runs.plan import make_plan
from milbench.training.loader import BagLoader
from milbench.training.loop import train
from milbench.training.predict import predict


def digits(precisions: tuple[str, ...] = ("fp32", "bf16"), **params: Any) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Train by the quick start's recipe; return the labels of the test bags and, by precision, their scores."""
    given = load_suite("quickstart")
    data = DataSpec(name="digits-bags", dataset="digits-bags", params=params)
    suite = given.model_copy(update={"methods": ("transmil",), "data": (data,), "device": "cpu", "seeds": 1})
    with tempfile.TemporaryDirectory() as folder:
        plan = make_plan(suite, Path(folder))
    (task,), (cohort,), device = [planned.task for planned in plan.runs], plan.cohorts, torch.device("cpu")
    cache = FeatureCache.open(task.cache_path)
    model = train(task, cache, device).model
    labels = np.array([cohort.labels[slide] for slide in task.test])
    bags = BagLoader(cache, task.test, device)
    recipes = {name: task.spec.recipe.model_copy(update={"precision": name}) for name in precisions}
    return labels, {name: predict(model, bags, recipe).probabilities[:, 1] for name, recipe in recipes.items()}
