"""``milbench audit``, and its findings from a run to its leaderboard."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pandas as pd
import pytest
from support.cohorts import Planted, clean_cohort
from support.refusal import assert_refused

TOML = """\
name = "mine"
methods = ["mean", "max"]
cost = false

[recipe]
optimizer = "adamw"
epochs = 1
batch_size = 8
accumulate = 1

[[data]]
name = "planted"
cache = "cohort.cache"
labels = "labels.csv"
{more}

[data.split]
files = "splits/fold{{k}}.csv"
use = 1
"""


@pytest.fixture(autouse=True)
def _own_memory(tmp_path, monkeypatch):
    monkeypatch.setenv("MILBENCH_CACHE", str(tmp_path / "home"))


def write(planted: Planted, folder: Path, more: str = "") -> None:
    planted.write(folder)
    (folder / "my.toml").write_text(TOML.format(more=more))


def waive(folder: Path, *codes: str) -> None:
    (folder / "my.toml").write_text(TOML.format(more=f"waive = {json.dumps(codes)}"))


def leaky() -> tuple[Planted, list[str]]:
    """A cohort with a patient on both sides of the first fold, seven slides in train and test of the second."""
    planted = clean_cohort()
    moved = planted.of(0, "train", "tumour")[0]
    planted.folds[0]["train"].remove(moved)
    planted.folds[0]["test"].append(moved)
    slides = planted.folds[1]["train"][:7]
    planted.folds[1]["test"] += slides
    return planted, [planted.slides[moved].patient, *sorted(slides)]


def test_a_clean_cohort_has_no_findings(tmp_path, cli):
    write(clean_cohort(), tmp_path)
    said = cli("audit", "my.toml")
    assert (said.code, said.err) == (0, "")
    assert said.out.splitlines() == ["planted: no findings.", "0 errors, 0 warnings, 0 waived."]


def test_built_in_suites_are_clean(cli):
    for suite in ("quickstart", "matched", "oracle"):
        said = cli("audit", suite)
        assert said.code == 0
        assert said.out.splitlines()[-1] == "0 errors, 0 warnings, 0 waived."


def test_musk1_is_clean_but_for_its_names(shared_root, cli, monkeypatch):
    monkeypatch.setenv("MILBENCH_DATA", str(shared_root / "data" / "classic"))
    said = cli("audit", "musk1")
    assert said.code == 0
    assert re.search(r"warning  shortcut-name: the beginning of the name alone predicts the label, AUC 1\.00", said.out)
    assert said.out.splitlines()[-1] == "0 errors, 1 warning, 0 waived."


def test_findings_as_text_and_as_json(tmp_path, cli):
    planted, (patient, *slides) = leaky()
    write(planted, tmp_path)
    said = cli("audit", "my.toml", "--json", "findings.json")
    assert (said.code, said.err) == (1, "")
    head, first, second, total = said.out.splitlines()
    assert (head, total) == ("planted:", "2 errors, 0 warnings, 0 waived.")
    assert first == (
        f"  error    patient-overlap: fold fold0: 1 patient with slides both in train and in test: {patient!r}; "
        "a patient belongs in one part."
    )
    shown = ", ".join(map(repr, slides[:5]))
    assert f"slide-overlap: fold fold1: 7 slides both in train and in test: {shown} and 2 more; keep" in second

    record = json.loads((tmp_path / "findings.json").read_text())
    assert (record["suite"], record["version"]) == ("mine", 1)
    assert [(f["code"], f["severity"], f["cohort"], f["fold"], f["ids"], f["waived"]) for f in record["findings"]] == [
        ("patient-overlap", "error", "planted", "fold0", [patient], False),
        ("slide-overlap", "error", "planted", "fold1", slides, False),
    ]
    assert all(f["message"].endswith(".") for f in record["findings"])

    alone = cli("audit", "my.toml", "--json", "-")
    assert alone.code == 1
    assert json.loads(alone.out) == record


def test_what_is_the_same_in_all_folds_is_one_line(tmp_path, cli):
    planted = clean_cohort()
    one, other = planted.of(0, "train", "normal")[0], planted.of(0, "test", "normal")[0]
    planted.slides[other].x = planted.slides[one].x.copy()
    for part in ("train", "val", "test"):
        planted.folds[1][part] = [name for name in planted.folds[1][part] if name not in (one, other)]
    planted.folds[1]["train"].append(one)
    planted.folds[1]["test"].append(other)
    for name in (one, other):  # their other slides are not to be on the other side
        planted.slides[name].patient = f"own {name}"
    write(planted, tmp_path)
    said = cli("audit", "my.toml")
    assert "error    features-overlap: folds fold0, fold1: 2 slides with identical features in two parts" in said.out
    assert said.out.splitlines()[-1] == "2 errors, 0 warnings, 0 waived."


def test_a_warning_stops_nothing(tmp_path, cli):
    planted = clean_cohort()
    for i, slide in enumerate(planted.slides.values()):
        slide.x = slide.x[: (10 if slide.label == "tumour" else 15) + i % 4]
    write(planted, tmp_path)
    said = cli("audit", "my.toml")
    assert said.code == 0
    assert "  warning  shortcut-length: " in said.out
    assert cli("run", "my.toml", "--dry-run").code == 0


def test_a_run_refuses_until_every_error_is_waived_by_its_code(tmp_path, cli):
    planted, (patient, *_) = leaky()
    write(planted, tmp_path)
    stopped = cli("run", "my.toml")
    assert stopped.code == 1
    assert len(stopped.err.splitlines()) == 1
    names = ("planted", "fold0", "train", "test", repr(patient), "1 more", "milbench audit", "waive", "[[data]]")
    assert_refused(stopped.err, "patient-overlap", *names)
    assert not (tmp_path / "results").exists()
    waive(tmp_path, "patient-overlap")
    stopped = cli("run", "my.toml")
    assert stopped.code == 1
    assert_refused(stopped.err, "slide-overlap", "fold1", "7")
    said = cli("audit", "my.toml")
    assert said.code == 1
    assert "  waived   patient-overlap: fold fold0: " in said.out
    assert said.out.splitlines()[-1] == "1 error, 0 warnings, 1 waived."
    waive(tmp_path, "patient-overlap", "slide-overlap", "one-class")
    said = cli("audit", "my.toml")
    assert said.code == 0
    assert "warning  idle-waiver: waive names 'one-class', which the audit does not report; remove it." in said.out
    assert said.out.splitlines()[-1] == "0 errors, 1 warning, 2 waived."


def test_waivers_stand_wherever_the_results_do(tmp_path, cli):
    planted, (patient, *slides) = leaky()
    write(planted, tmp_path)
    waive(tmp_path, "patient-overlap", "slide-overlap")
    ran = cli("run", "my.toml")
    assert ran.code == 0, ran.err
    note = (
        "run in spite of patients with slides in two parts of a fold (patient-overlap, waived): fold fold0: 1 patient"
    )
    for text in (ran.out, (tmp_path / "results" / "mine" / "README.md").read_text()):
        flat = " ".join(text.split())
        assert note in flat
        assert patient in flat
        assert "run in spite of slides in two parts of a fold (slide-overlap, waived)" in flat
    readme = (tmp_path / "results" / "mine" / "README.md").read_text()
    assert "Run in spite of patient-overlap and slide-overlap, which the suite waives." in readme
    table = pd.read_csv(tmp_path / "results" / "mine" / "leaderboard.csv")
    assert set(table["waived"]) == {"patient-overlap, slide-overlap"}
    board = cli("leaderboard", "--format", "csv")
    assert {row["waived"] for row in csv.DictReader(board.out.splitlines())} == {"patient-overlap, slide-overlap"}
    assert note in " ".join(board.err.split())
    compared = cli("compare", "mean", "max")
    assert "(run in spite of patient-overlap, slide-overlap, waived)" in " ".join(compared.out.split())

    (cohort,) = (tmp_path / "results" / "runs" / "mine-v1" / "cohorts").iterdir()
    kept = json.loads((cohort / "audit.json").read_text())
    assert [(finding["code"], finding["waived"]) for finding in kept] == [
        ("patient-overlap", True),
        ("slide-overlap", True),
    ]
    assert kept[1]["ids"] == slides

    # They cannot be lost: without the waiver nothing runs, without the record nothing is shown.
    waive(tmp_path)
    assert cli("run", "my.toml").code == 1
    (cohort / "audit.json").unlink()
    lost = cli("leaderboard")
    assert lost.code == 1
    assert_refused(lost.err, "file-missing", "audit.json")


def test_a_changed_waiver_is_another_suite(tmp_path, cli):
    write(clean_cohort(), tmp_path)
    assert cli("run", "my.toml", "-m", "mean", "--report", "none").code == 0
    waive(tmp_path, "patient-overlap")
    stopped = cli("run", "my.toml", "-m", "mean")
    assert stopped.code == 1
    assert_refused(stopped.err, "suite-changed", "data")


def test_usage(tmp_path, cli):
    (tmp_path / "bad.toml").write_text(TOML.format(more='waive = ["patient-overlaps"]'))
    said = cli("audit", "bad.toml")
    assert said.code == 1
    assert_refused(said.err, "suite-bad-value", "'patient-overlaps'", "'patient-overlap'")
    assert cli("audit", "nowhere.toml").code == 1
    write(clean_cohort(), tmp_path)
    said = cli("audit", "my.toml", "--json", tmp_path / "no" / "folder.json")
    assert said.code == 1
    assert_refused(said.err, "system-refused", str(tmp_path / "no"))
    assert "Traceback" not in said.err
