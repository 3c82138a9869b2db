"""The rule that detects regressions, on samples whose law is known, and what it does with files."""

import itertools
import json
import math
import re
import subprocess
import sys

import numpy as np
import pytest
from scipy import stats
from support.refusal import refused

from milbench.measure.benchmark_files import FILE_NAME, machine_class, read
from milbench.measure.perf_regression import (
    ALPHA,
    MEMORY_FACTOR,
    MEMORY_FLOOR_BYTES,
    TIME_FACTOR,
    TIME_FLOOR_S,
    compare_file,
    compare_samples,
    main,
    save_reference,
)

ROUNDS, READINGS = 12, 10
HERE = {
    "cpu": {"model": "Intel(R) Xeon(R) CPU @ 2.20GHz (6-85-7)", "cores": 2, "instruction_set": "AVX512"},
    "gpus": [],
    "software": {"torch": "2.13.0+cpu"},
}
ELSEWHERE = HERE | {"gpus": [{"name": "NVIDIA H100 80GB HBM3"}], "software": {"torch": "2.12.1"}}


def noisy(rng, median, spread, *shape):
    return median * np.exp(spread * rng.standard_normal(shape))


# The rule


def test_a_planted_slowdown_is_caught_and_the_rank_test_is_scipys():
    rng = np.random.default_rng(0)
    for _ in range(500):
        old, new = noisy(rng, 0.01, 0.05, ROUNDS), noisy(rng, 0.015, 0.05, ROUNDS)
        verdict = compare_samples(new, old, floor=TIME_FLOOR_S)
        # Two medians of 12 with 5 % noise: log of their ratio has sd 2.6 %, and 1.5 lies 5.6 of them above 1.3.
        assert verdict.regression
        assert verdict.factor == pytest.approx(np.median(new) / np.median(old))
        assert verdict.p == stats.mannwhitneyu(new, old, alternative="greater", method="exact").pvalue


def test_unchanged_benchmarks_raise_no_alarm():
    """1000 runs of 60 benchmarks. By the rule's arithmetic 5 % noise would have to lie 10 standard deviations out."""
    rng = np.random.default_rng(1)
    old, new = noisy(rng, 0.01, 0.05, 60_000, ROUNDS), noisy(rng, 0.01, 0.05, 60_000, ROUNDS)
    sd = 0.05 * math.sqrt(math.pi / 2 / ROUNDS) * math.sqrt(2)
    assert 60_000 * stats.norm.sf(math.log(TIME_FACTOR) / sd) < 1e-6
    # An alarm needs the factor, so the rule is applied only where the medians are that far apart.
    far = np.median(new, axis=1) > np.median(old, axis=1) * 1.05
    assert 0 < far.sum() < 6000
    assert not any(compare_samples(x, y).regression for x, y in zip(new[far], old[far], strict=True))


def test_noise_as_large_as_the_factor_is_held_by_the_level():
    rng = np.random.default_rng(2)
    old, new = noisy(rng, 0.01, 0.5, 20_000, ROUNDS), noisy(rng, 0.01, 0.5, 20_000, ROUNDS)
    far = np.median(new, axis=1) > TIME_FACTOR * np.median(old, axis=1)
    assert far.mean() > 0.1  # the factor alone would cry wolf in one benchmark of ten
    alarms = sum(compare_samples(x, y).regression for x, y in zip(new[far], old[far], strict=True))
    assert alarms <= stats.binom.ppf(0.9999, len(old), ALPHA)


@pytest.mark.parametrize("ties", [False, True])
def test_p_is_the_share_of_orders_at_least_as_extreme(ties):
    rng = np.random.default_rng(3)
    old, new = rng.normal(0, 1, 6), rng.normal(1.2, 1, 6)
    if ties:
        old, new = old.round(0), new.round(0)

    def wins(x, y):
        return sum(float(np.sign(a - b) + 1) / 2 for a in x for b in y)

    pooled, chosen = np.concatenate([new, old]), itertools.combinations(range(12), 6)
    orders = [wins(pooled[list(c)], np.delete(pooled, c)) >= wins(new, old) for c in chosen]
    assert compare_samples(new, old).p == pytest.approx(np.mean(orders), rel=0.25 if ties else 1e-9)


@pytest.mark.parametrize("spread", [0, 0.02])
def test_a_planted_growth_of_memory_is_caught(spread):
    """The allocator often repeats itself to the byte: equal readings against equal ones are enough."""
    rng = np.random.default_rng(4)
    old, new = noisy(rng, 40e6, spread, READINGS), noisy(rng, 80e6, spread, READINGS)
    assert compare_samples(new, old, MEMORY_FACTOR, floor=MEMORY_FLOOR_BYTES).regression
    new[0] = old[0] * 0.9  # a stray reading on either side hides nothing
    assert compare_samples(new, old, MEMORY_FACTOR, floor=MEMORY_FLOOR_BYTES).regression


def test_factor_significance_and_floor_are_all_needed():
    steps = np.linspace(0.99, 1.01, ROUNDS)
    significant = compare_samples(1.2 * steps, steps)
    assert significant.p < ALPHA
    assert not significant.regression

    wide = np.array([1.0] * 6 + [9.0] * 6) * steps
    large = compare_samples(np.append(wide[:5], wide[5:] * 1.01), wide[::-1] * 0.7)
    assert large.factor > TIME_FACTOR
    assert large.p > ALPHA
    assert not large.regression

    assert compare_samples(40e-6 * steps, 25e-6 * steps, floor=10e-6).regression
    assert not compare_samples(40e-6 * steps, 25e-6 * steps, floor=TIME_FLOOR_S).regression


def test_samples_that_cannot_decide_say_so():
    assert not compare_samples([9.0] * 4, [1.0] * 4).decidable  # 1 / C(8, 4) = .014
    assert compare_samples([9.0] * 8, [1.0] * 8).decidable
    nothing = compare_samples([0.0] * 8, [0.0] * 8)
    assert (nothing.factor, nothing.p, nothing.regression) == (1, 1, False)
    assert compare_samples([5.0] * 8, [0.0] * 8).factor == math.inf


# Files


def entry(name="abmil-infer-8000", time=0.01, gemm=0.006, peak=40e6, seed=0, rounds=ROUNDS, **yardsticks):
    rng = np.random.default_rng([seed, *name.encode()])
    extra = {f"{k}_seconds": noisy(rng, v, 0.03, rounds).tolist() for k, v in {"gemm": gemm, **yardsticks}.items()}
    extra["calls_a_round"] = 1
    if peak is not None:
        extra["peak_bytes"] = [int(v) for v in noisy(rng, peak, 0.01, READINGS)]
    data = noisy(rng, time, 0.03, rounds).tolist()
    where = f"/home/someone/tests/perf/test_regression.py::test_method[{name}]"
    return {"fullname": where, "name": f"test_method[{name}]", "extra_info": extra, "stats": {"data": data}}


def write(path, *entries, environment=HERE):
    value = {
        "machine_info": {"node": "somehost", "user": "someone", "cpu": {"flags": ["avx"]}, "milbench": environment},
        "commit_info": {"id": "abc", "dirty": False, "project": "/home/someone/milbench", "branch": "someones"},
        "datetime": "2026-01-01T00:00:00+00:00",
        "version": "5.3.1",
        "benchmarks": entries or [entry(), entry("mean-train-64", peak=None)],
    }
    path.write_text(json.dumps(value))
    return path


@pytest.fixture
def compared(tmp_path):
    """Compare entries with a reference made of others, of the same machine class or of another."""

    def compare(new, old=None, elsewhere=False):
        first = write(tmp_path / "old.json", *(old or [entry(seed=1)]), environment=ELSEWHERE if elsewhere else HERE)
        save_reference(first, tmp_path / "references")
        return compare_file(write(tmp_path / "new.json", *new), tmp_path / "references")

    return compare


def verdicts(report):
    return {row.quantity: row.verdict for row in report.rows}


def test_unchanged_is_ok(compared):
    report = compared([entry()])
    assert report.exit_code == 0
    assert verdicts(report) == {"time": "ok", "time / gemm": "ok", "peak memory": "ok"}
    assert report.lines[-1] == "3 quantities of 1 benchmarks, 0 failures"


def test_a_slowdown_fails_and_is_named(compared):
    report = compared([entry(time=0.015)])
    assert report.exit_code == 3
    (line,) = [line for line in report.lines if line.startswith("regression")]
    assert "test_regression.py::test_method[abmil-infer-8000], time" in line
    assert re.search(r" [\d.]+ ms -> 1[45][\d.]* ms \(1\.[45]\dx, p \S+\)$", line)


def test_more_memory_fails_and_is_named(compared):
    report = compared([entry(peak=80e6)])
    assert report.exit_code == 3
    assert verdicts(report) == {"time": "ok", "time / gemm": "ok", "peak memory": "regression"}
    assert any("peak memory 38." in line and "MiB" in line for line in report.lines)


def test_a_slow_machine_is_no_regression(compared):
    report = compared([entry(time=0.02, gemm=0.012)])
    assert report.exit_code == 0
    assert verdicts(report)["time"] == "slow machine"


def test_a_lucky_yardstick_is_no_regression(compared):
    report = compared([entry(gemm=0.003)])
    assert report.exit_code == 0
    assert verdicts(report)["time"] == "ok"


def test_every_yardstick_must_agree(compared):
    old = [entry(seed=1, copy=0.004)]
    assert compared([entry(time=0.015, copy=0.007)], old).exit_code == 0
    assert compared([entry(time=0.015, copy=0.004)], old).exit_code == 3


def test_a_reference_made_on_a_busy_machine_is_pointed_out(compared):
    report = compared([entry()], [entry(seed=1, gemm=0.012, time=0.02)])
    assert any("busy" in line for line in report.lines)


def test_an_improvement_is_reported(compared):
    report = compared([entry(time=0.005)])
    assert report.exit_code == 0
    assert verdicts(report)["time"] == "better"
    assert any("better" in line and "regression save" in line for line in report.lines)


def test_another_machine_class_is_compared_by_ratios_and_memory_alone(compared):
    old = [entry(seed=1, authors=0.1, copy=0.004)]
    faster = compared([entry(time=0.02, gemm=0.012, copy=0.008, authors=0.2)], old, elsewhere=True)
    assert faster.exit_code == 0
    assert verdicts(faster) == {
        "time": "not compared", "time / gemm": "ok", "time / copy": "ok", "time / authors": "ok", "peak memory": "ok",
    }  # fmt: skip
    assert any("seconds are not compared" in line for line in faster.lines)
    # 1.5x is within what another machine may do to a ratio; 2.5x is not.
    assert compared([entry(time=0.015, authors=0.1, copy=0.004)], old, elsewhere=True).exit_code == 0
    slower = compared([entry(time=0.025, authors=0.25, copy=0.004)], old, elsewhere=True)
    assert slower.exit_code == 3
    assert verdicts(slower)["time / gemm"] == verdicts(slower)["time / copy"] == "regression"
    assert verdicts(slower)["time / authors"] == "ok"
    one_yardstick = compared([entry(time=0.025, authors=0.25, copy=0.01)], old, elsewhere=True)
    assert one_yardstick.exit_code == 0
    authors = compared([entry(time=0.025, authors=0.1, copy=0.01)], old, elsewhere=True)
    assert verdicts(authors)["time / authors"] == "regression"
    assert compared([entry(peak=80e6, copy=0.004, authors=0.1)], old, elsewhere=True).exit_code == 3


def test_the_authors_form_is_no_yardstick_of_the_machine(compared):
    """It changes with torch as ours does: on the same class the seconds and the machine's yardsticks decide."""
    report = compared([entry(time=0.015, authors=0.15)], [entry(seed=1, authors=0.1)])
    assert report.exit_code == 3
    assert verdicts(report)["time / authors"] == "not compared"


def test_a_missing_reference_fails_and_names_the_command(tmp_path, compared):
    report = compare_file(write(tmp_path / "lone.json"), tmp_path / "nowhere")
    assert report.exit_code == 3
    assert (
        f"python -m milbench.measure.perf_regression save {tmp_path / 'lone.json'} {tmp_path / 'nowhere'}"
        in report.lines[0]
    )

    report = compared([entry(), entry("new-train-64")])
    assert report.exit_code == 3
    assert "no reference: test_regression.py::test_method[new-train-64], time" in report.lines
    assert any("regression save" in line for line in report.lines)


def test_what_the_run_lacks_fails(compared):
    report = compared([entry()], [entry(seed=1), entry("mean-train-64", seed=1)])
    assert report.exit_code == 3
    assert "missing: test_regression.py::test_method[mean-train-64], time" in report.lines
    report = compared([entry(peak=None)], [entry(seed=1, copy=0.004)])
    assert verdicts(report) == {"time": "ok", "time / gemm": "ok", "time / copy": "missing", "peak memory": "missing"}
    assert report.exit_code == 3


def test_too_few_samples_fail_and_make_no_reference(compared, tmp_path):
    report = compared([entry(rounds=1)])
    assert report.exit_code == 3
    assert verdicts(report)["time"] == "too few samples"
    with refused("benchmark-unusable", "5"):
        save_reference(write(tmp_path / "few.json", entry(rounds=5)), tmp_path / "references")


def test_a_reference_holds_samples_and_machine_but_nobodys_name(tmp_path):
    names = [f"method{i}-train-8000" for i in range(60)]
    new = write(tmp_path / "new.json", *(entry(name, copy=0.004, authors=0.1) for name in names))
    out = save_reference(new, tmp_path / "references")
    assert out == tmp_path / "references" / machine_class(HERE) / FILE_NAME
    text = out.read_text()
    assert not any(word in text for word in ("somehost", "someone", "/home", str(tmp_path)))
    assert len(text) < 150_000
    assert max(map(len, text.splitlines())) < 1000
    before, kept = read(new), read(out)
    assert kept.environment == HERE
    assert kept.raw["commit_info"] == {"id": "abc", "dirty": False}
    for name, benchmark in kept.benchmarks.items():
        np.testing.assert_allclose(benchmark.seconds, before.benchmarks[name].seconds, rtol=5e-4)
        np.testing.assert_allclose(benchmark.peak_bytes, before.benchmarks[name].peak_bytes, rtol=5e-4)
    assert compare_file(new, tmp_path / "references").exit_code == 0


def test_a_machine_class_reads_as_what_it_is():
    assert machine_class(HERE) == "intel-xeon-cpu-2.20ghz-6-85-7_2-cores_avx512_torch-2.13_cpu"
    assert machine_class(ELSEWHERE).endswith("_torch-2.12_nvidia-h100-80gb-hbm3")


def test_the_most_similar_class_stands_in(tmp_path):
    near = HERE | {"software": {"torch": "2.12.0"}}
    far = ELSEWHERE | {"cpu": {"model": "A", "cores": 64, "instruction_set": "AVX2"}}
    for environment in (far, near):
        save_reference(write(tmp_path / "old.json", environment=environment), tmp_path / "references")
    report = compare_file(write(tmp_path / "new.json"), tmp_path / "references")
    assert machine_class(near) in report.lines[0]


@pytest.mark.parametrize(
    ("text", "refusal"),
    [
        (None, ("file-missing",)),
        ("{", ("benchmark-unusable",)),
        ("[]", ("benchmark-unusable",)),
        ('{"benchmarks": [], "machine_info": {}}', ("benchmark-unusable",)),
        (json.dumps({"machine_info": {"milbench": HERE}, "benchmarks": []}), ("benchmark-unusable",)),
        (json.dumps({"machine_info": {"milbench": HERE}, "benchmarks": [{}]}), ("benchmark-unusable",)),
        (
            json.dumps({"machine_info": {"milbench": HERE}, "schema": 9, "benchmarks": [{}]}),
            ("benchmark-unusable", "9"),
        ),
    ],
)
def test_what_cannot_be_read_is_one_sentence_with_the_file_in_it(tmp_path, text, refusal):
    path = tmp_path / "bad.json"
    if text is not None:
        path.write_text(text)
    with refused(*refusal) as error:
        compare_file(path, tmp_path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("data", [None, [], [1, "x"], [1.0, math.nan], [1.0, -1.0], [1.0, 0.0], 3])
def test_samples_that_are_no_times_are_refused(tmp_path, data):
    bad = entry()
    bad["stats"] = {} if data is None else {"data": data}
    with refused("benchmark-unusable", "abmil-infer-8000]"):
        read(write(tmp_path / "new.json", bad))


def test_one_yardstick_a_round_and_one_entry_a_benchmark(tmp_path):
    bad = entry()
    bad["extra_info"]["gemm_seconds"].pop()
    with refused("benchmark-unusable", "gemm_seconds"):
        read(write(tmp_path / "new.json", bad))
    with refused("benchmark-unusable"):
        read(write(tmp_path / "new.json", entry(), entry()))


def test_a_damaged_reference_is_an_error_not_an_absence(tmp_path):
    out = save_reference(write(tmp_path / "old.json"), tmp_path / "references")
    out.write_text(out.read_text()[:500])
    with refused("benchmark-unusable", FILE_NAME):
        compare_file(write(tmp_path / "new.json"), tmp_path / "references")


def test_exit_codes(tmp_path, capsys):
    new, slow, folder = tmp_path / "new.json", tmp_path / "slow.json", str(tmp_path / "references")
    write(new, entry()), write(slow, entry(time=0.02))
    assert main(["compare", str(new), folder]) == 3
    assert main(["save", str(new), folder]) == 0
    assert main(["compare", str(new), folder]) == main(["judge", str(new), folder]) == 0
    assert main(["compare", str(slow), folder]) == 3
    assert "regression: " in capsys.readouterr().out
    assert main(["compare", str(tmp_path / "none.json"), folder]) == 1
    assert "does not exist" in capsys.readouterr().err
    assert main(["no-such-command"]) == main([]) == 1
    run = subprocess.run(
        [sys.executable, "-m", "milbench.measure.perf_regression", "compare", str(slow), folder], timeout=120
    )
    assert run.returncode == 3
