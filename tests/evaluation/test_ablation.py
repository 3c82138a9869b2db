"""Effects of an ablation: paired with the reference, corrected together, drawn and written as the table says."""

import re

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score
from support import synthetic as made
from support.refusal import refused

from milbench.config.suites import list_suites, load_suite
from milbench.evaluation.ablation import changed, table_of, with_costs
from milbench.evaluation.comparison import compare
from milbench.evaluation.leaderboard import evaluate
from milbench.report.figures.ablation import effect_cost_figure, effect_figure
from milbench.report.folder import write_report
from milbench.runs.plan import make_plan
from milbench.runs.records import read_runs

REFERENCE = "transmil"
METHODS = ("transmil", "transmil[layers=1,ppeg=none]", "abmil", "mean")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("results")
    made.fill(root, made.suite(reference=REFERENCE), METHODS, fail=(("hard", "abmil", "f1", 0, "oom"),))
    return root


@pytest.fixture(scope="module")
def board(root):
    return evaluate(root, resamples=500)


@pytest.fixture(scope="module")
def table(board):
    return with_costs(board.effects, board.table).set_index(["data", "method"])


def test_an_effect_is_the_paired_difference_of_compare(root, table):
    for method in ("transmil[layers=1,ppeg=none]", "mean"):
        compared = compare(method, REFERENCE, root, resamples=500).set_index("data")
        for data in ("easy", "hard"):
            own, other = table.loc[data, method], compared.loc[data]
            assert [own.effect, own.low, own.high] == pytest.approx([other.difference, other.low, other.high])


def test_an_effect_is_the_difference_of_the_mean_aucs(root, table):
    labels = pd.read_csv(root / "made-up-v1/cohorts/easy-f0/labels.csv").set_index("slide_id")["label"]
    aucs: dict[str, list[float]] = {}
    for run in read_runs(root):
        if run.spec.data == "easy":
            test = run.predictions().query("split == 'test'")
            aucs.setdefault(run.method, []).append(roc_auc_score(labels[test["slide_id"]], test["p1"]))
    assert table.loc["easy", "mean"].effect == pytest.approx(np.mean(aucs["mean"]) - np.mean(aucs[REFERENCE]))


def test_p_values_are_corrected_for_all_of_a_cohort(root, table):
    raw = [compare(m, REFERENCE, root, resamples=500).set_index("data").loc["easy", "p"] for m in METHODS[1:]]
    # Holm by hand: the smallest times 3, the next times 2, the largest as it is, never falling.
    by_hand = np.minimum(1, np.maximum.accumulate(np.sort(raw) * [3, 2, 1]))
    assert np.sort(table.loc["easy"]["p"]) == pytest.approx(by_hand)


def test_what_did_not_end_has_no_effect_and_the_reference_none_of_its_own(table):
    assert np.isnan(table.loc["hard", "abmil"][["effect", "low", "high", "p", "detectable"]].astype(float)).all()
    assert REFERENCE not in table.index.get_level_values("method")
    assert (table["detectable"].dropna() > 0).all()


def test_costs_are_ratios_to_the_reference(table):
    speed = {method: made.METHODS[method][3] for method in METHODS}
    for method in METHODS[1:]:
        assert table.loc["easy", method].infer_patches_per_s_ratio == pytest.approx(speed[method] / speed[REFERENCE])
        # of the cost pass: seconds of the accuracy runs tell how busy the machine was
        assert table.loc["easy", method].train_time_ratio == pytest.approx(speed[REFERENCE] / speed[method])


def test_rows_go_by_auc_and_end_with_what_has_no_effect(board):
    for data in ("easy", "hard"):
        rows = [row for row in board.effects if row["data"] == data]
        known = [row["auc"] for row in rows if row["effect"] == row["effect"]]
        assert known == sorted(known, reverse=True)
        assert [row["effect"] == row["effect"] for row in rows] == [True] * len(known) + [False] * (3 - len(known))
    assert rows[-1]["method"] == "abmil"  # one of its runs failed; by name it would come first


def test_no_effects_without_a_reference_or_without_its_runs(tmp_path):
    made.fill(tmp_path / "a", made.suite(), METHODS)
    assert evaluate(tmp_path / "a", resamples=50).effects == ()
    of = made.suite(data=("easy",), reference=REFERENCE)
    made.fill(tmp_path / "b", of, METHODS, fail=(("easy", REFERENCE, "f0", 0, "oom"),))
    assert evaluate(tmp_path / "b", resamples=50).effects == ()


@pytest.mark.parametrize(
    ("method", "reference", "words"),
    [
        ("transmil[dim=64,ppeg=none]", "transmil[dim=64]", "ppeg=none"),
        ("transmil[dim=64,layers=1,ppeg=none]", "transmil[dim=64]", "layers=1, ppeg=none"),
        ("transmil", "transmil[ppeg=none]", "ppeg as usual"),
        ("transmil[ppeg=3]", "transmil[ppeg=none]", "ppeg=3"),
        ("abmil", "transmil[dim=64]", "abmil"),
    ],
)
def test_words_for_a_change(method, reference, words):
    assert changed(method, reference) == words


def test_a_default_that_the_reference_has_not_is_named():
    assert changed("transmil[dim=64]", "transmil[dim=64,heads=4]", {"dim": 64, "heads": 8}) == "heads=8"


def test_figures_draw_what_the_table_says(table):
    flat = table.reset_index()
    figure = effect_figure(flat)
    assert [ax.get_title(loc="left").split()[0] for ax in figure.axes] == ["easy", "hard"]
    drawn = sorted(line.get_xdata()[0] for line in figure.axes[0].lines if line.get_marker() == "D")
    assert drawn == pytest.approx(sorted(flat[flat["data"] == "easy"]["effect"]))
    filled = [line.get_markerfacecolor() != "white" for line in figure.axes[0].lines if line.get_marker() == "D"]
    significant = [low > 0 or high < 0 for low, high in flat[flat["data"] == "easy"][["low", "high"]].to_numpy()]
    assert filled == significant
    assert effect_cost_figure(flat.assign(train_time_ratio=np.nan)) is None
    names = {text.get_text() for ax in effect_cost_figure(flat).axes for text in ax.texts}
    assert names == {"reference", "mean", "layers=1, ppeg=none", "abmil"}


def test_a_report_tells_effects_and_says_what_it_compares_with(board, tmp_path):
    text = write_report(board, tmp_path, "A title", "Made by a test.").read_text()
    assert "## Effects" in text
    assert re.search(r"made-up-v1 / easy, reference transmil, [01]\.\d{3}:", text)
    assert "| layers=1, ppeg=none |" in text
    written = pd.read_csv(tmp_path / "effects.csv")
    assert len(written) == 6
    assert (tmp_path / "effects.png").stat().st_size > 10_000
    assert (tmp_path / "effects_vs_time.png").stat().st_size > 10_000
    assert list(table_of(with_costs(board.effects, board.table).query("data == 'easy'")).columns)[:3] == [
        "Changed", "AUC", "Effect [95 %]",
    ]  # fmt: skip


def test_a_reference_that_is_no_method_of_the_suite_is_refused(tmp_path):
    suite = load_suite("quickstart").model_copy(update={"reference": "transmill"})
    with refused("method-unknown", "'transmill'", "'transmil'"):
        make_plan(suite, tmp_path)


@pytest.mark.parametrize("name", [name for name in list_suites() if name.startswith("ablation-")])
def test_every_ablation_changes_its_reference(name):
    suite = load_suite(name)
    assert suite.reference in suite.methods
    words = [changed(method, suite.reference) for method in suite.methods if method != suite.reference]
    assert all("=" in word for word in words)
    assert len(set(words)) == len(words)
