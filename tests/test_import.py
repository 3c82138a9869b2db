"""Starting is cheap: a command or module imports only the libraries that it uses."""

import json
import os
import subprocess
import sys

import pytest

import milbench

HEAVY = {
    "torch", "pandas", "numpy", "scipy", "sklearn", "pydantic", "optuna", "matplotlib", "seaborn", "pyarrow",
    "platformdirs",
}  # fmt: skip


def loaded_by(code):
    """Heavy modules that a fresh interpreter holds after running some code, and what it printed before."""
    tail = f"\nimport sys, json\nprint(json.dumps(sorted({HEAVY!r} & set(sys.modules))))"
    run = subprocess.run([sys.executable, "-c", code + tail], capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stderr
    *printed, last = run.stdout.splitlines()
    return set(json.loads(last)), "\n".join(printed)


HELP = "import sys\nfrom milbench.cli import app\nsys.argv = ['milbench', {args}]\napp(standalone_mode=False)"


def test_importing_milbench_imports_nothing_heavy():
    assert loaded_by("import milbench; milbench.__version__; dir(milbench)")[0] == set()


def test_a_name_is_loaded_on_first_use():
    assert "torch" in loaded_by("import milbench; milbench.Bags")[0]
    assert "torch" not in loaded_by("import milbench; milbench.Recipe; milbench.MilbenchError")[0]


@pytest.mark.parametrize(
    "name",
    [
        "stats", "metrics", "runs.records", "runs.store", "runs.status", "runs.current_runs", "evaluation.leaderboard",
        "evaluation.forget",
        "report.markdown", "report.console", "report.scaling", "report.tuning", "report.figures.leaderboard",
        "report.figures.scaling", "runs.scaling.table", "measure.perf_regression", "spec", "ranking", "regression",
    ],
)  # fmt: skip
def test_tables_and_statistics_import_no_torch(name):
    assert "torch" not in loaded_by(f"import milbench.{name}")[0]


def test_a_cache_is_imported_by_its_face():
    code = "from milbench.data.cache import CacheWriter, FeatureCache, build_cache; import milbench"
    assert "torch" in loaded_by(f"{code}; assert FeatureCache is milbench.FeatureCache")[0]
    assert loaded_by("import milbench.data.cache")[0] == set()


def test_help_names_every_verb_and_imports_nothing_heavy():
    from milbench.cli import VERBS

    heavy, text = loaded_by(HELP.format(args="'--help'"))
    assert heavy == set()
    listed = {line.split()[0] for line in text.splitlines() if line.startswith("  ") and line.split()}
    assert set(VERBS) <= listed
    assert {"list", "show", "cache", "run", "status", "leaderboard", "check", "cite", "env"} <= set(VERBS)


@pytest.mark.parametrize(
    "verb",
    [
        "list",
        "show",
        "init",
        "audit",
        "run",
        "tune",
        "status",
        "leaderboard",
        "measure",
        "check",
        "cite",
        "env",
        "cache",
    ],
)
def test_help_of_a_verb_imports_nothing_heavy(verb):
    heavy, text = loaded_by(HELP.format(args=f"'{verb}', '--help'"))
    assert heavy <= {"pydantic"}, "typer itself reads arguments with pydantic; nothing else may come along"
    assert "Usage" in text


def test_every_public_name_is_listed_and_unknown_ones_are_refused():
    assert set(milbench.__all__) <= set(dir(milbench))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = milbench.nothing


def test_starting_costs_little_more_than_typer_alone():
    """A ratio of seconds of CPU, measured in turns and taken at its best, since the machine may be busy."""

    def seconds(code):
        before = os.times()
        subprocess.run([sys.executable, "-c", code], check=True)
        after = os.times()
        return after.children_user + after.children_system - before.children_user - before.children_system

    ours, bare = [], []
    for _ in range(5):
        bare.append(seconds("import typer"))
        ours.append(seconds("import milbench.cli"))
    assert min(ours) < 2 * min(bare)
