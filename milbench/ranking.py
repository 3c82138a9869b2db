"""The former place of the leaderboard and its renderers; kept for scripts, for one release."""

from .evaluation.comparison import COMPARISON, compare
from .evaluation.leaderboard import COLUMNS, leaderboard, run_scores
from .report.console import to_rich
from .report.markdown import comparison_lines, to_markdown, write_report

__all__ = [
    "COLUMNS", "COMPARISON", "compare", "comparison_lines", "leaderboard", "run_scores", "to_markdown", "to_rich",
    "write_report",
]  # fmt: skip
