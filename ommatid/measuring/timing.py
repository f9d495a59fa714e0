"""Timing calls fairly: warm up, wait for the device, stop at a time budget, alternate what is compared."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch

Call = Callable[[], object]
Clock = Callable[[], float]

WARM_UP = 2
MINIMUM_ROUNDS = 3


class Quartiles(NamedTuple):
    """Median, lower and upper quartile."""

    median: float
    p25: float
    p75: float


def quartiles(values: list[float]) -> Quartiles:
    p25, median, p75 = np.percentile(values, [25, 50, 75])
    return Quartiles(float(median), float(p25), float(p75))


def repeat(call: Call, device: torch.device, *, rounds: int, seconds: float) -> list[float]:
    """Seconds that each of at most `rounds` calls took, after a warm-up; stops early once `seconds` have gone by."""
    return [taken for (taken,) in alternate([call], device, rounds=rounds, seconds=seconds)]


def alternate(
    calls: list[Call], device: torch.device, *, rounds: int, seconds: float, clock: Clock = time.perf_counter
) -> list[tuple[float, ...]]:
    """Times the calls in turn, A B A B ..., so that whatever else the machine does falls on all of them alike.

    Args:
        calls: what to time.
        device: where they work.
        rounds, seconds: limits, as under Returns.
        clock: in seconds. `time.process_time` counts the processor's work for this process alone, which is fairer than
            the time that passes where other programs want the same cores; it adds up over threads.

    Returns:
        Seconds of each call, for every round: at least MINIMUM_ROUNDS, at most `rounds`, none begun after `seconds`.
    """
    for call in calls:
        for _ in range(WARM_UP):
            call()
    times: list[tuple[float, ...]] = []
    end = time.perf_counter() + seconds
    while len(times) < MINIMUM_ROUNDS or (len(times) < rounds and time.perf_counter() < end):
        times.append(tuple(duration(call, device, clock) for call in calls))
    return times


def duration(call: Call, device: torch.device, clock: Clock) -> float:
    """Seconds from the call until the device has finished its work."""
    synchronize(device)
    start = clock()
    call()
    synchronize(device)
    return clock() - start


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


@contextmanager
def thread_count(threads: int | None) -> Iterator[None]:
    """Lets PyTorch use `threads` threads in one operation; its own choice where None. Puts the old number back."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
