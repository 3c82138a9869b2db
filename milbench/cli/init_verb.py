"""``milbench init``: from features and labels as they are to a suite that is ready to run."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ._terminal import echo

if TYPE_CHECKING:
    from ..data.onboarding.inspection import Inspection


def init_command(
    features: Path = typer.Option(..., "--features", help="Features of another tool, or a feature cache."),
    labels: Path = typer.Option(
        None, "--labels", "--clinical", help="Label table; left out where the features bring their labels along."
    ),
    out: Path = typer.Option(..., "--out", help="The suite to write, a .toml; its name is that of the suite."),
    slide_table: Path = typer.Option(
        None, "--slide-table", help="Slides and their patients, where rows of the label table are patients (STAMP)."
    ),
    splits: str = typer.Option(
        None, "--splits", help="Published splits: a file, a folder, or a path with {k} for the fold number."
    ),
    format: str = typer.Option("auto", "--format", help="Format of the features, see: milbench list formats."),
    slide_column: str = typer.Option(None, "--slide-column", help="Column of slides; default: recognised."),
    patient_column: str = typer.Option(None, "--patient-column", help="Column of patients; default: recognised."),
    label_column: str = typer.Option(None, "--label-column", help="Column of labels; default: recognised."),
    site_column: str = typer.Option(
        None, "--site-column", help="Column of sites: folds then keep the patients of a site together."
    ),
    split_column: str = typer.Option(
        None, "--split-column", help="Column that says train, val or test, of --splits or of the label table."
    ),
    patient_rule: str = typer.Option(
        None, "--patient-rule", help="Regular expression whose one group is the patient in a slide's name."
    ),
    kept_class: list[str] = typer.Option(
        None, "--class", help="A label that is a class, though it reads as a missing value; once for each."
    ),
    exclude_class: list[str] = typer.Option(
        None, "--exclude-class", help="A class whose slides take no part; once for each."
    ),
    allow_missing: str = typer.Option(
        None, "--allow-missing", metavar="N", help="Slides that may be left out for want of a match: 5, or 10%."
    ),
    allow_two_encoders: bool = typer.Option(
        False, "--allow-two-encoders", help="Go on where features are of two kinds by their statistics."
    ),
    method: list[str] = typer.Option(None, "-m", "--method", help="Methods to compare; default: the founding ones."),
    seeds: int = typer.Option(3, "--seeds", min=1, help="Seeds of every method on every fold."),
    estimate: bool = typer.Option(
        True, "--estimate/--no-estimate", help="Measure for some ten seconds what the methods will take."
    ),
    coords: bool = typer.Option(
        True, "--coords/--no-coords", help="Read coordinates; without, the suite leaves them out."
    ),
    strict: bool = typer.Option(False, "--strict", help="Refuse where slides lack features or label, or folds leak."),
    force: bool = typer.Option(False, "--force", help="Replace a suite that is there."),
) -> None:
    """Inspect features and labels, print a summary, and write a commented suite that runs as it is.

    Slides that lack features or a label are left out: they are counted, named, and listed in NAME.labels.csv next to
    the suite. Where names do not match for more than 2 % of either side, init stops and shows those that resemble each
    other; --allow-missing goes on without them.

    Example: milbench init --features clam/features --labels labels.csv --out my.toml
    """
    from ..errors import MilbenchError
    from ..runs.store import plain_name
    from ._terminal import check_folder, counted

    if out.suffix != ".toml":
        raise MilbenchError(f"{out} must end in .toml; a suite is read from such a file.", code="option-bad-file")
    plain_name(out.stem, "suite")
    if out.exists() and not force:
        raise MilbenchError(
            f"{out} exists already; give another --out, or --force to replace it.", code="already-exists"
        )
    check_folder(out.parent, "--out")
    # These import torch, which takes seconds: errors of --out are reported before.
    from ..data.audit.patients import check_rule
    from ..data.onboarding.inspection import inspect
    from ..data.onboarding.label_guess import Tables, check_columns
    from ..data.onboarding.suite_template import METHODS, draft
    from ..data.onboarding.summary import lines
    from ..data.onboarding.survey import survey
    from ..registry import add_import_folder, resolve

    if any(":" in name for name in method or ()):
        add_import_folder(out.parent)  # the folder of the suite
    chosen = list(dict.fromkeys(resolve(name).canonical for name in method or METHODS))
    columns = (slide_table, slide_column, patient_column, label_column, site_column, split_column, patient_rule)
    if labels is None and any(given is not None for given in (*columns, kept_class or None, exclude_class or None)):
        raise MilbenchError(
            "columns and --slide-table are about a label table; give it with --labels.", code="option-conflict"
        )
    if allow_missing is not None and not re.fullmatch(r"\d+|\d+(\.\d+)?%", allow_missing):
        raise MilbenchError(
            f"--allow-missing {allow_missing!r} is neither a number of slides, 5, nor a share, 10%.",
            code="option-bad-value",
        )
    check_rule(patient_rule)
    tables = None if labels is None else Tables(labels, *columns, tuple(kept_class or ()), tuple(exclude_class or ()))
    if tables is not None and any(columns[1:5]):
        check_columns(tables)
    with counted("inspecting") as progress:
        inspection = inspect(survey(features, format, progress, coords), tables, splits)
    for line in lines(inspection):
        echo(line)
    inspection.refuse_losses(allow_missing)
    if inspection.two_encoders and not allow_two_encoders and inspection.survey.kinds is not None:
        inspection.survey.kinds.refuse(features)
    problem = [*inspection.mismatches.lines(), *filter(None, [inspection.division.problem])]
    if strict and problem:
        raise MilbenchError(f"{problem[0].rstrip('.')}; fix it, or leave out --strict.", code="init-strict")
    estimates = _estimates(inspection, chosen, seeds) if estimate else []
    for line in estimates:
        echo(line)
    gain = _gain_of_seeds(inspection, seeds)
    for line in gain:
        echo(line)
    made = draft(inspection, out, chosen, seeds, [*estimates, *gain])
    out.parent.mkdir(parents=True, exist_ok=True)
    made.write(force)
    also = (
        f" and {made.labels}, which lists what is left out, and which the suite reads instead of {labels}"
        if made.labels is not None
        else ""
    )
    suite = shlex.quote(str(out))
    echo(f"Written: {out}{also}. Next: milbench audit {suite}, then milbench run {suite}")


def _gain_of_seeds(inspection: Inspection, seeds: int) -> list[str]:
    from ..evaluation.more_seeds import planned_sentence, tested_counts

    labels = inspection.labels
    counts = tested_counts(
        (fold.test for fold in inspection.division.folds), labels.labels, labels.patients, len(labels.classes)
    )
    return [sentence] if (sentence := planned_sentence("", counts, seeds)) else []


def _estimates(inspection: Inspection, methods: list[str], seeds: int) -> list[str]:
    from ..runs.costs.estimate import Work, estimate, lines

    folds = inspection.division.folds
    train, val, test = (
        sum(len(fold.parts[part]) for fold in folds) / len(folds) for part in ("train", "val", "test")
    )  # fmt: skip
    work = Work(
        inspection.survey.dim,
        len(inspection.labels.classes),
        inspection.survey.lengths,
        train,
        val,
        test,
        len(folds) * seeds,
    )
    return lines(estimate(methods, work), work)
