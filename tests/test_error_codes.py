"""Errors carry stable codes: every raise site states one, every code is used, and wrapping and pickling keep it."""

import ast
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest

from milbench.atomic_io.folders import AlreadyExists
from milbench.config.audit_codes import CODES as AUDIT_CODES
from milbench.error_codes import CODES
from milbench.errors import MilbenchError, Unsupported

ROOT = Path(__file__).parents[1]
SOURCES = [*sorted((ROOT / "milbench").rglob("*.py")), *sorted((ROOT / "baselines").rglob("*.py"))]
SUBCLASSES = {"Unsupported": Unsupported, "AlreadyExists": AlreadyExists}
#: expressions that a code comes from where it is no literal
COMPUTED = {"error.code", "first.cause or first.code", "field_code(first['type'])"}


def _calls(tree: ast.AST, names: set[str]) -> list[ast.Call]:
    return [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and (getattr(node.func, "id", None) or getattr(node.func, "attr", None)) in names
    ]


def _code(call: ast.Call) -> ast.expr | None:
    return next((keyword.value for keyword in call.keywords if keyword.arg == "code"), None)


def test_every_error_states_a_code_of_the_table():
    wrong, sites = [], 0
    for path in SOURCES:
        tree = ast.parse(path.read_text())
        for call in _calls(tree, {"MilbenchError"}):
            sites += 1
            code = _code(call)
            literal = isinstance(code, ast.Constant) and code.value in CODES
            if not literal and (code is None or ast.unparse(code) not in COMPUTED):
                wrong.append(f"{path.relative_to(ROOT)}:{call.lineno} {code and ast.unparse(code)}")
        for call in _calls(tree, set(SUBCLASSES)):
            code = _code(call)
            if code is not None and not (isinstance(code, ast.Constant) and code.value in CODES):
                wrong.append(f"{path.relative_to(ROOT)}:{call.lineno} {ast.unparse(code)}")
    assert not wrong
    assert sites > 700


def test_every_code_of_the_table_is_used():
    # Strings anywhere but in the table: codes reach an error through helpers too.
    used = {
        node.value
        for path in SOURCES
        if path.name != "error_codes.py"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    assert set(CODES) <= used


def test_codes_are_words_with_a_meaning_and_a_fix():
    assert not set(CODES) & set(AUDIT_CODES)
    assert "other" not in CODES
    for code, entry in CODES.items():
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)+", code), code
        assert (entry.means[-1], entry.fix[-1]) == (".", "."), code
        assert "\n" not in entry.means + entry.fix


def test_an_error_that_repeats_another_keeps_its_code():
    """Wherever the sentence of a caught MilbenchError becomes that of another, the code goes along."""
    lost = []
    for path in SOURCES:
        for handler in ast.walk(ast.parse(path.read_text())):
            if not isinstance(handler, ast.ExceptHandler) or handler.name is None or handler.type is None:
                continue
            if ast.unparse(handler.type) != "MilbenchError":
                continue
            for call in _calls(handler, {"MilbenchError"}):
                repeats = any(
                    isinstance(node, ast.FormattedValue | ast.Call)
                    and ast.unparse(node.value if isinstance(node, ast.FormattedValue) else node)
                    in (handler.name, f"str({handler.name})", f"str({handler.name}).rstrip('.')")
                    for node in ast.walk(call.args[0])
                )
                code = _code(call)
                if repeats and (code is None or ast.unparse(code) != f"{handler.name}.code"):
                    lost.append(f"{path.relative_to(ROOT)}:{call.lineno}")
    assert not lost


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (MilbenchError("a sentence."), "other"),
        (MilbenchError("a sentence.", code="cache-damaged"), "cache-damaged"),
        (MilbenchError("a sentence.", code="my-package-cause"), "my-package-cause"),
        (Unsupported("a sentence."), "method-unsupported"),
        (AlreadyExists("a sentence."), "already-exists"),
        (AlreadyExists("a sentence.", code="place-busy"), "place-busy"),
    ],
)
def test_an_error_keeps_its_code_in_a_pickle(error, code):
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert (str(copy), copy.code, copy.args) == ("a sentence.", code, ("a sentence.",))
    assert error.code == code


def test_an_error_of_another_process_keeps_its_code():
    program = (
        "import pickle, sys; from milbench.errors import MilbenchError; "
        "sys.stdout.buffer.write(pickle.dumps(MilbenchError('a sentence.', code='disk-full')))"
    )
    sent = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout
    assert pickle.loads(sent).code == "disk-full"


def test_a_slide_that_is_read_in_a_process_of_its_own_keeps_the_code_of_its_error(tmp_path):
    from milbench.data.cache import build_cache

    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    with pytest.raises(MilbenchError) as caught:
        build_cache(tmp_path / "in", tmp_path / "out", format="clam")
    assert caught.value.code == "file-damaged"
    assert "a.h5" in str(caught.value)


def test_the_command_line_ends_its_line_with_the_code(tmp_path):
    command = [sys.executable, "-c", "from milbench.cli import main; main()", "audit", str(tmp_path / "none.toml")]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert ended.stderr.startswith("milbench: ")
    assert ended.stderr.endswith(" [suite-unknown]\n")
    assert ended.stderr.count("\n") == 1
