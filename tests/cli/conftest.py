"""The command line as a user meets it: arguments in; exit code, stdout and stderr out."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

import milbench.cli

#: A folder, and what milbench has to say of it: ``cli("run", "my.toml")``.
Cli = Callable[..., "Said"]


@dataclass(frozen=True)
class Said:
    """What a command ended with."""

    code: int
    out: str
    err: str


@pytest.fixture
def cli(tmp_path, monkeypatch, capsys) -> Cli:
    """Run milbench's main() in ``tmp_path``, in this process: the whole way but for starting Python."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())  # main() adds the working folder

    def call(*words: object) -> Said:
        monkeypatch.setattr(sys, "argv", ["milbench", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            milbench.cli.main()
        said = capsys.readouterr()
        return Said(ended.value.code, said.out, said.err)

    return call


def shell(*words: object, cwd: Path, **env: str) -> Said:
    """Run milbench in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", "from milbench.cli import main; main()", *map(str, words)],
        cwd=cwd, env={**os.environ, **env}, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    return Said(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def in_shell() -> Callable[..., Said]:
    """Give `shell` to tests, which cannot import from here."""
    return shell
