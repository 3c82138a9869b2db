"""A flipped bit in any file of a finished store is reported by `milbench verify`, or changes nothing that is read."""

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import small
from support.flip_bits import make_store

from milbench.cli._prediction import _LOADER, _literal
from milbench.config import Budget, Tuning
from milbench.formatting.escaping import code, markdown
from milbench.runs.execute import execute
from milbench.runs.plan import make_plan
from milbench.runs.records import MODEL
from milbench.runs.store_check import check_path, damaged_suites

#: what keeps no content: locks, and logs of Optuna's writers
_NO_CONTENT = re.compile(r"\.lock$|(^|/)\.")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("store"))


def test_a_changed_letter_in_every_kind_of_file_is_reported(store):
    assert check_path(store).defects == []
    kinds = {}
    for path in sorted(store.rglob("*")):
        name = path.relative_to(store).as_posix()
        if path.is_file() and not _NO_CONTENT.search(name) and path.stat().st_size:
            parts = name.split("/")
            kinds.setdefault((parts[1], path.name if path.suffix != ".json" or parts[1] != "requests" else "*"), path)
    assert {"runs", "costs", "cohorts", "requests", "suite.json", "tuning"} <= {kind for kind, _ in kinds}
    assert ("runs", MODEL) in kinds
    silent = []
    for path in kinds.values():
        raw = path.read_bytes()
        at = raw.find(b"0") if b"0" in raw else len(raw) // 2
        path.write_bytes(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :])
        if not check_path(store).defects:
            silent.append(path.relative_to(store).as_posix())
        if path.name == MODEL:  # no table reads it, so none is withheld for it
            assert damaged_suites(store) == {}
        path.write_bytes(raw)
    assert silent == []


@pytest.mark.parametrize("where", ["elsewhere.log", "sqlite:///{}/trials.db"])
def test_trials_kept_elsewhere_are_checked_or_said_not_to_be(tmp_path, where):
    small.write_cohort(tmp_path)
    where = where.format(tmp_path) if ":" in where else str(tmp_path / where)
    suite = small.suite(tmp_path, budget=Budget(steps=2, trials=1), tuning=Tuning(sampler="random"))
    execute(make_plan(suite, tmp_path / "r", storage=where), jobs=1)
    report = check_path(tmp_path / "r")
    assert report.defects == []
    assert bool(report.checked.get("tuning journal")) is ("://" not in where)
    assert any(where in note for note in report.notes) is ("://" in where)
    if "://" not in where:
        file = tmp_path / "elsewhere.log"
        file.write_bytes(file.read_bytes().replace(b'"lr"', b'"Lr"', 1))
        assert len(check_path(tmp_path / "r").defects) == 1


@settings(max_examples=200)
@given(st.text(min_size=1), st.text(min_size=1))
def test_names_in_the_readme_of_an_export_stay_names(method, name):
    text = _LOADER.format(
        title=markdown(method), data=markdown(name), first=_literal(f"models/{name}"),
        named=f", method={_literal(method)}", classes=2, names=code(name), threshold="",
    )  # fmt: skip
    block = text.split("```python\n")[1].split("```")[0]
    compile(block, "readme", "exec")
    assert text.count("```") == 2
    assert len(block.splitlines()) == 5
    assert "<script" not in text
    assert json.dumps(text)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e]", text)
