"""Demonstrate the regression benchmarks on the real tree: ``python results/benchmarks/demonstrate.py [RUNS] [FOLDER]``.

Records a reference, compares it with RUNS (10) further runs of the unchanged tree, with one with half as much
work again planted into abmil at 8000 patches, and with one with as much memory again. Takes RUNS + 3 times two minutes
or so; leave the machine alone meanwhile. The benchmark files stay in FOLDER. Exit
code 0: no alarm without a fault, and both faults caught.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from milbench.measure.perf_regression import Report, compare_file, save_reference

ROOT = Path(__file__).resolve().parents[2]
TARGET = "abmil-train-8000"


def measure(out: Path, plant: str = "") -> Path:
    """Run the benchmarks once, with MILBENCH_PLANT=`plant`."""
    command = [sys.executable, "-m", "pytest", "tests/perf/test_regression.py", "-q", f"--benchmark-json={out}"]
    run = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"MILBENCH_PLANT": plant}, capture_output=True, text=True, timeout=3600
    )
    if run.returncode:
        sys.exit(run.stdout + run.stderr)
    return out


def alarms(report: Report) -> list[str]:
    return [str(row) for row in report.rows if row.verdict == "regression"]


def show(what: str, report: Report) -> None:
    print(f"{what}: exit code {report.exit_code}", *alarms(report), sep="\n  ", flush=True)


def main(runs: int, folder: Path) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    references = folder / "references"
    print(f"files in {folder}; reference {save_reference(measure(folder / 'reference.json'), references)}", flush=True)
    quiet = True
    for i in range(runs):
        report = compare_file(measure(folder / f"unchanged{i}.json"), references)
        show(f"unchanged, run {i + 1} of {runs}", report)
        quiet &= report.exit_code == 0
    caught = True
    for kind, quantity in (("slow", "time"), ("memory", "peak memory")):
        report = compare_file(measure(folder / f"{kind}.json", f"{kind}:{TARGET}"), references)
        show(f"planted in {TARGET}: {kind}", report)
        regressed = [(row.benchmark, row.quantity) for row in report.rows if row.verdict == "regression"]
        caught &= report.exit_code == 3 and regressed == [(f"test_regression.py::test_method[{TARGET}]", quantity)]
    print(f"{'no alarm' if quiet else 'FALSE ALARMS'} without a fault, faults {'caught' if caught else 'MISSED'}")
    return 0 if quiet and caught else 1


if __name__ == "__main__":
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    sys.exit(main(count, Path(sys.argv[2] if len(sys.argv) > 2 else tempfile.mkdtemp(prefix="milbench-bench-"))))
