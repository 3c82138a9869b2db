"""Estimates: what is measured is measured, what is scaled follows the form that the method declares."""

from __future__ import annotations

import gc
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from support.refusal import refused

from milbench.registry import resolve
from milbench.runs.costs import estimate as module
from milbench.runs.costs.estimate import (
    Estimate,
    Work,
    _bag_lengths,
    _line,
    _Point,
    _scaled,
    duration,
    estimate,
    lines,
    size,
)

SMALL = "transmil[layers=1,dim=32,landmarks=8]"


def work(lengths=(4, 5, 9), dim=16, **changes) -> Work:
    fields = {
        "dim": dim,
        "classes": 2,
        "lengths": np.sort(np.array(lengths)),
        "train": 6,
        "val": 2,
        "test": 2,
        "runs": 15,
    }
    return Work(**(fields | changes))


def test_every_method_is_measured_in_the_order_it_is_given():
    before = torch.get_num_threads()
    actual = estimate([SMALL, "mean", "abmil"], work(), seconds=0.2)
    assert [one.method for one in actual] == [resolve(SMALL).canonical, "mean", "abmil"]
    assert all(one.measured == 9 and not one.why for one in actual)
    assert all(math.isfinite(one.run_s) and one.run_s > 0 and one.memory_bytes >= 0 for one in actual)
    assert actual[0].epochs == 200
    assert torch.get_num_threads() == before
    assert gc.get_freeze_count() == 0


def test_the_parts_of_a_run_are_added_up(monkeypatch):
    """Steps of 2 ms + 1 ms a patch and evaluations of 1 ms a slide: the sum follows."""
    monkeypatch.setattr(module, "_point", lambda method, work, n, *rest: _Point(n, 0.002 + 0.001 * n, 0.001, 10.0 * n))
    (one,) = estimate(["mean"], work([16, 20, 30]))
    # 50 epochs of 6 steps of 24 ms and 2 evaluated slides of 1 ms, and 2 + 2 at the end
    assert one.run_s == pytest.approx(50 * (6 * 0.024 + 2 * 0.001) + 4 * 0.001)
    assert one.memory_bytes == pytest.approx(300)


def test_time_that_is_short_ends_the_ladder(monkeypatch):
    seen = []

    def point(method, work, n, *rest):
        seen.append(n)
        return _Point(n, 1.0 * n, 0.1, 1.0)

    monkeypatch.setattr(module, "_point", point)
    (one,) = estimate(["mean"], work([50_000] * 10), seconds=5)
    assert seen == [256, 1024]  # two in any case, for a line
    assert one.measured == 1024
    assert one.run_s == pytest.approx(50 * (6 * 50_000 + 2 * 0.1) + 0.4)
    seen.clear()
    estimate(["mean"], work([50_000] * 10), seconds=1e9)
    assert seen == [256, 1024, 4096, 16_384, 50_000]


def test_a_bag_that_does_not_fit_ends_the_ladder(monkeypatch):
    def point(method, work, n, *rest):
        if n > 1024:
            raise torch.OutOfMemoryError("Tried to allocate 80.00 GiB.")
        return _Point(n, 1e-6 * n, 1e-6, 1.0 * n)

    monkeypatch.setattr(module, "_point", point)
    (one,) = estimate(["mean"], work([50_000] * 10))
    assert (one.measured, one.why) == (1024, "")
    assert one.memory_bytes == pytest.approx(50_000)


@pytest.mark.parametrize("target", [1, 2, 9, 1024, 1025, 1400, 70_000])
def test_ladder(target):
    steps = _bag_lengths(target)
    assert steps == sorted(set(steps))
    assert steps[-1] == target
    assert len(steps) >= min(target, 2)
    assert all(b / a > 1.4 for a, b in pairwise(steps))


def test_a_line_between_and_beyond():
    of = _line([_Point(10, 1.0, 0, 0), _Point(20, 3.0, 0, 0), _Point(40, 4.0, 0, 0)], "train_s")
    assert [of(n) for n in (1, 10, 15, 40, 80)] == [1.0, 1.0, 2.0, 4.0, 6.0]
    falling = _line([_Point(10, 3.0, 0, 0), _Point(20, 1.0, 0, 0)], "train_s")
    assert falling(1000) == 1.0  # noise, not a method that gets faster
    assert _line([_Point(10, 3.0, 0, 0)], "train_s")(20) == 6.0


def test_correlated_methods_grow_by_their_products():
    method = resolve("transmil")
    model = method.create(1024, 2)
    points = [_Point(256, 1.0, 0, 0), _Point(1024, 2.0, 0, 0)]
    of = _scaled(method, model, points, "train_s")
    a, b = model.matrix_flops(16_000), model.matrix_flops(1024)
    assert of(1024) == 2.0
    assert of(16_000) == pytest.approx(2.0 * a / b)


def test_correlated_methods_that_state_no_products_grow_by_the_power_they_show(monkeypatch):
    method = resolve("transmil")
    model = method.create(16, 2)
    monkeypatch.setattr(type(model), "matrix_flops", lambda self, n: None)
    quadratic = _scaled(method, model, [_Point(100, 1.0, 0, 0), _Point(200, 4.0, 0, 0)], "train_s")
    assert quadratic(2000) == pytest.approx(400.0)
    flat = _scaled(method, model, [_Point(100, 1.0, 0, 0), _Point(200, 1.0, 0, 0)], "train_s")
    assert flat(2000) == pytest.approx(10.0)  # beyond what was seen, nothing stays free


def test_memory_grows_with_the_bag():
    """Real readings, of bags large enough to exceed the noise of an allocator."""
    (one,) = estimate(["clam_sb"], work([2000] * 5, dim=256), seconds=0.5)
    (longer,) = estimate(["clam_sb"], work([2000] * 5 + [20_000], dim=256), seconds=0.5)
    # the hidden layer alone: 2000 x 512 floats
    assert one.memory_bytes > 2000 * 512 * 4
    assert longer.memory_bytes > 3 * one.memory_bytes


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("SupportsNothing", "it needs coordinates and the cohort has none"),
        ("Lost", "KeyError: 'lost'"),
        ("RunsOutOfDeviceMemory", "out of memory"),
    ],
)
def test_what_cannot_be_measured_has_a_reason_and_stops_no_other(name, why):
    odd, mean = estimate([f"support.odd_methods:{name}", "mean"], work(), seconds=0.1)
    assert (odd.why, mean.why) == (why, "")
    assert math.isnan(odd.run_s)
    assert why in "\n".join(lines([odd, mean], work()))


def test_an_unknown_method():
    with refused("method-unknown", "'meen'", "'mean'"):
        estimate(["meen"], work())


def test_lines():
    made = [Estimate("mean", 50, 500, 60.0, 5e5), Estimate("odd", 5, 0, math.nan, math.nan, "needs coordinates")]
    text = lines(made, work([100, 500, 2000], runs=10))
    assert "at least up to 500 patches (nine in ten slides have 1,700 or fewer), and scaled" in text[0]
    assert text[1].split("  ")[1:][0] == "method"
    assert text[2].split() == ["mean", "50", "60", "s", "10", "min", "1.0", "MB"]
    assert text[3].split() == ["odd", "5", "needs", "coordinates"]
    assert "all of them: 10 min of one device" in text[4]
    assert "(333 kB for the training slides as float32)" in text[5]
    whole = lines([Estimate("mean", 50, 2000, 1.0, 1.0)], work([100, 2000]))
    assert "scaled" not in whole[0]


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.2, "1 s"), (89, "89 s"), (91, "1.5 min"), (3600, "60 min"), (7200, "2.0 h"), (1e6, "12 days")],
)
def test_durations(seconds, said):
    assert duration(seconds) == said


@pytest.mark.parametrize(("count", "said"), [(12, "12 B"), (1500, "2 kB"), (2.5e6, "2.5 MB"), (3.2e11, "320 GB")])
def test_sizes(count, said):
    assert size(count) == said
