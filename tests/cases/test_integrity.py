"""Damaged, interrupted and hostile stores and caches: detected, repaired by the same command, or refused."""

import errno
import json
import os
import shutil
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import flip_bits
from support import synthetic as made
from support.refusal import refused

from milbench.atomic_io.checksums import file_checksum
from milbench.atomic_io.publishing import PUBLISHING, child, inside, name_problem, write_together
from milbench.config import DataSpec
from milbench.data.cache.layout import seal
from milbench.data.cache.reader import CacheWriter, FeatureCache
from milbench.data.cohort import load_cohort, write_cohort
from milbench.data.fold import Fold
from milbench.data.source_labels import SourceTable
from milbench.evaluation.forget import Selection, select
from milbench.evaluation.leaderboard import evaluate, leaderboard
from milbench.evaluation.runs_table import read_cohorts
from milbench.evaluation.scores import score
from milbench.measure import benchmark_files as references
from milbench.report.folder import foreign_readme, write_report
from milbench.report.scaling import write_ladder
from milbench.runs.records import read_costs, read_runs, read_suite
from milbench.runs.store import Store
from milbench.runs.store_check import check_path
from milbench.runs.tuning import study as studies
from milbench.runs.tuning.search import StudySpec

HOSTILE = ["/tmp/absolute", "../up", "..", ".", "", " ", "a/b", "a\\b", "nul\0", "line\nbreak", "\x1b[31m", "CON",
           "aux.csv", "c:x", "x" * 300, ".hidden", "\u2028"]  # fmt: skip
NAMES = st.one_of(
    st.sampled_from(HOSTILE),
    st.text(max_size=40),
    st.builds("/".join, st.lists(st.sampled_from(["..", ".", "", "a", "etc"]), min_size=1, max_size=4)),
)


def everything(folder):
    """Every file and link below a folder -> content."""
    return {
        p.relative_to(folder).as_posix(): os.readlink(p) if p.is_symlink() else p.read_bytes()
        for p in folder.rglob("*")
        if p.is_symlink() or p.is_file()
    }


@given(NAMES)
def test_a_name_becomes_a_file_of_its_folder_or_is_refused(name):
    folder = Path("/somewhere/folder")
    if name_problem(name, ".csv"):
        with refused("name-bad") as caught:
            child(folder, name, ".csv")
        assert str(caught.value).isprintable()
        return
    path = child(folder, name, ".csv")
    assert path.parent == folder
    assert Path(os.path.normpath(path)) == path
    assert path.name == f"{name}.csv"
    assert len(path.name.encode()) < 255


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_refused(name):
    with refused("name-bad"):
        child(Path(), name)


@pytest.mark.parametrize(
    "name", ["fold0", "r0-f3", "k=all", "task 1", "Übung", "split_10_of_10", "a..b", "COM", "connor"]
)
def test_legal_names_keep_their_paths(name):
    assert child(Path("folds"), name, ".csv") == Path("folds") / f"{name}.csv"


# --- every writer


def small_cohort(folder, fold_names=("fold0",), classes=("no", "yes"), slides=None):
    """Write a cache with source.json and return the cohort's spec; fold names are not checked on the way in."""
    slides = slides or [f"s{i}" for i in range(8)]
    rng = np.random.default_rng(0)
    parts = tuple(tuple(slides[i] for i in range(len(slides)) if (i // 2) % 3 == k) for k in (0, 1, 2))
    with CacheWriter(folder / "c", "float32") as out:
        for i, slide in enumerate(slides):
            out.add(slide, rng.normal(size=(2, 3)).astype(np.float32) + i % 2)
        out.table = SourceTable(
            {s: classes[i % 2] for i, s in enumerate(slides)}, None, tuple(Fold(n, *parts) for n in fold_names)
        )
    return DataSpec(name="d", cache="c")


def writers(folder, name):
    """Every writer that makes paths of names from files, with a name in every place where one can stand."""
    store = Store(folder / "results", made.suite())
    spec = made.run_spec(store.suite, "easy", "max", "f0", 0)
    frame = pd.DataFrame({"a": [1.0]})

    def suite():
        Store(folder / "results", made.suite(name=name)).prepare()

    def cohort():
        store.cohort(name, "f0").mkdir(parents=True)

    def run():
        store.publish_run(spec.run_id if name in HOSTILE else name, made.record(spec, "max", "failed"))

    def cost():
        store.publish_cost(name, made.cost_record(store.suite, "easy", "max"))

    def mark():
        store.mark(name, "2026-01-01")

    def folds():
        small_cohort(folder / "home", (name,))
        write_cohort(load_cohort(DataSpec(name="d", cache="c"), folder / "home"), folder / "results" / "cohort")

    def figures():
        search = type("S", (), {"__str__": lambda self: name, "name": name, "file_name": StudySpec.file_name})()
        child(folder / "results", search.file_name, "-slice.png")

    def ladder():
        write_ladder(frame, {}, folder / "results", name, "milbench measure")

    def reference():
        out = child(folder / "results", name, what="class of machines") / references.FILE_NAME
        out.parent.mkdir(parents=True)

    return [suite, cohort, run, cost, mark, folds, figures, ladder, reference]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=NAMES)
def test_no_writer_leaves_its_folder(tmp_path, name):
    """Whatever name stands in a file, suite, store or method: nothing outside the results folder is written."""
    place = tmp_path / "place"
    shutil.rmtree(place, ignore_errors=True)
    (place / "outside").mkdir(parents=True)
    (place / "outside" / "precious.csv").write_text("precious")
    for write in writers(place, name):
        shutil.rmtree(place / "home", ignore_errors=True)
        # Refused, or the stand-in of a table is no table: what counts is what was written.
        with suppress(ValueError, KeyError, AttributeError, FileExistsError):
            write()
        unknown = [p for p in everything(place) if not p.startswith(("results/", "home/", "outside/"))]
        assert unknown == [], write.__name__
        assert everything(place / "outside") == {"precious.csv": b"precious"}, write.__name__


@pytest.mark.parametrize("fold", ["/tmp/elsewhere", "../../up", "a/b", "x\0y", "nul"])
def test_a_hostile_fold_of_a_cache_is_refused(tmp_path, fold):
    small_cohort(tmp_path, (fold,))
    with refused("name-bad") as caught:
        load_cohort(DataSpec(name="d", cache="c"), tmp_path)
    assert str(caught.value).isprintable()


def planted(tmp_path, link):
    """A store in which a link that leads outside stands at a place."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "labels.csv").write_text("precious")
    (outside / "journal.log").write_text("precious")
    store = Store(tmp_path / "results", made.suite())
    place = store.folder / link
    place.parent.mkdir(parents=True)
    place.symlink_to(outside / place.name if place.suffix else outside)
    return store, outside


@pytest.mark.parametrize(
    "link", ["runs", "costs", "cohorts", "tuning", "tuning/journal.log", "cohorts/d-f", "cohorts/d-f/folds"]
)
def test_a_link_in_a_store_is_not_followed(tmp_path, link):
    store, outside = planted(tmp_path, link)
    before = everything(outside)
    small_cohort(tmp_path)
    cohort = load_cohort(DataSpec(name="d", cache="c"), tmp_path)

    def write():
        store.prepare()
        write_cohort(cohort, inside(store.root, store.cohort("d", "f")))

    with refused("path-outside"):
        write()
    assert everything(outside) == before


def test_a_link_in_place_of_a_file_is_replaced(tmp_path):
    store, outside = planted(tmp_path, "suite.json")
    (outside / "suite.json").write_text("precious")
    store.prepare()
    assert (outside / "suite.json").read_text() == "precious"
    assert not (store.folder / "suite.json").is_symlink()
    assert read_suite(store.folder) == store.suite


# --- damaged stores


@pytest.fixture(scope="module")
def flip_home(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    before = os.environ.get("MILBENCH_CACHE")
    os.environ["MILBENCH_CACHE"] = str(home)
    yield home
    if before is None:
        del os.environ["MILBENCH_CACHE"]
    else:
        os.environ["MILBENCH_CACHE"] = before


def test_no_flipped_bit_is_silent(flip_home, tmp_path):
    table = flip_bits.campaign(tmp_path, 54, seed=1)
    assert table["silent"].sum() == 0, table[table["silent"] > 0].to_string()
    assert table["detected"].sum() > 40
    assert (table["flips"] == 3).all()


@pytest.fixture
def store(tmp_path):
    return made.fill(
        tmp_path / "runs", made.suite(data=("easy",)), methods=("max", "mean"), n=24, folds=("f0", "f1"), seeds=2
    )


def ok_runs(store):
    return [run for run in store.records() if run.outcome == "ok"]


def test_exchanged_predictions_are_refused(store):
    one, other = (run.path / "predictions.parquet" for run in ok_runs(store)[:2])
    first, second = one.read_bytes(), other.read_bytes()
    one.write_bytes(second)
    other.write_bytes(first)
    with refused("file-changed", "predictions.parquet"):
        leaderboard(store.root, resamples=10)
    assert len(check_path(store.root).defects) == 2


@pytest.mark.parametrize("old", [True, False])
def test_an_edited_seed_is_refused(store, old):
    file = ok_runs(store)[0].path / "run.json"
    content = json.loads(file.read_text())
    content["spec"]["seed"] += 7
    if old:  # stored before there were checksums: its id still gives it away
        del content["files"], content["checksum"]
    file.write_text(json.dumps(content))
    with refused("store-damaged" if old else "file-changed", "run.json"):
        read_runs(store.root)


def test_a_renamed_folder_is_refused(store):
    run = ok_runs(store)[0]
    run.path.rename(run.path.with_name("0123456789abcdef"))
    with refused("store-damaged", "0123456789abcdef"):
        read_runs(store.root)


def without_checksums(store):
    """Make a store what versions wrote that knew no checksums."""
    for file in [
        *store.folder.glob("runs/*/run.json"),
        *store.folder.glob("costs/*/cost.json"),
        store.folder / "suite.json",
    ]:
        content = json.loads(file.read_text())
        for key in ("files", "checksum"):
            content.pop(key, None)
        file.write_text(json.dumps(content))
    for file in store.folder.glob("cohorts/*/manifest.json"):
        file.unlink()


def test_a_store_of_before_gives_the_same_table(store):
    before = leaderboard(store.root, resamples=20)
    without_checksums(store)
    pd.testing.assert_frame_equal(leaderboard(store.root, resamples=20), before)
    assert check_path(store.root).defects == []


def test_predictions_of_other_bags_than_the_folds_are_refused(store):
    """Of a store without checksums too: the fold says which bags it tests."""
    without_checksums(store)
    cohort = store.cohort("easy", "f0")
    tested = {run.spec.fold: run.predictions().query("split == 'test'")["slide_id"] for run in ok_runs(store)}
    for fold, slides in tested.items():
        pd.DataFrame({"slide_id": slides, "split": "test"}).to_csv(cohort / "folds" / f"{fold}.csv", index=False)
    (runs,) = read_cohorts(store.root)
    assert score(runs, resamples=5)
    slides = tested["f0"].iloc[1:]
    pd.DataFrame({"slide_id": slides, "split": "test"}).to_csv(cohort / "folds" / "f0.csv", index=False)
    with refused("run-other-cohort"):
        score(runs, resamples=5)


@pytest.mark.parametrize(
    ("lost", "code", "named"),
    [
        ("cohorts/easy-f0", "file-missing", "easy-f0"),
        ("cohorts", "file-missing", "easy-f0"),
        ("cohorts/easy-f0/manifest.json", "cohort-damaged", "manifest.json"),
        ("suite.json", "file-missing", "suite.json"),
    ],
)
def test_a_file_that_a_store_has_lost_is_a_defect(store, lost, code, named):
    path = store.folder / lost
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    defects = check_path(store.root).defects
    assert len(defects) == 1
    assert named in defects[0]
    assert check_path(store.folder).defects == defects
    with refused(code, named):
        leaderboard(store.root, resamples=5)


def test_a_label_edited_in_a_cohort_without_its_manifest_gives_no_table(store):
    cohort = store.cohort("easy", "f0")
    (cohort / "manifest.json").unlink()
    text = (cohort / "labels.csv").read_text()
    (cohort / "labels.csv").write_text(text.replace(",0\n", ",1\n", 1))
    with refused("cohort-damaged", "manifest.json", "missing"):
        leaderboard(store.root, resamples=5)
    (runs,) = read_cohorts(store.root)
    with refused("cohort-damaged", "manifest.json", "missing"):
        runs.labels()


def test_runs_of_a_suite_that_lost_its_record_are_not_passed_over(store):
    other = made.fill(store.root, made.suite("other", data=("easy",)), ("max",), n=24, seeds=1, costs=False)
    (other.folder / "suite.json").unlink()
    assert any("other-v1" in line for line in check_path(store.root).defects)
    with refused("file-missing", "other-v1", "suite.json"):
        select(store.root, Selection(outcome="ok"))
    shutil.rmtree(other.folder / "runs")  # nothing was finished: what an interrupted start leaves
    assert check_path(store.root).defects == []


def test_marking_a_run_keeps_its_checksum_right(store):
    run = ok_runs(store)[0]
    store.mark(run.spec.run_id, "2030-01-01T00:00:00+00:00")
    assert read_runs(store.root)
    assert check_path(store.root).defects == []


#: One value of another type for every field that readers use.
WRONG = [("reason", 5), ("reason", {"a": 1}), ("method_canonical", ["x"]), ("title", {}), ("family", 3.5),
         ("environment", "x"), ("environment", {"gpus": "none"}), ("train", [1]), ("train", {"steps": "many"}),
         ("parameters", "10"),
         ("parameters", 10**400), ("peak_memory_bytes", True), ("budget_used", {"track": 3}), ("tuned", "yes"),
         ("tuned", {"outcomes": {"ok": "x"}}), ("outcome", "fine"), ("outcome", []),
         ("spec", []), ("spec", {"seed": {}}), ("finished", 17)]  # fmt: skip


@pytest.mark.parametrize(("key", "value"), WRONG)
def test_wrongly_typed_fields_of_a_run_are_one_sentence(store, key, value):
    file = ok_runs(store)[0].path / "run.json"
    content = {k: v for k, v in json.loads(file.read_text()).items() if k not in ("files", "checksum")}
    file.write_text(json.dumps(content | {key: value}))
    with refused("store-damaged", "run.json") as caught:
        leaderboard(store.root, resamples=5)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("text", "code"),
    [
        *((text, "file-unreadable") for text in ("[" * 100_000, '{"schema": ' + "9" * 6000 + "}", "{", "\xff")),
        *((text, "store-damaged") for text in ('{"schema": true}', "[]", "3")),
    ],
)
@pytest.mark.parametrize("name", ["run.json", "cost.json", "suite.json"])
def test_records_that_are_no_records_are_one_sentence(store, name, text, code):
    file = next(iter([*store.folder.glob(f"*/*/{name}"), store.folder / "suite.json"]))
    file.write_text(text, encoding="latin-1")
    if name == "suite.json" and code == "store-damaged":
        code = "schema-unknown"  # suite.json carries no schema number
    with refused(code, name) as caught:
        read_runs(store.root), read_costs(store.root), read_suite(store.folder)
    assert len(str(caught.value)) < 600


def test_a_pipe_in_a_store_is_refused(store):
    file = ok_runs(store)[0].path / "predictions.parquet"
    file.unlink()
    os.mkfifo(file)
    with refused("path-wrong-kind", "pipe"):
        leaderboard(store.root, resamples=5)


# --- caches


def _resealed(cache, name, content):
    """Replace a file of a cache and make cache.toml agree, as somebody who means harm would."""
    (cache / name).write_bytes(content)
    key = {"source.json": "table_checksum", "index.parquet": "index_checksum"}[name]
    lines = (cache / "cache.toml").read_text().splitlines(keepends=True)[:-1]
    lines = [f'{key} = "{file_checksum(cache / name)}"\n' if line.startswith(key) else line for line in lines]
    (cache / "cache.toml").write_text(seal("".join(lines)))


@pytest.mark.parametrize(
    ("table", "code"),
    [
        ("[]", "cache-damaged"), ("3", "cache-damaged"), ("[" * 100_000, "cache-damaged"),
        ('{"labels": [], "patients": null, "folds": []}', "cache-damaged"),
        ('{"labels": {"a": 1}, "patients": null, "folds": []}', "cache-damaged"),
        ('{"labels": null, "patients": null, "folds": [{"name": 3, "train": [], "val": [], "test": []}]}', "name-bad"),
        ('{"labels": null, "patients": null, "folds": [{"name": "../../x", "train": [], "val": [], "test": []}]}',
         "name-bad"),
        ('{"labels": null, "patients": null, "folds": [{"name": "f", "train": "abc", "val": [], "test": []}]}',
         "cache-damaged"),
    ],
)  # fmt: skip
def test_a_hostile_source_table_is_one_sentence(tmp_path, table, code):
    small_cohort(tmp_path)
    _resealed(tmp_path / "c", "source.json", table.encode())
    with refused(code, "source.json") as caught:
        load_cohort(DataSpec(name="d", cache="c"), tmp_path)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("line", ["dim = true", "dim = -3", 'slides = "8"', f"rows = {'9' * 6000}", "left_out = [1]",
                                  "source = 3",
                                  f"x = {'[' * 20_000}", 'dtype = ["float32"]'])  # fmt: skip
def test_a_hostile_cache_toml_is_one_sentence(tmp_path, line):
    small_cohort(tmp_path)
    key = line.partition(" ")[0]
    lines = (tmp_path / "c" / "cache.toml").read_text().splitlines(keepends=True)[:-1]
    lines = [old for old in lines if not old.startswith(f"{key} =")]
    (tmp_path / "c" / "cache.toml").write_text(seal("".join([*lines, f"{line}\n"])))
    with refused("cache-damaged", "cache.toml") as caught:
        FeatureCache.open(tmp_path / "c")
    assert len(str(caught.value)) < 400


def test_damaged_features_are_detected_when_a_cohort_is_loaded(tmp_path):
    small_cohort(tmp_path)
    shard = tmp_path / "c" / "shard-00000.safetensors"
    content = bytearray(shard.read_bytes())
    content[-3] ^= 1
    shard.write_bytes(content)
    with refused("cache-damaged"):
        load_cohort(DataSpec(name="d", cache="c"), tmp_path)


# --- interrupted writes


def _lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def _study(path, trials=2):
    import optuna

    study = optuna.create_study(study_name="s", storage=studies.open_storage(str(path)), load_if_exists=True,
                                sampler=optuna.samplers.RandomSampler(seed=0))  # fmt: skip
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=trials)
    return [trial.number for trial in study.trials]


@pytest.mark.parametrize("lost", [1, 25, 60])
def test_a_journal_that_ends_in_half_a_line_goes_on(tmp_path, lost):
    path = tmp_path / "journal.log"
    assert _study(path) == [0, 1]
    whole = path.read_bytes()
    path.write_bytes(whole[:-lost])
    assert len(_study(path, 1)) == 3
    assert _study(path, 1)[-1] == 3  # it is read again, from its first line to its last
    assert all("op_code" in line and "checksum" in line for line in _lines(path))


def test_a_line_behind_half_a_line_of_before_goes_on(tmp_path):
    """A process before this version appended to half a line: the half counts for nothing."""
    path = tmp_path / "journal.log"
    _study(path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines, lines[-1][:40], lines[-1]]))
    assert len(_study(path, 1)) == 3


def test_a_full_disk_leaves_whole_lines_in_a_journal(tmp_path, monkeypatch):
    path = tmp_path / "journal.log"
    _study(path)
    before = path.read_bytes()
    write = os.write

    def full(handle, content):
        if len(content) > 20:
            write(handle, bytes(content[:20]))
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(studies.os, "write", full)
        with pytest.raises(OSError, match="No space left"):
            _study(path, 1)
    assert path.read_bytes() == before
    assert len(_study(path, 1)) == 3


def test_a_journal_of_before_is_read(tmp_path):
    import optuna

    path = tmp_path / "journal.log"
    backend = optuna.storages.journal.JournalFileBackend(str(path))
    study = optuna.create_study(study_name="s", storage=optuna.storages.JournalStorage(backend))
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=2)
    assert len(_study(path, 1)) == 3
    assert ["checksum" in line for line in _lines(path)].count(False) > 0


def test_a_full_disk_leaves_the_report_of_before(store, tmp_path, monkeypatch):
    board, out = evaluate(store.root, resamples=10), tmp_path / "report"
    write_report(board, out, "Leaderboard of made-up", "by hand")
    before = everything(out)
    calls = iter(range(100))

    def full(*_):
        if next(calls) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("milbench.atomic_io.publishing.os.fsync", full)
    with refused("not-writable"):
        write_report(board, out, "Leaderboard of made-up", "again")
    assert everything(out) == before


def test_an_interrupted_report_is_replaced_by_the_same_command(tmp_path, monkeypatch):
    files = {"a.csv": b"new", "README.md": b"# Leaderboard of x\nnew"}
    write_together(tmp_path, {"a.csv": b"old", "README.md": b"# Leaderboard of x\nold"})
    replace, calls = os.replace, iter(range(100))

    def killed(source, target):
        if next(calls) == 2:
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr("milbench.atomic_io.publishing.os.replace", killed)
        with pytest.raises(KeyboardInterrupt):
            write_together(tmp_path, files)
    assert (tmp_path / PUBLISHING).exists()
    (tmp_path / "README.md").write_text("")
    assert not foreign_readme(tmp_path, "Leaderboard of x")
    write_together(tmp_path, files)
    assert everything(tmp_path) == files


@pytest.mark.parametrize(
    ("content", "foreign"),
    [
        (b"", False), (b"\n \n", False), (b"\0" * 900, False), (b"# Leaderboard of made-up\nanything", False),
        (b"# Leader", False), (b"# My study\n", True), (b"notes", True), (b"# Leaderboard of other\n", True),
        (b"\n\n# My study", True), (b"#", True), (b"# Leaderboard of made-up and mine\n", True),
    ],
)  # fmt: skip
def test_a_readme_of_the_users_own_is_not_replaced(tmp_path, content, foreign):
    (tmp_path / "README.md").write_bytes(content)
    assert foreign_readme(tmp_path, "Leaderboard of made-up") == foreign


def test_a_cohort_of_which_only_a_part_was_written_is_repaired(tmp_path):
    small_cohort(tmp_path)
    cohort, out = load_cohort(DataSpec(name="d", cache="c"), tmp_path), tmp_path / "out"
    write_cohort(cohort, out)
    whole = everything(out)
    for name in whole:
        for damage in (None, b"", whole[name][: len(whole[name]) // 2]):
            (out / name).unlink() if damage is None else (out / name).write_bytes(damage)
            write_cohort(cohort, out)
            assert everything(out) == whole
