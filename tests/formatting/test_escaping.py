"""Names from files are shown, never acted on: console, Markdown, HTML, CSV, and every place that shows them."""

import io
import json
import re
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from support import synthetic as made

from milbench.cli import cache_verb
from milbench.cli._terminal import echo
from milbench.data.cache.reader import CacheWriter
from milbench.evaluation.leaderboard import evaluate
from milbench.formatting.escaping import code, console, csv_cell, from_csv_cell, html_text, markdown, read_csv, to_csv
from milbench.report.folder import write_report
from milbench.report.markdown import markdown_table
from milbench.report.renderers import render

HOSTILE = "\x1b]0;owned\x07<script>alert(1)</script>\n# Heading\n|x|[link](http://x)`\u202e"


@given(st.text())
def test_nothing_acts_on_a_terminal(text):
    shown = console(text)
    assert not re.search(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u2028\u2029]", shown)
    if text.isprintable():
        assert shown == text


@given(st.text())
def test_nothing_acts_in_a_line_of_markdown(text):
    shown = markdown(text)
    assert "\n" not in shown
    assert not re.search(r"[<>]|(?<!\\)(?:\\\\)*[|`*]", re.sub(r"\\.", "", shown))
    assert not re.match(r"\s*#{1,6}\s", shown)
    assert "<" not in html_text(text)
    assert '"' not in html_text(text)


@given(st.text(min_size=1))
def test_a_code_span_ends_where_it_should(text):
    span = code(text)
    assert "\n" not in span
    assert "<" not in span
    assert span.startswith("`") and span.count("`") == 2 if span[:1] == "`" else span == markdown(text)


@pytest.mark.parametrize("name", ["transmil[layers=1,ppeg=none]", "clam_sb", "no 9", "Übung 1", "a-b", "+0.012", "1="])
def test_ordinary_names_stay_as_they_are(name):
    assert markdown(name) == console(name) == name
    assert code(name) == f"`{name}`"


FORMULAS = ["=cmd|' /C calc'!A0", "+1+1", "-2", "@SUM(A1)", "\tx", "'=quoted", "''-x", "'plain", "plain", ""]


@given(st.one_of(st.sampled_from(FORMULAS), st.text()))
def test_a_cell_is_no_formula_and_comes_back(text):
    cell = csv_cell(text)
    assert cell[:1] not in tuple("=+-@\t\r\n")
    assert from_csv_cell(cell) == text


def test_a_table_of_formulas_comes_back():
    table = pd.DataFrame({"=name": FORMULAS, "number": [-1.5 * i for i in range(len(FORMULAS))]})
    text = to_csv(table)
    assert not re.search(r'(^|[,"])[=@+]', text, flags=re.MULTILINE)
    back = read_csv(io.StringIO(text), keep_default_na=False)
    pd.testing.assert_frame_equal(back, table, check_dtype=False)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """A leaderboard whose classes, method, cohort, reason and note are hostile."""
    store = made.fill(tmp_path_factory.mktemp("runs"), made.suite(data=("easy",)), methods=("max", "mean"), n=24,
                      folds=("f0",), seeds=2)  # fmt: skip
    cohort = store.cohort("easy", "f0")
    (cohort / "classes.json").write_text(json.dumps([HOSTILE, f"=cmd|{HOSTILE}"]))
    made.seal(cohort, "easy")
    board = evaluate(store.root, resamples=5)
    board.table.loc[board.table.index[0], ["method", "title", "family"]] = [f"=cmd|{HOSTILE}", HOSTILE, HOSTILE]
    board.table["suite"] = board.table["suite"].astype(object)
    return replace(board, notes=(*board.notes, HOSTILE))


def test_a_report_of_hostile_names_holds_no_markup(hostile, tmp_path):
    readme = write_report(hostile, tmp_path / "out", "Leaderboard of x", "by hand").read_text()
    assert "<script" not in readme
    assert "\x1b" not in readme
    assert "\n# Heading" not in readme
    assert "](http://x)" not in readme.replace("\\](http://x)", "")
    assert "&lt;script&gt;" in readme
    rows = (tmp_path / "out" / "leaderboard.csv").read_text()
    assert not re.search(r'(^|[,"])=cmd', rows, flags=re.MULTILINE)
    assert read_csv(tmp_path / "out" / "leaderboard.csv")["method"].tolist() == hostile.table["method"].tolist()


def test_a_board_of_hostile_names_sends_nothing_to_the_terminal(hostile):
    out = io.StringIO()
    Console(file=out, width=300, force_terminal=True).print(render(hostile, "console"))
    plain = re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue())  # rich's own colours
    assert "\x1b" not in plain
    assert "\x07" not in plain
    assert "\u202e" not in plain
    assert "\\x1b" in plain


def test_a_table_of_markup_is_text():
    table = pd.DataFrame({"<b>": ["[bold]x[/bold]", "a|b"]})
    lines = markdown_table(table).splitlines()
    assert lines[0] == "| &lt;b&gt; |"
    assert lines[3] == "| a\\|b |"


def test_echo_shows_escapes(capsys):
    echo(f"a {HOSTILE} b")
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert "\x1b" not in out
    echo("one\ntwo \x1b[1m", lines=True)
    assert capsys.readouterr().out == "one\ntwo \\x1b[1m\n"


def test_cache_info_of_a_hostile_encoder(tmp_path, capsys):
    with CacheWriter(tmp_path / "c", "float32", {"encoder": HOSTILE, "note": [HOSTILE]}) as writer:
        import torch

        writer.add("s", torch.zeros(1, 2))
    cache_verb.info(tmp_path / "c")
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "\n# Heading" not in out


def test_verbs_print_through_one_place():
    """A verb that printed by itself would send names from files to the terminal as they are."""
    folder = Path(cache_verb.__file__).parents[1]
    unknown = {
        path.name
        for path in folder.glob("*.py")
        if re.search(r"typer\.echo\(|(?<![\w.])print\(", path.read_text())
        and path.name not in ("__init__.py", "_terminal.py")
    }
    assert unknown == set()
