"""Decision thresholds chosen on validation, against scikit-learn and a search over every threshold."""

import json
from functools import partial

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file
from sklearn import metrics as sk
from support.refusal import refused
from support.synthetic import fill, seal, suite
from typer.testing import CliRunner

from milbench import metrics
from milbench.cli import app
from milbench.config import Suite
from milbench.config.suites import meaning
from milbench.errors import MilbenchError
from milbench.evaluation.leaderboard import evaluate, leaderboard, run_scores
from milbench.report.folder import write_report
from milbench.report.renderers import render
from milbench.runs.records import MODEL, read_runs
from milbench.stats.threshold import CHOSEN, Threshold, choose, mean, record, recorded
from milbench.training.saved_model import load_model

FEW = settings(max_examples=60, deadline=None)
bags = st.lists(st.tuples(st.integers(0, 1), st.integers(-4, 4)), min_size=2, max_size=30).filter(
    lambda rows: len({y for y, _ in rows}) == 2
)


def youden(y, called):
    return sk.recall_score(y, called) + sk.recall_score(y, called, pos_label=0) - 1


MEASURES = {"val-youden": youden, "val-f1": partial(sk.f1_score, zero_division=0)}


@given(bags, st.sampled_from(sorted(CHOSEN)))
@FEW
def test_no_threshold_is_better_and_no_higher_one_as_good(rows, rule):
    y, s = np.array(rows).T
    measure = MEASURES[rule]
    every = {t: measure(y, (s >= t).astype(int)) for t in [*np.unique(s), np.inf]}
    best = max(every.values())
    actual = choose(rule, y, s)
    if rule == "val-youden" and best < 1e-12:
        assert actual.value is None
        assert actual.reason
        return
    assert every[actual.value] == pytest.approx(best, abs=1e-12)
    assert all(value < best - 1e-12 for t, value in every.items() if t > actual.value)


@given(bags)
@FEW
def test_youdens_threshold_is_that_of_scikit_learns_roc_curve(rows):
    y, s = np.array(rows).T
    false, true, thresholds = sk.roc_curve(y, s, drop_intermediate=False)
    gain = np.round(true - false, 12)  # equal in exact numbers, not in every rounding
    actual = choose("val-youden", y, s)
    assert actual.value == (thresholds[gain.argmax()] if gain.max() > 0 else None)


@given(bags, st.sampled_from(sorted(CHOSEN)))
@FEW
def test_a_threshold_moves_with_any_increasing_map(rows, rule):
    y, s = np.array(rows).T
    one, other = choose(rule, y, s), choose(rule, y, np.exp(s / 3) * 7)
    assert other.value == (None if one.value is None else pytest.approx(np.exp(one.value / 3) * 7))


@pytest.mark.parametrize("rule", sorted(CHOSEN))
@pytest.mark.parametrize("y", [[], [0, 0], [1, 1]])
def test_without_bags_of_both_classes_the_more_probable_class_stays(rule, y):
    actual = choose(rule, y, np.arange(len(y)))
    assert actual.value is None
    assert actual.reason
    p = np.array([[0.6, 0.4], [0.1, 0.9]])
    assert actual.predicted(p, np.log(p / (1 - p))).tolist() == [0, 1]


@pytest.mark.parametrize(("y", "s"), [([0, 1], [0, np.nan]), ([0, 1], [0, np.inf]), ([0, 2], [0, 1]), ([0, 1], [0])])
def test_what_is_no_score_or_label_is_refused(y, s):
    with pytest.raises(MilbenchError):
        choose("val-f1", y, s)


def test_an_ensembles_threshold_is_that_of_the_mean_of_log_odds():
    """Calling by mean log-odds and mean threshold is calling by the mean of what each has above its own threshold."""
    rng = np.random.default_rng(0)
    s, own = rng.normal(size=(3, 50)), [0.4, -1.2, None]
    above = s - np.array([t or 0.0 for t in own])[:, None]
    together = mean([Threshold(t) for t in own])
    odds = np.column_stack([-s.mean(axis=0), s.mean(axis=0)])
    assert np.array_equal(together.predicted(odds, odds), above.mean(axis=0) >= 0)


def test_what_a_model_carries_is_read_back():
    y, s = np.array([0, 1, 0, 1, 1]), np.array([-3.0, 0.1, 0.7, 1 / 3, 2.0])
    kept = json.loads(json.dumps(record(y, s)))
    assert {rule: recorded(kept, rule) for rule in CHOSEN} == {rule: choose(rule, y, s) for rule in CHOSEN}
    kept["val-f1"]["value"] = float("nan")
    with pytest.raises(ValueError, match="val-f1"):
        recorded(kept, "val-f1")


@given(bags.map(np.array))
@FEW
def test_sensitivity_and_specificity_are_scikit_learns(rows):
    y, called = rows[:, 0], (rows[:, 1] > 0).astype(int)
    p = np.tile([0.7, 0.3], (len(y), 1))
    assert metrics.sensitivity(y, p, called) == pytest.approx(sk.recall_score(y, called))
    assert metrics.specificity(y, p, called) == pytest.approx(sk.recall_score(y, called, pos_label=0))
    assert metrics.balanced_accuracy(y, p, called) == pytest.approx(sk.balanced_accuracy_score(y, called))
    assert metrics.accuracy(y, p, called) == pytest.approx(sk.accuracy_score(y, called))


def test_of_three_classes_they_are_means_over_classes():
    rng = np.random.default_rng(1)
    y, called = rng.integers(0, 3, 40), rng.integers(0, 3, 40)
    p = np.full((40, 3), 1 / 3)
    tables = sk.multilabel_confusion_matrix(y, called)
    assert metrics.specificity(y, p, called) == pytest.approx(np.mean([t[0, 0] / t[0].sum() for t in tables]))
    assert metrics.sensitivity(y, p, called) == pytest.approx(np.mean([t[1, 1] / t[1].sum() for t in tables]))


# --- tables ----------------------------------------------------------------------------------------------------------


def low(table):
    """Every bag is called negative at a probability of 0.5, as at a low prevalence; the order is kept."""
    p = table["p1"] * 0.4
    return table.assign(p0=1 - p, p1=p, s0=-np.log(p / (1 - p)), s1=np.log(p / (1 - p)))


@pytest.fixture
def rare(tmp_path):
    store = fill(tmp_path, suite(data=("easy",)), ("mean", "max"), n=60, folds=("f0", "f1"), seeds=2, costs=False)
    for run in store.records():
        store.publish_run(run.spec.run_id, run.record, low(run.predictions()), run.history(), overwrite=True)
    return tmp_path


def by_hand(root, rule):
    """The mean over runs of scikit-learn's scores at the threshold that a search on validation selects."""
    labels = pd.read_csv(root / "made-up-v1/cohorts/easy-f0/labels.csv").set_index("slide_id")["label"]
    scores = {}
    for run in read_runs(root):
        table = run.predictions().assign(y=lambda t: labels.reindex(t["slide_id"]).to_numpy())
        val, test = table[table["split"] == "val"], table[table["split"] == "test"]
        best = max(np.unique(val["s1"]), key=lambda t: (MEASURES[rule](val["y"], val["s1"] >= t), t))
        called = test["s1"] >= best
        scores.setdefault(run.method, []).append((
            sk.balanced_accuracy_score(test["y"], called), sk.f1_score(test["y"], called),
            sk.recall_score(test["y"], called), sk.recall_score(test["y"], called, pos_label=0),
        ))  # fmt: skip
    return {method: np.mean(values, axis=0) for method, values in scores.items()}


SHOWN = ["balanced_accuracy", "f1", "sensitivity", "specificity"]


@pytest.mark.parametrize("rule", sorted(CHOSEN))
def test_a_table_is_at_the_thresholds_of_validation(rare, rule):
    half = evaluate(rare, resamples=5)
    assert (half.table["balanced_accuracy"] == 0.5).all()
    assert (half.table["threshold_rule"] == "half").all()
    assert (half.table["threshold_low"] == 0.5).all()
    assert sum("one class" in note for note in half.notes) == 2
    chosen = evaluate(rare, resamples=5, threshold_rule=rule)
    expected = by_hand(rare, rule)
    for row in chosen.table.itertuples():
        assert [getattr(row, name) for name in SHOWN] == pytest.approx(expected[row.method])
        assert 0 < row.threshold_low <= row.threshold_high <= 0.4
    assert (chosen.table["threshold_rule"] == rule).all()
    assert not any("one class" in note for note in chosen.notes)
    same = ["auc", "average_precision", "log_loss", "brier", "ece", "rank"]
    pd.testing.assert_frame_equal(chosen.table[same], half.table[same])
    assert any(rule in note for note in chosen.notes)
    assert "Sensitivity" in render(chosen, "markdown")
    report = write_report(chosen, rare / "report", "t", "p")
    assert rule in report.read_text()
    assert (pd.read_csv(report.parent / "leaderboard.csv")["threshold_rule"] == rule).all()


def test_the_suites_own_rule_is_taken_and_is_no_part_of_its_meaning(rare):
    file = rare / "made-up-v1" / "suite.json"
    ruled = suite(data=("easy",), threshold="val-youden")
    from milbench.runs.store import Store

    Store(rare, ruled).prepare()
    assert json.loads(file.read_text())["threshold"] == "val-youden"
    assert meaning(ruled) == meaning(suite(data=("easy",)))
    runs = run_scores(rare)
    assert (runs["threshold_rule"] == "val-youden").all()
    assert runs.groupby("method")[SHOWN].mean().loc["mean"].to_numpy() == pytest.approx(
        by_hand(rare, "val-youden")["mean"]
    )
    code = CliRunner().invoke(app, ["leaderboard", str(rare), "--threshold", "half", "--format", "csv"])
    assert code.exit_code == 0, code.output
    assert "val-youden" not in code.stdout


def test_test_labels_change_no_threshold(rare):
    """Every test label turned round: the thresholds stay, to the bit."""
    before = run_scores(rare_ruled(rare)).set_index(["method", "fold", "seed"])["threshold"]
    file = rare / "made-up-v1/cohorts/easy-f0/labels.csv"
    labels = pd.read_csv(file)
    for fold in ("f0", "f1"):
        (run, *_) = [r for r in read_runs(rare) if r.spec.fold == fold]
        table = run.predictions()
        test = set(table[table["split"] == "test"]["slide_id"]) - set(table[table["split"] == "val"]["slide_id"])
        turned = labels.assign(label=labels["label"].where(~labels["slide_id"].isin(test), 1 - labels["label"]))
        turned.to_csv(file, index=False)
        seal(file.parent, "easy")
        after = run_scores(rare).set_index(["method", "fold", "seed"])["threshold"]
        at = (slice(None), fold)
        assert after.loc[at].tolist() == before.loc[at].tolist()
        labels.to_csv(file, index=False)
        seal(file.parent, "easy")


def rare_ruled(root):
    from milbench.runs.store import Store

    Store(root, suite(data=("easy",), threshold="val-f1")).prepare()
    return root


def test_more_than_two_classes_keep_the_most_probable_one(tmp_path):
    fill(tmp_path, suite(data=("easy",)), ("mean",), n=60, folds=("f0",), seeds=1, classes=3, costs=False)
    half, ruled = leaderboard(tmp_path, resamples=5), evaluate(tmp_path, resamples=5, threshold_rule="val-f1")
    pd.testing.assert_frame_equal(half[SHOWN], ruled.table[SHOWN])
    assert (ruled.table["threshold_rule"] == "argmax").all()
    assert any("val-f1" in note for note in ruled.notes)


def test_runs_without_validation_bags_keep_one_half_and_say_so(rare):
    store_runs = [r for r in read_runs(rare) if r.method == "mean"]
    from milbench.runs.store import Store

    store = Store(rare, suite(data=("easy",), threshold="val-youden"))
    store.prepare()
    for run in store_runs:
        test = run.predictions().query("split == 'test'")
        store.publish_run(run.spec.run_id, run.record, test, run.history(), overwrite=True)
    board = evaluate(rare, resamples=5)
    table = board.table.set_index("method")
    assert table.loc["mean", "threshold_low"] == table.loc["mean", "threshold_high"] == 0.5
    assert table.loc["mean", "balanced_accuracy"] == 0.5
    assert table.loc["max", "balanced_accuracy"] > 0.5
    notes = board.notes
    assert any("no validation bags" in note for note in notes)
    assert any(": mean " in note and "one class" in note for note in notes)


def test_an_unknown_rule_is_refused(rare):
    with refused("option-bad-value", "val-youden"):
        leaderboard(rare, threshold_rule="youden")
    with pytest.raises(ValueError, match="threshold"):
        Suite.model_validate(suite().model_dump() | {"threshold": "test-youden"})


# --- kept models -----------------------------------------------------------------------------------------------------

TOML = """
name = "s"
methods = ["mean"]
cost = false
keep_models = "best"
threshold = "val-youden"
[recipe]
epochs = 2
lr = 1e-2
[[data]]
name = "A"
features = "A/f"
labels = "A/l.csv"
split = { folds = 3, val_fraction = 0.3 }
"""


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    from milbench.runs.execute import run

    folder = tmp_path_factory.mktemp("study")
    rng = np.random.default_rng(0)
    (folder / "A" / "f").mkdir(parents=True)
    rows = ["slide_id,patient_id,label"]
    for i in range(48):
        x = rng.normal(size=(5, 8)).astype(np.float32)
        positive = i % 8 == 0
        x[:2, int(positive)] += 2
        np.save(folder / "A" / "f" / f"s{i:03d}.npy", x)
        rows.append(f"s{i:03d},p{i:03d},{'pos' if positive else 'neg'}")
    (folder / "A" / "l.csv").write_text("\n".join(rows))
    (folder / "s.toml").write_text(TOML)
    run(folder / "s.toml", folder / "r", jobs=1)
    return folder


def predicted(study, out, *more):
    words = ["predict", study / "s.toml", "-m", "mean", "--features", study / "A.cache", "--out", out,
             "--results", study / "r", *more]  # fmt: skip
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.output
    return pd.read_csv(out), result.output


def test_kept_models_predict_by_the_thresholds_of_the_table(study, tmp_path):
    table, text = predicted(study, tmp_path / "p.csv", "--labels", study / "A" / "l.csv", "--new-slides")
    runs = run_scores(study / "r").set_index("fold")
    assert (table["threshold_rule"] == "val-youden").all()
    labels = pd.read_csv(study / "A" / "l.csv").set_index("slide_id")["label"]
    for record_ in read_runs(study / "r"):
        mine = table[table["member"] == f"fold {record_.spec.fold} seed 0"].set_index("slide_id")
        assert mine["threshold"].unique() == pytest.approx([runs.loc[record_.spec.fold, "threshold"]])
        assert np.array_equal(mine["predicted"] == "pos", mine["p_pos"] >= mine["threshold"] - 1e-12)
        test = list(record_.predictions().query("split == 'test'")["slide_id"])
        actual = sk.balanced_accuracy_score(labels[test], mine.loc[test, "predicted"])
        assert actual == pytest.approx(runs.loc[record_.spec.fold, "balanced_accuracy"])
    ensemble = table[table["member"] == "ensemble"]
    odds = ensemble["log_odds_pos"].to_numpy()
    threshold = np.log(ensemble["threshold"] / (1 - ensemble["threshold"])).to_numpy()
    assert np.array_equal(ensemble["predicted"] == "pos", odds >= threshold - 1e-9)
    expected = sk.balanced_accuracy_score(ensemble["label"], ensemble["predicted"])
    assert f"{expected:.3f}" in text
    half, _ = predicted(study, tmp_path / "h.csv", "--threshold", "half")
    assert np.array_equal(half["predicted"] == "pos", half["p_pos"] > 0.5)
    assert (half["threshold"] == 0.5).all()


def test_a_model_of_before_is_predicted_by_the_stored_predictions_of_its_run(study, tmp_path):
    import shutil

    from milbench.atomic_io.checksums import FILES
    from milbench.inference.prediction import kept_models

    now, _ = predicted(study, tmp_path / "p.csv")
    shutil.copytree(study / "r", tmp_path / "r")
    for run in read_runs(tmp_path / "r"):
        file = run.path / MODEL
        with safe_open(file, framework="pt") as opened:
            facts = json.loads(opened.metadata()["milbench"])
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        thresholds = facts.pop("thresholds")
        assert set(thresholds) == set(CHOSEN)
        save_file(tensors, file, metadata={"milbench": json.dumps(facts)})
        run.record[FILES].pop(MODEL)
        with refused("threshold-missing"):
            load_model(file).threshold("val-f1")
        for wrong in ({"val-youden": thresholds["val-youden"]}, {rule: {"value": "x"} for rule in CHOSEN}):
            save_file(tensors, tmp_path / "m", metadata={"milbench": json.dumps(facts | {"thresholds": wrong})})
            with refused("model-damaged"):
                load_model(tmp_path / "m")
        from milbench.atomic_io.checksums import checksum, with_checksum

        content = json.loads((run.path / "run.json").read_text())
        content[FILES][MODEL] = checksum(file.read_bytes())
        (run.path / "run.json").write_text(json.dumps(with_checksum(content)))
    models = kept_models(tmp_path / "r", "s", "mean")
    shown = now[now["member"] != "ensemble"].groupby("member", sort=False)["threshold"].first()
    for model in models:
        value = model.threshold("val-youden").value
        assert shown[model.name] == pytest.approx(0.5 if value is None else 1 / (1 + np.exp(-value)))
