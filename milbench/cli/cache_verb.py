"""``milbench cache``: build, verify and describe feature caches."""

from __future__ import annotations

from pathlib import Path

import typer

from ._terminal import echo

#: facts of a cache that are too long for a line
_LONG = ("feature_names",)
app = typer.Typer(help="Build, verify and describe feature caches.", no_args_is_help=True, rich_markup_mode=None)


@app.command()
def build(
    source: Path = typer.Option(..., "--from", help="Folder of features, or a packed .npz file."),
    out: Path = typer.Option(..., help="The cache to make; it must not exist."),
    format: str = typer.Option("auto", help="Format of the source, see: milbench list formats."),
    dtype: str = typer.Option("float16", help="Of the kept features: float16, bfloat16 or float32."),
    order: str = typer.Option("source", help="Of the rows: source, or raster (by y, then x)."),
    coords: bool = typer.Option(True, "--coords/--no-coords", help="Keep coordinates."),
    workers: int = typer.Option(
        None, "--workers", min=1, help="Processes that read; default: one a core where there is much to read."
    ),
    allow_two_encoders: bool = typer.Option(
        False, "--allow-two-encoders", help="Keep features that are of two kinds by their statistics."
    ),
) -> None:
    """Build a feature cache from another tool's files; after an interruption the same command goes on.

    Example: milbench cache build --from clam/features --out cohort.cache
    """
    from ..data.cache.build import build_cache
    from ..errors import MilbenchError
    from ._terminal import counted

    if order not in ("source", "raster"):
        raise MilbenchError(f"unknown order {order!r}; give source or raster.", code="cache-bad-request")
    with counted("reading") as progress:
        report = build_cache(
            source,
            out,
            format,
            dtype,
            "raster" if order == "raster" else "source",
            coords,
            progress,
            workers,
            two_encoders=allow_two_encoders,
        )
    for line in report.lines():
        echo(line)


@app.command()
def verify(path: Path = typer.Argument(..., metavar="DIR", help="The cache.")) -> None:
    """Compare every byte of a cache with its checksums; exit code 1 when something is hurt.

    Example: milbench cache verify cohort.cache
    """
    from ..data.cache.reader import FeatureCache
    from ..data.cache.verify import verify as check
    from ..errors import MilbenchError
    from ._terminal import counted

    with counted("verifying") as progress:
        hurt = check(path, progress)
    for line in hurt:
        echo(line)
    if hurt:
        raise MilbenchError(f"{path} is hurt: copy it again, or build it from its source.", code="cache-damaged")
    echo(f"{path} is as it was written: {len(FeatureCache.open(path))} slides.")


@app.command()
def info(path: Path = typer.Argument(..., metavar="DIR", help="The cache.")) -> None:
    """Show what a cache holds.

    Example: milbench cache info cohort.cache
    """
    from ..data.cache.reader import FeatureCache

    cache = FeatureCache.open(path)
    rows = cache.slides["rows"]
    size = sum(file.stat().st_size for file in path.iterdir())
    facts = {
        key: value
        for key, value in cache.meta.items()
        if "checksum" not in key and key not in _LONG and value not in ("", [])
    }
    facts["rows a slide"] = f"{rows.min()} to {rows.max()}, median {rows.median():g}"
    facts["size"] = f"{size / 1e6:.1f} MB in {cache.slides['shard'].nunique()} shards"
    facts["fingerprint"] = cache.fingerprint
    width = max(map(len, facts))
    for key, value in facts.items():
        echo(f"{key:<{width}}  {', '.join(map(str, value)) if isinstance(value, list) else value}")
