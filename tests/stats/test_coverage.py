"""Coverage and level, simulated with the code that makes results/statistics, and the committed tables.

A simulated share may be off by four of its own errors: random error alone then fails none of a few hundred shares.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from results.statistics.coverage_report import COVERAGE_BAND, LEVEL_BAND, write
from results.statistics.simulate_coverage import MACRO_COUNTS, TABLES, Sizes, main, table

RESULTS = Path(__file__).resolve().parents[2] / "results" / "statistics"
SMALL = {
    "intervals": Sizes(closed=500, resampled=100, resamples=199, slides=(50, 130), aucs=(0.6, 0.98)),
    "shapes": Sizes(closed=800, slides=(130,), aucs=(0.98,)),
    "patients": Sizes(closed=800, resampled=0, resamples=398, slides=(130,), aucs=(0.9,)),
    "leaderboards": Sizes(resampled=120, resamples=199, slides=(130,), aucs=(0.9,)),
    "seed_levels": Sizes(resampled=80, resamples=99),
    "levels": Sizes(resampled=120, resamples=199, slides=(130,), aucs=(0.9,)),
    "patient_levels": Sizes(resampled=200, resamples=199, slides=(130,), aucs=(0.6,)),
    "folds": Sizes(closed=1000, resampled=100),
    "runs": Sizes(resampled=100, resamples=199),
    "ranks": Sizes(resampled=150, resamples=199),
    "power": Sizes(resampled=200, resamples=199, slides=(130,)),
    "macro": Sizes(resampled=60, resamples=300),
    "macro_seeds": Sizes(resampled=100, resamples=400),
    "seeds": Sizes(resampled=16, resamples=300),
    "rank_intervals": Sizes(resampled=20, resamples=300),
}


@pytest.fixture(scope="module")
def small():
    assert set(SMALL) == set(TABLES)
    return {name: table(name, sizes) for name, sizes in SMALL.items()}


def within(rows, band, slack=4.0):
    share = rows["coverage" if "coverage" in rows else "rejected"]
    return (share > band[0] - slack * rows["error"]) & (share < band[1] + slack * rows["error"])


def of(rows, method, **where):
    for column, value in (("method", method), *where.items()):
        rows = rows[rows[column] == value]
    assert len(rows)
    return rows


def test_the_default_interval_covers_and_the_common_ones_do_not(small):
    rows = small["intervals"]
    perfect = (rows["slides"] == 50) & (rows["auc"] == 0.98)
    assert within(of(rows[~perfect], "logit"), COVERAGE_BAND).all()
    assert of(rows[perfect], "logit")["coverage"].item() > 0.95
    assert (of(rows, "guarded")["coverage"] > 0.935).all()
    for method in ("wald", "percentile"):
        assert of(rows, method, slides=50, auc=0.98)["coverage"].item() < 0.9
    assert within(of(rows, "bootstrap-logit", slides=130), COVERAGE_BAND).all()
    assert within(of(rows, "bca", slides=130), COVERAGE_BAND).all()


def test_only_the_guard_covers_where_positives_are_missed(small):
    rows = small["shapes"]
    assert of(rows, "logit", scores="missed positives")["coverage"].item() < 0.88
    assert (of(rows, "guarded")["coverage"] > 0.935).all()


def test_patients_are_the_unit(small):
    rows = small["patients"]
    assert within(of(rows, "logit"), COVERAGE_BAND).all()
    assert (of(rows, "logit, slides as their own")["coverage"] < 0.93).all()


def test_the_mean_over_seeds_or_folds_covers(small):
    rows = small["leaderboards"]
    assert (of(rows, "logit")["coverage"] > COVERAGE_BAND[0] - 4 * of(rows, "logit")["error"]).all()
    assert (of(rows, "logit")["coverage"].to_numpy() >= of(rows, "percentile")["coverage"].to_numpy() - 0.01).all()


def test_few_seeds_are_not_taken_for_many(small):
    rows = small["seed_levels"]
    student, drawn = of(rows, "Student"), of(rows, "with replacement", spread=1.0)
    assert (student["rejected"] < LEVEL_BAND[1] + 4 * student["error"]).all()
    assert (drawn[drawn["seeds"] <= 3]["rejected"] > 0.1).all()
    assert (of(rows, "slides alone", spread=1.0)["rejected"] > 0.3).all()


def pooled(rows):
    """The share of all settings together: a setting has a few simulations here."""
    return float(np.average(rows["coverage"], weights=rows["simulations"]))


def test_the_mean_of_classes_covers_where_one_is_rare(small):
    rows = small["macro"]
    assert pooled(of(rows, "mean_interval")) > 0.92
    rare = rows[rows["counts"].isin(["200 x 5 + 1", "40 x 2 + 1"])]
    assert pooled(of(rare, "mean_interval")) > 0.9
    assert pooled(of(rare, "logit")) < 0.7
    assert (of(rows, "mean_interval", counts="200 x 5 + 1")["perfect_low"] > 0.8).all()


def test_the_mean_of_classes_over_seeds_is_not_stretched_by_a_rare_class(small):
    rows = small["macro_seeds"]
    assert pooled(of(rows, "mean")) > 0.9
    assert pooled(of(rows, "difference")) > 0.9
    assert (of(rows, "mean")["to_patients"] < 2).all()


def test_seeds_whose_variance_is_pooled_cover_and_are_not_useless(small):
    rows = small["seeds"]
    assert pooled(of(rows, "mean", methods=6)) > 0.88
    assert pooled(of(rows, "difference", methods=6)) > 0.85
    assert pooled(of(rows, "patients alone", spread="much")) < 0.85
    assert (of(rows, "mean", spread="little")["to_patients"] < 2.5).all()


def test_ranks_hold_together(small):
    rows = small["rank_intervals"]
    assert pooled(of(rows, "simultaneous")) > 0.9
    assert pooled(of(rows, "pair by pair", methods=6, aucs="equal")) < 0.9


def test_paired_tests_keep_their_level(small):
    rows = small["levels"]
    assert within(of(rows, "delong"), (0.025, LEVEL_BAND[1])).all()
    assert within(of(rows, "permutation"), LEVEL_BAND).all()
    by_patient = small["patient_levels"]
    for method in ("delong", "permutation"):
        assert within(of(by_patient, method), LEVEL_BAND).all()
    assert (of(by_patient, "delong, slides as their own")["rejected"] > 0.065).all()


def test_folds_tasks_and_runs(small):
    folds = small["folds"]
    assert within(of(folds, "Nadeau-Bengio", design="equally correlated, 1 / k"), LEVEL_BAND).all()
    assert (of(folds, "Nadeau-Bengio")["rejected"] < 0.065).all()
    assert (of(folds, "plain t", repeats=5)["rejected"] > 0.3).all()
    ranks = small["ranks"]
    for method in ("Friedman", "Nemenyi, any pair", "sign flips, Holm, any pair"):
        assert within(of(ranks, method), (0.03, LEVEL_BAND[1])).all()
    assert (of(ranks, "sign flips, any pair")["rejected"] > 0.1).all()
    runs = small["runs"]
    for method in ("stretched", "expanded"):
        assert within(of(runs, method), (0.92, 0.97)).all()


def test_the_planned_difference_is_seen_as_planned(small):
    rows = small["power"]
    assert within(of(rows, "delong"), (0.76, 0.88)).all()
    assert rows["error_simulated"].to_numpy() == pytest.approx(rows["error_planned"].to_numpy(), rel=0.2)


def test_the_report_shows_every_table_and_marks_what_is_outside(small, tmp_path):
    write(small, SMALL["intervals"], {"intervals": 2.5}, tmp_path)
    assert pd.read_csv(tmp_path / "minutes.csv").to_numpy().tolist() == [["intervals", 2.5]]
    text = (tmp_path / "README.md").read_text()
    for name, rows in small.items():
        assert f"`{name}.csv`" in text
        back = pd.read_csv(tmp_path / f"{name}.csv")
        assert list(back["method"]) == list(rows["method"])
    wald = of(small["intervals"], "wald", slides=50, auc=0.98)["coverage"].item()
    assert f"| 50 | 0.98 | {of(small['intervals'], 'logit', slides=50, auc=0.98)['coverage'].item():.3f} +" in text
    assert f"{wald:.3f} −" in text


def test_a_table_is_made_again_alone_and_the_others_stay(small, tmp_path, monkeypatch):
    write(small, SMALL["intervals"], {"others": 9.0}, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.csv")}
    monkeypatch.setitem(TABLES, "folds", lambda sizes: iter([{
        "design": "another", "method": "plain t", "rejected": 0.05, "error": 0.01, "simulations": sizes.resampled,
    }]))  # fmt: skip
    main([str(tmp_path), "--quick", "--tables", "folds"])
    changed = {path.name for path in tmp_path.glob("*.csv") if path.read_bytes() != before[path.name]}
    assert changed == {"folds.csv", "minutes.csv"}
    assert pd.read_csv(tmp_path / "minutes.csv")["table"].tolist() == ["others", "folds"]
    assert "| another | 0.050 |" in (tmp_path / "README.md").read_text()


@pytest.fixture(scope="module")
def committed():
    if not (RESULTS / "intervals.csv").is_file():
        pytest.skip("results/statistics is not made yet: python results/statistics/simulate_coverage.py")
    return {name: pd.read_csv(RESULTS / f"{name}.csv") for name in TABLES}


def test_the_committed_tables_hold_what_is_promised(committed):
    intervals = committed["intervals"]
    assert len(of(intervals, "logit")) == 9
    perfect = (intervals["slides"] == 50) & (intervals["auc"] == 0.98)
    assert within(of(intervals[~perfect], "logit"), COVERAGE_BAND, slack=0).all()
    assert (intervals["error"] < 0.012).all()
    assert (of(committed["seed_levels"], "Student")["rejected"] < LEVEL_BAND[1]).all()
    boards = of(committed["leaderboards"], "logit")
    assert (boards["coverage"] > COVERAGE_BAND[0] - 0.02).all()
    levels = committed["levels"]
    same = levels[levels["methods"].str.startswith("exchangeable")]
    few = (same["slides"] == 50) & (same["auc"] == 0.98)
    assert within(of(same[~few], "permutation"), LEVEL_BAND, slack=0).all()
    assert (same[same["method"].isin(["delong", "permutation"])]["rejected"] < LEVEL_BAND[1]).all()


def test_the_committed_tables_of_means_over_classes_and_seeds_and_of_ranks(committed):
    """Where they meet the nominal level; where not, the README next to them says so with its reason."""
    rows = committed["macro"]
    assert set(rows["counts"]) == set(MACRO_COUNTS)
    assert (rows["classes"].min(), rows["classes"].max()) == (3, 10)
    assert (rows["error"] < 0.017).all()
    seeds, ranks = committed["seeds"], committed["rank_intervals"]
    assert set(seeds["seeds"]) == {2, 3, 5}
    assert (of(rows, "mean_interval", counts="200 x 5 + 1")["perfect_low"] > 0.8).all()
    assert (of(seeds, "mean", spread="little")["to_patients"] < 2.5).all()
    assert (of(ranks, "simultaneous")["simulations"] >= 500).all()
    assert of(rows, "mean_interval")["coverage"].between(0.93, 1.0).all()
    ordinary = rows[rows["counts"].isin(["40 x 3", "20 x 10"])]
    assert within(of(ordinary, "mean_interval"), COVERAGE_BAND, slack=1).all()
    rare = rows[~rows.index.isin(ordinary.index)]
    assert of(rare, "mean_interval")["coverage"].between(0.955, 1.0).all()
    assert of(rare, "logit")["coverage"].between(0.17, 0.93).all()
    assert of(ranks, "simultaneous", aucs="equal")["coverage"].between(0.942, 0.969).all()
    assert (of(ranks, "simultaneous")["coverage"] > 0.94).all()
    both = committed["macro_seeds"]
    assert set(both["seeds"]) == {2, 3, 5}
    assert (of(both, "mean")["coverage"] > 0.935).all()
    assert (of(both, "difference")["coverage"] > 0.935).all()
    assert (both["to_one_seed"] < 1.6).all()
    equal = seeds[(seeds["methods"] == 6) & (seeds["failed"] == 0)]
    assert of(equal, "mean", auc=0.8)["coverage"].between(0.93, 0.956).all()
    assert of(equal, "mean", auc=0.95)["coverage"].between(0.92, 0.948).all()
    assert of(seeds, "mean, steady")["coverage"].between(0.976, 0.999).all()
    assert of(seeds, "mean, unsteady")["coverage"].between(0.83, 0.93).all()
    assert of(seeds, "failed method")["coverage"].between(0.906, 0.964).all()


def test_the_committed_tables_say_what_the_docstrings_say(committed):
    """Figures of `auc_interval`, `auc_difference`, `AucEstimates.test`, `seed_weights`, `corrected_t_test`,
    `run_interval` and `planned_difference`."""
    intervals, shapes = committed["intervals"], committed["shapes"]
    assert of(intervals, "logit")["coverage"].between(0.94, 0.985).all()
    for method, n, share in (
        ("wald", 50, 0.78),
        ("percentile", 50, 0.83),
        ("percentile", 130, 0.91),
        ("bca", 50, 0.91),
    ):
        assert of(intervals, method, slides=n, auc=0.98)["coverage"].item() == pytest.approx(share, abs=0.015)
    missed = of(shapes, "logit", scores="missed positives", slides=130, auc=0.98)["coverage"].item()
    assert missed == pytest.approx(0.78, abs=0.02)
    for rows in (intervals, shapes, committed["patients"]):
        assert of(rows, "guarded")["coverage"].between(0.94, 0.99).all()
    assert of(committed["patients"], "logit")["coverage"].between(0.91, 0.99).all()
    folds = committed["folds"]
    assert of(folds, "plain t", repeats=5)["rejected"].to_numpy() == pytest.approx([0.42, 0.42], abs=0.03)
    runs = committed["runs"]
    plain = of(runs, "as rliable", statistic="IQM")["coverage"].to_numpy()
    assert plain == pytest.approx([0.87, 0.91, 0.93], abs=0.012)
    assert of(committed["power"], "delong")["rejected"].between(0.76, 0.89).all()
    levels = committed["levels"]
    near_one, delong = levels["auc"] == 0.98, levels["method"] == "delong"
    assert of(levels[near_one], "delong", slides=50)["rejected"].item() == pytest.approx(0.001, abs=0.001)
    assert levels[near_one & delong & (levels["slides"] == 130)]["rejected"].between(0.01, 0.045).all()
    assert levels[~near_one & delong]["rejected"].between(0.025, 0.065).all()
    equal = levels["methods"].str.startswith("exchangeable")
    assert of(levels[equal], "percentile")["rejected"].between(0.025, 0.079).all()
    assert of(levels[~equal], "percentile")["rejected"].max() == pytest.approx(0.12, abs=0.005)
    assert of(committed["patient_levels"], "percentile")["rejected"].between(0.024, 0.106).all()
    for rows in (levels, committed["patient_levels"]):
        assert of(rows, "bca")["rejected"].max() == pytest.approx(0.2, abs=0.006)
    seeds = committed["seed_levels"]
    few = seeds[seeds["seeds"] <= 5]
    drawn = of(few, "with replacement", spread=1.0)["rejected"].to_numpy()
    assert drawn == pytest.approx([0.32, 0.20, 0.13], abs=0.005)
    assert of(few, "Student", spread=1.0)["rejected"].between(0.02, 0.04).all()
    assert of(few[few["spread"] < 1], "Student")["rejected"].between(0.005, 0.035).all()
