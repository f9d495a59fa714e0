"""Two versions of an operator against each other: time in turns, memory in processes of their own. Linux only."""

from __future__ import annotations

import multiprocessing
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

Call = Callable[[], None]


def alternating_milliseconds(calls: Mapping[str, Call], repeats: int) -> dict[str, float]:
    """Median time of each call, after a warm-up, the calls taking turns."""
    for call in calls.values():
        call()
    times: dict[str, list[float]] = {version: [] for version in calls}
    for _ in range(repeats):
        for version, call in calls.items():
            start = time.perf_counter()
            call()
            times[version].append(1e3 * (time.perf_counter() - start))
    return {version: statistics.median(measured) for version, measured in times.items()}


def memory_mebibytes(call: Call, warm_up: Call) -> float:
    """Rise of this process's peak resident set; meant to be called once, in a fresh process."""
    warm_up()
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak, VmHWM, to the present resident set
    before = _status_mebibytes("VmRSS")
    call()
    return _status_mebibytes("VmHWM") - before


def _status_mebibytes(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field + ":"))


def machine(threads: int) -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    return f"{model}, {multiprocessing.cpu_count()} cores, {threads} thread(s) used, torch {torch.__version__}"
