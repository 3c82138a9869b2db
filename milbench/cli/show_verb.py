"""``milbench show``: a method's card."""

from __future__ import annotations

import typer


def show_command(method: str = typer.Argument(metavar="METHOD", help="A method, with or without parameters.")) -> None:
    """Show a method's card: paper, parameters, recipe, search space, licence, deviations from the authors' code.

    Example: milbench show "transmil[ppeg=none]"
    """
    import inspect
    import typing

    from ..registry import create, parameters, resolve
    from ..spec import Tuning

    found = resolve(method)
    card = found.cls.card
    sizes = {d: sum(p.numel() for p in create(method, d, 2).parameters()) for d in (512, 1024)}
    typer.echo(f"{found.canonical}: {card.title} ({card.family} pooling)")
    typer.echo(f"\n{inspect.getdoc(found.cls)}")
    typer.echo(f"\nPaper       {card.citation}")
    for name, text in (("Link", card.url), ("Licence", card.licence), ("Score", card.score)):
        if text:
            typer.echo(f"{name:<11} {text}")
    invariant = "no" if not found.cls.permutation_invariant else "yes"
    typer.echo(f"Permutation invariant: {invariant}")
    typer.echo("Parameters at 2 classes: " + ", ".join(f"{n:,} ({d}-d features)" for d, n in sizes.items()))
    typer.echo("\nOptions")
    for name, (kind, default) in parameters(found.cls).items():
        options = "|".join(map(str, typing.get_args(kind))) if typing.get_origin(kind) is typing.Literal else None
        shown = options or getattr(kind, "__name__", None) or str(kind)
        typer.echo(
            f"  {name} = {found.params.get(name, default)}  ({shown if kind is not None else 'any'})".replace(
                "None", "none"
            )
        )
    typer.echo("\nAuthors' recipe (a suite may replace fields, and then says so)")
    typer.echo("  " + ", ".join(f"{k} = {v}" for k, v in found.cls.recipe.model_dump().items()))
    shared = Tuning().space
    own = {name: dimension for name, dimension in found.cls.search_space.items() if name not in shared}
    typer.echo("\nBudgets")
    typer.echo("  not compiled; if it were, that would not count as device-seconds: it is paid once for many trainings")
    typer.echo("\nSearch space (what all methods share may be replaced by a suite, for all of them)")
    for dimensions, whose in ((shared, "shared"), (own, "its own")):
        for name, dimension in dimensions.items():
            typer.echo(f"  {name}: {type(dimension).__name__} {dimension.model_dump()}, {whose}")
    typer.echo("\nDeviations from the authors' code")
    for sentence in card.deviations or ("none",):
        typer.echo(f"  - {sentence}")
