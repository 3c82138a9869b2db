"""The measured limits of this machine: its matrix-multiply rate in a dtype, and how fast it reads and copies memory.

A method cannot take less time than its matrix products at that rate, nor less than reading what it must read at that
bandwidth; how near it comes is the *fraction of the ceiling* of ``milbench measure``.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import psutil
import torch

from ..errors import MilbenchError
from ..nn import linear
from .timing import time_turns

Dtype = Literal["fp32", "tf32", "bf16", "fp16"]
DTYPES: tuple[Dtype, ...] = get_args(Dtype)

#: (m, k, n) of (m, k) @ (k, n): a large square product, and those aggregators are made of: an embedding of 1024-d
#: features, the projections of attention, and the hidden layer of an attention score. On CUDA the rows are sixteen
#: times as many, as a product of microseconds would time its launch.
_SHAPES = ((2048, 2048, 2048), (8192, 1024, 512), (8192, 512, 1536), (8192, 512, 512))
_CUDA_TIMES = 16
#: Seconds one product may take; where a dtype is emulated, the shapes get fewer rows.
_PRODUCT_S = 0.3
#: Bytes of the array that is read: larger than any cache, a sixteenth of the free memory at most.
_ARRAY_BYTES = {"cpu": 512 << 20, "cuda": 2 << 30}
_PROBE = {"cpu": 1024, "cuda": 4096}
_PROBE_S = 0.05


@dataclass(frozen=True)
class Ceiling:
    """Rates of a device; medians of several rounds in which all products and passes over memory were interleaved.

    Attributes:
        device: ``cpu`` or ``cuda``.
        dtype: of the products: ``fp32``, ``tf32``, ``bf16`` or ``fp16``; memory is read in fp32 in any case.
        threads: torch's CPU threads.
        flops_per_s: of the best of the shapes, on CPU in fp32 from the faster of MKL and oneDNN; a multiplication and
            an addition count one each.
        copy_bytes_per_s: bytes read and bytes written, together.
        read_bytes_per_s: of the best of a sum and a maximum over an array much larger than the caches.
        gemm_shape: (m, k, n) of the best product.
        samples: raw seconds, name of the work -> one value a call.
        amounts: operations or bytes of one call of each.
    """

    device: str
    dtype: Dtype
    threads: int
    flops_per_s: float
    copy_bytes_per_s: float
    read_bytes_per_s: float
    gemm_shape: tuple[int, int, int]
    samples: dict[str, tuple[float, ...]]
    amounts: dict[str, int]

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as a JSON value."""
        return asdict(self)


def check_dtype(dtype: str, device_type: str) -> Dtype:
    """Return the dtype if there is such a one on the device.

    Raises:
        MilbenchError: an unknown dtype, or TF32 without CUDA.
    """
    if dtype not in DTYPES:
        raise MilbenchError(
            f"unknown dtype {dtype!r}; give {', '.join(DTYPES[:-1])} or {DTYPES[-1]}.", code="option-bad-value"
        )
    if dtype == "tf32" and device_type != "cuda":
        raise MilbenchError(
            "dtype tf32 exists on CUDA devices only; give fp32 or bf16 on this device.", code="option-bad-value"
        )
    return next(known for known in DTYPES if known == dtype)


def measure_ceiling(device: str | torch.device, dtype: Dtype, *, rounds: int = 5, array_bytes: int | None = None,
                    shapes: tuple[tuple[int, int, int], ...] | None = None) -> Ceiling:  # fmt: skip
    """Measure a device's rates, with as many CPU threads as torch has now.

    Args:
        device: to measure.
        dtype: of the products; ``tf32`` switches TF32 on for them and back after.
        rounds: turns of every product and pass; each is warmed up before.
        array_bytes: of the array that is read and copied; None: 512 MiB on CPU and 2 GiB on CUDA, or what is free.
        shapes: (m, k, n) of the products; None: a large square one and those of aggregators.

    Raises:
        MilbenchError: a dtype this device has not.
    """
    where = torch.device(device)
    check_dtype(dtype, where.type)
    times = _CUDA_TIMES if where.type == "cuda" else 1
    given = shapes or tuple((m * times, k, n) for m, k, n in _SHAPES)
    with tf32(dtype == "tf32"), torch.inference_mode():
        rate = _rough_rate(where, dtype)
        fitted = [_fitted(shape, rate) for shape in given]
        source = torch.ones((array_bytes or _array_bytes(where)) // 4, device=where)
        target = torch.empty_like(source)
        size = source.numel() * 4
        # A dot product or a product with a vector is no faster on any machine we measured, and half as fast on CPU.
        works: dict[str, tuple[Callable[[], Any], int]] = {
            "copy": (lambda: target.copy_(source), 2 * size),
            "sum": (source.sum, size),
            "amax": (source.amax, size),
        }
        named = {"x".join(map(str, shape)): shape for shape in fitted}
        works |= {name: (gemm(shape, dtype, where), flops(shape)) for name, shape in named.items()}
        if where.type == "cpu" and dtype == "fp32":
            # The other library at hand may be the faster one; the ceiling is what the machine can do.
            also = {f"{name} as convolution": shape for name, shape in named.items()}
            works |= {name: (_convolution(shape), flops(shape)) for name, shape in also.items()}
            named |= also
        timed = time_turns([work for work, _ in works.values()], turns=rounds, device=where)
    samples = {name: kept.seconds for name, kept in zip(works, timed, strict=True)}
    amounts = {name: amount for name, (_, amount) in works.items()}
    rates = {name: amounts[name] / statistics.median(samples[name]) for name in works}
    best = max(named, key=rates.__getitem__)
    return Ceiling(
        where.type, dtype, torch.get_num_threads(), rates[best], rates["copy"], max(rates["sum"], rates["amax"]),
        named[best], samples, amounts,
    )  # fmt: skip


def probe(device: torch.device, dtype: Dtype) -> tuple[Callable[[], Any], int]:
    """Return one square product of at most a twentieth of a second, to be timed next to other work, and its operations.

    Switch TF32 on around it for ``tf32``; see `tf32`.
    """
    size, rate = _PROBE[device.type], _rough_rate(device, dtype)
    while size > 64 and flops((size, size, size)) / rate > _PROBE_S:
        size //= 2
    shape = (size, size, size)
    own = device.type == "cpu" and dtype == "fp32"  # as the methods' own products are computed
    return _convolution(shape) if own else gemm(shape, dtype, device), flops(shape)


def gemm(shape: tuple[int, int, int], dtype: Dtype, device: torch.device) -> Callable[[], Any]:
    """Return a function that multiplies (m, k) by (k, n) into memory it already has."""
    m, k, n = shape
    kind = torch_dtype(dtype)
    a, b = (torch.randn(*size, device=device).to(kind) for size in ((m, k), (k, n)))
    out = torch.empty(m, n, device=device, dtype=kind)

    def multiply() -> None:
        with torch.no_grad():
            torch.mm(a, b, out=out)

    return multiply


def _convolution(shape: tuple[int, int, int]) -> Callable[[], Any]:
    """Return a function that multiplies fp32 matrices as the methods do, `milbench.nn.linear`."""
    m, k, n = shape
    a, b = torch.randn(m, k), torch.randn(n, k)

    def multiply() -> None:
        with torch.no_grad():
            linear(a, b)

    return multiply


def flops(shape: tuple[int, int, int]) -> int:
    """Return the operations of one product (m, k, n)."""
    m, k, n = shape
    return 2 * m * k * n


def torch_dtype(dtype: Dtype) -> torch.dtype:
    """Return the dtype numbers are kept in; TF32 is a way to multiply fp32."""
    return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(dtype, torch.float32)


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Multiply and convolve fp32 on CUDA in TF32, or not, within the block; put the settings back after."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def available_bytes(device: torch.device, limit: int | None = None) -> int:
    """Return the memory of a device that is free now; on CPU no more than ``limit``, that of the control group."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    free = psutil.virtual_memory().available
    return int(min(free, limit or free))


def _rough_rate(device: torch.device, dtype: Dtype) -> float:
    """Return operations per second of a small product: enough to distinguish native from emulated arithmetic.

    The shortest of many calls, since other work on the machine must not make a dtype appear emulated.
    """
    shape = (256, 256, 256)
    (timed,) = time_turns([gemm(shape, dtype, device)], turns=9, warmup=2, turn_seconds=0.0, device=device)
    return flops(shape) / min(timed.seconds)


def _fitted(shape: tuple[int, int, int], rate: float) -> tuple[int, int, int]:
    """Halve the rows of a product, and all sides of a square one, until it takes no more than `_PRODUCT_S`."""
    m, k, n = shape
    while m > 64 and flops((m, k, n)) / rate > _PRODUCT_S:
        m, k, n = (m // 2, k // 2, n // 2) if m == k == n else (m // 2, k, n)
    return m, k, n


def _array_bytes(device: torch.device) -> int:
    return min(_ARRAY_BYTES[device.type], available_bytes(device) // 16)
