"""How importance gives way to the mask, and how more and more patches are hidden (Once for Both, arXiv 2403.15835)."""

from __future__ import annotations

from collections.abc import Iterable

FIRST_IMPORTANCE, LAST_IMPORTANCE = 0.99, 0.1


def warmed(epochs: Iterable[float], warmup: float, first: float, last: float, initial: float) -> list[float]:
    """A line from `first` to `last` over the warm-up; after it, what was reached last. `initial` is before any."""
    values, value = [], initial
    for epoch in epochs:
        if warmup and epoch <= warmup:
            value = first + (last - first) * epoch / warmup
        values.append(value)
    return values
