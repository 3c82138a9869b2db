"""Peak memory of a piece of work: the kernel's high-water mark on CPU, the figures of allocator and driver on CUDA.

On CPU the mark of the resident set (``VmHWM``) is reset, the work is done, and the mark is read again: no short peak is
missed, and scratch memory of libraries counts. Memory that was resident before (interpreter, libraries, model,
features) is the baseline and is taken off. Where the kernel does not let the mark be reset, a thread samples the
resident set every millisecond instead; ``method`` says which it was.
"""

from __future__ import annotations

import ctypes
import gc
import os
import re
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import torch

if TYPE_CHECKING:
    from types import TracebackType

_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")
_SAMPLE_S = 0.001
_MIB = 1 << 20
#: How torch, its libraries and the system say that memory ran out, where they raise no error of its own kind.
_NO_MEMORY = (
    "out of memory", "not enough memory", "can't allocate memory", "cannot allocate memory", "bad_alloc",
    "cublas_status_alloc_failed",
)  # fmt: skip
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # mallopt's
#: oneDNN's message when it cannot allocate the code of a primitive; one that it does not have lacks a descriptor.
_NO_PRIMITIVE = re.compile("could not create a primitive(?! descriptor)")


@dataclass(frozen=True)
class MemoryReading:
    """Peak memory of a piece of work, in bytes.

    Attributes:
        peak_bytes: peak minus baseline: the most that the work itself held.
        baseline_bytes: in use before: the resident set on CPU, torch's allocated tensors on CUDA.
        method: ``hwm`` (kernel's high-water mark), ``sampled`` (a thread read it every millisecond: short peaks may be
            missed), or ``cuda-allocator``.
        reserved_bytes: on CUDA, the most torch's caching allocator held from the driver, baseline included.
        process_bytes: on CUDA, what the driver says this process holds afterwards, context and libraries included; None
            without pynvml, or where the driver does not show the process (in many containers).
    """

    peak_bytes: int
    baseline_bytes: int
    method: str
    reserved_bytes: int | None = None
    process_bytes: int | None = None

    @property
    def total_bytes(self) -> int:
        """Baseline and peak together: what must fit."""
        return self.baseline_bytes + self.peak_bytes

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as a JSON value."""
        return asdict(self)


def resident_bytes() -> int:
    """Return the memory of this process that is resident now."""
    return _status("VmRSS") or int(psutil.Process().memory_info().rss)


def peak_address_bytes() -> int | None:
    """Return the most address space this process ever had (``VmPeak``); None where the kernel does not say."""
    return _status("VmPeak") or None


def reset_peak(device: str | torch.device = "cpu") -> bool:
    """Forget the peak reached so far; garbage is collected and free heap returned first, so that neither hides growth.

    Returns:
        Whether `peak_bytes` is exact from here on; False where the kernel does not let the mark be reset.
    """
    gc.collect()
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        return True
    _trim_heap()
    try:
        _CLEAR_REFS.write_text("5")
    except OSError:
        return False
    return _status("VmHWM") is not None


def peak_bytes(device: str | torch.device = "cpu") -> int:
    """Return the most memory in use since `reset_peak`: the resident set's mark on CPU, allocated tensors on CUDA.

    On CPU without a mark this is the resident set now; `PeakMemory` samples in that case.
    """
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
        return int(torch.cuda.max_memory_allocated(device))
    return _status("VmHWM") or resident_bytes()


class PeakMemory:
    """Measure the peak memory of a block of code; the work must start in the block and have ended by its end.

    Example::

        with PeakMemory("cpu") as peak:
            model(bags)
        peak.reading.peak_bytes
    """

    reading: MemoryReading

    def __init__(self, device: str | torch.device = "cpu") -> None:
        self.device = torch.device(device)
        self._sampler: _Sampler | None = None

    def __enter__(self) -> PeakMemory:
        exact = reset_peak(self.device)
        if self.device.type == "cuda":
            self._baseline = int(torch.cuda.memory_allocated(self.device))
            return self
        if not exact:
            self._sampler = _Sampler()
            self._sampler.start()
        self._baseline = resident_bytes()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.device.type == "cuda":
            peak, method = peak_bytes(self.device), "cuda-allocator"
            self.reading = MemoryReading(
                max(0, peak - self._baseline), self._baseline, method,
                int(torch.cuda.max_memory_reserved(self.device)), process_bytes(self.device),
            )  # fmt: skip
            return
        peak, method = (peak_bytes(), "hwm") if self._sampler is None else (self._sampler.stop(), "sampled")
        self.reading = MemoryReading(max(0, peak - self._baseline), self._baseline, method)


def process_bytes(device: str | torch.device) -> int | None:
    """Return the device memory the NVIDIA driver counts for this process; None where NVML is not available."""
    try:
        import pynvml

        pynvml.nvmlInit()
        uuid = str(torch.cuda.get_device_properties(device).uuid)
        handle = pynvml.nvmlDeviceGetHandleByUUID(uuid if uuid.startswith("GPU-") else f"GPU-{uuid}")
        used = [p.usedGpuMemory for p in pynvml.nvmlDeviceGetComputeRunningProcesses(handle) if p.pid == os.getpid()]
    except Exception:  # no library, no driver, no permission: the reading says None
        return None
    return int(used[0]) if used and used[0] is not None else None


class _Sampler(threading.Thread):
    """Read the resident set until stopped and keep the largest value."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._process = psutil.Process()
        self._done = threading.Event()
        self._most = 0

    def run(self) -> None:
        while not self._done.is_set():
            self._look()
            self._done.wait(_SAMPLE_S)

    def stop(self) -> int:
        """End the thread and return the largest value seen, the present one included."""
        self._done.set()
        self.join()
        self._look()
        return self._most

    def _look(self) -> None:
        self._most = max(self._most, int(self._process.memory_info().rss))


def _status(field: str) -> int | None:
    """Return a field of /proc/self/status in bytes, or None where there is no such file or field."""
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":")), None)


def settle_heap() -> bool:
    """Put glibc's heap at the start where its own rules would leave it at the end, for a process that works on bags.

    glibc takes a block from the kernel, page by page and zeroed, when it is larger than a threshold that moves up to 32
    MiB as blocks are freed, and gives free memory at the end of the heap back from twice that. Until then every pass
    over a bag touches new pages at every buffer, at one call and not at the next. `PeakMemory` returns free heap before
    it reads, so what is kept is never taken for the work's.

    Returns:
        Whether there is such a heap.
    """
    try:
        library = ctypes.CDLL(None)
        return bool(library.mallopt(_MMAP_THRESHOLD, 32 * _MIB) and library.mallopt(_TRIM_THRESHOLD, 64 * _MIB))
    except (OSError, AttributeError, TypeError):  # not glibc: musl, macOS, Windows
        return False


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an exception is how torch, one of its libraries or the system says that memory ran out."""
    text = str(error).lower()
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError | OSError)
        and (any(words in text for words in _NO_MEMORY) or _NO_PRIMITIVE.search(text) is not None)
    )


def requested_bytes(error: BaseException) -> int | None:
    """Return the size of the allocation that failed, where the allocator's message states it."""
    match = re.search(r"tried to allocate ([0-9.]+) ?(bytes|[KMGT]iB)", str(error), flags=re.IGNORECASE)
    if match is None:
        return None
    power = {"bytes": 0, "kib": 1, "mib": 2, "gib": 3, "tib": 4}[match[2].lower()]
    return int(float(match[1]) * 1024**power)


def _trim_heap() -> None:
    """Return free heap to the kernel (glibc keeps tens of MiB), or the work would first fill that without a trace."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (OSError, AttributeError, TypeError):  # not glibc: musl, macOS, Windows
        return
