"""The feature cache: what comes out is what went in, or an error that names what is wrong."""

from __future__ import annotations

import errno
import operator
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
import tomllib
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.refusal import refused

import milbench
from milbench import FeatureCache
from milbench.atomic_io.checksums import file_checksum
from milbench.data.cache.layout import SCHEMA, is_sealed, seal, shard_header, to_toml
from milbench.data.cache.reader import CacheWriter, verify


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=6),
    dim=st.integers(1, 7),
    dtype=st.sampled_from(["float16", "bfloat16", "float32"]),
    coords=st.sampled_from([None, torch.int64, torch.float32]),
    shard_bytes=st.integers(1, 400),
    seed=st.integers(0, 99),
)
def test_round_trip_is_bit_exact(tmp_path_factory, lengths, dim, dtype, coords, shard_bytes, seed):
    rng = torch.Generator().manual_seed(seed)
    given_x = {f"{i:03d}": torch.randn(n, dim, generator=rng).to(getattr(torch, dtype)) for i, n in enumerate(lengths)}
    given_xy = {s: None if coords is None else (torch.rand(len(x), 2, generator=rng) * 9e4).to(coords)
                for s, x in given_x.items()}  # fmt: skip
    out = tmp_path_factory.mktemp("cache") / "c"
    with CacheWriter(out, dtype, shard_bytes=shard_bytes) as writer:
        for slide, x in given_x.items():
            writer.add(slide, x, given_xy[slide])
    cache = FeatureCache.open(out)
    assert list(cache) == list(cache.ids) == list(given_x)
    assert writer.max_rounding_error == 0
    assert cache.slides["rows"].tolist() == lengths
    for slide, x in given_x.items():
        assert cache[slide].dtype == x.dtype
        assert torch.equal(cache[slide], x)
        xy, due = cache.coords(slide), given_xy[slide]
        assert (xy is None and due is None) or (xy.dtype == due.dtype and torch.equal(xy, due))
    assert verify(out) == []


def test_bags_pack_and_convert(small_cache):
    cache = FeatureCache.open(small_cache)
    bags = cache.bags(["s3", "s0"], dtype=torch.float32)
    assert isinstance(bags, milbench.Bags)
    assert bags.lengths == (6, 3)
    assert bags.x.dtype == torch.float32
    assert torch.equal(bags.x, torch.cat([cache["s3"], cache["s0"]]).float())
    assert torch.equal(bags.coords, torch.cat([cache.coords("s3"), cache.coords("s0")]))
    assert cache.bags(["s3"]).x.data_ptr() == cache["s3"].data_ptr()
    assert len(cache) == 10
    assert "s3" in cache
    assert "zz" not in cache
    with refused("bag-shape"):
        cache.bags([])
    with refused("bag-shape"):
        cache.bags("s3")


def test_unknown_slide_names_the_nearest(small_cache):
    cache = FeatureCache.open(small_cache)
    with refused("cohort-unknown-name", "'s33'", "'s3'"):
        cache["s33"]
    with refused("cohort-unknown-name", "10", "'s0'"):
        cache.coords("tumor_001")


def test_slides_are_views_of_one_mapped_file(tmp_path):
    with CacheWriter(tmp_path / "c") as writer:
        for slide in "abc":
            writer.add(slide, torch.randn(4, 8))
    cache = FeatureCache.open(tmp_path / "c")
    starts = {cache[s].untyped_storage().data_ptr() for s in "abc"}
    assert len(starts) == 1
    assert cache["b"].data_ptr() - cache["a"].data_ptr() == 4 * 8 * 2
    assert cache["a"].data_ptr() % 64 == 0


def _reseal(cache, *changes):
    """Edit cache.toml and make its checksums those of the files that are there."""
    text, _, _ = (cache / "cache.toml").read_text().rpartition('checksum = "')
    for old, new in changes:
        text = text.replace(old, new)
    index = file_checksum(cache / "index.parquet")
    text = re.sub(r'index_checksum = "\w+"', f'index_checksum = "{index}"', text)
    (cache / "cache.toml").write_text(seal(text))


def test_a_huge_cache_opens_without_being_read(tmp_path):
    """A shard of 16 GB that takes no space on the disk (a sparse file) costs milliseconds to open."""
    with CacheWriter(tmp_path / "c") as writer:
        writer.add("a", torch.zeros(1, 1024))
    cache = tmp_path / "c"
    rows = 8_000_000
    with (cache / "shard-00000.safetensors").open("r+b") as file:
        file.write(shard_header(rows, 1024, "float16", None))
        file.truncate(512 + rows * 2048)
    frame = pd.read_parquet(cache / "index.parquet")
    frame["rows"] = rows
    frame.to_parquet(cache / "index.parquet", index=False)
    _reseal(cache, ("rows = 1\n", f"rows = {rows}\n"))
    start = time.perf_counter()
    x = FeatureCache.open(cache)["a"]
    assert time.perf_counter() - start < 1
    assert x.shape == (rows, 1024)
    assert float(x[rows // 2].sum()) == 0


def test_a_pickled_cache_opens_itself_in_a_fresh_process(small_cache):
    cache = FeatureCache.open(small_cache)
    assert len(pickle.dumps(cache)) < 500
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        again = pool.submit(operator.getitem, cache, "s7").result(timeout=600)
    assert torch.equal(again, cache["s7"])


@pytest.mark.parametrize(
    ("features", "coords", "refusal"),
    [
        (torch.zeros(3, 5).to(torch.float8_e4m3fn), None, ("features-bad-array", "float8_e4m3fn")),
        (torch.eye(5).to_sparse(), None, ("features-bad-array", "sparse_coo")),
        (torch.full((3, 5), float("nan")), None, ("features-not-finite", "'x'", "0")),
        (torch.tensor([[1.0] * 5, [float("inf")] * 5]), None, ("features-not-finite", "'x'", "1")),
        (torch.zeros(0, 5), None, ("features-bad-array", "'x'", "(0, 5)")),
        (torch.zeros(3, 4), None, ("features-disagree", "'x'", "4-d", "5-d")),
        (torch.zeros(5), None, ("features-bad-array", "'x'", "(5,)")),
        (torch.zeros(1, 3, 5), None, ("features-bad-array", "'x'", "(1, 3, 5)")),
        (torch.full((3, 5), 7e4), None, ("features-not-finite", "'x'", "70000", "float16")),
        (torch.zeros(3, 5, dtype=torch.int64), None, ("features-bad-array", "'x'", "torch.int64")),
        (np.array([["a"] * 5]), None, ("features-bad-array", "'x'", "<U1")),
        (torch.zeros(3, 5), torch.zeros(2, 2), ("coords-bad", "'x'", "(3, 2)", "(2, 2)")),
        (torch.zeros(3, 5), None, ("features-disagree", "'x'", "coordinates")),
        (
            torch.zeros(3, 5),
            torch.zeros(3, 2, dtype=torch.int64),
            ("features-disagree", "'x'", "coordinates", "int64", "float32"),
        ),
        (torch.zeros(3, 5), torch.full((3, 2), float("nan")), ("coords-bad", "'x'")),
    ],
)
def test_bad_input_is_refused_by_name_and_the_writer_goes_on(tmp_path, features, coords, refusal):
    with_coords = refusal[0] == "coords-bad" or "coordinates" in refusal
    with CacheWriter(tmp_path / "c") as writer:
        writer.add("a", torch.ones(2, 5), torch.zeros(2, 2) if with_coords else None)
        with refused(*refusal):
            writer.add("x", features, coords)
        writer.add("b", torch.ones(3, 5), torch.ones(3, 2) if with_coords else None)
    assert FeatureCache.open(tmp_path / "c").ids == ("a", "b")
    assert verify(tmp_path / "c") == []


def test_more_refusals(tmp_path):
    with CacheWriter(tmp_path / "c") as writer:
        writer.add("a", np.ones((2, 5), dtype=">f4"))
        with refused("slide-twice", "'a'"):
            writer.add("a", torch.ones(2, 5))
        with refused("name-bad", "7"):
            writer.add(7, torch.ones(2, 5))
        with refused("features-disagree", "'b'", "its"):
            writer.add("b", torch.ones(2, 5), torch.zeros(2, 2))
    with refused("already-exists"):
        CacheWriter(tmp_path / "c").__enter__()
    with refused("cache-bad-request", "'float8'"):
        CacheWriter(tmp_path / "d", dtype="float8")
    with refused("cache-bad-request", "dim"):
        CacheWriter(tmp_path / "d", meta={"dim": 3})
    with refused("cache-bad-request"):
        CacheWriter(tmp_path / "d").add("a", torch.ones(2, 2))
    with refused("cache-no-slides"), CacheWriter(tmp_path / "d"):
        pass
    assert [p.name for p in tmp_path.iterdir()] == ["c"]


def test_rounding_error_is_reported(tmp_path):
    x = torch.tensor([[1.0, 1 + 2**-12], [3.0, 100.0]])
    with CacheWriter(tmp_path / "c") as writer:
        writer.add("a", x)
    assert writer.max_rounding_error == 2**-12
    assert writer.max_abs == 100


def test_an_exception_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError, match="boom"), CacheWriter(tmp_path / "c") as writer:  # noqa: PT012
        writer.add("a", torch.ones(2, 5))
        raise RuntimeError("boom")
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_the_writing_thread_is_not_lost(tmp_path, monkeypatch):
    """The system tells of a failed write once: whoever asks again hears that all is well."""
    monkeypatch.setattr("milbench.data.cache.writer.WRITE_OUT", 1)
    real, message = os.fsync, []

    def refuse(descriptor):
        if not message:
            message.append(descriptor)
            raise OSError(errno.ENOSPC, "full")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", refuse)
    with refused("disk-full"), CacheWriter(tmp_path / "c") as writer:
        writer.add("a", torch.ones(3, 4))
    assert message
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("shard_bytes", [100, 1 << 20])
def test_written_out_by_a_second_thread(tmp_path, monkeypatch, shard_bytes):
    monkeypatch.setattr("milbench.data.cache.writer.WRITE_OUT", 1)
    given = {f"s{i}": torch.randn(5, 4) for i in range(20)}
    with CacheWriter(tmp_path / "c", dtype="float32", shard_bytes=shard_bytes) as writer:
        for slide, x in given.items():
            writer.add(slide, x)
    cache = FeatureCache(tmp_path / "c")
    assert not verify(tmp_path / "c")
    assert all(torch.equal(cache[slide], x) for slide, x in given.items())


def test_a_full_disk_is_one_sentence(tmp_path):
    with refused("disk-full"), CacheWriter(tmp_path / "c"):
        raise OSError(28, "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_two_writers_of_one_place(tmp_path):
    slow = CacheWriter(tmp_path / "c").__enter__()
    slow.add("slow", torch.ones(2, 5))
    with CacheWriter(tmp_path / "c") as fast:  # does not sweep the living writer's folder
        fast.add("fast", torch.ones(2, 5))
    with refused("already-exists"):
        slow.__exit__(None, None, None)
    assert FeatureCache.open(tmp_path / "c").ids == ("fast",)
    assert [p.name for p in tmp_path.iterdir()] == ["c"]


@pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")
def test_a_kill_leaves_nothing_that_opens_and_the_next_writer_cleans_up(tmp_path):
    script = f"""
        import time, torch
        from milbench.data.cache.writer import CacheWriter
        with CacheWriter({str(tmp_path / "c")!r}, shard_bytes=200) as writer:
            for i in range(50):
                writer.add(str(i), torch.ones(4, 8))
            print("written", flush=True)
            time.sleep(60)
    """
    child = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE)
    assert child.stdout.readline().strip() == b"written"
    # A living writer's folder is left alone by others.
    with CacheWriter(tmp_path / "c2") as writer:
        writer.add("a", torch.ones(2, 5))
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    assert not (tmp_path / "c").exists()
    left = [p for p in tmp_path.iterdir() if p.name.endswith(".partial")]
    assert len(left) == 1
    for place in (tmp_path / "c", left[0]):
        with refused("cache-missing"):
            FeatureCache.open(place)
    with CacheWriter(tmp_path / "c") as writer:
        writer.add("a", torch.ones(2, 5))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c", "c2"]


def test_verify_names_every_flipped_byte(small_cache, tmp_path):
    rng = np.random.default_rng(3)
    files = sorted(p.name for p in small_cache.iterdir())
    cache = FeatureCache.open(small_cache)
    assert "source.json" in files
    for trial in range(120):
        hurt = tmp_path / f"hurt{trial}"
        shutil.copytree(small_cache, hurt)
        path = hurt / files[trial % len(files)]
        raw = bytearray(path.read_bytes())
        place = int(rng.integers(len(raw)))
        raw[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(raw)
        actual = verify(hurt)
        assert actual, (path.name, place)
        assert any(path.name in line for line in actual), actual
        slide = _slide_at(cache, path.name, place)
        if slide is not None:
            assert actual == [f"slide {slide!r}: its features or coordinates in {path.name} differ from its checksum."]


def _slide_at(cache: FeatureCache, shard: str, place: int) -> str | None:
    """The slide a byte of a shard belongs to; None for bytes of the header and of other files."""
    here = cache.slides[cache.slides["shard"] == shard]
    place -= 512
    if here.empty or place < 0:
        return None
    features = int(here["rows"].sum()) * cache.dim * 2
    row = place // (cache.dim * 2) if place < features else (place - features) // 16
    return str(here[here["first_row"] <= row]["slide_id"].iloc[-1])


def test_verify_and_open_name_missing_truncated_and_extra_files(small_cache):
    shard = small_cache / "shard-00001.safetensors"
    raw = shard.read_bytes()
    shard.write_bytes(raw[:-20])
    actual = verify(small_cache)
    assert actual[0] == f"{shard.name} has {len(raw) - 20} bytes instead of {len(raw)}."
    assert any(line.startswith("slide '") for line in actual)
    with refused("cache-damaged", "shard-00001.safetensors"):
        FeatureCache.open(small_cache)
    shard.unlink()
    assert any("shard-00001.safetensors is missing, with slides s" in line for line in verify(small_cache))
    with refused("cache-damaged", "shard-00001.safetensors"):
        FeatureCache.open(small_cache)
    shard.write_bytes(raw)
    (small_cache / "notes.txt").write_text("mine")
    assert verify(small_cache) == ["notes.txt does not belong to the cache."]


def test_an_edited_index_or_toml_is_detected(small_cache, tmp_path):
    hurt = tmp_path / "hurt"
    shutil.copytree(small_cache, hurt)
    frame = pd.read_parquet(hurt / "index.parquet")
    frame.loc[0, "slide_id"] = "other"
    frame.to_parquet(hurt / "index.parquet", index=False)
    assert verify(hurt) == ["index.parquet was changed after the cache was built; the rest was not checked."]
    frame.loc[0, "first_row"] = 2
    frame.to_parquet(hurt / "index.parquet", index=False)
    with refused("cache-damaged", "index.parquet"):
        FeatureCache.open(hurt)
    _reseal(hurt)
    with refused("cache-damaged"):
        FeatureCache.open(hurt)
    (hurt / "index.parquet").write_bytes(b"no parquet")
    _reseal(hurt)
    with refused("cache-damaged", "index.parquet"):
        FeatureCache.open(hurt)
    toml = hurt / "cache.toml"
    toml.write_text(toml.read_text().replace('"noise"', '"uni"'))
    assert verify(hurt) == ["cache.toml was changed after the cache was built; the rest was not checked."]
    toml.write_text(toml.read_text().replace(f"schema = {SCHEMA}", "schema = 99"))
    with refused("schema-unknown", "99"):
        FeatureCache.open(hurt)
    toml.write_text("dim = = 3")
    with refused("cache-damaged", "cache.toml"):
        FeatureCache.open(hurt)


def test_what_is_no_cache(tmp_path):
    with refused("cache-missing"):
        FeatureCache.open(tmp_path)
    with refused("cache-missing"):
        verify(tmp_path / "nowhere")


@given(st.dictionaries(
    st.text(min_size=1, max_size=8).filter(lambda s: s.isprintable()),
    st.one_of(st.integers(-(2**62), 2**62), st.booleans(), st.floats(allow_nan=False), st.text(max_size=20),
              st.lists(st.text(max_size=5), max_size=3)),
    max_size=5,
))  # fmt: skip
def test_toml_written_is_toml_read(values):
    clean = {k.encode("utf-8", "replace").decode(): v for k, v in values.items()}
    text = to_toml(clean)
    read = tomllib.loads(text)
    assert {k: v for k, v in read.items() if not isinstance(v, str | list)} == {
        k: v for k, v in clean.items() if not isinstance(v, str | list)
    }
    assert is_sealed(seal(text).encode())
    with refused("cache-bad-request", "cache.toml"):
        to_toml({"a": {"b": 1}})
