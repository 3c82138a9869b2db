"""The critical-difference diagram and performance profiles draw what their results say."""

import numpy as np
import pytest

from milbench import stats
from milbench.report.figures.ranks import critical_difference_figure, profile_figure

NAMES = ["transmil", "abmil", "dsmil", "mean", "max"]


@pytest.fixture(scope="module")
def result():
    return stats.friedman(np.random.default_rng(0).normal(size=(15, 5)) + 0.6 * np.arange(5))


def test_every_rank_and_every_group_is_drawn(result):
    figure = critical_difference_figure(result, NAMES)
    (ax,) = figure.axes
    shown = {t.get_text() for t in ax.texts}
    for name, rank in zip(NAMES, result.ranks, strict=True):
        assert shown & {f"{name}  {rank:.2f}", f"{rank:.2f}  {name}"}
    assert any(f"critical difference {result.critical_difference:.2f} (15 tasks, Nemenyi, 5 %)" in t for t in shown)
    bars = [line.get_xdata() for line in ax.lines if line.get_linewidth() == 3.5]
    assert len(bars) == len(result.groups) > 1
    for bar, group in zip(bars, result.groups, strict=True):
        ends = result.ranks[list(group)]
        assert (bar[0], bar[1]) == pytest.approx((ends.min(), ends.max()), abs=0.05)


@pytest.mark.parametrize("k", [3, 9])
def test_nothing_overlaps_and_nothing_leaves_the_figure(k):
    names = [f"a-method-of-{i}-letters" for i in range(k)]
    scores = np.random.default_rng(1).normal(size=(12, k))
    figure = critical_difference_figure(stats.friedman(scores), names)
    renderer = figure.canvas.get_renderer()
    boxes = [t.get_window_extent(renderer) for t in figure.axes[0].texts]
    width, height = figure.canvas.get_width_height()
    for i, box in enumerate(boxes):
        assert 0 <= box.x0 < box.x1 <= width
        assert 0 <= box.y0 < box.y1 <= height
        assert not any(box.overlaps(other) for other in boxes[:i])


def test_profiles_are_the_lines(result):
    tau = np.linspace(0, 1, 30)
    rng = np.random.default_rng(2)
    profiles = {name: stats.performance_profile(rng.random((4, 6)), tau, resamples=50) for name in NAMES[:3]}
    figure = profile_figure(profiles, "AUC")
    (ax,) = figure.axes
    for line, (name, profile) in zip(ax.lines, profiles.items(), strict=True):
        assert line.get_label() == name
        assert line.get_ydata() == pytest.approx(profile.share)
    assert len({line.get_color() for line in ax.lines}) == 3
    assert ax.get_xlabel().startswith("AUC")
