"""The machine's rates against their own samples, and what may not be silent."""

import statistics
from math import prod

import pytest
import torch
from support.refusal import refused

from milbench.measure import roofline as ceiling
from milbench.measure.roofline import check_dtype, flops, gemm, measure_ceiling, probe, tf32
from milbench.measure.yardstick import yardstick

SHAPES = ((64, 64, 64), (128, 32, 16))
CPU = torch.device("cpu")


@pytest.fixture(scope="module", params=["fp32", "bf16"])
def measured(request):
    return measure_ceiling("cpu", request.param, rounds=3, array_bytes=1 << 20, shapes=SHAPES)


def test_a_yardstick_leaves_random_numbers_as_they_were():
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    rates = yardstick(CPU)
    assert sorted(rates) == ["copy_bytes_per_s", "flops_per_s"]
    assert min(rates.values()) > 1e6
    assert torch.equal(torch.rand(4), expected)


def test_rates_are_amounts_over_median_seconds(measured):
    medians = {what: statistics.median(seconds) for what, seconds in measured.samples.items()}
    products = {shape: 2 * prod(shape) / medians["x".join(map(str, shape))] for shape in SHAPES}
    assert measured.flops_per_s == pytest.approx(max(products.values()))
    assert measured.flops_per_s == products[measured.gemm_shape]
    assert measured.copy_bytes_per_s == pytest.approx(2 * (1 << 20) / medians["copy"])
    assert measured.read_bytes_per_s == pytest.approx((1 << 20) / min(medians["sum"], medians["amax"]))
    assert all(len(seconds) >= 3 and min(seconds) > 0 for seconds in measured.samples.values())
    assert (measured.device, measured.threads) == ("cpu", torch.get_num_threads())
    assert measured.as_dict()["gemm_shape"] == measured.gemm_shape


@pytest.mark.parametrize(("dtype", "kept"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_the_product_is_a_product_in_that_dtype(monkeypatch, dtype, kept):
    calls = []
    true = torch.mm
    monkeypatch.setattr(torch, "mm", lambda a, b, out: calls.append((a, b, out)) or true(a, b, out=out))
    gemm((8, 4, 2), dtype, CPU)()
    ((a, b, out),) = calls
    assert (a.shape, b.shape, {a.dtype, b.dtype, out.dtype}) == ((8, 4), (4, 2), {kept})
    torch.testing.assert_close(out, a @ b)


def test_the_probe_shrinks_where_the_dtype_is_emulated(monkeypatch):
    monkeypatch.setattr(ceiling, "_rough_rate", lambda device, dtype: 1e12)
    assert probe(CPU, "fp32")[1] == flops((1024, 1024, 1024))
    monkeypatch.setattr(ceiling, "_rough_rate", lambda device, dtype: 1e8)
    assert probe(CPU, "fp32")[1] <= 0.05 * 1e8


def test_shapes_shrink_where_the_dtype_is_emulated():
    assert ceiling._fitted((2048, 2048, 2048), 1e12) == (2048, 2048, 2048)
    assert ceiling._fitted((2048, 2048, 2048), 1e9) == (512, 512, 512)
    m, k, n = ceiling._fitted((8192, 1024, 512), 1e9)
    assert (k, n) == (1024, 512)
    assert flops((m, k, n)) <= 0.3e9


def test_tf32_is_on_in_its_block_alone():
    flags = torch.backends.cuda.matmul, torch.backends.cudnn
    with tf32(False):
        with tf32(True):
            assert all(flag.allow_tf32 for flag in flags)
        assert not any(flag.allow_tf32 for flag in flags)
        with pytest.raises(KeyError), tf32(True):
            raise KeyError
        assert not any(flag.allow_tf32 for flag in flags)


def test_dtypes_that_are_none():
    with refused("option-bad-value", "'fp64'", "fp32", "tf32", "bf16", "fp16"):
        check_dtype("fp64", "cpu")
    with refused("option-bad-value"):
        measure_ceiling("cpu", "tf32")
    assert check_dtype("tf32", "cuda") == "tf32"


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", ["fp32", "tf32", "bf16"])
def test_cuda(dtype):
    actual = measure_ceiling("cuda", dtype, rounds=3)
    assert actual.flops_per_s > 1e11
    assert actual.read_bytes_per_s > 1e10
    assert not torch.backends.cuda.matmul.allow_tf32
