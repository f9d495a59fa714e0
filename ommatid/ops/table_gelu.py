"""GELU from a table of 177 numbers, for hardware that has no error function."""

from __future__ import annotations

import math
from functools import cache

import torch
from torch import Tensor

PER_UNIT, LAST = 32, 176
STEP = 2.0**-22


def table_gelu(x: Tensor) -> Tensor:
    """GELU to within 1e-4: relu(x) less an even function of x, interpolated in a table. Edge-MoE (arXiv 2305.18691).

    From |x| = 5.5 on it is relu(x).
    """
    table = torch.tensor(difference_table(), dtype=x.dtype, device=x.device)
    place = PER_UNIT * x.abs()
    below = place.detach().floor().clamp(max=LAST - 1).long()
    low = table[below]
    difference = low + (place - below) * (table[below + 1] - low)
    return x.relu() - difference.where(place < LAST, 0.0)


@cache
def difference_table() -> tuple[float, ...]:
    """t (1 - Phi(t)), Phi the normal distribution, at t = 0, 1/32, ..., 5.5, rounded to multiples of 2^-22."""
    points = [index / PER_UNIT for index in range(LAST + 1)]
    return tuple(round(t * math.erfc(t / math.sqrt(2)) / 2 / STEP) * STEP for t in points)
