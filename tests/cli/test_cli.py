"""Every verb: what it prints, that it says how it is used, and that it agrees with what lies on the disk."""

from __future__ import annotations

import io
import json
import os
import re
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from support import synthetic as made
from support.refusal import assert_refused, refused

import milbench
from milbench.cli import VERBS
from milbench.cli._terminal import portable
from milbench.evaluation.comparison import compare
from milbench.evaluation.leaderboard import Leaderboard, evaluate, leaderboard
from milbench.registry import registry, resolve
from milbench.report.comparison import comparison_lines
from milbench.report.folder import write_report
from milbench.report.renderers import render

SUITE = """\
name = "small"
methods = ["mean", "max"]
seeds = 2
cost = false
unit = "bag"

[recipe]
epochs = 1
batch_size = 16

[recipes.mean]
lr = 0.5

[[data]]
name = "digits"
dataset = "digits-bags"
params = { train = 40, val = 20, test = 40 }
"""


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    """Made-up results: two cohorts, nine methods; one run of dsmil went out of memory on the second."""
    root = tmp_path_factory.mktemp("made")
    made.fill(root, seeds=3, fail=(("hard", "dsmil", "f1", 0, "oom"),))
    return root


# --- help ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", [*VERBS, "cache build", "cache info", "cache verify"])
def test_every_verb_shows_an_example(verb, cli):
    said = cli(*verb.split(), "--help")
    assert said.code == 0
    assert said.err == ""
    assert verb == "cache" or f"Example: milbench {verb}" in " ".join(said.out.split())
    assert f"Usage: milbench {verb}" in said.out


def test_help_is_instant_and_names_every_verb(in_shell, tmp_path):
    fastest = float("inf")
    for _ in range(3):
        began = time.perf_counter()
        said = in_shell("--help", cwd=tmp_path)
        fastest = min(fastest, time.perf_counter() - began)
    assert said.code == 0
    assert all(verb in said.out for verb in VERBS)
    assert fastest < 1  # 0.1 s on an idle machine; torch alone takes more than a second


# --- list, show, cite, env -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "names"),
    [
        ("aggregators", ["abmil", "clam_mb", "clam_sb", "dsmil", "max", "max_instance", "mean", "transmil"]),
        ("datasets", ["arrangement", "digits-bags"]),
        ("suites", ["musk1", "quickstart"]),
        ("formats", ["clam", "npz", "trident"]),
    ],
)
def test_list(what, names, cli):
    said = cli("list", what)
    assert said.code == 0
    actual = dict(re.split(r"  +", line, maxsplit=1) for line in said.out.splitlines())
    assert set(names) <= set(actual)
    assert list(actual) == sorted(actual)
    assert all(len(summary) > 20 and not summary.startswith(f"{name}:") for name, summary in actual.items())


def test_list_by_pattern(cli):
    assert [line.split()[0] for line in cli("list", "aggregators", "clam*").out.splitlines()] == ["clam_mb", "clam_sb"]
    nothing = cli("list", "aggregators", "nothing*")
    assert (nothing.code, nothing.out) == (0, "")
    assert cli("list").out == cli("list", "aggregators").out


@pytest.mark.parametrize("method", registry().names())
def test_show(method, cli):
    said = cli("show", method)
    assert said.code == 0
    card, recipe = resolve(method).cls.card, resolve(method).cls.recipe
    shown = " ".join(said.out.split())
    assert shown.startswith(f"{method}: {card.title} ({card.family} pooling)")
    for text in (card.citation, card.url, card.licence, *card.deviations):
        assert " ".join(text.split()) in shown
    assert f"lr = {recipe.lr}" in shown
    assert f"optimizer = {recipe.optimizer}" in shown
    assert re.search(r"Parameters at 2 classes: [\d,]+ \(512-d features\)", shown)


def test_show_with_parameters(cli):
    shown = cli("show", "transmil[ppeg=none,layers=1]").out
    assert shown.startswith("transmil[layers=1,ppeg=none]: ")
    assert re.search(r"ppeg = none +\(none\|3\|5\|7\|pyramid\)", shown)
    assert "layers = 1" in shown


def test_cite(cli):
    said = cli("cite", "transmil", "abmil[gated=true]")
    first, second, third = said.out.splitlines()
    assert "milbench" in first
    assert milbench.__version__ in first
    assert "Shao" in second
    assert "Ilse" in third
    assert len(cli("cite").out.splitlines()) == 1


def test_env_is_json_without_names_of_machine_or_people(cli):
    said = cli("env")
    record = json.loads(said.out)
    assert {"cpu", "memory", "software", "numerics", "fingerprint"} <= set(record)
    assert record["cpu"]["cores"] >= 1
    private = [str(Path.home()), os.getcwd(), str(Path(milbench.__file__).parent)]
    private += [name for name in (socket.gethostname(), os.environ.get("USER")) if name and len(name) > 3]
    assert not [word for word in private if word in said.out]


# --- cache -----------------------------------------------------------------------------------------------------------


def test_cache_info_and_verify(cli, tmp_path):
    np.savez(tmp_path / "p.npz", features=np.ones((6, 4), np.float32) / 3, bag_offsets=np.array([0, 2, 6]),
             bag_label=np.array([0, 1]), bag_name=np.array(["007", "b"]))  # fmt: skip
    built = cli("cache", "build", "--from", "p.npz", "--out", "c", "--dtype", "bfloat16")
    assert built.code == 0
    assert re.search(r"largest rounding error 0\.00\d+", built.out)
    info = cli("cache", "info", "c")
    facts = dict(re.split(r"  +", line, maxsplit=1) for line in info.out.splitlines())
    assert (facts["dim"], facts["dtype"], facts["slides"], facts["rows"]) == ("4", "bfloat16", "2", "6")
    assert facts["rows a slide"] == "2 to 4, median 3"
    assert re.fullmatch(r"[0-9a-f]{16}", facts["fingerprint"])
    good = cli("cache", "verify", "c")
    assert (good.code, "as it was written" in good.out) == (0, True)
    shard = tmp_path / "c" / "shard-00000.safetensors"
    raw = bytearray(shard.read_bytes())
    raw[-1] ^= 1
    shard.write_bytes(raw)
    hurt = cli("cache", "verify", "c")
    assert hurt.code == 1
    assert "'b'" in hurt.out
    assert "'007'" not in hurt.out
    assert_refused(hurt.err, "cache-damaged", "c")


# --- run, status -----------------------------------------------------------------------------------------------------


def test_costs_that_are_left_are_reported_before_and_after_the_runs(cli, tmp_path):
    (tmp_path / "small.toml").write_text(SUITE.replace("cost = false", "cost = true"))
    planned = cli("run", "small.toml", "--dry-run")
    assert re.fullmatch(
        r"4 runs, 4 to do, \d+ measurements of cost to make; nothing was run\.", planned.out.splitlines()[-1]
    )
    assert re.search(r"\d+ measurements of cost not done", cli("status", "small.toml").out)


def plain_text(out: str) -> str:
    return " ".join(out.split())


def test_run_status_and_report(cli, tmp_path):
    (tmp_path / "small.toml").write_text(SUITE)
    planned = cli("run", "small.toml", "--dry-run")
    assert planned.out.splitlines()[-1] == "4 runs, 4 to do; nothing was run."
    (gain,) = re.findall(r"digits: .*half-width.*", planned.out)
    widths = [float(width) for width in re.findall(r"± (0\.\d+)", gain)]
    assert widths == sorted(widths, reverse=True)
    assert not (tmp_path / "results").exists()
    waiting = cli("status", "small.toml")
    assert "4 missing" in waiting.out
    assert not (tmp_path / "results").exists()

    ran = cli("run", "small.toml", "--jobs", "1")
    assert ran.code == 0, ran.err
    assert "4 runs, 0 done already, 4 to do" in ran.out
    assert "[4/4] digits " in ran.out
    assert "Method" in ran.out
    assert "over bags and seeds" in ran.out
    assert "patients" not in ran.out

    stamps = {p: p.stat().st_mtime_ns for p in (tmp_path / "results" / "runs").rglob("run.json")}
    again = cli("run", "small.toml")
    assert again.code == 0
    assert "4 runs, 4 done already, 0 to do" in again.out
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "results" / "runs").rglob("run.json")} == stamps
    done = cli("status", "small.toml")
    assert "4 ok" in done.out
    assert "missing" not in done.out
    assert "1 ok" in cli("status", "small.toml", "-m", "mean", "--seeds", "1").out
    assert "2 ok" in (part := cli("status", "small.toml", "-m", "mean", "--seeds", "3").out)
    assert "1 missing" in part
    assert cli("compare", "mean", "abmil", "small.toml").code == 1
    more = cli("run", "small.toml", "-m", "mean", "--seeds", "3", "--report", "none")
    assert "3 runs, 2 done already, 1 to do" in more.out
    assert "eport" not in more.out

    whole = {p: p.read_bytes() for p in (tmp_path / "results" / "small").iterdir()}
    for words in (("-m", "mean"), ("--seeds", "1")):
        part = cli("run", "small.toml", *words)
        assert part.code == 0, part.err
        assert "Method" in part.out
        last = part.out.splitlines()[-1]
        assert last.startswith("No report was written, ")
        assert last.endswith("; --report results/small writes one.")
        assert {p: p.read_bytes() for p in (tmp_path / "results" / "small").iterdir()} == whole
    assert "still to be made" not in again.out
    begun = cli("run", "small.toml", "-m", "mean", "--seeds", "1", "--results", "begun/runs")
    assert "small-v1 / digits: 3 runs of the suite are still to be made (see milbench status)" in plain_text(begun.out)
    assert not (tmp_path / "begun" / "small").exists()
    requested = cli("run", "small.toml", "-m", "mean", "--report", "elsewhere")
    assert requested.out.splitlines()[-1] == "Report: elsewhere/README.md"
    assert {p: p.read_bytes() for p in (tmp_path / "results" / "small").iterdir()} == whole

    cli("run", "small.toml", "--results", tmp_path / "results" / "runs")
    report = (tmp_path / "results" / "small" / "README.md").read_text()
    assert str(tmp_path) not in report
    plain = " ".join(report.split())
    for words in (
        "milbench run small.toml --results results/runs",
        "bootstrap resamples of test bags",
        "a rank, marked `=`",
        "no test label",
        "the model with the smallest validation loss is kept",
        "For all methods, instead of their authors' recipes: epochs = 1, batch_size = 16.",
        "For mean alone: lr = 0.5.",
        "small-v1 / digits: 100 bags (no 9: 50, some 9: 50), positive class some 9, 1 fold, 2 seeds per fold, "
        "intervals over bags",
        "1 further run, not requested last (seed 2)",
        "torch ",
        "cores",
        "threads a process: 1",
    ):
        assert words in plain, words
    assert "patients" not in plain.split("## Suite and protocol")[0]
    assert not re.search(r"(?<![\w.`/])/(home|root|tmp|work|var)/", report)


def test_a_suite_edited_since_its_runs_is_shown_as_it_was_run_with_a_warning(cli, tmp_path):
    (tmp_path / "small.toml").write_text(SUITE)
    cli("run", "small.toml", "-m", "mean", "--seeds", "1")
    verbs = (("leaderboard", "small.toml"), ("predictions", "small.toml", "--out", "all.csv"))
    assert ["recipe" in cli(*words).err for words in verbs] == [False, False]
    (tmp_path / "small.toml").write_text(SUITE.replace("epochs = 1", "epochs = 2"))
    for words in verbs:
        said = cli(*words)
        assert said.code == 0
        assert "recipe" in said.err


def test_a_class_without_a_card_is_refused_before_anything_runs(cli, tmp_path):
    (tmp_path / "small.toml").write_text(SUITE)
    (tmp_path / "nocard.py").write_text(
        "from milbench import Aggregator\nclass Bare(Aggregator):\n    def pool(self, bags, attention): ...\n"
    )
    for words in (
        ("run", "small.toml", "-m", "nocard:Bare", "-m", "mean"),
        ("show", "nocard:Bare"),
        ("cite", "nocard:Bare"),
    ):
        said = cli(*words)
        assert said.code == 1
        assert_refused(said.err, "method-malformed", "nocard:Bare", "milbench.Card(title=")
    assert not (tmp_path / "results").exists()


def test_runs_that_do_not_end_ok_are_exit_code_2(cli, tmp_path):
    (tmp_path / "small.toml").write_text(SUITE.replace("[recipe]\nepochs = 1", "[recipe]\nlr = 1e30\nepochs = 5"))
    said = cli("run", "small.toml", "--seeds", "1", "-m", "abmil")
    assert said.code == 2
    assert "diverged: digits abmil fold fold0 seed 0" in said.err
    assert "1 diverged" in said.out
    assert not (tmp_path / "results" / "small").exists()
    message = cli("status", "small.toml", "--seeds", "1", "-m", "abmil").out.splitlines()[-1]
    assert re.fullmatch(
        r"  diverged: digits abmil fold fold0 seed 0 \([0-9a-f]{16}\): .*(NaN|loss|infinite|finite).*", message
    )


def test_an_unknown_launcher_is_a_sentence(cli, tmp_path):
    (tmp_path / "small.toml").write_text(SUITE)
    assert cli("run", "small.toml", "--launcher", "local", "--dry-run").code == 0
    for verb in ("run", "tune"):
        other = cli(verb, "small.toml", "--launcher", "locale")
        assert (other.code, other.out) == (1, "")
        assert len(other.err.splitlines()) == 1
        assert_refused(other.err, "plugin-unknown", "'locale'", "'local'")
    assert not (tmp_path / "results").exists()


def test_the_readmes_own_method_by_every_verb(tmp_path):
    """From an installed entry point, whose folder, unlike that of ``python -c``, is not the working folder."""
    blocks = re.findall(r"```python\n(.*?)```", (Path(__file__).parents[2] / "README.md").read_text(), re.DOTALL)
    (tmp_path / "pool.py").write_text(next(block for block in blocks if "class MyPool" in block))
    (tmp_path / "tiny.toml").write_text(SUITE.replace("seeds = 2", "seeds = 1"))
    entry = tmp_path / "bin" / "milbench"
    entry.parent.mkdir()
    entry.write_text("from milbench.cli import main\nif __name__ == '__main__':\n    main()\n")
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    method = "pool:MyPool[temperature=0.5]"
    for words, said in (
        (("check", "pool:MyPool"), ""),
        (("cite", "pool:MyPool"), "Me. My paper. 2026."),
        (("run", "tiny.toml", "-m", method, "-m", "mean", "--results", "r/runs"), "No report was written"),
    ):
        done = subprocess.run(
            [sys.executable, entry, *words], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        assert said in done.stdout, (words, done.stdout)


def test_a_recipe_is_printed_only_of_methods_in_the_table(tmp_path):
    suite = made.suite(data=("easy",)).model_copy(update={"recipes": {"abmil": {"lr": 0.5}, "mean": {"lr": 0.25}}})
    made.fill(tmp_path / "r", suite, ("abmil[gated=true]", "max"), costs=False)
    text = write_report(evaluate(tmp_path / "r", resamples=20), tmp_path / "out", "T", "P").read_text()
    assert "For abmil alone: lr = 0.5." in text
    assert "For mean alone" not in text


# --- leaderboard -----------------------------------------------------------------------------------------------------


def test_leaderboard_formats_agree(results, cli):
    words = ("leaderboard", results, "--resamples", "50", "--data", "hard")
    csv = pd.read_csv(io.StringIO(cli(*words, "--format", "csv").out))
    message = json.loads(cli(*words, "--format", "json").out)
    assert list(csv["method"]) == [row["method"] for row in message]
    assert csv["auc"].to_numpy() == pytest.approx(np.array([row["auc"] for row in message]), abs=1e-9)
    markdown, table = cli(*words, "--format", "markdown").out, cli(*words).out
    for method, auc in zip(csv["method"], csv["auc"], strict=True):
        assert f"| {method} |" in markdown
        assert f"{auc:.3f}" in markdown
        assert method in table
        assert f"{auc:.3f}" in table
    assert "1 oom" in table
    assert cli(*words).err == ""
    few = cli("leaderboard", results, "--across")
    assert few.code == 1
    assert_refused(few.err, "results-missing", results, "--across")
    assert "note: " in cli(*words, "--format", "csv").err


def printed(board: Leaderboard, width: int) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(render(board, "console"))
    return console.export_text()


@pytest.mark.parametrize("width", [80, 100, 120, 200])
def test_a_table_of_any_width_names_methods_and_scores(results, width):
    board = evaluate(results, resamples=50, details=False)
    text = printed(board, width)
    assert max(map(len, text.splitlines())) <= width
    for row in board.table.itertuples():
        assert re.search(rf"(?m)^.*{re.escape(row.method)} .*{row.auc:.3f} \[", text), (row.method, text)
    assert "8/9: 1 oom" in text  # how runs ended is never dropped where one did not end ok
    if width in (80, 200):
        assert ("Too narrow for: " in text) == (width == 80)


def test_the_narrowest_terminal_still_shows_whole_names(results):
    board = evaluate(results, data="easy", resamples=50, details=False)
    shown = board.table[board.table["method"] != "transmil[layers=1,ppeg=none]"]
    text = printed(replace(board, table=shown), 50)
    for method in ("abmil[gated=true]", "max_instance", "transmil"):
        assert f" {method} " in text


def test_without_a_terminal_columns_says_how_wide(results, cli, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    text = cli("leaderboard", results, "--resamples", "20").out
    assert max(map(len, text.splitlines())) <= 80
    assert "Method" in text


@pytest.mark.parametrize("unit", ["patient", "bag"])
def test_words_follow_the_unit_of_the_suite(unit, tmp_path):
    made.fill(tmp_path / "r", made.suite(unit=unit, data=("easy",)), ("mean", "abmil"), costs=False)
    board = evaluate(tmp_path / "r", resamples=20)
    report = write_report(board, tmp_path / "out", "T", "P").read_text()
    for text in (report, printed(board, 120), "\n".join(comparison_lines(compare("mean", "abmil", tmp_path / "r")))):
        assert f"{unit}s and" in " ".join(text.split())
    assert ("test bags, drawn" in " ".join(report.split())) == (unit == "bag")
    assert "120 bags of 60 patients" in report


def test_a_method_that_takes_no_memory_stays_in_the_figure(tmp_path):
    """It is the best there is on that axis; a logarithm must not make it disappear, nor move the Pareto front."""
    from milbench.report.figures.leaderboard import tradeoff_figure

    made.fill(tmp_path, made.suite(data=("easy",)), ("mean", "abmil", "max"))
    df = leaderboard(tmp_path, resamples=20)
    df.loc[df["method"] == "mean", "infer_peak_memory_bytes"] = 0.0
    figure = tradeoff_figure(df, "infer_peak_memory_bytes")
    assert {t.get_text() for t in figure.axes[0].texts} == {"mean", "abmil", "max"}
    assert "less than 0.1 is drawn at 0.1" in figure.axes[0].get_xlabel()
    assert "<0.1" in printed(Leaderboard(df), 200)
    front = next(line for line in figure.axes[0].lines if line.get_zorder() == 1)
    assert 0.1 in front.get_xdata()
    assert tradeoff_figure(df[df["method"] == "mean"], "infer_peak_memory_bytes") is not None


def test_no_folder_of_this_machine_in_a_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert portable(tmp_path / "results" / "runs") == "results/runs"
    assert portable(f"--results={tmp_path}/r") == "--results=r"
    assert portable("/elsewhere/deep/runs") == "runs"
    assert portable("abmil[gated=true]") == "abmil[gated=true]"
    assert portable("results/runs") == "results/runs"


# --- compare ---------------------------------------------------------------------------------------------------------


def test_compare_separates_what_the_leaderboard_separates(results, cli):
    said = cli("compare", "transmil", "mean", "--results", results)
    assert said.code == 0
    easy, hard, how = said.out.splitlines()
    assert re.fullmatch(
        r"made-up-v1 / hard: transmil \d\.\d+, mean \d\.\d+; difference \+\d\.\d+ \[\+\d\.\d+, \+\d\.\d+\]: "
        r"separated\.",
        hard,
    )
    assert easy.startswith("made-up-v1 / easy: ")
    assert "paired difference A - B with its 95 %" in how
    near = cli("compare", "clam_sb", "abmil", "--results", results, "--data", "hard").out
    assert ": not separated." in near


def test_compare_is_the_leaderboards_own_difference(results):
    board = leaderboard(results, data="hard", resamples=300)
    best = board["method"].iloc[0]
    for row in board[board["rank"].notna()].iloc[[1, 4, -1]].itertuples():
        (one,) = compare(row.method, best, results, data="hard", resamples=300).itertuples()
        assert (one.difference, one.low, one.high) == pytest.approx((row.diff_to_best, row.diff_low, row.diff_high))
        (other,) = compare(best, row.method, results, data="hard", resamples=300).itertuples()
        assert (other.difference, other.low, other.high) == pytest.approx((-one.difference, -one.high, -one.low))
        assert one.told_apart == other.told_apart == (one.high < 0)
        assert other.p == pytest.approx(one.p)


def test_compare_does_not_compare_runs_of_different_conditions(results, cli):
    said = cli("compare", "dsmil", "mean", "--results", results, "--format", "csv")
    table = pd.read_csv(io.StringIO(said.out))
    assert list(table["data"]) == ["easy", "hard"]
    assert np.isnan(table["difference"][1])
    assert np.isnan(table["told_apart"][1])
    assert table["reason"][1] == "dsmil: 1 oom"
    text = cli("compare", "dsmil", "mean", "--results", results).out.splitlines()[1]
    assert text.endswith("not compared, because not every run ended ok (dsmil: 1 oom).")


def test_compare_knows_other_spellings(results, cli):
    said = cli(
        "compare", "transmil[ppeg=none, layers=1]", "abmil[gated=True]", "--results", results, "--format", "json"
    )
    actual = json.loads(said.out)
    assert {(row["a"], row["b"]) for row in actual} == {("transmil[layers=1,ppeg=none]", "abmil[gated=true]")}
    assert all(isinstance(row["told_apart"], bool) for row in actual)
    with refused("results-unknown-name", "'clam_mb'"):
        compare("clam_mb", "mean", results)
    with refused("results-unknown-name", "'tansmil'", "'transmil'"):
        compare("tansmil", "mean", results)
    with refused("option-bad-value", "resamples"):
        compare("mean", "max", results, resamples=0)


# --- check -----------------------------------------------------------------------------------------------------------


def test_check_of_ones_own_file(cli, tmp_path):
    kept = cli("check", "mean")
    assert kept.code == 0
    (tmp_path / "my_pool.py").write_text(
        "import milbench\n"
        "class Broken(milbench.Aggregator):\n"
        "    card = milbench.Card(title='Broken', family='iid', citation='nobody')\n"
        "    def __init__(self, in_dim, n_classes):\n"
        "        super().__init__(in_dim, n_classes)\n"
        "        import torch\n"
        "        self.head = torch.nn.Linear(in_dim, n_classes)\n"
        "    def forward_bags(self, bags, attention):\n"
        "        raise RuntimeError('not yet')\n"
    )
    said = cli("check", "my_pool:Broken")
    assert said.code == 1
    assert_refused(said.err, "method-breaks-contract")
    assert "Traceback" not in said.err


def test_version(cli):
    from milbench import __version__

    assert cli("--version").out.strip() == f"milbench {__version__}"


def test_a_report_replaces_no_readme_of_another_kind(cli, tmp_path):
    """`--results r` puts the report of suite `small` into ./small, which may be a folder of the user's own."""
    (tmp_path / "small.toml").write_text(SUITE)
    name = next(line.split('"')[1] for line in SUITE.splitlines() if line.startswith("name"))
    mine = tmp_path / name / "README.md"
    mine.parent.mkdir()
    mine.write_text("my notes\n")
    ran = cli("run", "small.toml", "--results", "r")
    assert ran.code == 1
    assert_refused(ran.err, "already-exists", "README.md")
    assert mine.read_text() == "my notes\n"
    assert not (tmp_path / "r").exists()
