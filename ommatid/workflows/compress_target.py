"""What a compression is to reach, as people write it, and which of its settings does."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

COSTS = ("latency", "memory", "size", "parameters", "macs")


@dataclass(frozen=True)
class Target:
    """`cost` below `factor` times the original's."""

    cost: str
    factor: float

    def __str__(self) -> str:
        return f"{self.cost}<{self.factor:g}x"


def parse_target(text: str) -> Target:
    """Raises ValueError for what is not COST<FACTORx."""
    match = re.fullmatch(r"\s*(\w+)\s*<=?\s*([\d.]+)\s*x\s*", text)
    if match is None or match[1] not in COSTS or not 0 < float(match[2]) < 1:
        raise ValueError(f"target = {text!r} is not possible: allowed is COST<FACTORx, with {', '.join(COSTS)}, as in "
                         "latency<0.5x")  # fmt: skip
    return Target(match[1], float(match[2]))


def cost_ratio(row: Mapping[str, Any], original: Mapping[str, Any], cost: str) -> float:
    """A setting's cost, as a fraction of the original's. Latencies were measured in turn with it."""
    if cost == "latency":
        return float(row["latency_ratio"])
    key = {"memory": "memory_mb", "size": "size_mb"}.get(cost, cost)
    return float(row[key] / original[key])


def advise(
    best: Mapping[str, Any] | None,
    original: Mapping[str, Any],
    target: Target,
    tolerance: float,
    settings: Sequence[Mapping[str, Any]],
) -> str:
    """Which setting to take, in words. best: the cheapest within the tolerance, if any is."""
    points = f"{100 * tolerance:g} point{'s' if tolerance != 0.01 else ''}"
    if best is None:
        nearest = max(settings, key=lambda row: row["accuracy"])
        lost = 100 * (original["accuracy"] - nearest["accuracy"])
        return (
            f"No setting is within {points} of the original's {original['accuracy']:.2%}: {nearest['setting']} comes "
            f"nearest, {lost:.2f} points below. More epochs of fine-tuning, or a milder target, may do."
        )
    ratio = cost_ratio(best, original, target.cost)
    gained = 100 * (best["accuracy"] - original["accuracy"])
    met = "" if ratio <= target.factor * 1.05 else f" The target, {target}, was not met within {points}."
    return (
        f"Take {best['setting']}: {ratio:.2f} times the original's {target.cost}, {best['accuracy']:.2%} right "
        f"({gained:+.2f} points).{met}"
    )
