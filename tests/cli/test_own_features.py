"""One's own features, from files as CLAM and TRIDENT write them to a leaderboard, by the command line alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support.features import digit_slides, write_clam, write_csv, write_labels, write_trident

from milbench import FeatureCache

#: What a user writes. Small and quick, and otherwise as it would be.
MY_TOML = """\
name = "mine"
description = "Zeros among digits, by patient."
methods = {methods}
seeds = 1
cost = {cost}

[recipe]
optimizer = "adamw"
lr = 1e-2
epochs = 2
batch_size = 8
accumulate = 1

[protocol]
checkpoint = "{checkpoint}"

[[data]]
name = "digits"
cache = "cohort.cache"
labels = "{labels}"
patient_column = "{patient}"

[data.split]
{split}
"""


def write_suite(folder: Path, split: str = "folds = 3", methods: str = '["mean", "abmil"]', labels: str = "labels.csv",
                patient: str = "patient_id", checkpoint: str = "best-val", cost: str = "false") -> None:  # fmt: skip
    (folder / "my.toml").write_text(
        MY_TOML.format(split=split, methods=methods, labels=labels, patient=patient, checkpoint=checkpoint, cost=cost)
    )


def stored_folds(folder: Path) -> dict[str, dict[str, list[str]]]:
    """Read the folds that milbench wrote with its results."""
    (cohort,) = (folder / "results" / "runs" / "mine-v1" / "cohorts").iterdir()
    actual: dict[str, dict[str, list[str]]] = {}
    for path in sorted((cohort / "folds").glob("*.csv")):
        table = pd.read_csv(path, dtype=str)
        actual[path.stem] = {part: list(table["slide_id"][table["split"] == part]) for part in ("train", "val", "test")}
    return actual


def board(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "results" / "mine" / "leaderboard.csv")


#: How files are read is test_every_format.py's subject.
_BY_FORMAT = pytest.mark.slow(covered_by="cli/test_every_format.py::test_features_with_a_table_of_labels")


@pytest.mark.parametrize(
    "kind", ["trident", *(pytest.param(f"clam {files}_files", marks=_BY_FORMAT) for files in ("h5", "pt"))]
)
def test_from_files_to_a_leaderboard(kind, tmp_path, in_shell, cli):
    slides = digit_slides()
    if kind == "trident":
        source = write_trident(tmp_path / "job", slides)
    else:
        source = write_clam(tmp_path / "clam" / "features", slides, (kind.split()[1],))
    write_labels(tmp_path / "labels.csv", slides)
    write_suite(tmp_path, cost="true" if kind == "trident" else "false")
    # One of the three goes through processes of their own, as at a shell.
    run = (lambda *words: in_shell(*words, cwd=tmp_path)) if kind == "trident" else cli

    built = run("cache", "build", "--from", source.relative_to(tmp_path), "--out", "cohort.cache", "--dtype", "float32")
    assert built.code == 0, built.err
    assert f"kept {len(slides)} slides" in built.out
    cache = FeatureCache.open(tmp_path / "cohort.cache")
    for slide in slides:
        assert cache[slide.name].numpy().tobytes() == slide.x.tobytes()
        if kind != "clam pt_files":
            assert np.array_equal(cache.coords(slide.name).numpy(), slide.xy)

    ran = run("run", "my.toml")
    assert ran.code == 0, ran.err
    assert "6 to do" in ran.out
    table = board(tmp_path)
    assert set(table["method"]) == {"mean", "abmil"}
    assert (table["outcome"] == "ok").all()
    assert table["auc"].between(0, 1).all()
    assert (table["auc_low"] <= table["auc"]).all()
    if kind == "trident":
        assert (table[["infer_patches_per_s", "train_bags_per_s", "flops_per_bag_infer"]] > 0).all().all()
    assert "abmil" in ran.out

    patient = {slide.name: slide.patient for slide in slides}
    label = {slide.name: slide.label for slide in slides}
    folds = stored_folds(tmp_path)
    assert sorted(folds) == ["r0-f0", "r0-f1", "r0-f2"]
    tested = [name for fold in folds.values() for name in fold["test"]]
    assert sorted(tested) == sorted(patient)  # every slide tested once, ids as they were, leading zeros too
    for fold in folds.values():
        sides = [{patient[name] for name in names} for names in fold.values()]
        assert all(sides)
        assert not sides[0] & sides[1]
        assert not sides[0] & sides[2]
        assert not sides[1] & sides[2]
        tumours = sum(label[name] == "tumour" for name in fold["test"])
        assert abs(2 * tumours - len(fold["test"])) <= 2  # half and half, to within a patient
    (cohort,) = (tmp_path / "results" / "runs" / "mine-v1" / "cohorts").iterdir()
    assert json.loads((cohort / "classes.json").read_text()) == ["normal", "tumour"]
    kept = pd.read_csv(cohort / "labels.csv", dtype=str)
    assert dict(zip(kept["slide_id"], kept["patient_id"], strict=True)) == patient


def published(slides) -> list[dict[str, list[str]]]:
    """Two folds by patient, in an order of their own."""
    rng = np.random.default_rng(1)
    patients = {slide.patient: slide.label for slide in slides}
    folds = []
    for _ in range(2):
        where = {}
        for label in ("normal", "tumour"):
            mine = rng.permutation([p for p, its in patients.items() if its == label])
            where |= (
                dict.fromkeys(mine[:6], "train") | dict.fromkeys(mine[6:8], "val") | dict.fromkeys(mine[8:], "test")
            )
        order = [slides[i] for i in rng.permutation(len(slides))]
        folds.append({part: [s.name for s in order if where[s.patient] == part] for part in ("train", "val", "test")})
    return folds


def ragged(columns: dict[str, list[str]]) -> list[tuple[object, ...]]:
    """Rows under an unnamed index column, short columns filled up with empty cells."""
    longest = max(map(len, columns.values()))
    filled = [[*values, *[""] * (longest - len(values))] for values in columns.values()]
    return [("", *columns), *((i, *row) for i, row in enumerate(zip(*filled, strict=True)))]


@pytest.mark.parametrize("form", ["TransMIL", "CLAM", "CLAM bool"])
def test_published_folds_are_taken_as_they_are(form, tmp_path, cli):
    slides = digit_slides()
    write_clam(tmp_path / "clam" / "features", slides, ("pt_files",))
    value = {slide.name: slide.label for slide in slides}
    folds, names = published(slides), {"TransMIL": "fold{k}", "CLAM": "splits_{k}", "CLAM bool": "splits_{k}_bool"}
    (tmp_path / "splits").mkdir()
    for k, fold in enumerate(folds):
        rows = ragged(fold)
        if form == "TransMIL":
            numbers = {name: "1.0" if value[name] == "tumour" else "0.0" for name in value}
            columns: dict[str, list[str]] = {}
            for part, ids in fold.items():
                columns |= {part: ids, f"{part}_label": [numbers[name] for name in ids]}
            rows = ragged(columns)
        if form == "CLAM bool":
            rows = [("", "train", "val", "test")]
            rows += [(s.name, *(s.name in fold[part] for part in ("train", "val", "test"))) for s in slides]
        write_csv(tmp_path / "splits" / f"{names[form].format(k=k)}.csv", rows)
    write_suite(tmp_path, f'files = "splits/{names[form]}.csv"', '["mean"]', "clam/dataset.csv", "case_id")
    assert cli("cache", "build", "--from", "clam/features", "--out", "cohort.cache").code == 0
    ran = cli("run", "my.toml")
    assert ran.code == 0, ran.err
    stored = stored_folds(tmp_path)
    assert list(stored) == [names[form].format(k=k) for k in range(2)]
    for k, fold in enumerate(folds):
        source = fold
        if form == "CLAM bool":  # the file's order is that of its rows
            source = {part: [s.name for s in slides if s.name in ids] for part, ids in fold.items()}
        assert stored[names[form].format(k=k)] == source
    assert list(board(tmp_path)["folds"]) == [2]


def test_a_packed_file_needs_no_labels_and_no_cache(tmp_path, cli):
    slides = digit_slides()
    ends = np.cumsum([0, *(len(slide.x) for slide in slides)])
    np.savez(tmp_path / "bags.npz", features=np.concatenate([s.x for s in slides]), bag_offsets=ends,
             bag_label=np.array([s.label for s in slides]), bag_name=np.array([s.name for s in slides]))  # fmt: skip
    write_suite(tmp_path, methods='["max"]')
    text = (tmp_path / "my.toml").read_text()
    dropped = ('labels = "labels.csv"\n', 'patient_column = "patient_id"\n')
    for line in dropped:
        text = text.replace(line, "")
    (tmp_path / "my.toml").write_text(text.replace("cohort.cache", "bags.npz"))
    ran = cli("run", "my.toml")
    assert ran.code == 0, ran.err
    assert list(board(tmp_path)["runs_ok"]) == [3]


@pytest.mark.slow(covered_by="cli/test_own_features.py::test_from_files_to_a_leaderboard")
def test_real_histology_bags(shared_root, tmp_path, cli):
    """The colon-cancer bags, once packed as they are and once as CLAM's files: the same features, the same labels."""
    packed = np.load(shared_root / "data" / "histology" / "colon_cancer.npz")
    ends, names = packed["bag_offsets"], [str(name) for name in packed["bag_name"]]
    write_suite(tmp_path, methods='["mean"]', split="folds = 2\nuse = 1")
    text = (tmp_path / "my.toml").read_text().replace("epochs = 2", "epochs = 1")
    (tmp_path / "my.toml").write_text(text)
    pt = tmp_path / "clam" / "pt_files"
    pt.mkdir(parents=True)
    import torch

    for i, name in enumerate(names):
        torch.save(torch.from_numpy(packed["features"][ends[i] : ends[i + 1]]), pt / f"{name}.pt")
    rows = [(name, int(label)) for name, label in zip(names, packed["bag_label"], strict=True)]
    write_csv(tmp_path / "labels.csv", [("slide_id", "label"), *rows])
    built = cli("cache", "build", "--from", "clam", "--out", "cohort.cache", "--dtype", "float32")
    assert built.code == 0, built.err
    cache = FeatureCache.open(tmp_path / "cohort.cache")
    for i in (0, len(names) - 1):
        assert np.array_equal(cache[names[i]].numpy(), packed["features"][ends[i] : ends[i + 1]])
    (tmp_path / "my.toml").write_text(text.replace('patient_column = "patient_id"', 'patient_column = "slide_id"'))
    ran = cli("run", "my.toml")
    assert ran.code == 0, ran.err
    own = board(tmp_path)["auc"]

    source = shared_root / "data" / "histology" / "colon_cancer.npz"
    direct = text.replace('labels = "labels.csv"\n', "").replace('patient_column = "patient_id"\n', "")
    (tmp_path / "npz.toml").write_text(direct.replace('"cohort.cache"', f'"{source}"').replace('"mine"', '"npz"'))
    assert cli("run", "npz.toml").code == 0
    there = pd.read_csv(tmp_path / "results" / "npz" / "leaderboard.csv")["auc"]
    assert there.to_numpy() == pytest.approx(own.to_numpy())


def test_musk1_with_its_published_folds_is_a_hundred_runs(shared_root, tmp_path, cli, monkeypatch):
    monkeypatch.setenv("MILBENCH_DATA", str(shared_root / "data" / "classic"))
    planned = cli("run", "musk1", "--dry-run")
    assert planned.code == 0, planned.err
    assert planned.out.splitlines()[-1] == "100 runs, 100 to do; nothing was run."
    assert not (tmp_path / "results").exists()
