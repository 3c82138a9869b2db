"""The process of a task: set up the same way whatever it does, and kept within its memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import torch

from ..data.cache.reader import FeatureCache
from ..measure.memory import peak_address_bytes, settle_heap


@contextmanager
def capped(
    memory_bytes: int | None, device: torch.device, cache: FeatureCache | None = None
) -> Iterator[Callable[[], dict[str, Any] | None]]:
    """Let this process take no more memory than it may; see `Budget.memory_bytes`.

    Args:
        memory_bytes: allowed beyond the present use of the process; None: no limit.
        device: on CUDA the limit is torch's caching allocator's, on CPU the kernel's.
        cache: features that are mapped before, so that they do not count.

    Yields:
        A function that returns what the cap counts, for the record: ``bytes``, the cap; ``measure``, which memory it is
        on (``address-space`` or ``cuda-allocator``); ``peak_bytes``, the most of that memory that was taken beyond what
        the process had, None where it is not known. The recorded peak is another measure, of the resident set: memory
        that was reserved before and is touched now counts there and not here. None without a cap.
    """
    if memory_bytes is None:
        yield lambda: None
        return
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, memory_bytes / total), device)
        held = torch.cuda.memory_reserved(device)
        yield lambda: {
            "bytes": memory_bytes, "measure": "cuda-allocator",
            "peak_bytes": max(0, torch.cuda.max_memory_reserved(device) - held),
        }  # fmt: skip
        return
    import resource  # not on Windows

    # Memory shared with other runs, or of torch itself, is not the method's: mapped features, pools of threads.
    if cache is not None:
        for slide in cache.slides.drop_duplicates("shard")["slide_id"]:
            cache[slide]
    torch.ones(1 << 20).add_(1)
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    had, most = psutil.Process().memory_info().vms, peak_address_bytes()
    cap = had + memory_bytes
    resource.setrlimit(resource.RLIMIT_AS, (cap if hard == resource.RLIM_INFINITY else min(cap, hard), hard))

    def reading() -> dict[str, Any]:
        peak = peak_address_bytes()
        # A mark that did not move is of before.
        taken = peak - had if peak is not None and most is not None and peak > most else None
        return {"bytes": memory_bytes, "measure": "address-space", "peak_bytes": taken}

    try:
        yield reading
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def set_up(threads: int, device_type: str) -> torch.device:
    """Set this process up for one task: threads, deterministic algorithms, no TF32; return the device."""
    settle_heap()
    torch.set_num_threads(threads)
    # By this name torch does not import its compiler (0.3 s), which has a setting of its own, read when it is imported.
    torch.set_deterministic_debug_mode("warn" if device_type == "cuda" else "error")
    os.environ["TORCHINDUCTOR_DETERMINISTIC"] = "1"
    # Filling memory that is about to be overwritten anyway helps debugging, costs a pass over it, and changes no
    # result.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    return torch.device(device_type)
