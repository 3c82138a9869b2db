"""The suite that is written: what is meant comes back, whatever things are called; every option can be switched on."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.refusal import refused

from milbench.config import DataSpec, SplitSpec, Suite
from milbench.data.fold import Fold
from milbench.data.labels.table import Labels, read_label_table
from milbench.data.onboarding.inspection import Division, Inspection, Mismatches
from milbench.data.onboarding.label_guess import LabelRows, Row, Tables
from milbench.data.onboarding.suite_template import draft
from milbench.data.onboarding.survey import Survey
from milbench.data.source_labels import SourceTable
from milbench.data.text_tables import unreadable

#: anything that a name may be but a path's own characters; lone surrogates are refused where they are read
TEXT = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=12)
PART = TEXT.filter(lambda text: text not in (".", ".."))
WHOLE, ANY_SPLIT = Mismatches(), SplitSpec()


def inspected(
    ids=("a", "b"), classes=("x", "y"), source=Path("features"), labels=Path("labels.csv"), columns=("s", "p", "l"),
    suffixes=(), split=ANY_SPLIT, mismatches=WHOLE, site=None, dtypes=("float32",), said="five folds",
) -> Inspection:  # fmt: skip
    survey = Survey(source, "clam", f"source: {source}", tuple(ids), dict.fromkeys(ids, 3), 1, 8, dtypes, True, {},
                    SourceTable())  # fmt: skip
    kept = [slide for slide in ids if slide not in mismatches.reasons]
    values = {slide: i % len(classes) for i, slide in enumerate(kept)}
    made = Labels(tuple(kept), {slide: slide for slide in kept}, values, tuple(classes))
    rows = tuple(Row(slide, slide, classes[i % len(classes)], "here") for i, slide in enumerate(kept))
    folds = (Fold("f", tuple(kept), tuple(kept), tuple(kept)),)
    tables = Tables(labels, site=site)
    return Inspection(
        survey, made, tables, LabelRows(rows, *columns, tuple(suffixes)), None, mismatches, Division(split, folds, said)
    )


@settings(deadline=None)
@given(
    folder=st.lists(PART, min_size=1, max_size=3),
    labels=PART,
    columns=st.tuples(TEXT, TEXT, TEXT),
    classes=st.lists(TEXT, min_size=2, max_size=3, unique=True),
    suffixes=st.lists(TEXT, max_size=2, unique=True),
    ids=st.lists(TEXT, min_size=2, max_size=9, unique=True),
    said=TEXT,
)
def test_what_is_meant_comes_back(folder, labels, columns, classes, suffixes, ids, said):
    """Quotes, line ends, controls, brackets, hashes: in strings they are kept, out of comments they cannot break."""
    out = Path("/cohorts/mine/my.toml")
    source, table = Path("/cohorts/mine").joinpath(*folder), Path("/cohorts") / labels
    actual = inspected(ids, classes, source, table, columns, suffixes, said=said)
    read = tomllib.loads(draft(actual, out).text)
    suite = Suite.model_validate(read | {"base": out.parent})
    data = suite.data[0]
    assert data.features is not None
    assert data.labels is not None
    assert (suite.base / data.features).resolve() == source
    assert (suite.base / data.labels).resolve() == table
    assert (data.slide_column, data.patient_column, data.label_column) == columns
    assert data.classes == tuple(classes)
    assert data.slide_suffix == tuple(suffixes)
    assert (suite.name, data.name, data.cache, data.dtype) == ("my", "my", "my.cache", "float32")
    assert len(suite.methods) == 9


#: cells are stripped, a table with a null byte is no text, and ids of control characters are refused
CELL = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=8).filter(
    lambda text: text == text.strip() and unreadable(text) is None
) | st.sampled_from(["a\rb", "a\nb", 'a"b', "a,b"])


@settings(deadline=None, max_examples=50)
@given(data=st.data())
def test_the_label_table_that_is_written_is_read_back(data, tmp_path_factory):
    ids = data.draw(st.lists(CELL, min_size=3, max_size=6, unique=True))
    site = data.draw(st.sampled_from([None, "site"]))
    mismatches = Mismatches(not_in_table=(ids[0],))
    out = tmp_path_factory.mktemp("t") / "my.toml"
    made = draft(inspected(ids, ("x", "y"), mismatches=mismatches, site=site), out)
    made.write()
    fields = tomllib.loads(out.read_text(encoding="utf-8"))["data"][0]
    assert fields["labels"] == "my.labels.csv"
    spec = DataSpec.model_validate(fields)
    if site is not None:
        spec = spec.model_copy(update={"split": SplitSpec(scheme="site-preserved", site_column=site)})
    actual = read_label_table(out.with_name("my.labels.csv"), spec)
    assert actual.slides == tuple(ids[1:])
    assert actual.excluded == {ids[0]}
    assert actual.patients == {slide: slide for slide in ids[1:]}


@pytest.mark.parametrize(
    "split", [SplitSpec(), SplitSpec(folds=3), SplitSpec(scheme="held-out"), SplitSpec(files="s.csv", val_fraction=0.2),
              SplitSpec(scheme="site-preserved", site_column="x")]
)  # fmt: skip
def test_every_option_can_be_switched_on(split):
    """One by one, and those of a table that stands commented out all together."""
    text = draft(inspected(split=split), Path("my.toml")).text
    assert "#keep_models = " in text
    blocks = re.findall(r"(?m)(?:^#[^ \n].*\n)+", text)
    assert len(blocks) >= 5
    for block in blocks:
        on = block.replace("\n#", "\n").removeprefix("#")
        # An option of a table that is there is one of several; a table of its own is one choice.
        for choice in [on] if on.startswith("[") else on.splitlines(keepends=True):
            was = block if choice == on else f"#{choice}"
            changed = tomllib.loads(text.replace(was, choice, 1))
            if "[tuning]" in choice:
                changed["budget"] = {"trials": 3}
            assert changed != tomllib.loads(text)
            Suite.model_validate(changed)


def test_the_split_as_it_was_published():
    for split in (SplitSpec(folds=3, val_fraction=0.2), SplitSpec(scheme="held-out", val_fraction=0.2), SplitSpec()):
        read = tomllib.loads(draft(inspected(split=split), Path("my.toml")).text)["data"][0].get("split", {})
        assert SplitSpec.model_validate(read) == split
        assert set(read) == split.model_fields_set


def test_endings_are_kept_for_the_split_files_where_a_table_is_made():
    mismatches = Mismatches(no_features=("gone",))
    for split, due in ((SplitSpec(files="s.csv"), [".svs"]), (SplitSpec(), None)):
        actual = inspected(suffixes=(".svs",), mismatches=mismatches, split=split)
        assert tomllib.loads(draft(actual, Path("my.toml")).text)["data"][0].get("slide_suffix") == due


def test_half_the_size_is_offered_for_float32_alone():
    assert "float16 would save about 96 B" in draft(inspected(), Path("my.toml")).text
    assert "would save" not in draft(inspected(dtypes=("float16",)), Path("my.toml")).text


def test_paths(tmp_path, monkeypatch):
    def written(source, out="/a/b/my.toml"):
        return tomllib.loads(draft(inspected(source=Path(source)), Path(out)).text)["data"][0]["features"]

    assert written("/a/b/c") == "c"
    assert written("/a/c/d") == "../c/d"
    assert written("/x/y") == "/x/y"  # nothing in common: they will not be moved together
    assert written("/a/b/~user") == "/a/b/~user"  # relative, it would be somebody's home
    monkeypatch.chdir(tmp_path)
    assert written("c", "my.toml") == "c"
    assert written("c", "sub/my.toml") == "../c"
    with refused("name-bad"):
        written("/a/b/caf\udce9")


def test_nothing_is_written_over_what_is_there(tmp_path):
    made = draft(inspected(mismatches=Mismatches(no_features=("gone",))), tmp_path / "my.toml")
    (tmp_path / "my.labels.csv").write_text("mine")
    with refused("already-exists", "my.labels.csv"):
        made.write()
    assert not (tmp_path / "my.toml").exists()
    made.write(force=True)
    assert (tmp_path / "my.labels.csv").read_text().startswith("slide_id,patient_id,label,left_out_because,made_from\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["my.labels.csv", "my.toml"]
