"""Cache of the findings that need all features, so that they are computed once a cohort."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from ...atomic_io.folders import write_atomic
from ...config import digest
from ...config.audit_codes import CODES
from ..home import cache_home
from .findings import Finding

#: Raised when the checks of features or the probes find other things than before in the same cohort.
VERSION = 1


def remembered(cohort: str, key: Sequence[object], compute: Callable[[], list[Finding]]) -> list[Finding]:
    """Return the findings of ``compute``, from the user's cache folder where they are stored.

    Args:
        cohort: its name, which is not part of what is kept.
        key: all that the findings depend on, as JSON.
        compute: returns the findings.
    """
    path = cache_home() / "audit" / f"{digest([VERSION, *key])}.json"
    known = _read(path)
    if known is None:
        known = [(finding.code, finding.message, list(finding.ids)) for finding in compute()]
        with suppress(OSError):  # a folder that cannot be written costs time, not the run
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, json.dumps(known) + "\n")
    return [Finding.of(code, cohort, message, ids) for code, message, ids in known]


def _read(path: Path) -> list[tuple[str, str, list[str]]] | None:
    """Return what is there; None where there is nothing, or nothing whole."""
    try:
        findings = [(code, message, ids) for code, message, ids in json.loads(path.read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError):
        return None
    whole = all(
        code in CODES and isinstance(message, str) and isinstance(ids, list) and all(isinstance(i, str) for i in ids)
        for code, message, ids in findings
    )
    return findings if whole else None
