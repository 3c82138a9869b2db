"""The leaderboard of a made-up store: scores, intervals, ranks, costs, and what it refuses."""

import io
import json
import re
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from sklearn.metrics import average_precision_score, roc_auc_score
from support import synthetic as made
from support.refusal import refused
from typer.testing import CliRunner

import milbench
from milbench.evaluation.comparison import compare
from milbench.evaluation.leaderboard import COLUMNS, evaluate, leaderboard, run_scores
from milbench.report.comparison import comparison_lines
from milbench.report.figures.leaderboard import auc_figure
from milbench.report.folder import write_report
from milbench.report.renderers import render
from milbench.runs.records import read_runs

SOME = ("mean", "abmil", "transmil")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Two cohorts, nine methods, three folds, two seeds; dsmil failed once and max always on the second cohort."""
    root = tmp_path_factory.mktemp("results")
    always = tuple(("hard", "max", f"f{f}", s, "timeout") for f in range(3) for s in range(3))
    made.fill(root, seeds=3, fail=(("hard", "dsmil", "f1", 0, "oom"), *always))
    return root


@pytest.fixture(scope="module")
def board(root):
    return evaluate(root, resamples=500)


def row(table, data, method):
    (actual,) = table[(table["data"] == data) & (table["method"] == method)].itertuples(index=False)
    return actual


def test_one_row_a_method_and_cohort(board):
    assert list(board.table.columns) == list(COLUMNS)
    assert len(board.table) == 18
    assert not board.table.duplicated(["suite", "version", "data", "method"]).any()
    assert set(board.table["family"]) == {"iid", "correlated"}
    assert milbench.leaderboard is leaderboard


def test_auc_is_the_mean_over_folds_and_seeds_of_the_test_bags_alone(root, board):
    labels = pd.read_csv(root / "made-up-v1/cohorts/easy-f0/labels.csv").set_index("slide_id")["label"]
    aucs = []
    for run in read_runs(root):
        if (run.spec.data, run.method) == ("easy", "abmil"):
            test = run.predictions().query("split == 'test'")
            aucs.append(roc_auc_score(labels[test["slide_id"]], test["p1"]))
    actual = row(board.table, "easy", "abmil")
    assert len(aucs) == actual.runs == actual.runs_ok == 9
    assert actual.auc == pytest.approx(np.mean(aucs))
    assert actual.auc_low < actual.auc < actual.auc_high
    assert (actual.seeds, actual.folds, actual.outcome) == (3, 3, "ok")


def test_a_leaderboard_is_a_frozen_value_and_its_table_carries_nothing_else(board, root):
    assert board.table.attrs == {}
    with pytest.raises(FrozenInstanceError):
        board.notes = ()
    assert set(board.suites) == {"made-up-v1"}
    assert [cohort["data"] for cohort in board.cohorts] == ["easy", "hard"]
    assert board.resamples == 500
    assert set(board.curves) == {"steps", "flops", "device_seconds"}
    short = evaluate(root, resamples=500, details=False)
    assert short.curves == short.known_answers == {}
    assert short.notes == board.notes


def test_ranks_ties_and_differences(board):
    for _, block in board.table.groupby("data"):
        ranked = block[block["rank"].notna()]
        assert ranked.iloc[0]["rank"] == 1
        assert ranked["auc"].iloc[0] == ranked["auc"].max()
        assert ranked["rank"].is_monotonic_increasing
        assert (ranked["diff_to_best"] <= 0).all()
        first = ranked[ranked["rank"] == 1]
        assert ((first["diff_low"] <= 0) & (first["diff_high"] >= 0)).all()
        assert ranked["auc"].is_monotonic_decreasing, "no lower score stands above a higher one"
        assert list(ranked["rank"]) == list(ranked["auc"].rank(ascending=False, method="min"))
        assert ((ranked["rank_low"] <= ranked["rank"]) & (ranked["rank"] <= ranked["rank_high"])).all()
        assert (ranked["among_best"] == (ranked["rank_low"] == 1)).all()
        shared = ranked["rank"].duplicated(keep=False)
        assert (ranked["tied"] == shared).all()
    assert row(board.table, "hard", "mean").rank > row(board.table, "hard", "transmil").rank == 1


def test_failures_appear_unranked_and_last(board):
    hard = board.table[board.table["data"] == "hard"]
    assert list(hard["method"].tail(2)) == ["dsmil", "max"]
    part, none = row(board.table, "hard", "dsmil"), row(board.table, "hard", "max")
    assert (part.outcome, part.reason, part.runs_ok, part.runs) == ("1 oom", "made up to be oom", 8, 9)
    assert np.isnan(part.rank)
    assert np.isnan(part.diff_to_best)
    assert part.auc_low < part.auc < part.auc_high
    assert (none.outcome, none.runs_ok) == ("9 timeout", 0)
    assert np.isnan([none.rank, none.auc, none.auc_low, none.accuracy, none.accuracy_sd]).all()
    assert not none.tied


def test_the_same_results_give_the_same_table(root, board):
    pd.testing.assert_frame_equal(leaderboard(root, resamples=500), board.table)


def test_intervals_over_patients_do_not_depend_on_who_else_is_there(tmp_path):
    """The variance over seeds is pooled over methods; with one seed nothing is."""
    made.fill(tmp_path / "few", methods=("abmil", "mean"), costs=False, seeds=1)
    made.fill(tmp_path / "many", methods=("abmil", "clam_sb", "mean"), costs=False, seeds=1)
    few, many = (leaderboard(tmp_path / name, resamples=200) for name in ("few", "many"))
    for method in ("abmil", "mean"):
        assert row(few, "easy", method).auc_low == row(many, "easy", method).auc_low


def test_costs_have_units_and_one_environment(root, board):
    actual = row(board.table, "easy", "abmil")
    assert actual.infer_patches_per_s == 6.3e6
    assert actual.infer_peak_memory_bytes == 260e6
    assert actual.train_peak_memory_bytes == 520e6
    assert (actual.parameters, actual.flops_per_bag_train, actual.cost_outcome) == (12345, 3e9, "ok")


def test_costs_measured_in_the_old_way_never_share_a_table_with_new_ones(tmp_path):
    store = made.fill(tmp_path, methods=SOME)
    assert leaderboard(tmp_path, resamples=200).infer_patches_per_s.notna().all()
    newer = made.cost_record(store.suite, "easy", "abmil", factor=100) | {"cost_version": 2}
    store.publish_cost("newer", newer)
    board = evaluate(tmp_path, resamples=200)
    assert row(board.table, "easy", "abmil").infer_patches_per_s == pytest.approx(630e6)
    assert board.table.infer_patches_per_s.notna().sum() == 1
    assert any("older milbench" in note for note in board.notes)


def test_costs_of_some_rounds_only_are_noted(tmp_path):
    store = made.fill(tmp_path, methods=SOME)
    assert not [note for note in evaluate(tmp_path, resamples=200).notes if "turns" in note]
    part = made.cost_record(store.suite, "easy", "abmil") | {"unfinished": True, "finished": "2030"}
    store.publish_cost("part", part)
    notes = evaluate(tmp_path, resamples=200).notes
    assert [note for note in notes if note.startswith("1 of the measurements of cost have not taken all")]


def test_a_method_of_other_options_is_offered_by_its_name(tmp_path):
    made.fill(tmp_path, methods=("abmil[gated=true]", "max"))
    with refused("results-unknown-name", "'abmil'", "'abmil[gated=true]'"):
        compare("abmil", "max", tmp_path)


def test_timings_of_two_environments_never_share_a_table(tmp_path):
    store = made.fill(tmp_path, methods=SOME)
    faster = made.cost_record(store.suite, "easy", "abmil", "other machine", factor=100)
    store.publish_cost("another", faster)
    store.publish_cost(
        "easytransmil", made.cost_record(store.suite, "easy", "transmil", "other machine"), overwrite=True
    )
    failed = made.cost_record(store.suite, "hard", "mean", "yet another") | {"outcome": "oom"}
    store.publish_cost("hardmean", failed, overwrite=True)
    board = evaluate(tmp_path, resamples=50)
    assert row(board.table, "easy", "abmil").infer_patches_per_s == 6.3e6
    assert np.isnan(row(board.table, "easy", "transmil").infer_patches_per_s)
    assert row(board.table, "easy", "transmil").parameters == 12345
    assert np.isnan(row(board.table, "hard", "mean").infer_patches_per_s)
    assert row(board.table, "hard", "mean").cost_outcome == "oom"
    assert board.cost_environment["fingerprint"] == "e0"
    (note,) = [n for n in board.notes if n.startswith("Costs")]
    assert "2 environments" in note
    assert "2 measurements" in note


def test_a_fold_never_run_counts_as_missing(tmp_path):
    made.fill(tmp_path, methods=SOME, costs=False, fail=(("easy", "mean", "f2", 1, "missing"),))
    table = leaderboard(tmp_path, resamples=50)
    actual = row(table, "easy", "mean")
    assert (actual.outcome, actual.runs_ok, actual.runs) == ("1 missing", 5, 6)
    assert np.isnan(actual.rank)
    assert np.isnan(actual.infer_patches_per_s)


def test_spread_is_over_repetitions_where_there_are_some(tmp_path):
    folds = tuple(f"r{r}-f{f}" for r in range(3) for f in range(2))
    made.fill(tmp_path, made.suite(data=("hard",)), ("mean", "abmil"), folds=folds, seeds=1, costs=False)
    table, runs = leaderboard(tmp_path, resamples=50), run_scores(tmp_path)
    for method in ("mean", "abmil"):
        own = runs[runs["method"] == method]
        means = own.groupby(own["fold"].str[:2])["accuracy"].mean()
        assert len(means) == 3
        assert row(table, "hard", method).accuracy_sd == pytest.approx(means.std())


def test_three_classes(tmp_path):
    made.fill(tmp_path, made.suite(data=("easy",)), ("mean", "abmil"), n=120, classes=3, costs=False)
    board = evaluate(tmp_path, resamples=100)
    assert board.table["auc"].between(0.6, 1).all()
    assert (board.table["auc_low"] < board.table["auc"]).all()
    assert board.cohorts[0]["classes"] == {"class 0": 40, "class 1": 40, "class 2": 40}


def test_bags_as_units(tmp_path):
    for unit in ("patient", "bag"):
        made.fill(tmp_path / unit, made.suite(unit=unit), ("mean", "abmil"), costs=False)
    patient, bag = (leaderboard(tmp_path / unit, resamples=100) for unit in ("patient", "bag"))
    assert (patient["auc"] == bag["auc"]).all()
    assert (patient["auc_low"] != bag["auc_low"]).any()


def test_filters_and_empty_results(root, tmp_path):
    assert set(leaderboard(root, suite="made-up-v1", data="easy", resamples=10)["data"]) == {"easy"}
    assert len(leaderboard(root / "made-up-v1", suite="made-up", resamples=10)) == 18
    with refused("results-unknown-name", "'mode-up'", "'made-up'"):
        leaderboard(root, suite="mode-up")
    with refused("results-unknown-name", "'eazy'", "'easy'"):
        leaderboard(root, data="eazy")
    with refused("results-missing", tmp_path, "milbench run"):
        leaderboard(tmp_path)
    with refused("option-bad-value", "resamples", 0):
        leaderboard(root, resamples=0)


def test_other_bags_are_an_error(tmp_path):
    store = made.fill(tmp_path, methods=SOME, costs=False)
    run = next(r for r in read_runs(tmp_path) if r.method == "transmil")
    fewer = run.predictions().drop(index=run.predictions().query("split == 'test'").index[0])
    store.publish_run(run.spec.run_id, run.record, fewer, overwrite=True)
    with refused("run-other-cohort", "transmil", 39, "abmil", 40, run.path):
        leaderboard(tmp_path, resamples=10)


def test_damaged_predictions_are_named(tmp_path):
    store = made.fill(tmp_path, methods=("abmil",), costs=False)
    run = read_runs(tmp_path)[0]
    frame = run.predictions()
    for bad, code in (
        (frame.assign(p0=np.nan), "scores-not-finite"),
        (frame.assign(slide_id=[f"x{i}" for i in range(len(frame))]), "store-damaged"),
        (frame.assign(split="val"), "store-damaged"),
    ):
        store.publish_run(run.spec.run_id, run.record, bad, overwrite=True)
        with refused(code, run.path / "predictions.parquet"):
            leaderboard(tmp_path, resamples=10)


def test_budgets_are_not_mixed(tmp_path):
    store = made.fill(tmp_path, made.suite(data=("easy",)), SOME, costs=False)
    run = next(r for r in read_runs(tmp_path) if r.method == "abmil")
    spec = run.spec.model_copy(update={"threads": 8})
    old = made.record(spec, "abmil") | {"finished": "2025-01-01T00:00:00"}
    store.publish_run(spec.run_id, old, run.predictions())
    board = evaluate(tmp_path, resamples=10)
    assert board.table.groupby("conditions")["method"].apply(sorted).to_dict() == {
        "1 threads": sorted(SOME),
        "8 threads": ["abmil"],
    }
    assert any("runs differ in threads; they stand in 2 tables" in note for note in board.notes)
    stale = run.spec.model_copy(update={"fingerprint": "f-1"})
    store.publish_run(
        stale.run_id, made.record(stale, "abmil") | {"finished": "2025-01-01T00:00:00"}, run.predictions()
    )
    board = evaluate(tmp_path, resamples=10)
    assert any("left out 1 run made with other features, labels or folds than" in note for note in board.notes)
    recipe = run.spec.recipe.model_copy(update={"lr": 0.5})
    spec = run.spec.model_copy(update={"recipe": recipe})
    new = made.record(spec, "abmil", "diverged") | {"finished": "2027-01-01T00:00:00"}
    store.publish_run(spec.run_id, new)
    board = evaluate(tmp_path, resamples=10)
    assert row(board.table[board.table["conditions"] == "1 threads"], "easy", "abmil").outcome == "1 diverged"
    assert any("left out 1 run of abmil on the same folds" in note for note in board.notes)


def test_runs_before_and_after_an_edit_of_a_method_are_not_mixed(tmp_path):
    """Runs of an earlier version of the code count as missing, and measurements of it are not shown."""
    store = made.fill(tmp_path, made.suite(data=("easy",)), SOME)
    before = row(leaderboard(tmp_path, resamples=10), "easy", "abmil")
    assert before.outcome == "ok"
    assert before.infer_patches_per_s > 0
    run = next(r for r in read_runs(tmp_path) if r.method == "abmil")
    edited = run.spec.model_copy(update={"code": "revision 2"})
    new = made.record(edited, "abmil") | {"finished": "2027-01-01T00:00:00"}
    store.publish_run(edited.run_id, new, run.predictions())
    board = evaluate(tmp_path, resamples=10)
    after = row(board.table, "easy", "abmil")
    assert after.outcome == "5 missing"
    assert np.isnan(after.infer_patches_per_s)
    assert any("left out 6 runs of abmil by another form of its code" in note for note in board.notes)
    assert row(board.table, "easy", "mean").outcome == "ok"


def test_markdown_and_terminal(board):
    text = render(board, "markdown")
    assert text.count("### made-up-v1") == 2
    assert "Inference (patches/s)" in text
    assert "8/9: 1 oom" in text
    (ranked,) = {int(block["rank"].notna().sum()) for _, block in board.table.groupby("data")} - {9}
    for table_text in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        assert len({line.count("|") for line in table_text.splitlines()}) == 1
        # Every method in every table; where a cohort has methods without a rank, its first table is in two parts.
        assert len(table_text.splitlines()) in (2 + 9, 2 + ranked, 2 + 9 - ranked)
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(render(board, "console"))
    shown = console.export_text()
    assert max(map(len, shown.splitlines())) <= 120
    assert "abmil[gated=true]" in shown  # brackets are no markup
    assert "9 timeout" in shown


def test_report(board, tmp_path):
    readme = write_report(board, tmp_path / "out", "A title", "Made by a test.")
    names = {p.name for p in readme.parent.iterdir()}
    assert names == {"README.md", "leaderboard.csv", "auc.png", "auc_vs_throughput.png", "auc_vs_memory.png"}
    text = readme.read_text()
    for word in ("# A title", "Made by a test.", "500 bootstrap", "logit scale", "made-up-v1", "`e0`", "1 oom"):
        assert word in re.sub(r"\s+", " ", text)
    again = pd.read_csv(readme.parent / "leaderboard.csv")
    assert list(again.columns) == list(COLUMNS)
    assert again["auc"].to_numpy() == pytest.approx(board.table["auc"].to_numpy(), nan_ok=True)
    blocked = tmp_path / "file"
    blocked.write_text("")
    with refused("not-writable", blocked, "--out"):
        write_report(board, blocked, "t", "p")


def test_command_line(root, tmp_path):
    from milbench.cli import app

    runner = CliRunner()
    args = ["leaderboard", str(root), "--data", "easy", "--resamples", "20"]
    for form, check in {
        "table": lambda out: "transmil" in out,
        "csv": lambda out: out.startswith("suite,version,data,rank"),
        "markdown": lambda out: "| Rank |" in out,
        "json": lambda out: len(json.loads(out)) == 9,
    }.items():
        result = runner.invoke(app, [*args, "--format", form])
        assert result.exit_code == 0, result.output
        assert check(result.stdout)
    result = runner.invoke(app, [*args, "--out", str(tmp_path / "report")])
    assert result.exit_code == 0
    assert (tmp_path / "report" / "README.md").exists()
    assert "Example: milbench leaderboard" in runner.invoke(app, ["leaderboard", "--help"]).stdout


def test_all_commits_that_made_a_table_are_named(tmp_path):
    """Runs of one environment may be of several commits, and costs of another."""
    store = made.fill(tmp_path / "r", made.suite(data=("easy",)), SOME)
    for number, run in enumerate(read_runs(tmp_path / "r")):
        environment = run.record["environment"] | {"software": {"commit": ("aaa", "bbb", "aaa-dirty")[number % 3]}}
        store.publish_run(run.spec.run_id, run.record | {"environment": environment}, run.predictions(), overwrite=True)
    board = evaluate(tmp_path / "r", resamples=10)
    (environment,) = board.environments
    assert sorted(environment["software"]["commit"].split(", ")) == ["aaa", "aaa-dirty", "bbb"]
    board = replace(board, cost_environment={**board.cost_environment, "software": {"commit": "ccc"}})
    text = write_report(board, tmp_path / "out", "T", "P").read_text()
    assert re.search(r"- Runs and costs: .*commit (aaa|bbb)[^;]*\. Costs by commit ccc\.\n", text)
    board = replace(board, cost_environment={**board.cost_environment, "software": {"commit": "bbb"}})
    assert "Costs by commit" not in write_report(board, tmp_path / "out", "T", "P").read_text()


def _labelled(root, change):
    """Let a stored cohort have other labels: what `change` makes of the table of slides and labels."""
    file = next(root.rglob("labels.csv"))
    table = pd.read_csv(file)
    table["label"] = change(table)
    table.to_csv(file, index=False)
    made.seal(file.parent, "easy")


def test_what_no_order_gives_is_of_the_bags_an_average_precision_is_over(tmp_path):
    """Of three folds one tests a positive, half of its bags: the others have no average precision."""
    store = made.fill(tmp_path, made.suite(data=("easy",)), ("mean", "max"), seeds=1, costs=False)
    first = next(r for r in store.records() if r.spec.fold == "f0").predictions()
    tested = set(first.loc[first["split"] == "test", "slide_id"])
    _labelled(tmp_path, lambda t: [y if s in tested else 0 for s, y in zip(t["slide_id"], t["label"], strict=True)])
    board = evaluate(tmp_path, resamples=20)
    runs = run_scores(tmp_path)
    assert runs["average_precision"].notna().sum() == 2
    (note,) = [n for n in board.notes if "average precision of" in n]
    rng, labels = np.random.default_rng(0), np.repeat([0, 1], len(tested) // 2)  # of all bags a sixth is positive
    drawn = [average_precision_score(rng.permutation(labels), np.arange(len(labels))) for _ in range(2000)]
    assert float(re.search(r"average precision of (\d\.\d+)", note)[1]) == pytest.approx(np.mean(drawn), abs=0.01)
    (note,) = [n for n in board.notes if "test no bag" in n]
    assert "left out" in note  # with two classes there are no other classes for an AUC to be over
    assert "other classes" not in note


def test_one_class_is_no_failed_run(tmp_path):
    made.fill(tmp_path, made.suite(data=("easy",)), ("mean", "max"), seeds=1, costs=False)
    _labelled(tmp_path, lambda t: 0)
    actual = compare("mean", "max", tmp_path, resamples=20)
    assert actual["told_apart"].tolist() == [None]
    (line, _) = comparison_lines(actual)
    assert actual["reason"][0] in line
    assert "ended" not in line


@pytest.mark.parametrize("seeds", [1, 2])
def test_intervals_are_over_seeds_where_there_are_several(tmp_path, seeds):
    made.fill(tmp_path, made.suite(data=("easy",)), ("mean", "max"), folds=("f0",), seeds=seeds, costs=False)
    console = Console(width=120, file=io.StringIO())
    console.print(render(evaluate(tmp_path, resamples=20), "console"))
    foot = " ".join(console.file.getvalue().split())
    *_, last = comparison_lines(compare("mean", "max", tmp_path, resamples=20))
    for text in (foot, last):
        assert ("patients and seeds" in text) == (seeds > 1)


def test_a_higher_score_over_fewer_runs_stands_apart(tmp_path):
    """In Markdown in a table of its own, on the terminal and in the figure below a line."""
    fail = (("easy", "transmil", "f1", 0, "oom"),)
    made.fill(tmp_path, made.suite(data=("easy",)), ("mean", "transmil", "max"), seeds=1, costs=False, fail=fail)
    board = evaluate(tmp_path, resamples=50)
    assert board.table.set_index("method")["auc"]["transmil"] > board.table["auc"].drop(board.table.index[-1]).max()
    verdicts = [part for part in re.findall(r"(?:^\|.*\n)+", render(board, "markdown"), re.MULTILINE) if "AUC" in part]
    first = [part for part in verdicts if part.startswith("| Rank")]
    assert [part.count("\n") - 2 for part in first] == [2, 1]
    console = Console(width=120, file=io.StringIO())
    console.print(render(board, "console"))
    lines = console.file.getvalue().splitlines()
    at = {name: next(i for i, line in enumerate(lines) if f" {name} " in line) for name in ("mean", "transmil")}
    assert any("──" in line for line in lines[at["mean"] + 1 : at["transmil"]])
    lines = auc_figure(board.table).axes[0].lines
    assert [line.get_ydata()[0] for line in lines if line.get_gid() == "unranked"] == [1.5]
