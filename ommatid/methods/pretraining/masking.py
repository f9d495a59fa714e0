"""Which patches of an image are hidden, and what stands in their place."""

from __future__ import annotations

import math
import random

import torch
from torch import Tensor

from ommatid.models.config import require

TRIES = 10
SHAPES = (0.3, 1 / 0.3)
"""Height over width of the rectangles of `block_mask`."""


def lowest(noise: Tensor, count: int) -> Tensor:
    """Noise (B, N) -> booleans (B, N), True for the `count` lowest of each row; of equals, for the first ones."""
    chosen = noise.argsort(dim=1, stable=True)[:, :count]
    return torch.zeros_like(noise, dtype=torch.bool).scatter_(1, chosen, True)


def replaced(patches: Tensor, hidden: Tensor, token: Tensor) -> Tensor:
    """Patches (..., C) with the token, broadcastable to them, wherever `hidden` (...) is True."""
    return torch.where(hidden.unsqueeze(-1), token.to(patches.dtype), patches)


def repeated(cells: Tensor, factor: int) -> Tensor:
    """(B, h, w) -> (B, factor h, factor w): every cell as a square of so many a side."""
    return cells.repeat_interleave(factor, 1).repeat_interleave(factor, 2)


def block_mask(
    grid: tuple[int, int],
    count: int,
    *,
    minimum: int = 16,
    maximum: int | None = None,
    generator: random.Random | None = None,
) -> Tensor:
    """Hides about `count` patches under rectangles: booleans (rows, columns). From BEiT (arXiv 2106.08254).

    Ends early, with fewer, when no rectangle of several tries hides anything more without hiding too much.

    Args:
        grid: rows and columns.
        count: how many patches to hide.
        minimum: patches of the smallest rectangle.
        maximum: patches that one rectangle may hide; all that are left where None.
        generator: of the random numbers.

    Raises:
        ValueError: a count that the grid does not have.
    """
    require(0 <= count <= grid[0] * grid[1], "count", count, f"from 0 to {grid[0] * grid[1]}, all patches")
    hidden, draw = torch.zeros(grid, dtype=torch.bool), generator or random.Random()
    left = count
    while left > 0:
        budget = min(left, maximum or left)
        for _ in range(TRIES):
            rectangle = _drawn(grid, minimum, budget, draw)
            new = 0 if rectangle is None else int((~hidden[rectangle]).sum())
            if rectangle is not None and 0 < new <= budget:
                hidden[rectangle] = True
                left -= new
                break
        else:
            return hidden
    return hidden


def _drawn(grid: tuple[int, int], minimum: int, maximum: int, draw: random.Random) -> tuple[slice, slice] | None:
    """A random rectangle, as slices of rows and columns; None where it does not fit."""
    area = draw.uniform(minimum, maximum)
    shape = math.exp(draw.uniform(*(math.log(ratio) for ratio in SHAPES)))
    rows, columns = round(math.sqrt(area * shape)), round(math.sqrt(area / shape))
    if rows >= grid[0] or columns >= grid[1]:
        return None
    top, left = draw.randint(0, grid[0] - rows), draw.randint(0, grid[1] - columns)
    return slice(top, top + rows), slice(left, left + columns)
