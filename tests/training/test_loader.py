"""Features on their way to the device: read ahead or not, the same bags in the same order."""

import threading

import pytest
import torch
from support.refusal import refused
from support.small import opened, write_cohort

from milbench import Bags
from milbench.errors import MilbenchError
from milbench.training import loader as feed
from milbench.training.loader import BagLoader, Standardizer, ahead

CPU = torch.device("cpu")
ORDER = ([3], [5, 0, 2], [7], [1, 6])


def bags_of(folder, parts, device=CPU, scaling=None):
    return BagLoader(opened(folder), [slide for slide, _ in parts["train"]], device, scaling)


def same(a, b):
    assert a.lengths == b.lengths
    assert a.x.dtype == b.x.dtype == torch.float32
    assert torch.equal(a.x.cpu(), b.x.cpu())
    assert (a.coords is None) == (b.coords is None)
    if a.coords is not None:
        assert torch.equal(a.coords.cpu(), b.coords.cpu())


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("coords", [False, True])
@pytest.mark.parametrize("depth", [1, 2, 9])
def test_reading_ahead_gives_the_same_bags_in_order(tmp_path, dtype, coords, depth):
    bags = bags_of(tmp_path, write_cohort(tmp_path, dtype=dtype, coords=coords))
    seen = list(ahead(ORDER, bags._stage, lambda staged: staged.to(dtype=torch.float32), depth))
    assert len(seen) == len(ORDER)
    for got, at in zip(seen, ORDER, strict=True):
        same(got, bags.batch(at))


def test_what_cannot_be_read_is_raised_at_its_place_and_the_thread_ends():
    def stage(at):
        if at == [2]:
            raise MilbenchError("shard lost", code="file-missing")
        return Bags(torch.ones(1, 1) * at[0], [1])

    got = []
    bags = ahead([[0], [1], [2], [3]], stage, lambda staged: staged, 2)
    with refused("file-missing", "shard lost"):
        got.extend(float(one.x) for one in bags)
    assert got == [0, 1]
    assert not [t for t in threading.enumerate() if t.name.startswith("feed")]


def test_no_more_is_staged_ahead_than_the_depth():
    staged = []

    def stage(at):
        staged.append(at[0])
        return Bags(torch.ones(1, 1), [1])

    iterator = ahead([[i] for i in range(10)], stage, lambda bags: bags, 2)
    next(iterator)
    iterator.close()
    assert staged in ([0], [0, 1], [0, 1, 2])
    assert not [t for t in threading.enumerate() if t.name.startswith("feed")]


def test_one_bag_is_made_once_and_a_batch_copies(tmp_path):
    bags = bags_of(tmp_path, write_cohort(tmp_path))
    assert bags.batch([3]) is bags.batch([3])
    assert bags.batch([3, 1]).x.data_ptr() != bags.batch([3]).x.data_ptr()
    [first, second] = bags.stream([[3], [3, 1]])
    assert first is bags.batch([3])
    same(second, bags.batch([3, 1]))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("scaled", [False, True])
def test_cuda_resident_streamed_and_host_bags_are_the_same(tmp_path, monkeypatch, scaled):
    parts = write_cohort(tmp_path, coords=True)
    device = torch.device("cuda")
    scaling = Standardizer.fit(opened(tmp_path), [slide for slide, _ in parts["train"]]) if scaled else None
    host, resident = bags_of(tmp_path, parts, CPU, scaling), bags_of(tmp_path, parts, device, scaling)
    monkeypatch.setattr(feed, "_free_bytes", lambda device, limit: 0)
    mapped = bags_of(tmp_path, parts, device, scaling)
    assert resident.resident
    assert not mapped.resident
    for a, b, at in zip(resident.stream(ORDER), mapped.stream(ORDER), ORDER, strict=True):
        same(a, b)
        torch.testing.assert_close(a.x.cpu(), host.batch(at).x)
