"""Importers, on files written as CLAM and TRIDENT write them, and on files meant to do harm."""

from __future__ import annotations

import pickle

import h5py
import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from support.refusal import refused

from milbench import FeatureCache
from milbench.data.cache.build import build_cache
from milbench.data.importers import SourceSlide, detect_format, format_names, formats
from milbench.data.importers.npz import read_packed

IDS = ("007", "12", "TCGA-55-7910-01Z-00-DX1.041e15d5")


@pytest.fixture(scope="module")
def slides() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Three bags of digits with places on a 256-pixel grid, in an order of their own."""
    pixels = (load_digits().data / 16).astype(np.float32)
    rng = np.random.default_rng(0)
    actual = {}
    for slide, n in zip(IDS, (5, 9, 30), strict=True):
        cells = rng.permutation(64)[:n]
        actual[slide] = pixels[rng.choice(len(pixels), n)], np.stack([cells % 8, cells // 8], 1).astype(np.int32) * 256
    return actual


@pytest.fixture
def clam(tmp_path, slides):
    """CLAM's features folder: h5_files/, pt_files/ and, next to it, patches/."""
    root = tmp_path / "clam" / "features"
    for name in ("h5_files", "pt_files"):
        (root / name).mkdir(parents=True)
    (tmp_path / "clam" / "patches").mkdir()
    for slide, (x, xy) in slides.items():
        with h5py.File(root / "h5_files" / f"{slide}.h5", "w") as file:
            file.create_dataset("features", data=x, chunks=(1, x.shape[1]), maxshape=(None, x.shape[1]))
            file.create_dataset("coords", data=xy, chunks=(1, 2), maxshape=(None, 2))
        torch.save(torch.from_numpy(x), root / "pt_files" / f"{slide}.pt")
        with h5py.File(tmp_path / "clam" / "patches" / f"{slide}.h5", "w") as file:
            coords = file.create_dataset("coords", data=xy, chunks=(1, 2), maxshape=(None, 2))
            coords.attrs.update(patch_size=128, patch_level=1, downsample=np.array([2.0, 2.0]), name=slide)
    return root


def _trident_file(path, x, xy, encoder="uni_v1", level0=512):
    with h5py.File(path, "w") as file:
        features = file.create_dataset("features", data=x, chunks=(1, 64) if len(x) else None)
        features.attrs.update(name=path.stem, savetodir="/data/job", encoder=encoder)
        coords = file.create_dataset("coords", data=xy.astype(np.int64))
        coords.attrs.update(patch_size=256, patch_size_level0=level0, level0_magnification=40, target_magnification=20,
                            overlap=0, name=path.stem, savetodir="/data/job")  # fmt: skip


@pytest.fixture
def trident(tmp_path, slides):
    """TRIDENT's job folder, with an empty slide."""
    folder = tmp_path / "job" / "20x_256px_0px_overlap" / "features_uni_v1"
    folder.mkdir(parents=True)
    for i, (slide, (x, xy)) in enumerate(slides.items()):
        _trident_file(folder / f"{slide}.h5", x.astype(np.float16), xy, level0=512 if i else 256)
    _trident_file(folder / "blank.h5", np.zeros((0, 64), np.float16), np.zeros((0, 2)))
    return tmp_path / "job"


def test_every_format_is_listed_with_a_sentence():
    assert {name.replace("_", "-") for name in format_names()} == {name.replace("_", "-") for name in formats()}
    assert all(len(text) > 20 for text in format_names().values())


@pytest.mark.parametrize("below", ["", "h5_files"])
def test_clam_h5(clam, slides, tmp_path, below):
    report = build_cache(clam / below, tmp_path / "out", dtype="float32")
    cache = FeatureCache.open(report.out)
    assert report.format == "clam"
    assert "3 .h5 and 0 .pt files" in report.description
    assert sorted(cache.ids) == sorted(IDS)
    assert cache.meta["units"] == "level-0 pixels"
    assert report.max_rounding_error == 0
    for slide, (x, xy) in slides.items():
        assert torch.equal(cache[slide], torch.from_numpy(x))
        assert torch.equal(cache.coords(slide), torch.from_numpy(xy).long())


def test_clam_pt_takes_coordinates_from_patches(clam, slides, tmp_path):
    report = build_cache(clam / "pt_files", tmp_path / "second", dtype="float32")
    assert "3 .pt files, coordinates from h5_files/" in report.description
    assert report.coords
    for path in (clam / "h5_files").iterdir():
        path.unlink()
    (clam / "h5_files").rmdir()
    report = build_cache(clam, tmp_path / "out", dtype="float32")
    cache = FeatureCache.open(report.out)
    assert "coordinates from patches/" in report.description
    assert cache.meta["patch_size"] == 128
    assert set(cache.slides["coord_step"]) == {256.0}
    for slide, (x, xy) in slides.items():
        assert torch.equal(cache[slide], torch.from_numpy(x))
        assert torch.equal(cache.coords(slide), torch.from_numpy(xy).long())
    (clam.parent / "patches" / "12.h5").unlink()
    with refused("features-disagree", "12.pt", "'12'", "--no-coords"):
        build_cache(clam, tmp_path / "out2")
    assert not build_cache(clam, tmp_path / "out3", coords=False).coords


@pytest.mark.parametrize("below", ["", "20x_256px_0px_overlap", "20x_256px_0px_overlap/features_uni_v1"])
def test_trident(trident, slides, tmp_path, below):
    report = build_cache(trident / below, tmp_path / "out")
    cache = FeatureCache.open(report.out)
    assert report.format == "trident"
    assert report.left_out == {"blank": "it has no patches, shape (0, 64)"}
    assert cache.meta["left_out"] == ["blank"]
    assert "left out blank: it has no patches, shape (0, 64)" in report.lines()
    assert {k: cache.meta[k] for k in ("encoder", "patch_size", "magnification")} == {
        "encoder": "uni_v1", "patch_size": 256, "magnification": 20.0}  # fmt: skip
    steps = dict(zip(cache.ids, cache.slides["coord_step"], strict=True))
    assert steps == {IDS[0]: 256.0, IDS[1]: 512.0, IDS[2]: 512.0}  # patch_size_level0, not patch_size
    for slide, (x, xy) in slides.items():
        assert torch.equal(cache[slide], torch.from_numpy(x.astype(np.float16)))
        assert torch.equal(cache.coords(slide), torch.from_numpy(xy).long())


def test_trident_with_two_encoders_asks_which(trident, slides):
    other = trident / "20x_256px_0px_overlap" / "features_conch"
    other.mkdir()
    _trident_file(other / "a.h5", *slides["12"], encoder="conch")
    with refused("features-two-kinds", "2", "features_conch", "features_uni_v1"):
        detect_format(trident)


def test_encoders_that_disagree_are_refused(trident, slides, tmp_path):
    folder = trident / "20x_256px_0px_overlap" / "features_uni_v1"
    _trident_file(folder / "zz.h5", *slides["12"], encoder="conch")
    with refused("features-disagree", "encoder", "'007'", "uni_v1", "'zz'", "conch", "zz.h5"):
        build_cache(trident, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_raster_order(clam, slides, tmp_path):
    cache = FeatureCache.open(build_cache(clam, tmp_path / "out", dtype="float32", order="raster").out)
    assert cache.meta["order"] == "raster"
    for slide, (x, xy) in slides.items():
        by = sorted(range(len(x)), key=lambda i: (xy[i, 1], xy[i, 0]))
        assert torch.equal(cache[slide], torch.from_numpy(x[by]))
        assert torch.equal(cache.coords(slide), torch.from_numpy(xy[by]).long())
    with refused("cache-bad-request"):
        build_cache(clam, tmp_path / "o2", order="raster", coords=False)
    with refused("coords-missing", "'007'"):
        build_cache(_bare(tmp_path, slides), tmp_path / "o3", order="raster")


def _bare(folder, slides):
    (folder / "bare").mkdir()
    for slide, (x, _) in slides.items():
        torch.save(torch.from_numpy(x), folder / "bare" / f"{slide}.pt")
    return folder / "bare"


class Bomb:
    """Unpickled, it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize(
    ("how", "code"),
    [
        *((how, "file-unsafe") for how in ("pickle", "torch", "numpy")),
        *((how, "file-wrong-content") for how in ("dict", "sparse")),
        *((how, "file-damaged") for how in ("rubbish", "empty")),
    ],
)
def test_pt_files_that_are_no_plain_tensor_are_refused_and_run_nothing(tmp_path, how, code):
    folder, mark = tmp_path / "pt_files", tmp_path / "it-ran"
    folder.mkdir()
    path = folder / "evil.pt"
    if how == "pickle":
        path.write_bytes(pickle.dumps(Bomb(mark)))
    elif how == "rubbish":
        path.write_bytes(b"\x80\x02rubbish")
    elif how == "empty":
        path.write_bytes(b"")
    else:
        values = {"torch": Bomb(mark), "numpy": np.ones((2, 3)), "dict": {"features": torch.ones(2, 3)},
                  "sparse": torch.eye(3).to_sparse()}  # fmt: skip
        torch.save(values[how], path)
    assert not mark.exists()
    with refused(code, "evil.pt"):
        build_cache(tmp_path, tmp_path / "out")
    assert not mark.exists()
    assert not (tmp_path / "out").exists()


def _with_h5(folder, make):
    (folder / "h5_files").mkdir()
    with h5py.File(folder / "h5_files" / "s.h5", "w") as file:
        make(file, folder)
    return folder


def _external_link(file, folder):
    with h5py.File(folder / "secret.h5", "w") as other:
        other["features"] = np.ones((2, 3), np.float32)
    file["features"] = h5py.ExternalLink(str(folder / "secret.h5"), "features")


def _external_storage(file, folder):
    (folder / "raw").write_bytes(np.ones(6, np.float32).tobytes())
    file.create_dataset("features", (2, 3), "f4", external=[(str(folder / "raw"), 0, 24)])


def _virtual(file, folder):
    layout = h5py.VirtualLayout((2, 3), "f4")
    layout[:] = h5py.VirtualSource(str(folder / "secret.h5"), "features", (2, 3))
    file.create_virtual_dataset("features", layout)


def _half_written(file, folder):
    file.create_dataset("features", (9, 3), "f4", chunks=(1, 3))[0] = 1.0


@pytest.mark.parametrize(
    ("make", "refusal"),
    [
        (_external_link, ("file-unsupported", "s.h5", "'features'")),
        (lambda f, _: f.__setitem__("features", h5py.SoftLink("/x")), ("file-unsupported", "'features'")),
        (_external_storage, ("file-unsupported", "'features'")),
        (_virtual, ("file-unsupported", "'features'")),
        (lambda f, _: f.__setitem__("features", np.ones((2, 3), np.int64)), ("features-bad-array", "int64")),
        (lambda f, _: f.__setitem__("features", ["a", "b"]), ("features-bad-array", "object")),
        (lambda f, _: f.create_group("features"), ("file-wrong-content", "'features'")),
        (lambda f, _: f.__setitem__("counts", np.ones((2, 3), int)), ("features-missing", "'counts'", "'features'")),
        (_half_written, ("file-damaged",)),
        (lambda f, _: f.create_dataset("features", (10**9, 10**4), "f4", chunks=(1, 10**4)), ("file-damaged",)),
        (lambda f, _: f.__setitem__("features", np.ones(3)), ("features-bad-array", "s.h5", "'s'")),
        (lambda f, _: f.__setitem__("features", np.full((2, 3), np.nan)), ("features-not-finite", "s.h5", "0", "'s'")),
    ],
)  # fmt: skip
def test_h5_files_that_are_not_what_they_should_be(tmp_path, make, refusal):
    with refused(*refusal):
        build_cache(_with_h5(tmp_path, make), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_truncated_h5_file_is_named(clam, tmp_path):
    path = clam / "h5_files" / "12.h5"
    path.write_bytes(path.read_bytes()[:-300])
    with refused("file-damaged", "12.h5"):
        build_cache(clam, tmp_path / "out")


def test_only_empty_slides(tmp_path):
    _with_h5(tmp_path, lambda f, _: f.__setitem__("features", np.zeros(0, np.float32)))
    with refused("cache-no-slides", "1"):
        build_cache(tmp_path, tmp_path / "out")


def test_detection_says_what_is_there(tmp_path, clam, monkeypatch):
    with refused("format-mismatch"):
        detect_format(tmp_path)
    with refused("file-missing"):
        detect_format(tmp_path / "nowhere")
    with refused("format-unknown", "'clamm'", "'clam'"):
        detect_format(clam, "clamm")
    with refused("format-mismatch", "h5_files", "pt_files"):
        detect_format(clam, "trident")
    monkeypatch.setattr(formats()["npz"], "detect", lambda source: "anything")
    with refused("format-ambiguous", "--format"):
        detect_format(clam)


def _packed(**changes):
    rng = np.random.default_rng(0)
    values = {"features": rng.normal(size=(7, 4)).astype(np.float32), "bag_offsets": np.array([0, 2, 5, 7]),
              "bag_label": np.array([0, 1, 1], np.int8), "bag_name": np.array(["01", "2", "x"])}  # fmt: skip
    return {key: value for key, value in (values | changes).items() if value is not None}


def test_npz(tmp_path):
    np.savez(tmp_path / "p.npz", **_packed(inst_xy=np.arange(14, dtype=np.float32).reshape(7, 2)))
    report = build_cache(tmp_path / "p.npz", tmp_path / "out", dtype="float32")
    cache = FeatureCache.open(report.out)
    assert cache.ids == ("01", "2", "x")
    assert cache["2"].tolist() == _packed()["features"][2:5].tolist()
    assert cache.coords("x").tolist() == [[10, 11], [12, 13]]
    assert read_packed(tmp_path / "p.npz").labels == ("0", "1", "1")


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        ({"bag_label": None}, ("features-missing", "bag_label", "features")),
        ({"bag_offsets": np.array([0, 2, 5, 8])}, ("file-wrong-content", "7", "bag_offsets", "0")),
        ({"bag_offsets": np.array([0, 5, 2, 7])}, ("file-wrong-content", "7", "0")),
        ({"bag_label": np.array([0, 1])}, ("file-wrong-content", "bag_label", "3", "(2,)")),
        ({"features": np.ones((7, 4), np.int32)}, ("features-bad-array", "int32")),
        ({"folds": np.zeros((3, 2), int)}, ("file-wrong-content", "3")),
        ({"inst_xy": np.zeros((7, 3))}, ("coords-bad", "7", "inst_xy", "2")),
        ({"bag_name": np.array([{}, {}, {}], object)}, ("file-unsafe",)),
    ],
)
def test_npz_that_does_not_fit(tmp_path, changes, refusal):
    np.savez(tmp_path / "p.npz", **_packed(**changes))
    with refused(*refusal):
        read_packed(tmp_path / "p.npz")


@pytest.mark.parametrize("code", [lambda y: y, lambda y: 2 * y - 1])
def test_npz_with_the_label_among_its_features_is_refused(tmp_path, code):
    """Some copies of MUSK1 have a 167th column: the label."""
    x = np.concatenate([_packed()["features"], code(np.array([0, 0, 1, 1, 1, 1, 1]))[:, None]], 1).astype(np.float32)
    np.savez(tmp_path / "p.npz", **_packed(features=x))
    with refused("features-hold-label", "4", "5", "bag", "MUSK1"):
        read_packed(tmp_path / "p.npz")
    answer = np.array([0, 0, 1, 0, 1, 0, 1])
    x[:, 4] = code(answer)
    np.savez(tmp_path / "p.npz", **_packed(features=x, instance_label=answer))
    with refused("features-hold-label", "4", "instance"):
        read_packed(tmp_path / "p.npz")


def test_the_classical_sets_have_their_width(shared_root):
    width = {"musk1": 166, "musk2": 166, "fox": 230, "tiger": 230, "elephant": 230}
    for name, dim in width.items():
        assert read_packed(shared_root / "data" / "classic" / f"{name}.npz").features.shape[1] == dim


def test_a_reader_yields_slides(clam):
    module, actual = detect_format(clam)
    read = list(module.open_source(clam).read())
    assert actual.startswith("CLAM features in")
    assert all(isinstance(slide, SourceSlide) for slide in read)
    assert len(module.open_source(clam)) == len(read) == 3
