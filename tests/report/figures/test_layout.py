"""Every figure with few and many methods, long names and several panels: no text over another, none cropped."""

import itertools
import string

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from support.geometry import defects
from support.ladders import ladder
from support.synthetic import fill

from milbench.atomic_io.publishing import figure_bytes
from milbench.config import Choice, Float, Int
from milbench.evaluation.leaderboard import COLUMNS, evaluate
from milbench.interpret.figures import curves_figure, heatmap_figure, matrix_figure
from milbench.interpret.relevance import Curves
from milbench.report.figures.ablation import effect_cost_figure, effect_figure
from milbench.report.figures.anytime import anytime_figure
from milbench.report.figures.layout import method_styles, wrapped
from milbench.report.figures.leaderboard import auc_figure, tradeoff_figure
from milbench.report.figures.ranks import critical_difference_figure, profile_figure
from milbench.report.figures.scaling import ladder_figure
from milbench.report.figures.tuning import Shown, history_figure, slice_figure
from milbench.report.folder import write_report
from milbench.stats import friedman, performance_profile
from milbench.tasks import task_named

MANY = (1, 8, 27)
PANELS = (1, 3)
CASES = list(itertools.product(MANY, PANELS))
DATA = [
    "a-cohort-whose-name-is-as-long-as-forty-letters",
    "b",
    "another cohort / device_seconds: 10 min, memory: 8 GiB",
]

MONITOR = {monitor.name: monitor for monitor in task_named("classification").monitors}


def methods(n, letters=40):
    """Return n names, the first of so many letters."""
    names = [f"method_{string.ascii_lowercase[i % 26]}{i}[option={'x' * (3 * i % 20)}]" for i in range(n)]
    return [names[0].replace("]", "y" * (letters - len(names[0]))) + "]", *names[1:]]


def board(n, panels, seed=0):
    rng = np.random.default_rng(seed)
    rows = []
    for data in DATA[:panels]:
        scores = np.sort(0.5 + 0.5 * rng.beta(5, 2, n))[::-1]
        for i, (name, auc) in enumerate(zip(methods(n), scores, strict=True)):
            failed = n > 3 and i == n - 1
            width = 0.02 + 0.1 * rng.random()
            rows.append({
                "suite": "s", "version": 1, "data": data, "conditions": "", "method": name,
                "family": "correlated" if i % 3 == 0 else "iid", "auc": auc, "auc_low": max(0.3, auc - 2 * width),
                "auc_high": min(1.0, auc + width), "rank": np.nan if failed else 1 + i, "tied": i < n // 2,
                "outcome": "3 ok, 12 timeout" if failed else "15 ok",
                "infer_patches_per_s": 10 ** rng.uniform(5, 6.5), "train_device_seconds": 10 ** rng.uniform(1, 1.2),
                "infer_peak_memory_bytes": 2**20 * 10 ** rng.uniform(-2, 3), "checkpoint": "best-val",
            })  # fmt: skip
    frame = pd.DataFrame(rows)
    return frame.reindex(columns=list(dict.fromkeys([*COLUMNS, *frame.columns])))


def effects(n, panels, seed=0):
    rng = np.random.default_rng(seed)
    rows = [
        {
            "cohort": f"s-v1 / {data}", "data": data, "reference": "r", "reference_auc": 0.9, "changed": name,
            "effect": e, "low": e - 0.05, "high": e + 0.05, "train_time_ratio": 2.0 ** rng.normal(),
        }
        for data in DATA[:panels]
        for name, e in zip(methods(n), rng.normal(0, 0.05, n), strict=True)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def curves(n, panels):
    x = np.geomspace(10, 1000, 20)
    parts = [
        pd.DataFrame({
            "suite": "s", "version": 1, "data": data, "conditions": "", "method": name, "family": "iid",
            "axis": "steps", "x": x, "auc": 0.5 + 0.4 * i / n * np.log10(x) / 3, "low": 0.5, "high": 0.95, "runs": 3,
        })
        for data in DATA[:panels]
        for i, name in enumerate(methods(n))
    ]  # fmt: skip
    return pd.concat(parts)


def removal(name):
    line = np.linspace(0, 1, 5)
    return name, Curves(np.arange(1, 6), line, line[::-1], line)


@pytest.mark.parametrize(("n", "panels"), CASES)
def test_auc(n, panels):
    assert defects(auc_figure(board(n, panels))) == []


NAME_OF_40 = "a_name_as_long_as_forty_letters_may_bee_"

SPACE = {
    "lr": Float(low=1e-4, high=1e-1, log=True),
    "layers": Int(low=1, high=4),
    "kind": Choice(options=("none", None, True, "true", "a b", "price in $ and %")),
    "widths": Choice(options=((256, 128), (64,), ())),
    NAME_OF_40: Choice(options=tuple(f"{NAME_OF_40}{i}" for i in range(8))),
}
TICKS = {
    "kind": ["'none'", "None", "True", "'true'", "a b", r"price in \$ and %"], "widths": ["(256,128)", "(64,)", "()"],
}  # fmt: skip


@pytest.mark.parametrize("dimensions", [1, 3, 5])
@pytest.mark.parametrize("trials", [0, 1, 30])
def test_tuning_names_the_options_of_choices(dimensions, trials):
    rng = np.random.default_rng(0)
    space = dict(list(SPACE.items())[-dimensions:])
    drawn = [
        Shown(i, rng.normal() ** 2, {
            name: int(rng.integers(len(d.options))) if isinstance(d, Choice) else d.low for name, d in space.items()
        })
        for i in range(trials)
    ]  # fmt: skip
    figure = slice_figure(drawn, space, MONITOR["val_loss"], f"cohort {NAME_OF_40}[gated=true] fold fold0")
    assert defects(figure) == []
    panels = dict(zip(space, figure.axes, strict=False))
    for name, options in TICKS.items():
        if name in panels:
            assert [text.get_text() for text in panels[name].get_yticklabels()] == options
    assert (
        defects(history_figure(drawn, MONITOR["val_auc"], f"cohort {NAME_OF_40} fold fold0", "12 ok, 3 failed")) == []
    )


COSTS = ("infer_patches_per_s", "train_device_seconds", "infer_peak_memory_bytes")


@pytest.mark.parametrize(("n", "panels", "cost"), [(*case, COSTS[i % 3]) for i, case in enumerate(CASES)])
def test_tradeoff(n, panels, cost):
    assert defects(tradeoff_figure(board(n, panels), cost)) == []


@pytest.mark.parametrize(("n", "panels"), CASES)
def test_effects(n, panels):
    assert defects(effect_figure(effects(n, panels))) == []


@pytest.mark.parametrize(("n", "panels"), CASES)
def test_effects_against_cost(n, panels):
    assert defects(effect_cost_figure(effects(n, panels))) == []


@pytest.mark.parametrize(("n", "panels"), CASES)
def test_anytime_curves(n, panels):
    assert defects(anytime_figure(curves(n, panels))) == []


@pytest.mark.parametrize(("decades", "panels"), [*itertools.product((0.3, 1, 1.9, 2.1, 3, 6, 9), PANELS)])
def test_anytime_curves_of_methods_whose_costs_are_far_apart(decades, panels):
    drawn = curves(2, panels)
    span = np.log10(drawn["x"].max() / drawn["x"].min())
    drawn["x"] = 1e4 * (drawn["x"] / drawn["x"].min()) ** (decades / span)
    assert defects(anytime_figure(drawn)) == []


@pytest.mark.parametrize("n", [3, 8, 27])
def test_mean_ranks(n):
    scores = np.random.default_rng(0).random((12, n)) + np.arange(n) / 10
    assert defects(critical_difference_figure(friedman(scores), methods(n))) == []


@pytest.mark.parametrize("n", MANY)
def test_profiles(n):
    scores = np.random.default_rng(0).random((3, 4))
    profile = performance_profile(scores, np.linspace(0, 1, 20), resamples=20)
    assert defects(profile_figure(dict.fromkeys(methods(n), profile), "AUC")) == []


@pytest.mark.parametrize("n", MANY)
def test_time_and_memory_against_bag_length(n):
    df = ladder()
    one = df[df["method"] == "abmil"]
    parts = [
        one.assign(method=name, seconds_median=one["seconds_median"] * 1.2**i) for i, name in enumerate(methods(n))
    ]
    if n > 1:
        parts[-1] = parts[-1].assign(outcome="oom")
    assert defects(ladder_figure(pd.concat(parts))) == []


@pytest.mark.parametrize("n", MANY)
def test_removal_curves(n):
    assert defects(curves_figure([removal(name) for name in methods(n)], "a class whose name has many letters")) == []


@pytest.mark.parametrize("shape", [(1, 1), (20, 3), (3, 20), (12, 12)])
@pytest.mark.parametrize("step", [None, 256.0])
def test_heatmap(shape, step):
    coords = np.stack(np.meshgrid(np.arange(shape[0]), np.arange(shape[1])), -1).reshape(-1, 2) * 256.0
    scores = np.random.default_rng(0).pareto(1, len(coords))
    title = "TCGA-AA-0000-01Z-00-DX1: TransMIL, class adenocarcinoma, probability 0.983, label squamous cell carcinoma"
    figure = heatmap_figure(coords, scores, "attention", step, (scores > np.median(scores)).astype(int), title)
    assert defects(figure) == []


def test_pooling_matrix():
    figure = matrix_figure(np.random.default_rng(0).random((9, 9)), methods(1)[0], 0.4, "By derivatives. " * 6)
    assert defects(figure) == []


# --- the colours of a heatmap ----------------------------------------------------------------------------------------


def one_of_many(share=0.97, n=1000):
    scores = np.full(n, (1 - share) / (n - 1))
    scores[[3, 4, 5]] *= 5
    scores[7] = share
    return np.stack([np.arange(n) % 40, np.arange(n) // 40], 1) * 1.0, scores * n


def colours(figure):
    image = figure.axes[0].images[0]
    return image.norm(image.get_array().ravel()), figure.axes[1]


@pytest.mark.parametrize("scale", ["auto", "linear", "asinh", "rank"])
def test_a_patch_with_nearly_all_attention_stands_apart(scale):
    coords, scores = one_of_many()
    shown, bar = colours(heatmap_figure(coords, scores, "attention", 1.0, scale=scale))
    assert shown[7] == pytest.approx(1.0)
    assert (np.delete(shown, 7) < 1.0).all(), "no other patch has its colour"
    assert "970" in bar.get_ylabel(), "the largest score is named"


def test_auto_keeps_differences_among_the_other_patches_in_sight():
    coords, scores = one_of_many()
    shown, bar = colours(heatmap_figure(coords, scores, "attention", 1.0))
    assert shown[3] - shown[0] > 0.05
    assert "asinh" in bar.get_ylabel()
    even = np.linspace(0, 2, 1000)
    assert "linear" in colours(heatmap_figure(coords, even, "attention", 1.0))[1].get_ylabel()


@pytest.mark.parametrize("scale", ["auto", "linear", "asinh", "robust", "rank"])
def test_colours_keep_the_order_of_scores(scale):
    coords, scores = one_of_many()
    signed = scores - np.linspace(0, 3, len(scores))
    shown, _ = colours(heatmap_figure(coords, signed, "gradient x input", 1.0, scale=scale))
    assert (np.diff(shown[np.argsort(signed)]) >= -1e-12).all()


# --- the parts -------------------------------------------------------------------------------------------------------


def test_no_two_methods_share_a_style():
    styles = method_styles(methods(32))
    assert len({(style["color"], str(style["ls"])) for style in styles.values()}) == 32
    luminance = [np.dot((0.299, 0.587, 0.114), style["color"]) for style in styles.values()]
    assert max(luminance) < 0.7, "every colour stands out from white"


def test_a_text_is_broken_into_lines_that_fit():
    text = "one two three four five six seven eight nine ten"
    assert wrapped(text, 100, 10) == text
    assert "\n" in wrapped(text, 1.0, 10)
    assert wrapped(text, 1.0, 10).replace("\n", " ") == text
    assert wrapped("x" * 80, 1.0, 10).count("\n") >= 3


def test_the_geometry_check_sees_what_it_is_for():
    figure = Figure(figsize=(3, 2))
    FigureCanvasAgg(figure)
    ax = figure.subplots()
    ax.set(xlim=(0, 1), ylim=(0, 1), xticks=[], yticks=[])
    ax.plot([0.5], [0.5], "o")
    ax.text(0.45, 0.5, "marked", va="center")
    ax.text(0.1, 0.2, "first text")
    ax.text(0.12, 0.2, "second text")
    ax.text(0.95, 0.9, "a text that is cropped by the figure")
    actual = defects(figure)
    assert any("mark" in line and "'marked'" in line for line in actual)
    assert any("overlaps" in line for line in actual)
    assert any("leaves" in line for line in actual)


# --- formats ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("suffix", "begin"), [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")])
def test_a_figure_is_the_same_bytes_each_time_in_every_format(suffix, begin):
    first, second = (figure_bytes(auc_figure(board(3, 1)), suffix) for _ in range(2))
    assert first.startswith(begin)
    assert first == second


def test_a_report_has_its_figures_in_the_requested_formats(tmp_path):
    fill(tmp_path / "r", seeds=1)
    board = evaluate(tmp_path / "r", resamples=20)
    write_report(board, tmp_path / "out", "Leaderboard", "Made by a test.", ["svg", "pdf"])
    drawn = {file.stem for file in (tmp_path / "out").glob("*.png")}
    assert "auc" in drawn
    for kind in ("svg", "pdf"):
        assert {file.stem for file in (tmp_path / "out").glob(f"*.{kind}")} == drawn
    write_report(board, tmp_path / "out", "Leaderboard", "Made by a test.")
    assert not list((tmp_path / "out").glob("*.svg")), "figures of an earlier report are gone"
