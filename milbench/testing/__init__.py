"""The contract every aggregator keeps, for anyone's method: ``check_aggregator("my_pkg.pool:MyPool")``."""

from .case import Case
from .checks import CHECKS
from .report import ContractViolation, Report, Result, check_aggregator, run_check, run_checks

__all__ = ["CHECKS", "Case", "ContractViolation", "Report", "Result", "check_aggregator", "run_check", "run_checks"]
