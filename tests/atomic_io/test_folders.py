"""Small files written whole: the next write removes the files of a killed writer and keeps those of a running one."""

import fcntl
import os
import signal
import subprocess
import sys
import threading

import pytest

from milbench.atomic_io.folders import write_atomic

KILLED = """
import os, signal, sys
from milbench.atomic_io import folders as files
files.os.replace = lambda *a: os.kill(os.getpid(), signal.SIGKILL)
files.write_atomic(files.Path(sys.argv[1]), "new")
"""


def test_a_killed_writer_leaves_the_old_text_and_the_next_sweeps(tmp_path):
    file = tmp_path / "split.json"
    write_atomic(file, "old")
    killed = subprocess.run([sys.executable, "-c", KILLED, str(file)])
    assert killed.returncode == -signal.SIGKILL
    assert file.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 2
    write_atomic(tmp_path / "other.json", "x")  # sweeps its own only
    assert len(list(tmp_path.iterdir())) == 3
    write_atomic(file, "new")
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"split.json": "new", "other.json": "x"}


def test_a_living_writer_and_a_pipe_are_let_be(tmp_path):
    file = tmp_path / "a.csv"
    living = tmp_path / ".a.csv.0123.partial"
    os.mkfifo(tmp_path / ".a.csv.4567.partial")
    with open(living, "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        write_atomic(file, "text")
        assert living.exists()
    write_atomic(file, "text")
    assert not living.exists()


@pytest.mark.parametrize("rounds", [40])
def test_many_writers_of_one_file(tmp_path, rounds):
    """Sweepers and writers at once: nobody loses the file under his hands, and readers see whole texts."""
    file, texts, failed = tmp_path / "t.csv", [c * 5000 for c in "abcdef"], []

    def work(text):
        try:
            for _ in range(rounds):
                write_atomic(file, text)
                assert file.read_text() in texts
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(text,)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert [p.name for p in tmp_path.iterdir()] == ["t.csv"]
