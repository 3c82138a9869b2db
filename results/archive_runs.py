"""Keep the runs behind a committed table: ``python results/archive_runs.py results/runs/SUITE-v1 results/SUITE``.

Writes ``runs.tar.xz`` into the second folder: every run's predictions and record, the cohorts' labels and folds, and
the measured costs, so that a reader can compute any score again without training anything. Two archives of the same
files are the same bytes. Not for cohorts whose labels are not ours to pass on.
"""

from __future__ import annotations

import io
import json
import lzma
import sys
import tarfile
from pathlib import Path


def archive(folder: Path, out: Path) -> Path:
    """Write what one suite's folder of results holds, without journals and unfinished files."""
    foreign = [data["name"] for data in json.loads((folder / "suite.json").read_text("utf-8"))["data"]
               if not data["dataset"]]  # fmt: skip
    if foreign:
        raise SystemExit(f"{folder}: the labels of {', '.join(foreign)} are not ours to pass on.")
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for file in sorted(folder.rglob("*")):
            name = file.relative_to(folder)
            if not file.is_file() or name.parts[0] == "tuning" or any(part.startswith(".") for part in name.parts):
                continue
            entry = tarfile.TarInfo(f"{folder.name}/{name.as_posix()}")  # no owner, no time
            entry.size = file.stat().st_size
            with file.open("rb") as content:
                tar.addfile(entry, content)
    out.mkdir(parents=True, exist_ok=True)
    target = out / "runs.tar.xz"
    target.write_bytes(lzma.compress(packed.getvalue(), preset=9))
    return target


if __name__ == "__main__":
    written = archive(Path(sys.argv[1]), Path(sys.argv[2]))
    print(f"{written}: {written.stat().st_size / 2**10:.0f} KiB")
