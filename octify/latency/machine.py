"""Facts of the machine that times were measured on."""

from __future__ import annotations

import contextlib
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

# What the kernels of runtimes choose by, in the names that Linux gives them.
_SETS = (
    *("sse4_2", "avx", "avx2", "fma", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8"),
    *("amx_bf16", "asimd", "asimddp", "i8mm", "bf16", "sve"),
)
_RUNTIMES = ("torch", "onnxruntime", "openvino", "ncnn")


def processor() -> str:
    """Name of the processor."""
    for line in _cpuinfo():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def instruction_sets() -> tuple[str, ...]:
    """Vector instruction sets that runtimes choose kernels by; none if the system hides them."""
    for line in _cpuinfo():
        if line.startswith(("flags", "Features")):
            names = set(line.partition(":")[2].split())
            return tuple(name for name in _SETS if name in names)
    return ()


def machine() -> str:
    """Name of the processor, and the instruction set that PyTorch's kernels use."""
    return f"{processor()}, {torch.backends.cpu.get_cpu_capability()}"


def versions() -> dict[str, str]:
    """Versions of the runtimes that are installed."""
    installed = {}
    for package in _RUNTIMES:
        with contextlib.suppress(PackageNotFoundError):
            installed[package] = version(package)
    return installed


def facts(threads: int) -> dict[str, Any]:
    """Facts by which a reader can tell whether times would be the same elsewhere, as JSON."""
    return {
        "processor": processor(),
        "instruction_sets": list(instruction_sets()),
        "cores": os.cpu_count(),
        "usable_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "threads": threads,
        "runtimes": versions(),
    }


def _cpuinfo() -> list[str]:
    with contextlib.suppress(OSError):
        return Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return []
