"""The figure: both figures of every mode, every method named once, nothing over anything else."""

import matplotlib
import pytest
from support.ladders import ladder

from milbench.report.figures.scaling import ladder_figure


@pytest.fixture(scope="module")
def figure():
    return ladder_figure(ladder())


def names(ax):
    return [t for t in ax.texts if t.get_text()]


def test_panels_have_titles_labels_and_units(figure):
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["Inference", "Training step"] * 2
    assert {ax.get_xlabel() for ax in figure.axes} == {"Instances of the bag"}
    assert figure.axes[0].get_ylabel() == "Time of one bag, median and quartiles"
    assert figure.axes[2].get_ylabel() == "Peak memory of one bag (MiB)\nless than 0.1 is drawn at 0.1"
    assert {(ax.get_xscale(), ax.get_yscale()) for ax in figure.axes} == {("log", "log")}
    assert any(t.get_text().endswith("s") for t in figure.axes[0].get_yticklabels())
    assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == ["1k", "4k", "16k", "64k"]


def test_every_method_is_named_once_inside_its_panel_and_over_nothing(figure):
    for ax in figure.axes:
        assert sorted(t.get_text() for t in names(ax)) == sorted(
            ["abmil", "clam_mb", "clam_sb", "dsmil", "max", "max_instance", "mean", "transmil", "Theirs (oom at 64k)"]
        )
        boxes = [t.get_window_extent() for t in names(ax)]
        assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
        frame = ax.get_window_extent()
        assert all(frame.x0 <= b.x0 and b.x1 <= frame.x1 and frame.y0 <= b.y0 and b.y1 <= frame.y1 for b in boxes)
        drawn = [line.get_xydata() for line in ax.lines if line.get_marker() not in ("None", "")]
        ends = [ax.transData.transform(points)[:, 0].max() for points in drawn]
        assert max(ends) < min(b.x0 for b in boxes), "names stand to the right of the lines"


def test_lines_are_what_the_table_says(figure):
    df = ladder()
    for ax, (mode, column, factor) in zip(
        figure.axes,
        [(m, c, f) for c, f in (("seconds_median", 1), ("peak_memory_bytes", 2**-20)) for m in ("infer", "train")],
        strict=True,
    ):
        lines = [line for line in ax.lines if line.get_marker() not in ("None", "")]
        good = df[(df["mode"] == mode) & (df["outcome"] == "ok")]
        for line, (_, rows) in zip(lines, good.groupby("method", sort=False), strict=True):
            assert list(line.get_xdata()) == list(rows["n"])
            due = rows[column].clip(lower=0 if factor == 1 else 0.1 * 2**20) * factor
            assert list(line.get_ydata()) == pytest.approx(list(due))


def test_methods_differ_without_colour_and_are_dark_enough(figure):
    lines = [line for line in figure.axes[0].lines if line.get_marker() not in ("None", "")]
    assert len({line.get_marker() for line in lines}) == len(lines) == 9
    for line in lines:
        red, green, blue = matplotlib.colors.to_rgb(line.get_color())
        assert 0.299 * red + 0.587 * green + 0.114 * blue < 0.6


def test_one_mode_one_length_and_a_method_that_never_worked(tmp_path):
    df = ladder(lengths=(64_000,))
    figure = ladder_figure(df[df["mode"] == "infer"])
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["Inference"] * 2
    assert "Theirs: oom" in [t.get_text() for t in figure.axes[0].texts]
    figure.savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000


def test_nothing_ok_no_figure():
    df = ladder()
    assert ladder_figure(df[df["outcome"] != "ok"]) is None


def test_the_callers_plot_style_is_kept():
    before = dict(matplotlib.rcParams)
    ladder_figure(ladder())
    assert dict(matplotlib.rcParams) == before
