"""Finding: one problem that an audit reports; waivers of findings; the refusal to run in spite of one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from ...config.audit_codes import CODES, Severity
from ...errors import MilbenchError
from ...formatting.text import count


@dataclass(frozen=True)
class Finding:
    """One problem that an audit reports.

    Attributes:
        code: one of `milbench.config.audit_codes.CODES`.
        severity: of the code.
        cohort: where the problem is.
        fold: in which fold; None: in the cohort as a whole.
        message: what is wrong and how to correct it, in one sentence without its point; names some of `ids`.
        ids: everything concerned, sorted: slides; patients where the code is about patients; numbers of columns where
            it is about a feature; names where it is about folds or waivers; nothing where it is about all slides.
        waived: whether the suite runs in spite of it.
        cause: of an ``unreadable`` cohort, the code of the error that says so; "" for all others.
    """

    code: str
    severity: Severity
    cohort: str
    fold: str | None
    message: str
    ids: tuple[str, ...] = ()
    waived: bool = False
    cause: str = ""

    @classmethod
    def of(cls, code: str, cohort: str, message: str, ids: Iterable[str] = (), fold: str | None = None) -> Finding:
        """Return a finding of the code's severity."""
        return cls(code, CODES[code].severity, cohort, fold, message, tuple(ids))

    @classmethod
    def of_error(cls, cohort: str, message: str, cause: str) -> Finding:
        """Return the finding that a cohort cannot be read, by the message and the code of the error."""
        return replace(cls.of("unreadable", cohort, message), cause=cause)

    @property
    def stops(self) -> bool:
        """Return whether it keeps a suite from running."""
        return self.severity == "error" and not self.waived

    def __str__(self) -> str:
        """Return the place and the message, without a point."""
        if self.code == "unreadable":  # says itself where
            return self.message
        return f"cohort {self.cohort}{f', fold {self.fold}' if self.fold is not None else ''}: {self.message}"

    @property
    def sentence(self) -> str:
        """Return the same as a sentence."""
        return _ended(str(self))

    def record(self) -> dict[str, Any]:
        """Return it as JSON has it, the message with its point."""
        content = asdict(self) | {"message": _ended(self.message), "ids": list(self.ids)}
        del content["cause"]  # of the error that is raised, not of the cohort
        return content


def settle(findings: Sequence[Finding], cohort: str, waive: Sequence[str]) -> list[Finding]:
    """Mark what is waived, and add a warning for every waiver without a finding."""
    settled = [replace(finding, waived=finding.code in waive) for finding in findings]
    idle = sorted(set(waive) - {finding.code for finding in findings})
    return settled + [
        Finding.of("idle-waiver", cohort, f"waive names {code!r}, which the audit does not report; remove it", [code])
        for code in idle
    ]


def refuse(findings: Sequence[Finding]) -> None:
    """Refuse to go on where a finding stops the suite.

    Raises:
        MilbenchError: an error is not waived; the sentence names the first and how many more there are.
    """
    stopping = [finding for finding in findings if finding.stops]
    if not stopping:
        return
    first, others = stopping[0], len(stopping) - 1
    aside = [first.code] if CODES[first.code].waivable else []
    aside += [f"and {count(others, 'more problem')}, which milbench audit lists"] if others else []
    text = f"{first} ({'; '.join(aside)})" if aside else str(first)
    if CODES[first.code].waivable:
        text = f'{text}; correct it, or run in spite of it with "{first.code}" in the waive list of its [[data]]'
    raise MilbenchError(_ended(text), code=first.cause or first.code)


def _ended(text: str) -> str:
    return text if text.endswith((".", "?")) else f"{text}."
