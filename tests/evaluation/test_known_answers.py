"""Verdicts of cohorts whose right answer is known: trained methods and a cheater, and made-up predictions."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, logit
from sklearn.metrics import roc_auc_score
from support.refusal import refused

import milbench
from milbench import stats
from milbench.atomic_io import manifest
from milbench.config import Budget, DataSpec, Protocol, Recipe, RunSpec, Suite
from milbench.data import datasets
from milbench.data.cohort import load_cohort, write_cohort
from milbench.data.datasets import raff_holt, shifted_mean
from milbench.evaluation.known_answers import (
    BAGS,
    BARS,
    UNIT_TESTS,
    Estimate,
    estimates,
    known_answers,
    sections,
    share_of_the_way,
    verdict_of,
)
from milbench.evaluation.leaderboard import evaluate
from milbench.evaluation.runs_table import read_cohorts
from milbench.evaluation.scores import score
from milbench.report.folder import write_report
from milbench.runs.store import Store

NAN = float("nan")


def test_names_agree_with_the_datasets():
    assert BAGS == datasets.BAGS
    assert datasets.load_dataset(UNIT_TESTS) is raff_holt
    assert set(BARS) == set(raff_holt.LAWS)


@pytest.mark.parametrize(
    ("train", "test", "verdict"),
    [
        ((0.99, 1.0), (0.95, 0.99), "passes"),
        ((0.99, 1.0), (0.0, 0.1), "violates"),
        ((0.51, 0.6), (0.4, 0.49), "violates"),
        ((0.49, 0.6), (0.4, 0.49), "unsolved"),
        ((0.51, 0.6), (0.4, 0.51), "unsolved"),
        ((0.99, 1.0), (0.79, 0.9), "unsolved"),
        ((0.79, 1.0), (0.9, 0.99), "unsolved"),
        ((NAN, NAN), (NAN, NAN), "unsolved"),
    ],
)
def test_verdicts_from_intervals(train, test, verdict):
    one, other = (Estimate(np.mean(ends), *ends, np.empty(0)) for ends in (train, test))
    assert verdict_of(one, other, 0.8) == verdict


def test_bars_are_what_one_concept_alone_reaches():
    params = raff_holt.Params(problem="multi-concept")
    label = np.arange(20_000) % 2 == 1
    for is_test in (False, True):
        counts = raff_holt.draw_counts(params, label, is_test, np.random.default_rng(0))
        assert roc_auc_score(label, counts[:, 3]) == pytest.approx(BARS["multi-concept"], abs=0.006)
        frequency = raff_holt.Params(problem="false-frequency")
        counts = raff_holt.draw_counts(frequency, label, is_test, np.random.default_rng(0))
        assert roc_auc_score(label, counts[:, 3] > 0) == pytest.approx(BARS["false-frequency"], abs=0.006)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A method that cannot use an absence and one that uses nothing else, on a small single-concept test."""
    params = {"train": 200, "val": 250, "test": 250}
    suite = Suite(
        name="small-tests", methods=("max_instance", "support.cheater:NoPoison"), unit="bag", cost=False, device="cpu",
        data=(DataSpec(name="single", dataset="raff-holt", params=params),),
        protocol=Protocol(checkpoint="last", standardize=True),
        recipe={"optimizer": "adamw", "lr": 1e-2, "batch_size": 5, "accumulate": 1, "epochs": 15, "patience": None},
    )  # fmt: skip
    results = tmp_path_factory.mktemp("results")
    assert {record.outcome for record in milbench.run(suite, results, jobs=2)} == {"ok"}
    return results


def test_max_instance_passes_and_a_cheater_violates(trained):
    rows = known_answers(read_cohorts(trained), resamples=500)["unit_tests"]
    actual = {row["method"]: row for row in rows}
    cheater, honest = actual["support.cheater:NoPoison"], actual["max_instance"]
    assert cheater["verdict"] == "violates"
    assert cheater["train_auc"] > 0.99
    assert cheater["test_auc"] < 0.01
    assert honest["verdict"] == "passes"
    assert honest["test_low"] > 0.75
    assert {(row["problem"], row["pad"]) for row in rows} == {("single-concept", 0)}


def test_a_report_shows_the_verdicts(trained, tmp_path):
    board = replace(evaluate(trained, resamples=200), known_answers=known_answers(read_cohorts(trained), resamples=200))
    text = write_report(board, tmp_path, "Title", "From somewhere.").read_text(encoding="utf-8")
    assert "## Unit tests" in text
    assert "| max_instance | iid | passes |" in text
    assert "| support.cheater:NoPoison | iid | violates |" in text
    assert "## Against Bayes" not in text


#: method -> its scores from label, posterior, order-blind posterior and noise
MADE_UP = {
    "bayes": lambda y, p, iid, e: p,
    "blind": lambda y, p, iid, e: iid,
    "constant": lambda y, p, iid, e: np.full(len(y), 0.5),
    "noisy": lambda y, p, iid, e: expit(logit(p) + 1.5 * e),
    "oracle": lambda y, p, iid, e: y * 0.9 + 0.05,
}


def made_up(root: Path, dataset: str, params: dict, seeds: int = 5, known: bool = True) -> Store:
    """A store of made-up predictions on a built-in dataset."""
    spec = DataSpec(name="d", dataset=dataset, params=params)
    suite = Suite(name="known", methods=tuple(MADE_UP), data=(spec,), unit="bag", seeds=seeds)
    cohort = load_cohort(spec, Path())
    store = Store(root, suite)
    store.prepare()
    folder = store.cohort("d", cohort.fingerprint)
    write_cohort(cohort, folder)
    table = pd.read_csv(cohort.cache_path.parent / BAGS)
    if not known:
        (folder / BAGS).unlink()
    fold = cohort.folds[0]
    bags = [(s, part) for part in ("val", "test") for s in fold.parts[part]]
    table = table.set_index("slide_id").loc[[s for s, _ in bags]]
    y = np.array([cohort.labels[s] for s, _ in bags])
    for method, scores in MADE_UP.items():
        for seed in range(seeds):
            noise = np.random.default_rng([len(method), seed]).standard_normal(len(bags))
            p = scores(y, table["posterior"].to_numpy(), table["posterior_iid"].to_numpy(), noise)
            run = RunSpec(
                suite="known", suite_version=1, data="d", fingerprint=cohort.fingerprint, method=method, params={},
                recipe=Recipe(), protocol=Protocol(), budget=Budget(), fold=fold.name, seed=seed, threads=1,
                device_type="cpu",
            )  # fmt: skip
            frame = pd.DataFrame(bags, columns=["slide_id", "split"]).assign(p0=1 - p, p1=p)
            record = {"spec": run, "outcome": "ok", "method_canonical": method, "family": "iid"}
            store.publish_run(run.run_id, record, frame)
    return store


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    params = {"dim": 2, "delta": 1.4, "train": 4, "val": 60, "test": 400}
    return made_up(tmp_path_factory.mktemp("results"), "shifted-mean", params)


def test_the_share_of_the_way_to_bayes(store):
    cohort = read_cohorts(store.root)[0]
    rows = {row["method"]: row for row in known_answers([cohort], resamples=1000)["bayes"]}
    labels = cohort.labels()["label"]
    posterior = pd.read_csv(store.cohort("d", cohort.fingerprint) / BAGS, index_col="slide_id")
    test = [s for s in labels.index if s.startswith("test")]
    bayes, blind = (roc_auc_score(labels[test], posterior.loc[test, name]) for name in ("posterior", "posterior_iid"))
    for row in rows.values():
        assert row["bayes"] == pytest.approx(bayes)
        assert row["iid"] == pytest.approx(blind)
        assert 0.5 < row["bayes_low"] < bayes < row["bayes_high"] < 1
    ends = ("share_low", "share", "share_high")
    assert [rows["bayes"][end] for end in ends] == pytest.approx([1, 1, 1])
    assert [rows["constant"][end] for end in ends] == pytest.approx([0, 0, 0])
    assert rows["blind"]["share"] == pytest.approx((blind - 0.5) / (bayes - 0.5))
    assert 0 < rows["noisy"]["share_low"] < rows["noisy"]["share"] < rows["noisy"]["share_high"] < 1
    assert [rows["bayes"][f"to_bayes{end}"] for end in ("", "_low", "_high")] == [0, 0, 0]
    assert rows["noisy"]["to_bayes_high"] < 0
    # Only who knows the answer is above Bayes, and only who sees the order above the order-blind one.
    assert {name for name, row in rows.items() if row["to_bayes_low"] > 0} == {"oracle"}
    assert {name for name, row in rows.items() if row["to_iid_low"] > 0} == {"oracle", "bayes"}


def test_estimates_are_those_of_the_leaderboard(store):
    cohort = read_cohorts(store.root)[0]
    board = {actual.method: actual for actual in score(cohort, resamples=300)}
    for method, actual in estimates(cohort, "test", 300).items():
        assert actual.auc == pytest.approx(board[method].auc)
        assert actual.replicates == pytest.approx(board[method].replicates)
        assert (actual.low, actual.high) == pytest.approx((board[method].low, board[method].high))


def test_the_interval_of_a_share_covers_it():
    """The order-blind posterior's share of the way is known from many bags; intervals of 400 have it in them."""
    params = shifted_mean.Params(dim=1, delta=1.4)

    def draw(bags: int, rng: np.random.Generator) -> tuple[np.ndarray, list[np.ndarray]]:
        label, lengths = np.arange(bags) % 2 == 1, rng.integers(15, 46, bags)
        x = rng.standard_normal((lengths.sum(), 1))
        x[shifted_mean.draw_runs(params, label, lengths, rng)] += params.delta
        return label, list(shifted_mean.posteriors(params, x, lengths))

    def estimate(label: np.ndarray, scores: np.ndarray, weights: np.ndarray) -> Estimate:
        auc, replicates = stats.weighted_auc(label, scores), stats.bootstrap_auc(label, scores, weights)
        return Estimate(auc, *stats.logit_interval(auc, replicates), replicates)

    label, (ordered, unordered) = draw(30_000, np.random.default_rng(0))
    truth = (roc_auc_score(label, unordered) - 0.5) / (roc_auc_score(label, ordered) - 0.5)
    inside = []
    for seed in range(1, 101):
        rng = np.random.default_rng(seed)
        label, scores = draw(400, rng)
        weights = stats.cluster_weights(np.arange(400), label.astype(int), 300, rng)
        ordered, unordered = (estimate(label, score, weights) for score in scores)
        _, low, high = share_of_the_way(unordered, ordered)
        inside.append(low <= truth <= high)
    assert 0.87 <= np.mean(inside) <= 1  # 95 % of 100, less sampling error


def test_where_order_is_all_there_is_the_blind_one_has_an_auc_of_half(tmp_path):
    params = {"grid": 4, "signals": 4, "dim": 1, "shift": 1.5, "train": 4, "val": 4, "test": 200}
    rows = known_answers(read_cohorts(made_up(tmp_path, "arrangement", params).root), resamples=300)["bayes"]
    actual = {row["method"]: row for row in rows}
    assert {(row["iid"], row["iid_low"], row["iid_high"]) for row in rows} == {(0.5, 0.5, 0.5)}
    assert actual["blind"]["share"] == 0
    assert actual["bayes"]["to_iid_low"] > 0
    assert actual["constant"]["to_iid_low"] == actual["constant"]["to_iid_high"] == 0


def test_sections_of_a_report(store):
    known = known_answers(read_cohorts(store.root), resamples=200)
    (section,) = sections(json.loads(json.dumps(known)))
    assert section.heading == "Against Bayes"
    ((caption, table),) = section.tables
    assert caption.startswith("known-v1 / d: Bayes AUC 0.")
    assert table["Method"].tolist() == sorted(MADE_UP)
    shown = table.set_index("Method")
    assert shown.loc["bayes", "Share of the way [95 %]"] == "1.000 [1.000, 1.000]"
    assert shown.loc["bayes", "Difference to Bayes [95 %]"] == "+0.000 [+0.000, +0.000]"
    assert shown.loc["constant", "Difference to Bayes [95 %]"].startswith("−0.")
    assert sections(None) == sections({"unit_tests": [], "bayes": []}) == []


def test_a_method_with_a_run_that_failed_is_incomplete(trained, tmp_path):
    cohort = read_cohorts(trained)[0]
    runs = {method: dict(cells) for method, cells in cohort.runs.items()}
    (cell, record), *_ = runs["max_instance"].items()
    runs["max_instance"][cell] = replace(record, outcome="oom")
    rows = known_answers([replace(cohort, runs=runs)], resamples=50)["unit_tests"]
    by_method = {row["method"]: row for row in rows}
    assert by_method["max_instance"]["verdict"] == "incomplete"
    assert np.isnan(by_method["max_instance"]["test_auc"])
    assert by_method["support.cheater:NoPoison"]["verdict"] == "violates"
    (section,) = sections({"unit_tests": rows})
    assert section.tables[1][1].set_index("Method").loc["max_instance", "Test AUC [95 %]"] == "–"


def test_other_cohorts_have_no_known_answer(tmp_path):
    store = made_up(tmp_path, "shifted-mean", {"dim": 1, "train": 4, "val": 4, "test": 8}, known=False)
    (store.cohort("d", read_cohorts(store.root)[0].fingerprint) / BAGS).unlink(missing_ok=True)
    assert known_answers(read_cohorts(store.root), resamples=5) == {"unit_tests": [], "bayes": []}


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("slide_id,posterior\ntest-00000,0.5\n", ("labels.csv",)),
        ("slide_id,posterior\ntest-00000,many\n", ("'many'",)),
        ("", ("No columns",)),
        ("posterior\n0.5\n", ("'slide_id'",)),
    ],
)
def test_damaged_posteriors_are_named(tmp_path, text, names):
    store = made_up(tmp_path, "shifted-mean", {"dim": 1, "train": 4, "val": 4, "test": 8})
    cohort = read_cohorts(store.root)[0]
    folder = store.cohort("d", cohort.fingerprint)
    (folder / BAGS).write_text(text)
    with refused("cohort-damaged", folder / BAGS, "checksum"):
        known_answers([cohort], resamples=5)
    (folder / manifest.NAME).unlink()  # as earlier versions stored a cohort
    for run in (run for runs in cohort.runs.values() for run in runs.values()):
        del run.record["files"]  # and their runs
    with refused("cohort-damaged", folder / BAGS, *names):
        known_answers([cohort], resamples=5)


def test_runs_on_other_bags_are_refused(store):
    cohort = read_cohorts(store.root)[0]
    run = cohort.runs["noisy"][cohort.cells[0]]
    file = run.path / "predictions.parquet"
    before = file.read_bytes()
    table = pd.read_parquet(file)
    of_before = {key: value for key, value in run.record.items() if key not in ("files", "checksum")}
    cohort.runs["noisy"][cohort.cells[0]] = replace(run, record=of_before)  # stored before there were checksums
    try:
        table.iloc[:-1].to_parquet(file, index=False)
        with refused("run-other-cohort", "noisy", run.path):
            known_answers([cohort], resamples=5)
        table[table["split"] == "val"].to_parquet(file, index=False)
        with refused("store-damaged", file):
            known_answers([cohort], resamples=5)
    finally:
        file.write_bytes(before)


def test_verdicts_import_no_torch():
    code = "import sys, milbench.evaluation.known_answers; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600, check=True)
    assert done.stdout.strip() == "False"


def test_a_run_of_a_known_cohort_brings_what_is_known_to_its_report(tmp_path):
    params = {"grid": 4, "signals": 4, "dim": 4, "train": 8, "val": 4, "test": 40}
    suite = Suite(name="s", methods=("mean",), data=(DataSpec(name="d", dataset="arrangement", params=params),),
                  recipe={"epochs": 1}, cost=False, unit="bag")  # fmt: skip
    milbench.run(suite, tmp_path / "runs", jobs=1)
    board = evaluate(tmp_path / "runs", resamples=50)
    (row,) = board.known_answers["bayes"]
    assert row["method"] == "mean"
    assert row["bayes"] > 0.9
    assert "## Against Bayes" in write_report(board, tmp_path / "report", "t", "p").read_text()
