"""The audit reports every defect, planted alone into a clean cohort, with its ids, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from support.cohorts import Planted, Slide, clean_cohort
from support.refusal import refused

from milbench.data.cohort import load_cohort
from milbench.data.suite_audit import audit

#: what a test expects: (code, fold, ids)
Due = list[tuple[str, str | None, tuple[str, ...]]]
#: the suite takes another column than this for the patients
UNUSED: tuple[str, str | None, tuple[str, ...]] = ("unused-column", None, ("patient_id",))


def findings_of(planted: Planted, folder) -> Due:
    return [(finding.code, finding.fold, finding.ids) for finding in audit(planted.write(folder))]


@pytest.fixture(autouse=True)
def _own_memory(cache_home):
    """No findings of other tests."""


@pytest.mark.parametrize("classes", [("normal", "tumour"), ("a", "b", "c")])
@pytest.mark.parametrize("seed", range(4))
def test_a_clean_cohort_has_nothing(seed, classes, tmp_path):
    assert findings_of(clean_cohort(seed, classes=classes), tmp_path) == []


def test_folds_that_are_made_here_are_clean(tmp_path):
    planted = clean_cohort()
    planted.folds = []
    assert findings_of(planted, tmp_path) == []


# --- folds -----------------------------------------------------------------------------------------------------------


def slide_in_train_and_val(planted: Planted) -> Due:
    slide = planted.folds[1]["train"][3]
    planted.folds[1]["val"].append(slide)
    return [("slide-overlap", "fold1", (slide,))]


def slides_in_train_and_test(planted: Planted) -> Due:
    slides = planted.folds[0]["train"][:2]
    planted.folds[0]["test"] += slides
    return [("slide-overlap", "fold0", tuple(sorted(slides)))]


def slide_in_val_and_test(planted: Planted) -> Due:
    slide = planted.folds[0]["test"][0]
    planted.folds[0]["val"].append(slide)
    return [("slide-overlap", "fold0", (slide,))]


def val_from_train(planted: Planted) -> Due:
    fold = planted.folds[0]
    fold["val"] = planted.of(0, "train", "normal")[:2] + planted.of(0, "train", "tumour")[:2]
    return [("val-in-train", "fold0", tuple(sorted(fold["val"])))]


def val_is_test(planted: Planted) -> Due:
    fold = planted.folds[0]
    fold["val"] = fold["test"][::-1]
    return [("val-equals-test", "fold0", tuple(sorted(fold["test"])))]


def row_twice(planted: Planted) -> Due:
    slide = planted.folds[1]["test"][2]
    planted.folds[1]["test"].append(slide)
    return [("duplicate-row", "fold1", (slide,))]


def patient_in_train_and_test(planted: Planted) -> Due:
    """One patient of the label table has the slides of two."""
    one, other = planted.of(0, "train", "normal")[0], planted.of(0, "test", "normal")[0]
    patient, its = planted.slides[one].patient, planted.slides[other].patient
    for slide in planted.slides.values():
        slide.patient = patient if slide.patient == its else slide.patient
    # In the other fold all of them lie in one part.
    slides = [name for name, slide in planted.slides.items() if slide.patient == patient]
    fold = {part: [name for name in ids if name not in slides] for part, ids in planted.folds[1].items()}
    planted.folds[1] = fold | {"train": fold["train"] + slides}
    return [("patient-overlap", "fold0", (patient,))]


def tcga(planted: Planted, **data: object) -> str:
    """Give slides TCGA's names, every slide its own patient; then move one to the other side; return its patient."""
    patients = sorted({slide.patient for slide in planted.slides.values()})
    number = {patient: i for i, patient in enumerate(patients)}
    for i, name in enumerate(list(planted.slides)):
        slide = planted.slides[name]
        planted.rename(
            name, f"TCGA-{number[slide.patient] % 6:02d}-{slide.patient}-01Z-00-DX{i % 2 + 1}.{i * 7919:08x}"
        )
    planted.data = {"patient_column": "slide_id", **data}
    moved = planted.of(0, "train", "tumour")[0]
    planted.folds[0]["train"].remove(moved)
    planted.folds[0]["test"].append(moved)
    return moved[:12]


def barcodes_on_both_sides(planted: Planted) -> Due:
    return [("guessed-patient-overlap", "fold0", (tcga(planted),)), UNUSED]


def a_rule_on_both_sides(planted: Planted) -> Due:
    return [("patient-overlap", "fold0", (tcga(planted, patient_rule="^(.{12})"),)), UNUSED]


def one_class_of_val(planted: Planted) -> Due:
    planted.folds[0]["train"] += planted.of(0, "val", "tumour")
    planted.folds[0]["val"] = planted.of(0, "val", "normal")
    return [("one-class", "fold0", tuple(sorted(planted.folds[0]["val"])))]


def one_class_of_train(planted: Planted) -> Due:
    planted.folds[0]["val"] += planted.of(0, "train", "normal")
    planted.folds[0]["train"] = planted.of(0, "train", "tumour")
    return [("one-class", "fold0", tuple(sorted(planted.folds[0]["train"])))]


def class_that_is_not_trained(planted: Planted) -> Due:
    tested = planted.of(0, "test", "tumour")
    for name in tested:
        planted.slides[name].label = "unsure"
    # The other fold trains on it.
    fold = {part: [name for name in ids if name not in tested] for part, ids in planted.folds[1].items()}
    planted.folds[1] = fold | {"train": fold["train"] + tested}
    lacking = [("rare-test-class", fold, ()) for fold in ("fold0", "fold1")]
    return [("untrained-class", "fold0", tuple(sorted(tested))), *lacking]


def slide_in_no_fold(planted: Planted) -> Due:
    slide = planted.folds[0]["train"][5]
    planted.folds = [{part: [s for s in ids if s != slide] for part, ids in fold.items()} for fold in planted.folds]
    return [("unused-slide", None, (slide,))]


# --- tables ----------------------------------------------------------------------------------------------------------


def label_without_features(planted: Planted) -> Due:
    slide = planted.folds[0]["train"][5]
    planted.lost.add(slide)
    return [("label-without-features", None, (slide,))]


def features_without_label(planted: Planted) -> Due:
    slide = planted.folds[0]["test"][1]
    planted.rows.remove(slide)
    return [("features-without-label", None, (slide,))]


def unknown_slide_in_a_split(planted: Planted) -> Due:
    planted.folds[1]["val"].append("nobody")
    return [("split-without-label", "fold1", ("nobody",)), ("split-without-features", "fold1", ("nobody",))]


def label_row_twice(planted: Planted) -> Due:
    """Rows that agree are one, and it is said."""
    planted.rows += planted.rows[3:5]
    return [("table-form", None, ())]


def labels_that_disagree(planted: Planted) -> Due:
    one, other = planted.of(0, "train", "normal")[1], planted.of(1, "test", "tumour")[0]
    planted.slides[one].split_label, planted.slides[other].split_label = "tumour", "normal"
    return [("label-mismatch", None, tuple(sorted((one, other))))]


# --- features --------------------------------------------------------------------------------------------------------


def same_features_across(planted: Planted) -> Due:
    one, other = planted.of(0, "train", "normal")[0], planted.of(0, "test", "normal")[0]
    planted.slides[other].x = planted.slides[one].x.copy()
    apart = [
        f"fold{k}"
        for k, fold in enumerate(planted.folds)
        if len({part for part, ids in fold.items() for s in ids if s in (one, other)}) > 1
    ]
    assert "fold0" in apart
    return [("features-overlap", fold, tuple(sorted((one, other)))) for fold in apart]


def same_features_of_a_patient(planted: Planted) -> Due:
    one, other = [name for name, slide in planted.slides.items() if slide.patient == next(iter(planted.slides))[:4]]
    planted.slides[other].x = planted.slides[one].x.copy()
    return [("identical-features", None, tuple(sorted((one, other))))]


def nearly_the_same_features(planted: Planted) -> Due:
    """As another graphics card, or another precision, would give them."""
    one, other = planted.of(0, "train", "normal")[0], planted.of(0, "test", "normal")[0]
    third = planted.of(1, "val", "tumour")[0]
    x = planted.slides[one].x
    planted.slides[other].x = x.astype(np.float16).astype(np.float32)
    noise = np.random.default_rng(1).normal(size=x.shape)
    planted.slides[third].x = (x * (1 + 0.02 * noise)).astype(np.float32)
    return [("similar-features", None, tuple(sorted((one, other, third))))]


def _put(planted: Planted, column: int, values) -> None:
    for slide in planted.slides.values():
        slide.x[:, column] = values(slide)


def label_of_every_instance(planted: Planted) -> Due:
    """MUSK1's 167th column."""
    _put(planted, 5, lambda slide: float(slide.label == "tumour"))
    return [("label-column", None, ("5",))]


def label_of_some_instance(planted: Planted) -> Due:
    """True instance labels: one patch of a tumour is one, and not among the rows that are read."""
    rng = np.random.default_rng(0)

    def column(slide: Slide) -> np.ndarray:
        values = np.zeros(len(slide.x), dtype=np.float32)
        values[rng.integers(len(values))] = slide.label == "tumour"
        return values

    for slide in planted.slides.values():
        slide.x = rng.normal(size=(int(rng.integers(300, 400)), 8)).astype(np.float32)
    _put(planted, 2, column)
    return [("label-column", None, ("2",))]


def almost_the_label(planted: Planted) -> Due:
    rng = np.random.default_rng(0)
    _put(planted, 7, lambda slide: 4 * (slide.label == "tumour") + rng.normal(size=len(slide.x)))
    return [("almost-label-column", None, ("7",))]


# --- shortcuts -------------------------------------------------------------------------------------------------------


def length(planted: Planted) -> Due:
    for i, slide in enumerate(planted.slides.values()):
        slide.x = slide.x[: (12 if slide.label == "tumour" else 16) + i % 3]
    return [("shortcut-length", None, ())]


def both_ends_of_length(planted: Planted) -> Due:
    """Tumours are small or large, others in between: no line through the numbers tells it."""
    rng = np.random.default_rng(0)
    for i, slide in enumerate(planted.slides.values()):
        n = 50 + i % 7 if slide.label == "normal" else (20, 90)[i // 2 % 2] + i % 7
        slide.x = rng.normal(size=(n, 8)).astype(np.float32)
    return [("shortcut-length", None, ())]


def beginning_of_names(planted: Planted) -> Due:
    for name in list(planted.slides):
        planted.rename(name, f"{planted.slides[name].label}_{name}")
    return [("shortcut-name", None, ())]


def numbers_of_names(planted: Planted) -> Due:
    order = sorted(planted.slides, key=lambda name: planted.slides[name].label)
    for i, name in enumerate(order):
        planted.rename(name, f"S{1000 + i}")
    return [("shortcut-number", None, ())]


def site_column(planted: Planted) -> Due:
    for i, slide in enumerate(planted.slides.values()):
        slide.more["Site"] = "north" if (slide.label == "tumour") != (i % 12 == 0) else "south"
    return [("shortcut-site", None, ())]


def tcga_sites(planted: Planted) -> Due:
    for i, name in enumerate(list(planted.slides)):
        slide = planted.slides[name]
        site = f"{'A' if slide.label == 'tumour' else 'B'}{i % 3}"
        planted.rename(name, f"TCGA-{site}-{slide.patient}-01Z-00-DX1.{i * 7919:08x}")
    return [("shortcut-site", None, ())]


def scan(planted: Planted) -> Due:
    for i, slide in enumerate(planted.slides.values()):
        slide.step = 512.0 if (slide.label == "tumour") != (i % 15 == 0) else 256.0
    return [("shortcut-scan", None, ())]


# --- waivers ---------------------------------------------------------------------------------------------------------


def waiver_of_nothing(planted: Planted) -> Due:
    planted.data = {"waive": ("patient-overlap",)}
    return [("idle-waiver", None, ("patient-overlap",))]


DEFECTS = [
    slide_in_train_and_val, slides_in_train_and_test, slide_in_val_and_test, val_from_train, val_is_test, row_twice,
    patient_in_train_and_test, barcodes_on_both_sides, a_rule_on_both_sides, one_class_of_val, one_class_of_train,
    class_that_is_not_trained, slide_in_no_fold, label_without_features, features_without_label,
    unknown_slide_in_a_split, label_row_twice, labels_that_disagree, same_features_across, same_features_of_a_patient,
    nearly_the_same_features,
    label_of_every_instance, label_of_some_instance, almost_the_label, length, both_ends_of_length, beginning_of_names,
    numbers_of_names, site_column, tcga_sites, scan, waiver_of_nothing,
]  # fmt: skip


@pytest.mark.parametrize("plant", DEFECTS, ids=lambda plant: plant.__name__)
def test_a_planted_defect_is_the_only_finding(plant, tmp_path):
    planted = clean_cohort()
    due = plant(planted)
    suite = planted.write(tmp_path)
    findings = audit(suite)
    assert sorted((f.code, f.fold or "", f.ids) for f in findings) == sorted((c, f or "", i) for c, f, i in due), [
        finding.sentence for finding in findings
    ]
    assert {finding.cohort for finding in findings} == {"planted"}
    errors = [finding for finding in findings if finding.severity == "error"]
    if errors:  # and a run refuses, with the first of them
        with refused(errors[0].code) as caught:
            load_cohort(suite.data[0], tmp_path)
        assert errors[0].message.split(";")[0] in str(caught.value)
    else:
        assert load_cohort(suite.data[0], tmp_path).findings == tuple(findings)
