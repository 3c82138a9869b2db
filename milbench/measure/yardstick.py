"""Yardstick: how fast this machine multiplies and copies at the moment of a measurement.

A fixed small product and a fixed copy take less than a tenth of a second. They are no ceiling (`milbench.measure.
ceiling`): only their ratio to the same yardstick at another moment of the same machine says something.
"""

from __future__ import annotations

import torch

from .roofline import flops, gemm
from .timing import time_turns

_SHAPE = {"cpu": (512, 512, 512), "cuda": (4096, 4096, 4096)}
_COPY_BYTES = {"cpu": 32 << 20, "cuda": 256 << 20}
_TURNS = 5


def yardstick(device: torch.device) -> dict[str, float]:
    """Return ``flops_per_s`` of a matrix product in fp32 and ``copy_bytes_per_s``, bytes read and written together.

    Medians of several turns, with the threads that torch has now. The state of torch's random numbers stays.
    """
    shape = _SHAPE[device.type]
    source = torch.ones(_COPY_BYTES[device.type] // 4, device=device)
    target = torch.empty_like(source)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        product = gemm(shape, "fp32", device)
    multiplied, copied = time_turns(
        [product, lambda: target.copy_(source)], turns=_TURNS, warmup=1, turn_seconds=0.005, device=device
    )
    return {
        "flops_per_s": flops(shape) / multiplied.median,
        "copy_bytes_per_s": 2 * source.numel() * 4 / copied.median,
    }
