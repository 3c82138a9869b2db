"""The programs that stand in the documents run, and do what the text says."""

import os
import re
import subprocess
import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parents[1] / "docs"


def test_the_program_on_attention_runs(tmp_path):
    (program,) = re.findall(r"```python\n(.*?)```", (DOCS / "attention.md").read_text(encoding="utf-8"), re.DOTALL)
    program += '\nprint("SUMMARY", *(f"{result.summary()[k]:.4f}" for k in ("instance_auc", "deletion", "random")))\n'
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert len(list((tmp_path / "attention").glob("*.parquet"))) == 3
    auc, deletion, random = map(float, run.stdout.split("SUMMARY")[1].split())
    assert auc > 0.8, "it has learnt which digit decides"
    assert deletion < random, "its prediction comes from where the attention is"
