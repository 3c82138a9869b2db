"""The record of the machine that every result carries: its hardware and software, no host names, users or paths."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy
import psutil
import torch

#: Where the kernel states a container's memory limit: cgroup v2, then v1.
_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def environment() -> dict[str, Any]:
    """Return what this process runs on, as a JSON value.

    ``fingerprint`` is 8 hexadecimal digits of what makes timings comparable: CPU model, usable cores, instruction set,
    torch version, torch's threads, and the GPUs. Memory figures are bytes. Within one process the record changes only
    with torch's number of threads.
    """
    cpu = {
        "model": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "physical_cores": psutil.cpu_count(logical=False),
        "logical_cores": psutil.cpu_count(logical=True),
        "instruction_set": torch.backends.cpu.get_cpu_capability(),
    }
    memory = {"total_bytes": psutil.virtual_memory().total, "limit_bytes": memory_limit()}
    software = {
        "os": f"{platform.system()} {'.'.join(platform.release().split('.')[:2])}",  # not its build's name
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "milbench": version("milbench"),
        "commit": _commit(),
    }
    numerics = {
        "threads": torch.get_num_threads(),
        "interop_threads": torch.get_num_interop_threads(),
        "mkl": torch.backends.mkl.is_available(),
        "mkldnn": torch.backends.mkldnn.is_available(),
        "openmp": torch.backends.openmp.is_available(),
        "matmul_precision": torch.get_float32_matmul_precision(),
    }
    record = {"cpu": cpu, "memory": memory, "gpus": _gpus(), "software": software, "numerics": numerics}
    return {"fingerprint": fingerprint(record), **record}


def this_machine() -> dict[str, Any]:
    """The machine, for what left no record of its own; without what says that timings are comparable."""
    return {key: value for key, value in environment().items() if key != "fingerprint"}


def now() -> str:
    """Return the time in UTC, ISO 8601, to the millisecond: the order of two short runs must be clear."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def fingerprint(record: dict[str, Any]) -> str:
    """Return 8 hexadecimal digits of the parts of an environment record that make timings comparable."""
    cpu, gpus = record["cpu"], [{k: g[k] for k in ("name", "memory_bytes")} for g in record["gpus"]]
    parts = [cpu["model"], cpu["cores"], cpu["instruction_set"], record["software"]["torch"],
             record["numerics"]["threads"], gpus]  # fmt: skip
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:8]


def memory_limit() -> int | None:
    """Return the memory limit of this process's control group in bytes, or None when there is none."""
    for path in _CGROUP_LIMITS:
        try:
            limit = int(Path(path).read_text())
        except (OSError, ValueError):  # no such file, or the word "max"
            continue
        # cgroup v1 spells "no limit" as a number larger than any memory.
        return limit if limit < psutil.virtual_memory().total else None
    return None


@cache
def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    fields = dict(reversed([[part.strip() for part in line.split(":", 1)] for line in lines if ":" in line]))
    name = fields.get("model name") or fields.get("CPU implementer") or platform.machine()
    # Virtual machines often hide the product's name; family, model and stepping still distinguish processors.
    numbers = [fields.get(key) for key in ("cpu family", "model", "stepping")]
    return f"{name} ({'-'.join(n for n in numbers if n)})" if all(numbers) else name


@cache
def _commit() -> str | None:
    """Return the commit milbench's source stands at, ``-dirty`` with uncommitted changes; None when it is installed."""
    home = Path(__file__).parent.parent
    methods = ["../baselines"] if (home.parent / "baselines").is_dir() else []

    def git(*words: str) -> str:
        run = subprocess.run(["git", *words], cwd=home, capture_output=True, text=True, timeout=10, check=True)
        return run.stdout.strip()

    try:
        git(
            "ls-files", "--error-unmatch", "__init__.py"
        )  # else a site-packages inside somebody's repository would answer
        # The methods' package lies next to this one in a checkout.
        return git("rev-parse", "HEAD") + ("-dirty" if git("status", "--porcelain", "--", ".", *methods) else "")
    except (OSError, subprocess.SubprocessError):
        return None


@cache
def source_digest() -> str:
    """Return 16 hexadecimal digits of the source of milbench and its methods, committed or not."""
    home = Path(__file__).parent.parent
    digest = hashlib.sha256()
    for path in sorted([*home.rglob("*.py"), *(home.parent / "baselines").glob("*.py")]):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def _gpus() -> list[dict[str, Any]]:
    if not torch.cuda.is_available():
        return []
    driver = _driver_version()
    return [
        {
            "name": properties.name,
            "memory_bytes": properties.total_memory,
            "capability": f"{properties.major}.{properties.minor}",
            "driver": driver,
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
        }
        for properties in map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
    ]


@cache
def _driver_version() -> str | None:
    try:
        import pynvml

        pynvml.nvmlInit()
        driver = pynvml.nvmlSystemGetDriverVersion()
    except Exception:  # the library, the driver or the permission is missing: the record says None
        return None
    return driver if isinstance(driver, str) else driver.decode()
