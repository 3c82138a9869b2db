"""A report as a folder: ``README.md``, tables as CSV, and figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from ..atomic_io.publishing import was_interrupted, write_together
from ..errors import MilbenchError
from ..evaluation import ablation
from ..formatting.escaping import markdown, to_csv
from .build import FIGURES, build_report
from .markdown import render
from .model import Prose

if TYPE_CHECKING:
    from ..evaluation.leaderboard import Leaderboard

#: Formats that figures are written in on request, in addition to PNG.
FIGURE_FORMATS = ("svg", "pdf")

#: How the first line of every report begins.
_HEADING = "# Leaderboard"


def write_report(
    board: Leaderboard,
    out_dir: str | Path,
    title: str,
    provenance: str | Prose,
    also: Sequence[str] = (),
    command: str = "",
) -> Path:
    """Write ``leaderboard.csv``, ``README.md`` and figures (PNG) into a folder.

    Args:
        board: from `milbench.evaluation.leaderboard.evaluate`.
        out_dir: the folder, created where absent; files of these names are replaced.
        title: heading of the report.
        provenance: where the numbers come from.
        also: formats of `FIGURE_FORMATS` that every figure is written in, too.
        command: the command line, shown below `provenance`; empty: none.

    Returns:
        the path of ``README.md``.

    Raises:
        MilbenchError: the folder cannot be written.
    """
    report = build_report(board, title, provenance, command, figures=True)
    files = {"leaderboard.csv": to_csv(board.table).encode()}
    if board.effects:
        files["effects.csv"] = to_csv(ablation.with_costs(board.effects, board.table)).encode()
    if board.cross_cohort:
        frames = [pd.DataFrame(one.rows).assign(suite=one.name) for one in board.cross_cohort]
        files["across.csv"] = to_csv(pd.concat(frames)).encode()
    for figure in report.figures:
        files |= {figure.name(suffix): figure.encoded(suffix) for suffix in (".png", *(f".{kind}" for kind in also))}
    files["README.md"] = render(report).encode()  # last: it names the others
    folder = Path(out_dir)
    try:
        every = [Path(file).with_suffix(f".{kind}").name for file in FIGURES for kind in ("png", *FIGURE_FORMATS)]
        write_together(folder, files, stale=[*every, "across.csv"])
    except OSError as error:
        raise MilbenchError(
            f"cannot write the report to {folder} ({error.strerror}); give another --out.", code="not-writable"
        ) from error
    return folder / "README.md"


def foreign_readme(folder: Path, title: str | None = None) -> bool:
    """Whether a folder holds a README.md that is not a report of milbench's, or not the one of a title.

    A report that was interrupted, or whose README.md lost its content with the machine's power, is one of milbench's.
    """
    readme = folder / "README.md"
    if not readme.is_file() or was_interrupted(folder):
        return False
    with readme.open("rb") as file:
        first = file.readline(4096)
    if not first.strip(b"\0 \r\n\t") and readme.stat().st_size <= 4096:
        return readme.read_bytes().strip(b"\0 \r\n\t") != b""
    wanted = _HEADING if title is None else f"# {markdown(title)}\n"
    # An incomplete first line is that of an interrupted write of this report.
    torn = not first.endswith(b"\n") and len(first) > 2 and wanted.encode().startswith(first)
    return not (first.startswith(wanted.encode()) or torn)
