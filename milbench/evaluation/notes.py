"""The notes of a table: limits of its scores that a reader must know."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from ..config.audit_codes import CODES
from ..formatting.text import count, listed
from ..measure.load import budget_notes
from ..stats import threshold
from .comparison import _defines_probabilities, _run_again
from .more_seeds import doubled, expected, known_sentence
from .resource_use import missing_flops
from .scores import (
    ARGMAX,
    PROBABILITIES,
    RunGroup,
    Scores,
    read_cohorts,
    score,
)


def _notes(cohort: RunGroup, scored: list[Scores]) -> list[str]:
    out = [
        f"{cohort.name}: run in spite of {CODES[code].means} ({code}, waived): {message}"
        for code, message in cohort.waived().items()
    ]
    if lacking := cohort.lacking():
        out.append(
            f"{cohort.name}: {count(lacking, 'run')} of the suite are still to be made (see milbench status); "
            "the table shows the finished runs."
        )
    if cohort.oracle:
        out.append(
            f"{cohort.name}: the evaluation with the best test AUC was taken, so these figures are inflated; they are "
            "shown to estimate by how much, and not ranked."
        )
    for method, runs in cohort.runs.items():
        if subsampled := sum(run.record.get("max_instances") is not None for run in runs.values()):
            out.append(
                f"{cohort.name}: {count(subsampled, 'run')} of {method} ran out of memory on whole bags and used at "
                f"most {cohort.spec.budget.max_instances:,} instances of a bag in training, as the suite says; "
                "evaluation used whole bags."
            )
        if why := missing_flops(list(runs.values())):
            out.append(f"{cohort.name}: the training operations of {method} could not be counted ({why}).")
    if cohort.spec.budget.track == "device_seconds":
        done = {(method, *cell): run for method, runs in cohort.runs.items() for cell, run in runs.items()}
        out += budget_notes(cohort.name, {key: run.record for key, run in done.items() if run.outcome == "ok"})
    out += _ordered_by_probabilities(cohort, scored)
    undefined = int(max((s.runs["auc"].isna().sum() for s in scored), default=0))
    if undefined:
        out.append(f"{cohort.name}: {undefined} runs a method test on one class; their AUC is left out.")
    out += _of_classes(cohort, scored)
    out += _of_thresholds(cohort, scored)
    out += _of_units(cohort)
    out += _of_seeds(cohort, scored)
    out += [f"{cohort.name}: {data.note}" for data in cohort.suite.data if data.name == cohort.data and data.note]
    return out


def _chance_precision(positives: int, bags: int) -> float:
    """Return the average precision to expect of a random order: the prevalence, and more of few bags.

    The bag at rank i is positive with probability p / n, and of the i - 1 before it (i - 1) (p - 1) / (n - 1) are then:
    with H the n-th harmonic number, ((p - 1) / (n - 1)) (1 - H / n) + H / n.
    """
    first = float(np.mean(1 / np.arange(1, bags + 1)))
    return first + (1 - first) * (positives - 1) / (bags - 1) if bags > 1 else 1.0


def _of_classes(cohort: RunGroup, scored: list[Scores]) -> list[str]:
    """Say which class is positive, and which folds lack a class or test one bag of it."""
    names, labels = cohort.classes(), cohort.labels()["label"]
    out = []
    counts = next((s.test_counts for s in scored if s.test_counts), {})
    if len(names) == 2:
        share = float((labels == 1).mean())
        # Of the runs over which the average precision is a mean: their folds' test bags, where any is positive.
        tested = [(of[1], sum(of)) for fold, _ in cohort.cells if (of := counts.get(fold, (0, 0)))[1]]
        level = float(np.mean([_chance_precision(*of) for of in tested])) if tested else float("nan")
        baseline = f"; a random order has an average precision of {level:.2f}" if tested else ""
        out.append(
            f"{cohort.name}: the positive class is {names[1]} ({share:.0%} of the bags); average precision and F1 are "
            f"of this class{baseline}."
        )
    for description, bags in (("test no bag", 0), ("test one bag", 1)):
        folds = {
            name: [fold for fold, of_class in counts.items() if c < len(of_class) and of_class[c] == bags]
            for c, name in enumerate(names)
        }
        some = {
            name: fold_names
            for name, fold_names in folds.items()
            if fold_names and (bags or len(fold_names) < len(counts))
        }
        for name, fold_names in some.items():
            undefined = sum(sum(n > 0 for n in counts[fold]) < 2 for fold in fold_names)
            why = "their AUC of it depends on that bag alone"
            if bags == 0:
                why = "their AUC is over the other classes" if not undefined else "their AUC is undefined and left out"
            if 0 < undefined < len(fold_names) and bags == 0:
                why = f"the AUC of {undefined} of them is undefined and left out, of the others over the other classes"
            pooled = "; the column auc_pooled is of the bags of all folds together" if len(counts) > 1 else ""
            out.append(
                f"{cohort.name}: {count(len(fold_names), 'fold')} of {len(counts)} {description} of class {name} "
                f"({why}){pooled}."
            )
    return out


def _of_thresholds(cohort: RunGroup, scored: list[Scores]) -> list[str]:
    """Say by which thresholds classes were predicted, where the rule of the suite is not the more probable class."""
    rule = cohort.suite.threshold
    if rule == "half":
        return []
    counted = "accuracy, balanced accuracy, F1, sensitivity and specificity"
    runs = pd.concat([s.runs for s in scored if len(s.runs)] or [pd.DataFrame(columns=["threshold_rule"])])
    if (runs["threshold_rule"] == ARGMAX).all():
        why = "what was chosen on test has none" if cohort.oracle else "it is defined for two classes"
        return [f"{cohort.name}: threshold = {rule} is not applied ({why}); {counted} are of the most probable class."]
    chosen, without = runs[runs["threshold_reason"] == ""], runs[runs["threshold_reason"] != ""]
    span = f", {chosen['threshold'].min():.3g} to {chosen['threshold'].max():.3g}," if len(chosen) else ""
    lines = [
        f"{cohort.name}: {counted} are at the probability of {cohort.classes()[1]}{span} with the highest "
        f"{threshold.CHOSEN[rule]} on the validation bags of each run ({rule}); test bags are not used for it."
    ]
    for reason, several in without.groupby("threshold_reason"):
        lines.append(f"{cohort.name}: {count(len(several), 'run')} had {reason}; their threshold is 0.5.")
    return lines


def _of_units(cohort: RunGroup) -> list[str]:
    """Say that scores are by slide where patients have several slides."""
    slides = cohort.labels()["patient_id"].value_counts()
    if not len(slides) or slides.max() == 1:
        return []
    return [
        f"{cohort.name}: scores are by slide, and a patient counts once for every slide: "
        f"{count(len(slides), 'patient')} have 1 to {slides.max()} slides; intervals are over {cohort.suite.unit}s."
    ]


def _of_seeds(cohort: RunGroup, scored: list[Scores]) -> list[str]:
    """Say what the intervals cover of the seeds, and the expected interval with more of them."""
    seeds = len({seed for _, seed in cohort.cells})
    if seeds == 1:
        return [
            f"{cohort.name}: one seed, so the intervals do not cover the spread over seeds; with two or more they do."
        ]
    known = expected([s.mean for s in scored if s.complete], doubled(seeds))
    if len(known) < 3 or not known[seeds]:
        return []
    gain = ", ".join(f"{n} seeds ± {half:.3f}" for n, half in known.items())
    units = f"{cohort.suite.unit}s"
    return [f"{cohort.name}: expected half-width of an interval over {units} and seeds, mean over methods: {gain}."]


def seeds_would_buy(folder: Path, data: str, fingerprint: str, seeds: int, resamples: int = 400) -> str:
    """Return a sentence on the interval with more seeds, from stored runs; empty unless some have two seeds.

    Args:
        folder: the suite's results folder.
        data, fingerprint: of the cohort.
        seeds: the requested number.
        resamples: bootstrap replicates.

    Raises:
        MilbenchError: there are no runs of it, or results are damaged.
    """
    stored_groups = [
        (len({seed for _, seed in cohort.cells}), cohort)
        for cohort in read_cohorts(folder, data=data, all_runs=True)
        if cohort.fingerprint == fingerprint and not cohort.oracle
    ]
    for stored, cohort in sorted(stored_groups, key=lambda one: (-one[0], -len(one[1].runs))):
        means = [s.mean for s in score(cohort, resamples) if s.complete] if stored > 1 else []
        if sentence := known_sentence(data, means, stored, seeds):
            return sentence
    return ""


def _of_monitor(cohort: RunGroup, older: Sequence[str]) -> str:
    """Say which runs without stored log-odds chose by a validation AUC, which was computed from probabilities then."""
    selected = cohort.spec.protocol.checkpoint == "best-val"
    chosen = [
        method
        for method in older
        if any(selected or run.spec.recipe.patience is not None for run in cohort.runs[method].values())
    ]
    if cohort.spec.protocol.monitor != "val_auc" or not chosen:
        return ""
    return (
        f" The val_auc that chose the models of {listed(chosen)} was of such probabilities, too; new runs choose "
        "by log-odds and may keep another evaluation under the same run id."
    )


def _ordered_by_probabilities(cohort: RunGroup, scored: list[Scores]) -> list[str]:
    by = {s.method: int((s.runs["ordered_by"] == PROBABILITIES).sum()) for s in scored}
    # Methods that define probabilities alone; the other runs are older than the storage of log-odds.
    own = [method for method, n in by.items() if n and _defines_probabilities(cohort, method)]
    older = {method: n for method, n in by.items() if n and method not in own}
    out = []
    if older:
        all_of_them = not own and len(older) == len([s for s in scored if len(s.runs)])
        whose = "all methods" if all_of_them and len(older) > 1 else listed(list(older))
        unequal = "" if all_of_them else " Their scores are not comparable with those of the others until then."
        out.append(
            f"{cohort.name}: {count(sum(older.values()), 'run')} of {whose} stored no log-odds; such runs are scored "
            "from probabilities in fp32, in which bags tie from a log-odds of 16.6 on. To have log-odds: "
            f"{_run_again(cohort, [] if all_of_them else list(older))}.{unequal}{_of_monitor(cohort, list(older))}"
        )
    if own:
        out.append(
            f"{cohort.name}: {', '.join(own)} defines probabilities and no log-odds, and so is scored from "
            "probabilities in fp32, in which bags tie from a log-odds of 16.6 on."
        )
    return out
