"""The table from samples made up by hand: every figure is one a reader can check with a pencil."""

import math

import numpy as np
import pytest

from milbench.runs.scaling.table import COLUMNS, MEMORY_FLOOR_BYTES, Cells, growth_exponent, short_name, tidy

MIB = 1 << 20


def memory(peak=MIB, flops=1000, mandatory=800, size=4000):
    return {"peak_bytes": peak, "reserved_bytes": None, "process_bytes": None, "parameters": 5, "flops": flops,
            "flops_mandatory": mandatory, "bytes_mandatory": size}  # fmt: skip


def row(method="m", mode="infer", n=10, seconds=((1.0, 2.0), (3.0, 4.0, 5.0)), gemm=((0.5,), (0.25,)), **figures):
    return Cells(
        method, mode, n, rounds=list(seconds), gemm=list(gemm), gemm_flops=[100] * len(gemm), memory=memory(**figures)
    )


def table(*cells, flops_per_s=1000.0, read_bytes_per_s=1e4, **options):
    return tidy(cells, dtype="fp32", device="d", in_dim=4, flops_per_s=flops_per_s,
                read_bytes_per_s=read_bytes_per_s, **options)  # fmt: skip


def test_a_share_of_the_best_rate_is_that_of_the_tables_best():
    actual = table(row(n=10), row(n=20, gemm=((0.5,), (0.5,))), row(n=30, gemm=((2.0,), (2.0,))))
    assert actual["share_of_best"].tolist() == pytest.approx([1.0, 200 / 300, 50 / 300])


def only(*cells, **options):
    return table(*cells, **options).iloc[0]


def test_columns_are_the_documented_ones_in_order():
    assert list(table(row())) == list(COLUMNS)


def test_seconds_and_rates():
    r = only(row())
    assert r["iterations"] == 5
    assert (r["seconds_low"], r["seconds_median"], r["seconds_high"]) == (2.0, 3.0, 4.0)
    assert r["bags_per_s"] == pytest.approx(1 / 3)
    assert r["patches_per_s"] == pytest.approx(10 / 3)
    assert only(row(seconds=((1.0,),), gemm=((1.0,),)))["seconds_high"] == 1.0


def test_the_machines_own_multiply():
    r = only(row())
    assert r["gemm_flops_per_s"] == pytest.approx((100 / 0.5 + 100 / 0.25) / 2)
    # Round by round: 1.5 s at 200/s and 4 s at 400/s, over 800 operations.
    assert r["time_over_gemm"] == pytest.approx((1.5 * 200 / 800 + 4 * 400 / 800) / 2)
    assert math.isnan(only(row(flops=0, mandatory=0))["time_over_gemm"])


@pytest.mark.parametrize(
    ("figures", "seconds", "bound"),
    [
        ({}, 0.8, "compute"),  # 800 operations at 1000/s against 4000 bytes at 10000/s
        ({"size": 9000}, 0.9, "memory"),
    ],
)
def test_the_ceiling_is_the_longer_of_two_times(figures, seconds, bound):
    r = only(row(**figures))
    assert r["ceiling_seconds"] == pytest.approx(seconds)
    assert r["bound_by"] == bound
    assert r["fraction_of_ceiling"] == pytest.approx(seconds / 3.0)


def test_growth_is_of_one_method_and_mode():
    def made(method, mode, power, grows):
        return [row(method, mode, n, seconds=((1e-6 * n**power,),), gemm=((1.0,),), peak=MIB * n**grows)
                for n in (10, 100, 1000)]  # fmt: skip

    df = table(*made("a", "infer", 2, 1), *made("a", "train", 1, 1.5), *made("b", "infer", 0.5, 0))
    actual = dict(list(df.groupby(["method", "mode"])))
    for key, time, space in ((("a", "infer"), 2, 1), (("a", "train"), 1, 1.5), (("b", "infer"), 0.5, 0)):
        assert list(actual[key]["time_growth_exponent"]) == pytest.approx([time] * 3)
        assert list(actual[key]["memory_growth_exponent"]) == pytest.approx([space] * 3, abs=1e-6)


def test_growth_leaves_out_what_did_not_end_ok_and_what_is_too_small():
    df = table(
        row(n=10, seconds=((1.0,),), gemm=((1.0,),), peak=int(MEMORY_FLOOR_BYTES / 2)),
        row(n=20, seconds=((2.0,),), gemm=((1.0,),), peak=MIB),
        row(n=40, seconds=((4.0,),), gemm=((1.0,),), peak=4 * MIB),
        Cells("m", "infer", 80, "oom", "time: no memory"),
    )
    assert list(df["time_growth_exponent"]) == pytest.approx([1.0] * 4)
    assert list(df["memory_growth_exponent"]) == pytest.approx([2.0] * 4)
    last = df.iloc[-1]
    assert (last["outcome"], last["reason"]) == ("oom", "time: no memory")
    figures = [c for c in list(COLUMNS)[list(COLUMNS).index("iterations") :] if "growth" not in c and c != "bound_by"]
    assert last[figures].isna().all()
    assert last["bound_by"] == ""


def test_growth_exponent_needs_two_lengths():
    assert math.isnan(growth_exponent(np.array([5.0]), np.array([1.0])))
    assert math.isnan(growth_exponent(np.array([5.0, 6.0]), np.array([1.0, math.nan])))
    assert math.isnan(growth_exponent(np.array([5.0, 6.0]), np.array([1.0, 0.0])))
    x = np.array([3.0, 10.0, 70.0, 900.0])
    noisy = 5 * x**1.3 * np.array([1.1, 0.9, 1.05, 0.97])
    assert growth_exponent(x, noisy) == pytest.approx(np.polyfit(np.log(x), np.log(noisy), 1)[0])


def test_against():
    df = table(
        row("fast", peak=2 * MIB, seconds=((1.0,),), gemm=((1.0,),)),
        row("slow", peak=8 * MIB, seconds=((3.0,),), gemm=((1.0,),)),
        row("fast", "train", seconds=((1.0,),), gemm=((1.0,),)),
        Cells("slow", "train", 10, "oom", "r"),
        row("fast", n=20, seconds=((1.0,),), gemm=((1.0,),)),
        row("slow", n=20, peak=8, seconds=((2.0,),), gemm=((1.0,),)),
        against={"fast": "slow"},
    )
    assert list(df["against"]) == ["slow", "", "slow", "", "slow", ""]
    np.testing.assert_allclose(df["speedup_vs_against"], [3.0, np.nan, np.nan, np.nan, 2.0, np.nan])
    # The last peak is next to nothing: no share of it.
    np.testing.assert_allclose(df["memory_vs_against"], [0.25, np.nan, np.nan, np.nan, np.nan, np.nan])


def test_short_names():
    assert short_name("my_pkg.pool:MyPool[a=1,b=x:y]") == "MyPool[a=1,b=x:y]"
    assert short_name("transmil[ppeg=none]") == "transmil[ppeg=none]"
