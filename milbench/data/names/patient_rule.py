"""Search names of slides for their patients with a regular expression that a user gives, within a time limit.

``^((?:a+)+)$`` takes longer than the age of the universe on forty letters, and Python's search cannot be interrupted
from within. So a rule that repeats more than once is tried in a process of its own, which is ended after `SECONDS`.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Collection

from ...errors import MilbenchError

#: seconds that a search of all names may take
SECONDS = 20.0

_SEARCH = """
import json, re, sys
rule, names = json.loads(sys.stdin.buffer.read())
pattern = re.compile(rule)
json.dump([match and match[1] for match in map(pattern.search, names)], sys.stdout)
"""


def search_patients(rule: str, slides: Collection[str]) -> dict[str, str]:
    """Return slide -> what the rule's group finds in its name, of the slides in whose names it finds something.

    Raises:
        MilbenchError: the search takes longer than `SECONDS`.
    """
    names = list(slides)
    groups = _apart(rule, names) if len(re.findall(r"[*+?{]", rule)) > 1 and names else None
    if groups is None:
        groups = [match and match[1] for match in map(re.compile(rule).search, names)]
    return {name: group for name, group in zip(names, groups, strict=True) if group}


def _apart(rule: str, names: list[str]) -> list[str | None] | None:
    """Search in a process of its own; None: none can be started."""
    try:
        completed = subprocess.run(
            [sys.executable, "-I", "-S", "-c", _SEARCH],
            input=json.dumps([rule, names]).encode(), capture_output=True, timeout=SECONDS, check=False,
        )  # fmt: skip
        groups: list[str | None] = json.loads(completed.stdout)
    except subprocess.TimeoutExpired:
        raise MilbenchError(
            f"patient_rule {rule!r} is not done with {len(names)} names after {SECONDS:g} s; write it without a "
            "repetition within a repetition, or name the patients in patient_column.",
            code="patient-rule-bad",
        ) from None
    except (OSError, ValueError):  # ValueError: of JSON, as the process failed
        return None
    return groups
