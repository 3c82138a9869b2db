"""What tables say of classes, units and ranks, and that no lower score stands above a higher one."""

import re

import numpy as np
import pandas as pd
import pytest
from support.synthetic import fill

from milbench import stats
from milbench.data.audit.positive import hint
from milbench.data.labels.table import Labels
from milbench.evaluation import more_seeds
from milbench.evaluation.leaderboard import evaluate
from milbench.evaluation.notes import seeds_would_buy
from milbench.evaluation.runs_table import read_cohorts
from milbench.report.figures.leaderboard import auc_figure
from milbench.report.renderers import render
from milbench.runs.execute import run

SUITE = """
name = "s"
methods = ["mean", "abmil"]
cost = false
{more}
[recipe]
epochs = 2
[[data]]
name = "d"
features = "f"
labels = "l.csv"
{classes}
split = {split}
"""


def make(folder, counts, names=None, patients=None, more="", split="{ folds = 3, val_fraction = 0.2 }", classes=""):
    rng = np.random.default_rng(0)
    (folder / "f").mkdir()
    rows, i = ["slide_id,patient_id,label"], 0
    for label, n in enumerate(counts):
        for _ in range(n):
            x = rng.normal(size=(4, 6)).astype(np.float32)
            x[:, label] += 1
            np.save(folder / "f" / f"s{i:03d}.npy", x)
            owner = patients(i, label) if patients else f"p{i:03d}"
            rows.append(f"s{i:03d},{owner},{names[label] if names else label}")
            i += 1
    (folder / "l.csv").write_text("\n".join(rows))
    (folder / "s.toml").write_text(SUITE.format(more=more, split=split, classes=classes))
    return folder / "s.toml"


def notes(folder, toml):
    run(toml, folder / "r", jobs=1)
    return evaluate(folder / "r", resamples=100)


def test_a_method_with_several_slides_a_patient_says_what_is_scored(tmp_path):
    toml = make(tmp_path, (32, 8), patients=lambda i, label: f"p{i // 8}" if label == 0 else f"q{i}")
    actual = notes(tmp_path, toml).notes
    (line,) = [note for note in actual if "by slide" in note]
    assert "1 to 8 slides" in line
    assert "12 patients" in line


def test_the_positive_class_is_named_with_its_prevalence(tmp_path):
    toml = make(tmp_path, (15, 45), names=("MUT", "WT"))
    board = notes(tmp_path, toml)
    (line,) = [note for note in board.notes if "positive class" in note]
    assert "WT" in line
    assert "75%" in line
    assert "WT" in render(board, "markdown")
    assert board.cohorts[0]["positive"] == "WT"


@pytest.mark.parametrize(
    ("classes", "counts", "remarked"),
    [
        (("MUT", "WT"), (30, 30), True),
        (("MSI-H", "MSS"), (30, 30), True),
        (("cancer", "normal"), (30, 30), True),
        (("normal", "tumor"), (30, 30), False),
        (("a", "b"), (45, 15), False),
        (("a", "b"), (15, 45), True),
        (("0", "1"), (30, 30), False),
        (("a", "b", "c"), (10, 10, 40), False),
    ],
)
def test_audit_asks_about_a_positive_class_that_may_not_be_meant(classes, counts, remarked):
    slides = [f"s{i}" for i in range(sum(counts))]
    labels = dict(zip(slides, np.repeat(range(len(counts)), counts).tolist(), strict=True))
    text = hint(Labels(tuple(slides), {s: s for s in slides}, labels, classes))
    assert (text is not None) == remarked
    if text is not None:
        assert repr(classes[-1]) in text


def test_a_fold_without_a_class_is_reported_by_audit_and_table(tmp_path):
    from milbench.config.suites import load_suite
    from milbench.data.cohort import load_cohort

    toml = make(tmp_path, (24, 24, 6), split='{ files = "sp/fold{k}.csv" }')
    ids = pd.read_csv(tmp_path / "l.csv", dtype=str)
    rare, others = list(ids[ids["label"] == "2"]["slide_id"]), list(ids[ids["label"] != "2"]["slide_id"])
    others = [slide for pair in zip(others[:24], others[24:], strict=True) for slide in pair]
    (tmp_path / "sp").mkdir()
    for k, (train, val, test) in enumerate(((rare[:4], rare[4:], []), (rare[:2], rare[2:4], rare[4:]))):
        parts = [(s, "train") for s in others[:26] + train] + [(s, "val") for s in others[26:36] + val]
        parts += [(s, "test") for s in others[36:] + test]
        pd.DataFrame(parts, columns=["slide_id", "split"]).to_csv(tmp_path / "sp" / f"fold{k}.csv", index=False)
    suite = load_suite(toml)
    findings = [f for f in load_cohort(suite.data[0], suite.base).findings if f.code == "rare-test-class"]
    assert [f.fold for f in findings] == ["fold0"]
    board = notes(tmp_path, toml)
    (line,) = [note for note in board.notes if "test no bag" in note]
    assert "1 fold of 2" in line
    assert board.table["auc_pooled"].notna().all()


def test_one_seed_and_more(tmp_path):
    fill(tmp_path / "one", seeds=1)
    fill(tmp_path / "three", seeds=3)
    one, three = (evaluate(tmp_path / name, resamples=200) for name in ("one", "three"))
    assert any("one seed" in note for note in one.notes)
    (line, *_) = [note for note in three.notes if "half-width" in note]
    widths = [float(part.split("±")[1].split(",")[0].rstrip(".")) for part in line.split("seeds")[2:]]
    assert len(widths) == 3
    assert widths == sorted(widths, reverse=True)
    ranked = three.table[three.table["rank"].notna()]
    outer, inner = ranked["auc_high"] - ranked["auc_low"], ranked["auc_high_patients"] - ranked["auc_low_patients"]
    assert (outer >= inner - 1e-12).all()
    assert (outer <= 3 * inner).all(), "seeds never make an interval useless"


def numbers(sentence):
    return [float(actual) for actual in re.findall(r"± (\d\.\d+)", sentence)]


def test_what_more_seeds_would_buy_is_known_from_stored_runs_and_planned_without(tmp_path):
    for name, seeds in (("one", 1), ("three", 3)):
        fill(tmp_path / name, seeds=seeds)
    cohort = read_cohorts(tmp_path / "three")[0]
    notes = evaluate(tmp_path / "three", data=cohort.data).notes
    of_table = numbers(next(note for note in notes if "half-width" in note))
    said = numbers(seeds_would_buy(tmp_path / "three", cohort.data, cohort.fingerprint, 3, resamples=2000))
    assert said[:3] == of_table  # of 3, 6 and 12 seeds
    assert said[3] < said[2]  # what patients make
    assert seeds_would_buy(tmp_path / "three", cohort.data, "0" * 16, 3) == ""  # another state of the cohort
    cohort = read_cohorts(tmp_path / "one")[0]
    assert seeds_would_buy(tmp_path / "one", cohort.data, cohort.fingerprint, 3) == ""
    counts = more_seeds.tested_counts(
        [["a", "b"], ["b", "c", "x"]], {"a": 0, "b": 1, "c": 0}, {"a": "p", "b": "p", "c": "q"}, 2
    )
    assert counts == [1, 1]
    planned = numbers(more_seeds.planned_sentence("c", (20, 20), 2))
    assert planned == sorted(planned, reverse=True)
    assert planned[0] == pytest.approx(stats.planned_half_width((20, 20), 2), abs=5e-4)
    assert more_seeds.planned_sentence("c", (20, 0), 2) == ""


def test_no_figure_puts_a_lower_score_above_a_higher_one(tmp_path):
    fill(tmp_path, seeds=2)
    board = evaluate(tmp_path, resamples=100)
    for axes, (_, block) in zip(auc_figure(board.table).axes, board.table.groupby("data", sort=False), strict=True):
        drawn = [line.get_xdata()[0] for line in axes.lines if line.get_marker() not in ("None", "")]
        assert drawn == sorted(drawn, reverse=True)
        assert drawn == list(block["auc"])
    tables = render(board, "markdown").split("| Rank |")[1:]
    assert len(tables) == 2
    for text in tables:
        rows = [line.split("|") for line in text.split("\n\n")[0].splitlines()[2:]]
        scores = [float(row[4].split("[")[0]) for row in rows if row[1].strip() != "–"]
        assert len(scores) > 1
        assert scores == sorted(scores, reverse=True)
