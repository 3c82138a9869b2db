"""Planted slides have the form of a cohort, contain the instances of their truth, and are written one at a time."""

import tracemalloc

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from support.kept import Kept

from milbench.data.cache.reader import FeatureCache
from milbench.data.datasets import planted_slides, prepare
from milbench.data.labels.table import read_labels
from milbench.data.splits.files import read_fold

FEW = {"train": 6, "val": 4, "test": 6, "patches": 60}


def slide(positive=True, name="s", site=0, **params):
    return planted_slides.make_slide(planted_slides.Params(**params), name, "p", site, positive)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(["presence", "proportion", "co-occurrence"]), st.booleans(), st.integers(20, 400),
    st.integers(1, 60), st.floats(0.01, 1.0), st.floats(0.05, 1.0), st.integers(0, 10**6),
)  # fmt: skip
def test_truth_of_a_slide(task, positive, patches, focus, share, tissue, seed):
    actual = slide(positive, task=task, patches=patches, focus=focus, share=share, tissue=tissue, seed=seed, spread=0)
    n = len(actual.cells)
    assert n == patches == len(actual.x) == len(actual.tissue) == len(actual.focus) == len(actual.tumour)
    # Row-major, every cell once.
    order = actual.cells[:, 1] * (actual.cells.max() + 1) + actual.cells[:, 0]
    assert (np.diff(order) > 0).all()
    less = max(1, round(share * n / 3))
    amount = max(1 if task == "presence" else less + 1, round(share * n))
    first, second = ((actual.tumour == which).sum() for which in (1, 2))
    if task == "presence":
        assert (first, second) == ((amount, 0) if positive else (0, 0))
    elif task == "proportion":
        assert (first, second) == (amount if positive else less, 0)
    elif positive:
        assert (first, second) == (amount - amount // 2, amount // 2)
        assert min(first, second) > 0
    else:
        assert sorted((first, second)) == [0, amount]
    # Every focus is of one tumour, none is larger than requested, and the numbers have no gaps.
    assert ((actual.focus > 0) == (actual.tumour > 0)).all()
    for number in range(1, actual.focus.max() + 1):
        members = actual.focus == number
        assert 1 <= members.sum() <= focus
        assert len(set(actual.tumour[members])) == 1


def test_a_focus_is_the_patches_nearest_to_its_centre():
    actual = slide(patches=500, focus=25, share=0.05, spread=0)
    assert actual.focus.max() == 1
    members = actual.focus == 1
    inside, outside = actual.cells[members], actual.cells[~members]
    reach = cdist(inside, inside).max(axis=1)
    centre = inside[reach.argmin()]
    assert reach.min() <= np.linalg.norm(outside - centre, axis=1).min() + np.sqrt(2)


def neighbours(actual):
    """Pairs of rows whose cells touch along an edge."""
    at = {tuple(cell): i for i, cell in enumerate(actual.cells)}
    steps = ((1, 0), (0, 1))
    return np.array([(i, at[x + dx, y + dy]) for (x, y), i in at.items() for dx, dy in steps if (x + dx, y + dy) in at])


def test_tissue_lies_in_pieces_and_its_types_in_regions():
    actual = slide(patches=3000, spread=0, smoothness=4.0, tissue=0.4)
    pairs = neighbours(actual)
    assert len(pairs) > 0.9 * 2 * 3000  # scattered over 40 % of a canvas it would be 0.4 of them
    same = (actual.tissue[pairs[:, 0]] == actual.tissue[pairs[:, 1]]).mean()
    assert same > 0.8
    assert len(np.unique(actual.tissue)) == 5
    rough = slide(patches=3000, spread=0, smoothness=0.5, tissue=0.4)
    pairs = neighbours(rough)
    assert (rough.tissue[pairs[:, 0]] == rough.tissue[pairs[:, 1]]).mean() < same - 0.2


def test_features_are_those_of_tissue_tumour_patient_and_site():
    quiet = {"site_shift": 0.0, "site_scale": 0.0, "patient_shift": 0.0, "patches": 6000, "spread": 0, "share": 0.3}
    actual = slide(**quiet, task="co-occurrence", shift=4.0)
    means = {
        (kind, which): actual.x[(actual.tissue == kind) & (actual.tumour == which)].mean(axis=0)
        for kind in range(5)
        for which in (0, 1, 2)
        if ((actual.tissue == kind) & (actual.tumour == which)).sum() > 100
    }
    both = [kind for kind in range(5) if all((kind, which) in means for which in (0, 1, 2))]
    assert len(both) >= 2
    moved = [[means[kind, which] - means[kind, 0] for kind in both] for which in (1, 2)]
    for direction in moved:  # of one length and direction in every tissue
        assert np.linalg.norm(direction, axis=1) == pytest.approx(4.0, abs=0.6)
        assert direction[0] @ direction[1] > 0.8 * 16
    assert abs(moved[0][0] @ moved[1][0]) < 0.25 * 16
    kinds = zip(actual.tissue, actual.tumour, strict=True)
    residual = actual.x - np.stack([means.get((k, t), np.full(32, np.nan)) for k, t in kinds])
    assert np.nanstd(residual) == pytest.approx(1, abs=0.02)
    # The same slide at another site: every feature is moved and stretched, and nothing else.
    loud = quiet | {"site_shift": 0.5, "site_scale": 0.3}
    there = slide(**loud, task="co-occurrence", shift=4.0, site=1)
    for feature in range(4):
        fit, rest, *_ = np.polyfit(actual.x[:, feature], there.x[:, feature], 1, full=True)
        assert rest[0] / len(actual.x) < 1e-9
        assert abs(fit[0] - 1) > 1e-3
    patient = slide(**quiet | {"patient_shift": 0.5}, task="co-occurrence", shift=4.0)
    offset = patient.x - actual.x
    assert np.ptp(offset, axis=0) == pytest.approx(0, abs=1e-5)
    assert offset.mean(axis=0).std() == pytest.approx(0.5, abs=0.2)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MILBENCH_CACHE", str(home))
        return prepare("planted-slides", FEW | {"train": 200, "label_noise": 0.2, "sites": 4})


def test_a_cohort_has_patients_sites_and_wrong_labels(cohort):
    table, bags = read_labels(cohort).set_index("slide_id"), pd.read_csv(cohort / "bags.csv")
    bags = bags.set_index("slide_id")
    fold = read_fold(cohort / "folds" / "fold0.csv")
    per_patient = table.groupby("patient_id").size()
    assert set(per_patient) == {1, 2, 3}
    assert len(per_patient) == 210
    # One site and one class a patient, and each patient in one part.
    joined = bags.join(table)
    assert joined.groupby("patient_id")[["site", "truth"]].nunique().eq(1).all(axis=None)
    assert set(joined["site"]) == {0, 1, 2, 3}
    part = {s: name for name, ids in fold.parts.items() for s in ids}
    assert joined.assign(part=pd.Series(part)).groupby("patient_id")["part"].nunique().eq(1).all()
    wrong = joined["label"] != joined["truth"]
    assert wrong[list(fold.train)].mean() == pytest.approx(0.2, abs=0.06)
    assert not wrong[list(fold.test)].any()
    assert joined.drop_duplicates("patient_id")["truth"].mean() == pytest.approx(0.5, abs=0.01)


def test_a_cohort_is_a_cache_with_the_truth_of_every_patch(cohort):
    cache, instances = FeatureCache.open(cohort / "features"), pd.read_parquet(cohort / "instances.parquet")
    bags = pd.read_csv(cohort / "bags.csv").set_index("slide_id")
    assert (cache.meta["patch_size"], cache.meta["units"]) == (256, "level-0 pixels")
    assert (cache.slides["coord_step"] == 256).all()
    sizes = cache.slides.set_index("slide_id")["rows"]
    assert (instances.groupby("slide_id", observed=True).size() == sizes).all()
    assert np.log(sizes).std() == pytest.approx(0.3, abs=0.05)
    tumour = instances.groupby("slide_id", observed=True)["label"].sum()
    assert (tumour.loc[bags.index] == bags["tumour_patches"]).all()
    assert ((bags["tumour_patches"] > 0) == (bags["truth"] == 1)).all()
    for name in list(cache)[:5]:
        xy = cache.coords(name).numpy()
        assert (xy % 256 == 0).all()
        assert (np.diff(xy[:, 1] * 10**6 + xy[:, 0]) > 0).all()


def test_classes_of_the_tasks():
    for task, classes in planted_slides._CLASSES.items():
        kept = Kept()
        actual = planted_slides.build(kept, planted_slides.Params(**FEW, task=task))
        assert actual.classes == classes
        assert set(kept) == set(actual.labels) == set(actual.patients)
        truth = dict(zip(actual.bags["slide_id"], actual.bags["truth"], strict=True))
        assert truth == actual.labels
    # Neither tumour alone tells a co-occurrence: each is in half of the negatives.
    first = actual.instances[actual.instances["tumour"] == 1]["slide_id"].nunique()
    assert 0 < first < len(actual.labels)


def test_a_slide_does_not_depend_on_the_others():
    few, many = Kept(), Kept()
    planted_slides.build(few, planted_slides.Params(**FEW))
    planted_slides.build(many, planted_slides.Params(**FEW | {"test": 12}))
    shared = [name for name in few if name.startswith("train")]
    assert all((few[name] == many[name]).all() for name in shared)


class Written:
    """A writer that keeps nothing, as a file does."""

    def __init__(self):
        self.meta, self.bytes = {}, 0

    def add(self, name, x, coords, coord_step):
        self.bytes += x.nbytes


def test_memory_holds_one_slide_at_a_time():
    params = planted_slides.Params(**FEW | {"patches": 4000, "dim": 256, "spread": 0, "max_slides": 1})
    writer = Written()
    tracemalloc.start()
    planted_slides.build(writer, params)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    slide_bytes = writer.bytes / 16
    assert slide_bytes == 4000 * 256 * 4
    assert peak < 2.5 * slide_bytes + 16 * 4000 * 60  # chunks, canvas and generators; truth of all slides


def test_a_slide_of_a_hundred_thousand_patches():
    actual = slide(patches=100_000, spread=0, dim=2, focus=300, smoothness=15.0, share=0.05)
    assert len(actual.x) == 100_000
    assert (actual.tumour == 1).sum() == 5000
    assert actual.focus.max() >= 17
