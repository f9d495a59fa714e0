"""What models cost in PyTorch, deployed, one timed in turn with another."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ommatid.measuring.macs import count_macs
from ommatid.measuring.measure import forward_memory
from ommatid.measuring.timing import Clock, alternate, quartiles
from ommatid.methods.pruning.registry import nonzero, stored_bytes

TIMED = "PyTorch, deployed, in turn with the original"
"""How, in words for the page."""

ROUNDS, SECONDS = 30, 2.0
"""Timed calls of the original and of the smaller model in turn, at most, and none begun after so long."""


@dataclass(frozen=True)
class Costs:
    """image: (B, 3, H, W), what is timed; multiply-adds are those of one of them."""

    original: nn.Module
    image: Tensor

    def row(self, model: nn.Module) -> dict[str, Any]:
        """All that a page says of a model."""
        times = self._times(model, self.original)
        return {
            "latency_ms": 1e3 * quartiles([mine for mine, _ in times]).median,
            "latency_ratio": quartiles([mine / theirs for mine, theirs in times]).median,
            "memory_mb": self._memory(model) / 2**20,
            "parameters": nonzero(model),
            "macs": self.macs(model),
        }

    def against(self, model: nn.Module, cost: str) -> Callable[[nn.Module], float]:
        """How much of this model's cost another has."""
        if cost == "latency":
            return lambda other: quartiles([mine / theirs for mine, theirs in self._times(other, model)]).median
        counts: Mapping[str, Callable[[nn.Module], float]] = {
            "memory": self._memory,
            "size": stored_bytes,
            "parameters": nonzero,
            "macs": self.macs,
        }
        whole = counts[cost](model)
        return lambda other: counts[cost](other) / whole

    def macs(self, model: nn.Module) -> int:
        return count_macs(model, self.image[:1])

    def _memory(self, model: nn.Module) -> int:
        with torch.inference_mode():
            return forward_memory(model, self.image)

    def _times(self, other: nn.Module, model: nn.Module) -> list[tuple[float, ...]]:
        one, two = (part.eval().deploy() for part in (other, model))  # type: ignore[operator]
        calls = [lambda: one(self.image), lambda: two(self.image)]
        with torch.inference_mode():
            return alternate(calls, torch.device("cpu"), rounds=ROUNDS, seconds=SECONDS, clock=fair_clock())


def fair_clock() -> Clock:
    """Of one thread the processor's own time, which other programs leave alone; of several the time that passes."""
    return time.process_time if torch.get_num_threads() == 1 else time.perf_counter
