"""Building a cache: the same bytes however many read, and after whatever has interrupted it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from support.features import Slide, digit_slides, write_clam
from support.refusal import refused

from milbench.atomic_io import folders as files
from milbench.data.cache import build
from milbench.data.cache.build import build_cache
from milbench.data.cache.journal import Journal
from milbench.data.cache.reader import FeatureCache, verify


@pytest.fixture
def slides() -> list[Slide]:
    return digit_slides(patients=8)


@pytest.fixture
def clam(tmp_path, slides) -> Path:
    return write_clam(tmp_path / "clam" / "features", slides)


def contents(cache: Path) -> dict[str, bytes]:
    """Every file of a cache but the one that names its source's place, which tells its seal apart."""
    return {path.name: path.read_bytes() for path in sorted(cache.iterdir())}


def partials(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.name.endswith(".partial")]


@pytest.mark.forks
@pytest.mark.parametrize("order", ["source", "raster"])
def test_processes_build_what_one_thread_builds(clam, tmp_path, order):
    seen = []
    one = build_cache(clam, tmp_path / "one", order=order, workers=1, progress=lambda *step: seen.append(step))
    three = build_cache(clam, tmp_path / "three", order=order, workers=3)
    assert contents(tmp_path / "one") == contents(tmp_path / "three")
    assert (one.slides, one.rows, one.max_abs) == (three.slides, three.rows, three.max_abs)
    assert [step[:2] for step in seen] == [(i + 1, 16) for i in range(16)]


@pytest.mark.forks
def test_a_process_tells_what_is_wrong_with_its_slide(clam, tmp_path):
    broken = sorted((clam / "h5_files").glob("*.h5"))[5]
    broken.write_bytes(broken.read_bytes()[:700])
    with refused("file-damaged", broken.name):
        build_cache(clam, tmp_path / "out", workers=2)


def test_after_an_error_the_same_call_goes_on_behind_the_last_good_slide(clam, tmp_path, monkeypatch):
    whole = contents(build_cache(clam, tmp_path / "whole").out)
    broken = sorted((clam / "h5_files").glob("*.h5"))[9]
    good = broken.read_bytes()
    broken.write_bytes(good[:700])
    for _ in range(2):
        with refused("file-damaged"):
            build_cache(clam, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert len(partials(tmp_path)) == 1
    broken.write_bytes(good)
    report = build_cache(clam, tmp_path / "out")
    assert report.resumed == 9
    assert any("went on after 9 slides" in line for line in report.lines())
    assert contents(report.out) == whole
    assert partials(tmp_path) == []
    assert verify(report.out) == []


def test_a_file_that_changed_since_is_read_again(clam, tmp_path):
    files = sorted((clam / "h5_files").glob("*.h5"))
    good = files[9].read_bytes()
    files[9].write_bytes(b"no HDF5")
    with refused("file-damaged"):
        build_cache(clam, tmp_path / "out", dtype="float32")
    files[9].write_bytes(good)
    files[3].write_bytes(files[4].read_bytes())  # another slide's content under an old name
    (clam / "pt_files" / f"{files[3].stem}.pt").unlink()  # which holds the old content, and would differ from it
    report = build_cache(clam, tmp_path / "out", dtype="float32")
    assert report.resumed == 3
    cache = FeatureCache.open(report.out)
    assert torch.equal(cache[files[3].stem], cache[files[4].stem])


def test_other_options_do_not_go_on_with_what_is_there(clam, tmp_path):
    files = sorted((clam / "h5_files").glob("*.h5"))
    good = files[9].read_bytes()
    files[9].write_bytes(b"no HDF5")
    with refused("file-damaged"):
        build_cache(clam, tmp_path / "out")
    files[9].write_bytes(good)
    report = build_cache(clam, tmp_path / "out", dtype="float32")
    assert report.resumed == 0
    assert partials(tmp_path) == []  # what the other one had left is thrown away


@pytest.mark.parametrize("lost", ["shard", "coordinates"])
def test_bytes_that_a_power_failure_lost_are_read_again(clam, tmp_path, lost):
    whole = contents(build_cache(clam, tmp_path / "whole").out)
    broken = sorted((clam / "h5_files").glob("*.h5"))[9]
    good = broken.read_bytes()
    broken.write_bytes(b"no HDF5")
    with refused("file-damaged"):
        build_cache(clam, tmp_path / "out")
    broken.write_bytes(good)
    [folder] = partials(tmp_path)
    file = next(folder.glob("shard-*" if lost == "shard" else "coords-*"))
    file.write_bytes(file.read_bytes()[:-40] + bytes(40))
    report = build_cache(clam, tmp_path / "out")
    assert report.resumed == 0
    assert contents(report.out) == whole


HALTING = """
import sys
from pathlib import Path
from milbench.data.cache import build
def halt(done, total, slide):
    print(done, flush=True)
    if done == 7:
        sys.stdin.readline()  # until there is no more to read, or a signal
build.build_cache(sys.argv[1], sys.argv[2], progress=halt, workers=int(sys.argv[3]))
"""


@pytest.mark.forks
@pytest.mark.parametrize("workers", [1, 2])
def test_kill_9_costs_the_slide_in_flight_at_most(clam, tmp_path, workers):
    whole = contents(build_cache(clam, tmp_path / "whole").out)
    command = [sys.executable, "-c", HALTING, str(clam), str(tmp_path / "out"), str(workers)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes, start_new_session=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip() == "7":
                break
        os.killpg(process.pid, signal.SIGKILL)
    assert not (tmp_path / "out").exists()
    report = build_cache(clam, tmp_path / "out")
    assert report.resumed >= 7
    assert contents(report.out) == whole


def test_a_second_builder_says_that_another_one_is_at_it(clam, tmp_path):
    command = [sys.executable, "-c", HALTING, str(clam), str(tmp_path / "out"), "1"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with refused("place-busy"):
            build_cache(clam, tmp_path / "out")
        process.communicate()
    assert process.returncode == 0
    assert verify(tmp_path / "out") == []
    with refused("already-exists"):
        build_cache(clam, tmp_path / "out")


def test_an_incomplete_line_of_the_journal_ends_it(tmp_path, clam):
    broken = sorted((clam / "h5_files").glob("*.h5"))[9]
    good = broken.read_bytes()
    broken.write_bytes(b"no HDF5")
    with refused("file-damaged"):
        build_cache(clam, tmp_path / "out")
    broken.write_bytes(good)
    [folder] = partials(tmp_path)
    journal = folder / "journal.jsonl"
    text = journal.read_text()
    journal.write_text(text[:-30])
    assert len(Journal(folder).entries()) == 8
    assert build_cache(clam, tmp_path / "out").resumed == 8


def test_many_shards_go_on_where_they_were(tmp_path, slides, monkeypatch):
    """Shards of a few slides each: a build stopped within any of them ends with the same bytes."""
    clam = write_clam(tmp_path / "clam" / "features", slides, kinds=("h5_files",))

    def small(*args, **options):
        return files_writer(*args, **options, shard_bytes=3000)

    files_writer = build.CacheWriter
    monkeypatch.setattr(build, "CacheWriter", small)
    whole = contents(build_cache(clam, tmp_path / "whole").out)
    assert len([name for name in whole if name.startswith("shard")]) > 3
    for stop in range(1, len(slides)):
        path = sorted((clam / "h5_files").glob("*.h5"))[stop]
        good = path.read_bytes()
        path.write_bytes(b"no HDF5")
        with refused("file-damaged"):
            build_cache(clam, tmp_path / f"out{stop}")
        path.write_bytes(good)
        report = build_cache(clam, tmp_path / f"out{stop}")
        assert report.resumed == stop
        assert contents(report.out) == whole


@pytest.mark.forks
def test_a_full_disk_leaves_what_was_read_for_the_next_time(clam, tmp_path, monkeypatch):
    calls = []

    def full(done: int, total: int, slide: str) -> None:
        calls.append(slide)
        if done == 6:
            raise OSError(28, "No space left on device")

    with refused("disk-full"):
        build_cache(clam, tmp_path / "out", progress=full)
    with refused("cache-missing"):
        FeatureCache.open(tmp_path / "out")
    assert build_cache(clam, tmp_path / "out").resumed == 6


def test_readers_go_on_while_another_cache_is_built(clam, tmp_path):
    cache = FeatureCache.open(build_cache(clam, tmp_path / "first").out)
    before = {slide: cache[slide].clone() for slide in cache.ids}
    with files.resumable(tmp_path / "second", "k") as folder:
        (folder / "x").write_text("y")
        assert all(torch.equal(cache[slide], kept) for slide, kept in before.items())
        assert not (tmp_path / "second").exists()
    assert (tmp_path / "second").is_dir()


def test_workers_must_be_some(clam, tmp_path):
    with refused("cache-bad-request", "0"):
        build_cache(clam, tmp_path / "out", workers=0)


def test_the_source_is_never_touched(clam, tmp_path):
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in clam.rglob("*") if path.is_file()}
    for path in [*clam.rglob("*"), clam]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        build_cache(clam, tmp_path / "out")
    finally:
        for path in [clam, *clam.rglob("*")]:
            path.chmod(0o755 if path.is_dir() else 0o644)
    after = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in clam.rglob("*") if path.is_file()}
    assert after == before


def test_a_slow_source_and_a_fast_writer_keep_the_order(tmp_path):
    """Slides of very different size, read by two processes, stand in the order of their names."""
    rng = np.random.default_rng(0)
    made = [
        Slide(f"s{i:02d}", f"p{i}", "a", rng.normal(size=(2000 if i % 3 == 0 else 3, 8)).astype(np.float32),
              np.zeros((2000 if i % 3 == 0 else 3, 2)))
        for i in range(12)
    ]  # fmt: skip
    clam = write_clam(tmp_path / "clam" / "features", made, kinds=("pt_files",))
    cache = FeatureCache.open(build_cache(clam, tmp_path / "out", dtype="float32", workers=2).out)
    assert list(cache.ids) == [slide.name for slide in made]
    assert all(np.array_equal(cache[slide.name].numpy(), slide.x) for slide in made)
