"""What this machine is: the facts that every measured number must be read with."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import torch
import torchvision

INSTRUCTION_SETS = {
    "avx2": ("avx2",),
    "avx512": ("avx512f",),
    "vnni": ("avx512_vnni", "avx_vnni"),
    "bf16": ("avx512_bf16", "amx_bf16", "bf16"),
    "amx": ("amx_tile",),
    "neon": ("neon", "asimd"),
    "sve": ("sve",),
}
"""Our name -> the processor flags, as Linux names them, any of which means it is there."""


def describe_machine() -> dict[str, str | int | float]:
    """Processor, cores, memory, GPU and versions, as flat readable facts.

    `cores` are those this process may use, `threads` those PyTorch uses in one operation, `memory_gb` is in
    units of 2^30 bytes. What can't be found out is left out.
    """
    facts: dict[str, str | int | float | None] = {
        "processor": processor_name(),
        "cores": available_cores(),
        "threads": torch.get_num_threads(),
        "instruction_sets": ", ".join(instruction_sets()) or None,
        "memory_gb": memory_gb(),
        "gpu": gpu_name(),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
    }
    return {name: value for name, value in facts.items() if value is not None}


def processor_name() -> str:
    """The name on the box where the system knows it, otherwise the architecture."""
    name = _cpuinfo().get("model name") or _sysctl("machdep.cpu.brand_string") or platform.processor()
    return name or platform.machine()


def available_cores() -> int:
    """Cores that this process may run on: fewer than the machine's in a container or under a scheduler."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def instruction_sets() -> list[str]:
    """Those of INSTRUCTION_SETS that this processor has."""
    info = _cpuinfo()
    flags = set((info.get("flags") or info.get("Features") or "").split())
    if sys.platform == "darwin" and platform.machine() == "arm64":
        flags = {"neon"}
    return [name for name, any_of in INSTRUCTION_SETS.items() if flags.intersection(any_of)]


def memory_gb() -> float | None:
    """Physical memory in units of 2^30 bytes."""
    names = getattr(os, "sysconf_names", {})
    if "SC_PHYS_PAGES" not in names or "SC_PAGE_SIZE" not in names:
        return None
    return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1)


def gpu_name() -> str | None:
    if torch.cuda.is_available():
        count, name = torch.cuda.device_count(), torch.cuda.get_device_name()
        return name if count == 1 else f"{count} x {name}"
    return "Apple GPU (mps)" if torch.backends.mps.is_available() else None


def _cpuinfo() -> dict[str, str]:
    """The first processor of Linux's table; empty elsewhere."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().split("\n\n")[0].splitlines() if path.exists() else []
    pairs = (line.partition(":") for line in lines)
    return {name.strip(): value.strip() for name, _, value in pairs}


def _sysctl(name: str) -> str | None:
    if sys.platform != "darwin":
        return None
    answer = subprocess.run(["sysctl", "-n", name], capture_output=True, text=True, check=False)
    return answer.stdout.strip() or None
