"""Every format, from files as its tool writes them: init, audit, run, untouched by hand; nothing changes on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from support.features import Slide, digit_slides, write_clam, write_csv, write_labels, write_trident
from support.foreign import write_eva, write_mil_baseline, write_slideflow, write_stamp, write_torchmil
from support.plain import write_long, write_mat, write_packed, write_plain, write_svmlight, write_uci

import milbench
from milbench.config.suites import load_suite
from milbench.data.cohort import Cohort, load_cohort

PATIENTS = 20


def one_a_patient() -> list[Slide]:
    """Twenty bags, each a patient of its own, as the sets are that know no patients."""
    return digit_slides(patients=PATIENTS, slides=1)


def split(slides: list[Slide]) -> dict[str, str]:
    """Parts by patient, both classes in each."""
    patients = sorted({slide.patient for slide in slides})
    parts = ("train",) * 5 + ("val",) * 2 + ("test",) * 3
    return {slide.name: parts[patients.index(slide.patient) // 2] for slide in slides}


@pytest.fixture
def whole(tmp_path, cli) -> Callable[..., Cohort]:
    """Run the three commands on a source; return the cohort they ended with."""

    def call(source: Path, *words: object) -> Cohort:
        (tmp_path / "set.toml").unlink(missing_ok=True)
        lines = [
            ("init", "--features", source, "--out", "set.toml", "--no-estimate", *words),
            ("audit", "set.toml"),
            ("run", "set.toml", "-m", "mean", "--seeds", "1"),
        ]
        for line in lines:
            said = cli(*line)
            assert said.code == 0, (line, said.out, said.err)
            if line[0] == "init":  # what a method costs and how long it learns do not depend on the format
                text = (tmp_path / "set.toml").read_text(encoding="utf-8")
                assert text.count("\ncost = true\n") == 1
                (tmp_path / "set.toml").write_text(
                    text.replace("\ncost = true\n", "\ncost = false\nrecipe.epochs = 2\n"), encoding="utf-8"
                )
        table = milbench.leaderboard(tmp_path / "results" / "runs")
        assert list(table["method"]) == ["mean"]
        suite = load_suite(tmp_path / "set.toml")
        return load_cohort(suite.data[0], suite.base)

    return call


def same(cohort: Cohort, slides: list[Slide], names: list[str] | None = None, coords: float | None = 1.0) -> None:
    """Features and positions are those of the source, bit for bit, and so are labels and patients."""
    cache = cohort.cache()
    names = names or [slide.name for slide in slides]
    assert sorted(cohort.slides) == sorted(names)
    for name, slide in zip(names, slides, strict=True):
        assert np.array_equal(cache[name].numpy(), slide.x.astype(cache[name].numpy().dtype))
        where = cache.coords(name)
        assert (where is None) == (coords is None)
        if where is not None and coords is not None:
            assert np.array_equal(where.numpy(), (slide.xy * coords).astype(where.numpy().dtype))
        assert cohort.classes[cohort.labels[name]] in (slide.label, str(int(slide.label == "tumour")), _sign(slide))


def _sign(slide: Slide) -> str:
    return "1" if slide.label == "tumour" else "-1"


def folds(cohort: Cohort, *parts: dict[str, str]) -> None:
    """Folds are those of the source."""
    assert len(cohort.folds) == len(parts)
    for fold, due in zip(cohort.folds, parts, strict=True):
        for part, ids in fold.parts.items():
            assert sorted(ids) == sorted(name for name, of in due.items() if of == part)


def with_labels(write: Callable[[Path, list[Slide]], Path]) -> Callable[[Path, list[Slide]], Iterator[object]]:
    def call(folder: Path, slides: list[Slide]) -> Iterator[object]:
        yield write(folder / "source", slides)
        yield from ("--labels", write_labels(folder / "labels.csv", slides))

    return call


LABELLED: dict[str, tuple[Callable[[Path, list[Slide]], Path], float | None]] = {
    "clam h5": (lambda folder, slides: write_clam(folder, slides, ("h5_files",)), 1),
    "clam pt": (lambda folder, slides: write_clam(folder, slides, ("pt_files",)), None),
    "trident": (write_trident, 1),
    "stamp": (write_stamp, 0.5),
    "slideflow": (write_slideflow, 1),
    "plain npy": (lambda folder, slides: write_plain(folder, slides, "npy"), None),
    "plain npz": (lambda folder, slides: write_plain(folder, slides, "npz"), 1),
    "plain pt": (lambda folder, slides: write_plain(folder, slides, "pt"), 1),
    "plain safetensors": (lambda folder, slides: write_plain(folder, slides, "safetensors"), 1),
    "plain parquet": (lambda folder, slides: write_plain(folder, slides, "parquet"), 1),
}


@pytest.mark.parametrize("kind", LABELLED)
def test_features_with_a_table_of_labels(kind, tmp_path, whole):
    slides = digit_slides(patients=PATIENTS)
    write, coords = LABELLED[kind]
    source, *words = with_labels(write)(tmp_path, slides)
    cohort = whole(source, *words)
    same(cohort, slides, coords=coords)
    assert cohort.patients == {slide.name: slide.patient for slide in slides}


def test_published_folds_of_clam(tmp_path, whole):
    slides = digit_slides(patients=PATIENTS)
    due = split(slides)
    columns = {part: [name for name, of in due.items() if of == part] for part in ("train", "val", "test")}
    longest = max(map(len, columns.values()))
    rows = [(i, *(ids[i] if i < len(ids) else "" for ids in columns.values())) for i in range(longest)]
    write_csv(tmp_path / "splits_0.csv", [("", *columns), *rows])
    source, *words = with_labels(LABELLED["clam h5"][0])(tmp_path, slides)
    folds(whole(source, *words, "--splits", tmp_path / "splits_0.csv"), due)


@pytest.mark.parametrize("kind", ["torchmil npy", "torchmil h5", "eva", "mil_baseline"])
def test_sources_that_bring_labels_and_folds(kind, tmp_path, whole):
    slides = one_a_patient()
    due = split(slides)
    match kind:
        case "eva":
            source, coords = write_eva(tmp_path / "source", slides, due), None
        case "mil_baseline":
            source, coords = write_mil_baseline(tmp_path / "source", slides, [due]), None
        case _:
            source, coords = write_torchmil(tmp_path / "source", slides, f".{kind.split()[1]}", split=due), 1
    cohort = whole(source)
    same(cohort, slides, coords=coords)
    folds(cohort, due)


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_long_tables_bring_labels_and_patients(kind, tmp_path, whole):
    slides = digit_slides(patients=PATIENTS)
    cohort = whole(write_long(tmp_path / f"patches.{kind}", slides, labels=True))
    same(cohort, slides)
    assert cohort.patients == {slide.name: slide.patient for slide in slides}


def test_packed_bags_bring_labels_and_folds(tmp_path, whole):
    slides = one_a_patient()
    cohort = whole(write_packed(tmp_path / "bags.npz", slides, folds=2))
    same(cohort, slides, coords=None)
    tests = [set(fold.test) for fold in cohort.folds]
    names = [slide.name for slide in slides]
    assert tests == [set(names[:10]), set(names[10:])]


@pytest.mark.parametrize(("kind", "write"), [("svmlight", write_svmlight), ("uci", write_uci), ("mat", write_mat)])
def test_the_classical_sets(kind, write, tmp_path, whole):
    slides = one_a_patient()
    source, names = write(tmp_path, slides)
    cohort = whole(source)
    cache = cohort.cache()
    assert sorted(cohort.slides) == sorted(names)
    for name, slide in zip(names, slides, strict=True):
        x = cache[name].numpy()
        assert np.array_equal(x[:, :64], slide.x)
        assert not x[:, 64:].any()
