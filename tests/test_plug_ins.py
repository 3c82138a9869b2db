"""One rule for what packages add: built-in names win, and one that is broken harms nothing but its own name."""

import textwrap
from importlib.metadata import EntryPoint

import numpy as np
import pytest
from support.refusal import refused
from typer.testing import CliRunner

from milbench import plug_ins, tasks
from milbench.cli import app
from milbench.data import datasets, importers

FORMAT = '''
"""Spools."""
NAME = "their-format"
def detect(source):
    return "spools" if source.name == "spools" else None
def open_source(source):
    raise NotImplementedError
'''
DATASET = '''
"""Bags of theirs."""
from milbench.config import Frozen
VERSION = 1
class Params(Frozen):
    pass
def build(writer, params):
    raise NotImplementedError
'''


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Return what installs one more entry of a package: group, name, source of its module."""
    points = []
    monkeypatch.setattr(plug_ins, "entry_points", lambda group: [p for p in points if p.group == group])
    monkeypatch.syspath_prepend(tmp_path)
    caches = (importers.formats, datasets.dataset_names, tasks._task_named)

    def install(group, name, source):
        module = f"their_{tmp_path.name.replace('-', '_')}_{len(points)}"  # imported by no other test
        (tmp_path / f"{module}.py").write_text(textwrap.dedent(source))
        points.append(EntryPoint(name, module, f"milbench.{group}"))
        for known in caches:
            known.cache_clear()
        return module

    yield install
    for known in caches:
        known.cache_clear()


@pytest.fixture
def npz(tmp_path):
    np.savez(tmp_path / "p.npz", features=np.ones((3, 2), np.float32), bag_offsets=[0, 1, 3], bag_label=[0, 1])
    return tmp_path / "p.npz"


def listed(what):
    result = CliRunner().invoke(app, ["list", what])
    assert result.exit_code == 0, result.output
    return dict(line.split(maxsplit=1) for line in result.stdout.splitlines())


def test_a_broken_format_is_refused_by_its_name_alone(package, npz, capsys):
    package("formats", "broken", "import nowhere_at_all")
    package("formats", "their-format", FORMAT)
    assert importers.detect_format(npz, "npz")[0].NAME == "npz"
    assert importers.detect_format(npz, "npz")[1]
    assert capsys.readouterr().err == ""
    assert importers.detect_format(npz)[0].NAME == "npz"
    warning = capsys.readouterr().err
    assert warning.startswith("warning: left out: format broken (")
    assert "nowhere_at_all" in warning
    assert warning.count("\n") == 1
    (npz.parent / "spools").mkdir()
    assert importers.detect_format(npz.parent / "spools")[0].NAME == "their-format"
    with refused("plugin-broken", "format broken", "ModuleNotFoundError"):
        importers.detect_format(npz, "broken")
    shown = listed("formats")
    assert shown["broken"].startswith("cannot be used: format broken (")
    assert shown["their-format"] == "Spools."
    assert not shown["npz"].startswith("cannot")


def test_a_format_is_imported_only_where_it_is_named(package, npz):
    package("formats", "ends", "raise SystemExit('imported')")
    assert importers.detect_format(npz, "npz")[0].NAME == "npz"
    assert importers.has_format("ends")


def test_a_detection_that_fails_leaves_out_its_format(package, npz, capsys):
    package("formats", "fails", FORMAT.replace("their-format", "fails").replace('return "spools"', "return 1 / 0 #"))
    assert importers.detect_format(npz)[0].NAME == "npz"
    warning = capsys.readouterr().err
    assert "format fails (" in warning
    assert "ZeroDivisionError" in warning
    with refused("plugin-broken", "format fails", "p.npz", "ZeroDivisionError"):
        importers.detect_format(npz, "fails")


def test_the_fault_of_a_format_of_milbench_shows_as_it_is(npz, monkeypatch):
    monkeypatch.setattr(importers.format_named("npz"), "detect", lambda source: 1 / 0)
    for name in ("npz", "auto"):
        with pytest.raises(ZeroDivisionError):
            importers.detect_format(npz, name)


@pytest.mark.parametrize("change", [('NAME = "their-format"', ""), ('"their-format"', '"another"')])
def test_the_name_of_a_format_is_that_of_its_entry(package, npz, change):
    package("formats", "their-format", FORMAT.replace(*change))
    with refused("plugin-broken", "their-format", "NAME"):
        importers.detect_format(npz, "their-format")
    assert importers.detect_format(npz)[0].NAME == "npz"


def test_names_that_are_taken(package, npz):
    """Built-in names win; two packages with one name are refused where it is used, and nowhere else."""
    package("formats", "npz", FORMAT.replace("their-format", "npz"))
    package("datasets", "digits_bags", DATASET)
    one, other = (package("formats", "their-format", FORMAT) for _ in range(2))
    own = package("datasets", "my-bags", DATASET), package("datasets", "my_bags", DATASET)
    assert importers.detect_format(npz)[0] is importers.own_formats()["npz"]
    assert datasets.load_dataset("digits-bags") is datasets.digits_bags
    with refused("plugin-broken", "two formats are named their-format", one, other):
        importers.detect_format(npz, "their-format")
    with refused("plugin-broken", "two datasets are named my-bags", *own):
        datasets.load_dataset("my-bags")
    assert "two formats" in listed("formats")["their-format"]
    assert "two datasets" in listed("datasets")["my-bags"]


def test_a_broken_dataset_is_refused_by_its_name_alone(package):
    package("datasets", "broken", "import nowhere_at_all")
    package("datasets", "half", "VERSION = 1")
    module = package("datasets", "my_bags", DATASET)
    assert datasets.load_dataset("digits-bags") is datasets.digits_bags
    for name in ("my_bags", "my-bags"):
        assert datasets.load_dataset(name).__name__ == module
    with refused("plugin-broken", "dataset broken", "nowhere_at_all"):
        datasets.load_dataset("broken")
    with refused("plugin-broken", "dataset half", "Params"):
        datasets.load_dataset("half")
    with refused("dataset-unknown", "'my-bag'", "'my-bags'"):
        datasets.load_dataset("my-bag")
    shown = listed("datasets")
    assert shown["broken"].startswith("cannot be used: dataset broken (")
    assert shown["my-bags"] == "Bags of theirs."
    assert "digits-bags" in shown


def test_a_task_of_two_packages_is_refused_by_its_name_alone(package):
    source = "from support.dose import TASK\n"
    modules = [package("tasks", "dose", source) for _ in range(2)]
    package("tasks", "classification", "import nowhere_at_all")
    package("tasks", "broken", "import nowhere_at_all")
    assert tasks.task_names() == ("classification", "broken", "dose")
    assert tasks.task_named("classification").name == "classification"
    with refused("plugin-broken", "two tasks are named dose", *modules):
        tasks.task_named("dose")
    with refused("plugin-broken", "task broken", "nowhere_at_all"):
        tasks.task_named("broken")
