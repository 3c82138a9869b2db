"""Tests that the default run leaves out name the faster test that keeps their behaviour covered."""

import ast
from pathlib import Path

TESTS = Path(__file__).parent


def _is_slow(mark: ast.expr) -> bool:
    target = mark.func if isinstance(mark, ast.Call) else mark
    return isinstance(target, ast.Attribute) and target.attr == "slow" and ast.unparse(target) == "pytest.mark.slow"


def _wrong(name: str, marks: list[ast.expr], fast: set[str]) -> list[str]:
    wrong = []
    for mark in marks:
        keywords = {k.arg: k.value for k in mark.keywords} if isinstance(mark, ast.Call) else {}
        named = keywords.get("covered_by")
        if not isinstance(named, ast.Constant) or named.value not in fast:
            wrong.append(f"{name}: covered_by must name a test of the default run as FILE::TEST")
    return wrong


def test_every_slow_test_names_a_fast_one():
    slow: dict[str, list[ast.expr]] = {}
    fast: set[str] = set()
    marks_read = 0
    for path in sorted(TESTS.rglob("test_*.py")):
        text = path.read_text()
        tree = ast.parse(text)
        where = path.relative_to(TESTS).as_posix()
        for node in tree.body:
            if not isinstance(node, ast.FunctionDef):
                continue
            marks = [mark for mark in node.decorator_list if _is_slow(mark)]
            if marks:
                slow[f"{where}::{node.name}"] = marks
            elif node.name.startswith("test_"):
                fast.add(f"{where}::{node.name}")
        on_tests = {id(mark) for marks in slow.values() for mark in marks}
        cases = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and _is_slow(node)]  # of parameters
        slow[f"{where}::case"] = [mark for mark in cases if id(mark) not in on_tests]
        marks_read += text.count("pytest.mark.slow") if path != Path(__file__) else 0
    assert [line for name, marks in slow.items() for line in _wrong(name, marks, fast)] == []
    # None was missed: on a class, in a variable, as a mark of a whole file.
    assert sum(map(len, slow.values())) == marks_read
