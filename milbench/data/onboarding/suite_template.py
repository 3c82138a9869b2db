"""A commented suite for an inspected cohort: TOML that runs as it is, with the choices that are worth knowing.

Lines that begin with ``# `` are prose, lines that begin with ``#`` and a letter are options to be switched on.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...atomic_io.folders import write_atomic
from ...errors import MilbenchError
from ...formatting.text import count
from ..cache.layout import shard_bytes, to_toml
from ..cache.reader import FeatureCache
from ..labels.copy import MADE_FROM, made_from
from .inspection import Inspection
from .label_guess import table_of
from .summary import lines as inspection_lines
from .summary import size, total_rows, wrapped

#: the comparison that milbench began with
METHODS = ("mean", "max", "max_instance", "abmil", "abmil[gated=true]", "dsmil", "clam_sb", "clam_mb", "transmil")


@dataclass(frozen=True)
class Draft:
    """Files that are to be written.

    Attributes:
        suite: path of the TOML.
        text: of the suite.
        labels: path of a completed label table; None: the tables that are there need none.
        table: its text.
    """

    suite: Path
    text: str
    labels: Path | None = None
    table: str = ""

    def write(self, force: bool = False) -> None:
        """Write the files, the suite last.

        Raises:
            MilbenchError: one of them exists and ``force`` does not allow to replace it.
        """
        for path in filter(None, (self.suite, self.labels)):
            if path.exists() and not force:
                raise MilbenchError(
                    f"{path} exists already; give another --out, or --force to replace it.", code="already-exists"
                )
        if self.labels is not None:
            write_atomic(self.labels, self.table)
        write_atomic(self.suite, self.text)


def draft(
    inspection: Inspection, out: Path, methods: Sequence[str] = METHODS, seeds: int = 3, estimates: Sequence[str] = ()
) -> Draft:
    """Draft a suite.

    Args:
        inspection: of the cohort.
        out: the TOML; its stem names suite, cohort and cache.
        methods: what is compared.
        seeds: of every method on every fold.
        estimates: lines about time and memory.

    Raises:
        MilbenchError: a path that TOML cannot hold, or a file in the way that is not to be replaced.
    """
    labels = None if inspection.labels_usable_as_is else out.with_name(f"{out.stem}.labels.csv")
    table = ""
    if labels is not None:
        _spare(labels, inspection)
        assert inspection.tables is not None
        text = io.StringIO(newline="")
        rows = table_of(inspection.completed_rows(), inspection.mismatches.reasons, inspection.tables.site)
        origin = [MADE_FROM, made_from(labels, inspection.tables.files)]
        # Lines end in CR LF, or a CR in a name would not be quoted.
        csv.writer(text).writerows([*row, origin[i] if i < 2 else ""] for i, row in enumerate(rows))
        table = text.getvalue()
    parts = [
        _head(inspection, out, labels, estimates),
        _suite(inspection, out.stem, methods, seeds),
        _budget(),
        _data(inspection, out, labels),
        _split(inspection, out),
    ]
    return Draft(out, "\n".join(parts), labels, table)


def _head(inspection: Inspection, out: Path, labels: Path | None, estimates: Sequence[str]) -> str:
    here = out.name
    said = [
        "A suite that milbench init wrote. It runs as it is:",
        f"  milbench audit {here}  checks labels, folds and features for leaks and defects",
        f"  milbench run {here}    makes what is missing, then the leaderboard",
        "Lines that begin with # and a letter are options; take the # away to switch one on.",
        "",
        *inspection_lines(inspection),
    ]
    if len(inspection.survey.empty) > 5:
        said += [f"slides without patches: {', '.join(map(repr, inspection.survey.empty))}"]
    if labels is not None:
        said += [f"{labels.name} lists all that are left out, each with the reason."]
    said += ["", *estimates] if estimates else []
    return _prose(said)


def threads_for(runs: int, cores: int | None = None) -> int:
    """Return the CPU threads of each of some runs that leave no core of this machine without work; 1 at least."""
    if cores is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // max(1, runs))


def _suite(inspection: Inspection, name: str, methods: Sequence[str], seeds: int) -> str:
    listed = "".join(f"    {to_toml({'m': method}).removeprefix('m = ').rstrip()},\n" for method in methods)
    checkpoint, why = "best-val", "the evaluation that was best on validation"
    if not inspection.division.validated:
        checkpoint, why = "last", "the last evaluation, as folds have no validation part"
    return (
        f"{to_toml({'name': name, 'version': 1})}"
        f"# See: milbench list aggregators\n"
        f"methods = [\n{listed}]\n"
        f"{to_toml({'seeds': seeds})}"
        "# CPU threads of a run. Results depend on it in their last digits, so all runs of a suite have the same.\n"
        "# More than 1 pays where there are fewer runs than cores.\n"
        f"{to_toml({'threads': threads_for(len(methods) * len(inspection.division.folds) * seeds)})}"
        "# Measure inference and training of every method in runs of their own:\n"
        f"{to_toml({'cost': True})}"
        "# Keep the selected model of every run, which milbench predict applies to other slides; no part of a run:\n"
        '#keep_models = "best"\n\n'
        "# Every method is trained by its own recipe (milbench show transmil), but for fields that are laid over all:\n"
        "#[recipe]\n#epochs = 20\n#lr = 2e-4\n\n"
        f"[protocol]\n# {why}\n{to_toml({'checkpoint': checkpoint, 'monitor': 'val_loss'})}"
    )


def _budget() -> str:
    return (
        "# Matched budgets: every training may use the same. Trials are of tuning; they need validation slides.\n"
        '#[budget]\n#device-seconds = "10 min"\n#memory = "8 GiB"\n#trials = 20\n\n'
        '#[tuning]\n#sampler = "tpe"\n#share = 0.5\n'
    )


def _data(inspection: Inspection, out: Path, labels: Path | None) -> str:
    surveyed, rows = inspection.survey, inspection.rows
    lines = ["[[data]]\n", to_toml({"name": out.stem})]
    if surveyed.format is None:
        lines += [to_toml({"cache": _relative(surveyed.source, out)})]
    else:
        lines += [
            to_toml({"features": _relative(surveyed.source, out), "format": surveyed.format}),
            *_kept(inspection, out),
        ]
    if rows is not None and inspection.tables is not None:
        lines += _tables(inspection, out, labels)
    if inspection.patient_rule is not None:
        lines += ["# The patient is in the name of the slide.\n", to_toml({"patient_rule": inspection.patient_rule})]
    classes = inspection.labels.classes
    order = (
        f"In this order; for two classes the second, {classes[1]!r}, is the positive one."
        if len(classes) == 2
        else ("In this order.")
    )
    lines += [_prose([order]), to_toml({"classes": classes})]
    lines += [
        "# A caveat that every table of this cohort carries, and codes of audit findings to run in spite of:\n",
        '#note = "..."\n',
        'waive = ["two-encoders"]\n' if inspection.two_encoders else '#waive = ["shortcut-length"]\n',
    ]
    return "".join(lines)


def _kept(inspection: Inspection, out: Path) -> list[str]:
    """Return how features are imported: dtype, order, coordinates and the cache."""
    surveyed = inspection.survey
    rows = total_rows(surveyed)
    half = size(shard_bytes(rows, surveyed.dim, "float32", None) - shard_bytes(rows, surveyed.dim, "float16", None))
    if not surveyed.exact:
        dtype = f"Features are {' and '.join(surveyed.dtypes)}, which are rounded to this."
    elif surveyed.dtype == "float32":
        dtype = (
            f"As in the source, bit for bit; float16 would save about {half}, and report the largest rounding error."
        )
    else:
        dtype = "As in the source, bit for bit."
    lines = [_prose([dtype]), to_toml({"dtype": surveyed.dtype})]
    if surveyed.coords is None:
        lines += ["# Coordinates are left out: --no-coords, or some slides have none.\n", to_toml({"coords": False})]
    elif surveyed.coords:
        lines += [
            "# Rows stay in the order of the source, which matters to TransMIL; raster sorts them by y, then x.\n",
            '#order = "raster"\n',
        ]
    return [*lines, to_toml({"cache": _cache(inspection, out)})]


def _cache(inspection: Inspection, out: Path) -> str:
    """Return the name of the cache to make.

    Raises:
        MilbenchError: there is one of that name that holds something else, and would be taken for this one.
    """
    name, surveyed = f"{out.stem}.cache", inspection.survey
    path = out.with_name(name)
    if path.exists():
        cache = FeatureCache.open(path)
        source, dtype = str(cache.meta.get("source", "")), cache.meta["dtype"]
        if (os.path.realpath(source), dtype) != (os.path.realpath(surveyed.source), surveyed.dtype):
            raise MilbenchError(
                f"{path} holds the features of {source or 'another source'} as {dtype}; remove it, or give another "
                "--out.",
                code="cache-mismatch",
            )
    return name


def _tables(inspection: Inspection, out: Path, labels: Path | None) -> list[str]:
    tables, rows = inspection.tables, inspection.rows
    assert tables is not None
    assert rows is not None
    suffix = {"slide_suffix": rows.suffixes} if rows.suffixes else {}
    if labels is not None:
        made = f"Made from {tables.labels.name}{f' and {tables.slides.name}' if tables.slides is not None else ''}"
        left = (
            f"{made}: {count(len(inspection.mismatches.reasons), 'slide')} without features or label marked 'exclude'."
        )
        # Ids of split files still have the endings that the table's have lost.
        also = suffix if inspection.division.spec.files is not None else {}
        return [_prose([left]), to_toml({"labels": labels.name, **also})]
    fields: dict[str, Any] = {"labels": _relative(tables.labels, out)}
    if tables.slides is not None:
        fields["slide_table"] = _relative(tables.slides, out)
    fields |= {"slide_column": rows.slide, "patient_column": rows.patient, "label_column": rows.label} | suffix
    lines = [to_toml(fields)]
    if rows.patient == rows.slide and inspection.patient_rule is None:
        lines.insert(0, "# Every slide is taken for a patient of its own.\n")
    return lines


def _split(inspection: Inspection, out: Path) -> str:
    spec, sites = inspection.division.spec, inspection.sites
    fields = spec.model_dump(include=spec.model_fields_set)
    if spec.files is not None:
        fields["files"] = _relative(Path(spec.files), out)
    said = [f"{inspection.division.said}."]
    said += [f"Not to be run as they are: {inspection.division.problem}."] if inspection.division.problem else []
    lines = [_prose(said), "[data.split]\n", to_toml(fields)]
    if spec.files is None and "folds" in fields and spec.scheme == "k-fold":
        lines += ["# Again with other partitions, or the first folds alone:\n", "#repeats = 2\n#use = 1\n"]
        if sites > 1:
            lines += [
                _prose([f"None of the {sites} sites both trained and tested on:"]),
                '#scheme = "site-preserved"\n',
            ]
    return "".join(lines)


def _prose(lines: Sequence[str]) -> str:
    """Write lines as comments; what a name brings along cannot end one."""
    printed = ("".join(c if c.isprintable() else "?" for c in line) for line in lines)
    return "".join(f"# {part}".rstrip() + "\n" for line in printed for part in wrapped(line))


def _relative(path: Path, out: Path) -> str:
    """Return a path as the suite in ``out`` has it: relative to its folder, if both lie below one folder of a user's.

    Raises:
        MilbenchError: its name is not UTF-8, which TOML could not hold.
    """
    here, there = (Path(os.path.abspath(p.expanduser())) for p in (out.parent, path))
    if there.is_relative_to(here):
        relative = str(there.relative_to(here))
    else:
        # From real folders, as the system takes .. in a path; behind a link it leads elsewhere than it seems to.
        below = Path(os.path.realpath(there.parent)) / there.name
        home = Path(os.path.realpath(here))
        shared = Path(os.path.commonpath([below, home]))
        relative = os.path.relpath(below, home) if len(shared.parts) > 1 else str(there)
    if relative.startswith("~"):  # which would be read as somebody's home
        relative = str(there)
    if any("\ud800" <= c <= "\udfff" for c in relative):
        raise MilbenchError(
            f"the name of {relative!r} is not UTF-8, which a suite must be; rename it.", code="name-bad"
        )
    return relative


def _spare(labels: Path, inspection: Inspection) -> None:
    tables = inspection.tables
    for table in (None, None) if tables is None else (tables.labels, tables.slides):
        if table is not None and table.exists() and labels.exists() and labels.samefile(table):
            raise MilbenchError(
                f"{labels} is the label table itself and would be replaced; give another --out.", code="already-exists"
            )
