"""docs/your-own-cohort.md, run as it is written."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from support.features import Slide, digit_slides, write_clam, write_csv, write_labels, write_trident
from support.foreign import write_stamp

import milbench

PAGE = Path(__file__).parents[2] / "docs" / "your-own-cohort.md"


def commands(heading: str) -> list[str]:
    """The commands of the first fenced block under a heading."""
    section = PAGE.read_text(encoding="utf-8").split(f"\n## {heading}\n")[1]
    block = re.search(r"```\n(.*?)```", section, re.DOTALL)
    assert block is not None
    return block[1].splitlines()


def clam(folder: Path, slides: list[Slide]) -> None:
    write_clam(folder / "clam" / "features", slides)
    write_csv(
        folder / "dataset.csv", [("case_id", "slide_id", "label"), *((s.patient, s.name, s.label) for s in slides)]
    )
    (folder / "splits").mkdir()
    patients = sorted({s.patient for s in slides})
    for k in range(3):
        parts: dict[str, list[str]] = {"train": [], "val": [], "test": []}
        for slide in slides:
            place = (patients.index(slide.patient) // 2 + k) % 6  # pairs of one patient of each class
            parts["test" if place < 2 else "val" if place == 2 else "train"].append(slide.name)
        longest = max(map(len, parts.values()))
        rows = [
            (i, *(ids[i] if i < len(ids) else "" for ids in parts.values())) for i in range(longest)
        ]  # fmt: skip
        write_csv(folder / "splits" / f"splits_{k}.csv", [("", *parts), *rows])


def trident(folder: Path, slides: list[Slide]) -> None:
    write_trident(folder / "trident", slides)
    write_labels(folder / "labels.csv", slides)


def stamp(folder: Path, slides: list[Slide]) -> None:
    write_stamp(folder / "stamp", slides)
    owners = {s.patient: s.label for s in slides}
    write_csv(folder / "clini.csv", [("PATIENT", "isMSIH"), *owners.items()])
    write_csv(folder / "slide.csv", [("PATIENT", "FILENAME"), *((s.patient, f"{s.name}.h5") for s in slides)])


#: The pages differ in how files are read, which test_every_format.py tests.
_BY_FORMAT = pytest.mark.slow(covered_by="cli/test_every_format.py::test_features_with_a_table_of_labels")


@pytest.mark.parametrize(("heading", "write"), [
    ("CLAM", clam), pytest.param("TRIDENT", trident, marks=_BY_FORMAT), pytest.param("STAMP", stamp, marks=_BY_FORMAT),
])  # fmt: skip
def test_three_commands_make_a_leaderboard(heading, write, tmp_path, cli, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, digit_slides(patients=12))
    given = commands(heading)
    assert [line.split()[:2] for line in given] == [["milbench", verb] for verb in ("init", "audit", "run")]
    for line in given:
        said = cli(*shlex.split(line)[1:])
        assert said.code == 0, (line, said.out, said.err)
    table = milbench.leaderboard("results/runs")
    assert set(table["method"]) == {"mean", "abmil"}
    assert (table["auc"] > 0.5).all()
