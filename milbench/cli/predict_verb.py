"""``milbench predict``: new slides, by the models of a finished suite."""

from __future__ import annotations

from pathlib import Path

import typer

from ._terminal import Rule


def predict_command(
    suite: str = typer.Argument(
        metavar="SUITE", help="A suite whose runs kept their models: its name, or a TOML file."
    ),
    method: str = typer.Option(..., "-m", "--method", help="Whose models: a method of the suite."),
    features: Path = typer.Option(..., "--features", help="Features of the slides: a cache, or files of any format."),
    out: Path = typer.Option(..., "--out", help="The table to write (.csv)."),
    results: Path = typer.Option(Path("results/runs"), "--results", help="Results root, or the folder of one suite."),
    data: str = typer.Option(None, "--data", help="The cohort the models were trained on, where there are several."),
    conditions: str = typer.Option(None, "--conditions", help="The table of the runs, where the cohort has several."),
    format: str = typer.Option("auto", "--format", help="Format of the features, see: milbench list formats."),
    labels: Path = typer.Option(
        None,
        "--labels",
        help="Table of labels, matched as by init: prints the AUC of slides not trained on.",
    ),
    slide_column: str = typer.Option(None, "--slide-column", help="Column of slides; default: recognised."),
    patient_column: str = typer.Option(None, "--patient-column", help="Column of patients; default: recognised."),
    label_column: str = typer.Option(None, "--label-column", help="Column of labels; default: recognised."),
    new_slides: bool = typer.Option(
        False, "--new-slides", help="No slide took part in training, whatever names slides and patients share."
    ),
    attention: Path = typer.Option(
        None, "--attention", help="Folder for the attention of every model, a file a slide."
    ),
    threshold: Rule | None = typer.Option(
        None, "--threshold", help="Predict classes by this rule instead of the suite's; two classes."
    ),
    force: bool = typer.Option(
        False, "--force", help="Predict in spite of another encoder, patch size or magnification."
    ),
) -> None:
    """Predict slides, labelled or not, by every fold and seed of a method and by their ensemble.

    Example: milbench predict lung.toml -m transmil --features other/features --out predictions.csv
    """
    from ..data.onboarding.label_guess import Tables
    from ..errors import MilbenchError
    from ._prediction import predict_to

    columns = {"slide": slide_column, "patient": patient_column, "label": label_column}
    if labels is None and (given := [f"--{what}-column" for what, name in columns.items() if name is not None]):
        raise MilbenchError(f"{given[0]} is about a label table; give it with --labels.", code="option-conflict")
    tables = (
        None
        if labels is None
        else Tables(labels, slide=slide_column, patient=patient_column, label=label_column, patients_needed=False)
    )
    predict_to(suite, method, features, out, results, data, conditions, format, tables, attention, force,
               None if threshold is None else threshold.value, new_slides)  # fmt: skip
