"""Where milbench keeps what it builds for itself."""

import sys
from pathlib import Path

import pytest

from milbench.data.home import cache_home


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("MILBENCH_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    return tmp_path


@pytest.mark.skipif(sys.platform != "linux", reason="the places of Linux")
def test_the_systems_place_for_caches(home, monkeypatch):
    assert cache_home() == home / ".cache" / "milbench"
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "scratch"))
    assert cache_home() == home / "scratch" / "milbench"
    monkeypatch.setenv("MILBENCH_CACHE", "")  # as if it were not set
    assert cache_home() == home / "scratch" / "milbench"


@pytest.mark.skipif(sys.platform == "win32", reason="the home of POSIX systems")
def test_milbench_cache_wins(home, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "scratch"))
    monkeypatch.setenv("MILBENCH_CACHE", "~/mine")
    assert cache_home() == home / "mine"
    monkeypatch.chdir(home)
    monkeypatch.setenv("MILBENCH_CACHE", "here")
    assert cache_home() == Path.cwd() / "here"
