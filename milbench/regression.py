"""The former place of `milbench.measure.perf_regression`; kept for scripts, for one release."""

import sys

from .measure.perf_regression import *  # noqa: F403
from .measure.perf_regression import compare_file as judge_file  # noqa: F401
from .measure.perf_regression import compare_samples as judge_samples  # noqa: F401
from .measure.perf_regression import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
