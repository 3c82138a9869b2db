"""Schemes: folds are by patient, stratified, decided by the seed; sites stay together; the record tells how."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import StratifiedGroupKFold
from support.refusal import refused

from milbench.config import SplitSpec, digest
from milbench.data.audit.folds import Known, folds_findings
from milbench.data.fold import Fold
from milbench.data.labels.table import Labels, write_labels
from milbench.data.splits.schemes import (
    SPLIT_VERSION,
    carve_validation,
    make_folds,
    monte_carlo_folds,
    read_split_record,
    record_split,
    site_preserved_folds,
    stratified_folds,
    write_split_record,
)
from milbench.data.splits.sites import assign_sites, site_groups, sites_of, tcga_site


def _cohort(sizes, classes, mixed=()):
    """Patients of 1 to 4 slides; those in ``mixed`` have slides of two classes where they have two."""
    patients = {f"s{i}-{j}": f"p{i}" for i, n in enumerate(sizes) for j in range(n)}
    labels = {}
    for slide, patient in patients.items():
        i, j = int(patient[1:]), int(slide.split("-")[1])
        labels[slide] = (i + (j if i in mixed else 0)) % classes
    return patients, labels


def _stratum_of(patients, labels):
    return {p: tuple(sorted({labels[s] for s in patients if patients[s] == p})) for p in set(patients.values())}


def _by_patient(folds, patients):
    """No patient in two parts, no slide lost or doubled."""
    for fold in folds:
        assert sorted(fold.train + fold.val + fold.test) == sorted(patients)
        sides = [{patients[s] for s in ids} for ids in fold.parts.values()]
        assert not any(a & b for a, b in itertools.combinations(sides, 2))


_SIZES = st.lists(st.integers(1, 4), min_size=24, max_size=40)
_MIXED = st.sets(st.integers(0, 23), max_size=6)


@settings(max_examples=60, deadline=None)
@given(
    sizes=_SIZES,
    folds=st.integers(2, 5),
    repeats=st.integers(1, 2),
    val=st.sampled_from([0.0, 0.2, 0.5]),
    seed=st.integers(0, 50),
    classes=st.integers(2, 3),
)
def test_made_folds_are_by_patient_stratified_and_decided_by_the_seed(sizes, folds, repeats, val, seed, classes):
    patients, labels = _cohort(sizes, classes)
    spec = SplitSpec(folds=folds, repeats=repeats, val_fraction=val, seed=seed)
    made = stratified_folds(list(patients), patients, labels, spec)
    assert [fold.name for fold in made] == [f"r{r}-f{k}" for r in range(repeats) for k in range(folds)]
    assert not [findings for findings in folds_findings("c", made, Known(labels, patients)) if findings.stops]
    _by_patient(made, patients)
    for r in range(repeats):
        tested = [slide for fold in made[r * folds : (r + 1) * folds] for slide in fold.test]
        assert sorted(tested) == sorted(patients)
    number = [len({patients[s] for s in fold.test}) for fold in made]
    assert max(number) - min(number) <= 1
    for c in range(classes):
        having = [len({patients[s] for s in fold.test if labels[s] == c}) for fold in made]
        assert max(having) - min(having) <= 1
    for fold in made:
        assert bool(fold.val) == (val > 0)
    again = stratified_folds(sorted(patients, reverse=True), patients, labels, spec)
    assert again == made


def test_k_folds_are_what_they_were():
    """Published results name folds by seed: the folds of a seed may never change under one version."""
    patients, labels = _cohort([1 + i % 4 for i in range(60)], 3, {0, 7, 14, 21, 28, 35, 42, 49, 56})
    spec = SplitSpec(folds=4, repeats=2, seed=3, val_fraction=0.25)
    made = stratified_folds(list(patients), patients, labels, spec)
    assert SPLIT_VERSION == 1
    assert digest([[fold.name, fold.parts] for fold in made]) == "0fbda751494472d5"


def test_other_seeds_and_repeats_make_other_folds():
    ids = [str(i) for i in range(60)]
    labels, own = {s: int(s) % 2 for s in ids}, {s: s for s in ids}
    for make, spec in (
        (stratified_folds, {"repeats": 2}),
        (monte_carlo_folds, {"scheme": "monte-carlo", "repeats": 6}),
    ):
        first, second = (make(ids, own, labels, SplitSpec(**spec, seed=seed)) for seed in (0, 1))
        assert first[0].test != second[0].test
        assert first[0].test != first[5].test
        assert first[0].val != second[0].val
    with refused("folds-impossible", "30", "40", "split.folds"):
        stratified_folds(ids, own, labels, SplitSpec(folds=40))


def test_validation_is_carved_out_of_training_by_patient():
    ids = [str(i) for i in range(40)]
    labels, patients = {s: int(s) // 2 % 2 for s in ids}, {s: str(int(s) // 2) for s in ids}
    fold = Fold("k", tuple(ids[:32]), (), tuple(ids[32:]))
    made = carve_validation(fold, patients, labels, 0.25, [0])
    assert made.test == fold.test
    assert sorted(made.train + made.val) == sorted(fold.train)
    assert len(made.val) == 8
    assert not [findings for findings in folds_findings("c", [made], Known(labels, patients)) if findings.stops]


# --- monte-carlo and held-out ----------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    sizes=_SIZES, mixed=_MIXED, classes=st.integers(2, 4), fraction=st.sampled_from([0.2, 0.33, 0.5]),
    repeats=st.integers(1, 3), seed=st.integers(0, 50), held=st.booleans(),
)  # fmt: skip
def test_draws_keep_their_share_in_every_stratum(sizes, mixed, classes, fraction, repeats, seed, held):
    patients, labels = _cohort(sizes, classes, mixed)
    spec = SplitSpec(
        scheme="held-out" if held else "monte-carlo", repeats=1 if held else repeats, test_fraction=fraction, seed=seed
    )
    made = monte_carlo_folds(list(patients), patients, labels, spec)
    assert [fold.name for fold in made] == (["held-out"] if held else [f"mc{r}" for r in range(repeats)])
    _by_patient(made, patients)
    stratum_of = _stratum_of(patients, labels)
    due, n = Counter(stratum_of.values()), len(sizes)
    m = max(1, int(fraction * n + 0.5))
    for fold in made:
        tested = {patients[s] for s in fold.test}
        assert len(tested) == m
        for stratum, members in due.items():
            share = members * m / n
            having = sum(stratum_of[p] == stratum for p in tested)
            assert int(share) <= having <= -int(-share // 1)
        for ids in (fold.train, fold.test):
            assert {labels[s] for s in ids} == set(range(classes))
        assert fold.val
    assert monte_carlo_folds(sorted(patients, reverse=True), patients, labels, spec) == made


def test_every_patient_is_as_likely_to_be_tested():
    """20 patients of class 0, 7 of class 1 and 3 with both: 1000 draws of 9 test each about 300 times."""
    ids = [f"{i}-{j}" for i in range(30) for j in range(2)]
    patients = {s: s.split("-")[0] for s in ids}
    labels = {s: 1 if int(p) >= 23 or (int(p) >= 20 and s.endswith("1")) else 0 for s, p in patients.items()}
    spec = SplitSpec(scheme="monte-carlo", repeats=1000, test_fraction=0.3)
    times = Counter(patients[s] for fold in monte_carlo_folds(ids, patients, labels, spec) for s in fold.test)
    counts = np.array([times[str(i)] / 2 for i in range(30)])
    assert counts.sum() == 9000
    assert np.abs(counts - 300).max() < 4.5 * np.sqrt(1000 * 0.3 * 0.7)


def test_cohorts_too_small_to_draw_from():
    ids = [str(i) for i in range(20)]
    own, spec = {s: s for s in ids}, SplitSpec(scheme="held-out", test_fraction=0.1)
    with refused("folds-impossible", "'rare'", "1"):
        monte_carlo_folds(ids, own, {s: int(s == "3") for s in ids}, spec, ["usual", "rare"])
    # Two test patients cannot be of three classes.
    with refused("folds-impossible", "2", "split.test_fraction"):
        monte_carlo_folds(ids, own, {s: min(2, int(s) // 2) for s in ids}, spec)
    labels = {s: int(s) // 18 for s in ids}  # 2 of 20: one is drawn, though a draw seldom has them on both sides
    (fold,) = monte_carlo_folds(ids, own, labels, spec)
    assert sum(labels[s] for s in fold.test) == 1


# --- site-preserved --------------------------------------------------------------------------------------------------


def _cost(table, where, folds):
    """What `assign_sites` minimises, by its words and in exact fractions."""
    names = {name for row in table for name in row}
    classes = {label for name in names for label in name}
    held = [Counter() for _ in range(folds)]
    for row, k in zip(table, where, strict=True):
        held[k].update(row)
    having = [{label for name in names if held[k][name] for label in name} for k in range(folds)]
    alone = sum(sum(label in has for has in having) < 2 for label in classes)
    impossible = sum(len(has) < 2 for has in having) + alone
    absent = sum(len(classes) - len(has) for has in having)
    sums = sum(held, Counter())
    parts = [sum(Fraction(held[k][name] ** 2, sums[name]) for k in range(folds)) for name in names]
    whole = [sum(held[k].values()) for k in range(folds)]
    return impossible, absent, float(sum(parts) + Fraction(sum(w * w for w in whole), sum(whole)))


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 3), min_size=20, max_size=40), mixed=_MIXED, data=st.data(),
    classes=st.integers(2, 3), folds=st.integers(2, 3), sites=st.integers(3, 6), seed=st.integers(0, 20),
)  # fmt: skip
def test_sites_stay_together_wherever_that_is_possible(sizes, mixed, data, classes, folds, sites, seed):
    patients, labels = _cohort(sizes, classes, mixed)
    homes = data.draw(st.lists(st.integers(0, sites - 1), min_size=len(sizes), max_size=len(sizes)))
    where = {slide: f"site {homes[int(patient[1:])]}" for slide, patient in patients.items()}
    spec = SplitSpec(scheme="site-preserved", folds=folds, seed=seed)
    if not _possible(patients, labels, where, folds):
        with refused("folds-impossible", "site"):
            site_preserved_folds(list(patients), patients, labels, where, spec)
        return
    made = site_preserved_folds(list(patients), patients, labels, where, spec)
    joined = [Fold(fold.name, fold.train + fold.val, (), fold.test) for fold in made]
    assert not [findings for findings in folds_findings("c", joined, Known(labels, patients)) if findings.stops]
    _by_patient(made, patients)
    assert sorted(s for fold in made for s in fold.test) == sorted(patients)
    tested = [{where[s] for s in fold.test} for fold in made]
    assert not any(a & b for a, b in itertools.combinations(tested, 2))
    assert [fold.name for fold in made] == [f"r0-f{k}" for k in range(folds)]
    assert site_preserved_folds(sorted(patients, reverse=True), patients, labels, where, spec) == made


def _possible(patients, labels, where, folds):
    """Try all divisions for one with two classes in every test part and every class in every training part."""
    stratum_of = _stratum_of(patients, labels)
    actual = {}
    for slide, patient in patients.items():
        actual.setdefault(where[slide], set()).update(stratum_of[patient])
    every = set(range(max(labels.values()) + 1))
    for way in itertools.product(range(folds), repeat=len(actual)):
        parts = [[has for has, k in zip(actual.values(), way, strict=True) if k == fold] for fold in range(folds)]
        tested = [set().union(*part) for part in parts]
        rest = [set().union(*(t for other, t in enumerate(tested) if other != fold)) for fold in range(folds)]
        if all(len(t) >= 2 for t in tested) and all(r == every for r in rest):
            return True
    return False


@settings(max_examples=40, deadline=None)
@given(
    rows=st.lists(st.tuples(*[st.integers(0, most) for most in (6, 6, 2)]).filter(any), min_size=4, max_size=7),
    folds=st.integers(2, 3), seed=st.integers(0, 5),
)  # fmt: skip
def test_balance_against_all_divisions(rows, folds, seed):
    """No move or swap of sites improves what is returned, and it is at most a twentieth from the best there is."""
    names = [(0,), (1,), (0, 1)]
    groups, strata = {}, {}
    for i, row in enumerate(rows):
        for name, number in zip(names, row, strict=True):
            members = [f"{i} {name} {j}" for j in range(number)]
            groups.setdefault(str(i), []).extend(members)
            strata.setdefault(name, []).extend(members)
    strata = {name: members for name, members in strata.items() if members}
    made = assign_sites(groups, strata, folds, seed)
    assert sorted(p for part in made for p in part) == sorted(p for members in groups.values() for p in members)
    way = [next(k for k, part in enumerate(made) if groups[str(i)][0] in part) for i in range(len(rows))]
    assert all(set(groups[str(i)]) <= made[way[i]] for i in range(len(rows)))
    table = [Counter({name: n for name, n in zip(names, row, strict=True) if n}) for row in rows]
    actual = _cost(table, way, folds)
    near = [[*way[:i], k, *way[i + 1 :]] for i in range(len(way)) for k in range(folds)]
    for i, j in itertools.combinations(range(len(way)), 2):
        near.append([way[j] if x == i else way[i] if x == j else k for x, k in enumerate(way)])
    slack = 1.002  # weights are whole thousandths
    for other in near:
        *first, imbalance = _cost(table, other, folds)
        assert actual <= (*first, imbalance * slack)
    best = min(_cost(table, other, folds) for other in itertools.product(range(folds), repeat=len(rows)))
    assert actual[:2] == best[:2]
    assert actual[2] <= best[2] * 1.05


def test_balance_compared_with_that_of_scikit_learn():
    """On 30 sites of very unequal size, folds are at least as even as those of StratifiedGroupKFold."""
    rng = np.random.default_rng(0)
    sizes = np.maximum(1, (40 * rng.pareto(1.2, 30)).astype(int) % 60)
    site = np.repeat(np.arange(30), sizes)
    y = (rng.random(len(site)) < 0.15 + 0.5 * (site % 3 == 0)).astype(int)
    ids = [f"{i:04d}" for i in range(len(site))]
    own, labels, where = (
        {s: s for s in ids},
        dict(zip(ids, y.tolist(), strict=True)),
        dict(zip(ids, site.astype(str), strict=True)),
    )
    ours = site_preserved_folds(ids, own, labels, where, SplitSpec(scheme="site-preserved"))
    theirs = [test for _, test in StratifiedGroupKFold(5, shuffle=True, random_state=0).split(ids, y, site)]

    def spread(tests):
        return [np.ptp([np.sum(y[test] == c) for test in tests]) for c in (0, 1)]

    mine = spread([np.array([int(s) for s in fold.test]) for fold in ours])
    assert all(a <= b for a, b in zip(mine, spread(theirs), strict=True)), (mine, spread(theirs))


def test_sites_that_share_a_patient_are_one():
    slides = {"p": ["1", "2"], "q": ["3"], "r": ["4", "5"], "s": ["6"]}
    sites = {"1": "B", "2": "A", "3": "C", "4": "D", "5": "B", "6": "D"}
    assert site_groups(slides, sites) == {"A": ["p", "r", "s"], "C": ["q"]}


@given(st.lists(st.lists(st.sampled_from("ABCDEFGH"), min_size=1, max_size=3), max_size=9))
def test_sites_are_joined_as_merging_sets_joins_them(site_lists):
    slides = {f"p{i}": [f"{i}-{j}" for j in range(len(names))] for i, names in enumerate(site_lists)}
    sites = {f"{i}-{j}": name for i, names in enumerate(site_lists) for j, name in enumerate(names)}
    merged: list[set[str]] = []
    for names in site_lists:
        reached = [group for group in merged if group & set(names)]
        merged = [group for group in merged if group not in reached] + [set(names).union(*reached)]
    expected: dict[str, list[str]] = {}
    for patient, names in zip(slides, site_lists, strict=True):
        expected.setdefault(min(next(group for group in merged if names[0] in group)), []).append(patient)
    assert list(site_groups(slides, sites).items()) == list(expected.items())


def test_where_slides_come_from():
    assert tcga_site("TCGA-a2-A0T2-01Z-00-DX1.uuid") == "A2"
    assert [tcga_site(name) for name in ("TCGA-A2-A0T2x", "xTCGA-A2-A0T2", "TCGA-A2", "")] == [None] * 4
    labels = Labels(("TCGA-A2-A0T2-01Z", "b"), {"TCGA-A2-A0T2-01Z": "p", "b": "TCGA-05-4244"}, {}, ())
    assert sites_of(labels) == {"TCGA-A2-A0T2-01Z": "A2", "b": "05"}
    with refused("sites-missing", "1", "'c'", "split.site_column"):
        sites_of(Labels(("c",), {"c": "c"}, {}, ()))
    said = Labels(("c",), {"c": "c"}, {}, (), sites={"c": "Rome"})
    assert sites_of(said) == {"c": "Rome"}


def test_sites_that_cannot_be_divided():
    ids = [str(i) for i in range(24)]
    own = {s: s for s in ids}
    spec = SplitSpec(scheme="site-preserved", folds=3)
    half = {s: int(s) % 2 for s in ids}
    with refused("folds-impossible", "2", "3", "split.folds"):
        site_preserved_folds(ids, own, half, {s: str(int(s) % 2) for s in ids}, spec)
    with refused("folds-impossible", "1", "3", "split.scheme"):
        site_preserved_folds(ids, own, half, dict.fromkeys(ids, "x"), spec)
    one = {s: int(int(s) % 4 == 0 and int(s) < 12) for s in ids}
    with refused("folds-impossible", "'tumour'", "'0'"):
        site_preserved_folds(ids, own, one, {s: str(int(s) % 4) for s in ids}, spec, ["normal", "tumour"])
    two = {s: int(int(s) % 4 < 2) for s in ids}  # two sites of four have the class, three folds
    with refused("folds-impossible", "4", "3"):
        site_preserved_folds(ids, own, two, {s: str(int(s) % 4) for s in ids}, spec)


# --- the record ------------------------------------------------------------------------------------------------------


def _labels(n=40, sites=8):
    ids = tuple(f"{i:03d}" for i in range(n))
    return Labels(ids, {s: s for s in ids}, {s: int(s) % 2 for s in ids}, ("a", "b"),
                  sites={s: f"site {int(s) // 2 % sites}" for s in ids})  # fmt: skip


@pytest.mark.parametrize(
    ("spec", "names", "parameters"),
    [
        (SplitSpec(folds=4, seed=7), [f"r0-f{k}" for k in range(4)], {"folds": 4, "repeats": 1}),
        (SplitSpec(scheme="monte-carlo", repeats=3), ["mc0", "mc1", "mc2"], {"repeats": 3, "test_fraction": 0.2}),
        (SplitSpec(scheme="held-out", test_fraction=0.25), ["held-out"], {"test_fraction": 0.25}),
        (SplitSpec(scheme="site-preserved", folds=2, site_column="lab"), ["r0-f0", "r0-f1"],
         {"folds": 2, "site_column": "lab"}),
    ],
)  # fmt: skip
def test_the_record_tells_how_folds_were_made(spec, names, parameters, tmp_path):
    labels = _labels()
    folds = make_folds(labels, spec)
    record = record_split(spec, folds)
    write_labels(tmp_path, labels, folds)
    write_split_record(tmp_path, record)
    read = read_split_record(tmp_path)
    assert read == record
    assert (read.scheme, read.version, read.seed) == (spec.scheme, SPLIT_VERSION, spec.seed)
    assert read.parameters == parameters | {"val_fraction": 0.2}
    assert list(read.folds) == names
    # What the record says suffices to make the folds again.
    again = make_folds(labels, SplitSpec(scheme=read.scheme, seed=read.seed, **read.parameters))
    assert again == folds
    (tmp_path / "folds" / f"{names[0]}.csv").unlink()  # a fold that was not run
    assert read_split_record(tmp_path) == record


def test_records_of_folds_that_were_given():
    folds = make_folds(_labels(), SplitSpec())
    record = record_split(SplitSpec(files="splits/fold{k}.csv"), folds)
    assert (record.scheme, record.parameters) == ("files", {"files": "splits/fold{k}.csv", "val_fraction": 0.0})
    record = record_split(SplitSpec(val_fraction=0.1, seed=3), folds, published=True)
    assert (record.scheme, record.seed, record.parameters) == ("published", 3, {"val_fraction": 0.1})


def test_records_that_cannot_be_believed(tmp_path):
    labels, spec = _labels(), SplitSpec()
    folds = make_folds(labels, spec)
    write_labels(tmp_path, labels, folds)
    path = tmp_path / "split.json"
    with refused("file-unreadable", "split.json"):
        read_split_record(tmp_path)
    write_split_record(tmp_path, record_split(spec, folds))
    text = path.read_text()
    for bad in (text.replace('"seed": 0', '"seed": 1'), text.replace('"folds": 5', '"folds": 6')):
        assert bad != text
        path.write_text(bad)
        with refused("cohort-damaged", "split.json"):
            read_split_record(tmp_path)
    for bad in ("", "[]", "3", "{}", text.replace('"scheme"', '"skeme"')):
        path.write_text(bad)
        with refused("cohort-damaged", "split.json"):
            read_split_record(tmp_path)
    fields = json.loads(text)
    path.write_text(json.dumps(fields | {"version": SPLIT_VERSION + 1}))
    with refused("schema-unknown", "2", "1"):
        read_split_record(tmp_path)
    path.write_text(text)
    fold = tmp_path / "folds" / "r0-f1.csv"
    fold.write_text(fold.read_text().replace(",train", ",test", 1))
    with refused("cohort-damaged", "r0-f1.csv", "split.json"):
        read_split_record(tmp_path)
