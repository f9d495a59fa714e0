"""Cutting a map into overlapping tiles of one size, and averaging them where they overlap.

The test-time local converter of "Improving Image Restoration by Revisiting Global Information Aggregation" (arXiv
2112.04491): a part that sums over whole maps saw only small ones in training, and sees maps of that size again.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ommatid.ops.windows import merge, partition


def tile_starts(length: int, tile: int) -> list[int]:
    """Where tiles of `tile` positions, at most `length`, begin on an axis: evenly, the last moved in to end with it."""
    count = (length - 1) // tile + 1
    step = tile if count == 1 else math.ceil((length - tile) / (count - 1) - 1e-8)
    return [*range(0, length - tile, step), length - tile]


def cut_tiles(features: Tensor, side: int) -> Tensor:
    """(B, H, W, C) -> (B * tiles, rows, columns, C), tiles of `side` positions along each axis, or of all there are."""
    rows, columns = (_positions(length, side).to(features.device) for length in features.shape[1:3])
    repeated = features.index_select(1, rows.flatten()).index_select(2, columns.flatten())
    window = (rows.shape[1], columns.shape[1])
    return partition(repeated, window).flatten(0, 1).unflatten(1, window)


def average_tiles(tiles: Tensor, size: tuple[int, int], side: int) -> Tensor:
    """Undoes `cut_tiles`: (B * tiles, rows, columns, C) -> (B, H, W, C), of `size` (H, W); means where they overlap."""
    rows, columns = (_positions(length, side).to(tiles.device) for length in size)
    count, window = len(rows) * len(columns), (rows.shape[1], columns.shape[1])
    repeated = merge(tiles.flatten(1, 2).unflatten(0, (-1, count)), window, (rows.numel(), columns.numel()))
    return _mean_along(2, _mean_along(1, repeated, rows.flatten(), size[0]), columns.flatten(), size[1])


def _positions(length: int, side: int) -> Tensor:
    """(tiles, side or length): the positions on an axis that every tile reads."""
    tile = min(length, side)
    return torch.tensor(tile_starts(length, tile))[:, None] + torch.arange(tile)


def _mean_along(axis: int, repeated: Tensor, positions: Tensor, length: int) -> Tensor:
    """Averages entries along `axis` that have the same position, of which there are `length`."""
    shape = list(repeated.shape)
    shape[axis] = length
    shares = positions.bincount(minlength=length).to(repeated.dtype).reciprocal()[positions]
    weighted = repeated * shares.view([-1 if other == axis else 1 for other in range(repeated.dim())])
    return repeated.new_zeros(shape).index_add(axis, positions, weighted)
