"""Published figures, their status and ours; recipes of one cohort; oracles without validation slides."""

import re

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError
from rich.console import Console
from sklearn.metrics import accuracy_score, roc_auc_score
from support import synthetic as made
from support.refusal import refused
from support.small import suite, write_cohort

from milbench.config import DataSpec, Protocol, Published, SplitSpec
from milbench.config.suites import load_suite
from milbench.evaluation.leaderboard import evaluate, leaderboard
from milbench.report.folder import write_report
from milbench.report.renderers import render
from milbench.runs.execute import execute
from milbench.runs.plan import make_plan
from milbench.runs.records import read_runs

GATED = "abmil[gated=true]"
FOLDS = tuple(f"r{r}-f{k}" for r in range(3) for k in range(3))


def figure(method, value, error=None, data="easy", metric="accuracy", status="memory"):
    return Published(data=data, method=method, metric=metric, value=value, error=error, status=status, source="A paper")


FIGURES = (
    figure("mean", 0.2, 0.01),
    figure(GATED, 0.9, 0.5, status="read"),
    figure("mean", 0.7, metric="auc"),
    figure("transmil", 0.7, data="hard"),
)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("results")
    given = made.suite(
        published=tuple(f.model_copy(update={"method": f.method.replace("True", "true")}) for f in FIGURES)
    )
    made.fill(root, given, ("mean", GATED, "transmil"), folds=FOLDS, fail=(("hard", "transmil", "r0-f1", 0, "oom"),))
    return root


@pytest.fixture(scope="module")
def board(root):
    return evaluate(root, resamples=200)


def test_ours_is_the_mean_over_folds_and_the_spread_that_of_repetitions(root, board):
    rows = pd.DataFrame(board.published).set_index(["method", "metric"])
    labels = pd.read_csv(root / "made-up-v1/cohorts/easy-f0/labels.csv").set_index("slide_id")["label"]
    actual = []
    for run in read_runs(root):
        if run.spec.data == "easy" and run.method == "mean":
            test = run.predictions().query("split == 'test'")
            y = labels[test["slide_id"]]
            right = accuracy_score(y, test["p1"] > 0.5)
            actual.append((run.spec.fold[:2], run.spec.seed, right, roc_auc_score(y, test["p1"])))
    frame = pd.DataFrame(actual, columns=["repetition", "seed", "accuracy", "auc"])
    own = rows.loc[("mean", "accuracy")]
    assert own.ours == pytest.approx(frame["accuracy"].mean())
    assert own.ours_sd == pytest.approx(frame.groupby("repetition")["accuracy"].mean().std(ddof=1))
    assert own.difference == pytest.approx(own.ours - 0.2)
    assert own.within is False
    auc = rows.loc[("mean", "auc")]
    assert auc.ours == pytest.approx(frame["auc"].mean())
    assert np.isnan(auc.ours_sd)
    assert auc.within is None
    assert rows.loc[(GATED, "accuracy")].within is True


def test_runs_that_did_not_end_are_compared_with_no_figure(board):
    assert "transmil" not in {row["method"] for row in board.published}


def test_report_and_terminal_say_how_sure_a_figure_is(board, tmp_path):
    text = write_report(board, tmp_path, "t", "p").read_text()
    section = text.partition("## Compared with published figures")[2].partition("## ")[0]
    assert "not targets" in section
    assert re.search(r"\| mean +\| accuracy \|.*0\.200 ± 0\.010 \|.*\| no +\| memory \| A paper", section)
    assert re.search(r"\| mean +\| auc +\| 0\.\d{3} +\| 0\.700 +\|.*\| – +\| memory", section)
    console = Console(width=160, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(render(board, "console"))
    assert re.search(r"compared with published figures.*0\.200 ± 0\.010 .*memory", console.export_text(), re.DOTALL)


def test_a_board_without_figures_has_no_such_section(tmp_path):
    made.fill(tmp_path / "r", made.suite(), ("mean",))
    board = evaluate(tmp_path / "r", resamples=50)
    assert "Compared with published figures" not in write_report(board, tmp_path / "out", "t", "p").read_text()


@pytest.mark.parametrize(("change", "words"), [
    ({"data": "eazy"}, "cohort 'eazy'.*Did you mean 'easy'"), ({"method": "abmill"}, "method 'abmill'.*Did you mean"),
    ({"status": "sure"}, "'read' or 'memory'"), ({"metric": "f2"}, "metric"),
])  # fmt: skip
def test_a_figure_of_nothing_is_refused(change, words):
    with pytest.raises(ValidationError, match=words):
        made.suite(published=[figure("mean", 0.5).model_dump() | change])


def test_a_figure_changes_no_run(tmp_path):
    """Figures may be added under the same version: they do not enter the results."""
    write_cohort(tmp_path)
    small = suite(tmp_path, ("mean",))
    execute(make_plan(small, tmp_path / "runs"))
    more = small.model_copy(update={"published": (figure("mean", 0.5, data="d"),)})
    assert not make_plan(more, tmp_path / "runs").todo()


def test_a_figure_finds_its_method_by_any_spelling(tmp_path):
    write_cohort(tmp_path)
    small = suite(
        tmp_path, ("abmil[gated=false]",), published=(figure("abmil[gated=false,dropout=0.0]", 0.5, data="d"),)
    )
    execute(make_plan(small, tmp_path / "runs"))
    assert [row["published"] for row in evaluate(tmp_path / "runs", resamples=50).published] == [0.5]
    wrong = small.model_copy(update={"published": (figure("abmil[gatde=true]", 0.5, data="d"),)})
    with refused("method-unknown-option", "[[published]]", "abmil", "'gatde'", "'gated'"):
        make_plan(wrong, tmp_path / "none")


def test_a_recipe_of_one_cohort_lies_over_that_of_the_suite(tmp_path):
    write_cohort(tmp_path)
    small = suite(
        tmp_path, ("mean", "abmil"), recipe={"epochs": 2, "lr": 0.1}, recipes={"mean": {"lr": 0.2, "epochs": 5}}
    )
    other = small.data[0].model_copy(update={"name": "e", "recipes": {"mean": {"lr": 0.3}}})
    plan = make_plan(small.model_copy(update={"data": (*small.data, other)}), tmp_path / "none")
    actual = {(p.spec.data, p.spec.method): (p.spec.recipe.lr, p.spec.recipe.epochs) for p in plan.runs}
    assert actual == {
        ("d", "mean"): (0.2, 5),
        ("e", "mean"): (0.3, 5),
        ("d", "abmil"): (0.1, 2),
        ("e", "abmil"): (0.1, 2),
    }


@pytest.mark.parametrize(("recipes", "refusal"), [
    ({"meen": {"lr": 1.0}}, ("method-unknown", "[recipes.meen]", "cohort d", "'mean'")),
    ({"mean": {"rate": 1.0}}, ("suite-unknown-field", "recipes.mean.rate")),
])  # fmt: skip
def test_a_wrong_recipe_of_a_cohort_is_refused(tmp_path, recipes, refusal):
    write_cohort(tmp_path)
    small = suite(tmp_path, ("mean",))
    wrong = small.model_copy(update={"data": (small.data[0].model_copy(update={"recipes": recipes}),)})
    with refused(*refusal):
        make_plan(wrong, tmp_path / "none")


def test_an_oracle_needs_no_validation_slides(tmp_path):
    """Its honest counterpart is then the last model."""
    write_cohort(tmp_path, train=12, test=12, shift=0.3)
    data = DataSpec(name="d", cache="cache", labels="labels.csv", split=SplitSpec(folds=3, val_fraction=0))
    small = suite(tmp_path, ("mean", "abmil"), protocol=Protocol(checkpoint="oracle"), stacked=4,
                  recipe={"epochs": 6, "patience": None, "lr": 0.05})  # fmt: skip
    execute(make_plan(small.model_copy(update={"data": (data,)}), tmp_path / "runs"), jobs=2)
    table = leaderboard(tmp_path / "runs", resamples=50)
    assert (table["outcome"] == "ok").all()
    assert table["auc_best_val"].isna().all()  # there is none to name
    np.testing.assert_allclose(table["inflation"], table["auc"] - table["auc_last"])
    assert (table["inflation"] >= 0).all()


@pytest.mark.parametrize("name", ["classical", "colon-cancer"])
def test_built_in_figures_are_marked(name):
    """Unchecked figures are marked so; each belongs to a method and a cohort that are run."""
    given = load_suite(name)
    assert given.published
    assert given.protocol.checkpoint == "last"
    assert given.protocol.standardize
    assert {f.status for f in given.published} == {"memory"} | ({"read"} if name == "colon-cancer" else set())
