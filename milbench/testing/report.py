"""The contract every aggregator keeps, for anyone's method: ``check_aggregator("my_pkg.pool:MyPool")``.

The clauses are small functions in `CHECKS` (`milbench.testing.checks`), each usable alone on a `Case`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from ..errors import MilbenchError
from ..registry import Method, identity_notes, resolve
from .case import Case, CheckFailed, Skip
from .checks import CHECKS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ..aggregator import Aggregator

__all__ = ["CHECKS", "Case", "ContractViolation", "Report", "Result", "check_aggregator", "run_check", "run_checks"]


@dataclass(frozen=True)
class Result:
    """The verdict of one check.

    Attributes:
        name: name of the check.
        status: ``passed``, ``skipped`` or ``broken``.
        detail: why it was skipped, or what broke: the number measured, its tolerance, what it means. Empty when passed.
        clause: what the check demands, one sentence.
    """

    name: str
    status: Literal["passed", "skipped", "broken"]
    detail: str = ""
    clause: str = ""


@dataclass(frozen=True)
class Report:
    """The verdicts on one method, in the order of the checks.

    Attributes:
        method: its canonical name.
        results: one a check.
        notes: what identifies its code, and what of it could not be determined, one sentence each.
    """

    method: str
    results: tuple[Result, ...]
    notes: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[Result]:
        return iter(self.results)

    def __getitem__(self, name: str) -> Result:
        return {result.name: result for result in self.results}[name]

    @property
    def broken(self) -> tuple[Result, ...]:
        """The checks that the method breaks."""
        return tuple(result for result in self.results if result.status == "broken")

    def __str__(self) -> str:
        words = {"passed": "ok", "skipped": "skipped", "broken": "BROKEN"}
        width = max((len(result.name) for result in self.results), default=0)
        lines = [f"{r.name:{width}}  {words[r.status]:7}  {r.detail}".rstrip() for r in self.results]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


class ContractViolation(AssertionError):  # noqa: N818 - the name users read in their test output
    """A method breaks the contract; the message lists every broken check, `report` holds all verdicts."""

    def __init__(self, report: Report) -> None:
        self.report = report
        lines = "\n".join(f"  {result.name}: {result.detail}" for result in report.broken)
        super().__init__(f"{report.method} breaks {len(report.broken)} of {len(report.results)} checks:\n{lines}")


def check_aggregator(
    spec: str | type[Aggregator],
    *,
    in_dim: int = 32,
    n_classes: Sequence[int] = (2, 3),
    device: str | torch.device | None = None,
    seed: int = 0,
) -> Report:
    """Check that a method keeps the contract, on random bags; takes seconds and leaves torch's random state as it was.

    Args:
        spec: a name with parameters (``"transmil[layers=1]"``, ``"my_pkg.pool:MyPool"``), or the class itself.
        in_dim: width of the features.
        n_classes: numbers of classes to check, each at least 2.
        device: where the checks run; None: on the CPU. A CUDA device, where there is one, is compared anyway.
        seed: of the models and the bags.

    Raises:
        ContractViolation: the method breaks at least one check; every one of them is listed.
        MilbenchError: the method or a parameter is unknown.
    """
    report = run_checks(spec, in_dim=in_dim, n_classes=n_classes, device=device, seed=seed)
    if report.broken:
        raise ContractViolation(report)
    return report


def run_checks(
    spec: str | type[Aggregator],
    *,
    in_dim: int = 32,
    n_classes: Sequence[int] = (2, 3),
    device: str | torch.device | None = None,
    seed: int = 0,
    checks: Sequence[Callable[[Case], None]] = CHECKS,
) -> Report:
    """Run checks and return the report, broken or not; the arguments are those of `check_aggregator`."""
    if not n_classes or min(n_classes) < 2:
        raise MilbenchError(
            f"n_classes must list numbers of at least 2, got {tuple(n_classes)}.", code="option-bad-value"
        )
    method = resolve(spec) if isinstance(spec, str) else Method(spec.__name__, spec, {})
    cases = [Case(method, in_dim, k, seed, str(device or "cpu")) for k in n_classes]
    return Report(method.canonical, tuple(_over(cases, check) for check in checks), identity_notes(method))


def run_check(check: Callable[[Case], None], case: Case) -> Result:
    """Run one check on one case. Whatever else a check meets (a method that crashes) is broken too."""
    clause = (check.__doc__ or "").split("\n")[0]
    name = check.__name__
    try:
        with torch.random.fork_rng():
            check(case)
    except CheckFailed as verdict:
        return Result(name, "broken", str(verdict), clause)
    except Skip as reason:
        return Result(name, "skipped", str(reason), clause)
    except Exception as error:
        words = " ".join(str(error).split())[:300]
        return Result(name, "broken", f"the method raises {type(error).__name__}: {words}", clause)
    return Result(name, "passed", clause=clause)


def _over(cases: Sequence[Case], check: Callable[[Case], None]) -> Result:
    """Run a check for every number of classes: broken where one is broken, skipped where all are skipped."""
    results = [run_check(check, case) for case in cases]
    broken = [(case, result) for case, result in zip(cases, results, strict=True) if result.status == "broken"]
    if broken:
        texts = {result.detail: case.n_classes for case, result in reversed(broken)}
        if len(texts) == 1 and len(broken) == len(cases):  # the same words for every number of classes
            return broken[0][1]
        detail = " ".join(f"[{case.n_classes} classes] {result.detail}" for case, result in broken)
        return Result(broken[0][1].name, "broken", detail, broken[0][1].clause)
    return next((result for result in results if result.status == "passed"), results[0])
