"""What holds of every format: any bag comes through bit for bit, and one format alone claims a source."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from support.features import Slide, digit_slides, write_clam, write_trident
from support.foreign import (
    read_source,
    same_bits,
    write_eva,
    write_mil_baseline,
    write_slideflow,
    write_stamp,
    write_torchmil,
)
from support.refusal import refused

from milbench import MilbenchError
from milbench.data.importers import formats

#: path and csv apart, anything may be a slide's name but what begins as hidden files do; cells of a csv are stripped
NAMES = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cc", "Cs", "Zl", "Zp"), exclude_characters="/\\"), max_size=12
).filter(lambda name: name == name.strip() and name and not name.startswith((".", "~")))


def bags(dtype: str) -> st.SearchStrategy[list[Slide]]:
    """Bags of any length, none too, of any values, under any names."""
    width = 3
    x = hnp.arrays(dtype, st.tuples(st.integers(0, 4), st.just(width)), elements={"allow_nan": True})
    pairs = st.tuples(x, hnp.arrays(np.int64, (4, 2), elements=st.integers(0, 2**20)))
    made = st.dictionaries(NAMES, pairs, min_size=1, max_size=3)
    return made.map(lambda d: [Slide(name, name, "tumour", x, xy[: len(x)]) for name, (x, xy) in d.items()])


def _everywhere(slides: list[Slide]) -> Mapping[str, str]:
    return {slide.name: "train" for slide in slides}


WRITERS: dict[str, Callable[[Path, list[Slide]], Path]] = {
    "torchmil": write_torchmil,
    "slideflow": write_slideflow,
    "mil_baseline": lambda folder, slides: write_mil_baseline(folder / "splits", slides, [_everywhere(slides)]),
    "eva": lambda folder, slides: write_eva(folder, slides, _everywhere(slides)),
    "stamp": write_stamp,
    "clam": lambda folder, slides: write_clam(folder / "features", slides),
    "trident": lambda folder, slides: write_trident(folder, slides),
}


@pytest.mark.parametrize("format", ["torchmil", "slideflow", "mil_baseline", "eva"])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_any_bag_comes_through_bit_for_bit(tmp_path_factory, format, dtype):
    @settings(max_examples=25, deadline=None)
    @given(bags(dtype))
    def check(slides):
        source = WRITERS[format](tmp_path_factory.mktemp("any"), slides)
        read = read_source(source)
        assert sorted(read) == sorted(slide.name for slide in slides)
        for slide in slides:
            if format == "eva" and len(slide.x) == 0:  # an empty list has no width
                assert read[slide.name].features.numel() == 0
            else:
                assert same_bits(read[slide.name].features, slide.x)
            if format in ("torchmil", "slideflow"):
                assert same_bits(read[slide.name].coords, slide.xy)

    check()


@settings(max_examples=25, deadline=None)
@given(bags("float16"))
def test_any_bag_comes_through_stamp(tmp_path_factory, slides):
    read = read_source(write_stamp(tmp_path_factory.mktemp("any"), slides))
    assert sorted(read) == sorted(slide.name for slide in slides)
    assert all(same_bits(read[slide.name].features, slide.x) for slide in slides)
    assert all(same_bits(read[slide.name].coords, (slide.xy / 2).astype(np.float32)) for slide in slides)


@pytest.mark.parametrize("format", WRITERS)
def test_one_format_alone_claims_a_source(tmp_path, format):
    """Also from one folder above and below, where it claims anything."""
    source = WRITERS[format](tmp_path / "it", digit_slides(patients=2))
    claims = {name for name, module in formats().items() if module.detect(source) is not None}
    assert claims == {format}
    around = [source.parent, *(path for path in source.rglob("*") if path.is_dir())]
    for folder in around:
        claims = {name for name, module in formats().items() if module.detect(folder) is not None}
        assert len(claims) <= 1, folder


@pytest.mark.parametrize("suffix", [".pt", ".h5", ".npy", ".csv", ".npz", ".json"])
@pytest.mark.parametrize("what", ["missing", "folder", "empty", "nowhere", "loop"])
def test_no_format_breaks_over_a_path(tmp_path, suffix, what):
    """A path that is nothing, or not what its name says, is claimed by none or refused in a sentence."""
    path = tmp_path / f"a{suffix}"
    match what:
        case "folder":
            path.mkdir()
        case "empty":
            path.touch()
        case "nowhere":
            path.symlink_to(tmp_path / "nowhere")
        case "loop":
            path.symlink_to(path)
    for source in (path, tmp_path):
        for module in formats().values():
            said = ""
            try:
                if module.detect(source) is not None:
                    list(module.open_source(source).read())
            except MilbenchError as error:
                said = str(error)
            assert path.name in said or not said


@pytest.mark.parametrize(
    ("format", "refusal"),
    [
        ("slideflow", ("format-mismatch", ".pt")),
        ("torchmil", ("format-mismatch", "features/", "labels/")),
        ("eva", ("format-mismatch", "manifest.csv")),
        ("mil_baseline", ("table-empty", "train_slide_path", "train_label")),
        ("stamp", ("format-mismatch",)),
    ],
)
def test_opening_a_folder_of_another_format_is_an_error(tmp_path, format, refusal):
    torch.save(torch.ones(2, 3), tmp_path / "a.pt")
    with refused(*refusal, tmp_path):
        formats()[format].open_source(tmp_path)


def test_clams_files_disagree_or_say_nonsense_of_themselves(tmp_path):
    slide = digit_slides(patients=1)[0]
    root = write_clam(tmp_path / "features", [slide], ("pt_files",))
    (root / "patches").mkdir()
    with h5py.File(root / "patches" / f"{slide.name}.h5", "w") as file:
        file["coords"] = slide.xy
        file["coords"].attrs.update(patch_size="large", downsample=np.nan)
    assert read_source(root)[slide.name].meta == {"units": "level-0 pixels"}
    (root / "h5_files").mkdir()
    with h5py.File(root / "h5_files" / f"{slide.name}.h5", "w") as file:
        file["features"], file["coords"] = slide.x, slide.xy[:2]
    with refused("coords-bad", ".h5", "2"):
        read_source(root)
