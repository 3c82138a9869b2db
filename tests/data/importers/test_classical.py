"""The classical sets in the forms in which they are distributed: each says what the packed form says."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import scipy.sparse
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.io import savemat
from support.features import digit_slides
from support.foreign import same_bits
from support.refusal import refused
from support.shared import SHARED, needs_shared

from milbench import FeatureCache, MilbenchError
from milbench.data.cache.build import build_cache
from milbench.data.importers import Slides, detect_format, formats
from milbench.data.importers._matlab import mat_variables
from milbench.data.importers.npz import read_packed


@dataclass(frozen=True)
class Bags:
    """Bags with their names and labels 0 and 1."""

    x: list[np.ndarray]
    labels: list[int]
    names: list[str]

    @property
    def bag(self) -> np.ndarray:
        """The number of every instance's bag, from 0."""
        return np.repeat(np.arange(len(self.x)), [len(x) for x in self.x])

    @property
    def rows(self) -> np.ndarray:
        return np.concatenate(self.x)

    @property
    def y(self) -> np.ndarray:
        """Every instance's label, that of its bag."""
        return np.array(self.labels)[self.bag]


def digits() -> Bags:
    slides = digit_slides(patients=6)
    return Bags([s.x for s in slides], [int(s.label == "tumour") for s in slides], [f"NON-{s.name}" for s in slides])


def packed_file(path: Path, bags: Bags) -> Path:
    offsets = np.cumsum([0, *(len(x) for x in bags.x)])
    np.savez(
        path, features=bags.rows, bag_offsets=offsets, bag_label=np.array(bags.labels), bag_name=np.array(bags.names)
    )
    return path


def write_uci(path: Path, bags: Bags) -> Path:
    with path.open("w", encoding="utf-8") as file:
        for i, (b, x, y) in enumerate(zip(bags.bag, bags.rows, bags.y, strict=True)):
            file.write(",".join([bags.names[b], f"{b}_1+{i}", *(repr(float(v)) for v in x), f"{y}."]) + "\n")
    return path


def write_svmlight(path: Path, bags: Bags, names: Sequence[str] | None = None, comment: bool = True) -> Path:
    """As in Andrews' archive: instances and bags numbered from 0, labels -1 and 1, zeros not written."""
    with path.open("w", encoding="utf-8") as file:
        file.write("#instance:bag:label feature:value ...\n" if comment else "")
        for i, (b, x, y) in enumerate(zip(bags.bag, bags.rows, bags.y, strict=True)):
            pairs = [f"{j}:{v!r}" for j, v in enumerate(x.tolist(), 1) if v != 0 or j == len(x)]
            file.write(f"{i}:{names[b] if names else b}:{2 * y - 1} {' '.join(pairs)}\n")
    return path


def cells(items: Sequence[object], shape: tuple[int, int] = (-1, 1)) -> np.ndarray:
    made = np.empty(len(items), object)
    for i, item in enumerate(items):
        made[i] = item
    return made.reshape(shape)


def andrews(bags: Bags) -> dict:
    sparse = [scipy.sparse.csc_matrix(np.asarray(part, float)) for part in (bags.rows, 2 * bags.y[None] - 1)]
    return {"features": sparse[0], "labels": sparse[1], "bag_ids": bags.bag[None] + 1.0, "class_names": "x"}


def prtools(bags: Bags) -> dict:
    ident = {"ident": np.arange(len(bags.y))[:, None], "milbag": cells([bags.names[b] for b in bags.bag])}
    x = {"data": bags.rows, "nlab": bags.y[:, None] + 1.0, "lablist": np.array(["negative", "positive"]),
         "targets": np.zeros((0, 0)), "featlab": np.arange(3.0)[:, None], "ident": ident, "name": "digits"}  # fmt: skip
    return {"x": x}


def prtools_numbered(bags: Bags) -> dict:
    """Bags by numbers, classes in the other order, further lists of labels after the first."""
    nlab = np.stack([2.0 - bags.y, bags.bag + 1.0], 1)
    lists = cells([cells([np.array(["positive", "negative"]), np.array(["a", "b"])])])
    return {"a": {"data": bags.rows, "nlab": nlab, "lablist": lists, "ident": {"milbag": bags.bag[:, None] + 1.0}}}


def zhou(bags: Bags) -> dict:
    columns = [bags.x, bags.labels, [np.full((len(x), 1), y) for x, y in zip(bags.x, bags.labels, strict=True)]]
    return {"data": np.concatenate([cells(column) for column in columns], 1)}


def zhou_toolbox(bags: Bags) -> dict:
    return {"Pbags": cells([x for x, y in zip(bags.x, bags.labels, strict=True) if y]),
            "Nbags": cells([x for x, y in zip(bags.x, bags.labels, strict=True) if not y])}  # fmt: skip


def wei(bags: Bags) -> dict:
    return {
        name.lower()[:3]: bag.reshape(1, -1)
        for name, bag in zip(("pos", "neg"), zhou_toolbox(bags).values(), strict=True)
    }


def of_cells(bags: Bags) -> dict:
    return {"bags": cells(bags.x, (1, -1)), "labels": np.array(bags.labels)[:, None]}


def flat(bags: Bags) -> dict:
    return {"Data": bags.rows, "bags": bags.bag[:, None], "labels": np.array(bags.labels)[:, None]}


def carbonneau(bags: Bags) -> dict:
    """The fields of MILSurvey's class, saved as a structure."""
    return {
        "D": {
            "X": bags.rows,
            "Y": bags.y[:, None],
            "XtB": bags.bag[:, None] + 1.0,
            "YB": np.array(bags.labels)[:, None],
        }
    }


LAYOUTS: dict[str, Callable[[Bags], dict]] = {
    "andrews": andrews, "prtools": prtools, "prtools numbered": prtools_numbered, "zhou": zhou, "of cells": of_cells,
    "zhou's toolbox": zhou_toolbox, "wei": wei, "flat": flat, "carbonneau": carbonneau,
}  # fmt: skip


def write_mat(path: Path, bags: Bags, layout: str, packed: bool = True) -> Path:
    savemat(path, LAYOUTS[layout](bags), do_compression=packed, format="5")
    return path


FORMS: dict[str, Callable[[Path, Bags], Path]] = {
    "npz": lambda folder, bags: packed_file(folder / "a.npz", bags),
    "uci": lambda folder, bags: write_uci(folder / "a.data", bags),
    "svmlight": lambda folder, bags: write_svmlight(folder / "a.svm", bags),
    "mat andrews": lambda folder, bags: write_mat(folder / "a.mat", bags, "andrews", packed=False),
    "mat prtools": lambda folder, bags: write_mat(folder / "a.mat", bags, "prtools"),
    "mat zhou": lambda folder, bags: write_mat(folder / "a.mat", bags, "zhou"),
}


def opened(source: Path) -> Slides:
    return detect_format(source)[0].open_source(source)


def same_as_packed(source: Path, packed: Path, dtype: str | None = None, names: bool = False) -> None:
    """Features, bags and labels of a source are those of the packed form, in its order."""
    actual, wanted = opened(source), read_packed(packed)
    slides = list(actual.read())
    assert [len(slide.features) for slide in slides] == np.diff(wanted.offsets).tolist()
    stacked = np.concatenate([np.asarray(slide.features) for slide in slides])
    assert np.array_equal(stacked.astype(wanted.features.dtype), wanted.features)
    assert stacked.dtype == np.dtype(dtype or wanted.features.dtype)
    table = actual.table()
    assert table is not None
    assert tuple(table.labels[slide] for slide in actual.ids) == wanted.labels  # type: ignore[index]
    assert not names or actual.ids == wanted.names


def test_uci(tmp_path):
    bags = digits()
    source = write_uci(tmp_path / "clean1.data", bags)
    assert detect_format(source)[1] == f"UCI bags in {source}: 64 features an instance"
    same_as_packed(source, packed_file(tmp_path / "p.npz", bags), names=True)


def test_svmlight(tmp_path):
    bags = digits()
    source = write_svmlight(tmp_path / "data_100x100.svm", bags)
    assert detect_format(source)[0].NAME == "svmlight"
    same_as_packed(source, packed_file(tmp_path / "p.npz", bags))
    assert opened(source).ids == tuple(str(b) for b in range(len(bags.x)))


def by_label(bags: Bags) -> Bags:
    """Positive bags first, as layouts of two lists have them."""
    order = sorted(range(len(bags.x)), key=lambda b: -bags.labels[b])
    return Bags(*([values[b] for b in order] for values in (bags.x, bags.labels, bags.names)))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("packed", [False, True])
def test_mat(tmp_path, layout, packed):
    bags = by_label(digits()) if layout in ("zhou's toolbox", "wei") else digits()
    source = write_mat(tmp_path / "digits.mat", bags, layout, packed)
    n = len(bags.rows)
    assert detect_format(source)[1] == f"MATLAB bags in {source}: 12 bags of {n} instances"
    dtype = "float64" if layout == "andrews" else "float32"
    same_as_packed(source, packed_file(tmp_path / "p.npz", bags), dtype, names=layout == "prtools")


@pytest.mark.parametrize("kind", ["uci", "svmlight", "mat"])
def test_caches_of_all_forms_are_the_packed_forms(tmp_path, kind):
    bags = digits()
    source = FORMS["mat prtools" if kind == "mat" else kind](tmp_path, bags)
    packed = FeatureCache.open(build_cache(packed_file(tmp_path / "p.npz", bags), tmp_path / "p", dtype="float32").out)
    report = build_cache(source, tmp_path / "out", dtype="float32")
    cache = FeatureCache.open(report.out)
    assert (report.format, report.max_rounding_error) == (kind, 0)
    assert all(torch.equal(cache[a], packed[b]) for a, b in zip(cache.ids, packed.ids, strict=True))
    assert cache.table is not None
    assert packed.table is not None
    assert list(cache.table.labels.values()) == list(packed.table.labels.values())  # type: ignore[union-attr]


def real(name: str) -> tuple[Bags, Path]:
    assert SHARED is not None
    path = SHARED / "data" / "classic" / f"{name}.npz"
    packed = read_packed(path)
    x = [packed.features[a:b] for a, b in zip(packed.offsets[:-1], packed.offsets[1:], strict=True)]
    return Bags(x, [int(label) for label in packed.labels], list(packed.names)), path


@needs_shared
def test_real_musk1_as_uci_has_it(tmp_path):
    bags, packed = real("musk1")
    same_as_packed(write_uci(tmp_path / "clean1.data", bags), packed, names=True)


@needs_shared
@pytest.mark.parametrize("name", ["musk1", "fox", "tiger"])
def test_real_sets_as_svmlight(tmp_path, name):
    bags, packed = real(name)
    same_as_packed(write_svmlight(tmp_path / "a.svm", bags), packed)


@needs_shared
def test_decimals_are_kept_as_they_are_written(tmp_path):
    """The shortest decimals that tell float32 apart are other numbers in float64, and the same in float32."""
    bags, packed = real("fox")
    lines = [f"{i}:{b}:{2 * y - 1} " + " ".join(f"{j}:{v!s}" for j, v in enumerate(x, 1))
             for i, (b, x, y) in enumerate(zip(bags.bag, bags.rows, bags.y, strict=True))]  # fmt: skip
    (tmp_path / "a.svm").write_text("\n".join(lines))
    same_as_packed(tmp_path / "a.svm", packed, "float64")


@needs_shared
@pytest.mark.parametrize(
    ("name", "layout"), [("musk1", "prtools"), ("musk2", "flat"), ("fox", "andrews"), ("tiger", "zhou"),
                         ("elephant", "prtools numbered"), ("elephant", "andrews")]
)  # fmt: skip
def test_real_sets_as_mat(tmp_path, name, layout):
    bags, packed = real(name)
    source = write_mat(tmp_path / "a.mat", bags, layout)
    same_as_packed(source, packed, "float64" if layout == "andrews" else "float32", names=layout == "prtools")


@needs_shared
@pytest.mark.parametrize("form", ["uci", "svmlight", "mat prtools", "mat andrews", "npz"])
def test_musk1_with_its_label_as_column_167_is_refused(tmp_path, form):
    """As some copies of it are: the class of the instance behind its 166 features."""
    bags, _ = real("musk1")
    wide = [np.column_stack([x, np.full(len(x), y)]).astype("f4") for x, y in zip(bags.x, bags.labels, strict=True)]
    source = FORMS[form](tmp_path, Bags(wide, bags.labels, bags.names))
    with refused("features-hold-label", "166", "167"):
        opened(source)


def test_musk_has_166_features(tmp_path):
    bags = digits()
    musk = Bags(bags.x, bags.labels, [f"{'' if y else 'NON-'}MUSK-{b}" for b, y in enumerate(bags.labels)])
    with refused("features-wrong-width", "clean1.data", "64", "166"):
        opened(write_uci(tmp_path / "clean1.data", musk))


@pytest.mark.parametrize("code", [lambda y: y, lambda y: 2 * y - 1])
@pytest.mark.parametrize("layout", ["andrews", "zhou", "of cells", "wei", "flat"])
def test_a_column_that_is_the_label_is_refused(tmp_path, layout, code):
    bags = by_label(digits())
    x = [
        np.column_stack([x, np.full(len(x), code(y))]).astype(np.float32)
        for x, y in zip(bags.x, bags.labels, strict=True)
    ]
    with refused("features-hold-label", "64", "65"):
        opened(write_mat(tmp_path / "a.mat", Bags(x, bags.labels, bags.names), layout))


def test_the_label_of_a_bag_is_the_largest_of_its_instances(tmp_path):
    lines = ["0:a:-1 1:0.5", "1:b:-1 1:0.25", "2:a:1 1:0.125", "3:b:-1 2:1.5", "4:c:1 1:3"]
    (tmp_path / "a.svm").write_text("\n".join(lines))
    slides = opened(tmp_path / "a.svm")
    assert slides.ids == ("a", "b", "c")  # instances of a bag may lie apart
    assert slides.load(0).features.tolist() == [[0.5, 0], [0.125, 0]]
    assert slides.table().labels == {"a": "1", "b": "0", "c": "1"}  # type: ignore[union-attr]
    (tmp_path / "b.data").write_text("m,m_1,0.5,0.\nn,n_1,0.25,0.\nm,m_2,0.125,1.\n")
    assert opened(tmp_path / "b.data").table().labels == {"m": "1", "n": "0"}  # type: ignore[union-attr]


def test_several_classes_stay_what_they_are(tmp_path):
    (tmp_path / "a.svm").write_text("0:a:0 1:0.5\n1:b:1 1:0.25\n2:c:2 1:0.75 # the last\n\n")
    assert opened(tmp_path / "a.svm").table().labels == {"a": "0", "b": "1", "c": "2"}  # type: ignore[union-attr]


def test_empty_cells_are_empty_bags(tmp_path):
    x = [np.ones((2, 3)), np.zeros((0, 0)), np.full((1, 3), 2.0)]
    savemat(tmp_path / "a.mat", {"bags": cells(x), "labels": np.array([[1], [-1], [-1]])})
    report = build_cache(tmp_path / "a.mat", tmp_path / "cache")
    assert report.left_out == {"bag0001": "it has no patches, shape (0, 3)"}
    cache = FeatureCache.open(report.out)
    assert cache.table is not None
    assert cache.table.labels == {"bag0000": "1", "bag0002": "0"}


WORD = st.text(
    st.characters(codec="ascii", categories=("L", "N", "P", "S"), exclude_characters=":#"), min_size=1, max_size=6
)
TEXT = st.text(
    st.characters(codec="utf-8", exclude_categories=("C", "Z"), exclude_characters=",#"), min_size=1, max_size=8
)


@st.composite
def any_bags(draw, dtype: str, names: st.SearchStrategy[str]) -> Bags:
    largest = float(np.finfo(dtype).max)
    numbers = {"min_value": -largest, "max_value": largest}
    drawn = draw(st.lists(names, min_size=1, max_size=4, unique=True))
    x = [draw(hnp.arrays(dtype, (draw(st.integers(1, 3)), 3), elements=numbers)) for _ in drawn]
    x[0][0] = 0.5  # so that no column is the label
    return Bags(x, draw(st.lists(st.integers(0, 1), min_size=len(x), max_size=len(x))), drawn)


def _comes_through(source: Path, bags: Bags, names: Sequence[str] | None, signs: bool = True) -> None:
    """Compare; with ``signs`` false, of forms in which zeros are not written, but for the sign of zeros."""
    slides = opened(source)
    assert names is None or slides.ids == tuple(names)
    for i, x in enumerate(bags.x):
        actual = np.asarray(slides.load(i).features)
        actual, zero = actual.astype(x.dtype), x.dtype.type(0)
        assert same_bits(actual, x) if signs else same_bits(actual + zero, x + zero)  # -0 + 0 is 0
    table = slides.table()
    assert table is not None
    assert [table.labels[name] for name in slides.ids] == [str(y) for y in bags.labels]  # type: ignore[index]


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("form", ["uci", "svmlight"])
def test_any_bags_come_through_text(tmp_path_factory, form, dtype):
    @settings(max_examples=25, deadline=None)
    @given(any_bags(dtype, TEXT if form == "uci" else WORD))
    def check(bags):
        folder = tmp_path_factory.mktemp("any")
        if form == "uci":
            _comes_through(write_uci(folder / "a.data", bags), bags, bags.names)
        else:
            _comes_through(write_svmlight(folder / "a.svm", bags, bags.names), bags, bags.names, signs=False)

    check()


@pytest.mark.parametrize("dtype", ["float32", "float64"])  # which are all that MATLAB has
@pytest.mark.parametrize("layout", ["andrews", "prtools", "zhou", "of cells", "flat"])
def test_any_bags_come_through_mat(tmp_path_factory, layout, dtype):
    @settings(max_examples=15, deadline=None)
    @given(any_bags(dtype, TEXT), st.booleans())
    def check(bags, packed):
        source = write_mat(tmp_path_factory.mktemp("any") / "a.mat", bags, layout, packed)
        _comes_through(source, bags, bags.names if layout == "prtools" else None, signs=layout != "andrews")

    check()


@pytest.mark.parametrize(
    ("text", "refusal"),
    [
        ("m,m_1,1,2,0.\nm,m_2,1,0.\n", ("table-bad-line", "2", "4", "5")),
        ("m,m_1,1,2,0.\n\nn,n_1,1,oops,1.\n", ("table-not-a-number", "3", "'oops'", "2")),
        ("m,m_1,1,2,0.\nn,n_1,1,,1.\n", ("table-not-a-number", "2", "''")),
        ("m,m_1,1,2,0.\nn,n_1,1,nan,1.\n", ("table-not-a-number", "2", "'nan'")),
        ("m,m_1,1,2,0.\nn,n_1,1,1_0,1.\n", ("table-not-a-number", "2", "'1_0'")),
        ("m,m_1,1,2,0.\nn,n_1,1,1e999,1.\n", ("table-not-a-number", "2", "'1e999'")),
        ("m,m_1,1,2,0.\nn,n_1,1,2,3\n", ("table-bad-line", "2", "'3'", "0", "1")),
        ("m,m_1,1,2,0.\n,n_1,1,2,1.\n", ("table-bad-line", "2")),
        ("m,m_1,1,2,0.\nn\n", ("table-bad-line", "2", "1", "5")),
    ],
)
def test_uci_lines_that_are_not_what_they_should_be(tmp_path, text, refusal):
    (tmp_path / "a.data").write_text(text)
    with refused(*refusal, "a.data"):
        opened(tmp_path / "a.data")


@pytest.mark.parametrize(
    ("text", "refusal"),
    [
        ("0:a:1 1:1\n1:b:-1 2\n", ("table-bad-line", "'2'")),
        ("0:a:1 1:1\n1:b:-1 x:2\n", ("table-bad-line", "'x:2'")),
        ("0:a:1 1:1\n1:b:-1 0:2\n", ("table-bad-line", "2", "0", "1")),
        ("0:a:1 1:1\n1:b:-1 1:2 1:3\n", ("table-bad-line", "2", "1")),
        ("0:a:1 1:1\n1:b:-1 1:oops\n", ("table-not-a-number", "2", "'oops'", "1")),
        ("0:a:1 1:1\n1:b:-1 1:2:3\n", ("table-not-a-number", "'2:3'", "1")),
        ("0:a:1 1:1\n1:b:-1 1:nan\n", ("table-not-a-number", "2", "'nan'", "1")),
        ("0:a:1 1:1\n1:b:oops 1:1\n", ("table-not-a-number", "2", "'oops'")),
        ("0:a:1 1:1\n1:b 1:1\n", ("table-bad-line", "2", "'1:b'")),
        ("0:a:1 1:1\n-1 1:1\n", ("table-bad-line", "2", "'-1'")),
        ("0:a:1 1:1\n1:b:0.5 1:1\n", ("labels-no-classes", "0.5")),
        ("0:a:1 1:1\n1:b:-1 9999999999:1\n", ("table-bad-line", "2", "'9999999999:1'")),
        ("0:a:1 1:1\n1:b:-1 999999999:1\n", ("file-too-large",)),
    ],
)
def test_svmlight_lines_that_are_not_what_they_should_be(tmp_path, text, refusal):
    (tmp_path / "a.svm").write_text(text)
    with refused(*refusal, "a.svm"):
        opened(tmp_path / "a.svm")


@pytest.mark.parametrize(
    ("values", "refusal"),
    [
        ({"features": np.ones((3, 2)), "labels": [1, 0, 0]}, ("file-wrong-content", "'features', 'labels'")),
        ({"notes": np.ones(3)}, ("file-wrong-content", "'notes'", "bag_ids")),
        ({"features": np.ones((3, 2)), "labels": [1, 0, 0], "bag_ids": [1, 2]}, ("file-wrong-content", "3", "2")),
        ({"features": np.ones((3, 2)), "labels": [1, 0], "bag_ids": [1, 2, 3]}, ("file-wrong-content", "3")),
        ({"features": np.ones((3, 2)), "labels": [1, np.nan], "bag_ids": [1, 1, 3]}, ("file-wrong-content",)),
        ({"features": np.ones((3, 2)), "labels": [1, 0.5], "bag_ids": [1, 1, 3]}, ("labels-no-classes", "0.5")),
        ({"features": np.ones((3, 2)), "labels": "abc", "bag_ids": [1, 1, 3]}, ("file-wrong-content",)),
        ({"features": np.array(["ab", "cd"]), "labels": [1, 0], "bag_ids": [1, 2]}, ("file-wrong-content", "U2")),
        ({"features": np.ones((2, 2)) * 1j, "labels": [1, 0], "bag_ids": [1, 2]}, ("file-wrong-content", "complex128")),
        ({"features": np.ones((2, 2, 2)), "labels": [1, 0], "bag_ids": [1, 2]}, ("file-wrong-content", "float64", "2")),
        ({"bags": cells([np.ones((2, 2)), np.ones((2, 3))]), "labels": [1, 0]}, ("features-disagree", "2", "3")),
        ({"bags": cells([np.ones((2, 2)), np.ones((2, 2))]), "labels": [1]}, ("file-wrong-content", "2", "1")),
        ({"bags": cells([np.ones((2, 2)), "text"]), "labels": [1, 0]}, ("file-wrong-content", "U4", "1")),
        ({"bags": cells([np.zeros((0, 2))]), "labels": [1]}, ("features-disagree", "no")),
        ({"data": cells([np.ones((2, 2)), np.ones((2, 2))])}, ("file-wrong-content", "'data'")),
        ({"data": cells([np.ones((2, 2)), [[1, 2]]], (1, 2))}, ("file-wrong-content", "2")),
        ({"pos": np.ones(3), "neg": cells([np.ones((2, 2))])}, ("file-wrong-content",)),
    ],
)  # fmt: skip
def test_mat_that_is_not_what_it_should_be(tmp_path, values, refusal):
    savemat(tmp_path / "a.mat", values)
    with refused(*refusal, "a.mat"):
        detect_format(tmp_path / "a.mat")


def test_features_that_are_nan_are_refused(tmp_path):
    bags = digits()
    bags.x[3][1, 7] = np.nan
    with refused("features-not-finite", "a.mat", "1"):
        build_cache(write_mat(tmp_path / "a.mat", bags, "prtools"), tmp_path / "cache")


def test_version_7_3_says_how_to_save_it(tmp_path):
    import h5py

    for block in (0, 512):
        with h5py.File(tmp_path / "a.mat", "w", userblock_size=block) as file:
            file["features"] = np.ones((2, 3))
        if block:
            raw = bytearray((tmp_path / "a.mat").read_bytes())
            raw[:128] = b"MATLAB 7.3 MAT-file".ljust(124) + b"\0\2IM"
            (tmp_path / "a.mat").write_bytes(raw)
        with refused("file-unsupported", "a.mat", "7.3", "'-v7'"):
            detect_format(tmp_path / "a.mat")


def test_functions_next_to_the_bags_are_left_alone(tmp_path):
    bags = digits()
    path = write_mat(tmp_path / "a.mat", bags, "prtools")
    path.write_bytes(
        path.read_bytes() + array(16, (1, 1), array(2, (0, 0), element(5, bytes(4)), element(1, b"")), name=b"f")
    )
    same_as_packed(path, packed_file(tmp_path / "p.npz", bags))


def element(kind: int, raw: bytes) -> bytes:
    return struct.pack("<II", kind, len(raw)) + raw + bytes(-len(raw) % 8)


def array(kind: int, shape: tuple[int, ...], *parts: bytes, name: bytes = b"") -> bytes:
    """An array of a class: flags, dimensions, name and what follows."""
    flags = element(6, struct.pack("<II", kind, 0))
    return element(14, flags + element(5, struct.pack(f"<{len(shape)}i", *shape)) + element(1, name) + b"".join(parts))


def mat_file(path: Path, *variables: bytes) -> Path:
    path.write_bytes(b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack("<H", 0x0100) + b"IM" + b"".join(variables))
    return path


def nested(depth: int) -> bytes:
    inner = array(6, (1, 1), element(9, struct.pack("<d", 1.0)))
    for _ in range(depth):
        inner = array(1, (1, 1), inner)
    return array(1, (1, 1), inner, name=b"bags")


@pytest.mark.parametrize(
    ("variable", "refusal"),
    [
        (nested(40), ("file-unsupported", "16")),
        (array(17, (1, 1), element(1, b"x"), name=b"x"), ("file-unsupported",)),
        (array(16, (1, 1), name=b"f"), ("file-unsupported",)),
        (array(1, (1, 1), array(17, (1, 1)), name=b"bags"), ("file-unsupported",)),
        (array(1, (30000, 30000), name=b"bags"), ("file-damaged", "30000")),
        (array(6, (2**31 - 1, 2), element(9, bytes(16)), name=b"features"), ("file-damaged",)),
        (array(6, (-1, 2), element(9, bytes(16)), name=b"features"), ("file-damaged", "2")),
        (struct.pack("<II", 14, 10**6) + bytes(64), ("file-damaged", "1,000,000", "64")),
        (element(9, bytes(8)), ("file-damaged", "9")),
        (struct.pack("<II", 15, 9) + b"no stream", ("file-damaged",)),
        (b"\x0e", ("file-damaged",)),
    ],
)  # fmt: skip
def test_hostile_mat_files(tmp_path, variable, refusal):
    with refused(*refusal, "a.mat"):
        detect_format(mat_file(tmp_path / "a.mat", variable))


def test_a_mat_file_that_unfolds_to_far_more_than_it_holds(tmp_path):
    raw = zlib.compress(array(6, (1, 10_000_000), element(9, bytes(80_000_000)), name=b"features"))
    path = mat_file(tmp_path / "a.mat", struct.pack("<II", 15, len(raw)) + raw)
    with refused("file-too-large", "a.mat"):
        detect_format(path)


def test_sparse_matrices_are_not_believed(tmp_path):
    """Indices that lead out of the matrix would be written wherever that is; and a huge one has few values."""
    y = {"labels": np.array([[1, -1, 1]]), "bag_ids": np.array([[1, 2, 3]])}
    savemat(tmp_path / "a.mat", {"features": scipy.sparse.csc_matrix(np.eye(3)[::-1]), **y})
    raw = (tmp_path / "a.mat").read_bytes()
    indices = struct.pack("<3i", 2, 1, 0)
    assert raw.count(indices) == 1
    (tmp_path / "a.mat").write_bytes(raw.replace(indices, struct.pack("<3i", 2**30, 1, 0)))
    with refused("file-damaged", "a.mat"):
        detect_format(tmp_path / "a.mat")
    huge = scipy.sparse.csc_matrix(([1.0], ([0], [0])), shape=(2**30, 3))
    savemat(tmp_path / "a.mat", {"features": huge, **y})
    with refused("file-too-large", "a.mat"):
        detect_format(tmp_path / "a.mat")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "how", ["empty", "half", "shortened", "noise", "zeros", "flipped", "flipped head", "latin-1", "mark"]
)
def test_harmed_files_give_bags_or_a_sentence(tmp_path, form, how):
    path = FORMS[form](tmp_path, digits())
    raw = path.read_bytes()
    rng = np.random.default_rng([list(FORMS).index(form), len(how)])
    for _ in range(6):
        made = bytearray(raw)
        match how:
            case "empty":
                made = bytearray()
            case "half" | "shortened":
                made = made[: len(raw) // 2 if how == "half" else -int(rng.integers(1, 60))]
            case "noise":
                made = bytearray(rng.bytes(len(raw)))
            case "zeros":
                made = bytearray(len(raw))
            case "latin-1":
                made[len(raw) // 2] = 0xFC
            case "mark":
                made = bytearray(b"\xef\xbb\xbf" + raw)
            case _:
                for place in rng.integers(len(raw) if how == "flipped" else 400, size=int(rng.integers(1, 6))):
                    made[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(made)
        try:
            slides = opened(path)
        except MilbenchError as error:
            assert path.name in str(error)  # noqa: PT017  (either may happen)
            continue
        assert sum(len(slide.features) for slide in slides.read()) > 0
        assert how not in ("empty", "noise", "zeros", *(() if "mat" in form else ("latin-1",)))


def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path):
    for form in ("uci", "svmlight"):
        path = FORMS[form](tmp_path, digits())
        names = opened(path).ids
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().removeprefix(b"#instance:bag:label feature:value ...\n"))
        assert opened(path).ids == names


def test_what_is_none_of_these_is_not_claimed(tmp_path):
    rows = io.StringIO()
    np.savetxt(rows, np.ones((3, 5)), delimiter=",")
    (tmp_path / "a.data").write_text(rows.getvalue())
    (tmp_path / "b.data").write_text("a word, and another\n")
    (tmp_path / "c.svm").write_text("1 1:0.5 2:0.25\n")  # plain svmlight: no bags
    (tmp_path / "d.txt").write_text("")
    for name in ("a.data", "b.data", "c.svm", "d.txt"):
        assert {one for one, module in formats().items() if module.detect(tmp_path / name) is not None} == set()


def test_files_that_matlab_itself_wrote_are_read():
    """Scipy keeps files of MATLAB 6 to 7.4, of little and big machines, for its own tests."""
    folder = Path(scipy.io.__file__).parent / "matlab" / "tests" / "data"
    files = sorted(path for version in ("6.", "7.") for path in folder.glob(f"test*_{version}*_*.mat"))
    if not files:
        pytest.skip("this scipy comes without its tests' data")
    message = {}
    for path in files:
        try:
            assert mat_variables(path)
        except MilbenchError as error:
            message[path.name] = str(error)
    assert set(message) == {"testhdf5_7.4_GLNX86.mat", "testfunc_7.4_GLNX86.mat"}
