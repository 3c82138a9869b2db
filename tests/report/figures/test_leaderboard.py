"""Figures: their elements, and that no label covers another."""

import matplotlib
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from support import synthetic as made

from milbench.evaluation.leaderboard import leaderboard
from milbench.report.figures.labels import place_labels
from milbench.report.figures.leaderboard import auc_figure, pareto, tradeoff_figure


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    root = tmp_path_factory.mktemp("results")
    always = tuple(("hard", "max", f"f{f}", 0, "oom") for f in range(2))
    made.fill(root, folds=("f0", "f1"), seeds=1, fail=always)
    return leaderboard(root, resamples=100)


def test_auc_figure_has_a_panel_a_cohort_and_a_row_a_method(table):
    before = dict(matplotlib.rcParams)
    figure = auc_figure(table)
    assert dict(matplotlib.rcParams) == before
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["easy", "hard"]
    for ax, (_, block) in zip(figure.axes, table.groupby("data", sort=False), strict=True):
        assert [t.get_text() for t in ax.get_yticklabels()] == list(block["method"])
        assert ax.get_xlabel() == "Test AUC, 95 % interval"
        assert ax.get_xlim()[0] < 0.5
    assert "2 oom" in [t.get_text() for t in figure.axes[1].texts]


def test_families_differ_by_shape_and_by_shade(table):
    drawn = {}
    for line in auc_figure(table).axes[0].lines:
        if line.get_marker() not in ("None", ""):
            red, green, blue = matplotlib.colors.to_rgb(line.get_markerfacecolor())
            drawn[line.get_marker()] = 0.299 * red + 0.587 * green + 0.114 * blue
    assert len(drawn) == 2
    light, dark = max(drawn.values()), min(drawn.values())
    assert light - dark > 0.4


@pytest.mark.parametrize("cost", ["infer_patches_per_s", "infer_peak_memory_bytes", "train_bags_per_s"])
def test_tradeoff_names_every_ranked_method_once_inside_its_panel(table, cost, tmp_path):
    figure = tradeoff_figure(table, cost)
    for ax, (_, block) in zip(figure.axes, table.groupby("data", sort=False), strict=True):
        names = [t for t in ax.texts if t.get_text()]
        listed = [entry.get_text().partition("  ") for legend in figure.legends for entry in legend.get_texts()]
        meaning = {number: name for number, _, name in listed if number.isdigit()}
        named = sorted(meaning.get(t.get_text(), t.get_text()) for t in names)
        assert named == sorted(block[block["rank"].notna()]["method"])
        boxes = [t.get_window_extent() for t in names]
        assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
        frame = ax.get_window_extent()
        assert all(frame.x0 <= b.x0 and b.x1 <= frame.x1 and frame.y0 <= b.y0 and b.y1 <= frame.y1 for b in boxes)
        assert ax.get_xscale() == "log"
        assert "(" in ax.get_xlabel()
    figure.savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000


def test_no_cost_no_figure(table):
    assert tradeoff_figure(table.assign(infer_patches_per_s=np.nan), "infer_patches_per_s") is None


def test_one_cohort_and_unknown_families_are_drawn(table):
    one = table[table["data"] == "easy"].assign(family="")
    assert len(auc_figure(one).axes) == 1
    assert len(tradeoff_figure(one, "infer_patches_per_s").axes) == 1


def test_pareto_front():
    gain, score = np.array([1, 2, 3, 2, 3]), np.array([0.9, 0.8, 0.7, 0.7, 0.6])
    assert list(pareto(gain, score)) == [0, 1, 2]
    assert list(pareto(np.array([1, 1]), np.array([0.5, 0.5]))) == [0, 1]
    assert list(pareto(np.array([2, 1]), np.array([0.7, np.nextafter(0.7, 1)]))) == [0]


def test_labels_of_a_crowd_do_not_overlap():
    figure = Figure(figsize=(6, 5))
    FigureCanvasAgg(figure)
    ax = figure.subplots()
    rng = np.random.default_rng(0)
    x, y = 0.5 + 0.02 * rng.normal(size=14), 0.5 + 0.02 * rng.normal(size=14)
    ax.set(xlim=(0, 1), ylim=(0, 1))
    figure.canvas.draw()
    boxes = place_labels(ax, x, y, [f"method number {i}" for i in range(14)])
    assert len(boxes) == 14
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
