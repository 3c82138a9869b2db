"""``milbench show``: a method's card, or its pooling matrix."""

from __future__ import annotations

from pathlib import Path

import typer

from ._terminal import echo

_INSTANCES = 64
_DIM = 32


def show_command(
    method: str = typer.Argument(metavar="METHOD", help="A method, with or without parameters."),
    pooling_matrix: bool = typer.Option(
        False, "--pooling-matrix", help="Compute and draw how the method mixes the instances of a bag, instead."
    ),
    instances: int = typer.Option(
        None, "--instances", help=f"With --pooling-matrix: instances of the bag; default: {_INSTANCES}."
    ),
    out: Path = typer.Option(
        None, "--out", help="With --pooling-matrix: the figure; default: pooling-matrix-METHOD.png."
    ),
) -> None:
    """Show a method's card: paper, parameters, recipe, search space, licence, deviations from the authors' code.

    With --pooling-matrix: how much of instance j reaches the bag representation through the row of instance i, of a
    model as it is initialised and a bag of normal random features, computed from the method itself; any method, yours
    included.

    Example: milbench show "transmil[ppeg=none]"

    Example: milbench show --pooling-matrix transmil --instances 100 --out transmil.png
    """
    from ..errors import MilbenchError

    if pooling_matrix:
        _show_matrix(method, _INSTANCES if instances is None else instances, out)
    elif instances is not None or out is not None:
        raise MilbenchError(
            "--instances and --out go with --pooling-matrix; add it, or leave them out.", code="option-conflict"
        )
    else:
        _show_card(method)


def _show_matrix(method: str, instances: int, out: Path | None) -> None:
    import re

    import numpy as np
    import torch

    from ..atomic_io.publishing import write_figure
    from ..bags import Bags
    from ..errors import MilbenchError
    from ..interpret.figures import matrix_figure
    from ..interpret.pooling_matrix import DEFINITIONS, pooling_matrix
    from ..registry import resolve
    from ._terminal import check_folder

    resolved = resolve(method)
    file = out or Path(f"pooling-matrix-{re.sub(r'[^a-z0-9_.+-]+', '-', resolved.canonical.lower()).strip('-')}.png")
    if file.suffix.lower() not in (".png", ".pdf", ".svg"):
        raise MilbenchError(f"--out {file}: a figure is a .png, .pdf or .svg file.", code="option-bad-file")
    check_folder(file.parent, "--out")
    if instances < 1:
        raise MilbenchError(f"--instances {instances}: a bag has at least one.", code="option-bad-value")
    torch.manual_seed(0)
    model = resolved.create(_DIM, 2)
    at, side = torch.arange(instances), int(np.ceil(np.sqrt(instances)))
    coords = torch.stack([at % side, at // side], dim=1)
    matrix = pooling_matrix(model, Bags(torch.randn(instances, _DIM), [instances], coords))
    diagonal, each = np.diag(matrix.matrix), np.count_nonzero(matrix.components, axis=(1, 2))
    file.parent.mkdir(parents=True, exist_ok=True)
    sentence = DEFINITIONS[matrix.definition]
    figure = matrix_figure(matrix.matrix, resolved.canonical, matrix.off_diagonal, f"By {sentence}.")
    write_figure(file, figure)
    echo(f"Pooling matrix of {resolved.canonical}, {instances} x {instances}; its entries sum to 1")
    echo(f"Computed from   {sentence}")
    echo(f"Of              a model as it is initialised, and a bag of normal {_DIM}-d features")
    echo(f"Off-diagonal    {matrix.off_diagonal:.4f} of the mass")
    shown = f"{np.count_nonzero(diagonal)} of {instances} entries are not 0, from {diagonal.min():.3g}"
    echo(f"Diagonal        {shown} to {diagonal.max():.3g}")
    if len(each) > 1:
        many = f"{each.min()}" if each.min() == each.max() else f"{each.min()} to {each.max()}"
        echo(f"Mean of         {len(each)} matrices, with {many} entries that are not 0 in each")
    echo(f"Written: {file}")


def _show_card(method: str) -> None:
    import inspect
    import typing

    from ..config import Tuning
    from ..registry import create, parameters, resolve

    resolved = resolve(method)
    card = resolved.card
    models = {d: create(method, d, 2) for d in (512, 1024)}
    sizes = {d: sum(p.numel() for p in model.parameters()) for d, model in models.items()}
    echo(f"{resolved.canonical}: {card.title} ({card.family} pooling)")
    echo(f"\n{inspect.getdoc(resolved.cls)}", lines=True)
    echo(f"\nPaper       {card.citation}", lines=True)
    for name, text in (("Link", card.url), ("Licence", card.licence), ("Score", card.score)):
        if text:
            echo(f"{name:<11} {text}")
    invariant = "yes" if models[512].permutation_invariant else "no"
    echo(f"Permutation invariant: {invariant}")
    echo("Parameters at 2 classes: " + ", ".join(f"{n:,} ({d}-d features)" for d, n in sizes.items()))
    echo("\nOptions", lines=True)
    for name, (kind, default) in parameters(resolved.cls).items():
        options = "|".join(map(str, typing.get_args(kind))) if typing.get_origin(kind) is typing.Literal else None
        shown = options or getattr(kind, "__name__", None) or str(kind)
        echo(
            f"  {name} = {resolved.params.get(name, default)}  ({shown if kind is not None else 'any'})".replace(
                "None", "none"
            )
        )
    echo("\nAuthors' recipe (a suite may replace fields, and then says so)", lines=True)
    echo("  " + ", ".join(f"{k} = {v}" for k, v in resolved.cls.recipe.model_dump().items()))
    shared = Tuning().space
    own = {name: dimension for name, dimension in resolved.cls.search_space.items() if name not in shared}
    echo("\nBudgets", lines=True)
    echo("  not compiled; if it were, that would not count as device-seconds: it is paid once for many trainings")
    echo("\nSearch space (what all methods share may be replaced by a suite, for all of them)", lines=True)
    for dimensions, whose in ((shared, "shared"), (own, "its own")):
        for name, dimension in dimensions.items():
            echo(f"  {name}: {type(dimension).__name__} {dimension.model_dump()}, {whose}")
    echo("\nDeviations from the authors' code", lines=True)
    for sentence in card.deviations or ("none",):
        echo(f"  - {sentence}")
