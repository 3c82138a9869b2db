"""Launchers by name, and a launcher of another package: one file and an entry point."""

from importlib.metadata import EntryPoint

import pytest
from support.refusal import refused
from support.small import suite, write_cohort
from typer.testing import CliRunner

import milbench
from milbench import plug_ins
from milbench.cli import app
from milbench.errors import MilbenchError
from milbench.runs.launchers import base
from milbench.runs.launchers.local import LocalLauncher

#: The whole of a package's launcher: a program for every task, one at a time, in the order of submission.
SERIAL = '''
import pickle, subprocess, sys
from collections import deque
from concurrent.futures import Future
from milbench.runs.launchers.base import REPEATS, Launcher

PROGRAM = "import pickle, sys; work, task = pickle.load(sys.stdin.buffer); out = sys.stdout.buffer; " \\
          "pickle.dump(work(task), out)"
executed = []


class SerialLauncher(Launcher):
    """Executes each task with a program of its own, when it is waited for."""

    def __init__(self, work, jobs, timeout_s=None):
        super().__init__(work, jobs, timeout_s)
        self.waiting = deque()

    @property
    def under_way(self):
        return len(self.waiting)

    def submit(self, task, repeats=REPEATS):
        self.waiting.append((Future(), task))
        return self.waiting[-1][0]

    def wait(self, timeout_s=None):
        if not self.waiting:
            return None
        future, task = self.waiting.popleft()
        given = pickle.dumps((self.work, task))
        done = subprocess.run([sys.executable, "-c", PROGRAM], input=given, stdout=subprocess.PIPE, check=True)
        executed.append(type(task).__name__)
        future.set_result(pickle.loads(done.stdout))
        return future

    def close(self):
        self.waiting.clear()


class NoLauncher:
    pass


class Half(SerialLauncher):
    wait = Launcher.wait


class Cold(SerialLauncher):
    @classmethod
    def warm_up(cls):
        raise OSError("no cluster")


class Deaf(SerialLauncher):
    def __init__(self, work):
        super().__init__(work, 1)
'''


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """Return a list to which entry points of packages can be added; their module is ``their_launcher``."""
    (tmp_path / "their_launcher.py").write_text(SERIAL)
    monkeypatch.syspath_prepend(tmp_path)
    points = []
    monkeypatch.setattr(plug_ins, "entry_points", lambda group: [p for p in points if p.group == group])
    return points


def point(name, attribute, module="their_launcher"):
    return EntryPoint(name, f"{module}:{attribute}", base.GROUP)


def test_a_package_adds_a_launcher_with_one_file(tmp_path, packages):
    """The same suite gives the same runs and predictions, to the bit, as in processes of this machine."""
    packages.append(point("serial", "SerialLauncher"))
    write_cohort(tmp_path)
    small = suite(tmp_path, ("mean", "abmil"), recipe={"epochs": 2})
    due = {r.path.name: r for r in milbench.run(small, tmp_path / "local")}
    made = milbench.run(small, tmp_path / "serial", launcher="serial")
    assert __import__("their_launcher").executed == ["RunTask"] * 2
    assert {r.path.name for r in made} == set(due)
    for record in made:
        assert record.outcome == "ok"
        assert record.predictions().equals(due[record.path.name].predictions())


def test_names_of_launchers(packages):
    assert base.find_launcher("local") is LocalLauncher
    packages += [point("serial", "SerialLauncher"), point("twice", "SerialLauncher"), point("twice", "NoLauncher"),
                 point("none", "NoLauncher"), point("gone", "Gone"), point("half", "Half"),
                 point("lost", "Lost", "no_such_module")]  # fmt: skip
    assert base.launcher_names() == ["gone", "half", "local", "lost", "none", "serial", "twice"]
    assert base.find_launcher("serial").__name__ == "SerialLauncher"
    for name, refusal in {
        "serail": ("plugin-unknown", "'serail'", "'serial'"),
        "twice": ("plugin-broken", "twice", "NoLauncher", "SerialLauncher"),
        "none": ("plugin-broken", "none", "milbench.runs.launchers.base.Launcher"),
        "gone": ("plugin-broken", "gone", "AttributeError"),
        "half": ("plugin-broken", "their_launcher:Half", "does not define wait"),
        "lost": ("plugin-broken", "lost", "ModuleNotFoundError"),
    }.items():
        with refused(*refusal):
            base.find_launcher(name)


def test_a_package_does_not_take_the_place_of_the_local_launcher(packages):
    packages.append(point("local", "SerialLauncher"))
    assert base.find_launcher("local") is LocalLauncher
    assert base.launcher_names() == ["local"]


@pytest.mark.parametrize("verb", ["run", "tune"])
def test_a_launcher_that_cannot_warm_up_is_named_before_anything_is_written(tmp_path, packages, verb):
    packages.append(point("cold", "Cold"))
    command = [verb, "quickstart", "--results", str(tmp_path / "results"), "--launcher", "cold"]
    result = CliRunner().invoke(app, command)
    assert isinstance(result.exception, MilbenchError), result.exception
    assert result.exception.code == "plugin-broken"
    assert "their_launcher:Cold cannot be started (OSError: no cluster)" in str(result.exception)
    assert not (tmp_path / "results").exists()


def test_a_launcher_that_cannot_be_made_is_named(tmp_path, packages):
    packages.append(point("deaf", "Deaf"))
    write_cohort(tmp_path)
    with refused("plugin-broken", "their_launcher:Deaf", "TypeError"):
        milbench.run(suite(tmp_path, ("mean",)), tmp_path / "results", launcher="deaf")


def test_the_fault_of_a_launcher_of_milbench_shows_as_it_is(monkeypatch):
    monkeypatch.setattr(LocalLauncher, "__init__", lambda self, *given: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        base.start(LocalLauncher, print, 1, None)
