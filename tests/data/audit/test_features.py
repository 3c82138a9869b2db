"""Features: columns that are the label, slides that are nearly the same; against sklearn and brute force."""

from __future__ import annotations

import re

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from support.cohorts import clean_cohort

from milbench.config import DataSpec, Suite
from milbench.data.audit.checks import feature_findings
from milbench.data.audit.features import sketch
from milbench.data.cache.reader import CacheWriter
from milbench.data.cohort import read_subject
from milbench.data.suite_audit import audit


@pytest.fixture(autouse=True)
def _own_memory(cache_home):
    """No findings of other tests."""


def _musk_with_its_trap(shared_root, folder, column):
    """MUSK1 as some copies have it: a 167th column, made of the bags' labels."""
    packed = np.load(shared_root / "data" / "classic" / "musk1.npz")
    ends, labels = packed["bag_offsets"], packed["bag_label"]
    x = np.column_stack([packed["features"], column(np.repeat(labels, np.diff(ends)))]).astype(np.float32)
    with CacheWriter(folder / "c", "float32") as writer:
        for i, name in enumerate(packed["bag_name"]):
            writer.add(str(name), x[ends[i] : ends[i + 1]])
    rows = [f"{name},{name},{label}" for name, label in zip(packed["bag_name"], labels, strict=True)]
    (folder / "l.csv").write_text("\n".join(["slide_id,patient_id,label", *rows]) + "\n")


@pytest.mark.parametrize(
    ("column", "code"),
    [
        (lambda label: label, "label-column"),
        (lambda label: 1 - 2.0 * label, "label-column"),
        (lambda label: label + np.random.default_rng(0).normal(size=len(label)) / 10, "almost-label-column"),
    ],
    ids=["the label", "its negative", "the label and some noise"],
)
def test_the_trap_of_musk1(shared_root, tmp_path, column, code):
    _musk_with_its_trap(shared_root, tmp_path, column)
    suite = Suite(name="s", methods=("mean",), data=(DataSpec(name="m", cache="c", labels="l.csv"),), base=tmp_path)
    findings = {finding.code: finding.ids for finding in audit(suite)}
    # The names tell the label too: MUSK-236, NON-MUSK-253.
    assert findings == {code: ("166",), "shortcut-name": ()}


def test_the_classical_sets_are_clean(shared_root):
    names = (
        "classic/musk1",
        "classic/musk2",
        "classic/elephant",
        "classic/fox",
        "classic/tiger",
        "histology/colon_cancer",
    )
    data = tuple(DataSpec(name=name.split("/")[1], cache=f"{name}.npz") for name in names)
    findings = audit(Suite(name="s", methods=("mean",), data=data, base=shared_root / "data"))
    assert {finding.severity for finding in findings} <= {"warning"}
    assert {finding.code for finding in findings} <= {"shortcut-name", "shortcut-number", "shortcut-length"}


def test_classes_of_several_numbers_are_detected_in_a_column(tmp_path):
    """A column of class numbers: between the first and the last class, the middle one is on no side."""
    for exact in (True, False):
        planted = clean_cohort(classes=("a", "b", "c"))
        rng = np.random.default_rng(0)
        for slide in planted.slides.values():
            noise = 0 if exact else rng.normal(size=len(slide.x)) / 5
            slide.x[:, 3] = "bca".index(slide.label) + noise
        (tmp_path / str(exact)).mkdir()
        (finding,) = audit(planted.write(tmp_path / str(exact)))
        assert (finding.code, finding.ids) == ("label-column" if exact else "almost-label-column", ("3",))
    assert re.search(r"AUC 1\.000 of 3", finding.message)


def test_two_values_that_agree_at_random_are_not_the_label(tmp_path):
    """One binary column in three separates four slides: such a column says nothing."""
    with CacheWriter(tmp_path / "c", "float32") as writer:
        for i in range(4):
            writer.add(f"{i}", np.column_stack([np.full(3, i % 2), np.random.default_rng(i).normal(size=(3, 6))]))
    (tmp_path / "l.csv").write_text("slide_id,patient_id,label\n" + "".join(f"{i},p{i},{i % 2}\n" for i in range(4)))
    spec = DataSpec(name="m", cache="c", labels="l.csv", split={"folds": 2, "val_fraction": 0})
    findings = audit(Suite(name="s", methods=("mean",), data=(spec,), base=tmp_path))
    assert {finding.code for finding in findings} == {"rare-test-class"}


def test_the_auc_of_a_column_is_that_of_its_means(tmp_path):
    planted = clean_cohort(rows=(100, 200), per_class=20)
    rng = np.random.default_rng(0)
    for slide in planted.slides.values():
        slide.x[:, 1] += 3.2 * (slide.label == "tumour") + rng.normal()
    suite = planted.write(tmp_path)
    (finding,) = audit(suite)
    assert (finding.code, finding.ids) == ("almost-label-column", ("1",))
    read = sketch(read_subject(suite.data[0], tmp_path).cache, list(planted.slides)).mean[:, 1]
    # 64 of the rows, the first and the last among them, as evenly spaced as whole numbers are.
    means = [
        s.x[np.unique(np.linspace(0, len(s.x) - 1, 64).round().astype(int)), 1].mean() for s in planted.slides.values()
    ]
    assert read == pytest.approx(means, rel=1e-5)
    auc = roc_auc_score([s.label == "tumour" for s in planted.slides.values()], means)
    assert 0.99 <= auc < 1
    assert f"AUC {auc:.3f} of 1" in finding.message


def test_similar_slides_are_those_that_brute_force_finds(tmp_path):
    """Copies with noise of many sizes: those whose rows lie below a tenth of the distance of unrelated slides."""
    planted = clean_cohort(per_class=20, dim=256, rows=(8, 9))
    names = list(planted.slides)
    rng = np.random.default_rng(0)
    sizes = np.geomspace(0.01, 1, 20)
    for size, one, other in zip(sizes, names[:20], names[20:40], strict=True):
        x = planted.slides[one].x
        planted.slides[other].x = (x + size * rng.normal(size=x.shape)).astype(np.float32)
    xs = {name: slide.x.astype(np.float64) for name, slide in planted.slides.items()}
    every = np.concatenate(list(xs.values()))
    spread = ((every - every.mean(0)) ** 2).sum(1).mean()
    due, close = set(), set()
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            share = ((xs[one] - xs[other]) ** 2).sum(1).mean() / (2 * spread)
            due |= {one, other} if share < 0.01 * 0.7 else set()  # a random matrix keeps distances roughly
            close |= {one, other} if share < 0.01 * 1.4 else set()
    (finding,) = audit(planted.write(tmp_path))
    assert finding.code == "similar-features"
    assert len(due) >= 12
    assert due <= set(finding.ids) <= close


def test_one_slide_far_away_makes_the_others_no_more_similar(tmp_path):
    planted = clean_cohort(rows=(8, 9))
    next(iter(planted.slides.values())).x[:] *= 1e4
    assert audit(planted.write(tmp_path)) == []


def test_features_are_read_once_a_cohort(tmp_path, cache_home, monkeypatch):
    planted = clean_cohort()
    for slide in planted.slides.values():
        slide.x[:, 5] = float(slide.label == "tumour")
    suite = planted.write(tmp_path)
    first = audit(suite)
    assert [finding.code for finding in first] == ["label-column"]
    (memory,) = (cache_home / "audit").iterdir()

    def read(*_):
        raise AssertionError("features were read again")

    with monkeypatch.context() as patched:
        patched.setattr("milbench.data.audit.checks.sketch", read)
        assert audit(suite) == first
        renamed = Suite(name="s", methods=("mean",), base=tmp_path,
                        data=(suite.data[0].model_copy(update={"name": "other"}),))  # fmt: skip
        assert [(finding.cohort, finding.ids) for finding in audit(renamed)] == [("other", ("5",))]
        table = (tmp_path / "labels.csv").read_text()
        (tmp_path / "labels.csv").write_text(table.replace("tumour", "zebra"))
        with pytest.raises(AssertionError, match="read again"):
            audit(suite)
        (tmp_path / "labels.csv").write_text(table)
    for damage in ("", "[]]", '[["label-column", 3, []]]', '[["no-code", "x", []]]', '{"a": 1}'):
        memory.write_text(damage)
        assert audit(suite) == first


def test_a_memory_that_cannot_be_written_costs_nothing_but_time(tmp_path, monkeypatch):
    suite = clean_cohort().write(tmp_path)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MILBENCH_CACHE", str(tmp_path / "file"))
    assert feature_findings(read_subject(suite.data[0], tmp_path)) == []
