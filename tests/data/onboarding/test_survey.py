"""What is learned of features from headers and a few slides."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from support.features import Slide, digit_slides, write_clam, write_trident
from support.foreign import same_bits, write_eva, write_mil_baseline, write_slideflow, write_stamp, write_torchmil
from support.refusal import refused

from milbench.data.cache.reader import CacheWriter
from milbench.data.importers import Slides, SourceSlide, detect_format
from milbench.data.importers._rows import h5_rows, npy_rows, torch_rows
from milbench.data.onboarding import survey as module
from milbench.data.onboarding.survey import survey

WRITERS = {
    "clam h5": lambda folder, slides: write_clam(folder / "features", slides, ("h5_files",)),
    "clam pt": lambda folder, slides: write_clam(folder / "features", slides, ("pt_files",)),
    "trident": lambda folder, slides: write_trident(folder / "job", slides),
    "stamp": lambda folder, slides: write_stamp(folder / "stamp", slides),
    "torchmil npy": lambda folder, slides: write_torchmil(folder / "bags", slides),
    "torchmil h5": lambda folder, slides: write_torchmil(folder / "bags", slides, end=".h5"),
    "slideflow": lambda folder, slides: write_slideflow(folder / "bags", slides),
    "mil_baseline": lambda folder, slides: write_mil_baseline(
        folder / "splits", slides, [{slide.name: "train" for slide in slides}]
    ),
    "npz": lambda folder, slides: _packed(folder / "bags.npz", slides),
}


def _packed(path: Path, slides: list[Slide]) -> Path:
    ends = np.cumsum([0, *(len(s.x) for s in slides)])
    np.savez(path, features=np.concatenate([s.x for s in slides]), bag_offsets=ends,
             bag_label=np.array([s.label for s in slides]), bag_name=np.array([s.name for s in slides]))  # fmt: skip
    return path


@pytest.mark.parametrize("kind", WRITERS)
def test_headers_tell_the_lengths(kind, tmp_path, monkeypatch):
    """Of every slide, whatever the sample is."""
    slides = digit_slides(patients=6)
    source = WRITERS[kind](tmp_path, slides)
    monkeypatch.setattr(module, "SAMPLE", 3)
    seen = []
    surveyed = survey(source, progress=lambda *step: seen.append(step))
    assert surveyed.rows == {s.name: len(s.x) for s in slides}
    assert surveyed.complete
    assert surveyed.loaded == 3
    assert surveyed.dim == 64
    assert surveyed.lengths.tolist() == sorted(len(s.x) for s in slides)
    assert [step[:2] for step in seen] == [(i + 1, 12) for i in range(12)]


def test_where_headers_tell_nothing_a_sample_is_loaded(tmp_path, monkeypatch):
    """eva's lists of vectors, and tensors as torch wrote them before 1.6."""
    slides = digit_slides(patients=20)
    source = write_eva(tmp_path / "eva", slides, {s.name: "train" for s in slides})
    surveyed = survey(source)
    assert (surveyed.loaded, len(surveyed.rows), surveyed.complete) == (module.SAMPLE, module.SAMPLE, False)
    assert all(surveyed.rows[s.name] == len(s.x) for s in slides if s.name in surveyed.rows)

    old = tmp_path / "old"
    old.mkdir()
    for s in slides:
        torch.save(torch.from_numpy(s.x), old / f"{s.name}.pt", _use_new_zipfile_serialization=False)
    monkeypatch.setattr(module, "SECONDS", 0.0)  # one slide is loaded in any case
    assert survey(old).loaded == 1


def test_no_features_are_read_for_a_length(tmp_path):
    """A million rows that were never written cost nothing to count."""
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("features", shape=(10**6, 1024), dtype="f4", chunks=(1, 1024))
        file.create_dataset("one", shape=(1, 7, 1024), dtype="f4")
        file["text"] = "words"
        file["elsewhere"] = h5py.ExternalLink("b.h5", "features")
    assert h5_rows(tmp_path / "a.h5", "features") == 10**6
    assert h5_rows(tmp_path / "a.h5", "one") == 7
    assert [h5_rows(tmp_path / "a.h5", key) for key in ("text", "elsewhere", "absent")] == [None, None, None]
    np.save(tmp_path / "a.npy", np.zeros((5, 3)))
    assert npy_rows(tmp_path / "a.npy") == 5
    torch.save({"a": torch.zeros(5, 3)}, tmp_path / "dict.pt")
    assert torch_rows(tmp_path / "dict.pt") is None
    for path in ("a.npy", "a.h5", "dict.pt"):
        (tmp_path / path).write_bytes((tmp_path / path).read_bytes()[:20])
    assert (npy_rows(tmp_path / "a.npy"), torch_rows(tmp_path / "dict.pt")) == (None, None)
    assert h5_rows(tmp_path / "a.h5", "features") is None


def test_facts(tmp_path):
    surveyed = survey(write_trident(tmp_path / "job", digit_slides(patients=3)))
    assert (surveyed.format, surveyed.dtype, surveyed.exact, surveyed.coords) == ("trident", "float32", True, True)
    assert surveyed.facts == {"encoder": "uni_v1", "magnification": 20.0, "patch_size": 256, "units": "level-0 pixels"}
    assert surveyed.table.labels is None


@pytest.mark.parametrize(
    ("dtypes", "kept", "exact"),
    [
        ([torch.float16], "float16", True),
        ([torch.bfloat16], "bfloat16", True),
        ([torch.float16, torch.bfloat16], "float32", True),
        ([torch.float64], "float32", False),
    ],
)
def test_the_dtype_that_keeps_every_bit(dtypes, kept, exact, tmp_path):
    (tmp_path / "pt_files").mkdir()
    for i in range(4):
        torch.save(torch.ones(3, 2, dtype=dtypes[i % len(dtypes)]), tmp_path / "pt_files" / f"{i}.pt")
    surveyed = survey(tmp_path)
    assert (surveyed.dtype, surveyed.exact) == (kept, exact)


def test_empty_slides(tmp_path):
    slides = digit_slides(patients=4)
    source = write_clam(tmp_path / "features", [replace(s, x=s.x[:0], xy=s.xy[:0]) for s in slides[:3]] + slides[3:])
    surveyed = survey(source)
    assert set(surveyed.empty) == {s.name for s in slides[:3]}
    assert set(surveyed.full) == {s.name for s in slides[3:]}
    assert len(surveyed.lengths) == 5
    for s in slides[3:]:
        (source / "h5_files" / f"{s.name}.h5").unlink()
        (source / "pt_files" / f"{s.name}.pt").unlink()
    with refused("cache-no-slides"):
        survey(source)


@pytest.mark.parametrize(
    ("odd", "refusal"),
    [
        (torch.ones(3, 5), ("features-disagree", "dim", "'0'", "2", "'3'", "5")),
        (torch.ones(3, 2, 2), ("features-bad-array", "3.pt", "'3'", "(3, 2, 2)")),
        (torch.ones(3, 2, dtype=torch.int64), ("features-bad-array", "3.pt", "'3'", "int64")),
    ],
)
def test_slides_that_are_not_like_the_others(odd, refusal, tmp_path):
    (tmp_path / "pt_files").mkdir()
    for i in range(4):
        torch.save(odd if i == 3 else torch.ones(3, 2), tmp_path / "pt_files" / f"{i}.pt")
    with refused(*refusal):
        survey(tmp_path)


def test_names_that_are_not_utf8(tmp_path):
    (tmp_path / "pt_files").mkdir()
    torch.save(torch.ones(3, 2), tmp_path / "pt_files" / "a.pt")
    try:
        (tmp_path / "pt_files" / "a.pt").rename(tmp_path / "pt_files" / "caf\udce9.pt")
    except OSError:
        pytest.skip("this file system has no such names")
    with refused("name-bad", "'caf\\udce9'"):
        survey(tmp_path)


def test_a_cache(tmp_path):
    with CacheWriter(tmp_path / "c", "bfloat16", {"encoder": "e", "left_out": ["z"]}) as writer:
        writer.add("a", torch.ones(3, 2))
        writer.add("b", torch.ones(5, 2))
    surveyed = survey(tmp_path / "c")
    assert (surveyed.format, surveyed.ids, surveyed.rows, surveyed.dtype) == (
        None,
        ("a", "b"),
        {"a": 3, "b": 5},
        "bfloat16",
    )
    assert surveyed.description == f"feature cache {tmp_path / 'c'}: 2 slides; 1 empty slide was left out ('z')"
    assert (surveyed.empty, surveyed.full, surveyed.facts, surveyed.coords) == (
        ("z",),
        ("a", "b"),
        {"encoder": "e"},
        False,
    )


def test_a_format_need_not_tell_lengths():
    class Bare(Slides):
        def load(self, i: int) -> SourceSlide:
            raise NotImplementedError

        def files(self, i: int) -> tuple[Path, ...]:
            return ()

    assert Bare(["a"]).rows(0) is None


def test_rows_are_of_the_file_that_is_loaded(tmp_path):
    """One that is in both of CLAM's folders is read from h5_files, and refused if the other holds other numbers."""
    slides = digit_slides(patients=2)
    source = write_clam(tmp_path / "features", slides)
    for s in slides:
        torch.save(torch.from_numpy(s.x).half(), source / "pt_files" / f"{s.name}.pt")
    opened = detect_format(source)[0].open_source(source)
    assert [opened.rows(i) for i in range(len(opened))] == [len(opened.load(i).features) for i in range(len(opened))]
    assert all(same_bits(opened.load(i).features, s.x) for i, s in enumerate(sorted(slides, key=lambda s: s.name)))
    torch.save(torch.ones(1, 64), source / "pt_files" / f"{slides[0].name}.pt")
    with refused("slide-twice"):
        opened.load(opened.ids.index(slides[0].name))
