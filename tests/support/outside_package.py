"""Install the package `support.outside` in a folder, as pip would: its files, and a dist-info with its entry points."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).with_name("outside")
ENTRY_POINTS = {
    "milbench.aggregators": {"outside_teacher": "outside.teacher:Teacher"},
    "milbench.datasets": {"outside-blobs": "outside.blobs"},
    "milbench.formats": {"outside-spool": "outside.spool"},
    "milbench.metrics": {"agreement": "outside.agreement:agreement"},
    "milbench.tasks": {"dose": "outside.dose:TASK"},
    "milbench.launchers": {"outside-serial": "outside.serial:SerialLauncher"},
    "milbench.renderers": {"outside-outline": "outside.outline:outline"},
}


def install(folder: Path, entry_points: dict[str, dict[str, str]] = ENTRY_POINTS) -> Path:
    """Return a folder for PYTHONPATH that holds the package."""
    site = folder / "site"
    shutil.copytree(SOURCE, site / "outside", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(SOURCE.with_name("dose.py"), site / "outside" / "dose.py")
    info = site / "outside-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: outside\nVersion: 1.0\n")
    lines = [line for group, points in entry_points.items() for line in
             (f"[{group}]", *(f"{name} = {value}" for name, value in points.items()), "")]  # fmt: skip
    (info / "entry_points.txt").write_text("\n".join(lines))
    return site


def milbench(folder: Path, site: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a command line in a folder, with the package installed."""
    paths = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])
    env = os.environ | {"PYTHONPATH": paths, "MILBENCH_CACHE": str(folder / "home"), "COLUMNS": "200"}
    start = [sys.executable, "-c", "from milbench.cli import main; main()"]
    return subprocess.run([*start, *words], cwd=folder, env=env, capture_output=True, text=True, timeout=300)
