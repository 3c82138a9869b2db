"""From files as tools write them, by `init` alone, to a suite that runs as it is."""

from __future__ import annotations

import re
import shutil
import tomllib
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from support.features import Slide, digit_slides, write_clam, write_csv, write_labels, write_trident
from support.foreign import write_eva, write_mil_baseline, write_stamp, write_torchmil
from support.refusal import assert_refused

from milbench.config.suites import load_suite
from milbench.data.cohort import Cohort, load_cohort

PARTS = ("train", "val", "test")


@pytest.fixture
def slides() -> list[Slide]:
    return digit_slides(patients=20)


@pytest.fixture
def init(cli):
    """Run init without estimates; give what it said."""

    def call(*words, labels="labels.csv", features="clam/features", out="my.toml"):
        given = [] if labels is None else ["--labels", labels]
        return cli("init", "--features", features, *given, "--out", out, "--no-estimate", *words)

    return call


@pytest.fixture
def clam(tmp_path, slides) -> Path:
    """A folder with CLAM's h5_files of 40 slides of 20 patients, and labels.csv."""
    write_clam(tmp_path / "clam" / "features", slides, ("h5_files",))
    write_labels(tmp_path / "labels.csv", slides)
    return tmp_path


def cohort_of(toml: Path) -> Cohort:
    suite = load_suite(toml)
    return load_cohort(suite.data[0], suite.base)


def data_of(toml: Path) -> dict:
    return tomllib.loads(toml.read_text(encoding="utf-8"))["data"][0]


def agrees(cohort: Cohort, slides: list[Slide]) -> None:
    """Slides, patients, labels and features are those that were written."""
    assert set(cohort.slides) == {s.name for s in slides}
    assert cohort.patients == {s.name: s.patient for s in slides}
    assert {s: cohort.classes[label] for s, label in cohort.labels.items()} == {s.name: s.label for s in slides}
    cache = cohort.cache()
    for slide in slides:
        assert cache[slide.name].numpy().tobytes() == slide.x.tobytes()
        assert np.array_equal(cache.coords(slide.name).numpy(), slide.xy)


def by_patient(cohort: Cohort) -> None:
    for fold in cohort.folds:
        sides = [{cohort.patients[slide] for slide in ids} for ids in fold.parts.values()]
        assert all(sides)
        assert sum(map(len, sides)) == len(set.union(*sides))


def published(slides: list[Slide], folds: int = 2, val: bool = True) -> list[dict[str, list[str]]]:
    """Folds by patient, in an order of their own."""
    rng = np.random.default_rng(1)
    actual = []
    for _ in range(folds):
        where = {}
        for label in sorted({s.label for s in slides}):
            mine = [str(p) for p in rng.permutation(sorted({s.patient for s in slides if s.label == label}))]
            ends = len(mine) // 2, len(mine) // 2 + (2 if val else 0)
            where |= {p: PARTS[(i >= ends[0]) + (i >= ends[1])] for i, p in enumerate(mine)}
        order = [slides[i] for i in rng.permutation(len(slides))]
        actual.append({part: [s.name for s in order if where[s.patient] == part] for part in PARTS})
    return actual


def parts(cohort: Cohort) -> list[dict[str, list[str]]]:
    return [{part: list(ids) for part, ids in fold.parts.items()} for fold in cohort.folds]


def ragged(columns: dict[str, list[str]]) -> list[tuple[object, ...]]:
    longest = max(map(len, columns.values()))
    filled = [[*values, *[""] * (longest - len(values))] for values in columns.values()]
    return [("", *columns), *((i, *row) for i, row in enumerate(zip(*filled, strict=True)))]


# --- from files to a cohort ------------------------------------------------------------------------------------------


def test_from_files_to_a_leaderboard(clam, slides, init, cli):
    """Three commands, and nothing by hand."""
    write_csv(clam / "fold0.csv", ragged(published(slides)[0]))
    said = init("-m", "mean", "--seeds", 1, "--splits", "fold0.csv")
    assert said.code == 0, said.err
    assert "40 slides, 64-d float32, coordinates in level-0 pixels" in said.out
    assert "40 slides of 20 patients take part" in said.out
    assert "every slide with features has a label, and the reverse" in said.out
    assert "folds: 1 published fold of fold0.csv" in said.out
    assert said.out.splitlines()[-1] == "Written: my.toml. Next: milbench audit my.toml, then milbench run my.toml"
    assert sorted(path.name for path in clam.iterdir()) == ["clam", "fold0.csv", "labels.csv", "my.toml"]
    assert cli("audit", "my.toml").code == 0
    ran = cli("run", "my.toml", "--budget", "3 steps", "--report", "report")
    assert ran.code == 0, ran.err
    table = pd.read_csv(clam / "report" / "leaderboard.csv")
    assert list(table["method"]) == ["mean"]
    assert list(table["runs_ok"]) == [1]
    agrees(cohort_of(clam / "my.toml"), slides)


@pytest.mark.parametrize("kind", ["clam h5_files", "clam pt_files", "trident"])
def test_tools_features(kind, tmp_path, slides, init):
    if kind == "trident":
        write_trident(tmp_path / "job", slides)
    else:
        write_clam(tmp_path / "clam" / "features", slides, (kind.split()[1],))
    write_labels(tmp_path / "labels.csv", slides)
    said = init(features="job" if kind == "trident" else "clam/features")
    assert said.code == 0, said.err
    if kind == "trident":
        assert "encoder uni_v1, patches of 256 pixels, at 20x, coordinates in level-0 pixels" in said.out
    cohort = cohort_of(tmp_path / "my.toml")
    if kind == "clam pt_files":  # which have no coordinates
        assert cohort.cache().coords(slides[0].name) is None
        assert "no coordinates" in said.out
        assert all(cohort.cache()[s.name].numpy().tobytes() == s.x.tobytes() for s in slides)
    else:
        agrees(cohort, slides)
    by_patient(cohort)
    assert sorted(slide for fold in cohort.folds for slide in fold.test) == sorted(s.name for s in slides)


@pytest.mark.parametrize("kind", ["torchmil", "eva", "mil_baseline"])
def test_features_that_bring_labels_and_splits(kind, tmp_path, slides, init):
    fold = published(slides)[0]
    where = {slide: part for part, ids in fold.items() for slide in ids}
    if kind == "torchmil":
        write_torchmil(tmp_path / "bags", slides, split=where)
    elif kind == "eva":
        write_eva(tmp_path / "bags", slides, where)
    else:
        write_mil_baseline(tmp_path / "bags", slides, [where])
    said = init(labels=None, features="bags")
    assert said.code == 0, said.err
    assert "1 published fold of bags" in said.out
    cohort = cohort_of(tmp_path / "my.toml")
    assert cohort.labels == {s.name: ("normal", "tumour").index(s.label) for s in slides}
    assert [{part: set(ids) for part, ids in fold.items()} for fold in parts(cohort)] == [
        {part: set(ids) for part, ids in fold.items()}
    ]
    assert all(cohort.cache()[s.name].numpy().tobytes() == s.x.tobytes() for s in slides)
    refused = init("--force", features="bags", labels="other.csv")
    assert refused.code == 1
    assert_refused(refused.err, "source-brings-own", "other.csv")


def test_stamps_pair_of_tables_and_its_splits(tmp_path, slides, init):
    """Ids are text, in folders and with .h5; the label is the only column that is nothing else."""
    named = [replace(s, name=f"{'ab'[i % 2]}/{s.name}") for i, s in enumerate(slides)]
    write_stamp(tmp_path / "stamp", named, code_hash="7c99")
    patients = {s.patient: s.label for s in slides}
    write_csv(tmp_path / "clini.csv", [("PATIENT", "MSI"), *patients.items()])
    write_csv(tmp_path / "slides.csv", [("PATIENT", "FILENAME"), *((s.patient, f"{s.name}.h5") for s in named)])
    said = init("--slide-table", "slides.csv", labels="clini.csv", features="stamp")
    assert said.code == 0, said.err
    assert "encoder ctranspath, patches of 224 pixels, coordinates in micrometres" in said.out
    data = data_of(tmp_path / "my.toml")
    assert (data["labels"], data["slide_table"], data["dtype"]) == ("clini.csv", "slides.csv", "float16")
    cohort = cohort_of(tmp_path / "my.toml")
    assert cohort.patients == {s.name: s.patient for s in named}
    assert {s: cohort.classes[c] for s, c in cohort.labels.items()} == {s.name: s.label for s in named}
    by_patient(cohort)
    assert all(np.array_equal(cohort.cache()[s.name].numpy(), s.x.astype(np.float16)) for s in named)


def test_stamps_pair_with_gaps(tmp_path, slides, init):
    """Patients in one table alone and labels that are not known, which run would refuse, are reported and left out."""
    write_stamp(tmp_path / "stamp", slides)
    patients = {s.patient: s.label for s in slides} | {"900": "tumour", "000": "NA"}
    del patients["001"]
    write_csv(tmp_path / "clini.csv", [("PATIENT", "MSI"), *patients.items()])
    write_csv(tmp_path / "slides.csv", [("PATIENT", "FILENAME"), *((s.patient, f"{s.name}.h5") for s in slides)])
    said = init("--slide-table", "slides.csv", labels="clini.csv", features="stamp")
    assert said.code == 0, said.err
    assert "left out: 1 patient in the label table without slides: '900'" in said.out
    assert "left out: 4 slides with features but no label: " in said.out
    cohort = cohort_of(tmp_path / "my.toml")
    assert set(cohort.patients.values()) == {s.patient for s in slides} - {"000", "001"}


def test_a_feature_cache(clam, slides, init, cli):
    assert cli("cache", "build", "--from", "clam/features", "--out", "there.cache").code == 0
    said = init(features="there.cache")
    assert said.code == 0, said.err
    data = data_of(clam / "my.toml")
    assert data["cache"] == "there.cache"
    assert not data.keys() & {"features", "format", "dtype"}
    assert set(cohort_of(clam / "my.toml").slides) == {s.name for s in slides}


def test_packed_bags(tmp_path, slides, init):
    ends = np.cumsum([0, *(len(s.x) for s in slides)])
    np.savez(tmp_path / "bags.npz", features=np.concatenate([s.x for s in slides]), bag_offsets=ends,
             bag_label=np.array([s.label for s in slides]), bag_name=np.array([s.name for s in slides]))  # fmt: skip
    said = init(labels=None, features="bags.npz")
    assert said.code == 0, said.err
    cohort = cohort_of(tmp_path / "my.toml")
    assert all(cohort.cache()[s.name].numpy().tobytes() == s.x.tobytes() for s in slides)
    assert cohort.classes == ("normal", "tumour")


def test_three_classes(clam, slides, init):
    renamed = [replace(s, label=["a", "b", "10"][int(s.patient) % 3]) for s in slides]
    write_labels(clam / "labels.csv", renamed)
    said = init()
    assert said.code == 0, said.err
    assert "class 2  'b' " in said.out
    assert data_of(clam / "my.toml")["classes"] == ["10", "a", "b"]
    agrees(cohort_of(clam / "my.toml"), renamed)


def test_rounding_of_double_precision_is_reported(tmp_path, slides, init):
    write_clam(tmp_path / "clam" / "features", [replace(s, x=s.x.astype(np.float64)) for s in slides], ("h5_files",))
    write_labels(tmp_path / "labels.csv", slides)
    assert init().code == 0
    assert "# Features are float64, which are rounded to this.\n" in (tmp_path / "my.toml").read_text()
    assert cohort_of(tmp_path / "my.toml").cache().dtype == torch.float32


def test_coordinates_of_some_slides_only(tmp_path, slides, init):
    write_clam(tmp_path / "clam" / "features", slides, ("pt_files",))
    (tmp_path / "clam" / "features" / "patches").mkdir()
    with h5py.File(tmp_path / "clam" / "features" / "patches" / f"{slides[0].name}.h5", "w") as file:
        file["coords"] = slides[0].xy
    write_labels(tmp_path / "labels.csv", slides)
    said = init()
    assert "coordinates of some slides only" in said.out
    assert not cohort_of(tmp_path / "my.toml").cache().has_coords


# --- columns ---------------------------------------------------------------------------------------------------------


def test_columns_of_other_tools_are_recognised(clam, slides, init):
    """CLAM's own table; then ids with the endings of the scanner's files under names that say nothing."""
    assert init(labels="clam/dataset.csv", out="a.toml").code == 0
    agrees(cohort_of(clam / "a.toml"), slides)
    rows = [(s.label, f"{s.name}.svs", s.patient) for s in slides]
    write_csv(clam / "odd.csv", [("label", "file", "case_id"), *rows])
    assert init(labels="odd.csv", out="b.toml").code == 0
    assert data_of(clam / "b.toml")["slide_suffix"] == [".svs"]
    agrees(cohort_of(clam / "b.toml"), slides)


def test_columns_that_are_named(clam, slides, init):
    rows = [(s.name, s.patient, s.label, "x") for s in slides]
    write_csv(clam / "odd.csv", [("one", "two", "three", "four"), *rows])
    unsaid = init(labels="odd.csv")
    assert unsaid.code == 1
    assert_refused(unsaid.err, "table-column-unclear", "--label-column")
    unsaid = init("--label-column", "three", labels="odd.csv")
    assert_refused(unsaid.err, "table-column-unclear", "--patient-column", "'one'")
    said = init("--label-column", "three", "--patient-column", "two", labels="odd.csv")
    assert said.code == 0, said.err
    agrees(cohort_of(clam / "my.toml"), slides)
    alone = init("--label-column", "three", "--patient-column", "one", labels="odd.csv", out="alone.toml")
    assert alone.code == 0
    assert "# Every slide is taken for a patient of its own.\n" in (clam / "alone.toml").read_text()


def test_barcodes_tell_the_patients(tmp_path, slides, init, cli):
    """Two slides of a TCGA patient each, and a table without patients."""
    barcode = {s.patient: f"TCGA-AB-{int(s.patient):04d}" for s in slides}
    named = [
        replace(s, patient=barcode[s.patient], name=f"{barcode[s.patient]}-01Z-00-DX{i % 2}.X")
        for i, s in enumerate(slides)
    ]
    write_clam(tmp_path / "clam" / "features", named, ("h5_files",))
    write_csv(tmp_path / "labels.csv", [("slide_id", "label"), *((f"{s.name}.svs", s.label) for s in named)])
    said = init()
    assert said.code == 0, said.err
    agrees(cohort_of(tmp_path / "my.toml"), named)
    assert cli("audit", "my.toml").code == 0


# --- what is missing -------------------------------------------------------------------------------------------------


def test_what_is_missing_on_either_side_is_counted_named_and_listed(clam, slides, init, cli):
    gone, bare, blank = slides[0], slides[5], slides[9]
    (clam / "clam" / "features" / "h5_files" / f"{gone.name}.h5").unlink()
    rows = [(s.name, s.patient, "" if s is blank else s.label) for s in slides if s is not bare]
    write_csv(clam / "labels.csv", [("slide_id", "patient_id", "label"), *rows, ("0,9\n9", "p", "tumour")])
    before = (clam / "labels.csv").read_bytes()
    strict = init("--strict")
    assert strict.code == 1
    assert_refused(strict.err, "names-unmatched", "2", "--allow-missing")
    assert not (clam / "my.toml").exists()
    stopped = init()  # more than 2 % of a side
    assert stopped.code == 1
    assert_refused(stopped.err, "names-unmatched", "2", "--allow-missing")
    assert init("--allow-missing", 1).code == 1
    assert init("--allow-missing", "many").code == 1

    said = init("--allow-missing", "10%")
    assert said.code == 0, said.err
    assert f"left out: 2 slides with a label but no features: {gone.name!r}, '0,9\\n9'" in said.out
    assert f"left out: 1 slide with features that the label table does not name: {bare.name!r}" in said.out
    assert f"left out: 1 slide with features but no label: {blank.name!r}" in said.out
    assert "4 slides without features or label marked 'exclude'" in (clam / "my.toml").read_text()
    listed = pd.read_csv(clam / "my.labels.csv", dtype=str, keep_default_na=False)
    left = listed[listed["label"] == "exclude"]
    assert dict(zip(left["slide_id"], left["left_out_because"], strict=True)) == {
        gone.name: "no features", "0,9\n9": "no features", bare.name: "not in the label table", blank.name: "no label",
    }  # fmt: skip
    agrees(cohort_of(clam / "my.toml"), [s for s in slides if s not in (gone, bare, blank)])
    assert (clam / "labels.csv").read_bytes() == before
    audited = cli("audit", "my.toml")
    assert audited.code == 0
    for names in ((gone.name, "0,9\\n9"), (bare.name,), (blank.name,)):  # a line for every reason
        (line,) = (text for text in audited.out.splitlines() if "exclude" in text and repr(names[0]) in text)
        assert line.count("'") == 2 + 2 * len(names)
        assert all(name in line for name in names)


def test_empty_slides_are_named(clam, slides, init, cli):
    for slide in slides[:7]:
        with h5py.File(clam / "clam" / "features" / "h5_files" / f"{slide.name}.h5", "w") as file:
            file["features"], file["coords"] = np.zeros((0, 64), np.float32), np.zeros((0, 2), np.int32)
    said = init()
    assert said.code == 0, said.err
    assert "left out: 7 slides without patches: '" in said.out
    assert "and 2 more" in said.out
    text = (clam / "my.toml").read_text()
    assert all(repr(slide.name) in text for slide in slides[:7])
    agrees(cohort_of(clam / "my.toml"), slides[7:])
    named = "7 slides have no patches and take no part: '"
    assert named in cli("audit", "my.toml").out
    ran = cli("run", "my.toml", "-m", "mean", "--seeds", 1, "--report", "none")
    assert f"Cohort my: {named}" in ran.out
    assert not (clam / "my.labels.csv").exists()


def test_a_class_of_empty_slides_alone_is_none(clam, slides, init):
    with h5py.File(clam / "clam" / "features" / "h5_files" / f"{slides[0].name}.h5", "w") as file:
        file["features"], file["coords"] = np.zeros((0, 64), np.float32), np.zeros((0, 2), np.int32)
    write_labels(clam / "labels.csv", [replace(slides[0], label="odd"), *slides[1:]])
    lost = init()
    assert lost.code == 1
    assert_refused(lost.err, "names-unmatched", "'odd'")
    assert init("--allow-missing", 1).code == 0
    assert cohort_of(clam / "my.toml").classes == ("normal", "tumour")


# --- folds -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["folder", "template", "no validation"])
def test_published_splits(form, clam, slides, init):
    folds = published(slides, val=form != "no validation")
    (clam / "splits").mkdir()
    for k, fold in enumerate(folds):
        write_csv(clam / "splits" / f"splits_{k}.csv", ragged(fold))
    said = init("--splits", "splits" if form == "folder" else "splits/splits_{k}.csv")
    assert said.code == 0, said.err
    assert "2 published folds of splits" in said.out
    cohort = cohort_of(clam / "my.toml")
    if form == "no validation":
        assert "2 without validation, which is drawn from training: 20% of its patients" in said.out
        assert [fold["test"] for fold in parts(cohort)] == [fold["test"] for fold in folds]
        assert [{*fold["train"], *fold["val"]} for fold in parts(cohort)] == [set(fold["train"]) for fold in folds]
        by_patient(cohort)
    else:
        assert parts(cohort) == folds


def test_splits_that_name_more_than_there_is(clam, slides, init):
    """A published split of which one has but a part: what is not there is left out by name, in a table of the suite."""
    fold = published(slides)[0]
    more = {part: [*ids, f"{part}-gone.0"] for part, ids in fold.items()}
    write_csv(clam / "fold0.csv", ragged(more))
    (clam / "clam" / "features" / "h5_files" / f"{fold['test'][0]}.h5").unlink()
    lost = init("--splits", "fold0.csv")
    assert lost.code == 1
    assert_refused(lost.err, "names-unmatched", "3")
    said = init("--splits", "fold0.csv", "--allow-missing", 3)
    assert said.code == 0, said.err
    assert "left out: 3 slides in the split files alone: 'test-gone.0', 'train-gone.0', 'val-gone.0'" in said.out
    assert parts(cohort_of(clam / "my.toml")) == [fold | {"test": fold["test"][1:]}]


def test_patho_bench(clam, slides, init):
    folds = published(slides)
    where = [{slide: part for part, ids in fold.items() for slide in ids} for fold in folds]
    code = {"normal": 0, "tumour": 1}
    rows = ["\t".join(["case_id", "slide_id", "cancer", "grade", "fold_0", "fold_1"])]
    rows += ["\t".join([s.patient, s.name, str(code[s.label]), "x", *(w[s.name] for w in where)]) for s in slides]
    (clam / "k=all.tsv").write_text("\n".join(rows) + "\n")
    (clam / "config.yaml").write_text("task_col: cancer\nsample_col: slide_id\n")
    said = init(labels="k=all.tsv")
    assert said.code == 0, said.err
    cohort = cohort_of(clam / "my.toml")
    assert cohort.classes == ("0", "1")
    assert [{part: set(ids) for part, ids in fold.items()} for fold in parts(cohort)] == [
        {part: set(ids) for part, ids in fold.items()} for fold in folds
    ]


def test_a_leak_in_a_published_split_is_reported_and_kept_for_the_audit(clam, slides, init, cli):
    fold = published(slides)[0]
    write_csv(clam / "fold0.csv", ragged(fold | {"val": [*fold["val"], fold["train"][0]]}))
    said = init("--splits", "fold0.csv")
    assert said.code == 0, said.err
    assert "these folds cannot be run as they are: fold fold0: 1 slide both in train and in val" in said.out
    assert cli("audit", "my.toml").code == 1
    strict = init("--splits", "fold0.csv", "--strict", out="strict.toml")
    assert strict.code == 1
    assert_refused(strict.err, "init-strict", "1")


def test_a_split_without_a_test_part_gives_way_to_folds_made_here(tmp_path, slides, init):
    write_eva(tmp_path / "eva", slides, {s.name: "train" for s in slides})
    said = init(labels=None, features="eva")
    assert said.code == 0, said.err
    assert "the split of eva is not taken, as it has no test part" in said.out
    assert len(cohort_of(tmp_path / "my.toml").folds) == 5


def test_folds_that_keep_sites_together(clam, slides, init):
    place = {s.patient: f"site-{int(s.patient) // 2 % 6}" for s in slides}
    rows = [(s.name, s.patient, s.label, place[s.patient]) for s in slides]
    write_csv(
        clam / "labels.csv", [("slide_id", "patient_id", "label", "hospital"), *rows, ("gone", "g", "tumour", "y")]
    )
    said = init("--site-column", "hospital", "--label-column", "label")
    assert said.code == 0, said.err
    assert "made by patient and site" in said.out
    cohort = cohort_of(clam / "my.toml")
    for fold in cohort.folds:
        tested = {place[cohort.patients[slide]] for slide in fold.test}
        assert not tested & {place[cohort.patients[slide]] for slide in fold.train + fold.val}


@pytest.mark.parametrize(("tumours", "said"), [(4, "4 folds, made"), (3, "3 folds, made"), (2, "without validation")])
def test_few_patients_of_a_class(tumours, said, tmp_path, init, cli):
    slides = [s for s in digit_slides(patients=24, slides=1) if s.label == "normal" or int(s.patient) < 2 * tumours]
    write_clam(tmp_path / "clam" / "features", slides, ("h5_files",))
    write_labels(tmp_path / "labels.csv", slides)
    actual = init("-m", "mean", "--seeds", 1)
    assert actual.code == 0, actual.err
    assert said in actual.out
    assert f"not 5 with validation, as class 'tumour' has {tumours} patients" in actual.out
    assert len(cohort_of(tmp_path / "my.toml").folds) == tumours
    if tumours == 2:  # nothing to select on: the suite says so, and runs
        assert load_suite(tmp_path / "my.toml").protocol.checkpoint == "last"
        assert cli("run", "my.toml", "--dry-run").code == 0


def test_one_patient_of_a_class_is_too_few(tmp_path, init):
    slides = [s for s in digit_slides(patients=12, slides=1) if s.label == "normal" or int(s.patient) < 2]
    write_clam(tmp_path / "clam" / "features", slides, ("h5_files",))
    write_labels(tmp_path / "labels.csv", slides)
    refused = init()
    assert refused.code == 1
    assert_refused(refused.err, "folds-impossible", "'tumour'", "1")


# --- files -----------------------------------------------------------------------------------------------------------


def test_nothing_is_replaced_without_force(clam, slides, init):
    (clam / "my.toml").write_text("mine\n")
    refused = init()
    assert (refused.code, (clam / "my.toml").read_text()) == (1, "mine\n")
    assert_refused(refused.err, "already-exists", "my.toml", "--out", "--force")
    assert init("--force").code == 0
    assert cohort_of(clam / "my.toml").name == "my"
    assert init("--force").code == 0  # the cache that the cohort has made is of these features
    write_labels(clam / "other.labels.csv", slides[1:])
    own = init(labels="other.labels.csv", out="other.toml")
    assert own.code == 1
    assert_refused(own.err, "already-exists")


def test_a_cache_of_something_else_is_not_taken_for_this_one(clam, slides, init, cli):
    write_clam(clam / "second" / "features", slides, ("h5_files",))
    assert cli("cache", "build", "--from", "second/features", "--out", "my.cache", "--dtype", "float32").code == 0
    refused = init()
    assert refused.code == 1
    assert_refused(refused.err, "cache-mismatch", "my.cache")
    assert init(features="second/features").code == 0


def test_a_suite_and_what_it_names_can_be_moved_together(clam, slides, init):
    (clam / "suites").mkdir()
    assert init(out="suites/my.toml").code == 0
    assert data_of(clam / "suites" / "my.toml")["features"] == "../clam/features"
    assert data_of(clam / "suites" / "my.toml")["cache"] == "my.cache"
    moved = clam / "elsewhere"
    moved.mkdir()
    for name in ("suites", "clam", "labels.csv"):
        shutil.move(clam / name, moved / name)
    agrees(cohort_of(moved / "suites" / "my.toml"), slides)


def test_paths_through_a_link(clam, slides, init):
    """A suite below a linked folder: .. leads out of where the link goes to, not out of where it lies."""
    (clam / "far" / "away").mkdir(parents=True)
    (clam / "here").symlink_to(clam / "far" / "away")
    assert init(out="here/my.toml").code == 0
    agrees(cohort_of(clam / "here" / "my.toml"), slides)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--out", "my.txt"), r"my.txt must end in .toml"),
        (("--out", "a b.toml"), r"suite name 'a b' must be usable as a folder"),
        (("--features", "nowhere"), r"nowhere does not exist"),
        (("--labels", "nowhere.csv"), r"nowhere.csv does not exist"),
        (("--method", "abmill"), r"unknown aggregator 'abmill'. Did you mean 'abmil'?"),
        (("--format", "trident"), r"is not of the format trident"),
        (("--label-column", "lable"), r"labels.csv has no column 'lable', its columns are"),
        (
            ("--label-column", "lable", "--site-column", "sight"),
            "labels.csv has no columns 'lable', 'sight', its columns are",
        ),
        (("--splits", "nowhere"), r"nowhere does not exist"),
        (("--splits", "fold0.csv", "--site-column", "label"), r"leave out --splits or --site-column"),
    ],
)
def test_mistakes_end_in_a_sentence_and_no_file(words, message, clam, cli):
    given = {"--features": "clam/features", "--labels": "labels.csv", "--out": "my.toml"}
    pairs = dict(zip(words[::2], words[1::2], strict=True))
    said = cli("init", "--no-estimate", *(word for pair in (given | pairs).items() for word in pair))
    assert said.code == 1
    last = said.err.splitlines()[-1]
    assert last.startswith("milbench: ")
    assert message in last
    assert not list(clam.glob("my.*"))


def test_no_labels_at_all(clam, init):
    said = init(labels=None)
    assert said.code == 1
    assert_refused(said.err, "labels-missing", "--labels")
    said = init("--label-column", "x", labels=None)
    assert_refused(said.err, "option-conflict", "--slide-table", "--labels")


def test_labels_of_other_slides(clam, slides, init):
    write_labels(clam / "labels.csv", [replace(s, name=f"x{s.name}") for s in slides])
    said = init()
    assert said.code == 1
    assert_refused(said.err, "names-unmatched", "labels.csv", "clam/features", f"'x{slides[0].name}'")


def test_estimates_are_printed_and_kept(clam, slides, cli):
    said = cli("init", "--features", "clam/features", "--labels", "labels.csv", "--out", "my.toml", "-m", "mean",
               "-m", "transmil[layers=1,dim=32,landmarks=8]")  # fmt: skip
    assert said.code == 0, said.err
    (head,) = [line for line in said.out.splitlines() if line.split()[:1] == ["method"]]
    assert head.split("  ")[-1].strip() == "memory"
    assert "15 trainings" in head
    text = (clam / "my.toml").read_text()
    for name in ("mean", "transmil[dim=32,landmarks=8,layers=1]"):
        (row,) = [line for line in said.out.splitlines() if line.split()[:1] == [name]]
        assert f"# {row}\n" in text
    assert load_suite(clam / "my.toml").methods == ("mean", "transmil[dim=32,landmarks=8,layers=1]")


def test_transmils_own_split_of_camelyon16(shared_root, tmp_path, init):
    """The published 216, 54 and 129 slides; each is a patient of its own."""
    splits = shared_root / "data" / "splits"
    (tmp_path / "pt_files").mkdir()
    table = pd.read_csv(splits / "camelyon16_labels.csv", dtype=str)
    for i, slide in enumerate(table["slide_id"]):
        torch.save(torch.full((2, 3), float(i)), tmp_path / "pt_files" / f"{slide}.pt")
    requested = init(labels=splits / "camelyon16_labels.csv", features="pt_files")
    assert requested.code == 1
    assert_refused(requested.err, "table-column-unclear", "--patient-column", "'slide_id'")
    said = init("--patient-column", "slide_id", "--splits", splits / "transmil" / "fold0.csv",
                labels=splits / "camelyon16_labels.csv", features="pt_files")  # fmt: skip
    assert said.code == 0, said.err
    assert "every slide with features has a label, and the reverse" in said.out
    (fold,) = cohort_of(tmp_path / "my.toml").folds
    assert [len(ids) for ids in fold.parts.values()] == [216, 54, 129]
    due = pd.read_csv(splits / "transmil" / "fold0.csv", dtype=str)
    assert parts(cohort_of(tmp_path / "my.toml")) == [{part: due[part].dropna().tolist() for part in PARTS}]


def test_what_more_seeds_would_buy_is_said_and_written_into_the_suite(clam, init):
    said = init("--seeds", 2)
    widths = [float(width) for width in re.findall(r"± (0\.\d+)", said.out)]
    assert len(widths) == 4  # 2, 4 and 8 seeds, and the part of patients
    assert widths == sorted(widths, reverse=True)
    assert [float(width) for width in re.findall(r"± (0\.\d+)", (clam / "my.toml").read_text("utf-8"))] == widths
