"""Audit of a suite: all that is wrong with its cohorts, not the first of it."""

from __future__ import annotations

from pathlib import Path

from ..config import DataSpec, Suite
from ..errors import MilbenchError
from .audit.checks import feature_findings, table_findings
from .audit.findings import Finding, settle
from .audit.tables import row_findings
from .cohort import read_subject
from .cohort_cache import Progress


def audit(suite: Suite, progress: Progress | None = None) -> list[Finding]:
    """List what is wrong with the cohorts of a suite, cohort by cohort, errors first.

    Features that are not imported yet are imported. What cannot be read at all is a finding too.

    Args:
        suite: its cohorts are audited, nothing else.
        progress: called while features are imported.
    """
    findings: list[Finding] = []
    for spec in suite.data:
        collected = settle(_cohort_findings(spec, suite.base, progress), spec.name, spec.waive)
        findings += sorted(collected, key=lambda finding: finding.severity != "error")
    return findings


def _cohort_findings(spec: DataSpec, base: Path, progress: Progress | None) -> list[Finding]:
    findings: list[Finding] = []
    try:
        subject = read_subject(spec, base, progress)
        findings += table_findings(subject)
        findings += feature_findings(subject)
    except MilbenchError as error:
        findings += row_findings(spec, base) or [Finding.of_error(spec.name, str(error), error.code)]
    return findings
