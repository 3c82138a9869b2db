"""The former place of the leaderboard and its renderers; kept for scripts, for one release."""

from .evaluation.comparison import COMPARISON, compare
from .evaluation.leaderboard import COLUMNS, leaderboard, run_scores
from .report.comparison import comparison_lines

__all__ = ["COLUMNS", "COMPARISON", "compare", "comparison_lines", "leaderboard", "run_scores"]
