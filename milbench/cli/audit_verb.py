"""``milbench audit``: leaks and defects of a suite's cohorts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import typer

from ._terminal import echo, echo_data

if TYPE_CHECKING:
    from ..config import DataSpec
    from ..data.audit.findings import Finding


def audit_command(
    suite: str = typer.Argument(metavar="SUITE", help="A built-in suite or a TOML file."),
    json_file: str = typer.Option(
        "", "--json", metavar="FILE", help="Write all findings, with all ids, to this file; '-': print nothing else."
    ),
) -> None:
    """Check labels, folds and features for leaks and defects.

    An error keeps the suite from running, unless its code is waived: waive = ["patient-overlap"] in [[data]].

    Example: milbench audit my.toml --json audit.json

    Exit code: 0 no error, or all of them waived; 1 otherwise.
    """
    import json

    from ..atomic_io.publishing import write_atomic
    from ..config.suites import load_suite

    of = load_suite(suite)  # what is wrong with the file is said before the rest is imported
    from ..data.suite_audit import audit
    from ._terminal import counted

    with counted("reading") as progress:
        findings = audit(of, progress)
    record = {"suite": of.name, "version": of.version, "findings": [finding.record() for finding in findings]}
    text = json.dumps(record, indent=2, ensure_ascii=False)
    if json_file == "-":
        echo_data(text + "\n")
    else:
        for line in _lines([data.name for data in of.data], findings, {d.name: _left_out(d, of.base) for d in of.data}):
            echo(line)
        if json_file:
            path = Path(json_file)
            if path.exists() and not path.is_file():  # /dev/stdout, say
                path.write_text(text + "\n", encoding="utf-8")
            else:
                write_atomic(path, text + "\n")
    if any(finding.stops for finding in findings):
        raise typer.Exit(1)


def _left_out(data: DataSpec, base: Path) -> list[str]:
    """Return a line on the slides that the label table of a cohort leaves out, for every reason."""
    from ..data.labels.copy import left_out
    from ..formatting.text import count, some

    if data.labels is None or data.slide_table is not None:  # that one is of patients
        return []
    excluded = left_out(base / Path(data.labels).expanduser(), data.slide_column, data.label_column)
    return [
        f"{count(len(names), 'slide')} marked 'exclude'{f' ({why})' if why else ''}: {some(names)}"
        for why, names in excluded.items()
    ]


def _lines(
    cohorts: Sequence[str], findings: Sequence[Finding], left_out: Mapping[str, Sequence[str]] = MappingProxyType({})
) -> list[str]:
    """Return a line a finding, and one on every kind of slides left out; what is the same in several folds is one."""
    from ..formatting.text import count

    lines = []
    for cohort in cohorts:
        mine = [finding for finding in findings if finding.cohort == cohort]
        lines.append(f"{cohort}:" if mine else f"{cohort}: no findings.")
        lines += [f"  left out {text}." for text in left_out.get(cohort, ())]
        folds: dict[tuple[str, str, str], list[str]] = {}
        for finding in mine:
            key = ("waived" if finding.waived else finding.severity, finding.code, finding.message)
            folds.setdefault(key, []).extend([finding.fold] if finding.fold else [])
        for (what, code, message), names in folds.items():
            where = f"fold{'s' if len(names) > 1 else ''} {_listed(names)}: " if names else ""
            lines.append(f"  {what:<8} {code}: {where}{message}{'' if message.endswith('.') else '.'}")
    total = Counter("waived" if finding.waived else finding.severity for finding in findings)
    errors, warnings = count(total["error"], "error"), count(total["warning"], "warning")
    return [*lines, f"{errors}, {warnings}, {total['waived']} waived."]


def _listed(names: Sequence[str], most: int = 5) -> str:
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")
