"""Reports are values that renderers show; a package adds a renderer without touching milbench."""

import dataclasses
import subprocess
import sys
import textwrap

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import synthetic as made
from support.refusal import refused
from typer.testing import CliRunner

from milbench import metrics
from milbench.cli import app
from milbench.errors import MilbenchError
from milbench.evaluation.leaderboard import evaluate
from milbench.formatting.escaping import markdown as escaped
from milbench.metrics import Metric
from milbench.report.build import build_report
from milbench.report.folder import write_report
from milbench.report.markdown import render as to_markdown
from milbench.report.model import Code, Emphasis, Figure, Listing, Prose, Report, Section, Strong, Table
from milbench.report.renderers import GROUP, Renderer, find_renderer, render, renderer_names


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    made.fill(root, made.suite(data=("easy",)), ("mean", "max", "abmil"), fail=(("easy", "max", "f0", 0, "oom"),))
    return root


@pytest.fixture(scope="module")
def board(root):
    return evaluate(root, resamples=20)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Install a package outside the tree: a module and its entry points, both on the path of imports."""

    def install(name: str, source: str, *points: str) -> None:
        folder = tmp_path / name
        info = folder / f"{name}-1.dist-info"
        info.mkdir(parents=True)
        (folder / f"{name}.py").write_text(textwrap.dedent(source))
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
        (info / "entry_points.txt").write_text(f"[{GROUP}]\n" + "\n".join(points) + "\n")
        monkeypatch.syspath_prepend(folder)
        monkeypatch.delitem(sys.modules, name, raising=False)  # of another test

    return install


OUTLINE = """
    def render(report):
        heads = [section.heading for section in (*report.results, *report.sections)]
        return "\\n".join([report.title, *heads, f"{len(report.figures)} figures", *report.notes])
"""


def test_a_package_adds_a_renderer_by_an_entry_point(root, board, package):
    package("outline_report", OUTLINE, "outline = outline_report:render")
    assert renderer_names() == ["console", "markdown", "outline"]
    result = CliRunner().invoke(app, ["leaderboard", str(root), "--resamples", "20", "--format", "outline"])
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[:3] == ["Leaderboard: made-up-v1", "made-up-v1 / easy", "How to read it"]
    (figures,) = [int(line.split()[0]) for line in lines if line.endswith(" figures")]
    assert figures == len(build_report(board, figures=True).figures) == 3
    assert set(board.notes) <= set(lines)


def test_a_renderer_says_what_it_needs(board, package):
    source = OUTLINE + "\n    from milbench.report.renderers import Renderer\n"
    source += "    short = Renderer('any', render, explanations=False, figures=False)\n"
    package("outline_report", source, "short = outline_report:short")
    assert find_renderer("short").name == "short"
    assert str(render(board, "short")).splitlines()[:3] == ["", "made-up-v1 / easy", "0 figures"]


@pytest.mark.parametrize(
    ("source", "points", "names"),
    [
        ("x = 1", ["outline = outline_report:x"], ("outline_report:x",)),
        (
            "import nowhere_at_all",
            ["outline = outline_report:render"],
            ("outline_report:render", "ModuleNotFoundError", "'nowhere_at_all'"),
        ),
        (
            "def render(report):\n    return report.nothing",
            ["outline = outline_report:render"],
            ("AttributeError", "'nothing'"),
        ),
    ],
)
def test_a_broken_renderer_is_named(board, package, source, points, names):
    package("outline_report", source, *points)
    with refused("plugin-broken", "renderer outline", *names):
        render(board, "outline")


def test_a_package_does_not_take_the_place_of_a_renderer_of_milbench(root, board, package):
    package("outline_report", OUTLINE, "console = outline_report:render", "markdown = outline_report:render")
    assert renderer_names() == ["console", "markdown"]
    assert str(render(board, "markdown")) == to_markdown(build_report(board).without_explanations())
    result = CliRunner().invoke(app, ["leaderboard", str(root), "--resamples", "20"])
    assert result.exit_code == 0, result.output
    assert "figures" not in result.stdout.splitlines()[-1]


def test_two_renderers_of_one_name_are_refused(board, package):
    package("outline_report", OUTLINE, "outline = outline_report:render")
    package("other_report", OUTLINE, "outline = other_report:render")
    with refused("plugin-broken", "two renderers", "outline", "other_report:render", "outline_report:render"):
        render(board, "outline")
    assert render(board, "markdown")


def test_what_a_renderer_returns_may_fail_only_when_it_is_printed(root, package):
    source = """
        class Lazy:
            def __rich_console__(self, console, options):
                yield "first line"
                raise LookupError("no line left")

        def render(report):
            return Lazy()
    """
    package("lazy_report", source, "lazy = lazy_report:render")
    result = CliRunner().invoke(app, ["leaderboard", str(root), "--resamples", "20", "--format", "lazy"])
    assert isinstance(result.exception, MilbenchError), result.exception
    assert result.exception.code == "plugin-broken"
    assert "renderer lazy fails (LookupError: no line left)" in str(result.exception)
    assert result.stdout == ""


def test_the_fault_of_a_renderer_of_milbench_shows_as_it_is(board, monkeypatch):
    monkeypatch.setattr("milbench.report.markdown.render", lambda report: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        render(board, "markdown")


def test_an_unknown_format_is_refused_before_anything_is_read(tmp_path):
    result = CliRunner().invoke(app, ["leaderboard", str(tmp_path / "nothing"), "--format", "markdwn"])
    assert result.exit_code == 1
    assert isinstance(result.exception, MilbenchError)
    assert "Did you mean 'markdown'?" in str(result.exception)


def test_a_report_is_a_frozen_value_made_without_figures(board):
    report = build_report(board, "T", "P")
    with pytest.raises(dataclasses.FrozenInstanceError):
        report.title = "other"
    assert report.figures == ()
    assert [section.heading for section in report.results] == ["made-up-v1 / easy"]
    assert report.notes == board.notes
    short = report.without_explanations()
    assert (short.title, short.sections, short.results) == ("", (), report.results)


def test_building_a_report_imports_no_renderer_and_no_figures(root):
    code = (
        "import sys\nfrom milbench.evaluation.leaderboard import evaluate\n"
        "from milbench.report.build import build_report\n"
        "build_report(evaluate(sys.argv[1], resamples=5, details=False), 'T', 'P')\n"
        "print(sorted({'torch', 'matplotlib', 'jinja2', 'rich'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(root)], capture_output=True, text=True, timeout=120)
    assert done.stdout == "[]\n", done.stderr


def test_the_verdict_table_and_the_short_one_say_the_same(board):
    (section,) = build_report(board).results
    (short,) = [block for block in section.summary if isinstance(block, Table)]
    tables = [block for block in section.blocks if isinstance(block, Table) and "Rank" in block.headings]
    rows = {row.method: row for row in board.table.itertuples()}
    for table, heading in ((short, "AUC [95 %]"), *((table, "AUC [95 % interval]") for table in tables)):
        for method, auc in zip(table.column("Method"), table.column(heading), strict=True):
            row = rows[method]
            assert auc == f"{row.auc:.3f} [{row.auc_low:.3f}, {row.auc_high:.3f}]"
    assert [len(table.rows) for table in tables] == [2, 1]
    assert short.ranked == (True, True, False)
    assert tables[1].caption.startswith("Not ranked")


def test_what_a_training_used_is_in_plain_words(board):
    flags = {"time": [True, False, None], "FLOPs": [True, False, None], "memory": [False, False, None]}
    named = {"time": "front_device_seconds", "FLOPs": "front_flops", "memory": "front_memory"}
    columns = {named[words]: pd.Series(values, dtype=object) for words, values in flags.items()}
    table = board.table.assign(**columns, evaluations=[8.0, 16.0, 5.0], budget_used=[1.0, 0.997, np.nan])
    (section,) = build_report(dataclasses.replace(board, table=table)).results
    (used,) = [b for b in section.blocks if isinstance(b, Table) and b.caption == "Training and its budget:"]
    assert used.column("Pareto-optimal in") == ("time, FLOPs", "dominated", "–")
    assert used.column("Validation evaluations") == ("8", "16", "5")
    assert used.column("Budget used (%)") == ("100.0", "99.7", "–")


def test_a_metric_is_one_record_wherever_reports_show_it(root, monkeypatch):
    def share_of_errors(labels, probabilities):
        return float((np.argmax(probabilities, axis=1) != labels).mean())

    monkeypatch.setattr(metrics, "_REGISTERED", {})
    metrics.register_metric(Metric("errors", "Share of errors", False, share_of_errors, main=True, short="Errors"))
    metrics.register_metric(Metric("delay", "Delay", False, share_of_errors, task="survival"))
    assert [metric.name for metric in metrics.registered("survival")] == ["delay"]
    board = evaluate(root, resamples=5, details=False)
    assert board.table.columns[-1] == "errors"
    assert board.table["errors"].to_numpy() == pytest.approx(1 - board.table["accuracy"].to_numpy())
    (section,) = build_report(board).results
    short, verdict = section.summary[0], section.blocks[2]
    assert short.column("Errors") == tuple(f"{value:.3f}" for value in board.table["errors"])
    assert verdict.column("Share of errors") == short.column("Errors")[: len(verdict.rows)]
    (others,) = [b for b in section.blocks if isinstance(b, Table) and b.caption == "Other scores:"]
    assert "Share of errors" not in others.headings


def test_a_heading_in_use_hides_no_column(root, monkeypatch):
    """Two metrics of one label, and one with a heading of the table itself, are three more columns."""
    monkeypatch.setattr(metrics, "_REGISTERED", {})
    for i, (name, label, short) in enumerate([("a", "Runs", "MiB"), ("b", "Twice", "Twice"), ("c", "Twice", "Twice")]):
        value = float(i)
        metrics.register_metric(Metric(name, label, True, lambda y, p, v=value: v, main=True, short=short))
    (section,) = build_report(evaluate(root, resamples=5, details=False)).results
    short, verdict = section.summary[0], section.blocks[2]
    for table, first in ((short, "MiB (a)"), (verdict, "Runs (a)")):
        assert table.column(first) == ("0.000",) * len(table.rows)
        assert table.column("Twice") == ("1.000",) * len(table.rows)
        assert table.column("Twice (c)") == ("2.000",) * len(table.rows)
        assert set(table.column("Runs")) != {"0.000"}


def test_prose_of_markup_is_words_and_of_plain_text_is_plain():
    prose = Prose.parse("A `code` and *some* emphasis\nand **more**.")
    assert prose.lines == (
        ("A ", Code("code"), " and ", Emphasis("some"), " emphasis"), ("and ", Strong("more"), "."),
    )  # fmt: skip
    assert prose.plain() == "A code and some emphasis and more."
    assert Prose.of("`x` *y*").plain() == "`x` *y*"


@given(st.text(min_size=1), st.text(min_size=1))
def test_nothing_in_a_report_becomes_markup(name, other):
    """Headings, notes, captions, prose and cells go through the one function that escapes them, whatever they hold."""
    report = Report(
        title=name,
        provenance=Prose.of("from ", name, other),
        results=(Section(name, (Table((name, "Method"), ((name, other),), caption=other),)),),
        notes=(name,),
        figures=(Figure("auc.png", name, None),),
        sections=(Section("S", (Listing((Prose.of(name),)), Prose.of(Strong(name)))),),
    )
    text = to_markdown(report)
    safe = escaped(name)
    for line in (f"# {safe}", f"### {safe}", f"- {safe}", f"![{safe}](auc.png)", f"**{safe}**"):
        assert line.rstrip() in {shown.rstrip() for shown in text.split("\n")}
    assert escaped(f"from {name}{other}").rstrip() in {shown.rstrip() for shown in text.split("\n")}
    assert f"| {safe} | Method |" in text
    assert f"| {safe} | {escaped(other)} |" in text


def test_a_command_line_is_one_block_of_code(tmp_path, board):
    text = write_report(board, tmp_path, "Leaderboard", "Made by:", command="milbench run *x*\n# y").read_text()
    assert text.startswith("# Leaderboard\n\nMade by:\n\n    milbench run *x* # y\n\n### made-up-v1 / easy\n\n")
    assert text.endswith("are in `leaderboard.csv`.\n")
    assert "\n\n\n" not in text


def test_renderers_of_milbench_are_records():
    assert find_renderer("markdown") == find_renderer("markdown")
    assert isinstance(find_renderer("console"), Renderer)
    assert not find_renderer("console").figures
